//! The single changes to the host, and how each is undone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use vipdp_core::prefix::Prefix;

use super::state::{Announced, Change, Network, Rule, State};
use super::{HostError, Report};
use crate::announced;
use crate::link::netlink::Netlink;
use crate::link::{Link, NetlinkError};
use crate::neighbor::family_of;

/// Marks routes and rules as ours (`ip rule` shows `proto 118`): a number that no routing daemon
/// has in iproute2's rt_protos.
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(118);

/// `RT_TABLE_LOCAL` of linux/rtnetlink.h: what the host's own addresses are looked up in, before
/// every other table.
const TABLE_LOCAL: u8 = 255;

/// The gateway that all packets have which leave by the TAP: the IPv4 dummy address (RFC 7600, IANA's special-purpose
/// registry), and a link-local one. Nobody has it, and nobody is asked for it, for the TAP has no ARP. The kernel keeps a
/// neighbour for each next hop (net/core/neighbour.c), and without a gateway every client would be one: up to `gc_thresh3`
/// of them, 1,024, which it would go through, and tell every program that watches neighbours of.
const TAP_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
const TAP_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Frames that wait in a TAP queue for their worker: a millisecond at a million a second.
const TX_QUEUE_LEN: u32 = 1_000;

/// How long the kernel may take until a new address is usable: it takes a fraction of a
/// millisecond on an idle machine.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(2);

/// How often it is asked.
const ADDRESS_POLL: Duration = Duration::from_millis(1);

/// Makes changes by netlink.
pub(super) struct Changes {
    pub(super) netlink: Netlink,
}

impl Changes {
    pub(super) fn new() -> Result<Self, NetlinkError> {
        Ok(Self { netlink: Netlink::open()? })
    }

    pub(super) fn find(&mut self, interface: &str) -> Result<Link, HostError> {
        Ok(Link::find(&mut self.netlink, interface)?)
    }

    /// Gives the TAP its MTU and brings it up, without ARP and without multicast: its only
    /// neighbour is the data plane.
    ///
    /// The MAC address that it has is set once more: then it counts as chosen, and udev's policy
    /// of stable addresses leaves it alone.
    pub(super) fn set_up_tap(&mut self, tap: &Link, mtu: u32) -> Result<(), NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = tap.index;
        request.header.flags = LinkFlags::Up | LinkFlags::Noarp;
        request.header.change_mask = LinkFlags::Up | LinkFlags::Noarp | LinkFlags::Multicast;
        request.attributes = vec![
            LinkAttribute::Address(tap.mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::TxQueueLen(TX_QUEUE_LEN),
        ];
        let what = format!("set up {} with an MTU of {mtu}", tap.name);
        self.netlink.change(&what, RouteNetlinkMessage::SetLink(request), 0)
    }

    /// Removes the TAP, with its addresses, settings and routes, whoever holds its queues.
    pub(super) fn remove_tap(&mut self, tap: &Link, report: &mut Report) {
        let mut request = LinkMessage::default();
        request.header.index = tap.index;
        let what = format!("remove {}", tap.name);
        match self.netlink.change(&what, RouteNetlinkMessage::DelLink(request), 0) {
            Ok(()) => report.restored.push(format!("{} is removed", tap.name)),
            // Its queues were closed before.
            Err(error) if error.errno() == Some(libc::ENODEV) => {}
            Err(error) => report.failed.push(error.to_string()),
        }
    }

    /// Makes the host take packets to every address of `vip`, and returns the address of the TAP
    /// that it has from this, if any.
    ///
    /// A single address is put on the TAP. A network becomes a route to the host itself, whose
    /// addresses belong to no interface. An IPv4 network's first address is put on the TAP as well:
    /// an interface without any passes no packet where the host filters by reverse path, however
    /// loosely (`__fib_validate_source` in the kernel's net/ipv4/fib_frontend.c).
    pub(super) fn add_vip(&mut self, tap: u32, vip: Prefix) -> Result<Option<IpAddr>, HostError> {
        let on_tap = (vip.is_address() || vip.network().is_ipv4()).then_some(vip.network());
        if let Some(address) = on_tap {
            self.add_address(tap, address)?;
        }
        if !vip.is_address() {
            self.add_local_route(tap, vip)?;
        }
        Ok(on_tap)
    }

    /// Makes the whole network the host's own, by a route that ends with the TAP.
    fn add_local_route(&mut self, tap: u32, network: Prefix) -> Result<(), HostError> {
        let mut request = route_to(network, TABLE_LOCAL, RouteType::Local);
        if network.network().is_ipv4() {
            request.header.scope = RouteScope::Host;
        }
        request.attributes.push(RouteAttribute::Oif(tap));
        let message = RouteNetlinkMessage::NewRoute(request);
        let what = format!("add the route `local {network}`");
        match self.netlink.change(&what, message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                Err(HostError::NetworkTaken { network })
            }
            result => Ok(result?),
        }
    }

    /// Makes the host drop packets to `network` that it would route otherwise. False when it has a
    /// route to that very network already, which stays.
    pub(super) fn add_blackhole(&mut self, network: Network) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(blackhole(network.0));
        let what = format!("add the route `blackhole {}`", network.0);
        match self.netlink.change(&what, message, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts an address on the TAP, so that the host takes packets to it and services can bind it.
    fn add_address(&mut self, tap: u32, vip: IpAddr) -> Result<(), NetlinkError> {
        let mut request = AddressMessage::default();
        request.header.family = family_of(vip);
        request.header.index = tap;
        request.attributes = vec![AddressAttribute::Local(vip), AddressAttribute::Address(vip)];
        match vip {
            IpAddr::V4(_) => {
                request.header.prefix_len = 32;
                // Never an interface's own address to the kernel: not as ARP sender, not as the
                // source that it picks for a route.
                request.header.scope = AddressScope::Host;
            }
            IpAddr::V6(_) => {
                request.header.prefix_len = 128;
                let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
                request.attributes.push(AddressAttribute::Flags(flags));
                // Deprecated from the start: bound and answered from, never picked.
                let mut lifetimes = CacheInfo::default();
                lifetimes.ifa_preferred = 0;
                lifetimes.ifa_valid = u32::MAX;
                request.attributes.push(AddressAttribute::CacheInfo(lifetimes));
            }
        }
        let message = RouteNetlinkMessage::NewAddress(request);
        self.netlink.change(&format!("add the address {vip}"), message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Waits until the host takes packets to `vip`, an address of the TAP. IPv6 has no route to an address yet when it
    /// was added: a work queue inserts it a moment later (`addrconf_dad_work` in the kernel's
    /// net/ipv6/addrconf.c).
    pub(super) fn await_vip(&mut self, vip: IpAddr) -> Result<(), NetlinkError> {
        let what = format!("a route to the address {vip}");
        let end = Instant::now() + ADDRESS_DEADLINE;
        loop {
            let mut request = RouteMessage::default();
            request.header.address_family = family_of(vip);
            request.header.destination_prefix_length = if vip.is_ipv4() { 32 } else { 128 };
            request.attributes = vec![RouteAttribute::Destination(vip.into())];
            match self.netlink.get(&what, RouteNetlinkMessage::GetRoute(request)) {
                Ok(answer) if answer.iter().any(is_local) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Ok(_) if Instant::now() > end => {
                    return Err(NetlinkError {
                        request: what,
                        source: io::ErrorKind::TimedOut.into(),
                    });
                }
                _ => std::thread::sleep(ADDRESS_POLL),
            }
        }
    }

    /// Adds the default route of the family of `vip` through the TAP to the routing table.
    pub(super) fn add_default_route(
        &mut self,
        vip: IpAddr,
        tap: u32,
        table: u32,
    ) -> Result<(), HostError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family_of(vip);
        request.header.protocol = ROUTE_PROTOCOL;
        request.header.kind = RouteType::Unicast;
        request.header.scope = RouteScope::Universe;
        request.header.flags = RouteFlags::Onlink;
        let gateway = match vip {
            IpAddr::V4(_) => RouteAddress::Inet(TAP_GATEWAY_V4),
            IpAddr::V6(_) => RouteAddress::Inet6(TAP_GATEWAY_V6),
        };
        request.attributes = vec![
            RouteAttribute::Table(table),
            RouteAttribute::Oif(tap),
            RouteAttribute::Gateway(gateway),
        ];
        let message = RouteNetlinkMessage::NewRoute(request);
        let what = format!("add a default route to table {table}");
        match self.netlink.change(&what, message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                Err(HostError::TableTaken { table })
            }
            result => Ok(result?),
        }
    }

    /// Adds a policy rule.
    pub(super) fn add_rule(&mut self, rule: &Rule) -> Result<(), HostError> {
        let message = RouteNetlinkMessage::NewRule(rule_message(rule));
        match self.netlink.change(&rule.to_string(), message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                Err(HostError::RuleTaken { rule: rule.to_string() })
            }
            result => Ok(result?),
        }
    }

    /// Undoes what `state` tells of, in the reverse order.
    pub(super) fn undo(&mut self, state: &State, report: &mut Report) {
        if let Some(announced) = &state.announced {
            self.take_back(announced, report);
        }
        for rule in state.rules.iter().rev() {
            self.remove_rule(rule, report);
        }
        for &Network(network) in state.blackholes.iter().rev() {
            self.remove_blackhole(network, report);
        }
        for change in state.settings.iter().rev() {
            put_back(change, report);
        }
        if let Some(lent) = &state.lent_mac {
            self.put_back_mac(lent, report);
        }
    }

    /// Takes VIPs off the interface from which a routing daemon announces them.
    pub(super) fn take_back(&mut self, announced: &Announced, report: &mut Report) {
        let Announced { interface, vips } = announced;
        for &Network(vip) in vips {
            match announced::take_off(&mut self.netlink, interface, vip) {
                Ok(true) => report.restored.push(format!("{vip} is taken off {interface}")),
                Ok(false) => {}
                Err(error) => report.failed.push(format!("{interface}: {error}")),
            }
        }
    }

    fn remove_blackhole(&mut self, network: Prefix, report: &mut Report) {
        let route = format!("the route `blackhole {network}`");
        let message = RouteNetlinkMessage::DelRoute(blackhole(network));
        match self.netlink.change(&format!("remove {route}"), message, 0) {
            Ok(()) => report.restored.push(format!("{route} is removed")),
            // It is in the file before it is made, and anybody can remove it.
            Err(error) if error.errno() == Some(libc::ESRCH) => {}
            Err(error) => report.failed.push(error.to_string()),
        }
    }

    fn remove_rule(&mut self, rule: &Rule, report: &mut Report) {
        let message = RouteNetlinkMessage::DelRule(rule_message(rule));
        match self.netlink.change(&format!("remove {rule}"), message, 0) {
            Ok(()) => report.restored.push(format!("{rule} is removed")),
            // It is in the file before it is made, and anybody can remove it.
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            Err(error) => report.failed.push(error.to_string()),
        }
    }
}

/// Gives a setting its original value, unless it is no longer what we made it.
fn put_back(change: &Change, report: &mut Report) {
    let Change { setting, original, ours } = change;
    let current = match setting.read() {
        Ok(current) => current,
        // The interface is gone, and its settings with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return report.failed.push(format!("{setting}: {error}")),
    };
    if current == *original {
        return;
    }
    if current != *ours {
        report.left_alone.push(format!("{setting} is {current}, we had made it {ours}"));
        return;
    }
    match setting.write(original) {
        Ok(()) => report.restored.push(format!("{setting} is {original} again")),
        Err(error) => report.failed.push(format!("{setting}: {error}")),
    }
}

/// Whether the answer is a route to an address of the host.
fn is_local(message: &RouteNetlinkMessage) -> bool {
    matches!(message, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
}

/// A route of ours in one of the kernel's first 255 tables.
fn route_to(network: Prefix, table: u8, kind: RouteType) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = family_of(network.network());
    request.header.destination_prefix_length = network.prefix_len();
    request.header.table = table;
    request.header.protocol = ROUTE_PROTOCOL;
    request.header.kind = kind;
    request.attributes = vec![RouteAttribute::Destination(network.network().into())];
    request
}

fn blackhole(network: Prefix) -> RouteMessage {
    route_to(network, RouteHeader::RT_TABLE_MAIN, RouteType::BlackHole)
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let Network(source) = rule.source;
    let mut request = RuleMessage::default();
    request.header.family = family_of(source.network());
    request.header.src_len = source.prefix_len();
    request.header.action = RuleAction::ToTable;
    request.attributes = vec![
        RuleAttribute::Source(source.network()),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(ROUTE_PROTOCOL),
    ];
    request
}
