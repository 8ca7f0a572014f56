//! What receives in the rows that are no work of the kernel's own: XDP programs, and AF_XDP sockets with an
//! empty loop or with vipdp's worker behind.
//!
//! The worker's side is the product's: its XDP program, its port, its TAP and host settings, its worker and
//! the thread that runs it. Only the control thread is missing, and with it the cluster: what the node owns is
//! a fixed snapshot, of every fourth bucket for one. So a cluster of four runs here as one node, and what the three
//! others own stays theirs. Where buckets are to move, a thread publishes others every few milliseconds.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};
use serde::{Deserialize, Serialize};
use vipdp::config::PollMode;
use vipdp::runtime::workers::{Start, WorkerThreads};
use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::offload::{OffloadMode, OffloadTable};
use vipdp_core::port::{BURST, Port as _};
use vipdp_core::prefix::Prefix;
use vipdp_core::snapshot::{
    Holdings, Ingress, Publication, Publisher, Service, SharedMac, Snapshot, Vips,
};
use vipdp_core::verdict::DropReason;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::worker::{Shared, Worker};
use vipdp_io::af_xdp::{self, AfXdpPort, BusyPoll, ZeroCopy};
use vipdp_io::affinity;
use vipdp_io::host::{HostGuard, HostPlan, Polling};
use vipdp_io::huge_pages;
use vipdp_io::link::Link;
use vipdp_io::tap::{Tap, TapQueue};
use vipdp_io::xdp::{AttachMode, NextHops, Offload, OffloadFacts, Program};

use super::lab::VIP;
use super::part;
use super::rows::{Owned, Poll, Row, Sink, Work};
use super::{bare, writer};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/compare.bpf.o"));

/// The MAC address that the service address resolves to in the shared-mac mode.
pub const SHARED_MAC: MacAddr = MacAddr([0x02, 0, 0x5e, 0, 0, 0x35]);

/// The cluster's hash of clients: any key will do.
const HASH_KEY: [u8; 16] = [0x5a; 16];
const HASH_INPUT: HashInput = HashInput::Address;
/// vipdp's default; a row that has more flows asks for twice as many, so that none has to go.
const FLOWS_MAX: u64 = 1 << 20;

/// The hidden subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The row.
    #[arg(long, value_parser = row)]
    pub(super) row: &'static Row,
    /// The interface to receive on.
    #[arg(long)]
    pub(super) interface: String,
    /// The cores to run on, one for each queue.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Attach the XDP program in the stack.
    #[arg(long)]
    generic: bool,
    /// Where vipdp keeps what it has to undo.
    #[arg(long)]
    state_dir: PathBuf,
}

fn row(name: &str) -> Result<&'static Row, String> {
    Row::named(name).ok_or_else(|| format!("no row is called {name}"))
}

/// What a receiver has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Frames taken from the socket, or dealt with by vipdp's program.
    pub received: u64,
    /// Of these, dropped on purpose.
    pub dropped: u64,
    /// Of these, handed to the host.
    pub passed: u64,
    /// Of these, refused by the host.
    pub refused: u64,
    /// Of these, dropped or passed by the program, so that no worker saw them.
    pub by_program: u64,
}

pub(super) fn run(options: &Options) -> Result<()> {
    match options.row.work {
        Work::XdpDrop => xdp(options, "drop"),
        Work::XdpLook => xdp(options, "look"),
        Work::XdpPass => xdp(options, "pass"),
        Work::XdpQuarter => xdp(options, "quarter"),
        Work::AfXdpEmpty => empty(options),
        Work::TapWriter => {
            let host = TapHost::make(options, Poll::Adaptive, None)?;
            writer::run(host, options.row.run_len, options.core())
        }
        Work::Vipdp(..) if options.row.sink == Sink::Nobody => bare::run(options),
        Work::Vipdp(poll, offload) => vipdp(options, poll, offload),
        Work::Kernel(_) => anyhow::bail!("{} receives by the kernel's own means", options.row.name),
    }
}

/// An XDP program. The interface counts what it handles.
fn xdp(options: &Options, program: &str) -> Result<()> {
    let mut ebpf = Ebpf::load(OBJECT).context("the kernel refuses the programs")?;
    let program: &mut Xdp = ebpf.program_mut(program).context("no such program")?.try_into()?;
    program.load()?;
    program.attach(&options.interface, XdpMode::Driver).context("cannot attach the program")?;
    part::serve(|_| Ok(Report::default()))
}

/// Frames are taken and given back.
fn empty(options: &Options) -> Result<()> {
    let mut program = attach(options)?;
    let host = TapHost::make(options, Poll::Busy, None)?;
    let mut port = open(options, Poll::Busy, &host.settings, 0)?;
    program.bind(0, &port)?;
    let (received, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let (counter, stopped) = (Arc::clone(&received), Arc::clone(&stop));
    let core = options.core();
    let worker = thread::spawn(move || -> Result<()> {
        affinity::pin(core)?;
        let mut burst = Vec::with_capacity(BURST);
        while !stopped.load(Relaxed) {
            let count = port.rx_burst(&mut burst);
            burst.drain(..).for_each(|frame| port.recycle(frame));
            port.housekeeping();
            counter.fetch_add(count as u64, Relaxed);
        }
        Ok(())
    });
    let served = part::serve(|_| {
        let received = received.load(Relaxed);
        Ok(Report { received, dropped: received, ..Report::default() })
    });
    stop.store(true, Relaxed);
    worker.join().map_err(|_| anyhow::anyhow!("the loop ended in a panic"))??;
    drop(host);
    served
}

/// vipdp's data plane.
fn vipdp(options: &Options, poll: Poll, offload: Option<OffloadMode>) -> Result<()> {
    let link = Link::read(&options.interface)?;
    let mut program = attach(options)?;
    let host = TapHost::make(options, poll, offload)?;
    let service = service(&link, host.settings.tap(), options.row.owned.nodes());
    let holdings = holdings(options.row.owned, 0);
    let shared = shared(options.row, &service, &holdings);
    let publication = Arc::clone(&shared.publication);
    let mut starts = Vec::new();
    let mut all = Vec::new();
    for ((queue, tap), &core) in (0..).zip(host.queues).zip(&options.cores) {
        let port = open(options, poll, &host.settings, queue)?;
        program.bind(queue, &port)?;
        let counters = Arc::<WorkerCounters>::default();
        all.push(Arc::clone(&counters));
        let worker = Worker::new(port, tap, shared.clone(), Arc::clone(&counters));
        starts.push(Start { worker, counters, queue, core, wake_for_host: false });
    }
    let mode = match poll {
        Poll::Adaptive => PollMode::Adaptive,
        Poll::Busy => PollMode::Busy,
    };
    let workers = WorkerThreads::start(starts, mode).context("no thread for the worker")?;
    let offload = offload.map(|mode| switch_on(&mut program, mode, &service, &holdings));
    let offload = offload.transpose()?;
    let moves = options.row.moves.map(|every| Moves::start(every, options, publication));
    let served = part::serve(|_| report(&all, &program));
    drop((moves, workers, offload, host.settings));
    served
}

/// A thread that publishes what the node owns anew, as a control thread does when buckets move. It ends when dropped.
struct Moves {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Moves {
    /// Every so often other buckets are owned, as many as before.
    fn start(every: Duration, options: &Options, publication: Arc<Publication>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let (core, owned) = (options.core(), options.row.owned);
        let thread = thread::spawn(move || {
            // Counted with the rest of what receives; elsewhere it would only disturb the generator.
            let _ = affinity::pin(core);
            let mut snapshot = Snapshot::clone(&**publication.load());
            let mut publisher = Publisher::new(publication);
            while !stopped.load(Relaxed) {
                thread::sleep(every);
                snapshot.generation += 1;
                snapshot.holdings = holdings(owned, snapshot.generation as usize);
                publisher.publish(snapshot.clone());
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing that could fail.
            let _ = thread.join();
        }
    }
}

/// Has the program do what the control thread would have it do once all has settled: no flow is left of
/// what others own.
fn switch_on(
    program: &mut Program,
    mode: OffloadMode,
    service: &Service,
    holdings: &Holdings,
) -> Result<Offload> {
    let mut offload = program.take_offload().context("the program's offload is taken")?;
    offload.switch_on(&OffloadFacts {
        hash_key: HASH_KEY,
        hash_input: HASH_INPUT,
        shared: SharedMac::unicast(SHARED_MAC),
        own_mac: service.own_mac,
        sticky_udp_ports: &service.sticky_udp_ports,
        host_mtu: service.host_mtu,
    })?;
    let table = OffloadTable::to_user().passing(mode, holdings);
    let table = table.closed(&table.ajar(holdings), &BucketSet::EMPTY);
    offload.change(|_| table.clone());
    offload.set_lease(u64::MAX);
    Ok(offload)
}

pub(super) fn report(workers: &[Arc<WorkerCounters>], program: &Program) -> Result<Report> {
    let by_program = program.counters()?;
    let settled = by_program.offload_dropped + by_program.offload_passed;
    let mut report = Report {
        received: settled,
        dropped: by_program.offload_dropped,
        passed: by_program.offload_passed,
        refused: 0,
        by_program: settled,
    };
    for worker in workers {
        let refused = worker.drops(DropReason::HostFull) + worker.drops(DropReason::HostTooLong);
        report.received += worker.get(Count::Received);
        report.dropped += worker.drops_total() - refused;
        report.passed += worker.get(Count::Passed);
        report.refused += refused;
    }
    Ok(report)
}

pub(super) fn attach(options: &Options) -> Result<Program> {
    let vips = [vip()];
    let mode = if options.generic { AttachMode::Generic } else { AttachMode::Native };
    Ok(Program::attach(&options.interface, mode, &vips, &NextHops::default())?)
}

pub(super) fn open(
    options: &Options,
    poll: Poll,
    host: &HostGuard,
    queue: u32,
) -> Result<AfXdpPort> {
    let port = AfXdpPort::open(&af_xdp::Options {
        busy_poll: match (poll, host.deferral()) {
            (Poll::Busy, _) => BusyPoll::Always,
            (Poll::Adaptive, Some(deferral)) => BusyPoll::UnderLoad(deferral),
            (Poll::Adaptive, None) => BusyPoll::Never,
        },
        // In the stack there is none to be had; a veth has none in any case.
        zero_copy: ZeroCopy::Off,
        ..af_xdp::Options::new(options.interface.as_str(), queue)
    })?;
    Ok(port)
}

/// The name of the TAP, in a namespace of its own.
pub(super) const TAP: &str = "vipdp0";

impl Options {
    /// The first queue's core.
    pub(super) fn core(&self) -> usize {
        self.cores[0]
    }
}

/// A TAP with the service address, and the host's settings.
pub(super) struct TapHost {
    pub(super) queues: Vec<TapQueue>,
    pub(super) settings: HostGuard,
}

impl TapHost {
    pub(super) fn make(
        options: &Options,
        poll: Poll,
        offload: Option<OffloadMode>,
    ) -> Result<Self> {
        let mut queues = Tap::create(TAP, options.cores.len())?;
        if !options.row.coalesces {
            queues.iter_mut().for_each(TapQueue::refuse_super_packets);
        }
        let settings = host_plan(options, poll, offload).apply()?;
        Ok(Self { queues, settings })
    }
}

fn vip() -> Prefix {
    let address: IpAddr = VIP.parse().expect("an address");
    address.into()
}

fn host_plan(options: &Options, poll: Poll, offload: Option<OffloadMode>) -> HostPlan {
    let by_nic = offload == Some(OffloadMode::Full);
    HostPlan {
        interface: options.interface.clone(),
        tap: TAP.to_owned(),
        vips: vec![vip()],
        next_hops: NextHops::default(),
        group_mac: false,
        own_mac: by_nic,
        by_nic,
        polling: match poll {
            Poll::Adaptive => Polling::UnderLoad,
            Poll::Busy => Polling::Always,
        },
        egress_tap: None,
        announced_on: None,
        state_dir: options.state_dir.clone(),
    }
}

/// What this node owns: with another number, other buckets, as many.
pub(super) fn holdings(owned: Owned, number: usize) -> Holdings {
    let owned: BucketSet = match owned {
        Owned::Nothing => BucketSet::EMPTY,
        Owned::OneIn(nodes) => {
            let nodes = usize::from(nodes);
            Bucket::all().skip(number % nodes).step_by(nodes).collect()
        }
    };
    Holdings::owning(&owned)
}

pub(super) fn service(link: &Link, tap: &Link, nodes: u16) -> Service {
    Service {
        sticky_udp_ports: [443].into(),
        host_mtu: tap.mtu.min(u32::from(u16::MAX)) as u16,
        peer_macs: std::array::from_fn(|slot| {
            (slot < usize::from(nodes)).then_some(MacAddr([2, 0, 0, 0, 1, slot as u8]))
        }),
        ..Service::new(
            Vips::new([vip()]),
            ClientHash::new(HASH_KEY, HASH_INPUT),
            Ingress::SharedMac(SharedMac::unicast(SHARED_MAC)),
            link.mac,
            tap.mac,
        )
    }
}

/// What the worker knows. The flow table is in huge pages, as a node's is.
pub(super) fn shared(row: &Row, service: &Service, holdings: &Holdings) -> Shared {
    let snapshot = Snapshot::serving(service.clone(), holdings.clone());
    let flows = FlowTable::new((2 * row.flow_count()).max(FLOWS_MAX) as usize, [1, 2]);
    if let Err(error) = huge_pages::gather(flows.lines()) {
        eprintln!("the flow table stays in small pages: {error}");
    }
    Shared::new(snapshot, flows)
}
