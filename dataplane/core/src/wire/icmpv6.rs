//! ICMPv6 (RFC 4443).
//!
//! ```text
//! at  len  field
//!  0    1  type: below 128 an error
//!  1    1  code
//!  2    2  checksum, over a pseudo-header too
//!  4    4  depends on the type
//!  8    -  an error: as much of the packet that caused it as fits into 1280 bytes in all
//! ```

use std::net::Ipv6Addr;

use super::checksum::Checksum;
use super::{ParseError, protocol};

/// Length of a header, in bytes: the 4 of all messages and the 4 that each message defined so far
/// has behind them.
pub const HEADER_LEN: usize = 8;

/// Type of an error: the packet does not fit (section 3.2).
pub const PACKET_TOO_BIG: u8 = 2;
/// Type of a request to answer.
pub const ECHO_REQUEST: u8 = 128;

mod field {
    use crate::wire::field::Field;

    pub const TYPE: Field<0, 1> = Field;
    pub const CODE: Field<1, 1> = Field;
    pub const CHECKSUM: Field<2, 2> = Field;
    /// Of "packet too big".
    pub const MTU: Field<4, 4> = Field;
}

/// A message. Its checksum is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    header: &'a [u8; HEADER_LEN],
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`ParseError::IcmpTruncated`] below 8 bytes.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, body) = bytes.split_first_chunk().ok_or(ParseError::IcmpTruncated)?;
        Ok(Self { header, body })
    }

    /// What kind of message it is.
    #[inline]
    pub fn message_type(&self) -> u8 {
        field::TYPE.u8(self.header)
    }

    /// Whether the message tells of an error in a packet, and quotes it in its body. Type 0 is
    /// reserved, and counts as no error; other unassigned types below 128 count (RFC 4443,
    /// section 2.4 (a)).
    #[inline]
    pub fn is_error(&self) -> bool {
        matches!(self.message_type(), 1..=127)
    }

    /// What follows the header.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Writes the header of a "packet too big" error from `src` to `dst`: packets of `mtu` bytes would fit.
/// `quote` is all that stands behind the header.
pub fn emit_packet_too_big(
    header: &mut [u8; HEADER_LEN],
    mtu: u16,
    quote: &[u8],
    src: Ipv6Addr,
    dst: Ipv6Addr,
) {
    field::TYPE.write(header, [PACKET_TOO_BIG]);
    field::CODE.write(header, [0]);
    field::CHECKSUM.write(header, [0; 2]);
    field::MTU.write(header, u32::from(mtu).to_be_bytes());
    let len = (HEADER_LEN + quote.len()) as u32;
    let pseudo_header = Checksum::pseudo_v6(src, dst, len, protocol::ICMPV6);
    let checksum = pseudo_header.with(header).with(quote).finish();
    field::CHECKSUM.write(header, checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_the_types_below_128_except_the_reserved_0() {
        for of_type in 0..=u8::MAX {
            let bytes = [of_type, 0, 0, 0, 0, 0, 0, 0];
            let is_error = Message::new(&bytes).unwrap().is_error();
            assert_eq!(is_error, of_type != 0 && of_type < 128, "type {of_type}");
        }
    }

    #[test]
    fn packet_too_big_names_the_mtu_and_is_summed() {
        let mut message = [0xff; HEADER_LEN + 5];
        let (header, quote) = message.split_first_chunk_mut().unwrap();
        let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        emit_packet_too_big(header, 1444, quote, src, dst);
        assert_eq!(message[..2], [2, 0]);
        assert_eq!(message[4..8], [0, 0, 0x05, 0xa4]);
        let len = message.len() as u32;
        let sum = Checksum::pseudo_v6(src, dst, len, protocol::ICMPV6).with(&message);
        assert!(sum.is_intact());
    }

    #[test]
    fn the_body_follows_eight_bytes() {
        let message = Message::new(&[128, 0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        assert_eq!((message.message_type(), message.body()), (ECHO_REQUEST, &[7][..]));
        assert_eq!(Message::new(&[128; 7]).unwrap_err(), ParseError::IcmpTruncated);
    }
}
