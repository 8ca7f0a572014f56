//! The thread: waits for sockets, orders and deadlines, and passes each to whom it concerns.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tracing::{debug, warn};
use vipdp_io::realtime;

use super::bfd_port::{Datagram, Receiver};
use super::config::{SpeakerConfig, Target};
use super::discovery::Discovery;
use super::listener::Listener;
use super::orders::Orders;
use super::peer::{Peer, Token};
use super::{ConfigError, SpeakerError};
use crate::bfd;
use crate::bgp::{Announcement, Input, Shutdown};
use crate::jitter::Jitter;
use crate::runtime::clock::monotonic_ns;
use crate::runtime::random;

const NS_PER_S: u64 = 1_000_000_000;
/// Below this interval a thread of the normal class is late too often: as with heartbeats.
const FAST_US: u32 = 20_000;
/// How long the peers may take to read the last words.
const LAST_WORDS_NS: u64 = 1_500_000_000;
/// How many BFD packets are taken before the timers get their turn.
const DATAGRAMS_MAX: usize = 256;
/// How many connections are accepted before others get their turn.
const ACCEPTS_MAX: usize = 16;
/// The pause after poll(2) has failed, which it does for want of memory.
const FAILED_NS: u64 = 100_000_000;

/// All that the thread has.
#[derive(Debug)]
pub(super) struct Thread {
    orders: Arc<Orders>,
    peers: Vec<Peer>,
    /// By peer: what finds those that are on an interface.
    discoveries: Vec<Option<Discovery>>,
    listeners: Vec<Listener>,
    receivers: Vec<Receiver>,
    /// What the peers were last told.
    announcement: Option<Announcement>,
    lease_until_ns: u64,
    jitter: Jitter,
    buffer: Vec<u8>,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Orders,
    Listener(usize),
    Receiver(usize),
    Discovery(usize),
    Peer(usize, Token),
}

impl Thread {
    pub(super) fn new(config: SpeakerConfig, orders: Arc<Orders>) -> Result<Self, SpeakerError> {
        let SpeakerConfig { local, peers, listen_port } = config;
        let local = Arc::new(local);
        let is_ipv6 = |target: &Target| match target {
            Target::Address(address, _) => address.is_ipv6(),
            Target::Interface(_) => true,
        };
        let has = |wanted: bool| peers.iter().any(|peer| is_ipv6(&peer.target) == wanted);
        let watches = |wanted: bool| {
            peers.iter().any(|peer| peer.bfd.is_some() && is_ipv6(&peer.target) == wanted)
        };
        let farthest = |wanted: bool| {
            let family = peers.iter().filter(|peer| is_ipv6(&peer.target) == wanted);
            family.map(|peer| peer.ttl).max().unwrap_or(1)
        };
        let families = [false, true];
        let listeners = families.into_iter().filter(|&family| has(family));
        let receivers = families.into_iter().filter(|&family| watches(family));
        let mut thread = Self {
            orders,
            listeners: listeners
                .map(|family| Listener::new(family, listen_port, farthest(family)))
                .collect(),
            receivers: receivers.map(Receiver::new).collect(),
            discoveries: peers
                .iter()
                .map(|peer| match &peer.target {
                    Target::Interface(name) => Some(Discovery::new(name)),
                    Target::Address(..) => None,
                })
                .collect(),
            peers: Vec::new(),
            announcement: None,
            lease_until_ns: u64::MAX,
            jitter: Jitter::new(random::word()?),
            buffer: vec![0; 16 * 1024],
        };
        for peer in peers {
            let peer = Peer::new(peer, Arc::clone(&local), random::word()?);
            thread.peers.push(peer.map_err(ConfigError::from)?);
        }
        thread.publish();
        Ok(thread)
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let is_fast = |timers: bfd::Timers| timers.interval_us.get() < FAST_US;
        if self.peers.iter().filter_map(|peer| peer.config().bfd).any(is_fast)
            && let Err(error) = realtime::schedule_fifo()
        {
            warn!(%error, "BFD this fast may find paths broken that are not");
        }
        let now_ns = monotonic_ns();
        for index in 0..self.peers.len() {
            if let Target::Address(address, scope) = self.peers[index].config().target {
                self.found(now_ns, index, address, scope);
            }
        }
        self.tick(now_ns);
        loop {
            let ready = self.wait();
            let now_ns = monotonic_ns();
            for source in ready {
                self.serve(now_ns, source);
            }
            self.announce(now_ns);
            self.tick(now_ns);
            self.publish();
            if let Some(shutdown) = self.orders.stopped() {
                return self.end(now_ns, &shutdown);
            }
        }
    }

    /// Says the last words, and waits until they are read.
    fn end(mut self, now_ns: u64, shutdown: &Shutdown) {
        self.listeners.clear();
        for peer in &mut self.peers {
            peer.stop(now_ns, shutdown.clone());
        }
        let until_ns = now_ns + LAST_WORDS_NS;
        self.lease_until_ns = until_ns;
        while monotonic_ns() < until_ns && !self.peers.iter().all(Peer::is_quiet) {
            for source in self.wait() {
                self.serve(monotonic_ns(), source);
            }
            self.tick(monotonic_ns());
        }
        // Only now: a router that heard first that BFD ends would end the BGP session itself, and
        // with it what it was to keep over a restart.
        for peer in &mut self.peers {
            peer.stop_bfd(monotonic_ns());
        }
        self.publish();
    }

    /// Sleeps until a socket is ready or a deadline has come. BFD is first: what it hears counts
    /// before time does.
    fn wait(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let mut add = |source, fd, events| {
            sources.push(source);
            fds.push(PollFd::new(fd, events));
        };
        for (index, receiver) in self.receivers.iter().enumerate() {
            if let Some(fd) = receiver.as_fd() {
                add(Source::Receiver(index), fd, PollFlags::POLLIN);
            }
        }
        add(Source::Orders, self.orders.as_fd(), PollFlags::POLLIN);
        for (index, discovery) in self.discoveries.iter().enumerate() {
            if let Some(fd) = discovery.as_ref().and_then(Discovery::as_fd) {
                add(Source::Discovery(index), fd, PollFlags::POLLIN);
            }
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            if let Some(fd) = listener.as_fd() {
                add(Source::Listener(index), fd, PollFlags::POLLIN);
            }
        }
        for (index, peer) in self.peers.iter().enumerate() {
            for (token, fd, events) in peer.sockets() {
                add(Source::Peer(index, token), fd, events);
            }
        }
        let timeout_ns = self.deadline_ns().saturating_sub(monotonic_ns());
        let timeout =
            TimeSpec::new((timeout_ns / NS_PER_S).min(3600) as i64, (timeout_ns % NS_PER_S) as i64);
        match ppoll(&mut fds, Some(timeout), None) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Vec::new(),
            Err(error) => {
                debug!(%error, "poll");
                std::thread::sleep(std::time::Duration::from_nanos(FAILED_NS));
                return Vec::new();
            }
        }
        let ready = fds.iter().zip(sources);
        ready
            .filter(|(fd, _)| fd.revents().is_none_or(|events| !events.is_empty()))
            .map(|(_, source)| source)
            .collect()
    }

    fn deadline_ns(&self) -> u64 {
        let peers = self.peers.iter().map(Peer::deadline_ns);
        let listeners = self.listeners.iter().map(Listener::deadline_ns);
        let receivers = self.receivers.iter().map(Receiver::deadline_ns);
        let discoveries = self.discoveries.iter().flatten().map(Discovery::deadline_ns);
        let all = peers.chain(listeners).chain(receivers).chain(discoveries);
        all.min().unwrap_or(u64::MAX).min(self.lease_until_ns)
    }

    fn serve(&mut self, now_ns: u64, source: Source) {
        match source {
            Source::Orders => self.orders.silence(),
            Source::Listener(index) => self.accept(now_ns, index),
            Source::Receiver(index) => self.hear(now_ns, index),
            Source::Discovery(index) => {
                let Some(discovery) = self.discoveries[index].as_mut() else { return };
                let heard = discovery.receive(now_ns);
                if let (Some(address), Some(scope)) = (heard, discovery.index()) {
                    self.found(now_ns, index, address.into(), scope);
                }
            }
            Source::Peer(index, token) => self.peers[index].ready(now_ns, token, &mut self.buffer),
        }
    }

    /// A peer is at an address.
    fn found(&mut self, now_ns: u64, index: usize, address: IpAddr, scope: u32) {
        let discriminator = self.discriminator();
        self.peers[index].found(now_ns, address, scope, discriminator);
        if let Some(discovery) = &mut self.discoveries[index] {
            discovery.set_known();
        }
        let peer = &self.peers[index];
        if let (Some(key), Some(remote)) = (&peer.config().password, peer.remote()) {
            for listener in self.listeners.iter_mut().filter(|one| one.is_for(remote.ip())) {
                listener.add_key(remote.ip(), key);
            }
        }
    }

    /// A discriminator that no session has (RFC 5880, section 6.8.1).
    fn discriminator(&mut self) -> NonZeroU32 {
        loop {
            let drawn = NonZeroU32::new((self.jitter.word() >> 32) as u32);
            let is_free = |drawn| self.peers.iter().all(|peer| peer.discriminator() != Some(drawn));
            if let Some(drawn) = drawn.filter(|&drawn| is_free(drawn)) {
                return drawn;
            }
        }
    }

    /// Which peer is at `address` on that interface.
    fn peer_at(&self, address: IpAddr, interface: u32) -> Option<usize> {
        let mut all = self.peers.iter().zip(&self.discoveries);
        all.position(|(peer, discovery)| {
            peer.is_at(address, interface, discovery.as_ref().and_then(Discovery::index))
        })
    }

    fn accept(&mut self, now_ns: u64, listener: usize) {
        for _ in 0..ACCEPTS_MAX {
            let Some((socket, from)) = self.listeners[listener].accept(now_ns) else { return };
            let interface = match from {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(from) => from.scope_id(),
            };
            let Some(index) = self.peer_at(from.ip(), interface) else {
                debug!(%from, "a connection to the BGP port from nobody's peer");
                continue;
            };
            self.found(now_ns, index, from.ip(), interface);
            self.peers[index].accept(now_ns, socket, from);
        }
    }

    fn hear(&mut self, now_ns: u64, receiver: usize) {
        for _ in 0..DATAGRAMS_MAX {
            let Some(datagram) = self.receivers[receiver].receive() else { return };
            if let Some(index) = self.session_of(&datagram) {
                self.peers[index].hear(now_ns, &datagram);
            }
        }
    }

    /// Whose session a packet is of. There is one per address, so that tells even where its
    /// discriminator names a session (RFC 5880, section 6.3): the peer then sees that it is its own,
    /// and no neighbour can end another's.
    fn session_of(&self, datagram: &Datagram) -> Option<usize> {
        let index = self.peer_at(datagram.from, datagram.interface)?;
        self.peers[index]
            .remote()
            .is_some_and(|remote| remote.ip() == datagram.from)
            .then_some(index)
    }

    /// Tells the peers what is to be announced by now.
    fn announce(&mut self, now_ns: u64) {
        let order = self.orders.order(now_ns);
        self.lease_until_ns = order.until_ns;
        if order.announcement == self.announcement {
            return;
        }
        self.announcement = order.announcement;
        if let Some(announcement) = order.announcement {
            for peer in &mut self.peers {
                peer.tell(now_ns, Input::Announce(announcement));
            }
        }
    }

    fn tick(&mut self, now_ns: u64) {
        self.listeners.iter_mut().for_each(|listener| listener.tick(now_ns));
        self.receivers.iter_mut().for_each(|receiver| receiver.tick(now_ns));
        for discovery in self.discoveries.iter_mut().flatten() {
            discovery.tick(now_ns, &mut self.jitter);
        }
        self.peers.iter_mut().for_each(|peer| peer.tick(now_ns));
    }

    fn publish(&self) {
        let all = self.peers.iter().zip(&self.discoveries);
        let views = all.map(|(peer, discovery)| {
            let mut view = peer.view();
            if let (None, Some(discovery)) = (view.remote, discovery) {
                view.connect_failure = Some(discovery.trouble());
            }
            view
        });
        self.orders.publish(views.collect());
    }
}
