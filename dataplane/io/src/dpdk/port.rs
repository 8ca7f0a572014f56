//! One queue pair of the NIC, and its frames.
//!
//! Each port has a pool of its own, and every frame is one mbuf of it:
//!
//! ```text
//!               refill                  alloc
//!      pool ------------> spare frames --------> held by a worker <---- rx_burst ----+
//!       ^ ^                                        |    |                            |
//!       | +------------- recycled <----------------+    | tx_burst                   |
//!       |   in bulk                  recycle            v                            |
//!       |                                      [waiting] --> transmit ring     receive ring
//!       |                                                      |                     ^
//!       +------------------------------------------------------+---------------------+
//!                              the driver, in its own time
//! ```
//!
//! **Invariant**: an mbuf is in one place of the drawing at a time. A [`Frame`] comes into being only in
//! the shim, which the driver or the pool has just handed the mbuf; it is not `Clone`, and `tx_burst` and
//! `recycle` consume it. Thus whoever has a `&mut Frame` is alone with its bytes.
//!
//! What the driver has no room for waits with the port and is offered again each turn, before all that
//! comes after it. A driver does not tell how much room it has; the port's own queue is what
//! [`Port::tx_room`] goes by.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use vipdp_core::port::{Port, TxWhole};
use vipdp_core::wire::vnet::Offload;

use super::device::Handle;
use super::shim::{self, BURST, RxDrops};

/// Frames that are ready to be allocated, at most: a super-packet of the host's is cut into 46, and two
/// bursts of others may be on their way out before it.
const SPARE: usize = 4 * BURST;

/// Frames that wait for room on the transmit ring, at most.
const WAITING_MAX: usize = 8 * BURST;

/// Bytes of a frame at least: an Ethernet header.
const FRAME_LEN_MIN: u16 = 14;

/// Frames that one port may have in its own hands, beside the rings.
pub(super) const OWN_MAX: usize = SPARE + WAITING_MAX + 6 * BURST;

/// A frame of one [`DpdkPort`]: the right to one mbuf.
///
/// Dropping it does not free the mbuf: hand it to `tx_burst` or `recycle`. A port panics when given a
/// frame of another port.
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to its port"]
#[repr(C)]
pub struct Frame {
    data: NonNull<u8>,
    /// Bytes in use from `data` on.
    len: u16,
    /// Bytes of the buffer before `data`.
    headroom: u16,
    /// The port's queue; and [`CHANGED`] if the mbuf says otherwise of `len` and `headroom`.
    owner: u32,
}

/// What a frame's length and place are is written to its mbuf when it is transmitted, if at all.
const CHANGED: u32 = 1 << 16;

impl Frame {
    /// The mbuf, whose buffer lies so many bytes behind it.
    #[inline]
    fn mbuf(&self, buffer_offset: usize) -> NonNull<c_void> {
        let before = usize::from(self.headroom) + buffer_offset;
        // SAFETY: the buffer begins `headroom` bytes before `data`; mbuf and buffer are one object of a pool.
        unsafe { self.data.sub(before).cast() }
    }
}

// SAFETY: the mbuf belongs to whoever has the frame, and DPDK binds no mbuf to a thread.
unsafe impl Send for Frame {}

/// Where a port's frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accounting {
    /// In nobody's hands.
    pub free: usize,
    /// With a worker, as [`Frame`]s.
    pub held: usize,
    /// Waiting for room on the transmit ring.
    pub waiting: usize,
    /// With the driver: to receive into, received and not yet taken, or transmitting.
    pub with_driver: usize,
    /// All of them.
    pub total: usize,
}

/// What one port lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatistics {
    /// Received frames that were in several pieces: longer than a buffer.
    pub unusable: u64,
    /// Received frames of which the NIC says that the checksum of the IPv4 header, of TCP or of UDP is
    /// wrong: the kernel would drop them too.
    pub bad_checksum: u64,
    /// Frames to transmit that neither the driver nor the port had room for, or that the NIC had no link for.
    pub refused: u64,
}

/// One queue pair of a [`Nic`](super::Nic).
pub struct DpdkPort {
    device: u16,
    queue: u16,
    pool: NonNull<c_void>,
    /// Where each mbuf of the pool has its buffer: so many bytes behind itself.
    buffer_offset: usize,
    /// Bytes of each buffer.
    buffer_len: usize,
    total: usize,
    spare: Vec<Frame>,
    /// Mbufs that go back to the pool at the next occasion.
    recycled: Vec<NonNull<c_void>>,
    waiting: VecDeque<Frame>,
    /// Frames that a worker has.
    held: usize,
    drops: RxDrops,
    refused: u64,
    /// The thread that is registered for this port.
    thread: Option<ThreadId>,
    /// The device stays open as long as there is a port.
    handle: Arc<Handle>,
}

// SAFETY: a port has its queue and its lists to itself, and DPDK lets any one thread at a time use a
// queue; pools may be used by several threads at once.
unsafe impl Send for DpdkPort {}

impl DpdkPort {
    /// The port of a queue that was set up with this pool of `total` frames.
    pub(super) fn new(
        device: u16,
        queue: u16,
        pool: NonNull<c_void>,
        total: usize,
        handle: Arc<Handle>,
    ) -> Self {
        let mut buffers = shim::Buffers::default();
        // SAFETY: the pool lives as long as the device, which the handle keeps.
        unsafe { shim::vipdp_dpdk_buffers(pool.as_ptr(), &raw mut buffers) };
        let mut port = Self {
            device,
            queue,
            pool,
            buffer_offset: buffers.offset as usize,
            buffer_len: buffers.len as usize,
            total,
            spare: Vec::with_capacity(SPARE + BURST),
            recycled: Vec::with_capacity(2 * BURST),
            waiting: VecDeque::with_capacity(WAITING_MAX),
            held: 0,
            drops: RxDrops::default(),
            refused: 0,
            thread: None,
            handle,
        };
        port.refill();
        port
    }

    /// Makes the calling thread known to DPDK: only then it has a cache of the pool of its own, without
    /// which every frame costs an atomic exchange. Undone when the port is dropped by the same thread.
    ///
    /// # Errors
    /// DPDK has no room for another thread: it has 128.
    pub fn enter_thread(&mut self) -> io::Result<()> {
        // SAFETY: the EAL runs for as long as there is a port.
        match unsafe { shim::vipdp_dpdk_enter_thread() } {
            0 => {
                self.thread = Some(thread::current().id());
                Ok(())
            }
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }

    /// The queue's number.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// What this port lost.
    pub fn statistics(&self) -> QueueStatistics {
        let RxDrops { unusable, bad_checksum } = self.drops;
        QueueStatistics { unusable, bad_checksum, refused: self.refused }
    }

    /// Whether frames wait to be transmitted that the driver had no room for.
    pub fn is_sending(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Where the port's frames are, by the pool's own count. It looks at every thread's cache: not for
    /// each burst.
    ///
    /// # Panics
    /// If there are more than the total: a frame was freed twice.
    pub fn accounting(&self) -> Accounting {
        // SAFETY: the pool lives as long as the device, which the handle keeps.
        let available = unsafe { shim::vipdp_dpdk_available(self.pool.as_ptr()) } as usize;
        let free = available + self.spare.len() + self.recycled.len();
        let (held, waiting) = (self.held, self.waiting.len());
        let ours = free + held + waiting;
        assert!(ours <= self.total, "{ours} of {} frames", self.total);
        Accounting { free, held, waiting, with_driver: self.total - ours, total: self.total }
    }

    /// Receives a burst and transmits it as it came, without a look at it: what the driver takes by
    /// itself, for benchmarks. Returns how many frames there were.
    pub fn forward(&mut self) -> usize {
        // SAFETY: the queue is set up and this port's alone.
        unsafe { shim::vipdp_dpdk_forward(self.device, self.queue) as usize }
    }

    /// Hands frames to the driver. Those that it took, the first ones, are gone: the caller forgets them.
    fn send(device: u16, queue: u16, frames: &[Frame]) -> usize {
        // SAFETY: the queue is set up and the port's alone; each frame names an mbuf that is the port's,
        // with `headroom` and `len` within its buffer, or none is handed over.
        let sent = unsafe {
            shim::vipdp_dpdk_tx(device, queue, queue, frames.as_ptr(), frames.len() as u32)
        };
        if sent == u32::MAX {
            assert_may_leave(frames, queue);
        }
        sent as usize
    }

    /// Gives up what is to leave by a NIC without a link. A driver would keep it until the link is back, and send it
    /// all then: heartbeats among it, of a time when this node served.
    #[cold]
    fn refuse(&mut self, frames: &mut Vec<Frame>) -> usize {
        let refused = frames.len();
        self.refused += (refused + self.waiting.len()) as u64;
        for frame in self.waiting.drain(..).chain(frames.drain(..)) {
            self.recycled.push(frame.mbuf(self.buffer_offset));
        }
        refused
    }

    /// Offers the driver what waits.
    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let (first, _) = self.waiting.as_slices();
            let (sent, offered) = (Self::send(self.device, self.queue, first), first.len());
            self.waiting.drain(..sent);
            if sent < offered {
                break;
            }
        }
    }

    /// Gives recycled mbufs back to the pool.
    fn release(&mut self) {
        // SAFETY: each is an mbuf of the pool whose frame was consumed, and is named here once.
        unsafe {
            let (mbufs, count) = (self.recycled.as_ptr(), self.recycled.len() as u32);
            shim::vipdp_dpdk_free(self.pool.as_ptr(), mbufs, count);
        }
        self.recycled.clear();
    }

    /// Fills up the spare frames from the pool, as far as it has some.
    fn refill(&mut self) {
        while self.spare.len() <= SPARE - BURST {
            self.spare.reserve(BURST);
            let at = self.spare.len();
            // SAFETY: behind the spare ones is room for a burst of frames, which the shim writes, or
            // nothing when the pool has too few.
            unsafe {
                let into = self.spare.as_mut_ptr().add(at);
                let (pool, owner) = (self.pool.as_ptr(), self.queue);
                if shim::vipdp_dpdk_alloc(pool, owner, into, BURST as u32) != 0 {
                    // The driver may keep those that it has long transmitted.
                    shim::vipdp_dpdk_reap(self.device, self.queue);
                    break;
                }
                self.spare.set_len(at + BURST);
            }
        }
    }

    /// Bytes of a frame's buffer from the first one in use on.
    #[inline]
    fn room(&self, frame: &Frame) -> usize {
        self.buffer_len - usize::from(frame.headroom)
    }

    #[inline]
    fn assert_own(&self, frame: &Frame) {
        assert_owner(frame, self.queue);
    }
}

/// A frame of another port names an mbuf of another pool.
#[inline]
fn assert_owner(frame: &Frame, queue: u16) {
    if frame.owner as u16 != queue {
        refuse_foreign(frame.owner as u16, queue);
    }
}

/// What is shorter some drivers do not bear.
fn assert_may_leave(frames: &[Frame], queue: u16) {
    for frame in frames {
        assert_owner(frame, queue);
        assert!(frame.len >= FRAME_LEN_MIN, "a frame of {} bytes to transmit", frame.len);
    }
}

/// By values and apart: to be told of, every frame would have to be in memory.
#[cold]
#[inline(never)]
fn refuse_foreign(owner: u16, queue: u16) -> ! {
    panic!("a frame of another port: of queue {owner}, not {queue}");
}

impl Port for DpdkPort {
    type Frame = Frame;
    type Processor = crate::processor::Native;

    /// The shim does, where it reads of the driver where a frame is.
    const FETCH_AHEAD: usize = 0;

    #[inline]
    fn rx_burst(&mut self, into: &mut Vec<Frame>) -> usize {
        into.reserve(BURST);
        let at = into.len();
        // SAFETY: the queue is set up and this port's alone. Behind `into`'s last frame is room for a
        // burst; the shim writes as many as it returns, each an mbuf that the driver has handed over.
        unsafe {
            let out = into.as_mut_ptr().add(at);
            let (device, queue, pool) = (self.device, self.queue, self.pool.as_ptr());
            let drops = &raw mut self.drops;
            let count = shim::vipdp_dpdk_rx(device, queue, pool, queue, out, drops);
            let count = count as usize;
            into.set_len(at + count);
            self.held += count;
            count
        }
    }

    #[inline]
    fn tx_burst(&mut self, frames: &mut Vec<Frame>) -> usize {
        self.held -= frames.len();
        if !self.handle.link().is_up {
            assert_may_leave(frames, self.queue);
            return self.refuse(frames);
        }
        self.flush();
        let mut sent = 0;
        if self.waiting.is_empty() {
            sent = Self::send(self.device, self.queue, frames);
        }
        assert_may_leave(&frames[sent..], self.queue);
        let mut rest = frames.drain(sent..);
        let room = WAITING_MAX - self.waiting.len();
        self.waiting.extend(rest.by_ref().take(room));
        let refused = rest.len();
        for frame in rest {
            // Bounded by the burst: for once the list grows.
            self.recycled.push(frame.mbuf(self.buffer_offset));
        }
        // The driver has them.
        frames.clear();
        self.refused += refused as u64;
        refused
    }

    fn tx_room(&self) -> usize {
        self.spare.len().min(WAITING_MAX - self.waiting.len())
    }

    /// DPDK's drivers cut what lies in chained mbufs, each in its own way and few in software: the worker
    /// does it.
    fn tx_whole(&mut self, _offload: Offload, _frame: &[u8]) -> TxWhole {
        TxWhole::Unable
    }

    fn alloc(&mut self) -> Option<Frame> {
        if self.spare.is_empty() {
            self.release();
            self.refill();
        }
        let frame = self.spare.pop()?;
        self.held += 1;
        Some(frame)
    }

    #[inline]
    fn recycle(&mut self, frame: Frame) {
        self.assert_own(&frame);
        if self.recycled.len() >= 2 * BURST {
            self.release();
        }
        self.recycled.push(frame.mbuf(self.buffer_offset));
        self.held -= 1;
    }

    #[inline]
    fn recycle_all(&mut self, frames: impl ExactSizeIterator<Item = Frame>) {
        if self.recycled.len() >= 2 * BURST {
            self.release();
        }
        self.recycled.reserve(frames.len());
        let (before, mut count) = (self.recycled.len(), 0);
        for (place, frame) in self.recycled.spare_capacity_mut().iter_mut().zip(frames) {
            assert_owner(&frame, self.queue);
            place.write(frame.mbuf(self.buffer_offset));
            count += 1;
        }
        // SAFETY: so many were just written behind those before.
        unsafe { self.recycled.set_len(before + count) };
        self.held -= count;
    }

    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.assert_own(frame);
        // SAFETY: the frame is alone with its buffer (module doc), and borrowed: no one writes to these
        // bytes while the slice lives. They are inside the buffer, whose memory started zeroed.
        unsafe { std::slice::from_raw_parts(frame.data.as_ptr(), usize::from(frame.len)) }
    }

    #[inline]
    fn buffer_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.assert_own(frame);
        // SAFETY: the frame is alone with its buffer (module doc), and borrowed mutably. The bytes reach
        // from its first one to the buffer's end, and its memory started zeroed.
        unsafe { std::slice::from_raw_parts_mut(frame.data.as_ptr(), self.room(frame)) }
    }

    #[inline]
    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        self.assert_own(frame);
        let room = self.room(frame);
        assert!(len <= room, "a frame of {len} bytes in a buffer of {room}");
        frame.len = len as u16;
        frame.owner |= CHANGED;
    }

    fn pull(&mut self, frame: &mut Frame, len: usize) {
        self.assert_own(frame);
        assert!(len < usize::from(frame.len), "{len} bytes off a frame of {}", frame.len);
        // SAFETY: less than the frame's length, thus within its buffer.
        frame.data = unsafe { frame.data.add(len) };
        let len = len as u16;
        (frame.len, frame.headroom) = (frame.len - len, frame.headroom + len);
        frame.owner |= CHANGED;
    }

    fn push(&mut self, frame: &mut Frame, len: usize) {
        self.assert_own(frame);
        let headroom = usize::from(frame.headroom);
        assert!(len <= headroom, "{len} bytes into a headroom of {headroom}");
        // SAFETY: no more than the bytes of the buffer before it.
        frame.data = unsafe { frame.data.sub(len) };
        let len = len as u16;
        (frame.len, frame.headroom) = (frame.len + len, frame.headroom - len);
        frame.owner |= CHANGED;
    }

    #[inline]
    fn housekeeping(&mut self) {
        if !self.waiting.is_empty() {
            self.flush();
        }
        if self.recycled.len() >= BURST {
            self.release();
        }
        self.refill();
    }
}

impl std::fmt::Debug for DpdkPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DpdkPort")
            .field("queue", &self.queue)
            .field("accounting", &self.accounting())
            .finish_non_exhaustive()
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        let (mine, offset) =
            (self.spare.drain(..).chain(self.waiting.drain(..)), self.buffer_offset);
        self.recycled.extend(mine.map(|frame| frame.mbuf(offset)));
        self.release();
        if self.thread == Some(thread::current().id()) {
            // SAFETY: this thread was registered, and the EAL runs until the handle is gone.
            unsafe { shim::vipdp_dpdk_leave_thread() };
        }
    }
}
