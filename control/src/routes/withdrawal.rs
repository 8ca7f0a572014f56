//! The order in which routes are taken back.
//!
//! ```text
//!              wished                  leaves                mark over              wait over
//!   Nothing ----------> Announced ----------------> Marked ------------> Withdrawn -----------> Nothing
//!      ^                  ^  |                       |  ^                  |   ^
//!      |                  |  '---- not wished ------ | -'------------------|---'
//!      |                  '------- wished -----------'---------------------'
//! ```
//!
//! Time is an argument; nothing here owns a timer.

use std::time::Duration;

use crate::bgp::Announcement;

/// What a node wants announced of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Routes.
    Routes,
    /// No more routes: it is to be emptied, and serves until that is so.
    Leave,
    /// What there is: it finds out who is there. Routes that stand are put up with while it does, which
    /// is a moment after its loop was late, rather than taken back and announced again.
    Undecided,
    /// No routes: it cannot serve.
    Nothing,
}

/// How far routes are taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There are none, and nobody sends by them.
    Nothing,
    /// They stand.
    Announced,
    /// They stand, and routers prefer others, until this time.
    Marked {
        /// On the monotonic clock, in nanoseconds.
        until_ns: u64,
    },
    /// There are none, and some router may still send by them, until this time.
    Withdrawn {
        /// On the monotonic clock, in nanoseconds.
        until_ns: u64,
    },
}

impl Stage {
    /// What peers are told.
    pub const fn announcement(self) -> Announcement {
        match self {
            Self::Announced => Announcement::Announced,
            Self::Marked { .. } => Announcement::Marked,
            Self::Nothing | Self::Withdrawn { .. } => Announcement::Nothing,
        }
    }

    /// Its name in the status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Marked { .. } => "marked",
            Self::Nothing | Self::Withdrawn { .. } => "withdrawn",
        }
    }
}

/// The order in which routes are taken back, as a pure state machine.
#[derive(Clone, Copy, Debug)]
pub struct Withdrawal {
    stage: Stage,
    mark_ns: u64,
    wait_ns: u64,
}

impl Withdrawal {
    /// Nothing is announced. Routes are marked for `mark`, and after they were withdrawn `wait` passes
    /// before nobody sends by them.
    pub fn new(mark: Duration, wait: Duration) -> Self {
        let ns = |time: Duration| time.as_nanos() as u64;
        Self { stage: Stage::Nothing, mark_ns: ns(mark), wait_ns: ns(wait) }
    }

    /// What stands.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// What stands from `now_ns` on (monotonic clock, nanoseconds). Each call makes one transition at
    /// least, if one is due.
    pub fn step(&mut self, now_ns: u64, wish: Wish) -> Stage {
        let withdrawn = Stage::Withdrawn { until_ns: now_ns + self.wait_ns };
        self.stage = match (self.stage, wish) {
            (_, Wish::Routes) => Stage::Announced,
            (Stage::Announced, Wish::Leave) if self.mark_ns > 0 => {
                Stage::Marked { until_ns: now_ns + self.mark_ns }
            }
            (Stage::Announced, Wish::Leave | Wish::Nothing)
            | (Stage::Marked { .. }, Wish::Nothing) => withdrawn,
            (Stage::Marked { until_ns }, Wish::Leave | Wish::Undecided) if now_ns >= until_ns => {
                withdrawn
            }
            (Stage::Withdrawn { until_ns }, _) if now_ns >= until_ns => Stage::Nothing,
            (stage, _) => stage,
        };
        self.stage
    }

    /// When the next transition is due, if the wish stays what it is.
    pub const fn deadline_ns(&self) -> Option<u64> {
        match self.stage {
            Stage::Marked { until_ns } | Stage::Withdrawn { until_ns } => Some(until_ns),
            Stage::Nothing | Stage::Announced => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Stage::{Announced, Marked, Nothing, Withdrawn};
    use proptest::prelude::*;

    const MARK: u64 = 1000;
    const WAIT: u64 = 2000;

    fn machine(stage: Stage) -> Withdrawal {
        let [mark, wait] = [MARK, WAIT].map(Duration::from_nanos);
        Withdrawal { stage, ..Withdrawal::new(mark, wait) }
    }

    #[test]
    fn every_transition_is_as_drawn() {
        let (marked, withdrawn) = (Marked { until_ns: 500 }, Withdrawn { until_ns: 500 });
        let (fresh_mark, fresh_wait) =
            (|now| Marked { until_ns: now + MARK }, |now| Withdrawn { until_ns: now + WAIT });
        for (stage, now, wish, expected) in [
            (Nothing, 9, Wish::Nothing, Nothing),
            (Nothing, 9, Wish::Leave, Nothing),
            (Nothing, 9, Wish::Undecided, Nothing),
            (Nothing, 9, Wish::Routes, Announced),
            (Announced, 9, Wish::Routes, Announced),
            (Announced, 9, Wish::Undecided, Announced),
            (Announced, 9, Wish::Leave, fresh_mark(9)),
            (Announced, 9, Wish::Nothing, fresh_wait(9)),
            (marked, 499, Wish::Leave, marked),
            (marked, 500, Wish::Leave, fresh_wait(500)),
            (marked, 499, Wish::Undecided, marked),
            (marked, 500, Wish::Undecided, fresh_wait(500)),
            (marked, 9, Wish::Nothing, fresh_wait(9)),
            (marked, 9, Wish::Routes, Announced),
            (withdrawn, 499, Wish::Leave, withdrawn),
            (withdrawn, 499, Wish::Nothing, withdrawn),
            (withdrawn, 500, Wish::Nothing, Nothing),
            (withdrawn, 500, Wish::Leave, Nothing),
            (withdrawn, 499, Wish::Undecided, withdrawn),
            (withdrawn, 500, Wish::Undecided, Nothing),
            (withdrawn, 9, Wish::Routes, Announced),
        ] {
            let found = machine(stage).step(now, wish);
            assert_eq!(found, expected, "{stage:?} at {now}, {wish:?}");
        }
    }

    #[test]
    fn what_cannot_be_marked_is_withdrawn_at_once() {
        let mut withdrawal = Withdrawal::new(Duration::ZERO, Duration::from_nanos(WAIT));
        assert_eq!(withdrawal.step(0, Wish::Routes), Announced);
        assert_eq!(withdrawal.step(7, Wish::Leave), Withdrawn { until_ns: 7 + WAIT });
    }

    proptest! {
        /// Whatever is wished and whenever: after the last route there is none for the whole wait, or
        /// routes again because they were wished for; and a node that leaves was marked first for its
        /// time, unless it became unable to serve.
        #[test]
        fn nobody_is_gone_before_the_network_knows(
            steps in prop::collection::vec((0..800_u64, 0..4_usize), 1..60),
        ) {
            let mut machine = machine(Nothing);
            let (mut now, mut had_routes, mut marked_since) = (0, None, None);
            for (pause, wish) in steps {
                now += pause;
                let wish = [Wish::Routes, Wish::Leave, Wish::Undecided, Wish::Nothing][wish];
                let before = machine.stage();
                let stage = machine.step(now, wish);
                match stage.announcement() {
                    Announcement::Announced => {
                        prop_assert!(wish == Wish::Routes || wish == Wish::Undecided);
                    }
                    Announcement::Marked => {
                        prop_assert!(wish == Wish::Leave || wish == Wish::Undecided);
                        marked_since.get_or_insert(now);
                    }
                    Announcement::Nothing => {}
                }
                if before == Announced && stage != Announced && wish == Wish::Leave {
                    prop_assert_eq!(stage, Marked { until_ns: now + MARK });
                }
                if matches!((before, stage), (Marked { .. }, Withdrawn { .. })) && wish != Wish::Nothing {
                    let since = marked_since.expect("marked before");
                    prop_assert!(now - since >= MARK);
                }
                if !matches!(stage, Marked { .. }) {
                    marked_since = None;
                }
                if before.announcement() != Announcement::Nothing
                    && stage.announcement() == Announcement::Nothing
                {
                    had_routes = Some(now);
                }
                if let (Withdrawn { .. }, Nothing) = (before, stage) {
                    let since = had_routes.expect("withdrawn before");
                    prop_assert!(now - since >= WAIT);
                }
            }
        }
    }
}
