//! Answers of the data plane's own, written over the requests in place.
//!
//! An answer says that an address is at a MAC address. In the shared-mac mode the VIPs are at the
//! shared one, and the answer is sent from the node's own: a switch learns from Ethernet sources,
//! and were it to learn the shared address on one port, the other nodes would get nothing any more.
//! The two addresses must not be mixed up, here least of all. In the tiered mode the switch shall
//! learn where a next-hop address is, and the two are one.
//!
//! ```text
//!                             shared-mac    tiered, virtual MAC    tiered, node's MAC
//! Ethernet source             own           the address's          own             seen by switches
//! sender hardware address,    shared        the address's          own             seen by whoever asked
//! target link-layer address
//! ```
//!
//! An answer goes to the request's Ethernet source, not to the sender address in its payload:
//! what sits there may be a node of this cluster, whose payload names the shared MAC, and then
//! every node would hear it. It keeps the request's tag, priority included.

use std::net::IpAddr;

use crate::parse::{Arp, NeighborSolicitation, Parsed};
use crate::snapshot::{Ingress, Service};
use crate::wire::ethernet::{self, MacAddr, PAYLOAD_MIN};
use crate::wire::{arp, ipv6, ndp, protocol};

/// Where an address is said to be, and where from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The MAC address that is told.
    pub mac: MacAddr,
    /// The Ethernet source of the frame that tells it.
    pub source: MacAddr,
}

impl Place {
    /// Where `address` is, a VIP of the shared-mac mode or a next-hop address of the tiered one. Any
    /// other address is at the node itself.
    pub fn of(service: &Service, address: IpAddr) -> Self {
        let own = service.own_mac;
        match (&service.ingress, address) {
            (Ingress::SharedMac(shared), IpAddr::V4(_)) => Self { mac: shared.v4, source: own },
            (Ingress::SharedMac(shared), IpAddr::V6(_)) => Self { mac: shared.v6, source: own },
            (Ingress::Anycast(_), _) => Self { mac: own, source: own },
            (Ingress::Tiered(tiered), address) => {
                let number = tiered.number(address);
                let mac = number.map_or(own, |number| tiered.mac_of(number, own));
                Self { mac, source: mac }
            }
        }
    }
}

/// The MAC address of all nodes (RFC 2464, section 7).
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Turns an ARP request into its reply: `request.target_ip` is at `place`. Returns the length of
/// the frame, padded to 46 bytes of payload: 60, or 64 with a tag.
///
/// # Panics
/// If `buffer` is too short for the reply, or `parsed` is not of the frame in it.
pub fn arp_reply(buffer: &mut [u8], parsed: &Parsed, request: &Arp, place: Place) -> usize {
    let (header, payload) = buffer.split_at_mut(usize::from(parsed.network_offset));
    let header = header.first_chunk_mut().expect("a parsed frame has an Ethernet header");
    ethernet::emit_addresses(header, parsed.src, place.source);
    let (packet, padding) = payload.split_first_chunk_mut().expect("a buffer for a whole frame");
    let (target_mac, target_ip) = (request.sender_mac, request.sender_ip);
    arp::emit_reply(packet, place.mac, request.target_ip, target_mac, target_ip);
    padding[..PAYLOAD_MIN - arp::LEN].fill(0);
    usize::from(parsed.network_offset) + PAYLOAD_MIN
}

/// Turns a neighbour solicitation into its advertisement: `solicitation.target` is at
/// `place`. Returns the length of the frame: 86, or 90 with a tag.
///
/// The solicitation of a host that wants the address for itself (duplicate address detection: its
/// source is unspecified) is answered to all nodes, unsolicited (RFC 4861, section 7.2.4).
///
/// The override flag is set, although that section wants it clear for an anycast address. It
/// wants so because there several nodes answer, each with its own MAC address, and the first one
/// shall stay. Here whichever node answers names the same MAC address, so nothing is gained by
/// keeping an older entry; and an entry that differs is wrong (the VIP was a plain host's before),
/// and only the flag replaces it.
///
/// # Panics
/// If `buffer` is too short for the advertisement, or `parsed` is not of the frame in it.
pub fn neighbor_advertisement(
    buffer: &mut [u8],
    parsed: &Parsed,
    solicitation: &NeighborSolicitation,
    place: Place,
) -> usize {
    let target = solicitation.target;
    let is_solicited = !solicitation.src.is_unspecified();
    let (dst, dst_mac) =
        if is_solicited { (solicitation.src, parsed.src) } else { (ndp::ALL_NODES, ALL_NODES_MAC) };
    let (link, network) = buffer.split_at_mut(usize::from(parsed.network_offset));
    let link = link.first_chunk_mut().expect("a parsed frame has an Ethernet header");
    ethernet::emit_addresses(link, dst_mac, place.source);
    let (header, payload) = network.split_first_chunk_mut().expect("a buffer for a whole frame");
    let payload_len = ndp::ADVERTISEMENT_LEN as u16;
    ipv6::emit_header(header, payload_len, protocol::ICMPV6, ndp::HOP_LIMIT, target, dst);
    let message = payload.first_chunk_mut().expect("a buffer for a whole frame");
    ndp::emit_advertisement(message, target, place.mac, dst, is_solicited);
    usize::from(parsed.network_offset) + ipv6::HEADER_LEN + ndp::ADVERTISEMENT_LEN
}
