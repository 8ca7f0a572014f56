//! The comparison, in a few short rounds: every packet is accounted for, each row accepts its share, and nothing is left
//! behind. Its figures are nobody's business here: other programs run beside it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Held by each test: every comparison wants two cores for itself.
static CORES: Mutex<()> = Mutex::new(());

fn cores() -> MutexGuard<'static, ()> {
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn compare() -> Command {
    Command::new(env!("CARGO_BIN_EXE_compare"))
}

fn read(path: &Path) -> Value {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

fn namespaces_of(pid: u32) -> usize {
    let output = Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().filter(|line| line.starts_with(&format!("vdb-{pid}-"))).count()
}

/// One row of each kind: an XDP program, vipdp by its worker and by its program, the kernel's rules.
const ROWS: [(&str, f64); 4] = [
    ("xdp-drop", 0.0),
    ("vipdp-busy", 0.25),
    ("vipdp-offload-full", 0.25),
    ("seed-iptables-input", 0.25),
];

#[test]
fn every_packet_is_accounted_for() {
    let _cores = cores();
    let directory = tempfile::tempdir().expect("a directory");
    let rows = ROWS.iter().flat_map(|(name, _)| ["--row", name]);
    let child = compare()
        .args(rows)
        .args(["--rounds", "1", "--seconds", "0.1", "--out"])
        .arg(directory.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let pid = child.id();
    assert!(child.wait_with_output().expect("it ends").status.success());
    assert_eq!(namespaces_of(pid), 0);

    let runs = read(&directory.path().join("runs.json"));
    let runs = runs.as_array().expect("a list");
    assert_eq!(runs.len(), ROWS.len());
    for (run, (name, share)) in runs.iter().zip(ROWS) {
        assert_eq!(run["case"], name);
        for load in ["overload", "light"] {
            let count = |what: &str| run[load][what].as_u64().expect("a number");
            let (dropped, accepted) = (count("dropped"), count("accepted"));
            assert!(count("sent") > 0 && dropped + accepted > 0, "{run}");
            assert_eq!(count("sent"), dropped + accepted + count("lost"), "{run}");
            let found = accepted as f64 / (dropped + accepted) as f64;
            assert!((found - share).abs() < 0.1, "{name}: {found}");
        }
    }
    let results = read(&directory.path().join("results.json"));
    for figure in results["results"].as_array().expect("a list") {
        for value in ["median", "min", "max"] {
            assert!(figure[value].as_f64().is_some_and(|value| value >= 0.0), "{figure}");
        }
    }
    for file in ["report.md", "receive-total_pps.svg", "receive-cpu_ns_per_packet.svg"] {
        assert!(directory.path().join(file).exists(), "{file}");
    }
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    let _cores = cores();
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = compare()
        .args(["--row", "vipdp", "--seconds", "600", "--out"])
        .arg(directory.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let pid = child.id();
    let deadline = Instant::now() + Duration::from_secs(30);
    while namespaces_of(pid) < 2 {
        assert!(Instant::now() < deadline, "it made no namespaces");
        std::thread::sleep(Duration::from_millis(20));
    }
    let process = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    let status = child.wait().expect("it ends");
    assert!(!status.success(), "{status}");
    assert_eq!(namespaces_of(pid), 0);
}

/// One case of each group but failover, whose script has a lab of its own and takes a minute.
const OF_EACH_GROUP: [(&str, &[&str]); 5] = [
    ("tap-writer", &["total_pps", "accepted_pps", "read_pps"]),
    ("vipdp-accept-all-runs-gro", &["total_pps", "accepted_pps", "cpu_ns_per_packet"]),
    ("vipdp-flows-1k", &["total_pps", "accepted_pps"]),
    ("dns-vipdp", &["answers_kxdpgun_per_s", "answers_dnsperf_per_s", "cpu_ns_per_answer"]),
    ("tcp-vipdp", &["connections_per_s", "cpu_us_per_connection", "stream_bits_per_s"]),
];

#[test]
fn every_group_has_its_metrics() {
    let _cores = cores();
    let directory = tempfile::tempdir().expect("a directory");
    let status = compare()
        .args(OF_EACH_GROUP.iter().flat_map(|(case, _)| ["--row", case]))
        .args(["--quick", "--rounds", "1", "--out"])
        .arg(directory.path())
        .stdout(Stdio::null())
        .status()
        .expect("it starts");
    assert!(status.success(), "{status}");
    let results = read(&directory.path().join("results.json"));
    assert!(results["machine"]["cores"].as_u64().is_some_and(|cores| cores > 1), "{results}");
    let figures = results["results"].as_array().expect("a list");
    for (case, metrics) in OF_EACH_GROUP {
        for metric in metrics.iter().chain(&["ping_pong_ns"]) {
            let is_it = |figure: &&Value| figure["case"] == case && figure["metric"] == *metric;
            let figure = figures.iter().find(is_it);
            let figure = figure.unwrap_or_else(|| panic!("no {metric} of {case} in {results}"));
            assert!(figure["unit"].is_string(), "{figure}");
            let value = |name: &str| figure[name].as_f64().expect("a number");
            assert!(0.0 < value("min") && value("min") <= value("median"), "{figure}");
            assert!(value("median") <= value("max"), "{figure}");
        }
    }
}

#[test]
fn what_fails_is_told_and_loses_nothing_of_the_rest() {
    let _cores = cores();
    let directory = tempfile::tempdir().expect("a directory");
    // Where there is no script, nodes cannot be made to die.
    let status = compare()
        .args(["--row", "tap-writer", "--row", "failover", "--quick", "--rounds", "1", "--scripts"])
        .arg(directory.path())
        .arg("--out")
        .arg(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("it starts");
    assert!(!status.success());
    let results = read(&directory.path().join("results.json"));
    assert_eq!(results["failures"][0]["case"], "failover");
    assert_eq!(results["results"][0]["case"], "tap-writer");
    let report = fs::read_to_string(directory.path().join("report.md")).expect("a report");
    assert!(report.contains("- failover, round 1: "), "{report}");
}
