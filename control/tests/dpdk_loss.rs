//! A running node that loses the NIC which DPDK has. Needs root, and no huge pages.
#![cfg(feature = "dpdk")]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vipdp::admin::{Request, Response, request};
use vipdp::cli;
use vipdp::status::{NodeState, Status};

/// How long a test waits for anything before it fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A namespace with `phy0`, one end of a cable, which DPDK is to have, and the TAP `eth0` in its place; removed when
/// dropped.
struct Host(String);

impl Host {
    fn new() -> Self {
        let host = Self(format!("vdl-{}", std::process::id()));
        ip(&format!("netns add {}", host.0));
        for line in [
            "link add phy0 type veth peer name peer0",
            "link set peer0 up",
            "link set phy0 up",
            "tuntap add dev eth0 mode tap multi_queue vnet_hdr",
            "address add 192.0.2.11/24 dev eth0",
            "link set eth0 up",
        ] {
            ip(&format!("-n {} {line}", host.0));
        }
        host
    }

    fn ip(&self, line: &str) -> Output {
        run(&format!("-n {} {line}", self.0))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // One that was never made cannot be removed, which is as good.
        let _ = run(&format!("netns del {}", self.0));
    }
}

fn run(arguments: &str) -> Output {
    Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs")
}

#[track_caller]
fn ip(arguments: &str) {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments} (is this root?): {said}");
}

#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The files of a cluster with one member, which come with a key.
fn configuration() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).expect("written");
    };
    write(
        "cluster.toml",
        "id = 79\ngeneration = 1\nmode = \"shared-mac\"\nvips = [\"192.0.2.53\"]\n\
         key_file = \"cluster.key\"\n[[member]]\nslot = 0\nname = \"alone\"\n",
    );
    write(
        "node.toml",
        "slot = 0\ninterface = \"eth0\"\ncluster = \"cluster.toml\"\nflows_file = \"none\"\n\
         flows_max = 1024\nstate_dir = \"state\"\nadmin = \"admin.sock\"\n\
         [io]\nbackend = \"dpdk\"\ndevargs = \"net_af_packet0,iface=phy0\"\nqueues = 1\nhugepages = false\n",
    );
    cli::keygen(&directory.path().join("cluster.key"), 1).expect("made");
    directory
}

fn status(socket: &Path) -> Option<Status> {
    match request(socket, Request::Status {}).ok()? {
        Response::Status { status } => Some(*status),
        _ => None,
    }
}

#[test]
fn a_node_that_loses_its_nic_ends_in_order_with_an_error() {
    let host = Host::new();
    let files = configuration();
    let [node, log, socket] = ["node.toml", "log", "admin.sock"].map(|it| files.path().join(it));
    let vipdp = Command::new("ip")
        .args(["netns", "exec", &host.0, env!("CARGO_BIN_EXE_vipdp"), "--config"])
        .arg(&node)
        .stderr(File::create(&log).expect("made"))
        .spawn();
    let mut vipdp = Running(vipdp.expect("ip runs"));
    until("the node to serve", || {
        let ended = vipdp.0.try_wait().expect("asked").is_some();
        assert!(!ended, "{}", fs::read_to_string(&log).expect("read"));
        status(&socket).filter(|status| status.node.state == NodeState::Active)
    });

    assert!(host.ip("link delete phy0").status.success());
    let ended = until("the end of vipdp", || vipdp.0.try_wait().expect("asked"));
    let said = fs::read_to_string(&log).expect("read");
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.ends_with("vipdp: the NIC is gone, or another driver has it\n"), "{said}");
    assert!(!host.ip("link show vipdp0").status.success(), "the host is put back: {said}");
    let tap = String::from_utf8(host.ip("link show eth0").stdout).expect("names");
    assert!(!tap.is_empty() && !tap.contains("LOWER_UP"), "its TAP has no carrier: {tap}");
}
