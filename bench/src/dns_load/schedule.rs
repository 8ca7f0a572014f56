//! When each query is due.

/// An absolute schedule: query `n` is due at `start + n / rate`, whatever happened to the queries before it, so
/// that rounding and late wake-ups never add up to drift.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    start_ns: u64,
    per_second: u64,
}

impl Schedule {
    /// A schedule of `per_second` queries a second from `start_ns` on.
    pub(super) fn new(start_ns: u64, per_second: u64) -> Self {
        assert!(per_second > 0, "a schedule needs a rate");
        Self { start_ns, per_second }
    }

    /// The time at which query `number` is due, nanoseconds on the clock of the start.
    pub(super) fn due_ns(&self, number: u64) -> u64 {
        let offset = u128::from(number) * 1_000_000_000 / u128::from(self.per_second);
        self.start_ns.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_evenly_spaced() {
        let schedule = Schedule::new(1_000, 2_000);
        assert_eq!(schedule.due_ns(0), 1_000);
        assert_eq!(schedule.due_ns(1), 501_000);
        assert_eq!(schedule.due_ns(2_000), 1_000_001_000);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_does_not_drift() {
        let schedule = Schedule::new(0, 3_000);
        assert_eq!(schedule.due_ns(3_000 * 86_400), 86_400 * 1_000_000_000);
        let gaps: Vec<u64> = (0..9).map(|n| schedule.due_ns(n + 1) - schedule.due_ns(n)).collect();
        assert!(gaps.iter().all(|gap| (333_333..=333_334).contains(gap)), "{gaps:?}");
    }
}
