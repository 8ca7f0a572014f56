//! A running node: the only place where sockets, timers, threads and the protocol meet.
//!
//! ```text
//!   main thread       signals; waits, and puts the host back when all others have ended
//!   vipdp-control     the protocol: heartbeats in and out, snapshots out          control.rs
//!   vipdp-workerN     the data plane, one per receive queue                       workers.rs
//!   vipdp-admin       the admin socket                                            admin/
//!   vipdp-check-N     the checks of the service, one each                         health/
//!   vipdp-bgp         the BGP speaker, with announce = "bgp"                      speaker/
//! ```

mod acquired;
mod announce;
pub(crate) mod clock;
mod control;
mod dataplane;
mod egress;
mod forgetting;
mod gateway;
mod handler;
mod load;
mod mailbox;
pub(crate) mod notes;
mod offload;
mod overlap;
mod patience;
mod protocol;
pub(crate) mod random;
mod reach;
mod reload;
mod routes_status;
mod transport;
mod unserved;
pub mod workers;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tracing::{error, info, warn};
use vipdp_core::anycast::Steering;
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::{Publisher, Service};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::worker::Shared;
use vipdp_io::link::{Link, LinkWatch};
use vipdp_io::peer_path::PeerPaths;
use vipdp_io::realtime;

use crate::admin::{AdminHandler, AdminServer, Limits};
use crate::cluster::auth::{KeyId, Keyring};
use crate::cluster::config::{
    AllDown, ClusterConfig, ConfigId, Lists, Member, Parameters, Partition, Timing,
};
use crate::cluster::node::Node;
use crate::cluster::wire_node::{MemberMacs, WireNode};
use crate::config::{
    self, AnycastConfig, ClaimsBy, Config, HeartbeatTransport, IngressMode, PartitionGuard,
};
use crate::health::Monitor;
use crate::routes::Routes;
use announce::Announcements;
use clock::monotonic_ns;
use control::Control;
use dataplane::DataPlane;
use egress::Ways;
use forgetting::Forgetting;
use gateway::Gateway;
use handler::Handler;
use mailbox::Mailbox;
use offload::Offloading;
use protocol::Protocol;
use reach::Reach;
use transport::{Route, Transport};
use unserved::Unserved;

/// How long the control thread may take to end after a signal, before the host is put back without
/// it: longer than it takes to hand everything over, and to take leave of routers.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Runs the node whose file is at `path` until SIGTERM or SIGINT; SIGHUP reloads the file.
///
/// # Errors
/// When it cannot start, or a part of it fails. The host is as it was before in either case.
pub fn run(path: &Path, config: &Config) -> Result<()> {
    let signals = take_signals()?;
    for note in config.notes().into_iter().chain(notes::notes(config)) {
        warn!("{note}");
    }
    let cluster = Arc::new(cluster_config(config)?);
    let keyring = keyring(config)?;
    let realtime = config.cluster.timing.wants_realtime();
    if realtime {
        realtime::lock_memory().context("heartbeats this fast need memory that stays in RAM")?;
        check_realtime()?;
    }
    let dataplane = DataPlane::start(config)?;
    let DataPlane {
        workers,
        host,
        intake,
        link,
        shared,
        flow_file,
        service,
        egress,
        queues,
        offload,
    } = dataplane;
    let offload =
        config.node.offload.zip(offload).map(|(mode, maps)| {
            Offloading::new(maps, mode, Arc::clone(&shared.flows), monotonic_ns())
        });
    let workers = Arc::new(workers);
    let door = intake.door.describe();
    let (mailbox, letters) = mailbox::mailbox().context("no descriptor for the control thread")?;
    #[cfg(feature = "dpdk")]
    intake.door.watch_loss(&mailbox);
    let intake = Arc::new(Mutex::new(intake));
    let timing = cluster.timing();
    let (protocol, transport) = protocol(config, &cluster)?;
    let gateway = gateway(config, &timing).context("cannot ask the router")?;
    let announcements = announcements(config, &link, &shared, &service, &timing)
        .context("cannot claim addresses")?;
    let paths = peer_paths(config)?;
    let watch = LinkWatch::open(&link)?;
    let routes = routes(config)?;
    let checks = Arc::new(monitor(config, mailbox.clone())?);
    let control = Control {
        protocol,
        keyring,
        cluster: config.cluster.id,
        transport,
        publisher: Publisher::new(Arc::clone(&shared.publication)),
        service,
        unresolved: Arc::clone(&shared.unresolved),
        egress: egress.map(|table| Ways::new(table, monotonic_ns())),
        link: watch,
        forgetting: Forgetting::watch(&link, &intake, monotonic_ns()),
        unserved: Unserved::watch(&link, queues, &intake, monotonic_ns()),
        gateway,
        routes,
        paths,
        offload,
        workers: Arc::clone(&workers),
        checks: Arc::clone(&checks),
        flow_file,
        announcements,
        letters,
        timing,
    };
    let handler = Arc::new(Handler::new(handler::Facts {
        path: path.to_owned(),
        config: ArcSwap::from_pointee(config.clone()),
        link,
        queues,
        intake: Arc::clone(&intake),
        shared: shared.clone(),
        workers: Arc::clone(&workers),
        checks,
        mailbox: mailbox.clone(),
    }));
    let admin =
        AdminServer::start(&config.node.admin, Limits::default(), Arc::clone(&handler) as _)?;
    let (thread, ended) = spawn_control(control, realtime)?;
    info!(interface = config.node.interface.as_str(), queues, %door, "running");

    let withdraw = config.node.announce.as_ref().map_or(Duration::ZERO, |it| it.withdraw);
    let stop_max = STOP_MAX + withdraw * 2;
    let outcome = wait(&signals, &ended, &mailbox, &handler, thread, stop_max);
    if outcome.is_err() && !withdraw.is_zero() {
        // The routes ended with the control thread, and the network still learns of it.
        std::thread::sleep(withdraw);
    }
    drop(admin);
    drop(handler);
    drop(workers);
    // Until the host has the VIPs no more, the program keeps packets to them from it: it would
    // reset connections that another node has.
    let restored = host.restore().context("not everything on the host could be put back");
    drop(intake);
    info!("ended");
    outcome.and(restored.map(drop))
}

/// The signals that the node heeds, as a descriptor tells them. To be asked for before any thread starts, so that all
/// inherit the mask, and nothing else tells.
fn take_signals() -> Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    signals.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&signals, flags).context("no descriptor for signals")
}

/// The routes to the VIPs, in the anycast mode.
fn routes(config: &Config) -> Result<Option<Routes>> {
    let start = |announce| Routes::start(config, announce);
    let routes = config.node.announce.as_ref().map(start).transpose();
    routes.context("cannot announce routes to the VIPs")
}

/// The checks of the service, which ring `bell` when what they find has changed.
fn monitor(config: &Config, bell: Mailbox) -> Result<Monitor> {
    Monitor::start(&config.node.checks, config.node.check_damping, move || bell.wake())
        .context("cannot check the service")
}

/// Waits for a signal to end, then for the control thread to do so.
fn wait(
    signals: &SignalFd,
    ended: &EventFd,
    mailbox: &Mailbox,
    handler: &Handler,
    control: JoinHandle<Result<()>>,
    stop_max: Duration,
) -> Result<()> {
    let mut stop_by = None;
    loop {
        let timeout = match stop_by {
            None => PollTimeout::NONE,
            Some(stop_by) => {
                let left = Instant::saturating_duration_since(&stop_by, Instant::now());
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut descriptors = [
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut descriptors, timeout) {
            Ok(0) => bail!("the control thread does not end within {} s", stop_max.as_secs()),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for signals"),
        }
        if descriptors[0].any().unwrap_or(false) {
            return match control.join() {
                Ok(outcome) => outcome,
                Err(_) => Err(anyhow!("the control thread ended in a panic")),
            };
        }
        let Ok(Some(signal)) = signals.read_signal() else { continue };
        if signal.ssi_signo == Signal::SIGHUP as u32 {
            match handler.reload() {
                Ok(()) => info!("the new configuration is staged"),
                Err(refusal) => error!(%refusal, "the configuration that runs stays"),
            }
        } else if stop_by.is_none() {
            info!(signal = signal.ssi_signo, "handing over, then ending");
            stop_by = Some(Instant::now() + stop_max);
            // If it has ended already, the descriptor says so in the next turn.
            let _ = mailbox.stop();
        }
    }
}

/// Rings when it is dropped, also by a panic.
struct RingAtTheEnd(Arc<EventFd>);

impl Drop for RingAtTheEnd {
    fn drop(&mut self) {
        if let Err(error) = self.0.write(1) {
            error!(%error, "the main thread cannot be told that the control thread has ended");
        }
    }
}

/// Tries real-time scheduling on a thread of no other use, before anything is touched.
fn check_realtime() -> Result<()> {
    std::thread::scope(|scope| scope.spawn(realtime::schedule_fifo).join())
        .map_err(|_| anyhow!("asking for real-time scheduling ended in a panic"))?
        .context("heartbeats this fast need real-time scheduling; or take profile = \"default\"")
}

/// The control thread, and what rings when it has ended.
fn spawn_control(
    control: Control,
    realtime: bool,
) -> Result<(JoinHandle<Result<()>>, Arc<EventFd>)> {
    let ended = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)
        .context("no descriptor for the control thread")?;
    let ended = Arc::new(ended);
    let ring = RingAtTheEnd(Arc::clone(&ended));
    let thread = std::thread::Builder::new()
        .name("vipdp-control".into())
        .spawn(move || {
            let _ring = ring;
            if realtime {
                realtime::schedule_fifo()?;
            }
            control.run()
        })
        .context("cannot start the control thread")?;
    Ok((thread, ended))
}

fn keyring(config: &Config) -> Result<Keyring> {
    let keys = config.keys.accepted().iter().map(|key| (KeyId(key.id), key.secret));
    Ok(Keyring::new(KeyId(config.keys.sending().id), keys)?)
}

/// The configuration as the protocol needs it.
///
/// # Errors
/// When the protocol asks for more than the configuration's own checks did.
pub fn cluster_config(config: &Config) -> Result<ClusterConfig> {
    let cluster = &config.cluster;
    let ns = |duration: Duration| duration.as_nanos() as u64;
    let parameters = Parameters {
        cluster: cluster.id,
        id: ConfigId { generation: cluster.generation, hash: (config.cluster_hash >> 32) as u32 },
        members: cluster
            .members
            .iter()
            .map(|member| Member {
                slot: member.slot,
                weight: member.weight,
                tombstone: member.removed,
            })
            .collect(),
        timing: Timing {
            heartbeat_ns: ns(cluster.timing.heartbeat),
            multiplier: cluster.timing.multiplier,
            hold_ns: ns(cluster.timing.hold),
            ramp_ns: ns(cluster.timing.ramp),
            linger_ns: ns(cluster.timing.linger),
        },
        partition: match &cluster.partition {
            PartitionGuard::None => Partition::None,
            PartitionGuard::Majority => Partition::Majority,
            PartitionGuard::Gateway(_) => Partition::Gateway,
        },
        all_down: match cluster.all_down {
            config::AllDown::Serve => AllDown::Serve,
            config::AllDown::Withdraw => AllDown::Withdraw,
        },
        lists: match cluster.mode {
            IngressMode::SharedMac(_) | IngressMode::Anycast(_) => Lists::Buckets,
            IngressMode::Tiered(tiered) => {
                Lists::Addresses { tiers: tiered.tiers, compact: tiered.compact }
            }
        },
        steers: is_steered(config),
        assignment_seed: config.keys.assignment_seed(),
    };
    Ok(ClusterConfig::new(parameters)?)
}

/// The protocol, and the heartbeats' socket if it has any.
fn protocol(
    config: &Config,
    cluster: &Arc<ClusterConfig>,
) -> Result<(Protocol, Option<Transport>)> {
    let (cluster, slot, seed) = (Arc::clone(cluster), config.node.slot, random::word()?);
    if is_by_wire(config) {
        let node = WireNode::new(cluster, member_macs(config), slot, seed, monotonic_ns());
        return Ok((Protocol::Wire(Box::new(node)), None));
    }
    let transport = route(config)
        .and_then(|route| Ok(Transport::open(route)?))
        .context("cannot open the heartbeats' socket")?;
    let node = Node::new(cluster, slot, random::word()?, seed, monotonic_ns());
    Ok((Protocol::Heartbeats(Box::new(node)), Some(transport)))
}

/// Whether packets come to nodes that do not have their bucket, and are sent on.
fn is_steered(config: &Config) -> bool {
    matches!(config.cluster.mode, IngressMode::Anycast(anycast) if anycast.steering.is_some())
}

/// Whether there are no heartbeats.
fn is_by_wire(config: &Config) -> bool {
    matches!(config.cluster.mode, IngressMode::Tiered(tiered) if tiered.claims == ClaimsBy::Wire)
}

/// The members' MAC addresses, as far as the configuration says them.
fn member_macs(config: &Config) -> Box<MemberMacs> {
    let mut macs = Box::new([None; SLOTS]);
    for member in config.cluster.members.iter().filter(|member| !member.removed) {
        macs[member.slot.index()] = member.mac;
    }
    macs
}

/// The others know this node by its MAC address, where the configuration says it.
fn check_own_mac(config: &Config, interface: &str, found: MacAddr) -> Result<()> {
    let Some(mac) = config.own_member().mac else { return Ok(()) };
    ensure!(
        found == mac,
        "{}: member \"{}\": mac: found {mac}, but {interface} has {found}: give that one, on all nodes",
        config.node.cluster_path.display(),
        config.own_member().name,
    );
    Ok(())
}

/// The questions to the router, on the interface that heartbeats travel by, if there is one.
fn gateway(config: &Config, timing: &Timing) -> Result<Option<Gateway>> {
    match config.cluster.partition.gateway() {
        [] => Ok(None),
        addresses => {
            let interface = config.node.heartbeat_interface.as_str();
            Ok(Some(Gateway::open(interface, addresses, timing)?))
        }
    }
}

/// The other members' own addresses, as far as the configuration says them.
fn addresses_of_others(config: &Config) -> Vec<(Slot, IpAddr)> {
    let others = config.cluster.members.iter();
    others
        .filter(|member| member.slot != config.node.slot && !member.removed)
        .filter_map(|member| Some((member.slot, member.address?)))
        .collect()
}

/// The ways to the other members, where packets go to them in tunnels.
fn peer_paths(config: &Config) -> Result<Option<PeerPaths>> {
    let IngressMode::Anycast(AnycastConfig { steering: Some(Steering::Gue { .. }) }) =
        config.cluster.mode
    else {
        return Ok(None);
    };
    let own = config.own_member().address.context("this member has no address")?;
    let interface = config.node.interface.as_str();
    let paths = PeerPaths::new(interface, own, addresses_of_others(config))
        .context("cannot ask for the ways to the other members")?;
    Ok(Some(paths))
}

/// What is claimed, and what is heard of others' claims.
fn announcements(
    config: &Config,
    link: &Link,
    shared: &Shared,
    service: &Service,
    timing: &Timing,
) -> Result<Announcements> {
    let rate_per_s = match config.cluster.mode {
        IngressMode::SharedMac(_) | IngressMode::Anycast(_) => announce::DEFENCES_PER_S,
        IngressMode::Tiered(tiered) => tiered.claims_per_s,
    };
    let heard = Arc::clone(&shared.claims);
    let asked = Reach::new(config)?.numbers;
    Announcements::open(link, heard, service, timing, rate_per_s, asked)
}

/// Where heartbeats go.
fn route(config: &Config) -> Result<Route> {
    let heartbeat = &config.cluster.heartbeat;
    let port = heartbeat.port;
    Ok(match heartbeat.transport {
        HeartbeatTransport::Multicast(group) => {
            let name = config.node.heartbeat_interface.as_str();
            let link = Link::read(name)?;
            let interface = std::num::NonZeroU32::new(link.index)
                .with_context(|| format!("interface {name} has index 0"))?;
            Route::Multicast { interface, group: (group, port).into() }
        }
        HeartbeatTransport::Unicast => {
            let mut peers = Box::new([None; SLOTS]);
            for member in &config.cluster.members {
                if member.slot != config.node.slot && !member.removed {
                    peers[member.slot.index()] =
                        member.address.map(|address| (address, port).into());
                }
            }
            let own = config.own_member().address.context("this member has no address")?;
            Route::Unicast { own: (own, port).into(), peers }
        }
    })
}
