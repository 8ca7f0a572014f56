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
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use vipdp_tests::clock::Moment;
use vipdp_tests::frame::{self, Mac};
use vipdp_tests::host::HostState;
use vipdp_tests::inject::Injector;
use vipdp_tests::lab::{Lab, Options};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::namespace::Namespace;
use vipdp_tests::status::Address;
use vipdp_tests::transfer::{Plan, Transfer, UNTIL_STOPPED_S, plans};
use vipdp_tests::vipdp;
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
/// How far apart a host says that it has an address (RFC 5227, section 1.1).
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// Queries a second.
const RATE: u64 = 2_000;

fn tiered(nodes: u8, mac: &'static str) -> Options {
    Options { mode: "tiered", nodes, mac, ..Options::default() }
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
            ips.extend([address.ip4.map(IpAddr::from), address.ip6.map(IpAddr::from)]);
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
    let load = Load::start_flowing(&lab, RATE, "n1");
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
    let load = Load::start_flowing(&lab, RATE, "n1");
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

/// Makes the router deaf to claims: what asks nobody and is asked by nobody.
fn ignore_claims(router: &Namespace) {
    router.run("nft add table netdev deaf");
    router.run("nft add chain netdev deaf in { type filter hook ingress device lan priority 0; }");
    for claim in [
        "ether daddr ff:ff:ff:ff:ff:ff arp saddr ip 10.53.1.0/24",
        "ether daddr 33:33:00:00:00:01 icmpv6 type nd-neighbor-advert",
    ] {
        router.run(&format!("nft add rule netdev deaf in {claim} counter drop"));
    }
}

/// Kills each of three nodes under load; returns the longest gap that clients saw, nanoseconds.
#[track_caller]
fn gap_of_kills(lab: &Lab, what: &str) -> u64 {
    let nodes = &NODES[..3];
    let gap_of = |node: &&str| {
        let load = Load::start_flowing(lab, RATE, "n1");
        let crash = lab.kill(node);
        let others: Vec<_> = nodes.iter().copied().filter(|other| other != node).collect();
        lab.wait_shared_by(&others, SOON);
        let gap_ns = assert_lost_only_at(lab, &load.stop(), &format!("{what}: {node}"), crash);
        lab.topology(&format!("start {node}"));
        lab.wait_shared_by(nodes, SOON);
        gap_ns
    };
    nodes.iter().map(gap_of).max().expect("there are three")
}

/// What the router takes the IPv4 next hops for: MAC addresses by address.
fn neighbours(lab: &Lab) -> BTreeMap<String, String> {
    let said = lab.namespace("router").run("ip -4 neighbour show to 10.53.1.0/24 dev lan");
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let (address, mac) = (words.next()?, words.skip_while(|word| *word != "lladdr").nth(1)?);
        Some((address.to_owned(), mac.to_owned()))
    };
    said.lines().filter_map(entry).collect()
}

#[test]
fn a_kill_costs_detection_and_a_claim_whatever_next_hops_resolve_to() {
    let mut figures = vec!["mac      claims   longest gap of three kills".to_owned()];
    let mut note = |mac: &str, claims: &str, gap_ns: u64| {
        figures.push(format!("{mac:<8} {claims:<8} {} ms", gap_ns / MS));
    };
    {
        let lab = Lab::up(&tiered(3, "virtual"));
        note("virtual", "heard", gap_of_kills(&lab, "virtual"));
        let known = neighbours(&lab);
        assert_eq!(known.len(), 6, "{known:?}");
        let router = lab.namespace("router");
        ignore_claims(&router);
        note("virtual", "ignored", gap_of_kills(&lab, "virtual, claims ignored"));
        let dropped = router.run("nft list chain netdev deaf in");
        assert_eq!(dropped.matches("counter packets").count(), 2, "{dropped}");
        assert!(!dropped.contains("packets 0 "), "nobody claimed anything: {dropped}");
        assert_eq!(neighbours(&lab), known, "the router's entries stay right");
    }
    {
        let lab = Lab::up(&tiered(3, "node"));
        note("node", "heard", gap_of_kills(&lab, "node"));
        let macs: BTreeSet<_> = neighbours(&lab).into_values().collect();
        let own = NODES[..3].iter().map(|node| lab.mac(node, "eth0").to_string()).collect();
        assert_eq!(macs, own);
    }
    eprintln!("{}", figures.join("\n"));
}

/// `count` connections to addresses of both prefixes, numbered from `first`, until they are told to
/// end: two lines of `line_len` bytes a second each way.
fn connections(lab: &Lab, first: u16, count: u16, line_len: u32) -> Vec<Transfer> {
    let servers = lab.servers();
    let to_prefix = |(number, plan): (usize, Plan)| {
        let of_family = servers.iter().filter(|server| server.is_ipv4() == plan.source.is_ipv4());
        let server = of_family.copied().cycle().nth(number / 2).expect("both families are served");
        Plan { server, line_len, ..plan }
    };
    let plans: Vec<_> =
        plans(first, count, UNTIL_STOPPED_S, 2).into_iter().enumerate().map(to_prefix).collect();
    Transfer::start_all(lab, &plans)
}

/// Waits until every connection has carried two more lines each way, or says what broke some.
#[track_caller]
fn assert_all_go_on(lab: &Lab, transfers: &mut Vec<Transfer>, what: &str) {
    let before: Vec<_> = transfers.iter().map(Transfer::lines).collect();
    // Longer than a transfer's patience: one that stands still is over then.
    wait_until(Duration::from_secs(30), &format!("all connections go on: {what}"), || {
        let goes_on = |(one, before): (&Transfer, &u32)| one.lines() >= before + 2;
        transfers.iter().any(Transfer::is_over) || transfers.iter().zip(&before).all(goes_on)
    });
    let over: Vec<_> = transfers.extract_if(.., |one| one.is_over()).collect();
    let over: Vec<_> = over.into_iter().map(|one| (one.node.clone(), one.finish())).collect();
    assert!(over.is_empty(), "{} broke: {what}: {over:#?}", over.len());
    lab.say(&format!("all {} connections go on: {what}", transfers.len()));
}

/// Gives a node an order.
#[track_caller]
fn order(lab: &Lab, node: &str, order: &str) {
    let output = vipdp::run(&lab.namespace("client"), &[order], &lab.config(node));
    assert!(output.status.success(), "{order}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes the next generation of the cluster's file, and has the nodes read it.
#[track_caller]
fn change_cluster(lab: &Lab, nodes: &[&str], change: impl FnOnce(String) -> String) {
    let path = lab.shared_file("cluster.toml");
    let text = fs::read_to_string(&path).expect("the lab has one");
    let generation = lab.status(nodes[0]).node.generation;
    let line = |generation| format!("generation = {generation}\n");
    let next = text.replace(&line(generation), &line(generation + 1));
    assert_ne!(text, next);
    fs::write(path, change(next)).expect("root may write it");
    for node in nodes {
        order(lab, node, "reload");
    }
    wait_until(SOON, "all go by it", || {
        nodes.iter().all(|node| lab.status(node).node.generation == generation + 1)
    });
}

const N5: &str = "\n[[member]]\nslot = 4\nname = \"n5\"\naddress = \"192.0.2.15\"\nweight = 1\n";

/// Adds n5 to a cluster of four.
#[track_caller]
fn add_n5(lab: &Lab) {
    change_cluster(lab, &NODES[..4], |text| text + N5);
    lab.topology("start n5");
    lab.wait_shared_by(&NODES[..5], SOON);
}

/// Takes a node from the others and from its clients at one blow, with all that runs on it.
#[track_caller]
fn crash(lab: &Lab, node: &str) {
    lab.namespace("sw").run(&format!("ip link set {node} down"));
    lab.kill(node);
    // Its sockets have nobody left to tell.
    for pid in lab.namespace(node).processes() {
        kill(pid, Signal::SIGKILL).expect("it runs");
    }
}

#[test]
fn what_is_planned_breaks_no_connection_and_a_crash_only_its_own() {
    const WITHOUT_N2: [&str; 3] = ["n1", "n3", "n4"];
    let (four, five) = (&NODES[..4], &NODES[..5]);
    let lab = Lab::up(&Options { spares: 1, ..tiered(4, "virtual") });
    let n5 = lab.namespace("n5");
    let mut pristine = HostState::read(&n5);
    let mut transfers = connections(&lab, 1, 200, 100);
    for node in four {
        let with_it = transfers.iter().filter(|one| one.node == **node).count();
        assert!(with_it >= 20, "{with_it} of 200 connections are with {node}");
    }
    assert_all_go_on(&lab, &mut transfers, "they began");

    order(&lab, "n2", "drain");
    lab.wait_shared_by(&WITHOUT_N2, SOON);
    assert_all_go_on(&lab, &mut transfers, "n2 is drained");
    order(&lab, "n2", "undrain");
    lab.wait_shared_by(four, SOON);
    assert_all_go_on(&lab, &mut transfers, "n2 is back");

    for (node, end) in [("n3", "kill"), ("n1", "stop")] {
        lab.topology(&format!("{end} {node}"));
        lab.topology(&format!("start {node}"));
        lab.wait_shared_by(four, SOON);
        assert_all_go_on(
            &lab,
            &mut transfers,
            &format!("vipdp on {node} has ended, by {end}, and is back"),
        );
    }

    add_n5(&lab);
    assert_all_go_on(&lab, &mut transfers, "n5 has joined");
    lab.topology("routes 5");
    assert_all_go_on(&lab, &mut transfers, "the router has its next hops");
    transfers.extend(connections(&lab, 301, 40, 100));
    assert!(transfers.iter().any(|one| one.node == "n5"), "n5 gets none of 40 connections");
    assert_served_by(&lab, five, 1);

    crash(&lab, "n4");
    lab.wait_shared_by(&["n1", "n2", "n3", "n5"], SOON);
    let (with_n4, mut others): (Vec<_>, Vec<_>) =
        transfers.into_iter().partition(|one| one.node == "n4");
    assert_all_go_on(&lab, &mut others, "n4 has crashed");
    Transfer::assert_all_end_well(others);
    let ended_well = with_n4.into_iter().filter_map(|one| one.finish().ok()).count();
    assert_eq!(ended_well, 0, "connections without anybody at their other end");

    lab.topology("stop n5");
    if n5.run("ip -d link show dev eth0").contains(" tun ") {
        // A TAP in the NIC's place has had its first link meanwhile, and an address for it.
        pristine = HostState::read(&n5);
    }
    let assert_put_back = || {
        let changes = HostState::read(&n5).changes_since(&pristine);
        assert!(changes.is_empty(), "the host is not as it was:\n{}", changes.join("\n"));
    };
    assert_put_back();
    lab.topology("start n5");
    lab.topology("kill n5");
    let left = HostState::read(&n5).changes_since(&pristine);
    assert!(!left.is_empty(), "a killed vipdp leaves nothing");
    let cleanup = vipdp::run(&n5, &["cleanup"], &lab.config("n5"));
    assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
    assert_put_back();
}

/// Routes the VIPs over the next hops of the cluster's status in the plain way, by a threshold of
/// the hash: another number of next hops sends most flows elsewhere.
#[track_caller]
fn route_plainly(lab: &Lab) {
    let addresses = lab.status("n1").addresses;
    let hops = |hop: fn(&Address) -> Option<IpAddr>| -> String {
        addresses.iter().filter_map(hop).map(|hop| format!(" nexthop via {hop}")).collect()
    };
    for (family, vips, hops) in [
        ("-4", "198.51.100.0/24", hops(|one| one.ip4.map(IpAddr::from))),
        ("-6", "2001:db8:80::/64", hops(|one| one.ip6.map(IpAddr::from))),
    ] {
        let line = format!("ip {family} route replace {vips} proto static{hops}");
        lab.namespace("router").run(&line);
    }
}

/// A router without resilient groups: with other next hops most flows come by another address, and
/// who has that one finds theirs with `search = "members"`.
fn flows_are_found_where_the_router_spreads_anew(mac: &'static str) {
    let four = &NODES[..4];
    let lab = Lab::up(&Options { spares: 1, ..tiered(4, mac) });
    // It is not to be changed while a node runs.
    four.iter().for_each(|node| drop(lab.topology(&format!("kill {node}"))));
    let path = lab.shared_file("cluster.toml");
    let text = fs::read_to_string(&path).expect("the lab has one");
    let text = text.replace("[tiered]\n", "[tiered]\nsearch = \"members\"\n");
    fs::write(path, text).expect("root may write it");
    four.iter().for_each(|node| drop(lab.topology(&format!("start {node}"))));
    lab.wait_shared_by(four, SOON);
    route_plainly(&lab);
    let mut transfers = connections(&lab, 1, 80, 100);
    assert_all_go_on(&lab, &mut transfers, "they began");
    add_n5(&lab);
    route_plainly(&lab);
    let passed_on = || NODES[..5].iter().map(|node| lab.status(node).forwarded()).sum::<u64>();
    let before = passed_on();
    assert_all_go_on(&lab, &mut transfers, "the router spreads anew");
    assert!(passed_on() >= before + 40, "the router did not spread anew");
    order(&lab, "n2", "drain");
    lab.wait_shared_by(&["n1", "n3", "n4", "n5"], SOON);
    assert_all_go_on(&lab, &mut transfers, "n2 is drained");
    Transfer::assert_all_end_well(transfers);
}

#[test]
fn a_router_that_spreads_anew_breaks_nothing_where_all_members_are_asked() {
    flows_are_found_where_the_router_spreads_anew("virtual");
}

#[test]
fn so_it_does_where_nodes_do_not_know_by_which_address_a_packet_came() {
    flows_are_found_where_the_router_spreads_anew("node");
}

/// Lets the router send no packets larger than `mtu` to the clients.
fn narrow(lab: &Lab, mtu: u32) {
    let router = lab.namespace("router");
    router.run(&format!("ip route replace 10.64.0.0/16 via 198.18.0.2 mtu {mtu}"));
    router.run(&format!("ip route replace fd64::/64 via 2001:db8:c::2 mtu {mtu}"));
}

/// Asserts that the kernel of every node that has connections has been told of the MTU.
#[track_caller]
fn assert_told(lab: &Lab, nodes: &[&str], mtu: u32) {
    for node in nodes {
        for family in ["-4", "-6"] {
            let known = lab.namespace(node).run(&format!("ip {family} route show table all cache"));
            assert!(known.contains(&format!("mtu {mtu}")), "{node}: {known}");
        }
    }
}

/// A packet too big is told of by the router, whose messages come by any next hop.
fn transfers_pass_a_narrow_path(options: &Options) {
    let nodes = &NODES[..3];
    let lab = Lab::up(options);
    let mut transfers = connections(&lab, 1, 48, 4_000);
    for node in nodes {
        assert!(transfers.iter().filter(|one| one.node == *node).count() >= 4, "{node}");
    }
    narrow(&lab, 1_400);
    assert_all_go_on(&lab, &mut transfers, "a path of 1,400 bytes");
    assert_told(&lab, nodes, 1_400);
    order(&lab, "n2", "drain");
    lab.wait_shared_by(&["n1", "n3"], SOON);
    narrow(&lab, 1_300);
    assert_all_go_on(&lab, &mut transfers, "a path of 1,300 bytes, n2 drained");
    assert_told(&lab, nodes, 1_300);
    Transfer::assert_all_end_well(transfers);
}

#[test]
fn transfers_pass_a_path_that_becomes_narrow() {
    transfers_pass_a_narrow_path(&tiered(3, "virtual"));
}

#[test]
fn so_they_do_by_the_nodes_own_macs_and_through_the_data_plane_both_ways() {
    transfers_pass_a_narrow_path(&Options { egress: "tap", ..tiered(3, "node") });
}

/// The same where every node hears of it, and one of them has the flow.
#[test]
fn so_they_do_behind_a_shared_mac() {
    transfers_pass_a_narrow_path(&Options { nodes: 3, ..Options::default() });
}

/// What the router takes a next hop for, if it knows.
fn neighbour(lab: &Lab, hop: IpAddr) -> Option<String> {
    let said = lab.namespace("router").run(&format!("ip neighbour show to {hop} dev lan"));
    Some(said.split_once("lladdr ")?.1.split(' ').next()?.to_owned())
}

#[test]
fn a_stranger_who_has_a_next_hop_is_told_of_and_does_not_get_its_packets() {
    let lab = Lab::up(&Options { spares: 1, ..tiered(3, "virtual") });
    let hop = lab.status("n2").addresses.into_iter().find(|one| one.owner == Some(1));
    let hop = hop.expect("n2 has next hops");
    let (ip4, ip6) = hop.ip4.zip(hop.ip6).expect("of both families");
    let is_right = || {
        let macs = [neighbour(&lab, ip4.into()), neighbour(&lab, ip6.into())];
        macs.iter().all(|mac| *mac == hop.mac)
    };
    let told = |text: &str| {
        let log = fs::read_to_string(lab.directory("n2").join("vipdp.log")).expect("it has one");
        let is_it = |line: &&str| line.contains("no member") && line.contains(text);
        log.lines().filter(is_it).count()
    };
    let (name4, name6) = (format!("address={ip4} "), format!("address={ip6} "));

    // It comes and says so, twice, as RFC 5227 has it: 2 s apart.
    let load = Load::start_flowing(&lab, RATE, "n1");
    wait_until(SOON, "the router knows the next hop", is_right);
    // On a wire of its own: n4's NIC may be DPDK's.
    let stranger = lab.namespace("n4");
    stranger.run("ip link set eth0 down");
    let switch = lab.namespace("sw");
    switch.run(&format!("ip link add stranger type veth peer stranger netns {}", stranger.name()));
    switch.run("ip link set stranger master br0 up");
    stranger.run("ip link set stranger up");
    stranger.run(&format!("ip address add {ip4}/32 dev stranger"));
    stranger.run(&format!("ip address add {ip6}/128 dev stranger nodad"));
    let injector = Injector::open(&stranger, "stranger");
    let claim = || {
        injector.send(&frame::arp_request(injector.mac(), Mac::BROADCAST, ip4, ip4));
        injector.send(&frame::unsolicited_advertisement(injector.mac(), ip6));
    };
    let first = Moment::now();
    claim();
    wait_until(SOON, "n2 tells of it", || told(&name4) == 1 && told(&name6) == 1);
    wait_until(SOON, "the router is told right", is_right);
    std::thread::sleep(ANNOUNCE_INTERVAL);
    claim();
    wait_until(SOON, "the router believes the stranger", || !is_right());
    wait_until(SOON, "the router is told right once more", is_right);
    let report = load.stop();
    let at = first.monotonic_ns;
    let lost: Vec<_> =
        report.lost.iter().map(|lost| (lost.sent_at_ns as f64 - at as f64) / 1e6).collect();
    let (count, begin, end) = (lost.len(), lost.first(), lost.last());
    lab.say(&format!("{count} lost, {begin:?} to {end:?} ms after the first claim"));
    // A sixth of what comes in the second until the claim is repeated, and as much again.
    assert!(lost.len() as u64 <= RATE / 3, "{lost:?}");
    assert!(lost.iter().all(|&ms| (-50.0..5_000.0).contains(&ms)), "{lost:?}");
    report.assert_no_duplicates();
    assert_served_by(&lab, &NODES[..3], 1);

    // One that is there before it answers a node that starts, which asks.
    lab.topology("kill n2");
    lab.topology("start n2");
    wait_until(SOON, "n2 hears of it as it starts", || told(&name4) == 2 && told(&name6) == 2);
    lab.wait_shared_by(&NODES[..3], SOON);
    wait_until(SOON, "the router is told right by n2", is_right);
    assert_served_by(&lab, &NODES[..3], 1);
}
