//! How far the two cores are from each other: a number goes from one to the other and back.
//!
//! Virtual cores are now near, now far, and what two cores do together differs several times between the two: each
//! figure is worth what the distance beside it says.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use vipdp_io::affinity;

/// Round trips: some milliseconds' worth.
const TRIPS: u32 = 10_000;

/// A number on a cache line of its own.
#[repr(align(128))]
struct Line(AtomicU32);

/// The time of a round trip between two cores, nanoseconds: the mean of many.
///
/// # Errors
/// When there are no such cores.
pub fn measure_ns(cores: [usize; 2]) -> Result<f64> {
    let (ball, there) = (Line(AtomicU32::new(0)), Line(AtomicU32::new(0)));
    let (ball, there) = (&ball.0, &there.0);
    thread::scope(|scope| {
        scope.spawn(move || -> Result<()> {
            let pinned = affinity::pin(cores[1]);
            there.store(1, Ordering::Release);
            for trip in 0..TRIPS {
                wait(ball, 2 * trip + 1);
                ball.store(2 * trip + 2, Ordering::Release);
            }
            Ok(pinned?)
        });
        let here = scope.spawn(move || -> Result<f64> {
            let pinned = affinity::pin(cores[0]);
            wait(there, 1);
            let start = Instant::now();
            for trip in 0..TRIPS {
                ball.store(2 * trip + 1, Ordering::Release);
                wait(ball, 2 * trip + 2);
            }
            pinned?;
            Ok(start.elapsed().as_nanos() as f64 / f64::from(TRIPS))
        });
        here.join().map_err(|_| anyhow::anyhow!("the measurement ended in a panic"))?
    })
}

fn wait(ball: &AtomicU32, number: u32) {
    let mut turns = 0u32;
    while ball.load(Ordering::Acquire) != number {
        turns += 1;
        std::hint::spin_loop();
        // Both may be on one core, where cores are missing.
        if turns.is_multiple_of(1 << 14) {
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_takes_time() {
        assert!(measure_ns([0, 1]).expect("two cores") > 1.0);
        assert!(measure_ns([0, 100_000]).is_err() || measure_ns([100_000, 0]).is_err());
    }
}
