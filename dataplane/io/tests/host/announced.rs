//! VIPs on an interface for a routing daemon.

use vipdp_io::announced::{AnnouncedError, AnnouncedVips};

use super::*;

/// The addresses of `lo`, as `ip` shows them.
fn on_lo() -> String {
    run("ip -br address show dev lo")
}

/// A client's question to the VIP is answered by the host.
fn assert_served(queue: &mut TapQueue, wire: &lab::Wire, tap: MacAddr, at: usize, vip: IpAddr) {
    let (client, socket) = (ip(CLIENTS[at]), udp_socket(vip));
    queue.deliver_frame(&udp(tap, (client, 40_000), (vip, 53), b"query")).unwrap();
    let (_, from) = socket.recv_from(&mut [0; 64]).unwrap();
    socket.send_to(b"response", from).unwrap();
    let frames = wire.frames_until("the reply", |frame| {
        packet(frame).is_some_and(|one| one.source == vip && one.ports == Some((53, 40_000)))
    });
    assert!(!frames.is_empty());
}

#[test]
fn the_host_serves_whether_the_vips_are_announced_or_not() {
    let lab = Lab::new("announced");
    let state = tempfile::tempdir().unwrap();
    let before = lab.snapshot();
    let wire = lab.wire();
    lab.in_host(|| {
        let mut plan = HostPlan { announced_on: Some("lo".into()), ..everything(state.path()) };
        plan.egress_tap = None;
        let (mut queue, guard) = apply(&plan);
        let tap = guard.tap().mac;
        let mut announced = AnnouncedVips::new("lo", &plan.vips).unwrap();
        let shown = ["192.0.2.53/32", "2001:db8:53::53/128", "198.18.53.0/24", "2001:db8:54::/64"];
        // What is so already stays so.
        for are_there in [false, true, true, false, false, true] {
            announced.set(are_there).unwrap();
            let lo = on_lo();
            for address in shown {
                assert_eq!(lo.contains(address), are_there, "{address}: {lo}");
            }
            for (at, vip) in VIPS.map(ip).into_iter().enumerate() {
                assert_served(&mut queue, &wire, tap, at, vip);
            }
            assert_served(&mut queue, &wire, tap, 0, ip("198.18.53.99"));
        }
        drop(announced);
        assert!(!shown.iter().any(|address| on_lo().contains(address)), "{}", on_lo());
        guard.restore().unwrap();
    });
    lab.assert_same(&before);
}

#[test]
fn what_a_killed_process_left_announced_is_taken_off() {
    let lab = Lab::new("anncleft");
    let state = tempfile::tempdir().unwrap();
    let before = lab.snapshot();
    lab.in_host(|| {
        let plan = HostPlan { announced_on: Some("lo".into()), ..plan(state.path()) };
        let (queue, guard) = apply(&plan);
        let leave = || {
            let mut announced = AnnouncedVips::new("lo", &plan.vips).unwrap();
            announced.set(true).unwrap();
            // As by a process that is killed.
            std::mem::forget(announced);
            assert!(on_lo().contains("192.0.2.53/32"), "{}", on_lo());
        };
        leave();
        // The next process finds none there.
        drop(AnnouncedVips::new("lo", &plan.vips).unwrap());
        assert!(!on_lo().contains("192.0.2.53"), "{}", on_lo());
        leave();
        let report = guard.restore().unwrap();
        for vip in VIPS {
            let line = format!("{vip} is taken off lo");
            assert!(report.restored.contains(&line), "{report:?}");
        }
        assert!(report.failed.is_empty(), "{report:?}");
        drop(queue);

        let missing = AnnouncedVips::new("nic9", &plan.vips).unwrap_err();
        assert!(matches!(missing, AnnouncedError::Missing(name) if name == "nic9"));
    });
    lab.assert_same(&before);
}
