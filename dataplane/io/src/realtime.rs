//! A thread that must not be late: real-time scheduling and memory that stays in RAM.
//!
//! With heartbeats every 10 ms a node counts as down after 50 ms. A thread of the normal class on a
//! busy machine is late by tens of milliseconds now and then; under `SCHED_FIFO` it waits for
//! nothing but interrupts and its own page faults.

use std::io;

use thiserror::Error;

/// Priority of the control thread under `SCHED_FIFO`, 1..=99. Above the kernel's own threaded
/// interrupt handlers (50), which under load would hold up heartbeats that have arrived; below what
/// the kernel needs to live (its migration and watchdog threads have 99).
const PRIORITY: libc::c_int = 60;

/// Why a thread cannot be given real time.
#[derive(Debug, Error)]
pub enum RealtimeError {
    /// The scheduler refuses.
    #[error(
        "the kernel refuses SCHED_FIFO: grant CAP_SYS_NICE, or raise RLIMIT_RTPRIO to {PRIORITY}, \
         or let the cgroup have a real-time share (cpu.rt_runtime_us)"
    )]
    Scheduler(#[source] io::Error),
    /// Memory cannot be locked.
    #[error("the kernel refuses to lock memory: grant CAP_IPC_LOCK, or raise RLIMIT_MEMLOCK")]
    Memory(#[source] io::Error),
}

/// Runs the calling thread under `SCHED_FIFO`. Threads that it starts later run as before.
///
/// # Errors
/// [`RealtimeError::Scheduler`]
pub fn schedule_fifo() -> Result<(), RealtimeError> {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameters` is initialised and outlives the call, which only reads it; thread 0 is
    // the caller.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(RealtimeError::Scheduler(io::Error::last_os_error())),
    }
}

/// Keeps all memory of the process in RAM, that which it gets later too.
///
/// # Errors
/// [`RealtimeError::Memory`]
pub fn lock_memory() -> Result<(), RealtimeError> {
    // SAFETY: the call takes no pointer and changes no memory's contents.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } {
        0 => Ok(()),
        _ => Err(RealtimeError::Memory(io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_real_time_and_its_children_do_not() {
        let policy = || {
            // SAFETY: the call takes no pointer; thread 0 is the caller.
            let policy = unsafe { libc::sched_getscheduler(0) };
            policy & !libc::SCHED_RESET_ON_FORK
        };
        std::thread::spawn(move || {
            schedule_fifo().expect("root may");
            assert_eq!(policy(), libc::SCHED_FIFO);
            let child = std::thread::spawn(policy).join().expect("no panic");
            assert_eq!(child, libc::SCHED_OTHER);
        })
        .join()
        .expect("no panic");
    }
}
