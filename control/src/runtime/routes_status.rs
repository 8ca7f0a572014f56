//! The routes to the VIPs, as operators see them.

use crate::bgp::Announcement;
use crate::cluster::node::{MemberView, State, View};
use crate::routes::RoutesView;
use crate::speaker::SpeakerPeerView;
use crate::status::{BfdStatus, BgpPeerStatus, RoutesState, RoutesStatus};

/// The status of `routes`, of the node with this `view`.
pub(super) fn of(routes: &RoutesView, view: &View, now_ns: u64) -> RoutesStatus {
    let state = match routes.stage.announcement() {
        Announcement::Announced => RoutesState::Announced,
        Announcement::Marked => RoutesState::Marked,
        Announcement::Nothing => RoutesState::Withdrawn,
    };
    RoutesStatus {
        by: routes.by.to_owned(),
        state,
        reason: (state != RoutesState::Announced).then(|| reason(view).to_owned()),
        peers: routes.peers.iter().map(|view| peer(view, now_ns)).collect(),
    }
}

/// Why a node announces nothing, or nothing for long.
fn reason(view: &View) -> &'static str {
    let is_own = |member: &&MemberView| member.slot == view.slot;
    let willing = view.members.iter().find(is_own).map(|member| member.willing);
    match (view.state, willing) {
        (_, None) => "the node is no member any more",
        (State::Listen, _) => "the node has just started",
        (State::Fenced, _) => "the node may be cut off from the others",
        (State::Draining, Some(true)) => "the node is drained",
        (State::Draining | State::Active, Some(false)) => "the service is not well",
        (State::Active, Some(true)) => "the node is about to announce them",
    }
}

fn peer(view: &SpeakerPeerView, now_ns: u64) -> BgpPeerStatus {
    let ms = |since_ns: u64| now_ns.saturating_sub(since_ns) / 1_000_000;
    let bgp = &view.bgp;
    let waits = bgp.waits_for_bfd.then(|| "waits for BFD".to_owned());
    let failed = view.connect_failure.as_ref().map(ToString::to_string);
    // What lasts, before what was.
    let (last_error, last_error_ms) = match (waits.or(failed), &bgp.last_error) {
        (Some(lasting), _) => (Some(lasting), None),
        (None, Some(error)) => {
            let whose = if error.theirs { "received" } else { "sent" };
            (Some(format!("{whose} {}", error.notification)), Some(ms(error.at_ns)))
        }
        (None, None) => (None, None),
    };
    BgpPeerStatus {
        name: view.name.clone(),
        remote: view.remote.map(|remote| remote.to_string()),
        remote_as: bgp.remote_as,
        state: bgp.state.name().to_owned(),
        since_ms: ms(bgp.since_ns),
        announced_v4: bgp.announced_v4 as u64,
        announced_v6: bgp.announced_v6 as u64,
        hold_s: bgp.hold_s,
        established: bgp.counters.established,
        dropped: bgp.counters.dropped,
        updates_in: bgp.counters.updates_in,
        last_error,
        last_error_ms,
        bfd: view.bfd.as_ref().map(|bfd| BfdStatus {
            state: bfd.session.state.to_string(),
            since_ms: ms(bfd.session.since_ns),
            diagnostic: bfd.session.diagnostic.to_string(),
            detection_ms: bfd.session.detection_ns / 1_000_000,
            rejected: bfd.rejected,
        }),
    }
}
