//! The rules of the `shared-mac` mode: every node sees every frame, a flow that is tracked here
//! stays here, everything new goes by who owns the client's bucket.

use std::net::{IpAddr, Ipv4Addr};

use super::{Decision, Lookup, Now, dropped, enter, flow_of, fragment_key, opens, state_after};
use crate::bucket::Bucket;
use crate::flow::{FlowKey, FlowState, FlowTable, Inserted};
use crate::hash::HashInput;
use crate::parse::{
    Arp, Fragment, IpPacket, NeighborAdvertisement, NeighborSolicitation, Parsed, Payload, Ports,
    Quoted, TcpFlags, Transport,
};
use crate::snapshot::{Holding, Service, SharedMac, Snapshot};
use crate::verdict::{DropReason, ReplyKind, Verdict};
use crate::wire::ethernet::MacAddr;
use crate::wire::protocol::{TCP, UDP};

/// An IP packet to a VIP.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The client's bucket.
    pub bucket: Bucket,
    /// What the flow table has to do with it.
    pub tracking: Tracking,
    /// Where the later fragments of this datagram will look for its verdict.
    pub fragment: Option<FlowKey>,
    /// Whether another member sent it on to us.
    pub forwarded: bool,
}

/// What of a TCP segment decides it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) key: FlowKey,
    pub(super) bucket: Bucket,
    pub(super) flags: TcpFlags,
    pub(super) forwarded: bool,
}

/// What the flow table has to do with a packet.
#[derive(Clone, Copy, Debug)]
pub enum Tracking {
    /// Nothing: the bucket decides.
    Untracked,
    /// A TCP segment.
    Tcp(FlowKey, TcpFlags),
    /// A datagram of a sticky service: a new flow is entered.
    Sticky(FlowKey),
    /// A packet that belongs to a flow if there is one, and else goes by its bucket.
    IfKnown(FlowKey),
    /// A later fragment where only the first one can tell the bucket.
    FirstFragmentDecides(FlowKey),
}

impl Tracking {
    /// The flow, if there is one.
    pub const fn flow(self) -> Option<FlowKey> {
        match self {
            Self::Untracked => None,
            Self::Tcp(key, _)
            | Self::Sticky(key)
            | Self::IfKnown(key)
            | Self::FirstFragmentDecides(key) => Some(key),
        }
    }
}

pub(super) fn lookup(
    service: &Service,
    shared: &SharedMac,
    flows: &FlowTable,
    parsed: &Parsed,
) -> Lookup {
    match &parsed.payload {
        Payload::Ip(packet) => lookup_ip(service, shared, flows, parsed, packet),
        Payload::Arp(arp) => lookup_arp(service, shared.v4, parsed, arp),
        Payload::NeighborSolicitation(request) => {
            lookup_solicitation(service, shared.v6, parsed, request)
        }
        Payload::NeighborAdvertisement(heard) => lookup_advertisement(service, shared.v6, heard),
    }
}

/// Questions come to a group address, or to where an earlier answer said: the shared address.
fn question_is_for_us(dst: MacAddr, shared: MacAddr, own: MacAddr) -> bool {
    dst.is_group() || dst == shared || dst == own
}

fn lookup_arp(service: &Service, shared: MacAddr, parsed: &Parsed, arp: &Arp) -> Lookup {
    if service.vips.contains_v4(arp.sender_ip) {
        // Our own answers name the shared address, and a switch that knows no port for the
        // asker floods them to us.
        let ours = arp.sender_mac == shared;
        return dropped(if ours { DropReason::NotARequest } else { DropReason::ForeignClaim });
    }
    if !arp.is_request {
        return dropped(DropReason::NotARequest);
    }
    if !service.vips.contains_v4(arp.target_ip) {
        return dropped(DropReason::NotVip);
    }
    if !question_is_for_us(parsed.dst, shared, service.own_mac) {
        return dropped(DropReason::WrongMac);
    }
    Lookup::Question { bucket: asker(service, IpAddr::V4(arp.sender_ip)), reply: ReplyKind::Arp }
}

fn lookup_solicitation(
    service: &Service,
    shared: MacAddr,
    parsed: &Parsed,
    request: &NeighborSolicitation,
) -> Lookup {
    if !service.vips.contains_v6(request.target) {
        return dropped(DropReason::NotVip);
    }
    if !question_is_for_us(parsed.dst, shared, service.own_mac) {
        return dropped(DropReason::WrongMac);
    }
    Lookup::Question {
        bucket: asker(service, IpAddr::V6(request.src)),
        reply: ReplyKind::NeighborAdvertisement,
    }
}

fn lookup_advertisement(
    service: &Service,
    shared: MacAddr,
    heard: &NeighborAdvertisement,
) -> Lookup {
    if !service.vips.contains_v6(heard.target) {
        return dropped(DropReason::NotVip);
    }
    let ours = heard.target_mac == Some(shared);
    dropped(if ours { DropReason::NotARequest } else { DropReason::ForeignClaim })
}

/// The bucket of one who asks for a VIP's MAC address. A probe comes from the unspecified address
/// and still has one bucket, so one node answers it.
fn asker(service: &Service, address: IpAddr) -> Bucket {
    Bucket::of_hash(service.client_hash.hash(address, 0))
}

fn lookup_ip(
    service: &Service,
    shared: &SharedMac,
    flows: &FlowTable,
    parsed: &Parsed,
    packet: &IpPacket,
) -> Lookup {
    if !service.vips.contains(packet.dst) {
        return dropped(DropReason::NotVip);
    }
    let shared = match packet.dst {
        IpAddr::V4(_) => shared.v4,
        IpAddr::V6(_) => shared.v6,
    };
    if parsed.dst != shared && parsed.dst != service.own_mac {
        return dropped(DropReason::WrongMac);
    }
    let forwarded = parsed.dst == service.own_mac && service.peer_macs.contains(&Some(parsed.src));

    let (hash, tracking) = match packet.transport {
        Transport::Tcp(ports, flags) => {
            let (hash, key) = flow_of(service, flows, packet.src, packet.dst, TCP, ports);
            (hash, Tracking::Tcp(key, flags))
        }
        Transport::Udp(ports) => lookup_udp(service, flows, packet, ports),
        Transport::IcmpError(quoted) => {
            if !service.vips.contains(quoted.src) {
                return dropped(DropReason::NotVip);
            }
            lookup_quoted(service, flows, &quoted)
        }
        Transport::LaterFragment => {
            let hash = service.client_hash.hash(packet.src, 0);
            let key = fragment_key(flows, hash, packet).expect("a later fragment is a fragment");
            match service.client_hash.input() {
                HashInput::Address => (hash, Tracking::IfKnown(key)),
                HashInput::AddressAndPort => (hash, Tracking::FirstFragmentDecides(key)),
            }
        }
        Transport::EchoRequest | Transport::Other => {
            (service.client_hash.hash(packet.src, 0), Tracking::Untracked)
        }
    };
    let fragment = match (packet.fragment, service.client_hash.input()) {
        (Fragment::First { .. }, HashInput::Address) => fragment_key(flows, hash, packet),
        (Fragment::First { .. }, HashInput::AddressAndPort) => {
            fragment_key(flows, service.client_hash.hash(packet.src, 0), packet)
        }
        _ => None,
    };
    Lookup::SharedMac(Packet { bucket: Bucket::of_hash(hash), tracking, fragment, forwarded })
}

/// UDP moves with its bucket, unless its port is sticky. Where the host's own flows leave by us,
/// an answer to one of them must be told from a client's request.
fn lookup_udp(
    service: &Service,
    flows: &FlowTable,
    packet: &IpPacket,
    ports: Ports,
) -> (u64, Tracking) {
    if service.is_sticky(ports.dst) {
        let (hash, key) = flow_of(service, flows, packet.src, packet.dst, UDP, ports);
        (hash, Tracking::Sticky(key))
    } else if service.egress.is_some() {
        let (hash, key) = flow_of(service, flows, packet.src, packet.dst, UDP, ports);
        (hash, Tracking::IfKnown(key))
    } else {
        (service.client_hash.hash(packet.src, ports.src), Tracking::Untracked)
    }
}

/// An ICMP error concerns the flow of the packet that it quotes, which the VIP sent: its client is
/// the quoted destination, while the error itself may come from any router on the way.
fn lookup_quoted(service: &Service, flows: &FlowTable, quoted: &Quoted) -> (u64, Tracking) {
    match quoted.ports {
        Some(Ports { src: vip_port, dst: client_port }) => {
            let ports = Ports { src: client_port, dst: vip_port };
            let (hash, key) =
                flow_of(service, flows, quoted.dst, quoted.src, quoted.protocol, ports);
            (hash, Tracking::IfKnown(key))
        }
        None => (service.client_hash.hash(quoted.dst, 0), Tracking::Untracked),
    }
}

#[inline(always)]
pub(super) fn decide(
    snapshot: &Snapshot,
    flows: &FlowTable,
    now: Now,
    packet: &Packet,
) -> Decision {
    let Packet { bucket, tracking, fragment, forwarded } = *packet;
    // Asked for only where no flow accounts for the packet.
    let by_bucket = || {
        let holding = snapshot.holdings.get(bucket);
        (holding, decide_new(snapshot, now, holding, forwarded))
    };
    let by_lately = || {
        let (holding, verdict) = by_bucket();
        by_lately(holding, bucket, verdict)
    };
    let decision = match tracking {
        Tracking::Untracked => by_lately(),
        Tracking::Tcp(key, flags) => {
            decide_tcp(snapshot, flows, now, &Segment { bucket, key, flags, forwarded })
        }
        Tracking::Sticky(key) => match flows.refresh(key, now.seconds, FlowState::Datagram) {
            Some(_) => Verdict::Pass.into(),
            None => enter_if_passed(flows, now, bucket, key, by_bucket().1),
        },
        Tracking::IfKnown(key) => match flows.lookup(key, now.seconds) {
            Some(_) => Verdict::Pass.into(),
            None => by_lately(),
        },
        Tracking::FirstFragmentDecides(key) => match flows.lookup(key, now.seconds) {
            Some(_) => Verdict::Pass.into(),
            None => Verdict::Drop(DropReason::FragmentOrphan).into(),
        },
    };
    if let (Some(key), Verdict::Pass) = (fragment, decision.verdict) {
        // Where it finds no room, the later fragments go by their bucket.
        flows.insert(key, bucket, FlowState::Fragment, now.seconds);
    }
    decision
}

/// Whatever no flow accounts for goes by who holds the bucket. What a member sends on to us, it
/// sends because it is granting us the bucket: we serve it before we have heard the grant.
#[inline]
fn decide_new(snapshot: &Snapshot, now: Now, holding: Holding, forwarded: bool) -> Verdict {
    if holding == Holding::Foreign && !forwarded {
        return Verdict::Drop(DropReason::NotOwner);
    }
    if now.ns > snapshot.lease_until_ns {
        return Verdict::Drop(DropReason::LeaseExpired);
    }
    match holding {
        // Sent on once already: never a second time, or two members could play ball with it.
        Holding::Granted(_) if forwarded => Verdict::Pass,
        Holding::Granted(slot) => Verdict::Forward(slot),
        Holding::Owned | Holding::TakenOver | Holding::Foreign => Verdict::Pass,
    }
}

/// Marks what is served by its bucket while the giver may still be forwarding. Connections need no
/// mark: to TCP, a second SYN is a repeated one.
#[inline]
fn by_lately(holding: Holding, bucket: Bucket, verdict: Verdict) -> Decision {
    let lately = holding == Holding::TakenOver && verdict == Verdict::Pass;
    Decision { may_come_twice: lately.then_some(bucket), ..verdict.into() }
}

/// Protocol number of marks in the flow table: reserved (IANA), so that no fragment has it.
const MARK: u8 = 255;

/// Whether the same packet has come before, and if not, remembers it for as long as a fragment. A
/// client that repeats a request to the letter is not heard a second time while this lasts, which
/// is a few heartbeats.
pub fn came_before(
    service: &Service,
    flows: &FlowTable,
    now: Now,
    bucket: Bucket,
    packet: &[u8],
) -> bool {
    let digest = service.client_hash.digest(packet);
    let key = flows.fragment_key(digest, IpAddr::V4(Ipv4Addr::UNSPECIFIED), MARK, 0);
    matches!(flows.insert(key, bucket, FlowState::Fragment, now.seconds), Inserted::Known(_))
}

/// A tracked connection stays here whoever owns its bucket. Of the others, only a SYN may start
/// one; the rest belong to connections of other nodes, which see this segment too.
fn decide_tcp(snapshot: &Snapshot, flows: &FlowTable, now: Now, segment: &Segment) -> Decision {
    if is_known(flows, now, segment) {
        Verdict::Pass.into()
    } else {
        decide_stranger(snapshot, flows, now, segment)
    }
}

/// Whether the segment is of a connection that is tracked here, of which the flow table takes note.
#[inline(always)]
pub(super) fn is_known(flows: &FlowTable, now: Now, segment: &Segment) -> bool {
    flows.refresh(segment.key, now.seconds, state_after(segment.flags)).is_some()
}

/// Decides on a segment that is not.
#[inline(never)]
pub(super) fn decide_stranger(
    snapshot: &Snapshot,
    flows: &FlowTable,
    now: Now,
    segment: &Segment,
) -> Decision {
    let &Segment { bucket, key, flags, forwarded } = segment;
    if !opens(flags) {
        return Verdict::Drop(DropReason::NoFlow).into();
    }
    let holding = snapshot.holdings.get(bucket);
    enter_if_passed(flows, now, bucket, key, decide_new(snapshot, now, holding, forwarded))
}

#[inline]
fn enter_if_passed(
    flows: &FlowTable,
    now: Now,
    bucket: Bucket,
    key: FlowKey,
    verdict: Verdict,
) -> Decision {
    match verdict {
        Verdict::Pass => enter(flows, now, bucket, key),
        other => other.into(),
    }
}
