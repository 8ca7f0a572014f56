//! How many sockets may be open at once.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that are not sockets of queries: standard streams, epoll, timer, signals, and some to spare.
const RESERVED: u64 = 32;

/// Raises RLIMIT_NOFILE towards `sockets` and returns how many sockets may be open then.
///
/// The hard limit is raised where this process may (CAP_SYS_RESOURCE); else the soft limit goes as far as the
/// hard one lets it.
pub(super) fn raise_open_sockets(sockets: u64) -> nix::Result<usize> {
    let wanted = sockets.saturating_add(RESERVED);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(usize::try_from(soft.saturating_sub(RESERVED)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_never_above_what_the_kernel_grants() {
        let sockets = raise_open_sockets(512).unwrap();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(sockets as u64 + RESERVED, soft);
        assert!(sockets > 0);
    }
}
