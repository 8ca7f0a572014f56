//! Changes to a frame on its way through: link addresses and tags, in place.
//!
//! A tag comes and goes by moving the 12 bytes of link addresses over it; nothing behind them
//! moves:
//!
//! ```text
//!              0            12   16
//! tagged       | dst   src  |tag | type payload
//! untagged          | dst   src  | type payload
//!                   4            16
//! ```

use crate::wire::ethernet::{self, MacAddr, TAG_LEN};

/// Length of both link addresses, in bytes.
const ADDRESSES_LEN: usize = 12;

/// Sets both link addresses of `frame`.
///
/// # Panics
/// If `frame` is shorter than an Ethernet header: it has not been parsed.
#[inline]
pub fn set_link_addresses(frame: &mut [u8], dst: MacAddr, src: MacAddr) {
    let header = frame.first_chunk_mut().expect("a parsed frame has an Ethernet header");
    ethernet::emit_addresses(header, dst, src);
}

/// Takes the 802.1Q tag out of the frame in `buffer`. Returns where the frame starts from now on:
/// at 4, or, if it had no tag, still at 0.
///
/// # Panics
/// If `buffer` is shorter than an Ethernet header: it has not been parsed.
#[inline]
pub fn strip_tag(buffer: &mut [u8]) -> usize {
    let ether_type = ethernet::Frame::new(buffer).expect("a parsed frame").ether_type();
    if ether_type != ethernet::VLAN {
        return 0;
    }
    buffer.copy_within(..ADDRESSES_LEN, TAG_LEN);
    TAG_LEN
}

/// Puts an 802.1Q tag of priority 0 into the frame that lies in `buffer[4..]`. From now on it
/// starts at 0 and ends with `buffer`, whose length is returned.
///
/// # Panics
/// If `buffer` is shorter than a tagged Ethernet header, or `vlan` is above 4094: the
/// configuration has not been checked.
#[inline]
pub fn push_tag(buffer: &mut [u8], vlan: u16) -> usize {
    assert!(vlan <= 4094, "VLAN {vlan}");
    buffer.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
    ethernet::emit_tag(buffer.first_chunk_mut().expect("room for a tag"), vlan);
    buffer.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [u8; 16] = [
        1, 2, 3, 4, 5, 6, // destination
        11, 12, 13, 14, 15, 16, // source
        0x08, 0x00, // IPv4
        0xde, 0xad, // payload
    ];
    const TAGGED: [u8; 20] = [
        1, 2, 3, 4, 5, 6, // destination
        11, 12, 13, 14, 15, 16, // source
        0x81, 0x00, 0x0f, 0xfe, // VLAN 4094
        0x08, 0x00, // IPv4
        0xde, 0xad, // payload
    ];

    #[test]
    fn a_tag_is_taken_out() {
        let mut buffer = TAGGED;
        let start = strip_tag(&mut buffer);
        assert_eq!(buffer[start..], PLAIN);
    }

    #[test]
    fn a_frame_without_a_tag_stays_as_it_is() {
        let mut buffer = PLAIN;
        assert_eq!(strip_tag(&mut buffer), 0);
        assert_eq!(buffer, PLAIN);
    }

    #[test]
    fn a_tag_is_put_in() {
        let mut buffer = [&[0xff; TAG_LEN][..], &PLAIN].concat();
        assert_eq!(push_tag(&mut buffer, 4094), TAGGED.len());
        assert_eq!(buffer, TAGGED);
    }

    #[test]
    fn link_addresses_are_set_and_nothing_else() {
        let mut frame = TAGGED;
        set_link_addresses(&mut frame, MacAddr([7; 6]), MacAddr([9; 6]));
        assert_eq!(frame[..12], [7, 7, 7, 7, 7, 7, 9, 9, 9, 9, 9, 9]);
        assert_eq!(frame[12..], TAGGED[12..]);
    }
}
