//! A worker that has the whole NIC, over ports in memory: what is vipdp's is decided, all else is the
//! host's, as it came and as it was sent.

mod frames;
#[path = "frames/near.rs"]
mod near;

use std::sync::Arc;

use frames::{HOST, OWN, PEER, ROUTER, SHARED};
use near::{TUNNEL4, VIPS, near_frame, tiered};
use proptest::prelude::*;
use vipdp_core::classify::is_ours;
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::BURST;
use vipdp_core::port::memory::{MemoryHost, MemoryPort};
use vipdp_core::slot::SLOTS;
use vipdp_core::snapshot::{Holdings, Ingress, Service, SharedMac, Snapshot, Vips};
use vipdp_core::verdict::DropReason;
use vipdp_core::wire::vnet::{Offload, PartialChecksum, SegmentedProtocol, Segments};
use vipdp_core::worker::{NicHost, Shared, Worker};

const FRAMES: usize = 256;

type Node = Worker<MemoryPort, MemoryHost>;

fn service(ingress: Ingress) -> Service {
    Service {
        peer_macs: [Some(PEER); SLOTS],
        ..Service::new(
            Vips::new(VIPS.map(|vip| vip.parse().unwrap())),
            ClientHash::new([7; 16], HashInput::Address),
            ingress,
            OWN,
            HOST,
        )
    }
}

/// A node of the shared-mac mode that owns nothing, or of the tiered mode.
fn node(ingress: Ingress) -> (Node, Arc<WorkerCounters>, Service) {
    let service = service(ingress);
    let snapshot = Snapshot::serving(service.clone(), Holdings::none());
    let shared = Shared::new(snapshot, FlowTable::new(1024, [1, 2]));
    let counters = Arc::<WorkerCounters>::default();
    let (port, host) = (MemoryPort::new(FRAMES), MemoryHost::default());
    let worker = Worker::new(port, host, shared, Arc::clone(&counters));
    let nic_host = NicHost { host: MemoryHost::default(), tunnel_end: Some(TUNNEL4) };
    (worker.with_nic_host(nic_host), counters, service)
}

fn shared_mac() -> Ingress {
    Ingress::SharedMac(SharedMac::unicast(SHARED))
}

fn poll(node: &mut Node) -> usize {
    let frames = node.poll_once(1_000_000_000_000);
    assert_eq!(node.port().held(), 0, "a frame was lost");
    frames
}

/// A frame of no service: of an EtherType that nobody knows.
fn foreign(number: u8) -> Vec<u8> {
    frames::frame(frames::Link { from: ROUTER, to: OWN, vlan: None }, 0x88b5, &[number; 60])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn each_frame_is_the_hosts_or_decided(
        frames in prop::collection::vec(near_frame(), 1..=BURST),
        is_tiered: bool,
    ) {
        let ingress = if is_tiered { Ingress::Tiered(tiered()) } else { shared_mac() };
        let (mut node, counters, service) = node(ingress);
        frames.iter().for_each(|frame| node.port_mut().arrive(frame));
        prop_assert_eq!(poll(&mut node), frames.len());
        let of_host: Vec<_> =
            frames.iter().filter(|frame| !is_ours(&service, Some(&TUNNEL4), frame)).collect();
        let left = &node.nic_host().unwrap().delivered;
        prop_assert_eq!(left.iter().collect::<Vec<_>>(), of_host);
        prop_assert_eq!(counters.get(Count::ToNicHost), left.len() as u64);
        // It owns nothing, so that it may only have dropped the others.
        let ours = frames.len() - left.len();
        prop_assert_eq!(counters.drops_total(), ours as u64);
        prop_assert!(node.host().delivered.is_empty() && node.port().sent.is_empty());
    }

    #[test]
    fn what_the_host_sends_leaves_as_it_is(
        frames in prop::collection::vec(near_frame(), 0..3 * BURST),
        room in 1..2 * BURST,
    ) {
        let (mut node, counters, _) = node(shared_mac());
        node.port_mut().limit_tx(room);
        let nic_host = node.nic_host_mut().unwrap();
        frames.iter().for_each(|frame| nic_host.send(frame.clone()));
        let mut turns = 0;
        while poll(&mut node) > 0 {
            turns += 1;
        }
        prop_assert_eq!(&node.port().sent, &frames);
        prop_assert_eq!(turns, frames.len().div_ceil(room.min(BURST)));
        prop_assert_eq!(counters.get(Count::FromNicHost), frames.len() as u64);
        prop_assert_eq!(counters.drops_total(), 0);
    }
}

#[test]
fn a_host_that_takes_no_more_loses_its_own_frames_and_no_service_is_touched() {
    let (mut node, counters, _) = node(shared_mac());
    node.nic_host_mut().unwrap().room = Some(1);
    for number in 0..3 {
        node.port_mut().arrive(&foreign(number));
    }
    assert_eq!(poll(&mut node), 3);
    assert_eq!(node.nic_host().unwrap().delivered, [foreign(0)]);
    assert_eq!(counters.drops(DropReason::NicHostFull), 2);
    assert_eq!(counters.drops_total(), 2);
}

#[test]
fn a_frame_that_the_host_left_unfinished_is_finished_or_dropped() {
    let (mut node, counters, _) = node(shared_mac());
    let frame = frames::ip_frame(
        frames::Link { from: OWN, to: ROUTER, vlan: None },
        &frames::ip("10.0.0.9".parse().unwrap(), "10.0.0.1".parse().unwrap(), 17, &{
            let mut datagram = frames::udp(1, 2, 5);
            // What a kernel leaves there: the sum of the pseudo-header (RFC 768).
            let sum = 10u16 * 256 + 9 + 10 * 256 + 1 + 17 + 13;
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            datagram
        }),
    );
    let partial = PartialChecksum { start: 34, offset: 6 };
    let segments = Segments { protocol: SegmentedProtocol::Udp, size: 2, headers_len: 42 };
    let nic_host = node.nic_host_mut().unwrap();
    let checksum = Some(partial);
    nic_host.outgoing.push_back((Offload { checksum, segments: None }, frame.clone()));
    nic_host.outgoing.push_back((Offload { checksum, segments: Some(segments) }, frame.clone()));
    nic_host.send(vec![0; 4_000]);
    assert_eq!(poll(&mut node), 3);
    let [sent] = &node.port().sent[..] else { panic!("{:?}", node.port().sent) };
    let headers = etherparse::PacketHeaders::from_ethernet_slice(sent).unwrap();
    let (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(udp)) =
        (headers.net, headers.transport.and_then(etherparse::TransportHeader::udp))
    else {
        panic!("no datagram");
    };
    let payload = &sent[42..47];
    assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, payload).unwrap());
    assert_eq!(counters.drops(DropReason::HostOffload), 1);
    assert_eq!(counters.drops(DropReason::TxTooLong), 1);
}
