//! The pair of namespaces that each row gets anew, and takes with it.
//!
//! ```text
//!   vdb-PID-gen                              vdb-PID-node
//!   clients 10.64.0.0/16                     192.0.2.53: on the interface, or on vipdp's TAP
//!   pktgen          vdbPIDg ------- vdbPIDn  received by a kernel thread or a worker that polls, for each queue
//!        generator's core                         receiver's core
//! ```
//!
//! The node's end receives by threaded NAPI, or a worker runs its receive side: else that would run on the
//! generator's core, in the generator's time.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The service address.
pub const VIP: &str = "192.0.2.53";
/// The first client.
pub const CLIENT_FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// The network of the clients.
pub const CLIENTS_NETWORK: &str = "10.64.0.0/16";
/// How the namespaces' names begin.
const PREFIX: &str = "vdb-";

/// A network namespace of `ip netns`, taken down when dropped.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    fn new(name: String) -> Result<Self> {
        let namespace = Self { name };
        ip(&["netns", "add", &namespace.name])?;
        Ok(namespace)
    }

    /// A command that will run inside, in a process of its own.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command line, split at white space, and returns what it printed.
    pub(super) fn run(&self, line: &str) -> Result<String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.run_with(&words, "")
    }

    /// Runs a command that reads `input`, and returns what it printed.
    pub(super) fn run_with(&self, words: &[String], input: &str) -> Result<String> {
        let (program, arguments) = words.split_first().context("no command")?;
        let mut command = self.command(program);
        command.args(arguments);
        output(&mut command, input)
    }

    /// Writes to a file that is the namespace's own, such as those of `/sys/class/net`.
    fn write(&self, path: &str, value: &str) -> Result<()> {
        self.run_with(&["tee".to_owned(), path.to_owned()], value).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody is left to tell if it cannot be done.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// The pair, with the link between.
#[derive(Debug)]
pub(super) struct Lab {
    node: Namespace,
    generator: Namespace,
    node_interface: String,
    generator_interface: String,
    node_mac: String,
}

impl Lab {
    /// Makes the pair, with so many queues. The node has no service address yet.
    pub(super) fn new(queues: u32) -> Result<Self> {
        let pid = std::process::id();
        let lab = Self {
            node: Namespace::new(format!("{PREFIX}{pid}-node"))?,
            generator: Namespace::new(format!("{PREFIX}{pid}-gen"))?,
            node_interface: format!("vdb{pid}n"),
            generator_interface: format!("vdb{pid}g"),
            node_mac: String::new(),
        };
        lab.set_up(queues)
    }

    fn set_up(mut self, queues: u32) -> Result<Self> {
        let Self { node, generator, node_interface: inner, generator_interface: outer, .. } = &self;
        for namespace in [node, generator] {
            // No packet but those of the measurement, and no check of where it came from.
            namespace.run(
                "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
                 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0",
            )?;
            namespace.run("ip link set lo up")?;
        }
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        generator.run(&format!(
            "ip link add {outer} {queues} type veth peer name {inner} {queues} netns {}",
            node.name
        ))?;
        // By NAPI it receives only with an XDP program, or so.
        node.run(&format!("ethtool -K {inner} gro on"))?;
        node.run(&format!("ip link set {inner} up"))?;
        generator.run(&format!("ip link set {outer} up"))?;
        node.run(&format!("ip route add {CLIENTS_NETWORK} dev {inner}"))?;
        let mac = node.run(&format!("cat /sys/class/net/{inner}/address"))?;
        self.node_mac = mac.trim().to_owned();
        Ok(self)
    }

    /// The receiver's side.
    pub(super) fn node(&self) -> &Namespace {
        &self.node
    }

    /// The sender's side.
    pub(super) fn generator(&self) -> &Namespace {
        &self.generator
    }

    /// The receiver's interface.
    pub(super) fn node_interface(&self) -> &str {
        &self.node_interface
    }

    /// The sender's interface.
    pub(super) fn generator_interface(&self) -> &str {
        &self.generator_interface
    }

    /// The MAC address of the receiver's interface.
    pub(super) fn node_mac(&self) -> &str {
        &self.node_mac
    }

    /// Puts the service address on the receiver's interface.
    pub(super) fn add_vip(&self) -> Result<()> {
        self.node.run(&format!("ip address add {VIP}/32 dev {}", self.node_interface)).map(drop)
    }

    /// Lets the node's receive side wait for more packets, `ns` from the first one on, before it runs: as NICs
    /// moderate their interrupts. 0: it runs for each packet, if it has the time.
    pub(super) fn set_moderation(&self, ns: u32) -> Result<()> {
        let directory = format!("/sys/class/net/{}", self.node_interface);
        // It goes back to running for a packet after so many runs without one.
        let runs = if ns > 0 { "2" } else { "0" };
        self.node.write(&format!("{directory}/napi_defer_hard_irqs"), runs)?;
        self.node.write(&format!("{directory}/gro_flush_timeout"), &ns.to_string())
    }

    /// Has threads of the kernel's receive for the node, that of each queue on the core of its place in `cores`. Not
    /// where a worker polls: that and the thread would take turns at the queue, and it can come to rest between them.
    pub(super) fn receive_on(&self, cores: &[usize]) -> Result<Vec<u32>> {
        receive_on(&self.node, &self.node_interface, cores)
    }

    /// The same for what comes to the generator's side.
    pub(super) fn receive_answers_on(&self, core: usize) -> Result<()> {
        receive_on(&self.generator, &self.generator_interface, &[core]).map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // At once, and with it its thread: a namespace is taken down some time after it is deleted.
        let _ = self.node.run(&format!("ip link del {}", self.node_interface));
    }
}

/// Has threads of the kernel's receive for an interface.
fn receive_on(namespace: &Namespace, interface: &str, cores: &[usize]) -> Result<Vec<u32>> {
    namespace.write(&format!("/sys/class/net/{interface}/threaded"), "1")?;
    let name = format!("napi/{interface}-");
    let comm = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let mut threads: Vec<_> =
        processes()?.into_iter().filter(|&pid| comm(pid).starts_with(&name)).collect();
    ensure!(threads.len() >= cores.len(), "{} kernel threads {name}...", threads.len());
    // They are made queue by queue.
    threads.sort_unstable();
    for (&thread, &core) in threads.iter().zip(cores) {
        let mut set = CpuSet::new();
        set.set(core)?;
        sched_setaffinity(Pid::from_raw(thread), &set)
            .with_context(|| format!("cannot keep {name}... on core {core}"))?;
    }
    Ok(threads.into_iter().map(|thread| thread as u32).collect())
}

/// Takes down what runs left that were killed.
pub(super) fn clean_up() -> Result<()> {
    for line in output(Command::new("ip").args(["netns", "list"]), "")?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        let Some(pid) = pid.map(|pid: u32| PathBuf::from(format!("/proc/{pid}"))) else { continue };
        if !Path::new(&pid).exists() {
            ip(&["netns", "del", name])?;
        }
    }
    Ok(())
}

fn processes() -> Result<Vec<i32>> {
    let entries = fs::read_dir("/proc").context("/proc")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

fn ip(arguments: &[&str]) -> Result<()> {
    output(Command::new("ip").args(arguments), "").map(drop)
}

/// Runs a command that reads `input`, and returns what it printed.
pub(super) fn output(command: &mut Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("{shown} does not read"))?;
    }
    let output = child.wait_with_output().with_context(|| shown.clone())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}: {}", output.status, error.trim());
    match String::from_utf8(output.stdout) {
        Ok(text) => Ok(text),
        Err(_) => bail!("{shown} prints no text"),
    }
}
