//! The cluster protocol of one node, as a pure state machine.
//!
//! Time and events go in, actions come out: [`Node::step`] owns no socket, timer, clock or thread.
//! There is no leader. Each node decides for itself which buckets it should serve, from what the
//! others say in their heartbeats, and conflicts resolve by fixed rules.
//!
//! # Always
//! - A bucket is *owned*, *granted* to another node, or neither; the table that is published says
//!   the same as the claims in the heartbeat that follows it.
//! - A grant is never withdrawn: it ends when the other node has taken over, has died or has
//!   started anew.
//! - A bucket that others may hold is claimed only after all that this node hears of have said,
//!   in answer, that they do not claim it, or after 2h without their answer.
//!
//! # Parts
//! ```text
//! receive    messages: sessions, sequence numbers, acknowledgements, relayed liveness
//! liveness   who is alive, who hears whom, the clique
//! targets    who should own each bucket
//! ownership  candidacy, claims, conflicts
//! transfer   planned moves
//! phase      listening, hold, drain, damping, fencing, configurations, a late loop
//! send       messages out, acknowledged leases
//! vote       who may serve where only a majority does
//! history    who had each bucket before, where packets are sent on
//! view       what is told to operators
//! ```
//!
//! # Ownership of one bucket
//! ```text
//!            target is me, nobody claims it          all others answered, or 2h
//!   Idle ------------------------------> Candidate ------------------------> Owner
//!    ^ ^ <------ somebody claims it ---------'                               | |  ^
//!    | '---------- the target claims it; fenced; late by more than D - h ----' |  |
//!    |                                                                         |  |
//!    '-- Yielding <---- the target is another node that hears me --------------'  |
//!     echoed, or it died                  transfer received, from any state ------'
//! ```

mod history;
mod liveness;
mod ownership;
mod peer;
mod phase;
mod receive;
mod send;
mod targets;
mod transfer;
mod view;
mod vote;

use std::net::IpAddr;
use std::sync::Arc;

use vipdp_core::bucket::{BUCKETS, BucketSet};
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::Holdings;
use vipdp_core::tiered::PreviousOwners;
use vipdp_core::wire::ethernet::MacAddr;

use super::auth::OpenError;
use super::config::{ClusterConfig, SlotSet, Timing};
use super::wire::Message;
use crate::jitter::Jitter;

use history::History;
use ownership::Cohort;
use peer::Peer;
use send::SentTimes;
use targets::Targets;

pub(super) use history::RETURN_NS;
pub use view::{Life, MemberView, State, View};

/// One node's part in the cluster protocol.
#[derive(Debug)]
pub struct Node {
    me: Slot,
    session: u64,
    config: Arc<ClusterConfig>,
    /// A newer configuration that is not activated yet.
    staged: Option<Arc<ClusterConfig>>,
    /// h, m and the rest, of `config`.
    timing: Timing,
    /// The latest time that was told.
    now: u64,
    /// When the next tick was asked for.
    deadline: u64,
    peers: Box<[Peer]>,
    /// Whom this node listens to.
    roster: SlotSet,
    /// A node that uses this node's slot.
    duplicate: Option<Duplicate>,
    own_mac: Option<MacAddr>,

    // What this node is up to: `phase`.
    listen_until: Option<u64>,
    /// Until when a cluster that starts as a whole waits for those that still listen.
    cold_until: u64,
    /// When the share may rise from 0 again.
    hold_until: Option<u64>,
    draining: bool,
    drained_at: u64,
    /// Whether the service is well, as this node tells the others.
    willing: bool,
    /// When a service that has come back while nobody's was well will be told of.
    recovered_until: Option<u64>,
    /// Whether those that are unwell serve all the same: nobody is well.
    all_down: bool,
    gateway: bool,
    /// Whether the NIC has a link.
    link: bool,
    fenced: bool,
    /// Whether an operator was told of it.
    fence_told: bool,
    /// The time up to which a majority was last found to know that this node was alive.
    majority_at: u64,
    /// Since when another node, or another start of this one, has this node's place.
    superseded: Option<u64>,
    share: u8,
    /// The time of the last defence of a VIP against a foreign claim.
    defended_at: Option<u64>,

    // Who should own and who owns: `liveness`, `targets`, `ownership`, `transfer`.
    clique: SlotSet,
    /// Since when this node is not in the clique.
    excluded_since: Option<u64>,
    targets: Targets,
    owned: BucketSet,
    /// All that is granted: the open batches of all peers.
    yielding: BucketSet,
    cohorts: Vec<Cohort>,
    /// The buckets that nobody has claimed for so long that this node may.
    orphans: BucketSet,
    /// The buckets that somebody claims, this node included.
    claimed: BucketSet,
    /// The first message that was sent after each bucket in `owned` or `yielding` was acquired.
    held_since: Box<[u64]>,
    /// Since when each bucket that is not in `claimed` is not.
    unclaimed_since: Box<[u64]>,
    /// Who claimed each bucket, where packets are sent on.
    history: History,
    /// Buckets whose flows may still be here, and until when, oldest first.
    lingering: Vec<(u64, BucketSet)>,
    /// Something changed that ownership depends on.
    unsettled: bool,

    // What was told to others: `send`.
    seq: u64,
    sent: SentTimes,
    jitter: Jitter,
    next_beat: u64,
    last_beat: u64,
    /// When a heartbeat was last sent, or heard, that asks all for an answer.
    last_poll: u64,
    /// A heartbeat is due before its time.
    beat_now: bool,
    last_join: u64,
    /// A join is due.
    join_now: bool,
    /// What is held of each bucket, as it was last published.
    holdings: Holdings,
    /// Something changed that `holdings` does not show yet.
    table_changed: bool,
}

/// A node that uses this node's slot.
#[derive(Clone, Copy, Debug)]
struct Duplicate {
    session: u64,
    /// Its highest sequence number.
    seq: u64,
    /// When it was last heard.
    heard_at: u64,
    reported: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A message that [`open`](super::auth::open) has let in.
    Message(Box<Message>),
    /// Whether the service is healthy and the data plane makes progress. A node that never heard
    /// of it takes itself for willing.
    Health {
        /// Whether it is.
        willing: bool,
    },
    /// Whether the operator wants this node to hand over all it has.
    Drain(bool),
    /// Whether the router is reached. It is not until this says so.
    Gateway(bool),
    /// Whether the NIC has a link. Until this is said, it has. Without one, nobody can be served, and nothing
    /// is heard of who serves instead.
    Link(bool),
    /// A new configuration was read. It is activated once all live peers have it too, and those
    /// that it removes have handed over what they have.
    Config(Arc<ClusterConfig>),
    /// This node's own MAC address on the segment.
    OwnMac(MacAddr),
    /// Somebody was heard, by ARP or NDP, to answer for a VIP with a MAC address of its own.
    WireClaim {
        /// The VIP.
        address: IpAddr,
        /// The sender's MAC address.
        mac: MacAddr,
    },
    /// The time of the last [`Output::NextDeadline`] has come, and all messages that have arrived
    /// by now have been fed in.
    Tick,
}

/// What to do now, in this order.
#[derive(Debug)]
pub enum Output {
    /// Publish this to the data plane.
    PublishTable {
        /// What this node holds of each bucket.
        holdings: Holdings,
        /// When the data plane stops accepting new flows, unless it is told anew.
        lease_until_ns: u64,
        /// Where packets are sent on: who has and had each bucket. Else nobody.
        owners: Arc<PreviousOwners>,
    },
    /// This node has become the owner of these. They are in the table that follows.
    Claim(BucketSet),
    /// This node is owner of these no more, and has not handed them over.
    Release(BucketSet),
    /// Seal the message and send it.
    Send {
        /// To whom.
        to: Destination,
        /// The message.
        message: Box<Message>,
    },
    /// Others serve these from now on; flows that began here stay.
    LingerStart(BucketSet),
    /// No flow of these is kept any more.
    LingerEnd(BucketSet),
    /// Announce this VIP as ours, since somebody else does (RFC 5227, section 2.4).
    Defend(IpAddr),
    /// The message was not taken, and changed nothing but for what the reason says.
    Refused(Slot, OpenError),
    /// Something that an operator should know.
    Alarm(Alarm),
    /// Call [`Node::step`] with [`Input::Tick`] at this time, or at once when it has passed. It
    /// replaces the one before, and is the last output of every step.
    NextDeadline(u64),
}

/// To whom a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To all members.
    Multicast,
    /// To one. Others may hear it: it says whom it is for.
    Slot(Slot),
}

/// Something that an operator should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Another node uses this node's slot.
    DuplicateSlot {
        /// The other node's session.
        session: u64,
    },
    /// The others take another session for the one of this slot: this node serves nothing. It
    /// tries again, as if it had just started, once it has not heard the other one for the hold.
    Superseded,
    /// A peer runs a configuration of the same generation with other contents.
    ConfigMismatch {
        /// The peer.
        slot: Slot,
    },
    /// Somebody who is no member answers for a VIP.
    ForeignClaim {
        /// The VIP.
        address: IpAddr,
        /// Its MAC address.
        mac: MacAddr,
    },
    /// The control thread stood still so long that the lease ran out: all buckets were released.
    Late {
        /// How late it was.
        late_ns: u64,
    },
    /// This node may be cut off from the others, and serves nothing, or does so again.
    Fenced(bool),
    /// A configuration was activated.
    Activated {
        /// Its generation.
        generation: u32,
    },
}

impl Node {
    /// A node that has just started, and listens.
    ///
    /// `session` is random, one per start (0 is taken for 1); `seed` spreads its heartbeats over
    /// time. If `me` is no member, or a tombstone, the node listens to the others and owns nothing.
    pub fn new(config: Arc<ClusterConfig>, me: Slot, session: u64, seed: u64, now_ns: u64) -> Self {
        let timing = config.timing();
        let window = timing.detection_ns() + timing.heartbeat_ns;
        let mut node = Self {
            me,
            session: session.max(1),
            staged: None,
            timing,
            now: now_ns,
            deadline: now_ns,
            peers: (0..SLOTS).map(|_| Peer::default()).collect(),
            roster: SlotSet::EMPTY,
            duplicate: None,
            own_mac: None,
            listen_until: Some(now_ns + window),
            cold_until: now_ns + 2 * window,
            hold_until: None,
            draining: false,
            drained_at: 0,
            willing: true,
            recovered_until: None,
            all_down: false,
            gateway: false,
            link: true,
            fenced: false,
            fence_told: false,
            majority_at: now_ns,
            superseded: None,
            share: 0,
            defended_at: None,
            clique: SlotSet::EMPTY,
            excluded_since: None,
            targets: Targets::new(),
            owned: BucketSet::EMPTY,
            yielding: BucketSet::EMPTY,
            cohorts: Vec::new(),
            orphans: BucketSet::EMPTY,
            claimed: BucketSet::EMPTY,
            held_since: vec![0; BUCKETS].into(),
            unclaimed_since: vec![now_ns; BUCKETS].into(),
            history: History::default(),
            lingering: Vec::new(),
            unsettled: true,
            seq: 0,
            sent: SentTimes::new(),
            jitter: Jitter::new(seed ^ session),
            next_beat: now_ns,
            last_beat: 0,
            last_poll: 0,
            beat_now: false,
            last_join: 0,
            join_now: false,
            holdings: Holdings::none(),
            table_changed: true,
            config,
        };
        node.update_roster();
        node
    }

    /// Takes `input` in at the time `now_ns` and appends what to do to `out`.
    ///
    /// Time is monotonic, in nanoseconds; a time before the last one is taken for the last one.
    /// After waking up, feed in all messages that have arrived before the tick: a node that has
    /// slept does not take others for dead whose heartbeats are waiting.
    pub fn step(&mut self, now_ns: u64, input: Input, out: &mut Vec<Output>) {
        self.now = self.now.max(now_ns);
        self.doubt_if_late(out);
        // Before what was heard: a lease that has run out does not come back to life.
        self.fence_if_voted_out(out);
        let ticks = matches!(input, Input::Tick);
        match input {
            Input::Message(message) => self.receive(&message, out),
            Input::Health { willing } => self.set_well(willing),
            Input::Drain(drain) => self.set_draining(drain),
            Input::Gateway(reached) => self.set_gateway(reached),
            Input::Link(up) => self.set_link(up),
            Input::Config(config) => self.stage(config),
            Input::OwnMac(mac) => self.own_mac = Some(mac),
            Input::WireClaim { address, mac } => self.hear_wire_claim(address, mac, out),
            Input::Tick => self.expire(out),
        }
        if ticks || self.unsettled || !self.cohorts.is_empty() {
            self.settle(ticks, out);
        }
        let beats = ticks && self.beat_is_due();
        // The table first: what is said to others is true by the time they hear it.
        if self.table_changed || beats {
            self.publish(out);
        }
        self.send_new(out);
        if beats {
            self.send_beat(out);
        }
        if ticks {
            self.send_join_if_due(out);
        }
        self.promise(ticks, out);
    }

    /// Brings phase, clique, targets and ownership up to date with what was heard. What depends on
    /// time having passed is left to a tick.
    fn settle(&mut self, ticks: bool, out: &mut Vec<Output>) {
        self.unsettled = false;
        self.activate_if_agreed(out);
        if ticks {
            self.return_if_alone();
        }
        self.end_listening(ticks);
        self.fence_if_cut_off(ticks, out);
        self.update_all_down(ticks);
        self.update_share(ticks);
        self.update_clique();
        self.update_support(ticks);
        self.update_claimed();
        if self.serves() {
            self.update_targets();
            self.resolve(ticks, out);
        }
        if ticks {
            self.end_lingering(out);
        }
    }

    /// Whether this node may own anything: it is a member, and neither listens nor is fenced.
    fn serves(&self) -> bool {
        self.config.present().contains(self.me)
            && self.listen_until.is_none()
            && !self.fenced
            && self.superseded.is_none()
    }

    /// D, in nanoseconds.
    fn detection_ns(&self) -> u64 {
        self.timing.detection_ns()
    }

    /// All that this node listens to.
    fn others(&self) -> impl Iterator<Item = Slot> + Clone + use<> {
        self.roster.iter()
    }

    /// Works out whom this node listens to: the other members of the configuration that it runs or
    /// has staged.
    fn update_roster(&mut self) {
        let staged = self.staged.as_ref().map_or(SlotSet::EMPTY, |staged| staged.present());
        self.roster = self.config.present().or(staged);
        self.roster.remove(self.me);
    }

    fn peer(&self, slot: Slot) -> &Peer {
        &self.peers[slot.index()]
    }

    fn peer_mut(&mut self, slot: Slot) -> &mut Peer {
        &mut self.peers[slot.index()]
    }
}

#[cfg(test)]
mod tests;
