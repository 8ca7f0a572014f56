//! The atomics that the flow table is made of: the standard library's, or loom's when the crate is
//! built with `--cfg loom` for `tests/loom_flow.rs`.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU64, Ordering};
