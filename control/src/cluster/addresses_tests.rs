use super::*;

/// The sets of `size` nodes out of `members`, as bits.
fn failures(members: usize, size: u32) -> impl Iterator<Item = u32> {
    (0u32..1 << members).filter(move |set| set.count_ones() == size)
}

/// How many addresses each node serves when the nodes in the set `failed` are down, and how many
/// nobody serves.
fn loads(addresses: &Addresses, failed: u32) -> (Vec<usize>, usize) {
    let (mut loads, mut lost) = (vec![0; addresses.members()], 0);
    for list in addresses.lists() {
        match list.iter().find(|&&node| failed >> node & 1 == 0) {
            Some(&node) => loads[usize::from(node)] += 1,
            None => lost += 1,
        }
    }
    (loads, lost)
}

/// What each survivor serves more than when all are up, in ascending order.
fn gains(addresses: &Addresses, failed: u32) -> Vec<usize> {
    let (before, after) = (loads(addresses, 0).0, loads(addresses, failed).0);
    let survivors = (0..addresses.members()).filter(|&node| failed >> node & 1 == 0);
    let mut gains: Vec<_> = survivors.map(|node| after[node] - before[node]).collect();
    gains.sort_unstable();
    gains
}

fn each_tier_is_equal_and_no_node_stands_twice(addresses: &Addresses) {
    let members = addresses.members();
    for tier in 0..addresses.tiers() {
        let mut often = vec![0; members];
        for list in addresses.lists() {
            often[usize::from(list[tier])] += 1;
        }
        assert_eq!(often, vec![addresses.len() / members; members], "tier {tier} of {members}");
    }
    for list in addresses.lists() {
        assert!((1..list.len()).all(|at| !list[..at].contains(&list[at])), "{list:?}");
    }
}

fn numbers_and_lists_are_inverse(addresses: &Addresses) {
    for (number, list) in addresses.lists().enumerate() {
        assert_eq!(addresses.number(list), Some(number), "{list:?}");
        assert_eq!(addresses.list(number), Some(list));
    }
    assert_eq!(addresses.list(addresses.len()), None);
    assert_eq!(addresses.list(usize::MAX), None);
}

#[test]
fn all_lists_stand_once_evenly_and_in_an_order_that_appends() {
    for tiers in [2, 3] {
        let mut before: Option<Addresses> = None;
        for members in tiers.max(2)..=12 {
            let addresses = Addresses::new(members, tiers, false).unwrap();
            assert_eq!(addresses.len(), count(members, tiers));
            each_tier_is_equal_and_no_node_stands_twice(&addresses);
            numbers_and_lists_are_inverse(&addresses);
            let mut lists: Vec<_> = addresses.lists().collect();
            if let Some(before) = before {
                let newest = members as u8 - 1;
                assert!(before.lists().eq(lists[..before.len()].iter().copied()));
                assert!(lists[before.len()..].iter().all(|list| list.contains(&newest)));
            }
            lists.sort_unstable();
            lists.dedup();
            assert_eq!(lists.len(), count(members, tiers), "{members} nodes, {tiers} tiers");
            before = Some(addresses);
        }
    }
}

#[test]
fn after_any_fewer_failures_than_tiers_all_survivors_have_gained_equally() {
    for tiers in [2, 3] {
        for members in tiers..=12 {
            let addresses = Addresses::new(members, tiers, false).unwrap();
            for size in 1..tiers {
                // The addresses of the failed nodes, on all who are left.
                let gain = size * addresses.len() / members / (members - size);
                for failed in failures(members, size as u32) {
                    let gains = gains(&addresses, failed);
                    assert_eq!(gains, vec![gain; members - size], "{members} less {failed:b}");
                    assert_eq!(loads(&addresses, failed).1, 0);
                }
            }
            // With as many failures as tiers the lists of just these nodes are lost, no others.
            for failed in failures(members, tiers as u32) {
                assert_eq!(loads(&addresses, failed).1, count(tiers, tiers));
            }
        }
    }
}

#[test]
fn two_tiers_hand_exactly_one_address_to_each_survivor() {
    for members in 3..=12 {
        let addresses = Addresses::new(members, 2, false).unwrap();
        for failed in failures(members, 1) {
            assert_eq!(gains(&addresses, failed), vec![1; members - 1]);
        }
    }
}

#[test]
fn the_numbering_is_the_published_one() {
    let lists = |members, tiers| {
        let addresses = Addresses::new(members, tiers, false).unwrap();
        addresses.lists().map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(lists(3, 2), [[1, 0], [0, 1], [2, 0], [2, 1], [0, 2], [1, 2]]);
    assert_eq!(lists(3, 3), [[2, 1, 0], [2, 0, 1], [1, 2, 0], [0, 2, 1], [1, 0, 2], [0, 1, 2]]);
    // The greatest node is 3: 24 lists of the nodes below it, and 3 in 2 places of the first two.
    assert_eq!(number(&[2, 3]), Some(6 + 3 + 2));
    assert_eq!(number(&[0, 0]), None);
    assert_eq!(number(&[1, 0, 1]), None);
}

#[test]
fn the_compact_form_is_even_after_one_failure_and_as_even_as_can_be_after_two() {
    for members in (3..=12).filter(|&members| members != 4) {
        let addresses = Addresses::new(members, 3, true).unwrap();
        assert_eq!(addresses.len(), count(members, 2));
        each_tier_is_equal_and_no_node_stands_twice(&addresses);
        numbers_and_lists_are_inverse(&addresses);
        for failed in failures(members, 1) {
            assert_eq!(gains(&addresses, failed), vec![1; members - 1], "{members}");
            assert_eq!(loads(&addresses, failed).1, 0);
        }
        for failed in failures(members, 2) {
            let mut expected = vec![2; members - 2];
            match members {
                3 => expected[0] = 4,
                _ => expected[members - 4..].fill(3),
            }
            assert_eq!(gains(&addresses, failed), expected, "{members} less {failed:b}");
            assert_eq!(loads(&addresses, failed).1, 0);
        }
    }
}

#[test]
fn the_compact_form_exists_up_to_the_largest_cluster() {
    for members in 3..=SLOTS {
        let addresses = Addresses::new(members, 3, true);
        if members == 4 {
            assert_eq!(addresses, Err(AddressesError::NoCompactForm(4)));
            continue;
        }
        let third = third_distances(members).unwrap();
        for distance in 1..members {
            assert_ne!(third[distance], distance);
            let other = (distance + third[members - distance]) % members;
            assert!(members == 3 || 2 * distance == members || third[distance] != other);
        }
        each_tier_is_equal_and_no_node_stands_twice(&addresses.unwrap());
    }
}

/// Lexicographically first by trying every permutation, where there are few.
#[test]
fn the_compact_form_is_the_first_permutation_that_fits() {
    fn permutations(left: &[usize]) -> Vec<Vec<usize>> {
        let all = left.iter().flat_map(|&first| {
            let rest: Vec<_> = left.iter().copied().filter(|&other| other != first).collect();
            permutations(&rest).into_iter().map(move |rest| [vec![first], rest].concat())
        });
        if left.is_empty() { vec![Vec::new()] } else { all.collect() }
    }
    for members in 3..=8 {
        let first = permutations(&(1..members).collect::<Vec<_>>()).into_iter().find(|third| {
            let third = |distance: usize| third[distance - 1];
            (1..members).all(|d| {
                let elsewhere = (d + third(members - d)) % members != third(d);
                third(d) != d && (members == 3 || 2 * d == members || elsewhere)
            })
        });
        assert_eq!(third_distances(members).map(|third| third[1..].to_vec()), first, "{members}");
    }
}

#[test]
fn what_is_no_plan_is_refused() {
    let refused = |members, tiers, compact| Addresses::new(members, tiers, compact).unwrap_err();
    assert_eq!(refused(6, 1, false), AddressesError::Tiers(1));
    assert_eq!(refused(6, 4, false), AddressesError::Tiers(4));
    assert_eq!(refused(6, 2, true), AddressesError::CompactTiers(2));
    assert_eq!(refused(1, 2, false), AddressesError::TooFewMembers { members: 1, tiers: 2 });
    assert_eq!(refused(2, 3, true), AddressesError::TooFewMembers { members: 2, tiers: 3 });
    assert_eq!(refused(65, 2, false), AddressesError::TooManyMembers(65));
    let too_many =
        AddressesError::TooMany { members: 18, tiers: 3, addresses: 4896, members_max: 17 };
    assert_eq!(refused(18, 3, false), too_many);
    assert_eq!(Addresses::new(17, 3, false).unwrap().len(), 4080);
    assert_eq!(Addresses::new(64, 2, false).unwrap().len(), 4032);
    assert_eq!(count(usize::MAX, 3), usize::MAX);
}

#[test]
fn a_list_that_no_address_has_has_no_number() {
    let all = Addresses::new(5, 3, false).unwrap();
    let compact = Addresses::new(5, 3, true).unwrap();
    for addresses in [&all, &compact] {
        for list in [&[][..], &[0, 1], &[0, 1, 5], &[0, 1, 1], &[0, 0, 1], &[0, 1, 2, 3]] {
            assert_eq!(addresses.number(list), None, "{list:?}");
        }
    }
    // Of the three lists that start with 0, 1 the compact form has one.
    let found = [2, 3, 4].map(|third| compact.number(&[0, 1, third]));
    assert_eq!(found.iter().flatten().count(), 1, "{found:?}");
}
