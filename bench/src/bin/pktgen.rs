//! `pktgen`: packets of many flows, and what comes back.

use std::io::Write as _;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use vipdp_bench::pktgen::{self, Options};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let stop = SignalFd::with_flags(&signals, flags).context("cannot make a signalfd")?;

    let report = pktgen::run(&options, Some(stop.as_fd()))?;

    let mut output = std::io::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut output, &report).context("cannot write the report")?;
        writeln!(output)?;
    } else {
        write!(output, "{report}")?;
    }
    Ok(())
}
