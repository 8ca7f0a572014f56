//! The rows: ways to bring packets from the interface to a service.

use std::time::Duration;

use vipdp_core::offload::OffloadMode;

use super::group::Group;
use super::rules::Rules;

/// How many client addresses there are in most rows: each sends in turn.
pub const CLIENTS: u32 = 65_536;
/// How many packets of a flow follow each other in the rows of runs.
pub const RUN_LEN: u32 = 8;

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
    /// The same with a look at each frame's headers, which are in the other core's cache: as fast as anything is
    /// that decides by an address.
    XdpLook,
    /// An XDP program that passes everything.
    XdpPass,
    /// An XDP program that passes the packets of one client in four, by the last bits of its address, and drops the
    /// others: the least that does the work of a node of four.
    XdpQuarter,
    /// An AF_XDP socket whose owner takes frames and gives them back.
    AfXdpEmpty,
    /// No interface: a loop that writes frames from memory into a TAP, one by one.
    TapWriter,
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
    /// Those of one client in so many: as in a cluster of so many nodes. 1: everybody's.
    OneIn(u16),
}

impl Owned {
    /// Those of one client in four.
    pub const QUARTER: Self = Self::OneIn(4);
    /// Everybody's.
    pub const ALL: Self = Self::OneIn(1);

    /// The share of packets that are.
    pub fn share(self) -> f64 {
        match self {
            Self::Nothing => 0.0,
            Self::OneIn(nodes) => 1.0 / f64::from(nodes),
        }
    }

    /// How many nodes such a cluster has.
    pub fn nodes(self) -> u16 {
        match self {
            Self::Nothing => 1,
            Self::OneIn(nodes) => nodes,
        }
    }
}

/// Who takes what the host is handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// A UDP socket.
    Socket,
    /// A UDP socket that takes runs of a flow as one: UDP_GRO.
    GroSocket,
    /// Nobody: what vipdp's worker would write to its TAP, it counts and forgets.
    Nobody,
}

/// A row: one way to do the work.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name in all tables.
    pub name: &'static str,
    /// The table that it stands in.
    pub group: Group,
    /// What does the work.
    pub work: Work,
    /// What is accepted.
    pub owned: Owned,
    /// Who takes it.
    pub sink: Sink,
    /// Client addresses.
    pub clients: u32,
    /// Source ports of each client.
    pub ports: u32,
    /// Packets of a flow that follow each other.
    pub run_len: u32,
    /// Whether flows are TCP connections, opened beforehand; else, datagrams.
    pub is_tcp: bool,
    /// Whether runs of a flow go to the host as one: `coalesce = true`.
    pub coalesces: bool,
    /// How often some buckets come and others go; `None`: none does.
    pub moves: Option<Duration>,
    /// Receive queues, each with a worker, and packets that are made on as many cores.
    pub queues: u32,
    /// Cores that packets are made on: the generator's, and the receiver's too.
    pub generators: usize,
    /// Whether it takes too long for a quick run.
    pub is_long: bool,
}

impl Row {
    const fn new(name: &'static str, work: Work, owned: Owned) -> Self {
        Self {
            name,
            group: Group::Receive,
            work,
            owned,
            sink: Sink::Socket,
            clients: CLIENTS,
            ports: 1,
            run_len: 1,
            is_tcp: false,
            coalesces: true,
            moves: None,
            queues: 1,
            generators: 1,
            is_long: false,
        }
    }

    const fn runs(name: &'static str, work: Work, sink: Sink) -> Self {
        let (group, run_len) = (Group::Runs, RUN_LEN);
        Self { group, run_len, sink, ..Self::new(name, work, Owned::ALL) }
    }

    const fn scaling(name: &'static str, owned: Owned) -> Self {
        Self { group: Group::Scaling, ..Self::new(name, ADAPTIVE, owned) }
    }

    /// A worker that is busy with connections alone.
    const fn flows(name: &'static str, clients: u32, ports: u32) -> Self {
        let (sink, is_tcp) = (Sink::Nobody, true);
        Self { work: BUSY, sink, is_tcp, clients, ports, ..Self::scaling(name, Owned::ALL) }
    }

    /// The row called `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.name == name)
    }

    /// How many flows offer packets.
    pub fn flow_count(&self) -> u64 {
        u64::from(self.clients) * u64::from(self.ports)
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

    /// Whether the kernel keeps an entry for each flow that is accepted.
    pub fn is_tracked_by_kernel(&self) -> bool {
        matches!(self.work, Work::Kernel(rules) if rules.tracks())
    }
}

const ADAPTIVE: Work = Work::Vipdp(Poll::Adaptive, None);
const BUSY: Work = Work::Vipdp(Poll::Busy, None);
const OFFLOAD_DROP: Work = Work::Vipdp(Poll::Adaptive, Some(OffloadMode::Drop));
const OFFLOAD_FULL: Work = Work::Vipdp(Poll::Adaptive, Some(OffloadMode::Full));
const BUSY_OFFLOAD_DROP: Work = Work::Vipdp(Poll::Busy, Some(OffloadMode::Drop));
const BUSY_OFFLOAD_FULL: Work = Work::Vipdp(Poll::Busy, Some(OffloadMode::Full));
const PLAIN: Work = Work::Kernel(Rules::None);
const XT_CLUSTER: Work = Work::Kernel(Rules::XtCluster);

/// Every row, in the order in which each round goes through those of its group: those that are held against each other
/// stand near each other, and the ones that leave most to clean up are the last.
pub const ROWS: &[Row] = &[
    Row::new("xdp-drop", Work::XdpDrop, Owned::Nothing),
    Row::new("xdp-look-drop", Work::XdpLook, Owned::Nothing),
    Row::new("vipdp-offload-drop-drop-all", OFFLOAD_DROP, Owned::Nothing),
    Row::new("vipdp-offload-full-drop-all", OFFLOAD_FULL, Owned::Nothing),
    Row::new("afxdp-empty", Work::AfXdpEmpty, Owned::Nothing),
    Row::new("vipdp-busy-drop-all", BUSY, Owned::Nothing),
    Row::new("vipdp-drop-all", ADAPTIVE, Owned::Nothing),
    Row::new("xdp-pass", Work::XdpPass, Owned::ALL),
    Row::new("vipdp-offload-full-accept-all", OFFLOAD_FULL, Owned::ALL),
    Row::new("kernel-plain", PLAIN, Owned::ALL),
    Row::new("tap-writer", Work::TapWriter, Owned::ALL),
    Row::new("vipdp-busy-accept-all", BUSY, Owned::ALL),
    Row::new("vipdp-accept-all", ADAPTIVE, Owned::ALL),
    Row::new("vipdp-offload-drop-accept-all", OFFLOAD_DROP, Owned::ALL),
    Row::new("xt-cluster-accept-all", XT_CLUSTER, Owned::ALL),
    Row::new("xdp-quarter", Work::XdpQuarter, Owned::QUARTER),
    Row::new("vipdp", ADAPTIVE, Owned::QUARTER),
    Row::new("vipdp-busy", BUSY, Owned::QUARTER),
    Row::new("vipdp-offload-drop", OFFLOAD_DROP, Owned::QUARTER),
    Row::new("vipdp-offload-full", OFFLOAD_FULL, Owned::QUARTER),
    Row::new("vipdp-busy-offload-drop", BUSY_OFFLOAD_DROP, Owned::QUARTER),
    Row::new("vipdp-busy-offload-full", BUSY_OFFLOAD_FULL, Owned::QUARTER),
    Row::new("xt-cluster", XT_CLUSTER, Owned::QUARTER),
    Row::new("nft-prerouting", Work::Kernel(Rules::NftPrerouting), Owned::QUARTER),
    Row::new("nft-netdev", Work::Kernel(Rules::NftNetdev), Owned::QUARTER),
    Row::new("seed-iptables-raw", Work::Kernel(Rules::SeedRaw), Owned::QUARTER),
    Row::new("seed-iptables-input", Work::Kernel(Rules::SeedInput), Owned::QUARTER),
    Row { ports: 64, is_long: true, ..Row::new("xt-cluster-4m", XT_CLUSTER, Owned::QUARTER) },
    Row::runs("tap-writer-runs", Work::TapWriter, Sink::Socket),
    Row::runs("vipdp-busy-accept-all-runs", BUSY, Sink::Socket),
    Row::runs("vipdp-accept-all-runs", ADAPTIVE, Sink::Socket),
    Row {
        coalesces: false,
        ..Row::runs("vipdp-accept-all-runs-uncoalesced", ADAPTIVE, Sink::Socket)
    },
    Row::runs("kernel-plain-runs", PLAIN, Sink::Socket),
    Row::runs("tap-writer-runs-gro", Work::TapWriter, Sink::GroSocket),
    Row::runs("vipdp-busy-accept-all-runs-gro", BUSY, Sink::GroSocket),
    Row::runs("vipdp-accept-all-runs-gro", ADAPTIVE, Sink::GroSocket),
    Row::runs("kernel-plain-runs-gro", PLAIN, Sink::GroSocket),
    Row::flows("vipdp-flows-1k", 1 << 10, 1),
    Row::flows("vipdp-flows-64k", 1 << 16, 1),
    Row::flows("vipdp-flows-1m", 1 << 16, 1 << 4),
    Row { is_long: true, ..Row::flows("vipdp-flows-16m", 1 << 16, 1 << 8) },
    Row::scaling("vipdp-moves-never", Owned::QUARTER),
    Row {
        moves: Some(Duration::from_millis(2)),
        ..Row::scaling("vipdp-moves-every-2ms", Owned::QUARTER)
    },
    Row::scaling("vipdp-nodes-2", Owned::OneIn(2)),
    Row::scaling("vipdp-nodes-8", Owned::OneIn(8)),
    Row::scaling("vipdp-nodes-64", Owned::OneIn(64)),
    Row { generators: 2, ..Row::scaling("vipdp-queues-1", Owned::QUARTER) },
    Row { generators: 2, queues: 2, ..Row::scaling("vipdp-queues-2", Owned::QUARTER) },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_have_names_of_their_own() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
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
            "tap-writer",
            "xt-cluster",
            "xt-cluster-4m",
            "nft-prerouting",
            "nft-netdev",
            "seed-iptables-raw",
            "seed-iptables-input",
        ] {
            assert!(Row::named(name).is_some(), "{name}");
        }
        assert_eq!(Row::named("xt-cluster").map(Row::flow_count), Some(1 << 16));
        assert_eq!(Row::named("xt-cluster-4m").map(Row::flow_count), Some(1 << 22));
    }

    #[test]
    fn rules_and_ownership_agree() {
        for row in ROWS {
            match row.work {
                Work::XdpDrop | Work::XdpLook | Work::AfXdpEmpty => {
                    assert_eq!(row.owned, Owned::Nothing);
                }
                Work::XdpPass | Work::TapWriter | Work::Kernel(Rules::None) => {
                    assert_eq!(row.owned, Owned::ALL);
                }
                Work::Kernel(Rules::XtCluster) => {}
                Work::XdpQuarter | Work::Kernel(_) => assert_eq!(row.owned, Owned::QUARTER),
                Work::Vipdp(..) => {}
            }
        }
    }
}
