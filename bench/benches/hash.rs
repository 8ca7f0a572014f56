//! The hash of client addresses.

mod cpu_time;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cpu_time::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::BURST;

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a40_0000 + n).into()
}

fn v6(n: u32) -> IpAddr {
    Ipv6Addr::from_bits(0xfd64 << 112 | u128::from(n)).into()
}

/// A burst of clients, hashed one after the other as a worker does.
fn hash(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Elements(BURST as u64));
    for (family, client) in [("v4", v4 as fn(u32) -> IpAddr), ("v6", v6)] {
        let clients: Vec<_> = (0..BURST as u32).map(client).collect();
        for (input, name) in
            [(HashInput::Address, "address"), (HashInput::AddressAndPort, "address_and_port")]
        {
            let hash = ClientHash::new([0x5a; 16], input);
            group.bench_with_input(BenchmarkId::new(name, family), &clients, |b, clients| {
                b.iter(|| {
                    black_box(clients).iter().fold(0, |all, &client| all ^ hash.hash(client, 5353))
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = CpuTime::criterion();
    targets = hash
}
criterion_main!(benches);
