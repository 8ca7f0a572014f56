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

use super::ParseError;

/// Length of a header, in bytes: the 4 of all messages and the 4 that each message defined so far
/// has behind them.
pub const HEADER_LEN: usize = 8;

/// Type of a request to answer.
pub const ECHO_REQUEST: u8 = 128;

mod field {
    use crate::wire::field::Field;

    pub const TYPE: Field<0, 1> = Field;
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
    fn the_body_follows_eight_bytes() {
        let message = Message::new(&[128, 0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        assert_eq!((message.message_type(), message.body()), (ECHO_REQUEST, &[7][..]));
        assert_eq!(Message::new(&[128; 7]).unwrap_err(), ParseError::IcmpTruncated);
    }
}
