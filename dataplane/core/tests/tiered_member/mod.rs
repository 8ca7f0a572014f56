//! A member of a cluster in a mode in which a packet reaches one node: a whole worker over ports in
//! memory. What is the tiered mode's alone says so.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use vipdp_core::bucket::Bucket;
use vipdp_core::counters::WorkerCounters;
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::memory::{MemoryHost, MemoryPort};
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::{
    Holding, Holdings, Ingress, Publication, Publisher, Service, Snapshot, Vips,
};
use vipdp_core::tiered::{Mark, Owners, PreviousOwners, Search, Tiered, TieredMac, VirtualMac};
use vipdp_core::verdict::DropReason;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::worker::{HeardClaim, Shared, Worker};

use crate::frames::{HOST, Link, ROUTER};

/// The cluster's number.
pub const CLUSTER: u16 = 0x1234;
/// How many next-hop addresses there are.
pub const COUNT: u16 = 30;
/// The next-hop addresses numbered 0.
pub const FIRST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 64);
pub const FIRST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, 0);
/// A UDP port whose flows are tracked.
pub const QUIC: u16 = 443;
/// The time at first.
pub const NOW_NS: u64 = 1_000_000_000_000;

pub fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

pub fn number(number: u16) -> Bucket {
    Bucket::new(number).unwrap()
}

/// A member's own MAC address.
pub fn mac_of(slot: Slot) -> MacAddr {
    MacAddr([0x02, 0x10, 0, 0, 0, slot.get() + 1])
}

pub fn virtual_mac(number: Bucket) -> MacAddr {
    VirtualMac::Address(number).mac(CLUSTER)
}

pub fn mark_mac(from: Slot, mark: Mark) -> MacAddr {
    VirtualMac::Mark(from, mark).mac(CLUSTER)
}

/// Owners by slot number: who has the address now, who had it last, and who before.
pub fn owners(now: Option<u8>, before: &[u8]) -> Owners {
    let before = |at: usize| before.get(at).copied().map(slot);
    Owners { now: now.map(slot), before: [before(0), before(1)] }
}

/// What became of one frame, as its neighbours see it.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    Host,
    Sent(Vec<u8>),
    Dropped(&'static str),
}

pub struct Member {
    pub slot: Slot,
    pub worker: Worker<MemoryPort, MemoryHost>,
    pub counters: Arc<WorkerCounters>,
    pub claims: Arc<ArrayQueue<HeardClaim>>,
    pub service: Service,
    pub holdings: Holdings,
    pub latest: Option<Bucket>,
    pub alive: Vec<Slot>,
    /// Whether another one may be back in a moment.
    pub is_away: bool,
    pub owners: Vec<(Bucket, Owners)>,
    pub lease_until_ns: u64,
    pub now_ns: u64,
    publisher: Publisher,
}

impl Member {
    /// The member in slot `own` of `members` many, all alive. It holds nothing and knows of no owners.
    pub fn new(own: u8, members: u8, mac: TieredMac) -> Self {
        let tiered = Tiered {
            slot: slot(own),
            cluster: CLUSTER,
            first4: Some(FIRST4),
            first6: Some(FIRST6),
            count: COUNT,
            mac,
            search: Search::PreviousOwners,
        };
        Self::in_mode(own, members, Ingress::Tiered(tiered))
    }

    /// The same in any mode.
    pub fn in_mode(own: u8, members: u8, ingress: Ingress) -> Self {
        let own = slot(own);
        let mut peer_macs = [None; SLOTS];
        for peer in (0..members).map(slot).filter(|&peer| peer != own) {
            peer_macs[peer.index()] = Some(mac_of(peer));
        }
        let vips = ["192.0.2.0/24", "2001:db8:53::/64"].map(|vip| vip.parse().unwrap());
        let service = Service {
            sticky_udp_ports: [QUIC].into(),
            peer_macs,
            ..Service::new(
                Vips::new(vips),
                ClientHash::new([7; 16], HashInput::Address),
                ingress,
                mac_of(own),
                HOST,
            )
        };
        let publication = Arc::new(Publication::new(Snapshot::waiting(service.clone())));
        let counters = Arc::<WorkerCounters>::default();
        let claims = Arc::new(ArrayQueue::new(4));
        let shared = Shared {
            publication: Arc::clone(&publication),
            flows: Arc::new(FlowTable::new(1024, [own.get().into(), 2])),
            unresolved: Arc::new(ArrayQueue::new(4)),
            claims: Arc::clone(&claims),
        };
        let (port, host) = (MemoryPort::new(64), MemoryHost::default());
        let mut member = Self {
            slot: own,
            worker: Worker::new(port, host, shared, Arc::clone(&counters)),
            counters,
            claims,
            service,
            holdings: Holdings::none(),
            latest: None,
            alive: (0..members).map(slot).collect(),
            is_away: false,
            owners: Vec::new(),
            lease_until_ns: NOW_NS + 1,
            now_ns: NOW_NS,
            publisher: Publisher::new(publication),
        };
        member.publish();
        member
    }

    pub fn tiered(&mut self) -> &mut Tiered {
        match &mut self.service.ingress {
            Ingress::Tiered(tiered) => tiered,
            _ => unreachable!("this is a member in the tiered mode"),
        }
    }

    /// Makes what was changed known to the worker.
    pub fn publish(&mut self) {
        let owners = self.owners.iter().copied();
        self.publisher.publish(Snapshot {
            lease_until_ns: self.lease_until_ns,
            previous: Arc::new(
                PreviousOwners::new(self.alive.iter().copied(), owners).while_away(self.is_away),
            ),
            latest: self.latest,
            ..Snapshot::serving(self.service.clone(), self.holdings.clone())
        });
    }

    /// Changes what is held of one address, the only one that ever is.
    pub fn hold(&mut self, number: Bucket, holding: Holding) {
        self.holdings.set(number, holding);
        self.latest = (holding != Holding::Foreign).then_some(number);
        self.publish();
    }

    /// Changes what is known of an address's owners, and forgets all else.
    pub fn know(&mut self, number: Bucket, owners: Owners) {
        self.owners = vec![(number, owners)];
        self.publish();
    }

    /// Lets one frame arrive, and says what became of it.
    pub fn fate(&mut self, bytes: &[u8]) -> Fate {
        let dropped = |counters: &WorkerCounters| {
            DropReason::all().map(|reason| counters.drops(reason)).collect::<Vec<_>>()
        };
        let before = dropped(&self.counters);
        self.worker.port_mut().arrive(bytes);
        assert_eq!(self.worker.poll_once(self.now_ns), 1);
        assert_eq!(self.worker.port().held(), 0, "a frame was lost");
        let after = dropped(&self.counters);
        let reasons = DropReason::all()
            .zip(before.iter().zip(&after))
            .filter(|(_, (before, after))| before != after)
            .map(|(reason, _)| Fate::Dropped(reason.label()));
        let delivered = std::mem::take(&mut self.worker.host_mut().delivered);
        let sent = std::mem::take(&mut self.worker.port_mut().sent);
        let mut fates: Vec<_> = delivered.iter().map(|_| Fate::Host).collect();
        fates.extend(sent.into_iter().map(Fate::Sent));
        fates.extend(reasons);
        assert_eq!(fates.len(), 1, "one frame, one fate: {fates:?}");
        fates.pop().unwrap()
    }

    #[track_caller]
    pub fn passes(&mut self, bytes: &[u8]) {
        assert_eq!(self.fate(bytes), Fate::Host);
    }

    #[track_caller]
    pub fn drops(&mut self, bytes: &[u8], reason: &'static str) {
        assert_eq!(self.fate(bytes), Fate::Dropped(reason));
    }

    /// The frame leaves as it came, but to that member and with that mark.
    #[track_caller]
    pub fn sends_on(&mut self, bytes: &[u8], to: u8, mark: Mark) {
        let sent = [&mac_of(slot(to)).0[..], &mark_mac(self.slot, mark).0, &bytes[12..]].concat();
        assert_eq!(self.fate(bytes), Fate::Sent(sent));
    }

    /// How the router reaches this member by that address.
    pub fn link(&mut self, number: Bucket) -> Link {
        let to = match self.tiered().mac {
            TieredMac::Virtual => virtual_mac(number),
            TieredMac::Node => self.service.own_mac,
        };
        Link { from: ROUTER, to, vlan: self.service.vlan }
    }

    /// How the member in slot 1 reaches this one with that mark.
    pub fn marked(&self, mark: Mark) -> Link {
        Link { from: mark_mac(slot(1), mark), to: self.service.own_mac, vlan: self.service.vlan }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

pub fn client(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 64, 0, n).into(),
        Family::V6 => Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, n.into()).into(),
    }
}

pub fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 99, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}
