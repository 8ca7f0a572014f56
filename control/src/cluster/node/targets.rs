//! Who should own each bucket, from the preference lists and from what the nodes say of
//! themselves.

use vipdp_core::bucket::{BUCKETS, Bucket, BucketSet};
use vipdp_core::slot::{SLOTS, Slot};

use super::Node;
use crate::cluster::config::{ConfigId, SlotSet};
use crate::cluster::wire::NodeFlags;

/// Why a node may own a bucket, the best reason first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// It takes its share: the bucket may be handed to it.
    Eligible,
    /// It has come back and waits: it takes what nobody else does.
    Waiting,
    /// It is to be emptied: it takes what really nobody else does.
    Draining,
}

/// Who should own each bucket.
#[derive(Debug)]
pub(super) struct Targets {
    /// What the rest was worked out from.
    basis: Option<Basis>,
    /// The target of each bucket.
    of: Box<[Option<(Slot, Tier)>]>,
    /// The buckets whose target this node is.
    mine: BucketSet,
}

/// All that decides about targets, apart from the claims of nodes with an older configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    config: ConfigId,
    clique: SlotSet,
    /// Nodes that run an older configuration: they keep what they have and get nothing.
    older: SlotSet,
    standings: [Standing; SLOTS],
}

/// What a node says of itself that decides what it may own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Standing {
    share: u8,
    flags: NodeFlags,
}

impl Standing {
    /// Whether, and why, the node may own a bucket in which it takes part with more than
    /// `threshold` of a share.
    fn tier(self, threshold: impl FnOnce() -> u8) -> Option<Tier> {
        let out = NodeFlags::LISTEN.with(NodeFlags::FENCED, true).with(NodeFlags::UNWILLING, true);
        if self.flags.and(out) != NodeFlags::default() {
            None
        } else if self.share == u8::MAX || self.share > 0 && self.share > threshold() {
            Some(Tier::Eligible)
        } else if self.flags.contains(NodeFlags::DRAINING) {
            Some(Tier::Draining)
        } else {
            Some(Tier::Waiting)
        }
    }
}

impl Targets {
    pub(super) fn new() -> Self {
        Self { basis: None, of: vec![None; BUCKETS].into(), mine: BucketSet::EMPTY }
    }

    /// The target of `bucket`.
    pub(super) fn of(&self, bucket: Bucket) -> Option<(Slot, Tier)> {
        self.of[bucket.index()]
    }

    /// The buckets whose target this node is.
    pub(super) fn mine(&self) -> &BucketSet {
        &self.mine
    }
}

impl Node {
    /// Works the targets out anew if anything that decides about them has changed.
    pub(super) fn update_targets(&mut self) {
        let mine = self.config.id();
        let older: SlotSet = self.others().filter(|&slot| self.peer(slot).config < mine).collect();
        let older = older.and(self.clique);
        let mut standings = [Standing::default(); SLOTS];
        for slot in self.clique.iter() {
            standings[slot.index()] = self.standing(slot);
        }
        let basis = Basis { config: mine, clique: self.clique, older, standings };
        if older.is_empty() && self.targets.basis.as_ref() == Some(&basis) {
            return;
        }
        let present = self.config.present().and(self.clique);
        let mut targets = std::mem::replace(&mut self.targets, Targets::new());
        targets.mine = BucketSet::EMPTY;
        for bucket in Bucket::all() {
            let target = self.target(bucket, &basis, present);
            targets.of[bucket.index()] = target;
            if target.is_some_and(|(slot, _)| slot == self.me) {
                targets.mine.insert(bucket);
            }
        }
        let rank = basis.standings[self.me.index()];
        let former = targets.basis.replace(basis);
        if former.is_some_and(|former| former.standings[self.me.index()] != rank) {
            self.ask_anew();
        }
        self.targets = targets;
    }

    /// The first on the list of `bucket` of those with the best reason to own it.
    fn target(&self, bucket: Bucket, basis: &Basis, present: SlotSet) -> Option<(Slot, Tier)> {
        let assignment = self.config.assignment();
        let mut best: Option<(Slot, Tier)> = None;
        for &slot in assignment.preference(bucket) {
            let kept = || self.peer(slot).claims.contains(bucket);
            if !present.contains(slot) || basis.older.contains(slot) && !kept() {
                continue;
            }
            let standing = basis.standings[slot.index()];
            match standing.tier(|| assignment.share_threshold(bucket, slot)) {
                Some(Tier::Eligible) => return Some((slot, Tier::Eligible)),
                Some(tier) if best.is_none_or(|(_, best)| tier < best) => best = Some((slot, tier)),
                _ => {}
            }
        }
        best
    }

    /// What orders members for `bucket`: the less, the better. Those that may not own it come last.
    pub(super) fn preference_key(&self, bucket: Bucket, slot: Slot) -> (bool, Option<Tier>, usize) {
        let assignment = self.config.assignment();
        let Some(rank) = assignment.rank(bucket, slot) else { return (true, None, SLOTS) };
        let tier = self.standing(slot).tier(|| assignment.share_threshold(bucket, slot));
        (tier.is_none(), tier, rank)
    }

    /// What decides of what `slot` says about what it may own. Where nobody is well, not that it is
    /// not.
    fn standing(&self, slot: Slot) -> Standing {
        let (share, flags) = if slot == self.me {
            (self.share, self.own_flags())
        } else {
            (self.peer(slot).share, self.peer(slot).flags)
        };
        let ignored = if self.all_down { NodeFlags::UNWILLING } else { NodeFlags::default() };
        Standing { share, flags: flags.and(NodeFlags::RELAYED).without(ignored) }
    }
}
