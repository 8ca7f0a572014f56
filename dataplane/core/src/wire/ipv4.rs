//! IPv4 (RFC 791).
//!
//! ```text
//! at  len  field
//!  0    1  version, 4 (4 bits), header length in units of 4 bytes, 5..=15 (4 bits)
//!  1    1  type of service
//!  2    2  total length, in bytes, header included
//!  4    2  identification
//!  6    2  reserved, don't fragment, more fragments (1 bit each), fragment offset in units of
//!          8 bytes (13 bits)
//!  8    1  time to live
//!  9    1  protocol
//! 10    2  header checksum
//! 12    4  source
//! 16    4  destination
//! 20    -  options, up to 40 bytes
//! ```

use std::net::Ipv4Addr;

use super::ParseError;
use super::checksum::Checksum;

/// Length of a header without options, in bytes.
pub const HEADER_LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

mod field {
    use crate::wire::field::Field;

    pub const VERSION_AND_LEN: Field<0, 1> = Field;
    pub const TYPE_OF_SERVICE: Field<1, 1> = Field;
    pub const TOTAL_LEN: Field<2, 2> = Field;
    pub const ID: Field<4, 2> = Field;
    pub const FRAGMENT: Field<6, 2> = Field;
    pub const TIME_TO_LIVE: Field<8, 1> = Field;
    pub const PROTOCOL: Field<9, 1> = Field;
    pub const CHECKSUM: Field<10, 2> = Field;
    pub const SRC: Field<12, 4> = Field;
    pub const DST: Field<16, 4> = Field;
}

/// A header without its options. Its lengths may contradict what follows: the header that an ICMP
/// error quotes belongs to a packet that was cut.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Header<'a> {
    /// The header at the start of `bytes`.
    ///
    /// # Errors
    /// [`ParseError::Ipv4Truncated`] below 20 bytes; [`ParseError::Ipv4Invalid`] with another
    /// version or a header length below 20.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = bytes.first_chunk().ok_or(ParseError::Ipv4Truncated)?;
        // Version 4 and a length of 5..=15 at once.
        let is_valid = matches!(field::VERSION_AND_LEN.u8(header), 0x45..=0x4f);
        if is_valid { Ok(Self(header)) } else { Err(ParseError::Ipv4Invalid) }
    }

    /// Length of the header with its options: 20..=60 bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(field::VERSION_AND_LEN.u8(self.0) & 0x0f) * 4
    }

    /// Type of service: the DSCP (6 bits, RFC 2474) and ECN (2 bits, RFC 3168).
    #[inline]
    pub fn type_of_service(&self) -> u8 {
        field::TYPE_OF_SERVICE.u8(self.0)
    }

    /// Length of the packet, in bytes.
    #[inline]
    pub fn total_len(&self) -> u16 {
        field::TOTAL_LEN.u16(self.0)
    }

    /// Identification: which fragments belong together.
    #[inline]
    pub fn id(&self) -> u16 {
        field::ID.u16(self.0)
    }

    /// Whether nobody on the way may fragment the packet.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        field::FRAGMENT.u16(self.0) & DONT_FRAGMENT != 0
    }

    /// Whether the packet is a piece of a datagram.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        field::FRAGMENT.u16(self.0) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Whether further fragments follow this one.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        field::FRAGMENT.u16(self.0) & MORE_FRAGMENTS != 0
    }

    /// Where the packet's data lies in its datagram's data, in bytes: a multiple of 8.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        usize::from(field::FRAGMENT.u16(self.0) & OFFSET_MASK) * 8
    }

    /// What follows the header.
    #[inline]
    pub fn protocol(&self) -> u8 {
        field::PROTOCOL.u8(self.0)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        field::SRC.read(self.0).into()
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        field::DST.read(self.0).into()
    }
}

/// What [`emit_header`] writes that is not the same in all headers.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// As of [`Header::type_of_service`].
    pub type_of_service: u8,
    /// Length of the packet, header included, in bytes.
    pub total_len: u16,
    /// Time to live.
    pub time_to_live: u8,
    /// What follows the header.
    pub protocol: u8,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

/// Writes a header without options, of a packet that nobody may fragment: its identification is 0
/// then, which it may be (RFC 6864, section 4.1).
pub fn emit_header(header: &mut [u8; HEADER_LEN], fields: Fields) {
    field::VERSION_AND_LEN.write(header, [0x45]);
    field::TYPE_OF_SERVICE.write(header, [fields.type_of_service]);
    field::TOTAL_LEN.write(header, fields.total_len.to_be_bytes());
    field::ID.write(header, [0; 2]);
    field::FRAGMENT.write(header, DONT_FRAGMENT.to_be_bytes());
    field::TIME_TO_LIVE.write(header, [fields.time_to_live]);
    field::PROTOCOL.write(header, [fields.protocol]);
    field::CHECKSUM.write(header, [0; 2]);
    field::SRC.write(header, fields.src.octets());
    field::DST.write(header, fields.dst.octets());
    field::CHECKSUM.write(header, Checksum::new().with(header).finish().to_be_bytes());
}

/// Gives a header, its options included, another length and identification, and the checksum that
/// then is right.
///
/// # Panics
/// If `header` is shorter than a header without options.
#[inline]
pub fn emit_len_and_id(header: &mut [u8], total_len: u16, id: u16) {
    let fixed: &mut [u8; HEADER_LEN] = header.first_chunk_mut().expect("a whole header");
    field::TOTAL_LEN.write(fixed, total_len.to_be_bytes());
    field::ID.write(fixed, id.to_be_bytes());
    field::CHECKSUM.write(fixed, [0; 2]);
    let sum = Checksum::new().with(header).finish();
    let fixed = header.first_chunk_mut().expect("a whole header");
    field::CHECKSUM.write::<HEADER_LEN>(fixed, sum.to_be_bytes());
}

/// A whole packet with an intact header.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: Header<'a>,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`; Ethernet padding may follow it.
    ///
    /// # Errors
    /// Those of [`Header::new`]; [`ParseError::Ipv4Invalid`] if the total length is below that of
    /// the header; [`ParseError::Ipv4Truncated`] if it is above that of `bytes`;
    /// [`ParseError::Ipv4Checksum`] if the header is not intact.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = Header::new(bytes)?;
        let (header_len, total_len) = (header.header_len(), usize::from(header.total_len()));
        if total_len < header_len {
            return Err(ParseError::Ipv4Invalid);
        }
        let packet = bytes.get(..total_len).ok_or(ParseError::Ipv4Truncated)?;
        let (with_options, payload) = packet.split_at(header_len);
        // The fixed part alone first: a sum over an array is unrolled.
        let mut sum = Checksum::new().with(header.0);
        if header_len > HEADER_LEN {
            sum = sum.with(&with_options[HEADER_LEN..]);
        }
        if sum.is_intact() { Ok(Self { header, payload }) } else { Err(ParseError::Ipv4Checksum) }
    }

    /// The packet's header.
    #[inline]
    pub fn header(&self) -> Header<'a> {
        self.header
    }

    /// What the packet carries, without padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: [u8; 26] = [
        0x46, 0x00, 0x00, 0x1a, // version 4, header 24 bytes, total 26
        0xab, 0xcd, 0x20, 0x02, // identification, more fragments, offset 16
        0x40, 0x11, 0xdf, 0x8c, // TTL 64, UDP, checksum
        0x0a, 0x40, 0x00, 0x01, // 10.64.0.1
        0xc0, 0x00, 0x02, 0x35, // 192.0.2.53
        0x01, 0x01, 0x01, 0x00, // options: NOP, NOP, NOP, end
        0xde, 0xad, // data
    ];

    fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
        packet[10..12].fill(0);
        let header_len = usize::from(packet[0] & 0x0f) * 4;
        let checksum = Checksum::new().with(&packet[..header_len]).finish();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    #[test]
    fn fields_are_where_they_belong() {
        let padded = [&PACKET[..], &[0; 20]].concat();
        let packet = Packet::new(&padded).unwrap();
        let header = packet.header();
        assert_eq!((header.header_len(), header.total_len()), (24, 26));
        assert_eq!((header.id(), header.fragment_offset()), (0xabcd, 16));
        assert!(header.is_fragment() && header.more_fragments());
        assert_eq!(header.protocol(), 17);
        assert_eq!(header.src(), Ipv4Addr::new(10, 64, 0, 1));
        assert_eq!(header.dst(), Ipv4Addr::new(192, 0, 2, 53));
        assert_eq!(packet.payload(), [0xde, 0xad]);
    }

    #[test]
    fn a_written_header_is_read_as_it_was_meant() {
        let mut bytes = [0xff; HEADER_LEN + 2];
        let header = bytes.first_chunk_mut().unwrap();
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 12));
        let fields = Fields {
            type_of_service: 0xb8,
            total_len: 22,
            time_to_live: 64,
            protocol: 17,
            src,
            dst,
        };
        emit_header(header, fields);
        let packet = Packet::new(&bytes).unwrap();
        let header = packet.header();
        assert_eq!((header.header_len(), header.total_len(), header.id()), (20, 22, 0));
        assert_eq!((header.type_of_service(), header.protocol()), (0xb8, 17));
        assert!(header.dont_fragment() && !header.is_fragment());
        assert_eq!((header.src(), header.dst()), (src, dst));
        assert_eq!(bytes[8], 64);
    }

    #[test]
    fn another_length_and_identification_leave_the_rest_as_it_is() {
        let mut bytes = PACKET;
        emit_len_and_id(&mut bytes[..24], 25, 0x1234);
        let packet = Packet::new(&bytes).unwrap();
        assert_eq!((packet.header().total_len(), packet.header().id()), (25, 0x1234));
        emit_len_and_id(&mut bytes[..24], 26, 0xabcd);
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn a_lone_dont_fragment_bit_makes_no_fragment() {
        let mut bytes = PACKET.to_vec();
        bytes[6..8].copy_from_slice(&[0x40, 0x00]);
        assert!(!Packet::new(&with_checksum(bytes)).unwrap().header().is_fragment());
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let with = |at: usize, value: u8| {
            let mut bytes = PACKET.to_vec();
            bytes[at] = value;
            Packet::new(&with_checksum(bytes)).map(|_| ())
        };
        assert_eq!(with(0, 0x46), Ok(()));
        assert_eq!(with(0, 0x44), Err(ParseError::Ipv4Invalid));
        assert_eq!(with(0, 0x66), Err(ParseError::Ipv4Invalid));
        assert_eq!(with(3, 23), Err(ParseError::Ipv4Invalid));
        assert_eq!(with(3, 24), Ok(()));
        assert_eq!(with(3, 27), Err(ParseError::Ipv4Truncated));
        assert_eq!(Packet::new(&PACKET[..19]).unwrap_err(), ParseError::Ipv4Truncated);
        assert_eq!(Packet::new(&PACKET[..25]).unwrap_err(), ParseError::Ipv4Truncated);
    }

    #[test]
    fn one_flipped_bit_anywhere_in_the_header_is_found() {
        for bit in 0..24 * 8 {
            let mut bytes = PACKET;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Packet::new(&bytes).is_err(), "bit {bit}");
        }
    }
}
