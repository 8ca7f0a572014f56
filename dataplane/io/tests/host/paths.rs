//! The ways to the other members.

use std::net::IpAddr;
use std::time::Instant;

use vipdp_core::anycast::PeerPath;
use vipdp_core::slot::Slot;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_io::peer_path::PeerPaths;

use super::lab::{DEADLINE, Lab, NIC, ip, run};
use super::{OWN, PEER};

/// A member in the segment, behind a gateway, behind one of the other family, behind a narrow path;
/// by another interface; and one to whom there is no way.
const MEMBERS: [(u8, &str); 7] = [
    (0, "198.51.100.9"),
    (1, "203.0.113.1"),
    (2, "203.0.113.200"),
    (3, "203.0.113.3"),
    (5, "203.0.113.5"),
    (6, "203.0.113.6"),
    (7, "2001:db8:1::9"),
];

fn members(of: &[(u8, &str)]) -> Vec<(Slot, IpAddr)> {
    of.iter().map(|&(slot, address)| (Slot::new(slot).unwrap(), ip(address))).collect()
}

/// A path without a next hop.
fn without(own: &str, address: &str) -> Option<PeerPath> {
    Some(PeerPath { source: ip(own), destination: ip(address), next_hop: None, mtu: 0 })
}

/// A path by the router.
fn with(own: &str, address: &str, mtu: u16) -> Option<PeerPath> {
    let next_hop = Some(MacAddr([2, 0, 0, 0, 0, 1]));
    without(own, address).map(|path| PeerPath { next_hop, mtu, ..path })
}

/// Refreshes until the paths are those: the next hops are asked for, and the kernel's answers come in
/// their own time.
#[track_caller]
fn await_paths(paths: &mut PeerPaths, wanted: &[(usize, Option<PeerPath>)]) {
    let end = Instant::now() + DEADLINE;
    while wanted.iter().any(|&(slot, path)| paths.paths()[slot] != path) {
        assert!(Instant::now() < end, "{:?}, not {wanted:?}", paths.paths());
        paths.refresh().unwrap();
        std::thread::yield_now();
    }
}

#[test]
fn the_ways_to_members_are_the_kernels() {
    let lab = Lab::new("paths");
    run(&format!("ip -n {} addr add 198.51.100.9/24 dev p0", lab.peer));
    lab.in_host(|| {
        run("ip route add 203.0.113.128/25 via inet6 2001:db8:1::1");
        run("ip route add 203.0.113.3 via 198.51.100.1 mtu 1400");
        run("ip link set lo up");
        run("ip route add 203.0.113.5 dev lo");
        run("ip route add blackhole 203.0.113.6");
        let mut paths = PeerPaths::new(NIC, ip(OWN[0]), members(&MEMBERS)).unwrap();
        let (without, with) = (
            |address: &str| without(OWN[0], address),
            |address: &str, mtu| with(OWN[0], address, mtu),
        );
        assert_eq!(paths.paths()[0], without("198.51.100.9"), "its tunnels are taken at once");
        await_paths(
            &mut paths,
            &[
                (0, with("198.51.100.9", 1500)),
                (1, with("203.0.113.1", 1500)),
                (2, with("203.0.113.200", 1500)),
                (3, with("203.0.113.3", 1400)),
                (4, None),
                (5, without("203.0.113.5")),
                (6, without("203.0.113.6")),
                (7, None),
            ],
        );
        assert!(!paths.refresh().unwrap(), "nothing changed");

        // Routes and the NIC change; one member has moved, and all but another are gone.
        run(&format!("ip link set {NIC} mtu 1450"));
        run("ip route change 203.0.113.3 via 198.51.100.1 mtu 1420");
        paths.set_members(members(&[(0, PEER[0]), MEMBERS[3]]));
        assert_eq!(paths.paths()[0], without(PEER[0]));
        assert_eq!(paths.paths()[3], with("203.0.113.3", 1400), "known, and so it stays");
        assert_eq!(paths.paths()[1], None);
        assert!(paths.refresh().unwrap());
        assert_eq!(paths.paths()[0], with(PEER[0], 1450));
        assert_eq!(paths.paths()[3], with("203.0.113.3", 1420));

        run(&format!("ip link set {NIC} down"));
        assert!(paths.refresh().unwrap());
        assert_eq!(paths.paths()[3], without("203.0.113.3"));
    });
}

#[test]
fn the_ways_between_ipv6_addresses_are_the_kernels_too() {
    let lab = Lab::new("paths6");
    lab.in_host(|| {
        run("ip route add 2001:db8:9::/64 via 2001:db8:1::1 mtu 1300");
        let of_v6 = [(7, PEER[1]), (8, "2001:db8:9::8"), (9, PEER[0])];
        let mut paths = PeerPaths::new(NIC, ip(OWN[1]), members(&of_v6)).unwrap();
        let of_v6 = [(7, with(OWN[1], PEER[1], 1500)), (8, with(OWN[1], "2001:db8:9::8", 1300))];
        await_paths(&mut paths, &[of_v6[0], of_v6[1], (9, None)]);
    });
}
