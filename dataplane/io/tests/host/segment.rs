//! What the segment sees of the NIC: frames that are sent ready, and what it accepts.

use std::time::Instant;

use vipdp_core::port::Port;
use vipdp_io::af_xdp::{AfXdpPort, Options};
use vipdp_io::announce::{Announcer, SendError};
use vipdp_io::membership::{MACS_MAX, MembershipError};
use vipdp_io::xdp::{AttachMode, Program};

use super::*;

/// The virtual MAC address of a next hop.
fn virtual_mac(number: u16) -> MacAddr {
    let [high, low] = number.to_be_bytes();
    MacAddr([0x02, 0x76, 0, 53, high, low])
}

#[test]
fn ready_frames_leave_as_they_are() {
    let lab = Lab::new("announce");
    // Another node: it hears the claims of the next hop, with the tag that a stack would take off.
    let hop = "198.51.100.64".parse().unwrap();
    let hops = NextHops { first4: Some(hop), count: 1, ..NextHops::default() };
    let (_program, mut port) = lab.in_peer(|| {
        let mut program = Program::attach("p0", AttachMode::Auto, &[], &hops).unwrap();
        let port = AfXdpPort::open(&Options::new("p0", 0)).unwrap();
        program.bind(0, &port).unwrap();
        (program, port)
    });
    let mut heard = || {
        let (end, mut frames) = (Instant::now() + DEADLINE, Vec::new());
        loop {
            assert!(Instant::now() < end, "nothing is heard");
            port.rx_burst(&mut frames);
            if let Some(frame) = frames.pop() {
                assert!(frames.is_empty(), "one was sent");
                let bytes = port.bytes(&frame).to_vec();
                port.recycle(frame);
                return bytes;
            }
            port.housekeeping();
            std::thread::yield_now();
        }
    };
    lab.in_host(|| {
        let announcer = Announcer::open(&Link::read(NIC).unwrap()).unwrap();
        let mut claim = arp_request(ip("198.51.100.64"));
        claim[6..12].copy_from_slice(&virtual_mac(7).0);
        claim.resize(60, 0);
        let mut tagged = claim.clone();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        for frame in [&claim, &tagged] {
            announcer.send(frame).unwrap();
            assert_eq!(heard(), *frame);
        }

        assert_eq!(announcer.send(&claim[..13]), Err(SendError::TooShort(13)));
        let long = vec![0; 14 + 4 + 1500 + 1];
        assert_eq!(announcer.send(&long), Err(SendError::TooLong(long.len())));
        run(&format!("ip link set {NIC} down"));
        assert_eq!(announcer.send(&claim), Err(SendError::Down));
        run(&format!("ip link set {NIC} up"));
        announcer.send(&tagged).unwrap();
        assert_eq!(heard(), tagged);
        run(&format!("ip link del {NIC}"));
        assert_eq!(announcer.send(&claim), Err(SendError::Gone));
    });
}

#[test]
fn the_nic_accepts_many_virtual_macs_and_groups() {
    let lab = Lab::new("virtual");
    let before = lab.snapshot();
    lab.in_host(|| {
        let nic = Link::read(NIC).unwrap();
        let macs: Vec<MacAddr> = (0..630).map(virtual_mac).collect();
        let hops: Vec<IpAddr> = (0..630).map(|n| ip(&format!("2001:db8:1::{n:x}"))).collect();
        // More than one socket may hold (`net.ipv4.igmp_max_memberships`).
        let groups: Vec<IpAddr> = (1..=25).map(|n| ip(&format!("239.1.2.{n}"))).collect();
        let membership = Membership::join(&nic, &macs, &groups, hops.iter().copied()).unwrap();
        // A veth has no filter for unicast addresses: the kernel opens it for all.
        assert_eq!(Link::read(NIC).unwrap().promiscuity, 1);
        let joined = run("ip maddr show dev nic0");
        let is_joined = |group: &str| joined.split_whitespace().any(|word| word == group);
        for last in 0..630 {
            let [high, low] = u16::to_be_bytes(last);
            assert!(is_joined(&format!("33:33:ff:00:{high:02x}:{low:02x}")), "{last}");
            assert!(is_joined(&format!("ff02::1:ff00:{last:x}")), "{last}");
        }
        assert!(groups.iter().all(|group| is_joined(&group.to_string())), "{joined}");

        // Another one takes its place without a gap.
        let next = Membership::join(&nic, &macs[..2], &[], hops[..2].iter().copied()).unwrap();
        drop(membership);
        assert_eq!(Link::read(NIC).unwrap().promiscuity, 1);
        until("the first one's groups to end", || {
            let joined = run("ip maddr show dev nic0");
            assert!(joined.contains("33:33:ff:00:00:01"), "{joined}");
            !joined.contains("33:33:ff:00:01:07")
        });
        drop(next);

        let many: Vec<MacAddr> = (0..=MACS_MAX as u16).map(virtual_mac).collect();
        let error = Membership::join(&nic, &many, &[], []).unwrap_err();
        assert!(matches!(error, MembershipError::TooMany { count: 4097, .. }), "{error}");
        drop(Membership::join(&nic, &many[..MACS_MAX], &[], []).unwrap());
    });
    lab.assert_same(&before);
}
