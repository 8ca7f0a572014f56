//! A flood of 10 million SYNs from as many sources, through the real lookup and decision: it costs no
//! established flow its place.

mod frames;

use std::net::{IpAddr, Ipv4Addr};

use frames::tcp_flags::{ACK, SYN};
use frames::{HOST, OWN, SHARED, SHARED_LINK, VIP4, ip, ip_frame, tcp};
use vipdp_core::bucket::BucketSet;
use vipdp_core::decide::{Burst, Now};
use vipdp_core::flow::{FlowState, FlowTable, Inserted};
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::BURST;
use vipdp_core::processor::Portable;
use vipdp_core::snapshot::{Holdings, Ingress, Service, SharedMac, Snapshot, Vips};
use vipdp_core::verdict::{DropReason, Verdict};
use vipdp_core::wire::checksum::Checksum;
use vipdp_core::wire::protocol::TCP;

/// SYNs of the flood, each from an address of its own.
const SYNS: u32 = 10_000_000;
/// SYNs a second of simulated time.
const SYNS_PER_S: u32 = 1_000_000;
/// Flows that are established before, in a table that has room for four times as many.
const ESTABLISHED: u32 = 1 << 16;
const FLOWS_MAX: usize = 1 << 18;

/// First address of those who have a connection, and of the flood.
const CLIENTS: u32 = 0x0a00_0000;
const FLOOD: u32 = 0x6400_0000;

/// A node that owns everything.
struct Node {
    snapshot: Snapshot,
    flows: FlowTable,
    burst: Burst,
    /// The frames of a burst, in which only the source changes.
    frames: Vec<Vec<u8>>,
}

impl Node {
    fn new() -> Self {
        let service = Service::new(
            Vips::new([VIP4.into()]),
            ClientHash::new([7; 16], HashInput::Address),
            Ingress::SharedMac(SharedMac::unicast(SHARED)),
            OWN,
            HOST,
        );
        let snapshot = Snapshot::serving(service, Holdings::owning(&BucketSet::FULL));
        let flows = FlowTable::new(FLOWS_MAX, [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
        Self { snapshot, flows, burst: Burst::new(), frames: Vec::new() }
    }

    /// Lets a segment of each of `clients` arrive, burst by burst, at a time that depends on how many came
    /// before, and calls `heed` with each one's address and what became of it.
    fn receive(
        &mut self,
        clients: impl IntoIterator<Item = u32>,
        flags: u8,
        now_ns: impl Fn(u32) -> u64,
        mut heed: impl FnMut(u32, Verdict, Option<Inserted>),
    ) {
        let anybody = IpAddr::V4(Ipv4Addr::from_bits(CLIENTS));
        let frame = ip_frame(SHARED_LINK, &ip(anybody, VIP4.into(), TCP, &tcp(40_000, 53, flags)));
        self.frames = vec![frame; BURST];
        let mut clients = clients.into_iter().peekable();
        let mut arrived = 0;
        while clients.peek().is_some() {
            let now = Now::of_ns(now_ns(arrived));
            let mut sources = [0; BURST];
            let mut len = 0;
            let places = sources.iter_mut().zip(&mut self.frames);
            for ((source, frame), client) in places.zip(clients.by_ref()) {
                set_source(frame, client);
                *source = client;
                len += 1;
            }
            let frames = &self.frames;
            let frame = |at: usize| &*frames[at];
            self.burst.judge::<Portable>(&self.snapshot, &self.flows, now, len, 16, frame);
            for (&source, decision) in sources[..len].iter().zip(self.burst.decisions()) {
                heed(source, decision.verdict, decision.inserted);
            }
            arrived += len as u32;
        }
    }
}

/// Makes `client` the source of an IPv4 frame.
fn set_source(frame: &mut [u8], client: u32) {
    let header: &mut [u8; 20] = frame[14..].first_chunk_mut().unwrap();
    header[12..16].copy_from_slice(&client.to_be_bytes());
    header[10..12].fill(0);
    let checksum = Checksum::new().with(header).finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn ten_million_syns_displace_no_established_flow() {
    let mut node = Node::new();
    let at_start = |_| 1_000_000_000;
    let mut refused = 0_u32;
    node.receive(CLIENTS..CLIENTS + ESTABLISHED, SYN, at_start, |_, _, inserted| {
        refused += u32::from(inserted == Some(Inserted::Full));
    });
    assert_eq!(refused, 0, "there is nothing yet that would not give way");
    let mut established = Vec::new();
    node.receive(CLIENTS..CLIENTS + ESTABLISHED, ACK, at_start, |client, verdict, _| {
        if verdict == Verdict::Pass {
            established.push(client);
        }
    });
    // The rest was displaced by later SYNs before its handshake was through.
    assert!(established.len() > ESTABLISHED as usize * 99 / 100, "{}", established.len());

    let (mut entered, mut evicted, mut full) = (0, 0, 0);
    let in_the_flood = |arrived: u32| (2 + u64::from(arrived / SYNS_PER_S)) * 1_000_000_000;
    node.receive(FLOOD..FLOOD + SYNS, SYN, in_the_flood, |_, verdict, inserted| match inserted {
        Some(Inserted::New) => entered += 1,
        Some(Inserted::Evicted(state)) => {
            assert_eq!(state, FlowState::Embryonic);
            evicted += 1;
        }
        Some(Inserted::Full) => {
            assert_eq!(verdict, Verdict::Drop(DropReason::FlowTableFull));
            full += 1;
        }
        // Two of so many sources may share a key: one chance in a thousand million for each.
        Some(Inserted::Known(_)) => {}
        None => panic!("a SYN to a bucket of ours was not entered: {verdict:?}"),
    });
    assert!(entered + established.len() <= FLOWS_MAX);
    assert!(evicted > SYNS / 10 * 9, "{evicted} evictions: no flood");
    assert!(full > 0, "no line was full of established flows: nothing was refused for them");

    let end = Now::of_ns(in_the_flood(SYNS));
    let after = |_| in_the_flood(SYNS);
    let census = node.flows.census(end.seconds);
    assert_eq!(census.in_state(FlowState::Established), established.len());
    let mut passed = 0;
    node.receive(established.iter().copied(), ACK, after, |client, verdict, _| {
        assert_eq!(verdict, Verdict::Pass, "{}", Ipv4Addr::from_bits(client));
        passed += 1;
    });
    assert_eq!(passed, established.len());
}
