//! What a node can know of the others: the latest message of each that has reached it, directly or
//! told by somebody.
//!
//! It is worked out from what the network delivered, not from what the nodes made of it, so that
//! it tells whether a node had any reason to take another for dead.

/// A message: when its sender started, and its sequence number.
pub type Stamp = (u64, u64);

/// The latest news of each node, by place.
#[derive(Clone, Debug)]
pub struct News {
    latest: Vec<Option<(Stamp, u64)>>,
}

impl News {
    /// No news of any of `count` nodes.
    pub fn new(count: usize) -> Self {
        Self { latest: vec![None; count] }
    }

    /// When the latest news of the node at `place` came.
    pub fn latest(&self, place: usize) -> Option<u64> {
        self.latest.get(place).copied().flatten().map(|(_, at)| at)
    }

    /// Takes note of a node's own message.
    pub fn tell_of_self(&mut self, own: usize, stamp: Stamp, now: u64) {
        self.hear_of(own, stamp, now);
    }

    /// Takes in what a sender knew. Returns the longest time that anything of it was waited for,
    /// in nanoseconds: the time between two pieces of news of one start of one node.
    pub fn hear(&mut self, other: &Self, now: u64) -> u64 {
        let mut longest = 0;
        for (place, news) in other.latest.iter().enumerate() {
            if let Some((stamp, _)) = *news {
                longest = longest.max(self.hear_of(place, stamp, now));
            }
        }
        longest
    }

    fn hear_of(&mut self, place: usize, stamp: Stamp, now: u64) -> u64 {
        if place >= self.latest.len() {
            self.latest.resize(place + 1, None);
        }
        match self.latest[place] {
            Some((known, _)) if stamp <= known => 0,
            Some((known, at)) if known.0 == stamp.0 => {
                self.latest[place] = Some((stamp, now));
                now - at
            }
            _ => {
                self.latest[place] = Some((stamp, now));
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_with_news_from_anybody_and_not_with_old_ones() {
        let (mut a, mut b, mut c) = (News::new(3), News::new(3), News::new(3));
        a.tell_of_self(0, (1, 1), 10);
        assert_eq!(c.hear(&a, 11), 0);
        a.tell_of_self(0, (1, 2), 20);
        b.hear(&a, 21);
        // Old news end no silence.
        let mut old = News::new(3);
        old.tell_of_self(0, (1, 1), 10);
        assert_eq!(c.hear(&old, 30), 0);
        assert_eq!(c.hear(&b, 41), 30, "told by b");
        // Another start is no silence.
        a.tell_of_self(0, (50, 1), 50);
        assert_eq!(c.hear(&a, 99), 0);
    }
}
