//! Clusters in which each bucket stands for a next-hop address that the router spreads over.

use vipdp::cluster::config::{Lists, Parameters};
use vipdp::cluster::node::Input;
use vipdp_core::bucket::Bucket;
use vipdp_simulator::network::{Network, config, parameters, slot};
use vipdp_simulator::{MS, SECOND};

const H: u64 = 50 * MS;
const D: u64 = 5 * H;

/// `count` nodes that have shared out their addresses.
fn cluster(count: usize, tiers: usize, seed: u64) -> Network {
    let lists = Lists::Addresses { tiers, compact: false };
    let parameters = Parameters { lists, ..parameters(count) };
    let mut network = Network::new(config(parameters), count, seed);
    network.start_all();
    for node in 0..count {
        network.tell_mac(node);
    }
    network.run_until("each address has its first node", 2 * SECOND, |n| {
        n.config.assignment().buckets().all(|address| first_owns(n, address))
    });
    network.run(SECOND);
    network.reset();
    network
}

fn first_owns(network: &Network, address: Bucket) -> bool {
    let first = network.config.assignment().preference(address)[0];
    network.owns(first.index(), address) && owners(network, address) == 1
}

/// How many nodes own `address`.
fn owners(network: &Network, address: Bucket) -> usize {
    (0..network.hosts.len()).filter(|&node| network.owns(node, address)).count()
}

/// How many addresses have another number of owners than one.
fn astray(network: &Network) -> usize {
    let addresses = network.config.assignment().buckets();
    addresses.filter(|&address| owners(network, address) != 1).count()
}

#[test]
fn each_survivor_takes_one_address_of_a_node_that_dies() {
    for seed in 0..6 {
        let mut network = cluster(6, 2, seed);
        assert_eq!(network.loads(), [5; 6]);
        network.kill(0);
        // L1: D + 3h + delay + tick.
        let bound = D + 3 * H + MS + H / 8;
        network.run_until("all addresses are served", bound, |n| astray(n) == 0);
        assert_eq!(network.loads(), [0, 6, 6, 6, 6, 6]);
        network.run(SECOND);
        network.kill(1);
        network.run_until("the rest is served", bound, |n| n.loads() == [0, 0, 7, 7, 7, 7]);
        network.run(5 * SECOND);
        // Those that were the two dead nodes' alone, in either order, are nobody's.
        assert_eq!((astray(&network), network.coverage.worst_dual), (2, 0));
    }
}

#[test]
fn three_tiers_outlast_two_failures() {
    let mut network = cluster(3, 3, 1);
    assert_eq!(network.loads(), [2; 3]);
    network.kill(0);
    network.kill(2);
    network.run_until("the last one serves all", SECOND, |n| n.loads() == [0, 6, 0]);
    network.start(0);
    network.run_until("the first one is back", 15 * SECOND, |n| n.loads()[0] > 0);
    assert_eq!(network.coverage.worst_dual, 0);
}

#[test]
fn planned_moves_have_no_gap_and_leave_word_of_who_had_what() {
    let mut network = cluster(4, 2, 3);
    let addresses: Vec<_> = network.config.assignment().buckets().collect();
    let theirs = |node: usize, n: &Network| -> Vec<Bucket> {
        addresses.iter().copied().filter(|&address| n.owns(node, address)).collect()
    };
    let moved = theirs(0, &network);
    network.input(0, Input::Drain(true));
    network.run_until("it is empty", SECOND, |n| n.loads()[0] == 0 && astray(n) == 0);
    network.run(SECOND);
    for &address in &moved {
        let owner = (1..4).find(|&node| network.owns(node, address)).expect("it has an owner");
        for node in 0..4 {
            let known = network.host(node).owners.get(address);
            assert_eq!(known.now, Some(slot(owner)), "at {node}");
            let before = if node == 0 { None } else { Some(slot(0)) };
            assert_eq!(known.before, [before, None], "at {node}");
        }
    }
    network.input(0, Input::Drain(false));
    network.run_until("it has them again", 15 * SECOND, |n| theirs(0, n) == moved);
    network.run(SECOND);
    for &address in &moved {
        let second = network.config.assignment().preference(address)[1];
        assert_eq!(network.host(0).owners.get(address).before, [Some(second), None]);
    }
    assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0));
    // One that has died is nobody to ask.
    network.kill(3);
    network.run(2 * SECOND);
    let known = moved.iter().map(|&address| network.host(0).owners.get(address));
    assert!(known.flat_map(|known| known.before).flatten().all(|node| node != slot(3)));
}

/// Whom a packet that begins at `first` does not come by on its round, of those that own anything;
/// nobody, if it is lost on the way, or would not be reset after it.
fn left_out(network: &Network, first: usize) -> Vec<usize> {
    let owners = |node: usize| network.hosts[node].as_ref().map(|host| &host.owners);
    let (mut at, mut asked) = (first, vec![first]);
    loop {
        let Some(known) = owners(at) else { return Vec::new() };
        match known.next_alive(slot(first), slot(at)) {
            Some(next) => at = next.index(),
            None if known.is_incomplete() => return Vec::new(),
            None => break,
        }
        asked.push(at);
    }
    let loads = network.loads();
    (0..loads.len()).filter(|node| loads[*node] > 0 && !asked.contains(node)).collect()
}

#[test]
fn a_round_leaves_nobody_out_while_a_member_comes_back() {
    for seed in 0..8 {
        for place in 0..5 {
            let mut network = cluster(5, 2, seed);
            network.kill(place);
            network.run(20 * SECOND);
            network.start(place);
            network.tell_mac(place);
            let back_by = network.now + SECOND;
            while network.now < back_by {
                network.run(MS / 4);
                for first in (0..5).filter(|&first| first != place) {
                    let left_out = left_out(&network, first);
                    assert!(left_out.is_empty(), "seed {seed}, from {first}: {left_out:?}");
                }
            }
        }
    }
}
