//! The frames that nearly all are: untagged, IPv4 without options or IPv6 without extension headers,
//! whole, with UDP or TCP.
//!
//! For these few shapes all fields are at places that are known when compiling, and a look at the frame's
//! length is all the checking of bounds there is. Whatever is not plainly such a frame, a faulty one
//! included, is for [`parse_any`](super::parse_any) to judge: what is taken here, that function takes with
//! the same result, as a test says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Fragment, IpPacket, Parsed, Payload, Ports, TcpFlags, Transport};
use crate::wire::ethernet::{self, MacAddr};
use crate::wire::{ipv4, ipv6, protocol, tcp, udp};

const IP: usize = ethernet::HEADER_LEN;
const UDP4: usize = IP + ipv4::HEADER_LEN;
const UDP6: usize = IP + ipv6::HEADER_LEN;
/// Length of the shortest frame that has one of the shapes.
const SHORTEST: usize = UDP4 + udp::HEADER_LEN;

/// What a frame looks to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Udp4,
    Tcp4,
    Udp6,
    Tcp6,
}

impl Shape {
    /// The shape of a frame, by its EtherType, the length of an IPv4 header, whether that is of a fragment,
    /// and the protocol.
    #[inline(always)]
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        // EtherType, then the version: with an IPv4 header's length, or the start of an IPv6 traffic class.
        const IPV4: u32 = u32::from_ne_bytes([0x08, 0x00, 0x45, 0]);
        const IPV4_MASK: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);
        const IPV6: u32 = u32::from_ne_bytes([0x86, 0xdd, 0x60, 0]);
        const IPV6_MASK: u32 = u32::from_ne_bytes([0xff, 0xff, 0xf0, 0]);
        // Of IPv4, where a fragment lies and whether more follow: nothing of either; then TTL and protocol.
        const UDP4: u32 = u32::from_ne_bytes([0, 0, 0, protocol::UDP]);
        const TCP4: u32 = u32::from_ne_bytes([0, 0, 0, protocol::TCP]);
        const WHOLE_MASK: u32 = u32::from_ne_bytes([0x3f, 0xff, 0, 0xff]);
        let head: &[u8; SHORTEST] = frame.first_chunk()?;
        let kind = u32::from_ne_bytes(bytes(head, IP - 2));
        if kind & IPV4_MASK == IPV4 {
            match u32::from_ne_bytes(bytes(head, IP + 6)) & WHOLE_MASK {
                UDP4 => Some(Self::Udp4),
                TCP4 => Some(Self::Tcp4),
                _ => None,
            }
        } else if kind & IPV6_MASK == IPV6 {
            match head[IP + 6] {
                protocol::UDP => Some(Self::Udp6),
                protocol::TCP => Some(Self::Tcp6),
                _ => None,
            }
        } else {
            None
        }
    }

    /// The frame, if it is what its shape says, without fault.
    #[inline(always)]
    pub(crate) fn parse(self, frame: &[u8]) -> Option<Parsed> {
        match self {
            Self::Udp4 => {
                let head: &[u8; UDP4 + udp::HEADER_LEN] = frame.first_chunk()?;
                let len = v4_len(head, frame.len())?;
                Some(v4(head, protocol::UDP, transport_udp(head, UDP4, len)?))
            }
            Self::Tcp4 => {
                let head: &[u8; UDP4 + tcp::HEADER_LEN] = frame.first_chunk()?;
                let len = v4_len(head, frame.len())?;
                Some(v4(head, protocol::TCP, transport_tcp(head, UDP4, len)?))
            }
            Self::Udp6 => {
                let head: &[u8; UDP6 + udp::HEADER_LEN] = frame.first_chunk()?;
                let len = v6_len(head, frame.len())?;
                Some(v6(head, protocol::UDP, transport_udp(head, UDP6, len)?))
            }
            Self::Tcp6 => {
                let head: &[u8; UDP6 + tcp::HEADER_LEN] = frame.first_chunk()?;
                let len = v6_len(head, frame.len())?;
                Some(v6(head, protocol::TCP, transport_tcp(head, UDP6, len)?))
            }
        }
    }
}

/// `N` bytes from byte `at` on, which are in the head: where that is known, nothing is checked.
#[inline(always)]
fn bytes<const N: usize, const LEN: usize>(head: &[u8; LEN], at: usize) -> [u8; N] {
    *head[at..].first_chunk().expect("the field lies within the head")
}

#[inline(always)]
fn u16_at<const LEN: usize>(head: &[u8; LEN], at: usize) -> u16 {
    u16::from_be_bytes(bytes(head, at))
}

/// The length of an IPv4 packet, header included; `None` for a header that is not intact, a source that may be
/// none, and a packet longer than its frame.
#[inline(always)]
fn v4_len<const LEN: usize>(head: &[u8; LEN], frame_len: usize) -> Option<usize> {
    let total_len = usize::from(u16_at(head, IP + 2));
    // 10.0.0.1 and 198.51.100.7, but neither 0, 127, nor 224 and above.
    let network = head[IP + 12];
    let may_send = network.wrapping_sub(1) < 223 && network != 127;
    let is_whole = IP + total_len <= frame_len;
    if is_whole && may_send && !sent_by_group(head) && is_intact(head) {
        Some(total_len)
    } else {
        None
    }
}

/// Whether an IPv4 header's checksum is right: whether its words add up to all ones, with each carry added
/// again. Added so, numbers are the same as modulo 2^16 - 1, where all ones are zero; and so are words of
/// 32 bits, and those whose bytes are in the machine's order (RFC 1071, section 2). The plain sum is never
/// zero: the header begins with its version.
#[inline(always)]
fn is_intact<const LEN: usize>(head: &[u8; LEN]) -> bool {
    let sum = u64::from(u32::from_ne_bytes(bytes(head, IP)))
        + u64::from(u32::from_ne_bytes(bytes(head, IP + 4)))
        + u64::from(u32::from_ne_bytes(bytes(head, IP + 8)))
        + u64::from(u32::from_ne_bytes(bytes(head, IP + 12)))
        + u64::from(u32::from_ne_bytes(bytes(head, IP + 16)));
    sum.is_multiple_of(0xffff)
}

/// The length of an IPv6 packet, header included; `None` for a source that may be none, and a packet longer
/// than its frame.
#[inline(always)]
fn v6_len<const LEN: usize>(head: &[u8; LEN], frame_len: usize) -> Option<usize> {
    let payload_len = usize::from(u16_at(head, IP + 4));
    // See `is_sender_v6`.
    let may_send = !matches!(head[IP + 8], 0 | 0xff);
    let is_whole = UDP6 + payload_len <= frame_len;
    if is_whole && may_send && !sent_by_group(head) {
        Some(ipv6::HEADER_LEN + payload_len)
    } else {
        None
    }
}

/// Whether the Ethernet source is a group address.
#[inline(always)]
fn sent_by_group<const LEN: usize>(head: &[u8; LEN]) -> bool {
    head[6] & 1 != 0
}

#[inline(always)]
fn transport_udp<const LEN: usize>(
    head: &[u8; LEN],
    at: usize,
    packet_len: usize,
) -> Option<Transport> {
    let (src, dst, len) = (u16_at(head, at), u16_at(head, at + 2), u16_at(head, at + 4));
    let len = usize::from(len);
    let is_valid = len >= udp::HEADER_LEN && at - IP + len <= packet_len;
    is_valid.then_some(Transport::Udp(Ports { src, dst }))
}

#[inline(always)]
fn transport_tcp<const LEN: usize>(
    head: &[u8; LEN],
    at: usize,
    packet_len: usize,
) -> Option<Transport> {
    let (src, dst) = (u16_at(head, at), u16_at(head, at + 2));
    let header_len = usize::from(head[at + 12] >> 4) * 4;
    let flags = head[at + 13];
    let has = |flag| flags & flag != 0;
    let (syn, ack, fin, rst) = (has(tcp::SYN), has(tcp::ACK), has(tcp::FIN), has(tcp::RST));
    let is_within = header_len >= tcp::HEADER_LEN && at - IP + header_len <= packet_len;
    let is_valid = is_within && may_be(flags);
    is_valid.then_some(Transport::Tcp(Ports { src, dst }, TcpFlags { syn, ack, fin, rst }))
}

/// Whether the flags go together: as of `parse_tcp`, of which this is the table, a bit for each of the 32
/// combinations of the five lowest flags.
#[inline(always)]
const fn may_be(flags: u8) -> bool {
    const TABLE: u32 = {
        let mut table = 0;
        let mut flags = 0;
        while flags < 32 {
            let (syn, ack) = (flags & tcp::SYN != 0, flags & tcp::ACK != 0);
            let (fin, rst) = (flags & tcp::FIN != 0, flags & tcp::RST != 0);
            if !(syn && (fin || rst)) && (syn || ack || rst) {
                table |= 1 << flags;
            }
            flags += 1;
        }
        table
    };
    TABLE >> (flags & 31) & 1 != 0
}

#[inline(always)]
fn v4<const LEN: usize>(head: &[u8; LEN], protocol: u8, transport: Transport) -> Parsed {
    let src = IpAddr::V4(Ipv4Addr::from(bytes::<4, LEN>(head, IP + 12)));
    let dst = IpAddr::V4(Ipv4Addr::from(bytes::<4, LEN>(head, IP + 16)));
    ip(head, IpPacket { src, dst, fragment: Fragment::Whole, protocol, transport })
}

#[inline(always)]
fn v6<const LEN: usize>(head: &[u8; LEN], protocol: u8, transport: Transport) -> Parsed {
    let src = IpAddr::V6(Ipv6Addr::from(bytes::<16, LEN>(head, IP + 8)));
    let dst = IpAddr::V6(Ipv6Addr::from(bytes::<16, LEN>(head, IP + 24)));
    ip(head, IpPacket { src, dst, fragment: Fragment::Whole, protocol, transport })
}

#[inline(always)]
fn ip<const LEN: usize>(head: &[u8; LEN], packet: IpPacket) -> Parsed {
    Parsed {
        dst: MacAddr(bytes(head, 0)),
        src: MacAddr(bytes(head, 6)),
        vlan: None,
        network_offset: IP as u16,
        payload: Payload::Ip(packet),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::parse_any;
    use super::*;
    use crate::wire::checksum::Checksum;
    use proptest::prelude::*;

    const CLIENT4: [u8; 4] = [10, 64, 0, 1];
    pub(crate) const VIP4: [u8; 4] = [192, 0, 2, 53];

    /// A frame of each shape, with `payload` bytes behind the transport header.
    pub(crate) fn frame(shape: Shape, payload: usize) -> Vec<u8> {
        let (is_v4, protocol, mut transport) = match shape {
            Shape::Udp4 => (true, protocol::UDP, vec![0; udp::HEADER_LEN]),
            Shape::Tcp4 => (true, protocol::TCP, vec![0; tcp::HEADER_LEN]),
            Shape::Udp6 => (false, protocol::UDP, vec![0; udp::HEADER_LEN]),
            Shape::Tcp6 => (false, protocol::TCP, vec![0; tcp::HEADER_LEN]),
        };
        transport.resize(transport.len() + payload, 0x5a);
        transport[..4].copy_from_slice(&[0x9c, 0x40, 0, 53]);
        let len = transport.len() as u16;
        if protocol == protocol::UDP {
            transport[4..6].copy_from_slice(&len.to_be_bytes());
        } else {
            transport[12..14].copy_from_slice(&[0x50, tcp::ACK]);
        }
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if is_v4 {
            frame.extend([0x08, 0, 0x45, 0]);
            frame.extend((20 + len).to_be_bytes());
            frame.extend([0, 7, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend([CLIENT4, VIP4].concat());
            mend(&mut frame);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend([0xfd, 0x64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend([0x20, 1, 0xd, 0xb8, 0, 0x53, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53]);
        }
        frame.extend(transport);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// Makes the checksum of what would be an IPv4 header right.
    fn mend(frame: &mut [u8]) {
        frame[IP + 10..IP + 12].fill(0);
        let checksum = Checksum::new().with(&frame[IP..IP + 20]).finish();
        frame[IP + 10..IP + 12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Checks a frame with each of its first bytes of each value, with the IPv4 checksum as it was and made right.
    pub(crate) fn for_each_change(
        good: &[u8],
        len: usize,
        mut check: impl FnMut(&[u8], usize, u8),
    ) {
        for at in 0..len {
            for value in 0..=u8::MAX {
                let mut changed = good.to_vec();
                changed[at] = value;
                check(&changed, at, value);
                mend(&mut changed);
                check(&changed, at, value);
            }
        }
    }

    const SHAPES: [Shape; 4] = [Shape::Udp4, Shape::Tcp4, Shape::Udp6, Shape::Tcp6];

    fn quickly(frame: &[u8]) -> Option<Parsed> {
        Shape::of(frame)?.parse(frame)
    }

    /// Nobody would notice if all went the long way.
    #[test]
    fn the_ordinary_frames_are_taken() {
        for shape in SHAPES {
            for payload in [0, 1, 50, 1400] {
                let frame = frame(shape, payload);
                assert_eq!(Shape::of(&frame), Some(shape));
                let parsed = quickly(&frame);
                assert!(parsed.is_some(), "{shape:?} {payload}");
                assert_eq!(parsed, parse_any(&frame).ok(), "{shape:?} {payload}");
            }
        }
    }

    /// Each byte of the headers with each value, the IPv4 checksum right and wrong.
    #[test]
    fn whatever_one_byte_is_both_say_the_same() {
        let mut taken = 0;
        for shape in SHAPES {
            let good = frame(shape, 10);
            let head_len = match shape {
                Shape::Udp4 => UDP4 + 8,
                Shape::Tcp4 => UDP4 + 20,
                Shape::Udp6 => UDP6 + 8,
                Shape::Tcp6 => UDP6 + 20,
            };
            for_each_change(&good, head_len, |changed, at, value| {
                if let Some(parsed) = quickly(changed) {
                    assert_eq!(Ok(parsed), parse_any(changed), "{shape:?} {at} {value}");
                    taken += 1;
                }
            });
            for len in 0..good.len() {
                let cut = &good[..len];
                assert_eq!(quickly(cut), parse_any(cut).ok(), "{shape:?} cut to {len}");
            }
        }
        assert!(taken > 40_000, "{taken} frames were taken");
    }

    proptest! {
        #[test]
        fn what_is_taken_the_long_way_takes_with_the_same_result(
            shape in prop::sample::select(&SHAPES[..]),
            payload in 0_usize..64,
            changes in prop::collection::vec((0_usize..90, any::<u8>()), 0..6),
            len in 0_usize..160,
            is_mended: bool,
        ) {
            let mut frame = frame(shape, payload);
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            if is_mended {
                mend(&mut frame);
            }
            frame.truncate(len.max(20));
            if let Some(parsed) = quickly(&frame) {
                prop_assert_eq!(Ok(parsed), parse_any(&frame));
            }
        }

        #[test]
        fn a_header_is_intact_or_not_as_its_checksum_says(
            header: [u8; 20],
            is_mended: bool,
        ) {
            let mut head = [0; IP + 20];
            head[IP..].copy_from_slice(&header);
            head[IP] = 0x45;
            if is_mended {
                mend(&mut head);
            }
            prop_assert_eq!(is_intact(&head), Checksum::new().with(&head[IP..]).is_intact());
        }
    }

    #[test]
    fn sums_at_the_edges_fold_alike() {
        for bytes in [[0; 20], [0xff; 20]] {
            let mut head = [0; IP + 20];
            head[IP..].copy_from_slice(&bytes);
            // What is looked at begins with a version.
            head[IP] = 0x45;
            for at in IP + 1..IP + 20 {
                for value in [0, 1, 0x7f, 0x80, 0xfe, 0xff] {
                    let mut head = head;
                    head[at] = value;
                    assert_eq!(is_intact(&head), Checksum::new().with(&head[IP..]).is_intact());
                }
            }
        }
    }
}
