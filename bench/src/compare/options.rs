//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::rows::{ROWS, Row};
use super::{receive, socket};
use crate::pktgen;

/// Compares vipdp with the kernel's own means, and with the limits of the interface.
///
/// Makes a pair of network namespaces with a link between for each row and round, measures, and takes them
/// down. Needs root and two cores. Writes report.md, results.json, runs.json and plots.
#[derive(Debug, Parser)]
#[command(name = "compare", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What the comparison runs inside its namespaces.
    #[command(subcommand)]
    pub part: Option<PartCommand>,
    /// What is compared, and how.
    #[command(flatten)]
    pub options: Options,
}

/// What the comparison runs inside its namespaces.
#[derive(Debug, Subcommand)]
pub enum PartCommand {
    /// The generator: pktgen.
    #[command(hide = true)]
    Generate(Box<pktgen::Options>),
    /// What receives, where it is no work of the kernel's own.
    #[command(hide = true)]
    Receive(receive::Options),
    /// The service's sockets.
    #[command(hide = true)]
    Serve(socket::Options),
}

/// What is compared, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A minute's worth: fewer and shorter rounds, without the rows that take long to set up.
    #[arg(long)]
    pub quick: bool,

    /// Where to write the report; made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    pub out: PathBuf,

    /// Only this row; may be repeated.
    #[arg(long = "row", value_name = "NAME", value_parser = row)]
    pub rows: Vec<&'static Row>,

    /// How often every row is visited, in turn [default: 5, with --quick 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

    /// How long each load lasts [default: 2, with --quick 0.2].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,

    /// The core that packets are made on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub generator_core: usize,

    /// The core that they are received on.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub receive_core: usize,
}

impl Options {
    /// How often every row is visited.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    /// How long each load lasts.
    pub fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 0.2 } else { 2.0 })
    }

    /// The rows that are visited, in their order.
    pub fn visited(&self) -> Vec<&'static Row> {
        let is_wanted = |row: &Row| {
            if self.rows.is_empty() {
                !(self.quick && row.is_long)
            } else {
                self.rows.iter().any(|wanted| wanted.name == row.name)
            }
        };
        ROWS.iter().filter(|row| is_wanted(row)).collect()
    }
}

fn row(name: &str) -> Result<&'static Row, String> {
    let names = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    Row::named(name).ok_or_else(|| format!("the rows are {}", names()))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    if (0.01..=600.0).contains(&seconds) { Ok(seconds) } else { Err("give 0.01 to 600".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        Cli::try_parse_from(line.split_whitespace()).expect("a command line").options
    }

    #[test]
    fn a_quick_run_is_shorter() {
        let (quick, full) = (options("compare --quick"), options("compare"));
        assert!(quick.rounds() < full.rounds() && quick.seconds() < full.seconds());
        assert!(full.rounds() >= 5);
        assert_eq!(full.visited().len(), ROWS.len());
        assert!(quick.visited().len() < ROWS.len());
        assert!(quick.visited().iter().all(|row| !row.is_long));
    }

    #[test]
    fn rows_are_chosen_by_name_and_keep_their_order() {
        let options = options("compare --quick --row xt-cluster-4m --row xdp-drop --rounds 7");
        let names: Vec<_> = options.visited().iter().map(|row| row.name).collect();
        assert_eq!(names, ["xdp-drop", "xt-cluster-4m"]);
        assert_eq!(options.rounds(), 7);
        let error = Cli::try_parse_from(["compare", "--row", "fastest"]).expect_err("no such row");
        assert!(error.to_string().contains("xdp-drop"), "{error}");
        Cli::try_parse_from(["compare", "--seconds", "0"]).expect_err("no time at all");
    }
}
