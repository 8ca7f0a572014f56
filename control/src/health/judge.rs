//! What the outcomes of a check say about the service: well, ill, or not to be trusted.
//!
//! ```text
//!                      rise outcomes in a row are well
//!   Unknown, Down  -------------------------------------->  Up
//!      ^    ^      <--------------------------------------   |
//!      |    |          fall outcomes in a row are ill        |  and that too often
//!      |    |                                                v
//!      |    `----------------------------------------  Suppressed
//!      |      the penalty has decayed, and it is ill         |
//!      `- the start          ... and it is well: to Up  <----'
//! ```
//!
//! Each fall adds a penalty (see [`crate::damping`]), also one while the service is suppressed: what
//! goes on flapping stays suppressed. So however the outcomes come, the service is taken back at
//! most [`Damping::failures_max`] times within any time.

use crate::damping::{Damping, Penalty};

/// What became of one turn of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service did what it should.
    Well,
    /// It did not.
    Ill,
}

/// What is thought of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing yet: too few outcomes since the start.
    Unknown,
    /// It is well.
    Up,
    /// It is ill.
    Down,
    /// It has flapped, and is left out, whatever its outcomes, until it has been quiet for a while.
    Suppressed,
}

/// The state is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state now.
    pub to: State,
}

/// How many outcomes make a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// How many outcomes in a row must be well; not 0.
    pub rise: u32,
    /// How many outcomes in a row must be ill; not 0.
    pub fall: u32,
}

/// The judge of one check.
#[derive(Clone, Debug)]
pub struct Judge {
    thresholds: Thresholds,
    damping: Damping,
    penalty: Penalty,
    state: State,
    since_ns: u64,
    /// The verdict without damping; `None` before the first.
    undamped: Option<Outcome>,
    /// The newest outcome, and how often it came in a row.
    streak: Option<(Outcome, u32)>,
    counts: Counts,
}

/// What is counted of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Outcomes that are well.
    pub well: u64,
    /// Outcomes that are ill.
    pub ill: u64,
    /// How often the service was well, and then was not.
    pub falls: u64,
}

/// What a judge thinks, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The state.
    pub state: State,
    /// Since when.
    pub since_ns: u64,
    /// The newest outcome, and how often it came in a row.
    pub streak: Option<(Outcome, u32)>,
    /// The penalty.
    pub penalty: u64,
    /// How long the service is suppressed unless it falls anew, nanoseconds.
    pub suppressed_for_ns: u64,
    /// What is counted.
    pub counts: Counts,
}

impl Judge {
    /// A judge without an opinion.
    pub const fn new(thresholds: Thresholds, damping: Damping, now_ns: u64) -> Self {
        Self {
            thresholds,
            damping,
            penalty: Penalty::NONE,
            state: State::Unknown,
            since_ns: now_ns,
            undamped: None,
            streak: None,
            counts: Counts { well: 0, ill: 0, falls: 0 },
        }
    }

    /// Takes in an outcome.
    pub fn step(&mut self, now_ns: u64, outcome: Outcome) -> Option<Change> {
        let length = match self.streak {
            Some((before, length)) if before == outcome => length.saturating_add(1),
            _ => 1,
        };
        self.streak = Some((outcome, length));
        let threshold = match outcome {
            Outcome::Well => self.thresholds.rise,
            Outcome::Ill => self.thresholds.fall,
        };
        match outcome {
            Outcome::Well => self.counts.well += 1,
            Outcome::Ill => self.counts.ill += 1,
        }
        if length >= threshold && self.undamped != Some(outcome) {
            if self.undamped == Some(Outcome::Well) {
                self.counts.falls += 1;
                self.penalty.add(&self.damping, now_ns);
            }
            self.undamped = Some(outcome);
        }
        self.settle(now_ns)
    }

    fn settle(&mut self, now_ns: u64) -> Option<Change> {
        let suppressed = self.penalty.suppressed(&self.damping, now_ns);
        let from = self.state;
        let to = match self.undamped {
            None => State::Unknown,
            Some(_) if suppressed => State::Suppressed,
            Some(Outcome::Well) => State::Up,
            Some(Outcome::Ill) => State::Down,
        };
        if from == to {
            return None;
        }
        (self.state, self.since_ns) = (to, now_ns);
        Some(Change { from, to })
    }

    /// Whether the service is to be used.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// What it thinks at `now_ns`, and why.
    pub fn view(&self, now_ns: u64) -> Judgement {
        Judgement {
            state: self.state,
            since_ns: self.since_ns,
            streak: self.streak,
            penalty: self.penalty.value(&self.damping, now_ns),
            suppressed_for_ns: self.penalty.suppressed_for_ns(&self.damping, now_ns),
            counts: self.counts,
        }
    }
}

impl State {
    /// The state's name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
            Self::Suppressed => "suppressed",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.label())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    const DAMPING: Damping = Damping::DEFAULT;

    const THRESHOLDS: Thresholds = Thresholds { rise: 2, fall: 3 };

    /// Feeds outcomes, one a second from second `at` on: `+` well, `-` ill. Returns a letter each
    /// for the state after it.
    fn feed(judge: &mut Judge, at: &mut u64, outcomes: &str) -> String {
        let mut states = String::new();
        for letter in outcomes.chars() {
            let outcome = if letter == '+' { Outcome::Well } else { Outcome::Ill };
            let (before, change) = (judge.state, judge.step(*at * SECOND, outcome));
            let expected = Change { from: before, to: judge.state };
            assert_eq!(change, (before != judge.state).then_some(expected));
            *at += 1;
            states.push(match judge.state {
                State::Unknown => '?',
                State::Up => 'U',
                State::Down => 'D',
                State::Suppressed => 'S',
            });
        }
        states
    }

    fn fed(outcomes: &str) -> String {
        feed(&mut Judge::new(THRESHOLDS, DAMPING, 0), &mut 0, outcomes)
    }

    #[test]
    fn only_outcomes_in_a_row_make_a_verdict() {
        assert_eq!(fed("++"), "?U");
        assert_eq!(fed("---"), "??D");
        assert_eq!(fed("--+--+---++"), "????????DDU");
        assert_eq!(fed("++--+--+---"), "?UUUUUUUUUD");
        assert_eq!(fed("---+-+-++-++"), "??DDDDDDUUUU");
    }

    #[test]
    fn one_fall_is_forgiven_at_once_and_the_third_in_a_minute_is_not() {
        let mut judge = Judge::new(THRESHOLDS, DAMPING, 0);
        let mut at = 0;
        assert_eq!(feed(&mut judge, &mut at, "++---++---++---++"), "?UUUDDUUUDDUUUSSS");
        let view = judge.view(at * SECOND);
        assert_eq!((view.state, view.counts.falls), (State::Suppressed, 3));
        assert!((2500..3000).contains(&view.penalty), "{view:?}");
        // From some 2,900 to 1,000 takes 1.54 half-lives.
        let wait = view.suppressed_for_ns / SECOND;
        assert!((88..96).contains(&wait), "{wait} s");
        let states = feed(&mut judge, &mut at, &"+".repeat(wait as usize + 2));
        // The wait is no whole number of seconds.
        assert_eq!(states.find('U'), Some(wait as usize + 1), "{states}");
        assert_eq!(judge.view(at * SECOND).suppressed_for_ns, 0);
    }

    #[test]
    fn one_that_is_ill_when_its_suppression_ends_is_down() {
        let mut judge = Judge::new(THRESHOLDS, DAMPING, 0);
        let mut at = 0;
        feed(&mut judge, &mut at, "++---++---++---");
        assert_eq!(judge.state, State::Suppressed);
        let states = feed(&mut judge, &mut at, &"-".repeat(120));
        assert!(states.starts_with('S') && states.ends_with('D'), "{states}");
        assert!(!states.contains('U'));
    }

    #[test]
    fn one_that_goes_on_flapping_stays_suppressed() {
        let mut judge = Judge::new(THRESHOLDS, DAMPING, 0);
        let mut at = 0;
        feed(&mut judge, &mut at, "++---++---++---");
        let states = feed(&mut judge, &mut at, &"++---".repeat(200));
        assert!(states.chars().all(|state| state == 'S'), "{states}");
    }

    #[test]
    fn a_start_in_illness_is_no_fall() {
        let mut judge = Judge::new(THRESHOLDS, DAMPING, 0);
        feed(&mut judge, &mut 0, &"-".repeat(50));
        assert_eq!(judge.view(0).penalty, 0);
        assert_eq!(judge.view(0).counts, Counts { well: 0, ill: 50, falls: 0 });
    }

    fn damping() -> impl Strategy<Value = Damping> {
        (100..2000_u32, 1..600_u64, 100..2000_u32, 1..3000_u32).prop_map(
            |(penalty, half_life_s, reuse, more)| Damping {
                penalty,
                half_life_ns: half_life_s * SECOND,
                suppress: reuse + more,
                reuse,
                max_ns: 10 * half_life_s * SECOND,
            },
        )
    }

    proptest! {
        /// Whatever a service does, it does not come and go more often than its damping lets it:
        /// within any time there are at most `failures_max` falls, and one rise more.
        #[test]
        fn no_pattern_of_outcomes_gets_round_the_damping(
            damping in damping(),
            rise in 1..4_u32,
            fall in 1..4_u32,
            turns in vec((any::<bool>(), 1..20_000_u64, 1..6_usize), 1..200),
        ) {
            let mut judge = Judge::new(Thresholds { rise, fall }, damping, 0);
            let mut now_ns = 0;
            let mut falls = Vec::new();
            let mut rises = 0;
            for (well, gap_ms, times) in turns {
                for _ in 0..times {
                    now_ns += gap_ms * 1_000_000;
                    let outcome = if well { Outcome::Well } else { Outcome::Ill };
                    match judge.step(now_ns, outcome) {
                        Some(Change { from: State::Up, .. }) => falls.push(now_ns),
                        Some(Change { to: State::Up, .. }) => rises += 1,
                        _ => {}
                    }
                }
            }
            prop_assert!(rises <= falls.len() + 1);
            for (first, &begin) in falls.iter().enumerate() {
                for (last, &end) in falls.iter().enumerate().skip(first) {
                    let bound = damping.failures_max(end - begin);
                    let count = (last - first + 1) as u64;
                    prop_assert!(count <= bound, "{count} of {bound}");
                }
            }
        }

        /// A service that is well for long enough is used, whatever it did before.
        #[test]
        fn what_stays_well_is_taken_back(
            damping in damping(),
            before in vec(any::<bool>(), 0..300),
        ) {
            let mut judge = Judge::new(THRESHOLDS, damping, 0);
            let mut now_ns = 0;
            for well in before {
                now_ns += SECOND;
                judge.step(now_ns, if well { Outcome::Well } else { Outcome::Ill });
            }
            judge.step(now_ns, Outcome::Well);
            now_ns += damping.max_ns;
            judge.step(now_ns, Outcome::Well);
            prop_assert!(judge.is_up(), "{:?}", judge.view(now_ns));
        }
    }
}
