//! When things are done again: never by all at once.

const SECOND_NS: u64 = 1_000_000_000;

/// The first wait after an attempt that came to nothing. RFC 4271 section 10 suggests 120 s, for
/// routers with many peers and full tables; a node has few peers, small tables and waits to serve.
const RETRY_MIN_NS: u64 = SECOND_NS;

/// The longest wait between attempts: a peer that is back is found after no more than this.
const RETRY_MAX_NS: u64 = 30 * SECOND_NS;

/// The wait after `failures` attempts in a row that came to nothing: twice as long each time.
pub(super) fn retry_ns(failures: u32) -> u64 {
    RETRY_MIN_NS.saturating_mul(1 << failures.min(16)).min(RETRY_MAX_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<_> = (0..7).map(|failures| retry_ns(failures) / SECOND_NS).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(retry_ns(u32::MAX), RETRY_MAX_NS);
    }
}
