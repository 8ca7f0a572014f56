//! IPv6 and its extension headers (RFC 8200, RFC 4302).
//!
//! ```text
//! at  len  field
//!  0    4  version, 6 (4 bits), traffic class (8 bits), flow label (20 bits)
//!  4    2  payload length, in bytes, extension headers included
//!  6    1  next header
//!  7    1  hop limit
//!  8   16  source
//! 24   16  destination
//!
//! Hop-by-hop options, routing header, destination options, authentication header:
//! at  len  field
//!  0    1  next header
//!  1    1  length: (n + 1) * 8 bytes, of the authentication header (n + 2) * 4 bytes
//!  2    -  contents
//!
//! Fragment header:
//! at  len  field
//!  0    1  next header
//!  1    1  reserved
//!  2    2  fragment offset in units of 8 bytes (13 bits), reserved (2 bits), more fragments (1 bit)
//!  4    4  identification
//! ```

use std::net::Ipv6Addr;

use super::{ParseError, protocol};

/// Length of a header without extensions, in bytes.
pub const HEADER_LEN: usize = 40;
/// How many extension headers one packet may have. RFC 8200, section 4.1, gives an order with
/// seven, of which two are for protocols that are not skipped here; longer chains serve nobody
/// but those who want to keep a receiver busy.
pub const EXTENSIONS_MAX: usize = 8;

/// Length of a fragment header, in bytes.
pub const FRAGMENT_LEN: usize = 8;
const MORE_FRAGMENTS: u16 = 0x0001;
const OFFSET_MASK: u16 = 0xfff8;

mod field {
    use crate::wire::field::Field;

    pub const VERSION: Field<0, 1> = Field;
    pub const VERSION_CLASS_AND_LABEL: Field<0, 4> = Field;
    pub const PAYLOAD_LEN: Field<4, 2> = Field;
    pub const NEXT_HEADER: Field<6, 1> = Field;
    pub const HOP_LIMIT: Field<7, 1> = Field;
    pub const SRC: Field<8, 16> = Field;
    pub const DST: Field<24, 16> = Field;

    pub mod extension {
        use crate::wire::field::Field;

        pub const NEXT_HEADER: Field<0, 1> = Field;
        pub const LEN: Field<1, 1> = Field;
    }

    pub mod fragment {
        use crate::wire::field::Field;

        pub const OFFSET_AND_FLAG: Field<2, 2> = Field;
        pub const ID: Field<4, 4> = Field;
    }
}

/// A header without its extensions. Its length may contradict what follows: the header that an
/// ICMPv6 error quotes belongs to a packet that was cut.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Header<'a> {
    /// The header at the start of `bytes`.
    ///
    /// # Errors
    /// [`ParseError::Ipv6Truncated`] below 40 bytes; [`ParseError::Ipv6Invalid`] with another
    /// version.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = bytes.first_chunk().ok_or(ParseError::Ipv6Truncated)?;
        let is_valid = field::VERSION.u8(header) >> 4 == 6;
        if is_valid { Ok(Self(header)) } else { Err(ParseError::Ipv6Invalid) }
    }

    /// Traffic class: the DSCP (6 bits, RFC 2474) and ECN (2 bits, RFC 3168).
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        let [first, second, ..] = field::VERSION_CLASS_AND_LABEL.read(self.0);
        first << 4 | second >> 4
    }

    /// Length of what follows the header, in bytes. A jumbogram's is 0 (RFC 2675); a frame does
    /// not hold one.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        field::PAYLOAD_LEN.u16(self.0)
    }

    /// What follows the header.
    #[inline]
    pub fn next_header(&self) -> u8 {
        field::NEXT_HEADER.u8(self.0)
    }

    /// Hop limit: 255 in a packet that no router has forwarded, if its sender set it so.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        field::HOP_LIMIT.u8(self.0)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        field::SRC.read(self.0).into()
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        field::DST.read(self.0).into()
    }
}

/// Writes a header of traffic class and flow label 0.
pub fn emit_header(
    header: &mut [u8; HEADER_LEN],
    payload_len: u16,
    next_header: u8,
    hop_limit: u8,
    src: Ipv6Addr,
    dst: Ipv6Addr,
) {
    field::VERSION_CLASS_AND_LABEL.write(header, [0x60, 0, 0, 0]);
    field::PAYLOAD_LEN.write(header, payload_len.to_be_bytes());
    field::NEXT_HEADER.write(header, [next_header]);
    field::HOP_LIMIT.write(header, [hop_limit]);
    field::SRC.write(header, src.octets());
    field::DST.write(header, dst.octets());
}

/// Sets the payload length of a header.
#[inline]
pub fn emit_payload_len(header: &mut [u8; HEADER_LEN], payload_len: u16) {
    field::PAYLOAD_LEN.write(header, payload_len.to_be_bytes());
}

/// Sets the traffic class of a header and its flow label, of which the lowest 20 bits count.
pub fn emit_class_and_label(header: &mut [u8; HEADER_LEN], traffic_class: u8, flow_label: u32) {
    let label = flow_label & 0x000f_ffff;
    let value = 6 << 28 | u32::from(traffic_class) << 20 | label;
    field::VERSION_CLASS_AND_LABEL.write(header, value.to_be_bytes());
}

/// A whole packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: Header<'a>,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`; Ethernet padding may follow it.
    ///
    /// # Errors
    /// Those of [`Header::new`]; [`ParseError::Ipv6Truncated`] if the payload length is above what
    /// is there.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = Header::new(bytes)?;
        let end = HEADER_LEN + usize::from(header.payload_len());
        let payload = bytes.get(HEADER_LEN..end).ok_or(ParseError::Ipv6Truncated)?;
        Ok(Self { header, payload })
    }

    /// The packet's header.
    #[inline]
    pub fn header(&self) -> Header<'a> {
        self.header
    }

    /// What the packet carries, extension headers first, without padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A walk over the extension headers that follow a header.
///
/// Walked to its end, it stands at the upper layer: [`next_header`](Self::next_header) names the
/// protocol of [`rest`](Self::rest). What is not skipped is an upper layer here: mobility, HIP and
/// shim6 headers, which no service behind a VIP speaks, and ESP, which cannot be looked into.
#[derive(Clone, Copy, Debug)]
pub struct Extensions<'a> {
    next_header: u8,
    rest: &'a [u8],
    passed: usize,
    fragment: Option<FragmentHeader>,
}

/// A fragment header, and where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Identification: which fragments belong together.
    pub id: u32,
    /// Where the packet's data lies in its datagram's data, in bytes: a multiple of 8.
    pub offset: u16,
    /// Whether further fragments follow this one.
    pub more: bool,
    /// How many bytes of data follow the fragment header.
    pub data_len: usize,
}

impl<'a> Extensions<'a> {
    /// A walk over `bytes`, which starts with a header of the kind `next_header`.
    #[inline]
    pub fn new(next_header: u8, bytes: &'a [u8]) -> Self {
        Self { next_header, rest: bytes, passed: 0, fragment: None }
    }

    /// Walks to the upper layer, or to the data of a later fragment.
    ///
    /// # Errors
    /// [`ParseError::Ipv6Extension`] if an extension header is cut short, if hop-by-hop options
    /// are not the first, if there are two fragment headers, or more than [`EXTENSIONS_MAX`]
    /// headers. The walk then stands before the offending header.
    #[inline]
    pub fn walk(&mut self) -> Result<(), ParseError> {
        while !self.is_at_end() {
            self.step().ok_or(ParseError::Ipv6Extension)?;
        }
        Ok(())
    }

    /// The kind of header that the walk stands before.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.next_header
    }

    /// That header and all behind it.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The fragment header that was passed, if there was one.
    #[inline]
    pub fn fragment(&self) -> Option<FragmentHeader> {
        self.fragment
    }

    /// Whether the walk stands in a fragment that is not its datagram's first: what follows is
    /// data from the middle of the datagram, whatever the next header says.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }

    #[inline]
    fn is_at_end(&self) -> bool {
        let is_extension = matches!(
            self.next_header,
            protocol::HOP_BY_HOP
                | protocol::ROUTING
                | protocol::FRAGMENT
                | protocol::AUTHENTICATION
                | protocol::DESTINATION_OPTIONS
        );
        !is_extension || self.is_later_fragment()
    }

    /// Passes one extension header; `None`, and no step, if it cannot be passed.
    fn step(&mut self) -> Option<()> {
        let header: &[u8; 8] = self.rest.first_chunk()?;
        let units = usize::from(field::extension::LEN.u8(header));
        let len = match self.next_header {
            protocol::FRAGMENT => FRAGMENT_LEN,
            protocol::AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        let rest = self.rest.get(len..)?;
        let is_in_place = match self.next_header {
            protocol::HOP_BY_HOP => self.passed == 0,
            protocol::FRAGMENT => self.fragment.is_none(),
            _ => true,
        };
        if !is_in_place || self.passed == EXTENSIONS_MAX {
            return None;
        }
        if self.next_header == protocol::FRAGMENT {
            let offset_and_flag = field::fragment::OFFSET_AND_FLAG.u16(header);
            self.fragment = Some(FragmentHeader {
                id: field::fragment::ID.u32(header),
                offset: offset_and_flag & OFFSET_MASK,
                more: offset_and_flag & MORE_FRAGMENTS != 0,
                data_len: rest.len(),
            });
        }
        self.next_header = field::extension::NEXT_HEADER.u8(header);
        self.rest = rest;
        self.passed += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING, UDP};

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn packet(payload_len: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, payload_len, UDP, 255];
        bytes.extend(address("fd64::1").octets());
        bytes.extend(address("2001:db8:53::53").octets());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn fields_are_where_they_belong() {
        let bytes = packet(3, &[1, 2, 3, 0, 0, 0]);
        let packet = Packet::new(&bytes).unwrap();
        let header = packet.header();
        assert_eq!((header.payload_len(), header.next_header()), (3, UDP));
        assert_eq!(header.hop_limit(), 255);
        assert_eq!(header.src().to_string(), "fd64::1");
        assert_eq!(header.dst().to_string(), "2001:db8:53::53");
        assert_eq!(packet.payload(), [1, 2, 3]);
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let expected = packet(3, &[]);
        let (src, dst) = (address("fd64::1"), address("2001:db8:53::53"));
        let mut header = [0xff; HEADER_LEN];
        emit_header(&mut header, 3, UDP, 255, src, dst);
        assert_eq!(header[..], expected);
    }

    #[test]
    fn a_cut_packet_or_another_version_is_refused() {
        let bytes = packet(3, &[1, 2]);
        assert_eq!(Packet::new(&bytes).unwrap_err(), ParseError::Ipv6Truncated);
        assert_eq!(Header::new(&bytes[..39]).unwrap_err(), ParseError::Ipv6Truncated);
        let mut bytes = packet(0, &[]);
        bytes[0] = 0x40;
        assert_eq!(Packet::new(&bytes).unwrap_err(), ParseError::Ipv6Invalid);
    }

    /// Extension headers of 8 bytes, each naming the next; the last names UDP.
    fn chain(kinds: &[u8]) -> Vec<u8> {
        let next = |at: usize| kinds.get(at + 1).copied().unwrap_or(UDP);
        (0..kinds.len()).flat_map(|at| [next(at), 0, 0, 0, 0, 0, 0, 7]).collect()
    }

    fn walked(kinds: &[u8], bytes: &[u8]) -> Result<(u8, usize), ParseError> {
        let mut extensions = Extensions::new(kinds.first().copied().unwrap_or(UDP), bytes);
        extensions.walk()?;
        Ok((extensions.next_header(), extensions.rest().len()))
    }

    #[test]
    fn every_extension_is_passed_wherever_it_may_stand() {
        for kinds in [
            &[][..],
            &[HOP_BY_HOP],
            &[ROUTING],
            &[FRAGMENT],
            &[AUTHENTICATION],
            &[DESTINATION_OPTIONS],
            &[
                HOP_BY_HOP,
                DESTINATION_OPTIONS,
                ROUTING,
                FRAGMENT,
                AUTHENTICATION,
                DESTINATION_OPTIONS,
            ],
            &[DESTINATION_OPTIONS; EXTENSIONS_MAX],
        ] {
            let mut bytes = chain(kinds);
            assert_eq!(walked(kinds, &bytes), Ok((UDP, 0)), "{kinds:?}");
            bytes.push(1);
            assert_eq!(walked(kinds, &bytes), Ok((UDP, 1)), "{kinds:?}");
        }
    }

    #[test]
    fn a_chain_that_makes_no_sense_is_refused() {
        for kinds in [
            &[ROUTING, HOP_BY_HOP][..],
            &[HOP_BY_HOP, HOP_BY_HOP],
            &[FRAGMENT, FRAGMENT],
            &[FRAGMENT, DESTINATION_OPTIONS, FRAGMENT],
            &[DESTINATION_OPTIONS; EXTENSIONS_MAX + 1],
        ] {
            let refused = walked(kinds, &chain(kinds));
            assert_eq!(refused, Err(ParseError::Ipv6Extension), "{kinds:?}");
        }
    }

    #[test]
    fn an_extension_cut_anywhere_is_refused() {
        let kinds = [ROUTING, FRAGMENT, AUTHENTICATION];
        let bytes = chain(&kinds);
        for len in 0..bytes.len() {
            assert_eq!(walked(&kinds, &bytes[..len]), Err(ParseError::Ipv6Extension), "{len}");
        }
    }

    #[test]
    fn lengths_are_counted_in_the_headers_own_unit() {
        let with_len = |kind: u8, units: u8| {
            let mut bytes = [0; 64];
            (bytes[0], bytes[1]) = (UDP, units);
            walked(&[kind], &bytes).map(|(_, rest)| 64 - rest)
        };
        assert_eq!(with_len(DESTINATION_OPTIONS, 3), Ok(32));
        assert_eq!(with_len(AUTHENTICATION, 3), Ok(20));
        assert_eq!(with_len(FRAGMENT, 3), Ok(8));
        assert_eq!(with_len(ROUTING, 8), Err(ParseError::Ipv6Extension));
    }

    #[test]
    fn the_data_of_a_later_fragment_is_not_walked() {
        let bytes = [DESTINATION_OPTIONS, 0, 0x05, 0xa9, 0, 0, 0, 9, 0xde, 0xad];
        let mut extensions = Extensions::new(FRAGMENT, &bytes);
        extensions.walk().unwrap();
        assert!(extensions.is_later_fragment());
        assert_eq!(extensions.next_header(), DESTINATION_OPTIONS);
        assert_eq!(extensions.rest(), [0xde, 0xad]);
        let fragment = FragmentHeader { id: 9, offset: 1448, more: true, data_len: 2 };
        assert_eq!(extensions.fragment(), Some(fragment));
    }
}
