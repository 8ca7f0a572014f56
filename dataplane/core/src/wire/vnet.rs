//! The header in front of a frame in a TAP's queue (virtio 1.2, section 5.1.6: `struct virtio_net_hdr`
//! without `num_buffers`).
//!
//! ```text
//! at  len  field
//!  0    1  flags: 1, the checksum is partial; 2, it has been checked
//!  1    1  what the frame is to be cut into: 0, nothing; 1, TCP over IPv4; 4, TCP over IPv6;
//!          5, UDP; and 128, its first segment alone has the flag CWR
//!  2    2  length of all headers that each segment gets a copy of, in bytes
//!  4    2  length of a segment's payload, in bytes
//!  6    2  where the sum of a partial checksum starts in the frame
//!  8    2  where the checksum lies, from there on
//! ```
//!
//! Its numbers are in the byte order of the machine: a TAP is a legacy device as long as nobody asks
//! for another order (`TUNSETVNETLE` in the kernel's include/uapi/linux/if_tun.h).

/// Length of a header, in bytes.
pub const HEADER_LEN: usize = 10;

const PARTIAL_CHECKSUM: u8 = 1;
const NOT_SEGMENTED: u8 = 0;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP: u8 = 5;
const CWR_FIRST: u8 = 0x80;

mod field {
    use crate::wire::field::Field;

    pub const FLAGS: Field<0, 1> = Field;
    pub const SEGMENTATION: Field<1, 1> = Field;
    pub const HEADERS_LEN: Field<2, 2> = Field;
    pub const SIZE: Field<4, 2> = Field;
    pub const CHECKSUM_START: Field<6, 2> = Field;
    pub const CHECKSUM_OFFSET: Field<8, 2> = Field;
}

/// What is left to do to a frame, by whoever gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum to complete; `None` if there is none, or it is complete. Each segment of a frame
    /// that is to be cut has one of its own.
    pub checksum: Option<PartialChecksum>,
    /// What to cut the frame into; `None` for a single packet.
    pub segments: Option<Segments>,
}

/// A checksum that holds the sum of the pseudo-header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the sum starts in the frame, in bytes: at the transport header.
    pub start: u16,
    /// Where the checksum lies, in bytes from `start` on. The sum ends with the frame.
    pub offset: u16,
}

/// What a frame is to be cut into: packets with the same headers and a part of the payload each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// The protocol of the transport header.
    pub protocol: SegmentedProtocol,
    /// Length of a segment's payload in bytes, never 0; the last one's may be less.
    pub size: u16,
    /// Length of the headers from Ethernet's on, in bytes. The kernel's own may be wrong: it is a hint.
    pub headers_len: u16,
}

/// A transport protocol whose packets can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentedProtocol {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either.
    Udp,
}

/// A header that says what no host of ours is asked to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a virtio_net_hdr with an unknown way of segmentation, or without a length of segments")]
pub struct InvalidHeader;

impl Offload {
    /// Reads a header. Whether its places lie within the frame is for the reader of the frame to see.
    ///
    /// # Errors
    /// [`InvalidHeader`] if the frame is to be cut in a way that is not known here, or into nothing.
    #[inline]
    pub fn of_header(header: &[u8; HEADER_LEN]) -> Result<Self, InvalidHeader> {
        let checksum = (field::FLAGS.u8(header) & PARTIAL_CHECKSUM != 0).then(|| PartialChecksum {
            start: u16::from_ne_bytes(field::CHECKSUM_START.read(header)),
            offset: u16::from_ne_bytes(field::CHECKSUM_OFFSET.read(header)),
        });
        let segmentation = field::SEGMENTATION.u8(header);
        let protocol = match segmentation & !CWR_FIRST {
            NOT_SEGMENTED if segmentation == NOT_SEGMENTED => {
                return Ok(Self { checksum, segments: None });
            }
            TCP_V4 => SegmentedProtocol::TcpV4,
            TCP_V6 => SegmentedProtocol::TcpV6,
            UDP if segmentation == UDP => SegmentedProtocol::Udp,
            _ => return Err(InvalidHeader),
        };
        let size = u16::from_ne_bytes(field::SIZE.read(header));
        let headers_len = u16::from_ne_bytes(field::HEADERS_LEN.read(header));
        if size == 0 {
            return Err(InvalidHeader);
        }
        Ok(Self { checksum, segments: Some(Segments { protocol, size, headers_len }) })
    }

    /// Writes the header. Of TCP segments it says that none has the flag CWR.
    #[inline]
    pub fn header(self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        if let Some(PartialChecksum { start, offset }) = self.checksum {
            field::FLAGS.write(&mut header, [PARTIAL_CHECKSUM]);
            field::CHECKSUM_START.write(&mut header, start.to_ne_bytes());
            field::CHECKSUM_OFFSET.write(&mut header, offset.to_ne_bytes());
        }
        if let Some(Segments { protocol, size, headers_len }) = self.segments {
            let segmentation = match protocol {
                SegmentedProtocol::TcpV4 => TCP_V4,
                SegmentedProtocol::TcpV6 => TCP_V6,
                SegmentedProtocol::Udp => UDP,
            };
            field::SEGMENTATION.write(&mut header, [segmentation]);
            field::HEADERS_LEN.write(&mut header, headers_len.to_ne_bytes());
            field::SIZE.write(&mut header, size.to_ne_bytes());
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as a machine of this byte order writes it.
    fn header(flags: u8, segmentation: u8, numbers: [u16; 4]) -> [u8; HEADER_LEN] {
        let mut header = [flags, segmentation, 0, 0, 0, 0, 0, 0, 0, 0];
        for (field, number) in header[2..].chunks_exact_mut(2).zip(numbers) {
            field.copy_from_slice(&number.to_ne_bytes());
        }
        header
    }

    #[test]
    fn fields_are_where_they_belong() {
        let protocols = [
            (1, SegmentedProtocol::TcpV4),
            (4, SegmentedProtocol::TcpV6),
            (5, SegmentedProtocol::Udp),
        ];
        for (segmentation, protocol) in protocols {
            let bytes = header(1, segmentation, [54, 1_448, 34, 16]);
            let offload = Offload {
                checksum: Some(PartialChecksum { start: 34, offset: 16 }),
                segments: Some(Segments { protocol, size: 1_448, headers_len: 54 }),
            };
            assert_eq!(Offload::of_header(&bytes), Ok(offload));
            assert_eq!(offload.header(), bytes);
        }
    }

    #[test]
    fn a_plain_frame_has_a_header_of_zeros() {
        assert_eq!(Offload::default().header(), [0; HEADER_LEN]);
        assert_eq!(Offload::of_header(&[0; HEADER_LEN]), Ok(Offload::default()));
        // A checksum that the host has checked, and lengths that count for nothing.
        assert_eq!(Offload::of_header(&header(2, 0, [54, 9, 9, 9])), Ok(Offload::default()));
    }

    #[test]
    fn a_partial_checksum_stands_alone_too() {
        let offload =
            Offload { checksum: Some(PartialChecksum { start: 54, offset: 6 }), segments: None };
        assert_eq!(offload.header(), header(1, 0, [0, 0, 54, 6]));
        assert_eq!(Offload::of_header(&offload.header()), Ok(offload));
    }

    #[test]
    fn cwr_in_the_first_segment_changes_nothing_else() {
        for segmentation in [TCP_V4, TCP_V6] {
            let with = Offload::of_header(&header(0, segmentation | CWR_FIRST, [0, 9, 0, 0]));
            assert_eq!(with, Offload::of_header(&header(0, segmentation, [0, 9, 0, 0])));
            assert!(with.is_ok());
        }
    }

    #[test]
    fn unknown_ways_of_segmentation_are_refused() {
        for segmentation in 1..=u8::MAX {
            let read = Offload::of_header(&header(0, segmentation, [54, 9, 0, 0]));
            let known = matches!(segmentation, 1 | 4 | 5 | 0x81 | 0x84);
            assert_eq!(read.is_ok(), known, "{segmentation}");
        }
        assert_eq!(Offload::of_header(&header(0, TCP_V4, [54, 0, 0, 0])), Err(InvalidHeader));
    }
}
