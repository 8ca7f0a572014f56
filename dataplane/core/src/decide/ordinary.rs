//! The shared-mac mode's short way: what becomes of an untagged, [ordinary](crate::parse::ordinary)
//! packet of the network's.
//!
//! What such a packet is decided by is put together once for a burst. An untracked datagram has its verdict
//! then after one hash and one look at its bucket; of a TCP segment remains what the flow table says. The hashes
//! are computed for several packets side by side:
//!
//! ```text
//!   16 frames --take--> batches: UDP and TCP of both families --finish--> the datagrams' decisions
//!                       (words to hash, and what to do then)              the segments' keys; their
//!                                                                         flows' lines are on the way
//! ```
//!
//! Whatever is not that plain is left to [`lookup`](super::lookup) and [`decide`](super::decide): a bucket
//! that was handed over lately, a frame that a member has sent on, a sticky port, what is not for a VIP. What
//! is said here is what they would say, as a test of [`Burst`](super::Burst) shows.

use std::net::{IpAddr, Ipv4Addr};

use super::burst::Answers;
use super::{Decision, Lookup, Now, lookup};
use crate::bucket::Bucket;
use crate::flow::FlowTable;
use crate::hash::{LANES, Lanes};
use crate::parse::ordinary::Shape;
use crate::parse::{Payload, Ports, Transport, parse};
use crate::processor::Processor;
use crate::snapshot::{Holding, Ingress, Service, SharedMac, Snapshot};
use crate::verdict::{DropReason, Verdict};
use crate::wire::ethernet::MacAddr;
use crate::wire::protocol::TCP;

/// The decisions on new packets of which no flow is tracked: those whose bucket is this node's, and those
/// whose bucket is another's ([`Holdings::settled`](crate::snapshot::Holdings::settled)).
pub(super) fn decisions(snapshot: &Snapshot, now: Now) -> [Decision; 2] {
    let has_lease = now.ns <= snapshot.lease_until_ns;
    let ours = if has_lease { Verdict::Pass } else { Verdict::Drop(DropReason::LeaseExpired) };
    [ours.into(), Verdict::Drop(DropReason::NotOwner).into()]
}

/// What an ordinary packet is decided by.
pub(super) struct Rules<'a> {
    snapshot: &'a Snapshot,
    service: &'a Service,
    flows: &'a FlowTable,
    /// What the VIPs of each family resolve to, or [`NO_MAC`].
    shared4: u64,
    shared6: u64,
    /// Ports of which some flows are tracked, as far as 64 bits tell: the bit of a port's lowest six.
    /// All are set where even an answer to the host may come from a client's port.
    may_track: u64,
    has_lease: bool,
}

impl<'a> Rules<'a> {
    /// The rules for a burst. They take nothing in other modes, and where VIPs are on a tagged segment.
    pub(super) fn new(snapshot: &'a Snapshot, flows: &'a FlowTable, now: Now) -> Self {
        let service = &*snapshot.service;
        let (shared4, shared6) = match (&service.ingress, service.vlan) {
            (&Ingress::SharedMac(SharedMac { v4, v6 }), None)
                if v4 != service.own_mac && v6 != service.own_mac =>
            {
                (word(v4), word(v6))
            }
            _ => (NO_MAC, NO_MAC),
        };
        let may_track = match service.egress {
            Some(_) => u64::MAX,
            None => service.sticky_udp_ports.iter().fold(0, |all, port| all | 1 << (port % 64)),
        };
        let has_lease = now.ns <= snapshot.lease_until_ns;
        Self { snapshot, service, flows, shared4, shared6, may_track, has_lease }
    }

    /// Takes the next frame of a burst; false, and nothing is done, if the rules do not tell what becomes of
    /// it.
    #[inline(always)]
    pub(super) fn take(&self, frame: &[u8], answers: &mut Answers, batches: &mut Batches) -> bool {
        // An arm for each: what is known of a shape need not be asked for again.
        let taken = match Shape::of(frame) {
            Some(Shape::Udp4) => self.take_as(Shape::Udp4, self.shared4, frame, answers, batches),
            Some(Shape::Tcp4) => self.take_as(Shape::Tcp4, self.shared4, frame, answers, batches),
            Some(Shape::Udp6) => self.take_as(Shape::Udp6, self.shared6, frame, answers, batches),
            Some(Shape::Tcp6) => self.take_as(Shape::Tcp6, self.shared6, frame, answers, batches),
            None => None,
        };
        taken.is_some()
    }

    #[inline(always)]
    fn take_as(
        &self,
        shape: Shape,
        shared: u64,
        frame: &[u8],
        answers: &mut Answers,
        batches: &mut Batches,
    ) -> Option<()> {
        if u64::from_ne_bytes(*frame.first_chunk()?) & MAC_MASK != shared {
            return None;
        }
        let Payload::Ip(packet) = shape.parse(frame)?.payload else { return None };
        if !self.service.vips.contains(packet.dst) {
            return None;
        }
        let hash = &self.service.client_hash;
        match packet.transport {
            Transport::Udp(ports) => {
                if self.may_track >> (ports.dst % 64) & 1 != 0 {
                    return None;
                }
                let at = answers.begin_datagram(shape);
                match packet.src {
                    IpAddr::V4(src) => batches.udp4.push(hash.words_v4(src, ports.src), at),
                    IpAddr::V6(src) => batches.udp6.push(hash.words_v6(src, ports.src), at),
                }
            }
            Transport::Tcp(ports, flags) => {
                let vip = packet.dst;
                let what = Asked { question: answers.begin_segment(shape, flags), ports, vip };
                match packet.src {
                    IpAddr::V4(src) => batches.tcp4.push(hash.words_v4(src, ports.src), what),
                    IpAddr::V6(src) => batches.tcp6.push(hash.words_v6(src, ports.src), what),
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Hashes the clients of all batches, decides on the datagrams and has the lines of the segments'
    /// flows brought near. `frame` gives the bytes of packet `at`.
    #[inline(always)]
    pub(super) fn finish<'f, C: Processor>(
        &self,
        answers: &mut Answers,
        batches: &mut Batches,
        frame: impl Fn(usize) -> &'f [u8],
    ) {
        let Batches { udp4, tcp4, udp6, tcp6 } = batches;
        self.finish_segments::<C, 1>(answers, tcp4);
        self.finish_segments::<C, 3>(answers, tcp6);
        self.finish_datagrams::<C, 1>(answers, udp4, &frame);
        self.finish_datagrams::<C, 3>(answers, udp6, &frame);
    }

    #[inline(always)]
    fn finish_datagrams<'f, C: Processor, const WORDS: usize>(
        &self,
        answers: &mut Answers,
        batch: &mut Batch<WORDS, u8>,
        frame: impl Fn(usize) -> &'f [u8],
    ) {
        if batch.clients.is_empty() {
            return;
        }
        C::hash(&mut batch.clients, &self.service.client_hash);
        for (&hash, &at) in batch.clients.hashes().iter().zip(&batch.what) {
            let at = usize::from(at);
            let (holdings, bucket) = (&self.snapshot.holdings, Bucket::of_hash(hash));
            match holdings.settled(bucket) {
                Some(place) => answers.decide_datagram(at, place),
                None => match holdings.get(bucket) {
                    Holding::Granted(taker) if self.has_lease => answers.forward(at, taker),
                    _ => answers.ask_again(at, lookup_again(self.service, self.flows, frame(at))),
                },
            }
        }
        batch.clients.clear();
    }

    #[inline(always)]
    fn finish_segments<C: Processor, const WORDS: usize>(
        &self,
        answers: &mut Answers,
        batch: &mut Batch<WORDS, Asked>,
    ) {
        if batch.clients.is_empty() {
            return;
        }
        C::hash(&mut batch.clients, &self.service.client_hash);
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

/// Packets of one shape whose clients are hashed together, and what else is known of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<const WORDS: usize, T> {
    clients: Lanes<WORDS>,
    what: [T; LANES],
}

impl<const WORDS: usize, T> Batch<WORDS, T> {
    #[inline(always)]
    fn push(&mut self, words: [u64; WORDS], what: T) {
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

/// The ordinary packets of a part of a burst, [`LANES`] at most: empty between two parts.
#[derive(Clone, Debug)]
pub(super) struct Batches {
    udp4: Batch<1, u8>,
    tcp4: Batch<1, Asked>,
    udp6: Batch<3, u8>,
    tcp6: Batch<3, Asked>,
}

impl Default for Batches {
    fn default() -> Self {
        let none = Asked {
            question: 0,
            ports: Ports { src: 0, dst: 0 },
            vip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        Self {
            udp4: Batch { clients: Lanes::NONE, what: [0; LANES] },
            tcp4: Batch { clients: Lanes::NONE, what: [none; LANES] },
            udp6: Batch { clients: Lanes::NONE, what: [0; LANES] },
            tcp6: Batch { clients: Lanes::NONE, what: [none; LANES] },
        }
    }
}

/// The six bytes of an address in a word as they lie in memory, before two bytes of zero.
fn word(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// What no such word is.
const NO_MAC: u64 = u64::MAX;

/// The bytes of an address in such a word.
const MAC_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
