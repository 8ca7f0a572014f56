//! A worker's way out: what the host sends by way of the data plane.
//!
//! ```text
//!  host.take --> parse --> decide_egress --> link addresses, tag --> one port frame, or one for each
//!                                                                    packet of a super-packet
//! ```
//!
//! All but the last is done once for a super-packet, in the worker's own buffer, which holds one frame
//! of the host's of any length.

use super::Worker;
use crate::counters::Count;
use crate::decide::{self, EgressVerdict, Now};
use crate::parse::{Parsed, Payload, parse};
use crate::port::{BURST, Host, Port, Taken, TxWhole};
use crate::rewrite;
use crate::segment::{Cut, complete_checksum};
use crate::snapshot::{Service, Snapshot};
use crate::verdict::DropReason;
use crate::wire::ethernet::{HEADER_LEN, MacAddr, TAG_LEN};
use crate::wire::vnet::Offload;

/// Length of the buffer for a frame of the host's: room for a tag, an Ethernet header, and the longest
/// packet there is: IPv6's, whose length field does not count its header.
pub(super) const BUFFER_LEN: usize = TAG_LEN + HEADER_LEN + 40 + 65_535;

/// How often a worker lets the port transmit before a super-packet of more packets than its ring has room for
/// loses its rest. 256: at a microsecond each, a NIC of 10 Gbit/s sends 3,800 packets of the shortest in the
/// meantime; one that sends nothing holds the worker up for a quarter of a millisecond.
const WAITS_MAX: u32 = 256;

impl<P: Port, H: Host> Worker<P, H> {
    /// Takes frames that the host sends and queues what may leave, about a burst of it. What the port
    /// has no room for stays with the host, which then waits for us. Returns how many frames there were,
    /// each packet of a super-packet counted as one.
    pub(super) fn take_from_host(&mut self, snapshot: &Snapshot, now: Now) -> usize {
        // It is put back: an empty slice takes no memory.
        let mut buffer = std::mem::take(&mut self.from_host);
        let mut frames = 0;
        // Of full-sized packets a super-packet holds 46 at most, thus less than a burst.
        while frames < BURST && self.port.tx_room() >= self.outgoing.len() + BURST {
            let Some(Taken { len, offload }) = self.host.take(&mut buffer[TAG_LEN..]) else {
                break;
            };
            self.counters.add(Count::FromHost, 1);
            let with_room = &mut buffer[..TAG_LEN + len];
            frames += match self.decide_egress(snapshot, now, &with_room[TAG_LEN..]) {
                Ok((parsed, to)) => {
                    self.send_for_host(&snapshot.service, with_room, &parsed, offload, to)
                }
                Err(reason) => {
                    self.counters.dropped(reason);
                    1
                }
            };
        }
        self.from_host = buffer;
        frames
    }

    /// Whether a frame of the host's may leave, and to which MAC address.
    fn decide_egress(
        &self,
        snapshot: &Snapshot,
        now: Now,
        frame: &[u8],
    ) -> Result<(Parsed, MacAddr), DropReason> {
        let parsed = parse(frame).map_err(DropReason::Malformed)?;
        match decide::decide_egress(snapshot, &self.shared.flows, now, &parsed) {
            EgressVerdict::Transmit(to) => Ok((parsed, to)),
            EgressVerdict::Drop(reason) => Err(reason),
            EgressVerdict::Unresolved(next_hop) => {
                // Full means that the control thread has enough to do.
                let _ = self.shared.unresolved.push(next_hop);
                Err(DropReason::NoNeighbor)
            }
        }
    }

    /// Queues what is in a frame of the host's, which lies behind the room for a tag. Returns how many
    /// packets that is.
    fn send_for_host(
        &mut self,
        service: &Service,
        with_room: &mut [u8],
        parsed: &Parsed,
        offload: Offload,
        to: MacAddr,
    ) -> usize {
        if let Offload { checksum: Some(partial), segments: None } = offload
            && complete_checksum(&mut with_room[TAG_LEN..], partial).is_err()
        {
            self.counters.dropped(DropReason::HostOffload);
            return 1;
        }
        let start = match service.vlan {
            Some(vlan) => {
                rewrite::push_tag(with_room, vlan);
                0
            }
            None => TAG_LEN,
        };
        let frame = &mut with_room[start..];
        rewrite::set_link_addresses(frame, to, service.own_mac);
        let network = usize::from(parsed.network_offset) + TAG_LEN - start;
        let frame_len_max = network + usize::from(service.host_mtu);
        let Some(segments) = offload.segments else {
            let emit = |into: &mut [u8]| into[..frame.len()].copy_from_slice(frame);
            self.send_packet(frame.len(), frame_len_max, emit);
            return 1;
        };
        let Payload::Ip(packet) = &parsed.payload else {
            unreachable!("nothing but IP leaves");
        };
        let Ok(cut) = Cut::new(frame, network, packet, segments) else {
            self.counters.dropped(DropReason::HostOffload);
            return 1;
        };
        // A vnet header of ours says nothing of CWR.
        let whole_may_leave = service.vlan.is_none()
            && offload.checksum.is_some()
            && cut.frame_len(0) <= frame_len_max
            && !cut.is_told_of_congestion();
        if whole_may_leave {
            self.transmit();
            match self.port.tx_whole(offload, frame) {
                TxWhole::Sent => {
                    self.counters.add(Count::FromHostWhole, 1);
                    self.counters.add(Count::Transmitted, cut.count() as u64);
                    return cut.count();
                }
                TxWhole::Full => {
                    self.counters.drops_of(DropReason::TxFull, cut.count() as u64);
                    return cut.count();
                }
                TxWhole::Unable => {}
            }
        }
        self.counters.add(Count::FromHostCut, 1);
        let mut waits = WAITS_MAX;
        for n in 0..cut.count() {
            self.make_room(&mut waits);
            let emit = |into: &mut [u8]| {
                cut.emit(n, into);
            };
            self.send_packet(cut.frame_len(n), frame_len_max, emit);
        }
        cut.count()
    }

    /// Sees to it that there is room for one more packet. If there is none, what is queued is transmitted
    /// and reaped, as often as `waits` still allows; after that, what finds no room is lost.
    #[inline]
    fn make_room(&mut self, waits: &mut u32) {
        if self.port.tx_room() > self.outgoing.len() {
            return;
        }
        self.transmit();
        while self.port.tx_room() == 0 && *waits > 0 {
            *waits -= 1;
            self.port.housekeeping();
        }
    }

    /// Queues a packet of `len` bytes, link header included, which `emit` writes.
    fn send_packet(&mut self, len: usize, len_max: usize, emit: impl FnOnce(&mut [u8])) {
        // More than the list holds is sent at once: it never grows.
        if self.outgoing.len() == self.outgoing.capacity() {
            self.transmit();
        }
        let Some(mut frame) = self.port.alloc() else {
            return self.counters.dropped(DropReason::TxFull);
        };
        let buffer = self.port.buffer_mut(&mut frame);
        if len > len_max.min(buffer.len()) {
            return self.drop_frame(frame, DropReason::TxTooLong);
        }
        emit(buffer);
        self.port.set_len(&mut frame, len);
        self.outgoing.push(frame);
    }
}
