//! The DPDK port, by virtual devices. Needs root, and no huge pages.
//!
//! DPDK starts once in a process: each test runs in one of its own, a second call of this program. Where
//! there is a cable it is that of the tests of AF_XDP, whose node has the device on its end:
//!
//! ```text
//!    vdio-..-peer                        vdio-..-node
//!  +-------------------+     veth     +---------------------------------------------+
//!  |  Wire -- peer0 ----------------------- node0 -- net_af_packet0, or net_af_xdp0 |
//!  +-------------------+              +---------------------------------------------+
//! ```

mod alone;
#[path = "../contract/mod.rs"]
mod contract;
#[expect(dead_code, reason = "the tests of AF_XDP need more of it")]
#[path = "../af_xdp/frames.rs"]
mod frames;
#[expect(dead_code, reason = "the tests of AF_XDP need more of it")]
#[path = "../af_xdp/lab.rs"]
mod lab;
mod on_cable;
mod on_tap;
mod opening;
mod ring;

use vipdp_io::dpdk::{DpdkPort, Nic, Options};

/// Options for a virtual device, which needs no huge pages.
fn options(devargs: &str) -> Options {
    Options { hugepages: false, ..Options::new(devargs) }
}

/// The NIC and its one port.
fn open(devargs: &str) -> (Nic, DpdkPort) {
    let (nic, mut ports) = Nic::open(&options(devargs)).expect("opened");
    let port = ports.pop().expect("a port");
    assert!(ports.is_empty());
    (nic, port)
}

/// The frame's bytes, sent by this port.
fn transmit(port: &mut DpdkPort, frames: &[Vec<u8>]) -> usize {
    use vipdp_core::port::Port;

    let mut burst = Vec::new();
    for bytes in frames {
        let mut frame = port.alloc().expect("a free frame");
        port.buffer_mut(&mut frame)[..bytes.len()].copy_from_slice(bytes);
        port.set_len(&mut frame, bytes.len());
        burst.push(frame);
    }
    port.tx_burst(&mut burst)
}
