//! Generic UDP encapsulation, variant 0 (draft-ietf-intarea-gue-09, section 3), as members send it to
//! each other: no flags, and a mark as its private data.
//!
//! ```text
//! at  len  field
//!  0    1  variant, 0 (2 bits), control, 0 (1 bit), length of what follows the first 4 bytes of the
//!          header, in units of 4 bytes, 1 (5 bits)
//!  1    1  protocol of the payload: 4 is IPv4, 41 is IPv6
//!  2    2  flags, 0: no extension fields
//!  4    4  private data:
//!
//!  4    1  version of the private data, 1
//!  5    1  sender's slot
//!  6    2  kind of the mark (4 bits), its number (12 bits)
//! ```

use super::{ParseError, protocol};

/// Length of a header with its private data, in bytes.
pub const HEADER_LEN: usize = 8;

/// Variant, control bit and length of the header in one byte: the only one that members send.
const FIRST_BYTE: u8 = 0x01;
/// Version of the private data.
const VERSION: u8 = 1;

mod field {
    use crate::wire::field::Field;

    pub const FIRST: Field<0, 1> = Field;
    pub const PROTOCOL: Field<1, 1> = Field;
    pub const FLAGS: Field<2, 2> = Field;
    pub const VERSION: Field<4, 1> = Field;
    pub const SLOT: Field<5, 1> = Field;
    pub const MARK: Field<6, 2> = Field;
}

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// An IPv4 packet (RFC 2003's protocol number).
    Ipv4,
    /// An IPv6 packet (RFC 2473's).
    Ipv6,
}

impl Carried {
    const fn protocol(self) -> u8 {
        match self {
            Self::Ipv4 => protocol::IPV4,
            Self::Ipv6 => protocol::IPV6,
        }
    }
}

/// A header and the packet behind it: a whole UDP payload.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    carried: Carried,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet in `bytes`.
    ///
    /// # Errors
    /// [`ParseError::GueInvalid`] for anything that a member of this version does not send: below 8
    /// bytes, another variant or length, a control message, flags, another version of the private
    /// data, or a payload that is not IP by its protocol.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, payload) = bytes.split_first_chunk().ok_or(ParseError::GueInvalid)?;
        let is_ours = field::FIRST.u8(header) == FIRST_BYTE
            && field::FLAGS.u16(header) == 0
            && field::VERSION.u8(header) == VERSION;
        let carried = match field::PROTOCOL.u8(header) {
            protocol::IPV4 if is_ours => Carried::Ipv4,
            protocol::IPV6 if is_ours => Carried::Ipv6,
            _ => return Err(ParseError::GueInvalid),
        };
        Ok(Self { header, carried, payload })
    }

    /// What the packet carries, by its protocol number.
    #[inline]
    pub fn carried(&self) -> Carried {
        self.carried
    }

    /// The sender's slot, 0..=255: what is no slot is not ruled out here.
    #[inline]
    pub fn slot(&self) -> u8 {
        field::SLOT.u8(self.header)
    }

    /// The mark's kind and number, as they stand in a marked MAC address.
    #[inline]
    pub fn mark(&self) -> u16 {
        field::MARK.u16(self.header)
    }

    /// The packet that is carried.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Writes a header: from the member in `slot`, with `mark`'s kind and number.
#[inline]
pub fn emit_header(header: &mut [u8; HEADER_LEN], carried: Carried, slot: u8, mark: u16) {
    field::FIRST.write(header, [FIRST_BYTE]);
    field::PROTOCOL.write(header, [carried.protocol()]);
    field::FLAGS.write(header, [0; 2]);
    field::VERSION.write(header, [VERSION]);
    field::SLOT.write(header, [slot]);
    field::MARK.write(header, mark.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: [u8; 10] = [
        0x01, 0x29, 0x00, 0x00, // variant 0, data, 4 bytes more; IPv6; no flags
        0x01, 0x3f, 0x5f, 0xff, // version 1, slot 63, kind 5, number 4095
        0xde, 0xad, // payload
    ];

    #[test]
    fn fields_are_where_they_belong() {
        let packet = Packet::new(&PACKET).unwrap();
        assert_eq!((packet.carried(), packet.slot()), (Carried::Ipv6, 63));
        assert_eq!((packet.mark(), packet.payload()), (0x5fff, &[0xde, 0xad][..]));
        let mut header = [0xff; HEADER_LEN];
        emit_header(&mut header, Carried::Ipv6, 63, 0x5fff);
        assert_eq!(header, PACKET[..HEADER_LEN]);
    }

    #[test]
    fn whatever_members_do_not_send_is_refused() {
        let with = |at: usize, value: u8| {
            let mut bytes = PACKET;
            bytes[at] = value;
            Packet::new(&bytes).map(|packet| packet.carried())
        };
        assert_eq!(with(1, 4), Ok(Carried::Ipv4));
        // Variant 1, a control message, no private data, more of it; UDP; a flag; another version.
        for (at, value) in [(0, 0x41), (0, 0x21), (0, 0), (0, 2), (1, 17), (2, 1), (3, 1), (4, 2)] {
            assert_eq!(with(at, value), Err(ParseError::GueInvalid), "{value:#x} at {at}");
        }
        assert_eq!(Packet::new(&PACKET[..7]).unwrap_err(), ParseError::GueInvalid);
    }
}
