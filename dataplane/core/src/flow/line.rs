//! A cache line of entries, and where a table has its lines.

use std::hint::select_unpredictable;
use std::ops::Deref;

use super::entry::Entry;
use super::key::FlowKey;
use super::primitive::{AtomicU64, Ordering};

/// Entries in a line: as many words as a cache line of 64 bytes holds. Two under loom, which has to
/// try every order of every access.
pub(super) const WAYS: usize = if cfg!(loom) { 2 } else { 8 };

/// A cache line of entries.
///
/// All accesses are relaxed. A word is all there is to a flow, so no other memory has to become
/// visible with it, and what one worker must not miss of another's, it learns from the
/// compare-and-swap that fails.
///
/// Any 64 bytes are a line: a word that no insert has written reads as free, and is overwritten like
/// one. So a line can be in memory that others have written.
#[repr(C, align(64))]
pub struct Line(pub(super) [AtomicU64; WAYS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64);

impl Line {
    pub(super) fn free() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(Entry::FREE)))
    }

    #[inline]
    pub(super) fn load(&self) -> [u64; WAYS] {
        std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed))
    }

    /// The first word with the key's fingerprint; [`Entry::FREE`] if there is none.
    ///
    /// All are compared, from the last to the first, and no branch is taken by any: which of the eight
    /// agrees is as good as random, and to guess it wrong costs more than to compare.
    #[inline(always)]
    pub(super) fn agreeing(&self, key: FlowKey) -> u64 {
        self.0.iter().rev().fold(Entry::FREE, |found, word| {
            let word = word.load(Ordering::Relaxed);
            select_unpredictable(Entry::word_is_of(word, key), word, found)
        })
    }

    /// Puts `new` in the place of `old`. False, and nothing is changed, if something else is there.
    #[inline]
    pub(super) fn replace(&self, at: usize, old: u64, new: u64) -> bool {
        self.0[at].compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Where a table's lines are. A table is read by its workers for each packet, so this is not
/// a trait's object.
pub(super) enum Lines {
    /// In memory of the table's own.
    Own(Box<[Line]>),
    /// In memory that outlives it.
    Lent(&'static [Line]),
}

impl Deref for Lines {
    type Target = [Line];

    #[inline]
    fn deref(&self) -> &[Line] {
        match self {
            Self::Own(lines) => lines,
            Self::Lent(lines) => lines,
        }
    }
}
