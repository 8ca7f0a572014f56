//! N real nodes in one process, in virtual time, under one seed.
//!
//! ```text
//!  Node 0   Node 1   ...   Node n        step(now, input) -> outputs
//!    |  ^     |  ^           |  ^
//!    v  |     v  |           v  |
//!   events, by time: deliver, tick, lease ends         loss, delay, cuts
//!    |
//!    v
//!   coverage: per bucket, who owns and who grants      gaps and duals, in ns
//! ```
//!
//! A node's place in the network is its slot, unless it was started as another one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex};

use vipdp::cluster::auth::{KEY_LEN, KeyId, Keyring, OpenError, open, seal};
use vipdp::cluster::config::{
    AllDown, ClusterConfig, ConfigId, Lists, Member, Parameters, Partition, Timing,
};
use vipdp::cluster::node::{Alarm, Destination, Input, Life, Node, Output, State};
use vipdp::cluster::wire::{Body, Header, Message};
use vipdp_core::bucket::{BUCKETS, Bucket};
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::{Holding, Holdings};
use vipdp_core::tiered::PreviousOwners;
use vipdp_core::wire::ethernet::MacAddr;

use crate::clock::{Clock, EPOCH};
use crate::coverage::Coverage;
use crate::event::{Event, Packet, Queued};
use crate::link::Link;
use crate::news::News;
use crate::random::Random;
use crate::{MS, SECOND};

/// What befalls a node's right to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Its lease has run out, because it stands still or nobody acknowledges.
    Lapse,
    /// It must not serve.
    Shut,
    /// It takes a share of the buckets again: it has just started, or a hold is over.
    Open,
}

/// The number of the cluster that all nodes here belong to.
pub const CLUSTER: u16 = 7;

/// The slot numbered `number`.
///
/// # Panics
/// From 64 upwards.
pub fn slot(number: usize) -> Slot {
    let slot = u8::try_from(number).ok().and_then(Slot::new);
    slot.expect("a cluster has at most 64 nodes")
}

/// What all clusters here start from: `count` members of equal weight, default timing.
pub fn parameters(count: usize) -> Parameters {
    let member = |number| Member { slot: slot(number), weight: 1, tombstone: false };
    Parameters {
        cluster: CLUSTER,
        id: ConfigId { generation: 1, hash: 1 },
        members: (0..count).map(member).collect(),
        timing: Timing::DEFAULT,
        partition: Partition::None,
        all_down: AllDown::Serve,
        steers: false,
        lists: Lists::Buckets,
        assignment_seed: [5; 16],
    }
}

/// The configuration with these parameters. Made once: the lists take time without optimization.
///
/// # Panics
/// When the parameters do not hold together.
pub fn config(parameters: Parameters) -> Arc<ClusterConfig> {
    static MADE: Mutex<Vec<(Parameters, Arc<ClusterConfig>)>> = Mutex::new(Vec::new());
    let known = |made: &[(Parameters, Arc<ClusterConfig>)]| {
        made.iter().find(|(of, _)| *of == parameters).map(|(_, config)| Arc::clone(config))
    };
    if let Some(config) = known(&MADE.lock().expect("nobody panics here")) {
        return config;
    }
    let config = ClusterConfig::new(parameters.clone()).expect("the parameters hold together");
    let config = Arc::new(config);
    MADE.lock().expect("nobody panics here").push((parameters, Arc::clone(&config)));
    config
}

/// The keys numbered `accept`, of which `send` is sent with.
///
/// # Panics
/// When `send` is not among `accept`.
pub fn keyring(send: u8, accept: &[u8]) -> Keyring {
    let keys = accept.iter().map(|&id| (KeyId(id), [id; KEY_LEN]));
    Keyring::new(KeyId(send), keys).expect("the key to send with is accepted")
}

/// A node, what is around it, and what it told.
#[derive(Debug)]
pub struct Host {
    /// The node.
    pub node: Node,
    /// All its alarms so far.
    pub alarms: Vec<Alarm>,
    /// How many messages it refused, by [`OpenError::index`].
    pub refused: BTreeMap<usize, u64>,
    /// How often it claimed buckets.
    pub claims: u64,
    /// How often it wanted a VIP defended.
    pub defences: u64,
    /// Until when its table counts, by its own clock.
    pub lease_until: u64,
    /// Who has and had each address, as it last told.
    pub owners: Arc<PreviousOwners>,
    /// The keys that it sends with and accepts, in a network that seals.
    pub keys: Keyring,
    clock: Clock,
    started_at: u64,
    deadline: u64,
    /// When the tick of that deadline comes.
    tick_at: u64,
    table: Holdings,
    /// How many buckets it owns, of `table`.
    owned: usize,
    /// Whether its table counts: the lease has not ended.
    valid: bool,
    /// While it stands still.
    paused: Option<Pause>,
    /// The highest sequence number that it has taken, by session.
    taken: BTreeMap<u64, u64>,
    news: News,
}

#[derive(Debug)]
struct Pause {
    from: u64,
    to: u64,
    /// What arrived meanwhile.
    queue: Vec<(Arc<Packet>, bool)>,
}

/// A time in which a node's loop stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The node.
    pub node: usize,
    /// From when, in nanoseconds of virtual time.
    pub from: u64,
    /// Until when.
    pub to: u64,
    /// Whether its data plane was still serving at the end.
    pub served: bool,
}

/// A publication: how long the data plane may go on without another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node.
    pub node: usize,
    /// When it published, by its own clock, in nanoseconds.
    pub at: u64,
    /// Until when the table counts.
    pub until: u64,
}

/// A datagram that a node was given although it had taken it, or a later one of its session,
/// before, or although its session had ended before the node started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// When, in nanoseconds of virtual time.
    pub at: u64,
    /// To whom.
    pub node: usize,
    /// Whether the node refused it.
    pub refused: bool,
    /// Whether it made the node claim anything.
    pub claimed: bool,
}

/// N nodes and all that is around them.
pub struct Network {
    /// Virtual time, in nanoseconds.
    pub now: u64,
    /// The nodes, by place; `None` for those that do not run.
    pub hosts: Vec<Option<Host>>,
    /// Who serves which bucket.
    pub coverage: Coverage,
    /// What happens to datagrams.
    pub link: Link,
    /// Everything that was sent, if it is to be kept.
    pub tape: Option<Vec<Arc<Packet>>>,
    /// How late ticks come at most, in nanoseconds.
    pub tick_latency: u64,
    /// By how much clocks differ from virtual time at most, in parts per million.
    pub drift_ppm: u64,
    /// Whether messages pass through the wire format and the MAC.
    pub seals: bool,
    /// Every publication, if they are to be kept.
    pub leases: Option<Vec<Lease>>,
    /// What nodes did with datagrams that they had no right to heed.
    pub repeats: Vec<Repeat>,
    /// How long one running node must have had no news of another for it to be a silence, in
    /// nanoseconds.
    pub silence_min: u64,
    /// The silences so far, from and to.
    pub silences: Vec<(u64, u64)>,
    /// When nodes were fenced, and when they were let in again.
    pub fences: Vec<(u64, Fence)>,
    /// The times in which nodes stood still.
    pub stops: Vec<Stop>,
    /// What happened, line by line, if it is to be kept.
    pub trace: Option<Vec<String>>,
    /// What nodes start with.
    pub config: Arc<ClusterConfig>,
    random: Random,
    events: BinaryHeap<Reverse<Queued>>,
    made: u64,
    hash: u64,
    /// The session of whoever runs, or last ran, in each place.
    session_of: BTreeMap<usize, u64>,
    /// When each session ended.
    ended: BTreeMap<u64, u64>,
    outputs: Vec<Output>,
}

impl Network {
    /// `count` places for nodes, of which none runs yet.
    pub fn new(config: Arc<ClusterConfig>, count: usize, seed: u64) -> Self {
        Self {
            now: EPOCH,
            hosts: (0..count).map(|_| None).collect(),
            coverage: Coverage::default(),
            link: Link::default(),
            tape: None,
            tick_latency: MS / 2,
            drift_ppm: 0,
            seals: false,
            leases: None,
            repeats: Vec::new(),
            silence_min: u64::MAX,
            silences: Vec::new(),
            fences: Vec::new(),
            stops: Vec::new(),
            trace: None,
            config,
            random: Random::new(seed),
            events: BinaryHeap::new(),
            made: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            session_of: BTreeMap::new(),
            ended: BTreeMap::new(),
            outputs: Vec::new(),
        }
    }

    /// `count` nodes that start within a few milliseconds, after they have settled.
    ///
    /// # Panics
    /// When they do not settle.
    pub fn settled(parameters: Parameters, seed: u64) -> Self {
        let count = parameters.members.len();
        let mut network = Self::new(config(parameters), count, seed);
        network.start_all();
        network.run_until("all buckets have one owner", 2 * SECOND, Self::exactly_one_owner);
        network.run(SECOND);
        network.reset();
        network
    }

    /// Forgets what was measured.
    pub fn reset(&mut self) {
        self.coverage.reset();
        self.link.losses_in_a_row = 0;
        self.silences.clear();
        self.fences.clear();
        self.stops.clear();
        self.repeats.clear();
        if let Some(leases) = &mut self.leases {
            leases.clear();
        }
    }

    /// Starts a node in each place.
    pub fn start_all(&mut self) {
        for node in 0..self.hosts.len() {
            self.start(node);
        }
    }

    /// Starts a node with the network's configuration.
    pub fn start(&mut self, number: usize) {
        self.start_with(number, Arc::clone(&self.config));
    }

    /// Starts a node with another configuration.
    pub fn start_with(&mut self, number: usize, config: Arc<ClusterConfig>) {
        self.start_at(number, number, config);
    }

    /// Starts a node at the place `number` that takes itself for the one in another slot.
    pub fn start_as(&mut self, number: usize, slot: usize) {
        self.start_at(number, slot, Arc::clone(&self.config));
    }

    fn start_at(&mut self, number: usize, as_slot: usize, config: Arc<ClusterConfig>) {
        let (session, seed) = (self.random.next(), self.random.next());
        let offset = self.random.below(EPOCH);
        let drift = self.drift_ppm.cast_signed();
        let ppm = self.random.below(2 * self.drift_ppm + 1).cast_signed() - drift;
        let clock = Clock { offset: if drift == 0 { 0 } else { offset }, ppm };
        let local = clock.local(self.now);
        self.session_of.insert(number, session);
        self.hosts[number] = Some(Host {
            node: Node::new(config, slot(as_slot), session, seed, local),
            alarms: Vec::new(),
            refused: BTreeMap::new(),
            claims: 0,
            defences: 0,
            lease_until: 0,
            owners: Arc::new(PreviousOwners::none()),
            keys: keyring(1, &[1]),
            clock,
            started_at: self.now,
            deadline: local,
            tick_at: self.now,
            table: Holdings::none(),
            owned: 0,
            valid: false,
            paused: None,
            taken: BTreeMap::new(),
            news: News::new(self.hosts.len()),
        });
        self.tell(number, || format!("starts, session {session:016x}, {ppm} ppm"));
        self.push(self.now, Event::Tick { node: number, deadline: local });
    }

    /// Tells a node its MAC address, which it tells the others: without, it is not sent anything on.
    pub fn tell_mac(&mut self, number: usize) {
        self.input(number, Input::OwnMac(MacAddr([2, 0, 0, 0, 0, number as u8])));
    }

    /// Ends a node without a word.
    pub fn kill(&mut self, number: usize) {
        self.tell(number, || "crashes".into());
        self.invalidate(number);
        self.hosts[number] = None;
        if let Some(&session) = self.session_of.get(&number) {
            self.ended.insert(session, self.now);
        }
    }

    /// Stops a node's loop for a while; what arrives waits.
    pub fn pause(&mut self, number: usize, time: u64) {
        self.tell(number, || format!("stands still for {} ms", time / MS));
        let (from, to) = (self.now, self.now + time);
        self.host(number).paused.get_or_insert(Pause { from, to, queue: Vec::new() });
        self.push(to, Event::Resume { node: number });
    }

    /// Whether a node runs in this place, and does not stand still.
    pub fn is_awake(&self, number: usize) -> bool {
        self.hosts[number].as_ref().is_some_and(|host| host.paused.is_none())
    }

    /// The node in this place.
    ///
    /// # Panics
    /// When none runs.
    pub fn host(&mut self, number: usize) -> &mut Host {
        self.hosts[number].as_mut().expect("the node runs")
    }

    /// Gives an input to a node, unless it stands still.
    pub fn input(&mut self, number: usize, input: Input) {
        let now = self.now;
        let mut outputs = std::mem::take(&mut self.outputs);
        let host = self.host(number);
        if host.paused.is_none() {
            let local = host.clock.local(now);
            let before = (host.node.state(), host.node.share());
            host.node.step(local, input, &mut outputs);
            let after = (host.node.state(), host.node.share());
            if before.0 != State::Fenced && after.0 == State::Fenced {
                self.fences.push((now, Fence::Shut));
            }
            if before.1 == 0 && after.1 > 0 {
                self.fences.push((now, Fence::Open));
            }
            self.execute(number, &mut outputs);
        }
        outputs.clear();
        self.outputs = outputs;
    }

    /// Lets time pass.
    pub fn run(&mut self, time: u64) {
        let end = self.now + time;
        while self.events.peek().is_some_and(|Reverse(next)| next.key.0 <= end) {
            let Some(Reverse(next)) = self.events.pop() else { break };
            self.now = next.key.0;
            self.happen(next.event);
        }
        self.now = end;
    }

    /// Lets time pass until `done`, in steps of a millisecond. Returns how long it took.
    ///
    /// # Panics
    /// After `limit`.
    pub fn run_until(&mut self, what: &str, limit: u64, done: impl Fn(&Self) -> bool) -> u64 {
        let start = self.now;
        while !done(self) {
            let late = self.now >= start + limit;
            assert!(!late, "not within {} ms: {what}\n{}", limit / MS, self.describe());
            self.run(MS);
        }
        self.now - start
    }

    /// Whether each bucket has one owner and nobody else who answers for it.
    pub fn exactly_one_owner(&self) -> bool {
        self.coverage.exactly_one_owner()
    }

    /// What each node thinks of itself and of the others, for a failed test to show.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(host) = host else {
                text += &format!("{number}: not running\n");
                continue;
            };
            text += &format!("{number}: {} owned, lease {}, ", host.owned, host.valid);
            for member in host.node.view().members {
                let (slot, claims, granted) = (member.slot, member.claims, member.granted);
                let (life, state, share) = (member.life.label(), member.state, member.share);
                text += &format!("[{slot} {life} {state:?} share {share} claims {claims} ");
                text += &format!("granted {granted}] ");
            }
            text += "\n";
        }
        text
    }

    /// How many buckets each node owns.
    pub fn loads(&self) -> Vec<usize> {
        let load = |host: &Option<Host>| {
            host.as_ref().filter(|host| host.valid).map_or(0, |host| host.owned)
        };
        self.hosts.iter().map(load).collect()
    }

    /// What the node tells its data plane of who has a bucket that is not so, if anything.
    pub fn misjudges(&self, number: usize) -> Option<String> {
        let host = self.hosts[number].as_ref()?;
        let told = |bucket| host.owners.get(bucket).now;
        let is_wrong = |&bucket: &Bucket| {
            let owners = (0..self.hosts.len()).filter(|&node| self.owns(node, bucket));
            owners.map(slot).any(|owner| told(bucket) != Some(owner))
        };
        let bucket = Bucket::all().find(is_wrong)?;
        let all = self.describe();
        Some(format!("{number} takes {:?} for the owner of {bucket:?}\n{all}", told(bucket)))
    }

    /// Whether the node in this place owns `bucket`, and its lease holds.
    pub fn owns(&self, number: usize, bucket: Bucket) -> bool {
        self.hosts[number].as_ref().is_some_and(|host| {
            let holding = host.table.get(bucket);
            host.valid && matches!(holding, Holding::Owned | Holding::TakenOver)
        })
    }

    /// Whether the load is spread evenly over `nodes`, and nobody else has any.
    pub fn even_over(&self, nodes: &[usize]) -> bool {
        let ideal = BUCKETS / nodes.len();
        self.loads().into_iter().enumerate().all(|(node, load)| {
            if nodes.contains(&node) { load.abs_diff(ideal) <= 1 } else { load == 0 }
        })
    }

    /// Whether `a` takes `b` for alive.
    ///
    /// # Panics
    /// When `a` does not run or `b` is no member.
    pub fn alive(&self, a: usize, b: usize) -> bool {
        let view = self.hosts[a].as_ref().expect("the node runs").node.view();
        let member = view.members.iter().find(|member| member.slot == slot(b)).expect("a member");
        matches!(member.life, Life::Heard | Life::Relayed)
    }

    /// Since when there is no news of nodes that run at others that take them for dead.
    pub fn doubts(&self) -> Vec<u64> {
        let mut since = Vec::new();
        for host in self.hosts.iter().flatten() {
            for member in host.node.view().members {
                let place = member.slot.index();
                let runs = self.hosts.get(place).is_some_and(Option::is_some);
                if member.life == Life::Dead && runs {
                    since.extend(host.news.latest(place));
                }
            }
        }
        since
    }

    /// How often a reason to refuse was told by a node.
    pub fn refused(&mut self, number: usize, why: OpenError) -> u64 {
        self.host(number).refused.get(&why.index()).copied().unwrap_or(0)
    }

    /// A number that two runs share only if the same happened in both.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Delivers a datagram, recorded or not, to whoever runs in place `to`, now.
    pub fn replay(&mut self, to: usize, packet: &Arc<Packet>) {
        self.happen(Event::Deliver { to, packet: Arc::clone(packet), damaged: false });
    }

    fn push(&mut self, at: u64, event: Event) {
        self.made += 1;
        self.events.push(Reverse(Queued { key: (at.max(self.now), self.made), event }));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { to, packet, damaged } => match &mut self.hosts[to] {
                Some(Host { paused: Some(pause), .. }) => pause.queue.push((packet, damaged)),
                Some(_) => self.deliver(to, &packet, damaged),
                None => {}
            },
            Event::Tick { node, deadline } => {
                if self.hosts[node].as_ref().is_some_and(|host| host.deadline == deadline) {
                    self.input(node, Input::Tick);
                }
            }
            Event::LeaseEnd { node, until } => {
                if self.hosts[node].as_ref().is_some_and(|host| host.lease_until == until) {
                    self.tell(node, || "its lease ends".into());
                    self.fences.push((self.now, Fence::Lapse));
                    self.invalidate(node);
                }
            }
            Event::Resume { node } => {
                let Some(host) = &mut self.hosts[node] else { return };
                let ends = |pause: &mut Pause| pause.to == self.now;
                let Some(pause) = host.paused.take_if(ends) else { return };
                let Pause { from, to, queue } = pause;
                self.stops.push(Stop { node, from, to, served: host.valid });
                self.tell(node, || "goes on".into());
                for (packet, damaged) in queue {
                    self.deliver(node, &packet, damaged);
                }
                self.input(node, Input::Tick);
            }
        }
    }

    fn deliver(&mut self, to: usize, packet: &Packet, damaged: bool) {
        let now = self.now;
        let header = packet.message.header;
        let at = damaged.then(|| self.random.below(packet.datagram.len().max(1) as u64) as usize);
        let Some(host) = &mut self.hosts[to] else { return };
        let opened = if packet.datagram.is_empty() {
            Ok(Box::new(packet.message.clone()))
        } else {
            let mut datagram = packet.datagram.clone();
            if let Some(byte) = at.and_then(|at| datagram.get_mut(at)) {
                *byte ^= 0x10;
            }
            open(&host.keys, CLUSTER, &datagram)
        };
        let message = match opened {
            Ok(_) if damaged => return,
            Ok(message) => message,
            Err(why) => {
                *host.refused.entry(why.index()).or_default() += 1;
                return;
            }
        };
        assert_eq!(*message, packet.message, "the wire changes nothing");
        let taken = host.taken.get(&header.session).copied().unwrap_or(0);
        let stale = self.ended.get(&header.session).is_some_and(|&end| end < host.started_at);
        let repeated = header.seq <= taken || stale;
        let (refused, claims) = (host.refused.values().sum::<u64>(), host.claims);
        self.tell(to, || {
            let Header { slot, seq, flags, share, .. } = header;
            format!("hears {seq} of {slot}, share {share}, {flags:?}")
        });
        self.input(to, Input::Message(message));
        let host = self.host(to);
        let refused = host.refused.values().sum::<u64>() > refused;
        let claimed = host.claims > claims;
        if !refused {
            host.taken.insert(header.session, header.seq.max(taken));
            // What one does not listen to is no news.
            let silence = host.news.hear(&packet.news, now);
            if silence >= self.silence_min {
                self.silences.push((now - silence, now));
            }
        }
        if repeated {
            self.repeats.push(Repeat { at: now, node: to, refused, claimed });
        }
    }

    fn execute(&mut self, from: usize, outputs: &mut Vec<Output>) {
        assert!(matches!(outputs.last(), Some(Output::NextDeadline(_))), "a promise ends a step");
        for output in outputs.drain(..) {
            self.note(from, &output);
            match output {
                Output::PublishTable { holdings, lease_until_ns, owners } => {
                    self.host(from).owners = owners;
                    self.publish(from, &holdings, lease_until_ns);
                }
                Output::Send { to, message } => self.transmit(from, to, *message),
                Output::Alarm(alarm) => self.host(from).alarms.push(alarm),
                Output::Refused(_, why) => {
                    *self.host(from).refused.entry(why.index()).or_default() += 1;
                }
                Output::NextDeadline(deadline) => self.promise(from, deadline),
                Output::Claim(_) => self.host(from).claims += 1,
                Output::Defend(_) => self.host(from).defences += 1,
                Output::Release(_) | Output::LingerStart(_) | Output::LingerEnd(_) => {}
            }
        }
    }

    fn promise(&mut self, from: usize, deadline: u64) {
        let now = self.now;
        let late = self.random.below(self.tick_latency + 1);
        let host = self.host(from);
        if host.deadline != deadline {
            let when = host.clock.global(deadline).max(now);
            let overdue = host.tick_at >= now && host.clock.global(host.deadline) <= now;
            // A tick that is late comes no later for what has happened meanwhile.
            let at = if when == now && overdue { host.tick_at } else { when + late };
            (host.deadline, host.tick_at) = (deadline, at);
            self.push(at, Event::Tick { node: from, deadline });
        }
    }

    fn transmit(&mut self, from: usize, to: Destination, message: Message) {
        let now = self.now;
        let seals = self.seals;
        let host = self.host(from);
        host.news.tell_of_self(from, (host.started_at, message.header.seq), now);
        let news = host.news.clone();
        let mut datagram = Vec::new();
        if seals {
            seal(&host.keys, &message, &mut datagram);
        }
        let session = message.header.session;
        if let Some(before) = self.session_of.insert(from, session).filter(|&s| s != session) {
            self.ended.insert(before, now);
        }
        let packet = Arc::new(Packet { from, message, datagram, news });
        if let Some(tape) = &mut self.tape {
            tape.push(Arc::clone(&packet));
        }
        for node in 0..self.hosts.len() {
            // What is sent to one may be heard by all, or by whoever has that slot.
            let addressed = match (to, &self.hosts[node]) {
                (Destination::Slot(slot), Some(host)) => host.node.slot() == slot,
                _ => true,
            };
            if !addressed || !self.link.passes(from, node, &mut self.random) {
                continue;
            }
            let copies = 1 + u64::from(self.random.happens(self.link.duplicates));
            for _ in 0..copies {
                self.carry(node, &packet, false);
            }
            if self.seals && self.random.happens(self.link.damaged) {
                self.carry(node, &packet, true);
            }
        }
    }

    fn carry(&mut self, to: usize, packet: &Arc<Packet>, damaged: bool) {
        let at = self.now + self.link.delay(&mut self.random);
        self.push(at, Event::Deliver { to, packet: Arc::clone(packet), damaged });
    }

    fn publish(&mut self, number: usize, table: &Holdings, lease_until: u64) {
        let now = self.now;
        let host = self.hosts[number].as_mut().expect("the node runs");
        let local = host.clock.local(now);
        if let Some(leases) = &mut self.leases {
            leases.push(Lease { node: number, at: local, until: lease_until });
        }
        if lease_until <= local {
            self.invalidate(number);
            return;
        }
        let (before, was_valid) = (std::mem::replace(&mut host.table, table.clone()), host.valid);
        host.valid = true;
        if host.lease_until != lease_until {
            host.lease_until = lease_until;
            let end = host.clock.global(lease_until);
            self.push(end, Event::LeaseEnd { node: number, until: lease_until });
        }
        if was_valid && before == *table {
            return;
        }
        let host = self.hosts[number].as_mut().expect("the node runs");
        host.owned = table.owned();
        for bucket in Bucket::all() {
            let old = if was_valid { before.get(bucket) } else { Holding::Foreign };
            let new = table.get(bucket);
            if old != new {
                self.coverage.change(number, bucket, old, new, now);
            }
        }
    }

    fn invalidate(&mut self, number: usize) {
        let Some(host) = &mut self.hosts[number] else { return };
        if std::mem::replace(&mut host.valid, false) {
            for bucket in Bucket::all() {
                let old = host.table.get(bucket);
                if old != Holding::Foreign {
                    self.coverage.change(number, bucket, old, Holding::Foreign, self.now);
                }
            }
        }
    }

    /// Takes what a node does into the hash and the trace.
    fn note(&mut self, node: usize, output: &Output) {
        let (kind, value) = match output {
            Output::PublishTable { holdings, lease_until_ns, .. } => {
                (1, lease_until_ns.wrapping_add(holdings.owned() as u64))
            }
            Output::Claim(buckets) => (2, buckets.len() as u64),
            Output::Release(buckets) => (3, buckets.len() as u64),
            Output::Send { message, .. } => (4, message.header.seq),
            Output::LingerStart(buckets) => (5, buckets.len() as u64),
            Output::LingerEnd(buckets) => (6, buckets.len() as u64),
            Output::Defend(_) => (7, 0),
            Output::Refused(slot, why) => (8, slot.index() as u64 * 32 + why.index() as u64),
            Output::Alarm(_) => (9, 0),
            Output::NextDeadline(at) => (10, *at),
        };
        for word in [self.now, node as u64, kind, value] {
            // FNV-1a, a word at a time.
            self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if self.trace.is_some() {
            self.tell_output(node, output);
        }
    }

    fn tell_output(&mut self, node: usize, output: &Output) {
        let line = match output {
            Output::Claim(buckets) => format!("claims {buckets:?}"),
            Output::Release(buckets) => format!("releases {buckets:?}"),
            Output::LingerStart(buckets) => format!("lingers with {buckets:?}"),
            Output::Alarm(alarm) => format!("alarm: {alarm:?}"),
            Output::Refused(_, OpenError::Own) => return,
            Output::Refused(slot, why) => format!("refuses a message of {slot}: {why}"),
            Output::Send { to, message } => match &message.body {
                Body::Heartbeat { claims } => {
                    format!("sends {} heartbeat, {claims:?} claimed", message.header.seq)
                }
                Body::Candidate { buckets } => {
                    format!("sends {} candidate for {buckets:?}", message.header.seq)
                }
                Body::Transfer { buckets, .. } => {
                    format!("sends {} transfer of {buckets:?} {to:?}", message.header.seq)
                }
                Body::Join { .. } => format!("sends {} join", message.header.seq),
            },
            _ => return,
        };
        self.tell(node, || line);
    }

    /// Adds a line about a node to the trace.
    pub fn tell(&mut self, node: usize, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let since = self.now - EPOCH;
            let ms = since / MS;
            trace.push(format!("{ms:>7}.{:03} {node:>2} {}", since % MS / 1000, line()));
        }
    }
}
