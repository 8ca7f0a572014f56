//! Authentication of messages: HMAC-SHA-256 (RFC 2104), its first 128 bits.
//!
//! Nothing of a datagram is read before its MAC was found right, in constant time, but for its
//! length, its magic and the id of the key. Keys have ids so that they can be changed without a
//! pause: accept the new one everywhere, send with it everywhere, drop the old one.
//!
//! What the MAC cannot tell, whether a message is a repetition of an old one, the node itself
//! finds out, by sessions and sequence numbers.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::wire::{self, MESSAGE_LEN, Message, TAG_LEN};

/// Length of a key, in bytes: that of the hash (RFC 2104, section 3).
pub const KEY_LEN: usize = 32;
/// Length of a block of the hash, in bytes.
const BLOCK_LEN: usize = 64;

/// The number that messages name their key by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId(pub u8);

/// The keys of a cluster.
#[derive(Clone)]
pub struct Keyring {
    send: usize,
    keys: Vec<(KeyId, Hmac<Sha256>)>,
}

/// Why a set of keys is no [`Keyring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The key to send with is not among the keys.
    #[error("key {0} shall be sent with, but is not among the keys")]
    NoSendKey(u8),
    /// Two keys have the same id.
    #[error("two keys have the id {0}")]
    Duplicate(u8),
}

impl Keyring {
    /// Accepts messages under all of `keys` and sends with the one named `send`.
    ///
    /// # Errors
    /// [`KeyringError`]
    pub fn new(
        send: KeyId,
        keys: impl IntoIterator<Item = (KeyId, [u8; KEY_LEN])>,
    ) -> Result<Self, KeyringError> {
        let mut ring: Vec<(KeyId, Hmac<Sha256>)> = Vec::new();
        for (id, secret) in keys {
            if ring.iter().any(|&(other, _)| other == id) {
                return Err(KeyringError::Duplicate(id.0));
            }
            // A key shorter than the hash's block is filled up with zeros (RFC 2104, section 2).
            let mut block = [0; BLOCK_LEN];
            block[..KEY_LEN].copy_from_slice(&secret);
            ring.push((id, Hmac::new(&block.into())));
        }
        let at = ring.iter().position(|&(id, _)| id == send);
        Ok(Self { send: at.ok_or(KeyringError::NoSendKey(send.0))?, keys: ring })
    }
}

// Secrets stay out of logs and panics.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|&(id, _)| id.0).collect();
        write!(f, "Keyring(send {}, accept {ids:?})", self.keys[self.send].0.0)
    }
}

/// Why a datagram or a message was not taken. Its number indexes a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum OpenError {
    /// Shorter than the fixed part, or longer than a frame.
    #[error("length")]
    BadLength,
    /// Not a message of this protocol.
    #[error("magic")]
    BadMagic,
    /// Under a key that is not among ours.
    #[error("unknown key")]
    UnknownKey,
    /// The MAC is wrong: forged, damaged, or another key under the same id.
    #[error("authentication")]
    BadMac,
    /// Right, but of another major version: such nodes are only observed.
    #[error("other version")]
    OtherVersion,
    /// Right, but of another cluster.
    #[error("other cluster")]
    OtherCluster,
    /// Right, but of a type that is not known here.
    #[error("other type")]
    OtherType,
    /// Right, but with contents that make no sense.
    #[error("field")]
    BadField,
    /// What this node has sent itself: multicast comes back.
    #[error("own")]
    Own,
    /// From this node's slot, but not from this node: two nodes share a slot.
    #[error("duplicate slot")]
    DuplicateSlot,
    /// From a slot without a member.
    #[error("unknown slot")]
    UnknownSlot,
    /// A sequence number that is not above the last: repeated, or overtaken on the way.
    #[error("replayed")]
    Replayed,
    /// Of a session that has ended.
    #[error("stale session")]
    StaleSession,
    /// Of a session that has not proven yet that it is a present one: it has still to join.
    #[error("unproven session")]
    UnprovenSession,
}

impl OpenError {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::BadLength,
        Self::BadMagic,
        Self::UnknownKey,
        Self::BadMac,
        Self::OtherVersion,
        Self::OtherCluster,
        Self::OtherType,
        Self::BadField,
        Self::Own,
        Self::DuplicateSlot,
        Self::UnknownSlot,
        Self::Replayed,
        Self::StaleSession,
        Self::UnprovenSession,
    ];

    /// The number of its counter, below [`COUNT`](Self::COUNT).
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in metrics and in the status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadLength => "bad-length",
            Self::BadMagic => "bad-magic",
            Self::UnknownKey => "unknown-key",
            Self::BadMac => "bad-mac",
            Self::OtherVersion => "other-version",
            Self::OtherCluster => "other-cluster",
            Self::OtherType => "other-type",
            Self::BadField => "bad-field",
            Self::Own => "own",
            Self::DuplicateSlot => "duplicate-slot",
            Self::UnknownSlot => "unknown-slot",
            Self::Replayed => "replayed",
            Self::StaleSession => "stale-session",
            Self::UnprovenSession => "unproven-session",
        }
    }
}

/// The message in `datagram`, if a holder of one of the keys made it for this `cluster`.
///
/// # Errors
/// [`OpenError`], up to [`OpenError::BadField`]: the rest the node finds out.
pub fn open(keys: &Keyring, cluster: u16, datagram: &[u8]) -> Result<Box<Message>, OpenError> {
    let id = wire::key_id(datagram)?;
    let key = keys.keys.iter().find(|&&(key, _)| key == id);
    let (_, key) = key.ok_or(OpenError::UnknownKey)?;
    let (contents, tag) = datagram.split_at(datagram.len() - TAG_LEN);
    let mac = key.clone().chain_update(contents);
    mac.verify_truncated_left(tag).map_err(|_| OpenError::BadMac)?;
    wire::parse(datagram, cluster)
}

/// Makes `message` a datagram, in place of what `datagram` had.
pub fn seal(keys: &Keyring, message: &Message, datagram: &mut Vec<u8>) {
    let (id, key) = &keys.keys[keys.send];
    datagram.clear();
    datagram.reserve(MESSAGE_LEN);
    wire::emit(message, *id, datagram);
    let tag = key.clone().chain_update(&datagram).finalize().into_bytes();
    datagram.extend_from_slice(&tag[..TAG_LEN]);
}
