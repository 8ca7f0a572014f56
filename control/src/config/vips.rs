//! `vips`: the service addresses, and what else must not have one.

use std::net::IpAddr;

use vipdp_core::prefix::{Prefix, PrefixError};

use super::address;
use super::error::ConfigError;
use super::ingress::Kind;
use super::reader::{Errors, Field, Located, Section};

/// The largest number of VIPs, a prefix being one: what the XDP program's maps hold.
pub const VIPS_MAX: usize = 256;

/// Reads the key: exact addresses, or where routers route them, prefixes too.
pub(super) fn read<'s>(
    section: &mut Section<'s>,
    kind: Option<Kind>,
    errors: &mut Errors,
) -> Vec<Located<'s, Prefix>> {
    const KEY: &str = "vips";
    const EXPECTED: &str = "a list of service addresses, for example [\"192.0.2.53\"]";
    let field = section.required(KEY, "vips = [\"192.0.2.53\"]", errors, |f| Ok(f.clone()));
    let Some(Located { value: field, place }) = field else { return Vec::new() };
    let elements = match field.elements(EXPECTED) {
        Ok(elements) => elements,
        Err(error) => {
            errors.push(error);
            return Vec::new();
        }
    };
    if elements.is_empty() || elements.len() > VIPS_MAX {
        let found = format!("{} addresses", elements.len());
        errors.push(place.error_found(found, format!("give 1 to {VIPS_MAX}")));
    }
    let mut vips: Vec<Located<'s, Prefix>> = Vec::new();
    for element in elements {
        let vip = match kind {
            Some(Kind::SharedMac) => address(&element),
            Some(Kind::Tiered | Kind::Anycast) | None => prefix(&element),
        };
        match vip {
            Ok(value) => match vips.iter().find(|vip| vip.value.overlaps(value)) {
                Some(vip) if vip.value == value => {
                    errors.push(element.place.error(", for the second time", "list each VIP once"));
                }
                Some(vip) => {
                    let why = format!(", which shares addresses with {}", vip.place.key());
                    errors.push(element.place.error(&why, "list each address once"));
                }
                None => vips.push(Located { value, place: element.place }),
            },
            Err(error) => errors.push(error),
        }
    }
    vips
}

fn address(field: &Field<'_>) -> Result<Prefix, ConfigError> {
    address::unicast(field, "a unicast address that clients can reach").map(Prefix::from)
}

/// An address or a network, none of whose ends has a meaning of its own.
fn prefix(field: &Field<'_>) -> Result<Prefix, ConfigError> {
    const EXPECTED: &str = "an address or prefix that clients can reach";
    let remedy = format!("give {EXPECTED}");
    let prefix = match field.text(EXPECTED)?.parse::<Prefix>() {
        Ok(prefix) => prefix,
        Err(error @ PrefixError::HostBits(network)) => {
            let remedy = format!("give \"{network}\", or the address alone");
            return Err(field.place.error(&format!(", {error}"), remedy));
        }
        Err(PrefixError::Address) => return Err(field.place.error("", remedy)),
        Err(error @ PrefixError::Len) => {
            return Err(field.place.error(&format!(", {error}"), remedy));
        }
    };
    let ends = [prefix.network(), prefix.last()];
    match ends.into_iter().find_map(address::unfit) {
        Some(kind) if prefix.is_address() => Err(field.place.error(&format!(", {kind}"), remedy)),
        Some(kind) => {
            Err(field.place.error(&format!(", which begins or ends with {kind}"), remedy))
        }
        None => Ok(prefix),
    }
}

/// A member's own address is no VIP: heartbeats would go to whoever serves the client.
pub(super) fn check_members<'a, 's: 'a>(
    addresses: impl Iterator<Item = &'a Located<'s, IpAddr>>,
    vips: &[Located<'_, Prefix>],
    errors: &mut Errors,
) {
    for address in addresses {
        if let Some(vip) = vips.iter().find(|vip| vip.value.contains(address.value)) {
            let is_it = if vip.value.is_address() { "which is" } else { "which lies in" };
            let why = format!(", {is_it} {} in line {}", vip.place.key(), vip.place.line());
            let remedy = "give the member's own address, which no other node has";
            errors.push(address.place.error(&why, remedy));
        }
    }
}
