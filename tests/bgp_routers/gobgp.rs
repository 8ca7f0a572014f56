//! GoBGP in a router's namespace.

use std::fs;
use std::process::{Child, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use vipdp_tests::namespace::Namespace;
use vipdp_tests::speaker::SOON;
use vipdp_tests::wait::{wait_for, wait_until};

/// A running GoBGP.
pub struct GoBgp {
    router: Namespace,
    directory: TempDir,
    process: Option<Child>,
}

/// The configuration of a neighbour of AS 65011 that speaks both families, with more settings of
/// its own.
pub fn neighbor(address: &str, settings: &str) -> String {
    let families = ["ipv4-unicast", "ipv6-unicast"].map(|family| {
        format!(
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\"\n"
        )
    });
    format!(
        "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = 65011\n\
         {settings}\n[neighbors.timers.config]\nhold-time = 9\nkeepalive-interval = 3\n\
         connect-retry = 1\nidle-hold-time-after-reset = 1\n{}",
        families.concat()
    )
}

impl GoBgp {
    /// Starts GoBGP as a router of AS 65001 with `neighbors`, and waits until it answers.
    #[track_caller]
    pub fn start(router: &Namespace, neighbors: &str) -> Self {
        let directory = TempDir::with_prefix("vdgobgp").expect("a directory");
        let config =
            format!("[global.config]\nas = 65001\nrouter-id = \"10.99.0.2\"\n{neighbors}\n");
        fs::write(directory.path().join("gobgpd.toml"), config).expect("a file");
        let mut gobgp = Self { router: router.clone(), directory, process: None };
        gobgp.spawn();
        gobgp
    }

    /// Starts it again.
    #[track_caller]
    pub fn spawn(&mut self) {
        let log = fs::File::create(self.directory.path().join("log")).expect("a file");
        let mut command = self.router.command("gobgpd");
        command.args(["--pprof-disable", "--log-plain", "--log-level", "debug"]);
        command.arg("--config-file").arg(self.directory.path().join("gobgpd.toml"));
        let copy = log.try_clone().expect("a descriptor");
        let child = command.stdout(Stdio::from(log)).stderr(Stdio::from(copy)).spawn();
        self.process = Some(child.expect("GoBGP is installed"));
        wait_until(SOON, "GoBGP", || self.ask("gobgp global -j").is_object());
    }

    /// Kills it, without a chance to say a last word.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it answers; null if it does not.
    fn ask(&self, line: &str) -> Value {
        let output = self.router.output(line);
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The ways to a prefix that it knows; empty if there are none.
    pub fn routes(&self, prefix: &str) -> Vec<Value> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let known = self.ask(&format!("gobgp global rib -a {family} -j"));
        known[prefix].as_array().cloned().unwrap_or_default()
    }

    /// Waits until it knows `count` ways to a prefix, and returns them.
    #[track_caller]
    pub fn wait_routes(&self, prefix: &str, count: usize) -> Vec<Value> {
        wait_for(SOON, &format!("{count} ways to {prefix}"), || {
            Some(self.routes(prefix)).filter(|routes| routes.len() == count)
        })
    }
}

impl Drop for GoBgp {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log"));
            eprintln!("{}", log.unwrap_or_default());
        }
    }
}
