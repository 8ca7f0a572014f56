//! Super-packets, cut into packets that fit a network.
//!
//! A host that may leave the cutting to us hands over up to 64 KiB of one flow as one packet, whose
//! checksum is partial. Each packet that is cut from it has a copy of its headers and a part of its
//! payload:
//!
//! ```text
//!  super-packet  | headers | payload                                     |
//!                          |----- size -----|----- size -----|--- rest --|
//!  packet 0      | headers'|  payload 0     |
//!  packet 1      | headers'                 |  payload 1     |
//!  packet 2      | headers'                                  | payload 2 |
//! ```
//!
//! In those headers differ: the lengths and the checksums; the identification of IPv4, which counts
//! up; of TCP, the sequence number, FIN and PSH, which only the last packet has, and CWR, which only
//! the first has (RFC 3168, section 6.1.2). The urgent pointer stays as it is, as it does in network
//! cards that cut: RFC 9293, section 3.8.5 leaves no meaning to it that survives.
//!
//! What always holds: no bytes make [`Cut::new`] panic, and the packets' payloads, one after another,
//! are the super-packet's.

use std::net::IpAddr;

use crate::parse::{Fragment, IpPacket, Transport};
use crate::wire::checksum::Checksum;
use crate::wire::ipv6::Extensions;
use crate::wire::vnet::{PartialChecksum, SegmentedProtocol, Segments};
use crate::wire::{ipv4, ipv6, tcp, udp};

/// A frame of the host's that says of itself what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfinishable {
    /// The checksum to complete lies outside the frame.
    #[error("the partial checksum lies outside the frame")]
    Checksum,
    /// The frame to cut holds another protocol than it should, a fragment, or no payload.
    #[error("the frame cannot be cut as its header says")]
    Protocol,
}

/// Completes a checksum that holds the sum of the pseudo-header.
///
/// Where the sum is 0 it becomes 0xffff, the same number in one's complement: 0 would say in UDP that
/// there is none (RFC 768).
///
/// # Errors
/// [`Unfinishable::Checksum`] if it does not lie within the frame; nothing has changed then.
pub fn complete_checksum(frame: &mut [u8], partial: PartialChecksum) -> Result<(), Unfinishable> {
    let summed = frame.get_mut(usize::from(partial.start)..).ok_or(Unfinishable::Checksum)?;
    let sum = not_zero(Checksum::new().with(summed).finish());
    let field = summed.get_mut(usize::from(partial.offset)..).and_then(<[u8]>::first_chunk_mut);
    *field.ok_or(Unfinishable::Checksum)? = sum.to_be_bytes();
    Ok(())
}

/// The two forms of zero in one's complement as one.
fn not_zero(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

/// How a super-packet is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    /// Length of a packet's payload, but for the last one's.
    size: usize,
    /// Where the network header starts in `headers`.
    network: usize,
    /// Where the transport header starts in `headers`.
    transport: usize,
    protocol: SegmentedProtocol,
    /// The sum of the pseudo-header without the length.
    pseudo: Checksum,
}

impl<'a> Cut<'a> {
    /// The cut of the super-packet in `frame`, whose network header starts at `network` and which holds
    /// `packet`.
    ///
    /// # Errors
    /// [`Unfinishable::Protocol`] if it is no whole packet of the protocol that `segments` names.
    pub fn new(
        frame: &'a [u8],
        network: usize,
        packet: &IpPacket,
        segments: Segments,
    ) -> Result<Self, Unfinishable> {
        let fits = match (segments.protocol, packet.transport) {
            (SegmentedProtocol::TcpV4, Transport::Tcp(..)) => packet.src.is_ipv4(),
            (SegmentedProtocol::TcpV6, Transport::Tcp(..)) => packet.src.is_ipv6(),
            (SegmentedProtocol::Udp, Transport::Udp(_)) => true,
            _ => false,
        };
        if !fits || packet.fragment != Fragment::Whole || segments.size == 0 {
            return Err(Unfinishable::Protocol);
        }
        let bytes = frame.get(network..).ok_or(Unfinishable::Protocol)?;
        let (above, end) = transport_place(bytes, packet).ok_or(Unfinishable::Protocol)?;
        let header_len = match segments.protocol {
            SegmentedProtocol::Udp => udp::HEADER_LEN,
            SegmentedProtocol::TcpV4 | SegmentedProtocol::TcpV6 => {
                let header = tcp::Header::new(&bytes[above..end]);
                header.map_err(|_| Unfinishable::Protocol)?.header_len()
            }
        };
        let payload = bytes.get(above + header_len..end).ok_or(Unfinishable::Protocol)?;
        if payload.is_empty() {
            return Err(Unfinishable::Protocol);
        }
        let transport = network + above;
        Ok(Self {
            headers: &frame[..transport + header_len],
            payload,
            size: usize::from(segments.size),
            network,
            transport,
            protocol: segments.protocol,
            pseudo: pseudo(packet),
        })
    }

    /// How many packets there will be: one at least.
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size)
    }

    /// Whether the first packet alone will have the flag CWR.
    pub fn is_told_of_congestion(&self) -> bool {
        let flags = tcp::Header::new(&self.headers[self.transport..]).map(|header| header.flags());
        self.protocol != SegmentedProtocol::Udp && flags.is_ok_and(|flags| flags & tcp::CWR != 0)
    }

    /// Length of packet `n`'s frame, in bytes.
    ///
    /// # Panics
    /// If there is no such packet.
    #[inline]
    pub fn frame_len(&self, n: usize) -> usize {
        self.headers.len() + self.payload_of(n).len()
    }

    #[inline]
    fn payload_of(&self, n: usize) -> &'a [u8] {
        let rest = &self.payload[n * self.size..];
        &rest[..rest.len().min(self.size)]
    }

    /// Writes the frame of packet `n`, counted from 0, to the start of `into`.
    ///
    /// # Panics
    /// If there is no such packet, or `into` is shorter than its frame.
    pub fn emit(&self, n: usize, into: &mut [u8]) {
        let payload = self.payload_of(n);
        let len = self.headers.len() + payload.len();
        let (headers, behind) = into[..len].split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        behind.copy_from_slice(payload);
        self.emit_network(n, &mut headers[self.network..self.transport], len);
        self.emit_transport(n, &mut into[self.transport..len]);
    }

    fn emit_network(&self, n: usize, header: &mut [u8], frame_len: usize) {
        let len = (frame_len - self.network) as u16;
        match ipv4::Header::new(header).map(|header| header.id()) {
            // It wraps round as the count of a sender does.
            Ok(id) => ipv4::emit_len_and_id(header, len, id.wrapping_add(n as u16)),
            Err(_) => {
                let fixed = header.first_chunk_mut().expect("a parsed header");
                ipv6::emit_payload_len(fixed, len - ipv6::HEADER_LEN as u16);
            }
        }
    }

    /// Completes the transport header of packet `n`.
    fn emit_transport(&self, n: usize, packet: &mut [u8]) {
        let len = packet.len() as u16;
        let pseudo = self.pseudo.with(&len.to_be_bytes());
        if self.protocol == SegmentedProtocol::Udp {
            let header = udp::Header::new(packet).expect("a parsed header");
            let (src, dst) = (header.src_port(), header.dst_port());
            udp::emit_header(packet.first_chunk_mut().expect("a header"), src, dst, len);
            let sum = not_zero(pseudo.with(packet).finish());
            udp::emit_checksum(packet.first_chunk_mut().expect("a header"), sum);
        } else {
            let header = tcp::Header::new(packet).expect("a parsed header");
            let sequence = header.sequence().wrapping_add((n * self.size) as u32);
            let is_last = n + 1 == self.count();
            let not_last = if is_last { 0 } else { tcp::FIN | tcp::PSH };
            let not_first = if n == 0 { 0 } else { tcp::CWR };
            let flags = header.flags() & !(not_last | not_first);
            let fixed = packet.first_chunk_mut().expect("a header");
            tcp::emit_sequence_and_flags(fixed, sequence, flags);
            let sum = pseudo.with(packet).finish();
            tcp::emit_checksum(packet.first_chunk_mut().expect("a header"), sum);
        }
    }
}

/// Where the transport header of an IP packet starts in `bytes`, and where the packet ends.
fn transport_place(bytes: &[u8], packet: &IpPacket) -> Option<(usize, usize)> {
    if packet.src.is_ipv4() {
        let header = ipv4::Header::new(bytes).ok()?;
        return Some((header.header_len(), usize::from(header.total_len())));
    }
    let packet = ipv6::Packet::new(bytes).ok()?;
    let mut extensions = Extensions::new(packet.header().next_header(), packet.payload());
    extensions.walk().ok()?;
    let end = ipv6::HEADER_LEN + packet.payload().len();
    Some((end - extensions.rest().len(), end))
}

/// The sum of the pseudo-header that UDP and TCP are summed with, but for their length (RFC 9293,
/// section 3.1; RFC 8200, section 8.1).
fn pseudo(packet: &IpPacket) -> Checksum {
    let sum = Checksum::new().with(&u16::from(packet.protocol).to_be_bytes());
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum.with(&src.octets()).with(&dst.octets()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => sum.with(&src.octets()).with(&dst.octets()),
        _ => unreachable!("both addresses of a packet are of one family"),
    }
}
