//! A pair that asks for its router (`partition = "gateway"`), cut in every way.
//!
//! ```text
//!                                    +- vd-n1
//!   vd-client --- vd-router --- br0 -+
//!    dns-load, 2,000 queries/s       +- vd-n2
//!
//!   n1 and the router do not hear each other: both ports isolated, n2 hears both
//!   n1 hears nobody: its port down
//!   nobody hears the router: the router's port down
//! ```

use std::fs;
use std::time::Duration;

use vipdp_tests::clock::Moment;
use vipdp_tests::lab::{BUCKETS, Lab, Options};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::vipdp;
use vipdp_tests::wait::wait_until;

const NODES: [&str; 2] = ["n1", "n2"];
/// How long the cluster may take for what is neither a failure nor a hold.
const SOON: Duration = Duration::from_secs(20);
/// Within what time of a fault all is well again: D, 250 ms, until it is seen, as much again for
/// the candidacy, and what a busy machine with fewer cores than nodes takes.
const GAP_MAX_NS: u64 = 800_000_000;
/// A query that was on its way to a node as it failed is lost with it.
const ON_ITS_WAY_NS: u64 = 50_000_000;
const RATE: u64 = 2_000;

fn pair() -> Lab {
    let lab = Lab::up(&Options { nodes: 2, partition: "gateway", ..Options::default() });
    for node in NODES {
        assert_eq!(gateway(&lab, node), "reached", "{node}");
    }
    lab
}

/// Whether the node says that it reaches the router.
#[track_caller]
fn gateway(lab: &Lab, node: &str) -> String {
    lab.status(node).node.gateway.expect("the node asks for the router")
}

/// Whether the node is fenced and serves nothing.
#[track_caller]
fn is_fenced(lab: &Lab, node: &str) -> bool {
    let status = lab.status(node);
    status.node.state == "fenced" && status.buckets.owned == 0
}

/// Whether the node serves everything.
#[track_caller]
fn serves_all(lab: &Lab, node: &str) -> bool {
    lab.status(node).buckets.owned == BUCKETS
}

/// Asserts that both share all buckets, and that each query of a second has one answer.
#[track_caller]
fn assert_both_serve(lab: &Lab) {
    lab.wait_shared_by(&NODES, SOON);
    let report = Load::start(lab, "--rate 2000 --duration 1").finish();
    report.assert_all_answered_once();
    assert_eq!(report.nodes.keys().map(String::as_str).collect::<Vec<_>>(), NODES);
}

/// Asserts that each query of a second has one answer, from n2.
#[track_caller]
fn assert_n2_serves_all(lab: &Lab) {
    let report = Load::start(lab, "--rate 2000 --duration 1").finish();
    report.assert_all_answered_once();
    assert_eq!(report.nodes.keys().map(String::as_str).collect::<Vec<_>>(), ["n2"]);
}

/// Asserts that queries were lost only around the fault, and none was answered twice.
#[track_caller]
fn assert_lost_only_after(lab: &Lab, report: &Report, what: &str, fault: Moment) {
    let at = fault.monotonic_ns;
    let ms_after: Vec<_> =
        report.lost.iter().map(|lost| (lost.sent_at_ns as f64 - at as f64) / 1e6).collect();
    lab.say(&format!(
        "{what}: {} of {} lost, {:?} to {:?} ms after it",
        ms_after.len(),
        report.totals.sent,
        ms_after.first(),
        ms_after.last()
    ));
    let window = at - ON_ITS_WAY_NS..at + GAP_MAX_NS;
    let elsewhere = report.lost.iter().filter(|lost| !window.contains(&lost.sent_at_ns)).count();
    assert_eq!(elsewhere, 0, "{what}: lost, ms after it: {ms_after:?}");
    assert!(!ms_after.is_empty(), "{what}: the fault hit nobody");
    report.assert_no_duplicates();
}

/// Lets n1 and the router hear each other, or not; n2 hears both.
fn isolate(lab: &Lab, isolated: bool) {
    let flag = if isolated { "on" } else { "off" };
    for port in ["n1", "router"] {
        lab.namespace("sw").run(&format!("ip link set {port} type bridge_slave isolated {flag}"));
    }
}

#[test]
fn a_node_that_does_not_reach_the_router_leaves_all_to_the_one_that_does() {
    let lab = pair();
    assert_both_serve(&lab);

    let load = Load::start_flowing(&lab, RATE, "n2");
    let fault = Moment::now();
    isolate(&lab, true);
    wait_until(SOON, "n1 is fenced", || is_fenced(&lab, "n1"));
    wait_until(SOON, "n2 serves all", || serves_all(&lab, "n2"));
    assert_eq!((gateway(&lab, "n1"), gateway(&lab, "n2")), ("unreached".into(), "reached".into()));
    assert_n2_serves_all(&lab);
    assert_lost_only_after(&lab, &load.stop(), "n1 without the router", fault);

    let load = Load::start_flowing(&lab, RATE, "n2");
    isolate(&lab, false);
    lab.wait_shared_by(&NODES, SOON);
    load.stop().assert_all_answered();
    assert_both_serve(&lab);
}

#[test]
fn a_node_whose_link_is_cut_serves_nothing_and_comes_back_unnoticed() {
    let lab = pair();
    let switch = lab.namespace("sw");

    let load = Load::start_flowing(&lab, RATE, "n2");
    let fault = Moment::now();
    switch.run("ip link set n1 down");
    wait_until(SOON, "n2 serves all", || serves_all(&lab, "n2"));
    wait_until(SOON, "n1 is fenced", || is_fenced(&lab, "n1"));
    assert_n2_serves_all(&lab);
    assert_lost_only_after(&lab, &load.stop(), "n1's link down", fault);
    assert!(is_fenced(&lab, "n1"));

    // Without the guard, both would serve everything here for a moment.
    let load = Load::start_flowing(&lab, RATE, "n2");
    switch.run("ip link set n1 up");
    lab.wait_shared_by(&NODES, SOON);
    load.stop().assert_all_answered();
    assert_both_serve(&lab);
}

/// Writes the cluster's file with `generation` and `guard` in place of the lines that say so, and
/// has the nodes read it, as far as they take it; what they say.
#[track_caller]
fn reload(lab: &Lab, generation: u32, guard: &str) -> Vec<Result<(), String>> {
    let path = lab.shared_file("cluster.toml");
    let text = fs::read_to_string(&path).expect("the lab has one");
    let stays = |line: &&str| {
        !["generation =", "partition =", "gateway ="].iter().any(|key| line.starts_with(key))
    };
    let rest: Vec<_> = text.lines().filter(stays).collect();
    fs::write(&path, format!("generation = {generation}\n{guard}\n{}\n", rest.join("\n")))
        .expect("root may write it");
    let order = |node| {
        let output = vipdp::run(&lab.namespace(node), &["reload"], &lab.config(node));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    };
    NODES.iter().map(|node| order(*node)).collect()
}

#[test]
fn the_guard_is_set_up_changed_and_given_up_under_load() {
    let lab = Lab::up(&Options { nodes: 2, ..Options::default() });
    assert_eq!(lab.status("n1").node.gateway, None);
    let load = Load::start_flowing(&lab, RATE, "n2");
    let goes_by = |generation, gateway: Option<&str>| {
        wait_until(SOON, &format!("both go by generation {generation}"), || {
            NODES.iter().all(|node| {
                let status = lab.status(node).node;
                status.generation == generation && status.gateway.as_deref() == gateway
            })
        });
    };

    // One that nobody has would leave nobody to serve.
    for said in reload(&lab, 2, "partition = \"gateway\"\ngateway = [\"192.0.2.99\"]") {
        let said = said.expect_err("the router does not answer");
        assert!(said.contains("gateway: found [192.0.2.99], of which none answers"), "{said}");
    }
    let guards = [
        "partition = \"gateway\"\ngateway = [\"2001:db8:53::1\"]",
        "gateway = [\"192.0.2.99\", \"192.0.2.1\"]",
    ];
    for (generation, guard) in (3..).zip(guards) {
        assert_eq!(reload(&lab, generation, guard), [Ok(()), Ok(())]);
        goes_by(generation, Some("reached"));
    }
    assert_eq!(reload(&lab, 5, "partition = \"none\""), [Ok(()), Ok(())]);
    goes_by(5, None);
    load.stop().assert_all_answered_once();
    assert_both_serve(&lab);
}

#[test]
fn without_a_router_nobody_serves_until_it_is_back() {
    let lab = pair();
    let switch = lab.namespace("sw");
    switch.run("ip link set router down");
    wait_until(SOON, "both are fenced", || NODES.iter().all(|node| is_fenced(&lab, node)));
    for node in NODES {
        assert_eq!(gateway(&lab, node), "unreached");
        let log = fs::read_to_string(lab.directory(node).join("vipdp.log")).expect("it logs");
        assert!(log.contains("Fenced(true)"), "{node} raises no alarm:\n{log}");
    }
    switch.run("ip link set router up");
    assert_both_serve(&lab);
}
