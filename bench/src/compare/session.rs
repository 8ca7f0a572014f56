//! The rounds: every case in turn, and whatever one of them does, the others have theirs.

use std::fs;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use serde::Serialize;

use super::case::Case;
use super::group::Group;
use super::machine::Machine;
use super::options::Options;
use super::report::Report;
use super::visit::Visit;
use super::{ping_pong, plot};

/// A case that failed so often is not tried again.
const TRIES: usize = 2;

/// A visit that came to nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Of what.
    pub case: &'static str,
    /// In which round, from 0 on.
    pub round: u32,
    /// Why.
    pub error: String,
}

/// What has been found so far.
pub(super) struct Session<'a> {
    options: &'a Options,
    end: &'a SignalFd,
    machine: Machine,
    visits: Vec<Visit>,
    failures: Vec<Failure>,
}

impl<'a> Session<'a> {
    pub(super) fn new(options: &'a Options, end: &'a SignalFd) -> Result<Self> {
        let machine = Machine::read(options)?;
        Ok(Self { options, end, machine, visits: Vec::new(), failures: Vec::new() })
    }

    /// Goes through the groups, and writes the report after each. Returns the report of all.
    ///
    /// # Errors
    /// When it was ended early, or something failed; the report is written all the same.
    pub(super) fn run(mut self) -> Result<Report> {
        let mut report = self.report();
        for group in Group::ALL {
            let cases = self.options.visited(group);
            let ended = self.rounds(&cases);
            if !cases.is_empty() {
                report = self.report();
                self.write(&report)?;
            }
            if ended {
                bail!("ended by a signal");
            }
        }
        Ok(report)
    }

    /// Visits the cases of a group in turn, round by round. Returns whether it was ended.
    fn rounds(&mut self, cases: &[Case]) -> bool {
        for round in 0..self.options.rounds() {
            for &case in cases {
                let failed = self.failures.iter().filter(|failure| failure.case == case.name());
                if failed.count() >= TRIES || (round > 0 && case.is_once()) {
                    continue;
                }
                match self.visit(case, round) {
                    Ok(visits) => visits.into_iter().for_each(|visit| self.note(visit)),
                    Err(_) if self.is_over() => return true,
                    Err(error) => self.note_failure(case, round, &error),
                }
                if self.is_over() {
                    return true;
                }
            }
        }
        false
    }

    fn visit(&self, case: Case, round: u32) -> Result<Vec<Visit>> {
        let Options { generator_core, receive_core, .. } = *self.options;
        let ping_pong_ns = ping_pong::measure_ns([generator_core, receive_core])?;
        let mut visits = case.visit(round, self.options, self.end)?;
        for visit in &mut visits {
            visit.figures.insert("ping_pong_ns".to_owned(), ping_pong_ns);
        }
        Ok(visits)
    }

    fn note(&mut self, visit: Visit) {
        let shown = super::report::METRICS.iter().filter_map(|metric| {
            let value = visit.figures.get(metric.name)? / metric.scale;
            Some(format!("{} {value:.*}", metric.heading, metric.decimals))
        });
        let shown: Vec<_> = shown.collect();
        eprintln!("round {} {:<30} {}", visit.round + 1, visit.case, shown.join("; "));
        self.visits.push(visit);
    }

    fn note_failure(&mut self, case: Case, round: u32, error: &anyhow::Error) {
        let error = format!("{error:#}");
        eprintln!("round {} {:<30} FAILED: {error}", round + 1, case.name());
        self.failures.push(Failure { case: case.name(), round, error });
    }

    /// Whether somebody wants it to end.
    fn is_over(&self) -> bool {
        let mut descriptors = [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut descriptors, PollTimeout::ZERO), Ok(1..))
    }

    fn report(&self) -> Report {
        Report::of(self.machine.clone(), &self.visits, &self.failures)
    }

    fn write(&self, report: &Report) -> Result<()> {
        let out = &self.options.out;
        let write = |name: &str, text: &str| {
            let path = out.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("results.json", &report.json()?)?;
        write("runs.json", &serde_json::to_string_pretty(&self.visits)?)?;
        write("report.md", &report.to_string())?;
        plot::write(report, out)
    }
}
