//! Neighbour discovery: what of it a node may believe.

use std::net::Ipv6Addr;

use super::{NeighborAdvertisement, NeighborSolicitation, ParseError, Payload, ip};
use crate::wire::ethernet::MacAddr;
use crate::wire::ipv6;
use crate::wire::ndp::{self, Message};

/// Whether an ICMPv6 message is a solicitation or an advertisement.
pub(super) fn is_neighbor(icmp: &[u8]) -> bool {
    matches!(icmp.first(), Some(&(ndp::SOLICITATION | ndp::ADVERTISEMENT)))
}

/// Reads the message `icmp`, of which [`is_neighbor`] is true.
pub(super) fn parse(
    header: ipv6::Header<'_>,
    has_fragment_header: bool,
    icmp: &[u8],
) -> Result<Payload, ParseError> {
    let message = Message::new(icmp)?;
    let (src, dst, target) = (header.src(), header.dst(), message.target());
    // RFC 6980, section 5, for the last.
    let is_valid = header.hop_limit() == ndp::HOP_LIMIT
        && message.code() == 0
        && !target.is_multicast()
        && !has_fragment_header;
    if !is_valid {
        return Err(ParseError::NeighborInvalid);
    }
    if !message.is_intact(src, dst) {
        return Err(ParseError::NeighborChecksum);
    }
    if icmp[0] == ndp::SOLICITATION {
        check_solicitation(&message, src, dst)?;
        return Ok(Payload::NeighborSolicitation(NeighborSolicitation { src, dst, target }));
    }
    let target_mac = check_advertisement(&message, src, dst)?;
    Ok(Payload::NeighborAdvertisement(NeighborAdvertisement { target, target_mac }))
}

/// The rest of RFC 4861, section 7.1.1.
fn check_solicitation(
    message: &Message<'_>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
) -> Result<(), ParseError> {
    let is_detection = src.is_unspecified();
    if !is_detection && !ip::is_sender_v6(src) {
        return Err(ParseError::SourceInvalid);
    }
    if is_detection && !is_solicited_node(dst) {
        return Err(ParseError::NeighborInvalid);
    }
    for option in message.options() {
        if option?.kind == ndp::SOURCE_LINK_ADDRESS && is_detection {
            return Err(ParseError::NeighborInvalid);
        }
    }
    Ok(())
}

/// The rest of RFC 4861, section 7.1.2; returns the target's link-layer address, if it is there.
fn check_advertisement(
    message: &Message<'_>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
) -> Result<Option<MacAddr>, ParseError> {
    if !ip::is_sender_v6(src) {
        return Err(ParseError::SourceInvalid);
    }
    if dst.is_multicast() && message.is_solicited() {
        return Err(ParseError::NeighborInvalid);
    }
    let mut target_mac = None;
    for option in message.options() {
        let option = option?;
        if option.kind == ndp::TARGET_LINK_ADDRESS {
            target_mac = target_mac.or(option.mac());
        }
    }
    Ok(target_mac)
}

/// Whether `address` is a solicited-node group: in ff02::1:ff00:0/104 (RFC 4291, section 2.7.1).
fn is_solicited_node(address: Ipv6Addr) -> bool {
    matches!(address.octets(), [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ..])
}
