//! What vipdp changed and the kernel does not undo by itself, on disk.
//!
//! ```text
//!   STATE_DIR/eth0.lock    held with flock(2) for the life of the process; its content is the pid
//!   STATE_DIR/eth0.state   JSON; written whole, synced and renamed before each change it tells of
//! ```
//!
//! Always: a change that stands on the host stands in the file. The reverse need not hold, since a
//! process can die between the two: undoing looks at the host first.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use vipdp_core::prefix::{Prefix, PrefixError};

use super::HostError;
use super::setting::Setting;
use crate::boot;
use crate::ending::wait_for_the_dead;

/// The file's format; another one is not read.
const FORMAT: u32 = 1;

/// The changes of one process to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    /// Changes do not outlive a boot, but the file may: it tells which boot they were of.
    boot: String,
    /// The network namespace they were made in. Files of older programs do not tell.
    #[serde(default)]
    namespace: Option<String>,
    pid: u32,
    pub(super) settings: Vec<Change>,
    pub(super) rules: Vec<Rule>,
    /// Networks that routes of ours drop packets to. Files of older programs tell of none.
    #[serde(default)]
    pub(super) blackholes: Vec<Network>,
    /// The VIPs that may be on another interface for a routing daemon. Files of older programs tell of
    /// none.
    #[serde(default)]
    pub(super) announced: Option<Announced>,
    /// The MAC address that an interface has from its NIC. Files of older programs tell of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lent_mac: Option<LentMac>,
}

/// A MAC address that an interface has for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LentMac {
    pub(super) interface: String,
    pub(super) original: [u8; 6],
    pub(super) ours: [u8; 6],
}

/// VIPs on an interface for a routing daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Announced {
    pub(super) interface: String,
    pub(super) vips: Vec<Network>,
}

/// A prefix, in the file as text: an address or `NETWORK/LEN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Network(pub(super) Prefix);

impl TryFrom<String> for Network {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse().map(Self)
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.0.to_string()
    }
}

/// A setting, as it was and as we made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    pub(super) setting: Setting,
    pub(super) original: String,
    pub(super) ours: String,
}

/// A policy rule of ours: `from SOURCE lookup TABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) source: Network,
    pub(super) table: u32,
    pub(super) priority: u32,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, table, priority } = self;
        write!(f, "rule {priority}: from {} lookup {table}", source.0)
    }
}

/// What an earlier process left in a state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing that outlived it.
    Nothing,
    /// Changes to this host.
    Here,
    /// Changes to the interface of that name in another network namespace. Where the namespace is gone, they are
    /// too: only somebody who knows can tell.
    Elsewhere,
}

/// The link that names the network namespace of the calling thread (namespaces(7)).
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The network namespace of the calling thread, as the kernel names it: `net:[4026531840]`.
fn namespace() -> io::Result<String> {
    Ok(fs::read_link(NAMESPACE)?.to_string_lossy().into_owned())
}

/// The state file of one interface, locked.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: Flock<File>,
    pub(super) state: State,
}

impl StateFile {
    /// Locks the interface's state file, and reads what an earlier process left in it.
    pub(super) fn open(directory: &Path, interface: &str) -> Result<(Self, Left), HostError> {
        let failed = |path: &Path, source| HostError::State { path: path.to_owned(), source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|source| failed(directory, source))?;
        let path = directory.join(format!("{interface}.state"));
        let lock_path = directory.join(format!("{interface}.lock"));
        let lock = lock(&lock_path, interface)?;
        let boot = boot::id().map_err(|source| failed(Path::new(boot::PATH), source))?;

        let left = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed(&path, source)),
        };
        let left = match left {
            None => None,
            Some(bytes) => Some(State::parse(&bytes).map_err(|reason| HostError::Unreadable {
                path: path.clone(),
                interface: interface.to_owned(),
                reason,
            })?),
        };
        let namespace = namespace().map_err(|source| failed(Path::new(NAMESPACE), source))?;
        let left = left.filter(|state| state.boot == boot);
        let found = match &left {
            None => Left::Nothing,
            Some(State { namespace: Some(of), .. }) if *of != namespace => Left::Elsewhere,
            Some(_) => Left::Here,
        };
        let new = State {
            format: FORMAT,
            boot,
            namespace: Some(namespace),
            pid: std::process::id(),
            settings: Vec::new(),
            rules: Vec::new(),
            blackholes: Vec::new(),
            announced: None,
            lent_mac: None,
        };
        Ok((Self { path, lock_path, _lock: lock, state: left.unwrap_or(new) }, found))
    }

    /// The network namespace that the file tells of, as the kernel names it.
    pub(super) fn namespace(&self) -> &str {
        self.state.namespace.as_deref().unwrap_or_default()
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what an earlier process left; to be called when it has been undone.
    pub(super) fn begin(&mut self) -> Result<(), HostError> {
        let namespace =
            namespace().map_err(|source| HostError::State { path: NAMESPACE.into(), source })?;
        self.state.namespace = Some(namespace);
        self.state.settings.clear();
        self.state.rules.clear();
        self.state.blackholes.clear();
        self.state.announced = None;
        self.state.lent_mac = None;
        self.state.pid = std::process::id();
        self.save()
    }

    /// Writes the file: all of it or nothing, and on the disk when this returns.
    pub(super) fn save(&self) -> Result<(), HostError> {
        let save = || -> io::Result<()> {
            let temporary = self.path.with_extension("state.new");
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            serde_json::to_writer_pretty(&mut file, &self.state)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        save().map_err(|source| HostError::State { path: self.path.clone(), source })
    }

    /// Removes the file and the lock's: nothing is left to undo.
    pub(super) fn remove(self) -> Result<(), HostError> {
        for path in [&self.path, &self.lock_path] {
            match fs::remove_file(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(HostError::State { path: path.clone(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl State {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if state.format != FORMAT {
            return Err(format!("its format is {}, not {FORMAT}", state.format));
        }
        if let Some(odd) = state.settings.iter().find(|change| !change.setting.is_plain()) {
            return Err(format!("{} is not a setting of an interface", odd.setting));
        }
        Ok(state)
    }
}

/// Takes the lock, or says who holds it.
fn lock(path: &Path, interface: &str) -> Result<Flock<File>, HostError> {
    let is_held = |error: &HostError| matches!(error, HostError::Running { .. });
    wait_for_the_dead(|| try_lock(path, interface), is_held)
}

fn try_lock(path: &Path, interface: &str) -> Result<Flock<File>, HostError> {
    let failed = |source| HostError::State { path: path.to_owned(), source };
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(failed)?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, nix::Error::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                return Err(HostError::Running {
                    interface: interface.to_owned(),
                    pid: holder.trim().to_owned(),
                });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // The holder before us removes the file before it lets go: what we locked may no longer
        // be what the name stands for.
        let ours = lock.metadata().map_err(failed)?;
        if fs::metadata(path).is_ok_and(|named| named.ino() == ours.ino()) {
            lock.set_len(0).and_then(|()| lock.rewind()).map_err(failed)?;
            writeln!(lock, "{}", std::process::id()).map_err(failed)?;
            return Ok(lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::setting::Area;
    use super::*;

    /// Opens the state file of an interface and records one change.
    fn recorded(directory: &Path) -> StateFile {
        let (mut file, left) = StateFile::open(directory, "nic0").unwrap();
        assert_eq!(left, Left::Nothing);
        file.begin().unwrap();
        file.state.settings.push(Change {
            setting: Setting::new(Area::Ipv4, "nic0", "arp_ignore"),
            original: "0".into(),
            ours: "1".into(),
        });
        file.save().unwrap();
        file
    }

    /// Replaces `from` in the file that a dead process left, and opens it.
    fn reopened(from: &str, to: &str) -> Result<(StateFile, Left), HostError> {
        let directory = tempfile::tempdir().unwrap();
        drop(recorded(directory.path()));
        let path = directory.path().join("nic0.state");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
        StateFile::open(directory.path(), "nic0")
    }

    #[test]
    fn what_a_process_recorded_is_there_for_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let first = recorded(directory.path());
        let state = first.state.clone();
        let second = StateFile::open(directory.path(), "nic0").unwrap_err();
        let pid = std::process::id().to_string();
        assert!(matches!(&second, HostError::Running { pid: holder, .. } if *holder == pid));
        assert!(StateFile::open(directory.path(), "nic1").is_ok(), "another interface's");

        drop(first);
        let (second, left) = StateFile::open(directory.path(), "nic0").unwrap();
        assert_eq!(left, Left::Here);
        assert_eq!(second.state, state);
        second.remove().unwrap();
        assert_eq!(StateFile::open(directory.path(), "nic0").unwrap().1, Left::Nothing);
    }

    #[test]
    fn changes_of_another_boot_are_gone_already() {
        let boot = boot::id().unwrap();
        let (file, left) = reopened(&boot, "11111111-2222-3333-4444-555555555555").unwrap();
        assert!(left == Left::Nothing && file.state.settings.is_empty());
    }

    #[test]
    fn changes_in_another_network_namespace_are_told_apart() {
        let (file, left) = reopened(&namespace().unwrap(), "net:[1]").unwrap();
        assert_eq!((left, file.namespace()), (Left::Elsewhere, "net:[1]"));
    }

    #[test]
    fn a_file_that_names_no_namespace_is_of_this_one() {
        let named = format!("\"{}\"", namespace().unwrap());
        assert_eq!(reopened(&named, "null").unwrap().1, Left::Here);
    }

    #[test]
    fn networks_are_kept_as_text_and_files_without_blackholes_are_read() {
        let text = r#"{"format": 1, "boot": "b", "pid": 7, "settings": [],
            "rules": [{"source": "192.0.2.53", "table": 7653, "priority": 7653}]}"#;
        let mut state = State::parse(text.as_bytes()).unwrap();
        assert_eq!(state.rules[0].source.0.to_string(), "192.0.2.53");
        assert!(state.blackholes.is_empty());

        state.blackholes.push(Network("2001:db8:54::/64".parse().unwrap()));
        let text = serde_json::to_string(&state).unwrap();
        assert!(text.contains(r#""blackholes":["2001:db8:54::/64"]"#), "{text}");
        assert_eq!(State::parse(text.as_bytes()), Ok(state));
        let host = text.replace("54::/64", "54::1/64");
        assert!(State::parse(host.as_bytes()).unwrap_err().contains("not the network itself"));
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_and_stays() {
        for (from, to, reason) in [
            ("\"format\": 1", "\"format\": 2", "its format is 2, not 1"),
            ("\"settings\"", "\"sittings\"", "unknown field `sittings`"),
            ("arp_ignore", "../../../../kernel/core_pattern", "is not a setting of an interface"),
            ("\"nic0\"", "\"..\"", "is not a setting of an interface"),
            ("]", "", "expected"),
        ] {
            let error = reopened(from, to).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("nic0.state"), "{error}");
        }
    }
}
