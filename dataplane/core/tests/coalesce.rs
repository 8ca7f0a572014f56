//! Runs of one flow within a burst: what the host gets of them.
//!
//! Bursts run through a whole worker, which passes everything, and what the host is given is cut up again
//! as Linux would ([`coalesce_kernel`]): there must be what arrived, byte for byte, each flow in its
//! order.

mod coalesce_kernel;
mod frames;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use coalesce_kernel::unfold;
use etherparse::{
    IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};
use frames::{HOST, OWN, ROUTER, VIP4, VIP6};
use proptest::prelude::*;
use vipdp_core::anycast::Anycast;
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::memory::{MemoryHost, MemoryPort};
use vipdp_core::port::{BURST, SuperPackets};
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::{Holdings, Ingress, Service, Snapshot, Vips};
use vipdp_core::verdict::DropReason;
use vipdp_core::wire::vnet::Offload;
use vipdp_core::worker::{Shared, Worker};

const NOW_NS: u64 = 1_000_000_000;
const BOTH: SuperPackets = SuperPackets { tcp: true, udp: true };

/// A worker that passes whatever is for a VIP.
struct Node {
    worker: Worker<MemoryPort, MemoryHost>,
    counters: Arc<WorkerCounters>,
}

impl Node {
    fn new(super_packets: SuperPackets, vlan: Option<u16>) -> Self {
        let slot = Slot::new(0).unwrap();
        let service = Service {
            vlan,
            ..Service::new(
                Vips::new([VIP4.into(), VIP6.into()]),
                ClientHash::new([7; 16], HashInput::Address),
                Ingress::Anycast(Anycast { slot, cluster: 1, steering: None }),
                OWN,
                HOST,
            )
        };
        let snapshot =
            Snapshot { lease_until_ns: NOW_NS, ..Snapshot::serving(service, Holdings::none()) };
        let counters = Arc::<WorkerCounters>::default();
        let shared = Shared::new(snapshot, FlowTable::new(1024, [1, 2]));
        let host = MemoryHost { super_packets, ..MemoryHost::default() };
        let worker = Worker::new(MemoryPort::new(BURST), host, shared, Arc::clone(&counters));
        Self { worker, counters }
    }

    /// Lets a burst arrive, and gives what the host was handed for it.
    fn burst(&mut self, frames: &[Vec<u8>]) -> Vec<(Offload, Vec<u8>)> {
        for frame in frames {
            self.worker.port_mut().arrive(frame);
        }
        assert_eq!(self.worker.poll_once(NOW_NS), frames.len());
        assert_eq!(self.worker.port().held(), 0, "a frame was lost");
        let host = self.worker.host_mut();
        host.offloads.drain(..).zip(host.delivered.drain(..)).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// What is wrong with a packet, or unusual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Oddity {
    None,
    BadChecksum,
    NoChecksum,
    IpOptions,
    Fragment,
    MayBeFragmented,
    OtherHops,
    OtherClass,
    OtherLabel,
    Push,
    Finish,
    OtherWindow,
    OtherAcknowledgement,
    OtherOptions,
    LostSegment,
    Padded,
}

/// One packet to be made.
#[derive(Clone, Copy, Debug)]
struct Spec {
    client: u8,
    is_v4: bool,
    transport: Transport,
    payload_len: usize,
    oddity: Oddity,
}

const PLAIN: Spec = Spec {
    client: 1,
    is_v4: true,
    transport: Transport::Udp,
    payload_len: 100,
    oddity: Oddity::None,
};

/// Makes the frames of a burst: of each flow, identifications and sequence numbers go on from one packet
/// to the next.
fn frames_of(specs: &[Spec], vlan: Option<u16>) -> Vec<Vec<u8>> {
    let mut sequences = [0xffff_ff00_u32; 16];
    let mut frames = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let flow = usize::from(spec.client) * 2 + usize::from(spec.is_v4);
        let payload: Vec<u8> = (0..spec.payload_len).map(|at| (n * 31 + at * 7) as u8).collect();
        if spec.oddity == Oddity::LostSegment {
            sequences[flow] = sequences[flow].wrapping_add(1);
        }
        let segment = match spec.transport {
            Transport::Udp => datagram(spec, &payload),
            Transport::Tcp => segment(spec, sequences[flow], &payload),
        };
        if spec.transport == Transport::Tcp {
            sequences[flow] = sequences[flow].wrapping_add(payload.len() as u32);
        }
        let link = frames::Link { from: ROUTER, to: OWN, vlan };
        let mut frame = frames::ip_frame(link, &packet(spec, 0xfff0 + n as u32, &segment));
        if spec.oddity == Oddity::Padded {
            frame.extend([0; 6]);
        }
        frames.push(frame);
    }
    frames
}

fn client4(spec: &Spec) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, spec.client)
}

fn client6(spec: &Spec) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, spec.client.into())
}

fn datagram(spec: &Spec, payload: &[u8]) -> Vec<u8> {
    let mut header = UdpHeader::without_ipv4_checksum(40_000, 53, payload.len()).unwrap();
    header.checksum = if spec.is_v4 {
        let (src, dst) = (client4(spec).octets(), VIP4.octets());
        header.calc_checksum_ipv4_raw(src, dst, payload).unwrap()
    } else {
        let (src, dst) = (client6(spec).octets(), VIP6.octets());
        header.calc_checksum_ipv6_raw(src, dst, payload).unwrap()
    };
    match spec.oddity {
        Oddity::BadChecksum => header.checksum ^= 0x0100,
        Oddity::NoChecksum => header.checksum = 0,
        _ => {}
    }
    [&header.to_bytes()[..], payload].concat()
}

fn segment(spec: &Spec, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(40_000, 53, sequence, 1_000);
    header.ack = true;
    header.acknowledgment_number = 77;
    header.psh = spec.oddity == Oddity::Push;
    header.fin = spec.oddity == Oddity::Finish;
    let stamp = if spec.oddity == Oddity::OtherOptions { 8 } else { 9 };
    header.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, stamp, 0, 0, 0, 1]).unwrap();
    match spec.oddity {
        Oddity::OtherWindow => header.window_size = 999,
        Oddity::OtherAcknowledgement => header.acknowledgment_number = 78,
        _ => {}
    }
    header.checksum = if spec.is_v4 {
        let (src, dst) = (client4(spec).octets(), VIP4.octets());
        header.calc_checksum_ipv4_raw(src, dst, payload).unwrap()
    } else {
        let (src, dst) = (client6(spec).octets(), VIP6.octets());
        header.calc_checksum_ipv6_raw(src, dst, payload).unwrap()
    };
    if spec.oddity == Oddity::BadChecksum {
        header.checksum ^= 0x0100;
    }
    [&header.to_bytes()[..], payload].concat()
}

fn packet(spec: &Spec, id: u32, segment: &[u8]) -> Vec<u8> {
    let protocol = match spec.transport {
        Transport::Udp => IpNumber::UDP,
        Transport::Tcp => IpNumber::TCP,
    };
    let hops = if spec.oddity == Oddity::OtherHops { 63 } else { 64 };
    let class = if spec.oddity == Oddity::OtherClass { 3 } else { 0 };
    if !spec.is_v4 {
        let label = u32::from(spec.oddity == Oddity::OtherLabel);
        let options = spec.oddity == Oddity::IpOptions;
        let extension: &[u8] = if options { &[protocol.0, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
        let header = Ipv6Header {
            traffic_class: class,
            flow_label: Ipv6FlowLabel::try_new(label).unwrap(),
            payload_length: (extension.len() + segment.len()) as u16,
            next_header: if options { IpNumber::IPV6_DESTINATION_OPTIONS } else { protocol },
            hop_limit: hops,
            source: client6(spec).octets(),
            destination: VIP6.octets(),
        };
        return [&header.to_bytes()[..], extension, segment].concat();
    }
    let (src, dst) = (client4(spec).octets(), VIP4.octets());
    let mut header = Ipv4Header::new(segment.len() as u16, hops, protocol, src, dst).unwrap();
    header.dscp = etherparse::IpDscp::try_new(class).unwrap();
    header.identification = id as u16;
    match spec.oddity {
        Oddity::IpOptions => header.options = Ipv4Options::from([1, 1, 1, 0]),
        Oddity::Fragment => (header.dont_fragment, header.more_fragments) = (false, true),
        Oddity::MayBeFragmented => header.dont_fragment = false,
        _ => {}
    }
    header.set_payload_len(segment.len()).unwrap();
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], segment].concat()
}

/// What of an arriving frame the host is to get: addressed to it, without tag and padding, and without an
/// identification where that says nothing.
fn as_the_host_gets_it(frame: &[u8], vlan: Option<u16>) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if vlan.is_some() {
        frame.drain(12..16);
    }
    frame[..6].copy_from_slice(&HOST.0);
    comparable(frame)
}

fn comparable(mut frame: Vec<u8>) -> Vec<u8> {
    let number = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let len = if frame[12..14] == [8, 0] { 14 + number(16) } else { 54 + number(18) };
    frame.truncate(len);
    if frame[12..14] == [8, 0] && frame[20] & 0x40 != 0 {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

/// The flow of a frame as the host gets it. Fragments, which may be of any, have none.
fn flow(frame: &[u8]) -> Option<(IpAddr, u8)> {
    if frame[12..14] == [8, 0] {
        let src = Ipv4Addr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap());
        let is_fragment = frame[20] & 0x20 != 0;
        return (!is_fragment).then_some((src.into(), frame[23]));
    }
    let src = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap());
    let protocol = if frame[20] == 60 { frame[54] } else { frame[20] };
    Some((src.into(), protocol))
}

/// The frames of each flow, all fragments among them, in their order.
fn by_flow(frames: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let mut flows: Vec<_> = frames.iter().filter_map(|frame| flow(frame)).collect();
    flows.sort();
    flows.dedup();
    let of = |wanted| {
        let frames = frames.iter().filter(|frame| flow(frame).is_none_or(|flow| flow == wanted));
        frames.cloned().collect()
    };
    flows.into_iter().map(of).collect()
}

fn spec(flows: u8) -> impl Strategy<Value = Spec> {
    use Oddity::*;
    let common = Just(None);
    let odd = prop::sample::select(vec![
        BadChecksum,
        NoChecksum,
        IpOptions,
        Fragment,
        MayBeFragmented,
        OtherHops,
        OtherClass,
        OtherLabel,
        Push,
        Finish,
        OtherWindow,
        OtherAcknowledgement,
        OtherOptions,
        LostSegment,
        Padded,
    ]);
    let payload_len =
        prop_oneof![6 => Just(100usize), 1 => Just(99), 1 => Just(101), 1 => 0..1400usize];
    let transport = prop::sample::select(vec![Transport::Udp, Transport::Tcp]);
    (0..flows, any::<bool>(), transport, payload_len, prop_oneof![3 => common, 1 => odd]).prop_map(
        |(client, is_v4, transport, payload_len, oddity)| {
            // What a packet of this kind can be.
            let oddity = match oddity {
                NoChecksum if !is_v4 || transport == Transport::Tcp => None,
                Fragment | MayBeFragmented if !is_v4 => None,
                oddity => oddity,
            };
            // A fragment that is not the last one has a multiple of 8 bytes.
            let header_len = if transport == Transport::Udp { 8 } else { 32 };
            let whole = (payload_len + header_len) / 8 * 8;
            let payload_len =
                if oddity == Fragment { whole.max(40) - header_len } else { payload_len };
            Spec { client, is_v4, transport, payload_len, oddity }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn the_host_gets_what_arrived_each_flow_in_its_order(
        bursts in prop::collection::vec(prop::collection::vec(spec(3), 1..=BURST), 1..4),
        vlan in prop::option::of(Just(9)),
        tcp: bool,
        udp: bool,
    ) {
        let mut node = Node::new(SuperPackets { tcp, udp }, vlan);
        for specs in bursts {
            let arriving = frames_of(&specs, vlan);
            let delivered = node.burst(&arriving);
            for (offload, _) in &delivered {
                if let Some(segments) = offload.segments {
                    let is_udp = segments.protocol == vipdp_core::wire::vnet::SegmentedProtocol::Udp;
                    prop_assert!(if is_udp { udp } else { tcp }, "not what this host takes");
                }
            }
            let unfolded: Vec<_> = delivered
                .iter()
                .flat_map(|(offload, frame)| unfold(*offload, frame))
                .map(comparable)
                .collect();
            let expected: Vec<_> =
                arriving.iter().map(|frame| as_the_host_gets_it(frame, vlan)).collect();
            prop_assert_eq!(unfolded.len(), expected.len());
            prop_assert_eq!(by_flow(&unfolded), by_flow(&expected));
        }
    }

    /// The rules once more, without a table, a flow at a time: runs are as long as they may be.
    #[test]
    fn runs_are_as_long_as_they_may_be(
        mut specs in prop::collection::vec(spec(1), 1..=BURST),
        is_v4: bool,
        is_tcp: bool,
    ) {
        for spec in &mut specs {
            spec.is_v4 = is_v4;
            spec.transport = if is_tcp { Transport::Tcp } else { Transport::Udp };
            if matches!(spec.oddity, Oddity::Fragment | Oddity::MayBeFragmented | Oddity::NoChecksum) {
                spec.oddity = Oddity::None;
            }
        }
        let delivered = Node::new(BOTH, None).burst(&frames_of(&specs, None));
        let counts: Vec<_> =
            delivered.iter().map(|(offload, frame)| unfold(*offload, frame).len()).collect();
        prop_assert_eq!(counts, runs_by_the_rules(&specs));
    }
}

/// The lengths of the runs of one flow.
fn runs_by_the_rules(specs: &[Spec]) -> Vec<usize> {
    use Oddity::*;
    let mut runs: Vec<&[Spec]> = Vec::new();
    let mut start = 0;
    for end in 1..=specs.len() {
        let run = &specs[start..end];
        let is_tcp = run[0].transport == Transport::Tcp;
        let can_be_in_one = |spec: &Spec| {
            let ends_alone = matches!(spec.oddity, BadChecksum | IpOptions);
            spec.payload_len > 0 && !ends_alone && !(is_tcp && spec.oddity == Finish)
        };
        let first = run[0];
        let class = |spec: &Spec| match spec.oddity {
            OtherHops | OtherClass => spec.oddity,
            OtherLabel if !spec.is_v4 => spec.oddity,
            OtherWindow | OtherAcknowledgement | OtherOptions if is_tcp => spec.oddity,
            _ => None,
        };
        let (followers, leaders) = (&run[1..], &run[..run.len() - 1]);
        let follows = |spec: &Spec| {
            let is_next = !(is_tcp && spec.oddity == LostSegment);
            is_next && class(spec) == class(&first) && spec.payload_len <= first.payload_len
        };
        let may_lead =
            |spec: &Spec| spec.payload_len == first.payload_len && !(is_tcp && spec.oddity == Push);
        let headers_len = if first.is_v4 { 20 } else { 40 } + if is_tcp { 32 } else { 8 };
        let len: usize = headers_len + run.iter().map(|spec| spec.payload_len).sum::<usize>();
        let is_run = run.len() == 1
            || run.iter().all(can_be_in_one)
                && followers.iter().all(follows)
                && leaders.iter().all(may_lead)
                && len <= 65_535;
        if !is_run {
            runs.push(&specs[start..end - 1]);
            start = end - 1;
        }
    }
    runs.push(&specs[start..]);
    runs.iter().map(|run| run.len()).collect()
}

#[test]
fn a_burst_of_one_flow_is_one_super_packet() {
    for (is_v4, transport) in [
        (true, Transport::Udp),
        (false, Transport::Udp),
        (true, Transport::Tcp),
        (false, Transport::Tcp),
    ] {
        let spec = Spec { is_v4, transport, ..PLAIN };
        let mut node = Node::new(BOTH, None);
        let arriving = frames_of(&[spec; BURST], None);
        let delivered = node.burst(&arriving);
        assert_eq!(delivered.len(), 1, "{spec:?}");
        let (offload, frame) = &delivered[0];
        let unfolded: Vec<_> = unfold(*offload, frame).into_iter().map(comparable).collect();
        let expected: Vec<_> =
            arriving.iter().map(|frame| as_the_host_gets_it(frame, None)).collect();
        assert_eq!(unfolded, expected);
        assert_eq!(node.counters.get(Count::Passed), BURST as u64);
        assert_eq!(node.counters.get(Count::Coalesced), BURST as u64);
        assert_eq!(node.counters.get(Count::SuperPackets), 1);
    }
}

#[test]
fn a_super_packet_is_not_longer_than_an_ip_packet_may_be() {
    for is_v4 in [true, false] {
        let spec = Spec { is_v4, payload_len: 1_400, ..PLAIN };
        let delivered = Node::new(BOTH, None).burst(&frames_of(&[spec; BURST], None));
        let counts: Vec<_> =
            delivered.iter().map(|(offload, frame)| unfold(*offload, frame).len()).collect();
        assert_eq!(counts, [46, 18]);
    }
}

#[test]
fn flows_that_alternate_have_runs_of_their_own() {
    let specs: Vec<_> = (0..BURST).map(|n| Spec { client: n as u8 % 2, ..PLAIN }).collect();
    let delivered = Node::new(BOTH, None).burst(&frames_of(&specs, None));
    assert_eq!(delivered.len(), 2);
}

#[test]
fn a_host_that_takes_none_gets_single_frames() {
    for super_packets in [SuperPackets::NONE, SuperPackets { tcp: true, udp: false }] {
        let mut node = Node::new(super_packets, None);
        assert_eq!(node.burst(&frames_of(&[PLAIN; 5], None)).len(), 5);
        assert_eq!(node.counters.get(Count::SuperPackets), 0);
    }
}

#[test]
fn a_full_host_loses_all_of_a_super_packet() {
    let mut node = Node::new(BOTH, None);
    node.worker.host_mut().room = Some(0);
    assert_eq!(node.burst(&frames_of(&[PLAIN; 5], None)), []);
    assert_eq!(node.counters.drops(DropReason::HostFull), 5);
    assert_eq!(node.counters.get(Count::Passed), 0);
}

#[test]
fn a_host_that_refuses_a_super_packet_gets_its_frames_as_they_came() {
    let mut node = Node::new(BOTH, None);
    node.worker.host_mut().refuses_super_packets = true;
    let arriving = frames_of(&[PLAIN; 5], None);
    let delivered = node.burst(&arriving);
    let expected: Vec<_> = arriving.iter().map(|frame| as_the_host_gets_it(frame, None)).collect();
    let delivered: Vec<_> = delivered
        .into_iter()
        .map(|(offload, frame)| {
            assert_eq!(offload, Offload::default());
            comparable(frame)
        })
        .collect();
    assert_eq!(delivered, expected);
    assert_eq!(node.counters.get(Count::Passed), 5);
    assert_eq!(node.counters.get(Count::SuperPackets), 0);
}
