//! Every error that `parse` has, by frames that differ from good ones in one thing each.

mod parse_packets;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use ParseError::*;
use parse_packets::*;
use vipdp_core::parse::{ParseError, parse};
use vipdp_core::wire::ethernet::MacAddr;

/// What is wrong with a frame, the frame, and the error that says so.
type Row = (&'static str, Vec<u8>, ParseError);

/// `frame` with the bytes from `at` on replaced.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Cut to `len` bytes.
fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

fn link_rows() -> Vec<Row> {
    let good = Version::V4.frame(UDP, &udp(b""));
    let once = tagged(0x8100, 100, &good);
    vec![
        ("nothing", vec![], EthernetTruncated),
        ("an EtherType cut", cut(good.clone(), 13), EthernetTruncated),
        ("a tag cut", cut(once.clone(), 17), EthernetTruncated),
        ("from a group", with(good.clone(), 6, &[0x01]), EthernetInvalid),
        ("the reserved VLAN", tagged(0x8100, 0xfff, &good), EthernetInvalid),
        ("two tags", tagged(0x8100, 200, &once), VlanStacked),
        ("a service tag", tagged(0x88a8, 100, &good), VlanStacked),
        ("a service tag behind a tag", tagged(0x8100, 1, &tagged(0x88a8, 2, &good)), VlanStacked),
        ("LLDP", ethernet(0x88cc, &[0; 46]), EtherTypeUnknown),
        ("an 802.3 length", ethernet(46, &[0; 46]), EtherTypeUnknown),
        ("an unknown type in a tag", tagged(0x8100, 1, &ethernet(0x88cc, &[])), EtherTypeUnknown),
    ]
}

fn arp_rows() -> Vec<Row> {
    let sender = (ROUTER_MAC, "192.0.2.1".parse().unwrap());
    let request = ethernet(0x0806, &arp(1, sender, (MacAddr::default(), VIP4)));
    vec![
        ("ARP cut", cut(request.clone(), 14 + 27), ArpTruncated),
        ("ARP of another hardware", with(request.clone(), 14, &[0, 6]), ArpInvalid),
        ("ARP of another protocol", with(request.clone(), 16, &[0x86, 0xdd]), ArpInvalid),
        ("long hardware addresses", with(request.clone(), 18, &[8]), ArpInvalid),
        ("long protocol addresses", with(request.clone(), 19, &[16]), ArpInvalid),
        ("operation 0", with(request.clone(), 20, &[0, 0]), ArpInvalid),
        ("RARP", with(request.clone(), 20, &[0, 3]), ArpInvalid),
        ("ARP from all", with(request, 22, &[0xff; 6]), ArpInvalid),
    ]
}

fn ipv4_rows() -> Vec<Row> {
    let good = Version::V4.frame(UDP, &udp(b"query"));
    let edited = |at: usize, bytes: &[u8]| {
        let packet = with(good[14..].to_vec(), at, bytes);
        ethernet(0x0800, &with_header_checksum(packet))
    };
    vec![
        ("IPv4 cut in the header", cut(good.clone(), 14 + 19), Ipv4Truncated),
        ("IPv4 cut in the data", cut(good.clone(), good.len() - 1), Ipv4Truncated),
        ("IPv6 that says it is IPv4", edited(0, &[0x65]), Ipv4Invalid),
        ("header of 16 bytes", edited(0, &[0x44]), Ipv4Invalid),
        ("total length in the header", edited(2, &[0, 19]), Ipv4Invalid),
        ("total length 0", edited(2, &[0, 0]), Ipv4Invalid),
        ("a bit flipped", with(good.clone(), 14 + 8, &[65]), Ipv4Checksum),
        (
            "a bit flipped in an option",
            with(ethernet(0x0800, &ipv4_with_options(&[1; 4], UDP, &udp(b""))), 14 + 22, &[0]),
            Ipv4Checksum,
        ),
    ]
}

fn ipv6_rows() -> Vec<Row> {
    let good = Version::V6.frame(UDP, &udp(b"query"));
    let udp = udp(b"query");
    let chain =
        |next_header, payload: &[Vec<u8>]| ethernet(0x86dd, &ipv6(next_header, &payload.concat()));
    vec![
        ("IPv6 cut in the header", cut(good.clone(), 14 + 39), Ipv6Truncated),
        ("IPv6 cut in the data", cut(good.clone(), good.len() - 1), Ipv6Truncated),
        ("IPv4 that says it is IPv6", with(good, 14, &[0x45]), Ipv6Invalid),
        ("an extension cut", chain(60, &[extension(UDP, 2)[..15].to_vec()]), Ipv6Extension),
        ("an extension missing", chain(60, &[]), Ipv6Extension),
        ("a fragment header cut", chain(44, &[vec![UDP, 0, 0, 0, 0, 0, 0]]), Ipv6Extension),
        (
            "hop-by-hop in the second place",
            chain(60, &[extension(0, 1), extension(UDP, 1), udp.clone()]),
            Ipv6Extension,
        ),
        (
            "two fragment headers",
            chain(
                44,
                &[fragment_header(44, 1, 0, false), fragment_header(UDP, 1, 0, true), udp.clone()],
            ),
            Ipv6Extension,
        ),
        (
            "one extension too many",
            chain(60, &[extension(60, 1).repeat(8), extension(UDP, 1), udp]),
            Ipv6Extension,
        ),
    ]
}

fn transport_rows(version: Version) -> Vec<Row> {
    let of = |protocol, payload: &[u8]| version.frame(protocol, payload);
    let segment = |flags| of(TCP, &tcp(flags, 0));
    let echo = icmp(if version == Version::V4 { 8 } else { 128 }, 0, [0; 4], b"");
    let error = |quote: &[u8]| of(version.icmp(), &icmp(3, 0, [0; 4], quote));
    let quote = of(UDP, &udp(b""))[14..].to_vec();
    let header_len = if version == Version::V4 { 20 } else { 40 };
    let other_quote = if version == Version::V4 { ipv6(UDP, &[]) } else { ipv4(UDP, &[0; 20]) };
    vec![
        ("part of 4 bytes", version.fragment(UDP, 1, 0, true, &udp(b"")[..4]), FragmentInvalid),
        ("later of 12 bytes", version.fragment(UDP, 1, 8, true, &[0; 12]), FragmentInvalid),
        ("an empty last", version.fragment(UDP, 1, 8, false, &[]), FragmentInvalid),
        ("an empty first", version.fragment(UDP, 1, 0, true, &[]), FragmentInvalid),
        ("beyond the end", version.fragment(UDP, 1, 65_528, false, &[0; 8]), FragmentInvalid),
        ("UDP of 7 bytes", of(UDP, &udp(b"")[..7]), UdpInvalid),
        ("UDP length 7", of(UDP, &with(udp(b""), 4, &[0, 7])), UdpInvalid),
        ("UDP length 0", of(UDP, &with(udp(b""), 4, &[0, 0])), UdpInvalid),
        ("UDP length too long", of(UDP, &with(udp(b""), 4, &[0, 9])), UdpInvalid),
        ("TCP of 19 bytes", of(TCP, &tcp(SYN, 0)[..19]), TcpInvalid),
        ("first TCP of 16", version.fragment(TCP, 1, 0, true, &tcp(SYN, 0)[..16]), TcpInvalid),
        ("data offset 4", of(TCP, &with(tcp(SYN, 0), 12, &[0x40])), TcpInvalid),
        ("data offset beyond the end", of(TCP, &with(tcp(SYN, 0), 12, &[0x60])), TcpInvalid),
        ("SYN FIN", segment(SYN | FIN), TcpFlagsInvalid),
        ("SYN RST", segment(SYN | RST), TcpFlagsInvalid),
        ("SYN ACK FIN", segment(SYN | ACK | FIN), TcpFlagsInvalid),
        ("no flag", segment(0), TcpFlagsInvalid),
        ("FIN alone", segment(FIN | PSH), TcpFlagsInvalid),
        ("ICMP of 7 bytes", of(version.icmp(), &echo[..7]), IcmpTruncated),
        ("ICMP without a byte", of(version.icmp(), &[]), IcmpTruncated),
        ("no quote", error(&[]), IcmpQuoteInvalid),
        ("a quoted header cut", error(&quote[..header_len - 1]), IcmpQuoteInvalid),
        ("a quote of the other version", error(&other_quote), IcmpQuoteInvalid),
    ]
}

fn neighbor_rows() -> Vec<Row> {
    let to_group = |message: &[u8]| icmpv6_frame(CLIENT6, VIP6_GROUP, message);
    let from = |src, dst, message: &[u8]| icmpv6_frame(src, dst, message);
    let unspecified = Ipv6Addr::UNSPECIFIED;
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let solicitation = neighbor(135, 0, &[1, 1, 2, 0, 0, 0, 0, 1]);
    let target_group = with(solicitation.clone(), 8, &VIP6_GROUP.octets());
    let good = to_group(&solicitation);
    let fragment = [&fragment_header(ICMPV6, 1, 0, false), &good[14 + 40..]].concat();
    let fragment = ethernet(0x86dd, &ipv6_between(CLIENT6, VIP6_GROUP, 255, 44, &fragment));
    let empty = [1, 0, 0, 0, 0, 0, 0, 0];
    let too_long = [1, 2, 0, 0, 0, 0, 0, 0];
    let link_address = [1, 1, 2, 0, 0, 0, 0, 1];
    let detection = neighbor(135, 0, &[]);
    let detection_with_mac = neighbor(135, 0, &link_address);
    vec![
        ("forwarded", with(good.clone(), 14 + 7, &[254]), NeighborInvalid),
        ("a wrong checksum", with(good.clone(), 14 + 42, &[0, 0]), NeighborChecksum),
        ("another target", with(good, 14 + 63, &[0x54]), NeighborChecksum),
        ("code 1", to_group(&with(solicitation.clone(), 1, &[1])), NeighborInvalid),
        ("23 bytes", to_group(&solicitation[..23]), NeighborInvalid),
        ("a group as target", to_group(&target_group), NeighborInvalid),
        ("in a fragment header", fragment, NeighborInvalid),
        ("an empty option", to_group(&neighbor(135, 0, &empty)), NeighborInvalid),
        ("an option cut", to_group(&neighbor(135, 0, &too_long)), NeighborInvalid),
        ("half an option header", to_group(&neighbor(135, 0, &[1])), NeighborInvalid),
        ("an empty option, advertised", to_group(&neighbor(136, 0, &empty)), NeighborInvalid),
        ("solicited, to a group", to_group(&neighbor(136, 0x40, &[])), NeighborInvalid),
        ("detection, not to the group", from(unspecified, VIP6, &detection), NeighborInvalid),
        ("detection, to all", from(unspecified, all_nodes, &detection), NeighborInvalid),
        (
            "detection with a MAC",
            from(unspecified, VIP6_GROUP, &detection_with_mac),
            NeighborInvalid,
        ),
        ("advertised by nobody", from(unspecified, VIP6, &neighbor(136, 0, &[])), SourceInvalid),
        ("solicited by a group", from(VIP6_GROUP, VIP6, &solicitation), SourceInvalid),
    ]
}

fn source_rows() -> Vec<Row> {
    let from = |text: &str| match text.parse().unwrap() {
        IpAddr::V4(src) => {
            let packet = with(ipv4(UDP, &udp(b"")), 12, &src.octets());
            ethernet(0x0800, &with_header_checksum(packet))
        }
        IpAddr::V6(src) => ethernet(0x86dd, &ipv6_between(src, VIP6, 64, UDP, &udp(b""))),
    };
    vec![
        ("IPv4 multicast", from("224.0.0.1"), SourceInvalid),
        ("the last IPv4 multicast", from("239.255.255.255"), SourceInvalid),
        ("IPv4 broadcast", from("255.255.255.255"), SourceInvalid),
        ("IPv4 loopback", from("127.0.0.53"), SourceInvalid),
        ("IPv4 unspecified", from("0.0.0.0"), SourceInvalid),
        ("IPv6 multicast", from("ff02::1"), SourceInvalid),
        ("IPv6 loopback", from("::1"), SourceInvalid),
        ("IPv6 unspecified", from("::"), SourceInvalid),
        ("IPv4-mapped", from("::ffff:10.64.0.1"), SourceInvalid),
    ]
}

fn rows() -> Vec<Row> {
    [
        link_rows(),
        arp_rows(),
        ipv4_rows(),
        ipv6_rows(),
        transport_rows(Version::V4),
        transport_rows(Version::V6),
        neighbor_rows(),
        source_rows(),
    ]
    .concat()
}

#[test]
fn each_fault_has_its_error() {
    for (name, frame, error) in rows() {
        assert_eq!(parse(&frame), Err(error), "{name}: {frame:02x?}");
    }
}

#[test]
fn a_tag_hides_no_fault() {
    for (name, frame, error) in rows() {
        // Faults of the link are about the tag themselves.
        let is_of_link = matches!(error, EthernetTruncated | VlanStacked | EthernetInvalid);
        if !is_of_link && frame[12..14] != [0x81, 0x00] {
            assert_eq!(parse(&tagged(0x8100, 100, &frame)), Err(error), "{name}");
        }
    }
}

#[test]
fn every_error_is_seen() {
    let seen: HashSet<_> = rows().into_iter().map(|(_, _, error)| error).collect();
    // Tunnels are not opened here: verdict_anycast.rs has theirs.
    let unseen: Vec<_> = ParseError::ALL
        .iter()
        .filter(|&&error| error != GueInvalid && !seen.contains(&error))
        .collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}
