//! Which boot of the machine this is: what is kept in files can outlive one.

use std::{fs, io};

/// The kernel's file that tells (random(4)).
pub(crate) const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The identification of this boot, a UUID.
pub(crate) fn id() -> io::Result<String> {
    Ok(fs::read_to_string(PATH)?.trim_end().to_owned())
}
