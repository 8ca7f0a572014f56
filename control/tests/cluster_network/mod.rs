//! N real nodes in one process, in virtual time, under one seed: a network that delays and loses
//! messages, and a record of who served which bucket when.
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

#![allow(dead_code, reason = "each test file uses a part")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex};

use vipdp::cluster::auth::OpenError;
use vipdp::cluster::config::{ClusterConfig, ConfigId, Member, Parameters, Partition, Timing};
use vipdp::cluster::node::{Alarm, Destination, Input, Life, Node, Output};
use vipdp::cluster::wire::{Body, Message};
use vipdp_core::bucket::{BUCKETS, Bucket};
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::{Holding, Holdings};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

pub fn slot(number: usize) -> Slot {
    Slot::new(number as u8).unwrap()
}

/// What all clusters here start from: `count` members of equal weight.
pub fn parameters(count: usize) -> Parameters {
    let member = |number| Member { slot: slot(number), weight: 1, tombstone: false };
    Parameters {
        cluster: 7,
        id: ConfigId { generation: 1, hash: 1 },
        members: (0..count).map(member).collect(),
        timing: Timing::DEFAULT,
        partition: Partition::None,
        assignment_seed: [5; 16],
    }
}

/// The configuration with these parameters. Made once: the lists take time without optimization.
pub fn config(parameters: Parameters) -> Arc<ClusterConfig> {
    static MADE: Mutex<Vec<(Parameters, Arc<ClusterConfig>)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap();
    if let Some((_, config)) = made.iter().find(|(of, _)| *of == parameters) {
        return Arc::clone(config);
    }
    let config = Arc::new(ClusterConfig::new(parameters.clone()).unwrap());
    made.push((parameters, Arc::clone(&config)));
    config
}

/// A seeded generator (Steele, Lea, Flood: SplitMix, 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

enum Event {
    Deliver { to: usize, message: Box<Message> },
    Tick { node: usize, at: u64 },
    LeaseEnd { node: usize, at: u64 },
    Resume { node: usize },
}

/// A node and what it told.
pub struct Host {
    pub node: Node,
    pub alarms: Vec<Alarm>,
    pub refused: BTreeMap<usize, u64>,
    pub claims: u64,
    deadline: u64,
    table: Holdings,
    /// How many buckets it owns, of `table`.
    owned: usize,
    pub lease_until: u64,
    /// Whether its table counts: the lease has not ended.
    valid: bool,
    /// What arrived while it stood still.
    paused: Option<Vec<Message>>,
}

/// Who serves which bucket, and for how long nobody or two did.
pub struct Coverage {
    owners: Vec<u8>,
    holders: Vec<u8>,
    unheld_since: Vec<Option<u64>>,
    dual_since: Vec<Option<u64>>,
    /// How many buckets have one owner and nobody else who answers for them.
    sole: usize,
    /// The longest time that a bucket had nobody, since the last reset.
    pub worst_gap: u64,
    /// The longest time that a bucket had two owners.
    pub worst_dual: u64,
    /// How often a bucket got a new owner.
    pub changes: u64,
}

pub struct Network {
    pub now: u64,
    pub hosts: Vec<Option<Host>>,
    pub coverage: Coverage,
    /// Per cent of messages that are lost.
    pub loss: u64,
    /// Longest delay, in nanoseconds; the shortest is a tenth of it.
    pub delay: u64,
    /// Messages from the first to the second are lost.
    pub cuts: Vec<(usize, usize)>,
    /// Everything that was sent, if it is to be kept.
    pub tape: Option<Vec<Message>>,
    /// How late ticks come, at most.
    pub tick_latency: u64,
    config: Arc<ClusterConfig>,
    random: Random,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    pending: BTreeMap<u64, Event>,
    next_event: u64,
    sessions: u64,
}

impl Network {
    pub fn new(config: Arc<ClusterConfig>, count: usize, seed: u64) -> Self {
        Self {
            now: 1000 * SECOND,
            hosts: (0..count).map(|_| None).collect(),
            coverage: Coverage {
                owners: vec![0; BUCKETS],
                holders: vec![0; BUCKETS],
                unheld_since: vec![None; BUCKETS],
                dual_since: vec![None; BUCKETS],
                sole: 0,
                worst_gap: 0,
                worst_dual: 0,
                changes: 0,
            },
            loss: 0,
            delay: MS,
            cuts: Vec::new(),
            tape: None,
            tick_latency: MS / 2,
            config,
            random: Random::new(seed),
            events: BinaryHeap::new(),
            pending: BTreeMap::new(),
            next_event: 0,
            sessions: seed << 32 | 0x1000_0000,
        }
    }

    /// `count` nodes that start within a few milliseconds, after they have settled.
    pub fn settled(parameters: Parameters, seed: u64) -> Self {
        let count = parameters.members.len();
        let mut network = Self::new(config(parameters), count, seed);
        network.start_all();
        network.run_until("all buckets have one owner", 2 * SECOND, Self::exactly_one_owner);
        network.run(SECOND);
        network.coverage.reset();
        network
    }

    pub fn start_all(&mut self) {
        for node in 0..self.hosts.len() {
            self.start(node);
        }
    }

    pub fn start(&mut self, number: usize) {
        self.start_with(number, Arc::clone(&self.config));
    }

    pub fn start_with(&mut self, number: usize, config: Arc<ClusterConfig>) {
        self.start_at(number, number, config);
    }

    /// Starts a node at the place `number` that takes itself for the one in another slot.
    pub fn start_as(&mut self, number: usize, slot: usize) {
        self.start_at(number, slot, Arc::clone(&self.config));
    }

    fn start_at(&mut self, number: usize, as_slot: usize, config: Arc<ClusterConfig>) {
        self.sessions += 1;
        let (session, seed) = (self.random.next() | self.sessions, self.random.next());
        let node = Node::new(config, slot(as_slot), session, seed, self.now);
        self.hosts[number] = Some(Host {
            node,
            alarms: Vec::new(),
            refused: BTreeMap::new(),
            claims: 0,
            deadline: self.now,
            table: Holdings::none(),
            owned: 0,
            lease_until: 0,
            valid: false,
            paused: None,
        });
        self.push(self.now, Event::Tick { node: number, at: self.now });
    }

    /// Ends a node without a word.
    pub fn kill(&mut self, number: usize) {
        self.invalidate(number);
        self.hosts[number] = None;
    }

    /// Stops a node's loop for a while; what arrives waits.
    pub fn pause(&mut self, number: usize, time: u64) {
        self.host(number).paused = Some(Vec::new());
        self.push(self.now + time, Event::Resume { node: number });
    }

    pub fn host(&mut self, number: usize) -> &mut Host {
        self.hosts[number].as_mut().expect("the node runs")
    }

    pub fn input(&mut self, number: usize, input: Input) {
        let now = self.now;
        let mut outputs = Vec::new();
        self.host(number).node.step(now, input, &mut outputs);
        self.execute(number, outputs);
    }

    /// Lets time pass.
    pub fn run(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(&Reverse((at, number))) = self.events.peek() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = at;
            let event = self.pending.remove(&number).expect("each event happens once");
            self.happen(event);
        }
        self.now = end;
    }

    /// Lets time pass until `done`, in steps of a millisecond; panics after `limit`. Returns how
    /// long it took.
    pub fn run_until(&mut self, what: &str, limit: u64, done: impl Fn(&Self) -> bool) -> u64 {
        let start = self.now;
        while !done(self) {
            let late = self.now >= start + limit;
            assert!(!late, "not within {} ms: {what}\n{}", limit / MS, self.describe());
            self.run(MS);
        }
        self.now - start
    }

    pub fn exactly_one_owner(&self) -> bool {
        self.coverage.sole == BUCKETS
    }

    /// What each node thinks of itself and of the others, for a failed test to show.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(host) = host else {
                text += &format!("{number}: not running\n");
                continue;
            };
            let owned = host.table.owned();
            text += &format!("{number}: {owned} owned, lease {}, ", host.valid);
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

    /// Whether the load is spread evenly over `nodes`, and nobody else has any.
    pub fn even_over(&self, nodes: &[usize]) -> bool {
        let ideal = BUCKETS / nodes.len();
        self.loads().into_iter().enumerate().all(|(node, load)| {
            if nodes.contains(&node) { load.abs_diff(ideal) <= 1 } else { load == 0 }
        })
    }

    /// Whether `a` takes `b` for alive.
    pub fn alive(&self, a: usize, b: usize) -> bool {
        let view = self.hosts[a].as_ref().expect("the node runs").node.view();
        let member = view.members.iter().find(|member| member.slot == slot(b)).expect("a member");
        matches!(member.life, Life::Heard | Life::Relayed)
    }

    fn push(&mut self, at: u64, event: Event) {
        self.next_event += 1;
        self.events.push(Reverse((at, self.next_event)));
        self.pending.insert(self.next_event, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { to, message } => match &mut self.hosts[to] {
                Some(Host { paused: Some(queue), .. }) => queue.push(*message),
                Some(_) => self.input(to, Input::Message(message)),
                None => {}
            },
            Event::Tick { node, at } => {
                let due = self.hosts[node]
                    .as_ref()
                    .is_some_and(|host| host.deadline == at && host.paused.is_none());
                if due {
                    self.input(node, Input::Tick);
                }
            }
            Event::LeaseEnd { node, at } => {
                if self.hosts[node].as_ref().is_some_and(|host| host.lease_until == at) {
                    self.invalidate(node);
                }
            }
            Event::Resume { node } => {
                let Some(host) = &mut self.hosts[node] else { return };
                let Some(queue) = host.paused.take() else { return };
                for message in queue {
                    self.input(node, Input::Message(Box::new(message)));
                }
                self.input(node, Input::Tick);
            }
        }
    }

    fn execute(&mut self, from: usize, outputs: Vec<Output>) {
        assert!(matches!(outputs.last(), Some(Output::NextDeadline(_))), "a promise ends a step");
        for output in outputs {
            match output {
                Output::PublishTable { holdings, lease_until_ns } => {
                    self.publish(from, &holdings, lease_until_ns);
                }
                Output::Send { to, message } => self.transmit(from, to, &message),
                Output::Alarm(alarm) => self.host(from).alarms.push(alarm),
                Output::Refused(_, why) => {
                    *self.host(from).refused.entry(why.index()).or_default() += 1;
                }
                Output::NextDeadline(at) => {
                    let host = self.host(from);
                    if host.deadline != at {
                        host.deadline = at;
                        let late = self.random.below(self.tick_latency + 1);
                        let when = at.max(self.now) + late;
                        self.push(when, Event::Tick { node: from, at });
                    }
                }
                Output::Claim(_) => self.host(from).claims += 1,
                Output::Release(_)
                | Output::LingerStart(_)
                | Output::LingerEnd(_)
                | Output::Defend(_) => {}
            }
        }
    }

    fn transmit(&mut self, from: usize, to: Destination, message: &Message) {
        if let Some(tape) = &mut self.tape {
            tape.push(message.clone());
        }
        for node in 0..self.hosts.len() {
            // What is sent to one may be heard by all, or by whoever has that slot.
            let addressed = match (to, &self.hosts[node]) {
                (Destination::Slot(slot), Some(host)) => host.node.slot() == slot,
                _ => true,
            };
            let lost = node != from && self.random.below(100) < self.loss;
            if addressed && !lost && !self.cuts.contains(&(from, node)) {
                let delay = self.delay / 10 + self.random.below(self.delay * 9 / 10 + 1);
                let message = Box::new(message.clone());
                self.push(self.now + delay, Event::Deliver { to: node, message });
            }
        }
    }

    fn publish(&mut self, number: usize, table: &Holdings, lease_until: u64) {
        let now = self.now;
        if lease_until <= now {
            self.invalidate(number);
            return;
        }
        let host = self.hosts[number].as_mut().expect("the node runs");
        let (before, was_valid) = (std::mem::replace(&mut host.table, table.clone()), host.valid);
        let same = was_valid && before == *table;
        if !same {
            host.owned = table.owned();
        }
        host.valid = true;
        if host.lease_until != lease_until {
            host.lease_until = lease_until;
            self.push(lease_until, Event::LeaseEnd { node: number, at: lease_until });
        }
        if same {
            return;
        }
        for bucket in Bucket::all() {
            let old = if was_valid { before.get(bucket) } else { Holding::Foreign };
            let new = table.get(bucket);
            if old != new {
                self.coverage.change(bucket, old, new, now);
            }
        }
    }

    fn invalidate(&mut self, number: usize) {
        let Some(host) = &mut self.hosts[number] else { return };
        if std::mem::replace(&mut host.valid, false) {
            for bucket in Bucket::all() {
                let old = host.table.get(bucket);
                if old != Holding::Foreign {
                    self.coverage.change(bucket, old, Holding::Foreign, self.now);
                }
            }
        }
    }

    /// How often a reason to refuse was told by a node.
    pub fn refused(&mut self, number: usize, why: OpenError) -> u64 {
        self.host(number).refused.get(&why.index()).copied().unwrap_or(0)
    }
}

impl Coverage {
    pub fn reset(&mut self) {
        (self.worst_gap, self.worst_dual, self.changes) = (0, 0, 0);
    }

    fn change(&mut self, bucket: Bucket, old: Holding, new: Holding, now: u64) {
        let at = bucket.index();
        let owns = |holding| u8::from(holding == Holding::Owned);
        let holds = |holding| u8::from(holding != Holding::Foreign);
        let sole = |coverage: &Self| coverage.owners[at] == 1 && coverage.holders[at] == 1;
        self.changes += u64::from(new == Holding::Owned);
        self.sole -= usize::from(sole(self));
        self.owners[at] = self.owners[at] + owns(new) - owns(old);
        self.holders[at] = self.holders[at] + holds(new) - holds(old);
        self.sole += usize::from(sole(self));
        if self.holders[at] == 0 {
            self.unheld_since[at] = Some(now);
        } else if let Some(since) = self.unheld_since[at].take() {
            self.worst_gap = self.worst_gap.max(now - since);
        }
        if self.owners[at] < 2 {
            if let Some(since) = self.dual_since[at].take() {
                self.worst_dual = self.worst_dual.max(now - since);
            }
        } else {
            self.dual_since[at].get_or_insert(now);
        }
    }
}

/// Whether a message names buckets that a node answers for.
pub fn is_heartbeat(message: &Message) -> bool {
    matches!(message.body, Body::Heartbeat { .. })
}
