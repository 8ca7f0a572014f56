//! What the loaded program does with a frame against what a worker does that has the whole NIC: the one sends to
//! its socket what the other takes for vipdp's. Needs root.

#[path = "../../../core/tests/frames/near.rs"]
mod near;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{MapData, XskMap};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use near::{TUNNEL4, VIPS, near_frame, tiered};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use vipdp_core::classify::is_ours;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::snapshot::{Ingress, Service, Vips as VipSet};

use super::{NextHops, NextHopsMap, TunnelEnd, TunnelsMap, load, take, take_vips, typed};
use crate::frames;

/// What the program answers for a frame that goes to a socket (linux/bpf.h).
const XDP_REDIRECT: u32 = 4;

/// The program with all addresses that [`near_frame`] is about, and a socket on queue 0.
struct Loaded {
    ebpf: Ebpf,
    _sockets: XskMap<MapData>,
    /// The map forgets a socket that is closed.
    _socket: OwnedFd,
}

impl Loaded {
    fn new() -> Self {
        let mut ebpf = load().unwrap();
        let mut vips = take_vips(&mut ebpf).unwrap();
        vips.set(&VIPS.map(|vip| vip.parse().unwrap())).unwrap();
        let mut hops = NextHopsMap(typed("next_hops", take(&mut ebpf, "next_hops")).unwrap());
        hops.set(&NextHops::from(&tiered())).unwrap();
        let mut tunnels = TunnelsMap(typed("tunnels", take(&mut ebpf, "tunnels")).unwrap());
        tunnels.set(&TunnelEnd::new(TUNNEL4.address, TUNNEL4.port)).unwrap();
        let mut sockets: XskMap<MapData> = typed("xsks", take(&mut ebpf, "xsks")).unwrap();
        // Bound to nothing: a test run says where a frame would go and sends it nowhere.
        let socket = unbound();
        sockets.set(0, socket.as_raw_fd(), 0).unwrap();
        super::verified(&mut ebpf).unwrap();
        Self { ebpf, _sockets: sockets, _socket: socket }
    }

    fn is_for_socket(&self, frame: &[u8]) -> bool {
        let program: &Xdp = self.ebpf.program("vipdp").unwrap().try_into().unwrap();
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: 1,
            ..TestRunOptions::default()
        };
        program.test_run(options).unwrap().return_value == XDP_REDIRECT
    }
}

fn unbound() -> OwnedFd {
    // SAFETY: the call takes no pointer.
    let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(socket >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel just made this descriptor and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(socket) }
}

#[test]
fn the_program_and_the_worker_take_the_same_frames() {
    let loaded = Loaded::new();
    let service = Service::new(
        VipSet::new(VIPS.map(|vip| vip.parse().unwrap())),
        ClientHash::new([1; 16], HashInput::Address),
        Ingress::Tiered(tiered()),
        frames::OWN,
        frames::HOST,
    );
    let mut runner = TestRunner::new(ProptestConfig::with_cases(4_000));
    let outcome = runner.run(&near_frame(), |frame| {
        let is_ours = is_ours(&service, Some(&TUNNEL4), &frame);
        prop_assert_eq!(loaded.is_for_socket(&frame), is_ours);
        Ok(())
    });
    outcome.unwrap();
}
