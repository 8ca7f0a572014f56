//! The time that a probe has, and the waiting for sockets within it.
//!
//! A deadline is for the whole probe: a service that sends a byte now and then does not move it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::{Domain, Protocol, Socket, Type};

/// The order to stop, for all who wait.
#[derive(Clone, Debug)]
pub(super) struct StopOrder(Arc<EventFd>);

impl StopOrder {
    /// An order that was not given yet.
    pub(super) fn new() -> nix::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Gives the order, for good: nobody ever reads the counter.
    pub(super) fn give(&self) {
        // It fails when the counter is full: then the order was given.
        let _ = self.0.write(1);
    }

    /// Waits until `until`, or until the order is given; returns whether it is.
    pub(super) fn wait(&self, until: Instant) -> bool {
        let mut descriptors = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        wait(&mut descriptors, until);
        descriptors[0].any().unwrap_or(false)
    }
}

/// What a probe may take.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    deadline: Instant,
    stop: &'a StopOrder,
}

impl<'a> Patience<'a> {
    /// Patience until `timeout` from now.
    pub(super) fn new(timeout: Duration, stop: &'a StopOrder) -> Self {
        Self { deadline: Instant::now() + timeout, stop }
    }

    /// Waits until one of the descriptors is ready for what it was asked; returns them, with what
    /// each is ready for.
    ///
    /// # Errors
    /// `TimedOut` when the time is over, or the order to stop was given.
    pub(super) fn wait_for_any<'f>(
        &'f self,
        mut descriptors: Vec<PollFd<'f>>,
    ) -> io::Result<Vec<PollFd<'f>>> {
        descriptors.push(PollFd::new(self.stop.0.as_fd(), PollFlags::POLLIN));
        wait(&mut descriptors, self.deadline);
        let stopped = descriptors.pop().is_some_and(|stop| stop.any().unwrap_or(false));
        let ready = descriptors.iter().any(|descriptor| descriptor.any().unwrap_or(true));
        match ready && !stopped && Instant::now() < self.deadline {
            true => Ok(descriptors),
            false => Err(io::Error::new(io::ErrorKind::TimedOut, "it takes too long")),
        }
    }

    /// Waits until the descriptor is ready.
    fn wait_for(&self, descriptor: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
        self.wait_for_any(vec![PollFd::new(descriptor, flags)]).map(drop)
    }

    /// Opens a TCP connection.
    pub(super) fn connect(&self, address: SocketAddr) -> io::Result<Connection<'_>> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
                self.wait_for(socket.as_fd(), PollFlags::POLLOUT)?;
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(Connection { stream: socket.into(), patience: self })
    }

    /// Opens a UDP socket on a port of the kernel's choice, which hears nobody but `address`.
    pub(super) fn datagrams(&self, address: SocketAddr) -> io::Result<Datagrams<'_>> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        Ok(Datagrams { socket, patience: self })
    }

    /// Tries until it need not wait any more.
    fn retry<T>(
        &self,
        descriptor: BorrowedFd<'_>,
        flags: PollFlags,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for(descriptor, flags)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// Waits until something happens, or until `until`.
fn wait(descriptors: &mut [PollFd<'_>], until: Instant) {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up: waking a fraction of a millisecond early would only spin.
        let left_ms = Duration::from_millis(left.as_micros().div_ceil(1000) as u64);
        let timeout = PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX);
        match poll(descriptors, timeout) {
            Ok(0) if Instant::now() < until => {}
            Err(Errno::EINTR) => {}
            // The kernel has no memory for it: as if the time were over.
            Ok(_) | Err(_) => return,
        }
    }
}

/// A TCP connection of a probe. Reading and writing end with the probe's time.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    stream: TcpStream,
    patience: &'a Patience<'a>,
}

impl Read for Connection<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { stream, patience } = self;
        patience.retry(stream.as_fd(), PollFlags::POLLIN, || (&*stream).read(buffer))
    }
}

impl Write for Connection<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { stream, patience } = self;
        patience.retry(stream.as_fd(), PollFlags::POLLOUT, || (&*stream).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A UDP socket of a probe. Receiving ends with the probe's time.
#[derive(Debug)]
pub(super) struct Datagrams<'a> {
    socket: UdpSocket,
    patience: &'a Patience<'a>,
}

impl Datagrams<'_> {
    /// Sends a datagram.
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        let attempt = || self.socket.send(datagram);
        self.patience.retry(self.socket.as_fd(), PollFlags::POLLOUT, attempt)
    }

    /// Receives a datagram into `buffer`; returns its length.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let attempt = || self.socket.recv(buffer);
        self.patience.retry(self.socket.as_fd(), PollFlags::POLLIN, attempt)
    }
}
