//! Measurement in CPU time of the benchmark's own thread.
//!
//! On a machine that others use, too, the wall clock measures them. What they do to caches and to
//! the core's frequency, no clock takes out.

use std::time::Duration;

use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds that this thread has run.
pub struct CpuTime;

impl CpuTime {
    /// The time that this thread has run until now.
    pub fn now() -> Duration {
        let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has it");
        now.into()
    }

    /// Criterion with this measurement.
    pub fn criterion() -> Criterion<Self> {
        Criterion::default().with_measurement(Self)
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        Self::now() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}
