//! What a worker needs to know of the cluster, immutable and swapped whole.
//!
//! The control thread builds a [`Snapshot`] and hands it to the [`Publication`]; each worker loads
//! the newest one once per burst. A worker never frees a snapshot: the publisher keeps every
//! retired one until it holds the only reference.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};

use crate::anycast::{Anycast, PeerPath};
use crate::bucket::{BUCKETS, Bucket, BucketSet};
use crate::decide::ordinary::Plain;
use crate::hash::ClientHash;
use crate::prefix::Prefix;
use crate::slot::{SLOTS, Slot};
use crate::tiered::{PreviousOwners, Tiered};
use crate::wire::ethernet::MacAddr;

/// The whole of what a worker decides by, apart from the flow table.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts publications, for tests and `vipdp status`.
    pub generation: u64,
    /// No new flow is accepted from this moment on (monotonic clock, nanoseconds): it bounds how
    /// long a stopped control thread can keep claiming.
    pub lease_until_ns: u64,
    /// What this node holds of each bucket; in the tiered mode, of each next-hop address.
    pub holdings: Holdings,
    /// Who has and had the next-hop addresses, in the tiered mode; the buckets, in the anycast mode with
    /// steering.
    pub previous: Arc<PreviousOwners>,
    /// The next-hop address, of those held, that this node has come by last; `None` if it holds
    /// none. It stands for the address that a packet came by where the frame does not say it.
    pub latest: Option<Bucket>,
    /// What changes only with a configuration or the link.
    pub service: Arc<Service>,
}

impl Snapshot {
    /// A node that serves what it holds, under a lease that never ends, and knows of no owners before: one
    /// without a cluster around it.
    pub fn serving(service: impl Into<Arc<Service>>, holdings: Holdings) -> Self {
        Self { generation: 1, lease_until_ns: u64::MAX, holdings, ..Self::waiting(service) }
    }

    /// A node that holds nothing and has no lease yet: where every node starts.
    pub fn waiting(service: impl Into<Arc<Service>>) -> Self {
        let service = service.into();
        // Here, not by the first worker that wants it.
        service.plain();
        Self {
            generation: 0,
            lease_until_ns: 0,
            holdings: Holdings::none(),
            previous: Arc::new(PreviousOwners::none()),
            latest: None,
            service,
        }
    }
}

/// What a node holds of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Somebody else's, or nobody's.
    Foreign,
    /// This node serves it.
    Owned,
    /// This node serves it, and was handed it so lately that the giver may still be forwarding: a
    /// packet may come twice, by the wire and by the giver, and is served once.
    TakenOver,
    /// This node is handing it to the member in this slot. New flows are forwarded there, except in
    /// the tiered mode: there this node serves until the member has taken over, since only then
    /// does the router send to it.
    Granted(Slot),
}

/// The [`Holding`] of every bucket: one byte each.
#[derive(Clone, PartialEq, Eq)]
pub struct Holdings(Box<[u8; BUCKETS]>);

/// Below it stands what is in motion: a slot, or a bucket that was taken over lately.
const OWNED: u8 = 0x80;
const FOREIGN: u8 = 0x81;
const TAKEN_OVER: u8 = SLOTS as u8;

impl Holdings {
    /// Nothing held.
    pub fn none() -> Self {
        Self(Box::new([FOREIGN; BUCKETS]))
    }

    /// The members of `owned` held, nothing else.
    pub fn owning(owned: &BucketSet) -> Self {
        let mut holdings = Self::none();
        for bucket in owned.iter() {
            holdings.set(bucket, Holding::Owned);
        }
        holdings
    }

    /// What is held of `bucket`.
    #[inline]
    pub fn get(&self, bucket: Bucket) -> Holding {
        match self.0[bucket.index()] {
            OWNED => Holding::Owned,
            TAKEN_OVER => Holding::TakenOver,
            byte => Slot::new(byte).map_or(Holding::Foreign, Holding::Granted),
        }
    }

    /// 0 for a bucket of this node's, 1 for another's, as nearly all are; `None` for one that is being
    /// handed over, or was lately. Which of the two it is, no branch could guess: so there is none.
    #[inline(always)]
    pub(crate) fn settled(&self, bucket: Bucket) -> Option<usize> {
        let byte = self.0[bucket.index()];
        if byte >= OWNED { Some(usize::from(byte & 1)) } else { None }
    }

    /// Changes what is held of `bucket`.
    pub fn set(&mut self, bucket: Bucket, holding: Holding) {
        self.0[bucket.index()] = match holding {
            Holding::Foreign => FOREIGN,
            Holding::Owned => OWNED,
            Holding::TakenOver => TAKEN_OVER,
            Holding::Granted(slot) => slot.get(),
        };
    }

    /// Whether nothing is held: neither owned nor granted.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&byte| byte == FOREIGN)
    }

    /// How many buckets are this node's: [`Owned`](Holding::Owned) or
    /// [`TakenOver`](Holding::TakenOver).
    pub fn owned(&self) -> usize {
        self.0.iter().filter(|&&byte| byte == OWNED || byte == TAKEN_OVER).count()
    }
}

impl fmt::Debug for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {BUCKETS} owned", self.owned())
    }
}

/// What changes only with a configuration or the link.
#[derive(Clone, Debug)]
pub struct Service {
    /// The service addresses.
    pub vips: Vips,
    /// The cluster's hash of client addresses.
    pub client_hash: ClientHash,
    /// UDP ports whose flows are tracked, so that they stay where they are when the bucket moves
    /// (QUIC, DTLS). All others, DNS for one, move with their bucket. Sorted.
    pub sticky_udp_ports: Box<[u16]>,
    /// How packets reach this node.
    pub ingress: Ingress,
    /// This node's own MAC address on the segment: the source of every frame that leaves.
    pub own_mac: MacAddr,
    /// MAC address of the host's side of the hand-off: the TAP.
    pub host_mac: MacAddr,
    /// Largest IP packet that the host takes, in bytes.
    pub host_mtu: u16,
    /// VLAN identifier of the VIPs' segment; `None` where it is untagged.
    pub vlan: Option<u16>,
    /// The members' own MAC addresses, as far as they are known.
    pub peer_macs: [Option<MacAddr>; SLOTS],
    /// The tunnels to the members, in the anycast mode with [`Steering::Gue`]: none elsewhere, nor to
    /// this node itself.
    ///
    /// [`Steering::Gue`]: crate::anycast::Steering::Gue
    pub peers: [Option<PeerPath>; SLOTS],
    /// How frames from the host leave by the data plane; `None` with `egress = "direct"`.
    pub egress: Option<Egress>,
    /// What workers make of all this.
    pub derived: Derived,
}

/// What is computed of a [`Service`] once, before workers see it. A copy, which may be made in order to change
/// something, has it computed anew.
#[derive(Default)]
pub struct Derived(OnceLock<Plain>);

impl Clone for Derived {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Derived")
    }
}

impl Service {
    /// The service of a node at `own_mac` on an untagged segment, on which it knows of no members yet: no
    /// UDP flows are tracked, the host, at `host_mac`, takes packets of 1500 bytes, and answers leave past
    /// the data plane.
    pub fn new(
        vips: Vips,
        client_hash: ClientHash,
        ingress: Ingress,
        own_mac: MacAddr,
        host_mac: MacAddr,
    ) -> Self {
        Self {
            vips,
            client_hash,
            sticky_udp_ports: Box::default(),
            ingress,
            own_mac,
            host_mac,
            host_mtu: 1500,
            vlan: None,
            peer_macs: [None; SLOTS],
            peers: [None; SLOTS],
            egress: None,
            derived: Derived::default(),
        }
    }

    /// What tells ordinary packets that are for this service.
    #[inline]
    pub(crate) fn plain(&self) -> &Plain {
        self.derived.0.get_or_init(|| Plain::new(self))
    }

    /// Whether UDP flows to `port` are tracked.
    #[inline]
    pub fn is_sticky(&self, port: u16) -> bool {
        match &*self.sticky_udp_ports {
            [] => false,
            &[only] => only == port,
            ports => ports.binary_search(&port).is_ok(),
        }
    }
}

/// How packets reach the nodes: the ingress mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// Every node receives every frame. The VIPs resolve to these addresses.
    SharedMac(SharedMac),
    /// A router sends each packet to one of many next-hop addresses, each of which one node owns.
    Tiered(Tiered),
    /// A network sends each packet to one of the nodes that announce the VIPs.
    Anycast(Anycast),
}

/// The MAC addresses that all nodes listen to and none ever sends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMac {
    /// What the IPv4 VIPs resolve to.
    pub v4: MacAddr,
    /// What the IPv6 VIPs resolve to: the same in unicast mode, another group in multicast mode.
    pub v6: MacAddr,
}

impl SharedMac {
    /// One unicast address for both families.
    pub const fn unicast(mac: MacAddr) -> Self {
        Self { v4: mac, v6: mac }
    }
}

/// The service addresses: of each family, ranges that have no address in common, in ascending
/// order. A single address is a range of one.
#[derive(Clone, Debug, Default)]
pub struct Vips {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Vips {
    /// The addresses in any of `prefixes`, which may overlap.
    pub fn new(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut prefixes: Vec<Prefix> = prefixes.into_iter().collect();
        // The larger of two that start alike comes first, and the other is left out.
        prefixes.sort_unstable_by_key(|prefix| (prefix.network(), prefix.prefix_len()));
        prefixes.dedup_by(|next, prefix| prefix.overlaps(*next));
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match (prefix.network(), prefix.last()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((first.to_bits(), last.to_bits())),
                (IpAddr::V6(first), IpAddr::V6(last)) => v6.push((first.to_bits(), last.to_bits())),
                _ => unreachable!("a prefix has one family"),
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    /// The IPv4 VIP, where there is one.
    pub(crate) fn only_v4(&self) -> Option<Ipv4Addr> {
        self.v4.only().map(Ipv4Addr::from_bits)
    }

    /// The IPv6 VIP, where there is one.
    pub(crate) fn only_v6(&self) -> Option<Ipv6Addr> {
        self.v6.only().map(Ipv6Addr::from_bits)
    }

    /// Whether `address` is a VIP.
    #[inline(always)]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.contains_v4(address),
            IpAddr::V6(address) => self.contains_v6(address),
        }
    }

    /// Whether `address` is a VIP.
    #[inline(always)]
    pub fn contains_v4(&self, address: Ipv4Addr) -> bool {
        self.v4.contains(address.to_bits())
    }

    /// Whether `address` is a VIP.
    #[inline(always)]
    pub fn contains_v6(&self, address: Ipv6Addr) -> bool {
        self.v6.contains(address.to_bits())
    }
}

/// Ranges of addresses, as numbers, that have none in common, in ascending order.
#[derive(Clone, Debug)]
struct Ranges<N> {
    /// The first one, or one of nothing. Most services have no other, and need look no further.
    first: (N, N),
    others: Box<[(N, N)]>,
}

impl<N: Ord + Copy> Ranges<N> {
    fn new(mut ranges: Vec<(N, N)>) -> Self
    where
        Self: Default,
    {
        if ranges.is_empty() {
            return Self::default();
        }
        Self { first: ranges.remove(0), others: ranges.into() }
    }

    /// The only number in any of them.
    fn only(&self) -> Option<N> {
        let (first, last) = self.first;
        (first == last && self.others.is_empty()).then_some(first)
    }

    #[inline(always)]
    fn contains(&self, address: N) -> bool {
        let (first, last) = self.first;
        (first <= address && address <= last) || self.others_contain(address)
    }

    /// Whether it is in the last of the other ranges that starts at or below it.
    #[inline(never)]
    fn others_contain(&self, address: N) -> bool {
        let starting = self.others.partition_point(|&(first, _)| first <= address);
        starting > 0 && address <= self.others[starting - 1].1
    }
}

impl Default for Ranges<u32> {
    fn default() -> Self {
        Self { first: (1, 0), others: Box::default() }
    }
}

impl Default for Ranges<u128> {
    fn default() -> Self {
        Self { first: (1, 0), others: Box::default() }
    }
}

/// How frames from the host find their next hop when they leave by the data plane.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// Destinations that are reached without a gateway, and gateways: longest prefix first.
    pub routes: Box<[Route]>,
    /// MAC addresses of next hops, as the kernel has them for the NIC. Sorted by address.
    pub neighbors: Box<[(IpAddr, MacAddr)]>,
}

/// One route of the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Network address of the destination.
    pub network: IpAddr,
    /// Length of the prefix, in bits.
    pub prefix_len: u8,
    /// The gateway; `None` where the destination is on the link.
    pub gateway: Option<IpAddr>,
}

impl Route {
    /// Whether the route leads to `address`.
    pub fn covers(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = u32::from(network) ^ u32::from(address);
                differing.leading_zeros() >= u32::from(self.prefix_len)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = u128::from(network) ^ u128::from(address);
                differing.leading_zeros() >= u32::from(self.prefix_len)
            }
            _ => false,
        }
    }
}

impl Egress {
    /// The next hop towards `destination`: itself, or the gateway of the longest matching prefix.
    pub fn next_hop(&self, destination: IpAddr) -> Option<IpAddr> {
        let route = self.routes.iter().find(|route| route.covers(destination))?;
        Some(route.gateway.unwrap_or(destination))
    }

    /// The MAC address of a next hop.
    pub fn mac(&self, next_hop: IpAddr) -> Option<MacAddr> {
        let at = self.neighbors.binary_search_by_key(&next_hop, |&(address, _)| address).ok()?;
        Some(self.neighbors[at].1)
    }
}

/// Where the control thread puts snapshots and workers take them.
#[derive(Debug)]
pub struct Publication {
    current: ArcSwap<Snapshot>,
}

impl Publication {
    /// Starts with `snapshot`.
    pub fn new(snapshot: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(snapshot) }
    }

    /// The newest snapshot. Taken once per burst; never blocks.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }
}

/// The one who publishes. Keeps retired snapshots until no worker reads them, so that the last
/// reference, and with it the release of memory, is never a worker's.
#[derive(Debug)]
pub struct Publisher {
    publication: Arc<Publication>,
    retired: Vec<Arc<Snapshot>>,
}

impl Publisher {
    /// Publishes to `publication`.
    pub fn new(publication: Arc<Publication>) -> Self {
        Self { publication, retired: Vec::new() }
    }

    /// Makes `snapshot` the newest, and frees those retired ones that nobody reads any more.
    pub fn publish(&mut self, snapshot: Snapshot) {
        self.retired.push(self.publication.current.swap(Arc::new(snapshot)));
        self.retired.retain(|retired| Arc::strong_count(retired) > 1);
    }

    /// How many retired snapshots are still read.
    pub fn retired(&self) -> usize {
        self.retired.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holding_is_what_was_set() {
        let bucket = |n| Bucket::new(n).unwrap();
        let mut holdings = Holdings::owning(&[bucket(0), bucket(4095)].into_iter().collect());
        holdings.set(bucket(7), Holding::Granted(Slot::new(63).unwrap()));
        assert_eq!(holdings.get(bucket(0)), Holding::Owned);
        assert_eq!(holdings.get(bucket(1)), Holding::Foreign);
        assert_eq!(holdings.get(bucket(7)), Holding::Granted(Slot::new(63).unwrap()));
        assert_eq!(holdings.owned(), 2);
        holdings.set(bucket(8), Holding::TakenOver);
        assert_eq!(holdings.get(bucket(8)), Holding::TakenOver);
        assert_eq!(holdings.owned(), 3);
        assert!(Holdings::none().is_empty() && !holdings.is_empty());
        let mut granted = Holdings::none();
        granted.set(bucket(7), Holding::Granted(Slot::new(0).unwrap()));
        assert!(!granted.is_empty());
    }

    #[test]
    fn a_vip_is_an_address_in_any_prefix() {
        let prefixes = [
            "192.0.2.53",
            "198.51.100.0/24",
            "198.51.100.128/25",
            "198.51.100.0/32",
            "198.51.101.0/24",
            "203.0.113.255",
            "2001:db8:53::/64",
            "2001:db8::53",
        ];
        let vips = Vips::new(prefixes.map(|prefix| prefix.parse().unwrap()));
        let contains = |address: &str| vips.contains(address.parse().unwrap());
        for vip in [
            "192.0.2.53",
            "198.51.100.0",
            "198.51.100.127",
            "198.51.100.255",
            "198.51.101.255",
            "203.0.113.255",
            "2001:db8:53::",
            "2001:db8:53:0:ffff:ffff:ffff:ffff",
            "2001:db8::53",
        ] {
            assert!(contains(vip), "{vip}");
        }
        for other in [
            "0.0.0.0",
            "192.0.2.52",
            "192.0.2.54",
            "198.51.99.255",
            "198.51.102.0",
            "203.0.113.254",
            "255.255.255.255",
            "::",
            "2001:db8:52:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:53:1::",
            "2001:db8::54",
            "::192.0.2.53",
        ] {
            assert!(!contains(other), "{other}");
        }
        assert!(!Vips::default().contains_v4(Ipv4Addr::UNSPECIFIED));
        assert!(Vips::new(["::/0".parse().unwrap()]).contains_v6(Ipv6Addr::UNSPECIFIED));
    }

    #[test]
    fn the_longest_prefix_wins_and_families_do_not_mix() {
        let route = |network: &str, prefix_len, gateway: Option<&str>| Route {
            network: network.parse().unwrap(),
            prefix_len,
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        };
        let egress = Egress {
            routes: [
                route("2001:db8::", 64, None),
                route("192.0.2.0", 24, None),
                route("0.0.0.0", 0, Some("192.0.2.1")),
            ]
            .into(),
            neighbors: [("192.0.2.1".parse().unwrap(), MacAddr([2; 6]))].into(),
        };
        let next = |to: &str| egress.next_hop(to.parse().unwrap()).map(|hop| hop.to_string());
        assert_eq!(next("192.0.2.9").as_deref(), Some("192.0.2.9"));
        assert_eq!(next("198.51.100.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(next("2001:db8::9").as_deref(), Some("2001:db8::9"));
        assert_eq!(next("2001:db8:1::9"), None);
        assert_eq!(egress.mac("192.0.2.1".parse().unwrap()), Some(MacAddr([2; 6])));
        assert_eq!(egress.mac("192.0.2.2".parse().unwrap()), None);
    }
}
