//! A node's own monotonic clock: it starts anywhere and runs a little fast or slow.

/// When virtual time begins, in nanoseconds.
pub const EPOCH: u64 = 1_000_000_000_000;

/// How a node's clock relates to virtual time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// What it shows more than virtual time at [`EPOCH`], in nanoseconds.
    pub offset: u64,
    /// By how much it is fast, in parts per million; negative for slow.
    pub ppm: i64,
}

impl Clock {
    /// What it shows at the virtual time `at`.
    pub fn local(self, at: u64) -> u64 {
        let since = i128::from(at) - i128::from(EPOCH);
        let gained = since * i128::from(self.ppm) / 1_000_000;
        (i128::from(at) + i128::from(self.offset) + gained) as u64
    }

    /// The first virtual time at which it shows `local` or more.
    pub fn global(self, local: u64) -> u64 {
        let since = i128::from(local) - i128::from(self.offset) - i128::from(EPOCH);
        let virtually = since * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        let mut at = (i128::from(EPOCH) + virtually).max(0) as u64;
        at = at.saturating_sub(2);
        while self.local(at) < local {
            at += 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_no_earlier_than_it_says() {
        for ppm in [-20_000, -200, 0, 1, 200, 20_000] {
            let clock = Clock { offset: 77_777, ppm };
            for step in 0..1000 {
                let local = clock.local(EPOCH) + step * 7_919_317;
                let at = clock.global(local);
                assert!(clock.local(at) >= local && clock.local(at - 1) < local, "{ppm} {step}");
            }
        }
    }
}
