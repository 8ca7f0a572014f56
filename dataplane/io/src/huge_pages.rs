//! Huge pages under memory that is read at random.
//!
//! Of a table of 128 MiB in pages of 4 KiB, nearly every read at random also misses the address
//! translation's caches; in pages of 2 MiB, 64 translations cover it. Transparent huge pages
//! (Linux, Documentation/admin-guide/mm/transhuge.rst) need neither a reservation nor a mount, and what
//! they cannot be had for stays in small pages.

use std::fs;
use std::io;
use std::ops::Range;

/// The advice to gather memory into huge pages at once, since Linux 6.1 (its
/// include/uapi/asm-generic/mman-common.h). It heeds no setting below /sys/kernel/mm but that which denies
/// shared memory huge pages altogether.
const MADV_COLLAPSE: libc::c_int = 25;

/// Where the kernel says how long a huge page is, in bytes; absent from a kernel without them.
const PAGE_LEN_PATH: &str = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";

/// Length of a huge page, in bytes, where the kernel does not tell it.
pub(crate) const USUAL_PAGE_LEN: usize = 2 << 20;

/// Moves `memory` into huge pages, as far as there are any, while the caller waits: some 50 ms for 128 MiB.
/// Its contents stay what they are. What is shorter than a huge page, or not aligned as one is, stays in small
/// pages.
///
/// A kernel before 6.1 is asked to do so by and by.
///
/// # Errors
/// The kernel's, if it gives no huge pages, or not enough: all is as it was then, but for those that it gave.
pub fn gather<T>(memory: &[T]) -> io::Result<()> {
    gather_places(places(memory))
}

/// The same for memory that is not one slice.
pub(crate) fn gather_places(places: Range<usize>) -> io::Result<()> {
    let page_len = page_len()?;
    let (start, end) = (places.start.next_multiple_of(page_len), places.end / page_len * page_len);
    if start >= end {
        return Ok(());
    }
    // A hint for what is yet to be mapped, and for later; where shared memory has no huge pages by itself,
    // it is refused or does nothing.
    let _ = advise(start..end, libc::MADV_HUGEPAGE);
    match advise(start..end, MADV_COLLAPSE) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel has none for this kind of memory (madvise(MADV_COLLAPSE): EINVAL)",
        )),
        done => done,
    }
}

/// How many bytes of `memory` are in huge pages.
///
/// # Errors
/// When /proc/self/smaps cannot be read. That takes a look at each page of the process: never on the
/// hot path.
pub fn gathered<T>(memory: &[T]) -> io::Result<usize> {
    Ok(huge_within(&fs::read_to_string("/proc/self/smaps")?, &places(memory)))
}

fn places<T>(memory: &[T]) -> Range<usize> {
    let Range { start, end } = memory.as_ptr_range();
    start.addr()..end.addr()
}

fn page_len() -> io::Result<usize> {
    let text = fs::read_to_string(PAGE_LEN_PATH)?;
    let len = text.trim().parse().ok().filter(|len: &usize| len.is_power_of_two());
    len.ok_or_else(|| io::Error::other(format!("{PAGE_LEN_PATH} is {text:?}")))
}

fn advise(places: Range<usize>, advice: libc::c_int) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut(places.start);
    // SAFETY: the kernel looks at what is mapped in the range, and refuses it where nothing is; neither MADV_HUGEPAGE nor MADV_COLLAPSE, the only two that are given, changes what is in memory or
    // how it may be accessed, and the kernel keeps accesses of other threads waiting while it moves a page.
    let refused = unsafe { libc::madvise(start, places.len(), advice) } != 0;
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The bytes in huge pages of those mappings in `smaps` (proc_pid_smaps(5)) that `places` has a part in, as
/// far as that goes.
fn huge_within(smaps: &str, places: &Range<usize>) -> usize {
    let (mut huge, mut common) = (0, 0);
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            common = mapping.end.min(places.end).saturating_sub(mapping.start.max(places.start));
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        if matches!(name, "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped") {
            let kib = value.trim().trim_end_matches(" kB").parse().unwrap_or(0_usize);
            huge += common.min(kib << 10);
        }
    }
    huge
}

/// The place of a mapping, if `line` is the first one about it.
fn mapping(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four huge pages and a bit, wherever the allocator has put them.
    const LEN: usize = 4 * USUAL_PAGE_LEN + 4096;

    #[test]
    fn memory_of_the_process_is_gathered_and_stays_what_it_was() {
        let memory: Vec<u64> = (0..(LEN / 8) as u64).collect();
        gather(&memory).unwrap();
        let huge = gathered(&memory).unwrap();
        assert!(huge >= 3 * USUAL_PAGE_LEN, "{huge} of {LEN} bytes");
        assert!(memory.iter().enumerate().all(|(at, &word)| word == at as u64));
    }

    #[test]
    fn what_is_shorter_than_a_huge_page_stays_as_it_is() {
        let memory = [0_u64; 8];
        gather(&memory).unwrap();
        assert_eq!(gathered(&memory).unwrap(), 0);
    }

    #[test]
    fn only_what_lies_in_the_memory_is_counted() {
        let smaps = "\
7f0000000000-7f0000800000 rw-p 00000000 00:00 0 \n\
Size:               8192 kB\n\
AnonHugePages:      4096 kB\n\
ShmemPmdMapped:        0 kB\n\
VmFlags: rd wr mr mw me ac hg\n\
7f0000800000-7f0001000000 rw-s 00000000 00:1a 12   /run/vipdp/eth0.flows\n\
AnonHugePages:         0 kB\n\
ShmemPmdMapped:     8192 kB\n";
        let base = 0x7f00_0000_0000;
        let of = |start: usize, end: usize| huge_within(smaps, &(base + start..base + end));
        assert_eq!(of(0, 8 << 20), 4 << 20);
        assert_eq!(of(8 << 20, 16 << 20), 8 << 20);
        assert_eq!(of(15 << 20, 16 << 20), 1 << 20);
        assert_eq!(of(0, 16 << 20), 12 << 20);
        assert_eq!(of(16 << 20, 32 << 20), 0);
    }
}
