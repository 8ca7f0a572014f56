//! The rules of one node for one bucket, guard by guard as `vipdp::cluster::node` has them.
//!
//! Each function stands for the one that its first line names. What is left out, and why, says the
//! crate's documentation.

use crate::message::{Body, Message};
use crate::{MAX, Mutant, Set, contains};

/// What a node has of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Nothing.
    Idle,
    /// It has asked the others whether it may have it.
    Candidate,
    /// It serves it.
    Owner,
    /// It has handed it to this node, which has not confirmed it.
    Yielding(usize),
}

/// One node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Whether it runs.
    pub up: bool,
    /// The number of its start, from 1.
    pub session: u8,
    /// Whether it still finds out who owns what.
    pub listens: bool,
    /// Whether it may get what others have: it neither drains nor holds back.
    pub share: bool,
    /// Whether the others take another of its starts for the present one.
    pub superseded: bool,
    /// Whether nobody has claimed the bucket for so long that this node may.
    pub orphan: bool,
    /// What it has of the bucket.
    pub role: Role,
    /// What it knows of the others.
    pub peers: [Peer; MAX],
}

/// What a node knows of another: `peer::Peer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its session, once proven; 0 for none.
    pub session: u8,
    /// Its sessions that have ended.
    pub retired: Set,
    /// A session that was heard and is not proven; 0 for none.
    pub pending: u8,
    /// Whether a message of its pending session was heard that it sent since it challenged this
    /// node: since it first heard this node's present session.
    pub pending_answers: bool,
    /// The same of its proven session.
    pub answers: bool,
    /// Whether it is alive.
    pub alive: bool,
    /// Whether it said that it listens.
    pub listens: bool,
    /// Whether it said that it takes its share.
    pub share: bool,
    /// Whether it said that it is candidate.
    pub candidate: bool,
    /// Whom it said it hears.
    pub hears: Set,
    /// Whether its last message named this node's session.
    pub knows_me: bool,
    /// Whether any ever did.
    pub knew_me: bool,
    /// Whether it claims the bucket.
    pub claims: bool,
    /// Whether it has told.
    pub claims_heard: bool,
    /// Whether it had heard this node's mark when it told. The mark is the first message after
    /// this node became candidate, or owner.
    pub claims_ack: bool,
    /// Whether it was handing over when it told.
    pub hands_over: bool,
    /// Whether its mark was heard.
    pub marked: bool,
    /// The last batch handed to it.
    pub out_number: u8,
    /// The last batch accepted from it.
    pub in_number: u8,
}

impl Peer {
    /// `Peer::begin`.
    fn begin(&mut self, session: u8) {
        let retired = self.retired | if self.session == 0 { 0 } else { 1 << self.session };
        *self = Self { session, retired, ..Self::default() };
    }

    /// `Peer::bury`.
    fn bury(&mut self) {
        (self.alive, self.claims, self.claims_heard, self.candidate) = (false, false, false, false);
    }
}

/// Why a node may own the bucket, the best reason first: `targets::Tier`. `Draining`, which is to
/// `Waiting` what that is to `Eligible`, is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Eligible,
    Waiting,
}

/// A node's step, with all that the rules look at.
pub struct Step<'a> {
    /// The node.
    pub node: &'a mut Node,
    /// Its number, which is its slot and its place in the bucket's list.
    pub me: usize,
    /// How many nodes there are.
    pub count: usize,
    /// The rule that is broken.
    pub mutant: Option<Mutant>,
    /// The messages that the node sends from now on are told from those before.
    pub mark: bool,
    /// The same for those to one node, which has to prove its session by one of them.
    pub challenged: Option<usize>,
}

impl Step<'_> {
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.count).filter(move |&slot| slot != me)
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// `Node::receive`. `repeated`: the sequence number is not above the last.
    pub fn receive(&mut self, from: usize, message: &Message, repeated: bool) {
        if !self.check_session(from, message, repeated) {
            return;
        }
        self.hear_of_itself(from, message);
        // One that is candidate no more may be owner instead, and only a heartbeat tells.
        if matches!(message.body, Body::Heartbeat { .. }) || self.is(Mutant::CandidacyForgotten) {
            self.node.peers[from].candidate = message.candidate;
        }
        self.hear_of_me(from, message);
        match message.body {
            Body::Heartbeat { claims, hands_over } => {
                // `Node::hear_claims`.
                let peer = &mut self.node.peers[from];
                (peer.claims, peer.claims_heard, peer.hands_over) = (claims, true, hands_over);
                peer.claims_ack = peer.knows_me && message.acks;
            }
            Body::Transfer { number } => self.accept(from, number),
            Body::Candidate | Body::Join { .. } => {}
        }
        self.settle();
    }

    /// `Node::check_session`.
    fn check_session(&mut self, from: usize, message: &Message, repeated: bool) -> bool {
        let mine = self.node.session;
        let peer = &mut self.node.peers[from];
        if peer.session == message.session {
            return !repeated || self.is(Mutant::RepeatedAccepted);
        }
        if contains(peer.retired, message.session.into()) {
            return false;
        }
        // `Node::hear_pending`.
        let known = peer.pending == message.session;
        if known {
            peer.pending_answers |= message.challenges;
        } else {
            (peer.pending, peer.pending_answers) = (message.session, message.challenges);
            self.challenged = Some(from);
        }
        let proves = match message.body {
            Body::Join { names, answers } => known && names == mine && answers,
            _ => false,
        };
        if !proves {
            return false;
        }
        self.bury(from);
        self.node.peers[from].begin(message.session);
        true
    }

    /// `Node::hear_of_itself`.
    fn hear_of_itself(&mut self, from: usize, message: &Message) {
        let peer = &mut self.node.peers[from];
        peer.alive = true;
        (peer.listens, peer.share) = (message.listens, message.share);
        peer.candidate |= message.candidate;
        peer.hears = message.hears;
        peer.marked |= message.marked;
        peer.answers |= message.challenges;
    }

    /// `Node::hear_of_me`.
    fn hear_of_me(&mut self, from: usize, message: &Message) {
        let mine = self.node.session;
        let peer = &mut self.node.peers[from];
        peer.knows_me = message.tag == mine;
        if !peer.knows_me {
            if peer.knew_me && message.tag != 0 {
                self.give_way();
            }
            return;
        }
        peer.knew_me = true;
        let echoed = message.accepted == peer.out_number;
        if self.node.role == Role::Yielding(from) && echoed {
            self.node.role = Role::Idle;
        }
    }

    /// `Node::give_way`.
    fn give_way(&mut self) {
        self.node.superseded = true;
        self.node.role = Role::Idle;
    }

    /// `Node::bury` and `Node::close_batch`: its claims are void, and so is what was handed to it.
    pub fn bury(&mut self, slot: usize) {
        self.node.peers[slot].bury();
        if self.node.role == Role::Yielding(slot) {
            self.node.role = Role::Idle;
        }
    }

    /// `Node::serves`.
    pub fn serves(&self) -> bool {
        !self.node.listens && !self.node.superseded
    }

    /// `Node::hears`.
    fn hears(&self, slot: usize) -> bool {
        self.node.peers[slot].alive
    }

    /// `Node::mutual`.
    pub fn mutual(&self, slot: usize) -> bool {
        let peer = &self.node.peers[slot];
        contains(peer.hears, self.me) && peer.knows_me && self.hears(slot)
    }

    /// `Node::update_clique`.
    fn clique(&self) -> Set {
        let mut rows: [Set; MAX] = [0; MAX];
        let mut live: Set = 0;
        for slot in self.others() {
            let peer = &self.node.peers[slot];
            if peer.alive && !peer.listens {
                live |= 1 << slot;
                rows[slot] = if peer.knows_me { peer.hears } else { peer.hears & !(1 << self.me) };
            }
        }
        rows[self.me] = live;
        live |= 1 << self.me;
        let mutual = |a: usize, b: usize| contains(rows[a], b) && contains(rows[b], a);
        let degree = |slot| {
            let heard = |&other: &usize| contains(live, other) && mutual(slot, other);
            (0..self.count).filter(heard).count()
        };
        let mut order: Vec<usize> = (0..self.count).filter(|&slot| contains(live, slot)).collect();
        order.sort_by_key(|&slot| self.count - degree(slot));
        let mut clique: Set = 0;
        for slot in order {
            if (0..self.count).all(|other| !contains(clique, other) || mutual(slot, other)) {
                clique |= 1 << slot;
            }
        }
        clique
    }

    /// `Standing::tier`.
    fn tier(&self, slot: usize) -> Option<Tier> {
        let (listens, share) = if slot == self.me {
            (!self.serves(), self.node.share)
        } else {
            (self.node.peers[slot].listens, self.node.peers[slot].share)
        };
        (!listens).then_some(if share { Tier::Eligible } else { Tier::Waiting })
    }

    /// `Node::target`: the list is that of the slots.
    fn target(&self) -> Option<(usize, Tier)> {
        let clique = self.clique();
        let tiers = (0..self.count).filter(|&slot| contains(clique, slot));
        tiers.filter_map(|slot| Some((slot, self.tier(slot)?))).min_by_key(|&(slot, t)| (t, slot))
    }

    /// `Node::comes_before_me`, with `Node::preference_key`.
    fn comes_before_me(&self, slot: usize) -> bool {
        let key = |slot| (self.tier(slot).is_none(), self.tier(slot), slot);
        key(slot) < key(self.me)
    }

    /// `Node::claims_that_bind`.
    fn claims_that_bind(&self) -> bool {
        let near = self.clique() | 1 << self.me;
        self.others().any(|slot| {
            let peer = &self.node.peers[slot];
            self.hears(slot) && peer.hears & near != 0 && peer.claims
        })
    }

    /// Whether the node answers for the bucket: what `send_beat` puts into its claims.
    pub fn claims(&self) -> bool {
        matches!(self.node.role, Role::Owner | Role::Yielding(_))
    }

    /// `Node::settle`, and `Node::resolve`.
    pub fn settle(&mut self) {
        self.end_listening(false);
        if !self.serves() {
            return;
        }
        self.yield_to_claims();
        self.grant_to_target();
        let heard = self.claims_that_bind();
        self.end_candidacy(heard);
        self.become_candidate(heard);
        self.claim_if_clear(false);
    }

    /// `Node::end_listening`, with `Node::hold_if_anybody_claims`. `late`: the time is over.
    pub fn end_listening(&mut self, late: bool) {
        let known = |slot| self.mutual(slot) && self.node.peers[slot].claims_heard;
        if self.node.listens && (late || self.others().all(known)) {
            self.node.listens = false;
            if self.claims_that_bind() || self.claims() {
                self.node.share = false;
            }
        }
    }

    /// `Node::close_claimed_batches` and `Node::yield_to_claims`: both end in Idle here, but the
    /// former only for the taker's claim.
    fn yield_to_claims(&mut self) {
        for slot in self.others() {
            if !self.hears(slot) || !self.node.peers[slot].claims || !self.knows_and_claims(slot) {
                continue;
            }
            let comes_first = self.mutual(slot) && self.comes_before_me(slot);
            if self.node.role == Role::Yielding(slot)
                || self.node.role == Role::Owner && comes_first
            {
                self.node.role = Role::Idle;
            }
        }
    }

    /// `Node::knows_and_claims`.
    fn knows_and_claims(&self, slot: usize) -> bool {
        let peer = &self.node.peers[slot];
        peer.claims_ack && !peer.hands_over
    }

    /// `Node::grant_to_targets`, with `heir`, `can_grant_to` and `open_batch`.
    fn grant_to_target(&mut self) {
        let target = self.target();
        if self.is(Mutant::Revocable)
            && matches!(self.node.role, Role::Yielding(_))
            && target.is_some_and(|(slot, _)| slot == self.me)
        {
            self.node.role = Role::Owner;
        }
        if self.node.role != Role::Owner || !contains(self.clique(), self.me) {
            return;
        }
        let Some((heir, Tier::Eligible)) = target else { return };
        if heir != self.me && self.mutual(heir) {
            let number = &mut self.node.peers[heir].out_number;
            *number = *number % 3 + 1;
            self.node.role =
                if self.is(Mutant::EchoIgnored) { Role::Idle } else { Role::Yielding(heir) };
        }
    }

    /// `Node::accept`.
    fn accept(&mut self, from: usize, number: u8) {
        let serves = self.serves();
        let peer = &mut self.node.peers[from];
        if !serves || number == 0 || !peer.knows_me || number == peer.in_number {
            return;
        }
        peer.in_number = number;
        // What this node is still handing over has come round: its own taker has accepted it.
        let passed_on = matches!(self.node.role, Role::Yielding(_));
        if self.node.role != Role::Owner && !(passed_on && self.is(Mutant::RoundLost)) {
            self.own();
        }
    }

    /// `Node::update_share`: whether the node takes its share. A candidate whose rank changes by it
    /// asks anew: what the others have answered, they have answered to its former rank.
    pub fn set_share(&mut self, share: bool) {
        self.node.share = share;
        if self.node.role == Role::Candidate && !self.is(Mutant::RankNotTold) {
            self.set_mark();
        }
    }

    /// `Node::end_candidacy`.
    fn end_candidacy(&mut self, heard: bool) {
        if heard || self.claims() {
            self.node.orphan = false;
        }
        let wanted = self.target_is_me() || self.node.orphan;
        if self.node.role == Role::Candidate && (heard || !wanted) {
            self.node.role = Role::Idle;
        }
    }

    fn target_is_me(&self) -> bool {
        self.target().is_some_and(|(slot, _)| slot == self.me)
    }

    /// `Node::become_candidate`.
    fn become_candidate(&mut self, heard: bool) {
        if self.node.role == Role::Idle && !heard && (self.target_is_me() || self.node.orphan) {
            self.node.role = Role::Candidate;
            self.set_mark();
        }
    }

    /// `Node::update_orphans`: whether the node may take what nobody claims.
    pub fn may_adopt(&self) -> bool {
        self.serves()
            && !self.node.orphan
            && !self.claims()
            && !self.claims_that_bind()
            && contains(self.clique(), self.me)
            && self.target().is_none_or(|(slot, _)| slot != self.me && self.hears(slot))
    }

    /// The others whose answer a candidate has still to wait for: the barrier of
    /// `Node::claim_what_is_clear`.
    pub fn unanswered(&self) -> impl Iterator<Item = usize> {
        let clique = self.clique();
        self.others().filter(move |&slot| {
            let peer = &self.node.peers[slot];
            let counts = (contains(clique, slot) || self.hears(slot)) && peer.alive;
            counts && !(peer.claims_heard && peer.claims_ack)
        })
    }

    /// `Node::claim_what_is_clear`, with `leave_to_better`. `late`: 2h are over.
    pub fn claim_if_clear(&mut self, late: bool) {
        if self.node.role != Role::Candidate {
            return;
        }
        let clear = late || self.is(Mutant::NoBarrier) || self.unanswered().next().is_none();
        let better = |slot: usize| {
            self.hears(slot) && self.node.peers[slot].candidate && self.comes_before_me(slot)
        };
        if clear && (self.is(Mutant::RankIgnored) || !self.others().any(better)) {
            self.own();
        }
    }

    /// `Node::own`.
    fn own(&mut self) {
        self.node.role = Role::Owner;
        self.node.orphan = false;
        self.set_mark();
    }

    /// Tells what is sent from now on from what was sent before: `Cohort::seq`, `held_since`.
    fn set_mark(&mut self) {
        self.mark = true;
        for peer in &mut self.node.peers {
            peer.claims_ack = false;
        }
    }

    /// `Node::send`: what the node says to `to`, with `body`.
    pub fn message(&self, to: usize, body: Body) -> Message {
        let peer = &self.node.peers[to];
        let hears = self.others().filter(|&slot| self.hears(slot));
        Message {
            session: self.node.session,
            body,
            listens: !self.serves(),
            share: self.node.share && self.serves(),
            candidate: self.node.role == Role::Candidate,
            hears: hears.fold(0, |set, slot| set | 1 << slot),
            tag: peer.session,
            acks: peer.marked,
            marked: true,
            challenges: true,
            accepted: peer.in_number,
        }
    }

    /// The bodies of the messages that the node has to send to `to` now: a heartbeat, and what
    /// `send_new` and `send_join_if_due` add.
    pub fn bodies(&self, to: usize) -> impl Iterator<Item = Body> {
        let peer = &self.node.peers[to];
        let hands_over = matches!(self.node.role, Role::Yielding(_));
        let heartbeat = Body::Heartbeat { claims: self.claims(), hands_over };
        let candidate = (self.node.role == Role::Candidate).then_some(Body::Candidate);
        let transfer = self.node.role == Role::Yielding(to);
        let transfer = transfer.then_some(Body::Transfer { number: peer.out_number });
        let (names, answers) = if peer.pending == 0 {
            (peer.session, peer.answers)
        } else {
            (peer.pending, peer.pending_answers)
        };
        let due = self
            .others()
            .map(|slot| &self.node.peers[slot])
            .any(|other| other.pending != 0 || other.alive && !other.knows_me);
        let join = (due && !self.node.superseded).then_some(Body::Join { names, answers });
        [Some(heartbeat), candidate, transfer, join].into_iter().flatten()
    }
}
