//! The UDP sockets of BFD (RFC 5881): one per family that receives for all sessions, and one per
//! session that sends, for each has a source port of its own (section 4).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::connection::set_hops;
use super::port::{Port, unspecified};
use crate::bfd::{PORT, SOURCE_PORT_MIN, TTL};
use crate::runtime::random;

/// How many source ports are tried.
const SOURCE_PORTS_TRIED: usize = 64;
/// More than a control packet ever has, with authentication.
const DATAGRAM_MAX: usize = 128;

/// A datagram to the BFD port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram {
    /// Who sent it, by its word.
    pub from: IpAddr,
    /// Index of the interface that it came by.
    pub interface: u32,
    /// It was sent on this link: no router has touched its TTL.
    pub is_of_the_link: bool,
    bytes: [u8; DATAGRAM_MAX],
    len: usize,
}

impl Datagram {
    /// Its payload.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The receiving socket of one family, or the wish for one while another process has the port.
#[derive(Debug)]
pub(super) struct Receiver(Port);

impl Receiver {
    pub(super) fn new(is_ipv6: bool) -> Self {
        const MISSED: &str = "BFD hears nothing: no path is watched";
        Self(Port::new(is_ipv6, PORT, "BFD hears now", MISSED))
    }

    /// Tries to have the port, if that is due.
    pub(super) fn tick(&mut self, now_ns: u64) {
        self.0.tick(now_ns, open);
    }

    /// When to call [`tick`](Self::tick).
    pub(super) fn deadline_ns(&self) -> u64 {
        self.0.deadline_ns()
    }

    /// Takes the next datagram; `None` when there is none.
    pub(super) fn receive(&self) -> Option<Datagram> {
        loop {
            match receive(self.0.socket()?) {
                Ok(Some(datagram)) => return Some(datagram),
                // Not one that could be BFD's.
                Ok(None) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// The socket, if it has the port.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_fd()
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn receive(socket: &Socket) -> nix::Result<Option<Datagram>> {
    let mut bytes = [0; DATAGRAM_MAX];
    let mut control = nix::cmsg_space!(i32, nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let (mut ttl, mut interface) = (None, None);
    for cmsg in message.cmsgs()? {
        match cmsg {
            ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) => {
                ttl = Some(hops);
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                interface = u32::try_from(info.ipi_ifindex).ok();
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => interface = Some(info.ipi6_ifindex),
            _ => {}
        }
    }
    let from = message.address.and_then(|address| ip(&address));
    let len = message.bytes;
    let (Some(from), Some(interface)) = (from, interface) else { return Ok(None) };
    let is_of_the_link = ttl == Some(i32::from(TTL));
    Ok(Some(Datagram { from, interface, is_of_the_link, bytes, len }))
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

/// The sending socket of one session.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Socket,
    to: SocketAddr,
}

impl Sender {
    /// Sends to `peer`; with the index of its interface, if it is link-local.
    pub(super) fn open(peer: IpAddr, scope: u32) -> io::Result<Self> {
        let to = match peer {
            IpAddr::V4(peer) => SocketAddr::new(peer.into(), PORT),
            IpAddr::V6(peer) => SocketAddrV6::new(peer, PORT, 0, scope).into(),
        };
        let socket =
            Socket::new(Domain::for_address(to), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        set_hops(&socket, to.is_ipv6(), TTL)?;
        let mut last = io::Error::from(Errno::EADDRINUSE);
        for _ in 0..SOURCE_PORTS_TRIED {
            let ports = u64::from(u16::MAX - SOURCE_PORT_MIN) + 1;
            let port = SOURCE_PORT_MIN + (random::word()? % ports) as u16;
            match socket.bind(&SocketAddr::new(unspecified(to.is_ipv6()), port).into()) {
                Ok(()) => return Ok(Self { socket, to }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, &self.to.into()).map(drop)
    }
}
