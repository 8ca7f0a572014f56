//! Which cases are held against each other, or against a number, and what should come out.

/// Two cases held against each other in one metric.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// What is divided.
    pub case: &'static str,
    /// By what; `None`: by nothing, the figure stands by itself.
    pub by: Option<&'static str>,
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
    Ratio { case, by: Some(by), metric, wanted }
}

const fn figure(case: &'static str, metric: &'static str, wanted: Wanted) -> Ratio {
    Ratio { case, by: None, metric, wanted }
}

/// All that are held against each other.
pub const RATIOS: &[Ratio] = &[
    ratio("vipdp-busy-drop-all", "afxdp-empty", "total_pps", Wanted::AtLeast(0.9)),
    ratio("vipdp-offload-drop-drop-all", "xdp-drop", "total_pps", Wanted::AtLeast(0.85)),
    ratio("vipdp-offload-drop-drop-all", "xdp-look-drop", "total_pps", Wanted::Shown),
    ratio("vipdp-offload-full-accept-all", "xdp-pass", "accepted_pps", Wanted::AtLeast(0.95)),
    ratio("vipdp-offload-drop", "xt-cluster", "total_pps", Wanted::AtLeast(3.0)),
    ratio("vipdp-offload-drop", "xt-cluster-4m", "total_pps", Wanted::AtLeast(3.0)),
    ratio("vipdp-offload-drop", "nft-netdev", "total_pps", Wanted::AtLeast(2.0)),
    ratio("vipdp-offload-drop", "seed-iptables-raw", "total_pps", Wanted::AtLeast(2.0)),
    ratio("vipdp-offload-drop", "seed-iptables-input", "total_pps", Wanted::AtLeast(2.0)),
    ratio("xdp-quarter", "xt-cluster", "total_pps", Wanted::Shown),
    ratio("xdp-quarter", "nft-netdev", "total_pps", Wanted::Shown),
    ratio("xdp-quarter", "seed-iptables-raw", "total_pps", Wanted::Shown),
    ratio("xdp-quarter", "seed-iptables-input", "total_pps", Wanted::Shown),
    ratio("vipdp-offload-drop", "xdp-quarter", "total_pps", Wanted::Shown),
    ratio("vipdp-offload-full", "xdp-quarter", "total_pps", Wanted::Shown),
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
    ratio("vipdp-accept-all", "tap-writer", "accepted_pps", Wanted::AtLeast(0.9)),
    ratio("vipdp-busy-accept-all", "tap-writer", "accepted_pps", Wanted::Shown),
    ratio("vipdp-accept-all", "xt-cluster-accept-all", "accepted_pps", Wanted::Shown),
    figure("vipdp", "idle_cpu_percent", Wanted::AtMost(2.0)),
    figure("vipdp-offload-drop", "idle_cpu_percent", Wanted::AtMost(2.0)),
    figure("vipdp-offload-full", "idle_cpu_percent", Wanted::AtMost(2.0)),
    ratio("vipdp-accept-all-runs", "tap-writer-runs", "accepted_pps", Wanted::AtLeast(1.4)),
    ratio(
        "vipdp-accept-all-runs",
        "vipdp-accept-all-runs-uncoalesced",
        "accepted_pps",
        Wanted::Shown,
    ),
    ratio("vipdp-busy-accept-all-runs", "tap-writer-runs", "accepted_pps", Wanted::Shown),
    ratio("vipdp-accept-all-runs", "kernel-plain-runs", "accepted_pps", Wanted::Shown),
    ratio("vipdp-accept-all-runs-gro", "tap-writer-runs-gro", "accepted_pps", Wanted::AtLeast(4.0)),
    ratio("vipdp-busy-accept-all-runs-gro", "tap-writer-runs-gro", "accepted_pps", Wanted::Shown),
    ratio("vipdp-accept-all-runs-gro", "kernel-plain-runs-gro", "accepted_pps", Wanted::Shown),
    ratio("vipdp-flows-64k", "vipdp-flows-1k", "total_pps", Wanted::Shown),
    ratio("vipdp-flows-1m", "vipdp-flows-1k", "total_pps", Wanted::Shown),
    ratio("vipdp-flows-16m", "vipdp-flows-1k", "total_pps", Wanted::Shown),
    ratio("vipdp-moves-every-2ms", "vipdp-moves-never", "total_pps", Wanted::Shown),
    ratio("vipdp-moves-every-2ms", "vipdp-moves-never", "cpu_ns_per_packet", Wanted::Shown),
    ratio("vipdp-nodes-64", "vipdp-nodes-2", "total_pps", Wanted::Shown),
    ratio("vipdp-queues-2", "vipdp-queues-1", "total_pps", Wanted::Shown),
    ratio("dns-vipdp", "dns-kernel", "answers_dnsperf_per_s", Wanted::Shown),
    ratio("dns-vipdp", "dns-kernel", "answers_kxdpgun_per_s", Wanted::Shown),
    ratio("dns-vipdp-offload-full", "dns-kernel", "answers_dnsperf_per_s", Wanted::Shown),
    ratio("dns-vipdp-offload-full", "dns-kernel", "answers_kxdpgun_per_s", Wanted::Shown),
    ratio("dns-vipdp", "dns-xt-cluster", "answers_dnsperf_per_s", Wanted::Shown),
    ratio("tcp-vipdp", "tcp-kernel", "connections_per_s", Wanted::Shown),
    ratio("tcp-vipdp", "tcp-xt-cluster", "connections_per_s", Wanted::Shown),
    ratio("tcp-vipdp", "tcp-xt-cluster", "cpu_us_per_connection", Wanted::Shown),
    ratio("tcp-vipdp", "tcp-vipdp-uncoalesced", "stream_bits_per_s", Wanted::AtLeast(5.0)),
    ratio("tcp-vipdp", "tcp-kernel", "stream_bits_per_s", Wanted::Shown),
    ratio("failover-vipdp-fast", "failover-keepalived-10ms", "gap_ms", Wanted::Shown),
    ratio("failover-vipdp-default", "failover-keepalived-100ms", "gap_ms", Wanted::Shown),
];

#[cfg(test)]
mod tests {
    use super::super::case::Case;
    use super::super::report::METRICS;
    use super::*;

    #[test]
    fn ratios_name_cases_and_metrics() {
        let names: Vec<_> = Case::all().flat_map(Case::names).collect();
        for ratio in RATIOS {
            for name in [Some(ratio.case), ratio.by].into_iter().flatten() {
                assert!(names.contains(&name), "{name}");
            }
            assert!(METRICS.iter().any(|metric| metric.name == ratio.metric), "{ratio:?}");
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
