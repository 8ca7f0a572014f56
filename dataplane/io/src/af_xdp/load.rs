//! Whether a worker is under load, told by what waits for it on the receive ring.
//!
//! The kernel's receive side and the worker share a core, or interrupts come where the worker is. Under more than the two
//! can take each has the core for as long as the scheduler gives it: the receive side fills the ring and then drops what
//! it brings, the worker empties the ring and then waits. A worker that runs the receive side itself brings as
//! much as it takes.
//!
//! ```text
//!               half of the ring waits
//!   not under ------------------------> under load
//!     load    <------------------------
//!               it sleeps, or WINDOW turns with fewer frames than turns
//! ```
//!
//! Half of the ring is a thousand frames, which no moderation of interrupts brings at once. Fewer frames than
//! turns: a turn without frames takes less than a microsecond, so that most of the core's time is spent on
//! looking.

/// Turns after which a worker under load counts what they brought: some milliseconds.
const WINDOW: u32 = 4096;

/// The load of one worker.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// Waiting frames that are load.
    least: u32,
    is_on: bool,
    turns: u32,
    frames: u32,
}

/// What a turn changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Load has begun.
    Begins,
    /// Load has ended.
    Ends,
}

impl Load {
    /// That of a worker with a receive ring of so many descriptors. There is none yet.
    pub(super) fn new(rx_ring: u32) -> Self {
        Self { least: rx_ring / 2, is_on: false, turns: 0, frames: 0 }
    }

    /// Whether the worker is under load.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// After a turn that took `taken` frames and found `waiting` frames, those among them.
    pub(super) fn turn(&mut self, taken: u32, waiting: u32) -> Option<Change> {
        if !self.is_on {
            if waiting < self.least {
                return None;
            }
            *self = Self { least: self.least, is_on: true, turns: 0, frames: 0 };
            return Some(Change::Begins);
        }
        self.turns += 1;
        self.frames = self.frames.saturating_add(taken);
        if self.turns < WINDOW {
            return None;
        }
        let goes_on = self.frames >= self.turns;
        (self.turns, self.frames) = (0, 0);
        if goes_on { None } else { self.end() }
    }

    /// The worker is about to sleep.
    pub(super) fn end(&mut self) -> Option<Change> {
        std::mem::take(&mut self.is_on).then_some(Change::Ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_half_of_the_ring_and_ends_with_sleep() {
        let mut load = Load::new(2048);
        assert_eq!(load.turn(64, 1023), None);
        assert_eq!(load.end(), None);
        assert_eq!(load.turn(64, 1024), Some(Change::Begins));
        assert!(load.is_on());
        assert_eq!(load.turn(64, 2048), None);
        assert_eq!(load.end(), Some(Change::Ends));
        assert_eq!((load.is_on(), load.end()), (false, None));
    }

    #[test]
    fn load_goes_on_while_each_turn_brings_a_frame_on_average() {
        let mut load = Load::new(2048);
        assert_eq!(load.turn(64, 2048), Some(Change::Begins));
        for turn in 0..3 * WINDOW {
            assert_eq!(load.turn(2 * (turn % 2), 0), None, "{turn}");
        }
        for turn in 1..WINDOW {
            assert_eq!(load.turn(turn % 2, 0), None, "{turn}");
        }
        assert_eq!(load.turn(0, 0), Some(Change::Ends));
        // The next one begins anew.
        assert_eq!(load.turn(64, 2048), Some(Change::Begins));
        assert!((1..WINDOW).all(|_| load.turn(0, 0).is_none()));
    }
}
