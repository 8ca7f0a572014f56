//! The verdict on one packet, as a function of the snapshot, the flow table and the time.
//!
//! Two steps, so that a worker can run the first over a whole burst and pull all flows' cache lines
//! in before it starts on the second:
//!
//! ```text
//!   Parsed --lookup--> Lookup: settled already, or a bucket and what to ask the flow table
//!          --decide--> Verdict
//! ```
//!
//! The rules are those of the `shared-mac` mode: every node sees every frame, a flow that is tracked
//! here stays here, everything new goes by who owns the client's bucket.

use std::net::{IpAddr, Ipv4Addr};

use crate::bucket::Bucket;
use crate::flow::{FlowKey, FlowState, FlowTable, Inserted, Seconds};
use crate::hash::HashInput;
use crate::parse::{
    Arp, Fragment, IpPacket, NeighborAdvertisement, NeighborSolicitation, Parsed, Payload, Ports,
    Quoted, TcpFlags, Transport,
};
use crate::snapshot::{Holding, Ingress, Service, SharedMac, Snapshot};
use crate::verdict::{DropReason, ReplyKind, Verdict};
use crate::wire::ethernet::MacAddr;
use crate::wire::protocol::{TCP, UDP};

/// The time of a burst, read once: the same instant in the two units that verdicts use.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic clock, nanoseconds: for the lease.
    pub ns: u64,
    /// The same in the flow table's seconds.
    pub seconds: Seconds,
}

impl Now {
    /// The instant `ns` nanoseconds into the monotonic clock.
    pub fn of_ns(ns: u64) -> Self {
        Self { ns, seconds: Seconds::of_ns(ns) }
    }
}

/// What [`lookup`] found out about a packet without the flow table.
#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    /// The verdict does not depend on anything else.
    Settled(Verdict),
    /// A question for a VIP's MAC address, answered by the owner of the asker's bucket.
    Question {
        /// The asker's bucket.
        bucket: Bucket,
        /// The answer's kind.
        reply: ReplyKind,
    },
    /// An IP packet to a VIP.
    Packet {
        /// The client's bucket.
        bucket: Bucket,
        /// What the flow table has to do with it.
        tracking: Tracking,
        /// Where the later fragments of this datagram will look for its verdict.
        fragment: Option<FlowKey>,
        /// Whether another member sent it on to us.
        forwarded: bool,
    },
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

impl Lookup {
    /// The flow whose cache line [`decide`] will read.
    pub fn flow(&self) -> Option<FlowKey> {
        match *self {
            Self::Packet { tracking, .. } => match tracking {
                Tracking::Untracked => None,
                Tracking::Tcp(key, _)
                | Tracking::Sticky(key)
                | Tracking::IfKnown(key)
                | Tracking::FirstFragmentDecides(key) => Some(key),
            },
            _ => None,
        }
    }
}

/// Finds the bucket of a packet and the key of its flow: all the hashing there is.
pub fn lookup(service: &Service, flows: &FlowTable, parsed: &Parsed) -> Lookup {
    if parsed.vlan != service.vlan {
        return dropped(DropReason::WrongVlan);
    }
    let Ingress::SharedMac(shared) = service.ingress else {
        return dropped(DropReason::NotVip);
    };
    match &parsed.payload {
        Payload::Ip(packet) => lookup_ip(service, shared, flows, parsed, packet),
        Payload::Arp(arp) => lookup_arp(service, shared, parsed, arp),
        Payload::NeighborSolicitation(request) => {
            lookup_solicitation(service, shared, parsed, request)
        }
        Payload::NeighborAdvertisement(heard) => lookup_advertisement(service, shared, heard),
    }
}

const fn dropped(reason: DropReason) -> Lookup {
    Lookup::Settled(Verdict::Drop(reason))
}

/// Questions come to a group address, or to where an earlier answer said: the shared address.
fn question_is_for_us(dst: MacAddr, shared: MacAddr, own: MacAddr) -> bool {
    dst.is_group() || dst == shared || dst == own
}

fn lookup_arp(service: &Service, shared: SharedMac, parsed: &Parsed, arp: &Arp) -> Lookup {
    let shared = shared.v4;
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
    shared: SharedMac,
    parsed: &Parsed,
    request: &NeighborSolicitation,
) -> Lookup {
    if !service.vips.contains_v6(request.target) {
        return dropped(DropReason::NotVip);
    }
    if !question_is_for_us(parsed.dst, shared.v6, service.own_mac) {
        return dropped(DropReason::WrongMac);
    }
    Lookup::Question {
        bucket: asker(service, IpAddr::V6(request.src)),
        reply: ReplyKind::NeighborAdvertisement,
    }
}

fn lookup_advertisement(
    service: &Service,
    shared: SharedMac,
    heard: &NeighborAdvertisement,
) -> Lookup {
    if !service.vips.contains_v6(heard.target) {
        return dropped(DropReason::NotVip);
    }
    let ours = heard.target_mac == Some(shared.v6);
    dropped(if ours { DropReason::NotARequest } else { DropReason::ForeignClaim })
}

/// The bucket of one who asks for a VIP's MAC address. A probe comes from the unspecified address
/// and still has one bucket, so one node answers it.
fn asker(service: &Service, address: IpAddr) -> Bucket {
    Bucket::of_hash(service.client_hash.hash(address, 0))
}

fn lookup_ip(
    service: &Service,
    shared: SharedMac,
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
    Lookup::Packet { bucket: Bucket::of_hash(hash), tracking, fragment, forwarded }
}

/// UDP moves with its bucket, unless its port is sticky. Where the host's own flows leave by us,
/// an answer to one of them must be told from a client's request.
fn lookup_udp(
    service: &Service,
    flows: &FlowTable,
    packet: &IpPacket,
    ports: Ports,
) -> (u64, Tracking) {
    if service.sticky_udp_ports.binary_search(&ports.dst).is_ok() {
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

fn flow_of(
    service: &Service,
    flows: &FlowTable,
    client: IpAddr,
    vip: IpAddr,
    protocol: u8,
    ports: Ports,
) -> (u64, FlowKey) {
    let hash = service.client_hash.hash(client, ports.src);
    (hash, flows.key(hash, ports.src, vip, ports.dst, protocol))
}

fn fragment_key(flows: &FlowTable, hash: u64, packet: &IpPacket) -> Option<FlowKey> {
    match packet.fragment {
        Fragment::Whole => None,
        Fragment::First { id } | Fragment::Later { id } => {
            // In IPv6 the protocol is none of it (RFC 8200, section 4.5), and a later fragment
            // need not know it.
            let protocol = if packet.dst.is_ipv4() { packet.protocol } else { 0 };
            Some(flows.fragment_key(hash, packet.dst, protocol, id))
        }
    }
}

/// A verdict, and what it did to the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// What the flow table said to a new flow, if there was one.
    pub inserted: Option<Inserted>,
    /// The packet passes by its bucket, which was taken over so lately that a copy of it may come by
    /// another way: it is served unless [`came_before`] knows it.
    pub may_come_twice: Option<Bucket>,
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, inserted: None, may_come_twice: None }
    }
}

/// Decides what becomes of the packet that `lookup` describes.
pub fn decide(snapshot: &Snapshot, flows: &FlowTable, now: Now, lookup: &Lookup) -> Decision {
    match *lookup {
        Lookup::Settled(verdict) => verdict.into(),
        Lookup::Question { bucket, reply } => decide_question(snapshot, now, bucket, reply).into(),
        Lookup::Packet { bucket, tracking, fragment, forwarded } => {
            let holding = snapshot.holdings.get(bucket);
            let by_bucket = || decide_new(snapshot, now, holding, forwarded);
            let decision = match tracking {
                Tracking::Untracked => by_lately(holding, bucket, by_bucket()),
                Tracking::Tcp(key, flags) => decide_tcp(flows, now, bucket, key, flags, by_bucket),
                Tracking::Sticky(key) => match flows.refresh(key, now.seconds, FlowState::Datagram)
                {
                    Some(_) => Verdict::Pass.into(),
                    // Like a SYN: one datagram does not displace what is older.
                    None => enter(flows, now, bucket, key, FlowState::Embryonic, by_bucket()),
                },
                Tracking::IfKnown(key) => match flows.lookup(key, now.seconds) {
                    Some(_) => Verdict::Pass.into(),
                    None => by_lately(holding, bucket, by_bucket()),
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
    }
}

/// One node answers: the owner of the asker's bucket, and while it hands that over, still the giver.
fn decide_question(snapshot: &Snapshot, now: Now, bucket: Bucket, reply: ReplyKind) -> Verdict {
    match snapshot.holdings.get(bucket) {
        Holding::Foreign => Verdict::Drop(DropReason::NotOwner),
        _ if now.ns > snapshot.lease_until_ns => Verdict::Drop(DropReason::LeaseExpired),
        Holding::Owned | Holding::TakenOver | Holding::Granted(_) => Verdict::Reply(reply),
    }
}

/// Whatever no flow accounts for goes by who holds the bucket. What a member sends on to us, it
/// sends because it is granting us the bucket: we serve it before we have heard the grant.
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
fn decide_tcp(
    flows: &FlowTable,
    now: Now,
    bucket: Bucket,
    key: FlowKey,
    flags: TcpFlags,
    by_bucket: impl FnOnce() -> Verdict,
) -> Decision {
    let state = if flags.syn && !flags.ack {
        FlowState::Embryonic
    } else if flags.fin || flags.rst {
        FlowState::Closing
    } else {
        FlowState::Established
    };
    if flows.refresh(key, now.seconds, state).is_some() {
        return Verdict::Pass.into();
    }
    if !flags.syn || flags.ack {
        return Verdict::Drop(DropReason::NoFlow).into();
    }
    enter(flows, now, bucket, key, FlowState::Embryonic, by_bucket())
}

/// Enters a flow that `verdict` accepts. One that finds no room is dropped and comes again: without
/// an entry its second packet would be dropped anyway.
fn enter(
    flows: &FlowTable,
    now: Now,
    bucket: Bucket,
    key: FlowKey,
    state: FlowState,
    verdict: Verdict,
) -> Decision {
    if verdict != Verdict::Pass {
        return verdict.into();
    }
    let inserted = flows.insert(key, bucket, state, now.seconds);
    let verdict = match inserted {
        Inserted::Full => Verdict::Drop(DropReason::FlowTableFull),
        _ => Verdict::Pass,
    };
    Decision { inserted: Some(inserted), ..verdict.into() }
}

/// What becomes of a frame that the host sends by way of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressVerdict {
    /// It leaves, to this MAC address.
    Transmit(MacAddr),
    /// Its next hop's MAC address must be found first.
    Unresolved(IpAddr),
    /// It must not leave.
    Drop(DropReason),
}

/// Decides about a frame from the host, and tracks the flows that the host opens from a VIP: a TCP
/// connection by its SYN, and a datagram to a client whose bucket is not ours, since the answer
/// would otherwise be taken for another node's.
pub fn decide_egress(
    snapshot: &Snapshot,
    flows: &FlowTable,
    now: Now,
    parsed: &Parsed,
) -> EgressVerdict {
    let service = &*snapshot.service;
    let (Some(egress), Payload::Ip(packet)) = (&service.egress, &parsed.payload) else {
        return EgressVerdict::Drop(DropReason::NotFromVip);
    };
    if !service.vips.contains(packet.src) {
        return EgressVerdict::Drop(DropReason::NotFromVip);
    }
    if let Some(mac) = group_mac(packet.dst) {
        return EgressVerdict::Transmit(mac);
    }
    match packet.transport {
        Transport::Tcp(ports, flags) if flags.syn && !flags.ack => {
            track_outgoing(service, flows, now, packet, ports, TCP, FlowState::Embryonic);
        }
        Transport::Udp(ports) => {
            let hash = service.client_hash.hash(packet.dst, ports.dst);
            let holding = snapshot.holdings.get(Bucket::of_hash(hash));
            if !matches!(holding, Holding::Owned | Holding::TakenOver) {
                track_outgoing(service, flows, now, packet, ports, UDP, FlowState::Datagram);
            }
        }
        _ => {}
    }
    let Some(next_hop) = egress.next_hop(packet.dst) else {
        return EgressVerdict::Drop(DropReason::NoNeighbor);
    };
    match egress.mac(next_hop) {
        Some(mac) => EgressVerdict::Transmit(mac),
        None => EgressVerdict::Unresolved(next_hop),
    }
}

fn track_outgoing(
    service: &Service,
    flows: &FlowTable,
    now: Now,
    packet: &IpPacket,
    ports: Ports,
    protocol: u8,
    state: FlowState,
) {
    let returning = Ports { src: ports.dst, dst: ports.src };
    let (hash, key) = flow_of(service, flows, packet.dst, packet.src, protocol, returning);
    if flows.refresh(key, now.seconds, state).is_none() {
        // Without room the packet leaves all the same: its answer may still find us the owner.
        flows.insert(key, Bucket::of_hash(hash), state, now.seconds);
    }
}

/// The MAC address of an IP group (RFC 1112, section 6.4; RFC 2464, section 7).
fn group_mac(address: IpAddr) -> Option<MacAddr> {
    match address {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(MacAddr::BROADCAST),
        IpAddr::V4(group) => MacAddr::of_ipv4_group(group),
        IpAddr::V6(group) => MacAddr::of_ipv6_group(group),
    }
}
