//! The tiered mode without heartbeats: members hear each other's claims, and that is all.
//!
//! ```text
//!                                        br0 -+- vd-n1   primary of two next hops,
//!   vd-client --- vd-router --(lan)-----------+- vd-n2   secondary of two,
//!    dns-load      ECMP over six next hops    +- vd-n3   and tertiary of two
//!    Transfers
//! ```
//!
//! T, after which a silent tier is taken for gone, is 250 ms; h, within which every claim is
//! repeated, is 50 ms: the default profile.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use vipdp_tests::capture::Capture;
use vipdp_tests::clock::Moment;
use vipdp_tests::frame::Mac;
use vipdp_tests::lab::{Lab, Options};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::stall::Stalled;
use vipdp_tests::transfer::{Plan, Transfer, plans};
use vipdp_tests::vipdp;
use vipdp_tests::wait::wait_until;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const MS: u64 = 1_000_000;
const T_NS: u64 = 250 * MS;
/// What is added to a tier's time until all is well: the last claims before a failure, the first
/// ones after it, and what a machine with fewer cores than nodes takes.
const SLACK_NS: u64 = 550 * MS;
/// A query that was on its way to a node as it failed is lost with it.
const ON_ITS_WAY_NS: u64 = 50 * MS;
const SOON: Duration = Duration::from_secs(20);
const RATE: u64 = 1_000;

fn three_nodes_three_tiers() -> Options {
    let options = Options { mode: "tiered", nodes: 3, mac: "node", ..Options::default() };
    Options { tiers: 3, claims: "wire", ..options }
}

/// The slot of every next hop's owner, as each of the named nodes sees it; `None` while they do not
/// agree.
fn owners(lab: &Lab, nodes: &[&str]) -> Option<Vec<Option<u8>>> {
    let mut seen = nodes.iter().map(|node| lab.try_status(node).map(|it| it.buckets.owners));
    let first = seen.next()??;
    seen.all(|owners| owners.as_ref() == Some(&first)).then_some(first)
}

/// Waits until every next hop has an owner among the named nodes, which agree, and of whom each has
/// so many; returns the owners.
#[track_caller]
fn wait_owned(lab: &Lab, parts: &[(&str, usize)]) -> Vec<Option<u8>> {
    let nodes: Vec<_> = parts.iter().map(|&(node, _)| node).collect();
    let expected: BTreeMap<_, _> =
        parts.iter().map(|&(node, part)| (lab.status(node).node.slot, part)).collect();
    let mut last = Vec::new();
    wait_until(SOON, &format!("next hops are shared out as {parts:?}"), || {
        let Some(owners) = owners(lab, &nodes) else { return false };
        let mut counts = BTreeMap::new();
        for owner in owners.iter().flatten() {
            *counts.entry(*owner).or_insert(0) += 1;
        }
        last = owners;
        !last.contains(&None) && counts == expected
    });
    last
}

/// Asserts that queries were lost only from `from` on, for `tiers` T and the slack, and that none
/// was answered twice.
#[track_caller]
fn assert_lost_only_at(lab: &Lab, report: &Report, what: &str, from: Moment, tiers: u64) {
    let at = from.monotonic_ns;
    let after = |at_ns: u64| (at_ns as f64 - at as f64) / MS as f64;
    let times_ms: Vec<_> = report.lost.iter().map(|lost| after(lost.sent_at_ns)).collect();
    let (first, last) = (times_ms.first(), times_ms.last());
    lab.say(&format!(
        "{what}: {} of {} lost, the first {first:?} ms, the last {last:?} ms after it",
        times_ms.len(),
        report.totals.sent,
    ));
    let window = at - ON_ITS_WAY_NS..at + tiers * T_NS + SLACK_NS;
    let elsewhere = report.lost.iter().filter(|lost| !window.contains(&lost.sent_at_ns)).count();
    assert_eq!(elsewhere, 0, "{what}: lost, ms after it: {times_ms:?}");
    report.assert_no_duplicates();
}

/// Transfers from 24 addresses, to as many of the service's as there are.
fn transfers_of_six_seconds(lab: &Lab) -> Vec<Plan> {
    let plans = plans(1, 24, 6, 10).into_iter().enumerate();
    let of_family = |plan: Plan, place: usize| {
        let is_v4 = |server: &&IpAddr| server.is_ipv4() == plan.source.is_ipv4();
        let server = *lab.servers().iter().filter(is_v4).cycle().nth(place / 2).unwrap();
        Plan { server, ..plan }
    };
    plans.map(|(place, plan)| of_family(plan, place)).collect()
}

#[track_caller]
fn assert_all_finish(transfers: impl IntoIterator<Item = Transfer>) {
    let broken: Vec<_> = transfers.into_iter().filter_map(|one| one.finish().err()).collect();
    assert!(broken.is_empty(), "{} broke: {broken:#?}", broken.len());
}

/// How many claims of each next hop a second shows on the router's side, and from which node's MAC
/// address.
fn claims_of_a_second(lab: &Lab) -> BTreeMap<(IpAddr, Mac), usize> {
    let capture = Capture::start(&lab.namespace("router"), "lan", "arp or icmp6 or udp port 5360");
    let start = Moment::now().monotonic_ns;
    wait_until(SOON, "a second has passed", || Moment::now().monotonic_ns >= start + 1_000 * MS);
    let mut claims = BTreeMap::new();
    for frame in capture.frames() {
        let bytes = &frame.bytes;
        let address: IpAddr = match bytes[12..14] {
            // An ARP packet whose sender is also its target.
            [8, 6] if bytes[28..32] == bytes[38..42] => {
                Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[28..32]).unwrap()).into()
            }
            [8, 6] => continue,
            // A neighbour advertisement to all nodes.
            [0x86, 0xdd] if bytes[20] == 58 && bytes[54] == 136 && bytes[38] == 0xff => {
                Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[62..78]).unwrap()).into()
            }
            [0x86, 0xdd] if bytes[20] == 58 => continue,
            _ => panic!("a heartbeat: {bytes:02x?}"),
        };
        *claims.entry((address, frame.source())).or_insert(0) += 1;
    }
    claims
}

#[test]
fn silence_then_secondary_and_tertiary_claims_then_the_primary_returns_and_the_others_release() {
    let lab = Lab::up(&three_nodes_three_tiers());
    let at_first = wait_owned(&lab, &[("n1", 2), ("n2", 2), ("n3", 2)]);

    // Each next hop of either family is claimed by one node, again and again, and there is nothing
    // else that they say to each other.
    let claims = claims_of_a_second(&lab);
    assert_eq!(claims.len(), 12, "one claimant each: {claims:?}");
    // Every 37.5 to 50 ms, less what a busy machine leaves out.
    assert!(claims.values().all(|count| (15..=40).contains(count)), "{claims:?}");
    for node in NODES {
        let status = lab.status(node);
        assert_eq!(status.heartbeats.received, 0);
        let mac: Mac = status.interface.mac.parse().unwrap();
        assert_eq!(claims.keys().filter(|(_, from)| *from == mac).count(), 4, "{node}");
    }

    // Silence of n1: its two next hops go to one secondary each.
    let load = Load::start_flowing(&lab, RATE, "n3");
    let crash = lab.kill("n1");
    let without_n1 = wait_owned(&lab, &[("n2", 3), ("n3", 3)]);
    assert_lost_only_at(&lab, &load.stop(), "n1 killed", crash, 1);
    for (then, now) in at_first.iter().zip(&without_n1) {
        assert!(then == now || *then == Some(0), "{at_first:?}, then {without_n1:?}");
    }

    // Silence of n2: n3 takes all, two of them as tertiary, after twice the time.
    let load = Load::start_flowing(&lab, RATE, "n3");
    let crash = lab.kill("n2");
    wait_owned(&lab, &[("n3", 6)]);
    assert_lost_only_at(&lab, &load.stop(), "n2 killed", crash, 2);

    // n1 returns, listens, and claims its own and what it is secondary of; n3 releases. Whoever was
    // connected to n3 stays so, and no query is lost.
    let transfers = Transfer::start_all(&lab, &transfers_of_six_seconds(&lab));
    let load = Load::start_flowing(&lab, RATE, "n3");
    lab.topology("start n1");
    wait_owned(&lab, &[("n1", 3), ("n3", 3)]);
    load.stop().assert_all_answered();
    assert_all_finish(transfers);
    lab.say("n1 is back");

    // n2 returns: all is as it was.
    let load = Load::start_flowing(&lab, RATE, "n3");
    lab.topology("start n2");
    let in_the_end = wait_owned(&lab, &[("n1", 2), ("n2", 2), ("n3", 2)]);
    load.stop().assert_all_answered();
    assert_eq!(in_the_end, at_first);
    let claims = claims_of_a_second(&lab);
    assert_eq!(claims.len(), 12, "one claimant each: {claims:?}");
}

#[test]
fn a_drained_node_falls_silent_and_one_that_stood_still_gives_way() {
    let lab = Lab::up(&three_nodes_three_tiers());
    let all = [("n1", 2), ("n2", 2), ("n3", 2)];
    wait_owned(&lab, &all);
    let client = lab.namespace("client");
    let order = |order: &str| {
        let output = vipdp::run(&client, &[order], &lab.config("n2"));
        assert!(output.status.success(), "{order}: {}", String::from_utf8_lossy(&output.stderr));
    };

    // There is no hand-over: the others wait for the silence.
    let load = Load::start_flowing(&lab, RATE, "n3");
    let drained = Moment::now();
    order("drain");
    wait_owned(&lab, &[("n1", 3), ("n3", 3)]);
    assert_lost_only_at(&lab, &load.stop(), "n2 drained", drained, 1);
    assert_eq!(lab.status("n2").node.state, "draining");
    let load = Load::start_flowing(&lab, RATE, "n3");
    order("undrain");
    wait_owned(&lab, &all);
    load.stop().assert_all_answered();

    // Its control thread stands still for longer than T: its lease ends before the others take over.
    // Once it goes on, it listens before it claims anything.
    let load = Load::start_flowing(&lab, RATE, "n3");
    let stopped = Moment::now();
    let stalled = Stalled::stop(lab.pid("n2"), "vipdp-control");
    wait_owned(&lab, &[("n1", 3), ("n3", 3)]);
    drop(stalled);
    wait_owned(&lab, &all);
    assert_lost_only_at(&lab, &load.stop(), "n2 stopped", stopped, 1);
}
