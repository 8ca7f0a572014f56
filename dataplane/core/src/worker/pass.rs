//! A worker's way in: what the host gets.

use super::Worker;
use crate::coalesce::{Delivery, RunOf};
use crate::counters::{Count, WorkerCounters};
use crate::parse::{Parsed, Payload};
use crate::port::{Host, PIECES_MAX, Port, Refused};
use crate::rewrite;
use crate::snapshot::Service;
use crate::verdict::DropReason;
use crate::wire::ethernet::{HEADER_LEN, TAG_LEN};

impl<P: Port, H: Host> Worker<P, H> {
    /// Makes the frame one for the host, which gets it at the end of the burst: addressed to the host, or
    /// TCP would take it for somebody else's, and without its tag.
    pub(super) fn pass(&mut self, service: &Service, mut frame: P::Frame, parsed: &Parsed) {
        let len = self.port.bytes(&frame).len();
        if len - usize::from(parsed.network_offset) > usize::from(service.host_mtu) {
            return self.drop_frame(frame, DropReason::HostTooLong);
        }
        if usize::from(parsed.network_offset) > HEADER_LEN {
            rewrite::strip_tag(self.port.buffer_mut(&mut frame));
            self.port.pull(&mut frame, TAG_LEN);
        }
        let buffer = self.port.buffer_mut(&mut frame);
        rewrite::set_link_addresses(buffer, service.host_mac, parsed.src);
        let packet = match &parsed.payload {
            Payload::Ip(packet) => Some(packet),
            Payload::Arp(_)
            | Payload::NeighborSolicitation(_)
            | Payload::NeighborAdvertisement(_) => None,
        };
        self.passed.push(frame);
        let (port, passed) = (&self.port, &self.passed);
        self.coalescer.add(packet, |number| port.bytes(&passed[number]));
    }

    /// Hands to the host what has passed.
    pub(super) fn hand_over(&mut self) {
        if self.passed.is_empty() {
            return;
        }
        let (port, host) = (&self.port, &mut self.host);
        for (number, frame) in self.passed.iter().enumerate() {
            match self.coalescer.delivery(number) {
                Delivery::Alone => deliver(host, port.bytes(frame), &self.counters),
                Delivery::Run(run) => deliver_run(host, run, port, &self.passed, &self.counters),
                Delivery::Followed => {}
            }
        }
        self.coalescer.clear();
        for frame in self.passed.drain(..) {
            self.port.recycle(frame);
        }
    }
}

#[inline]
fn deliver<H: Host>(host: &mut H, frame: &[u8], counters: &WorkerCounters) {
    match host.deliver_frame(frame) {
        Ok(()) => counters.add(Count::Passed, 1),
        Err(refused) => counters.dropped(reason(refused)),
    }
}

/// Hands a run over as one super-packet or, if the host then says that it is none, frame by frame.
fn deliver_run<P: Port, H: Host>(
    host: &mut H,
    run: RunOf<'_>,
    port: &P,
    passed: &[P::Frame],
    counters: &WorkerCounters,
) {
    let bytes = |number: usize| port.bytes(&passed[number]);
    let headers = run.headers(bytes);
    let mut pieces = [headers.bytes(); PIECES_MAX];
    for (piece, payload) in pieces[1..].iter_mut().zip(run.payloads(bytes)) {
        *piece = payload;
    }
    let count = run.count();
    match host.deliver(headers.offload, &pieces[..=count]) {
        Ok(()) => {
            counters.add(Count::Passed, count as u64);
            counters.add(Count::Coalesced, count as u64);
            counters.add(Count::SuperPackets, 1);
        }
        Err(Refused::TooLong) => {
            for number in run.frames() {
                deliver(host, bytes(number), counters);
            }
        }
        Err(refused @ Refused::Full) => counters.drops_of(reason(refused), count as u64),
    }
}

const fn reason(refused: Refused) -> DropReason {
    match refused {
        Refused::Full => DropReason::HostFull,
        Refused::TooLong => DropReason::HostTooLong,
    }
}
