//! What `vipdp status --json` prints, as far as the tests look at it.
//!
//! Defined here once more, and not taken from vipdp: its users' programs know the names in JSON,
//! not the Rust types.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use crate::frame::Mac;

/// A node's status.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The number of the format.
    pub format: u32,
    /// The node itself.
    pub node: Node,
    /// All members.
    pub members: Vec<Member>,
    /// Who owns what.
    pub buckets: Buckets,
    /// The next-hop addresses of the tiered mode, by number; none in other modes.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// The checks of the local service.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The VIPs.
    pub vips: Vec<String>,
    /// The NIC.
    pub interface: Interface,
    /// What the XDP program decides by itself; none with the offload off.
    pub offload: Option<Offload>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// Heartbeats.
    pub heartbeats: Heartbeats,
}

/// What the XDP program decides by itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Offload {
    /// `drop` or `full`.
    pub mode: String,
    /// How many packets it dropped.
    pub dropped_by_offload: u64,
    /// How many it handed to the kernel.
    pub passed_by_offload: u64,
}

/// The node that answers.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its slot.
    pub slot: u8,
    /// `listen`, `active`, `fenced`, `draining`.
    pub state: String,
    /// Whether it takes buckets.
    pub willing: bool,
    /// `reached`, `unreached`; none unless the node asks for the router.
    pub gateway: Option<String>,
    /// The generation of the configuration that it goes by.
    pub generation: u32,
    /// What is left of its lease, milliseconds.
    pub lease_ms_left: u64,
}

/// A member.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// Its slot.
    pub slot: u8,
    /// `self`, `alive`, `relayed`, `dead`, `unseen`.
    pub state: String,
    /// How many buckets it owns.
    pub buckets: u32,
}

/// Who owns what.
#[derive(Clone, Debug, Deserialize)]
pub struct Buckets {
    /// How many the node owns.
    pub owned: u32,
    /// How many nobody owns.
    pub unowned: u32,
    /// The slot of each bucket's owner.
    pub owners: Vec<Option<u8>>,
}

/// A next-hop address.
#[derive(Clone, Debug, Deserialize)]
pub struct Address {
    /// Its number.
    pub index: u16,
    /// The IPv4 address of this number.
    pub ip4: Option<Ipv4Addr>,
    /// The IPv6 address of this number.
    pub ip6: Option<Ipv6Addr>,
    /// What it resolves to.
    pub mac: Option<String>,
    /// The slot of its owner.
    pub owner: Option<u8>,
}

/// A check of the local service.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// `unknown`, `up`, `down`, `suppressed`.
    pub state: String,
    /// How often it was found well.
    pub well: u64,
    /// How often it was well, and then was not.
    pub falls: u64,
    /// The newest reason to find the service ill.
    pub last_error: Option<String>,
}

/// The NIC.
#[derive(Clone, Debug, Deserialize)]
pub struct Interface {
    /// Its own MAC address.
    pub mac: String,
    /// What the IPv4 VIPs resolve to, in the shared-mac mode.
    pub shared_mac_v4: Option<String>,
    /// What the IPv6 VIPs resolve to, in the shared-mac mode.
    pub shared_mac_v6: Option<String>,
    /// The host's side of the hand-off.
    pub tap: String,
}

/// A worker.
#[derive(Clone, Debug, Deserialize)]
pub struct Worker {
    /// Frames received.
    pub rx: u64,
    /// Frames transmitted.
    pub tx: u64,
    /// Frames taken from the host.
    pub from_host: u64,
    /// Verdicts by name.
    pub verdicts: BTreeMap<String, u64>,
    /// Drops by reason.
    pub drops: BTreeMap<String, u64>,
    /// The kernel's counts.
    pub kernel: BTreeMap<String, u64>,
}

/// Heartbeats.
#[derive(Clone, Debug, Deserialize)]
pub struct Heartbeats {
    /// Accepted.
    pub received: u64,
    /// Rejected, by reason.
    pub rejected: BTreeMap<String, u64>,
}

impl Interface {
    /// What the VIPs of either family resolve to, in the shared-mac mode.
    #[track_caller]
    pub fn shared_macs(&self) -> [Mac; 2] {
        [&self.shared_mac_v4, &self.shared_mac_v6].map(|mac| {
            let mac = mac.as_deref().expect("the mode is shared-mac");
            mac.parse().expect("a MAC address")
        })
    }
}

impl Status {
    /// Frames to the VIPs that came in: to a worker, or dropped or passed before.
    pub fn rx(&self) -> u64 {
        let offloaded = |it: &Offload| it.dropped_by_offload + it.passed_by_offload;
        let by_workers = self.workers.iter().map(|worker| worker.rx).sum::<u64>();
        by_workers + self.offload.as_ref().map_or(0, offloaded)
    }

    /// Frames that all workers dropped, by reason.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        sum(self.workers.iter().map(|worker| &worker.drops))
    }

    /// Frames that all workers have passed on to other members.
    pub fn forwarded(&self) -> u64 {
        self.workers.iter().map(|worker| worker.verdicts["forward"]).sum()
    }

    /// The kernel's own counts of all workers' sockets, by name.
    pub fn kernel(&self) -> BTreeMap<String, u64> {
        sum(self.workers.iter().map(|worker| &worker.kernel))
    }

    /// Heartbeats that were rejected, by reason.
    pub fn rejected(&self) -> BTreeMap<String, u64> {
        self.heartbeats.rejected.clone()
    }
}

fn sum<'a>(counts: impl Iterator<Item = &'a BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (name, count) in counts.flatten() {
        *sums.entry(name.clone()).or_default() += count;
    }
    sums
}
