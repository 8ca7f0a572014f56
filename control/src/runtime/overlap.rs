//! What the data planes of a giver and a taker do while a bucket changes hands.
//!
//! The protocol moves a bucket in an instant of each node's own. The packets that are under way in
//! that instant are on two receive rings, and the two workers come to them at different times: one
//! that the taker has read too early and the giver reads too late would be nobody's. So the giver
//! goes on forwarding for a while after the taker has said that it has the bucket, and the taker
//! watches, for longer, for packets that reach it both ways. The taker may be early by all that the giver is
//! late: its XDP program may drop a packet the moment it comes. So a giver whose workers have not come round
//! since then goes on for longer.
//!
//! ```text
//!   giver    Owned ---> Granted(taker) ----------- echo ---> Granted(taker) -- h --> Foreign
//!   taker    Foreign ------------- accepts ---> TakenOver ------ 4h ------> Owned
//! ```
//!
//! In the tiered mode, where a packet comes to one node alone, the giver goes on serving instead, and
//! nobody has to watch for second copies.
//!
//! What a node releases without having handed it over, it does not forward.

use vipdp_core::bucket::{BUCKETS, Bucket, BucketSet};
use vipdp_core::snapshot::{Holding, Holdings};

/// For how many heartbeat intervals a giver forwards after the echo: as long as a worker may be
/// late on a busy core.
const FORWARD_BEATS: u64 = 1;
/// For how many at most, while a worker has not come round since the echo: while the taker still watches.
const LATE_BEATS: u64 = 3;
/// For how many heartbeat intervals a taker watches for second copies: until the giver has had the
/// echo, also if the first one was lost, and has forwarded what it forwards.
const WATCH_BEATS: u64 = 4;

const _: () = assert!(FORWARD_BEATS < LATE_BEATS && LATE_BEATS < WATCH_BEATS);

/// The last table of the protocol, and what overlaps with it.
#[derive(Debug)]
pub struct Overlap {
    heartbeat_ns: u64,
    /// Whether a packet may come to giver and taker.
    has_copies: bool,
    table: Holdings,
    /// What each bucket is in place of what the table says.
    instead: Vec<Holding>,
    /// Until when.
    until_ns: Vec<u64>,
}

impl Overlap {
    /// Nothing held, with heartbeats at this interval. `has_copies`: whether a packet comes to all
    /// nodes.
    pub fn new(heartbeat_ns: u64, has_copies: bool) -> Self {
        Self {
            heartbeat_ns,
            has_copies,
            table: Holdings::none(),
            instead: vec![Holding::Foreign; BUCKETS],
            until_ns: vec![0; BUCKETS],
        }
    }

    /// Takes in the protocol's new table. Of what it no longer holds, `released` was not handed
    /// over. Returns whether anything was.
    pub fn change(&mut self, now_ns: u64, table: Holdings, released: &BucketSet) -> bool {
        let mut hands_over = false;
        for bucket in Bucket::all() {
            let (instead, beats) = match (self.table.get(bucket), table.get(bucket)) {
                (old, new) if old == new => continue,
                (granted @ Holding::Granted(_), Holding::Foreign) if !released.contains(bucket) => {
                    hands_over = true;
                    (granted, FORWARD_BEATS)
                }
                (Holding::Foreign, Holding::Owned) if self.has_copies => {
                    (Holding::TakenOver, WATCH_BEATS)
                }
                _ => (Holding::Foreign, 0),
            };
            self.instead[bucket.index()] = instead;
            self.until_ns[bucket.index()] = now_ns + beats * self.heartbeat_ns;
        }
        self.table = table;
        hands_over
    }

    /// What the data plane is to hold now. `is_late`: a worker has not come round since
    /// [`change`](Self::change) last said that something was handed over.
    pub fn holdings(&self, now_ns: u64, is_late: bool) -> Holdings {
        let late_ns = if is_late { (LATE_BEATS - FORWARD_BEATS) * self.heartbeat_ns } else { 0 };
        let mut holdings = self.table.clone();
        for bucket in Bucket::all() {
            let instead = self.instead[bucket.index()];
            let late_ns = if matches!(instead, Holding::Granted(_)) { late_ns } else { 0 };
            if now_ns < self.until_ns[bucket.index()] + late_ns {
                holdings.set(bucket, instead);
            }
        }
        holdings
    }

    /// Whether the protocol's table holds nothing.
    pub fn is_over(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipdp_core::slot::Slot;

    const H: u64 = 50;

    fn one(holding: Holding) -> Holdings {
        let mut holdings = Holdings::none();
        holdings.set(bucket(), holding);
        holdings
    }

    fn bucket() -> Bucket {
        Bucket::new(7).unwrap()
    }

    #[test]
    fn a_giver_forwards_for_a_while_after_the_echo() {
        let granted = Holding::Granted(Slot::new(3).unwrap());
        let mut overlap = Overlap::new(H, true);
        for holding in [Holding::Owned, granted, Holding::Foreign] {
            overlap.change(1_000, one(holding), &BucketSet::EMPTY);
        }
        assert!(overlap.is_over());
        assert_eq!(overlap.holdings(1_000, false).get(bucket()), granted);
        assert_eq!(overlap.holdings(1_000 + H - 1, false).get(bucket()), granted);
        assert_eq!(overlap.holdings(1_000 + H, false).get(bucket()), Holding::Foreign);
    }

    #[test]
    fn a_giver_whose_workers_are_late_forwards_for_as_long_as_the_taker_watches() {
        let granted = Holding::Granted(Slot::new(3).unwrap());
        let mut overlap = Overlap::new(H, true);
        assert!(!overlap.change(0, one(granted), &BucketSet::EMPTY));
        assert!(overlap.change(1_000, Holdings::none(), &BucketSet::EMPTY));
        for (after, is_late, holding) in [
            (H, false, Holding::Foreign),
            (H, true, granted),
            (3 * H - 1, true, granted),
            (3 * H, true, Holding::Foreign),
        ] {
            let holdings = overlap.holdings(1_000 + after, is_late);
            assert_eq!(holdings.get(bucket()), holding, "{after} {is_late}");
        }
        // Who takes over does not watch for longer by that.
        overlap.change(2_000, one(Holding::Owned), &BucketSet::EMPTY);
        assert_eq!(overlap.holdings(2_000 + 4 * H, true).get(bucket()), Holding::Owned);
    }

    #[test]
    fn without_copies_a_giver_lingers_and_a_taker_owns_at_once() {
        let granted = Holding::Granted(Slot::new(3).unwrap());
        let mut overlap = Overlap::new(H, false);
        overlap.change(0, one(Holding::Owned), &BucketSet::EMPTY);
        assert_eq!(overlap.holdings(0, false).get(bucket()), Holding::Owned);
        overlap.change(0, one(granted), &BucketSet::EMPTY);
        overlap.change(0, Holdings::none(), &BucketSet::EMPTY);
        assert_eq!(overlap.holdings(H - 1, false).get(bucket()), granted);
        assert_eq!(overlap.holdings(H, false).get(bucket()), Holding::Foreign);
    }

    #[test]
    fn what_was_released_is_not_forwarded() {
        let mut overlap = Overlap::new(H, true);
        overlap.change(0, one(Holding::Granted(Slot::new(3).unwrap())), &BucketSet::EMPTY);
        overlap.change(0, Holdings::none(), &BucketSet::FULL);
        assert_eq!(overlap.holdings(0, false).get(bucket()), Holding::Foreign);
    }

    #[test]
    fn a_taker_watches_for_second_copies_and_may_give_the_bucket_on() {
        let mut overlap = Overlap::new(H, true);
        overlap.change(1_000, one(Holding::Owned), &BucketSet::EMPTY);
        assert_eq!(overlap.holdings(1_000 + 4 * H - 1, false).get(bucket()), Holding::TakenOver);
        assert_eq!(overlap.holdings(1_000 + 4 * H, false).get(bucket()), Holding::Owned);
        // The same table again, with a new lease, starts no new watch.
        overlap.change(1_000 + 4 * H, one(Holding::Owned), &BucketSet::EMPTY);
        assert_eq!(overlap.holdings(1_000 + 4 * H, false).get(bucket()), Holding::Owned);

        let granted = Holding::Granted(Slot::new(5).unwrap());
        let mut overlap = Overlap::new(H, true);
        overlap.change(0, one(Holding::Owned), &BucketSet::EMPTY);
        overlap.change(1, one(granted), &BucketSet::EMPTY);
        assert_eq!(overlap.holdings(1, false).get(bucket()), granted);
    }
}
