//! The programs of a measurement that run inside the namespaces: this program again, by a hidden subcommand.
//!
//! Those that serve read lines and answer each with one line of JSON; the first line that they print says
//! that they are ready. They end when nobody writes to them any more, thus with the process that started
//! them, however that ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::SignalFd;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lab::Namespace;

/// How long a program may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// How long a program may take to end by itself.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// A program, ended when dropped.
#[derive(Debug)]
pub(super) struct Part<'a> {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Whether it listens, and ends in order when nobody talks to it any more.
    is_serving: bool,
    end: &'a SignalFd,
}

impl<'a> Part<'a> {
    /// Starts this program with `arguments`, the subcommand first, in `namespace`. It is ended early when
    /// `end` can be read.
    pub(super) fn start(
        namespace: &Namespace,
        arguments: &[String],
        end: &'a SignalFd,
    ) -> Result<Self> {
        let program = std::env::current_exe().context("which program is this?")?;
        let name = arguments.first().cloned().unwrap_or_default();
        let mut child = namespace
            .command(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("it has a standard output")?);
        Ok(Self { name, child, input, output, is_serving: false, end })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is ready.
    pub(super) fn ready(mut self) -> Result<Self> {
        self.is_serving = true;
        let () = self.answer()?;
        Ok(self)
    }

    /// Says `line`, and returns the answer.
    pub(super) fn ask<T: DeserializeOwned>(&mut self, line: &str) -> Result<T> {
        let input = self.input.as_mut().context("it listens no more")?;
        writeln!(input, "{line}").with_context(|| format!("{} does not listen", self.name))?;
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        wait(self.output.get_ref().as_fd(), self.end, ANSWERS_WITHIN)
            .with_context(|| self.name.clone())?;
        let mut line = String::new();
        self.output.read_line(&mut line).with_context(|| self.name.clone())?;
        ensure!(!line.is_empty(), "{} ended", self.name);
        serde_json::from_str(&line).with_context(|| format!("{} says {line:?}", self.name))
    }

    /// Waits until it has ended by itself, `patience` at most, and returns what it printed.
    pub(super) fn finish<T: DeserializeOwned>(mut self, patience: Duration) -> Result<T> {
        wait(self.output.get_ref().as_fd(), self.end, patience)
            .with_context(|| self.name.clone())?;
        let mut text = String::new();
        self.output.read_to_string(&mut text).with_context(|| self.name.clone())?;
        let status = self.child.wait().with_context(|| self.name.clone())?;
        ensure!(status.success(), "{}: {status}", self.name);
        serde_json::from_str(&text).with_context(|| format!("{} says {text:?}", self.name))
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // A generator is not waited for: nothing of what it has outlives it.
        if !self.is_serving {
            let _ = self.child.kill();
        }
        self.input = None;
        let deadline = Instant::now() + ENDS_WITHIN;
        while Instant::now() < deadline {
            // It is reaped by now, or it is no child of ours: both are fine.
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program that is ended by signals. Those that end this one are blocked in it, and a child has the mask of the
/// thread that starts it.
pub(super) fn spawn_unblocked(command: &mut Command) -> Result<Child> {
    thread::scope(|scope| {
        let started = scope.spawn(|| -> Result<Child> {
            SigSet::all().thread_unblock()?;
            Ok(command.spawn()?)
        });
        started.join().map_err(|_| anyhow!("starting it ended in a panic"))?
    })
}

/// Waits until `descriptor` can be read.
fn wait(descriptor: BorrowedFd<'_>, end: &SignalFd, patience: Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut both = [descriptor, end.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let ready = poll(&mut both, timeout).context("cannot wait")?;
    ensure!(ready > 0, "says nothing for {patience:?}");
    if both[1].any().unwrap_or(true) {
        bail!("ended by a signal");
    }
    Ok(())
}

/// The other side: says that all is ready, then answers each line until there are no more.
pub(super) fn serve<T: Serialize>(mut answer: impl FnMut(&str) -> Result<T>) -> Result<()> {
    say(&())?;
    for line in std::io::stdin().lines() {
        say(&answer(&line?)?)?;
    }
    Ok(())
}

pub(super) fn say(value: &impl Serialize) -> Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, value)?;
    writeln!(output)?;
    output.flush()?;
    Ok(())
}
