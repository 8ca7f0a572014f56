//! One pass over a frame: from bytes to what a verdict needs to know.
//!
//! ```text
//! Ethernet, 802.1Q --+-- ARP ------------------------------> Arp
//!                    |
//!                    +-- IPv4, options -----+-- UDP, TCP --> Ip
//!                    |                      +-- ICMP ------> Ip, with the quoted addresses
//!                    |                      +-- other -----> Ip
//!                    |
//!                    +-- IPv6, extensions --+-- the same
//!                                           +-- NDP -------> Neighbor...
//! ```
//!
//! What always holds: no bytes make [`parse`] panic, allocate or loop longer than the frame is;
//! what it does not refuse lies within the frame, whatever the length fields say. What only the
//! host's stack needs, it does not check: the checksums of UDP, TCP and ICMP, the contents of
//! options.

mod icmp;
mod ip;
mod neighbor;
pub(crate) mod ordinary;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use crate::wire::ParseError;

use ordinary::Shape;

use crate::wire::ethernet::{Frame, HEADER_LEN, MacAddr, TAG_LEN, Tagged};
use crate::wire::{arp, ethernet};

/// What [`parse`] found in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Ethernet destination.
    pub dst: MacAddr,
    /// Ethernet source.
    pub src: MacAddr,
    /// VLAN identifier, 1..=4094, if the frame has an 802.1Q tag with one. A priority tag
    /// (identifier 0) counts as untagged.
    pub vlan: Option<u16>,
    /// Where the network header starts: 14, or 18 behind a tag.
    pub network_offset: u16,
    /// What the frame carries.
    pub payload: Payload,
}

/// What a frame carries, as far as the data plane cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// An ARP packet for IPv4 over Ethernet.
    Arp(Arp),
    /// An ICMPv6 neighbour solicitation, checked as RFC 4861, section 7.1.1 demands.
    NeighborSolicitation(NeighborSolicitation),
    /// An ICMPv6 neighbour advertisement, checked as RFC 4861, section 7.1.2 demands.
    NeighborAdvertisement(NeighborAdvertisement),
    /// Any other IPv4 or IPv6 packet.
    Ip(IpPacket),
}

/// An ARP packet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whether the operation is request (1), else reply (2).
    pub is_request: bool,
    /// Sender hardware address.
    pub sender_mac: MacAddr,
    /// Sender protocol address; unspecified in a probe (RFC 5227, section 2.1.1).
    pub sender_ip: Ipv4Addr,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

/// A neighbour solicitation (RFC 4861, section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborSolicitation {
    /// IPv6 source; unspecified in duplicate address detection.
    pub src: Ipv6Addr,
    /// IPv6 destination: the target itself, or its solicited-node group.
    pub dst: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
}

/// A neighbour advertisement (RFC 4861, section 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborAdvertisement {
    /// The address advertised.
    pub target: Ipv6Addr,
    /// What it is said to resolve to: the target link-layer address option, where there is one.
    pub target_mac: Option<MacAddr>,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// IP source. Both addresses are of one family.
    pub src: IpAddr,
    /// IP destination.
    pub dst: IpAddr,
    /// Which part of a datagram the packet holds.
    pub fragment: Fragment,
    /// Protocol number of [`transport`](Self::transport), behind all extension headers. A later
    /// fragment's is its first fragment's too in IPv4. In IPv6 it is what the fragment header
    /// names, which is an extension header if one lies in the part that was fragmented; fragments
    /// belong together by addresses and identification alone there (RFC 8200, section 4.5).
    pub protocol: u8,
    /// What the packet carries.
    pub transport: Transport,
}

/// Which part of a datagram a packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it. An IPv6 packet whose fragment header says so too is one (RFC 6946).
    Whole,
    /// Its start, with more to come. Has the transport header.
    First {
        /// Identification: 16 bits in IPv4, 32 in IPv6.
        id: u32,
    },
    /// A later piece, without a transport header.
    Later {
        /// Identification: 16 bits in IPv4, 32 in IPv6.
        id: u32,
    },
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A UDP datagram (RFC 768).
    Udp(Ports),
    /// A TCP segment (RFC 9293).
    Tcp(Ports, TcpFlags),
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// An ICMP error (types 3, 11, 12) or ICMPv6 error (types 1..=127) about a packet that the
    /// VIP sent.
    IcmpError(Quoted),
    /// A later fragment: what it carries is in its first fragment only.
    LaterFragment,
    /// Anything else: other ICMP, other protocols, no payload at all.
    Other,
}

/// A pair of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
}

/// The flags of a TCP header that matter to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags {
    /// Synchronise.
    pub syn: bool,
    /// Acknowledge.
    pub ack: bool,
    /// Finish.
    pub fin: bool,
    /// Reset.
    pub rst: bool,
}

/// The start of the packet that an ICMP error quotes (RFC 792, RFC 4443): a packet from the VIP
/// to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// IP source of the quoted packet: the VIP.
    pub src: IpAddr,
    /// IP destination of the quoted packet: the client.
    pub dst: IpAddr,
    /// Its protocol number, behind all extension headers that are quoted.
    pub protocol: u8,
    /// Its ports, if it is UDP or TCP, not a later fragment, and at least 4 bytes of its transport
    /// header are quoted.
    pub ports: Option<Ports>,
}

/// Reads a frame, from the Ethernet header on and without a frame check sequence.
///
/// # Errors
/// A [`ParseError`] for a frame that no node may act upon. Which of several faults is named is
/// not promised.
pub fn parse(frame: &[u8]) -> Result<Parsed, ParseError> {
    match Shape::of(frame).and_then(|shape| shape.parse(frame)) {
        Some(parsed) => Ok(parsed),
        None => parse_any(frame),
    }
}

/// Reads any frame, one step after the other: [`parse`] without its short way.
#[inline(never)]
pub(crate) fn parse_any(frame: &[u8]) -> Result<Parsed, ParseError> {
    let ethernet = Frame::new(frame)?;
    let (mut ether_type, mut network) = (ethernet.ether_type(), ethernet.payload());
    let (mut vlan, mut network_offset) = (None, HEADER_LEN as u16);
    if ether_type == ethernet::VLAN {
        let tagged = Tagged::new(network)?;
        (ether_type, network) = (tagged.ether_type(), tagged.payload());
        network_offset += TAG_LEN as u16;
        vlan = match tagged.vlan() {
            0 => None,
            0x0fff => return Err(ParseError::EthernetInvalid),
            identifier => Some(identifier),
        };
    }
    let link = Link { dst: ethernet.dst(), src: ethernet.src(), vlan, network_offset };
    if link.src.is_group() {
        return Err(ParseError::EthernetInvalid);
    }
    match ether_type {
        ethernet::IPV4 => ip::parse_v4(link, network),
        ethernet::IPV6 => ip::parse_v6(link, network),
        ethernet::ARP => parse_arp(link, network),
        ethernet::VLAN | ethernet::SERVICE_VLAN => Err(ParseError::VlanStacked),
        _ => Err(ParseError::EtherTypeUnknown),
    }
}

/// What is known of a frame before its payload is.
///
/// It is handed down, and whoever knows the payload makes the result, in one piece and in its
/// place. The other way round, payloads handed up and put together there, each level copies what
/// it was given: an IPv6 packet then takes 20 ns, this way 9.
#[derive(Clone, Copy)]
struct Link {
    dst: MacAddr,
    src: MacAddr,
    vlan: Option<u16>,
    network_offset: u16,
}

impl Link {
    #[inline(always)]
    fn with(self, payload: Payload) -> Parsed {
        let Self { dst, src, vlan, network_offset } = self;
        Parsed { dst, src, vlan, network_offset, payload }
    }
}

fn parse_arp(link: Link, bytes: &[u8]) -> Result<Parsed, ParseError> {
    let packet = arp::Packet::new(bytes)?;
    Ok(link.with(Payload::Arp(Arp {
        is_request: packet.is_request(),
        sender_mac: packet.sender_mac(),
        sender_ip: packet.sender_ip(),
        target_ip: packet.target_ip(),
    })))
}
