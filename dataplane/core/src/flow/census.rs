//! What is in a table: counted at once, or its buckets found part by part. Never on the hot path.

use crate::bucket::{BUCKETS, Bucket, BucketSet};

use super::entry::{Entry, FlowState, Seconds};
use super::line::Line;
use super::table::FlowTable;

impl FlowTable {
    /// Counts what is in the table: reads all of it, so never on the hot path. Flows that come and go
    /// meanwhile are counted or not.
    pub fn census(&self, now: Seconds) -> Census {
        let mut census = Census {
            capacity: self.capacity(),
            states: [0; FlowState::ALL.len()],
            idle: 0,
            buckets: vec![0; BUCKETS].into(),
        };
        for word in self.lines.iter().flat_map(Line::load) {
            match Entry::of_word(word) {
                Some(entry) if entry.is_found(now, &self.timeouts) => {
                    census.states[entry.state() as usize - 1] += 1;
                    census.buckets[entry.bucket().index()] += 1;
                    census.idle += usize::from(entry.is_idle(now, &self.timeouts));
                }
                _ => {}
            }
        }
        census
    }

    /// Reads on in the table by at most `lines` lines, and adds the buckets of the flows there to those
    /// that `scan` has found. False when the end was reached.
    ///
    /// A flow never changes its line: one that is there from the beginning of the scan to its end is
    /// found.
    pub fn scan(&self, scan: &mut BucketScan, lines: usize, now: Seconds) -> bool {
        let rest = &self.lines[scan.line.min(self.lines.len())..];
        let part = &rest[..lines.min(rest.len())];
        for word in part.iter().flat_map(Line::load) {
            match Entry::of_word(word) {
                Some(entry) if entry.is_found(now, &self.timeouts) => {
                    scan.found.insert(entry.bucket());
                }
                _ => {}
            }
        }
        scan.line += part.len();
        part.len() < rest.len()
    }
}

/// A reading of the whole table, part by part: which buckets have a flow here.
#[derive(Clone, Debug, Default)]
pub struct BucketScan {
    /// The line to go on at.
    line: usize,
    /// The buckets of the flows before it.
    found: BucketSet,
}

impl BucketScan {
    /// The buckets of the flows that were found so far.
    pub fn found(&self) -> &BucketSet {
        &self.found
    }
}

/// What is in a flow table, counted by [`FlowTable::census`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// How many flows the table has room for.
    pub capacity: usize,
    /// Flows in each state, in the order of [`FlowState::ALL`].
    states: [usize; FlowState::ALL.len()],
    /// Those established flows that give way to others, because nothing was heard of them for
    /// [`Timeouts::established_s`](super::Timeouts::established_s).
    pub idle: usize,
    /// Flows in each bucket.
    buckets: Box<[usize]>,
}

impl Census {
    /// The flows in `state`.
    pub fn in_state(&self, state: FlowState) -> usize {
        self.states[state as usize - 1]
    }

    /// The flows in `bucket`.
    pub fn in_bucket(&self, bucket: Bucket) -> usize {
        self.buckets[bucket.index()]
    }

    /// The buckets that have a flow here.
    pub fn buckets(&self) -> BucketSet {
        Bucket::all().filter(|&bucket| self.in_bucket(bucket) > 0).collect()
    }

    /// All flows.
    pub fn flows(&self) -> usize {
        self.states.iter().sum()
    }
}
