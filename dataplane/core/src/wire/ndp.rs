//! Neighbour solicitation and advertisement (RFC 4861, sections 4.3, 4.4 and 4.6).
//!
//! ```text
//! at  len  field
//!  0    1  ICMPv6 type, 135: solicitation, 136: advertisement
//!  1    1  code, 0
//!  2    2  checksum
//!  4    4  advertisement: router, solicited, override (1 bit each); the rest is reserved
//!  8   16  target
//! 24    -  options
//!
//! An option:
//! at  len  field
//!  0    1  type, 1: source link-layer address, 2: target link-layer address
//!  1    1  length in units of 8 bytes, not 0
//!  2    -  contents; of the two types above: a MAC address
//! ```

use std::net::Ipv6Addr;

use super::checksum::Checksum;
use super::ethernet::MacAddr;
use super::{ParseError, protocol};

/// ICMPv6 type of a solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of an advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// Option: the link-layer address of the packet's sender.
pub const SOURCE_LINK_ADDRESS: u8 = 1;
/// Option: the link-layer address of the target.
pub const TARGET_LINK_ADDRESS: u8 = 2;

/// Hop limit of every message: only a packet that no router has forwarded still has it (RFC 4861,
/// section 3.1).
pub const HOP_LIMIT: u8 = 255;
/// Where an advertisement goes that nobody in particular asked for: all nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The solicited-node group of `address`: where questions for it go (RFC 4291, section 2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const GROUPS: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(GROUPS | address.to_bits() & 0x00ff_ffff)
}

/// Length of a message without options, in bytes.
pub const HEADER_LEN: usize = 24;
/// Length of an advertisement with a target link-layer address, in bytes.
pub const ADVERTISEMENT_LEN: usize = 32;

/// Length of a solicitation with a source link-layer address, in bytes.
pub const SOLICITATION_LEN: usize = 32;

const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

mod field {
    use crate::wire::field::Field;

    pub const TYPE_AND_CODE: Field<0, 2> = Field;
    pub const CODE: Field<1, 1> = Field;
    pub const CHECKSUM: Field<2, 2> = Field;
    pub const FLAGS: Field<4, 1> = Field;
    pub const FLAGS_AND_RESERVED: Field<4, 4> = Field;
    pub const TARGET: Field<8, 16> = Field;
    /// Of a message whose only option is a link-layer address.
    pub const OPTION_HEADER: Field<24, 2> = Field;
    pub const OPTION_MAC: Field<26, 6> = Field;
}

/// A solicitation or an advertisement. What RFC 4861, section 7.1 demands beyond its length is
/// left to the reader.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`ParseError::NeighborInvalid`] below 24 bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, options) = bytes.split_first_chunk().ok_or(ParseError::NeighborInvalid)?;
        Ok(Self { header, options })
    }

    /// Must be 0.
    pub fn code(&self) -> u8 {
        field::CODE.u8(self.header)
    }

    /// Whether an advertisement answers a solicitation.
    pub fn is_solicited(&self) -> bool {
        field::FLAGS.u8(self.header) & SOLICITED != 0
    }

    /// Whether an advertisement is to replace a link-layer address that is known already.
    pub fn is_override(&self) -> bool {
        field::FLAGS.u8(self.header) & OVERRIDE != 0
    }

    /// The address asked for, or advertised.
    pub fn target(&self) -> Ipv6Addr {
        field::TARGET.read(self.header).into()
    }

    /// The options, in order. One that is cut short or of length 0 is an error, and the last.
    pub fn options(&self) -> Options<'a> {
        Options(self.options)
    }

    /// Whether the checksum is right for a packet from `src` to `dst`.
    pub fn is_intact(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        // A message lies within an IPv6 payload, so that its length fits.
        let len = (HEADER_LEN + self.options.len()) as u32;
        let sum = Checksum::pseudo_v6(src, dst, len, protocol::ICMPV6);
        sum.with(self.header).with(self.options).is_intact()
    }
}

/// The options of a message, in order.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(&'a [u8]);

/// An option of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdpOption<'a> {
    /// What it says: [`SOURCE_LINK_ADDRESS`], [`TARGET_LINK_ADDRESS`] or anything else.
    pub kind: u8,
    /// All behind type and length: 6 bytes, or 8 more for each further unit of length.
    pub contents: &'a [u8],
}

impl NdpOption<'_> {
    /// The link-layer address in an option that has one: of Ethernet, it fills one unit of length.
    pub fn mac(&self) -> Option<MacAddr> {
        self.contents.try_into().ok().map(MacAddr)
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<NdpOption<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.0);
        if rest.is_empty() {
            return None;
        }
        let &[kind, units, ..] = rest else { return Some(Err(ParseError::NeighborInvalid)) };
        let len = usize::from(units) * 8;
        let Some(contents) = rest.get(2..len) else {
            return Some(Err(ParseError::NeighborInvalid));
        };
        self.0 = &rest[len..];
        Some(Ok(NdpOption { kind, contents }))
    }
}

/// Writes a solicitation: who is at `mac` wants to know where `target` is. It goes in a packet from
/// `src`, which is not the unspecified address (RFC 4861, section 4.3), to `dst`.
pub fn emit_solicitation(
    message: &mut [u8; SOLICITATION_LEN],
    target: Ipv6Addr,
    mac: MacAddr,
    src: Ipv6Addr,
    dst: Ipv6Addr,
) {
    field::TYPE_AND_CODE.write(message, [SOLICITATION, 0]);
    field::CHECKSUM.write(message, [0, 0]);
    field::FLAGS_AND_RESERVED.write(message, [0; 4]);
    field::TARGET.write(message, target.octets());
    field::OPTION_HEADER.write(message, [SOURCE_LINK_ADDRESS, 1]);
    field::OPTION_MAC.write(message, mac.0);
    let sum = Checksum::pseudo_v6(src, dst, SOLICITATION_LEN as u32, protocol::ICMPV6);
    field::CHECKSUM.write(message, sum.with(message).finish().to_be_bytes());
}

/// Writes a solicitation of duplicate address detection: somebody wants `target` for itself. It goes
/// in a packet from the unspecified address to `dst` and has no options (RFC 4861, section 4.3).
pub fn emit_detection(message: &mut [u8; HEADER_LEN], target: Ipv6Addr, dst: Ipv6Addr) {
    field::TYPE_AND_CODE.write(message, [SOLICITATION, 0]);
    field::CHECKSUM.write(message, [0, 0]);
    field::FLAGS_AND_RESERVED.write(message, [0; 4]);
    field::TARGET.write(message, target.octets());
    let src = Ipv6Addr::UNSPECIFIED;
    let sum = Checksum::pseudo_v6(src, dst, HEADER_LEN as u32, protocol::ICMPV6);
    field::CHECKSUM.write(message, sum.with(message).finish().to_be_bytes());
}

/// Writes an advertisement that says, with the override flag, that `target` is at `mac`. It goes
/// in a packet from `target` to `dst`.
pub fn emit_advertisement(
    message: &mut [u8; ADVERTISEMENT_LEN],
    target: Ipv6Addr,
    mac: MacAddr,
    dst: Ipv6Addr,
    is_solicited: bool,
) {
    let flags = OVERRIDE | if is_solicited { SOLICITED } else { 0 };
    field::TYPE_AND_CODE.write(message, [ADVERTISEMENT, 0]);
    field::CHECKSUM.write(message, [0, 0]);
    field::FLAGS_AND_RESERVED.write(message, [flags, 0, 0, 0]);
    field::TARGET.write(message, target.octets());
    field::OPTION_HEADER.write(message, [TARGET_LINK_ADDRESS, 1]);
    field::OPTION_MAC.write(message, mac.0);
    let sum = Checksum::pseudo_v6(target, dst, ADVERTISEMENT_LEN as u32, protocol::ICMPV6);
    field::CHECKSUM.write(message, sum.with(message).finish().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn an_advertisement_is_read_as_it_was_written() {
        let (target, dst) = (address("2001:db8:53::53"), address("fe80::1"));
        let mac = MacAddr([2, 0, 0, 0, 0, 0x53]);
        for is_solicited in [true, false] {
            let mut bytes = [0xff; ADVERTISEMENT_LEN];
            emit_advertisement(&mut bytes, target, mac, dst, is_solicited);
            assert_eq!(bytes[..2], [136, 0]);
            assert_eq!(bytes[5..8], [0; 3]);
            let message = Message::new(&bytes).unwrap();
            assert!(message.is_override());
            assert_eq!((message.code(), message.is_solicited()), (0, is_solicited));
            assert_eq!(message.target(), target);
            let options: Vec<_> = message.options().map(Result::unwrap).collect();
            assert_eq!(options.len(), 1);
            assert_eq!((options[0].kind, options[0].mac()), (TARGET_LINK_ADDRESS, Some(mac)));
            assert!(message.is_intact(target, dst));
            assert!(!message.is_intact(target, address("fe80::2")));
        }
    }

    #[test]
    fn a_solicitation_is_read_as_it_was_written() {
        let (target, src) = (address("2001:db8:53::1"), address("fe80::2"));
        let (dst, mac) = (address("ff02::1:ff00:1"), MacAddr([2, 0, 0, 0, 0, 0x01]));
        let mut bytes = [0xff; SOLICITATION_LEN];
        emit_solicitation(&mut bytes, target, mac, src, dst);
        assert_eq!((&bytes[..2], &bytes[4..8]), (&[135, 0][..], &[0; 4][..]));
        let message = Message::new(&bytes).unwrap();
        assert_eq!(message.target(), target);
        let options: Vec<_> = message.options().map(Result::unwrap).collect();
        assert_eq!(options.len(), 1);
        assert_eq!((options[0].kind, options[0].mac()), (SOURCE_LINK_ADDRESS, Some(mac)));
        assert!(message.is_intact(src, dst) && !message.is_intact(target, dst));
    }

    #[test]
    fn options_end_at_the_first_that_is_wrong() {
        let lens = |options: &[u8]| {
            Options(options).map(|option| option.map(|option| option.contents.len())).collect()
        };
        let wrong = Err(ParseError::NeighborInvalid);
        let lens: [Vec<Result<usize, ParseError>>; 5] = [
            lens(&[]),
            lens(&[[1, 1, 0, 0, 0, 0, 0, 0], [9, 1, 0, 0, 0, 0, 0, 0]].concat()),
            lens(&[[1, 1, 0, 0, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0]].concat()),
            lens(&[[1, 1, 0, 0, 0, 0, 0, 0], [9, 2, 0, 0, 0, 0, 0, 0]].concat()),
            lens(&[1]),
        ];
        assert_eq!(lens[0], []);
        assert_eq!(lens[1], [Ok(6), Ok(6)]);
        assert_eq!(lens[2], [Ok(6), wrong]);
        assert_eq!(lens[3], [Ok(6), wrong]);
        assert_eq!(lens[4], [wrong]);
    }

    #[test]
    fn a_message_below_24_bytes_is_refused() {
        assert_eq!(Message::new(&[0; 23]).unwrap_err(), ParseError::NeighborInvalid);
        assert_eq!(Message::new(&[0; 24]).unwrap().options().count(), 0);
    }
}
