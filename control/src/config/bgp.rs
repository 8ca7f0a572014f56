//! `[bgp]`: vipdp's own BGP speaker, which announces the VIPs and accepts no routes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::address;
use super::bgp_peer;
use super::error::ConfigError;
use super::node::InterfaceName;
use super::reader::{Errors, Field, Located, Place, Section};
use crate::bgp::{
    AS_TRANS, COMMUNITIES_MAX, Community, GRACEFUL_RESTART_MAX_S, LargeCommunity, RemoteAs,
};

/// What the BGP speaker needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfig {
    /// This node's autonomous system. Never 0.
    pub asn: u32,
    /// The BGP identifier (RFC 6286): never 0.
    pub router_id: Ipv4Addr,
    /// The hold time that is proposed, in seconds: 0 for none, or 3 and more (RFC 4271, section
    /// 4.2).
    pub hold_s: u16,
    /// The communities of every route (RFC 1997), in the order of the file.
    pub communities: Vec<Community>,
    /// The large communities of every route (RFC 8092), in the order of the file.
    pub large_communities: Vec<LargeCommunity>,
    /// MULTI_EXIT_DISC of every route, if it has one.
    pub med: Option<u32>,
    /// How long peers keep the routes when the session is lost (RFC 4724), in seconds, 0..=4095; 0
    /// for not at all.
    pub graceful_restart_s: u16,
    /// Whether routes carry the member's weight as their bandwidth
    /// (draft-ietf-idr-link-bandwidth).
    pub link_bandwidth: bool,
    /// The next hop of IPv4 routes; `None` for the session's own address.
    pub next_hop4: Option<Ipv4Addr>,
    /// The next hop of IPv6 routes; `None` for the session's own address.
    pub next_hop6: Option<Ipv6Addr>,
    /// The times of BFD, with the peers that have it.
    pub bfd: BfdConfig,
    /// The peers, 1..=[`BGP_PEERS_MAX`], none for a second time, in the order of the file.
    pub peers: Vec<BgpPeerConfig>,
}

/// The times of BFD (RFC 5880).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdConfig {
    /// The least interval between packets, of either direction.
    pub interval: Duration,
    /// The peer is down when so many packets are missing.
    pub multiplier: u8,
}

/// A router that routes are announced to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeerConfig {
    /// Where it is.
    pub target: BgpTarget,
    /// The autonomous system that it must be of.
    pub remote_as: RemoteAs,
    /// The secret of the session's TCP MD5 signatures (RFC 2385), if it has them.
    pub password: Option<Password>,
    /// The TCP port that it listens to.
    pub port: u16,
    /// The TTL of what is sent to it: how many hops it may be away.
    pub multihop: u8,
    /// Whether to wait for it to connect.
    pub passive: bool,
    /// Whether BFD watches it (RFC 5881: one hop away).
    pub bfd: bool,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BgpTarget {
    /// At this address.
    Address(IpAddr),
    /// The only router on this interface, at the link-local address that it advertises there.
    Interface(InterfaceName),
}

impl fmt::Display for BgpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Interface(interface) => interface.fmt(f),
        }
    }
}

/// A secret, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps `secret`.
    pub(super) fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret: 1 to 80 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// The largest number of peers: a rack's routers, with room to spare.
pub const BGP_PEERS_MAX: usize = 16;

/// What was read of the table.
pub(super) struct BgpRead<'s> {
    /// The contents; `None` if they are wrong.
    pub(super) config: Option<BgpConfig>,
    /// Where a password stands, if there is one.
    pub(super) secret: Option<Place<'s>>,
    /// The peers' addresses and the next hops.
    pub(super) addresses: Vec<Located<'s, IpAddr>>,
}

const HOLD_S_DEFAULT: u64 = 9;

/// Reads the table.
pub(super) fn read<'s>(mut section: Section<'s>, errors: &mut Errors) -> BgpRead<'s> {
    let before = errors.len();
    let asn = section.required("as", "as = 65011", errors, as_number);
    let router_id = section.required("router_id", "router_id = \"10.0.0.11\"", errors, |f| {
        let id: Ipv4Addr = f.parsed("a number in the form of an IPv4 address")?;
        if id.is_unspecified() {
            let remedy = "give one of this node's IPv4 addresses, which no other router has";
            return Err(f.place.error("", remedy));
        }
        Ok(id)
    });
    let hold_s = section.or_default("hold_s", HOLD_S_DEFAULT, errors, |f| {
        let hold = f.integer(0..=65_535, "a number of seconds")?;
        if (1..3).contains(&hold) {
            return Err(f.place.error("", "give 0, or 3 and more (RFC 4271, section 4.2)"));
        }
        Ok(hold)
    });
    let communities = communities(&mut section, errors);
    let large_communities = large_communities(&mut section, errors);
    let med = section.optional("med", errors, |f| f.integer(0..=u64::from(u32::MAX), "a metric"));
    let restart_s = section.or_default("graceful_restart_s", 0, errors, |f| {
        f.integer(0..=u64::from(GRACEFUL_RESTART_MAX_S), "a number of seconds")
    });
    let link_bandwidth = section.or_default("link_bandwidth", false, errors, Field::boolean);
    let next_hop4 = section.optional("next_hop4", errors, next_hop4);
    let next_hop6 = section.optional("next_hop6", errors, next_hop6);
    let bfd = bfd(section.table("bfd", errors), errors);
    let peers = bgp_peer::read(&mut section, asn.as_ref().map(|asn| asn.value as u32), errors);
    section.finish(errors);
    let mut addresses = peers.addresses;
    let located = |value: IpAddr, place: &Place<'s>| Located { value, place: place.clone() };
    addresses.extend(next_hop4.as_ref().map(|hop| located(hop.value.into(), &hop.place)));
    addresses.extend(next_hop6.as_ref().map(|hop| located(hop.value.into(), &hop.place)));
    let config = (errors.len() == before).then_some(()).and_then(|()| {
        Some(BgpConfig {
            asn: asn?.value as u32,
            router_id: router_id?.value,
            hold_s: hold_s as u16,
            communities,
            large_communities,
            med: med.map(|med| med.value as u32),
            graceful_restart_s: restart_s as u16,
            link_bandwidth,
            next_hop4: next_hop4.map(|hop| hop.value),
            next_hop6: next_hop6.map(|hop| hop.value),
            bfd,
            peers: peers.configs,
        })
    });
    BgpRead { config, secret: peers.secret, addresses }
}

/// The number of an autonomous system.
pub(super) fn as_number(field: &Field<'_>) -> Result<u64, ConfigError> {
    const EXPECTED: &str = "the number of an autonomous system";
    let number = field.integer(1..=u64::from(u32::MAX), EXPECTED)?;
    if number == u64::from(AS_TRANS) {
        let why = ", which stands for numbers that do not fit into two bytes";
        return Err(field.place.error(why, format!("give {EXPECTED} (RFC 6793, section 9)")));
    }
    Ok(number)
}

fn next_hop4(field: &Field<'_>) -> Result<Ipv4Addr, ConfigError> {
    match address::unicast(field, "an IPv4 address that the peers reach this node by")? {
        IpAddr::V4(hop) => Ok(hop),
        IpAddr::V6(_) => Err(field.place.error(", an IPv6 address", "name it `next_hop6`")),
    }
}

fn next_hop6(field: &Field<'_>) -> Result<Ipv6Addr, ConfigError> {
    match address::unicast(field, "an IPv6 address that the peers reach this node by")? {
        IpAddr::V6(hop) => Ok(hop),
        IpAddr::V4(_) => Err(field.place.error(", an IPv4 address", "name it `next_hop4`")),
    }
}

fn bfd(section: Option<Section<'_>>, errors: &mut Errors) -> BfdConfig {
    let default = BfdConfig { interval: Duration::from_millis(300), multiplier: 3 };
    let Some(mut section) = section else { return default };
    let interval = section.optional("interval_ms", errors, |f| {
        f.integer(10..=10_000, "a number of milliseconds").map(Duration::from_millis)
    });
    let multiplier = section.or_default("multiplier", default.multiplier, errors, |f| {
        f.integer(2..=50, "a number of packets").map(|multiplier| multiplier as u8)
    });
    section.finish(errors);
    BfdConfig { interval: interval.map_or(default.interval, |it| it.value), multiplier }
}

fn communities(section: &mut Section<'_>, errors: &mut Errors) -> Vec<Community> {
    const EXPECTED: &str = "a list of communities, for example [\"65011:100\", \"no-export\"]";
    let read = section.list("communities", EXPECTED, errors, community);
    unique(read, "communities", errors)
}

fn large_communities(section: &mut Section<'_>, errors: &mut Errors) -> Vec<LargeCommunity> {
    const EXPECTED: &str = "a list of large communities, for example [\"65011:1:2\"]";
    let read = section.list("large_communities", EXPECTED, errors, |f| {
        f.parsed("three numbers of 32 bits, for example \"65011:1:2\"")
    });
    unique(read, "large communities", errors)
}

/// A community, but not the one that vipdp itself adds to routes.
fn community(field: &Field<'_>) -> Result<Community, ConfigError> {
    const EXPECTED: &str = "two numbers of 16 bits, for example \"65011:100\", or one of \
                            \"no-export\", \"no-advertise\", \"no-export-subconfed\", \"no-peer\", \
                            \"blackhole\"";
    let community = field.parsed(EXPECTED)?;
    if community == Community::GRACEFUL_SHUTDOWN {
        let why = ", which makes a route the last resort";
        return Err(field.place.error(why, "remove it: vipdp adds it before it withdraws routes"));
    }
    Ok(community)
}

/// Each value once, and no more than fit well into one message.
fn unique<T: PartialEq>(read: Vec<Located<'_, T>>, what: &str, errors: &mut Errors) -> Vec<T> {
    if let Some(one_too_many) = read.get(COMMUNITIES_MAX) {
        let remedy = format!("list at most {COMMUNITIES_MAX} {what}");
        errors.push(one_too_many.place.error(", one too many", remedy));
    }
    let mut values = Vec::new();
    for Located { value, place } in read {
        if values.contains(&value) {
            errors.push(place.error(", for the second time", "list each once"));
        } else {
            values.push(value);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let password = Password::new("secret".into());
        assert!(!format!("{password:?}").contains("secret"));
        assert_eq!(password.as_bytes(), b"secret");
    }
}
