//! The kernel's interface that a virtual device stands on.
//!
//! The drivers over AF_PACKET and AF_XDP call their link up from the start to the end; the interface
//! knows better.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// An interface, by its number, and a socket to ask about it: in the network namespace of the thread
/// that opened it.
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
        let kind = (AddressFamily::Unix, SockType::Datagram);
        match socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, None) {
            Ok(socket) => Some(Self { index, socket }),
            Err(error) => {
                tracing::warn!(%error, "the carrier of interface {index} is not watched");
                None
            }
        }
    }

    /// Whether it is up and has a carrier. One that was removed has none.
    pub(super) fn has_carrier(&self) -> bool {
        const WORKING: libc::c_short = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        self.flags().is_ok_and(|flags| flags & WORKING == WORKING)
    }

    fn flags(&self) -> io::Result<libc::c_short> {
        // SAFETY: all of it are integers, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = self.index as libc::c_int;
        // By its number, since it may be renamed.
        self.ask(libc::SIOCGIFNAME, &mut request)?;
        self.ask(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the kernel wrote this member.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    fn ask(&self, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: both requests read and write one ifreq.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), what, &raw mut *request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
