//! Which frames of a NIC are vipdp's, where it has the whole NIC: what the XDP program tells where the
//! kernel has it.
//!
//! | frame, untagged or behind one 802.1Q tag | whose |
//! |---|---|
//! | an IPv4 or IPv6 packet to a VIP, of any protocol, later fragments too | vipdp's |
//! | an ARP packet for IPv4 over Ethernet with a VIP or a next-hop address as sender or target | vipdp's |
//! | a neighbour solicitation or advertisement whose target is one | vipdp's |
//! | a UDP datagram, whole and without options, to this node's end of the tunnels | vipdp's |
//! | any other | the host's |
//!
//! Nothing is validated beyond what tells where a frame goes, and MAC addresses are not looked at. It is, frame for
//! frame, what `bpf/vipdp.bpf.c` of `vipdp-io` does, and a test there holds the one against the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::snapshot::{Ingress, Service};
use crate::wire::{arp, ethernet, protocol};

/// Where other members' tunnels come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// This node's own address.
    pub address: IpAddr,
    /// The UDP port.
    pub port: u16,
}

/// Of the IPv4 header: more fragments, or not the first one (RFC 791, section 3.1).
const IPV4_IS_FRAGMENT: u16 = 0x3fff;
/// Words of an IPv4 header without options.
const IPV4_WORDS: u8 = 5;
/// The lengths of the headers that are looked at, in bytes.
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// A neighbour message up to the end of its target (RFC 4861, section 4.3).
const NEIGHBOR_LEN: usize = 24;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// How an ARP packet for IPv4 over Ethernet begins (RFC 826): hardware and protocol type, and their lengths.
const ARP_OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Whether a frame is vipdp's and not the host's. `tunnel_end` is this node's, if there are tunnels.
#[inline]
pub fn is_ours(service: &Service, tunnel_end: Option<&TunnelEnd>, frame: &[u8]) -> bool {
    let Some((ether_type, network)) = network(frame) else { return false };
    match ether_type {
        ethernet::IPV4 => is_ours_v4(service, tunnel_end, network),
        ethernet::IPV6 => is_ours_v6(service, tunnel_end, network),
        ethernet::ARP => is_question_v4(service, network),
        _ => false,
    }
}

/// The EtherType and what follows it, untagged or behind one tag.
#[inline]
fn network(frame: &[u8]) -> Option<(u16, &[u8])> {
    let (header, payload) = frame.split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
    let ether_type = u16::from_be_bytes([header[12], header[13]]);
    if ether_type != ethernet::VLAN {
        return Some((ether_type, payload));
    }
    let (tag, payload) = payload.split_first_chunk::<{ ethernet::TAG_LEN }>()?;
    Some((u16::from_be_bytes([tag[2], tag[3]]), payload))
}

fn is_ours_v4(service: &Service, tunnel_end: Option<&TunnelEnd>, packet: &[u8]) -> bool {
    let Some((header, payload)) = packet.split_first_chunk::<IPV4_LEN>() else { return false };
    let [.., a, b, c, d] = *header;
    let destination = Ipv4Addr::new(a, b, c, d);
    let is_whole = u16::from_be_bytes([header[6], header[7]]) & IPV4_IS_FRAGMENT == 0;
    service.vips.contains_v4(destination)
        || tunnel_end.is_some_and(|end| {
            end.address == destination
                && header[9] == protocol::UDP
                && header[0] & 0x0f == IPV4_WORDS
                && is_whole
                && is_udp_to(end.port, payload)
        })
}

fn is_ours_v6(service: &Service, tunnel_end: Option<&TunnelEnd>, packet: &[u8]) -> bool {
    let Some((header, payload)) = packet.split_first_chunk::<IPV6_LEN>() else { return false };
    let next_header = header[6];
    let destination = address_v6(&header[24..]);
    (next_header == protocol::ICMPV6 && is_question_v6(service, payload))
        || destination.is_some_and(|address| service.vips.contains_v6(address))
        || tunnel_end.is_some_and(|end| {
            destination.is_some_and(|address| end.address == address)
                && next_header == protocol::UDP
                && is_udp_to(end.port, payload)
        })
}

fn is_udp_to(port: u16, payload: &[u8]) -> bool {
    let header = payload.first_chunk::<8>();
    header.is_some_and(|header| header[2..4] == port.to_be_bytes())
}

/// Whether an ARP packet is about a VIP or a next-hop address, whatever its operation.
fn is_question_v4(service: &Service, bytes: &[u8]) -> bool {
    let Some(packet) = bytes.first_chunk::<{ arp::LEN }>() else { return false };
    let addresses = [14, 24].map(|at| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|byte| packet[at + byte]);
        Ipv4Addr::new(a, b, c, d)
    });
    packet.starts_with(&ARP_OF_IPV4)
        && addresses.into_iter().any(|address| {
            service.vips.contains_v4(address) || is_next_hop(service, address.into())
        })
}

/// Whether a message is a neighbour's about a VIP or a next-hop address, whatever it is addressed to. Neighbour
/// discovery comes without extension headers (RFC 6980 forbids fragments; no option is defined for it).
fn is_question_v6(service: &Service, message: &[u8]) -> bool {
    let Some(message) = message.first_chunk::<NEIGHBOR_LEN>() else { return false };
    matches!(message[0], NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT)
        && address_v6(&message[8..]).is_some_and(|target| {
            service.vips.contains_v6(target) || is_next_hop(service, target.into())
        })
}

fn is_next_hop(service: &Service, address: IpAddr) -> bool {
    match &service.ingress {
        Ingress::Tiered(tiered) => tiered.number(address).is_some(),
        Ingress::SharedMac(_) | Ingress::Anycast(_) => false,
    }
}

fn address_v6(bytes: &[u8]) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{ClientHash, HashInput};
    use crate::slot::Slot;
    use crate::snapshot::{SharedMac, Vips};
    use crate::tiered::{Search, Tiered, TieredMac};
    use crate::wire::ethernet::MacAddr;

    fn service() -> Service {
        Service::new(
            Vips::new(["192.0.2.53", "2001:db8::/64"].map(|vip| vip.parse().unwrap())),
            ClientHash::new([1; 16], HashInput::Address),
            Ingress::SharedMac(SharedMac::unicast(MacAddr([2; 6]))),
            MacAddr([4; 6]),
            MacAddr([6; 6]),
        )
    }

    fn tiered() -> Service {
        let ingress = Ingress::Tiered(Tiered {
            slot: Slot::new(0).unwrap(),
            cluster: 1,
            first4: Some(Ipv4Addr::new(10, 0, 0, 64)),
            first6: Some("fd00::1:0".parse().unwrap()),
            count: 2,
            mac: TieredMac::Virtual,
            search: Search::PreviousOwners,
        });
        Service { ingress, ..service() }
    }

    fn frame(ether_type: u16, tag: Option<u16>, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        if let Some(tag) = tag {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn arp_packet(sender: &str, target: &str) -> Vec<u8> {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2];
        packet.extend(ip(sender));
        packet.extend([0; 6]);
        packet.extend(ip(target));
        packet
    }

    fn v4(destination: &str, port: u16) -> Vec<u8> {
        let mut packet = vec![0; 28];
        (packet[0], packet[9]) = (0x45, protocol::UDP);
        packet[16..20].copy_from_slice(&destination.parse::<Ipv4Addr>().unwrap().octets());
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        packet
    }

    fn v6(destination: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        (packet[0], packet[6]) = (0x60, next_header);
        packet[24..40].copy_from_slice(&destination.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        packet
    }

    fn neighbor(kind: u8, target: &str) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.parse::<Ipv6Addr>().unwrap().octets());
        v6("ff02::1:ff00:1", protocol::ICMPV6, &message)
    }

    #[test]
    fn packets_to_vips_are_ours_and_others_are_the_hosts() {
        let service = service();
        let ours = |ether_type, tag, packet: &[u8]| {
            is_ours(&service, None, &frame(ether_type, tag, packet))
        };
        for tag in [None, Some(7)] {
            assert!(ours(ethernet::IPV4, tag, &v4("192.0.2.53", 53)));
            assert!(ours(ethernet::IPV6, tag, &v6("2001:db8::ffff", 99, &[])));
            assert!(!ours(ethernet::IPV4, tag, &v4("192.0.2.54", 53)));
            assert!(!ours(ethernet::IPV6, tag, &v6("2001:db8:0:1::", 99, &[])));
        }
        let mut fragment = v4("192.0.2.53", 53);
        fragment[7] = 9;
        assert!(ours(ethernet::IPV4, None, &fragment));
        assert!(!ours(ethernet::SERVICE_VLAN, None, &v4("192.0.2.53", 53)));
        assert!(!ours(ethernet::IPV4, None, &v4("192.0.2.53", 53)[..19]));
    }

    #[test]
    fn questions_about_vips_and_next_hops_are_ours() {
        let (plain, tiered) = (service(), tiered());
        for (sender, target, is_vip, is_hop) in [
            ("10.0.0.1", "192.0.2.53", true, false),
            ("192.0.2.53", "192.0.2.53", true, false),
            ("192.0.2.53", "10.0.0.1", true, false),
            ("10.0.0.1", "10.0.0.65", false, true),
            ("10.0.0.64", "10.0.0.1", false, true),
            ("10.0.0.1", "10.0.0.66", false, false),
            ("10.0.0.1", "10.0.0.63", false, false),
        ] {
            let frame = frame(ethernet::ARP, None, &arp_packet(sender, target));
            assert_eq!(is_ours(&plain, None, &frame), is_vip, "{sender} {target}");
            assert_eq!(is_ours(&tiered, None, &frame), is_vip || is_hop, "{sender} {target}");
        }
        for (kind, target, is_vip, is_hop) in [
            (135, "2001:db8::1", true, false),
            (136, "2001:db8::1", true, false),
            (134, "2001:db8::1", false, false),
            (135, "fd00::1:1", false, true),
            (135, "fd00::1:2", false, false),
        ] {
            let frame = frame(ethernet::IPV6, None, &neighbor(kind, target));
            assert_eq!(is_ours(&plain, None, &frame), is_vip, "{kind} {target}");
            assert_eq!(is_ours(&tiered, None, &frame), is_vip || is_hop, "{kind} {target}");
        }
    }

    #[test]
    fn tunnels_to_this_node_are_ours_when_there_are_tunnels() {
        let service = service();
        let end = |address: &str| TunnelEnd { address: address.parse().unwrap(), port: 6080 };
        let (end4, end6) = (end("10.0.0.9"), end("fd00::9"));
        let ours = |end: &TunnelEnd, ether_type, packet: &[u8]| {
            is_ours(&service, Some(end), &frame(ether_type, None, packet))
        };
        let tunnel = v4("10.0.0.9", 6080);
        assert!(ours(&end4, ethernet::IPV4, &tunnel));
        assert!(!is_ours(&service, None, &frame(ethernet::IPV4, None, &tunnel)));
        assert!(!ours(&end6, ethernet::IPV4, &tunnel));
        assert!(!ours(&end4, ethernet::IPV4, &v4("10.0.0.9", 6081)));
        for (at, byte) in [(0, 0x46), (6, 0x20), (7, 1), (9, protocol::TCP)] {
            let mut other = tunnel.clone();
            other[at] = byte;
            assert!(!ours(&end4, ethernet::IPV4, &other), "byte {at}");
        }
        let udp = [0, 1, 0x17, 0xc0, 0, 8, 0, 0];
        assert!(ours(&end6, ethernet::IPV6, &v6("fd00::9", protocol::UDP, &udp)));
        assert!(!ours(&end6, ethernet::IPV6, &v6("fd00::9", protocol::UDP, &udp[..7])));
        assert!(!ours(&end6, ethernet::IPV6, &v6("fd00::8", protocol::UDP, &udp)));
    }
}
