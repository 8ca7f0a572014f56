//! A settled cluster of [`Node`]s in memory, and what one of them lives through in it.
//!
//! All nodes run against each other, without loss, until each bucket has an owner. What the first
//! of them takes in, from its start on, is recorded. A node has no clock and no randomness of its
//! own, so that the recording, fed into a new one, leads it through the same life.

use std::collections::VecDeque;
use std::sync::Arc;

use vipdp::cluster::config::{
    AllDown, ClusterConfig, ConfigId, Lists, Member, Parameters, Partition, Timing,
};
use vipdp::cluster::node::{Destination, Input, Node, Output};
use vipdp::cluster::wire::{Body, Message};
use vipdp_core::bucket::BucketSet;
use vipdp_core::slot::{SLOTS, Slot};

/// The number that the cluster tells itself apart by.
pub const CLUSTER: u16 = 53;
/// From one node to another, nanoseconds: a switch and two hosts.
const DELAY_NS: u64 = 100_000;
/// Nothing moves any more at this time, nanoseconds: the hold of 10 s, and as much again.
const SETTLED_NS: u64 = 20_000_000_000;
/// How long the settled cluster is recorded, nanoseconds: some 200 heartbeats of each node.
const RECORDED_NS: u64 = 10_000_000_000;

/// What the recorded node took in at one time.
#[derive(Clone)]
pub struct Event {
    /// When, nanoseconds.
    pub now_ns: u64,
    /// A message, or a tick for none.
    pub message: Option<Arc<Message>>,
    /// Whether the node sent something in answer.
    pub sent: bool,
}

/// The life of the first node.
pub struct Life {
    config: Arc<ClusterConfig>,
    /// From its start until the cluster was settled.
    pub youth: Vec<Event>,
    /// After that: heartbeats and ticks alone.
    pub settled: Vec<Event>,
}

impl Life {
    /// Runs a cluster of as many members as there are slots, with the default profile.
    ///
    /// # Panics
    /// When it does not settle.
    pub fn record() -> Self {
        let member = |slot| Member { slot, weight: 1, tombstone: false };
        let config = ClusterConfig::new(Parameters {
            cluster: CLUSTER,
            id: ConfigId { generation: 1, hash: 1 },
            members: Slot::all().map(member).collect(),
            timing: Timing::DEFAULT,
            partition: Partition::None,
            all_down: AllDown::Serve,
            steers: false,
            lists: Lists::Buckets,
            assignment_seed: [9; 16],
        });
        let config = Arc::new(config.expect("a fixed configuration"));
        let mut cluster = Cluster::new(&config);
        cluster.run_until(SETTLED_NS);
        let youth = std::mem::take(&mut cluster.events);
        let owned = cluster.owned.clone();
        cluster.run_until(SETTLED_NS + RECORDED_NS);
        assert!(owned == cluster.owned, "buckets moved in a settled cluster");
        let mut all = BucketSet::EMPTY;
        for owned in &owned {
            all.insert_all(owned);
        }
        assert!(all == BucketSet::FULL, "each bucket has an owner");
        let settled = cluster.events;
        let heartbeat = |event: &Event| match &event.message {
            Some(message) => matches!(message.body, Body::Heartbeat { .. }),
            None => true,
        };
        assert!(settled.iter().all(heartbeat), "nothing but heartbeats in a settled cluster");
        Self { config, youth, settled }
    }

    /// The recorded node at its start.
    pub fn newborn(&self) -> Node {
        node(&self.config, Slot::all().next().expect("there are slots"))
    }
}

impl Event {
    /// What to feed in.
    pub fn input(&self) -> Input {
        match &self.message {
            Some(message) => Input::Message(Box::new(Message::clone(message))),
            None => Input::Tick,
        }
    }
}

fn node(config: &Arc<ClusterConfig>, slot: Slot) -> Node {
    let number = slot.index() as u64 + 1;
    let session = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Node::new(Arc::clone(config), slot, session, number, 0)
}

struct Cluster {
    nodes: Vec<Node>,
    /// When each node's next tick is due.
    deadlines: [u64; SLOTS],
    /// What each node owns.
    owned: Vec<BucketSet>,
    /// Messages on their way: when they arrive, where, and what. The delay is the same for all, so
    /// that they arrive in the order of sending.
    on_the_way: VecDeque<(u64, usize, Arc<Message>)>,
    /// What the first node took in.
    events: Vec<Event>,
    out: Vec<Output>,
}

impl Cluster {
    fn new(config: &Arc<ClusterConfig>) -> Self {
        Self {
            nodes: Slot::all().map(|slot| node(config, slot)).collect(),
            deadlines: [0; SLOTS],
            owned: vec![BucketSet::EMPTY; SLOTS],
            on_the_way: VecDeque::new(),
            events: Vec::new(),
            out: Vec::new(),
        }
    }

    fn run_until(&mut self, end_ns: u64) {
        loop {
            let ticks = self.deadlines.into_iter().zip(0..);
            let (tick_at, at) = ticks.min().expect("there are nodes");
            // Messages before the tick of the same time, as `Node::step` asks for.
            match self.on_the_way.front() {
                Some(&(arrives_at, ..)) if arrives_at <= tick_at => {
                    if arrives_at > end_ns {
                        return;
                    }
                    let (now_ns, to, message) = self.on_the_way.pop_front().expect("the front");
                    self.step(now_ns, to, Some(message));
                }
                _ if tick_at > end_ns => return,
                _ => self.step(tick_at, at, None),
            }
        }
    }

    fn step(&mut self, now_ns: u64, at: usize, message: Option<Arc<Message>>) {
        let mut event = Event { now_ns, message, sent: false };
        self.nodes[at].step(now_ns, event.input(), &mut self.out);
        for output in self.out.drain(..) {
            match output {
                Output::Send { to, message } => {
                    event.sent = true;
                    let message = Arc::from(message);
                    let others = (0..SLOTS).filter(|&other| match to {
                        Destination::Multicast => other != at,
                        Destination::Slot(slot) => other == slot.index(),
                    });
                    self.on_the_way.extend(
                        others.map(|other| (now_ns + DELAY_NS, other, Arc::clone(&message))),
                    );
                }
                Output::Claim(buckets) => self.owned[at].insert_all(&buckets),
                Output::Release(buckets) => self.owned[at].remove_all(&buckets),
                Output::LingerStart(buckets) => self.owned[at].remove_all(&buckets),
                Output::NextDeadline(deadline_ns) => self.deadlines[at] = deadline_ns,
                _ => {}
            }
        }
        if at == 0 {
            self.events.push(event);
        }
    }
}
