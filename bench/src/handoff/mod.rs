//! Ways to hand frames to the host's stack, side by side.
//!
//! ```text
//!   one network namespace, of this process alone
//!
//!   frames in memory --> a way --> the stack --> rule   dropped as early as a rule of nft can
//!                                           \--> udp    read from a socket, one by one
//!                                            \-> gro    read from a socket that takes runs (UDP_GRO)
//!        feeding core                            reading core
//! ```
//!
//! The ways: `tap` writes frames to the product's TAP, `taps` does so to two of its queues from both cores, `veth`
//! transmits them from an AF_XDP socket into a veth in place of the TAP, `xdp` has a driver's receive path hand them
//! over, as the XDP program does with `offload = "full"` (live frames, whose making is in the figure); `worker-N` is the
//! product's worker with runs of N packets of one flow, `single-8` the same with `coalesce = false`.
//!
//! The cases take turns, so that a machine that is now fast, now slow, is so to all of them.

mod reader;
mod report;
mod ways;

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nix::sched::{CloneFlags, unshare};

use crate::compare::ping_pong;
use reader::Reader;
pub use report::Report;
use ways::Way;

/// The service address.
const VIP: &str = "192.0.2.53";
/// The network of the clients.
const CLIENTS: &str = "10.64.0.0/16";

/// Measures ways to hand frames to the host's stack, in a network namespace of its own. Needs root, two cores, nft and
/// ip.
#[derive(Clone, Debug, Parser)]
#[command(name = "handoff", version)]
pub struct Options {
    /// How often each case gets its turn.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a turn is, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    turn_ms: u32,
    /// The core that frames are handed over on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    feeding_core: usize,
    /// The core that the socket is read on.
    #[arg(long, value_name = "N", default_value_t = 1)]
    reading_core: usize,
    /// Only these ways, whose names are in the report.
    #[arg(long = "way", value_name = "NAME")]
    ways: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn cores(&self) -> [usize; 2] {
        [self.feeding_core, self.reading_core]
    }
}

/// Where frames end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Rule,
    Udp,
    Gro,
}

impl End {
    const ALL: [Self; 3] = [Self::Rule, Self::Udp, Self::Gro];

    fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Udp => "udp",
            Self::Gro => "gro",
        }
    }
}

/// Measures all cases. The process is in a namespace of its own from now on.
///
/// # Errors
/// When the machine lacks something.
///
/// # Panics
/// If called where other threads run.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.feeding_core != options.reading_core, "give two cores");
    unshare(CloneFlags::CLONE_NEWNET).context("it takes root, to make a network namespace")?;
    // No packet but those of the measurement, and no check of where it came from.
    for setting in ["ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"] {
        let path = format!("/proc/sys/net/{setting}");
        fs::write(&path, "1").with_context(|| path.clone())?;
    }
    for setting in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
        let path = format!("/proc/sys/net/{setting}");
        fs::write(&path, "0").with_context(|| path.clone())?;
    }
    command("ip link set lo up")?;
    let wanted = |name: &str| options.ways.is_empty() || options.ways.iter().any(|it| it == name);
    let mut report = Report::default();
    for _ in 0..options.rounds {
        report.ping_pong(ping_pong::measure_ns(options.cores())?);
        for end in End::ALL {
            for &(name, make) in ways::ALL.iter().filter(|(name, _)| wanted(name)) {
                let figure = measure(options, end, make(options))
                    .with_context(|| format!("{name} to {}", end.name()))?;
                report.add(name, end.name(), figure);
            }
        }
    }
    Ok(report)
}

/// One turn: packets a second that reached their end.
fn measure(options: &Options, end: End, way: Result<Box<dyn Way>>) -> Result<f64> {
    let mut way = way?;
    command(&format!("ip addr add {VIP}/32 dev {}", way.interface()))?;
    command(&format!("ip route add {CLIENTS} dev {}", way.interface()))?;
    let _rule = (end == End::Rule).then(Rule::new).transpose()?;
    let mut reader = match end {
        End::Rule => None,
        End::Udp => Some(Reader::start(options.reading_core, false)?),
        End::Gro => Some(Reader::start(options.reading_core, true)?),
    };
    let turn = Duration::from_millis(options.turn_ms.into());
    // What is cold at first.
    way.feed(turn / 10)?;
    let before = reader.as_mut().map_or(0, |reader| reader.read());
    let fed = way.feed(turn)?;
    let read = reader.as_mut().map_or(fed.packets, |reader| reader.read() - before);
    Ok(read as f64 / fed.seconds)
}

/// The rule that drops all of it before anything else is done.
struct Rule;

impl Rule {
    fn new() -> Result<Self> {
        let rule = Self;
        command("nft add table ip handoff")?;
        let hook = "{ type filter hook prerouting priority raw ; }";
        command(&format!("nft add chain ip handoff early {hook}"))?;
        command("nft add rule ip handoff early udp dport 53 drop")?;
        Ok(rule)
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        // The namespace ends with the process in any case.
        let _ = command("nft delete table ip handoff");
    }
}

/// Runs a command, its words separated by blanks.
fn command(line: &str) -> Result<()> {
    let words: Vec<_> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.with_context(|| format!("cannot run {line}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {}: {errors}", output.status);
    Ok(())
}
