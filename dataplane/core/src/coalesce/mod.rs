//! Runs: packets of one flow within a burst, which the host gets as one super-packet.
//!
//! The host's stack does most of its work once per packet, however long that is; to cut a super-packet
//! again, where a socket wants single datagrams, costs it far less. So a burst's packets are put together
//! as generic receive offload does it (Linux, net/ipv4/udp_offload.c and net/ipv4/tcp_offload.c), and no
//! payload is copied for that:
//!
//! ```text
//!   burst     a0  b0  a1  c0  a2  b1*         b1 does not continue b0
//!
//!   delivered | headers of a0' | a0 | a1 | a2 |   b0   c0   b1
//! ```
//!
//! What always holds:
//!
//! - What the host cuts a super-packet into is what arrived, byte for byte, but for the identification of
//!   IPv4 packets that nobody may fragment, which has no meaning (RFC 6864, section 4.1).
//! - The packets of a flow are delivered in the order of their arrival: a packet that does not continue
//!   its flow's run ends it.
//! - The host does not look at the checksums of what a super-packet holds: they have been verified here.
//!   A packet whose checksum is wrong, or absent, goes alone and as it came.
//! - A packet without company goes as it came; nothing but its flow's place in a table of 256 bytes is
//!   read or written for it.

mod packet;

use std::net::IpAddr;

use crate::parse::{Fragment, IpPacket, Ports, Transport};
use crate::port::{BURST, SuperPackets};
use crate::wire::checksum::Checksum;
use packet::{Continuation, Packet};
pub use packet::{HEADERS_MAX, Headers};

/// Packets in one run at most, which is as many as Linux cuts UDP into since 5.0 (`UDP_MAX_SEGMENTS` in
/// its include/linux/udp.h).
pub const RUN_MAX: usize = 64;

const _: () = assert!(BURST <= RUN_MAX, "a run lies within one burst");
const _: () = assert!(BURST <= u64::BITS as usize, "a word has a bit for each frame of a burst");

/// Places in the table of flows. Two flows at the same place end each other's runs: 256 places keep that
/// rare with 64 packets, and are four cache lines.
const PLACES: usize = 256;

/// The runs of one burst. Frames are known by their numbers, 0 for the first that was added.
#[derive(Debug)]
pub struct Coalescer {
    kinds: SuperPackets,
    /// One more than the number of the frame that leads the flow's last run; 0 for none.
    leaders: [u8; PLACES],
    /// How many frames were added.
    frames: usize,
    /// Frames that follow another one in its run.
    followers: u64,
    /// Frames that lead a run with followers; only for these does `runs` say anything.
    led: u64,
    runs: [Run; BURST],
    /// The frame behind each frame in its run, if there is one.
    next: [u8; BURST],
}

/// A run of several frames.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    first: Packet,
    /// Of the first packet, and so of all.
    flow_sum: Checksum,
    last: u8,
    count: u8,
    /// Length of all payloads, in bytes.
    payload_len: u16,
    /// Whether nothing may follow: the last packet was shorter, or had the flag PSH.
    is_ended: bool,
}

impl Coalescer {
    /// A coalescer that makes super-packets of these kinds.
    pub fn new(kinds: SuperPackets) -> Self {
        Self {
            kinds,
            leaders: [0; PLACES],
            frames: 0,
            followers: 0,
            led: 0,
            runs: [Run::default(); BURST],
            next: [0; BURST],
        }
    }

    /// Whether there is anything to do for it.
    pub fn is_on(&self) -> bool {
        self.kinds != SuperPackets::NONE
    }

    /// Adds the next frame of the burst. It holds `packet`, without a tag, if that was parsed from it;
    /// `frame` gives the bytes of all frames that were added, and of this one.
    ///
    /// # Panics
    /// When [`BURST`] frames have been added before.
    #[inline]
    pub fn add<'a>(&mut self, packet: Option<&IpPacket>, frame: impl Fn(usize) -> &'a [u8]) {
        let number = self.frames;
        assert!(number < BURST, "a burst has {BURST} frames");
        self.frames += 1;
        let Some(packet) = packet else { return };
        if packet.fragment != Fragment::Whole {
            // Its flow may be any.
            self.leaders.fill(0);
            return;
        }
        let (ports, wanted) = match packet.transport {
            Transport::Udp(ports) => (ports, self.kinds.udp),
            Transport::Tcp(ports, _) => (ports, self.kinds.tcp),
            _ => return,
        };
        if !wanted {
            return;
        }
        let place = place(packet, ports);
        let leader = self.leaders[place];
        let joined = leader != 0 && self.join(usize::from(leader) - 1, number, frame);
        if !joined {
            self.leaders[place] = number as u8 + 1;
        }
    }

    /// Puts a frame at the end of the run of `leader`, if it continues it.
    fn join<'a>(
        &mut self,
        leader: usize,
        number: usize,
        frame: impl Fn(usize) -> &'a [u8],
    ) -> bool {
        let (head, bytes) = (frame(leader), frame(number));
        if !packet::may_be_of_one_flow(head, bytes) {
            return false;
        }
        if self.led & 1 << leader == 0 {
            let Some(first) = Packet::joinable(head) else { return false };
            self.runs[leader] = Run {
                first,
                flow_sum: first.flow_sum(head),
                last: leader as u8,
                count: 1,
                payload_len: first.payload_len() as u16,
                is_ended: first.is_last(),
            };
        }
        let run = &mut self.runs[leader];
        if run.is_ended {
            return false;
        }
        let Some(packet) = run.first.joinable_to(bytes) else { return false };
        let before = Continuation { count: run.count, payload_len: run.payload_len };
        if !packet.continues(bytes, &run.first, head, before) {
            return false;
        }
        // Last, since all bytes are read for it; the leader's when it is to lead.
        let is_intact = |packet: Packet, bytes| packet.is_intact(bytes, run.flow_sum);
        if run.count == 1 && !is_intact(run.first, head) || !is_intact(packet, bytes) {
            return false;
        }
        self.next[usize::from(run.last)] = number as u8;
        run.last = number as u8;
        run.count += 1;
        run.payload_len += packet.payload_len() as u16;
        run.is_ended = packet.is_last() || packet.payload_len() < run.first.payload_len();
        self.led |= 1 << leader;
        self.followers |= 1 << number;
        true
    }

    /// What is to be delivered for frame `number`.
    #[inline]
    pub fn delivery(&self, number: usize) -> Delivery<'_> {
        if self.followers & 1 << number != 0 {
            Delivery::Followed
        } else if self.led & 1 << number != 0 {
            Delivery::Run(RunOf { coalescer: self, leader: number })
        } else {
            Delivery::Alone
        }
    }

    /// Forgets all frames.
    #[inline]
    pub fn clear(&mut self) {
        self.leaders.fill(0);
        (self.frames, self.followers, self.led) = (0, 0, 0);
    }
}

/// A flow's place in the table: the first bits of a product that all bits of the flow's key have a part
/// in. Whoever chooses keys that meet at one place keeps his own packets from being coalesced.
#[inline]
fn place(packet: &IpPacket, ports: Ports) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let hosts = match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits())
        }
        (src, dst) => folded(src) ^ folded(dst).rotate_left(32),
    };
    let ports =
        u64::from(packet.protocol) << 32 | u64::from(ports.src) << 16 | u64::from(ports.dst);
    ((hosts ^ ports.wrapping_mul(GOLDEN)).wrapping_mul(GOLDEN) >> (u64::BITS - 8)) as usize
}

fn folded(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64 ^ address.to_bits() as u64,
    }
}

/// How a frame is delivered.
#[derive(Clone, Copy, Debug)]
pub enum Delivery<'a> {
    /// As it came.
    Alone,
    /// In front of others, as one super-packet.
    Run(RunOf<'a>),
    /// Within the super-packet of one that came before.
    Followed,
}

/// A run of a burst.
#[derive(Clone, Copy, Debug)]
pub struct RunOf<'a> {
    coalescer: &'a Coalescer,
    leader: usize,
}

impl<'a> RunOf<'a> {
    /// How many frames it has: two at least.
    pub fn count(&self) -> usize {
        usize::from(self.run().count)
    }

    /// The numbers of its frames, in order.
    pub fn frames(&self) -> impl Iterator<Item = usize> + use<'a> {
        let next = &self.coalescer.next;
        let behind = move |&number: &usize| Some(usize::from(next[number]));
        std::iter::successors(Some(self.leader), behind).take(self.count())
    }

    /// The headers of the super-packet, and what the host has to know of it. `frame` gives the bytes of
    /// the run's frames.
    pub fn headers<'b>(&self, frame: impl Fn(usize) -> &'b [u8]) -> Headers {
        let run = self.run();
        let (first, last) = (frame(self.leader), frame(usize::from(run.last)));
        run.first.headers(first, last, usize::from(run.payload_len))
    }

    /// The payloads of its frames, in order. `frame` gives the bytes of the run's frames.
    pub fn payloads<'b>(
        &self,
        frame: impl Fn(usize) -> &'b [u8],
    ) -> impl Iterator<Item = &'b [u8]> {
        let run = self.run();
        // All headers are of one length, and all payloads but the last one.
        let (at, len) = (run.first.payload_at(), run.first.payload_len());
        let mut left = usize::from(run.payload_len);
        self.frames().map(move |number| {
            let payload = &frame(number)[at..][..len.min(left)];
            left -= payload.len();
            payload
        })
    }

    fn run(&self) -> &'a Run {
        &self.coalescer.runs[self.leader]
    }
}
