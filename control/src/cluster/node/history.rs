//! Who had each bucket before, so that the data plane finds the flows that began there. In the
//! tiered mode a bucket stands for a next-hop address, in the anycast mode it is a slice of the
//! clients.
//!
//! In the shared-mac mode every node sees every packet, and nobody asks.

use std::sync::Arc;

use vipdp_core::bucket::{BUCKETS, Bucket, BucketSet};
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::tiered::{Owners, PreviousOwners};

use super::Node;
use crate::cluster::config::{Partition, SlotSet};
use crate::cluster::wire::NodeFlags;

/// How many claimants of a bucket are remembered: its owner, this node and two more.
const REMEMBERED: usize = 4;

/// How soon a member that was stopped and started is back: until then nobody resets what may be its
/// connections. Longer than a process manager takes for a restart, and short enough for clients of
/// one that has died.
pub(in crate::cluster) const RETURN_NS: u64 = 10_000_000_000;

/// The last claimants of each bucket.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Of each bucket: one that claims it is before all that do not, and of those that do not, the last
    /// one is first. Empty as long as nobody asks.
    claimants: Vec<[Option<Slot>; REMEMBERED]>,
    /// When each member was last seen to be reachable.
    reached_at: Vec<Option<u64>>,
    /// What was told last, and from what it was made.
    told: Option<(Basis, Arc<PreviousOwners>)>,
    /// Counts changes.
    changes: u64,
}

/// All that decides about what is told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    changes: u64,
    owned: BucketSet,
    /// Who may have a bucket or have had it.
    alive: SlotSet,
    /// Those of them that are asked in rounds.
    asked: SlotSet,
    is_away: bool,
}

impl Node {
    /// Takes note that `claimant` has `buckets`: it claims them, and did so last.
    pub(super) fn remember(&mut self, claimant: Slot, buckets: &BucketSet) {
        if !self.config.sends_on() || buckets.is_empty() {
            return;
        }
        let history = &mut self.history;
        history.claimants.resize(BUCKETS, [None; REMEMBERED]);
        let mut changes = false;
        for bucket in buckets.iter() {
            let claimants = &mut history.claimants[bucket.index()];
            let known = claimants.iter().position(|&known| known == Some(claimant));
            claimants[..=known.unwrap_or(REMEMBERED - 1)].rotate_right(1);
            claimants[0] = Some(claimant);
            changes |= known != Some(0);
        }
        history.changes += u64::from(changes);
        self.table_changed |= changes;
    }

    /// Takes note that one has ceased to claim `buckets`. Another that claims them still, and need not
    /// have begun later, has them now: where several began apart from each other, who began last may
    /// be who gives way.
    pub(super) fn remember_who_remains(&mut self, buckets: &BucketSet) {
        if !self.config.sends_on() || buckets.is_empty() {
            return;
        }
        for slot in self.others().chain([self.me]) {
            let claims = if slot == self.me { &self.owned } else { &self.peer(slot).claims };
            let mut remaining = claims.clone();
            remaining.retain_all(buckets);
            self.remember(slot, &remaining);
        }
    }

    /// Who has and had each bucket: the members that are alive and can be reached. One that listens
    /// is left out of rounds: it does not know yet who comes after it.
    pub(super) fn previous_owners(&mut self) -> Arc<PreviousOwners> {
        let reachable = |&slot: &Slot| self.peer(slot).alive && self.peer(slot).mac.is_some();
        let listens = |&slot: &Slot| self.peer(slot).flags.contains(NodeFlags::LISTEN);
        let mut alive: SlotSet = self.others().filter(reachable).collect();
        let mut asked: SlotSet = alive.iter().filter(|slot| !listens(slot)).collect();
        let is_away = self.is_anybody_away(asked) || self.listen_until.is_some();
        alive.insert(self.me);
        asked.insert(self.me);
        let owned = self.owned.clone();
        let basis = Basis { changes: self.history.changes, owned, alive, asked, is_away };
        if let Some((told_by, told)) = &self.history.told
            && *told_by == basis
        {
            return Arc::clone(told);
        }
        let owners = if self.history.claimants.is_empty() {
            PreviousOwners::none()
        } else {
            let buckets = self.config.assignment().buckets();
            PreviousOwners::new(
                asked.iter(),
                buckets.map(|bucket| (bucket, self.owners(bucket, alive))),
            )
        };
        let owners = Arc::new(owners.while_away(is_away));
        self.history.told = Some((basis, Arc::clone(&owners)));
        owners
    }

    /// Whether a member other than the `reachable` was so a moment ago, and may be again, with the
    /// flows that it had.
    fn is_anybody_away(&mut self, reachable: SlotSet) -> bool {
        let now = self.now;
        let reached_at = &mut self.history.reached_at;
        reached_at.resize(SLOTS, None);
        for slot in reachable.iter() {
            reached_at[slot.index()] = Some(now);
        }
        let is_away = |slot: Slot| {
            let reached_at = self.history.reached_at[slot.index()];
            !reachable.contains(slot) && reached_at.is_some_and(|at| now < at + RETURN_NS)
        };
        self.others().any(is_away) || self.may_be_cut_off(reachable)
    }

    /// Whether it may be this node that is gone, with few others or none, rather than the rest; and what
    /// they have opened meanwhile may come here at any moment, before they are heard. Where it needs
    /// more than that to serve at all, nothing comes here.
    fn may_be_cut_off(&self, reachable: SlotSet) -> bool {
        let (heard, members) = (reachable.len() + 1, self.config.present().len());
        self.config.partition() == Partition::None && members > 1 && heard * 2 <= members
    }

    /// Who has and had `bucket`, of those `alive`.
    fn owners(&self, bucket: Bucket, alive: SlotSet) -> Owners {
        let claimants = self.history.claimants[bucket.index()];
        let is_alive = |slot: &Slot| alive.contains(*slot);
        // The first one has it, unless it died: then nobody that is known has. What this node owns it has,
        // also where another one began to claim it later and is to give it up.
        let last = claimants[0].filter(is_alive);
        let now = if self.owned.contains(bucket) { Some(self.me) } else { last };
        let others = |slot: &Slot| is_alive(slot) && *slot != self.me && Some(*slot) != now;
        let mut before = claimants.into_iter().flatten().filter(others);
        Owners { now, before: [before.next(), before.next()] }
    }
}
