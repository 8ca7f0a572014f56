//! The flow table under every order in which workers can get in each other's way.
//!
//! loom runs each test once per interleaving of the atomic accesses, stale reads that relaxed
//! ordering allows included. It replaces the table's atomics, so it needs a build of its own, and a
//! directory of its own for that:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p vipdp-core --release --test loom_flow --target-dir target/loom
//! ```
//!
//! Under loom a line has two entries, and the tables here have one line.
#![cfg(loom)]

use std::net::{IpAddr, Ipv4Addr};

use loom::sync::Arc;
use loom::thread;

use vipdp_core::bucket::Bucket;
use vipdp_core::flow::{FlowKey, FlowState, FlowTable, Inserted, Seconds};

use FlowState::{Closing, Embryonic, Established};

fn table() -> Arc<FlowTable> {
    let table = FlowTable::new(1, [1, 2]);
    assert_eq!(table.capacity(), 2, "one line of two");
    Arc::new(table)
}

fn key(table: &FlowTable, client: u16) -> FlowKey {
    table.key(7, client, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), 53, 6)
}

fn at(s: u64) -> Seconds {
    Seconds::of_ns(s * 1_000_000_000)
}

fn insert(table: &FlowTable, client: u16, state: FlowState, s: u64) -> Inserted {
    table.insert(key(table, client), Bucket::of_hash(3), state, at(s))
}

/// Runs `worker` on a thread with a reference to the table.
fn spawn<T: 'static>(
    table: &Arc<FlowTable>,
    worker: impl FnOnce(&FlowTable) -> T + 'static,
) -> thread::JoinHandle<T> {
    let table = Arc::clone(table);
    thread::spawn(move || worker(&table))
}

fn state(table: &FlowTable, client: u16) -> Option<FlowState> {
    table.lookup(key(table, client), at(10))
}

#[test]
fn one_flow_entered_by_two_workers_is_entered_once() {
    loom::model(|| {
        let table = table();
        let other = spawn(&table, |table| insert(table, 1, Embryonic, 10));
        let here = insert(&table, 1, Embryonic, 9);
        let there = other.join().unwrap();

        let known = Inserted::Known(Embryonic);
        assert!(
            matches!((here, there), (Inserted::New, k) | (k, Inserted::New) if k == known),
            "{here:?} and {there:?}"
        );
        assert_eq!(table.census(at(10)).flows(), 1);
    });
}

#[test]
fn two_flows_that_want_the_same_place_both_find_one() {
    loom::model(|| {
        let table = table();
        let other = spawn(&table, |table| insert(table, 1, Embryonic, 10));
        assert_eq!(insert(&table, 2, Established, 10), Inserted::New);
        assert_eq!(other.join().unwrap(), Inserted::New);

        assert_eq!(state(&table, 1), Some(Embryonic));
        assert_eq!(state(&table, 2), Some(Established));
    });
}

#[test]
fn a_third_flow_in_between_does_not_make_two_of_one() {
    loom::model(|| {
        let table = table();
        let twin = spawn(&table, |table| insert(table, 1, Established, 10));
        let third = spawn(&table, |table| insert(table, 2, Established, 10));
        insert(&table, 1, Established, 10);
        twin.join().unwrap();

        assert_eq!(third.join().unwrap(), Inserted::New, "there is room for both");
        assert_eq!(table.census(at(10)).flows(), 2);
    });
}

/// The last place of a line: a SYN wants it in the moment in which its holder's ACK arrives.
#[test]
fn a_flow_is_either_displaced_or_established_and_all_agree() {
    loom::model(|| {
        let table = table();
        insert(&table, 1, Established, 9);
        insert(&table, 2, Embryonic, 8);
        let other = spawn(&table, |table| insert(table, 3, Embryonic, 10));
        let known = table.refresh(key(&table, 2), at(10), Established);

        match other.join().unwrap() {
            Inserted::Evicted(Embryonic) => {
                assert_eq!(known, None);
                assert_eq!((state(&table, 2), state(&table, 3)), (None, Some(Embryonic)));
            }
            Inserted::Full => {
                assert_eq!(known, Some(Embryonic));
                assert_eq!((state(&table, 2), state(&table, 3)), (Some(Established), None));
            }
            inserted => panic!("{inserted:?}"),
        }
        assert_eq!(state(&table, 1), Some(Established));
    });
}

#[test]
fn established_flows_outlast_inserts_that_race_with_their_packets() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let table = table();
        insert(&table, 1, Established, 8);
        insert(&table, 2, Embryonic, 8);
        let flood = spawn(&table, |table| insert(table, 3, Embryonic, 10));
        let more = spawn(&table, |table| insert(table, 4, Embryonic, 10));
        assert_eq!(table.refresh(key(&table, 1), at(10), Established), Some(Established));

        for inserted in [flood.join().unwrap(), more.join().unwrap()] {
            assert_eq!(inserted, Inserted::Evicted(Embryonic));
        }
        assert_eq!(state(&table, 1), Some(Established));
        assert!(state(&table, 3).is_some() ^ state(&table, 4).is_some());
    });
}

#[test]
fn a_fin_is_not_undone_by_an_acknowledgement_beside_it() {
    loom::model(|| {
        let table = table();
        insert(&table, 1, Established, 8);
        let fin = spawn(&table, |table| table.refresh(key(table, 1), at(9), Closing));
        assert!(table.refresh(key(&table, 1), at(10), Established).is_some());
        assert_eq!(fin.join().unwrap(), Some(Established));

        assert_eq!(state(&table, 1), Some(Closing));
    });
}

#[test]
fn a_port_used_again_ends_the_old_flow_once() {
    loom::model(|| {
        let table = table();
        insert(&table, 1, Closing, 9);
        let ack = spawn(&table, |table| table.refresh(key(table, 1), at(10), Closing));
        assert_eq!(table.refresh(key(&table, 1), at(10), Embryonic), None);
        assert_eq!(insert(&table, 1, Embryonic, 10), Inserted::New);

        // The late segment came before the SYN, between it and the entry, or after.
        let end = match ack.join().unwrap() {
            Some(Closing) | None => Embryonic,
            Some(_) => Closing,
        };
        assert_eq!(state(&table, 1), Some(end));
        assert_eq!(table.census(at(10)).flows(), 1);
    });
}
