//! Which server each query goes to, and from which address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::Serialize;

/// An odd multiplier (2^64 over the golden ratio), so that multiplying modulo a power of two visits every value
/// once, in an order that jumps about.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// A block of addresses that queries come from, such as `10.64.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    base: IpAddr,
    host_bits: u32,
}

/// Why a text is not a [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The part before the slash is not an address.
    #[error("{0:?} is not an address: write a block as 10.64.0.0/16 or fd64::/64")]
    Address(String),
    /// The part after the slash is not a length that the family has.
    #[error("{length:?} is not a prefix length of {address}: write 0..={most}")]
    Length {
        /// What was written.
        length: String,
        /// The address before it.
        address: IpAddr,
        /// The longest prefix of the family, bits.
        most: u32,
    },
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| PrefixError::Address(address.to_owned()))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match length {
            None => most,
            Some(length) => {
                length.parse().ok().filter(|bits| *bits <= most).ok_or_else(|| {
                    PrefixError::Length { length: length.to_owned(), address, most }
                })?
            }
        };
        Ok(Self::new(address, most - bits))
    }
}

impl Prefix {
    fn new(address: IpAddr, host_bits: u32) -> Self {
        let base = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { base, host_bits }
    }

    /// The family of the addresses.
    pub fn family(&self) -> Family {
        Family::of(self.base)
    }

    /// How many different addresses [`Prefix::address`] yields: all but the first of the block, which IPv6 keeps
    /// for its routers (RFC 4291 section 2.6.1); a block of one address yields that. Blocks of more than 2^64
    /// count as 2^64.
    pub fn addresses(&self) -> u64 {
        self.mask().max(1)
    }

    /// The `index`-th source address. Indices below [`Prefix::addresses`] yield different addresses, spread over
    /// the whole block; higher ones start again.
    pub fn address(&self, index: u64) -> IpAddr {
        if self.host_bits == 0 {
            return self.base;
        }
        // 1..=mask: zero is the one value that the multiplication leaves at zero.
        let host = (index % self.addresses() + 1).wrapping_mul(SPREAD) & self.mask();
        match self.base {
            IpAddr::V4(v4) => {
                let host = u32::try_from(host).expect("masked to at most 32 bits");
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | host))
            }
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | u128::from(host))),
        }
    }

    /// The host bits that vary, at most 64 of them.
    fn mask(&self) -> u64 {
        if self.host_bits >= 64 { u64::MAX } else { (1 << self.host_bits) - 1 }
    }
}

/// Where one query goes, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The server's address and port.
    pub server: SocketAddr,
    /// The client address, of the same family.
    pub source: IpAddr,
}

/// Servers and sources of one family.
#[derive(Debug)]
struct Lane {
    family: Family,
    servers: Vec<SocketAddr>,
    sources: Vec<Prefix>,
}

impl Lane {
    fn addresses(&self) -> u64 {
        let least = self.sources.iter().map(Prefix::addresses).min().unwrap_or(0);
        least.saturating_mul(self.sources.len() as u64)
    }
}

/// The assignment of queries to servers and sources: families take turns, and within a family its blocks of
/// sources and its servers do.
#[derive(Debug)]
pub struct Plan {
    lanes: Vec<Lane>,
}

/// Why servers and sources make no [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is no server.
    #[error("no server is given: use --server ADDRESS")]
    NoServer,
    /// A server has no source of its family.
    #[error("{server} is {family}, but no --sources block is")]
    NoSource {
        /// The server.
        server: IpAddr,
        /// Its family.
        family: Family,
    },
    /// A block of sources has no server of its family.
    #[error("a --sources block is {0}, but no --server is")]
    NoServerOf(Family),
    /// Distinct sources are asked for, and there are not enough.
    #[error(
        "{queries} {family} queries want {queries} source addresses, but there are {addresses}"
    )]
    TooFewSources {
        /// The family that is short.
        family: Family,
        /// How many queries of it there will be.
        queries: u64,
        /// How many source addresses of it there are.
        addresses: u64,
    },
}

impl Plan {
    /// A plan over `servers`, all at `port`, and `sources`.
    pub fn new(servers: &[IpAddr], port: u16, sources: &[Prefix]) -> Result<Self, PlanError> {
        if servers.is_empty() {
            return Err(PlanError::NoServer);
        }
        let mut lanes = Vec::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let of_family = servers.iter().filter(|server| Family::of(**server) == family);
            let servers: Vec<_> = of_family.map(|server| SocketAddr::new(*server, port)).collect();
            let sources: Vec<_> =
                sources.iter().filter(|source| source.family() == family).copied().collect();
            match (servers.first(), sources.is_empty()) {
                (None, true) => {}
                (None, false) => return Err(PlanError::NoServerOf(family)),
                (Some(server), true) => {
                    return Err(PlanError::NoSource { server: server.ip(), family });
                }
                (Some(_), false) => lanes.push(Lane { family, servers, sources }),
            }
        }
        Ok(Self { lanes })
    }

    /// Fails unless `queries` queries all have different source addresses.
    pub fn require_distinct(&self, queries: u64) -> Result<(), PlanError> {
        for (index, lane) in self.lanes.iter().enumerate() {
            let queries =
                (queries + self.lanes.len() as u64 - 1 - index as u64) / self.lanes.len() as u64;
            let addresses = lane.addresses();
            if queries > addresses {
                return Err(PlanError::TooFewSources { family: lane.family, queries, addresses });
            }
        }
        Ok(())
    }

    /// Server and source of query `number`.
    pub fn target(&self, number: u64) -> Target {
        let (lane, turn) = pick(&self.lanes, number);
        let (sources, index) = pick(&lane.sources, turn);
        let (server, _) = pick(&lane.servers, index);
        Target { server: *server, source: sources.address(index) }
    }
}

/// The item whose turn it is in turn `number`, and how many turns it had before.
fn pick<T>(items: &[T], number: u64) -> (&T, u64) {
    let count = items.len() as u64;
    let index = usize::try_from(number % count).expect("below the number of items");
    (&items[index], number / count)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn plan(servers: &[&str], sources: &[&str]) -> Result<Plan, PlanError> {
        let servers: Vec<IpAddr> = servers.iter().map(|text| text.parse().unwrap()).collect();
        let sources: Vec<Prefix> = sources.iter().map(|text| prefix(text)).collect();
        Plan::new(&servers, 53, &sources)
    }

    fn contains(block: &str, address: IpAddr) -> bool {
        let block = prefix(block);
        Prefix::new(address, block.host_bits).base == block.base
    }

    #[test]
    fn a_block_yields_each_of_its_addresses_once() {
        for text in ["10.64.0.0/16", "192.0.2.77/30", "fd64::/112", "10.0.0.0/31"] {
            let block = prefix(text);
            let all: HashSet<IpAddr> = (0..block.addresses()).map(|n| block.address(n)).collect();
            assert_eq!(all.len() as u64, block.addresses(), "{text}");
            assert_eq!(block.addresses(), (1 << block.host_bits) - 1, "{text}");
            assert!(all.iter().all(|address| contains(text, *address)), "{text}");
            assert!(!all.contains(&block.base), "{text}");
            assert_eq!(block.address(block.addresses()), block.address(0), "{text}");
        }
    }

    #[test]
    fn large_blocks_are_spread_over_their_host_part() {
        let addresses: HashSet<IpAddr> =
            (0..10_000).map(|n| prefix("fd64::/64").address(n)).collect();
        assert_eq!(addresses.len(), 10_000);
        let high: HashSet<u16> = addresses
            .iter()
            .map(|address| match address {
                IpAddr::V6(v6) => v6.segments()[4],
                IpAddr::V4(_) => panic!("an IPv4 address from an IPv6 block"),
            })
            .collect();
        assert!(high.len() > 5_000, "only {} values of the first host word", high.len());
        assert_eq!(prefix("::/0").addresses(), u64::MAX);
    }

    #[test]
    fn a_single_address_is_a_block_of_one() {
        for text in ["10.64.3.4", "10.64.3.4/32", "fd64::9/128"] {
            let block = prefix(text);
            assert_eq!(block.addresses(), 1);
            assert_eq!(block.address(0), block.base);
            assert_eq!(block.address(7), block.base);
        }
    }

    #[test]
    fn malformed_blocks_are_named() {
        assert_eq!("10.64/16".parse::<Prefix>(), Err(PrefixError::Address("10.64".into())));
        let address = "10.64.0.0".parse().unwrap();
        for length in ["33", "-1", "", "x"] {
            let expected = PrefixError::Length { length: length.into(), address, most: 32 };
            assert_eq!(format!("10.64.0.0/{length}").parse::<Prefix>(), Err(expected));
        }
    }

    #[test]
    fn families_take_turns_and_sources_do_not_repeat() {
        let plan =
            plan(&["192.0.2.53", "2001:db8:53::53"], &["10.64.0.0/16", "fd64::/64"]).unwrap();
        let targets: Vec<Target> = (0..20_000).map(|n| plan.target(n)).collect();
        for (number, target) in targets.iter().enumerate() {
            assert_eq!(target.server.is_ipv4(), number % 2 == 0);
            assert_eq!(target.server.is_ipv4(), target.source.is_ipv4());
            assert_eq!(target.server.port(), 53);
        }
        let sources: HashSet<IpAddr> = targets.iter().map(|target| target.source).collect();
        assert_eq!(sources.len(), targets.len());
    }

    #[test]
    fn blocks_and_servers_of_a_family_are_all_used() {
        let plan = plan(&["192.0.2.53", "192.0.2.54"], &["10.64.0.0/24", "10.65.0.0/24"]).unwrap();
        let pairs: HashSet<(SocketAddr, bool)> = (0..8)
            .map(|n| plan.target(n))
            .map(|target| (target.server, contains("10.64.0.0/24", target.source)))
            .collect();
        assert_eq!(pairs.len(), 4);
        assert_eq!(plan.require_distinct(510), Ok(()));
        let sources: HashSet<IpAddr> = (0..510).map(|n| plan.target(n).source).collect();
        assert_eq!(sources.len(), 510);
        assert!(plan.require_distinct(511).is_err());
    }

    #[test]
    fn too_few_sources_are_found_before_the_first_query() {
        let plan =
            plan(&["192.0.2.53", "2001:db8:53::53"], &["10.64.0.0/28", "fd64::/64"]).unwrap();
        assert_eq!(plan.require_distinct(30), Ok(()));
        let expected =
            PlanError::TooFewSources { family: Family::Ipv4, queries: 16, addresses: 15 };
        assert_eq!(plan.require_distinct(31), Err(expected));
    }

    #[test]
    fn every_family_needs_both_ends() {
        assert_eq!(plan(&[], &["10.64.0.0/16"]).unwrap_err(), PlanError::NoServer);
        let both = ["10.64.0.0/16", "fd64::/64"];
        let missing = plan(&["192.0.2.53"], &both).unwrap_err();
        assert_eq!(missing, PlanError::NoServerOf(Family::Ipv6));
        let missing = plan(&["192.0.2.53", "2001:db8:53::53"], &both[..1]).unwrap_err();
        let server = "2001:db8:53::53".parse().unwrap();
        assert_eq!(missing, PlanError::NoSource { server, family: Family::Ipv6 });
    }
}
