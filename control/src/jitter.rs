//! Small draws that keep nodes from acting in step: heartbeats, BFD packets, attempts to connect.

/// A source of times that are not quite those that were asked for, and of words that differ between
/// nodes. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    /// What it yields depends on `seed` alone.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Marsaglia, Xorshift RNGs, 2003. The state is never 0.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A word that is not 0.
    pub(crate) fn word(&mut self) -> u64 {
        // Odd multiples of what is not 0 are not 0 either.
        self.next().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// From 0 up to, but not including, `whole`, which has 48 bits at most.
    pub(crate) fn part(&mut self, whole: u64) -> u64 {
        whole * (self.next() >> 48) / (1 << 16)
    }

    /// Three quarters of `interval` to all of it (RFC 4271, section 10; RFC 5880, section 6.8.7).
    pub(crate) fn apply(&mut self, interval: u64) -> u64 {
        interval - self.part(interval / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_quarters_are_kept() {
        const INTERVAL: u64 = 1_000_000_000;
        let mut jitter = Jitter::new(7);
        let drawn: Vec<_> = (0..1000).map(|_| jitter.apply(INTERVAL)).collect();
        assert!(drawn.iter().all(|time| (INTERVAL * 3 / 4..=INTERVAL).contains(time)));
        let [least, most] = [drawn.iter().min(), drawn.iter().max()].map(|time| *time.unwrap());
        assert!(least < INTERVAL * 77 / 100 && most > INTERVAL * 98 / 100, "{least} {most}");
    }

    #[test]
    fn no_word_is_zero() {
        let mut jitter = Jitter::new(0);
        assert!((0..1000).all(|_| jitter.word() != 0));
    }
}
