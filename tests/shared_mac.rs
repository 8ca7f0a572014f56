//! A cluster behind one MAC address serves real DNS: every frame reaches every node, one answers.
//!
//! ```text
//!   vd-client --- vd-router --(lan)-- br0 --(n1)-- vd-n1
//!    dns-load      Injector    ^      fdb --(n2)-- vd-n2  vipdp, knot, stream
//!    Transfers                 |          --(n3)-- vd-n3
//!                              |          --(n4)-- vd-n4
//!                           Capture         ^
//!                                        Capture
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vipdp_tests::capture::Capture;
use vipdp_tests::frame::{Mac, Packet};
use vipdp_tests::inject::Injector;
use vipdp_tests::lab::{Lab, Options, VIPS};
use vipdp_tests::load::Load;
use vipdp_tests::namespace::Namespace;
use vipdp_tests::question::Questions;
use vipdp_tests::transfer::{Transfer, plans};
use vipdp_tests::wait::wait_until;

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

#[test]
fn four_nodes_share_20_000_queries_and_answer_each_once() {
    let lab = Lab::up(&Options::default());
    serves(&lab, 20_000);
}

#[test]
fn so_they_do_behind_a_multicast_mac() {
    let lab = Lab::up(&Options { mac: "multicast", ..Options::default() });
    serves(&lab, 6_000);
}

#[test]
fn so_they_do_when_answers_leave_through_the_data_plane() {
    let lab = Lab::up(&Options { egress: "tap", ..Options::default() });
    serves(&lab, 6_000);
}

/// All that a cluster of four is to do without faults.
fn serves(lab: &Lab, queries: u64) {
    let shared = shared_macs(lab);
    let sent = SentByNodes::capture(lab);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let learnt = scope.spawn(|| learnt_by_the_bridge(&lab.namespace("sw"), &stop));
        // Ends the watch however this ends.
        let watched = StopOnDrop(&stop);
        answers_questions(lab);
        lab.say("questions are answered");
        carries_connections(lab);
        lab.say("connections are carried");
        shares_queries(lab, queries);
        lab.say("queries are shared");
        drop(watched);
        let learnt = learnt.join().expect("the watch does not panic");
        let macs: BTreeSet<_> = NODES.iter().map(|node| own_mac(lab, node)).collect();
        assert!(learnt.is_superset(&macs), "the bridge learnt nothing: {learnt:?}");
        assert!(learnt.is_disjoint(&shared), "the bridge learnt a shared MAC: {learnt:?}");
    });
    sent.assert_own_source_only(lab, queries);
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every node gives the same shared addresses.
fn shared_macs(lab: &Lab) -> BTreeSet<Mac> {
    let macs = |node: &&str| lab.status(node).interface.shared_macs();
    let all: BTreeSet<[Mac; 2]> = NODES.iter().map(macs).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().flatten().collect()
}

fn own_mac(lab: &Lab, node: &str) -> Mac {
    let mac = lab.mac(node, "eth0");
    assert_eq!(lab.status(node).interface.mac, mac.to_string());
    mac
}

/// Every address that the bridge has learnt at any look, until `stop`.
fn learnt_by_the_bridge(switch: &Namespace, stop: &AtomicBool) -> BTreeSet<Mac> {
    let mut learnt = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let table = switch.run("bridge fdb show br br0");
        let entries = table.lines().filter(|line| !line.contains("permanent"));
        learnt.extend(entries.filter_map(|line| line.split(' ').next()?.parse::<Mac>().ok()));
        std::thread::sleep(Duration::from_millis(50));
    }
    learnt
}

/// Each question from each address has one answer, from the whole cluster.
fn answers_questions(lab: &Lab) {
    let router = lab.namespace("router");
    let injector = Injector::open(&router, "lan");
    let questions = Questions::new(&injector, &lab.status("n1").interface, 40);
    let capture = Questions::capture(&injector, &router, "lan");
    let before: Vec<u64> = NODES.iter().map(|node| lab.status(node).rx()).collect();
    questions.ask(&injector);
    // Whoever would answer has decided then.
    wait_until(Duration::from_secs(10), "every node has received all questions", || {
        NODES
            .iter()
            .zip(&before)
            .all(|(node, before)| lab.status(node).rx() >= before + questions.len() as u64)
    });
    questions.assert_answered_once(&capture, Duration::from_secs(5));

    for vip in VIPS {
        let said = lab.namespace("client").run(&format!("ping -c 5 -i 0.05 -W 1 {vip}"));
        assert!(said.contains("5 received") && !said.contains("DUP"), "{said}");
    }
}

/// Connections go to whoever owns the client, and stay there.
fn carries_connections(lab: &Lab) {
    let transfers = Transfer::start_all(lab, &plans(1, 24, 2, 50));
    let nodes: BTreeSet<_> = transfers.iter().map(|transfer| transfer.node.clone()).collect();
    assert!(nodes.len() >= 2, "all connections are with {nodes:?}");
    let broken: Vec<_> = transfers.into_iter().filter_map(|one| one.finish().err()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Every query is answered, by one frame on the wire, and the nodes' shares are even.
fn shares_queries(lab: &Lab, queries: u64) {
    let filter = format!("udp src port 53 and not ether src {}", lab.mac("router", "lan"));
    let wire = Capture::start(&lab.namespace("router"), "lan", &filter);
    let report = Load::start(lab, &format!("--queries {queries} --distinct")).finish();
    report.assert_all_answered_once();
    assert_eq!(report.totals.sent, queries);
    // Two points of a hundred are seven standard deviations of a share at 20,000 queries, and four
    // at 6,000.
    report.assert_shared_by(&NODES, 2.0);

    let mut responses: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    for frame in wire.frames() {
        match frame.packet() {
            Packet::Udp { from, to } if VIPS.contains(&from.ip()) => {
                *responses.entry(to).or_default() += 1;
            }
            other => panic!("{other:?} from port 53"),
        }
    }
    let clients: BTreeSet<IpAddr> = responses.keys().map(SocketAddr::ip).collect();
    assert_eq!(clients.len() as u64, queries, "clients with a response on the wire");
    let twice: Vec<_> = responses.iter().filter(|(_, times)| **times != 1).take(5).collect();
    assert!(twice.is_empty(), "more than one response frame: {twice:?}");
}

/// Every frame that the nodes send.
struct SentByNodes(Vec<Capture>);

impl SentByNodes {
    fn capture(lab: &Lab) -> Self {
        let all: Vec<_> = NODES.iter().map(|node| (*node, own_mac(lab, node))).collect();
        let router = lab.mac("router", "lan");
        let capture = |(port, _): &(&str, Mac)| {
            // At the node's port: all that comes from nobody else.
            let others = all.iter().filter(|(node, _)| node != port);
            let others = others.map(|(_, mac)| format!(" and not ether src {mac}"));
            let filter = format!("not ether src {router}{}", others.collect::<String>());
            Capture::start(&lab.namespace("sw"), port, &filter)
        };
        Self(all.iter().map(capture).collect())
    }

    /// Asserts that each node sent from its own address alone: the shared ones are listened to.
    fn assert_own_source_only(&self, lab: &Lab, queries: u64) {
        for (node, capture) in NODES.iter().zip(&self.0) {
            let frames = capture.frames();
            let sources: BTreeSet<_> = frames.iter().map(|frame| frame.source()).collect();
            assert_eq!(sources, BTreeSet::from([own_mac(lab, node)]), "{node}");
            assert!(frames.len() as u64 > queries / 5, "{node} sent only {} frames", frames.len());
        }
    }
}
