//! `[tiered]`: the next-hop addresses that the router spreads over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vipdp_core::prefix::Prefix;
use vipdp_core::tiered::{Search, TieredMac};

use super::address;
use super::error::ConfigError;
use super::reader::{Errors, Field, Located, Place, Section};
use crate::cluster::addresses::{ADDRESSES_MAX, Addresses, AddressesError};

/// What the tiered mode needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TieredConfig {
    /// How many members each next-hop address has: 2 or 3.
    pub tiers: usize,
    /// Whether three tiers make do with as many addresses as two.
    pub compact: bool,
    /// The first IPv4 next-hop address; the others follow it.
    pub first4: Option<Ipv4Addr>,
    /// The first IPv6 next-hop address. There is one of either family at least.
    pub first6: Option<Ipv6Addr>,
    /// What the next-hop addresses resolve to.
    pub mac: TieredMac,
    /// Who says which member has which address.
    pub claims: ClaimsBy,
    /// Who is asked for a flow that is not tracked here.
    pub search: Search,
    /// How many frames a second claim addresses at most, on one interface.
    pub claims_per_s: u32,
}

/// Who says which member has which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimsBy {
    /// The members, in their heartbeats. Claims on the wire are for the router and for switches.
    Heartbeat,
    /// The claims on the wire alone: there are no heartbeats. Each member is known by its MAC address.
    Wire,
}

impl ClaimsBy {
    /// Its name in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Wire => "wire",
        }
    }
}

impl TieredConfig {
    /// The name of what the next-hop addresses resolve to.
    pub const fn mac_label(&self) -> &'static str {
        match self.mac {
            TieredMac::Virtual => "virtual",
            TieredMac::Node => "node",
        }
    }

    /// The name of who is asked for flows.
    pub const fn search_label(&self) -> &'static str {
        match self.search {
            Search::PreviousOwners => "previous-owners",
            Search::Members => "members",
        }
    }

    /// The lists of the next-hop addresses, in a cluster of `members` members,
    /// removed ones included.
    ///
    /// # Errors
    /// [`AddressesError`], which a checked configuration does not have.
    pub fn addresses(&self, members: usize) -> Result<Addresses, AddressesError> {
        Addresses::new(members, self.tiers, self.compact)
    }
}

/// What was read of the table.
pub(super) struct TieredRead<'s> {
    /// The contents; `None` if they are wrong.
    pub(super) config: Option<TieredConfig>,
    /// Where it says that there are no heartbeats, if it does.
    pub(super) wire: Option<Place<'s>>,
    /// The next hops of either family, if they can be told.
    hops4: Option<Hops<'s>>,
    hops6: Option<Hops<'s>>,
    /// Whether the keys of the next hops are there, be they right or not.
    has4: bool,
    has6: bool,
}

/// The next-hop addresses of one family.
struct Hops<'s> {
    place: Place<'s>,
    first: IpAddr,
    last: IpAddr,
}

const TIERS_DEFAULT: u64 = 2;
/// Enough to claim 63 addresses of both families within a second, and nothing that a switch's or a
/// router's control plane would notice.
const CLAIMS_PER_S_DEFAULT: u64 = 200;
const CLAIMS_PER_S: std::ops::RangeInclusive<u64> = 10..=100_000;
const EXAMPLE4: &str = "next_hops4 = \"10.0.0.64\"";
const EXAMPLE6: &str = "next_hops6 = \"fd00::1:0\"";

/// Reads the table, for a cluster of `members` members, removed ones included.
pub(super) fn read<'s>(
    mut section: Section<'s>,
    members: usize,
    errors: &mut Errors,
) -> TieredRead<'s> {
    let before = errors.len();
    let (has4, has6) = (section.has("next_hops4"), section.has("next_hops6"));
    let tiers = section.optional("tiers", errors, |f| f.integer(2..=3, "a number of tiers"));
    let compact = section.optional("compact", errors, Field::boolean);
    let first4 = section.optional("next_hops4", errors, first4);
    let first6 = section.optional("next_hops6", errors, first6);
    let before_mac = errors.len();
    let mac = section.or_default("mac", TieredMac::Virtual, errors, |f| {
        f.choice(&[("virtual", TieredMac::Virtual), ("node", TieredMac::Node)])
    });
    let is_virtual = mac == TieredMac::Virtual && errors.len() == before_mac;
    let claims = section.optional("claims", errors, |f| {
        f.choice(&[("heartbeat", ClaimsBy::Heartbeat), ("wire", ClaimsBy::Wire)])
    });
    let wire = claims.filter(|claims| claims.value == ClaimsBy::Wire).map(|claims| claims.place);
    if let Some(place) = wire.as_ref().filter(|_| is_virtual) {
        let why = " beside mac = \"virtual\", which does not say whose claim it is";
        errors.push(place.error(why, "give mac = \"node\", or claims = \"heartbeat\""));
    }
    // Without heartbeats an owner learns that its address has moved from the same frame as the
    // router, and may be asked for a flow before it knows who else to ask.
    let search = if wire.is_some() { Search::Members } else { Search::PreviousOwners };
    let search = section.or_default("search", search, errors, |f| {
        f.choice(&[("previous-owners", Search::PreviousOwners), ("members", Search::Members)])
    });
    let claims_per_s = section.or_default("claims_per_s", CLAIMS_PER_S_DEFAULT, errors, |f| {
        f.integer(CLAIMS_PER_S, "a number of frames")
    });
    let table = section.place.clone();
    if !has4 && !has6 {
        let remedy = format!("add next_hops4 or next_hops6, for example `{EXAMPLE4}`");
        errors.push(table.error_found("no next hops".into(), remedy));
    }
    section.finish(errors);
    // What is said of numbers that were not read right would mislead.
    let count = if errors.len() == before {
        count(tiers.as_ref(), compact.as_ref(), members, &table, errors)
    } else {
        None
    };
    let config = TieredConfig {
        tiers: tiers.map_or(TIERS_DEFAULT, |tiers| tiers.value) as usize,
        compact: compact.is_some_and(|compact| compact.value),
        first4: first4.as_ref().map(|first| first.value),
        first6: first6.as_ref().map(|first| first.value),
        mac,
        claims: if wire.is_some() { ClaimsBy::Wire } else { ClaimsBy::Heartbeat },
        search,
        claims_per_s: claims_per_s as u32,
    };
    let hops4 = first4.and_then(|first| hops4(first, count?, errors));
    let hops6 = first6.and_then(|first| hops6(first, count?, errors));
    let config = (errors.len() == before).then_some(config);
    TieredRead { config, wire, hops4, hops6, has4, has6 }
}

fn first4(field: &Field<'_>) -> Result<Ipv4Addr, ConfigError> {
    const EXPECTED: &str = "the first IPv4 next-hop address, for example \"10.0.0.64\"";
    match address::unicast(field, EXPECTED)? {
        IpAddr::V4(first) => Ok(first),
        IpAddr::V6(_) => {
            Err(field.place.error(", an IPv6 address", "name it `next_hops6`, or give an IPv4 one"))
        }
    }
}

fn first6(field: &Field<'_>) -> Result<Ipv6Addr, ConfigError> {
    const EXPECTED: &str = "the first IPv6 next-hop address, for example \"fd00::1:0\"";
    match address::unicast(field, EXPECTED)? {
        IpAddr::V6(first) => Ok(first),
        IpAddr::V4(_) => {
            Err(field.place.error(", an IPv4 address", "name it `next_hops4`, or give an IPv6 one"))
        }
    }
}

/// How many next-hop addresses of a family there are.
fn count(
    tiers: Option<&Located<'_, u64>>,
    compact: Option<&Located<'_, bool>>,
    members: usize,
    table: &Place<'_>,
    errors: &mut Errors,
) -> Option<usize> {
    let is_compact = compact.is_some_and(|compact| compact.value);
    let number = tiers.map_or(TIERS_DEFAULT, |tiers| tiers.value) as usize;
    let error = match Addresses::new(members, number, is_compact) {
        Ok(addresses) => return Some(addresses.len()),
        Err(error) => error,
    };
    let (tiers, compact) = (tiers.map(|it| &it.place), compact.map(|it| &it.place));
    let (place, found, remedy) = match error {
        AddressesError::CompactTiers(tiers) => (
            compact,
            format!("compact = true with {tiers} tiers"),
            "give tiers = 3, or remove compact".to_owned(),
        ),
        AddressesError::NoCompactForm(members) => (
            compact,
            format!("compact = true with {members} members, removed ones included"),
            "have 3 members, or 5 and more, or remove compact".to_owned(),
        ),
        AddressesError::TooFewMembers { members, tiers: number } => (
            tiers,
            format!("{number} tiers with {members} member(s), removed ones included"),
            format!("have at least {number} members: each address has so many"),
        ),
        AddressesError::TooMany { members, tiers: number, addresses, members_max } => (
            tiers,
            format!(
                "{number} tiers with {members} members, removed ones included: {addresses} addresses"
            ),
            format!(
                "have at most {members_max} members, or give compact = true or tiers = 2: there \
                 can be {ADDRESSES_MAX} addresses"
            ),
        ),
        // Both were reported where they stand.
        AddressesError::Tiers(_) | AddressesError::TooManyMembers(_) => return None,
    };
    errors.push(place.unwrap_or(table).error_found(found, remedy));
    None
}

fn hops4<'s>(first: Located<'s, Ipv4Addr>, count: usize, errors: &mut Errors) -> Option<Hops<'s>> {
    let above = count as u32 - 1;
    let last = first.value.to_bits().checked_add(above).map(Ipv4Addr::from_bits);
    match last.filter(|&last| address::unfit(last.into()).is_none()) {
        Some(last) => {
            Some(Hops { place: first.place, first: first.value.into(), last: last.into() })
        }
        None => {
            let why = format!(", the first of {count} addresses, which reach beyond unicast ones");
            errors.push(first.place.error(&why, format!("give one with {above} behind it")));
            None
        }
    }
}

/// The data plane compares the upper half of an address as a whole, and so must a subnet.
fn hops6<'s>(first: Located<'s, Ipv6Addr>, count: usize, errors: &mut Errors) -> Option<Hops<'s>> {
    let above = count as u64 - 1;
    let lower = first.value.to_bits() as u64;
    let Some(_) = lower.checked_add(above) else {
        let why = format!(", the first of {count} addresses, which reach into another /64");
        errors.push(first.place.error(&why, format!("give one with {above} behind it")));
        return None;
    };
    let last = Ipv6Addr::from_bits(first.value.to_bits() + u128::from(above));
    Some(Hops { place: first.place, first: first.value.into(), last: last.into() })
}

impl TieredRead<'_> {
    /// Checks what has an address of its own against the next hops: `addresses` with what each is,
    /// and the VIPs, each of which has next hops of its family.
    pub(super) fn check<'a, 's: 'a>(
        &self,
        addresses: impl Iterator<Item = &'a Located<'s, IpAddr>>,
        vips: &[Located<'_, Prefix>],
        errors: &mut Errors,
    ) {
        for vip in vips {
            let is_v4 = vip.value.network().is_ipv4();
            let (has, family, example) =
                if is_v4 { (self.has4, "IPv4", EXAMPLE4) } else { (self.has6, "IPv6", EXAMPLE6) };
            // Without any, the table itself is to blame.
            if !has && (self.has4 || self.has6) {
                let why = format!(", without next hops of {family}");
                let remedy = format!("add them to [tiered], for example `{example}`");
                errors.push(vip.place.error(&why, remedy));
            }
            if let Some(hops) = self
                .hops()
                .find(|hops| vip.value.network() <= hops.last && hops.first <= vip.value.last())
            {
                let why = format!(", which shares addresses with the next hops, {hops}");
                let remedy = "give VIPs that are routed to the next hops, not next hops themselves";
                errors.push(vip.place.error(&why, remedy));
            }
        }
        for address in addresses {
            if let Some(hops) = self.hops().find(|hops| hops.contain(address.value)) {
                let why = format!(", one of the next hops, {hops}");
                let remedy = "give addresses that only this member has, or other next hops";
                errors.push(address.place.error(&why, remedy));
            }
        }
    }

    /// Whether `address` is one of the next hops.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.hops().any(|hops| hops.contain(address))
    }

    fn hops(&self) -> impl Iterator<Item = &Hops<'_>> {
        self.hops4.iter().chain(&self.hops6)
    }
}

impl Hops<'_> {
    fn contain(&self, address: IpAddr) -> bool {
        self.first <= address && address <= self.last
    }
}

impl std::fmt::Display for Hops<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {} by line {}", self.first, self.last, self.place.line())
    }
}
