//! `stream`: one TCP connection through vipdp, with super-packets and without, by turns.

use clap::Parser as _;
use vipdp_bench::stream::{self, Cli};

fn main() -> anyhow::Result<()> {
    stream::run(&Cli::parse())
}
