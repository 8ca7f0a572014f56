//! What the comparison found: figures by case and metric, and ratios of figures of the same round.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::group::Group;
use super::machine::Machine;
use super::ratios::{RATIOS, Ratio, Wanted};
use super::session::Failure;
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
    metric("idle_cpu_percent", "%", "idle, % of a core", 1.0, 2),
    metric("answers_kxdpgun_per_s", "1/s", "answers to kxdpgun, 1000/s", 1e3, 1),
    metric("answers_dnsperf_per_s", "1/s", "answers to dnsperf, 1000/s", 1e3, 1),
    metric("cpu_ns_per_answer", "ns", "CPU, ns/answer", 1.0, 0),
    metric("connections_per_s", "1/s", "new connections, 1000/s", 1e3, 1),
    metric("cpu_us_per_connection", "us", "CPU, us/connection", 1.0, 1),
    metric("stream_bits_per_s", "bit/s", "one stream, Gbit/s", 1e9, 2),
    metric("gap_ms", "ms", "gap, ms", 1.0, 0),
    metric("queries_lost", "1", "queries lost", 1.0, 0),
    metric("clients_hit_percent", "%", "clients hit, %", 1.0, 0),
    metric("back_s", "s", "back in service, s", 1.0, 1),
    metric("ping_pong_ns", "ns", "ping-pong, ns", 1.0, 0),
];

/// One figure of one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub case: String,
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
    /// Every figure, by case, then by metric.
    pub results: Vec<Figure>,
    /// What came to nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// Every ratio of which both cases are there.
    #[serde(skip)]
    ratios: Vec<(Ratio, Spread)>,
    /// The cases, and what they belong to, in the order of their first visits.
    #[serde(skip)]
    cases: Vec<(Group, String)>,
}

impl Report {
    /// Of these visits.
    pub(super) fn of(machine: Machine, visits: &[Visit], failures: &[Failure]) -> Self {
        let mut cases: Vec<(Group, String)> = Vec::new();
        for visit in visits {
            if !cases.iter().any(|(_, case)| *case == visit.case) {
                cases.push((visit.group, visit.case.clone()));
            }
        }
        let mut results = Vec::new();
        for (_, case) in &cases {
            for metric in METRICS {
                let values = of_rounds(visits, case, metric.name);
                if let Some(spread) = Spread::of(values.into_values()) {
                    let (metric, unit) = (metric.name, metric.unit);
                    results.push(Figure { case: case.clone(), metric, unit, spread });
                }
            }
        }
        let ratios = RATIOS.iter().filter_map(|ratio| Some((*ratio, compared(visits, ratio)?)));
        Self { machine, results, failures: failures.to_vec(), ratios: ratios.collect(), cases }
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

    /// The cases of a group, of which there is anything.
    pub(super) fn cases(&self, group: Group) -> impl Iterator<Item = &str> {
        let of_group = self.cases.iter().filter(move |(of, _)| *of == group);
        of_group.map(|(_, case)| case.as_str())
    }

    /// The metrics of a group: those that one of its cases has.
    pub(super) fn metrics(&self, group: Group) -> Vec<&'static Metric> {
        let has = |metric: &&Metric| {
            self.cases(group).any(|case| self.figure(case, metric.name).is_some())
        };
        METRICS.iter().filter(has).collect()
    }

    /// How many things failed.
    pub(super) fn failure_count(&self) -> usize {
        self.failures.len()
    }
}

/// The values of a figure, by round.
fn of_rounds(visits: &[Visit], case: &str, metric: &str) -> BTreeMap<u32, f64> {
    let of_case = visits.iter().filter(|visit| visit.case == case);
    of_case.filter_map(|visit| Some((visit.round, *visit.figures.get(metric)?))).collect()
}

/// A ratio, round by round: what changed on the machine between rounds has changed both of its sides.
fn compared(visits: &[Visit], ratio: &Ratio) -> Option<Spread> {
    let of = of_rounds(visits, ratio.case, ratio.metric);
    let Some(by) = ratio.by else { return Spread::of(of.into_values()) };
    let by = of_rounds(visits, by, ratio.metric);
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
             start {load_average}. Medians [min..max]. Ping-pong: how far the two cores were from each other at the time, \
             as the time of a cache line's way there and back.\n",
            *memory_bytes as f64 / f64::from(1 << 30)
        )?;
        if !self.machine.is_release {
            writeln!(f, "**A debug build: its figures say nothing.**\n")?;
        }
        for group in Group::ALL {
            self.fmt_group(f, group)?;
        }
        self.fmt_ratios(f)?;
        self.fmt_failures(f)
    }
}

impl Report {
    fn fmt_group(&self, f: &mut fmt::Formatter<'_>, group: Group) -> fmt::Result {
        let metrics = self.metrics(group);
        if metrics.is_empty() {
            return Ok(());
        }
        let (heading, text) = group.heading();
        write!(f, "## {heading}\n\n{text}\n\n| case |")?;
        for metric in &metrics {
            write!(f, " {} |", metric.heading)?;
        }
        writeln!(f, "\n|---|{}", "---|".repeat(metrics.len()))?;
        for case in self.cases(group) {
            write!(f, "| {case} |")?;
            for metric in &metrics {
                match self.figure(case, metric.name) {
                    Some(it) => write!(f, " {} |", shown(it, metric.scale, metric.decimals))?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f)
    }

    fn fmt_ratios(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ratios.is_empty() {
            return Ok(());
        }
        writeln!(f, "## Ratios, and figures that are to be something\n")?;
        writeln!(f, "| ratio | of | median [min..max] | wanted |\n|---|---|---|---|")?;
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
            let of = by.map_or((*case).to_owned(), |by| format!("{case} / {by}"));
            writeln!(f, "| {of} | {metric} | {shown} | {bound}{verdict} |")?;
        }
        writeln!(f)
    }

    fn fmt_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.failures.is_empty() {
            return Ok(());
        }
        writeln!(f, "## Failed\n")?;
        for Failure { case, round, error } in &self.failures {
            writeln!(f, "- {case}, round {}: {error}", round + 1)?;
        }
        writeln!(f)
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
        Report::of(Machine::read(&options).expect("a machine"), &visits, &[])
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
    fn what_failed_is_told() {
        let mut report = report(&[("xdp-drop", 0, 2e7)]);
        let error = "no such device".to_owned();
        report.failures.push(Failure { case: "nft-netdev", round: 1, error });
        assert!(report.to_string().contains("- nft-netdev, round 2: no such device"));
        assert!(report.json().expect("JSON").contains("no such device"));
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
