//! Packets of many flows at the rate of the interface, and a count of what comes back.
//!
//! ```text
//!   template: a frame, and what in it varies       flows: turn -> source address, port
//!           \                                          /
//!            engine:  live     an XDP program, on frames of the kernel's own
//!                     af_xdp   a transmit ring; captures too
//!                     kernel   the kernel's pktgen, driven by /proc/net/pktgen
//!                        |
//!                    interface  --->  ...  --->  counted by kind, and dropped: an XDP program
//! ```
//!
//! Turn `n` is of template `n % templates` and of the flow of turn `n / templates`, whichever engine
//! sends it; only the kernel's has an order of its own.

mod af_xdp;
mod flows;
mod kernel;
mod live;
mod options;
mod report;
mod template;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_io::affinity;
use vipdp_io::link::Link;

pub use flows::{DRAWS, Flows, FlowsError};
pub use options::{Engine, Options};
pub use report::{Report, Tally};
pub use template::{
    Checksum, Common, FRAME_LEN_MAX, FRAME_LEN_MIN, Template, TemplateError, Traffic,
};

use live::{Pace, Programs, Stamps};

/// Templates of one run at most: both families, in two fragments each, and room for more.
const TEMPLATES_MAX: usize = 8;

/// What an engine did.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    packets: u64,
    refused: u64,
    /// From the first packet to the last.
    seconds: f64,
    /// Of these, without the engine's own pauses.
    active_seconds: f64,
}

/// When to end.
struct End<'a> {
    packets: u64,
    at: Option<Instant>,
    stop: Option<BorrowedFd<'a>>,
}

impl End<'_> {
    /// Whether the time has come, or somebody says so.
    fn has_come(&self) -> bool {
        if self.at.is_some_and(|at| Instant::now() >= at) {
            return true;
        }
        let Some(stop) = self.stop else { return false };
        let mut descriptors = [PollFd::new(stop, PollFlags::POLLIN)];
        matches!(poll(&mut descriptors, PollTimeout::ZERO), Ok(1..))
    }
}

/// Runs until the end that the options name, or until `stop` can be read.
///
/// # Errors
/// When the options contradict each other, or the interface, the kernel or the driver cannot do
/// what they ask for.
pub fn run(options: &Options, stop: Option<BorrowedFd<'_>>) -> Result<Report> {
    if options.count.is_none() && options.duration.is_none() {
        bail!("an end is missing: give --count or --duration");
    }
    if let Some(core) = options.core {
        affinity::pin(core)?;
    }
    let end = || End {
        packets: options.count.map_or(u64::MAX, Into::into),
        at: options.duration.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds)),
        stop,
    };
    let mut programs = Programs::load()?;
    if !options.uncounted {
        programs.count_received(&options.interface)?;
    }
    let sent = match options.engine {
        Engine::Live => {
            ensure!(options.replay.is_none(), "captures are replayed by --engine af-xdp");
            let (templates, flows) = (templates(options)?, flows(options)?);
            let pace = Pace { interval_ns: interval_ns(options), repeat: options.repeat };
            let stamps = stamps(options, &templates)?;
            programs.transmit(&options.interface, &templates, &flows, &pace, &stamps, &end())?
        }
        _ if options.stamp_every.is_some() => bail!("packets are stamped by --engine live"),
        Engine::AfXdp => af_xdp::run(options, interval_ns(options), end)?,
        Engine::Kernel => kernel::run(options, &templates(options)?, &end())?,
    };
    std::thread::sleep(Duration::from_millis(options.linger_ms));
    Ok(Report {
        engine: options.engine,
        sent: sent.packets,
        refused: sent.refused,
        seconds: sent.seconds,
        active_seconds: sent.active_seconds,
        packets_per_s: if sent.seconds > 0.0 { sent.packets as f64 / sent.seconds } else { 0.0 },
        received: programs.received()?,
    })
}

/// Nanoseconds between packets; 0 if there is no rate to keep.
fn interval_ns(options: &Options) -> u64 {
    options.rate.map_or(0, |rate| 1_000_000_000 / rate.get())
}

fn stamps(options: &Options, templates: &[Template]) -> Result<Stamps> {
    let Some(every) = options.stamp_every else { return Ok(Stamps::default()) };
    match templates {
        [template] if options.traffic == Traffic::Udp && template.source.is_ipv4() => {
            let udp_at = template.port_at.context("datagrams have ports")? as u32;
            Ok(Stamps { every: every.get(), udp_at, port: options.port.into() })
        }
        _ => bail!("packets that are stamped are UDP over IPv4"),
    }
}

fn flows(options: &Options) -> Result<Flows> {
    ensure!(
        u32::from(options.port_first) + options.ports <= 1 << 16,
        "{} source ports from {} on end beyond 65535",
        options.ports,
        options.port_first,
    );
    Ok(Flows::new(options.addresses, options.ports, options.run_len, options.zipf)?)
}

/// The templates of a run: all of one length, as one frame serves them all.
fn templates(options: &Options) -> Result<Vec<Template>> {
    let link = Link::read(&options.interface)?;
    let common = Common {
        source_mac: link.mac,
        destination_mac: options.to_mac.unwrap_or(MacAddr([0xff; 6])),
        port_first: options.port_first,
        port: options.port,
        frame_len: options.frame_len,
    };
    let mut templates = Vec::new();
    for (from, to) in pairs(&options.from, &options.to)? {
        templates.extend(Template::of(options.traffic, &common, from, to)?);
    }
    ensure!(templates.len() <= TEMPLATES_MAX, "too many destinations: give one of each family");
    let len = templates.iter().map(|template| template.bytes.len()).max().unwrap_or_default();
    for template in &mut templates {
        template.bytes.resize(len, 0);
    }
    Ok(templates)
}

/// Sources and destinations, by family.
fn pairs(from: &[IpAddr], to: &[IpAddr]) -> Result<Vec<(IpAddr, IpAddr)>> {
    ensure!(from.len() == to.len(), "{} --from for {} --to: give as many", from.len(), to.len());
    let pairs = to.iter().map(|&to| {
        let from = from.iter().find(|from| from.is_ipv4() == to.is_ipv4());
        Ok((*from.with_context(|| format!("no --from of the family of {to}"))?, to))
    });
    pairs.collect()
}
