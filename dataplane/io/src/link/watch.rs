//! News of an interface's link, as soon as the kernel has it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::{Link, LinkError, NetlinkError};

/// The multicast group of interfaces (`RTNLGRP_LINK` of linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;

/// What has become of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkNow {
    /// It can carry frames.
    Up,
    /// It is down, or has no carrier.
    Down,
    /// There is none of its name any more.
    Gone,
    /// There is one of its name again, and it is another one: what was open on the first one stays closed.
    Another,
}

/// Tells when something becomes of one interface.
#[derive(Debug)]
pub struct LinkWatch {
    socket: Socket,
    name: String,
    index: u32,
    last: LinkNow,
}

impl LinkWatch {
    /// Watches `link`, which is taken to be up.
    ///
    /// # Errors
    /// When the kernel lets nobody listen.
    pub fn open(link: &Link) -> Result<Self, NetlinkError> {
        let opened = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.add_membership(GROUP_LINK)?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = opened().map_err(|source| NetlinkError {
            request: "listen for news of links".into(),
            source,
        })?;
        Ok(Self { socket, name: link.name.clone(), index: link.index, last: LinkNow::Up })
    }

    /// Whether it could carry frames at the last look.
    pub fn is_up(&self) -> bool {
        self.last == LinkNow::Up
    }

    /// Looks at the interface, and says what has become of it if that is another thing than the last time.
    pub fn look(&mut self) -> Option<LinkNow> {
        let now = match Link::read(&self.name) {
            Ok(link) if link.index != self.index => LinkNow::Another,
            Ok(link) if link.running => LinkNow::Up,
            Ok(_) => LinkNow::Down,
            Err(LinkError::Missing { .. } | LinkError::NotEthernet { .. }) => LinkNow::Gone,
            Err(error) => {
                tracing::debug!(%error, "looking at the link");
                return None;
            }
        };
        (std::mem::replace(&mut self.last, now) != now).then_some(now)
    }

    /// Looks at the interface if there was news of any.
    pub fn news(&mut self) -> Option<LinkNow> {
        let mut any = false;
        // What it says does not matter, nor whether some was lost: the interface is asked.
        let mut buffer = Vec::with_capacity(4096);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => any = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => break,
            }
        }
        if any { self.look() } else { None }
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open for as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}
