//! Setting up the data plane, and taking it down again.
//!
//! The order keeps three promises: nothing is changed before another vipdp on the interface is
//! ruled out, the kernel is told not to answer for the VIPs before it has them, and no frame is
//! taken from the kernel before there is a socket that takes it.

#[cfg(feature = "dpdk")]
mod dpdk;

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use crossbeam::queue::ArrayQueue;
use tracing::{info, warn};
use vipdp_core::anycast::Steering;
use vipdp_core::counters::WorkerCounters;
use vipdp_core::flow::{FlowTable, Seconds};
use vipdp_core::hash::ClientHash;
use vipdp_core::offload::OffloadMode;
use vipdp_core::snapshot::{Ingress, Service, Snapshot, Vips};
use vipdp_core::worker::{NicHost, Shared, Worker};
use vipdp_io::af_xdp::{self, AfXdpPort, BusyPoll};
use vipdp_io::flow_file::{FlowFile, Found};
use vipdp_io::host::{EgressTap, HostGuard, HostPlan, Polling};
use vipdp_io::huge_pages;
use vipdp_io::link::Link;
use vipdp_io::neighbor::EgressTable;
use vipdp_io::tap::{Tap, TapQueue};
use vipdp_io::xdp::{AttachMode, Offload, OffloadFacts, Program, TunnelEnd};

use super::clock::monotonic_ns;
use super::egress::GATEWAYS_MAX;
use super::reach::{Door, Intake, Reach};
use super::workers::{Start, WorkerPort, WorkerThreads};
use crate::config::{
    AnnounceBy, AnycastConfig, Config, EgressMode, IngressMode, IoConfig, PollMode, XdpMode,
    ZeroCopy,
};

/// How many claims may wait for the control thread where nothing but claims tells members of each other: as many
/// as 64 members with 63 addresses each make in the time in which it looks once, several times over.
const MEMBERS_CLAIMS_MAX: usize = 4096;

/// The data plane of a node, running. Dropping it stops the workers, then puts the host back, then
/// gives the frames back to the kernel, which has no VIP any more: the fields are in that order.
pub struct DataPlane {
    /// The workers' threads.
    pub workers: WorkerThreads,
    /// The host's settings, to be put back.
    pub host: HostGuard,
    /// What lets frames in.
    pub intake: Intake,
    /// The NIC, as it was at the start.
    pub link: Link,
    /// What the workers share.
    pub shared: Shared,
    /// Where the flows outlive the process, if they do.
    pub flow_file: Option<&'static FlowFile>,
    /// What does not change while they run: the peers' MAC addresses and the egress are empty.
    pub service: Service,
    /// The kernel's routes and neighbours, with `egress = "tap"`.
    pub egress: Option<EgressTable>,
    /// How many receive queues the NIC has.
    pub queues: u32,
    /// What the XDP program decides by itself, if anything: nothing yet.
    pub offload: Option<Offload>,
}

impl DataPlane {
    /// Sets everything up. The workers run when this returns; they own no bucket.
    ///
    /// # Errors
    /// When the kernel refuses something; what was done is undone then.
    pub fn start(config: &Config) -> Result<Self> {
        match &config.node.io {
            IoConfig::AfXdp => Self::start_af_xdp(config),
            #[cfg(feature = "dpdk")]
            IoConfig::Dpdk(dpdk) => dpdk::start(config, dpdk),
            #[cfg(not(feature = "dpdk"))]
            IoConfig::Dpdk(_) => anyhow::bail!("this vipdp was built without DPDK"),
        }
    }

    fn start_af_xdp(config: &Config) -> Result<Self> {
        let interface = config.node.interface.as_str();
        let link = Link::read(interface)?;
        super::check_own_mac(config, interface, link.mac)?;
        link.require_running()?;
        let vips = &config.cluster.vips;
        let reach = Reach::new(config)?;

        let mut program =
            Program::attach(interface, attach_mode(config, &link), vips, &reach.next_hops)?;
        if let Some(end) = tunnel_end(config) {
            program.set_tunnel_end(&end)?;
        }
        // Attaching can change their number.
        let queues = program
            .rx_queues()
            .with_context(|| format!("cannot count the receive queues of {interface}"))?;
        let by_nic = config.node.offload == Some(OffloadMode::Full);
        let taps = taps(config, queues)?;
        let host = HostPlan {
            // Or from the XDP program, which addresses them so.
            own_mac: reach.is_by_own_mac() || by_nic,
            by_nic,
            polling: match config.node.poll {
                PollMode::Adaptive => Polling::UnderLoad,
                PollMode::Busy => Polling::Always,
            },
            ..host_plan(config, &reach)
        }
        .apply()?;
        let membership = reach.join(&link)?;
        let service = service(config, &link, host.tap(), &reach);
        let (flows, flow_file) = flow_table(config, &service.client_hash)?;
        let shared = shared(&service, flows, super::is_by_wire(config));
        let offload = offload(config, &mut program, &service)?;
        let zero_copy = zero_copy(config, &link, program.attach_mode());
        let ports = (0..queues)
            .map(|queue| open_port(config, zero_copy, &host, queue))
            .collect::<Result<Vec<_>>>()?;
        if zero_copy == af_xdp::ZeroCopy::Auto && !ports.iter().all(AfXdpPort::is_zero_copy) {
            info!("no zero-copy: the driver has none, so that frames are copied");
        }
        for (queue, port) in (0..).zip(&ports) {
            program.bind(queue, port)?;
        }
        let nic_hosts = ports.iter().map(|_| None).collect();
        let workers = start_workers(config, &shared, ports, taps, nic_hosts)?;
        let egress = match config.node.egress {
            EgressMode::Tap => Some(egress_table(config, &link)?),
            EgressMode::Direct => None,
        };
        Ok(Self {
            workers,
            host,
            intake: Intake { door: Door::Xdp(program), membership },
            link,
            shared,
            flow_file,
            service,
            egress,
            queues,
            offload,
        })
    }
}

/// The ways out of the host for frames that leave by the workers, with the gateways' MAC addresses: an answer
/// whose gateway is not known yet is lost.
fn egress_table(config: &Config, link: &Link) -> Result<EgressTable> {
    let segment = segment(config, link)?;
    let mut table = EgressTable::new(&segment)?;
    if !table.await_gateways(GATEWAYS_MAX)? {
        warn!(
            interface = segment.name,
            "a gateway does not answer: what goes by it is lost until it does"
        );
    }
    Ok(table)
}

/// The queues of the TAP that accepted frames enter the host by, one for each worker.
fn taps(config: &Config, queues: u32) -> Result<Vec<TapQueue>> {
    let mut taps = Tap::create(config.node.tap.as_str(), queues as usize)?;
    if !config.node.coalesce {
        taps.iter_mut().for_each(TapQueue::refuse_super_packets);
    }
    if sends_super_packets(config) {
        // For all of its queues.
        if let Err(error) = taps[0].ask_for_super_packets() {
            warn!(%error, "the host sends single packets only, which costs it and us time");
        }
    }
    Ok(taps)
}

/// What is wanted of the host whoever has the NIC: no packet to a VIP comes out of it.
fn host_plan(config: &Config, reach: &Reach) -> HostPlan {
    HostPlan {
        interface: config.node.interface.as_str().to_owned(),
        tap: config.node.tap.as_str().to_owned(),
        vips: config.cluster.vips.clone(),
        next_hops: reach.next_hops,
        group_mac: reach.is_by_group(),
        own_mac: false,
        by_nic: false,
        polling: Polling::Never,
        egress_tap: (config.node.egress == EgressMode::Tap).then(EgressTap::default),
        announced_on: announced_on(config),
        state_dir: config.node.state_dir.clone(),
    }
}

/// The XDP program's offload, if it is wanted, knowing all but who has which bucket.
fn offload(config: &Config, program: &mut Program, service: &Service) -> Result<Option<Offload>> {
    let (Some(_), Ingress::SharedMac(shared)) = (config.node.offload, service.ingress) else {
        return Ok(None);
    };
    let mut offload = program.take_offload().context("the offload is taken already")?;
    offload.switch_on(&OffloadFacts {
        hash_key: config.keys.hash_key(),
        hash_input: service.client_hash.input(),
        shared,
        own_mac: service.own_mac,
        sticky_udp_ports: &service.sticky_udp_ports,
        host_mtu: service.host_mtu,
    })?;
    Ok(Some(offload))
}

/// The interface that a routing daemon announces the VIPs from, if one does.
fn announced_on(config: &Config) -> Option<String> {
    match &config.node.announce.as_ref()?.by {
        AnnounceBy::Interface(interface) => Some(interface.as_str().to_owned()),
        AnnounceBy::Bgp(_) => None,
    }
}

/// Where other members' tunnels come to, if there are any.
fn tunnel_end(config: &Config) -> Option<TunnelEnd> {
    match config.cluster.mode {
        IngressMode::Anycast(AnycastConfig { steering: Some(Steering::Gue { port }) }) => {
            Some(TunnelEnd::new(config.own_member().address?, port))
        }
        _ => None,
    }
}

/// Where the XDP program is to run.
///
/// With packets by the NIC, that is in the stack where the NIC is virtual. A veth has told what another
/// host's packets are before the program sees them, and does not look again when the program has
/// addressed them to this one (`veth_xdp_rcv_skb` in the kernel's drivers/net/veth.c); the stack does.
///
/// On a bond too: its driver hangs the program on the NICs below, and a socket of the bond takes no frame
/// that came by another interface (`xsk_rcv_check` in the kernel's net/xdp/xsk.c).
fn attach_mode(config: &Config, link: &Link) -> AttachMode {
    let passes = config.node.offload == Some(OffloadMode::Full);
    let is_virtual = link.driver().is_none();
    match config.node.xdp {
        XdpMode::Auto if link.is_bond() || passes && is_virtual => AttachMode::Generic,
        XdpMode::Auto => AttachMode::Auto,
        XdpMode::Native => AttachMode::Native,
        XdpMode::Generic => AttachMode::Generic,
    }
}

fn service(config: &Config, link: &Link, tap: &Link, reach: &Reach) -> Service {
    let cluster = &config.cluster;
    Service {
        sticky_udp_ports: cluster.sticky_udp_ports.as_slice().into(),
        host_mtu: tap.mtu.min(u32::from(u16::MAX)) as u16,
        vlan: cluster.vlan,
        ..Service::new(
            Vips::new(cluster.vips.iter().copied()),
            ClientHash::new(config.keys.hash_key(), cluster.hash),
            reach.ingress,
            link.mac,
            tap.mac,
        )
    }
}

fn shared(service: &Service, flows: FlowTable, by_wire: bool) -> Shared {
    let nothing = Snapshot::waiting(service.clone());
    let mut shared = Shared::new(nothing, flows);
    if by_wire {
        shared.claims = Arc::new(ArrayQueue::new(MEMBERS_CLAIMS_MAX));
    }
    shared
}

/// The flow table, and the file that it is in. The table is that of the process before, if it fits.
fn flow_table(
    config: &Config,
    client_hash: &ClientHash,
) -> Result<(FlowTable, Option<&'static FlowFile>)> {
    let word = || super::random::word().context("no random secret for the flow table");
    let secret = [word()?, word()?];
    let flows_max = config.node.flows_max;
    let Some(path) = &config.node.flows_file else {
        let table = FlowTable::new(flows_max, secret);
        tell_of_huge_pages(&table, huge_pages::gather(table.lines()));
        return Ok((table, None));
    };
    let now = monotonic_ns();
    let file = FlowFile::open(path, flows_max, client_hash, secret, now)?;
    let table = file.table();
    let path = path.display();
    match file.found {
        Found::Nothing => info!(%path, "a new flow table"),
        Found::Unfit(unfit) => warn!(%path, %unfit, "a new flow table; the flows before are lost"),
        Found::Table => {
            let flows = table.census(Seconds::of_ns(now)).flows();
            info!(%path, flows, "the flows before go on");
        }
    }
    tell_of_huge_pages(&table, file.gather());
    // The workers may write to the table until the last of them has ended, and so the file stays
    // locked until the process has.
    Ok((table, Some(Box::leak(Box::new(file)))))
}

/// Says how much of the table is in huge pages, which a lookup takes some 5 ns less in.
fn tell_of_huge_pages(table: &FlowTable, outcome: io::Result<()>) {
    let mib = |bytes: usize| bytes >> 20;
    let all = mib(size_of_val(table.lines()));
    let huge = huge_pages::gathered(table.lines()).map_or(0, mib);
    match outcome {
        Ok(()) => info!(mib = all, in_huge_pages = huge, "memory of the flow table"),
        Err(error) => info!(mib = all, in_huge_pages = huge, %error, "memory of the flow table"),
    }
}

/// The interface that the host's routes and neighbours on the VIPs' segment are of: that of the VLAN
/// where the VIPs are tagged, which is the one that heartbeats use then.
fn segment(config: &Config, link: &Link) -> Result<Link> {
    Ok(match config.cluster.vlan {
        Some(_) => Link::read(config.node.heartbeat_interface.as_str())?,
        None => link.clone(),
    })
}

/// Whether the host may send super-packets by way of the workers.
fn sends_super_packets(config: &Config) -> bool {
    config.node.egress == EgressMode::Tap && config.node.coalesce
}

/// Drivers that give the NIC whole KiB of a zero-copy frame's room: 1 of the 1,792 bytes that our frames
/// have. What is longer comes in pieces then, and is lost, be it vipdp's or the kernel's
/// (`igb_setup_srrctl` in the kernel's drivers/net/ethernet/intel/igb/igb_main.c; igc does the same).
const ZERO_COPY_CUTS: [&str; 2] = ["igb", "igc"];

/// Whether the NIC may write into the ports' memory.
fn zero_copy(config: &Config, link: &Link, mode: AttachMode) -> af_xdp::ZeroCopy {
    if config.node.zero_copy == ZeroCopy::Off {
        return af_xdp::ZeroCopy::Off;
    }
    if mode == AttachMode::Generic {
        info!("no zero-copy: the XDP program runs in the stack, so that frames are copied");
        return af_xdp::ZeroCopy::Off;
    }
    match link.driver() {
        Some(driver) if ZERO_COPY_CUTS.contains(&driver.as_str()) => {
            info!(%driver, "no zero-copy: the driver would lose frames above 1,024 bytes");
            af_xdp::ZeroCopy::Off
        }
        _ => af_xdp::ZeroCopy::Auto,
    }
}

fn open_port(
    config: &Config,
    zero_copy: af_xdp::ZeroCopy,
    host: &HostGuard,
    queue: u32,
) -> Result<AfXdpPort> {
    let port = AfXdpPort::open(&af_xdp::Options {
        zero_copy,
        busy_poll: match (config.node.poll, host.deferral()) {
            (PollMode::Busy, _) => BusyPoll::Always,
            (PollMode::Adaptive, Some(deferral)) => BusyPoll::UnderLoad(deferral),
            (PollMode::Adaptive, None) => BusyPoll::Never,
        },
        whole: sends_super_packets(config),
        ..af_xdp::Options::new(config.node.interface.as_str(), queue)
    })?;
    Ok(port)
}

/// The cores that workers may use, in the order in which they get one each.
fn cores(config: &Config) -> Vec<usize> {
    match &config.node.cores {
        Some(cores) => cores.to_vec(),
        None => core_affinity::get_core_ids()
            .unwrap_or_default()
            .into_iter()
            .map(|core| core.id)
            .collect(),
    }
}

/// Starts a worker for each port. `nic_hosts` are the host's sides of the NIC, where workers have it whole.
fn start_workers<P: WorkerPort>(
    config: &Config,
    shared: &Shared,
    ports: Vec<P>,
    taps: Vec<TapQueue>,
    nic_hosts: Vec<Option<NicHost<TapQueue>>>,
) -> Result<WorkerThreads> {
    let cores = cores(config);
    ensure!(!cores.is_empty(), "the kernel names no core that workers may use; set `cores`");
    let starts = ports
        .into_iter()
        .zip(taps)
        .zip(nic_hosts)
        .enumerate()
        .map(|(queue, ((port, tap), nic_host))| {
            let counters = Arc::<WorkerCounters>::default();
            let mut worker = Worker::new(port, tap, shared.clone(), Arc::clone(&counters));
            if let Some(nic_host) = nic_host {
                worker = worker.with_nic_host(nic_host);
            }
            Start {
                worker,
                counters,
                queue: queue as u32,
                core: cores[queue % cores.len()],
                wake_for_host: config.node.egress == EgressMode::Tap,
            }
        })
        .collect();
    WorkerThreads::start(starts, config.node.poll).context("cannot start a worker's thread")
}
