//! `parse`, on one frame of each kind: a burst of 64 of them, each in its own memory, from the cache.

mod cpu_time;
#[path = "../../dataplane/core/tests/frames/mod.rs"]
mod frames;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cpu_time::CpuTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use frames::{
    Link, SHARED_LINK, VIP4, VIP6, arp_request, ip, ip_frame, solicitation, tcp, udp, vip,
};
use vipdp_core::parse::parse;
use vipdp_core::port::BURST;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::wire::protocol::{TCP, UDP};

const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 7);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 7);
/// A DNS query with EDNS, for a name of usual length.
const QUERY_LEN: usize = 50;

fn datagram(client: IpAddr, link: Link) -> Vec<u8> {
    ip_frame(link, &ip(client, vip(client), UDP, &udp(40_000, 53, QUERY_LEN)))
}

fn segment(client: IpAddr) -> Vec<u8> {
    ip_frame(SHARED_LINK, &ip(client, vip(client), TCP, &tcp(40_000, 53, frames::tcp_flags::ACK)))
}

fn parse_frames(c: &mut Criterion<CpuTime>) {
    let tagged = Link { vlan: Some(7), ..SHARED_LINK };
    let kinds = [
        ("udp4", datagram(CLIENT4.into(), SHARED_LINK)),
        ("udp6", datagram(CLIENT6.into(), SHARED_LINK)),
        ("udp4_vlan", datagram(CLIENT4.into(), tagged)),
        ("udp6_vlan", datagram(CLIENT6.into(), tagged)),
        ("tcp4", segment(CLIENT4.into())),
        ("tcp6", segment(CLIENT6.into())),
        ("arp", arp_request(CLIENT4, VIP4, MacAddr::BROADCAST)),
        ("solicitation", solicitation(CLIENT6, VIP6, SHARED_LINK.to)),
    ];
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(BURST as u64));
    for (kind, frame) in kinds {
        assert!(parse(&frame).is_ok(), "{kind}: {:?}", parse(&frame));
        let burst = vec![frame; BURST];
        group.bench_function(kind, |b| {
            b.iter(|| {
                for frame in black_box(&burst) {
                    black_box(parse(frame).is_ok());
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = CpuTime::criterion();
    targets = parse_frames
}
criterion_main!(benches);
