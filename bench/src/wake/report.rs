//! What was found.

use std::fmt;

use serde::{Serialize, Serializer};

use super::receiver::{Case, Sample};

/// Times until probes were delivered.
#[derive(Clone, Debug, Default)]
struct Times(Vec<u64>);

impl Times {
    /// So many of a hundred took this long at most, microseconds.
    fn percentile_us(&self, percent: usize) -> f64 {
        let mut times = self.0.clone();
        times.sort_unstable();
        let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(f64::NAN, |&ns| ns as f64 / 1000.0)
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [50, 90, 99].map(|percent| self.percentile_us(percent)).serialize(serializer)
    }
}

/// What was found: of each time the median, the 90th and the 99th percentile, microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Until a thread in recvmsg(2) had the probe.
    udp: Times,
    /// Until a thread in poll(2) on an AF_XDP socket had it.
    af_xdp: Times,
    /// Until the host's stack had it from vipdp.
    vipdp: Times,
    /// Until the service behind vipdp had read it, and so had been woken too.
    vipdp_read: Times,
    /// What vipdp took of a core without packets, each time.
    idle_shares: Vec<f64>,
}

impl Report {
    pub(super) fn sample(&mut self, case: Case, sample: &Sample) {
        let times = match case {
            Case::Udp => &mut self.udp,
            Case::AfXdp => &mut self.af_xdp,
            Case::Vipdp => {
                self.vipdp_read.0.push(sample.read_ns);
                &mut self.vipdp
            }
        };
        times.0.push(sample.delivered_ns);
    }

    pub(super) fn idle(&mut self, share: f64) {
        self.idle_shares.push(share);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| from a frame's way out | median, us | p90, us | p99, us |")?;
        writeln!(f, "|---|---|---|---|")?;
        for (name, times) in [
            ("until a thread in recvmsg(2) has it", &self.udp),
            ("until a thread in poll(2) on a bare AF_XDP socket has it", &self.af_xdp),
            ("until the host's stack has it from vipdp", &self.vipdp),
            ("until the service behind vipdp has read it", &self.vipdp_read),
        ] {
            let [p50, p90, p99] = [50, 90, 99].map(|percent| times.percentile_us(percent));
            writeln!(f, "| {name} | {p50:.1} | {p90:.1} | {p99:.1} |")?;
        }
        for (name, by) in [("recvmsg(2)", &self.udp), ("poll(2) on AF_XDP", &self.af_xdp)] {
            let (ours, theirs) = (self.vipdp.percentile_us(50), by.percentile_us(50));
            writeln!(
                f,
                "vipdp and {name}, medians: {:+.1} us, {:.2}",
                ours - theirs,
                ours / theirs
            )?;
        }
        for share in &self.idle_shares {
            writeln!(f, "idle: {:.2} % of a core, all of vipdp's threads", share * 100.0)?;
        }
        Ok(())
    }
}
