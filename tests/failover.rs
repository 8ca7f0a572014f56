//! Nodes fail, leave and come back under load.
//!
//! ```text
//!   vd-client --- vd-router --- br0 -+- vd-n1
//!    dns-load, 2,000 queries/s       +- vd-n2   killed, drained, stalled
//!    Transfers                       +- vd-n3   stopped
//!                                    +- vd-n4
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use vipdp_tests::capture::Capture;
use vipdp_tests::clock::Moment;
use vipdp_tests::lab::{Lab, Options};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::stall::Stalled;
use vipdp_tests::transfer::{Transfer, UNTIL_STOPPED_S, plans};
use vipdp_tests::vipdp;
use vipdp_tests::wait::wait_until;

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const SURVIVORS: [&str; 3] = ["n1", "n3", "n4"];

/// Within what time of a crash all is well again, with the default profile.
const GAP_MAX_NS: u64 = 400_000_000;
/// A query that was on its way to a node when that died is lost with it.
const ON_ITS_WAY_NS: u64 = 50_000_000;
/// How long the cluster may take for what is neither a crash nor a hold.
const SOON: Duration = Duration::from_secs(10);

/// The load that the nodes are under.
const LOAD: &str = "--rate 2000";

/// Asserts that all lost queries were sent around the crash.
#[track_caller]
fn assert_lost_only_at(lab: &Lab, report: &Report, crash: Moment) {
    let crash_ns = crash.monotonic_ns;
    let after = |at_ns: u64| (at_ns as f64 - crash_ns as f64) / 1e6;
    let times: Vec<_> = report.lost.iter().map(|lost| after(lost.sent_at_ns)).collect();
    let (first, last) = (times.first(), times.last());
    lab.say(&format!(
        "{} of {} lost, the first {first:?} ms, the last {last:?} ms after the crash; the load was \
         at most {} ms late",
        times.len(),
        report.totals.sent,
        report.behind_max_ns / 1_000_000
    ));
    let window = crash_ns - ON_ITS_WAY_NS..crash_ns + GAP_MAX_NS;
    let elsewhere: Vec<_> =
        report.lost.iter().filter(|lost| !window.contains(&lost.sent_at_ns)).collect();
    assert!(elsewhere.is_empty(), "{} lost, ms after the crash: {times:?}", elsewhere.len());
}

/// The node that answers the DNS queries of a client now.
fn dns_node(lab: &Lab, transfer: &Transfer) -> String {
    let vip = if transfer.source.is_ipv4() { "192.0.2.53" } else { "2001:db8:53::53" };
    let source = transfer.source;
    let line = format!("kdig +short +timeout=2 +retry=0 -b {source} @{vip} id.server CH TXT");
    lab.namespace("client").run(&line).trim().trim_matches('"').to_owned()
}

#[test]
fn a_crash_costs_400_ms_and_a_return_costs_nothing() {
    let lab = Lab::up(&Options { hold_s: 10, ..Options::default() });
    let before_crash = Transfer::start_all(&lab, &plans(1, 40, UNTIL_STOPPED_S, 10));
    let nodes: BTreeSet<_> = before_crash.iter().map(|one| one.node.as_str()).collect();
    assert_eq!(nodes, BTreeSet::from(NODES), "40 connections leave no node out");
    let (with_killed, with_others): (Vec<_>, Vec<_>) =
        before_crash.into_iter().partition(|one| one.node == "n2");

    let load = Load::start(&lab, &format!("{LOAD} --duration 6"));
    let answered = lab.status("n2").rx();
    wait_until(SOON, "the load has been running for a second", || {
        lab.status("n2").rx() >= answered + 2_000
    });
    let crash = lab.kill("n2");
    lab.say("n2 is killed");
    lab.wait_shared_by(&SURVIVORS, SOON);
    let during_outage = Transfer::start_all(&lab, &plans(101, 40, UNTIL_STOPPED_S, 10));
    let report = load.finish();
    assert_lost_only_at(&lab, &report, crash);
    report.assert_no_duplicates();

    // Two points are four standard deviations of a third of 12,000.
    let report = Load::start(&lab, &format!("{LOAD} --duration 6")).finish();
    report.assert_all_answered_once();
    report.assert_shared_by(&SURVIVORS, 2.0);
    lab.say("the survivors share all");

    let load = Load::start(&lab, LOAD);
    lab.topology("start n2");
    lab.wait_shared_by(&NODES, Duration::from_secs(30));
    lab.say("n2 has its buckets again");
    let after_return = Load::start(&lab, "--rate 500 --duration 2").finish();
    after_return.assert_all_answered_once();
    assert!(after_return.nodes.contains_key("n2"), "{after_return:?}");
    load.stop().assert_all_answered();

    let moved = during_outage.iter().filter(|one| dns_node(&lab, one) == "n2").count();
    assert!(moved > 0, "no connection is in a bucket that moved back");
    lab.say(&format!("{moved} connections are in buckets that moved back"));
    Transfer::assert_all_end_well(with_others.into_iter().chain(during_outage).collect());
    lab.say("all transfers are complete");
    // Theirs was the node that died: nothing is promised, and they end.
    drop(with_killed);
}

#[test]
fn drain_and_stop_cost_no_query_and_drain_no_connection() {
    let lab = Lab::up(&Options::default());
    let transfers = Transfer::start_all(&lab, &plans(1, 24, UNTIL_STOPPED_S, 10));
    let load = Load::start(&lab, LOAD);
    let client = lab.namespace("client");

    for (order, sharing) in [("drain", &SURVIVORS[..]), ("undrain", &NODES[..])] {
        let output = vipdp::run(&client, &[order], &lab.config("n2"));
        assert!(output.status.success(), "{order}: {}", String::from_utf8_lossy(&output.stderr));
        lab.wait_shared_by(sharing, SOON);
        lab.say(&format!("{order} is done"));
        if order == "drain" {
            let status = lab.status("n2");
            assert_eq!((status.buckets.owned, status.node.state.as_str()), (0, "draining"));
        }
    }
    Transfer::assert_all_end_well(transfers);

    lab.topology("stop n3");
    assert!(lab.try_status("n3").is_none(), "n3 has not stopped");
    lab.wait_shared_by(&["n1", "n2", "n4"], SOON);
    lab.topology("start n3");
    lab.wait_shared_by(&NODES, SOON);
    lab.say("n3 was stopped and is back");

    load.stop().assert_all_answered();
}

#[test]
fn a_stalled_control_thread_loses_its_buckets_and_keeps_its_connections() {
    let lab = Lab::up(&Options::default());
    let transfers = Transfer::start_all(&lab, &plans(1, 24, UNTIL_STOPPED_S, 10));
    assert!(transfers.iter().any(|one| one.node == "n2"), "no connection is with n2");
    let from_n2 = format!("udp src port 53 and ether src {}", lab.mac("n2", "eth0"));
    let answers = Capture::start(&lab.namespace("sw"), "n2", &from_n2);
    let load = Load::start(&lab, LOAD);
    wait_until(SOON, "n2 answers", || answers.frames().len() > 500);

    let stalled = Stalled::stop(lab.pid("n2"), "vipdp-control");
    let stall = Moment::now();
    lab.wait_shared_by(&SURVIVORS, SOON);
    // Long enough that n2 would be seen answering.
    Load::start(&lab, "--rate 500 --duration 2").finish().assert_all_answered_once();
    let frames = answers.frames();
    let late: Vec<_> = frames
        .iter()
        .filter(|frame| frame.at_wall_ns > stall.wall_ns)
        .map(|frame| (frame.at_wall_ns - stall.wall_ns) / 1_000_000)
        .collect();
    lab.say(&format!("n2 answered until {:?} ms after the stall", late.last()));
    assert!(late.iter().all(|&ms| ms <= 400), "answers ms after the stall: {late:?}");
    let report = load.stop();
    assert_lost_only_at(&lab, &report, stall);
    report.assert_no_duplicates();

    let load = Load::start(&lab, LOAD);
    drop(stalled);
    lab.wait_shared_by(&NODES, SOON);
    load.stop().assert_all_answered();
    Load::start(&lab, "--rate 2000 --duration 1").finish().assert_all_answered_once();
    Transfer::assert_all_end_well(transfers);
}
