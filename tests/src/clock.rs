//! The clocks that things on one machine are compared by.

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Nanoseconds of CLOCK_MONOTONIC: what `dns-load` says when a query was sent.
    pub monotonic_ns: u64,
    /// Nanoseconds since 1970: what a capture says when a frame passed.
    pub wall_ns: u64,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self {
            monotonic_ns: read(ClockId::CLOCK_MONOTONIC),
            wall_ns: read(ClockId::CLOCK_REALTIME),
        }
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux always has this clock");
    u64::try_from(time.num_nanoseconds()).expect("both clocks started in the past")
}
