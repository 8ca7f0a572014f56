//! What the comparison found: figures by row and metric, and ratios of figures of the same round.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::machine::Machine;
use super::rows::{RATIOS, ROWS, Ratio, Wanted};
use super::statistics::Spread;
use super::visit::Visit;

/// A metric: a column.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in `results.json`.
    pub name: &'static str,
    /// Its unit there.
    pub unit: &'static str,
    /// The head of its column.
    pub heading: &'static str,
    /// What the column counts in, of the unit.
    pub scale: f64,
    /// Decimals in the column.
    pub decimals: usize,
}

const fn metric(
    name: &'static str,
    unit: &'static str,
    heading: &'static str,
    scale: f64,
    decimals: usize,
) -> Metric {
    Metric { name, unit, heading, scale, decimals }
}

/// All metrics, in the order of the columns.
pub const METRICS: &[Metric] = &[
    metric("total_pps", "packets/s", "dropped + accepted, Mpps", 1e6, 2),
    metric("accepted_pps", "packets/s", "accepted, Mpps", 1e6, 2),
    metric("read_pps", "packets/s", "read, Mpps", 1e6, 2),
    metric("offered_pps", "packets/s", "offered, Mpps", 1e6, 1),
    metric("cpu_ns_per_packet", "ns", "CPU, ns/packet", 1.0, 0),
    metric("latency_p50_us", "us", "latency p50, us", 1.0, 0),
    metric("latency_p99_us", "us", "latency p99, us", 1.0, 0),
    metric("memory_per_flow", "B", "memory, B/flow", 1.0, 1),
    metric("ping_pong_ns", "ns", "ping-pong, ns", 1.0, 0),
];

/// One figure of one row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The row.
    pub case: &'static str,
    /// The metric.
    pub metric: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Its values.
    #[serde(flatten)]
    pub spread: Spread,
}

/// What the comparison found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// Every figure, by row, then by metric.
    pub results: Vec<Figure>,
    /// Every ratio of which both rows are there.
    #[serde(skip)]
    ratios: Vec<(Ratio, Spread)>,
}

impl Report {
    /// Of these visits.
    pub(super) fn of(machine: Machine, visits: &[Visit]) -> Self {
        let mut results = Vec::new();
        for row in ROWS {
            for metric in METRICS {
                let values = of_rounds(visits, row.name, metric.name);
                if let Some(spread) = Spread::of(values.into_values()) {
                    let (case, metric, unit) = (row.name, metric.name, metric.unit);
                    results.push(Figure { case, metric, unit, spread });
                }
            }
        }
        let ratios = RATIOS.iter().filter_map(|ratio| Some((*ratio, compared(visits, ratio)?)));
        Self { machine, results, ratios: ratios.collect() }
    }

    /// `results.json`: the machine and the figures.
    pub(super) fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("the results cannot be written")
    }

    /// A figure.
    pub(super) fn figure(&self, case: &str, metric: &str) -> Option<&Spread> {
        let found = |figure: &&Figure| figure.case == case && figure.metric == metric;
        self.results.iter().find(found).map(|figure| &figure.spread)
    }

    /// The rows of which there is anything.
    pub(super) fn cases(&self) -> impl Iterator<Item = &'static str> {
        let has = |name: &str| self.results.iter().any(|figure| figure.case == name);
        ROWS.iter().map(|row| row.name).filter(move |&name| has(name))
    }
}

/// The values of a figure, by round.
fn of_rounds(visits: &[Visit], case: &str, metric: &str) -> BTreeMap<u32, f64> {
    let of_case = visits.iter().filter(|visit| visit.case == case);
    of_case.filter_map(|visit| Some((visit.round, *visit.figures.get(metric)?))).collect()
}

/// A ratio, round by round: what changed on the machine between rounds has changed both of its sides.
fn compared(visits: &[Visit], ratio: &Ratio) -> Option<Spread> {
    let by = of_rounds(visits, ratio.by, ratio.metric);
    let of = of_rounds(visits, ratio.case, ratio.metric);
    Spread::of(of.iter().filter_map(|(round, value)| {
        let by = by.get(round).filter(|&&by| by > 0.0)?;
        Some(value / by)
    }))
}

fn shown(spread: &Spread, scale: f64, decimals: usize) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| value / scale);
    format!("{median:.decimals$} [{min:.decimals$}..{max:.decimals$}]")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, cpu, cores, memory_bytes, load_average, rounds, seconds, .. } =
            &self.machine;
        writeln!(f, "# Comparison\n")?;
        writeln!(
            f,
            "{cpu}, {cores} cores, {:.0} GiB, Linux {kernel}; {rounds} rounds, loads of {seconds} s; load average at the \
             start {load_average}. Medians [min..max]. One core receives: the kernel's receive thread, the worker and \
             the socket's owner together; another makes the packets. CPU at half a million packets a second: run time \
             of these threads, by the scheduler. Latency at 70 % of the row's own rate.\n",
            *memory_bytes as f64 / f64::from(1 << 30)
        )?;
        if !self.machine.is_release {
            writeln!(f, "**A debug build: its figures say nothing.**\n")?;
        }
        let has = |metric: &&Metric| self.results.iter().any(|it| it.metric == metric.name);
        let metrics: Vec<_> = METRICS.iter().filter(has).collect();
        write!(f, "| row |")?;
        for metric in &metrics {
            write!(f, " {} |", metric.heading)?;
        }
        writeln!(f, "\n|---|{}", "---|".repeat(metrics.len()))?;
        for case in self.cases() {
            write!(f, "| {case} |")?;
            for metric in &metrics {
                match self.figure(case, metric.name) {
                    Some(it) => write!(f, " {} |", shown(it, metric.scale, metric.decimals))?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        self.fmt_ratios(f)
    }
}

impl Report {
    fn fmt_ratios(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ratios.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n| ratio | of | median [min..max] | wanted |\n|---|---|---|---|")?;
        for (Ratio { case, by, metric, wanted }, spread) in &self.ratios {
            let bound = match wanted {
                Wanted::AtLeast(least) => format!(">= {least}"),
                Wanted::AtMost(most) => format!("<= {most}"),
                Wanted::Shown => String::new(),
            };
            let verdict = match wanted.is_met(spread.median) {
                Some(true) => ": met",
                Some(false) => ": **missed**",
                None => "",
            };
            let shown = shown(spread, 1.0, 2);
            writeln!(f, "| {case} / {by} | {metric} | {shown} | {bound}{verdict} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::options::Cli;
    use super::*;
    use clap::Parser as _;

    /// A report of visits with these total rates, accepted ones a quarter of them.
    pub(in super::super) fn report(rates: &[(&str, u32, f64)]) -> Report {
        let options = Cli::parse_from(["compare"]).options;
        let visits: Vec<_> = rates
            .iter()
            .map(|&(case, round, rate)| {
                let figures = [("total_pps", rate), ("accepted_pps", rate / 4.0)];
                Visit {
                    case: case.to_owned(),
                    round,
                    figures: figures.map(|(name, value)| (name.to_owned(), value)).into(),
                    ..Visit::default()
                }
            })
            .collect();
        Report::of(Machine::read(&options).expect("a machine"), &visits)
    }

    #[test]
    fn figures_are_medians_over_rounds() {
        let rates = [("vipdp", 0, 4e6), ("vipdp", 1, 1e6), ("vipdp", 2, 3e6)];
        let report = report(&rates);
        let spread = Spread { median: 3e6, min: 1e6, max: 4e6 };
        assert_eq!(report.figure("vipdp", "total_pps"), Some(&spread));
        assert_eq!(report.figure("vipdp", "cpu_ns_per_packet"), None);
        assert!(report.to_string().contains("| vipdp | 3.00 [1.00..4.00] | 0.75 [0.25..1.00] |"));
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // Twice as much in each round, whatever the round was like.
        let rates = [
            ("vipdp", 0, 2e6),
            ("xt-cluster", 0, 1e6),
            ("vipdp", 1, 8e6),
            ("xt-cluster", 1, 4e6),
            ("vipdp", 2, 6e6),
        ];
        let text = report(&rates).to_string();
        assert!(text.contains("| vipdp / xt-cluster | total_pps | 2.00 [2.00..2.00] |"), "{text}");
        let rates = [("afxdp-empty", 0, 1e7), ("vipdp-busy-drop-all", 0, 8e6)];
        let text = report(&rates).to_string();
        assert!(text.contains("| 0.80 [0.80..0.80] | >= 0.9: **missed** |"), "{text}");
    }

    #[test]
    fn the_results_have_the_agreed_form() {
        let json = report(&[("xdp-drop", 0, 2e7)]).json().expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let keys: Vec<_> = value.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["machine", "results"]);
        let expected = serde_json::json!({
            "case": "xdp-drop", "metric": "total_pps", "unit": "packets/s",
            "median": 2e7, "min": 2e7, "max": 2e7,
        });
        assert_eq!(value["results"][0], expected);
        assert_eq!(value["machine"]["rounds"], 5);
    }
}
