//! Members of a tiered cluster, joined by their ports: what one sends on, another receives.
//!
//! ```text
//!   router --frame--> member --SendOn--> member --SendOn--> ... --> host, or dropped
//! ```

mod flow_packets;
mod frames;
mod tiered_member;

use std::net::IpAddr;

use flow_packets::*;
use frames::*;
use proptest::prelude::*;
use proptest::{collection, option, sample};
use tiered_member::*;
use vipdp_core::bucket::Bucket;
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::{Holding, Holdings};
use vipdp_core::tiered::{Mark, Owners, Search, TieredMac, VirtualMac};
use vipdp_core::wire::ethernet::MacAddr;

const CLIENT_PORT: u16 = 40_000;
/// How many next-hop addresses the tests use.
const ADDRESSES: u16 = 3;

/// Lets a frame arrive at a member, and follows it to its end.
fn journey(members: &mut [Member], at: u8, frame: Vec<u8>) -> Journey {
    let (mut at, mut frame, mut marks) = (at, frame, Vec::new());
    loop {
        let member = &mut members[usize::from(at)];
        // Slow enough for the rate limit, which is another test's.
        member.now_ns += 1_000_000;
        match member.fate(&frame) {
            Fate::Host => return Journey { marks, host: Some(at) },
            Fate::Dropped(_) => return Journey { marks, host: None },
            Fate::Sent(sent) => {
                let mac = |at: usize| MacAddr(sent[at..at + 6].try_into().unwrap());
                let Some(VirtualMac::Mark(from, mark)) = VirtualMac::of(mac(6), CLUSTER) else {
                    panic!("sent on without a mark, from {}", mac(6));
                };
                assert_eq!(from, slot(at), "a mark is one member's alone");
                marks.push(mark);
                at = sent[5] - 1;
                assert_eq!(mac(0), mac_of(slot(at)));
                assert!(marks.len() <= SLOTS, "goes on for ever: {marks:?}");
                frame = sent;
            }
        }
    }
}

fn any_slot(members: u8) -> impl Strategy<Value = Slot> {
    (0..members).prop_map(slot)
}

fn any_address() -> impl Strategy<Value = Bucket> {
    (0..ADDRESSES).prop_map(number)
}

fn any_mark() -> impl Strategy<Value = Mark> {
    prop_oneof![
        any_address().prop_map(Mark::Previous),
        any_address().prop_map(Mark::BeforePrevious),
        any_address().prop_map(Mark::Back),
        // Of the anycast mode.
        any_address().prop_map(Mark::Steer),
        any_address().prop_map(Mark::Granted),
        // A stranger may name a slot that nobody has.
        any_slot(SLOTS as u8).prop_map(Mark::Round),
        any_slot(5).prop_map(Mark::Round),
    ]
}

/// Something that a member may believe, right or wrong.
#[derive(Clone, Debug)]
struct Belief {
    alive: Vec<Slot>,
    owners: Vec<Owners>,
    holdings: Vec<Holding>,
    latest: Option<Bucket>,
    has_lease: bool,
    search: Search,
}

fn any_belief(members: u8) -> impl Strategy<Value = Belief> {
    let count = usize::from(ADDRESSES);
    let someone = || option::of(any_slot(members));
    let owners =
        (someone(), [someone(), someone()]).prop_map(|(now, before)| Owners { now, before });
    let holding = prop_oneof![
        Just(Holding::Foreign),
        Just(Holding::Owned),
        any_slot(members).prop_map(Holding::Granted),
    ];
    let search = sample::select(vec![Search::PreviousOwners, Search::Members]);
    (
        collection::vec(any_slot(members), 0..=5),
        collection::vec(owners, count),
        collection::vec(holding, count),
        option::of(any_address()),
        proptest::bool::weighted(0.9),
        search,
    )
        .prop_map(|(alive, owners, holdings, latest, has_lease, search)| Belief {
            alive,
            owners,
            holdings,
            latest,
            has_lease,
            search,
        })
}

fn member_who_believes(own: u8, members: u8, mac: TieredMac, belief: &Belief) -> Member {
    let mut member = Member::new(own, members, mac);
    member.alive.clone_from(&belief.alive);
    member.owners = (0..).map(number).zip(belief.owners.iter().copied()).collect();
    for (address, &holding) in (0..).map(number).zip(&belief.holdings) {
        member.holdings.set(address, holding);
    }
    member.latest = belief.latest;
    member.lease_until_ns = if belief.has_lease { u64::MAX } else { 0 };
    member.tiered().search = belief.search;
    member.publish();
    member
}

/// How a frame may come: by an address, to a member's own MAC address, or with a mark.
#[derive(Clone, Copy, Debug)]
enum Way {
    Address(Bucket),
    Own,
    Marked(Slot, Mark),
}

fn any_way() -> impl Strategy<Value = Way> {
    prop_oneof![
        any_address().prop_map(Way::Address),
        Just(Way::Own),
        (any_slot(SLOTS as u8), any_mark()).prop_map(|(from, mark)| Way::Marked(from, mark))
    ]
}

fn any_mac() -> impl Strategy<Value = TieredMac> {
    sample::select(vec![TieredMac::Virtual, TieredMac::Node])
}

fn any_family() -> impl Strategy<Value = Family> {
    sample::select(FAMILIES.to_vec())
}

fn kind_of(mark: Mark) -> u8 {
    match mark {
        Mark::Previous(_) => 1,
        Mark::BeforePrevious(_) => 2,
        Mark::Back(_) => 3,
        Mark::Round(_) => 4,
        Mark::Steer(_) => 5,
        Mark::Granted(_) => 6,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever the members believe of each other and whatever comes in: no frame is sent on more
    /// than three times, or in a round more often than there are members.
    #[test]
    fn no_frame_goes_on_for_ever(
        mac in any_mac(),
        beliefs in (3..=5_u8).prop_flat_map(|n| collection::vec(any_belief(n), usize::from(n))),
        frames in collection::vec(
            (0..3_u8, sample::select(KINDS.to_vec()), any_family(), 0..3_u8, any_way()),
            1..20,
        ),
    ) {
        let count = beliefs.len() as u8;
        let mut members: Vec<_> = (0..)
            .zip(&beliefs)
            .map(|(own, belief)| member_who_believes(own, count, mac, belief))
            .collect();
        for (at, kind, family, n, way) in frames {
            let own = mac_of(slot(at));
            let link = match way {
                Way::Address(address) => Link { from: ROUTER, to: virtual_mac(address), vlan: None },
                Way::Own => Link { from: ROUTER, to: own, vlan: None },
                Way::Marked(from, mark) => Link { from: mark_mac(from, mark), to: own, vlan: None },
            };
            let Journey { marks, .. } =
                journey(&mut members, at, ip_frame(link, &packet(kind, client(family, n), CLIENT_PORT)));
            let kinds: Vec<_> = marks.iter().copied().map(kind_of).collect();
            if kinds.contains(&4) {
                prop_assert!(kinds.iter().all(|&kind| kind == 4), "{kinds:?}");
                prop_assert!(kinds.len() <= usize::from(count), "{marks:?}");
            } else {
                prop_assert!(kinds.is_sorted_by(|kind, next| kind < next), "{kinds:?}");
            }
        }
    }
}

/// What happens in a cluster whose members know what has happened.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// An address changes its owner.
    Move(Bucket, Slot),
    /// A client opens a flow, which the router sends by this address.
    Open(Bucket, Family, bool),
    /// Every flow sends a packet and is the subject of an ICMP error.
    Talk,
}

fn any_event(members: u8) -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (any_address(), any_slot(members)).prop_map(|(address, to)| Event::Move(address, to)),
        3 => (any_address(), any_family(), any::<bool>())
            .prop_map(|(address, family, sticky)| Event::Open(address, family, sticky)),
        1 => Just(Event::Talk),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    client: IpAddr,
    is_sticky: bool,
    address: Bucket,
    holder: u8,
}

struct Cluster {
    members: Vec<Member>,
    /// Who has owned each address, the first one first, nobody twice in a row.
    history: Vec<Vec<Slot>>,
    /// When an address was last moved to its owner: for the latest.
    moved: Vec<usize>,
    flows: Vec<Flow>,
}

impl Cluster {
    fn new(count: u8, mac: TieredMac, search: Search) -> Self {
        let mut members: Vec<_> = (0..count).map(|own| Member::new(own, count, mac)).collect();
        for member in &mut members {
            member.tiered().search = search;
            member.lease_until_ns = u64::MAX;
        }
        let history = vec![vec![slot(0)]; usize::from(ADDRESSES)];
        let moved = vec![0; usize::from(ADDRESSES)];
        let mut cluster = Self { members, history, moved, flows: Vec::new() };
        cluster.tell();
        cluster
    }

    /// Those who had the address before its owner, less one member: the last first, each once.
    fn before(&self, address: Bucket, less: Slot) -> Vec<Slot> {
        let mut before = vec![];
        let (now, earlier) = self.history[address.index()].split_last().unwrap();
        for &had in earlier.iter().rev() {
            if had != *now && had != less && !before.contains(&had) {
                before.push(had);
            }
        }
        before
    }

    fn owner(&self, address: Bucket) -> Slot {
        *self.history[address.index()].last().unwrap()
    }

    /// Lets all members know how things stand.
    fn tell(&mut self) {
        let addresses: Vec<_> = (0..ADDRESSES).map(number).collect();
        for at in 0..self.members.len() {
            let own = slot(at as u8);
            let owners = addresses.iter().map(|&address| {
                let before = self.before(address, own);
                let before = [before.first().copied(), before.get(1).copied()];
                (address, Owners { now: Some(self.owner(address)), before })
            });
            let owners = owners.collect();
            let held: Vec<_> =
                addresses.iter().copied().filter(|&a| self.owner(a) == own).collect();
            let latest = held.iter().copied().max_by_key(|address| self.moved[address.index()]);
            let member = &mut self.members[at];
            member.holdings = Holdings::owning(&held.iter().copied().collect());
            member.latest = latest;
            member.owners = owners;
            member.publish();
        }
    }

    fn shift(&mut self, address: Bucket, to: Slot) {
        if self.owner(address) != to {
            self.history[address.index()].push(to);
            self.moved[address.index()] = 1 + self.moved.iter().max().unwrap();
            self.tell();
        }
    }

    /// Sends a packet by way of the router.
    fn send(&mut self, kind: Kind, client: IpAddr, address: Bucket) -> Journey {
        let owner = self.owner(address).get();
        let link = self.members[usize::from(owner)].link(address);
        journey(&mut self.members, owner, ip_frame(link, &packet(kind, client, CLIENT_PORT)))
    }

    fn open(&mut self, address: Bucket, family: Family, is_sticky: bool) -> Journey {
        let client = client(family, self.flows.len() as u8);
        let holder = self.owner(address).get();
        self.flows.push(Flow { client, is_sticky, address, holder });
        self.send(if is_sticky { Kind::Quic } else { Kind::Syn }, client, address)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// A flow is found with its address's last two former owners, and a new one begins at the owner.
    #[test]
    fn a_flow_is_found_where_it_began(
        count in 3..=5_u8,
        mac in any_mac(),
        events in collection::vec(any_event(3), 1..40),
    ) {
        let mut cluster = Cluster::new(count, mac, Search::PreviousOwners);
        for event in events {
            match event {
                Event::Move(address, to) => cluster.shift(address, to),
                Event::Open(address, family, is_sticky) => {
                    let owner = cluster.owner(address).get();
                    let opened = cluster.open(address, family, is_sticky);
                    prop_assert_eq!(opened.host, Some(owner), "{:?}", opened);
                }
                Event::Talk => for flow in cluster.flows.clone() {
                    let owner = cluster.owner(flow.address);
                    let before = cluster.before(flow.address, owner);
                    let asked = before.iter().take(2).copied().chain([owner]);
                    let is_known = asked.into_iter().any(|slot| slot.get() == flow.holder);
                    // A sticky flow that is not found begins anew.
                    if flow.is_sticky && !is_known {
                        continue;
                    }
                    let kind = if flow.is_sticky { Kind::Quic } else { Kind::Ack };
                    let went = cluster.send(kind, flow.client, flow.address);
                    if is_known {
                        prop_assert_eq!(went.host, Some(flow.holder), "{:?} of {:?}", went, flow);
                    } else {
                        prop_assert!(went.host.is_some(), "{:?} of {:?}", went, flow);
                    }
                },
            }
        }
    }

    /// With all members asked, a flow is found by whatever address the router sends it, as an ICMP
    /// error is in any case.
    #[test]
    fn a_flow_is_found_by_any_address_when_all_are_asked(
        count in 3..=5_u8,
        mac in any_mac(),
        search in sample::select(vec![Search::PreviousOwners, Search::Members]),
        events in collection::vec(any_event(3), 1..30),
    ) {
        let mut cluster = Cluster::new(count, mac, search);
        for event in events {
            match event {
                Event::Move(address, to) => cluster.shift(address, to),
                Event::Open(address, family, _) => {
                    cluster.open(address, family, false);
                }
                Event::Talk => for flow in cluster.flows.clone() {
                    for address in (0..ADDRESSES).map(number) {
                        let error = cluster.send(Kind::Error, flow.client, address);
                        prop_assert_eq!(error.host, Some(flow.holder), "{:?} of {:?}", error, flow);
                        if search == Search::Members {
                            let went = cluster.send(Kind::Ack, flow.client, address);
                            prop_assert_eq!(went.host, Some(flow.holder), "{:?}", went);
                        }
                    }
                },
            }
        }
    }
}

/// In the shortest form: drained, given back, and nothing broken.
#[test]
fn connections_live_on_where_they_began_through_a_drain_and_back() {
    for family in FAMILIES {
        for mac in [TieredMac::Virtual, TieredMac::Node] {
            let mut cluster = Cluster::new(3, mac, Search::PreviousOwners);
            let addresses: Vec<_> = (0..ADDRESSES).map(number).collect();
            for &address in &addresses {
                cluster.open(address, family, false);
            }
            for to in [[1, 2, 1], [0, 0, 0]] {
                for (&address, to) in addresses.iter().zip(to) {
                    cluster.shift(address, slot(to));
                    cluster.open(address, family, false);
                }
                for flow in cluster.flows.clone() {
                    let went = cluster.send(Kind::Ack, flow.client, flow.address);
                    assert_eq!(went.host, Some(flow.holder), "{mac:?}: {flow:?} {went:?}");
                }
            }
            // A connection of nobody's gets its reset from the owner.
            let stray = cluster.send(Kind::Ack, client(family, 200), addresses[1]);
            assert_eq!(stray.host, Some(0), "{stray:?}");
            assert!(stray.marks.len() <= 3, "{stray:?}");
        }
    }
}
