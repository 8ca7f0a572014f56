//! TCP (RFC 9293).
//!
//! ```text
//! at  len  field
//!  0    2  source port
//!  2    2  destination port
//!  4    4  sequence number
//!  8    4  acknowledgement number
//! 12    1  data offset in units of 4 bytes, 5..=15 (4 bits), reserved (4 bits)
//! 13    1  flags: CWR ECE URG ACK PSH RST SYN FIN
//! 14    2  window
//! 16    2  checksum
//! 18    2  urgent pointer
//! 20    -  options, up to 40 bytes
//! ```

use super::ParseError;

/// Length of a header without options, in bytes.
pub const HEADER_LEN: usize = 20;

/// Flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// Flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Flag: reset the connection.
pub const RST: u8 = 0x04;
/// Flag: hand all data up to here to the reader now.
pub const PSH: u8 = 0x08;
/// Flag: the acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// Flag: the sender has slowed down, since the network was congested (RFC 3168, section 6.1.2).
pub const CWR: u8 = 0x80;

mod field {
    use crate::wire::field::Field;

    pub const SRC_PORT: Field<0, 2> = Field;
    pub const DST_PORT: Field<2, 2> = Field;
    pub const SEQUENCE: Field<4, 4> = Field;
    pub const DATA_OFFSET: Field<12, 1> = Field;
    pub const FLAGS: Field<13, 1> = Field;
    pub const CHECKSUM: Field<16, 2> = Field;
}

/// A header without its options.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Header<'a> {
    /// The header at the start of a whole segment, or of its first fragment.
    ///
    /// # Errors
    /// [`ParseError::TcpInvalid`] below 20 bytes, or with a data offset below that.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = Self(bytes.first_chunk().ok_or(ParseError::TcpInvalid)?);
        if header.header_len() >= HEADER_LEN { Ok(header) } else { Err(ParseError::TcpInvalid) }
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        field::SRC_PORT.u16(self.0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        field::DST_PORT.u16(self.0)
    }

    /// Sequence number of the first byte of data, or of the SYN.
    #[inline]
    pub fn sequence(&self) -> u32 {
        field::SEQUENCE.u32(self.0)
    }

    /// Length of the header with its options: 20..=60 bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(field::DATA_OFFSET.u8(self.0) >> 4) * 4
    }

    /// All flags, as they stand on the wire: [`FIN`], [`SYN`], [`RST`], [`ACK`] and others.
    #[inline]
    pub fn flags(&self) -> u8 {
        field::FLAGS.u8(self.0)
    }
}

/// Gives a header another sequence number and other flags, and 0 for a checksum.
#[inline]
pub fn emit_sequence_and_flags(header: &mut [u8; HEADER_LEN], sequence: u32, flags: u8) {
    field::SEQUENCE.write(header, sequence.to_be_bytes());
    field::FLAGS.write(header, [flags]);
    field::CHECKSUM.write(header, [0; 2]);
}

/// Sets the checksum of a header.
#[inline]
pub fn emit_checksum(header: &mut [u8; HEADER_LEN], checksum: u16) {
    field::CHECKSUM.write(header, checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN_SEGMENT: [u8; 20] = [
        0xd4, 0x31, 0x00, 0x35, // ports
        0, 0, 0, 1, // sequence number
        0, 0, 0, 0, // acknowledgement number
        0x60, 0xc2, // header 24 bytes; CWR, ECE, SYN
        0xff, 0xff, 0xbe, 0xef, 0, 0, // window, checksum, urgent pointer
    ];

    #[test]
    fn fields_are_where_they_belong() {
        let header = Header::new(&SYN_SEGMENT).unwrap();
        assert_eq!((header.src_port(), header.dst_port()), (54_321, 53));
        assert_eq!((header.header_len(), header.sequence()), (24, 1));
        assert_eq!(header.flags() & (SYN | ACK | FIN | RST), SYN);
    }

    #[test]
    fn what_is_written_is_all_that_changes() {
        let mut bytes = SYN_SEGMENT;
        emit_sequence_and_flags(&mut bytes, 0x0102_0304, ACK | PSH);
        assert_eq!(bytes[..4], SYN_SEGMENT[..4]);
        assert_eq!(bytes[4..8], [1, 2, 3, 4]);
        assert_eq!(bytes[8..13], SYN_SEGMENT[8..13]);
        assert_eq!(bytes[13..], [0x18, 0xff, 0xff, 0, 0, 0, 0]);
        emit_checksum(&mut bytes, 0xabcd);
        assert_eq!(bytes[13..], [0x18, 0xff, 0xff, 0xab, 0xcd, 0, 0]);
    }

    #[test]
    fn a_header_length_below_20_is_refused() {
        assert_eq!(Header::new(&SYN_SEGMENT[..19]).unwrap_err(), ParseError::TcpInvalid);
        let mut bytes = SYN_SEGMENT;
        bytes[12] = 0x4f;
        assert_eq!(Header::new(&bytes).unwrap_err(), ParseError::TcpInvalid);
        bytes[12] = 0x50;
        assert_eq!(Header::new(&bytes).unwrap().header_len(), 20);
    }
}
