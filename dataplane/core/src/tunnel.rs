//! Tunnels between members: a packet that is another member's, carried there in UDP.
//!
//! ```text
//!                                       0         14 (18 with a tag)   network_offset
//!   as it came                          |  Ethernet  | IP, payload                    | padding
//!
//!   encapsulated    | Ethernet | IP, UDP, GUE        | IP, payload                    |
//!                              20 or 40, 8, 8 bytes
//!
//!   taken out                           |  Ethernet  | IP, payload                    |
//! ```
//!
//! The packet itself is not touched and does not move. What is taken out looks like a frame that a
//! member on the same segment has sent on: to this node's own MAC address, from the address that is
//! its mark. So all that follows is the same by either way, and a marked frame from the wire, which no
//! member sends here, is refused.
//!
//! **The outer packet** goes from the node's own address to the member's. It must not be fragmented;
//! its DSCP is the packet's (RFC 2983, section 3.1: the uniform model), and its ECN is "not capable"
//! (RFC 6040, section 4.1: compatibility mode), so that congestion on the way is seen as loss. Its
//! UDP source port, and over IPv6 its flow label, differ by flow, so that the network spreads flows
//! over its paths (RFC 6438). It has no UDP checksum, over IPv6 either (RFC 6935): the packet has its
//! own, a tunnel is taken only between a member's very addresses, which its header repeats as a slot,
//! and what is corrupted so that it still seems valid, the host's stack finds (RFC 6936, section 4).

use std::net::IpAddr;

use crate::anycast::{Anycast, PeerPath, Steering};
use crate::parse::{Fragment, IpPacket, ParseError, Parsed, Payload, Transport, parse};
use crate::port::HEADROOM;
use crate::slot::Slot;
use crate::snapshot::{Ingress, Service};
use crate::tiered::{Mark, VirtualMac};
use crate::verdict::DropReason;
use crate::wire::ethernet::{self, MacAddr};
use crate::wire::gue::{self, Carried};
use crate::wire::{ipv4, ipv6, protocol, udp};

/// Bytes that a frame may grow by at its front: the largest outer headers, and a tag that it came
/// without.
pub const GROWTH_MAX: usize = overhead_v6() + ethernet::TAG_LEN;

/// The first of the ports that a tunnel may come from, the dynamic ones (RFC 6335, section 6): 14
/// bits of entropy.
const SRC_PORT_FIRST: u16 = 0xc000;
/// Time to live of the outer packet: the default of IANA's "IP option numbers".
const TIME_TO_LIVE: u8 = 64;
/// The DSCP in a type of service or traffic class.
const DSCP_MASK: u8 = 0xfc;

const _: () = assert!(GROWTH_MAX <= HEADROOM, "a frame has room for a tunnel's headers");

const fn overhead_v4() -> usize {
    ipv4::HEADER_LEN + udp::HEADER_LEN + gue::HEADER_LEN
}

const fn overhead_v6() -> usize {
    ipv6::HEADER_LEN + udp::HEADER_LEN + gue::HEADER_LEN
}

/// How many bytes the tunnel adds to a packet.
pub const fn overhead(path: &PeerPath) -> usize {
    match path.destination {
        IpAddr::V4(_) => overhead_v4(),
        IpAddr::V6(_) => overhead_v6(),
    }
}

/// A packet that is to be carried, as its own header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    carried: Carried,
    /// The packet's length, without padding, in bytes.
    pub len: usize,
    /// Type of service, or traffic class.
    class: u8,
    /// Whether routers on the way may cut it.
    pub may_be_fragmented: bool,
}

impl Inner {
    /// The packet at the start of `bytes`, behind which there may be padding; `None` if there is none,
    /// which [`parse`] would have refused.
    #[inline]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if let Ok(header) = ipv4::Header::new(bytes) {
            return Some(Self {
                carried: Carried::Ipv4,
                len: usize::from(header.total_len()),
                class: header.type_of_service(),
                may_be_fragmented: !header.dont_fragment(),
            });
        }
        let header = ipv6::Header::new(bytes).ok()?;
        Some(Self {
            carried: Carried::Ipv6,
            len: ipv6::HEADER_LEN + usize::from(header.payload_len()),
            class: header.traffic_class(),
            may_be_fragmented: false,
        })
    }
}

/// Who sends what, and where to: all of a tunnel's headers that is not the packet's.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The way to the member.
    pub path: &'a PeerPath,
    /// The MAC address of its next hop.
    pub next_hop: MacAddr,
    /// The UDP port at the tunnel's end.
    pub port: u16,
    /// This node's slot.
    pub from: Slot,
    /// Why it sends the packet on.
    pub mark: Mark,
}

/// Writes the headers in front of a packet, in `buffer`, which ends where the packet begins: of exactly
/// [`headers_len`] bytes. `entropy` is that of [`entropy`].
///
/// # Panics
/// If `buffer` has another length, or the path's addresses are of two families.
pub fn emit_headers(
    buffer: &mut [u8],
    service: &Service,
    envelope: &Envelope<'_>,
    inner: Inner,
    entropy: u32,
) {
    let Envelope { path, next_hop, port, from, mark } = *envelope;
    let ether_type = match path.destination {
        IpAddr::V4(_) => ethernet::IPV4,
        IpAddr::V6(_) => ethernet::IPV6,
    };
    let link = ethernet::emit_header(buffer, next_hop, service.own_mac, service.vlan, ether_type);
    let network = &mut buffer[link..];
    let payload_len = inner.len + udp::HEADER_LEN + gue::HEADER_LEN;
    let class = inner.class & DSCP_MASK;
    let transport = match (path.source, path.destination) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let (header, transport) = network.split_first_chunk_mut().expect("room for IPv4");
            let total_len = (ipv4::HEADER_LEN + payload_len) as u16;
            let fields = ipv4::Fields {
                type_of_service: class,
                total_len,
                time_to_live: TIME_TO_LIVE,
                protocol: protocol::UDP,
                src,
                dst,
            };
            ipv4::emit_header(header, fields);
            transport
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (header, transport) = network.split_first_chunk_mut().expect("room for IPv6");
            let (len, hop_limit) = (payload_len as u16, TIME_TO_LIVE);
            ipv6::emit_header(header, len, protocol::UDP, hop_limit, src, dst);
            ipv6::emit_class_and_label(header, class, entropy);
            transport
        }
        families => unreachable!("a tunnel between {families:?}"),
    };
    let (header, encapsulation) = transport.split_first_chunk_mut().expect("room for UDP");
    let src_port = SRC_PORT_FIRST | (entropy >> 8) as u16;
    udp::emit_header(header, src_port, port, payload_len as u16);
    let header = encapsulation.try_into().expect("room for GUE and for nothing else");
    gue::emit_header(header, inner.carried, from.get(), mark.to_wire());
}

/// Length of what [`emit_headers`] writes, in bytes.
pub fn headers_len(service: &Service, path: &PeerPath) -> usize {
    ethernet::HEADER_LEN + service.vlan.map_or(0, |_| ethernet::TAG_LEN) + overhead(path)
}

/// A number that is the same for all packets of a flow, and differs between most flows. Nobody needs
/// to be kept from choosing it: it only spreads packets over the paths to one member.
#[inline]
pub fn entropy(packet: &IpPacket) -> u32 {
    let address = match packet.src {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    };
    let ports = match packet.transport {
        // The first fragment goes the way of the later ones, or they arrive in the wrong order.
        _ if packet.fragment != Fragment::Whole => 0,
        Transport::Udp(ports) | Transport::Tcp(ports, _) => {
            u32::from(ports.src) << 16 | u32::from(ports.dst)
        }
        _ => 0,
    };
    // Multiplicative hashing by the golden ratio (Knuth, volume 3, section 6.4): the upper bits depend
    // on all lower ones.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (u64::from(address) << 32 | u64::from(ports)).wrapping_mul(GOLDEN);
    ((mixed ^ mixed >> 29).wrapping_mul(GOLDEN) >> 32) as u32
}

/// What [`open`] makes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is no tunnel.
    Plain,
    /// It is a member's.
    Tunnel(Tunnel),
    /// It is not from a member, or not as one sends it.
    Refused(DropReason),
}

/// A member's tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Who sends it on, and why.
    pub from: Slot,
    /// Why.
    pub mark: Mark,
    /// Where the packet starts, in bytes from the frame's start.
    pub offset: usize,
    carried: Carried,
    /// The packet's length as the outer headers tell it, in bytes.
    len: usize,
}

/// Looks whether a frame is a tunnel, in the anycast mode with [`Steering::Gue`]; `parsed` is what
/// [`parse`] found in it.
#[inline]
pub fn open(service: &Service, anycast: &Anycast, frame: &[u8], parsed: &Parsed) -> Opened {
    let Some(Steering::Gue { port }) = anycast.steering else { return Opened::Plain };
    if matches!(VirtualMac::of(parsed.src, anycast.cluster), Some(VirtualMac::Mark(..))) {
        return Opened::Refused(DropReason::ForeignTunnel);
    }
    match &parsed.payload {
        Payload::Ip(packet) if is_to_port(packet, port) && !service.vips.contains(packet.dst) => {
            open_packet(service, frame, parsed, packet).unwrap_or_else(Opened::Refused)
        }
        _ => Opened::Plain,
    }
}

fn is_to_port(packet: &IpPacket, port: u16) -> bool {
    matches!(packet.transport, Transport::Udp(ports) if ports.dst == port)
}

fn open_packet(
    service: &Service,
    frame: &[u8],
    parsed: &Parsed,
    packet: &IpPacket,
) -> Result<Opened, DropReason> {
    if parsed.dst != service.own_mac {
        return Err(DropReason::WrongMac);
    }
    let invalid = DropReason::Malformed(ParseError::GueInvalid);
    let network = frame.get(usize::from(parsed.network_offset)..).ok_or(invalid)?;
    let (protocol, transport) = match packet.dst {
        IpAddr::V4(_) => {
            let packet = ipv4::Packet::new(network).map_err(DropReason::Malformed)?;
            (packet.header().protocol(), packet.payload())
        }
        IpAddr::V6(_) => {
            let packet = ipv6::Packet::new(network).map_err(DropReason::Malformed)?;
            (packet.header().next_header(), packet.payload())
        }
    };
    // Members send neither fragments nor extension headers.
    if protocol != protocol::UDP || packet.fragment != Fragment::Whole {
        return Err(invalid);
    }
    let header = udp::Header::new(transport).map_err(DropReason::Malformed)?;
    let datagram = transport.get(..usize::from(header.len())).ok_or(invalid)?;
    let tunnel = gue::Packet::new(&datagram[udp::HEADER_LEN..]).map_err(DropReason::Malformed)?;
    let sender = Slot::new(tunnel.slot()).filter(|&slot| {
        let path = &service.peers[slot.index()];
        path.is_some_and(|path| path.destination == packet.src && path.source == packet.dst)
    });
    let from = sender.ok_or(DropReason::ForeignTunnel)?;
    let mark = Mark::from_wire(tunnel.mark()).ok_or(invalid)?;
    if header.has_checksum() {
        return Err(invalid);
    }
    let len = tunnel.payload().len();
    let offset = tunnel.payload().as_ptr().addr() - frame.as_ptr().addr();
    Ok(Opened::Tunnel(Tunnel { from, mark, offset, carried: tunnel.carried(), len }))
}

impl Tunnel {
    /// Where the frame starts that is left when the outer headers are gone, and its length.
    pub fn place(&self) -> (usize, usize) {
        (self.offset - ethernet::HEADER_LEN, ethernet::HEADER_LEN + self.len)
    }

    /// Writes the frame's own header in front of the packet, at the start of `frame`, and reads what is
    /// in it. `outer` is what was found in the frame around it.
    ///
    /// # Errors
    /// A packet that is not sound, or not what the tunnel says it is.
    ///
    /// # Panics
    /// If `frame` is shorter than an Ethernet header.
    pub fn take_out(
        &self,
        frame: &mut [u8],
        service: &Service,
        cluster: u16,
        outer: &Parsed,
    ) -> Result<Parsed, DropReason> {
        let header = frame.first_chunk_mut().expect("room for an Ethernet header");
        let ether_type = match self.carried {
            Carried::Ipv4 => ethernet::IPV4,
            Carried::Ipv6 => ethernet::IPV6,
        };
        let mark = VirtualMac::Mark(self.from, self.mark).mac(cluster);
        ethernet::emit_untagged(header, service.own_mac, mark, ether_type);
        let parsed = parse(frame).map_err(DropReason::Malformed)?;
        Ok(Parsed { vlan: outer.vlan, ..parsed })
    }
}

/// The anycast mode's part of a service with tunnels.
pub(crate) fn tunnels(service: &Service) -> Option<&Anycast> {
    match &service.ingress {
        Ingress::Anycast(anycast @ Anycast { steering: Some(Steering::Gue { .. }), .. }) => {
            Some(anycast)
        }
        _ => None,
    }
}
