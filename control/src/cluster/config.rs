//! What all nodes of a cluster agree on, as the protocol needs it.

use vipdp_core::slot::{SLOTS, Slot};

use super::addresses::AddressesError;
use super::assignment::Assignment;

/// What all nodes of a cluster agree on: validated, with the preference lists worked out.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    parameters: Parameters,
    assignment: Assignment,
}

/// The contents of a [`ClusterConfig`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Tells clusters on one segment apart.
    pub cluster: u16,
    /// Which edition of the cluster's configuration this is.
    pub id: ConfigId,
    /// The members, in ascending order of their slots, without duplicates.
    pub members: Vec<Member>,
    /// When a node counts as down, and how long things linger.
    pub timing: Timing,
    /// What a node does when it may be cut off from the others.
    pub partition: Partition,
    /// Who serves when no member that is alive is well.
    pub all_down: AllDown,
    /// What the preference lists are of.
    pub lists: Lists,
    /// Whether packets come to nodes that do not have their bucket, and are sent on: each node then
    /// remembers who had each bucket before. They always do with [`Lists::Addresses`].
    pub steers: bool,
    /// The seed of the preference lists of buckets.
    pub assignment_seed: [u8; 16],
}

/// What the preference lists are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// All buckets, each with all members, by their weights.
    Buckets,
    /// Next-hop addresses: bucket r stands for address r, the others for nothing.
    Addresses {
        /// How many members each address has: 2 or 3.
        tiers: usize,
        /// Whether three tiers make do with as many addresses as two.
        compact: bool,
    },
}

/// An edition of the cluster's configuration. Of two editions the greater one is the newer: by
/// generation, and by hash where an operator has changed the file but not its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ConfigId {
    /// Counts changes of the file. Never 0.
    pub generation: u32,
    /// Hash of the file's contents.
    pub hash: u32,
}

/// A member of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number, which never changes while it is a member.
    pub slot: Slot,
    /// Its share of the buckets in relation to the others'. At least 1.
    pub weight: u8,
    /// Whether it was removed for good: it keeps its place in the preference lists, so that they
    /// do not shift, and is never alive.
    pub tombstone: bool,
}

/// When a node counts as down, and how long things linger. With h the heartbeat interval and m the
/// multiplier, detection takes D = m * h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// h: the longest time between two heartbeats, in nanoseconds: whole milliseconds.
    pub heartbeat_ns: u64,
    /// m: a node that was not heard for so many heartbeats is down.
    pub multiplier: u8,
    /// How long a node that came back waits before it takes its buckets, in nanoseconds.
    pub hold_ns: u64,
    /// Over what time, after the hold, its share rises to its full measure, in nanoseconds; 0 for
    /// at once.
    pub ramp_ns: u64,
    /// How long the old owner of a bucket keeps the flows it has, in nanoseconds.
    pub linger_ns: u64,
}

/// What a node does when it may be cut off from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// Each side serves.
    None,
    /// Only a side with more than half of the members serves.
    Majority,
    /// Only nodes that reach the router serve, and that no such node reports dead.
    Gateway,
}

/// Who serves when the service of every member that is alive is unwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllDown {
    /// All of them, as if they were well.
    Serve,
    /// Nobody.
    Withdraw,
}

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

impl Timing {
    /// 50 ms x 5: detection within 250 ms.
    pub const DEFAULT: Self = Self {
        heartbeat_ns: 50 * MS,
        multiplier: 5,
        hold_ns: 10 * SECOND,
        ramp_ns: 0,
        linger_ns: 3600 * SECOND,
    };
    /// 10 ms x 5: detection within 50 ms, for control threads with a real-time priority.
    pub const FAST: Self = Self { heartbeat_ns: 10 * MS, ..Self::DEFAULT };
    /// 100 ms x 5: detection within 500 ms.
    pub const RELAXED: Self = Self { heartbeat_ns: 100 * MS, ..Self::DEFAULT };

    /// D, the time after which a node that is not heard is down, in nanoseconds.
    pub const fn detection_ns(&self) -> u64 {
        self.heartbeat_ns * self.multiplier as u64
    }
}

/// Why a configuration does not hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No member that is not a tombstone.
    #[error("the cluster has no member")]
    NoMembers,
    /// Members out of order, or two with one slot.
    #[error("members are not in ascending order of their slots, or two share one")]
    MembersOutOfOrder,
    /// A weight of 0.
    #[error("the member in slot {0} has weight 0")]
    NoWeight(Slot),
    /// A heartbeat interval that is not between 1 ms and 60 s, or not in whole milliseconds.
    #[error("a heartbeat interval of {0} ns: give whole milliseconds, from 1 to 60000")]
    Heartbeat(u64),
    /// Fewer than 3 or more than 20 heartbeats: with fewer, one lost heartbeat is nearly a failure.
    #[error("a multiplier of {0}: give 3 to 20")]
    Multiplier(u8),
    /// A hold shorter than the time in which a failure is found out.
    #[error("a hold of {0} ns: give at least heartbeat * multiplier, and at most a day")]
    Hold(u64),
    /// A ramp or linger longer than a year, which would overflow sums of times.
    #[error("a time of {0} ns is longer than a year")]
    TooLong(u64),
    /// Generation 0, which stands for none.
    #[error("generation 0")]
    NoGeneration,
    /// No lists of next-hop addresses for so many members.
    #[error(transparent)]
    Addresses(#[from] AddressesError),
}

impl ClusterConfig {
    /// Checks `parameters` and works out the preference lists: about 20 ms for 64 members.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn new(parameters: Parameters) -> Result<Self, ConfigError> {
        let Parameters { id, members, timing, .. } = &parameters;
        if id.generation == 0 {
            return Err(ConfigError::NoGeneration);
        }
        if members.iter().all(|member| member.tombstone) {
            return Err(ConfigError::NoMembers);
        }
        if !members.is_sorted_by(|a, b| a.slot < b.slot) {
            return Err(ConfigError::MembersOutOfOrder);
        }
        if let Some(member) = members.iter().find(|member| member.weight == 0) {
            return Err(ConfigError::NoWeight(member.slot));
        }
        timing.check()?;
        let assignment = match parameters.lists {
            Lists::Buckets => Assignment::new(members, parameters.assignment_seed),
            Lists::Addresses { tiers, compact } => {
                Assignment::of_addresses(members, tiers, compact)?
            }
        };
        Ok(Self { parameters, assignment })
    }

    /// Tells clusters on one segment apart.
    pub fn cluster(&self) -> u16 {
        self.parameters.cluster
    }

    /// Which edition of the cluster's configuration this is.
    pub fn id(&self) -> ConfigId {
        self.parameters.id
    }

    /// The members, tombstones included, in ascending order of their slots.
    pub fn members(&self) -> &[Member] {
        &self.parameters.members
    }

    /// The members without tombstones, as a set.
    pub fn present(&self) -> SlotSet {
        let present = self.members().iter().filter(|member| !member.tombstone);
        present.map(|member| member.slot).collect()
    }

    /// When a node counts as down, and how long things linger.
    pub fn timing(&self) -> Timing {
        self.parameters.timing
    }

    /// What a node does when it may be cut off from the others.
    pub fn partition(&self) -> Partition {
        self.parameters.partition
    }

    /// Who serves when no member that is alive is well.
    pub fn all_down(&self) -> AllDown {
        self.parameters.all_down
    }

    /// Whether packets come to nodes that do not have their bucket, and are sent on.
    pub fn sends_on(&self) -> bool {
        self.parameters.steers || self.assignment.is_of_addresses()
    }

    /// The preference lists.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }
}

impl Timing {
    fn check(&self) -> Result<(), ConfigError> {
        const DAY: u64 = 24 * 3600 * SECOND;
        if !(MS..=60 * SECOND).contains(&self.heartbeat_ns) || !self.heartbeat_ns.is_multiple_of(MS)
        {
            return Err(ConfigError::Heartbeat(self.heartbeat_ns));
        }
        if !(3..=20).contains(&self.multiplier) {
            return Err(ConfigError::Multiplier(self.multiplier));
        }
        if !(self.detection_ns()..=DAY).contains(&self.hold_ns) {
            return Err(ConfigError::Hold(self.hold_ns));
        }
        match [self.ramp_ns, self.linger_ns].into_iter().find(|&time| time > 365 * DAY) {
            Some(time) => Err(ConfigError::TooLong(time)),
            None => Ok(()),
        }
    }
}

/// A set of slots: one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotSet(u64);

const _: () = assert!(SLOTS <= u64::BITS as usize);

impl SlotSet {
    /// The set without a member.
    pub const EMPTY: Self = Self(0);

    /// Adds `slot`.
    pub fn insert(&mut self, slot: Slot) {
        self.0 |= 1 << slot.get();
    }

    /// Takes `slot` out.
    pub fn remove(&mut self, slot: Slot) {
        self.0 &= !(1 << slot.get());
    }

    /// Whether `slot` is a member.
    pub fn contains(self, slot: Slot) -> bool {
        self.0 >> slot.get() & 1 == 1
    }

    /// Whether all members are in `other` too.
    pub fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether this set and `other` have a member in common.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The members of either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The number of members.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = Slot> + Clone {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            // Past the last member this is 64, which is no slot.
            let lowest = Slot::new(rest.trailing_zeros() as u8);
            rest &= rest.wrapping_sub(1);
            lowest
        })
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::EMPTY;
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

impl std::fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Slot::get)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipdp_core::bucket::Bucket;

    fn parameters() -> Parameters {
        let member = |slot| Member { slot: Slot::new(slot).unwrap(), weight: 1, tombstone: false };
        Parameters {
            cluster: 1,
            id: ConfigId { generation: 1, hash: 0 },
            members: vec![member(0), member(1)],
            timing: Timing::DEFAULT,
            partition: Partition::None,
            all_down: AllDown::Serve,
            lists: Lists::Buckets,
            steers: false,
            assignment_seed: [0; 16],
        }
    }

    #[test]
    fn what_does_not_hold_together_is_refused() {
        let refused = |change: fn(&mut Parameters)| {
            let mut parameters = parameters();
            change(&mut parameters);
            ClusterConfig::new(parameters).err()
        };
        assert_eq!(refused(|_| {}), None);
        assert_eq!(refused(|p| p.members.clear()), Some(ConfigError::NoMembers));
        assert_eq!(refused(|p| p.members.swap(0, 1)), Some(ConfigError::MembersOutOfOrder));
        assert_eq!(
            refused(|p| p.members[1].slot = p.members[0].slot),
            Some(ConfigError::MembersOutOfOrder)
        );
        let slot = Slot::new(1).unwrap();
        assert_eq!(refused(|p| p.members[1].weight = 0), Some(ConfigError::NoWeight(slot)));
        assert_eq!(refused(|p| p.id.generation = 0), Some(ConfigError::NoGeneration));
        assert_eq!(refused(|p| p.timing.multiplier = 2), Some(ConfigError::Multiplier(2)));
        assert_eq!(
            refused(|p| p.timing.heartbeat_ns = 1_500_000),
            Some(ConfigError::Heartbeat(1_500_000))
        );
        assert_eq!(refused(|p| p.timing.hold_ns = 1), Some(ConfigError::Hold(1)));
        assert_eq!(
            refused(|p| p.timing.linger_ns = u64::MAX),
            Some(ConfigError::TooLong(u64::MAX))
        );
    }

    #[test]
    fn lists_are_of_addresses_where_a_router_chooses() {
        let lists = |tiers, compact| {
            let lists = Lists::Addresses { tiers, compact };
            ClusterConfig::new(Parameters { lists, ..parameters() })
        };
        let config = lists(2, false).unwrap();
        let of = |bucket| config.assignment().preference(Bucket::new(bucket).unwrap());
        let [first, second] = [0, 1].map(|slot| Slot::new(slot).unwrap());
        assert_eq!([of(0), of(1)], [[second, first], [first, second]]);
        assert!(of(2).is_empty() && of(4095).is_empty());
        let too_few = AddressesError::TooFewMembers { members: 2, tiers: 3 };
        assert_eq!(lists(3, false).err(), Some(ConfigError::Addresses(too_few)));
    }

    #[test]
    fn a_set_of_slots_returns_what_was_put_in() {
        let members = [0, 5, 63].map(|slot| Slot::new(slot).unwrap());
        let set: SlotSet = members.into_iter().collect();
        assert!(set.iter().eq(members) && set.len() == 3);
        assert!(SlotSet::EMPTY.iter().next().is_none());
        let (low, high): (SlotSet, SlotSet) =
            (members[..2].iter().copied().collect(), members[1..].iter().copied().collect());
        assert!(low.and(high).iter().eq([members[1]]) && low.or(high) == set);
        assert!(low.is_subset(set) && !set.is_subset(low));
    }

    #[test]
    fn of_equal_generations_the_larger_hash_is_the_newer() {
        let id = |generation, hash| ConfigId { generation, hash };
        assert!(id(2, 0) > id(1, u32::MAX) && id(1, 2) > id(1, 1));
    }
}
