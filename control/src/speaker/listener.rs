//! The sockets that peers connect to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};
use tracing::{info, warn};
use vipdp_io::tcp_md5;

use super::connection::set_hops;

/// How often a port that was taken is tried again.
const RETRY_NS: u64 = 1_000_000_000;
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 32;

/// A listening socket of one address family, or the wish for one: while another process has the
/// port, be it a BGP daemon or the vipdp that this one takes over from, there are outgoing
/// connections only.
#[derive(Debug)]
pub(super) struct Listener {
    address: SocketAddr,
    ttl: u8,
    keys: Vec<(IpAddr, Vec<u8>)>,
    socket: Option<Socket>,
    retry_ns: u64,
    has_failed: bool,
}

impl Listener {
    /// A listener on all addresses of a family, whose answers go as far as `ttl`.
    pub(super) fn new(is_ipv6: bool, port: u16, ttl: u8) -> Self {
        let any: IpAddr =
            if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        Self {
            address: SocketAddr::new(any, port),
            ttl,
            keys: Vec::new(),
            socket: None,
            retry_ns: 0,
            has_failed: false,
        }
    }

    /// Whether it is of the family of `address`.
    pub(super) fn is_for(&self, address: IpAddr) -> bool {
        self.address.is_ipv6() == address.is_ipv6()
    }

    /// Has what `peer` sends signed with `key`.
    pub(super) fn add_key(&mut self, peer: IpAddr, key: &[u8]) {
        if self.keys.iter().any(|(known, _)| *known == peer) {
            return;
        }
        if let Some(socket) = &self.socket
            && let Err(error) = tcp_md5::set_key(socket, peer, key)
        {
            warn!(%peer, %error, "the password of a BGP peer is not taken; it cannot connect");
        }
        self.keys.push((peer, key.to_vec()));
    }

    /// Tries to have the port, if that is due.
    pub(super) fn tick(&mut self, now_ns: u64) {
        if now_ns < self.deadline_ns() {
            return;
        }
        match self.open() {
            Ok(socket) => {
                self.socket = Some(socket);
                if self.has_failed {
                    info!(address = %self.address, "BGP peers can connect now");
                }
            }
            Err(error) => {
                self.retry_ns = now_ns + RETRY_NS;
                if !self.has_failed {
                    let address = self.address;
                    warn!(%address, %error, "BGP peers cannot connect; this node connects to them");
                }
                self.has_failed = true;
            }
        }
    }

    /// When to call [`tick`](Self::tick).
    pub(super) fn deadline_ns(&self) -> u64 {
        if self.socket.is_some() { u64::MAX } else { self.retry_ns }
    }

    fn open(&self) -> io::Result<Socket> {
        let domain = Domain::for_address(self.address);
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        // Connections of a process that has ended do not hold the port.
        socket.set_reuse_address(true)?;
        if self.address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        set_hops(&socket, self.address.is_ipv6(), self.ttl)?;
        for (peer, key) in &self.keys {
            tcp_md5::set_key(&socket, *peer, key)?;
        }
        socket.bind(&self.address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    }

    /// The next connection; `None` when there is none now.
    pub(super) fn accept(&mut self, now_ns: u64) -> Option<(Socket, SocketAddr)> {
        match self.socket.as_ref()?.accept() {
            Ok((socket, from)) => Some((socket, from.as_socket()?)),
            Err(error) => {
                // One that was given up while it waited is none.
                let is_over = !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionAborted
                );
                if is_over {
                    // No descriptor is left, as a rule: the connections that wait would have the
                    // thread look at them again and again.
                    self.socket = None;
                    self.retry_ns = now_ns + RETRY_NS;
                }
                None
            }
        }
    }

    /// The socket, if it listens.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }
}
