//! The rules of the `tiered` mode: a frame reaches one node, by the next-hop address that the router
//! chose; who owns that address serves what is new, and sends on what began elsewhere.
//!
//! A packet *may be elsewhere* if a flow accounts for it that another member may have
//! ([`search`](super::search)). For a packet without a flow here, in order:
//!
//! | came by | if | then |
//! |---|---|---|
//! | an address | not ours | drop: `NotOwner` |
//! | | ours, without a lease | drop: `LeaseExpired` |
//! | | may be elsewhere, and there is somebody to ask | send on: kind 1, or a round |
//! | | | serve |
//! | kind 1, an address's previous owner? | we know an owner before us | send on: kind 2 |
//! | | | send back: kind 3 |
//! | kind 2, the owner before that one? | | send back: kind 3 |
//! | kind 3, nobody knew it | | serve, even if the address is not ours any more |
//! | a round (kind 4) | there is a next member | send on: kind 4 |
//! | | it is an ICMP error | drop: `NoFlow` |
//! | | it is a TCP segment, and a member may be away | drop: `NoFlow` |
//! | | | send back to where the round began |
//! | a round that began here | | serve |
//!
//! *Send back* where the address is ours, or we began: serve. Where its owner is not known: drop,
//! `NoFlow`. *Serve*: enter a SYN or a sticky datagram as a new flow, pass the rest to the host,
//! whose stack answers a segment of no connection with a reset. While a member is away that may be
//! back with its flows in a moment, or this node has just started and does not know all, such a
//! segment is dropped instead: `NoFlow`.
//!
//! # Whom to ask
//! - An address that has a MAC address of its own is known from the frame: its previous owner, then
//!   the one before.
//! - Without ([`TieredMac::Node`], or a frame to the node's own MAC address) any member may have the
//!   flow that had any of our addresses before: a round of these.
//! - With [`Search::Members`](crate::tiered::Search::Members), or for an ICMP error, which comes from a router on the way and so by any
//!   address at all (RFC 7690): a round of all that are alive.
//!
//! # No loops
//! Kinds 1 to 3 are sent in ascending order only, at most three times. A round goes on only to
//! members further from where it began, in the order of slots, and ends there: at most as many
//! times as there are members. Both hold whatever the members believe of each other, also when they
//! disagree.

use super::search::{Search, Step, Tracked, Tracking};
use super::{Decision, Lookup, Now, dropped};
use crate::bucket::Bucket;
use crate::flow::{FlowKey, FlowTable};
use crate::parse::{Arp, IpPacket, NeighborAdvertisement, NeighborSolicitation, Parsed, Payload};
use crate::slot::Slot;
use crate::snapshot::{Ingress, Service, Snapshot};
use crate::tiered::{self, Mark, Tiered, TieredMac, VirtualMac};
use crate::verdict::{DropReason, ReplyKind};
use crate::wire::ethernet::MacAddr;

/// An IP packet to a VIP.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// How it came.
    pub arrival: Arrival,
    /// What the flow table has to do with it.
    pub tracking: Tracking,
    /// Where the later fragments of this datagram will look for its verdict.
    pub fragment: Option<FlowKey>,
}

/// How a frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// By the next-hop address with this number: to its virtual MAC address.
    Address(Bucket),
    /// To this node's own MAC address: it does not say by which next-hop address.
    OwnMac,
    /// From the member in this slot.
    SentOn(Slot, Mark),
}

pub(super) fn lookup(
    service: &Service,
    tiered: &Tiered,
    flows: &FlowTable,
    parsed: &Parsed,
) -> Lookup {
    match &parsed.payload {
        Payload::Ip(packet) => lookup_ip(service, tiered, flows, parsed, packet),
        Payload::Arp(arp) => lookup_arp(service, tiered, parsed, arp),
        Payload::NeighborSolicitation(request) => {
            lookup_solicitation(service, tiered, parsed, request)
        }
        Payload::NeighborAdvertisement(heard) => {
            lookup_advertisement(service, tiered, parsed, heard)
        }
    }
}

fn lookup_arp(service: &Service, tiered: &Tiered, parsed: &Parsed, arp: &Arp) -> Lookup {
    if let Some(number) = tiered.number_v4(arp.sender_ip) {
        return claimed(service, tiered, number, arp.sender_mac);
    }
    if !arp.is_request {
        return dropped(DropReason::NotARequest);
    }
    let number = tiered.number_v4(arp.target_ip);
    question(service, tiered, parsed, number, ReplyKind::Arp)
}

fn lookup_solicitation(
    service: &Service,
    tiered: &Tiered,
    parsed: &Parsed,
    request: &NeighborSolicitation,
) -> Lookup {
    let number = tiered.number_v6(request.target);
    question(service, tiered, parsed, number, ReplyKind::NeighborAdvertisement)
}

fn lookup_advertisement(
    service: &Service,
    tiered: &Tiered,
    parsed: &Parsed,
    heard: &NeighborAdvertisement,
) -> Lookup {
    let Some(number) = tiered.number_v6(heard.target) else {
        return dropped(DropReason::NotVip);
    };
    claimed(service, tiered, number, heard.target_mac.unwrap_or(parsed.src))
}

/// A question for the next-hop address with this number, if it is for one. It comes to a group address,
/// or to where an earlier answer said.
fn question(
    service: &Service,
    tiered: &Tiered,
    parsed: &Parsed,
    number: Option<Bucket>,
    reply: ReplyKind,
) -> Lookup {
    let Some(bucket) = number else { return dropped(DropReason::NotVip) };
    let answer = tiered.mac_of(bucket, service.own_mac);
    if !(parsed.dst.is_group() || parsed.dst == answer || parsed.dst == service.own_mac) {
        return dropped(DropReason::WrongMac);
    }
    Lookup::Question { bucket, reply }
}

/// Somebody says that a next-hop address is at `mac`.
fn claimed(service: &Service, tiered: &Tiered, number: Bucket, mac: MacAddr) -> Lookup {
    let is_members = match tiered.mac {
        TieredMac::Virtual => mac == VirtualMac::Address(number).mac(tiered.cluster),
        TieredMac::Node => mac == service.own_mac || service.peer_macs.contains(&Some(mac)),
    };
    dropped(if is_members { DropReason::MemberClaim } else { DropReason::ForeignClaim })
}

fn lookup_ip(
    service: &Service,
    tiered: &Tiered,
    flows: &FlowTable,
    parsed: &Parsed,
    packet: &IpPacket,
) -> Lookup {
    if !service.vips.contains(packet.dst) {
        return dropped(DropReason::NotVip);
    }
    let Some(arrival) = arrival(service, tiered, parsed) else {
        return dropped(DropReason::WrongMac);
    };
    match Tracked::of(service, flows, packet) {
        Ok(Tracked { tracking, fragment, .. }) => {
            Lookup::Tiered(Packet { arrival, tracking, fragment })
        }
        Err(reason) => dropped(reason),
    }
}

/// How a frame came; `None` if it is not for us.
///
/// Both kinds of destination are taken, whichever of them the addresses resolve to, so that nothing is
/// lost while a router still knows the other.
fn arrival(service: &Service, tiered: &Tiered, parsed: &Parsed) -> Option<Arrival> {
    if parsed.dst == service.own_mac {
        return Some(match VirtualMac::of(parsed.src, tiered.cluster) {
            Some(VirtualMac::Mark(from, mark)) => Arrival::SentOn(from, mark),
            Some(VirtualMac::Address(_)) | None => Arrival::OwnMac,
        });
    }
    match VirtualMac::of(parsed.dst, tiered.cluster) {
        Some(VirtualMac::Address(number)) => Some(Arrival::Address(number)),
        Some(VirtualMac::Mark(..)) | None => None,
    }
}

pub(super) fn decide(
    snapshot: &Snapshot,
    flows: &FlowTable,
    now: Now,
    packet: &Packet,
) -> Decision {
    let Ingress::Tiered(tiered) = &snapshot.service.ingress else {
        // Looked up with another snapshot's service: a burst has one.
        unreachable!("a packet of the tiered mode in another mode");
    };
    let has_lease = now.ns <= snapshot.lease_until_ns;
    let search = Search { snapshot, own: tiered.slot, has_lease, tracking: packet.tracking };
    let rules = Rules { search, tiered };
    let of_known = || rules.bucket(packet.arrival);
    search.conclude(flows, now, packet.fragment, of_known, || rules.step(packet.arrival))
}

/// The rules, for one packet.
struct Rules<'a> {
    search: Search<'a>,
    tiered: &'a Tiered,
}

impl Rules<'_> {
    /// The address that a packet is booked under.
    fn bucket(&self, arrival: Arrival) -> Bucket {
        match arrival {
            Arrival::Address(number)
            | Arrival::SentOn(
                _,
                Mark::Previous(number) | Mark::BeforePrevious(number) | Mark::Back(number),
            ) => number,
            Arrival::OwnMac
            | Arrival::SentOn(_, Mark::Round(_) | Mark::Steer(_) | Mark::Granted(_)) => {
                self.search.snapshot.latest.unwrap_or(Bucket::FIRST)
            }
        }
    }

    fn step(&self, arrival: Arrival) -> Step {
        let own = self.tiered.slot;
        match arrival {
            Arrival::Address(number) if self.asks_all() => self.ours(number, || self.start(own)),
            Arrival::Address(number) => self.ours(number, || self.search.previous(number, None)),
            Arrival::OwnMac => match self.search.snapshot.latest {
                Some(number) => self.ours(number, || self.start(own)),
                None => Step::Drop(DropReason::NotOwner),
            },
            Arrival::SentOn(from, Mark::Previous(number)) => self.search.before_us(number, from),
            Arrival::SentOn(_, Mark::BeforePrevious(number)) => self.search.back(number),
            Arrival::SentOn(_, Mark::Back(number)) => Step::Serve(number),
            Arrival::SentOn(_, Mark::Round(first)) if first == own => {
                Step::Serve(self.bucket(arrival))
            }
            Arrival::SentOn(_, Mark::Round(first)) => self.round(first),
            Arrival::SentOn(_, Mark::Steer(_) | Mark::Granted(_)) => {
                Step::Drop(DropReason::WrongMac)
            }
        }
    }

    /// A packet from the router, by this address; `first_to_ask` says who is asked first if a
    /// member may have its flow.
    fn ours(&self, number: Bucket, first_to_ask: impl FnOnce() -> Option<(Slot, Mark)>) -> Step {
        if !self.search.holds(number) {
            return Step::Drop(DropReason::NotOwner);
        }
        if !self.search.has_lease {
            return Step::Drop(DropReason::LeaseExpired);
        }
        let asked = if self.search.tracking.may_be_elsewhere() { first_to_ask() } else { None };
        asked.map_or(Step::Serve(number), |(slot, mark)| Step::SendOn(slot, mark))
    }

    fn start(&self, own: Slot) -> Option<(Slot, Mark)> {
        Some((self.next_in_round(own)?, Mark::Round(own)))
    }

    fn round(&self, first: Slot) -> Step {
        match (self.next_in_round(first), self.search.tracking) {
            (Some(next), _) => Step::SendOn(next, Mark::Round(first)),
            (None, Tracking::Error(_)) => Step::Drop(DropReason::NoFlow),
            // Others may be there that this node does not know, and back where the round began the
            // host would reset it.
            (None, Tracking::Tcp(..)) if self.search.snapshot.previous.is_incomplete() => {
                Step::Drop(DropReason::NoFlow)
            }
            (None, _) => Step::SendOn(first, Mark::Round(first)),
        }
    }

    fn next_in_round(&self, first: Slot) -> Option<Slot> {
        let (previous, own) = (&self.search.snapshot.previous, self.tiered.slot);
        match self.asks_all() {
            true => previous.next_alive(first, own),
            false => previous.next_before(first, own),
        }
    }

    fn asks_all(&self) -> bool {
        self.tiered.search == tiered::Search::Members
            || matches!(self.search.tracking, Tracking::Error(_))
    }
}
