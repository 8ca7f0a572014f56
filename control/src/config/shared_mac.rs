//! `[shared_mac]`: what the VIPs resolve to where every node receives every frame.

use std::net::{Ipv4Addr, Ipv6Addr};

use vipdp_core::snapshot::SharedMac;
use vipdp_core::wire::ethernet::MacAddr;

use super::address;
use super::error::ConfigError;
use super::reader::{Errors, Field, Located, Place, Section};

/// The MAC addresses that the VIPs resolve to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedMacConfig {
    /// One unicast address, the same for both families.
    Unicast(SharedMac),
    /// Those of two multicast groups, which the nodes join.
    Multicast {
        /// The group whose MAC address the IPv4 VIPs resolve to.
        group4: Ipv4Addr,
        /// The group whose MAC address the IPv6 VIPs resolve to.
        group6: Ipv6Addr,
    },
}

impl SharedMacConfig {
    /// The addresses themselves.
    pub fn macs(self) -> SharedMac {
        match self {
            Self::Unicast(macs) => macs,
            Self::Multicast { group4, group6 } => {
                SharedMac { v4: address::group_mac_v4(group4), v6: address::group_mac_v6(group6) }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MacKind {
    Unicast,
    Multicast,
}

/// Reads the table, or what holds without it.
pub(super) fn read(
    section: Option<Section<'_>>,
    id: Option<u16>,
    errors: &mut Errors,
) -> Option<SharedMacConfig> {
    let Some(mut section) = section else { return unicast_mac(id, None) };
    let kind = section.or_default("mac", MacKind::Unicast, errors, |f| {
        f.choice(&[("unicast", MacKind::Unicast), ("multicast", MacKind::Multicast)])
    });
    let address = section.optional("address", errors, address::shared_mac);
    let group4 = section.optional("group4", errors, group4);
    let group6 = section.optional("group6", errors, group6);
    section.finish(errors);
    let unfit = |place: &Place<'_>, mac: &str, belongs: &str| {
        let remedy = format!("remove it, or give mac = \"{belongs}\"");
        place.error_found(format!("this key beside mac = \"{mac}\""), remedy)
    };
    match kind {
        MacKind::Unicast => {
            let groups = [group4.map(|group| group.place), group6.map(|group| group.place)];
            for place in groups.iter().flatten() {
                errors.push(unfit(place, "unicast", "multicast"));
            }
            unicast_mac(id, address)
        }
        MacKind::Multicast => {
            if let Some(address) = address {
                errors.push(unfit(&address.place, "multicast", "unicast"));
            }
            let [high, low] = id?.to_be_bytes();
            // Of the block for use within a site (RFC 2365, section 6.1).
            let default4 = Ipv4Addr::new(239, 255, high, low);
            // Transient, of the link (RFC 4291, section 2.7).
            let default6 = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x7664, id?);
            Some(SharedMacConfig::Multicast {
                group4: group4.map_or(default4, |group| group.value),
                group6: group6.map_or(default6, |group| group.value),
            })
        }
    }
}

/// The address given, or one made from the cluster's id: 02 marks it as locally administered.
fn unicast_mac(id: Option<u16>, address: Option<Located<'_, MacAddr>>) -> Option<SharedMacConfig> {
    let mac = match (address, id) {
        (Some(address), _) => address.value,
        (None, Some(id)) => {
            let [high, low] = id.to_be_bytes();
            MacAddr([0x02, 0x00, 0x5e, 0x00, high, low])
        }
        (None, None) => return None,
    };
    Some(SharedMacConfig::Unicast(SharedMac::unicast(mac)))
}

fn group4(field: &Field<'_>) -> Result<Ipv4Addr, ConfigError> {
    const EXPECTED: &str = "an IPv4 group of 239.0.0.0/8, for example \"239.255.0.53\"";
    let group: Ipv4Addr = field.parsed(EXPECTED)?;
    if group.octets()[0] == 239 {
        return Ok(group);
    }
    let why = if group.is_multicast() { ", a group that others use" } else { ", no group" };
    Err(field.place.error(why, format!("give {EXPECTED}")))
}

fn group6(field: &Field<'_>) -> Result<Ipv6Addr, ConfigError> {
    const EXPECTED: &str =
        "a transient IPv6 group of the link, ff12::/16, for example \"ff12::7664:35\"";
    let group: Ipv6Addr = field.parsed(EXPECTED)?;
    if group.segments()[0] == 0xff12 {
        return Ok(group);
    }
    let why = if group.is_multicast() { ", a group of another kind" } else { ", no group" };
    Err(field.place.error(why, format!("give {EXPECTED}")))
}
