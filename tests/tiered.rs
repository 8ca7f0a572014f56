//! The tiered mode: a router spreads over next-hop addresses, each of which has one node at a time.
//!
//! ```text
//!                                            br0 -+- vd-n1
//!   vd-client --- vd-router --(lan)---------------+- ...   vipdp, knot, stream
//!    dns-load      ECMP over the next hops        +- vd-n6
//!    Transfers     10.53.1.0 .., fd53::1:0 ..
//!
//!   VIPs: 198.51.100.0/24, 2001:db8:80::/64, of which some addresses are asked
//! ```
//!
//! The router is Linux at its default settings for ARP and neighbour discovery, where a test does
//! not say otherwise. D, the detection time, is 250 ms; h is 50 ms: the default profile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vipdp_tests::clock::Moment;
use vipdp_tests::lab::{Lab, Options};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::wait::wait_until;

const NODES: [&str; 6] = ["n1", "n2", "n3", "n4", "n5", "n6"];

const MS: u64 = 1_000_000;
/// Within what time of a crash all is well again: L1 of the protocol, D + 3h, and what a machine
/// with fewer cores than nodes takes.
const GAP_MAX_NS: u64 = 800 * MS;
/// A query that was on its way to a node as it failed is lost with it.
const ON_ITS_WAY_NS: u64 = 50 * MS;
/// How long the cluster may take for what is neither a failure nor a hold.
const SOON: Duration = Duration::from_secs(20);
/// Queries a second.
const RATE: u64 = 2_000;

fn tiered(nodes: u8, mac: &'static str) -> Options {
    Options { mode: "tiered", nodes, mac, ..Options::default() }
}

/// Starts the load, and waits until it flows.
#[track_caller]
fn start_load(lab: &Lab) -> Load {
    let received = lab.status("n1").rx();
    let load = Load::start(lab, &format!("--rate {RATE}"));
    wait_until(SOON, "the load flows", || lab.status("n1").rx() >= received + RATE / 10);
    load
}

/// Asserts that each of the queries of some seconds has one answer, and that the named nodes share
/// them evenly.
#[track_caller]
fn assert_served_by(lab: &Lab, nodes: &[&str], seconds: u32) {
    let report = Load::start(lab, &format!("--rate {RATE} --duration {seconds}")).finish();
    report.assert_all_answered_once();
    // Five points are five standard deviations of a fifth of 2,000, the least that there is.
    report.assert_shared_by(nodes, 5.0);
}

/// Asserts that all lost queries were sent around the crash; returns how long after it the last one
/// was, nanoseconds.
#[track_caller]
fn assert_lost_only_at(lab: &Lab, report: &Report, what: &str, crash: Moment) -> u64 {
    let at = crash.monotonic_ns;
    let times_ms: Vec<_> =
        report.lost.iter().map(|lost| (lost.sent_at_ns as f64 - at as f64) / 1e6).collect();
    lab.say(&format!(
        "{what}: {} of {} lost, {:?} to {:?} ms after it; the load was at most {} ms late",
        times_ms.len(),
        report.totals.sent,
        times_ms.first(),
        times_ms.last(),
        report.behind_max_ns / MS
    ));
    let window = at - ON_ITS_WAY_NS..at + GAP_MAX_NS;
    let elsewhere = report.lost.iter().filter(|lost| !window.contains(&lost.sent_at_ns)).count();
    assert_eq!(elsewhere, 0, "{what}: lost, ms after it: {times_ms:?}");
    report.assert_no_duplicates();
    report.lost.last().map_or(0, |lost| lost.sent_at_ns.saturating_sub(at))
}

/// The slot of every next-hop address's owner.
fn owners(lab: &Lab, node: &str) -> Vec<Option<u8>> {
    lab.status(node).buckets.owners
}

/// Every node has its five of the thirty addresses, and says so in its status.
#[track_caller]
fn assert_addresses_of_six(lab: &Lab) {
    let owners = owners(lab, "n1");
    for (slot, node) in NODES.iter().enumerate() {
        let addresses = lab.status(node).addresses;
        assert_eq!(addresses.len(), 30, "{node}");
        let own = addresses.iter().filter(|one| one.owner == Some(slot as u8)).count();
        assert_eq!(own, 5, "{node}");
        let (mut ips, mut macs) = (BTreeSet::new(), BTreeSet::new());
        for (number, address) in addresses.iter().enumerate() {
            assert_eq!((address.index, address.owner), (number as u16, owners[number]), "{node}");
            ips.extend([address.ip4.map(Into::into), address.ip6.map(std::net::IpAddr::from)]);
            macs.insert(address.mac.clone());
        }
        assert!(!ips.contains(&None) && ips.len() == 60, "{node}: {ips:?}");
        assert!(!macs.contains(&None) && macs.len() == 30, "one MAC address each: {macs:?}");
    }
}

#[test]
fn addresses_of_a_killed_node_go_one_to_each_other_node() {
    const WITHOUT_N2: [&str; 5] = ["n1", "n3", "n4", "n5", "n6"];
    const WITHOUT_BOTH: [&str; 4] = ["n1", "n3", "n4", "n6"];
    let lab = Lab::up(&tiered(6, "virtual"));
    assert_addresses_of_six(&lab);
    assert_served_by(&lab, &NODES, 6);

    let before = owners(&lab, "n1");
    let load = start_load(&lab);
    let crash = lab.kill("n2");
    lab.wait_shared_by(&WITHOUT_N2, SOON);
    assert_lost_only_at(&lab, &load.stop(), "n2 killed", crash);
    let after = owners(&lab, "n1");
    let mut takers = BTreeMap::new();
    for (number, (then, now)) in before.iter().zip(&after).enumerate() {
        if *then == Some(1) {
            takers.insert(*now, number);
        } else {
            assert_eq!(now, then, "address {number} was not n2's");
        }
    }
    let all: Vec<_> = [0, 2, 3, 4, 5].map(Some).into();
    assert_eq!(takers.keys().copied().collect::<Vec<_>>(), all, "who took n2's: {takers:?}");
    assert_served_by(&lab, &WITHOUT_N2, 1);

    // Two addresses of thirty had just these two. All others are served, as evenly as before.
    let load = start_load(&lab);
    lab.kill("n5");
    lab.wait_shared_by(&WITHOUT_BOTH, SOON);
    load.stop().assert_no_duplicates();
    for (number, now) in owners(&lab, "n1").iter().enumerate() {
        match (before[number], after[number], now) {
            (Some(1 | 4), Some(4), None) => {}
            (_, Some(4), Some(_)) => {}
            (_, then, now) => assert_eq!(then, *now, "address {number} was not n5's"),
        }
    }
    let report = Load::start(&lab, &format!("--rate {RATE} --duration 2")).finish();
    report.assert_no_duplicates();
    let part = report.totals.lost as f64 / report.totals.sent as f64;
    // Two points are five standard deviations of a fifteenth of 4,000.
    assert!((part - 2.0 / 30.0).abs() < 0.02, "{part} of the queries are lost, not a fifteenth");
    assert_eq!(report.nodes.keys().map(String::as_str).collect::<Vec<_>>(), WITHOUT_BOTH);

    for node in ["n2", "n5"] {
        lab.topology(&format!("start {node}"));
    }
    lab.wait_shared_by(&NODES, SOON);
    assert_eq!(owners(&lab, "n1"), before, "everybody has its own again");
    assert_served_by(&lab, &NODES, 1);
}
