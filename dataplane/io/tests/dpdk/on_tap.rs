//! A TAP of DPDK's own, whose driver verifies checksums and knows of its link; and a file of frames.

use std::io::Write;
use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};
use vipdp_core::port::Port;
use vipdp_io::dpdk::DpdkPort;

use crate::alone::alone;
use crate::frames::{experimental, padded, udp_flow};
use crate::lab::{self, Wire, until};
use crate::{open, transmit};

/// The next frames of these lengths, which nothing of the kernel's has.
fn receive(port: &mut DpdkPort, lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    until("frames", || {
        let mut burst = Vec::new();
        port.rx_burst(&mut burst);
        for frame in burst {
            let bytes = port.bytes(&frame).to_vec();
            port.recycle(frame);
            if lengths.contains(&bytes.len()) {
                found.push(bytes);
            }
        }
        port.housekeeping();
        found.len() == lengths.len()
    });
    found
}

/// With a correct checksum of its IPv4 header, and with one of UDP, which is correct or not.
fn with_checksums(mut frame: Vec<u8>, is_correct: bool) -> Vec<u8> {
    let header = !sum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    // The pseudo header (RFC 768): addresses, protocol, length of 12.
    let pseudo = sum(&frame[26..34], 17 + 12);
    let udp = !sum(&frame[34..46], pseudo) ^ u16::from(!is_correct);
    frame[40..42].copy_from_slice(&udp.to_be_bytes());
    frame
}

/// The sum of RFC 1071 over an even number of bytes.
fn sum(bytes: &[u8], before: u16) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let all = words.fold(u32::from(before), |sum, word| sum + word);
    let folded = (all >> 16) + (all & 0xffff);
    ((folded >> 16) + folded) as u16
}

#[test]
fn what_the_nic_calls_wrong_is_dropped_and_what_it_cannot_tell_is_not() {
    alone("on_tap::what_the_nic_calls_wrong_is_dropped_and_what_it_cannot_tell_is_not", || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may");
        let (nic, mut port) = open("net_tap0,iface=dtap0");
        assert_eq!(nic.driver(), "net_tap");
        let wire = Wire::open("dtap0").expect("a packet socket");
        let wrong = padded(&with_checksums(udp_flow(1), false), 600);
        let correct = padded(&with_checksums(udp_flow(2), true), 601);
        // Without a checksum, as UDP over IPv4 may be.
        let mut none = with_checksums(udp_flow(3), true);
        none[40..42].fill(0);
        let none = padded(&none, 602);
        for frame in [&wrong, &correct, &none] {
            wire.send(frame);
        }
        assert_eq!(receive(&mut port, &[601, 602]), [correct, none]);
        assert_eq!(port.statistics().bad_checksum, 1);

        // The IPv4 header's own.
        let mut wrong = with_checksums(udp_flow(4), true);
        wrong[24] ^= 1;
        wire.send(&padded(&wrong, 603));
        until("the drop", || {
            let mut none = Vec::new();
            port.rx_burst(&mut none);
            none.drain(..).for_each(|frame| port.recycle(frame));
            port.statistics().bad_checksum == 2
        });
    });
}

#[test]
fn a_link_that_the_driver_knows_of_is_watched() {
    alone("on_tap::a_link_that_the_driver_knows_of_is_watched", || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may");
        let (nic, mut port) = open("net_tap0,iface=dtap0");
        assert!(nic.link().is_up);
        let (tell, told) = mpsc::channel();
        nic.watch_link(move |is_up| tell.send(is_up).expect("it is heard"));
        for is_up in [false, true] {
            let state = if is_up { "up" } else { "down" };
            let mut command = std::process::Command::new("ip");
            assert!(command.args(["link", "set", "dtap0", state]).status().expect("ip").success());
            assert_eq!(told.recv_timeout(lab::DEADLINE), Ok(is_up));
        }
        let wire = Wire::open("dtap0").expect("a packet socket");
        assert_eq!(transmit(&mut port, &[experimental(5, 700)]), 0);
        until("the frame", || {
            wire.receive_experimental().is_some_and(|frame| frame == experimental(5, 700))
        });
    });
}

/// The driver makes several mbufs of a long frame unasked.
#[test]
fn a_frame_in_several_pieces_is_dropped_and_counted() {
    alone("on_tap::a_frame_in_several_pieces_is_dropped_and_counted", || {
        let sent: Vec<_> =
            [60, 3000, 1514, 2048, 2049, 600].iter().map(|&len| experimental(1, len)).collect();
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        // Of pcap: magic number, version 2.4, zone, accuracy, longest frame, Ethernet.
        for word in [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, 1u32] {
            file.write_all(&word.to_ne_bytes()).expect("written");
        }
        for frame in &sent {
            let len = frame.len() as u32;
            for word in [0, 0, len, len] {
                file.write_all(&u32::to_ne_bytes(word)).expect("written");
            }
            file.write_all(frame).expect("written");
        }
        let path = file.path().to_str().expect("a name in UTF-8");
        let (_nic, mut port) = open(&format!("net_pcap0,rx_pcap={path}"));
        let mut received = Vec::new();
        until("the last frame", || {
            let mut burst = Vec::new();
            port.rx_burst(&mut burst);
            for frame in burst {
                received.push(port.bytes(&frame).to_vec());
                port.recycle(frame);
            }
            received.last().is_some_and(|frame| frame.len() == 600)
        });
        let whole: Vec<_> = sent.iter().filter(|frame| frame.len() <= 2048).cloned().collect();
        assert_eq!(received, whole);
        assert_eq!(port.statistics().unusable, 2);
        let now = port.accounting();
        assert_eq!(now.free, now.total, "{now:?}");
    });
}
