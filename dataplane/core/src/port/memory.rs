//! A port and a host in plain memory, for tests and benchmarks.

use std::collections::VecDeque;

use super::{BURST, HEADROOM, Host, PIECES_MAX, Port, Refused, SuperPackets, Taken, TxWhole};
use crate::processor::Portable;
use crate::wire::vnet::Offload;

/// Length of a frame's buffer, headroom included: that of the AF_XDP port.
const BUFFER_LEN: usize = 2048;

/// A port whose wire is two queues of byte vectors.
#[derive(Debug, Default)]
pub struct MemoryPort {
    free: Vec<MemoryFrame>,
    receiving: VecDeque<MemoryFrame>,
    /// Frames that were transmitted and not yet reaped.
    transmitting: Vec<MemoryFrame>,
    /// What was transmitted, oldest first.
    pub sent: Vec<Vec<u8>>,
    /// Super-packets that were transmitted whole, each beside what was left to do to it and how many
    /// frames had been sent before; `None` for a port that cannot do so.
    pub sent_whole: Option<Vec<(Offload, usize, Vec<u8>)>>,
    frames: usize,
    /// How many frames one `tx_burst` takes.
    tx_room: usize,
    /// Whether the wire takes no more: what was transmitted is not reaped.
    is_stalled: bool,
}

/// A frame of a [`MemoryPort`].
#[derive(Debug)]
pub struct MemoryFrame {
    buffer: Box<[u8; BUFFER_LEN]>,
    start: usize,
    len: usize,
}

impl MemoryFrame {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }

    /// From the first byte to the end of the buffer.
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..]
    }
}

impl MemoryPort {
    /// A port of `frames` frames.
    pub fn new(frames: usize) -> Self {
        let free = || MemoryFrame { buffer: Box::new([0; BUFFER_LEN]), start: HEADROOM, len: 0 };
        Self {
            free: (0..frames).map(|_| free()).collect(),
            frames,
            tx_room: usize::MAX,
            ..Self::default()
        }
    }

    /// Lets one `tx_burst` take no more than `room` frames.
    pub fn limit_tx(&mut self, room: usize) {
        self.tx_room = room;
    }

    /// Keeps what is transmitted from now on in the ring for ever.
    pub fn stall(&mut self) {
        self.is_stalled = true;
    }

    /// Puts a frame on the wire towards the port.
    ///
    /// # Panics
    /// If no frame is free, or `bytes` is longer than a frame.
    pub fn arrive(&mut self, bytes: &[u8]) {
        let mut frame = self.free.pop().expect("a free frame");
        frame.start = HEADROOM;
        frame.len = bytes.len();
        frame.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        self.receiving.push_back(frame);
    }

    /// How many frames a worker holds: all that are neither free, nor receiving, nor transmitting.
    pub fn held(&self) -> usize {
        self.frames - self.free.len() - self.receiving.len() - self.transmitting.len()
    }
}

impl Port for MemoryPort {
    type Frame = MemoryFrame;
    type Processor = Portable;

    fn rx_burst(&mut self, into: &mut Vec<MemoryFrame>) -> usize {
        let count = self.receiving.len().min(BURST);
        into.extend(self.receiving.drain(..count));
        count
    }

    fn tx_burst(&mut self, frames: &mut Vec<MemoryFrame>) -> usize {
        let taken = frames.len().min(self.tx_room);
        for frame in frames.drain(..taken) {
            self.sent.push(frame.bytes().to_vec());
            self.transmitting.push(frame);
        }
        let refused = frames.len();
        self.free.append(frames);
        refused
    }

    fn tx_room(&self) -> usize {
        self.free.len().min(self.tx_room)
    }

    fn tx_whole(&mut self, offload: Offload, frame: &[u8]) -> TxWhole {
        let Some(whole) = &mut self.sent_whole else { return TxWhole::Unable };
        whole.push((offload, self.sent.len(), frame.to_vec()));
        TxWhole::Sent
    }

    fn alloc(&mut self) -> Option<MemoryFrame> {
        let mut frame = self.free.pop()?;
        (frame.start, frame.len) = (HEADROOM, 0);
        Some(frame)
    }

    fn recycle(&mut self, frame: MemoryFrame) {
        self.free.push(frame);
    }

    fn bytes<'a>(&'a self, frame: &'a MemoryFrame) -> &'a [u8] {
        frame.bytes()
    }

    fn buffer_mut<'a>(&'a mut self, frame: &'a mut MemoryFrame) -> &'a mut [u8] {
        frame.bytes_mut()
    }

    fn set_len(&mut self, frame: &mut MemoryFrame, len: usize) {
        let room = BUFFER_LEN - frame.start;
        assert!(len <= room, "a frame of {len} bytes in a buffer of {room}");
        frame.len = len;
    }

    fn pull(&mut self, frame: &mut MemoryFrame, len: usize) {
        assert!(len < frame.len, "{len} bytes off a frame of {}", frame.len);
        (frame.start, frame.len) = (frame.start + len, frame.len - len);
    }

    fn push(&mut self, frame: &mut MemoryFrame, len: usize) {
        assert!(len <= frame.start, "{len} bytes into a headroom of {}", frame.start);
        (frame.start, frame.len) = (frame.start - len, frame.len + len);
    }

    fn housekeeping(&mut self) {
        if !self.is_stalled {
            self.free.append(&mut self.transmitting);
        }
    }
}

/// A host that keeps what it was given, and gives what it was told to.
#[derive(Debug, Default)]
pub struct MemoryHost {
    /// Frames that were delivered, oldest first.
    pub delivered: Vec<Vec<u8>>,
    /// What each of these carried beside it.
    pub offloads: Vec<Offload>,
    /// Frames that the host sends, oldest first, and what they carry beside them.
    pub outgoing: VecDeque<(Offload, Vec<u8>)>,
    /// How many further frames it takes before it is full; `None` for any number.
    pub room: Option<usize>,
    /// What it takes of several packets as one.
    pub super_packets: SuperPackets,
    /// Whether it refuses super-packets all the same, as a kernel may that does not like one.
    pub refuses_super_packets: bool,
}

impl MemoryHost {
    /// Lets the host send a frame of one packet, complete with its checksums.
    pub fn send(&mut self, frame: Vec<u8>) {
        self.outgoing.push_back((Offload::default(), frame));
    }
}

impl Host for MemoryHost {
    fn deliver(&mut self, offload: Offload, pieces: &[&[u8]]) -> Result<(), Refused> {
        assert!(pieces.len() <= PIECES_MAX, "{} pieces", pieces.len());
        if self.refuses_super_packets && offload.segments.is_some() {
            return Err(Refused::TooLong);
        }
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(1).ok_or(Refused::Full)?;
        }
        self.delivered.push(pieces.concat());
        self.offloads.push(offload);
        Ok(())
    }

    fn take(&mut self, buffer: &mut [u8]) -> Option<Taken> {
        let (offload, frame) = self.outgoing.pop_front()?;
        let len = frame.len().min(buffer.len());
        buffer[..len].copy_from_slice(&frame[..len]);
        Some(Taken { len, offload })
    }

    fn super_packets(&self) -> SuperPackets {
        self.super_packets
    }
}
