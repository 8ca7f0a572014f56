//! The socket that heartbeats travel by.
//!
//! Multicast on the VIPs' own segment shares the fate of the clients' frames: a link that loses one
//! loses the other. Its packets leave with a TTL of 255 and anything that arrives with less has
//! crossed a router, so it is not from this segment (RFC 5082). Where multicast is filtered, or the
//! members are not on one segment, each member is sent to by itself.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use vipdp_core::slot::{SLOTS, Slot};

/// The TTL, or hop limit, of a packet that no router has touched.
const TTL_OF_THE_SEGMENT: u32 = 255;

/// Where heartbeats go.
#[derive(Clone, Debug)]
pub enum Route {
    /// To a link-local group on one interface.
    Multicast {
        /// Index of the interface.
        interface: NonZeroU32,
        /// The group and port.
        group: SocketAddr,
    },
    /// To each member by itself.
    Unicast {
        /// This node's own address and port.
        own: SocketAddr,
        /// The other members', by slot.
        peers: Box<[Option<SocketAddr>; SLOTS]>,
    },
}

/// The socket, and where it sends to.
#[derive(Debug)]
pub struct Transport {
    socket: Socket,
    route: Route,
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes from a member, or from one who wants to be taken for one.
    Datagram(usize),
    /// A datagram from beyond the segment: not read further.
    NotOfTheSegment,
    /// A datagram longer than the buffer: not read further.
    TooLong,
}

impl Transport {
    /// Opens the socket.
    pub fn open(route: Route) -> io::Result<Self> {
        let local = match &route {
            Route::Multicast { group, .. } => *group,
            Route::Unicast { own, .. } => *own,
        };
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
            socket.set_recv_hoplimit_v6(true)?;
        } else {
            nix::sys::socket::setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        }
        if let Route::Multicast { interface, group } = &route {
            join(&socket, *interface, group.ip())?;
        }
        // Bound to the group itself: datagrams to the port that were not sent to the group, and
        // those of other interfaces, do not reach this socket.
        let local = match (&route, local) {
            (Route::Multicast { interface, .. }, SocketAddr::V6(group)) => {
                SocketAddrV6::new(*group.ip(), group.port(), 0, interface.get()).into()
            }
            (_, local) => local,
        };
        socket.bind(&SockAddr::from(local))?;
        Ok(Self { socket, route })
    }

    /// Sends elsewhere from now on. The socket stays as it is: a route of another kind, group or
    /// own address takes another socket.
    pub fn set_route(&mut self, route: Route) {
        self.route = route;
    }

    /// Sends to all members.
    ///
    /// # Errors
    /// The first error; the other members are sent to all the same.
    pub fn send_to_all(&self, datagram: &[u8]) -> io::Result<()> {
        match &self.route {
            Route::Multicast { group, .. } => self.send(datagram, *group),
            Route::Unicast { peers, .. } => {
                let mut first = Ok(());
                for &peer in peers.iter().flatten() {
                    let sent = self.send(datagram, peer);
                    first = first.and(sent);
                }
                first
            }
        }
    }

    /// Sends to one member. Over multicast, all hear it: a member tells from the message whom it is
    /// for, and the segment carries it to that member's current address whatever it is.
    pub fn send_to(&self, datagram: &[u8], slot: Slot) -> io::Result<()> {
        match &self.route {
            Route::Multicast { group, .. } => self.send(datagram, *group),
            Route::Unicast { peers, .. } => match peers[slot.index()] {
                Some(peer) => self.send(datagram, peer),
                None => Ok(()),
            },
        }
    }

    fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(datagram, &SockAddr::from(to)).map(drop)
    }

    /// Takes the next datagram into `buffer`; `None` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut control = nix::cmsg_space!(i32);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if message.flags.contains(MsgFlags::MSG_TRUNC) {
            return Ok(Some(Received::TooLong));
        }
        let ttl = message.cmsgs()?.find_map(|cmsg| match cmsg {
            ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => Some(ttl),
            _ => None,
        });
        let of_the_segment = ttl == Some(TTL_OF_THE_SEGMENT as i32);
        if matches!(self.route, Route::Multicast { .. }) && !of_the_segment {
            return Ok(Some(Received::NotOfTheSegment));
        }
        Ok(Some(Received::Datagram(message.bytes)))
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn join(socket: &Socket, interface: NonZeroU32, group: IpAddr) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => {
            let index = InterfaceIndexOrAddress::Index(interface.get());
            socket.join_multicast_v4_n(&group, &index)?;
            // The route of a group is the device that the socket is bound to, so that no route
            // of the host's can lead heartbeats elsewhere.
            socket.bind_device_by_index_v4(Some(interface))?;
            socket.set_multicast_all_v4(false)?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(TTL_OF_THE_SEGMENT)
        }
        IpAddr::V6(group) => {
            socket.join_multicast_v6(&group, interface.get())?;
            socket.bind_device_by_index_v6(Some(interface))?;
            socket.set_multicast_if_v6(interface.get())?;
            socket.set_multicast_all_v6(false)?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_hops_v6(TTL_OF_THE_SEGMENT)
        }
    }
}
