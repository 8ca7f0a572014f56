//! Faults that nobody plans for, and changes that somebody does, under load.
//!
//! ```text
//!   vd-client --- vd-router --- br0 -+- vd-n1
//!    dns-load, 2,000 queries/s       +- vd-n2   killed, link cut; its slot used twice
//!                                    +- vd-n3   frozen, muted, deafened
//!                                    +- vd-n4   }  or spare hosts, for a node more
//!                                    +- vd-n5   }  or for clusters of others
//! ```
//!
//! D, the detection time, is 250 ms; h is 50 ms: the default profile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use vipdp_tests::capture::Capture;
use vipdp_tests::clock::Moment;
use vipdp_tests::lab::{BUCKETS, Lab, Options};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::status::Status;
use vipdp_tests::vipdp::{self, Config, Vipdp};
use vipdp_tests::wait::wait_until;

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const WITHOUT_N2: [&str; 3] = ["n1", "n3", "n4"];
const WITHOUT_N3: [&str; 3] = ["n1", "n2", "n4"];

const MS: u64 = 1_000_000;
/// D.
const DETECTION: Duration = Duration::from_millis(250);
/// Within what time of a fault all is well again: L1 of the protocol, D + 3h, and what a scheduler
/// takes on a machine with fewer cores than nodes.
const GAP_MAX_NS: u64 = 450 * MS;
/// A query that was on its way to a node as it failed is lost with it.
const ON_ITS_WAY_NS: u64 = 50 * MS;
/// How long the cluster may take for what is neither a failure nor a hold.
const SOON: Duration = Duration::from_secs(10);
/// Queries a second.
const RATE: u64 = 2_000;
/// Where a heartbeat names the key that it is signed with.
const KEY_ID_AT: usize = 6;

/// Asserts that every lost query was sent within `GAP_MAX_NS` after `fault`, and that no more than
/// `twice_max` queries were answered twice.
#[track_caller]
fn assert_lost_only_after(lab: &Lab, report: &Report, what: &str, fault: Moment, twice_max: u64) {
    let at = fault.monotonic_ns;
    let times_ms: Vec<_> =
        report.lost.iter().map(|lost| (lost.sent_at_ns as f64 - at as f64) / 1e6).collect();
    let totals = report.totals;
    lab.say(&format!(
        "{what}: {} of {} lost, {:?} to {:?} ms after it; {} answered twice; the load was at most \
         {} ms late",
        totals.lost,
        totals.sent,
        times_ms.first(),
        times_ms.last(),
        totals.duplicates,
        report.behind_max_ns / MS
    ));
    let window = at - ON_ITS_WAY_NS..at + GAP_MAX_NS;
    let elsewhere = report.lost.iter().filter(|lost| !window.contains(&lost.sent_at_ns)).count();
    assert_eq!(elsewhere, 0, "{what}: lost, ms after it: {times_ms:?}");
    assert_eq!(totals.failures, 0, "{what}: {totals:?}");
    assert!(totals.duplicates <= twice_max, "{what}: {totals:?}");
}

/// Asserts that nodes share all buckets, and that each of a second's queries has one answer from
/// one of them.
#[track_caller]
fn assert_served_by(lab: &Lab, nodes: &[&str]) {
    assert!(lab.is_shared_by(nodes), "{nodes:?} do not share the buckets");
    let report = Load::start(lab, "--rate 2000 --duration 1").finish();
    report.assert_all_answered_once();
    assert_eq!(report.nodes.keys().map(String::as_str).collect::<Vec<_>>(), nodes);
}

/// How often any of `nodes` took or gave up buckets since its start.
fn ownership_changes(lab: &Lab, nodes: &[&str]) -> usize {
    let changes = |node: &&str| {
        let log = log_of(lab, node);
        log.lines().filter(|line| line.contains("claimed") || line.contains("released")).count()
    };
    nodes.iter().map(changes).sum()
}

fn log_of(lab: &Lab, node: &str) -> String {
    fs::read_to_string(lab.directory(node).join("vipdp.log")).unwrap_or_default()
}

/// Lets the whole vipdp of a node stand still for so long; returns when that began.
#[track_caller]
fn freeze(lab: &Lab, node: &str, length: Duration) -> Moment {
    let pid = lab.pid(node);
    let moment = Moment::now();
    kill(pid, Signal::SIGSTOP).expect("it runs");
    // The length of the pause is the fault itself.
    std::thread::sleep(length);
    kill(pid, Signal::SIGCONT).expect("it runs");
    moment
}

/// Gives every named node, one after the other, the order to read its configuration.
#[track_caller]
fn reload(lab: &Lab, nodes: &[&str]) {
    for node in nodes {
        let output = vipdp::run(&lab.namespace("client"), &["reload"], &lab.config(node));
        assert!(output.status.success(), "{node}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Writes the next generation of the cluster's file, which all nodes of a lab read.
#[track_caller]
fn change_cluster(lab: &Lab, change: impl FnOnce(String) -> String) {
    let path = lab.shared_file("cluster.toml");
    let text = fs::read_to_string(&path).expect("the lab has one");
    let next = text.replace("generation = 1\n", "generation = 2\n");
    assert_ne!(text, next, "it is the first generation");
    fs::write(path, change(next)).expect("root may write it");
}

/// The generation that the node goes by.
#[track_caller]
fn generation(lab: &Lab, node: &str) -> u64 {
    let output =
        vipdp::run(&lab.namespace("client"), &["status", "--json"], &lab.config(node)).stdout;
    let status: serde_json::Value = serde_json::from_slice(&output).expect("JSON");
    status["node"]["generation"].as_u64().expect("a number")
}

#[test]
fn a_killed_node_costs_a_gap_and_a_frozen_one_answers_nobody_late() {
    let lab = Lab::up(&Options::default());

    let load = Load::start_flowing(&lab, RATE, "n1");
    let fault = lab.kill("n2");
    lab.wait_shared_by(&WITHOUT_N2, SOON);
    assert_lost_only_after(&lab, &load.stop(), "n2 killed", fault, 0);
    assert_served_by(&lab, &WITHOUT_N2);
    let load = Load::start_flowing(&lab, RATE, "n1");
    lab.topology("start n2");
    lab.wait_shared_by(&NODES, SOON);
    load.stop().assert_all_answered();

    // Shorter than what a lease has left at least, D - 2 h: nobody notices but those who wait for an answer.
    let changes = ownership_changes(&lab, &NODES);
    let load = Load::start_flowing(&lab, RATE, "n1");
    freeze(&lab, "n3", DETECTION * 4 / 10);
    assert_served_by(&lab, &NODES);
    load.stop().assert_all_answered_once();
    assert_eq!(ownership_changes(&lab, &NODES), changes, "a lease outlives the freeze");

    // Longer: what waited for the frozen node has had its answer from others, or never gets one.
    let load = Load::start_flowing(&lab, RATE, "n1");
    let fault = freeze(&lab, "n3", DETECTION * 3);
    wait_until(SOON, "n3 has found out", || log_of(&lab, "n3").contains("Late"));
    lab.wait_shared_by(&NODES, SOON);
    assert_lost_only_after(&lab, &load.stop(), "n3 frozen for 3 D", fault, RATE / 50);
    assert!(ownership_changes(&lab, &NODES) > changes, "n3 was frozen for 3 D");
    assert_served_by(&lab, &NODES);
}

#[test]
fn a_link_that_goes_down_and_up_costs_a_gap_and_then_nothing() {
    let lab = Lab::up(&Options::default());
    let switch = lab.namespace("sw");

    let load = Load::start_flowing(&lab, RATE, "n1");
    let fault = Moment::now();
    switch.run("ip link set n2 down");
    lab.wait_shared_by(&WITHOUT_N2, SOON);
    assert_lost_only_after(&lab, &load.stop(), "n2's link down", fault, 0);
    assert_served_by(&lab, &WITHOUT_N2);
    wait_until(SOON, "n2 serves nobody", || is_fenced(&lab, "n2"));

    // It listens first: nobody is answered twice but for the move of its buckets.
    let load = Load::start_flowing(&lab, RATE, "n1");
    let fault = Moment::now();
    switch.run("ip link set n2 up");
    lab.wait_shared_by(&NODES, SOON);
    let report = load.stop();
    assert_lost_only_after(&lab, &report, "n2's link up", fault, RATE / 50);
    assert_eq!(report.totals.lost, 0, "a link that comes up costs nobody anything");
    assert_served_by(&lab, &NODES);

    // Pulled out while it works: it neither crashes nor takes anything, until it is started anew.
    let load = Load::start_flowing(&lab, RATE, "n1");
    let (fault, pid) = (Moment::now(), lab.pid("n2"));
    lab.namespace("n2").run("ip link delete eth0");
    lab.wait_shared_by(&WITHOUT_N2, SOON);
    wait_until(SOON, "n2 serves nobody", || is_fenced(&lab, "n2"));
    assert_lost_only_after(&lab, &load.stop(), "n2's NIC pulled out", fault, 0);
    assert_served_by(&lab, &WITHOUT_N2);
    assert_eq!(lab.pid("n2"), pid);
    assert!(log_of(&lab, "n2").contains("the NIC is gone"), "{}", log_of(&lab, "n2"));
}

/// Whether the node is fenced and serves nothing.
#[track_caller]
fn is_fenced(lab: &Lab, node: &str) -> bool {
    let status = lab.status(node);
    status.node.state == "fenced" && status.buckets.owned == 0
}

#[test]
fn heartbeats_lost_one_way_leave_every_bucket_one_owner() {
    let lab = Lab::up(&Options::default());
    let n3 = lab.namespace("n3");
    let cut = |hook: &str| {
        n3.run("nft add table inet fault");
        let chain = format!("{{ type filter hook {hook} priority 0; policy accept; }}");
        n3.run(&format!("nft add chain inet fault cut {chain}"));
        let fault = Moment::now();
        n3.run("nft add rule inet fault cut udp dport 5360 drop");
        fault
    };
    let serves_nothing = || lab.status("n3").buckets.owned == 0;

    // It hears that the others take it for dead.
    let load = Load::start_flowing(&lab, RATE, "n1");
    let fault = cut("output");
    lab.wait_shared_by(&WITHOUT_N3, SOON);
    wait_until(SOON, "the mute node serves nothing", serves_nothing);
    assert_lost_only_after(&lab, &load.stop(), "n3 mute", fault, RATE / 5);
    assert_served_by(&lab, &WITHOUT_N3);
    let load = Load::start_flowing(&lab, RATE, "n1");
    n3.run("nft delete table inet fault");
    lab.wait_shared_by(&NODES, SOON);
    load.stop().assert_all_answered();

    // One that hears nothing knows of nobody: with `partition = "none"` it would serve all.
    change_cluster(&lab, |text| text.replace("\"none\"", "\"majority\""));
    reload(&lab, &NODES);
    wait_until(SOON, "the guard is in force", || NODES.iter().all(|n| generation(&lab, n) == 2));
    let load = Load::start_flowing(&lab, RATE, "n1");
    let fault = cut("input");
    lab.wait_shared_by(&WITHOUT_N3, SOON);
    wait_until(SOON, "the deaf node is fenced", || lab.status("n3").node.state == "fenced");
    assert_eq!(lab.status("n3").buckets.owned, 0);
    assert_lost_only_after(&lab, &load.stop(), "n3 deaf", fault, RATE / 5);
    assert_served_by(&lab, &WITHOUT_N3);
    let load = Load::start_flowing(&lab, RATE, "n1");
    n3.run("nft delete table inet fault");
    lab.wait_shared_by(&NODES, SOON);
    load.stop().assert_all_answered();
    assert_served_by(&lab, &NODES);
}

#[test]
fn two_nodes_with_one_slot_never_serve_together_for_long() {
    const WITH_N5: [&str; 4] = ["n1", "n3", "n4", "n5"];
    let lab = Lab::up(&Options { spares: 1, ..Options::default() });
    let file = lab.config("n5");
    let text = fs::read_to_string(&file).expect("the lab has written it");
    fs::write(&file, text.replace("slot = 4\n", "slot = 1\n")).expect("root may write it");

    let load = Load::start_flowing(&lab, RATE, "n1");
    let fault = Moment::now();
    lab.topology("start n5");
    wait_until(SOON, "both raise an alarm", || {
        ["n2", "n5"].iter().all(|node| log_of(&lab, node).contains("DuplicateSlot"))
    });
    let owned = |node| lab.status(node).buckets.owned;
    // The others go by the later start, which has proven to be a present one.
    wait_until(SOON, "one of the two serves its share, the other nothing", || {
        lab.is_shared_by(&WITH_N5) && owned("n2") == 0
    });
    assert!(lab.status("n2").heartbeats.rejected["duplicate-slot"] > 0);
    assert_lost_only_after(&lab, &load.stop(), "n5 in n2's slot", fault, RATE / 5);
    assert_served_by(&lab, &WITH_N5);

    let load = Load::start_flowing(&lab, RATE, "n1");
    lab.topology("stop n5");
    lab.wait_shared_by(&NODES, SOON);
    load.stop().assert_all_answered();
    assert_served_by(&lab, &NODES);
}

/// A cluster of one, with VIP `vip`.
fn stranger(id: u16, vip: &str) -> Config {
    let config = Config::write("unicast", "direct", "adaptive");
    let cluster = format!(
        r#"
        id = {id}
        generation = 1
        mode = "shared-mac"
        vips = ["{vip}"]
        key_file = "cluster.key"
        partition = "none"
        [[member]]
        slot = 0
        name = "alone"
        "#
    );
    config.replace("cluster.toml", &cluster);
    config
}

#[test]
fn clusters_on_one_segment_leave_each_other_alone() {
    const NODES: [&str; 3] = ["n1", "n2", "n3"];
    // The strangers, who are not of the lab's making, run with AF_XDP.
    let options = Options { nodes: 3, spares: 2, wants_kernel_nic: true, ..Options::default() };
    let lab = Lab::up(&options);
    let changes = ownership_changes(&lab, &NODES);
    let joined = NODES.map(|node| lab.status(node).heartbeats.rejected);
    let load = Load::start_flowing(&lab, RATE, "n1");

    // One with the same id and another key, one with the same key and another id.
    let other_key = stranger(53, "192.0.2.54");
    let other_id = stranger(54, "192.0.2.55");
    let key = fs::read_to_string(lab.shared_file("cluster.key")).expect("the lab has one");
    other_id.replace("cluster.key", &key);
    let other_key = Vipdp::start(&lab.namespace("n4"), &other_key);
    let other_id = Vipdp::start(&lab.namespace("n5"), &other_id);

    let arguments = "--server 192.0.2.54 --server 192.0.2.55 --rate 1000 --duration 2";
    let all = Load::start(&lab, arguments).finish();
    let totals = all.totals;
    assert_eq!((totals.answered, totals.duplicates), (totals.sent, 0), "{totals:?}");
    assert_eq!(all.nodes.len(), 5, "every cluster answers for its own VIP: {:?}", all.nodes);

    let rejects = |status: Option<Status>, before: &BTreeMap<String, u64>| -> Vec<String> {
        let counts = status.expect("it runs").heartbeats.rejected.into_iter();
        let more =
            counts.filter(|(reason, count)| *count > before.get(reason).copied().unwrap_or(0));
        more.map(|(reason, _)| reason).collect()
    };
    for (node, before) in NODES.iter().zip(&joined) {
        assert_eq!(rejects(lab.try_status(node), before), ["bad-mac", "other-cluster"], "{node}");
    }
    let none = BTreeMap::new();
    assert_eq!(rejects(other_key.status(), &none), ["bad-mac"]);
    assert_eq!(rejects(other_id.status(), &none), ["bad-mac", "other-cluster"]);
    for alone in [other_key, other_id] {
        assert_eq!(alone.status().expect("it runs").buckets.owned, BUCKETS);
        assert!(alone.end(Signal::SIGTERM).success());
    }
    load.stop().assert_all_answered_once();
    assert_eq!(ownership_changes(&lab, &NODES), changes);
    assert_served_by(&lab, &NODES);
}

#[test]
fn a_fifth_node_joins_under_load_and_no_query_is_lost() {
    const ALL: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
    let lab = Lab::up(&Options { spares: 1, ..Options::default() });
    let load = Load::start_flowing(&lab, RATE, "n1");
    change_cluster(&lab, |text| {
        text + "\n[[member]]\nslot = 4\nname = \"n5\"\naddress = \"192.0.2.15\"\nweight = 1\n"
    });

    // Some have heard of the new node before it starts, the others afterwards.
    reload(&lab, &NODES[..2]);
    assert_eq!(generation(&lab, "n1"), 1, "not before all have the new generation");
    lab.topology("start n5");
    reload(&lab, &NODES[2..]);
    lab.wait_shared_by(&ALL, SOON);
    for node in ALL {
        assert_eq!(generation(&lab, node), 2, "{node}");
    }
    assert_served_by(&lab, &ALL);
    load.stop().assert_all_answered();
    Load::start(&lab, "--rate 2000 --duration 5").finish().assert_shared_by(&ALL, 2.0);
}

#[test]
fn keys_are_rotated_under_load_and_nothing_changes_hands() {
    let lab = Lab::up(&Options::default());
    let file = lab.shared_file("cluster.key");
    let first = fs::read_to_string(&file).expect("the lab has made it");
    let changes = ownership_changes(&lab, &NODES);
    let load = Load::start_flowing(&lab, RATE, "n1");

    let second = format!("2 {}", "5e".repeat(32));
    let is_old = |line: &&str| line.starts_with("1 ");
    let without_old: Vec<_> = first.lines().filter(|line| !is_old(line)).collect();
    for text in [
        format!("{first}\n{second}\n"),
        format!("{first}\n{second} send\n"),
        format!("{}\n{second}\n", without_old.join("\n")),
    ] {
        fs::write(&file, text).expect("root may write it");
        let heard: Vec<_> = NODES.map(|node| lab.status(node).heartbeats.received).into();
        reload(&lab, &NODES);
        // 3 others, at least 20 a second: over D of what was sent with the keys of this step.
        wait_until(SOON, "all hear each other", || {
            let now = NODES.map(|node| lab.status(node).heartbeats.received);
            now.iter().zip(&heard).all(|(now, before)| *now >= before + 30)
        });
    }

    let heartbeats = Capture::start(&lab.namespace("sw"), "router", "udp port 5360");
    let key_ids = || -> BTreeSet<u8> {
        heartbeats.frames().iter().map(|frame| frame.udp_payload()[KEY_ID_AT]).collect()
    };
    wait_until(SOON, "heartbeats pass", || heartbeats.frames().len() >= NODES.len() * 4);
    assert_eq!(key_ids(), BTreeSet::from([2]), "the keys that heartbeats are signed with");
    for node in NODES {
        let rejected = lab.status(node).heartbeats.rejected;
        assert_eq!((rejected["unknown-key"], rejected["bad-mac"]), (0, 0), "{node}");
    }
    load.stop().assert_all_answered_once();
    assert_eq!(ownership_changes(&lab, &NODES), changes);
    assert_served_by(&lab, &NODES);
}
