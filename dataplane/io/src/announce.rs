//! Ready frames onto the segment: claims of next hops, by gratuitous ARP (RFC 5227, section 3) and
//! unsolicited neighbour advertisements (RFC 4861, section 7.2.6), and probes before them.
//!
//! The control thread sends them, past the workers: a claim must go out however busy the queues
//! are. Frames are built in `vipdp_core`, tag included where the segment is tagged. Their Ethernet
//! source is whatever they say, a virtual MAC address mostly: that is what teaches the switches its
//! place.
//!
//! ```text
//!  control thread -- Announcer (AF_PACKET, no protocol: hears nothing)
//!                       |  queueing discipline, first band (priority 7)
//!                       v
//!                      NIC
//! ```

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use vipdp_core::wire::ethernet;

use crate::link::Link;
use crate::packet_socket;

/// `TC_PRIO_CONTROL` of linux/pkt_sched.h: the band of routing protocols, which overtakes data in
/// the kernel's default queueing discipline.
const PRIORITY: libc::c_int = 7;

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("interface {interface}: a socket for claims: {source}; it takes CAP_NET_RAW")]
pub struct OpenError {
    /// The interface.
    pub interface: String,
    /// The kernel's error.
    pub source: io::Error,
}

/// Why a frame did not leave. Nothing of it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It has no whole Ethernet header.
    #[error("a frame of {0} bytes has no Ethernet header")]
    TooShort(usize),
    /// It is longer than the interface's MTU allows.
    #[error("a frame of {0} bytes is too long for the interface")]
    TooLong(usize),
    /// Too much waits to be sent already: the same frame may be sent again in a moment.
    #[error("the interface is busy")]
    Busy,
    /// The interface is down: it may come up again.
    #[error("the interface is down")]
    Down,
    /// The interface is gone: it takes another [`Announcer`].
    #[error("the interface is gone")]
    Gone,
    /// Something else; the kernel's error.
    #[error("the kernel sends nothing: {0}")]
    Other(Errno),
}

/// Sends ready Ethernet frames on one interface.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
}

impl Announcer {
    /// Opens a socket on `link`, of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(link: &Link) -> Result<Self, OpenError> {
        let opened = || -> io::Result<OwnedFd> {
            let socket = packet_socket::sender(link.index)?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Priority, &PRIORITY)?;
            Ok(socket)
        };
        let socket =
            opened().map_err(|source| OpenError { interface: link.name.clone(), source })?;
        Ok(Self { socket })
    }

    /// Sends one frame, from its destination address to the end of its payload. Returns at once.
    ///
    /// A frame that was taken may still be lost in a full queue of the driver, or on the wire:
    /// whoever claims repeats it.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, frame: &[u8]) -> Result<(), SendError> {
        if frame.len() < ethernet::HEADER_LEN {
            return Err(SendError::TooShort(frame.len()));
        }
        match nix::unistd::write(&self.socket, frame) {
            Ok(_) => Ok(()),
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR) => {
                Err(SendError::Busy)
            }
            Err(Errno::EMSGSIZE) => Err(SendError::TooLong(frame.len())),
            Err(Errno::ENETDOWN) => Err(SendError::Down),
            Err(Errno::ENXIO | Errno::ENODEV) => Err(SendError::Gone),
            Err(errno) => Err(SendError::Other(errno)),
        }
    }
}
