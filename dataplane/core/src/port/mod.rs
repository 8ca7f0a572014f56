//! The two edges of the data plane, as traits: the NIC's queue and the host.
//!
//! A frame is a value of the port's own type, neither `Clone` nor `Copy`. Whoever holds it owns the
//! bytes; it goes back by [`Port::tx_burst`] or [`Port::recycle`], and so
//! `free + receiving + transmitting + held` is always the number of frames the port was made with.
//!
//! ```text
//!            alloc                    +------------------+   tx_burst
//!   free  ------------------------->  | held by a worker | ------------> transmitting
//!    ^  ^                             +------------------+                    |
//!    |  |          recycle              |          ^                          |
//!    |  +-------------------------------+          | rx_burst                 |
//!    |              housekeeping                   |                          |
//!    +--------------------------------------> receiving                       |
//!    +------------------------------------------------------------------------+
//!                                housekeeping
//! ```

pub mod memory;

use crate::processor::Processor;
use crate::wire::vnet::Offload;

/// Frames that are taken from a port at once, and the unit that a worker decides on.
///
/// 64: two cache lines of descriptors; above it the batch's headers no longer stay in L1 beside
/// the flow table's lines.
pub const BURST: usize = 64;

/// Room before the first byte of a frame that was received or allocated, in bytes, at least: that it
/// may grow by at its front. 64: the largest headers of a tunnel and a tag.
pub const HEADROOM: usize = 64;

/// One queue pair of a NIC.
pub trait Port {
    /// A frame of this port's memory, owned by whoever holds the value.
    type Frame;

    /// The processor that the port's workers run on.
    type Processor: Processor;

    /// How many frames ahead of the one that is parsed headers are fetched. 16: at some 10 ns a packet, as long
    /// as memory takes that another core or the NIC has written; in frames 2 KiB apart, of which few share a
    /// place in the first cache, no more than that has room for. 0 where [`rx_burst`](Self::rx_burst) has
    /// begun to fetch them.
    const FETCH_AHEAD: usize = 16;

    /// Moves received frames to the end of `into`, at most [`BURST`], in the order of arrival.
    /// Returns how many.
    fn rx_burst(&mut self, into: &mut Vec<Self::Frame>) -> usize;

    /// Queues frames for transmission, in order, and drains `frames`. Those that do not fit into
    /// the ring are recycled; returns how many were.
    fn tx_burst(&mut self, frames: &mut Vec<Self::Frame>) -> usize;

    /// How many frames can be allocated and transmitted now without one being refused.
    fn tx_room(&self) -> usize;

    /// Transmits a super-packet, Ethernet header included, behind all frames that were queued before, and
    /// leaves the cutting to the NIC.
    fn tx_whole(&mut self, offload: Offload, frame: &[u8]) -> TxWhole;

    /// A free frame of length zero, to be filled and transmitted; `None` when there is none left.
    fn alloc(&mut self) -> Option<Self::Frame>;

    /// Takes a frame back without transmitting it.
    fn recycle(&mut self, frame: Self::Frame);

    /// Takes several frames back.
    #[inline]
    fn recycle_all(&mut self, frames: impl ExactSizeIterator<Item = Self::Frame>) {
        frames.for_each(|frame| self.recycle(frame));
    }

    /// The frame's bytes, from the Ethernet header on, without a frame check sequence.
    fn bytes<'a>(&'a self, frame: &'a Self::Frame) -> &'a [u8];

    /// The room from the frame's first byte to the end of its buffer: at least 1,514 + 4 bytes.
    fn buffer_mut<'a>(&'a mut self, frame: &'a mut Self::Frame) -> &'a mut [u8];

    /// Makes the frame `len` bytes long.
    ///
    /// # Panics
    /// If `len` is more than the buffer's.
    fn set_len(&mut self, frame: &mut Self::Frame, len: usize);

    /// Takes `len` bytes off the frame's front; they are headroom from then on.
    ///
    /// # Panics
    /// If `len` is not less than the frame's length.
    fn pull(&mut self, frame: &mut Self::Frame, len: usize);

    /// Makes the frame `len` bytes longer at its front: by its headroom, whose contents are whatever
    /// was there.
    ///
    /// # Panics
    /// If `len` is more than the headroom, which is [`HEADROOM`] and what was pulled.
    fn push(&mut self, frame: &mut Self::Frame, len: usize);

    /// Once per burst, also when nothing came: reaps transmitted frames, refills the receive
    /// side, wakes the driver where it asks for that.
    fn housekeeping(&mut self);
}

/// What became of a super-packet that was to be transmitted whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxWhole {
    /// It is on its way.
    Sent,
    /// The NIC has no room for it: it is lost.
    Full,
    /// This port, or the NIC at this time, cannot do so: it must be cut.
    Unable,
}

/// Pieces of a frame that a host takes at once: one for the headers, and one for each payload of a burst.
pub const PIECES_MAX: usize = BURST + 1;

/// The host's stack, by way of a TAP.
pub trait Host {
    /// Hands an Ethernet frame to the host, of at most 14 + 65,535 bytes: those of `pieces`, one after
    /// another. With `offload.segments` it is a super-packet: several packets of one flow as one, of a
    /// kind that the host takes.
    ///
    /// # Panics
    /// With more than [`PIECES_MAX`] pieces.
    fn deliver(&mut self, offload: Offload, pieces: &[&[u8]]) -> Result<(), Refused>;

    /// Hands one Ethernet frame to the host that holds one packet, complete with its checksums.
    fn deliver_frame(&mut self, frame: &[u8]) -> Result<(), Refused> {
        self.deliver(Offload::default(), &[frame])
    }

    /// Takes one Ethernet frame from the host into `buffer`; `None` when there is none. A frame longer
    /// than `buffer` is cut by the kernel.
    fn take(&mut self, buffer: &mut [u8]) -> Option<Taken>;

    /// Which super-packets the host takes.
    fn super_packets(&self) -> SuperPackets;
}

/// A frame that the host sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its length, in bytes.
    pub len: usize,
    /// What is left to do to it.
    pub offload: Offload,
}

/// Kinds of super-packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SuperPackets {
    /// Of TCP segments.
    pub tcp: bool,
    /// Of UDP datagrams.
    pub udp: bool,
}

impl SuperPackets {
    /// None at all.
    pub const NONE: Self = Self { tcp: false, udp: false };
}

/// The host did not take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its queue is full, or the interface is down.
    Full,
    /// The frame is longer than the interface takes.
    TooLong,
}
