//! Random bytes for secrets and sessions.

use std::fs::File;
use std::io::{self, Read};

/// Fills `bytes` from the kernel's generator (random(4)).
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}

/// A random number, never 0.
pub fn word() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes).max(1))
}
