//! What a processor can do that safe Rust has no word for.
//!
//! `vipdp-io` has the implementation for the machine it runs on; a [`Port`](crate::port::Port) names it, so
//! that all of this is dispatched statically. None of it changes a result.

/// Work of which each step is done for several packets, with no difference between them: to be compiled for a
/// processor with vectors that hold several.
pub trait Lanewise {
    /// Does it, several packets at once.
    fn work(self);

    /// Does it for one packet after the other, where there are no such vectors.
    #[inline(always)]
    fn work_each(self)
    where
        Self: Sized,
    {
        self.work();
    }
}

/// A processor's own ways of doing things.
pub trait Processor {
    /// Begins to bring the cache line near that `place` starts in, and does not wait for it.
    ///
    /// A read waits: the processor only gets some hundred instructions ahead of one. So a prefetch
    /// is what lets memory work while the next packets are parsed.
    fn prefetch<T>(place: &T);

    /// The same of the line that byte `at` of a slice is in, or would be in if the slice were long enough:
    /// memory that is not there is not brought near.
    fn prefetch_at(bytes: &[u8], at: usize);

    /// Has work done with the widest vectors that there are.
    fn in_vectors(work: impl Lanewise);
}

/// Any processor: safe Rust alone. For tests; nothing is prefetched.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Processor for Portable {
    #[inline(always)]
    fn prefetch<T>(_place: &T) {}

    #[inline(always)]
    fn prefetch_at(_bytes: &[u8], _at: usize) {}

    #[inline]
    fn in_vectors(work: impl Lanewise) {
        work.work_each();
    }
}
