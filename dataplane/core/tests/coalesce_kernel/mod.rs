//! The host's stack, as far as super-packets go: what it makes of one, written down from the rules of
//! segmentation alone (RFC 9293, RFC 768, and Linux's Documentation/networking/segmentation-offloads.rst).

use vipdp_core::wire::vnet::{Offload, PartialChecksum, SegmentedProtocol};

/// The frames that a frame from the worker is for the host: itself, or the segments of a super-packet.
///
/// # Panics
/// If a super-packet is not one that Linux takes.
pub fn unfold(offload: Offload, frame: &[u8]) -> Vec<Vec<u8>> {
    let Some(segments) = offload.segments else {
        assert_eq!(offload, Offload::default(), "one packet is delivered complete");
        return vec![frame.to_vec()];
    };
    let is_v4 = frame[12..14] == [8, 0];
    let transport = 14 + if is_v4 { 20 } else { 40 };
    let (is_udp, protocol) = match segments.protocol {
        SegmentedProtocol::Udp => (true, 17),
        SegmentedProtocol::TcpV4 => (false, 6),
        SegmentedProtocol::TcpV6 => (false, 6),
    };
    let header_len = if is_udp { 8 } else { usize::from(frame[transport + 12] >> 4) * 4 };
    let headers_len = transport + header_len;
    assert_eq!(usize::from(segments.headers_len), headers_len);
    if !is_udp {
        assert_eq!(segments.protocol == SegmentedProtocol::TcpV4, is_v4);
    }
    let partial = PartialChecksum { start: transport as u16, offset: if is_udp { 6 } else { 16 } };
    assert_eq!(offload.checksum, Some(partial));

    assert_lengths(frame, is_v4, is_udp);
    assert_eq!(frame[if is_v4 { 23 } else { 20 }], protocol);
    let pseudo = sum(&pseudo_header(frame, is_v4, protocol, frame.len() - transport));
    let at = transport + usize::from(partial.offset);
    assert_eq!(u16::from_be_bytes([frame[at], frame[at + 1]]), pseudo, "the partial checksum");

    let (headers, payload) = frame.split_at(headers_len);
    let pieces: Vec<_> = payload.chunks(segments.size.into()).collect();
    assert!((2..=64).contains(&pieces.len()), "{} segments", pieces.len());
    let segment = |(n, piece): (usize, &&[u8])| {
        let mut segment = [headers, piece].concat();
        let is_last = n + 1 == pieces.len();
        finish(&mut segment, n, usize::from(segments.size), is_last, is_v4, is_udp);
        segment
    };
    pieces.iter().enumerate().map(segment).collect()
}

/// The lengths in the headers are those of the frame.
fn assert_lengths(frame: &[u8], is_v4: bool, is_udp: bool) {
    let number = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let transport = if is_v4 {
        assert_eq!(frame[14], 0x45);
        assert_eq!(number(16), frame.len() - 14);
        assert_eq!(sum(&frame[14..34]), 0xffff, "the IPv4 header's checksum");
        34
    } else {
        assert_eq!(number(18), frame.len() - 54);
        54
    };
    if is_udp {
        assert_eq!(number(transport + 4), frame.len() - transport);
    }
}

/// Gives a segment's headers what is its own.
fn finish(segment: &mut [u8], n: usize, size: usize, is_last: bool, is_v4: bool, is_udp: bool) {
    let len = segment.len();
    let put = |segment: &mut [u8], at: usize, value: usize| {
        segment[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
    };
    let transport = if is_v4 {
        let id = usize::from(u16::from_be_bytes([segment[18], segment[19]])) + n;
        put(segment, 16, len - 14);
        put(segment, 18, id & 0xffff);
        put(segment, 24, 0);
        let checksum = !sum(&segment[14..34]);
        put(segment, 24, checksum.into());
        34
    } else {
        put(segment, 18, len - 54);
        54
    };
    let at = if is_udp {
        put(segment, transport + 4, len - transport);
        transport + 6
    } else {
        let sequence = segment[transport + 4..transport + 8].try_into().unwrap();
        let sequence = u32::from_be_bytes(sequence).wrapping_add((n * size) as u32);
        segment[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
        if !is_last {
            // FIN and PSH.
            segment[transport + 13] &= !0x09;
        }
        transport + 16
    };
    put(segment, at, 0);
    let protocol = if is_udp { 17 } else { 6 };
    let mut summed = pseudo_header(segment, is_v4, protocol, len - transport);
    summed.extend(&segment[transport..]);
    let checksum = match !sum(&summed) {
        0 if is_udp => 0xffff,
        checksum => checksum,
    };
    put(segment, at, checksum.into());
}

fn pseudo_header(frame: &[u8], is_v4: bool, protocol: u8, len: usize) -> Vec<u8> {
    let addresses = if is_v4 { &frame[26..34] } else { &frame[22..54] };
    [addresses, &(len as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
}

/// The one's complement sum, word by word.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
