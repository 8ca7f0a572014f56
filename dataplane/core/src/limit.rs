//! A rate limit that reads no clock and keeps one number.

/// Lets a number of frames through at once, and from then on so many a second.
///
/// The generic cell rate algorithm (ITU-T I.371, annex A): a token bucket that is kept as the time at
/// which it will be full again.
#[derive(Clone, Copy, Debug)]
pub struct Limiter {
    /// Time that one frame costs.
    interval_ns: u64,
    /// How far the time below may be ahead of the present for one frame more.
    ahead_ns: u64,
    /// When all that was let through will have been paid for.
    paid_ns: u64,
}

impl Limiter {
    /// A limit of `burst` frames at once and `rate_per_s` in the long run, both at least 1; a rate
    /// above 10^9 has no effect.
    pub const fn new(rate_per_s: u32, burst: u32) -> Self {
        let interval_ns = 1_000_000_000 / rate_per_s as u64;
        Self { interval_ns, ahead_ns: interval_ns * (burst as u64 - 1), paid_ns: 0 }
    }

    /// Whether one more frame may go at `now_ns` (any clock that does not run backwards,
    /// nanoseconds). It is then taken to have gone.
    #[inline]
    pub fn admit(&mut self, now_ns: u64) -> bool {
        let paid_ns = self.paid_ns.max(now_ns);
        if paid_ns - now_ns > self.ahead_ns {
            return false;
        }
        self.paid_ns = paid_ns.saturating_add(self.interval_ns);
        true
    }

    /// From when on one more frame may go.
    pub const fn ready_ns(&self) -> u64 {
        self.paid_ns.saturating_sub(self.ahead_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limiter: &mut Limiter, now_ns: u64) -> usize {
        (0..10_000).take_while(|_| limiter.admit(now_ns)).count()
    }

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate_counts() {
        let mut limiter = Limiter::new(100_000, 1_000);
        let start = 1 << 40;
        assert_eq!(admitted(&mut limiter, start), 1_000);
        assert_eq!(admitted(&mut limiter, start), 0);
        assert_eq!(limiter.ready_ns(), start + 10_000);
        assert_eq!(admitted(&mut limiter, start + 9_999), 0);
        assert_eq!(admitted(&mut limiter, start + 10_000), 1);
        assert_eq!(admitted(&mut limiter, start + 1_010_000), 100);
        assert_eq!(admitted(&mut limiter, start + 3_600_000_000_000), 1_000);
    }

    #[test]
    fn in_the_long_run_the_rate_is_kept_however_the_bursts_fall() {
        let mut limiter = Limiter::new(1_000, 10);
        let total: usize = (0..=10_000).map(|ms| admitted(&mut limiter, ms * 1_000_000)).sum();
        assert_eq!(total, 10_000 + 10);
    }

    #[test]
    fn a_clock_that_runs_backwards_gives_nothing_away() {
        let mut limiter = Limiter::new(1_000, 2);
        assert_eq!(admitted(&mut limiter, 5_000_000_000), 2);
        assert_eq!(admitted(&mut limiter, 0), 0);
        assert_eq!(admitted(&mut limiter, 5_000_000_000), 0);
    }
}
