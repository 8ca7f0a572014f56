//! The ways.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use vipdp_core::anycast::Anycast;
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::memory::MemoryPort;
use vipdp_core::port::{BURST, Host as _, Port as _};
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::{Holdings, Ingress, Service, Snapshot, Vips};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::worker::{Shared, Worker};
use vipdp_io::af_xdp::{AfXdpPort, Options as PortOptions};
use vipdp_io::affinity;
use vipdp_io::link::Link;
use vipdp_io::tap::{Tap, TapQueue};

use super::{Options, VIP, command};
use crate::pktgen::{self, Common, Template, Traffic};

/// Bytes of a frame, as those of the comparison with the kernel's own means.
const FRAME_LEN: usize = 100;
/// Bytes of its datagram's data.
pub(super) const PAYLOAD: usize = FRAME_LEN - 14 - 20 - 8;
/// How many frames are prepared: few enough for the second cache.
const FRAMES: usize = 1024;
const CLIENT_FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
const TAP: &str = "handoff0";
const VETHS: [&str; 2] = ["handoff1", "handoff2"];

/// What a way did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fed {
    /// Packets that the host took.
    pub(super) packets: u64,
    /// In so many seconds.
    pub(super) seconds: f64,
}

/// A way into the host's stack. What it made goes when it is dropped.
pub(super) trait Way {
    /// The interface that the host receives from.
    fn interface(&self) -> &'static str;

    /// Hands packets over for so long.
    fn feed(&mut self, time: Duration) -> Result<Fed>;
}

type Make = fn(&Options) -> Result<Box<dyn Way>>;

/// All ways, by name.
pub(super) const ALL: [(&str, Make); 8] = [
    ("tap", |options| Ok(Box::new(TapWrite::new(&[options.feeding_core])?))),
    ("taps", |options| Ok(Box::new(TapWrite::new(&options.cores())?))),
    ("veth", |options| Ok(Box::new(Veth::new(options)?))),
    ("xdp", |options| Ok(Box::new(Xdp::new(options)?))),
    ("worker-1", |options| Ok(Box::new(Product::new(options, 1, true)?))),
    ("single-8", |options| Ok(Box::new(Product::new(options, 8, false)?))),
    ("worker-8", |options| Ok(Box::new(Product::new(options, 8, true)?))),
    ("worker-32", |options| Ok(Box::new(Product::new(options, 32, true)?))),
];

/// Frames to a MAC address, so many of a flow after each other.
fn frames(to: MacAddr, run: usize) -> Result<Vec<Vec<u8>>> {
    let common = Common {
        source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        destination_mac: to,
        port_first: 40_000,
        port: 53,
        frame_len: FRAME_LEN,
    };
    let vip = VIP.parse().context("an address")?;
    let templates = Template::of(Traffic::Udp, &common, CLIENT_FIRST.into(), vip)?;
    let template = templates.first().context("a template")?;
    let frame = |number: usize| {
        let mut frame = template.bytes.clone();
        template.fill((number / run) as u32, common.port_first, &mut frame);
        frame
    };
    Ok((0..FRAMES).map(frame).collect())
}

/// Calls `pass`, which says how many packets the host took, until the time is over, in a thread on a core.
fn repeat(core: usize, time: Duration, mut pass: impl FnMut() -> u64 + Send) -> Result<Fed> {
    let repeated = || -> Result<Fed> {
        affinity::pin(core)?;
        let start = Instant::now();
        let mut packets = 0;
        while start.elapsed() < time {
            packets += pass();
        }
        Ok(Fed { packets, seconds: start.elapsed().as_secs_f64() })
    };
    thread::scope(|scope| joined(scope.spawn(repeated)))
}

fn joined(thread: thread::ScopedJoinHandle<'_, Result<Fed>>) -> Result<Fed> {
    thread.join().map_err(|_| anyhow::anyhow!("a feeder panicked"))?
}

/// One frame by one write, on each of the cores to a queue of its own.
struct TapWrite {
    queues: Vec<TapQueue>,
    cores: Vec<usize>,
    frames: Vec<Vec<u8>>,
}

impl TapWrite {
    fn new(cores: &[usize]) -> Result<Self> {
        let queues = Tap::create(TAP, cores.len())?;
        command(&format!("ip link set {TAP} up"))?;
        let frames = frames(Link::read(TAP)?.mac, 1)?;
        Ok(Self { queues, cores: cores.to_vec(), frames })
    }
}

fn write_all(queue: &mut TapQueue, frames: &[Vec<u8>]) -> u64 {
    frames.iter().map(|frame| u64::from(queue.deliver_frame(frame).is_ok())).sum()
}

impl Way for TapWrite {
    fn interface(&self) -> &'static str {
        TAP
    }

    fn feed(&mut self, time: Duration) -> Result<Fed> {
        let Self { queues, cores, frames } = self;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (queue, &core) in queues.iter_mut().zip(&*cores) {
                let frames = &*frames;
                threads.push(scope.spawn(move || repeat(core, time, || write_all(queue, frames))));
            }
            let mut all = Fed { packets: 0, seconds: 0.0 };
            for thread in threads {
                let fed = joined(thread)?;
                all = Fed {
                    packets: all.packets + fed.packets,
                    seconds: all.seconds.max(fed.seconds),
                };
            }
            Ok(all)
        })
    }
}

/// Makes the pair that stands in for the TAP, and returns the MAC address at the host's end.
fn veth_pair() -> Result<MacAddr> {
    let [outer, inner] = VETHS;
    command(&format!("ip link add {outer} type veth peer name {inner}"))?;
    for end in VETHS {
        command(&format!("ip link set {end} up"))?;
    }
    Ok(Link::read(inner)?.mac)
}

fn remove_veths() {
    // The namespace ends with the process in any case.
    let _ = command(&format!("ip link del {}", VETHS[0]));
}

/// An AF_XDP socket's transmit ring, into a veth.
struct Veth {
    core: usize,
    port: AfXdpPort,
    frames: Vec<Vec<u8>>,
}

impl Veth {
    fn new(options: &Options) -> Result<Self> {
        let frames = frames(veth_pair()?, 1)?;
        let port = AfXdpPort::open(&PortOptions::new(VETHS[0], 0))?;
        Ok(Self { core: options.feeding_core, port, frames })
    }

    fn transmit_all(&mut self) -> u64 {
        let mut burst = Vec::with_capacity(BURST);
        let mut sent = 0;
        for frames in self.frames.chunks(BURST) {
            for bytes in frames {
                let Some(mut frame) = self.port.alloc() else { break };
                self.port.buffer_mut(&mut frame)[..bytes.len()].copy_from_slice(bytes);
                self.port.set_len(&mut frame, bytes.len());
                burst.push(frame);
            }
            let count = burst.len();
            sent += (count - self.port.tx_burst(&mut burst)) as u64;
            self.port.housekeeping();
        }
        sent
    }
}

impl Way for Veth {
    fn interface(&self) -> &'static str {
        VETHS[1]
    }

    fn feed(&mut self, time: Duration) -> Result<Fed> {
        repeat(self.core, time, || self.transmit_all())
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        remove_veths();
    }
}

/// Live frames that a driver's receive path hands to the stack.
struct Xdp {
    core: usize,
    to: MacAddr,
}

impl Xdp {
    fn new(options: &Options) -> Result<Self> {
        let to = veth_pair()?;
        // By NAPI it receives only with an XDP program, or so.
        command(&format!("ethtool -K {} gro on", VETHS[1]))?;
        Ok(Self { core: options.feeding_core, to })
    }
}

impl Way for Xdp {
    fn interface(&self) -> &'static str {
        VETHS[1]
    }

    fn feed(&mut self, time: Duration) -> Result<Fed> {
        let options = format!(
            "pktgen --interface {} --to {VIP} --from {CLIENT_FIRST} --to-mac {} --addresses {FRAMES} --frame-len {FRAME_LEN} \
             --core {} --duration {} --repeat 131072 --uncounted --linger-ms 0",
            VETHS[0],
            self.to,
            self.core,
            time.as_secs_f64(),
        );
        let options = pktgen::Options::try_parse_from(options.split_whitespace())?;
        // It pins the thread that it is called on.
        thread::scope(|scope| {
            joined(scope.spawn(|| {
                let report = pktgen::run(&options, None)?;
                Ok(Fed { packets: report.sent, seconds: report.active_seconds })
            }))
        })
    }
}

impl Drop for Xdp {
    fn drop(&mut self) {
        remove_veths();
    }
}

/// The product's worker, which passes everything. Copying frames to its port is in the figure.
struct Product {
    core: usize,
    worker: Worker<MemoryPort, TapQueue>,
    counters: Arc<WorkerCounters>,
    frames: Vec<Vec<u8>>,
}

impl Product {
    fn new(options: &Options, run: usize, coalesce: bool) -> Result<Self> {
        let core = options.feeding_core;
        let TapWrite { mut queues, .. } = TapWrite::new(&[core])?;
        let mut queue = queues.pop().context("a queue")?;
        if !coalesce {
            queue.refuse_super_packets();
        }
        let mac = Link::read(TAP)?.mac;
        let counters = Arc::<WorkerCounters>::default();
        let shared = Shared::new(snapshot(mac)?, FlowTable::new(1024, [1, 2]));
        let port = MemoryPort::new(BURST);
        let worker = Worker::new(port, queue, shared, Arc::clone(&counters));
        Ok(Self { core, worker, counters, frames: frames(mac, run)? })
    }
}

/// A node that passes what comes. The frames' destination is the node's own address and the host's.
fn snapshot(mac: MacAddr) -> Result<Snapshot> {
    let slot = Slot::new(0).context("a slot")?;
    let vip: std::net::IpAddr = VIP.parse().context("an address")?;
    let service = Service::new(
        Vips::new([vip.into()]),
        ClientHash::new([7; 16], HashInput::Address),
        Ingress::Anycast(Anycast { slot, cluster: 1, steering: None }),
        mac,
        mac,
    );
    Ok(Snapshot::serving(service, Holdings::none()))
}

impl Way for Product {
    fn interface(&self) -> &'static str {
        TAP
    }

    fn feed(&mut self, time: Duration) -> Result<Fed> {
        let before = self.counters.get(Count::Passed);
        let fed = repeat(self.core, time, || {
            for burst in self.frames.chunks(BURST) {
                burst.iter().for_each(|frame| self.worker.port_mut().arrive(frame));
                self.worker.poll_once(1_000_000_000);
            }
            0
        })?;
        let packets = self.counters.get(Count::Passed) - before;
        ensure!(packets > 0, "nothing passed: {} dropped", self.counters.drops_total());
        Ok(Fed { packets, ..fed })
    }
}
