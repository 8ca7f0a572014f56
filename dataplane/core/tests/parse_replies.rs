//! The answers that the data plane writes, read back by `parse` and by etherparse.

mod parse_packets;

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{
    ArpEthIpv4Packet, ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, NetSlice,
    PacketBuilder, SlicedPacket, TransportSlice, VlanId,
};
use parse_packets::{VIP4, VIP6, VIP6_GROUP, tagged};
use proptest::option;
use proptest::prelude::*;
use vipdp_core::parse::{Arp, NeighborAdvertisement, NeighborSolicitation, Parsed, Payload, parse};
use vipdp_core::reply::{Place, arp_reply, neighbor_advertisement};
use vipdp_core::wire::ethernet::MacAddr;

const SHARED: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x53]);
const OWN: MacAddr = MacAddr([0x02, 0x11, 0, 0, 0, 0x01]);
const PLACE: Place = Place { mac: SHARED, source: OWN };
const ASKER: [u8; 6] = [0x02, 0x22, 0, 0, 0, 0x01];

/// A frame buffer of a port, with `request` in it and remains of earlier frames behind.
fn buffer(request: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xa5; 2048];
    buffer[..request.len()].copy_from_slice(request);
    buffer
}

/// Answers the request and returns the answer.
fn answered(request: &[u8]) -> Vec<u8> {
    let parsed = parse(request).expect("a good request");
    let mut buffer = buffer(request);
    let len = match &parsed.payload {
        Payload::Arp(arp) => arp_reply(&mut buffer, &parsed, arp, PLACE),
        Payload::NeighborSolicitation(asked) => {
            neighbor_advertisement(&mut buffer, &parsed, asked, PLACE)
        }
        other => panic!("not a request: {other:?}"),
    };
    assert_eq!(buffer[len], 0xa5, "nothing is written behind the answer");
    buffer.truncate(len);
    buffer
}

fn arp_request(sender: ([u8; 6], Ipv4Addr), tag: Option<u16>) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &sender.0,
        &sender.1.octets(),
        &[0; 6],
        &VIP4.octets(),
    );
    let ethernet = PacketBuilder::ethernet2(ASKER, [0xff; 6]);
    let mut frame = Vec::new();
    ethernet.arp(packet.unwrap()).write(&mut frame).unwrap();
    frame.resize(60, 0x5a);
    tag.map_or(frame.clone(), |control| tagged(0x8100, control, &frame))
}

fn solicitation(src: Ipv6Addr, dst: Ipv6Addr, tag: Option<u16>) -> Vec<u8> {
    let mut payload = VIP6.octets().to_vec();
    if !src.is_unspecified() {
        payload.extend([1, 1]);
        payload.extend(ASKER);
    }
    let builder = PacketBuilder::ethernet2(ASKER, [0x33, 0x33, 0xff, 0, 0, 0x53])
        .ipv6(src.octets(), dst.octets(), 255)
        .icmpv6(Icmpv6Type::NeighborSolicitation);
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).unwrap();
    tag.map_or(frame.clone(), |control| tagged(0x8100, control, &frame))
}

/// Checks the link of an answer by both parsers; `control` is the tag of the request.
fn check_link(answer: &[u8], dst: [u8; 6], control: Option<u16>) -> Parsed {
    let parsed = parse(answer).expect("our own answer");
    assert_eq!((parsed.dst, parsed.src), (MacAddr(dst), OWN));
    assert_eq!(parsed.vlan, control.map(|control| control & 0xfff).filter(|&vlan| vlan != 0));
    if let Some(control) = control {
        assert_eq!(answer[12..16], [[0x81, 0x00], control.to_be_bytes()].concat());
    }
    let sliced = SlicedPacket::from_ethernet(answer).expect("a frame");
    let vlan = control.map(|control| VlanId::try_new(control & 0xfff).unwrap());
    assert_eq!(sliced.vlan_ids().first().copied(), vlan);
    parsed
}

fn check_arp(answer: &[u8], control: Option<u16>, asker: ([u8; 6], Ipv4Addr)) {
    assert_eq!(answer.len(), if control.is_some() { 64 } else { 60 });
    let parsed = check_link(answer, ASKER, control);
    let told = Arp { is_request: false, sender_mac: SHARED, sender_ip: VIP4, target_ip: asker.1 };
    assert_eq!(parsed.payload, Payload::Arp(told));
    let Some(NetSlice::Arp(packet)) = SlicedPacket::from_ethernet(answer).unwrap().net else {
        panic!("not ARP");
    };
    let expected = ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: SHARED.0,
        sender_ipv4: VIP4.octets(),
        target_mac: asker.0,
        target_ipv4: asker.1.octets(),
    };
    assert_eq!(packet.to_packet().try_eth_ipv4(), Ok(expected));
    let padding = &answer[usize::from(parsed.network_offset) + 28..];
    assert!(padding.iter().all(|&byte| byte == 0), "{padding:?}");
}

fn check_advertisement(answer: &[u8], control: Option<u16>, asker: Option<Ipv6Addr>) {
    assert_eq!(answer.len(), if control.is_some() { 90 } else { 86 });
    let dst_mac = if asker.is_some() { ASKER } else { [0x33, 0x33, 0, 0, 0, 1] };
    let dst = asker.unwrap_or("ff02::1".parse().unwrap());
    let parsed = check_link(answer, dst_mac, control);
    let told = NeighborAdvertisement { target: VIP6, target_mac: Some(SHARED) };
    assert_eq!(parsed.payload, Payload::NeighborAdvertisement(told));

    let sliced = SlicedPacket::from_ethernet(answer).unwrap();
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(message))) =
        (&sliced.net, &sliced.transport)
    else {
        panic!("not ICMPv6");
    };
    let header = ip.header();
    assert_eq!((header.source_addr(), header.destination_addr()), (VIP6, dst));
    assert_eq!((header.hop_limit(), header.payload_length()), (255, 32));
    assert!(message.is_checksum_valid(header.source(), header.destination()));
    let flags =
        NeighborAdvertisementHeader { router: false, solicited: asker.is_some(), r#override: true };
    assert_eq!(message.icmp_type(), Icmpv6Type::NeighborAdvertisement(flags));
    let expected = [&VIP6.octets(), &[2, 1][..], &SHARED.0].concat();
    assert_eq!(message.payload(), expected);
}

const TAGS: [Option<u16>; 4] = [None, Some(100), Some(0xe000 | 4094), Some(0xa000)];

#[test]
fn an_arp_request_is_answered_to_its_sender() {
    let asker = (ASKER, Ipv4Addr::new(192, 0, 2, 1));
    for tag in TAGS {
        check_arp(&answered(&arp_request(asker, tag)), tag, asker);
    }
}

#[test]
fn an_arp_probe_is_answered_like_a_request() {
    let asker = (ASKER, Ipv4Addr::UNSPECIFIED);
    check_arp(&answered(&arp_request(asker, None)), None, asker);
}

/// A member of a cluster asks with the shared MAC as its sender address: answering to that would
/// reach all members.
#[test]
fn an_arp_request_is_answered_to_its_ethernet_source_whatever_it_claims() {
    let asker = (SHARED.0, Ipv4Addr::new(192, 0, 2, 54));
    check_arp(&answered(&arp_request(asker, None)), None, asker);
}

#[test]
fn a_solicitation_is_answered_to_its_sender() {
    let asker = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    for tag in TAGS {
        for dst in [VIP6_GROUP, VIP6] {
            let answer = answered(&solicitation(asker, dst, tag));
            check_advertisement(&answer, tag, Some(asker));
        }
    }
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes() {
    for tag in TAGS {
        let answer = answered(&solicitation(Ipv6Addr::UNSPECIFIED, VIP6_GROUP, tag));
        check_advertisement(&answer, tag, None);
    }
}

#[test]
fn a_solicitation_with_many_options_is_answered_as_one_with_few() {
    let asker = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let options = [14, 1, 1, 2, 3, 4, 5, 6].repeat(100);
    let message = parse_packets::neighbor(135, 0, &options);
    let mut request = parse_packets::icmpv6_frame(asker, VIP6, &message);
    request[6..12].copy_from_slice(&ASKER);
    let parsed = parse(&request).unwrap();
    let asked = NeighborSolicitation { src: asker, dst: VIP6, target: VIP6 };
    assert_eq!(parsed.payload, Payload::NeighborSolicitation(asked));
    let mut buffer = buffer(&request);
    let len = neighbor_advertisement(&mut buffer, &parsed, &asked, PLACE);
    check_advertisement(&buffer[..len], None, Some(asker));
}

proptest! {
    #[test]
    fn whoever_asks_gets_an_answer_that_is_right(
        v4 in any::<Ipv4Addr>(),
        v6 in any::<Ipv6Addr>(),
        tag in option::of(0..0xffeu16),
    ) {
        let asker = (ASKER, v4);
        check_arp(&answered(&arp_request(asker, tag)), tag, asker);
        let is_sender = !v6.is_multicast() && v6.to_ipv4_mapped().is_none() && v6.octets()[0] != 0;
        if is_sender {
            let answer = answered(&solicitation(v6, VIP6_GROUP, tag));
            check_advertisement(&answer, tag, Some(v6));
        }
    }
}
