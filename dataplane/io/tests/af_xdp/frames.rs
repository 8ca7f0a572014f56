//! Frames as the peer sends them. Transport checksums are left 0: the XDP program reads none.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);
const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 1);
const OTHER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 54);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x54);

/// The node's own addresses, and the port that tunnels come to.
pub const NODE4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 2);
pub const TUNNEL_PORT: u16 = 6080;

/// Next hops: 100 from these on.
pub const NEXT_HOP4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 200);
pub const NEXT_HOP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 1, 0xffce);
pub const NEXT_HOPS: u16 = 100;

pub const MAC_PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const MAC_NODE: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MAC_BROADCAST: [u8; 6] = [0xff; 6];
/// Of the solicited-node group of both VIP6 and OTHER6's neighbours (RFC 2464, section 7).
const MAC_SOLICITED: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 0x53];

/// IEEE 802 local experimental EtherType 1 (RFC 9542, appendix B).
pub const EXPERIMENTAL: u16 = 0x88b5;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const PROVIDER: u16 = 0x88a8;
const IPV6: u16 = 0x86dd;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const UNASSIGNED: u8 = 253;

type Named = (&'static str, Vec<u8>);

/// One of each kind that the program sends to the sockets.
pub fn of_vips() -> Vec<Named> {
    let udp = ipv4(VIP4, UDP, &[0; 20]);
    let udp6 = ipv6(VIP6, UDP, &[0; 20]);
    let mut later_fragment = ipv4(VIP4, UDP, &[0; 40]);
    later_fragment[6..8].copy_from_slice(&[0x00, 0x05]);
    let mut options = ipv4(VIP4, UDP, &[0; 24]);
    options[0] = 0x46;
    let solicitation = neighbor(135, VIP6);
    vec![
        ("UDP", ethernet(IPV4, &udp)),
        ("UDP behind options", ethernet(IPV4, &options)),
        ("a later fragment", ethernet(IPV4, &later_fragment)),
        ("TCP", ethernet(IPV4, &ipv4(VIP4, TCP, &[0; 20]))),
        ("ICMP", ethernet(IPV4, &ipv4(VIP4, ICMP, &[8, 0, 0, 0, 0, 0, 0, 0]))),
        ("an unassigned protocol", ethernet(IPV4, &ipv4(VIP4, UNASSIGNED, &[]))),
        ("tagged IPv4", tagged(VLAN, IPV4, &udp)),
        ("UDP over IPv6", ethernet(IPV6, &udp6)),
        ("TCP over IPv6", ethernet(IPV6, &ipv6(VIP6, TCP, &[0; 20]))),
        ("an IPv6 fragment", ethernet(IPV6, &ipv6(VIP6, FRAGMENT, &[0; 16]))),
        ("an IPv6 extension header", ethernet(IPV6, &ipv6(VIP6, HOP_BY_HOP, &[0; 16]))),
        ("tagged IPv6", tagged(VLAN, IPV6, &udp6)),
        ("an ARP request", broadcast(ARP, &arp(1, CLIENT4, VIP4))),
        ("an ARP probe", broadcast(ARP, &arp(1, Ipv4Addr::UNSPECIFIED, VIP4))),
        ("a claim by ARP request", broadcast(ARP, &arp(1, VIP4, VIP4))),
        ("a claim by ARP reply", broadcast(ARP, &arp(2, VIP4, CLIENT4))),
        ("a tagged ARP request", tagged(VLAN, ARP, &arp(1, CLIENT4, VIP4))),
        ("a solicitation to the group", solicited(&ipv6(group(VIP6), ICMPV6, &solicitation))),
        ("a solicitation to the VIP", ethernet(IPV6, &ipv6(VIP6, ICMPV6, &solicitation))),
        ("a tagged solicitation", tagged(VLAN, IPV6, &ipv6(group(VIP6), ICMPV6, &solicitation))),
        ("an advertisement", solicited(&ipv6(all_nodes(), ICMPV6, &neighbor(136, VIP6)))),
    ]
}

/// Frames that look alike but are the kernel's.
pub fn of_others() -> Vec<Named> {
    let udp = ipv4(VIP4, UDP, &[0; 20]);
    let request = arp(1, CLIENT4, VIP4);
    let mut of_other_hardware = request.clone();
    of_other_hardware[1] = 6;
    let mut with_longer_addresses = request.clone();
    with_longer_addresses[5] = 16;
    let mut stacked = vec![0, 7];
    stacked.extend(IPV4.to_be_bytes());
    stacked.extend(&udp);
    let udp6 = ipv6(VIP6, UDP, &[0; 20]);
    let solicitation = ipv6(group(VIP6), ICMPV6, &neighbor(135, VIP6));
    vec![
        ("IPv4 to another", ethernet(IPV4, &ipv4(OTHER4, UDP, &[0; 20]))),
        ("IPv4 cut short", ethernet(IPV4, &udp[..19])),
        ("two tags", tagged(VLAN, VLAN, &stacked)),
        ("a provider's tag", tagged(PROVIDER, IPV4, &udp)),
        ("a tag cut short", ethernet(VLAN, &[0, 7, 8])),
        ("another EtherType", ethernet(EXPERIMENTAL, &udp)),
        ("IPv6 to another", ethernet(IPV6, &ipv6(OTHER6, UDP, &[0; 20]))),
        ("IPv6 cut short", ethernet(IPV6, &udp6[..39])),
        ("an ARP request for another", broadcast(ARP, &arp(1, CLIENT4, OTHER4))),
        ("ARP of other hardware", broadcast(ARP, &of_other_hardware)),
        ("ARP with longer addresses", broadcast(ARP, &with_longer_addresses)),
        ("ARP cut short", broadcast(ARP, &request[..27])),
        (
            "a solicitation for another",
            solicited(&ipv6(group(OTHER6), ICMPV6, &neighbor(135, OTHER6))),
        ),
        ("a solicitation cut short", solicited(&solicitation[..63])),
        ("another ICMPv6 message", solicited(&ipv6(all_nodes(), ICMPV6, &neighbor(134, VIP6)))),
        ("the group, but not ICMPv6", solicited(&ipv6(group(VIP6), UDP, &neighbor(135, VIP6)))),
    ]
}

/// What the program sends to the sockets when 192.0.2.0/26 and 2001:db8:53::/64 are VIPs and there
/// are next hops.
pub fn of_networks() -> Vec<Named> {
    let first6 = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0);
    let last6 = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0xffff, 0xffff, 0xffff, 0xffff);
    let mut virtual_mac = ethernet(IPV4, &ipv4(VIP4, TCP, &[0; 20]));
    virtual_mac[..6].copy_from_slice(&[0x02, 0x76, 0, 53, 0, 7]);
    let (first, last) = (next_hop4(0), next_hop4(NEXT_HOPS - 1));
    let (first_hop6, last_hop6) = (next_hop6(0), next_hop6(NEXT_HOPS - 1));
    vec![
        ("the first address", ethernet(IPV4, &ipv4([192, 0, 2, 0].into(), UDP, &[0; 20]))),
        ("the last address", ethernet(IPV4, &ipv4([192, 0, 2, 63].into(), UDP, &[0; 20]))),
        ("to a virtual MAC", virtual_mac),
        ("the first IPv6 address", ethernet(IPV6, &ipv6(first6, TCP, &[0; 20]))),
        ("the last IPv6 address", ethernet(IPV6, &ipv6(last6, UDP, &[0; 20]))),
        ("an ARP request for a VIP", broadcast(ARP, &arp(1, CLIENT4, VIP4))),
        ("an ARP request for the first next hop", broadcast(ARP, &arp(1, CLIENT4, first))),
        ("an ARP request for the last next hop", broadcast(ARP, &arp(1, CLIENT4, last))),
        ("a tagged ARP request for a next hop", tagged(VLAN, ARP, &arp(1, CLIENT4, first))),
        ("a claim of a next hop", broadcast(ARP, &arp(1, last, last))),
        ("a claim of a next hop by a reply", broadcast(ARP, &arp(2, first, CLIENT4))),
        ("a solicitation for the first next hop", of_hop(group(first_hop6), 135, first_hop6)),
        ("a solicitation for the last next hop", of_hop(group(last_hop6), 135, last_hop6)),
        ("a solicitation to a next hop", of_hop(first_hop6, 135, first_hop6)),
        ("an advertisement of a next hop", of_hop(all_nodes(), 136, last_hop6)),
    ]
}

/// What then is the kernel's. The first is about the address behind the last next hop.
pub fn beside_networks() -> Vec<Named> {
    let (before6, behind6) = (next_hop6(u16::MAX), next_hop6(NEXT_HOPS));
    vec![
        ("ARP behind the next hops", broadcast(ARP, &arp(1, CLIENT4, next_hop4(NEXT_HOPS)))),
        ("ARP before the next hops", broadcast(ARP, &arp(1, CLIENT4, next_hop4(u16::MAX)))),
        ("a solicitation behind them", of_hop(group(behind6), 135, behind6)),
        ("a solicitation before them", of_hop(group(before6), 135, before6)),
        ("a solicitation in another /64", of_hop(all_nodes(), 135, other_64())),
        ("IPv4 to a next hop", ethernet(IPV4, &ipv4(next_hop4(0), UDP, &[0; 20]))),
        ("IPv6 to a next hop", ethernet(IPV6, &ipv6(next_hop6(0), UDP, &[0; 20]))),
        ("IPv4 behind the network", ethernet(IPV4, &ipv4([192, 0, 2, 64].into(), UDP, &[0; 20]))),
        ("IPv6 behind the network", ethernet(IPV6, &ipv6(all_nodes(), UDP, &[0; 20]))),
    ]
}

/// Tunnels to the node's own addresses: with [`TUNNEL_PORT`] as its tunnels' end, the ports'.
pub fn of_tunnels() -> Vec<Named> {
    let udp = udp_to(TUNNEL_PORT);
    vec![
        ("a tunnel", ethernet(IPV4, &ipv4(NODE4, UDP, &udp))),
        ("a tagged tunnel", tagged(VLAN, IPV4, &ipv4(NODE4, UDP, &udp))),
        ("a tunnel over IPv6", ethernet(IPV6, &ipv6(NODE6, UDP, &udp))),
        ("a tagged tunnel over IPv6", tagged(VLAN, IPV6, &ipv6(NODE6, UDP, &udp))),
    ]
}

/// What looks like one, and is the kernel's all the same.
pub fn beside_tunnels() -> Vec<Named> {
    let udp = udp_to(TUNNEL_PORT);
    let tunnel = ipv4(NODE4, UDP, &udp);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut packet = tunnel.clone();
        change(&mut packet);
        ethernet(IPV4, &packet)
    };
    vec![
        ("to another port", ethernet(IPV4, &ipv4(NODE4, UDP, &udp_to(TUNNEL_PORT + 1)))),
        ("to another address", ethernet(IPV4, &ipv4(OTHER4, UDP, &udp))),
        ("by TCP", ethernet(IPV4, &ipv4(NODE4, TCP, &udp))),
        ("a first fragment", with(|packet| packet[6] = 0x20)),
        ("a later fragment", with(|packet| packet[7] = 1)),
        ("with options", with(|packet| packet[0] = 0x46)),
        ("cut short", ethernet(IPV4, &tunnel[..27])),
        ("over IPv6 to another port", ethernet(IPV6, &ipv6(NODE6, UDP, &udp_to(53)))),
        ("over IPv6 to another address", ethernet(IPV6, &ipv6(OTHER6, UDP, &udp))),
        ("over IPv6 in a fragment", ethernet(IPV6, &ipv6(NODE6, FRAGMENT, &[0; 20]))),
        ("over IPv6 cut short", ethernet(IPV6, &ipv6(NODE6, UDP, &udp)[..47])),
    ]
}

/// The next hop with this number; `u16::MAX` stands for the address before the first.
fn next_hop4(number: u16) -> Ipv4Addr {
    let first = NEXT_HOP4.to_bits();
    Ipv4Addr::from_bits(if number == u16::MAX { first - 1 } else { first + u32::from(number) })
}

fn next_hop6(number: u16) -> Ipv6Addr {
    let first = NEXT_HOP6.to_bits();
    Ipv6Addr::from_bits(if number == u16::MAX { first - 1 } else { first + u128::from(number) })
}

fn other_64() -> Ipv6Addr {
    Ipv6Addr::from_bits(NEXT_HOP6.to_bits() ^ 1 << 64)
}

fn of_hop(to: Ipv6Addr, kind: u8, target: Ipv6Addr) -> Vec<u8> {
    solicited(&ipv6(to, ICMPV6, &neighbor(kind, target)))
}

/// A UDP packet to the IPv4 VIP whose source port tells the flow.
pub fn udp_flow(flow: u16) -> Vec<u8> {
    ethernet(IPV4, &ipv4(VIP4, UDP, &udp(flow)))
}

/// A UDP packet to the IPv6 VIP whose source port tells the flow.
pub fn udp6_flow(flow: u16) -> Vec<u8> {
    ethernet(IPV6, &ipv6(VIP6, UDP, &udp(flow)))
}

/// A frame of the experimental EtherType, from the node, of `len` bytes that tell its number.
pub fn experimental(number: u32, len: usize) -> Vec<u8> {
    let mut frame = link(MAC_PEER, MAC_NODE, EXPERIMENTAL);
    frame.extend(number.to_be_bytes());
    padded(&frame, len)
}

/// The frame made `len` bytes long.
pub fn padded(frame: &[u8], len: usize) -> Vec<u8> {
    let mut padded = frame.to_vec();
    padded.resize(len, 0x5a);
    padded
}

fn link(dst: [u8; 6], src: [u8; 6], ethertype: u16) -> Vec<u8> {
    let mut frame = [dst, src].concat();
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn with_payload(mut header: Vec<u8>, payload: &[u8]) -> Vec<u8> {
    header.extend(payload);
    header
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    with_payload(link(MAC_NODE, MAC_PEER, ethertype), payload)
}

fn broadcast(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    with_payload(link(MAC_BROADCAST, MAC_PEER, ethertype), payload)
}

fn solicited(payload: &[u8]) -> Vec<u8> {
    with_payload(link(MAC_SOLICITED, MAC_PEER, IPV6), payload)
}

fn tagged(tag: u16, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = link(MAC_NODE, MAC_PEER, tag);
    frame.extend([0, 7]);
    frame.extend(ethertype.to_be_bytes());
    with_payload(frame, payload)
}

/// RFC 791, section 3.1. The header checksum is left 0.
fn ipv4(dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    packet.extend(CLIENT4.octets());
    packet.extend(dst.octets());
    with_payload(packet, payload)
}

/// RFC 8200, section 3.
fn ipv6(dst: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 255]);
    packet.extend(CLIENT6.octets());
    packet.extend(dst.octets());
    with_payload(packet, payload)
}

/// RFC 768, from `flow` to port 53, with 4 bytes of payload.
fn udp(flow: u16) -> Vec<u8> {
    let [high, low] = (1024 + flow).to_be_bytes();
    vec![high, low, 0, 53, 0, 12, 0, 0, b'f', b'l', b'o', b'w']
}

/// The same to another port.
fn udp_to(port: u16) -> Vec<u8> {
    let mut datagram = udp(0);
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    datagram
}

/// RFC 826.
fn arp(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(MAC_PEER);
    packet.extend(sender.octets());
    packet.extend([0; 6]);
    with_payload(packet, &target.octets())
}

/// RFC 4861, sections 4.3 and 4.4, without options.
fn neighbor(kind: u8, target: Ipv6Addr) -> Vec<u8> {
    with_payload(vec![kind, 0, 0, 0, 0, 0, 0, 0], &target.octets())
}

/// The solicited-node group (RFC 4291, section 2.7.1).
fn group(of: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = of.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn all_nodes() -> Ipv6Addr {
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
}
