//! The packets of a burst, from their bytes to their verdicts.
//!
//! ```text
//!   bytes --look_up--> what was found in each; its decision, or what to ask the flow table, whose line
//!                      is fetched from then on
//!         --decide-->  the rest
//! ```
//!
//! What is known of a packet is written once, where it stays, and of an ordinary one (whole, untagged, UDP or
//! TCP without IP options or extension headers) no more than that it is one: most are dropped, and who
//! passes one can read its headers again.
//!
//! Memory works while packets are parsed: a burst is gone through in parts of [`LANES`] packets, and what is
//! asked about one part is decided after the next one was looked up.

use std::marker::PhantomData;
use std::ops::Range;

use super::ordinary::{Batches, Rules, decisions};
use super::shared_mac::{self, Segment};
use super::{Decision, Lookup, Now, decide, lookup};
use crate::bucket::Bucket;
use crate::flow::{FlowKey, FlowTable};
use crate::hash::LANES;
use crate::parse::ordinary::Shape;
use crate::parse::{ParseError, Parsed, TcpFlags, parse};
use crate::port::BURST;
use crate::processor::Processor;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};

/// What parsing has found in a frame.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// An ordinary packet: [`Found::parsed`] reads it.
    Ordinary(Ordinary),
    /// Any packet.
    Parsed(Parsed),
    /// No packet that a node may act upon.
    Refused(ParseError),
}

/// The shape of an ordinary packet.
#[derive(Clone, Copy, Debug)]
pub struct Ordinary(Shape);

impl Found {
    /// What is in the frame, which is the one that this was found in, unchanged.
    ///
    /// # Errors
    /// As of [`parse`].
    #[inline]
    pub fn parsed(&self, frame: &[u8]) -> Result<Parsed, ParseError> {
        match self {
            Self::Ordinary(Ordinary(shape)) => match shape.parse(frame) {
                Some(parsed) => Ok(parsed),
                None => parse(frame),
            },
            Self::Parsed(parsed) => Ok(*parsed),
            Self::Refused(error) => Err(*error),
        }
    }
}

impl From<Result<Parsed, ParseError>> for Found {
    fn from(parsed: Result<Parsed, ParseError>) -> Self {
        match parsed {
            Ok(parsed) => Self::Parsed(parsed),
            Err(error) => Self::Refused(error),
        }
    }
}

/// A packet whose decision is still to be taken, and where it goes.
#[derive(Clone, Copy, Debug)]
struct Question {
    at: u8,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// An ordinary segment of the shared-mac mode.
    Segment(Segment),
    /// Any packet.
    Lookup(Lookup),
}

/// On a packet of a flow here.
const PASSED: Decision = Decision { verdict: Verdict::Pass, inserted: None, may_come_twice: None };

const _: () = assert!(BURST <= 1 << u8::BITS, "a place in a burst is one byte");

/// How many frames ahead of the one that is parsed headers are fetched. 16: at some 10 ns a packet, as long as
/// memory takes that another core or the NIC has written; in frames 2 KiB apart, of which few share a place
/// in the first cache, no more than that has room for.
const AHEAD: usize = 16;

/// The packets of a burst, in their order.
#[derive(Debug, Default)]
pub struct Burst {
    answers: Answers,
    batches: Box<Batches>,
}

/// What was found and decided, and what is still asked.
#[derive(Debug)]
pub(super) struct Answers {
    found: Box<[Found; BURST]>,
    decisions: Box<[Decision; BURST]>,
    /// On ordinary packets of which no flow is tracked.
    by_bucket: [Decision; 2],
    /// How many packets there are.
    len: usize,
    /// Of packets whose decision is still to be taken.
    questions: Box<[Question; BURST]>,
    asked: usize,
}

impl Default for Answers {
    fn default() -> Self {
        let nothing = Verdict::Drop(DropReason::NotOwner);
        Self {
            found: Box::new([Found::Refused(ParseError::EthernetTruncated); BURST]),
            decisions: Box::new([nothing.into(); BURST]),
            by_bucket: [nothing.into(); 2],
            len: 0,
            questions: Box::new(
                [Question { at: 0, what: What::Lookup(Lookup::Settled(nothing)) }; BURST],
            ),
            asked: 0,
        }
    }
}

/// A burst while its packets are looked up, under one snapshot and at one time.
pub struct LookingUp<'a, C> {
    answers: &'a mut Answers,
    snapshot: &'a Snapshot,
    flows: &'a FlowTable,
    now: Now,
    processor: PhantomData<C>,
}

impl Burst {
    /// A burst of no packets yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all packets and takes the next ones.
    pub fn begin<'a, C: Processor>(
        &'a mut self,
        snapshot: &'a Snapshot,
        flows: &'a FlowTable,
        now: Now,
    ) -> LookingUp<'a, C> {
        self.answers.begin(snapshot, flows, now)
    }

    /// Decides on the `count` packets whose frames `frame` gives the bytes of.
    ///
    /// # Panics
    /// If `count` is more than [`BURST`].
    #[inline]
    pub fn judge<'f, C: Processor>(
        &mut self,
        snapshot: &Snapshot,
        flows: &FlowTable,
        now: Now,
        count: usize,
        frame: impl Fn(usize) -> &'f [u8],
    ) {
        let rules = Rules::new(snapshot, flows);
        let Self { answers, batches } = self;
        let mut looking_up = answers.begin::<C>(snapshot, flows, now);
        for at in 0..count.min(AHEAD) {
            fetch_headers::<C>(frame(at));
        }
        let mut decided = 0;
        for start in (0..count).step_by(LANES) {
            let asked = looking_up.answers.asked;
            for at in start..count.min(start + LANES) {
                if at + AHEAD < count {
                    fetch_headers::<C>(frame(at + AHEAD));
                }
                let bytes = frame(at);
                let is_taken = match &rules {
                    Some(rules) => rules.take(bytes, looking_up.answers, batches),
                    None => false,
                };
                if !is_taken {
                    looking_up.look_up_any(bytes);
                }
            }
            if let Some(rules) = &rules {
                rules.finish::<C>(looking_up.answers, batches, &frame);
            }
            looking_up.decide_asked(decided..asked);
            decided = asked;
        }
        let asked = looking_up.answers.asked;
        looking_up.decide_asked(decided..asked);
    }

    /// What becomes of each packet, in the order in which they were looked up.
    #[inline]
    pub fn decisions(&self) -> &[Decision] {
        &self.answers.decisions[..self.answers.len]
    }

    /// What becomes of packet `at`.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn decision(&self, at: usize) -> Decision {
        self.decisions()[at]
    }

    /// What was found in the frame of packet `at`.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn found(&self, at: usize) -> &Found {
        &self.answers.found[..self.answers.len][at]
    }
}

impl Answers {
    fn begin<'a, C: Processor>(
        &'a mut self,
        snapshot: &'a Snapshot,
        flows: &'a FlowTable,
        now: Now,
    ) -> LookingUp<'a, C> {
        (self.len, self.asked) = (0, 0);
        self.by_bucket = decisions(snapshot, now);
        LookingUp { answers: self, snapshot, flows, now, processor: PhantomData }
    }

    /// Takes an ordinary datagram of no flow, on which [`decide_datagram`](Self::decide_datagram) or
    /// [`ask_again`](Self::ask_again) is to follow. Returns its place in the burst.
    #[inline(always)]
    pub(super) fn begin_datagram(&mut self, shape: Shape) -> u8 {
        let at = self.len;
        self.found[at] = Found::Ordinary(Ordinary(shape));
        self.len += 1;
        at as u8
    }

    /// Decides on a datagram by this place of [`decisions`].
    #[inline(always)]
    pub(super) fn decide_datagram(&mut self, at: usize, place: usize) {
        self.decisions[at] = self.by_bucket[place];
    }

    /// Leaves a datagram to what its lookup says.
    #[cold]
    pub(super) fn ask_again(&mut self, at: usize, lookup: Lookup) {
        self.questions[self.asked] = Question { at: at as u8, what: What::Lookup(lookup) };
        self.asked += 1;
    }

    /// Takes an ordinary segment, which [`complete_segment`](Self::complete_segment) is to follow for.
    /// Returns the question's place.
    #[inline(always)]
    pub(super) fn begin_segment(&mut self, shape: Shape, flags: TcpFlags) -> u8 {
        let question = self.asked;
        let (key, bucket) = (FlowKey::NONE, Bucket::FIRST);
        let segment = Segment { key, bucket, flags, forwarded: false };
        self.ask(Found::Ordinary(Ordinary(shape)), What::Segment(segment));
        question as u8
    }

    /// Says what the flow table is to be asked about a segment.
    #[inline(always)]
    pub(super) fn complete_segment(&mut self, question: u8, key: FlowKey, bucket: Bucket) {
        if let What::Segment(segment) = &mut self.questions[usize::from(question)].what {
            (segment.key, segment.bucket) = (key, bucket);
        }
    }

    #[inline(always)]
    fn push(&mut self, found: Found, decision: Decision) {
        self.found[self.len] = found;
        self.decisions[self.len] = decision;
        self.len += 1;
    }

    #[inline(always)]
    fn ask(&mut self, found: Found, what: What) {
        self.found[self.len] = found;
        self.questions[self.asked] = Question { at: self.len as u8, what };
        self.len += 1;
        self.asked += 1;
    }
}

/// Begins to bring a frame's headers near: they are in two cache lines at most, of a TCP segment up to its
/// flags.
#[inline(always)]
fn fetch_headers<C: Processor>(frame: &[u8]) {
    if let Some(shortest) = frame.first_chunk::<60>() {
        C::prefetch(&shortest[0]);
        C::prefetch(frame.get(73).unwrap_or(&shortest[59]));
    }
}

impl<C: Processor> LookingUp<'_, C> {
    #[inline(never)]
    fn look_up_any(&mut self, frame: &[u8]) {
        self.look_up_found(parse(frame));
    }

    /// Looks up the next packet, of which the caller knows what parsing has found.
    ///
    /// # Panics
    /// If there are [`BURST`] packets already.
    pub fn look_up_found(&mut self, parsed: Result<Parsed, ParseError>) {
        match &parsed {
            Ok(packet) => {
                let lookup = lookup(&self.snapshot.service, self.flows, packet);
                if let Some(key) = lookup.flow() {
                    self.flows.prefetch::<C>(key);
                }
                self.answers.ask(parsed.into(), What::Lookup(lookup));
            }
            Err(error) => self.drop(parsed.into(), DropReason::Malformed(*error)),
        }
    }

    /// Takes a packet that is to be dropped.
    ///
    /// # Panics
    /// If there are [`BURST`] packets already.
    pub fn drop(&mut self, found: Found, reason: DropReason) {
        self.answers.push(found, Verdict::Drop(reason).into());
    }

    /// Decides what depends on the flow table.
    #[inline]
    pub fn decide(mut self) {
        let all = 0..self.answers.asked;
        self.decide_asked(all);
    }

    #[inline]
    fn decide_asked(&mut self, asked: Range<usize>) {
        let Self { answers, snapshot, flows, now, .. } = self;
        for Question { at, what } in &answers.questions[asked] {
            let decision = &mut answers.decisions[usize::from(*at)];
            match what {
                // Written as the constant that it is: what is put together elsewhere and copied is read
                // again before it has arrived, and waits for that.
                What::Segment(segment) if shared_mac::is_known(flows, *now, segment) => {
                    *decision = PASSED;
                }
                What::Segment(segment) => {
                    *decision = shared_mac::decide_stranger(snapshot, flows, *now, segment);
                }
                What::Lookup(lookup) => *decision = decide(snapshot, flows, *now, lookup),
            }
        }
    }
}
