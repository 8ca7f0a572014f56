//! The processor that this is run on.

use vipdp_core::processor::{Lanewise, Processor};

/// Prefetches, and works in vectors as long as the processor's: of 512 bits with AVX-512 (x86-64-v4), of 256
/// with AVX2 (x86-64-v3), else on one packet after the other.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl Processor for Native {
    #[inline(always)]
    fn prefetch<T>(place: &T) {
        prefetch(std::ptr::from_ref(place).cast());
    }

    #[inline(always)]
    fn prefetch_at(bytes: &[u8], at: usize) {
        prefetch(bytes.as_ptr().wrapping_add(at));
    }

    #[inline]
    fn in_vectors(work: impl Lanewise) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                // SAFETY: the processor has just said that it knows these instructions.
                return unsafe { in_avx512(work) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                return unsafe { in_avx2(work) };
            }
        }
        work.work_each();
    }
}

/// Begins to bring the line near that is at `place`, if there is one.
#[inline(always)]
fn prefetch(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing that a program can see, whatever it is given.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch changes nothing that a program can see, whatever it is given.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) place,
            options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
fn in_avx512(work: impl Lanewise) {
    work.work();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn in_avx2(work: impl Lanewise) {
    work.work();
}

#[cfg(test)]
#[path = "processor_tests.rs"]
mod tests;
