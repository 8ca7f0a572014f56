//! In which order a node has come by what it holds.

use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::snapshot::{Holding, Holdings};

/// What is held, in the order in which it was acquired.
#[derive(Debug)]
pub struct Acquired {
    held: BucketSet,
    /// The members of `held`, the one that was acquired last at the end.
    order: Vec<Bucket>,
}

impl Default for Acquired {
    fn default() -> Self {
        Self { held: BucketSet::EMPTY, order: Vec::new() }
    }
}

impl Acquired {
    /// Takes in the protocol's new table.
    pub fn change(&mut self, table: &Holdings) {
        let held: BucketSet =
            Bucket::all().filter(|&bucket| table.get(bucket) != Holding::Foreign).collect();
        self.order.retain(|&bucket| held.contains(bucket));
        self.order.extend(held.iter().filter(|&bucket| !self.held.contains(bucket)));
        self.held = held;
    }

    /// What was acquired last, of what is held.
    pub fn latest(&self) -> Option<Bucket> {
        self.order.last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_is_held_and_was_acquired_last() {
        let set = |buckets: &[u16]| -> BucketSet {
            buckets.iter().map(|&bucket| Bucket::new(bucket).unwrap()).collect()
        };
        let mut acquired = Acquired::default();
        let mut latest = |buckets| {
            acquired.change(&Holdings::owning(&set(buckets)));
            acquired.latest().map(Bucket::get)
        };
        assert_eq!(latest(&[]), None);
        assert_eq!(latest(&[5]), Some(5));
        assert_eq!(latest(&[3, 5]), Some(3));
        assert_eq!(latest(&[3, 5, 9]), Some(9));
        assert_eq!(latest(&[3, 5]), Some(3));
        assert_eq!(latest(&[5]), Some(5));
        assert_eq!(latest(&[3, 5]), Some(3));
        assert_eq!(latest(&[]), None);
    }
}
