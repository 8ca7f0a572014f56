//! The rows of the comparison, and which of them are held against each other.

use vipdp_core::offload::OffloadMode;

use super::rules::Rules;

/// How many client addresses there are: each sends in turn.
pub const CLIENTS: u32 = 65_536;

/// How a worker waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// It sleeps when there are none: `poll = "adaptive"`.
    Adaptive,
    /// It runs the queue's receive side itself, and never sleeps: `poll = "busy"`.
    Busy,
}

/// What stands between the interface and the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// An XDP program that drops everything: as fast as the interface is.
    XdpDrop,
    /// An XDP program that passes everything.
    XdpPass,
    /// An AF_XDP socket whose owner takes frames and gives them back.
    AfXdpEmpty,
    /// vipdp's worker, with its XDP program, its AF_XDP socket and its TAP, in the shared-mac mode; how it waits, and
    /// what the program does by itself.
    Vipdp(Poll, Option<OffloadMode>),
    /// The kernel, with these rules.
    Kernel(Rules),
}

/// Whose packets are this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owned {
    /// Nobody's.
    Nothing,
    /// Those of one client in four.
    Quarter,
    /// Everybody's.
    All,
}

impl Owned {
    /// The share of packets that are.
    pub fn share(self) -> f64 {
        match self {
            Self::Nothing => 0.0,
            Self::Quarter => 0.25,
            Self::All => 1.0,
        }
    }
}

/// A row: one way to do the work.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name in all tables.
    pub name: &'static str,
    /// What does the work.
    pub work: Work,
    /// What is accepted.
    pub owned: Owned,
    /// Source ports of each client.
    pub ports: u32,
    /// Whether it takes too long for a quick run.
    pub is_long: bool,
}

impl Row {
    const fn new(name: &'static str, work: Work, owned: Owned) -> Self {
        Self { name, work, owned, ports: 1, is_long: false }
    }

    /// The row called `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.name == name)
    }

    /// How many flows offer packets.
    pub fn flows(&self) -> u64 {
        u64::from(CLIENTS) * u64::from(self.ports)
    }

    /// Whether a receiver of ours does the work, in place of the kernel's own means.
    pub fn has_receiver(&self) -> bool {
        !matches!(self.work, Work::Kernel(_))
    }

    /// Whether a worker runs the interface's receive side, and never sleeps.
    pub fn polls(&self) -> bool {
        matches!(self.work, Work::AfXdpEmpty | Work::Vipdp(Poll::Busy, _))
    }

    /// Whether frames reach an AF_XDP socket, which has counters of its own.
    pub fn is_af_xdp(&self) -> bool {
        matches!(self.work, Work::AfXdpEmpty | Work::Vipdp(..))
    }
}

const ADAPTIVE: Work = Work::Vipdp(Poll::Adaptive, None);
const BUSY: Work = Work::Vipdp(Poll::Busy, None);
const OFFLOAD_DROP: Work = Work::Vipdp(Poll::Adaptive, Some(OffloadMode::Drop));
const OFFLOAD_FULL: Work = Work::Vipdp(Poll::Adaptive, Some(OffloadMode::Full));

/// Every row, in the order in which each round goes through them: those that are held against each other stand
/// near each other, and the one that leaves most to clean up is the last.
pub const ROWS: &[Row] = &[
    Row::new("xdp-drop", Work::XdpDrop, Owned::Nothing),
    Row::new("vipdp-offload-drop-drop-all", OFFLOAD_DROP, Owned::Nothing),
    Row::new("vipdp-offload-full-drop-all", OFFLOAD_FULL, Owned::Nothing),
    Row::new("afxdp-empty", Work::AfXdpEmpty, Owned::Nothing),
    Row::new("vipdp-busy-drop-all", BUSY, Owned::Nothing),
    Row::new("vipdp-drop-all", ADAPTIVE, Owned::Nothing),
    Row::new("xdp-pass", Work::XdpPass, Owned::All),
    Row::new("vipdp-offload-full-accept-all", OFFLOAD_FULL, Owned::All),
    Row::new("kernel-plain", Work::Kernel(Rules::None), Owned::All),
    Row::new("vipdp-busy-accept-all", BUSY, Owned::All),
    Row::new("vipdp-accept-all", ADAPTIVE, Owned::All),
    Row::new("vipdp-offload-drop-accept-all", OFFLOAD_DROP, Owned::All),
    Row::new("vipdp", ADAPTIVE, Owned::Quarter),
    Row::new("vipdp-busy", BUSY, Owned::Quarter),
    Row::new("vipdp-offload-drop", OFFLOAD_DROP, Owned::Quarter),
    Row::new("vipdp-offload-full", OFFLOAD_FULL, Owned::Quarter),
    Row::new("xt-cluster", Work::Kernel(Rules::XtCluster), Owned::Quarter),
    Row::new("nft-prerouting", Work::Kernel(Rules::NftPrerouting), Owned::Quarter),
    Row::new("nft-netdev", Work::Kernel(Rules::NftNetdev), Owned::Quarter),
    Row::new("seed-iptables-raw", Work::Kernel(Rules::SeedRaw), Owned::Quarter),
    Row::new("seed-iptables-input", Work::Kernel(Rules::SeedInput), Owned::Quarter),
    Row {
        ports: 64,
        is_long: true,
        ..Row::new("xt-cluster-4m", Work::Kernel(Rules::XtCluster), Owned::Quarter)
    },
];

/// Two rows held against each other in one metric.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// What is divided.
    pub case: &'static str,
    /// By what.
    pub by: &'static str,
    /// The metric of both.
    pub metric: &'static str,
    /// What the ratio should be.
    pub wanted: Wanted,
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// So much at least.
    AtLeast(f64),
    /// So much at most.
    AtMost(f64),
    /// Whatever it is: it is shown.
    Shown,
}

impl Wanted {
    /// Whether `ratio` is as wanted; `None` where nothing is.
    pub fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(ratio >= least),
            Self::AtMost(most) => Some(ratio <= most),
            Self::Shown => None,
        }
    }
}

const fn ratio(
    case: &'static str,
    by: &'static str,
    metric: &'static str,
    wanted: Wanted,
) -> Ratio {
    Ratio { case, by, metric, wanted }
}

/// All that are held against each other.
pub const RATIOS: &[Ratio] = &[
    ratio("vipdp-busy-drop-all", "afxdp-empty", "total_pps", Wanted::AtLeast(0.9)),
    ratio("vipdp-offload-drop-drop-all", "xdp-drop", "total_pps", Wanted::AtLeast(0.85)),
    ratio("vipdp-offload-full-accept-all", "xdp-pass", "accepted_pps", Wanted::AtLeast(0.95)),
    ratio("vipdp-offload-drop", "xt-cluster", "total_pps", Wanted::AtLeast(3.0)),
    ratio("vipdp-offload-drop", "xt-cluster-4m", "total_pps", Wanted::AtLeast(3.0)),
    ratio("vipdp-offload-drop", "nft-netdev", "total_pps", Wanted::AtLeast(2.0)),
    ratio("vipdp-offload-drop", "seed-iptables-raw", "total_pps", Wanted::AtLeast(2.0)),
    ratio("vipdp-offload-drop", "seed-iptables-input", "total_pps", Wanted::AtLeast(2.0)),
    ratio("vipdp-offload-full", "xt-cluster", "accepted_pps", Wanted::AtLeast(1.0)),
    ratio("vipdp-offload-full", "nft-prerouting", "accepted_pps", Wanted::AtLeast(1.0)),
    ratio("vipdp-offload-full", "nft-netdev", "accepted_pps", Wanted::AtLeast(1.0)),
    ratio("vipdp-offload-full", "seed-iptables-raw", "accepted_pps", Wanted::AtLeast(1.0)),
    ratio("vipdp-offload-full", "seed-iptables-input", "accepted_pps", Wanted::AtLeast(1.0)),
    ratio("vipdp-offload-drop", "xt-cluster", "accepted_pps", Wanted::Shown),
    ratio("vipdp", "xt-cluster", "total_pps", Wanted::Shown),
    ratio("vipdp", "nft-netdev", "total_pps", Wanted::Shown),
    ratio("vipdp", "seed-iptables-input", "total_pps", Wanted::Shown),
    ratio("vipdp-busy", "xt-cluster", "total_pps", Wanted::Shown),
    ratio("vipdp-busy", "nft-netdev", "total_pps", Wanted::Shown),
    ratio("vipdp-busy", "seed-iptables-input", "total_pps", Wanted::Shown),
    ratio("vipdp-busy", "xt-cluster", "accepted_pps", Wanted::Shown),
    ratio("vipdp-busy-accept-all", "kernel-plain", "accepted_pps", Wanted::Shown),
    ratio("vipdp-busy-accept-all", "kernel-plain", "read_pps", Wanted::Shown),
    ratio("vipdp", "xt-cluster", "cpu_ns_per_packet", Wanted::AtMost(1.0)),
    ratio("vipdp-offload-drop", "xt-cluster", "cpu_ns_per_packet", Wanted::Shown),
    ratio("vipdp-offload-full", "xt-cluster", "cpu_ns_per_packet", Wanted::Shown),
    ratio("vipdp", "xt-cluster", "memory_per_flow", Wanted::AtMost(0.05)),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::report::METRICS;
    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_ratios_name_rows_and_metrics() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for ratio in RATIOS {
            assert!(names.contains(ratio.case) && names.contains(ratio.by), "{ratio:?}");
            assert!(METRICS.iter().any(|metric| metric.name == ratio.metric), "{ratio:?}");
        }
    }

    #[test]
    fn every_row_that_the_suite_promises_is_there() {
        for name in [
            "xdp-drop",
            "xdp-pass",
            "afxdp-empty",
            "vipdp",
            "vipdp-drop-all",
            "vipdp-accept-all",
            "vipdp-offload-drop",
            "vipdp-offload-drop-drop-all",
            "vipdp-offload-drop-accept-all",
            "vipdp-offload-full",
            "vipdp-offload-full-drop-all",
            "vipdp-offload-full-accept-all",
            "kernel-plain",
            "xt-cluster",
            "xt-cluster-4m",
            "nft-prerouting",
            "nft-netdev",
            "seed-iptables-raw",
            "seed-iptables-input",
        ] {
            assert!(Row::named(name).is_some(), "{name}");
        }
        assert_eq!(Row::named("xt-cluster").map(Row::flows), Some(1 << 16));
        assert_eq!(Row::named("xt-cluster-4m").map(Row::flows), Some(1 << 22));
    }

    #[test]
    fn rules_and_ownership_agree() {
        for row in ROWS {
            match row.work {
                Work::XdpDrop | Work::AfXdpEmpty => assert_eq!(row.owned, Owned::Nothing),
                Work::XdpPass | Work::Kernel(Rules::None) => assert_eq!(row.owned, Owned::All),
                Work::Kernel(_) => assert_eq!(row.owned, Owned::Quarter),
                Work::Vipdp(..) => {}
            }
        }
    }

    #[test]
    fn wanted_ratios_are_bounds() {
        assert_eq!(Wanted::AtLeast(2.0).is_met(2.0), Some(true));
        assert_eq!(Wanted::AtLeast(2.0).is_met(1.9), Some(false));
        assert_eq!(Wanted::AtMost(1.0).is_met(1.1), Some(false));
        assert_eq!(Wanted::Shown.is_met(1.1), None);
    }
}
