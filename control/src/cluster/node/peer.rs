//! What a node knows of each other one: its session, what was heard of it, what it said.

use vipdp_core::bucket::BucketSet;
use vipdp_core::wire::ethernet::MacAddr;

use crate::cluster::config::{ConfigId, SlotSet};
use crate::cluster::wire::{NodeFlags, session_tag};
use crate::damping::{Damping, Penalty};

/// How many ended sessions of a node are remembered. Each takes a whole start of that node within
/// one of ours, so that a repetition from further back is worth nothing in practice.
const RETIRED_MAX: usize = 256;

/// What is known of one other node.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Its session, once it has proven to be a present one.
    pub(super) session: Option<u64>,
    /// Its sessions that have ended, oldest first.
    retired: Vec<u64>,
    /// A session that was heard and has not proven yet to be a present one.
    pub(super) pending: Option<Pending>,

    /// Highest sequence number heard directly.
    pub(super) heard_seq: u64,
    /// When that was.
    pub(super) heard_at: u64,
    /// Highest sequence number known, heard or relayed.
    pub(super) known_seq: u64,
    /// When that became known.
    pub(super) known_at: u64,
    /// Whether `known_seq` advanced within D.
    pub(super) alive: bool,
    /// When others last told that it is alive, in a session that has not proven itself here.
    pub(super) told_at: Option<u64>,

    /// Its state as of `known_seq`.
    pub(super) flags: NodeFlags,
    /// Its share as of `known_seq`.
    pub(super) share: u8,
    /// Whom it said it hears.
    pub(super) hears: SlotSet,
    /// The configuration that it runs.
    pub(super) config: ConfigId,
    /// The generation that it has staged; 0 for none.
    pub(super) staged: u32,
    /// Its own MAC address.
    pub(super) mac: Option<MacAddr>,
    /// The length of its heartbeat interval, in milliseconds.
    pub(super) heartbeat_ms: u16,

    /// Whether its last message named my session.
    pub(super) knows_me: bool,
    /// Whether any of its messages ever did.
    pub(super) knew_me: bool,
    /// Since when it says, of my session, that it is dead.
    pub(super) says_dead_since: Option<u64>,
    /// Whether it said that I went down too often.
    pub(super) suppresses_me: bool,
    /// The highest of my sequence numbers that it heard directly.
    pub(super) ack_heard: u64,
    /// The highest of my sequence numbers that it knows of.
    pub(super) ack_known: u64,

    /// Whether it votes for me, as of its last message.
    pub(super) supports_me: bool,
    /// The highest of my sequence numbers that it knew of when it said so.
    pub(super) ack_supported: u64,
    /// Those that may own something, as of its last message: alive, not listening and not fenced.
    pub(super) sees: SlotSet,
    /// Whether I vote for it.
    pub(super) supported: bool,
    /// Until when my last vote for it may be counted on, though I vote for it no more.
    pub(super) supported_until: u64,
    /// Since when I vote for it though it is not in the clique.
    pub(super) outside_since: Option<u64>,

    /// The buckets that it answers for: owned, or being handed over.
    pub(super) claims: BucketSet,
    /// Whether it was handing any of them over when it told.
    pub(super) hands_over: bool,
    /// Whether `claims` were heard in this session, and since I last began to listen.
    pub(super) claims_heard: bool,
    /// The highest of my sequence numbers that it had heard when it told `claims`.
    pub(super) claims_ack: u64,
    /// The buckets that it may be candidate for, or have claimed since its last heartbeat; all, if
    /// it is candidate and nobody knows yet for which.
    pub(super) candidacy: Option<BucketSet>,
    /// Those that it last said it is candidate for.
    pub(super) candidacy_told: Option<BucketSet>,

    /// The last batch that I handed to it.
    pub(super) out_number: u8,
    /// Whether it was sent.
    pub(super) out_sent: bool,
    /// Its buckets, while it has not echoed the batch.
    pub(super) out_batch: Option<BucketSet>,
    /// The last batch that I accepted from it; 0 for none.
    pub(super) in_number: u8,

    /// How often and how lately it went down while it had claims.
    pub(super) penalty: Penalty,
    /// Whether its differing configuration was reported.
    pub(super) mismatch_reported: bool,
}

/// A session that was heard and has not proven yet to be a present one: what was heard may be a
/// repetition, or long under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) session: u64,
    /// Its highest sequence number.
    pub(super) seq: u64,
    /// When it was last heard.
    pub(super) heard_at: u64,
    /// The first message that I could send after I had first heard it: whoever has heard that one
    /// or a later one is present.
    pub(super) challenge: u64,
}

impl Peer {
    /// Whether `session` has ended.
    pub(super) fn is_retired(&self, session: u64) -> bool {
        self.retired.contains(&session)
    }

    /// Begins `session`, and forgets what was said in the one before.
    pub(super) fn begin(&mut self, session: u64) {
        let mut retired = std::mem::take(&mut self.retired);
        if let Some(ended) = self.session {
            if retired.len() == RETIRED_MAX {
                retired.remove(0);
            }
            retired.push(ended);
        }
        *self = Self {
            session: Some(session),
            retired,
            mac: self.mac,
            penalty: self.penalty,
            ..Self::default()
        };
    }

    /// Tag of its session; 0 for none.
    pub(super) fn tag(&self) -> u16 {
        self.session.map_or(0, session_tag)
    }

    /// Takes note that the node was alive at `seq`. Whether that was new.
    pub(super) fn advance(&mut self, seq: u64, now: u64) -> bool {
        let advanced = seq > self.known_seq;
        if advanced {
            self.known_seq = seq;
            self.known_at = now;
            self.alive = true;
        }
        advanced
    }

    /// Forgets what the node knew of an earlier session of mine.
    pub(super) fn be_met_anew(&mut self) {
        self.pending = None;
        (self.knows_me, self.knew_me, self.says_dead_since) = (false, false, None);
        (self.ack_heard, self.ack_known, self.claims_ack) = (0, 0, 0);
        (self.supports_me, self.ack_supported) = (false, 0);
        (self.out_number, self.in_number) = (0, 0);
    }

    /// Forgets what a dead node cannot hold any more.
    pub(super) fn bury(&mut self) {
        self.alive = false;
        self.claims = BucketSet::EMPTY;
        self.claims_heard = false;
        (self.candidacy, self.candidacy_told) = (None, None);
        self.suppresses_me = false;
        // Its lease has run out, as far as it came by my vote.
        (self.supported, self.supported_until, self.outside_since) = (false, 0, None);
    }

    /// Whether it may own anything, as of the last that is known of it.
    pub(super) fn may_own(&self) -> bool {
        self.alive && self.flags.may_own()
    }
}

/// The sequence number nearest to `near` whose low 16 bits are `low`.
pub(super) fn widen(low: u16, near: u64) -> Option<u64> {
    let ahead = low.wrapping_sub(near as u16).cast_signed();
    near.checked_add_signed(ahead.into())
}

/// Failback damping: a node that dies three times in a minute is left out until it has been up for
/// minutes.
pub(super) const FAILBACK_DAMPING: Damping = Damping::DEFAULT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_widens_to_the_nearest() {
        assert_eq!(widen(5, 3), Some(5));
        assert_eq!(widen(0xffff, 0x1_0001), Some(0xffff));
        assert_eq!(widen(0x0001, 0xfffe), Some(0x1_0001));
        assert_eq!(widen(0xffff, 3), None);
    }

    #[test]
    fn an_ended_session_is_remembered() {
        let mut peer = Peer::default();
        for session in 1..=3 {
            peer.begin(session);
        }
        assert!(peer.is_retired(1) && peer.is_retired(2) && !peer.is_retired(3));
    }
}
