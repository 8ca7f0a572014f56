//! Runs scenarios under many seeds and prints the table; ends with status 1 on any violation.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use vipdp_simulator::check::Violation;
use vipdp_simulator::clock::EPOCH;
use vipdp_simulator::report::{Row, table};
use vipdp_simulator::run::{Outcome, run};
use vipdp_simulator::scenario::Scenario;
use vipdp_simulator::scenarios::{self, LOSSES};

/// Runs the cluster protocol's fault scenarios under many seeds.
#[derive(Parser)]
struct Arguments {
    /// How many seeds per scenario and loss rate.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Only this scenario; may be given more than once.
    #[arg(long)]
    scenario: Vec<String>,
    /// Only this loss rate, in per cent; may be given more than once.
    #[arg(long)]
    loss: Vec<u64>,
    /// How many threads; by default as many as there are cores.
    #[arg(long)]
    jobs: Option<usize>,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
    /// Run one seed again and print what happens.
    #[arg(long, num_args = 3, value_names = ["SCENARIO", "LOSS", "SEED"])]
    replay: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(replay) = &arguments.replay {
        return replay_one(replay);
    }
    let wanted = |scenario: &Scenario| {
        arguments.scenario.is_empty() || arguments.scenario.iter().any(|name| name == scenario.name)
    };
    let scenarios: Vec<_> = scenarios::all().into_iter().filter(wanted).collect();
    if let Some(unknown) = arguments.scenario.iter().find(|name| scenarios::named(name).is_none()) {
        eprintln!("soak: there is no scenario {unknown:?}; there are: {}", names());
        return ExitCode::from(2);
    }
    let losses = if arguments.loss.is_empty() { LOSSES.to_vec() } else { arguments.loss.clone() };
    let cells: Vec<_> = scenarios
        .iter()
        .flat_map(|scenario| losses.iter().map(move |&loss| (scenario, loss)))
        .collect();
    let rows = soak(&cells, &arguments);
    if arguments.json {
        match serde_json::to_string_pretty(&rows) {
            Ok(json) => println!("{json}"),
            Err(error) => eprintln!("soak: {error}"),
        }
    } else {
        print!("{}", table(&rows));
    }
    let violated: usize = rows.iter().map(|row| row.violated).sum();
    let runs: usize = rows.iter().map(|row| row.runs).sum();
    eprintln!("{runs} runs, {violated} with violations");
    if violated == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn names() -> String {
    scenarios::all().iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ")
}

/// Runs all seeds of all cells on all cores.
fn soak(cells: &[(&Scenario, u64)], arguments: &Arguments) -> Vec<Row> {
    let last = arguments.first_seed + arguments.seeds;
    let work: Vec<_> = (arguments.first_seed..last)
        .flat_map(|seed| (0..cells.len()).map(move |cell| (cell, seed)))
        .filter(|&(cell, seed)| seed.is_multiple_of(cells[cell].0.one_in))
        .collect();
    let outcomes: Vec<_> = cells.iter().map(|_| Mutex::new(Vec::new())).collect();
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.unwrap_or(cores) {
            scope.spawn(|| {
                while let Some(&(cell, seed)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (scenario, loss) = cells[cell];
                    let outcome = run_one(scenario, loss, seed);
                    tell(scenario, loss, seed, &outcome);
                    outcomes[cell].lock().expect("runs do not panic here").push(outcome);
                }
            });
        }
    });
    cells
        .iter()
        .zip(outcomes)
        .map(|(&(scenario, loss), outcomes)| {
            Row::new(scenario.name, loss, &outcomes.into_inner().expect("runs do not panic here"))
        })
        .collect()
}

/// A run; a panic of the protocol is a violation.
fn run_one(scenario: &Scenario, loss: u64, seed: u64) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run(scenario, loss, seed, false))).unwrap_or_else(|_| {
        Outcome {
            nodes: 0,
            gap: 0,
            dual: 0,
            changes: 0,
            silences: 0,
            violations: vec![Violation { rule: "panic".into(), at: EPOCH, what: String::new() }],
            hash: 0,
            trace: Vec::new(),
        }
    })
}

fn tell(scenario: &Scenario, loss: u64, seed: u64, outcome: &Outcome) {
    for violation in &outcome.violations {
        let at = (violation.at - EPOCH) / 1_000_000;
        let (name, rule, what) = (scenario.name, &violation.rule, &violation.what);
        let nodes = outcome.nodes;
        eprintln!("{name} {loss} {seed}: {nodes} nodes, {rule} at {at} ms: {what}");
    }
}

fn replay_one(replay: &[String]) -> ExitCode {
    let (Some(scenario), Ok(loss), Ok(seed)) =
        (scenarios::named(&replay[0]), replay[1].parse(), replay[2].parse())
    else {
        eprintln!("soak: --replay SCENARIO LOSS SEED, with one of: {}", names());
        return ExitCode::from(2);
    };
    let outcome = run(&scenario, loss, seed, true);
    for line in &outcome.trace {
        println!("{line}");
    }
    tell(&scenario, loss, seed, &outcome);
    print!("{}", table(&[Row::new(scenario.name, loss, std::slice::from_ref(&outcome))]));
    println!("hash {:016x}", outcome.hash);
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
