//! The transition table of one bucket's ownership: every row of it, and that nothing else happens.
//!
//! The node under test has slot 0; slots 1 and 2 are puppets that say what a row needs.

use vipdp_core::bucket::Bucket;

use super::*;
use crate::cluster::config::{AllDown, ConfigId, Lists, Member, Parameters, Partition};
use crate::cluster::wire::{Body, Entry, EntryFlags, Header, NodeFlags, proof, session_tag};

mod all_down;
mod grants;
mod votes;

const MS: u64 = 1_000_000;
const H: u64 = 50 * MS;
const D: u64 = 5 * H;
const SECOND: u64 = 20 * H;
const SESSION: u64 = 0x5e55_1011;

fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

fn parameters(partition: Partition) -> Parameters {
    let member = |number| Member { slot: slot(number), weight: 1, tombstone: false };
    Parameters {
        cluster: 1,
        id: ConfigId { generation: 5, hash: 5 },
        members: (0..3).map(member).collect(),
        timing: Timing::DEFAULT,
        partition,
        all_down: AllDown::Serve,
        lists: Lists::Buckets,
        steers: false,
        assignment_seed: [9; 16],
    }
}

/// Where a bucket is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Idle,
    Candidate,
    Owner,
    Yielding,
}
use At::{Candidate, Idle, Owner, Yielding};

/// What a puppet says, beside its body.
#[derive(Clone, Copy)]
struct Puppet {
    session: u64,
    seq: u64,
    /// The node's highest sequence number that it says it has heard.
    heard: u64,
    /// Whether it says that it hears the node.
    hears: bool,
    share: u8,
    flags: NodeFlags,
    config: ConfigId,
    /// The batch that it says it has accepted from the node.
    accepted: u8,
    /// The batch that it says it is handing to the node.
    handing: u8,
    /// Whether it votes for the node.
    supports: bool,
    /// Whether it says that the other puppet is alive.
    sees_other: bool,
}

struct Rig {
    node: Node,
    now: u64,
    out: Vec<Output>,
    puppets: [Puppet; 3],
    /// The bucket in question: all of a kind have the same target.
    bucket: Bucket,
}

impl Rig {
    /// A node that has met both puppets and has stopped listening. The puppets claim everything.
    /// The bucket is one whose preference list is `list`.
    fn new(list: [u8; 3], partition: Partition) -> Self {
        Self::with(list, parameters(partition))
    }

    /// The same, with this configuration.
    fn with(list: [u8; 3], parameters: Parameters) -> Self {
        let config = Arc::new(ClusterConfig::new(parameters).unwrap());
        let bucket = Bucket::all()
            .find(|&bucket| config.assignment().preference(bucket) == list.map(slot))
            .expect("each order occurs");
        let puppet = Puppet {
            session: 0,
            seq: 0,
            heard: 0,
            hears: true,
            share: u8::MAX,
            flags: NodeFlags::GATEWAY,
            config: config.id(),
            accepted: 0,
            handing: 0,
            supports: true,
            sees_other: false,
        };
        let node = Node::new(config, slot(0), SESSION, 1, 0);
        let mut rig = Self { node, now: 0, out: Vec::new(), puppets: [puppet; 3], bucket };
        rig.input(Input::Gateway(true));
        rig.input(Input::Tick);
        for peer in [1, 2] {
            rig.join(peer, 100 + u64::from(peer));
            rig.claim(peer, &BucketSet::FULL);
        }
        rig.tick();
        assert_eq!(rig.node.state(), State::Active);
        // The hold is over, and the heartbeats that end it were answered.
        rig.node.hold_until = None;
        rig.node.cold_until = 0;
        rig.tick();
        rig.out.clear();
        rig
    }

    fn input(&mut self, input: Input) {
        self.node.step(self.now, input, &mut self.out);
        assert!(matches!(self.out.last(), Some(Output::NextDeadline(_))));
    }

    /// The next tick, at its time.
    fn tick(&mut self) {
        self.now = self.now.max(self.node.deadline);
        self.input(Input::Tick);
    }

    /// Ticks for `time`, while the puppets in `alive` repeat their claims, having heard all.
    fn pass(&mut self, time: u64, alive: &[u8]) {
        let end = self.now + time;
        while self.node.deadline <= end {
            self.tick();
            for &peer in alive {
                let claims = self.node.peer(slot(peer)).claims.clone();
                self.claim(peer, &claims);
            }
        }
        self.now = end;
    }

    /// A puppet says `body`.
    fn say(&mut self, peer: u8, body: Body) {
        let puppet = &mut self.puppets[usize::from(peer)];
        puppet.seq += 1;
        let puppet = *puppet;
        let mut entries = [Entry::default(); SLOTS];
        entries[0] = Entry {
            tag: session_tag(self.node.session),
            ack: puppet.heard as u16,
            known: puppet.heard as u16,
            transfer_out: puppet.handing,
            transfer_accepted: puppet.accepted,
            flags: EntryFlags::default()
                .with(EntryFlags::HEARS, puppet.hears)
                .with(EntryFlags::ALIVE, true)
                .with(EntryFlags::SUPPORTS, puppet.supports),
            share: self.node.share,
        };
        let other = 3 - usize::from(peer);
        entries[other] = Entry {
            tag: session_tag(self.puppets[other].session),
            known: self.puppets[other].seq as u16,
            flags: EntryFlags::HEARS.with(EntryFlags::ALIVE, puppet.sees_other),
            ..Entry::default()
        };
        let header = Header {
            cluster: 1,
            slot: slot(peer),
            flags: puppet.flags,
            share: puppet.share,
            heartbeat_ms: 50,
            detection_ms: 250,
            session: puppet.session,
            seq: puppet.seq,
            sent_us: 0,
            config: puppet.config,
            staged: 0,
        };
        self.input(Input::Message(Box::new(Message { header, entries, body, mac: None })));
    }

    fn join(&mut self, peer: u8, session: u64) {
        let puppet = &mut self.puppets[usize::from(peer)];
        (puppet.session, puppet.seq) = (session, 0);
        // The first one asks, the second one has heard the answer.
        for _ in 0..2 {
            let mut heard = [0; SLOTS];
            heard[0] = proof(self.node.session, self.node.seq);
            self.say(peer, Body::Join { heard });
            self.now = self.now.max(self.node.deadline);
            self.input(Input::Tick);
        }
    }

    /// A heartbeat of a puppet that has heard all that the node has said.
    fn claim(&mut self, peer: u8, claims: &BucketSet) {
        self.puppets[usize::from(peer)].heard = self.node.seq;
        self.say(peer, Body::Heartbeat { claims: claims.clone() });
    }

    /// A transfer of the bucket in batch `number`.
    fn hand(&mut self, peer: u8, number: u8) {
        self.puppets[usize::from(peer)].handing = number;
        let buckets = self.just_it();
        self.say(peer, Body::Transfer { to: slot(0), buckets });
    }

    fn just_it(&self) -> BucketSet {
        [self.bucket].into_iter().collect()
    }

    /// Both puppets claim all but the bucket: the node may become candidate for it.
    fn free(&mut self) {
        let mut rest = BucketSet::FULL;
        rest.remove(self.bucket);
        for peer in [1, 2] {
            self.claim(peer, &rest);
        }
    }

    fn at(&self) -> At {
        let bucket = self.bucket;
        let candidate = self.node.cohorts.iter().any(|cohort| cohort.buckets.contains(bucket));
        let (owned, granted) =
            (self.node.owned.contains(bucket), self.node.yielding.contains(bucket));
        match (candidate, owned, granted) {
            (false, false, false) => Idle,
            (true, false, false) => Candidate,
            (false, true, false) => Owner,
            (false, false, true) => Yielding,
            more => panic!("in several states at once: {more:?}"),
        }
    }

    /// Brings the bucket, of which the node is the target, to a state.
    fn bring(&mut self, to: At) {
        match to {
            Idle => {}
            Candidate => self.free(),
            Owner => {
                self.free();
                self.free();
            }
            Yielding => {
                self.bring(Owner);
                self.node.share = 0;
                self.node.draining = true;
                self.input(Input::Drain(true));
                self.tick();
            }
        }
        assert_eq!(self.at(), to, "brought there");
        self.out.clear();
    }

    /// The kinds of what was put out since, without promises and plain heartbeats.
    fn said(&self) -> Vec<&'static str> {
        let kind = |output: &Output| match output {
            Output::PublishTable { .. } => Some("publish"),
            Output::Claim(_) => Some("claim"),
            Output::Release(_) => Some("release"),
            Output::LingerStart(_) => Some("linger"),
            Output::LingerEnd(_) => Some("linger-end"),
            Output::Send { message, .. } => match message.body {
                Body::Heartbeat { .. } => Some("heartbeat"),
                Body::Transfer { .. } => Some("transfer"),
                Body::Candidate { .. } => Some("candidate"),
                Body::Join { .. } => Some("join"),
            },
            Output::Alarm(_) => Some("alarm"),
            Output::Defend(_) => Some("defend"),
            Output::Refused(..) => Some("refused"),
            Output::NextDeadline(_) => None,
        };
        self.out.iter().filter_map(kind).collect()
    }
}

/// One row: from a state, by what happens, to a state; and what is put out on the way.
struct Row {
    what: &'static str,
    from: At,
    happens: fn(&mut Rig),
    to: At,
    said: &'static [&'static str],
}

const fn row(
    what: &'static str,
    from: At,
    happens: fn(&mut Rig),
    to: At,
    said: &'static [&'static str],
) -> Row {
    Row { what, from, happens, to, said }
}

/// Puppet 1 says that it takes all of its share again, having heard all or not.
fn claims_it(rig: &mut Rig, peer: u8) {
    let claims = rig.just_it();
    rig.claim(peer, &claims);
}

#[test]
fn the_transition_table() {
    let rows = [
        row("nobody claims it", Idle, Rig::free, Candidate, &["candidate"]),
        row("somebody claims it", Idle, |r| claims_it(r, 1), Idle, &[]),
        row("all have answered", Candidate, Rig::free, Owner, &["claim", "publish"]),
        row("one has not answered", Candidate, |r| r.claim(1, &BucketSet::EMPTY), Candidate, &[]),
        row(
            "an answer that does not tell claims",
            Candidate,
            |r| {
                r.claim(1, &BucketSet::EMPTY);
                r.puppets[2].heard = r.node.seq;
                r.say(2, Body::Candidate { buckets: BucketSet::EMPTY });
            },
            Candidate,
            &[],
        ),
        row(
            "no answer for 2h",
            Candidate,
            |r| {
                r.pass(2 * H - 1, &[]);
                assert_eq!(r.at(), Candidate);
                r.out.clear();
                r.now += 1;
                r.input(Input::Tick);
            },
            Owner,
            &["claim", "publish", "heartbeat"],
        ),
        row("somebody claims it", Candidate, |r| claims_it(r, 2), Idle, &[]),
        row("it is handed over", Candidate, |r| r.hand(1, 1), Owner, &["claim", "publish"]),
        row("it is handed over", Idle, |r| r.hand(1, 1), Owner, &["claim", "publish"]),
        row("batch 0 is none", Idle, |r| r.hand(1, 0), Idle, &[]),
        row(
            "the giver may have given up on this node",
            Idle,
            |r| {
                // For D - h/2 nothing of this node's was acknowledged.
                r.puppets[1].heard = 1;
                r.node.peer_mut(slot(1)).ack_known = 1;
                r.now += D - H / 2 + 1;
                r.node.deadline = r.now;
                r.hand(1, 1);
            },
            Idle,
            &[],
        ),
        row(
            "a batch is repeated",
            Owner,
            |r| {
                r.hand(1, 1);
                r.input(Input::Drain(true));
                r.tick();
                let number = r.node.peer(slot(1)).out_number;
                r.puppets[1].accepted = number;
                r.claim(1, &BucketSet::FULL);
                assert_eq!(r.at(), Idle);
                r.out.clear();
                r.hand(1, 1);
            },
            Idle,
            &[],
        ),
        row(
            "another should own it",
            Owner,
            |r| {
                r.input(Input::Drain(true));
                r.tick();
            },
            Yielding,
            &["publish", "transfer", "publish", "heartbeat"],
        ),
        row(
            "another should own it, but does not hear this node",
            Owner,
            |r| {
                for peer in [1, 2] {
                    r.puppets[peer].hears = false;
                    r.say(peer as u8, Body::Candidate { buckets: BucketSet::EMPTY });
                }
                r.input(Input::Drain(true));
            },
            Owner,
            &[],
        ),
        row(
            "another should own it, but has another configuration",
            Owner,
            |r| {
                for peer in [1, 2] {
                    r.puppets[peer].config = ConfigId { generation: 6, hash: 0 };
                    r.say(peer as u8, Body::Candidate { buckets: BucketSet::EMPTY });
                }
                r.input(Input::Drain(true));
            },
            Owner,
            &[],
        ),
        row(
            "all others die",
            Owner,
            |r| {
                r.pass(2 * D, &[]);
                r.out.clear();
            },
            Owner,
            &[],
        ),
        row(
            "it is claimed, and not by the target",
            Owner,
            |r| {
                r.tick();
                r.out.clear();
                claims_it(r, 1);
            },
            Owner,
            &[],
        ),
        row(
            "one with a newer configuration claims it",
            Owner,
            |r| {
                r.tick();
                r.out.clear();
                r.puppets[2].config = ConfigId { generation: 5, hash: 6 };
                claims_it(r, 2);
            },
            Idle,
            &["alarm", "release", "linger", "publish"],
        ),
        row(
            "the taker has it",
            Yielding,
            |r| {
                r.puppets[1].accepted = r.node.peer(slot(1)).out_number;
                claims_it(r, 1);
            },
            Idle,
            &["linger", "publish"],
        ),
        row(
            "the target is this node again",
            Yielding,
            |r| {
                r.input(Input::Drain(false));
                r.node.hold_until = None;
                r.tick();
                r.tick();
            },
            Yielding,
            &["publish", "heartbeat", "publish", "heartbeat", "transfer"],
        ),
        row(
            "the taker starts anew",
            Yielding,
            |r| r.join(1, 999),
            Idle,
            &["refused", "join", "linger", "publish", "publish", "heartbeat"],
        ),
        row(
            "the taker dies",
            Yielding,
            |r| {
                r.pass(D, &[2]);
                r.out.clear();
                r.free_for_2();
            },
            Idle,
            &[],
        ),
        row("late by D - h", Owner, |r| r.sleep(D - H), Owner, &["publish", "heartbeat"]),
        row("late", Owner, |r| r.sleep(D - H + 1), Idle, LATE),
        row("late", Yielding, |r| r.sleep(D - H + 1), Idle, LATE),
        row("late", Candidate, |r| r.sleep(D - H + 1), Idle, &["alarm", "publish", "heartbeat"]),
    ];
    for Row { what, from, happens, to, said } in rows {
        let mut rig = Rig::new([0, 1, 2], Partition::None);
        rig.bring(from);
        happens(&mut rig);
        assert_eq!(rig.at(), to, "{from:?}, {what}");
        assert_eq!(rig.said(), said, "{from:?}, {what}");
    }
}

const LATE: &[&str] = &["alarm", "release", "linger", "publish", "heartbeat"];

impl Rig {
    /// The loop stands still for `time` beyond the next deadline.
    fn sleep(&mut self, time: u64) {
        self.out.clear();
        self.now = self.node.deadline + time;
        self.input(Input::Tick);
    }

    /// Puppet 2 repeats that it claims nothing.
    fn free_for_2(&mut self) {
        self.claim(2, &BucketSet::EMPTY);
    }
}

/// A node that fences itself, or that is not the target, drops what it has.
#[test]
fn fenced_nodes_have_nothing() {
    for from in [Candidate, Owner, Yielding] {
        let mut rig = Rig::new([0, 1, 2], Partition::Gateway);
        rig.bring(from);
        rig.input(Input::Gateway(false));
        assert_eq!(rig.at(), Idle, "{from:?}");
        assert_eq!(rig.node.state(), State::Fenced);
        rig.hand(1, 1);
        assert_eq!(rig.at(), Idle, "a fenced node accepts nothing");
    }
}

/// Also where nothing else tells whether it is cut off.
#[test]
fn a_node_without_a_link_has_nothing_and_listens_before_it_has_again() {
    for partition in [Partition::None, Partition::Majority, Partition::Gateway] {
        let mut rig = Rig::new([0, 1, 2], partition);
        rig.bring(Owner);
        rig.input(Input::Link(false));
        assert_eq!((rig.at(), rig.node.state()), (Idle, State::Fenced), "{partition:?}");
        rig.hand(1, 1);
        assert_eq!(rig.at(), Idle, "{partition:?}");
    }
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    rig.bring(Owner);
    rig.input(Input::Link(false));
    // The others are not heard for so long that they are dead to it.
    rig.pass(2 * D, &[]);
    assert_eq!((rig.at(), rig.node.state()), (Idle, State::Fenced));
    rig.input(Input::Link(true));
    assert_eq!((rig.at(), rig.node.state()), (Idle, State::Listen));
}

#[test]
fn a_node_that_listens_accepts_nothing() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    rig.sleep(D);
    assert_eq!(rig.node.state(), State::Listen);
    rig.hand(1, 1);
    assert_eq!((rig.at(), rig.node.peer(slot(1)).in_number), (Idle, 0));
}

/// Owner -> Idle needs a claim of the target's that was told since this node became the owner.
#[test]
fn the_target_s_claim_counts_only_if_it_is_fresh() {
    let mut rig = Rig::new([1, 0, 2], Partition::None);
    // The target drains, and hands the bucket over.
    rig.puppets[1].share = 0;
    rig.puppets[1].flags = rig.puppets[1].flags.with(NodeFlags::DRAINING, true);
    rig.claim(1, &BucketSet::FULL);
    rig.hand(1, 1);
    assert_eq!(rig.at(), Owner);
    // It is the target again, and cannot be handed anything, for its configuration is older. Its
    // claim is from before, or it is still handing over.
    rig.puppets[1].share = u8::MAX;
    rig.puppets[1].flags = NodeFlags::default();
    rig.puppets[1].config = ConfigId { generation: 4, hash: 0 };
    let claims = rig.just_it();
    rig.say(1, Body::Heartbeat { claims });
    assert_eq!(rig.at(), Owner, "told before this node had it");
    rig.tick();
    claims_it(&mut rig, 1);
    assert_eq!(rig.at(), Owner, "told while it hands it over");
    rig.puppets[1].handing = 0;
    claims_it(&mut rig, 1);
    assert_eq!(rig.at(), Idle, "told in full knowledge");
}

#[test]
fn of_two_candidates_the_one_that_comes_later_waits() {
    // Slot 1 comes first, but only waits for its hold to end, like this node.
    let mut rig = Rig::new([1, 0, 2], Partition::None);
    for peer in [1, 2] {
        rig.puppets[peer].share = 0;
    }
    rig.node.hold_until = Some(u64::MAX);
    rig.tick();
    rig.tick();
    rig.free();
    assert_eq!(rig.at(), Idle, "slot 1 is to claim it");
    // It does not, for so long that views must differ.
    rig.pass(D + 4 * H + H, &[1, 2]);
    assert_ne!(rig.at(), Idle);
    let mut rig = Rig::new([1, 0, 2], Partition::None);
    rig.puppets[1].flags = NodeFlags::LISTEN;
    rig.claim(1, &BucketSet::FULL);
    rig.free();
    assert_eq!(rig.at(), Candidate, "slot 1 listens");
    rig.puppets[1].flags = NodeFlags::CANDIDATE;
    rig.puppets[1].heard = 0;
    let buckets = rig.just_it();
    rig.say(1, Body::Candidate { buckets });
    assert_eq!(rig.at(), Idle, "slot 1 does not any more");
}

#[test]
fn an_echo_is_repeated_as_often_as_the_transfer() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    for _ in 0..2 {
        rig.hand(1, 7);
        rig.out.clear();
        rig.tick();
        let echo = rig.out.iter().find_map(|output| match output {
            Output::Send { message, .. } => Some(message.entries[1].transfer_accepted),
            _ => None,
        });
        assert_eq!(echo, Some(7));
    }
    assert_eq!(rig.at(), Owner);
}

#[test]
fn a_foreign_claim_on_the_wire_is_reported_and_defended_by_one() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    let address = "192.0.2.53".parse().unwrap();
    let claim = |rig: &mut Rig, mac| {
        rig.out.clear();
        rig.input(Input::WireClaim { address, mac: MacAddr([mac; 6]) });
        rig.said()
    };
    rig.input(Input::OwnMac(MacAddr([2; 6])));
    assert_eq!(claim(&mut rig, 2), Vec::<&str>::new(), "its own");
    assert_eq!(claim(&mut rig, 4), ["alarm", "defend"]);
    assert_eq!(claim(&mut rig, 4), ["alarm"], "once in ten seconds");
    rig.node.me = slot(2);
    rig.node.defended_at = None;
    assert_eq!(claim(&mut rig, 4), ["alarm"], "slot 0 does it");
}

#[test]
fn unknown_slots_are_refused_and_deadlines_lie_ahead() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    let mut stranger = rig.puppets[1];
    stranger.session = 5;
    rig.puppets[2] = stranger;
    rig.say(2, Body::Heartbeat { claims: BucketSet::EMPTY });
    let refused = |rig: &Rig, why| {
        rig.out.iter().any(|output| matches!(output, Output::Refused(_, w) if *w == why))
    };
    assert!(refused(&rig, OpenError::UnprovenSession));
    rig.out.clear();
    for _ in 0..1000 {
        rig.tick();
        let Some(Output::NextDeadline(at)) = rig.out.last() else { unreachable!() };
        assert!(*at > rig.now && *at <= rig.now + H);
    }
}

#[test]
fn who_was_reachable_a_moment_ago_may_return() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    let is_incomplete = |rig: &mut Rig| rig.node.previous_owners().is_incomplete();
    for peer in [1, 2] {
        rig.node.peer_mut(slot(peer)).mac = Some(MacAddr([2, 0, 0, 0, 0, peer]));
    }
    assert!(!is_incomplete(&mut rig), "both are there");
    rig.pass(2 * D, &[1]);
    assert!(!rig.node.alive().contains(slot(2)) && is_incomplete(&mut rig));
    rig.pass(10 * SECOND, &[1]);
    assert!(!is_incomplete(&mut rig), "it is gone for good");
    rig.pass(20 * SECOND, &[]);
    assert!(is_incomplete(&mut rig), "it may be this node that is gone");
}

#[test]
fn who_had_a_bucket_beside_this_node_is_known_when_it_is_won() {
    let mut rig = Rig::with([0, 1, 2], Parameters { steers: true, ..parameters(Partition::None) });
    rig.node.peer_mut(slot(1)).mac = Some(MacAddr([2; 6]));
    rig.bring(Owner);
    rig.claim(1, &rig.just_it());
    assert_eq!(rig.at(), Owner, "it is first on the list");
    let owners = rig.node.previous_owners().get(rig.bucket);
    assert_eq!((owners.now, owners.before[0]), (Some(slot(0)), Some(slot(1))));
}

#[test]
fn who_listens_is_not_asked_in_rounds_and_its_own_knowledge_is_not_all() {
    let parameters = Parameters { steers: true, ..parameters(Partition::None) };
    let mut rig = Rig::with([0, 1, 2], parameters);
    for peer in [1, 2] {
        rig.node.peer_mut(slot(peer)).mac = Some(MacAddr([2, 0, 0, 0, 0, peer]));
    }
    let mut after_1 = |flags| {
        rig.puppets[2].flags = flags;
        rig.claim(2, &BucketSet::EMPTY);
        rig.node.previous_owners().next_alive(slot(0), slot(1))
    };
    assert_eq!(after_1(NodeFlags::GATEWAY.with(NodeFlags::LISTEN, true)), None);
    assert_eq!(after_1(NodeFlags::GATEWAY), Some(slot(2)));
    assert!(!rig.node.previous_owners().is_incomplete());
    rig.node.listen_until = Some(rig.now + H);
    assert!(rig.node.previous_owners().is_incomplete());
}
