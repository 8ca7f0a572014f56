//! The host's side of the hand-off, with a real kernel.
//!
//! ```text
//!   vdho-TEST-PID-p, the router                    vdho-TEST-PID-h, the node
//!   +-----------------------------+               +----------------------------------------+
//!   |  p0 198.51.100.1/24         |     veth      | nic0 198.51.100.2/24                   |
//!   |     2001:db8:1::1/64  ------+---------------+----- 2001:db8:1::2/64    default via p0|
//!   |     02:00:00:00:00:01       |               |      02:00:00:00:00:02                 |
//!   |                             |               | tap0 192.0.2.53/32, 2001:db8:53::53/128|
//!   +-----------------------------+               +----------------------------------------+
//!     Wire: writes frames, reads what                TapQueue: the test plays the worker
//!     the node sends
//! ```
//!
//! VIPs that are networks are 198.18.53.0/24 and 2001:db8:54::/64. Clients are addresses behind the router that no interface has. Root is needed; without it the
//! tests fail.

mod announced;
mod anycast;
mod coalesced;
mod in_place;
mod lab;
mod networks;
mod paths;
mod segment;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lab::{
    DEADLINE, Lab, NIC, NIC_MAC, Packet, answers_for, arp, arp_request, echo_request, ip,
    neighbor_discovery, packet, question, run, tcp, udp, until, write,
};
use vipdp_core::port::Host;
use vipdp_core::prefix::Prefix;
use vipdp_core::snapshot::SharedMac;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_io::host::{EgressTap, HostError, HostGuard, HostPlan, Polling, Report, cleanup};
use vipdp_io::link::Link;
use vipdp_io::membership::Membership;
use vipdp_io::neighbor::EgressTable;
use vipdp_io::tap::{Tap, TapError, TapQueue};
use vipdp_io::xdp::NextHops;

const TAP: &str = "tap0";
const VIPS: [&str; 2] = ["192.0.2.53", "2001:db8:53::53"];
const NETWORKS: [&str; 2] = ["198.18.53.0/24", "2001:db8:54::/64"];
const CLIENTS: [&str; 2] = ["203.0.113.7", "2001:db8:ffff::7"];
const OWN: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];
const PEER: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];
const ARP_IGNORE: &str = "/proc/sys/net/ipv4/conf/nic0/arp_ignore";
const ARP_ANNOUNCE: &str = "/proc/sys/net/ipv4/conf/nic0/arp_announce";

fn vips() -> Vec<Prefix> {
    VIPS.map(|vip| ip(vip).into()).to_vec()
}

fn plan(state_dir: &Path) -> HostPlan {
    HostPlan {
        interface: NIC.into(),
        tap: TAP.into(),
        vips: vips(),
        next_hops: NextHops::default(),
        group_mac: false,
        own_mac: false,
        by_nic: false,
        polling: Polling::Always,
        egress_tap: None,
        announced_on: None,
        state_dir: state_dir.into(),
    }
}

/// A plan that changes as much of the host as can be at a time, with networks among the VIPs.
fn everything(state_dir: &Path) -> HostPlan {
    let mut vips = vips();
    vips.extend(NETWORKS.map(|network| network.parse::<Prefix>().unwrap()));
    let egress_tap = Some(EgressTap::default());
    HostPlan { vips, own_mac: true, egress_tap, ..plan(state_dir) }
}

/// Makes the TAP and applies the plan; to be called in the host's namespace.
fn apply(plan: &HostPlan) -> (TapQueue, HostGuard) {
    let mut queues = Tap::create(&plan.tap, 1).unwrap();
    (queues.pop().unwrap(), plan.apply().unwrap())
}

fn macs(shared: SharedMac) -> [MacAddr; 2] {
    [shared.v4, shared.v6]
}

/// A UDP socket of the node that does not wait for ever.
fn udp_socket(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap().trim_end().to_owned()
}

#[test]
fn the_kernel_answers_for_its_own_addresses_and_never_for_a_vip() {
    let lab = Lab::new("answer");
    let state = tempfile::tempdir().unwrap();
    let wire = lab.wire();
    let vip = ip(VIPS[0]);

    // Left to itself the kernel does answer for an address of another interface.
    run(&format!("ip -n {} addr add {vip}/32 dev lo", lab.host));
    wire.send(&question(vip));
    wire.frames_until("reply", |frame| answers_for(frame, vip));
    run(&format!("ip -n {} addr del {vip}/32 dev lo", lab.host));

    lab.in_host(|| {
        let _applied = apply(&plan(state.path()));
        for (own, vip) in OWN.map(ip).into_iter().zip(VIPS.map(ip)) {
            wire.assert_answers_for_own_alone(own, vip, "with the plan applied");
        }
    });
}

#[test]
fn datagrams_through_the_tap_are_answered_by_the_nic_and_the_host_never_asks_as_a_vip() {
    let lab = Lab::new("udp");
    let state = tempfile::tempdir().unwrap();
    let wire = lab.wire();
    lab.in_host(|| {
        let (mut queue, guard) = apply(&plan(state.path()));
        for (vip, client) in VIPS.map(ip).into_iter().zip(CLIENTS.map(ip)) {
            let socket = udp_socket(vip);
            // A large port: the kernel must not take the reply for somebody else's.
            queue
                .deliver_frame(&udp(guard.tap().mac, (client, 40_000), (vip, 53), b"query"))
                .unwrap();
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&b"query"[..], SocketAddr::new(client, 40_000)));
            // The gateway is not known yet: the kernel asks for it with this reply in hand.
            socket.send_to(b"response", from).unwrap();
            let is_reply =
                |frame: &[u8]| packet(frame).is_some_and(|one| one.ports == Some((53, 40_000)));
            let frames = wire.frames_until("reply", is_reply);
            let reply = packet(frames.last().unwrap()).unwrap();
            assert_eq!((reply.source, reply.destination), (vip, client));
            assert_eq!(reply.source_mac, NIC_MAC);

            let asked: Vec<IpAddr> = frames
                .iter()
                .filter_map(|frame| match arp(frame) {
                    Some((false, sender, _)) => Some(sender),
                    Some(_) => None,
                    None => neighbor_discovery(frame)
                        .and_then(|(kind, source, _)| (kind == 135).then_some(source)),
                })
                .collect();
            assert!(!asked.is_empty(), "the gateway was to be asked for: {frames:02x?}");
            assert!(asked.iter().all(|&sender| sender != vip), "{asked:?}");
        }
    });
}

#[test]
fn tcp_connections_through_the_tap_are_established() {
    let lab = Lab::new("tcp");
    let state = tempfile::tempdir().unwrap();
    let wire = lab.wire();
    lab.in_host(|| {
        let (mut queue, guard) = apply(&plan(state.path()));
        for (vip, client) in VIPS.map(ip).into_iter().zip(CLIENTS.map(ip)) {
            let listener = TcpListener::bind((vip, 80)).unwrap();
            let (mac, client, service) = (guard.tap().mac, (client, 40_001), (vip, 80));
            queue.deliver_frame(&tcp(mac, client, service, 1_000, None)).unwrap();
            let syn_ack = |frame: &[u8]| packet(frame).and_then(|one| one.syn_ack);
            let frames = wire.frames_until("SYN-ACK", |frame| syn_ack(frame).is_some());
            let reply = packet(frames.last().unwrap()).unwrap();
            assert_eq!((reply.source, reply.source_mac), (vip, NIC_MAC));
            let acknowledged = reply.syn_ack.unwrap().wrapping_add(1);
            queue.deliver_frame(&tcp(mac, client, service, 1_001, Some(acknowledged))).unwrap();
            // The frame was processed when `deliver` returned.
            listener.set_nonblocking(true).unwrap();
            let (_, from) = listener.accept().unwrap();
            assert_eq!(from, SocketAddr::new(client.0, client.1));
        }
    });
}

#[test]
fn clients_pass_where_the_host_filters_by_reverse_path() {
    let lab = Lab::new("rpf");
    let state = tempfile::tempdir().unwrap();
    lab.in_host(|| {
        for interface in ["all", "default", NIC] {
            write(&format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "1");
        }
        let (mut queue, guard) = apply(&plan(state.path()));
        let (vip, client) = (ip(VIPS[0]), ip(CLIENTS[0]));
        let socket = udp_socket(vip);
        queue.deliver_frame(&udp(guard.tap().mac, (client, 40_000), (vip, 53), b"query")).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(socket.recv_from(&mut buffer).unwrap().1, SocketAddr::new(client, 40_000));
        assert_eq!(read("/proc/sys/net/ipv4/conf/all/rp_filter"), "1", "not ours to change");
        assert_eq!(read("/proc/sys/net/ipv4/conf/nic0/rp_filter"), "1", "not ours to change");
    });
}

/// With packets by the NIC itself, its filter is loosened, and strict again afterwards.
#[test]
fn clients_pass_by_the_nic_whatever_the_route_back_to_them() {
    let lab = Lab::new("bynic");
    let state = tempfile::tempdir().unwrap();
    let wire = lab.wire();
    let filter = format!("/proc/sys/net/ipv4/conf/{NIC}/rp_filter");
    lab.in_host(|| {
        let plan = HostPlan { by_nic: true, ..plan(state.path()) };
        for (all, own, during) in [("1", "0", "2"), ("0", "1", "2"), ("0", "0", "0")] {
            write("/proc/sys/net/ipv4/conf/all/rp_filter", all);
            write(&filter, own);
            let (_queue, guard) = apply(&plan);
            assert_eq!(read(&filter), during, "all {all}, the NIC's {own}");
            guard.restore().unwrap();
            assert_eq!(read(&filter), own, "all {all}");
        }

        write("/proc/sys/net/ipv4/conf/all/rp_filter", "1");
        let (vip, client) = (ip(VIPS[0]), ip(CLIENTS[0]));
        run(&format!("ip -n {} route add {client}/32 dev lo", lab.host));
        let _applied = apply(&plan);
        let socket = udp_socket(vip);
        wire.send(&udp(NIC_MAC, (client, 40_000), (vip, 53), b"query"));
        let mut buffer = [0; 64];
        assert_eq!(socket.recv_from(&mut buffer).unwrap().1, SocketAddr::new(client, 40_000));
    });
}

#[test]
fn the_host_does_not_pick_a_vip_as_the_source_of_its_own_traffic() {
    assert_picks_no_vip("source", plan, ["192.0.2.54", "2001:db8:53::54"]);
}

/// Asserts that a host with the VIPs of `plan`, and no other address that fits, does not take one of
/// them as source towards `clients`, one of each family.
fn assert_picks_no_vip(name: &str, plan: fn(&Path) -> HostPlan, clients: [&str; 2]) {
    let lab = Lab::new(name);
    let state = tempfile::tempdir().unwrap();
    // The NIC has none that fits, and the IPv6 one elsewhere has less in common with the client.
    run(&format!("ip -n {} addr flush dev {NIC} scope global", lab.host));
    run(&format!("ip -n {} addr add fd00::2/128 dev lo", lab.host));
    run(&format!("ip -n {} route add default dev {NIC}", lab.host));
    run(&format!("ip -n {} -6 route replace default dev {NIC}", lab.host));
    lab.in_host(|| {
        let _applied = apply(&plan(state.path()));
        let picks = [("0.0.0.0", "0.0.0.0"), ("::", "fd00::2")];
        for ((unspecified, picked), client) in picks.into_iter().zip(clients) {
            let socket = UdpSocket::bind((ip(unspecified), 0)).unwrap();
            socket.connect((ip(client), 9)).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), ip(picked), "towards {client}");
        }
    });
}

/// Frames to the shared MAC that no XDP program takes must end at the NIC: every node gets them.
#[test]
fn the_stack_takes_no_vip_packet_from_the_nic() {
    for (name, shared) in [
        ("unicast", SharedMac::unicast(MacAddr([0x02, 0x56, 0, 0, 0, 0x35]))),
        (
            "group",
            SharedMac {
                v4: MacAddr([0x01, 0, 0x5e, 1, 2, 0x35]),
                v6: MacAddr([0x33, 0x33, 0, 0, 2, 0x35]),
            },
        ),
    ] {
        let lab = Lab::new(name);
        let state = tempfile::tempdir().unwrap();
        let wire = lab.wire();
        lab.in_host(|| {
            let plan = HostPlan { group_mac: shared.v4.is_group(), ..plan(state.path()) };
            let (mut queue, guard) = apply(&plan);
            let nic = Link::read(NIC).unwrap();
            let _membership = Membership::join(&nic, &macs(shared), &[], VIPS.map(ip)).unwrap();
            for (at, mac) in [shared.v4, shared.v6].into_iter().enumerate() {
                let (vip, client) = (ip(VIPS[at]), (ip(CLIENTS[at]), 40_000));
                let socket = udp_socket(vip);
                wire.send(&udp(mac, client, (vip, 53), b"past the data plane"));
                // Behind it on the same wire; answered, so the one before was dealt with.
                wire.send(&echo_request(NIC_MAC, ip(PEER[at]), ip(OWN[at])));
                wire.frames_until("echo reply", |frame| {
                    packet(frame).is_some_and(|one| one.source == ip(OWN[at]))
                });
                queue
                    .deliver_frame(&udp(guard.tap().mac, client, (vip, 53), b"through it"))
                    .unwrap();
                let mut buffer = [0; 64];
                let (length, _) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], b"through it", "{mac}");
            }
        });
    }
}

#[test]
fn restore_leaves_the_host_as_it_was() {
    let lab = Lab::new("restore");
    let state = tempfile::tempdir().unwrap();
    let before = lab.snapshot();
    let plan = HostPlan { group_mac: true, ..everything(state.path()) };
    let (queue, guard, membership) = lab.in_host(|| {
        let (queue, guard) = apply(&plan);
        let nic = Link::read(NIC).unwrap();
        let group = SharedMac::unicast(MacAddr([0x03, 0, 0, 0, 0, 1]));
        (
            queue,
            guard,
            Membership::join(&nic, &macs(group), &[ip("239.1.2.3")], VIPS.map(ip)).unwrap(),
        )
    });
    let during = lab.snapshot();
    let is = |line: &str| during.iter().any(|one| one.contains(line));
    assert!(is("nic0/arp_ignore = 1") && is("nic0/arp_announce = 2"));
    assert!(is("napi_defer_hard_irqs = 1") && is("from 192.0.2.53 lookup"));
    assert!(is("ipv6/conf/nic0/drop_unicast_in_l2_multicast = 1"));
    assert!(is("blackhole 198.18.53.0/24") && is("local 198.18.53.0/24 dev tap0"));
    assert!(is("blackhole 2001:db8:54::/64") && is("local 2001:db8:54::/64 dev tap0"));
    assert!(is("from 198.18.53.0/24 lookup") && is("from 2001:db8:54::/64 lookup"));
    drop(membership);
    let report = lab.in_host(|| guard.restore()).unwrap();
    assert_eq!((report.left_alone, report.failed), (vec![], vec![]));
    lab.assert_same(&before);
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "no file stays");
    // The worker may still hold its queue when the TAP goes.
    drop(queue);
}

#[test]
fn interrupts_are_put_off_under_load_alone() {
    let lab = Lab::new("load");
    let state = tempfile::tempdir().unwrap();
    let before = lab.snapshot();
    let nic = |key: &str| read(&format!("/sys/class/net/{NIC}/{key}"));
    let settings = || ["napi_defer_hard_irqs", "gro_flush_timeout"].map(nic);
    lab.in_host(|| {
        let plan = HostPlan { polling: Polling::UnderLoad, ..plan(state.path()) };
        let (_queue, guard) = apply(&plan);
        let deferral = guard.deferral().expect("with this plan");
        assert_eq!(settings(), ["0", "0"]);
        for _ in 0..2 {
            deferral.ask();
            deferral.ask();
            until("the settings", || settings() == ["1", "200000"]);
            deferral.release();
            assert!(deferral.is_on(), "one asks still");
            deferral.release();
            until("the settings", || settings() == ["0", "0"] && !deferral.is_on());
        }
        // What somebody sets meanwhile is theirs.
        deferral.ask();
        until("the settings", || settings() == ["1", "200000"]);
        std::fs::write(format!("/sys/class/net/{NIC}/gro_flush_timeout"), "7000").unwrap();
        deferral.release();
        until("the settings", || settings() == ["0", "7000"]);
        std::fs::write(format!("/sys/class/net/{NIC}/gro_flush_timeout"), "0").unwrap();
        // Under load to the end.
        deferral.ask();
        until("the settings", || settings() == ["1", "200000"]);
        let report = guard.restore().unwrap();
        assert_eq!((report.left_alone, report.failed), (vec![], vec![]));
    });
    lab.assert_same(&before);
}

/// What the child of [`a_killed_process_is_cleaned_up_after`] finds in its environment.
const CHILD: &str = "VDHO_STATE_DIR";

/// Starts this test's own program again, to apply a plan in the namespace and to be killed; it finds
/// the state's directory in the variable.
fn start_child(lab: &Lab, test: &str, variable: &str, state: &Path) -> Child {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.host])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(variable, state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let applied = lines.any(|line| line.unwrap().ends_with("applied"));
    assert!(applied, "the child did not apply its plan");
    child
}

/// The child's part: applies a plan and waits until it is killed, or its parent ends.
fn be_the_child(state: &Path) {
    let applied = apply(&everything(state));
    wait_for_the_end();
    drop(applied);
}

/// Tells the parent that everything is applied, and waits until it kills this process or ends.
fn wait_for_the_end() {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "applied").unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_killed_process_is_cleaned_up_after() {
    let test = "a_killed_process_is_cleaned_up_after";
    if let Some(state) = std::env::var_os(CHILD) {
        return be_the_child(Path::new(&state));
    }
    let lab = Lab::new("kill");
    let state = tempfile::tempdir().unwrap();
    let before = lab.snapshot();

    let mut child = start_child(&lab, test, CHILD, state.path());
    let second = lab.in_host(|| {
        let _queues = Tap::create("tap1", 1).unwrap();
        HostPlan { tap: "tap1".into(), ..plan(state.path()) }.apply().unwrap_err()
    });
    assert!(
        matches!(&second, HostError::Running { pid, .. } if *pid == child.id().to_string()),
        "{second}"
    );
    let running = cleanup(state.path(), NIC).unwrap_err();
    assert!(matches!(running, HostError::Running { .. }), "{running}");

    child.kill().unwrap();
    child.wait().unwrap();
    lab.in_host(|| assert_eq!(read(ARP_IGNORE), "1", "the kernel does not undo a setting"));
    let report = lab.in_host(|| cleanup(state.path(), NIC)).unwrap();
    assert_eq!((report.left_alone, report.failed), (vec![], vec![]));
    lab.assert_same(&before);

    // A start does the same: its own restore finds the first values, not those of the killed one.
    let mut child = start_child(&lab, test, CHILD, state.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let report = lab.in_host(|| {
        let (_queue, guard) = apply(&plan(state.path()));
        guard.restore().unwrap()
    });
    assert_eq!((report.left_alone, report.failed), (vec![], vec![]));
    lab.assert_same(&before);
    assert_eq!(lab.in_host(|| cleanup(state.path(), NIC)).unwrap(), Report::default());
}

#[test]
fn a_setting_that_somebody_else_changed_is_left_alone() {
    let lab = Lab::new("foreign");
    let state = tempfile::tempdir().unwrap();
    lab.in_host(|| {
        let (_queue, guard) = apply(&plan(state.path()));
        write(ARP_ANNOUNCE, "1");
        let report = guard.restore().unwrap();
        assert_eq!(report.left_alone.len(), 1, "{report:?}");
        assert!(report.left_alone[0].contains("arp_announce"), "{report:?}");
        assert_eq!((read(ARP_ANNOUNCE).as_str(), read(ARP_IGNORE).as_str()), ("1", "0"));
    });
}

#[test]
fn a_plan_that_fails_half_way_is_undone() {
    let lab = Lab::new("fail");
    let state = tempfile::tempdir().unwrap();
    let EgressTap { table, .. } = EgressTap::default();
    run(&format!("ip -n {} -6 route add default dev lo table {table}", lab.host));
    let before = lab.snapshot();
    lab.in_host(|| {
        let _queues = Tap::create(TAP, 1).unwrap();
        let plan = HostPlan { egress_tap: Some(EgressTap::default()), ..plan(state.path()) };
        let error = plan.apply().unwrap_err();
        assert!(matches!(error, HostError::TableTaken { .. }), "{error}");

        let own = HostPlan { vips: vec![ip(OWN[0]).into()], ..plan.clone() };
        let _queues = Tap::create(TAP, 1).unwrap();
        let error = own.apply().unwrap_err();
        assert!(matches!(error, HostError::VipOnNic { .. }), "{error}");
    });
    lab.assert_same(&before);
}

#[test]
fn the_nic_accepts_the_shared_mac_and_the_groups_while_the_membership_lasts() {
    let lab = Lab::new("member");
    let before = lab.snapshot();
    let wire = lab.wire();
    lab.in_host(|| {
        let nic = Link::read(NIC).unwrap();
        assert_eq!(nic.promiscuity, 0);
        let shared = SharedMac::unicast(MacAddr([0x02, 0x56, 0, 0, 0, 0x35]));
        let membership =
            Membership::join(&nic, &macs(shared), &[ip("239.1.2.3")], VIPS.map(ip)).unwrap();
        // A veth has no filter for unicast addresses.
        assert_eq!(Link::read(NIC).unwrap().promiscuity, 1);
        let groups = run("ip maddr show dev nic0");
        for group in ["01:00:5e:01:02:03", "33:33:ff:00:00:53", "ff02::1:ff00:53", "239.1.2.3"] {
            assert!(groups.contains(group), "{group} is not in {groups}");
        }
        // MLD reports go to ff02::16, IGMP reports to 224.0.0.22: snooping switches learn.
        for all_routers in ["ff02::16", "224.0.0.22"] {
            wire.frames_until("report", |frame| {
                packet(frame).is_some_and(|one| one.destination == ip(all_routers))
            });
        }
        drop(membership);
    });
    lab.assert_same(&before);
}

#[test]
fn replies_leave_by_the_tap_where_the_plan_says_so() {
    let lab = Lab::new("egress");
    let state = tempfile::tempdir().unwrap();
    let wire = lab.wire();
    lab.in_host(|| {
        // The strictest reverse-path filter, too.
        write("/proc/sys/net/ipv4/conf/all/rp_filter", "1");
        let plan = HostPlan { egress_tap: Some(EgressTap::default()), ..plan(state.path()) };
        let (mut queue, guard) = apply(&plan);
        let tap = guard.tap().mac;
        let mut buffer = [0; 2048];
        for (at, vip) in VIPS.map(ip).into_iter().enumerate() {
            let (client, socket) = (ip(CLIENTS[at]), udp_socket(vip));
            queue.deliver_frame(&udp(tap, (client, 40_000), (vip, 53), b"query")).unwrap();
            let (_, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(b"response", from).unwrap();
            // The kernel queued it before `send_to` returned.
            let reply = std::iter::from_fn(|| {
                queue.take(&mut buffer).map(|taken| packet(&buffer[..taken.len]))
            })
            .flatten()
            .find(|one| one.ports == Some((53, 40_000)))
            .expect("the reply");
            assert_eq!((reply.source, reply.destination), (vip, client));
            assert_eq!((reply.source_mac, reply.destination_mac), (tap, tap));

            // Its own traffic does not.
            wire.send(&echo_request(NIC_MAC, ip(PEER[at]), ip(OWN[at])));
            let frames = wire.frames_until("echo reply", |frame| {
                packet(frame).is_some_and(|one| one.source == ip(OWN[at]))
            });
            let of_vip = |frame: &Vec<u8>| packet(frame).is_some_and(|one| one.source == vip);
            assert!(!frames.iter().any(of_vip), "{frames:02x?}");

            // However many clients there are, the kernel does not keep a neighbour for each.
            for last in 1..=100_u8 {
                let client = match vip {
                    IpAddr::V4(_) => IpAddr::from([203, 0, 113, last]),
                    IpAddr::V6(_) => ip(&format!("2001:db8:77::{last:x}")),
                };
                socket.send_to(b"response", (client, 40_001)).unwrap();
            }
            let family = if vip.is_ipv4() { "-4" } else { "-6" };
            let neighbours = run(&format!("ip {family} neigh show dev {TAP} nud all"));
            let of_clients = neighbours.lines().filter(|line| {
                let address = line.split(' ').next().unwrap_or_default();
                !ip(address).is_multicast()
            });
            assert_eq!(of_clients.count(), 1, "{neighbours}");
        }
    });
}

#[test]
fn the_egress_table_has_the_kernels_routes_and_neighbours() {
    let lab = Lab::new("table");
    run(&format!("ip -n {} route add 203.0.113.0/25 via 198.51.100.9", lab.host));
    run(&format!("ip -n {} route add 10.0.0.0/8 dev lo", lab.host));
    run(&format!("ip -n {} route add 203.0.113.128/25 via inet6 2001:db8:1::1", lab.host));
    run(&format!("ip -n {} addr add 198.51.100.9/24 dev p0", lab.peer));
    lab.in_host(|| {
        let mut table = EgressTable::new(&Link::read(NIC).unwrap()).unwrap();
        let next = |table: &EgressTable, to: &str| table.egress().next_hop(ip(to));
        assert_eq!(next(&table, CLIENTS[0]), Some(ip("198.51.100.9")));
        assert_eq!(next(&table, "203.0.113.200"), Some(ip(PEER[1])));
        assert_eq!(next(&table, "192.0.2.200"), Some(ip(PEER[0])));
        assert_eq!(next(&table, "198.51.100.77"), Some(ip("198.51.100.77")));
        assert_eq!(next(&table, CLIENTS[1]), Some(ip(PEER[1])));
        assert_eq!(next(&table, "2001:db8:1::77"), Some(ip("2001:db8:1::77")));
        let routes = &table.egress().routes;
        assert!(routes.iter().all(|route| route.network != ip("10.0.0.0")), "{routes:?}");

        // The gateways were asked for; the kernel's answers come in their own time.
        let end = std::time::Instant::now() + DEADLINE;
        let known = |table: &EgressTable| {
            let gateways = [PEER[0], PEER[1], "198.51.100.9"].map(ip);
            gateways.iter().all(|&gateway| table.egress().mac(gateway).is_some())
        };
        while !known(&table) {
            assert!(std::time::Instant::now() < end, "{table:?}");
            table.refresh().unwrap();
            std::thread::yield_now();
        }
        assert_eq!(table.egress().mac(ip(PEER[0])), Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!(table.egress().mac(ip("198.51.100.77")), None);
    });
}

#[test]
fn facts_of_a_link_and_what_is_wrong_with_it() {
    let lab = Lab::new("link");
    lab.in_host(|| {
        let nic = Link::read(NIC).unwrap();
        assert_eq!((nic.mac, nic.mtu, nic.running), (NIC_MAC, 1500, true));
        assert!(OWN.map(ip).iter().all(|&own| nic.has(own)), "{:?}", nic.addresses);
        assert_eq!(nic.driver(), None);
        nic.require_running().unwrap();
        assert!(!nic.has_threads());
        // A veth has something to receive by only with this.
        run("ethtool -K nic0 gro on");
        std::fs::write("/sys/class/net/nic0/threaded", "1").unwrap();
        assert!(nic.has_threads());

        let error = Link::read("nic9").unwrap_err().to_string();
        assert_eq!(error, "interface nic9: there is none of that name; this host has lo, nic0");
        let error = Link::read("lo").unwrap_err().to_string();
        assert!(error.starts_with("interface lo: it is not an Ethernet interface"), "{error}");
        run("ip link set nic0 down");
        let error = Link::read(NIC).unwrap().require_running().unwrap_err().to_string();
        assert_eq!(error, "interface nic0: it is down; `ip link set nic0 up` starts it");
    });
    run(&format!("ip -n {} link set {NIC} up", lab.host));
    run(&format!("ip -n {} link set p0 down", lab.peer));
    lab.in_host(|| {
        let error = Link::read(NIC).unwrap().require_running().unwrap_err().to_string();
        assert_eq!(error, "interface nic0: it has no carrier; check the cable and the switch port");
    });
}

#[test]
fn a_tap_has_queues_of_its_own_and_ends_with_them() {
    let lab = Lab::new("tap");
    lab.in_host(|| {
        let mut queues = Tap::create(TAP, 2).unwrap();
        assert_eq!(queues.len(), 2);
        assert!(matches!(Tap::create(TAP, 2), Err(TapError::Exists { .. })));
        // Down, it takes nothing, and that is no fault of the frame.
        let frame = udp(MacAddr([2; 6]), (ip(CLIENTS[0]), 1), (ip(VIPS[0]), 2), b"");
        assert_eq!(queues[1].deliver_frame(&frame), Err(vipdp_core::port::Refused::Full));
        assert_eq!(queues[1].take(&mut [0; 64]), None);
        drop(queues);
        until("the TAP to go", || Link::read(TAP).is_err());
        run("ip tuntap add dev tap0 mode tap");
        assert!(matches!(Tap::create(TAP, 1), Err(TapError::Exists { .. })), "not ours to take");
    });
}
