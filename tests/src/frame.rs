//! Ethernet frames: read from a capture, or made by hand.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use etherparse::{
    EtherType, IcmpEchoHeader, Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address of the solicited-node group of `target` (RFC 4291, section 2.7.1).
    pub fn solicited_node(target: Ipv6Addr) -> Self {
        let [.., a, b, c] = target.octets();
        Self([0x33, 0x33, 0xff, a, b, c])
    }
}

impl FromStr for Mac {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mac = [0; 6];
        for (byte, hex) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(hex, 16)?;
        }
        Ok(Self(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex: Vec<_> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&hex.join(":"))
    }
}

/// A captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it passed, nanoseconds since 1970.
    pub at_wall_ns: u64,
    /// Its bytes.
    pub bytes: Box<[u8]>,
}

/// What a frame carries, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Packet {
    /// An ARP reply.
    ArpReply {
        /// Whom it tells of.
        sender: (Mac, Ipv4Addr),
        /// Whom it tells.
        target: Ipv4Addr,
    },
    /// A neighbour advertisement.
    Advertisement {
        /// Whom it tells: a group for an asker without an address.
        to: Ipv6Addr,
        /// Whom it tells of.
        target: Ipv6Addr,
        /// The target's link-layer address option.
        mac: Option<Mac>,
    },
    /// An echo reply.
    EchoReply {
        /// Who answers.
        from: IpAddr,
        /// Who asked.
        to: IpAddr,
        /// Sequence number.
        sequence: u16,
    },
    /// A UDP datagram.
    Udp {
        /// Source.
        from: SocketAddr,
        /// Destination.
        to: SocketAddr,
    },
    /// Anything else.
    Other,
}

/// Type of a neighbour advertisement (RFC 4861, section 4.4).
const ADVERTISEMENT: u8 = 136;

impl Frame {
    /// The Ethernet source.
    pub fn source(&self) -> Mac {
        Mac(self.bytes[6..12].try_into().expect("six bytes"))
    }

    /// The payload of a UDP datagram over IPv4 without options.
    pub fn udp_payload(&self) -> &[u8] {
        &self.bytes[14 + 20 + 8..]
    }

    /// What it carries.
    pub fn packet(&self) -> Packet {
        let Ok(sliced) = SlicedPacket::from_ethernet(&self.bytes) else { return Packet::Other };
        let (from, to) = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr()))
            }
            Some(NetSlice::Ipv6(ip)) => {
                (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr()))
            }
            _ => return self.arp_reply(),
        };
        match &sliced.transport {
            Some(TransportSlice::Udp(udp)) => Packet::Udp {
                from: SocketAddr::new(from, udp.source_port()),
                to: SocketAddr::new(to, udp.destination_port()),
            },
            Some(TransportSlice::Icmpv4(icmp)) => match icmp.icmp_type() {
                Icmpv4Type::EchoReply(IcmpEchoHeader { seq: sequence, .. }) => {
                    Packet::EchoReply { from, to, sequence }
                }
                _ => Packet::Other,
            },
            Some(TransportSlice::Icmpv6(icmp)) => match (icmp.icmp_type(), to) {
                (Icmpv6Type::EchoReply(IcmpEchoHeader { seq: sequence, .. }), _) => {
                    Packet::EchoReply { from, to, sequence }
                }
                (_, IpAddr::V6(to)) if icmp.type_u8() == ADVERTISEMENT => {
                    advertisement(to, icmp.slice()).unwrap_or(Packet::Other)
                }
                _ => Packet::Other,
            },
            _ => Packet::Other,
        }
    }

    fn arp_reply(&self) -> Packet {
        const REPLY: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
        let (Some(head), Some(body)) = (self.bytes.get(12..22), self.bytes.get(22..42)) else {
            return Packet::Other;
        };
        if head != REPLY {
            return Packet::Other;
        }
        let address = |at: usize| {
            let bytes: [u8; 4] = body[at..at + 4].try_into().expect("four bytes");
            Ipv4Addr::from(bytes)
        };
        let mac = Mac(body[..6].try_into().expect("six bytes"));
        Packet::ArpReply { sender: (mac, address(6)), target: address(16) }
    }
}

fn advertisement(to: Ipv6Addr, icmp: &[u8]) -> Option<Packet> {
    let target: [u8; 16] = icmp.get(8..24)?.try_into().ok()?;
    let mac = match icmp.get(24..32) {
        Some([2, 1, mac @ ..]) => Some(Mac(mac.try_into().ok()?)),
        _ => None,
    };
    Some(Packet::Advertisement { to, target: target.into(), mac })
}

/// A frame that asks by ARP who has `target`; `to` is broadcast, or where it was before.
pub fn arp_request(from: Mac, to: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(from, to, EtherType::ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(from.0);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// A frame that asks by neighbour discovery who has `target` (RFC 4861, section 4.3). From the
/// unspecified address it is duplicate address detection, and names no link-layer address.
pub fn solicitation(from: Mac, to: (Mac, Ipv6Addr), sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut body = target.octets().to_vec();
    if !sender.is_unspecified() {
        body.extend([1, 1]);
        body.extend(from.0);
    }
    let (to_mac, to) = to;
    let builder = PacketBuilder::ethernet2(from.0, to_mac.0)
        .ipv6(sender.octets(), to.octets(), 255)
        .icmpv6_raw(135, 0, [0; 4]);
    let mut frame = Vec::with_capacity(builder.size(body.len()));
    builder.write(&mut frame, &body).expect("it fits a frame");
    frame
}

/// A frame that tells all nodes, unasked, that `target` is here (RFC 4861, section 7.2.6).
pub fn unsolicited_advertisement(from: Mac, target: Ipv6Addr) -> Vec<u8> {
    const OVERRIDE: [u8; 4] = [0x20, 0, 0, 0];
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut body = target.octets().to_vec();
    body.extend([2, 1]);
    body.extend(from.0);
    let builder = PacketBuilder::ethernet2(from.0, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(target.octets(), all_nodes.octets(), 255)
        .icmpv6_raw(ADVERTISEMENT, 0, OVERRIDE);
    let mut frame = Vec::with_capacity(builder.size(body.len()));
    builder.write(&mut frame, &body).expect("it fits a frame");
    frame
}

/// The solicited-node group of `target` (RFC 4291, section 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// A frame with an echo request. Addresses are of one family.
pub fn echo_request(from: Mac, to: Mac, sender: IpAddr, target: IpAddr, sequence: u16) -> Vec<u8> {
    const ID: u16 = 0x7664;
    let ethernet = PacketBuilder::ethernet2(from.0, to.0);
    let payload = [0x5a; 32];
    let mut frame = Vec::new();
    match (sender, target) {
        (IpAddr::V4(sender), IpAddr::V4(target)) => ethernet
            .ipv4(sender.octets(), target.octets(), 64)
            .icmpv4_echo_request(ID, sequence)
            .write(&mut frame, &payload),
        (IpAddr::V6(sender), IpAddr::V6(target)) => ethernet
            .ipv6(sender.octets(), target.octets(), 64)
            .icmpv6_echo_request(ID, sequence)
            .write(&mut frame, &payload),
        _ => panic!("{sender} and {target} are not of one family"),
    }
    .expect("it fits a frame");
    frame
}

/// A frame with a UDP datagram. Addresses are of one family.
pub fn udp(from: (Mac, SocketAddr), to: (Mac, SocketAddr), ttl: u8, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(from.0.0, to.0.0);
    let mut frame = Vec::new();
    match (from.1, to.1) {
        (SocketAddr::V4(sender), SocketAddr::V4(target)) => ethernet
            .ipv4(sender.ip().octets(), target.ip().octets(), ttl)
            .udp(sender.port(), target.port())
            .write(&mut frame, payload),
        (SocketAddr::V6(sender), SocketAddr::V6(target)) => ethernet
            .ipv6(sender.ip().octets(), target.ip().octets(), ttl)
            .udp(sender.port(), target.port())
            .write(&mut frame, payload),
        (sender, target) => panic!("{sender} and {target} are not of one family"),
    }
    .expect("it fits a frame");
    frame
}

/// An Ethernet header, for a frame made by hand.
pub fn ethernet(from: Mac, to: Mac, ether_type: EtherType) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(ether_type.0.to_be_bytes());
    frame
}
