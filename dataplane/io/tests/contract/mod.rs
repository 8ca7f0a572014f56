//! What every port does, whatever is below it: the words of `vipdp_core::port`, as a test.
//!
//! It runs over a cable: the port on one end, and raw sockets of the kernel's on the other.

use std::panic::{AssertUnwindSafe, catch_unwind};

use vipdp_core::port::{BURST, HEADROOM, Port, TxWhole};
use vipdp_core::wire::vnet::Offload;

use crate::frames::{experimental, padded, udp_flow};
use crate::lab::{Wire, until};

/// Frames without and with a check sequence's worth of padding, and the longest that an MTU of 1,500 lets
/// through.
const LENGTHS: [usize; 6] = [60, 64, 65, 590, 1513, 1514];

/// Rounds through all of these checks: what a port lost in one, it would miss in the next.
const ROUNDS: u16 = 3;

/// Checks all of it. The port receives what comes for the VIPs at least, by one queue. `held` are the
/// frames that a port says that we have.
pub fn check<P: Port>(port: &mut P, wire: &Wire, held: impl Fn(&P) -> usize) {
    for round in 0..ROUNDS {
        received_in_order_and_unchanged(port, wire, round);
        transmitted_in_order_and_unchanged(port, wire);
        answered_in_place(port, wire);
        grows_at_its_front(port, wire);
        every_frame_has_its_own_bytes(port, &held);
        bounds_are_kept(port);
        assert_eq!(port.tx_whole(Offload::default(), &experimental(0, 60)), TxWhole::Unable);
        assert_eq!(held(port), 0);
        assert!(port.tx_room() >= BURST, "{}", port.tx_room());
    }
}

/// The next `count` frames.
fn receive<P: Port>(port: &mut P, count: usize) -> Vec<P::Frame> {
    let mut frames = Vec::new();
    until("frames to arrive", || {
        let before = frames.len();
        let came = port.rx_burst(&mut frames);
        assert_eq!(frames.len(), before + came);
        assert!(came <= BURST);
        port.housekeeping();
        frames.len() >= count
    });
    assert_eq!(frames.len(), count);
    frames
}

fn received_in_order_and_unchanged<P: Port>(port: &mut P, wire: &Wire, round: u16) {
    let sent: Vec<_> = (0..200)
        .map(|n| padded(&udp_flow(round * 256 + n), LENGTHS[usize::from(n) % LENGTHS.len()]))
        .collect();
    sent.iter().for_each(|frame| wire.send(frame));
    for (at, frame) in receive(port, sent.len()).into_iter().enumerate() {
        assert_eq!(port.bytes(&frame), sent[at], "frame {at} of round {round}");
        port.recycle(frame);
    }
}

fn filled<P: Port>(port: &mut P, bytes: &[u8]) -> P::Frame {
    let mut frame = port.alloc().expect("a free frame");
    assert!(port.bytes(&frame).is_empty());
    assert!(port.buffer_mut(&mut frame).len() >= 1514 + 4);
    port.buffer_mut(&mut frame)[..bytes.len()].copy_from_slice(bytes);
    port.set_len(&mut frame, bytes.len());
    frame
}

fn transmitted_in_order_and_unchanged<P: Port>(port: &mut P, wire: &Wire) {
    let sent: Vec<_> =
        (0..200).map(|n| experimental(n, LENGTHS[n as usize % LENGTHS.len()])).collect();
    for burst in sent.chunks(BURST) {
        let mut frames: Vec<_> = burst.iter().map(|bytes| filled(port, bytes)).collect();
        assert_eq!(port.tx_burst(&mut frames), 0);
        assert!(frames.is_empty());
        // A burst at a time: more of them do not fit into the socket on the other end.
        burst.iter().for_each(|bytes| assert_on_wire(port, wire, bytes));
    }
}

fn assert_on_wire<P: Port>(port: &mut P, wire: &Wire, bytes: &[u8]) {
    until("a frame on the wire", || {
        port.housekeeping();
        wire.receive_experimental().is_some_and(|frame| {
            assert_eq!(frame, bytes);
            true
        })
    });
}

fn answered_in_place<P: Port>(port: &mut P, wire: &Wire) {
    wire.send(&udp_flow(7));
    let mut frames = receive(port, 1);
    let answer = experimental(7, 100);
    port.buffer_mut(&mut frames[0])[..100].copy_from_slice(&answer);
    port.set_len(&mut frames[0], 100);
    assert_eq!(port.tx_burst(&mut frames), 0);
    assert_on_wire(port, wire, &answer);
}

/// One that was received, and one that was allocated.
fn grows_at_its_front<P: Port>(port: &mut P, wire: &Wire) {
    let came = padded(&udp_flow(1), 1400);
    wire.send(&came);
    let received = receive(port, 1).pop().expect("one");
    let headers = &experimental(7, HEADROOM)[..];
    for mut frame in [received, filled(port, &came)] {
        port.pull(&mut frame, 14);
        assert_eq!(port.bytes(&frame), &came[14..]);
        port.push(&mut frame, 14);
        assert_eq!(port.bytes(&frame), came);
        port.push(&mut frame, HEADROOM);
        port.buffer_mut(&mut frame)[..HEADROOM].copy_from_slice(headers);
        assert_eq!(port.tx_burst(&mut vec![frame]), 0);
        assert_on_wire(port, wire, &[headers, &came].concat());
    }
}

/// All that can be had at once, which are as many the second time, but for what is taken in bursts.
fn every_frame_has_its_own_bytes<P: Port>(port: &mut P, held: impl Fn(&P) -> usize) {
    let mut counts = Vec::new();
    for _ in 0..2 {
        let mut frames: Vec<_> = std::iter::from_fn(|| port.alloc()).collect();
        assert_eq!(held(port), frames.len());
        for (mark, frame) in (0u32..).zip(&mut frames) {
            port.buffer_mut(frame)[..4].copy_from_slice(&mark.to_be_bytes());
            port.set_len(frame, 4);
        }
        for (mark, frame) in (0u32..).zip(&frames) {
            assert_eq!(port.bytes(frame), mark.to_be_bytes());
        }
        counts.push(frames.len());
        frames.into_iter().for_each(|frame| port.recycle(frame));
        port.housekeeping();
    }
    let [first, second] = counts[..] else { panic!("two") };
    assert!(first >= 4 * BURST && first.abs_diff(second) <= 2 * BURST, "{counts:?}");
}

/// A frame is not made longer than its buffer, nor taken off more than it has.
fn bounds_are_kept<P: Port>(port: &mut P) {
    let mut frame = filled(port, &[0; 60]);
    let room = port.buffer_mut(&mut frame).len();
    let mut refuses = |what: &str, change: &mut dyn FnMut(&mut P, &mut P::Frame)| {
        let outcome = catch_unwind(AssertUnwindSafe(|| change(port, &mut frame)));
        assert!(outcome.is_err(), "{what}");
    };
    refuses("longer than its buffer", &mut |port, frame| port.set_len(frame, room + 1));
    refuses("nothing left", &mut |port, frame| port.pull(frame, 60));
    refuses("more than the headroom", &mut |port, frame| port.push(frame, 4096));
    port.set_len(&mut frame, room);
    port.recycle(frame);
}
