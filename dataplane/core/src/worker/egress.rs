//! A worker's way out: what the host sends by way of the data plane.

use super::Worker;
use crate::counters::Count;
use crate::decide::{self, EgressVerdict, Now};
use crate::parse::parse;
use crate::port::{BURST, Host, Port, Taken};
use crate::rewrite;
use crate::snapshot::{Service, Snapshot};
use crate::verdict::DropReason;
use crate::wire::ethernet::{self, MacAddr};

impl<P: Port, H: Host> Worker<P, H> {
    /// Takes a burst of frames that the host sends and queues those that may leave.
    pub(super) fn take_from_host(&mut self, snapshot: &Snapshot, now: Now) -> usize {
        let service = &*snapshot.service;
        let room_for_tag = service.vlan.map_or(0, |_| ethernet::TAG_LEN);
        for taken in 0..BURST {
            let Some(mut frame) = self.port.alloc() else { return taken };
            let buffer = self.port.buffer_mut(&mut frame);
            let Some(Taken { len, .. }) = self.host.take(&mut buffer[room_for_tag..]) else {
                self.port.recycle(frame);
                return taken;
            };
            self.counters.add(Count::FromHost, 1);
            let verdict = match parse(&buffer[room_for_tag..room_for_tag + len]) {
                Ok(parsed) => decide::decide_egress(snapshot, &self.shared.flows, now, &parsed),
                Err(error) => EgressVerdict::Drop(DropReason::Malformed(error)),
            };
            match verdict {
                EgressVerdict::Transmit(to) => self.send_for_host(service, frame, len, to),
                EgressVerdict::Drop(reason) => self.drop_frame(frame, reason),
                EgressVerdict::Unresolved(next_hop) => {
                    // Full means that the control thread has enough to do.
                    let _ = self.shared.unresolved.push(next_hop);
                    self.drop_frame(frame, DropReason::NoNeighbor);
                }
            }
        }
        BURST
    }

    fn send_for_host(&mut self, service: &Service, mut frame: P::Frame, len: usize, to: MacAddr) {
        let buffer = self.port.buffer_mut(&mut frame);
        let len = match service.vlan {
            Some(vlan) => rewrite::push_tag(&mut buffer[..ethernet::TAG_LEN + len], vlan),
            None => len,
        };
        rewrite::set_link_addresses(buffer, to, service.own_mac);
        self.port.set_len(&mut frame, len);
        self.outgoing.push(frame);
    }
}
