//! `parse` against etherparse, on frames that etherparse built, on the same with bytes changed,
//! and on noise.

mod parse_built;

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpNumber, Ipv4Slice, Ipv6ExtensionSlice, Ipv6Slice, LinkSlice, NetSlice, SlicedPacket,
    TcpHeaderSlice, TransportSlice, UdpHeaderSlice,
};
use parse_built::{Built, built};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseResult, TestRunner};
use vipdp_core::parse::{Fragment, IpPacket, Parsed, Payload, Transport, parse};

/// Checks that where both parsers take a frame, they see the same in it.
fn agree(frame: &[u8]) -> TestCaseResult {
    let (Ok(parsed), Ok(sliced)) = (parse(frame), SlicedPacket::from_ethernet(frame)) else {
        return Ok(());
    };
    agree_on_link(&parsed, &sliced)?;
    match (&parsed.payload, &sliced.net) {
        (Payload::Ip(packet), Some(NetSlice::Ipv4(ip))) => agree_on_ipv4(packet, ip),
        (Payload::Ip(packet), Some(NetSlice::Ipv6(ip))) => agree_on_ipv6(packet, ip),
        (Payload::Arp(arp), Some(NetSlice::Arp(packet))) => {
            prop_assert_eq!(packet.operation().0, if arp.is_request { 1 } else { 2 });
            prop_assert_eq!(packet.sender_hw_addr(), arp.sender_mac.0);
            prop_assert_eq!(packet.sender_protocol_addr(), arp.sender_ip.octets());
            prop_assert_eq!(packet.target_protocol_addr(), arp.target_ip.octets());
            Ok(())
        }
        (Payload::NeighborSolicitation(asked), Some(NetSlice::Ipv6(ip))) => {
            prop_assert_eq!(ip.header().source_addr(), asked.src);
            prop_assert_eq!(ip.header().destination_addr(), asked.dst);
            agree_on_neighbor(&sliced, ip, 135, asked.target.octets())
        }
        (Payload::NeighborAdvertisement(told), Some(NetSlice::Ipv6(ip))) => {
            agree_on_neighbor(&sliced, ip, 136, told.target.octets())
        }
        (ours, theirs) => Err(TestCaseError::fail(format!("{ours:?} is {theirs:?}"))),
    }
}

fn agree_on_link(parsed: &Parsed, sliced: &SlicedPacket<'_>) -> TestCaseResult {
    let Some(LinkSlice::Ethernet2(ethernet)) = &sliced.link else {
        return Err(TestCaseError::fail("no Ethernet header"));
    };
    prop_assert_eq!(ethernet.destination(), parsed.dst.0);
    prop_assert_eq!(ethernet.source(), parsed.src.0);
    let tags = sliced.vlan_ids();
    prop_assert!(tags.len() <= 1);
    let vlan = tags.first().map(|tag| tag.value()).filter(|&vlan| vlan != 0);
    prop_assert_eq!(vlan, parsed.vlan);
    prop_assert_eq!(14 + 4 * tags.len(), usize::from(parsed.network_offset));
    Ok(())
}

fn agree_on_ipv4(packet: &IpPacket, ip: &Ipv4Slice<'_>) -> TestCaseResult {
    let header = ip.header();
    prop_assert_eq!(packet.src, header.source_addr());
    prop_assert_eq!(packet.dst, header.destination_addr());
    prop_assert_eq!(packet.protocol, header.protocol().0);
    let id = header.identification().into();
    let fragment = match (header.fragments_offset().value(), header.more_fragments()) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First { id },
        _ => Fragment::Later { id },
    };
    prop_assert_eq!(packet.fragment, fragment);
    prop_assert_eq!(Sum16BitWords::new().add_slice(header.slice()).ones_complement(), 0);
    if header.protocol() == IpNumber::AUTHENTICATION_HEADER {
        // Etherparse looks behind it also in IPv4.
        prop_assert!(matches!(packet.transport, Transport::Other | Transport::LaterFragment));
        return Ok(());
    }
    agree_on_transport(packet, ip.payload().payload)
}

fn agree_on_ipv6(packet: &IpPacket, ip: &Ipv6Slice<'_>) -> TestCaseResult {
    prop_assert_eq!(packet.src, ip.header().source_addr());
    prop_assert_eq!(packet.dst, ip.header().destination_addr());
    if ip.header().payload_length() == 0 {
        // Etherparse takes it for a jumbogram, and what follows for its payload.
        return Ok(());
    }
    let mut extensions = ip.extensions().clone().into_iter();
    let found = extensions.find_map(|extension| match extension {
        Ipv6ExtensionSlice::Fragment(fragment) => Some(fragment),
        _ => None,
    });
    let fragment = match &found {
        None => Fragment::Whole,
        Some(fragment) => {
            let id = fragment.identification();
            match (fragment.fragment_offset().value(), fragment.more_fragments()) {
                (0, false) => Fragment::Whole,
                (0, true) => Fragment::First { id },
                _ => Fragment::Later { id },
            }
        }
    };
    prop_assert_eq!(packet.fragment, fragment);
    if let (Fragment::Later { .. }, Some(found)) = (fragment, &found) {
        // Etherparse takes data in the middle of a datagram for further extension headers.
        prop_assert_eq!(packet.protocol, found.next_header().0);
        prop_assert_eq!(packet.transport, Transport::LaterFragment);
        return Ok(());
    }
    prop_assert_eq!(packet.protocol, ip.payload().ip_number.0);
    agree_on_transport(packet, ip.payload().payload)
}

fn agree_on_transport(packet: &IpPacket, payload: &[u8]) -> TestCaseResult {
    match packet.transport {
        Transport::Udp(ports) => {
            let header = UdpHeaderSlice::from_slice(payload).expect("a header that we took");
            prop_assert_eq!(
                (ports.src, ports.dst),
                (header.source_port(), header.destination_port())
            );
        }
        Transport::Tcp(ports, flags) => {
            // A first fragment's options may lie in the next.
            let mut whole = payload.to_vec();
            whole.resize(payload.len().max(60), 0);
            let header = TcpHeaderSlice::from_slice(&whole).expect("a header that we took");
            prop_assert_eq!(
                (ports.src, ports.dst),
                (header.source_port(), header.destination_port())
            );
            prop_assert_eq!((flags.syn, flags.ack), (header.syn(), header.ack()));
            prop_assert_eq!((flags.fin, flags.rst), (header.fin(), header.rst()));
        }
        Transport::EchoRequest => {
            prop_assert_eq!(payload[0], if packet.protocol == 1 { 8 } else { 128 });
        }
        Transport::IcmpError(quoted) => {
            let quote = &payload[8..];
            let theirs = if quoted.src.is_ipv4() {
                etherparse::Ipv4HeaderSlice::from_slice(quote)
                    .map(|header| (header.source_addr().into(), header.destination_addr().into()))
                    .ok()
            } else {
                etherparse::Ipv6HeaderSlice::from_slice(quote)
                    .map(|header| (header.source_addr().into(), header.destination_addr().into()))
                    .ok()
            };
            // Etherparse refuses an IPv4 header with its options cut.
            prop_assert!(theirs.is_none_or(|theirs| theirs == (quoted.src, quoted.dst)));
        }
        Transport::LaterFragment => {
            let is_later = matches!(packet.fragment, Fragment::Later { .. });
            prop_assert!(is_later);
        }
        Transport::Other => prop_assert!(!matches!(packet.protocol, 6 | 17)),
    }
    Ok(())
}

fn agree_on_neighbor(
    sliced: &SlicedPacket<'_>,
    ip: &Ipv6Slice<'_>,
    message_type: u8,
    target: [u8; 16],
) -> TestCaseResult {
    let Some(TransportSlice::Icmpv6(message)) = &sliced.transport else {
        return Err(TestCaseError::fail("no ICMPv6"));
    };
    prop_assert_eq!(message.type_u8(), message_type);
    let (src, dst) = (ip.header().source(), ip.header().destination());
    prop_assert!(message.is_checksum_valid(src, dst));
    prop_assert_eq!(&message.payload()[..16], target);
    prop_assert_eq!(ip.header().hop_limit(), 255);
    Ok(())
}

/// What may become of a frame on its way to us.
#[derive(Clone, Debug)]
struct Damage {
    /// Bytes set to other values.
    bytes: Vec<(Index, u8)>,
    /// Where it is cut, if it is.
    cut: Option<Index>,
    /// Whether the IPv4 header checksum is made right afterwards: whoever does damage on purpose
    /// does that.
    is_deliberate: bool,
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = vec((any::<Index>(), any::<u8>()), 0..6);
    (bytes, proptest::option::weighted(0.2, any::<Index>()), any::<bool>())
        .prop_map(|(bytes, cut, is_deliberate)| Damage { bytes, cut, is_deliberate })
}

impl Damage {
    /// Does the damage to the first 100 bytes, where the headers are.
    fn apply(&self, built: &Built) -> Vec<u8> {
        let mut frame = built.frame.clone();
        let headers = frame.len().min(100);
        for (at, value) in &self.bytes {
            frame[at.index(headers)] = *value;
        }
        let packet = &mut frame[usize::from(built.expected.network_offset)..];
        if self.is_deliberate && packet[0] >> 4 == 4 {
            let header_len = (usize::from(packet[0] & 0xf) * 4).clamp(20, packet.len());
            packet[10..12].fill(0);
            let sum = packet[..header_len]
                .chunks(2)
                // A header that says that it is longer than the packet may end in half a word.
                .map(|word| [word[0], word.get(1).copied().unwrap_or(0)])
                .fold(0, |sum, word| sum + u32::from(u16::from_be_bytes(word)));
            let sum = (sum >> 16) + (sum & 0xffff);
            let sum = (sum >> 16) + (sum & 0xffff);
            packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        if let Some(cut) = &self.cut {
            frame.truncate(cut.index(frame.len()));
        }
        frame
    }
}

/// `times` as many cases as usual; PROPTEST_CASES scales it.
fn cases(times: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases * times, ..usual }
}

proptest! {
    #![proptest_config(cases(4))]

    #[test]
    fn a_built_frame_parses_to_what_was_built(built in built()) {
        prop_assert_eq!(parse(&built.frame), Ok(built.expected));
        agree(&built.frame)?;
    }

    #[test]
    fn both_see_the_same_in_a_damaged_frame(built in built(), damage in damage()) {
        agree(&damage.apply(&built))?;
    }

    #[test]
    fn both_see_the_same_in_noise(
        ether_type in prop::sample::select(vec![0x0800u16, 0x0806, 0x8100, 0x88a8, 0x86dd]),
        inner in prop::sample::select(vec![0x0800u16, 0x0806, 0x8100, 0x86dd]),
        mut frame in vec(any::<u8>(), 18..200),
    ) {
        frame[6] &= 0xfe;
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        frame[16..18].copy_from_slice(&inner.to_be_bytes());
        agree(&frame)?;
    }
}

proptest! {
    #[test]
    fn a_frame_cut_anywhere_is_refused_or_read_alike(built in built()) {
        for len in 0..built.frame.len() {
            agree(&built.frame[..len])?;
        }
    }
}

/// Guards the tests above against agreeing because nothing is ever accepted by both, or nothing
/// ever refused.
#[test]
fn damage_is_neither_harmless_nor_always_fatal() {
    let mut runner = TestRunner::deterministic();
    let (mut accepted, mut changed, count) = (0, 0, 1000);
    for _ in 0..count {
        let built = built().new_tree(&mut runner).unwrap().current();
        let frame = damage().new_tree(&mut runner).unwrap().current().apply(&built);
        if SlicedPacket::from_ethernet(&frame).is_ok()
            && let Ok(parsed) = parse(&frame)
        {
            accepted += 1;
            changed += usize::from(parsed != built.expected);
        }
    }
    assert!(accepted > count / 4 && accepted < count * 3 / 4, "{accepted} of {count}");
    assert!(changed > count / 8, "{changed} of {accepted}");
}
