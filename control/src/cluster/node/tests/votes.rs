//! What a candidacy is answered with, and what follows from it: votes, and who is asked.

use super::*;

/// A node in a cluster of three where only a majority serves, candidate for the bucket.
fn candidate() -> Rig {
    let mut rig = Rig::new([0, 1, 2], Partition::Majority);
    rig.bring(Candidate);
    rig
}

#[test]
fn all_that_are_alive_must_answer_however_long_it_takes() {
    let mut rig = candidate();
    rig.pass(4 * H, &[1]);
    assert_eq!(rig.at(), Candidate, "slot 2 is silent, but alive");
    rig.pass(D, &[1]);
    assert_eq!(rig.at(), Owner, "slot 2 is dead");
}

#[test]
fn one_that_a_voter_takes_for_alive_must_answer_too() {
    let mut rig = candidate();
    rig.puppets[1].sees_other = true;
    rig.pass(4 * D, &[1]);
    assert_eq!(rig.at(), Candidate, "slot 1 says that slot 2 lives");
    rig.puppets[1].sees_other = false;
    rig.pass(2 * H, &[1]);
    assert_eq!(rig.at(), Owner);
}

#[test]
fn one_that_is_fenced_need_not_answer() {
    let mut rig = candidate();
    rig.puppets[2].flags = NodeFlags::FENCED;
    rig.say(2, Body::Candidate { buckets: BucketSet::EMPTY });
    rig.claim(1, &BucketSet::EMPTY);
    assert_eq!(rig.at(), Owner);
}

#[test]
fn answers_without_votes_make_no_owner() {
    let mut rig = candidate();
    for peer in [1, 2] {
        rig.puppets[peer].supports = false;
    }
    rig.pass(2 * H, &[1, 2]);
    assert_eq!(rig.at(), Candidate);
    rig.puppets[2].supports = true;
    rig.pass(2 * H, &[1, 2]);
    assert_eq!(rig.at(), Owner, "two of three are a majority");
}

#[test]
fn a_lease_that_has_run_out_does_not_come_back_to_life() {
    let mut rig = candidate();
    rig.free();
    rig.pass(H, &[1, 2]);
    assert_eq!(rig.at(), Owner);
    for peer in [1, 2] {
        rig.puppets[peer].supports = false;
    }
    // They answer, but do not vote.
    rig.pass(D - H, &[1, 2]);
    assert_eq!(rig.at(), Owner);
    for peer in [1, 2] {
        rig.puppets[peer].supports = true;
    }
    // Their votes come between the end of the lease and the tick that would find it.
    rig.now += H;
    rig.node.deadline = rig.now;
    rig.claim(1, &BucketSet::EMPTY);
    rig.claim(2, &BucketSet::EMPTY);
    assert_eq!(rig.at(), Idle);
    assert_eq!(rig.node.state(), State::Fenced);
    rig.tick();
    assert_eq!(rig.node.state(), State::Active, "it serves again, with nothing");
}

#[test]
fn nobody_gets_a_vote_who_has_what_one_with_a_vote_has() {
    let mut rig = Rig::new([0, 1, 2], Partition::Majority);
    assert!(rig.node.peer(slot(1)).supported != rig.node.peer(slot(2)).supported);
    let mut rest = BucketSet::FULL;
    rest.remove(rig.bucket);
    rig.claim(1, &rest);
    rig.claim(2, &BucketSet::EMPTY);
    rig.claim(1, &rest);
    assert!(rig.node.peer(slot(1)).supported && rig.node.peer(slot(2)).supported);
}

#[test]
fn what_another_asks_for_is_not_taken_over() {
    let mut rig = Rig::new([0, 1, 2], Partition::Majority);
    let buckets = rig.just_it();
    rig.puppets[2].flags = NodeFlags::CANDIDATE;
    rig.say(2, Body::Candidate { buckets });
    rig.hand(1, 1);
    assert_eq!((rig.at(), rig.node.peer(slot(1)).in_number), (Idle, 0));
    // It has heard of the owner, and asks no more: the batch, repeated, is accepted.
    rig.puppets[2].flags = NodeFlags::default();
    rig.claim(2, &BucketSet::EMPTY);
    rig.hand(1, 1);
    assert_eq!(rig.at(), Owner);
}

/// What a candidate may have claimed meanwhile is not for others until a heartbeat tells.
#[test]
fn a_candidacy_shrinks_by_heartbeats_alone() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    let asked = |rig: &Rig| rig.node.peer(slot(1)).candidacy.clone();
    let two: BucketSet = [1, 2].into_iter().map(|n| Bucket::new(n).unwrap()).collect();
    let one: BucketSet = [Bucket::new(2).unwrap()].into_iter().collect();
    rig.puppets[1].flags = NodeFlags::CANDIDATE;
    rig.say(1, Body::Candidate { buckets: two.clone() });
    rig.say(1, Body::Candidate { buckets: one.clone() });
    assert_eq!(asked(&rig), Some(two));
    rig.claim(1, &BucketSet::EMPTY);
    assert_eq!(asked(&rig), Some(one));
    // A message was missed: nobody knows what it said.
    rig.puppets[1].seq += 1;
    rig.claim(1, &BucketSet::EMPTY);
    assert_eq!(asked(&rig), Some(BucketSet::FULL));
    rig.puppets[1].flags = NodeFlags::default();
    rig.say(1, Body::Candidate { buckets: BucketSet::EMPTY });
    assert!(asked(&rig).is_some(), "it may be owner");
    rig.claim(1, &BucketSet::EMPTY);
    assert_eq!(asked(&rig), None);
}

/// The others answered to a rank that this node has no more.
#[test]
fn a_candidate_whose_rank_changes_asks_anew() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    rig.bring(Candidate);
    let asked = rig.node.cohorts[0].seq.expect("it was sent");
    for peer in [1, 2, 1] {
        rig.puppets[usize::from(peer)].share = 0;
        rig.say(peer, Body::Candidate { buckets: BucketSet::EMPTY });
        if peer == 2 {
            assert_eq!(rig.node.cohorts[0].seq, Some(asked));
            rig.node.share = 0;
            rig.node.hold_until = Some(u64::MAX);
            rig.node.unsettled = true;
        }
    }
    assert_eq!(rig.at(), Candidate);
    assert!(rig.node.cohorts[0].seq.is_some_and(|seq| seq > asked));
}

/// A bucket that comes back before the echo is this node's again, and in no batch.
#[test]
fn a_bucket_that_comes_round_is_taken_back() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    rig.bring(Yielding);
    let batch = rig.node.peer(slot(1)).out_number;
    rig.hand(2, 1);
    // It is to be emptied, and hands the bucket on at once: in another batch.
    assert!(rig.said().contains(&"claim"));
    assert_eq!((rig.at(), rig.node.peer(slot(1)).out_number), (Yielding, batch + 1));
}

/// Granted to one that is not heard any more: another one finds out whether it has arrived.
#[test]
fn a_grant_that_is_lost_in_a_cut_goes_by_another_way() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    rig.bring(Yielding);
    rig.puppets[2].sees_other = true;
    // Slot 1 is alive, but its messages end here.
    for _ in 0..3 * 5 + 1 {
        rig.puppets[1].seq += 1;
        rig.pass(H, &[2]);
    }
    assert_eq!(rig.at(), Yielding);
    assert!(!rig.node.hears(slot(1)) && rig.node.peer(slot(1)).alive);
    assert!(rig.node.peer(slot(2)).out_batch.is_some());
    rig.puppets[2].accepted = rig.node.peer(slot(2)).out_number;
    rig.claim(2, &BucketSet::EMPTY);
    assert_eq!(rig.at(), Idle);
    assert!(rig.node.peer(slot(1)).out_batch.is_none());
}

#[test]
fn what_has_arrived_beyond_a_cut_is_left_there() {
    let mut rig = Rig::new([1, 0, 2], Partition::None);
    claims_it(&mut rig, 1);
    let mut hears = rig.node.peer(slot(2)).hears;
    hears.remove(slot(1));
    rig.node.peer_mut(slot(2)).hears = hears;
    let buckets = rig.just_it();
    rig.puppets[2].heard = rig.node.seq;
    rig.node.peer_mut(slot(2)).ack_known = rig.node.seq;
    rig.node.accept(slot(2), 1, &buckets, &mut Vec::new());
    assert_eq!((rig.at(), rig.node.peer(slot(2)).in_number), (Idle, 1));
}
