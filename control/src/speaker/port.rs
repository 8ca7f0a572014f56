//! A port that another process may have: be it another speaker, or the vipdp that this one takes over
//! from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;
use tracing::{info, warn};

/// How often a port that was taken is tried again.
const RETRY_NS: u64 = 1_000_000_000;

/// The unspecified address of a family.
pub(super) const fn unspecified(is_ipv6: bool) -> IpAddr {
    if is_ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

/// A socket on a port of all addresses of a family, or the wish for one.
#[derive(Debug)]
pub(super) struct Port {
    address: SocketAddr,
    /// What is logged when there is a socket after all, and when there is none.
    found: &'static str,
    missed: &'static str,
    socket: Option<Socket>,
    retry_ns: u64,
    has_failed: bool,
}

impl Port {
    pub(super) fn new(is_ipv6: bool, port: u16, found: &'static str, missed: &'static str) -> Self {
        let address = SocketAddr::new(unspecified(is_ipv6), port);
        Self { address, found, missed, socket: None, retry_ns: 0, has_failed: false }
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// The socket, if it has the port.
    pub(super) fn socket(&self) -> Option<&Socket> {
        self.socket.as_ref()
    }

    /// The same, to wait for.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket().map(AsFd::as_fd)
    }

    /// Tries to have the port, by `open`, if that is due.
    pub(super) fn tick(
        &mut self,
        now_ns: u64,
        open: impl FnOnce(SocketAddr) -> io::Result<Socket>,
    ) {
        if now_ns < self.deadline_ns() {
            return;
        }
        let Self { address, found, missed, .. } = *self;
        match open(address) {
            Ok(socket) => {
                self.socket = Some(socket);
                if self.has_failed {
                    info!(%address, "{found}");
                }
            }
            Err(error) => {
                self.retry_ns = now_ns + RETRY_NS;
                if !self.has_failed {
                    warn!(%address, %error, "{missed}");
                }
                self.has_failed = true;
            }
        }
    }

    /// When to call [`tick`](Self::tick).
    pub(super) fn deadline_ns(&self) -> u64 {
        if self.socket.is_some() { u64::MAX } else { self.retry_ns }
    }

    /// Closes the socket for a while.
    pub(super) fn pause(&mut self, now_ns: u64) {
        self.socket = None;
        self.retry_ns = now_ns + RETRY_NS;
    }
}
