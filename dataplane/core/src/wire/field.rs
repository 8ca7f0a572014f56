//! A field's place in a header.

/// `N` bytes from byte `AT` of a header on, in network byte order.
///
/// A place outside the header that is read or written does not compile.
#[derive(Clone, Copy)]
pub(super) struct Field<const AT: usize, const N: usize>;

impl<const AT: usize, const N: usize> Field<AT, N> {
    /// The field's bytes in `header`.
    #[inline(always)]
    pub(super) fn read<const LEN: usize>(self, header: &[u8; LEN]) -> [u8; N] {
        const { assert!(AT + N <= LEN, "the field lies within the header") };
        *header[AT..].first_chunk().expect("checked when compiling")
    }

    /// Sets the field's bytes in `header`.
    #[inline(always)]
    pub(super) fn write<const LEN: usize>(self, header: &mut [u8; LEN], value: [u8; N]) {
        const { assert!(AT + N <= LEN, "the field lies within the header") };
        *header[AT..].first_chunk_mut().expect("checked when compiling") = value;
    }
}

impl<const AT: usize> Field<AT, 1> {
    /// The field's value in `header`.
    #[inline(always)]
    pub(super) fn u8<const LEN: usize>(self, header: &[u8; LEN]) -> u8 {
        let [byte] = self.read(header);
        byte
    }
}

impl<const AT: usize> Field<AT, 2> {
    /// The field's value in `header`.
    #[inline(always)]
    pub(super) fn u16<const LEN: usize>(self, header: &[u8; LEN]) -> u16 {
        u16::from_be_bytes(self.read(header))
    }
}

impl<const AT: usize> Field<AT, 4> {
    /// The field's value in `header`.
    #[inline(always)]
    pub(super) fn u32<const LEN: usize>(self, header: &[u8; LEN]) -> u32 {
        u32::from_be_bytes(self.read(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_and_written_at_its_place() {
        let mut header = [1, 2, 3, 4, 5, 6];
        assert_eq!(Field::<5, 1>.u8(&header), 6);
        assert_eq!(Field::<1, 2>.u16(&header), 0x0203);
        assert_eq!(Field::<2, 4>.u32(&header), 0x0304_0506);
        Field::<4, 2>.write(&mut header, [8, 9]);
        assert_eq!(header, [1, 2, 3, 4, 8, 9]);
    }
}
