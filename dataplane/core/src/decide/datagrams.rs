//! Ordinary datagrams of the shared-mac mode, looked at side by side.
//!
//! What tells that a datagram is plain, and for a VIP, is a few comparisons of its headers, which do not depend
//! on one another from packet to packet. So the headers of a burst are laid out in columns, a packet
//! in each, and the processor's vectors judge eight of them at once:
//!
//! ```text
//!   frame 0   [word 0|word 1|word 2|..]            word 0: | 0| 1| 2| .. |63|
//!   frame 1   [word 0|word 1|word 2|..]   --take-->word 1: | 0| 1| 2| .. |63|   --judge-->  faults, hashes
//!   ..                                             ..
//! ```
//!
//! A word is eight bytes of the frame, the first of them the lowest: the same number on every processor.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::hash::ClientHash;
use crate::port::BURST;
use crate::processor::Lanewise;
use crate::wire::ethernet::{self, MacAddr};
use crate::wire::{ipv4, ipv6, protocol, udp};

/// How many lanes are judged at once: the length of the longest vectors, of 512 bits.
const STEP: usize = 8;

/// A number for each lane, placed so that no vector lies in two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Column([u64; BURST]);

/// The words of a datagram's headers, of IPv4 up to the length in the UDP header, of IPv6 up to the checksum.
pub(super) const WORDS4: usize = 5;
pub(super) const WORDS6: usize = 8;

/// What is asked of all datagrams of a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<const WORDS: usize> {
    /// The bits that must be as in `bits`: those that tell a datagram's shape, those of the link addresses, and
    /// of the only VIP if there is no other.
    mask: [u64; WORDS],
    bits: [u64; WORDS],
    /// Ports of which some flows are tracked: see `Plain`.
    may_track: u64,
}

impl Wanted<WORDS4> {
    /// Datagrams of the shape [`Udp4`](crate::parse::ordinary::Shape::Udp4) to this link address, and to this VIP if
    /// there is no other.
    pub(super) fn v4(to: MacAddr, only: Option<Ipv4Addr>, may_track: u64) -> Self {
        let mut wanted = Self::new(to, may_track);
        wanted.want(12, u32::MAX >> 8, u32::from_le_bytes([0x08, 0x00, 0x45, 0]).into());
        wanted.want(20, u32::from_le_bytes([0x3f, 0xff, 0, 0xff]), u64::from(protocol::UDP) << 24);
        if let Some(vip) = only {
            let vip = u32::from_le_bytes(vip.octets());
            wanted.want(30, 0xffff, (vip & 0xffff).into());
            wanted.want(32, 0xffff, (vip >> 16).into());
        }
        wanted
    }
}

impl Wanted<WORDS6> {
    /// The same of the shape [`Udp6`](crate::parse::ordinary::Shape::Udp6).
    pub(super) fn v6(to: MacAddr, only: Option<Ipv6Addr>, may_track: u64) -> Self {
        let mut wanted = Self::new(to, may_track);
        wanted.want(12, 0x00f0_ffff, u32::from_le_bytes([0x86, 0xdd, 0x60, 0]).into());
        wanted.want(20, 0xff, protocol::UDP.into());
        if let Some(vip) = only {
            for (at, part) in (38..).step_by(2).zip(vip.octets().as_chunks::<2>().0) {
                wanted.want(at, 0xffff, u16::from_le_bytes(*part).into());
            }
        }
        wanted
    }
}

impl<const WORDS: usize> Wanted<WORDS> {
    /// What is to this link address, from none of a group.
    fn new(to: MacAddr, may_track: u64) -> Self {
        let mut wanted = Self { mask: [0; WORDS], bits: [0; WORDS], may_track };
        wanted.mask[0] = (1 << 49) - 1;
        wanted.bits[0] = word(to);
        wanted
    }

    /// Asks for bits of the word's bytes from byte `at` of the frame on: the first byte's are the lowest.
    fn want(&mut self, at: usize, mask: u32, bits: u64) {
        let (word, shift) = (at / 8, at % 8 * 8);
        self.mask[word] |= u64::from(mask) << shift;
        self.bits[word] |= bits << shift;
    }
}

/// The six bytes of an address in a word, before two bytes of zero.
pub(super) fn word(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Datagrams of one family, a lane for each place in a burst or a part of it. Lanes that nothing was put into since
/// the last judgement are judged too, whatever they hold: the caller knows which ones matter.
#[derive(Clone, Debug)]
pub(super) struct Datagrams<const WORDS: usize> {
    words: [Column; WORDS],
    lens: Column,
    faults: Column,
    hashes: Column,
    is_empty: bool,
}

impl<const WORDS: usize> Datagrams<WORDS> {
    /// No datagram.
    pub(super) const NONE: Self = Self {
        words: [Column([0; BURST]); WORDS],
        lens: Column([0; BURST]),
        faults: Column([1; BURST]),
        hashes: Column([0; BURST]),
        is_empty: true,
    };

    /// Puts a frame into a lane; false, and nothing is done, if it is shorter than the headers' words.
    #[inline(always)]
    pub(super) fn take(&mut self, lane: usize, frame: &[u8]) -> bool {
        let (head, _) = frame.as_chunks::<8>();
        let Some(head) = head.first_chunk::<WORDS>() else { return false };
        for (column, &word) in self.words.iter_mut().zip(head) {
            column.0[lane] = u64::from_le_bytes(word);
        }
        self.lens.0[lane] = frame.len() as u64;
        self.is_empty = false;
        true
    }

    /// Whether nothing was put into any lane since [`clear`](Self::clear).
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Empties all lanes.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.is_empty = true;
    }

    /// The hashes of the clients in the first lanes, if all their datagrams are plain and wanted.
    #[inline(always)]
    pub(super) fn all_judged(&self, lanes: usize) -> Option<&[u64]> {
        let faults = &self.faults.0[..lanes];
        let all = faults.iter().fold(0, |all, faults| all | faults);
        (all == 0).then_some(&self.hashes.0[..lanes])
    }

    /// The hash of a lane's client, if its datagram is plain and wanted.
    #[inline(always)]
    pub(super) fn judged(&self, lane: usize) -> Option<u64> {
        (self.faults.0[lane] == 0).then_some(self.hashes.0[lane])
    }
}

impl Datagrams<WORDS4> {
    /// Where a lane's datagram goes.
    #[inline(always)]
    pub(super) fn vip(&self, lane: usize) -> Ipv4Addr {
        let word = |n: usize| self.words[n].0[lane];
        let address = word(3) >> 48 | word(4) << 16;
        Ipv4Addr::from((address as u32).to_le_bytes())
    }
}

impl Datagrams<WORDS6> {
    /// Where a lane's datagram goes.
    #[inline(always)]
    pub(super) fn vip(&self, lane: usize) -> Ipv6Addr {
        let word = |n: usize| self.words[n].0[lane];
        let (first, second) = (word(4) >> 48 | word(5) << 16, word(5) >> 48 | word(6) << 16);
        Ipv6Addr::from((u128::from(second) << 64 | u128::from(first)).to_le_bytes())
    }
}

/// Datagrams and what is asked of them: fills in faults and hashes of the first lanes.
pub(super) struct Judging<'a, const WORDS: usize> {
    pub(super) lanes: usize,
    pub(super) datagrams: &'a mut Datagrams<WORDS>,
    pub(super) wanted: &'a Wanted<WORDS>,
    pub(super) hash: &'a ClientHash,
}

impl<const WORDS: usize> Lanewise for Judging<'_, WORDS>
where
    Wanted<WORDS>: JudgeOne<WORDS>,
{
    #[inline(always)]
    fn work(self) {
        let Self { lanes, datagrams, wanted, hash } = self;
        // Copies, which nothing that is written here could change: vectors are only made where that is plain.
        let (wanted, hash) = (*wanted, *hash);
        // What is beyond the last lane is judged for nothing, which is quicker than not to.
        for lane in 0..lanes.next_multiple_of(STEP).min(BURST) {
            let mut words = [0; WORDS];
            for (word, column) in words.iter_mut().zip(&datagrams.words) {
                *word = column.0[lane];
            }
            (datagrams.faults.0[lane], datagrams.hashes.0[lane]) =
                wanted.judge_one(&hash, words, datagrams.lens.0[lane]);
        }
    }
}

/// What differs between the families.
pub(super) trait JudgeOne<const WORDS: usize> {
    /// What is wrong with a datagram of the shape that has these words: zero for one that `Shape::parse` takes,
    /// and that is wanted. And its client's hash.
    fn judge_one(&self, hash: &ClientHash, words: [u64; WORDS], frame_len: u64) -> (u64, u64);
}

impl JudgeOne<WORDS4> for Wanted<WORDS4> {
    #[inline(always)]
    fn judge_one(&self, hash: &ClientHash, words: [u64; WORDS4], frame_len: u64) -> (u64, u64) {
        let [_, word1, word2, word3, word4] = words;
        let total_len = be16(word2);
        let too_short = too_short(frame_len, total_len, ipv4::HEADER_LEN, word4 >> 48);
        // See `v4_len`.
        let network = word3 >> 16 & 0xff;
        let no_sender = network.wrapping_sub(1)
            | 223_u64.wrapping_sub(network)
            | (network ^ 127).wrapping_sub(1);
        // See `is_intact`. Of a sum of six numbers of 32 bits the carries are added twice; what is all ones then,
        // and never zero since the version is in it, was a multiple of all ones.
        let sum = (word1 >> 48)
            + (word2 & 0xffff_ffff)
            + (word2 >> 32)
            + (word3 & 0xffff_ffff)
            + (word3 >> 32)
            + (word4 & 0xffff);
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let faults = unlike(self, words)
            | tracked(self, word4 >> 32)
            | (sum ^ 0xffff)
            | (too_short | no_sender) >> 63;
        let client = hash.words_v4_le(word3 >> 16 & 0xffff_ffff, word4 >> 16 & 0xffff);
        (faults, hash.hash_words(client))
    }
}

impl JudgeOne<WORDS6> for Wanted<WORDS6> {
    #[inline(always)]
    fn judge_one(&self, hash: &ClientHash, words: [u64; WORDS6], frame_len: u64) -> (u64, u64) {
        let [_, _, word2, word3, word4, _, word6, word7] = words;
        let packet_len = be16(word2 >> 16) + ipv6::HEADER_LEN as u64;
        let too_short = too_short(frame_len, packet_len, ipv6::HEADER_LEN, word7 >> 16);
        // See `v6_len`.
        let first = word2 >> 48 & 0xff;
        let no_sender = first.wrapping_sub(1) | (first ^ 0xff).wrapping_sub(1);
        let faults = unlike(self, words) | tracked(self, word7) | (too_short | no_sender) >> 63;
        let source = [word2 >> 48 | word3 << 16, word3 >> 48 | word4 << 16];
        let client = hash.words_v6_le(source, word6 >> 48);
        (faults, hash.hash_words(client))
    }
}

/// Not zero if the words are not as wanted.
#[inline(always)]
fn unlike<const WORDS: usize>(wanted: &Wanted<WORDS>, words: [u64; WORDS]) -> u64 {
    let mut unlike = 0;
    for ((word, mask), bits) in words.into_iter().zip(wanted.mask).zip(wanted.bits) {
        unlike |= (word & mask) ^ bits;
    }
    unlike
}

/// Not zero if flows of the port that lies in the lowest two bytes may be tracked.
#[inline(always)]
fn tracked<const WORDS: usize>(wanted: &Wanted<WORDS>, port: u64) -> u64 {
    wanted.may_track >> (port >> 8 & 63) & 1
}

/// Less than zero, by its highest bit, if the packet is longer than its frame, or the datagram, whose length lies in the
/// lowest two bytes of `udp_len`, shorter than its header or longer than the packet.
#[inline(always)]
fn too_short(frame_len: u64, packet_len: u64, ip_header_len: usize, udp_len: u64) -> u64 {
    let udp_len = be16(udp_len);
    frame_len.wrapping_sub(packet_len + ethernet::HEADER_LEN as u64)
        | udp_len.wrapping_sub(udp::HEADER_LEN as u64)
        | packet_len.wrapping_sub(udp_len + ip_header_len as u64)
}

/// The number in network byte order that lies in the lowest two bytes.
#[inline(always)]
fn be16(word: u64) -> u64 {
    (word & 0xff) << 8 | (word >> 8 & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::HashInput;
    use crate::parse::ordinary::Shape;
    use crate::parse::ordinary::tests::{VIP4, for_each_change, frame};
    use crate::parse::{Payload, Transport};
    use std::net::IpAddr;

    const TO: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);
    /// Every other port.
    const MAY_TRACK: u64 = 0x5555_5555_5555_5555;

    fn hash() -> ClientHash {
        ClientHash::new([7; 16], HashInput::AddressAndPort)
    }

    /// What vectors should say, from what parsing says.
    fn expected(shape: Shape, vip: IpAddr, frame: &[u8]) -> Option<u64> {
        let parsed = Shape::of(frame).filter(|it| *it == shape)?.parse(frame)?;
        let Payload::Ip(packet) = parsed.payload else { return None };
        let Transport::Udp(ports) = packet.transport else { return None };
        let is_wanted = parsed.dst == TO && packet.dst == vip && ports.dst % 2 == 1;
        is_wanted.then(|| hash().hash(packet.src, ports.src))
    }

    fn judged<const WORDS: usize>(wanted: &Wanted<WORDS>, frame: &[u8]) -> Option<u64>
    where
        Wanted<WORDS>: JudgeOne<WORDS>,
    {
        const LANE: usize = 11;
        let mut datagrams = Datagrams::NONE;
        if !datagrams.take(LANE, frame) {
            return None;
        }
        Judging { lanes: LANE + 1, datagrams: &mut datagrams, wanted, hash: &hash() }.work();
        datagrams.judged(LANE)
    }

    /// Each byte of the headers with each value, the IPv4 checksum right and wrong; and frames cut short.
    #[test]
    fn whatever_one_byte_is_the_words_tell_what_parsing_tells() {
        let wanted4 = Wanted::v4(TO, Some(VIP4.into()), MAY_TRACK);
        let wanted6 = Wanted::v6(TO, Some(VIP6), MAY_TRACK);
        let v4 = |frame: &[u8]| judged(&wanted4, frame);
        let v6 = |frame: &[u8]| judged(&wanted6, frame);
        for (shape, vip) in [(Shape::Udp4, VIP4.into()), (Shape::Udp6, VIP6.into())] {
            let judged = |frame: &[u8]| if shape == Shape::Udp4 { v4(frame) } else { v6(frame) };
            let good = frame(shape, 10);
            assert!(judged(&good).is_some(), "{shape:?}");
            for_each_change(&good, good.len(), |changed, at, value| {
                let expected = expected(shape, vip, changed);
                assert_eq!(judged(changed), expected, "{shape:?} {at} {value}");
            });
            for len in if vip.is_ipv4() { 0 } else { 64 }..good.len() {
                let cut = &good[..len];
                assert_eq!(judged(cut), expected(shape, vip, cut), "{shape:?} cut to {len}");
            }
        }
    }
}
