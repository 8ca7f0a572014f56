//! One peer: its BGP session with its connections, and its BFD session.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::poll::PollFlags;
use socket2::Socket;
use tracing::{debug, info, warn};

use super::bfd_port::{Datagram, Sender};
use super::config::{SpeakerPeer, Target};
use super::connection::{Connection, Manner};
use super::signature;
use super::view::{BfdView, ConnectFailure, SpeakerPeerView};
use crate::bfd::{self, Packet};
use crate::bgp::{self, ConnId, LocalConfig};

/// How long a connection that BGP has closed may take to be closed.
const CLOSING_NS: u64 = 1_000_000_000;
/// How many such connections there may be; of more, the oldest are cut off.
const CLOSING_MAX: usize = 4;
/// How much is read from one connection before others get their turn.
const TURN_LEN: usize = 64 * 1024;
/// How long BGP waits for BFD after BFD has found the path broken: as long as BFD needs at its slow
/// pace to come up on a path that is whole, twice over. Not for ever: routers make the BFD session
/// of an unnumbered peer only when its BGP session is up (FRR for one), and where the path is broken,
/// TCP does not connect for that.
const BFD_WAIT_NS: u64 = 3_000_000_000;

/// A peer and all its sockets.
#[derive(Debug)]
pub(super) struct Peer {
    config: SpeakerPeer,
    session: bgp::Session,
    /// Where it is, with the port it listens on.
    remote: Option<SocketAddr>,
    /// It was neither started nor stopped yet.
    is_new: bool,
    connections: Vec<(ConnId, Connection)>,
    /// This node's address of the latest of them.
    local: Option<IpAddr>,
    attempt: Option<Connection>,
    closing: Vec<Closing>,
    next_conn: u64,
    bgp_deadline_ns: u64,
    connect_failure: Option<ConnectFailure>,
    /// The kernel's count of segments with a wrong signature, when last all was well.
    signature_drops: u64,
    bfd: Option<Bfd>,
    bfd_seed: u64,
    outputs: Vec<bgp::Output>,
}

#[derive(Debug)]
struct Closing {
    connection: Connection,
    until_ns: u64,
}

/// What names one of a peer's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Attempt,
    Connection(ConnId),
    /// Any of those that are being closed.
    Closing,
}

#[derive(Debug)]
struct Bfd {
    session: bfd::Session,
    sender: Sender,
    rejected: u64,
    can_send: bool,
    /// When BGP no longer waits for the session to come up.
    release_ns: u64,
    outputs: Vec<bfd::Output>,
}

impl Peer {
    /// A peer that nothing was said to yet. `seed` is random.
    pub(super) fn new(
        config: SpeakerPeer,
        local: Arc<LocalConfig>,
        seed: u64,
    ) -> Result<Self, bgp::ConfigError> {
        let session = bgp::Session::new(local, config.config, seed)?;
        Ok(Self {
            config,
            session,
            remote: None,
            is_new: true,
            connections: Vec::new(),
            local: None,
            attempt: None,
            closing: Vec::new(),
            next_conn: 0,
            bgp_deadline_ns: u64::MAX,
            connect_failure: None,
            signature_drops: signature::drops(),
            bfd: None,
            bfd_seed: seed.rotate_left(32),
            outputs: Vec::new(),
        })
    }

    /// How it is configured.
    pub(super) fn config(&self) -> &SpeakerPeer {
        &self.config
    }

    /// Where it is.
    pub(super) fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// The discriminator of its BFD session.
    pub(super) fn discriminator(&self) -> Option<NonZeroU32> {
        self.bfd.as_ref().map(|bfd| bfd.session.discriminator())
    }

    /// Whether it is to be met at `address`, on the interface with that index if that is
    /// link-local. `own` is the index of the interface that it is configured with, if it is.
    pub(super) fn is_at(&self, address: IpAddr, interface: u32, own: Option<u32>) -> bool {
        match (&self.config.target, self.remote) {
            (Target::Address(configured, scope), _) => {
                *configured == address && (*scope == 0 || *scope == interface)
            }
            (Target::Interface(_), _) if own != Some(interface) => false,
            (Target::Interface(_), Some(remote)) if self.is_engaged() => remote.ip() == address,
            (Target::Interface(_), _) => is_link_local(address),
        }
    }

    /// Whether its address is in use.
    fn is_engaged(&self) -> bool {
        let is_watched = self.bfd.as_ref().is_some_and(|bfd| bfd.session.state() == bfd::State::Up);
        is_watched || self.session.view().state == bgp::State::Established
    }

    /// The peer is at `address`: begins to talk to it there. `discriminator` is for a BFD session.
    pub(super) fn found(
        &mut self,
        now_ns: u64,
        address: IpAddr,
        scope: u32,
        discriminator: NonZeroU32,
    ) {
        let remote = match address {
            IpAddr::V4(address) => SocketAddr::new(address.into(), self.config.port),
            IpAddr::V6(address) => SocketAddrV6::new(address, self.config.port, 0, scope).into(),
        };
        if self.remote == Some(remote) || (self.remote.is_some() && self.is_engaged()) {
            return;
        }
        if let Target::Interface(name) = &self.config.target {
            info!(interface = name, %address, "a BGP peer is there");
        }
        self.remote = Some(remote);
        self.watch(now_ns, address, scope, discriminator);
        if self.is_new {
            self.is_new = false;
            self.tell(now_ns, bgp::Input::Start);
        }
    }

    /// Has BFD watch the path to the peer, if that is wanted.
    fn watch(&mut self, now_ns: u64, address: IpAddr, scope: u32, discriminator: NonZeroU32) {
        let Some(timers) = self.config.bfd else { return };
        // BGP may still wait for the session before.
        let release_ns = self.bfd.as_ref().map_or(u64::MAX, |bfd| bfd.release_ns);
        match Sender::open(address, scope) {
            Ok(sender) => {
                self.bfd = Some(Bfd {
                    session: bfd::Session::new(now_ns, discriminator, timers, self.bfd_seed),
                    sender,
                    rejected: 0,
                    can_send: true,
                    release_ns,
                    outputs: Vec::new(),
                });
                self.tell_bfd(now_ns, bfd::Input::Tick);
            }
            Err(error) => {
                warn!(peer = self.config.name, %error, "BFD does not watch the path to the peer");
            }
        }
    }

    /// Tells the BGP session what happened, and does what it wants done.
    pub(super) fn tell(&mut self, now_ns: u64, input: bgp::Input<'_>) {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.session.step(now_ns, input, &mut outputs);
        let mut has_failed = false;
        let mut lost = Vec::new();
        for output in outputs.drain(..) {
            match output {
                bgp::Output::Connect => has_failed = self.connect().is_err(),
                bgp::Output::CancelConnect => self.cancel(),
                bgp::Output::Send(conn, bytes) => {
                    if let Some(connection) = self.connection(conn)
                        && let Err(error) = connection.send(&bytes)
                    {
                        debug!(peer = self.config.name, %error, "a BGP connection");
                        lost.push(conn);
                    }
                }
                bgp::Output::Close(conn) => self.close(now_ns, conn),
                bgp::Output::Log(event) => self.log(&event),
                bgp::Output::NextDeadline(at) => self.bgp_deadline_ns = at,
            }
        }
        self.outputs = outputs;
        if has_failed {
            self.tell(now_ns, bgp::Input::ConnectFailed);
        }
        for conn in lost {
            self.lose(now_ns, conn);
        }
    }

    fn log(&self, event: &bgp::Event) {
        let peer = &self.config.name;
        match event {
            bgp::Event::Established { .. } | bgp::Event::Announced { .. } => {
                info!(peer, "BGP: {event}");
            }
            bgp::Event::Down { .. } | bgp::Event::NotAnnounced { .. } => {
                warn!(peer, "BGP: {event}");
            }
            bgp::Event::ConnectFailed => match &self.connect_failure {
                Some(failure) => debug!(peer, "BGP: {event}: {failure}"),
                None => debug!(peer, "BGP: {event}"),
            },
        }
    }

    fn connection(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|(id, _)| *id == conn).map(|(_, connection)| connection)
    }

    fn connect(&mut self) -> io::Result<()> {
        let remote = self.remote.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let manner = Manner { ttl: self.config.ttl, password: self.config.password.as_deref() };
        match Connection::begin(remote, manner) {
            Ok(connection) => {
                self.attempt = Some(connection);
                Ok(())
            }
            Err(error) => {
                self.connect_failure = Some(self.failure(Some(&error)));
                Err(error)
            }
        }
    }

    /// Gives up connecting, because it took too long or is not wanted any more.
    fn cancel(&mut self) {
        if self.attempt.take().is_some() && self.connections.is_empty() {
            self.connect_failure = Some(self.failure(None));
        }
    }

    fn failure(&self, error: Option<&io::Error>) -> ConnectFailure {
        let is_silence = error.is_none_or(|error| error.kind() == io::ErrorKind::TimedOut);
        match error {
            _ if is_silence && signature::drops() > self.signature_drops => {
                ConnectFailure::Signature
            }
            Some(error) if !is_silence => ConnectFailure::Refused(error.to_string()),
            _ => ConnectFailure::NoAnswer,
        }
    }

    fn close(&mut self, now_ns: u64, conn: ConnId) {
        let Some(position) = self.connections.iter().position(|(id, _)| *id == conn) else {
            return;
        };
        let (_, mut connection) = self.connections.swap_remove(position);
        if !connection.close(&mut [0; 4096]) {
            if self.closing.len() == CLOSING_MAX {
                self.closing.remove(0);
            }
            self.closing.push(Closing { connection, until_ns: now_ns + CLOSING_NS });
        }
    }

    /// A connection has ended by itself.
    fn lose(&mut self, now_ns: u64, conn: ConnId) {
        let before = self.connections.len();
        self.connections.retain(|(id, _)| *id != conn);
        if self.connections.len() < before {
            self.tell(now_ns, bgp::Input::Closed { conn });
        }
    }

    /// The peer has connected.
    pub(super) fn accept(&mut self, now_ns: u64, socket: Socket, from: SocketAddr) {
        let adopted = Connection::accepted(socket, from.is_ipv6(), self.config.ttl)
            .and_then(|connection| connection.ends().map(|ends| (connection, ends)));
        match adopted {
            Ok((connection, (local, remote))) => {
                let conn = self.adopt(connection, local);
                self.tell(now_ns, bgp::Input::Accepted { conn, local, remote });
            }
            Err(error) => debug!(peer = self.config.name, %error, "a connection of the peer's"),
        }
    }

    fn adopt(&mut self, connection: Connection, local: IpAddr) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.connections.push((conn, connection));
        self.local = Some(local);
        self.connect_failure = None;
        self.signature_drops = signature::drops();
        conn
    }

    /// A socket can be read or written.
    pub(super) fn ready(&mut self, now_ns: u64, token: Token, buffer: &mut [u8]) {
        match token {
            Token::Attempt => self.attempted(now_ns),
            Token::Connection(conn) => self.exchange(now_ns, conn, buffer),
            Token::Closing => self.closing.retain_mut(|one| !one.connection.close(buffer)),
        }
    }

    fn attempted(&mut self, now_ns: u64) {
        let Some(connection) = self.attempt.take() else { return };
        match connection.finish().and_then(|()| connection.ends()) {
            Ok((local, remote)) => {
                let conn = self.adopt(connection, local);
                self.tell(now_ns, bgp::Input::Connected { conn, local, remote });
            }
            Err(error) => {
                self.connect_failure = Some(self.failure(Some(&error)));
                self.tell(now_ns, bgp::Input::ConnectFailed);
            }
        }
    }

    fn exchange(&mut self, now_ns: u64, conn: ConnId, buffer: &mut [u8]) {
        let mut read = 0;
        while read < TURN_LEN {
            let Some(connection) = self.connection(conn) else { return };
            match connection.flush().and_then(|()| connection.receive(buffer)) {
                Ok(None) => return,
                Ok(Some(0)) | Err(_) => return self.lose(now_ns, conn),
                Ok(Some(count)) => {
                    read += count;
                    self.tell(now_ns, bgp::Input::Received { conn, bytes: &buffer[..count] });
                }
            }
        }
    }

    /// Takes a BFD packet, if it is of this peer's session.
    pub(super) fn hear(&mut self, now_ns: u64, datagram: &Datagram) {
        let Some(bfd) = &mut self.bfd else { return };
        match Packet::decode(datagram.bytes()) {
            Ok(packet)
                if datagram.is_of_the_link
                    && packet.yours.is_none_or(|yours| yours == bfd.session.discriminator()) =>
            {
                self.tell_bfd(now_ns, bfd::Input::Received(&packet));
            }
            Ok(_) | Err(_) => bfd.rejected += 1,
        }
    }

    /// Tells the BFD session what happened, and does what it wants done.
    pub(super) fn tell_bfd(&mut self, now_ns: u64, input: bfd::Input<'_>) {
        let Some(bfd) = &mut self.bfd else { return };
        let mut outputs = std::mem::take(&mut bfd.outputs);
        bfd.session.step(now_ns, input, &mut outputs);
        for output in outputs.drain(..) {
            match output {
                bfd::Output::Send(packet) => self.send_bfd(&packet),
                bfd::Output::Up => {
                    info!(peer = self.config.name, "BFD: up");
                    self.release(now_ns);
                }
                bfd::Output::Down(reason) => {
                    warn!(peer = self.config.name, "BFD: down: {reason}");
                    if reason.is_failure() {
                        self.hold(now_ns);
                    }
                }
            }
        }
        if let Some(bfd) = &mut self.bfd {
            bfd.outputs = outputs;
        }
    }

    fn send_bfd(&mut self, packet: &Packet) {
        let Some(bfd) = &mut self.bfd else { return };
        let sent = bfd.sender.send(&packet.encode());
        // No route, no link: BFD finds out by itself; once is enough to say.
        if let (Err(error), true) = (&sent, bfd.can_send) {
            info!(peer = self.config.name, %error, "BFD cannot send");
        }
        bfd.can_send = sent.is_ok();
    }

    /// The path is broken: so is the BGP session.
    fn hold(&mut self, now_ns: u64) {
        if let Some(bfd) = &mut self.bfd {
            bfd.release_ns = now_ns + BFD_WAIT_NS;
        }
        self.tell(now_ns, bgp::Input::BfdDown);
    }

    /// BGP no longer waits for BFD.
    fn release(&mut self, now_ns: u64) {
        if let Some(bfd) = &mut self.bfd {
            bfd.release_ns = u64::MAX;
        }
        self.tell(now_ns, bgp::Input::BfdUp);
    }

    /// Lets time pass.
    pub(super) fn tick(&mut self, now_ns: u64) {
        if self.bfd.as_ref().is_some_and(|bfd| bfd.session.deadline_ns() <= now_ns) {
            self.tell_bfd(now_ns, bfd::Input::Tick);
        }
        if self.bfd.as_ref().is_some_and(|bfd| bfd.release_ns <= now_ns) {
            self.release(now_ns);
        }
        if self.bgp_deadline_ns <= now_ns {
            self.tell(now_ns, bgp::Input::Tick);
        }
        self.closing.retain(|one| now_ns < one.until_ns);
    }

    /// When to call [`tick`](Self::tick).
    pub(super) fn deadline_ns(&self) -> u64 {
        let closing = self.closing.iter().map(|one| one.until_ns).min().unwrap_or(u64::MAX);
        let bfd =
            self.bfd.as_ref().map_or(u64::MAX, |bfd| bfd.session.deadline_ns().min(bfd.release_ns));
        self.bgp_deadline_ns.min(closing).min(bfd)
    }

    /// Ends the BGP session.
    pub(super) fn stop(&mut self, now_ns: u64, shutdown: bgp::Shutdown) {
        self.is_new = false;
        self.tell(now_ns, bgp::Input::Stop(shutdown));
    }

    /// Ends the BFD session.
    pub(super) fn stop_bfd(&mut self, now_ns: u64) {
        self.tell_bfd(now_ns, bfd::Input::AdminDown);
    }

    /// Whether all that was to be told is told.
    pub(super) fn is_quiet(&self) -> bool {
        self.connections.is_empty() && self.closing.is_empty()
    }

    /// Its sockets, and what is waited for on them.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (Token, BorrowedFd<'_>, PollFlags)> {
        let attempt =
            self.attempt.iter().map(|one| (Token::Attempt, one.as_fd(), PollFlags::POLLOUT));
        let connections = self
            .connections
            .iter()
            .map(|(conn, one)| (Token::Connection(*conn), one.as_fd(), one.events()));
        let closing = self
            .closing
            .iter()
            .map(|one| (Token::Closing, one.connection.as_fd(), one.connection.events()));
        attempt.chain(connections).chain(closing)
    }

    /// How it stands.
    pub(super) fn view(&self) -> SpeakerPeerView {
        SpeakerPeerView {
            name: self.config.name.clone(),
            remote: self.remote,
            local: self.local.filter(|_| !self.connections.is_empty()),
            bgp: self.session.view(),
            connect_failure: self.connect_failure.clone(),
            bfd: self
                .bfd
                .as_ref()
                .map(|bfd| BfdView { session: bfd.session.view(), rejected: bfd.rejected }),
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(&address))
}
