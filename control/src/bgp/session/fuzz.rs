//! Sessions against each other, by a network that cuts and delays as it likes, and against anything
//! that a peer may send.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::transitions::{ADDRESS, open_of_peer, session};
use super::*;
use crate::bgp::config::RemoteAs;
use crate::bgp::frame::{HEADER_LEN, MESSAGE_MAX, message};
use crate::bgp::open::{Capabilities, Graceful};

/// Two sessions and the connections between them.
struct Pair {
    sessions: [Session; 2],
    deadlines: [u64; 2],
    /// Whose attempt to connect is under way.
    connecting: [bool; 2],
    /// What is on its way to each side, by connection: bytes, and at last perhaps the end.
    pipes: BTreeMap<(usize, ConnId), Pipe>,
    next: u64,
    now: u64,
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    ends: bool,
    /// The side that reads has closed: whatever comes is thrown away.
    deaf: bool,
}

impl Pair {
    fn new(passive: [bool; 2], seeds: [u64; 2]) -> Self {
        let sessions =
            [session(65011, 11, passive[0], seeds[0]), session(65001, 1, passive[1], seeds[1])];
        let mut pair = Self {
            sessions,
            deadlines: [u64::MAX; 2],
            connecting: [false; 2],
            pipes: BTreeMap::new(),
            next: 1,
            now: 0,
        };
        for side in 0..2 {
            pair.step(side, Input::Announce(Announcement::Announced));
            pair.step(side, Input::Start);
        }
        pair
    }

    fn step(&mut self, side: usize, input: Input<'_>) {
        let mut out = Vec::new();
        self.sessions[side].step(self.now, input, &mut out);
        for output in out {
            match output {
                Output::Connect => {
                    assert!(!std::mem::replace(&mut self.connecting[side], true));
                }
                Output::CancelConnect => {
                    assert!(std::mem::replace(&mut self.connecting[side], false));
                }
                Output::Send(conn, bytes) => {
                    assert!(!self.pipes[&(side, conn)].deaf, "sent on what was closed");
                    self.pipes.get_mut(&(1 - side, conn)).unwrap().bytes.extend(bytes);
                }
                Output::Close(conn) => {
                    let own = self.pipes.get_mut(&(side, conn)).unwrap();
                    assert!(!std::mem::replace(&mut own.deaf, true), "closed twice");
                    self.pipes.get_mut(&(1 - side, conn)).unwrap().ends = true;
                }
                Output::Log(_) => {}
                Output::NextDeadline(at) => {
                    assert!(at > self.now);
                    self.deadlines[side] = at;
                }
            }
        }
        assert!(self.sessions[side].connections.len() <= 3);
    }

    /// An attempt of `side` comes to a connection, which the side `first` is told of first.
    fn connect(&mut self, side: usize, first: usize) {
        if !std::mem::replace(&mut self.connecting[side], false) {
            return;
        }
        let conn = ConnId(self.next);
        self.next += 1;
        for side in 0..2 {
            self.pipes.insert((side, conn), Pipe::default());
        }
        for told in [first, 1 - first] {
            let (local, remote) = (ADDRESS, ADDRESS);
            if told == side {
                self.step(told, Input::Connected { conn, local, remote });
            } else {
                self.step(told, Input::Accepted { conn, local, remote });
            }
        }
    }

    /// Brings up to `count` bytes to their side, by the connection that is the `nth` of those that
    /// have any, or the end of it. False: there is none.
    fn bring(&mut self, nth: usize, count: usize) -> bool {
        let waiting: Vec<_> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| !pipe.deaf && (pipe.ends || !pipe.bytes.is_empty()))
            .map(|(key, _)| *key)
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let (side, conn) = waiting[nth % waiting.len()];
        let pipe = self.pipes.get_mut(&(side, conn)).unwrap();
        if pipe.bytes.is_empty() {
            pipe.deaf = true;
            self.step(side, Input::Closed { conn });
        } else {
            let count = count.clamp(1, pipe.bytes.len());
            let bytes: Vec<_> = pipe.bytes.drain(..count).collect();
            self.step(side, Input::Received { conn, bytes: &bytes });
        }
        true
    }

    /// The network loses the connection that is the `nth` of those that are open.
    fn lose(&mut self, nth: usize) {
        let open: BTreeSet<_> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| !pipe.deaf && !pipe.ends)
            .map(|((_, conn), _)| *conn)
            .collect();
        if let Some(conn) = open.iter().nth(nth % open.len().max(1)) {
            for side in 0..2 {
                let pipe = self.pipes.get_mut(&(side, *conn)).unwrap();
                pipe.ends = true;
                pipe.bytes.clear();
            }
        }
    }

    fn pass(&mut self, until: u64) {
        self.now = self.now.max(until);
        for side in 0..2 {
            if self.deadlines[side] <= self.now {
                self.step(side, Input::Tick);
            }
        }
    }

    /// Until the two are up and quiet, with a network that brings all there is: how long it took.
    fn settle(&mut self) -> u64 {
        let from = self.now;
        loop {
            for side in 0..2 {
                self.connect(side, side);
            }
            while self.bring(0, MESSAGE_MAX) {}
            let up = self.sessions.iter().all(|one| one.view().state == State::Established);
            if up || self.now - from > 1000 * SECOND_NS {
                return self.now - from;
            }
            self.pass(self.deadlines[0].min(self.deadlines[1]));
        }
    }
}

#[derive(Clone, Debug)]
enum Move {
    Connect(usize, usize),
    Bring(usize, usize),
    Lose(usize),
    Refuse(usize),
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => (0_usize..2, 0_usize..2).prop_map(|(side, first)| Move::Connect(side, first)),
        8 => (0_usize..6, 1_usize..80).prop_map(|(nth, count)| Move::Bring(nth, count)),
        1 => (0_usize..3).prop_map(Move::Lose),
        1 => (0_usize..2).prop_map(Move::Refuse),
        2 => (0_u64..4 * SECOND_NS).prop_map(Move::Pass),
    ];
    prop::collection::vec(one, 0..120)
}

proptest! {
    /// Whatever the network did, cut and lost: once it brings all there is, two sessions come up by
    /// the same connection, the only one, and have each other's routes.
    #[test]
    fn two_sessions_find_each_other(
        seeds in any::<[u64; 2]>(),
        passive in prop_oneof![4 => Just(None), 1 => (0_usize..2).prop_map(Some)],
        moves in moves(),
    ) {
        let mut pair = Pair::new([passive == Some(0), passive == Some(1)], seeds);
        for one in moves {
            match one {
                Move::Connect(side, first) => pair.connect(side, first),
                Move::Bring(nth, count) => {
                    pair.bring(nth, count);
                }
                Move::Lose(nth) => pair.lose(nth),
                Move::Refuse(side) => {
                    if std::mem::replace(&mut pair.connecting[side], false) {
                        pair.step(side, Input::ConnectFailed);
                    }
                }
                Move::Pass(ns) => {
                    let until = pair.now + ns;
                    pair.pass(until);
                }
            }
        }
        let took = pair.settle();
        prop_assert!(took < 300 * SECOND_NS, "up after {} s", took / SECOND_NS);
        let conns = pair.sessions.each_ref().map(|one| {
            one.connections.iter().map(|connection| connection.id).collect::<Vec<_>>()
        });
        prop_assert_eq!(&conns[0], &conns[1]);
        prop_assert_eq!(conns[0].len(), 1);
        for one in &pair.sessions {
            let view = one.view();
            prop_assert_eq!(view.announced_v4, 1);
            prop_assert!(view.counters.updates_in > 0);
        }
    }

    /// What this speaker says in an OPEN is what it reads in one.
    #[test]
    fn opens_are_read_as_they_are_written(
        asn in 1_u32..,
        hold_s in prop_oneof![Just(0_u16), 3_u16..],
        id in 1_u32..,
        flags in any::<[bool; 7]>(),
        time_s in 0_u16..4096,
    ) {
        let [v4, v6, v4_by_v6, refresh, four_octet_as, graceful, restarting] = flags;
        let asn = if four_octet_as { asn } else { asn & 0xffff };
        prop_assume!(asn != 0 && asn != 23456 && asn != 7);
        let graceful =
            graceful.then_some(Graceful { restarting, time_s, forwards: v4 || v6 });
        let capabilities =
            Capabilities { v4, v6, v4_by_v6, refresh, four_octet_as, graceful };
        let open = Open { asn, hold_s, id: Ipv4Addr::from_bits(id), capabilities };
        let read = Open::read(&encode::open(&open)[HEADER_LEN..], 7, RemoteAs::External);
        // Who names no family speaks IPv4.
        let capabilities = Capabilities { v4: v4 || !v6, ..capabilities };
        prop_assert_eq!(read, Ok(Open { capabilities, ..open }));
    }
}

/// A message of a peer: sound, spoilt or made up.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let sound = prop_oneof![
        Just(open_of_peer()),
        Just(encode::keepalive()),
        Just(message(Kind::Update, &[0; 4])),
        Just(message(Kind::RouteRefresh, &[0, 1, 0, 1])),
    ];
    let body = prop::collection::vec(any::<u8>(), 0..300);
    let kinds = prop::sample::select(vec![Kind::Open, Kind::Update, Kind::Notification]);
    prop_oneof![
        6 => sound.clone(),
        3 => (sound, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, by)| {
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            bytes
        }),
        2 => (kinds, body.clone()).prop_map(|(kind, body)| message(kind, &body)),
        1 => body,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever a peer sends: a session ends a connection with at most one NOTIFICATION, after which
    /// it says nothing by it; with none only where the peer sent one. It keeps less than a message
    /// of what it was sent, and answers no more than it was asked.
    #[test]
    fn anything_may_come(
        begun in 0_usize..3,
        messages in prop::collection::vec(messages(), 0..8),
        cut in 1_usize..200,
    ) {
        let mut session = session(65011, 11, false, 1);
        let mut out = Vec::new();
        let conn = ConnId(1);
        session.step(0, Input::Announce(Announcement::Announced), &mut out);
        session.step(0, Input::Start, &mut out);
        session.step(0, Input::Connected { conn, local: ADDRESS, remote: ADDRESS }, &mut out);
        let begun = [open_of_peer(), encode::keepalive()].into_iter().take(begun);
        let bytes = begun.chain(messages).collect::<Vec<_>>().concat();
        for part in bytes.chunks(cut) {
            session.step(0, Input::Received { conn, bytes: part }, &mut out);
            for connection in &session.connections {
                prop_assert!(connection.framer.held() <= MESSAGE_MAX);
            }
        }
        let sent: Vec<_> = out
            .iter()
            .filter_map(|output| match output {
                Output::Send(_, bytes) => Some(bytes[18]),
                _ => None,
            })
            .collect();
        let closed = out.iter().filter(|output| matches!(output, Output::Close(_))).count();
        let notifications = sent.iter().filter(|kind| **kind == 3).count();
        let counters = session.view().counters;
        prop_assert!(closed <= 1);
        prop_assert_eq!(notifications + counters.notifications_in as usize, closed);
        if notifications > 0 {
            prop_assert_eq!(*sent.last().unwrap(), 3);
        }
        // OPEN, KEEPALIVE, the routes, one answer to ROUTE-REFRESH, and a NOTIFICATION.
        prop_assert!(sent.len() <= 5, "{sent:?}");
    }
}
