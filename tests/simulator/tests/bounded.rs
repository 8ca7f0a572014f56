//! Every scenario at every loss rate under a few seeds, and the seeds that once broke something.
//! `scripts/soak` runs as many seeds as one likes.

use vipdp_simulator::run::run;
use vipdp_simulator::scenario::Scenario;
use vipdp_simulator::scenarios::{self, LOSSES};

/// What broke, one line each, with the command that repeats it.
fn broken(scenario: &Scenario, loss: u64, seed: u64) -> Vec<String> {
    let outcome = run(scenario, loss, seed, false);
    let line = |violation: &vipdp_simulator::check::Violation| {
        let (name, rule, what) = (scenario.name, &violation.rule, &violation.what);
        format!("scripts/soak --replay {name} {loss} {seed}: {rule}: {what}")
    };
    outcome.violations.iter().map(line).collect()
}

fn assert_holds(scenarios: &[Scenario], seed: u64) {
    let runs = scenarios.iter().flat_map(|scenario| LOSSES.map(|loss| (scenario, loss)));
    let broken: Vec<_> = runs.flat_map(|(scenario, loss)| broken(scenario, loss, seed)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn what_must_hold_holds_in_every_scenario_at_every_loss() {
    let mut scenarios = scenarios::all();
    // Sixty-four nodes take too long without optimization.
    scenarios.retain(|scenario| scenario.one_in == 1);
    assert_holds(&scenarios, 1001);
}

#[test]
fn seeds_that_once_broke_something_do_so_no_more() {
    let once = [
        // A bucket came back to its giver before the echo, and both dropped it.
        ("drain-all", 0, 7),
        // Two that did not hear each other, but both a third one, owned the same for a while.
        ("majority-pair-cut", 0, 0),
        ("majority-pair-cut", 5, 1),
        // One that was deaf took for unclaimed what it had not heard of.
        ("majority-pauses", 1, 5),
        ("majority-pauses", 30, 6),
        ("deaf-majority", 5, 7),
        // One that started behind a cut did not heed that others said who is alive.
        ("majority-restart-cut", 0, 0),
        ("majority-restart-cut", 5, 26),
    ];
    let broken: Vec<_> = once
        .into_iter()
        .flat_map(|(name, loss, seed)| {
            broken(&scenarios::named(name).expect("a scenario"), loss, seed)
        })
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_seed_decides_everything() {
    for (name, loss) in [("crash", 5), ("chaos", 0), ("key-rotation", 30)] {
        let scenario = scenarios::named(name).expect("a scenario");
        let first = run(&scenario, loss, 3, false);
        let again = run(&scenario, loss, 3, true);
        assert_eq!(first.hash, again.hash, "{name}: tracing changes nothing either");
        assert!(again.trace.len() > 100 && first.trace.is_empty());
        assert_ne!(run(&scenario, loss, 4, false).hash, first.hash, "{name}");
    }
}

#[test]
fn scenarios_have_names_of_their_own() {
    let mut names: Vec<_> = scenarios::all().iter().map(|scenario| scenario.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
