//! NOTIFICATIONs: why one side ends a session (RFC 4271 section 4.5).

use std::fmt;

/// Why a session ends: an error code, a subcode and what the error is about.
///
/// Displayed as an operator reads it: the names that IANA's registry "BGP Error (Notification)
/// Codes" gives, or the numbers where it has none, then the data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The subcode: its meaning is the code's.
    pub subcode: u8,
    /// What the error is about; its form is the code's and subcode's.
    pub data: Vec<u8>,
}

/// The longest word to the other side's operator, in bytes (RFC 9003 section 2).
const COMMUNICATION_MAX: usize = 255;

/// The most data that is displayed, in bytes.
const DISPLAYED_MAX: usize = 32;

/// Message Header Error.
pub(super) mod header {
    pub const CODE: u8 = 1;
    pub const NOT_SYNCHRONIZED: u8 = 1;
    pub const BAD_LENGTH: u8 = 2;
    pub const BAD_TYPE: u8 = 3;
}

/// OPEN Message Error.
pub(super) mod open {
    pub const CODE: u8 = 2;
    pub const UNSPECIFIC: u8 = 0;
    pub const UNSUPPORTED_VERSION: u8 = 1;
    pub const BAD_PEER_AS: u8 = 2;
    pub const BAD_IDENTIFIER: u8 = 3;
    pub const UNSUPPORTED_PARAMETER: u8 = 4;
    pub const UNACCEPTABLE_HOLD_TIME: u8 = 6;
}

/// UPDATE Message Error.
pub(super) mod update {
    pub const CODE: u8 = 3;
    pub const MALFORMED_ATTRIBUTES: u8 = 1;
}

/// Hold Timer Expired.
pub(super) const HOLD_TIMER_EXPIRED: u8 = 4;

/// Finite State Machine Error, with the subcodes of RFC 6608.
pub(super) mod fsm {
    pub const CODE: u8 = 5;
    pub const IN_OPEN_SENT: u8 = 1;
    pub const IN_OPEN_CONFIRM: u8 = 2;
    pub const IN_ESTABLISHED: u8 = 3;
}

/// Cease, with the subcodes of RFC 4486 and RFC 9384.
pub(super) mod cease {
    pub const CODE: u8 = 6;
    pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
    pub const PEER_DECONFIGURED: u8 = 3;
    pub const ADMINISTRATIVE_RESET: u8 = 4;
    pub const CONNECTION_REJECTED: u8 = 5;
    pub const COLLISION: u8 = 7;
    pub const BFD_DOWN: u8 = 10;
}

impl Notification {
    pub(super) fn new(code: u8, subcode: u8, data: impl Into<Vec<u8>>) -> Self {
        Self { code, subcode, data: data.into() }
    }

    /// Reads the body of a NOTIFICATION: at least a code and a subcode, as its frame was judged.
    pub(super) fn read(body: &[u8]) -> Self {
        let at = |index| body.get(index).copied().unwrap_or_default();
        Self::new(at(0), at(1), body.get(2..).unwrap_or_default())
    }

    pub(super) fn cease(subcode: u8) -> Self {
        Self::new(cease::CODE, subcode, [])
    }

    /// Administrative Shutdown with a word to the peer's operator: cut to what fits, at the end of
    /// a character. Without a word, a length of 0 (RFC 9003 section 2).
    pub(super) fn administrative_shutdown(text: Option<&str>) -> Self {
        let text = text.unwrap_or_default();
        let end = (0..=COMMUNICATION_MAX.min(text.len()))
            .rfind(|end| text.is_char_boundary(*end))
            .unwrap_or_default();
        let mut data = vec![end as u8];
        data.extend_from_slice(&text.as_bytes()[..end]);
        Self::new(cease::CODE, cease::ADMINISTRATIVE_SHUTDOWN, data)
    }

    /// The word to this node's operator that an administrative shutdown or reset bears: what is not
    /// as RFC 9003 says, or empty, is none.
    pub fn communication(&self) -> Option<&str> {
        let bears = matches!(
            (self.code, self.subcode),
            (cease::CODE, cease::ADMINISTRATIVE_SHUTDOWN | cease::ADMINISTRATIVE_RESET)
        );
        let (&len, rest) = self.data.split_first().filter(|_| bears)?;
        let text = rest.get(..usize::from(len))?;
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }
}

const fn code_name(code: u8) -> Option<&'static str> {
    Some(match code {
        header::CODE => "Message Header Error",
        open::CODE => "OPEN Message Error",
        update::CODE => "UPDATE Message Error",
        HOLD_TIMER_EXPIRED => "Hold Timer Expired",
        fsm::CODE => "Finite State Machine Error",
        cease::CODE => "Cease",
        7 => "ROUTE-REFRESH Message Error",
        8 => "Send Hold Timer Expired",
        _ => return None,
    })
}

const fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (header::CODE, header::NOT_SYNCHRONIZED) => "Connection Not Synchronized",
        (header::CODE, header::BAD_LENGTH) => "Bad Message Length",
        (header::CODE, header::BAD_TYPE) => "Bad Message Type",
        (open::CODE, open::UNSUPPORTED_VERSION) => "Unsupported Version Number",
        (open::CODE, open::BAD_PEER_AS) => "Bad Peer AS",
        (open::CODE, open::BAD_IDENTIFIER) => "Bad BGP Identifier",
        (open::CODE, open::UNSUPPORTED_PARAMETER) => "Unsupported Optional Parameter",
        (open::CODE, open::UNACCEPTABLE_HOLD_TIME) => "Unacceptable Hold Time",
        (open::CODE, 7) => "Unsupported Capability",
        (open::CODE, 11) => "Role Mismatch",
        (update::CODE, update::MALFORMED_ATTRIBUTES) => "Malformed Attribute List",
        (update::CODE, 2) => "Unrecognized Well-known Attribute",
        (update::CODE, 3) => "Missing Well-known Attribute",
        (update::CODE, 4) => "Attribute Flags Error",
        (update::CODE, 5) => "Attribute Length Error",
        (update::CODE, 6) => "Invalid ORIGIN Attribute",
        (update::CODE, 8) => "Invalid NEXT_HOP Attribute",
        (update::CODE, 9) => "Optional Attribute Error",
        (update::CODE, 10) => "Invalid Network Field",
        (update::CODE, 11) => "Malformed AS_PATH",
        (fsm::CODE, fsm::IN_OPEN_SENT) => "Unexpected Message in OpenSent",
        (fsm::CODE, fsm::IN_OPEN_CONFIRM) => "Unexpected Message in OpenConfirm",
        (fsm::CODE, fsm::IN_ESTABLISHED) => "Unexpected Message in Established",
        (cease::CODE, 1) => "Maximum Number of Prefixes Reached",
        (cease::CODE, cease::ADMINISTRATIVE_SHUTDOWN) => "Administrative Shutdown",
        (cease::CODE, cease::PEER_DECONFIGURED) => "Peer De-configured",
        (cease::CODE, cease::ADMINISTRATIVE_RESET) => "Administrative Reset",
        (cease::CODE, cease::CONNECTION_REJECTED) => "Connection Rejected",
        (cease::CODE, 6) => "Other Configuration Change",
        (cease::CODE, cease::COLLISION) => "Connection Collision Resolution",
        (cease::CODE, 8) => "Out of Resources",
        (cease::CODE, 9) => "Hard Reset",
        (cease::CODE, cease::BFD_DOWN) => "BFD Down",
        _ => return None,
    })
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match code_name(self.code) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "error {}", self.code)?,
        }
        match subcode_name(self.code, self.subcode) {
            Some(name) => write!(f, ", {name}")?,
            None if self.subcode != 0 => write!(f, ", subcode {}", self.subcode)?,
            None => {}
        }
        if let Some(text) = self.communication() {
            // Control characters from outside must not reach an operator's terminal.
            return write!(f, ": {}", text.escape_debug());
        }
        if self.data.iter().any(|byte| *byte != 0) {
            f.write_str(", data ")?;
            for byte in self.data.iter().take(DISPLAYED_MAX) {
                write!(f, "{byte:02x}")?;
            }
            if self.data.len() > DISPLAYED_MAX {
                write!(f, " and {} more bytes", self.data.len() - DISPLAYED_MAX)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_data_are_displayed() {
        let cases = [
            (Notification::new(2, 2, [0xfd, 0xe9]), "OPEN Message Error, Bad Peer AS, data fde9"),
            (Notification::new(4, 0, []), "Hold Timer Expired"),
            (Notification::new(6, 99, []), "Cease, subcode 99"),
            (Notification::new(200, 0, [1]), "error 200, data 01"),
            (Notification::administrative_shutdown(None), "Cease, Administrative Shutdown"),
            (
                Notification::administrative_shutdown(Some("back at 5\u{1b}[2J")),
                "Cease, Administrative Shutdown: back at 5\\u{1b}[2J",
            ),
        ];
        for (notification, displayed) in cases {
            assert_eq!(notification.to_string(), displayed);
        }
        let long = Notification::new(9, 9, vec![7; 40]).to_string();
        assert!(long.ends_with(" and 8 more bytes"), "{long}");
    }

    #[test]
    fn a_long_word_is_cut_between_characters() {
        let text = "ä".repeat(200);
        let notification = Notification::administrative_shutdown(Some(&text));
        assert_eq!(notification.data.len(), 1 + 254);
        assert_eq!(notification.communication().unwrap(), "ä".repeat(127));
    }

    #[test]
    fn a_word_that_is_none_is_not_read() {
        for data in [&[][..], &[0], &[5, b'a'], &[1, 0xff]] {
            assert_eq!(Notification::new(6, 2, data).communication(), None, "{data:?}");
        }
        assert_eq!(Notification::new(6, 1, *b"\x01a").communication(), None);
    }
}
