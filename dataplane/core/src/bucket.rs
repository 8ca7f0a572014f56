//! Buckets: the fixed number of slices that the hash space of client addresses is cut into.
//!
//! A bucket is the unit of ownership in the `shared-mac` mode. Their number is part of the wire
//! format and never changes, so that a bucket means the same clients on every node.

use std::fmt;

/// How many buckets there are.
pub const BUCKETS: usize = 1 << BUCKETS_LOG2;
/// Base-2 logarithm of [`BUCKETS`], as heartbeats carry it.
pub const BUCKETS_LOG2: u8 = 12;

/// A slice of the hash space of client addresses: a number below [`BUCKETS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u16);

impl Bucket {
    /// The bucket numbered 0.
    pub const FIRST: Self = Self(0);

    /// The bucket numbered `number`, or `None` from [`BUCKETS`] upwards.
    pub const fn new(number: u16) -> Option<Self> {
        if (number as usize) < BUCKETS { Some(Self(number)) } else { None }
    }

    /// The bucket that a client hash falls into: its lowest [`BUCKETS_LOG2`] bits.
    pub const fn of_hash(hash: u64) -> Self {
        Self((hash & (BUCKETS as u64 - 1)) as u16)
    }

    /// The bucket's number, always below [`BUCKETS`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The bucket's number as it stands on the wire.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Every bucket, in ascending order.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..BUCKETS as u16).map(Self)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {}", self.0)
    }
}

const WORDS: usize = BUCKETS / 64;

/// A set of buckets: one bit each, 512 bytes, no allocation.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketSet([u64; WORDS]);

impl BucketSet {
    /// The set without a member.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// The set of all [`BUCKETS`].
    pub const FULL: Self = Self([u64::MAX; WORDS]);
    /// The set's size on the wire, in bytes.
    pub const WIRE_LEN: usize = BUCKETS / 8;

    /// Adds `bucket`.
    pub fn insert(&mut self, bucket: Bucket) {
        self.0[bucket.index() / 64] |= 1 << (bucket.index() % 64);
    }

    /// Takes `bucket` out.
    pub fn remove(&mut self, bucket: Bucket) {
        self.0[bucket.index() / 64] &= !(1 << (bucket.index() % 64));
    }

    /// Whether `bucket` is a member.
    pub fn contains(&self, bucket: Bucket) -> bool {
        self.0[bucket.index() / 64] >> (bucket.index() % 64) & 1 == 1
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The members, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.0.iter().enumerate().flat_map(|(at, &word)| {
            std::iter::successors(Some(word), |rest| Some(rest & rest.wrapping_sub(1)))
                .take_while(|&rest| rest != 0)
                .map(move |rest| Bucket((at * 64) as u16 + rest.trailing_zeros() as u16))
        })
    }

    /// Adds all members of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        self.combine(other, |own, other| own | other);
    }

    /// Takes all members of `other` out.
    pub fn remove_all(&mut self, other: &Self) {
        self.combine(other, |own, other| own & !other);
    }

    /// Keeps only members of `other`.
    pub fn retain_all(&mut self, other: &Self) {
        self.combine(other, |own, other| own & other);
    }

    /// Whether this set and `other` have a member in common.
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(&own, &other)| own & other != 0)
    }

    fn combine(&mut self, other: &Self, word: impl Fn(u64, u64) -> u64) {
        for (own, &other) in self.0.iter_mut().zip(&other.0) {
            *own = word(*own, other);
        }
    }

    /// The set as it stands on the wire: bucket `b` is bit `b % 8`, counted from the least
    /// significant, of byte `b / 8`.
    pub fn to_wire(&self) -> [u8; Self::WIRE_LEN] {
        let mut bytes = [0; Self::WIRE_LEN];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads [`to_wire`](Self::to_wire)'s form.
    pub fn from_wire(bytes: &[u8; Self::WIRE_LEN]) -> Self {
        let mut set = Self::EMPTY;
        for (word, chunk) in set.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        set
    }
}

impl Default for BucketSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl FromIterator<Bucket> for BucketSet {
    fn from_iter<I: IntoIterator<Item = Bucket>>(buckets: I) -> Self {
        let mut set = Self::EMPTY;
        for bucket in buckets {
            set.insert(bucket);
        }
        set
    }
}

impl fmt::Debug for BucketSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {BUCKETS} buckets", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_returns_what_was_put_in_through_the_wire_form() {
        let members = [0, 1, 63, 64, 4000, 4095].map(|n| Bucket::new(n).unwrap());
        let set: BucketSet = members.into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), members);
        assert_eq!(set.len(), members.len());
        assert_eq!(BucketSet::from_wire(&set.to_wire()), set);
        assert_eq!(set.to_wire()[0], 0b11);
        let mut less = set.clone();
        less.remove(members[2]);
        assert!(!less.contains(members[2]) && set.contains(members[2]));
    }

    #[test]
    fn sets_combine_member_by_member() {
        let set = |members: &[u16]| -> BucketSet {
            members.iter().map(|&n| Bucket::new(n).unwrap()).collect()
        };
        let (low, high) = (set(&[1, 64, 4095]), set(&[2, 64]));
        let with = |change: fn(&mut BucketSet, &BucketSet)| {
            let mut changed = low.clone();
            change(&mut changed, &high);
            changed
        };
        assert_eq!(with(BucketSet::insert_all), set(&[1, 2, 64, 4095]));
        assert_eq!(with(BucketSet::remove_all), set(&[1, 4095]));
        assert_eq!(with(BucketSet::retain_all), set(&[64]));
        assert!(low.intersects(&high) && !low.intersects(&set(&[2, 65])));
    }

    #[test]
    fn all_buckets_are_the_full_set() {
        assert_eq!(Bucket::all().collect::<BucketSet>(), BucketSet::FULL);
        assert_eq!(BucketSet::FULL.len(), BUCKETS);
        assert!(BucketSet::EMPTY.is_empty());
        assert_eq!(Bucket::new(BUCKETS as u16), None);
    }
}
