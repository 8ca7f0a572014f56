//! A `vipdp` that a test starts by itself, and the command's other uses.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::lab::{VIP4, VIP6};
use crate::namespace::Namespace;
use crate::programs::{programs, vipdp_for};
use crate::status::Status;
use crate::wait::{wait_for, wait_until};

/// How long vipdp may take to start, or to stop.
const LIMIT: Duration = Duration::from_secs(20);

/// The configuration of a cluster with one member, in a directory of its own.
#[derive(Debug)]
pub struct Config {
    directory: TempDir,
}

/// A running vipdp.
#[derive(Debug)]
pub struct Vipdp {
    process: Child,
    config: PathBuf,
    log: PathBuf,
}

impl Config {
    /// Writes the files; `mac` is `unicast` or `multicast`, `egress` `direct` or `tap`, `poll`
    /// `adaptive` or `busy`.
    #[track_caller]
    pub fn write(mac: &str, egress: &str, poll: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = Self { directory };
        let cluster = format!(
            r#"
            id = 77
            generation = 1
            mode = "shared-mac"
            vips = ["{VIP4}", "{VIP6}"]
            key_file = "cluster.key"
            partition = "none"
            [shared_mac]
            mac = "{mac}"
            [[member]]
            slot = 0
            name = "alone"
            "#
        );
        let node = format!(
            r#"
            slot = 0
            interface = "eth0"
            cluster = "cluster.toml"
            cores = [0]
            poll = "{poll}"
            egress = "{egress}"
            tap = "vipdp0"
            flows_max = 65536
            state_dir = "state"
            "#
        );
        config.replace("cluster.toml", &cluster);
        config.replace("node.toml", &node);
        let key = config.directory.path().join("cluster.key");
        let made = command().arg("keygen").arg(key).output().expect("vipdp runs");
        assert!(made.status.success(), "keygen: {}", String::from_utf8_lossy(&made.stderr));
        config
    }

    /// Gives one of the files other contents.
    #[track_caller]
    pub fn replace(&self, file: &str, contents: &str) {
        fs::write(self.directory.path().join(file), contents).expect("a file can be written");
    }

    /// The node's file.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("node.toml")
    }
}

/// The command `vipdp`.
pub fn command() -> Command {
    Command::new(&programs().vipdp)
}

/// What the vipdp with this configuration says of itself; `None` if it does not answer.
pub fn status(config: &Path) -> Option<Status> {
    let mut command = Command::new(vipdp_for(config));
    command.args(["status", "--json", "--config"]).arg(config);
    let output = command.output().expect("vipdp runs");
    if !output.status.success() {
        return None;
    }
    let status: Status = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("vipdp status --json: {error}"));
    assert_eq!(status.format, 1, "another format than these tests read");
    Some(status)
}

impl Vipdp {
    /// Starts vipdp on a host, and waits until it owns all buckets.
    #[track_caller]
    pub fn start(host: &Namespace, config: &Config) -> Self {
        let log = config.directory.path().join("log");
        let file = File::create(&log).expect("a file can be made");
        let process = host
            .command(vipdp_for(&config.path()))
            .arg("--config")
            .arg(config.path())
            .stderr(file)
            .spawn()
            .expect("`ip` runs");
        let mut vipdp = Self { process, config: config.path(), log };
        wait_until(LIMIT, "vipdp owns all buckets", || {
            if let Some(end) = vipdp.process.try_wait().expect("it is a child") {
                panic!("vipdp ended, {end}: {}", vipdp.log());
            }
            vipdp.status().is_some_and(|status| status.buckets.owned == crate::lab::BUCKETS)
        });
        vipdp
    }

    /// What it says of itself.
    pub fn status(&self) -> Option<Status> {
        status(&self.config)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal, and waits for its end.
    #[track_caller]
    pub fn end(mut self, signal: Signal) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.process.id() as i32), signal).expect("it runs");
        wait_for(LIMIT, "vipdp ends", || self.process.try_wait().expect("it is a child"))
    }
}

impl Drop for Vipdp {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- vipdp\n{}", self.log());
        }
        // Nothing to do where it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs `vipdp` with arguments on a host.
#[track_caller]
pub fn run(host: &Namespace, arguments: &[&str], config: &Path) -> Output {
    let mut command = host.command(vipdp_for(config));
    command.args(arguments).arg("--config").arg(config).output().expect("`ip` runs")
}
