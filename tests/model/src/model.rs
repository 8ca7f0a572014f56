//! The cluster as the checker sees it: its states, what can happen in each, and what must hold.

use stateright::{Model, Property};

use crate::message::{Body, Link, Message};
use crate::node::{Node, Peer, Role, Step};
use crate::{MAX, Mutant};

/// A cluster to explore.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// How many nodes there are.
    pub count: usize,
    /// How many messages a link holds: a message that is sent into a full one displaces one.
    pub capacity: usize,
    /// Whether it begins in the settled state, in which the first node owns the bucket, rather than
    /// with the start of all.
    pub settled: bool,
    /// Whether a message is sent only if it would change the receiver if it arrived at once. What
    /// is left out are messages that tell old news when they are sent and new ones when they
    /// arrive, because the receiver has started anew meanwhile or asks anew.
    pub sparing: bool,
    /// What may go wrong, and how often.
    pub faults: Faults,
    /// The rule that is broken.
    pub mutant: Option<Mutant>,
}

/// What may still happen to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Crashes. A node that has crashed may start again.
    pub crashes: u8,
    /// Drains. They may end.
    pub drains: u8,
    /// Messages that arrive a second time, at any time.
    pub copies: u8,
}

/// A state of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The nodes.
    pub nodes: [Node; MAX],
    /// What is on its way: from the first index to the second.
    pub links: [[Link; MAX]; MAX],
    /// What may still go wrong.
    pub faults: Faults,
    /// Whether a bucket that was held was let go without a crash.
    pub dropped: bool,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A message is put on its way.
    Send {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// What it is for.
        body: Body,
    },
    /// The message at this place of a link arrives, and those before it never do.
    Deliver {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// Its place.
        place: usize,
        /// Whether a copy of it stays under way.
        copied: bool,
    },
    /// The copy of a message arrives.
    Repeat {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
    },
    /// The node stops without a word.
    Crash(usize),
    /// It starts again, under a new session: `Node::new`.
    Restart(usize),
    /// The first takes the second for dead: `Node::expire`.
    Bury(usize, usize),
    /// The first forgets a session of the second that has not proven itself: `Node::expire`.
    Forget(usize, usize),
    /// Listening ends by time: `Node::end_listening`.
    ListenEnd(usize),
    /// 2h have passed for a candidate: `Node::claim_what_is_clear`.
    Patience(usize),
    /// Nobody has claimed the bucket for long: `Node::update_orphans`.
    Adopt(usize),
    /// The operator drains the node: `Node::set_draining`.
    Drain(usize),
    /// The hold is over, or the drain: `Node::update_share`.
    Share(usize),
    /// The node that had another one's place is silent: `Node::return_if_alone`.
    Return(usize),
}

impl Node {
    /// `Node::new`.
    fn start(session: u8) -> Self {
        Self {
            up: true,
            session,
            listens: true,
            share: true,
            superseded: false,
            orphan: false,
            role: Role::Idle,
            peers: [Peer::default(); MAX],
        }
    }

    /// Whether the node owns the bucket or is handing it over.
    fn holds(&self) -> bool {
        self.up && matches!(self.role, Role::Owner | Role::Yielding(_))
    }
}

impl State {
    fn owners(&self) -> usize {
        self.nodes.iter().filter(|node| node.up && node.role == Role::Owner).count()
    }

    fn holders(&self) -> usize {
        self.nodes.iter().filter(|node| node.holds()).count()
    }

    /// Whether `node` waits for nothing from `peer`: that start of it that `node` knows of has
    /// ended, and it knows of no later one.
    fn gone(&self, node: usize, peer: usize) -> bool {
        let (known, now) = (&self.nodes[node].peers[peer], &self.nodes[peer]);
        let met = known.session == now.session || known.retired >> now.session & 1 == 1;
        !now.up || !met
    }

    /// Whether the taker of an open batch has not accepted it, and still can.
    fn open(&self, giver: usize) -> bool {
        let node = &self.nodes[giver];
        let Role::Yielding(taker) = node.role else { return false };
        let (known, heir) = (&node.peers[taker], &self.nodes[taker]);
        let back = &heir.peers[giver];
        let met = known.session == heir.session && back.session == node.session;
        node.up && heir.up && met && back.in_number != known.out_number
    }
}

impl Cluster {
    /// The state in which all nodes have just started.
    fn cold(&self) -> State {
        let mut nodes = [Node { up: false, ..Node::start(0) }; MAX];
        nodes[..self.count].fill(Node::start(1));
        let links = [[Link::default(); MAX]; MAX];
        State { nodes, links, faults: self.faults, dropped: false }
    }

    /// Lets one node take a step, and sets its mark if it has a new one.
    fn step<T>(&self, state: &mut State, me: usize, act: impl FnOnce(&mut Step<'_>) -> T) -> T {
        let mutant = self.mutant;
        let mut step = Step {
            node: &mut state.nodes[me],
            me,
            count: self.count,
            mutant,
            mark: false,
            challenged: None,
        };
        let result = act(&mut step);
        let (mark, challenged) = (step.mark, step.challenged);
        if let Some(other) = challenged {
            let peer = &mut state.nodes[other].peers[me];
            (peer.answers, peer.pending_answers) = (false, false);
            state.links[me][other].messages().for_each(|message| message.challenges = false);
            for message in state.links[other][me].messages() {
                if let Body::Join { answers, .. } = &mut message.body {
                    *answers = false;
                }
            }
        }
        if mark {
            for other in 0..self.count {
                state.nodes[other].peers[me].marked = false;
                state.links[me][other].messages().for_each(|message| message.marked = false);
                state.links[other][me].messages().for_each(|message| message.acks = false);
            }
        }
        result
    }

    /// Looks at one node without changing it.
    fn look<T>(&self, state: &State, me: usize, look: impl FnOnce(&Step<'_>) -> T) -> T {
        let mut node = state.nodes[me];
        let mutant = self.mutant;
        look(&Step {
            node: &mut node,
            me,
            count: self.count,
            mutant,
            mark: false,
            challenged: None,
        })
    }

    fn others(&self, me: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.count).filter(move |&slot| slot != me)
    }

    fn message(&self, state: &State, from: usize, to: usize, body: Body) -> Message {
        self.look(state, from, |step| step.message(to, body))
    }

    /// Whether a message would change the receiver if it arrived at once.
    fn tells(&self, state: &State, from: usize, to: usize, body: Body) -> bool {
        let message = self.message(state, from, to, body);
        let mut after = *state;
        self.step(&mut after, to, |step| step.receive(from, &message, false));
        after != *state
    }

    /// Whether listening may end by time: those that do not answer are gone.
    fn listened_enough(&self, state: &State, me: usize) -> bool {
        state.nodes[me].listens
            && self.look(state, me, |step| {
                let known = |slot| step.mutual(slot) && step.node.peers[slot].claims_heard;
                self.others(me).all(|slot| known(slot) || !state.nodes[slot].up)
            })
    }

    /// Whether a candidate waits only for those that are gone.
    fn waits_in_vain(&self, state: &State, me: usize) -> bool {
        state.nodes[me].role == Role::Candidate
            && self.look(state, me, |step| {
                step.unanswered().next().is_some()
                    && step.unanswered().all(|slot| state.gone(me, slot))
            })
    }

    /// The timers that may fire, and what operators may do, at one node that runs.
    fn timers(&self, state: &State, me: usize, actions: &mut Vec<Action>) {
        let node = &state.nodes[me];
        for slot in self.others(me) {
            let peer = &node.peers[slot];
            let ended = !state.nodes[slot].up || state.nodes[slot].session != peer.session;
            if peer.alive && ended {
                actions.push(Action::Bury(me, slot));
            }
            let ended = !state.nodes[slot].up || state.nodes[slot].session != peer.pending;
            if peer.pending != 0 && ended {
                actions.push(Action::Forget(me, slot));
            }
        }
        if self.listened_enough(state, me) {
            actions.push(Action::ListenEnd(me));
        }
        if self.waits_in_vain(state, me) {
            actions.push(Action::Patience(me));
        }
        if !node.share {
            actions.push(Action::Share(me));
        }
        if node.superseded {
            actions.push(Action::Return(me));
        }
        // Where all hear each other, what nobody was heard to claim for D + 2h nobody has.
        if state.holders() == 0 && self.look(state, me, |step| step.may_adopt()) {
            actions.push(Action::Adopt(me));
        }
    }

    /// Whether the bucket was let go by `action` though nobody crashed.
    fn drops(&self, before: &State, after: &State, action: Action) -> bool {
        let excused = before.nodes.iter().enumerate().any(|(slot, node)| match node.role {
            // The taker died with it.
            Role::Yielding(taker) => before.gone(slot, taker),
            _ => false,
        });
        let crash = matches!(action, Action::Crash(_));
        before.holders() > 0 && after.holders() == 0 && !crash && !excused
    }

    /// Where the cluster comes to rest without further faults, when each message arrives and each
    /// timer fires: a fair run. If it never does, where it is after many rounds.
    fn rest(&self, state: &State) -> State {
        let mut state = State { links: [[Link::default(); MAX]; MAX], ..*state };
        let mut quiet = false;
        for _ in 0..ROUNDS_MAX {
            let before = state;
            for me in (0..self.count).filter(|&me| before.nodes[me].up) {
                let mut timers = Vec::new();
                self.timers(&state, me, &mut timers);
                // A node waits long before it takes what others should.
                timers.retain(|timer| quiet || !matches!(timer, Action::Adopt(_)));
                if let Some(&timer) = timers.first() {
                    self.happen(&mut state, timer);
                }
                self.talk(&mut state, me);
            }
            if state == before && quiet {
                break;
            }
            quiet = state == before;
        }
        state
    }

    /// Lets a node say what it has to say, to all who run.
    fn talk(&self, state: &mut State, from: usize) {
        for to in self.others(from).filter(|&to| state.nodes[to].up).collect::<Vec<_>>() {
            let bodies: Vec<_> = self.look(state, from, |step| step.bodies(to).collect());
            for body in bodies {
                let message = self.message(state, from, to, body);
                self.step(state, to, |step| step.receive(from, &message, false));
            }
        }
    }

    /// Whether a fair run ends with one owner, and nobody who is still handing over.
    fn ends_with_one_owner(&self, state: &State) -> bool {
        let rest = self.rest(state);
        let nobody_runs = rest.nodes.iter().all(|node| !node.up);
        nobody_runs || rest.owners() == 1 && rest.holders() == 1
    }

    /// Changes `state` as `action` does.
    fn happen(&self, state: &mut State, action: Action) {
        match action {
            Action::Send { from, to, body } => {
                let message = self.message(state, from, to, body);
                state.links[from][to].send(message, self.capacity);
            }
            Action::Deliver { from, to, place, copied } => {
                let Some(message) = state.links[from][to].take(place) else { return };
                if copied {
                    state.faults.copies -= 1;
                    state.links[from][to].copy = Some(message);
                }
                if state.nodes[to].up {
                    self.step(state, to, |step| step.receive(from, &message, false));
                }
            }
            Action::Repeat { from, to } => {
                let Some(message) = state.links[from][to].copy.take() else { return };
                if state.nodes[to].up {
                    self.step(state, to, |step| step.receive(from, &message, true));
                }
            }
            Action::Crash(me) => {
                state.faults.crashes -= 1;
                state.nodes[me] = Node { up: false, ..Node::start(state.nodes[me].session) };
            }
            Action::Restart(me) => state.nodes[me] = Node::start(state.nodes[me].session + 1),
            Action::Bury(me, slot) => self.step(state, me, |step| {
                step.bury(slot);
                step.settle();
            }),
            Action::Forget(me, slot) => {
                let peer = &mut state.nodes[me].peers[slot];
                (peer.pending, peer.pending_answers) = (0, false);
            }
            Action::ListenEnd(me) => self.step(state, me, |step| {
                step.end_listening(true);
                step.settle();
            }),
            Action::Patience(me) => self.step(state, me, |step| step.claim_if_clear(true)),
            Action::Adopt(me) => self.step(state, me, |step| {
                step.node.orphan = true;
                step.settle();
            }),
            Action::Drain(me) => {
                state.faults.drains -= 1;
                self.step(state, me, |step| {
                    step.set_share(false);
                    step.settle();
                });
            }
            Action::Share(me) => self.step(state, me, |step| {
                step.set_share(true);
                step.settle();
            }),
            Action::Return(me) => state.nodes[me] = Node::start(state.nodes[me].session + 1),
        }
    }
}

/// More rounds than any cluster here takes to come to rest.
const ROUNDS_MAX: usize = 40;

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = self.cold();
        if self.settled {
            state = Self { mutant: None, ..*self }.rest(&state);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for me in 0..self.count {
            let node = &state.nodes[me];
            for to in self.others(me) {
                let link = &state.links[me][to];
                if node.up {
                    let bodies: Vec<_> = self.look(state, me, |step| step.bodies(to).collect());
                    let bodies = bodies
                        .into_iter()
                        .filter(|&body| !self.sparing || self.tells(state, me, to, body));
                    actions.extend(bodies.map(|body| Action::Send { from: me, to, body }));
                }
                for place in 0..link.queue.iter().flatten().count() {
                    let deliver = |copied| Action::Deliver { from: me, to, place, copied };
                    actions.push(deliver(false));
                    if state.faults.copies > 0 && link.copy.is_none() {
                        actions.push(deliver(true));
                    }
                }
                if link.copy.is_some() {
                    actions.push(Action::Repeat { from: me, to });
                }
            }
            if !node.up {
                actions.push(Action::Restart(me));
                continue;
            }
            self.timers(state, me, actions);
            if state.faults.crashes > 0 {
                actions.push(Action::Crash(me));
            }
            if state.faults.drains > 0 && node.share {
                actions.push(Action::Drain(me));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        self.happen(&mut state, action);
        state.dropped |= self.drops(last, &state, action);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("S1: never two owners", |_, state: &State| state.owners() < 2),
            Property::always("S2: a planned move has no gap", |_, state: &State| !state.dropped),
            Property::always("nobody owns what is on its way to its heir", |_, state: &State| {
                state.owners() == 0 || !(0..MAX).any(|giver| state.open(giver))
            }),
            Property::always(
                "without further faults it ends with one owner",
                |cluster: &Self, state| cluster.ends_with_one_owner(state),
            ),
            Property::sometimes("a batch is accepted", |_, state: &State| {
                let taken = |node: &Node| node.peers.iter().any(|peer| peer.in_number > 0);
                state.nodes.iter().any(|node| node.role == Role::Owner && taken(node))
            }),
            Property::sometimes("two are candidates", |_, state: &State| {
                let candidate = |node: &&Node| node.role == Role::Candidate;
                state.nodes.iter().filter(candidate).count() > 1
            }),
            Property::sometimes("a node that has restarted owns", |_, state: &State| {
                state.nodes.iter().any(|node| node.session > 1 && node.role == Role::Owner)
            }),
        ]
    }
}
