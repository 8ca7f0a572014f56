//! Answers of the data plane's own, written over the requests in place.
//!
//! One kind is an error: a packet does not fit into the tunnel to its member ([`too_big`]). All others
//! say where an address is.
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

use crate::parse::{Arp, Fragment, IpPacket, NeighborSolicitation, Parsed, Transport};
use crate::snapshot::{Ingress, Service};
use crate::wire::ethernet::{self, MacAddr, PAYLOAD_MIN};
use crate::wire::{arp, icmpv4, icmpv6, ipv4, ipv6, ndp, protocol};

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

/// Length of the longest IPv4 packet that carries an error (RFC 1812, section 4.3.2.3), in bytes.
const ERROR_LEN_MAX_V4: usize = 576;
/// The same of IPv6: its minimum MTU (RFC 4443, section 2.4 (c)).
const ERROR_LEN_MAX_V6: usize = 1280;
/// Time to live of an error.
const TIME_TO_LIVE: u8 = 64;

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

/// Whether an error about the packet may be sent: it is not one itself, and not a later fragment (RFC
/// 1122, section 3.2.2; RFC 4443, section 2.4 (e)).
pub fn may_be_told(packet: &IpPacket) -> bool {
    let is_error = matches!(packet.transport, Transport::IcmpError(_));
    !is_error && !matches!(packet.fragment, Fragment::Later { .. })
}

/// How many bytes [`too_big`] puts in front of the packet.
pub const fn too_big_len(packet: &IpPacket) -> usize {
    match packet.dst {
        IpAddr::V4(_) => ipv4::HEADER_LEN + icmpv4::HEADER_LEN,
        IpAddr::V6(_) => ipv6::HEADER_LEN + icmpv6::HEADER_LEN,
    }
}

/// Turns a packet into the error that it is too big, from the address it was sent to, and that `mtu`
/// bytes would fit: "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443, section 3.2). It
/// goes back to where the frame came from.
///
/// `buffer` starts [`too_big_len`] bytes before the frame that `parsed` is of; the packet in it is
/// `len` bytes long. Returns the length of the error's frame.
///
/// # Panics
/// If `buffer` does not hold all that.
pub fn too_big(
    buffer: &mut [u8],
    parsed: &Parsed,
    packet: &IpPacket,
    own_mac: MacAddr,
    mtu: u16,
    len: usize,
) -> usize {
    let (growth, link_len) = (too_big_len(packet), usize::from(parsed.network_offset));
    buffer.copy_within(growth..growth + link_len, 0);
    let (link, network) = buffer.split_at_mut(link_len);
    let link = link.first_chunk_mut().expect("a parsed frame has an Ethernet header");
    ethernet::emit_addresses(link, parsed.src, own_mac);
    let (headers, quote) = network.split_at_mut(growth);
    let error_len = match (packet.dst, packet.src) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let error_len = ERROR_LEN_MAX_V4.min(growth + len);
            let quote = &quote[..error_len - growth];
            let (header, message) = headers.split_first_chunk_mut().expect("room for IPv4");
            let fields = ipv4::Fields {
                type_of_service: 0,
                total_len: error_len as u16,
                time_to_live: TIME_TO_LIVE,
                protocol: protocol::ICMPV4,
                src,
                dst,
            };
            ipv4::emit_header(header, fields);
            let message = message.try_into().expect("room for ICMP");
            icmpv4::emit_fragmentation_needed(message, mtu, quote);
            error_len
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let error_len = ERROR_LEN_MAX_V6.min(growth + len);
            let quote = &quote[..error_len - growth];
            let (header, message) = headers.split_first_chunk_mut().expect("room for IPv6");
            let payload_len = (error_len - ipv6::HEADER_LEN) as u16;
            ipv6::emit_header(header, payload_len, protocol::ICMPV6, TIME_TO_LIVE, src, dst);
            let message = message.try_into().expect("room for ICMPv6");
            icmpv6::emit_packet_too_big(message, mtu, quote, src, dst);
            error_len
        }
        families => unreachable!("a packet between {families:?}"),
    };
    link_len + error_len
}
