//! Ethernet II frames (IEEE 802.3) and 802.1Q tags.
//!
//! ```text
//! at  len  field
//!  0    6  destination
//!  6    6  source
//! 12    2  EtherType of the payload, or 0x8100: a tag follows
//!
//! The tag (IEEE 802.1Q, section 9.6), between source and EtherType:
//! at  len  field
//! 12    2  tag protocol identifier, 0x8100
//! 14    2  priority (3 bits), drop eligible (1 bit), VLAN identifier (12 bits)
//! 16    2  EtherType of the payload
//! ```

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::ParseError;

/// Length of a header without a tag, in bytes.
pub const HEADER_LEN: usize = 14;
/// Length of an 802.1Q tag, in bytes.
pub const TAG_LEN: usize = 4;
/// The shortest payload, in bytes: shorter ones are padded (IEEE 802.3, section 3.2.7).
pub const PAYLOAD_MIN: usize = 46;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Tag protocol identifier of a customer VLAN (802.1Q).
pub const VLAN: u16 = 0x8100;
/// Tag protocol identifier of a service VLAN (802.1ad).
pub const SERVICE_VLAN: u16 = 0x88a8;

mod field {
    use crate::wire::field::Field;

    pub const DST: Field<0, 6> = Field;
    pub const SRC: Field<6, 6> = Field;
    pub const ETHER_TYPE: Field<12, 2> = Field;
    /// Of a tagged frame.
    pub const VLAN_CONTROL: Field<14, 2> = Field;
    /// Of a tagged frame.
    pub const TAGGED_ETHER_TYPE: Field<16, 2> = Field;

    /// Of a tag without its first two bytes.
    pub mod tag {
        use crate::wire::field::Field;

        pub const CONTROL: Field<0, 2> = Field;
        pub const ETHER_TYPE: Field<2, 2> = Field;
    }
}

/// A frame without its frame check sequence.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame in `bytes`.
    ///
    /// # Errors
    /// [`ParseError::EthernetTruncated`] below 14 bytes.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, payload) = bytes.split_first_chunk().ok_or(ParseError::EthernetTruncated)?;
        Ok(Self { header, payload })
    }

    /// Where the frame goes.
    #[inline]
    pub fn dst(&self) -> MacAddr {
        MacAddr(field::DST.read(self.header))
    }

    /// Who sent it.
    #[inline]
    pub fn src(&self) -> MacAddr {
        MacAddr(field::SRC.read(self.header))
    }

    /// What follows: [`IPV4`], [`ARP`], [`IPV6`], [`VLAN`] or anything else.
    #[inline]
    pub fn ether_type(&self) -> u16 {
        field::ETHER_TYPE.u16(self.header)
    }

    /// All behind the header, padding included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// An 802.1Q tag and all behind it: the payload of a frame of EtherType [`VLAN`].
#[derive(Clone, Copy, Debug)]
pub struct Tagged<'a> {
    tag: &'a [u8; TAG_LEN],
    payload: &'a [u8],
}

impl<'a> Tagged<'a> {
    /// The tag, less its first two bytes, at the start of `bytes`.
    ///
    /// # Errors
    /// [`ParseError::EthernetTruncated`] below 4 bytes.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (tag, payload) = bytes.split_first_chunk().ok_or(ParseError::EthernetTruncated)?;
        Ok(Self { tag, payload })
    }

    /// VLAN identifier, 0..=4095: 0 marks a priority tag, which names no VLAN, 4095 is reserved.
    #[inline]
    pub fn vlan(&self) -> u16 {
        field::tag::CONTROL.u16(self.tag) & 0x0fff
    }

    /// What follows, as of [`Frame::ether_type`].
    #[inline]
    pub fn ether_type(&self) -> u16 {
        field::tag::ETHER_TYPE.u16(self.tag)
    }

    /// All behind the tag, padding included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Sets both addresses of the frame that starts with `header`.
#[inline]
pub fn emit_addresses(header: &mut [u8; HEADER_LEN], dst: MacAddr, src: MacAddr) {
    field::DST.write(header, dst.0);
    field::SRC.write(header, src.0);
}

/// Writes a header at the start of `buffer`, with a tag of priority 0 if there is a `vlan`, which is
/// at most 4094. Returns its length.
///
/// # Panics
/// If `buffer` is shorter than a tagged header.
#[inline]
pub fn emit_header(
    buffer: &mut [u8],
    dst: MacAddr,
    src: MacAddr,
    vlan: Option<u16>,
    ether_type: u16,
) -> usize {
    const TAGGED_LEN: usize = HEADER_LEN + TAG_LEN;
    let header: &mut [u8; TAGGED_LEN] = buffer.first_chunk_mut().expect("room for a tag");
    emit_addresses(header.first_chunk_mut().expect("a header is shorter"), dst, src);
    match vlan {
        Some(vlan) => {
            emit_tag(header, vlan);
            field::TAGGED_ETHER_TYPE.write(header, ether_type.to_be_bytes());
            TAGGED_LEN
        }
        None => {
            field::ETHER_TYPE.write(header, ether_type.to_be_bytes());
            HEADER_LEN
        }
    }
}

/// Writes a header without a tag.
#[inline]
pub fn emit_untagged(header: &mut [u8; HEADER_LEN], dst: MacAddr, src: MacAddr, ether_type: u16) {
    emit_addresses(header, dst, src);
    field::ETHER_TYPE.write(header, ether_type.to_be_bytes());
}

/// Writes a tag of priority 0 into the tagged frame that starts with `bytes`, `vlan` being at
/// most 4094.
#[inline]
pub fn emit_tag(bytes: &mut [u8; HEADER_LEN + TAG_LEN], vlan: u16) {
    field::ETHER_TYPE.write(bytes, VLAN.to_be_bytes());
    field::VLAN_CONTROL.write(bytes, vlan.to_be_bytes());
}

/// A 48-bit MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The group address that an IPv4 multicast group maps to (RFC 1112, section 6.4); `None` for
    /// any other address.
    pub const fn of_ipv4_group(group: Ipv4Addr) -> Option<Self> {
        let [_, b, c, d] = group.octets();
        if group.is_multicast() { Some(Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])) } else { None }
    }

    /// The group address that an IPv6 multicast group maps to (RFC 2464, section 7); `None` for
    /// any other address.
    pub const fn of_ipv6_group(group: Ipv6Addr) -> Option<Self> {
        let [.., a, b, c, d] = group.octets();
        if group.is_multicast() { Some(Self([0x33, 0x33, a, b, c, d])) } else { None }
    }

    /// Whether this is a group address: multicast or broadcast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGGED: [u8; 19] = [
        0x02, 0, 0, 0, 0, 1, // destination
        0x02, 0, 0, 0, 0, 2, // source
        0x81, 0x00, // a tag follows
        0xb0, 0x64, // priority 5, drop eligible, VLAN 100
        0x86, 0xdd, // IPv6
        0x60, // payload
    ];

    #[test]
    fn fields_are_where_they_belong() {
        let frame = Frame::new(&TAGGED).unwrap();
        assert_eq!(frame.dst().to_string(), "02:00:00:00:00:01");
        assert_eq!(frame.src().to_string(), "02:00:00:00:00:02");
        assert_eq!(frame.ether_type(), VLAN);
        let tagged = Tagged::new(frame.payload()).unwrap();
        assert_eq!((tagged.vlan(), tagged.ether_type()), (100, IPV6));
        assert_eq!(tagged.payload(), [0x60]);
    }

    #[test]
    fn a_cut_header_or_tag_is_refused() {
        assert_eq!(Frame::new(&TAGGED[..13]).unwrap_err(), ParseError::EthernetTruncated);
        let payload = Frame::new(&TAGGED[..17]).unwrap().payload();
        assert_eq!(Tagged::new(payload).unwrap_err(), ParseError::EthernetTruncated);
    }

    #[test]
    fn addresses_are_set_and_nothing_else() {
        let mut frame = TAGGED;
        let header = frame.first_chunk_mut().unwrap();
        emit_addresses(header, MacAddr([1; 6]), MacAddr([2; 6]));
        assert_eq!(frame[..12], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
        assert_eq!(frame[12..], TAGGED[12..]);
    }

    #[test]
    fn a_header_is_written_with_and_without_a_tag() {
        let (dst, src) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let mut frame = [0; 18];
        assert_eq!(emit_header(&mut frame, dst, src, Some(100), IPV6), 18);
        assert_eq!(frame[..14], TAGGED[..14]);
        assert_eq!(frame[14..], [0x00, 0x64, 0x86, 0xdd]);
        assert_eq!(emit_header(&mut frame, dst, src, None, IPV4), 14);
        assert_eq!(frame[..12], TAGGED[..12]);
        assert_eq!(frame[12..14], [0x08, 0x00]);
    }

    #[test]
    fn the_lowest_bit_of_the_first_byte_marks_a_group() {
        assert!(MacAddr::BROADCAST.is_group());
        assert!(MacAddr([0x33, 0x33, 0, 0, 0, 1]).is_group());
        assert!(!MacAddr([0x02, 0xff, 0xff, 0xff, 0xff, 0xff]).is_group());
    }
}
