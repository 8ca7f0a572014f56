//! How soon a node that was idle delivers a packet, beside the scheduler's own wake-ups.
//!
//! ```text
//!   vdw-PID-peer                             vdw-PID-node
//!   probe, now and then     eth0 ---- eth0   udp      a thread in recvmsg(2)
//!                                            af-xdp   a thread in poll(2), on a bare AF_XDP socket
//!        probing core                        vipdp    the product, poll = "adaptive": its TAP, then a thread in recvmsg(2)
//!                                                 receiving core
//! ```
//!
//! A probe carries the time at which it was sent. It is delivered when the thread that slept for it has it; with
//! vipdp, when the host's stack has it from the TAP, by the kernel's own time stamp. All clocks are one. The cases take
//! turns, each time in a pair of namespaces of its own. Much of the time may be the machine's, which has to wake a core
//! that halted, so that vipdp's figure is worth what it is beside the other two.

mod lab;
mod receiver;
mod report;

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Parser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use vipdp_io::affinity;

pub use report::Report;

use lab::Lab;
use receiver::{Case, Receiver, Sample};

/// How long the first probe may take: vipdp starts, and claims its buckets.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// How long any later one may take.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);
/// Probes before those that count.
const WARM_UP: u32 = 20;
/// Shortest time between two probes, milliseconds: a hundred times what a worker looks for frames before it sleeps.
const GAP_MS: u16 = 2;
/// Gaps differ by up to so much, milliseconds, so that they keep no step with any timer.
const GAP_SPREAD_MS: u32 = 5;
/// How long the idle node is watched.
const IDLE_WATCH: Duration = Duration::from_secs(3);

/// Measures how soon an idle node delivers a packet, beside a thread in poll(2) on a bare AF_XDP socket and one in
/// recvmsg(2), and what vipdp takes of a core while it is idle.
///
/// Makes a pair of network namespaces for each turn, and takes them down. Needs root and two cores.
#[derive(Clone, Debug, Parser)]
#[command(name = "wake", version)]
pub struct Options {
    /// How often each of the three gets its turn.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Probes of each turn.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    probes: u32,
    /// The core that probes are sent on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    probing_core: usize,
    /// The core that is woken.
    #[arg(long, value_name = "N", default_value_t = 1)]
    receiving_core: usize,
    /// The program `vipdp` [default: the one beside this program].
    #[arg(long, value_name = "PATH")]
    vipdp: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Measures. It ends early when `end` can be read, and takes down what it made.
///
/// # Errors
/// When the machine lacks something, a probe is lost, or it was ended early.
pub fn run(options: &Options, end: &SignalFd) -> Result<Report> {
    ensure!(options.probing_core != options.receiving_core, "give two cores");
    let program = match &options.vipdp {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("which program is this?")?.with_file_name("vipdp"),
    };
    let mut report = Report::default();
    for _ in 0..options.rounds {
        for case in [Case::Udp, Case::AfXdp, Case::Vipdp] {
            turn(case, options, &program, end, &mut report).with_context(|| format!("{case:?}"))?;
        }
    }
    Ok(report)
}

/// One turn of a case, in a lab of its own.
fn turn(
    case: Case,
    options: &Options,
    program: &Path,
    end: &SignalFd,
    report: &mut Report,
) -> Result<()> {
    let lab = Lab::new(case)?;
    let receiver = Receiver::start(case, &lab, program, options.receiving_core)?;
    let socket = lab.probe_socket()?;
    // A thread of its own: what is started by one that is kept on a core is kept there too.
    thread::scope(|scope| {
        let probes = move || -> Result<()> {
            affinity::pin(options.probing_core)?;
            first(&receiver, &socket, end)?;
            if let Some(pid) = receiver.pid() {
                report.idle(idle_share(pid, end)?);
            }
            for number in 0..WARM_UP + options.probes {
                let sample = probe(&receiver, &socket, number, end)?;
                if number >= WARM_UP {
                    report.sample(case, &sample);
                }
            }
            Ok(())
        };
        scope.spawn(probes).join().map_err(|_| anyhow!("the probes ended in a panic"))?
    })
}

/// Sends probes until one arrives.
fn first(receiver: &Receiver, socket: &UdpSocket, end: &SignalFd) -> Result<()> {
    let deadline = Instant::now() + STARTS_WITHIN;
    while Instant::now() < deadline {
        rest(end, 20)?;
        receiver::send(socket, u32::MAX)?;
        if receiver.next(Duration::ZERO).is_ok() {
            // Those that were under way with it.
            while receiver.next(Duration::from_millis(200)).is_ok() {}
            return Ok(());
        }
    }
    bail!("no probe arrived within {STARTS_WITHIN:?}: {}", receiver.complaint())
}

/// Lets the node come to rest, then sends one probe.
fn probe(receiver: &Receiver, socket: &UdpSocket, number: u32, end: &SignalFd) -> Result<Sample> {
    rest(end, GAP_MS + (number * 7 % GAP_SPREAD_MS) as u16)?;
    receiver::send(socket, number)?;
    loop {
        match receiver.next(ARRIVES_WITHIN) {
            Ok(sample) if sample.number == number => return Ok(sample),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => bail!("probe {number} was lost"),
            Err(RecvTimeoutError::Disconnected) => bail!("the receiver ended"),
        }
    }
}

/// Waits, unless the measurement is to end.
fn rest(end: &SignalFd, milliseconds: u16) -> Result<()> {
    let mut descriptor = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut descriptor, PollTimeout::from(milliseconds)).context("cannot wait")?;
    ensure!(ready == 0, "ended by a signal");
    Ok(())
}

/// What share of a core all threads of a process take while nothing comes.
fn idle_share(pid: u32, end: &SignalFd) -> Result<f64> {
    let (start, before) = (Instant::now(), lab::run_ns(pid)?);
    while start.elapsed() < IDLE_WATCH {
        rest(end, 100)?;
    }
    Ok((lab::run_ns(pid)? - before) as f64 / start.elapsed().as_nanos() as f64)
}
