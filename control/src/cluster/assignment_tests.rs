use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SEED: [u8; 16] = *b"a test's own key";

fn members(weights: &[u8]) -> Vec<Member> {
    let member = |(slot, &weight): (usize, &u8)| Member {
        slot: Slot::new(slot as u8).unwrap(),
        weight,
        tombstone: false,
    };
    weights.iter().enumerate().map(member).collect()
}

fn assignment(weights: &[u8]) -> Assignment {
    Assignment::new(&members(weights), SEED)
}

/// How many buckets each member has when `failed` are down.
fn loads(assignment: &Assignment, failed: &[usize]) -> Vec<usize> {
    let mut loads = vec![0; assignment.row_len];
    for bucket in Bucket::all() {
        let up = |slot: &&Slot| !failed.contains(&slot.index());
        loads[assignment.preference(bucket).iter().find(up).unwrap().index()] += 1;
    }
    loads
}

/// The largest load of any member when `failed` are down.
fn heaviest(assignment: &Assignment, failed: &[usize]) -> usize {
    loads(assignment, failed).into_iter().max().unwrap()
}

#[test]
fn every_list_has_every_member_once() {
    for count in [1, 2, 3, 5, 64] {
        let assignment = assignment(&vec![1; count]);
        for bucket in Bucket::all() {
            let mut list = assignment.preference(bucket).to_vec();
            list.sort_unstable();
            assert!(list.iter().map(|slot| slot.index()).eq(0..count), "{list:?}");
            let last = assignment.preference(bucket)[count - 1];
            assert_eq!(assignment.rank(bucket, last), Some(count - 1));
        }
        assert_eq!(
            assignment.rank(Bucket::new(0).unwrap(), Slot::new(63).unwrap()).is_some(),
            count == 64
        );
    }
}

#[test]
fn load_is_even_after_none_and_one_failure_and_nearly_after_two() {
    for count in [2usize, 3, 4, 5, 8, 16, 64] {
        let assignment = assignment(&vec![1; count]);
        assert_eq!(heaviest(&assignment, &[]), BUCKETS.div_ceil(count), "{count}");
        for failed in 0..count {
            let even = BUCKETS.div_ceil(count - 1);
            assert_eq!(heaviest(&assignment, &[failed]), even, "{count} less {failed}");
        }
        if count < 3 {
            continue;
        }
        // All pairs of small clusters, and every neighbour and opposite of large ones.
        for low in 0..count {
            for high in (low + 1..count).filter(|high| count < 16 || (high - low) % 31 == 1) {
                let even = BUCKETS.div_ceil(count - 2);
                let most = heaviest(&assignment, &[low, high]);
                assert!(most <= even + 1, "{count} less {low}, {high}: {most} > {even} + 1");
            }
        }
    }
}

#[test]
fn the_published_figures_hold_for_8_and_64() {
    // Largest load after two failures, in thousandths of the ideal.
    for (count, expected) in [(8usize, 1000), (64, 1014)] {
        let assignment = assignment(&vec![1; count]);
        let step = if count == 8 { 1 } else { 7 };
        for low in 0..count {
            for high in (low + 1..count).step_by(step) {
                let most = heaviest(&assignment, &[low, high]);
                assert!(most * (count - 2) * 1000 / BUCKETS <= expected, "{low}, {high}: {most}");
            }
        }
    }
}

#[test]
fn a_newcomer_takes_its_quota_and_nothing_else_moves() {
    for count in [1usize, 2, 3, 4, 7, 8, 31, 63] {
        let (before, after) = (assignment(&vec![1; count]), assignment(&vec![1; count + 1]));
        let newcomer = Slot::new(count as u8).unwrap();
        let moved: Vec<_> = Bucket::all()
            .filter(|&bucket| before.preference(bucket)[0] != after.preference(bucket)[0])
            .collect();
        assert!(moved.iter().all(|&bucket| after.preference(bucket)[0] == newcomer));
        assert_eq!(moved.len(), BUCKETS / (count + 1), "{count}");
    }
}

#[test]
fn weights_are_quotas() {
    for weights in [&[1, 1, 2][..], &[100, 1], &[3, 5, 7, 1, 1], &[1; 9], &[10, 10, 10, 1]] {
        let assignment = assignment(weights);
        let total: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
        for failed in (0..weights.len()).map(Some).chain([None]) {
            let loads = loads(&assignment, failed.as_slice());
            let left = total - failed.map_or(0, |failed| usize::from(weights[failed]));
            for (member, &load) in loads.iter().enumerate() {
                if Some(member) != failed {
                    let ideal = BUCKETS * usize::from(weights[member]) / left;
                    assert!(load.abs_diff(ideal) <= 1 + ideal / 100, "{weights:?} less {failed:?}");
                }
            }
        }
    }
}

#[test]
fn a_share_is_that_part_of_the_buckets() {
    let assignment = assignment(&[1; 4]);
    let taken = |share: u8| {
        let slot = Slot::new(2).unwrap();
        Bucket::all().filter(|&bucket| share > assignment.share_threshold(bucket, slot)).count()
    };
    assert_eq!((taken(0), taken(255)), (0, BUCKETS));
    assert!(taken(64).abs_diff(BUCKETS / 4) < BUCKETS / 40, "{}", taken(64));
}

#[test]
fn lists_depend_on_the_seed_and_on_nothing_else() {
    let members = members(&[1, 2, 3]);
    assert!(Assignment::new(&members, SEED) == Assignment::new(&members, SEED));
    assert!(Assignment::new(&members, SEED) != Assignment::new(&members, [0; 16]));
}

#[test]
fn addresses_have_the_members_of_their_tiers_and_other_buckets_nobody() {
    // Slots with gaps, and a tombstone: the place in the list counts, not the slot.
    let mut members = members(&[1, 9, 1, 1, 1]);
    for (member, slot) in members.iter_mut().zip([1, 5, 8, 40, 63]) {
        member.slot = Slot::new(slot).unwrap();
    }
    members[2].tombstone = true;
    for (tiers, compact) in [(2, false), (3, false), (3, true)] {
        let assignment = Assignment::of_addresses(&members, tiers, compact).unwrap();
        let addresses = Addresses::new(members.len(), tiers, compact).unwrap();
        for bucket in Bucket::all() {
            let list = addresses.list(bucket.index()).unwrap_or_default();
            let slots = list.iter().map(|&node| members[usize::from(node)].slot);
            assert!(assignment.preference(bucket).iter().copied().eq(slots), "{bucket:?}");
            for (rank, &slot) in assignment.preference(bucket).iter().enumerate() {
                assert_eq!(assignment.rank(bucket, slot), Some(rank));
            }
            assert_eq!(assignment.rank(bucket, Slot::new(2).unwrap()), None);
        }
    }
    assert!(Assignment::of_addresses(&members, 4, false).is_err());
}

#[test]
fn a_new_member_leaves_the_lists_of_all_addresses_as_they_were() {
    let (before, after) = (members(&[1; 6]), members(&[1; 7]));
    let lists = |members: &[Member]| Assignment::of_addresses(members, 2, false).unwrap();
    let (before, after) = (lists(&before), lists(&after));
    for bucket in Bucket::all() {
        let (old, new) = (before.preference(bucket), after.preference(bucket));
        let joined = new.contains(&Slot::new(6).unwrap());
        assert!(if bucket.index() < 30 { old == new } else { old.is_empty() });
        assert_eq!(joined, (30..42).contains(&bucket.index()), "{bucket:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_weights_are_quotas_and_a_newcomer_moves_nothing_else(
        weights in vec(1..=100u8, 2..=64),
        failed in any::<prop::sample::Index>(),
    ) {
        let (newest, others) = (weights.len() - 1, &weights[..weights.len() - 1]);
        let (before, after) = (assignment(others), assignment(&weights));
        for bucket in Bucket::all() {
            let (old, new) = (before.preference(bucket)[0], after.preference(bucket)[0]);
            prop_assert!(old == new || new.index() == newest);
        }
        let failed = failed.index(weights.len());
        for failed in [None, Some(failed)] {
            let left: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
            let left = left - failed.map_or(0, |failed| usize::from(weights[failed]));
            for (member, load) in loads(&after, failed.as_slice()).into_iter().enumerate() {
                let ideal = BUCKETS * usize::from(weights[member]);
                let less = failed == Some(member) || load * left + left >= ideal;
                prop_assert!(less, "{member} has {load} when {failed:?} is down");
                // Nobody exceeds the quota by more than one bucket, and by one more for a failure.
                let slack = 2 + usize::from(failed.is_some());
                prop_assert!(load * left <= ideal + slack * left, "{member} has {load}");
            }
        }
    }
}
