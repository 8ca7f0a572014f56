//! What the ring crate does not do with an AF_XDP socket: its options and its wake-ups.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, socklen_t};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// `SO_BUSY_POLL` of `asm-generic/socket.h`: microseconds that a call may spend in the driver.
const SO_BUSY_POLL: c_int = 46;
/// `SO_PREFER_BUSY_POLL`, likewise (Linux 5.11): keep interrupts off while somebody polls.
const SO_PREFER_BUSY_POLL: c_int = 69;
/// `SO_BUSY_POLL_BUDGET`, likewise (Linux 5.11): frames that a call may take from the driver.
const SO_BUSY_POLL_BUDGET: c_int = 70;

/// 20 us: a full budget takes about 6 us at 10 Mpps, and the call returns when the queue is empty.
const BUSY_POLL_US: c_int = 20;
/// 64 frames: a burst, and what drivers are given by the kernel's own loop (`NAPI_POLL_WEIGHT`).
const BUSY_POLL_FRAMES: c_int = 64;

const _: () = assert!(BUSY_POLL_FRAMES as usize == vipdp_core::port::BURST);

/// Keeps the socket from programs that this process starts: a queue stays taken, and its frames
/// away from the kernel, for as long as anybody has the socket open. The ring crate does not.
pub(super) fn close_on_exec(socket: &xdpilone::Socket) -> io::Result<()> {
    // SAFETY: `socket` keeps the descriptor open during the call.
    let socket = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// What the system calls on a socket do with the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drive {
    /// Nothing but what each is for.
    Off,
    /// They run its receive side, and leave interrupts off.
    On,
    /// They run it, and leave it to interrupts as soon as there is nothing left.
    HandBack,
}

/// How many frames a call may take from the driver.
pub(super) fn set_budget(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, SO_BUSY_POLL_BUDGET, BUSY_POLL_FRAMES)
}

/// Says what the system calls on the socket do with the driver.
pub(super) fn set_drive(socket: BorrowedFd<'_>, drive: Drive) -> io::Result<()> {
    set(socket, SO_PREFER_BUSY_POLL, c_int::from(drive == Drive::On))?;
    set(socket, SO_BUSY_POLL, if drive == Drive::Off { 0 } else { BUSY_POLL_US })
}

/// Whether the kernel knows the driver's receive side that the socket's frames come from; where it does not, busy
/// polling has no effect.
///
/// Up to Linux 6.12 it knows from the first frame on. Since 6.14 it asks the driver when the socket is bound, and
/// not every driver tells: veth does not (6.18).
pub(super) fn knows_driver(socket: BorrowedFd<'_>) -> bool {
    let mut id: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, an int, to where the pointer points.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_INCOMING_NAPI_ID,
            (&raw mut id).cast(),
            &raw mut len,
        )
    };
    result == 0 && id != 0
}

fn set(socket: BorrowedFd<'_>, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int from where the pointer points, during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as socklen_t,
        )
    };
    done(result as isize)
}

/// Whether the bound socket is in zero-copy mode.
pub(super) fn is_zero_copy(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut options = MaybeUninit::<libc::xdp_options>::zeroed();
    let mut len = size_of_val(&options) as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to where the pointer points.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            options.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    done(result as isize)?;
    // SAFETY: plain integers, which were zero before the kernel wrote to them.
    let options = unsafe { options.assume_init() };
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Lets the kernel look at the fill ring, and, with busy polling, take frames from the driver.
pub(super) fn wake_rx(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no bytes are to be received, thus the null pointers are not followed.
    let result = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    woken(result)
}

/// Lets the kernel look at the transmit ring.
pub(super) fn wake_tx(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no bytes are to be sent, thus the null pointers are not followed.
    let result = unsafe {
        libc::sendto(socket.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0)
    };
    woken(result)
}

fn done(result: isize) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A wake-up that the kernel broke off is no failure: the descriptors stay where they are, and
/// the next turn wakes it again. EAGAIN: it has done its share for one call (32 frames in copy
/// mode), or its queue is full. ENOBUFS, EBUSY: the driver is short of something.
fn woken(result: isize) -> io::Result<()> {
    match done(result) {
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::EBUSY | libc::EINTR) => Ok(()),
            _ => Err(error),
        },
        Ok(()) => Ok(()),
    }
}
