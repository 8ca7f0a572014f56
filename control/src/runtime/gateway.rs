//! Whether the router is reached, for `partition = "gateway"`.
//!
//! The router is asked by ARP or NDP on the interface that heartbeats travel by: what answers
//! there is what forwards the clients' frames. One address of it is asked as long as it answers,
//! where it was found the last time; all of them, wherever they may be, once it does not.
//!
//! ```text
//!   answered:   ask again after 2h, one address, at its MAC address
//!   not so:     after h/2, all addresses, by broadcast or multicast
//!   D after the last answer: unreached; ask each h
//! ```
//!
//! A control thread that was late doubts itself first: what has arrived is heard before the time
//! counts, and a question has D - 2h to be answered however old the last answer is.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, info, warn};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_io::probe::{Probe, ProbeError};

use super::clock::monotonic_ns;
use crate::cluster::config::Timing;

/// How many answers are taken before the timers get their turn.
const ANSWERS_MAX: usize = 64;

/// How often an unreached router's sockets are opened anew: the interface may have other addresses
/// by now, or be another one of the same name.
const REOPEN_NS: u64 = 1_000_000_000;

/// The questions to the router, and what they say.
#[derive(Debug)]
pub struct Gateway {
    interface: String,
    /// The router's addresses.
    addresses: Vec<IpAddr>,
    probe: Probe,
    opened_ns: u64,
    watch: Watch,
    /// Which address answered last, and where it is.
    found: Option<(IpAddr, MacAddr)>,
}

impl Gateway {
    /// Opens the sockets for questions to `addresses`. The router counts as unreached until it
    /// answers.
    ///
    /// # Errors
    /// [`ProbeError`]
    pub fn open(
        interface: &str,
        addresses: &[IpAddr],
        timing: &Timing,
    ) -> Result<Self, ProbeError> {
        Ok(Self {
            interface: interface.to_owned(),
            addresses: addresses.to_vec(),
            probe: Probe::open(interface, addresses)?,
            opened_ns: 0,
            watch: Watch::new(timing),
            found: None,
        })
    }

    /// Waits until the router answers, but no longer than `limit_ns`. Whether it has.
    ///
    /// # Errors
    /// When the kernel does not let the thread wait.
    pub fn wait_until_reached(&mut self, limit_ns: u64) -> nix::Result<bool> {
        let end_ns = monotonic_ns() + limit_ns;
        loop {
            let now_ns = monotonic_ns();
            self.turn(now_ns);
            if self.is_reached() || now_ns >= end_ns {
                return Ok(self.is_reached());
            }
            let until_ns = self.deadline_ns().min(end_ns);
            let wait = Duration::from_nanos(until_ns.saturating_sub(now_ns));
            let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
            let mut descriptors: Vec<_> = self
                .descriptors()
                .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
                .collect();
            match poll(&mut descriptors, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the router is reached.
    pub fn is_reached(&self) -> bool {
        self.watch.is_reached
    }

    /// When [`turn`](Self::turn) is to be called at the latest.
    pub fn deadline_ns(&self) -> u64 {
        self.watch.deadline_ns()
    }

    /// What tells of an answer.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.probe.descriptors()
    }

    /// Hears what has arrived, and asks if it is time. Returns at once; whether it is reached, if
    /// that has changed.
    pub fn turn(&mut self, now_ns: u64) -> Option<bool> {
        let before = self.watch.is_reached;
        self.hear(now_ns);
        self.watch.check(now_ns);
        if self.watch.ask_at_ns() <= now_ns {
            self.ask(now_ns);
        }
        let after = self.watch.is_reached;
        match (before, after) {
            (false, true) => info!(found = ?self.found, "the router is reached"),
            (true, false) => warn!(gateway = ?self.addresses, "the router does not answer"),
            _ => {}
        }
        (before != after).then_some(after)
    }

    fn hear(&mut self, now_ns: u64) {
        for _ in 0..ANSWERS_MAX {
            match self.probe.answer() {
                Ok(Some(answer)) => {
                    self.watch.hear(now_ns);
                    self.found = answer.mac.map(|mac| (answer.neighbor, mac));
                }
                Ok(None) => return,
                Err(error) => {
                    debug!(%error, "hearing the router");
                    return;
                }
            }
        }
    }

    fn ask(&mut self, now_ns: u64) {
        if !self.watch.is_reached && now_ns >= self.opened_ns + REOPEN_NS {
            self.opened_ns = now_ns;
            self.found = None;
            match Probe::open(&self.interface, &self.addresses) {
                Ok(probe) => self.probe = probe,
                Err(error) => debug!(%error, "the router cannot be asked"),
            }
        }
        let found = self.found.filter(|_| self.watch.unanswered_since_ns.is_none());
        self.watch.ask(now_ns);
        let asked = match found {
            Some((address, mac)) => self.probe.ask(address, Some(mac)),
            None => {
                let ask = |address: &IpAddr| self.probe.ask(*address, None);
                // All are asked, also after one that could not be.
                self.addresses.iter().map(ask).fold(Ok(()), Result::and)
            }
        };
        if let Err(error) = asked {
            debug!(%error, "asking the router");
        }
    }
}

/// When to ask, and what to make of the answers. Times are monotonic nanoseconds.
#[derive(Clone, Debug)]
struct Watch {
    /// h.
    heartbeat_ns: u64,
    /// D.
    detection_ns: u64,
    asked_ns: Option<u64>,
    heard_ns: u64,
    /// The first question after which nothing was heard.
    unanswered_since_ns: Option<u64>,
    is_reached: bool,
}

impl Watch {
    const fn new(timing: &Timing) -> Self {
        Self {
            heartbeat_ns: timing.heartbeat_ns,
            detection_ns: timing.detection_ns(),
            asked_ns: None,
            heard_ns: 0,
            unanswered_since_ns: None,
            is_reached: false,
        }
    }

    /// When the next question is due.
    fn ask_at_ns(&self) -> u64 {
        let Some(asked_ns) = self.asked_ns else { return 0 };
        asked_ns
            + match (self.is_reached, self.unanswered_since_ns) {
                (true, None) => 2 * self.heartbeat_ns,
                (true, Some(_)) => self.heartbeat_ns / 2,
                (false, _) => self.heartbeat_ns,
            }
    }

    /// When the router counts as unreached, unless it answers.
    fn lost_at_ns(&self) -> Option<u64> {
        let since_ns = self.unanswered_since_ns.filter(|_| self.is_reached)?;
        let patience_ns = self.detection_ns - 2 * self.heartbeat_ns;
        Some((self.heard_ns + self.detection_ns).max(since_ns + patience_ns))
    }

    fn deadline_ns(&self) -> u64 {
        self.lost_at_ns().map_or(self.ask_at_ns(), |lost| lost.min(self.ask_at_ns()))
    }

    fn ask(&mut self, now_ns: u64) {
        self.asked_ns = Some(now_ns);
        self.unanswered_since_ns.get_or_insert(now_ns);
    }

    fn hear(&mut self, now_ns: u64) {
        self.heard_ns = now_ns;
        self.unanswered_since_ns = None;
        self.is_reached = true;
    }

    fn check(&mut self, now_ns: u64) {
        if self.lost_at_ns().is_some_and(|lost_ns| now_ns >= lost_ns) {
            self.is_reached = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const H: u64 = 50 * MS;
    const D: u64 = 5 * H;

    /// Lets time pass until `end`, answering each question at once that `answers` says so of;
    /// gives the times of the questions.
    fn pass(watch: &mut Watch, end: u64, answers: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut asked = Vec::new();
        loop {
            let now = watch.deadline_ns().max(asked.last().copied().unwrap_or(0));
            if now > end {
                return asked;
            }
            watch.check(now);
            if watch.ask_at_ns() <= now {
                watch.ask(now);
                asked.push(now);
                if answers(now) {
                    watch.hear(now);
                }
            }
        }
    }

    #[test]
    fn a_router_that_answers_is_asked_each_2h() {
        let mut watch = Watch::new(&Timing::DEFAULT);
        assert!(!watch.is_reached, "nobody has answered yet");
        let asked = pass(&mut watch, 10 * H, |_| true);
        assert_eq!(asked, [0, 2 * H, 4 * H, 6 * H, 8 * H, 10 * H]);
        assert!(watch.is_reached);
    }

    #[test]
    fn one_that_stops_answering_is_unreached_after_d_and_not_before() {
        let mut watch = Watch::new(&Timing::DEFAULT);
        let asked = pass(&mut watch, D - 1, |at| at == 0);
        let retries: Vec<_> = (4..10).map(|halves| halves * H / 2).collect();
        assert_eq!(asked, [&[0], retries.as_slice()].concat());
        assert!(watch.is_reached);
        pass(&mut watch, D, |_| false);
        assert!(!watch.is_reached);
        let asked = pass(&mut watch, 2 * D, |_| false);
        assert!(asked.windows(2).all(|two| two[1] - two[0] == H), "{asked:?}");
        let asked = pass(&mut watch, 3 * D, |at| at > 2 * D);
        assert!(watch.is_reached && asked[0] <= 2 * D + H);
    }

    #[test]
    fn a_single_answer_within_d_is_enough() {
        let mut watch = Watch::new(&Timing::DEFAULT);
        pass(&mut watch, 100 * D, |at| at % (9 * H / 2) == 0);
        assert!(watch.is_reached);
    }

    #[test]
    fn a_late_observer_asks_before_it_judges() {
        let mut watch = Watch::new(&Timing::DEFAULT);
        watch.ask(0);
        watch.hear(0);
        let woken = 10 * D;
        watch.check(woken);
        assert!(watch.is_reached, "nothing was asked");
        assert!(watch.deadline_ns() <= woken);
        watch.ask(woken);
        watch.check(woken + D - 2 * H - 1);
        assert!(watch.is_reached);
        watch.check(woken + D - 2 * H);
        assert!(!watch.is_reached);
    }
}
