//! Who serves which bucket when, and for how long nobody or two did.

use std::collections::BTreeMap;

use vipdp_core::bucket::{BUCKETS, Bucket, BucketSet};
use vipdp_core::snapshot::Holding;

/// What is wrong with a bucket for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nobody owns it or is handing it over.
    Gap,
    /// Two own it.
    Dual,
}

/// A time in which buckets had nobody, or two owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What was wrong.
    pub fault: Fault,
    /// From when, in nanoseconds of virtual time.
    pub from: u64,
    /// Until when.
    pub to: u64,
    /// With which buckets.
    pub buckets: BucketSet,
}

impl Span {
    /// How long it took, in nanoseconds.
    pub fn length(&self) -> u64 {
        self.to - self.from
    }
}

/// A moment at which buckets got a new owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// When, in nanoseconds of virtual time.
    pub at: u64,
    /// To whom.
    pub to: usize,
    /// Whether they had an owner, or one who was handing them over, just before: nothing forced
    /// the move.
    pub voluntary: bool,
    /// Which buckets.
    pub buckets: BucketSet,
}

/// Who serves which bucket, and for how long nobody or two did.
#[derive(Debug)]
pub struct Coverage {
    owners: Vec<u8>,
    holders: Vec<u8>,
    unheld_since: Vec<Option<u64>>,
    dual_since: Vec<Option<u64>>,
    /// How many buckets have one owner and nobody else who answers for them.
    sole: usize,
    /// The longest time that a bucket had nobody, since the last reset. What has not ended yet
    /// does not count.
    pub worst_gap: u64,
    /// The longest time that a bucket had two owners.
    pub worst_dual: u64,
    /// How often a bucket got a new owner.
    pub changes: u64,
    /// When a bucket last got a new owner.
    pub changed_at: u64,
    spans: BTreeMap<(Fault, u64, u64), BucketSet>,
    moves: BTreeMap<(u64, usize, bool), BucketSet>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            owners: vec![0; BUCKETS],
            holders: vec![0; BUCKETS],
            unheld_since: vec![None; BUCKETS],
            dual_since: vec![None; BUCKETS],
            sole: 0,
            worst_gap: 0,
            worst_dual: 0,
            changes: 0,
            changed_at: 0,
            spans: BTreeMap::new(),
            moves: BTreeMap::new(),
        }
    }
}

fn owns(holding: Holding) -> u8 {
    u8::from(matches!(holding, Holding::Owned | Holding::TakenOver))
}

fn holds(holding: Holding) -> u8 {
    u8::from(holding != Holding::Foreign)
}

impl Coverage {
    /// Forgets what was measured, not who serves what.
    pub fn reset(&mut self) {
        (self.worst_gap, self.worst_dual, self.changes) = (0, 0, 0);
        self.spans.clear();
        self.moves.clear();
    }

    /// Whether each bucket has one owner and nobody else who answers for it.
    pub fn exactly_one_owner(&self) -> bool {
        self.sole == BUCKETS
    }

    /// Takes note that `node` holds `new` of `bucket` from `now` on, and held `old` until now.
    pub fn change(&mut self, node: usize, bucket: Bucket, old: Holding, new: Holding, now: u64) {
        let at = bucket.index();
        let sole = |coverage: &Self| coverage.owners[at] == 1 && coverage.holders[at] == 1;
        if owns(new) > owns(old) {
            self.changes += 1;
            self.changed_at = now;
            let voluntary = self.holders[at] > holds(old);
            let buckets = self.moves.entry((now, node, voluntary)).or_default();
            buckets.insert(bucket);
        }
        self.sole -= usize::from(sole(self));
        self.owners[at] = self.owners[at] + owns(new) - owns(old);
        self.holders[at] = self.holders[at] + holds(new) - holds(old);
        self.sole += usize::from(sole(self));
        if self.holders[at] == 0 {
            self.unheld_since[at].get_or_insert(now);
        } else if let Some(since) = self.unheld_since[at].take() {
            self.end(Fault::Gap, since, now, bucket);
        }
        if self.owners[at] > 1 {
            self.dual_since[at].get_or_insert(now);
        } else if let Some(since) = self.dual_since[at].take() {
            self.end(Fault::Dual, since, now, bucket);
        }
    }

    fn end(&mut self, fault: Fault, from: u64, to: u64, bucket: Bucket) {
        // A table that is replaced at one moment passes through states that nobody sees.
        if from == to {
            return;
        }
        let worst = match fault {
            Fault::Gap => &mut self.worst_gap,
            Fault::Dual => &mut self.worst_dual,
        };
        *worst = (*worst).max(to - from);
        self.spans.entry((fault, from, to)).or_default().insert(bucket);
    }

    /// The gaps and duals since the last reset; those that have not ended last until `now`.
    pub fn spans(&self, now: u64) -> Vec<Span> {
        let mut spans = self.spans.clone();
        for bucket in Bucket::all() {
            let at = bucket.index();
            let open = [(Fault::Gap, self.unheld_since[at]), (Fault::Dual, self.dual_since[at])];
            for (fault, since) in open {
                if let Some(from) = since.filter(|&from| from < now) {
                    spans.entry((fault, from, now)).or_default().insert(bucket);
                }
            }
        }
        let span = |((fault, from, to), buckets)| Span { fault, from, to, buckets };
        spans.into_iter().map(span).collect()
    }

    /// The moves since the last reset, by time.
    pub fn moves(&self) -> Vec<Move> {
        let moved = |(&(at, to, voluntary), buckets): (&(u64, usize, bool), &BucketSet)| Move {
            at,
            to,
            voluntary,
            buckets: buckets.clone(),
        };
        self.moves.iter().map(moved).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipdp_core::slot::Slot;

    const FOREIGN: Holding = Holding::Foreign;
    const OWNED: Holding = Holding::Owned;

    fn bucket() -> Bucket {
        Bucket::new(7).unwrap()
    }

    #[test]
    fn a_planned_move_has_neither_gap_nor_dual_and_is_voluntary() {
        let granted = Holding::Granted(Slot::new(1).unwrap());
        let mut coverage = Coverage::default();
        coverage.change(0, bucket(), FOREIGN, OWNED, 10);
        coverage.change(0, bucket(), OWNED, granted, 20);
        coverage.change(1, bucket(), FOREIGN, Holding::TakenOver, 30);
        coverage.change(0, bucket(), granted, FOREIGN, 40);
        coverage.change(1, bucket(), Holding::TakenOver, OWNED, 50);
        assert_eq!(coverage.spans(60), []);
        let moves = coverage.moves();
        let told: Vec<_> = moves.iter().map(|m| (m.at, m.to, m.voluntary)).collect();
        assert_eq!(told, [(10, 0, false), (30, 1, true)]);
    }

    #[test]
    fn a_gap_and_a_dual_are_measured_and_what_lasts_still_counts() {
        let mut coverage = Coverage::default();
        coverage.change(0, bucket(), FOREIGN, OWNED, 10);
        coverage.change(0, bucket(), OWNED, FOREIGN, 20);
        coverage.change(1, bucket(), FOREIGN, OWNED, 35);
        coverage.change(2, bucket(), FOREIGN, OWNED, 40);
        coverage.change(1, bucket(), OWNED, FOREIGN, 47);
        coverage.change(2, bucket(), OWNED, FOREIGN, 60);
        assert_eq!((coverage.worst_gap, coverage.worst_dual), (15, 7));
        let told: Vec<_> = coverage.spans(99).iter().map(|s| (s.fault, s.from, s.to)).collect();
        let expected = [(Fault::Gap, 20, 35), (Fault::Gap, 60, 99), (Fault::Dual, 40, 47)];
        assert_eq!(told, expected);
    }
}
