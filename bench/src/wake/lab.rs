//! The pair of namespaces, and vipdp's files.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

use super::receiver::Case;

/// The service address.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
/// The port that probes go to.
pub(super) const PORT: u16 = 53;
/// The node's interface.
pub(super) const INTERFACE: &str = "eth0";
/// Who sends probes.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
/// What the service address resolves to where a worker receives: the address that vipdp gives cluster 77.
const SHARED_MAC: &str = "02:00:5e:00:00:4d";

static LABS: AtomicU32 = AtomicU32::new(0);

/// Two namespaces with a link between, taken down when dropped.
#[derive(Debug)]
pub(super) struct Lab {
    node: String,
    peer: String,
    directory: TempDir,
}

impl Lab {
    /// Makes the pair, for one case.
    pub(super) fn new(case: Case) -> Result<Self> {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("vdw-{}-{number}-{end}", std::process::id());
        let directory = tempfile::tempdir().context("no directory for vipdp's files")?;
        let lab = Self { node: name("node"), peer: name("peer"), directory };
        let Self { node, peer, .. } = &lab;
        let one = "numrxqueues 1 numtxqueues 1";
        for line in [
            format!("ip netns add {node}"),
            format!("ip netns add {peer}"),
            format!(
                "ip -n {peer} link add {INTERFACE} {one} type veth peer name {INTERFACE} {one} netns {node}"
            ),
            format!("ip -n {node} address add 10.64.0.2/16 dev {INTERFACE}"),
            format!("ip -n {peer} address add {CLIENT}/16 dev {INTERFACE}"),
            format!("ip -n {node} link set {INTERFACE} up"),
            format!("ip -n {peer} link set {INTERFACE} up"),
            // Else frames from a socket of this machine would have unfinished checksums.
            format!("ip netns exec {peer} ethtool -K {INTERFACE} tx off"),
        ] {
            run(&line)?;
        }
        let mac = match case {
            Case::Udp => {
                run(&format!("ip -n {node} address add {VIP}/32 dev {INTERFACE}"))?;
                let path = format!("/sys/class/net/{INTERFACE}/address");
                run(&format!("ip netns exec {node} cat {path}"))?.trim().to_owned()
            }
            Case::AfXdp | Case::Vipdp => SHARED_MAC.to_owned(),
        };
        run(&format!("ip -n {peer} route add {VIP}/32 dev {INTERFACE}"))?;
        run(&format!("ip -n {peer} neighbour replace {VIP} lladdr {mac} dev {INTERFACE}"))?;
        Ok(lab)
    }

    /// Runs `body` on a thread of its own in the node's namespace.
    pub(super) fn in_node<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.node, body)
    }

    /// A socket that probes are sent by.
    pub(super) fn probe_socket(&self) -> Result<UdpSocket> {
        inside(&self.peer, || {
            let socket = UdpSocket::bind((CLIENT, 0)).context("no socket for probes")?;
            socket.connect((VIP, PORT)).context("no way to the service address")?;
            Ok(socket)
        })
    }

    /// vipdp as the only member of its cluster, with its worker on `core`; not started.
    pub(super) fn vipdp(&self, program: &Path, core: usize) -> Result<Command> {
        let directory = self.directory.path();
        let file = |name: &str, text: String| {
            fs::write(directory.join(name), text).with_context(|| name.to_owned())
        };
        file(
            "cluster.toml",
            format!(
                "id = 77\ngeneration = 1\nmode = \"shared-mac\"\nvips = [\"{VIP}\"]\n\
                 key_file = \"cluster.key\"\npartition = \"none\"\n[shared_mac]\nmac = \"unicast\"\n\
                 [[member]]\nslot = 0\nname = \"node\"\n"
            ),
        )?;
        file(
            "node.toml",
            format!(
                "slot = 0\ninterface = \"{INTERFACE}\"\ncluster = \"cluster.toml\"\ncores = [{core}]\n\
                 poll = \"adaptive\"\ntap = \"vipdp0\"\nflows_max = 65536\nstate_dir = \"state\"\n"
            ),
        )?;
        let made = Command::new(program).arg("keygen").arg(directory.join("cluster.key")).output();
        let made = made.with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(made.status.success(), "vipdp keygen: {}", String::from_utf8_lossy(&made.stderr));
        let log = File::create(directory.join("log")).context("log")?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.node]).arg(program);
        command.arg("--config").arg(directory.join("node.toml")).stderr(log);
        Ok(command)
    }

    /// The file that vipdp logs to.
    pub(super) fn log(&self) -> std::path::PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.peer] {
            // One that was never made cannot be removed, which is as good.
            let _ = run(&format!("ip netns del {namespace}"));
        }
    }
}

fn inside<T: Send>(namespace: &str, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(format!("/run/netns/{namespace}")).context("no such namespace")?;
    thread::scope(|scope| {
        let enter = || {
            setns(file, CloneFlags::CLONE_NEWNET).context("only root may enter a namespace")?;
            body()
        };
        scope.spawn(enter).join().map_err(|_| anyhow!("a thread ended in a panic"))?
    })
}

fn run(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("no command")?;
    let output = Command::new(program).args(words).output().context(line.to_owned())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {}", error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Time for which all threads of a process have run, nanoseconds, as the scheduler counts it.
pub(super) fn run_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("vipdp has ended")? {
        let path = task.context("vipdp's threads")?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let first = text.split_whitespace().next().context("the scheduler counts no time")?;
        sum += first.parse::<u64>().context("the scheduler counts no time")?;
    }
    Ok(sum)
}
