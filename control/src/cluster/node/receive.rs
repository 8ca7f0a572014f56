//! What a message changes: sessions, acknowledgements, liveness, and what others say of
//! themselves.

use vipdp_core::bucket::BucketSet;
use vipdp_core::slot::Slot;

use super::peer::{Pending, widen};
use super::{Alarm, Duplicate, Node, Output};
use crate::cluster::auth::OpenError;
use crate::cluster::config::SlotSet;
use crate::cluster::wire::{Body, EntryFlags, Header, Message, NodeFlags, session_tag};

impl Node {
    /// Takes in `message`, unless it is from the past or from nobody we know.
    pub(super) fn receive(&mut self, message: &Message, out: &mut Vec<Output>) {
        let header = &message.header;
        let from = header.slot;
        if from == self.me {
            let why = self.hear_own_slot(header, out);
            return out.push(Output::Refused(from, why));
        }
        if !self.roster.contains(from) {
            return out.push(Output::Refused(from, OpenError::UnknownSlot));
        }
        if let Err(why) = self.check_session(message, out) {
            return out.push(Output::Refused(from, why));
        }
        self.hear_of_itself(message, out);
        self.hear_of_me(message, out);
        self.hear_of_others(message);
        self.hear_body(message, out);
        if header.flags.contains(NodeFlags::POLL) {
            self.beat_now = true;
            self.last_poll = self.now;
        }
    }

    /// A message from this node's own slot: multicast that came back, or another node.
    fn hear_own_slot(&mut self, header: &Header, out: &mut Vec<Output>) -> OpenError {
        if header.session == self.session {
            return OpenError::Own;
        }
        let Header { session, seq, .. } = *header;
        let fresh = Duplicate { session, seq, heard_at: self.now, reported: false };
        match &mut self.duplicate {
            // One message may be left over from before this node's start, a second one comes from
            // somebody who still sends.
            Some(known) if known.session == session && seq > known.seq => {
                if !known.reported {
                    out.push(Output::Alarm(Alarm::DuplicateSlot { session }));
                }
                *known = Duplicate { reported: true, ..fresh };
            }
            Some(known) if known.session == session => {}
            other => *other = Some(fresh),
        }
        OpenError::DuplicateSlot
    }

    /// Whether the message is a new one of a session that has proven to be a present one.
    fn check_session(&mut self, message: &Message, out: &mut Vec<Output>) -> Result<(), OpenError> {
        let Header { slot: from, session, seq, .. } = message.header;
        let peer = self.peer(from);
        if peer.session == Some(session) {
            return if seq > peer.heard_seq { Ok(()) } else { Err(OpenError::Replayed) };
        }
        if peer.is_retired(session) {
            return Err(OpenError::StaleSession);
        }
        let pending = self.hear_pending(message);
        let Body::Join { heard } = &message.body else { return Err(OpenError::UnprovenSession) };
        // It has heard what I said after I had first heard it, so it is there now.
        let heard_seq = heard[self.me.index()].wrapping_sub(self.session);
        if !(pending.challenge..=self.seq).contains(&heard_seq) {
            self.join_now = true;
            return Err(OpenError::UnprovenSession);
        }
        self.bury(from, out);
        self.peer_mut(from).begin(session);
        self.beat_now = true;
        Ok(())
    }

    /// Takes note of a session that has still to prove itself, and asks it to.
    fn hear_pending(&mut self, message: &Message) -> Pending {
        let Header { slot: from, session, seq, .. } = message.header;
        let (heard_at, challenge) = (self.now, self.seq + 1);
        let known = self.peer(from).pending.filter(|pending| pending.session == session);
        self.join_now |= known.is_none();
        let pending = match known {
            Some(known) => Pending { seq: seq.max(known.seq), heard_at, ..known },
            None => Pending { session, seq, heard_at, challenge },
        };
        self.peer_mut(from).pending = Some(pending);
        pending
    }

    /// What the sender says of itself.
    fn hear_of_itself(&mut self, message: &Message, out: &mut Vec<Output>) {
        let now = self.now;
        let mine = self.config.id();
        let header = &message.header;
        let mut members = self.roster;
        members.insert(self.me);
        let hears: SlotSet = members
            .iter()
            .filter(|slot| message.entries[slot.index()].flags.contains(EntryFlags::HEARS))
            .collect();
        let peer = self.peer_mut(header.slot);
        let was_heard = peer.alive && peer.heard_seq > 0;
        let is_heartbeat = matches!(message.body, Body::Heartbeat { .. });
        let missed = header.seq != peer.heard_seq + 1;
        peer.heard_seq = header.seq;
        peer.heard_at = now;
        peer.advance(header.seq, now);
        let relayed = header.flags.and(NodeFlags::RELAYED.with(NodeFlags::HEARD, true));
        let changed = !was_heard
            || (peer.flags, peer.share, peer.hears) != (relayed, header.share, hears)
            || (peer.config, peer.staged) != (header.config, header.staged);
        (peer.flags, peer.share, peer.hears) = (relayed, header.share, hears);
        (peer.config, peer.staged) = (header.config, header.staged);
        peer.heartbeat_ms = header.heartbeat_ms;
        peer.mac = message.mac.or(peer.mac);
        if matches!(message.body, Body::Candidate { .. }) {
            // It says for what.
        } else if header.flags.contains(NodeFlags::CANDIDATE) {
            // A message that was missed may have said that it is candidate for others.
            if missed || peer.candidacy.is_none() {
                (peer.candidacy, peer.candidacy_told) = (Some(BucketSet::FULL), None);
            } else if is_heartbeat && peer.candidacy_told.is_some() {
                peer.candidacy.clone_from(&peer.candidacy_told);
            }
        } else if is_heartbeat {
            (peer.candidacy, peer.candidacy_told) = (None, None);
        }
        let differs = header.config != mine && header.config.generation == mine.generation;
        if differs && !peer.mismatch_reported {
            out.push(Output::Alarm(Alarm::ConfigMismatch { slot: header.slot }));
        }
        peer.mismatch_reported = differs;
        self.unsettled |= changed;
    }

    /// What the sender says of this node.
    fn hear_of_me(&mut self, message: &Message, out: &mut Vec<Output>) {
        let from = message.header.slot;
        let entry = message.entries[self.me.index()];
        let (tag, seq, now) = (session_tag(self.session), self.seq, self.now);
        let peer = self.peer_mut(from);
        let knew_me = peer.knows_me;
        peer.knows_me = entry.tag == tag;
        if !peer.knows_me {
            // It asks, or will have to.
            self.join_now |= matches!(message.body, Body::Join { .. });
            let peer = self.peer_mut(from);
            // It has not met this start of mine, or has met a later one.
            let superseded = peer.knew_me && entry.tag != 0;
            peer.says_dead_since = None;
            peer.suppresses_me = false;
            peer.supports_me = false;
            self.unsettled |= knew_me;
            if superseded {
                self.give_way(out);
            }
            return;
        }
        peer.knew_me = true;
        let own = |low| widen(low, seq).filter(|&acked| acked <= seq);
        peer.ack_heard = peer.ack_heard.max(own(entry.ack).unwrap_or(0));
        peer.ack_known = peer.ack_known.max(own(entry.known).unwrap_or(0));
        peer.supports_me = entry.flags.contains(EntryFlags::SUPPORTS);
        if peer.supports_me {
            peer.ack_supported = peer.ack_supported.max(own(entry.known).unwrap_or(0));
        }
        if entry.flags.contains(EntryFlags::ALIVE) {
            peer.says_dead_since = None;
        } else {
            peer.says_dead_since.get_or_insert(now);
        }
        let suppresses = entry.flags.contains(EntryFlags::SUPPRESSED);
        let changed = peer.suppresses_me != suppresses;
        peer.suppresses_me = suppresses;
        let echoed = peer.out_batch.is_some() && entry.transfer_accepted == peer.out_number;
        self.unsettled |= changed || !knew_me;
        if echoed {
            self.close_batch(from, out);
        }
    }

    /// What the sender says of the others: whoever is alive for it at a later message than this
    /// node has heard is alive.
    fn hear_of_others(&mut self, message: &Message) {
        let (now, from) = (self.now, message.header.slot);
        let mut changed = false;
        self.peer_mut(from).sees = Slot::all()
            .zip(&message.entries)
            .filter(|(_, entry)| entry.flags.contains(EntryFlags::ALIVE))
            .filter(|(_, entry)| entry.flags.relayed().may_own())
            .map(|(slot, _)| slot)
            .collect();
        for slot in self.others().filter(|&slot| slot != from) {
            let entry = message.entries[slot.index()];
            let peer = self.peer_mut(slot);
            if !entry.flags.contains(EntryFlags::ALIVE) {
                continue;
            }
            if peer.session.is_none() || entry.tag != peer.tag() {
                if !peer.alive {
                    peer.told_at = Some(now);
                }
                continue;
            }
            let was_alive = peer.alive;
            let Some(seq) = widen(entry.known, peer.known_seq) else { continue };
            if !peer.advance(seq, now) {
                continue;
            }
            let heard = peer.flags.and(NodeFlags::HEARD);
            let flags = entry.flags.relayed().with(heard, true);
            changed |= !was_alive || (peer.flags, peer.share) != (flags, entry.share);
            (peer.flags, peer.share) = (flags, entry.share);
        }
        self.unsettled |= changed;
    }

    /// What the message is for.
    fn hear_body(&mut self, message: &Message, out: &mut Vec<Output>) {
        let from = message.header.slot;
        match &message.body {
            Body::Heartbeat { claims } => {
                let hands_over = message.entries.iter().any(|entry| entry.transfer_out != 0);
                self.hear_claims(from, claims, hands_over);
            }
            Body::Candidate { buckets } => {
                // One that is candidate for a bucket no more may be its owner instead, and only a
                // heartbeat tells.
                let peer = self.peer_mut(from);
                peer.candidacy.get_or_insert_default().insert_all(buckets);
                peer.candidacy_told = Some(buckets.clone());
                self.unsettled = true;
            }
            Body::Transfer { to, buckets } if *to == self.me => {
                let number = message.entries[self.me.index()].transfer_out;
                self.accept(from, number, buckets, out);
            }
            Body::Transfer { .. } | Body::Join { .. } => {}
        }
    }

    /// The buckets that `from` answers for, and whether it is handing any of them over.
    fn hear_claims(&mut self, from: Slot, claims: &BucketSet, hands_over: bool) {
        let peer = self.peer(from);
        let changed = !peer.claims_heard || peer.claims != *claims;
        let fresher = peer.claims_ack != peer.ack_heard || peer.hands_over != hands_over;
        let peer = self.peer_mut(from);
        let before = std::mem::replace(&mut peer.claims, claims.clone());
        peer.claims_heard = true;
        peer.claims_ack = peer.ack_heard;
        peer.hands_over = hands_over;
        if changed {
            let mut new = claims.clone();
            new.remove_all(&before);
            let mut gone = before;
            gone.remove_all(claims);
            self.remember(from, &new);
            self.remember_who_remains(&gone);
        }
        // In a settled cluster only acknowledgements change, and matter to nobody.
        let contested = fresher && self.contests(from);
        self.unsettled |= changed || contested;
    }
}
