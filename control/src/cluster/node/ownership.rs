//! Candidacy, claims and conflicts.

use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::slot::Slot;

use super::targets::Tier;
use super::{Node, Output};
use crate::cluster::config::AllDown;

/// Buckets that this node became candidate for at the same time.
#[derive(Debug)]
pub(super) struct Cohort {
    /// The buckets.
    pub(super) buckets: BucketSet,
    /// The first message that said so; `None` before it was sent.
    pub(super) seq: Option<u64>,
    /// When that was.
    pub(super) since: u64,
}

/// How many cohorts there are at most. One more joins the last one, which then waits anew.
const COHORTS_MAX: usize = 8;

impl Node {
    /// Brings ownership in line with the targets and with what others claim.
    pub(super) fn resolve(&mut self, ticks: bool, out: &mut Vec<Output>) {
        self.close_claimed_batches(out);
        self.yield_to_claims(out);
        self.grant_to_targets();
        self.withdraw_if_unwell(out);
        if ticks {
            self.update_orphans();
        }
        let heard = self.claims_that_bind();
        self.end_candidacy(&heard);
        self.become_candidate(&heard);
        self.claim_what_is_clear(ticks, out);
    }

    /// Keeps book of what is claimed by anybody alive, and of when the rest ceased to be.
    pub(super) fn update_claimed(&mut self) {
        let mut claimed = self.claims_that_bind();
        claimed.insert_all(&self.owned);
        claimed.insert_all(&self.yielding);
        if claimed != self.claimed {
            let mut lost = self.claimed.clone();
            lost.remove_all(&claimed);
            for bucket in lost.iter() {
                self.unclaimed_since[bucket.index()] = self.now;
            }
            self.claimed = claimed;
        }
    }

    /// What others claim so that this node must not: those that are alive, heard or relayed, and
    /// that hear somebody here, so that they will give way if they should. A node that is deaf
    /// cannot be waited for; where only a majority serves, it will be fenced.
    fn claims_that_bind(&self) -> BucketSet {
        let mut near = self.clique;
        near.insert(self.me);
        let mut claims = BucketSet::EMPTY;
        for slot in self.others().filter(|&slot| self.peer(slot).alive) {
            let peer = self.peer(slot);
            let binds = if self.votes() { peer.may_own() } else { peer.hears.intersects(near) };
            if binds {
                claims.insert_all(&peer.claims);
            }
        }
        claims
    }

    /// Whether anybody claims anything.
    pub(super) fn anybody_claims(&self) -> bool {
        !self.claimed.is_empty()
    }

    /// Owner -> Idle: one that comes before this node claims the bucket, or one with a newer
    /// configuration does.
    fn yield_to_claims(&mut self, out: &mut Vec<Output>) {
        let mut lost = BucketSet::EMPTY;
        let mine = self.config.id();
        for slot in self.others().filter(|&slot| self.contests(slot)) {
            let peer = self.peer(slot);
            let mut both = peer.claims.clone();
            both.retain_all(&self.owned);
            for bucket in both.iter().filter(|&bucket| self.knows_and_claims(slot, bucket)) {
                // Two that hear each other find the same, whatever cliques they are in; one that
                // does not hear this node will not give way. So never both do.
                let comes_first = if self.mutual(slot) {
                    self.comes_before_me(bucket, slot)
                } else {
                    let target = self.targets.of(bucket);
                    self.takes_me_for_dead(slot) && target.is_some_and(|(target, _)| target == slot)
                };
                if peer.config > mine || comes_first {
                    lost.insert(bucket);
                }
            }
        }
        if !lost.is_empty() {
            self.release(&lost, out);
        }
    }

    /// Whether `slot` claims anything that this node has.
    pub(super) fn contests(&self, slot: Slot) -> bool {
        let claims = &self.peer(slot).claims;
        let has = claims.intersects(&self.owned) || claims.intersects(&self.yielding);
        has && self.hears(slot)
    }

    /// Whether `slot`, which claims `bucket`, said so after this node got it, and not because it is
    /// still handing it over, perhaps to one from whom this node has it: what it said before is no
    /// reason to give it up. Nor can one that takes this node for dead be waited for.
    pub(super) fn knows_and_claims(&self, slot: Slot, bucket: Bucket) -> bool {
        let peer = self.peer(slot);
        let since = peer.claims_ack >= self.held_since[bucket.index()] && !peer.hands_over;
        since || self.takes_me_for_dead(slot)
    }

    /// Owner or Yielding -> Idle, without anybody having taken over by my leave.
    pub(super) fn release(&mut self, lost: &BucketSet, out: &mut Vec<Output>) {
        self.owned.remove_all(lost);
        self.yielding.remove_all(lost);
        self.table_changed = true;
        self.beat_now = true;
        out.push(Output::Release(lost.clone()));
        self.linger(lost, out);
    }

    /// Owner -> Idle: the service is unwell, nobody takes the bucket over, and then nobody is to serve
    /// it.
    fn withdraw_if_unwell(&mut self, out: &mut Vec<Output>) {
        if self.willing || self.config.all_down() != AllDown::Withdraw {
            return;
        }
        let lost: BucketSet =
            self.owned.iter().filter(|&bucket| self.heir(bucket).is_none()).collect();
        if !lost.is_empty() {
            self.release(&lost, out);
        }
    }

    /// Any -> Idle.
    pub(super) fn release_all(&mut self, out: &mut Vec<Output>) {
        let mut all = self.owned.clone();
        all.insert_all(&self.yielding);
        for slot in self.others() {
            self.peer_mut(slot).out_batch = None;
        }
        self.cohorts.clear();
        self.orphans = BucketSet::EMPTY;
        if !all.is_empty() {
            self.release(&all, out);
        }
        self.unsettled = true;
    }

    /// Finds the buckets that nobody has claimed for so long that the views of the others must
    /// differ from this node's: D + 2h, and 2h more for each that comes before it. Where this node
    /// does not hear the one that should own them, or is out of the clique, it cannot tell.
    fn update_orphans(&mut self) {
        self.orphans = BucketSet::EMPTY;
        if !self.clique.contains(self.me) {
            return;
        }
        let step = 2 * self.timing.heartbeat_ns;
        let wait = self.detection_ns() + step;
        let mut unclaimed = BucketSet::FULL;
        unclaimed.remove_all(&self.claimed);
        unclaimed.remove_all(self.targets.mine());
        for bucket in unclaimed.iter() {
            if self.targets.of(bucket).is_some_and(|(target, _)| !self.hears(target)) {
                continue;
            }
            let since = self.unclaimed_since[bucket.index()];
            let (_, Some(_), rank) = self.preference_key(bucket, self.me) else { continue };
            if self.now >= since + wait + step * rank as u64 {
                self.orphans.insert(bucket);
            }
        }
    }

    /// Candidate -> Idle: somebody claims the bucket, or this node is no longer to.
    fn end_candidacy(&mut self, heard: &BucketSet) {
        let mut wanted = self.targets.mine().clone();
        wanted.insert_all(&self.orphans);
        wanted.remove_all(heard);
        for cohort in &mut self.cohorts {
            cohort.buckets.retain_all(&wanted);
        }
        self.cohorts.retain(|cohort| !cohort.buckets.is_empty());
    }

    /// Idle -> Candidate: this node is the target, or nobody else comes forward, and nobody claims
    /// the bucket.
    fn become_candidate(&mut self, heard: &BucketSet) {
        if self.waits_for_others_to_start() || self.knows_of_a_stranger() {
            return;
        }
        let mut fresh = self.targets.mine().clone();
        fresh.insert_all(&self.orphans);
        for held in [heard, &self.owned, &self.yielding] {
            fresh.remove_all(held);
        }
        for cohort in &self.cohorts {
            fresh.remove_all(&cohort.buckets);
        }
        if fresh.is_empty() {
            return;
        }
        let full = self.cohorts.len() == COHORTS_MAX;
        match self.cohorts.last_mut() {
            Some(last) if last.seq.is_none() || full => {
                last.buckets.insert_all(&fresh);
                (last.seq, last.since) = (None, self.now);
            }
            _ => self.cohorts.push(Cohort { buckets: fresh, seq: None, since: self.now }),
        }
    }

    /// Lets candidacies begin anew, since this node's rank has changed: what others have answered,
    /// they have answered to its former rank.
    pub(super) fn ask_anew(&mut self) {
        for cohort in &mut self.cohorts {
            (cohort.seq, cohort.since) = (None, self.now);
        }
    }

    /// Whether others say that a node is alive whose present session this one has not met: nobody
    /// here knows what it claims. Whoever has met both hands over what is due.
    fn knows_of_a_stranger(&self) -> bool {
        let detection = self.detection_ns();
        self.others()
            .map(|slot| self.peer(slot))
            .any(|peer| !peer.alive && peer.told_at.is_some_and(|at| self.now < at + detection))
    }

    /// When a cluster starts as a whole, nobody claims anything while others still listen: they
    /// would find it taken, and would have to wait out the hold.
    fn waits_for_others_to_start(&self) -> bool {
        let starts = |slot| self.hears(slot) && !self.peer(slot).may_own();
        self.now < self.cold_until && !self.anybody_claims() && self.others().any(starts)
    }

    /// Candidate -> Owner: all that this node hears of, be it from others, have said, since they
    /// know that it is candidate, that they do not claim the bucket, and none that comes before it
    /// is candidate too. After 2h it goes without the answers, but not where it needs a majority's votes.
    fn claim_what_is_clear(&mut self, ticks: bool, out: &mut Vec<Output>) {
        let patience = 2 * self.timing.heartbeat_ns;
        let votes = self.votes();
        let barrier: Vec<_> = self
            .others()
            .map(|slot| self.peer(slot))
            .filter(|peer| peer.alive)
            .map(|peer| if peer.claims_heard { peer.claims_ack } else { 0 })
            .collect();
        let mut won = BucketSet::EMPTY;
        for cohort in &self.cohorts {
            let clear = match cohort.seq {
                Some(seq) if votes => self.is_elected(seq),
                Some(seq) => barrier.iter().all(|&acked| acked >= seq),
                None => barrier.is_empty() && !votes,
            };
            if clear || !votes && ticks && self.now >= cohort.since + patience {
                won.insert_all(&cohort.buckets);
            }
        }
        for slot in self.others().filter(|&slot| self.hears(slot)) {
            self.leave_to_better(slot, &mut won);
        }
        if won.is_empty() {
            return;
        }
        for cohort in &mut self.cohorts {
            cohort.buckets.remove_all(&won);
        }
        self.cohorts.retain(|cohort| !cohort.buckets.is_empty());
        self.own(&won, out);
    }

    /// Takes out of `won` what `slot` is candidate for too, if it comes before this node.
    fn leave_to_better(&self, slot: Slot, won: &mut BucketSet) {
        let Some(mut contested) = self.peer(slot).candidacy.clone() else { return };
        contested.retain_all(won);
        for bucket in contested.iter() {
            if self.comes_before_me(bucket, slot) {
                won.remove(bucket);
            }
        }
    }

    /// Whether `slot` may own `bucket` with more reason than this node.
    fn comes_before_me(&self, bucket: Bucket, slot: Slot) -> bool {
        self.preference_key(bucket, slot) < self.preference_key(bucket, self.me)
    }

    /// Any -> Owner.
    pub(super) fn own(&mut self, won: &BucketSet, out: &mut Vec<Output>) {
        self.remember(self.me, won);
        self.owned.insert_all(won);
        self.claimed.insert_all(won);
        for bucket in won.iter() {
            self.held_since[bucket.index()] = self.seq + 1;
        }
        self.table_changed = true;
        self.beat_now = true;
        out.push(Output::Claim(won.clone()));
    }

    /// The target of `bucket` that this node may hand it to. One that waits out its hold is spared,
    /// unless this node must not serve at all.
    pub(super) fn heir(&self, bucket: Bucket) -> Option<Slot> {
        let must_not_serve = !self.willing && self.config.all_down() == AllDown::Withdraw;
        match self.targets.of(bucket) {
            Some((slot, Tier::Eligible)) if slot != self.me => Some(slot),
            Some((slot, Tier::Waiting)) if slot != self.me && must_not_serve => Some(slot),
            _ => None,
        }
    }
}
