//! OPEN messages: who the peer is and what it can do (RFC 4271 section 4.2, RFC 5492).
//!
//! ```text
//!  0         1    3      5    9              10
//!  | version | AS | hold | ID | params length | parameters: type, length, value
//!                                                           2: capabilities: code, length, value
//! ```
//! They are read here and not by the codec crate: that one drops a whole capability for one address
//! family in it that it does not know, and then takes the middle of that capability for the
//! beginning of the next.

use std::net::Ipv4Addr;

use super::config::RemoteAs;
use super::notification::{Notification, open};

/// The version of BGP (RFC 4271 section 4.2).
const VERSION: u8 = 4;

/// The length of what precedes the parameters, in bytes.
const FIXED_LEN: usize = 10;

/// The one optional parameter that is not deprecated (RFC 5492 section 4).
const CAPABILITIES: u8 = 2;

/// What stands for a type of parameter, and in place of their length, where lengths have 16 bits
/// (RFC 9072 section 2).
const EXTENDED_LENGTH: u8 = 255;

/// The codes of the capabilities that are read, by IANA's registry "Capability Codes".
mod capability {
    pub const MULTIPROTOCOL: u8 = 1;
    pub const ROUTE_REFRESH: u8 = 2;
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    pub const GRACEFUL_RESTART: u8 = 64;
    pub const FOUR_OCTET_AS: u8 = 65;
}

/// What an OPEN says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// The AS: the capability's (RFC 6793) or, without it, the field's.
    pub asn: u32,
    /// The hold time, in seconds.
    pub hold_s: u16,
    /// The BGP Identifier.
    pub id: Ipv4Addr,
    /// What the speaker can do.
    pub capabilities: Capabilities,
}

/// The capabilities that matter to a speaker that announces unicast routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Takes IPv4 unicast routes. Without any multiprotocol capability it does all the same.
    pub v4: bool,
    /// Takes IPv6 unicast routes (RFC 4760).
    pub v6: bool,
    /// Takes IPv4 unicast routes with IPv6 next hops (RFC 8950).
    pub v4_by_v6: bool,
    /// Sends all routes again on request (RFC 2918).
    pub refresh: bool,
    /// AS numbers have four bytes in its messages (RFC 6793).
    pub four_octet_as: bool,
    /// Graceful restart (RFC 4724).
    pub graceful: Option<Graceful>,
}

/// What the graceful restart capability says (RFC 4724 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Graceful {
    /// The speaker has just restarted: it need not be waited for.
    pub restarting: bool,
    /// For how long its routes may be kept while it is gone, in seconds.
    pub time_s: u16,
    /// It keeps forwarding, for some family, while it is gone.
    pub forwards: bool,
}

impl Open {
    /// Reads the body of an OPEN of a speaker that must be of AS `remote_as`, for one of AS
    /// `local_as`.
    ///
    /// # Errors
    /// The NOTIFICATION that it demands (RFC 4271 section 6.2).
    pub fn read(body: &[u8], local_as: u32, remote_as: RemoteAs) -> Result<Self, Notification> {
        let Some((fixed, parameters)) = body.split_first_chunk::<FIXED_LEN>() else {
            return Err(error(open::UNSPECIFIC));
        };
        let [version, as_high, as_low, hold_high, hold_low, id @ .., parameters_len] = *fixed;
        if version != VERSION {
            let supported = u16::from(VERSION).to_be_bytes();
            return Err(Notification::new(open::CODE, open::UNSUPPORTED_VERSION, supported));
        }
        let as_field = u16::from_be_bytes([as_high, as_low]);
        let (capabilities, four_octet_as) = read_parameters(parameters_len, parameters)?;
        let asn = four_octet_as.unwrap_or(u32::from(as_field));
        if !remote_as.accepts(local_as, asn) {
            return Err(error(open::BAD_PEER_AS));
        }
        let id = Ipv4Addr::from(id);
        // RFC 6286 section 2.1: any number but 0 will do.
        if id.is_unspecified() {
            return Err(error(open::BAD_IDENTIFIER));
        }
        let hold_s = u16::from_be_bytes([hold_high, hold_low]);
        if matches!(hold_s, 1 | 2) {
            return Err(error(open::UNACCEPTABLE_HOLD_TIME));
        }
        Ok(Self { asn, hold_s, id, capabilities })
    }
}

fn error(subcode: u8) -> Notification {
    Notification::new(open::CODE, subcode, [])
}

/// Reads the optional parameters: what the capabilities say, and the four-byte AS number of them.
fn read_parameters(len: u8, bytes: &[u8]) -> Result<(Capabilities, Option<u32>), Notification> {
    let extended = len != 0 && bytes.first() == Some(&EXTENDED_LENGTH);
    let (len, mut rest) = match bytes {
        [_, high, low, rest @ ..] if extended => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ if extended => return Err(error(open::UNSPECIFIC)),
        _ => (usize::from(len), bytes),
    };
    if rest.len() != len {
        return Err(error(open::UNSPECIFIC));
    }
    let mut read = Reader { multiprotocol: false, four_octet_as: None, found: Default::default() };
    while !rest.is_empty() {
        let (kind, value) = take_value(&mut rest, extended)?;
        if kind != CAPABILITIES {
            return Err(error(open::UNSUPPORTED_PARAMETER));
        }
        let mut capabilities = value;
        while !capabilities.is_empty() {
            let (code, value) = take_value(&mut capabilities, false)?;
            read.capability(code, value)?;
        }
    }
    let mut found = read.found;
    // RFC 4760 section 8: who names no family speaks the one that BGP always had.
    found.v4 |= !read.multiprotocol;
    found.four_octet_as = read.four_octet_as.is_some();
    Ok((found, read.four_octet_as))
}

/// Takes a type, a length of one byte, or two, and a value of that length.
fn take_value<'a>(bytes: &mut &'a [u8], long: bool) -> Result<(u8, &'a [u8]), Notification> {
    let (kind, len, rest) = match **bytes {
        [kind, high, low, ref rest @ ..] if long => (kind, u16::from_be_bytes([high, low]), rest),
        [kind, len, ref rest @ ..] if !long => (kind, u16::from(len), rest),
        _ => return Err(error(open::UNSPECIFIC)),
    };
    let (value, rest) =
        rest.split_at_checked(usize::from(len)).ok_or_else(|| error(open::UNSPECIFIC))?;
    *bytes = rest;
    Ok((kind, value))
}

struct Reader {
    /// There is a multiprotocol capability, of whatever family.
    multiprotocol: bool,
    four_octet_as: Option<u32>,
    found: Capabilities,
}

impl Reader {
    /// Reads one capability: those that are not known are ignored (RFC 5492 section 3), and of
    /// those that are, the families that are not known.
    fn capability(&mut self, code: u8, value: &[u8]) -> Result<(), Notification> {
        let malformed = || Err(error(open::UNSPECIFIC));
        match (code, value) {
            (capability::MULTIPROTOCOL, [afi_high, afi_low, _, safi]) => {
                self.multiprotocol = true;
                self.found.v4 |= [*afi_high, *afi_low, *safi] == [0, 1, 1];
                self.found.v6 |= [*afi_high, *afi_low, *safi] == [0, 2, 1];
            }
            (capability::MULTIPROTOCOL, _) => return malformed(),
            (capability::ROUTE_REFRESH, []) => self.found.refresh = true,
            (capability::ROUTE_REFRESH, _) => return malformed(),
            (capability::EXTENDED_NEXT_HOP, triples) => {
                let (triples, []) = triples.as_chunks::<6>() else { return malformed() };
                // AFI 1, SAFI 1, next hop AFI 2.
                self.found.v4_by_v6 |= triples.contains(&[0, 1, 0, 1, 0, 2]);
            }
            (capability::GRACEFUL_RESTART, [high, low, families @ ..]) => {
                let (families, []) = families.as_chunks::<4>() else { return malformed() };
                self.found.graceful = Some(Graceful {
                    restarting: high & 0x80 != 0,
                    time_s: u16::from_be_bytes([high & 0x0f, *low]),
                    forwards: !families.is_empty(),
                });
            }
            (capability::GRACEFUL_RESTART, _) => return malformed(),
            (capability::FOUR_OCTET_AS, [a, b, c, d]) => {
                self.four_octet_as = Some(u32::from_be_bytes([*a, *b, *c, *d]));
            }
            (capability::FOUR_OCTET_AS, _) => return malformed(),
            _ => {}
        }
        Ok(())
    }
}
