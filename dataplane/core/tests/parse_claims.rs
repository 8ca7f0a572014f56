//! The frames that claim a next-hop address or ask for it, read back by `parse` and by etherparse.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, VlanId,
};
use proptest::option;
use proptest::prelude::*;
use vipdp_core::claim::{ArpForm, advertisement, arp_claim, arp_probe, detection};
use vipdp_core::parse::{Arp, NeighborAdvertisement, NeighborSolicitation, Parsed, Payload, parse};
use vipdp_core::wire::ethernet::MacAddr;

/// Checks the link header by both parsers, and that the frame is as long as it must be.
fn check_link(frame: &[u8], dst: MacAddr, src: MacAddr, vlan: Option<u16>, len: usize) -> Parsed {
    assert_eq!(frame.len(), len + if vlan.is_some() { 4 } else { 0 });
    let parsed = parse(frame).expect("our own frame");
    assert_eq!((parsed.dst, parsed.src, parsed.vlan), (dst, src, vlan));
    let sliced = SlicedPacket::from_ethernet(frame).expect("a frame");
    let expected = vlan.map(|vlan| VlanId::try_new(vlan).unwrap());
    assert_eq!(sliced.vlan_ids().first().copied(), expected);
    parsed
}

fn check_arp(frame: &[u8], expected: &ArpEthIpv4Packet, vlan: Option<u16>) {
    let src = MacAddr(expected.sender_mac);
    let parsed = check_link(frame, MacAddr::BROADCAST, src, vlan, 60);
    let told = Arp {
        is_request: expected.operation == ArpOperation::REQUEST,
        sender_mac: src,
        sender_ip: expected.sender_ipv4.into(),
        target_ip: expected.target_ipv4.into(),
    };
    assert_eq!(parsed.payload, Payload::Arp(told));
    let Some(NetSlice::Arp(packet)) = SlicedPacket::from_ethernet(frame).unwrap().net else {
        panic!("not ARP");
    };
    assert_eq!(packet.to_packet().try_eth_ipv4().as_ref(), Ok(expected));
    assert!(frame[usize::from(parsed.network_offset) + 28..].iter().all(|&byte| byte == 0));
}

/// Checks the headers of a neighbour discovery message; returns it.
fn check_icmp(frame: &[u8], src: Ipv6Addr, dst: Ipv6Addr) -> (Icmpv6Type, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(message))) =
        (&sliced.net, &sliced.transport)
    else {
        panic!("not ICMPv6");
    };
    let header = ip.header();
    assert_eq!((header.source_addr(), header.destination_addr()), (src, dst));
    assert_eq!(header.hop_limit(), 255);
    assert!(message.is_checksum_valid(header.source(), header.destination()));
    (message.icmp_type(), message.payload().to_vec())
}

fn check_claims(v4: Ipv4Addr, v6: Ipv6Addr, mac: MacAddr, vlan: Option<u16>) {
    let told = |operation, target_mac| ArpEthIpv4Packet {
        operation,
        sender_mac: mac.0,
        sender_ipv4: v4.octets(),
        target_mac,
        target_ipv4: v4.octets(),
    };
    let request = arp_claim(v4, mac, ArpForm::Request, vlan);
    check_arp(&request, &told(ArpOperation::REQUEST, [0; 6]), vlan);
    let reply = arp_claim(v4, mac, ArpForm::Reply, vlan);
    check_arp(&reply, &told(ArpOperation::REPLY, mac.0), vlan);

    let frame = advertisement(v6, mac, vlan);
    let parsed = check_link(&frame, MacAddr([0x33, 0x33, 0, 0, 0, 1]), mac, vlan, 86);
    let told = NeighborAdvertisement { target: v6, target_mac: Some(mac) };
    assert_eq!(parsed.payload, Payload::NeighborAdvertisement(told));
    let (kind, payload) = check_icmp(&frame, v6, "ff02::1".parse().unwrap());
    let flags = NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
    assert_eq!(kind, Icmpv6Type::NeighborAdvertisement(flags));
    assert_eq!(payload, [&v6.octets(), &[2, 1][..], &mac.0].concat());
}

fn check_probes(v4: Ipv4Addr, v6: Ipv6Addr, own: MacAddr, vlan: Option<u16>) {
    let asked = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: own.0,
        sender_ipv4: [0; 4],
        target_mac: [0; 6],
        target_ipv4: v4.octets(),
    };
    check_arp(&arp_probe(v4, own, vlan), &asked, vlan);

    let frame = detection(v6, own, vlan);
    let [.., a, b, c] = v6.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c].into();
    let parsed = check_link(&frame, MacAddr([0x33, 0x33, 0xff, a, b, c]), own, vlan, 78);
    let src = Ipv6Addr::UNSPECIFIED;
    let asked = NeighborSolicitation { src, dst: group, target: v6 };
    assert_eq!(parsed.payload, Payload::NeighborSolicitation(asked));
    let (kind, payload) = check_icmp(&frame, src, group);
    assert_eq!(kind, Icmpv6Type::NeighborSolicitation);
    assert_eq!(payload, v6.octets());
}

proptest! {
    #[test]
    fn claims_and_probes_are_read_as_they_are_meant(
        v4: Ipv4Addr,
        v6: u64,
        mac: [u8; 6],
        vlan in option::of(1..4095_u16),
    ) {
        let v6 = Ipv6Addr::from_bits(0xfd64 << 112 | u128::from(v6));
        let mac = MacAddr([mac[0] & !1, mac[1], mac[2], mac[3], mac[4], mac[5]]);
        check_claims(v4, v6, mac, vlan);
        check_probes(v4, v6, mac, vlan);
    }
}
