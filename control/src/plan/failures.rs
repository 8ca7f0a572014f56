//! What failures do to the load of a plan's nodes.

use std::collections::HashMap;

use crate::cluster::addresses::Addresses;

/// What the survivors serve when some nodes have failed at once, in addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The failed nodes, as places in the member list.
    pub(super) failed: Vec<u8>,
    /// What the survivor serves that has least to do.
    pub(super) least: usize,
    /// What the survivor serves that has most to do.
    pub(super) most: usize,
    /// What all survivors serve together.
    pub(super) served: usize,
    /// How many survive: at least one.
    pub(super) survivors: usize,
    /// The addresses that nobody serves.
    pub(super) lost: Vec<usize>,
}

impl Outcome {
    /// What happens when just `failed` fail, which are not all nodes.
    fn new(addresses: &Addresses, failed: Vec<u8>) -> Self {
        let mut loads = vec![0usize; addresses.members()];
        let mut lost = Vec::new();
        for (number, list) in addresses.lists().enumerate() {
            match list.iter().find(|node| !failed.contains(node)) {
                Some(&node) => loads[usize::from(node)] += 1,
                None => lost.push(number),
            }
        }
        let up = |&(node, _): &(usize, &usize)| !failed.contains(&(node as u8));
        let up: Vec<_> = loads.iter().enumerate().filter(up).map(|(_, &load)| load).collect();
        Self {
            least: up.iter().copied().min().unwrap_or(0),
            most: up.iter().copied().max().unwrap_or(0),
            served: up.iter().sum(),
            survivors: up.len(),
            failed,
            lost,
        }
    }

    /// The load of the average survivor.
    pub(super) fn mean(&self) -> f64 {
        self.served as f64 / self.survivors as f64
    }

    /// The largest load in relation to the mean: 1 where the load is even.
    pub(super) fn most_by_mean(&self) -> f64 {
        if self.served == 0 { 1.0 } else { self.most as f64 / self.mean() }
    }
}

/// What every set of `size` failed nodes does, in ascending order; nothing if nobody would be left.
/// `size` is 0, 1 or 2.
pub(super) fn outcomes(addresses: &Addresses, size: usize) -> Vec<Outcome> {
    let nodes = addresses.members() as u8;
    let sets: Vec<Vec<u8>> = match size {
        0 => vec![Vec::new()],
        1 => (0..nodes).map(|node| vec![node]).collect(),
        _ => (0..nodes).flat_map(|low| (low + 1..nodes).map(move |high| vec![low, high])).collect(),
    };
    let some_left = sets.into_iter().filter(|failed| failed.len() < addresses.members());
    some_left.map(|failed| Outcome::new(addresses, failed)).collect()
}

/// Outcomes that are the same but for who has failed: the first of them, and how many they are.
pub(super) fn alike(outcomes: &[Outcome]) -> Vec<(&Outcome, usize)> {
    let mut kinds: Vec<(&Outcome, usize)> = Vec::new();
    for outcome in outcomes {
        let same = |kind: &&mut (&Outcome, usize)| {
            let key = |outcome: &Outcome| (outcome.least, outcome.most, outcome.lost.len());
            key(kind.0) == key(outcome)
        };
        match kinds.iter_mut().find(same) {
            Some((_, count)) => *count += 1,
            None => kinds.push((outcome, 1)),
        }
    }
    kinds
}

/// Who takes over which addresses when `failed` fails: for each heir its addresses.
pub(super) fn heirs(addresses: &Addresses, failed: u8) -> Vec<(u8, Vec<usize>)> {
    let mut heirs: Vec<_> = (0..addresses.members() as u8).map(|heir| (heir, Vec::new())).collect();
    for (number, list) in addresses.lists().enumerate().filter(|(_, list)| list[0] == failed) {
        heirs[usize::from(list[1])].1.push(number);
    }
    heirs.retain(|(_, taken)| !taken.is_empty());
    heirs
}

/// How many addresses are lost at most when as many nodes fail at once as there are tiers.
pub(super) fn most_lost(addresses: &Addresses) -> usize {
    let mut shared: HashMap<Vec<u8>, usize> = HashMap::new();
    for list in addresses.lists() {
        let mut nodes = list.to_vec();
        nodes.sort_unstable();
        *shared.entry(nodes).or_default() += 1;
    }
    shared.into_values().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_even_until_addresses_are_lost() {
        let addresses = Addresses::new(6, 2, false).unwrap();
        let none = &outcomes(&addresses, 0)[0];
        assert_eq!((none.least, none.most, none.survivors, none.lost.len()), (5, 5, 6, 0));
        let (one, two) = (outcomes(&addresses, 1), outcomes(&addresses, 2));
        assert_eq!((one.len(), two.len()), (6, 15));
        assert!(one.iter().all(|each| (each.least, each.most) == (6, 6) && each.lost.is_empty()));
        for outcome in &two {
            assert_eq!((outcome.least, outcome.most, outcome.lost.len()), (7, 7, 2));
            let lists = outcome.lost.iter().map(|&number| addresses.list(number).unwrap());
            assert!(lists.flatten().all(|node| outcome.failed.contains(node)));
        }
        assert_eq!(alike(&two).len(), 1);
        assert_eq!(most_lost(&addresses), 2);
    }

    #[test]
    fn the_compact_form_loses_nothing_and_is_a_little_uneven_after_two() {
        let addresses = Addresses::new(7, 3, true).unwrap();
        for outcome in outcomes(&addresses, 2) {
            assert_eq!((outcome.least, outcome.most, outcome.lost.len()), (8, 9, 0));
            assert!((outcome.most_by_mean() - 9.0 / 8.4).abs() < 1e-9);
        }
    }

    #[test]
    fn nobody_is_left_of_two_when_two_fail() {
        let addresses = Addresses::new(2, 2, false).unwrap();
        assert_eq!(outcomes(&addresses, 1)[0].most, 2);
        assert!(outcomes(&addresses, 2).is_empty());
    }

    #[test]
    fn each_survivor_inherits_one_address() {
        let addresses = Addresses::new(6, 2, false).unwrap();
        for failed in 0..6 {
            let heirs = heirs(&addresses, failed);
            assert!(heirs.iter().all(|(heir, taken)| *heir != failed && taken.len() == 1));
            assert_eq!(heirs.len(), 5);
        }
    }
}
