//! The verdict itself, memory to memory: a burst of 64 frames is parsed, looked up and decided, where this
//! node owns one bucket in four.
//!
//! Frames lie in memory as they do in an AF_XDP ring, 2 KiB apart, and are put there before the clock runs;
//! a verdict on each is what comes out. `worker` measures the same with a port and a host.
//!
//! The yardstick is `bare_read_16M`: as many reads of random cache lines, of as much memory as a table
//! for 16 million tracked flows takes, in bursts of 64 and without any of the work. Both lie in huge pages, as
//! the node's table does, where the kernel has any. At the end each figure is printed beside it.
//!
//! `count CASE FAMILY BURSTS` as arguments makes that many bursts and measures nothing: for
//! `valgrind --tool=callgrind`. The difference between two numbers of bursts is what they took, less what
//! it takes to put the frames there, which `none` for the case makes alone.

mod cpu_time;
#[path = "../../dataplane/core/tests/frames/mod.rs"]
mod frames;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cpu_time::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput};
use frames::tcp_flags::ACK;
use frames::{HOST, OWN, SHARED, SHARED_LINK, VIP4, VIP6, ip, ip_frame, tcp, udp, vip};
use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::decide::{Burst, Now};
use vipdp_core::flow::{FlowState, FlowTable};
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::BURST;
use vipdp_core::snapshot::{Holdings, Ingress, Service, SharedMac, Snapshot, Vips};
use vipdp_core::wire::checksum::Checksum;
use vipdp_core::wire::protocol::{TCP, UDP};
use vipdp_io::huge_pages;
use vipdp_io::processor::Native;

/// Frames that wait at once, and how far apart they lie: an AF_XDP receive ring full.
const RING: usize = 2048;
const STRIDE: usize = 2048;

/// Flows of `_16M`, in a table with room for four times as many, as `FlowTable::new` advises.
const MANY: u32 = 1 << 24;
/// Clients of the other cases.
const FEW: u32 = 1 << 14;

const CLIENT_PORT: u16 = 40_000;
const NOW_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn client(self, n: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(0x0a00_0000 + n).into(),
            Self::V6 => Ipv6Addr::from_bits(0xfd64 << 112 | u128::from(n)).into(),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    /// A datagram of no flow.
    Udp,
    /// A segment of one of few connections.
    TcpKnown,
    /// A segment of one of 16 million connections, any of them.
    Tcp16M,
    /// A segment of another node's connection.
    TcpUnknown,
    /// Nothing: frames are only put where they would be.
    None,
}

impl Case {
    const ALL: [Self; 4] = [Self::Udp, Self::TcpKnown, Self::Tcp16M, Self::TcpUnknown];

    const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::TcpKnown => "tcp_known",
            Self::Tcp16M => "tcp_16M",
            Self::TcpUnknown => "tcp_unknown",
            Self::None => "none",
        }
    }

    const fn clients(self) -> u32 {
        if matches!(self, Self::Tcp16M) { MANY } else { FEW }
    }

    const fn known(self) -> u32 {
        match self {
            Self::TcpKnown => FEW,
            Self::Tcp16M => MANY,
            Self::Udp | Self::TcpUnknown | Self::None => 0,
        }
    }
}

/// A node, and frames that wait for it.
struct Bench {
    case: Case,
    family: Family,
    snapshot: Snapshot,
    flows: FlowTable,
    burst: Burst,
    memory: Vec<u8>,
    len: usize,
    /// Of the frames that were put, for the next one's client.
    put: u64,
}

impl Bench {
    fn new(case: Case, family: Family) -> Self {
        let service = Service {
            sticky_udp_ports: [443].into(),
            ..Service::new(
                Vips::new([VIP4.into(), VIP6.into()]),
                ClientHash::new([0x5a; 16], HashInput::Address),
                Ingress::SharedMac(SharedMac::unicast(SHARED)),
                OWN,
                HOST,
            )
        };
        let owned: BucketSet = Bucket::all().step_by(4).collect();
        let snapshot = Snapshot::serving(service, Holdings::owning(&owned));
        let room = 4 * case.known().max(1 << 18);
        let flows = FlowTable::new(room as usize, [1, 2]);
        gather(flows.lines());
        for n in 0..case.known() {
            let client = family.client(n);
            let hash = snapshot.service.client_hash.hash(client, CLIENT_PORT);
            let key = flows.key(hash, CLIENT_PORT, vip(client), 53, TCP);
            let seconds = Now::of_ns(NOW_NS).seconds;
            flows.insert(key, Bucket::of_hash(hash), FlowState::Established, seconds);
        }
        let (protocol, transport) = match case {
            Case::Udp => (UDP, udp(CLIENT_PORT, 53, 50)),
            _ => (TCP, tcp(CLIENT_PORT, 53, ACK)),
        };
        let client = family.client(0);
        let frame = ip_frame(SHARED_LINK, &ip(client, vip(client), protocol, &transport));
        let mut memory = vec![0; RING * STRIDE];
        for place in memory.chunks_exact_mut(STRIDE) {
            place[..frame.len()].copy_from_slice(&frame);
        }
        let burst = Burst::new();
        Self { case, family, snapshot, flows, burst, memory, len: frame.len(), put: 0 }
    }

    /// Puts that many bursts of the next clients' frames into the ring.
    fn put(&mut self, bursts: usize) {
        for place in self.memory.chunks_exact_mut(STRIDE).take(bursts * BURST) {
            self.put += 1;
            // Every client in turn, in an order that no prefetcher follows.
            let n = self.put.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let client = self.family.client(n as u32 & (self.case.clients() - 1));
            let packet = &mut place[14..];
            match client {
                IpAddr::V4(client) => {
                    packet[12..16].copy_from_slice(&client.octets());
                    packet[10..12].fill(0);
                    let checksum = Checksum::new().with(&packet[..20]).finish();
                    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
                }
                IpAddr::V6(client) => packet[8..24].copy_from_slice(&client.octets()),
            }
        }
    }

    /// The verdicts on the burst in this place of the ring.
    #[inline(never)]
    fn judge(&mut self, at: usize) {
        if self.case == Case::None {
            return;
        }
        let frames = &self.memory[at * BURST * STRIDE..][..BURST * STRIDE];
        let frame = |at: usize| &frames[at * STRIDE..][..self.len];
        let now = Now::of_ns(NOW_NS);
        self.burst.judge::<Native>(&self.snapshot, &self.flows, now, BURST, 16, frame);
        black_box(self.burst.decisions());
    }

    fn run(&mut self, bursts: u64) -> Duration {
        let mut spent = Duration::ZERO;
        let mut left = bursts as usize;
        while left > 0 {
            let now = left.min(RING / BURST);
            self.put(now);
            let start = CpuTime::now();
            for at in 0..now {
                self.judge(at);
            }
            spent += CpuTime::now() - start;
            left -= now;
        }
        spent
    }
}

/// Nanoseconds a packet, of each measurement that was long enough to tell.
#[derive(Default)]
struct Figures(Vec<f64>);

impl Figures {
    fn add(&mut self, spent: Duration, bursts: u64) {
        if bursts >= (RING / BURST) as u64 {
            self.0.push(spent.as_nanos() as f64 / (bursts * BURST as u64) as f64);
        }
    }

    fn median(&mut self) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Moves memory into huge pages, as the node does with its flow table.
fn gather<T>(memory: &[T]) {
    if let Err(error) = huge_pages::gather(memory) {
        eprintln!("{} bytes stay in small pages: {error}", size_of_val(memory));
    }
}

/// Reads a burst of random lines of as much memory as the table of 16 million flows has.
fn bare_read(lines: &[[u64; 8]], next: &mut u64) -> u64 {
    (0..BURST).fold(0, |all, _| {
        *next = next.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let hash = (*next ^ *next >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        all ^ lines[(hash >> 32) as usize & (lines.len() - 1)][0]
    })
}

fn verdict(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("verdict");
    group.throughput(Throughput::Elements(BURST as u64));
    group.sample_size(50);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    let mut figures = Vec::new();
    let lines = vec![[1_u64; 8]; 4 * MANY as usize / 8];
    gather(&lines);
    let (mut next, mut bare) = (0, Figures::default());
    group.bench_function("bare_read_16M", |b| {
        b.iter_custom(|bursts| {
            let start = CpuTime::now();
            for _ in 0..bursts {
                black_box(bare_read(&lines, &mut next));
            }
            let spent = CpuTime::now() - start;
            bare.add(spent, bursts);
            spent
        });
    });
    drop(lines);
    for case in Case::ALL {
        for family in [Family::V4, Family::V6] {
            let mut bench = None;
            let mut all = Figures::default();
            group.bench_function(BenchmarkId::new(case.name(), family.name()), |b| {
                let bench = bench.get_or_insert_with(|| Bench::new(case, family));
                b.iter_custom(|bursts| {
                    let spent = bench.run(bursts);
                    all.add(spent, bursts);
                    spent
                });
            });
            figures.push((case, family, all.median()));
        }
    }
    group.finish();
    let bare = bare.median();
    eprintln!("a bare read at random: {bare:.1} ns; a packet:");
    for (case, family, ns) in figures.into_iter().filter(|(.., ns)| !ns.is_nan()) {
        let (case, family) = (case.name(), family.name());
        eprintln!("{case:>12} {family}: {ns:5.1} ns, {:4.1} bare reads", ns / bare);
    }
}

/// What `count` asks for.
fn count(arguments: &[String]) -> Option<(Case, Family, u64)> {
    let [_, command, case, family, bursts] = arguments else { return None };
    let mut cases = Case::ALL.into_iter().chain([Case::None]);
    let case = cases.find(|known| known.name() == case)?;
    let family = [Family::V4, Family::V6].into_iter().find(|known| known.name() == family)?;
    (command == "count").then_some((case, family, bursts.parse().ok()?))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some((case, family, bursts)) = count(&arguments) {
        black_box(Bench::new(case, family).run(bursts));
        return;
    }
    let mut criterion = CpuTime::criterion().configure_from_args();
    verdict(&mut criterion);
    criterion.final_summary();
}
