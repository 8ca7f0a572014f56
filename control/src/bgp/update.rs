//! UPDATEs of peers: judged by their frame and then thrown away, since this node takes no routes.

use super::notification::{Notification, update};

/// The bit of an attribute's flags that says that its length has two bytes (RFC 4271 section 4.3).
const EXTENDED_LENGTH: u8 = 0x10;

/// Whether the path attributes of an UPDATE fill their field. Where they do not, routers take the
/// UPDATE for a withdrawal (RFC 7606 section 4): here there is nothing to withdraw.
///
/// # Errors
/// Malformed Attribute List, if the fields do not fit the body: then nothing in it can be told
/// from anything else (RFC 4271 section 6.3, RFC 7606 section 3).
pub(super) fn attributes_are_sound(body: &[u8]) -> Result<bool, Notification> {
    let malformed = || Notification::new(update::CODE, update::MALFORMED_ATTRIBUTES, []);
    let (_withdrawn, rest) = take_field(body).ok_or_else(malformed)?;
    let (mut attributes, _routes) = take_field(rest).ok_or_else(malformed)?;
    while !attributes.is_empty() {
        match take_attribute(attributes) {
            Some(rest) => attributes = rest,
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// A field with a length of two bytes before it, and what follows.
fn take_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// What follows the first path attribute.
fn take_attribute(bytes: &[u8]) -> Option<&[u8]> {
    match bytes {
        [flags, _, high, low, rest @ ..] if flags & EXTENDED_LENGTH != 0 => {
            rest.get(usize::from(u16::from_be_bytes([*high, *low]))..)
        }
        [flags, _, len, rest @ ..] if flags & EXTENDED_LENGTH == 0 => rest.get(usize::from(*len)..),
        _ => None,
    }
}
