//! Breaks the protocol's rules one by one, and asserts that the simulator finds each out.
//!
//! By default a few of them, which takes about a minute; with `VIPDP_MUTANTS=all`, which
//! `scripts/mutants` sets, all. `VIPDP_MUTANTS=WORD` takes those whose names contain the word.

#![allow(clippy::print_stdout, reason = "the table is told with --nocapture")]

use std::path::Path;

use vipdp_mutants::{ALWAYS, Bench, MUTANTS, Mutant, Verdict, root};

/// Seeds per scenario and loss rate for a mutant, and for the protocol as it is.
const SEEDS: u64 = 2;

fn chosen() -> Vec<&'static Mutant> {
    let wanted = std::env::var("VIPDP_MUTANTS").ok();
    let takes = |mutant: &&Mutant| match wanted.as_deref() {
        Some("all") => true,
        Some(word) => mutant.name.contains(word),
        None => ALWAYS.contains(&mutant.name),
    };
    MUTANTS.iter().filter(takes).collect()
}

#[test]
fn each_broken_rule_is_found_out() {
    let bench = Bench::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants")).unwrap();
    let sound = bench.hunt(None, SEEDS).unwrap_or_else(|why| panic!("the protocol: {why}"));
    println!("{:<36}{:<24}{:<6}{:<6}{:<10}runs", "mutant", "scenario", "loss", "seed", "check");
    assert!(matches!(sound, Verdict::Passed(_)), "nothing is broken, and yet: {sound:?}");
    let mut passed = Vec::new();
    for mutant in chosen() {
        match bench.hunt(Some(mutant), SEEDS).unwrap_or_else(|why| panic!("{why}")) {
            Verdict::Caught { scenario, loss, seed, rule, runs } => {
                println!("{:<36}{scenario:<24}{loss:<6}{seed:<6}{rule:<10}{runs}", mutant.name);
            }
            Verdict::Passed(runs) => {
                println!("{:<36}NOT CAUGHT in {runs} runs", mutant.name);
                passed.push(mutant.name);
            }
        }
        println!("    breaks: {}", mutant.rule);
    }
    assert!(passed.is_empty(), "nothing notices: {passed:?}");
}

#[test]
fn each_mutant_has_its_line_and_a_name_of_its_own() {
    for mutant in MUTANTS {
        let path = root().join("control/src/cluster").join(mutant.file);
        let source = std::fs::read_to_string(&path).unwrap();
        let broken = mutant.apply(&source).unwrap_or_else(|why| panic!("{why}"));
        assert_ne!(broken, source);
        assert_eq!(MUTANTS.iter().filter(|other| other.name == mutant.name).count(), 1);
    }
    for name in ALWAYS {
        assert!(MUTANTS.iter().any(|mutant| mutant.name == name), "{name}");
    }
}
