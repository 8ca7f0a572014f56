//! The ways to the other members, as the kernel would take them.
//!
//! In the anycast mode with tunnels a worker writes the headers of packets to a member by itself. The
//! kernel holds the routes, whoever makes them, and watches over the neighbours;
//! [`PeerPaths::refresh`] asks it, member by member, which way it would go now: directly, by a
//! gateway, or by one of the other family, as where a fabric is unnumbered (RFC 8950).
//!
//! **The path's MTU** is the NIC's, or what the kernel says of the route if that is less: a `mtu` of the
//! route's, or what a router on the way has told it about the member. Routers tell it about its own
//! packets only; of tunnels, whose source port is no socket's, the kernel takes nothing to heart (ICMP
//! errors without a socket are ignored in `net/ipv4/udp.c`, `__udp4_lib_err`). So where a path is
//! narrower than the NIC, its route must say so.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use vipdp_core::anycast::PeerPath;
use vipdp_core::slot::{SLOTS, Slot};

use crate::link::netlink::Netlink;
use crate::link::{Link, LinkError, NetlinkError};
use crate::neighbor::{self, Neighbor, family_of, gateway_of};

/// The ways to the members, by one NIC.
pub struct PeerPaths {
    netlink: Netlink,
    interface: String,
    own: IpAddr,
    members: Vec<(Slot, IpAddr)>,
    paths: [Option<PeerPath>; SLOTS],
}

impl std::fmt::Debug for PeerPaths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known: Vec<&PeerPath> = self.paths.iter().flatten().collect();
        f.debug_struct("PeerPaths")
            .field("interface", &self.interface)
            .field("own", &self.own)
            .field("paths", &known)
            .finish_non_exhaustive()
    }
}

impl PeerPaths {
    /// The ways from this node's `own` address to `members`, by the NIC called `interface`; no member
    /// is known how to reach until the first [`refresh`](Self::refresh). Members whose address is of the
    /// other family have no way.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn new(
        interface: &str,
        own: IpAddr,
        members: impl IntoIterator<Item = (Slot, IpAddr)>,
    ) -> Result<Self, NetlinkError> {
        let mut paths = Self {
            netlink: Netlink::open()?,
            interface: interface.to_owned(),
            own,
            members: Vec::new(),
            paths: [None; SLOTS],
        };
        paths.set_members(members);
        Ok(paths)
    }

    /// The newest answers, by slot. A path without a next hop is one that tunnels are taken from, and
    /// nothing can be sent by yet.
    pub fn paths(&self) -> &[Option<PeerPath>; SLOTS] {
        &self.paths
    }

    /// Makes `members` the ones to know, this node not among them. What is known of the others is
    /// forgotten.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = (Slot, IpAddr)>) {
        let known = std::mem::replace(&mut self.paths, [None; SLOTS]);
        self.members = members
            .into_iter()
            .filter(|(_, address)| address.is_ipv4() == self.own.is_ipv4())
            .collect();
        for &(slot, destination) in &self.members {
            let same = known[slot.index()].filter(|path| path.destination == destination);
            let without = PeerPath { source: self.own, destination, next_hop: None, mtu: 0 };
            self.paths[slot.index()] = Some(same.unwrap_or(without));
        }
    }

    /// Asks anew, and returns whether anything changed. Has the kernel resolve, or confirm, the next
    /// hops: it sees no traffic of ours to them, and would let their entries grow stale.
    ///
    /// A call takes a system call or two per member, and time proportional to the NIC's neighbours:
    /// one per second is plenty.
    ///
    /// # Errors
    /// When the NIC is gone, or the kernel does not answer; what was known then stays.
    pub fn refresh(&mut self) -> Result<bool, LinkError> {
        let link = Link::find(&mut self.netlink, &self.interface)?;
        let mut hops = Vec::with_capacity(self.members.len());
        for at in 0..self.members.len() {
            let (slot, destination) = self.members[at];
            hops.push((slot, destination, self.route(&link, destination)));
        }
        let mut neighbors = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            neighbors.extend(neighbor::neighbors(&mut self.netlink, link.index, family)?);
        }
        let known =
            |address| neighbors.iter().find(|neighbor: &&Neighbor| neighbor.address == address);

        let mut paths = [None; SLOTS];
        for &(slot, destination, hop) in &hops {
            let (next_hop, mtu) = match hop {
                Some(Hop { address, mtu }) => (known(address).map(|neighbor| neighbor.mac), mtu),
                None => (None, 0),
            };
            paths[slot.index()] = Some(PeerPath { source: self.own, destination, next_hop, mtu });
        }
        let changed = paths != self.paths;
        self.paths = paths;

        let mut unsure: Vec<IpAddr> =
            hops.iter().filter_map(|(_, _, hop)| hop.map(|hop| hop.address)).collect();
        unsure.sort_unstable();
        unsure.dedup();
        unsure.retain(|&address| !known(address).is_some_and(|neighbor| neighbor.confirmed));
        for address in unsure {
            neighbor::resolve(&mut self.netlink, link.index, address)?;
        }
        Ok(changed)
    }

    /// The next hop by which the kernel would send to `destination`; `None` if it has no route, or one
    /// that does not lead through the NIC.
    fn route(&mut self, link: &Link, destination: IpAddr) -> Option<Hop> {
        let mut request = RouteMessage::default();
        request.header.address_family = family_of(destination);
        let whole = if destination.is_ipv4() { 32 } else { 128 };
        request.header.destination_prefix_length = whole;
        request.header.source_prefix_length = whole;
        request.attributes = vec![
            RouteAttribute::Destination(destination.into()),
            RouteAttribute::Source(self.own.into()),
        ];
        let what = format!("ask for the route to {destination}");
        let answer = match self.netlink.get(&what, RouteNetlinkMessage::GetRoute(request)) {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "no way to a member");
                return None;
            }
        };
        answer.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => hop_of(route, link, destination),
            _ => None,
        })
    }
}

/// The first step of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hop {
    /// Who takes the packet: a gateway, or the member itself.
    address: IpAddr,
    /// The largest packet that goes all the way, in bytes.
    mtu: u16,
}

fn hop_of(route: &RouteMessage, link: &Link, destination: IpAddr) -> Option<Hop> {
    let (mut through_nic, mut mtu) = (false, link.mtu);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => through_nic = *index == link.index,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(of_route) = metric
                        && *of_route != 0
                    {
                        mtu = mtu.min(*of_route);
                    }
                }
            }
            _ => {}
        }
    }
    let address = gateway_of(&route.attributes).unwrap_or(destination);
    let mtu = mtu.min(u32::from(u16::MAX)) as u16;
    through_nic.then_some(Hop { address, mtu })
}
