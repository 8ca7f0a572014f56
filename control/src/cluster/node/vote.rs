//! Who may serve where only a majority does (`partition = "majority"`).
//!
//! Every member votes for the nodes that it takes for good, and says so beside what it knows of
//! them: a node's lease lasts as long as more than half of the members, itself included, have
//! voted for it at one of its messages lately. The votes are exclusive in effect, so that two
//! nodes never hold one bucket, whatever is cut, lost or late:
//!
//! - A candidate claims only with the votes of a majority, all of which have heard that it is
//!   candidate, and with the answers of everybody of whom any of these voters, or it itself, says
//!   that it may own something. There is no going without an answer: one that does not answer is
//!   either dead, or fenced, or else has a lease of its own.
//! - A member that has ceased to vote for a node, or never did, begins to only if nobody for whom
//!   it votes, and whose lease may come by that vote, has or asks for what that node has. So what
//!   it told a candidate stays true.
//! - What somebody else is candidate for is not taken over: the candidate was told by this node
//!   that nobody has it here.
//! - A member votes for those only who all hear each other, so that whoever needs an answer gets
//!   one in the end: who is out of that circle loses its votes, and is fenced.
//!
//! Any two majorities share a member. Of two nodes that would have the same bucket, one has asked
//! that member first; from then on either it tells the other one that it must have the first one's
//! answer, or it does not vote for the other one.

use vipdp_core::bucket::BucketSet;
use vipdp_core::slot::Slot;

use super::{Node, Output};
use crate::cluster::config::{Partition, SlotSet};

/// For how many detection times a node keeps its votes while it is not in the clique: it may hand
/// over what it has.
const OUTSIDE_DETECTIONS: u64 = 4;

impl Node {
    /// Whether only a majority serves.
    pub(super) fn votes(&self) -> bool {
        self.config.partition() == Partition::Majority
    }

    /// The time of which more than half of the members, this one included, have voted for it,
    /// knowing that it was alive.
    pub(super) fn majority_lease(&self) -> Option<u64> {
        let members = self.config.present();
        let voted_at = |slot: Slot| {
            if slot == self.me {
                Some(self.now)
            } else {
                self.sent_at(self.peer(slot).ack_supported)
            }
        };
        let mut times: Vec<_> = members.iter().filter_map(voted_at).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(members.len() / 2).copied()
    }

    /// How long after the time of which a majority has voted for this node none of that majority can
    /// have taken it for dead.
    fn majority_patience(&self) -> u64 {
        self.detection_ns() - self.timing.heartbeat_ns / 2
    }

    /// Whether a majority has voted for this node so lately that none of it can have taken it for
    /// dead.
    pub(super) fn majority_knows_me(&self) -> bool {
        self.majority_lease().is_some_and(|since| self.now <= since + self.majority_patience())
    }

    /// Fences this node if its majority was too long silent, also if it speaks again just now:
    /// somebody else may serve meanwhile.
    pub(super) fn fence_if_voted_out(&mut self, out: &mut Vec<Output>) {
        let serves_nothing =
            self.fenced || self.listen_until.is_some() || self.superseded.is_some();
        let until = self.majority_at + self.majority_patience();
        // A lease only grows: what was enough still is, and need not be worked out anew.
        if !self.votes() || serves_nothing || self.now <= until {
            return;
        }
        self.majority_at = self.majority_lease().unwrap_or(0);
        if self.now > self.majority_at + self.majority_patience() {
            self.set_fenced(true, out);
        }
    }

    /// Votes for those that may serve, and ceases to for those that are out of the clique.
    pub(super) fn update_support(&mut self, ticks: bool) {
        if !self.votes() {
            return;
        }
        for slot in self.others() {
            if self.peer(slot).supported {
                if ticks {
                    self.keep_supporting(slot);
                }
            } else if self.may_support(slot) {
                self.peer_mut(slot).supported = true;
                self.beat_now = true;
            }
        }
    }

    /// Ceases to vote for `slot` if it has been out of the clique for long. Its lease ends D later.
    fn keep_supporting(&mut self, slot: Slot) {
        let (now, detection) = (self.now, self.detection_ns());
        let inside = self.clique.contains(slot) || !self.peer(slot).may_own();
        let peer = self.peer_mut(slot);
        if inside {
            peer.outside_since = None;
            return;
        }
        let since = *peer.outside_since.get_or_insert(now);
        let detections = if peer.claims.is_empty() { 1 } else { OUTSIDE_DETECTIONS };
        if now >= since + detections * detection {
            (peer.supported, peer.outside_since) = (false, None);
            peer.supported_until = now + detection;
            self.beat_now = true;
            self.unsettled = true;
        }
    }

    /// Whether to begin to vote for `slot`.
    fn may_support(&self, slot: Slot) -> bool {
        let peer = self.peer(slot);
        if self.listen_until.is_some() || !self.mutual(slot) || !peer.claims_heard {
            return false;
        }
        let disjoint = |mine: &BucketSet| !peer.may_own() || !peer.claims.intersects(mine);
        if !self.cohorts.is_empty() || !disjoint(&self.owned) || !disjoint(&self.yielding) {
            return false;
        }
        self.others().filter(|&other| other != slot).all(|other| {
            let known = self.peer(other);
            let counts = known.alive && (known.supported || self.now < known.supported_until);
            let agree = peer.hears.contains(other) && known.hears.contains(slot);
            let free = known.candidacy.is_none() && disjoint(&known.claims);
            !counts || (agree || !known.supported) && free
        })
    }

    /// Whether this node, candidate since its message `seq`, has the votes of a majority, and the
    /// answers of all that may own something.
    pub(super) fn is_elected(&self, seq: u64) -> bool {
        let answered = |slot: Slot| {
            let peer = self.peer(slot);
            peer.alive && peer.claims_heard && peer.claims_ack >= seq
        };
        let members = self.config.present();
        let voters: SlotSet =
            self.others().filter(|&slot| answered(slot) && self.peer(slot).supports_me).collect();
        if 2 * (1 + voters.and(members).len()) <= members.len() {
            return false;
        }
        let mut owners: SlotSet = self.others().filter(|&slot| self.peer(slot).may_own()).collect();
        for voter in voters.iter() {
            owners = owners.or(self.peer(voter).sees);
        }
        owners.iter().all(|slot| slot == self.me || answered(slot))
    }

    /// Whether anybody but `giver` is candidate for any of `buckets`.
    pub(super) fn is_asked_for(&self, buckets: &BucketSet, giver: Slot) -> bool {
        self.others().filter(|&slot| slot != giver).any(|slot| {
            let candidacy = self.peer(slot).candidacy.as_ref();
            candidacy.is_some_and(|candidacy| candidacy.intersects(buckets))
        })
    }
}
