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
mod canonical;
mod cluster;
mod error;
mod keys;
mod node;
mod reader;
mod timing;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub use cluster::{
    ClusterFile, HeartbeatConfig, HeartbeatTransport, IngressMode, MemberConfig, PartitionGuard,
    STICKY_UDP_PORTS_MAX, SharedMacConfig, VIPS_MAX, WEIGHT_MAX,
};
pub use error::{ConfigError, ConfigErrors};
pub use keys::{HASH_KEY_LEN, HEARTBEAT_KEY_LEN, HeartbeatKey, Keys, key_file};
pub use node::{
    EgressMode, INTERFACE_NAME_MAX, InterfaceName, LogLevel, NodeConfig, NotAnInterfaceName,
    PollMode, XdpMode, ZeroCopy,
};
pub use timing::TimingConfig;

use reader::{Document, Errors, Located};

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
        Self::from_sources(path, read_file)
    }

    /// Checks the configuration of the node whose file is at `path`. `read` gives the contents of
    /// a file; it is called at most once for each of the three.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_sources(
        path: &Path,
        read: impl Fn(&Path) -> io::Result<Source>,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = Errors::new();
        match Self::check(path, read, &mut errors) {
            Some(config) if errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors::new(errors)),
        }
    }

    fn check(
        path: &Path,
        read: impl Fn(&Path) -> io::Result<Source>,
        errors: &mut Errors,
    ) -> Option<Self> {
        let named = "name the node's file with --config";
        let source = read(path).map_err(|error| errors.push(unreadable(path, &error, named)));
        let source = source.ok()?;
        let document = Document { path, text: &source.text };
        let node = node::read(document, errors);
        sort_by_line(errors, 0);

        let cluster_path = node.cluster?;
        let cluster_source = open(&cluster_path, &read, errors)?;
        let document = Document { path: &cluster_path.value, text: &cluster_source.text };
        let before = errors.len();
        let cluster = cluster::read(document, errors);
        if let Some(slot) = &node.slot
            && !cluster.slots.contains(&slot.value)
            && !cluster.slots_incomplete
        {
            let slots: Vec<_> = cluster.slots.iter().map(ToString::to_string).collect();
            let members = cluster_path.value.display();
            let remedy = format!("give the slot of a member of {members}: {}", slots.join(", "));
            errors.push(slot.place.error(", the slot of no member", remedy));
        }
        sort_by_line(errors, before);

        let key_path = cluster.key?;
        let key_source = open(&key_path, &read, errors)?;
        if key_source.mode & 0o077 != 0 {
            errors.push(ConfigError {
                file: key_path.value.clone(),
                line: None,
                key: None,
                found: format!(
                    "mode {:04o}, which lets others than its owner at the secrets",
                    key_source.mode & 0o7777
                ),
                remedy: "run `chmod 600` on it".into(),
            });
        }
        let before = errors.len();
        let keys = keys::read(&key_path.value, &key_source.text, errors);
        sort_by_line(errors, before);
        let (cluster, keys) = (cluster.config?, keys?);
        let cluster_hash = canonical::hash(&cluster, &keys);
        Some(Self { node: node.config?, cluster, keys, cluster_hash })
    }

    /// The member that this node is.
    pub fn own_member(&self) -> &MemberConfig {
        let own = self.cluster.members.iter().find(|member| member.slot == self.node.slot);
        own.expect("the node's slot was checked to be a member's")
    }
}

/// Reads a file that another one names.
fn open(
    named: &Located<'_, std::path::PathBuf>,
    read: impl Fn(&Path) -> io::Result<Source>,
    errors: &mut Errors,
) -> Option<Source> {
    let reader = format!(
        "name a readable file in line {} of the file that names it, key `{}`",
        named.place.line(),
        named.place.key()
    );
    read(&named.value).map_err(|error| errors.push(unreadable(&named.value, &error, &reader))).ok()
}

fn unreadable(path: &Path, error: &io::Error, remedy: &str) -> ConfigError {
    ConfigError {
        file: path.to_owned(),
        line: None,
        key: None,
        found: format!("a file that cannot be read ({error})"),
        remedy: remedy.into(),
    }
}

/// Puts the errors from `start` on into the order of their files' lines.
fn sort_by_line(errors: &mut Errors, start: usize) {
    let file = errors.get(start).map(|error| error.file.clone());
    errors[start..].sort_by_key(|error| (Some(&error.file) != file.as_ref(), error.line));
}

fn read_file(path: &Path) -> io::Result<Source> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut text = String::new();
    file.take(FILE_LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_LEN_MAX} bytes")));
    }
    Ok(Source { text, mode: metadata.permissions().mode() })
}
