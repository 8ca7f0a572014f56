//! The memory that frames live in, and who owns which of its chunks.
//!
//! The umem is an array of chunks of [`CHUNK`] bytes. Each has one [`Owner`] at any time, kept in
//! a table that every hand-over goes through:
//!
//! ```text
//!            lend                        received
//!     Free --------> Receiving (kernel) ----------> Held (one Frame) --+
//!      ^ ^                                           ^      |          | transmitted
//!      | |                              alloc        |      |          v
//!      | +-------------------------------------------+      |   Transmitting (kernel)
//!      |                       recycle                      |          |
//!      +----------------------------------------------------+          |
//!      +---------------------------------------------------------------+
//!                              completed
//! ```
//!
//! **Invariant**: a chunk is `Held` exactly while one [`Frame`] names it. A frame comes into being
//! only in `received` and `alloc`, which move its chunk from another owner to `Held`; it is not
//! `Clone`, cannot be made elsewhere, and `transmitted` and `recycle` consume it. Thus whoever has
//! a `&mut Frame` is alone with its bytes: no other frame names them, and the kernel writes only
//! to chunks that are `Receiving`.
//!
//! What the kernel says is believed only if it fits the table, in release builds too: a broken
//! ring would otherwise become memory that two owners write. The table costs one byte a frame,
//! which stays in the first-level cache.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use thiserror::Error;

/// Bytes of a chunk. 2,048: the smallest that the kernel takes (`XDP_UMEM_MIN_CHUNK_SIZE`) and
/// enough for an Ethernet frame of 1,518 bytes behind [`HEADROOM`]; two fit into a page.
pub(super) const CHUNK: usize = 2048;

/// Bytes before a received frame's first: `XDP_PACKET_HEADROOM` of `linux/bpf.h`, which the kernel
/// keeps for XDP programs. Frames that we fill start there too.
pub(super) const HEADROOM: usize = 256;

const _: () = assert!(HEADROOM >= vipdp_core::port::HEADROOM, "room for what a frame grows by");

/// Bytes of a received frame at most: 1,792. Longer ones the kernel drops and counts as `rx_dropped`.
pub const FRAME_LEN_MAX: usize = CHUNK - HEADROOM;

/// Bytes of a frame at least: an Ethernet header. A descriptor without any bytes would be skipped by
/// the kernel and never completed.
const FRAME_LEN_MIN: usize = 14;

/// Most frames of one umem: more would not be addressed by 32 bits.
pub(super) const FRAMES_MAX: u32 = u32::MAX / CHUNK as u32;

/// A frame of one [`AfXdpPort`](super::AfXdpPort): the right to the bytes of one chunk.
///
/// Dropping it does not free the chunk: hand it to `tx_burst` or `recycle`. A port panics when
/// given a frame of another port.
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to its port"]
pub struct Frame {
    /// Offset of the first byte in the umem.
    start: u32,
    /// Bytes in use from there on.
    len: u32,
    /// The umem's number, unique in the process.
    umem: u32,
}

/// Who may touch a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Owner {
    /// Nobody: it is on the free list.
    Free,
    /// The kernel, to receive into: on the fill ring, in the driver, or on the receive ring.
    Receiving,
    /// The kernel, to transmit from: on the transmit ring, in the driver, or on the completion
    /// ring.
    Transmitting,
    /// A worker, by way of a [`Frame`].
    Held,
}

/// How many frames each owner has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accounting {
    /// On the free list.
    pub free: usize,
    /// With the kernel, to receive into.
    pub receiving: usize,
    /// With the kernel, to transmit from.
    pub transmitting: usize,
    /// With a worker.
    pub held: usize,
    /// What the port was opened with.
    pub total: usize,
}

/// A descriptor of the kernel's that contradicts the table of owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// The bytes are not inside one chunk of the umem.
    #[error(
        "the kernel names bytes {start}..{start}+{len}, which are not in one chunk of a umem of {umem_len}"
    )]
    OutOfBounds {
        /// Offset of the first byte.
        start: u64,
        /// Their number.
        len: u32,
        /// Bytes of the umem.
        umem_len: usize,
    },
    /// The frame goes on in a further descriptor, which was not asked for.
    #[error("the kernel delivers a frame in several descriptors, at {start}")]
    SeveralBuffers {
        /// Offset of the first byte.
        start: u64,
    },
    /// The chunk is not where the descriptor says it was.
    #[error("chunk {chunk} comes back from {expected:?}, while its owner is {found:?}")]
    WrongOwner {
        /// The chunk's number.
        chunk: usize,
        /// Who it comes from.
        expected: Owner,
        /// Who has it.
        found: Owner,
    },
}

/// `XDP_PKT_CONTD` of `linux/if_xdp.h`: the frame goes on in the next descriptor.
const MORE_BUFFERS: u32 = 1;

static UMEMS: AtomicU32 = AtomicU32::new(0);

/// The memory and its table of owners.
#[derive(Debug)]
pub(super) struct Umem {
    /// Start of a mapping of `owners.len() * CHUNK` bytes, which this value owns.
    memory: NonNull<u8>,
    id: u32,
    owners: Box<[Owner]>,
    /// Numbers of the free chunks. The last to come is the first to go: it is still in the cache.
    free: Vec<u32>,
    receiving: usize,
    transmitting: usize,
    held: usize,
}

// SAFETY: `memory` is a mapping that only this value refers to; it belongs to no thread.
unsafe impl Send for Umem {}

impl Umem {
    /// Maps memory for `frames` frames, all free.
    ///
    /// # Panics
    /// If `frames` is 0 or above [`FRAMES_MAX`].
    pub(super) fn new(frames: u32) -> Result<Self, Errno> {
        assert!(frames <= FRAMES_MAX, "{frames} frames");
        let len = NonZeroUsize::new(frames as usize * CHUNK).expect("at least one frame");
        // Shared, so that a fork of the process does not turn our pages into copies while the
        // kernel goes on writing to the first ones.
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let memory = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
            )?
        };
        Ok(Self {
            memory: memory.cast(),
            id: UMEMS.fetch_add(1, Ordering::Relaxed),
            owners: vec![Owner::Free; frames as usize].into_boxed_slice(),
            // Taken from the end: chunk 0 first.
            free: (0..frames).rev().collect(),
            receiving: 0,
            transmitting: 0,
            held: 0,
        })
    }

    /// The whole mapping.
    pub(super) fn memory(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.memory, self.len())
    }

    fn len(&self) -> usize {
        self.owners.len() * CHUNK
    }

    pub(super) fn accounting(&self) -> Accounting {
        Accounting {
            free: self.free.len(),
            receiving: self.receiving,
            transmitting: self.transmitting,
            held: self.held,
            total: self.owners.len(),
        }
    }

    /// Frames with the kernel, to receive into.
    pub(super) fn receiving(&self) -> usize {
        self.receiving
    }

    /// Gives a free chunk to the kernel to receive into: its offset.
    pub(super) fn lend(&mut self) -> Option<u64> {
        let chunk = self.free.pop()?;
        self.owners[chunk as usize] = Owner::Receiving;
        self.receiving += 1;
        Some(u64::from(chunk) * CHUNK as u64)
    }

    /// Takes a received frame from the kernel.
    pub(super) fn received(
        &mut self,
        start: u64,
        len: u32,
        options: u32,
    ) -> Result<Frame, Violation> {
        let chunk = self.chunk_of(start, len)?;
        if options & MORE_BUFFERS != 0 {
            return Err(Violation::SeveralBuffers { start });
        }
        self.hand_over(chunk, Owner::Receiving, Owner::Held)?;
        self.receiving -= 1;
        self.held += 1;
        // In bounds, and so below 2^32: see FRAMES_MAX.
        Ok(Frame { start: start as u32, len, umem: self.id })
    }

    /// Takes back a chunk that the kernel has transmitted.
    pub(super) fn completed(&mut self, start: u64) -> Result<(), Violation> {
        let chunk = self.chunk_of(start, 0)?;
        self.hand_over(chunk, Owner::Transmitting, Owner::Free)?;
        self.transmitting -= 1;
        self.free.push(chunk as u32);
        Ok(())
    }

    pub(super) fn alloc(&mut self) -> Option<Frame> {
        let chunk = self.free.pop()?;
        self.owners[chunk as usize] = Owner::Held;
        self.held += 1;
        Some(Frame { start: chunk * CHUNK as u32 + HEADROOM as u32, len: 0, umem: self.id })
    }

    pub(super) fn recycle(&mut self, frame: Frame) {
        let chunk = self.take_from_holder(frame).start as usize / CHUNK;
        self.owners[chunk] = Owner::Free;
        self.free.push(chunk as u32);
    }

    /// Gives a frame to the kernel to transmit: its offset and length.
    ///
    /// # Panics
    /// If it is shorter than an Ethernet header: see [`FRAME_LEN_MIN`].
    pub(super) fn transmitted(&mut self, frame: Frame) -> (u64, u32) {
        assert!(frame.len as usize >= FRAME_LEN_MIN, "a frame of {} bytes to transmit", frame.len);
        let Range { start, end } = self.take_from_holder(frame);
        self.owners[start as usize / CHUNK] = Owner::Transmitting;
        self.transmitting += 1;
        (u64::from(start), end - start)
    }

    pub(super) fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.assert_own(frame);
        // SAFETY: one Frame value per chunk (module doc), and it is borrowed: no one writes to
        // these bytes while the slice lives. They are inside the mapping and initialised: `start`
        // and `len` were checked against the chunk when the frame came, and by `set_len`; a
        // mapping starts zeroed.
        unsafe {
            let start = self.memory.add(frame.start as usize);
            std::slice::from_raw_parts(start.as_ptr(), frame.len as usize)
        }
    }

    /// Starts to load a frame's headers into the cache. The first cache line is enough: it has the
    /// ports even of an IPv6 packet, and starts where the frame starts.
    ///
    /// The frames were written on another core or by the NIC. Reading one byte each of a burst of
    /// 64, every read dependent on the one before, took 5.5 us without and 1.8 us with it.
    #[inline]
    pub(super) fn prefetch(&self, frame: &Frame) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that the program sees, at whatever address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.memory.as_ptr().add(frame.start as usize).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    pub(super) fn buffer_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.assert_own(frame);
        let room = room(frame);
        // SAFETY: one Frame value per chunk (module doc), and it is borrowed mutably: no one else
        // reads or writes these bytes while the slice lives. They reach from `start`, which is
        // inside the chunk, to the chunk's end, and a mapping starts zeroed.
        unsafe {
            let start = self.memory.add(frame.start as usize);
            std::slice::from_raw_parts_mut(start.as_ptr(), room)
        }
    }

    pub(super) fn set_len(&self, frame: &mut Frame, len: usize) {
        self.assert_own(frame);
        let room = room(frame);
        assert!(len <= room, "a frame of {len} bytes in a buffer of {room}");
        frame.len = len as u32;
    }

    pub(super) fn pull(&self, frame: &mut Frame, len: usize) {
        self.assert_own(frame);
        // One is left, or the frame would be the next chunk's.
        assert!(len < frame.len as usize, "{len} bytes off a frame of {}", frame.len);
        (frame.start, frame.len) = (frame.start + len as u32, frame.len - len as u32);
    }

    pub(super) fn push(&self, frame: &mut Frame, len: usize) {
        self.assert_own(frame);
        let headroom = frame.start as usize % CHUNK;
        assert!(len <= headroom, "{len} bytes into a headroom of {headroom}");
        (frame.start, frame.len) = (frame.start - len as u32, frame.len + len as u32);
    }

    /// The number of the chunk that has all of `start..start + len`.
    fn chunk_of(&self, start: u64, len: u32) -> Result<usize, Violation> {
        let umem_len = self.len();
        let within = start % CHUNK as u64;
        if start < umem_len as u64 && within + u64::from(len) <= CHUNK as u64 {
            Ok(start as usize / CHUNK)
        } else {
            Err(Violation::OutOfBounds { start, len, umem_len })
        }
    }

    /// Ends a frame's life: from here on nobody holds its chunk. Returns its bytes' place.
    #[expect(clippy::needless_pass_by_value, reason = "afterwards the frame must be gone")]
    fn take_from_holder(&mut self, frame: Frame) -> Range<u32> {
        self.assert_own(&frame);
        let Frame { start, len, umem: _ } = frame;
        self.held -= 1;
        start..start + len
    }

    /// A frame of another port names a chunk of ours that somebody else may own.
    fn assert_own(&self, frame: &Frame) {
        assert_eq!(frame.umem, self.id, "a frame of another port");
    }

    fn hand_over(&mut self, chunk: usize, expected: Owner, to: Owner) -> Result<(), Violation> {
        let owner = &mut self.owners[chunk];
        if *owner != expected {
            return Err(Violation::WrongOwner { chunk, expected, found: *owner });
        }
        *owner = to;
        Ok(())
    }
}

/// Bytes from a frame's first to its chunk's end.
fn room(frame: &Frame) -> usize {
    CHUNK - frame.start as usize % CHUNK
}

impl Drop for Umem {
    fn drop(&mut self) {
        let len = self.len();
        // SAFETY: the mapping is ours and of this length; slices into it borrow `self`, and the
        // kernel has its own hold on the pages as long as a socket uses them.
        if let Err(error) = unsafe { munmap(self.memory.cast(), len) } {
            tracing::error!(%error, "cannot unmap the umem");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn umem() -> Umem {
        Umem::new(4).expect("8 KiB")
    }

    fn assert_whole(umem: &Umem) {
        let counted = |owner| umem.owners.iter().filter(|&&found| found == owner).count();
        let Accounting { free, receiving, transmitting, held, total } = umem.accounting();
        assert_eq!(free + receiving + transmitting + held, total);
        assert_eq!(free, counted(Owner::Free));
        assert_eq!(receiving, counted(Owner::Receiving));
        assert_eq!(transmitting, counted(Owner::Transmitting));
        assert_eq!(held, counted(Owner::Held));
    }

    #[test]
    fn a_frame_goes_round_through_every_owner() {
        let mut umem = umem();
        let start = umem.lend().expect("free");
        assert_whole(&umem);
        let frame = umem.received(start + 256, 60, 0).expect("it was lent");
        assert_eq!(umem.bytes(&frame), [0; 60]);
        assert_whole(&umem);
        let (start, len) = umem.transmitted(frame);
        assert_eq!(len, 60);
        assert_whole(&umem);
        umem.completed(start).expect("it was transmitted");
        assert_whole(&umem);
        assert_eq!(umem.accounting().free, 4);
    }

    #[test]
    fn every_frame_has_its_own_bytes() {
        let mut umem = umem();
        let mut frames: Vec<Frame> = std::iter::from_fn(|| umem.alloc()).collect();
        assert_eq!(frames.len(), 4);
        assert_whole(&umem);
        for (mark, frame) in frames.iter_mut().enumerate() {
            umem.buffer_mut(frame).fill(mark as u8 + 1);
            umem.set_len(frame, FRAME_LEN_MAX);
        }
        for (mark, frame) in frames.iter().enumerate() {
            assert_eq!(umem.bytes(frame).len(), 1792);
            assert!(umem.bytes(frame).iter().all(|&byte| byte == mark as u8 + 1));
        }
        for frame in frames {
            umem.recycle(frame);
        }
        assert_whole(&umem);
        assert_eq!(umem.accounting().free, 4);
    }

    #[test]
    fn a_frame_that_grew_or_shrank_at_its_front_is_still_its_chunks() {
        let mut umem = umem();
        for by in [-(HEADROOM as isize), -36, 36, 46] {
            let start = umem.lend().expect("free");
            let mut frame = umem.received(start + HEADROOM as u64, 60, 0).expect("it was lent");
            umem.buffer_mut(&mut frame)[..60].fill(7);
            match by {
                0.. => umem.pull(&mut frame, by.unsigned_abs()),
                _ => umem.push(&mut frame, by.unsigned_abs()),
            }
            let kept = 60 - by.max(0).unsigned_abs();
            assert!(umem.bytes(&frame).ends_with(&[7; 60][..kept]));
            assert_eq!(umem.bytes(&frame).len() as isize, 60 - by);
            let (start, _) = umem.transmitted(frame);
            umem.completed(start).expect("it was transmitted");
            assert_whole(&umem);
        }
        assert_eq!(umem.accounting().free, 4);
    }

    #[test]
    #[should_panic(expected = "60 bytes off a frame of 60")]
    fn something_is_left_of_a_frame() {
        let mut umem = umem();
        let start = umem.lend().expect("free");
        let mut frame = umem.received(start + HEADROOM as u64, 60, 0).expect("it was lent");
        umem.pull(&mut frame, 60);
    }

    #[test]
    #[should_panic(expected = "257 bytes into a headroom of 256")]
    fn a_frame_does_not_grow_into_another_chunk() {
        let mut umem = umem();
        let mut frame = umem.alloc().expect("free");
        umem.push(&mut frame, 257);
    }

    #[test]
    fn descriptors_that_contradict_the_table_are_refused() {
        let mut umem = umem();
        let lent = umem.lend().expect("free");
        let held = umem.alloc().expect("free");
        let wrong_owner = |chunk, expected, found| Violation::WrongOwner { chunk, expected, found };

        for (start, len) in [(4 * 2048, 1), (u64::MAX, 1), (lent + 256, 1793), (lent, u32::MAX)] {
            let refused = umem.received(start, len, 0).expect_err("out of bounds");
            assert_eq!(refused, Violation::OutOfBounds { start, len, umem_len: 4 * 2048 });
        }
        let refused = umem.received(lent + 256, 60, 1).expect_err("two descriptors");
        assert_eq!(refused, Violation::SeveralBuffers { start: lent + 256 });
        let refused = umem.received(u64::from(held.start), 60, 0).expect_err("held");
        assert_eq!(refused, wrong_owner(1, Owner::Receiving, Owner::Held));
        let refused = umem.completed(lent).expect_err("not transmitted");
        assert_eq!(refused, wrong_owner(0, Owner::Transmitting, Owner::Receiving));
        assert_whole(&umem);

        let frame = umem.received(lent + 256, 60, 0).expect("it was lent");
        let refused = umem.received(lent + 256, 60, 0).expect_err("twice");
        assert_eq!(refused, wrong_owner(0, Owner::Receiving, Owner::Held));
        umem.recycle(frame);
        umem.recycle(held);
        assert_whole(&umem);
    }

    #[test]
    #[should_panic(expected = "a frame of another port")]
    fn a_frame_of_another_umem_is_refused() {
        let frame = umem().alloc().expect("free");
        let _ = umem().bytes(&frame);
    }

    #[test]
    #[should_panic(expected = "a frame of 13 bytes to transmit")]
    fn a_frame_without_an_ethernet_header_is_not_transmitted() {
        let mut umem = umem();
        let mut frame = umem.alloc().expect("free");
        umem.set_len(&mut frame, 13);
        umem.transmitted(frame);
    }

    #[test]
    #[should_panic(expected = "a frame of 1793 bytes in a buffer of 1792")]
    fn a_frame_does_not_outgrow_its_chunk() {
        let mut umem = umem();
        let mut frame = umem.alloc().expect("free");
        umem.set_len(&mut frame, 1793);
    }
}
