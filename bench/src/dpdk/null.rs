//! Frames from a device that always has some and takes all, without a wire, a copy or a system call: all
//! that is left is the driver's own handling of buffers, and the worker.
//!
//! The device does not write into its buffers, so that they hold what was put there before: datagrams of
//! as many clients as there are buffers.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use nix::time::ClockId;
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::decide::{Burst, Decision, Now};
use vipdp_core::flow::FlowTable;
use vipdp_core::port::{BURST, Port};
use vipdp_core::snapshot::{Publisher, Snapshot};
use vipdp_core::verdict::Verdict;
use vipdp_core::worker::Worker;
use vipdp_io::affinity;
use vipdp_io::dpdk::{self, DpdkPort, Nic};
use vipdp_io::processor::Native;

use super::report::{Report, Unit};
use super::{
    CLIENT_FIRST, Counting, Held, OWN_MAC, PORT, SHARED_MAC, VIP, now_ns, shared, snapshot,
};
use crate::pktgen::{Common, Template, Traffic};

/// The length that the device says that its frames have, unless it is told.
const FRAME_LEN: usize = 64;

/// When all bursts come.
const NOW_NS: u64 = 1_000_000_000;

/// Turns of each case before those that count.
const WARM_UP: u32 = 3;

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// Turns of each case.
    #[arg(long, value_name = "N", default_value_t = 101, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Bursts of 64 in a turn.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    bursts: u32,
    /// The core to measure on.
    #[arg(long, value_name = "N", default_value_t = 1)]
    core: usize,
    /// Only the cases with this in their name: for a profile.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// What is done with the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// They are transmitted as they came, by the shim.
    Forward,
    /// They are parsed and judged for a node that owns one bucket in four, and transmitted as they came.
    Judge,
    /// The worker decides, of a node that holds these buckets.
    Worker(Held),
}

const CASES: [(&str, Case); 6] = [
    ("receive, transmit", Case::Forward),
    ("receive, parse, verdict, transmit", Case::Judge),
    ("worker, nothing owned: drop", Case::Worker(Held::Nothing)),
    ("worker, all handed over: transmit", Case::Worker(Held::Granted)),
    ("worker, 1/4 owned: drop or deliver", Case::Worker(Held::OneIn(4))),
    ("worker, all owned: deliver", Case::Worker(Held::OneIn(1))),
];

impl Case {
    /// Which part of the frames is delivered, and which one the worker transmits.
    fn expected(self) -> [f64; 2] {
        match self {
            Self::Worker(Held::OneIn(every)) => [1.0 / every as f64, 0.0],
            Self::Worker(Held::Granted) => [0.0, 1.0],
            Self::Worker(Held::Nothing) | Self::Forward | Self::Judge => [0.0, 0.0],
        }
    }
}

pub(super) fn run(options: &Options) -> Result<Report> {
    affinity::pin(options.core)?;
    let device = dpdk::Options { hugepages: false, ..dpdk::Options::new("net_null0") };
    let (_nic, mut ports) = Nic::open(&device)?;
    let mut port = ports.pop().context("the device has a queue")?;
    port.enter_thread()?;
    fill(&mut port)?;
    let counters = Arc::<WorkerCounters>::default();
    let shared = shared(Held::Nothing);
    let mut publisher = Publisher::new(Arc::clone(&shared.publication));
    let mut worker = Worker::new(port, Counting::default(), shared, Arc::clone(&counters));
    let done = |host: &Counting| [host.delivered, counters.get(Count::Transmitted)];
    let mut judging = Judging::new();
    let mut report = Report::new(Unit::NsPerPacket);
    for round in 0..WARM_UP + options.rounds {
        for (name, case) in CASES.into_iter().filter(|(name, _)| name.contains(&options.only)) {
            if let Case::Worker(held) = case {
                publisher.publish(snapshot(held));
            }
            let before = done(worker.host());
            let ns = turn(options.bursts, || match case {
                Case::Forward => worker.port_mut().forward(),
                Case::Judge => judging.forward(worker.port_mut()),
                Case::Worker(_) => worker.poll_once(NOW_NS),
            })?;
            if case == Case::Judge {
                judging.check()?;
            }
            let packets = f64::from(options.bursts) * BURST as f64;
            for ((after, before), expected) in
                done(worker.host()).into_iter().zip(before).zip(case.expected())
            {
                let part = (after - before) as f64 / packets;
                ensure!((part - expected).abs() < 0.1, "{name}: {part} in place of {expected}");
            }
            if round >= WARM_UP {
                report.sample(name, ns as f64 / packets);
            }
        }
    }
    Ok(report)
}

/// Nanoseconds of this thread's that a turn takes.
fn turn(bursts: u32, mut burst: impl FnMut() -> usize) -> Result<u64> {
    let start = now_ns(ClockId::CLOCK_THREAD_CPUTIME_ID);
    for _ in 0..bursts {
        let count = burst();
        ensure!(count == BURST, "a burst of {count}");
    }
    Ok(now_ns(ClockId::CLOCK_THREAD_CPUTIME_ID) - start)
}

/// What parses and judges without a worker.
struct Judging {
    burst: Burst,
    snapshot: Snapshot,
    flows: FlowTable,
    frames: Vec<dpdk::Frame>,
}

impl Judging {
    fn new() -> Self {
        Self {
            burst: Burst::new(),
            snapshot: snapshot(Held::OneIn(4)),
            flows: FlowTable::new(1 << 16, [1, 2]),
            frames: Vec::with_capacity(BURST),
        }
    }

    /// Receives a burst and transmits it as it came, whatever is decided. Returns how many frames went all that way.
    fn forward(&mut self, port: &mut DpdkPort) -> usize {
        let Self { burst, snapshot, flows, frames } = self;
        let count = port.rx_burst(frames);
        let bytes = |at: usize| port.bytes(&frames[at]);
        let now = Now::of_ns(NOW_NS);
        burst.judge::<Native>(snapshot, flows, now, count, DpdkPort::FETCH_AHEAD, bytes);
        black_box(burst.decisions());
        let refused = port.tx_burst(frames);
        port.housekeeping();
        count - refused
    }

    /// Whether about a quarter of the last burst was to pass, as it should.
    fn check(&self) -> Result<()> {
        let is_passed = |decision: &&Decision| decision.verdict == Verdict::Pass;
        let passed = self.burst.decisions().iter().filter(is_passed).count();
        ensure!((1..BURST / 2).contains(&passed), "{passed} of the last burst pass, not a quarter");
        Ok(())
    }
}

/// Has every buffer hold a datagram to the service.
fn fill(port: &mut DpdkPort) -> Result<()> {
    let common = Common {
        source_mac: OWN_MAC,
        destination_mac: SHARED_MAC,
        port_first: 1024,
        port: PORT,
        frame_len: FRAME_LEN,
    };
    let templates = Template::of(Traffic::Udp, &common, CLIENT_FIRST.into(), VIP.into())?;
    let template = templates.first().context("a template")?;
    let mut bytes = template.bytes.clone();
    let mut frames: Vec<_> = std::iter::from_fn(|| port.alloc()).collect();
    for (client, frame) in (0..).zip(&mut frames) {
        template.fill(client, 1024, &mut bytes);
        port.buffer_mut(frame)[..bytes.len()].copy_from_slice(&bytes);
    }
    frames.into_iter().for_each(|frame| port.recycle(frame));
    Ok(())
}
