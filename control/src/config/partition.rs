//! What a node does when it may be cut off from the others: `partition`, and the `gateway` by which
//! it may find that out.

use std::net::{IpAddr, Ipv6Addr};

use super::address;
use super::error::ConfigError;
use super::ingress;
use super::reader::{Errors, Field, Located, Place, Section};

/// What a node does when it may be cut off from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionGuard {
    /// Each side serves.
    None,
    /// Only a side with more than half of the members serves.
    Majority,
    /// Only nodes that reach the router serve.
    Gateway(
        /// The router's addresses on the segment, 1..=[`GATEWAYS_MAX`], without duplicates, in the
        /// order of the file. It is reached when any of them answers.
        Vec<IpAddr>,
    ),
}

impl PartitionGuard {
    /// Its name in the configuration.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Majority => "majority",
            Self::Gateway(_) => "gateway",
        }
    }

    /// The router's addresses; none but with [`PartitionGuard::Gateway`].
    pub fn gateway(&self) -> &[IpAddr] {
        match self {
            Self::None | Self::Majority => &[],
            Self::Gateway(addresses) => addresses,
        }
    }
}

/// The largest number of the router's addresses: each is asked, many times a second.
pub const GATEWAYS_MAX: usize = vipdp_io::probe::NEIGHBORS_MAX;
/// Below, one failure leaves no majority.
const MAJORITY_MEMBERS_MIN: usize = 3;
/// One node cannot tell its own failure from that of the only other one.
const PAIR: usize = 2;

const EXAMPLE: &str = "gateway = [\"192.0.2.1\"]";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Majority,
    Gateway,
}

/// Reads both keys, for a cluster of `present` members that are not removed, in the mode `ingress`.
/// `taken` says of an address whose it is, if it is somebody else's.
pub(super) fn read(
    section: &mut Section<'_>,
    ingress: Option<ingress::Kind>,
    present: usize,
    taken: impl Fn(IpAddr) -> Option<&'static str>,
    errors: &mut Errors,
) -> PartitionGuard {
    let kind = section.optional("partition", errors, |f| {
        f.choice(&[("none", Kind::None), ("majority", Kind::Majority), ("gateway", Kind::Gateway)])
    });
    let before = errors.len();
    let gateway = section.optional("gateway", errors, |f| Ok(f.clone()));
    let gateway = gateway
        .map(|Located { value: field, place }| (addresses(&field, &place, taken, errors), place));
    let are_wrong = errors.len() > before;
    if ingress == Some(ingress::Kind::Anycast) {
        return read_anycast(kind, gateway.as_ref().map(|(_, place)| place), present, errors);
    }
    match (kind, gateway) {
        (Some(Located { value: Kind::Gateway, .. }), Some((addresses, _))) => {
            PartitionGuard::Gateway(addresses)
        }
        // A pair that names its router wants to know whether it is reached.
        (None, Some((addresses, _))) if present == PAIR || are_wrong => {
            PartitionGuard::Gateway(addresses)
        }
        (Some(Located { value: Kind::Gateway, place }), None) => {
            let remedy = format!("add the router's address on the segment, as in `{EXAMPLE}`");
            errors.push(place.error(", without a `gateway` to reach", remedy));
            PartitionGuard::None
        }
        (Some(Located { value: kind, .. }), Some((_, place))) => {
            let label = if kind == Kind::None { "none" } else { "majority" };
            let found = format!("this key beside partition = \"{label}\"");
            errors.push(place.error_found(found, "remove it, or give partition = \"gateway\""));
            PartitionGuard::None
        }
        (None, Some((_, place))) => {
            let found = format!("this key without `partition` in a cluster of {present}");
            errors.push(place.error_found(found, "add partition = \"gateway\", or remove it"));
            PartitionGuard::None
        }
        (Some(Located { value: Kind::Majority, place }), None) => {
            check_majority(&place, present, "\"gateway\" or \"none\"", errors);
            PartitionGuard::Majority
        }
        (Some(Located { value: Kind::None, .. }) | None, None) => PartitionGuard::None,
    }
}

/// Where nodes announce routes, each to its own routers, the sessions to them say whether they are
/// reached: a route of a node that is cut off ends by itself.
fn read_anycast(
    kind: Option<Located<'_, Kind>>,
    gateway: Option<&Place<'_>>,
    present: usize,
    errors: &mut Errors,
) -> PartitionGuard {
    let by_kind = kind.as_ref().filter(|kind| kind.value == Kind::Gateway);
    for place in by_kind.map(|kind| &kind.place).into_iter().chain(gateway) {
        let found = "a question to the router beside mode = \"anycast\"".to_owned();
        let remedy = "remove it: the routes of a node that its routers do not reach end by \
                      themselves";
        errors.push(place.error_found(found, remedy));
    }
    match kind {
        Some(Located { value: Kind::Majority, place }) => {
            check_majority(&place, present, "\"none\"", errors);
            PartitionGuard::Majority
        }
        _ => PartitionGuard::None,
    }
}

/// Of fewer than three members, a majority is all. `others` are what to give instead.
fn check_majority(place: &Place<'_>, present: usize, others: &str, errors: &mut Errors) {
    if (1..MAJORITY_MEMBERS_MIN).contains(&present) {
        let why = format!(", in a cluster of {present}, where one failure stops all");
        let remedy = format!("give {others}, or at least {MAJORITY_MEMBERS_MIN} members");
        errors.push(place.error(&why, remedy));
    }
}

fn addresses(
    field: &Field<'_>,
    place: &Place<'_>,
    taken: impl Fn(IpAddr) -> Option<&'static str>,
    errors: &mut Errors,
) -> Vec<IpAddr> {
    let expected = format!("a list of the router's addresses, for example `{EXAMPLE}`");
    let elements = match field.elements(&expected) {
        Ok(elements) => elements,
        Err(error) => {
            errors.push(error);
            return Vec::new();
        }
    };
    if elements.is_empty() || elements.len() > GATEWAYS_MAX {
        let found = format!("{} addresses", elements.len());
        errors.push(place.error_found(found, format!("give 1 to {GATEWAYS_MAX}")));
    }
    let mut addresses = Vec::new();
    for element in elements {
        match address(&element) {
            Ok(value) if addresses.contains(&value) => {
                errors.push(element.place.error(", for the second time", "list each once"));
            }
            Ok(value) => match taken(value) {
                Some(whose) => {
                    let remedy = "give an address of the router's own on the segment";
                    errors.push(element.place.error(&format!(", {whose}"), remedy));
                }
                None => addresses.push(value),
            },
            Err(error) => errors.push(error),
        }
    }
    addresses
}

/// One of the router's addresses: a host's, or a link-local one of IPv6, as routers have them.
fn address(field: &Field<'_>) -> Result<IpAddr, ConfigError> {
    const EXPECTED: &str = "an address that the router has on the segment";
    match field.text(EXPECTED)?.parse::<Ipv6Addr>() {
        Ok(link_local) if link_local.is_unicast_link_local() => Ok(link_local.into()),
        _ => address::unicast(field, EXPECTED),
    }
}
