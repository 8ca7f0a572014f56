//! The shared-mac mode's short way: what becomes of an untagged, [ordinary](crate::parse::ordinary)
//! packet of the network's.
//!
//! What such a packet is decided by is put together once for a burst. An untracked datagram has its verdict
//! then after one hash and one look at its bucket; of a TCP segment remains what the flow table says.
//! Whatever is not that plain is left to [`lookup`](super::lookup) and [`decide`](super::decide): a bucket
//! that is being handed over, a frame that a member has sent on, a sticky port, what is not for a VIP. What
//! is said here is what they would say, as a test of [`Burst`](super::Burst) shows.

use super::burst::Burst;
use super::shared_mac::Segment;
use super::{Decision, Now};
use crate::bucket::Bucket;
use crate::flow::FlowTable;
use crate::parse::ordinary::Shape;
use crate::parse::{Payload, Transport};
use crate::snapshot::{Ingress, Service, SharedMac, Snapshot};
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
    /// What the VIPs of each family resolve to.
    shared4: u64,
    shared6: u64,
    /// Ports of which some flows are tracked, as far as 64 bits tell: the bit of a port's lowest six.
    /// All are set where even an answer to the host may come from a client's port.
    may_track: u64,
}

impl<'a> Rules<'a> {
    /// The rules for a burst; `None` in other modes, and where VIPs are on a tagged segment.
    pub(super) fn new(snapshot: &'a Snapshot, flows: &'a FlowTable) -> Option<Self> {
        let service = &*snapshot.service;
        let (&Ingress::SharedMac(SharedMac { v4, v6 }), None) = (&service.ingress, service.vlan)
        else {
            return None;
        };
        if v4 == service.own_mac || v6 == service.own_mac {
            return None;
        }
        let may_track = match service.egress {
            Some(_) => u64::MAX,
            None => service.sticky_udp_ports.iter().fold(0, |all, port| all | 1 << (port % 64)),
        };
        Some(Self { snapshot, service, flows, shared4: word(v4), shared6: word(v6), may_track })
    }

    /// Takes the next frame of a burst; false, and nothing is done, if the rules do not tell what becomes of
    /// it.
    #[inline(always)]
    pub(super) fn judge(&self, frame: &[u8], burst: &mut Burst) -> bool {
        // An arm for each: what is known of a shape need not be asked for again.
        let judged = match Shape::of(frame) {
            Some(Shape::Udp4) => self.judge_as(Shape::Udp4, self.shared4, frame, burst),
            Some(Shape::Tcp4) => self.judge_as(Shape::Tcp4, self.shared4, frame, burst),
            Some(Shape::Udp6) => self.judge_as(Shape::Udp6, self.shared6, frame, burst),
            Some(Shape::Tcp6) => self.judge_as(Shape::Tcp6, self.shared6, frame, burst),
            None => None,
        };
        judged.is_some()
    }

    #[inline(always)]
    fn judge_as(&self, shape: Shape, shared: u64, frame: &[u8], burst: &mut Burst) -> Option<()> {
        let Payload::Ip(packet) = shape.parse(frame)?.payload else { return None };
        let is_to_shared = u64::from_ne_bytes(*frame.first_chunk()?) & MAC_MASK == shared;
        if !(is_to_shared && self.service.vips.contains(packet.dst)) {
            return None;
        }
        match packet.transport {
            Transport::Udp(ports) => {
                if self.may_track >> (ports.dst % 64) & 1 != 0 {
                    return None;
                }
                let hash = self.service.client_hash.hash(packet.src, ports.src);
                let place = self.snapshot.holdings.settled(Bucket::of_hash(hash))?;
                burst.push_untracked(shape, place);
            }
            Transport::Tcp(ports, flags) => {
                let hash = self.service.client_hash.hash(packet.src, ports.src);
                let key = self.flows.key(hash, ports.src, packet.dst, ports.dst, TCP);
                let bucket = Bucket::of_hash(hash);
                burst.ask_segment(shape, Segment { key, bucket, flags, forwarded: false });
            }
            _ => return None,
        }
        Some(())
    }
}

/// The six bytes of an address in a word as they lie in memory, before two bytes of zero.
fn word(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// The bytes of an address in such a word.
const MAC_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
