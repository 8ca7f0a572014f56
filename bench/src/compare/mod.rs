//! vipdp beside what the kernel offers for the same work, and beside the limits of the interface.
//!
//! ```text
//!   groups x rounds x cases:                                          group.rs, case.rs, session.rs
//!     ping-pong, then one of
//!     a row: lab, socket, receiver or rules; overload, light load,    rows.rs, visit.rs, node.rs, lab.rs,
//!       load with time stamps; every packet accounted for             receive.rs, rules.rs, counters.rs
//!   then:            medians and spread of each figure, ratios        statistics.rs, report.rs, ratios.rs
//!                    of figures of the same round, plots              plot.rs
//! ```
//!
//! Cases of a group take turns (A B C, A B C), so that whatever changes on the machine meets them all. A visit in which
//! a packet is not accounted for, or in which a row does not accept its share, fails: its rate would say
//! nothing. What fails is told at the end, and costs the others nothing. A new row is a line in rows.rs, and what does
//! its work an arm in receive.rs or rules.rs.

mod bare;
mod case;
mod clients;
mod conntrack;
mod counters;
mod dns;
mod failover;
mod group;
mod lab;
mod machine;
mod node;
mod options;
mod part;
pub(crate) mod ping_pong;
mod plot;
mod ratios;
mod receive;
mod report;
mod rows;
mod rules;
mod session;
mod socket;
pub(crate) mod statistics;
mod tcp;
mod visit;
mod writer;

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signalfd::SignalFd;

pub use counters::Tally;
pub use group::Group;
pub use options::{Cli, Options, PartCommand};
pub use visit::Visit;

use conntrack::Room;
use session::Session;

use crate::{command, pktgen};

/// Runs the comparison, or one of its parts. It ends early when `end` can be read, and takes down what it made.
///
/// # Errors
/// When the machine lacks something, something failed, or it was ended early.
pub fn run(cli: &Cli, end: &SignalFd) -> Result<()> {
    match &cli.part {
        Some(PartCommand::Generate(options)) => {
            command::print(&pktgen::run(options, Some(end.as_fd()))?, options.json)
        }
        Some(PartCommand::Receive(options)) => receive::run(options),
        Some(PartCommand::Serve(options)) => socket::run(options),
        Some(PartCommand::Accept(options)) => tcp::serve(options),
        Some(PartCommand::Connect(options)) => tcp::connect(options),
        None => compare(&cli.options, end),
    }
}

fn compare(options: &Options, end: &SignalFd) -> Result<()> {
    ensure!(
        options.generator_core != options.receive_core,
        "packets are made and received on core {}: give two cores",
        options.receive_core
    );
    lab::clean_up()?;
    fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let cases = Group::ALL.into_iter().flat_map(|group| options.visited(group));
    let _room = cases.filter_map(|case| case.flows_in_kernel()).max().map(Room::of).transpose()?;
    let report = Session::new(options, end)?.run()?;
    write!(std::io::stdout().lock(), "{report}")?;
    let failures = report.failure_count();
    ensure!(failures == 0, "{failures} visits failed: see the report");
    Ok(())
}
