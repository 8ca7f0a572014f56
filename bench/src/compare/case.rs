//! Everything that can be measured: what one name stands for on the command line.

use anyhow::Result;
use nix::sys::signalfd::SignalFd;

use super::dns::{self, DnsCase};
use super::failover;
use super::group::Group;
use super::options::Options;
use super::rows::{CLIENTS, ROWS, Row};
use super::tcp::{self, TcpCase};
use super::visit::{self, Visit};

/// Something to be measured, by itself, in turn with the others of its group.
#[derive(Clone, Copy, Debug)]
pub enum Case {
    /// A way from the interface to a service.
    Row(&'static Row),
    /// A DNS server.
    Dns(&'static DnsCase),
    /// A TCP server.
    Tcp(&'static TcpCase),
    /// Nodes that die, of several systems.
    Failover,
}

impl PartialEq for Case {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Case {
    /// All of them, in their order.
    pub fn all() -> impl Iterator<Item = Self> {
        let rows = ROWS.iter().map(Self::Row);
        let servers = dns::CASES.iter().map(Self::Dns).chain(tcp::CASES.iter().map(Self::Tcp));
        rows.chain(servers).chain([Self::Failover])
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Row(row) => row.name,
            Self::Dns(case) => case.name,
            Self::Tcp(case) => case.name,
            Self::Failover => "failover",
        }
    }

    /// The names that its figures stand under: its own, except where one measurement has several.
    pub fn names(self) -> Vec<&'static str> {
        match self {
            Self::Failover => failover::CASES.to_vec(),
            Self::Row(_) | Self::Dns(_) | Self::Tcp(_) => vec![self.name()],
        }
    }

    /// What it belongs to.
    pub fn group(self) -> Group {
        match self {
            Self::Row(row) => row.group,
            Self::Dns(_) => Group::Dns,
            Self::Tcp(_) => Group::Tcp,
            Self::Failover => Group::Failover,
        }
    }

    /// Whether one visit says all, and others would only repeat it.
    pub fn is_once(self) -> bool {
        self == Self::Failover
    }

    /// Whether it takes too long for a quick run.
    pub fn is_long(self) -> bool {
        match self {
            Self::Row(row) => row.is_long,
            Self::Dns(_) | Self::Tcp(_) | Self::Failover => false,
        }
    }

    /// How many flows the kernel's connection tracking has to have room for.
    pub(super) fn flows_in_kernel(self) -> Option<u64> {
        match self {
            Self::Row(row) => row.is_tracked_by_kernel().then(|| row.flow_count()),
            Self::Dns(_) | Self::Tcp(_) => Some(u64::from(CLIENTS)),
            Self::Failover => None,
        }
    }

    /// Measures it once.
    pub(super) fn visit(self, round: u32, options: &Options, end: &SignalFd) -> Result<Vec<Visit>> {
        match self {
            Self::Row(row) => Ok(vec![visit::visit(row, round, options, end)?]),
            Self::Dns(case) => Ok(vec![dns::visit(case, round, options, end)?]),
            Self::Tcp(case) => Ok(vec![tcp::visit(case, round, options, end)?]),
            Self::Failover => failover::visit(options, end),
        }
    }
}
