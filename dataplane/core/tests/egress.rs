//! What the host sends by way of a worker, over ports in memory: super-packets and what the host leaves
//! to the worker, both families, tagged and not.

mod frames;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use frames::*;
use tcp_flags::{ACK, FIN};
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::BURST;
use vipdp_core::port::memory::{MemoryHost, MemoryPort};
use vipdp_core::snapshot::{Egress, Holdings, Ingress, Route, Service, SharedMac, Snapshot, Vips};
use vipdp_core::verdict::DropReason;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::wire::vnet::{Offload, PartialChecksum, SegmentedProtocol, Segments};
use vipdp_core::worker::{Shared, Worker};

const FRAMES: usize = 256;
const CLIENTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 64, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 1)),
];
const HOST_MTU: u16 = 1500;
/// From the host's stack; and what leaves, to the router.
const FROM_HOST: Link = Link { from: HOST, to: MacAddr([0; 6]), vlan: None };

type Node = Worker<MemoryPort, MemoryHost>;

/// A node that sends all by the router, and its counters.
fn node(vlan: Option<u16>) -> (Node, Arc<WorkerCounters>) {
    let routers = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 1)),
    ];
    let default = |gateway: IpAddr| Route {
        network: match gateway {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        },
        prefix_len: 0,
        gateway: Some(gateway),
    };
    let service = Service {
        host_mtu: HOST_MTU,
        vlan,
        egress: Some(Egress {
            routes: routers.map(default).into(),
            neighbors: routers.map(|router| (router, ROUTER)).into(),
        }),
        ..Service::new(
            Vips::new([VIP4.into(), VIP6.into()]),
            ClientHash::new([7; 16], HashInput::Address),
            Ingress::SharedMac(SharedMac::unicast(SHARED)),
            OWN,
            HOST,
        )
    };
    let snapshot = Snapshot::serving(service, Holdings::none());
    let shared = Shared::new(snapshot, FlowTable::new(1024, [1, 2]));
    let counters = Arc::<WorkerCounters>::default();
    let (port, host) = (MemoryPort::new(FRAMES), MemoryHost::default());
    (Worker::new(port, host, shared, Arc::clone(&counters)), counters)
}

/// A TCP super-packet of so many bytes to the client, and what the host's queue says of it.
fn tcp_super_packet(client: IpAddr, payload: usize, size: u16) -> (Offload, Vec<u8>) {
    let mut segment = tcp(853, 40_000, ACK | FIN);
    segment.extend((0..payload).map(|n| (n % 251) as u8));
    let frame = ip_frame(FROM_HOST, &ip(vip(client), client, 6, &segment));
    let (start, protocol) = match client {
        IpAddr::V4(_) => (34, SegmentedProtocol::TcpV4),
        IpAddr::V6(_) => (54, SegmentedProtocol::TcpV6),
    };
    let segments = Segments { protocol, size, headers_len: start + 20 };
    let checksum = Some(PartialChecksum { start, offset: 16 });
    (Offload { checksum, segments: Some(segments) }, frame)
}

fn poll(node: &mut Node) -> usize {
    let frames = node.poll_once(1_000_000_000_000);
    assert_eq!(node.port().held(), 0, "a frame was lost");
    frames
}

/// The payloads of all frames that were sent, and the length of the longest frame.
fn payloads(sent: &[Vec<u8>], headers_len: usize) -> (Vec<u8>, usize) {
    let payload = sent.iter().flat_map(|frame| &frame[headers_len..]).copied().collect();
    (payload, sent.iter().map(Vec::len).max().unwrap_or(0))
}

#[test]
fn a_super_packet_leaves_in_packets_that_the_network_takes() {
    for client in CLIENTS {
        for vlan in [None, Some(9)] {
            let (mut node, counters) = node(vlan);
            let (offload, frame) = tcp_super_packet(client, 60_000, 1_400);
            let headers_len = usize::from(offload.segments.unwrap().headers_len);
            node.host_mut().outgoing.push_back((offload, frame.clone()));
            assert_eq!(poll(&mut node), 43);
            let sent = &node.port_mut().sent;
            let tag = if vlan.is_some() { 4 } else { 0 };
            let (together, longest) = payloads(sent, headers_len + tag);
            assert_eq!(together, frame[headers_len..]);
            assert_eq!(longest, headers_len + tag + 1_400);
            let on_wire = ip_frame(Link { from: OWN, to: ROUTER, vlan }, &[0x40; 40]);
            for packet in sent {
                assert_eq!(packet[..12 + tag], on_wire[..12 + tag]);
                etherparse::SlicedPacket::from_ethernet(packet).unwrap();
            }
            assert_eq!(counters.get(Count::FromHost), 1);
            assert_eq!(counters.get(Count::FromHostCut), 1);
            assert_eq!(counters.get(Count::Transmitted), 43);
            assert_eq!(counters.drops_total(), 0);
        }
    }
}

#[test]
fn a_nic_that_cuts_gets_it_whole_behind_what_was_before() {
    for client in CLIENTS {
        let (mut node, counters) = node(None);
        node.port_mut().sent_whole = Some(Vec::new());
        let single = ip(vip(client), client, 17, &udp(53, 40_000, 40));
        node.host_mut().send(ip_frame(FROM_HOST, &single));
        let (offload, frame) = tcp_super_packet(client, 60_000, 1_400);
        node.host_mut().outgoing.push_back((offload, frame.clone()));
        assert_eq!(poll(&mut node), 1 + 43);
        let whole = node.port_mut().sent_whole.take().unwrap();
        let [(said, 1, bytes)] = &whole[..] else { panic!("{whole:?}") };
        assert_eq!(*said, offload);
        assert_eq!(bytes[..12], [ROUTER.0, OWN.0].concat());
        assert_eq!(bytes[12..], frame[12..]);
        assert_eq!(node.port().sent.len(), 1);
        assert_eq!(counters.get(Count::FromHostWhole), 1);
        assert_eq!(counters.get(Count::FromHostCut), 0);
        assert_eq!(counters.get(Count::Transmitted), 1 + 43);
    }
}

#[test]
fn what_the_nic_would_cut_otherwise_than_we_do_is_cut_here() {
    // A tag; no checksum to complete in each packet; CWR, which the first packet alone may have.
    for case in ["tag", "checksum", "cwr"] {
        let (mut node, counters) = node((case == "tag").then_some(9));
        node.port_mut().sent_whole = Some(Vec::new());
        let (mut offload, mut frame) = tcp_super_packet(CLIENTS[0], 10_000, 1_000);
        match case {
            "checksum" => offload.checksum = None,
            "cwr" => frame[34 + 13] |= 0x80,
            _ => {}
        }
        node.host_mut().outgoing.push_back((offload, frame));
        poll(&mut node);
        assert_eq!(node.port().sent.len(), 10, "{case}");
        assert_eq!(node.port().sent_whole, Some(Vec::new()), "{case}");
        assert_eq!(counters.get(Count::FromHostCut), 1, "{case}");
    }
}

#[test]
fn a_checksum_that_the_host_leaves_is_completed() {
    for client in CLIENTS {
        for vlan in [None, Some(9)] {
            let (mut node, counters) = node(vlan);
            let (offload, frame) = tcp_super_packet(client, 1_000, 1_400);
            let offload = Offload { segments: None, ..offload };
            node.host_mut().outgoing.push_back((offload, frame.clone()));
            assert_eq!(poll(&mut node), 1);
            let [sent] = &node.port().sent[..] else { panic!("one frame in, another number out") };
            let start = usize::from(offload.checksum.unwrap().start);
            let tag = if vlan.is_some() { 4 } else { 0 };
            // The sum is over what was there, not over a pseudo-header that was not.
            let words = frame[start..]
                .chunks(2)
                .map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])));
            let sum = words.fold(0_u32, |sum, word| (sum + word) % 0xffff);
            let found = u32::from(u16::from_be_bytes(
                sent[start + tag + 16..start + tag + 18].try_into().unwrap(),
            ));
            assert_eq!((sum + found) % 0xffff, 0);
            assert_eq!(counters.drops_total(), 0);
        }
    }
}

#[test]
fn what_cannot_leave_is_counted_and_loses_no_frame() {
    let (mut node, counters) = node(None);
    // Packets longer than the network takes, super-packets of another protocol than they hold or
    // without any payload, a checksum outside the frame, and one that is cut short.
    let (offload, frame) = tcp_super_packet(CLIENTS[0], 4_000, 2_000);
    let another = Segments { protocol: SegmentedProtocol::Udp, size: 100, headers_len: 0 };
    let (_, empty) = tcp_super_packet(CLIENTS[1], 0, 1);
    let of_v6 = Segments { protocol: SegmentedProtocol::TcpV6, size: 100, headers_len: 0 };
    let outside = PartialChecksum { start: 5_000, offset: 0 };
    let host = &mut node.host_mut().outgoing;
    host.push_back((offload, frame.clone()));
    host.push_back((Offload::default(), frame.clone()));
    host.push_back((Offload { segments: Some(another), ..offload }, frame.clone()));
    host.push_back((Offload { segments: Some(of_v6), checksum: None }, empty));
    host.push_back((Offload { checksum: Some(outside), segments: None }, frame.clone()));
    host.push_back((offload, frame[..2_000].to_vec()));
    poll(&mut node);
    assert_eq!(counters.drops(DropReason::TxTooLong), 3);
    assert_eq!(counters.drops(DropReason::HostOffload), 3);
    assert_eq!(counters.drops_total(), 7);
    assert_eq!(node.port().sent, Vec::<Vec<u8>>::new());
}

#[test]
fn what_the_port_has_no_room_for_stays_with_the_host() {
    let (mut node, counters) = node(None);
    let (offload, frame) = tcp_super_packet(CLIENTS[0], 65_000, 1_400);
    for _ in 0..20 {
        node.host_mut().outgoing.push_back((offload, frame.clone()));
    }
    let mut turns = 0;
    while !node.host_mut().outgoing.is_empty() {
        let frames = poll(&mut node);
        assert!((BURST..2 * BURST).contains(&frames), "{frames} in one turn");
        turns += 1;
    }
    assert_eq!(turns, 10);
    assert_eq!(node.port().sent.len(), 20 * 47);
    assert_eq!(counters.drops_total(), 0);
    node.port_mut().limit_tx(BURST - 1);
    node.host_mut().outgoing.push_back((offload, frame));
    assert_eq!(poll(&mut node), 0);
    assert_eq!(node.host_mut().outgoing.len(), 1);
}

#[test]
fn more_packets_than_there_are_frames_leave_one_ring_after_another() {
    for vlan in [None, Some(9)] {
        let (mut node, counters) = node(vlan);
        let (offload, frame) = tcp_super_packet(CLIENTS[1], 60_000, 60);
        let headers_len = usize::from(offload.segments.unwrap().headers_len);
        node.host_mut().outgoing.push_back((offload, frame.clone()));
        assert_eq!(poll(&mut node), 1_000);
        let tag = if vlan.is_some() { 4 } else { 0 };
        let (together, _) = payloads(&node.port().sent, headers_len + tag);
        assert_eq!(together, frame[headers_len..]);
        assert_eq!(counters.get(Count::Transmitted), 1_000);
        assert_eq!(counters.drops_total(), 0);
    }
}

#[test]
fn what_a_wire_that_stands_still_has_no_room_for_is_counted() {
    let (mut node, counters) = node(None);
    node.port_mut().stall();
    let (offload, frame) = tcp_super_packet(CLIENTS[1], 60_000, 60);
    node.host_mut().outgoing.push_back((offload, frame));
    assert_eq!(poll(&mut node), 1_000);
    assert_eq!(node.port().sent.len(), FRAMES);
    assert_eq!(counters.get(Count::Transmitted), FRAMES as u64);
    assert_eq!(counters.drops(DropReason::TxFull), (1_000 - FRAMES) as u64);
}
