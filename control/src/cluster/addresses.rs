//! Lists of next-hop addresses: for every address, the nodes that serve it, in order of preference.
//!
//! In the `tiered` mode a router spreads over next-hop addresses, and every address has K nodes:
//! the first serves it, the second if the first has failed, the third if both have (K is 2 or 3).
//! Nodes are numbered by their place in the member list, from 0; removed members keep theirs.
//!
//! **All lists.** Every ordered list of K different nodes is used once: N(N-1) addresses for two
//! tiers, N(N-1)(N-2) for three. So every node stands equally often in each tier, and after any
//! failure of fewer than K nodes each survivor has gained equally. The numbering only appends when
//! a node is added behind the others:
//!
//! ```text
//! number(list) = ff(m, K) + p * ff(m, K-1) + number(list without m)      number of nothing = 0
//!     m the greatest node in the list, p its place there, ff(x, k) = x (x-1) ... (x-k+1)
//! ```
//!
//! since the lists of nodes below m are the first ff(m, K).
//!
//! **Compact.** Three tiers with N(N-1) addresses only. Modulo N, for every node i and every
//! distance d in 1..N:
//!
//! ```text
//! address i (N-1) + d-1:   first i   second i + d   third i + e(d)
//! ```
//!
//! where e is the first permutation of 1..N, in lexicographic order, with e(d) != d and, for more
//! than three nodes, d + e(-d) != e(d). The first condition makes the nodes of a list differ. The
//! second makes the two addresses that the nodes i and i + d serve for each other go to different
//! nodes when both have failed. There is such a permutation for N = 3 and from N = 5 on; none
//! for N = 4. What holds, and what does not:
//!
//! - every node stands N-1 times in each tier, and each pair of nodes shares two lists as first and
//!   second;
//! - after one failure each survivor has gained exactly one address;
//! - after two failures nothing is lost and each survivor has gained two addresses, but for two of
//!   them, which have gained three (with N = 3, the one survivor has gained all four);
//! - **the numbering does not only append**: another number of nodes makes other lists for nearly
//!   all addresses, so that a node is added to a compact cluster by building it anew.

use vipdp_core::bucket::BUCKETS;
use vipdp_core::slot::SLOTS;

/// The largest number of addresses: an address is a [`Bucket`](vipdp_core::bucket::Bucket) of the
/// cluster protocol.
pub const ADDRESSES_MAX: usize = BUCKETS;

/// Why there are no lists of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressesError {
    /// Neither two nor three tiers.
    #[error("{0} tiers: give 2 or 3")]
    Tiers(usize),
    /// A compact form of two tiers.
    #[error("the compact form has three tiers, not {0}: give 3, or leave the compact form")]
    CompactTiers(usize),
    /// Fewer nodes than tiers.
    #[error(
        "{members} node{} for {tiers} tiers: give at least {tiers} nodes{}",
        if *members == 1 { "" } else { "s" },
        if *tiers > 2 { ", or fewer tiers" } else { "" }
    )]
    TooFewMembers {
        /// How many nodes there are.
        members: usize,
        /// How many different nodes each list needs.
        tiers: usize,
    },
    /// More nodes than a cluster has slots.
    #[error("{0} nodes: give at most {SLOTS}")]
    TooManyMembers(usize),
    /// More addresses than [`ADDRESSES_MAX`].
    #[error(
        "{members} nodes make {addresses} addresses with {tiers} tiers, of at most \
         {ADDRESSES_MAX}: give at most {members_max} nodes, two tiers, or the compact form"
    )]
    TooMany {
        /// How many nodes there are.
        members: usize,
        /// How many nodes each list has.
        tiers: usize,
        /// How many lists that makes.
        addresses: usize,
        /// With how many nodes the lists would be few enough.
        members_max: usize,
    },
    /// Four nodes in compact form.
    #[error("no compact form for {0} nodes: it exists for 3 nodes, and from 5 nodes on")]
    NoCompactForm(usize),
}

/// The lists of all next-hop addresses. Nodes are places in the member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// One list of `tiers` nodes per address.
    lists: Box<[u8]>,
    members: usize,
    tiers: usize,
    compact: bool,
}

impl Addresses {
    /// The lists of `members` nodes with `tiers` tiers, in `compact` form or all.
    ///
    /// # Errors
    /// If there are none, or too many: [`AddressesError`].
    pub fn new(members: usize, tiers: usize, compact: bool) -> Result<Self, AddressesError> {
        if !(2..=3).contains(&tiers) {
            return Err(AddressesError::Tiers(tiers));
        }
        if compact && tiers != 3 {
            return Err(AddressesError::CompactTiers(tiers));
        }
        if members < tiers {
            return Err(AddressesError::TooFewMembers { members, tiers });
        }
        if members > SLOTS {
            return Err(AddressesError::TooManyMembers(members));
        }
        let lists = if compact { compact_lists(members)? } else { all_lists(members, tiers)? };
        Ok(Self { lists, members, tiers, compact })
    }

    /// How many addresses there are: 1..=[`ADDRESSES_MAX`].
    #[expect(clippy::len_without_is_empty, reason = "there is always an address")]
    pub fn len(&self) -> usize {
        self.lists.len() / self.tiers
    }

    /// How many nodes there are.
    pub fn members(&self) -> usize {
        self.members
    }

    /// How many nodes each address has: 2 or 3.
    pub fn tiers(&self) -> usize {
        self.tiers
    }

    /// Whether the lists are those of the compact form.
    pub fn is_compact(&self) -> bool {
        self.compact
    }

    /// The nodes of the address numbered `number`, the first choice first; `None` if there is no
    /// such address.
    pub fn list(&self, number: usize) -> Option<&[u8]> {
        self.lists.get(number.checked_mul(self.tiers)?..)?.get(..self.tiers)
    }

    /// The lists of all addresses, in the order of their numbers.
    pub fn lists(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.lists.chunks_exact(self.tiers)
    }

    /// The number of the address that has exactly `list`; `None` if there is no such address.
    pub fn number(&self, list: &[u8]) -> Option<usize> {
        let node = |&node: &u8| usize::from(node) < self.members;
        if list.len() != self.tiers || !list.iter().all(node) {
            return None;
        }
        let number = if self.compact {
            let (first, second) = (usize::from(list[0]), usize::from(list[1]));
            let distance = (second + self.members - first) % self.members;
            first * (self.members - 1) + distance.checked_sub(1)?
        } else {
            number(list)?
        };
        // Without this, a list with the third node of another one would have its number.
        (self.list(number)? == list).then_some(number)
    }
}

/// How many ordered lists of `tiers` different nodes `members` nodes make: the falling factorial.
/// `usize::MAX` stands for more than it can hold.
pub const fn count(members: usize, tiers: usize) -> usize {
    let (mut product, mut tier) = (1usize, 0);
    while tier < tiers {
        product = product.saturating_mul(members.saturating_sub(tier));
        tier += 1;
    }
    product
}

/// The number of a list of nodes among all lists of that length; `None` if a node stands in it
/// twice.
pub fn number(list: &[u8]) -> Option<usize> {
    let Some(greatest) = list.iter().copied().max() else { return Some(0) };
    let place = list.iter().position(|&node| node == greatest)?;
    let rest: Vec<_> = list.iter().copied().filter(|&node| node != greatest).collect();
    let (nodes, tiers) = (usize::from(greatest), list.len());
    (rest.len() + 1 == tiers)
        .then(|| number(&rest))
        .flatten()
        .map(|number| count(nodes, tiers) + place * count(nodes, tiers - 1) + number)
}

/// The list of `tiers` nodes that is numbered `number`: the inverse of [`number`].
fn list(number: usize, tiers: usize) -> Vec<u8> {
    if tiers == 0 {
        return Vec::new();
    }
    // The first node with which there are more lists than `number` is the greatest of this one.
    let mut greatest = tiers - 1;
    while count(greatest + 1, tiers) <= number {
        greatest += 1;
    }
    let rest = number - count(greatest, tiers);
    let at_each_place = count(greatest, tiers - 1);
    let mut list = list(rest % at_each_place, tiers - 1);
    list.insert(rest / at_each_place, greatest as u8);
    list
}

fn all_lists(members: usize, tiers: usize) -> Result<Box<[u8]>, AddressesError> {
    let addresses = count(members, tiers);
    if addresses > ADDRESSES_MAX {
        let fits = |&members: &usize| count(members, tiers) <= ADDRESSES_MAX;
        let members_max = (tiers..members).take_while(fits).last().unwrap_or(tiers);
        return Err(AddressesError::TooMany { members, tiers, addresses, members_max });
    }
    Ok((0..addresses).flat_map(|number| list(number, tiers)).collect())
}

const _: () =
    assert!(count(SLOTS, 2) <= ADDRESSES_MAX, "two tiers and the compact form always fit");

fn compact_lists(members: usize) -> Result<Box<[u8]>, AddressesError> {
    let third = third_distances(members).ok_or(AddressesError::NoCompactForm(members))?;
    let mut lists = Vec::with_capacity(3 * count(members, 2));
    for first in 0..members {
        for (distance, &third) in third.iter().enumerate().skip(1) {
            let after = [0, distance, third];
            lists.extend(after.map(|distance| ((first + distance) % members) as u8));
        }
    }
    Ok(lists.into())
}

/// e of the compact form, at the places 1..`members`: the first in lexicographic order.
///
/// The search goes back by a place or two only, at the end of the permutation.
fn third_distances(members: usize) -> Option<Vec<usize>> {
    let mut third = vec![0; members];
    let mut taken = vec![false; members];
    let mut distance = 1;
    while (1..members).contains(&distance) {
        // Tries the next value after the one that was tried last, which goes back to the others.
        let tried = third[distance];
        taken[tried] = false;
        let back = members - distance;
        let fits = |&value: &usize| {
            let goes_elsewhere =
                members == 3 || back >= distance || (distance + third[back]) % members != value;
            !taken[value] && value != distance && goes_elsewhere
        };
        match (tried + 1..members).find(fits) {
            Some(value) => {
                third[distance] = value;
                taken[value] = true;
                distance += 1;
            }
            None => {
                third[distance] = 0;
                distance -= 1;
            }
        }
    }
    (distance == members).then_some(third)
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
