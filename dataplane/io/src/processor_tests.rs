use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frames::{HOST, Link, OWN, ROUTER, SHARED, VIP4, VIP6, ip, ip_frame, udp, vip};
use proptest::collection::vec;
use proptest::prelude::*;
use vipdp_core::bucket::Bucket;
use vipdp_core::decide::{Burst, Decision, Now};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput, Hashing, LANES, Lanes};
use vipdp_core::port::BURST;
use vipdp_core::processor::Portable;
use vipdp_core::snapshot::{Holdings, Ingress, Service, SharedMac, Snapshot, Vips};
use vipdp_core::verdict::Verdict;

use super::*;

/// The shorter vectors, where there are longer ones.
struct Avx2;

impl Processor for Avx2 {
    fn prefetch<T>(_place: &T) {}

    fn prefetch_at(_bytes: &[u8], _at: usize) {}

    fn in_vectors(work: impl Lanewise) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just said that it knows these instructions.
            return unsafe { in_avx2(work) };
        }
        work.work_each();
    }
}

fn hashes<C: Processor, const WORDS: usize>(clients: &Lanes<WORDS>, hash: &ClientHash) -> Vec<u64> {
    let mut clients = *clients;
    C::in_vectors(Hashing { clients: &mut clients, hash });
    clients.hashes().to_vec()
}

/// What two bursts of the same frames come to: the second is one as the one before.
fn decisions<C: Processor>(snapshot: &Snapshot, frames: &[Vec<u8>]) -> [Vec<Decision>; 2] {
    let flows = FlowTable::new(64, [1, 2]);
    let (mut burst, now) = (Burst::new(), Now::of_ns(1));
    [(); 2].map(|()| {
        burst.judge::<C>(snapshot, &flows, now, frames.len(), 4, |at| &frames[at]);
        burst.decisions().to_vec()
    })
}

fn snapshot(input: HashInput) -> Snapshot {
    let service = Service::new(
        Vips::new([VIP4.into(), VIP6.into()]),
        ClientHash::new([7; 16], input),
        Ingress::SharedMac(SharedMac::unicast(SHARED)),
        OWN,
        HOST,
    );
    Snapshot::serving(service, Holdings::owning(&Bucket::all().step_by(2).collect()))
}

proptest! {
    #[test]
    fn vectors_of_any_length_hash_as_one_after_the_other_does(
        key: [u8; 16],
        clients in vec((any::<u32>(), any::<u128>(), any::<u16>()), 0..=LANES),
    ) {
        let hash = ClientHash::new(key, HashInput::AddressAndPort);
        let (mut v4, mut v6) = (Lanes::NONE, Lanes::NONE);
        for &(a, b, port) in &clients {
            v4.push(hash.words_v4(a.into(), port));
            v6.push(hash.words_v6(b.into(), port));
        }
        let (all4, all6) = (hashes::<Portable, 1>(&v4, &hash), hashes::<Portable, 3>(&v6, &hash));
        prop_assert_eq!(hashes::<Native, 1>(&v4, &hash), &*all4);
        prop_assert_eq!(hashes::<Native, 3>(&v6, &hash), &*all6);
        prop_assert_eq!(hashes::<Avx2, 1>(&v4, &hash), all4);
        prop_assert_eq!(hashes::<Avx2, 3>(&v6, &hash), all6);
    }

    #[test]
    fn vectors_of_any_length_judge_datagrams_as_one_after_the_other_does(
        is_v4: bool,
        has_port: bool,
        clients in vec((1..250_u8, any::<u16>()), 1..=BURST),
        change in prop::option::of((0..BURST, 0..62_usize, any::<u8>())),
    ) {
        let datagram = |&(client, from): &(u8, u16)| {
            let client: IpAddr = match is_v4 {
                true => Ipv4Addr::new(10, 64, 0, client).into(),
                false => Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, client.into()).into(),
            };
            let link = Link { to: SHARED, from: ROUTER, vlan: None };
            ip_frame(link, &ip(client, vip(client), 17, &udp(from, 53, 16)))
        };
        let mut frames: Vec<_> = clients.iter().map(datagram).collect();
        if let Some((frame, at, byte)) = change {
            let which = frame % frames.len();
            if let Some(place) = frames[which].get_mut(at) {
                *place = byte;
            }
        }
        let input = if has_port { HashInput::AddressAndPort } else { HashInput::Address };
        let snapshot = snapshot(input);
        let expected = decisions::<Portable>(&snapshot, &frames);
        prop_assert_eq!(&expected[0], &expected[1]);
        prop_assert_eq!(&decisions::<Native>(&snapshot, &frames), &expected);
        prop_assert_eq!(&decisions::<Avx2>(&snapshot, &frames), &expected);
        let passed = expected[0].iter().filter(|decision| decision.verdict == Verdict::Pass).count();
        prop_assert!(clients.len() < 20 || passed > 0, "half of all buckets are served here");
    }
}

#[test]
fn a_prefetch_of_anything_does_no_harm() {
    let memory = [7_u64; 3];
    Native::prefetch(&memory[2]);
    Native::prefetch(&());
    Native::prefetch_at(&[], 0);
    Native::prefetch_at(&[7; 3], usize::MAX);
    assert_eq!(memory, [7; 3]);
}
