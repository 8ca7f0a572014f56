//! The cluster protocol at its largest, 64 members and 4096 buckets, in a settled cluster: what each
//! heartbeat costs that comes in, what each that goes out, and what share of a core they take together.
//!
//! The node under measurement lives the recorded life of one of 64 nodes that ran against each
//! other. Its heartbeats come in groups between two ticks, and each group is measured as a whole.
//! `hmac` is the yardstick: the code that each message is authenticated with, over as many bytes.
//! What the kernel takes for sending and receiving datagrams is not part of it.

mod cluster;
mod cpu_time;

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

use cluster::{CLUSTER, Event, Life};
use cpu_time::CpuTime;
use criterion::{Bencher, Criterion};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use vipdp::cluster::auth::{KEY_LEN, KeyId, Keyring, open, seal};
use vipdp::cluster::config::Timing;
use vipdp::cluster::node::{Node, Output};
use vipdp::cluster::wire::{MESSAGE_LEN, Message};
use vipdp_core::slot::SLOTS;

/// How many measurements each median is of.
const SAMPLES: usize = 100;

/// Heartbeats of a node per interval: they are sent after 75 to 100 % of it.
const BEATS_PER_INTERVAL: f64 = 1.0 / 0.875;

/// A node that lives through a [`Life`], again and again.
struct Replay<'a> {
    life: &'a Life,
    node: Node,
    out: Vec<Output>,
    /// What comes next, of the settled part.
    next: usize,
}

impl<'a> Replay<'a> {
    fn new(life: &'a Life) -> Self {
        let mut replay = Self { life, node: life.newborn(), out: Vec::new(), next: 0 };
        for event in &life.youth {
            replay.feed(event);
        }
        replay
    }

    fn feed(&mut self, event: &Event) {
        self.node.step(event.now_ns, event.input(), &mut self.out);
        self.out.clear();
    }

    /// Feeds in as many of the events that come next and that `counts` holds of as there are in a
    /// row, but at most `at_most`, and gives their number and what they took. Others before them
    /// are fed in unmeasured.
    fn run(&mut self, at_most: u64, counts: impl Fn(&Event) -> bool) -> (u64, Duration) {
        let life = self.life;
        while !life.settled.get(self.next).is_some_and(&counts) {
            match life.settled.get(self.next) {
                Some(event) => {
                    self.next += 1;
                    self.feed(event);
                }
                None => *self = Self::new(life),
            }
        }
        let events = life.settled[self.next..].iter().take_while(|event| counts(event));
        let inputs: Vec<_> =
            events.take(at_most as usize).map(|event| (event.now_ns, event.input())).collect();
        let count = inputs.len();
        self.next += count;
        let start = CpuTime::now();
        for (now_ns, input) in inputs {
            self.node.step(now_ns, input, &mut self.out);
            self.out.clear();
        }
        (count as u64, CpuTime::now() - start)
    }

    fn measure(&mut self, events: u64, counts: impl Fn(&Event) -> bool) -> Duration {
        let (mut left, mut spent) = (events, Duration::ZERO);
        while left > 0 {
            let (count, time) = self.run(left, &counts);
            left -= count;
            spent += time;
        }
        spent
    }
}

/// The measurements of one kind, nanoseconds each.
#[derive(Default)]
struct Samples(RefCell<Vec<f64>>);

impl Samples {
    fn measure(&self, b: &mut Bencher<'_, CpuTime>, mut run: impl FnMut(u64) -> Duration) {
        b.iter_custom(|count| {
            let time = run(count);
            self.0.borrow_mut().push(time.as_nanos() as f64 / count as f64);
            time
        });
    }

    /// The median of what was measured after the warm-up, nanoseconds; `None` when it was not.
    fn median_ns(&self) -> Option<f64> {
        let samples = self.0.borrow();
        let mut measured = samples.len().checked_sub(SAMPLES).map(|at| samples[at..].to_vec())?;
        measured.sort_unstable_by(f64::total_cmp);
        Some(measured[SAMPLES / 2])
    }
}

/// What was measured.
#[derive(Default)]
struct Costs {
    open: Samples,
    step: Samples,
    beat: Samples,
    seal: Samples,
    hmac: Samples,
}

fn heartbeats(event: &Event) -> bool {
    event.message.is_some()
}

/// A tick that sends a heartbeat. In a settled cluster all do but for a few.
fn beats(event: &Event) -> bool {
    event.message.is_none() && event.sent
}

/// Runs `routine` as often as asked for.
fn repeated<O>(count: u64, mut routine: impl FnMut() -> O) -> Duration {
    let start = CpuTime::now();
    for _ in 0..count {
        black_box(routine());
    }
    CpuTime::now() - start
}

fn node(c: &mut Criterion<CpuTime>, life: &Life, costs: &Costs) {
    let heartbeat: &Message =
        life.settled.iter().rev().find_map(|event| event.message.as_deref()).expect("there are");
    let keys = Keyring::new(KeyId(1), [(KeyId(1), [0x5a; KEY_LEN])]).expect("one key");
    let mut datagram = Vec::new();
    seal(&keys, heartbeat, &mut datagram);
    assert_eq!(open(&keys, CLUSTER, &datagram).as_deref(), Ok(heartbeat));

    let mut group = c.benchmark_group("node");
    group.sample_size(SAMPLES);
    group.bench_function("hmac", |b| {
        let mac = Hmac::<Sha256>::new(&[0x5a; 64].into());
        let bytes = [0x5a; MESSAGE_LEN];
        let once = || mac.clone().chain_update(black_box(bytes)).finalize();
        costs.hmac.measure(b, |count| repeated(count, once));
    });
    group.bench_function("open", |b| {
        let once = || open(&keys, CLUSTER, black_box(&datagram));
        costs.open.measure(b, |count| repeated(count, once));
    });
    group.bench_function("step_heartbeat", |b| {
        let mut replay = Replay::new(life);
        costs.step.measure(b, |count| replay.measure(count, heartbeats));
    });
    group.bench_function("step_tick_and_send", |b| {
        let mut replay = Replay::new(life);
        costs.beat.measure(b, |count| replay.measure(count, beats));
    });
    group.bench_function("seal", |b| {
        let mut datagram = Vec::new();
        costs.seal.measure(b, |count| {
            repeated(count, || seal(&keys, black_box(heartbeat), &mut datagram))
        });
    });
    group.finish();
}

/// What part of a core all of it takes, if all of it was measured.
fn share(life: &Life, costs: &Costs) -> Option<String> {
    let Costs { open, step, beat, seal, hmac } = costs;
    let (open, step, hmac) = (open.median_ns()?, step.median_ns()?, hmac.median_ns()?);
    let (beat, seal) = (beat.median_ns()?, seal.median_ns()?);
    let interval_ns = Timing::DEFAULT.heartbeat_ns as f64;
    let peers = (SLOTS - 1) as f64;
    // A tick without a heartbeat costs no more than one with it.
    let of = |counts: fn(&Event) -> bool| life.settled.iter().filter(|event| counts(event)).count();
    let ticks_per_beat = of(|event| event.message.is_none()) as f64 / of(beats) as f64;
    let per_beat_ns = peers * (open + step) + ticks_per_beat * beat + seal;
    let percent = 100.0 * per_beat_ns * BEATS_PER_INTERVAL / interval_ns;
    Some(format!(
        "{SLOTS} members, a heartbeat each {} ms at the latest: {percent:.2} % of one core\n\
         | | us | of an HMAC |\n\
         |---|---|---|\n\
         | HMAC of {MESSAGE_LEN} bytes | {:.2} | 1.0 |\n\
         | heartbeat in: authenticate and decode | {:.2} | {:.1} |\n\
         | heartbeat in: `Node::step` | {:.2} | {:.1} |\n\
         | tick with a heartbeat out: `Node::step` | {:.2} | {:.1} |\n\
         | heartbeat out: encode and seal | {:.2} | {:.1} |\n\
         ticks per heartbeat out: {ticks_per_beat:.2}",
        interval_ns / 1e6,
        hmac / 1e3,
        open / 1e3,
        open / hmac,
        step / 1e3,
        step / hmac,
        beat / 1e3,
        beat / hmac,
        seal / 1e3,
        seal / hmac,
    ))
}

fn main() {
    let life = Life::record();
    let costs = Costs::default();
    let mut criterion = CpuTime::criterion().configure_from_args();
    node(&mut criterion, &life, &costs);
    criterion.final_summary();
    if let Some(share) = share(&life, &costs) {
        eprintln!("{share}");
    }
}
