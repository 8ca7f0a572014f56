//! One run: a scenario, a loss rate and a seed, played on a network of real nodes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use vipdp::cluster::config::{AllDown, ClusterConfig, Member, Parameters, Partition, SlotSet};
use vipdp::cluster::node::{Alarm, Input};
use vipdp_core::bucket::{BUCKETS, Bucket};
use vipdp_core::wire::ethernet::MacAddr;

use crate::check::{Bounds, Check, History, Violation};
use crate::clock::EPOCH;
use crate::network::{Fence, Network, config, keyring, parameters, slot};
use crate::random::Random;
use crate::scenario::{Act, D, Edition, Expect, H, Scenario, Script, Settles, Step, TIMING, Who};
use crate::{MS, SECOND};

/// How late ticks come at most: PROTOCOL.md's h/8.
const TICK: u64 = H / 8;
/// The longest delay of a datagram when the network is well.
const DELTA: u64 = MS;
/// Who is no member.
const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 0xff]);
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// What came of a run. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How many nodes there were.
    pub nodes: usize,
    /// The longest time that a bucket had nobody.
    pub gap: u64,
    /// The longest time that a bucket had two owners.
    pub dual: u64,
    /// How often a bucket got a new owner.
    pub changes: u64,
    /// How often one running node had no news of another for D.
    pub silences: usize,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// Equal for two runs only if the same happened in both.
    pub hash: u64,
    /// What happened, line by line, if that was wanted.
    pub trace: Vec<String>,
}

/// Plays `scenario` with `loss` per cent of datagrams lost under `seed`.
pub fn run(scenario: &Scenario, loss: u64, seed: u64, traced: bool) -> Outcome {
    let mut run = Run::new(scenario, loss, seed, traced);
    run.begin();
    let script = run.script();
    for step in script {
        run.advance_to(run.begun + step.at);
        run.act(step.act);
    }
    run.settle();
    run.judge()
}

struct Run<'a> {
    scenario: &'a Scenario,
    loss: u64,
    count: usize,
    random: Random,
    network: Network,
    /// Which place has which role.
    places: Vec<usize>,
    /// When the script begins.
    begun: u64,
    first: Parameters,
    /// What all are to run in the end.
    config: Arc<ClusterConfig>,
    drained: Vec<bool>,
    /// When each was last drained.
    drained_at: Vec<u64>,
    healthy: Vec<bool>,
    reached: Vec<bool>,
    acts: Vec<u64>,
    disturbed: Vec<(u64, u64)>,
    disturbed_since: Option<u64>,
    /// The longest delay since the network was last well.
    slowest: u64,
    nobody: Vec<(u64, u64)>,
    nobody_since: Option<u64>,
    /// From when on all is to come to where it belongs.
    asked_at: u64,
    settled_at: Option<u64>,
    /// Whether nothing befell anybody after all was settled.
    quiet: bool,
    violations: Vec<Violation>,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, loss: u64, seed: u64, traced: bool) -> Self {
        let name = scenario
            .name
            .bytes()
            .fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut random = Random::new(seed ^ (name << 40) ^ (loss << 32));
        let count = scenario.nodes[random.below(scenario.nodes.len() as u64) as usize];
        let mut first = parameters(count);
        first.steers = true;
        first.timing = TIMING;
        first.timing.ramp_ns = scenario.ramp;
        first.partition = scenario.partition;
        first.all_down = scenario.all_down;
        let config = config(first.clone());
        // One place more, for a newcomer.
        let mut network = Network::new(Arc::clone(&config), count + 1, random.next());
        network.drift_ppm = scenario.drift_ppm;
        network.seals = scenario.seals || seed.is_multiple_of(8);
        network.tick_latency = TICK;
        network.leases = Some(Vec::new());
        network.trace = traced.then(Vec::new);
        let places = random.permutation(count);
        Self {
            scenario,
            loss,
            count,
            random,
            network,
            places,
            begun: 0,
            first,
            config,
            drained: vec![false; count + 1],
            drained_at: vec![0; count + 1],
            healthy: vec![true; count + 1],
            reached: vec![true; count + 1],
            acts: Vec::new(),
            disturbed: Vec::new(),
            disturbed_since: None,
            slowest: 0,
            nobody: Vec::new(),
            nobody_since: None,
            asked_at: 0,
            settled_at: None,
            quiet: true,
            violations: Vec::new(),
        }
    }

    /// Brings the cluster to where the script begins.
    fn begin(&mut self) {
        if self.scenario.settled {
            for place in 0..self.count {
                self.start(place);
            }
            self.network.run(3 * SECOND);
            if !self.network.exactly_one_owner() {
                let what = format!("not settled before the script\n{}", self.network.describe());
                self.fail("L3", what);
            }
        }
        self.network.link.loss = self.loss;
        self.network.run(D + self.random.below(4 * H));
        // Nobody takes anybody for dead when the script begins.
        for _ in 0..250 {
            if !self.scenario.settled
                || self.network.exactly_one_owner() && self.network.doubts().is_empty()
            {
                break;
            }
            self.network.run(20 * MS);
        }
        self.network.silence_min = self.bounds().silence_ns();
        self.network.reset();
        let replays = |step: &Step| matches!(step.act, Act::Replay(..));
        let records = match &self.scenario.script {
            Script::Fixed(steps) => steps.iter().any(replays),
            Script::Random(_) => true,
        };
        self.network.tape = records.then(Vec::new);
        self.begun = self.network.now;
        self.acts.push(self.begun);
    }

    /// What happens, by time.
    fn script(&mut self) -> Vec<Step> {
        let steps = match &self.scenario.script {
            Script::Fixed(steps) => steps.clone(),
            Script::Random(draw) => draw(&mut self.random, self.count),
        };
        let mut script = Vec::new();
        for step in steps {
            let Act::Roll(edition, apart) = step.act else {
                script.push(step);
                continue;
            };
            for role in 0..self.count {
                let at = step.at + role as u64 * apart;
                script.push(Step { at, act: Act::Configure(Who::One(role), edition) });
            }
        }
        script.sort_by_key(|step| step.at);
        script
    }

    fn advance_to(&mut self, time: u64) {
        self.network.run(time.saturating_sub(self.network.now));
    }

    fn places(&self, who: Who) -> Vec<usize> {
        match who {
            Who::One(role) => vec![self.places[role]],
            Who::Below(role) => self.places[..role].to_vec(),
            Who::From(role) => self.places[role..].to_vec(),
            Who::All => self.places.clone(),
            Who::New => vec![self.count],
        }
    }

    fn running(&self, who: Who) -> Vec<usize> {
        let mut places = self.places(who);
        places.retain(|&place| self.network.hosts[place].is_some());
        places
    }

    fn awake(&self, who: Who) -> Vec<usize> {
        let mut places = self.places(who);
        places.retain(|&place| self.network.is_awake(place));
        places
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Expect(expected) => return self.expect(expected),
            Act::Measure => {
                self.network.reset();
                return;
            }
            _ => {}
        }
        self.acts.push(self.network.now);
        self.network.tell(0, || format!("-- {act:?}"));
        match act {
            Act::Cut(from, to) => self.cut(&self.places(from), &self.places(to), false),
            Act::Split(from, to) => self.cut(&self.places(from), &self.places(to), true),
            Act::Mute(who) => self.cut(&self.places(who), &self.places(Who::All), false),
            Act::Deaf(who) => self.cut(&self.places(Who::All), &self.places(who), false),
            Act::Heal => self.heal(),
            Act::Delay(longest) => self.network.link.delay = longest,
            Act::Bursts(percent, len) => {
                (self.network.link.burst, self.network.link.burst_len) = (percent, len);
            }
            Act::Disorder(duplicates, reordered, damaged) => {
                let link = &mut self.network.link;
                (link.duplicates, link.reordered, link.damaged) = (duplicates, reordered, damaged);
                link.held_up = 2 * H;
            }
            Act::Loss(percent) => self.network.link.loss = percent,
            _ => self.act_on_nodes(act),
        }
        self.watch_connection();
    }

    fn act_on_nodes(&mut self, act: Act) {
        match act {
            Act::Crash(who) => {
                for place in self.running(who) {
                    self.network.kill(place);
                }
            }
            Act::Start(who) => {
                for place in self.places(who) {
                    if self.network.hosts[place].is_none() {
                        self.start(place);
                    }
                }
            }
            Act::Pause(who, time) => {
                for place in self.awake(who) {
                    self.network.pause(place, time);
                    self.disturbed.push((self.network.now, self.network.now + time));
                    self.acts.push(self.network.now + time);
                }
            }
            Act::Drain(who, drain) => {
                for place in self.awake(who) {
                    if drain && !self.drained[place] {
                        self.drained_at[place] = self.network.now;
                    } else if !drain && self.drained[place] {
                        // It stays empty for the rest of the hold, and then takes part again.
                        let hold_ends = self.drained_at[place] + TIMING.hold_ns;
                        self.acts.push(hold_ends.max(self.network.now));
                    }
                    self.drained[place] = drain;
                    self.network.input(place, Input::Drain(drain));
                }
            }
            Act::Health(who, willing) => {
                for place in self.awake(who) {
                    self.healthy[place] = willing;
                    self.network.input(place, Input::Health { willing });
                }
            }
            Act::Gateway(who, reached) => {
                for place in self.awake(who) {
                    self.reached[place] = reached;
                    self.network.input(place, Input::Gateway(reached));
                }
            }
            Act::Configure(who, edition) => {
                self.config = self.edition(edition);
                for place in self.awake(who) {
                    self.network.input(place, Input::Config(Arc::clone(&self.config)));
                }
            }
            Act::Keys(who, send, accept) => {
                for place in self.running(who) {
                    self.network.host(place).keys = keyring(send, accept);
                }
            }
            Act::Replay(to, from) => self.replay(to, from),
            Act::ForeignClaim(who) => {
                for place in self.awake(who) {
                    let claim = Input::WireClaim { address: VIP, mac: STRANGER };
                    self.network.input(place, claim);
                }
            }
            _ => {}
        }
    }

    fn cut(&mut self, from: &[usize], to: &[usize], both: bool) {
        for (&a, &b) in from.iter().flat_map(|a| to.iter().map(move |b| (a, b))) {
            if a != b {
                self.network.link.cuts.push((a, b));
                if both {
                    self.network.link.cuts.push((b, a));
                }
            }
        }
    }

    fn heal(&mut self) {
        self.network.link.heal(self.loss);
    }

    /// Keeps book of when messages do not get through in time.
    fn watch_connection(&mut self) {
        let (now, link) = (self.network.now, &self.network.link);
        // A datagram later than h is as good as lost.
        let slow = link.delay_max() > H;
        self.slowest = self.slowest.max(link.delay_max());
        if slow || !link.cuts.is_empty() {
            self.disturbed_since.get_or_insert(now);
        } else if let Some(since) = self.disturbed_since.take() {
            // What was sent before may be under way for as long as it took.
            self.disturbed.push((since, now + std::mem::take(&mut self.slowest)));
        }
        let all_serve = self.scenario.all_down == AllDown::Serve;
        let willing = |place: &usize| {
            self.network.hosts[*place].is_some() && (self.healthy[*place] || all_serve)
        };
        if !(0..=self.count).any(|place| willing(&place)) {
            self.nobody_since.get_or_insert(now);
        } else if let Some(since) = self.nobody_since.take() {
            self.nobody.push((since, now));
        }
    }

    fn start(&mut self, place: usize) {
        (self.drained[place], self.healthy[place]) = (false, true);
        let config = Arc::clone(&self.config);
        self.network.start_with(place, config);
        self.network.input(place, Input::Gateway(self.reached[place]));
        self.network.tell_mac(place);
    }

    fn edition(&self, edition: Edition) -> Arc<ClusterConfig> {
        let mut parameters = self.first.clone();
        parameters.id.generation = 2;
        let member = |role: usize| self.places[role];
        match edition {
            Edition::Added => {
                let slot = slot(self.count);
                parameters.members.push(Member { slot, weight: 1, tombstone: false });
            }
            Edition::Removed(role) => parameters.members[member(role)].tombstone = true,
            Edition::Reweighted(role) => parameters.members[member(role)].weight = 3,
            Edition::SameGeneration(role) => {
                parameters.members[member(role)].weight = 3;
                parameters.id.generation = 1;
                parameters.id.hash = 2;
            }
        }
        config(parameters)
    }

    fn replay(&mut self, to: Who, from: Who) {
        let tape = self.network.tape.take().unwrap_or_default();
        let (to, from) = (self.running(to), self.places(from));
        // The latest thousand: a recording of some ten seconds.
        let recent = &tape[tape.len().saturating_sub(1000)..];
        for packet in recent.iter().filter(|packet| from.contains(&packet.from)) {
            for &place in to.iter().filter(|&&place| place != packet.from) {
                self.network.replay(place, packet);
            }
        }
        self.network.tape = Some(tape);
    }

    fn expect(&mut self, expected: Expect) {
        // What was told once within the bound holds: with loss something may be under way.
        let limit = self.network.now + self.bounds().orphan_ns();
        while !self.is_as(expected) {
            if self.network.now >= limit {
                if self.network.silences.is_empty() {
                    self.fail("script", format!("{expected:?}\n{}", self.network.describe()));
                }
                return;
            }
            self.network.run(2 * MS);
        }
    }

    fn is_as(&self, expected: Expect) -> bool {
        let loads = self.network.loads();
        match expected {
            Expect::OneOwner => self.network.exactly_one_owner(),
            Expect::IdleAre(who) => {
                let idle = self.places(who).into_iter().all(|place| loads[place] == 0);
                idle && self.network.exactly_one_owner()
            }
            Expect::Nobody => loads.iter().all(|&load| load == 0),
            Expect::AnnouncedAre(who) => {
                let announced = self.places(who);
                let host = |place: usize| self.network.hosts[place].as_ref();
                (0..=self.count)
                    .filter_map(|place| Some((place, host(place)?)))
                    .all(|(place, host)| host.node.announces() == announced.contains(&place))
            }
            Expect::Defended(who) => {
                let host = |place: usize| self.network.hosts[place].as_ref();
                let places = self.places(who);
                let alarmed = places.iter().filter_map(|&place| host(place)).all(|host| {
                    host.alarms.iter().any(|alarm| matches!(alarm, Alarm::ForeignClaim { .. }))
                });
                let defences: u64 =
                    places.iter().filter_map(|&place| host(place)).map(|host| host.defences).sum();
                alarmed && defences == 1
            }
        }
    }

    /// Who should own buckets now.
    fn entitled(&self) -> SlotSet {
        let takes_part = |&place: &usize| {
            self.network.hosts[place].is_some()
                && !self.drained[place]
                && (self.reached[place] || self.scenario.partition != Partition::Gateway)
        };
        let present = self.config.present();
        let all = || (0..=self.count).filter(takes_part);
        let well: SlotSet = all().filter(|&place| self.healthy[place]).map(slot).collect();
        let well = well.and(present);
        match self.scenario.all_down {
            AllDown::Serve if well.is_empty() => all().map(slot).collect::<SlotSet>().and(present),
            AllDown::Serve | AllDown::Withdraw => well,
        }
    }

    /// Whether each bucket is where the preference lists say.
    fn is_settled(&self) -> bool {
        let entitled = self.entitled();
        if !self.network.exactly_one_owner() {
            return false;
        }
        if entitled.is_empty() {
            return true;
        }
        let loads = self.network.loads();
        let idle = |place: usize| place >= 64 || !entitled.contains(slot(place));
        if loads.iter().enumerate().any(|(place, &load)| load > 0 && idle(place)) {
            return false;
        }
        Bucket::all().all(|bucket| {
            let preference = self.config.assignment().preference(bucket);
            let first = preference.iter().find(|&&slot| entitled.contains(slot));
            first.is_some_and(|slot| self.network.owns(slot.index(), bucket))
        })
    }

    /// Runs on until all is where it belongs, and a little longer, in which nothing may move.
    fn settle(&mut self) {
        let more = match self.scenario.settles {
            Settles::Damped(more) => more,
            Settles::InTime => 0,
        };
        // Who stands still wakes up first, and what is under way arrives.
        let ends = self.disturbed.iter().map(|&(_, to)| to);
        let last = self.acts.iter().copied().chain(ends).max().unwrap_or(0);
        self.advance_to(last + MS);
        self.asked_at = self.network.now;
        let settled = |run: &Self| match run.rule_of_settling() {
            Check::One => run.network.exactly_one_owner(),
            _ => run.is_settled(),
        };
        let mut loads = Vec::new();
        loop {
            // Asking for each bucket is worth it only when something has changed.
            let now = self.network.loads();
            let worth = now != loads || self.network.now % (50 * MS) < 2 * MS;
            if worth && settled(self) {
                let at = self.network.now;
                // One that was kept out takes part again at some time, which nobody else knows.
                if matches!(self.scenario.settles, Settles::Damped(_)) {
                    self.network.run(D + 4 * H);
                }
                if self.network.coverage.changed_at <= at || settled(self) {
                    self.settled_at = Some(at);
                    break;
                }
            }
            loads = now;
            let bounds = self.bounds();
            let since = self.network.silences.last().map_or(last, |&(_, to)| to.max(last));
            let limit = since + bounds.settle_ns().max(bounds.orphan_ns()) + more;
            if self.network.now > limit.min(last + more + 60 * SECOND) {
                break;
            }
            self.network.run(2 * MS);
        }
        let faults = |run: &Self| {
            (run.network.silences.len(), run.network.fences.len(), run.network.doubts().len())
        };
        let (at, before) = (self.network.now, faults(self));
        self.network.run(D + 4 * H);
        self.quiet = faults(self) == before;
        let quiet = self.quiet;
        let settles = self.rule_of_settling() != Check::One;
        if !quiet || self.settled_at.is_none() {
            return;
        }
        if self.network.coverage.changed_at > at {
            if settles {
                self.fail("F1", format!("buckets moved after all was settled at {}", at - EPOCH));
            }
            return;
        }
        // Then those who send packets on to each other agree about to whom.
        let mut nodes = self.entitled().iter();
        if let Some(what) = nodes.find_map(|node| self.network.misjudges(node.index())) {
            self.fail("owners", what);
        }
    }

    /// Where some were taken for dead because nothing of them got through, who has what depends on
    /// what it was and on penalties for it: then each bucket must have one owner.
    fn rule_of_settling(&self) -> Check {
        let last = self.acts.iter().copied().max().unwrap_or(0);
        // Where nothing gets through for long, a majority does not either.
        let shut = |&(at, fence): &(u64, Fence)| at > last && fence != Fence::Open;
        let fenced = self.loss >= 30 && self.network.fences.iter().any(shut);
        let silent = !self.network.silences.is_empty() || fenced;
        match self.scenario.settles {
            Settles::InTime if !silent => Check::L4 { more_ns: 0 },
            Settles::Damped(more_ns) if !silent || self.loss < 30 => Check::L4 { more_ns },
            _ => Check::One,
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            nodes: self.count as u64 + 1,
            h: H,
            d: D,
            hold: TIMING.hold_ns,
            delta: DELTA,
            tick: TICK,
            rho_ppm: self.scenario.drift_ppm,
            losses: self.network.link.losses_in_a_row,
            votes: self.scenario.partition == Partition::Majority,
        }
    }

    fn fail(&mut self, rule: &str, what: String) {
        let at = self.network.now;
        self.violations.push(Violation { rule: rule.into(), at, what });
    }

    /// What was seen, as the checks want it.
    fn history(&mut self) -> History {
        let now = self.network.now;
        let mut acts = self.acts.clone();
        // A silence is a fault from when it has lasted for D.
        let start = self.bounds().silence_ns();
        // And one that goes on does not count less than one that has ended.
        let mut silences = self.network.silences.clone();
        silences.extend(self.network.doubts().into_iter().map(|since| (since, now)));
        let heard = silences.iter().flat_map(|&(from, to)| [from + start, to]);
        acts.extend(heard);
        acts.sort_unstable();
        let mut disturbed = self.disturbed.clone();
        disturbed.extend(self.disturbed_since.map(|since| (since, now)));
        let entitled = self.entitled();
        let members = self.config.members().iter();
        let takes_part = members.filter(|member| entitled.contains(member.slot));
        let weights: u64 = takes_part.clone().map(|member| u64::from(member.weight)).sum();
        let loads = self.network.loads();
        let shares = takes_part.map(|member| {
            let ideal = BUCKETS as u64 * 1000 * u64::from(member.weight) / weights;
            (loads[member.slot.index()] as u64 * 1000, ideal)
        });
        History {
            to: now,
            spans: self.network.coverage.spans(now),
            moves: self.network.coverage.moves(),
            leases: self.network.leases.take().unwrap_or_default(),
            repeats: std::mem::take(&mut self.network.repeats),
            acts,
            disturbed,
            nobody: std::mem::take(&mut self.nobody),
            stops: std::mem::take(&mut self.network.stops),
            silences,
            fences: self.network.fences.iter().map(|&(at, _)| at).collect(),
            asked_at: self.asked_at,
            settled_at: self.settled_at,
            shares: shares.collect(),
            absent: self.config.present().len() - entitled.len(),
        }
    }

    fn judge(mut self) -> Outcome {
        let (bounds, history) = (self.bounds(), self.history());
        let settling = self.rule_of_settling();
        let mut checks = vec![Check::S1, Check::S3, Check::S5, Check::L3];
        // Nodes that are kept out for different times come back one after the other, and a bucket
        // may go to one first and to another soon after.
        if !matches!(self.scenario.settles, Settles::Damped(_)) {
            checks.push(Check::F1);
        }
        checks.extend(&self.scenario.checks);
        checks.push(settling);
        if matches!(settling, Check::L4 { .. }) && history.settled_at.is_some() && self.quiet {
            checks.push(Check::B1);
        }
        for check in checks {
            self.violations.extend(check.check(&history, &bounds).err());
        }
        let coverage = &self.network.coverage;
        Outcome {
            nodes: self.count,
            gap: coverage.worst_gap,
            dual: coverage.worst_dual,
            changes: coverage.changes,
            silences: history.silences.len(),
            violations: self.violations,
            hash: self.network.hash(),
            trace: self.network.trace.take().unwrap_or_default(),
        }
    }
}
