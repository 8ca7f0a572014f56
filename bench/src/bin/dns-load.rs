//! `dns-load`: DNS queries from many client addresses, every response accounted for.

use std::os::fd::AsFd as _;

use clap::Parser as _;
use vipdp_bench::command;
use vipdp_bench::dns_load::{self, Options};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let end = command::end_signals()?;
    let report = dns_load::run(&options, Some(end.as_fd()))?;
    command::print(&report, options.json)
}
