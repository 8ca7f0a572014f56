//! Messages out of a stream of bytes: the header that all have (RFC 4271 section 4.1).
//!
//! ```text
//!  0                16        18     19
//!  | marker: 16 x ff | length | type | body
//! ```

use super::notification::{Notification, header};

/// The length of a message's header, in bytes.
pub(super) const HEADER_LEN: usize = 19;

/// The length of the longest message, header included, in bytes (RFC 4271 section 4.1): extended
/// messages (RFC 8654) are not negotiated.
pub(super) const MESSAGE_MAX: usize = 4096;

const MARKER_LEN: usize = 16;

/// The types of messages (RFC 4271 section 4.1, RFC 2918).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Open = 1,
    Update = 2,
    Notification = 3,
    Keepalive = 4,
    RouteRefresh = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Open, Self::Update, Self::Notification, Self::Keepalive, Self::RouteRefresh]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// The shortest and the longest message of the type, header included, in bytes. RFC 2918 gives
    /// a ROUTE-REFRESH no other length than this.
    const fn lengths(self) -> (usize, usize) {
        match self {
            Self::Open => (29, MESSAGE_MAX),
            Self::Update => (23, MESSAGE_MAX),
            Self::Notification => (21, MESSAGE_MAX),
            Self::Keepalive => (HEADER_LEN, HEADER_LEN),
            Self::RouteRefresh => (23, 23),
        }
    }
}

/// One whole message, its header found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: Kind,
    /// What follows the header: at least as long as its type demands.
    pub body: Vec<u8>,
}

/// Cuts a stream into messages. Holds one message at most, [`MESSAGE_MAX`] bytes.
#[derive(Debug, Default)]
pub(super) struct Framer {
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// What the header says, once it is whole.
    open: Option<(Kind, usize)>,
    body: Vec<u8>,
}

impl Framer {
    /// How many bytes are kept.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.header_len + self.body.capacity()
    }

    /// Takes bytes off the front of `bytes` up to the end of a message: the message, or `None` when
    /// all bytes are taken and it is not whole. A header is judged as soon as it is whole.
    ///
    /// # Errors
    /// The NOTIFICATION that a bad header demands (RFC 4271 section 6.1). What follows is lost: the
    /// connection has no more messages.
    pub fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, Notification> {
        let (kind, body_len) = match self.open {
            Some(open) => open,
            None => {
                let part = split(bytes, HEADER_LEN - self.header_len);
                self.header[self.header_len..][..part.len()].copy_from_slice(part);
                self.header_len += part.len();
                if self.header_len < HEADER_LEN {
                    return Ok(None);
                }
                let (kind, body_len) = *self.open.insert(judge(&self.header)?);
                self.body.reserve_exact(body_len);
                (kind, body_len)
            }
        };
        self.body.extend_from_slice(split(bytes, body_len - self.body.len()));
        if self.body.len() < body_len {
            return Ok(None);
        }
        self.open = None;
        self.header_len = 0;
        Ok(Some(Frame { kind, body: std::mem::take(&mut self.body) }))
    }
}

/// Takes up to `len` bytes off the front of `bytes`.
fn split<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (part, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest;
    part
}

/// The type and the length of the body that a header announces.
fn judge(bytes: &[u8; HEADER_LEN]) -> Result<(Kind, usize), Notification> {
    let (marker, rest) = bytes.split_at(MARKER_LEN);
    if marker.iter().any(|byte| *byte != 0xff) {
        return Err(Notification::new(header::CODE, header::NOT_SYNCHRONIZED, []));
    }
    let (length_field, kind) = rest.split_at(2);
    let length = usize::from(u16::from_be_bytes([length_field[0], length_field[1]]));
    let bad_length = || Notification::new(header::CODE, header::BAD_LENGTH, length_field);
    if !(HEADER_LEN..=MESSAGE_MAX).contains(&length) {
        return Err(bad_length());
    }
    let kind =
        Kind::of(kind[0]).ok_or_else(|| Notification::new(header::CODE, header::BAD_TYPE, kind))?;
    let (least, most) = kind.lengths();
    if !(least..=most).contains(&length) {
        return Err(bad_length());
    }
    Ok((kind, length - HEADER_LEN))
}

/// A message of `kind` around `body`.
///
/// # Panics
/// If it is longer than a message may be.
pub(super) fn message(kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = HEADER_LEN + body.len();
    assert!(length <= MESSAGE_MAX, "a message of {length} bytes");
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&[0xff; MARKER_LEN]);
    bytes.extend_from_slice(&(length as u16).to_be_bytes());
    bytes.push(kind as u8);
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header_of(length: u16, kind: u8) -> Vec<u8> {
        let mut bytes = vec![0xff; MARKER_LEN];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(kind);
        bytes
    }

    #[test]
    fn lengths_are_judged_by_type() {
        for (kind, least, most) in
            [(1, 29, 4096), (2, 23, 4096), (3, 21, 4096), (4, 19, 19), (5, 23, 23)]
        {
            for length in [0, 18, least - 1, least, most, most + 1, 4097, 65535] {
                let taken = Framer::default().take(&mut header_of(length, kind).as_slice());
                if (least..=most).contains(&length) {
                    assert!(taken.is_ok(), "{kind} {length}");
                } else {
                    let bad = Notification::new(1, 2, length.to_be_bytes());
                    assert_eq!(taken, Err(bad), "{kind} {length}");
                }
            }
        }
    }

    #[test]
    fn an_unknown_type_is_told_back() {
        for kind in [0, 6, 255] {
            let taken = Framer::default().take(&mut header_of(19, kind).as_slice());
            assert_eq!(taken, Err(Notification::new(1, 3, [kind])));
        }
    }

    proptest! {
        /// Messages come out as they went in, however the stream is cut.
        #[test]
        fn cuts_do_not_matter(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 4..200), 1..6),
            cuts in prop::collection::vec(1_usize..300, 1..20),
        ) {
            let stream: Vec<u8> =
                bodies.iter().flat_map(|body| message(Kind::Update, body)).collect();
            let mut framer = Framer::default();
            let mut frames = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let mut part = split(&mut rest, *cut);
                while let Some(frame) = framer.take(&mut part).unwrap() {
                    prop_assert_eq!(frame.kind, Kind::Update);
                    frames.push(frame.body);
                }
                prop_assert!(part.is_empty());
            }
            prop_assert_eq!(frames, bodies);
        }

        /// Whatever comes: all of it is taken or an error ends it, and no more than a message is held.
        #[test]
        fn anything_is_taken_or_refused(
            start in prop_oneof![Just(vec![0xff; 16]), Just(Vec::new())],
            bytes in prop::collection::vec(any::<u8>(), 0..10_000),
        ) {
            let stream = [start, bytes].concat();
            let mut rest = stream.as_slice();
            let mut framer = Framer::default();
            loop {
                let before = rest.len();
                let taken = framer.take(&mut rest);
                prop_assert!(framer.held() <= MESSAGE_MAX);
                match taken {
                    Ok(Some(_)) => prop_assert!(rest.len() < before),
                    Ok(None) => {
                        prop_assert!(rest.is_empty());
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }
}
