//! A node's vipdp ends and starts again, and the connections that the node has go on: the kernel
//! keeps its sockets, and the next vipdp finds the flows in a file.
//!
//! ```text
//!   vd-client --- vd-router --- br0 -+- vd-n1
//!    60 Transfers, dns-load          +- vd-n2   } each ends, and starts again
//!    Capture: no resets              +- vd-n3
//! ```

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use vipdp_tests::capture::Capture;
use vipdp_tests::clock::Moment;
use vipdp_tests::lab::{Lab, Options};
use vipdp_tests::load::Load;
use vipdp_tests::programs::programs;
use vipdp_tests::transfer::{Transfer, UNTIL_STOPPED_S, plans};
use vipdp_tests::vipdp::{self, Config, Vipdp};
use vipdp_tests::wait::wait_until;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// How long the cluster may take for what is no failure.
const SOON: Duration = Duration::from_secs(20);

/// Resets from the service, of both families: pcap-filter(7) looks into TCP over IPv4 only.
const RESETS: &str = "(ip and tcp src port 8080 and tcp[13] & 4 != 0) \
                      or (ip6[6] == 6 and ip6[40:2] == 8080 and ip6[53] & 4 != 0)";

/// How a vipdp ends before it starts again.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It has no time for anything.
    Kill,
    /// It hands over and puts the host back.
    Stop,
    /// The same, and then what the systemd unit does after each end.
    Service,
}

fn log_of(lab: &Lab, node: &str) -> String {
    fs::read_to_string(lab.directory(node).join("vipdp.log")).expect("it has a log")
}

/// How many flows each start of the node's vipdp has found in the file.
fn flows_found(lab: &Lab, node: &str) -> Vec<usize> {
    let log = log_of(lab, node);
    let lines = log.lines().filter(|line| line.contains("the flows before go on"));
    let flows = |line: &str| line.split_once("flows=")?.1.split(' ').next()?.parse().ok();
    lines.map(|line| flows(line).unwrap_or_else(|| panic!("no number: {line}"))).collect()
}

#[track_caller]
fn restart(lab: &Lab, node: &str, end: End) {
    let begin = Instant::now();
    match end {
        End::Kill => drop(lab.topology(&format!("kill {node}"))),
        End::Stop | End::Service => drop(lab.topology(&format!("stop {node}"))),
    }
    if let End::Service = end {
        let cleanup = vipdp::run(&lab.namespace(node), &["cleanup"], &lab.config(node));
        assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
    }
    lab.topology(&format!("start {node}"));
    lab.say(&format!("{node} is back after {end:?} and {:.1} s", begin.elapsed().as_secs_f64()));
    lab.wait_shared_by(&NODES, SOON);
}

/// Restarts all nodes in turn, each in another way, while connections are under way, none of which
/// may notice.
fn connections_survive(options: &Options) {
    let lab = Lab::up(options);
    let transfers = Transfer::start_all(&lab, &plans(1, 60, UNTIL_STOPPED_S, 10));
    let resets = Capture::start(&lab.namespace("client"), "uplink", RESETS);
    for (node, end) in NODES.into_iter().zip([End::Kill, End::Stop, End::Service]) {
        let with_it = transfers.iter().filter(|one| one.node == node).count();
        assert!(with_it >= 5, "{with_it} of 60 connections are with {node}");
        restart(&lab, node, end);
        let found = flows_found(&lab, node);
        assert_eq!(found.len(), 1, "{node} was started anew once");
        assert!(found[0] >= with_it, "{found:?} flows, {with_it} connections with {node}");
    }
    Transfer::assert_all_end_well(transfers);
    assert_eq!(resets.frames().len(), 0, "connections were reset");
    lab.say("all transfers are complete");
    let report = Load::start(&lab, "--rate 2000 --duration 2").finish();
    report.assert_all_answered_once();
    assert_eq!(report.nodes.keys().map(String::as_str).collect::<Vec<_>>(), NODES);
}

#[test]
fn a_restart_breaks_no_connection() {
    connections_survive(&Options { nodes: 3, ..Options::default() });
}

#[test]
fn a_restart_breaks_no_connection_with_a_group_mac_and_answers_by_the_tap() {
    connections_survive(&Options {
        nodes: 3,
        mac: "multicast",
        egress: "tap",
        ..Options::default()
    });
}

/// The file that the flows of a vipdp with this configuration are in.
fn flow_file(config: &Config) -> PathBuf {
    config.path().with_file_name("state").join("eth0.flows")
}

/// Starts vipdp and ends it again; returns what it said of its flows.
#[track_caller]
fn said_of_flows(lab: &Lab, config: &Config) -> String {
    let vipdp = Vipdp::start(&lab.namespace("n1"), config);
    let log = vipdp.log();
    assert!(vipdp.end(Signal::SIGTERM).success());
    let of_flows = |line: &&str| line.contains("eth0.flows") && !line.contains("in memory");
    let lines: Vec<_> = log.lines().filter(of_flows).collect();
    assert_eq!(lines.len(), 1, "{log}");
    lines[0].to_owned()
}

#[test]
fn flows_of_another_key_boot_time_or_version_are_not_taken_over() {
    let lab = Lab::up(&Options { nodes: 1, spares: 1, has_vipdp: false, ..Options::default() });
    for vip in ["192.0.2.53/32", "2001:db8:53::53/128"] {
        lab.namespace("n1").run(&format!("ip address delete {vip} dev eth0"));
    }
    let config = Config::write("unicast", "direct", "adaptive");
    let file = flow_file(&config);
    let change = |at: u64, bytes: &[u8]| {
        let file = fs::OpenOptions::new().write(true).open(&file).expect("there is one");
        file.write_all_at(bytes, at).expect("root may write to it");
    };
    assert!(said_of_flows(&lab, &config).contains("a new flow table"));
    assert!(said_of_flows(&lab, &config).contains("the flows before go on"));

    let path = |name: &str| config.path().with_file_name(name);
    let lost = |why: &str| {
        let said = said_of_flows(&lab, &config);
        assert!(said.contains("the flows before are lost") && said.contains(why), "{said}");
        assert!(said.contains("WARN"), "{said}");
        assert!(said_of_flows(&lab, &config).contains("the flows before go on"));
    };
    change(16, &2_u64.to_ne_bytes());
    lost("it has version 2");
    change(40, b"11111111-2222-3333-4444-555555555555");
    lost("earlier boot");
    change(192, &(Moment::now().monotonic_ns - 130_000_000_000).to_ne_bytes());
    lost("gone for 13");
    fs::remove_file(path("cluster.key")).expect("there is one");
    let made = vipdp::command().arg("keygen").arg(path("cluster.key")).status().expect("it runs");
    assert!(made.success());
    lost("another key");
    let node = fs::read_to_string(path("node.toml")).expect("there is one");
    config.replace("node.toml", &node.replace("flows_max = 65536", "flows_max = 4096"));
    lost("room for 65536 flows");
    assert_eq!(fs::metadata(&file).expect("there is one").len(), 4096 + 8 * 4096);

    let text = fs::read_to_string(path("node.toml")).expect("there is one");
    config.replace("node.toml", &(text + "flows_file = \"none\"\n"));
    let vipdp = Vipdp::start(&lab.namespace("n1"), &config);
    assert!(!vipdp.log().contains("eth0.flows"), "{}", vipdp.log());
    assert!(vipdp.end(Signal::SIGTERM).success());
}

#[test]
fn two_nodes_never_share_a_file() {
    let lab = Lab::up(&Options { nodes: 2, ..Options::default() });
    let shared: &Path = &lab.shared_file("shared.flows");
    lab.topology("stop n1");
    lab.topology("stop n2");
    for node in ["n1", "n2"] {
        let text = fs::read_to_string(lab.config(node)).expect("the lab has written it");
        fs::write(lab.config(node), format!("flows_file = {shared:?}\n{text}")).expect("root may");
    }
    lab.topology("start n1");
    let mut command = lab.namespace("n2").command("timeout");
    let command = command.arg("20").arg(&programs().vipdp).arg("--config").arg(lab.config("n2"));
    let output = command.output().expect("`ip` runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("shared.flows: another process has its flows there"), "{said}");
    assert!(said.contains("flows_file"), "no remedy: {said}");
    wait_until(SOON, "n1 serves", || lab.is_shared_by(&["n1"]));
}
