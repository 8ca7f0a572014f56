//! The sockets that peers connect to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;
use vipdp_io::tcp_md5;

use super::connection::set_hops;
use super::port::Port;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 32;

/// A listening socket of one address family, or the wish for one: without it there are outgoing
/// connections only.
#[derive(Debug)]
pub(super) struct Listener {
    port: Port,
    ttl: u8,
    keys: Vec<(IpAddr, Vec<u8>)>,
}

impl Listener {
    /// A listener on all addresses of a family, whose answers go as far as `ttl`.
    pub(super) fn new(is_ipv6: bool, port: u16, ttl: u8) -> Self {
        const FOUND: &str = "BGP peers can connect now";
        const MISSED: &str = "BGP peers cannot connect; this node connects to them";
        Self { port: Port::new(is_ipv6, port, FOUND, MISSED), ttl, keys: Vec::new() }
    }

    /// Whether it is of the family of `address`.
    pub(super) fn is_for(&self, address: IpAddr) -> bool {
        self.port.is_ipv6() == address.is_ipv6()
    }

    /// Has what `peer` sends signed with `key`.
    pub(super) fn add_key(&mut self, peer: IpAddr, key: &[u8]) {
        if self.keys.iter().any(|(known, _)| *known == peer) {
            return;
        }
        if let Some(socket) = self.port.socket()
            && let Err(error) = tcp_md5::set_key(socket, peer, key)
        {
            warn!(%peer, %error, "the password of a BGP peer is not taken; it cannot connect");
        }
        self.keys.push((peer, key.to_vec()));
    }

    /// Tries to have the port, if that is due.
    pub(super) fn tick(&mut self, now_ns: u64) {
        let Self { port, ttl, keys } = self;
        port.tick(now_ns, |address| open(address, *ttl, keys));
    }

    /// When to call [`tick`](Self::tick).
    pub(super) fn deadline_ns(&self) -> u64 {
        self.port.deadline_ns()
    }

    /// The next connection; `None` when there is none now.
    pub(super) fn accept(&mut self, now_ns: u64) -> Option<(Socket, SocketAddr)> {
        match self.port.socket()?.accept() {
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
                    self.port.pause(now_ns);
                }
                None
            }
        }
    }

    /// The socket, if it listens.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.as_fd()
    }
}

fn open(address: SocketAddr, ttl: u8, keys: &[(IpAddr, Vec<u8>)]) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of a process that has ended do not hold the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    set_hops(&socket, address.is_ipv6(), ttl)?;
    for (peer, key) in keys {
        tcp_md5::set_key(&socket, *peer, key)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
