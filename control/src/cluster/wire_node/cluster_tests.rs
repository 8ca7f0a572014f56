//! Whole clusters on a segment that loses, delays and cuts claims, with members that stop, sleep
//! and return: the scenario that the mode was invented for, step by step, and random ones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use vipdp_core::snapshot::Holding;

use super::tests::{ip, mac, macs, parameters, slot};
use super::*;

const MS: u64 = 1_000_000;
const H: u64 = Timing::DEFAULT.heartbeat_ns;
const T: u64 = Timing::DEFAULT.detection_ns();

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Claims arrive at a member from another.
    Claims { to: usize, from: usize, numbers: Vec<u16> },
    /// A member's timer, of the given start and promise.
    Timer { of: usize, promise: u64 },
    /// A member wakes up.
    Wake { of: usize },
}

/// A member as it runs.
struct Running {
    node: WireNode,
    /// The number of its last promise.
    promise: u64,
    holdings: Holdings,
    lease_until: u64,
    asleep: Option<Asleep>,
    drained: bool,
}

/// What waits for a member that is asleep.
#[derive(Default)]
struct Asleep {
    /// Claims, and who made them.
    claims: Vec<(usize, Vec<u16>)>,
    /// Whether its timer has run out.
    is_due: bool,
}

/// A change of ownership that was seen.
type Change = (u64, &'static str, usize, u16);

struct World {
    now: u64,
    config: Arc<ClusterConfig>,
    members: Vec<Option<Running>>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    random: Random,
    counter: u64,
    /// In percent.
    loss: u64,
    delay_max: u64,
    /// Directions, from and to, in which nothing is heard.
    cuts: Vec<(usize, usize)>,
    changes: Vec<Change>,
    /// Since when each address has had two owners that could hear each other.
    disputed_since: Vec<Option<u64>>,
    longest_dispute: u64,
}

impl World {
    fn new(members: u8, tiers: usize, seed: u64) -> Self {
        let config = Arc::new(ClusterConfig::new(parameters(members, tiers)).unwrap());
        let addresses = addresses(&config).len();
        let mut world = Self {
            now: 0,
            config,
            members: Vec::new(),
            events: BinaryHeap::new(),
            random: Random(seed),
            counter: 0,
            loss: 0,
            delay_max: 2 * MS,
            cuts: Vec::new(),
            changes: Vec::new(),
            disputed_since: vec![None; addresses],
            longest_dispute: 0,
        };
        world.members.resize_with(usize::from(members), || None);
        for member in 0..usize::from(members) {
            world.start(member);
        }
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.counter += 1;
        self.events.push(Reverse((time, self.counter, event)));
    }

    fn start(&mut self, of: usize) {
        let count = self.members.len() as u8;
        let me = slot(of as u8);
        let seed = self.random.next();
        self.members[of] = Some(Running {
            node: WireNode::new(Arc::clone(&self.config), macs(count), me, seed, self.now),
            promise: 0,
            holdings: Holdings::none(),
            lease_until: 0,
            asleep: None,
            drained: false,
        });
        self.step(of, WireInput::Tick);
    }

    fn stop(&mut self, of: usize) {
        self.members[of] = None;
    }

    fn drain(&mut self, of: usize, on: bool) {
        if let Some(running) = &mut self.members[of] {
            running.drained = on;
            self.step(of, WireInput::Drain(on));
        }
    }

    fn sleep(&mut self, of: usize, time: u64) {
        if let Some(running @ Running { asleep: None, .. }) = &mut self.members[of] {
            running.asleep = Some(Asleep::default());
            self.at(self.now + time, Event::Wake { of });
        }
    }

    fn wake(&mut self, of: usize) {
        let Some(running) = &mut self.members[of] else { return };
        let Some(Asleep { claims, is_due }) = running.asleep.take() else { return };
        for (from, numbers) in claims {
            self.hear(of, from, &numbers);
        }
        if is_due {
            self.step(of, WireInput::Tick);
        }
    }

    fn hear(&mut self, to: usize, from: usize, numbers: &[u16]) {
        for &number in numbers {
            let number = Bucket::new(number).unwrap();
            let claim = WireInput::Claim { number, address: ip(number), mac: mac(from as u8) };
            self.step(to, claim);
        }
    }

    fn step(&mut self, of: usize, input: WireInput) {
        let Some(running) = &mut self.members[of] else { return };
        let mut out = Vec::new();
        running.node.step(self.now, input, &mut out);
        for output in out {
            self.execute(of, output);
        }
    }

    fn execute(&mut self, of: usize, output: WireOutput) {
        let now = self.now;
        let output = match output {
            WireOutput::Repeat(numbers) => return self.send(of, &numbers),
            WireOutput::Node(output) => output,
        };
        let running = self.members[of].as_mut().expect("it has just made a step");
        match output {
            Output::PublishTable { holdings, lease_until_ns, .. } => {
                (running.holdings, running.lease_until) = (holdings, lease_until_ns);
            }
            Output::Claim(numbers) => {
                self.changes.extend(numbers.iter().map(|it| (now, "claims", of, it.get())));
            }
            Output::Release(numbers) => {
                self.changes.extend(numbers.iter().map(|it| (now, "releases", of, it.get())));
            }
            Output::NextDeadline(deadline) => {
                self.counter += 1;
                running.promise = self.counter;
                let promise = self.counter;
                self.at(deadline, Event::Timer { of, promise });
            }
            Output::Alarm(Alarm::Late { .. }) => {}
            other => panic!("nobody gives reason for {other:?}"),
        }
    }

    /// Every frame is lost or late by itself.
    fn send(&mut self, from: usize, numbers: &BucketSet) {
        for to in (0..self.members.len()).filter(|&to| to != from) {
            for number in numbers.iter() {
                if self.cuts.contains(&(from, to)) || self.random.below(100) < self.loss {
                    // What could have settled a dispute has not.
                    let dispute = &mut self.disputed_since[number.index()];
                    *dispute = dispute.map(|_| self.now);
                    continue;
                }
                let delay = 1 + self.random.below(self.delay_max);
                let numbers = vec![number.get()];
                self.at(self.now + delay, Event::Claims { to, from, numbers });
            }
        }
    }

    /// Who serves an address.
    fn servers(&self, number: Bucket) -> Vec<usize> {
        let serves = |running: &Running| {
            running.holdings.get(number) == Holding::Owned && self.now < running.lease_until
        };
        let members = self.members.iter().enumerate();
        members.filter_map(|(at, it)| it.as_ref().is_some_and(serves).then_some(at)).collect()
    }

    /// Never two owners for longer than a claim's period and delay, where they hear each other.
    fn check_disputes(&mut self) {
        for at in 0..self.disputed_since.len() {
            let servers = self.servers(Bucket::new(at as u16).unwrap());
            let asleep = |&member: &usize| {
                self.members[member].as_ref().is_some_and(|running| running.asleep.is_some())
            };
            if servers.len() < 2 {
                self.disputed_since[at] = None;
                continue;
            }
            let since = match self.disputed_since[at] {
                Some(since) if !servers.iter().any(asleep) => since,
                _ => self.now,
            };
            self.disputed_since[at] = Some(since);
            let dispute = self.now - since;
            assert!(dispute <= H + self.delay_max, "address {at} at {} ns: {servers:?}", self.now);
            self.longest_dispute = self.longest_dispute.max(dispute);
        }
    }

    fn run_until(&mut self, until: u64) {
        while let Some(Reverse((time, ..))) = self.events.peek()
            && *time <= until
        {
            let Some(Reverse((time, _, event))) = self.events.pop() else { break };
            self.now = time;
            self.check_disputes();
            self.happen(event);
        }
        self.now = until;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { of } => self.wake(of),
            Event::Claims { to, from, numbers } => match &mut self.members[to] {
                Some(Running { asleep: Some(asleep), .. }) => asleep.claims.push((from, numbers)),
                Some(_) => self.hear(to, from, &numbers),
                None => {}
            },
            Event::Timer { of, promise } => match &mut self.members[of] {
                Some(running) if running.promise == promise => match &mut running.asleep {
                    Some(asleep) => asleep.is_due = true,
                    None => self.step(of, WireInput::Tick),
                },
                _ => {}
            },
        }
    }

    /// The number of the address with the tiers `list`.
    fn number<const TIERS: usize>(&self, list: [u8; TIERS]) -> Bucket {
        let list = list.map(slot);
        Bucket::all().find(|&it| self.config.assignment().preference(it) == list).unwrap()
    }

    /// Every address is served by the first on its list that can, and by nobody else.
    fn assert_settled(&self, why: &str) {
        for number in (0..self.disputed_since.len()).map(|at| Bucket::new(at as u16).unwrap()) {
            let list = self.config.assignment().preference(number);
            let able = |slot: &&Slot| {
                self.members[slot.index()].as_ref().is_some_and(|running| !running.drained)
            };
            let expected: Vec<_> =
                list.iter().find(able).map(|it| it.index()).into_iter().collect();
            assert_eq!(self.servers(number), expected, "{why}: address {number}, tiers {list:?}");
        }
    }

    /// The changes since the last call.
    fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }
}

/// A is slot 0, B slot 1, C slot 2, as in the scenario: three nodes, three tiers, six addresses.
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

#[test]
fn silence_then_secondary_and_tertiary_claims_then_the_primary_returns_and_the_others_release() {
    let mut world = World::new(3, 3, 1);
    let number = |world: &World, list: [u8; 3]| world.number(list).get();
    let (abc, acb, bac, bca) = (
        number(&world, [0, 1, 2]),
        number(&world, [0, 2, 1]),
        number(&world, [1, 0, 2]),
        number(&world, [1, 2, 0]),
    );
    let of = |changes: &[Change]| -> Vec<_> {
        let mut changes: Vec<_> = changes.iter().map(|&(_, what, who, r)| (what, who, r)).collect();
        changes.sort_unstable();
        changes
    };
    let sorted = |mut changes: Vec<(&'static str, usize, u16)>| {
        changes.sort_unstable();
        changes
    };

    // All start: each listens, then takes its primary addresses; nobody takes another's.
    world.run_until(10 * T);
    world.assert_settled("after the start");
    let changes = world.changes();
    assert!(changes.iter().all(|&(at, what, ..)| (at, what) == (T, "claims")), "{changes:?}");
    assert_eq!(changes.len(), 6);

    // A falls silent. Each of its addresses is claimed by its secondary, one each, T after the last
    // claim was heard.
    world.stop(A);
    let silent = world.now;
    world.run_until(silent + T - H);
    assert_eq!(world.changes(), [], "nobody is hasty");
    world.run_until(silent + T + world.delay_max);
    let changes = world.changes();
    assert_eq!(of(&changes), [("claims", B, abc), ("claims", C, acb)]);
    world.run_until(silent + 10 * T);
    assert_eq!(world.changes(), [], "one failure moves nothing else");

    // B falls silent too. C claims what B had as primary, where it is secondary, after T; what it
    // is tertiary of after 2T.
    world.stop(B);
    let silent = world.now;
    world.run_until(silent + T + world.delay_max);
    assert_eq!(of(&world.changes()), [("claims", C, bca)]);
    world.run_until(silent + 2 * T - H);
    assert_eq!(world.changes(), [], "the tertiary waits longer");
    world.run_until(silent + 2 * T + world.delay_max);
    assert_eq!(of(&world.changes()), sorted(vec![("claims", C, abc), ("claims", C, bac)]));
    world.assert_settled("with C alone");

    // A returns. It listens, claims its own, and C releases as soon as it hears that. Of B's, A
    // is secondary of one, which it claims once B was silent for T; again C releases.
    world.run_until(world.now + T);
    world.start(A);
    let started = world.now;
    world.run_until(started + T - 1);
    assert_eq!(world.changes(), [], "A listens");
    world.run_until(started + T + world.delay_max);
    let own =
        vec![("claims", A, abc), ("claims", A, acb), ("releases", C, abc), ("releases", C, acb)];
    assert_eq!(of(&world.changes()), sorted(own));
    world.run_until(started + 2 * T + world.delay_max);
    assert_eq!(of(&world.changes()), [("claims", A, bac), ("releases", C, bac)]);
    world.assert_settled("with A and C");

    // B returns: A and C release what it claims.
    world.start(B);
    let started = world.now;
    world.run_until(started + T + world.delay_max);
    let own =
        vec![("claims", B, bac), ("claims", B, bca), ("releases", A, bac), ("releases", C, bca)];
    assert_eq!(of(&world.changes()), sorted(own));
    world.run_until(started + 10 * T);
    assert_eq!(world.changes(), []);
    world.assert_settled("with all");
}

#[test]
fn a_drained_node_s_addresses_stay_without_owner_for_the_secondaries_time() {
    let mut world = World::new(3, 2, 2);
    world.run_until(10 * T);
    world.changes();
    world.drain(A, true);
    let drained = world.now;
    assert!(world.changes().iter().all(|&(_, what, who, _)| (what, who) == ("releases", A)));
    world.run_until(drained + T - H);
    assert_eq!(world.changes(), [], "there is no hand-over without heartbeats");
    world.run_until(drained + T + world.delay_max);
    world.assert_settled("drained");
    world.drain(A, false);
    world.run_until(world.now + world.delay_max);
    world.assert_settled("back at once: it has been listening all the time");
}

#[test]
fn nothing_changes_without_a_fault_also_where_claims_are_late_by_up_to_an_interval() {
    for seed in 0..10 {
        let mut world = World::new(4, 3, seed);
        world.delay_max = H;
        world.run_until(4 * T);
        world.changes();
        world.run_until(60 * T);
        assert_eq!(world.changes(), []);
        world.assert_settled("steady");
    }
}

#[test]
fn members_that_cannot_hear_each_other_both_serve_until_they_can() {
    let mut world = World::new(3, 3, 3);
    world.run_until(10 * T);
    world.cuts = vec![(A, B), (B, A)];
    world.run_until(20 * T);
    let abc = world.number([0, 1, 2]);
    assert_eq!(world.servers(abc), [A, B]);
    world.cuts.clear();
    world.run_until(world.now + H + world.delay_max);
    world.assert_settled("healed");
}

/// One fault, or its end.
fn disturb(world: &mut World) {
    let of = world.random.below(world.members.len() as u64) as usize;
    let other = world.random.below(world.members.len() as u64) as usize;
    match world.random.below(10) {
        0 | 1 => world.stop(of),
        2..=4 if world.members[of].is_none() => world.start(of),
        2..=4 => {
            let time = world.random.below(3 * T);
            world.sleep(of, time);
        }
        5 => world.drain(of, true),
        6 => world.drain(of, false),
        7 => world.loss = world.random.below(50),
        8 => {
            world.delay_max = 1 + world.random.below(2 * H);
            // Those under way are as late as before.
            world.disputed_since.fill(None);
        }
        _ if other != of => world.cuts.push((of, other)),
        _ => world.cuts.clear(),
    }
}

#[test]
fn after_random_faults_every_address_has_its_first_able_member_within_the_tiers_time() {
    let mut longest = 0;
    for seed in 0..120 {
        let (members, tiers) = [(2, 2), (3, 2), (3, 3), (4, 3)][seed as usize % 4];
        let mut world = World::new(members, tiers, seed);
        for _ in 0..30 {
            let pause = world.random.below(T);
            world.run_until(world.now + pause);
            disturb(&mut world);
        }
        // The last faults.
        (world.loss, world.delay_max) = (0, 2 * MS);
        world.cuts.clear();
        for of in 0..world.members.len() {
            world.wake(of);
        }
        // What was under way before is late by the longest delay there was.
        let healed = world.now + 2 * H;
        world.disputed_since.fill(None);
        world.run_until(healed + tiers as u64 * T + H + world.delay_max);
        world.assert_settled(&format!("seed {seed}"));
        world.changes();
        world.run_until(world.now + 10 * T);
        assert_eq!(world.changes(), [], "seed {seed}: what has settled stays");
        longest = longest.max(world.longest_dispute);
    }
    assert!(longest > 0, "there were disputes to be settled");
}
