//! The next hops of frames that leave by the data plane, as the kernel knows them.
//!
//! With `egress = "tap"` a worker must find the MAC address of a frame's next hop by itself. The
//! kernel keeps doing what it does well: it holds the routes, and it resolves neighbours and
//! watches over them. [`EgressTable::refresh`] copies both into an [`Egress`] now and then;
//! [`EgressTable::resolve`] asks the kernel for a neighbour that was missing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use vipdp_core::snapshot::{Egress, Route};
use vipdp_core::wire::ethernet::MacAddr;

use crate::link::netlink::Netlink;
use crate::link::{Link, NetlinkError};

/// How often it is looked whether the kernel has resolved a neighbour.
const RESOLVING_POLL: Duration = Duration::from_millis(10);

/// The routes and neighbours of one NIC, copied from the kernel.
pub struct EgressTable {
    netlink: Netlink,
    index: u32,
    egress: Egress,
}

impl std::fmt::Debug for EgressTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressTable").field("egress", &self.egress).finish_non_exhaustive()
    }
}

impl EgressTable {
    /// Copies the routes and neighbours of `link`, and has the kernel resolve the gateways.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn new(link: &Link) -> Result<Self, NetlinkError> {
        let netlink = Netlink::open()?;
        let mut table = Self { netlink, index: link.index, egress: Egress::default() };
        table.refresh()?;
        Ok(table)
    }

    /// Waits until the MAC addresses of all gateways are known, for so long at most, and copies them. Returns
    /// whether they are.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn await_gateways(&mut self, at_most: Duration) -> Result<bool, NetlinkError> {
        let end = Instant::now() + at_most;
        loop {
            if self.gateways().all(|gateway| self.knows(gateway)) {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(RESOLVING_POLL);
            self.refresh()?;
        }
    }

    /// The newest copy.
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// The gateways of the newest copy's routes, one as often as routes have it.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.egress.routes.iter().filter_map(|route| route.gateway)
    }

    /// Whether the newest copy has the MAC address of this next hop.
    pub fn knows(&self, next_hop: IpAddr) -> bool {
        self.egress.neighbors.iter().any(|&(address, _)| address == next_hop)
    }

    /// Copies anew, and returns whether anything changed. Has the kernel resolve, or confirm, the
    /// gateways: it sees no traffic of ours to them, and would let their entries grow stale.
    ///
    /// A call takes some system calls and time proportional to the NIC's routes and neighbours:
    /// one per second is plenty.
    ///
    /// # Errors
    /// When the kernel does not answer; the last copy then stays.
    pub fn refresh(&mut self) -> Result<bool, NetlinkError> {
        let mut routes = Vec::new();
        let mut known = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            routes.extend(self.routes(family)?);
            known.extend(neighbors(&mut self.netlink, self.index, family)?);
        }
        // Longest prefix first; of equal ones the lower metric, as the kernel chooses.
        routes.sort_by_key(|&(metric, route)| (std::cmp::Reverse(route.prefix_len), metric));
        known.sort_by_key(|neighbor| neighbor.address);

        let mut gateways: Vec<IpAddr> =
            routes.iter().filter_map(|(_, route)| route.gateway).collect();
        gateways.sort_unstable();
        gateways.dedup();
        gateways
            .retain(|&gateway| !known.iter().any(|one| one.address == gateway && one.confirmed));

        let egress = Egress {
            routes: routes.into_iter().map(|(_, route)| route).collect(),
            neighbors: known.into_iter().map(|one| (one.address, one.mac)).collect(),
        };
        let changed =
            egress.routes != self.egress.routes || egress.neighbors != self.egress.neighbors;
        self.egress = egress;
        for gateway in gateways {
            self.resolve(gateway)?;
        }
        Ok(changed)
    }

    /// Has the kernel find out, or confirm, the MAC address of `address`, a neighbour on the NIC.
    /// Returns at once; a later [`refresh`](Self::refresh) brings the answer.
    ///
    /// # Errors
    /// When the kernel refuses, because its neighbour table is full for one.
    pub fn resolve(&mut self, address: IpAddr) -> Result<(), NetlinkError> {
        resolve(&mut self.netlink, self.index, address)
    }

    /// The main table's routes through the NIC, with their metrics.
    fn routes(&mut self, family: AddressFamily) -> Result<Vec<(u32, Route)>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.attributes.push(RouteAttribute::Table(RouteHeader::RT_TABLE_MAIN.into()));
        request.attributes.push(RouteAttribute::Oif(self.index));
        let answer = self.netlink.dump("list routes", &RouteNetlinkMessage::GetRoute(request))?;
        let through_nic = answer.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => route_of(&route, self.index),
            _ => None,
        });
        Ok(through_nic.collect())
    }
}

/// Has the kernel find out, or confirm, the MAC address of a neighbour on the interface with this
/// index.
pub(crate) fn resolve(
    netlink: &mut Netlink,
    index: u32,
    address: IpAddr,
) -> Result<(), NetlinkError> {
    let mut request = NeighbourMessage::default();
    request.header.family = family_of(address);
    request.header.ifindex = index;
    request.header.flags = NeighbourFlags::Use;
    request.attributes.push(NeighbourAttribute::Destination(address.into()));
    let message = RouteNetlinkMessage::NewNeighbour(request);
    netlink.change(&format!("resolve {address}"), message, NLM_F_CREATE)
}

/// The neighbours on the interface with this index whose MAC addresses the kernel knows.
pub(crate) fn neighbors(
    netlink: &mut Netlink,
    index: u32,
    family: AddressFamily,
) -> Result<Vec<Neighbor>, NetlinkError> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    request.attributes.push(NeighbourAttribute::IfIndex(index));
    let message = RouteNetlinkMessage::GetNeighbour(request);
    let answer = netlink.dump("list neighbours", &message)?;
    let on_nic = answer.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewNeighbour(one) => Neighbor::of(&one, index),
        _ => None,
    });
    Ok(on_nic.collect())
}

/// A neighbour whose MAC address the kernel knows.
pub(crate) struct Neighbor {
    pub(crate) address: IpAddr,
    pub(crate) mac: MacAddr,
    /// Whether the kernel heard of it lately, or need not.
    pub(crate) confirmed: bool,
}

impl Neighbor {
    fn of(message: &NeighbourMessage, index: u32) -> Option<Self> {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        if message.header.ifindex != index {
            return None;
        }
        let confirmed = match message.header.state {
            Reachable | Permanent | Noarp => true,
            Stale | Delay | Probe => false,
            _ => return None,
        };
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => {
                    address = Some(IpAddr::V4(*to));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(to)) => {
                    address = Some(IpAddr::V6(*to));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = bytes.as_slice().try_into().ok().map(MacAddr);
                }
                _ => {}
            }
        }
        Some(Self { address: address?, mac: mac?, confirmed })
    }
}

/// The metric and the route, when it is a unicast route of the main table through the NIC.
fn route_of(message: &RouteMessage, index: u32) -> Option<(u32, Route)> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Dead) {
        return None;
    }
    let mut network = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut table, mut metric) = (u32::from(header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => network = address_of(to)?,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    // Of several next hops the first one through the NIC serves all: replies of one flow keep to
    // one path, and to spread over gateways is the router's side's part.
    let gateway = next_hop(&message.attributes, index).or_else(|| {
        let hops = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        })?;
        let hop = hops.iter().find(|hop| {
            hop.interface_index == index && !hop.flags.contains(RouteNextHopFlags::Dead)
        })?;
        Some(gateway_of(&hop.attributes))
    })?;
    let route = Route { network, prefix_len: header.destination_prefix_length, gateway };
    Some((metric, route))
}

/// The gateway, if any, when the attributes lead through the NIC.
fn next_hop(attributes: &[RouteAttribute], index: u32) -> Option<Option<IpAddr>> {
    attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Oif(oif) if *oif == index))
        .then(|| gateway_of(attributes))
}

/// The gateway that a route's or next hop's attributes name.
pub(crate) fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => address_of(gateway),
        // A gateway of the other family (RFC 8950).
        RouteAttribute::Via(RouteVia::Inet(gateway)) => Some(IpAddr::V4(*gateway)),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some(IpAddr::V6(*gateway)),
        _ => None,
    })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The netlink family of an address.
pub(crate) fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
