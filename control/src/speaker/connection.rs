//! A TCP connection to a peer, as it is being made, used, and closed.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};
use vipdp_io::tcp_md5;

/// How much may wait to be sent. All routes a few times over are far less; a peer that lets that
/// much pile up does not read.
const WAITING_MAX: usize = 1 << 20;
/// How long a peer may leave what is sent to it unread, as RFC 9687 wants it bounded (section
/// 3.1). Departure: the kernel then ends the connection, without a NOTIFICATION, which the peer
/// would not read either.
const SEND_HOLD: Duration = Duration::from_secs(480);
/// The traffic class of routing protocols: CS6 (RFC 4594, section 3.1).
pub(super) const TOS_CS6: u32 = 0xc0;

/// A socket, and what waits to be written to it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    waiting: VecDeque<u8>,
    is_shut: bool,
}

/// How a connection to a peer is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner<'a> {
    pub ttl: u8,
    pub password: Option<&'a [u8]>,
}

impl Connection {
    /// Begins to connect. It is made, or has failed, when the socket can be written to; then see
    /// [`finish`](Self::finish).
    pub(super) fn begin(to: SocketAddr, manner: Manner<'_>) -> io::Result<Self> {
        let socket =
            Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if let Some(key) = manner.password {
            tcp_md5::set_key(&socket, to.ip(), key)?;
        }
        let connection = Self::of(socket, to.is_ipv6(), manner.ttl)?;
        match connection.socket.connect(&to.into()) {
            Ok(()) => Ok(connection),
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok(connection),
            Err(error) => Err(error),
        }
    }

    /// Takes over a socket that a listener accepted.
    pub(super) fn accepted(socket: Socket, is_ipv6: bool, ttl: u8) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Self::of(socket, is_ipv6, ttl)
    }

    fn of(socket: Socket, is_ipv6: bool, ttl: u8) -> io::Result<Self> {
        set_hops(&socket, is_ipv6, ttl)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(SEND_HOLD))?;
        Ok(Self { socket, waiting: VecDeque::new(), is_shut: false })
    }

    /// Whether the connection was made, once the socket can be written to.
    pub(super) fn finish(&self) -> io::Result<()> {
        match self.socket.take_error()? {
            Some(error) => Err(error),
            None => self.ends().map(drop),
        }
    }

    /// Both ends' addresses, ours first.
    pub(super) fn ends(&self) -> io::Result<(IpAddr, IpAddr)> {
        let ip = |address: socket2::SockAddr| {
            address.as_socket().map(|address| address.ip()).ok_or(io::ErrorKind::Unsupported)
        };
        Ok((ip(self.socket.local_addr()?)?, ip(self.socket.peer_addr()?)?))
    }

    /// What is waited for.
    pub(super) fn events(&self) -> PollFlags {
        if self.waiting.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        }
    }

    /// Writes `bytes`, or as much of them as goes now; the rest waits.
    ///
    /// # Errors
    /// When the connection is lost, or the peer does not read.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.waiting.len() + bytes.len() > WAITING_MAX {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the peer does not read"));
        }
        self.waiting.extend(bytes);
        self.flush()
    }

    /// Writes what waits, as much of it as goes now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match self.socket.write(self.waiting.as_slices().0) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what came; `None` when there is nothing now, 0 at the end.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.socket.read(buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes on closing: what waits is written, then the end of it, then what the peer still sends
    /// is read and forgotten. To close with bytes unread would make the kernel reset the
    /// connection, and the peer could lose the NOTIFICATION that it had not read yet.
    ///
    /// Returns whether it is done.
    pub(super) fn close(&mut self, buffer: &mut [u8]) -> bool {
        if self.flush().is_err() {
            return true;
        }
        if self.waiting.is_empty() && !self.is_shut {
            self.is_shut = true;
            if self.socket.shutdown(Shutdown::Write).is_err() {
                return true;
            }
        }
        matches!(self.receive(buffer), Ok(Some(0)) | Err(_))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sets how far a socket's packets go, and their traffic class.
pub(super) fn set_hops(socket: &Socket, is_ipv6: bool, ttl: u8) -> io::Result<()> {
    if is_ipv6 {
        socket.set_unicast_hops_v6(ttl.into())?;
        socket.set_tclass_v6(TOS_CS6)
    } else {
        socket.set_ttl_v4(ttl.into())?;
        socket.set_tos_v4(TOS_CS6)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use nix::poll::{PollFd, PollTimeout, poll};

    use super::*;

    const NEIGHBOR: Manner<'_> = Manner { ttl: 1, password: None };

    /// Both ends of a connection, the far one as the peer has it.
    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let connection = Connection::begin(listener.local_addr().unwrap(), NEIGHBOR).unwrap();
        let (peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        wait(&connection, PollFlags::POLLOUT);
        connection.finish().unwrap();
        (connection, peer)
    }

    fn wait(connection: &Connection, events: PollFlags) {
        let mut fds = [PollFd::new(connection.as_fd(), events)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap(), 1, "{events:?}");
    }

    #[test]
    fn nobody_who_listens_is_found_out() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        match Connection::begin(free, NEIGHBOR) {
            Ok(connection) => {
                wait(&connection, PollFlags::POLLOUT);
                let error = connection.finish().unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
        }
    }

    #[test]
    fn a_peer_that_does_not_read_is_given_up_and_one_that_does_gets_all() {
        let (mut connection, peer) = pair();
        let message = vec![7; 64 * 1024];
        let mut taken = 0;
        let error = loop {
            match connection.send(&message) {
                Ok(()) => taken += message.len(),
                Err(error) => break error,
            }
            assert!(taken < 1 << 28, "it waits for ever");
        };
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        assert!(connection.waiting.len() <= WAITING_MAX);
        assert_eq!(connection.events(), PollFlags::POLLIN | PollFlags::POLLOUT);

        let reader = std::thread::spawn(move || {
            let mut read = Vec::new();
            (&peer).read_to_end(&mut read).map(|_| read)
        });
        while !connection.waiting.is_empty() {
            wait(&connection, PollFlags::POLLOUT);
            connection.flush().unwrap();
        }
        assert_eq!(connection.events(), PollFlags::POLLIN);
        drop(connection);
        let read = reader.join().unwrap().unwrap();
        assert!(read.len() == taken && read.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn last_words_arrive_though_the_peer_was_not_heard_out() {
        let (mut connection, mut peer) = pair();
        peer.write_all(&[1; 10_000]).unwrap();
        connection.send(b"last words").unwrap();
        let mut buffer = [0; 4096];
        assert!(!connection.close(&mut buffer), "the peer has not closed");
        // What closes at once with bytes unread resets the connection, and these would be an error.
        let mut read = Vec::new();
        peer.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"last words");
        drop(peer);
        while !connection.close(&mut buffer) {
            wait(&connection, PollFlags::POLLIN);
        }
    }
}
