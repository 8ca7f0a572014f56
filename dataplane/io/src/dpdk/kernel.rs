//! What DPDK leaves to be done with the kernel: descriptors that children do not get, and the interface that a
//! virtual device stands on.
//!
//! The drivers over AF_PACKET and AF_XDP call their link up from the start to the end; the interface
//! knows better.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::membership::{add_all, packet_socket};

/// Keeps all descriptors of this process from programs that it starts. DPDK opens its own without `O_CLOEXEC`, and
/// the command of a health check would have the NIC for as long as it runs.
pub(super) fn close_on_exec() -> io::Result<()> {
    const FIRST: libc::c_uint = libc::STDERR_FILENO as libc::c_uint + 1;
    // SAFETY: the call takes three integers, and closes nothing now (Linux 5.11).
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An interface, by its number, and a packet socket to ask about it, which receives nothing: in the network
/// namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Interface {
    index: u32,
    socket: OwnedFd,
}

impl Interface {
    /// The interface with this number; `None` for number 0, or without a socket to ask by.
    pub(super) fn open(index: u32) -> Option<Self> {
        if index == 0 {
            return None;
        }
        packet_socket()
            .inspect_err(|error| {
                tracing::warn!(%error, "the carrier of interface {index} is not watched");
            })
            .ok()
            .map(|socket| Self { index, socket })
    }

    /// Has it receive all frames, for as long as there is this value: the kernel takes it back however the
    /// process ends. What DPDK's drivers would set stays behind (`IFF_PROMISC`).
    pub(super) fn receive_all(&self) -> io::Result<()> {
        add_all(&self.socket, self.index)
    }

    /// Whether it is up and has a carrier. One that was removed has none.
    pub(super) fn has_carrier(&self) -> bool {
        const WORKING: libc::c_short = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        self.flags().is_ok_and(|flags| flags & WORKING == WORKING)
    }

    /// Whether there is one of this number still.
    pub(super) fn is_there(&self) -> bool {
        let mut request = self.request();
        !self
            .ask(libc::SIOCGIFNAME, &mut request)
            .is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV))
    }

    fn flags(&self) -> io::Result<libc::c_short> {
        let mut request = self.request();
        // By its number, since it may be renamed.
        self.ask(libc::SIOCGIFNAME, &mut request)?;
        self.ask(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the kernel wrote this member.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    /// A request about it, by its number.
    fn request(&self) -> libc::ifreq {
        // SAFETY: all of it are integers, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = self.index as libc::c_int;
        request
    }

    fn ask(&self, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: both requests read and write one ifreq.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), what, &raw mut *request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
