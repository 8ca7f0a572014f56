//! What `parse` makes of frames written by hand: every kind it tells apart, IPv4 and IPv6 side by
//! side, and every error it has.

mod parse_packets;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use parse_packets::*;
use vipdp_core::parse::{
    Arp, Fragment, IpPacket, NeighborAdvertisement, NeighborSolicitation, ParseError, Parsed,
    Payload, Ports, Quoted, TcpFlags, Transport, parse,
};
use vipdp_core::wire::ethernet::MacAddr;

const PORTS: Ports = Ports { src: 54_321, dst: 53 };

/// Checks `frame` as it is, padded, and with a tag; cut anywhere, it must not panic, nor be read
/// in full where something of it is missing.
fn assert_parses(name: &str, frame: &[u8], expected: Payload) {
    let untagged = Parsed {
        dst: SHARED_MAC,
        src: ROUTER_MAC,
        vlan: None,
        network_offset: 14,
        payload: expected,
    };
    assert_eq!(parse(frame), Ok(untagged), "{name}");
    let padded = [frame, &[0; 46]].concat();
    assert_eq!(parse(&padded), Ok(untagged), "{name}, padded");
    for (control, vlan) in [(0x0064, Some(100)), (0xffe | 0xb000, Some(4094)), (0xa000, None)] {
        let expected = Parsed { vlan, network_offset: 18, ..untagged };
        let frame = tagged(0x8100, control, frame);
        assert_eq!(parse(&frame), Ok(expected), "{name}, tag {control:#x}");
    }
    for len in 0..frame.len() {
        assert!(parse(&frame[..len]).is_err(), "{name}, cut to {len} bytes");
    }
}

fn whole(version: Version, protocol: u8, transport: Transport) -> Payload {
    of_fragment(version, protocol, Fragment::Whole, transport)
}

fn of_fragment(version: Version, protocol: u8, fragment: Fragment, of: Transport) -> Payload {
    let (src, dst) = (version.client(), version.vip());
    Payload::Ip(IpPacket { src, dst, fragment, protocol, transport: of })
}

fn flags(of: u8) -> TcpFlags {
    let has = |flag| of & flag != 0;
    TcpFlags { syn: has(SYN), ack: has(ACK), fin: has(FIN), rst: has(RST) }
}

#[test]
fn a_dns_query_over_ipv4_byte_for_byte() {
    #[rustfmt::skip]
    let frame = [
        0x02, 0, 0, 0, 0, 0x53,  0x02, 0, 0, 0, 0, 0x01,  0x08, 0x00, // to, from, IPv4
        0x45, 0x00, 0x00, 0x28,  0x12, 0x34, 0x40, 0x00, // 20-byte header, 40 in all, id, DF
        0x40, 0x11, 0x5c, 0x1b,  10, 64, 0, 1,  192, 0, 2, 53, // TTL, UDP, checksum, from, to
        0xd4, 0x31, 0x00, 0x35,  0x00, 0x14, 0x00, 0x00, // ports, length 20, no checksum
        0xab, 0xcd, 0x01, 0x00,  0, 1, 0, 0, 0, 0, 0, 0, // DNS header
    ];
    assert_parses("query", &frame, whole(Version::V4, UDP, Transport::Udp(PORTS)));
}

#[test]
fn a_dns_query_over_ipv6_byte_for_byte() {
    #[rustfmt::skip]
    let frame = [
        0x02, 0, 0, 0, 0, 0x53,  0x02, 0, 0, 0, 0, 0x01,  0x86, 0xdd, // to, from, IPv6
        0x60, 0x01, 0x23, 0x45,  0x00, 0x14, 0x11, 0x40, // flow label, 20 bytes of UDP, hops 64
        0xfd, 0x64, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 1, // from
        0x20, 0x01, 0x0d, 0xb8, 0, 0x53, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0x53, // to
        0xd4, 0x31, 0x00, 0x35,  0x00, 0x14, 0x12, 0x34, // ports, length 20, checksum
        0xab, 0xcd, 0x01, 0x00,  0, 1, 0, 0, 0, 0, 0, 0, // DNS header
    ];
    assert_parses("query", &frame, whole(Version::V6, UDP, Transport::Udp(PORTS)));
}

#[test]
fn every_transport_of_either_version() {
    for version in VERSIONS {
        let echo_request = if version == Version::V4 { 8 } else { 128 };
        let echo_reply = if version == Version::V4 { 0 } else { 129 };
        let other_versions_icmp = if version == Version::V4 { ICMPV6 } else { ICMPV4 };
        let rows: &[(&str, u8, Vec<u8>, Transport)] = &[
            ("UDP", UDP, udp(b"query"), Transport::Udp(PORTS)),
            ("UDP without data", UDP, udp(b""), Transport::Udp(PORTS)),
            ("UDP, then options", UDP, [udp(b"a"), vec![0; 7]].concat(), Transport::Udp(PORTS)),
            ("SYN", TCP, tcp(SYN, 10), Transport::Tcp(PORTS, flags(SYN))),
            ("SYN ACK", TCP, tcp(SYN | ACK, 0), Transport::Tcp(PORTS, flags(SYN | ACK))),
            ("data", TCP, tcp(ACK | PSH, 3), Transport::Tcp(PORTS, flags(ACK))),
            ("FIN", TCP, tcp(FIN | ACK, 3), Transport::Tcp(PORTS, flags(FIN | ACK))),
            ("RST", TCP, tcp(RST, 0), Transport::Tcp(PORTS, flags(RST))),
            ("RST ACK", TCP, tcp(RST | ACK, 0), Transport::Tcp(PORTS, flags(RST | ACK))),
            (
                "echo request",
                version.icmp(),
                icmp(echo_request, 0, [1, 2, 3, 4], b"ping"),
                Transport::EchoRequest,
            ),
            (
                "echo reply",
                version.icmp(),
                icmp(echo_reply, 0, [1, 2, 3, 4], b"ping"),
                Transport::Other,
            ),
            (
                "the other version's ICMP",
                other_versions_icmp,
                icmp(3, 0, [0; 4], b""),
                Transport::Other,
            ),
            ("ESP", 50, vec![0; 16], Transport::Other),
            ("no payload", 59, vec![], Transport::Other),
            ("an unassigned protocol", 200, vec![1, 2, 3], Transport::Other),
        ];
        for (name, protocol, payload, transport) in rows {
            let frame = version.frame(*protocol, payload);
            let name = format!("{version:?} {name}");
            assert_parses(&name, &frame, whole(version, *protocol, *transport));
        }
    }
}

#[test]
fn every_kind_of_fragment_of_either_version() {
    for version in VERSIONS {
        let id = 0xabcd;
        let first = Fragment::First { id: id.into() };
        let later = Fragment::Later { id: id.into() };
        let start = udp(&[0; 1440]);
        for (name, frame, fragment, protocol, transport) in [
            (
                "first of UDP",
                version.fragment(UDP, id, 0, true, &start[..64]),
                first,
                UDP,
                Transport::Udp(PORTS),
            ),
            (
                "first of TCP, its options in the next",
                version.fragment(TCP, id, 0, true, &tcp(ACK, 10)[..24]),
                first,
                TCP,
                Transport::Tcp(PORTS, flags(ACK)),
            ),
            (
                "middle, which looks like a header",
                version.fragment(UDP, id, 1448, true, &udp(&[0; 8])),
                later,
                UDP,
                Transport::LaterFragment,
            ),
            (
                "last, of odd length",
                version.fragment(TCP, id, 8, false, &[7]),
                later,
                TCP,
                Transport::LaterFragment,
            ),
            (
                "last, of ICMP",
                version.fragment(version.icmp(), id, 8, false, &[135; 24]),
                later,
                version.icmp(),
                Transport::LaterFragment,
            ),
        ] {
            let name = format!("{version:?} {name}");
            assert_parses(&name, &frame, of_fragment(version, protocol, fragment, transport));
        }
    }
}

#[test]
fn a_fragment_may_end_where_the_longest_packet_ends() {
    // The length field counts the header in IPv4 (20 bytes), not in IPv6.
    for (version, fits) in [(Version::V4, 65_535 - 20 - 65_512), (Version::V6, 65_535 - 65_512)] {
        let of_len =
            |len: usize| parse(&version.fragment(UDP, 1, 65_512, false, &vec![0; len])).map(|_| ());
        assert_eq!(of_len(fits), Ok(()), "{version:?}");
        assert_eq!(of_len(fits + 1), Err(ParseError::FragmentInvalid), "{version:?}");
    }
}

#[test]
fn ipv4_options_are_passed() {
    for len in [4, 40] {
        let packet = ipv4_with_options(&vec![1; len], UDP, &udp(b"query"));
        let expected = whole(Version::V4, UDP, Transport::Udp(PORTS));
        assert_parses(&format!("{len} bytes"), &ethernet(0x0800, &packet), expected);
    }
}

#[test]
fn ipv6_extension_headers_are_passed() {
    let udp = udp(b"query");
    let long_chain = [extension(60, 1).repeat(7), extension(UDP, 1), udp.clone()].concat();
    let rows = [
        ("hop-by-hop", 0, [extension(UDP, 1), udp.clone()].concat()),
        ("hop-by-hop, routing", 0, [extension(43, 2), extension(UDP, 3), udp.clone()].concat()),
        ("destination options of 64 bytes", 60, [extension(UDP, 8), udp.clone()].concat()),
        // 12 bytes of authentication header are 1 in its length field: 2 less than in units of 4.
        ("authentication", 51, [&[UDP, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2], &udp[..]].concat()),
        ("as many as are allowed", 60, long_chain),
        (
            "a fragment that is whole",
            44,
            [fragment_header(60, 7, 0, false), extension(UDP, 1), udp.clone()].concat(),
        ),
    ];
    for (name, next_header, payload) in rows {
        let frame = ethernet(0x86dd, &ipv6(next_header, &payload));
        assert_parses(name, &frame, whole(Version::V6, UDP, Transport::Udp(PORTS)));
    }
}

#[test]
fn an_ipv6_fragment_is_told_by_extension_headers_on_both_sides() {
    let start = [extension(UDP, 1), udp(&[0; 24])].concat();
    let frame = |offset, more, data: &[u8]| {
        let fragment = [&extension(44, 2), &fragment_header(60, 7, offset, more), data].concat();
        ethernet(0x86dd, &ipv6(0, &fragment))
    };
    let (first, later) = (Fragment::First { id: 7 }, Fragment::Later { id: 7 });
    let expected = of_fragment(Version::V6, UDP, first, Transport::Udp(PORTS));
    assert_parses("first", &frame(0, true, &start[..24]), expected);
    // It cannot know what follows the options that lie in the first fragment.
    let expected = of_fragment(Version::V6, 60, later, Transport::LaterFragment);
    assert_parses("last", &frame(24, false, &start[24..]), expected);
}

/// An ICMP error of `version` that quotes `quote`, its type one of all that tell of errors.
fn errors(version: Version, quote: &[u8]) -> Vec<Vec<u8>> {
    let types: &[u8] = if version == Version::V4 { &[3, 11, 12] } else { &[1, 2, 3, 4, 100, 127] };
    let error = |&of_type: &u8| version.frame(version.icmp(), &icmp(of_type, 1, [0; 4], quote));
    types.iter().map(error).collect()
}

fn assert_quotes(name: &str, version: Version, quote: &[u8], protocol: u8, ports: Option<Ports>) {
    let (src, dst) = (version.client(), version.vip());
    let quoted = Transport::IcmpError(Quoted { src, dst, protocol, ports });
    for frame in errors(version, quote) {
        let expected = Ok(whole(version, version.icmp(), quoted));
        let name = format!("{version:?} {name}");
        assert_eq!(parse(&frame).map(|parsed| parsed.payload), expected, "{name}");
        for len in 0..frame.len() {
            assert!(parse(&frame[..len]).is_err(), "{name}, cut to {len}");
        }
    }
}

#[test]
fn an_icmp_error_tells_whom_it_concerns_as_far_as_the_quote_goes() {
    for version in VERSIONS {
        let quote = |protocol, payload: &[u8]| version.frame(protocol, payload)[14..].to_vec();
        let header = if version == Version::V4 { 20 } else { 40 };
        for (protocol, packet) in
            [(UDP, quote(UDP, &udp(&[0; 512]))), (TCP, quote(TCP, &tcp(ACK, 3)))]
        {
            assert_quotes("in full", version, &packet, protocol, Some(PORTS));
            assert_quotes("8 bytes", version, &packet[..header + 8], protocol, Some(PORTS));
            assert_quotes("4 bytes", version, &packet[..header + 4], protocol, Some(PORTS));
            assert_quotes("3 bytes", version, &packet[..header + 3], protocol, None);
            assert_quotes("the header", version, &packet[..header], protocol, None);
        }
        let echo = quote(version.icmp(), &icmp(128, 0, [1, 2, 3, 4], b"ping"));
        assert_quotes("an echo", version, &echo, version.icmp(), None);
        let first = version.fragment(UDP, 1, 0, true, &udp(&[0; 8]));
        assert_quotes("a first fragment", version, &first[14..], UDP, Some(PORTS));
        let later = version.fragment(UDP, 1, 8, false, &udp(&[0; 8]));
        assert_quotes("a later fragment", version, &later[14..], UDP, None);
    }
}

#[test]
fn a_quote_is_read_behind_options_and_extension_headers() {
    let quote = ipv4_with_options(&[1; 8], UDP, &udp(b""));
    assert_quotes("behind options", Version::V4, &quote, UDP, Some(PORTS));
    assert_quotes("options cut", Version::V4, &quote[..24], UDP, None);

    let chain = [extension(60, 1), extension(UDP, 2), udp(b"")].concat();
    let quote = ipv6(0, &chain);
    assert_quotes("behind extensions", Version::V6, &quote, UDP, Some(PORTS));
    assert_quotes("second extension cut", Version::V6, &quote[..60], 60, None);
    assert_quotes("first extension cut", Version::V6, &quote[..47], 0, None);
}

#[test]
fn a_quote_need_not_be_intact() {
    let mut quote = ipv4(UDP, &udp(b""));
    quote[10..12].fill(0xee); // the header checksum
    quote[2..4].fill(0xff); // the total length
    assert_quotes("changed on the way", Version::V4, &quote, UDP, Some(PORTS));
    let mut quote = ipv6(UDP, &udp(b""));
    quote[4..6].fill(0xff); // the payload length
    assert_quotes("changed on the way", Version::V6, &quote, UDP, Some(PORTS));
}

#[test]
fn icmp_that_quotes_but_tells_of_no_error_is_other() {
    let quote = ipv4(UDP, &udp(b""));
    for (name, of_type) in [("source quench", 4), ("redirect", 5)] {
        let frame = Version::V4.frame(ICMPV4, &icmp(of_type, 0, [0; 4], &quote));
        assert_parses(name, &frame, whole(Version::V4, ICMPV4, Transport::Other));
    }
    for (name, of_type) in [("the reserved type 0", 0), ("redirect", 137)] {
        let frame = Version::V6.frame(ICMPV6, &icmp(of_type, 0, [0; 4], &ipv6(UDP, &udp(b""))));
        assert_parses(name, &frame, whole(Version::V6, ICMPV6, Transport::Other));
    }
}

#[test]
fn arp_requests_and_replies() {
    let sender = (ROUTER_MAC, Ipv4Addr::new(192, 0, 2, 1));
    let probe = (ROUTER_MAC, Ipv4Addr::UNSPECIFIED);
    let target = (MacAddr::default(), VIP4);
    for (name, operation, sender) in
        [("request", 1, sender), ("reply", 2, sender), ("probe", 1, probe)]
    {
        let arp = Arp {
            is_request: operation == 1,
            sender_mac: sender.0,
            sender_ip: sender.1,
            target_ip: VIP4,
        };
        let packet = parse_packets::arp(operation, sender, target);
        assert_parses(name, &ethernet(0x0806, &packet), Payload::Arp(arp));
    }
}

const SOURCE_MAC: [u8; 8] = [1, 1, 0x02, 0, 0, 0, 0, 0x01];
const TARGET_MAC: [u8; 8] = [2, 1, 0x02, 0, 0, 0, 0, 0x77];
const OTHER_MAC: [u8; 8] = [2, 1, 0x02, 0, 0, 0, 0, 0x78];
const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

#[test]
fn neighbour_solicitations() {
    let solicitation =
        |src, dst| Payload::NeighborSolicitation(NeighborSolicitation { src, dst, target: VIP6 });
    let unspecified = Ipv6Addr::UNSPECIFIED;
    for (name, src, dst, options) in [
        ("resolution", CLIENT6, VIP6_GROUP, SOURCE_MAC.to_vec()),
        ("reachability", CLIENT6, VIP6, vec![]),
        ("with an unknown option", CLIENT6, VIP6, [NONCE, SOURCE_MAC].concat()),
        ("duplicate address detection", unspecified, VIP6_GROUP, vec![]),
        ("the same with a nonce", unspecified, VIP6_GROUP, NONCE.to_vec()),
    ] {
        let frame = icmpv6_frame(src, dst, &neighbor(135, 0, &options));
        assert_parses(name, &frame, solicitation(src, dst));
    }
}

#[test]
fn neighbour_advertisements() {
    let advertisement = |target_mac| {
        Payload::NeighborAdvertisement(NeighborAdvertisement { target: VIP6, target_mac })
    };
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mac = Some(MacAddr([0x02, 0, 0, 0, 0, 0x77]));
    // A link-layer address of another length is not one of Ethernet.
    let long = [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    for (name, dst, flags, options, target_mac) in [
        ("solicited", VIP6, 0x60, TARGET_MAC.to_vec(), mac),
        ("unsolicited", all_nodes, 0x20, [NONCE, TARGET_MAC].concat(), mac),
        ("with a second address", VIP6, 0x40, [TARGET_MAC, OTHER_MAC].concat(), mac),
        ("without an address", VIP6, 0x40, vec![], None),
        ("with an address of another length", VIP6, 0x40, long, None),
    ] {
        let frame = icmpv6_frame(CLIENT6, dst, &neighbor(136, flags, &options));
        assert_parses(name, &frame, advertisement(target_mac));
    }
}

#[test]
fn addresses_of_any_sender_are_taken() {
    let sources: [IpAddr; 6] = [
        Ipv4Addr::new(240, 0, 0, 1).into(),
        Ipv4Addr::new(0, 0, 0, 1).into(),
        Ipv4Addr::new(223, 255, 255, 255).into(),
        "64:ff9b::a40:1".parse().unwrap(),
        "::1:0:0:1".parse().unwrap(),
        "fe80::1".parse().unwrap(),
    ];
    for src in sources {
        let frame = frame_from(src, UDP, &udp(b"query"));
        let Ok(Payload::Ip(packet)) = parse(&frame).map(|parsed| parsed.payload) else {
            panic!("{src} is refused");
        };
        assert_eq!(packet.src, src);
    }
}

fn frame_from(src: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match src {
        IpAddr::V4(src) => {
            let mut packet = ipv4(protocol, payload);
            packet[12..16].copy_from_slice(&src.octets());
            ethernet(0x0800, &with_header_checksum(packet))
        }
        IpAddr::V6(src) => ethernet(0x86dd, &ipv6_between(src, VIP6, 64, protocol, payload)),
    }
}
