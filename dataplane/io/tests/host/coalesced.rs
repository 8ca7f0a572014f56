//! Super-packets, in the kernel: a whole worker hands bursts over, and sockets read what arrived.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use etherparse::PacketBuilder;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use vipdp_core::anycast::Anycast;
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::parse::{Payload, parse};
use vipdp_core::port::memory::MemoryPort;
use vipdp_core::port::{BURST, Refused};
use vipdp_core::segment::Cut;
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::{Holdings, Ingress, Service, Snapshot, Vips};
use vipdp_core::wire::vnet::{Offload, PartialChecksum, SegmentedProtocol, Segments};
use vipdp_core::worker::{Shared, Worker};

use super::*;

const CLIENT_PORT: u16 = 40_000;

/// A worker that passes whatever is for a VIP.
struct Passer {
    worker: Worker<MemoryPort, TapQueue>,
    counters: Arc<WorkerCounters>,
    _guard: HostGuard,
}

impl Passer {
    /// To be called in the host's namespace.
    fn new(state: &Path, edit: impl FnOnce(&mut TapQueue)) -> Self {
        let (mut queue, guard) = apply(&plan(state));
        edit(&mut queue);
        let slot = Slot::new(0).unwrap();
        let service = Service::new(
            Vips::new(vips()),
            ClientHash::new([7; 16], HashInput::Address),
            Ingress::Anycast(Anycast { slot, cluster: 7, steering: None }),
            NIC_MAC,
            guard.tap().mac,
        );
        let snapshot = Snapshot::serving(service, Holdings::none());
        let shared = Shared::new(snapshot, FlowTable::new(1024, [1, 2]));
        let counters = Arc::<WorkerCounters>::default();
        let port = MemoryPort::new(BURST);
        let worker = Worker::new(port, queue, shared, Arc::clone(&counters));
        Self { worker, counters, _guard: guard }
    }

    /// Hands a burst to the host, which has processed it when this returns.
    fn burst(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.worker.port_mut().arrive(frame);
        }
        assert_eq!(self.worker.poll_once(1_000_000_000), frames.len());
    }
}

/// Payloads of `count` datagrams: all as long as each other, but the last.
fn payloads(count: usize) -> Vec<Vec<u8>> {
    let payload = |n: usize| {
        let len = if n + 1 == count { 333 } else { 1_000 };
        (0..len).map(|at| (n * 37 + at) as u8).collect()
    };
    (0..count).map(payload).collect()
}

fn datagrams(client: IpAddr, vip: IpAddr, payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let frame = |payload: &Vec<u8>| udp(NIC_MAC, (client, CLIENT_PORT), (vip, 53), payload);
    payloads.iter().map(frame).collect()
}

fn read_all(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2048];
    let mut read = || {
        let len = socket.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    };
    (0..count).map(|_| read()).collect()
}

#[test]
fn datagrams_of_a_super_packet_are_read_one_by_one() {
    let lab = Lab::new("codgram");
    let state = tempfile::tempdir().unwrap();
    lab.in_host(|| {
        let mut passer = Passer::new(state.path(), |_| {});
        let taken = passer.worker.host().super_packets();
        assert!(taken.tcp, "every kernel that vipdp runs on has it");
        for (vip, client) in VIPS.map(ip).into_iter().zip(CLIENTS.map(ip)) {
            let socket = udp_socket(vip);
            let before = passer.counters.get(Count::SuperPackets);
            passer.burst(&datagrams(client, vip, &payloads(20)));
            assert_eq!(read_all(&socket, 20), payloads(20), "{vip}");
            let super_packets = passer.counters.get(Count::SuperPackets) - before;
            assert_eq!(super_packets, u64::from(taken.udp), "{vip}");
        }
    });
}

/// What a worker does to a super-packet of the host's, for once received by a kernel, which verifies lengths
/// and checksums.
#[test]
fn datagrams_cut_from_a_super_packet_are_read_one_by_one() {
    let lab = Lab::new("cocut");
    let state = tempfile::tempdir().unwrap();
    lab.in_host(|| {
        let mut passer = Passer::new(state.path(), TapQueue::refuse_super_packets);
        for (vip, client) in VIPS.map(ip).into_iter().zip(CLIENTS.map(ip)) {
            let socket = udp_socket(vip);
            let whole = udp(NIC_MAC, (client, CLIENT_PORT), (vip, 53), &payloads(20).concat());
            let parsed = parse(&whole).unwrap();
            let Payload::Ip(packet) = &parsed.payload else { panic!("{parsed:?}") };
            let segments =
                Segments { protocol: SegmentedProtocol::Udp, size: 1_000, headers_len: 0 };
            let network = usize::from(parsed.network_offset);
            let cut = Cut::new(&whole, network, packet, segments).unwrap();
            let frame = |n: usize| {
                let mut frame = vec![0; cut.frame_len(n)];
                cut.emit(n, &mut frame);
                frame
            };
            passer.burst(&(0..cut.count()).map(frame).collect::<Vec<_>>());
            assert_eq!(read_all(&socket, 20), payloads(20), "{vip}");
        }
        assert_eq!(passer.counters.get(Count::SuperPackets), 0);
    });
}

#[test]
fn datagrams_of_a_super_packet_are_read_together_by_who_wants_that() {
    let lab = Lab::new("cogro");
    let state = tempfile::tempdir().unwrap();
    lab.in_host(|| {
        let mut passer = Passer::new(state.path(), |_| {});
        let super_packets = passer.worker.host().super_packets();
        for (vip, client) in VIPS.map(ip).into_iter().zip(CLIENTS.map(ip)) {
            let socket = udp_socket(vip);
            setsockopt(&socket, sockopt::UdpGroSegment, &true).unwrap();
            passer.burst(&datagrams(client, vip, &payloads(20)));
            let mut read = Vec::new();
            while read.len() < 20 {
                let mut buffer = vec![0; 65_536];
                let mut control = cmsg_space!(i32);
                let mut slices = [IoSliceMut::new(&mut buffer)];
                let flags = MsgFlags::empty();
                let message =
                    recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags);
                let message = message.unwrap();
                let size = message.cmsgs().unwrap().find_map(|one| match one {
                    ControlMessageOwned::UdpGroSegments(size) => Some(size as usize),
                    _ => None,
                });
                assert_eq!(size.is_some(), super_packets.udp, "{vip}");
                let len = message.bytes;
                read.extend(buffer[..len].chunks(size.unwrap_or(len)).map(<[u8]>::to_vec));
            }
            assert_eq!(read, payloads(20), "{vip}");
        }
    });
}

#[test]
fn what_arrives_corrupted_is_not_read_and_what_surrounds_it_is() {
    let lab = Lab::new("cobad");
    let state = tempfile::tempdir().unwrap();
    lab.in_host(|| {
        let mut passer = Passer::new(state.path(), |_| {});
        for (vip, client) in VIPS.map(ip).into_iter().zip(CLIENTS.map(ip)) {
            let socket = udp_socket(vip);
            let mut frames = datagrams(client, vip, &payloads(20));
            let mut expected = payloads(20);
            for bad in [17, 16, 9, 0] {
                *frames[bad].last_mut().unwrap() ^= 1;
                expected.remove(bad);
            }
            passer.burst(&frames);
            assert_eq!(read_all(&socket, 16), expected, "{vip}");
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut [0; 2048]).is_err(), "{vip}: one more");
        }
    });
}

#[test]
fn a_stream_in_super_packets_is_read_byte_for_byte() {
    let lab = Lab::new("cotcp");
    let state = tempfile::tempdir().unwrap();
    let wire = lab.wire();
    lab.in_host(|| {
        let mut passer = Passer::new(state.path(), |_| {});
        for (vip, client) in VIPS.map(ip).into_iter().zip(CLIENTS.map(ip)) {
            let listener = TcpListener::bind((vip, 80)).unwrap();
            let (from, to) = ((client, CLIENT_PORT), (vip, 80));
            passer.burst(&[tcp(NIC_MAC, from, to, 1_000, None)]);
            let syn_ack = |frame: &[u8]| packet(frame).and_then(|one| one.syn_ack);
            let frames = wire.frames_until("SYN-ACK", |frame| syn_ack(frame).is_some());
            let acknowledged = syn_ack(frames.last().unwrap()).unwrap().wrapping_add(1);
            let mut sequence = 1_001;
            let mut frames = vec![tcp(NIC_MAC, from, to, sequence, Some(acknowledged))];
            for payload in payloads(20) {
                frames.push(segment(from, to, sequence, acknowledged, &payload));
                sequence += payload.len() as u32;
            }
            let before = passer.counters.get(Count::SuperPackets);
            passer.burst(&frames);
            assert_eq!(passer.counters.get(Count::SuperPackets) - before, 1);
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let expected = payloads(20).concat();
            let mut read = vec![0; expected.len()];
            stream.read_exact(&mut read).unwrap();
            assert!(read == expected, "{vip}: other bytes than were sent");
        }
    });
}

/// A segment with data.
fn segment(
    (client, client_port): (IpAddr, u16),
    (vip, port): (IpAddr, u16),
    sequence: u32,
    acknowledged: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], NIC_MAC.0);
    let step = match (client, vip) {
        (IpAddr::V4(from), IpAddr::V4(to)) => step.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => step.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{client} and {vip} are of different families"),
    };
    let step = step.tcp(client_port, port, sequence, 65_000).ack(acknowledged);
    step.write(&mut frame, payload).unwrap();
    frame
}

#[test]
fn a_tap_that_is_to_take_none_gets_datagrams_one_by_one() {
    let lab = Lab::new("cooff");
    let state = tempfile::tempdir().unwrap();
    lab.in_host(|| {
        let mut passer = Passer::new(state.path(), TapQueue::refuse_super_packets);
        let (vip, client) = (ip(VIPS[0]), ip(CLIENTS[0]));
        let socket = udp_socket(vip);
        passer.burst(&datagrams(client, vip, &payloads(20)));
        assert_eq!(read_all(&socket, 20), payloads(20));
        assert_eq!(passer.counters.get(Count::SuperPackets), 0);
        assert_eq!(passer.counters.get(Count::Passed), 20);
    });
}

/// Which is what makes the worker hand the frames over one by one.
#[test]
fn a_super_packet_that_the_kernel_does_not_like_is_told_from_a_full_queue() {
    let lab = Lab::new("corefuse");
    let state = tempfile::tempdir().unwrap();
    lab.in_host(|| {
        let (mut queue, guard) = apply(&plan(state.path()));
        let (vip, client) = (ip(VIPS[0]), ip(CLIENTS[0]));
        let frame = udp(guard.tap().mac, (client, CLIENT_PORT), (vip, 53), &[0; 500]);
        let segments = Segments { protocol: SegmentedProtocol::Udp, size: 100, headers_len: 42 };
        // A checksum behind the frame's end.
        let checksum = Some(PartialChecksum { start: 5_000, offset: 6 });
        let offload = Offload { checksum, segments: Some(segments) };
        assert_eq!(queue.deliver(offload, &[&frame]), Err(Refused::TooLong));
    });
}
