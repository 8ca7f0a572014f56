//! The anycast mode: every node tells its leaf that it has the VIPs while its services are well, and
//! the fabric spreads over all of them.
//!
//! ```text
//!                 vd-client       dns-load, Requests, Transfers
//!                 /       \
//!          vd-spine1     vd-spine2
//!             |  \  \  \ /  /  / |        FRR: eBGP, ECMP by flow, BFD 3 * 300 ms
//!          vd-leaf1 .. vd-leaf4
//!             |           |
//!           vd-n1 ..    vd-n4             vipdp, knot, nginx, stream; n5 is on leaf1 again
//!
//!   VIPs: 172.20.0.1, 2001:db8:20::1
//! ```

use std::fs;
use std::time::Duration;

use vipdp_tests::clock::Moment;
use vipdp_tests::fabric::{SPINES, Ways};
use vipdp_tests::lab::{Anycast, Lab, Options};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::request::{Account, Requests};
use vipdp_tests::status::Check;
use vipdp_tests::transfer::{Plan, Transfer, UNTIL_STOPPED_S, plans};
use vipdp_tests::wait::wait_until;

const LEAVES: [&str; 4] = ["leaf1", "leaf2", "leaf3", "leaf4"];
const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];

const MS: u64 = 1_000_000;
/// How long the network may take for what is no failure.
const SOON: Duration = Duration::from_secs(30);
/// Within what time of a failure all is well again. BFD finds it in 900 ms, and then a leaf and two
/// spines tell it on: here it is bounded for a machine that has other work too, and printed.
const GAP_MAX_NS: u64 = 6_000 * MS;
/// A query that was on its way to a node as it failed is lost with it.
const ON_ITS_WAY_NS: u64 = 100 * MS;

fn anycast(nodes: u8, anycast: Anycast) -> Options {
    Options { mode: "anycast", nodes, anycast, ..Options::default() }
}

/// Asserts that the named nodes, and no others, answer all DNS queries and HTTP requests.
#[track_caller]
fn assert_served_by(lab: &Lab, nodes: &[&str]) {
    let requests = Requests::start(lab);
    let report = Load::start(lab, "--rate 1000 --duration 1").finish();
    let account = requests.stop();
    report.assert_all_answered_once();
    assert!(account.lost().is_empty(), "{:?}", account.requests);
    assert_eq!(report.nodes.keys().map(String::as_str).collect::<Vec<_>>(), nodes, "DNS");
    assert_eq!(account.nodes().into_keys().collect::<Vec<_>>(), nodes, "HTTP");
}

/// What the network and a node are told to do.
fn configurations(lab: &Lab, node: &str) -> Vec<String> {
    let of = |router: &&str| lab.topology(&format!("vtysh {router} show running-config"));
    let mut all: Vec<_> = LEAVES.iter().chain(&["spine1", "spine2"]).map(of).collect();
    all.push(fs::read_to_string(lab.config(node)).expect("the node has a file"));
    all
}

/// The names but for that with the node's number.
fn others(all: &[&'static str], node: &str) -> Vec<&'static str> {
    all.iter().copied().filter(|one| one[one.len() - 1..] != node[1..]).collect()
}

/// Stops the services of a node, looks at the routes on every spine, does `meanwhile`, and starts
/// them again.
#[track_caller]
fn stop_and_start(lab: &Lab, node: &str, meanwhile: impl FnOnce()) {
    assert!(lab.spines_use(&LEAVES), "four entries for the VIP on every spine");
    let before = configurations(lab, node);

    let begin = Moment::now();
    lab.topology(&format!("service-stop {node}"));
    wait_until(SOON, "three entries", || lab.spines_use(&others(&LEAVES, node)));
    lab.say(&format!("{node}: three entries {} ms after its services stop", ms_since(begin)));
    meanwhile();

    lab.topology(&format!("service-start {node}"));
    let begin = Moment::now();
    wait_until(SOON, "four entries", || lab.spines_use(&LEAVES));
    lab.say(&format!("{node}: four entries {} ms after its services start", ms_since(begin)));
    assert_eq!(configurations(lab, node), before, "somebody touched a configuration");
}

/// The session of the third seed.
#[track_caller]
fn replay_the_seeds_session(lab: &Lab) {
    assert_served_by(lab, &NODES[..4]);
    stop_and_start(lab, "n1", || assert_served_by(lab, &NODES[1..4]));
    assert_served_by(lab, &NODES[..4]);
}

fn ms_since(begin: Moment) -> u64 {
    (Moment::now().monotonic_ns - begin.monotonic_ns) / MS
}

/// DNS and HTTP at once, while something fails.
struct Clients {
    load: Load,
    requests: Requests,
}

impl Clients {
    #[track_caller]
    fn start(lab: &Lab) -> Self {
        let requests = Requests::start(lab);
        Self { load: Load::start_flowing(lab, 1_000, "n1"), requests }
    }

    /// Ends them, and asserts that all that was lost was begun around the failure.
    #[track_caller]
    fn assert_lost_only_at(self, lab: &Lab, what: &str, failure: Moment) {
        let (report, account): (Report, Account) = (self.load.stop(), self.requests.stop());
        let queries: Vec<_> = report.lost.iter().map(|lost| lost.sent_at_ns).collect();
        let requests = account.lost();
        let at = failure.monotonic_ns;
        for (kind, all, lost) in [
            ("DNS", report.totals.sent, queries),
            ("HTTP", account.requests.len() as u64, requests),
        ] {
            let gap_ms = lost.last().map_or(0, |last| last.saturating_sub(at) / MS);
            let count = lost.len();
            lab.say(&format!(
                "{what}: {kind}: {count} of {all} lost, the last {gap_ms} ms after it"
            ));
            let window = at - ON_ITS_WAY_NS..at + GAP_MAX_NS;
            let elsewhere = lost.iter().filter(|lost| !window.contains(lost)).count();
            assert_eq!(elsewhere, 0, "{what}: {kind}: lost long before or after it");
        }
        report.assert_no_duplicates();
    }
}

/// Has a node fail by `fail`, and undoes it by `mend`, under load.
#[track_caller]
fn assert_failure_is_found(
    lab: &Lab,
    what: &str,
    others: &[&str],
    fail: impl FnOnce(),
    mend: impl FnOnce(),
) {
    let clients = Clients::start(lab);
    let failure = Moment::now();
    fail();
    wait_until(SOON, "the routes are gone", || lab.spines_use(others));
    let gone_ms = ms_since(failure);
    lab.say(&format!("{what}: routes gone after {gone_ms} ms"));
    assert!(gone_ms * MS <= GAP_MAX_NS, "{what}: routes gone only after {gone_ms} ms");
    clients.assert_lost_only_at(lab, what, failure);
    mend();
    wait_until(SOON, "the node is back", || lab.spines_use(&LEAVES));
    assert_served_by(lab, &NODES[..4]);
}

/// Makes the leaf hear nothing of its node, while the link stays up.
fn deafen(lab: &Lab, leaf: &str, node: &str) {
    let leaf = lab.namespace(leaf);
    leaf.run("nft add table netdev deaf");
    leaf.run(&format!(
        "nft add chain netdev deaf in {{ type filter hook ingress device {node} priority 0; }}"
    ));
    leaf.run("nft add rule netdev deaf in drop");
}

/// Restarts vipdp on a node with short times of damping.
#[track_caller]
fn damp_briefly(lab: &Lab, node: &str) {
    let path = lab.config(node);
    let text = fs::read_to_string(&path).expect("the node has a file");
    let text = text + "\n[check_damping]\nhalf_life_s = 8\nmax_s = 60\n";
    lab.topology(&format!("stop {node}"));
    fs::write(path, text).expect("root may write it");
    lab.topology(&format!("start {node}"));
    wait_until(SOON, "the node is back", || lab.spines_use(&LEAVES));
}

/// What n4's vipdp says of the check of its web server.
#[track_caller]
fn web_of_n4(lab: &Lab) -> Check {
    let checks = lab.status("n4").checks;
    checks.into_iter().find(|check| check.name == "web").expect("it is checked")
}

/// Stops the web server of n4 until that is seen, and starts it until that is seen.
#[track_caller]
fn flap(lab: &Lab) {
    let falls = web_of_n4(lab).falls;
    lab.topology("service-stop n4 web");
    wait_until(SOON, "the check falls", || web_of_n4(lab).falls > falls);
    lab.topology("service-start n4 web");
    let well = web_of_n4(lab).well;
    // As many outcomes as make a rise.
    wait_until(SOON, "the check is well", || web_of_n4(lab).well > well + 2);
}

/// The web server of n4 comes and goes until its route is held back, and then once more.
#[track_caller]
fn assert_flapping_is_damped(lab: &Lab) {
    damp_briefly(lab, "n4");
    let mut flaps = 0;
    while web_of_n4(lab).state != "suppressed" {
        wait_until(SOON, "n4 is announced", || lab.spines_use(&LEAVES));
        assert!(flaps < 10, "it is never held back");
        flap(lab);
        flaps += 1;
    }
    assert!(flaps >= 2, "one failure is no flapping");
    flap(lab);
    assert_eq!(web_of_n4(lab).state, "suppressed");
    assert!(lab.spines_use(&["leaf1", "leaf2", "leaf3"]), "a node that is held back is announced");
    lab.say(&format!("held back after {flaps} failures, though the service is well again"));
}

#[test]
fn health_decides_and_vipdps_speaker_tells_the_network() {
    // With the hold that nodes have: nobody's health is to wait for it.
    let lab = Lab::up(&Options { hold_s: 10, ..anycast(4, Anycast::default()) });
    replay_the_seeds_session(&lab);
    assert_failure_is_found(
        &lab,
        "n2 killed",
        &["leaf1", "leaf3", "leaf4"],
        || {
            lab.kill("n2");
        },
        || drop(lab.topology("start n2")),
    );
    assert_failure_is_found(
        &lab,
        "link of n3 down",
        &["leaf1", "leaf2", "leaf4"],
        || drop(lab.namespace("leaf3").run("ip link set n3 down")),
        || drop(lab.namespace("leaf3").run("ip link set n3 up")),
    );
    assert_failure_is_found(
        &lab,
        "n3 silent",
        &["leaf1", "leaf2", "leaf4"],
        || deafen(&lab, "leaf3", "n3"),
        || drop(lab.namespace("leaf3").run("nft delete table netdev deaf")),
    );
    assert_flapping_is_damped(&lab);
}

/// n1 has FRR, n2 BIRD and n3 GoBGP, each with the configuration that comes with vipdp.
#[test]
fn health_decides_and_daemons_see_it_on_the_loopback_interface() {
    let options = Anycast { announce: "interface", daemon: "mixed", ..Anycast::default() };
    let lab = Lab::up(&anycast(4, Anycast { peers: "numbered", ..options }));
    replay_the_seeds_session(&lab);
    for node in ["n2", "n3"] {
        stop_and_start(&lab, node, || {});
    }
}

/// Connections while the network changes.
struct Connections<'l> {
    lab: &'l Lab,
    transfers: Vec<Transfer>,
    /// The number of the next one.
    next: u16,
}

impl<'l> Connections<'l> {
    fn new(lab: &'l Lab) -> Self {
        Self { lab, transfers: Vec::new(), next: 1 }
    }

    /// Opens connections to both VIPs until there are 200: two lines a second each way. Those of
    /// every fifth are longer than a frame, so that packets come that do not fit a tunnel.
    #[track_caller]
    fn replenish(&mut self) {
        let count = 200 - self.transfers.len() as u16;
        let to_vip = |(number, plan): (usize, Plan)| {
            let servers = self.lab.servers().iter();
            let server = servers.copied().find(|vip| vip.is_ipv4() == plan.source.is_ipv4());
            let line_len = if number % 5 == 0 { 4_000 } else { plan.line_len };
            Plan { server: server.expect("both families are served"), line_len, ..plan }
        };
        let plans = plans(self.next, count, UNTIL_STOPPED_S, 2).into_iter().enumerate().map(to_vip);
        self.transfers.extend(Transfer::start_all(self.lab, &plans.collect::<Vec<_>>()));
        self.next += count;
    }

    /// Forgets those with the removed node, and waits until every other one has carried two more
    /// lines or is over; how many are over.
    #[track_caller]
    fn broken(&mut self, removed: Option<&str>, what: &str) -> usize {
        self.transfers.retain(|one| Some(one.node.as_str()) != removed);
        let transfers = &mut self.transfers;
        let all = transfers.len();
        let before: Vec<_> = transfers.iter().map(Transfer::lines).collect();
        let goes_on = |one: &Transfer, before| one.is_over() || one.lines() >= before + 2;
        wait_until(Duration::from_secs(40), &format!("connections go on or break: {what}"), || {
            transfers.iter().zip(&before).all(|(one, before)| goes_on(one, before))
        });
        let over: Vec<_> = transfers.extract_if(.., |one| one.is_over()).collect();
        let broken = over.len();
        self.lab.say(&format!("{what}: {broken} broke of {all} that were not on a removed node"));
        for one in over.into_iter().take(3) {
            let node = one.node.clone();
            self.lab.say(&format!("one of them, on {node}: {:?}", one.finish()));
        }
        broken
    }
}

/// Adds and removes nodes and a leaf under 200 connections; how many broke that did not end on what
/// was removed, by what was done. A node behind a leaf that fails is cut off from the others, and takes
/// itself for the only one.
#[track_caller]
fn broken_by_changes(options: Anycast) -> Vec<(&'static str, usize)> {
    let is_one_segment = options.forward == "mac";
    let lab = Lab::up(&anycast(5, options));
    lab.topology("stop n5");
    lab.topology("wait 30");
    let mut connections = Connections::new(&lab);
    connections.replenish();
    for node in &NODES[..4] {
        let with_it = connections.transfers.iter().filter(|one| one.node == **node).count();
        assert!(with_it >= 20, "{with_it} of 200 connections are with {node}");
    }
    let mut result = Vec::new();
    let mut note = |what, removed: Option<&str>| {
        result.push((what, connections.broken(removed, what)));
        connections.replenish();
    };
    note("nothing happens", None);
    lab.topology("start n5");
    lab.topology("wait 30");
    note("n5 is added", None);
    lab.topology("stop n5");
    lab.topology("wait 30");
    note("n5 is removed", Some("n5"));
    // On one segment n4 hears the others when its leaf is cut off, and keeps its clients. Its answers
    // then need another way out, which the lab does not have.
    if !is_one_segment {
        let set_leaf4 = |state: &str| {
            for spine in SPINES {
                lab.namespace("leaf4").run(&format!("ip link set {spine} {state}"));
            }
        };
        set_leaf4("down");
        wait_until(SOON, "leaf4 is gone", || lab.spines_use(&LEAVES[..3]));
        note("leaf4 is removed", Some("n4"));
        set_leaf4("up");
        lab.topology("wait 30");
        note("leaf4 is added", None);
    }
    lab.kill("n2");
    wait_until(SOON, "n2 is gone", || lab.spines_use(&["leaf1", "leaf3", "leaf4"]));
    note("n2 is killed", Some("n2"));
    assert!(is_one_segment || Ways::of(&lab, "leaf1").are(&["n1"]), "n5 is there still");
    result
}

#[test]
fn steering_breaks_no_connection_where_the_network_spreads_anew() {
    let steers = Anycast { steers: true, ..Anycast::default() };
    let by_mac = Anycast { peers: "numbered", forward: "mac", ..steers };
    let steered = [("by GUE", broken_by_changes(steers)), ("by MAC", broken_by_changes(by_mac))];
    let unsteered = [("not", broken_by_changes(Anycast::default()))];
    for (how, results) in steered.iter().chain(&unsteered) {
        eprintln!("steered {how}, of 200 connections, those on a removed node left out:");
        results.iter().for_each(|(what, broken)| eprintln!("  {what}: {broken} broken"));
    }
    let broken = |all: &[(&str, Vec<(&str, usize)>)]| -> usize {
        all.iter().flat_map(|(_, results)| results).map(|(_, broken)| broken).sum()
    };
    assert_eq!(broken(&steered), 0, "steering is to break none");
    assert!(broken(&unsteered) > 0, "the network did not spread anew, so nothing was seen");
}
