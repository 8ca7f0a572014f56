//! DNS queries from many addresses, each accounted for: `dns-load`, and its report.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::lab::Lab;
use crate::programs::programs;
use crate::wait::wait_until;

/// How many queries may have two answers while buckets move by plan.
///
/// From the moment that the new owner has taken a bucket until the old one has heard of it, the new
/// one sees each query twice: on the segment, and forwarded. It answers both, since the one on the
/// segment may have come too early. That is a message's way, 20 ms of a load of 2,000 a second at
/// the most.
pub const DUPLICATES_OF_A_MOVE_MAX: u64 = 40;

/// A running load on the VIPs.
#[derive(Debug)]
pub struct Load {
    process: Child,
}

/// The account of it, as far as tests look at it.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// The furthest that a query left behind its schedule, nanoseconds.
    pub behind_max_ns: u64,
    /// All queries.
    pub totals: Totals,
    /// By family: `ipv4`, `ipv6`.
    pub families: BTreeMap<String, Totals>,
    /// By node.
    pub nodes: BTreeMap<String, NodeAnswers>,
    /// Queries that the kernel refused to send.
    pub send_errors: u64,
    /// Sockets closed too early to see all duplicates.
    pub closed_early: u64,
    /// Lost queries.
    pub lost: Vec<Lost>,
}

/// How many queries there were of each fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Totals {
    /// Sent.
    pub sent: u64,
    /// Answered.
    pub answered: u64,
    /// Answered by an error.
    pub failures: u64,
    /// Not answered within a second.
    pub lost: u64,
    /// Answered once more.
    pub duplicates: u64,
}

/// What a node answered.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct NodeAnswers {
    /// How many queries.
    pub answers: u64,
    /// Which part of all answers, 0..=1.
    pub share: f64,
}

/// A query without an answer.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Lost {
    /// When it was sent, nanoseconds of CLOCK_MONOTONIC.
    pub sent_at_ns: u64,
}

impl Load {
    /// Starts a load on all [`Lab::servers`] from all the client's addresses, half of it over IPv6;
    /// `arguments` are split at white space.
    #[track_caller]
    pub fn start(lab: &Lab, arguments: &str) -> Self {
        let process = lab
            .namespace("client")
            .command(&programs().dns_load)
            .arg("--json")
            .args(lab.servers().iter().map(|server| format!("--server={server}")))
            .args(["--sources", "10.64.0.0/16", "--sources", "fd64::/64"])
            .args(arguments.split_whitespace())
            .stdout(Stdio::piped())
            .spawn();
        Self { process: process.expect("dns-load runs") }
    }

    /// Starts a load of `rate` queries a second, and waits until `node` has received as many packets
    /// as a tenth of a second has.
    #[track_caller]
    pub fn start_flowing(lab: &Lab, rate: u64, node: &str) -> Self {
        let received = lab.status(node).rx();
        let load = Self::start(lab, &format!("--rate {rate}"));
        let flows = || lab.status(node).rx() >= received + rate / 10;
        wait_until(Duration::from_secs(20), "the load flows", flows);
        load
    }

    /// Ends it, and waits for what is under way.
    #[track_caller]
    pub fn stop(self) -> Report {
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGINT).expect("dns-load runs");
        self.finish()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(self) -> Report {
        let output = self.process.wait_with_output().expect("dns-load ends");
        assert!(output.status.success(), "dns-load: {}", output.status);
        let report: Report = serde_json::from_slice(&output.stdout).expect("a report");
        assert_eq!((report.send_errors, report.closed_early), (0, 0), "the load itself failed");
        report
    }
}

impl Report {
    /// Asserts that every query had one answer, both families their half.
    #[track_caller]
    pub fn assert_all_answered_once(&self) {
        self.assert_all_answered();
        self.assert_no_duplicates();
    }

    /// Asserts that every query had an answer, both families their half. While buckets move by
    /// plan, a few have two: see [`DUPLICATES_OF_A_MOVE_MAX`].
    #[track_caller]
    pub fn assert_all_answered(&self) {
        let Totals { sent, answered, lost, duplicates, .. } = self.totals;
        assert_eq!((answered, lost), (sent, 0), "{:?}; lost: {}", self.totals, self.losses());
        assert!(duplicates <= DUPLICATES_OF_A_MOVE_MAX, "{duplicates} of {sent} answered twice");
        assert!(sent > 0, "there was no load");
        let (v4, v6) = (self.families["ipv4"].sent, self.families["ipv6"].sent);
        assert!(v4.abs_diff(v6) <= 1, "{v4} queries over IPv4, {v6} over IPv6");
    }

    /// The runs of lost queries, each without half a second between any two: how many, when the first was
    /// sent by the clock of CLOCK_MONOTONIC, and how long after it the last.
    fn losses(&self) -> String {
        const APART_NS: u64 = 500_000_000;
        let near = |a: &Lost, b: &Lost| b.sent_at_ns.saturating_sub(a.sent_at_ns) < APART_NS;
        let run = |run: &[Lost]| {
            let (first, last) = (run[0].sent_at_ns, run[run.len() - 1].sent_at_ns);
            let (at_s, lasts_ms) = (first as f64 / 1e9, (last - first) / 1_000_000);
            format!("{} from {at_s:.3} s in {lasts_ms} ms", run.len())
        };
        self.lost.chunk_by(near).map(run).collect::<Vec<_>>().join(", ")
    }

    /// Asserts that no query had two answers or an error for one.
    #[track_caller]
    pub fn assert_no_duplicates(&self) {
        assert_eq!((self.totals.duplicates, self.totals.failures), (0, 0), "{:?}", self.totals);
    }

    /// Asserts that the named nodes, and no others, answered, each its equal share within `points`
    /// of a hundred.
    #[track_caller]
    pub fn assert_shared_by(&self, nodes: &[&str], points: f64) {
        assert_eq!(self.nodes.keys().collect::<Vec<_>>(), nodes.iter().collect::<Vec<_>>());
        let part = 100.0 / nodes.len() as f64;
        for (name, node) in &self.nodes {
            let share = node.share * 100.0;
            assert!((share - part).abs() <= points, "{name} answered {share:.2} %: {self:?}");
        }
    }
}
