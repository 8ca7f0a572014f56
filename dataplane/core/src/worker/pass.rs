//! A worker's way in: what the host gets.

use super::Worker;
use crate::counters::Count;
use crate::parse::Parsed;
use crate::port::{Host, Port, Refused};
use crate::rewrite;
use crate::snapshot::Service;
use crate::verdict::DropReason;
use crate::wire::ethernet;

impl<P: Port, H: Host> Worker<P, H> {
    /// Hands the frame to the host: addressed to the host, or TCP would take it for somebody
    /// else's, and without its tag.
    pub(super) fn pass(&mut self, service: &Service, mut frame: P::Frame, parsed: &Parsed) {
        let len = self.port.bytes(&frame).len();
        if len - usize::from(parsed.network_offset) > usize::from(service.host_mtu) {
            return self.drop_frame(frame, DropReason::HostTooLong);
        }
        let buffer = &mut self.port.buffer_mut(&mut frame)[..len];
        let start = if usize::from(parsed.network_offset) > ethernet::HEADER_LEN {
            rewrite::strip_tag(buffer)
        } else {
            0
        };
        rewrite::set_link_addresses(&mut buffer[start..], service.host_mac, parsed.src);
        match self.host.deliver_frame(&buffer[start..]) {
            Ok(()) => self.counters.add(Count::Passed, 1),
            Err(Refused::Full) => self.counters.dropped(DropReason::HostFull),
            Err(Refused::TooLong) => self.counters.dropped(DropReason::HostTooLong),
        }
        self.port.recycle(frame);
    }
}
