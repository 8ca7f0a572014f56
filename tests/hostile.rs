//! Bad input: every frame and heartbeat that is not as it should be is counted, by reason, and
//! changes nothing.
//!
//! ```text
//!   vd-client --- vd-router --(lan)-- br0 -+--(n1)-- vd-n1
//!    dns-load      Injector                |   Capture: real heartbeats
//!                                          +-------- vd-n2
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use vipdp_tests::capture::Capture;
use vipdp_tests::frame::{self, Mac};
use vipdp_tests::inject::Injector;
use vipdp_tests::lab::{Lab, Options, VIP4, VIP6};
use vipdp_tests::load::Load;
use vipdp_tests::status::Status;
use vipdp_tests::wait::{wait_for, wait_until};

const NODES: [&str; 2] = ["n1", "n2"];
/// How often each kind is sent.
const TIMES: u64 = 20;
const SOON: Duration = Duration::from_secs(10);

/// Lengths and places in a frame, bytes.
const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// A frame under a reason for which it is to be dropped.
type Bad = (&'static str, Vec<u8>);

/// Where frames come from and go to.
struct Wire {
    from: Mac,
    shared4: Mac,
    shared6: Mac,
}

impl Wire {
    /// A good datagram to the IPv4 VIP.
    fn udp4(&self, payload: &[u8]) -> Vec<u8> {
        let client = SocketAddr::new(Ipv4Addr::new(10, 64, 7, 7).into(), 5_353);
        let vip = SocketAddr::new(VIP4.into(), 53);
        frame::udp((self.from, client), (self.shared4, vip), 64, payload)
    }

    /// A good datagram to the IPv6 VIP.
    fn udp6(&self, payload: &[u8]) -> Vec<u8> {
        let client = Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 7);
        let client = SocketAddr::new(client.into(), 5_353);
        let vip = SocketAddr::new(VIP6.into(), 53);
        frame::udp((self.from, client), (self.shared6, vip), 64, payload)
    }

    /// The IPv4 datagram with other bytes in its header, whose checksum is right again.
    fn ipv4(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut frame = self.udp4(&[0; 21]);
        let header = &mut frame[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN];
        change(header);
        header[10..12].fill(0);
        let sum: u32 =
            header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        frame
    }

    /// The IPv6 datagram with other bytes in its header.
    fn ipv6(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut frame = self.udp6(&[0; 21]);
        change(&mut frame[ETHERNET_LEN..ETHERNET_LEN + IPV6_LEN]);
        frame
    }

    /// Both datagrams with another protocol, and its header in place of that of UDP.
    fn transport(&self, protocols: [u8; 2], header: &[u8]) -> [Vec<u8>; 2] {
        let mut v4 = self.ipv4(|ip| {
            ip[9] = protocols[0];
            ip[2..4].copy_from_slice(&(IPV4_LEN as u16 + header.len() as u16).to_be_bytes());
        });
        v4.truncate(ETHERNET_LEN + IPV4_LEN);
        v4.extend(header);
        let mut v6 = self.ipv6(|ip| {
            ip[6] = protocols[1];
            ip[4..6].copy_from_slice(&(header.len() as u16).to_be_bytes());
        });
        v6.truncate(ETHERNET_LEN + IPV6_LEN);
        v6.extend(header);
        [v4, v6]
    }

    fn solicitation(&self) -> Vec<u8> {
        let asker = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 9, 9);
        let group = (Mac::solicited_node(VIP6), frame::solicited_node(VIP6));
        frame::solicitation(self.from, group, asker, VIP6)
    }

    fn bad_ipv4(&self) -> Vec<Bad> {
        let mut checksum = self.udp4(&[0; 21]);
        checksum[ETHERNET_LEN + 10] ^= 0xff;
        vec![
            ("ipv4_checksum", checksum),
            ("ipv4_truncated", self.ipv4(|ip| ip[3] += 40)),
            ("ipv4_invalid", self.ipv4(|ip| ip[0] = 0x44)),
            ("fragment_invalid", self.ipv4(|ip| ip[6] = 0x20)),
            ("source_invalid", self.ipv4(|ip| ip[12..16].copy_from_slice(&[127, 0, 0, 1]))),
        ]
    }

    fn bad_ipv6(&self) -> Vec<Bad> {
        vec![
            ("ipv6_truncated", self.ipv6(|ip| ip[5] += 40)),
            ("ipv6_invalid", self.ipv6(|ip| ip[0] = 0x50)),
            // Hop-by-hop options that are said to be longer than the packet.
            ("ipv6_extension", self.transport([0, 0], &[17, 200, 0, 0, 0, 0, 0, 0])[1].clone()),
            (
                "source_invalid",
                self.ipv6(|ip| ip[8..24].copy_from_slice(&Ipv6Addr::LOCALHOST.octets())),
            ),
        ]
    }

    fn bad_transports(&self) -> Vec<Bad> {
        const UDP: [u8; 2] = [17, 17];
        const TCP: [u8; 2] = [6, 6];
        const ICMP: [u8; 2] = [1, 58];
        let tcp = |offset: u8, flags: u8| {
            [0x12, 0x34, 0, 53, 0, 0, 0, 1, 0, 0, 0, 0, offset << 4, flags, 1, 0, 0, 0, 0, 0]
        };
        let each = |reason, protocols, header: &[u8]| {
            self.transport(protocols, header).map(|frame| (reason, frame))
        };
        [
            // A length of 200, and one of less than the header.
            each("udp_invalid", UDP, &[0x12, 0x34, 0, 53, 0, 200, 0, 0]),
            each("udp_invalid", UDP, &[0x12, 0x34, 0, 53, 0, 7, 0, 0]),
            each("tcp_invalid", TCP, &tcp(4, 2)),
            each("tcp_invalid", TCP, &tcp(5, 2)[..12]),
            // SYN with FIN, and no flag at all.
            each("tcp_flags_invalid", TCP, &tcp(5, 3)),
            each("tcp_flags_invalid", TCP, &tcp(5, 0)),
            each("icmp_truncated", ICMP, &[8, 0, 0, 0]),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn bad_neighbors(&self) -> Vec<Bad> {
        let asker = Ipv4Addr::new(192, 0, 2, 99);
        let mut operation = frame::arp_request(self.from, Mac::BROADCAST, asker, VIP4);
        operation[ETHERNET_LEN + 7] = 9;
        let claim = frame::arp_request(self.from, Mac::BROADCAST, VIP4, VIP4);
        let mut from_afar = self.solicitation();
        from_afar[ETHERNET_LEN + 7] = 64;
        let mut checksum = self.solicitation();
        checksum[ETHERNET_LEN + IPV6_LEN + 2] ^= 0xff;
        vec![
            ("arp_invalid", operation),
            ("foreign_claim", claim),
            ("neighbor_invalid", from_afar),
            ("neighbor_checksum", checksum),
        ]
    }
}

/// A lab of two nodes under load, and who owns what in it.
struct Scene {
    lab: Lab,
    injector: Injector,
    load: Load,
    owners: Vec<Option<u8>>,
}

impl Scene {
    fn new() -> Self {
        // DPDK's driver over packet sockets has the kernel put fragments together.
        let lab = Lab::up(&Options { nodes: 2, wants_kernel_nic: true, ..Options::default() });
        let injector = Injector::open(&lab.namespace("router"), "lan");
        let load = Load::start(&lab, "--rate 500");
        let owners = lab.status("n1").buckets.owners;
        Self { lab, injector, load, owners }
    }

    fn statuses(&self) -> [Status; 2] {
        NODES.map(|node| self.lab.status(node))
    }

    #[track_caller]
    fn assert_same_owners(&self) {
        for status in self.statuses() {
            assert_eq!(status.buckets.owners, self.owners, "{}", status.node.name);
        }
    }

    /// Sends the frame again and again, and waits until its count has risen by as much on each of
    /// the nodes; asserts that it does not rise further, and that nothing has changed hands. With the
    /// offload one node is enough: others may drop the frame before they look what is wrong with it.
    #[track_caller]
    fn assert_counted(&self, nodes: &[&str], reason: &str, frame: &[u8], counts: Counts) {
        let read =
            || -> Vec<_> { nodes.iter().map(|node| counts(&self.lab.status(node))).collect() };
        let has_offload = self.lab.status(nodes[0]).offload.is_some();
        let on_enough = |risen: &[BTreeMap<String, u64>], is_reached: fn(u64) -> bool| {
            let mut counts = risen.iter().map(|risen| risen.get(reason).copied().unwrap_or(0));
            if has_offload { counts.max().is_some_and(is_reached) } else { counts.all(is_reached) }
        };
        let before = read();
        for _ in 0..TIMES {
            self.injector.send(frame);
        }
        let deadline = Instant::now() + SOON;
        let risen = loop {
            let risen: Vec<_> =
                read().iter().zip(&before).map(|(now, then)| rises(now, then)).collect();
            if on_enough(&risen, |count| count >= TIMES) || Instant::now() > deadline {
                break risen;
            }
        };
        let is_right = on_enough(&risen, |count| count == TIMES);
        assert!(is_right, "{TIMES} times {reason} on {nodes:?}: {risen:?}");
        self.assert_same_owners();
    }
}

/// Where in a status the counts of a kind are.
type Counts = fn(&Status) -> BTreeMap<String, u64>;

/// What has risen, and by how much.
fn rises(now: &BTreeMap<String, u64>, then: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let rise = |(name, count): (&String, &u64)| (name.clone(), count - then[name]);
    now.iter().map(rise).filter(|(_, rise)| *rise != 0).collect()
}

#[test]
fn malformed_frames_are_counted_by_reason_and_change_nothing() {
    let scene = Scene::new();
    let interface = scene.lab.status("n1").interface;
    let [shared4, shared6] = interface.shared_macs();
    let wire = Wire { from: scene.injector.mac(), shared4, shared6 };
    let bad = [wire.bad_ipv4(), wire.bad_ipv6(), wire.bad_transports(), wire.bad_neighbors()];
    for (reason, frame) in bad.into_iter().flatten() {
        scene.assert_counted(&NODES, reason, &frame, Status::drops);
    }
    scene.lab.say("malformed frames are counted");
    oversized_frames(&scene, &wire);
    scene.load.stop().assert_all_answered_once();
}

/// Larger than the host's MTU, and larger than a worker's frames.
fn oversized_frames(scene: &Scene, wire: &Wire) {
    let widen = |namespace: &str, interfaces: &[&str], mtu: u32| {
        for interface in interfaces {
            let line = format!("ip link set {interface} mtu {mtu}");
            scene.lab.namespace(namespace).run(&line);
        }
    };
    widen("router", &["lan"], 3_000);
    widen("sw", &["router", "n1", "n2", "br0"], 3_000);
    NODES.iter().for_each(|node| widen(node, &["eth0"], 3_000));

    let long = |len: usize| [wire.udp4(&vec![0; len]), wire.udp6(&vec![0; len])];
    for frame in long(1_700) {
        // One of the nodes would have handed it to its host.
        let count = || scene.statuses().iter().map(|one| one.drops()["host_too_long"]).sum::<u64>();
        let before = count();
        (0..TIMES).for_each(|_| scene.injector.send(&frame));
        wait_until(SOON, "host_too_long is counted", || count() >= before + TIMES);
        assert_eq!(count(), before + TIMES);
        scene.assert_same_owners();
    }
    for frame in long(2_800) {
        scene.assert_counted(&NODES, "rx_dropped", &frame, Status::kernel);
    }
    scene.lab.say("oversized frames are counted");
}

#[test]
fn forged_and_replayed_heartbeats_are_counted_and_change_nothing() {
    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);
    const PORT: u16 = 5_360;
    /// Where in a heartbeat the id of its key is, and where its claims are.
    const KEY_ID_AT: usize = 6;
    const CLAIMS_AT: usize = 688;

    let scene = Scene::new();
    let lab = &scene.lab;
    let from_n1 = format!("udp dst port {PORT} and ether src {}", lab.mac("n1", "eth0"));
    let heartbeats = Capture::start(&lab.namespace("sw"), "n1", &from_n1);
    let heartbeat =
        wait_for(SOON, "n1 sends a heartbeat", || heartbeats.frames().into_iter().next());
    let heartbeat = heartbeat.udp_payload();
    assert!(heartbeat.len() >= 1_216, "{} bytes", heartbeat.len());

    // As if from n1. The Ethernet source is the router's own, so that the bridge learns nothing.
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11)), PORT);
    let to = (Mac([0x01, 0x00, 0x5e, 0, 0, 254]), SocketAddr::new(GROUP.into(), PORT));
    let frame =
        |ttl: u8, payload: &[u8]| frame::udp((scene.injector.mac(), from), to, ttl, payload);
    let with = |at: usize, value: u8| {
        let mut changed = heartbeat.to_vec();
        assert_ne!(changed[at], value, "no change");
        changed[at] = value;
        frame(255, &changed)
    };
    let claims_other = !heartbeat[CLAIMS_AT];
    let mut long = heartbeat.to_vec();
    long.resize(1_460, 0);
    let bad = [
        ("bad-magic", with(0, 0)),
        ("unknown-key", with(KEY_ID_AT, 200)),
        ("bad-mac", with(CLAIMS_AT, claims_other)),
        ("bad-mac", with(heartbeat.len() - 1, !heartbeat[heartbeat.len() - 1])),
        ("bad-length", frame(255, &heartbeat[..1_000])),
        ("bad-length", frame(255, &[])),
        ("too_long", frame(255, &long)),
        ("not_of_the_segment", frame(254, heartbeat)),
        ("replayed", frame(255, heartbeat)),
    ];
    for (reason, frame) in bad {
        scene.assert_counted(&["n2"], reason, &frame, Status::rejected);
    }
    lab.say("forged and replayed heartbeats are counted");

    // One of a session that has ended.
    let old = frame(255, heartbeat);
    lab.topology("stop n1");
    lab.topology("start n1");
    lab.wait_shared_by(&NODES, SOON);
    // Who has been away may own the same buckets again, or not.
    let scene = Scene { owners: lab.status("n1").buckets.owners, ..scene };
    scene.assert_counted(&["n2"], "stale-session", &old, Status::rejected);
    scene.load.stop().assert_all_answered();
}
