//! The only trace that wrong passwords leave: counters of the kernel.

use std::fs;

/// The counters of the network namespace (Documentation/networking/snmp_counter.rst) that segments
/// count in which are dropped for their MD5 signature: one that is missing, one nobody asked for,
/// and a wrong one.
const COUNTERS: [&str; 3] = ["TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure"];

/// How many segments the kernel has dropped for their MD5 signature, whoever sent them; 0 where it
/// does not say.
pub(super) fn drops() -> u64 {
    fs::read_to_string("/proc/thread-self/net/netstat").map_or(0, |text| count(&text))
}

/// Sums them up. Each line of names is followed by one of their values.
fn count(netstat: &str) -> u64 {
    let mut lines = netstat.lines();
    let mut sum = 0;
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        let ours = pairs.filter(|(name, _)| COUNTERS.contains(name));
        sum += ours.filter_map(|(_, value)| value.parse::<u64>().ok()).sum::<u64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_found_by_their_names() {
        let netstat = "TcpExt: TCPMD5NotFound TCPSackShifted TCPMD5Unexpected TCPMD5Failure\n\
                       TcpExt: 1 99 20 300\n\
                       IpExt: InNoRoutes\n\
                       IpExt: 7\n";
        assert_eq!(count(netstat), 321);
        assert_eq!(count("TcpExt: TCPMD5Failure\n"), 0);
    }
}
