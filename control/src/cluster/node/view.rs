//! What is told to operators.

use vipdp_core::bucket::Bucket;
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::wire::ethernet::MacAddr;

use super::Node;
use crate::cluster::config::{ConfigId, SlotSet};
use crate::cluster::wire::NodeFlags;

/// What a node knows of the cluster and of itself.
#[derive(Clone, Debug)]
pub struct View {
    /// What this node is up to.
    pub state: State,
    /// This node's slot.
    pub slot: Slot,
    /// The configuration that it runs.
    pub config: ConfigId,
    /// The generation that it has staged.
    pub staged: Option<u32>,
    /// When its lease ends, if it stands still from now on.
    pub lease_until_ns: u64,
    /// Whether those serve that are unwell: nobody is well.
    pub all_down: bool,
    /// The members without tombstones, this node among them, in ascending order of their slots.
    pub members: Vec<MemberView>,
    /// Who serves each bucket, as far as this node has heard; `None` for nobody.
    pub owners: Vec<Option<Slot>>,
}

/// What a node is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has just started, or was asleep, and finds out who owns what.
    Listen,
    /// It takes its share, or will after the hold.
    Active,
    /// It may be cut off, and serves nothing.
    Fenced,
    /// It hands over, or has handed over, all it has.
    Draining,
}

/// What a node knows of a member.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Its slot.
    pub slot: Slot,
    /// Whether it is alive.
    pub life: Life,
    /// What it is up to, as far as was heard.
    pub state: State,
    /// Whether its service is healthy.
    pub willing: bool,
    /// Its session.
    pub session: Option<u64>,
    /// How long ago it was heard directly, in nanoseconds; `None` if it never was.
    pub heard_ago_ns: Option<u64>,
    /// What part of its buckets it takes: 0 none, 255 all.
    pub share: u8,
    /// Its own MAC address.
    pub mac: Option<MacAddr>,
    /// How many buckets it answers for.
    pub claims: usize,
    /// How many buckets this node is handing to it.
    pub granted: usize,
    /// The configuration that it runs.
    pub config: ConfigId,
}

/// Whether a member is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is this node.
    Own,
    /// It was heard within D.
    Heard,
    /// Others hear it.
    Relayed,
    /// Nobody has heard it for D.
    Dead,
    /// It never was heard.
    NeverHeard,
}

impl Life {
    /// Its name in the status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Heard => "heard",
            Self::Relayed => "relayed",
            Self::Dead => "dead",
            Self::NeverHeard => "never-heard",
        }
    }
}

impl State {
    /// Its name in the status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Active => "active",
            Self::Fenced => "fenced",
            Self::Draining => "draining",
        }
    }

    fn of_flags(flags: NodeFlags) -> Self {
        if flags.contains(NodeFlags::FENCED) {
            Self::Fenced
        } else if flags.contains(NodeFlags::LISTEN) {
            Self::Listen
        } else if flags.contains(NodeFlags::DRAINING) {
            Self::Draining
        } else {
            Self::Active
        }
    }
}

impl Node {
    /// What is told to operators.
    pub fn view(&self) -> View {
        let members = self.config.present();
        View {
            state: self.state(),
            slot: self.me,
            config: self.config.id(),
            staged: self.staged.as_ref().map(|staged| staged.id().generation),
            lease_until_ns: self.lease_until(),
            all_down: self.all_down,
            members: members.iter().map(|slot| self.member_view(slot)).collect(),
            owners: Bucket::all().map(|bucket| self.owner(bucket)).collect(),
        }
    }

    /// This node's slot.
    pub fn slot(&self) -> Slot {
        self.me
    }

    /// What part of its buckets this node takes: 0 none, 255 all.
    pub fn share(&self) -> u8 {
        self.share
    }

    /// What this node is up to.
    pub fn state(&self) -> State {
        State::of_flags(self.own_flags())
    }

    /// Whether this node is to have routes to the VIPs lead to it, where it announces such: it
    /// serves, whatever share of the buckets it has.
    pub fn announces(&self) -> bool {
        self.serves() && self.is_willing() && !self.draining && !self.is_to_be_removed()
    }

    /// Whether this node serves, and only is to be emptied: where it announces routes to the VIPs, it
    /// takes leave of the network in order.
    pub fn leaves(&self) -> bool {
        self.serves() && self.is_willing() && !self.announces()
    }

    /// Whether this node finds out who is there, and would serve: it has just started, or its loop was
    /// late.
    pub fn listens(&self) -> bool {
        self.state() == State::Listen && self.is_willing() && !self.draining
    }

    /// Whether this node answers for any bucket: one that drains may stop once it does not.
    pub fn holds_any(&self) -> bool {
        !self.owned.is_empty() || !self.yielding.is_empty()
    }

    /// The members that are alive, this node among them.
    pub fn alive(&self) -> SlotSet {
        let others = self.others().filter(|&slot| self.peer(slot).alive);
        others.chain([self.me]).collect()
    }

    /// The members' own MAC addresses, by slot, as far as they were told.
    pub fn peer_macs(&self) -> [Option<MacAddr>; SLOTS] {
        let mut macs = [None; SLOTS];
        for slot in self.others() {
            macs[slot.index()] = self.peer(slot).mac;
        }
        macs
    }

    /// Who serves `bucket`: this node, or the best placed of those that claim it.
    fn owner(&self, bucket: Bucket) -> Option<Slot> {
        if self.owned.contains(bucket) {
            return Some(self.me);
        }
        let claims = |slot: &Slot| {
            let peer = self.peer(*slot);
            *slot != self.me && peer.alive && peer.claims.contains(bucket)
        };
        let claimant = self.config.assignment().preference(bucket).iter().copied().find(claims);
        claimant.or_else(|| self.yielding.contains(bucket).then_some(self.me))
    }

    fn member_view(&self, slot: Slot) -> MemberView {
        if slot == self.me {
            return self.own_view();
        }
        let peer = self.peer(slot);
        let heard_ago = (peer.heard_seq > 0).then(|| self.now.saturating_sub(peer.heard_at));
        let life = match (peer.alive, heard_ago) {
            (true, Some(ago)) if ago < self.detection_ns() => Life::Heard,
            (true, _) => Life::Relayed,
            (false, Some(_)) => Life::Dead,
            (false, None) => Life::NeverHeard,
        };
        MemberView {
            slot,
            life,
            state: State::of_flags(peer.flags),
            willing: !peer.flags.contains(NodeFlags::UNWILLING),
            session: peer.session,
            heard_ago_ns: heard_ago,
            share: peer.share,
            mac: peer.mac,
            claims: peer.claims.len(),
            granted: peer.out_batch.as_ref().map_or(0, |batch| batch.len()),
            config: peer.config,
        }
    }

    fn own_view(&self) -> MemberView {
        MemberView {
            slot: self.me,
            life: Life::Own,
            state: self.state(),
            willing: self.willing,
            session: Some(self.session),
            heard_ago_ns: Some(0),
            share: self.share,
            mac: self.own_mac,
            claims: self.owned.len() + self.yielding.len(),
            granted: 0,
            config: self.config.id(),
        }
    }
}
