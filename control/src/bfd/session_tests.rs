use std::num::{NonZeroU8, NonZeroU32};

use proptest::collection::vec;
use proptest::prelude::*;

use super::packet::{Diagnostic, Packet, State};
use super::session::{DownReason, Input, Output, Session, Timers};

const MS: u64 = 1_000_000;
/// An arbitrary start, far from 0.
const START_NS: u64 = 5_000_000 * MS;
const OURS: NonZeroU32 = NonZeroU32::new(0x11).unwrap();
const THEIRS: NonZeroU32 = NonZeroU32::new(0x22).unwrap();

fn timers(interval_ms: u32, multiplier: u8) -> Timers {
    Timers {
        interval_us: NonZeroU32::new(interval_ms * 1000).unwrap(),
        multiplier: NonZeroU8::new(multiplier).unwrap(),
    }
}

/// What a peer with an interval of 300 ms says in `state`.
fn from_peer(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        is_poll: false,
        is_final: false,
        is_control_plane_independent: false,
        is_demand: false,
        multiplier: NonZeroU8::new(3).unwrap(),
        mine: THEIRS,
        yours: Some(OURS),
        desired_min_tx_us: if state == State::Up { 300_000 } else { 1_000_000 },
        required_min_rx_us: 300_000,
        required_min_echo_rx_us: 0,
    }
}

fn step(session: &mut Session, now_ns: u64, input: Input<'_>) -> Vec<Output> {
    let mut outputs = Vec::new();
    session.step(now_ns, input, &mut outputs);
    outputs
}

/// A session in `state`, brought there by the packets that do.
fn session_in(state: State) -> Session {
    let mut session = Session::new(START_NS, OURS, timers(300, 3), 7);
    let heard: &[State] = match state {
        State::AdminDown | State::Down => &[],
        State::Init => &[State::Down],
        State::Up => &[State::Down, State::Init],
    };
    for &heard in heard {
        step(&mut session, START_NS, Input::Received(&from_peer(heard)));
    }
    if state == State::AdminDown {
        step(&mut session, START_NS, Input::AdminDown);
    }
    assert_eq!(session.state(), state);
    session
}

fn packets(outputs: &[Output]) -> Vec<Packet> {
    let sent = outputs.iter().filter_map(|output| match output {
        Output::Send(packet) => Some(*packet),
        Output::Up | Output::Down(_) => None,
    });
    sent.collect()
}

fn changes(outputs: &[Output]) -> Vec<Output> {
    outputs.iter().filter(|output| !matches!(output, Output::Send(_))).copied().collect()
}

/// The whole of the state machine: what each input makes of each state, and who is told.
#[test]
fn the_transition_table() {
    use State::{AdminDown, Down, Init, Up};
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Heard(State),
        Silence,
        AdminDown,
        AdminUp,
    }
    use Event::{Heard, Silence};

    let down = |reason| vec![Output::Down(reason)];
    let none = 0;
    let table = [
        (AdminDown, Heard(AdminDown), AdminDown, vec![], 7),
        (AdminDown, Heard(Down), AdminDown, vec![], 7),
        (AdminDown, Heard(Init), AdminDown, vec![], 7),
        (AdminDown, Heard(Up), AdminDown, vec![], 7),
        (AdminDown, Silence, AdminDown, vec![], 7),
        (AdminDown, Event::AdminDown, AdminDown, vec![], 7),
        (AdminDown, Event::AdminUp, Down, vec![], 7),
        (Down, Heard(AdminDown), Down, vec![], none),
        (Down, Heard(Down), Init, vec![], none),
        (Down, Heard(Init), Up, vec![Output::Up], none),
        (Down, Heard(Up), Down, vec![], none),
        (Down, Silence, Down, vec![], none),
        (Down, Event::AdminDown, AdminDown, vec![], 7),
        (Down, Event::AdminUp, Down, vec![], none),
        (Init, Heard(AdminDown), Down, vec![], 3),
        (Init, Heard(Down), Init, vec![], none),
        (Init, Heard(Init), Up, vec![Output::Up], none),
        (Init, Heard(Up), Up, vec![Output::Up], none),
        (Init, Silence, Down, vec![], 1),
        (Init, Event::AdminDown, AdminDown, vec![], 7),
        (Init, Event::AdminUp, Init, vec![], none),
        (Up, Heard(AdminDown), Down, down(DownReason::NeighborAdminDown), 3),
        (Up, Heard(Down), Down, down(DownReason::NeighborDown), 3),
        (Up, Heard(Init), Up, vec![], none),
        (Up, Heard(Up), Up, vec![], none),
        (Up, Silence, Down, down(DownReason::Silence), 1),
        (Up, Event::AdminDown, AdminDown, down(DownReason::AdminDown), 7),
        (Up, Event::AdminUp, Up, vec![], none),
    ];
    assert_eq!(table.len(), State::ALL.len() * 7);
    for (from, event, to, told, diagnostic) in table {
        let mut session = session_in(from);
        let outputs = match event {
            Heard(state) => step(&mut session, START_NS + MS, Input::Received(&from_peer(state))),
            // Three times the interval that the peer last asked for.
            Silence => step(&mut session, START_NS + 3000 * MS, Input::Tick),
            Event::AdminDown => step(&mut session, START_NS + MS, Input::AdminDown),
            Event::AdminUp => step(&mut session, START_NS + MS, Input::AdminUp),
        };
        assert_eq!(session.state(), to, "{from} {event:?}");
        assert_eq!(changes(&outputs), told, "{from} {event:?}");
        assert_eq!(session.view().diagnostic.code(), diagnostic, "{from} {event:?}");
        if from != to {
            // The peer is told at once.
            let sent = packets(&outputs);
            assert_eq!(sent.last().map(|packet| packet.state), Some(to), "{from} {event:?}");
        }
    }
}

#[test]
fn only_failures_of_the_path_are_failures() {
    use DownReason::{AdminDown, NeighborAdminDown, NeighborDown, Silence};
    let failures =
        [Silence, NeighborDown, NeighborAdminDown, AdminDown].map(DownReason::is_failure);
    assert_eq!(failures, [true, true, false, false]);
}

#[test]
fn the_peers_words_decide_how_long_a_silence_is_failure() {
    // Interval and multiplier of the peer, and the detection time that they make with our 300 ms.
    for (desired_us, multiplier, detection_ms) in
        [(300_000, 3, 900), (100_000, 3, 900), (500_000, 3, 1500), (50_000, 10, 3000)]
    {
        let mut session = session_in(State::Up);
        let said = Packet {
            desired_min_tx_us: desired_us,
            multiplier: NonZeroU8::new(multiplier).unwrap(),
            ..from_peer(State::Up)
        };
        step(&mut session, START_NS, Input::Received(&said));
        assert_eq!(session.view().detection_ns, detection_ms * MS);
        step(&mut session, START_NS + detection_ms * MS - 1, Input::Tick);
        assert_eq!(session.state(), State::Up);
        let outputs = step(&mut session, START_NS + detection_ms * MS, Input::Tick);
        assert_eq!(changes(&outputs), [Output::Down(DownReason::Silence)]);
        assert_eq!(packets(&outputs)[0].yours, None, "the peer's discriminator is forgotten");
    }
}

#[test]
fn a_packet_that_came_in_time_counts_though_it_is_read_late() {
    let mut session = session_in(State::Up);
    let late = START_NS + 10_000 * MS;
    step(&mut session, late, Input::Received(&from_peer(State::Up)));
    assert_eq!(session.state(), State::Up);
}

/// The shares of the interval that a session with this multiplier sends after, in per mille: the
/// least and the greatest of many.
fn shares_of_interval(multiplier: u8) -> (u64, u64) {
    let mut session = Session::new(START_NS, OURS, timers(1000, multiplier), 99);
    let mut sent_ns = START_NS;
    step(&mut session, sent_ns, Input::Tick);
    let (mut least, mut greatest) = (u64::MAX, 0);
    for _ in 0..2000 {
        let due = session.deadline_ns();
        assert!(packets(&step(&mut session, due - 1, Input::Tick)).is_empty());
        assert_eq!(packets(&step(&mut session, due, Input::Tick)).len(), 1);
        let share = (due - sent_ns) / MS;
        (least, greatest) = (least.min(share), greatest.max(share));
        sent_ns = due;
    }
    (least, greatest)
}

#[test]
fn packets_are_spread_over_the_last_quarter_of_the_interval() {
    let (least, greatest) = shares_of_interval(3);
    assert!((750..760).contains(&least) && (990..=1000).contains(&greatest), "{least} {greatest}");
    let (least, greatest) = shares_of_interval(1);
    assert!((750..760).contains(&least) && (890..=900).contains(&greatest), "{least} {greatest}");
}

#[test]
fn an_interval_of_a_second_or_more_is_not_polled_for() {
    let mut session = Session::new(START_NS, OURS, timers(2000, 3), 7);
    step(&mut session, START_NS, Input::Received(&from_peer(State::Down)));
    let outputs = step(&mut session, START_NS, Input::Received(&from_peer(State::Init)));
    let said: Vec<_> =
        packets(&outputs).iter().map(|packet| (packet.is_poll, packet.desired_min_tx_us)).collect();
    assert_eq!(said, [(false, 2_000_000)]);
}

/// Two sessions on a path, each direction of which takes a while.
struct Path {
    now_ns: u64,
    sessions: [Session; 2],
    /// Packets under way: when they arrive, and at which end.
    under_way: Vec<(u64, usize, Packet)>,
    told: [Vec<Output>; 2],
}

impl Path {
    fn new(timers: [Timers; 2], seed: u64) -> Self {
        let discriminators = [OURS, THEIRS];
        let sessions = [0, 1]
            .map(|end| Session::new(START_NS, discriminators[end], timers[end], seed + end as u64));
        Self { now_ns: START_NS, sessions, under_way: Vec::new(), told: [vec![], vec![]] }
    }

    /// Runs until `until_ns`. `delay_ns` is how long each packet takes, `None` where it is lost; it
    /// is asked with the packet's number.
    fn run(&mut self, until_ns: u64, mut delay_ns: impl FnMut(u64) -> Option<u64>) {
        loop {
            let arrival = self.under_way.iter().map(|&(at, ..)| at).min().unwrap_or(u64::MAX);
            let deadlines = self.sessions.each_ref().map(Session::deadline_ns);
            let next = arrival.min(deadlines[0]).min(deadlines[1]).max(self.now_ns);
            if next > until_ns {
                self.now_ns = until_ns;
                return;
            }
            self.now_ns = next;
            let position = self.under_way.iter().position(|&(at, ..)| at <= next);
            let arrived = position.map(|position| self.under_way.swap_remove(position));
            for end in 0..2 {
                let outputs = match &arrived {
                    Some((_, to, packet)) if *to == end => {
                        step(&mut self.sessions[end], next, Input::Received(packet))
                    }
                    _ => step(&mut self.sessions[end], next, Input::Tick),
                };
                for packet in packets(&outputs) {
                    assert!(!(packet.is_poll && packet.is_final));
                    let number: u64 = self.sessions.iter().map(|s| s.view().counters.sent).sum();
                    if let Some(delay) = delay_ns(number) {
                        self.under_way.push((next + delay, 1 - end, packet));
                    }
                }
                self.told[end].extend(changes(&outputs));
            }
        }
    }
}

fn any_timers() -> impl Strategy<Value = Timers> {
    (10..=2000u32, 2..=20u8).prop_map(|(interval_ms, multiplier)| timers(interval_ms, multiplier))
}

fn any_packet() -> impl Strategy<Value = Packet> {
    // Arbitrary intervals are hardly ever short.
    let interval = || prop_oneof![Just(0), 1..2_000_000u32, any::<u32>()];
    (any::<[u8; 12]>(), 0..4u8, interval(), interval()).prop_filter_map(
        "one that is decoded",
        |(random, state, tx, rx)| {
            let mut bytes = [0; 24];
            bytes[..12].copy_from_slice(&random);
            bytes[0] = 0x20 | random[0] & 0x1f;
            bytes[1] = state << 6 | random[1] & 0x3a;
            bytes[3] = 24;
            bytes[12..16].copy_from_slice(&tx.to_be_bytes());
            bytes[16..20].copy_from_slice(&rx.to_be_bytes());
            Packet::decode(&bytes).ok()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn two_sessions_come_up_stay_up_and_see_the_path_end(
        ours in any_timers(),
        theirs in any_timers(),
        seed in any::<u64>(),
        delay_ms in 0..9u64,
    ) {
        let mut path = Path::new([ours, theirs], seed >> 1);
        let delay = |_| Some(delay_ms * MS);
        let slowest_ms = ours.interval_us.max(theirs.interval_us).get() / 1000;
        // Two packets each, at the pace of those that are not up, and the polls.
        let up_ns = u64::from(slowest_ms.max(1000)) * 4 * MS;
        path.run(START_NS + up_ns, delay);
        for end in 0..2 {
            prop_assert_eq!(&path.told[end], &[Output::Up]);
            let view = path.sessions[end].view();
            prop_assert_eq!(view.tx_interval_ns, u64::from(slowest_ms) * MS);
        }
        path.run(path.now_ns + 100 * u64::from(slowest_ms) * MS, delay);
        let detection_ns = path.sessions.each_ref().map(|session| session.view().detection_ns);
        for end in 0..2 {
            prop_assert_eq!(path.told[end].len(), 1, "it stays up");
            // Each multiplies by what the other said.
            let multiplier = [theirs, ours][end].multiplier.get();
            let expected = u64::from(multiplier) * u64::from(slowest_ms) * MS;
            prop_assert_eq!(detection_ns[end], expected);
        }
        path.under_way.clear();
        path.run(path.now_ns + detection_ns[0].max(detection_ns[1]), |_| None);
        for end in 0..2 {
            let down = Output::Down(DownReason::Silence);
            prop_assert_eq!(&path.told[end], &[Output::Up, down]);
        }
    }

    /// A lossy path never wedges them: once it is whole again, they come up.
    #[test]
    fn two_sessions_recover_from_any_loss(
        ours in any_timers(),
        theirs in any_timers(),
        lost in vec(any::<bool>(), 1..200),
        seed in any::<u64>(),
    ) {
        let mut path = Path::new([ours, theirs], seed >> 1);
        path.run(START_NS + 30_000 * MS, |number| {
            let is_lost = lost[number as usize % lost.len()];
            (!is_lost).then_some(3 * MS)
        });
        let detection_max_ns = 20 * 2000 * MS;
        path.run(path.now_ns + detection_max_ns + 10_000 * MS, |_| Some(3 * MS));
        let states = path.sessions.each_ref().map(Session::state);
        prop_assert_eq!(states, [State::Up; 2]);
    }

    /// Whatever arrives and whenever: no panic, the deadline is never so early that it would spin,
    /// and who is told up and down is told so by turns.
    #[test]
    fn any_packets_are_survived(
        ours in any_timers(),
        inputs in vec((any_packet(), 0..1000 * MS, 0..20u8), 0..100),
    ) {
        let mut session = Session::new(START_NS, OURS, ours, 3);
        let mut now_ns = START_NS;
        let mut is_up = false;
        for (packet, pause_ns, kind) in inputs {
            now_ns += pause_ns;
            let input = match kind {
                0 => Input::AdminDown,
                1 | 2 => Input::AdminUp,
                3..8 => Input::Tick,
                _ => Input::Received(&packet),
            };
            let outputs = step(&mut session, now_ns, input);
            for change in changes(&outputs) {
                prop_assert_eq!(matches!(change, Output::Up), !is_up);
                is_up = !is_up;
            }
            prop_assert_eq!(is_up, session.state() == State::Up);
            prop_assert!(packets(&outputs).len() <= 3);
            prop_assert!(session.deadline_ns() > now_ns);
        }
    }
}
