//! ICMP (RFC 792).
//!
//! ```text
//! at  len  field
//!  0    1  type
//!  1    1  code
//!  2    2  checksum
//!  4    4  depends on the type
//!  8    -  an error: the IP header, options included, and at least the first 8 bytes of the
//!          data of the packet that caused it
//! ```

use super::ParseError;
use super::checksum::Checksum;

/// Length of a header, in bytes.
pub const HEADER_LEN: usize = 8;

/// Type of an error: the destination cannot be reached.
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Code of that error: the packet must not be fragmented, and does not fit.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Type of a request to answer.
pub const ECHO_REQUEST: u8 = 8;
/// Type of an error: the time to live, or for reassembly, ran out.
pub const TIME_EXCEEDED: u8 = 11;
/// Type of an error: something is wrong with the header.
pub const PARAMETER_PROBLEM: u8 = 12;

mod field {
    use crate::wire::field::Field;

    pub const TYPE: Field<0, 1> = Field;
    pub const CODE: Field<1, 1> = Field;
    pub const CHECKSUM: Field<2, 2> = Field;
    /// Of "fragmentation needed": the next hop's MTU (RFC 1191, section 4).
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

    /// Whether the message tells of an error in a packet, and quotes it in its body.
    ///
    /// Two types that quote a packet too are no errors here: the source quench (4), which every
    /// host must ignore (RFC 6633, section 3), and the redirect (5), which is about a route.
    #[inline]
    pub fn is_error(&self) -> bool {
        matches!(self.message_type(), DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    /// What follows the header.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Writes the header of a "fragmentation needed" error (RFC 792, RFC 1191): packets of `mtu` bytes
/// would fit. `quote` is all that stands behind the header.
pub fn emit_fragmentation_needed(header: &mut [u8; HEADER_LEN], mtu: u16, quote: &[u8]) {
    field::TYPE.write(header, [DESTINATION_UNREACHABLE]);
    field::CODE.write(header, [FRAGMENTATION_NEEDED]);
    field::CHECKSUM.write(header, [0; 2]);
    field::MTU.write(header, u32::from(mtu).to_be_bytes());
    let checksum = Checksum::new().with(header).with(quote).finish();
    field::CHECKSUM.write(header, checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_the_three_types_that_concern_a_flow() {
        let errors: Vec<u8> = (0..=u8::MAX)
            .filter(|&of_type| Message::new(&[of_type, 0, 0, 0, 0, 0, 0, 0]).unwrap().is_error())
            .collect();
        assert_eq!(errors, [3, 11, 12]);
    }

    #[test]
    fn fragmentation_needed_names_the_mtu_and_is_summed() {
        let mut message = [0xff; HEADER_LEN + 5];
        let (header, quote) = message.split_first_chunk_mut().unwrap();
        emit_fragmentation_needed(header, 1464, quote);
        assert_eq!(message[..2], [3, 4]);
        assert_eq!(message[4..8], [0, 0, 0x05, 0xb8]);
        assert!(Checksum::new().with(&message).is_intact());
    }

    #[test]
    fn the_body_follows_eight_bytes() {
        let message = Message::new(&[8, 0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        assert_eq!((message.message_type(), message.body()), (ECHO_REQUEST, &[7][..]));
        assert_eq!(Message::new(&[8; 7]).unwrap_err(), ParseError::IcmpTruncated);
    }
}
