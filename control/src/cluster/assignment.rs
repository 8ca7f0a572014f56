//! Who should serve which bucket: for every bucket, members in order of preference.
//!
//! Where the router chooses the bucket (`tiered`), bucket r stands for next-hop address r, and its
//! list is that of [`addresses`](super::addresses). Where the hash of the client does, all members
//! stand in every list. These lists are made by *fold and layer*, with integers only, from the
//! members and a seed that the whole cluster shares, so that every node comes to the same lists by
//! itself.
//!
//! - **Fold.** Members join in the order of their slots. Each newcomer gets its quota of buckets
//!   from those who now have too many, the buckets with the highest keyed hash first. So adding a
//!   member behind the others moves its quota and nothing else. Quotas are proportional to weights
//!   by the divisor method of Sainte-Laguë, which never raises anybody's quota when one joins.
//! - **Layer.** The second choices of a member's buckets go to whoever has least to do once that
//!   member has failed; the third choices of what two members share go to whoever has least to do
//!   once both have failed. So the load is even after none, one and two failures.
//! - **Tail.** From the fourth choice on, rendezvous order: by keyed hash.
//!
//! When a member fails, only its own buckets move: the lists stay. A member that was removed for
//! good stays in the lists as a tombstone, which is a member that never comes back.

use std::cmp::Reverse;

use vipdp_core::bucket::{BUCKETS, Bucket};
use vipdp_core::slot::Slot;

use super::addresses::{Addresses, AddressesError};
use super::config::Member;

/// Members in order of preference, for every bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct Assignment {
    /// One row of `row_len` slots per bucket, the first choice first. Buckets from the number of
    /// rows on have nobody.
    rows: Box<[Slot]>,
    row_len: usize,
    seed: u64,
    /// Whether buckets stand for next-hop addresses.
    addresses: bool,
}

impl Assignment {
    /// The lists of `members`, which are in ascending order of their slots, without duplicates.
    pub(super) fn new(members: &[Member], seed: [u8; 16]) -> Self {
        let (low, high) = seed.split_at(8);
        let word = |half: &[u8]| half.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let hash = KeyedHash(mix(word(low)) ^ word(high));
        let first = fold(members, hash);
        let (second, third) = Layers::new(members, hash, &first).into_choices();
        let mut rows = Vec::with_capacity(BUCKETS * members.len());
        let mut tail = Vec::with_capacity(members.len());
        for bucket in Bucket::all() {
            let at = bucket.index();
            let chosen = [Some(first[at]), second[at], third[at]];
            rows.extend(chosen.into_iter().flatten().map(|member| members[member].slot));
            tail.clear();
            tail.extend(
                (0..members.len())
                    .filter(|member| !chosen.contains(&Some(*member)))
                    .map(|member| hash.key(members[member].slot, bucket)),
            );
            tail.sort_unstable_by_key(|&key| Reverse(key));
            rows.extend(tail.iter().map(|&(_, slot)| slot));
        }
        Self { rows: rows.into(), row_len: members.len(), seed: hash.0, addresses: false }
    }

    /// The lists of next-hop addresses: bucket r has the nodes of address r, `tiers` of them, and
    /// buckets beyond the addresses have nobody. `members`, tombstones included, are numbered by
    /// their places. Weights do not count: the router gives every address the same load.
    ///
    /// # Errors
    /// If there are no such addresses, or too many: [`AddressesError`].
    pub fn of_addresses(
        members: &[Member],
        tiers: usize,
        compact: bool,
    ) -> Result<Self, AddressesError> {
        let addresses = Addresses::new(members.len(), tiers, compact)?;
        let slots = addresses.lists().flatten().map(|&node| members[usize::from(node)].slot);
        Ok(Self { rows: slots.collect(), row_len: tiers, seed: 0, addresses: true })
    }

    /// The members, tombstones included, that may serve `bucket`, in the order in which they should:
    /// all of them, or those of the address that the bucket stands for. Empty if it stands for none.
    pub fn preference(&self, bucket: Bucket) -> &[Slot] {
        let start = bucket.index() * self.row_len;
        self.rows.get(start..start + self.row_len).unwrap_or_default()
    }

    /// The buckets that have lists.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + use<> {
        Bucket::all().take(self.rows.len() / self.row_len)
    }

    /// Whether buckets stand for next-hop addresses.
    pub fn is_of_addresses(&self) -> bool {
        self.addresses
    }

    /// The place of `slot` in the list of `bucket`, counted from 0; `None` if it is not there.
    pub fn rank(&self, bucket: Bucket, slot: Slot) -> Option<usize> {
        self.preference(bucket).iter().position(|&member| member == slot)
    }

    /// From which share on `slot` takes part in `bucket`: it does if its share is greater than
    /// this value, which is 0..=254. A share of 0 is none of the buckets, one of 255 all.
    pub fn share_threshold(&self, bucket: Bucket, slot: Slot) -> u8 {
        (KeyedHash(!self.seed).value(slot, bucket) % 255) as u8
    }
}

impl std::fmt::Debug for Assignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lists of {} members", self.rows.len() / self.row_len, self.row_len)
    }
}

/// The hash of a member and a bucket under the cluster's seed. It spreads and breaks ties; nobody
/// gains from predicting it, so it need not resist attacks.
#[derive(Clone, Copy)]
struct KeyedHash(u64);

impl KeyedHash {
    fn value(self, slot: Slot, bucket: Bucket) -> u64 {
        mix(mix(self.0 ^ u64::from(slot.get()) << 16) ^ u64::from(bucket.get()))
    }

    /// A value that orders members for a bucket, or buckets for a member, without ties.
    fn key(self, slot: Slot, bucket: Bucket) -> (u64, Slot) {
        (self.value(slot, bucket), slot)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014): every bit of the input changes half of the output's.
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The first choice of every bucket, as an index into `members`.
fn fold(members: &[Member], hash: KeyedHash) -> Vec<usize> {
    let mut owner = vec![0; BUCKETS];
    let mut quota = vec![0u64; members.len()];
    if let Some(first) = quota.first_mut() {
        *first = BUCKETS as u64;
    }
    for newcomer in 1..members.len() {
        let before = quota.clone();
        admit(members, &mut quota, newcomer);
        let mut theirs = vec![Vec::new(); newcomer];
        for bucket in Bucket::all() {
            let key = (hash.value(members[newcomer].slot, bucket), bucket);
            theirs[owner[bucket.index()]].push(key);
        }
        for (donor, mut buckets) in theirs.into_iter().enumerate() {
            buckets.sort_unstable_by_key(|&key| Reverse(key));
            for &(_, bucket) in &buckets[..(before[donor] - quota[donor]) as usize] {
                owner[bucket.index()] = newcomer;
            }
        }
    }
    owner
}

/// Moves quota to `newcomer` from those before it, one bucket after the other, from whoever has
/// most for its weight, until no move evens the load any more.
fn admit(members: &[Member], quota: &mut [u64], newcomer: usize) {
    let weight = |member: usize| u64::from(members[member].weight);
    loop {
        // A member's claim to its last bucket is weight / (2 quota - 1), to one more
        // weight / (2 quota + 1); fractions are compared crosswise. Of equal claims the higher slot
        // yields.
        let weakest = (0..newcomer).filter(|&member| quota[member] > 0).reduce(|a, b| {
            let (claim_a, claim_b) =
                (weight(a) * (2 * quota[b] - 1), weight(b) * (2 * quota[a] - 1));
            if claim_a < claim_b { a } else { b }
        });
        let Some(donor) = weakest else { return };
        let claim = weight(newcomer) * (2 * quota[donor] - 1);
        if claim <= weight(donor) * (2 * quota[newcomer] + 1) {
            return;
        }
        quota[donor] -= 1;
        quota[newcomer] += 1;
    }
}

/// The second and third choices, and what each member has to do after failures.
struct Layers<'a> {
    members: &'a [Member],
    hash: KeyedHash,
    first: &'a [usize],
    second: Vec<Option<usize>>,
    third: Vec<Option<usize>>,
    /// How many buckets each member has when all are up.
    quota: Vec<u64>,
    /// `[failed * members + heir]`: how many buckets of `failed` go to `heir`.
    inherited: Vec<u64>,
}

impl<'a> Layers<'a> {
    fn new(members: &'a [Member], hash: KeyedHash, first: &'a [usize]) -> Self {
        let mut quota = vec![0; members.len()];
        for &owner in first {
            quota[owner] += 1;
        }
        let mut layers = Self {
            members,
            hash,
            first,
            second: vec![None; BUCKETS],
            third: vec![None; BUCKETS],
            quota,
            inherited: vec![0; members.len() * members.len()],
        };
        if members.len() > 1 {
            layers.choose_second();
        }
        if members.len() > 2 {
            layers.choose_third();
        }
        layers
    }

    fn into_choices(self) -> (Vec<Option<usize>>, Vec<Option<usize>>) {
        (self.second, self.third)
    }

    fn choose_second(&mut self) {
        let count = self.members.len();
        let mut of_owner = vec![Vec::new(); count];
        for bucket in Bucket::all() {
            of_owner[self.first[bucket.index()]].push(bucket);
        }
        // How many buckets each has inherited from all whose turn it was, less the number of turns
        // that it could inherit in: who is behind comes first among equals, so that the odd buckets
        // of different members go to different heirs, and two failures find few in common.
        let mut surplus = vec![0i64; count];
        for (failed, buckets) in of_owner.into_iter().enumerate() {
            let mut load = self.quota.clone();
            for &bucket in &buckets {
                let heir = self.least_loaded(&load, bucket, &[failed], |heir| surplus[heir]);
                let Some(heir) = heir else { continue };
                load[heir] += 1;
                surplus[heir] += 1;
                self.inherited[failed * count + heir] += 1;
                self.second[bucket.index()] = Some(heir);
            }
            let fair = (buckets.len() / (count - 1)) as i64;
            for (heir, surplus) in surplus.iter_mut().enumerate() {
                if heir != failed {
                    *surplus -= fair;
                }
            }
        }
    }

    fn choose_third(&mut self) {
        let count = self.members.len();
        let mut of_pair = vec![Vec::new(); count * count];
        for bucket in Bucket::all() {
            let first = self.first[bucket.index()];
            if let Some(second) = self.second[bucket.index()] {
                of_pair[first.min(second) * count + first.max(second)].push(bucket);
            }
        }
        for low in 0..count {
            for high in low + 1..count {
                let buckets = &of_pair[low * count + high];
                let inherited = |failed: usize, heir: usize| self.inherited[failed * count + heir];
                let mut load: Vec<_> = (0..count)
                    .map(|heir| self.quota[heir] + inherited(low, heir) + inherited(high, heir))
                    .collect();
                for &bucket in buckets {
                    let heir = self.least_loaded(&load, bucket, &[low, high], |_| 0);
                    let Some(heir) = heir else { continue };
                    load[heir] += 1;
                    self.third[bucket.index()] = Some(heir);
                }
            }
        }
    }

    /// Who has least for its weight, once `bucket` is added, among all but `failed`. Ties go to the
    /// lowest `tie`, then to the highest hash.
    fn least_loaded(
        &self,
        load: &[u64],
        bucket: Bucket,
        failed: &[usize],
        tie: impl Fn(usize) -> i64,
    ) -> Option<usize> {
        let weight = |member: usize| u64::from(self.members[member].weight);
        let hash = |member: usize| Reverse(self.hash.key(self.members[member].slot, bucket));
        (0..self.members.len()).filter(|member| !failed.contains(member)).min_by(|&a, &b| {
            let (load_a, load_b) = ((load[a] + 1) * weight(b), (load[b] + 1) * weight(a));
            load_a
                .cmp(&load_b)
                .then_with(|| tie(a).cmp(&tie(b)))
                .then_with(|| hash(a).cmp(&hash(b)))
        })
    }
}

#[cfg(test)]
#[path = "assignment_tests.rs"]
mod tests;
