//! The rules of the `anycast` mode: the network sends a packet to any node that announces the VIP.

use super::{Decision, Lookup, Now, dropped};
use crate::parse::{Parsed, Payload};
use crate::snapshot::{Service, Snapshot};
use crate::verdict::{DropReason, Verdict};

/// An IP packet to a VIP.
#[derive(Clone, Copy, Debug)]
pub struct Packet;

pub(super) fn lookup(service: &Service, parsed: &Parsed) -> Lookup {
    let Payload::Ip(packet) = &parsed.payload else {
        return dropped(DropReason::NotARequest);
    };
    if !service.vips.contains(packet.dst) {
        return dropped(DropReason::NotVip);
    }
    if parsed.dst != service.own_mac {
        return dropped(DropReason::WrongMac);
    }
    Lookup::Anycast(Packet)
}

/// Whatever the network sends here is served here, for as long as this node may serve.
pub(super) fn decide(snapshot: &Snapshot, now: Now, _: &Packet) -> Decision {
    match now.ns <= snapshot.lease_until_ns {
        true => Verdict::Pass.into(),
        false => Verdict::Drop(DropReason::LeaseExpired).into(),
    }
}
