//! What the comparison ran on.

use std::fs;

use anyhow::Result;
use serde::Serialize;

use super::options::Options;

/// The machine, and how it was used.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The processor, as the kernel names it.
    pub cpu: String,
    /// How many cores there are.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// What else ran at the start: runnable threads, the mean over a minute.
    pub load_average: f64,
    /// Whether the compiler optimised: figures of a debug build say nothing.
    pub is_release: bool,
    /// The core that packets were made on.
    pub generator_core: usize,
    /// The core that they were received on.
    pub receive_core: usize,
    /// How often every row was visited.
    pub rounds: u32,
    /// How long each load lasted, seconds.
    pub seconds: f64,
}

impl Machine {
    /// This one.
    pub(super) fn read(options: &Options) -> Result<Self> {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = text("/proc/cpuinfo");
        let (memory, load) = (text("/proc/meminfo"), text("/proc/loadavg"));
        let kib =
            value(&memory, "MemTotal").and_then(|it| it.split_whitespace().next()?.parse().ok());
        Ok(Self {
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: value(&cpus, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: kib.unwrap_or(0u64) * 1024,
            load_average: load.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0.0),
            is_release: !cfg!(debug_assertions),
            generator_core: options.generator_core,
            receive_core: options.receive_core,
            rounds: options.rounds(),
            seconds: options.seconds(),
        })
    }
}

/// What stands behind `name` and a colon, in the first line of that name.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stands_behind_its_name() {
        let text = "processor\t: 0\nmodel name\t: A Fast One\nmodel name\t: Another\n";
        assert_eq!(value(text, "model name"), Some("A Fast One"));
        assert_eq!(value(text, "model"), None);
    }
}
