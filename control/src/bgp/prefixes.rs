//! The prefixes that are announced, family by family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vipdp_core::prefix::Prefix;

use super::encode::Family;

/// Those of `prefixes` that are of `family`.
pub(super) fn of(prefixes: &[Prefix], family: Family) -> impl Iterator<Item = Prefix> {
    prefixes.iter().copied().filter(move |prefix| family_of(*prefix) == family)
}

/// A prefix's family.
pub(super) fn family_of(prefix: Prefix) -> Family {
    match prefix.network() {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// An IPv4 prefix's network and length.
pub(super) fn v4(prefix: Prefix) -> Option<(Ipv4Addr, u8)> {
    match prefix.network() {
        IpAddr::V4(network) => Some((network, prefix.prefix_len())),
        IpAddr::V6(_) => None,
    }
}

/// An IPv6 prefix's network and length.
pub(super) fn v6(prefix: Prefix) -> Option<(Ipv6Addr, u8)> {
    match prefix.network() {
        IpAddr::V4(_) => None,
        IpAddr::V6(network) => Some((network, prefix.prefix_len())),
    }
}

/// How many bytes a prefix has in a message: its length, then as much of the network as that has
/// (RFC 4271 section 4.3).
pub(super) fn written_len(prefix: Prefix) -> usize {
    1 + usize::from(prefix.prefix_len().div_ceil(8))
}

/// Whether routers route to addresses of `prefix` one by one: not to groups, nor to all at once.
pub(super) fn is_unicast(prefix: Prefix) -> bool {
    let unicast = |address| match address {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_broadcast(),
        IpAddr::V6(address) => !address.is_multicast(),
    };
    unicast(prefix.network()) && unicast(prefix.last())
}
