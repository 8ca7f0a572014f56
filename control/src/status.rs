//! What a running node tells about itself: `vipdp status`.
//!
//! `vipdp status --json` prints a [`Status`] as one JSON object. The names of the fields below are
//! the names in JSON; all names of states are lower-case. Within one [`FORMAT`], fields are added
//! but never renamed, removed or given another meaning, so a reader ignores what it does not know.
//! Times and counts are integers, in the unit that the name ends with; counts start at zero with
//! the process. Maps from names to counts list every name, those with zero too.

mod render;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The number of the JSON format.
pub const FORMAT: u32 = 1;

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// What a running node tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`FORMAT`].
    pub format: u32,
    /// The node.
    pub node: NodeStatus,
    /// The members of the cluster, this node too, in ascending order of their slots.
    pub members: Vec<MemberStatus>,
    /// Who owns what, as this node knows it.
    pub buckets: BucketStatus,
    /// The next-hop addresses, in the order of their numbers; none in the shared-mac mode.
    #[serde(default)]
    pub addresses: Vec<AddressStatus>,
    /// The service addresses and prefixes.
    pub vips: Vec<String>,
    /// The routes to the VIPs that this node announces; `null` but in the anycast mode.
    #[serde(default)]
    pub routes: Option<RoutesStatus>,
    /// The checks of the local service, in the order of the configuration.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
    /// The NIC.
    pub interface: InterfaceStatus,
    /// What the XDP program decides by itself; `null` with `offload = "off"`.
    #[serde(default)]
    pub offload: Option<OffloadStatus>,
    /// The workers, in ascending order of their queues.
    pub workers: Vec<WorkerStatus>,
    /// The flow table.
    pub flows: FlowStatus,
    /// Heartbeats.
    pub heartbeats: HeartbeatStatus,
    /// Snapshots handed to the workers.
    pub snapshots: SnapshotStatus,
    /// Requests on the admin socket.
    pub admin: AdminStatus,
}

/// The node that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its slot.
    pub slot: u8,
    /// The version of vipdp that runs.
    pub version: String,
    /// How long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// What it is doing.
    pub state: NodeState,
    /// Whether it is ready to own buckets: its data plane makes progress, its checks are all up, and
    /// it is not drained.
    pub willing: bool,
    /// How long it may still accept new flows unless its control thread renews that, in
    /// milliseconds; 0 when the lease has run out.
    pub lease_ms_left: u64,
    /// Whether the router is reached; `null` unless `partition = "gateway"`.
    #[serde(default)]
    pub gateway: Option<GatewayState>,
    /// Whether nodes serve that are not willing, since none is that could (`all_down = "serve"`).
    #[serde(default)]
    pub all_down: bool,
    /// The ingress mode: `shared-mac`, `tiered` or `anycast`.
    pub mode: String,
    /// The cluster's id.
    pub cluster_id: u16,
    /// The generation of the cluster's file that the node goes by.
    pub generation: u32,
    /// The generation that it has staged, to go by once all live members have it.
    #[serde(default)]
    pub staged_generation: Option<u32>,
    /// The hash of what all nodes must agree on: the first 8 of the digits that `vipdp check` shows.
    pub config_hash: String,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Hearing who is there, since its start. Owns nothing.
    Listen,
    /// Serving.
    Active,
    /// Cut off from the others, and so not serving.
    Fenced,
    /// Giving away what it owns, or done with that, by order of an operator.
    Draining,
}

/// Whether the router is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayState {
    /// It has answered within the detection time.
    Reached,
    /// It has not: the node is fenced.
    Unreached,
}

/// A member of the cluster, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its slot.
    pub slot: u8,
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub state: MemberState,
    /// How much of what the assignment gives it the member is ready to take: 0 when it is drained,
    /// 255 when it takes all.
    pub share: u8,
    /// How many buckets it owns: of next-hop addresses, in the tiered mode.
    pub buckets: u32,
    /// Its own address: where its heartbeats come from, or the configured one; if known.
    pub address: Option<IpAddr>,
    /// Its own MAC address, if known, as `aa:bb:cc:dd:ee:ff`.
    pub mac: Option<String>,
    /// How long ago it was heard directly, in milliseconds; `None` for this node and for members
    /// that were never heard.
    pub last_heard_ms: Option<u64>,
}

/// Whether a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// The answering node.
    #[serde(rename = "self")]
    Own,
    /// Heard directly.
    Alive,
    /// Not heard directly, but by another member.
    Relayed,
    /// No longer heard by anybody.
    Dead,
    /// Never heard.
    Unseen,
}

/// Who owns what. In the tiered mode bucket r is next-hop address r, and there are as many as
/// addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketStatus {
    /// How many buckets the answering node owns.
    pub owned: u32,
    /// How many buckets nobody owns.
    pub unowned: u32,
    /// The owner's slot of each bucket, in ascending order of the buckets; `null` where nobody
    /// owns it.
    pub owners: Vec<Option<u8>>,
}

/// A next-hop address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// Its number.
    pub index: u16,
    /// The IPv4 address of this number, if there is one.
    pub ip4: Option<Ipv4Addr>,
    /// The IPv6 address of this number, if there is one.
    pub ip6: Option<Ipv6Addr>,
    /// What it resolves to: with `mac = "node"` the owner's own, if known.
    pub mac: Option<String>,
    /// The owner's slot; `null` where nobody owns it.
    pub owner: Option<u8>,
}

/// The routes to the VIPs that lead to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesStatus {
    /// By what means they are announced: `bgp` or `interface`.
    pub by: String,
    /// Whether they are announced.
    pub state: RoutesState,
    /// Why they are not announced, or only marked; `null` if they are announced.
    pub reason: Option<String>,
    /// The BGP peers, in the order of the configuration; none with `interface`.
    pub peers: Vec<BgpPeerStatus>,
}

/// Whether routes are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoutesState {
    /// They are.
    Announced,
    /// They are, with a mark that makes routers prefer others (RFC 8326).
    Marked,
    /// They are not.
    Withdrawn,
}

/// A BGP peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpPeerStatus {
    /// Its address or interface, as it is configured.
    pub name: String,
    /// Where it is, with its port; `null` while a peer on an interface is not found.
    pub remote: Option<String>,
    /// Its autonomous system, once it has said it.
    pub remote_as: Option<u32>,
    /// The state of the session, as RFC 4271 calls it: `Idle`, `Active`, `Connect`, `OpenSent`,
    /// `OpenConfirm` or `Established`.
    pub state: String,
    /// How long the state has lasted, in milliseconds.
    pub since_ms: u64,
    /// How many IPv4 routes it was told.
    pub announced_v4: u64,
    /// How many IPv6 routes it was told.
    pub announced_v6: u64,
    /// The hold time of the session, in seconds; `null` unless it is established.
    pub hold_s: Option<u16>,
    /// How often the session came up.
    pub established: u64,
    /// How often it went down after that.
    pub dropped: u64,
    /// Its updates, all of which are ignored.
    pub updates_in: u64,
    /// The newest reason to end a session, or not to have one; `null` if there was none.
    pub last_error: Option<String>,
    /// How long ago that was, in milliseconds; `null` of one that lasts.
    pub last_error_ms: Option<u64>,
    /// Its BFD session; `null` if it has none, or is not found.
    pub bfd: Option<BfdStatus>,
}

/// A BFD session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdStatus {
    /// Its state: `admin-down`, `down`, `init` or `up` (RFC 5880, section 6.1).
    pub state: String,
    /// How long the state has lasted, in milliseconds.
    pub since_ms: u64,
    /// Why it was last not up.
    pub diagnostic: String,
    /// After how long a silence the peer is taken for dead, in milliseconds; 0 while nothing was heard
    /// from it.
    pub detection_ms: u64,
    /// Packets that were not heard: malformed, from beyond the link, or of another session.
    pub rejected: u64,
}

/// A check of the local service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name.
    pub name: String,
    /// Its kind: `tcp`, `http`, `dns` or `command`.
    pub kind: String,
    /// What is thought of the service.
    pub state: CheckState,
    /// How long the state has lasted, in milliseconds.
    pub since_ms: u64,
    /// How long it is suppressed unless it falls anew, in milliseconds; 0 if it is not.
    pub suppressed_ms_left: u64,
    /// The penalty for its falls.
    pub penalty: u64,
    /// Turns that found the service well.
    pub well: u64,
    /// Turns that found it ill.
    pub ill: u64,
    /// How often it was well, and then was not.
    pub falls: u64,
    /// How long the newest turn took, in microseconds.
    pub took_us: u64,
    /// The newest reason to find the service ill; `null` if there was none.
    pub last_error: Option<String>,
    /// How long ago that was, in milliseconds.
    pub last_error_ms: Option<u64>,
}

/// What is thought of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// Nothing yet: too few turns since the start.
    Unknown,
    /// It is well.
    Up,
    /// It is ill.
    Down,
    /// It has flapped, and is left out until it has been quiet for a while.
    Suppressed,
}

/// The NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its own MAC address.
    pub mac: String,
    /// The MAC address that the IPv4 VIPs resolve to; `null` in the tiered mode.
    pub shared_mac_v4: Option<String>,
    /// The MAC address that the IPv6 VIPs resolve to; `null` in the tiered mode.
    pub shared_mac_v6: Option<String>,
    /// The name of its driver.
    pub driver: String,
    /// What has it: `af_xdp` or `dpdk`.
    pub backend: String,
    /// Where the XDP program runs: `native` or `generic`; `none` with DPDK.
    pub xdp_mode: String,
    /// How many receive queues have a worker: as many as it had, or could get frames by, at the start.
    pub queues: u32,
    /// Packets to the VIPs that the XDP program dropped since their receive queue has no worker: the NIC has got it
    /// after the start.
    #[serde(default)]
    pub dropped_without_worker: u64,
    /// The host's interface that accepted frames come out of.
    pub tap: String,
    /// What DPDK says of the NIC, if it has that.
    pub dpdk: Option<DpdkStatus>,
}

/// A NIC by DPDK. `name` is then the TAP in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DpdkStatus {
    /// The device and its arguments.
    pub devargs: String,
    /// Whether it has a link.
    pub link_up: bool,
    /// The link's speed in megabits per second; `null` where the driver does not know it.
    pub speed_mbps: Option<u32>,
    /// Whether it receives all frames, since it cannot tell those apart that are to come.
    pub promiscuous: bool,
    /// Frames that it received.
    pub received: u64,
    /// Frames that it transmitted.
    pub transmitted: u64,
    /// Frames dropped since the worker did not take them fast enough (`imissed`).
    pub imissed: u64,
    /// Frames received that were damaged, or too long (`ierrors`).
    pub ierrors: u64,
    /// Frames dropped since there was no memory to receive them into (`rx_nombuf`).
    pub rx_nombuf: u64,
    /// Frames that could not be transmitted (`oerrors`).
    pub oerrors: u64,
}

/// What the XDP program decides by itself. No worker sees these packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadStatus {
    /// `drop` or `full`.
    pub mode: String,
    /// Packets dropped, whose buckets are other nodes'.
    pub dropped_by_offload: u64,
    /// Packets handed to the host's stack.
    pub passed_by_offload: u64,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The receive queue it serves.
    pub queue: u32,
    /// The core it is pinned to; `null` if it is not.
    pub core: Option<u32>,
    /// Whether the NIC writes straight into its memory.
    pub zero_copy: bool,
    /// Rounds of its loop, those without a frame too.
    pub turns: u64,
    /// Frames received.
    pub rx: u64,
    /// Frames transmitted: replies, forwarded frames, frames from the host.
    pub tx: u64,
    /// Frames taken from the host; 0 with `egress = "direct"`.
    pub from_host: u64,
    /// Of these, super-packets that the worker cut.
    pub from_host_cut: u64,
    /// Others of these, super-packets that the NIC, or the kernel before it, cut.
    pub from_host_whole: u64,
    /// Frames left to the host by the interface, since they are of no service: only with DPDK.
    pub to_nic_host: u64,
    /// Frames that the host sent by the interface: only with DPDK.
    pub from_nic_host: u64,
    /// Frames handed to the host as parts of super-packets.
    pub pass_coalesced: u64,
    /// Super-packets that these were handed over in.
    pub super_packets: u64,
    /// Flows entered into the flow table.
    pub flows_inserted: u64,
    /// Flows that had to give way to a new one.
    pub flows_evicted: u64,
    /// What was decided on received frames.
    pub verdicts: VerdictCounts,
    /// Why frames were dropped: every reason's label with its count.
    pub drops: Counts,
    /// The kernel's own counts for the worker's socket: those of `XDP_STATISTICS`.
    pub kernel: KernelCounts,
    /// What became of frames below the worker, with DPDK.
    pub dpdk: Option<DpdkQueueCounts>,
}

/// What a port of DPDK's counts of frames that no worker sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DpdkQueueCounts {
    /// Received in several pieces, since they are longer than a buffer.
    pub unusable: u64,
    /// Received with a wrong checksum, as the NIC says.
    pub bad_checksum: u64,
    /// Not transmitted, since neither the driver nor the port had room.
    pub tx_refused: u64,
}

/// What was decided on received frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictCounts {
    /// To the host.
    pub pass: u64,
    /// ARP replies.
    pub reply_arp: u64,
    /// Neighbour advertisements.
    pub reply_na: u64,
    /// To another member.
    pub forward: u64,
    /// Dropped.
    pub drop: u64,
}

/// The kernel's counts for an AF_XDP socket (`struct xdp_statistics` of linux/if_xdp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCounts {
    /// Dropped for other reasons than those below.
    pub rx_dropped: u64,
    /// Descriptors in the fill ring that the kernel rejected.
    pub rx_invalid_descs: u64,
    /// Descriptors in the transmit ring that the kernel rejected.
    pub tx_invalid_descs: u64,
    /// Dropped since the worker did not take frames fast enough.
    pub rx_ring_full: u64,
    /// Times that the kernel found no free frame.
    pub rx_fill_ring_empty_descs: u64,
    /// Times that the kernel found nothing to transmit.
    pub tx_ring_empty_descs: u64,
}

/// The flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// How many flows it has room for.
    pub capacity: u64,
    /// How many flows are in it, by state.
    pub states: Counts,
}

/// Heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatStatus {
    /// Sent.
    pub sent: u64,
    /// Not sent, since the kernel refused.
    pub send_failed: u64,
    /// Received and accepted.
    pub received: u64,
    /// Received and rejected: every reason's label with its count.
    pub rejected: Counts,
}

/// Snapshots handed to the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// The number of the newest.
    pub generation: u64,
    /// How many older ones are still read.
    pub retired: u64,
}

/// Requests on the admin socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminStatus {
    /// Connections accepted.
    pub connections: u64,
    /// Connections turned away, since too many were open.
    pub turned_away: u64,
    /// Requests answered with what was asked for.
    pub answered: u64,
    /// Requests that the node refused.
    pub refused: u64,
    /// Requests that are not of the admin protocol.
    pub malformed: u64,
    /// Requests that were too long.
    pub oversized: u64,
    /// Connections closed since the client was too slow.
    pub timed_out: u64,
}
