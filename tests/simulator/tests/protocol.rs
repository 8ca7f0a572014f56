//! Whole clusters of real nodes in virtual time: starts, failures, planned moves, partitions.

use vipdp::cluster::auth::OpenError;
use vipdp::cluster::config::{ConfigId, Member, Parameters, Partition, Timing};
use vipdp::cluster::node::{Alarm, Input, State};
use vipdp::cluster::wire::{Body, MESSAGE_LEN};
use vipdp_core::bucket::Bucket;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_simulator::network::{Network, config, parameters, slot};
use vipdp_simulator::{MS, SECOND};

const H: u64 = 50 * MS;
const D: u64 = 5 * H;

#[test]
fn a_cluster_that_starts_at_once_shares_out_its_buckets() {
    for count in 1..=8 {
        let mut network = Network::new(config(parameters(count)), count, count as u64);
        network.start_all();
        let all: Vec<_> = (0..count).collect();
        network.run_until("an even share for each", SECOND, |n| {
            n.exactly_one_owner() && n.even_over(&all)
        });
        network.run(5 * SECOND);
        assert!(network.even_over(&all));
        assert_eq!(network.coverage.worst_dual, 0, "{count} nodes");
        assert!(network.host(0).alarms.is_empty());
    }
}

#[test]
fn nodes_that_start_one_by_one_never_share_a_bucket() {
    for seed in 0..6 {
        let mut network = Network::new(config(parameters(4)), 4, seed);
        for node in 0..4 {
            network.start(node);
            network.run(97 * MS * (seed + 1));
        }
        network.run_until("one owner each", 2 * SECOND, Network::exactly_one_owner);
        network.run_until("an even share for each", 15 * SECOND, |n| n.even_over(&[0, 1, 2, 3]));
        assert_eq!(network.coverage.worst_dual, 0, "seed {seed}");
    }
}

#[test]
fn the_buckets_of_a_dead_node_are_served_again_within_the_bound() {
    // L1: D + 3h + delay + tick.
    let bound = D + 3 * H + MS + H / 8;
    for seed in 0..20 {
        let mut network = Network::settled(parameters(4), seed);
        network.kill(seed as usize % 4);
        let left: Vec<_> = (0..4).filter(|&node| node != seed as usize % 4).collect();
        network.run_until("the others serve", bound, Network::exactly_one_owner);
        assert!(network.even_over(&left), "{:?}", network.loads());
        let gap = network.coverage.worst_gap;
        assert!(gap <= 320 * MS, "seed {seed}: {} ms", gap / MS);
        assert_eq!(network.coverage.worst_dual, 0);
        network.run(5 * SECOND);
        assert!(network.exactly_one_owner());
    }
}

#[test]
fn every_profile_keeps_its_bound() {
    // PROTOCOL.md, section 4: 10 ms x 5, and 100 ms x 5.
    for (timing, millis) in [(Timing::FAST, 10), (Timing::RELAXED, 100)] {
        let h = millis * MS;
        for seed in 0..8 {
            let parameters = Parameters { timing, ..parameters(4) };
            let mut network = Network::settled(parameters, seed);
            network.tick_latency = h / 8;
            network.kill(seed as usize % 4);
            network.run_until("the others serve", 10 * h, Network::exactly_one_owner);
            let gap = network.coverage.worst_gap;
            // L1: D + 3h + delay + tick.
            assert!(gap <= 5 * h + 3 * h + MS + h / 8, "{millis} ms, seed {seed}: {gap} ns");
            network.run(2 * SECOND);
            assert_eq!(network.coverage.worst_dual, 0);
        }
    }
}

#[test]
fn two_nodes_that_die_together_are_both_replaced() {
    for seed in 0..10 {
        let mut network = Network::settled(parameters(5), seed);
        network.kill(1);
        network.run(seed * 30 * MS);
        network.kill(3);
        network.run_until("the others serve", D + 5 * H, Network::exactly_one_owner);
        assert!(network.even_over(&[0, 2, 4]), "{:?}", network.loads());
        assert_eq!(network.coverage.worst_dual, 0);
    }
}

#[test]
fn a_node_that_returns_waits_and_then_takes_its_buckets_without_a_gap() {
    for seed in 0..5 {
        let mut network = Network::settled(parameters(4), seed);
        network.kill(2);
        network.run(3 * SECOND);
        network.reset();
        network.start(2);
        network.run(10 * SECOND);
        assert_eq!(network.coverage.changes, 0, "nothing moves during the hold");
        network.run_until("its share is back", SECOND, |n| {
            n.even_over(&[0, 1, 2, 3]) && n.exactly_one_owner()
        });
        assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0));
        // Each bucket moved once.
        assert_eq!(network.coverage.changes, 1024);
    }
}

#[test]
fn a_node_that_returns_within_the_detection_time_is_missed_no_longer_than_that() {
    for seed in 0..10 {
        let mut network = Network::settled(parameters(4), seed);
        let down = 20 * MS + seed * 20 * MS;
        network.kill(1);
        network.run(down);
        network.start(1);
        network.run_until("the others serve", SECOND, Network::exactly_one_owner);
        // L2.
        let (gap, bound) = (network.coverage.worst_gap, down + 2 * H + 2 * MS);
        assert!(gap <= bound, "seed {seed}: {} of {} ms", gap / MS, bound / MS);
        network.run_until("its share is back", 12 * SECOND, |n| n.even_over(&[0, 1, 2, 3]));
        assert_eq!(network.coverage.worst_dual, 0);
    }
}

#[test]
fn a_drained_node_is_emptied_and_leaves_without_a_gap() {
    for (seed, loss) in [(1, 0), (2, 1), (3, 5), (4, 30)] {
        let mut network = Network::settled(parameters(4), seed);
        network.link.loss = loss;
        network.input(0, Input::Drain(true));
        network.run_until("it holds nothing", 2 * SECOND, |n| {
            !n.hosts[0].as_ref().unwrap().node.holds_any()
        });
        assert_eq!(network.host(0).node.state(), State::Draining);
        network.run(100 * MS);
        network.kill(0);
        network.run(2 * SECOND);
        assert!(network.even_over(&[1, 2, 3]), "{:?}", network.loads());
        assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0), "{loss} %");
    }
}

#[test]
fn an_undrained_node_gets_its_buckets_back_after_the_hold() {
    let mut network = Network::settled(parameters(3), 9);
    network.input(0, Input::Drain(true));
    network.run(SECOND);
    assert_eq!(network.loads()[0], 0);
    network.input(0, Input::Drain(false));
    network.run(8 * SECOND);
    assert_eq!(network.loads()[0], 0, "at most one move per hold");
    network.run(2 * SECOND);
    assert!(network.even_over(&[0, 1, 2]));
    assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0));
}

#[test]
fn an_ailing_service_drives_its_node_out_at_once() {
    let mut network = Network::settled(parameters(3), 10);
    network.input(1, Input::Health { willing: false });
    network.run(100 * MS);
    assert!(network.even_over(&[0, 2]));
    network.input(1, Input::Health { willing: true });
    network.run(9 * SECOND);
    assert!(network.even_over(&[0, 2]));
    network.run(2 * SECOND);
    assert!(network.even_over(&[0, 1, 2]));
    assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0));
}

#[test]
fn when_all_drain_the_last_holders_keep_serving() {
    let mut network = Network::settled(parameters(3), 11);
    for node in 0..3 {
        network.input(node, Input::Drain(true));
    }
    network.run(2 * SECOND);
    assert!(network.exactly_one_owner());
    assert_eq!(network.coverage.worst_gap, 0);
}

#[test]
fn loss_changes_nothing_in_the_steady_state() {
    for (loss, count) in [(1, 3), (5, 4), (30, 4)] {
        let mut network = Network::settled(parameters(count), loss);
        network.link.loss = loss;
        network.run(60 * SECOND);
        assert_eq!(network.coverage.changes, 0, "{loss} % loss, {count} nodes");
        assert!(network.exactly_one_owner());
    }
}

#[test]
fn planned_moves_under_loss_have_no_gap() {
    for (seed, loss) in [(1, 1), (2, 5), (3, 30)] {
        let mut network = Network::settled(parameters(4), seed);
        network.kill(3);
        network.run(SECOND);
        network.link.loss = loss;
        network.start(3);
        network.reset();
        network.run_until("its share is back", 15 * SECOND, |n| {
            n.even_over(&[0, 1, 2, 3]) && n.exactly_one_owner()
        });
        assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0), "{loss} %");
    }
}

#[test]
fn crashes_under_loss_end_with_one_owner_each() {
    for (loss, extra) in [(1, H), (5, 2 * H), (30, 6 * H)] {
        for seed in 0..5 {
            let mut network = Network::settled(parameters(4), seed);
            network.link.loss = loss;
            network.kill(0);
            network.run_until("the others serve", 5 * SECOND, Network::exactly_one_owner);
            let gap = network.coverage.worst_gap;
            assert!(gap <= D + 3 * H + extra + MS, "{loss} %, seed {seed}: {} ms", gap / MS);
            // S1 with loss: 2h, and h per message that was lost in a row.
            let dual = network.coverage.worst_dual;
            assert!(dual <= 2 * H + extra, "{loss} %, seed {seed}: dual {} ms", dual / MS);
        }
    }
}

#[test]
fn a_lone_node_never_stops_serving() {
    let mut network = Network::new(config(parameters(3)), 3, 12);
    network.start(1);
    let took = network.run_until("it serves all", SECOND, Network::exactly_one_owner);
    assert!(took <= D + 2 * H, "{} ms", took / MS);
    network.reset();
    network.run(30 * SECOND);
    assert_eq!(network.coverage.worst_gap, 0);
    let lease = network.host(1).lease_until;
    assert!(lease > network.now + D - 3 * H && lease <= network.now + D - H);
}

#[test]
fn the_last_of_four_serves_all() {
    let mut network = Network::settled(parameters(4), 13);
    for node in 0..3 {
        network.kill(node);
        network.run(SECOND);
    }
    assert!(network.even_over(&[3]));
}

#[test]
fn a_returned_node_takes_over_at_once_when_the_last_other_dies() {
    let mut network = Network::settled(parameters(2), 14);
    network.kill(1);
    network.run(SECOND);
    network.start(1);
    network.run(2 * SECOND);
    assert_eq!(network.loads()[1], 0, "it holds back");
    network.kill(0);
    network.run_until("it serves all", D + 3 * H, Network::exactly_one_owner);
}

#[test]
fn a_node_that_stood_still_stops_at_its_lease_and_comes_back_as_a_new_one() {
    for seed in 0..5 {
        let mut network = Network::settled(parameters(4), seed);
        network.pause(2, 3 * D);
        network.run(D - H);
        assert_eq!(network.loads()[2], 0, "the data plane enforces the lease");
        network.run(3 * D);
        assert!(network.host(2).alarms.iter().any(|alarm| matches!(alarm, Alarm::Late { .. })));
        assert!(network.even_over(&[0, 1, 3]), "{:?}", network.loads());
        network.run(11 * SECOND);
        assert!(network.even_over(&[0, 1, 2, 3]), "{:?}", network.loads());
        assert_eq!(network.coverage.worst_dual, 0);
    }
}

#[test]
fn a_short_pause_changes_nothing() {
    let mut network = Network::settled(parameters(4), 15);
    network.pause(2, 3 * H);
    network.run(2 * SECOND);
    assert_eq!(network.coverage.changes, 0);
}

#[test]
fn when_all_stood_still_all_start_again() {
    let mut network = Network::settled(parameters(3), 16);
    for node in 0..3 {
        network.pause(node, 2 * SECOND);
    }
    network.run(2 * SECOND);
    network.run_until("one owner each", 2 * SECOND, Network::exactly_one_owner);
    assert!(network.even_over(&[0, 1, 2]));
}

#[test]
fn a_partition_leaves_each_side_serving_and_heals_to_one_owner() {
    let mut network = Network::settled(parameters(4), 17);
    for a in [0, 1] {
        for b in [2, 3] {
            network.link.cuts.extend([(a, b), (b, a)]);
        }
    }
    network.run(2 * SECOND);
    assert!(network.loads().iter().all(|&load| load == 2048), "{:?}", network.loads());
    network.link.cuts.clear();
    network.reset();
    network.run_until("one owner each", D + 4 * H, Network::exactly_one_owner);
    network.run(SECOND);
    assert!(network.exactly_one_owner());
    assert_eq!(network.coverage.worst_gap, 0);
}

#[test]
fn only_the_majority_serves_where_the_policy_says_so() {
    let mut parameters = parameters(3);
    parameters.partition = Partition::Majority;
    let mut network = Network::settled(parameters, 18);
    for other in [1, 2] {
        network.link.cuts.extend([(0, other), (other, 0)]);
    }
    network.run(2 * SECOND);
    assert!(network.even_over(&[1, 2]));
    assert_eq!(network.coverage.worst_dual, 0, "S4");
    assert_eq!(network.host(0).node.state(), State::Fenced);
    network.link.cuts.clear();
    network.run(12 * SECOND);
    assert!(network.even_over(&[0, 1, 2]));
    // A deaf node cannot know that it is acknowledged.
    network.link.cuts.extend([(1, 0), (2, 0)]);
    network.run(2 * SECOND);
    assert!(network.even_over(&[1, 2]), "{:?}", network.loads());
    network.link.cuts.clear();
    network.run(12 * SECOND);
    assert!(network.even_over(&[0, 1, 2]));
    assert_eq!(network.host(0).node.state(), State::Active);
}

/// Of two that do not hear each other the others vote for one, and do not waver.
#[test]
fn one_of_a_pair_that_is_cut_is_fenced_once_and_stays_so() {
    for seed in 0..4 {
        let parameters = Parameters { partition: Partition::Majority, ..parameters(3) };
        let mut network = Network::settled(parameters, seed);
        network.link.cuts.extend([(0, 1), (1, 0)]);
        network.run(15 * SECOND);
        let fenced = [0, 1, 2].map(|node| {
            let alarms = &network.host(node).alarms;
            alarms.iter().filter(|alarm| matches!(alarm, Alarm::Fenced(true))).count()
        });
        assert_eq!(fenced, [0, 1, 0], "seed {seed}");
        assert_eq!(network.host(1).node.state(), State::Fenced);
        assert!(network.exactly_one_owner());
        assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0));
    }
}

#[test]
fn a_node_without_its_gateway_serves_nothing() {
    let mut parameters = parameters(2);
    parameters.partition = Partition::Gateway;
    let mut network = Network::new(config(parameters), 2, 19);
    network.start_all();
    network.run(SECOND);
    assert_eq!(network.loads(), [0, 0], "nobody knows of a gateway yet");
    network.input(0, Input::Gateway(true));
    network.input(1, Input::Gateway(true));
    network.run(SECOND);
    assert!(network.even_over(&[0, 1]), "{:?}", network.loads());
    network.input(1, Input::Gateway(false));
    network.run(200 * MS);
    assert!(network.even_over(&[0]));
    assert_eq!(network.host(1).alarms.last(), Some(&Alarm::Fenced(true)));
}

#[test]
fn one_way_cuts_leave_one_owner_each() {
    // (cut from, cut to) of two nodes: whoever is not heard gives way.
    for cut in [(0, 1), (1, 0)] {
        let mut network = Network::settled(parameters(2), 20);
        network.link.cuts.push(cut);
        network.run(2 * SECOND);
        assert!(network.exactly_one_owner(), "{cut:?}: {:?}", network.loads());
        network.link.cuts.clear();
        network.run(12 * SECOND);
        assert!(network.exactly_one_owner());
    }
    // A node that nobody hears, and a pair that does not hear each other.
    for cuts in [vec![(2, 0), (2, 1), (2, 3)], vec![(0, 3)], vec![(0, 3), (3, 0)]] {
        let mut network = Network::settled(parameters(4), 21);
        network.link.cuts.clone_from(&cuts);
        network.run(4 * SECOND);
        assert!(network.exactly_one_owner(), "{cuts:?}: {:?}", network.loads());
        network.reset();
        network.run(20 * SECOND);
        assert_eq!(network.coverage.changes, 0, "{cuts:?}: nothing moves while nothing changes");
        network.link.cuts.clear();
        network.run(12 * SECOND);
        assert!(network.even_over(&[0, 1, 2, 3]), "{cuts:?}: {:?}", network.loads());
    }
}

#[test]
fn relayed_heartbeats_keep_a_node_alive() {
    let mut network = Network::settled(parameters(3), 22);
    network.link.cuts.push((0, 2));
    network.run(2 * D);
    assert!(network.alive(2, 0) && network.alive(0, 2));
    assert_eq!(network.coverage.changes, 0);
}

#[test]
fn a_second_node_in_a_slot_is_reported_and_never_makes_a_second_owner_for_long() {
    let mut network = Network::settled(parameters(3), 23);
    // The newcomer sits at another place of the network, with slot 1.
    network.hosts.push(None);
    network.start_as(3, 1);
    network.run(3 * SECOND);
    let duplicate = |alarm: &Alarm| matches!(alarm, Alarm::DuplicateSlot { .. });
    assert!(network.host(1).alarms.iter().any(duplicate));
    assert!(network.host(3).alarms.iter().any(duplicate));
    assert!(network.host(1).alarms.contains(&Alarm::Superseded), "the newer one stays");
    assert_eq!(network.loads()[1], 0);
    assert!(network.exactly_one_owner());
    assert_eq!(network.coverage.worst_dual, 0);
}

#[test]
fn messages_of_an_old_session_are_refused() {
    let mut network = Network::settled(parameters(3), 24);
    network.tape = Some(Vec::new());
    network.run(SECOND);
    network.kill(1);
    network.run(SECOND);
    let tape = network.tape.take().unwrap();
    network.start(1);
    network.run(SECOND);
    let before = network.host(0).node.view();
    let session = |view: &vipdp::cluster::node::View| view.members[1].session;
    let old: Vec<_> = tape.into_iter().filter(|packet| packet.from == 1).collect();
    let count = old.len() as u64;
    assert!(count > 10);
    for packet in old {
        network.input(0, Input::Message(Box::new(packet.message.clone())));
    }
    assert_eq!(network.refused(0, OpenError::StaleSession), count);
    assert_eq!(session(&network.host(0).node.view()), session(&before));
    network.run(SECOND);
    assert!(network.even_over(&[0, 2]));
}

#[test]
fn a_restarted_node_believes_no_replayed_message() {
    let mut network = Network::settled(parameters(3), 25);
    network.tape = Some(Vec::new());
    network.run(SECOND);
    for node in 0..3 {
        network.kill(node);
    }
    let tape = network.tape.take().unwrap();
    network.start(0);
    for packet in tape.into_iter().filter(|packet| packet.from != 0) {
        network.input(0, Input::Message(Box::new(packet.message.clone())));
    }
    assert!(network.refused(0, OpenError::UnprovenSession) > 10);
    assert!(!network.alive(0, 1) && !network.alive(0, 2));
    // With nobody really there it serves alone.
    network.run_until("it serves all", SECOND, Network::exactly_one_owner);
}

#[test]
fn a_repeated_message_changes_nothing() {
    let mut network = Network::settled(parameters(3), 26);
    network.tape = Some(Vec::new());
    network.input(0, Input::Drain(true));
    network.run(SECOND);
    let tape = network.tape.take().unwrap();
    assert!(tape.iter().any(|packet| matches!(packet.message.body, Body::Transfer { .. })));
    network.reset();
    for packet in tape.into_iter().filter(|packet| packet.from == 0) {
        for node in [1, 2] {
            network.input(node, Input::Message(Box::new(packet.message.clone())));
        }
    }
    assert!(network.refused(1, OpenError::Replayed) > 0);
    network.run(SECOND);
    assert_eq!(network.coverage.changes, 0);
}

#[test]
fn a_node_that_keeps_failing_is_kept_out_for_minutes() {
    let mut network = Network::settled(parameters(3), 27);
    for _ in 0..3 {
        network.kill(1);
        network.run(SECOND);
        network.start(1);
        network.run(12 * SECOND);
    }
    assert!(network.even_over(&[0, 2]), "{:?}", network.loads());
    network.run(120 * SECOND);
    assert!(network.even_over(&[0, 1, 2]), "{:?}", network.loads());
}

#[test]
fn a_ramp_brings_a_node_back_step_by_step() {
    let mut parameters = parameters(2);
    parameters.timing = Timing { ramp_ns: 8 * SECOND, ..Timing::DEFAULT };
    let mut network = Network::settled(parameters, 28);
    network.kill(0);
    network.run(SECOND);
    network.start(0);
    network.reset();
    let mut last = 0;
    for _ in 0..20 {
        network.run(SECOND);
        assert!(network.loads()[0] >= last);
        last = network.loads()[0];
    }
    assert!(network.even_over(&[0, 1]));
    assert_eq!(network.coverage.changes, 2048, "each bucket moves once");
    assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0));
}

#[test]
fn a_new_configuration_adds_a_node_without_a_gap() {
    let mut network = Network::settled(parameters(4), 29);
    let mut larger = parameters(5);
    larger.id = ConfigId { generation: 2, hash: 7 };
    let larger = config(larger);
    network.hosts.push(None);
    for node in 0..4 {
        network.input(node, Input::Config(larger.clone()));
        network.run(300 * MS);
        let generation = network.host(0).node.view().config.generation;
        assert_eq!(generation, if node == 3 { 2 } else { 1 }, "activated when all have it");
    }
    network.start_with(4, larger);
    network.run(12 * SECOND);
    assert!(network.even_over(&[0, 1, 2, 3, 4]), "{:?}", network.loads());
    assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0));
    // What the newcomer takes moves, once to whoever is next to it and once to itself.
    assert!(network.coverage.changes <= 2 * (4096 / 5 + 1), "{}", network.coverage.changes);
}

#[test]
fn a_removed_member_is_emptied_without_a_gap() {
    let mut network = Network::settled(parameters(4), 30);
    let mut smaller = parameters(4);
    smaller.id = ConfigId { generation: 2, hash: 0 };
    smaller.members[3] = Member { tombstone: true, ..smaller.members[3] };
    let smaller = config(smaller);
    for node in 0..4 {
        network.input(node, Input::Config(smaller.clone()));
        network.run(100 * MS);
    }
    network.run(SECOND);
    assert_eq!(network.host(3).node.view().config.generation, 2);
    assert!(network.even_over(&[0, 1, 2]), "{:?}", network.loads());
    assert_eq!((network.coverage.worst_gap, network.coverage.worst_dual), (0, 0));
}

#[test]
fn differing_files_of_one_generation_are_reported() {
    let mut network = Network::new(config(parameters(3)), 3, 31);
    network.start(0);
    network.start(1);
    let mut other = parameters(3);
    other.id.hash = 2;
    network.start_with(2, config(other));
    network.run(3 * SECOND);
    assert!(network.host(0).alarms.contains(&Alarm::ConfigMismatch { slot: slot(2) }));
    assert!(network.host(2).alarms.contains(&Alarm::ConfigMismatch { slot: slot(0) }));
    assert!(network.exactly_one_owner());
}

#[test]
fn peers_learn_where_to_forward_to() {
    use vipdp_core::wire::ethernet::MacAddr;
    let mut network = Network::settled(parameters(2), 32);
    network.input(0, Input::OwnMac(MacAddr([2, 0, 0, 0, 0, 1])));
    network.run(2 * H);
    let macs = network.host(1).node.peer_macs();
    assert_eq!((macs[0], macs[1]), (Some(MacAddr([2, 0, 0, 0, 0, 1])), None));
}

#[test]
fn messages_survive_the_wire() {
    use vipdp::cluster::auth::{KeyId, Keyring, open, seal};
    let keys = Keyring::new(KeyId(1), [(KeyId(1), [9; 32])]).unwrap();
    let mut network = Network::new(config(parameters(3)), 3, 33);
    network.tape = Some(Vec::new());
    network.start_all();
    network.run(SECOND);
    network.input(0, Input::Drain(true));
    network.run(SECOND);
    let mut kinds = [false; 4];
    let mut datagram = Vec::new();
    for packet in network.tape.take().unwrap() {
        let message = &packet.message;
        kinds[match message.body {
            Body::Heartbeat { .. } => 0,
            Body::Transfer { .. } => 1,
            Body::Candidate { .. } => 2,
            Body::Join { .. } => 3,
        }] = true;
        seal(&keys, message, &mut datagram);
        assert_eq!(datagram.len(), MESSAGE_LEN);
        assert_eq!(*open(&keys, 7, &datagram).unwrap(), *message);
    }
    assert_eq!(kinds, [true; 4]);
}

#[test]
fn where_packets_are_sent_on_all_know_who_had_a_bucket() {
    for steers in [false, true] {
        let mut network = Network::settled(Parameters { steers, ..parameters(4) }, 11);
        for node in 0..4 {
            let mac = MacAddr([2, 0, 0, 0, 0, node as u8]);
            network.input(node, Input::OwnMac(mac));
        }
        let had: Vec<_> = Bucket::all().filter(|&bucket| network.owns(1, bucket)).collect();
        network.input(1, Input::Drain(true));
        network
            .run_until("it is empty", 2 * SECOND, |n| n.loads()[1] == 0 && n.exactly_one_owner());
        network.run(SECOND);
        for (bucket, node) in had.into_iter().flat_map(|bucket| (0..4).map(move |n| (bucket, n))) {
            let owner = (0..4).find(|&node| network.owns(node, bucket)).expect("it has an owner");
            let known = network.host(node).owners.get(bucket);
            let before = (node != 1).then(|| slot(1));
            let expected =
                if steers { (Some(slot(owner)), [before, None]) } else { (None, [None; 2]) };
            assert_eq!((known.now, known.before), expected, "{bucket:?} at {node}");
        }
    }
}
