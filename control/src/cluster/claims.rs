//! When this node tells the segment which next-hop addresses it has.
//!
//! Nobody asks for a claim, and nobody confirms one. So each is repeated soon, and for as long as it
//! holds, more often than a switch forgets where an address is:
//!
//! ```text
//!   acquired --0--> claim --2h--> claim --1 s--> claim --3 s--> claim --60 s--> claim --60 s--> ...
//!                     ^
//!                     '-- all again when the segment heals; one again when somebody else claims it
//! ```
//!
//! All frames share one token bucket: switches learn and routers update by their CPUs, and a node
//! that starts may have hundreds of addresses. What matters most goes first: first claims before
//! repetitions, new ones before old ones, and before all the questions whether a stranger has an
//! address.
//!
//! Times are monotonic nanoseconds. Nothing here sends: [`Claims::next`] says what to send now.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::limit::Limiter;

const SECOND: u64 = 1_000_000_000;
/// The second repetition: by then an interface that has just come up forwards, and a router's rate
/// limit on unsolicited changes of its tables is over (Linux: `locktime`, 1 s).
const SECOND_REPEAT_NS: u64 = SECOND;
/// The third repetition: who takes an address announces it twice, 2 s apart (RFC 5227, section 1.1:
/// ANNOUNCE_INTERVAL). A stranger's second announcement is not the last word then.
const THIRD_REPEAT_NS: u64 = 3 * SECOND;
/// How often a claim is refreshed: switches forget an address after 300 s as a rule (IEEE 802.1Q,
/// table 8-6).
const REFRESH_NS: u64 = 60 * SECOND;
/// How often an address is defended against strangers (RFC 5227, section 1.1: DEFEND_INTERVAL).
const DEFEND_INTERVAL_NS: u64 = 10 * SECOND;
/// Frames that go at once before the rate counts.
pub const BURST: u32 = 64;

/// How many frames it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameCounts {
    /// To claim an address.
    pub claim: usize,
    /// To ask whether somebody has it.
    pub probe: usize,
}

/// A frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The claim's frame with this index.
    Claim(Bucket, usize),
    /// The question's frame with this index.
    Probe(Bucket, usize),
}

/// Who has claimed an address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// A member: it has not heard yet that the address is ours.
    Member,
    /// A stranger, who may do it for ever.
    Stranger,
}

/// What to send when.
#[derive(Debug)]
pub struct Claims {
    frames: FrameCounts,
    /// The first repetition: two heartbeat intervals after the claim.
    first_repeat_ns: u64,
    limiter: Limiter,
    held: BTreeMap<Bucket, Claim>,
    /// No claim is due before. May be too early, never too late.
    due_ns: u64,
    probes: VecDeque<Bucket>,
    /// How many frames of the first of `probes` were sent.
    probed: usize,
}

/// An address that is ours.
#[derive(Clone, Copy, Debug)]
struct Claim {
    /// When it was acquired.
    since_ns: u64,
    /// When it was first claimed, of those claims that belong together.
    base_ns: u64,
    /// How often it was claimed since then.
    times: u32,
    due_ns: u64,
    /// How many frames of the claim that is due were sent.
    sent: usize,
    /// When a stranger was last answered.
    defended_ns: Option<u64>,
    /// When the next answer is due: a stranger has claimed the address since.
    answer_ns: Option<u64>,
}

impl Claim {
    const fn new(now_ns: u64) -> Self {
        Self {
            since_ns: now_ns,
            base_ns: now_ns,
            times: 0,
            due_ns: now_ns,
            sent: 0,
            defended_ns: None,
            answer_ns: None,
        }
    }

    /// From now on as if it had just been acquired.
    const fn restart(&mut self, now_ns: u64) {
        self.base_ns = now_ns;
        self.times = 0;
        self.due_ns = now_ns;
        self.sent = 0;
    }

    /// A stranger has claimed it, too. Answers at once, or as soon as it may.
    fn defend(&mut self, now_ns: u64) {
        match self.defended_ns {
            Some(at) if now_ns < at + DEFEND_INTERVAL_NS => {
                self.answer_ns = Some(at + DEFEND_INTERVAL_NS);
            }
            _ => {
                self.defended_ns = Some(now_ns);
                self.answer_ns = None;
                self.restart(now_ns);
            }
        }
    }

    fn is_due(&self, now_ns: u64) -> bool {
        self.next_ns() <= now_ns
    }

    /// When the next claim is due.
    fn next_ns(&self) -> u64 {
        self.answer_ns.map_or(self.due_ns, |at| self.due_ns.min(at))
    }

    /// What makes a claim more urgent than others: the less the earlier.
    const fn rank(&self) -> (u32, Reverse<u64>) {
        (self.times, Reverse(self.since_ns))
    }
}

impl Claims {
    /// Nothing held, with heartbeats every `heartbeat_ns`, and at most `rate_per_s` frames a second.
    pub const fn new(frames: FrameCounts, heartbeat_ns: u64, rate_per_s: u32) -> Self {
        Self {
            frames,
            first_repeat_ns: 2 * heartbeat_ns,
            limiter: Limiter::new(rate_per_s, BURST),
            held: BTreeMap::new(),
            due_ns: u64::MAX,
            probes: VecDeque::new(),
            probed: 0,
        }
    }

    /// Exactly the addresses of `owned` are ours now: new ones are claimed, others no more.
    pub fn hold(&mut self, now_ns: u64, owned: &BucketSet) {
        self.held.retain(|&number, _| owned.contains(number));
        if self.held.len() == owned.len() {
            return;
        }
        for number in owned.iter() {
            self.held.entry(number).or_insert_with(|| Claim::new(now_ns));
        }
        self.due_ns = self.due_ns.min(now_ns);
    }

    /// Asks whether anybody has these addresses, as long as they are not ours.
    pub fn ask(&mut self, numbers: impl IntoIterator<Item = Bucket>) {
        self.probes.extend(numbers);
    }

    /// The segment may have forgotten everything: claims all again.
    pub fn claim_all_again(&mut self, now_ns: u64) {
        for claim in self.held.values_mut() {
            claim.restart(now_ns);
        }
        self.due_ns = self.due_ns.min(now_ns);
    }

    /// Somebody else has claimed an address. Claims it again if it is ours: a stranger's only so
    /// often, or the two would flood the segment; a member's unless it was claimed just now and will
    /// be repeated anyway. Whether it is claimed again at once.
    pub fn contest(&mut self, now_ns: u64, number: Bucket, rival: Rival) -> bool {
        let Some(claim) = self.held.get_mut(&number) else { return false };
        match rival {
            Rival::Stranger => {
                claim.defend(now_ns);
                self.due_ns = self.due_ns.min(claim.next_ns());
                return claim.is_due(now_ns);
            }
            Rival::Member => {
                if claim.times <= 1 && now_ns < claim.base_ns + self.first_repeat_ns {
                    return false;
                }
            }
        }
        claim.restart(now_ns);
        self.due_ns = self.due_ns.min(now_ns);
        true
    }

    /// The frame to send now, which is then taken to be sent; `None` if none is due, or allowed.
    pub fn next(&mut self, now_ns: u64) -> Option<Frame> {
        if now_ns < self.limiter.ready_ns() {
            return None;
        }
        let frame = self.next_claim(now_ns).or_else(|| self.next_probe())?;
        let is_admitted = self.limiter.admit(now_ns);
        debug_assert!(is_admitted, "it was ready");
        Some(frame)
    }

    /// When to ask for the next frame; `u64::MAX` for never.
    pub fn deadline_ns(&self) -> u64 {
        let due_ns = if self.probes.is_empty() { self.due_ns } else { 0 };
        due_ns.max(self.limiter.ready_ns())
    }

    fn next_claim(&mut self, now_ns: u64) -> Option<Frame> {
        if now_ns < self.due_ns {
            return None;
        }
        let due = self.held.iter_mut().filter(|(_, claim)| claim.is_due(now_ns));
        let Some((&number, claim)) = due.min_by_key(|(_, claim)| claim.rank()) else {
            let due = self.held.values().map(Claim::next_ns);
            self.due_ns = due.min().unwrap_or(u64::MAX);
            return None;
        };
        if claim.answer_ns.is_some_and(|at| at <= now_ns) {
            claim.defend(now_ns);
        }
        let index = claim.sent;
        claim.sent += 1;
        if claim.sent == self.frames.claim {
            claim.sent = 0;
            claim.times += 1;
            claim.due_ns = match claim.times {
                1 => claim.base_ns + self.first_repeat_ns,
                2 => claim.base_ns + SECOND_REPEAT_NS,
                3 => claim.base_ns + THIRD_REPEAT_NS,
                _ => now_ns + REFRESH_NS,
            };
        }
        Some(Frame::Claim(number, index))
    }

    fn next_probe(&mut self) -> Option<Frame> {
        loop {
            let &number = self.probes.front()?;
            if self.held.contains_key(&number) || self.probed == self.frames.probe {
                self.probes.pop_front();
                self.probed = 0;
                continue;
            }
            let index = self.probed;
            self.probed += 1;
            return Some(Frame::Probe(number, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const H: u64 = 50 * MS;
    const FRAMES: FrameCounts = FrameCounts { claim: 3, probe: 2 };

    fn number(number: u16) -> Bucket {
        Bucket::new(number).unwrap()
    }

    fn set(numbers: impl IntoIterator<Item = u16>) -> BucketSet {
        numbers.into_iter().map(number).collect()
    }

    fn claims(rate: u32) -> Claims {
        Claims::new(FRAMES, H, rate)
    }

    /// Lets time pass to `end`: each frame with the time at which it goes.
    fn pass(claims: &mut Claims, start: u64, end: u64) -> Vec<(u64, Frame)> {
        let (mut now, mut sent) = (start, Vec::new());
        loop {
            while let Some(frame) = claims.next(now) {
                sent.push((now, frame));
            }
            let deadline = claims.deadline_ns();
            assert!(deadline > now, "it would spin: {deadline} at {now}");
            if deadline > end {
                return sent;
            }
            now = deadline;
        }
    }

    /// When the first frames of claims of an address go.
    fn times(sent: &[(u64, Frame)], of: u16) -> Vec<u64> {
        let first = |&&(_, frame): &&(u64, Frame)| frame == Frame::Claim(number(of), 0);
        sent.iter().filter(first).map(|&(at, _)| at).collect()
    }

    #[test]
    fn a_claim_is_repeated_soon_and_then_now_and_then() {
        let mut claims = claims(1000);
        claims.hold(H, &set([7]));
        let sent = pass(&mut claims, H, 200 * SECOND);
        let expected = [0, 2 * H, SECOND, 3 * SECOND, 63 * SECOND, 123 * SECOND, 183 * SECOND];
        assert_eq!(times(&sent, 7), expected.map(|after| H + after));
        assert_eq!(sent.len(), 3 * expected.len(), "all frames of each");
        assert!(sent.windows(2).all(|two| two[0].0 <= two[1].0));
    }

    #[test]
    fn what_is_ours_no_more_is_not_claimed_even_halfway() {
        let mut claims = claims(10);
        claims.hold(0, &set(0..100));
        assert_eq!(claims.next(0), Some(Frame::Claim(number(0), 0)));
        claims.hold(1, &set([99]));
        let sent = pass(&mut claims, 1, 10 * SECOND);
        assert!(
            sent.iter().all(|&(_, frame)| matches!(frame, Frame::Claim(of, _) if of == number(99)))
        );
        claims.hold(10 * SECOND, &BucketSet::EMPTY);
        assert_eq!(claims.next(1000 * SECOND), None);
        assert_eq!(claims.deadline_ns(), u64::MAX);
    }

    #[test]
    fn the_rate_holds_and_first_claims_go_first_new_ones_before_old_ones() {
        let mut claims = claims(200);
        claims.hold(0, &set(0..100));
        let first = pass(&mut claims, 0, SECOND);
        let burst = BURST as usize;
        assert_eq!(first.iter().filter(|&&(at, _)| at == 0).count(), burst);
        let rate = first.len() - burst;
        assert!((199..=200).contains(&rate), "{rate} a second");
        // 300 frames of first claims take longer than a second, so nothing was repeated.
        assert!((0..100).all(|of| times(&first, of).len() <= 1));

        claims.hold(SECOND, &set(0..110));
        let next = pass(&mut claims, SECOND + 1, SECOND + 100 * MS);
        let is_new =
            |&(_, frame): &(u64, Frame)| matches!(frame, Frame::Claim(of, _) if of.get() >= 100);
        assert!(!next.is_empty() && next.iter().all(is_new), "{next:?}");
        let rest = pass(&mut claims, SECOND + 100 * MS, 20 * SECOND);
        let all = [first, next, rest].concat();
        assert!((0..110).all(|of| times(&all, of).len() == 4));
    }

    #[test]
    fn a_segment_that_heals_hears_all_again() {
        let mut claims = claims(1000);
        claims.hold(0, &set([1, 2]));
        pass(&mut claims, 0, 30 * SECOND);
        claims.claim_all_again(30 * SECOND);
        let sent = pass(&mut claims, 30 * SECOND, 40 * SECOND);
        let again = [30 * SECOND, 30 * SECOND + 2 * H, 31 * SECOND, 33 * SECOND];
        assert_eq!([times(&sent, 1), times(&sent, 2)], [again, again]);
    }

    #[test]
    fn strangers_are_answered_now_and_then_and_members_at_once() {
        let mut claims = claims(1000);
        claims.hold(0, &set([1]));
        pass(&mut claims, 0, 30 * SECOND);
        let contest = |claims: &mut Claims, at: u64, end: u64, rival| {
            let is_claimed = claims.contest(at * SECOND, number(1), rival);
            assert!(!claims.contest(at * SECOND, number(2), rival), "it is not ours");
            let sent = times(&pass(claims, at * SECOND, end * SECOND), 1);
            assert_eq!(is_claimed, sent.first() == Some(&(at * SECOND)));
            sent.into_iter().map(|at| at / MS).collect::<Vec<_>>()
        };
        let first = contest(&mut claims, 30, 35, Rival::Stranger);
        assert_eq!(first, [30_000, 30_100, 31_000, 33_000]);
        // What it has said since then counts until it is answered, as soon as that may be.
        assert!(contest(&mut claims, 35, 38, Rival::Stranger).is_empty());
        let member = contest(&mut claims, 38, 39, Rival::Member);
        assert_eq!(member, [38_000, 38_100, 39_000]);
        let stranger = contest(&mut claims, 39, 49, Rival::Stranger);
        assert_eq!(stranger, [40_000, 40_100, 41_000, 43_000]);

        // Two members that each take the address for theirs do not flood the segment.
        let mut sent = Vec::new();
        for at in (0..SECOND).step_by(MS as usize) {
            claims.contest(50 * SECOND + at, number(1), Rival::Member);
            sent.extend(pass(&mut claims, 50 * SECOND + at, 50 * SECOND + at));
        }
        assert!((9..=11).contains(&times(&sent, 1).len()), "{}", times(&sent, 1).len());
    }

    #[test]
    fn questions_yield_to_claims_and_end_with_them() {
        let mut claims = claims(1000);
        claims.ask([1, 2, 3].map(number));
        assert_eq!(claims.next(0), Some(Frame::Probe(number(1), 0)));
        claims.hold(0, &set([2]));
        let sent: Vec<_> = pass(&mut claims, 0, MS).into_iter().map(|(_, frame)| frame).collect();
        let claim = [0, 1, 2].map(|index| Frame::Claim(number(2), index));
        let rest = [(1, 1), (3, 0), (3, 1)].map(|(of, index)| Frame::Probe(number(of), index));
        assert_eq!(sent, [&claim[..], &rest].concat());
    }
}
