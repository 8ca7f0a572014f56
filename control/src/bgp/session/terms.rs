//! What the two sides of a session agreed on by their OPENs.

use std::net::{IpAddr, Ipv4Addr};

use crate::bgp::config::LocalConfig;
use crate::bgp::encode::{Family, NextHop6, Way};
use crate::bgp::open::{Capabilities, Graceful, Open};
use crate::bgp::prefixes;

use super::event::NotAnnounced;

/// What a session is held to once the peer's OPEN was found well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub remote_as: u32,
    pub remote_id: Ipv4Addr,
    /// The smaller of both hold times, in seconds; 0 for none (RFC 4271 section 4.2).
    pub hold_s: u16,
    /// AS numbers have four bytes (RFC 6793).
    pub four_octet_as: bool,
    /// The families that both sides speak.
    pub families: Vec<Family>,
    /// How the routes of each family that there are any of are announced, or why they are not.
    pub ways: Vec<(Family, Result<Way, NotAnnounced>)>,
    /// The peer waits to be told that all routes were sent (RFC 4724 section 4).
    pub end_of_rib: bool,
    /// The peer said that it may come back without having said that it goes (RFC 4724).
    pub restarts: bool,
}

/// The OPEN of a node by a connection from its address `address`; `restarting`: it has not long
/// been up.
pub(super) fn offer(local: &LocalConfig, address: IpAddr, restarting: bool) -> Open {
    let has = |family| prefixes::of(&local.prefixes, family).next().is_some();
    let graceful = (local.graceful_restart_s > 0).then_some(Graceful {
        restarting,
        time_s: local.graceful_restart_s,
        // The routes are of this node's own service, which a restart of this process does not end.
        forwards: true,
    });
    Open {
        asn: local.asn,
        hold_s: local.hold_s,
        id: local.router_id,
        capabilities: Capabilities {
            v4: has(Family::V4),
            v6: has(Family::V6),
            v4_by_v6: has(Family::V4) && address.is_ipv6() && local.next_hop4.is_none(),
            refresh: true,
            four_octet_as: true,
            graceful,
        },
    }
}

impl Terms {
    /// What `ours` and `theirs` come to, by a connection from this node's address `address`.
    pub fn agree(local: &LocalConfig, address: IpAddr, ours: &Open, theirs: &Open) -> Self {
        let both = |capability: fn(&Capabilities) -> bool| {
            capability(&ours.capabilities) && capability(&theirs.capabilities)
        };
        let mut families = Vec::new();
        let mut ways = Vec::new();
        if ours.capabilities.v4 {
            let spoken = both(|capabilities| capabilities.v4);
            families.extend(spoken.then_some(Family::V4));
            let by_v6 = both(|capabilities| capabilities.v4_by_v6);
            let way = if spoken { v4_way(local, address, by_v6) } else { None };
            ways.push((Family::V4, way.ok_or(reason(spoken))));
        }
        if ours.capabilities.v6 {
            let spoken = both(|capabilities| capabilities.v6);
            families.extend(spoken.then_some(Family::V6));
            let way = if spoken { next_hop6(local, address).map(Way::V6) } else { None };
            ways.push((Family::V6, way.ok_or(reason(spoken))));
        }
        Self {
            remote_as: theirs.asn,
            remote_id: theirs.id,
            hold_s: ours.hold_s.min(theirs.hold_s),
            four_octet_as: both(|capabilities| capabilities.four_octet_as),
            families,
            ways,
            end_of_rib: both(|capabilities| capabilities.graceful.is_some()),
            restarts: theirs.capabilities.graceful.is_some_and(|graceful| graceful.forwards),
        }
    }

    /// The ways in which routes are announced.
    pub fn announced(&self) -> impl Iterator<Item = Way> {
        self.ways.iter().filter_map(|(_, way)| way.ok())
    }
}

/// Why there is no way for routes of a family that is `spoken`, or is not.
fn reason(spoken: bool) -> NotAnnounced {
    if spoken { NotAnnounced::NoNextHop } else { NotAnnounced::NotNegotiated }
}

fn v4_way(local: &LocalConfig, address: IpAddr, by_v6: bool) -> Option<Way> {
    match (local.next_hop4, address) {
        (Some(next_hop), _) | (None, IpAddr::V4(next_hop)) => Some(Way::V4(next_hop)),
        (None, IpAddr::V6(_)) if by_v6 => next_hop6(local, address).map(Way::V4ByV6),
        (None, IpAddr::V6(_)) => None,
    }
}

/// The configured next hop, or else the session's own address. A global one has the link-local
/// address that the session is by at its side (RFC 2545 section 3).
fn next_hop6(local: &LocalConfig, address: IpAddr) -> Option<NextHop6> {
    let own = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(own) => Some(own),
    };
    let address = local.next_hop6.or(own)?;
    let link_local = own.filter(|own| own.is_unicast_link_local() && *own != address);
    Some(NextHop6 { address, link_local })
}

/// Which of two connections is kept, where both have come as far: the one that the node with the
/// greater BGP Identifier made or, of equal ones, that with the greater AS (RFC 4271 section 6.8,
/// RFC 6286 section 2.3). True: the one that this node made.
pub(super) fn keeps_own(local: &LocalConfig, theirs: &Open) -> bool {
    (local.router_id, local.asn) > (theirs.id, theirs.asn)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::bgp::config::Attributes;

    fn local() -> LocalConfig {
        LocalConfig {
            asn: 65011,
            router_id: Ipv4Addr::new(10, 0, 0, 11),
            hold_s: 9,
            graceful_restart_s: 0,
            attributes: Attributes::default(),
            next_hop4: None,
            next_hop6: None,
            prefixes: vec!["172.20.0.1".parse().unwrap(), "2001:db8:20::1".parse().unwrap()],
        }
    }

    fn ways(local: &LocalConfig, address: &str) -> [Result<Way, NotAnnounced>; 2] {
        let address = address.parse().unwrap();
        let mut theirs = offer(&local.clone(), "fe80::9".parse().unwrap(), false);
        theirs.capabilities.v4_by_v6 = true;
        let terms = Terms::agree(local, address, &offer(local, address, false), &theirs);
        assert_eq!(terms.families, [Family::V4, Family::V6]);
        [terms.ways[0].1, terms.ways[1].1]
    }

    fn v6(address: &str, link_local: Option<&str>) -> NextHop6 {
        let [address, link_local] = [Some(address), link_local]
            .map(|address| address.map(|address| address.parse::<Ipv6Addr>().unwrap()));
        NextHop6 { address: address.unwrap(), link_local }
    }

    /// The next hop by the addresses of the session and of the configuration.
    #[test]
    fn next_hops() {
        let own4 = "10.1.1.2".parse().unwrap();
        let plain = local();
        assert_eq!(ways(&plain, "10.1.1.2"), [Ok(Way::V4(own4)), Err(NotAnnounced::NoNextHop)]);
        let link_local = v6("fe80::1", None);
        assert_eq!(ways(&plain, "fe80::1"), [Ok(Way::V4ByV6(link_local)), Ok(Way::V6(link_local))]);
        let global = v6("2001:db8::1", None);
        assert_eq!(ways(&plain, "2001:db8::1"), [Ok(Way::V4ByV6(global)), Ok(Way::V6(global))]);

        let next_hop4: Ipv4Addr = "192.0.2.4".parse().unwrap();
        let next_hop6 = "2001:db8::6".parse().unwrap();
        let set = LocalConfig { next_hop4: Some(next_hop4), next_hop6: Some(next_hop6), ..local() };
        let [alone, beside] = [None, Some("fe80::1")].map(|own| v6("2001:db8::6", own));
        assert_eq!(ways(&set, "10.1.1.2"), [Ok(Way::V4(next_hop4)), Ok(Way::V6(alone))]);
        assert_eq!(ways(&set, "2001:db8::1"), [Ok(Way::V4(next_hop4)), Ok(Way::V6(alone))]);
        assert_eq!(ways(&set, "fe80::1"), [Ok(Way::V4(next_hop4)), Ok(Way::V6(beside))]);

        let by_v6 = LocalConfig { next_hop6: Some(next_hop6), ..local() };
        assert_eq!(ways(&by_v6, "fe80::1"), [Ok(Way::V4ByV6(beside)), Ok(Way::V6(beside))]);
    }

    #[test]
    fn what_the_peer_lacks_is_not_used() {
        let local = local();
        let address = "fe80::1".parse().unwrap();
        let ours = offer(&local, address, false);
        let agree = |change: fn(&mut Open)| {
            let mut theirs = ours;
            change(&mut theirs);
            Terms::agree(&local, address, &ours, &theirs)
        };
        let terms = agree(|theirs| theirs.capabilities.v6 = false);
        assert_eq!(terms.families, [Family::V4]);
        assert_eq!(terms.ways[1], (Family::V6, Err(NotAnnounced::NotNegotiated)));
        let terms = agree(|theirs| theirs.capabilities.v4_by_v6 = false);
        assert_eq!(terms.ways[0], (Family::V4, Err(NotAnnounced::NoNextHop)));
        let terms = agree(|theirs| theirs.hold_s = 3);
        assert_eq!(terms.hold_s, 3);
        let terms = agree(|theirs| theirs.hold_s = 0);
        assert_eq!(terms.hold_s, 0);
    }
}
