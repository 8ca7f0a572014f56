//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::case::Case;
use super::group::Group;
use super::{receive, socket, tcp};
use crate::pktgen;

/// Compares vipdp with the kernel's own means, and with the limits of the interface.
///
/// Makes a pair of network namespaces with a link between for each case and round, measures, and takes them
/// down. Needs root and two cores. Writes report.md, results.json, runs.json and plots. What fails is reported, and
/// loses nothing of the rest.
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
    /// A TCP server.
    #[command(hide = true)]
    Accept(tcp::ServerOptions),
    /// Its clients.
    #[command(hide = true)]
    Connect(tcp::ClientOptions),
}

/// What is compared, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Three minutes' worth: fewer and shorter rounds, without what takes long to set up.
    #[arg(long)]
    pub quick: bool,

    /// Where to write the report; made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    pub out: PathBuf,

    /// Only this group; may be repeated.
    #[arg(long = "only", value_name = "GROUP", value_enum)]
    pub groups: Vec<Group>,

    /// Only this case, which may be a row; may be repeated.
    #[arg(long = "row", value_name = "NAME", value_parser = case)]
    pub cases: Vec<Case>,

    /// How often every case is visited, in turn [default: 5, with --quick 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

    /// How long each load lasts [default: 1, with --quick 0.2].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,

    /// Where scripts/failover is.
    #[arg(long, value_name = "DIR", default_value = "scripts")]
    pub scripts: PathBuf,

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
        self.seconds.unwrap_or(if self.quick { 0.2 } else { 1.0 })
    }

    /// What is visited of a group, in its order.
    pub fn visited(&self, group: Group) -> Vec<Case> {
        let is_wanted = |case: &Case| match (&*self.cases, &*self.groups) {
            ([], []) => !(self.quick && case.is_long()),
            ([], groups) => groups.contains(&group) && !(self.quick && case.is_long()),
            (cases, _) => cases.contains(case),
        };
        Case::all().filter(|case| case.group() == group).filter(is_wanted).collect()
    }
}

fn case(name: &str) -> Result<Case, String> {
    let names = || Case::all().map(Case::name).collect::<Vec<_>>().join(", ");
    Case::all().find(|case| case.name() == name).ok_or_else(|| format!("there are {}", names()))
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

    fn visited(options: &Options) -> Vec<Case> {
        Group::ALL.into_iter().flat_map(|group| options.visited(group)).collect()
    }

    #[test]
    fn a_quick_run_is_shorter() {
        let (quick, full) = (options("compare --quick"), options("compare"));
        assert!(quick.rounds() < full.rounds() && quick.seconds() < full.seconds());
        assert!(full.rounds() >= 5);
        assert_eq!(visited(&full).len(), Case::all().count());
        assert!(visited(&quick).len() < visited(&full).len());
        assert!(visited(&quick).iter().all(|case| !case.is_long()));
    }

    #[test]
    fn cases_are_chosen_by_name_or_group_and_keep_their_order() {
        let names = |line: &str| {
            let options = options(line);
            visited(&options).into_iter().map(Case::name).collect::<Vec<_>>()
        };
        let by_name = names("compare --quick --row xt-cluster-4m --row xdp-drop --rounds 7");
        assert_eq!(by_name, ["xdp-drop", "xt-cluster-4m"]);
        assert_eq!(names("compare --only failover"), ["failover"]);
        let some = names("compare --quick --only runs --only scaling");
        assert!(some.contains(&"tap-writer-runs") && some.contains(&"vipdp-nodes-64"));
        assert!(!some.contains(&"xdp-drop") && !some.contains(&"vipdp-flows-16m"));
        let error = Cli::try_parse_from(["compare", "--row", "fastest"]).expect_err("no such row");
        assert!(error.to_string().contains("xdp-drop"), "{error}");
        Cli::try_parse_from(["compare", "--seconds", "0"]).expect_err("no time at all");
    }
}
