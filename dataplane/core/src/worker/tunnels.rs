//! A worker's tunnels: what it takes out of them, and what it puts into them.

use super::Worker;
use crate::anycast::{Anycast, PeerPath};
use crate::counters::Count;
use crate::decide::Now;
use crate::parse::{Parsed, Payload};
use crate::port::{Host, Port};
use crate::reply;
use crate::slot::Slot;
use crate::snapshot::Service;
use crate::tiered::{Mark, VirtualMac};
use crate::tunnel::{self, Envelope, Inner, Opened};
use crate::verdict::DropReason;

/// Answers to packets that do not fit into a tunnel, a second and at once (RFC 1812, section 4.3.2.8;
/// RFC 4443, section 2.4 (f)). A sender needs one for each path that it has not heard of yet: Linux,
/// too, sends 1,000 and 50 of all its errors.
pub(super) const TOO_BIG_PER_S: u32 = 1_000;
pub(super) const TOO_BIG_BURST: u32 = 50;

/// Takes the packet out of a frame that is a member's tunnel: the frame is then that packet's alone.
/// `None` for any other frame.
#[inline]
pub(super) fn take_out<P: Port>(
    port: &mut P,
    service: &Service,
    anycast: &Anycast,
    frame: &mut P::Frame,
    outer: &Parsed,
) -> Result<Option<Parsed>, DropReason> {
    let tunnel = match tunnel::open(service, anycast, port.bytes(frame), outer) {
        Opened::Plain => return Ok(None),
        Opened::Refused(reason) => return Err(reason),
        Opened::Tunnel(tunnel) => tunnel,
    };
    let (start, len) = tunnel.place();
    port.pull(frame, start);
    port.set_len(frame, len);
    let inner = &mut port.buffer_mut(frame)[..len];
    tunnel.take_out(inner, service, anycast.cluster, outer).map(Some)
}

/// What a packet is sent on by: the member's slot, the way there, and the tunnel's port.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) slot: Slot,
    pub(super) mark: Mark,
    pub(super) port: u16,
}

impl<P: Port, H: Host> Worker<P, H> {
    /// Sends the packet to a member through its tunnel.
    pub(super) fn encapsulate(
        &mut self,
        service: &Service,
        anycast: &Anycast,
        now: Now,
        mut frame: P::Frame,
        parsed: &Parsed,
        way: Way,
    ) {
        let known = service.peers[way.slot.index()].as_ref();
        let Some((path, next_hop)) = known.and_then(|path| Some((path, path.next_hop?))) else {
            return self.drop_frame(frame, DropReason::PeerUnknown);
        };
        let network = usize::from(parsed.network_offset);
        let (Some(inner), Payload::Ip(packet)) =
            (Inner::of(&self.port.bytes(&frame)[network..]), &parsed.payload)
        else {
            unreachable!("only an IP packet is sent on, and it has been parsed");
        };
        if inner.len + tunnel::overhead(path) > usize::from(path.mtu) {
            return self.refuse_too_big(service, anycast, now, frame, parsed, path, inner);
        }
        let headers_len = tunnel::headers_len(service, path);
        self.port.set_len(&mut frame, network + inner.len);
        self.port.push(&mut frame, headers_len - network);
        let Way { port, mark, .. } = way;
        let envelope = Envelope { path, next_hop, port, from: anycast.slot, mark };
        let headers = &mut self.port.buffer_mut(&mut frame)[..headers_len];
        tunnel::emit_headers(headers, service, &envelope, inner, tunnel::entropy(packet));
        self.counters.add(Count::Forwarded, 1);
        self.outgoing.push(frame);
    }

    /// Tells the sender of a packet that does not fit how long it may be, if it may be told.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "all that is known of a packet and its tunnel")]
    fn refuse_too_big(
        &mut self,
        service: &Service,
        anycast: &Anycast,
        now: Now,
        mut frame: P::Frame,
        parsed: &Parsed,
        path: &PeerPath,
        inner: Inner,
    ) {
        let Payload::Ip(packet) = &parsed.payload else {
            unreachable!("only an IP packet is sent on");
        };
        // One from a member has no router in its frame that leads back to its sender.
        let from_member =
            matches!(VirtualMac::of(parsed.src, anycast.cluster), Some(VirtualMac::Mark(..)));
        let mtu = path.mtu.saturating_sub(tunnel::overhead(path) as u16);
        if from_member
            || inner.may_be_fragmented
            || !reply::may_be_told(packet)
            || !self.too_big.admit(now.ns)
        {
            return self.drop_frame(frame, DropReason::TooBig);
        }
        self.port.push(&mut frame, reply::too_big_len(packet));
        let buffer = self.port.buffer_mut(&mut frame);
        let len = reply::too_big(buffer, parsed, packet, service.own_mac, mtu, inner.len);
        self.port.set_len(&mut frame, len);
        self.counters.dropped(DropReason::TooBig);
        self.counters.add(Count::TooBigReplies, 1);
        self.outgoing.push(frame);
    }
}
