//! What the admin socket is told of the running node.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use vipdp_core::bucket::{BUCKETS, Bucket};
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::decide::Now;
use vipdp_core::flow::FlowState;
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::Ingress;
use vipdp_core::tiered::TieredMac;
use vipdp_core::verdict::DropReason;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::worker::Shared;
use vipdp_io::af_xdp::Statistics;
#[cfg(feature = "dpdk")]
use vipdp_io::dpdk::QueueStatistics;
use vipdp_io::link::Link;
use vipdp_io::xdp::{AttachMode, Program};

use super::clock::monotonic_ns;
use super::control::{ControlView, HeartbeatCounts};
use super::mailbox::{Mailbox, NoAnswer};
use super::reach::{Door, Intake};
use super::reload::Reload;
use super::routes_status;
use super::workers::{PortCounts, WorkerThread, WorkerThreads};
use crate::admin::{AdminHandler, Refusal};
use crate::cluster::auth::OpenError;
use crate::cluster::node::{Life, MemberView, State, View};
use crate::config::{Config, IngressMode, IoConfig, offload_label};
use crate::health::{self, CheckView, Monitor};
#[cfg(feature = "dpdk")]
use crate::status::DpdkQueueCounts;
use crate::status::{
    AddressStatus, AdminStatus, BucketStatus, CheckState, CheckStatus, DpdkStatus, FORMAT,
    FlowStatus, GatewayState, HeartbeatStatus, InterfaceStatus, KernelCounts, MemberState,
    MemberStatus, NodeState, NodeStatus, OffloadStatus, SnapshotStatus, Status, VerdictCounts,
    WorkerStatus,
};

/// What does not change while the node runs, and where the rest is.
pub struct Facts {
    /// The node's file.
    pub path: PathBuf,
    /// The newest configuration that was staged.
    pub config: ArcSwap<Config>,
    /// The NIC.
    pub link: Link,
    /// How many receive queues it has.
    pub queues: u32,
    /// What lets frames in.
    pub intake: Arc<Mutex<Intake>>,
    /// The flow table.
    pub shared: Shared,
    /// The workers.
    pub workers: Arc<WorkerThreads>,
    /// The checks of the service.
    pub checks: Arc<Monitor>,
    /// The way to the control thread.
    pub mailbox: Mailbox,
}

/// Answers the admin socket.
pub struct Handler {
    facts: Facts,
    started_ns: u64,
    /// What the XDP program dropped before there were workers.
    dropped_before: u64,
}

impl Handler {
    /// A handler for the node that has just started.
    pub fn new(facts: Facts) -> Self {
        let dropped_before =
            dropped(&facts.intake.lock().unwrap_or_else(PoisonError::into_inner).door);
        Self { facts, started_ns: monotonic_ns(), dropped_before }
    }
}

impl From<NoAnswer> for Refusal {
    fn from(error: NoAnswer) -> Self {
        Self(error.to_string())
    }
}

impl AdminHandler for Handler {
    fn status(&self) -> Result<Status, Refusal> {
        let control = self.facts.mailbox.view()?;
        let now_ns = monotonic_ns();
        let config = self.facts.config.load();
        Ok(Status {
            format: FORMAT,
            node: self.node(&config, &control, now_ns),
            members: members(&config, &control.view),
            buckets: buckets(&control),
            addresses: addresses(&control, self.facts.link.mac),
            routes: control
                .routes
                .as_ref()
                .map(|routes| routes_status::of(routes, &control.view, now_ns)),
            vips: config.cluster.vips.iter().map(ToString::to_string).collect(),
            checks: self.facts.checks.view().into_iter().map(check).collect(),
            interface: self.interface(&config),
            offload: self.offload(&config)?,
            workers: self.facts.workers.iter().map(worker).collect(),
            flows: self.flows(now_ns),
            heartbeats: heartbeats(&control),
            snapshots: SnapshotStatus {
                generation: control.generation,
                retired: control.retired as u64,
            },
            admin: AdminStatus::default(),
        })
    }

    fn drain(&self, on: bool) -> Result<(), Refusal> {
        Ok(self.facts.mailbox.drain(on)?)
    }

    fn reload(&self) -> Result<(), Refusal> {
        let refused = |error: anyhow::Error| Refusal(format!("{error:#}"));
        let new = Config::load(&self.facts.path).map_err(|error| refused(error.into()))?;
        let running = self.facts.config.load();
        let reload = Reload::new(&running, &new).map_err(refused)?;
        let mut intake = self.facts.intake.lock().unwrap_or_else(PoisonError::into_inner);
        // Before a member could own what is new to this node.
        intake.change(&self.facts.link, &reload.reach).map_err(|error| refused(error.into()))?;
        drop(intake);
        self.facts.mailbox.reload(reload)?;
        self.facts.config.store(Arc::new(new));
        Ok(())
    }
}

impl Handler {
    fn node(&self, config: &Config, control: &ControlView, now_ns: u64) -> NodeStatus {
        let view = &control.view;
        let Config { node, cluster, .. } = config;
        NodeStatus {
            name: config.own_member().name.clone(),
            slot: node.slot.get(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: ms(now_ns - self.started_ns),
            state: match view.state {
                State::Listen => NodeState::Listen,
                State::Active => NodeState::Active,
                State::Fenced => NodeState::Fenced,
                State::Draining => NodeState::Draining,
            },
            willing: view.members.iter().any(|member| member.slot == view.slot && member.willing),
            all_down: view.all_down,
            lease_ms_left: ms(view.lease_until_ns.saturating_sub(now_ns)),
            gateway: control.gateway.map(|reached| match reached {
                true => GatewayState::Reached,
                false => GatewayState::Unreached,
            }),
            mode: cluster.mode.label().to_owned(),
            cluster_id: cluster.id,
            generation: view.config.generation,
            config_hash: format!("{:08x}", view.config.hash),
            staged_generation: view.staged,
        }
    }

    fn interface(&self, config: &Config) -> InterfaceStatus {
        let Facts { link, queues, intake, .. } = &self.facts;
        let shared_mac = match config.cluster.mode {
            IngressMode::SharedMac(shared_mac) => Some(shared_mac.macs()),
            IngressMode::Tiered(_) | IngressMode::Anycast(_) => None,
        };
        let intake = intake.lock().unwrap_or_else(PoisonError::into_inner);
        let xdp_mode = intake.door.program().map(Program::attach_mode);
        let dpdk = dpdk(&config.node.io, &intake.door);
        InterfaceStatus {
            name: link.name.clone(),
            mac: link.mac.to_string(),
            shared_mac_v4: shared_mac.map(|macs| macs.v4.to_string()),
            shared_mac_v6: shared_mac.map(|macs| macs.v6.to_string()),
            driver: match &intake.door {
                Door::Xdp(_) => link.driver().unwrap_or_else(|| "virtual".to_owned()),
                #[cfg(feature = "dpdk")]
                Door::Dpdk(nic) => nic.driver().to_owned(),
            },
            backend: config.node.io.label().to_owned(),
            xdp_mode: match xdp_mode {
                None => "none",
                Some(AttachMode::Generic) => "generic",
                Some(AttachMode::Native | AttachMode::Auto) => "native",
            }
            .to_owned(),
            queues: *queues,
            dropped_without_worker: dropped(&intake.door).saturating_sub(self.dropped_before),
            tap: config.node.tap.as_str().to_owned(),
            dpdk,
        }
    }

    fn offload(&self, config: &Config) -> Result<Option<OffloadStatus>, Refusal> {
        let intake = self.facts.intake.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(mode), Some(program)) = (config.node.offload, intake.door.program()) else {
            return Ok(None);
        };
        let counted = program.counters().map_err(|error| Refusal(error.to_string()))?;
        Ok(Some(OffloadStatus {
            mode: offload_label(Some(mode)).to_owned(),
            dropped_by_offload: counted.offload_dropped,
            passed_by_offload: counted.offload_passed,
        }))
    }

    /// Reads the whole flow table: some milliseconds per million flows, on the admin thread.
    fn flows(&self, now_ns: u64) -> FlowStatus {
        let census = self.facts.shared.flows.census(Now::of_ns(now_ns).seconds);
        FlowStatus {
            capacity: census.capacity as u64,
            states: FlowState::ALL
                .iter()
                .map(|&state| (state.label().to_owned(), census.in_state(state) as u64))
                .collect(),
        }
    }
}

/// How many packets to the VIPs the XDP program has dropped for want of a socket.
fn dropped(door: &Door) -> u64 {
    door.program().and_then(|program| program.counters().ok()).map_or(0, |counted| counted.dropped)
}

/// What DPDK says of the NIC, if it has that.
#[cfg(feature = "dpdk")]
fn dpdk(io: &IoConfig, door: &Door) -> Option<DpdkStatus> {
    let (IoConfig::Dpdk(config), Door::Dpdk(nic)) = (io, door) else { return None };
    let (link, counted) = (nic.link(), nic.statistics());
    Some(DpdkStatus {
        devargs: config.devargs.clone(),
        link_up: link.is_up,
        speed_mbps: link.speed_mbps,
        promiscuous: nic.is_promiscuous(),
        received: counted.received,
        transmitted: counted.transmitted,
        imissed: counted.missed,
        ierrors: counted.errors,
        rx_nombuf: counted.no_frame,
        oerrors: counted.tx_errors,
    })
}

/// No NIC is DPDK's.
#[cfg(not(feature = "dpdk"))]
fn dpdk(_: &IoConfig, _: &Door) -> Option<DpdkStatus> {
    None
}

/// The members that are in the newest configuration, as the protocol sees them.
fn members(config: &Config, view: &View) -> Vec<MemberStatus> {
    let configured = &config.cluster.members;
    let member = |seen: &MemberView| {
        let configured = configured.iter().find(|member| member.slot == seen.slot)?;
        Some(MemberStatus {
            slot: seen.slot.get(),
            name: configured.name.clone(),
            state: match seen.life {
                Life::Own => MemberState::Own,
                Life::Heard => MemberState::Alive,
                Life::Relayed => MemberState::Relayed,
                Life::Dead => MemberState::Dead,
                Life::NeverHeard => MemberState::Unseen,
            },
            share: seen.share,
            buckets: view.owners.iter().filter(|&&owner| owner == Some(seen.slot)).count() as u32,
            address: configured.address,
            mac: seen.mac.map(|mac| mac.to_string()),
            last_heard_ms: seen.heard_ago_ns.map(ms),
        })
    };
    view.members.iter().filter_map(member).collect()
}

const fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

/// The buckets; where they stand for next-hop addresses, as many as there are of these.
fn buckets(control: &ControlView) -> BucketStatus {
    let view = &control.view;
    debug_assert_eq!(view.owners.len(), BUCKETS);
    let count = match control.ingress {
        Ingress::SharedMac(_) | Ingress::Anycast(_) => BUCKETS,
        Ingress::Tiered(tiered) => usize::from(tiered.count),
    };
    let owners = view.owners.iter().take(count);
    let owners: Vec<_> = owners.map(|owner| owner.map(|slot| slot.get())).collect();
    BucketStatus {
        owned: owners.iter().filter(|&&owner| owner == Some(view.slot.get())).count() as u32,
        unowned: owners.iter().filter(|owner| owner.is_none()).count() as u32,
        owners,
    }
}

/// The next-hop addresses; none in the shared-mac mode.
fn addresses(control: &ControlView, own_mac: MacAddr) -> Vec<AddressStatus> {
    let Ingress::Tiered(tiered) = control.ingress else { return Vec::new() };
    let address = |(number, owner): (Bucket, &Option<Slot>)| {
        let mac = match tiered.mac {
            TieredMac::Virtual => Some(tiered.mac_of(number, own_mac)),
            TieredMac::Node => {
                let seen =
                    |owner| control.view.members.iter().find(|seen| Some(seen.slot) == owner);
                seen(*owner).and_then(|seen| seen.mac)
            }
        };
        AddressStatus {
            index: number.get(),
            ip4: tiered.address_v4(number),
            ip6: tiered.address_v6(number),
            mac: mac.map(|mac| mac.to_string()),
            owner: owner.map(|slot| slot.get()),
        }
    };
    let count = usize::from(tiered.count);
    Bucket::all().zip(&control.view.owners).take(count).map(address).collect()
}

fn check(check: CheckView) -> CheckStatus {
    let CheckView { name, kind, judgement, since, took, last_error } = check;
    let (error_ago, last_error) = last_error.unzip();
    CheckStatus {
        name,
        kind: kind.to_owned(),
        state: match judgement.state {
            health::State::Unknown => CheckState::Unknown,
            health::State::Up => CheckState::Up,
            health::State::Down => CheckState::Down,
            health::State::Suppressed => CheckState::Suppressed,
        },
        since_ms: since.as_millis() as u64,
        suppressed_ms_left: ms(judgement.suppressed_for_ns),
        penalty: judgement.penalty,
        well: judgement.counts.well,
        ill: judgement.counts.ill,
        falls: judgement.counts.falls,
        took_us: took.as_micros() as u64,
        last_error,
        last_error_ms: error_ago.map(|ago| ago.as_millis() as u64),
    }
}

fn worker(thread: &WorkerThread) -> WorkerStatus {
    let counters: &WorkerCounters = &thread.counters;
    let below = *thread.below.lock().unwrap_or_else(PoisonError::into_inner);
    let (kernel, dpdk) = match below {
        PortCounts::AfXdp(statistics) => (kernel_counts(&statistics), None),
        #[cfg(feature = "dpdk")]
        PortCounts::Dpdk(statistics) => (KernelCounts::default(), Some(dpdk_counts(&statistics))),
    };
    WorkerStatus {
        queue: thread.queue,
        core: Some(thread.core as u32),
        zero_copy: thread.zero_copy,
        turns: counters.get(Count::Turns),
        rx: counters.get(Count::Received),
        tx: counters.get(Count::Transmitted),
        from_host: counters.get(Count::FromHost),
        from_host_cut: counters.get(Count::FromHostCut),
        from_host_whole: counters.get(Count::FromHostWhole),
        to_nic_host: counters.get(Count::ToNicHost),
        from_nic_host: counters.get(Count::FromNicHost),
        pass_coalesced: counters.get(Count::Coalesced),
        super_packets: counters.get(Count::SuperPackets),
        flows_inserted: counters.get(Count::FlowsInserted),
        flows_evicted: counters.get(Count::FlowsEvicted),
        verdicts: VerdictCounts {
            pass: counters.get(Count::Passed),
            reply_arp: counters.get(Count::ArpReplies),
            reply_na: counters.get(Count::NeighborAdvertisements),
            forward: counters.get(Count::Forwarded),
            drop: counters.drops_total(),
        },
        drops: DropReason::all()
            .map(|reason| (reason.label().to_owned(), counters.drops(reason)))
            .collect(),
        kernel,
        dpdk,
    }
}

const fn kernel_counts(statistics: &Statistics) -> KernelCounts {
    KernelCounts {
        rx_dropped: statistics.rx_dropped,
        rx_invalid_descs: statistics.rx_invalid_descs,
        tx_invalid_descs: statistics.tx_invalid_descs,
        rx_ring_full: statistics.rx_ring_full,
        rx_fill_ring_empty_descs: statistics.fill_ring_empty,
        tx_ring_empty_descs: statistics.tx_ring_empty,
    }
}

#[cfg(feature = "dpdk")]
const fn dpdk_counts(statistics: &QueueStatistics) -> DpdkQueueCounts {
    DpdkQueueCounts {
        unusable: statistics.unusable,
        bad_checksum: statistics.bad_checksum,
        tx_refused: statistics.refused,
    }
}

/// What was rejected at the socket, for its MAC, and by the protocol, side by side.
fn heartbeats(control: &ControlView) -> HeartbeatStatus {
    let HeartbeatCounts { sent, send_failed, received, not_of_the_segment, too_long, rejected } =
        &control.heartbeats;
    let mut labels: std::collections::BTreeMap<String, u64> = OpenError::ALL
        .iter()
        .map(|error| (error.label().to_owned(), rejected[error.index()]))
        .collect();
    labels.insert("not_of_the_segment".to_owned(), *not_of_the_segment);
    labels.insert("too_long".to_owned(), *too_long);
    HeartbeatStatus {
        sent: *sent,
        send_failed: *send_failed,
        received: *received,
        rejected: labels,
    }
}
