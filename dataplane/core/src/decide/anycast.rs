//! The rules of the `anycast` mode: the network sends a packet to whichever node it likes of those that
//! announce the VIP.
//!
//! Without steering that node serves it, whatever it is, for as long as it has a lease: nothing is
//! tracked, and a flow that the network sends elsewhere in the middle is lost.
//!
//! With steering the client's bucket has an owner. A packet *may be elsewhere* if a flow accounts for
//! it that another member may have ([`search`](super::search)); otherwise it is new, and nobody knows
//! it better than the owner of its bucket. For a packet without a flow here:
//!
//! | came | its bucket is | new | may be elsewhere |
//! |---|---|---|---|
//! | from the network | ours | serve | ask the previous owner: kind 1; serve if there is none |
//! | | being handed over | to the taker: kind 6 | to the taker: kind 1 |
//! | | another's | to the owner: kind 5 | to the owner: kind 5 |
//! | | nobody's | serve: an answer beats affinity | ask the previous owner: kind 1; serve if there is none |
//! | kind 5, steered | ours, nobody's, or the sender's | as from the network | as from the network, but the sender has been asked |
//! | | being handed over | to the taker: kind 6 | to the taker: kind 1 |
//! | | another's: the sender is late | to the owner: kind 6 | to the owner: kind 1 |
//! | kinds 1 to 3, the search | | | as in the tiered mode |
//! | kinds 3 and 6 | | serve, whoever has the bucket | serve, whoever has the bucket |
//!
//! *Serve* needs a lease, and means what it means in the [`tiered`](super::tiered) mode. A new packet
//! for a member that cannot be reached is served here.
//!
//! # No loops
//! A packet begins with kind 5 or without it, and goes on by kinds 1, 2, 3 in this order, or by kind 6
//! and no further: it is sent on four times at most, whatever the members believe of each other.
//!
//! # A known departure
//! Where the client's port is in the hash, the fragments of a datagram go by its address alone. Those
//! of a tracked flow may then come to another node than the flow itself and are lost: fragments and
//! `hash = "address-and-port"` do not go together there.

use super::search::{Search, Step, Tracked, Tracking};
use super::{Decision, Lookup, Now, dropped};
use crate::anycast::{Anycast, Steering};
use crate::bucket::Bucket;
use crate::flow::{FlowKey, FlowTable};
use crate::parse::{Fragment, IpPacket, Parsed, Payload, Transport};
use crate::slot::Slot;
use crate::snapshot::{Holding, Ingress, Service, Snapshot};
use crate::tiered::{Mark, VirtualMac};
use crate::verdict::{DropReason, Verdict};

/// An IP packet to a VIP, where packets are steered.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// How it came.
    pub arrival: Arrival,
    /// The client's bucket.
    pub bucket: Bucket,
    /// What the flow table has to do with it.
    pub tracking: Tracking,
    /// Where the later fragments of this datagram will look for its verdict.
    pub fragment: Option<FlowKey>,
}

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// From a router.
    Network,
    /// From the member in this slot. The number in the mark is not used: the packet tells its bucket.
    SentOn(Slot, Mark),
}

pub(super) fn lookup(
    service: &Service,
    anycast: &Anycast,
    flows: &FlowTable,
    parsed: &Parsed,
) -> Lookup {
    // Routers have routes to the VIPs; nobody asks whose they are, and if so, gets no answer.
    let Payload::Ip(packet) = &parsed.payload else {
        return dropped(DropReason::NotARequest);
    };
    if !service.vips.contains(packet.dst) {
        return dropped(DropReason::NotVip);
    }
    if parsed.dst != service.own_mac {
        return dropped(DropReason::WrongMac);
    }
    if anycast.steering.is_none() {
        return Lookup::Unsteered;
    }
    let arrival = match VirtualMac::of(parsed.src, anycast.cluster) {
        Some(VirtualMac::Mark(from, mark)) => Arrival::SentOn(from, mark),
        Some(VirtualMac::Address(_)) | None => Arrival::Network,
    };
    match Tracked::of(service, flows, packet) {
        Ok(Tracked { tracking, fragment, hash }) => {
            let hash = hash.unwrap_or_else(|| hash_of_untracked(service, packet));
            Lookup::Anycast(Packet { arrival, bucket: Bucket::of_hash(hash), tracking, fragment })
        }
        Err(reason) => dropped(reason),
    }
}

/// The hash of the client of a packet that has no flow. Of a datagram in fragments, the port is not
/// in it: later fragments do not tell.
fn hash_of_untracked(service: &Service, packet: &IpPacket) -> u64 {
    let (client, port) = match packet.transport {
        Transport::Udp(ports) if packet.fragment == Fragment::Whole => (packet.src, ports.src),
        Transport::IcmpError(quoted) => (quoted.dst, quoted.ports.map_or(0, |ports| ports.dst)),
        _ => (packet.src, 0),
    };
    service.client_hash.hash(client, port)
}

/// Whatever the network sends here is served here, for as long as this node may serve.
pub(super) fn decide_unsteered(snapshot: &Snapshot, now: Now) -> Decision {
    if now.ns <= snapshot.lease_until_ns {
        Verdict::Pass.into()
    } else {
        Verdict::Drop(DropReason::LeaseExpired).into()
    }
}

pub(super) fn decide(
    snapshot: &Snapshot,
    flows: &FlowTable,
    now: Now,
    packet: &Packet,
) -> Decision {
    let Ingress::Anycast(Anycast { slot, steering: Some(steering), .. }) = snapshot.service.ingress
    else {
        // Looked up with another snapshot's service: a burst has one.
        unreachable!("a steered packet where none are");
    };
    let has_lease = now.ns <= snapshot.lease_until_ns;
    let search = Search { snapshot, own: slot, has_lease, tracking: packet.tracking };
    let rules = Rules { search, steering, bucket: packet.bucket };
    let step = || rules.step(packet.arrival);
    search.conclude(flows, now, packet.fragment, || packet.bucket, step)
}

/// The rules, for one packet.
struct Rules<'a> {
    search: Search<'a>,
    steering: Steering,
    bucket: Bucket,
}

impl Rules<'_> {
    fn step(&self, arrival: Arrival) -> Step {
        match arrival {
            Arrival::Network => self.by_bucket(None),
            Arrival::SentOn(from, Mark::Steer(_)) => self.by_bucket(Some(from)),
            Arrival::SentOn(from, Mark::Previous(_)) => self.search.before_us(self.bucket, from),
            Arrival::SentOn(_, Mark::BeforePrevious(_)) => self.search.back(self.bucket),
            Arrival::SentOn(_, Mark::Back(_) | Mark::Granted(_)) => Step::Serve(self.bucket),
            Arrival::SentOn(_, Mark::Round(_)) => Step::Drop(DropReason::WrongMac),
        }
    }

    /// A packet that the network has sent here, or a member has steered here: it goes by its bucket.
    fn by_bucket(&self, steered_by: Option<Slot>) -> Step {
        let bucket = self.bucket;
        let other = self.other(steered_by);
        match (other, self.search.tracking.may_be_elsewhere()) {
            (Some((slot, mark)), false) if self.reaches(slot) => Step::SendOn(slot, mark),
            (_, false) => Step::Serve(bucket),
            (Some((slot, Mark::Steer(_))), true) => Step::SendOn(slot, Mark::Steer(bucket)),
            (Some((slot, _)), true) if Some(slot) != steered_by => {
                Step::SendOn(slot, Mark::Previous(bucket))
            }
            (_, true) => self
                .search
                .previous(bucket, steered_by)
                .map_or(Step::Serve(bucket), |(slot, mark)| Step::SendOn(slot, mark)),
        }
    }

    /// Who serves new flows of the bucket, if it is not this node, and the mark that they go there
    /// with. Who was steered to takes a new flow on if it knows nobody better.
    fn other(&self, steered_by: Option<Slot>) -> Option<(Slot, Mark)> {
        let snapshot = self.search.snapshot;
        match snapshot.holdings.get(self.bucket) {
            Holding::Owned | Holding::TakenOver => None,
            Holding::Granted(taker) => Some((taker, Mark::Granted(self.bucket))),
            Holding::Foreign => {
                let owner = snapshot.previous.get(self.bucket).now?;
                if owner == self.search.own || Some(owner) == steered_by {
                    return None;
                }
                let mark = match steered_by {
                    None => Mark::Steer(self.bucket),
                    Some(_) => Mark::Granted(self.bucket),
                };
                Some((owner, mark))
            }
        }
    }

    /// Whether something can be sent to the member now.
    fn reaches(&self, slot: Slot) -> bool {
        let service = &*self.search.snapshot.service;
        match self.steering {
            Steering::Mac => service.peer_macs[slot.index()].is_some(),
            Steering::Gue { .. } => {
                service.peers[slot.index()].is_some_and(|path| path.next_hop.is_some())
            }
        }
    }
}
