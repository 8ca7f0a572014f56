//! One packet that may be in a run, and the headers of a run.

use crate::wire::checksum::Checksum;
use crate::wire::vnet::{Offload, PartialChecksum, SegmentedProtocol, Segments};
use crate::wire::{ethernet, ipv4, ipv6, protocol, tcp, udp};

const NETWORK: usize = ethernet::HEADER_LEN;
const TRANSPORT_V4: usize = NETWORK + ipv4::HEADER_LEN;
const TRANSPORT_V6: usize = NETWORK + ipv6::HEADER_LEN;

/// Length of both ports, with which either transport header begins.
const PORTS_LEN: usize = 4;

/// Length of the longest headers of a super-packet: Ethernet, IPv6, and TCP with all its options.
pub const HEADERS_MAX: usize = TRANSPORT_V6 + 60;

/// Length of the longest IP packet (RFC 791). IPv6's could be 40 bytes longer: its header does not count.
const IP_MAX: usize = 0xffff;

/// Where the checksum lies in its header.
const UDP_CHECKSUM: u16 = 6;
const TCP_CHECKSUM: u16 = 16;

/// Whether two frames are the same up to the ports, but for what may differ within a run. Either both or
/// neither is IPv4 then, and likewise IPv6.
///
/// ```text
///   IPv4 in Ethernet                         IPv6 in Ethernet
///    0..16  same: link, version, class        0..18  same: link, version, class, label
///   16..20  length, identification           18..20  length
///   20..24  same: DF, TTL, protocol          20..58  same: protocol, hop limit, addresses, ports
///   24..26  checksum
///   26..38  same: addresses, ports
/// ```
#[inline]
pub(super) fn may_be_of_one_flow(a: &[u8], b: &[u8]) -> bool {
    const V4: usize = TRANSPORT_V4 + PORTS_LEN;
    const V6: usize = TRANSPORT_V6 + PORTS_LEN;
    let (Some(a4), Some(b4)) = (a.first_chunk::<V4>(), b.first_chunk::<V4>()) else { return false };
    if a4[14] == 0x45 {
        // The ports differ most often.
        return a4[26..] == b4[26..] && a4[..16] == b4[..16] && a4[20..24] == b4[20..24];
    }
    let (Some(a6), Some(b6)) = (a.first_chunk::<V6>(), b.first_chunk::<V6>()) else { return false };
    a6[20..] == b6[20..] && a6[..18] == b6[..18]
}

/// Where the parts lie of a packet that may be in a run: UDP or TCP, whole, without options of IP's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    protocol: SegmentedProtocol,
    /// Where the transport header starts in the frame.
    transport: u8,
    /// Where the payload starts.
    payload: u8,
    /// Where it ends: Ethernet padding may follow.
    end: u16,
    /// Whether nothing may follow it.
    is_last: bool,
}

impl Default for Packet {
    fn default() -> Self {
        Self { protocol: SegmentedProtocol::Udp, transport: 0, payload: 0, end: 0, is_last: true }
    }
}

/// A run up to now.
#[derive(Clone, Copy)]
pub(super) struct Continuation {
    pub(super) count: u8,
    /// Length of all its payloads, in bytes.
    pub(super) payload_len: u16,
}

impl Packet {
    /// The packet in a frame without a tag; `None` if it may not be in a run, which says nothing of its
    /// checksum yet.
    pub(super) fn joinable(frame: &[u8]) -> Option<Self> {
        let (protocol, transport, end) = network(frame)?;
        let protocol = match (protocol, transport) {
            (protocol::UDP, _) => SegmentedProtocol::Udp,
            (_, TRANSPORT_V4) => SegmentedProtocol::TcpV4,
            _ => SegmentedProtocol::TcpV6,
        };
        Self::behind(protocol, transport, end, frame)
    }

    /// The same of a frame that [`may_be_of_one_flow`] with the one that this packet is in, and in which
    /// parsing has found a whole packet: what both have in common is not looked at again.
    #[inline]
    pub(super) fn joinable_to(&self, frame: &[u8]) -> Option<Self> {
        let transport = usize::from(self.transport);
        let (len_at, len_above) = match transport {
            TRANSPORT_V4 => (NETWORK + 2, NETWORK),
            _ => (NETWORK + 4, transport),
        };
        let len = u16::from_be_bytes(*frame.get(len_at..)?.first_chunk()?);
        Self::behind(self.protocol, transport, len_above + usize::from(len), frame)
    }

    /// The packet whose transport header starts at `transport`, and which ends at `end`.
    #[inline]
    fn behind(
        protocol: SegmentedProtocol,
        transport: usize,
        end: usize,
        frame: &[u8],
    ) -> Option<Self> {
        let header = frame.get(transport..end)?;
        if protocol == SegmentedProtocol::Udp {
            let udp = udp::Header::new(header).ok()?;
            // More than the datagram are UDP options (RFC 9868).
            let is_whole = usize::from(udp.len()) == end - transport;
            if !is_whole || !udp.has_checksum() {
                return None;
            }
            return Self::new(protocol, transport, udp::HEADER_LEN, end, false);
        }
        let tcp = tcp::Header::new(header).ok()?;
        // All others say something at the place where they stand. The reserved bits and, as they
        // would be, the accurate ECN's are in the low half of the byte before.
        if tcp.flags() & !tcp::PSH != tcp::ACK || header[12] & 0x0f != 0 {
            return None;
        }
        let is_last = tcp.flags() & tcp::PSH != 0;
        Self::new(protocol, transport, tcp.header_len(), end, is_last)
    }

    fn new(
        protocol: SegmentedProtocol,
        transport: usize,
        header_len: usize,
        end: usize,
        is_last: bool,
    ) -> Option<Self> {
        let payload = transport + header_len;
        // The places fit: no header is longer than `HEADERS_MAX`, no packet than `IP_MAX`.
        let (transport, payload_at) = (transport as u8, payload as u8);
        let end_at = u16::try_from(end).ok()?;
        (payload < end).then_some(Self {
            protocol,
            transport,
            payload: payload_at,
            end: end_at,
            is_last,
        })
    }

    /// Whether the packet in `frame` continues the run that begins with `first` in `head`: whose headers
    /// are the same where [`may_be_of_one_flow`] looks.
    #[inline]
    pub(super) fn continues(
        &self,
        frame: &[u8],
        first: &Self,
        head: &[u8],
        run: Continuation,
    ) -> bool {
        let len = self.payload_len();
        let total = usize::from(run.payload_len) + len;
        let fits = usize::from(first.payload) - NETWORK + total <= IP_MAX;
        let is_alike = self.protocol == first.protocol && self.payload == first.payload;
        if !is_alike || len > first.payload_len() || !fits {
            return false;
        }
        if usize::from(first.transport) == TRANSPORT_V4 && !counts_up(frame, head, run.count) {
            return false;
        }
        match self.protocol {
            SegmentedProtocol::Udp => true,
            SegmentedProtocol::TcpV4 | SegmentedProtocol::TcpV6 => {
                is_next_segment(self.header(frame), first.header(head), run.payload_len)
            }
        }
    }

    /// Whether the checksum is right, over all that it covers. `flow` is [`flow_sum`](Self::flow_sum) of
    /// this packet, or of another one of its flow.
    #[inline]
    pub(super) fn is_intact(&self, frame: &[u8], flow: Checksum) -> bool {
        let summed = &frame[usize::from(self.transport)..usize::from(self.end)];
        flow.with_word(summed.len() as u16).with(summed).is_intact()
    }

    /// Length of the payload in bytes, never 0.
    pub(super) fn payload_len(&self) -> usize {
        usize::from(self.end) - usize::from(self.payload)
    }

    /// Whether nothing may follow it in a run.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Where its payload starts in the frame.
    pub(super) fn payload_at(&self) -> usize {
        self.payload.into()
    }

    /// The transport header in its frame.
    fn header<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[usize::from(self.transport)..usize::from(self.payload)]
    }

    /// The sum of the pseudo-header (RFC 768, RFC 9293, section 3.1, RFC 8200, section 8.1) but for the
    /// length: the same for all packets of a flow.
    pub(super) fn flow_sum(&self, frame: &[u8]) -> Checksum {
        let transport = usize::from(self.transport);
        let (addresses_len, protocol) = match transport {
            TRANSPORT_V4 => (8, frame[NETWORK + 9]),
            _ => (32, frame[NETWORK + 6]),
        };
        Checksum::new()
            .with(&frame[transport - addresses_len..transport])
            .with_word(protocol.into())
    }

    /// The headers of the run that begins with this packet, in `first`, and ends with that in `last`.
    pub(super) fn headers(&self, first: &[u8], last: &[u8], payload_len: usize) -> Headers {
        let (transport, len) = (usize::from(self.transport), usize::from(self.payload));
        let mut bytes = [0; HEADERS_MAX];
        bytes[..len].copy_from_slice(&first[..len]);
        let end = len + payload_len;
        match transport {
            TRANSPORT_V4 => {
                let id = ipv4::Header::new(&first[NETWORK..]).expect("it is in a run").id();
                ipv4::emit_len_and_id(&mut bytes[NETWORK..transport], (end - NETWORK) as u16, id);
            }
            _ => {
                let header = bytes[NETWORK..].first_chunk_mut().expect("a whole header");
                ipv6::emit_payload_len(header, (end - transport) as u16);
            }
        }
        // A partial checksum is the sum of the pseudo-header, and not its complement.
        let pseudo = !self.flow_sum(first).with_word((end - transport) as u16).finish();
        let offset = match self.protocol {
            SegmentedProtocol::Udp => {
                let header = bytes[transport..].first_chunk_mut().expect("a whole header");
                let udp = udp::Header::new(&first[transport..]).expect("it is in a run");
                let (from, to) = (udp.src_port(), udp.dst_port());
                udp::emit_header(header, from, to, (end - transport) as u16);
                udp::emit_checksum(header, pseudo);
                UDP_CHECKSUM
            }
            SegmentedProtocol::TcpV4 | SegmentedProtocol::TcpV6 => {
                let header = bytes[transport..].first_chunk_mut().expect("a whole header");
                let tcp = tcp::Header::new(&last[transport..]).expect("it is in a run");
                let head = tcp::Header::new(&first[transport..]).expect("it is in a run");
                tcp::emit_sequence_and_flags(header, head.sequence(), tcp.flags());
                tcp::emit_checksum(header, pseudo);
                TCP_CHECKSUM
            }
        };
        let (start, size) = (self.transport.into(), self.payload_len() as u16);
        let segments = Segments { protocol: self.protocol, size, headers_len: len as u16 };
        let checksum = PartialChecksum { start, offset };
        let offload = Offload { checksum: Some(checksum), segments: Some(segments) };
        Headers { bytes, len, offload }
    }
}

/// The protocol, and where the transport header starts and the packet ends, of a whole IP packet without
/// options that carries UDP or TCP.
fn network(frame: &[u8]) -> Option<(u8, usize, usize)> {
    let ethernet = ethernet::Frame::new(frame).ok()?;
    let packet = ethernet.payload();
    let (protocol, transport, len) = match ethernet.ether_type() {
        ethernet::IPV4 => {
            let header = ipv4::Header::new(packet).ok()?;
            // Nothing of the fragment field may be set but the bit that forbids to fragment.
            let is_plain =
                header.header_len() == ipv4::HEADER_LEN && packet[6] & 0xbf | packet[7] == 0;
            if !is_plain {
                return None;
            }
            (header.protocol(), TRANSPORT_V4, usize::from(header.total_len()))
        }
        ethernet::IPV6 => {
            let header = ipv6::Header::new(packet).ok()?;
            let len = ipv6::HEADER_LEN + usize::from(header.payload_len());
            (header.next_header(), TRANSPORT_V6, len)
        }
        _ => return None,
    };
    matches!(protocol, protocol::UDP | protocol::TCP).then_some((
        protocol,
        transport,
        NETWORK + len,
    ))
}

/// Whether the identification is what the host will give to the packet: that of the run's first one plus
/// its place in it, or anything if it has no meaning.
fn counts_up(frame: &[u8], head: &[u8], place: u8) -> bool {
    let field =
        |frame: &[u8], at| u16::from_be_bytes([frame[NETWORK + at], frame[NETWORK + at + 1]]);
    // The bit DF, then the identifications.
    let dont_fragment = field(frame, 6) & 0x4000 != 0;
    dont_fragment || field(frame, 4) == field(head, 4).wrapping_add(place.into())
}

/// Whether a segment follows at once, in the sequence, `len` bytes from the run's first, and says
/// otherwise the same.
///
/// ```text
///    8..13  same: acknowledgement number, header length
///   13..14  flags: looked at already
///   14..16  same: window
///   16..18  checksum
///   18..    same: urgent pointer, options
/// ```
fn is_next_segment(header: &[u8], first: &[u8], len: u16) -> bool {
    let [next, before] = [header, first].map(tcp::Header::new);
    let (Ok(next), Ok(before)) = (next, before) else { return false };
    next.sequence() == before.sequence().wrapping_add(len.into())
        && header[8..13] == first[8..13]
        && header[14..16] == first[14..16]
        && header[18..] == first[18..]
}

/// The headers of a super-packet, from Ethernet's on.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    bytes: [u8; HEADERS_MAX],
    len: usize,
    /// What is left to do to the super-packet.
    pub offload: Offload,
}

impl Headers {
    /// The headers' bytes. All payloads of the run follow.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
