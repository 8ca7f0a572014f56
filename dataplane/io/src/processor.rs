//! The processor that this is run on.

use vipdp_core::hash::{ClientHash, Lanes};
use vipdp_core::processor::Processor;

/// Prefetches, and hashes in vectors as long as the processor's: of 512 bits with AVX-512 (x86-64-v4), of 256
/// with AVX2 (x86-64-v3), else one client after the other.
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
    fn hash<const WORDS: usize>(clients: &mut Lanes<WORDS>, hash: &ClientHash) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                // SAFETY: the processor has just said that it knows these instructions.
                return unsafe { hash_avx512(clients, hash) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                return unsafe { hash_avx2(clients, hash) };
            }
        }
        clients.hash_each(hash);
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
fn hash_avx512<const WORDS: usize>(clients: &mut Lanes<WORDS>, hash: &ClientHash) {
    clients.hash(hash);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn hash_avx2<const WORDS: usize>(clients: &mut Lanes<WORDS>, hash: &ClientHash) {
    clients.hash(hash);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vipdp_core::hash::{HashInput, LANES};

    fn all_ways<const WORDS: usize>(clients: &Lanes<WORDS>, hash: &ClientHash) -> Vec<Vec<u64>> {
        let computed = |compute: &dyn Fn(&mut Lanes<WORDS>)| {
            let mut clients = *clients;
            compute(&mut clients);
            clients.hashes().to_vec()
        };
        let mut ways = vec![computed(&|clients| Native::hash(clients, hash))];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just said that it knows these instructions.
            ways.push(computed(&|clients| unsafe { hash_avx2(clients, hash) }));
        }
        ways
    }

    proptest! {
        #[test]
        fn vectors_of_any_length_hash_as_one_after_the_other_does(
            key: [u8; 16],
            clients in prop::collection::vec((any::<u32>(), any::<u128>(), any::<u16>()), 0..=LANES),
        ) {
            let hash = ClientHash::new(key, HashInput::AddressAndPort);
            let (mut v4, mut v6) = (Lanes::NONE, Lanes::NONE);
            for &(a, b, port) in &clients {
                v4.push(hash.words_v4(a.into(), port));
                v6.push(hash.words_v6(b.into(), port));
            }
            let (ways4, ways6) = (all_ways(&v4, &hash), all_ways(&v6, &hash));
            v4.hash_each(&hash);
            v6.hash_each(&hash);
            for (way4, way6) in ways4.iter().zip(&ways6) {
                prop_assert_eq!(way4, v4.hashes());
                prop_assert_eq!(way6, v6.hashes());
            }
        }
    }

    #[test]
    fn a_prefetch_of_anything_does_no_harm() {
        let memory = [7_u64; 3];
        Native::prefetch(&memory[2]);
        Native::prefetch(&());
        Native::prefetch_at(&[], 0);
        Native::prefetch_at(&[7; 3], usize::MAX);
        assert_eq!(memory, [7; 3]);
    }
}
