//! The decision table of the `tiered` mode: a frame, what the node holds and knows, and what becomes
//! of it.
//!
//! The table runs through a whole worker over ports in memory, for both families, with and without a
//! tag, with a MAC address for each next-hop address and with the node's own.

mod frames;
mod tiered_member;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use frames::*;
use tcp_flags::{ACK, FIN, RST, SYN};
use tiered_member::*;
use vipdp_core::bucket::Bucket;
use vipdp_core::claim::{self, ArpForm};
use vipdp_core::counters::Count;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::slot::SLOTS;
use vipdp_core::snapshot::{Egress, Holding, Route};
use vipdp_core::tiered::{Mark, Search, TieredMac, VirtualMac};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::worker::HeardClaim;

const CLIENT_PORT: u16 = 40_000;
const DNS: u16 = 53;

/// The address that most packets come by: not one that a default would give.
fn r() -> Bucket {
    number(7)
}

/// Runs `check` on the member in slot 0 of 5 for every way in which its segment may be set up.
fn for_each_member(mut check: impl FnMut(Member, Family)) {
    for family in FAMILIES {
        for vlan in [None, Some(9)] {
            for mac in [TieredMac::Virtual, TieredMac::Node] {
                let mut member = Member::new(0, 5, mac);
                member.service.vlan = vlan;
                member.publish();
                check(member, family);
            }
        }
    }
}

/// The same, and it owns the address [`r`].
fn for_each_owner(mut check: impl FnMut(Member, Family)) {
    for_each_member(|mut member, family| {
        member.hold(r(), Holding::Owned);
        check(member, family);
    });
}

fn datagram(client: IpAddr, port: u16, link: Link) -> Vec<u8> {
    ip_frame(link, &ip(client, vip(client), 17, &udp(CLIENT_PORT, port, 30)))
}

fn dns(client: IpAddr, link: Link) -> Vec<u8> {
    datagram(client, DNS, link)
}

fn quic(client: IpAddr, link: Link) -> Vec<u8> {
    datagram(client, QUIC, link)
}

fn segment(client: IpAddr, flags: u8, link: Link) -> Vec<u8> {
    ip_frame(link, &ip(client, vip(client), 6, &tcp(CLIENT_PORT, DNS, flags)))
}

/// A router's "packet too big" about a segment of `client`'s connection.
fn error_about_segment(client: IpAddr, family: Family, link: Link) -> Vec<u8> {
    let quoted = ip(vip(client), client, 6, &tcp(DNS, CLIENT_PORT, ACK)[..8]);
    ip_frame(link, &too_big(router(family), &quoted))
}

/// One about a datagram that left `port`.
fn error_about_datagram(client: IpAddr, port: u16, family: Family, link: Link) -> Vec<u8> {
    let quoted = ip(vip(client), client, 17, &udp(port, CLIENT_PORT, 0));
    ip_frame(link, &too_big(router(family), &quoted))
}

/// The two fragments of a datagram of `protocol`.
fn pieces(client: IpAddr, protocol: u8, first: &[u8], id: u16, link: Link) -> [Vec<u8>; 2] {
    [(first, (0, true, id)), (&[0; 32], (64, false, id))].map(|(payload, piece)| {
        ip_frame(link, &ip_piece(client, vip(client), protocol, payload, Some(piece)))
    })
}

#[test]
fn what_is_new_is_served_by_the_owner_of_the_address() {
    for_each_member(|mut member, family| {
        let link = member.link(r());
        for (n, packet) in [
            |client, link| dns(client, link),
            |client, link| ip_frame(link, &echo_request(client)),
            // SCTP: any protocol that we do not know.
            |client, link| ip_frame(link, &ip(client, vip(client), 132, &[0; 12])),
            |client, link| segment(client, SYN, link),
            |client, link| quic(client, link),
        ]
        .into_iter()
        .enumerate()
        {
            // Nothing of a flow that an earlier packet has begun.
            let client = |m: u8| client(family, 10 * n as u8 + m);
            member.hold(r(), Holding::Foreign);
            member.drops(&packet(client(0), link), "not_owner");
            member.hold(r(), Holding::Owned);
            member.passes(&packet(client(1), link));
            member.hold(r(), Holding::Granted(slot(1)));
            member.passes(&packet(client(2), link));
        }
        assert_eq!(member.counters.get(Count::Forwarded), 0);
    });
}

#[test]
fn an_address_is_not_another() {
    for family in FAMILIES {
        let mut member = Member::new(0, 5, TieredMac::Virtual);
        member.hold(r(), Holding::Owned);
        let other = member.link(number(8));
        member.drops(&dns(client(family, 1), other), "not_owner");
        // Beyond the last one: a member with a newer configuration may own it.
        let beyond = member.link(number(4095));
        member.drops(&dns(client(family, 1), beyond), "not_owner");
    }
}

#[test]
fn any_address_of_a_prefix_is_a_vip() {
    for_each_owner(|mut member, family| {
        let link = member.link(r());
        let to = |vip: &str| {
            let vip = vip.parse().unwrap();
            ip_frame(link, &ip(client(family, 1), vip, 17, &udp(CLIENT_PORT, DNS, 30)))
        };
        let (inside, outside) = match family {
            Family::V4 => (["192.0.2.0", "192.0.2.255"], ["192.0.1.255", "192.0.3.0"]),
            Family::V6 => (
                ["2001:db8:53::", "2001:db8:53:0:ffff:ffff:ffff:ffff"],
                ["2001:db8:52:ffff::", "2001:db8:53:1::"],
            ),
        };
        for vip in inside {
            member.passes(&to(vip));
        }
        for other in outside {
            member.drops(&to(other), "not_vip");
        }
    });
}

#[test]
fn a_connection_stays_where_it_began() {
    for_each_owner(|mut member, family| {
        let (link, client) = (member.link(r()), client(family, 1));
        member.passes(&segment(client, SYN, link));
        member.passes(&segment(client, ACK, link));
        // Also when somebody is known who had the address before.
        member.know(r(), owners(Some(0), &[1, 2]));
        member.passes(&segment(client, ACK, link));
        // The address has gone; the router has not noticed, or a member sends it on.
        member.hold(r(), Holding::Foreign);
        member.passes(&segment(client, ACK, link));
        for mark in [
            Mark::Previous(r()),
            Mark::BeforePrevious(r()),
            Mark::Back(r()),
            Mark::Round(slot(3)),
            Mark::Round(slot(0)),
        ] {
            let link = member.marked(mark);
            member.passes(&segment(client, ACK, link));
            member.passes(&error_about_segment(client, family, link));
        }
        member.passes(&segment(client, FIN | ACK, link));
        member.passes(&segment(client, ACK, link));
        member.drops(&dns(client, link), "not_owner");
    });
}

#[test]
fn a_segment_of_no_connection_is_the_hosts_to_reset() {
    for_each_owner(|mut member, family| {
        let (link, client) = (member.link(r()), client(family, 1));
        for flags in [ACK, SYN | ACK, FIN | ACK, RST, RST | ACK] {
            member.passes(&segment(client, flags, link));
        }
        // And begins none.
        assert_eq!(member.counters.get(Count::FlowsInserted), 0);
        member.hold(r(), Holding::Foreign);
        member.drops(&segment(client, ACK, link), "not_owner");
    });
}

/// A restarted member has its flows again: the host's reset would come before.
#[test]
fn a_segment_of_a_flow_that_may_return_is_dropped() {
    for_each_owner(|mut member, family| {
        let (link, client) = (member.link(r()), client(family, 1));
        let back = member.marked(Mark::Back(r()));
        member.is_away = true;
        member.publish();
        for flags in [ACK, SYN | ACK, FIN | ACK, RST] {
            member.drops(&segment(client, flags, link), "no_flow");
            member.drops(&segment(client, flags, back), "no_flow");
        }
        // Those who are there are asked as ever.
        member.know(r(), owners(Some(0), &[1]));
        let first_mark = match member.tiered().mac {
            TieredMac::Virtual => Mark::Previous(r()),
            TieredMac::Node => Mark::Round(slot(0)),
        };
        member.sends_on(&segment(client, ACK, link), 1, first_mark);
        // What is new waits for nobody.
        member.passes(&segment(client, SYN, link));
        member.passes(&segment(client, ACK, link));
        member.passes(&dns(client, link));
    });
}

/// What the owner does with a packet whose flow it does not know, by what it knows of owners.
#[test]
fn what_may_have_begun_elsewhere_is_sent_to_who_had_the_address() {
    for_each_owner(|mut member, family| {
        let (link, client) = (member.link(r()), client(family, 1));
        let first_mark = match member.tiered().mac {
            TieredMac::Virtual => Mark::Previous(r()),
            TieredMac::Node => Mark::Round(slot(0)),
        };
        let [_, later] = pieces(client, 17, &[0; 64], 1, link);
        let midway = [
            segment(client, ACK, link),
            segment(client, SYN | ACK, link),
            segment(client, FIN | ACK, link),
            segment(client, RST, link),
            quic(client, link),
            later,
        ];
        for holding in [Holding::Owned, Holding::Granted(slot(3))] {
            member.hold(r(), holding);
            for before in [&[1, 2][..], &[1]] {
                member.know(r(), owners(Some(0), before));
                for packet in &midway {
                    member.sends_on(packet, 1, first_mark);
                }
            }
        }
        // What is new is not sent to anybody.
        member.passes(&segment(client, SYN, link));
        member.passes(&dns(client, link));
        member.passes(&ip_frame(link, &echo_request(client)));
        // Another address had other owners, which are of no use to a frame that says its address.
        member.know(number(8), owners(Some(0), &[4]));
        let stray = segment(tiered_member::client(family, 2), ACK, link);
        match member.tiered().mac {
            TieredMac::Virtual => member.passes(&stray),
            TieredMac::Node => member.sends_on(&stray, 4, first_mark),
        }
    });
}

#[test]
fn who_had_the_address_sends_on_to_who_had_it_before() {
    for_each_member(|mut member, family| {
        let client = client(family, 1);
        let asked = segment(client, ACK, member.marked(Mark::Previous(r())));
        let further = Mark::BeforePrevious(r());
        member.know(r(), owners(Some(1), &[2, 3]));
        member.sends_on(&asked, 2, further);
        // The owner is not who had it before, and neither are we.
        member.know(r(), owners(Some(1), &[1, 3]));
        member.sends_on(&asked, 3, further);
        member.know(r(), owners(Some(1), &[0, 3]));
        member.sends_on(&asked, 3, further);
        // Nobody before us: back to the owner.
        member.know(r(), owners(Some(1), &[]));
        member.sends_on(&asked, 1, Mark::Back(r()));
        member.know(r(), owners(Some(1), &[1, 0]));
        member.sends_on(&asked, 1, Mark::Back(r()));
        // Nobody known at all.
        member.know(r(), owners(None, &[]));
        member.drops(&asked, "no_flow");
        // Ours, the others say: nobody else serves it.
        member.know(r(), owners(Some(0), &[]));
        member.passes(&asked);
    });
}

#[test]
fn an_address_that_came_back_is_not_looked_for_where_it_was_last() {
    for_each_owner(|mut member, family| {
        let asked = segment(client(family, 1), ACK, member.marked(Mark::Previous(r())));
        // Slot 1 had it until now, and asks us, who had it before.
        member.know(r(), owners(Some(0), &[1, 2]));
        member.sends_on(&asked, 2, Mark::BeforePrevious(r()));
        member.know(r(), owners(Some(0), &[1]));
        member.passes(&asked);
    });
}

#[test]
fn whoever_is_asked_last_sends_back_to_the_owner() {
    for_each_member(|mut member, family| {
        let client = client(family, 1);
        let link = member.marked(Mark::BeforePrevious(r()));
        let back = Mark::Back(r());
        member.know(r(), owners(Some(1), &[2, 3]));
        for packet in [segment(client, ACK, link), quic(client, link)] {
            member.sends_on(&packet, 1, back);
        }
        member.know(r(), owners(None, &[2, 3]));
        member.drops(&segment(client, ACK, link), "no_flow");
        // Ours in the meantime.
        member.hold(r(), Holding::Owned);
        member.passes(&segment(client, ACK, link));
    });
}

#[test]
fn what_comes_back_is_served_even_if_the_address_has_gone() {
    for_each_owner(|mut member, family| {
        for (n, holding) in
            [Holding::Owned, Holding::Granted(slot(1)), Holding::Foreign].into_iter().enumerate()
        {
            let client = client(family, n as u8);
            member.hold(r(), holding);
            member.know(r(), owners(Some(1), &[2, 3]));
            for mark in [Mark::Back(r()), Mark::Round(slot(0))] {
                let link = member.marked(mark);
                member.passes(&segment(client, ACK, link));
                assert_eq!(member.counters.get(Count::FlowsInserted), n as u64);
            }
            let link = member.marked(Mark::Back(r()));
            member.passes(&quic(client, link));
            assert_eq!(member.counters.get(Count::FlowsInserted), n as u64 + 1);
        }
        // The sticky flows began here, and stay.
        let link = member.link(r());
        member.passes(&quic(client(family, 0), link));
        assert_eq!(member.counters.get(Count::FlowsInserted), 3);
    });
}

#[test]
fn a_round_goes_by_slots_from_where_it_began_and_ends_there() {
    for family in FAMILIES {
        let client = client(family, 1);
        // Slots 1, 3 and 4 had addresses that are slot 2's now.
        let known = [(r(), owners(Some(2), &[1, 3])), (number(8), owners(Some(2), &[4]))];
        for (own, to) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 1)] {
            let mut member = Member::new(own, 5, TieredMac::Node);
            member.owners = known.to_vec();
            if own == 2 {
                member.hold(r(), Holding::Owned);
                let link = member.link(r());
                member.sends_on(&segment(client, ACK, link), to, Mark::Round(slot(2)));
                // Round and back: the host's to reset.
                let link = member.marked(Mark::Round(slot(2)));
                member.passes(&segment(client, ACK, link));
            } else {
                member.publish();
                let link = member.marked(Mark::Round(slot(2)));
                member.sends_on(&segment(client, ACK, link), to, Mark::Round(slot(2)));
            }
        }
    }
}

#[test]
fn all_members_are_asked_where_the_router_may_have_chosen_anew() {
    for_each_owner(|mut member, family| {
        member.tiered().search = Search::Members;
        member.alive = [0, 3, 4].map(slot).to_vec();
        member.know(r(), owners(Some(0), &[1, 2]));
        let (link, client) = (member.link(r()), client(family, 1));
        member.sends_on(&segment(client, ACK, link), 3, Mark::Round(slot(0)));
        member.sends_on(&quic(client, link), 3, Mark::Round(slot(0)));
        let link = member.marked(Mark::Round(slot(3)));
        member.sends_on(&segment(client, ACK, link), 3, Mark::Round(slot(3)));
        let link = member.marked(Mark::Round(slot(4)));
        member.sends_on(&segment(client, ACK, link), 3, Mark::Round(slot(4)));
        // Who does not know all says of no connection that nobody has it.
        member.is_away = true;
        member.publish();
        let link = member.marked(Mark::Round(slot(1)));
        member.drops(&segment(client, ACK, link), "no_flow");
        member.sends_on(&quic(client, link), 1, Mark::Round(slot(1)));
        member.is_away = false;
        member.publish();
        member.sends_on(&segment(client, ACK, link), 1, Mark::Round(slot(1)));
        // Alone.
        member.alive = vec![slot(0)];
        member.publish();
        let link = member.link(r());
        member.passes(&segment(client, ACK, link));
    });
}

#[test]
fn an_icmp_error_is_taken_round_to_the_flow_that_it_is_about() {
    for_each_owner(|mut member, family| {
        member.know(r(), owners(Some(0), &[2]));
        let (link, client) = (member.link(r()), client(family, 1));
        let round = Mark::Round(slot(0));
        // It comes by any address, so that its owners tell nothing.
        member.sends_on(&error_about_segment(client, family, link), 1, round);
        member.sends_on(&error_about_datagram(client, QUIC, family, link), 1, round);
        // Nobody tracks these, so nobody knows more.
        member.passes(&error_about_datagram(client, DNS, family, link));
        // Once round: the last one forgets it, nobody answers it.
        let link = member.marked(Mark::Round(slot(1)));
        member.drops(&error_about_segment(client, family, link), "no_flow");
        let link = member.marked(Mark::Round(slot(4)));
        member.sends_on(&error_about_segment(client, family, link), 1, Mark::Round(slot(4)));
        // About a packet that no VIP sent.
        let link = member.link(r());
        let quoted = ip(router(family), client, 17, &udp(DNS, CLIENT_PORT, 0));
        member.drops(&ip_frame(link, &too_big(router(family), &quoted)), "not_vip");
        // To an address that is not ours.
        member.hold(r(), Holding::Foreign);
        member.drops(&error_about_segment(client, family, link), "not_owner");
    });
}

#[test]
fn fragments_follow_the_first_one() {
    for_each_owner(|mut member, family| {
        member.know(r(), owners(Some(0), &[1]));
        let client = client(family, 1);
        for input in [HashInput::Address, HashInput::AddressAndPort] {
            let id = input as u16 * 100;
            member.service.client_hash = ClientHash::new([7; 16], input);
            member.publish();
            let link = member.link(r());
            // Served here: the rest too.
            let start = udp(CLIENT_PORT, DNS, 56 + 32);
            let [first, later] = pieces(client, 17, &start[..64], id + 1, link);
            member.passes(&first);
            member.passes(&later);
            // A connection that began elsewhere: there, by the same way.
            let mut start = tcp(CLIENT_PORT + id, DNS, ACK);
            start.resize(64, 0);
            let mark = match member.tiered().mac {
                TieredMac::Virtual => Mark::Previous(r()),
                TieredMac::Node => Mark::Round(slot(0)),
            };
            let [first, later] = pieces(client, 6, &start, id + 2, link);
            member.sends_on(&first, 1, mark);
            member.sends_on(&later, 1, mark);
            // One that began here.
            let open = ip(client, vip(client), 6, &tcp(CLIENT_PORT + id, DNS, SYN));
            member.passes(&ip_frame(link, &open));
            member.passes(&first);
            member.hold(r(), Holding::Foreign);
            let link = member.marked(Mark::Previous(r()));
            let [_, later] = pieces(client, 6, &start, id + 2, link);
            member.passes(&later);
            member.hold(r(), Holding::Owned);
        }
    });
}

#[test]
fn without_a_lease_only_what_is_tracked_is_served() {
    for_each_owner(|mut member, family| {
        member.know(r(), owners(Some(0), &[1]));
        let (link, known, other) = (member.link(r()), client(family, 1), client(family, 2));
        member.passes(&segment(known, SYN, link));
        member.lease_until_ns = NOW_NS - 1;
        member.publish();
        member.passes(&segment(known, ACK, link));
        for packet in [dns(other, link), segment(other, SYN, link), segment(other, ACK, link)] {
            member.drops(&packet, "lease_expired");
        }
        let back = member.marked(Mark::Back(r()));
        member.drops(&quic(other, back), "lease_expired");
        // To send on, a node need not be the owner.
        let asked = member.marked(Mark::Round(slot(3)));
        member.owners = vec![(r(), owners(Some(3), &[1]))];
        member.publish();
        member.sends_on(&segment(other, ACK, asked), 1, Mark::Round(slot(3)));
        member.drops(&arp_for(r(), MacAddr::BROADCAST, &member), "lease_expired");
        member.drops(&solicitation_for(r(), SOLICITED, &member), "lease_expired");
        member.hold(r(), Holding::Foreign);
        member.drops(&dns(other, link), "not_owner");
    });
}

#[test]
fn frames_for_other_addresses_and_segments_are_not_ours() {
    for_each_owner(|mut member, family| {
        let (link, client) = (member.link(r()), client(family, 1));
        for to in [
            MacAddr([0x02, 0x77, 0, 0, 0, 1]),
            MacAddr::BROADCAST,
            mac_of(slot(1)),
            // Another cluster's, and marks, which are no place to send to.
            VirtualMac::Address(r()).mac(CLUSTER + 1),
            mark_mac(slot(1), Mark::Previous(r())),
            mark_mac(slot(1), Mark::Back(r())),
        ] {
            member.drops(&dns(client, Link { to, ..link }), "wrong_mac");
        }
        member.drops(&dns(client, Link { vlan: Some(10), ..link }), "wrong_vlan");
        let to_router = ip(client, router(family), 17, &udp(CLIENT_PORT, DNS, 30));
        member.drops(&ip_frame(link, &to_router), "not_vip");
    });
}

#[test]
fn both_kinds_of_mac_address_are_taken_while_the_router_still_knows_the_other() {
    for_each_owner(|mut member, family| {
        for to in [virtual_mac(r()), member.service.own_mac] {
            let link = Link { to, ..member.link(r()) };
            member.passes(&dns(client(family, 1), link));
        }
        // Another cluster's mark is none.
        let from = VirtualMac::Mark(slot(1), Mark::Back(r())).mac(CLUSTER + 1);
        member.hold(r(), Holding::Foreign);
        let link = Link { from, ..member.marked(Mark::Back(r())) };
        member.drops(&dns(client(family, 1), link), "not_owner");
    });
}

/// The solicited-node group of no address in particular.
const SOLICITED: MacAddr = MacAddr([0x33, 0x33, 0xff, 0, 0, 7]);
const ASKER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ASKER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn tagged(frame: Vec<u8>, member: &Member) -> Vec<u8> {
    match member.service.vlan {
        Some(vlan) => [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat(),
        None => frame,
    }
}

fn address4(number: Bucket) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST4.to_bits() + u32::from(number.get()))
}

fn address6(number: Bucket) -> Ipv6Addr {
    Ipv6Addr::from_bits(FIRST6.to_bits() + u128::from(number.get()))
}

fn arp_for(number: Bucket, to: MacAddr, member: &Member) -> Vec<u8> {
    tagged(arp_request(ASKER4, address4(number), to), member)
}

fn solicitation_for(number: Bucket, to: MacAddr, member: &Member) -> Vec<u8> {
    tagged(solicitation(ASKER6, address6(number), to), member)
}

#[test]
fn a_question_for_a_next_hop_address_is_answered_by_its_owner() {
    for_each_member(|mut member, _| {
        let own = member.service.own_mac;
        let answer = match member.tiered().mac {
            TieredMac::Virtual => virtual_mac(r()),
            TieredMac::Node => own,
        };
        let offset = if member.service.vlan.is_some() { 18 } else { 14 };
        for (to4, to6) in [(MacAddr::BROADCAST, SOLICITED), (answer, answer), (own, own)] {
            let (arp, solicitation) =
                (arp_for(r(), to4, &member), solicitation_for(r(), to6, &member));
            member.hold(r(), Holding::Foreign);
            member.drops(&arp, "not_owner");
            member.drops(&solicitation, "not_owner");
            for holding in [Holding::Owned, Holding::Granted(slot(1))] {
                member.hold(r(), holding);
                let Fate::Sent(reply) = member.fate(&arp) else { panic!("{to4}") };
                assert_eq!(reply[..6], ROUTER.0, "to the asker");
                assert_eq!(reply[6..12], answer.0, "from the address itself");
                assert_eq!(reply[offset + 8..offset + 14], answer.0, "says where it is");
                assert_eq!(reply[offset + 14..offset + 18], address4(r()).octets());
                let Fate::Sent(reply) = member.fate(&solicitation) else { panic!("{to6}") };
                assert_eq!(reply[..6], ROUTER.0, "to the asker");
                assert_eq!(reply[6..12], answer.0, "from the address itself");
                assert_eq!(reply[reply.len() - 6..], answer.0, "says where it is");
            }
        }
        assert_eq!(member.counters.get(Count::ArpReplies), 6);
        assert_eq!(member.counters.get(Count::NeighborAdvertisements), 6);
    });
}

#[test]
fn other_questions_are_not_answered() {
    for_each_owner(|mut member, _| {
        let elsewhere = MacAddr([0x02, 0x77, 0, 0, 0, 1]);
        for frame in [
            arp_request(ASKER4, VIP4, MacAddr::BROADCAST),
            arp_request(ASKER4, address4(number(COUNT)), MacAddr::BROADCAST),
            arp_request(ASKER4, Ipv4Addr::new(10, 0, 0, 63), MacAddr::BROADCAST),
            solicitation(ASKER6, VIP6, SOLICITED),
            solicitation(ASKER6, address6(number(COUNT)), SOLICITED),
        ] {
            let frame = tagged(frame, &member);
            member.drops(&frame, "not_vip");
        }
        let frame = arp_for(r(), elsewhere, &member);
        member.drops(&frame, "wrong_mac");
        let frame = solicitation_for(r(), elsewhere, &member);
        member.drops(&frame, "wrong_mac");
        let link = Link { from: ROUTER, to: member.service.own_mac, vlan: member.service.vlan };
        member.drops(&arp(2, ROUTER, ASKER4, address4(r()), link), "not_a_request");
        assert!(member.claims.is_empty());
    });
}

#[test]
fn claims_of_next_hop_addresses_are_told_members_from_strangers() {
    for_each_owner(|mut member, _| {
        let vlan = member.service.vlan;
        let stranger = MacAddr([0x02, 0x66, 0, 0, 0, 1]);
        let (is_virtual, peer) = (member.tiered().mac == TieredMac::Virtual, mac_of(slot(1)));
        let other = VirtualMac::Address(number(8)).mac(CLUSTER);
        for (mac, is_foreign) in [
            (stranger, true),
            (other, true),
            (virtual_mac(r()), !is_virtual),
            (peer, is_virtual),
            (member.service.own_mac, is_virtual),
        ] {
            let label = if is_foreign { "foreign_claim" } else { "member_claim" };
            let heard = |address: IpAddr| Some(HeardClaim { address, mac, is_foreign });
            for form in [ArpForm::Request, ArpForm::Reply] {
                member.drops(&claim::arp_claim(address4(r()), mac, form, vlan), label);
                assert_eq!(member.claims.pop(), heard(address4(r()).into()));
            }
            member.drops(&claim::advertisement(address6(r()), mac, vlan), label);
            assert_eq!(member.claims.pop(), heard(address6(r()).into()));
        }
        // More than the queue holds are counted all the same, and none of them stays away.
        for _ in 0..100 {
            let claim = claim::advertisement(address6(r()), stranger, vlan);
            member.drops(&claim, "foreign_claim");
        }
        assert_eq!(member.claims.len(), 4);
        // What is not a next-hop address is nobody's business.
        let claim = claim::advertisement(address6(number(COUNT)), stranger, vlan);
        member.drops(&claim, "not_vip");
    });
}

#[test]
fn an_owners_own_claims_are_what_a_member_takes_for_a_members() {
    for_each_owner(|owner, _| {
        let mut owner = owner;
        let frames = claim::frames(&owner.service, r());
        assert_eq!(frames.len(), 3);
        let mut other = Member::new(1, 5, owner.tiered().mac);
        other.service.vlan = owner.service.vlan;
        other.publish();
        for frame in &frames {
            other.drops(frame, "member_claim");
        }
        // And a member that asks first is answered.
        let probes = claim::probes(&other.service, r());
        assert_eq!(probes.len(), 2);
        for probe in &probes {
            assert_eq!(probe[6..12], other.service.own_mac.0, "draws nobody's frames away");
            assert!(matches!(owner.fate(probe), Fate::Sent(_)));
        }
    });
}

#[test]
fn what_is_sent_on_is_limited_and_counted_by_its_kind() {
    for_each_owner(|mut member, family| {
        member.owners = vec![(r(), owners(Some(0), &[1])), (number(8), owners(Some(1), &[2]))];
        member.publish();
        let (link, client) = (member.link(r()), client(family, 1));
        let stray = segment(client, ACK, link);
        let mut sent = 0;
        while let Fate::Sent(_) = member.fate(&stray) {
            sent += 1;
        }
        assert_eq!(sent, 1_000, "at once");
        member.drops(&stray, "forward_limited");
        // What is not sent on does not suffer.
        member.passes(&dns(client, link));
        member.now_ns += 1_000_000;
        member.lease_until_ns = u64::MAX;
        member.publish();
        let mut again = 0;
        while let Fate::Sent(_) = member.fate(&stray) {
            again += 1;
        }
        assert_eq!(again, 100, "in a millisecond at 100,000 a second");

        member.now_ns += 1_000_000_000;
        let kinds = |member: &Member| {
            [
                Count::ForwardedToPrevious,
                Count::ForwardedBeforePrevious,
                Count::ForwardedBack,
                Count::ForwardedRound,
            ]
            .map(|count| member.counters.get(count))
        };
        let before = kinds(&member);
        assert_eq!(before.iter().sum::<u64>(), 1_100);
        let is_virtual = member.tiered().mac == TieredMac::Virtual;
        assert_eq!(before[if is_virtual { 0 } else { 3 }], 1_100);
        let other = number(8);
        for mark in [Mark::Previous(other), Mark::BeforePrevious(other), Mark::Round(slot(3))] {
            let stray = segment(client, ACK, member.marked(mark));
            assert!(matches!(member.fate(&stray), Fate::Sent(_)), "{mark:?}");
        }
        let after = kinds(&member);
        assert_eq!([0, 1, 2, 3].map(|at| after[at] - before[at]), [0, 1, 1, 1]);
        assert_eq!(member.counters.get(Count::Forwarded), 1_103);
    });
}

#[test]
fn a_member_whose_mac_address_is_not_known_gets_nothing() {
    for_each_owner(|mut member, family| {
        member.know(r(), owners(Some(0), &[1]));
        member.service.peer_macs = [None; SLOTS];
        member.publish();
        let link = member.link(r());
        member.drops(&segment(client(family, 1), ACK, link), "peer_unknown");
    });
}

#[test]
fn of_what_the_host_opens_only_connections_are_tracked() {
    for_each_owner(|mut member, family| {
        let (network, gateway) = match family {
            Family::V4 => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), router(family)),
            Family::V6 => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), router(family)),
        };
        let route = Route { network, prefix_len: 0, gateway: Some(gateway) };
        member.service.egress =
            Some(Egress { routes: [route].into(), neighbors: [(gateway, ROUTER)].into() });
        member.publish();
        let client = client(family, 1);
        let from_host = Link { from: HOST, to: MacAddr([0; 6]), vlan: None };
        let on_wire = Link { from: member.service.own_mac, to: ROUTER, vlan: member.service.vlan };
        let syn = ip(vip(client), client, 6, &[tcp(5000, 853, SYN), vec![0; 20]].concat());
        let ask = ip(vip(client), client, 17, &udp(5000, DNS, 40));
        for packet in [&syn, &ask] {
            member.worker.host_mut().send(ip_frame(from_host, packet));
            assert_eq!(member.worker.poll_once(NOW_NS), 1);
            assert_eq!(member.worker.port_mut().sent.pop(), Some(ip_frame(on_wire, packet)));
        }
        member.hold(r(), Holding::Foreign);
        let link = member.link(r());
        let answer = ip(client, vip(client), 6, &tcp(853, 5000, SYN | ACK));
        member.passes(&ip_frame(link, &answer));
        let answer = ip(client, vip(client), 17, &udp(DNS, 5000, 40));
        member.drops(&ip_frame(link, &answer), "not_owner");
    });
}
