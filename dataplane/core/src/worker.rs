//! One worker: a queue of the NIC, its end of the host, and the loop between them; and where the host
//! has no NIC but by the worker, that end too.
//!
//! A worker owns its port, its host queue and its counters; it shares the flow table with the other
//! workers and reads the newest snapshot once per burst. Nothing in it allocates, locks, logs or
//! reads a clock: the caller passes the time in, once per burst.

mod egress;
mod nic_host;
mod pass;
mod tunnels;

pub use nic_host::NicHost;

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::anycast::{Anycast, Steering};
use crate::bucket::Bucket;
use crate::coalesce::Coalescer;
use crate::counters::{Count, WorkerCounters};
use crate::decide::{self, Burst, Decision, Now};
use crate::flow::{FlowTable, Inserted};
use crate::limit::Limiter;
use crate::parse::{Parsed, Payload, parse};
use crate::port::{BURST, Host, Port};
use crate::reply::{self, Place};
use crate::rewrite;
use crate::slot::Slot;
use crate::snapshot::{Ingress, Publication, Service, Snapshot};
use crate::tiered::{Mark, VirtualMac};
use crate::tunnel;
use crate::verdict::{DropReason, ReplyKind, Verdict};
use crate::wire::ethernet::MacAddr;
use tunnels::Way;

/// What all workers of a node share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Where the newest snapshot is.
    pub publication: Arc<Publication>,
    /// The flow table.
    pub flows: Arc<FlowTable>,
    /// Next hops whose MAC address a worker missed; the control thread has them resolved. When it
    /// is full, further ones are dropped: they will be missed again.
    pub unresolved: Arc<ArrayQueue<IpAddr>>,
    /// Claims of VIPs and next-hop addresses that others have made; the control thread judges them.
    /// When it is full, further ones are forgotten: whoever means a claim repeats it.
    pub claims: Arc<ArrayQueue<HeardClaim>>,
}

/// How many next hops may wait for resolution, and how many claims of others for the control thread. A
/// burst's worth: it looks many times a second, and whoever claims faster than that is no better known for
/// it.
const WAITING_MAX: usize = BURST;

impl Shared {
    /// What workers share that begin with `snapshot` and these flows.
    pub fn new(snapshot: Snapshot, flows: FlowTable) -> Self {
        Self {
            publication: Arc::new(Publication::new(snapshot)),
            flows: Arc::new(flows),
            unresolved: Arc::new(ArrayQueue::new(WAITING_MAX)),
            claims: Arc::new(ArrayQueue::new(WAITING_MAX)),
        }
    }
}

/// An ARP packet or a neighbour advertisement that says where one of our addresses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardClaim {
    /// The address: a VIP in the shared-mac mode, a next-hop address in the tiered mode.
    pub address: IpAddr,
    /// The MAC address that it is said to have.
    pub mac: MacAddr,
    /// Whether no member says so: `mac` is not what a member would give. False only in the tiered
    /// mode; in the shared-mac mode members' claims all look alike and are not passed on.
    pub is_foreign: bool,
}

/// Frames that a worker sends on a second, and at once, while it looks for who has their flow. Only what
/// began elsewhere is looked for, so that little is enough: 100,000 a second is a tenth of what one worker receives in
/// a flood of stray segments, which would otherwise cost every member what it costs this one.
const SENT_ON_PER_S: u32 = 100_000;
const SENT_ON_BURST: u32 = 1_000;

/// One worker, over one port and one queue of the host.
#[derive(Debug)]
pub struct Worker<P: Port, H: Host> {
    port: P,
    host: H,
    nic_host: Option<NicHost<H>>,
    shared: Shared,
    counters: Arc<WorkerCounters>,
    /// The frames being worked on. Empty between bursts.
    frames: Vec<P::Frame>,
    /// Where received frames are sorted into, when there is anybody else whose they may be. Empty between
    /// bursts.
    sorted: Vec<P::Frame>,
    /// What is found in them and becomes of them.
    burst: Burst,
    /// Frames for the host, which gets them at the end of the burst. Empty between bursts.
    passed: Vec<P::Frame>,
    /// Which of these it gets as one.
    coalescer: Coalescer,
    /// Frames to transmit at the end of the burst. Empty between bursts.
    outgoing: Vec<P::Frame>,
    /// Where a frame of the host's lies while it is looked at and cut.
    from_host: Box<[u8]>,
    /// How many frames may be sent on in search of their flow.
    searches: Limiter,
    /// How many packets may be answered that do not fit into a tunnel.
    too_big: Limiter,
}

impl<P: Port, H: Host> Worker<P, H> {
    /// A worker that writes `counters`, and is the only one to do so.
    pub fn new(port: P, host: H, shared: Shared, counters: Arc<WorkerCounters>) -> Self {
        let coalescer = Coalescer::new(host.super_packets());
        Self {
            port,
            host,
            nic_host: None,
            shared,
            counters,
            frames: Vec::with_capacity(BURST),
            sorted: Vec::new(),
            burst: Burst::new(),
            passed: Vec::with_capacity(BURST),
            coalescer,
            outgoing: Vec::with_capacity(2 * BURST),
            from_host: vec![0; egress::BUFFER_LEN].into_boxed_slice(),
            searches: Limiter::new(SENT_ON_PER_S, SENT_ON_BURST),
            too_big: Limiter::new(tunnels::TOO_BIG_PER_S, tunnels::TOO_BIG_BURST),
        }
    }

    /// Makes it the worker of a NIC that the host has by `nic_host` alone: whatever is not vipdp's goes there,
    /// and what comes from there is transmitted.
    #[must_use]
    pub fn with_nic_host(mut self, nic_host: NicHost<H>) -> Self {
        self.nic_host = Some(nic_host);
        self.sorted.reserve(BURST);
        self
    }

    /// The port, for what is not a worker's business: statistics, sleeping.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The port, to put frames on in tests.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// The host's queue.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The host's queue, to fill in tests.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// The host's side of the NIC, if it has that from this worker.
    pub fn nic_host(&self) -> Option<&H> {
        self.nic_host.as_ref().map(|nic_host| &nic_host.host)
    }

    /// The host's side of the NIC, to fill in tests.
    pub fn nic_host_mut(&mut self) -> Option<&mut H> {
        self.nic_host.as_mut().map(|nic_host| &mut nic_host.host)
    }

    /// Takes a burst from the NIC and one from the host, and does with every frame what is right.
    /// Returns how many frames there were: with 0 the caller may sleep.
    pub fn poll_once(&mut self, now_ns: u64) -> usize {
        let now = Now::of_ns(now_ns);
        let snapshot = self.shared.publication.load();

        let received = self.port.rx_burst(&mut self.frames);
        if received > 0 {
            self.counters.add(Count::Received, received as u64);
            if self.nic_host.is_some() {
                self.leave_to_host(&snapshot);
            }
            self.decide_burst(&snapshot, now);
            self.apply_burst(&snapshot, now);
            self.hand_over();
        }
        let mut sent_by_host = match snapshot.service.egress {
            Some(_) => self.take_from_host(&snapshot, now),
            None => 0,
        };
        if self.nic_host.is_some() {
            sent_by_host += self.take_from_nic_host();
        }
        self.transmit();
        self.port.housekeeping();
        self.counters.add(Count::Turns, 1);
        received + sent_by_host
    }

    /// Finds out what becomes of each frame of the burst.
    #[inline(never)]
    fn decide_burst(&mut self, snapshot: &Snapshot, now: Now) {
        let Some(anycast) = tunnel::tunnels(&snapshot.service) else {
            let (port, frames) = (&self.port, &self.frames);
            let frame = |at: usize| port.bytes(&frames[at]);
            let (flows, count, ahead) = (&self.shared.flows, frames.len(), P::FETCH_AHEAD);
            return self.burst.judge::<P::Processor>(snapshot, flows, now, count, ahead, frame);
        };
        let mut looking_up = self.burst.begin::<P::Processor>(snapshot, &self.shared.flows, now);
        let service = &*snapshot.service;
        for frame in &mut self.frames {
            let parsed = parse(self.port.bytes(frame));
            let Ok(outer) = &parsed else {
                looking_up.look_up_found(parsed);
                continue;
            };
            match tunnels::take_out(&mut self.port, service, anycast, frame, outer) {
                Ok(None) => looking_up.look_up_found(parsed),
                Ok(Some(inner)) => {
                    self.counters.add(Count::Decapsulated, 1);
                    looking_up.look_up_found(Ok(inner));
                }
                Err(reason) => looking_up.drop(parsed, reason),
            }
        }
        looking_up.decide();
    }

    /// Most frames are others', where all nodes receive all, and while buckets are handed over many go the same
    /// way: what is the same of several in a row is done once.
    #[inline(never)]
    fn apply_burst(&mut self, snapshot: &Snapshot, now: Now) {
        // Put back, empty, so that the next burst finds its memory.
        let mut frames = std::mem::take(&mut self.frames);
        let (decisions, count) = (self.burst.all_decisions(), frames.len());
        let service = &*snapshot.service;
        let (mut not_owned, mut at) = (0, 0);
        let mut frames_left = frames.drain(..);
        while let Some(decision) = decisions[..count].get(at) {
            let rest = decisions[at..count].iter().map(|decision| decision.verdict);
            match decision.verdict {
                // Nothing more is to be known of them.
                Verdict::Drop(DropReason::NotOwner) => {
                    let is_same = |it: &Verdict| matches!(it, Verdict::Drop(DropReason::NotOwner));
                    let run = rest.take_while(is_same).count();
                    self.port.recycle_all(frames_left.by_ref().take(run));
                    (not_owned, at) = (not_owned + run, at + run);
                }
                Verdict::Forward(slot) => {
                    let is_same = |it: &Verdict| matches!(it, Verdict::Forward(to) if *to == slot);
                    let run = rest.take_while(is_same).count();
                    self.forward(service, slot, service.own_mac, frames_left.by_ref().take(run));
                    at += run;
                }
                _ => {
                    let frame = frames_left.next().expect("a frame for each decision");
                    self.apply_decision(service, now, at, frame, decision);
                    at += 1;
                }
            }
        }
        drop(frames_left);
        self.counters.drops_of(DropReason::NotOwner, not_owned as u64);
        self.frames = frames;
    }

    /// Does with packet `at` of the burst what was decided, where more is to be known of it than that.
    #[inline(never)]
    fn apply_decision(
        &mut self,
        service: &Service,
        now: Now,
        at: usize,
        frame: P::Frame,
        decision: &Decision,
    ) {
        self.count_insertion(decision);
        match decision.verdict {
            Verdict::Drop(DropReason::ForeignClaim | DropReason::MemberClaim) => {}
            Verdict::Drop(reason) => return self.drop_frame(frame, reason),
            _ => {}
        }
        match self.burst.parsed(at, self.port.bytes(&frame)) {
            Ok(parsed) => {
                let verdict = match decision.may_come_twice {
                    Some(bucket) => self.once(service, now, &frame, &parsed, bucket),
                    None => decision.verdict,
                };
                self.apply(service, now, frame, &parsed, verdict);
            }
            Err(error) => self.drop_frame(frame, DropReason::Malformed(error)),
        }
    }

    /// Passes a packet that may come twice, but only once.
    fn once(
        &self,
        service: &Service,
        now: Now,
        frame: &P::Frame,
        parsed: &Parsed,
        bucket: Bucket,
    ) -> Verdict {
        let packet = &self.port.bytes(frame)[usize::from(parsed.network_offset)..];
        if decide::came_before(service, &self.shared.flows, now, bucket, packet) {
            Verdict::Drop(DropReason::CameTwice)
        } else {
            Verdict::Pass
        }
    }

    fn count_insertion(&self, decision: &Decision) {
        match decision.inserted {
            Some(Inserted::New) => self.counters.add(Count::FlowsInserted, 1),
            Some(Inserted::Evicted(_)) => {
                self.counters.add(Count::FlowsInserted, 1);
                self.counters.add(Count::FlowsEvicted, 1);
            }
            Some(Inserted::Known(_) | Inserted::Full) | None => {}
        }
    }

    fn apply(
        &mut self,
        service: &Service,
        now: Now,
        frame: P::Frame,
        parsed: &Parsed,
        verdict: Verdict,
    ) {
        match verdict {
            Verdict::Pass => self.pass(service, frame, parsed),
            Verdict::Drop(reason @ (DropReason::ForeignClaim | DropReason::MemberClaim)) => {
                self.tell_of_claim(parsed, reason);
                self.drop_frame(frame, reason);
            }
            Verdict::Drop(reason) => self.drop_frame(frame, reason),
            Verdict::Reply(kind) => self.reply(service, frame, parsed, kind),
            Verdict::Forward(slot) => {
                self.forward(service, slot, service.own_mac, std::iter::once(frame));
            }
            Verdict::SendOn(slot, mark) => self.send_on(service, now, frame, parsed, slot, mark),
        }
    }

    fn drop_frame(&mut self, frame: P::Frame, reason: DropReason) {
        self.counters.dropped(reason);
        self.port.recycle(frame);
    }

    /// Tells the control thread who claims what.
    #[cold]
    fn tell_of_claim(&self, parsed: &Parsed, reason: DropReason) {
        let (address, mac) = match &parsed.payload {
            Payload::Arp(arp) => (IpAddr::V4(arp.sender_ip), arp.sender_mac),
            Payload::NeighborAdvertisement(heard) => {
                (IpAddr::V6(heard.target), heard.target_mac.unwrap_or(parsed.src))
            }
            Payload::NeighborSolicitation(_) | Payload::Ip(_) => return,
        };
        let is_foreign = reason == DropReason::ForeignClaim;
        // Full means that the control thread has enough to do.
        let _ = self.shared.claims.push(HeardClaim { address, mac, is_foreign });
    }

    fn reply(&mut self, service: &Service, mut frame: P::Frame, parsed: &Parsed, kind: ReplyKind) {
        let buffer = self.port.buffer_mut(&mut frame);
        let (len, count) = match (&parsed.payload, kind) {
            (Payload::Arp(request), ReplyKind::Arp) => {
                let place = Place::of(service, request.target_ip.into());
                (reply::arp_reply(buffer, parsed, request, place), Count::ArpReplies)
            }
            (Payload::NeighborSolicitation(request), ReplyKind::NeighborAdvertisement) => {
                let place = Place::of(service, request.target.into());
                let len = reply::neighbor_advertisement(buffer, parsed, request, place);
                (len, Count::NeighborAdvertisements)
            }
            (payload, kind) => unreachable!("{kind:?} is no answer to {payload:?}"),
        };
        self.port.set_len(&mut frame, len);
        self.counters.add(count, 1);
        self.outgoing.push(frame);
    }

    /// Sends frames on to a member: to that member's own address, which tells it that they
    /// were forwarded, and from `source`, which tells it by whom, or why.
    #[inline]
    fn forward(
        &mut self,
        service: &Service,
        slot: Slot,
        source: MacAddr,
        frames: impl ExactSizeIterator<Item = P::Frame>,
    ) {
        let Some(peer) = service.peer_macs[slot.index()] else {
            self.counters.drops_of(DropReason::PeerUnknown, frames.len() as u64);
            return self.port.recycle_all(frames);
        };
        self.counters.add(Count::Forwarded, frames.len() as u64);
        let first = self.outgoing.len();
        self.outgoing.extend(frames);
        for frame in &mut self.outgoing[first..] {
            rewrite::set_link_addresses(self.port.buffer_mut(frame), peer, source);
        }
    }

    /// The same with a mark, or through a tunnel. What is sent on in search of its flow is so as often as
    /// the rate allows; what goes to who serves it is the daily work of steering.
    fn send_on(
        &mut self,
        service: &Service,
        now: Now,
        frame: P::Frame,
        parsed: &Parsed,
        slot: Slot,
        mark: Mark,
    ) {
        let count = match mark {
            Mark::Previous(_) => Count::ForwardedToPrevious,
            Mark::BeforePrevious(_) => Count::ForwardedBeforePrevious,
            Mark::Back(_) => Count::ForwardedBack,
            Mark::Round(_) => Count::ForwardedRound,
            Mark::Steer(_) => Count::ForwardedSteered,
            Mark::Granted(_) => Count::ForwardedGranted,
        };
        let is_search = !matches!(mark, Mark::Steer(_) | Mark::Granted(_));
        if is_search && !self.searches.admit(now.ns) {
            return self.drop_frame(frame, DropReason::ForwardLimited);
        }
        self.counters.add(count, 1);
        let (own, cluster) = match &service.ingress {
            Ingress::Tiered(tiered) => (tiered.slot, tiered.cluster),
            Ingress::Anycast(anycast @ Anycast { steering: Some(Steering::Gue { port }), .. }) => {
                let way = Way { slot, mark, port: *port };
                return self.encapsulate(service, anycast, now, frame, parsed, way);
            }
            Ingress::Anycast(anycast) => (anycast.slot, anycast.cluster),
            Ingress::SharedMac(_) => unreachable!("the shared-mac mode marks no frames"),
        };
        let source = VirtualMac::Mark(own, mark).mac(cluster);
        self.forward(service, slot, source, std::iter::once(frame));
    }

    fn transmit(&mut self) {
        let count = self.outgoing.len();
        if count > 0 {
            let refused = self.port.tx_burst(&mut self.outgoing);
            self.counters.drops_of(DropReason::TxFull, refused as u64);
            self.counters.add(Count::Transmitted, (count - refused) as u64);
        }
    }
}
