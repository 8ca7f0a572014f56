//! `[[bgp.peer]]`: the routers that routes are announced to.

use std::net::IpAddr;

use super::address;
use super::bgp::{self, BGP_PEERS_MAX, BgpPeerConfig, BgpTarget, Password};
use super::error::ConfigError;
use super::node;
use super::reader::{Errors, Field, Located, Place, Section};
use crate::bgp::RemoteAs;

/// What was read of the tables.
pub(super) struct PeersRead<'s> {
    /// The peers that are right.
    pub(super) configs: Vec<BgpPeerConfig>,
    /// Their addresses.
    pub(super) addresses: Vec<Located<'s, IpAddr>>,
    /// Where a password stands, if there is one.
    pub(super) secret: Option<Place<'s>>,
}

/// RFC 4271, section 2.
const PORT_DEFAULT: u16 = 179;
/// `TCP_MD5SIG_MAXKEYLEN` of the kernel's include/uapi/linux/tcp.h.
const PASSWORD_LEN_MAX: usize = 80;

/// Reads the tables, for a node of the autonomous system `own_as`.
pub(super) fn read<'s>(
    section: &mut Section<'s>,
    own_as: Option<u32>,
    errors: &mut Errors,
) -> PeersRead<'s> {
    let mut read = PeersRead { configs: Vec::new(), addresses: Vec::new(), secret: None };
    let example = "[[bgp.peer]] with address = \"10.1.1.1\", as = \"external\"";
    let expected = "one table per peer, each with its own header [[bgp.peer]]";
    let list = section.required("peer", example, errors, |f| f.elements(expected));
    let Some(Located { value: fields, place }) = list else { return read };
    if fields.is_empty() || fields.len() > BGP_PEERS_MAX {
        let found = format!("{} peers", fields.len());
        errors.push(place.error_found(found, format!("give 1 to {BGP_PEERS_MAX}")));
    }
    let mut targets: Vec<Located<'s, BgpTarget>> = Vec::new();
    for field in fields {
        let section = match field.section() {
            Ok(section) => section,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let Some((config, target)) = peer(section, own_as, &mut read, errors) else { continue };
        match targets.iter().find(|first| first.value == target.value) {
            Some(first) => {
                let why =
                    format!(", which is {} in line {}", first.place.key(), first.place.line());
                errors.push(target.place.error(&why, "give each peer once"));
            }
            None => targets.push(target),
        }
        read.configs.push(config);
    }
    read
}

fn peer<'s>(
    mut section: Section<'s>,
    own_as: Option<u32>,
    read: &mut PeersRead<'s>,
    errors: &mut Errors,
) -> Option<(BgpPeerConfig, Located<'s, BgpTarget>)> {
    let table = section.place.clone();
    let target = target(&mut section, &table, read, errors);
    let remote_as = section.required("as", "as = \"external\"", errors, |f| remote_as(f, own_as));
    let password = section.optional("password", errors, |f| {
        read.secret = Some(f.place.clone());
        password(f)
    });
    let port = section.or_default("port", PORT_DEFAULT, errors, |f| {
        f.integer(1..=65_535, "a TCP port").map(|port| port as u16)
    });
    let multihop = section.optional("multihop", errors, |f| {
        f.integer(1..=255, "a number of hops").map(|hops| hops as u8)
    });
    let passive = section.or_default("passive", false, errors, Field::boolean);
    let bfd = section.optional("bfd", errors, Field::boolean);
    section.finish(errors);
    let far = multihop.as_ref().filter(|hops| hops.value > 1);
    if let (Some(far), Some(Located { value: BgpTarget::Interface(_), .. })) = (far, &target) {
        let why = " beside `interface`, whose peer is one hop away";
        errors.push(far.place.error(why, "remove it, or give the peer's `address`"));
    }
    if let (Some(_), Some(bfd)) = (far, bfd.as_ref().filter(|bfd| bfd.value)) {
        let why = " beside `multihop`: BFD watches peers that are one hop away (RFC 5881)";
        errors.push(bfd.place.error(why, "remove one of the two"));
    }
    let is_near = far.is_none();
    let target = target?;
    let config = BgpPeerConfig {
        target: target.value.clone(),
        remote_as: remote_as?.value,
        password: password.map(|password| password.value),
        port,
        multihop: multihop.map_or(1, |hops| hops.value),
        passive,
        bfd: bfd.map_or(is_near, |bfd| bfd.value),
    };
    Some((config, target))
}

/// One of `address` and `interface`.
fn target<'s>(
    section: &mut Section<'s>,
    table: &Place<'s>,
    read: &mut PeersRead<'s>,
    errors: &mut Errors,
) -> Option<Located<'s, BgpTarget>> {
    const EXAMPLE: &str = "address = \"10.1.1.1\" or interface = \"eth0\"";
    let has = (section.has("address"), section.has("interface"));
    let before = errors.len();
    let address = section.optional("address", errors, peer_address);
    let interface = section.optional("interface", errors, node::interface);
    match has {
        (false, false) => {
            errors.push(table.error_found("no address".into(), format!("add {EXAMPLE}")));
        }
        (true, true) if errors.len() == before => {
            let place = interface.as_ref().map_or(table, |interface| &interface.place);
            errors.push(place.error(" beside `address`", "give one of the two"));
        }
        _ => {}
    }
    if let Some(Located { value, place }) = address {
        read.addresses.push(Located { value, place: place.clone() });
        return Some(Located { value: BgpTarget::Address(value), place });
    }
    interface.map(|Located { value, place }| Located { value: BgpTarget::Interface(value), place })
}

fn peer_address(field: &Field<'_>) -> Result<IpAddr, ConfigError> {
    const EXPECTED: &str = "the peer's unicast address";
    if let Ok(IpAddr::V6(address)) = field.text(EXPECTED)?.parse()
        && address.is_unicast_link_local()
    {
        let remedy = "give the `interface` instead: the peer's address is then found";
        return Err(field.place.error(", a link-local address", remedy));
    }
    address::unicast(field, EXPECTED)
}

fn remote_as(field: &Field<'_>, own_as: Option<u32>) -> Result<RemoteAs, ConfigError> {
    const EXPECTED: &str = "the number of the peer's autonomous system, or \"external\"";
    if let Ok(text) = field.text(EXPECTED) {
        return match text {
            "external" => Ok(RemoteAs::External),
            "internal" => Err(internal(field)),
            _ => Err(field.place.error("", format!("give {EXPECTED}"))),
        };
    }
    let number = bgp::as_number(field)? as u32;
    if own_as == Some(number) {
        return Err(internal(field));
    }
    Ok(RemoteAs::Exactly(number))
}

/// Routers pass routes of internal peers only to external ones (RFC 4271, section 9.2.1): those of
/// many nodes would have to be reflected, and nothing is gained by it.
fn internal(field: &Field<'_>) -> ConfigError {
    let why = ", this node's own: routers do not pass on to each other what they hear from peers \
               of their own AS";
    let remedy = "give the nodes an AS of their own, for example as = 65011 in [bgp]";
    field.place.error(why, remedy)
}

/// A secret, which no error quotes.
fn password(field: &Field<'_>) -> Result<Password, ConfigError> {
    let remedy = format!("give 1 to {PASSWORD_LEN_MAX} bytes between quotes");
    let found = |what: String| field.place.error_found(what, remedy.clone());
    let text = field.text("").map_err(|_| found("something else than a string".into()))?;
    if text.is_empty() || text.len() > PASSWORD_LEN_MAX {
        return Err(found(format!("{} bytes", text.len())));
    }
    Ok(Password::new(text.to_owned()))
}
