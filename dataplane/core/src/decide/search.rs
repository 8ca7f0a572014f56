//! Where a flow is that is not tracked here: what the modes have in common in which one node gets a
//! packet, and another may have its flow.
//!
//! A packet *may be elsewhere* if a flow accounts for it that another member may have: a TCP segment
//! that is no SYN, a datagram of a sticky service, a later fragment, an ICMP error about one of
//! those. It is looked for with who had its resource before, the last one first, and comes back to
//! who has it now:
//!
//! ```text
//!   owner --Previous--> previous owner --BeforePrevious--> the one before --Back--> owner: serves it
//! ```
//!
//! Each of the three kinds is sent only after the one before it, so that none goes on for ever,
//! whatever the members believe of each other.

use std::net::IpAddr;

use super::{Decision, Now, enter, flow_of, fragment_key, opens, state_after};
use crate::bucket::Bucket;
use crate::flow::{FlowKey, FlowState, FlowTable};
use crate::parse::{Fragment, IpPacket, Ports, Quoted, TcpFlags, Transport};
use crate::slot::Slot;
use crate::snapshot::{Holding, Service, Snapshot};
use crate::tiered::Mark;
use crate::verdict::{DropReason, Verdict};
use crate::wire::protocol::{TCP, UDP};

/// What the flow table has to do with a packet.
#[derive(Clone, Copy, Debug)]
pub enum Tracking {
    /// Nothing: who owns the resource serves it.
    Untracked,
    /// A TCP segment.
    Tcp(FlowKey, TcpFlags),
    /// A datagram of a sticky service: a new flow is entered.
    Sticky(FlowKey),
    /// An ICMP error about a packet of a tracked flow.
    Error(FlowKey),
    /// A later fragment: goes where its first fragment went.
    LaterFragment(FlowKey),
}

impl Tracking {
    /// The flow, if there is one.
    pub const fn flow(self) -> Option<FlowKey> {
        match self {
            Self::Untracked => None,
            Self::Tcp(key, _) | Self::Sticky(key) | Self::Error(key) | Self::LaterFragment(key) => {
                Some(key)
            }
        }
    }

    /// Whether another member may have the flow.
    pub(super) const fn may_be_elsewhere(self) -> bool {
        match self {
            Self::Untracked => false,
            Self::Tcp(_, flags) => !opens(flags),
            Self::Sticky(_) | Self::Error(_) | Self::LaterFragment(_) => true,
        }
    }
}

/// A packet's flow.
pub(super) struct Tracked {
    pub(super) tracking: Tracking,
    /// Where the later fragments of this datagram will look for its verdict.
    pub(super) fragment: Option<FlowKey>,
    /// The hash of the client, where the flow's key needed it.
    pub(super) hash: Option<u64>,
}

impl Tracked {
    /// The flow of a packet to a VIP.
    #[inline]
    pub(super) fn of(
        service: &Service,
        flows: &FlowTable,
        packet: &IpPacket,
    ) -> Result<Self, DropReason> {
        let flow = |client, vip, protocol, ports| {
            let (hash, key) = flow_of(service, flows, client, vip, protocol, ports);
            (Some(hash), key)
        };
        // Fragments have no ports, so the client's address alone is in the hash of all of them.
        let by_address = || service.client_hash.hash(packet.src, 0);
        let (hash, tracking) = match packet.transport {
            Transport::Tcp(ports, flags) => {
                let (hash, key) = flow(packet.src, packet.dst, TCP, ports);
                (hash, Tracking::Tcp(key, flags))
            }
            Transport::Udp(ports) if service.is_sticky(ports.dst) => {
                let (hash, key) = flow(packet.src, packet.dst, UDP, ports);
                (hash, Tracking::Sticky(key))
            }
            Transport::IcmpError(quoted) => {
                if !service.vips.contains(quoted.src) {
                    return Err(DropReason::NotVip);
                }
                lookup_quoted(service, &quoted, flow)
            }
            Transport::LaterFragment => {
                let hash = by_address();
                let key = fragment_key(flows, hash, packet);
                (Some(hash), Tracking::LaterFragment(key.expect("a later fragment is a fragment")))
            }
            Transport::Udp(_) | Transport::EchoRequest | Transport::Other => {
                (None, Tracking::Untracked)
            }
        };
        let fragment = match packet.fragment {
            Fragment::First { .. } => fragment_key(flows, by_address(), packet),
            Fragment::Whole | Fragment::Later { .. } => None,
        };
        Ok(Self { tracking, fragment, hash })
    }
}

/// An ICMP error concerns the flow of the packet that it quotes, which the VIP sent: its client is
/// the quoted destination. Of flows that are not tracked nobody knows more than we do.
fn lookup_quoted(
    service: &Service,
    quoted: &Quoted,
    flow: impl FnOnce(IpAddr, IpAddr, u8, Ports) -> (Option<u64>, FlowKey),
) -> (Option<u64>, Tracking) {
    match quoted.ports {
        Some(Ports { src: vip_port, dst: client_port })
            if quoted.protocol == TCP || service.is_sticky(vip_port) =>
        {
            let ports = Ports { src: client_port, dst: vip_port };
            let (hash, key) = flow(quoted.dst, quoted.src, quoted.protocol, ports);
            (hash, Tracking::Error(key))
        }
        _ => (None, Tracking::Untracked),
    }
}

/// What comes next for a packet that no flow here accounts for.
pub(super) enum Step {
    /// This node serves it, on behalf of this resource.
    Serve(Bucket),
    /// It goes to that member.
    SendOn(Slot, Mark),
    /// Nobody serves it.
    Drop(DropReason),
}

/// The search for one packet's flow.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// This node's slot.
    pub(super) own: Slot,
    /// Whether the control thread still renews what this node holds.
    pub(super) has_lease: bool,
    pub(super) tracking: Tracking,
}

impl Search<'_> {
    /// The verdict: a packet of a flow here passes, booked under the resource that `of_known` names;
    /// for any other one `step` is taken.
    #[inline]
    pub(super) fn conclude(
        &self,
        flows: &FlowTable,
        now: Now,
        fragment: Option<FlowKey>,
        of_known: impl FnOnce() -> Bucket,
        step: impl FnOnce() -> Step,
    ) -> Decision {
        let (decision, bucket) = if self.is_known(flows, now) {
            (Verdict::Pass.into(), of_known())
        } else {
            match step() {
                Step::Serve(_) if !self.has_lease => {
                    return Verdict::Drop(DropReason::LeaseExpired).into();
                }
                Step::Serve(bucket) => (self.serve(flows, now, bucket), bucket),
                Step::SendOn(slot, mark) => return Verdict::SendOn(slot, mark).into(),
                Step::Drop(reason) => return Verdict::Drop(reason).into(),
            }
        };
        if let (Some(key), Verdict::Pass) = (fragment, decision.verdict) {
            // Where it finds no room, the later fragments are looked for like those of a flow
            // elsewhere.
            flows.insert(key, bucket, FlowState::Fragment, now.seconds);
        }
        decision
    }

    /// Whether a flow here accounts for the packet, of which the flow table takes note.
    fn is_known(&self, flows: &FlowTable, now: Now) -> bool {
        match self.tracking {
            Tracking::Untracked => false,
            Tracking::Tcp(key, flags) => {
                flows.refresh(key, now.seconds, state_after(flags)).is_some()
            }
            Tracking::Sticky(key) => flows.refresh(key, now.seconds, FlowState::Datagram).is_some(),
            Tracking::Error(key) | Tracking::LaterFragment(key) => {
                flows.lookup(key, now.seconds).is_some()
            }
        }
    }

    /// The last owner before this node, and before `from`, which has been asked already.
    pub(super) fn previous(&self, number: Bucket, from: Option<Slot>) -> Option<(Slot, Mark)> {
        let before = self.snapshot.previous.get(number).before;
        let knows_not = |slot| slot == self.own || Some(slot) == from;
        let previous = before.into_iter().flatten().find(|&slot| !knows_not(slot))?;
        Some((previous, Mark::Previous(number)))
    }

    /// A packet of a flow that `from`, the owner of what was ours, does not know, and neither do we: who
    /// had it before us, and is neither of the two?
    pub(super) fn before_us(&self, number: Bucket, from: Slot) -> Step {
        let owners = self.snapshot.previous.get(number);
        let knows_not = |slot| slot == self.own || slot == from || Some(slot) == owners.now;
        match owners.before.into_iter().flatten().find(|&slot| !knows_not(slot)) {
            Some(slot) => Step::SendOn(slot, Mark::BeforePrevious(number)),
            None => self.back(number),
        }
    }

    /// Nobody knows it: to the owner.
    pub(super) fn back(&self, number: Bucket) -> Step {
        if self.holds(number) {
            return Step::Serve(number);
        }
        match self.snapshot.previous.get(number).now {
            Some(slot) if slot == self.own => Step::Serve(number),
            Some(slot) => Step::SendOn(slot, Mark::Back(number)),
            None => Step::Drop(DropReason::NoFlow),
        }
    }

    /// Whether the resource is ours: the giver of one that is granted keeps it until it has heard that
    /// the taker has it, and in the tiered mode the router sends to the giver until the taker has said
    /// so.
    pub(super) fn holds(&self, number: Bucket) -> bool {
        self.snapshot.holdings.get(number) != Holding::Foreign
    }

    fn serve(&self, flows: &FlowTable, now: Now, bucket: Bucket) -> Decision {
        match self.tracking {
            Tracking::Tcp(key, flags) if opens(flags) => enter(flows, now, bucket, key),
            Tracking::Sticky(key) => enter(flows, now, bucket, key),
            // Its sender repeats it; a reset would be final.
            Tracking::Tcp(..) if self.snapshot.previous.is_incomplete() => {
                Verdict::Drop(DropReason::NoFlow).into()
            }
            Tracking::Untracked
            | Tracking::Tcp(..)
            | Tracking::Error(_)
            | Tracking::LaterFragment(_) => Verdict::Pass.into(),
        }
    }
}
