//! Packets written by hand, layer by layer. Lengths and checksums come out right unless a test
//! spoils them afterwards.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vipdp_core::wire::ethernet::MacAddr;

/// Where frames go to.
pub const SHARED_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x53]);
/// Where frames come from.
pub const ROUTER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);

pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 1);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);
/// The solicited-node group of [`VIP6`].
pub const VIP6_GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x53);

pub const ICMPV4: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// The two IP versions, so that a test treats them alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

pub const VERSIONS: [Version; 2] = [Version::V4, Version::V6];

impl Version {
    pub fn client(self) -> IpAddr {
        match self {
            Self::V4 => CLIENT4.into(),
            Self::V6 => CLIENT6.into(),
        }
    }

    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => VIP4.into(),
            Self::V6 => VIP6.into(),
        }
    }

    pub fn icmp(self) -> u8 {
        match self {
            Self::V4 => ICMPV4,
            Self::V6 => ICMPV6,
        }
    }

    /// A frame with a packet from the client to the VIP.
    pub fn frame(self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::V4 => ethernet(0x0800, &ipv4(protocol, payload)),
            Self::V6 => ethernet(0x86dd, &ipv6(protocol, payload)),
        }
    }

    /// A frame with a fragment from the client to the VIP; `offset` is in bytes.
    pub fn fragment(self, protocol: u8, id: u16, offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
        match self {
            Self::V4 => {
                let flags = (offset / 8) | if more { 0x2000 } else { 0 };
                let mut packet = ipv4(protocol, data);
                packet[4..6].copy_from_slice(&id.to_be_bytes());
                packet[6..8].copy_from_slice(&flags.to_be_bytes());
                ethernet(0x0800, &with_header_checksum(packet))
            }
            Self::V6 => {
                let header = fragment_header(protocol, id.into(), offset, more);
                ethernet(0x86dd, &ipv6(44, &[&header, data].concat()))
            }
        }
    }
}

/// One's complement sum of 16-bit words, complemented (RFC 1071).
pub fn checksum(pieces: &[&[u8]]) -> [u8; 2] {
    let bytes = pieces.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&b| b.into()))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}

pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&SHARED_MAC.0, &ROUTER_MAC.0, &ether_type.to_be_bytes()[..], payload].concat()
}

/// The frame with a tag put in: `control` is priority, drop bit and VLAN identifier.
pub fn tagged(tpid: u16, control: u16, frame: &[u8]) -> Vec<u8> {
    let tag = [tpid.to_be_bytes(), control.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with_options(&[], protocol, payload)
}

/// `options` must fill units of 4 bytes.
pub fn ipv4_with_options(options: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
    packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]); // don't fragment; TTL 64
    packet.extend(CLIENT4.octets());
    packet.extend(VIP4.octets());
    packet.extend(options);
    packet.extend(payload);
    with_header_checksum(packet)
}

/// The IPv4 packet with its header checksum made right.
pub fn with_header_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let sum = checksum(&[&packet[..header_len.min(packet.len())]]);
    packet[10..12].copy_from_slice(&sum);
    packet
}

pub fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    ipv6_between(CLIENT6, VIP6, 64, next_header, payload)
}

pub fn ipv6_between(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    hop_limit: u8,
    next_header: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, hop_limit]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// An IPv6 extension header of `units` times 8 bytes, contents zero.
pub fn extension(next_header: u8, units: u8) -> Vec<u8> {
    let mut header = vec![0; usize::from(units) * 8];
    (header[0], header[1]) = (next_header, units - 1);
    header
}

/// An IPv6 fragment header; `offset` is in bytes.
pub fn fragment_header(next_header: u8, id: u32, offset: u16, more: bool) -> Vec<u8> {
    let offset_and_flag = offset | u16::from(more);
    [&[next_header, 0], &offset_and_flag.to_be_bytes()[..], &id.to_be_bytes()].concat()
}

/// A datagram from port 54321 to port 53.
pub fn udp(payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    [&[0xd4, 0x31, 0x00, 0x35], &len.to_be_bytes()[..], &[0xbe, 0xef], payload].concat()
}

/// A segment from port 54321 to port 53 with `options` words of options.
pub fn tcp(flags: u8, options: u8) -> Vec<u8> {
    let mut segment = vec![
        0xd4,
        0x31,
        0x00,
        0x35, // ports
        0,
        0,
        0,
        1, // sequence number
        0,
        0,
        0,
        2,                  // acknowledgement number
        (5 + options) << 4, // data offset
        flags,
        0xff,
        0xff,
        0xbe,
        0xef,
        0,
        0, // window, checksum, urgent pointer
    ];
    segment.resize(20 + usize::from(options) * 4, 0x01);
    segment
}

/// An ICMP or ICMPv6 message with checksum 0.
pub fn icmp(message_type: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    [&[message_type, code, 0, 0], &rest[..], body].concat()
}

/// A neighbour discovery message for [`VIP6`], ready to be put into a packet.
pub fn neighbor(message_type: u8, flags: u8, options: &[u8]) -> Vec<u8> {
    icmp(message_type, 0, [flags, 0, 0, 0], &[&VIP6.octets(), options].concat())
}

/// A frame with an ICMPv6 message and its checksum, as a neighbour sends it.
pub fn icmpv6_frame(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let sum = icmpv6_checksum(src, dst, &message);
    message[2..4].copy_from_slice(&sum);
    ethernet(0x86dd, &ipv6_between(src, dst, 255, ICMPV6, &message))
}

/// Zero for a message whose checksum is right.
pub fn icmpv6_checksum(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let len = (message.len() as u32).to_be_bytes();
    checksum(&[&src.octets(), &dst.octets(), &len, &[0, 0, 0, ICMPV6], message])
}

/// An ARP packet: operation, sender, target.
pub fn arp(operation: u8, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 0x08, 0x00, 6, 4, 0, operation];
    for (mac, ip) in [sender, target] {
        packet.extend(mac.0);
        packet.extend(ip.octets());
    }
    packet
}
