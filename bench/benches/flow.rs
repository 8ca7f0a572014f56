//! The flow table at three sizes: 8 KiB, 8 MiB and 128 MiB.
//!
//! A table of `size` flows is a quarter full of established ones, as `FlowTable::new` advises, and
//! each measurement is of a burst of 64: once each packet by itself, and once the way a worker goes,
//! all lines prefetched before the first is read. `memory` is the yardstick: as many loads from random
//! lines of as many bytes, without any of the work.

mod cpu_time;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use cpu_time::CpuTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use vipdp_core::bucket::Bucket;
use vipdp_core::flow::{FlowKey, FlowState, FlowTable, Inserted, Seconds};
use vipdp_core::port::BURST;
use vipdp_io::processor::Native;

const SIZES: [(&str, usize); 3] = [("1k", 1 << 10), ("1M", 1 << 20), ("16M", 1 << 24)];
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
const TCP: u8 = 6;

/// Clients that are in no table.
const STRANGERS: u64 = 1 << 40;

/// The key of the `n`th client, whose hash is as good as random.
fn key(table: &FlowTable, n: u64) -> FlowKey {
    table.key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n as u16, VIP, 53, TCP)
}

fn at(s: u64) -> Seconds {
    Seconds::of_ns(s * 1_000_000_000)
}

/// A table with `flows` established flows, those of the first clients.
fn table(size: usize, flows: usize) -> FlowTable {
    let table = FlowTable::new(size, [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
    for n in 0..flows as u64 {
        table.insert(key(&table, n), Bucket::of_hash(n), FlowState::Established, at(0));
    }
    table
}

/// Names the next client each time, of `clients` many, a power of two, in an order that no prefetcher
/// follows: the keys are hashes.
struct Clients {
    next: u64,
    first: u64,
    clients: u64,
}

impl Clients {
    fn known(clients: usize) -> Self {
        Self { next: 0, first: 0, clients: clients as u64 }
    }

    fn strangers() -> Self {
        Self { next: 0, first: STRANGERS, clients: STRANGERS }
    }

    fn burst(&mut self, table: &FlowTable) -> [FlowKey; BURST] {
        std::array::from_fn(|_| {
            self.next += 1;
            key(table, self.first + self.next % self.clients)
        })
    }
}

/// Measures `work` on bursts of keys, with the lines prefetched before or not.
fn bench(
    group: &mut BenchmarkGroup<'_, CpuTime>,
    name: &str,
    size: &str,
    table: &FlowTable,
    mut clients: Clients,
    mut work: impl FnMut(FlowKey) -> u64,
) {
    for prefetched in [false, true] {
        let name = if prefetched { format!("{name}/prefetched") } else { name.to_owned() };
        group.bench_function(BenchmarkId::new(name, size), |b| {
            b.iter(|| {
                let keys = clients.burst(table);
                if prefetched {
                    keys.iter().for_each(|&key| table.prefetch::<Native>(key));
                }
                keys.iter().fold(0, |all, &key| all ^ work(key))
            });
        });
    }
}

fn hits_and_misses(group: &mut BenchmarkGroup<'_, CpuTime>, size: &str, flows: usize) {
    let full = table(flows, flows / 4);
    group.bench_function(BenchmarkId::new("key", size), |b| {
        let mut clients = Clients::known(flows / 4);
        b.iter(|| clients.burst(&full));
    });
    let established = FlowState::Established;
    bench(group, "hit", size, &full, Clients::known(flows / 4), |key| {
        full.refresh(key, at(0), established).map_or(0, |state| state as u64)
    });
    bench(group, "miss", size, &full, Clients::strangers(), |key| {
        full.refresh(key, at(0), established).map_or(0, |state| state as u64)
    });
}

fn inserts(group: &mut BenchmarkGroup<'_, CpuTime>, size: &str, flows: usize) {
    let insert = |table: &FlowTable, key, now| match table.insert(
        key,
        Bucket::of_hash(7),
        FlowState::Embryonic,
        at(now),
    ) {
        Inserted::New => 0,
        Inserted::Evicted(_) => 1,
        Inserted::Known(_) => 2,
        Inserted::Full => 3,
    };

    // SYNs that find room: time goes on so that those of the last round are forgotten.
    let empty = table(flows, 0);
    let mut inserted = 0;
    bench(group, "insert", size, &empty, Clients::strangers(), |key| {
        inserted += 1;
        insert(&empty, key, inserted / (flows as u64 / 4) * 100)
    });
    drop(empty);

    // A SYN flood: each one displaces the oldest.
    let flooded = table(flows, 0);
    for n in 0..4 * flows as u64 {
        flooded.insert(key(&flooded, n), Bucket::of_hash(n), FlowState::Embryonic, at(0));
    }
    bench(group, "insert_displacing", size, &flooded, Clients::strangers(), |key| {
        insert(&flooded, key, 1)
    });
    drop(flooded);

    // SYNs that find every line full of established flows.
    let full = table(flows, 4 * flows);
    bench(group, "insert_full", size, &full, Clients::strangers(), |key| insert(&full, key, 1));
}

fn memory(group: &mut BenchmarkGroup<'_, CpuTime>, size: &str, flows: usize) {
    let lines = vec![[1_u64; 8]; flows / 8];
    group.bench_function(BenchmarkId::new("memory", size), |b| {
        let mut next = 0_u64;
        b.iter(|| {
            (0..BURST).fold(0, |all, _| {
                next = next.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let hash = (next ^ next >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
                all ^ lines[(hash >> 40) as usize & (lines.len() - 1)][0]
            })
        });
    });
}

fn flow(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("flow");
    group.throughput(Throughput::Elements(BURST as u64));
    group.sample_size(30);
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    for (size, flows) in SIZES {
        memory(&mut group, size, flows);
        hits_and_misses(&mut group, size, flows);
        inserts(&mut group, size, flows);
    }
    group.finish();
}

/// How long a table takes to make, memory included.
fn new(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("flow_new");
    group.sample_size(10);
    for (size, flows) in SIZES {
        group.bench_function(size, |b| b.iter_with_large_drop(|| FlowTable::new(flows, [1, 2])));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = CpuTime::criterion();
    targets = flow, new
}
criterion_main!(benches);
