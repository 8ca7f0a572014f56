//! A new configuration for a running node.
//!
//! What all nodes must agree on is changed by the protocol: a new generation is staged, and activated
//! once every live member has it. What a node has opened or attached stays as it was opened: a
//! change there takes a restart, and a configuration with one is refused as a whole.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::gateway::Gateway;
use super::transport::Route;
use crate::cluster::auth::Keyring;
use crate::cluster::config::ClusterConfig;
use crate::config::Config;

/// What the control thread is given.
#[derive(Debug)]
pub struct Reload {
    /// The cluster's configuration, to be staged.
    pub cluster: Arc<ClusterConfig>,
    /// The keys, used at once.
    pub keyring: Keyring,
    /// Where heartbeats go, used at once.
    pub route: Route,
    /// The router, asked at once, if it has one.
    pub gateway: Option<Gateway>,
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
        let cluster = super::cluster_config(new).context("the protocol refuses it")?;
        let gateway = super::gateway(new, &cluster.timing()).context("cannot ask the router")?;
        Ok(Self {
            cluster: Arc::new(cluster),
            keyring: super::keyring(new)?,
            route: super::route(new)?,
            gateway,
        })
    }
}

/// The keys of the files whose values differ and take a restart.
fn fixed_changes(running: &Config, new: &Config) -> Vec<&'static str> {
    let (a, b) = (&running.node, &new.node);
    let (c, d) = (&running.cluster, &new.cluster);
    let own = |config: &Config| config.own_member().address;
    [
        ("slot", a.slot != b.slot),
        ("interface", a.interface != b.interface),
        ("heartbeat_interface", a.heartbeat_interface != b.heartbeat_interface),
        ("cores", a.cores != b.cores),
        ("poll", a.poll != b.poll),
        ("tap", a.tap != b.tap),
        ("egress", a.egress != b.egress),
        ("flows_max", a.flows_max != b.flows_max),
        ("flows_file", a.flows_file != b.flows_file),
        ("xdp", a.xdp != b.xdp),
        ("zero_copy", a.zero_copy != b.zero_copy),
        ("state_dir", a.state_dir != b.state_dir),
        ("admin", a.admin != b.admin),
        ("log", a.log != b.log),
        ("id", c.id != d.id),
        ("mode or [shared_mac]", c.mode != d.mode),
        ("vips", c.vips != d.vips),
        ("hash", c.hash != d.hash),
        ("sticky_udp_ports", c.sticky_udp_ports != d.sticky_udp_ports),
        ("vlan", c.vlan != d.vlan),
        ("profile or [timing]", c.timing != d.timing),
        ("[heartbeat]", c.heartbeat != d.heartbeat),
        ("this member's address", own(running) != own(new)),
        ("the hash key", running.keys.hash_key() != new.keys.hash_key()),
    ]
    .into_iter()
    .filter_map(|(key, changes)| changes.then_some(key))
    .collect()
}
