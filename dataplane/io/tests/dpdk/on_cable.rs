//! A veth pair, by the kernel's packet sockets and by its AF_XDP sockets.

use std::fs;
use std::sync::mpsc;

use vipdp_core::port::Port;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_io::dpdk::{DpdkPort, Loss, Nic, Options};

use crate::alone::alone;
use crate::frames::{self, MAC_NODE};
use crate::lab::{self, Lab, inside, until};
use crate::{contract, open, options, transmit};

fn held(port: &DpdkPort) -> usize {
    port.accounting().held
}

/// A cable on which the kernel of neither end says anything by itself.
fn silent_lab() -> Lab {
    let lab = Lab::with_queues(1);
    for namespace in [&lab.node, &lab.peer] {
        let setting = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
        inside(namespace, || fs::write(setting, "1")).expect("root may");
    }
    lab::run(&lab.node, &["ip", "link", "set", "node0", "arp", "off"]);
    lab
}

#[test]
fn the_contract_holds_over_packet_sockets() {
    alone("on_cable::the_contract_holds_over_packet_sockets", || {
        let lab = silent_lab();
        let (nic, mut port) = inside(&lab.node, || open("net_af_packet0,iface=node0"));
        assert_eq!(nic.mac(), MacAddr(MAC_NODE));
        port.enter_thread().expect("registered");
        let wire = lab.wire();
        contract::check(&mut port, &wire, held);
        // It copies: nothing stays with it.
        let now = port.accounting();
        assert_eq!(now.free, now.total, "{now:?}");
        let counted = nic.statistics();
        assert!(counted.received >= 600 && counted.transmitted >= 600, "{counted:?}");
    });
}

#[test]
fn the_contract_holds_over_af_xdp_sockets() {
    alone("on_cable::the_contract_holds_over_af_xdp_sockets", || {
        let lab = silent_lab();
        let (nic, mut port) = inside(&lab.node, || open("net_af_xdp0,iface=node0"));
        assert_eq!(nic.driver(), "net_af_xdp");
        port.enter_thread().expect("registered");
        contract::check(&mut port, &lab.wire(), held);
    });
}

/// Each of these comes as it was sent.
fn assert_unchanged(port: &mut DpdkPort, lab: &Lab, kinds: &[(&str, Vec<u8>)]) {
    let wire = lab.wire();
    let mut burst = Vec::new();
    for (kind, frame) in kinds {
        wire.send(frame);
        until(kind, || port.rx_burst(&mut burst) > 0);
        let received = burst.pop().expect("one");
        assert_eq!(port.bytes(&received), frame, "{kind}");
        port.recycle(received);
        assert!(burst.is_empty(), "{kind}");
        port.housekeeping();
    }
}

/// What the kernel makes something else of before a packet socket has it: IPv4 packets of fragments, since
/// the driver asks for that (PACKET_FANOUT_FLAG_DEFRAG), and nothing of a frame whose tag it cannot take
/// off; the driver puts tags back, but always a customer's. It is not one for service.
const MADE_OTHERS: [&str; 3] = ["a later fragment", "a provider's tag", "a tag cut short"];

#[test]
fn every_kind_of_frame_comes_unchanged_by_packet_sockets() {
    alone("on_cable::every_kind_of_frame_comes_unchanged_by_packet_sockets", || {
        let lab = silent_lab();
        let (_nic, mut port) = inside(&lab.node, || open("net_af_packet0,iface=node0"));
        let mut kinds = frames::of_vips();
        kinds.extend(frames::of_others());
        kinds.retain(|(kind, _)| !MADE_OTHERS.contains(kind));
        assert_unchanged(&mut port, &lab, &kinds);
    });
}

#[test]
fn every_kind_of_frame_comes_unchanged_by_af_xdp_sockets() {
    alone("on_cable::every_kind_of_frame_comes_unchanged_by_af_xdp_sockets", || {
        let lab = silent_lab();
        let (_nic, mut port) = inside(&lab.node, || open("net_af_xdp0,iface=node0"));
        let mut kinds = frames::of_vips();
        kinds.extend(frames::of_others());
        assert_unchanged(&mut port, &lab, &kinds);
    });
}

/// Frames of one flow stay on one queue, in order.
#[test]
fn two_queues_share_the_flows() {
    alone("on_cable::two_queues_share_the_flows", || {
        let lab = silent_lab();
        let options = Options { queues: 4, ..options("net_af_packet0,iface=node0,qpairs=2") };
        let (nic, mut ports) =
            inside(&lab.node, || Nic::open(&options).expect("with as many queues as there are"));
        assert_eq!((nic.queues(), ports.len()), (2, 2));
        let wire = lab.wire();
        let flows: Vec<_> = (0..64).map(frames::udp_flow).collect();
        let sent: Vec<_> = flows.iter().chain(&flows).cloned().collect();
        sent.iter().for_each(|frame| wire.send(frame));
        let mut received = [Vec::new(), Vec::new()];
        until("all frames on two queues", || {
            for (port, received) in ports.iter_mut().zip(&mut received) {
                let mut burst = Vec::new();
                port.rx_burst(&mut burst);
                for frame in burst {
                    received.push(port.bytes(&frame).to_vec());
                    port.recycle(frame);
                }
                port.housekeeping();
            }
            received.iter().map(Vec::len).sum::<usize>() == sent.len()
        });
        for of_queue in &received {
            let (first, second) = of_queue.split_at(of_queue.len() / 2);
            assert!(!first.is_empty());
            assert_eq!(first, second, "each flow once more, in the same order");
        }
        // Both transmit.
        for port in &mut ports {
            let number = u32::from(port.queue());
            assert_eq!(transmit(port, &[frames::experimental(number, 60)]), 0);
            until("a frame on the wire", || {
                wire.receive_experimental()
                    .is_some_and(|frame| frame == frames::experimental(number, 60))
            });
        }
    });
}

#[test]
fn an_address_of_which_the_driver_knows_no_filter_makes_it_promiscuous() {
    alone("on_cable::an_address_of_which_the_driver_knows_no_filter_makes_it_promiscuous", || {
        let lab = silent_lab();
        let macs = vec![MacAddr([2, 0x76, 0, 0, 0, 1])];
        let options = Options { macs, ..options("net_af_packet0,iface=node0") };
        let link = || lab::run(&lab.node, &["ip", "-d", "link", "show", "node0"]);
        let (nic, ports) = inside(&lab.node, || Nic::open(&options).expect("opened"));
        assert!(nic.is_promiscuous());
        assert!(link().contains("promiscuity 1"), "{}", link());
        drop((nic, ports));
        assert!(link().contains("promiscuity 0"), "{}", link());
    });
}

#[test]
fn programs_that_are_started_have_none_of_its_descriptors() {
    alone("on_cable::programs_that_are_started_have_none_of_its_descriptors", || {
        let lab = silent_lab();
        let (_nic, _port) = inside(&lab.node, || open("net_af_packet0,iface=node0"));
        let list = |place: &str| {
            let output = std::process::Command::new("ls").args(["-l", place]).output();
            String::from_utf8(output.expect("ls runs").stdout).expect("names")
        };
        let own = format!("/proc/{}/fd", std::process::id());
        assert!(list(&own).contains("socket:"), "{}", list(&own));
        assert!(!list("/proc/self/fd").contains("socket:"), "{}", list("/proc/self/fd"));
    });
}

/// The driver itself always says up.
#[test]
fn a_carrier_that_goes_and_comes_is_seen() {
    alone("on_cable::a_carrier_that_goes_and_comes_is_seen", || {
        let lab = silent_lab();
        let (nic, mut port) = inside(&lab.node, || open("net_af_packet0,iface=node0"));
        assert!(nic.link().is_up);
        let (tell, told) = mpsc::channel();
        nic.watch_link(move |is_up| tell.send(is_up).expect("it is heard"));
        for is_up in [false, true, false, true] {
            let state = if is_up { "up" } else { "down" };
            lab::run(&lab.peer, &["ip", "link", "set", "peer0", state]);
            assert_eq!(told.recv_timeout(lab::DEADLINE), Ok(is_up));
            assert_eq!(nic.link().is_up, is_up);
        }
        let wire = lab.wire();
        assert_eq!(transmit(&mut port, &[frames::experimental(1, 60)]), 0);
        until("a frame after all that", || {
            port.housekeeping();
            wire.receive_experimental().is_some()
        });
        // And the interface itself.
        let (tell_loss, told_loss) = mpsc::channel();
        nic.watch_loss(move |loss| tell_loss.send(loss).expect("it is heard"));
        assert_eq!(
            told_loss.recv_timeout(lab::DEADLINE / 100),
            Err(mpsc::RecvTimeoutError::Timeout)
        );
        lab::run(&lab.node, &["ip", "link", "delete", "node0"]);
        assert_eq!(told.recv_timeout(lab::DEADLINE), Ok(false));
        assert_eq!(told_loss.recv_timeout(lab::DEADLINE), Ok(Loss::Gone));
        transmit(&mut port, &[frames::experimental(1, 60)]);
        port.rx_burst(&mut Vec::new());
    });
}
