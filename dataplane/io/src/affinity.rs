//! Where a thread runs and what it is called.

use std::ffi::CString;
use std::io;

use core_affinity::CoreId;
use thiserror::Error;

/// Longest name of a thread, in bytes: `TASK_COMM_LEN` of the kernel, less the NUL.
pub const NAME_MAX: usize = 15;

/// Why a thread could not be pinned or named. It runs on as before.
#[derive(Debug, Error)]
pub enum AffinityError {
    /// The machine has no such core.
    #[error("core {core} does not exist: this machine has cores 0 to {last}")]
    NoSuchCore {
        /// What was asked for.
        core: usize,
        /// The last core there is.
        last: usize,
    },
    /// The process is confined to other cores, by a cpuset or `taskset`.
    #[error("core {core} is not among those that this process may use: {allowed:?}")]
    NotAllowed {
        /// What was asked for.
        core: usize,
        /// What may be used.
        allowed: Vec<usize>,
    },
    /// The kernel refused.
    #[error("cannot pin the thread to core {core}")]
    Refused {
        /// What was asked for.
        core: usize,
        /// Why.
        source: io::Error,
    },
    /// The name has a NUL, or more than [`NAME_MAX`] bytes.
    #[error("{0:?} cannot name a thread: at most {NAME_MAX} bytes, none of them 0")]
    Name(String),
}

/// Lets the calling thread run on `core` only.
///
/// # Errors
/// The core does not exist, or is not among those that the thread may use now: a thread that is
/// pinned already cannot be pinned elsewhere.
pub fn pin(core: usize) -> Result<(), AffinityError> {
    let allowed: Vec<usize> = core_affinity::get_core_ids()
        .map(|cores| cores.into_iter().map(|core| core.id).collect())
        .ok_or_else(|| AffinityError::Refused { core, source: io::Error::last_os_error() })?;
    if !allowed.contains(&core) {
        let last = cores() - 1;
        return Err(if core > last {
            AffinityError::NoSuchCore { core, last }
        } else {
            AffinityError::NotAllowed { core, allowed }
        });
    }
    if core_affinity::set_for_current(CoreId { id: core }) {
        Ok(())
    } else {
        Err(AffinityError::Refused { core, source: io::Error::last_os_error() })
    }
}

/// Gives the calling thread a name, as `ps -L` and `top -H` show it.
///
/// # Errors
/// [`AffinityError::Name`].
pub fn name(name: &str) -> Result<(), AffinityError> {
    let refused = || AffinityError::Name(name.to_owned());
    if name.len() > NAME_MAX {
        return Err(refused());
    }
    let name = CString::new(name).map_err(|_| refused())?;
    nix::sys::prctl::set_name(&name).map_err(|_| refused())
}

/// How many cores the machine has, whether or not this process may use them.
fn cores() -> usize {
    // SAFETY: sysconf reads a number and touches no memory of ours.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    usize::try_from(count).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_pinned_thread_runs_where_it_was_told() {
        thread::spawn(|| {
            let core = core_affinity::get_core_ids().expect("cores")[0].id;
            pin(core).expect("the core is ours");
            let allowed: Vec<_> =
                core_affinity::get_core_ids().expect("cores").iter().map(|core| core.id).collect();
            assert_eq!(allowed, [core]);
        })
        .join()
        .expect("the thread");
    }

    #[test]
    fn another_core_than_the_allowed_ones_is_refused() {
        thread::spawn(|| {
            let all = core_affinity::get_core_ids().expect("cores");
            assert!(all.len() > 1, "the test needs two cores");
            pin(all[0].id).expect("the core is ours");
            let error = pin(all[1].id).expect_err("confined to the first");
            assert!(matches!(error, AffinityError::NotAllowed { .. }), "{error}");
        })
        .join()
        .expect("the thread");
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused() {
        let error = pin(cores()).expect_err("beyond the last");
        assert!(matches!(error, AffinityError::NoSuchCore { .. }), "{error}");
    }

    #[test]
    fn a_thread_gets_its_name() {
        thread::spawn(|| {
            name("vipdp-worker-07").expect("15 bytes");
            let found = nix::sys::prctl::get_name().expect("a name");
            assert_eq!(found.to_str(), Ok("vipdp-worker-07"));
            name("vipdp-worker-007").expect_err("16 bytes");
            name("nul\0").expect_err("a NUL");
        })
        .join()
        .expect("the thread");
    }
}
