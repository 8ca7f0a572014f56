//! What receives in the rows that are no work of the kernel's own: XDP programs, and AF_XDP sockets with an
//! empty loop or with vipdp's worker behind.
//!
//! The worker's side is the product's: its XDP program, its port, its TAP and host settings, its worker and
//! the thread that runs it. Only the control thread is missing, and with it the cluster: what the node owns is
//! a fixed snapshot, of every fourth bucket. So a cluster of four runs here as one node, and what the three
//! others own stays theirs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use anyhow::{Context as _, Result};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};
use crossbeam::queue::ArrayQueue;
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
use vipdp_core::slot::SLOTS;
use vipdp_core::snapshot::{Holdings, Ingress, Publication, Service, SharedMac, Snapshot, Vips};
use vipdp_core::tiered::PreviousOwners;
use vipdp_core::verdict::DropReason;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::worker::{Shared, Worker};
use vipdp_io::af_xdp::{self, AfXdpPort};
use vipdp_io::affinity;
use vipdp_io::host::{HostGuard, HostPlan};
use vipdp_io::link::Link;
use vipdp_io::tap::Tap;
use vipdp_io::xdp::{AttachMode, NextHops, Offload, OffloadFacts, Program};

use super::lab::VIP;
use super::part;
use super::rows::{Owned, Poll, Row, Work};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/compare.bpf.o"));

/// The MAC address that the service address resolves to in the shared-mac mode.
pub const SHARED_MAC: MacAddr = MacAddr([0x02, 0, 0x5e, 0, 0, 0x35]);

/// The cluster's hash of clients: any key will do.
const HASH_KEY: [u8; 16] = [0x5a; 16];
const HASH_INPUT: HashInput = HashInput::Address;
/// vipdp's default.
const FLOWS_MAX: usize = 1 << 20;

/// The hidden subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The row.
    #[arg(long, value_parser = row)]
    row: &'static Row,
    /// The interface to receive on.
    #[arg(long)]
    interface: String,
    /// The core to run on.
    #[arg(long)]
    core: usize,
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
        Work::XdpPass => xdp(options, "pass"),
        Work::AfXdpEmpty => empty(options),
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
    let host_settings = busy_poll_host(options)?;
    let mut port = open(options, Poll::Busy)?;
    program.bind(0, &port)?;
    let (received, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let (counter, stopped) = (Arc::clone(&received), Arc::clone(&stop));
    let core = options.core;
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
    drop(host_settings);
    served
}

/// vipdp's data plane.
fn vipdp(options: &Options, poll: Poll, offload: Option<OffloadMode>) -> Result<()> {
    let link = Link::read(&options.interface)?;
    let mut program = attach(options)?;
    let mut taps = Tap::create(TAP, 1)?;
    let host = host_plan(options, poll, offload).apply()?;
    let port = open(options, poll)?;
    program.bind(0, &port)?;
    let counters = Arc::<WorkerCounters>::default();
    let service = service(&link, host.tap());
    let holdings = holdings(options.row.owned);
    let tap = taps.pop().context("one queue")?;
    let start = Start {
        worker: Worker::new(port, tap, shared(&service, &holdings), Arc::clone(&counters)),
        counters: Arc::clone(&counters),
        queue: 0,
        core: options.core,
        wake_for_host: false,
    };
    let mode = match poll {
        Poll::Adaptive => PollMode::Adaptive,
        Poll::Busy => PollMode::Busy,
    };
    let workers = WorkerThreads::start(vec![start], mode).context("no thread for the worker")?;
    let offload = offload.map(|mode| switch_on(&mut program, mode, &service, &holdings));
    let offload = offload.transpose()?;
    let served = part::serve(|_| report(&counters, &program));
    drop((workers, offload));
    served
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
    offload.set_table(&table)?;
    offload.set_lease(u64::MAX)?;
    Ok(offload)
}

fn report(counters: &WorkerCounters, program: &Program) -> Result<Report> {
    let by_program = program.counters()?;
    let refused = counters.drops(DropReason::HostFull) + counters.drops(DropReason::HostTooLong);
    let settled = by_program.offload_dropped + by_program.offload_passed;
    Ok(Report {
        received: counters.get(Count::Received) + settled,
        dropped: counters.drops_total() - refused + by_program.offload_dropped,
        passed: counters.get(Count::Passed) + by_program.offload_passed,
        refused,
        by_program: settled,
    })
}

fn attach(options: &Options) -> Result<Program> {
    let vips = [vip()];
    Ok(Program::attach(&options.interface, AttachMode::Native, &vips, &NextHops::default())?)
}

fn open(options: &Options, poll: Poll) -> Result<AfXdpPort> {
    let port = AfXdpPort::open(&af_xdp::Options {
        busy_poll: poll == Poll::Busy,
        ..af_xdp::Options::new(options.interface.as_str(), 0)
    })?;
    Ok(port)
}

/// The name of the TAP, in a namespace of its own.
const TAP: &str = "vipdp0";

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
        busy_poll: poll == Poll::Busy,
        egress_tap: None,
        announced_on: None,
        state_dir: options.state_dir.clone(),
    }
}

/// The host's settings for a loop that polls, and a TAP that nothing goes to: such as a worker has.
fn busy_poll_host(options: &Options) -> Result<(HostGuard, Vec<vipdp_io::tap::TapQueue>)> {
    let taps = Tap::create(TAP, 1)?;
    Ok((host_plan(options, Poll::Busy, None).apply()?, taps))
}

/// What this node owns, for ever.
fn holdings(owned: Owned) -> Holdings {
    let owned: BucketSet = match owned {
        Owned::Nothing => BucketSet::EMPTY,
        Owned::Quarter => Bucket::all().step_by(4).collect(),
        Owned::All => Bucket::all().collect(),
    };
    Holdings::owning(&owned)
}

fn service(link: &Link, tap: &Link) -> Service {
    Service {
        vips: Vips::new([vip()]),
        client_hash: ClientHash::new(HASH_KEY, HASH_INPUT),
        sticky_udp_ports: [443].into(),
        ingress: Ingress::SharedMac(SharedMac::unicast(SHARED_MAC)),
        own_mac: link.mac,
        host_mac: tap.mac,
        host_mtu: tap.mtu.min(u32::from(u16::MAX)) as u16,
        vlan: None,
        peer_macs: [None; SLOTS],
        peers: [None; SLOTS],
        egress: None,
    }
}

/// What the worker knows: a cluster in which nothing changes.
fn shared(service: &Service, holdings: &Holdings) -> Shared {
    let snapshot = Snapshot {
        generation: 1,
        lease_until_ns: u64::MAX,
        holdings: holdings.clone(),
        previous: Arc::new(PreviousOwners::none()),
        latest: None,
        service: Arc::new(service.clone()),
    };
    Shared {
        publication: Arc::new(Publication::new(snapshot)),
        flows: Arc::new(FlowTable::new(FLOWS_MAX, [1, 2])),
        unresolved: Arc::new(ArrayQueue::new(1)),
        claims: Arc::new(ArrayQueue::new(1)),
    }
}
