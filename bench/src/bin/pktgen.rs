//! `pktgen`: packets of many flows, and what comes back.

use std::os::fd::AsFd as _;

use clap::Parser as _;
use vipdp_bench::command;
use vipdp_bench::pktgen::{self, Options};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let end = command::end_signals()?;
    let report = pktgen::run(&options, Some(end.as_fd()))?;
    command::print(&report, options.json)
}
