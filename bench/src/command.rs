//! What the programs of this crate have in common: how they are ended, and how they report.

use std::fmt::Display;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::Serialize;

/// A descriptor that can be read once SIGINT or SIGTERM has come. Call it before any thread starts: the
/// threads inherit that the signals are blocked.
///
/// # Errors
/// When the kernel gives no descriptor.
pub fn end_signals() -> Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&signals, flags).context("cannot make a signalfd")
}

/// Prints `report`, as JSON or for people.
///
/// # Errors
/// When standard output takes no more.
pub fn print<R: Serialize + Display>(report: &R, json: bool) -> Result<()> {
    let mut output = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut output, report).context("cannot write the report")?;
        writeln!(output)?;
    } else {
        write!(output, "{report}")?;
    }
    Ok(())
}
