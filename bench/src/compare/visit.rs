//! One visit to a row: everything is set up anew, measured under three loads, and taken down.
//!
//! | load | what is measured |
//! |---|---|
//! | as much as the generator can | packets dropped and accepted per second |
//! | half a million packets a second | processor time per packet |
//! | 70 % of the first | latency of packets among it that say when they were sent |
//!
//! Under the second and third the receive side runs every 50 us, as a NIC moderates its interrupts, except where a
//! worker polls.
//!
//! **One core receives.** The kernel's receive thread, the worker and the socket's owner are all kept on the
//! receiver's core, whatever the row, and the generator on another: so a rate is what one core can do from the interface
//! to the service's `recvmmsg`. With `poll = "busy"` the worker runs the driver's receive side itself.
//!
//! **Processor time** is what the scheduler says that these threads ran (`schedstat`, nanoseconds), less what
//! they run without load. That is the busy time of the machine without the generator's, also where other programs
//! run; the generator spins until each packet is due, so that its core's own idle time would say nothing.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signalfd::SignalFd;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use vipdp_core::bucket::Bucket;
use vipdp_core::flow::{FlowState, FlowTable, Seconds};
use vipdp_core::offload::OffloadMode;
use vipdp_core::wire::protocol::TCP;

use super::counters::{self, Counters, Tally};
use super::lab::{CLIENT_FIRST, Lab, VIP};
use super::options::Options;
use super::part::Part;
use super::rows::{CLIENTS, Row, Work};
use super::{ping_pong, receive, socket};
use crate::pktgen;

/// Packets a second of the light load.
const LIGHT_PPS: u64 = 500_000;
/// Packets a second that say when they were sent, about.
const STAMPS_PPS: u64 = 4_000;
/// How long the receive side waits for more packets under the loads that leave it time, nanoseconds: 50 us, the
/// default of Intel's ice driver. Without, its thread would be woken for each packet, and that would be all that is
/// measured.
const MODERATION_NS: u32 = 50_000;
/// The share of its greatest rate at which a row's latency is measured.
const LATENCY_SHARE: f64 = 0.7;
/// Calls of the generator's program between two looks at the time, for each second of a load: a small part of it,
/// and more than what the kernel takes to set them up.
const CALLS_PER_S: f64 = 4e6;
/// Bounds of that.
const REPEAT: (u32, u32) = (1 << 18, 1 << 22);
/// Packets a second at which connection tracking gets to know the flows: few of them are lost.
const WARM_UP_PPS: u64 = 1_000_000;
/// How long counters may take to come to rest after the last packet.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);
/// They are at rest when they have not changed for so long.
const AT_REST: Duration = Duration::from_millis(30);
/// How long the threads are watched without load.
const IDLE_WATCH: Duration = Duration::from_millis(50);
/// How far the accepted share may be from what is owned: clients fall on nodes by hash.
const SHARE_TOLERANCE: f64 = 0.05;
/// So few packets that their share says nothing.
const SHARE_PACKETS_MIN: u64 = 20_000;
/// How much longer than its load the generator may take.
const GENERATOR_PATIENCE: Duration = Duration::from_secs(60);
/// Flows offered to a table that is asked for as many, to see how many it holds.
const TABLE_FLOWS: u32 = 1 << 20;
/// Bytes of an entry of the flow table.
const ENTRY_LEN: usize = 8;

/// What a visit found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Visit {
    /// The row.
    pub case: String,
    /// Which round it was, from 0 on.
    pub round: u32,
    /// Under the load that nothing can take.
    pub overload: Tally,
    /// Under the light load.
    pub light: Tally,
    /// The figures, by metric.
    pub figures: BTreeMap<String, f64>,
}

/// A row that is set up. What runs inside the lab ends before it.
struct Stand<'a> {
    row: &'static Row,
    options: &'a Options,
    end: &'a SignalFd,
    socket: Part<'a>,
    receiver: Option<Part<'a>>,
    /// The kernel's thread, unless the worker takes its place.
    receive_thread: Option<u32>,
    to_mac: String,
    lab: Lab,
    _state: TempDir,
}

/// What a load did.
struct Load {
    tally: Tally,
    /// Seconds in which packets were sent.
    active_s: f64,
    /// What the receiver's threads ran for it, nanoseconds.
    run_ns: f64,
}

/// Visits a row.
pub(super) fn visit(
    row: &'static Row,
    round: u32,
    options: &Options,
    end: &SignalFd,
) -> Result<Visit> {
    let mut figures = BTreeMap::new();
    let mut put = |metric: &str, value: f64| figures.insert(metric.to_owned(), value);
    put("ping_pong_ns", ping_pong::measure_ns([options.generator_core, options.receive_core])?);
    let mut stand = Stand::new(row, options, end)?;
    if let Some(bytes) = stand.warm_up()? {
        put("memory_per_flow", bytes);
    }
    let overload = stand.load(None)?;
    let pps = |packets: u64| packets as f64 / overload.active_s;
    let total_pps = pps(overload.tally.handled());
    put("offered_pps", pps(overload.tally.sent));
    put("total_pps", total_pps);
    put("accepted_pps", pps(overload.tally.accepted));
    put("read_pps", pps(overload.tally.read));
    if !row.polls() {
        stand.lab.set_moderation(MODERATION_NS)?;
    }
    let light = stand.load(Some(LIGHT_PPS))?;
    if light.tally.handled() > 0 {
        put("cpu_ns_per_packet", light.run_ns / light.tally.handled() as f64);
    }
    if row.owned.share() > 0.0 {
        let latency = stand.latency((total_pps * LATENCY_SHARE) as u64)?;
        let us = |ns: Option<u64>| ns.map_or(f64::NAN, |ns| ns as f64 / 1000.0);
        put("latency_p50_us", us(latency.p50_ns));
        put("latency_p99_us", us(latency.p99_ns));
    }
    figures.retain(|_, value| value.is_finite());
    let case = row.name.to_owned();
    Ok(Visit { case, round, overload: overload.tally, light: light.tally, figures })
}

impl<'a> Stand<'a> {
    fn new(row: &'static Row, options: &'a Options, end: &'a SignalFd) -> Result<Self> {
        let lab = Lab::new()?;
        let state = tempfile::tempdir().context("no directory for what is to be undone")?;
        let core = options.receive_core.to_string();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let socket = Part::start(lab.node(), &words(&["serve", "--core", &core]), end)?.ready()?;
        let to_mac = if row.is_af_xdp() {
            receive::SHARED_MAC.to_string()
        } else {
            lab.add_vip()?;
            lab.node_mac().to_owned()
        };
        let receiver = if row.has_receiver() {
            let interface = lab.node_interface();
            let mut arguments =
                words(&["receive", "--row", row.name, "--interface", interface, "--core", &core]);
            arguments.extend(["--state-dir".to_owned(), state.path().display().to_string()]);
            Some(Part::start(lab.node(), &arguments, end)?.ready()?)
        } else {
            None
        };
        if let Work::Kernel(rules) = row.work {
            rules.apply(&lab)?;
        }
        let receive_thread = match row.polls() {
            true => None,
            false => Some(lab.receive_on(options.receive_core)?.as_raw() as u32),
        };
        let _state = state;
        Ok(Self { row, options, end, socket, receiver, receive_thread, to_mac, lab, _state })
    }

    /// Sends each flow's packet once or twice, so that everything is in its place. Returns what the node
    /// keeps for each flow, bytes, where it keeps something.
    fn warm_up(&mut self) -> Result<Option<f64>> {
        let tracks = matches!(self.row.work, Work::Kernel(rules) if rules.tracks());
        let bytes = counters::kernel_bytes()?;
        let flows = self.row.flows();
        let patience = GENERATOR_PATIENCE + Duration::from_secs(flows / WARM_UP_PPS);
        let how = format!("--rate {WARM_UP_PPS} --count {flows}");
        let _: pktgen::Report = self.generate(&how)?.finish(patience)?;
        match self.row.work {
            Work::Vipdp(..) => Ok(Some(table_bytes_per_flow())),
            _ if tracks => {
                let tracked = counters::tracked(self.socket.pid());
                let expected = flows as f64 * self.row.owned.share();
                ensure!(
                    tracked as f64 > expected / 2.0,
                    "{}: the kernel tracks {tracked} flows, not {expected}",
                    self.row.name
                );
                let grown = counters::kernel_bytes()?.saturating_sub(bytes);
                Ok(Some(grown as f64 / tracked as f64))
            }
            _ => Ok(None),
        }
    }

    /// Starts the generator, which has its rate and its end from `how`.
    fn generate(&self, how: &str) -> Result<Part<'a>> {
        let Self { lab, options, row, to_mac, .. } = self;
        let interface = lab.generator_interface();
        let (ports, core) = (row.ports, options.generator_core);
        let repeat = ((options.seconds() * CALLS_PER_S) as u32).clamp(REPEAT.0, REPEAT.1);
        let line = format!(
            "generate --interface {interface} --to {VIP} --port {} --to-mac {to_mac} --from {CLIENT_FIRST} \
             --addresses {CLIENTS} --ports {ports} --core {core} --repeat {repeat} --linger-ms 0 --json {how}",
            socket::PORT
        );
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Part::start(lab.generator(), &words, self.end)
    }

    /// One load, to its end.
    fn load(&mut self, rate: Option<u64>) -> Result<Load> {
        let idle = self.idle_share()?;
        let before = self.counters()?;
        let (start, run_before) = (Instant::now(), self.run_ns()?);
        let seconds = self.options.seconds();
        let how = match rate {
            Some(rate) => format!("--rate {rate} --count {}", in_time(rate, seconds)),
            None => format!("--duration {seconds}"),
        };
        let patience = GENERATOR_PATIENCE + Duration::from_secs_f64(seconds);
        let report: pktgen::Report = self.generate(&how)?.finish(patience)?;
        let (after, tally) = self.settled(&before, report.sent)?;
        self.check_share(&tally)?;
        self.check_offload(&tally, after.by_program_since(&before))?;
        let run_ns = (self.run_ns()? - run_before) as f64;
        let without_load_s = start.elapsed().as_secs_f64() - report.active_seconds;
        let run_ns = run_ns - idle * without_load_s.max(0.0) * 1e9;
        Ok(Load { tally, active_s: report.active_seconds, run_ns: run_ns.max(0.0) })
    }

    /// Waits until every packet is accounted for.
    fn settled(&mut self, before: &Counters, sent: u64) -> Result<(Counters, Tally)> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        let mut last = self.counters()?;
        loop {
            thread::sleep(AT_REST);
            let now = self.counters()?;
            let tally = now.since(before, sent);
            if now == last && tally.adds_up() {
                return Ok((now, tally));
            }
            ensure!(
                Instant::now() < deadline,
                "{}: packets are missing: {tally:?}, from {before:?} to {now:?}",
                self.row.name
            );
            last = now;
        }
    }

    /// A row that accepts something else than its share does not do the work, and its rate says nothing.
    fn check_share(&self, tally: &Tally) -> Result<()> {
        let (wanted, handled) = (self.row.owned.share(), tally.handled());
        let share = tally.accepted as f64 / handled.max(1) as f64;
        if handled >= SHARE_PACKETS_MIN && (share - wanted).abs() > SHARE_TOLERANCE {
            bail!("{}: accepts {share:.3} of its packets, not {wanted}", self.row.name);
        }
        Ok(())
    }

    /// Nor does a row whose XDP program leaves to the worker what it should do by itself.
    fn check_offload(&self, tally: &Tally, by_program: u64) -> Result<()> {
        let expected = match self.row.work {
            Work::Vipdp(_, Some(OffloadMode::Drop)) => tally.dropped,
            Work::Vipdp(_, Some(OffloadMode::Full)) => tally.handled(),
            _ => 0,
        };
        ensure!(
            by_program as f64 >= expected as f64 * (1.0 - SHARE_TOLERANCE),
            "{}: the program dealt with {by_program} packets, not {expected}",
            self.row.name
        );
        Ok(())
    }

    /// How long packets take from the generator to the service under a load of this rate.
    fn latency(&mut self, rate: u64) -> Result<socket::Report> {
        let _: socket::Report = self.socket.ask("report")?;
        let seconds = self.options.seconds();
        let rate = rate.max(1);
        // An odd number, and so no common divisor with that of the clients: all of them get their turn.
        let every = (rate / STAMPS_PPS) | 1;
        let how = format!("--rate {rate} --count {} --stamp-every {every}", in_time(rate, seconds));
        let patience = GENERATOR_PATIENCE + Duration::from_secs_f64(seconds);
        let _: pktgen::Report = self.generate(&how)?.finish(patience)?;
        thread::sleep(AT_REST);
        self.socket.ask("report")
    }

    fn counters(&mut self) -> Result<Counters> {
        let mut counters = Counters::of(self.socket.pid(), self.lab.node_interface())?;
        let read: socket::Report = self.socket.ask("report")?;
        counters.read = read.read;
        if let (Some(receiver), true) = (&mut self.receiver, self.row.is_af_xdp()) {
            counters.receiver = Some(receiver.ask("report")?);
        }
        Ok(counters)
    }

    /// How long the threads that do the row's work have run.
    fn run_ns(&self) -> Result<u64> {
        let receiver = self.receiver.as_ref().map(Part::pid);
        let threads = [Some(self.socket.pid()), self.receive_thread, receiver];
        counters::run_ns(threads.into_iter().flatten())
    }

    /// What share of a core they take without load.
    fn idle_share(&self) -> Result<f64> {
        let (start, before) = (Instant::now(), self.run_ns()?);
        thread::sleep(IDLE_WATCH);
        Ok((self.run_ns()? - before) as f64 / start.elapsed().as_nanos() as f64)
    }
}

/// How many packets there are in so many seconds.
fn in_time(rate: u64, seconds: f64) -> u64 {
    ((rate as f64 * seconds) as u64).max(1)
}

/// What the flow table takes for each flow that it holds, bytes, when it is offered as many as it was asked for.
fn table_bytes_per_flow() -> f64 {
    let table = FlowTable::new(TABLE_FLOWS as usize, [1, 2]);
    let vip = VIP.parse().expect("an address");
    let now = Seconds::of_ns(1_000_000_000);
    for flow in 0..TABLE_FLOWS {
        let port = flow as u16;
        let key = table.key(u64::from(flow >> 16), port, vip, socket::PORT, TCP);
        table.insert(key, Bucket::FIRST, FlowState::Established, now);
    }
    (table.capacity() * ENTRY_LEN) as f64 / table.census(now).flows() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_table_takes_little_more_than_its_entries() {
        let bytes = table_bytes_per_flow();
        assert!((8.0..12.0).contains(&bytes), "{bytes}");
    }
}
