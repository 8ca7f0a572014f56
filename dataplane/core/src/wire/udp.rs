//! UDP (RFC 768).
//!
//! ```text
//! at  len  field
//!  0    2  source port
//!  2    2  destination port
//!  4    2  length, in bytes, header included
//!  6    2  checksum
//! ```

use super::ParseError;

/// Length of a header, in bytes.
pub const HEADER_LEN: usize = 8;

mod field {
    use crate::wire::field::Field;

    pub const SRC_PORT: Field<0, 2> = Field;
    pub const DST_PORT: Field<2, 2> = Field;
    pub const LEN: Field<4, 2> = Field;
    pub const CHECKSUM: Field<6, 2> = Field;
}

/// A header.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Header<'a> {
    /// The header at the start of a whole datagram, or of its first fragment.
    ///
    /// # Errors
    /// [`ParseError::UdpInvalid`] below 8 bytes, or with a length field below 8. The 0 of a
    /// jumbogram (RFC 2675, section 4) is among these: a frame does not hold one.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = bytes.first_chunk().ok_or(ParseError::UdpInvalid)?;
        let is_valid = usize::from(field::LEN.u16(header)) >= HEADER_LEN;
        if is_valid { Ok(Self(header)) } else { Err(ParseError::UdpInvalid) }
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

    /// Whether the datagram has a checksum: 0 stands for none.
    #[inline]
    pub fn has_checksum(&self) -> bool {
        field::CHECKSUM.u16(self.0) != 0
    }

    /// Length of the datagram, header included: at least 8 bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a datagram has at least its header")]
    pub fn len(&self) -> u16 {
        field::LEN.u16(self.0)
    }
}

/// Writes a header without a checksum: a datagram of `len` bytes, header included. Over IPv6 that is
/// for tunnels alone (RFC 6935, RFC 6936).
#[inline]
pub fn emit_header(header: &mut [u8; HEADER_LEN], src_port: u16, dst_port: u16, len: u16) {
    field::SRC_PORT.write(header, src_port.to_be_bytes());
    field::DST_PORT.write(header, dst_port.to_be_bytes());
    field::LEN.write(header, len.to_be_bytes());
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

    #[test]
    fn fields_are_where_they_belong() {
        let bytes = [0xd4, 0x31, 0x00, 0x35, 0x00, 0x08, 0xbe, 0xef];
        let header = Header::new(&bytes).unwrap();
        assert_eq!((header.src_port(), header.dst_port(), header.len()), (54_321, 53, 8));
        assert!(header.has_checksum());
        let mut written = [0xff; HEADER_LEN];
        emit_header(&mut written, 54_321, 53, 8);
        assert_eq!(written[..6], bytes[..6]);
        assert!(!Header::new(&written).unwrap().has_checksum());
        emit_checksum(&mut written, 0xbeef);
        assert_eq!(written, bytes);
    }

    #[test]
    fn a_length_below_the_headers_is_refused() {
        let of_len = |len: u8| Header::new(&[0, 1, 0, 2, 0, len, 0, 0]).map(|_| ());
        assert_eq!(of_len(8), Ok(()));
        assert_eq!(of_len(7), Err(ParseError::UdpInvalid));
        assert_eq!(of_len(0), Err(ParseError::UdpInvalid));
        assert_eq!(Header::new(&[0, 1, 0, 2, 0, 8, 0]).unwrap_err(), ParseError::UdpInvalid);
    }
}
