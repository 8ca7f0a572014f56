//! The NIC's registers, when the NIC is not this process's any more.
//!
//! They are in this process's memory. With uio they are the kernel's files `resourceN`, which the kernel takes out of it
//! when another driver asks for the device (`revoke_iomem` in its kernel/resource.c, with `CONFIG_IO_STRICT_DEVMEM`, as
//! Debian's kernels have it). The next access ends in SIGBUS: a worker that tells the NIC of a frame would take vipdp with
//! it, with the VIPs left on the host. The handler puts plain memory in their place, in which the access is then made again
//! and does nothing. (DPDK has such a handler too, which is not stable API, and calls the one before it, here that of Rust's
//! runtime, with one argument of three.)
//!
//! The same is done when a device is found to be lost: it may be another driver's by then.

use std::ffi::{c_int, c_void};
use std::fs;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Registers that are known at most: a PCI device has six ranges.
const RANGES_MAX: usize = 8;

/// First byte and length of each range; 0 from the last one on. Written before the handler is there.
static RANGES: [(AtomicUsize, AtomicUsize); RANGES_MAX] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; RANGES_MAX];

/// What was done about SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Has accesses to registers end well that this process has mapped, also when there are none any more.
pub(super) fn guard() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    for (range, (start, len)) in RANGES.iter().zip(maps.lines().filter_map(registers)) {
        range.0.store(start, Ordering::Relaxed);
        range.1.store(len, Ordering::Relaxed);
    }
    handle()
}

/// Puts plain memory in the place of all registers.
pub(super) fn detach() {
    for (start, len) in ranges() {
        if !replace(start, len) {
            tracing::warn!(error = %io::Error::last_os_error(), "registers of a NIC that is gone are still mapped");
        }
    }
}

/// First byte and length of the registers that a line of `/proc/self/maps` is about, if it is: a file `resourceN`
/// of the kernel's PCI bus (`Documentation/PCI/sysfs-pci.rst` in the kernel).
fn registers(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, path) = (fields.next()?, fields.nth(4)?);
    let (directory, file) = path.rsplit_once('/')?;
    if !directory.starts_with("/sys/devices/") || !file.starts_with("resource") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) =
        (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

fn ranges() -> impl Iterator<Item = (usize, usize)> {
    let read = |cell: &AtomicUsize| cell.load(Ordering::Relaxed);
    RANGES.iter().map(move |(start, len)| (read(start), read(len))).take_while(|&(_, len)| len > 0)
}

/// Whether plain memory is in that place now. For signal handlers too: one system call.
fn replace(start: usize, len: usize) -> bool {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: the range is a mapping of registers, which only DPDK's drivers go to, by volatile accesses; it is
    // replaced as a whole, and stays mapped and writable for as long as it was to be.
    let mapped = unsafe {
        libc::mmap(ptr::with_exposed_provenance_mut(start), len, protection, flags, -1, 0)
    };
    mapped != libc::MAP_FAILED
}

fn handle() -> io::Result<()> {
    // SAFETY: integers and a set of them, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    // On a thread's own stack for signals, where it has one.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the call reads nothing and writes what is done now.
    let result = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if BEFORE.set(before).is_err() {
        return Ok(());
    }
    // SAFETY: the handler does nothing that is not allowed in one: it reads atomics, and makes two system calls.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An access to memory behind which there is nothing. It is made again after this: what is not ours to mend goes to
/// whoever handled it before.
extern "C" fn on_bus_error(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands over what it says of the signal.
    let address = unsafe { (*info).si_addr() }.addr();
    let found = ranges().find(|&(start, len)| (start..start + len).contains(&address));
    if found.is_some_and(|(start, len)| replace(start, len)) {
        return;
    }
    if let Some(before) = BEFORE.get() {
        // SAFETY: the action that was there before.
        unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn registers_are_told_from_other_memory() {
        let registers_at =
            |path: &str| registers(&format!("7f00a000-7f00e000 rw-s 00000000 00:15 1234   {path}"));
        let found = Some((0x7f00_a000, 0x4000));
        assert_eq!(registers_at("/sys/devices/pci0000:00/0000:00:03.0/resource4"), found);
        assert_eq!(registers_at("/sys/devices/pci0000:00/0000:00:03.0/resource0_wc"), found);
        for path in ["", "[heap]", "/sys/devices/pci0000:00/0000:00:03.0/config", "/home/resource0"]
        {
            assert_eq!(registers_at(path), None, "{path}");
        }
    }

    /// A file that is shorter than its mapping stands for registers that are gone: an access ends in SIGBUS too.
    #[test]
    fn an_access_to_registers_that_are_gone_does_nothing() {
        const LEN: usize = 8192;
        let file = tempfile::tempfile().expect("a file");
        file.set_len(LEN as u64).expect("so long");
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file that only this test has.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), LEN, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        RANGES[0].0.store(start.expose_provenance(), Ordering::Relaxed);
        RANGES[0].1.store(LEN, Ordering::Relaxed);
        handle().expect("handled");
        file.set_len(0).expect("cut");
        let register = start.cast::<u32>().wrapping_add(1025);
        // SAFETY: inside the mapping, which stays mapped until the process ends.
        let read = unsafe {
            register.write_volatile(7);
            register.read_volatile()
        };
        assert_eq!(read, 7, "plain memory");
        detach();
        // SAFETY: as above.
        assert_eq!(unsafe { register.read_volatile() }, 0, "other plain memory");
    }
}
