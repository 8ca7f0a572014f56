//! The XDP program and the AF_XDP port, against the real kernel. Needs root.
//!
//! Each test has two network namespaces of its own, named `vdio-PID-N-peer` and `vdio-PID-N-node`,
//! with a veth pair of two queues (of one, where the test needs to know the queue) between them:
//!
//! ```text
//!    vdio-..-peer                                  vdio-..-node
//!  +---------------------------+                 +------------------------------------------+
//!  |  Wire (AF_PACKET)         |   veth, 2 + 2   |                   +--> AfXdpPort, queue 0 |
//!  |     |                     |   queues        |                   +--> AfXdpPort, queue 1 |
//!  |  peer0 --------------------------------------- node0 -- XDP ----+                       |
//!  |  198.18.0.1, fd00:18::1   |                 |  198.18.0.2       +--> kernel             |
//!  |  02:00:00:00:00:01        |                 |  fd00:18::2                               |
//!  |  (transmit checksums off) |                 |  02:00:00:00:00:02                        |
//!  +---------------------------+                 +------------------------------------------+
//!
//!  VIPs, on no interface: 192.0.2.53, 2001:db8:53::53; or networks around them, behind next hops
//!  from 198.18.0.200, fd00:18::1:ffce on
//! ```

#[path = "../contract/mod.rs"]
mod contract;
mod frames;
mod lab;
mod queues;

use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use frames::{VIP4, VIP6};
use lab::{Lab, inside, until};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use vipdp_core::port::{BURST, HEADROOM, Port};
use vipdp_core::prefix::Prefix;
use vipdp_io::af_xdp::{AfXdpPort, BusyPoll, FRAME_LEN_MAX, Frame, OpenError, Options, ZeroCopy};
use vipdp_io::deferral::Keeper;
use vipdp_io::xdp::{AttachMode, NextHops, Program, TunnelEnd, XdpError, rx_queues};

const NODE: &str = "node0";

fn vips() -> [Prefix; 2] {
    [VIP4.into(), VIP6.into()]
}

fn try_attach(lab: &Lab, interface: &str, mode: AttachMode) -> Result<Program, XdpError> {
    inside(&lab.node, || Program::attach(interface, mode, &vips(), &NextHops::default()))
}

fn attach(lab: &Lab) -> Program {
    try_attach(lab, NODE, AttachMode::Auto).expect("attached")
}

fn open(lab: &Lab, options: &Options) -> AfXdpPort {
    inside(&lab.node, || AfXdpPort::open(options)).expect("opened")
}

/// The program on the node with a port on each queue.
fn node(lab: &Lab) -> (Program, Vec<AfXdpPort>) {
    let mut program = attach(lab);
    let queues = inside(&lab.node, || rx_queues(NODE)).expect("counted");
    let ports: Vec<_> = (0..queues).map(|queue| open(lab, &Options::new(NODE, queue))).collect();
    for (queue, port) in ports.iter().enumerate() {
        program.bind(queue as u32, port).expect("bound");
    }
    (program, ports)
}

/// The bytes of the next `count` frames that any of the ports receives.
fn receive(ports: &mut [AfXdpPort], count: usize) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut burst = Vec::new();
    until(&format!("{count} frames on a port"), || {
        for port in &mut *ports {
            port.rx_burst(&mut burst);
            for frame in burst.drain(..) {
                bytes.push(port.bytes(&frame).to_vec());
                port.recycle(frame);
            }
            port.housekeeping();
        }
        bytes.len() >= count
    });
    bytes
}

/// Runs `housekeeping` until nothing is with the transmit side any more.
fn settle(port: &mut AfXdpPort) {
    until("transmitted frames to come back", || {
        port.housekeeping();
        port.accounting().transmitting == 0
    });
}

fn assert_nothing_held(port: &AfXdpPort) {
    let found = port.accounting();
    assert_eq!((found.held, found.transmitting), (0, 0), "{found:?}");
    assert_eq!(found.free + found.receiving, found.total, "{found:?}");
}

#[test]
fn every_kind_of_vip_frame_arrives_unchanged() {
    let lab = Lab::new();
    let (program, mut ports) = node(&lab);
    assert_eq!(program.attach_mode(), AttachMode::Native);
    let wire = lab.wire();
    let kinds = frames::of_vips();
    for (kind, frame) in &kinds {
        wire.send(frame);
        let received = receive(&mut ports, 1);
        assert_eq!(received, [frame.as_slice()], "{kind}");
    }
    assert_eq!(program.counters().expect("counters").redirected, kinds.len() as u64);
    ports.iter().for_each(assert_nothing_held);
}

#[test]
fn everything_else_reaches_the_kernel() {
    let lab = Lab::new();
    let (program, mut ports) = node(&lab);
    let wire = lab.wire();
    let kinds = frames::of_others();
    let before = program.counters().expect("counters").passed;
    for (_, frame) in &kinds {
        wire.send(frame);
    }
    until("the program to pass them", || {
        program.counters().expect("counters").passed >= before + kinds.len() as u64
    });

    // The node's own addresses work as if vipdp was not there: resolution, ping, UDP.
    for address in ["198.18.0.2", "fd00:18::2"] {
        lab::run(&lab.peer, &["ping", "-c", "1", "-W", "5", address]);
        let server = inside(&lab.node, || UdpSocket::bind((address, 53))).expect("bound");
        let client = inside(&lab.peer, || UdpSocket::bind((lab::any(address), 0))).expect("bound");
        client.send_to(b"to the kernel", (address, 53)).expect("sent");
        let mut buffer = [0; 64];
        server.set_read_timeout(Some(lab::DEADLINE)).expect("a timeout");
        let len = server.recv(&mut buffer).expect("the datagram");
        assert_eq!(&buffer[..len], b"to the kernel");
    }

    // One frame of a VIP, and it is the first that the ports see.
    let (_, marker) = &frames::of_vips()[0];
    wire.send(marker);
    assert_eq!(receive(&mut ports, 1), [marker.as_slice()]);
    assert_eq!(program.counters().expect("counters").redirected, 1);
}

/// The host may have the VIPs already, or still: it would reset connections of other nodes.
#[test]
fn packets_without_a_socket_are_dropped_and_questions_left_to_the_kernel() {
    let lab = Lab::new();
    let mut program = attach(&lab);
    assert_eq!(inside(&lab.node, || rx_queues(NODE)).expect("counted"), 2);
    let wire = lab.wire();
    let flows: Vec<_> = (0..64).map(frames::udp_flow).collect();
    let counted = |program: &Program| {
        let now = program.counters().expect("counters");
        (now.redirected, now.dropped)
    };

    // No socket at all, then one on queue 0 only: queue 1 has some of 64 flows, as has queue 0.
    flows.iter().for_each(|frame| wire.send(frame));
    until("all dropped", || counted(&program).1 == 64);
    let passed = program.counters().expect("counters").passed;
    let (_, request) =
        frames::of_vips().into_iter().find(|(kind, _)| *kind == "an ARP request").expect("it");
    wire.send(&request);
    until("the question to pass", || program.counters().expect("counters").passed > passed);
    assert_eq!(counted(&program), (0, 64));

    let port = open(&lab, &Options::new(NODE, 0));
    program.bind(0, &port).expect("bound");
    flows.iter().for_each(|frame| wire.send(frame));
    until("all seen", || {
        let now = counted(&program);
        now.0 + now.1 == 64 + 64
    });
    let on_queue_0 = counted(&program).0;
    assert!((1..64).contains(&on_queue_0), "{on_queue_0} of 64 flows on queue 0");

    // Dropping the port unbinds it. Other tests of this process fork, and a child has the socket
    // too until it executes its program, so the first frames may still go there.
    drop(port);
    until("64 frames in a row to be dropped", || {
        let before = counted(&program);
        flows.iter().for_each(|frame| wire.send(frame));
        until("all seen", || {
            let now = counted(&program);
            now.0 + now.1 == before.0 + before.1 + 64
        });
        counted(&program).0 == before.0
    });
}

#[test]
fn programs_that_are_started_do_not_get_the_socket() {
    let lab = Lab::new();
    let port = open(&lab, &Options::new(NODE, 0));
    let flags = fcntl(port.as_fd(), FcntlArg::F_GETFD).expect("flags");
    assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
}

#[test]
fn the_contract_of_ports_holds() {
    let lab = Lab::with_queues(1);
    let (_program, mut ports) = node(&lab);
    let [port] = ports.as_mut_slice() else { panic!("one queue") };
    contract::check(port, &lab.wire(), |port| port.accounting().held);
    settle(port);
    assert_nothing_held(port);
}

#[test]
fn two_queues_share_the_flows_and_each_keeps_its_order() {
    let lab = Lab::new();
    let (_program, mut ports) = node(&lab);
    let [first, second] = &mut ports[..] else { panic!("two queues") };
    let wire = lab.wire();
    let flows: Vec<_> = (0..64).map(frames::udp_flow).collect();
    flows.iter().for_each(|frame| wire.send(frame));

    let (mut on_first, mut on_second) = (Vec::new(), Vec::new());
    until("64 frames on two queues", || {
        first.rx_burst(&mut on_first);
        second.rx_burst(&mut on_second);
        on_first.len() + on_second.len() >= 64
    });
    let bytes = |port: &AfXdpPort, frames: &[Frame]| -> Vec<Vec<u8>> {
        frames.iter().map(|frame| port.bytes(frame).to_vec()).collect()
    };
    let (of_first, of_second) = (bytes(first, &on_first), bytes(second, &on_second));
    assert!(!of_first.is_empty() && !of_second.is_empty());
    for of_queue in [&of_first, &of_second] {
        let places: Vec<_> = of_queue
            .iter()
            .map(|frame| flows.iter().position(|sent| sent == frame).expect("one that was sent"))
            .collect();
        assert!(places.is_sorted(), "{places:?}");
    }
    assert_eq!(first.accounting().held, on_first.len());
    assert_eq!(second.accounting().held, on_second.len());
    on_first.into_iter().for_each(|frame| first.recycle(frame));
    on_second.into_iter().for_each(|frame| second.recycle(frame));
    ports.iter().for_each(assert_nothing_held);
}

#[test]
fn transmitted_frames_leave_in_order_and_come_back() {
    let lab = Lab::new();
    // No XDP program: transmitting needs none.
    let mut port = open(&lab, &Options::new(NODE, 0));
    let wire = lab.wire();
    let mut burst = Vec::new();
    for first in (0..512).step_by(BURST) {
        for number in first..first + BURST as u32 {
            let mut frame = port.alloc().expect("a free frame");
            let bytes = frames::experimental(number, 60 + number as usize * 2);
            assert_eq!(port.buffer_mut(&mut frame).len(), FRAME_LEN_MAX);
            port.buffer_mut(&mut frame)[..bytes.len()].copy_from_slice(&bytes);
            port.set_len(&mut frame, bytes.len());
            burst.push(frame);
        }
        assert_eq!(port.accounting().held, BURST);
        assert_eq!(port.tx_burst(&mut burst), 0, "the ring has room");
        assert_eq!(port.accounting().held, 0);
        for number in first..first + BURST as u32 {
            until("the frame on the wire", || {
                port.housekeeping();
                match wire.receive_experimental() {
                    Some(bytes) => {
                        assert_eq!(bytes, frames::experimental(number, bytes.len()));
                        assert_eq!(bytes.len(), 60 + number as usize * 2);
                        true
                    }
                    None => false,
                }
            });
        }
    }
    settle(&mut port);
    assert_nothing_held(&port);
    assert_eq!(port.statistics().expect("statistics").tx_invalid_descs, 0);
}

#[test]
fn frames_beyond_the_transmit_ring_are_refused_and_recycled() {
    let lab = Lab::new();
    // The interface is down: the ring fills up, and nothing leaves it.
    let options = Options { tx_ring: 128, ..Options::new(NODE, 0) };
    let mut port = open(&lab, &options);
    lab::run(&lab.node, &["ip", "link", "set", NODE, "down"]);
    let mut burst = Vec::new();
    let mut refused = 0;
    for _ in 0..3 {
        for number in 0..BURST as u32 {
            let mut frame = port.alloc().expect("a free frame");
            let bytes = frames::experimental(number, 60);
            port.buffer_mut(&mut frame)[..60].copy_from_slice(&bytes);
            port.set_len(&mut frame, 60);
            burst.push(frame);
        }
        refused += port.tx_burst(&mut burst);
        assert!(burst.is_empty());
    }
    assert_eq!(refused, 3 * BURST - 128);
    assert_eq!(port.accounting().transmitting, 128);
    assert_eq!(port.accounting().held, 0);
    assert!(port.statistics().expect("statistics").wakeups.failed > 0);

    lab::run(&lab.node, &["ip", "link", "set", NODE, "up"]);
    settle(&mut port);
    assert_nothing_held(&port);
}

#[test]
fn a_received_frame_can_be_answered_in_place() {
    let lab = Lab::new();
    let (_program, mut ports) = node(&lab);
    let wire = lab.wire();
    wire.send(&frames::udp_flow(7));
    let mut burst = Vec::new();
    until("the frame", || ports.iter_mut().any(|port| port.rx_burst(&mut burst) == 1));
    let port = ports.iter_mut().find(|port| port.accounting().held == 1).expect("its port");

    let answer = frames::experimental(7, 100);
    port.buffer_mut(&mut burst[0])[..100].copy_from_slice(&answer);
    port.set_len(&mut burst[0], 100);
    assert_eq!(port.tx_burst(&mut burst), 0);
    until("the answer", || {
        port.housekeeping();
        wire.receive_experimental().is_some_and(|bytes| bytes == answer)
    });
    settle(port);
    assert_nothing_held(port);
}

#[test]
fn no_frame_is_lost_or_doubled_in_an_overflow() {
    const FRAMES: u64 = 100_000;
    let lab = Lab::with_queues(1);
    let mut program = attach(&lab);
    let small =
        Options { frames: 320, rx_ring: 128, tx_ring: 64, fill_ring: 64, ..Options::new(NODE, 0) };
    let mut port = open(&lab, &small);
    program.bind(0, &port).expect("bound");
    let wire = lab.wire();
    // However slow the sender is beside the receiver, the rings have overflown once.
    let frame = frames::udp_flow(0);
    for _ in 0..4 * small.frames {
        wire.send(&frame);
    }
    until("an overflow", || port.statistics().expect("statistics").rx_dropped > 0);
    let sender = std::thread::spawn(move || {
        for _ in 0..FRAMES {
            wire.send(&frame);
        }
    });

    // Hold on to what comes until nothing is left to receive into; then some of it goes out
    // again, the rest back.
    let (mut received, mut held, mut burst) = (0, Vec::new(), Vec::new());
    let mut sent_off = 0;
    while !sender.is_finished() {
        received += port.rx_burst(&mut held) as u64;
        assert_eq!(port.accounting().held, held.len());
        if held.len() >= 200 {
            burst.extend(held.drain(..BURST));
            sent_off += BURST - port.tx_burst(&mut burst);
            held.drain(..).for_each(|frame| port.recycle(frame));
        }
        port.housekeeping();
        let now = port.accounting();
        assert_eq!(now.free + now.receiving + now.transmitting + now.held, 320, "{now:?}");
    }
    sender.join().expect("all sent");
    until("the last frames", || {
        let count = port.rx_burst(&mut held);
        received += count as u64;
        held.drain(..).for_each(|frame| port.recycle(frame));
        port.housekeeping();
        let lost = port.statistics().expect("statistics");
        let arrived = program.counters().expect("counters").redirected;
        count == 0 && arrived == received + lost.rx_dropped + lost.rx_ring_full
    });
    settle(&mut port);
    assert_nothing_held(&port);
    let lost = port.statistics().expect("statistics");
    assert!(lost.rx_dropped > 0, "no overflow: {lost:?}");
    assert_eq!(lost.rx_dropped, lost.fill_ring_empty, "{lost:?}");
    assert!(received > 1000 && sent_off > 0, "{received} received, {sent_off} sent off");
    assert_eq!((lost.rx_invalid_descs, lost.tx_invalid_descs), (0, 0), "{lost:?}");
}

#[test]
fn a_frame_longer_than_a_chunk_is_counted() {
    let lab = Lab::with_queues(1);
    for (namespace, interface) in [(&lab.peer, "peer0"), (&lab.node, NODE)] {
        lab::run(namespace, &["ip", "link", "set", interface, "mtu", "2000"]);
    }
    let (_program, mut ports) = node(&lab);
    let wire = lab.wire();
    let longest = frames::padded(&frames::udp_flow(0), FRAME_LEN_MAX);
    wire.send(&frames::padded(&frames::udp_flow(0), FRAME_LEN_MAX + 1));
    wire.send(&longest);
    assert_eq!(receive(&mut ports, 1), [longest]);
    let lost: u64 = ports.iter().map(|port| port.statistics().expect("them").rx_dropped).sum();
    assert_eq!(lost, 1);
}

#[test]
fn busy_polling_receives_and_transmits() {
    let lab = Lab::with_queues(1);
    let mut program = attach(&lab);
    let options = Options { busy_poll: BusyPoll::Always, ..Options::new(NODE, 0) };
    let mut port = open(&lab, &options);
    program.bind(0, &port).expect("bound");
    let frame = frames::udp_flow(0);
    lab.wire().send(&frame);
    let mut ports = [port];
    assert_eq!(receive(&mut ports, 1), [frame]);
    [port] = ports;
    let before = port.statistics().expect("statistics").wakeups.rx;
    port.housekeeping();
    let wakeups = port.statistics().expect("statistics").wakeups;
    assert_eq!((wakeups.rx, wakeups.failed), (before + 1, 0));
}

#[test]
fn it_drives_the_driver_when_told_to_and_hands_it_back_before_it_sleeps() {
    let lab = Lab::with_queues(1);
    let keeper = inside(&lab.node, || Keeper::start(NODE)).expect("a thread");
    let deferral = keeper.deferral();
    let mut program = attach(&lab);
    let busy_poll = BusyPoll::UnderLoad(deferral.clone());
    let mut port = open(&lab, &Options { busy_poll, ..Options::new(NODE, 0) });
    program.bind(0, &port).expect("bound");
    let (wire, frame) = (lab.wire(), frames::udp_flow(0));
    let wakeups = |port: &AfXdpPort| {
        let wakeups = port.statistics().expect("statistics").wakeups;
        assert_eq!(wakeups.failed, 0);
        wakeups.rx
    };

    port.drive(false);
    port.housekeeping();
    port.rest();
    assert_eq!((wakeups(&port), deferral.is_on()), (0, false));

    // The kernel may know the driver from the first frame on alone, or never: then nothing is to happen.
    wire.send(&frame);
    let mut ports = [port];
    assert_eq!(receive(&mut ports, 1).len(), 1);
    [port] = ports;
    if !port.can_busy_poll() {
        port.drive(true);
        port.housekeeping();
        port.rest();
        assert_eq!((wakeups(&port), deferral.is_on()), (0, false));
        return;
    }

    for _ in 0..2 {
        let before = wakeups(&port);
        port.drive(true);
        until("interrupts to be put off", || deferral.is_on());
        for count in [1, 40] {
            (0..count).for_each(|_| wire.send(&frame));
            let mut ports = [port];
            assert_eq!(receive(&mut ports, count).len(), count);
            [port] = ports;
        }
        assert!(wakeups(&port) > before, "calls that run the driver");

        // Asleep among load, and after it, when interrupts are still off for a while.
        for is_under_load in [true, false] {
            for _ in 0..20 {
                port.drive(is_under_load);
                port.housekeeping();
                port.rest();
                wire.send(&frame);
                let ready = port.wait(lab::DEADLINE, None).expect("polled");
                assert!(ready.port, "a lone frame ends the sleep");
                let mut ports = [port];
                assert_eq!(receive(&mut ports, 1).len(), 1);
                [port] = ports;
            }
        }
        until("interrupts to be as before", || !deferral.is_on());
        let before = wakeups(&port);
        port.housekeeping();
        port.rest();
        assert_eq!(wakeups(&port), before, "without load it leaves the driver alone");
    }
    assert_nothing_held(&port);
}

#[test]
fn waiting_ends_with_a_frame_a_descriptor_or_the_time() {
    let lab = Lab::with_queues(1);
    let mut program = attach(&lab);
    let port = open(&lab, &Options::new(NODE, 0));
    program.bind(0, &port).expect("bound");
    let (reader, mut writer) = std::io::pipe().expect("a pipe");

    let ready = port.wait(Duration::from_micros(100), Some(reader.as_fd())).expect("polled");
    assert_eq!((ready.port, ready.also), (false, false));
    writer.write_all(b"x").expect("written");
    let ready = port.wait(lab::DEADLINE, Some(reader.as_fd())).expect("polled");
    assert_eq!((ready.port, ready.also), (false, true));
    lab.wire().send(&frames::udp_flow(0));
    let ready = port.wait(lab::DEADLINE, None).expect("polled");
    assert_eq!((ready.port, ready.also), (true, false));
}

#[test]
fn new_vips_take_effect_and_old_ones_end() {
    let lab = Lab::new();
    let (mut program, mut ports) = node(&lab);
    let wire = lab.wire();
    let (four, six) = (frames::udp_flow(1), frames::udp6_flow(1));
    program.set_vips(&[VIP6.into()]).expect("set");
    wire.send(&four);
    wire.send(&six);
    assert_eq!(receive(&mut ports, 1), [six.as_slice()]);
    program.set_vips(&[VIP4.into()]).expect("set");
    wire.send(&six);
    wire.send(&four);
    assert_eq!(receive(&mut ports, 1), [four.as_slice()]);
    assert_eq!(program.counters().expect("counters").redirected, 2);

    let many: Vec<Prefix> =
        (0..257u32).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n).into()).collect();
    program.set_vips(&many[..256]).expect("as many as there is room for");
    let error = program.set_vips(&many).expect_err("one too many");
    assert!(matches!(error, XdpError::TooManyVips { count: 257 }), "{error}");
}

#[test]
fn addresses_of_a_network_are_vips_and_next_hops_are_only_asked_for() {
    let lab = Lab::new();
    let [net4, net6] = ["192.0.2.0/26", "2001:db8:53::/64"].map(|net| net.parse().expect("it"));
    let hops = NextHops {
        first4: Some(frames::NEXT_HOP4),
        first6: Some(frames::NEXT_HOP6),
        count: frames::NEXT_HOPS,
    };
    let mut program =
        inside(&lab.node, || Program::attach(NODE, AttachMode::Auto, &[net4, net6], &hops))
            .expect("attached");
    let mut ports: Vec<_> = (0..2).map(|queue| open(&lab, &Options::new(NODE, queue))).collect();
    for (queue, port) in (0..).zip(&ports) {
        program.bind(queue, port).expect("bound");
    }
    let wire = lab.wire();
    let kinds = frames::of_networks();
    for (kind, frame) in &kinds {
        wire.send(frame);
        assert_eq!(receive(&mut ports, 1), [frame.as_slice()], "{kind}");
    }
    let others = frames::beside_networks();
    let before = program.counters().expect("counters").passed;
    others.iter().for_each(|(_, frame)| wire.send(frame));
    until("the program to pass them", || {
        program.counters().expect("counters").passed >= before + others.len() as u64
    });
    assert_eq!(program.counters().expect("counters").redirected, kinds.len() as u64);

    // One more next hop: what was beside them is one of them.
    let more = NextHops { count: frames::NEXT_HOPS + 1, ..hops };
    program.set_next_hops(&more).expect("set");
    let (_, question) = &others[0];
    wire.send(question);
    assert_eq!(receive(&mut ports, 1), [question.as_slice()]);

    let beyond = NextHops { first4: Some(Ipv4Addr::BROADCAST), ..hops };
    let error = program.set_next_hops(&beyond).expect_err("there is none above");
    assert!(matches!(error, XdpError::NextHops { .. }), "{error}");
    ports.iter().for_each(assert_nothing_held);
}

/// Everything else to the node's own addresses stays with the kernel: its sessions with routers, its
/// heartbeats, its operator's shell.
#[test]
fn tunnels_to_the_node_arrive_and_all_else_reaches_the_kernel() {
    let lab = Lab::new();
    let (mut program, mut ports) = node(&lab);
    let wire = lab.wire();
    let (tunnels, others) = (frames::of_tunnels(), frames::beside_tunnels());
    let passed = |program: &Program| program.counters().expect("counters").passed;
    let pass = |program: &Program, frames: &[(&str, Vec<u8>)]| {
        let before = passed(program);
        frames.iter().for_each(|(_, frame)| wire.send(frame));
        until("the program to pass them", || passed(program) >= before + frames.len() as u64);
    };
    pass(&program, &tunnels);

    let both = TunnelEnd {
        address4: Some(frames::NODE4),
        address6: Some(frames::NODE6),
        port: frames::TUNNEL_PORT,
    };
    program.set_tunnel_end(&both).expect("set");
    for (kind, frame) in &tunnels {
        wire.send(frame);
        assert_eq!(receive(&mut ports, 1), [frame.as_slice()], "{kind}");
    }
    pass(&program, &others);
    assert_eq!(program.counters().expect("counters").redirected, tunnels.len() as u64);

    // Of one family alone, and then of none.
    let of_v6 = TunnelEnd::new(frames::NODE6.into(), frames::TUNNEL_PORT);
    program.set_tunnel_end(&of_v6).expect("set");
    let (v4, v6) = tunnels.split_at(2);
    pass(&program, v4);
    wire.send(&v6[0].1);
    assert_eq!(receive(&mut ports, 1), [v6[0].1.as_slice()]);
    program.set_tunnel_end(&TunnelEnd::default()).expect("set");
    pass(&program, &tunnels);
    ports.iter().for_each(assert_nothing_held);
}

#[test]
fn a_frame_grows_at_its_front_and_leaves_as_long_as_it_then_is() {
    let lab = Lab::with_queues(1);
    let (_program, mut ports) = node(&lab);
    let [port] = ports.as_mut_slice() else { panic!("one queue") };
    let wire = lab.wire();
    let came = frames::padded(&frames::udp_flow(1), 1400);
    wire.send(&came);
    let mut burst = Vec::new();
    until("the frame", || {
        port.housekeeping();
        port.rx_burst(&mut burst) == 1
    });
    let mut frame = burst.pop().expect("it");
    assert_eq!(port.bytes(&frame), came);
    let headers = &frames::experimental(7, HEADROOM)[..];
    port.pull(&mut frame, 14);
    port.push(&mut frame, 14 + HEADROOM);
    port.buffer_mut(&mut frame)[..HEADROOM].copy_from_slice(headers);
    assert_eq!(port.tx_burst(&mut vec![frame]), 0);
    let sent = [headers, &came].concat();
    until("the longer frame", || {
        port.housekeeping();
        wire.receive_experimental().is_some_and(|frame| {
            assert_eq!(frame, sent);
            true
        })
    });
    settle(port);
    assert_nothing_held(port);
}

#[test]
fn the_generic_mode_serves_too() {
    let lab = Lab::new();
    let mut program = try_attach(&lab, NODE, AttachMode::Generic).expect("attached");
    assert_eq!(program.attach_mode(), AttachMode::Generic);
    let mut ports: Vec<_> = (0..2)
        .map(|queue| open(&lab, &Options { zero_copy: ZeroCopy::Off, ..Options::new(NODE, queue) }))
        .collect();
    program.bind(0, &ports[0]).expect("bound");
    program.bind(1, &ports[1]).expect("bound");
    assert!(!ports[0].is_zero_copy());
    let frame = frames::udp_flow(1);
    lab.wire().send(&frame);
    assert_eq!(receive(&mut ports, 1), [frame]);
}

#[test]
fn a_driver_without_xdp_gets_the_generic_mode() {
    let lab = Lab::new();
    lab::run(&lab.node, &["ip", "link", "add", "bridge0", "type", "bridge"]);
    let error =
        try_attach(&lab, "bridge0", AttachMode::Native).expect_err("a bridge has no native XDP");
    assert!(matches!(error, XdpError::Attach { mode: AttachMode::Native, .. }), "{error}");
    let program = try_attach(&lab, "bridge0", AttachMode::Auto).expect("attached");
    assert_eq!(program.attach_mode(), AttachMode::Generic);
}

#[test]
fn a_second_program_and_a_second_socket_are_refused() {
    let lab = Lab::new();
    let (_program, mut ports) = node(&lab);
    for mode in [AttachMode::Auto, AttachMode::Native, AttachMode::Generic] {
        let error = try_attach(&lab, NODE, mode).expect_err("one is there already");
        assert!(matches!(error, XdpError::AlreadyAttached { .. }), "{mode:?}: {error}");
        assert!(error.to_string().contains("bpftool net show dev node0"), "{error}");
    }
    let error = inside(&lab.node, || AfXdpPort::open(&Options::new(NODE, 0)))
        .expect_err("one is there already");
    assert!(matches!(error, OpenError::QueueTaken { queue: 0, .. }), "{error}");
    let error = inside(&lab.node, || AfXdpPort::open(&Options::new(NODE, 2)))
        .expect_err("there are two queues");
    assert!(matches!(error, OpenError::Bind { queue: 2, .. }), "{error}");
    let error = inside(&lab.node, || AfXdpPort::open(&Options::new("nothing0", 0)))
        .expect_err("no such interface");
    assert!(matches!(error, OpenError::NoSuchInterface(_)), "{error}");
    let error = try_attach(&lab, "nothing0", AttachMode::Auto).expect_err("no such interface");
    assert!(matches!(error, XdpError::NoSuchInterface(_)), "{error}");

    // The first ones are unharmed.
    let frame = frames::udp_flow(1);
    lab.wire().send(&frame);
    assert_eq!(receive(&mut ports, 1), [frame]);
}

#[test]
fn a_dropped_program_is_detached() {
    let lab = Lab::new();
    let program = attach(&lab);
    assert!(lab.has_xdp());
    drop(program);
    assert!(!lab.has_xdp());
    // And the interface is free for the next.
    drop(attach(&lab));
}

/// Set in the process that is to be killed: the name of the node's namespace.
const VICTIM: &str = "VDIO_VICTIM_NODE";

#[test]
fn a_killed_process_leaves_no_program() {
    if let Ok(node) = std::env::var(VICTIM) {
        hold_until_killed(&node);
    }
    let lab = Lab::new();
    let test = std::env::current_exe().expect("this test");
    let mut victim = Command::new(test)
        .args(["--exact", "a_killed_process_leaves_no_program", "--nocapture"])
        .env(VICTIM, &lab.node)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let lines = BufReader::new(victim.stdout.take().expect("piped")).lines();
    let attached = lines.map_while(Result::ok).any(|line| line.ends_with("attached"));
    assert!(attached, "the process ended early");
    assert!(lab.has_xdp());
    victim.kill().expect("SIGKILL");
    victim.wait().expect("dead");
    until("the kernel to detach", || !lab.has_xdp());
}

fn hold_until_killed(node: &str) -> ! {
    let _held = inside(node, || {
        let mut program = Program::attach(NODE, AttachMode::Auto, &vips(), &NextHops::default())
            .expect("attached");
        let port = AfXdpPort::open(&Options::new(NODE, 0)).expect("opened");
        program.bind(0, &port).expect("bound");
        (program, port)
    });
    let mut stdout = std::io::stdout();
    writeln!(stdout, "attached").expect("the parent listens");
    // The parent keeps our standard input open until it has killed us.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("standard input");
    panic!("the parent went away");
}
