//! A ring in memory for a device: what it transmits it receives, in no time and without a copy.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use vipdp_core::port::{BURST, Port};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_io::dpdk::{Accounting, DpdkPort, Nic, Options};

use crate::alone::alone;
use crate::frames::experimental;
use crate::{open, options, transmit};

/// Frames that the ring of the driver holds.
const RING: usize = 1023;
/// Frames that the port keeps when it is full.
const WAITING: usize = 512;

/// What comes round next, and is recycled.
fn receive(port: &mut DpdkPort) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    port.rx_burst(&mut frames);
    let bytes = frames.iter().map(|frame| port.bytes(frame).to_vec()).collect();
    frames.into_iter().for_each(|frame| port.recycle(frame));
    bytes
}

#[test]
fn frames_come_round_in_order_and_all_are_accounted_for() {
    alone("ring::frames_come_round_in_order_and_all_are_accounted_for", || {
        let (nic, mut port) = open("net_ring0");
        assert_eq!(nic.driver(), "net_ring");
        assert_eq!(nic.queues(), 1);
        let total = Options::new("").frames_per_queue as usize;
        let all_free = Accounting { free: total, held: 0, waiting: 0, with_driver: 0, total };
        assert_eq!(port.accounting(), all_free);
        for round in 0..100 {
            let sent: Vec<_> = (0..BURST as u32)
                .map(|n| experimental(round * 64 + n, 60 + (n as usize * 23) % 1455))
                .collect();
            assert_eq!(transmit(&mut port, &sent), 0);
            let on_ring = Accounting { free: total - BURST, with_driver: BURST, ..all_free };
            assert_eq!(port.accounting(), on_ring);
            let mut frames = Vec::new();
            assert_eq!(port.rx_burst(&mut frames), BURST);
            let held = Accounting { free: total - BURST, held: BURST, ..all_free };
            assert_eq!(port.accounting(), held);
            for (frame, sent) in frames.into_iter().zip(&sent) {
                assert_eq!(port.bytes(&frame), sent);
                port.recycle(frame);
            }
            port.housekeeping();
            assert_eq!(port.accounting(), all_free);
        }
        let counted = nic.statistics();
        assert_eq!((counted.received, counted.transmitted), (6400, 6400));
    });
}

#[test]
fn what_does_not_fit_waits_and_what_cannot_wait_is_refused() {
    alone("ring::what_does_not_fit_waits_and_what_cannot_wait_is_refused", || {
        let (_nic, mut port) = open("net_ring0");
        let sent: Vec<_> = (0..2048).map(|n| experimental(n, 60)).collect();
        let mut refused = 0;
        for burst in sent.chunks(BURST) {
            let room = port.tx_room();
            let refused_now = transmit(&mut port, burst);
            assert!(refused_now == 0 || room < BURST, "{refused_now} refused with room for {room}");
            refused += refused_now;
            port.housekeeping();
        }
        assert_eq!(refused, 2048 - RING - WAITING);
        assert_eq!(port.statistics().refused, refused as u64);
        assert_eq!(port.tx_room(), 0);
        assert!(port.is_sending());
        let now = port.accounting();
        assert_eq!((now.waiting, now.with_driver, now.held), (WAITING, RING, 0));

        // As frames are taken, those that wait follow, in order; nothing overtakes them.
        let mut received = receive(&mut port);
        assert_eq!(transmit(&mut port, &[experimental(9999, 60)]), 0);
        while received.len() < RING + WAITING + 1 {
            let more = receive(&mut port);
            assert!(!more.is_empty(), "{} of {}", received.len(), RING + WAITING + 1);
            received.extend(more);
            port.housekeeping();
        }
        assert_eq!(received.pop(), Some(experimental(9999, 60)));
        assert_eq!(received, sent[..RING + WAITING]);
        assert!(!port.is_sending());
        assert_eq!(port.accounting().free, port.accounting().total);
    });
}

/// A worker may drop its port on its own thread, and after the NIC.
#[test]
fn queues_serve_threads_of_their_own_and_outlive_the_nic() {
    alone("ring::queues_serve_threads_of_their_own_and_outlive_the_nic", || {
        let options = Options { queues: 2, ..options("net_ring0") };
        let (nic, ports) = Nic::open(&options).expect("opened");
        assert_eq!((nic.queues(), ports.len()), (2, 2));
        let threads: Vec<_> = ports
            .into_iter()
            .map(|mut port| {
                thread::spawn(move || {
                    port.enter_thread().expect("registered");
                    let queue = u32::from(port.queue());
                    for round in 0..1000 {
                        let sent: Vec<_> = (0..32)
                            .map(|n| experimental((queue << 24) | (round * 32 + n), 60))
                            .collect();
                        assert_eq!(transmit(&mut port, &sent), 0);
                        assert_eq!(receive(&mut port), sent);
                        port.housekeeping();
                    }
                    let Accounting { free, total, .. } = port.accounting();
                    assert_eq!(free, total);
                    port
                })
            })
            .collect();
        let ports: Vec<_> =
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        assert_eq!(nic.statistics().received, 2 * 32_000);
        drop(nic);
        for mut port in ports {
            let one = [experimental(1, 60)];
            assert_eq!(transmit(&mut port, &one), 0);
            assert_eq!(receive(&mut port), one);
        }
    });
}

#[test]
fn a_device_is_promiscuous_once_its_filter_is_full() {
    alone("ring::a_device_is_promiscuous_once_its_filter_is_full", || {
        let macs = vec![MacAddr([2, 0x76, 0, 0, 0, 1]), MacAddr([1, 0, 0x5e, 0, 0, 1])];
        let (nic, _ports) = Nic::open(&Options { macs, ..options("net_ring0") }).expect("opened");
        assert!(!nic.is_promiscuous());
        // The filter has room for no more.
        nic.receive_from(&[MacAddr([2, 0x76, 0, 0, 0, 2])]).expect("all frames come instead");
        assert!(nic.is_promiscuous());
    });
}

#[test]
fn a_frame_of_another_port_is_refused() {
    alone("ring::a_frame_of_another_port_is_refused", || {
        let options = Options { queues: 2, ..options("net_ring0") };
        let (_nic, mut ports) = Nic::open(&options).expect("opened");
        let frame = ports[0].alloc().expect("a free frame");
        let foreign = AssertUnwindSafe(|| ports[1].bytes(&frame).len());
        let panic = catch_unwind(foreign).expect_err("it panics");
        let text = panic.downcast_ref::<String>().expect("a message");
        assert!(text.contains("a frame of another port"), "{text}");
        ports[0].recycle(frame);
    });
}
