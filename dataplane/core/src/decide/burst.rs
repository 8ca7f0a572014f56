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
use crate::slot::Slot;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};

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

const _: () = assert!(BURST.is_multiple_of(LANES), "a burst is a whole number of parts");
const _: () = assert!(BURST <= 1 << u8::BITS, "a place in a burst is one byte");

/// The packets of a burst, in their order.
#[derive(Debug, Default)]
pub struct Burst {
    answers: Box<Answers>,
    batches: Box<Batches>,
}

/// What was found and decided, and what is still asked.
#[derive(Debug)]
pub(super) struct Answers {
    /// Which packets are ordinary.
    shapes: [Option<Shape>; BURST],
    /// What parsing has found in the others.
    found: [Result<Parsed, ParseError>; BURST],
    decisions: [Decision; BURST],
    /// On ordinary packets of which no flow is tracked.
    by_bucket: [Decision; 2],
    /// How many packets there are.
    len: usize,
    /// Of packets whose decision is still to be taken.
    questions: [Question; BURST],
    asked: usize,
}

impl Default for Answers {
    fn default() -> Self {
        let nothing = Verdict::Drop(DropReason::NotOwner);
        Self {
            shapes: [None; BURST],
            found: [Err(ParseError::EthernetTruncated); BURST],
            decisions: [nothing.into(); BURST],
            by_bucket: [nothing.into(); 2],
            len: 0,
            questions: [Question { at: 0, what: What::Lookup(Lookup::Settled(nothing)) }; BURST],
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

    /// Decides on the `count` packets whose frames `frame` gives the bytes of. Headers are fetched that many
    /// frames `ahead` of the one that is parsed; none are with 0.
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
        ahead: usize,
        frame: impl Fn(usize) -> &'f [u8],
    ) {
        let rules = Rules::new(snapshot, flows, now);
        let Self { answers, batches } = self;
        let mut looking_up = answers.begin::<C>(snapshot, flows, now);
        for at in 0..count.min(ahead) {
            fetch_headers::<C>(frame(at));
        }
        let first_look = |at: usize| {
            if ahead > 0 && at + ahead < count {
                fetch_headers::<C>(frame(at + ahead));
            }
            frame(at)
        };
        let mut decided = 0;
        if !rules.decide_as_before::<C>(count, looking_up.answers, batches, first_look) {
            for start in (0..count).step_by(LANES) {
                let asked = looking_up.answers.asked;
                let part = start..count.min(start + LANES);
                looking_up.judge_part(&rules, part, batches, first_look, &frame);
                looking_up.decide_asked(decided..asked);
                decided = asked;
            }
            batches.before = looking_up.answers.shape_of_all();
        }
        let asked = looking_up.answers.asked;
        looking_up.decide_asked(decided..asked);
    }

    /// What becomes of each packet, in the order in which they were looked up.
    #[inline]
    pub fn decisions(&self) -> &[Decision] {
        &self.answers.decisions[..self.answers.len]
    }

    /// The same, to be kept: behind those of the burst's packets are some of none.
    #[inline]
    pub fn all_decisions(&self) -> [Decision; BURST] {
        self.answers.decisions
    }

    /// What parsing has found in the frame of packet `at`, which is given once more, unchanged.
    ///
    /// # Errors
    /// As of [`parse`].
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn parsed(&self, at: usize, frame: &[u8]) -> Result<Parsed, ParseError> {
        let answers = &self.answers;
        match answers.shapes[..answers.len][at] {
            Some(shape) => shape.parse(frame).map_or_else(|| parse(frame), Ok),
            None => answers.found[at],
        }
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

    /// How many packets were taken.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes an ordinary datagram of no flow, on which is to be decided next. Returns its place.
    #[inline(always)]
    pub(super) fn begin_datagram(&mut self, shape: Shape) -> usize {
        let at = self.len;
        self.shapes[at] = Some(shape);
        self.len = at + 1;
        at
    }

    /// Takes the first packets of a burst, ordinary datagrams of no flow. Returns the decisions that there are on most,
    /// and where those on these packets go.
    #[inline(always)]
    pub(super) fn begin_datagrams(
        &mut self,
        shape: Shape,
        count: usize,
    ) -> ([Decision; 2], &mut [Decision]) {
        self.shapes[..count].fill(Some(shape));
        self.len = count;
        (self.by_bucket, &mut self.decisions[..count])
    }

    /// What all packets are, if they are ordinary and of one shape.
    fn shape_of_all(&self) -> Option<Shape> {
        let (first, rest) = self.shapes[..self.len].split_first()?;
        first.filter(|_| rest.iter().all(|shape| shape == first))
    }

    /// Decides on a datagram by this place of [`decisions`].
    #[inline(always)]
    pub(super) fn decide_datagram(&mut self, at: usize, place: usize) {
        self.decisions[at] = self.by_bucket[place];
    }

    /// Sends a datagram on to the member that its bucket is being handed to.
    #[inline(always)]
    pub(super) fn forward(&mut self, at: usize, taker: Slot) {
        self.decisions[at] = Verdict::Forward(taker).into();
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
        self.shapes[self.len] = Some(shape);
        self.ask(What::Segment(segment));
        question as u8
    }

    /// Says what the flow table is to be asked about a segment.
    #[inline(always)]
    pub(super) fn complete_segment(&mut self, question: u8, key: FlowKey, bucket: Bucket) {
        if let What::Segment(segment) = &mut self.questions[usize::from(question)].what {
            (segment.key, segment.bucket) = (key, bucket);
        }
    }

    /// Says what parsing has found in the next packet, which is none of the ordinary ones.
    fn find(&mut self, parsed: Result<Parsed, ParseError>) {
        (self.shapes[self.len], self.found[self.len]) = (None, parsed);
    }

    /// Asks about the next packet.
    #[inline(always)]
    fn ask(&mut self, what: What) {
        self.questions[self.asked] = Question { at: self.len as u8, what };
        self.len += 1;
        self.asked += 1;
    }
}

/// Begins to bring a frame's headers near: they are in two cache lines at most, of a TCP segment up to its
/// flags.
#[inline(always)]
fn fetch_headers<C: Processor>(frame: &[u8]) {
    C::prefetch_at(frame, 0);
    C::prefetch_at(frame, 73);
}

impl<C: Processor> LookingUp<'_, C> {
    /// Decides on the packets of a part of a burst, or asks about them, whatever they are.
    #[inline(always)]
    fn judge_part<'f>(
        &mut self,
        rules: &Rules<'_>,
        part: Range<usize>,
        batches: &mut Batches,
        first_look: impl Fn(usize) -> &'f [u8],
        frame: impl Fn(usize) -> &'f [u8],
    ) {
        let mut shapes = [None; LANES];
        for (lane, at) in part.clone().enumerate() {
            shapes[lane] = rules.sort(lane, first_look(at), batches);
        }
        rules.judge::<C>(LANES, batches);
        for (lane, at) in part.enumerate() {
            let answers = &mut *self.answers;
            let is_decided = shapes[lane]
                .is_some_and(|shape| rules.decide(lane, shape, answers, batches, &frame));
            if !is_decided {
                self.look_up_any(frame(at));
            }
        }
        rules.finish::<C>(self.answers, batches);
    }

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
                self.answers.find(parsed);
                self.answers.ask(What::Lookup(lookup));
            }
            Err(error) => self.drop(parsed, DropReason::Malformed(*error)),
        }
    }

    /// Takes a packet that is to be dropped.
    ///
    /// # Panics
    /// If there are [`BURST`] packets already.
    pub fn drop(&mut self, parsed: Result<Parsed, ParseError>, reason: DropReason) {
        let answers = &mut *self.answers;
        answers.find(parsed);
        answers.decisions[answers.len] = Verdict::Drop(reason).into();
        answers.len += 1;
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
