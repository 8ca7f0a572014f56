//! The key file: the cluster's secrets, the same on all nodes.
//!
//! ```text
//! # comment
//! hash 00112233445566778899aabbccddeeff      the key of the client hash, 16 bytes
//! 1    0011...eeff                           a heartbeat key, id 1, 32 bytes
//! 2    0123...cdef send                      another; this one signs
//! ```
//!
//! One heartbeat key signs what this node sends: the one marked `send`, else the first. All are
//! accepted. So a key is changed without a pause: add the new one on all nodes, then mark it
//! `send` on all nodes, then remove the old one.
//!
//! The hash key is separate and stays: clients move to other buckets when it changes, and nodes
//! that disagree about it serve the same client twice.

use std::fmt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::ConfigError;
use super::reader::Errors;

/// The cluster's secrets: the contents of the key file.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    hash_key: [u8; HASH_KEY_LEN],
    /// At least one.
    heartbeat: Vec<HeartbeatKey>,
    /// Index of the one that signs.
    sending: usize,
}

/// A key that heartbeats are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct HeartbeatKey {
    /// Its number, 1..=255, as heartbeats carry it.
    pub id: u8,
    /// The secret.
    pub secret: [u8; HEARTBEAT_KEY_LEN],
}

/// Length of a heartbeat key, in bytes: that of the hash (RFC 2104, section 3).
pub const HEARTBEAT_KEY_LEN: usize = 32;
/// Length of the client hash's key, in bytes.
pub const HASH_KEY_LEN: usize = 16;
/// The largest number of heartbeat keys. A rotation needs two.
const KEYS_MAX: usize = 8;

impl Keys {
    /// The key of the client hash. Changes only when the whole cluster starts anew.
    pub fn hash_key(&self) -> [u8; HASH_KEY_LEN] {
        self.hash_key
    }

    /// The seed of the assignment of buckets to nodes, derived from the hash key.
    pub fn assignment_seed(&self) -> [u8; 16] {
        self.derived(b"vipdp assignment seed")
    }

    /// The key that signs.
    pub fn sending(&self) -> &HeartbeatKey {
        &self.heartbeat[self.sending]
    }

    /// The keys that are accepted, the signing one among them, in the order of the file.
    pub fn accepted(&self) -> &[HeartbeatKey] {
        &self.heartbeat
    }

    /// What may be told of the hash key so that nodes find out that theirs differ.
    pub(super) fn hash_key_fingerprint(&self) -> [u8; 16] {
        self.derived(b"vipdp hash key fingerprint")
    }

    /// A value that only holders of the hash key can compute and that tells nothing about it.
    fn derived(&self, purpose: &[u8]) -> [u8; 16] {
        let digest = Sha256::new().chain_update(purpose).chain_update(self.hash_key).finalize();
        let mut value = [0; 16];
        value.copy_from_slice(&digest[..16]);
        value
    }
}

// Secrets stay out of logs and panics.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("heartbeat", &self.heartbeat)
            .field("sending", &self.sending)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HeartbeatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeartbeatKey({})", self.id)
    }
}

/// Text of a new key file with these secrets.
pub fn key_file(hash_key: &[u8; HASH_KEY_LEN], heartbeat: &HeartbeatKey) -> String {
    format!(
        "# Secrets of a vipdp cluster: the same file on all nodes, mode 0600.\n\
         # The key of the client hash. Keep it: clients change nodes when it changes.\n\
         hash {}\n\
         # Heartbeat keys, `ID SECRET [send]`. All are accepted; the one marked `send` signs, or\n\
         # the first. To change the key: add a new line on all nodes, then mark it `send` on all\n\
         # nodes, then remove the old line.\n\
         {} {}\n",
        hex(hash_key),
        heartbeat.id,
        hex(&heartbeat.secret)
    )
}

/// Reads the key file. Never quotes what stands in it: errors end up in logs.
pub(super) fn read(path: &Path, text: &str, errors: &mut Errors) -> Option<Keys> {
    let before = errors.len();
    let mut reader = KeyReader { path, hash: None, keys: Vec::new(), sending: None, errors };
    for (at, line) in text.lines().enumerate() {
        let words: Vec<_> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["hash", secret] => reader.hash_line(at + 1, secret),
            [id, secret] => reader.key_line(at + 1, id, secret, false),
            [id, secret, "send"] => reader.key_line(at + 1, id, secret, true),
            _ => reader.error(
                Some(at + 1),
                "a line that is neither a hash key nor a heartbeat key",
                LINE_REMEDY,
            ),
        }
    }
    reader.finish(before)
}

const LINE_REMEDY: &str = "write `hash HEX` (32 digits), or `ID HEX` (1..255, 64 digits), the latter with or without `send`";

struct KeyReader<'a> {
    path: &'a Path,
    hash: Option<[u8; HASH_KEY_LEN]>,
    keys: Vec<(usize, HeartbeatKey)>,
    /// The line of the key that is marked, and its index.
    sending: Option<(usize, usize)>,
    errors: &'a mut Errors,
}

impl KeyReader<'_> {
    fn error(&mut self, line: Option<usize>, found: &str, remedy: &str) {
        self.errors.push(ConfigError {
            file: self.path.to_owned(),
            line,
            key: None,
            found: found.into(),
            remedy: remedy.into(),
        });
    }

    fn hash_line(&mut self, line: usize, secret: &str) {
        if self.hash.is_some() {
            return self.error(Some(line), "a second `hash` line", "keep one of them");
        }
        match secret_of(secret) {
            Some(key) => self.hash = Some(key),
            None => self.error(
                Some(line),
                "a hash key that is not 32 hexadecimal digits, or all zeros",
                "take the line over from another node, or from a file that `vipdp keygen` makes",
            ),
        }
    }

    fn key_line(&mut self, line: usize, id: &str, secret: &str, sends: bool) {
        let Some(id) = id.parse::<u8>().ok().filter(|&id| id != 0) else {
            return self.error(
                Some(line),
                "a line that starts with neither `hash` nor a key id",
                LINE_REMEDY,
            );
        };
        let Some(secret) = secret_of(secret) else {
            let found = format!("key {id} that is not 64 hexadecimal digits, or all zeros");
            let remedy =
                "take the line over from another node, or from a file that `vipdp keygen` makes";
            return self.error(Some(line), &found, remedy);
        };
        if let Some((first, _)) = self.keys.iter().find(|(_, key)| key.id == id) {
            let found = format!("key id {id}, which line {first} has too");
            return self.error(Some(line), &found, "number the keys differently");
        }
        if let Some((first, _)) = self.keys.iter().find(|(_, key)| key.secret == secret) {
            let found = format!("key {id} with the same secret as line {first}");
            return self.error(Some(line), &found, "make a new secret with `vipdp keygen`");
        }
        if sends && let Some((first, _)) = self.sending {
            let found = format!("a second key marked `send`, after line {first}");
            return self.error(Some(line), &found, "mark one key");
        }
        if sends {
            self.sending = Some((line, self.keys.len()));
        }
        self.keys.push((line, HeartbeatKey { id, secret }));
    }

    fn finish(mut self, errors_before: usize) -> Option<Keys> {
        if self.errors.len() > errors_before {
            return None;
        }
        if self.keys.len() > KEYS_MAX {
            let found = format!("{} heartbeat keys", self.keys.len());
            let remedy = format!("keep at most {KEYS_MAX}: remove old ones");
            self.error(None, &found, &remedy);
        }
        if self.keys.is_empty() {
            let remedy = "make the file with `vipdp keygen`, once for the cluster";
            self.error(None, "no heartbeat key", remedy);
        }
        if self.hash.is_none() {
            let remedy = "take the line over from another node, or make the file with \
                          `vipdp keygen`, once for the cluster";
            self.error(None, "no `hash` line", remedy);
        }
        if self.errors.len() > errors_before {
            return None;
        }
        let sending = self.sending.map_or(0, |(_, index)| index);
        let heartbeat = self.keys.into_iter().map(|(_, key)| key).collect();
        Some(Keys { hash_key: self.hash?, heartbeat, sending })
    }
}

/// `N` bytes from twice as many hexadecimal digits; `None` also if they are all zero.
fn secret_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut secret = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in secret.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    secret.iter().any(|&byte| byte != 0).then_some(secret)
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Keys, Errors> {
        let mut errors = Errors::new();
        read(Path::new("cluster.key"), text, &mut errors).ok_or(errors)
    }

    fn text(lines: &[&str]) -> String {
        let (one, two) = ("11".repeat(32), "22".repeat(32));
        lines.join("\n").replace("ONE", &one).replace("TWO", &two).replace("HASH", &"ab".repeat(16))
    }

    #[test]
    fn a_new_key_file_reads_back() {
        let key = HeartbeatKey { id: 7, secret: [3; 32] };
        let keys = keys(&key_file(&[9; 16], &key)).unwrap();
        assert_eq!(keys.hash_key(), [9; 16]);
        assert_eq!(keys.accepted(), std::slice::from_ref(&key));
        assert_eq!(*keys.sending(), key);
    }

    #[test]
    fn rotation_never_moves_a_client_and_never_leaves_a_key_unknown() {
        let steps = [
            text(&["hash HASH", "1 ONE"]),
            text(&["hash HASH", "1 ONE", "2 TWO"]),
            text(&["hash HASH", "1 ONE", "2 TWO send"]),
            text(&["hash HASH", "2 TWO"]),
        ]
        .map(|text| keys(&text).unwrap());
        assert_eq!(steps.each_ref().map(|keys| keys.sending().id), [1, 1, 2, 2]);
        for (from, to) in steps.iter().zip(&steps[1..]) {
            assert!(to.accepted().contains(from.sending()));
            assert!(from.accepted().contains(to.sending()));
            assert_eq!(from.hash_key(), to.hash_key());
            assert_eq!(from.assignment_seed(), to.assignment_seed());
        }
    }

    #[test]
    fn neither_debug_nor_errors_show_a_secret() {
        let good = keys(&text(&["hash HASH", "1 ONE"])).unwrap();
        assert!(!format!("{good:?}").contains("17, 17"));
        let wrong = text(&["hash HASH0", "1 ONE0", "x TWO", "1 TWO send now"]);
        let errors = keys(&wrong).unwrap_err();
        assert_eq!(errors.len(), 4);
        for error in errors {
            let shown = error.to_string();
            assert!(!["abab", "1111", "2222"].iter().any(|part| shown.contains(part)), "{shown}");
        }
    }
}
