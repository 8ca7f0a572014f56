//! Which addresses may stand where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vipdp_core::wire::ethernet::MacAddr;

use super::error::ConfigError;
use super::reader::Field;

/// An address that hosts and clients use: no group, no loopback, nothing that stays on a link.
pub(super) fn unicast(field: &Field<'_>, what: &str) -> Result<IpAddr, ConfigError> {
    let text = field.text(what)?;
    if let Some((address, length)) = text.split_once('/')
        && let (Ok(_), Ok(_)) = (address.parse::<IpAddr>(), length.parse::<u8>())
    {
        return Err(field.place.error(", a prefix", "list the addresses of the prefix one by one"));
    }
    let address: IpAddr = field.parsed(what)?;
    match unfit(address) {
        Some(kind) => Err(field.place.error(&format!(", {kind}"), format!("give {what}"))),
        None => Ok(address),
    }
}

/// Why a host cannot have the address for its clients, if so.
pub(super) fn unfit(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => unfit_v4(address),
        IpAddr::V6(address) => unfit_v6(address),
    }
}

/// Why a host cannot have the address for its clients (RFC 6890), if so.
fn unfit_v4(address: Ipv4Addr) -> Option<&'static str> {
    let kinds = [
        (address.octets()[0] == 0, "an address of \"this network\""),
        (address.is_loopback(), "a loopback address"),
        (address.is_link_local(), "a link-local address"),
        (address.is_multicast(), "a multicast address"),
        (address.is_broadcast(), "the broadcast address"),
        (address.octets()[0] >= 240, "a reserved address"),
    ];
    kinds.iter().find(|(is, _)| *is).map(|&(_, kind)| kind)
}

/// Why a host cannot have the address for its clients (RFC 4291), if so.
fn unfit_v6(address: Ipv6Addr) -> Option<&'static str> {
    let kinds = [
        (address.is_unspecified(), "the unspecified address"),
        (address.is_loopback(), "the loopback address"),
        (address.is_unicast_link_local(), "a link-local address"),
        (address.is_multicast(), "a multicast address"),
        (address.to_ipv4_mapped().is_some(), "an IPv4 address in IPv6 clothing"),
    ];
    kinds.iter().find(|(is, _)| *is).map(|&(_, kind)| kind)
}

/// A NIC's own MAC address.
pub(super) fn own_mac(field: &Field<'_>) -> Result<MacAddr, ConfigError> {
    const EXPECTED: &str =
        "the MAC address of the member's interface, for example \"00:00:5e:00:53:01\"";
    let unfit = match parse_mac(field.text(EXPECTED)?) {
        None => "",
        Some(mac) if mac == MacAddr::default() => ", the zero address",
        Some(mac) if mac.is_group() => ", a group address",
        Some(mac) => return Ok(mac),
    };
    Err(field.place.error(unfit, format!("give {EXPECTED}")))
}

/// A locally administered unicast MAC address.
pub(super) fn shared_mac(field: &Field<'_>) -> Result<MacAddr, ConfigError> {
    const EXPECTED: &str =
        "a locally administered unicast MAC address, for example \"02:00:5e:00:00:35\"";
    let text = field.text(EXPECTED)?;
    let unfit = match parse_mac(text) {
        None => "",
        Some(mac) if mac == MacAddr::default() => ", the zero address",
        Some(mac) if mac == MacAddr::BROADCAST => ", the broadcast address",
        Some(mac) if mac.is_group() => ", a group address",
        Some(mac) if mac.0[0] & 2 == 0 => ", an address of a manufacturer",
        Some(mac) => return Ok(mac),
    };
    Err(field.place.error(unfit, format!("give {EXPECTED}")))
}

/// Six pairs of hexadecimal digits with colons between.
fn parse_mac(text: &str) -> Option<MacAddr> {
    let mut mac = MacAddr::default();
    let mut parts = text.split(':');
    for byte in &mut mac.0 {
        let part = parts.next().filter(|part| part.len() == 2)?;
        if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// The MAC address of an IPv4 group (RFC 1112, section 6.4).
pub(super) fn group_mac_v4(group: Ipv4Addr) -> MacAddr {
    MacAddr::of_ipv4_group(group).expect("the address was checked to be a group's")
}

/// The MAC address of an IPv6 group (RFC 2464, section 7).
pub(super) fn group_mac_v6(group: Ipv6Addr) -> MacAddr {
    MacAddr::of_ipv6_group(group).expect("the address was checked to be a group's")
}

/// The MAC address of a group.
pub(super) fn group_mac(group: IpAddr) -> MacAddr {
    match group {
        IpAddr::V4(group) => group_mac_v4(group),
        IpAddr::V6(group) => group_mac_v6(group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_read_strictly() {
        assert_eq!(parse_mac("02:00:5E:00:35:0a"), Some(MacAddr([2, 0, 0x5e, 0, 0x35, 10])));
        for wrong in
            ["", "02:00:5e:00:35", "02:00:5e:00:35:01:02", "2:0:5e:0:35:1", "+2:00:5e:00:35:01"]
        {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn groups_map_to_mac_addresses_as_the_rfcs_say() {
        let v4 = group_mac("239.129.1.2".parse().unwrap());
        assert_eq!(v4.to_string(), "01:00:5e:01:01:02");
        let v6 = group_mac("ff12::7664:35".parse().unwrap());
        assert_eq!(v6.to_string(), "33:33:76:64:00:35");
    }
}
