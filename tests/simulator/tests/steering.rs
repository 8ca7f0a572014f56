//! Clusters of the anycast mode that steer packets: who has and had each bucket, as every node tells
//! its data plane, which looks for flows there.

use vipdp::cluster::config::Parameters;
use vipdp::cluster::node::Input;
use vipdp_core::bucket::Bucket;
use vipdp_core::slot::Slot;
use vipdp_simulator::network::{Network, config, parameters, slot};
use vipdp_simulator::{MS, SECOND};

const NODES: usize = 5;
const SEEDS: u64 = 20;

fn start(network: &mut Network, node: usize) {
    network.start(node);
    network.tell_mac(node);
}

fn cut_off(network: &mut Network, node: usize) {
    let others = (0..NODES).filter(|&other| other != node);
    network.link.cuts.extend(others.flat_map(|other| [(node, other), (other, node)]));
}

/// Nodes that each took themselves for the only one, until they heard each other.
fn cluster(seed: u64) -> Network {
    let config = config(Parameters { steers: true, ..parameters(NODES) });
    let mut network = Network::new(config, NODES, seed);
    for node in 0..NODES {
        cut_off(&mut network, node);
    }
    for node in 0..NODES {
        start(&mut network, node);
    }
    network.run_until("each has all", SECOND, |n| n.loads().iter().all(|&load| load == 4096));
    network.link.cuts.clear();
    settle(&mut network, &[0, 1, 2, 3, 4]);
    network
}

/// Waits until `nodes` share all buckets, and have told each other.
fn settle(network: &mut Network, nodes: &[usize]) {
    network.run_until("an even share for each", 20 * SECOND, |n| {
        n.exactly_one_owner() && n.even_over(nodes)
    });
    network.run(500 * MS);
}

/// Which of `nodes` owns each bucket.
fn owners_among(network: &Network, nodes: &[usize]) -> Vec<Slot> {
    let owner = |bucket| nodes.iter().find(|&&node| network.owns(node, bucket));
    Bucket::all().map(|bucket| slot(*owner(bucket).expect("each bucket has one"))).collect()
}

/// Asserts that `nodes` all know who has each bucket, and that who has it knows who had it when it was
/// `before`.
fn assert_known(network: &mut Network, nodes: &[usize], before: &[Slot], what: &str) {
    let now = owners_among(network, nodes);
    for &node in nodes {
        let known = network.host(node).owners.clone();
        for (bucket, (&now, &before)) in Bucket::all().zip(now.iter().zip(before)) {
            let told = known.get(bucket);
            assert_eq!(told.now, Some(now), "{what}, node {node}, {bucket:?}: {told:?}");
            if now == slot(node) && before != now && nodes.contains(&before.index()) {
                assert_eq!(told.before[0], Some(before), "{what}, node {node}, {bucket:?}");
            }
        }
    }
}

#[test]
fn nodes_that_started_apart_know_who_has_each_bucket() {
    for seed in 0..SEEDS {
        let all = [0, 1, 2, 3, 4];
        let mut network = cluster(seed);
        let shared = owners_among(&network, &all);
        assert_known(&mut network, &all, &shared, "when they have met");
        network.input(4, Input::Drain(true));
        settle(&mut network, &all[..4]);
        network.kill(4);
        network.run(SECOND);
        let without = owners_among(&network, &all[..4]);
        assert_known(&mut network, &all[..4], &without, "when one has left");
        start(&mut network, 4);
        settle(&mut network, &all);
        assert_known(&mut network, &all, &without, "when it is back");
    }
}

#[test]
fn a_node_that_was_cut_off_is_not_taken_for_the_owner_of_what_it_gave_up() {
    for seed in 0..SEEDS {
        let all = [0, 1, 2, 3, 4];
        let mut network = cluster(seed);
        cut_off(&mut network, 3);
        network.run_until("it has all", 5 * SECOND, |n| n.loads()[3] == 4096);
        network.run(SECOND);
        let meanwhile = owners_among(&network, &[0, 1, 2, 4]);
        network.link.cuts.clear();
        settle(&mut network, &all);
        assert_known(&mut network, &all, &meanwhile, "when it is heard again");
    }
}
