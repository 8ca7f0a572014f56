//! A worker's second host: the host's side of the NIC, where the worker has the whole NIC.
//!
//! ```text
//!   port.rx_burst --> is_ours --+-- yes: decided as any frame
//!                               +-- no:  nic_host.deliver, as it came
//!   nic_host.take --> port.tx_burst, as it was sent
//! ```
//!
//! Where the kernel has the NIC, as with AF_XDP, there is none, and what it costs is one look at that per burst.

use super::Worker;
use crate::classify::{self, TunnelEnd};
use crate::counters::Count;
use crate::port::{BURST, Host, Port, Taken};
use crate::segment::complete_checksum;
use crate::snapshot::Snapshot;
use crate::verdict::DropReason;
use crate::wire::vnet::Offload;

/// The host's side of the NIC.
#[derive(Debug)]
pub struct NicHost<H> {
    /// The queue that the host's own traffic goes by. It is to carry no super-packets.
    pub host: H,
    /// Where other members' tunnels come to, if there are any.
    pub tunnel_end: Option<TunnelEnd>,
}

impl<P: Port, H: Host> Worker<P, H> {
    /// Leaves those of the received frames to the host that are not vipdp's.
    pub(super) fn leave_to_host(&mut self, snapshot: &Snapshot) {
        let Some(NicHost { host, tunnel_end }) = &mut self.nic_host else { return };
        // Both are put back, and so is their memory.
        let mut received = std::mem::replace(&mut self.frames, std::mem::take(&mut self.sorted));
        let (mut delivered, mut refused) = (0, 0);
        for frame in received.drain(..) {
            let bytes = self.port.bytes(&frame);
            if classify::is_ours(&snapshot.service, tunnel_end.as_ref(), bytes) {
                self.frames.push(frame);
                continue;
            }
            match host.deliver_frame(bytes) {
                Ok(()) => delivered += 1,
                Err(_) => refused += 1,
            }
            self.port.recycle(frame);
        }
        self.sorted = received;
        self.counters.add(Count::ToNicHost, delivered);
        self.counters.drops_of(DropReason::NicHostFull, refused);
    }

    /// Queues what the host sends by its NIC, a burst of it at most. Returns how many frames there were.
    pub(super) fn take_from_nic_host(&mut self) -> usize {
        // What there is so far goes first, so that the list has room for all of it.
        self.transmit();
        let mut frames = 0;
        while frames < BURST && self.port.tx_room() > self.outgoing.len() {
            let Some(NicHost { host, .. }) = &mut self.nic_host else { break };
            let Some(mut frame) = self.port.alloc() else { break };
            let buffer = self.port.buffer_mut(&mut frame);
            let Some(Taken { len, offload }) = host.take(buffer) else {
                self.port.recycle(frame);
                break;
            };
            frames += 1;
            // One that fills the buffer may have been cut.
            let is_cut = len >= buffer.len();
            let is_complete = match offload {
                Offload { checksum: None, segments: None } => true,
                Offload { checksum: Some(partial), segments: None } => {
                    complete_checksum(&mut buffer[..len], partial).is_ok()
                }
                Offload { segments: Some(_), .. } => false,
            };
            if is_cut {
                self.drop_frame(frame, DropReason::TxTooLong);
            } else if is_complete {
                self.port.set_len(&mut frame, len);
                self.outgoing.push(frame);
            } else {
                self.drop_frame(frame, DropReason::HostOffload);
            }
        }
        self.counters.add(Count::FromNicHost, frames as u64);
        frames
    }
}
