//! Random frames near the line between what is vipdp's and what the host's.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use proptest::sample::Index;
use vipdp_core::classify::TunnelEnd;
use vipdp_core::slot::Slot;
use vipdp_core::tiered::{Search, Tiered, TieredMac};

use super::frames::{self, Link, OWN, ROUTER, SHARED};

/// The service addresses: single ones and networks of either family.
pub const VIPS: [&str; 4] =
    ["192.0.2.53", "198.51.100.0/24", "2001:db8:53::53", "2001:db8:54::/64"];
/// This node's end of the tunnels.
pub const TUNNEL4: TunnelEnd =
    TunnelEnd { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), port: 6080 };

/// Next hops 10.0.0.64 to 10.0.0.67, and of IPv6 fd00::1:0 to fd00::1:3.
pub fn tiered() -> Tiered {
    Tiered {
        slot: Slot::new(0).unwrap(),
        cluster: 53,
        first4: Some(Ipv4Addr::new(10, 0, 0, 64)),
        first6: Some("fd00::1:0".parse().unwrap()),
        count: 4,
        mac: TieredMac::Virtual,
        search: Search::PreviousOwners,
    }
}

fn address4() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec![
        "192.0.2.53",
        "192.0.2.52",
        "198.51.100.0",
        "198.51.100.255",
        "198.51.101.0",
        "10.0.0.9",
        "10.0.0.1",
        "10.0.0.63",
        "10.0.0.64",
        "10.0.0.67",
        "10.0.0.68",
    ])
    .prop_map(|text| text.parse().unwrap())
}

fn address6() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec![
        "2001:db8:53::53",
        "2001:db8:53::54",
        "2001:db8:54::",
        "2001:db8:54::ffff:ffff:ffff:ffff",
        "2001:db8:55::",
        "fd00::9",
        "fd00::1",
        "fd00::ffff",
        "fd00::1:0",
        "fd00::1:3",
        "fd00::1:4",
        "fd00::1:0:0:1:0",
    ])
    .prop_map(|text| text.parse().unwrap())
}

fn packet() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let arp = (address4(), address4(), 0u8..4).prop_map(|addresses| {
        let (IpAddr::V4(sender), IpAddr::V4(target), operation) = addresses else {
            unreachable!("both are of IPv4");
        };
        let link = Link { from: ROUTER, to: OWN, vlan: None };
        let frame = frames::arp(operation, ROUTER, sender, target, link);
        (0x0806, frame[14..].to_vec())
    });
    let neighbor = (address6(), address6(), 133u8..138).prop_map(|(destination, target, kind)| {
        let IpAddr::V6(target) = target else { unreachable!("it is of IPv6") };
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        (0x86dd, frames::ip("fd00::7".parse().unwrap(), destination, 58, &message))
    });
    let protocol = prop::sample::select(vec![17u8, 6, 1, 58, 132]);
    let port = prop::sample::select(vec![53u16, 6080, 6081]);
    let ip = (prop_oneof![address4(), address6()], protocol, port, any::<bool>()).prop_map(
        |(destination, protocol, port, is_piece)| {
            let source = if destination.is_ipv4() { "10.0.0.7" } else { "fd00::7" };
            let piece = is_piece.then_some((0, true, 7));
            let payload = frames::udp(40_000, port, 8);
            let source = source.parse().unwrap();
            let packet = frames::ip_piece(source, destination, protocol, &payload, piece);
            (if destination.is_ipv4() { 0x0800 } else { 0x86dd }, packet)
        },
    );
    prop_oneof![arp, neighbor, ip]
}

/// A frame of at least an Ethernet header that may be tagged, cut short, and wrong in one byte.
pub fn near_frame() -> impl Strategy<Value = Vec<u8>> {
    let vlan = prop_oneof![3 => Just(None), 1 => any::<u16>().prop_map(Some)];
    let ether_type = prop_oneof![9 => Just(None), 1 => any::<u16>().prop_map(Some)];
    let cut = prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)];
    let wrong = prop_oneof![1 => Just(None), 1 => any::<(Index, u8)>().prop_map(Some)];
    let to = prop::sample::select(vec![OWN, SHARED]);
    (packet(), vlan, ether_type, cut, wrong, to).prop_map(
        |((kind, packet), vlan, ether_type, cut, wrong, to)| {
            let link = Link { from: ROUTER, to, vlan };
            let mut frame = frames::frame(link, ether_type.unwrap_or(kind), &packet);
            if let Some((at, byte)) = wrong {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if let Some(cut) = cut {
                frame.truncate(14 + cut.index(frame.len() - 14));
            }
            frame
        },
    )
}
