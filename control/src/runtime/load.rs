//! Whether a worker is under load, so that it had better run the NIC's receive side itself.
//!
//! The kernel's receive side and the worker share a core, or interrupts come where the worker is. Under more than the two
//! can take they have the core by turns, as the scheduler has it: the one brings frames that the other has no time
//! for, or each wakes the other for every burst. A worker that runs the receive side itself brings as much as it
//! takes. While there is less to do that is a waste: it would look for frames all the time.
//!
//! | in the last [`WINDOW_NS`] | then |
//! |---|---|
//! | the worker had frames in hand for a third of the time, or found half of its ring full | it runs the receive side |
//! | it did, and looked more often than it found a frame, or slept most of the time | the kernel runs it again |
//!
//! In hand: from the beginning of a turn with frames to the next turn's, also where the kernel took the core away
//! meanwhile. To look and find nothing takes less than a microsecond, so that a worker that finds a frame each time is
//! busy for half of its time at least. One that was wrong to begin waits before the next try, each time four times as
//! long, and so what is wasted is little whatever the load.

/// Time over which a worker judges.
const WINDOW_NS: u64 = 5_000_000;

/// Time in which the kernel gives the receive side away, for it may be in the middle of it, and waiting for the core.
const GRACE_NS: u64 = 2 * WINDOW_NS;

/// A load that lasts so long was one.
const LASTING_NS: u64 = 100_000_000;

/// The pause after a load, or what was taken for one: at least, and at most.
const PAUSE_NS: (u64, u64) = (WINDOW_NS, 1_000_000_000);

/// The load of one worker.
#[derive(Clone, Debug)]
pub(super) struct Load {
    is_on: bool,
    /// When it began, or when the next one may.
    limit_ns: u64,
    pause_ns: u64,
    window: Window,
    last: Last,
}

/// What a worker did since a time.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    since_ns: u64,
    in_hand_ns: u64,
    asleep_ns: u64,
    turns: u64,
    frames: u64,
    was_behind: bool,
}

/// What a worker did last.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    at_ns: u64,
    had_frames: bool,
    slept: bool,
}

impl Load {
    /// That of a worker that has seen no frame yet.
    pub(super) fn new() -> Self {
        let (window, last) = (Window::default(), Last::default());
        Self { is_on: false, limit_ns: 0, pause_ns: PAUSE_NS.0, window, last }
    }

    /// After the turn that began at `now_ns` and handled `frames` frames; `is_behind`: half of the ring, and more, still
    /// waits.
    pub(super) fn turn(&mut self, now_ns: u64, frames: usize, is_behind: bool) {
        let passed_ns = now_ns.saturating_sub(self.last.at_ns);
        if self.last.slept {
            self.window.asleep_ns += passed_ns;
        } else if self.last.had_frames {
            self.window.in_hand_ns += passed_ns;
        }
        self.last = Last { at_ns: now_ns, had_frames: frames > 0, slept: false };
        self.window.turns += 1;
        self.window.frames += frames as u64;
        self.window.was_behind |= is_behind;
        if now_ns.saturating_sub(self.window.since_ns) >= WINDOW_NS {
            self.judge(now_ns);
            self.window = Window { since_ns: now_ns, ..Window::default() };
        }
    }

    /// Whether the worker is under load.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// The worker has slept since its last turn.
    pub(super) fn slept(&mut self) {
        self.last.slept = true;
    }

    fn judge(&mut self, now_ns: u64) {
        let Window { since_ns, in_hand_ns, asleep_ns, turns, frames, was_behind } = self.window;
        let window_ns = now_ns - since_ns;
        if !self.is_on {
            if now_ns >= self.limit_ns && (was_behind || 3 * in_hand_ns >= window_ns) {
                (self.is_on, self.limit_ns) = (true, now_ns);
            }
            return;
        }
        let lasted_ns = now_ns - self.limit_ns;
        let is_waste = frames < turns || 2 * asleep_ns > window_ns;
        if is_waste && lasted_ns > GRACE_NS {
            self.pause_ns = match lasted_ns >= LASTING_NS {
                true => PAUSE_NS.0,
                false => (4 * self.pause_ns).min(PAUSE_NS.1),
            };
            (self.is_on, self.limit_ns) = (false, now_ns + self.pause_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;
    const MS: u64 = 1_000_000;

    /// A worker that gets a bundle of frames every so often, `turn_ns` after which it has none in hand; without load it
    /// sleeps then, under load it looks every 500 ns.
    struct Worker {
        load: Load,
        now_ns: u64,
    }

    impl Worker {
        fn new() -> Self {
            Self { load: Load::new(), now_ns: MS }
        }

        /// Returns how long the worker was under load, of `for_ns`.
        fn work(&mut self, for_ns: u64, every_ns: u64, frames: usize, turn_ns: u64) -> u64 {
            let (end_ns, mut on_ns) = (self.now_ns + for_ns, 0);
            while self.now_ns < end_ns {
                let next_ns = self.now_ns + every_ns;
                self.load.turn(self.now_ns, frames, false);
                self.now_ns += turn_ns;
                while self.now_ns < next_ns {
                    self.load.turn(self.now_ns, 0, false);
                    if self.load.is_on() {
                        self.now_ns += 500;
                    } else {
                        self.load.slept();
                        self.now_ns = next_ns;
                    }
                }
                on_ns += if self.load.is_on() { every_ns } else { 0 };
            }
            on_ns
        }
    }

    #[test]
    fn a_worker_that_has_always_frames_is_under_load_and_soon() {
        let mut worker = Worker::new();
        assert_eq!(worker.work(4 * MS, 20 * US, 64, 20 * US), 0);
        assert!(worker.work(100 * MS, 20 * US, 64, 20 * US) >= 98 * MS);
        // Nothing comes any more: it ends within two windows.
        assert!(worker.work(20 * MS, 10 * MS, 0, US) <= 10 * MS);
        assert_eq!(worker.work(100 * MS, 10 * MS, 0, US), 0);
    }

    #[test]
    fn a_worker_that_sleeps_most_of_the_time_is_not() {
        let mut worker = Worker::new();
        // Half a million frames a second, in bundles as interrupts are moderated.
        assert_eq!(worker.work(1_000 * MS, 50 * US, 25, 10 * US), 0);
    }

    #[test]
    fn what_is_taken_for_load_in_vain_is_taken_so_ever_more_seldom() {
        let mut worker = Worker::new();
        // Two fifths of the time: it tries, and then looks far more often than it finds.
        let first = worker.work(1_000 * MS, 50 * US, 25, 20 * US);
        assert!(first > 0 && first < 100 * MS, "{first}");
        let later: u64 = worker.work(4_000 * MS, 50 * US, 25, 20 * US);
        assert!(later <= 80 * MS, "{later}");
        // And yet: what is real is seen within a pause.
        let real = worker.work(2_000 * MS, 20 * US, 64, 20 * US);
        assert!(real >= 990 * MS, "{real}");
    }

    #[test]
    fn the_kernel_may_take_a_while_to_give_the_receive_side_away() {
        let (mut load, mut now_ns) = (Load::new(), MS);
        // It empties the ring, and waits while the kernel fills it, which it does too well.
        for _ in 0..3 {
            for turn in 0..30 {
                load.turn(now_ns, 64, turn < 15);
                now_ns += 20 * US;
            }
            load.slept();
            now_ns += 4 * MS;
        }
        assert!(load.is_on());
        // But not for ever.
        for _ in 0..10 {
            load.turn(now_ns, 64, false);
            load.slept();
            now_ns += 4 * MS;
        }
        assert!(!load.is_on());
    }
}
