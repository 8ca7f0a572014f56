//! The configuration: three files, checked whole before anything is touched.
//!
//! ```text
//! node.toml      what differs from node to node   --cluster-->  cluster.toml
//! cluster.toml   the same on all nodes            --key_file->  cluster.key
//! cluster.key    the same on all nodes, and secret
//! ```
//!
//! What always holds of a [`Config`]: every value is in its range, and values that depend on each
//! other fit. So nothing that uses one checks again. Reading is pure; only [`Config::load`] opens
//! files. All errors that do not follow from each other are reported at once.

mod address;
mod announce;
mod anycast;
mod bgp;
mod bgp_peer;
mod canonical;
mod checks;
mod cluster;
mod error;
mod ingress;
mod io;
mod keys;
mod node;
mod offload;
mod partition;
mod reader;
mod shared_mac;
mod tiered;
mod timing;
mod vips;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use announce::{AnnounceBy, AnnounceConfig};
pub use anycast::AnycastConfig;
pub use bgp::{BGP_PEERS_MAX, BfdConfig, BgpConfig, BgpPeerConfig, BgpTarget, Password};
pub use cluster::{
    AllDown, ClusterFile, HeartbeatConfig, HeartbeatTransport, MemberConfig, STICKY_UDP_PORTS_MAX,
    WEIGHT_MAX,
};
pub use error::{ConfigError, ConfigErrors};
pub use ingress::IngressMode;
pub use io::{DpdkConfig, IoConfig};
pub use keys::{HASH_KEY_LEN, HEARTBEAT_KEY_LEN, HeartbeatKey, Keys, key_file};
pub use node::{
    EgressMode, INTERFACE_NAME_MAX, InterfaceName, LogLevel, NodeConfig, NotAnInterfaceName,
    PollMode, XdpMode, ZeroCopy,
};
pub use offload::offload_label;
pub use partition::{GATEWAYS_MAX, PartitionGuard};
pub use shared_mac::SharedMacConfig;
pub use tiered::{ClaimsBy, TieredConfig};
pub use timing::TimingConfig;
pub use vips::VIPS_MAX;

use cluster::ClusterRead;
use reader::{Document, Errors, Located};
use vipdp_core::slot::Slot;

/// Everything a node is told by its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What differs from node to node.
    pub node: NodeConfig,
    /// What all nodes must agree on.
    pub cluster: ClusterFile,
    /// The cluster's secrets.
    pub keys: Keys,
    /// A hash of everything that all nodes must agree on: equal on nodes whose cluster files mean
    /// the same and whose client hash has the same key, whatever their comments and their order.
    pub cluster_hash: u64,
}

/// The contents of a file of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The text.
    pub text: String,
    /// The permission bits.
    pub mode: u32,
}

/// The largest size of a file of the configuration, in bytes: some ten times that of 64 members
/// and 256 VIPs.
const FILE_LEN_MAX: u64 = 256 * 1024;

impl Config {
    /// Reads and checks the configuration of the node whose file is at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let config = Self::from_sources(path, read_file)?;
        config.check_built()?;
        Ok(config)
    }

    /// Whether this program can do what it is told.
    fn check_built(&self) -> Result<(), ConfigErrors> {
        if cfg!(feature = "dpdk") || self.node.io == IoConfig::AfXdp {
            return Ok(());
        }
        Err(ConfigErrors::new(vec![ConfigError {
            file: self.node.path.clone(),
            line: None,
            key: Some("io.backend".into()),
            found: "\"dpdk\", and this vipdp was built without DPDK".into(),
            remedy: "build it with `cargo build --release --features dpdk`, or give backend = \"af_xdp\""
                .into(),
        }]))
    }

    /// Checks the configuration of the node whose file is at `path`. `read` gives the contents of
    /// a file; it is called at most once for each of the three.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_sources(
        path: &Path,
        read: impl Fn(&Path) -> std::io::Result<Source>,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = Errors::new();
        match Self::check(path, read, &mut errors) {
            Some(config) if errors.is_empty() => Ok(config),
            _ => {
                sort(&mut errors, path);
                Err(ConfigErrors::new(errors))
            }
        }
    }

    fn check(
        path: &Path,
        read: impl Fn(&Path) -> std::io::Result<Source>,
        errors: &mut Errors,
    ) -> Option<Self> {
        let source = match read(path) {
            Ok(source) => source,
            Err(error) => {
                let remedy = "name the node's file with --config";
                let found = format!("no readable file ({error})");
                errors.push(about_file(path, found, remedy));
                return None;
            }
        };
        let node = node::read(Document { path, text: &source.text }, errors);
        let secret = node.announce.as_ref().and_then(|announce| announce.secret.as_ref());
        if let Some(secret) = secret.filter(|_| source.mode & 0o077 != 0) {
            let mode = source.mode & 0o7777;
            let found =
                format!("a secret in a file of mode {mode:04o}, which others than its owner read");
            errors.push(secret.error_found(found, "run `chmod 600` on it"));
        }

        let cluster_path = node.cluster?;
        let source = open(&cluster_path, &read, errors)?;
        let cluster =
            cluster::read(Document { path: &cluster_path.value, text: &source.text }, errors);
        if let Some(slot) = &node.slot {
            check_slot(slot, &cluster, errors);
        }
        if let Some(announce) = &node.announce {
            announce::check(announce, &cluster, errors);
        }
        offload::check(&node.offload, &cluster, errors);

        let key_path = cluster.key?;
        let source = open(&key_path, &read, errors)?;
        if source.mode & 0o077 != 0 {
            let mode = source.mode & 0o7777;
            let found = format!("mode {mode:04o}, which lets others than its owner at the secrets");
            errors.push(about_file(&key_path.value, found, "run `chmod 600` on it"));
        }
        let keys = keys::read(&key_path.value, &source.text, errors);
        let (cluster, keys) = (cluster.config?, keys?);
        let cluster_hash = canonical::hash(&cluster, &keys);
        let checks = node.checks?.at(cluster.vips.first()?.network());
        let node = NodeConfig { checks, ..node.config? };
        Some(Self { node, cluster, keys, cluster_hash })
    }

    /// The member that this node is.
    pub fn own_member(&self) -> &MemberConfig {
        let own = self.cluster.members.iter().find(|member| member.slot == self.node.slot);
        own.expect("the node's slot was checked to be a member's")
    }
}

impl Config {
    /// What is allowed, and still may not be what is wanted: a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let present = self.cluster.members.iter().filter(|member| !member.removed).count();
        let mut notes = Vec::new();
        let is_exclusive = !matches!(self.cluster.mode, IngressMode::Anycast(_));
        if present == 2 && is_exclusive && self.cluster.partition == PartitionGuard::None {
            notes.push(format!(
                "{}: gateway: found nothing, in a cluster of two: should they lose each other, both \
                 serve all clients; name the router, for example `gateway = [\"192.0.2.1\"]`, and \
                 one that does not reach it serves none",
                self.node.cluster_path.display()
            ));
        }
        let announce = self.node.announce.as_ref().map(|announce| &announce.by);
        if let Some(AnnounceBy::Bgp(bgp)) = announce {
            notes.extend(self.note_of_families(bgp));
        }
        notes
    }

    /// A session over IPv4 has no IPv6 address of its own.
    fn note_of_families(&self, bgp: &BgpConfig) -> Option<String> {
        let has_v6 = self.cluster.vips.iter().any(|vip| vip.network().is_ipv6());
        let over_v4 = |peer: &&BgpPeerConfig| matches!(peer.target, BgpTarget::Address(address) if address.is_ipv4());
        let peer = bgp.peers.iter().find(over_v4)?;
        (has_v6 && bgp.next_hop6.is_none()).then(|| {
            format!(
                "{}: bgp.next_hop6: found nothing: the IPv6 VIPs are not announced to {}, a session \
                 over IPv4; give this node's IPv6 address, or a peer's",
                self.node.path.display(),
                peer.target,
            )
        })
    }
}

/// The node's slot is that of a member.
fn check_slot(slot: &Located<'_, Slot>, cluster: &ClusterRead<'_>, errors: &mut Errors) {
    if cluster.slots_incomplete || cluster.slots.contains(&slot.value) {
        return;
    }
    let removed = cluster.removed.contains(&slot.value);
    let why = if removed { ", the slot of a removed member" } else { ", the slot of no member" };
    let slots: Vec<_> = cluster.slots.iter().map(ToString::to_string).collect();
    let remedy = format!("give the slot of a member: {}", slots.join(", "));
    errors.push(slot.place.error(why, remedy));
}

/// Reads a file that another one names.
fn open(
    named: &Located<'_, PathBuf>,
    read: impl Fn(&Path) -> std::io::Result<Source>,
    errors: &mut Errors,
) -> Option<Source> {
    let refuse = |error: std::io::Error| {
        let why = format!(", no readable file ({error})");
        errors.push(named.place.error(&why, "name a file that vipdp may read"));
    };
    read(&named.value).map_err(refuse).ok()
}

/// An error about a file as a whole.
fn about_file(path: &Path, found: String, remedy: &str) -> ConfigError {
    ConfigError { file: path.to_owned(), line: None, key: None, found, remedy: remedy.into() }
}

/// Puts the errors into the order of the files, and of the lines in each.
fn sort(errors: &mut Errors, node: &Path) {
    let mut files = vec![node.to_owned()];
    for error in errors.iter() {
        if !files.contains(&error.file) {
            files.push(error.file.clone());
        }
    }
    errors.sort_by_key(|error| (files.iter().position(|file| *file == error.file), error.line));
}

fn read_file(path: &Path) -> std::io::Result<Source> {
    // A pipe or a device could keep the reader waiting for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut text = String::new();
    file.take(FILE_LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(std::io::Error::other(format!("it is longer than {FILE_LEN_MAX} bytes")));
    }
    Ok(Source { text, mode: metadata.permissions().mode() })
}
