//! FRR's daemons in a router's namespace, with sockets and files of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use vipdp_tests::namespace::Namespace;
use vipdp_tests::wait::{wait_for, wait_until};

/// How long a daemon may take to answer on a busy machine.
const START: Duration = Duration::from_secs(30);

/// zebra, bgpd and bfdd.
pub struct Frr {
    router: Namespace,
    directory: TempDir,
    daemons: Vec<(&'static str, Child)>,
}

impl Frr {
    /// Starts them with `bgpd` as bgpd's configuration, and waits until they answer.
    #[track_caller]
    pub fn start(router: &Namespace, bgpd: &str) -> Self {
        let directory = TempDir::with_prefix("vdpath").expect("a directory");
        // The daemons run as another user.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("mine");
        let mut frr = Self { router: router.clone(), directory, daemons: Vec::new() };
        frr.write("zebra", "ip nht resolve-via-default\n");
        frr.write("bfdd", "");
        frr.write("bgpd", bgpd);
        for daemon in ["zebra", "bfdd", "bgpd"] {
            frr.spawn(daemon);
        }
        frr
    }

    fn write(&self, daemon: &str, config: &str) {
        let path = self.directory.path().join(format!("{daemon}.conf"));
        fs::write(path, config).expect("a file");
    }

    /// Starts one of them.
    #[track_caller]
    pub fn spawn(&mut self, daemon: &'static str) {
        let directory = self.directory.path();
        let path = |name: String| directory.join(name).into_os_string();
        let log = fs::File::create(directory.join(format!("{daemon}.log"))).expect("a file");
        let mut command = self.router.command(format!("/usr/lib/frr/{daemon}"));
        command
            .args(["--vty_port", "0", "--log", "stdout"])
            .arg("--vty_socket")
            .arg(directory)
            .arg("--socket")
            .arg(path("zebra.api".into()))
            .arg("--pid_file")
            .arg(path(format!("{daemon}.pid")))
            .arg("--config_file")
            .arg(path(format!("{daemon}.conf")));
        if daemon == "bfdd" {
            command.arg("--bfdctl").arg(path("bfdd.sock".into()));
        }
        let child = command.stdout(Stdio::from(log)).stderr(Stdio::null()).spawn();
        self.daemons.push((daemon, child.expect("FRR is installed")));
        wait_until(START, daemon, || self.try_ask(daemon, "show version").is_some());
    }

    /// Kills one of them, without a chance to say a last word.
    #[track_caller]
    pub fn kill(&mut self, daemon: &str) {
        for (_, child) in self.daemons.extract_if(.., |(name, _)| *name == daemon) {
            end(child);
        }
    }

    /// What a daemon answers to a command.
    #[track_caller]
    pub fn ask(&self, daemon: &str, command: &str) -> String {
        self.try_ask(daemon, command).unwrap_or_else(|| panic!("{daemon} does not take {command}"))
    }

    fn try_ask(&self, daemon: &str, command: &str) -> Option<String> {
        self.ask_all(daemon, &[command])
    }

    fn ask_all(&self, daemon: &str, commands: &[&str]) -> Option<String> {
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(self.directory.path()).args(["-d", daemon]);
        for command in commands {
            vtysh.args(["-c", command]);
        }
        let output = vtysh.output().expect("vtysh runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // vtysh says so, and succeeds, where it reaches no daemon.
        let is_answer = output.status.success() && !text.starts_with("Exiting: failed to connect");
        is_answer.then_some(text)
    }

    /// Changes bgpd's configuration: lines below `router bgp`.
    #[track_caller]
    pub fn configure(&self, lines: &[&str]) {
        let commands = [&["configure terminal", "router bgp 65001"], lines].concat();
        assert!(self.ask_all("bgpd", &commands).is_some(), "{lines:?}");
    }

    fn json(&self, daemon: &str, command: &str) -> Value {
        serde_json::from_str(&self.ask(daemon, command)).unwrap_or(Value::Null)
    }

    /// What BGP knows of the ways to a prefix; empty if there is none.
    pub fn paths(&self, prefix: &str) -> Vec<Value> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let known = self.json("bgpd", &format!("show bgp {family} unicast {prefix} json"));
        known["paths"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until BGP knows `count` ways to a prefix, and returns them.
    #[track_caller]
    pub fn wait_paths(&self, prefix: &str, count: usize) -> Vec<Value> {
        wait_for(START, &format!("{count} ways to {prefix}"), || {
            Some(self.paths(prefix)).filter(|paths| paths.len() == count)
        })
    }

    /// What BGP knows of a neighbour.
    pub fn neighbor(&self, neighbor: &str) -> Value {
        self.json("bgpd", &format!("show bgp neighbors {neighbor} json"))[neighbor].clone()
    }

    /// What BFD knows of its peers.
    pub fn bfd_peers(&self) -> Vec<Value> {
        self.json("bfdd", "show bfd peers json").as_array().cloned().unwrap_or_default()
    }

    /// What the daemons have written to their logs.
    pub fn logs(&self) -> String {
        let log = |daemon| fs::read_to_string(self.directory.path().join(format!("{daemon}.log")));
        let logs = ["zebra", "bfdd", "bgpd"].map(|daemon| log(daemon).unwrap_or_default());
        logs.join("\n")
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.daemons.drain(..).for_each(|(_, child)| end(child));
    }
}

fn end(mut child: Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}
