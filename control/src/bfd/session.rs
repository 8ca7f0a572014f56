//! One session, as RFC 5880, section 6.8, describes it, in asynchronous mode.
//!
//! ```text
//!                    Down heard             Init or Up heard
//!         +------+ ------------> +------+ ------------------> +----+
//!         | Down |               | Init |                     | Up |
//!         +------+ <------------ +------+                     +----+
//!          |  ^  ^   silence, AdminDown                         |
//!          |  |  +--------- silence, Down or AdminDown ---------+
//!          |  |                                                 ^
//!          +--|-------------------- Init heard -----------------+
//! ```
//!
//! Until it is up it sends once a second; then in the interval that both agree to. Each change of
//! that agreement is polled for, so that neither expects packets before the other sends them
//! (section 6.8.3).

use std::num::{NonZeroU8, NonZeroU32};

use super::packet::{Diagnostic, Packet, State};
use crate::jitter::Jitter;

const NS_PER_US: u64 = 1000;
/// The shortest interval to send in while the session is not up, in microseconds (RFC 5880,
/// section 6.8.3).
const SLOW_US: u32 = 1_000_000;
/// What a peer that was not heard yet is taken to require, in microseconds (section 6.8.1).
const UNKNOWN_MIN_RX_US: u32 = 1;

/// How fast a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// The shortest interval to send in, and to be sent to in, in microseconds. The longer one of
    /// both peers' counts.
    pub interval_us: NonZeroU32,
    /// After how many of our intervals in silence the peer is to take us for dead. How soon we take
    /// the peer for dead is the peer's to choose.
    pub multiplier: NonZeroU8,
}

/// What a session is told.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A packet of this session, which arrived as RFC 5881 wants it.
    Received(&'a Packet),
    /// The operator holds the session down.
    AdminDown,
    /// The operator lets the session come up again.
    AdminUp,
    /// Time has passed.
    Tick,
}

/// What a session wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to the peer.
    Send(Packet),
    /// The session is up: both hear each other.
    Up,
    /// The session was up, and is not any more.
    Down(DownReason),
}

/// Why a session went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DownReason {
    /// Nothing was heard for the detection time.
    #[error("nothing was heard for the detection time")]
    Silence,
    /// The peer does not hear us any more, or has begun anew.
    #[error("the peer says that the session is down")]
    NeighborDown,
    /// The peer's operator holds it down: this says nothing about the path (RFC 5882, section 3.2).
    #[error("the peer's operator has ended the session")]
    NeighborAdminDown,
    /// Our own operator holds it down.
    #[error("the session was ended here")]
    AdminDown,
}

impl DownReason {
    /// Whether the path to the peer is to be taken for broken.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Silence | Self::NeighborDown)
    }
}

/// What a session has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
    /// How often it came up.
    pub ups: u64,
    /// How often it went down.
    pub downs: u64,
}

/// A session as an operator wants to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its state.
    pub state: State,
    /// Since when.
    pub since_ns: u64,
    /// Why it was last not up.
    pub diagnostic: Diagnostic,
    /// The peer's state, as last heard.
    pub remote_state: State,
    /// Why the peer says that it was last not up.
    pub remote_diagnostic: Diagnostic,
    /// The longest interval that packets are sent in, in nanoseconds.
    pub tx_interval_ns: u64,
    /// After how long a silence the peer is taken for dead; 0 while nothing was heard from it.
    pub detection_ns: u64,
    /// Its counters.
    pub counters: Counters,
}

/// What the peer said last.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: Option<NonZeroU32>,
    state: State,
    diagnostic: Diagnostic,
    is_demand: bool,
    multiplier: u8,
    desired_min_tx_us: u32,
    required_min_rx_us: u32,
}

impl Remote {
    /// A peer that was not heard yet (RFC 5880, section 6.8.1).
    const UNKNOWN: Self = Self {
        discriminator: None,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        is_demand: false,
        multiplier: 0,
        desired_min_tx_us: 0,
        required_min_rx_us: UNKNOWN_MIN_RX_US,
    };
}

/// A session with one peer.
#[derive(Clone, Debug)]
pub struct Session {
    local: NonZeroU32,
    timers: Timers,
    state: State,
    since_ns: u64,
    diagnostic: Diagnostic,
    remote: Remote,
    /// The shortest interval that we want to send in, in microseconds. It gets longer only when the
    /// session is not up any more, and shorter in the moment it is, so it always counts at once
    /// (RFC 5880, section 6.8.3). What we require of the peer never changes.
    desired_tx_us: u32,
    polls: bool,
    /// When a packet was last received; counts while the peer is known.
    heard_ns: u64,
    /// When a packet was last sent, on schedule or between.
    sent_ns: Option<u64>,
    /// Which part of the interval is left out this time, in 1/65536 of it.
    early: u64,
    jitter: Jitter,
    counters: Counters,
}

impl Session {
    /// A session that is down, and sends at once when first stepped. `local` is its discriminator,
    /// which no other session of this system has; `seed` decides how its packets are spread.
    pub fn new(now_ns: u64, local: NonZeroU32, timers: Timers, seed: u64) -> Self {
        Self {
            local,
            timers,
            state: State::Down,
            since_ns: now_ns,
            diagnostic: Diagnostic::NONE,
            remote: Remote::UNKNOWN,
            desired_tx_us: desired_tx_us(timers, State::Down),
            polls: false,
            heard_ns: now_ns,
            sent_ns: None,
            early: 0,
            jitter: Jitter::new(seed),
            counters: Counters::default(),
        }
    }

    /// Takes in `input` and appends what is to be done to `outputs`. `now_ns` never decreases.
    pub fn step(&mut self, now_ns: u64, input: Input<'_>, outputs: &mut Vec<Output>) {
        match input {
            Input::Received(packet) => self.receive(now_ns, packet, outputs),
            Input::AdminDown => {
                let diagnostic = Diagnostic::ADMINISTRATIVELY_DOWN;
                self.leave(now_ns, State::AdminDown, diagnostic, DownReason::AdminDown, outputs);
            }
            Input::AdminUp if self.state == State::AdminDown => {
                self.enter(now_ns, State::Down, outputs);
            }
            Input::AdminUp | Input::Tick => {}
        }
        self.detect(now_ns, outputs);
        if self.sending_ns().is_some_and(|at| at <= now_ns) {
            self.send(now_ns, false, outputs);
        }
    }

    /// When it is to be stepped at the latest.
    pub fn deadline_ns(&self) -> u64 {
        let sending = self.sending_ns().unwrap_or(u64::MAX);
        sending.min(self.detection_at_ns().unwrap_or(u64::MAX))
    }

    /// Its own discriminator.
    pub fn discriminator(&self) -> NonZeroU32 {
        self.local
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// How it stands.
    pub fn view(&self) -> View {
        View {
            state: self.state,
            since_ns: self.since_ns,
            diagnostic: self.diagnostic,
            remote_state: self.remote.state,
            remote_diagnostic: self.remote.diagnostic,
            tx_interval_ns: self.tx_interval_ns(),
            detection_ns: self.detection_ns().unwrap_or(0),
            counters: self.counters,
        }
    }

    /// RFC 5880, section 6.8.6, from where the session was found.
    fn receive(&mut self, now_ns: u64, packet: &Packet, outputs: &mut Vec<Output>) {
        self.counters.received += 1;
        self.heard_ns = now_ns;
        self.remote = Remote {
            discriminator: Some(packet.mine),
            state: packet.state,
            diagnostic: packet.diagnostic,
            is_demand: packet.is_demand,
            multiplier: packet.multiplier.get(),
            desired_min_tx_us: packet.desired_min_tx_us,
            required_min_rx_us: packet.required_min_rx_us,
        };
        self.polls &= !packet.is_final;
        if self.state == State::AdminDown {
            return;
        }
        self.follow(now_ns, packet.state, outputs);
        if packet.is_poll {
            self.send(now_ns, true, outputs);
        }
    }

    /// What the state that the peer is in makes of ours.
    fn follow(&mut self, now_ns: u64, heard: State, outputs: &mut Vec<Output>) {
        let diagnostic = Diagnostic::NEIGHBOR_SIGNALED_DOWN;
        match (self.state, heard) {
            (State::Init | State::Up, State::AdminDown) => {
                let reason = DownReason::NeighborAdminDown;
                self.leave(now_ns, State::Down, diagnostic, reason, outputs);
            }
            (State::Up, State::Down) => {
                let reason = DownReason::NeighborDown;
                self.leave(now_ns, State::Down, diagnostic, reason, outputs);
            }
            (State::Down, State::Down) => self.enter(now_ns, State::Init, outputs),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(now_ns, State::Up, outputs);
            }
            (State::AdminDown, _)
            | (State::Down, State::AdminDown | State::Up)
            | (State::Init, State::Down)
            | (State::Up, State::Init | State::Up) => {}
        }
    }

    /// Silence for the detection time (RFC 5880, section 6.8.4).
    fn detect(&mut self, now_ns: u64, outputs: &mut Vec<Output>) {
        if self.detection_at_ns().is_none_or(|at| now_ns < at) {
            return;
        }
        // All that the peer said is forgotten, so that one that comes back with other numbers, or
        // had asked not to be sent to, is met as a stranger.
        self.remote = Remote::UNKNOWN;
        if matches!(self.state, State::Init | State::Up) {
            let diagnostic = Diagnostic::DETECTION_TIME_EXPIRED;
            self.leave(now_ns, State::Down, diagnostic, DownReason::Silence, outputs);
        }
    }

    /// Goes to a state that is not up, because of `diagnostic`.
    fn leave(
        &mut self,
        now_ns: u64,
        state: State,
        diagnostic: Diagnostic,
        reason: DownReason,
        outputs: &mut Vec<Output>,
    ) {
        if self.state == state {
            return;
        }
        self.diagnostic = diagnostic;
        if self.state == State::Up {
            self.counters.downs += 1;
            outputs.push(Output::Down(reason));
        }
        self.enter(now_ns, state, outputs);
    }

    /// Goes to `state`, and tells the peer at once: what the next packet would say has changed
    /// (RFC 5880, section 6.8.7).
    fn enter(&mut self, now_ns: u64, state: State, outputs: &mut Vec<Output>) {
        self.state = state;
        self.since_ns = now_ns;
        let before_us = self.desired_tx_us;
        self.desired_tx_us = desired_tx_us(self.timers, state);
        self.polls = state == State::Up && self.desired_tx_us != before_us;
        if state == State::Up {
            self.counters.ups += 1;
            self.diagnostic = Diagnostic::NONE;
            outputs.push(Output::Up);
        }
        self.send(now_ns, false, outputs);
    }

    fn send(&mut self, now_ns: u64, is_final: bool, outputs: &mut Vec<Output>) {
        if self.remote.required_min_rx_us == 0 && !is_final {
            return;
        }
        outputs.push(Output::Send(Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            // Never both (section 6.8.7).
            is_poll: self.polls && !is_final,
            is_final,
            // This is the control plane: the session ends with it.
            is_control_plane_independent: false,
            is_demand: false,
            multiplier: self.timers.multiplier,
            mine: self.local,
            yours: self.remote.discriminator,
            desired_min_tx_us: self.desired_tx_us,
            required_min_rx_us: self.timers.interval_us.get(),
            required_min_echo_rx_us: 0,
        }));
        self.counters.sent += 1;
        self.sent_ns = Some(now_ns);
        self.early = self.draw_early();
    }

    /// When the next packet is due; `None` when the peer wants none.
    fn sending_ns(&self) -> Option<u64> {
        let both_are_up = self.state == State::Up && self.remote.state == State::Up;
        let is_demanded = self.remote.is_demand && both_are_up && !self.polls;
        if self.remote.required_min_rx_us == 0 || is_demanded {
            return None;
        }
        let Some(sent_ns) = self.sent_ns else { return Some(0) };
        // The longest interval, more than an hour, takes 42 bits.
        let interval_ns = self.tx_interval_ns();
        Some(sent_ns + interval_ns - interval_ns * self.early / (1 << 16))
    }

    /// The interval that packets are sent in at the slowest (RFC 5880, section 6.8.2).
    fn tx_interval_ns(&self) -> u64 {
        u64::from(self.desired_tx_us.max(self.remote.required_min_rx_us)) * NS_PER_US
    }

    /// How much earlier than after the whole interval the next packet is sent: up to a quarter; with
    /// a multiplier of 1 from a tenth on, so that one late packet is no failure (section 6.8.7).
    fn draw_early(&mut self) -> u64 {
        let least = if self.timers.multiplier.get() == 1 { (1 << 16) / 10 + 1 } else { 0 };
        least + self.jitter.part((1 << 14) - least)
    }

    /// The detection time, while the peer is known (RFC 5880, section 6.8.4).
    fn detection_ns(&self) -> Option<u64> {
        self.remote.discriminator?;
        let interval_us = self.timers.interval_us.get().max(self.remote.desired_min_tx_us);
        Some(u64::from(self.remote.multiplier) * u64::from(interval_us) * NS_PER_US)
    }

    fn detection_at_ns(&self) -> Option<u64> {
        Some(self.heard_ns + self.detection_ns()?)
    }
}

/// What is to be sent in at the shortest in `state`, in microseconds (RFC 5880, section 6.8.3).
fn desired_tx_us(timers: Timers, state: State) -> u32 {
    let configured = timers.interval_us.get();
    if state == State::Up { configured } else { configured.max(SLOW_US) }
}
