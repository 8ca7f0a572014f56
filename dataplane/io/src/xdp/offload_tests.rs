//! The offload against the worker: what the loaded program does with a frame by itself, a worker would do
//! too. The program runs by `BPF_PROG_TEST_RUN`, on no interface. Needs root.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use proptest::prelude::*;
use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::decide::{self, Now};
use vipdp_core::flow::{BucketScan, FlowState, FlowTable};
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::offload::{OffloadMode, OffloadTable, OffloadWay};
use vipdp_core::parse::parse;
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::{
    Holding, Holdings, Ingress, Service, SharedMac, Snapshot, Vips as VipSet,
};
use vipdp_core::verdict::{DropReason, Verdict};
use vipdp_core::wire::ethernet::MacAddr;

use super::offload::{Offload, OffloadFacts};
use super::{
    COUNTERS, OFFLOAD_DROPPED, OFFLOAD_PASSED, Vips, load, take, take_offload, take_vips, typed,
};
use crate::frames::{self, Link, OWN, PEER, ROUTER, SHARED, SHARED_LINK, VIP4, VIP6, tcp_flags};

const HASH_KEY: [u8; 16] = *b"a cluster's key!";
const DNS: u16 = 53;
const QUIC: u16 = 443;
const CLIENT_PORT: u16 = 40_000;
const MTU: u16 = 1500;
const FLOWS: usize = 1024;

/// What the program did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Left it to the worker, or where there is none to whom such frames go.
    User,
    Dropped,
    Passed,
}

/// The program, loaded and attached to nothing.
struct Loaded {
    ebpf: Ebpf,
    offload: Offload,
    frames: PerCpuArray<MapData, u64>,
    _vips: Vips,
}

impl Loaded {
    fn new(input: HashInput) -> Self {
        let mut ebpf = load().unwrap();
        let mut vips = take_vips(&mut ebpf).unwrap();
        vips.set(&[VIP4.into(), VIP6.into()]).unwrap();
        let frames = typed("frames", take(&mut ebpf, "frames")).unwrap();
        let mut offload = take_offload(&mut ebpf).unwrap();
        offload
            .switch_on(&OffloadFacts {
                hash_key: HASH_KEY,
                hash_input: input,
                shared: SharedMac::unicast(SHARED),
                own_mac: OWN,
                sticky_udp_ports: &[QUIC, 65_535],
                host_mtu: MTU,
            })
            .unwrap();
        super::verified(&mut ebpf).unwrap();
        Self { ebpf, offload, frames, _vips: vips }
    }

    fn counts(&self) -> Vec<u64> {
        let sum = |index| self.frames.get(&index, 0).unwrap().iter().sum();
        (0..COUNTERS).map(sum).collect()
    }

    /// Runs the program on a frame. What it passes is the same frame, to the NIC.
    fn fate(&self, frame: &[u8]) -> Fate {
        let program: &Xdp = self.ebpf.program("vipdp").unwrap().try_into().unwrap();
        let mut out = vec![0; frame.len()];
        let before = self.counts();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: 1,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).unwrap();
        let after = self.counts();
        let changed: Vec<_> = (0..COUNTERS)
            .filter(|&index| before[index as usize] != after[index as usize])
            .collect();
        match changed[..] {
            [OFFLOAD_DROPPED] => Fate::Dropped,
            [OFFLOAD_PASSED] => {
                assert_eq!(result.return_value, 2, "XDP_PASS");
                assert_eq!(out[..6], OWN.0);
                assert_eq!(out[6..], frame[6..]);
                Fate::Passed
            }
            [_] => {
                assert_eq!(out, frame);
                Fate::User
            }
            _ => panic!("counted {changed:?}"),
        }
    }
}

/// A node as its workers see it, and the program beside it.
struct Node {
    loaded: Loaded,
    mode: OffloadMode,
    service: Service,
    holdings: Holdings,
    flows: FlowTable,
    now: Now,
}

impl Node {
    fn new(mode: OffloadMode, input: HashInput) -> Self {
        let mut peer_macs = [None; SLOTS];
        peer_macs[1] = Some(PEER);
        let service = Service {
            sticky_udp_ports: [QUIC, 65_535].into(),
            host_mtu: MTU,
            peer_macs,
            ..Service::new(
                VipSet::new([VIP4.into(), VIP6.into()]),
                ClientHash::new(HASH_KEY, input),
                Ingress::SharedMac(SharedMac::unicast(SHARED)),
                OWN,
                frames::HOST,
            )
        };
        Self {
            loaded: Loaded::new(input),
            mode,
            service,
            holdings: Holdings::none(),
            flows: FlowTable::new(FLOWS, [1, 2]),
            now: Now::of_ns(1_000_000_000_000),
        }
    }

    fn bucket(&self, client: IpAddr) -> Bucket {
        Bucket::of_hash(self.service.client_hash.hash(client, CLIENT_PORT))
    }

    /// A client in a bucket of each holding, and in a foreign one where a flow is left.
    fn client(&self, is_v4: bool, holding: &str) -> IpAddr {
        let wanted = |bucket: Bucket| match (holding, self.holdings.get(bucket)) {
            ("owned", Holding::Owned) | ("lately", Holding::TakenOver) => true,
            ("granted", Holding::Granted(_)) => true,
            ("foreign", Holding::Foreign) => bucket.index() % 8 < 4,
            ("flow left", Holding::Foreign) => bucket.index() % 8 >= 4,
            _ => false,
        };
        let clients = (1..=u32::MAX).map(|number| match is_v4 {
            true => IpAddr::V4(Ipv4Addr::from_bits(0x0a40_0000 + number)),
            false => IpAddr::V6(Ipv6Addr::from_bits(0xfd64 << 112 | u128::from(number))),
        });
        clients.into_iter().find(|&client| wanted(self.bucket(client))).expect("some client")
    }

    /// Deals the buckets out by eighths: an eighth of each holding, the rest foreign, in a half of which
    /// a flow is left. Everything is as the control thread would have it after a while.
    fn deal(&mut self) {
        for bucket in Bucket::all() {
            let holding = match bucket.index() / 64 % 8 {
                0 | 1 => Holding::Owned,
                2 => Holding::TakenOver,
                3 => Holding::Granted(Slot::new(1).unwrap()),
                _ => Holding::Foreign,
            };
            self.holdings.set(bucket, holding);
        }
        let mut in_use = self.in_use();
        in_use.insert_all(&self.found());
        let table = OffloadTable::to_user().passing(self.mode, &self.holdings);
        let table = table.closed(&table.ajar(&self.holdings), &in_use);
        self.loaded.offload.change(|_| table.clone());
        self.loaded.offload.set_lease(u64::MAX);
    }

    /// The buckets of the flows that are there: a forwarded frame may have begun one in any.
    fn found(&self) -> BucketSet {
        let mut scan = BucketScan::default();
        while self.flows.scan(&mut scan, usize::MAX, self.now.seconds) {}
        scan.found().clone()
    }

    /// The buckets that may have a flow, held or not.
    fn in_use(&self) -> BucketSet {
        Bucket::all().filter(|bucket| bucket.index() % 8 >= 4).collect()
    }

    /// Enters a TCP connection of a client whose bucket may have flows.
    fn connect(&self, client: IpAddr) {
        let hash = self.service.client_hash.hash(client, CLIENT_PORT);
        let key = self.flows.key(hash, CLIENT_PORT, frames::vip(client), DNS, 6);
        let bucket = Bucket::of_hash(hash);
        assert!(self.in_use().contains(bucket));
        self.flows.insert(key, bucket, FlowState::Established, self.now.seconds);
    }

    /// What a worker would do.
    fn verdict(&self, frame: &[u8]) -> Verdict {
        let snapshot = Snapshot::serving(self.service.clone(), self.holdings.clone());
        match parse(frame) {
            Ok(_) if frame.len() > usize::from(MTU) + 14 => Verdict::Drop(DropReason::HostTooLong),
            Ok(parsed) => {
                let lookup = decide::lookup(&snapshot.service, &self.flows, &parsed);
                let decision = decide::decide(&snapshot, &self.flows, self.now, &lookup);
                match decision.may_come_twice {
                    // It depends on what has come before.
                    Some(_) => Verdict::Drop(DropReason::CameTwice),
                    None => decision.verdict,
                }
            }
            Err(error) => Verdict::Drop(DropReason::Malformed(error)),
        }
    }
}

/// The decision table: the kind of frame, whose bucket it is of, what a worker does with it, and what the
/// program does in mode "drop" and in mode "full". `u`: leaves it to the worker; `d`: drops; `p`: passes.
#[rustfmt::skip]
const DECISIONS: &[(&str, &str, &str, &str)] = &[
    // kind              holding      worker          program
    ("udp",              "foreign",   "not_owner",    "dd"),
    ("udp",              "flow left", "not_owner",    "uu"),
    ("udp",              "owned",     "pass",         "up"),
    ("udp",              "lately",    "came_twice",   "uu"),
    ("udp",              "granted",   "forward",      "uu"),
    ("sticky udp",       "foreign",   "not_owner",    "dd"),
    ("sticky udp",       "owned",     "pass",         "uu"),
    ("syn",              "foreign",   "not_owner",    "dd"),
    ("syn",              "flow left", "not_owner",    "uu"),
    ("syn",              "owned",     "pass",         "uu"),
    ("ack",              "foreign",   "no_flow",      "dd"),
    ("ack",              "flow left", "no_flow",      "uu"),
    ("ack of a flow",    "flow left", "pass",         "uu"),
    ("ack",              "owned",     "no_flow",      "uu"),
    ("echo",             "foreign",   "not_owner",    "dd"),
    ("echo",             "owned",     "pass",         "uu"),
    ("icmp error",       "foreign",   "not_owner",    "uu"),
    ("icmp error",       "owned",     "pass",         "uu"),
    ("first fragment",   "owned",     "pass",         "uu"),
    ("later fragment",   "owned",     "pass",         "uu"),
    ("another protocol", "foreign",   "not_owner",    "uu"),
    ("another protocol", "owned",     "pass",         "uu"),
    ("to own mac",       "owned",     "pass",         "uu"),
    ("to own mac",       "granted",   "forward",      "uu"),
    ("to own mac",       "foreign",   "not_owner",    "uu"),
    ("to another mac",   "foreign",   "wrong_mac",    "uu"),
    ("to another mac",   "owned",     "wrong_mac",    "uu"),
    ("tagged",           "foreign",   "wrong_vlan",   "dd"),
    ("tagged",           "owned",     "wrong_vlan",   "uu"),
    ("priority tag",     "owned",     "pass",         "uu"),
    ("too long",         "owned",     "host_too_long", "uu"),
    ("longest",          "owned",     "pass",         "up"),
    ("udp cut short",    "foreign",   "malformed",    "dd"),
    ("udp cut short",    "owned",     "malformed",    "uu"),
    ("no other client",  "owned",     "malformed",    "uu"),
];

/// A frame of a kind of the table.
fn frame_of(node: &Node, kind: &str, client: IpAddr) -> Vec<u8> {
    let vip = frames::vip(client);
    let icmp_kind = if client.is_ipv4() { "v4" } else { "v6" };
    let udp = |payload| frames::ip(client, vip, 17, &frames::udp(CLIENT_PORT, DNS, payload));
    let tcp = |flags| frames::ip(client, vip, 6, &frames::tcp(CLIENT_PORT, DNS, flags));
    let linked = |from, to, vlan, packet: &[u8]| frames::ip_frame(Link { from, to, vlan }, packet);
    let shared = |packet: Vec<u8>| frames::ip_frame(SHARED_LINK, &packet);
    let headers = if icmp_kind == "v4" { 28 } else { 48 };
    match kind {
        "udp" => shared(udp(30)),
        "sticky udp" => shared(frames::ip(client, vip, 17, &frames::udp(CLIENT_PORT, QUIC, 1_200))),
        "syn" => shared(tcp(tcp_flags::SYN)),
        "ack" => shared(tcp(tcp_flags::ACK)),
        "ack of a flow" => {
            node.connect(client);
            shared(tcp(tcp_flags::ACK))
        }
        "echo" => shared(frames::echo_request(client)),
        "icmp error" => {
            let router: IpAddr = match client {
                IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, 9).into(),
                IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9).into(),
            };
            let quoted = frames::ip(vip, client, 17, &frames::udp(DNS, CLIENT_PORT, 0));
            shared(frames::too_big(router, &quoted))
        }
        "first fragment" => {
            let piece = frames::udp(CLIENT_PORT, DNS, 56);
            shared(frames::ip_piece(client, vip, 17, &piece, Some((0, true, 7))))
        }
        "later fragment" => {
            shared(frames::ip_piece(client, vip, 17, &[0; 8], Some((64, false, 7))))
        }
        "another protocol" => shared(frames::ip(client, vip, 47, &[0; 8])),
        "to own mac" => linked(ROUTER, OWN, None, &udp(30)),
        "to another mac" => linked(ROUTER, MacAddr([2, 9, 9, 9, 9, 9]), None, &udp(30)),
        "tagged" => linked(ROUTER, SHARED, Some(7), &udp(30)),
        "priority tag" => linked(ROUTER, SHARED, Some(0), &udp(30)),
        "too long" => shared(udp(usize::from(MTU) + 1 - headers)),
        "longest" => shared(udp(usize::from(MTU) - headers)),
        "udp cut short" => {
            let mut datagram = frames::udp(CLIENT_PORT, DNS, 30);
            datagram[5] += 1;
            shared(frames::ip(client, vip, 17, &datagram))
        }
        "no other client" => linked(MacAddr([3, 0, 0, 0, 0, 1]), SHARED, None, &udp(30)),
        other => panic!("{other}"),
    }
}

fn label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Forward(_) => "forward",
        Verdict::Drop(DropReason::Malformed(_)) => "malformed",
        Verdict::Drop(reason) => reason.label(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_decision_table_holds_of_the_worker_and_of_the_program() {
    for (column, mode) in [OffloadMode::Drop, OffloadMode::Full].into_iter().enumerate() {
        for is_v4 in [true, false] {
            let mut node = Node::new(mode, HashInput::Address);
            node.deal();
            for &(kind, holding, worker, program) in DECISIONS {
                let what = format!("{kind}, {holding}, {mode:?}, IPv4: {is_v4}");
                let frame = frame_of(&node, kind, node.client(is_v4, holding));
                assert_eq!(label(node.verdict(&frame)), worker, "{what}");
                let expected = match program.as_bytes()[column] {
                    b'd' => Fate::Dropped,
                    b'p' => Fate::Passed,
                    _ => Fate::User,
                };
                assert_eq!(node.loaded.fate(&frame), expected, "{what}");

                // Without a lease, all is the worker's.
                node.loaded.offload.set_lease(1);
                assert_eq!(node.loaded.fate(&frame), Fate::User, "{what}, lease over");
                node.deal();
                node.flows = FlowTable::new(FLOWS, [1, 2]);
            }
        }
    }
}

#[test]
fn fragments_are_dropped_where_the_address_alone_tells_their_bucket() {
    for (input, expected) in
        [(HashInput::Address, Fate::Dropped), (HashInput::AddressAndPort, Fate::User)]
    {
        let mut node = Node::new(OffloadMode::Drop, input);
        node.deal();
        let client = node.client(true, "foreign");
        for kind in ["first fragment", "later fragment"] {
            let frame = frame_of(&node, kind, client);
            assert!(matches!(node.verdict(&frame), Verdict::Drop(_)), "{kind}");
            assert_eq!(node.loaded.fate(&frame), expected, "{kind}, {input:?}");
        }
        // In IPv6 they are behind a header that is not read.
        let frame = frame_of(&node, "first fragment", node.client(false, "foreign"));
        assert_eq!(node.loaded.fate(&frame), Fate::User);
    }
}

/// A member forwards the first packet of a connection when the bucket is about to be ours: what follows
/// it by the shared address must not be dropped.
#[test]
fn a_forwarded_packet_opens_its_bucket() {
    for is_v4 in [true, false] {
        let mut node = Node::new(OffloadMode::Drop, HashInput::AddressAndPort);
        node.deal();
        let client = node.client(is_v4, "foreign");
        let ack = frame_of(&node, "ack", client);
        assert_eq!(node.loaded.fate(&ack), Fate::Dropped);
        let syn = frames::tcp(CLIENT_PORT, DNS, tcp_flags::SYN);
        let syn = frames::ip(client, frames::vip(client), 6, &syn);
        assert_eq!(node.loaded.fate(&frames::ip_frame(frames::FORWARDED, &syn)), Fate::User);
        assert_eq!(node.loaded.fate(&ack), Fate::User);
        let bucket = node.bucket(client);
        let table = node.loaded.offload.table();
        assert_eq!(table.way(bucket), OffloadWay::Reopened);
        let others = Bucket::all().filter(|&one| table.way(one) == OffloadWay::Reopened);
        assert_eq!(others.count(), 1);
        // Nor is what was open closed under it: who began to look for flows before sees that one came.
        let granted = node.client(is_v4, "granted");
        let bucket = node.bucket(granted);
        assert_eq!(table.way(bucket), OffloadWay::ToUser);
        node.loaded.fate(&frame_of(&node, "to own mac", granted));
        assert_eq!(node.loaded.offload.table().way(bucket), OffloadWay::Reopened);
    }
}

/// What a random frame is made of, and what is spoilt in it.
#[derive(Clone, Debug)]
struct Recipe {
    client: u8,
    port: u16,
    is_v4: bool,
    to: u8,
    from: u8,
    vlan: Option<u16>,
    protocol: u8,
    payload: Vec<u8>,
    vip_port: u16,
    piece: Option<(u16, bool, u16)>,
    source: u8,
    spoilt: Vec<(usize, u8)>,
    cut: usize,
    options: bool,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let addressing = (any::<u8>(), any::<bool>(), 0..12_u8, 0..12_u8, 0..10_u8);
    let vlan = prop_oneof![8 => Just(None), 1 => (0..4096_u16).prop_map(Some)];
    let protocol =
        prop_oneof![6 => Just(17_u8), 3 => Just(6), 2 => Just(1), 2 => Just(58), 1 => any::<u8>()];
    let ports = (
        prop_oneof![Just(CLIENT_PORT), any::<u16>()],
        prop_oneof![Just(DNS), Just(QUIC), Just(65_535), any::<u16>()],
    );
    let piece = prop_oneof![
        6 => Just(None),
        1 => (0..4_u16, any::<bool>(), any::<u16>()).prop_map(|(at, more, id)| Some((at * 8, more, id))),
    ];
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    let spoilt = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec((0..90_usize, any::<u8>()), 1..4),
    ];
    let cut = prop_oneof![5 => Just(0), 1 => 0..60_usize];
    let shape = (vlan, protocol, ports, piece, payload);
    (addressing, shape, spoilt, cut, prop::bool::weighted(0.1)).prop_map(
        |((client, is_v4, to, from, source), shape, spoilt, cut, options)| {
            let (vlan, protocol, (port, vip_port), piece, payload) = shape;
            Recipe {
                client,
                port,
                is_v4,
                to,
                from,
                vlan,
                protocol,
                payload,
                vip_port,
                piece,
                source,
                spoilt,
                cut,
                options,
            }
        },
    )
}

impl Recipe {
    fn client(&self) -> IpAddr {
        match (self.is_v4, self.source) {
            (true, 0) => Ipv4Addr::new(224 + self.client / 8, 0, 0, 1).into(),
            (true, 1) => Ipv4Addr::new(127, 0, 0, self.client).into(),
            (true, 2) => Ipv4Addr::from_bits(u32::from(self.client % 2).wrapping_neg()).into(),
            (true, _) => Ipv4Addr::new(10, 64, 0, self.client).into(),
            (false, 0) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
            (false, 1) => Ipv6Addr::from_bits(u128::from(self.client % 3)).into(),
            (false, 2) => Ipv4Addr::new(10, 64, 0, self.client).to_ipv6_mapped().into(),
            (false, _) => Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, self.client.into()).into(),
        }
    }

    fn payload(&self) -> Vec<u8> {
        let mut bytes = match self.protocol {
            17 => frames::udp(self.port, self.vip_port, self.payload.len()),
            6 => {
                frames::tcp(self.port, self.vip_port, self.payload.first().map_or(2, |b| b & 0x17))
            }
            1 => vec![8, 0, 0, 0, 0, 1, 0, 1],
            58 => vec![128, 0, 0, 0, 0, 1, 0, 1],
            _ => self.payload.clone(),
        };
        // So that pieces are of the length that pieces have.
        bytes.resize(bytes.len().div_ceil(8) * 8, 0);
        bytes
    }

    fn frame(&self) -> Vec<u8> {
        let client = self.client();
        let (payload, vip) = (self.payload(), frames::vip(client));
        let mut packet = frames::ip_piece(client, vip, self.protocol, &payload, self.piece);
        if self.options && self.is_v4 {
            packet[0] = 0x46;
            packet.splice(20..20, [1, 1, 1, 0]);
        }
        let to = match self.to {
            0 => PEER,
            1 | 2 => OWN,
            _ => SHARED,
        };
        let from = match self.from {
            0 => MacAddr([3, 0, 0, 0, 0, 1]),
            1 => PEER,
            _ => ROUTER,
        };
        let mut frame = frames::ip_frame(Link { from, to, vlan: self.vlan }, &packet);
        for &(at, byte) in &self.spoilt {
            let len = frame.len();
            frame[at % len] = byte;
        }
        frame.truncate((frame.len() - self.cut.min(frame.len())).max(14));
        frame
    }
}

/// What the program does by itself with random frames, a worker would do too.
#[test]
fn the_program_decides_nothing_otherwise_than_a_worker() {
    use std::cell::RefCell;
    for mode in [OffloadMode::Drop, OffloadMode::Full] {
        for input in [HashInput::Address, HashInput::AddressAndPort] {
            let mut node = Node::new(mode, input);
            node.deal();
            for number in 0..=u8::MAX {
                let clients: [IpAddr; 2] = [
                    Ipv4Addr::new(10, 64, 0, number).into(),
                    Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, number.into()).into(),
                ];
                for client in clients.into_iter().filter(|&one| node.bucket(one).index() % 8 >= 4) {
                    node.connect(client);
                }
            }
            let node = RefCell::new(node);
            let seen = RefCell::new([0_u32; 3]);
            let config =
                ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() };
            proptest!(config, |(recipe in recipe())| {
                let (mut node, frame) = (node.borrow_mut(), recipe.frame());
                // Not what an earlier frame has reopened.
                node.deal();
                let (fate, verdict) = (node.loaded.fate(&frame), node.verdict(&frame));
                seen.borrow_mut()[fate as usize] += 1;
                match fate {
                    Fate::User => {}
                    Fate::Passed => prop_assert_eq!(verdict, Verdict::Pass),
                    Fate::Dropped => prop_assert!(matches!(
                        verdict,
                        Verdict::Drop(
                            DropReason::NotOwner
                                | DropReason::NoFlow
                                | DropReason::WrongVlan
                                | DropReason::Malformed(_)
                        )
                    ), "{:?}", verdict),
                }
                node.loaded.offload.set_lease(1);
                prop_assert_eq!(node.loaded.fate(&frame), Fate::User);
            });
            let [user, dropped, passed] = seen.into_inner();
            let wanted = if mode == OffloadMode::Full { 20 } else { 0 };
            assert!(user > 100 && dropped > 100 && passed >= wanted, "{user} {dropped} {passed}");
        }
    }
}
