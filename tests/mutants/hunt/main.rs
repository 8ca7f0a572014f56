//! Plays scenarios until a check is violated: `hunt SEEDS FIRST...`.
//!
//! First come the scenarios that are named, then the others of the hunt, under each seed and loss
//! rate. `SCENARIO@LOSS/SEED` names a single run. Prints `caught SCENARIO LOSS SEED RULE RUNS`, or `passed RUNS`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use vipdp_simulator::run::run;
use vipdp_simulator::scenarios;

/// The loss rates that are tried, in per cent.
const LOSSES: [u64; 2] = [0, 5];

/// What every mutant is tried with, those that take least time first.
const HUNT: [&str; 23] = [
    "crash",
    "start-together",
    "start-one-by-one",
    "restart-within-d",
    "drain-and-return",
    "drain-and-leave",
    "drain-all",
    "ailing-service",
    "crash-and-failback",
    "stopped-3d",
    "all-stopped",
    "replay-after-reboot",
    "replay-of-moves",
    "roll-add",
    "roll-remove",
    "one-way-cut",
    "pair-cut",
    "mute",
    "deaf",
    "partition-none",
    "partition-majority",
    "gateway-and-mute",
    "chaos",
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seeds: u64 = arguments.next().and_then(|seeds| seeds.parse().ok()).expect("SEEDS");
    let first: Vec<String> = arguments.collect();
    let rest = HUNT.iter().map(|&name| name.to_owned()).filter(|name| !first.contains(name));
    let order: Vec<String> = first.iter().cloned().chain(rest).collect();
    let mut runs = 0;
    for name in &order {
        let (name, single) = match name.split_once('@') {
            Some((name, single)) => (name, Some(single)),
            None => (name.as_str(), None),
        };
        let scenario = scenarios::named(name).unwrap_or_else(|| panic!("no scenario {name}"));
        let number = |text: &str| text.parse().expect("LOSS/SEED");
        let tries: Vec<(u64, u64)> = match single.and_then(|single| single.split_once('/')) {
            Some((loss, seed)) => vec![(number(loss), number(seed))],
            None => (0..seeds).flat_map(|seed| LOSSES.map(|loss| (loss, seed))).collect(),
        };
        for (loss, seed) in tries {
            runs += 1;
            let outcome = catch_unwind(AssertUnwindSafe(|| run(&scenario, loss, seed, false)));
            let rule = match outcome {
                Ok(outcome) => match outcome.violations.first() {
                    Some(violation) => violation.rule.clone(),
                    None => continue,
                },
                Err(_) => "panic".into(),
            };
            println!("caught {name} {loss} {seed} {rule} {runs}");
            return;
        }
    }
    println!("passed {runs}");
}
