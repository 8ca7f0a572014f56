//! A node that is a cluster of one member, run as a user would, in a namespace of the test's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vipdp::admin::{Request, Response, request};
use vipdp::cli;
use vipdp::status::{NodeState, Status};

/// How long a test waits for anything before it fails.
const DEADLINE: Duration = Duration::from_secs(20);

pub fn run(arguments: &str) -> Output {
    Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs")
}

#[track_caller]
pub fn ip(arguments: &str) {
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

/// The files of a cluster with one member, which come with a key; `io` is what its node.toml says at its end.
fn configuration(id: u32, io: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).expect("written");
    };
    write(
        "cluster.toml",
        &format!(
            "id = {id}\ngeneration = 1\nmode = \"shared-mac\"\nvips = [\"192.0.2.53\"]\n\
             key_file = \"cluster.key\"\n[[member]]\nslot = 0\nname = \"alone\"\n"
        ),
    );
    write(
        "node.toml",
        &format!(
            "slot = 0\ninterface = \"eth0\"\ncluster = \"cluster.toml\"\nflows_file = \"none\"\n\
             flows_max = 1024\nstate_dir = \"state\"\nadmin = \"admin.sock\"\n{io}"
        ),
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

/// The node, which has begun to serve.
pub struct Node {
    vipdp: Running,
    log: PathBuf,
    _files: TempDir,
}

impl Node {
    /// Starts it in a namespace, and waits until it serves; and what it says of itself then.
    pub fn start(namespace: &str, id: u32, io: &str) -> (Self, Status) {
        let files = configuration(id, io);
        let [node, log, socket] =
            ["node.toml", "log", "admin.sock"].map(|it| files.path().join(it));
        let vipdp = Command::new("ip")
            .args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_vipdp"), "--config"])
            .arg(&node)
            .stderr(File::create(&log).expect("made"))
            .spawn();
        let mut vipdp = Running(vipdp.expect("ip runs"));
        let status = until("the node to serve", || {
            let ended = vipdp.0.try_wait().expect("asked").is_some();
            assert!(!ended, "{}", fs::read_to_string(&log).expect("read"));
            status(&socket).filter(|status| status.node.state == NodeState::Active)
        });
        (Self { vipdp, log, _files: files }, status)
    }

    /// Waits for its end. How it ended, and all that it said.
    pub fn end(mut self) -> (ExitStatus, String) {
        let ended = until("the end of vipdp", || self.vipdp.0.try_wait().expect("asked"));
        (ended, fs::read_to_string(&self.log).expect("read"))
    }
}
