//! What is told to others and to the data plane, and when; and what of it was acknowledged.

use vipdp_core::bucket::BucketSet;
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::{Holding, Holdings};

use super::peer::FAILBACK_DAMPING;
use super::{Destination, Node, Output};
use crate::cluster::wire::{
    Body, Entry, EntryFlags, Header, Message, NodeFlags, proof, session_tag,
};

/// When messages were sent, for the last of them.
#[derive(Debug)]
pub(super) struct SentTimes(Box<[u64; Self::LEN]>);

impl SentTimes {
    /// More than any node sends within the longest detection time: 20 heartbeats, each with at
    /// most 16 before their time, and as many joins, candidacies and transfers.
    const LEN: usize = 2048;

    pub(super) fn new() -> Self {
        Self(Box::new([0; Self::LEN]))
    }

    fn set(&mut self, seq: u64, at: u64) {
        self.0[seq as usize % Self::LEN] = at;
    }

    /// When the message `seq` was sent, of which `last` is the last; `None` for none, or if it was
    /// too long ago.
    fn get(&self, seq: u64, last: u64) -> Option<u64> {
        let recent = seq > 0 && seq + (Self::LEN as u64) > last;
        recent.then(|| self.0[seq as usize % Self::LEN])
    }
}

impl Node {
    /// How close to one another heartbeats may follow that are due before their time.
    fn beat_gap(&self) -> u64 {
        self.timing.heartbeat_ns / 16
    }

    /// How close to one another joins may follow.
    fn join_gap(&self) -> u64 {
        self.timing.heartbeat_ns / 8
    }

    pub(super) fn beat_is_due(&self) -> bool {
        self.now >= self.next_beat
            || self.beat_now && self.now >= self.last_beat + self.beat_gap()
            || self.asks_after_silent()
    }

    /// Whether to ask all for an answer, since one of them was silent for D - 2h: its own answer, or
    /// what others have heard of it, tells lost messages from a failure. Asked each h/2, by
    /// this node or by another.
    fn asks_after_silent(&self) -> bool {
        let patience = self.detection_ns() - 2 * self.timing.heartbeat_ns;
        let silent = |slot| {
            let peer = self.peer(slot);
            peer.alive && self.now >= peer.known_at + patience
        };
        self.now >= self.last_poll + self.timing.heartbeat_ns / 2 && self.others().any(silent)
    }

    /// Publishes what is held, with a new lease.
    pub(super) fn publish(&mut self, out: &mut Vec<Output>) {
        if self.table_changed {
            self.table_changed = false;
            let mut holdings = Holdings::owning(&self.owned);
            // What is offered to two goes to the one that is heard.
            let (heard, lost): (Vec<_>, Vec<_>) = self.others().partition(|&slot| self.hears(slot));
            for slot in lost.into_iter().chain(heard) {
                for bucket in self.peer(slot).out_batch.iter().flat_map(BucketSet::iter) {
                    holdings.set(bucket, Holding::Granted(slot));
                }
            }
            self.holdings = holdings;
        }
        out.push(Output::PublishTable {
            holdings: self.holdings.clone(),
            lease_until_ns: self.lease_until(),
            owners: self.previous_owners(),
        });
    }

    /// Until when the data plane may accept new flows without hearing from here: D - h, which is
    /// before others can have taken over. Where only a majority serves, counted from what it has
    /// acknowledged.
    pub(super) fn lease_until(&self) -> u64 {
        let lease = self.detection_ns() - self.timing.heartbeat_ns;
        let own = self.now + lease;
        if self.votes() {
            own.min(self.majority_lease().map_or(0, |since| since + lease))
        } else {
            own
        }
    }

    /// When the last message was sent that `slot` is known to know of.
    fn acked_at(&self, slot: Slot) -> Option<u64> {
        self.sent_at(self.peer(slot).ack_known)
    }

    /// When the message `seq` was sent.
    pub(super) fn sent_at(&self, seq: u64) -> Option<u64> {
        self.sent.get(seq, self.seq)
    }

    /// Whether `slot` cannot have taken this node for dead, as far as `within` tells.
    pub(super) fn lease_holds(&self, slot: Slot, within: u64) -> bool {
        self.acked_at(slot).is_some_and(|at| self.now <= at + within)
    }

    /// Sends what was not said yet: candidacies and batches.
    pub(super) fn send_new(&mut self, out: &mut Vec<Output>) {
        if self.cohorts.iter().any(|cohort| cohort.seq.is_none()) {
            self.send_candidacy(out);
        }
        for slot in self.others() {
            let peer = self.peer(slot);
            if peer.out_batch.is_some() && !peer.out_sent {
                self.send_batch(slot, out);
            }
        }
    }

    /// Sends a heartbeat, and repeats what is not settled yet when it is the heartbeat's time.
    pub(super) fn send_beat(&mut self, out: &mut Vec<Output>) {
        let regular = self.now >= self.next_beat;
        let mut claims = self.owned.clone();
        claims.insert_all(&self.yielding);
        self.send(Destination::Multicast, Body::Heartbeat { claims }, out);
        self.beat_now = false;
        self.last_beat = self.now;
        self.next_beat = self.now + self.jitter.apply(self.timing.heartbeat_ns);
        if !regular {
            return;
        }
        if !self.cohorts.is_empty() {
            self.send_candidacy(out);
        }
        for slot in self.others() {
            if self.peer(slot).out_batch.is_some() {
                self.send_batch(slot, out);
            }
        }
        self.join_now |= self.others().any(|slot| {
            let peer = self.peer(slot);
            peer.pending.is_some() || peer.alive && peer.heard_seq > 0 && !peer.knows_me
        });
    }

    /// Sends a join if somebody has to prove itself or to be proven to.
    pub(super) fn send_join_if_due(&mut self, out: &mut Vec<Output>) {
        if !self.join_now
            || self.superseded.is_some()
            || self.now < self.last_join + self.join_gap()
        {
            return;
        }
        self.join_now = false;
        self.last_join = self.now;
        let mut heard = [0; SLOTS];
        for slot in self.others() {
            let peer = self.peer(slot);
            let accepted = peer.session.map(|session| proof(session, peer.heard_seq));
            let pending = peer.pending.map(|pending| proof(pending.session, pending.seq));
            heard[slot.index()] = pending.or(accepted).unwrap_or(0);
        }
        self.send(Destination::Multicast, Body::Join { heard }, out);
    }

    fn send_candidacy(&mut self, out: &mut Vec<Output>) {
        let mut buckets = BucketSet::EMPTY;
        for cohort in &self.cohorts {
            buckets.insert_all(&cohort.buckets);
        }
        let seq = self.send(Destination::Multicast, Body::Candidate { buckets }, out);
        for cohort in &mut self.cohorts {
            cohort.seq.get_or_insert(seq);
        }
    }

    fn send_batch(&mut self, to: Slot, out: &mut Vec<Output>) {
        let peer = self.peer_mut(to);
        peer.out_sent = true;
        if let Some(buckets) = peer.out_batch.clone() {
            self.send(Destination::Slot(to), Body::Transfer { to, buckets }, out);
        }
    }

    /// Sends `body`; the number of the message.
    fn send(&mut self, to: Destination, body: Body, out: &mut Vec<Output>) -> u64 {
        self.seq += 1;
        self.sent.set(self.seq, self.now);
        let polls = matches!(body, Body::Candidate { .. }) || self.asks_after_silent();
        if polls {
            self.last_poll = self.now;
        }
        let ms = |ns: u64| (ns / 1_000_000).min(u16::MAX.into()) as u16;
        let header = Header {
            cluster: self.config.cluster(),
            slot: self.me,
            flags: self.own_flags().with(NodeFlags::POLL, polls),
            share: self.share,
            heartbeat_ms: ms(self.timing.heartbeat_ns),
            detection_ms: ms(self.detection_ns()),
            session: self.session,
            seq: self.seq,
            sent_us: (self.now / 1000) as u32,
            config: self.config.id(),
            staged: self.staged.as_ref().map_or(0, |staged| staged.id().generation),
        };
        let mut entries = [Entry::default(); SLOTS];
        for slot in self.others() {
            entries[slot.index()] = self.entry(slot);
            if matches!(body, Body::Transfer { to, .. } if to != slot) {
                entries[slot.index()].transfer_out = 0;
            }
        }
        let message = Box::new(Message { header, entries, body, mac: self.own_mac });
        out.push(Output::Send { to, message });
        self.seq
    }

    /// What this node knows of `slot`.
    fn entry(&mut self, slot: Slot) -> Entry {
        let (now, hears, votes) = (self.now, self.hears(slot), self.votes());
        let peer = self.peer_mut(slot);
        let suppressed = peer.penalty.suppressed(&FAILBACK_DAMPING, now);
        Entry {
            tag: peer.session.map_or(0, session_tag),
            ack: peer.heard_seq as u16,
            known: peer.known_seq as u16,
            transfer_out: if peer.out_batch.is_some() { peer.out_number } else { 0 },
            transfer_accepted: peer.in_number,
            flags: EntryFlags::default()
                .with(EntryFlags::HEARS, hears)
                .with(EntryFlags::ALIVE, peer.alive)
                .with(EntryFlags::SUPPRESSED, suppressed)
                .with(EntryFlags::SUPPORTS, votes && peer.supported)
                .relaying(peer.flags),
            share: peer.share,
        }
    }

    /// Asks for the next tick.
    pub(super) fn promise(&mut self, ticks: bool, out: &mut Vec<Output>) {
        let detection = self.detection_ns();
        let beat = self.timing.heartbeat_ns;
        let mut deadline = self.next_beat;
        let mut by = |time: u64| deadline = deadline.min(time);
        if self.beat_now {
            by(self.last_beat + self.beat_gap());
        }
        if self.join_now && self.superseded.is_none() {
            by(self.last_join + self.join_gap());
        }
        for slot in self.others() {
            let peer = self.peer(slot);
            if peer.alive {
                by(peer.known_at + detection);
                by((peer.known_at + detection - 2 * beat).max(self.last_poll + beat / 2));
            }
        }
        // Where it takes votes, no time is long enough to go without.
        for cohort in self.cohorts.iter().filter(|_| !self.votes()) {
            by(cohort.since + 2 * beat);
        }
        let waits = [self.listen_until, self.hold_until, self.recovered_until];
        for time in waits.into_iter().flatten() {
            if time > self.now {
                by(time);
            }
        }
        // A tick settles all that is due, and what still waits then waits for others.
        let soonest = if ticks { self.now + beat / 64 } else { self.now };
        self.deadline = deadline.max(soonest);
        out.push(Output::NextDeadline(self.deadline));
    }
}
