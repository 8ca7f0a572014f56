//! Who is alive, who hears whom, and with whom this node can agree.

use std::cmp::Reverse;

use vipdp_core::slot::{SLOTS, Slot};

use super::peer::FAILBACK_DAMPING;
use super::{Node, Output};
use crate::cluster::config::SlotSet;

impl Node {
    /// Buries those of whom nothing new was known for D, and forgets sessions that never joined.
    pub(super) fn expire(&mut self, out: &mut Vec<Output>) {
        let (now, detection) = (self.now, self.detection_ns());
        for slot in self.others() {
            let peer = self.peer_mut(slot);
            peer.pending.take_if(|pending| now >= pending.heard_at + detection);
            if peer.alive && now >= peer.known_at + detection {
                self.bury(slot, out);
            }
        }
    }

    /// Takes a node for dead: its claims are void.
    pub(super) fn bury(&mut self, slot: Slot, out: &mut Vec<Output>) {
        let now = self.now;
        let peer = self.peer_mut(slot);
        // To come and go without buckets harms nobody.
        if !peer.claims.is_empty() {
            peer.penalty.add(&FAILBACK_DAMPING, now);
        }
        let claims = peer.claims.clone();
        peer.bury();
        self.remember_who_remains(&claims);
        self.close_batch(slot, out);
        self.unsettled = true;
    }

    /// Whether this node hears `slot`: directly within D, or within 3D if others say it is alive.
    /// A node that was heard within D is alive, so the longer time is the only one to look at.
    pub(super) fn hears(&self, slot: Slot) -> bool {
        let peer = self.peer(slot);
        peer.alive && peer.heard_seq > 0 && self.now < peer.heard_at + 3 * self.detection_ns()
    }

    /// Whether this node and `slot` hear each other.
    pub(super) fn mutual(&self, slot: Slot) -> bool {
        self.peer(slot).hears.contains(self.me) && self.peer(slot).knows_me && self.hears(slot)
    }

    /// Whether `slot` is heard, and takes this session of this node for dead, though it has had 2h
    /// to hear it: when a cut is mended, both sides say so at first.
    pub(super) fn takes_me_for_dead(&self, slot: Slot) -> bool {
        let patience = 2 * self.timing.heartbeat_ns;
        let since = self.peer(slot).says_dead_since;
        since.is_some_and(|since| self.now >= since + patience) && self.hears(slot)
    }

    /// Finds the clique: live nodes of which each hears each other, chosen greedily, those first
    /// who are in most mutual pairs, then the lowest slot. Of equals this node comes last if one of
    /// them takes it for dead, for then it is in no clique of theirs. Nodes that listen or are
    /// fenced own nothing, so they keep nobody out.
    pub(super) fn update_clique(&mut self) {
        let mut rows = [SlotSet::EMPTY; SLOTS];
        let mut live: SlotSet = self.others().filter(|&slot| self.peer(slot).may_own()).collect();
        for slot in live.iter() {
            rows[slot.index()] = self.peer(slot).hears;
            if !self.peer(slot).knows_me {
                rows[slot.index()].remove(self.me);
            }
        }
        rows[self.me.index()] = live.iter().filter(|&slot| self.hears(slot)).collect();
        live.insert(self.me);
        let mut heard_by = [SlotSet::EMPTY; SLOTS];
        for slot in live.iter() {
            for heard in rows[slot.index()].and(live).iter() {
                heard_by[heard.index()].insert(slot);
            }
        }
        let pairs = |slot: Slot| rows[slot.index()].and(heard_by[slot.index()]);
        let lost = self.others().any(|slot| self.takes_me_for_dead(slot));
        let mut order: Vec<_> = live.iter().collect();
        order.sort_by_key(|&slot| (Reverse(pairs(slot).len()), slot == self.me && lost));
        let mut clique = SlotSet::EMPTY;
        for slot in order {
            if clique.is_subset(pairs(slot)) {
                clique.insert(slot);
            }
        }
        self.clique = clique;
        if clique.contains(self.me) {
            self.excluded_since = None;
        } else {
            self.excluded_since.get_or_insert(self.now);
        }
    }
}
