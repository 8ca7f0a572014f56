//! `handoff`: ways to hand frames to the host's stack, side by side.

use clap::Parser as _;
use vipdp_bench::command;
use vipdp_bench::handoff::{self, Options};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    command::print(&handoff::run(&options)?, options.json)
}
