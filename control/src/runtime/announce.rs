//! What this node says on the segment without being asked, and what it hears others say there.
//!
//! ```text
//!   the table, the members alive, the link --> Claims --> frames --> Announcer --> NIC
//!   the workers' queue of heard claims -----> strangers: to the protocol; rivals of ours: Claims
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use crossbeam::queue::ArrayQueue;
use tracing::{debug, info, warn};
use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::claim::{self, ArpForm};
use vipdp_core::rewrite;
use vipdp_core::snapshot::{Holding, Holdings, Ingress, Service, SharedMac};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::worker::HeardClaim;
use vipdp_io::announce::{Announcer, SendError};
use vipdp_io::link::Link;

use super::clock::monotonic_ns;
use crate::cluster::claims::{Claims, Frame, FrameCounts, Rival};
use crate::cluster::config::{SlotSet, Timing};

/// How often the link is looked at. A claim is not late by it: whoever forgot where an address is
/// asks, too.
const LINK_NS: u64 = 1_000_000_000;
/// How often a stranger's claim of one address is reported, like DEFEND_INTERVAL of RFC 5227.
const REPORT_NS: u64 = 10_000_000_000;
/// How many strangers' claims are kept in mind.
const STRANGERS_MAX: usize = 64;
/// Frames a second where nothing is claimed but what others contest: the shared-mac mode.
pub const DEFENCES_PER_S: u32 = 10;

/// What is said and heard.
#[derive(Debug)]
pub struct Announcements {
    /// The interface's name.
    interface: String,
    announcer: Announcer,
    heard: Arc<ArrayQueue<HeardClaim>>,
    claims: Claims,
    /// The newest table's lease: nothing is claimed without.
    lease_until_ns: u64,
    alive: SlotSet,
    link_is_up: bool,
    link_ns: u64,
    /// Until when a claim may be that of a member whose MAC address is not known yet.
    judges_from_ns: u64,
    /// What was heard before that, and may be a stranger's.
    unjudged: Vec<HeardClaim>,
    /// What strangers have claimed, and when that was last reported.
    strangers: Vec<(HeardClaim, u64)>,
}

impl Announcements {
    /// Opens the socket on `link`; `heard` is what workers hear. Asks at once whether a stranger has
    /// one of the addresses in `asked`.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open(
        link: &Link,
        heard: Arc<ArrayQueue<HeardClaim>>,
        service: &Service,
        timing: &Timing,
        rate_per_s: u32,
        asked: impl IntoIterator<Item = Bucket>,
    ) -> Result<Self> {
        let of = |frames: fn(&Service, Bucket) -> Vec<Vec<u8>>| {
            Bucket::new(0).map_or(0, |first| frames(service, first).len())
        };
        let frames = FrameCounts { claim: of(claim::frames), probe: of(claim::probes) };
        let mut claims = Claims::new(frames, timing.heartbeat_ns, rate_per_s);
        claims.ask(asked);
        Ok(Self {
            interface: link.name.clone(),
            announcer: Announcer::open(link)?,
            heard,
            claims,
            lease_until_ns: 0,
            alive: SlotSet::EMPTY,
            link_is_up: true,
            link_ns: 0,
            judges_from_ns: monotonic_ns() + 2 * (timing.detection_ns() + timing.heartbeat_ns),
            unjudged: Vec::new(),
            strangers: Vec::new(),
        })
    }

    /// When [`turn`](Self::turn) is to be called at the latest.
    pub fn deadline_ns(&self) -> u64 {
        let judging = if self.unjudged.is_empty() { u64::MAX } else { self.judges_from_ns };
        self.claims.deadline_ns().min(self.link_ns + LINK_NS).min(judging)
    }

    /// Takes in a new table, and who is alive by now.
    pub fn table(&mut self, now_ns: u64, service: &Service, table: &Table<'_>) {
        self.lease_until_ns = table.lease_until_ns;
        if matches!(service.ingress, Ingress::Tiered(_)) {
            let owned = |&number: &Bucket| table.holdings.get(number) == Holding::Owned;
            let owned: BucketSet = Bucket::all().filter(owned).collect();
            self.claims.hold(now_ns, &owned);
        }
        if !table.alive.is_subset(self.alive) {
            // Who comes back was cut off, or we were, and switches may have seen either.
            self.claims.claim_all_again(now_ns);
        }
        self.alive = table.alive;
    }

    /// Asks, too, whether a stranger has one of these addresses.
    pub fn ask(&mut self, numbers: impl IntoIterator<Item = Bucket>) {
        self.claims.ask(numbers);
    }

    /// Looks at the link, and sends what is due. Returns at once.
    pub fn turn(&mut self, now_ns: u64, service: &Service) {
        if now_ns >= self.link_ns + LINK_NS {
            self.link_ns = now_ns;
            self.watch_link(now_ns);
        }
        if now_ns >= self.lease_until_ns {
            // With the next lease, if any, they are claimed anew.
            self.claims.hold(now_ns, &BucketSet::EMPTY);
        }
        while let Some(frame) = self.claims.next(now_ns) {
            let (frames, index) = match frame {
                Frame::Claim(number, index) => (claim::frames(service, number), index),
                Frame::Probe(number, index) => (claim::probes(service, number), index),
            };
            if let Some(frame) = frames.get(index) {
                self.send(frame);
            }
        }
    }

    fn send(&self, frame: &[u8]) {
        match self.announcer.send(frame) {
            Ok(()) => {}
            // It is repeated, and all of it when the link is up again.
            Err(error @ (SendError::Busy | SendError::Down)) => debug!(%error, "a claim"),
            Err(error) => warn!(%error, "a claim"),
        }
    }

    fn watch_link(&mut self, now_ns: u64) {
        let is_up = match Link::read(&self.interface) {
            Ok(link) => link.require_running().is_ok(),
            Err(error) => {
                debug!(%error, "looking at the link");
                false
            }
        };
        if is_up && !self.link_is_up {
            info!(interface = self.interface, "the link is up again");
            self.claims.claim_all_again(now_ns);
        }
        self.link_is_up = is_up;
    }

    /// The next claim that was heard, whoever made it, where the protocol judges all of them.
    pub fn next_heard(&mut self) -> Option<HeardClaim> {
        self.heard.pop()
    }

    /// Claims these addresses once, now, for other members to hear. This is how often the protocol
    /// wants it: the rate for all other claims does not count.
    pub fn repeat(&self, service: &Service, numbers: &BucketSet) {
        let Ingress::Tiered(tiered) = &service.ingress else { return };
        for number in numbers.iter() {
            let mac = tiered.mac_of(number, service.own_mac);
            if let Some(address) = tiered.address_v4(number) {
                // Members listen to either form, and no other host is to be bothered twice.
                self.send(&claim::arp_claim(address, mac, ArpForm::Request, service.vlan));
            }
            if let Some(address) = tiered.address_v6(number) {
                self.send(&claim::advertisement(address, mac, service.vlan));
            }
        }
    }

    /// The next claim of a stranger that was not reported lately. Answers claims of what is ours.
    /// `members` are those whose MAC addresses are known.
    pub fn next_stranger(
        &mut self,
        now_ns: u64,
        service: &Service,
        members: &[Option<MacAddr>],
    ) -> Option<HeardClaim> {
        while let Some(heard) = self.next_judged(now_ns) {
            let is_member = !heard.is_foreign || members.contains(&Some(heard.mac));
            let rival = if is_member { Rival::Member } else { Rival::Stranger };
            if let Ingress::Tiered(tiered) = &service.ingress
                && let Some(number) = tiered.number(heard.address)
                && self.claims.contest(now_ns, number, rival)
                && rival == Rival::Stranger
            {
                info!(address = %heard.address, "defending an address that is this node's");
            }
            if rival == Rival::Stranger && self.is_news(now_ns, heard) {
                warn!(
                    address = %heard.address,
                    mac = %heard.mac,
                    "a host that is no member says that it has an address of this cluster"
                );
                return Some(heard);
            }
        }
        None
    }

    /// The next claim that can be judged.
    fn next_judged(&mut self, now_ns: u64) -> Option<HeardClaim> {
        if now_ns >= self.judges_from_ns
            && let Some(heard) = self.unjudged.pop()
        {
            return Some(heard);
        }
        while let Some(heard) = self.heard.pop() {
            if !heard.is_foreign || now_ns >= self.judges_from_ns {
                return Some(heard);
            }
            if !self.unjudged.contains(&heard) && self.unjudged.len() < STRANGERS_MAX {
                self.unjudged.push(heard);
            }
        }
        None
    }

    fn is_news(&mut self, now_ns: u64, heard: HeardClaim) -> bool {
        self.strangers.retain(|&(_, at)| now_ns < at + REPORT_NS);
        let is_known = self.strangers.iter().any(|(known, _)| *known == heard);
        if is_known || self.strangers.len() == STRANGERS_MAX {
            return false;
        }
        self.strangers.push((heard, now_ns));
        true
    }

    /// Says where `address` is, since somebody else says otherwise. In the tiered mode its owner
    /// does.
    pub fn defend(&mut self, now_ns: u64, service: &Service, address: IpAddr) {
        match &service.ingress {
            Ingress::Tiered(tiered) => {
                if let Some(number) = tiered.number(address) {
                    self.claims.contest(now_ns, number, Rival::Stranger);
                }
            }
            Ingress::SharedMac(macs) => {
                info!(%address, "defending a VIP");
                for frame in defence(service, *macs, address) {
                    self.send(&frame);
                }
            }
            // Nobody asks for a VIP there: routers have routes to it.
            Ingress::Anycast(_) => {}
        }
    }
}

/// A table as it was published.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// What this node holds.
    pub holdings: &'a Holdings,
    /// Until when it may claim it.
    pub lease_until_ns: u64,
    /// The members that are alive.
    pub alive: SlotSet,
}

/// The frames that say where a VIP of the shared-mac mode is. Switches must not learn the shared
/// address from them: they come from the node's own.
fn defence(service: &Service, macs: SharedMac, address: IpAddr) -> Vec<Vec<u8>> {
    let vlan = service.vlan;
    let mut frames = match address {
        IpAddr::V4(address) => [ArpForm::Request, ArpForm::Reply]
            .map(|form| claim::arp_claim(address, macs.v4, form, vlan))
            .to_vec(),
        IpAddr::V6(address) => vec![claim::advertisement(address, macs.v6, vlan)],
    };
    for frame in &mut frames {
        let mut dst = MacAddr::default();
        dst.0.copy_from_slice(&frame[..6]);
        rewrite::set_link_addresses(frame, dst, service.own_mac);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipdp_core::hash::{ClientHash, HashInput};
    use vipdp_core::parse::{Payload, parse};
    use vipdp_core::snapshot::Vips;

    #[test]
    fn a_defended_vip_is_at_the_shared_mac_and_comes_from_the_nodes_own() {
        let own = MacAddr([2, 0, 0, 0, 0, 1]);
        let macs = SharedMac::unicast(MacAddr([2, 0, 0x5e, 0, 0, 53]));
        let service = Service {
            vlan: Some(100),
            ..Service::new(
                Vips::default(),
                ClientHash::new([7; 16], HashInput::Address),
                Ingress::SharedMac(macs),
                own,
                MacAddr([2; 6]),
            )
        };
        for (vip, count) in [("192.0.2.53", 2), ("2001:db8:53::53", 1)] {
            let frames = defence(&service, macs, vip.parse().unwrap());
            assert_eq!(frames.len(), count);
            for frame in frames {
                let parsed = parse(&frame).unwrap();
                assert_eq!((parsed.src, parsed.vlan), (own, Some(100)));
                let said = match parsed.payload {
                    Payload::Arp(arp) => (arp.sender_ip.into(), arp.sender_mac),
                    Payload::NeighborAdvertisement(heard) => {
                        (heard.target.into(), heard.target_mac.unwrap())
                    }
                    other => panic!("{other:?}"),
                };
                assert_eq!(said, (vip.parse::<IpAddr>().unwrap(), macs.v4));
            }
        }
    }
}
