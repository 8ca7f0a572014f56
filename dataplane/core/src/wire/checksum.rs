//! The Internet checksum (RFC 1071): the complement of the one's complement sum of 16-bit words.

use std::net::Ipv6Addr;

/// A sum in progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// The sum of nothing.
    pub const fn new() -> Self {
        Self(0)
    }

    /// The sum of the pseudo-header that ICMPv6, UDP and TCP are summed with over IPv6 (RFC 8200,
    /// section 8.1). `len` is that of the upper layer's header and data, in bytes.
    pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, len: u32, protocol: u8) -> Self {
        Self(u64::from(len) + u64::from(protocol)).with(&src.octets()).with(&dst.octets())
    }

    /// The sum with `bytes` added. An odd last byte counts as the high half of a word, so only the last of
    /// several pieces may be of odd length.
    ///
    /// Sums 32 bits at a time: the carries out of each half meet again in the end. The words are added
    /// as they lie in memory and only their sum is turned (RFC 1071, section 2 (B)), so that several are
    /// added at once. The sum of less than 16 GiB cannot overflow.
    #[inline]
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (words, tail) = bytes.as_chunks::<4>();
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        let last = u64::from(u32::from_ne_bytes(last));
        let sum = words.iter().fold(last, |sum, &word| sum + u64::from(u32::from_ne_bytes(word)));
        Self(self.0 + u64::from(u16::from_be(fold(sum))))
    }

    /// The sum with a 16-bit word added, by its value.
    #[inline]
    #[must_use]
    pub const fn with_word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// The checksum field's value for what was added, that field itself added as zero.
    #[inline]
    pub const fn finish(self) -> u16 {
        !fold(self.0)
    }

    /// Whether what was added, its checksum field included, is intact.
    #[inline]
    pub const fn is_intact(self) -> bool {
        fold(self.0) == 0xffff
    }
}

/// The one's complement sum of a sum's four words.
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word.
    fn by_definition(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Checksum::new().with(&bytes).finish(), !0xddf2);
    }

    #[test]
    fn all_ones_fold_without_a_carry_left_over() {
        assert_eq!(Checksum::new().with(&[0xff; 65_535]).finish(), by_definition(&[0xff; 65_535]));
        assert_eq!(Checksum(u64::MAX).finish(), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition_however_it_is_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(bytes.len() / 2 + 1) * 2;
            let sum = Checksum::new().with(&bytes[..cut]).with(&bytes[cut..]);
            prop_assert_eq!(sum.finish(), by_definition(&bytes));
            if bytes.len() % 2 == 0 {
                prop_assert!(sum.with(&sum.finish().to_be_bytes()).is_intact());
                prop_assert!(!sum.with(&sum.finish().wrapping_add(1).to_be_bytes()).is_intact());
            }
        }
    }
}
