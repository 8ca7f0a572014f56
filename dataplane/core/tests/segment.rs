//! Super-packets by a library that is not the one under test, cut, and put together again the way a
//! receiver does.

use etherparse::{
    Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice,
    SlicedPacket, TcpHeader, TransportSlice, UdpHeader,
};
use proptest::collection::vec;
use proptest::prelude::*;
use vipdp_core::parse::{IpPacket, Parsed, Payload, parse};
use vipdp_core::segment::{Cut, Unfinishable, complete_checksum};
use vipdp_core::wire::vnet::{PartialChecksum, SegmentedProtocol, Segments};

const SRC4: [u8; 4] = [192, 0, 2, 53];
const SRC6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0x53, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];

/// A super-packet's headers.
#[derive(Clone, Debug)]
struct Headers {
    is_v4: bool,
    /// Options of IPv4 or, of 8 bytes each, destination options of IPv6.
    options: usize,
    id: u16,
    traffic_class: u8,
    destination: [u8; 16],
    tcp: Option<TcpHeader>,
}

impl Headers {
    fn protocol(&self) -> SegmentedProtocol {
        match (&self.tcp, self.is_v4) {
            (Some(_), true) => SegmentedProtocol::TcpV4,
            (Some(_), false) => SegmentedProtocol::TcpV6,
            (None, _) => SegmentedProtocol::Udp,
        }
    }

    fn transport_protocol(&self) -> IpNumber {
        if self.tcp.is_some() { IpNumber::TCP } else { IpNumber::UDP }
    }

    /// The frame with all of `payload`, its transport checksum partial or absent.
    fn super_packet(&self, payload: &[u8]) -> Vec<u8> {
        let transport = match &self.tcp {
            Some(tcp) => tcp.to_bytes().to_vec(),
            None => {
                let length = 8 + payload.len() as u16;
                let (source_port, destination_port, checksum) = (53, 40_000, 0xabcd);
                let header = UdpHeader { source_port, destination_port, length, checksum };
                header.to_bytes().to_vec()
            }
        };
        let above = [&transport, payload].concat();
        let ether_type = if self.is_v4 { 0x0800 } else { 0x86dd };
        let ethernet = Ethernet2Header {
            source: [2, 0, 0, 0, 0, 1],
            destination: [2, 0, 0, 0, 0, 2],
            ether_type: ether_type.into(),
        };
        [&ethernet.to_bytes()[..], &self.network(above.len()), &above].concat()
    }

    fn network(&self, above_len: usize) -> Vec<u8> {
        if self.is_v4 {
            let mut header = Ipv4Header {
                identification: self.id,
                dont_fragment: true,
                fragment_offset: IpFragOffset::ZERO,
                time_to_live: 64,
                protocol: self.transport_protocol(),
                source: SRC4,
                destination: *self.destination.first_chunk().unwrap(),
                // Options that do nothing.
                options: vec![1; self.options * 4].as_slice().try_into().unwrap(),
                ..Ipv4Header::default()
            };
            header.set_payload_len(above_len).unwrap();
            header.header_checksum = header.calc_header_checksum();
            return header.to_bytes().to_vec();
        }
        let mut extensions = Vec::new();
        for n in 0..self.options {
            let next = if n + 1 == self.options { self.transport_protocol().0 } else { 60 };
            extensions.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        let next_header = if self.options == 0 { self.transport_protocol() } else { IpNumber(60) };
        let header = Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: Ipv6FlowLabel::try_new(0xabcde).unwrap(),
            payload_length: (extensions.len() + above_len) as u16,
            next_header,
            hop_limit: 64,
            source: SRC6,
            destination: self.destination,
        };
        [header.to_bytes().to_vec(), extensions].concat()
    }
}

fn tcp_header() -> impl Strategy<Value = TcpHeader> {
    (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), 0..=10_usize).prop_map(
        |(sequence_number, acknowledgment_number, flags, window_size, options)| {
            let has = |bit: u8| flags & 1 << bit != 0;
            let mut header = TcpHeader::new(853, 40_000, sequence_number, window_size);
            header.acknowledgment_number = acknowledgment_number;
            (header.ack, header.fin, header.psh) = (true, has(0), has(1));
            (header.ece, header.cwr) = (has(2), has(3));
            header.checksum = 0x1234;
            header.set_options_raw(&vec![1; options * 4]).unwrap();
            header
        },
    )
}

fn headers() -> impl Strategy<Value = Headers> {
    let destination = any::<[u8; 16]>().prop_map(|mut address| {
        // A global unicast address of either family.
        (address[0], address[1]) = (0x20, 0x01);
        address
    });
    let tcp = proptest::option::of(tcp_header());
    (any::<bool>(), 0..=3_usize, any::<u16>(), any::<u8>(), destination, tcp).prop_map(
        |(is_v4, options, id, traffic_class, destination, tcp)| Headers {
            is_v4,
            options,
            id,
            traffic_class,
            destination,
            tcp,
        },
    )
}

fn ip(frame: &[u8]) -> (Parsed, IpPacket) {
    let parsed = parse(frame).unwrap();
    let Payload::Ip(packet) = parsed.payload else { panic!("{parsed:?}") };
    (parsed, packet)
}

/// All packets that a super-packet is cut into.
fn cut(frame: &[u8], segments: Segments) -> Result<Vec<Vec<u8>>, Unfinishable> {
    let (parsed, packet) = ip(frame);
    let cut = Cut::new(frame, usize::from(parsed.network_offset), &packet, segments)?;
    Ok((0..cut.count())
        .map(|n| {
            let mut packet = vec![0xee; cut.frame_len(n)];
            cut.emit(n, &mut packet);
            packet
        })
        .collect())
}

fn segments(protocol: SegmentedProtocol, size: u16) -> Segments {
    Segments { protocol, size, headers_len: 0 }
}

/// What etherparse finds of a packet: its payload, all of whose checksums it has found to be right.
fn checked<'a>(frame: &'a [u8]) -> (SlicedPacket<'a>, &'a [u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (found, expected, payload) = match (&sliced.net, &sliced.transport) {
        (Some(NetSlice::Ipv4(net)), Some(TransportSlice::Tcp(tcp))) => {
            let header = net.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            let (src, dst) = (header.source, header.destination);
            (tcp.checksum(), tcp.calc_checksum_ipv4(src, dst).unwrap(), tcp.payload())
        }
        (Some(NetSlice::Ipv6(net)), Some(TransportSlice::Tcp(tcp))) => {
            let (src, dst) = (net.header().source(), net.header().destination());
            (tcp.checksum(), tcp.calc_checksum_ipv6(src, dst).unwrap(), tcp.payload())
        }
        (Some(net), Some(TransportSlice::Udp(udp))) => {
            let header = udp.to_header();
            let expected = match net {
                NetSlice::Ipv4(net) => {
                    let ip = net.header().to_header();
                    assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
                    header.calc_checksum_ipv4(&ip, udp.payload()).unwrap()
                }
                NetSlice::Ipv6(net) => {
                    header.calc_checksum_ipv6(&net.header().to_header(), udp.payload()).unwrap()
                }
                NetSlice::Arp(_) => unreachable!(),
            };
            assert_eq!(usize::from(udp.length()), 8 + udp.payload().len());
            (udp.checksum(), expected, udp.payload())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(found, expected);
    (sliced, payload)
}

/// What must be the same in all packets, of their IP headers: all but lengths, checksum, identification.
fn constant_network(sliced: &SlicedPacket<'_>) -> Vec<u8> {
    match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(net) => {
            let mut bytes = net.header().slice().to_vec();
            bytes[2..6].fill(0);
            bytes[10..12].fill(0);
            bytes
        }
        NetSlice::Ipv6(net) => {
            let mut bytes = net.header().slice().to_vec();
            bytes[4..6].fill(0);
            bytes
        }
        NetSlice::Arp(_) => unreachable!(),
    }
}

fn id(sliced: &SlicedPacket<'_>) -> Option<u16> {
    let Some(NetSlice::Ipv4(net)) = &sliced.net else { return None };
    Some(net.header().identification())
}

fn check_cut(headers: &Headers, payload: &[u8], size: u16) {
    let whole = headers.super_packet(payload);
    let packets = cut(&whole, segments(headers.protocol(), size)).unwrap();
    assert_eq!(packets.len(), payload.len().div_ceil(usize::from(size)));
    let of_whole = SlicedPacket::from_ethernet(&whole).unwrap();
    let mut together = Vec::<u8>::new();
    for (n, packet) in packets.iter().enumerate() {
        let (sliced, part) = checked(packet);
        let is_last = n + 1 == packets.len();
        assert!(is_last || part.len() == usize::from(size), "packet {n}");
        assert_eq!(packet[..14], whole[..14]);
        assert_eq!(constant_network(&sliced), constant_network(&of_whole));
        assert_eq!(id(&sliced), id(&of_whole).map(|id| id.wrapping_add(n as u16)));
        if let Some(TransportSlice::Tcp(tcp)) = &sliced.transport {
            let mut expected = headers.tcp.clone().unwrap();
            expected.sequence_number = expected.sequence_number.wrapping_add(together.len() as u32);
            expected.fin &= is_last;
            expected.psh &= is_last;
            expected.cwr &= n == 0;
            expected.checksum = tcp.checksum();
            assert_eq!(tcp.to_header(), expected);
        }
        together.extend(part);
    }
    assert_eq!(together, payload);
}

proptest! {
    #[test]
    fn what_a_receiver_puts_together_is_the_super_packets_payload(
        headers in headers(),
        payload in vec(any::<u8>(), 1..6_000),
        size in 1..3_000_u16,
    ) {
        check_cut(&headers, &payload, size);
    }

    #[test]
    fn a_completed_checksum_is_right(headers in headers(), payload in vec(any::<u8>(), 0..200)) {
        let mut frame = headers.super_packet(&payload);
        let above = 8 + payload.len() + if headers.tcp.is_some() { 12 } else { 0 };
        let options = headers.tcp.as_ref().map_or(0, |tcp| tcp.options.len());
        let start = frame.len() - above - options;
        let offset = if headers.tcp.is_some() { 16 } else { 6 };
        // What the kernel leaves there: the sum of the pseudo-header.
        let len = ((above + options) as u32).to_be_bytes();
        let protocol = [0, headers.transport_protocol().0];
        let addresses: &[u8] =
            if headers.is_v4 { &[&SRC4, &headers.destination[..4]].concat() }
            else { &[SRC6, headers.destination].concat() };
        let mut sum: u32 = 0;
        for word in [addresses, &len, &protocol].concat().chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
        }
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = ((sum >> 16) + sum) as u16;
        frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        let partial = PartialChecksum { start: start as u16, offset: offset as u16 };
        complete_checksum(&mut frame, partial).unwrap();
        checked(&frame);
    }

    #[test]
    fn no_header_of_the_queue_makes_a_frame_panic(
        headers in headers(),
        payload in vec(any::<u8>(), 0..200),
        size in any::<u16>(),
        kind in 0..3_usize,
        (start, offset) in (any::<u16>(), any::<u16>()),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut frame = headers.super_packet(&payload);
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        let kinds = [SegmentedProtocol::TcpV4, SegmentedProtocol::TcpV6, SegmentedProtocol::Udp];
        if let Ok(Parsed { payload: Payload::Ip(_), .. }) = parse(&frame) {
            let of_payload = cut(&frame, segments(kinds[kind], size));
            prop_assert!(of_payload.is_err() || size > 0);
        }
        let before = frame.clone();
        if complete_checksum(&mut frame, PartialChecksum { start, offset }).is_err() {
            prop_assert_eq!(frame, before);
        }
    }
}

fn of(is_v4: bool, tcp: Option<TcpHeader>) -> Headers {
    let destination = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    Headers { is_v4, options: 0, id: 0xfffe, traffic_class: 0, destination, tcp }
}

fn segment(flags: impl Fn(&mut TcpHeader)) -> Option<TcpHeader> {
    let mut header = TcpHeader::new(853, 40_000, u32::MAX - 2_000, 512);
    header.ack = true;
    flags(&mut header);
    Some(header)
}

#[test]
fn the_longest_super_packets_are_cut_in_both_families() {
    let flags = |header: &mut TcpHeader| (header.fin, header.psh, header.cwr) = (true, true, true);
    for is_v4 in [true, false] {
        let payload: Vec<u8> = (0..65_535 - 40).map(|n| (n * 7 % 251) as u8).collect();
        check_cut(&of(is_v4, segment(flags)), &payload, 1_448);
        check_cut(&of(is_v4, None), &payload[..65_535 - 40], 1_472);
        check_cut(&of(is_v4, None), &payload[..1_000], 1);
    }
}

#[test]
fn a_datagrams_checksum_is_never_zero() {
    for is_v4 in [true, false] {
        // One of 65,536 payloads has a sum whose complement is 0; it is found by trying.
        let zero = (0..=u16::MAX).find(|payload| {
            let frame = of(is_v4, None).super_packet(&payload.to_be_bytes());
            let packets = cut(&frame, segments(SegmentedProtocol::Udp, 1_000)).unwrap();
            packets[0][packets[0].len() - 4..packets[0].len() - 2] == [0xff; 2]
        });
        let frame = of(is_v4, None).super_packet(&zero.unwrap().to_be_bytes());
        let packets = cut(&frame, segments(SegmentedProtocol::Udp, 1_000)).unwrap();
        let sliced = SlicedPacket::from_ethernet(&packets[0]).unwrap();
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!() };
        assert_eq!(udp.checksum(), 0xffff);
    }
}

#[test]
fn what_is_not_as_the_queue_says_is_refused() {
    let protocols = [SegmentedProtocol::TcpV4, SegmentedProtocol::TcpV6, SegmentedProtocol::Udp];
    for (is_v4, tcp) in [(true, true), (false, true), (true, false), (false, false)] {
        let headers = of(is_v4, tcp.then(|| segment(|_| ()).unwrap()));
        let frame = headers.super_packet(&[7; 100]);
        for protocol in protocols {
            let result = cut(&frame, segments(protocol, 40)).map(|packets| packets.len());
            let expected =
                if protocol == headers.protocol() { Ok(3) } else { Err(Unfinishable::Protocol) };
            assert_eq!(result, expected, "{headers:?} as {protocol:?}");
        }
        let empty = headers.super_packet(&[]);
        assert_eq!(cut(&empty, segments(headers.protocol(), 40)), Err(Unfinishable::Protocol));
        assert_eq!(cut(&frame, segments(headers.protocol(), 0)), Err(Unfinishable::Protocol));
    }
    // A fragment, with more to come.
    let mut piece = of(true, None).super_packet(&[7; 96]);
    piece[20] |= 0x20;
    piece[24..26].fill(0);
    let sum = Ipv4Header::from_slice(&piece[14..]).unwrap().0.calc_header_checksum();
    piece[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(cut(&piece, segments(SegmentedProtocol::Udp, 40)), Err(Unfinishable::Protocol));
}

#[test]
fn a_checksum_outside_the_frame_is_refused_and_changes_nothing() {
    let frame: [u8; 40] = std::array::from_fn(|n| n as u8);
    for (start, offset) in [(41, 0), (40, 0), (39, 0), (34, 5), (34, u16::MAX), (u16::MAX, 6)] {
        let mut changed = frame;
        let result = complete_checksum(&mut changed, PartialChecksum { start, offset });
        assert_eq!((result, changed), (Err(Unfinishable::Checksum), frame), "{start} {offset}");
    }
    let mut changed = frame;
    assert_eq!(complete_checksum(&mut changed, PartialChecksum { start: 34, offset: 4 }), Ok(()));
    assert_ne!(changed, frame);
}
