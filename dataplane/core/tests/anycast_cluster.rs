//! Members of an anycast cluster with steering, joined by their ports: what one sends on, another
//! receives, on a segment or through a tunnel.
//!
//! ```text
//!   client --> any member, as the network likes --SendOn--> member --SendOn--> ... --> host, or dropped
//! ```

mod anycast_member;
mod flow_packets;
mod frames;
mod tiered_member;

use anycast_member::*;
use flow_packets::*;
use frames::*;
use proptest::prelude::*;
use proptest::{collection, option, sample};
use tiered_member::*;
use vipdp_core::bucket::Bucket;
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::Holding;
use vipdp_core::tiered::{Mark, Owners};

const CLIENT_PORT: u16 = 40_000;
/// How many members there are at most.
const MEMBERS: u8 = 4;
/// How many clients: each has a bucket of its own.
const CLIENTS: u8 = 3;

/// Lets a frame with this packet arrive at a member, and follows it to its end.
fn journey(members: &mut [Member], way: Way, at: u8, frame: Vec<u8>, packet: &[u8]) -> Journey {
    let (mut at, mut frame, mut marks) = (at, frame, Vec::new());
    loop {
        let member = &mut members[usize::from(at)];
        // Slow enough for the rate limit, which is another test's.
        member.now_ns += 1_000_000;
        match member.fate(&frame) {
            Fate::Host => return Journey { marks, host: Some(at) },
            Fate::Dropped(_) => return Journey { marks, host: None },
            Fate::Sent(sent) => {
                let hop = sent_on(way, &sent);
                assert_eq!(hop.from, slot(at), "a mark is one member's alone");
                assert_eq!(hop.packet, packet, "unchanged");
                marks.push(hop.mark);
                assert!(marks.len() <= SLOTS, "goes on for ever: {marks:?}");
                at = hop.to.get();
                frame = arriving(way, hop.from, hop.to, hop.mark, &hop.packet);
            }
        }
    }
}

fn any_slot() -> impl Strategy<Value = Slot> {
    (0..MEMBERS).prop_map(slot)
}

fn any_family() -> impl Strategy<Value = Family> {
    sample::select(FAMILIES.to_vec())
}

fn any_way() -> impl Strategy<Value = Way> {
    sample::select(WAYS.to_vec())
}

fn any_mark() -> impl Strategy<Value = Mark> {
    let any_bucket = || (0..4096_u16).prop_map(number);
    prop_oneof![
        any_bucket().prop_map(Mark::Previous),
        any_bucket().prop_map(Mark::BeforePrevious),
        any_bucket().prop_map(Mark::Back),
        any_bucket().prop_map(Mark::Steer),
        any_bucket().prop_map(Mark::Granted),
        any_slot().prop_map(Mark::Round),
    ]
}

/// Something that a member may believe of a client's bucket, right or wrong.
#[derive(Clone, Debug)]
struct Belief {
    owners: Owners,
    holding: Holding,
}

fn any_belief() -> impl Strategy<Value = Vec<Belief>> {
    let someone = || option::of(any_slot());
    let owners =
        (someone(), [someone(), someone()]).prop_map(|(now, before)| Owners { now, before });
    let holding = prop_oneof![
        Just(Holding::Foreign),
        Just(Holding::Owned),
        Just(Holding::TakenOver),
        any_slot().prop_map(Holding::Granted),
    ];
    let belief = (owners, holding).prop_map(|(owners, holding)| Belief { owners, holding });
    collection::vec(belief, usize::from(CLIENTS))
}

/// The buckets of the clients of a family.
fn buckets(family: Family) -> impl Iterator<Item = Bucket> {
    (0..CLIENTS).map(move |n| bucket_of(client(family, n)))
}

const fn kind_of(mark: Mark) -> u16 {
    mark.to_wire() >> 12
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, ..ProptestConfig::default() })]

    /// Whatever the members believe of each other and whatever comes in: a packet is steered at first
    /// or never, then sent on in the order of the search or to a taker who serves it; four times at
    /// most.
    #[test]
    fn no_packet_goes_on_for_ever(
        way in any_way(),
        family in any_family(),
        beliefs in collection::vec(any_belief(), usize::from(MEMBERS)),
        has_lease in collection::vec(proptest::bool::weighted(0.9), usize::from(MEMBERS)),
        packets in collection::vec(
            (any_slot(), sample::select(KINDS.to_vec()), 0..CLIENTS,
                option::of((any_slot(), any_mark()))),
            1..20,
        ),
    ) {
        let mut members: Vec<_> = (0..MEMBERS).map(|own| member(own, MEMBERS, way)).collect();
        for (at, member) in members.iter_mut().enumerate() {
            member.lease_until_ns = if has_lease[at] { u64::MAX } else { 0 };
            for (bucket, Belief { owners, holding }) in buckets(family).zip(&beliefs[at]) {
                // Nobody takes himself for another.
                let others = |slot: &Slot| usize::from(slot.get()) != at;
                let before = owners.before.map(|slot| slot.filter(others));
                member.owners.push((bucket, Owners { before, ..*owners }));
                let is_self = matches!(holding, Holding::Granted(to) if !others(to));
                member.holdings.set(bucket, if is_self { Holding::Owned } else { *holding });
            }
            member.publish();
        }
        for (at, kind, n, sent) in packets {
            let packet = packet(kind, client(family, n), CLIENT_PORT);
            let first = sent.filter(|&(from, _)| from != at);
            let frame = match first {
                Some((from, mark)) => arriving(way, from, at, mark, &packet),
                None => ip_frame(from_router(&members[at.index()]), &packet),
            };
            let Journey { marks, .. } = journey(&mut members, way, at.get(), frame, &packet);
            let marks = first.map(|(_, mark)| mark).into_iter().chain(marks);
            let kinds: Vec<_> = marks.map(kind_of).collect();
            let search = kinds.strip_prefix(&[5]).unwrap_or(&kinds);
            prop_assert!(
                matches!(search, [] | [6] | [4]) || search.is_sorted_by(|kind, next| kind < next)
                    && search.iter().all(|kind| (1..=3).contains(kind)),
                "{kinds:?}"
            );
            prop_assert!(kinds.len() <= 4, "{kinds:?}");
        }
    }
}

/// What happens in a cluster whose members hear of what has happened, each in its own time.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A bucket is handed to a member: its owner grants it.
    Grant(u8, Slot),
    /// Its taker hears of it.
    Take(u8),
    /// So does another member.
    Hear(u8, Slot),
    /// A member ends without a word; its buckets go to another one.
    Crash(Slot, Slot),
    /// It is back, without its flows.
    Join(Slot),
    /// A client opens a flow; the network chooses this member.
    Open(u8, Slot, bool),
    /// Every flow sends a packet, and is the subject of an ICMP error: by way of this member.
    Talk(Slot),
}

fn any_event() -> impl Strategy<Value = Event> {
    let bucket = || 0..CLIENTS;
    prop_oneof![
        4 => (bucket(), any_slot()).prop_map(|(bucket, to)| Event::Grant(bucket, to)),
        4 => bucket().prop_map(Event::Take),
        4 => (bucket(), any_slot()).prop_map(|(bucket, who)| Event::Hear(bucket, who)),
        1 => (any_slot(), any_slot()).prop_map(|(who, heir)| Event::Crash(who, heir)),
        2 => any_slot().prop_map(Event::Join),
        6 => (bucket(), any_slot(), any::<bool>())
            .prop_map(|(bucket, entry, is_sticky)| Event::Open(bucket, entry, is_sticky)),
        6 => any_slot().prop_map(Event::Talk),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    client: u8,
    port: u16,
    is_sticky: bool,
    holder: u8,
}

/// One bucket's fate.
#[derive(Clone, Debug)]
struct Past {
    /// Who has owned it, the first one first, nobody twice in a row. The last one may not know yet.
    owners: Vec<Slot>,
    /// How many of these each member has heard of: all, or all but the last.
    heard: [usize; MEMBERS as usize],
}

struct Cluster {
    way: Way,
    family: Family,
    members: Vec<Member>,
    alive: Vec<Slot>,
    pasts: Vec<Past>,
    flows: Vec<Flow>,
    /// How many flows were opened, those that a crash has ended included: no port is used twice.
    opened: u16,
}

impl Cluster {
    fn new(way: Way, family: Family) -> Self {
        let members: Vec<_> = (0..MEMBERS).map(|own| member(own, MEMBERS, way)).collect();
        let past = Past { owners: vec![slot(0)], heard: [1; MEMBERS as usize] };
        let alive = (0..MEMBERS).map(slot).collect();
        let pasts = vec![past; usize::from(CLIENTS)];
        let mut cluster = Self { way, family, members, alive, pasts, flows: Vec::new(), opened: 0 };
        cluster.tell();
        cluster
    }

    fn is_alive(&self, slot: Slot) -> bool {
        self.alive.contains(&slot)
    }

    /// Who had a bucket before those that `owners` ends with, less one member: the last first, each once.
    fn before(&self, owners: &[Slot], less: Slot) -> Vec<Slot> {
        let (now, earlier) = owners.split_last().unwrap();
        let mut before = vec![];
        for &had in earlier.iter().rev() {
            if had != *now && had != less && self.is_alive(had) && !before.contains(&had) {
                before.push(had);
            }
        }
        before
    }

    /// Lets all members know what they have heard.
    fn tell(&mut self) {
        for at in 0..self.members.len() {
            let own = slot(at as u8);
            let mut views = Vec::new();
            for (bucket, past) in buckets(self.family).zip(&self.pasts) {
                let known = &past.owners[..past.heard[at]];
                let now = *known.last().unwrap();
                let before = self.before(known, own);
                let before = [before.first().copied(), before.get(1).copied()];
                let holding = match past.owners.get(known.len()) {
                    _ if now != own => Holding::Foreign,
                    Some(&taker) => Holding::Granted(taker),
                    None => Holding::Owned,
                };
                views.push((bucket, Owners { now: Some(now), before }, holding));
            }
            let member = &mut self.members[at];
            member.lease_until_ns = u64::MAX;
            member.alive.clone_from(&self.alive);
            member.owners = views.iter().map(|&(bucket, owners, _)| (bucket, owners)).collect();
            for (bucket, _, holding) in views {
                member.holdings.set(bucket, holding);
            }
            member.publish();
        }
    }

    /// Lets everybody hear of everything.
    fn settle(&mut self) {
        for past in &mut self.pasts {
            past.heard.fill(past.owners.len());
        }
        self.tell();
    }

    fn grant(&mut self, bucket: u8, to: Slot) {
        let past = &mut self.pasts[usize::from(bucket)];
        past.heard.fill(past.owners.len());
        if self.alive.contains(&to) && past.owners.last() != Some(&to) {
            past.owners.push(to);
        }
        self.tell();
    }

    /// The taker is the first to hear: the others hear it from its claim.
    fn take(&mut self, bucket: u8) {
        let past = &mut self.pasts[usize::from(bucket)];
        let taker = past.owners.last().unwrap().index();
        past.heard[taker] = past.owners.len();
        self.tell();
    }

    fn hear(&mut self, bucket: u8, who: Slot) {
        self.take(bucket);
        let past = &mut self.pasts[usize::from(bucket)];
        past.heard[who.index()] = past.owners.len();
        self.tell();
    }

    fn crash(&mut self, who: Slot, heir: Slot) {
        if who == heir || !self.is_alive(who) || !self.is_alive(heir) {
            return;
        }
        self.alive.retain(|&alive| alive != who);
        for past in &mut self.pasts {
            if past.owners.last() == Some(&who) {
                past.owners.push(heir);
            }
        }
        self.flows.retain(|flow| flow.holder != who.get());
        self.settle();
    }

    fn join(&mut self, who: Slot) {
        if self.is_alive(who) {
            return;
        }
        self.members[who.index()] = member(who.get(), MEMBERS, self.way);
        self.alive.push(who);
        // Its new session has had nothing.
        for past in &mut self.pasts {
            past.owners.retain(|&owner| owner != who);
            past.owners.dedup();
        }
        self.settle();
    }

    /// Sends a packet by way of a member, or, if it is not there, by another.
    fn send(&mut self, kind: Kind, flow: Flow, entry: Slot) -> Journey {
        let entry = if self.is_alive(entry) { entry } else { self.alive[0] };
        let packet = packet(kind, client(self.family, flow.client), flow.port);
        let frame = ip_frame(from_router(&self.members[entry.index()]), &packet);
        journey(&mut self.members, self.way, entry.get(), frame, &packet)
    }

    fn open(&mut self, bucket: u8, entry: Slot, is_sticky: bool) -> Journey {
        let port = CLIENT_PORT + self.opened;
        self.opened += 1;
        let mut flow = Flow { client: bucket, port, is_sticky, holder: u8::MAX };
        let opened = self.send(if is_sticky { Kind::Quic } else { Kind::Syn }, flow, entry);
        flow.holder = opened.host.unwrap_or(u8::MAX);
        self.flows.push(flow);
        opened
    }

    /// Whether the flow is with the bucket's owner or the last two before, as far as the cluster goes.
    fn is_findable(&self, flow: Flow) -> bool {
        let owners = &self.pasts[usize::from(flow.client)].owners;
        let owner = *owners.last().unwrap();
        let before = self.before(owners, owner);
        let asked = before.iter().take(2).copied().chain([owner]);
        asked.into_iter().any(|slot| slot.get() == flow.holder)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// However the network spreads packets, and whatever members have heard of a hand-over so far: all
    /// packets of a flow reach the host where it began, for as long as that is there and one of the
    /// last owners.
    #[test]
    fn a_flow_stays_where_it_began_wherever_its_packets_come_in(
        way in any_way(),
        family in any_family(),
        events in collection::vec(any_event(), 1..60),
    ) {
        let mut cluster = Cluster::new(way, family);
        for event in events {
            match event {
                Event::Grant(bucket, to) => cluster.grant(bucket, to),
                Event::Take(bucket) => cluster.take(bucket),
                Event::Hear(bucket, who) => cluster.hear(bucket, who),
                Event::Crash(who, heir) => cluster.crash(who, heir),
                Event::Join(who) => cluster.join(who),
                Event::Open(bucket, entry, is_sticky) => {
                    let opened = cluster.open(bucket, entry, is_sticky);
                    prop_assert!(opened.host.is_some(), "{opened:?}");
                    let flow = *cluster.flows.last().unwrap();
                    // The same packet again, by any other way, is the same flow's.
                    for entry in (0..MEMBERS).map(slot) {
                        let kind = if is_sticky { Kind::Quic } else { Kind::Syn };
                        let again = cluster.send(kind, flow, entry);
                        prop_assert_eq!(again.host, opened.host, "{:?} {:?}", opened, again);
                    }
                }
                Event::Talk(entry) => for flow in cluster.flows.clone() {
                    // A sticky flow that is not found begins anew.
                    if !cluster.is_findable(flow) {
                        continue;
                    }
                    let kinds: &[_] = match flow.is_sticky {
                        true => &[Kind::Quic],
                        false => &[Kind::Ack, Kind::Error, Kind::FirstFragment, Kind::LaterFragment],
                    };
                    for &kind in kinds {
                        let went = cluster.send(kind, flow, entry);
                        prop_assert!(went.marks.len() <= 4, "{went:?}");
                        prop_assert_eq!(
                            went.host, Some(flow.holder),
                            "{:?} {:?} of {:?}, {:?}", kind, went, flow, cluster.pasts
                        );
                    }
                },
            }
        }
    }
}

/// In the shortest form: the network changes its mind about every packet, buckets are drained and
/// given back, and nothing breaks.
#[test]
fn connections_live_on_through_a_drain_and_a_rehash() {
    for way in WAYS {
        for family in FAMILIES {
            let mut cluster = Cluster::new(way, family);
            for to in [1, 2, 0] {
                for bucket in 0..CLIENTS {
                    cluster.open(bucket, slot(bucket), false);
                    cluster.grant(bucket, slot(to));
                    cluster.open(bucket, slot(3), false);
                    cluster.take(bucket);
                }
                cluster.settle();
                for entry in (0..MEMBERS).map(slot) {
                    for flow in cluster.flows.clone() {
                        let went = cluster.send(Kind::Ack, flow, entry);
                        assert_eq!(went.host, Some(flow.holder), "{way:?}: {flow:?} {went:?}");
                    }
                }
            }
            // A connection of nobody's gets its reset from the owner; a question its answer.
            let stray = Flow { client: 1, port: 1, is_sticky: false, holder: 0 };
            for kind in [Kind::Ack, Kind::Dns] {
                let went = cluster.send(kind, stray, slot(3));
                assert_eq!(went.host, Some(0), "{went:?}");
            }
        }
    }
}
