//! `dpdk`: the worker over DPDK's virtual devices.

use clap::Parser as _;
use vipdp_bench::command;
use vipdp_bench::dpdk::{self, Options};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match dpdk::run(&options)? {
        Some(report) => command::print(&report, options.json),
        None => Ok(()),
    }
}
