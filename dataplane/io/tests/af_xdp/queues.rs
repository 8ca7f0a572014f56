//! By which queues frames come, and that a program knows.

use vipdp_core::port::Port;
use vipdp_io::af_xdp::{AfXdpPort, Options, ZeroCopy};
use vipdp_io::xdp::AttachMode;

use crate::frames;
use crate::lab::{Lab, inside, run, until};
use crate::{NODE, attach, open, try_attach};

/// An interface above another one, with queues of its own, as a bond is. That module is not in every kernel; macvlan hands
/// frames up in the same way.
const UPPER: &str = "upper0";

/// An interface with so many queues above the node's, and how many frames come by each of its queues, of 64 flows.
fn flows_above(lab: &Lab, queues: u32) -> Vec<usize> {
    let add = format!(
        "ip link add link {NODE} name {UPPER} numrxqueues {queues} type macvlan mode passthru"
    );
    run(&lab.node, &add.split_whitespace().collect::<Vec<_>>());
    run(&lab.node, &["ip", "link", "set", UPPER, "up"]);
    let mut program = try_attach(lab, UPPER, AttachMode::Generic).expect("attached");
    let options = |queue| Options { zero_copy: ZeroCopy::Off, ..Options::new(UPPER, queue) };
    let mut ports: Vec<_> = (0..queues).map(|queue| open(lab, &options(queue))).collect();
    for (queue, port) in (0..).zip(&ports) {
        program.bind(queue, port).expect("bound");
    }
    let wire = lab.wire();
    (0..64).map(frames::udp_flow).for_each(|frame| wire.send(&frame));
    let mut came = vec![0; ports.len()];
    until("all flows", || {
        for (port, came) in ports.iter_mut().zip(&mut came) {
            *came += receive_waiting(port);
        }
        came.iter().sum::<usize>() == 64
    });
    assert_eq!(program.counters().expect("counters").dropped, 0);
    run(&lab.node, &["ip", "link", "del", UPPER]);
    came
}

/// How many frames the port has received and nobody has taken, all of which are given back.
fn receive_waiting(port: &mut AfXdpPort) -> usize {
    let mut burst = Vec::new();
    port.rx_burst(&mut burst);
    let count = burst.len();
    burst.drain(..).for_each(|frame| port.recycle(frame));
    count
}

/// Thus the NICs below a bond tell how many of its queues get any. What a veth hands on is the number of its peer's
/// transmit queue, of which there are three here.
#[test]
fn a_frame_keeps_the_number_of_its_queue_on_the_way_up() {
    let lab = Lab::with_queues(3);
    let [few, many] = [1, 8].map(|queues| flows_above(&lab, queues));
    assert_eq!(few, [64], "there is no other");
    let (below, beyond) = many.split_at(3);
    assert_eq!(beyond, [0; 5], "no frame came by such a queue");
    assert!(below[0] > 0 && below[1] > 0, "{below:?} by the queues below");
}

#[test]
fn a_program_sees_queues_that_are_added() {
    let lab = Lab::new();
    run(&lab.peer, &["ethtool", "-L", "peer0", "tx", "1"]);
    run(&lab.node, &["ethtool", "-L", NODE, "rx", "1"]);
    let program = attach(&lab);
    let queues = || inside(&lab.node, || program.rx_queues());
    assert_eq!(queues().expect("counted"), 1);
    run(&lab.node, &["ethtool", "-L", NODE, "rx", "2"]);
    assert_eq!(queues().expect("counted"), 2);
    run(&lab.node, &["ip", "link", "del", NODE]);
    queues().expect_err("there is none to count");
}
