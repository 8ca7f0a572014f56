//! The event loop: sends what is due, hears what arrives, gives up on what is late.
//!
//! One thread. `open` holds every query whose socket is open; two queues hold the times at which queries are
//! given up (`expiry`, in the order of sending) and at which sockets of settled ones close (`linger`, in the order
//! of their answers). Both waits are constant, so the front of each queue is always its earliest. A query leaves
//! `open` by exactly one of the two.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::clock;
use super::limits;
use super::message::{Question, Response};
use super::options::Options;
use super::plan::{Plan, PlanError, Target};
use super::report::{Report, Tally};
use super::schedule::Schedule;

/// Queries sent before the loop looks at its sockets again.
const SEND_BURST: usize = 32;
/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// The largest UDP payload.
const DATAGRAM_MAX: usize = 65_535;
/// Sockets wanted beyond those that the rate explains, for bursts after a late wake-up.
const SOCKETS_SPARE: u64 = 4_096;
/// Time from the set-up to the first query, so that the schedule does not start late.
const LEAD_NS: u64 = 10_000_000;

/// Event number of the timer; queries count from zero.
const TIMER: u64 = u64::MAX;
/// Event number of the signal to stop.
const STOP: u64 = u64::MAX - 1;

/// Why a run did not come to its report.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Servers and sources do not make a plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Distinct sources cannot be promised for a run without end.
    #[error("--distinct needs --queries or --duration")]
    DistinctWithoutEnd,
    /// The kernel refused something that the loop itself needs.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The refusal.
        source: Errno,
    },
    /// A socket for a query cannot be had.
    #[error("cannot bind a socket to {address}")]
    Bind {
        /// The client address.
        address: IpAddr,
        /// The refusal.
        source: io::Error,
    },
    /// A socket of a query cannot be read.
    #[error("cannot receive")]
    Receive(#[source] io::Error),
}

/// A query whose socket is open.
#[derive(Debug)]
struct Open {
    socket: UdpSocket,
    target: Target,
    id: u16,
    sent_at_ns: u64,
    sent_at_wall_ns: u64,
    /// It had its response; the socket is open for duplicates alone.
    settled: bool,
}

/// Sends the load that `options` describe and returns the account of it; `stop` becoming readable ends it early.
pub fn run(options: &Options, stop: Option<BorrowedFd<'_>>) -> Result<Report, EngineError> {
    Engine::new(options, stop)?.run()
}

struct Engine {
    plan: Plan,
    question: Question,
    schedule: Schedule,
    started_wall_ns: u64,
    started_ns: u64,
    timeout_ns: u64,
    linger_ns: u64,
    /// Number of the next query.
    next: u64,
    /// Number at which sending ends.
    end: u64,
    sockets_max: usize,
    open: HashMap<u64, Open>,
    expiry: VecDeque<(u64, u64)>,
    linger: VecDeque<(u64, u64)>,
    epoll: Epoll,
    timer: TimerFd,
    tally: Tally,
    datagram: Box<[u8]>,
}

impl Engine {
    fn new(options: &Options, stop: Option<BorrowedFd<'_>>) -> Result<Self, EngineError> {
        let plan = Plan::new(&options.servers, options.port, &options.sources)?;
        let end = options.queries_max();
        if options.distinct {
            plan.require_distinct(end.ok_or(EngineError::DistinctWithoutEnd)?)?;
        }
        let timeout_ms = options.timeout_ms.get();
        let open_ms = timeout_ms.saturating_add(options.linger_ms);
        let sockets = options.rate.get().saturating_mul(open_ms) / 1_000 + SOCKETS_SPARE;
        let sockets_max = limits::raise_open_sockets(sockets.min(end.unwrap_or(u64::MAX)))
            .map_err(system("cannot raise the limit of open files"))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("epoll"))?;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(system("timerfd"))?;
        let readable = |number| EpollEvent::new(EpollFlags::EPOLLIN, number);
        epoll.add(&timer, readable(TIMER)).map_err(system("epoll"))?;
        if let Some(stop) = stop {
            let once = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, STOP);
            epoll.add(stop, once).map_err(system("epoll"))?;
        }
        let started_ns = clock::monotonic_ns() + LEAD_NS;
        Ok(Self {
            plan,
            question: options.question(),
            schedule: Schedule::new(started_ns, options.rate.get()),
            started_wall_ns: clock::wall_ns() + LEAD_NS,
            started_ns,
            timeout_ns: timeout_ms.saturating_mul(1_000_000),
            linger_ns: options.linger_ms.saturating_mul(1_000_000),
            next: 0,
            end: end.unwrap_or(STOP),
            sockets_max,
            open: HashMap::new(),
            expiry: VecDeque::new(),
            linger: VecDeque::new(),
            epoll,
            timer,
            tally: Tally::default(),
            datagram: vec![0; DATAGRAM_MAX].into_boxed_slice(),
        })
    }

    fn run(mut self) -> Result<Report, EngineError> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            self.give_up()?;
            self.close_settled();
            self.send_due()?;
            if self.next >= self.end && self.open.is_empty() {
                return Ok(self.tally.into_report(self.started_ns, self.started_wall_ns));
            }
            let ready = self.wait(&mut events)?;
            for event in &events[..ready] {
                match event.data() {
                    TIMER => {}
                    STOP => self.end = self.next,
                    number => self.receive(number)?,
                }
            }
        }
    }

    /// Sends the queries that are due, at most a burst of them.
    fn send_due(&mut self) -> Result<(), EngineError> {
        for _ in 0..SEND_BURST {
            let due_ns = self.schedule.due_ns(self.next);
            if self.next >= self.end || clock::monotonic_ns() < due_ns {
                break;
            }
            if self.open.len() >= self.sockets_max && !self.close_one_early() {
                break;
            }
            self.send(self.next, due_ns)?;
            self.next += 1;
        }
        Ok(())
    }

    fn send(&mut self, number: u64, due_ns: u64) -> Result<(), EngineError> {
        let target = self.plan.target(number);
        let socket = bind(target.source)
            .map_err(|source| EngineError::Bind { address: target.source, source })?;
        self.epoll
            .add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))
            .map_err(system("epoll"))?;
        let query = self.question.encode();
        let (sent_at_ns, sent_at_wall_ns) = (clock::monotonic_ns(), clock::wall_ns());
        if let Err(error) = socket.send_to(&query.bytes, target.server) {
            self.tally.refused(&target, &error);
            return Ok(());
        }
        self.tally.sent(&target, sent_at_ns, due_ns);
        let settled = false;
        let open = Open { socket, target, id: query.id, sent_at_ns, sent_at_wall_ns, settled };
        self.open.insert(number, open);
        self.expiry.push_back((sent_at_ns.saturating_add(self.timeout_ns), number));
        Ok(())
    }

    /// Takes in every datagram that waits at the socket of query `number`.
    fn receive(&mut self, number: u64) -> Result<(), EngineError> {
        let Some(open) = self.open.get_mut(&number) else {
            return Ok(());
        };
        loop {
            let (length, from) = match open.socket.recv_from(&mut self.datagram) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(EngineError::Receive(error)),
            };
            let now_ns = clock::monotonic_ns();
            if !is_from(from, open.target.server) {
                self.tally.unexpected.wrong_source += 1;
                continue;
            }
            let response = self.question.judge(open.id, &self.datagram[..length]);
            match response {
                Response::Malformed => self.tally.unexpected.malformed += 1,
                Response::Foreign => self.tally.unexpected.foreign += 1,
                Response::Answer(_) | Response::Failure(_) if open.settled => {
                    self.tally.duplicate(&open.target);
                }
                Response::Answer(node) => {
                    self.tally.answered(&open.target, node, now_ns - open.sent_at_ns);
                    open.settled = true;
                    self.linger.push_back((now_ns.saturating_add(self.linger_ns), number));
                }
                Response::Failure(_) => {
                    self.tally.failed(&open.target);
                    open.settled = true;
                    self.linger.push_back((now_ns.saturating_add(self.linger_ns), number));
                }
            }
        }
    }

    /// Counts queries as lost whose time is over. What has already arrived is taken in first: a late loop is not
    /// a lost query.
    fn give_up(&mut self) -> Result<(), EngineError> {
        let now_ns = clock::monotonic_ns();
        while let Some(number) = pop_due(&mut self.expiry, now_ns) {
            self.receive(number)?;
            let is_lost = self.open.get(&number).is_some_and(|open| !open.settled);
            if is_lost && let Some(open) = self.open.remove(&number) {
                self.tally.lost(&open.target, open.sent_at_ns, open.sent_at_wall_ns);
            }
        }
        Ok(())
    }

    fn close_settled(&mut self) {
        let now_ns = clock::monotonic_ns();
        while let Some(number) = pop_due(&mut self.linger, now_ns) {
            self.open.remove(&number);
        }
    }

    /// Closes the socket that has lingered longest, if there is one.
    fn close_one_early(&mut self) -> bool {
        let Some((_, number)) = self.linger.pop_front() else {
            return false;
        };
        self.tally.closed_early += 1;
        self.open.remove(&number).is_some()
    }

    /// Waits for a datagram or for the next thing to do; returns how many events there are.
    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, EngineError> {
        let has_room = self.open.len() < self.sockets_max || !self.linger.is_empty();
        let due_ns = (self.next < self.end && has_room).then(|| self.schedule.due_ns(self.next));
        let queued = [self.expiry.front(), self.linger.front()].into_iter().flatten();
        let next_ns = queued.map(|(at_ns, _)| *at_ns).chain(due_ns).min();
        let timeout = match next_ns {
            Some(next_ns) if next_ns <= clock::monotonic_ns() => EpollTimeout::ZERO,
            Some(next_ns) => {
                let at = Expiration::OneShot(clock::timespec(next_ns));
                self.timer
                    .set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
                    .map_err(system("timerfd"))?;
                EpollTimeout::NONE
            }
            None => EpollTimeout::NONE,
        };
        match self.epoll.wait(events, timeout) {
            Ok(ready) => Ok(ready),
            Err(Errno::EINTR) => Ok(0),
            Err(error) => Err(system("epoll")(error)),
        }
    }
}

/// Takes the front of a queue if its time has come; returns the number of its query.
fn pop_due(queue: &mut VecDeque<(u64, u64)>, now_ns: u64) -> Option<u64> {
    let &(at_ns, number) = queue.front()?;
    if at_ns > now_ns {
        return None;
    }
    queue.pop_front();
    Some(number)
}

fn system(what: &'static str) -> impl FnOnce(Errno) -> EngineError {
    move |source| EngineError::System { what, source }
}

/// A non-blocking socket at `address` and a port of the kernel's choice. The address need not be configured on
/// an interface: a local route to its block is enough (IPv6 needs IPV6_FREEBIND for that).
fn bind(address: IpAddr) -> io::Result<UdpSocket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    match address {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&SocketAddr::new(address, 0).into())?;
    Ok(socket.into())
}

/// Whether a datagram from `from` is from `server`; IPv6 scope and flow label are no part of the question.
fn is_from(from: SocketAddr, server: SocketAddr) -> bool {
    from.ip() == server.ip() && from.port() == server.port()
}

#[cfg(test)]
mod tests;
