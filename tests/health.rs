//! Services fail, come back and flap under vipdp's checks.
//!
//! ```text
//!   vdtest-client --- vdtest-router --- br0 -+- vdtest-n1   knot, vipdp, two checks
//!    dns-load, 1,000 queries/s               +- vdtest-n2   likewise: its knot stops, starts, flaps
//!                                            +- vdtest-n3   likewise
//! ```

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use vipdp_tests::clock::Moment;
use vipdp_tests::lab::{Lab, Options};
use vipdp_tests::load::Load;
use vipdp_tests::status::Check;
use vipdp_tests::wait::wait_until;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const OTHERS: [&str; 2] = ["n1", "n3"];

/// How long what follows from a change may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Within what time of a service's end its clients are served by others: two turns of a tenth of a
/// second, one that was under way, the way of the buckets; and a busy machine.
const GAP_MAX_NS: u64 = 3_000_000_000;

/// The second one is ill if the command gets any socket of vipdp's: that of a receive queue would
/// keep the queue from a vipdp that is restarted meanwhile.
const CHECKS: &str = r#"
[[check]]
name = "dns"
type = "dns"
query_name = "example."
query_type = "SOA"
interval_ms = 100
timeout_ms = 100
rise = 2
fall = 2

[[check]]
name = "descriptors"
type = "command"
command = ["/bin/sh", "-c", "! ls -l /proc/self/fd | grep socket"]
timeout_ms = 1000
rise = 1
fall = 1
"#;

/// A lab whose nodes have checks, all of them up.
fn lab_with_checks() -> Lab {
    let lab = Lab::up(&Options { nodes: 3, ..Options::default() });
    for node in NODES {
        let file = OpenOptions::new().append(true).open(lab.config(node));
        file.and_then(|mut file| file.write_all(CHECKS.as_bytes())).expect("the file is there");
        lab.topology(&format!("stop {node}"));
        lab.topology(&format!("start {node}"));
    }
    wait_until(SOON, "all nodes are well", || NODES.iter().all(|node| is_well(&lab, node)));
    lab.wait_shared_by(&NODES, SOON);
    lab.say("all nodes have checks");
    lab
}

fn is_well(lab: &Lab, node: &str) -> bool {
    let status = lab.try_status(node);
    status.is_some_and(|status| {
        status.node.willing && status.checks.iter().all(|check| check.state == "up")
    })
}

/// The check of the node's DNS service.
#[track_caller]
fn dns_check(lab: &Lab, node: &str) -> Check {
    lab.status(node).checks.into_iter().find(|check| check.name == "dns").expect("it has one")
}

#[test]
fn a_service_that_fails_loses_its_clients_and_gets_them_again() {
    let lab = lab_with_checks();

    let load = Load::start(&lab, "--rate 1000");
    lab.topology("service-stop n2 dns");
    let stop = Moment::now();
    lab.wait_shared_by(&OTHERS, SOON);
    lab.say("n2 has no clients");
    let status = lab.status("n2");
    assert!(!status.node.willing && status.buckets.owned == 0, "{:?}", status.node);
    let check = dns_check(&lab, "n2");
    assert_eq!((check.state.as_str(), check.falls), ("down", 1));
    assert!(check.last_error.as_ref().is_some_and(|error| error.contains("refused")), "{check:?}");
    Load::start(&lab, "--rate 1000 --duration 1").finish().assert_all_answered_once();

    lab.topology("service-start n2 dns");
    lab.wait_shared_by(&NODES, SOON);
    lab.say("n2 has its clients again");
    let report = load.stop();
    let after = |at_ns: u64| (at_ns as f64 - stop.monotonic_ns as f64) / 1e6;
    let lost: Vec<_> = report.lost.iter().map(|lost| after(lost.sent_at_ns)).collect();
    let (first, last) = (lost.first(), lost.last());
    lab.say(&format!("{} lost, from {first:?} to {last:?} ms after the stop", lost.len()));
    // The service may end well before the command that ends it.
    let window = -(GAP_MAX_NS as f64 / 1e6)..GAP_MAX_NS as f64 / 1e6;
    assert!(lost.iter().all(|at_ms| window.contains(at_ms)), "ms after the stop: {lost:?}");
    Load::start(&lab, "--rate 1000 --duration 1").finish().assert_all_answered_once();

    for node in NODES {
        lab.topology(&format!("service-stop {node} dns"));
    }
    wait_until(SOON, "all services are down", || {
        NODES.iter().all(|node| dns_check(&lab, node).state == "down")
    });
    lab.wait_shared_by(&NODES, SOON);
    lab.say("nobody is well, and all serve");
    for node in NODES {
        lab.topology(&format!("service-start {node} dns"));
    }
    wait_until(SOON, "all nodes are well", || NODES.iter().all(|node| is_well(&lab, node)));
    lab.wait_shared_by(&NODES, SOON);
    Load::start(&lab, "--rate 1000 --duration 1").finish().assert_all_answered_once();
}

#[test]
fn a_service_that_flaps_is_left_out() {
    let lab = lab_with_checks();
    let mut falls = 0;
    while dns_check(&lab, "n2").state != "suppressed" {
        lab.topology("service-stop n2 dns");
        falls += 1;
        wait_until(SOON, "n2 is unwell", || !is_well(&lab, "n2"));
        lab.topology("service-start n2 dns");
        wait_until(SOON, "n2 is well, or suppressed", || {
            is_well(&lab, "n2") || dns_check(&lab, "n2").state == "suppressed"
        });
        assert!(falls <= 3, "n2 is taken back after {falls} falls in a minute");
    }
    lab.say(&format!("n2 is suppressed after {falls} falls"));
    // Whatever it does then is nobody's concern.
    for _ in 0..3 {
        let well = dns_check(&lab, "n2").well;
        wait_until(SOON, "n2 is well for some time", || dns_check(&lab, "n2").well > well + 10);
        lab.topology("service-stop n2 dns");
        let before = dns_check(&lab, "n2").falls;
        wait_until(SOON, "n2 falls", || dns_check(&lab, "n2").falls > before);
        lab.topology("service-start n2 dns");
        assert_eq!(dns_check(&lab, "n2").state, "suppressed");
        assert!(lab.is_shared_by(&OTHERS), "n2 has clients again");
    }
    Load::start(&lab, "--rate 1000 --duration 1").finish().assert_all_answered_once();
}
