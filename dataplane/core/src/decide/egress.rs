//! What becomes of frames that the host sends by way of the data plane, and the flows that it opens.

use std::net::{IpAddr, Ipv4Addr};

use super::{Now, flow_of, opens};
use crate::bucket::Bucket;
use crate::flow::{FlowState, FlowTable};
use crate::parse::{IpPacket, Parsed, Payload, Ports, Transport};
use crate::snapshot::{Holding, Ingress, Service, Snapshot};
use crate::verdict::DropReason;
use crate::wire::ethernet::MacAddr;
use crate::wire::protocol::{TCP, UDP};

/// What becomes of a frame that the host sends by way of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressVerdict {
    /// It leaves, to this MAC address.
    Transmit(MacAddr),
    /// Its next hop's MAC address must be found first.
    Unresolved(IpAddr),
    /// It must not leave.
    Drop(DropReason),
}

/// Decides about a frame from the host, and tracks the flows that the host opens from a VIP: a TCP
/// connection by its SYN, and in the shared-mac mode a datagram to a client whose bucket is not ours,
/// since the answer would otherwise be taken for another node's. In the tiered mode the answer to a
/// datagram comes to whichever node the router chooses; tracking it here would not bring it here.
pub fn decide_egress(
    snapshot: &Snapshot,
    flows: &FlowTable,
    now: Now,
    parsed: &Parsed,
) -> EgressVerdict {
    let service = &*snapshot.service;
    let (Some(egress), Payload::Ip(packet)) = (&service.egress, &parsed.payload) else {
        return EgressVerdict::Drop(DropReason::NotFromVip);
    };
    if !service.vips.contains(packet.src) {
        return EgressVerdict::Drop(DropReason::NotFromVip);
    }
    if let Some(mac) = group_mac(packet.dst) {
        return EgressVerdict::Transmit(mac);
    }
    match packet.transport {
        Transport::Tcp(ports, flags) if opens(flags) => {
            track_outgoing(service, flows, now, packet, ports, TCP, FlowState::Embryonic);
        }
        Transport::Udp(ports) if matches!(service.ingress, Ingress::SharedMac(_)) => {
            let hash = service.client_hash.hash(packet.dst, ports.dst);
            let holding = snapshot.holdings.get(Bucket::of_hash(hash));
            if !matches!(holding, Holding::Owned | Holding::TakenOver) {
                track_outgoing(service, flows, now, packet, ports, UDP, FlowState::Datagram);
            }
        }
        _ => {}
    }
    let Some(next_hop) = egress.next_hop(packet.dst) else {
        return EgressVerdict::Drop(DropReason::NoNeighbor);
    };
    match egress.mac(next_hop) {
        Some(mac) => EgressVerdict::Transmit(mac),
        None => EgressVerdict::Unresolved(next_hop),
    }
}

fn track_outgoing(
    service: &Service,
    flows: &FlowTable,
    now: Now,
    packet: &IpPacket,
    ports: Ports,
    protocol: u8,
    state: FlowState,
) {
    let returning = Ports { src: ports.dst, dst: ports.src };
    let (hash, key) = flow_of(service, flows, packet.dst, packet.src, protocol, returning);
    if flows.refresh(key, now.seconds, state).is_none() {
        // Without room the packet leaves all the same: its answer may still find us the owner.
        flows.insert(key, Bucket::of_hash(hash), state, now.seconds);
    }
}

/// The MAC address of an IP group (RFC 1112, section 6.4; RFC 2464, section 7).
fn group_mac(address: IpAddr) -> Option<MacAddr> {
    match address {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(MacAddr::BROADCAST),
        IpAddr::V4(group) => MacAddr::of_ipv4_group(group),
        IpAddr::V6(group) => MacAddr::of_ipv6_group(group),
    }
}
