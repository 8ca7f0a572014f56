//! Who is on the other end of a link: the peer's link-local address, learnt from its router
//! advertisements (RFC 4861, section 4.2), and ours told by our own.
//!
//! We are no router that hosts should take: our advertisements have a router lifetime of 0 (section
//! 6.2.3), and exist for the peer to learn our address from, as routers with unnumbered BGP do.
//!
//! ```text
//!   link comes up, or a solicitation arrives    advertise, not sooner than 3 s after the last
//!   else                                        advertise every 7.5 to 10 s
//!   peer not known                              solicit whenever we advertise
//! ```

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::debug;
use vipdp_io::icmpv6_filter;
use vipdp_io::link::Link;

use super::view::ConnectFailure;
use crate::jitter::Jitter;

const MS: u64 = 1_000_000;
/// How often the link is looked at.
const LOOK_NS: u64 = 1000 * MS;
/// How often it is while it cannot be used: it comes up, or its address becomes valid, any moment.
const LOOK_AGAIN_NS: u64 = 200 * MS;
/// The longest time between two advertisements, MaxRtrAdvInterval; a quarter of it is the spread.
const ADVERTISEMENT_MAX_NS: u64 = 10_000 * MS;
/// MIN_DELAY_BETWEEN_RAS (RFC 4861, section 10).
const ADVERTISEMENT_MIN_NS: u64 = 3000 * MS;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Length of the shortest advertisement, in bytes (RFC 4861, section 4.2).
const ADVERTISEMENT_LEN: usize = 16;
/// Length of the shortest solicitation, in bytes (RFC 4861, section 4.1).
const SOLICITATION_LEN: usize = 8;
/// What neighbour discovery is sent with, and must arrive with (RFC 4861, section 6.1).
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Discovery on one interface.
#[derive(Debug)]
pub(super) struct Discovery {
    interface: String,
    /// The socket, while the link can be used.
    open: Option<Open>,
    /// Why there is none.
    trouble: Option<String>,
    look_ns: u64,
    advertise_ns: u64,
    advertised_ns: Option<u64>,
    knows_peer: bool,
}

#[derive(Debug)]
struct Open {
    socket: Socket,
    index: u32,
    own: Ipv6Addr,
}

/// A message of neighbour discovery that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    /// A router is at this address.
    Advertisement(Ipv6Addr),
    /// Somebody asks for routers.
    Solicitation,
}

impl Discovery {
    pub(super) fn new(interface: &str) -> Self {
        Self {
            interface: interface.into(),
            open: None,
            trouble: Some("the link was not looked at yet".into()),
            look_ns: 0,
            advertise_ns: u64::MAX,
            advertised_ns: None,
            knows_peer: false,
        }
    }

    /// The index of the interface, while the link can be used.
    pub(super) fn index(&self) -> Option<u32> {
        self.open.as_ref().map(|open| open.index)
    }

    /// Why nobody was heard yet.
    pub(super) fn trouble(&self) -> ConnectFailure {
        match &self.trouble {
            Some(trouble) => ConnectFailure::NoLink(trouble.clone()),
            None => ConnectFailure::NoRouter,
        }
    }

    /// No more solicitations: the peer is known.
    pub(super) fn set_known(&mut self) {
        self.knows_peer = true;
    }

    /// Looks at the link, and sends what is due.
    pub(super) fn tick(&mut self, now_ns: u64, jitter: &mut Jitter) {
        if now_ns >= self.look_ns {
            self.look(now_ns);
        }
        if now_ns < self.advertise_ns {
            return;
        }
        self.advertised_ns = Some(now_ns);
        self.advertise_ns = now_ns + jitter.apply(ADVERTISEMENT_MAX_NS);
        let Some(open) = &self.open else { return };
        if let Err(error) = open.send(ALL_NODES, &advertisement()) {
            debug!(interface = self.interface, %error, "a router advertisement");
        }
        if !self.knows_peer
            && let Err(error) = open.send(ALL_ROUTERS, &solicitation())
        {
            debug!(interface = self.interface, %error, "a router solicitation");
        }
    }

    /// When to call [`tick`](Self::tick).
    pub(super) fn deadline_ns(&self) -> u64 {
        self.look_ns.min(self.advertise_ns)
    }

    /// Takes the messages that came. Returns where a router is, if one has said.
    pub(super) fn receive(&mut self, now_ns: u64) -> Option<Ipv6Addr> {
        let mut heard = None;
        while let Some(open) = &self.open {
            match open.receive() {
                Ok(Some(Message::Advertisement(address))) if address != open.own => {
                    heard = Some(address);
                }
                Ok(Some(Message::Solicitation)) => self.advertise_soon(now_ns),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        heard
    }

    fn advertise_soon(&mut self, now_ns: u64) {
        let earliest = self.advertised_ns.map_or(0, |at| at + ADVERTISEMENT_MIN_NS);
        self.advertise_ns = self.advertise_ns.min(earliest.max(now_ns));
    }

    /// Opens the socket when the link has come up, and closes it when it cannot be used any more.
    fn look(&mut self, now_ns: u64) {
        let usable = self.usable();
        let is_same = match (&self.open, &usable) {
            (Some(open), Ok((index, own))) => (open.index, open.own) == (*index, *own),
            _ => false,
        };
        if !is_same {
            // An address that is still being checked for duplicates cannot be bound to: then it is
            // looked for again.
            let opened = usable.and_then(|(index, own)| Open::new(index, own));
            (self.open, self.trouble) = match opened {
                Ok(open) => (Some(open), None),
                Err(error) => (None, Some(error.to_string())),
            };
            if self.open.is_some() {
                self.advertise_soon(now_ns);
            }
        }
        self.look_ns = now_ns + if self.open.is_some() { LOOK_NS } else { LOOK_AGAIN_NS };
    }

    /// The interface's index and its link-local address, if it is up.
    fn usable(&self) -> io::Result<(u32, Ipv6Addr)> {
        let link = Link::read(&self.interface).map_err(io::Error::other)?;
        if !link.up || !link.running {
            return Err(io::Error::other("the link is down"));
        }
        let own = link.addresses.iter().find_map(|&(address, _)| match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
            _ => None,
        });
        Ok((link.index, own.ok_or_else(|| io::Error::other("it has no link-local address"))?))
    }

    /// The socket, while the link can be used.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(|open| open.socket.as_fd())
    }
}

impl Open {
    fn new(index: u32, own: Ipv6Addr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))?;
        // Nothing may come in before what must not is kept out.
        icmpv6_filter::receive_only(&socket, &[])?;
        socket.bind(&SocketAddrV6::new(own, 0, 0, index).into())?;
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_hops_v6(HOP_LIMIT.into())?;
        socket.set_multicast_loop_v6(false)?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        icmpv6_filter::receive_only(&socket, &[SOLICITATION, ADVERTISEMENT])?;
        Ok(Self { socket, index, own })
    }

    fn send(&self, group: Ipv6Addr, message: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(group, 0, 0, self.index);
        self.socket.send_to(message, &to.into()).map(drop)
    }

    /// The next message; `None` for one that is not to be heard. The kernel has checked its
    /// checksum (RFC 3542, section 3.1).
    fn receive(&self) -> nix::Result<Option<Message>> {
        let mut bytes = [0; ADVERTISEMENT_LEN];
        let mut control = nix::cmsg_space!(i32);
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<SockaddrIn6>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let hop_limit = message.cmsgs()?.find_map(|cmsg| match cmsg {
            ControlMessageOwned::Ipv6HopLimit(hops) => Some(hops),
            _ => None,
        });
        let (from, len) = (message.address, message.bytes);
        if hop_limit != Some(HOP_LIMIT.into())
            || from.is_some_and(|from| from.scope_id() != self.index)
        {
            return Ok(None);
        }
        Ok(from.and_then(|from| read(from.ip(), &bytes[..len])))
    }
}

/// The checks of RFC 4861, sections 6.1.1 and 6.1.2, that are left, but for the options, which are
/// not read.
fn read(from: Ipv6Addr, bytes: &[u8]) -> Option<Message> {
    let [kind, code, ..] = *bytes else { return None };
    match kind {
        ADVERTISEMENT
            if code == 0 && bytes.len() >= ADVERTISEMENT_LEN && from.is_unicast_link_local() =>
        {
            Some(Message::Advertisement(from))
        }
        SOLICITATION if code == 0 && bytes.len() >= SOLICITATION_LEN => Some(Message::Solicitation),
        _ => None,
    }
}

/// A router advertisement of one that is no default router and says nothing of its link: all zero
/// (RFC 4861, section 4.2). The kernel fills in the checksum (RFC 3542, section 3.1).
fn advertisement() -> [u8; ADVERTISEMENT_LEN] {
    let mut message = [0; ADVERTISEMENT_LEN];
    message[0] = ADVERTISEMENT;
    message
}

/// A router solicitation (RFC 4861, section 4.1).
fn solicitation() -> [u8; SOLICITATION_LEN] {
    let mut message = [0; SOLICITATION_LEN];
    message[0] = SOLICITATION;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_messages_of_the_right_senders_are_read() {
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        let global: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(read(router, &advertisement()), Some(Message::Advertisement(router)));
        assert_eq!(read(global, &advertisement()), None);
        assert_eq!(read(router, &advertisement()[..15]), None);
        // A host without an address yet solicits from none.
        let none = Ipv6Addr::UNSPECIFIED;
        assert_eq!(read(none, &solicitation()), Some(Message::Solicitation));
        assert_eq!(read(none, &solicitation()[..7]), None);
        for kind in [ADVERTISEMENT, SOLICITATION] {
            let mut message = [0; ADVERTISEMENT_LEN];
            message[..2].copy_from_slice(&[kind, 1]);
            assert_eq!(read(router, &message), None, "code 1");
        }
        assert_eq!(read(router, &[]), None);
    }

    #[test]
    fn advertisements_keep_their_distance() {
        let mut discovery = Discovery::new("none");
        discovery.look_ns = u64::MAX;
        let start = 1000 * ADVERTISEMENT_MAX_NS;
        discovery.advertise_soon(start);
        assert_eq!(discovery.deadline_ns(), start, "the first at once");
        let mut jitter = Jitter::new(1);
        let range = ADVERTISEMENT_MAX_NS / 4 * 3..=ADVERTISEMENT_MAX_NS;
        discovery.tick(start, &mut jitter);
        assert!(range.contains(&(discovery.deadline_ns() - start)));
        discovery.advertise_soon(start + 1);
        assert_eq!(discovery.deadline_ns(), start + ADVERTISEMENT_MIN_NS);
        let now = start + ADVERTISEMENT_MIN_NS;
        discovery.tick(now, &mut jitter);
        assert!(range.contains(&(discovery.deadline_ns() - now)));
    }
}
