//! What a worker counts: one writer, any number of readers, no locked instruction.
//!
//! A worker's counters lie on cache lines of their own and only that worker writes them, so that
//! adding is a plain load and a plain store.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::verdict::DropReason;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// What is counted beside the drop reasons.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $($(#[$doc])* $name,)* }

        impl Count {
            /// Everything that is counted, in the order of `count as usize`.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in `vipdp status` and in the metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

counts! {
    /// Turns of the worker's loop: it stands still when this does.
    Turns = "turns",
    /// Frames taken from the NIC.
    Received = "received",
    /// Frames given to the NIC: replies, forwarded frames, frames from the host.
    Transmitted = "transmitted",
    /// Frames taken from the host.
    FromHost = "from_host",
    /// Of these: super-packets, cut into as many packets as they hold.
    FromHostCut = "from_host_cut",
    /// Others of these: super-packets that the NIC cuts.
    FromHostWhole = "from_host_whole",
    /// Frames left to the host as they came, since they are of no service: only where it has its NIC from us.
    ToNicHost = "to_nic_host",
    /// Frames that the host sends by its NIC, where it has that from us.
    FromNicHost = "from_nic_host",
    /// Frames handed to the host.
    Passed = "pass",
    /// Of these: handed over as parts of super-packets.
    Coalesced = "pass_coalesced",
    /// Super-packets that these were handed over in.
    SuperPackets = "super_packets",
    /// ARP replies.
    ArpReplies = "reply_arp",
    /// Neighbour advertisements.
    NeighborAdvertisements = "reply_na",
    /// Frames forwarded to another member, for whatever reason.
    Forwarded = "forward",
    /// Of these, in the tiered mode: to the address's previous owner.
    ForwardedToPrevious = "forward_previous",
    /// Of these: to the owner before the previous one.
    ForwardedBeforePrevious = "forward_before_previous",
    /// Of these: back to the address's owner, since nobody knew the flow.
    ForwardedBack = "forward_back",
    /// Of these: to the next member in a round.
    ForwardedRound = "forward_round",
    /// Of these, in the anycast mode: to the owner of the client's bucket.
    ForwardedSteered = "forward_steered",
    /// Of these: new flows, to the member that is being handed their bucket.
    ForwardedGranted = "forward_granted",
    /// Packets taken out of a member's tunnel.
    Decapsulated = "decapsulated",
    /// Answers to packets that do not fit into a tunnel: ICMP and ICMPv6 "too big".
    TooBigReplies = "reply_too_big",
    /// Flows entered into the flow table.
    FlowsInserted = "flows_inserted",
    /// Flows that had to give way to a new one.
    FlowsEvicted = "flows_evicted",
}

/// One number: written by one thread, read by any.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
}

/// The counters of one worker. Only that worker may call the methods that change them: a second
/// writer would lose counts, nothing worse.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    counts: [Counter; Count::ALL.len()],
    drops: [Counter; DropReason::COUNT],
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| Counter::default()),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl WorkerCounters {
    /// Adds `n` to `count`.
    pub fn add(&self, count: Count, n: u64) {
        self.counts[count as usize].add(n);
    }

    /// Counts one packet dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) {
        self.drops_of(reason, 1);
    }

    /// Counts `n` packets dropped for `reason`.
    pub fn drops_of(&self, reason: DropReason, n: u64) {
        self.drops[reason.index()].add(n);
    }

    /// The value of `count`.
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].0.load(Relaxed)
    }

    /// How many packets were dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()].0.load(Relaxed)
    }

    /// How many packets were dropped in all.
    pub fn drops_total(&self) -> u64 {
        self.drops.iter().map(|counter| counter.0.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_and_each_reason_has_a_place_of_its_own() {
        let counters = WorkerCounters::default();
        for (n, &count) in Count::ALL.iter().enumerate() {
            counters.add(count, n as u64 + 1);
        }
        for (n, &count) in Count::ALL.iter().enumerate() {
            assert_eq!(counters.get(count), n as u64 + 1, "{}", count.label());
        }
        for reason in DropReason::all() {
            counters.dropped(reason);
            assert_eq!(counters.drops(reason), 1, "{}", reason.label());
        }
        assert_eq!(counters.drops_total(), DropReason::COUNT as u64);
    }
}
