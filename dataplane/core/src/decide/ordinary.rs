//! The shared-mac mode's short way: what becomes of an untagged, [ordinary](crate::parse::ordinary)
//! packet of the network's.
//!
//! What such a packet is decided by is put together once for a burst. An untracked datagram has its verdict
//! then after one hash and one look at its bucket; of a TCP segment remains what the flow table says. Datagrams are
//! [judged](super::datagrams) side by side, and so are the clients of segments hashed:
//!
//! ```text
//!   a burst as the one before, all of it plain datagrams of one family: --judge--> their decisions
//!
//!   any other:
//!   16 frames --sort--> shapes; datagrams in lanes --judge--> plain or not, and hashed
//!             --decide, in their order--> the datagrams' decisions; questions about segments
//!             --finish--> the segments' keys; their flows' lines are on the way
//! ```
//!
//! Whatever is not that plain is left to [`lookup`](super::lookup) and [`decide`](super::decide): a bucket
//! that was handed over lately, a frame that a member has sent on, a sticky port, what is not for a VIP. What
//! is said here is what they would say, as a test of [`Burst`](super::Burst) shows.

use std::net::{IpAddr, Ipv4Addr};

use super::burst::Answers;
use super::datagrams::{Datagrams, Judging, WORDS4, WORDS6, Wanted, word};
use super::{Decision, Lookup, Now, lookup};
use crate::bucket::Bucket;
use crate::flow::FlowTable;
use crate::hash::{Hashing, LANES, Lanes};
use crate::parse::ordinary::Shape;
use crate::parse::{Payload, Ports, Transport, parse};
use crate::processor::Processor;
use crate::snapshot::{Holding, Ingress, Service, SharedMac, Snapshot};
use crate::verdict::{DropReason, Verdict};
use crate::wire::protocol::TCP;

/// The decisions on new packets of which no flow is tracked: those whose bucket is this node's, and those
/// whose bucket is another's ([`Holdings::settled`](crate::snapshot::Holdings::settled)).
pub(super) fn decisions(snapshot: &Snapshot, now: Now) -> [Decision; 2] {
    let has_lease = now.ns <= snapshot.lease_until_ns;
    let ours = if has_lease { Verdict::Pass } else { Verdict::Drop(DropReason::LeaseExpired) };
    [ours.into(), Verdict::Drop(DropReason::NotOwner).into()]
}

/// What tells ordinary packets that are for a service: the same for as long as that stays as it is.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    /// Whether the rules take anything: not in other modes, nor where VIPs are on a tagged segment.
    is_ours: bool,
    /// What the VIPs of each family resolve to.
    shared4: u64,
    shared6: u64,
    wanted4: Wanted<WORDS4>,
    wanted6: Wanted<WORDS6>,
    /// Whether a datagram that is as wanted is for a VIP.
    has_one_vip4: bool,
    has_one_vip6: bool,
}

impl Plain {
    pub(crate) fn new(service: &Service) -> Self {
        let shared = match (&service.ingress, service.vlan) {
            (&Ingress::SharedMac(shared), None)
                if shared.v4 != service.own_mac && shared.v6 != service.own_mac =>
            {
                Some(shared)
            }
            _ => None,
        };
        let SharedMac { v4, v6 } = shared.unwrap_or(SharedMac::unicast(service.own_mac));
        // Ports of which some flows are tracked, as far as 64 bits tell: the bit of a port's lowest six. All
        // are set where even an answer to the host may come from a client's port.
        let may_track = match service.egress {
            Some(_) => u64::MAX,
            None => service.sticky_udp_ports.iter().fold(0, |all, port| all | 1 << (port % 64)),
        };
        let (only4, only6) = (service.vips.only_v4(), service.vips.only_v6());
        Self {
            is_ours: shared.is_some(),
            shared4: word(v4),
            shared6: word(v6),
            wanted4: Wanted::v4(v4, only4, may_track),
            wanted6: Wanted::v6(v6, only6, may_track),
            has_one_vip4: only4.is_some(),
            has_one_vip6: only6.is_some(),
        }
    }
}

/// What an ordinary packet is decided by.
pub(super) struct Rules<'a> {
    snapshot: &'a Snapshot,
    service: &'a Service,
    plain: &'a Plain,
    flows: &'a FlowTable,
    has_lease: bool,
}

impl<'a> Rules<'a> {
    /// The rules for a burst.
    pub(super) fn new(snapshot: &'a Snapshot, flows: &'a FlowTable, now: Now) -> Self {
        let service = &*snapshot.service;
        let has_lease = now.ns <= snapshot.lease_until_ns;
        Self { snapshot, service, plain: service.plain(), flows, has_lease }
    }

    /// Looks at the frame of a lane for the first time. What it says of the shape stands, but for a datagram
    /// only as far as [`decide`](Self::decide) confirms it.
    #[inline(always)]
    pub(super) fn sort(&self, lane: usize, frame: &[u8], batches: &mut Batches) -> Option<Shape> {
        if !self.plain.is_ours {
            return None;
        }
        let shape = Shape::of(frame)?;
        let taken = match shape {
            Shape::Udp4 => batches.udp4.take(lane, frame),
            Shape::Udp6 => batches.udp6.take(lane, frame),
            Shape::Tcp4 | Shape::Tcp6 => true,
        };
        taken.then_some(shape)
    }

    /// Judges the datagrams of the first lanes.
    #[inline(always)]
    pub(super) fn judge<C: Processor>(&self, lanes: usize, batches: &mut Batches) {
        let (Batches { udp4, udp6, .. }, hash) = (batches, &self.service.client_hash);
        if !udp4.is_empty() {
            C::in_vectors(Judging { lanes, datagrams: udp4, wanted: &self.plain.wanted4, hash });
            udp4.clear();
        }
        if !udp6.is_empty() {
            C::in_vectors(Judging { lanes, datagrams: udp6, wanted: &self.plain.wanted6, hash });
            udp6.clear();
        }
    }

    /// Takes all frames of a burst if they are as those of the burst before: datagrams of one family, all of them
    /// plain, so that nothing need be asked of each. False, and nothing is done, if they are not.
    #[inline(always)]
    pub(super) fn decide_as_before<'f, C: Processor>(
        &self,
        count: usize,
        answers: &mut Answers,
        batches: &mut Batches,
        frame: impl Fn(usize) -> &'f [u8],
    ) -> bool {
        let Some(shape) = batches.before.take().filter(|_| self.plain.is_ours) else {
            return false;
        };
        let Batches { udp4, udp6, .. } = batches;
        let are_taken = match shape {
            Shape::Udp4 => (0..count).all(|lane| udp4.take(lane, frame(lane))),
            Shape::Udp6 => (0..count).all(|lane| udp6.take(lane, frame(lane))),
            Shape::Tcp4 | Shape::Tcp6 => false,
        };
        self.judge::<C>(count, batches);
        let Batches { udp4, udp6, before, .. } = batches;
        let vips = &self.service.vips;
        let (hashes, are_to_vips) = if shape == Shape::Udp4 {
            let is_vip = |lane| vips.contains_v4(udp4.vip(lane));
            (udp4.all_judged(count), self.plain.has_one_vip4 || (0..count).all(is_vip))
        } else {
            let is_vip = |lane| vips.contains_v6(udp6.vip(lane));
            (udp6.all_judged(count), self.plain.has_one_vip6 || (0..count).all(is_vip))
        };
        let (Some(hashes), true) = (hashes, are_taken && are_to_vips) else { return false };
        *before = Some(shape);
        self.decide_datagrams(shape, hashes, answers, frame);
        true
    }

    #[inline(always)]
    fn decide_datagrams<'f>(
        &self,
        shape: Shape,
        hashes: &[u64],
        answers: &mut Answers,
        frame: impl Fn(usize) -> &'f [u8],
    ) {
        let (holdings, mut in_motion) = (&self.snapshot.holdings, 0_u64);
        let (by_bucket, decisions) = answers.begin_datagrams(shape, hashes.len());
        for (at, (decision, &hash)) in decisions.iter_mut().zip(hashes).enumerate() {
            match holdings.settled(Bucket::of_hash(hash)) {
                Some(place) => *decision = by_bucket[place],
                None => in_motion |= 1 << at,
            }
        }
        while in_motion != 0 {
            let at = in_motion.trailing_zeros() as usize;
            self.decide_handed_over(at, Bucket::of_hash(hashes[at]), answers, &frame);
            in_motion &= in_motion - 1;
        }
    }

    /// Decides on a datagram whose bucket is being handed over, or was lately.
    #[inline(always)]
    fn decide_handed_over<'f>(
        &self,
        at: usize,
        bucket: Bucket,
        answers: &mut Answers,
        frame: impl Fn(usize) -> &'f [u8],
    ) {
        match self.snapshot.holdings.get(bucket) {
            Holding::Granted(taker) if self.has_lease => answers.forward(at, taker),
            _ => answers.ask_again(at, lookup_again(self.service, self.flows, frame(at))),
        }
    }

    /// Takes the next frame of a burst, which was sorted into a lane; false, and nothing is done, if the rules do
    /// not tell what becomes of it.
    #[inline(always)]
    pub(super) fn decide<'f>(
        &self,
        lane: usize,
        shape: Shape,
        answers: &mut Answers,
        batches: &mut Batches,
        frame: impl Fn(usize) -> &'f [u8],
    ) -> bool {
        let Batches { udp4, udp6, .. } = batches;
        let vips = &self.service.vips;
        // An arm for each: what is known of a shape need not be asked for again.
        match shape {
            Shape::Udp4 => match udp4.judged(lane) {
                Some(hash) if self.plain.has_one_vip4 || vips.contains_v4(udp4.vip(lane)) => {
                    self.decide_datagram(shape, hash, answers, frame);
                    true
                }
                _ => false,
            },
            Shape::Udp6 => match udp6.judged(lane) {
                Some(hash) if self.plain.has_one_vip6 || vips.contains_v6(udp6.vip(lane)) => {
                    self.decide_datagram(shape, hash, answers, frame);
                    true
                }
                _ => false,
            },
            Shape::Tcp4 => {
                let frame = frame(answers.len());
                self.take_segment(Shape::Tcp4, self.plain.shared4, frame, answers, batches)
                    .is_some()
            }
            Shape::Tcp6 => {
                let frame = frame(answers.len());
                self.take_segment(Shape::Tcp6, self.plain.shared6, frame, answers, batches)
                    .is_some()
            }
        }
    }

    #[inline(always)]
    fn decide_datagram<'f>(
        &self,
        shape: Shape,
        hash: u64,
        answers: &mut Answers,
        frame: impl Fn(usize) -> &'f [u8],
    ) {
        let (at, bucket) = (answers.begin_datagram(shape), Bucket::of_hash(hash));
        match self.snapshot.holdings.settled(bucket) {
            Some(place) => answers.decide_datagram(at, place),
            None => self.decide_handed_over(at, bucket, answers, frame),
        }
    }

    #[inline(always)]
    fn take_segment(
        &self,
        shape: Shape,
        shared: u64,
        frame: &[u8],
        answers: &mut Answers,
        batches: &mut Batches,
    ) -> Option<()> {
        if u64::from_le_bytes(*frame.first_chunk()?) & MAC_MASK != shared {
            return None;
        }
        let Payload::Ip(packet) = shape.parse(frame)?.payload else { return None };
        if !self.service.vips.contains(packet.dst) {
            return None;
        }
        let Transport::Tcp(ports, flags) = packet.transport else { return None };
        let hash = &self.service.client_hash;
        let vip = packet.dst;
        let what = Asked { question: answers.begin_segment(shape, flags), ports, vip };
        match packet.src {
            IpAddr::V4(src) => batches.tcp4.push(hash.words_v4(src, ports.src), what),
            IpAddr::V6(src) => batches.tcp6.push(hash.words_v6(src, ports.src), what),
        }
        Some(())
    }

    /// Hashes the clients of the segments and has the lines of their flows brought near.
    #[inline(always)]
    pub(super) fn finish<C: Processor>(&self, answers: &mut Answers, batches: &mut Batches) {
        let Batches { tcp4, tcp6, .. } = batches;
        self.finish_segments::<C, 1>(answers, tcp4);
        self.finish_segments::<C, 3>(answers, tcp6);
    }

    #[inline(always)]
    fn finish_segments<C: Processor, const WORDS: usize>(
        &self,
        answers: &mut Answers,
        batch: &mut Batch<WORDS>,
    ) {
        if batch.clients.is_empty() {
            return;
        }
        let hash = &self.service.client_hash;
        C::in_vectors(Hashing { clients: &mut batch.clients, hash });
        for (&hash, asked) in batch.clients.hashes().iter().zip(&batch.what) {
            let &Asked { question, ports, vip } = asked;
            let key = self.flows.key(hash, ports.src, vip, ports.dst, TCP);
            self.flows.prefetch::<C>(key);
            answers.complete_segment(question, key, Bucket::of_hash(hash));
        }
        batch.clients.clear();
    }
}

/// A datagram of a bucket that was handed over lately, or is being without a lease, the long way.
#[cold]
fn lookup_again(service: &Service, flows: &FlowTable, frame: &[u8]) -> Lookup {
    match parse(frame) {
        Ok(parsed) => lookup(service, flows, &parsed),
        Err(error) => unreachable!("an ordinary packet is refused: {error:?}"),
    }
}

/// Segments of one family whose clients are hashed together, and what else is known of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<const WORDS: usize> {
    clients: Lanes<WORDS>,
    what: [Asked; LANES],
}

impl<const WORDS: usize> Batch<WORDS> {
    #[inline(always)]
    fn push(&mut self, words: [u64; WORDS], what: Asked) {
        let at = self.clients.push(words);
        self.what[at] = what;
    }
}

/// What a segment's key is made of beside its client, and where the question about it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    question: u8,
    ports: Ports,
    vip: IpAddr,
}

/// The ordinary packets of a part of a burst, [`LANES`] at most, or the datagrams of all of it.
#[derive(Clone, Debug)]
pub(super) struct Batches {
    udp4: Datagrams<WORDS4>,
    tcp4: Batch<1>,
    udp6: Datagrams<WORDS6>,
    tcp6: Batch<3>,
    /// What all packets of the burst before were, if they were plain datagrams.
    pub(super) before: Option<Shape>,
}

impl Default for Batches {
    fn default() -> Self {
        let none = Asked {
            question: 0,
            ports: Ports { src: 0, dst: 0 },
            vip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        Self {
            udp4: Datagrams::NONE,
            tcp4: Batch { clients: Lanes::NONE, what: [none; LANES] },
            udp6: Datagrams::NONE,
            tcp6: Batch { clients: Lanes::NONE, what: [none; LANES] },
            before: None,
        }
    }
}

/// The bytes of an address in such a word.
const MAC_MASK: u64 = (1 << 48) - 1;
