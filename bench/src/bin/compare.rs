//! `compare`: vipdp beside what the kernel offers for the same work, and beside the limits of the interface.

use clap::Parser as _;
use vipdp_bench::command;
use vipdp_bench::compare::{self, Cli};

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let end = command::end_signals()?;
    compare::run(&cli, &end)
}
