//! One visit to a row: everything is set up anew, measured under three loads, and taken down.
//!
//! | load | what is measured |
//! |---|---|
//! | more than the row can take | packets dropped and accepted per second |
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

use anyhow::{Result, bail, ensure};
use nix::sys::signalfd::SignalFd;
use serde::{Deserialize, Serialize};
use vipdp_core::bucket::Bucket;
use vipdp_core::flow::{FlowState, FlowTable, Seconds};
use vipdp_core::offload::OffloadMode;
use vipdp_core::wire::protocol::TCP;

use super::counters::{self, Counters, Tally};
use super::group::Group;
use super::lab::{CLIENT_FIRST, VIP};
use super::node::Node;
use super::options::Options;
use super::part::Part;
use super::rows::{Owned, Row, Sink, Work};
use super::{receive, socket, writer};
use crate::pktgen;

/// Packets a second of the light load.
const LIGHT_PPS: u64 = 500_000;
/// What is offered under a paced overload, of the most that was handled before.
const PACED_OFFERS: [f64; 3] = [1.25, 2.0, 4.0];
/// How much more must be handled for another round of these.
const PACED_GROWTH: f64 = 1.05;
/// Rounds.
const PACED_MAX: u32 = 3;
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
/// How long the threads are watched without load, before each.
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
    /// What was measured.
    pub case: String,
    /// What it belongs to.
    pub group: Group,
    /// Which round it was, from 0 on.
    pub round: u32,
    /// Of a row: under the load that nothing can take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload: Option<Tally>,
    /// Of a row: under the light load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub light: Option<Tally>,
    /// The figures, by metric.
    pub figures: BTreeMap<String, f64>,
}

/// A row that is set up. The socket's owner ends before the node.
struct Stand<'a> {
    row: &'static Row,
    options: &'a Options,
    end: &'a SignalFd,
    socket: Part<'a>,
    node: Node<'a>,
}

/// The overloads that a row did best under.
struct Overload {
    /// Where it handled most.
    handled: Load,
    /// Where it accepted most.
    accepted: Load,
}

impl Overload {
    /// Keeps what is better.
    fn take(&mut self, load: Load) {
        let accepted_pps = |load: &Load| load.pps(load.tally.accepted);
        if load.handled_pps() > self.handled.handled_pps() {
            self.handled = load;
        }
        if accepted_pps(&load) > accepted_pps(&self.accepted) {
            self.accepted = load;
        }
    }
}

/// What a load did.
#[derive(Clone, Copy)]
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
    let mut visit =
        Visit { case: row.name.to_owned(), group: row.group, round, ..Visit::default() };
    let mut put = |metric: &str, value: f64| visit.figures.insert(metric.to_owned(), value);
    let mut stand = Stand::new(row, options, end)?;
    if let Some(bytes) = stand.warm_up()? {
        put("memory_per_flow", bytes);
    }
    if stand.idles() {
        put("idle_cpu_percent", stand.idle_percent()?);
    }
    let Overload { handled, accepted } = stand.overload()?;
    put("offered_pps", handled.pps(handled.tally.sent));
    put("total_pps", handled.handled_pps());
    put("accepted_pps", accepted.pps(accepted.tally.accepted));
    if row.sink != Sink::Nobody {
        put("read_pps", accepted.pps(accepted.tally.read));
    }
    visit.overload = Some(handled.tally);
    if row.work != Work::TapWriter {
        if !row.polls() {
            stand.node.lab.set_moderation(MODERATION_NS)?;
        }
        let light = stand.load(Some(LIGHT_PPS))?;
        if light.tally.handled() > 0 {
            put("cpu_ns_per_packet", light.run_ns / light.tally.handled() as f64);
        }
        visit.light = Some(light.tally);
    }
    if stand.has_latency() {
        let handles_pps = accepted.pps(accepted.tally.accepted) / row.owned.share();
        let latency = stand.latency((handles_pps * LATENCY_SHARE) as u64)?;
        let us = |ns: Option<u64>| ns.map_or(f64::NAN, |ns| ns as f64 / 1000.0);
        put("latency_p50_us", us(latency.p50_ns));
        put("latency_p99_us", us(latency.p99_ns));
    }
    visit.figures.retain(|_, value| value.is_finite());
    Ok(visit)
}

impl Load {
    /// Packets handled in a second of it.
    fn handled_pps(&self) -> f64 {
        self.pps(self.tally.handled())
    }

    /// So many packets, in a second of it.
    fn pps(&self, packets: u64) -> f64 {
        packets as f64 / self.active_s
    }
}

impl<'a> Stand<'a> {
    fn new(row: &'static Row, options: &'a Options, end: &'a SignalFd) -> Result<Self> {
        let node = Node::new(row, options, end)?;
        let mut words: Vec<_> =
            ["serve", "--core", &options.receive_core.to_string()].map(str::to_owned).into();
        if row.sink == Sink::GroSocket {
            words.push("--gro".to_owned());
        }
        let socket = Part::start(node.lab.node(), &words, end)?.ready()?;
        Ok(Self { row, options, end, socket, node })
    }

    /// Whether what the row costs without load is of interest: of a worker, in the mixed load that is usual.
    fn idles(&self) -> bool {
        matches!(self.row.work, Work::Vipdp(..))
            && self.row.group == Group::Receive
            && self.row.owned == Owned::QUARTER
    }

    /// Whether packets that say when they were sent reach a socket that reads it.
    fn has_latency(&self) -> bool {
        let row = self.row;
        row.group == Group::Receive && row.owned != Owned::Nothing && row.work != Work::TapWriter
    }

    /// Sends each flow's packet once or twice, so that everything is in its place. Returns what the node
    /// keeps for each flow, bytes, where it keeps something.
    fn warm_up(&mut self) -> Result<Option<f64>> {
        let row = self.row;
        if row.work == Work::TapWriter || row.is_tcp {
            return Ok(None);
        }
        let bytes = counters::kernel_bytes()?;
        let flows = row.flow_count();
        let patience = GENERATOR_PATIENCE + Duration::from_secs(flows / WARM_UP_PPS);
        let how = format!("--rate {WARM_UP_PPS} --count {flows}");
        let _: pktgen::Report =
            self.generate(self.options.generator_core, &how)?.finish(patience)?;
        match row.work {
            Work::Vipdp(..) if row.group == Group::Receive => Ok(Some(table_bytes_per_flow())),
            _ if row.is_tracked_by_kernel() => {
                let tracked = counters::tracked(self.socket.pid());
                let expected = flows as f64 * row.owned.share();
                ensure!(
                    tracked as f64 > expected / 2.0,
                    "{}: the kernel tracks {tracked} flows, not {expected}",
                    row.name
                );
                let grown = counters::kernel_bytes()?.saturating_sub(bytes);
                Ok(Some(grown as f64 / tracked as f64))
            }
            _ => Ok(None),
        }
    }

    /// Starts a generator on a core, which has its rate and its end from `how`.
    fn generate(&self, core: usize, how: &str) -> Result<Part<'a>> {
        let Self { node, options, row, .. } = self;
        let (interface, to_mac) = (node.lab.generator_interface(), &node.to_mac);
        let (clients, ports, frame_len) = (row.clients, row.ports, socket::FRAME_LEN);
        let calls = options.seconds() * CALLS_PER_S / row.generators as f64;
        let repeat = (calls as u32).clamp(REPEAT.0, REPEAT.1);
        let uncounted = if row.generators > 1 { "--uncounted" } else { "" };
        let line = format!(
            "generate --interface {interface} --to {VIP} --port {} --to-mac {to_mac} --from {CLIENT_FIRST} \
             --addresses {clients} --ports {ports} --frame-len {frame_len} --core {core} --repeat {repeat} \
             --linger-ms 0 --json {uncounted} {how}",
            socket::PORT
        );
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Part::start(node.lab.generator(), &words, self.end)
    }

    /// Sends at this rate, or as fast as it goes, for as long as a load lasts. Returns how many packets there were, and in
    /// how many seconds.
    fn send(&mut self, rate: Option<u64>) -> Result<(u64, f64)> {
        let seconds = self.options.seconds();
        if self.row.work == Work::TapWriter {
            let written: writer::Written = self.node.ask_receiver(&seconds.to_string())?;
            return Ok((written.sent, written.seconds));
        }
        let Row { run_len, generators, is_tcp, .. } = *self.row;
        let traffic = if is_tcp { "tcp" } else { "udp" };
        let load = match rate.map(|rate| rate / generators as u64) {
            Some(rate) => format!("--rate {rate} --count {}", in_time(rate, seconds)),
            None => format!("--duration {seconds}"),
        };
        let how = format!("{load} --run-len {run_len} --traffic {traffic}");
        let cores = [self.options.generator_core, self.options.receive_core];
        let started = cores[..generators].iter().map(|&core| self.generate(core, &how));
        let started = started.collect::<Result<Vec<_>>>()?;
        let patience = GENERATOR_PATIENCE + Duration::from_secs_f64(seconds);
        let mut total = (0, 0.0_f64);
        for generator in started {
            let report: pktgen::Report = generator.finish(patience)?;
            total = (total.0 + report.sent, total.1.max(report.active_seconds));
        }
        Ok(total)
    }

    /// The loads under which the row handles most, and accepts most.
    ///
    /// As fast as the generator can is first, and for a slow row it is best. A fast one may lose by it: the driver's queue is
    /// full most of the time, and both cores are at it. So multiples of what was handled are offered next, for as long
    /// as more is handled then. A row that drops in one place and accepts in another may handle most where it accepts
    /// less than it could: its drops are as many as are offered, and leave less of the core.
    fn overload(&mut self) -> Result<Overload> {
        let first = self.load(None)?;
        let mut best = Overload { handled: first, accepted: first };
        if self.row.work == Work::TapWriter {
            return Ok(best);
        }
        for _ in 0..PACED_MAX {
            let before_pps = best.handled.handled_pps();
            for offer in PACED_OFFERS {
                let paced = self.load(Some((before_pps * offer) as u64))?;
                best.take(paced);
            }
            if best.handled.handled_pps() < before_pps * PACED_GROWTH {
                break;
            }
        }
        Ok(best)
    }

    /// One load, to its end.
    fn load(&mut self, rate: Option<u64>) -> Result<Load> {
        let idle = self.idle_share()?;
        let before = self.counters()?;
        let (start, run_before) = (Instant::now(), self.run_ns()?);
        let (sent, active_s) = self.send(rate)?;
        let (after, tally) = self.settled(&before, sent)?;
        self.check_share(&tally)?;
        self.check_offload(&tally, after.by_program_since(&before))?;
        let run_ns = (self.run_ns()? - run_before) as f64;
        let without_load_s = start.elapsed().as_secs_f64() - active_s;
        let run_ns = run_ns - idle * without_load_s.max(0.0) * 1e9;
        Ok(Load { tally, active_s, run_ns: run_ns.max(0.0) })
    }

    /// Waits until every packet is accounted for.
    fn settled(&mut self, before: &Counters, sent: u64) -> Result<(Counters, Tally)> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        let mut last = self.counters()?;
        loop {
            thread::sleep(AT_REST);
            let now = self.counters()?;
            let mut tally = now.since(before, sent, self.row.sink);
            if self.row.generators > self.row.queues as usize {
                // Two cores that send into one queue count what they lose in one place, and so too little.
                tally.lost = sent.saturating_sub(tally.handled());
            }
            if now == last && tally.adds_up(self.row.sink) {
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

    /// A row that accepts or drops more than its share of what was sent does not do the work, and its rate says nothing.
    /// What is lost is neither: so where nothing is, both are their shares.
    fn check_share(&self, tally: &Tally) -> Result<()> {
        let owned = self.row.owned.share();
        for (does, packets, wanted) in
            [("accepts", tally.accepted, owned), ("drops", tally.dropped, 1.0 - owned)]
        {
            let share = packets as f64 / tally.sent.max(1) as f64;
            if tally.sent >= SHARE_PACKETS_MIN && share > wanted + SHARE_TOLERANCE {
                bail!("{}: {does} {share:.3} of its packets, not {wanted}", self.row.name);
            }
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
        let _: pktgen::Report =
            self.generate(self.options.generator_core, &how)?.finish(patience)?;
        thread::sleep(AT_REST);
        self.socket.ask("report")
    }

    fn counters(&mut self) -> Result<Counters> {
        let interface = match self.row.work {
            Work::TapWriter => receive::TAP,
            _ => self.node.lab.node_interface(),
        };
        let mut counters = Counters::of(self.socket.pid(), interface)?;
        let read: socket::Report = self.socket.ask("report")?;
        counters.read = read.read;
        if self.row.is_af_xdp() {
            counters.receiver = Some(self.node.ask_receiver("report")?);
        }
        Ok(counters)
    }

    /// How long the threads that do the row's work have run.
    fn run_ns(&self) -> Result<u64> {
        self.node.run_ns(&[self.socket.pid()])
    }

    /// What share of a core they take without load.
    fn idle_share(&self) -> Result<f64> {
        share(IDLE_WATCH, || self.run_ns())
    }

    /// What of a core the receiver takes without load, percent.
    fn idle_percent(&self) -> Result<f64> {
        let watch = Duration::from_secs_f64(self.options.seconds());
        thread::sleep(IDLE_WATCH);
        Ok(100.0 * share(watch, || self.node.run_ns(&[]))?)
    }
}

/// What share of a core that takes, of which `run_ns` says how long it has run.
fn share(watch: Duration, run_ns: impl Fn() -> Result<u64>) -> Result<f64> {
    let (start, before) = (Instant::now(), run_ns()?);
    thread::sleep(watch);
    Ok((run_ns()? - before) as f64 / start.elapsed().as_nanos() as f64)
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
