//! The packets of a burst, from their bytes to their verdicts.
//!
//! ```text
//!   bytes --look_up--> what was found in each; its decision, or what to ask the flow table
//!         --decide-->  the lines of all flows asked for are pulled in, then the rest is decided
//! ```
//!
//! What is known of a packet is written once, where it stays, and of an ordinary one (whole, untagged, UDP or
//! TCP without IP options or extension headers) no more than that it is one: most are dropped, and who
//! passes one can read its headers again.

use std::hint::black_box;

use super::ordinary::{Rules, decisions};
use super::shared_mac::{self, Segment};
use super::{Decision, Lookup, Now, decide, lookup};
use crate::flow::{FlowKey, FlowTable};
use crate::parse::ordinary::Shape;
use crate::parse::{ParseError, Parsed, parse};
use crate::port::BURST;
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

/// The packets of a burst, in their order.
#[derive(Debug)]
pub struct Burst {
    found: Box<[Found; BURST]>,
    decisions: Box<[Decision; BURST]>,
    /// On ordinary packets of which no flow is tracked.
    by_bucket: [Decision; 2],
    /// How many packets there are.
    len: usize,
    /// Of packets whose decision is still to be taken.
    questions: Box<[Question; BURST]>,
    asked: usize,
    /// The keys of the burst's flows.
    keys: Box<[FlowKey; BURST]>,
    tracked: usize,
}

impl Default for Burst {
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
            keys: Box::new([FlowKey::NONE; BURST]),
            tracked: 0,
        }
    }
}

/// A burst while its packets are looked up, under one snapshot and at one time.
pub struct LookingUp<'a> {
    burst: &'a mut Burst,
    snapshot: &'a Snapshot,
    flows: &'a FlowTable,
    now: Now,
    rules: Option<Rules<'a>>,
}

impl Burst {
    /// A burst of no packets yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all packets and takes the next ones.
    pub fn begin<'a>(
        &'a mut self,
        snapshot: &'a Snapshot,
        flows: &'a FlowTable,
        now: Now,
    ) -> LookingUp<'a> {
        (self.len, self.asked, self.tracked) = (0, 0, 0);
        self.by_bucket = decisions(snapshot, now);
        let rules = Rules::new(snapshot, flows);
        LookingUp { burst: self, snapshot, flows, now, rules }
    }

    /// What becomes of each packet, in the order in which they were looked up.
    #[inline]
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions[..self.len]
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
        &self.found[..self.len][at]
    }

    /// Takes an ordinary packet of no flow, and the decision in this place of [`decisions`].
    #[inline(always)]
    pub(super) fn push_untracked(&mut self, shape: Shape, place: usize) {
        let decision = self.by_bucket[place];
        self.push(Found::Ordinary(Ordinary(shape)), decision);
    }

    /// Takes an ordinary segment, which the flow table is to be asked about.
    #[inline(always)]
    pub(super) fn ask_segment(&mut self, shape: Shape, segment: Segment) {
        let found = Found::Ordinary(Ordinary(shape));
        self.ask(found, What::Segment(segment), Some(segment.key));
    }

    #[inline(always)]
    fn push(&mut self, found: Found, decision: Decision) {
        self.found[self.len] = found;
        self.decisions[self.len] = decision;
        self.len += 1;
    }

    #[inline(always)]
    fn ask(&mut self, found: Found, what: What, flow: Option<FlowKey>) {
        self.found[self.len] = found;
        self.questions[self.asked] = Question { at: self.len as u8, what };
        self.len += 1;
        self.asked += 1;
        if let Some(key) = flow {
            self.keys[self.tracked] = key;
            self.tracked += 1;
        }
    }
}

/// Pulls a frame's headers into the cache by reading from them. The result means nothing; the results of
/// a burst go to [`black_box`] together, or the compiler takes the reads out.
///
/// For all frames of a burst before the first is looked up, in a loop that does nothing else: their reads
/// then wait for memory at the same time.
#[inline(always)]
pub fn touch(frame: &[u8]) -> u8 {
    // The shortest frame's last byte: headers are in two cache lines, one of which this may be.
    match frame.first_chunk::<60>() {
        Some(headers) => headers[0] ^ headers[59],
        None => 0,
    }
}

impl LookingUp<'_> {
    /// Parses the next packet's frame and looks it up.
    ///
    /// # Panics
    /// If there are [`BURST`] packets already.
    #[inline(always)]
    pub fn look_up(&mut self, frame: &[u8]) {
        let judged = match &self.rules {
            Some(rules) => rules.judge(frame, self.burst),
            None => false,
        };
        if !judged {
            self.look_up_any(frame);
        }
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
                self.burst.ask(parsed.into(), What::Lookup(lookup), lookup.flow());
            }
            Err(error) => self.drop(parsed.into(), DropReason::Malformed(*error)),
        }
    }

    /// Takes a packet that is to be dropped.
    ///
    /// # Panics
    /// If there are [`BURST`] packets already.
    pub fn drop(&mut self, found: Found, reason: DropReason) {
        self.burst.push(found, Verdict::Drop(reason).into());
    }

    /// Pulls in the cache lines of all flows, and decides what depends on them.
    ///
    /// In a loop of their own the reads are close enough together to wait for memory at the same
    /// time. Between two packets' parsing, each would hold up what follows it: a verdict on a TCP
    /// segment then took 1.6 times as long with a table for 1 M flows, and 1.9 times at 16 M.
    #[inline]
    pub fn decide(self) {
        let Self { burst, snapshot, flows, now, .. } = self;
        let keys = &burst.keys[..burst.tracked];
        black_box(keys.iter().fold(0, |pulled, &key| pulled ^ flows.touch(key)));
        for Question { at, what } in &burst.questions[..burst.asked] {
            let decision = &mut burst.decisions[usize::from(*at)];
            match what {
                // Written as the constant that it is: what is put together elsewhere and copied is read
                // again before it has arrived, and waits for that.
                What::Segment(segment) if shared_mac::is_known(flows, now, segment) => {
                    *decision = PASSED;
                }
                What::Segment(segment) => {
                    *decision = shared_mac::decide_stranger(snapshot, flows, now, segment);
                }
                What::Lookup(lookup) => *decision = decide(snapshot, flows, now, lookup),
            }
        }
    }
}
