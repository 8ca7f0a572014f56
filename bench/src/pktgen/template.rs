//! Packets that differ in their source address and port, and in the checksums that follow from
//! them.
//!
//! A [`Template`] is one frame, where these fields stand in it, and the part of each checksum that is
//! the same for all packets. The BPF program of [`live`](super::live) makes packets of it in the
//! same way as [`Template::fill`], which is its oracle in the tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use etherparse::{
    Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader,
    Ipv6Header, TcpHeader, UdpHeader,
};
use serde::Serialize;
use thiserror::Error;
use vipdp_core::wire::ethernet::MacAddr;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// The least that an Ethernet frame has, without its check sequence.
pub const FRAME_LEN_MIN: usize = 60;
/// The most that an untagged one has.
pub const FRAME_LEN_MAX: usize = 1514;
/// Identification of the datagrams that come in fragments.
const FRAGMENT_ID: u16 = 0x7664;

/// What packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// Datagrams.
    Udp,
    /// Segments in the middle of a connection: ACK set, no data in order.
    Tcp,
    /// Segments that ask for a connection.
    Syn,
    /// Both fragments of a datagram, one after the other.
    Fragments,
    /// Questions for the destination's MAC address: ARP requests (RFC 826), neighbour
    /// solicitations (RFC 4861).
    Neighbor,
}

/// What all packets have in common.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// Source of the frames.
    pub source_mac: MacAddr,
    /// Destination of the frames; questions go to the group that RFC 826 and RFC 4861 name.
    pub destination_mac: MacAddr,
    /// The first source port.
    pub port_first: u16,
    /// The destination port.
    pub port: u16,
    /// Bytes of a frame, without its check sequence. Shorter ones than the headers grow.
    pub frame_len: usize,
}

/// A checksum that depends on what differs between packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Its offset in the frame.
    pub at: usize,
    /// The one's complement sum (RFC 1071) of all that it covers and that never changes.
    pub constant: u32,
}

/// A frame, and what in it differs from packet to packet.
#[derive(Clone, Debug)]
pub struct Template {
    /// The frame, with the first source address and port. Its checksums are zero.
    pub bytes: Vec<u8>,
    /// Where its source address stands.
    pub source_at: usize,
    /// The first source address.
    pub source: IpAddr,
    /// Where its source port stands; `None` if there is none.
    pub port_at: Option<usize>,
    /// The first source port.
    pub port_first: u16,
    /// The checksum of an IPv4 header. It does not depend on the port.
    pub ip_checksum: Option<Checksum>,
    /// The checksum of what is above IP.
    pub checksum: Option<Checksum>,
}

/// Why there are no such packets.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    /// Source and destination differ in family.
    #[error("packets from {from} cannot go to {to}: take addresses of one family")]
    Families {
        /// The source.
        from: IpAddr,
        /// The destination.
        to: IpAddr,
    },
    /// Frames are not that long.
    #[error("frames of {0} bytes: give {FRAME_LEN_MIN} to {FRAME_LEN_MAX}")]
    Length(usize),
}

impl Template {
    /// The templates of `traffic` from addresses from `from` on to `to`: two where a datagram comes in
    /// fragments.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn of(
        traffic: Traffic,
        common: &Common,
        from: IpAddr,
        to: IpAddr,
    ) -> Result<Vec<Self>, TemplateError> {
        if !(FRAME_LEN_MIN..=FRAME_LEN_MAX).contains(&common.frame_len) {
            return Err(TemplateError::Length(common.frame_len));
        }
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Ok(v4(traffic, common, from, to)),
            (IpAddr::V6(from), IpAddr::V6(to)) => Ok(v6(traffic, common, from, to)),
            _ => Err(TemplateError::Families { from, to }),
        }
    }

    /// Makes `frame`, which holds [`bytes`](Self::bytes) or another packet of this template, the
    /// packet of the `address`-th source address and of the source port `port`.
    pub fn fill(&self, address: u32, port: u16, frame: &mut [u8]) {
        let sum = match self.source {
            IpAddr::V4(first) => {
                let source = Ipv4Addr::from_bits(first.to_bits().wrapping_add(address)).octets();
                frame[self.source_at..self.source_at + 4].copy_from_slice(&source);
                sum_of(&source)
            }
            IpAddr::V6(first) => {
                let (upper, lower) = ((first.to_bits() >> 64) as u64, first.to_bits() as u64);
                let lower = lower.wrapping_add(address.into());
                let source = (u128::from(upper) << 64 | u128::from(lower)).to_be_bytes();
                frame[self.source_at..self.source_at + 16].copy_from_slice(&source);
                sum_of(&source)
            }
        };
        if let Some(Checksum { at, constant }) = self.ip_checksum {
            put(frame, at, !folded(constant + sum));
        }
        let mut sum = sum;
        if let Some(at) = self.port_at {
            put(frame, at, port);
            sum += u32::from(port);
        }
        if let Some(Checksum { at, constant }) = self.checksum {
            let value = !folded(constant + sum);
            // Zero would say that there is none (RFC 768); to TCP and ICMPv6 the two are one.
            put(frame, at, if value == 0 { 0xffff } else { value });
        }
    }
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The sum of `bytes` as 16-bit words, a last odd one padded (RFC 1071), folded.
fn sum_of(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => unreachable!("chunks of two"),
    });
    words.fold(0, |sum, word| u32::from(folded(sum + word)))
}

fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// What of a packet is above IP.
struct Above {
    protocol: IpNumber,
    /// Header and data, its checksum zero.
    bytes: Vec<u8>,
    /// Offset of the source port in it.
    port_at: Option<usize>,
    /// Offset of the checksum in it.
    checksum_at: usize,
}

/// UDP or TCP with as much data as makes `len` bytes of it; at least its header.
fn above(traffic: Traffic, common: &Common, len: usize) -> Above {
    match traffic {
        Traffic::Tcp | Traffic::Syn => {
            let mut header = TcpHeader::new(common.port_first, common.port, 1, 0xffff);
            header.syn = traffic == Traffic::Syn;
            header.ack = !header.syn;
            header.acknowledgment_number = header.ack.into();
            let mut bytes = header.to_bytes().to_vec();
            if header.ack {
                bytes.resize(len.max(bytes.len()), 0);
            }
            Above { protocol: IpNumber::TCP, bytes, port_at: Some(0), checksum_at: 16 }
        }
        Traffic::Udp | Traffic::Fragments | Traffic::Neighbor => {
            let data = len.saturating_sub(UdpHeader::LEN);
            let header = UdpHeader::without_ipv4_checksum(common.port_first, common.port, data)
                .expect("a frame's length");
            let mut bytes = header.to_bytes().to_vec();
            bytes.resize(UdpHeader::LEN + data, 0);
            Above { protocol: IpNumber::UDP, bytes, port_at: Some(0), checksum_at: 6 }
        }
    }
}

fn ethernet(common: &Common, destination: MacAddr, ether_type: etherparse::EtherType) -> Vec<u8> {
    let header =
        Ethernet2Header { source: common.source_mac.0, destination: destination.0, ether_type };
    header.to_bytes().to_vec()
}

/// Pads to the least that an Ethernet frame has.
fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(FRAME_LEN_MIN), 0);
    frame
}

fn v4(traffic: Traffic, common: &Common, from: Ipv4Addr, to: Ipv4Addr) -> Vec<Template> {
    if traffic == Traffic::Neighbor {
        return vec![arp(common, from, to)];
    }
    let above = above(traffic, common, common.frame_len - ETHERNET - Ipv4Header::MIN_LEN);
    let mut pseudo = to.octets().to_vec();
    pseudo.extend([0, above.protocol.0]);
    pseudo.extend((above.bytes.len() as u16).to_be_bytes());
    let constant = covered(&pseudo, &above);
    let packet = |part: &[u8], first: bool, fragment: Option<(bool, usize)>| {
        let mut header =
            Ipv4Header::new(part.len() as u16, 64, above.protocol, from.octets(), to.octets())
                .expect("a frame's length");
        header.dont_fragment = fragment.is_none();
        if let Some((more, offset)) = fragment {
            header.identification = FRAGMENT_ID;
            header.more_fragments = more;
            header.fragment_offset =
                IpFragOffset::try_new((offset / 8) as u16).expect("a small one");
        }
        let header = header.to_bytes();
        let mut fixed = header.to_vec();
        fixed[12..16].fill(0);
        let mut bytes = ethernet(common, common.destination_mac, etherparse::EtherType::IPV4);
        bytes.extend(&header);
        bytes.extend(part);
        let l4 = ETHERNET + header.len();
        Template {
            bytes: padded(bytes),
            source_at: ETHERNET + 12,
            source: from.into(),
            port_at: above.port_at.filter(|_| first).map(|at| l4 + at),
            port_first: common.port_first,
            ip_checksum: Some(Checksum { at: ETHERNET + 10, constant: sum_of(&fixed) }),
            checksum: first.then_some(Checksum { at: l4 + above.checksum_at, constant }),
        }
    };
    in_parts(traffic, &above.bytes, packet)
}

fn v6(traffic: Traffic, common: &Common, from: Ipv6Addr, to: Ipv6Addr) -> Vec<Template> {
    if traffic == Traffic::Neighbor {
        return vec![solicitation(common, from, to)];
    }
    let room = common.frame_len - ETHERNET;
    let above = above(traffic, common, room.saturating_sub(Ipv6Header::LEN));
    let mut pseudo = to.octets().to_vec();
    pseudo.extend((above.bytes.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, above.protocol.0]);
    let constant = covered(&pseudo, &above);
    let packet = |part: &[u8], first: bool, fragment: Option<(bool, usize)>| {
        let mut behind = Vec::new();
        if let Some((more, offset)) = fragment {
            let offset = IpFragOffset::try_new((offset / 8) as u16).expect("a small one");
            let id = FRAGMENT_ID.into();
            behind.extend(Ipv6FragmentHeader::new(above.protocol, offset, more, id).to_bytes());
        }
        let next =
            if fragment.is_some() { IpNumber::IPV6_FRAGMENTATION_HEADER } else { above.protocol };
        let l4 = ETHERNET + Ipv6Header::LEN + behind.len();
        behind.extend(part);
        let mut bytes = ethernet(common, common.destination_mac, etherparse::EtherType::IPV6);
        bytes.extend(ipv6_header(from, to, next, behind.len(), 64));
        bytes.extend(behind);
        Template {
            bytes: padded(bytes),
            source_at: ETHERNET + 8,
            source: from.into(),
            port_at: above.port_at.filter(|_| first).map(|at| l4 + at),
            port_first: common.port_first,
            ip_checksum: None,
            checksum: first.then_some(Checksum { at: l4 + above.checksum_at, constant }),
        }
    };
    in_parts(traffic, &above.bytes, packet)
}

/// What is above IP in one packet, or in two: `packet` makes each of its bytes, whether it is the first,
/// and where it is a fragment, whether more follow and its offset.
fn in_parts(
    traffic: Traffic,
    bytes: &[u8],
    packet: impl Fn(&[u8], bool, Option<(bool, usize)>) -> Template,
) -> Vec<Template> {
    if traffic != Traffic::Fragments {
        return vec![packet(bytes, true, None)];
    }
    // Offsets count eight bytes.
    let (first, later) = bytes.split_at((bytes.len() / 16 * 8).max(8));
    vec![packet(first, true, Some((true, 0))), packet(later, false, Some((false, first.len())))]
}

fn ipv6_header(from: Ipv6Addr, to: Ipv6Addr, next: IpNumber, len: usize, hops: u8) -> [u8; 40] {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: len as u16,
        next_header: next,
        hop_limit: hops,
        source: from.octets(),
        destination: to.octets(),
    };
    header.to_bytes()
}

/// The sum of a pseudo-header without its source, and of what is above IP without its source port
/// and checksum.
fn covered(pseudo: &[u8], above: &Above) -> u32 {
    let mut fixed = above.bytes.clone();
    if let Some(at) = above.port_at {
        fixed[at..at + 2].fill(0);
    }
    fixed[above.checksum_at..above.checksum_at + 2].fill(0);
    u32::from(folded(sum_of(pseudo) + sum_of(&fixed)))
}

/// An ARP request. The sender's MAC address is the frames' source, whatever its IPv4 address is.
fn arp(common: &Common, from: Ipv4Addr, to: Ipv4Addr) -> Template {
    let mut bytes = ethernet(common, MacAddr([0xff; 6]), etherparse::EtherType::ARP);
    bytes.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(common.source_mac.0);
    let source_at = bytes.len();
    bytes.extend(from.octets());
    bytes.extend([0; 6]);
    bytes.extend(to.octets());
    Template {
        bytes: padded(bytes),
        source_at,
        source: from.into(),
        port_at: None,
        port_first: 0,
        ip_checksum: None,
        checksum: None,
    }
}

/// A neighbour solicitation to the solicited-node group (RFC 4861, section 4.3).
fn solicitation(common: &Common, from: Ipv6Addr, target: Ipv6Addr) -> Template {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    // Source link-layer address option.
    message.extend([1, 1]);
    message.extend(common.source_mac.0);
    let above =
        Above { protocol: IpNumber::IPV6_ICMP, bytes: message, port_at: None, checksum_at: 2 };
    let mut pseudo = group.octets().to_vec();
    pseudo.extend((above.bytes.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, above.protocol.0]);
    let constant = covered(&pseudo, &above);
    let mac = MacAddr([0x33, 0x33, 0xff, a, b, c]);
    let mut bytes = ethernet(common, mac, etherparse::EtherType::IPV6);
    bytes.extend(ipv6_header(from, group, above.protocol, above.bytes.len(), 255));
    bytes.extend(&above.bytes);
    Template {
        bytes,
        source_at: ETHERNET + 8,
        source: from.into(),
        port_at: None,
        port_first: 0,
        ip_checksum: None,
        checksum: Some(Checksum { at: ETHERNET + 40 + 2, constant }),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    const COMMON: Common = Common {
        source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        port_first: 1024,
        port: 53,
        frame_len: 100,
    };

    fn addresses(is_v6: bool) -> (IpAddr, IpAddr) {
        match is_v6 {
            false => ("10.64.255.0".parse().unwrap(), "192.0.2.53".parse().unwrap()),
            true => ("fd64::ffff:ff00".parse().unwrap(), "2001:db8::53".parse().unwrap()),
        }
    }

    /// Panics unless all checksums of a frame are right, as another implementation computes them.
    fn check(frame: &[u8]) {
        let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
        let (v4, v6) = match packet.net.as_ref().expect("IP") {
            NetSlice::Ipv4(ip) => (Some(ip.header().to_header()), None),
            NetSlice::Ipv6(ip) => (None, Some(ip.header().to_header())),
            NetSlice::Arp(_) => return,
        };
        if let Some(header) = &v4 {
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
        match packet.transport {
            Some(TransportSlice::Udp(udp)) => {
                let (header, data) = (udp.to_header(), udp.payload());
                let right = match (&v4, &v6) {
                    (Some(ip), _) => header.calc_checksum_ipv4(ip, data),
                    (_, Some(ip)) => header.calc_checksum_ipv6(ip, data),
                    _ => unreachable!("one of them"),
                };
                assert_eq!(header.checksum, right.expect("a short one"));
            }
            Some(TransportSlice::Tcp(tcp)) => {
                let (header, data) = (tcp.to_header(), tcp.payload());
                let right = match (&v4, &v6) {
                    (Some(ip), _) => header.calc_checksum_ipv4(ip, data),
                    (_, Some(ip)) => header.calc_checksum_ipv6(ip, data),
                    _ => unreachable!("one of them"),
                };
                assert_eq!(header.checksum, right.expect("a short one"));
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                let ip = v6.expect("ICMPv6 is above IPv6");
                assert!(icmp.is_checksum_valid(ip.source, ip.destination));
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn every_packet_is_what_was_asked_for(
            address in 0u32..1 << 20,
            port: u16,
            is_v6: bool,
            frame_len in FRAME_LEN_MIN..=FRAME_LEN_MAX,
            traffic in prop::sample::select(vec![
                Traffic::Udp, Traffic::Tcp, Traffic::Syn, Traffic::Neighbor,
            ]),
        ) {
            let (from, to) = addresses(is_v6);
            let common = Common { frame_len, ..COMMON };
            let template = Template::of(traffic, &common, from, to).unwrap().remove(0);
            let mut frame = template.bytes.clone();
            template.fill(7, 4711, &mut frame);
            template.fill(address, port, &mut frame);
            check(&frame);
            let source = &frame[template.source_at..];
            match from {
                IpAddr::V4(first) => {
                    prop_assert_eq!(&source[..4], (first.to_bits() + address).to_be_bytes());
                }
                IpAddr::V6(first) => {
                    let right = first.to_bits() + u128::from(address);
                    prop_assert_eq!(&source[..16], right.to_be_bytes());
                }
            }
            if let Some(at) = template.port_at {
                prop_assert_eq!(&frame[at..at + 2], port.to_be_bytes());
            }
            if matches!(traffic, Traffic::Udp | Traffic::Tcp) && !(is_v6 && frame_len < 74) {
                prop_assert_eq!(frame.len(), frame_len);
            }
        }
    }

    #[test]
    fn fragments_make_one_datagram() {
        for is_v6 in [false, true] {
            let (from, to) = addresses(is_v6);
            let whole = &Template::of(Traffic::Udp, &COMMON, from, to).unwrap()[0];
            let mut frame = whole.bytes.clone();
            whole.fill(3, 2000, &mut frame);
            let ip = if is_v6 { 54 } else { 34 };
            let mut joined = Vec::new();
            let parts = Template::of(Traffic::Fragments, &COMMON, from, to).unwrap();
            assert_eq!(parts.len(), 2);
            for (number, part) in parts.iter().enumerate() {
                let mut bytes = part.bytes.clone();
                part.fill(3, 2000, &mut bytes);
                let packet = SlicedPacket::from_ethernet(&bytes).expect("a well-formed frame");
                let ip = packet.ip_payload().expect("IP");
                assert!(ip.fragmented && packet.transport.is_none());
                // What pads the frame is none of the packet.
                joined.extend_from_slice(ip.payload);
                let more = number == 0;
                let (found, offset) = match packet.net.as_ref().expect("IP") {
                    NetSlice::Ipv4(ip) => {
                        (ip.header().more_fragments(), ip.header().fragments_offset().value())
                    }
                    _ => {
                        let header = &bytes[54..62];
                        let word = u16::from_be_bytes([header[2], header[3]]);
                        (word & 1 == 1, word >> 3)
                    }
                };
                assert_eq!((found, offset == 0), (more, more));
            }
            assert_eq!(joined, frame[ip..], "v6: {is_v6}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let (v4, v6) = (addresses(false), addresses(true));
        let mixed = Template::of(Traffic::Udp, &COMMON, v4.0, v6.1);
        assert_eq!(mixed.unwrap_err(), TemplateError::Families { from: v4.0, to: v6.1 });
        for frame_len in [FRAME_LEN_MIN - 1, FRAME_LEN_MAX + 1] {
            let common = Common { frame_len, ..COMMON };
            let refused = Template::of(Traffic::Udp, &common, v4.0, v4.1);
            assert_eq!(refused.unwrap_err(), TemplateError::Length(frame_len));
        }
    }
}
