//! The protocol of one node with `claims = "wire"`, as a pure state machine: no heartbeats, only
//! what everybody on the segment hears, and timeouts.
//!
//! Whoever owns a next-hop address says so to the whole segment, by ARP or NDP, once per heartbeat
//! interval h and a little more often. Whoever hears it and comes after the owner on the address's
//! list leaves it alone; whoever does not hear it for long enough takes it:
//!
//! ```text
//!              tier k heard no better tier for k T          T = D = m h
//!   Idle ------------------------------------------------> Owner --.  repeats its claim each h,
//!    ^                                                       |     |  and at once when a worse
//!    '-- a better tier claims it; drained; unwilling; -------'  <--'  tier claims the address
//!        cut off; late by more than D - h
//! ```
//!
//! The first tier waits for nobody, so that it claims as soon as it has listened; the second waits
//! for T, the third for 2T, so that it takes what neither of the others does. Time is counted from
//! the last claim of a better tier, and at the earliest from when this node has stopped to listen,
//! which takes T: a cluster that starts as a whole starts without disputes. A member that was removed
//! for good is waited for by nobody.
//!
//! # Always
//! - An address is owned or not; the table that is published says the same as the claims that
//!   follow it.
//! - Nothing is owned that a better tier was heard to claim since it was taken.
//! - What is owned is claimed at least once per h. The data plane's lease is shorter than the time
//!   that others wait.
//!
//! # What there is not, for want of heartbeats
//! - **A claimant is known by its MAC address.** So the addresses resolve to their owners' own
//!   (`mac = "node"`): a virtual one says which address is claimed, but not by whom, and hence
//!   not by which tier. The members' MAC addresses are part of the configuration; nothing on the wire
//!   says whose they are.
//! - **Planned moves.** Nobody can be asked to take over. A drained node falls silent and the next
//!   tier takes its addresses after its timeout, as after a crash; a node that comes back takes its
//!   own as soon as it has listened, with no hold.
//! - **Life beside claims.** A member counts as alive while it claims anything. What it has
//!   released to a better tier, it is asked about for as long as it owns something else. Once it is
//!   silent, drained or dead, nobody asks it, and its connections are reset when a restart would be
//!   over.
//! - **Proof.** Claims are not authenticated: whoever is on the segment can take every address, as
//!   with plain ARP.
//! - **Cuts.** Where two members do not hear each other, both serve what is in both their lists,
//!   for as long as that lasts. A majority cannot be counted; the router can be asked.
//! - **Thrift.** Every address is claimed some 23 times a second with the default timing, so this is
//!   for clusters of a few nodes.

mod view;

use std::net::IpAddr;
use std::sync::Arc;

use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::Holdings;
use vipdp_core::tiered::{Owners, PreviousOwners};
use vipdp_core::wire::ethernet::MacAddr;

use super::config::{ClusterConfig, Partition, SlotSet, Timing};
use super::node::{Alarm, Output, RETURN_NS};
use crate::jitter::Jitter;

/// The greatest number of tiers.
const TIERS_MAX: usize = 3;
/// An address is defended against strangers, and an operator told of them, at most once in ten
/// seconds (RFC 5227, section 1.1: DEFEND_INTERVAL).
const DEFEND_INTERVAL_NS: u64 = 10_000_000_000;

/// The members' own MAC addresses, by slot.
pub type MemberMacs = [Option<MacAddr>; SLOTS];

/// One node's part in a cluster without heartbeats.
#[derive(Debug)]
pub struct WireNode {
    me: Slot,
    config: Arc<ClusterConfig>,
    macs: Box<MemberMacs>,
    timing: Timing,
    /// The latest time that was told.
    now: u64,
    /// When the next tick was asked for.
    deadline: u64,
    /// Whether a tick was seen.
    started: bool,

    // What this node is up to.
    listen_until: Option<u64>,
    /// Since when it has been hearing all: when it last stopped to listen.
    hears_since: u64,
    draining: bool,
    willing: bool,
    gateway: bool,
    /// Whether the NIC has a link.
    link: bool,
    /// Whether an operator was told that it is cut off.
    fence_told: bool,

    /// The addresses, by number.
    addresses: Box<[Address]>,
    owned: BucketSet,
    /// When each member was last heard to claim anything.
    heard_at: Box<[Option<u64>; SLOTS]>,
    /// When each member, or another node in its place, was last reported to an operator.
    reported_at: Box<[Option<u64>; SLOTS]>,

    // What was told to others.
    jitter: Jitter,
    next_claims: u64,
    /// When the first address is due that may have to be taken.
    next_due: u64,
    holdings: Holdings,
    previous: Arc<PreviousOwners>,
    /// Who was alive when `previous` was made, and whether anybody was away.
    told_of: (SlotSet, bool),
    /// Something changed that `holdings` does not show yet.
    table_changed: bool,
    /// Something changed that `previous` does not show yet.
    owners_changed: bool,
}

/// What is known of one next-hop address.
#[derive(Clone, Copy, Debug, Default)]
struct Address {
    /// Its tiers, without members that were removed for good.
    tiers: [Option<Slot>; TIERS_MAX],
    /// When each tier was last heard to claim it.
    heard_at: [Option<u64>; TIERS_MAX],
    /// Who has owned it, the last one first, each once.
    owners: [Option<Slot>; TIERS_MAX],
    /// When this node last claimed it.
    said_at: u64,
    /// When it was last defended against a stranger.
    defended_at: Option<u64>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum WireInput {
    /// Somebody was heard, by ARP or NDP, to claim a next-hop address.
    Claim {
        /// The address's number.
        number: Bucket,
        /// The address as it was heard, of either family.
        address: IpAddr,
        /// The MAC address that it is said to have.
        mac: MacAddr,
    },
    /// Whether the service is healthy and the data plane makes progress. A node that never heard
    /// of it takes itself for willing.
    Health {
        /// Whether it is.
        willing: bool,
    },
    /// Whether the operator wants this node to serve nothing.
    Drain(bool),
    /// Whether the router is reached. It is not until this says so.
    Gateway(bool),
    /// Whether the NIC has a link. Until this is said, it has.
    Link(bool),
    /// A newer configuration was read, with the members' MAC addresses. It is activated at once:
    /// nobody tells what the others run.
    Config(Arc<ClusterConfig>, Box<MemberMacs>),
    /// The time of the last [`Output::NextDeadline`] has come, and all claims that have been heard
    /// by now have been fed in.
    Tick,
}

/// What to do now, in this order.
#[derive(Debug)]
pub enum WireOutput {
    /// As with heartbeats, of which this is a node without any: nothing is sent, granted, or
    /// refused, and nothing lingers. In [`Alarm::DuplicateSlot`] the session is 0.
    Node(Output),
    /// Say once, to the whole segment, that these are this node's.
    Repeat(BucketSet),
}

impl WireNode {
    /// A node that has just started, and listens.
    ///
    /// `macs` are the members' own MAC addresses, this one's too; a member without one is a
    /// stranger. `seed` spreads its claims over time. If `me` is no member, or a tombstone, the node
    /// listens to the others and owns nothing.
    pub fn new(
        config: Arc<ClusterConfig>,
        macs: Box<MemberMacs>,
        me: Slot,
        seed: u64,
        now_ns: u64,
    ) -> Self {
        let timing = config.timing();
        let mut node = Self {
            me,
            macs,
            timing,
            now: now_ns,
            deadline: now_ns,
            started: false,
            listen_until: None,
            hears_since: now_ns,
            draining: false,
            willing: true,
            gateway: false,
            link: true,
            fence_told: false,
            addresses: addresses(&config),
            owned: BucketSet::EMPTY,
            heard_at: Box::new([None; SLOTS]),
            reported_at: Box::new([None; SLOTS]),
            jitter: Jitter::new(seed),
            next_claims: now_ns,
            next_due: now_ns,
            holdings: Holdings::none(),
            previous: Arc::new(PreviousOwners::none()),
            told_of: (SlotSet::EMPTY, false),
            table_changed: true,
            owners_changed: true,
            config,
        };
        node.listen();
        node
    }

    /// Takes `input` in at the time `now_ns` and appends what to do to `out`.
    ///
    /// Time is monotonic, in nanoseconds; a time before the last one is taken for the last one.
    /// After waking up, feed in all claims that were heard before the tick: a node that has slept
    /// does not take others for silent whose claims are waiting.
    pub fn step(&mut self, now_ns: u64, input: WireInput, out: &mut Vec<WireOutput>) {
        self.now = self.now.max(now_ns);
        self.doubt_if_late(out);
        let mut ticks = false;
        match input {
            WireInput::Claim { number, address, mac } => self.hear(number, address, mac, out),
            WireInput::Health { willing } => {
                self.willing = willing;
                self.next_due = self.now;
            }
            WireInput::Drain(draining) => {
                self.draining = draining;
                self.next_due = self.now;
            }
            WireInput::Gateway(reached) => {
                self.set_cut_off(|node| node.gateway = reached);
            }
            WireInput::Link(up) => self.set_cut_off(|node| node.link = up),
            WireInput::Config(config, macs) => self.activate(config, macs, out),
            WireInput::Tick => {
                self.started = true;
                ticks = true;
            }
        }
        self.tell_of_fence(out);
        if !self.serves() {
            self.release(self.owned.clone(), out);
        }
        if ticks {
            self.end_listening();
            self.take_due(out);
        }
        let repeats = ticks && self.now >= self.next_claims;
        self.publish(repeats, out);
        if repeats {
            self.next_claims = self.now + self.jitter.apply(self.timing.heartbeat_ns);
            self.repeat(self.owned.clone(), out);
        }
        self.promise(out);
    }

    /// Whether this node may own anything.
    fn serves(&self) -> bool {
        self.config.present().contains(self.me)
            && self.listen_until.is_none()
            && self.willing
            && !self.draining
            && !self.is_fenced()
    }

    /// Whether this node is cut off, or may be. Without heartbeats there is no majority to count.
    fn is_fenced(&self) -> bool {
        !self.link || self.config.partition() == Partition::Gateway && !self.gateway
    }

    /// T: how long a tier is waited for, in nanoseconds.
    fn patience(&self) -> u64 {
        self.timing.detection_ns()
    }

    /// The numbers of all addresses.
    fn numbers(&self) -> impl Iterator<Item = Bucket> + use<> {
        Bucket::all().take(self.addresses.len())
    }

    /// What is known of the address `number`; `None` if there is none.
    fn address(&self, number: Bucket) -> Option<&Address> {
        self.addresses.get(number.index())
    }

    /// Hears everybody for T before it owns anything.
    fn listen(&mut self) {
        self.listen_until = Some(self.now + self.patience());
    }

    fn end_listening(&mut self) {
        if self.listen_until.is_some_and(|until| self.now >= until) {
            self.listen_until = None;
            self.hears_since = self.now;
        }
    }

    /// A loop that was late doubts itself before it doubts others: what it may not have heard for
    /// its lateness does not count as silence. If the lease has run out meanwhile, others may have
    /// taken over.
    fn doubt_if_late(&mut self, out: &mut Vec<WireOutput>) {
        let late = self.now.saturating_sub(self.deadline);
        if late <= self.timing.heartbeat_ns {
            return;
        }
        // The next step is measured from here.
        self.deadline = self.now;
        if !self.started {
            self.listen();
        } else if late > self.patience() - self.timing.heartbeat_ns {
            out.push(WireOutput::Node(Output::Alarm(Alarm::Late { late_ns: late })));
            self.listen();
        }
        let later = |at: &mut u64| *at = (*at + late).min(self.now);
        self.heard_at.iter_mut().flatten().for_each(later);
        self.addresses
            .iter_mut()
            .flat_map(|address| &mut address.heard_at)
            .flatten()
            .for_each(later);
        self.hears_since = (self.hears_since + late).min(self.now);
    }

    /// Somebody claims the address `number`.
    fn hear(&mut self, number: Bucket, ip: IpAddr, mac: MacAddr, out: &mut Vec<WireOutput>) {
        let Some(address) = self.address(number) else { return };
        let Some(slot) = Slot::all().find(|slot| self.macs[slot.index()] == Some(mac)) else {
            return self.hear_stranger(number, ip, mac, out);
        };
        if slot == self.me {
            // Nobody hears its own claims, unless the segment has a loop.
            return self.report(slot, Alarm::DuplicateSlot { session: 0 }, out);
        }
        let (Some(tier), own) = (address.tier(slot), address.tier(self.me)) else {
            return self.report(slot, Alarm::ConfigMismatch { slot }, out);
        };
        let answers = self.now >= address.said_at + self.answer_gap();
        self.heard_at[slot.index()] = Some(self.now);
        self.addresses[number.index()].heard_at[tier] = Some(self.now);
        if self.owned.contains(number) {
            let only = [number].into_iter().collect();
            if own.is_none_or(|own| tier < own) {
                self.release(only, out);
            } else if answers {
                self.repeat(only, out);
            }
        }
        self.note_owner(number);
    }

    /// How close to one another answers may follow about one address.
    fn answer_gap(&self) -> u64 {
        self.timing.heartbeat_ns / 16
    }

    /// Somebody who is no member claims the address `number`: its owner defends it.
    fn hear_stranger(
        &mut self,
        number: Bucket,
        ip: IpAddr,
        mac: MacAddr,
        out: &mut Vec<WireOutput>,
    ) {
        let address = &mut self.addresses[number.index()];
        if address.defended_at.is_some_and(|at| self.now < at + DEFEND_INTERVAL_NS) {
            return;
        }
        address.defended_at = Some(self.now);
        out.push(WireOutput::Node(Output::Alarm(Alarm::ForeignClaim { address: ip, mac })));
        if self.owned.contains(number) {
            out.push(WireOutput::Node(Output::Defend(ip)));
        }
    }

    /// Tells an operator of something about `slot`, at most once per hold.
    fn report(&mut self, slot: Slot, alarm: Alarm, out: &mut Vec<WireOutput>) {
        let reported_at = &mut self.reported_at[slot.index()];
        if reported_at.is_none_or(|at| self.now >= at + self.timing.hold_ns) {
            *reported_at = Some(self.now);
            out.push(WireOutput::Node(Output::Alarm(alarm)));
        }
    }

    /// Takes in what may have cut it off, or does no longer. One that was may not have heard the others either.
    fn set_cut_off(&mut self, take_in: impl FnOnce(&mut Self)) {
        let was_fenced = self.is_fenced();
        take_in(self);
        if was_fenced && !self.is_fenced() && self.started {
            self.listen();
        }
    }

    fn tell_of_fence(&mut self, out: &mut Vec<WireOutput>) {
        let fenced = self.is_fenced() && self.listen_until.is_none();
        if fenced != self.fence_told {
            self.fence_told = fenced;
            out.push(WireOutput::Node(Output::Alarm(Alarm::Fenced(fenced))));
        }
    }

    /// Goes by a newer configuration. What is known of an address stays if its tiers do.
    fn activate(
        &mut self,
        config: Arc<ClusterConfig>,
        macs: Box<MemberMacs>,
        out: &mut Vec<WireOutput>,
    ) {
        if config.id() <= self.config.id() || config.cluster() != self.config.cluster() {
            return;
        }
        let mut addresses = addresses(&config);
        for (new, old) in addresses.iter_mut().zip(&self.addresses) {
            if new.tiers == old.tiers {
                *new = *old;
            }
        }
        let stays = |number: &Bucket| {
            let tiers = |addresses: &[Address]| addresses.get(number.index()).map(|it| it.tiers);
            tiers(&addresses) == tiers(&self.addresses)
        };
        let lost = self.owned.iter().filter(|number| !stays(number)).collect();
        self.addresses = addresses;
        self.timing = config.timing();
        self.config = config;
        self.macs = macs;
        self.hears_since = self.now;
        self.next_due = self.now;
        self.owners_changed = true;
        self.release(lost, out);
        let generation = self.config.id().generation;
        out.push(WireOutput::Node(Output::Alarm(Alarm::Activated { generation })));
    }

    /// Takes what no better tier was heard to claim for long enough, and finds out when the next
    /// address may be due.
    fn take_due(&mut self, out: &mut Vec<WireOutput>) {
        let mut taken = BucketSet::EMPTY;
        self.next_due = u64::MAX;
        let serves = self.serves();
        for number in self.numbers().filter(|&number| serves && !self.owned.contains(number)) {
            match self.due(number) {
                Some(due) if self.now >= due => taken.insert(number),
                Some(due) => self.next_due = self.next_due.min(due),
                None => {}
            }
        }
        if !taken.is_empty() {
            self.owned.insert_all(&taken);
            self.table_changed = true;
            // At once, and from then on with all others.
            self.next_claims = self.now;
            out.push(WireOutput::Node(Output::Claim(taken)));
        }
        for number in self.numbers() {
            self.note_owner(number);
        }
    }

    /// When this node is to take the address `number`, unless it hears a better tier; `None` if it
    /// is in no tier of it.
    fn due(&self, number: Bucket) -> Option<u64> {
        let address = self.address(number)?;
        let tier = address.tier(self.me)?;
        let better = &address.heard_at[..tier];
        let silent_since =
            better.iter().flatten().fold(self.hears_since, |since, &at| since.max(at));
        Some(silent_since + tier as u64 * self.patience())
    }

    fn release(&mut self, numbers: BucketSet, out: &mut Vec<WireOutput>) {
        if numbers.is_empty() {
            return;
        }
        self.owned.remove_all(&numbers);
        self.table_changed = true;
        out.push(WireOutput::Node(Output::Release(numbers)));
    }

    /// Claims `numbers` on the wire.
    fn repeat(&mut self, numbers: BucketSet, out: &mut Vec<WireOutput>) {
        if numbers.is_empty() {
            return;
        }
        for number in numbers.iter() {
            self.addresses[number.index()].said_at = self.now;
        }
        out.push(WireOutput::Repeat(numbers));
    }

    /// Who owns the address `number`, as far as this node knows: itself, or the best tier that was
    /// heard within T.
    fn owner(&self, number: Bucket) -> Option<Slot> {
        if self.owned.contains(number) {
            return Some(self.me);
        }
        let heard = |at: &Option<u64>| at.is_some_and(|at| self.now < at + self.patience());
        let address = self.address(number)?;
        address.tiers[address.heard_at.iter().position(heard)?]
    }

    /// Remembers who owns the address `number`, if that has changed.
    fn note_owner(&mut self, number: Bucket) {
        let Some(owner) = self.owner(number) else { return };
        let owners = &mut self.addresses[number.index()].owners;
        if owners[0] == Some(owner) {
            return;
        }
        let earlier = owners.iter().position(|&slot| slot == Some(owner));
        let end = earlier.unwrap_or(TIERS_MAX - 1);
        owners.copy_within(..end, 1);
        owners[0] = Some(owner);
        self.owners_changed = true;
    }

    /// Publishes what is held, with a new lease, if it has changed or the lease is to be renewed.
    fn publish(&mut self, renews: bool, out: &mut Vec<WireOutput>) {
        let tells_of = (self.alive(), self.is_anybody_away());
        self.owners_changed |= tells_of != self.told_of;
        if !(renews || self.table_changed || self.owners_changed) {
            return;
        }
        if self.table_changed {
            self.holdings = Holdings::owning(&self.owned);
        }
        if self.owners_changed {
            let (alive, is_away) = tells_of;
            self.previous = Arc::new(self.previous_of(alive).while_away(is_away));
        }
        (self.told_of, self.table_changed, self.owners_changed) = (tells_of, false, false);
        out.push(WireOutput::Node(Output::PublishTable {
            holdings: self.holdings.clone(),
            lease_until_ns: self.lease_until(),
            owners: Arc::clone(&self.previous),
        }));
    }

    /// Until when the data plane may accept new flows without hearing from here: D - h, which is
    /// before the next tier takes over.
    fn lease_until(&self) -> u64 {
        self.now + self.patience() - self.timing.heartbeat_ns
    }

    /// Whether a member has fallen silent so lately that it may be back, with the flows that it had.
    fn is_anybody_away(&self) -> bool {
        let is_away = |slot: Slot| {
            let silent = self.heard_at[slot.index()].map(|at| self.now - at);
            silent.is_some_and(|time| (self.patience()..RETURN_NS).contains(&time))
        };
        self.config.present().iter().any(is_away)
    }

    fn previous_of(&self, alive: SlotSet) -> PreviousOwners {
        let owners = |number: Bucket| {
            let now = self.owner(number);
            let others =
                |&slot: &Slot| slot != self.me && Some(slot) != now && alive.contains(slot);
            let mut before =
                self.addresses[number.index()].owners.into_iter().flatten().filter(others);
            (number, Owners { now, before: [before.next(), before.next()] })
        };
        PreviousOwners::new(alive.iter(), self.numbers().map(owners))
    }

    /// Asks for the next tick.
    fn promise(&mut self, out: &mut Vec<WireOutput>) {
        let due = if self.serves() { self.next_due } else { u64::MAX };
        let deadline = self.next_claims.min(due).min(self.listen_until.unwrap_or(u64::MAX));
        self.deadline = deadline.max(self.now);
        out.push(WireOutput::Node(Output::NextDeadline(self.deadline)));
    }
}

impl Address {
    /// The tier of `slot`, counted from 0; `None` if it has none.
    fn tier(&self, slot: Slot) -> Option<usize> {
        self.tiers.iter().position(|&member| member == Some(slot))
    }
}

/// The addresses of `config`, of which nothing is known yet.
fn addresses(config: &ClusterConfig) -> Box<[Address]> {
    let present = config.present();
    let of_list = |list: &[Slot]| {
        let mut members = list.iter().copied().filter(|&slot| present.contains(slot));
        Address { tiers: std::array::from_fn(|_| members.next()), ..Address::default() }
    };
    let lists = Bucket::all().map(|number| config.assignment().preference(number));
    lists.take_while(|list| !list.is_empty()).map(of_list).collect()
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
