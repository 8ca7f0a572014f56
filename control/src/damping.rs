//! Damping of what flaps, after the route flap damping of BGP (RFC 2439).
//!
//! Each failure adds to a penalty that halves in every half-life. From the `suppress` value on the
//! thing is kept out, until the penalty has decayed to the `reuse` value. So what fails now and then
//! is taken back at once, and what comes and goes is left out until it has been quiet for a while.
//!
//! ```text
//!   penalty
//!   3000 -          *  kept out from here ...
//!   2500 - - - - - -|-\- - - - - - - - - suppress
//!   2000 -       *  |   \
//!   1000 -   *  / `-'     `-- . _ - - - reuse: ... to here
//!      0 ___/                      ` - .
//! ```

/// How failures weigh, and what keeps out. Penalties are plain numbers, up to a million; half-lives are
/// up to an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// What each failure adds; 0 keeps nothing out.
    pub penalty: u32,
    /// In what time the penalty halves, nanoseconds; not 0.
    pub half_life_ns: u64,
    /// From what penalty on the thing is kept out.
    pub suppress: u32,
    /// At what penalty it is taken back; below `suppress`, and not 0.
    pub reuse: u32,
    /// How long it is kept out at the most, nanoseconds, provided that it does not fail anew.
    pub max_ns: u64,
}

/// No more halvings are reckoned with: a penalty of 2^40 is beyond what anybody would wait for.
const HALVINGS_MAX: u64 = 20;

const NS_PER_MS: u64 = 1_000_000;

impl Damping {
    /// What has failed three times in a minute is kept out until it has been quiet for one and a half,
    /// and for five minutes at the most.
    pub const DEFAULT: Self = Self {
        penalty: 1000,
        half_life_ns: 60_000_000_000,
        suppress: 2500,
        reuse: 1000,
        max_ns: 300_000_000_000,
    };

    /// The largest penalty: what decays to `reuse` within `max_ns`.
    pub const fn ceiling(&self) -> u64 {
        let halvings = self.max_ns / self.half_life_ns;
        if halvings >= HALVINGS_MAX {
            return (self.reuse as u64) << HALVINGS_MAX;
        }
        // What is left of the time shortens the decay of one half-life, which is linear.
        let (whole_ms, rest_ms) =
            (2 * self.half_life_ns / NS_PER_MS, self.max_ns % self.half_life_ns / NS_PER_MS);
        ((self.reuse as u64) << halvings) * whole_ms / (whole_ms - rest_ms)
    }

    /// How often a thing that is kept out by this damping may fail, and be noticed, within a time,
    /// whatever it does.
    ///
    /// Every failure that is noticed adds `penalty` to a value below `suppress`, and a value never
    /// decays faster than half the largest of them per half-life.
    pub fn failures_max(&self, within_ns: u64) -> u64 {
        let (penalty, top) =
            (u128::from(self.penalty), u128::from(self.suppress) + u128::from(self.penalty));
        let decayed = top * u128::from(within_ns) / (2 * u128::from(self.half_life_ns));
        u64::try_from((top + decayed) / penalty.max(1) + 1).unwrap_or(u64::MAX)
    }
}

/// The penalty of one thing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Penalty {
    /// As of `at_ns`.
    value: u64,
    at_ns: u64,
    suppressed: bool,
}

impl Penalty {
    /// That of a thing that never failed.
    pub const NONE: Self = Self { value: 0, at_ns: 0, suppressed: false };

    /// The value at `now_ns`: halved for each half-life, and linear within one, which is at most
    /// 6 % above the exponential curve.
    pub fn value(&self, damping: &Damping, now_ns: u64) -> u64 {
        let age = now_ns.saturating_sub(self.at_ns);
        let halvings = (age / damping.half_life_ns).min(63);
        let value = self.value >> halvings;
        // In milliseconds, so that the product fits.
        let rest_ms = age % damping.half_life_ns / NS_PER_MS;
        value - value * rest_ms / (2 * damping.half_life_ns).div_ceil(NS_PER_MS)
    }

    /// Counts a failure.
    pub fn add(&mut self, damping: &Damping, now_ns: u64) {
        let value = self.value(damping, now_ns) + u64::from(damping.penalty);
        self.value = value.min(damping.ceiling());
        self.at_ns = now_ns;
        self.suppressed |= damping.penalty > 0 && self.value >= u64::from(damping.suppress);
    }

    /// Whether the thing is kept out at `now_ns`.
    pub fn suppressed(&mut self, damping: &Damping, now_ns: u64) -> bool {
        self.suppressed &= self.value(damping, now_ns) > u64::from(damping.reuse);
        self.suppressed
    }

    /// How long the thing is kept out from `now_ns` on unless it fails anew, nanoseconds, to the
    /// millisecond; 0 if it is not.
    pub fn suppressed_for_ns(&self, damping: &Damping, now_ns: u64) -> u64 {
        let reuse = u64::from(damping.reuse);
        if !self.suppressed || self.value(damping, now_ns) <= reuse {
            return 0;
        }
        let (mut value, mut until_ns) = (self.value, self.at_ns);
        while value / 2 > reuse {
            value /= 2;
            until_ns += damping.half_life_ns;
        }
        let whole_ms = (2 * damping.half_life_ns).div_ceil(NS_PER_MS);
        until_ns += ((value - reuse) * whole_ms).div_ceil(value.max(1)) * NS_PER_MS;
        until_ns.saturating_sub(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    const DAMPING: Damping = Damping::DEFAULT;

    #[test]
    fn three_failures_in_a_minute_suppress_for_minutes_and_one_never() {
        let mut penalty = Penalty::default();
        penalty.add(&DAMPING, 0);
        assert!(!penalty.suppressed(&DAMPING, 0));
        penalty.add(&DAMPING, 15 * SECOND);
        assert!(!penalty.suppressed(&DAMPING, 15 * SECOND));
        penalty.add(&DAMPING, 30 * SECOND);
        assert!(penalty.suppressed(&DAMPING, 31 * SECOND));
        assert!(penalty.suppressed(&DAMPING, 60 * SECOND));
        assert!(!penalty.suppressed(&DAMPING, 180 * SECOND));
    }

    #[test]
    fn no_number_of_failures_suppresses_for_longer_than_the_most() {
        let mut penalty = Penalty::default();
        for _ in 0..1000 {
            penalty.add(&DAMPING, 200 * SECOND);
        }
        assert_eq!(penalty.suppressed_for_ns(&DAMPING, 200 * SECOND), 300 * SECOND);
        assert!(penalty.suppressed(&DAMPING, 499 * SECOND));
        assert!(!penalty.suppressed(&DAMPING, 500 * SECOND));
    }

    #[test]
    fn a_penalty_of_zero_suppresses_nothing() {
        let damping = Damping { penalty: 0, ..DAMPING };
        let mut penalty = Penalty::default();
        for at in 0..10_000 {
            penalty.add(&damping, at);
        }
        assert!(!penalty.suppressed(&damping, 10_000));
    }

    proptest! {
        /// The time that is told is the time that passes.
        #[test]
        fn what_is_told_of_the_time_left_comes_true(
            half_life_s in 1..600_u64,
            failures in 3..40_usize,
            gap_ms in 0..2000_u64,
        ) {
            let damping = Damping {
                half_life_ns: half_life_s * SECOND,
                max_ns: 6 * half_life_s * SECOND,
                ..DAMPING
            };
            let (mut penalty, mut now) = (Penalty::default(), 0);
            for _ in 0..failures {
                penalty.add(&damping, now);
                now += gap_ms * NS_PER_MS;
            }
            let left = penalty.suppressed_for_ns(&damping, now);
            prop_assert!(left <= damping.max_ns, "{left}");
            // What is rounded makes a few thousandths.
            let slack = damping.half_life_ns / 200;
            let mut later = penalty;
            prop_assert!(!later.suppressed(&damping, now + left + slack));
            prop_assume!(left > slack);
            prop_assert!(penalty.suppressed(&damping, now + left - slack));
        }
    }
}
