//! The decision table of the `shared-mac` mode: a frame, what the node holds, and what becomes of it.
//!
//! The table runs through a whole [`Worker`] over ports in memory, so that it covers parse, lookup,
//! decide and apply together, for both families.

mod frames;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use frames::*;
use tcp_flags::{ACK, FIN, RST, SYN};
use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::memory::{MemoryHost, MemoryPort};
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::{
    Egress, Holding, Holdings, Ingress, Publication, Publisher, Route, Service, SharedMac,
    Snapshot, Vips,
};
use vipdp_core::verdict::DropReason;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::worker::{Shared, Worker};

const FRAMES: usize = 256;
const CLIENT_PORT: u16 = 40_000;
const DNS: u16 = 53;
const QUIC: u16 = 443;
const NOW_NS: u64 = 1_000_000_000_000;

/// A node of slot 0 whose peer has slot 1, with a client of each family in a bucket of each kind.
struct Node {
    worker: Worker<MemoryPort, MemoryHost>,
    counters: Arc<WorkerCounters>,
    publisher: Publisher,
    service: Service,
    holdings: Holdings,
    lease_until_ns: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Owned,
    Granted,
    Foreign,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What became of one frame, as its neighbours see it.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Host,
    Sent(Vec<u8>),
    Dropped(&'static str),
}

impl Node {
    fn new() -> Self {
        Self::with(HashInput::Address)
    }

    fn with(input: HashInput) -> Self {
        let mut peer_macs = [None; SLOTS];
        peer_macs[1] = Some(PEER);
        let service = Service {
            sticky_udp_ports: [QUIC].into(),
            peer_macs,
            ..Service::new(
                Vips::new([VIP4.into(), VIP6.into()]),
                ClientHash::new([7; 16], input),
                Ingress::SharedMac(SharedMac::unicast(SHARED)),
                OWN,
                HOST,
            )
        };
        let mut holdings = Holdings::none();
        for family in FAMILIES {
            let bucket = |kind| bucket_of(&service, client(family, kind), CLIENT_PORT);
            holdings.set(bucket(Kind::Owned), Holding::Owned);
            holdings.set(bucket(Kind::Granted), Holding::Granted(Slot::new(1).unwrap()));
            assert_eq!(holdings.get(bucket(Kind::Foreign)), Holding::Foreign);
        }
        let publication = Arc::new(Publication::new(Snapshot::waiting(service.clone())));
        let counters = Arc::<WorkerCounters>::default();
        let shared = Shared {
            publication: Arc::clone(&publication),
            flows: Arc::new(FlowTable::new(1024, [1, 2])),
            unresolved: Arc::new(ArrayQueue::new(4)),
            claims: Arc::new(ArrayQueue::new(4)),
        };
        let (port, host) = (MemoryPort::new(FRAMES), MemoryHost::default());
        let worker = Worker::new(port, host, shared, Arc::clone(&counters));
        let publisher = Publisher::new(publication);
        let lease_until_ns = NOW_NS + 1;
        let mut node = Self { worker, counters, publisher, service, holdings, lease_until_ns };
        node.publish();
        node
    }

    fn publish(&mut self) {
        self.publisher.publish(Snapshot {
            lease_until_ns: self.lease_until_ns,
            ..Snapshot::serving(self.service.clone(), self.holdings.clone())
        });
    }

    fn hold(&mut self, family: Family, kind: Kind, holding: Holding) {
        let bucket = bucket_of(&self.service, client(family, kind), CLIENT_PORT);
        self.holdings.set(bucket, holding);
        self.publish();
    }

    /// Lets one frame arrive, and says what became of it.
    fn fate(&mut self, bytes: &[u8]) -> Fate {
        let dropped = |counters: &WorkerCounters| {
            DropReason::all().map(|reason| counters.drops(reason)).collect::<Vec<_>>()
        };
        let before = dropped(&self.counters);
        self.worker.port_mut().arrive(bytes);
        assert_eq!(self.worker.poll_once(NOW_NS), 1);
        assert_eq!(self.worker.port().held(), 0, "a frame was lost");
        let after = dropped(&self.counters);
        let reasons: Vec<_> = DropReason::all()
            .zip(before.iter().zip(&after))
            .filter(|(_, (before, after))| before != after)
            .map(|(reason, _)| Fate::Dropped(reason.label()))
            .collect();
        let delivered = std::mem::take(&mut self.worker.host_mut().delivered);
        let sent = std::mem::take(&mut self.worker.port_mut().sent);
        let mut fates: Vec<_> = delivered.iter().map(|_| Fate::Host).collect();
        fates.extend(sent.into_iter().map(Fate::Sent));
        fates.extend(reasons);
        assert_eq!(fates.len(), 1, "one frame, one fate: {fates:?}");
        fates.pop().unwrap()
    }

    #[track_caller]
    fn passes(&mut self, bytes: &[u8]) {
        assert_eq!(self.fate(bytes), Fate::Host);
    }

    #[track_caller]
    fn drops(&mut self, bytes: &[u8], reason: &'static str) {
        assert_eq!(self.fate(bytes), Fate::Dropped(reason));
    }

    /// The frame leaves as it came, but to the peer and from this node.
    #[track_caller]
    fn forwards(&mut self, bytes: &[u8]) {
        let forwarded = [&PEER.0[..], &OWN.0, &bytes[12..]].concat();
        assert_eq!(self.fate(bytes), Fate::Sent(forwarded));
    }
}

fn bucket_of(service: &Service, client: IpAddr, port: u16) -> Bucket {
    Bucket::of_hash(service.client_hash.hash(client, port))
}

fn client(family: Family, kind: Kind) -> IpAddr {
    let n = kind as u16 + 1;
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 64, 0, n as u8)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, n)),
    }
}

fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1)),
    }
}

fn dns(client: IpAddr, link: Link) -> Vec<u8> {
    ip_frame(link, &ip(client, vip(client), 17, &udp(CLIENT_PORT, DNS, 30)))
}

fn segment(client: IpAddr, flags: u8, link: Link) -> Vec<u8> {
    ip_frame(link, &ip(client, vip(client), 6, &tcp(CLIENT_PORT, DNS, flags)))
}

#[test]
fn untracked_udp_and_echo_go_by_the_bucket() {
    for family in FAMILIES {
        let mut node = Node::new();
        for packet in [
            |client| dns(client, SHARED_LINK),
            |client| ip_frame(SHARED_LINK, &echo_request(client)),
            // SCTP: any protocol that we do not know.
            |client| ip_frame(SHARED_LINK, &ip(client, vip(client), 132, &[0; 12])),
        ] {
            node.passes(&packet(client(family, Kind::Owned)));
            node.drops(&packet(client(family, Kind::Foreign)), "not_owner");
            node.forwards(&packet(client(family, Kind::Granted)));
        }
    }
}

#[test]
fn a_connection_starts_where_the_bucket_is_and_stays_there() {
    for family in FAMILIES {
        let mut node = Node::new();
        let owned = client(family, Kind::Owned);
        node.drops(&segment(owned, ACK, SHARED_LINK), "no_flow");
        node.drops(&segment(owned, SYN | ACK, SHARED_LINK), "no_flow");
        node.passes(&segment(owned, SYN, SHARED_LINK));
        node.passes(&segment(owned, ACK, SHARED_LINK));
        node.hold(family, Kind::Owned, Holding::Foreign);
        node.passes(&segment(owned, ACK, SHARED_LINK));
        node.passes(&segment(owned, FIN | ACK, SHARED_LINK));
        node.passes(&segment(owned, ACK, SHARED_LINK));
        node.drops(&dns(owned, SHARED_LINK), "not_owner");

        let foreign = client(family, Kind::Foreign);
        node.drops(&segment(foreign, SYN, SHARED_LINK), "not_owner");
        for flags in [ACK, SYN | ACK, RST, RST | ACK, FIN | ACK] {
            node.drops(&segment(foreign, flags, SHARED_LINK), "no_flow");
        }
    }
}

#[test]
fn a_granted_bucket_keeps_its_connections_and_forwards_the_new() {
    for family in FAMILIES {
        let mut node = Node::new();
        let owned = client(family, Kind::Owned);
        node.passes(&segment(owned, SYN, SHARED_LINK));
        node.hold(family, Kind::Owned, Holding::Granted(Slot::new(1).unwrap()));
        node.passes(&segment(owned, ACK, SHARED_LINK));
        let other_port = |flags| {
            let segment = tcp(CLIENT_PORT + 1, DNS, flags);
            ip_frame(SHARED_LINK, &ip(owned, vip(owned), 6, &segment))
        };
        node.forwards(&other_port(SYN));
        node.drops(&other_port(ACK), "no_flow");
    }
}

#[test]
fn what_a_member_forwards_is_served_before_the_bucket_is_ours_and_never_sent_on() {
    for family in FAMILIES {
        let mut node = Node::new();
        let foreign = client(family, Kind::Foreign);
        node.passes(&dns(foreign, FORWARDED));
        node.passes(&segment(foreign, SYN, FORWARDED));
        node.passes(&segment(foreign, ACK, SHARED_LINK));
        node.passes(&dns(client(family, Kind::Granted), FORWARDED));
        // The same from one who is not a member.
        let stranger = Link { from: ROUTER, ..FORWARDED };
        node.drops(&dns(foreign, stranger), "not_owner");
    }
}

#[test]
fn what_comes_by_the_wire_and_by_the_giver_is_served_once() {
    for family in FAMILIES {
        let mut node = Node::new();
        let taken = client(family, Kind::Foreign);
        let query = |n: u16, link| {
            ip_frame(link, &ip(taken, vip(taken), 17, &udp(CLIENT_PORT + n, DNS, 30)))
        };
        // Too early for the wire, so the giver's copy counts.
        node.drops(&query(0, SHARED_LINK), "not_owner");
        node.hold(family, Kind::Foreign, Holding::TakenOver);
        node.passes(&query(0, FORWARDED));
        // From now on the wire is first.
        for n in 1..100 {
            node.passes(&query(n, SHARED_LINK));
            node.drops(&query(n, FORWARDED), "came_twice");
        }
        node.passes(&segment(taken, SYN, SHARED_LINK));
        node.passes(&segment(taken, SYN, FORWARDED));
        // The giver has stopped: a client may say the same again.
        node.hold(family, Kind::Foreign, Holding::Owned);
        for _ in 0..2 {
            node.passes(&query(1, SHARED_LINK));
        }
    }
}

#[test]
fn without_a_lease_only_what_is_tracked_is_served() {
    for family in FAMILIES {
        let mut node = Node::new();
        let owned = client(family, Kind::Owned);
        node.passes(&segment(owned, SYN, SHARED_LINK));
        node.lease_until_ns = NOW_NS - 1;
        node.publish();
        node.passes(&segment(owned, ACK, SHARED_LINK));
        node.drops(&dns(owned, SHARED_LINK), "lease_expired");
        node.drops(&dns(client(family, Kind::Granted), SHARED_LINK), "lease_expired");
        node.drops(&dns(client(family, Kind::Foreign), FORWARDED), "lease_expired");
        node.drops(&dns(client(family, Kind::Foreign), SHARED_LINK), "not_owner");
    }
    let mut node = Node::new();
    node.lease_until_ns = NOW_NS - 1;
    node.publish();
    let (owned4, owned6) = owned_askers();
    node.drops(&arp_request(owned4, VIP4, MacAddr::BROADCAST), "lease_expired");
    node.drops(
        &solicitation(owned6, VIP6, MacAddr([0x33, 0x33, 0xff, 0, 0, 0x53])),
        "lease_expired",
    );
}

#[test]
fn a_sticky_service_stays_where_its_flow_began() {
    for family in FAMILIES {
        let mut node = Node::new();
        let owned = client(family, Kind::Owned);
        let quic = |client| {
            ip_frame(SHARED_LINK, &ip(client, vip(client), 17, &udp(CLIENT_PORT, QUIC, 30)))
        };
        node.passes(&quic(owned));
        node.hold(family, Kind::Owned, Holding::Foreign);
        node.passes(&quic(owned));
        node.drops(&quic(client(family, Kind::Foreign)), "not_owner");
    }
}

#[test]
fn an_icmp_error_follows_the_flow_that_it_is_about() {
    for family in FAMILIES {
        let mut node = Node::new();
        let owned = client(family, Kind::Owned);
        let about = |client: IpAddr, transport: &[u8], protocol| {
            let quoted = ip(vip(client), client, protocol, transport);
            ip_frame(SHARED_LINK, &too_big(router(family), &quoted))
        };
        let to_owned = about(owned, &tcp(DNS, CLIENT_PORT, ACK)[..8], 6);
        let to_foreign = about(client(family, Kind::Foreign), &tcp(DNS, CLIENT_PORT, ACK)[..8], 6);
        node.passes(&to_owned);
        node.drops(&to_foreign, "not_owner");
        node.passes(&segment(owned, SYN, SHARED_LINK));
        node.hold(family, Kind::Owned, Holding::Foreign);
        node.passes(&to_owned);
        node.drops(&about(owned, &udp(DNS, CLIENT_PORT, 0), 17), "not_owner");
        // An error about a packet that no VIP sent.
        let quoted = ip(router(family), owned, 17, &udp(DNS, CLIENT_PORT, 0));
        node.drops(&ip_frame(SHARED_LINK, &too_big(router(family), &quoted)), "not_vip");
    }
}

/// The two fragments of a datagram of `protocol`.
fn pieces(client: IpAddr, protocol: u8, first: &[u8], id: u16) -> [Vec<u8>; 2] {
    [(first, (0, true, id)), (&[0; 32], (64, false, id))].map(|(payload, piece)| {
        ip_frame(SHARED_LINK, &ip_piece(client, vip(client), protocol, payload, Some(piece)))
    })
}

#[test]
fn fragments_go_where_their_datagram_goes() {
    for family in FAMILIES {
        let mut node = Node::new();
        let datagram = udp(CLIENT_PORT, DNS, 56 + 32);
        let [first, later] = pieces(client(family, Kind::Owned), 17, &datagram[..64], 1);
        // Out of order too: with the address alone in the hash, every fragment has its bucket.
        node.passes(&later);
        node.passes(&first);
        let [first, later] = pieces(client(family, Kind::Foreign), 17, &datagram[..64], 1);
        node.drops(&first, "not_owner");
        node.drops(&later, "not_owner");

        // A connection that stays behind when its bucket moves keeps its fragments.
        let owned = client(family, Kind::Owned);
        node.passes(&segment(owned, SYN, SHARED_LINK));
        node.hold(family, Kind::Owned, Holding::Foreign);
        let mut start = tcp(CLIENT_PORT, DNS, ACK);
        start.resize(64, 0);
        let [first, later] = pieces(owned, 6, &start, 2);
        node.drops(&later, "not_owner");
        node.passes(&first);
        node.passes(&later);
    }
}

#[test]
fn with_ports_in_the_hash_the_first_fragment_decides() {
    for family in FAMILIES {
        let mut node = Node::with(HashInput::AddressAndPort);
        let datagram = udp(CLIENT_PORT, DNS, 56 + 32);
        let [first, later] = pieces(client(family, Kind::Owned), 17, &datagram[..64], 1);
        node.drops(&later, "fragment_orphan");
        node.passes(&first);
        node.passes(&later);
        let [first, later] = pieces(client(family, Kind::Foreign), 17, &datagram[..64], 1);
        node.drops(&first, "not_owner");
        node.drops(&later, "fragment_orphan");
    }
}

/// An asker of each family whose bucket the node owns.
fn owned_askers() -> (Ipv4Addr, Ipv6Addr) {
    let (IpAddr::V4(v4), IpAddr::V6(v6)) =
        (client(Family::V4, Kind::Owned), client(Family::V6, Kind::Owned))
    else {
        unreachable!()
    };
    // Askers are hashed without a port, and `Node::new` hashes clients without one too.
    (v4, v6)
}

#[test]
fn a_question_for_a_vip_is_answered_by_the_owner_of_the_askers_bucket() {
    let mut node = Node::new();
    let (IpAddr::V4(foreign4), IpAddr::V6(foreign6)) =
        (client(Family::V4, Kind::Foreign), client(Family::V6, Kind::Foreign))
    else {
        unreachable!()
    };
    let (owned4, owned6) = owned_askers();
    let group = MacAddr([0x33, 0x33, 0xff, 0, 0, 0x53]);

    // Broadcast at first, and unicast to the shared address when the asker checks its entry.
    for to in [MacAddr::BROADCAST, SHARED] {
        let Fate::Sent(reply) = node.fate(&arp_request(owned4, VIP4, to)) else { panic!("{to}") };
        assert_eq!(reply[..6], ROUTER.0, "to the asker");
        assert_eq!(reply[6..12], OWN.0, "never from the shared address");
        assert_eq!(reply[22..28], SHARED.0, "says the shared address");
        node.drops(&arp_request(foreign4, VIP4, to), "not_owner");
    }
    for to in [group, SHARED] {
        let Fate::Sent(reply) = node.fate(&solicitation(owned6, VIP6, to)) else { panic!("{to}") };
        assert_eq!(reply[..6], ROUTER.0, "to the asker");
        assert_eq!(reply[6..12], OWN.0, "never from the shared address");
        assert_eq!(reply[reply.len() - 6..], SHARED.0, "says the shared address");
        node.drops(&solicitation(foreign6, VIP6, to), "not_owner");
    }
    assert_eq!(node.counters.get(Count::ArpReplies), 2);
    assert_eq!(node.counters.get(Count::NeighborAdvertisements), 2);
}

#[test]
fn other_neighbour_traffic_is_counted_and_not_answered() {
    let mut node = Node::new();
    let (owned4, owned6) = owned_askers();
    let stranger = MacAddr([0x02, 0x66, 0, 0, 0, 1]);
    let broadcast = Link { from: stranger, to: MacAddr::BROADCAST, vlan: None };
    let elsewhere = MacAddr([0x02, 0x77, 0, 0, 0, 1]);
    node.drops(&arp_request(owned4, Ipv4Addr::new(192, 0, 2, 9), MacAddr::BROADCAST), "not_vip");
    node.drops(&arp_request(owned4, VIP4, elsewhere), "wrong_mac");
    node.drops(&arp(2, stranger, owned4, VIP4, broadcast), "not_a_request");
    node.drops(&arp(2, stranger, VIP4, owned4, broadcast), "foreign_claim");
    node.drops(&arp(1, stranger, VIP4, VIP4, broadcast), "foreign_claim");
    node.drops(&arp(2, SHARED, VIP4, owned4, broadcast), "not_a_request");
    let group = MacAddr([0x33, 0x33, 0xff, 0, 0, 0x53]);
    let other = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x54);
    node.drops(&solicitation(owned6, other, group), "not_vip");
    node.drops(&solicitation(owned6, VIP6, elsewhere), "wrong_mac");
}

#[test]
fn frames_for_other_addresses_and_segments_are_not_ours() {
    for family in FAMILIES {
        let mut node = Node::new();
        let owned = client(family, Kind::Owned);
        let elsewhere = Link { to: MacAddr([0x02, 0x77, 0, 0, 0, 1]), ..SHARED_LINK };
        node.drops(&dns(owned, elsewhere), "wrong_mac");
        node.drops(&dns(owned, Link { vlan: Some(9), ..SHARED_LINK }), "wrong_vlan");
        let to_own = ip(owned, router(family), 17, &udp(CLIENT_PORT, DNS, 30));
        node.drops(&ip_frame(SHARED_LINK, &to_own), "not_vip");
        node.drops(&[0; 10], "ethernet_truncated");
    }
}

#[test]
fn the_host_gets_the_frame_for_itself_and_without_a_tag() {
    for family in FAMILIES {
        for vlan in [None, Some(9)] {
            let mut node = Node::new();
            node.service.vlan = vlan;
            node.publish();
            let link = Link { vlan, ..SHARED_LINK };
            let sent = dns(client(family, Kind::Owned), link);
            node.worker.port_mut().arrive(&sent);
            node.worker.poll_once(NOW_NS);
            let untagged = dns(client(family, Kind::Owned), Link { vlan: None, ..link });
            let expected = [&HOST.0[..], &ROUTER.0, &untagged[12..]].concat();
            assert_eq!(node.worker.host().delivered.len(), 1);
            let delivered = &node.worker.host().delivered[0];
            assert_eq!(
                delivered[..expected.len().min(delivered.len())],
                expected[..delivered.len()]
            );
            assert!(delivered.len() >= 14 + 20 + 8 + 30, "cut short: {}", delivered.len());
        }
    }
}

#[test]
fn a_host_that_takes_no_more_and_a_frame_too_long_are_counted() {
    let mut node = Node::new();
    let owned = client(Family::V4, Kind::Owned);
    node.worker.host_mut().room = Some(1);
    node.passes(&dns(owned, SHARED_LINK));
    node.drops(&dns(owned, SHARED_LINK), "host_full");
    node.worker.host_mut().room = None;
    let long = |payload| {
        ip_frame(SHARED_LINK, &ip(owned, VIP4.into(), 17, &udp(CLIENT_PORT, DNS, payload)))
    };
    node.passes(&long(1500 - 28));
    node.drops(&long(1500 - 27), "host_too_long");
}

#[test]
fn a_full_ring_or_an_unknown_peer_loses_a_packet_and_no_frame() {
    let mut node = Node::new();
    let granted = client(Family::V6, Kind::Granted);
    node.worker.port_mut().limit_tx(0);
    node.drops(&dns(granted, SHARED_LINK), "tx_full");
    node.worker.port_mut().limit_tx(usize::MAX);
    node.service.peer_macs = [None; SLOTS];
    node.publish();
    node.drops(&dns(granted, SHARED_LINK), "peer_unknown");
    for _ in 0..2 * FRAMES {
        node.passes(&dns(client(Family::V6, Kind::Owned), SHARED_LINK));
    }
}

#[test]
fn the_host_sends_by_way_of_the_worker_with_egress_tap() {
    for family in FAMILIES {
        for vlan in [None, Some(9)] {
            let mut node = Node::new();
            let foreign = client(family, Kind::Foreign);
            let default = match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let gateway = Some(router(family));
            node.service.vlan = vlan;
            node.service.egress = Some(Egress {
                routes: [Route { network: default, prefix_len: 0, gateway }].into(),
                neighbors: [(router(family), ROUTER)].into(),
            });
            node.publish();
            let from_host = Link { from: HOST, to: MacAddr([0; 6]), vlan: None };
            let on_wire = Link { from: OWN, to: ROUTER, vlan };
            let back = Link { vlan, ..SHARED_LINK };

            // A connection that the host opens to somebody in another node's bucket.
            // Long enough to need no padding.
            let syn = [tcp(5000, 853, SYN), vec![0; 20]].concat();
            let open = ip(vip(foreign), foreign, 6, &syn);
            node.worker.host_mut().send(ip_frame(from_host, &open));
            assert_eq!(node.worker.poll_once(NOW_NS), 1);
            assert_eq!(node.worker.port_mut().sent.pop(), Some(ip_frame(on_wire, &open)));
            let answer = ip(foreign, vip(foreign), 6, &tcp(853, 5000, SYN | ACK));
            node.passes(&ip_frame(back, &answer));

            // A datagram likewise.
            let ask = ip(vip(foreign), foreign, 17, &udp(5000, DNS, 40));
            node.worker.host_mut().send(ip_frame(from_host, &ask));
            node.worker.poll_once(NOW_NS);
            assert_eq!(node.worker.port_mut().sent.pop(), Some(ip_frame(on_wire, &ask)));
            let answer = ip(foreign, vip(foreign), 17, &udp(DNS, 5000, 40));
            node.passes(&ip_frame(back, &answer));

            // From another address, or to a next hop that is not resolved.
            let other = ip(router(family), foreign, 17, &udp(5000, DNS, 40));
            node.worker.host_mut().send(ip_frame(from_host, &other));
            node.worker.poll_once(NOW_NS);
            assert_eq!(node.counters.drops(DropReason::NotFromVip), 1);
            node.service.egress.as_mut().unwrap().neighbors = [].into();
            node.publish();
            node.worker.host_mut().send(ip_frame(from_host, &ask));
            node.worker.poll_once(NOW_NS);
            assert_eq!(node.counters.drops(DropReason::NoNeighbor), 1);
            assert_eq!(node.worker.port_mut().sent, Vec::<Vec<u8>>::new());
            assert_eq!(node.worker.port().held(), 0, "a frame was lost");
        }
    }
}

#[test]
fn everything_owned_is_everything_passed() {
    let mut node = Node::new();
    node.holdings = Holdings::owning(&BucketSet::FULL);
    node.publish();
    for n in 0..200 {
        for client in [
            IpAddr::V4(Ipv4Addr::new(10, 64, 7, n)),
            IpAddr::V6(Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 7, n.into())),
        ] {
            node.passes(&dns(client, SHARED_LINK));
        }
    }
    assert_eq!(node.counters.get(Count::Passed), 400);
    assert_eq!(node.counters.drops_total(), 0);
}
