//! VIPs that are networks: 198.18.53.0/24 and 2001:db8:54::/64, on no interface.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Socket, Type};
use vipdp_core::port::Port;
use vipdp_io::af_xdp::{AfXdpPort, Options};
use vipdp_io::xdp::{AttachMode, Program};

use super::*;

/// An address of each network.
const INSIDE: [&str; 2] = ["198.18.53.77", "2001:db8:54::abcd:77"];
/// A next hop, and the MAC address that goes with it.
const NEXT_HOPS: [&str; 2] = ["198.51.100.64", "2001:db8:1::64"];
const VIRTUAL_MAC: &str = "02:76:00:35:00:07";

fn networks(state_dir: &Path) -> HostPlan {
    HostPlan { vips: NETWORKS.map(|one| one.parse().unwrap()).to_vec(), ..plan(state_dir) }
}

#[test]
fn the_kernel_answers_for_no_address_of_a_network_on_any_interface() {
    let lab = Lab::new("nets");
    let state = tempfile::tempdir().unwrap();
    let (first, second) = (lab.wire(), lab.second_wire());
    let (vip, own) = (ip(INSIDE[0]), ip(OWN[0]));

    // Left to itself the kernel does answer for the host's networks.
    run(&format!("ip -n {} route add local {} dev lo table local", lab.host, NETWORKS[0]));
    second.send(&question(vip));
    second.frames_until("reply", |frame| answers_for(frame, vip));
    run(&format!("ip -n {} route del local {} dev lo table local", lab.host, NETWORKS[0]));

    lab.in_host(|| {
        let _applied = apply(&networks(state.path()));
        // The second one goes on answering for an IPv4 address of the first.
        for (wire, own6) in [(&first, OWN[1]), (&second, "2001:db8:7::2")] {
            wire.assert_answers_for_own_alone(own, vip, "IPv4");
            wire.assert_answers_for_own_alone(ip(own6), ip(INSIDE[1]), "IPv6");
        }
    });
}

/// From the router by a next hop, a veth and an AF_XDP socket to a service, and back.
#[test]
fn tcp_services_on_a_network_are_reached() {
    let lab = Lab::new("nettcp");
    let state = tempfile::tempdir().unwrap();
    for (network, hop) in NETWORKS.iter().zip(NEXT_HOPS) {
        run(&format!("ip -n {} route add {network} via {hop}", lab.peer));
        run(&format!("ip -n {} neigh add {hop} lladdr {VIRTUAL_MAC} dev p0", lab.peer));
    }
    // Segments from the peer's own stack would otherwise come with unfinished checksums.
    run(&format!("ip netns exec {} ethtool -K p0 tx off", lab.peer));
    lab.in_host(|| {
        let plan = networks(state.path());
        let (mut queue, guard) = apply(&plan);
        let mut program =
            Program::attach(NIC, AttachMode::Auto, &plan.vips, &plan.next_hops).unwrap();
        let mut port = AfXdpPort::open(&Options::new(NIC, 0)).unwrap();
        program.bind(0, &port).unwrap();
        let mac = VIRTUAL_MAC.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
        let mac = MacAddr(mac.collect::<Vec<_>>().try_into().unwrap());
        let nic = Link::read(NIC).unwrap();
        let _membership = Membership::join(&nic, &[mac], &[], NEXT_HOPS.map(ip)).unwrap();

        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut frames = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    port.rx_burst(&mut frames);
                    for frame in frames.drain(..) {
                        let mut bytes = port.bytes(&frame).to_vec();
                        assert_eq!(bytes[..6], mac.0, "the next hop's");
                        bytes[..6].copy_from_slice(&guard.tap().mac.0);
                        queue.deliver_frame(&bytes).unwrap();
                        port.recycle(frame);
                    }
                    port.housekeeping();
                    std::thread::yield_now();
                }
            });
            let _done = Done(&done);
            for listener in [
                TcpListener::bind((ip(INSIDE[0]), 80)).unwrap(),
                TcpListener::bind(("0.0.0.0", 81)).unwrap(),
                TcpListener::bind(("::", 82)).unwrap(),
                free_listener(SocketAddr::new(ip(INSIDE[1]), 83)),
            ] {
                let own = listener.local_addr().unwrap();
                let service = match own.ip() {
                    IpAddr::V4(_) => SocketAddr::new(ip(INSIDE[0]), own.port()),
                    IpAddr::V6(_) => SocketAddr::new(ip(INSIDE[1]), own.port()),
                };
                assert_eq!(lab.in_peer(|| ask(&listener, service)), service);
            }
        });
    });
}

/// Ends the thread that carries frames, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A listener on an address that no interface has.
fn free_listener(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    let refused = socket.bind(&address.into()).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EADDRNOTAVAIL), "as the documentation says");
    socket.set_freebind_v6(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1).unwrap();
    socket.into()
}

/// Connects to `service`, exchanges a line with it, and returns its address as it sees it.
fn ask(listener: &TcpListener, service: SocketAddr) -> SocketAddr {
    let mut client = TcpStream::connect_timeout(&service, DEADLINE).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    for stream in [&client, &served] {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    let mut line = [0; 5];
    client.write_all(b"query").unwrap();
    served.read_exact(&mut line).unwrap();
    served.write_all(&line).unwrap();
    client.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"query");
    served.local_addr().unwrap()
}

#[test]
fn clients_of_a_network_pass_where_the_host_filters_by_reverse_path() {
    for (name, filter) in [("netrp1", "1"), ("netrp2", "2")] {
        let lab = Lab::new(name);
        let state = tempfile::tempdir().unwrap();
        lab.in_host(|| {
            for interface in ["all", "default", NIC] {
                write(&format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), filter);
            }
            let (mut queue, guard) = apply(&networks(state.path()));
            let (vip, client) = (ip(INSIDE[0]), ip(CLIENTS[0]));
            let socket = udp_socket(vip);
            queue
                .deliver_frame(&udp(guard.tap().mac, (client, 40_000), (vip, 53), b"query"))
                .unwrap();
            let mut buffer = [0; 64];
            assert_eq!(socket.recv_from(&mut buffer).unwrap().1, SocketAddr::new(client, 40_000));
        });
    }
}

#[test]
fn the_host_does_not_pick_an_address_of_a_network_as_source() {
    assert_picks_no_vip("netsrc", networks, ["198.18.54.1", "2001:db8:54:1::1"]);
}

/// A node that was killed gets packets to its own MAC address until the others have claimed: it
/// must neither reset their connections nor send them back to the router.
#[test]
fn a_host_without_vipdp_drops_vip_packets_to_its_own_mac() {
    let lab = Lab::new("netdown");
    let state = tempfile::tempdir().unwrap();
    let wire = lab.wire();
    lab.in_host(|| {
        for family in ["ipv4", "ipv6"] {
            write(&format!("/proc/sys/net/{family}/conf/all/forwarding"), "1");
        }
        let sent_on = |vip: IpAddr, at: usize| {
            wire.send(&tcp(NIC_MAC, (ip(CLIENTS[at]), 40_000), (vip, 80), 1, Some(1)));
            // Behind it on the same wire; answered, so the one before was dealt with.
            wire.send(&echo_request(NIC_MAC, ip(PEER[at]), ip(OWN[at])));
            let frames = wire.frames_until("echo reply", |frame| {
                packet(frame).is_some_and(|one| {
                    one.source == ip(OWN[at])
                        && one.ports.is_none()
                        && one.destination == ip(PEER[at])
                })
            });
            let of_vip = |one: Packet| one.source == vip || one.destination == vip;
            frames.iter().filter_map(|frame| packet(frame)).any(of_vip)
        };
        // The host routes: without blackholes it would send them back to the router.
        for (at, vip) in INSIDE.map(ip).into_iter().enumerate() {
            until("the VIP to be routed", || sent_on(vip, at));
        }
        let (queue, _guard) = apply(&HostPlan { own_mac: true, ..networks(state.path()) });
        // The kernel removes the TAP with its last queue, as it does after a SIGKILL.
        drop(queue);
        until("the TAP to go", || Link::read(TAP).is_err());
        for (at, vip) in INSIDE.map(ip).into_iter().enumerate() {
            assert!(!sent_on(vip, at), "{vip}");
        }
    });
}

/// What the child of [`a_killed_vipdp_resets_no_connection`] finds in its environment.
const KILLED: &str = "VDHO_KILLED";

/// The child's part: sets up what vipdp does, in its order, and waits until it is killed.
fn be_killed(state: &Path) {
    let plan = HostPlan { own_mac: true, ..networks(state) };
    let mut program = Program::attach(NIC, AttachMode::Auto, &plan.vips, &plan.next_hops).unwrap();
    let applied = apply(&plan);
    let port = AfXdpPort::open(&Options::new(NIC, 0)).unwrap();
    program.bind(0, &port).unwrap();
    wait_for_the_end();
    drop((program, applied, port));
}

/// Segments of flows that the host does not know come in all the time, to its own MAC address.
#[test]
fn a_killed_vipdp_resets_no_connection() {
    let test = "networks::a_killed_vipdp_resets_no_connection";
    if let Some(state) = std::env::var_os(KILLED) {
        return be_killed(Path::new(&state));
    }
    let lab = Lab::new("netkill");
    let state = tempfile::tempdir().unwrap();
    let wire = lab.wire();
    let segments: Vec<_> = (0..2)
        .map(|at| tcp(NIC_MAC, (ip(CLIENTS[at]), 40_000), (ip(INSIDE[at]), 80), 1, Some(1)))
        .collect();
    let is_reset = |frame: &[u8]| packet(frame).is_some_and(|one| one.reset);
    let resets = || {
        wire.send(&echo_request(NIC_MAC, ip(PEER[0]), ip(OWN[0])));
        let frames = wire.frames_until("echo reply", |frame| {
            packet(frame).is_some_and(|one| one.source == ip(OWN[0]) && one.ports.is_none())
        });
        frames.iter().filter(|frame| is_reset(frame)).count()
    };

    // Where nothing keeps them from a host that has the VIPs, it does reset.
    let (queue, guard) = lab.in_host(|| apply(&networks(state.path())));
    segments.iter().for_each(|segment| wire.send(segment));
    assert_eq!(resets(), 2);
    drop((queue, guard));

    for _ in 0..5 {
        let mut child = start_child(&lab, test, KILLED, state.path());
        let (mut sent, mut reset) = (0, 0);
        while child.try_wait().unwrap().is_none() {
            segments.iter().for_each(|segment| wire.send_one_of_many(segment));
            reset += wire.waiting().iter().filter(|frame| is_reset(frame)).count();
            sent += 1;
            if sent == 100 {
                child.kill().unwrap();
            }
        }
        assert_eq!((reset, resets()), (0, 0), "of {sent} segments of each family");
        lab.in_host(|| cleanup(state.path(), NIC)).unwrap();
    }
}

/// Each quietens the other's interface a little, and its own more.
#[test]
fn a_vipdp_that_stops_leaves_the_settings_of_one_on_another_interface() {
    let lab = Lab::new("nettwo");
    let state = tempfile::tempdir().unwrap();
    let _second = lab.second_wire();
    lab.in_host(|| {
        let settings = || {
            ["arp_ignore", "arp_announce"]
                .map(|key| read(&format!("/proc/sys/net/ipv4/conf/nic1/{key}")))
        };
        let (_first_queue, first) = apply(&plan(state.path()));
        assert_eq!(settings(), ["3", "1"]);
        let other =
            HostPlan { interface: "nic1".into(), tap: "tap1".into(), ..networks(state.path()) };
        let (_second_queue, _second) = apply(&other);
        assert_eq!(settings(), ["1", "2"]);
        first.restore().unwrap();
        assert_eq!(settings(), ["1", "2"], "they are the second one's now");
    });
}

#[test]
fn addresses_that_the_host_has_already_are_refused() {
    let lab = Lab::new("nettaken");
    let state = tempfile::tempdir().unwrap();
    run(&format!("ip -n {} route add local {} dev lo table local", lab.host, NETWORKS[0]));
    let before = lab.snapshot();
    lab.in_host(|| {
        let refused = |plan: HostPlan| {
            until("the TAP to go", || Link::read(TAP).is_err());
            let _queues = Tap::create(TAP, 1).unwrap();
            plan.apply().unwrap_err()
        };
        let error = refused(networks(state.path()));
        assert!(matches!(error, HostError::NetworkTaken { .. }), "{error}");

        for (vip, own) in [("198.51.100.0/24", OWN[0]), ("2001:db8:1::/64", OWN[1])] {
            let vips = vec![vip.parse().unwrap()];
            let error = refused(HostPlan { vips, ..plan(state.path()) });
            assert!(matches!(error, HostError::VipOnNic { vip, .. } if vip == ip(own)), "{error}");
        }
        let first4 = Some("198.51.100.1".parse().unwrap());
        let next_hops = NextHops { first4, count: 2, ..NextHops::default() };
        let error = refused(HostPlan { next_hops, ..plan(state.path()) });
        assert!(matches!(error, HostError::NextHopOnNic { .. }), "{error}");
    });
    lab.assert_same(&before);
}
