//! A new configuration for a running node.
//!
//! What all nodes must agree on is changed by the protocol: a new generation is staged, and activated
//! once every live member has it. What a node has opened or attached stays as it was opened: a
//! change there takes a restart, and a configuration with one is refused as a whole.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use vipdp_core::slot::Slot;

use super::gateway::Gateway;
use super::reach::{self, Reach};
use super::transport::Route;
use crate::cluster::auth::Keyring;
use crate::cluster::config::{ClusterConfig, Timing};
use crate::cluster::wire_node::MemberMacs;
use crate::config::Config;

/// What the control thread is given.
#[derive(Debug)]
pub struct Reload {
    /// The cluster's configuration, to be staged.
    pub cluster: Arc<ClusterConfig>,
    /// The members' MAC addresses, as far as it says them.
    pub macs: Box<MemberMacs>,
    /// The keys, used at once.
    pub keyring: Keyring,
    /// Where heartbeats go, used at once.
    pub route: Route,
    /// Which router is asked.
    pub gateway: GatewayChange,
    /// How packets reach a node of either configuration.
    pub reach: Reach,
    /// The other members' own addresses.
    pub addresses: Vec<(Slot, IpAddr)>,
}

/// What becomes of the questions to the router.
#[derive(Debug)]
pub enum GatewayChange {
    /// They go on, or there are none.
    Same,
    /// There is a router that was not asked before. It answers.
    Ask(Box<Gateway>),
    /// They end with the configuration that runs now.
    Forget,
}

/// How long the router may take to answer, nanoseconds, where a detection time is longer: whoever
/// asked for the reload waits.
const ANSWER_MAX_NS: u64 = 1_000_000_000;

impl GatewayChange {
    /// What changes from `running` to `new`.
    ///
    /// # Errors
    /// When a router that was not asked before does not answer: no node that goes by the new
    /// configuration would serve.
    fn new(running: &Config, new: &Config, timing: &Timing) -> Result<Self> {
        let (before, after) = (&running.cluster.partition, &new.cluster.partition);
        if before.gateway() == after.gateway() {
            return Ok(Self::Same);
        }
        let opened = super::gateway(new, timing).context("cannot ask the router")?;
        let Some(mut gateway) = opened else { return Ok(Self::Forget) };
        let reached = gateway.wait_until_reached(timing.detection_ns().min(ANSWER_MAX_NS))?;
        ensure!(
            reached,
            "{}: gateway: found {:?}, of which none answers; give an address that the router has \
             on the segment",
            new.node.cluster_path.display(),
            after.gateway(),
        );
        Ok(Self::Ask(Box::new(gateway)))
    }
}

impl Reload {
    /// What changes from `running` to `new`.
    ///
    /// # Errors
    /// When something changes that takes a restart, or the generation does not say that something
    /// changes.
    pub fn new(running: &Config, new: &Config) -> Result<Self> {
        let fixed = fixed_changes(running, new);
        if !fixed.is_empty() {
            bail!("{} cannot change while vipdp runs: restart it", fixed.join(", "));
        }
        let (before, after) = (running.cluster.generation, new.cluster.generation);
        if running.cluster_hash != new.cluster_hash {
            ensure!(
                after > before,
                "{}: generation: found {after}, with other contents than the {before} that runs; \
                 give {} or more",
                new.node.cluster_path.display(),
                before.saturating_add(1),
            );
        }
        if let Some(slot) = reach::displaced(running, new) {
            bail!(
                "{}: the member in slot {slot} is not at its place: next hops are numbered by \
                 places; keep members that are gone, with removed = true, and give new ones \
                 slots above all others",
                new.node.cluster_path.display()
            );
        }
        let cluster = super::cluster_config(new).context("the protocol refuses it")?;
        let gateway = GatewayChange::new(running, new, &cluster.timing())?;
        Ok(Self {
            cluster: Arc::new(cluster),
            macs: super::member_macs(new),
            keyring: super::keyring(new)?,
            route: super::route(new)?,
            gateway,
            reach: Reach::new(running)?.and(Reach::new(new)?),
            addresses: super::addresses_of_others(new),
        })
    }
}

/// The keys of the files whose values differ and take a restart.
fn fixed_changes(running: &Config, new: &Config) -> Vec<&'static str> {
    let (a, b) = (&running.node, &new.node);
    let (c, d) = (&running.cluster, &new.cluster);
    let own = |config: &Config| config.own_member().address;
    let own_mac = |config: &Config| config.own_member().mac;
    [
        ("slot", a.slot != b.slot),
        ("interface", a.interface != b.interface),
        ("[io]", a.io != b.io),
        ("heartbeat_interface", a.heartbeat_interface != b.heartbeat_interface),
        ("cores", a.cores != b.cores),
        ("poll", a.poll != b.poll),
        ("tap", a.tap != b.tap),
        ("egress", a.egress != b.egress),
        ("coalesce", a.coalesce != b.coalesce),
        ("offload", a.offload != b.offload),
        ("flows_max", a.flows_max != b.flows_max),
        ("flows_file", a.flows_file != b.flows_file),
        ("xdp", a.xdp != b.xdp),
        ("zero_copy", a.zero_copy != b.zero_copy),
        ("state_dir", a.state_dir != b.state_dir),
        ("admin", a.admin != b.admin),
        ("log", a.log != b.log),
        ("[[check]]", a.checks != b.checks),
        ("[check_damping]", a.check_damping != b.check_damping),
        ("id", c.id != d.id),
        ("announce and what belongs to it", a.announce != b.announce),
        ("mode, [shared_mac], [tiered] or [anycast]", c.mode != d.mode),
        ("vips", c.vips != d.vips),
        ("hash", c.hash != d.hash),
        ("sticky_udp_ports", c.sticky_udp_ports != d.sticky_udp_ports),
        ("vlan", c.vlan != d.vlan),
        ("profile or [timing]", c.timing != d.timing),
        ("[heartbeat]", c.heartbeat != d.heartbeat),
        ("this member's address", own(running) != own(new)),
        ("this member's mac", own_mac(running) != own_mac(new)),
        ("the hash key", running.keys.hash_key() != new.keys.hash_key()),
    ]
    .into_iter()
    .filter_map(|(key, changes)| changes.then_some(key))
    .collect()
}
