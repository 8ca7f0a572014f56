//! The array of lines, and what workers do with it.

use std::fmt;
use std::net::IpAddr;

use crate::bucket::Bucket;
use crate::processor::Processor;

use super::entry::{Entry, FlowState, Seconds, Timeouts};
use super::key::{FlowKey, Keyer};
use super::line::{Line, Lines, WAYS};

/// How often a change is tried again that another worker has beaten, each time by a change of its
/// own to the same line. So many in a row do not happen; a bound is there so that nothing on the hot
/// path is without one.
const ATTEMPTS: usize = 16;

/// What [`FlowTable::insert`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The flow has taken a place that nothing needed.
    New,
    /// The flow was there already, in this state.
    Known(FlowState),
    /// The flow has taken the place of another one, which was in this state and would have been found
    /// until now.
    Evicted(FlowState),
    /// The flow is not in the table: its line is full of flows that must not be displaced for it.
    Full,
}

/// The flows that this node serves. Shared by all workers; see the [module](super) for its form.
pub struct FlowTable {
    /// The entries. A power of two of lines; never grows.
    pub(super) lines: Lines,
    /// Makes keys, under the table's secret.
    keyer: Keyer,
    /// When flows are forgotten.
    pub(super) timeouts: Timeouts,
}

impl FlowTable {
    /// The most flows that a table can be asked for: 2^34, in 128 GiB.
    pub const FLOWS_MAX: usize = 1 << 34;

    /// A table with room for at least `flows_max` flows, at 8 bytes each, rounded up to a power of
    /// two and to a whole line of 8.
    ///
    /// Flows are spread by hash, and a flow has one line: lines fill up before the table does. Of new
    /// flows, one in 900 meets a full line when the table is a quarter full, and one in 20 when it
    /// is half full (Poisson, mean 2 and 4). It then displaces a lesser flow, or is refused if
    /// all eight are established: ask for four times the connections that are expected.
    ///
    /// `secret` is drawn at random for each table, so that nobody can aim flows at one line.
    ///
    /// All memory is written here, once (128 MiB for 16 M flows): a worker never waits for the
    /// kernel to find a page.
    ///
    /// # Panics
    /// If `flows_max` is more than [`FLOWS_MAX`](Self::FLOWS_MAX).
    pub fn new(flows_max: usize, secret: [u64; 2]) -> Self {
        Self::with_timeouts(flows_max, secret, Timeouts::default())
    }

    /// The same as [`new`](Self::new), with other timeouts than the default.
    ///
    /// # Panics
    /// If `flows_max` is more than [`FLOWS_MAX`](Self::FLOWS_MAX), or a timeout is not below
    /// 32,768.
    pub fn with_timeouts(flows_max: usize, secret: [u64; 2], timeouts: Timeouts) -> Self {
        assert!(
            flows_max <= Self::FLOWS_MAX,
            "a flow table of more than {} flows",
            Self::FLOWS_MAX
        );
        for state in FlowState::ALL {
            assert!(
                timeouts.of(state) < 1 << 15,
                "a timeout of {state:?} flows beyond half a wrap"
            );
        }
        let lines = std::iter::repeat_with(Line::free).take(Self::lines_for(flows_max)).collect();
        Self { lines: Lines::Own(lines), keyer: Keyer::new(secret), timeouts }
    }

    /// How many lines a table of `flows_max` flows has.
    pub const fn lines_for(flows_max: usize) -> usize {
        flows_max.div_ceil(WAYS).next_power_of_two()
    }

    /// A table in `lines`, with the flows that are there: those that another table with the same secret
    /// and the same [form](super::form) has entered. Zeroed lines make an empty table.
    ///
    /// The other table may be that of a process that was killed at any moment, since each word
    /// stands for itself. Its clock must have been this one's: the monotonic clock of the same boot.
    ///
    /// Fragments, and the marks of packets that have come before, are not taken over: they last for
    /// moments, and a packet that its client repeats after the restart has not come before.
    ///
    /// # Panics
    /// If the number of lines is not one that [`lines_for`](Self::lines_for) gives.
    pub fn over(lines: &'static [Line], secret: [u64; 2]) -> Self {
        assert!(lines.len().is_power_of_two(), "a flow table of {} lines", lines.len());
        let timeouts = Timeouts::default();
        let is_fragment = |word: u64| {
            Entry::of_word(word).is_some_and(|entry| entry.state() == FlowState::Fragment)
        };
        for line in lines {
            for (at, word) in line.load().into_iter().enumerate().filter(|&(_, w)| is_fragment(w)) {
                line.replace(at, word, Entry::FREE);
            }
        }
        Self { lines: Lines::Lent(lines), keyer: Keyer::new(secret), timeouts }
    }

    /// Where the entries are: for who has to do with the memory, not with what is in it.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// How many flows the table has room for.
    pub fn capacity(&self) -> usize {
        self.lines.len() * WAYS
    }

    /// The key of a flow between a client and a VIP. `client_hash` is the cluster's hash of the
    /// client, of whatever [`HashInput`](crate::hash::HashInput); it is not computed again.
    #[inline(always)]
    pub fn key(
        &self,
        client_hash: u64,
        client_port: u16,
        vip: IpAddr,
        vip_port: u16,
        protocol: u8,
    ) -> FlowKey {
        self.keyer.flow(client_hash, client_port, vip, vip_port, protocol)
    }

    /// The key of the fragments of one datagram from a client to a VIP: of the addresses, protocol and
    /// identification (RFC 791, section 3.2; for IPv6, RFC 8200, section 4.5, without the protocol,
    /// which all of a datagram's fragments have in common).
    #[inline]
    pub fn fragment_key(&self, client_hash: u64, vip: IpAddr, protocol: u8, id: u32) -> FlowKey {
        self.keyer.fragments(client_hash, vip, protocol, id)
    }

    /// Begins to bring the flow's line near: for a burst's keys, as early as they are known.
    #[inline(always)]
    pub fn prefetch<C: Processor>(&self, key: FlowKey) {
        C::prefetch(self.line(key));
    }

    /// The state of a flow, `None` if it is not here. Changes nothing.
    #[inline]
    pub fn lookup(&self, key: FlowKey, now: Seconds) -> Option<FlowState> {
        let (_, entry) = self.find(&self.line(key).load(), key, now)?;
        Some(entry.state())
    }

    /// Takes note of a packet that by itself calls for the state `next`, and returns the flow's state
    /// before it; `None` if the flow is not here.
    ///
    /// This is the whole of the hit path: one pass over the line, and a write only if the second or
    /// the state has changed. The state only goes forward ([`FlowState`]). A SYN
    /// (`next` is `Embryonic`) on a `Closing` flow ends it, and `None` is returned: what becomes of the
    /// new connection is for the bucket's owner to say, and must not be mixed up with the old one.
    #[inline(always)]
    pub fn refresh(&self, key: FlowKey, now: Seconds, next: FlowState) -> Option<FlowState> {
        // Nearly always the entry says all that there is to say already, or there is none.
        let word = self.line(key).agreeing(key);
        if word == Entry::FREE {
            return None;
        }
        if Entry::word_says(word, now, next) { Some(next) } else { self.change(key, now, next) }
    }

    /// The same where something is to be written, or the first of several entries by this name is none.
    #[inline(never)]
    fn change(&self, key: FlowKey, now: Seconds, next: FlowState) -> Option<FlowState> {
        let line = self.line(key);
        for _ in 0..ATTEMPTS {
            let (at, entry) = self.find(&line.load(), key, now)?;
            let state = entry.state();
            match state.after(next) {
                Some(after) => {
                    let seen = entry.seen_again(now, after);
                    if seen == entry || line.replace(at, entry.word(), seen.word()) {
                        return Some(state);
                    }
                }
                None => {
                    if line.replace(at, entry.word(), Entry::FREE) {
                        return None;
                    }
                }
            }
        }
        // Others have taken note of the flow's packets each time; ours has nothing to add but its
        // state, and the next packet says it again.
        self.lookup(key, now)
    }

    /// Enters a flow.
    ///
    /// Takes, in this order: its own entry; a free one; one that is not found any more; the oldest
    /// among the `Fragment`, `Embryonic` and `Closing` entries; the oldest `Established` that is idle
    /// for more than its timeout. A `Fragment` displaces at most another `Fragment`.
    ///
    /// Two workers that enter one flow at once find the same place, and the second finds the flow
    /// there. Only if another entry of the line is displaced or ends in the same moment can the
    /// flow be entered twice; one of the two is then found, and the other times out.
    #[inline]
    pub fn insert(&self, key: FlowKey, bucket: Bucket, state: FlowState, now: Seconds) -> Inserted {
        let line = self.line(key);
        for _ in 0..ATTEMPTS {
            let words = line.load();
            let (at, new, inserted) = match self.find(&words, key, now) {
                Some((at, entry)) => {
                    let known = entry.state();
                    let after = known.after(state).unwrap_or(state);
                    (at, entry.seen_again(now, after), Inserted::Known(known))
                }
                None => {
                    let Some((at, inserted)) = self.place(&words, key, state, now) else {
                        return Inserted::Full;
                    };
                    (at, Entry::new(key, bucket, now, state), inserted)
                }
            };
            if words[at] == new.word() || line.replace(at, words[at], new.word()) {
                return inserted;
            }
        }
        Inserted::Full
    }

    #[inline]
    fn line(&self, key: FlowKey) -> &Line {
        &self.lines[key.line(self.lines.len())]
    }

    /// What is in the line of `key`.
    #[cfg(all(test, not(loom)))]
    pub(super) fn words(&self, key: FlowKey) -> [u64; WAYS] {
        self.line(key).load()
    }

    /// The flow's entry among `words`, and where it is.
    ///
    /// All fingerprints are compared before the first branch: which of the eight agrees is as good
    /// as random, and to guess it wrong costs more than to compare.
    #[inline]
    fn find(&self, words: &[u64; WAYS], key: FlowKey, now: Seconds) -> Option<(usize, Entry)> {
        let mut agreeing = 0_u32;
        for (at, &word) in words.iter().enumerate() {
            agreeing |= u32::from(Entry::word_is_of(word, key)) << at;
        }
        while agreeing != 0 {
            let at = agreeing.trailing_zeros() as usize;
            match Entry::of_word(words[at]) {
                Some(entry) if entry.is_found(now, &self.timeouts) => return Some((at, entry)),
                _ => {}
            }
            agreeing &= agreeing - 1;
        }
        None
    }

    /// Where among `words` a flow in `state` goes that is not there, and what that will have done.
    #[inline]
    fn place(
        &self,
        words: &[u64; WAYS],
        key: FlowKey,
        state: FlowState,
        now: Seconds,
    ) -> Option<(usize, Inserted)> {
        let first = key.first_way(WAYS);
        let (rank, at) = (0..WAYS)
            .map(|step| (first + step) % WAYS)
            .filter_map(|at| Some((self.rank(words[at], key, state, now)?, at)))
            .min_by_key(|&(rank, _)| rank)?;
        let inserted = match Entry::of_word(words[at]) {
            Some(evicted) if rank > Rank::FORGOTTEN => Inserted::Evicted(evicted.state()),
            _ => Inserted::New,
        };
        Some((at, inserted))
    }

    /// How readily `word` gives way to a flow in `state`; `None` if it does not.
    #[inline]
    fn rank(&self, word: u64, key: FlowKey, state: FlowState, now: Seconds) -> Option<Rank> {
        let Some(entry) = Entry::of_word(word) else {
            return Some(Rank::FREE);
        };
        if !entry.is_found(now, &self.timeouts) {
            let own = Entry::word_is_of(word, key);
            return Some(if own { Rank::OWN } else { Rank::FORGOTTEN });
        }
        let age = entry.age(now);
        match (entry.state(), state) {
            (FlowState::Fragment, _) => Some(Rank::live(age, 0)),
            (_, FlowState::Fragment) => None,
            (FlowState::Embryonic, _) => Some(Rank::live(age, 1)),
            (FlowState::Closing, _) => Some(Rank::live(age, 2)),
            (FlowState::Established, _) if entry.is_idle(now, &self.timeouts) => {
                Some(Rank::idle(age))
            }
            (FlowState::Established | FlowState::Datagram, _) => None,
        }
    }
}

/// How readily an entry gives way: the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u32);

impl Rank {
    /// An entry of the same flow that is not found any more.
    const OWN: Self = Self(0);
    /// No entry.
    const FREE: Self = Self(1);
    /// An entry that is not found any more.
    const FORGOTTEN: Self = Self(2);

    /// An entry in a state that gives way: the oldest first, and in the same second the lower `kind`,
    /// below 4.
    const fn live(age: u16, kind: u32) -> Self {
        Self(1 << 24 | ((u16::MAX - age) as u32) << 2 | kind)
    }

    /// An established flow that has been idle for longer than its timeout: the oldest first.
    const fn idle(age: u16) -> Self {
        Self(2 << 24 | (u16::MAX - age) as u32)
    }
}

impl fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the secret nor 16 million entries.
        f.debug_struct("FlowTable").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::Ordering;

    use crate::bucket::BucketSet;
    use crate::flow::BucketScan;

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
    const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    /// The key of the `n`th client, each with a hash as good as random.
    fn client(table: &FlowTable, n: u64) -> FlowKey {
        table.key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n as u16, VIP, 53, 6)
    }

    fn bucket(n: u64) -> Bucket {
        Bucket::of_hash(n)
    }

    fn at(s: u64) -> Seconds {
        Seconds::of_ns(s * 1_000_000_000)
    }

    #[test]
    fn a_scan_in_parts_finds_the_buckets_of_all_flows() {
        let table = FlowTable::new(1 << 12, SECRET);
        let expected: BucketSet = (0..300).map(|n| bucket(n * 13)).collect();
        for n in 0..300 {
            let state = FlowState::ALL[n as usize % FlowState::ALL.len()];
            assert_eq!(
                table.insert(client(&table, n), bucket(n * 13), state, at(9)),
                Inserted::New
            );
        }
        let mut scan = BucketScan::default();
        let parts = (1..).find(|_| !table.scan(&mut scan, 100, at(9))).unwrap();
        assert_eq!(parts, (1 << 12) / 8 / 100 + 1);
        assert_eq!(scan.found(), &expected);
        assert_eq!(scan.found(), &table.census(at(9)).buckets());
        // What is not found any more is no flow; established ones are found however old.
        let mut later = BucketScan::default();
        assert!(!table.scan(&mut later, usize::MAX, at(9_000)));
        assert_eq!(later.found(), &table.census(at(9_000)).buckets());
        assert!(!later.found().is_empty() && later.found().len() < expected.len());
    }

    #[test]
    fn room_is_rounded_up_to_lines_and_a_power_of_two() {
        for (asked, given) in [(0, 8), (1, 8), (8, 8), (9, 16), (17, 32), (4096, 4096)] {
            assert_eq!(FlowTable::new(asked, SECRET).capacity(), given);
        }
    }

    #[test]
    fn a_syn_flood_displaces_no_established_flow() {
        let table = FlowTable::new(4096, SECRET);
        let accepted: Vec<_> = (0..4096_u64)
            .map(|n| client(&table, n))
            .filter(|&key| {
                let inserted = table.insert(key, bucket(0), FlowState::Embryonic, at(0));
                let known = table.refresh(key, at(0), FlowState::Established);
                assert_eq!(known.is_some(), inserted != Inserted::Full);
                known.is_some()
            })
            .collect();
        assert!(accepted.len() > 3000, "{} flows to defend", accepted.len());

        let mut refused = 0;
        for n in 0..200_000_u64 {
            // An hour, no second more: then they may go.
            let now = at(n * 3600 / 200_000);
            let key = client(&table, 1 << 40 | n);
            match table.insert(key, bucket(0), FlowState::Embryonic, now) {
                Inserted::Full => refused += 1,
                Inserted::Evicted(state) => assert_eq!(state, FlowState::Embryonic),
                Inserted::New => assert_eq!(table.lookup(key, now), Some(FlowState::Embryonic)),
                Inserted::Known(_) => panic!("two clients with one key"),
            }
        }
        assert!(refused > 0, "the flood found room everywhere, so it tests nothing");
        for &key in &accepted {
            assert_eq!(table.lookup(key, at(3600)), Some(FlowState::Established));
        }
        assert_eq!(table.census(at(3600)).in_state(FlowState::Established), accepted.len());
        assert_eq!(table.census(at(3600)).idle, 0);
    }

    #[test]
    fn a_handshake_gets_through_a_flood_that_fills_every_line_many_times_a_second() {
        let table = FlowTable::new(4096, SECRET);
        let flood = |from: u64, now| {
            for n in from..from + 1024 {
                table.insert(client(&table, 1 << 40 | n), bucket(0), FlowState::Embryonic, now);
            }
        };
        let mut through = 0;
        for n in 0..100 {
            // Two forged SYNs a line from a client's SYN to its ACK, in a table that is full of them.
            flood(n * 2048, at(n / 10));
            let key = client(&table, n);
            table.insert(key, bucket(0), FlowState::Embryonic, at(n / 10));
            flood(n * 2048 + 1024, at(n / 10));
            through +=
                usize::from(table.refresh(key, at(n / 10), FlowState::Established).is_some());
        }
        // 2 displacements among 8 equally old entries leave 3 of 4.
        assert!(through >= 60, "{through} of 100");
    }

    #[test]
    fn strangers_are_not_taken_for_flows() {
        let table = FlowTable::new(1 << 14, SECRET);
        for n in 0..1 << 16 {
            table.insert(client(&table, n), bucket(n), FlowState::Established, at(0));
        }
        let hits = (1 << 20..1 << 21)
            .filter(|&n| table.lookup(client(&table, n), at(0)).is_some())
            .count();
        // 2^20 questions of 2^-30 each.
        assert_eq!(hits, 0);
    }

    #[test]
    fn a_quarter_full_table_refuses_as_few_as_its_documentation_says() {
        let table = FlowTable::new(1 << 18, SECRET);
        let refused = (0..1 << 16)
            .filter(|&n| {
                let key = client(&table, n);
                table.insert(key, bucket(n), FlowState::Established, at(0)) == Inserted::Full
            })
            .count();
        // At the end one in 900, averaged over filling up one in 6,000.
        assert!((1..40).contains(&refused), "{refused} of 65,536");
    }

    #[test]
    fn the_census_says_where_flows_are_and_which_are_idle() {
        let table = FlowTable::new(4096, SECRET);
        for n in 0..10 {
            table.insert(client(&table, n), bucket(7), FlowState::Established, at(0));
            table.insert(client(&table, 100 + n), bucket(8), FlowState::Datagram, at(0));
        }
        let census = table.census(at(100));
        assert_eq!((census.flows(), census.idle), (20, 0));
        assert_eq!((census.in_bucket(bucket(7)), census.in_bucket(bucket(8))), (10, 10));
        assert_eq!(census.buckets(), [bucket(7), bucket(8)].into_iter().collect());

        let census = table.census(at(4000));
        assert_eq!((census.flows(), census.idle), (10, 10));
        assert_eq!(census.in_state(FlowState::Datagram), 0);
        assert_eq!(census.buckets(), [bucket(7)].into_iter().collect());
    }

    /// Lines that outlive every table, as a mapping does.
    fn lent(flows_max: usize) -> &'static [Line] {
        let lines = FlowTable::lines_for(flows_max);
        Box::leak(std::iter::repeat_with(Line::free).take(lines).collect())
    }

    #[test]
    fn the_next_table_over_the_same_lines_has_the_flows_of_the_last() {
        let lines = lent(4096);
        let first = FlowTable::over(lines, SECRET);
        assert_eq!((first.capacity(), first.census(at(0)).flows()), (4096, 0));
        for n in 0..500 {
            first.insert(client(&first, n), bucket(n), FlowState::Embryonic, at(0));
            first.refresh(client(&first, n), at(1), FlowState::Established);
        }
        let census = first.census(at(2));
        for n in 500..600 {
            first.insert(client(&first, n), bucket(n), FlowState::Fragment, at(2));
        }
        drop(first);

        let second = FlowTable::over(lines, SECRET);
        assert_eq!(second.census(at(2)), census);
        for n in 0..500 {
            let known = second.refresh(client(&second, n), at(2), FlowState::Established);
            assert_eq!(known, Some(FlowState::Established));
        }
        let stranger = FlowTable::over(lines, [0; 2]);
        assert!((0..500).all(|n| stranger.lookup(client(&stranger, n), at(2)).is_none()));
    }

    #[test]
    fn whatever_is_in_the_lines_a_table_works_in_them() {
        let lines = lent(4096);
        let words = || lines.iter().flat_map(|line| &line.0);
        let noise = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ n;
        for (n, word) in (1..).zip(words()) {
            word.store(noise(n), Ordering::Relaxed);
        }
        let table = FlowTable::over(lines, SECRET);
        let of_no_state = words().filter(|word| {
            let word = word.load(Ordering::Relaxed);
            Entry::of_word(word).is_none()
        });
        let free = of_no_state.count();
        assert!(
            (1900..2200).contains(&free),
            "three states of eight are none, one is a fragment's: {free} of 4096"
        );
        assert!(table.census(at(0)).flows() <= 4096 - free);

        let entered: Vec<_> = (0..2000)
            .map(|n| client(&table, n))
            .filter(|&key| {
                table.insert(key, bucket(0), FlowState::Established, at(0)) != Inserted::Full
            })
            .collect();
        assert!(entered.len() > free / 2, "{} found a place among {free}", entered.len());
        for key in entered {
            assert_eq!(table.refresh(key, at(1), FlowState::Closing), Some(FlowState::Established));
        }
    }

    #[test]
    fn workers_share_a_table_and_lose_no_flow() {
        let table = FlowTable::new(1 << 16, SECRET);
        let flows = 4096_u64;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..flows {
                        let key = client(&table, n);
                        table.insert(key, bucket(n), FlowState::Embryonic, at(0));
                        assert!(table.refresh(key, at(1), FlowState::Established).is_some());
                    }
                });
            }
        });
        assert_eq!(table.census(at(1)).in_state(FlowState::Established), flows as usize);
        assert_eq!(table.census(at(1)).flows(), flows as usize);
    }
}
