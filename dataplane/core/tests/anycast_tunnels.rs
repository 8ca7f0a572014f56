//! The tunnels of the `anycast` mode: what a member puts into them and takes out of them, what it refuses,
//! and what it tells the senders of packets that do not fit.

mod anycast_member;
mod frames;
mod tiered_member;

use std::collections::HashSet;
use std::net::IpAddr;

use anycast_member::*;
use etherparse::{
    Icmpv4Type, Icmpv6Type, Ipv4Header, NetSlice, SlicedPacket, TransportSlice, icmpv4,
};
use frames::*;
use proptest::prelude::*;
use proptest::{collection, option, sample};
use tcp_flags::SYN;
use tiered_member::*;
use vipdp_core::counters::Count;
use vipdp_core::snapshot::Holding;
use vipdp_core::tiered::Mark;
use vipdp_core::verdict::DropReason;

const CLIENT_PORT: u16 = 40_000;
const DNS: u16 = 53;

fn dns(client: IpAddr) -> Vec<u8> {
    ip(client, vip(client), 17, &udp(CLIENT_PORT, DNS, 30))
}

/// Changes the header of an IPv4 packet, and leaves any other packet as it is.
fn change_v4(packet: &mut [u8], change: impl FnOnce(&mut Ipv4Header)) {
    if let Ok((mut header, _)) = Ipv4Header::from_slice(packet) {
        change(&mut header);
        header.header_checksum = header.calc_header_checksum();
        packet[..20].copy_from_slice(&header.to_bytes());
    }
}

/// A member behind a tunnel of this family, to whom a client's bucket is another's.
fn tunneller(outer: Family, client: IpAddr) -> Member {
    let mut member = member(0, 5, Way::Tunnel(outer));
    member.know(bucket_of(client), owners(Some(2), &[]));
    member
}

fn sent(fate: Fate) -> Vec<u8> {
    match fate {
        Fate::Sent(sent) => sent,
        fate => panic!("{fate:?}"),
    }
}

#[test]
fn the_outer_headers_have_the_packets_class_and_differ_by_flow() {
    for outer in FAMILIES {
        for family in FAMILIES {
            let client = client(family, 1);
            let mut member = tunneller(outer, client);
            let mut entropies = HashSet::new();
            for port in 0..64 {
                let mut packet = ip(client, vip(client), 17, &udp(CLIENT_PORT + port, DNS, 30));
                // DSCP 46 (expedited forwarding), ECN 1 (capable).
                match family {
                    Family::V4 => {
                        packet[1] = 0xb9;
                        change_v4(&mut packet, |_| {});
                    }
                    Family::V6 => packet[..2].copy_from_slice(&[0x6b, 0x90]),
                }
                let frame = ip_frame(from_router(&member), &packet);
                let sent = sent(member.fate(&frame));
                assert_eq!(sent_on(Way::Tunnel(outer), &sent).packet, packet);
                let sliced = SlicedPacket::from_ethernet(&sent).unwrap();
                let (class, label) = match sliced.net.unwrap() {
                    NetSlice::Ipv4(packet) => {
                        (packet.header().dcp().value() << 2 | packet.header().ecn().value(), 0)
                    }
                    NetSlice::Ipv6(packet) => {
                        (packet.header().traffic_class(), packet.header().flow_label().value())
                    }
                    NetSlice::Arp(_) => unreachable!(),
                };
                assert_eq!(class, 0xb8, "the DSCP, and no ECN");
                let Some(TransportSlice::Udp(udp)) = sliced.transport else { unreachable!() };
                entropies.insert((udp.source_port(), label));
                let again = ip_frame(from_router(&member), &packet);
                assert_eq!(self::sent(member.fate(&again)), sent, "a flow keeps to its path");
            }
            assert!(entropies.len() > 60, "{} of 64 flows", entropies.len());
        }
    }
}

#[test]
fn a_tunnel_that_is_not_a_members_to_us_is_refused() {
    for family in FAMILIES {
        let asker = client(family, 1);
        let packet = dns(asker);
        let outer = family;
        let mut member = member(0, 5, Way::Tunnel(outer));
        let protocol = if family == Family::V4 { 4 } else { 41 };
        let header = [1, protocol, 0, 0, 1, 1, 0x50, 0];
        let good = Tunnel { family: outer, header, ..Tunnel::default() };
        member.passes(&good.frame(&packet));
        let with_header = |at: usize, value: u8| {
            let mut tunnel = good.clone();
            tunnel.header[at] = value;
            tunnel
        };
        let stranger = address_of(slot(60), outer);
        for (what, tunnel, reason) in [
            ("a stranger's", Tunnel { source: Some(stranger), ..good.clone() }, "foreign_tunnel"),
            (
                "another's to an address of ours that is no member's",
                Tunnel { destination: Some(stranger), ..good.clone() },
                "foreign_tunnel",
            ),
            ("our own", Tunnel { from: slot(0), ..good.clone() }, "foreign_tunnel"),
            ("another member's slot", with_header(5, 2), "foreign_tunnel"),
            ("our own slot", with_header(5, 0), "foreign_tunnel"),
            ("no slot", with_header(5, 64), "foreign_tunnel"),
            ("no kind", with_header(6, 0x70), "gue_invalid"),
            ("a control message", with_header(0, 0x21), "gue_invalid"),
            ("without private data", with_header(0, 0), "gue_invalid"),
            ("flags", with_header(2, 0x80), "gue_invalid"),
            ("another version", with_header(4, 2), "gue_invalid"),
            ("TCP inside", with_header(1, 6), "gue_invalid"),
            ("a checksum", Tunnel { checksum: 1, ..good.clone() }, "gue_invalid"),
            (
                "a fragment",
                Tunnel { piece: Some((0, true, 7)), ..good.clone() },
                "fragment_invalid",
            ),
            ("another tag", Tunnel { vlan: Some(3), ..good.clone() }, "wrong_vlan"),
            ("another port", Tunnel { port: GUE + 1, ..good.clone() }, "not_vip"),
        ] {
            let fate = member.fate(&tunnel.frame(&packet));
            assert_eq!(fate, Fate::Dropped(reason), "{what}, {family:?}");
        }
        // A fragment of full units.
        let aligned = ip(asker, vip(asker), 17, &udp(CLIENT_PORT, DNS, 36 - (8 + 16 + 20) % 8));
        let first = Tunnel { piece: Some((0, true, 7)), ..good.clone() };
        let mut padded = aligned.clone();
        padded.resize(aligned.len().next_multiple_of(8), 0);
        member.drops(&first.frame(&padded), "gue_invalid");

        let refuses = |member: &mut Member, packet: &[u8], reason| {
            member.drops(&good.frame(packet), reason);
        };
        let own = address_of(slot(0), family);
        refuses(&mut member, &ip(asker, own, 17, &udp(1, 2, 0)), "not_vip");
        // A tunnel in a tunnel: exactly one is opened.
        let nested = packet_in(&Tunnel { family, ..good.clone() }.frame(&packet));
        refuses(&mut member, &nested, "not_vip");
        let empty = if family == Family::V4 { "ipv4_truncated" } else { "ipv6_truncated" };
        refuses(&mut member, &[], empty);
        refuses(&mut member, &packet[..packet.len() - 1], empty);
        let multicast: IpAddr = match family {
            Family::V4 => "224.0.0.1".parse().unwrap(),
            Family::V6 => "ff02::1".parse().unwrap(),
        };
        refuses(&mut member, &ip(multicast, vip(asker), 17, &udp(1, 2, 0)), "source_invalid");
        let other = [4, 41][usize::from(family == Family::V4)];
        let lied = with_header(1, other).frame(&packet);
        let invalid = if family == Family::V4 { "ipv6_truncated" } else { "ipv4_invalid" };
        let fate = member.fate(&lied);
        let named = [Fate::Dropped(invalid), Fate::Dropped("ipv6_invalid")];
        assert!(named.contains(&fate), "{fate:?}");

        // Members that use tunnels send no marked frames.
        let marked =
            Link { from: mark_mac(slot(1), Mark::Back(number(0))), ..from_router(&member) };
        member.drops(&ip_frame(marked, &packet), "foreign_tunnel");
        let elsewhere = Link { to: mac_of(slot(3)), ..from_router(&member) };
        let mut frame = good.frame(&packet);
        frame[..6].copy_from_slice(&elsewhere.to.0);
        member.drops(&frame, "wrong_mac");
    }
}

/// What a client's packet of that length becomes, on a path of 1500 bytes.
fn fate_of_len(member: &mut Member, client: IpAddr, len: usize, dont_fragment: bool) -> Fate {
    let headers = if client.is_ipv4() { 28 } else { 48 };
    let mut packet = ip(client, vip(client), 17, &udp(CLIENT_PORT, DNS, len - headers));
    change_v4(&mut packet, |header| header.dont_fragment = dont_fragment);
    assert_eq!(packet.len(), len);
    let frame = ip_frame(from_router(member), &packet);
    // One counter says that it was dropped, another that there was an answer.
    let (before, dropped) = (member.counters.get(Count::TooBigReplies), DropReason::TooBig);
    let drops = member.counters.drops(dropped);
    member.worker.port_mut().arrive(&frame);
    assert_eq!(member.worker.poll_once(member.now_ns), 1);
    assert_eq!(member.worker.port().held(), 0, "a frame was lost");
    let sent = std::mem::take(&mut member.worker.port_mut().sent);
    let answers = member.counters.get(Count::TooBigReplies) - before;
    match (sent.as_slice(), member.counters.drops(dropped) - drops, answers) {
        ([], 1, 0) => Fate::Dropped(dropped.label()),
        ([one], 0, 0) => Fate::Sent(one.clone()),
        ([one], 1, 1) => {
            check_too_big(member, client, &packet, one);
            Fate::Dropped("and told")
        }
        other => panic!("{other:?}"),
    }
}

/// The answer that a packet is too big: by another library's reckoning.
fn check_too_big(member: &Member, client: IpAddr, packet: &[u8], answer: &[u8]) {
    let link = from_router(member);
    assert_eq!(answer[..6], link.from.0, "back to the router");
    assert_eq!(answer[6..12], link.to.0);
    let sliced = SlicedPacket::from_ethernet(answer).unwrap();
    let vlan = sliced.vlan().map(|_| u16::from_be_bytes([answer[14], answer[15]]));
    assert_eq!(vlan, member.service.vlan);
    let packet_len = packet_in(answer).len();
    let path = member.service.peers[2].unwrap();
    let outer = if path.source.is_ipv4() { 36 } else { 56 };
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            let header = ip.header();
            assert_eq!((IpAddr::from(header.source_addr()), packet_len), (vip(client), 576));
            assert_eq!(IpAddr::from(header.destination_addr()), client);
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            let Icmpv4Type::DestinationUnreachable(
                icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
            ) = icmp.icmp_type()
            else {
                panic!("{:?}", icmp.icmp_type());
            };
            assert_eq!(next_hop_mtu, PATH_MTU - outer);
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            assert_eq!(icmp.payload(), &packet[..576 - 28]);
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            let (source, destination) = (ip.header().source_addr(), ip.header().destination_addr());
            assert_eq!((IpAddr::from(source), packet_len), (vip(client), 1280));
            assert_eq!(IpAddr::from(destination), client);
            let Icmpv6Type::PacketTooBig { mtu } = icmp.icmp_type() else {
                panic!("{:?}", icmp.icmp_type());
            };
            assert_eq!(mtu, u32::from(PATH_MTU - outer));
            assert!(icmp.is_checksum_valid(source.octets(), destination.octets()));
            assert_eq!(icmp.payload(), &packet[..1280 - 48]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_packet_that_does_not_fit_is_told_of_to_its_sender() {
    for outer in FAMILIES {
        let fitting = usize::from(PATH_MTU) - Way::Tunnel(outer).overhead();
        for family in FAMILIES {
            for vlan in [None, Some(9)] {
                let client = client(family, 1);
                let mut member = tunneller(outer, client);
                member.service.vlan = vlan;
                member.publish();
                let fits = sent(fate_of_len(&mut member, client, fitting, true));
                let tag = vlan.map_or(0, |_| 4);
                assert_eq!(fits.len(), 14 + tag + usize::from(PATH_MTU));
                let told = Fate::Dropped("and told");
                assert_eq!(fate_of_len(&mut member, client, fitting + 1, true), told);
                assert_eq!(fate_of_len(&mut member, client, 1_500, true), told);
                // Whom we may not tell.
                if family == Family::V4 {
                    let silent = Fate::Dropped("too_big");
                    assert_eq!(fate_of_len(&mut member, client, fitting + 1, false), silent);
                }
                // 50 at once, and then 1,000 a second.
                let told = |member: &mut Member| {
                    (0..100)
                        .take_while(|_| {
                            fate_of_len(member, client, 1_500, true) == Fate::Dropped("and told")
                        })
                        .count()
                };
                assert_eq!(told(&mut member), 48);
                member.now_ns += 10_000_000;
                member.lease_until_ns = u64::MAX;
                member.publish();
                assert_eq!(told(&mut member), 10);
            }
        }
    }
}

#[test]
fn errors_later_fragments_and_members_are_not_told_that_a_packet_is_too_big() {
    for outer in FAMILIES {
        for family in FAMILIES {
            let client = client(family, 1);
            let mut member = tunneller(outer, client);
            let quoted = ip(vip(client), client, 17, &udp(DNS, CLIENT_PORT, 1_440));
            let mut error = too_big(router(family), &quoted);
            let mut piece = ip_piece(client, vip(client), 17, &[0; 1_480], Some((64, false, 7)));
            for packet in [&mut error, &mut piece] {
                change_v4(packet, |header| header.dont_fragment = true);
            }
            for packet in [error, piece] {
                let frame = ip_frame(from_router(&member), &packet);
                member.drops(&frame, "too_big");
            }
            // It came through a tunnel whose way back to the client is not known.
            let len = usize::from(PATH_MTU) - Way::Tunnel(outer).overhead();
            let headers = if family == Family::V4 { 28 } else { 48 };
            let mut packet = ip(client, vip(client), 17, &udp(CLIENT_PORT, DNS, len - headers));
            change_v4(&mut packet, |header| header.dont_fragment = true);
            for path in member.service.peers.iter_mut().flatten() {
                path.mtu = PATH_MTU - 1;
            }
            member.publish();
            let way = Way::Tunnel(outer);
            let frame = arriving(way, slot(4), slot(0), Mark::Steer(number(0)), &packet);
            member.drops(&frame, "too_big");
        }
    }
}

fn any_packet() -> impl Strategy<Value = (IpAddr, Vec<u8>)> {
    let family = sample::select(FAMILIES.to_vec());
    let kind = 0..4_u8;
    (family, 1..=250_u8, kind, 0..1_300_usize, any::<u16>(), any::<u8>()).prop_map(
        |(family, n, kind, len, port, class)| {
            let client = client(family, n);
            let payload = match kind {
                0 => udp(port, DNS, len),
                1 => [tcp(port, DNS, SYN), vec![0x5a; len]].concat(),
                2 => vec![0; len],
                _ => udp(port, DNS, 0),
            };
            let protocol = [17, 6, 132, 17][usize::from(kind)];
            let mut packet = ip(client, vip(client), protocol, &payload);
            match family {
                Family::V4 => {
                    packet[1] = class;
                    change_v4(&mut packet, |_| {});
                }
                Family::V6 => packet[..2].copy_from_slice(&[0x60 | class >> 4, class << 4]),
            }
            (client, packet)
        },
    )
}

/// What the host of a member got, less its Ethernet header.
fn to_host(member: &mut Member, frame: &[u8]) -> Vec<u8> {
    member.worker.port_mut().arrive(frame);
    assert_eq!(member.worker.poll_once(member.now_ns), 1);
    let delivered = std::mem::take(&mut member.worker.host_mut().delivered);
    let [frame] = delivered.as_slice() else { panic!("{} frames to the host", delivered.len()) };
    assert_eq!(frame[..6], HOST.0);
    assert_eq!(SlicedPacket::from_ethernet(frame).unwrap().vlan(), None);
    frame[14..].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// What a member puts into a tunnel, and another takes out of it, is the packet and nothing else.
    #[test]
    fn a_packet_comes_out_of_a_tunnel_as_it_went_in(
        outer in sample::select(FAMILIES.to_vec()),
        (client, packet) in any_packet(),
        vlan in option::of(1..4095_u16),
        priority in any::<bool>(),
    ) {
        let (bucket, way) = (bucket_of(client), Way::Tunnel(outer));
        let [mut giver, mut taker] = [0, 2].map(|own| member(own, 5, way));
        giver.know(bucket, owners(Some(2), &[]));
        taker.holdings.set(bucket, Holding::Owned);
        taker.know(bucket, owners(Some(2), &[]));
        for member in [&mut giver, &mut taker] {
            member.service.vlan = vlan;
            member.publish();
        }
        // A tag with a priority alone is none.
        let came_with = if vlan.is_none() && priority { Some(0) } else { vlan };
        let link = Link { vlan: came_with, ..from_router(&giver) };
        let mut tunnel = sent(giver.fate(&ip_frame(link, &packet)));
        prop_assert_eq!(&sent_on(way, &tunnel).packet, &packet);
        // The network takes it to the other's segment.
        tunnel[..6].copy_from_slice(&taker.service.own_mac.0);
        tunnel[6..12].copy_from_slice(&ROUTER.0);
        tunnel.resize(tunnel.len().max(60), 0);
        prop_assert_eq!(to_host(&mut taker, &tunnel), packet);
        prop_assert_eq!(taker.counters.get(Count::Decapsulated), 1);
    }

    /// No bytes of a tunnel make a worker panic or lose a frame, and what is not a member's packet to a
    /// VIP never gets further.
    #[test]
    fn a_spoilt_tunnel_does_no_harm(
        outer in sample::select(FAMILIES.to_vec()),
        (client, packet) in any_packet(),
        kind in 0..16_u8,
        changes in collection::vec((any::<sample::Index>(), any::<u8>()), 0..4),
        cut in option::of(any::<sample::Index>()),
    ) {
        let mut member = member(0, 5, Way::Tunnel(outer));
        member.know(bucket_of(client), owners(Some(2), &[3]));
        let protocol = if client.is_ipv4() { 4 } else { 41 };
        let header = [1, protocol, 0, 0, 1, 1, kind << 4, 0];
        let whole = Tunnel { family: outer, header, ..Tunnel::default() }.frame(&packet);
        let mut frame = whole.clone();
        for (at, value) in changes {
            // Most of what is to be spoilt is in the first bytes.
            let at = at.index(frame.len().min(120));
            frame[at] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()).max(1));
        }
        match member.fate(&frame) {
            Fate::Dropped(_) => {}
            Fate::Host | Fate::Sent(_) => {
                let at = if outer == Family::V4 { 14 + 28 } else { 14 + 48 };
                prop_assert_eq!(frame[at], 1, "its header is a member's");
                prop_assert_eq!(frame[at + 5], 1, "and its slot is the sender's");
            }
        }
    }
}
