//! The rules of the `tiered` mode: a frame reaches one node, by the next-hop address that the router
//! chose; who owns that address serves what is new, and sends on what began elsewhere.
//!
//! A packet *may be elsewhere* if a flow accounts for it that another member may have: a TCP segment
//! that is no SYN, a datagram of a sticky service, a later fragment, an ICMP error about one of
//! those. For a packet without a flow here, in order:
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
//! | | | send back to where the round began |
//! | a round that began here | | serve |
//!
//! *Send back* where the address is ours, or we began: serve. Where its owner is not known: drop,
//! `NoFlow`. *Serve*: enter a SYN or a sticky datagram as a new flow, pass the rest to the host,
//! whose stack answers a segment of no connection with a reset. While a member is away that may be
//! back with its flows in a moment, such a segment is dropped instead: `NoFlow`.
//!
//! # Whom to ask
//! - An address that has a MAC address of its own is known from the frame: its previous owner, then
//!   the one before.
//! - Without ([`TieredMac::Node`], or a frame to the node's own MAC address) any member may have the
//!   flow that had any of our addresses before: a round of these.
//! - With [`Search::Members`], or for an ICMP error, which comes from a router on the way and so by any
//!   address at all (RFC 7690): a round of all that are alive.
//!
//! # No loops
//! Kinds 1 to 3 are sent in ascending order only, at most three times. A round goes on only to
//! members further from where it began, in the order of slots, and ends there: at most as many
//! times as there are members. Both hold whatever the members believe of each other, also when they
//! disagree.

use std::net::IpAddr;

use super::{Decision, Lookup, Now, dropped, enter, flow_of, fragment_key, opens, state_after};
use crate::bucket::Bucket;
use crate::flow::{FlowKey, FlowState, FlowTable};
use crate::parse::{
    Arp, Fragment, IpPacket, NeighborAdvertisement, NeighborSolicitation, Parsed, Payload, Ports,
    Quoted, TcpFlags, Transport,
};
use crate::slot::Slot;
use crate::snapshot::{Holding, Ingress, Service, Snapshot};
use crate::tiered::{Mark, Search, Tiered, TieredMac, VirtualMac};
use crate::verdict::{DropReason, ReplyKind, Verdict};
use crate::wire::ethernet::MacAddr;
use crate::wire::protocol::{TCP, UDP};

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

/// What the flow table has to do with a packet.
#[derive(Clone, Copy, Debug)]
pub enum Tracking {
    /// Nothing: who owns the address serves it.
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
    const fn may_be_elsewhere(self) -> bool {
        match self {
            Self::Untracked => false,
            Self::Tcp(_, flags) => !opens(flags),
            Self::Sticky(_) | Self::Error(_) | Self::LaterFragment(_) => true,
        }
    }
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
    let flow = |client, vip, protocol, ports| {
        let (_, key) = flow_of(service, flows, client, vip, protocol, ports);
        key
    };
    // Fragments have no ports, so the client's address alone is in the hash of all of them.
    let datagram = || fragment_key(flows, service.client_hash.hash(packet.src, 0), packet);
    let tracking = match packet.transport {
        Transport::Tcp(ports, flags) => {
            Tracking::Tcp(flow(packet.src, packet.dst, TCP, ports), flags)
        }
        Transport::Udp(ports) if is_sticky(service, ports.dst) => {
            Tracking::Sticky(flow(packet.src, packet.dst, UDP, ports))
        }
        Transport::IcmpError(quoted) => {
            if !service.vips.contains(quoted.src) {
                return dropped(DropReason::NotVip);
            }
            lookup_quoted(service, &quoted, flow)
        }
        Transport::LaterFragment => {
            Tracking::LaterFragment(datagram().expect("a later fragment is a fragment"))
        }
        Transport::Udp(_) | Transport::EchoRequest | Transport::Other => Tracking::Untracked,
    };
    let fragment = match packet.fragment {
        Fragment::First { .. } => datagram(),
        Fragment::Whole | Fragment::Later { .. } => None,
    };
    Lookup::Tiered(Packet { arrival, tracking, fragment })
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

fn is_sticky(service: &Service, port: u16) -> bool {
    service.sticky_udp_ports.binary_search(&port).is_ok()
}

/// An ICMP error concerns the flow of the packet that it quotes, which the VIP sent: its client is
/// the quoted destination. Of flows that are not tracked nobody knows more than we do.
fn lookup_quoted(
    service: &Service,
    quoted: &Quoted,
    flow: impl FnOnce(IpAddr, IpAddr, u8, Ports) -> FlowKey,
) -> Tracking {
    match quoted.ports {
        Some(Ports { src: vip_port, dst: client_port })
            if quoted.protocol == TCP || is_sticky(service, vip_port) =>
        {
            let ports = Ports { src: client_port, dst: vip_port };
            Tracking::Error(flow(quoted.dst, quoted.src, quoted.protocol, ports))
        }
        _ => Tracking::Untracked,
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
    let rules = Rules { snapshot, tiered, has_lease, tracking: packet.tracking };
    let (decision, bucket) = if rules.is_known(flows, now) {
        (Verdict::Pass.into(), rules.bucket(packet.arrival))
    } else {
        match rules.step(packet.arrival) {
            Step::Serve(_) if !has_lease => {
                return Verdict::Drop(DropReason::LeaseExpired).into();
            }
            Step::Serve(bucket) => (rules.serve(flows, now, bucket), bucket),
            Step::SendOn(slot, mark) => return Verdict::SendOn(slot, mark).into(),
            Step::Drop(reason) => return Verdict::Drop(reason).into(),
        }
    };
    if let (Some(key), Verdict::Pass) = (packet.fragment, decision.verdict) {
        // Where it finds no room, the later fragments are looked for like those of a flow elsewhere.
        flows.insert(key, bucket, FlowState::Fragment, now.seconds);
    }
    decision
}

/// What comes next for a packet that no flow here accounts for.
enum Step {
    /// This node serves it, on behalf of this address.
    Serve(Bucket),
    /// It goes to that member.
    SendOn(Slot, Mark),
    /// Nobody serves it.
    Drop(DropReason),
}

/// The rules, for one packet.
struct Rules<'a> {
    snapshot: &'a Snapshot,
    tiered: &'a Tiered,
    /// Whether the control thread still renews what this node holds.
    has_lease: bool,
    tracking: Tracking,
}

impl Rules<'_> {
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
                self.snapshot.latest.unwrap_or(Bucket::FIRST)
            }
        }
    }

    fn step(&self, arrival: Arrival) -> Step {
        let own = self.tiered.slot;
        match arrival {
            Arrival::Address(number) if self.asks_all() => self.ours(number, || self.start(own)),
            Arrival::Address(number) => self.ours(number, || self.previous(number)),
            Arrival::OwnMac => match self.snapshot.latest {
                Some(number) => self.ours(number, || self.start(own)),
                None => Step::Drop(DropReason::NotOwner),
            },
            Arrival::SentOn(from, Mark::Previous(number)) => self.before_us(number, from),
            Arrival::SentOn(_, Mark::BeforePrevious(number)) => self.back(number),
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
        if !self.holds(number) {
            return Step::Drop(DropReason::NotOwner);
        }
        if !self.has_lease {
            return Step::Drop(DropReason::LeaseExpired);
        }
        let asked = if self.tracking.may_be_elsewhere() { first_to_ask() } else { None };
        asked.map_or(Step::Serve(number), |(slot, mark)| Step::SendOn(slot, mark))
    }

    fn previous(&self, number: Bucket) -> Option<(Slot, Mark)> {
        let before = self.snapshot.previous.get(number).before;
        let previous = before.into_iter().flatten().find(|&slot| slot != self.tiered.slot)?;
        Some((previous, Mark::Previous(number)))
    }

    fn start(&self, own: Slot) -> Option<(Slot, Mark)> {
        Some((self.next_in_round(own)?, Mark::Round(own)))
    }

    /// A packet of a flow that `from`, the owner of our former address, does not know, and neither do
    /// we: who had it before us, and is neither of the two?
    fn before_us(&self, number: Bucket, from: Slot) -> Step {
        let owners = self.snapshot.previous.get(number);
        let knows_not = |slot| slot == self.tiered.slot || slot == from || Some(slot) == owners.now;
        match owners.before.into_iter().flatten().find(|&slot| !knows_not(slot)) {
            Some(slot) => Step::SendOn(slot, Mark::BeforePrevious(number)),
            None => self.back(number),
        }
    }

    fn back(&self, number: Bucket) -> Step {
        if self.holds(number) {
            return Step::Serve(number);
        }
        match self.snapshot.previous.get(number).now {
            Some(slot) if slot == self.tiered.slot => Step::Serve(number),
            Some(slot) => Step::SendOn(slot, Mark::Back(number)),
            None => Step::Drop(DropReason::NoFlow),
        }
    }

    fn round(&self, first: Slot) -> Step {
        match (self.next_in_round(first), self.tracking) {
            (Some(next), _) => Step::SendOn(next, Mark::Round(first)),
            (None, Tracking::Error(_)) => Step::Drop(DropReason::NoFlow),
            (None, _) => Step::SendOn(first, Mark::Round(first)),
        }
    }

    fn next_in_round(&self, first: Slot) -> Option<Slot> {
        let (previous, own) = (&self.snapshot.previous, self.tiered.slot);
        match self.asks_all() {
            true => previous.next_alive(first, own),
            false => previous.next_before(first, own),
        }
    }

    fn asks_all(&self) -> bool {
        self.tiered.search == Search::Members || matches!(self.tracking, Tracking::Error(_))
    }

    /// Whether the address is ours: the giver of one that is granted keeps it until it has heard that
    /// the taker has it, and the router sends to the giver until the taker has said so.
    fn holds(&self, number: Bucket) -> bool {
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
