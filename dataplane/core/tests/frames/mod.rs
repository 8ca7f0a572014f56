//! Frames for the decision table, with IP headers by a library that is not the one under test.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};
use vipdp_core::wire::ethernet::MacAddr;

/// The VIPs' shared address.
pub const SHARED: MacAddr = MacAddr([0x02, 0, 0x5e, 0, 0, 0x35]);
/// This node's own address.
pub const OWN: MacAddr = MacAddr([0x02, 0x10, 0, 0, 0, 0x01]);
/// Another member's address.
pub const PEER: MacAddr = MacAddr([0x02, 0x10, 0, 0, 0, 0x02]);
/// The router's.
pub const ROUTER: MacAddr = MacAddr([0x02, 0x20, 0, 0, 0, 0x01]);
/// The TAP's.
pub const HOST: MacAddr = MacAddr([0x02, 0x30, 0, 0, 0, 0x01]);

/// The IPv4 VIP.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
/// The IPv6 VIP.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);

/// Flags of a TCP header.
pub mod tcp_flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// The VIP of the client's family.
pub fn vip(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => VIP4.into(),
        IpAddr::V6(_) => VIP6.into(),
    }
}

/// The Ethernet header around a packet.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub from: MacAddr,
    pub to: MacAddr,
    pub vlan: Option<u16>,
}

/// From the router to the shared address.
pub const SHARED_LINK: Link = Link { from: ROUTER, to: SHARED, vlan: None };
/// From a member to this node's own address.
pub const FORWARDED: Link = Link { from: PEER, to: OWN, vlan: None };

/// A packet in a frame, padded to the 60 bytes that Ethernet wants.
pub fn frame(link: Link, ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [link.to.0, link.from.0].concat();
    if let Some(vlan) = link.vlan {
        frame.extend(0x8100_u16.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(ether_type.to_be_bytes());
    frame.extend(packet);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An IP packet in a frame.
pub fn ip_frame(link: Link, packet: &[u8]) -> Vec<u8> {
    frame(link, if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }, packet)
}

/// An IP packet: `piece` is (fragment offset in bytes, more to come, identification).
pub fn ip_piece(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &[u8],
    piece: Option<(u16, bool, u16)>,
) -> Vec<u8> {
    let mut packet = Vec::new();
    let units = |offset: u16| etherparse::IpFragOffset::try_new(offset / 8).unwrap();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let protocol = IpNumber(protocol);
            let len = payload.len() as u16;
            let mut header = Ipv4Header::new(len, 64, protocol, source, destination).unwrap();
            header.dont_fragment = false;
            if let Some((offset, more, id)) = piece {
                header.fragment_offset = units(offset);
                header.more_fragments = more;
                header.identification = id;
            }
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut packet).unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut extension = Vec::new();
            let mut next_header = IpNumber(protocol);
            if let Some((offset, more, id)) = piece {
                Ipv6FragmentHeader::new(next_header, units(offset), more, id.into())
                    .write(&mut extension)
                    .unwrap();
                next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            }
            let header = Ipv6Header {
                payload_length: (extension.len() + payload.len()) as u16,
                next_header,
                hop_limit: 64,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            header.write(&mut packet).unwrap();
            packet.extend(extension);
        }
        _ => panic!("two families in one packet"),
    }
    packet.extend(payload);
    packet
}

/// A whole IP packet.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ip_piece(source, destination, protocol, payload, None)
}

/// A UDP datagram with `payload` bytes of zeros.
pub fn udp(source: u16, destination: u16, payload: usize) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source.to_be_bytes());
    datagram.extend(destination.to_be_bytes());
    datagram.extend((8 + payload as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.resize(8 + payload, 0);
    datagram
}

/// A TCP segment without payload.
pub fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&source.to_be_bytes());
    segment[2..4].copy_from_slice(&destination.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment
}

/// An echo request of the family of `client`, to its VIP.
pub fn echo_request(client: IpAddr) -> Vec<u8> {
    match client {
        IpAddr::V4(_) => ip(client, vip(client), 1, &[8, 0, 0, 0, 0, 1, 0, 1]),
        IpAddr::V6(_) => ip(client, vip(client), 58, &[128, 0, 0, 0, 0, 1, 0, 1]),
    }
}

/// A "packet too big" of the family of `router`, about `quoted`, to the VIP.
pub fn too_big(router: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let (protocol, mut message) = match router {
        IpAddr::V4(_) => (1, vec![3, 4, 0, 0, 0, 0, 5, 0]),
        IpAddr::V6(_) => (58, vec![2, 0, 0, 0, 0, 0, 5, 0]),
    };
    message.extend(quoted);
    ip(router, vip(router), protocol, &message)
}

/// An ARP request for the VIP.
pub fn arp_request(asker: Ipv4Addr, target: Ipv4Addr, to: MacAddr) -> Vec<u8> {
    arp(1, ROUTER, asker, target, Link { from: ROUTER, to, vlan: None })
}

/// Any ARP packet.
pub fn arp(op: u8, sender: MacAddr, asker: Ipv4Addr, target: Ipv4Addr, link: Link) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, op];
    packet.extend(sender.0);
    packet.extend(asker.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    frame(link, 0x0806, &packet)
}

/// A neighbour solicitation for `target`.
pub fn solicitation(asker: Ipv6Addr, target: Ipv6Addr, to: MacAddr) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !asker.is_unspecified() {
        message.extend([1, 1]);
        message.extend(ROUTER.0);
    }
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from(b) << 8 | u16::from(c),
    );
    let checksum = etherparse::Icmpv6Slice::from_slice(&message)
        .unwrap()
        .icmp_type()
        .calc_checksum(asker.octets(), group.octets(), &message[8..])
        .unwrap();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = ip(asker.into(), group.into(), 58, &message);
    packet[7] = 255;
    ip_frame(Link { from: ROUTER, to, vlan: None }, &packet)
}
