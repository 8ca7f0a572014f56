//! The protocol's invariants (PROTOCOL.md, section 6) as formulas over what was seen in a run.
//!
//! With loss the bounds grow with k, the most losses in a row that the run had on any one way: a
//! round of heartbeats that is lost costs one h. Clocks differ by up to rho, so a node's own time
//! of t takes up to t(1 + 2 rho) of another's.

use vipdp_core::bucket::{BUCKETS, BucketSet};

use crate::MS;
use crate::coverage::{Fault, Move, Span};
use crate::network::{Lease, Repeat, Stop};

/// What decides how long things may take. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many nodes there are at most.
    pub nodes: u64,
    /// h, the heartbeat interval.
    pub h: u64,
    /// D, the detection time.
    pub d: u64,
    /// How long a node that came back waits.
    pub hold: u64,
    /// delta, the longest delay of a datagram when the network is well.
    pub delta: u64,
    /// How late a tick is at most.
    pub tick: u64,
    /// rho, by how much clocks are off at most, in parts per million.
    pub rho_ppm: u64,
    /// k, the most losses in a row on any one way.
    pub losses: u64,
    /// Whether only a majority serves, by votes.
    pub votes: bool,
}

/// What was seen in a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// When observation ended, in nanoseconds of virtual time.
    pub to: u64,
    /// Gaps and duals.
    pub spans: Vec<Span>,
    /// Who got which buckets when.
    pub moves: Vec<Move>,
    /// What was published.
    pub leases: Vec<Lease>,
    /// What nodes did with datagrams that were not for them to heed.
    pub repeats: Vec<Repeat>,
    /// When something happened: a fault, its end, an operator's wish. Ascending.
    pub acts: Vec<u64>,
    /// When not all running nodes could hear each other in time, from and to.
    pub disturbed: Vec<(u64, u64)>,
    /// When no node ran whose service was well, from and to: then nobody may own anything.
    pub nobody: Vec<(u64, u64)>,
    /// When nodes stood still.
    pub stops: Vec<Stop>,
    /// Times of D or more in which one running node had no news of another, from and to: somebody
    /// had reason to take another for dead. They are faults, whatever they come from.
    pub silences: Vec<(u64, u64)>,
    /// When nodes lost the right to serve, got it back, and took up what they had given up.
    pub fences: Vec<u64>,
    /// From when on it was asked whether all is where it belongs.
    pub asked_at: u64,
    /// When all was where it belongs, if it ever was.
    pub settled_at: Option<u64>,
    /// How many buckets each node had in the end, and how many its weight entitles it to, both in
    /// thousandths, for those that take part.
    pub shares: Vec<(u64, u64)>,
    /// How many of the members did not take part in the end.
    pub absent: usize,
}

/// An invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Never two owners while all are connected and nothing is lost; otherwise a dual ends in time.
    S1,
    /// Always at least one of Owner and Yielding.
    S2,
    /// A loop that stands still for more than D - h serves nothing new.
    S3,
    /// At most one owner, whatever happens.
    S4,
    /// The same where no datagram is lost but by a cut: for a guard that asks a third party, and is no vote.
    Guarded,
    /// No regression from duplicated, old or replayed messages.
    S5,
    /// A crash's gap.
    L1,
    /// A restart's gap.
    L2 {
        /// How long the node was down, in nanoseconds.
        down_ns: u64,
    },
    /// A stop's gap, of a loop that was not late enough to release its buckets.
    Lapse {
        /// How long the loop stood still, in nanoseconds.
        stopped_ns: u64,
    },
    /// No bucket unowned for long.
    L3,
    /// Convergence to the targets.
    L4 {
        /// How much longer it may take, in nanoseconds: a ramp, a penalty.
        more_ns: u64,
    },
    /// Each bucket has one owner in the end, wherever, by L3's bound.
    One,
    /// At most one voluntary move of a bucket per hold.
    F1,
    /// No faults, no changes.
    Steady,
    /// Balance.
    B1,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: String,
    /// When, in nanoseconds of virtual time.
    pub at: u64,
    /// How.
    pub what: String,
}

impl Bounds {
    /// A time of the nodes' own, for the slowest clock against the fastest.
    fn own(&self, time: u64) -> u64 {
        time + time * 2 * self.rho_ppm / 1_000_000
    }

    /// S1: 3h + 2 delta + tick, and h per loss in a row, on either way.
    ///
    /// PROTOCOL.md has 2h and one delta: but each of two that have not heard each other must first
    /// hear the other, and then hear that it is heard, which takes one delay each; the first
    /// heartbeat may come a tick late; and a message that was sent together with another one may
    /// be overtaken by it, is then refused, and comes again after h.
    pub fn dual_ns(&self) -> u64 {
        self.own(3 * self.h + 2 * self.losses * self.h) + 2 * self.delta + self.tick
    }

    /// L1: D + 3h + delta + tick, and h per loss in a row.
    pub fn crash_ns(&self) -> u64 {
        self.own(self.d + 3 * self.h + self.losses * self.h) + self.delta + self.tick
    }

    /// L2: downtime + 2h + 2 delta, and h per loss in a row, and two ticks, which may be late.
    pub fn restart_ns(&self, down_ns: u64) -> u64 {
        down_ns + self.own(2 * self.h + self.losses * self.h) + 2 * self.delta + 2 * self.tick
    }

    /// S3's price: a lease of D - h that was last renewed up to h and a tick before the stop ends
    /// before the stop does.
    pub fn lapse_ns(&self, stopped_ns: u64) -> u64 {
        (self.own(stopped_ns + self.h) + self.tick).saturating_sub(self.d - self.h)
    }

    /// L3: D + 4h + 2h * rank, with the last rank, and h per loss in a row.
    pub fn orphan_ns(&self) -> u64 {
        let ranks = 2 * self.nodes.saturating_sub(1);
        self.own(self.d + (4 + ranks + self.losses) * self.h) + self.delta + self.tick
    }

    /// L4: D + hold + 4h, and what it takes to hand 4096 buckets over in batches of 256, of which
    /// each takes a round trip and may wait for h/16 between heartbeats; each of them and the
    /// agreement before may be lost k times.
    pub fn settle_ns(&self) -> u64 {
        const BATCHES: u64 = 16;
        let batch = 2 * self.delta + self.h / 16 + 2 * self.tick;
        let lost = self.losses * self.h * if self.losses > 0 { BATCHES + 1 } else { 0 };
        self.own(self.d + self.hold + 4 * self.h + lost) + BATCHES * batch
    }

    /// Whether S4's demand on clocks is met: (D - h/2)(1 + rho) < D(1 - rho).
    pub fn majority_is_safe(&self) -> bool {
        let (million, rho) = (1_000_000, self.rho_ppm);
        (self.d - self.h / 2) * (million + rho) < self.d * (million - rho)
    }

    /// The shortest silence after which a node may take another for dead: D of the fastest clock.
    pub fn silence_ns(&self) -> u64 {
        self.d - self.d * 2 * self.rho_ppm / 1_000_000
    }
}

impl Check {
    /// Looks for a violation in `history`.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn check(self, history: &History, bounds: &Bounds) -> Result<(), Violation> {
        let found = match self {
            Self::S1 => dual_outlasts(history, bounds),
            Self::S2 => planned_gap(history),
            Self::S3 => serves_without_lease(history, bounds),
            Self::S4 => any_dual(history, bounds),
            Self::Guarded if bounds.losses > 0 => None,
            Self::Guarded => any_dual(history, bounds),
            Self::S5 => heeds_a_repeat(history),
            Self::L1 => gap_outlasts(history, bounds.crash_ns()),
            Self::L2 { down_ns } => longest_gap_outlasts(history, bounds.restart_ns(down_ns)),
            // One of whom others had no news for D has crashed, as far as they can know.
            Self::Lapse { .. } if !history.silences.is_empty() => None,
            Self::Lapse { stopped_ns } => {
                longest_gap_outlasts(history, bounds.lapse_ns(stopped_ns))
            }
            Self::L3 => orphaned(history, bounds),
            Self::L4 { more_ns } => settles_late(history, bounds.settle_ns() + more_ns, 0),
            // Each of two may first have to hear the other.
            Self::One => {
                let lost = bounds.own(bounds.losses * bounds.h);
                let settled_at = history.settled_at.unwrap_or(history.to);
                let fences = history.fences.iter().copied().filter(|&at| at <= settled_at);
                settles_late(history, bounds.orphan_ns() + lost, fences.max().unwrap_or(0))
            }
            Self::F1 => moves_twice(history, bounds),
            Self::Steady => moves_at_all(history),
            Self::B1 => unbalanced(history),
        };
        found.map_or(Ok(()), |(at, what)| Err(Violation { rule: format!("{self:?}"), at, what }))
    }
}

type Found = Option<(u64, String)>;

fn ms(ns: u64) -> String {
    format!("{}.{:03} ms", ns / MS, ns % MS / 1000)
}

fn of(history: &History, fault: Fault) -> impl Iterator<Item = &Span> {
    history.spans.iter().filter(move |span| span.fault == fault)
}

/// The last time something happened, up to `by`.
fn last_act(history: &History, by: u64) -> u64 {
    let before = history.acts.partition_point(|&act| act <= by);
    before.checked_sub(1).map_or(0, |last| history.acts[last])
}

fn tell(span: &Span, bound: u64) -> Found {
    let (what, length) = (&span.buckets, ms(span.length()));
    Some((span.from, format!("{what:?}: {:?} of {length}, bound {}", span.fault, ms(bound))))
}

/// S1. A dual counts from when all were connected again. Where all were connected for D + 4h, and
/// nothing was lost, there must be none.
fn dual_outlasts(history: &History, bounds: &Bounds) -> Found {
    let bound = bounds.dual_ns();
    of(history, Fault::Dual).find_map(|span| {
        let recent = span.from.saturating_sub(bounds.d + 4 * bounds.h);
        let near = |&&(from, to): &&(u64, u64)| from <= span.to && to >= recent;
        let end = history.disturbed.iter().filter(near).map(|&(_, to)| to).max();
        let Some(end) = end else {
            let allowed = if bounds.losses == 0 { 0 } else { bound };
            return if span.length() > allowed { tell(span, allowed) } else { None };
        };
        let counted = span.to.saturating_sub(end.max(span.from));
        if counted > bound { tell(span, bound) } else { None }
    })
}

/// S2. A node of whom others had no news for D has crashed, as far as they can know.
fn planned_gap(history: &History) -> Found {
    if !history.silences.is_empty() {
        return None;
    }
    of(history, Fault::Gap).find_map(|span| tell(span, 0))
}

/// S3. No publication gives the data plane more than D - h, and none serves beyond that.
fn serves_without_lease(history: &History, bounds: &Bounds) -> Found {
    let lease = bounds.d - bounds.h;
    let long = history.leases.iter().find(|publication| publication.until > publication.at + lease);
    if let Some(publication) = long {
        let (node, until) = (publication.node, ms(publication.until - publication.at));
        return Some((publication.at, format!("node {node} published a lease of {until}")));
    }
    let served = |stop: &&Stop| stop.served && stop.to - stop.from > bounds.own(lease);
    let stop = history.stops.iter().find(served)?;
    let (node, length) = (stop.node, ms(stop.to - stop.from));
    Some((stop.to, format!("node {node} serves after it stood still for {length}")))
}

/// S4.
fn any_dual(history: &History, bounds: &Bounds) -> Found {
    if !bounds.majority_is_safe() {
        return None;
    }
    of(history, Fault::Dual).find_map(|span| tell(span, 0))
}

/// S5. A message that was given before, or that is older, or of a session that had ended before
/// this node started, is refused and moves nothing.
fn heeds_a_repeat(history: &History) -> Found {
    let bad = history.repeats.iter().find(|repeat| !repeat.refused || repeat.claimed)?;
    let did = if bad.refused { "claimed upon" } else { "took" };
    Some((bad.at, format!("node {} {did} a message that it had no right to heed", bad.node)))
}

/// L1, L3. A gap counts from the last thing that happened in it.
fn gap_outlasts(history: &History, bound: u64) -> Found {
    of(history, Fault::Gap).find_map(|span| {
        let ended = history.nobody.iter().filter(|&&(from, to)| from < span.to && to <= span.to);
        let ended = ended.map(|&(_, to)| to).max().unwrap_or(0);
        let since = last_act(history, span.to.saturating_sub(1)).max(span.from);

        let since = since.max(ended);
        if span.to - since > bound { tell(span, bound) } else { None }
    })
}

/// L3. Where only a majority serves, a bucket waits for the answer of everybody who may have it: one
/// that is alive, but that the candidate does not hear, must first be missed, for 3D, lose its
/// votes, after 4D, and then its lease.
fn orphaned(history: &History, bounds: &Bounds) -> Found {
    let cut = |span: &Span| {
        let near = |&(from, to): &(u64, u64)| from <= span.to && to + bounds.d >= span.from;
        history.disturbed.iter().any(near)
    };
    let elections = if bounds.votes { bounds.own(8 * bounds.d) } else { 0 };
    let (cut, whole): (Vec<_>, Vec<_>) = history.spans.iter().cloned().partition(|span| cut(span));
    let part = |spans| History { spans, ..history.clone() };
    gap_outlasts(&part(whole), bounds.orphan_ns())
        .or_else(|| gap_outlasts(&part(cut), bounds.orphan_ns() + elections))
}

/// L2.
fn longest_gap_outlasts(history: &History, bound: u64) -> Found {
    of(history, Fault::Gap)
        .find_map(|span| if span.length() > bound { tell(span, bound) } else { None })
}

/// L4.
fn settles_late(history: &History, bound: u64, since: u64) -> Found {
    let last = last_act(history, u64::MAX).max(history.asked_at).max(since);
    match history.settled_at {
        Some(at) if at <= last + bound => None,
        Some(at) => Some((at, format!("settled after {}, bound {}", ms(at - last), ms(bound)))),
        None => Some((history.to, format!("not settled, bound {}", ms(bound)))),
    }
}

/// F1. A bucket that has moved without need stays for the hold, unless something happens.
///
/// Moves that follow one another within 4h, and 2h per loss in a row, are one: nodes hear of a
/// change at different moments, and one that was handed what it should not have passes it on, with
/// the batch after the one that is under way. But
/// it never comes back to one that it has left. What moves while not all are connected, and until
/// they can have agreed thereafter, D + 4h and h per loss in a row, is not without need.
fn moves_twice(history: &History, bounds: &Bounds) -> Found {
    let agreement = bounds.own((4 + 2 * bounds.losses) * bounds.h) + bounds.delta;
    let in_need = |step: &Move| {
        let until = |to: u64| to + bounds.d + agreement;
        history.disturbed.iter().any(|&(from, to)| from <= step.at && step.at <= until(to))
    };
    let mut moves_of: Vec<Vec<&Move>> = vec![Vec::new(); BUCKETS];
    for step in history.moves.iter().filter(|step| step.voluntary && !in_need(step)) {
        for bucket in step.buckets.iter() {
            let moves = &mut moves_of[bucket.index()];
            moves.retain(|earlier| step.at < earlier.at + bounds.hold);
            let fences = history.fences.iter().copied().filter(|&fence| fence <= step.at);
            let acted = last_act(history, step.at).max(fences.max().unwrap_or(0));
            if let Some(before) = moves.last().filter(|before| acted <= before.at) {
                let apart = ms(step.at - before.at);
                if step.at > before.at + agreement {
                    return Some((step.at, format!("{bucket:?} moved twice, {apart} apart")));
                }
                if moves.iter().any(|earlier| earlier.to == step.to && acted <= earlier.at) {
                    let to = step.to;
                    return Some((step.at, format!("{bucket:?} moved back to node {to}")));
                }
            }
            moves.push(step);
        }
    }
    None
}

/// F1 where nothing happens at all.
fn moves_at_all(history: &History) -> Found {
    if !history.silences.is_empty() {
        return None;
    }
    let step = history.moves.first()?;
    let total: BucketSet = history.moves.iter().flat_map(|step| step.buckets.iter()).collect();
    Some((step.at, format!("{total:?} moved, though nothing happened")))
}

/// B1. The most loaded node has no more than the lists allow after so many failures (PROTOCOL.md,
/// section 2): 1.000, 1.001 and 1.015 times what its weight entitles it to, and one bucket.
fn unbalanced(history: &History) -> Found {
    let per_mille = match history.absent {
        0 => 0,
        1 => 1,
        2 => 15,
        _ => return None,
    };
    let over = |&&(load, ideal): &&(u64, u64)| load > ideal + ideal * per_mille / 1000 + 1000;
    let &(load, ideal) = history.shares.iter().find(over)?;
    let what =
        format!("{} buckets, where {}.{:03} are due", load / 1000, ideal / 1000, ideal % 1000);
    Some((history.to, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipdp_core::bucket::Bucket;

    const H: u64 = 50 * MS;
    const D: u64 = 5 * H;
    const L4: Check = Check::L4 { more_ns: 0 };
    const BOUNDS: Bounds = Bounds {
        nodes: 4,
        h: H,
        d: D,
        hold: 2000 * MS,
        delta: MS,
        tick: H / 8,
        rho_ppm: 200,
        losses: 0,
        votes: false,
    };

    fn buckets() -> BucketSet {
        [3, 9].into_iter().filter_map(Bucket::new).collect()
    }

    fn span(fault: Fault, from_ms: u64, to_ms: u64) -> History {
        let span = Span { fault, from: from_ms * MS, to: to_ms * MS, buckets: buckets() };
        History { spans: vec![span], to: 99_000 * MS, ..History::default() }
    }

    fn holds(check: Check, history: &History) -> bool {
        check.check(history, &BOUNDS).is_ok()
    }

    #[test]
    fn s1_notices_a_dual_among_connected_nodes_and_one_that_outlasts_a_cut() {
        assert!(!holds(Check::S1, &span(Fault::Dual, 5000, 5001)));
        assert!(holds(Check::S1, &span(Fault::Gap, 5000, 5001)));
        let with_cut = |to_ms| {
            let mut history = span(Fault::Dual, 2000, to_ms);
            history.disturbed = vec![(1000 * MS, 5000 * MS)];
            history
        };
        assert!(holds(Check::S1, &with_cut(5150)));
        assert!(!holds(Check::S1, &with_cut(5165)));
        let lossy = Bounds { losses: 2, ..BOUNDS };
        assert!(Check::S1.check(&span(Fault::Dual, 5000, 5350), &lossy).is_ok());
        assert!(Check::S1.check(&span(Fault::Dual, 5000, 5370), &lossy).is_err());
    }

    #[test]
    fn s2_notices_any_gap_and_forgives_it_only_after_a_silence_of_d() {
        let mut history = span(Fault::Gap, 10, 11);
        assert!(!holds(Check::S2, &history));
        history.silences = vec![(0, D)];
        assert!(holds(Check::S2, &history));
        assert!(holds(Check::S2, &span(Fault::Dual, 10, 11)));
    }

    #[test]
    fn s3_notices_a_lease_too_long_and_a_stopped_node_that_serves() {
        let lease = |until| History {
            leases: vec![Lease { node: 1, at: 1000 * MS, until }],
            ..History::default()
        };
        assert!(holds(Check::S3, &lease(1200 * MS)));
        assert!(!holds(Check::S3, &lease(1200 * MS + 1)));
        let stopped = |to_ms, served| {
            let stop = Stop { node: 2, from: 1000 * MS, to: to_ms * MS, served };
            History { stops: vec![stop], ..History::default() }
        };
        assert!(!holds(Check::S3, &stopped(1250, true)));
        assert!(holds(Check::S3, &stopped(1250, false)));
        assert!(holds(Check::S3, &stopped(1150, true)));
    }

    #[test]
    fn s4_notices_any_dual_where_clocks_are_good_enough() {
        let history = span(Fault::Dual, 10, 11);
        assert!(!holds(Check::S4, &history));
        let wild = Bounds { rho_ppm: 60_000, ..BOUNDS };
        assert!(Check::S4.check(&history, &wild).is_ok() && !wild.majority_is_safe());
    }

    #[test]
    fn s5_notices_a_repetition_that_was_heeded() {
        let given = |refused, claimed| History {
            repeats: vec![Repeat { at: 1, node: 0, refused, claimed }],
            ..History::default()
        };
        assert!(holds(Check::S5, &given(true, false)));
        assert!(!holds(Check::S5, &given(false, false)));
        assert!(!holds(Check::S5, &given(true, true)));
    }

    #[test]
    fn l1_l2_and_l3_notice_a_gap_that_is_too_long() {
        // D + 3h + delta + tick is 407.25 ms, and a little for the clocks.
        assert!(holds(Check::L1, &span(Fault::Gap, 1000, 1407)));
        assert!(!holds(Check::L1, &span(Fault::Gap, 1000, 1408)));
        let mut double = span(Fault::Gap, 1000, 1500);
        assert!(!holds(Check::L1, &double));
        double.acts = vec![1000 * MS, 1140 * MS];
        assert!(holds(Check::L1, &double), "the same from the last");
        let restart = Check::L2 { down_ns: 120 * MS };
        assert!(holds(restart, &span(Fault::Gap, 1000, 1234)));
        assert!(!holds(restart, &span(Fault::Gap, 1000, 1235)));
        // 150 + 50 + 6.25 - 200 ms, and a little for the clocks.
        let lapse = Check::Lapse { stopped_ns: 150 * MS };
        assert!(holds(lapse, &span(Fault::Gap, 1000, 1006)));
        assert!(!holds(lapse, &span(Fault::Gap, 1000, 1007)));
        // D + 4h + 6h.
        assert!(holds(Check::L3, &span(Fault::Gap, 1000, 1757)));
        assert!(!holds(Check::L3, &span(Fault::Gap, 1000, 1758)));
    }

    #[test]
    fn l4_notices_what_settles_late_or_never() {
        let settled = |at: Option<u64>| History {
            acts: vec![1000 * MS],
            settled_at: at.map(|ms| ms * MS),
            ..History::default()
        };
        assert!(holds(L4, &settled(Some(3600))));
        assert!(!holds(L4, &settled(Some(4000))));
        assert!(!holds(L4, &settled(None)));
    }

    #[test]
    fn f1_notices_a_bucket_that_comes_and_goes_and_any_move_in_peace() {
        let step =
            |at_ms, to, voluntary| Move { at: at_ms * MS, to, voluntary, buckets: buckets() };
        let moved = |moves| History { moves, ..History::default() };
        let passed_on = vec![step(1000, 1, true), step(1100, 2, true)];
        assert!(holds(Check::F1, &moved(passed_on.clone())));
        let back = [passed_on, vec![step(1150, 1, true)]].concat();
        assert!(!holds(Check::F1, &moved(back)));
        let twice = moved(vec![step(1000, 1, true), step(2500, 2, true)]);
        assert!(!holds(Check::F1, &twice));
        assert!(holds(Check::F1, &moved(vec![step(1000, 1, true), step(3500, 2, true)])));
        assert!(holds(Check::F1, &moved(vec![step(1000, 1, false), step(2500, 2, true)])));
        assert!(holds(Check::F1, &History { acts: vec![2000 * MS], ..twice.clone() }));
        assert!(holds(Check::F1, &History { fences: vec![2000 * MS], ..twice.clone() }));
        assert!(!holds(Check::F1, &History { fences: vec![500 * MS, 3000 * MS], ..twice }));
        assert!(!holds(Check::Steady, &moved(vec![step(1000, 1, false)])));
        assert!(holds(Check::Steady, &moved(Vec::new())));
    }

    #[test]
    fn b1_notices_a_node_with_too_much() {
        let loads = |load, absent| History {
            shares: vec![(1_024_000, 1_024_000), (load, 1_024_000)],
            absent,
            ..History::default()
        };
        assert!(holds(Check::B1, &loads(1_025_000, 0)));
        assert!(!holds(Check::B1, &loads(1_026_000, 0)));
        assert!(holds(Check::B1, &loads(1_026_000, 1)));
        assert!(!holds(Check::B1, &loads(1_042_000, 2)));
    }
}
