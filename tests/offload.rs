//! A cluster whose XDP programs decide by themselves serves like one whose workers decide all.
//!
//! ```text
//!   vd-client --- vd-router --- br0 -+- vd-n1   the XDP program drops what is others',
//!    dns-load                        +- vd-n2   and with "full" passes UDP to the kernel;
//!    Transfers                       +- vd-n3   the worker has the rest
//!                                    +- vd-n4
//! ```

use std::time::Duration;

use vipdp_tests::lab::{Lab, Options};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::status::Offload;
use vipdp_tests::transfer::{Transfer, UNTIL_STOPPED_S, plans};
use vipdp_tests::vipdp;
use vipdp_tests::wait::wait_until;

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const SURVIVORS: [&str; 3] = ["n1", "n3", "n4"];
/// How long the cluster may take for anything.
const SOON: Duration = Duration::from_secs(20);
/// Within what time of a crash all is well again, with the default profile; and how long before it
/// a query may have been sent that was on its way to the node.
const GAP_MAX_NS: u64 = 400_000_000;
const ON_ITS_WAY_NS: u64 = 50_000_000;
/// Queries of one measurement of the shares.
const QUERIES: u64 = 6_000;

fn offload(lab: &Lab, node: &str) -> Offload {
    lab.status(node).offload.expect("the offload is on")
}

/// Waits until the program of every node drops what is others': it is told so a second or two after
/// the buckets have come to rest. Of a load, three packets in four are.
fn wait_until_others_are_dropped(lab: &Lab) {
    let load = Load::start(lab, "--rate 1000");
    for node in NODES {
        let counted = || (lab.status(node).rx(), offload(lab, node).dropped_by_offload);
        let mut before = counted();
        wait_until(SOON, "the program drops what is others'", || {
            let now = counted();
            let (received, dropped) = (now.0 - before.0, now.1 - before.1);
            let is_over = received >= 200;
            if is_over {
                before = now;
            }
            is_over && 3 * dropped > 2 * received
        });
    }
    load.stop().assert_all_answered_once();
}

/// Every query is answered once, the nodes' shares are even, and the programs have done their part.
fn shares_queries(lab: &Lab, passes: bool) {
    let counted = || NODES.map(|node| offload(lab, node));
    let before = counted();
    let report = Load::start(lab, &format!("--queries {QUERIES} --distinct")).finish();
    report.assert_all_answered_once();
    assert_eq!(report.totals.sent, QUERIES);
    // Two points of a hundred are four standard deviations.
    report.assert_shared_by(&NODES, 2.0);
    let mut passed = 0;
    for ((node, before), after) in NODES.iter().zip(&before).zip(&counted()) {
        let others = QUERIES - report.nodes[*node].answers;
        let dropped = after.dropped_by_offload - before.dropped_by_offload;
        // Not those of buckets where a connection is left.
        assert!(dropped > others * 8 / 10, "{node} dropped {dropped} of {others}");
        passed += after.passed_by_offload - before.passed_by_offload;
    }
    let wanted = if passes { QUERIES * 9 / 10..=QUERIES } else { 0..=0 };
    assert!(wanted.contains(&passed), "{passed} of {QUERIES} passed");
}

/// Draining moves all of a node's buckets and back, and costs no query and no connection.
fn drains(lab: &Lab) {
    let transfers = Transfer::start_all(lab, &plans(1, 24, UNTIL_STOPPED_S, 10));
    assert!(transfers.iter().any(|one| one.node == "n2"), "no connection is with n2");
    let load = Load::start(lab, "--rate 2000");
    let client = lab.namespace("client");
    for (order, sharing) in [("drain", &SURVIVORS[..]), ("undrain", &NODES[..])] {
        let output = vipdp::run(&client, &[order], &lab.config("n2"));
        assert!(output.status.success(), "{order}: {}", String::from_utf8_lossy(&output.stderr));
        lab.wait_shared_by(sharing, SOON);
        // Until what was released is dropped: its connections must not be.
        let lines: Vec<_> = transfers.iter().map(Transfer::lines).collect();
        wait_until(SOON, "three seconds of lines", || {
            transfers
                .iter()
                .zip(&lines)
                .all(|(one, lines)| one.is_over() || one.lines() >= lines + 30)
        });
        lab.say(&format!("{order} is done"));
    }
    load.stop().assert_all_answered();
    Transfer::assert_all_end_well(transfers);
}

/// A node that is killed costs what was sent around that moment, and the connections that it had.
fn survives_a_kill(lab: &Lab) {
    let transfers = Transfer::start_all(lab, &plans(101, 24, UNTIL_STOPPED_S, 10));
    let (with_killed, with_others): (Vec<_>, Vec<_>) =
        transfers.into_iter().partition(|one| one.node == "n2");
    let dropped = offload(lab, "n1").dropped_by_offload;
    let load = Load::start(lab, "--rate 2000");
    wait_until(SOON, "the load flows", || offload(lab, "n1").dropped_by_offload > dropped + 1_000);
    let crash = lab.kill("n2");
    lab.say("n2 is killed");
    lab.wait_shared_by(&SURVIVORS, SOON);
    Load::start(lab, "--rate 500 --duration 1").finish().assert_all_answered_once();
    let report: Report = load.stop();
    report.assert_no_duplicates();
    let window = crash.monotonic_ns - ON_ITS_WAY_NS..crash.monotonic_ns + GAP_MAX_NS;
    let elsewhere = report.lost.iter().filter(|lost| !window.contains(&lost.sent_at_ns)).count();
    assert_eq!(elsewhere, 0, "{:?} lost, of {:?}", report.lost.len(), report.totals);

    let load = Load::start(lab, "--rate 2000");
    lab.topology("start n2");
    lab.wait_shared_by(&NODES, SOON);
    lab.say("n2 has its buckets again");
    load.stop().assert_all_answered();
    Transfer::assert_all_end_well(with_others);
    // Theirs was the node that died: nothing is promised, and they end.
    drop(with_killed);
}

#[test]
fn a_cluster_that_drops_in_the_program_serves_all_and_hands_over() {
    let lab = Lab::up(&Options { offload: "drop", ..Options::default() });
    wait_until_others_are_dropped(&lab);
    lab.say("others' are dropped");
    shares_queries(&lab, false);
    lab.say("queries are shared");
    drains(&lab);
}

#[test]
fn a_cluster_that_passes_in_the_program_serves_all_and_survives() {
    let lab = Lab::up(&Options { offload: "full", ..Options::default() });
    wait_until_others_are_dropped(&lab);
    lab.say("others' are dropped");
    shares_queries(&lab, true);
    lab.say("queries are shared");
    drains(&lab);
    survives_a_kill(&lab);
}
