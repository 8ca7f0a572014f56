//! What a node is up to: listening, holding back, draining, fenced; and what makes it so.

use std::net::IpAddr;
use std::sync::Arc;

use vipdp_core::slot::Slot;
use vipdp_core::wire::ethernet::MacAddr;

use super::{Alarm, Node, Output};
use crate::cluster::config::{AllDown, ClusterConfig, Partition};
use crate::cluster::wire::NodeFlags;

/// Into how many steps a ramp is cut: each moves buckets once.
const RAMP_STEPS: u64 = 16;
/// A VIP is defended at most once in ten seconds (RFC 5227, section 1.1: DEFEND_INTERVAL).
const DEFEND_INTERVAL_NS: u64 = 10_000_000_000;

/// How many nodes there are, and how many of them have a service that is unwell.
#[derive(Clone, Copy, Default)]
struct Count {
    all: usize,
    unwell: usize,
}

impl Node {
    /// A loop that was late doubts itself before it doubts others: their deadlines move by its
    /// lateness. If the lease has run out meanwhile, others may have taken over.
    pub(super) fn doubt_if_late(&mut self, out: &mut Vec<Output>) {
        let late = self.now.saturating_sub(self.deadline);
        if late <= self.timing.heartbeat_ns {
            return;
        }
        // The next step is measured from here.
        self.deadline = self.now;
        for slot in self.others() {
            let now = self.now;
            let peer = self.peer_mut(slot);
            if peer.alive {
                peer.known_at = (peer.known_at + late).min(now);
                peer.heard_at = (peer.heard_at + late).min(now);
            }
        }
        if self.seq == 0 {
            // Nothing was told to anybody yet: the start was slow.
            self.listen();
        } else if late > self.detection_ns() - self.timing.heartbeat_ns {
            out.push(Output::Alarm(Alarm::Late { late_ns: late }));
            self.release_all(out);
            self.listen();
        }
    }

    /// Owns nothing until it is known who owns what.
    fn listen(&mut self) {
        let window = self.detection_ns() + self.timing.heartbeat_ns;
        self.listen_until = Some(self.now + window);
        self.cold_until = self.now + 2 * window;
        for slot in self.others() {
            self.peer_mut(slot).claims_heard = false;
        }
        self.beat_now = true;
        self.unsettled = true;
    }

    /// Stops listening once all members are heard, hear this node and have told their claims, or
    /// when the time is over.
    pub(super) fn end_listening(&mut self, ticks: bool) {
        let Some(until) = self.listen_until else { return };
        let all = self.config.present().iter().filter(|&slot| slot != self.me);
        let known = |slot| self.mutual(slot) && self.peer(slot).claims_heard;
        if ticks && self.now >= until || all.into_iter().all(known) && self.session_is_known() {
            self.listen_until = None;
            // Nobody votes for one that only listens.
            self.fenced |= self.votes();
            self.hold_if_anybody_claims();
            self.beat_now = true;
            self.unsettled = true;
        }
    }

    /// Whether anybody else exists: a lone node listens to the end, for others may be late.
    fn session_is_known(&self) -> bool {
        self.others().any(|slot| self.peer(slot).knew_me)
    }

    /// Keeps the share at 0 for the hold, if there is anybody to leave the buckets with.
    fn hold_if_anybody_claims(&mut self) {
        self.update_claimed();
        if self.anybody_claims() {
            self.hold_until = Some(self.now + self.timing.hold_ns);
        }
    }

    /// Whether the service is well. One that has come back waits for the hold before it takes its
    /// buckets. Where nobody is well and all serve, it has not lost them: it waits with telling until
    /// all have come back, but no longer than for the hold. So they do it together, and nothing moves
    /// between them; and a cluster that has just started, whose checks have all passed once, knows
    /// again who is not well.
    pub(super) fn set_well(&mut self, well: bool) {
        if !well {
            self.recovered_until = None;
            self.tell_willing(false);
        } else if !self.willing && self.recovered_until.is_none() {
            let until = self.now + self.timing.hold_ns;
            if self.all_down {
                self.recovered_until = Some(until);
                self.beat_now = true;
                self.unsettled = true;
            } else {
                self.hold_until = Some(until);
                self.tell_willing(true);
            }
        }
    }

    fn tell_willing(&mut self, willing: bool) {
        self.beat_now |= willing != self.willing;
        self.unsettled |= willing != self.willing;
        self.willing = willing;
    }

    /// Finds out whether nobody is well, of those that are alive and may serve. Those that are to be
    /// emptied do not count, unless there is nobody else.
    pub(super) fn update_all_down(&mut self, ticks: bool) {
        self.tell_of_recovery(ticks);
        let of_others = self.others().map(|slot| self.peer(slot));
        let of_others = of_others.filter(|peer| peer.alive).map(|peer| peer.flags);
        let all = of_others.chain([self.own_flags()]).filter(|flags| flags.may_own());
        let (mut drained, mut rest) = (Count::default(), Count::default());
        for flags in all {
            let is_drained = flags.contains(NodeFlags::DRAINING);
            let count = if is_drained { &mut drained } else { &mut rest };
            count.all += 1;
            count.unwell += usize::from(flags.contains(NodeFlags::UNWILLING));
        }
        let counted = if rest.all > 0 { rest } else { drained };
        let is_down = counted.all > 0 && counted.unwell == counted.all;
        self.all_down = is_down && self.config.all_down() == AllDown::Serve;
    }

    /// Tells that this node is well again when it has waited long enough, or as soon as somebody else
    /// is, or where there is nobody to wait for: all others have come back, too.
    fn tell_of_recovery(&mut self, ticks: bool) {
        let Some(until) = self.recovered_until else { return };
        let others = self.others().map(|slot| self.peer(slot)).filter(|peer| peer.alive);
        let mut counting = others
            .filter(|peer| peer.may_own() && !peer.flags.contains(NodeFlags::DRAINING))
            .map(|peer| peer.flags);
        let is_well = |flags: NodeFlags| !flags.contains(NodeFlags::UNWILLING);
        let is_back = |flags: NodeFlags| is_well(flags) || flags.contains(NodeFlags::RECOVERED);
        let somebody_is_well = counting.clone().any(is_well);
        if somebody_is_well || counting.all(is_back) || ticks && self.now >= until {
            self.recovered_until = None;
            self.tell_willing(true);
        }
    }

    /// Whether this node may serve: it is well, or nobody is.
    pub(super) fn is_willing(&self) -> bool {
        self.willing || self.all_down
    }

    /// Whether the operator wants this node emptied. It moves a bucket away and back at most once
    /// per hold.
    pub(super) fn set_draining(&mut self, draining: bool) {
        if draining && !self.draining {
            self.drained_at = self.now;
        }
        if !draining && self.draining {
            let earliest = self.drained_at + self.timing.hold_ns;
            self.hold_until = self.hold_until.max(Some(earliest));
        }
        self.beat_now |= draining != self.draining;
        self.unsettled |= draining != self.draining;
        self.draining = draining;
    }

    /// Whether the router is reached.
    pub(super) fn set_gateway(&mut self, reached: bool) {
        self.beat_now |= reached != self.gateway;
        self.unsettled |= reached != self.gateway;
        self.gateway = reached;
    }

    /// Whether the NIC has a link.
    pub(super) fn set_link(&mut self, up: bool) {
        self.beat_now |= up != self.link;
        self.unsettled |= up != self.link;
        self.link = up;
    }

    /// Its state, as it tells it to others.
    pub(super) fn own_flags(&self) -> NodeFlags {
        NodeFlags::default()
            .with(NodeFlags::LISTEN, self.listen_until.is_some())
            .with(NodeFlags::FENCED, self.fenced || self.superseded.is_some())
            .with(NodeFlags::DRAINING, self.draining)
            .with(NodeFlags::UNWILLING, !self.willing)
            .with(NodeFlags::RECOVERED, self.recovered_until.is_some())
            .with(NodeFlags::GATEWAY, self.gateway)
            .with(NodeFlags::CANDIDATE, !self.cohorts.is_empty())
    }

    /// Works out what part of its buckets this node takes.
    pub(super) fn update_share(&mut self, ticks: bool) {
        let suppressed = self.others().any(|slot| {
            let peer = self.peer(slot);
            peer.alive && peer.suppresses_me
        });
        let removed = self.is_to_be_removed();
        let none = self.draining || !self.is_willing() || suppressed || removed || !self.serves();
        let share = if none { 0 } else { self.share_of_hold() };
        // Only a tick may find that time has passed.
        if share != self.share && (ticks || share == 0) {
            self.share = share;
            self.beat_now = true;
        }
    }

    /// Whether this node is no member any more of the configuration that is staged.
    pub(super) fn is_to_be_removed(&self) -> bool {
        self.staged.as_ref().is_some_and(|staged| !staged.present().contains(self.me))
    }

    /// What part the hold and the ramp allow.
    fn share_of_hold(&self) -> u8 {
        let Some(until) = self.hold_until else { return u8::MAX };
        let (Some(past), ramp) = (self.now.checked_sub(until), self.timing.ramp_ns) else {
            return 0;
        };
        if past >= ramp {
            return u8::MAX;
        }
        let step = past / ramp.div_ceil(RAMP_STEPS) + 1;
        (u64::from(u8::MAX) * step / RAMP_STEPS).min(255) as u8
    }

    /// Fences this node if it may be cut off: the others may serve what it has.
    pub(super) fn fence_if_cut_off(&mut self, ticks: bool, out: &mut Vec<Output>) {
        if self.listen_until.is_some() || self.superseded.is_some() {
            return;
        }
        let may_be_cut_off = match self.config.partition() {
            Partition::None => false,
            Partition::Majority => self.fenced && !(ticks && self.majority_knows_me()),
            Partition::Gateway => !self.gateway || self.reported_dead(),
        };
        let fenced = !self.link || may_be_cut_off;
        self.set_fenced(fenced, out);
    }

    /// Fences this node, or lets it serve again.
    pub(super) fn set_fenced(&mut self, fenced: bool, out: &mut Vec<Output>) {
        if fenced == self.fenced {
            return;
        }
        self.fenced = fenced;
        self.beat_now = true;
        self.unsettled = true;
        if fenced != self.fence_told {
            self.fence_told = fenced;
            out.push(Output::Alarm(Alarm::Fenced(fenced)));
        }
        if fenced {
            self.release_all(out);
        } else if self.config.partition() != Partition::Majority && self.misses_anybody() {
            // The link was there, or the router heard, before the members were: they have served all this while.
            self.listen();
        } else {
            // What one that was cut off did not hear may be claimed all the same.
            self.unclaimed_since.fill(self.now);
            self.hold_if_anybody_claims();
        }
    }

    /// Whether there is a member that this node does not hear, or that does not hear it.
    fn misses_anybody(&self) -> bool {
        let members = self.config.present();
        self.others().any(|slot| members.contains(slot) && !self.mutual(slot))
    }

    /// Whether a node that reaches the router and that this one hears says that this one is dead.
    fn reported_dead(&self) -> bool {
        self.others().any(|slot| {
            let peer = self.peer(slot);
            peer.flags.contains(NodeFlags::GATEWAY) && self.takes_me_for_dead(slot)
        })
    }

    /// Another session of this slot is in the cluster: this one is out of it.
    pub(super) fn give_way(&mut self, out: &mut Vec<Output>) {
        if self.superseded.is_none() {
            self.superseded = Some(self.now);
            self.release_all(out);
            out.push(Output::Alarm(Alarm::Superseded));
        }
    }

    /// Starts anew, under another session, once whoever had this node's place is silent: it may
    /// have been a message of an earlier start of this node that was long under way.
    pub(super) fn return_if_alone(&mut self) {
        let Some(since) = self.superseded else { return };
        let heard_at = self.duplicate.map_or(since, |other| other.heard_at.max(since));
        if self.now < heard_at + self.timing.hold_ns {
            return;
        }
        self.superseded = None;
        // Another one, and not 0.
        let drawn = self.jitter.word();
        self.session = if drawn == self.session { !drawn | 1 } else { drawn };
        self.seq = 0;
        for slot in self.others() {
            self.peer_mut(slot).be_met_anew();
        }
        self.listen();
    }

    /// A newer configuration was read.
    pub(super) fn stage(&mut self, config: Arc<ClusterConfig>) {
        let newest = self.staged.as_ref().map_or(self.config.id(), |staged| staged.id());
        if config.id() > newest && config.cluster() == self.config.cluster() {
            self.staged = Some(config);
            self.update_roster();
            self.beat_now = true;
            self.unsettled = true;
        }
    }

    /// Activates the staged configuration once all live nodes have it staged, and those that it
    /// removes have handed over what they have; or once any runs it.
    pub(super) fn activate_if_agreed(&mut self, out: &mut Vec<Output>) {
        let Some(staged) = &self.staged else { return };
        let (id, present) = (staged.id(), staged.present());
        let ready = |slot: Slot| {
            let peer = self.peer(slot);
            peer.staged == id.generation && (present.contains(slot) || peer.claims.is_empty())
        };
        let mut live = self.others().filter(|&slot| self.peer(slot).alive);
        let runs = live.clone().any(|slot| self.peer(slot).config >= id);
        if !runs && !(live.all(ready) && (present.contains(self.me) || !self.holds_any())) {
            return;
        }
        self.config = Arc::clone(staged);
        self.staged = None;
        self.timing = self.config.timing();
        for slot in self.others().filter(|&slot| !present.contains(slot)) {
            self.bury(slot, out);
        }
        self.update_roster();
        if !self.serves() {
            self.release_all(out);
        }
        self.beat_now = true;
        self.unsettled = true;
        out.push(Output::Alarm(Alarm::Activated { generation: id.generation }));
    }

    /// Somebody answers for a VIP. Members may, with their own addresses, while a takeover is
    /// under way; anybody else must not. One node of the clique defends it.
    pub(super) fn hear_wire_claim(&mut self, address: IpAddr, mac: MacAddr, out: &mut Vec<Output>) {
        let known =
            self.own_mac == Some(mac) || self.others().any(|slot| self.peer(slot).mac == Some(mac));
        if known {
            return;
        }
        out.push(Output::Alarm(Alarm::ForeignClaim { address, mac }));
        let first = self.clique.iter().next() == Some(self.me);
        let due = self.defended_at.is_none_or(|at| self.now >= at + DEFEND_INTERVAL_NS);
        if self.serves() && first && due {
            self.defended_at = Some(self.now);
            out.push(Output::Defend(address));
        }
    }
}
