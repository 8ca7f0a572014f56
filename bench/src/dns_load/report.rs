//! The account of a run, and its two forms: JSON and a table.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::plan::{Family, Target};

/// Name under which answers without a TXT record are counted.
const ANONYMOUS: &str = "(no identity)";

/// How many queries there were of each fate. `sent = answered + failures + lost`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FamilyCount {
    /// Queries that left.
    pub sent: u64,
    /// Queries answered without error in time.
    pub answered: u64,
    /// Queries answered in time by a DNS error (REFUSED, SERVFAIL, ...).
    pub failures: u64,
    /// Queries not answered in time.
    pub lost: u64,
    /// Further responses to a query that had one, each counted.
    pub duplicates: u64,
}

/// What one server answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct NodeCount {
    /// Queries it answered.
    pub answers: u64,
    /// Its part of all answers, 0..=1.
    pub share: f64,
    /// Those over IPv4.
    pub ipv4: u64,
    /// Those over IPv6.
    pub ipv6: u64,
}

/// Time from query to answer, microseconds; all zero when nothing was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// The fastest.
    pub min: u32,
    /// Half are at most this.
    pub p50: u32,
    /// Of ten, nine are at most this.
    pub p90: u32,
    /// Of a hundred, 99 are at most this.
    pub p99: u32,
    /// Of a thousand, 999 are at most this.
    pub p999: u32,
    /// The slowest.
    pub max: u32,
}

/// A query that was not answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LostQuery {
    /// When it was sent, nanoseconds of CLOCK_MONOTONIC.
    pub sent_at_ns: u64,
    /// When it was sent, nanoseconds since 1970.
    pub sent_at_wall_ns: u64,
    /// The client address.
    pub source: IpAddr,
    /// The server's address.
    pub server: IpAddr,
}

/// Datagrams that no query of ours explains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Unexpected {
    /// From another address or port than the query went to.
    pub wrong_source: u64,
    /// DNS, but another id or question, or not a response.
    pub foreign: u64,
    /// Not DNS.
    pub malformed: u64,
}

/// The account of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// When the first query was due, nanoseconds of CLOCK_MONOTONIC.
    pub started_at_ns: u64,
    /// The same, nanoseconds since 1970.
    pub started_at_wall_ns: u64,
    /// From the first query to the last, nanoseconds.
    pub sending_ns: u64,
    /// The furthest that a query left behind its schedule, nanoseconds.
    pub behind_max_ns: u64,
    /// All queries.
    pub totals: FamilyCount,
    /// Queries by address family: `ipv4`, `ipv6`.
    pub families: BTreeMap<Family, FamilyCount>,
    /// Answers by the server's identity.
    pub nodes: BTreeMap<String, NodeCount>,
    /// Time from query to answer, microseconds.
    pub latency_us: Percentiles,
    /// Datagrams that no query explains.
    pub unexpected: Unexpected,
    /// Queries that the kernel refused to send; they are not in `sent`.
    pub send_errors: u64,
    /// The first such refusal.
    pub first_send_error: Option<String>,
    /// Sockets closed before the end of their linger for want of descriptors: duplicates may be missing.
    pub closed_early: u64,
    /// Every lost query, in the order of sending.
    pub lost: Vec<LostQuery>,
}

/// The account while it is being kept.
#[derive(Debug, Default)]
pub(super) struct Tally {
    families: BTreeMap<Family, FamilyCount>,
    answers: BTreeMap<String, BTreeMap<Family, u64>>,
    latencies_us: Vec<u32>,
    lost: Vec<LostQuery>,
    pub(super) unexpected: Unexpected,
    pub(super) closed_early: u64,
    pub(super) behind_max_ns: u64,
    pub(super) last_sent_ns: u64,
    send_errors: u64,
    first_send_error: Option<String>,
}

impl Tally {
    fn of(&mut self, target: &Target) -> &mut FamilyCount {
        self.families.entry(Family::of(target.source)).or_default()
    }

    pub(super) fn sent(&mut self, target: &Target, at_ns: u64, due_ns: u64) {
        self.of(target).sent += 1;
        self.last_sent_ns = at_ns;
        self.behind_max_ns = self.behind_max_ns.max(at_ns.saturating_sub(due_ns));
    }

    pub(super) fn refused(&mut self, target: &Target, error: &std::io::Error) {
        self.send_errors += 1;
        self.first_send_error
            .get_or_insert_with(|| format!("from {} to {}: {error}", target.source, target.server));
    }

    pub(super) fn answered(&mut self, target: &Target, node: Option<String>, latency_ns: u64) {
        self.of(target).answered += 1;
        let node = node.unwrap_or_else(|| ANONYMOUS.to_owned());
        *self.answers.entry(node).or_default().entry(Family::of(target.source)).or_default() += 1;
        self.latencies_us.push(u32::try_from(latency_ns / 1_000).unwrap_or(u32::MAX));
    }

    pub(super) fn failed(&mut self, target: &Target) {
        self.of(target).failures += 1;
    }

    pub(super) fn duplicate(&mut self, target: &Target) {
        self.of(target).duplicates += 1;
    }

    pub(super) fn lost(&mut self, target: &Target, sent_at_ns: u64, sent_at_wall_ns: u64) {
        self.of(target).lost += 1;
        let (source, server) = (target.source, target.server.ip());
        self.lost.push(LostQuery { sent_at_ns, sent_at_wall_ns, source, server });
    }

    /// The report of a run that started at the two given times.
    pub(super) fn into_report(mut self, started_at_ns: u64, started_at_wall_ns: u64) -> Report {
        let totals =
            self.families.values().fold(FamilyCount::default(), |sum, family| FamilyCount {
                sent: sum.sent + family.sent,
                answered: sum.answered + family.answered,
                failures: sum.failures + family.failures,
                lost: sum.lost + family.lost,
                duplicates: sum.duplicates + family.duplicates,
            });
        let nodes = self.answers.into_iter().map(|(name, by_family)| {
            let of = |family| by_family.get(&family).copied().unwrap_or(0);
            let (ipv4, ipv6) = (of(Family::Ipv4), of(Family::Ipv6));
            let answers = ipv4 + ipv6;
            let share = answers as f64 / totals.answered as f64;
            (name, NodeCount { answers, share, ipv4, ipv6 })
        });
        self.latencies_us.sort_unstable();
        Report {
            started_at_ns,
            started_at_wall_ns,
            sending_ns: self.last_sent_ns.saturating_sub(started_at_ns),
            behind_max_ns: self.behind_max_ns,
            totals,
            families: self.families,
            nodes: nodes.collect(),
            latency_us: percentiles(&self.latencies_us),
            unexpected: self.unexpected,
            send_errors: self.send_errors,
            first_send_error: self.first_send_error,
            closed_early: self.closed_early,
            lost: self.lost,
        }
    }
}

/// The percentiles (nearest rank) of ascending values.
fn percentiles(ascending: &[u32]) -> Percentiles {
    let at = |per_mille: usize| {
        let rank = (ascending.len() * per_mille).div_ceil(1_000).max(1);
        ascending.get(rank - 1).copied().unwrap_or(0)
    };
    Percentiles {
        min: at(0),
        p50: at(500),
        p90: at(900),
        p99: at(990),
        p999: at(999),
        max: at(1_000),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.sending_ns as f64 / 1e9;
        writeln!(f, "{} queries in {seconds:.1} s", self.totals.sent)?;
        writeln!(f, "         sent answered failures     lost duplicates")?;
        let families = self.families.iter().map(|(family, count)| (family.to_string(), count));
        for (name, count) in families.chain([("all".to_owned(), &self.totals)]) {
            let FamilyCount { sent, answered, failures, lost, duplicates } = count;
            writeln!(f, "{name:4} {sent:8} {answered:8} {failures:8} {lost:8} {duplicates:10}")?;
        }
        writeln!(f, "answered by     answers   share     IPv4     IPv6")?;
        for (name, node) in &self.nodes {
            let NodeCount { answers, share, ipv4, ipv6 } = node;
            let percent = share * 100.0;
            writeln!(f, "{name:14} {answers:8} {percent:6.2}% {ipv4:8} {ipv6:8}")?;
        }
        let Percentiles { min, p50, p90, p99, p999, max } = self.latency_us;
        writeln!(
            f,
            "latency, us: min {min}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}"
        )?;
        let Unexpected { wrong_source, foreign, malformed } = self.unexpected;
        if self.unexpected != Unexpected::default() {
            writeln!(
                f,
                "unexpected: {wrong_source} from elsewhere, {foreign} foreign, {malformed} malformed"
            )?;
        }
        if let Some(error) = &self.first_send_error {
            writeln!(f, "not sent: {}, the first {error}", self.send_errors)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(source: &str) -> Target {
        let source: IpAddr = source.parse().unwrap();
        let server = if source.is_ipv4() { "192.0.2.53:53" } else { "[2001:db8:53::53]:53" };
        Target { server: server.parse().unwrap(), source }
    }

    /// Five queries: three answered (one twice), one refused, one lost.
    fn sample() -> Report {
        let mut tally = Tally::default();
        let (v4, v6) = (target("10.64.0.1"), target("fd64::1"));
        for (number, target) in [v4, v6, v4, v6, v4].iter().enumerate() {
            let due_ns = 1_000_000 + number as u64 * 500_000;
            tally.sent(target, due_ns + 10 * number as u64, due_ns);
        }
        tally.answered(&v4, Some("n1".into()), 200_000);
        tally.answered(&v6, Some("n2".into()), 300_999);
        tally.answered(&v4, Some("n1".into()), 100_000);
        tally.duplicate(&v4);
        tally.failed(&v6);
        tally.lost(&v4, 3_000_040, 9_000_000_040);
        tally.into_report(1_000_000, 9_000_000_000)
    }

    #[test]
    fn every_query_has_one_fate() {
        let report = sample();
        for count in report.families.values().chain([&report.totals]) {
            assert_eq!(count.sent, count.answered + count.failures + count.lost);
        }
        let expected = FamilyCount { sent: 5, answered: 3, failures: 1, lost: 1, duplicates: 1 };
        assert_eq!(report.totals, expected);
        assert_eq!(report.families[&Family::Ipv4].duplicates, 1);
        assert_eq!(report.sending_ns, 2_000_040);
        assert_eq!(report.behind_max_ns, 40);
    }

    #[test]
    fn shares_are_of_the_answers() {
        let report = sample();
        let n1 = NodeCount { answers: 2, share: 2.0 / 3.0, ipv4: 2, ipv6: 0 };
        assert_eq!(report.nodes["n1"], n1);
        assert_eq!(report.nodes["n2"].ipv6, 1);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<u32> = (1..=1_000).collect();
        let expected = Percentiles { min: 1, p50: 500, p90: 900, p99: 990, p999: 999, max: 1_000 };
        assert_eq!(percentiles(&values), expected);
        assert_eq!(percentiles(&[]), Percentiles::default());
        assert_eq!(percentiles(&[7]).p50, 7);
        assert_eq!(sample().latency_us.p50, 200);
    }

    #[test]
    fn json_has_the_fields_that_scripts_read() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["totals"]["sent"], 5);
        assert_eq!(json["families"]["ipv6"]["failures"], 1);
        assert_eq!(json["nodes"]["n1"]["answers"], 2);
        assert_eq!(json["latency_us"]["max"], 300);
        let lost = &json["lost"][0];
        assert_eq!(lost["sent_at_ns"], 3_000_040_u64);
        assert_eq!(lost["sent_at_wall_ns"], 9_000_000_040_u64);
        assert_eq!(lost["source"], "10.64.0.1");
        assert_eq!(json["lost"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn the_table_names_every_node_and_count() {
        let text = sample().to_string();
        assert!(text.contains("5 queries"), "{text}");
        assert!(text.contains("n1                    2  66.67%"), "{text}");
        assert!(!text.contains("unexpected"), "{text}");
    }
}
