//! The table over many runs.

use serde::Serialize;

use crate::MS;
use crate::run::Outcome;

/// A line of the table: a scenario at a loss rate. Times are in nanoseconds; each run counts with
/// its worst bucket.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The scenario's name.
    pub scenario: &'static str,
    /// Per cent of datagrams that were lost.
    pub loss: u64,
    /// How many runs.
    pub runs: usize,
    /// How many of them broke an invariant.
    pub violated: usize,
    /// The longest time that a bucket had nobody.
    pub gap: Spread,
    /// The longest time that a bucket had two owners.
    pub dual: Spread,
    /// How often a bucket got a new owner.
    pub changes: Spread,
    /// In how many runs one node had no news of another, which ran, for D.
    pub silent: usize,
}

/// How a value is spread over runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Not exceeded in half of the runs.
    pub p50: u64,
    /// Not exceeded in 99 of 100 runs.
    pub p99: u64,
    /// Never exceeded.
    pub max: u64,
}

impl Spread {
    /// The spread of `values`.
    pub fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let quantile = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1);
            values.get(rank - 1).copied().unwrap_or(0)
        };
        Self { p50: quantile(50), p99: quantile(99), max: quantile(100) }
    }
}

impl Row {
    /// The line of these runs.
    pub fn new(scenario: &'static str, loss: u64, outcomes: &[Outcome]) -> Self {
        let spread =
            |of: fn(&Outcome) -> u64| Spread::of(outcomes.iter().map(of).collect::<Vec<_>>());
        Self {
            scenario,
            loss,
            runs: outcomes.len(),
            violated: outcomes.iter().filter(|outcome| !outcome.violations.is_empty()).count(),
            gap: spread(|outcome| outcome.gap),
            dual: spread(|outcome| outcome.dual),
            changes: spread(|outcome| outcome.changes),
            silent: outcomes.iter().filter(|outcome| outcome.silences > 0).count(),
        }
    }
}

/// The table as text.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<20} {:>4} {:>6}  {:>24}  {:>24}  {:>20} {:>6} {:>8}\n",
        "scenario",
        "loss",
        "runs",
        "gap p50/p99/max ms",
        "dual p50/p99/max ms",
        "changes",
        "silent",
        "violated",
    );
    for row in rows {
        let time = |spread: &Spread| {
            let [p50, p99, max] =
                [spread.p50, spread.p99, spread.max].map(|ns| ns as f64 / MS as f64);
            format!("{p50:.1}/{p99:.1}/{max:.1}")
        };
        let changes = format!("{}/{}/{}", row.changes.p50, row.changes.p99, row.changes.max);
        text += &format!(
            "{:<20} {:>3}% {:>6}  {:>24}  {:>24}  {:>20} {:>6} {:>8}\n",
            row.scenario,
            row.loss,
            row.runs,
            time(&row.gap),
            time(&row.dual),
            changes,
            row.silent,
            row.violated,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_the_values_of_its_ranks() {
        assert_eq!(Spread::of((1..=1000).collect()), Spread { p50: 500, p99: 990, max: 1000 });
        assert_eq!(Spread::of(vec![7]), Spread { p50: 7, p99: 7, max: 7 });
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
