//! What DPDK leaves of a process that was killed: a directory by its name, empty, since nothing is shared.
//!
//! It is in the way of nobody, but nobody else removes it, and each process has another name.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What stands before the process's number in the name of its directory.
const PREFIX: &str = "vipdp-";

/// Where DPDK has its directories if nobody says otherwise (its lib/eal/linux/eal.c, for root). Below a
/// systemd unit with a `RuntimeDirectory` they are in that one.
const USUAL: &str = "/var/run/dpdk";

/// The name of this process beside others that use DPDK.
pub(super) fn own_name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Removes the directories that killed processes left, of this program only: where DPDK has them by itself,
/// and below `state_dir`, where they are under systemd. Returns them.
///
/// # Errors
/// The kernel's, if it does not let one be removed, or all be listed.
pub fn remove_left(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = remove_left_below(Path::new(USUAL))?;
    removed.extend(remove_left_below(&state_dir.join("dpdk"))?);
    Ok(removed)
}

/// The same in one place. What is not empty, and so not as this program leaves it, stays.
pub(super) fn remove_left_below(place: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let entries = match fs::read_dir(place) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(removed),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if !is_left(&path) {
            continue;
        }
        match fs::remove_dir(&path) {
            Ok(()) => removed.push(path),
            // Somebody else removed it just now, or put something there.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Whether it is the directory of a process of this program that has ended.
fn is_left(directory: &Path) -> bool {
    let name = directory.file_name().and_then(|name| name.to_str());
    let process = name.and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
    process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_directories_those_of_ended_processes_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let directory = |name: &str| {
            let directory = place.path().join(name);
            fs::create_dir(&directory).unwrap();
            directory
        };
        // No process has so high a number: the kernel's highest is 4194304.
        let ended = directory("vipdp-4200000000");
        let full = directory("vipdp-4200000001");
        fs::write(full.join("config"), "").unwrap();
        let stays =
            [own_name().as_str(), "other-4200000000", "vipdp-", "vipdp-x", "rte"].map(directory);

        assert_eq!(remove_left_below(place.path()).unwrap(), std::slice::from_ref(&ended));
        assert!(!ended.exists() && full.exists());
        assert!(stays.iter().all(|directory| directory.exists()));
    }

    #[test]
    fn where_dpdk_never_ran_nothing_is_left() {
        let place = tempfile::tempdir().unwrap();
        assert!(remove_left_below(&place.path().join("dpdk")).unwrap().is_empty());
    }
}
