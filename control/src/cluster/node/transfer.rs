//! Planned moves: a bucket is handed over and never taken back.
//!
//! The giver goes on answering for it, by forwarding, until the taker has said that it has it. At
//! most one batch is open between two nodes, and batches are numbered, so that a repeated message
//! is not taken for a new one.

use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::slot::{SLOTS, Slot};

use super::{Node, Output};

/// How many buckets a batch has at most: what a node that dies right after it has taken them over
/// takes with it. A batch takes about one round trip.
const BATCH_MAX: usize = 256;
/// For how many heartbeat intervals a node must have been out of the clique before it hands its
/// buckets over: views differ for a moment after every change.
const EXCLUDED_BEATS: u64 = 3;

impl Node {
    /// Owner -> Yielding: another node should own the bucket and can be reached.
    pub(super) fn grant_to_targets(&mut self) {
        self.grant_around_cuts();
        let mut astray = self.owned.clone();
        astray.remove_all(self.targets.mine());
        if astray.is_empty() || self.excluded_since.is_some() && !self.long_excluded() {
            return;
        }
        let mut batches: Vec<Option<BucketSet>> = vec![None; SLOTS];
        let ready: Vec<_> = Slot::all().map(|slot| self.can_grant_to(slot)).collect();
        for bucket in astray.iter() {
            let Some(heir) = self.heir(bucket) else { continue };
            let taker = if self.mutual(heir) || self.excluded_since.is_none() {
                Some(heir)
            } else {
                // Cut off from the heir, but not from all: somebody else passes it on.
                let preference = self.config.assignment().preference(bucket);
                let near = |&&slot: &&Slot| self.clique.contains(slot) && self.mutual(slot);
                preference.iter().find(near).copied()
            };
            let Some(taker) = taker.filter(|taker| ready[taker.index()]) else { continue };
            let batch = batches[taker.index()].get_or_insert(BucketSet::EMPTY);
            if batch.len() < BATCH_MAX {
                batch.insert(bucket);
            }
        }
        for (slot, batch) in Slot::all().zip(batches) {
            if let Some(batch) = batch {
                self.open_batch(slot, batch);
            }
        }
    }

    /// Offers what was granted to one with whom this node has ceased to speak to somebody who does:
    /// nobody else knows whether it has it. It cannot accept it any more: the one does not hear
    /// this node, or is not acknowledged by it.
    ///
    /// For a moment two may have it, until they have heard each other. Where only a majority serves
    /// there must never be two, and one of the two beyond the cut will be fenced.
    fn grant_around_cuts(&mut self) {
        if self.votes() {
            return;
        }
        for lost in self.others() {
            let Some(batch) = self.peer(lost).out_batch.clone() else { continue };
            if self.mutual(lost) {
                continue;
            }
            let between = |&slot: &Slot| {
                self.can_grant_to(slot)
                    && self.peer(slot).hears.contains(lost)
                    && self.clique.contains(slot)
            };
            if let Some(slot) = self.others().find(between) {
                self.open_batch(slot, batch);
            }
        }
    }

    /// What those have who do not speak with `giver`, and whom this node hears: it may have granted
    /// it to them before.
    fn arrived_elsewhere(&self, giver: Slot) -> BucketSet {
        let mut arrived = BucketSet::EMPTY;
        for slot in self.others().filter(|&slot| slot != giver && self.hears(slot)) {
            let speak =
                self.peer(giver).hears.contains(slot) && self.peer(slot).hears.contains(giver);
            if !speak {
                arrived.insert_all(&self.peer(slot).claims);
            }
        }
        arrived
    }

    /// Whether a batch for `slot` may be opened: it hears this node now. What it says of that may have waited on its
    /// way, as in the queue of a NIC that had no link, and be true no more; what it acknowledges cannot be older than
    /// what was sent.
    fn can_grant_to(&self, slot: Slot) -> bool {
        let peer = self.peer(slot);
        slot != self.me
            && self.mutual(slot)
            && self.lease_holds(slot, self.detection_ns())
            && peer.config == self.config.id()
            && peer.out_batch.is_none()
    }

    fn long_excluded(&self) -> bool {
        let wait = EXCLUDED_BEATS * self.timing.heartbeat_ns;
        self.excluded_since.is_some_and(|since| self.now >= since + wait)
    }

    fn open_batch(&mut self, slot: Slot, batch: BucketSet) {
        self.owned.remove_all(&batch);
        self.yielding.insert_all(&batch);
        let peer = self.peer_mut(slot);
        // 0 stands for none.
        peer.out_number = peer.out_number.checked_add(1).unwrap_or(1);
        peer.out_batch = Some(batch);
        peer.out_sent = false;
        self.table_changed = true;
    }

    /// Yielding -> Idle: the taker has echoed, has died or has started anew.
    pub(super) fn close_batch(&mut self, slot: Slot, out: &mut Vec<Output>) {
        let Some(mut batch) = self.peer_mut(slot).out_batch.take() else { return };
        if self.peer(slot).alive {
            // It has them, whomever else they were offered to.
            self.take_out_of_batches(&batch);
        } else {
            for other in self.others() {
                batch.remove_all(self.peer(other).out_batch.as_ref().unwrap_or(&BucketSet::EMPTY));
            }
        }
        self.yielding.remove_all(&batch);
        self.table_changed = true;
        self.unsettled = true;
        self.linger(&batch, out);
    }

    /// Yielding -> Idle: the taker claims the bucket without having heard of the batch, because it
    /// does not hear this node any more; or another one does that takes this node for dead, and
    /// cannot be waited for.
    pub(super) fn close_claimed_batches(&mut self, out: &mut Vec<Output>) {
        let mut lost = BucketSet::EMPTY;
        for slot in self.others().filter(|&slot| self.contests(slot)) {
            let peer = self.peer(slot);
            let mut claimed = peer.claims.clone();
            claimed.retain_all(&self.yielding);
            if !self.takes_me_for_dead(slot) {
                claimed.retain_all(peer.out_batch.as_ref().unwrap_or(&BucketSet::EMPTY));
            }
            let knows = |&bucket: &Bucket| self.knows_and_claims(slot, bucket);
            lost.insert_all(&claimed.iter().filter(knows).collect());
        }
        if !lost.is_empty() {
            self.take_out_of_batches(&lost);
            self.table_changed = true;
            self.linger(&lost, out);
        }
    }

    /// Idle -> Owner: accepts what `from` hands over, wanted or not, unless it may have given up
    /// on this node meanwhile. What is not wanted is passed on; what somebody beyond a cut has
    /// already is left there.
    pub(super) fn accept(
        &mut self,
        from: Slot,
        number: u8,
        buckets: &BucketSet,
        out: &mut Vec<Output>,
    ) {
        let peer = self.peer(from);
        if !self.serves() || number == 0 || !peer.knows_me {
            return;
        }
        // Repeated: my echo was lost.
        if number == peer.in_number {
            self.beat_now = true;
            return;
        }
        let half_beat = self.timing.heartbeat_ns / 2;
        if !self.lease_holds(from, self.detection_ns() - half_beat) {
            return;
        }
        if self.votes() && self.is_asked_for(buckets, from) {
            return;
        }
        let peer = self.peer_mut(from);
        peer.in_number = number;
        let mut fresh = buckets.clone();
        fresh.remove_all(&self.owned);
        fresh.remove_all(&self.arrived_elsewhere(from));
        self.take_out_of_batches(&fresh);
        for cohort in &mut self.cohorts {
            cohort.buckets.remove_all(&fresh);
        }
        self.own(&fresh, out);
        self.unsettled = true;
    }

    /// Ends the handing over of those of `buckets` that have come round: their takers have accepted
    /// them, or nobody could pass them on, and all that is missing here is the echo.
    fn take_out_of_batches(&mut self, buckets: &BucketSet) {
        if !buckets.intersects(&self.yielding) {
            return;
        }
        self.yielding.remove_all(buckets);
        for slot in self.others() {
            let peer = self.peer_mut(slot);
            if let Some(batch) = &mut peer.out_batch {
                batch.remove_all(buckets);
            }
            peer.out_batch.take_if(|batch| batch.is_empty());
        }
    }

    /// Keeps the flows of `buckets`, which this node has had, for a while.
    pub(super) fn linger(&mut self, buckets: &BucketSet, out: &mut Vec<Output>) {
        self.remember_who_remains(buckets);
        // Sixteen steps of time bound the list.
        let step = (self.timing.linger_ns / 16).max(1);
        let until = (self.now + self.timing.linger_ns).next_multiple_of(step);
        for (_, lingering) in &mut self.lingering {
            lingering.remove_all(buckets);
        }
        match self.lingering.last_mut() {
            Some((last, lingering)) if *last == until => lingering.insert_all(buckets),
            _ => self.lingering.push((until, buckets.clone())),
        }
        out.push(Output::LingerStart(buckets.clone()));
    }

    /// Lets go of flows whose time is over.
    pub(super) fn end_lingering(&mut self, out: &mut Vec<Output>) {
        let now = self.now;
        let ended = self.lingering.iter().take_while(|&&(until, _)| now >= until).count();
        for (_, mut buckets) in self.lingering.drain(..ended) {
            // Those that have come back since are served, not kept.
            buckets.remove_all(&self.owned);
            if !buckets.is_empty() {
                out.push(Output::LingerEnd(buckets));
            }
        }
    }
}
