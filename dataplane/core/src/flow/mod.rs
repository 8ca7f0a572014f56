//! The flow table: which flows this node serves, shared by all workers without a lock.
//!
//! One fixed array of cache lines. A flow's key names one line; the flow is in one of that line's
//! eight entries, or nowhere. Each entry is one 64-bit word, so every change is one
//! compare-and-swap, and there is never more to a flow than its word:
//!
//! ```text
//!   client hash, client port, VIP, VIP port, protocol
//!          | multiply-fold under the table's secret           key.rs
//!          v
//!   63            FlowKey            31 30        0
//!   +----------------------------------+-----------+
//!   |          fingerprint (33)        | line (31) |
//!   +----------------------------------+-----------+
//!          |                               | its low bits
//!          |        +----------------------+
//!          |        v                                         table.rs
//!          |   line 0  [ word | word | word | word | word | word | word | word ]   64 bytes
//!          |   line 1  [ word | ...
//!          v
//!   63            31 30   19 18       3 2   0
//!   +----------------+-------+---------+-----+
//!   |  fingerprint   | bucket| seen, s |state|                entry.rs
//!   +----------------+-------+---------+-----+
//! ```
//!
//! What always holds:
//! - The all-zero word is free, and no entry is ever all zero: a state is at least 1. A word with
//!   any other state than there are is free, too: the lines may be in memory that another process
//!   has written ([`FlowTable::over`]), and nothing that is there can do harm.
//! - A lookup reads one cache line and writes nothing; a refresh writes at most one word, and only
//!   when the second or the state has changed.
//! - Nothing is deleted by a sweep. An entry whose time has run out is not found any more, and its
//!   place is the next to be taken ([`FlowState`] says when that is).
//! - No insert of any kind displaces an established flow before
//!   [`Timeouts::established_s`] have passed without a packet of it.
//!
//! # Wrong hits
//! A packet without a flow is taken for one with a flow if one of eight fingerprints agrees by
//! chance: less than 8 / 2^33, one in 1.07 thousand million such packets, and the hash is keyed, so
//! nobody outside can look for them. At a flood of 10 million stray packets a second that is one
//! packet in 107 seconds which the host gets to see, and answers by itself. Two live flows share a
//! word with probability 7 / 2^33 each.
//!
//! # Time
//! Times are 16 bits of seconds and wrap after 18 h 12 min. An entry that nobody has touched for
//! that long looks fresh again: an idle connection is then protected for another
//! [`Timeouts::established_s`], and a closed one can be hit for another [`Timeouts::closing_s`],
//! unless its place has been taken in the meantime.

pub mod census;
pub mod entry;
pub mod form;
pub mod key;
pub mod line;
#[cfg(all(test, not(loom)))]
mod oracle;
mod primitive;
pub mod table;

pub use census::{BucketScan, Census};
pub use entry::{FlowState, Seconds, Timeouts};
pub use form::Form;
pub use key::FlowKey;
pub use line::Line;
pub use table::{FlowTable, Inserted};
