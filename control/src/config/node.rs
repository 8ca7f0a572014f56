//! `node.toml`: what differs from node to node.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use vipdp_core::offload::OffloadMode;
use vipdp_core::slot::{SLOTS, Slot};

use super::announce::{self, AnnounceConfig, AnnounceRead};
use super::checks::{self, ChecksRead};
use super::error::ConfigError;
use super::io::{self, IoConfig, IoRead};
use super::offload::{self, OffloadRead};
use super::reader::{Document, Errors, Field, Located, Section};
use crate::damping::Damping;
use crate::health::CheckConfig;

/// What differs from node to node: the contents of `node.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The file itself.
    pub path: PathBuf,
    /// This node's slot; a member of the cluster.
    pub slot: Slot,
    /// The NIC on the VIPs' segment.
    pub interface: InterfaceName,
    /// By what workers have it.
    pub io: IoConfig,
    /// The interface that heartbeats use: the segment's VLAN interface where the VIPs are tagged,
    /// else `interface`.
    pub heartbeat_interface: InterfaceName,
    /// The cluster's file, relative paths already resolved.
    pub cluster_path: PathBuf,
    /// The cores that workers are pinned to: worker `n` on `cores[n % len]`. `None`: all cores
    /// that the process may use, in ascending order.
    pub cores: Option<Box<[usize]>>,
    /// How workers wait for frames.
    pub poll: PollMode,
    /// Name of the host's interface that accepted frames come out of.
    pub tap: InterfaceName,
    /// How the host's answers leave.
    pub egress: EgressMode,
    /// Whether the host gets runs of a flow as super-packets.
    pub coalesce: bool,
    /// How much the XDP program decides by itself; `None`: nothing. Of the shared-mac mode alone.
    pub offload: Option<OffloadMode>,
    /// Slots of the flow table, a power of two. A slot takes 8 bytes.
    pub flows_max: usize,
    /// The file that the flow table lives in. `None`: memory that ends with the process.
    pub flows_file: Option<PathBuf>,
    /// Where in the kernel the XDP program runs.
    pub xdp: XdpMode,
    /// Whether the NIC writes straight into the workers' memory.
    pub zero_copy: ZeroCopy,
    /// Directory of the files that live as long as the process, and of the admin socket.
    pub state_dir: PathBuf,
    /// The admin socket.
    pub admin: PathBuf,
    /// The least severe messages that are logged.
    pub log: LogLevel,
    /// The checks of the local service.
    pub checks: Box<[CheckConfig]>,
    /// How checks that flap are damped.
    pub check_damping: Damping,
    /// How the network is told that this node serves the VIPs; given in the anycast mode alone.
    pub announce: Option<AnnounceConfig>,
}

/// Name of a network interface: 1 to 15 bytes, as the kernel demands (`dev_valid_name` in
/// net/core/dev.c).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);

/// The largest length of an [`InterfaceName`], in bytes: `IFNAMSIZ` without the final zero.
pub const INTERFACE_NAME_MAX: usize = 15;

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The string is no name that the kernel would give an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a name of 1 to {INTERFACE_NAME_MAX} bytes without white space, '/' and ':'")]
pub struct NotAnInterfaceName;

impl FromStr for InterfaceName {
    type Err = NotAnInterfaceName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let fits = (1..=INTERFACE_NAME_MAX).contains(&name.len()) && name != "." && name != "..";
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
        if !fits || !name.bytes().all(allowed) {
            return Err(NotAnInterfaceName);
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// How workers wait for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollMode {
    /// Spin while there is work, sleep in `poll(2)` when there is none.
    Adaptive,
    /// Spin always: the lowest latency, for a core each.
    Busy,
}

/// How the host's answers leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressMode {
    /// Through the NIC's own driver, by the host's routes.
    Direct,
    /// Back through the TAP and the workers.
    Tap,
}

/// Where in the kernel the XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver where it can, else in the stack.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack, behind the allocation of an skb.
    Generic,
}

/// Whether the NIC writes straight into the workers' memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where the driver can.
    Auto,
    /// Never: the kernel copies.
    Off,
}

/// The least severe messages that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What stops vipdp, or a part of it.
    Error,
    /// And what an operator should look into.
    Warn,
    /// And what happens to the cluster: members, ownership.
    Info,
    /// And why.
    Debug,
    /// And every message sent and received.
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Bounds of `flows_max`: below, a busy resolver's flows evict each other; above, 2 GiB.
const FLOWS: std::ops::RangeInclusive<u64> = 1024..=1 << 28;
const FLOWS_DEFAULT: u64 = 1 << 20;
/// The largest core number and the largest number of cores: `CPU_SETSIZE` of sched.h.
const CORES_MAX: u64 = 1024;
/// Room for the admin socket's path: `sun_path` of unix(7) without the final zero, and without the
/// suffix that the socket has until it is in place.
const SOCKET_PATH_MAX: usize = 107 - 4;
const STATE_DIR_DEFAULT: &str = "/run/vipdp";
const TAP_DEFAULT: &str = "vipdp0";

/// What of the node's file other files are checked against.
pub(super) struct NodeFile<'s> {
    /// The node's own settings; `None` if they are wrong.
    pub(super) config: Option<NodeConfig>,
    /// The slot, if it is a number.
    pub(super) slot: Option<Located<'s, Slot>>,
    /// The cluster's file, if it is named.
    pub(super) cluster: Option<Located<'s, PathBuf>>,
    /// What was read of the checks, unless the file's syntax is wrong.
    pub(super) checks: Option<ChecksRead>,
    /// What was read of `announce` and its tables, unless the file's syntax is wrong.
    pub(super) announce: Option<AnnounceRead<'s>>,
    /// What was read of `offload`.
    pub(super) offload: OffloadRead<'s>,
}

/// Reads the node's file.
pub(super) fn read<'s>(document: Document<'s>, errors: &mut Errors) -> NodeFile<'s> {
    let Some(mut section) = document.parse(errors) else {
        return NodeFile {
            config: None,
            slot: None,
            cluster: None,
            checks: None,
            announce: None,
            offload: None,
        };
    };
    let slot = section.required("slot", "slot = 0", errors, slot);
    let directory = document.path.parent().unwrap_or(Path::new(""));
    let cluster =
        section.required("cluster", "cluster = \"cluster.toml\"", errors, |f| path(f, directory));
    let io = io::read(&mut section, errors);
    let rest = read_rest(&mut section, directory, &io, errors);
    let offload = offload::read(&mut section, errors);
    io.check_of_xdp(offload.as_ref(), errors);
    let checks = checks::read(&mut section, errors);
    let announce = announce::read(&mut section, errors);
    if let Some(rest) = &rest {
        announce::check_tap(&announce, &rest.tap, errors);
        if rest.io == IoConfig::AfXdp {
            offload::check_egress(&offload, rest.egress, errors);
        }
    }
    section.finish(errors);
    let config = rest.and_then(|rest| {
        Some(NodeConfig {
            slot: slot.as_ref()?.value,
            cluster_path: cluster.as_ref()?.value.clone(),
            path: document.path.to_owned(),
            check_damping: checks.damping,
            announce: announce.config.clone(),
            offload: offload.as_ref().map(|offload| offload.value),
            ..rest
        })
    });
    let (checks, announce) = (Some(checks), Some(announce));
    NodeFile { config, slot, cluster, checks, announce, offload }
}

/// Everything but the slot and the cluster's path.
fn read_rest<'s>(
    section: &mut Section<'s>,
    directory: &Path,
    io: &IoRead<'s>,
    errors: &mut Errors,
) -> Option<NodeConfig> {
    let interface = section.required("interface", "interface = \"eth0\"", errors, interface);
    let heartbeat_interface = section.optional("heartbeat_interface", errors, self::interface);
    let tap = section.optional("tap", errors, self::interface);
    if let (Some(tap), Some(interface)) = (&tap, &interface)
        && tap.value == interface.value
    {
        let remedy = "give the host's interface a name of its own, for example \"vipdp0\"";
        errors.push(tap.place.error(", which is `interface`", remedy));
    }
    let cores = cores(section, errors);
    let poll = section.or_default("poll", PollMode::Adaptive, errors, |f| {
        f.choice(&[("adaptive", PollMode::Adaptive), ("busy", PollMode::Busy)])
    });
    let egress = section.optional("egress", errors, |f| {
        f.choice(&[("direct", EgressMode::Direct), ("tap", EgressMode::Tap)])
    });
    io.check_egress(egress.as_ref(), errors);
    let coalesce = section.or_default("coalesce", true, errors, |f| f.boolean());
    let flows_max = section
        .or_default("flows_max", FLOWS_DEFAULT, errors, |f| f.integer(FLOWS, "a number of flows"));
    let (xdp, zero_copy) = of_xdp(section, io, errors);
    let log = section.or_default("log", LogLevel::Info, errors, log_level);
    let (state_dir, admin) = paths(section, directory, interface.as_ref(), errors);
    let flows_file = section.optional("flows_file", errors, |f| flows_file(f, directory));
    let interface = interface?.value;
    let default = || Some(state_dir.join(format!("{}.flows", interface.as_str())));
    Some(NodeConfig {
        slot: Slot::new(0)?,
        cluster_path: PathBuf::new(),
        heartbeat_interface: heartbeat_interface.map_or(interface.clone(), |name| name.value),
        cores,
        poll,
        tap: tap.map_or_else(|| InterfaceName(TAP_DEFAULT.into()), |tap| tap.value),
        egress: egress.map_or(io.egress_default(), |egress| egress.value),
        coalesce,
        flows_max: usize::try_from(flows_max).ok()?.next_power_of_two(),
        flows_file: flows_file.map_or_else(default, |file| file.value),
        xdp,
        zero_copy,
        io: io.config.clone(),
        admin,
        state_dir,
        log,
        checks: Box::default(),
        check_damping: Damping::DEFAULT,
        announce: None,
        offload: None,
        path: PathBuf::new(),
        interface,
    })
}

/// `xdp` and `zero_copy`.
fn of_xdp<'s>(
    section: &mut Section<'s>,
    io: &IoRead<'s>,
    errors: &mut Errors,
) -> (XdpMode, ZeroCopy) {
    let xdp = section.optional("xdp", errors, |f| {
        let choices =
            [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
        f.choice(&choices)
    });
    io.check_of_xdp(xdp.as_ref(), errors);
    let zero_copy = section.optional("zero_copy", errors, |f| {
        f.choice(&[("auto", ZeroCopy::Auto), ("off", ZeroCopy::Off)])
    });
    io.check_of_xdp(zero_copy.as_ref(), errors);
    let xdp = xdp.map_or(XdpMode::Auto, |xdp| xdp.value);
    (xdp, zero_copy.map_or(ZeroCopy::Auto, |zero_copy| zero_copy.value))
}

/// A slot number.
pub(super) fn slot(field: &Field<'_>) -> Result<Slot, ConfigError> {
    let number = field.integer(0..=SLOTS as u64 - 1, "a slot number")?;
    Ok(Slot::new(number as u8).expect("checked to be in range"))
}

/// A path, relative ones resolved against `directory`.
pub(super) fn path(field: &Field<'_>, directory: &Path) -> Result<PathBuf, ConfigError> {
    let expected = "a path, absolute or relative to this file";
    let text = field.text(expected)?;
    if text.is_empty() || text.contains('\0') {
        return Err(field.place.error("", format!("give {expected}")));
    }
    Ok(directory.join(text))
}

/// `flows_file`: a path, or "none".
fn flows_file(field: &Field<'_>, directory: &Path) -> Result<Option<PathBuf>, ConfigError> {
    match field.text("a path, or \"none\" for flows that end with the process")? {
        "none" => Ok(None),
        _ => path(field, directory).map(Some),
    }
}

/// `state_dir` and `admin`.
fn paths(
    section: &mut Section<'_>,
    directory: &Path,
    interface: Option<&Located<'_, InterfaceName>>,
    errors: &mut Errors,
) -> (PathBuf, PathBuf) {
    let state_dir = section.optional("state_dir", errors, |f| path(f, directory));
    let admin = section.optional("admin", errors, |f| socket_path(f, directory));
    let state_dir_path =
        state_dir.as_ref().map_or_else(|| STATE_DIR_DEFAULT.into(), |dir| dir.value.clone());
    if let Some(admin) = admin {
        return (state_dir_path, admin.value);
    }
    let name = interface.map_or("", |interface| interface.value.as_str());
    let socket = state_dir_path.join(format!("{name}.sock"));
    if let Some(state_dir) = state_dir
        && socket.as_os_str().len() > SOCKET_PATH_MAX
    {
        let remedy = format!(
            "give a shorter one, or `admin`: the admin socket's path has room for \
             {SOCKET_PATH_MAX} bytes"
        );
        errors.push(state_dir.place.error("", remedy));
    }
    (state_dir_path, socket)
}

fn socket_path(field: &Field<'_>, directory: &Path) -> Result<PathBuf, ConfigError> {
    let path = path(field, directory)?;
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        let remedy = format!("give a path of at most {SOCKET_PATH_MAX} bytes, as unix(7) demands");
        return Err(field.place.error("", remedy));
    }
    Ok(path)
}

/// An interface's name.
pub(super) fn interface(field: &Field<'_>) -> Result<InterfaceName, ConfigError> {
    field.parsed(&format!(
        "an interface's name: 1 to {INTERFACE_NAME_MAX} bytes without white space, '/' and ':'"
    ))
}

fn log_level(field: &Field<'_>) -> Result<LogLevel, ConfigError> {
    field.choice(&[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ])
}

/// `cores`: each once, at least one if the key is there.
fn cores(section: &mut Section<'_>, errors: &mut Errors) -> Option<Box<[usize]>> {
    let list = section.optional("cores", errors, |f| {
        let elements = f.elements("a list of core numbers, for example [0, 1]")?;
        if elements.is_empty() {
            let remedy = "name at least one core, or remove the key to use all";
            return Err(f.place.error("", remedy));
        }
        Ok(elements)
    });
    let mut cores = Vec::new();
    for element in list?.value {
        match element.integer(0..=CORES_MAX - 1, "a core number") {
            Ok(core) if cores.contains(&(core as usize)) => {
                let remedy = "name each core once: worker n runs on cores[n % len]";
                errors.push(element.place.error(", for the second time", remedy));
            }
            Ok(core) => cores.push(core as usize),
            Err(error) => errors.push(error),
        }
    }
    Some(cores.into())
}
