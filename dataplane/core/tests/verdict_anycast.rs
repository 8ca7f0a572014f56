//! The decision table of the `anycast` mode: a packet, what the node holds and knows, and what becomes
//! of it. The tunnels that it may go by are `anycast_tunnels.rs`'s.
//!
//! The table runs through a whole worker over ports in memory, for both families, with and without a
//! tag, with members on a segment and behind tunnels of either family.

mod anycast_member;
mod frames;
mod tiered_member;

use std::net::IpAddr;

use anycast_member::*;
use frames::*;
use tcp_flags::{ACK, FIN, RST, SYN};
use tiered_member::*;
use vipdp_core::anycast::Anycast;
use vipdp_core::bucket::Bucket;
use vipdp_core::counters::Count;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::slot::SLOTS;
use vipdp_core::snapshot::{Holding, Ingress};
use vipdp_core::tiered::Mark;

const CLIENT_PORT: u16 = 40_000;
const DNS: u16 = 53;

/// Runs `check` on the member in slot 0 of 5 for every way in which it may be set up.
fn for_each_member(mut check: impl FnMut(Member, Way, Family)) {
    for way in WAYS {
        for family in FAMILIES {
            for vlan in [None, Some(9)] {
                let mut member = member(0, 5, way);
                member.service.vlan = vlan;
                member.publish();
                check(member, way, family);
            }
        }
    }
}

fn dns(client: IpAddr) -> Vec<u8> {
    ip(client, vip(client), 17, &udp(CLIENT_PORT, DNS, 30))
}

fn quic(client: IpAddr) -> Vec<u8> {
    ip(client, vip(client), 17, &udp(CLIENT_PORT, QUIC, 30))
}

fn segment(client: IpAddr, flags: u8) -> Vec<u8> {
    ip(client, vip(client), 6, &tcp(CLIENT_PORT, DNS, flags))
}

fn syn(client: IpAddr) -> Vec<u8> {
    segment(client, SYN)
}

fn ack(client: IpAddr) -> Vec<u8> {
    segment(client, ACK)
}

fn sctp(client: IpAddr) -> Vec<u8> {
    ip(client, vip(client), 132, &[0; 12])
}

fn later_fragment(client: IpAddr) -> Vec<u8> {
    ip_piece(client, vip(client), 17, &[0; 32], Some((64, false, 7)))
}

fn error(client: IpAddr) -> Vec<u8> {
    let quoted = ip(vip(client), client, 6, &tcp(DNS, CLIENT_PORT, ACK)[..8]);
    too_big(if client.is_ipv4() { router(Family::V4) } else { router(Family::V6) }, &quoted)
}

fn error_about_dns(client: IpAddr) -> Vec<u8> {
    let quoted = ip(vip(client), client, 17, &udp(DNS, CLIENT_PORT, 0));
    too_big(if client.is_ipv4() { router(Family::V4) } else { router(Family::V6) }, &quoted)
}

type Packet = fn(IpAddr) -> Vec<u8>;
type MarkOf = fn(Bucket) -> Mark;

/// Packets that only the bucket says something about.
const NEW: [Packet; 5] = [dns, syn, echo_request, sctp, error_about_dns];
/// Packets whose flow another member may have.
const BEGUN: [Packet; 4] = [ack, quic, error, later_fragment];

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
enum To {
    Host,
    Member(u8, MarkOf),
    Dropped(&'static str),
}
use To::{Dropped, Host};

const STEER: MarkOf = Mark::Steer;
const PREVIOUS: MarkOf = Mark::Previous;
const BEFORE_PREVIOUS: MarkOf = Mark::BeforePrevious;
const BACK: MarkOf = Mark::Back;
const GRANTED: MarkOf = Mark::Granted;

/// The frame that carries a packet to the member, from the router or with a mark of another's.
fn frame_of(
    member: &Member,
    way: Way,
    from: Option<(u8, MarkOf)>,
    bucket: Bucket,
    packet: &[u8],
) -> Vec<u8> {
    let mut frame = match from {
        None => return ip_frame(from_router(member), packet),
        Some((from, mark)) => arriving(way, slot(from), member.slot, mark(bucket), packet),
    };
    if let Some(vlan) = member.service.vlan {
        let tag = [&[0x81, 0x00][..], &vlan.to_be_bytes()].concat();
        frame.splice(12..12, tag);
    }
    frame
}

#[track_caller]
fn check(
    member: &mut Member,
    way: Way,
    from: Option<(u8, MarkOf)>,
    client: IpAddr,
    packet: &[u8],
    expected: To,
) {
    let bucket = bucket_of(client);
    let frame = frame_of(member, way, from, bucket, packet);
    let context = format!("{way:?} {client} {:?} {packet:02x?}", from.map(|(from, _)| from));
    match (member.fate(&frame), expected) {
        (Fate::Host, Host) => {}
        (Fate::Dropped(reason), Dropped(expected)) => assert_eq!(reason, expected, "{context}"),
        (Fate::Sent(sent), To::Member(to, mark)) => {
            let (from, to, mark) = (member.slot, slot(to), mark(bucket));
            let expected = SentOn { from, to, mark, packet: packet.to_vec() };
            assert_eq!(sent_on(way, &sent), expected, "{context}");
        }
        (found, expected) => panic!("{found:02x?}, not {expected:?}: {context}"),
    }
}

/// One row: what is known of the client's bucket, and what becomes of packets.
struct Row {
    holding: Holding,
    now: Option<u8>,
    before: &'static [u8],
    from: Option<(u8, MarkOf)>,
    new: To,
    begun: To,
}

fn rows() -> Vec<Row> {
    let granted = |to| Holding::Granted(slot(to));
    let (owned, lately, foreign) = (Holding::Owned, Holding::TakenOver, Holding::Foreign);
    let to = To::Member;
    let steered = Some((4, STEER));
    let row =
        |holding, (now, before), from, new, begun| Row { holding, now, before, from, new, begun };
    vec![
        // From the network.
        row(owned, (Some(0), &[]), None, Host, Host),
        row(owned, (Some(0), &[1, 2]), None, Host, to(1, PREVIOUS)),
        row(lately, (Some(0), &[1, 2]), None, Host, to(1, PREVIOUS)),
        row(granted(3), (Some(0), &[1]), None, to(3, GRANTED), to(3, PREVIOUS)),
        row(foreign, (Some(2), &[1]), None, to(2, STEER), to(2, STEER)),
        row(foreign, (None, &[]), None, Host, Host),
        row(foreign, (None, &[1]), None, Host, to(1, PREVIOUS)),
        row(foreign, (Some(0), &[1]), None, Host, to(1, PREVIOUS)),
        // Steered here by 4.
        row(owned, (Some(0), &[]), steered, Host, Host),
        row(owned, (Some(0), &[1, 2]), steered, Host, to(1, PREVIOUS)),
        row(owned, (Some(0), &[4, 2]), steered, Host, to(2, PREVIOUS)),
        row(owned, (Some(0), &[4]), steered, Host, Host),
        row(granted(3), (Some(0), &[1]), steered, to(3, GRANTED), to(3, PREVIOUS)),
        row(granted(4), (Some(0), &[1]), steered, to(4, GRANTED), to(1, PREVIOUS)),
        row(granted(4), (Some(0), &[]), steered, to(4, GRANTED), Host),
        row(foreign, (Some(2), &[1]), steered, to(2, GRANTED), to(2, PREVIOUS)),
        row(foreign, (Some(4), &[1]), steered, Host, to(1, PREVIOUS)),
        row(foreign, (None, &[]), steered, Host, Host),
        // In search of its flow: what is new never is.
        row(
            foreign,
            (Some(4), &[4, 2]),
            Some((4, PREVIOUS)),
            to(2, BEFORE_PREVIOUS),
            to(2, BEFORE_PREVIOUS),
        ),
        row(
            foreign,
            (Some(3), &[3, 2]),
            Some((4, PREVIOUS)),
            to(2, BEFORE_PREVIOUS),
            to(2, BEFORE_PREVIOUS),
        ),
        row(foreign, (Some(4), &[]), Some((4, PREVIOUS)), to(4, BACK), to(4, BACK)),
        row(owned, (Some(0), &[]), Some((4, PREVIOUS)), Host, Host),
        row(foreign, (None, &[]), Some((4, PREVIOUS)), Dropped("no_flow"), Dropped("no_flow")),
        row(foreign, (Some(3), &[2]), Some((4, BEFORE_PREVIOUS)), to(3, BACK), to(3, BACK)),
        row(foreign, (Some(3), &[2]), Some((4, BACK)), Host, Host),
        // The giver says so, and the taker need not have heard of it.
        row(foreign, (Some(4), &[2]), Some((4, GRANTED)), Host, Host),
    ]
}

#[test]
fn a_packet_goes_by_its_bucket_or_in_search_of_its_flow() {
    for_each_member(|mut member, way, family| {
        let mut next = 0;
        for row in rows() {
            for (packets, expected) in [(&NEW[..], row.new), (&BEGUN[..], row.begun)] {
                for packet in packets {
                    // Nothing of a flow that an earlier packet has begun.
                    next = next % 250 + 1;
                    let client = client(family, next);
                    let bucket = bucket_of(client);
                    member = fresh(&member, way);
                    member.holdings.set(bucket, row.holding);
                    member.know(bucket, owners(row.now, row.before));
                    check(&mut member, way, row.from, client, &packet(client), expected);
                }
            }
        }
    });
}

/// The same member without flows and without anything held.
fn fresh(old: &Member, way: Way) -> Member {
    let mut member = member(0, 5, way);
    member.service.vlan = old.service.vlan;
    member.publish();
    member
}

#[test]
fn without_steering_whatever_comes_is_served_under_the_lease() {
    for family in FAMILIES {
        let anycast = Anycast { slot: slot(0), cluster: CLUSTER, steering: None };
        let mut member = Member::in_mode(0, 5, Ingress::Anycast(anycast));
        let client = client(family, 1);
        let link = from_router(&member);
        let packets: Vec<_> =
            NEW.iter().chain(&BEGUN).map(|packet| ip_frame(link, &packet(client))).collect();
        for frame in &packets {
            member.passes(frame);
        }
        assert_eq!(member.counters.get(Count::FlowsInserted), 0, "nothing is tracked");
        member.lease_until_ns = NOW_NS - 1;
        member.publish();
        for frame in &packets {
            member.drops(frame, "lease_expired");
        }
        // A tunnel is nobody's there, as far as it comes here at all.
        let tunnel = Tunnel { family, ..Tunnel::default() }.frame(&dns(client));
        member.drops(&tunnel, "not_vip");
    }
}

#[test]
fn frames_that_are_not_for_a_vip_of_ours_are_dropped_and_questions_never_answered() {
    for_each_member(|mut member, _, family| {
        let link = from_router(&member);
        let asker = client(family, 1);
        let to = |packet: &[u8]| ip_frame(link, packet);
        let outside: IpAddr = match family {
            Family::V4 => "192.0.3.0".parse().unwrap(),
            Family::V6 => "2001:db8:54::".parse().unwrap(),
        };
        member.drops(&to(&ip(asker, outside, 17, &udp(CLIENT_PORT, DNS, 30))), "not_vip");
        let other = Link { to: mac_of(slot(9)), ..link };
        member.drops(&ip_frame(other, &dns(asker)), "wrong_mac");
        let vlan = Link { vlan: Some(10), ..link };
        member.drops(&ip_frame(vlan, &dns(asker)), "wrong_vlan");
        if member.service.vlan.is_none() {
            let all = vipdp_core::wire::ethernet::MacAddr::BROADCAST;
            member.drops(&arp_request("10.64.0.1".parse().unwrap(), VIP4, all), "not_a_request");
            let question = solicitation("fd64::1".parse().unwrap(), VIP6, link.to);
            member.drops(&question, "not_a_request");
        }
    });
}

#[test]
fn a_flow_that_is_known_stays_whoever_has_the_bucket_and_without_a_lease() {
    for_each_member(|mut member, way, family| {
        let client = client(family, 1);
        let bucket = bucket_of(client);
        let mut start = tcp(CLIENT_PORT, DNS, ACK);
        start.resize(24, 0);
        let pieces = [(&start[..], (0, true, 7)), (&[0; 32], (24, false, 7))]
            .map(|(payload, piece)| ip_piece(client, vip(client), 6, payload, Some(piece)));
        member.holdings.set(bucket, Holding::Owned);
        member.know(bucket, owners(Some(0), &[]));
        check(&mut member, way, None, client, &syn(client), Host);
        check(&mut member, way, None, client, &quic(client), Host);
        assert_eq!(member.counters.get(Count::FlowsInserted), 2);

        member.holdings.set(bucket, Holding::Foreign);
        member.lease_until_ns = 0;
        member.know(bucket, owners(Some(3), &[2]));
        check(&mut member, way, None, client, &syn(client), Host);
        let from = [None, Some((4, STEER)), Some((4, PREVIOUS)), Some((4, BEFORE_PREVIOUS))];
        for from in from.into_iter().chain([Some((4, BACK)), Some((4, GRANTED))]) {
            for flags in [ACK, FIN | ACK, RST] {
                check(&mut member, way, from, client, &segment(client, flags), Host);
            }
            check(&mut member, way, from, client, &quic(client), Host);
            check(&mut member, way, from, client, &error(client), Host);
            for piece in &pieces {
                check(&mut member, way, from, client, piece, Host);
            }
        }
        // The rest goes where it belongs: its sender needs no lease.
        check(&mut member, way, None, client, &dns(client), To::Member(3, STEER));
    });
}

#[test]
fn what_is_served_needs_a_lease() {
    for_each_member(|mut member, way, family| {
        let client = client(family, 1);
        let bucket = bucket_of(client);
        member.lease_until_ns = NOW_NS - 1;
        for holding in [Holding::Owned, Holding::Foreign] {
            member.holdings.set(bucket, holding);
            member.know(bucket, owners(None, &[]));
            for packet in NEW.iter().chain(&BEGUN) {
                for from in [None, Some((4, STEER)), Some((4, GRANTED)), Some((4, BACK))] {
                    check(
                        &mut member,
                        way,
                        from,
                        client,
                        &packet(client),
                        Dropped("lease_expired"),
                    );
                }
            }
        }
    });
}

#[test]
fn a_member_that_cannot_be_reached_gets_nothing_new() {
    for_each_member(|mut member, way, family| {
        let client = client(family, 1);
        let bucket = bucket_of(client);
        member.service.peer_macs = [None; SLOTS];
        for path in member.service.peers.iter_mut().flatten() {
            path.next_hop = None;
        }
        for (holding, now) in [(Holding::Foreign, 2), (Holding::Granted(slot(2)), 0)] {
            member.holdings.set(bucket, holding);
            member.know(bucket, owners(Some(now), &[]));
            check(&mut member, way, None, client, &dns(client), Host);
            // A reset would be final.
            check(&mut member, way, None, client, &ack(client), Dropped("peer_unknown"));
        }
    });
}

#[test]
fn a_stray_segment_is_not_reset_while_a_member_may_be_back_with_its_flow() {
    for_each_member(|mut member, way, family| {
        let client = client(family, 1);
        let bucket = bucket_of(client);
        member.holdings.set(bucket, Holding::Owned);
        member.is_away = true;
        member.know(bucket, owners(Some(0), &[]));
        check(&mut member, way, None, client, &ack(client), Dropped("no_flow"));
        check(&mut member, way, None, client, &syn(client), Host);
    });
}

/// An error goes by the client that it is about, and not by the router that tells it.
#[test]
fn an_error_goes_by_the_bucket_of_the_client_that_it_is_about() {
    for_each_member(|mut member, way, family| {
        let client = client(family, 1);
        let about = bucket_of(client);
        assert_ne!(about, bucket_of(router(family)));
        member.holdings.set(bucket_of(router(family)), Holding::Owned);
        member.know(about, owners(Some(2), &[]));
        for packet in [error, error_about_dns] {
            check(&mut member, way, None, client, &packet(client), To::Member(2, STEER));
        }
        let quoted = ip(client, vip(client), 6, &tcp(CLIENT_PORT, DNS, ACK)[..8]);
        let stranger = ip_frame(from_router(&member), &too_big(router(family), &quoted));
        member.drops(&stranger, "not_vip");
    });
}

/// Later fragments do not tell the port, so no fragment goes by it.
#[test]
fn fragments_of_a_datagram_go_by_the_address_alone() {
    for_each_member(|mut member, way, family| {
        let hash = ClientHash::new([7; 16], HashInput::AddressAndPort);
        member.service.client_hash = hash;
        let client = client(family, 1);
        let [by_port, by_address] =
            [CLIENT_PORT, 0].map(|port| Bucket::of_hash(hash.hash(client, port)));
        assert_ne!(by_port, by_address);
        member.owners = vec![(by_port, owners(Some(2), &[])), (by_address, owners(Some(3), &[]))];
        member.publish();
        let piece = |payload: &[u8], offset, more| {
            let piece = Some((offset, more, 7));
            ip_frame(from_router(&member), &ip_piece(client, vip(client), 17, payload, piece))
        };
        let frames = [piece(&udp(CLIENT_PORT, DNS, 56), 0, true), piece(&[0; 32], 64, false)];
        let whole = ip_frame(from_router(&member), &dns(client));
        let mut to = |frame: &[u8]| match member.fate(frame) {
            Fate::Sent(sent) => sent_on(way, &sent).to,
            fate => panic!("{fate:?}"),
        };
        assert_eq!(to(&whole), slot(2));
        assert_eq!(frames.map(|frame| to(&frame)), [slot(3); 2]);
    });
}

/// Steering is the daily work: only the search for a flow is held back.
#[test]
fn steering_is_not_limited_and_searches_are() {
    for_each_member(|mut member, way, family| {
        let client = client(family, 1);
        let bucket = bucket_of(client);
        member.know(bucket, owners(Some(2), &[]));
        for _ in 0..1_100 {
            check(&mut member, way, None, client, &ack(client), To::Member(2, STEER));
        }
        assert_eq!(member.counters.get(Count::ForwardedSteered), 1_100);
        member.holdings.set(bucket, Holding::Owned);
        member.know(bucket, owners(Some(0), &[2]));
        for _ in 0..1_000 {
            check(&mut member, way, None, client, &ack(client), To::Member(2, PREVIOUS));
        }
        check(&mut member, way, None, client, &ack(client), Dropped("forward_limited"));
        member.now_ns += 1_000_000_000;
        member.lease_until_ns = u64::MAX;
        member.publish();
        check(&mut member, way, None, client, &ack(client), To::Member(2, PREVIOUS));
        let counts = [Count::ForwardedToPrevious, Count::Forwarded, Count::Decapsulated];
        assert_eq!(counts.map(|count| member.counters.get(count)), [1_001, 2_101, 0]);
    });
}
