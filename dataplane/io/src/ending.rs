//! What a process had that was killed: the kernel takes it back when it has closed all of the process's
//! descriptors, a moment later.

use std::thread;
use std::time::{Duration, Instant};

/// How long that may take.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Tries until `attempt` ends otherwise than because somebody has what it wants, which `is_held` tells
/// from its error, or until whoever has it must be alive.
pub(crate) fn wait_for_the_dead<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let patience = Instant::now() + ENDS_WITHIN;
    loop {
        match attempt() {
            Err(error) if is_held(&error) && Instant::now() < patience => {
                thread::sleep(ENDS_WITHIN / 100);
            }
            ended => return ended,
        }
    }
}
