//! The two clocks of a report.

use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC, the clock that latencies and the schedule are in.
pub(super) fn monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970 of CLOCK_REALTIME, for comparison with `date +%s%N`.
pub(super) fn wall_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME)
}

/// A kernel time of `ns` nanoseconds.
pub(super) fn timespec(ns: u64) -> TimeSpec {
    TimeSpec::nanoseconds(i64::try_from(ns).unwrap_or(i64::MAX))
}

fn read_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).expect("Linux always has this clock");
    u64::try_from(now.num_nanoseconds()).expect("both clocks count up from a time in the past")
}
