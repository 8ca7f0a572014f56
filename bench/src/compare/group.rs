//! Groups of measurements, which can be run apart.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What belongs together, and stands in one table.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// From the interface to a UDP socket, every packet of another flow than the one before.
    #[default]
    Receive,
    /// The same with several packets of a flow one after another.
    Runs,
    /// vipdp with more flows, nodes and queues, and with buckets that move.
    Scaling,
    /// A DNS server, asked by kxdpgun and by dnsperf.
    Dns,
    /// New TCP connections, and the rate of one.
    Tcp,
    /// How long clients wait when a node dies, beside keepalived.
    Failover,
}

impl Group {
    /// All of them, in their order.
    pub const ALL: [Self; 6] =
        [Self::Receive, Self::Runs, Self::Scaling, Self::Dns, Self::Tcp, Self::Failover];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Runs => "runs",
            Self::Scaling => "scaling",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Failover => "failover",
        }
    }

    /// What stands above its table, and what is to be known to read it.
    pub fn heading(self) -> (&'static str, &'static str) {
        match self {
            Self::Receive => (
                "From the interface to the socket",
                "One core receives: the kernel's receive thread, the worker and the socket's owner together; another makes the \
                 packets. CPU at half a million packets a second: run time of these threads, by the scheduler. Latency \
                 at 70 % of the row's own rate. Idle: what the receiver's threads ran in a second without load.",
            ),
            Self::Runs => (
                "Runs of eight packets of a flow",
                "As above. `-gro`: the service's socket takes runs as one (UDP_GRO), as a QUIC server's does.",
            ),
            Self::Scaling => (
                "Scaling",
                "Flows: tracked TCP, taken in by a worker whose host throws away what it is handed. Buckets that move, nodes, \
                 queues: as above, with a TAP. With two queues each core makes packets and receives them, so that the \
                 two rows of queues are to be held against each other alone.",
            ),
            Self::Dns => (
                "DNS",
                "knot and all that receives for it on one core, who asks on the other. Answers a second: kxdpgun asks more than \
                 anything can answer; dnsperf waits for answers. CPU of the node for each answer to dnsperf.",
            ),
            Self::Tcp => (
                "TCP",
                "New connections: a server that accepts, says one byte and closes, on one core with all that receives for it; \
                 clients on the other. Stream: one connection, as fast as it goes.",
            ),
            Self::Failover => (
                "Failover",
                "scripts/failover: four nodes, the time from a node's death to the last query without an answer; each value \
                 is a kill.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for group in Group::ALL {
            assert_eq!(Group::from_str(group.name(), false), Ok(group));
        }
    }
}
