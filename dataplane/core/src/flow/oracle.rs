//! What the table must do, said a second time and slowly: a map of flows that knows which line each
//! is in, but neither words nor places. [`check`] runs a table and the oracle side by side; the
//! tests below give it single cases, and random ones.

use std::collections::HashMap;

use proptest::prelude::*;

use crate::bucket::Bucket;

use super::entry::{Entry, FlowState, Seconds, Timeouts};
use super::key::FlowKey;
use super::table::{FlowTable, Inserted};
use FlowState::{Closing, Datagram, Embryonic, Established, Fragment};

/// Entries in a line.
const WAYS: usize = 8;
/// Lines of the table under test. Two, so that what happens in one must leave the other alone.
const LINES: usize = 2;
/// Flows that the operations choose from: three for each place.
const FLOWS: u8 = 48;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Time passes, in seconds.
    Wait(u16),
    /// A worker inserts the flow; `late` by so many seconds, as one that took the time before others.
    Insert { flow: u8, state: FlowState, late: u8 },
    /// A packet of the flow that calls for `next` by itself.
    Refresh { flow: u8, next: FlowState, late: u8 },
    /// A question.
    Lookup { flow: u8 },
}

/// What the oracle knows of a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Record {
    state: FlowState,
    bucket: Bucket,
    /// Seconds since the beginning, unlike the table's without end.
    seen: u64,
}

impl Record {
    /// Time since the last packet, by a clock that forgets what is more than 2^16 s ago and
    /// takes the last minute before that for a worker that is late.
    fn age(&self, now: u64) -> u64 {
        let age = (1 << 16) + now - self.seen;
        let age = age % (1 << 16);
        if age >= (1 << 16) - 60 { 0 } else { age }
    }

    fn timeout(&self) -> u64 {
        let timeouts = Timeouts::default();
        u64::from(match self.state {
            Embryonic => timeouts.embryonic_s,
            Established => timeouts.established_s,
            Closing => timeouts.closing_s,
            Datagram => timeouts.datagram_s,
            Fragment => timeouts.fragment_s,
        })
    }

    fn found(&self, now: u64) -> bool {
        self.state == Established || self.age(now) <= self.timeout()
    }

    fn packet(&mut self, now: u64, state: FlowState) {
        self.state = state;
        if self.age(now) > 0 {
            self.seen = now;
        }
    }
}

#[derive(Debug, Default)]
struct Oracle {
    flows: HashMap<FlowKey, Record>,
}

impl Oracle {
    fn lookup(&self, key: FlowKey, now: u64) -> Option<FlowState> {
        self.flows.get(&key).filter(|record| record.found(now)).map(|record| record.state)
    }

    fn refresh(&mut self, key: FlowKey, now: u64, next: FlowState) -> Option<FlowState> {
        let known = self.lookup(key, now)?;
        if (known, next) == (Closing, Embryonic) {
            self.flows.remove(&key);
            return None;
        }
        let after = match (known, next) {
            (Embryonic, Established | Closing | Datagram) | (Established, Closing) => next,
            _ => known,
        };
        self.flows.get_mut(&key).unwrap().packet(now, after);
        Some(known)
    }

    /// Inserts, where `gone` tells which flow of the line the table has displaced, if any.
    fn insert(
        &mut self,
        key: FlowKey,
        bucket: Bucket,
        state: FlowState,
        now: u64,
        gone: &[FlowKey],
    ) -> Inserted {
        if let Some(known) = self.lookup(key, now) {
            assert_eq!(gone, []);
            if (known, state) == (Closing, Embryonic) {
                self.flows.get_mut(&key).unwrap().packet(now, Embryonic);
            } else {
                self.refresh(key, now, state);
            }
            return Inserted::Known(known);
        }
        self.flows.remove(&key);
        let neighbours: Vec<_> =
            self.flows.iter().filter(|(at, _)| line(**at) == line(key)).collect();
        let allowed = Self::displaceable(&neighbours, state, now);
        let inserted = match (&allowed[..], gone) {
            (_, []) if neighbours.len() < WAYS => Inserted::New,
            ([], []) => return Inserted::Full,
            (allowed, &[gone]) if neighbours.len() == WAYS => {
                assert!(allowed.contains(&gone), "{gone:?} is gone, and not one of {allowed:?}");
                let record = self.flows.remove(&gone).unwrap();
                if record.found(now) { Inserted::Evicted(record.state) } else { Inserted::New }
            }
            _ => panic!("{gone:?} are gone of {neighbours:?}"),
        };
        self.flows.insert(key, Record { state, bucket, seen: now });
        inserted
    }

    /// Which of the flows of a full line may give way to one in `state`, as `FlowTable::insert`
    /// says: those that are equally the first in its order.
    fn displaceable(
        neighbours: &[(&FlowKey, &Record)],
        state: FlowState,
        now: u64,
    ) -> Vec<FlowKey> {
        let of = |keep: &dyn Fn(&Record) -> bool| -> Vec<(FlowKey, Record)> {
            neighbours.iter().filter(|(_, r)| keep(r)).map(|&(&k, &r)| (k, r)).collect()
        };
        let keys = |of: Vec<(FlowKey, Record)>| of.into_iter().map(|(key, _)| key).collect();
        let oldest = |of: Vec<(FlowKey, Record)>| {
            let age = of.iter().map(|(_, record)| record.age(now)).max();
            of.into_iter().filter(|(_, r)| Some(r.age(now)) == age).collect::<Vec<_>>()
        };

        let forgotten = of(&|record| !record.found(now));
        if !forgotten.is_empty() {
            return keys(forgotten);
        }
        let lesser: &[FlowState] =
            if state == Fragment { &[Fragment] } else { &[Fragment, Embryonic, Closing] };
        let candidates = oldest(of(&|record| lesser.contains(&record.state)));
        for kind in lesser {
            let of_kind: Vec<_> =
                candidates.iter().copied().filter(|(_, record)| record.state == *kind).collect();
            if !of_kind.is_empty() {
                return keys(of_kind);
            }
        }
        if state == Fragment {
            return Vec::new();
        }
        keys(oldest(of(&|r| r.state == Established && r.age(now) > r.timeout())))
    }
}

/// The key of a flow of the test's. Neighbouring numbers are in different lines.
fn key(flow: u8) -> FlowKey {
    let line = u64::from(flow) % LINES as u64;
    FlowKey::of_hash((u64::from(flow / 2) + 1) << 31 | line)
}

fn line(key: FlowKey) -> usize {
    key.line(LINES)
}

fn bucket(flow: u8) -> Bucket {
    Bucket::new(u16::from(flow) * 85).unwrap()
}

fn seconds(now: u64) -> Seconds {
    Seconds::of_ns(now * 1_000_000_000)
}

/// What the table has in the line of `key`, by the oracle's names.
fn contents(table: &FlowTable, key: FlowKey) -> HashMap<FlowKey, Entry> {
    let words = table.words(key);
    let entries = words.into_iter().filter_map(Entry::of_word);
    let named: HashMap<_, _> = entries
        .filter_map(|entry| {
            let mut flows = (0..FLOWS).map(self::key).filter(|&of| line(of) == line(key));
            Some((flows.find(|&of| Entry::word_is_of(entry.word(), of))?, entry))
        })
        .collect();
    let used = words.iter().filter(|&&word| word != Entry::FREE).count();
    assert_eq!(named.len(), used, "a flow is entered twice, or one that never came");
    named
}

/// Runs a table and the oracle through `ops` from the second `start` on, and compares all that they say
/// and all that they keep.
fn check(start: u64, ops: &[Op]) {
    let table = FlowTable::new(LINES * WAYS, [0; 2]);
    let mut oracle = Oracle::default();
    let mut now = start;
    for &op in ops {
        match op {
            Op::Wait(s) => now += u64::from(s),
            Op::Lookup { flow } => {
                let key = key(flow);
                assert_eq!(table.lookup(key, seconds(now)), oracle.lookup(key, now), "{op:?}");
            }
            Op::Refresh { flow, next, late } => {
                let (key, now) = (key(flow), now - u64::from(late));
                let known = table.refresh(key, seconds(now), next);
                assert_eq!(known, oracle.refresh(key, now, next), "{op:?}");
            }
            Op::Insert { flow, state, late } => {
                let (key, now) = (key(flow), now - u64::from(late));
                let before = contents(&table, key);
                let inserted = table.insert(key, bucket(flow), state, seconds(now));
                let after = contents(&table, key);
                let gone: Vec<_> =
                    before.keys().copied().filter(|key| !after.contains_key(key)).collect();
                let expected = oracle.insert(key, bucket(flow), state, now, &gone);
                assert_eq!(inserted, expected, "{op:?}");
            }
        }
        compare(&table, &oracle, now);
    }
}

fn compare(table: &FlowTable, oracle: &Oracle, now: u64) {
    let held: HashMap<_, _> = (0..2).flat_map(|flow| contents(table, key(flow))).collect();
    assert_eq!(held.len(), oracle.flows.len());
    for (key, record) in &oracle.flows {
        let entry = held[key];
        assert_eq!((entry.state(), entry.bucket()), (record.state, record.bucket));
        assert_eq!(u64::from(entry.age(seconds(now))), record.age(now), "{record:?}");
    }
    let census = table.census(seconds(now));
    for state in FlowState::ALL {
        let found = oracle.flows.values().filter(|r| r.state == state && r.found(now));
        assert_eq!(census.in_state(state), found.count());
    }
}

/// Entering flows `0, 2, 4, ..`, all of line 0, in `states`.
fn line_of(states: &[FlowState]) -> Vec<Op> {
    let flows = (0..).step_by(2);
    flows.zip(states).map(|(flow, &state)| Op::Insert { flow, state, late: 0 }).collect()
}

#[test]
fn a_flow_is_followed_from_syn_to_fin_and_the_port_used_again() {
    let packet = |next| Op::Refresh { flow: 0, next, late: 0 };
    let insert = Op::Insert { flow: 0, state: Embryonic, late: 0 };
    let life = [
        packet(Established),
        insert,
        packet(Embryonic),
        Op::Wait(1),
        packet(Established),
        packet(Embryonic),
        Op::Wait(4000),
        Op::Lookup { flow: 0 },
        packet(Closing),
        packet(Established),
        Op::Wait(119),
        packet(Established),
        Op::Wait(120),
        Op::Lookup { flow: 0 },
        packet(Embryonic),
        Op::Lookup { flow: 0 },
        insert,
        packet(Closing),
        insert,
        packet(Closing),
        Op::Wait(121),
        Op::Lookup { flow: 0 },
        insert,
    ];
    check(0, &life);
}

#[test]
fn a_late_worker_takes_nothing_for_old() {
    let mut ops = line_of(&[Embryonic, Established, Closing, Datagram, Fragment]);
    ops.push(Op::Wait(1));
    ops.extend((0..10).step_by(2).map(|flow| Op::Refresh { flow, next: Established, late: 0 }));
    ops.extend((0..10).step_by(2).map(|flow| Op::Refresh { flow, next: Established, late: 1 }));
    ops.extend((10..24).step_by(2).map(|flow| Op::Insert { flow, state: Embryonic, late: 1 }));
    check(1, &ops);
    check(65_536, &ops);
}

#[test]
fn a_full_line_gives_way_in_the_stated_order() {
    let mut ops = line_of(&[
        Established,
        Datagram,
        Fragment,
        Embryonic,
        Closing,
        Established,
        Established,
        Embryonic,
    ]);
    for flow in (16..40).step_by(2) {
        ops.push(Op::Insert { flow, state: Established, late: 0 });
        ops.push(Op::Wait(1));
    }
    ops.push(Op::Wait(3600));
    for flow in (40..48).step_by(2) {
        ops.push(Op::Insert { flow, state: Established, late: 0 });
    }
    check(65_000, &ops);
}

#[test]
fn fragments_displace_nothing_but_fragments() {
    let mut ops = line_of(&[Embryonic; 8]);
    ops.push(Op::Insert { flow: 16, state: Fragment, late: 0 });
    // A port used again frees one place, and all the fragments take turns in it.
    ops.push(Op::Refresh { flow: 0, next: Closing, late: 0 });
    ops.push(Op::Refresh { flow: 0, next: Embryonic, late: 0 });
    ops.extend((14..40).step_by(2).map(|flow| Op::Insert { flow, state: Fragment, late: 0 }));
    check(0, &ops);
}

fn any_state() -> impl Strategy<Value = FlowState> {
    prop::sample::select(FlowState::ALL.as_slice())
}

fn any_op() -> impl Strategy<Value = Op> {
    // Waits that come near each timeout, and the wrap.
    let wait = prop_oneof![
        8 => 0..40_u16,
        2 => 50..130_u16,
        1 => 3500..3700_u16,
        1 => 65_400..=u16::MAX,
    ];
    let flow = 0..FLOWS;
    prop_oneof![
        2 => wait.prop_map(Op::Wait),
        6 => (flow.clone(), any_state(), 0..2_u8)
            .prop_map(|(flow, state, late)| Op::Insert { flow, state, late }),
        4 => (flow.clone(), any_state(), 0..2_u8)
            .prop_map(|(flow, next, late)| Op::Refresh { flow, next, late }),
        1 => flow.prop_map(|flow| Op::Lookup { flow }),
    ]
}

proptest! {
    #[test]
    fn the_table_does_what_the_oracle_says(
        start in prop_oneof![1..100_u64, 65_000..66_000_u64],
        ops in prop::collection::vec(any_op(), 1..300),
    ) {
        check(start, &ops);
    }
}
