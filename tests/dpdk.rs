//! Clusters whose nodes reach their NIC by DPDK, in each of the three modes.
//!
//! ```text
//!   vd-client --- vd-router --(lan)-- br0 -+- vd-n1
//!    dns-load      Injector, Capture       +- ...
//!    Transfers                             +- vd-n3:  phy0 -- vipdp -+- eth0, a TAP, in the NIC's place
//!                                                                    +- vipdp0, a TAP, has the VIPs
//! ```
//!
//! The kernel of a node takes no notice of phy0. DPDK has it by a packet socket, without huge pages.
//! In the anycast mode a fabric is in the place of the router, and every leaf knows its nodes by their
//! router advertisements alone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use vipdp_tests::clock::Moment;
use vipdp_tests::host::HostState;
use vipdp_tests::inject::Injector;
use vipdp_tests::lab::{Lab, Options};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::question::Questions;
use vipdp_tests::request::Requests;
use vipdp_tests::transfer::{Plan, Transfer, plans};
use vipdp_tests::vipdp;
use vipdp_tests::wait::wait_until;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const WITHOUT_N2: [&str; 2] = ["n1", "n3"];

/// Within what time of a crash all is well again, with room for a machine that is busy.
const GAP_MAX_NS: u64 = 3_000_000_000;
/// A query that was on its way to a node as it failed is lost with it.
const ON_ITS_WAY_NS: u64 = 50_000_000;
/// How long the cluster may take for what is neither a crash nor a hold.
const SOON: Duration = Duration::from_secs(30);
/// Queries a second.
const RATE: u64 = 1_000;

fn with_dpdk(mode: &'static str, mac: &'static str) -> Lab {
    Lab::up(&Options { mode, mac, nodes: 3, io: "dpdk", ..Options::default() })
}

/// The own addresses of a node, IPv4 first.
#[track_caller]
fn own(lab: &Lab, node: &str) -> [IpAddr; 2] {
    let said = lab.namespace(node).run("ip -o address show dev eth0 scope global");
    let addresses = said.lines().filter_map(|line| {
        let with_length = line.split_whitespace().nth(3)?;
        with_length.split('/').next()?.parse::<IpAddr>().ok()
    });
    let addresses: Vec<_> = addresses.collect();
    addresses.try_into().unwrap_or_else(|all| panic!("not one of each family: {all:?}"))
}

#[track_caller]
fn assert_all_finish(transfers: Vec<Transfer>) {
    let broken: Vec<_> = transfers.into_iter().filter_map(|one| one.finish().err()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Every ping to the node's own addresses is answered once, and connections to them, as ssh would
/// be, are whole: short lines and such as are longer than a frame.
#[track_caller]
fn assert_own_traffic(lab: &Lab, node: &str) {
    let client = lab.namespace("client");
    for address in own(lab, node) {
        let said = client.run(&format!("ping -q -c 50 -i 0.01 -W 2 {address}"));
        assert!(said.contains("50 received, 0% packet loss"), "{said}");
        assert!(!said.contains("duplicates"), "{said}");
    }
    let to_own = |(number, plan): (usize, Plan)| {
        let server = own(lab, node)[usize::from(plan.source.is_ipv6())];
        let line_len = if number < 2 { 8_000 } else { plan.line_len };
        Plan { server, line_len, ..plan }
    };
    let plans: Vec<_> = plans(501, 4, 1, 20).into_iter().enumerate().map(to_own).collect();
    let transfers = Transfer::start_all(lab, &plans);
    assert!(transfers.iter().all(|one| one.node == node), "{transfers:?}");
    assert_all_finish(transfers);
    // Out of the node by itself, too.
    for address in own(lab, if node == "n1" { "n3" } else { "n1" }) {
        lab.namespace(node).run(&format!("ping -q -c 3 -i 0.05 -W 2 {address}"));
    }
}

/// Connections to the service are whole, whichever node has them; some carry lines longer than a
/// frame.
#[track_caller]
fn assert_connections(lab: &Lab) {
    let to_vip = |(number, plan): (usize, Plan)| {
        let servers = lab.servers().iter().copied();
        let mut of_family = servers.filter(|vip| vip.is_ipv4() == plan.source.is_ipv4());
        let line_len = if number % 4 < 2 { 8_000 } else { plan.line_len };
        Plan { server: of_family.next().expect("both families are served"), line_len, ..plan }
    };
    let plans: Vec<_> = plans(1, 16, 1, 20).into_iter().enumerate().map(to_vip).collect();
    let transfers = Transfer::start_all(lab, &plans);
    let nodes: BTreeSet<_> = transfers.iter().map(|transfer| transfer.node.clone()).collect();
    assert!(nodes.len() >= 2, "all connections are with {nodes:?}");
    assert_all_finish(transfers);
}

/// Each query of both families has one answer, and the named nodes share them.
#[track_caller]
fn assert_served_by(lab: &Lab, nodes: &[&str]) {
    let report = Load::start(lab, &format!("--rate {RATE} --duration 1")).finish();
    report.assert_all_answered_once();
    // Eight points are five standard deviations of a half of 1,000.
    report.assert_shared_by(nodes, 8.0);
}

/// Kills n2 under load, of which only what is sent around the crash is lost, and starts it again.
#[track_caller]
fn assert_failure_is_survived(lab: &Lab) {
    let load = Load::start_flowing(lab, RATE, "n1");
    let crash = lab.kill("n2");
    lab.wait_shared_by(&WITHOUT_N2, SOON);
    assert_lost_only_at(lab, &load.stop(), crash);
    assert_served_by(lab, &WITHOUT_N2);
    lab.topology("start n2");
    lab.wait_shared_by(&NODES, SOON);
    assert_served_by(lab, &NODES);
    lab.say("n2 is back");
}

#[track_caller]
fn assert_lost_only_at(lab: &Lab, report: &Report, crash: Moment) {
    let at = crash.monotonic_ns;
    let after_ms: Vec<_> =
        report.lost.iter().map(|lost| (lost.sent_at_ns as f64 - at as f64) / 1e6).collect();
    let (lost, last) = (after_ms.len(), after_ms.last());
    lab.say(&format!(
        "{lost} of {} lost, the last {last:?} ms after the crash",
        report.totals.sent
    ));
    let window = at - ON_ITS_WAY_NS..at + GAP_MAX_NS;
    let elsewhere = report.lost.iter().filter(|lost| !window.contains(&lost.sent_at_ns)).count();
    assert_eq!(elsewhere, 0, "lost, ms after the crash: {after_ms:?}");
    report.assert_no_duplicates();
}

#[test]
fn a_shared_mac_is_served_and_hosts_have_their_own_traffic() {
    let lab = with_dpdk("shared-mac", "unicast");
    assert_own_traffic(&lab, "n1");
    lab.say("a host has its own traffic");
    // These can wait for a node that has just started to learn its gateway's MAC address.
    assert_connections(&lab);
    let router = lab.namespace("router");
    let injector = Injector::open(&router, "lan");
    let questions = Questions::new(&injector, &lab.status("n1").interface, 20);
    let capture = Questions::capture(&injector, &router, "lan");
    questions.ask(&injector);
    questions.assert_answered_once(&capture, SOON);
    lab.say("questions are answered");
    assert_served_by(&lab, &NODES);
    lab.say("the service is shared");
    assert_failure_is_survived(&lab);
    assert_own_traffic(&lab, "n2");
}

#[test]
fn next_hops_are_served() {
    let lab = with_dpdk("tiered", "virtual");
    assert_connections(&lab);
    assert_served_by(&lab, &NODES);
    assert_failure_is_survived(&lab);
    assert_own_traffic(&lab, "n2");
}

#[test]
fn a_fabric_spreads_over_nodes_that_it_finds_by_their_router_advertisements() {
    let lab = with_dpdk("anycast", "unicast");
    assert!(lab.spines_use(&["leaf1", "leaf2", "leaf3"]));
    let requests = Requests::start(&lab);
    assert_served_by_fabric(&lab, &NODES);
    let account = requests.stop();
    assert!(account.lost().is_empty(), "{:?}", account.requests);
    assert_eq!(account.nodes().into_keys().collect::<Vec<_>>(), NODES);
    assert_connections(&lab);
    assert_own_traffic(&lab, "n1");
    lab.say("the service is spread");

    let load = Load::start_flowing(&lab, RATE, "n1");
    let crash = lab.kill("n2");
    wait_until(SOON, "n2 is gone", || lab.spines_use(&["leaf1", "leaf3"]));
    assert_lost_only_at(&lab, &load.stop(), crash);
    assert_served_by_fabric(&lab, &WITHOUT_N2);
    lab.topology("start n2");
    wait_until(SOON, "n2 is back", || lab.spines_use(&["leaf1", "leaf2", "leaf3"]));
    assert_served_by_fabric(&lab, &NODES);
}

/// Each query has one answer, and just the named nodes give them.
#[track_caller]
fn assert_served_by_fabric(lab: &Lab, nodes: &[&str]) {
    let report = Load::start(lab, &format!("--rate {RATE} --duration 1")).finish();
    report.assert_all_answered_once();
    // A fabric spreads by what is in the packets, as even as the hash is.
    assert_eq!(report.nodes.keys().map(String::as_str).collect::<Vec<_>>(), nodes);
}

/// What a stop and a `cleanup` after a kill are to leave. The interface has had a link before: it has
/// its link-local address since.
fn stops_and_cleanups_leave_the_host_as_it_was(io: &'static str) {
    let lab = Lab::up(&Options { nodes: 2, io, ..Options::default() });
    let host = lab.namespace("n2");
    let has_carrier = || host.run("ip link show eth0").contains("LOWER_UP");
    let nic = lab.mac("n2", "phy0");
    let with_vipdp = HostState::read(&host);
    assert_eq!((lab.mac("n2", "eth0"), has_carrier()), (nic, true), "a NIC's address and link");

    lab.topology("stop n2");
    assert_ne!(lab.mac("n2", "eth0"), nic, "the TAP has its own address again");
    assert!(!has_carrier(), "nobody moves frames");
    let before = HostState::read(&host);
    assert!(!before.changes_since(&with_vipdp).is_empty(), "vipdp runs, and nothing is seen of it");

    lab.topology("start n2");
    lab.wait_shared_by(&["n1", "n2"], SOON);
    assert_eq!((lab.mac("n2", "eth0"), has_carrier()), (nic, true), "a NIC's address and link");
    assert_own_traffic(&lab, "n2");
    lab.kill("n2");
    lab.wait_shared_by(&["n1"], SOON);
    wait_until(SOON, "the kernel has taken the link", || !has_carrier());
    let left = HostState::read(&host).changes_since(&before);
    assert!(!left.is_empty(), "a killed vipdp leaves nothing: this test tests nothing");
    let cleanup = vipdp::run(&host, &["cleanup"], &lab.config("n2"));
    assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
    assert_unchanged(&HostState::read(&host), &before);
    lab.say("cleaned up");

    lab.topology("start n2");
    lab.wait_shared_by(&["n1", "n2"], SOON);
    assert_own_traffic(&lab, "n2");
    lab.topology("stop n2");
    assert_unchanged(&HostState::read(&host), &before);
}

#[test]
fn a_stop_and_a_cleanup_after_a_kill_leave_the_host_as_it_was() {
    stops_and_cleanups_leave_the_host_as_it_was("dpdk");
}

#[test]
fn so_they_do_where_dpdk_has_a_program_on_the_interface() {
    stops_and_cleanups_leave_the_host_as_it_was("dpdk-af-xdp");
}

#[track_caller]
fn assert_unchanged(now: &HostState, before: &HostState) {
    let changes = now.changes_since(before);
    assert!(changes.is_empty(), "the host is not as it was:\n{}", changes.join("\n"));
}
