//! How long a worker that has run out of frames looks for more before it sleeps.
//!
//! Looking costs the core's time; sleeping and being woken costs some too, of the worker's core and of the one that
//! wakes it, and the frame has to wait for it. Where the next frame is near, looking is the cheaper; where it
//! is far, all of it is wasted. So a worker keeps the mean of the gaps that it has seen last, from its last frame to
//! the next one:
//!
//! ```text
//!   mean gap < SPIN_NS    look for SPIN_NS, then sleep      under load
//!   else                  sleep at once                     idle, or frames in bundles: interrupts that are moderated
//! ```
//!
//! Looking for as long as a wake-up costs wastes at most that much again, whatever comes (A. Karlin et al.,
//! "Empirical studies of competitive spinning", SOSP 1991); the mean saves it where it is known to
//! be in vain. No clock is read here: the turn's own time is enough.

/// How long a worker looks for frames before it sleeps, nanoseconds. 20 us: what it takes from a sleep to the first
/// frame after it, on the worker's core and on the one that wakes it. Less than what NICs moderate
/// their interrupts by (50 us with Intel's ice driver), which is a gap that is slept through.
const SPIN_NS: u64 = 20_000;

/// A gap counts as this at most: so that after any sleep a few short gaps are enough to look again.
const GAP_MAX_NS: u64 = 4 * SPIN_NS;

/// The share of a new gap in the mean is one in so many: few, since load comes and goes within a millisecond.
const MEMORY: u64 = 4;

/// The patience of one worker.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// Mean of the gaps, nanoseconds.
    gap_ns: u64,
    /// When the frames ran out; `None` while they come.
    dry_since_ns: Option<u64>,
}

impl Patience {
    /// That of a worker that has seen no frame yet: it sleeps at once.
    pub(super) fn new() -> Self {
        Self { gap_ns: GAP_MAX_NS, dry_since_ns: None }
    }

    /// The turn that began at `now_ns` had frames.
    pub(super) fn found(&mut self, now_ns: u64) {
        if let Some(since_ns) = self.dry_since_ns.take() {
            let gap_ns = now_ns.saturating_sub(since_ns).min(GAP_MAX_NS);
            self.gap_ns = (self.gap_ns * (MEMORY - 1) + gap_ns) / MEMORY;
        }
    }

    /// The turn that began at `now_ns` had none: whether to sleep now. With `tries_again` there may be something to do at the
    /// next turn whatever the gaps, and so that is always tried for a while: the kernel has not taken every frame that
    /// is to be sent, or the worker runs the driver's receive side itself.
    pub(super) fn is_over(&mut self, now_ns: u64, tries_again: bool) -> bool {
        let since_ns = *self.dry_since_ns.get_or_insert(now_ns);
        let looks = tries_again || self.gap_ns < SPIN_NS;
        !looks || now_ns.saturating_sub(since_ns) >= SPIN_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    /// A worker to which bundles of frames come with gaps of `gap_ns`, and that looks every 100 ns: in how many of the
    /// last ten gaps it slept.
    fn sleeps(patience: &mut Patience, now_ns: &mut u64, gap_ns: u64) -> usize {
        let slept = |_| {
            patience.found(*now_ns);
            let until_ns = *now_ns + gap_ns;
            let mut sleeps = false;
            while *now_ns < until_ns && !sleeps {
                *now_ns += 100;
                sleeps = patience.is_over(*now_ns, false);
            }
            *now_ns = until_ns;
            sleeps
        };
        let all: Vec<bool> = (0..40).map(slept).collect();
        all[30..].iter().filter(|&&slept| slept).count()
    }

    #[test]
    fn short_gaps_are_looked_through_and_long_ones_slept_through() {
        let (mut patience, mut now_ns) = (Patience::new(), 0);
        for (gap_ns, slept) in
            [(5 * US, 0), (50 * US, 10), (15 * US, 0), (1_000_000 * US, 10), (US, 0)]
        {
            assert_eq!(sleeps(&mut patience, &mut now_ns, gap_ns), slept, "{gap_ns} ns");
        }
    }

    #[test]
    fn one_long_gap_in_many_short_ones_is_slept_through_and_changes_nothing() {
        let (mut patience, mut now_ns) = (Patience::new(), 0);
        assert_eq!(sleeps(&mut patience, &mut now_ns, 2 * US), 0);
        let dry_ns = now_ns + 100;
        patience.found(now_ns);
        assert!(!patience.is_over(dry_ns, false));
        assert!(!patience.is_over(dry_ns + SPIN_NS - 1, false));
        assert!(patience.is_over(dry_ns + SPIN_NS, false));
        patience.found(dry_ns + 30 * US);
        assert!(!patience.is_over(dry_ns + 31 * US, false));
    }

    #[test]
    fn without_frames_it_sleeps_at_once() {
        let mut patience = Patience::new();
        assert!(patience.is_over(7, false));
        assert!(patience.is_over(20_000 * US, false));
    }

    #[test]
    fn frames_to_be_sent_are_tried_again_before_it_sleeps_but_not_for_ever() {
        let mut patience = Patience::new();
        assert!(!patience.is_over(US, true));
        assert!(!patience.is_over(US + SPIN_NS - 1, true));
        assert!(patience.is_over(US + SPIN_NS, true));
        assert!(patience.is_over(2 * US, false));
    }
}
