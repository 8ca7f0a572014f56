//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// How long a condition rests between two looks at it.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; panics, naming `what` was waited for, if it does not within
/// `limit`.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(limit, what, || condition().then_some(()));
}

/// Waits until there is a value; panics, naming `what` was waited for, if there is none within
/// `limit`.
#[track_caller]
pub fn wait_for<T>(limit: Duration, what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(PAUSE);
    }
}
