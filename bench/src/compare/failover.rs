//! How long clients wait when a node dies: what `scripts/failover` measures of vipdp and of keepalived.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use serde::Deserialize;

use super::group::Group;
use super::options::Options;
use super::part;
use super::visit::Visit;

/// The names that its figures stand under.
pub const CASES: &[&str] = &[
    "failover-vipdp-default",
    "failover-vipdp-fast",
    "failover-keepalived-10ms",
    "failover-keepalived-100ms",
];

/// keepalived's intervals between advertisements, seconds: the fastest that VRRP can say, and one that is usual.
const INTERVALS: &str = "0.01,0.1";
/// Of these and of vipdp's profiles, those of a quick run.
const QUICK: [&str; 6] = ["--profiles", "fast", "--intervals", "0.1", "--kills", "1"];
/// How often a node of each system dies.
const KILLS: u32 = 8;
/// How long it may take: with each system, and for each kill.
const PATIENCE: Duration = Duration::from_secs(120);
const KILL_PATIENCE: Duration = Duration::from_secs(60);
/// How long the lab may take to be taken down.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks whether it has ended.
const PAUSE_MS: u16 = 100;

/// What the script says of a system.
#[derive(Debug, Deserialize)]
struct System {
    system: String,
    /// For keepalived, three times its interval.
    setting: String,
    each: Vec<Killed>,
}

/// What it says of a kill.
#[derive(Debug, Deserialize)]
struct Killed {
    gap_ms: f64,
    lost: f64,
    back_s: f64,
    /// Of the clients, those who were not answered; `None` if too few queries were lost to say.
    share: Option<f64>,
}

/// A script that has its lab to take down.
struct Script(Child);

/// Measures all systems: a visit for each kill.
pub(super) fn visit(options: &Options, end: &SignalFd) -> Result<Vec<Visit>> {
    let directory = tempfile::tempdir().context("no directory for the results")?;
    let results = directory.path().join("failover.json");
    let program = options.scripts.join("failover");
    let mut command = Command::new(&program);
    command
        .args(["--steady", "0", "--intervals", INTERVALS, "--kills", &KILLS.to_string(), "--json"])
        .arg(&results)
        .env("VIPDP_LAB", format!("vdb{}f", std::process::id()))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if options.quick {
        command.args(QUICK);
    }
    let directory_of_this = std::env::current_exe().context("which program is this?")?;
    for (variable, name) in [("VIPDP", "vipdp"), ("DNS_LOAD", "dns-load")] {
        let path = directory_of_this.with_file_name(name);
        // Without, the script builds what it lacks.
        if path.exists() {
            command.env(variable, path);
        }
    }
    let child = part::spawn_unblocked(&mut command)
        .with_context(|| format!("cannot run {}", program.display()))?;
    let patience = (PATIENCE + KILL_PATIENCE * KILLS) * CASES.len() as u32;
    Script(child).finish(end, patience)?;
    read(&results)
}

impl Script {
    /// Waits until it has ended by itself.
    fn finish(mut self, end: &SignalFd, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.0.try_wait().context("scripts/failover")? {
                ensure!(status.success(), "scripts/failover: {status}");
                return Ok(());
            }
            let mut descriptors = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
            if poll(&mut descriptors, PollTimeout::from(PAUSE_MS)).context("cannot wait")? > 0 {
                bail!("ended by a signal");
            }
            ensure!(Instant::now() < deadline, "scripts/failover takes more than {patience:?}");
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let deadline = Instant::now() + ENDS_WITHIN;
        if matches!(self.0.try_wait(), Ok(None)) {
            // It takes its lab down. The child is not reaped yet, so that the number is still its own.
            let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        }
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            thread::sleep(Duration::from_millis(PAUSE_MS.into()));
        }
    }
}

/// The results, a visit for each kill.
fn read(path: &Path) -> Result<Vec<Visit>> {
    let text = fs::read_to_string(path).context("scripts/failover wrote nothing")?;
    let systems: Vec<System> =
        serde_json::from_str(&text).context("scripts/failover wrote something else")?;
    let mut visits = Vec::new();
    for System { system, setting, each } in systems {
        let name = case(&system, &setting);
        ensure!(CASES.contains(&name.as_str()), "what is {system}, {setting}?");
        for (round, kill) in (0..).zip(each) {
            let mut visit =
                Visit { case: name.clone(), group: Group::Failover, round, ..Visit::default() };
            let mut put = |metric: &str, value| visit.figures.insert(metric.to_owned(), value);
            put("gap_ms", kill.gap_ms);
            put("queries_lost", kill.lost);
            put("back_s", kill.back_s);
            if let Some(share) = kill.share {
                put("clients_hit_percent", 100.0 * share);
            }
            visits.push(visit);
        }
    }
    Ok(visits)
}

/// The case of a system, of which keepalived's setting is in it: `3 x 10 ms`.
fn case(system: &str, setting: &str) -> String {
    match setting.strip_prefix("3 x ") {
        Some(interval) if system == "keepalived" => {
            format!("failover-keepalived-{}", interval.replace(' ', ""))
        }
        _ => format!("failover-{}", system.replace(' ', "-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_results_are_read() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = r#"[
            {"system": "vipdp fast", "setting": "5 x 10 ms", "kills": 2, "each": [
                {"node": "n1", "back_s": 1.5, "lost": 90, "gap_ms": 47.5, "share": 0.25},
                {"node": "n2", "back_s": 1.25, "lost": 1, "gap_ms": 45, "share": null}]},
            {"system": "keepalived", "setting": "3 x 100 ms", "kills": 1, "each": [
                {"node": "n1", "back_s": 1.0, "lost": 600, "gap_ms": 310.5, "share": 1}]}]"#;
        fs::write(file.path(), text).expect("written");
        let visits = read(file.path()).expect("results");
        let found: Vec<_> = visits
            .iter()
            .map(|it| (it.case.as_str(), it.round, it.figures["gap_ms"], it.figures.len()))
            .collect();
        assert_eq!(
            found,
            [
                ("failover-vipdp-fast", 0, 47.5, 4),
                ("failover-vipdp-fast", 1, 45.0, 3),
                ("failover-keepalived-100ms", 0, 310.5, 4),
            ]
        );
        fs::write(file.path(), "[]").expect("written");
        assert!(read(file.path()).expect("nothing").is_empty());
        fs::write(file.path(), text.replace("vipdp fast", "others")).expect("written");
        assert!(read(file.path()).is_err());
    }
}
