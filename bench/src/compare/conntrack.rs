//! Room for the kernel's connection tracking: its limits are the machine's, so they are put back.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Entries that the kernel may track.
const ENTRIES_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// Lists that they are in.
const LISTS: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// Room for so many connections, put back when dropped.
#[derive(Debug)]
pub(super) struct Room(#[expect(dead_code, reason = "held to be dropped")] Vec<Setting>);

impl Room {
    /// Room for `flows` in lists of one each, which is the most that the kernel's own table can do for them.
    pub(super) fn of(flows: u64) -> Result<Self> {
        let settings = [Setting::at_least(ENTRIES_MAX, 2 * flows), Setting::at_least(LISTS, flows)];
        let settings = settings.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self(settings))
    }
}

/// A setting of the machine.
#[derive(Debug)]
struct Setting {
    path: PathBuf,
    /// What it was, if it was changed.
    before: Option<String>,
}

impl Setting {
    fn at_least(path: impl AsRef<Path>, wanted: u64) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let shown = || path.display().to_string();
        let before = fs::read_to_string(&path).with_context(shown)?.trim().to_owned();
        let found: u64 = before.parse().with_context(shown)?;
        let before = if found < wanted {
            fs::write(&path, wanted.to_string()).with_context(shown)?;
            Some(before)
        } else {
            None
        };
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nobody is left to tell if it cannot be done.
            let _ = fs::write(&self.path, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_raised_and_put_back() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "100\n").expect("written");
        let read = || fs::read_to_string(file.path()).expect("text");
        drop(Setting::at_least(file.path(), 100).expect("enough"));
        assert_eq!(read(), "100\n");
        let raised = Setting::at_least(file.path(), 101).expect("raised");
        assert_eq!(read(), "101");
        drop(raised);
        assert_eq!(read(), "100");
    }
}
