//! One peer's session, as a pure state machine (RFC 4271 section 8).
//!
//! Time and what happened go in, what is to be done comes out: [`Session::step`] owns no socket,
//! timer, clock or thread.
//!
//! # Always
//! - At most one attempt to connect is under way, and at most three connections are open: one that
//!   this node made, one that the peer made, and one that the peer made while the session was up.
//! - At most one connection is beyond OpenSent: of two, one is closed (RFC 4271 section 6.8).
//! - Whatever ends a connection: this node sends one NOTIFICATION on it, or none, and then nothing.
//! - What the peer was told of the routes is what was last asked for, or on its way to it.
//!
//! # States
//! ```text
//!          Start             connected                 OPEN                  KEEPALIVE
//!   Idle --------> Connect ------------> OpenSent ------------> OpenConfirm ------------> Established
//!    ^              |  ^                    ^                                                  |
//!    |     failed   v  | 1 s, 2 s, .. 30 s  | accepted                                         |
//!    |             Active ------------------'                                                  |
//!    |               ^                                                                         |
//!    |               '----- any error, a NOTIFICATION, silence for the hold time: from all ----'
//!    '- Stop, BFD down: from all; back by Start, BFD up
//! ```
//!
//! # Departures from RFC 4271
//! - Section 8.2.2: after an error a session is Active, not Idle: the peer may connect at once. A
//!   peer whose every attempt fails costs one connection at a time.
//! - Section 8.2.2: in OpenSent, UPDATE and KEEPALIVE errors are not told from unexpected messages.
//! - Section 8.2.1.3: no DelayOpen.

mod connection;
mod event;
#[cfg(test)]
mod fuzz;
mod pace;
mod routes;
mod terms;
#[cfg(test)]
mod transitions;
mod view;

use std::net::IpAddr;
use std::sync::Arc;

pub use event::{ConnId, DownReason, Event, Input, NotAnnounced, Output};
pub use view::{Counters, LastError, PeerView, State};

use connection::{Connection, Established, Stage};
use pace::retry_ns;
use terms::Terms;

use super::config::{Announcement, ConfigError, LocalConfig, PeerConfig, Shutdown};
use super::encode;
use super::frame::{Frame, Kind};
use super::notification::{HOLD_TIMER_EXPIRED, Notification, cease};
use super::open::Open;
use super::update;
use crate::jitter::Jitter;

const SECOND_NS: u64 = 1_000_000_000;

/// How long an attempt to connect may take. Less than a TCP's own patience: a SYN that was lost is
/// better sent anew than waited for.
const CONNECT_NS: u64 = 10 * SECOND_NS;

/// One peer's session.
#[derive(Debug)]
pub struct Session {
    local: Arc<LocalConfig>,
    peer: PeerConfig,
    jitter: Jitter,
    /// The latest time that was told.
    now: u64,
    running: bool,
    waits_for_bfd: bool,
    announcement: Option<Announcement>,
    /// Until when this node says that it has restarted (RFC 4724 section 4.1).
    restarting_until: Option<u64>,
    attempt: Attempt,
    /// Attempts in a row that came to nothing.
    failures: u32,
    connections: Vec<Connection>,
    state: State,
    since_ns: u64,
    last_error: Option<LastError>,
    counters: Counters,
}

/// What is up with connecting to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// Nothing: there is a connection, or the peer is to connect.
    None,
    /// Under way, until this time.
    Running(u64),
    /// To be made at this time.
    Due(u64),
}

impl Session {
    /// A session with one peer, stopped. `seed`: any number, another for each session.
    ///
    /// # Errors
    /// What [`LocalConfig::check`] says.
    pub fn new(local: Arc<LocalConfig>, peer: PeerConfig, seed: u64) -> Result<Self, ConfigError> {
        local.check()?;
        Ok(Self {
            local,
            peer,
            jitter: Jitter::new(seed),
            now: 0,
            running: false,
            waits_for_bfd: false,
            announcement: None,
            restarting_until: None,
            attempt: Attempt::None,
            failures: 0,
            connections: Vec::with_capacity(3),
            state: State::Idle,
            since_ns: 0,
            last_error: None,
            counters: Counters::default(),
        })
    }

    /// Takes in what happened at `now_ns`, on any clock that never goes back, and says what is to
    /// be done by adding to `out`. All inputs are to be told in the order in which they happened.
    pub fn step(&mut self, now_ns: u64, input: Input<'_>, out: &mut Vec<Output>) {
        self.now = self.now.max(now_ns);
        match input {
            Input::Start => self.start(out),
            Input::Connected { conn, local, .. } => self.connected(conn, local, out),
            Input::ConnectFailed => self.connect_failed(out),
            Input::Accepted { conn, local, .. } => self.accepted(conn, local, out),
            Input::Received { conn, bytes } => self.received(conn, bytes, out),
            Input::Closed { conn } => {
                if self.find(conn).is_some() {
                    self.forget(conn, DownReason::ConnectionLost, out);
                }
            }
            Input::Announce(announcement) => {
                self.announcement = Some(announcement);
                self.tell(out);
            }
            Input::BfdDown => {
                self.waits_for_bfd = true;
                self.end_all(&DownReason::Sent(Notification::cease(cease::BFD_DOWN)), out);
            }
            Input::BfdUp => {
                if std::mem::take(&mut self.waits_for_bfd) && self.running {
                    self.failures = 0;
                    self.connect(out);
                }
            }
            Input::Stop(shutdown) => self.stop(&shutdown, out),
            Input::Tick => {}
        }
        self.expire(out);
        self.settle(out);
    }

    /// The session as operators see it.
    pub fn view(&self) -> PeerView {
        let furthest = self.furthest();
        let terms = furthest.and_then(Connection::terms);
        let established = furthest.and_then(Connection::established);
        let [announced_v4, announced_v6] = self.routes_told();
        PeerView {
            state: self.state,
            since_ns: self.since_ns,
            waits_for_bfd: self.running && self.waits_for_bfd,
            announced: established.map(|established| established.told),
            announced_v4,
            announced_v6,
            remote_as: terms.map(|terms| terms.remote_as),
            remote_id: terms.map(|terms| terms.remote_id),
            hold_s: established.map(|established| established.terms.hold_s),
            last_error: self.last_error.clone(),
            counters: self.counters,
        }
    }

    fn find(&self, conn: ConnId) -> Option<usize> {
        self.connections.iter().position(|connection| connection.id == conn)
    }

    fn furthest(&self) -> Option<&Connection> {
        self.connections.iter().max_by_key(|connection| connection.state())
    }

    fn start(&mut self, out: &mut Vec<Output>) {
        if self.running {
            return;
        }
        self.running = true;
        self.failures = 0;
        let grace_s = u64::from(self.local.graceful_restart_s);
        self.restarting_until.get_or_insert(self.now + grace_s * SECOND_NS);
        if !self.waits_for_bfd {
            self.connect(out);
        }
    }

    fn stop(&mut self, shutdown: &Shutdown, out: &mut Vec<Output>) {
        self.running = false;
        let reason = match shutdown {
            Shutdown::Administrative(text) => {
                DownReason::Sent(Notification::administrative_shutdown(text.as_deref()))
            }
            Shutdown::Deconfigured => {
                DownReason::Sent(Notification::cease(cease::PEER_DECONFIGURED))
            }
            Shutdown::Restart => DownReason::Restart,
        };
        self.end_all(&reason, out);
    }

    fn end_all(&mut self, reason: &DownReason, out: &mut Vec<Output>) {
        self.cancel_attempt(out);
        while let Some(conn) = self.connections.first().map(|connection| connection.id) {
            self.end(conn, reason.clone(), out);
        }
    }

    fn connect(&mut self, out: &mut Vec<Output>) {
        if self.peer.passive {
            return;
        }
        self.attempt = Attempt::Running(self.now + CONNECT_NS);
        out.push(Output::Connect);
    }

    fn connect_later(&mut self) {
        let wait = self.jitter.apply(retry_ns(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.attempt = Attempt::Due(self.now + wait);
    }

    fn cancel_attempt(&mut self, out: &mut Vec<Output>) {
        if let Attempt::Running(_) = std::mem::replace(&mut self.attempt, Attempt::None) {
            out.push(Output::CancelConnect);
        }
    }

    fn connect_failed(&mut self, out: &mut Vec<Output>) {
        if matches!(self.attempt, Attempt::Running(_)) {
            self.counters.connects_failed += 1;
            out.push(Output::Log(Event::ConnectFailed));
            self.connect_later();
        }
    }

    fn connected(&mut self, conn: ConnId, local: IpAddr, out: &mut Vec<Output>) {
        if let Attempt::Running(_) = self.attempt {
            self.attempt = Attempt::None;
            self.begin(conn, local, true, out);
        } else {
            // It was given up, and came about all the same.
            out.push(Output::Close(conn));
        }
    }

    fn accepted(&mut self, conn: ConnId, local: IpAddr, out: &mut Vec<Output>) {
        if !self.running || self.waits_for_bfd {
            let rejected = Notification::cease(cease::CONNECTION_REJECTED);
            self.send_notification(conn, &rejected, out);
            out.push(Output::Close(conn));
            return;
        }
        // A peer that connects anew before it said anything has given up the connection before.
        let earlier = self
            .connections
            .iter()
            .find(|earlier| !earlier.own && earlier.state() == State::OpenSent)
            .map(|earlier| earlier.id);
        self.begin(conn, local, false, out);
        if let Some(earlier) = earlier {
            self.collide(earlier, out);
        }
    }

    /// Begins with the OPEN on a new connection.
    fn begin(&mut self, conn: ConnId, local: IpAddr, own: bool, out: &mut Vec<Output>) {
        let offer = terms::offer(&self.local, local, self.is_restarting());
        let succeeds = self.furthest().is_some_and(|other| other.state() == State::Established);
        self.connections.push(Connection::new(conn, local, own, succeeds, offer, self.now));
        self.send(conn, encode::open(&offer), out);
    }

    fn is_restarting(&self) -> bool {
        self.restarting_until.is_some_and(|until| self.now < until)
    }

    fn received(&mut self, conn: ConnId, mut bytes: &[u8], out: &mut Vec<Output>) {
        // A message may end the connection: then the rest of the bytes is nothing.
        while let Some(index) = self.find(conn) {
            match self.connections[index].framer.take(&mut bytes) {
                Ok(Some(frame)) => {
                    self.counters.messages_in += 1;
                    if let Err(error) = self.message(index, &frame, out) {
                        self.end(conn, DownReason::Sent(error), out);
                    }
                }
                Ok(None) => return,
                Err(error) => self.end(conn, DownReason::Sent(error), out),
            }
        }
    }

    /// # Errors
    /// The NOTIFICATION that ends the connection.
    fn message(
        &mut self,
        index: usize,
        frame: &Frame,
        out: &mut Vec<Output>,
    ) -> Result<(), Notification> {
        let now = self.now;
        let connection = &mut self.connections[index];
        connection.expects(frame.kind)?;
        match frame.kind {
            Kind::Open => return self.opened(index, &frame.body, out),
            Kind::Update => {
                self.counters.updates_in += 1;
                if !update::attributes_are_sound(&frame.body)? {
                    self.counters.updates_malformed += 1;
                }
                connection.heard(now);
            }
            Kind::Notification => {
                self.counters.notifications_in += 1;
                let conn = connection.id;
                let reason = DownReason::Received(Notification::read(&frame.body));
                out.push(Output::Close(conn));
                self.forget(conn, reason, out);
            }
            Kind::Keepalive => {
                connection.heard(now);
                if connection.state() == State::OpenConfirm {
                    self.establish(index, out);
                }
            }
            Kind::RouteRefresh => {
                self.counters.refreshes_in += 1;
                self.asked_again(index, &frame.body);
            }
        }
        Ok(())
    }

    /// The peer's OPEN.
    fn opened(
        &mut self,
        index: usize,
        body: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Notification> {
        let connection = &self.connections[index];
        let conn = connection.id;
        let theirs = Open::read(body, self.local.asn, self.peer.remote_as)?;
        let terms = Terms::agree(&self.local, connection.local, &connection.offer, &theirs);
        if !self.prevails(index, &theirs, out) {
            return Err(Notification::cease(cease::COLLISION));
        }
        self.cancel_attempt(out);
        let Some(index) = self.find(conn) else { return Ok(()) };
        let connection = &mut self.connections[index];
        connection.stage = Stage::OpenConfirm(terms);
        connection.heard(self.now);
        self.send_keepalive(index, out);
        Ok(())
    }

    /// Whether the connection is kept, now that its OPEN has come: any other that is as far or
    /// further and is not kept is closed (RFC 4271 section 6.8).
    fn prevails(&mut self, index: usize, theirs: &Open, out: &mut Vec<Output>) -> bool {
        let Connection { own, succeeds, .. } = self.connections[index];
        let other = self.connections.iter().find(|other| other.state() > State::OpenSent);
        let Some(other) = other else { return true };
        let (conn, other_own) = (other.id, other.own);
        match &other.stage {
            Stage::OpenSent => true,
            // Two that the peer made: it gave up the first.
            Stage::OpenConfirm(_) if own == other_own => {
                self.collide(conn, out);
                true
            }
            Stage::OpenConfirm(_) => {
                let prevails = own == terms::keeps_own(&self.local, theirs);
                if prevails {
                    self.collide(conn, out);
                }
                prevails
            }
            // The peer restarted, and the connection before is gone without a word: this node was
            // told that it may (RFC 4724 section 4.2).
            Stage::Established(Established { terms, .. }) if succeeds && terms.restarts => {
                out.push(Output::Close(conn));
                self.forget(conn, DownReason::ConnectionLost, out);
                true
            }
            Stage::Established(_) => false,
        }
    }

    fn establish(&mut self, index: usize, out: &mut Vec<Output>) {
        let now = self.now;
        let restarting = self.restarting_until.filter(|until| now < *until);
        let connection = &mut self.connections[index];
        let Stage::OpenConfirm(terms) = std::mem::replace(&mut connection.stage, Stage::OpenSent)
        else {
            return;
        };
        self.failures = 0;
        self.counters.established += 1;
        let (asn, hold_s) = (terms.remote_as, terms.hold_s);
        out.push(Output::Log(Event::Established { asn, hold_s }));
        for (family, way) in &terms.ways {
            if let Err(reason) = *way {
                let v6 = *family == encode::Family::V6;
                out.push(Output::Log(Event::NotAnnounced { v6, reason }));
            }
        }
        // Until it is known what to announce, the peer keeps what it has of this node's last start.
        let end_of_rib_at = terms.end_of_rib.then_some(restarting.unwrap_or(now));
        connection.stage = Stage::Established(Established {
            terms,
            told: Announcement::Nothing,
            end_of_rib_at,
            asked: Vec::new(),
            answer_at: now,
        });
        connection.heard(now);
        self.tell(out);
    }

    /// Closes one of two connections (RFC 4486).
    fn collide(&mut self, conn: ConnId, out: &mut Vec<Output>) {
        self.end(conn, DownReason::Sent(Notification::cease(cease::COLLISION)), out);
    }

    /// Ends a connection from this side.
    fn end(&mut self, conn: ConnId, reason: DownReason, out: &mut Vec<Output>) {
        if let DownReason::Sent(notification) = &reason {
            self.send_notification(conn, notification, out);
        }
        out.push(Output::Close(conn));
        self.forget(conn, reason, out);
    }

    /// A connection is no more.
    fn forget(&mut self, conn: ConnId, reason: DownReason, out: &mut Vec<Output>) {
        let Some(index) = self.find(conn) else { return };
        let from = self.connections.remove(index).state();
        if from == State::Established {
            self.counters.dropped += 1;
        }
        // While another connection lives on, that is no end of anything.
        if from == State::Established || self.connections.is_empty() {
            if let DownReason::Sent(notification) | DownReason::Received(notification) = &reason {
                let theirs = matches!(reason, DownReason::Received(_));
                let notification = notification.clone();
                self.last_error = Some(LastError { theirs, notification, at_ns: self.now });
            }
            out.push(Output::Log(Event::Down { from, reason }));
        }
        let idle = self.connections.is_empty() && self.attempt == Attempt::None;
        if idle && self.running && !self.waits_for_bfd && !self.peer.passive {
            self.connect_later();
        }
    }

    /// Does what is due.
    fn expire(&mut self, out: &mut Vec<Output>) {
        match self.attempt {
            Attempt::Running(until) if until <= self.now => {
                out.push(Output::CancelConnect);
                self.connect_failed(out);
            }
            Attempt::Due(at) if at <= self.now => self.connect(out),
            Attempt::None | Attempt::Running(_) | Attempt::Due(_) => {}
        }
        let expired: Vec<_> = self
            .connections
            .iter()
            .filter(|connection| connection.hold_at <= self.now)
            .map(|connection| connection.id)
            .collect();
        for conn in expired {
            let silent = Notification::new(HOLD_TIMER_EXPIRED, 0, []);
            self.end(conn, DownReason::Sent(silent), out);
        }
        for index in 0..self.connections.len() {
            if self.connections[index].keepalive_at <= self.now {
                self.send_keepalive(index, out);
            }
        }
        self.answer(out);
    }

    /// Says when to be called again, and notes what state this is.
    fn settle(&mut self, out: &mut Vec<Output>) {
        let state = match (self.furthest(), self.attempt) {
            (Some(furthest), _) => furthest.state(),
            (None, Attempt::Running(_)) => State::Connect,
            (None, Attempt::None | Attempt::Due(_)) => {
                if self.running && !self.waits_for_bfd {
                    State::Active
                } else {
                    State::Idle
                }
            }
        };
        if state != self.state {
            self.state = state;
            self.since_ns = self.now;
        }
        let attempt = match self.attempt {
            Attempt::None => u64::MAX,
            Attempt::Running(at) | Attempt::Due(at) => at,
        };
        let deadline = self.connections.iter().map(Connection::deadline).fold(attempt, u64::min);
        out.push(Output::NextDeadline(deadline));
    }

    fn send(&mut self, conn: ConnId, bytes: Vec<u8>, out: &mut Vec<Output>) {
        self.counters.messages_out += 1;
        out.push(Output::Send(conn, bytes));
    }

    fn send_notification(
        &mut self,
        conn: ConnId,
        notification: &Notification,
        out: &mut Vec<Output>,
    ) {
        self.counters.notifications_out += 1;
        self.send(conn, encode::notification(notification), out);
    }

    fn send_keepalive(&mut self, index: usize, out: &mut Vec<Output>) {
        let interval = self.connections[index].keepalive_ns();
        let wait = interval.map(|interval| self.jitter.apply(interval));
        let connection = &mut self.connections[index];
        connection.keepalive_at = wait.map_or(u64::MAX, |wait| self.now + wait);
        let conn = connection.id;
        self.send(conn, encode::keepalive(), out);
    }
}
