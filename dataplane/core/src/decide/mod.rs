//! The verdict on one packet, as a function of the snapshot, the flow table and the time.
//!
//! Two steps, so that a worker can run the first over a whole burst and pull all flows' cache lines
//! in before it starts on the second:
//!
//! ```text
//!   Parsed --lookup--> Lookup: settled already, or what to ask the flow table, and whose it is
//!          --decide--> Verdict
//! ```
//!
//! The rules differ by ingress mode, from the first byte on: a packet is [`shared_mac::Packet`],
//! [`tiered::Packet`] or [`anycast::Packet`].
//!
//! | | [`shared_mac`] | [`tiered`] | [`anycast`] with steering |
//! |---|---|---|---|
//! | who receives a frame | every node | one node: the router chose an address | one node: the network chose it |
//! | resource | the client's bucket | the address that the frame came by | the client's bucket |
//! | flow tracked here | pass | pass | pass |
//! | new, resource ours | pass | pass | pass |
//! | new, resource granted | forward to the taker | pass, until the taker has it | send on to the taker |
//! | resource not ours | drop | drop | send on to the owner |
//! | of a flow that began before | drop: another node has it and sees it | send on to who may have it | send on to who may have it |
//! | question for a VIP | answer if the asker's bucket is ours | never asked | never asked |
//! | question for a next-hop address | there is none | answer if it is ours | there is none |
//!
//! Without steering, a node of the `anycast` mode passes whatever comes.

pub mod anycast;
pub mod burst;
mod datagrams;
pub mod egress;
pub(crate) mod ordinary;
pub mod search;
pub mod shared_mac;
pub mod tiered;

pub use burst::{Burst, LookingUp};
pub use egress::{EgressVerdict, decide_egress};
pub use shared_mac::came_before;

use std::net::IpAddr;

use crate::bucket::Bucket;
use crate::flow::{FlowKey, FlowState, FlowTable, Inserted, Seconds};
use crate::parse::{Fragment, IpPacket, Parsed, Ports, TcpFlags};
use crate::snapshot::{Holding, Ingress, Service, Snapshot};
use crate::verdict::{DropReason, ReplyKind, Verdict};

/// The time of a burst, read once: the same instant in the two units that verdicts use.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic clock, nanoseconds: for the lease.
    pub ns: u64,
    /// The same in the flow table's seconds.
    pub seconds: Seconds,
}

impl Now {
    /// The instant `ns` nanoseconds into the monotonic clock.
    pub fn of_ns(ns: u64) -> Self {
        Self { ns, seconds: Seconds::of_ns(ns) }
    }
}

/// What [`lookup`] found out about a packet without the flow table.
#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    /// The verdict does not depend on anything else.
    Settled(Verdict),
    /// A question for a MAC address, answered by the owner of `bucket`.
    Question {
        /// In the shared-mac mode the asker's bucket, in the tiered mode the next-hop address that
        /// is asked for.
        bucket: Bucket,
        /// The answer's kind.
        reply: ReplyKind,
    },
    /// An IP packet to a VIP, in the shared-mac mode.
    SharedMac(shared_mac::Packet),
    /// An IP packet to a VIP, in the tiered mode.
    Tiered(tiered::Packet),
    /// An IP packet to a VIP, in the anycast mode with steering.
    Anycast(anycast::Packet),
    /// An IP packet to a VIP, in the anycast mode without.
    Unsteered,
}

impl Lookup {
    /// The flow whose cache line [`decide`] will read.
    #[inline(always)]
    pub fn flow(&self) -> Option<FlowKey> {
        match self {
            Self::SharedMac(packet) => packet.tracking.flow(),
            Self::Tiered(packet) => packet.tracking.flow(),
            Self::Anycast(packet) => packet.tracking.flow(),
            Self::Unsteered | Self::Settled(_) | Self::Question { .. } => None,
        }
    }
}

/// Finds out whose a packet is and the key of its flow: all the hashing there is.
pub fn lookup(service: &Service, flows: &FlowTable, parsed: &Parsed) -> Lookup {
    if parsed.vlan != service.vlan {
        return dropped(DropReason::WrongVlan);
    }
    match &service.ingress {
        Ingress::SharedMac(shared) => shared_mac::lookup(service, shared, flows, parsed),
        Ingress::Tiered(tiered) => tiered::lookup(service, tiered, flows, parsed),
        Ingress::Anycast(anycast) => anycast::lookup(service, anycast, flows, parsed),
    }
}

const fn dropped(reason: DropReason) -> Lookup {
    Lookup::Settled(Verdict::Drop(reason))
}

/// The hash of a client, and the key of its flow.
#[inline(always)]
fn flow_of(
    service: &Service,
    flows: &FlowTable,
    client: IpAddr,
    vip: IpAddr,
    protocol: u8,
    ports: Ports,
) -> (u64, FlowKey) {
    let hash = service.client_hash.hash(client, ports.src);
    (hash, flows.key(hash, ports.src, vip, ports.dst, protocol))
}

/// The key of the datagram that a fragment is of; `hash` is the client's.
#[inline]
fn fragment_key(flows: &FlowTable, hash: u64, packet: &IpPacket) -> Option<FlowKey> {
    match packet.fragment {
        Fragment::Whole => None,
        Fragment::First { id } | Fragment::Later { id } => {
            // In IPv6 the protocol is none of it (RFC 8200, section 4.5), and a later fragment
            // need not know it.
            let protocol = if packet.dst.is_ipv4() { packet.protocol } else { 0 };
            Some(flows.fragment_key(hash, packet.dst, protocol, id))
        }
    }
}

/// A verdict, and what it did to the flow table. As long as a vector, so that it is copied as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(16))]
pub struct Decision {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// What the flow table said to a new flow, if there was one.
    pub inserted: Option<Inserted>,
    /// The packet passes by its bucket, which was taken over so lately that a copy of it may come by
    /// another way: it is served unless [`came_before`] knows it.
    pub may_come_twice: Option<Bucket>,
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, inserted: None, may_come_twice: None }
    }
}

/// Decides what becomes of the packet that `lookup` describes.
#[inline(never)]
pub fn decide(snapshot: &Snapshot, flows: &FlowTable, now: Now, lookup: &Lookup) -> Decision {
    match lookup {
        Lookup::Settled(verdict) => (*verdict).into(),
        Lookup::Question { bucket, reply } => {
            decide_question(snapshot, now, *bucket, *reply).into()
        }
        Lookup::SharedMac(packet) => shared_mac::decide(snapshot, flows, now, packet),
        Lookup::Tiered(packet) => tiered::decide(snapshot, flows, now, packet),
        Lookup::Anycast(packet) => anycast::decide(snapshot, flows, now, packet),
        Lookup::Unsteered => anycast::decide_unsteered(snapshot, now),
    }
}

/// One node answers: the owner, and while it hands the bucket or address over, still the giver.
fn decide_question(snapshot: &Snapshot, now: Now, bucket: Bucket, reply: ReplyKind) -> Verdict {
    match snapshot.holdings.get(bucket) {
        Holding::Foreign => Verdict::Drop(DropReason::NotOwner),
        _ if now.ns > snapshot.lease_until_ns => Verdict::Drop(DropReason::LeaseExpired),
        Holding::Owned | Holding::TakenOver | Holding::Granted(_) => Verdict::Reply(reply),
    }
}

/// Whether a segment asks for a new connection.
const fn opens(flags: TcpFlags) -> bool {
    flags.syn && !flags.ack
}

/// The state that a segment by itself calls for.
const fn state_after(flags: TcpFlags) -> FlowState {
    if opens(flags) {
        FlowState::Embryonic
    } else if flags.fin || flags.rst {
        FlowState::Closing
    } else {
        FlowState::Established
    }
}

/// Enters a new flow and passes its packet. One that finds no room is dropped and comes again: without
/// an entry its second packet would be taken for a stranger's anyway.
///
/// A datagram is entered like a SYN: one does not displace what is older.
fn enter(flows: &FlowTable, now: Now, bucket: Bucket, key: FlowKey) -> Decision {
    let inserted = flows.insert(key, bucket, FlowState::Embryonic, now.seconds);
    let verdict = match inserted {
        Inserted::Full => Verdict::Drop(DropReason::FlowTableFull),
        _ => Verdict::Pass,
    };
    Decision { inserted: Some(inserted), ..verdict.into() }
}
