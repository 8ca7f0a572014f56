//! `wake`: how soon an idle node delivers a packet, and what the node takes while it is idle.

use clap::Parser as _;
use vipdp_bench::command;
use vipdp_bench::wake::{self, Options};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let end = command::end_signals()?;
    command::print(&wake::run(&options, &end)?, options.json)
}
