//! What the XDP program does with packets of each bucket by itself, in the `shared-mac` mode.
//!
//! ```text
//!                  acquired                                 lately taken over no more (full)
//!   Drop ------------------------------------> ToUser ------------------------------> Pass
//!    |  \                                       |  ^  ^                                 |
//!    |   \                   a member forwards  |  |  |     granted, released           |
//!    |    \                      (the program)  v  |  +---------------------------------+
//!    |     +- a member forwards (the program) -> Reopened
//!    |                                            (acquired, or about to be looked for flows)
//!    +<-- no flow left, the workers have seen it - ToUser
//! ```
//!
//! What always holds: what the program drops, a worker would drop; what it passes, a worker would
//! pass. So the table follows the snapshots with care for the order:
//! - [`opened`](OffloadTable::opened) is in force **before** a snapshot is published: no packet of a
//!   bucket that the snapshot makes ours is dropped, none of one that it takes from us is passed.
//! - [`passing`](OffloadTable::passing) is put in force **after** that: workers serve the bucket first.
//! - [`closed`](OffloadTable::closed) is put in force later, once every worker goes by a snapshot in
//!   which the bucket is foreign, and the flow table, read whole since, has no flow of it.
//!
//! One thing enters a flow of a foreign bucket: a packet that another member forwards, since it is
//! granting us the bucket and we have not heard of it yet. The program sees such packets go by and
//! marks their bucket itself as [`Reopened`](OffloadWay::Reopened), open or closed, so that whoever was
//! about to close it sees that a flow may have begun meanwhile.

use crate::bucket::{BUCKETS, Bucket, BucketSet};
use crate::snapshot::{Holding, Holdings};

/// How much of the work the XDP program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadMode {
    /// It drops what is not this node's.
    Drop,
    /// It also hands untracked UDP of this node's buckets to the kernel.
    Full,
}

/// What the XDP program does with packets of one bucket, unless they take judgement. The numbers are
/// those of `bpf/offload.bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OffloadWay {
    /// Sends them to the worker.
    ToUser = 0,
    /// Drops them.
    Drop = 1,
    /// Hands untracked UDP to the kernel, the rest to the worker.
    Pass = 2,
    /// Sends them to the worker, for it has seen one that another member forwarded.
    Reopened = 3,
}

/// The [`OffloadWay`] of every bucket: one byte each, as the program has it.
#[derive(Clone, PartialEq, Eq)]
pub struct OffloadTable(Box<[u8; BUCKETS]>);

impl OffloadTable {
    /// Everything to user space.
    pub fn to_user() -> Self {
        Self(Box::new([OffloadWay::ToUser as u8; BUCKETS]))
    }

    /// The table in the program's form.
    pub fn from_bytes(bytes: [u8; BUCKETS]) -> Self {
        Self(Box::new(bytes))
    }

    /// The program's form.
    pub fn as_bytes(&self) -> &[u8; BUCKETS] {
        &self.0
    }

    /// What becomes of packets of `bucket`. A byte that means nothing counts as to user space, as it
    /// does to the program.
    pub fn way(&self, bucket: Bucket) -> OffloadWay {
        match self.0[bucket.index()] {
            1 => OffloadWay::Drop,
            2 => OffloadWay::Pass,
            3 => OffloadWay::Reopened,
            _ => OffloadWay::ToUser,
        }
    }

    fn set(&mut self, bucket: Bucket, way: OffloadWay) {
        self.0[bucket.index()] = way as u8;
    }

    /// The buckets whose packets go to the worker, of those that are foreign: to be closed once
    /// nothing is left of them here.
    pub fn ajar(&self, holdings: &Holdings) -> BucketSet {
        let is_ajar = |&bucket: &Bucket| {
            holdings.get(bucket) == Holding::Foreign && self.way(bucket) != OffloadWay::Drop
        };
        Bucket::all().filter(is_ajar).collect()
    }

    /// The table that holds for the present snapshot and for one with `holdings`.
    #[must_use]
    pub fn opened(&self, mode: OffloadMode, holdings: &Holdings) -> Self {
        let mut table = self.clone();
        for bucket in Bucket::all() {
            let stays = match (self.way(bucket), holdings.get(bucket)) {
                (OffloadWay::Drop | OffloadWay::Reopened, Holding::Foreign) => true,
                (OffloadWay::Pass, Holding::Owned) => mode == OffloadMode::Full,
                _ => false,
            };
            if !stays {
                table.set(bucket, OffloadWay::ToUser);
            }
        }
        table
    }

    /// The table that holds once the workers go by a snapshot with `holdings`. A bucket that was
    /// taken over lately is not passed: its packets may come twice.
    #[must_use]
    pub fn passing(&self, mode: OffloadMode, holdings: &Holdings) -> Self {
        let mut table = self.opened(mode, holdings);
        if mode == OffloadMode::Full {
            for bucket in Bucket::all().filter(|&it| holdings.get(it) == Holding::Owned) {
                table.set(bucket, OffloadWay::Pass);
            }
        }
        table
    }

    /// Forgets that buckets were reopened, before one looks for their flows.
    #[must_use]
    pub fn heeded(&self) -> Self {
        let mut table = self.clone();
        for bucket in Bucket::all().filter(|&it| self.way(it) == OffloadWay::Reopened) {
            table.set(bucket, OffloadWay::ToUser);
        }
        table
    }

    /// Drops what is left of `ajar`: those buckets that are neither `in_use`, having a flow here, nor
    /// were reopened since [`heeded`](Self::heeded).
    #[must_use]
    pub fn closed(&self, ajar: &BucketSet, in_use: &BucketSet) -> Self {
        let mut table = self.clone();
        for bucket in ajar.iter().filter(|&bucket| !in_use.contains(bucket)) {
            if self.way(bucket) == OffloadWay::ToUser {
                table.set(bucket, OffloadWay::Drop);
            }
        }
        table
    }
}

impl std::fmt::Debug for OffloadTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |way| Bucket::all().filter(|&bucket| self.way(bucket) == way).count();
        let (dropped, passed) = (count(OffloadWay::Drop), count(OffloadWay::Pass));
        write!(f, "{dropped} dropped, {passed} passed of {BUCKETS}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Slot;
    use OffloadMode::{Drop, Full};

    fn bucket(number: u16) -> Bucket {
        Bucket::new(number).unwrap()
    }

    fn granted() -> Holding {
        Holding::Granted(Slot::new(9).unwrap())
    }

    fn table(way: OffloadWay) -> OffloadTable {
        let mut table = OffloadTable::to_user();
        table.set(bucket(7), way);
        table
    }

    fn holding(holding: Holding) -> Holdings {
        let mut holdings = Holdings::none();
        holdings.set(bucket(7), holding);
        holdings
    }

    #[test]
    fn every_transition_is_as_drawn() {
        use OffloadWay::{Drop as Dropped, Pass, Reopened, ToUser};
        let holdings = [Holding::Foreign, Holding::TakenOver, Holding::Owned, granted()];
        #[rustfmt::skip]
        let cases = [
            // before,           before a snapshot that says     after it
            //                   foreign   lately  owned   granted    foreign   lately  owned   granted
            (Drop, ToUser,   [ToUser,   ToUser, ToUser, ToUser], [ToUser,   ToUser, ToUser, ToUser]),
            (Drop, Dropped,  [Dropped,  ToUser, ToUser, ToUser], [Dropped,  ToUser, ToUser, ToUser]),
            (Drop, Reopened, [Reopened, ToUser, ToUser, ToUser], [Reopened, ToUser, ToUser, ToUser]),
            (Full, ToUser,   [ToUser,   ToUser, ToUser, ToUser], [ToUser,   ToUser, Pass,   ToUser]),
            (Full, Dropped,  [Dropped,  ToUser, ToUser, ToUser], [Dropped,  ToUser, Pass,   ToUser]),
            (Full, Reopened, [Reopened, ToUser, ToUser, ToUser], [Reopened, ToUser, Pass,   ToUser]),
            (Full, Pass,     [ToUser,   ToUser, Pass,   ToUser], [ToUser,   ToUser, Pass,   ToUser]),
        ];
        for (mode, way, before, after) in cases {
            for ((held, before), after) in holdings.into_iter().zip(before).zip(after) {
                let (table, held) = (table(way), holding(held));
                let found = [table.opened(mode, &held), table.passing(mode, &held)];
                let found = found.map(|table| table.way(bucket(7)));
                assert_eq!(found, [before, after], "{mode:?}, {way:?}, {held:?}");
            }
        }
    }

    #[test]
    fn a_bucket_is_closed_when_nothing_of_it_is_left() {
        let all = |way| OffloadTable::from_bytes([way as u8; BUCKETS]);
        let mut held = holding(Holding::Owned);
        held.set(bucket(8), granted());
        let (open, in_use) = (all(OffloadWay::ToUser), [bucket(9)].into_iter().collect());
        let ajar = open.ajar(&held);
        assert_eq!(ajar.len(), BUCKETS - 2);
        let closed = open.closed(&ajar, &in_use);
        for (number, way) in [(7, 0), (8, 0), (9, 0), (10, 1)] {
            assert_eq!(closed.as_bytes()[number], way, "{number}");
        }
        assert_eq!(closed.ajar(&held), in_use);
        // Seen by the program since somebody began to look.
        let reopened = all(OffloadWay::Reopened);
        assert_eq!(reopened.ajar(&held), ajar);
        assert_eq!(reopened.closed(&ajar, &in_use), reopened);
        assert_eq!(reopened.heeded().closed(&ajar, &in_use), closed);
    }

    #[test]
    fn a_byte_without_a_meaning_is_to_user_space() {
        let table = OffloadTable::from_bytes([0x7f; BUCKETS]);
        assert_eq!(table.way(bucket(7)), OffloadWay::ToUser);
        let owned = Holdings::owning(&BucketSet::FULL);
        assert_eq!(table.opened(Full, &owned), OffloadTable::to_user());
    }
}
