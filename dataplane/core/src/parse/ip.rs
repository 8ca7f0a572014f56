//! IPv4 and IPv6 packets, and the transport headers in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Fragment, IpPacket, Link, ParseError, Parsed, Payload, Ports, TcpFlags, Transport};
use super::{icmp, neighbor};
use crate::wire::ipv6::{Extensions, FragmentHeader};
use crate::wire::{ipv4, ipv6, protocol, tcp, udp};

/// The longest payload that fragments may add up to: the length field of either header has 16
/// bits.
const LEN_MAX: usize = 0xffff;

pub(super) fn parse_v4(link: Link, bytes: &[u8]) -> Result<Parsed, ParseError> {
    let packet = ipv4::Packet::new(bytes)?;
    let (header, payload) = (packet.header(), packet.payload());
    let src = header.src();
    if !is_sender_v4(src) {
        return Err(ParseError::SourceInvalid);
    }
    let fragment = if header.is_fragment() { fragment_v4(&packet)? } else { Fragment::Whole };
    let is_later = matches!(fragment, Fragment::Later { .. });
    let (src, dst) = (IpAddr::V4(src), IpAddr::V4(header.dst()));
    let headers = Headers { link, src, dst, fragment, protocol: header.protocol() };
    match headers.protocol {
        _ if is_later => Ok(headers.with(Transport::LaterFragment)),
        protocol::UDP => Ok(headers.with(parse_udp(payload, fragment)?)),
        protocol::TCP => Ok(headers.with(parse_tcp(payload, fragment)?)),
        protocol::ICMPV4 => Ok(headers.with(icmp::parse_v4(payload)?)),
        _ => Ok(headers.with(Transport::Other)),
    }
}

pub(super) fn parse_v6(link: Link, bytes: &[u8]) -> Result<Parsed, ParseError> {
    let packet = ipv6::Packet::new(bytes)?;
    let header = packet.header();
    let mut extensions = Extensions::new(header.next_header(), packet.payload());
    extensions.walk()?;
    let fragment = match extensions.fragment() {
        None => Fragment::Whole,
        Some(fragment) => fragment_v6(&packet, fragment)?,
    };
    let (protocol, payload) = (extensions.next_header(), extensions.rest());
    let is_later = matches!(fragment, Fragment::Later { .. });
    // Before the source is looked at: in duplicate address detection it may be unspecified.
    if protocol == protocol::ICMPV6 && !is_later && neighbor::is_neighbor(payload) {
        let message = neighbor::parse(header, extensions.fragment().is_some(), payload)?;
        return Ok(link.with(message));
    }
    let src = header.src();
    if !is_sender_v6(src) {
        return Err(ParseError::SourceInvalid);
    }
    let (src, dst) = (IpAddr::V6(src), IpAddr::V6(header.dst()));
    let headers = Headers { link, src, dst, fragment, protocol };
    match protocol {
        _ if is_later => Ok(headers.with(Transport::LaterFragment)),
        protocol::UDP => Ok(headers.with(parse_udp(payload, fragment)?)),
        protocol::TCP => Ok(headers.with(parse_tcp(payload, fragment)?)),
        protocol::ICMPV6 => Ok(headers.with(icmp::parse_v6(payload)?)),
        _ => Ok(headers.with(Transport::Other)),
    }
}

/// What is known of a packet before its transport is; see [`Link`].
#[derive(Clone, Copy)]
struct Headers {
    link: Link,
    src: IpAddr,
    dst: IpAddr,
    fragment: Fragment,
    protocol: u8,
}

impl Headers {
    #[inline(always)]
    fn with(self, transport: Transport) -> Parsed {
        let Self { link, src, dst, fragment, protocol } = self;
        link.with(Payload::Ip(IpPacket { src, dst, fragment, protocol, transport }))
    }
}

fn is_sender_v4(src: Ipv4Addr) -> bool {
    !(src.is_multicast() || src.is_loopback() || src.is_unspecified() || src.is_broadcast())
}

/// IPv4-mapped addresses are for use within a host alone (RFC 4291, section 2.5.5.2). A packet
/// that has one pretends to be of the other family.
pub(super) fn is_sender_v6(src: Ipv6Addr) -> bool {
    // The four kinds have either eight ones in front, or eighty zeros: one test for most senders.
    let [first, ..] = src.octets();
    if first != 0 && first != 0xff {
        return true;
    }
    let is_mapped = src.to_ipv4_mapped().is_some();
    !(src.is_multicast() || src.is_loopback() || src.is_unspecified() || is_mapped)
}

fn fragment_v4(packet: &ipv4::Packet<'_>) -> Result<Fragment, ParseError> {
    let header = packet.header();
    let piece = Piece {
        id: u32::from(header.id()),
        offset: header.fragment_offset(),
        more: header.more_fragments(),
        data_len: packet.payload().len(),
        headers_len: header.header_len(),
    };
    piece.checked()
}

fn fragment_v6(packet: &ipv6::Packet<'_>, found: FragmentHeader) -> Result<Fragment, ParseError> {
    if found.offset == 0 && !found.more {
        return Ok(Fragment::Whole);
    }
    let piece = Piece {
        id: found.id,
        offset: usize::from(found.offset),
        more: found.more,
        data_len: found.data_len,
        // Those before the fragment header: that one itself is gone once all is put together.
        headers_len: packet.payload().len() - found.data_len - ipv6::FRAGMENT_LEN,
    };
    piece.checked()
}

/// A fragment of either version.
struct Piece {
    id: u32,
    offset: usize,
    more: bool,
    data_len: usize,
    /// What of the unfragmented headers the length field of the whole datagram counts.
    headers_len: usize,
}

impl Piece {
    fn checked(&self) -> Result<Fragment, ParseError> {
        let is_valid = self.headers_len + self.offset + self.data_len <= LEN_MAX
            && self.data_len > 0
            && (!self.more || self.data_len.is_multiple_of(8));
        match self.offset {
            _ if !is_valid => Err(ParseError::FragmentInvalid),
            0 => Ok(Fragment::First { id: self.id }),
            _ => Ok(Fragment::Later { id: self.id }),
        }
    }
}

#[inline(always)]
fn parse_udp(payload: &[u8], fragment: Fragment) -> Result<Transport, ParseError> {
    let header = udp::Header::new(payload)?;
    // What a first fragment lacks, later ones hold. Less than the payload is allowed: UDP options
    // (RFC 9868) lie in the difference.
    if fragment == Fragment::Whole && usize::from(header.len()) > payload.len() {
        return Err(ParseError::UdpInvalid);
    }
    Ok(Transport::Udp(Ports { src: header.src_port(), dst: header.dst_port() }))
}

#[inline(always)]
fn parse_tcp(payload: &[u8], fragment: Fragment) -> Result<Transport, ParseError> {
    let header = tcp::Header::new(payload)?;
    if fragment == Fragment::Whole && header.header_len() > payload.len() {
        return Err(ParseError::TcpInvalid);
    }
    let flags = header.flags();
    let has = |flag| flags & flag != 0;
    let (syn, ack, fin, rst) = (has(tcp::SYN), has(tcp::ACK), has(tcp::FIN), has(tcp::RST));
    if syn && (fin || rst) || !(syn || ack || rst) {
        return Err(ParseError::TcpFlagsInvalid);
    }
    let ports = Ports { src: header.src_port(), dst: header.dst_port() };
    Ok(Transport::Tcp(ports, TcpFlags { syn, ack, fin, rst }))
}
