//! What the network does to datagrams.

use std::collections::BTreeMap;

use crate::MS;
use crate::random::Random;

/// What the network does to datagrams, and what it has done.
#[derive(Clone, Debug)]
pub struct Link {
    /// Per cent of datagrams that are lost.
    pub loss: u64,
    /// Per cent of datagrams after which a burst of losses begins on the same way.
    pub burst: u64,
    /// How many datagrams a burst takes.
    pub burst_len: u64,
    /// Longest delay, in nanoseconds; the shortest is a tenth of it.
    pub delay: u64,
    /// Per cent of datagrams that arrive twice.
    pub duplicates: u64,
    /// Per cent of datagrams that are held up, so that later ones overtake them.
    pub reordered: u64,
    /// For how long at most, in nanoseconds.
    pub held_up: u64,
    /// Per cent of datagrams of which a damaged copy arrives too.
    pub damaged: u64,
    /// Datagrams from the first to the second are lost.
    pub cuts: Vec<(usize, usize)>,
    /// The most losses in a row on one way, but for cuts.
    pub losses_in_a_row: u64,
    lost: BTreeMap<(usize, usize), u64>,
    bursting: BTreeMap<(usize, usize), u64>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            loss: 0,
            burst: 0,
            burst_len: 0,
            delay: MS,
            duplicates: 0,
            reordered: 0,
            held_up: 0,
            damaged: 0,
            cuts: Vec::new(),
            losses_in_a_row: 0,
            lost: BTreeMap::new(),
            bursting: BTreeMap::new(),
        }
    }
}

impl Link {
    /// Makes the network what it was, but for `loss`, and keeps what was counted.
    pub fn heal(&mut self, loss: u64) {
        let (lost, losses_in_a_row) = (std::mem::take(&mut self.lost), self.losses_in_a_row);
        *self = Self { loss, lost, losses_in_a_row, ..Self::default() };
    }

    /// Whether a datagram gets from one node to the other.
    pub fn passes(&mut self, from: usize, to: usize, random: &mut Random) -> bool {
        if self.cuts.contains(&(from, to)) {
            return false;
        }
        if from == to {
            return true;
        }
        let way = (from, to);
        let burst = self.bursting.entry(way).or_default();
        if *burst == 0 && random.happens(self.burst) {
            *burst = self.burst_len;
        }
        let in_burst = *burst > 0;
        *burst -= u64::from(in_burst);
        let lost = random.happens(self.loss) || in_burst;
        let in_a_row = self.lost.entry(way).or_default();
        *in_a_row = if lost { *in_a_row + 1 } else { 0 };
        self.losses_in_a_row = self.losses_in_a_row.max(*in_a_row);
        !lost
    }

    /// How long the next datagram takes, in nanoseconds.
    pub fn delay(&self, random: &mut Random) -> u64 {
        let usual = self.delay / 10 + random.below(self.delay * 9 / 10 + 1);
        let held_up = random.happens(self.reordered);
        usual + if held_up { random.below(self.held_up + 1) } else { 0 }
    }

    /// The longest that a datagram can take, in nanoseconds.
    pub fn delay_max(&self) -> u64 {
        self.delay + if self.reordered > 0 { self.held_up } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_in_a_row_are_counted_per_way_and_cuts_are_not() {
        let mut random = Random::new(1);
        let mut link = Link { loss: 100, ..Link::default() };
        for _ in 0..3 {
            assert!(!link.passes(0, 1, &mut random));
            assert!(!link.passes(1, 0, &mut random));
        }
        assert_eq!(link.losses_in_a_row, 3);
        link.cuts.push((0, 1));
        assert!(!link.passes(0, 1, &mut random));
        assert_eq!(link.losses_in_a_row, 3);
    }

    #[test]
    fn a_burst_takes_as_many_as_it_says() {
        let mut random = Random::new(2);
        let mut link = Link { burst: 100, burst_len: 4, ..Link::default() };
        assert!(!link.passes(0, 1, &mut random));
        link.burst = 0;
        let lost = (0..10).take_while(|_| !link.passes(0, 1, &mut random)).count();
        assert_eq!(lost, 3);
    }
}
