//! vipdp beside what the kernel offers for the same work, and beside the limits of the interface.
//!
//! ```text
//!   rounds x rows:   ping-pong, lab, socket, receiver or rules        visit.rs, lab.rs, receive.rs, rules.rs
//!                    overload, light load, load with time stamps      pktgen, socket.rs
//!                    counters: every packet accounted for             counters.rs
//!   then:            medians and spread of each figure, ratios        statistics.rs, report.rs
//!                    of figures of the same round, plots              plot.rs
//! ```
//!
//! Rows take turns (A B C, A B C), so that whatever changes on the machine meets them all. A visit in which a packet
//! is not accounted for, or in which a row does not accept its share, ends the run: its rate would say
//! nothing. A new row is a line in rows.rs, and what does its work an arm in receive.rs or rules.rs.

mod conntrack;
mod counters;
mod lab;
mod machine;
mod options;
mod part;
mod ping_pong;
mod plot;
mod receive;
mod report;
mod rows;
mod rules;
mod socket;
mod statistics;
mod visit;

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signalfd::SignalFd;

pub use counters::Tally;
pub use options::{Cli, Options, PartCommand};
pub use visit::Visit;

use conntrack::Room;
use machine::Machine;
use report::Report;
use rows::{Row, Work};

use crate::{command, pktgen};

/// Runs the comparison, or one of its parts. It ends early when `end` can be read, and takes down what it made.
///
/// # Errors
/// When the machine lacks something, packets are missing, or it was ended early.
pub fn run(cli: &Cli, end: &SignalFd) -> Result<()> {
    match &cli.part {
        Some(PartCommand::Generate(options)) => {
            command::print(&pktgen::run(options, Some(end.as_fd()))?, options.json)
        }
        Some(PartCommand::Receive(options)) => receive::run(options),
        Some(PartCommand::Serve(options)) => socket::run(options),
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
    let rows = options.visited();
    fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let _room = rows.iter().copied().filter(|row| tracks(row)).map(Row::flows).max().map(Room::of);
    let _room = _room.transpose()?;
    let machine = Machine::read(options)?;
    let mut visits = Vec::new();
    for round in 0..options.rounds() {
        for &row in &rows {
            let visit = visit::visit(row, round, options, end)
                .with_context(|| format!("{}, round {round}", row.name))?;
            tell(&visit);
            visits.push(visit);
        }
    }
    let report = Report::of(machine, &visits);
    let write = |name: &str, text: &str| {
        let path = options.out.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    write("results.json", &report.json()?)?;
    write("runs.json", &serde_json::to_string_pretty(&visits)?)?;
    write("report.md", &report.to_string())?;
    plot::write(&report, &options.out)?;
    write!(std::io::stdout().lock(), "{report}")?;
    Ok(())
}

fn tracks(row: &Row) -> bool {
    matches!(row.work, Work::Kernel(rules) if rules.tracks())
}

/// Says how far the comparison has come.
fn tell(visit: &Visit) {
    let figure = |name: &str| visit.figures.get(name).copied().unwrap_or(f64::NAN);
    eprintln!(
        "round {} {:<22} {:>7.3} Mpps, {:>6.3} accepted, {:>6.0} ns a packet, ping-pong {:.0} ns",
        visit.round + 1,
        visit.case,
        figure("total_pps") / 1e6,
        figure("accepted_pps") / 1e6,
        figure("cpu_ns_per_packet"),
        figure("ping_pong_ns"),
    );
}
