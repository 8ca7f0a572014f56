//! One word of the table, and the life of a flow.

use crate::bucket::{BUCKETS_LOG2, Bucket};

use super::key::FlowKey;

/// Where the state is in the word; 0 is free.
const STATE_BITS: u32 = 3;
/// The state's bits.
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
/// Where last-seen is in the word.
const SEEN_SHIFT: u32 = STATE_BITS;
/// Where the bucket is in the word.
const BUCKET_SHIFT: u32 = SEEN_SHIFT + u16::BITS;
/// Where the fingerprint is in the word, and in a [`FlowKey`]: from here to the top.
pub(super) const FINGERPRINT_SHIFT: u32 = BUCKET_SHIFT + BUCKETS_LOG2 as u32;

const _: () = assert!(FINGERPRINT_SHIFT == 31, "flow/mod.rs states what 33 bits are good for");

/// A moment in seconds of the monotonic clock, modulo 2^16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(u16);

/// How far a worker's idea of now may lie behind an entry's last-seen, in seconds. Workers take the
/// time once per burst, so one of them can come with the second before; one that is behind by more
/// than this has stood still for a minute, and may take fresh entries for old ones.
const SKEW_S: u16 = 60;

impl Seconds {
    /// The moment `now_ns` nanoseconds into the monotonic clock.
    #[inline]
    pub const fn of_ns(now_ns: u64) -> Self {
        Self((now_ns / 1_000_000_000) as u16)
    }

    /// The seconds from `earlier` to this moment; 0 if it is not earlier, as far as [`SKEW_S`] goes.
    #[inline]
    const fn since(self, earlier: Self) -> u16 {
        let age = self.0.wrapping_sub(earlier.0);
        if age > u16::MAX - SKEW_S { 0 } else { age }
    }
}

/// Where a flow is in its life, as far as the client's packets show it: replies leave past us.
///
/// ```text
///                SYN                    no SYN                FIN, RST
///   (no entry) ------> Embryonic --------------> Established ----------> Closing
///        ^                  |                                             ^  |
///        |                  +---------------------------------------------+  |
///        +-------------------------------------------------------------------+
///                            SYN: the port is used again
/// ```
///
/// A SYN on an established flow changes nothing, or one could be demoted by forging it. What is in
/// `Closing` stays there whatever comes except a SYN: the client still sends acknowledgements, for
/// as long as the server sends.
///
/// The table cannot see the handshake succeed. Whoever forges a SYN and then an ACK makes an
/// established flow; what bounds the harm is that the table then refuses new flows and keeps the
/// old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowState {
    /// One packet of the client's, or several SYNs. The first to be displaced, oldest first; not
    /// found any more after [`Timeouts::embryonic_s`]. A sticky UDP flow may start here, too: its
    /// second packet makes it a [`Datagram`](Self::Datagram) flow, and a flood of forged
    /// sources is then worth no more than a flood of SYNs.
    Embryonic = 1,
    /// Packets came after the first one. Found however old it is; displaced only when idle for
    /// [`Timeouts::established_s`], and only if nothing lesser is in the line.
    Established = 2,
    /// The client has sent FIN or RST. Displaced like `Embryonic`; not found any more after
    /// [`Timeouts::closing_s`].
    Closing = 3,
    /// A flow of a protocol without connections. Not displaced, and not found any more after
    /// [`Timeouts::datagram_s`].
    Datagram = 4,
    /// Not a flow, but the identification of a fragmented datagram whose first fragment was
    /// accepted. Displaced like `Embryonic`, but never displaces any other kind; not found any
    /// more after [`Timeouts::fragment_s`].
    Fragment = 5,
}

impl FlowState {
    /// Every state, in the order of `state as usize - 1`.
    pub const ALL: [Self; 5] =
        [Self::Embryonic, Self::Established, Self::Closing, Self::Datagram, Self::Fragment];

    /// The least and the greatest number of a state.
    const FIRST: u64 = Self::Embryonic as u64;
    const LAST: u64 = Self::Fragment as u64;

    /// The state's name in `vipdp status` and in the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Embryonic => "embryonic",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Datagram => "datagram",
            Self::Fragment => "fragment",
        }
    }

    /// The state after a packet that by itself calls for `next`; `None` if the packet is not of this
    /// flow, but the first of another one by the same name.
    #[inline]
    pub(super) const fn after(self, next: Self) -> Option<Self> {
        use FlowState::{Closing, Datagram, Embryonic, Established, Fragment};
        match (self, next) {
            (Embryonic, Established | Closing | Datagram) => Some(next),
            (Established, Closing) => Some(Closing),
            (Closing, Embryonic) => None,
            // The rest repeats what is known. A datagram's packets call for no state but its own,
            // nor do fragments: a key holds the protocol, so TCP never meets them.
            (Embryonic | Established | Closing | Datagram | Fragment, _) => Some(self),
        }
    }
}

/// How long flows of each state last without a packet, in seconds, each below 32,768: half of what
/// [`Seconds`] can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From a SYN to the client's next packet. 64: Linux gives up the sixth retransmission of its
    /// SYN-ACK after 63 s (`tcp_synack_retries` 5).
    pub embryonic_s: u16,
    /// Idle time after which an established flow may be displaced. 3600: as long as a former owner
    /// lingers (PROTOCOL.md, section 3). RFC 5382, section 5, asks 2 h 4 min of a NAT, which forgets
    /// then; here a flow is found until something needs its place.
    pub established_s: u16,
    /// From the last packet after FIN or RST. 120: twice the maximum segment lifetime that Linux uses,
    /// and the time that conntrack gives FIN_WAIT and TIME_WAIT.
    pub closing_s: u16,
    /// Between datagrams. 120: RFC 4787, section 4.3, forbids less.
    pub datagram_s: u16,
    /// From the first fragment to the last. 30: the host's own patience (`ipfrag_time`).
    pub fragment_s: u16,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            embryonic_s: 64,
            established_s: 3600,
            closing_s: 120,
            datagram_s: 120,
            fragment_s: 30,
        }
    }
}

impl Timeouts {
    /// The timeout of `state`.
    #[inline]
    pub(super) const fn of(&self, state: FlowState) -> u16 {
        match state {
            FlowState::Embryonic => self.embryonic_s,
            FlowState::Established => self.established_s,
            FlowState::Closing => self.closing_s,
            FlowState::Datagram => self.datagram_s,
            FlowState::Fragment => self.fragment_s,
        }
    }
}

/// A word of the table with a flow in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// The word of a free entry.
    pub(super) const FREE: u64 = 0;

    #[inline]
    pub(super) const fn new(key: FlowKey, bucket: Bucket, seen: Seconds, state: FlowState) -> Self {
        Self(
            key.fingerprint()
                | (bucket.get() as u64) << BUCKET_SHIFT
                | (seen.0 as u64) << SEEN_SHIFT
                | state as u64,
        )
    }

    /// The entry in `word`, `None` if that is free, or nothing that [`new`](Self::new) makes.
    #[inline]
    pub(super) const fn of_word(word: u64) -> Option<Self> {
        let state = word & STATE_MASK;
        if state >= FlowState::FIRST && state <= FlowState::LAST { Some(Self(word)) } else { None }
    }

    #[inline]
    pub(super) const fn word(self) -> u64 {
        self.0
    }

    /// Whether `word` is an entry with the key's fingerprint. A free word never is.
    #[inline]
    pub(super) const fn word_is_of(word: u64, key: FlowKey) -> bool {
        word ^ key.fingerprint() < 1 << FINGERPRINT_SHIFT
    }

    #[inline]
    pub(super) const fn state(self) -> FlowState {
        match self.0 & STATE_MASK {
            1 => FlowState::Embryonic,
            2 => FlowState::Established,
            3 => FlowState::Closing,
            4 => FlowState::Datagram,
            5 => FlowState::Fragment,
            _ => panic!("an entry was made of a word that is none"),
        }
    }

    #[inline]
    pub(super) const fn bucket(self) -> Bucket {
        Bucket::of_hash(self.0 >> BUCKET_SHIFT)
    }

    #[inline]
    const fn seen(self) -> Seconds {
        Seconds((self.0 >> SEEN_SHIFT) as u16)
    }

    /// The seconds since the flow's last packet.
    #[inline]
    pub(super) const fn age(self, now: Seconds) -> u16 {
        now.since(self.seen())
    }

    /// Whether the flow has been silent for longer than its state allows.
    #[inline]
    pub(super) const fn is_idle(self, now: Seconds, timeouts: &Timeouts) -> bool {
        self.age(now) > timeouts.of(self.state())
    }

    /// Whether a lookup finds the flow.
    #[inline]
    pub(super) const fn is_found(self, now: Seconds, timeouts: &Timeouts) -> bool {
        matches!(self.state(), FlowState::Established) || !self.is_idle(now, timeouts)
    }

    /// Whether `word` is an entry in `state` whose last packet came in the second `now`. Such a flow is
    /// found, and a packet that calls for the same state changes nothing.
    #[inline(always)]
    pub(super) const fn word_says(word: u64, now: Seconds, state: FlowState) -> bool {
        let said = (now.0 as u64) << SEEN_SHIFT | state as u64;
        word & ((1 << BUCKET_SHIFT) - 1) == said
    }

    /// The entry after a packet at `now` that leaves it in `state`. Last-seen never goes back: a
    /// worker that is late by a second does not undo what another one wrote.
    #[inline]
    pub(super) const fn seen_again(self, now: Seconds, state: FlowState) -> Self {
        let seen = if self.age(now) == 0 { self.seen() } else { now };
        let keep = u64::MAX << BUCKET_SHIFT;
        Self(self.0 & keep | (seen.0 as u64) << SEEN_SHIFT | state as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_into_a_word_comes_out() {
        for bucket in [0, 1, 4095].map(|n| Bucket::new(n).unwrap()) {
            for (state, seen) in FlowState::ALL.into_iter().zip([0, 1, 60, 40_000, u16::MAX]) {
                for hash in [0, 1 << 31, u64::MAX] {
                    let key = FlowKey::of_hash(hash);
                    let entry = Entry::new(key, bucket, Seconds(seen), state);
                    assert!(Entry::word_is_of(entry.word(), key));
                    assert!(!Entry::word_is_of(Entry::FREE, key));
                    assert!(!Entry::word_is_of(entry.word() ^ 1 << 63, key));
                    assert_eq!(Entry::of_word(entry.word()), Some(entry));
                    assert_eq!(entry.bucket(), bucket);
                    assert_eq!((entry.state(), entry.seen()), (state, Seconds(seen)));
                    assert_eq!(entry.age(Seconds(seen.wrapping_add(9))), 9);

                    for other in FlowState::ALL {
                        let says = |seen| Entry::word_says(entry.word(), Seconds(seen), other);
                        assert_eq!(says(seen), other == state);
                        assert!(!says(seen.wrapping_add(1)) && !says(seen ^ 1 << 15));
                    }

                    let later = Seconds(seen.wrapping_add(1));
                    let again = entry.seen_again(later, FlowState::Closing);
                    assert_eq!(again, Entry::new(key, bucket, later, FlowState::Closing));
                    assert_eq!(again.seen_again(Seconds(seen), FlowState::Closing), again);
                }
            }
        }
    }

    #[test]
    fn a_word_that_no_insert_writes_is_no_entry() {
        let above = !STATE_MASK;
        for bits in [0, above, 1 << 31, 0x5555_5555_5555_5550] {
            for state in 0..=STATE_MASK {
                let entry = Entry::of_word(bits & above | state);
                let known = FlowState::ALL.into_iter().find(|known| *known as u64 == state);
                assert_eq!(entry.map(Entry::state), known, "{bits:x} {state}");
            }
        }
    }

    #[test]
    fn every_transition_is_as_drawn() {
        use FlowState::{Closing, Datagram, Embryonic, Established, Fragment};
        #[rustfmt::skip]
        let table = [
            //             SYN               else           FIN, RST       datagram        fragment
            (Embryonic,   [Some(Embryonic),   Some(Established), Some(Closing), Some(Datagram),    Some(Embryonic)]),
            (Established, [Some(Established), Some(Established), Some(Closing), Some(Established), Some(Established)]),
            (Closing,     [None,              Some(Closing),     Some(Closing), Some(Closing),     Some(Closing)]),
            (Datagram,    [Some(Datagram),    Some(Datagram),    Some(Datagram), Some(Datagram),   Some(Datagram)]),
            (Fragment,    [Some(Fragment),    Some(Fragment),    Some(Fragment), Some(Fragment),   Some(Fragment)]),
        ];
        let calls = [Embryonic, Established, Closing, Datagram, Fragment];
        // What `FlowTable::refresh` takes for granted.
        assert!(calls.into_iter().all(|state| state.after(state) == Some(state)));
        for (state, after) in table {
            for (next, after) in calls.into_iter().zip(after) {
                assert_eq!(state.after(next), after, "{next:?} in {state:?}");
            }
        }
    }

    #[test]
    fn seconds_wrap_and_forgive_a_late_worker() {
        let at = |s: u64| Seconds::of_ns(s * 1_000_000_000 + 999_999_999);
        assert_eq!(at(65_536 + 5), Seconds(5));
        assert_eq!(at(65_540).since(at(65_530)), 10);
        assert_eq!(at(65_530).since(at(65_540)), 0);
        assert_eq!(at(100).since(at(160)), 0);
        assert_eq!(at(100).since(at(161)), 65_475);
    }
}
