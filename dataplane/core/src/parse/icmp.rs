//! ICMP and ICMPv6 messages, and the packets that errors quote.

use std::net::IpAddr;

use super::{ParseError, Ports, Quoted, Transport};
use crate::wire::ipv6::Extensions;
use crate::wire::{icmpv4, icmpv6, ipv4, ipv6, protocol};

pub(super) fn parse_v4(payload: &[u8]) -> Result<Transport, ParseError> {
    let message = icmpv4::Message::new(payload)?;
    match message.message_type() {
        icmpv4::ECHO_REQUEST => Ok(Transport::EchoRequest),
        _ if message.is_error() => quoted_v4(message.body()).map(Transport::IcmpError),
        _ => Ok(Transport::Other),
    }
}

pub(super) fn parse_v6(payload: &[u8]) -> Result<Transport, ParseError> {
    let message = icmpv6::Message::new(payload)?;
    match message.message_type() {
        icmpv6::ECHO_REQUEST => Ok(Transport::EchoRequest),
        _ if message.is_error() => quoted_v6(message.body()).map(Transport::IcmpError),
        _ => Ok(Transport::Other),
    }
}

/// The quoted header's checksum and lengths are not checked: routers quote packets as they are at
/// that point, changed and cut.
fn quoted_v4(quote: &[u8]) -> Result<Quoted, ParseError> {
    let header = ipv4::Header::new(quote).map_err(|_| ParseError::IcmpQuoteInvalid)?;
    let protocol = header.protocol();
    let ports = match quote.get(header.header_len()..) {
        Some(transport) if header.fragment_offset() == 0 => quoted_ports(protocol, transport),
        _ => None,
    };
    Ok(Quoted { src: IpAddr::V4(header.src()), dst: IpAddr::V4(header.dst()), protocol, ports })
}

fn quoted_v6(quote: &[u8]) -> Result<Quoted, ParseError> {
    let header = ipv6::Header::new(quote).map_err(|_| ParseError::IcmpQuoteInvalid)?;
    let mut extensions = Extensions::new(header.next_header(), &quote[ipv6::HEADER_LEN..]);
    // Where the quote ends early, the walk stands before an extension header, which has no ports.
    let _ = extensions.walk();
    let protocol = extensions.next_header();
    let ports = match extensions.rest() {
        transport if !extensions.is_later_fragment() => quoted_ports(protocol, transport),
        _ => None,
    };
    Ok(Quoted { src: IpAddr::V6(header.src()), dst: IpAddr::V6(header.dst()), protocol, ports })
}

/// UDP and TCP alike start with the ports.
fn quoted_ports(protocol: u8, transport: &[u8]) -> Option<Ports> {
    match (protocol, transport) {
        (protocol::UDP | protocol::TCP, &[a, b, c, d, ..]) => {
            Some(Ports { src: u16::from_be_bytes([a, b]), dst: u16::from_be_bytes([c, d]) })
        }
        _ => None,
    }
}
