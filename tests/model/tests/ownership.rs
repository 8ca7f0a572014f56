//! Explores the model, to its end where it has one, and checks that the checker finds broken rules.
//!
//! `VIPDP_MODEL_STATES=N` lets the explorations that are cut short visit N states, and adds those
//! that take minutes.

#![allow(clippy::print_stdout, reason = "what was explored is told with --nocapture")]

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};
use vipdp_model::{Cluster, Faults, Mutant};

/// How many states are come upon, most of them several times, where there are too many for every `cargo test`.
const STATES: usize = 1_000_000;

/// How many states an exploration that is cut short visits, if more than usual are wanted.
fn states_wanted() -> Option<usize> {
    let wanted = std::env::var("VIPDP_MODEL_STATES").ok()?;
    Some(wanted.parse().expect("VIPDP_MODEL_STATES is a number"))
}

/// `count` nodes that start: so many crashes, drains and repetitions may happen to them.
fn cold(count: usize, [crashes, drains, copies]: [u8; 3]) -> Cluster {
    let faults = Faults { crashes, drains, copies };
    Cluster { count, capacity: 1, settled: false, sparing: false, faults, mutant: None }
}

/// `count` nodes that have started, of which the first owns the bucket.
fn settled(count: usize, faults: [u8; 3]) -> Cluster {
    Cluster { settled: true, ..cold(count, faults) }
}

/// Visits all states, or `limit` of them, and asserts that all that must hold does in each.
fn explore(what: &str, cluster: Cluster, limit: Option<usize>) {
    let start = Instant::now();
    let builder = cluster.checker();
    let builder = if let Some(limit) = limit { builder.target_state_count(limit) } else { builder };
    let checker = builder.spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    let end = if limit.is_some() { "cut short" } else { "all" };
    println!("{what}: {states} states ({end}), {depth} deep, {:?}", start.elapsed());
    for property in cluster.properties() {
        if property.expectation == stateright::Expectation::Always {
            checker.assert_no_discovery(property.name);
        }
    }
    // What must be possible, so that the rest is not true for want of anything that happens.
    let reached: Vec<_> = checker.discoveries().into_keys().collect();
    println!("    reached: {reached:?}");
    let drained = cluster.faults.drains == 0 || reached.contains(&"a batch is accepted");
    let restarted =
        cluster.faults.crashes == 0 || reached.contains(&"a node that has restarted owns");
    assert!(limit.is_some() || drained && restarted, "what must be possible does not happen");
}

#[test]
fn two_nodes_with_a_crash_and_a_drain() {
    let cluster = cold(2, [1, 1, 0]);
    explore("2 nodes from the start, crash and drain", cluster, None);
}

#[test]
fn two_nodes_with_repeated_messages() {
    explore("2 settled nodes, crash and copy", settled(2, [1, 0, 1]), None);
    explore("2 settled nodes, two drains and copy", settled(2, [0, 2, 1]), None);
}

#[test]
fn two_nodes_with_two_messages_on_each_way() {
    let cluster = Cluster { capacity: 2, ..settled(2, [1, 0, 0]) };
    explore("2 settled nodes, two messages each way, crash", cluster, None);
    let cluster = Cluster { capacity: 2, ..settled(2, [0, 1, 0]) };
    explore("2 settled nodes, two messages each way, drain", cluster, None);
}

#[test]
fn three_nodes() {
    let sparing = |faults| Cluster { sparing: true, ..settled(3, faults) };
    explore("3 settled nodes, spare messages, drain", sparing([0, 1, 0]), None);
    let limit = Some(states_wanted().unwrap_or(STATES));
    explore("3 settled nodes, spare messages, two drains", sparing([0, 2, 0]), limit);
    explore("3 settled nodes, spare messages, crash", sparing([1, 0, 0]), limit);
    explore("3 settled nodes, drain", settled(3, [0, 1, 0]), limit);
}

#[test]
fn what_takes_minutes() {
    if states_wanted().is_none() {
        return;
    }
    explore("2 nodes from the start, crash and copy", cold(2, [1, 0, 1]), None);
    explore("2 nodes from the start, two crashes", cold(2, [2, 0, 0]), None);
    explore("2 settled nodes, all", settled(2, [1, 1, 1]), None);
}

/// Asserts that the checker finds out that a rule is broken, and prints how.
fn find_out(mutant: Mutant, cluster: Cluster, which: &str) {
    let cluster = Cluster { mutant: Some(mutant), ..cluster };
    let builder = cluster.checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = builder.spawn_bfs().join();
    let states = checker.unique_state_count();
    let failed = cluster.properties().into_iter().find(|property| {
        property.expectation == stateright::Expectation::Always
            && checker.discovery(property.name).is_some()
    });
    let failed = failed.unwrap_or_else(|| panic!("{mutant:?} passes for right, {states} states"));
    let path = checker.assert_any_discovery(failed.name);
    println!("{mutant:?}: \"{}\" is broken, found in {states} states:", failed.name);
    for action in path.into_actions() {
        println!("    {action:?}");
    }
    assert_eq!(failed.name, which, "{mutant:?}");
}

const ONE_OWNER: &str = "S1: never two owners";

#[test]
fn a_hand_off_that_can_be_revoked_is_found_out() {
    find_out(Mutant::Revocable, cold(2, [0, 2, 0]), ONE_OWNER);
}

#[test]
fn a_missing_barrier_is_found_out() {
    find_out(Mutant::NoBarrier, cold(2, [0, 1, 0]), ONE_OWNER);
}

#[test]
fn a_rank_ignored_is_found_out() {
    find_out(Mutant::RankIgnored, cold(2, [0, 1, 0]), ONE_OWNER);
}

#[test]
fn an_answer_to_a_former_rank_is_found_out() {
    find_out(Mutant::RankNotTold, cold(2, [0, 1, 0]), ONE_OWNER);
}

#[test]
fn a_candidacy_forgotten_too_early_is_found_out() {
    find_out(Mutant::CandidacyForgotten, cold(2, [1, 0, 1]), ONE_OWNER);
}

#[test]
fn a_hand_off_without_an_echo_is_found_out() {
    find_out(Mutant::EchoIgnored, cold(2, [0, 1, 0]), "S2: a planned move has no gap");
}

#[test]
fn repeated_messages_taken_for_new_ones_are_found_out() {
    let which = "nobody owns what is on its way to its heir";
    find_out(Mutant::RepeatedAccepted, settled(2, [0, 2, 1]), which);
}

#[test]
fn a_bucket_lost_on_its_way_round_is_found_out() {
    let cluster = Cluster { sparing: true, ..settled(3, [0, 2, 0]) };
    find_out(Mutant::RoundLost, cluster, "S2: a planned move has no gap");
}
