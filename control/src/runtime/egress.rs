//! The ways out of the host for frames that leave by the workers, kept up to date: `egress = "tap"`.
//!
//! A link that goes down takes the host's routes and neighbours with it. They come back one after the other, made by
//! whoever made them first, and until a gateway's MAC address is known answers by it are lost. So a node whose link is
//! back does not serve before it knows the gateways again that it had.

use std::net::IpAddr;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use tracing::warn;
use vipdp_core::snapshot::Egress;
use vipdp_io::neighbor::EgressTable;

const MS: u64 = 1_000_000;

/// How often routes and neighbours are copied from the kernel.
const EGRESS_NS: u64 = 1_000 * MS;

/// How often while a gateway is not known that may be soon.
const MISSING_NS: u64 = 100 * MS;

/// How soon after a next hop was missing.
const RESOLVING_NS: u64 = 10 * MS;

/// For how long after a change a gateway may be known soon.
const SOON_NS: u64 = 10_000 * MS;

/// How long a node waits for its gateways' MAC addresses before it takes any client: the kernel asks for them once
/// a second (RFC 4861, section 10: RETRANS_TIMER), so that one question may be lost.
pub const GATEWAYS_MAX: Duration = Duration::from_secs(2);

/// The kernel's routes and neighbours, and when to copy them next.
#[derive(Debug)]
pub struct Ways {
    table: EgressTable,
    due_ns: u64,
    changed_ns: u64,
    /// The gateways of the copies of late, and when each was in one last.
    seen: Vec<(IpAddr, u64)>,
    lost: Lost,
}

impl Ways {
    /// Goes on with a copy that was just made.
    pub fn new(table: EgressTable, now: u64) -> Self {
        Self { table, due_ns: now, changed_ns: now, seen: Vec::new(), lost: Lost::default() }
    }

    /// The newest copy.
    pub fn egress(&self) -> &Egress {
        self.table.egress()
    }

    /// Copies anew if it is time, or if a worker missed a next hop, and returns whether anything changed.
    pub fn turn(&mut self, now: u64, missed: &ArrayQueue<IpAddr>) -> bool {
        let mut misses = false;
        while let Some(address) = missed.pop() {
            misses = true;
            if let Err(error) = self.table.resolve(address) {
                warn!(%address, %error, "a next hop cannot be resolved");
            }
        }
        if !misses && now < self.due_ns {
            return false;
        }
        see(&mut self.seen, self.table.gateways(), now);
        let changed = self.table.refresh().unwrap_or_else(|error| {
            warn!(%error, "the kernel's routes cannot be copied");
            false
        });
        if changed {
            self.changed_ns = now;
        }
        self.due_ns = now
            + match misses {
                true => RESOLVING_NS,
                false if self.may_know_more_soon(now) => MISSING_NS,
                false => EGRESS_NS,
            };
        changed
    }

    /// The NIC's link went down, or came back.
    pub fn link(&mut self, up: bool, now: u64) {
        if up {
            self.lost.is_sought(now);
            (self.due_ns, self.changed_ns) = (now, now);
        } else {
            // The routes may have gone, one after the other, before the link was seen to: the kernel tells of that
            // up to a second later (net/core/link_watch.c).
            see(&mut self.seen, self.table.gateways(), now);
            self.lost.add(self.seen.iter().map(|&(gateway, _)| gateway));
        }
    }

    /// Whether all gateways are known again that a lost link has cost, or have been waited for long enough.
    pub fn are_back(&mut self, now: u64) -> bool {
        let table = &self.table;
        let reaches = |lost| table.gateways().any(|gateway| gateway == lost) && table.knows(lost);
        self.lost.is_over(now, reaches)
    }

    fn may_know_more_soon(&self, now: u64) -> bool {
        let misses_any = || self.table.gateways().any(|gateway| !self.table.knows(gateway));
        now < self.lost.until_ns || now < self.changed_ns + SOON_NS && misses_any()
    }
}

/// Notes that these gateways are there now, and forgets those that have not been for long.
fn see(seen: &mut Vec<(IpAddr, u64)>, gateways: impl Iterator<Item = IpAddr>, now: u64) {
    for gateway in gateways {
        match seen.iter_mut().find(|(known, _)| *known == gateway) {
            Some((_, at)) => *at = now,
            None => seen.push((gateway, now)),
        }
    }
    seen.retain(|&(_, at)| now < at + SOON_NS);
}

/// The gateways that a lost link has cost, and until when they are waited for.
#[derive(Debug, Default)]
struct Lost {
    gateways: Vec<IpAddr>,
    until_ns: u64,
}

impl Lost {
    fn add(&mut self, gateways: impl Iterator<Item = IpAddr>) {
        self.gateways.extend(gateways);
        self.gateways.sort_unstable();
        self.gateways.dedup();
    }

    fn is_sought(&mut self, now: u64) {
        self.until_ns = now + GATEWAYS_MAX.as_nanos() as u64;
    }

    fn is_over(&mut self, now: u64, is_known: impl Fn(IpAddr) -> bool) -> bool {
        let is_over = now >= self.until_ns || self.gateways.iter().copied().all(is_known);
        if is_over {
            self.gateways.clear();
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_back_when_its_gateways_are() {
        let [v4, v6] = ["192.0.2.1", "2001:db8:53::1"].map(|text| text.parse().unwrap());
        let mut lost = Lost::default();
        assert!(lost.is_over(0, |_| false), "nothing was lost");
        lost.add([v6, v4, v4].into_iter());
        lost.is_sought(5);
        assert!(!lost.is_over(5, |_| false));
        assert!(!lost.is_over(5, |gateway| gateway == v4));
        assert!(lost.is_over(5, |_| true));
        assert!(lost.gateways.is_empty());
    }

    #[test]
    fn gateways_that_went_one_after_the_other_are_remembered_for_a_while() {
        let [v4, v6] = ["192.0.2.1", "2001:db8:53::1"].map(|text| text.parse().unwrap());
        let mut seen = Vec::new();
        see(&mut seen, [v4, v6].into_iter(), 0);
        see(&mut seen, [v6].into_iter(), 1);
        see(&mut seen, std::iter::empty(), 2);
        assert_eq!(seen, [(v4, 0), (v6, 1)]);
        see(&mut seen, std::iter::empty(), SOON_NS);
        assert_eq!(seen, [(v6, 1)]);
    }

    #[test]
    fn a_gateway_that_does_not_come_back_is_not_waited_for_for_ever() {
        let mut lost = Lost::default();
        lost.add(["192.0.2.1".parse().unwrap()].into_iter());
        lost.is_sought(7);
        let until = 7 + GATEWAYS_MAX.as_nanos() as u64;
        assert!(!lost.is_over(until - 1, |_| false));
        assert!(lost.is_over(until, |_| false));
    }
}
