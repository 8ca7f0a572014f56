//! What is told to operators, in the terms of a node with heartbeats.

use vipdp_core::bucket::Bucket;
use vipdp_core::slot::Slot;

use super::{MemberMacs, WireNode};
use crate::cluster::config::{ConfigId, SlotSet};
use crate::cluster::node::{Life, MemberView, State, View};

impl WireNode {
    /// What is told to operators. Of the others only their claims are known: what else there is to a
    /// member reads as of one that never said it.
    pub fn view(&self) -> View {
        let owners: Vec<_> = Bucket::all().map(|number| self.owner(number)).collect();
        let members = self.config.present();
        View {
            state: self.state(),
            slot: self.me,
            config: self.config.id(),
            staged: None,
            lease_until_ns: self.lease_until(),
            all_down: false,
            members: members.iter().map(|slot| self.member_view(slot, &owners)).collect(),
            owners,
        }
    }

    /// What this node is up to.
    pub fn state(&self) -> State {
        if self.is_fenced() {
            State::Fenced
        } else if self.listen_until.is_some() {
            State::Listen
        } else if self.draining {
            State::Draining
        } else {
            State::Active
        }
    }

    /// The members that were heard to claim anything within T, and this node.
    pub fn alive(&self) -> SlotSet {
        let heard = |slot: &Slot| {
            *slot == self.me
                || self.heard_at[slot.index()].is_some_and(|at| self.now < at + self.patience())
        };
        self.config.present().iter().filter(heard).collect()
    }

    /// The other members' own MAC addresses, by slot.
    pub fn peer_macs(&self) -> MemberMacs {
        let mut macs = *self.macs;
        macs[self.me.index()] = None;
        macs
    }

    fn member_view(&self, slot: Slot, owners: &[Option<Slot>]) -> MemberView {
        let own = slot == self.me;
        let heard_ago = self.heard_at[slot.index()].map(|at| self.now - at);
        let claims = owners.iter().filter(|&&owner| owner == Some(slot)).count();
        let (life, share) = match heard_ago {
            _ if own => (Life::Own, self.own_share()),
            Some(ago) if ago < self.patience() => (Life::Heard, u8::MAX),
            Some(_) => (Life::Dead, 0),
            None => (Life::NeverHeard, 0),
        };
        MemberView {
            slot,
            life,
            state: if own { self.state() } else { State::Active },
            willing: !own || self.willing,
            session: None,
            heard_ago_ns: if own { Some(0) } else { heard_ago },
            share,
            mac: self.macs[slot.index()],
            claims,
            granted: 0,
            config: if own { self.config.id() } else { ConfigId::default() },
        }
    }

    fn own_share(&self) -> u8 {
        if self.serves() { u8::MAX } else { 0 }
    }
}
