//! A running node whose NIC gets more receive queues than it has workers.

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

/// The ends of a cable, a namespace each; removed when dropped.
struct Cable {
    node: String,
    peer: String,
}

impl Cable {
    fn new() -> Self {
        let name = |end: &str| format!("vdrx-{}-{end}", std::process::id());
        let cable = Self { node: name("node"), peer: name("peer") };
        let Self { node, peer } = &cable;
        ip(&format!("netns add {node}"));
        ip(&format!("netns add {peer}"));
        ip(&format!(
            "link add eth0 netns {node} numrxqueues 2 numtxqueues 1 type veth peer name eth0 netns {peer}"
        ));
        cable.in_node("ethtool -L eth0 rx 1");
        for (namespace, address) in [(node, "192.0.2.11/24"), (peer, "192.0.2.1/24")] {
            ip(&format!("-n {namespace} address add {address} dev eth0"));
            ip(&format!("-n {namespace} link set eth0 up"));
        }
        cable
    }

    fn in_node(&self, line: &str) {
        ip(&format!("netns exec {} {line}", self.node));
    }

    fn node_has(&self, interface: &str) -> bool {
        run(&format!("-n {} link show {interface}", self.node)).status.success()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.peer] {
            // One that was never made cannot be removed, which is as good.
            let _ = run(&format!("netns del {namespace}"));
        }
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

/// The program, running; killed when dropped.
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
        "id = 78\ngeneration = 1\nmode = \"shared-mac\"\nvips = [\"192.0.2.53\"]\n\
         key_file = \"cluster.key\"\n[[member]]\nslot = 0\nname = \"alone\"\n",
    );
    write(
        "node.toml",
        "slot = 0\ninterface = \"eth0\"\ncluster = \"cluster.toml\"\nflows_file = \"none\"\n\
         flows_max = 1024\nstate_dir = \"state\"\nadmin = \"admin.sock\"\n",
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
fn a_node_with_too_few_workers_ends_in_order_with_an_error() {
    let cable = Cable::new();
    let files = configuration();
    let [node, log, socket] = ["node.toml", "log", "admin.sock"].map(|it| files.path().join(it));
    let vipdp = Command::new("ip")
        .args(["netns", "exec", &cable.node, env!("CARGO_BIN_EXE_vipdp"), "--config"])
        .arg(&node)
        .stderr(File::create(&log).expect("made"))
        .spawn();
    let mut vipdp = Running(vipdp.expect("ip runs"));
    let before = until("the node to serve", || {
        let ended = vipdp.0.try_wait().expect("asked").is_some();
        assert!(!ended, "{}", fs::read_to_string(&log).expect("read"));
        status(&socket).filter(|status| status.node.state == NodeState::Active)
    });
    assert_eq!((before.interface.queues, before.interface.dropped_without_worker), (1, 0));

    cable.in_node("ethtool -L eth0 rx 2");
    let ended = until("the end of vipdp", || vipdp.0.try_wait().expect("asked"));
    let said = fs::read_to_string(&log).expect("read");
    assert_eq!(ended.code(), Some(1), "{said}");
    for part in ["eth0 has 2 receive queues now, of which 1 have a worker", "handing over"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!cable.node_has("vipdp0"), "the host is put back: {said}");
}
