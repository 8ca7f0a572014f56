//! The BGP speaker and its BFD against FRR, as routers run it.
//!
//! ```text
//!   a test's thread                                 bgpd, bfdd, zebra
//!   Speaker, AS 65011  eth0 ---- switch ---- eth0   AS 65001
//! ```
//!
//! The speaker runs in the test's own process, on a thread in the node's namespace.

mod frr;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Instant;

use frr::Frr;
use socket2::{Domain, Socket, Type};
use vipdp::bfd;
use vipdp::bgp::{Announcement, Attributes, LocalConfig, PeerConfig, RemoteAs, Shutdown, State};
use vipdp::speaker::{ConnectFailure, PORT, SpeakerPeer, SpeakerPeerView, Target};
use vipdp_tests::path::{NODE, Path, ROUTER};
use vipdp_tests::speaker::{EVER, SOON, VIPS, announce, local, peer, router, start, wait_peer};
use vipdp_tests::wait::wait_until;

const VIP4: &str = VIPS[0];
const VIP6: &str = VIPS[1];

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// bgpd's configuration: what every test has, and lines below `router bgp`.
fn bgpd(lines: &[&str]) -> String {
    let mut config = "router bgp 65001\n bgp router-id 10.99.0.2\n no bgp ebgp-requires-policy\n \
                      no bgp network import-check\n timers bgp 3 9\n"
        .to_owned();
    for line in lines {
        config += &format!(" {line}\n");
    }
    config
}

/// A router with a session to the node over each family, each for both families of routes.
const BOTH: &[&str] = &[
    "neighbor 10.99.0.1 remote-as 65011",
    "neighbor 10.99.0.1 timers connect 1",
    "neighbor 2001:db8:99::1 remote-as 65011",
    "neighbor 2001:db8:99::1 timers connect 1",
    "neighbor 2001:db8:99::1 capability extended-nexthop",
    "address-family ipv6 unicast",
    " neighbor 10.99.0.1 activate",
    " neighbor 2001:db8:99::1 activate",
];

/// A router with one session, over IPv4, for IPv4 routes.
const ONE: &[&str] = &["neighbor 10.99.0.1 remote-as 65011", "neighbor 10.99.0.1 timers connect 1"];

/// A router with one session over the link, whoever is there.
const UNNUMBERED: &[&str] = &[
    "neighbor eth0 interface remote-as external",
    "neighbor eth0 timers connect 1",
    "address-family ipv6 unicast",
    " neighbor eth0 activate",
];

#[test]
fn routes_bear_what_is_configured_and_follow_what_is_announced() {
    let path = Path::up();
    let frr = Frr::start(path.router(), &bgpd(BOTH));
    let attributes = Attributes {
        communities: vec!["65011:100".parse().unwrap(), "no-export".parse().unwrap()],
        large_communities: vec!["65011:1:2".parse().unwrap()],
        med: Some(77),
        link_bandwidth: Some(3e6),
    };
    let speaker = start(&path, LocalConfig { attributes, ..local() }, vec![router(0), router(1)]);
    for index in 0..2 {
        wait_until(SOON, "established", || speaker.peers()[index].bgp.state == State::Established);
    }
    assert!(frr.paths(VIP4).is_empty(), "nothing before the first order");

    // IPv4 routes by both sessions, IPv6 routes by the one over IPv6: the other has no next hop.
    speaker.set(Announcement::Announced, EVER);
    let (v4, v6) = (frr.wait_paths(VIP4, 2), frr.wait_paths(VIP6, 1));
    for known in v4.iter().chain(&v6) {
        assert_eq!(known["aspath"]["string"], "65011", "{known:#}");
        assert_eq!(known["metric"], 77, "{known:#}");
        assert_eq!(known["community"]["list"][0], "65011:100", "{known:#}");
        assert_eq!(known["community"]["list"][1], "noExport", "{known:#}");
        assert_eq!(known["largeCommunity"]["string"], "65011:1:2", "{known:#}");
        assert_eq!(
            known["extendedCommunity"]["string"], "LB:65011:3000000 (24.000 Mbps)",
            "{known:#}"
        );
    }
    let next_hop = |known: &serde_json::Value| known["nexthops"][0]["ip"].to_string();
    let mut hops: Vec<_> = v4.iter().map(next_hop).collect();
    hops.sort();
    assert_eq!(hops, ["\"10.99.0.1\"", "\"2001:db8:99::1\""]);
    assert_eq!(next_hop(&v6[0]), "\"2001:db8:99::1\"");

    speaker.set(Announcement::Marked, EVER);
    wait_until(SOON, "marked", || {
        let all = [frr.paths(VIP4), frr.paths(VIP6)].concat();
        let marked = |known: &serde_json::Value| {
            known["community"]["string"].to_string().contains("graceful-shutdown")
        };
        all.len() == 3 && all.iter().all(marked)
    });
    speaker.set(Announcement::Nothing, EVER);
    frr.wait_paths(VIP4, 0);
    frr.wait_paths(VIP6, 0);

    // A lease that runs out withdraws by itself, and a new one announces again.
    speaker.set(Announcement::Announced, monotonic_ns() + 4_000_000_000);
    frr.wait_paths(VIP4, 2);
    frr.wait_paths(VIP4, 0);
    speaker.set(Announcement::Announced, EVER);
    frr.wait_paths(VIP4, 2);
    assert!(speaker.peers().iter().all(|peer| peer.bgp.counters.dropped == 0));

    speaker.stop(Shutdown::Administrative(Some("back at five".into())));
    frr.wait_paths(VIP4, 0);
    let neighbor = frr.neighbor("10.99.0.1");
    assert_eq!(neighbor["lastNotificationReason"], "Cease/Administrative Shutdown", "{neighbor:#}");
    assert_eq!(neighbor["lastShutdownDescription"], "back at five", "{neighbor:#}");
}

/// Takes the IPv4 addresses away: FRR would rather use them, where both ends can tell the other's
/// from their own.
fn make_unnumbered(path: &Path) {
    for (end, address) in [(path.node(), NODE[0]), (path.router(), ROUTER[0])] {
        end.run(&format!("ip address delete {address}/30 dev eth0"));
    }
}

#[test]
fn an_unnumbered_session_comes_up_by_router_advertisements() {
    let path = Path::up();
    make_unnumbered(&path);
    let on = |interface: &str| vec![peer(Target::Interface(interface.into()))];
    let speaker = announce(&path, local(), [on("eth0"), on("eth1")].concat());
    wait_peer(&speaker, "nobody is there", |peer| {
        peer.connect_failure == Some(ConnectFailure::NoRouter)
    });
    wait_until(SOON, "the interface is missed", || {
        let trouble = speaker.peers()[1].connect_failure.as_ref().map(ToString::to_string);
        trouble.is_some_and(|trouble| trouble.contains("there is none of that name"))
    });
    let frr = Frr::start(path.router(), &bgpd(UNNUMBERED));
    let known = [frr.wait_paths(VIP4, 1), frr.wait_paths(VIP6, 1)].concat();
    for route in known {
        let next_hop = &route["nexthops"][0]["ip"];
        assert!(next_hop.as_str().is_some_and(|hop| hop.starts_with("fe80::")), "{route:#}");
        assert_eq!(route["valid"], true, "{route:#}");
    }
    let mut installed = String::new();
    wait_until(SOON, "FRR's kernel has the route", || {
        installed = path.router().run("ip route show 172.20.0.1");
        !installed.is_empty()
    });
    assert!(installed.contains("via inet6 fe80::"), "{installed}");

    // The speaker may come second, too.
    drop(speaker);
    frr.wait_paths(VIP4, 0);
    let speaker = announce(&path, local(), on("eth0"));
    frr.wait_paths(VIP4, 1);
    drop(speaker);

    // With a password, too: link-local addresses have keys like others.
    frr.configure(&["neighbor eth0 password secret"]);
    let mut on = on("eth0");
    on[0].password = Some(b"secret".to_vec());
    let _speaker = announce(&path, local(), on);
    frr.wait_paths(VIP4, 1);
}

#[test]
fn a_wrong_as_and_a_wrong_password_are_named_and_when_corrected_forgotten() {
    let path = Path::up();
    let frr = Frr::start(path.router(), &bgpd(ONE));
    let wrong = SpeakerPeer {
        config: PeerConfig { remote_as: RemoteAs::Exactly(65002), passive: false },
        ..router(0)
    };
    let speaker = announce(&path, local(), vec![wrong]);
    wait_peer(&speaker, "refused", |peer| {
        let error = peer.bgp.last_error.as_ref();
        error.is_some_and(|error| error.notification.to_string().contains("Bad Peer AS"))
    });
    drop(speaker);

    frr.configure(&["neighbor 10.99.0.1 password secret"]);
    let wrong = SpeakerPeer { password: Some(b"other".to_vec()), ..router(0) };
    let speaker = announce(&path, local(), vec![wrong.clone()]);
    wait_peer(&speaker, "no answer", |peer| {
        peer.connect_failure == Some(ConnectFailure::Signature)
            && peer.bgp.state != State::Established
    });
    assert_eq!(speaker.peers()[0].bgp.counters.established, 0);
    assert!(frr.paths(VIP4).is_empty());

    frr.configure(&["neighbor 10.99.0.1 password other"]);
    wait_peer(&speaker, "established", |peer| peer.bgp.state == State::Established);
    assert_eq!(speaker.peers()[0].connect_failure, None);
    frr.wait_paths(VIP4, 1);
    drop(speaker);

    // The peer connects: the listening socket has the password, too.
    let passive = SpeakerPeer {
        config: PeerConfig { remote_as: RemoteAs::External, passive: true },
        ..wrong
    };
    let _speaker = announce(&path, local(), vec![passive]);
    frr.wait_paths(VIP4, 1);
}

#[test]
fn either_side_may_start_anew() {
    let path = Path::up();
    let mut frr = Frr::start(path.router(), &bgpd(ONE));
    let speaker = announce(&path, local(), vec![router(0)]);
    frr.wait_paths(VIP4, 1);
    frr.kill("bgpd");
    wait_peer(&speaker, "down", |peer| peer.bgp.state != State::Established);
    frr.spawn("bgpd");
    frr.wait_paths(VIP4, 1);
    wait_peer(&speaker, "up twice", |peer| {
        (peer.bgp.counters.established, peer.bgp.counters.dropped) == (2, 1)
    });

    drop(speaker);
    frr.wait_paths(VIP4, 0);
    let _speaker = announce(&path, local(), vec![router(0)]);
    frr.wait_paths(VIP4, 1);
}

#[test]
fn an_owner_that_panics_withdraws() {
    let path = Path::up();
    let frr = Frr::start(path.router(), &bgpd(ONE));
    // Not by its silence, either.
    let speaker = announce(&path, LocalConfig { hold_s: 180, ..local() }, vec![router(0)]);
    frr.wait_paths(VIP4, 1);
    let owner = std::thread::spawn(move || {
        let owned = speaker;
        assert!(!owned.is_running(), "an owner's panic");
    });
    assert!(owner.join().is_err());
    frr.wait_paths(VIP4, 0);
}

#[test]
fn routes_outlive_a_restart_that_was_agreed_on() {
    let path = Path::up();
    let frr = Frr::start(
        path.router(),
        &bgpd(&[&ONE[..1], &["neighbor 10.99.0.1 bfd 60 1000 1000"], &ONE[1..]].concat()),
    );
    let restarts = || LocalConfig { graceful_restart_s: 60, ..local() };
    let speaker = announce(&path, restarts(), vec![SpeakerPeer { bfd: Some(slow()), ..router(0) }]);
    frr.wait_paths(VIP4, 1);
    wait_peer(&speaker, "BFD is up", is_bfd_up);
    speaker.stop(Shutdown::Restart);
    wait_until(SOON, "FRR has noticed", || frr.neighbor("10.99.0.1")["bgpState"] != "Established");
    let is_stale = || {
        let paths = frr.paths(VIP4);
        assert_eq!(paths.len(), 1, "the route stays");
        paths[0]["stale"] == true
    };
    // BFD ends in order, which says nothing about the path.
    wait_until(SOON, "so has its BFD", || {
        frr.bfd_peers().iter().all(|peer| peer["status"] != "up")
    });
    assert!(is_stale());
    // What the new process is to announce it does not know at once.
    let speaker = start(&path, restarts(), vec![SpeakerPeer { bfd: Some(slow()), ..router(0) }]);
    wait_peer(&speaker, "established", |peer| peer.bgp.state == State::Established);
    assert!(is_stale());
    speaker.set(Announcement::Announced, EVER);
    wait_until(SOON, "the route is as new", || !is_stale());

    speaker.stop(Shutdown::Administrative(None));
    frr.wait_paths(VIP4, 0);
}

#[test]
fn a_port_that_is_taken_is_tried_again_and_strangers_are_turned_away() {
    let path = Path::up();
    let taken = path.node().within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)));
    let taken = taken.expect("nobody has it");
    let frr = Frr::start(path.router(), &bgpd(ONE));
    // This node can connect all the same.
    let speaker = announce(&path, local(), vec![router(0)]);
    frr.wait_paths(VIP4, 1);
    drop(speaker);
    let waits = SpeakerPeer {
        config: PeerConfig { remote_as: RemoteAs::External, passive: true },
        ..router(0)
    };
    let _speaker = announce(&path, local(), vec![waits]);
    frr.wait_paths(VIP4, 0);
    drop(taken);
    frr.wait_paths(VIP4, 1);

    let stranger = "10.99.0.4";
    path.router().run(&format!("ip address add {stranger}/29 dev eth0"));
    path.node().run("ip address add 10.99.0.1/29 dev eth0");
    let said = path.router().within(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(stranger.parse().unwrap(), 0).into())?;
        socket.set_read_timeout(Some(SOON))?;
        socket.connect(&SocketAddr::new(NODE[0], PORT).into())?;
        let mut said = Vec::new();
        (&socket).read_to_end(&mut said)?;
        std::io::Result::Ok(said)
    });
    assert_eq!(said.expect("it is closed"), b"", "no OPEN for a stranger");
    assert_eq!(frr.paths(VIP4).len(), 1);
}

/// The size of the process in memory, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

#[test]
fn a_full_table_is_read_and_forgotten() {
    const ROUTES: u32 = 100_000;
    let path = Path::up();
    // Before FRR starts: it asks for what there is, while the kernel's news of so much may be lost to it.
    let lines = (0..ROUTES).map(|n| {
        let network = Ipv4Addr::from_bits(0x0b00_0000 + (n << 8));
        format!("route add blackhole {network}/24 proto 201\n")
    });
    let batch = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(batch.path(), lines.collect::<String>()).expect("a file");
    path.router().run(&format!("ip -batch {}", batch.path().display()));
    let frr = Frr::start(path.router(), &bgpd(ONE));
    let speaker = announce(&path, local(), vec![router(0)]);
    frr.wait_paths(VIP4, 1);
    let before_kib = resident_kib();
    frr.configure(&["redistribute kernel"]);
    wait_until(SOON, "all are sent", || {
        let neighbor = frr.neighbor("10.99.0.1");
        let sent = &neighbor["addressFamilyInfo"]["ipv4Unicast"]["sentPrefixCounter"];
        sent.as_u64().is_some_and(|sent| sent >= ROUTES.into())
    });
    let grown_kib = resident_kib().saturating_sub(before_kib);
    assert!(grown_kib < 16 * 1024, "{grown_kib} KiB more");
    let view = &speaker.peers()[0];
    assert_eq!((view.bgp.state, view.bgp.counters.dropped), (State::Established, 0));
    assert!(view.bgp.counters.updates_in > 10, "{view:#?}");
    frr.wait_paths(VIP4, 1);
}

/// Fast, and yet no late thread of a busy machine is taken for a broken path.
fn half_a_second() -> bfd::Timers {
    bfd::Timers {
        interval_us: NonZeroU32::new(100_000).unwrap(),
        multiplier: NonZeroU8::new(5).unwrap(),
    }
}

/// A broken path would be seen only after the test.
fn slow() -> bfd::Timers {
    bfd::Timers {
        interval_us: NonZeroU32::new(1_000_000).unwrap(),
        multiplier: NonZeroU8::new(60).unwrap(),
    }
}

fn is_bfd_up(peer: &SpeakerPeerView) -> bool {
    peer.bfd.is_some_and(|bfd| bfd.session.state == bfd::State::Up)
}

/// Runs a path with BFD through its failures. `neighbor` is what FRR calls the node.
fn bfd_sees_failures(neighbor: &str, lines: &[&str], target: Target) {
    let path = Path::up();
    if matches!(target, Target::Interface(_)) {
        make_unnumbered(&path);
    }
    let bfd = format!("neighbor {neighbor} bfd 5 100 100");
    let mut frr = Frr::start(path.router(), &bgpd(&[&lines[..1], &[&bfd], &lines[1..]].concat()));
    let watched = SpeakerPeer { bfd: Some(half_a_second()), ..peer(target) };
    // BGP by itself would take longer than the test.
    let local = LocalConfig { hold_s: 180, ..local() };
    let speaker = announce(&path, local, vec![watched]);
    frr.wait_paths(VIP4, 1);
    wait_peer(&speaker, "BFD is up", is_bfd_up);
    wait_until(SOON, "FRR says so", || frr.bfd_peers().iter().any(|peer| peer["status"] == "up"));

    // A path that fails without a word is seen by both, and BGP ends with it.
    path.cut();
    let cut = Instant::now();
    wait_peer(&speaker, "BFD is down", |peer| !is_bfd_up(peer));
    let seen = cut.elapsed();
    frr.wait_paths(VIP4, 0);
    eprintln!("{neighbor}: cut: seen after {seen:?}, FRR's route gone after {:?}", cut.elapsed());
    wait_peer(&speaker, "BGP is down", |peer| peer.bgp.state != State::Established);
    path.mend();
    wait_peer(&speaker, "BFD is up again", is_bfd_up);
    frr.wait_paths(VIP4, 1);

    path.unplug();
    wait_peer(&speaker, "BFD is down", |peer| !is_bfd_up(peer));
    frr.wait_paths(VIP4, 0);
    path.plug();
    frr.wait_paths(VIP4, 1);
    wait_peer(&speaker, "BFD is up once more", is_bfd_up);

    // A router that dies.
    frr.kill("bfdd");
    frr.kill("bgpd");
    wait_peer(&speaker, "all is down", |peer| {
        !is_bfd_up(peer) && peer.bgp.state != State::Established
    });
    frr.spawn("bfdd");
    frr.spawn("bgpd");
    frr.wait_paths(VIP4, 1);
    wait_peer(&speaker, "BFD is up at last", is_bfd_up);
}

#[test]
fn bfd_hears_nobody_from_beyond_the_link() {
    let path = Path::up();
    let lines = [&ONE[..1], &["neighbor 10.99.0.1 bfd 60 1000 1000"], &ONE[1..]].concat();
    let frr = Frr::start(path.router(), &bgpd(&lines));
    let watched = SpeakerPeer { bfd: Some(slow()), ..router(0) };
    let speaker = announce(&path, local(), vec![watched]);
    wait_peer(&speaker, "BFD is up", is_bfd_up);
    assert_eq!(speaker.peers()[0].bfd.map(|bfd| bfd.rejected), Some(0));

    // What would end the session if it were the peer's: Down, of whoever is asked.
    let down = [0x20, 0x40, 3, 24, 0, 0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let send = |ttl: u32, payload: &[u8]| {
        path.router().within(|| {
            let socket = UdpSocket::bind((ROUTER[0], 0))?;
            socket.set_ttl(ttl)?;
            socket.send_to(payload, (NODE[0], bfd::PORT))
        })
    };
    send(254, &down).expect("it is sent");
    send(255, &[0x20; 24]).expect("it is sent");
    wait_peer(&speaker, "both are rejected", |peer| peer.bfd.is_some_and(|bfd| bfd.rejected == 2));
    let downs = || speaker.peers()[0].bfd.map(|bfd| bfd.session.counters.downs);
    assert_eq!(downs(), Some(0));
    send(255, &down).expect("it is sent");
    wait_peer(&speaker, "heard", |_| downs() == Some(1));
    drop(frr);
}

#[test]
fn bfd_sees_failures_over_ipv4() {
    bfd_sees_failures("10.99.0.1", ONE, Target::Address(ROUTER[0], 0));
}

#[test]
fn bfd_sees_failures_on_an_unnumbered_link() {
    bfd_sees_failures("eth0", UNNUMBERED, Target::Interface("eth0".into()));
}
