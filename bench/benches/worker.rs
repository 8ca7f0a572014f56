//! The whole worker: a burst of 64 frames through a [`Worker`], from the port to the host, where
//! this node owns one bucket in four, and in the tiered mode every address that frames come by.
//!
//! Frames are put on the port before the clock runs. The host takes each frame and forgets it, so
//! that what is measured ends where the kernel would begin. The port is one in memory, whose frames are
//! boxes in queues; what of it all is the verdict itself, `verdict` measures.

mod cpu_time;
#[path = "../../dataplane/core/tests/frames/mod.rs"]
mod frames;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use cpu_time::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use frames::tcp_flags::{ACK, SYN};
use frames::{HOST, Link, OWN, PEER, SHARED, SHARED_LINK, VIP4, VIP6, ip, ip_frame, tcp, udp, vip};
use vipdp_core::anycast::{Anycast, PeerPath, Steering};
use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::counters::WorkerCounters;
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::memory::MemoryPort;
use vipdp_core::port::{BURST, Host, Refused, SuperPackets, Taken};
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::{Holdings, Ingress, Service, SharedMac, Snapshot, Vips};
use vipdp_core::tiered::{Owners, PreviousOwners, Search, Tiered, TieredMac, VirtualMac};
use vipdp_core::wire::protocol::{TCP, UDP};
use vipdp_core::wire::vnet::Offload;
use vipdp_core::worker::{Shared, Worker};

/// Bursts that are prepared and sent over and over: 16,384 frames, of as many clients.
const BURSTS: u32 = 256;

/// Frames that wait at once: an AF_XDP receive ring full.
const RING: usize = 2048;

/// The port that tunnels lead to.
const GUE_PORT: u16 = 6080;

/// The tunnel to the other member.
const PEER_PATH: PeerPath = PeerPath {
    source: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)),
    destination: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)),
    next_hop: Some(PEER),
    mtu: 1500,
};

/// Takes every frame, and has none to send.
struct Sink;

impl Host for Sink {
    fn deliver(&mut self, _offload: Offload, _pieces: &[&[u8]]) -> Result<(), Refused> {
        Ok(())
    }

    fn take(&mut self, _buffer: &mut [u8]) -> Option<Taken> {
        None
    }

    fn super_packets(&self) -> SuperPackets {
        SuperPackets::NONE
    }
}

fn client4(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a40_0000 + n).into()
}

fn client6(n: u32) -> IpAddr {
    Ipv6Addr::from_bits(0xfd64 << 112 | u128::from(n)).into()
}

fn worker(flows_max: usize, ingress: Ingress) -> Worker<MemoryPort, Sink> {
    let owned: BucketSet = Bucket::all().step_by(4).collect();
    let owners = Owners { now: Slot::new(0), before: [Slot::new(1), None] };
    worker_with(flows_max, ingress, &owned, [(Bucket::FIRST, owners)])
}

/// A worker of a node that owns those buckets, and knows so much of all owners.
fn worker_with(
    flows_max: usize,
    ingress: Ingress,
    owned: &BucketSet,
    owners: impl IntoIterator<Item = (Bucket, Owners)>,
) -> Worker<MemoryPort, Sink> {
    let (mut peer_macs, mut peers) = ([None; SLOTS], [None; SLOTS]);
    peer_macs[1] = Some(PEER);
    peers[1] = Some(PEER_PATH);
    let service = Service {
        sticky_udp_ports: [443].into(),
        peer_macs,
        peers,
        ..Service::new(
            Vips::new([VIP4.into(), VIP6.into()]),
            ClientHash::new([0x5a; 16], HashInput::Address),
            ingress,
            OWN,
            HOST,
        )
    };
    let snapshot = Snapshot {
        previous: Arc::new(PreviousOwners::new(Slot::all().take(2), owners)),
        latest: Some(Bucket::FIRST),
        ..Snapshot::serving(service, Holdings::owning(owned))
    };
    let shared = Shared::new(snapshot, FlowTable::new(flows_max, [1, 2]));
    Worker::new(MemoryPort::new(RING), Sink, shared, Arc::<WorkerCounters>::default())
}

/// Sends `frames` over and over, as many at once as a ring holds, and measures what the worker takes for
/// `bursts` of them.
fn run(worker: &mut Worker<MemoryPort, Sink>, frames: &[Vec<u8>], bursts: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut frames = frames.iter().cycle();
    let mut left = bursts as usize;
    while left > 0 {
        let now = left.min(RING / BURST);
        for frame in frames.by_ref().take(now * BURST) {
            worker.port_mut().arrive(frame);
        }
        let start = CpuTime::now();
        for _ in 0..now {
            assert_eq!(worker.poll_once(1_000_000_000), BURST);
        }
        spent += CpuTime::now() - start;
        worker.port_mut().sent.clear();
        left -= now;
    }
    spent
}

fn worker_shared_mac(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("worker");
    group.throughput(Throughput::Elements(BURST as u64));
    let clients = 0..BURSTS * BURST as u32;
    for (family, client) in [("v4", client4 as fn(u32) -> IpAddr), ("v6", client6)] {
        let frames = |protocol, transport: &[u8]| -> Vec<Vec<u8>> {
            let of = |n| ip_frame(SHARED_LINK, &ip(client(n), vip(client(n)), protocol, transport));
            clients.clone().map(of).collect()
        };
        let dns = frames(UDP, &udp(40_000, 53, 50));
        let quic = frames(UDP, &udp(40_000, 443, 50));
        let syn = frames(TCP, &tcp(40_000, 53, SYN));
        let ack = frames(TCP, &tcp(40_000, 53, ACK));

        let shared = Ingress::SharedMac(SharedMac::unicast(SHARED));
        let mut measure = |name: &str, flows_max: usize, before: &[Vec<u8>], frames: &[Vec<u8>]| {
            let mut worker = worker(flows_max, shared);
            run(&mut worker, before, (before.len() / BURST) as u64);
            group.bench_function(BenchmarkId::new(name, family), |b| {
                b.iter_custom(|bursts| run(&mut worker, frames, bursts));
            });
        };
        measure("udp", 1 << 20, &[], &dns);
        measure("udp_sticky", 1 << 20, &[], &quic);
        measure("tcp_known", 1 << 20, &syn, &ack);
        measure("tcp_known_in_128_MiB", 1 << 24, &syn, &ack);
        // One in four is a known flow, the rest another node's: the SYNs before were dropped.
        measure("tcp_unknown", 1 << 20, &[], &ack);
        measure("tcp_syn", 1 << 20, &[], &syn);
    }
    group.finish();
}

/// The same in the tiered mode, where a node receives only what it owns.
fn worker_tiered(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("worker_tiered");
    group.throughput(Throughput::Elements(BURST as u64));
    let tiered = Tiered {
        slot: Slot::new(0).expect("a slot"),
        cluster: 1,
        first4: Some(Ipv4Addr::new(10, 0, 0, 64)),
        first6: None,
        count: 30,
        mac: TieredMac::Virtual,
        search: Search::PreviousOwners,
    };
    let link = Link { to: VirtualMac::Address(Bucket::FIRST).mac(tiered.cluster), ..SHARED_LINK };
    for (family, client) in [("v4", client4 as fn(u32) -> IpAddr), ("v6", client6)] {
        let frames = |protocol, transport: &[u8]| -> Vec<Vec<u8>> {
            let of = |n| ip_frame(link, &ip(client(n), vip(client(n)), protocol, transport));
            (0..BURSTS * BURST as u32).map(of).collect()
        };
        let dns = frames(UDP, &udp(40_000, 53, 50));
        let syn = frames(TCP, &tcp(40_000, 53, SYN));
        let ack = frames(TCP, &tcp(40_000, 53, ACK));
        let mut measure = |name: &str, before: &[Vec<u8>], frames: &[Vec<u8>]| {
            let mut worker = worker(1 << 20, Ingress::Tiered(tiered));
            run(&mut worker, before, (before.len() / BURST) as u64);
            group.bench_function(BenchmarkId::new(name, family), |b| {
                b.iter_custom(|bursts| run(&mut worker, frames, bursts));
            });
        };
        measure("udp", &[], &dns);
        measure("tcp_known", &syn, &ack);
        // To the previous owner, until the rate limit says no: mostly dropped.
        measure("tcp_unknown", &[], &ack);
    }
    group.finish();
}

/// The same in the anycast mode, with steering by tunnels. What is sent on is sent by the port in memory,
/// which makes a copy of it: some 20 ns a frame.
fn worker_anycast(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("worker_anycast");
    group.throughput(Throughput::Elements(BURST as u64));
    let steering = Some(Steering::Gue { port: GUE_PORT });
    let anycast = Anycast { slot: Slot::all().next().expect("slot 0"), cluster: 1, steering };
    let link = Link { to: OWN, ..SHARED_LINK };
    for (family, client) in [("v4", client4 as fn(u32) -> IpAddr), ("v6", client6)] {
        let packets = |protocol, transport: &[u8]| -> Vec<Vec<u8>> {
            let of = |n| ip(client(n), vip(client(n)), protocol, transport);
            (0..BURSTS * BURST as u32).map(of).collect()
        };
        let framed = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
            packets.iter().map(|packet| ip_frame(link, packet)).collect()
        };
        let dns = packets(UDP, &udp(40_000, 53, 50));
        let syn = framed(&packets(TCP, &tcp(40_000, 53, SYN)));
        let ack = framed(&packets(TCP, &tcp(40_000, 53, ACK)));
        let tunnels: Vec<_> = dns.iter().map(|packet| tunnel(link, packet)).collect();
        let dns = framed(&dns);
        let mut measure = |name: &str, owner: u8, before: &[Vec<u8>], frames: &[Vec<u8>]| {
            let owned = if owner == 0 { &BucketSet::FULL } else { &BucketSet::EMPTY };
            let owners = Owners { now: Slot::new(owner), before: [None; 2] };
            let owners = Bucket::all().map(|bucket| (bucket, owners));
            let mut worker = worker_with(1 << 20, Ingress::Anycast(anycast), owned, owners);
            run(&mut worker, before, (before.len() / BURST) as u64);
            group.bench_function(BenchmarkId::new(name, family), |b| {
                b.iter_custom(|bursts| run(&mut worker, frames, bursts));
            });
        };
        measure("udp_ours", 0, &[], &dns);
        measure("tcp_known", 0, &syn, &ack);
        measure("udp_taken_out", 0, &[], &tunnels);
        measure("udp_steered", 1, &[], &dns);
    }
    group.finish();
}

/// The tunnel of the member in slot 1 with a packet that it has steered here.
fn tunnel(link: Link, packet: &[u8]) -> Vec<u8> {
    let carried = if packet[0] >> 4 == 4 { 4 } else { 41 };
    let mut datagram = udp(50_000, GUE_PORT, 8 + packet.len());
    // Version 1 of the private data, slot 1, kind 5.
    datagram[8..16].copy_from_slice(&[1, carried, 0, 0, 1, 1, 0x50, 0]);
    datagram[16..].copy_from_slice(packet);
    ip_frame(link, &ip(PEER_PATH.destination, PEER_PATH.source, UDP, &datagram))
}

criterion_group! {
    name = benches;
    config = CpuTime::criterion();
    targets = worker_shared_mac, worker_tiered, worker_anycast
}
criterion_main!(benches);
