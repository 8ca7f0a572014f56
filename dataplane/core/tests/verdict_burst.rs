//! A burst against its packets one by one: whatever the frames, the configuration and what the node
//! holds, [`Burst`] decides what `parse`, `lookup` and `decide` say of each frame in turn.

mod frames;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use frames::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use vipdp_core::bucket::Bucket;
use vipdp_core::decide::{Burst, Decision, Lookup, Now, decide, lookup};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::parse::parse;
use vipdp_core::port::BURST;
use vipdp_core::prefix::Prefix;
use vipdp_core::processor::Portable;
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::{
    Egress, Holding, Holdings, Ingress, Service, SharedMac, Snapshot, Vips,
};
use vipdp_core::verdict::{DropReason, Verdict};
use vipdp_core::wire::ethernet::MacAddr;

const SECRET: [u64; 2] = [1, 2];
/// Few, so that lines fill up.
const FLOWS: usize = 64;
const GROUP4: MacAddr = MacAddr([0x01, 0, 0x5e, 0, 2, 53]);
const GROUP6: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 53]);

/// What one by one becomes of frames.
fn one_by_one(
    snapshot: &Snapshot,
    flows: &FlowTable,
    now: Now,
    frames: &[Vec<u8>],
) -> Vec<Decision> {
    let one = |frame: &Vec<u8>| {
        let lookup = match parse(frame) {
            Ok(parsed) => lookup(&snapshot.service, flows, &parsed),
            Err(error) => Lookup::Settled(Verdict::Drop(DropReason::Malformed(error))),
        };
        decide(snapshot, flows, now, &lookup)
    };
    frames.iter().map(one).collect()
}

fn service() -> impl Strategy<Value = Service> {
    let single: &[Prefix] = &[VIP4.into(), VIP6.into()];
    let many: Vec<Prefix> =
        ["192.0.2.50", "192.0.2.53", "192.0.2.64/26", "2001:db8:53::53", "2001:db8:54::/64"]
            .map(|vip| vip.parse().unwrap())
            .to_vec();
    let vips = select(vec![single.to_vec(), many, vec![VIP6.into()], vec![]]);
    let sticky: Vec<Box<[u16]>> =
        vec![[].into(), [443].into(), [117, 443, 8443].into(), [53].into()];
    let mac = select(vec![
        SharedMac::unicast(SHARED),
        SharedMac::unicast(SHARED),
        SharedMac::unicast(SHARED),
        SharedMac { v4: GROUP4, v6: GROUP6 },
        SharedMac::unicast(OWN),
        SharedMac { v4: SHARED, v6: OWN },
    ]);
    let input = select(vec![HashInput::Address, HashInput::AddressAndPort]);
    let vlan = prop::option::weighted(0.1, Just(7));
    (vips, select(sticky), mac, input, vlan, prop::bool::weighted(0.2)).prop_map(
        |(vips, sticky_udp_ports, mac, input, vlan, has_egress)| {
            let mut peer_macs = [None; SLOTS];
            peer_macs[1] = Some(PEER);
            Service {
                sticky_udp_ports,
                vlan,
                peer_macs,
                egress: has_egress.then(Egress::default),
                ..Service::new(
                    Vips::new(vips),
                    ClientHash::new([7; 16], input),
                    Ingress::SharedMac(mac),
                    OWN,
                    HOST,
                )
            }
        },
    )
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let kinds = [
        Holding::Foreign,
        Holding::Owned,
        Holding::TakenOver,
        Holding::Granted(Slot::new(0).unwrap()),
        Holding::Granted(Slot::new(63).unwrap()),
    ];
    // Mostly all of one kind, or every bucket of another one.
    let holdings = vec(select(kinds.to_vec()), 1..9).prop_map(|kinds| {
        let mut holdings = Holdings::none();
        for (bucket, &holding) in Bucket::all().zip(kinds.iter().cycle()) {
            holdings.set(bucket, holding);
        }
        holdings
    });
    let lease_s = select(vec![0, 3, 1000]);
    (service(), holdings, lease_s).prop_map(|(service, holdings, lease_s)| Snapshot {
        lease_until_ns: lease_s * 1_000_000_000,
        ..Snapshot::serving(service, holdings)
    })
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let clients: Vec<IpAddr> = (1..7)
        .flat_map(|n| {
            let v6 = Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, n);
            [IpAddr::V4(Ipv4Addr::new(10, 64, 0, n as u8)), IpAddr::V6(v6)]
        })
        .collect();
    let ports = (select(vec![40_000, 40_001]), select(vec![53, 443, 117, 8443, 507]));
    let piece = select(vec![None, None, None, Some((0, true, 9)), Some((8, false, 9))]);
    let addresses = (select(clients), prop::bool::weighted(0.8));
    (addresses, ports, 0..4_u8, any::<u8>(), piece).prop_map(
        |((client, is_vip), (source, destination), kind, flags, piece)| {
            let to = match (client, is_vip) {
                (_, true) => vip(client),
                (IpAddr::V4(_), false) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 70)),
                (IpAddr::V6(_), false) => {
                    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x54, 0, 0, 0, 0, 1))
                }
            };
            match kind {
                0 => ip_piece(client, to, 17, &udp(source, destination, 16), piece),
                1 => ip_piece(client, to, 6, &tcp(source, destination, flags), piece),
                // The flags that there mostly are.
                2 => {
                    let flags = [tcp_flags::SYN, tcp_flags::ACK, tcp_flags::FIN | tcp_flags::ACK];
                    let flags = flags[usize::from(source + destination) % flags.len()];
                    ip(client, to, 6, &tcp(source, destination, flags))
                }
                _ => too_big(client, &ip(to, client, 6, &tcp(destination, source, 0))),
            }
        },
    )
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let to = prop_oneof![
        7 => Just(SHARED),
        3 => select(vec![OWN, GROUP4, GROUP6, MacAddr::BROADCAST]),
    ];
    let from = prop_oneof![8 => Just(ROUTER), 2 => select(vec![PEER, GROUP4])];
    let vlan = prop::option::weighted(0.2, select(vec![0, 7]));
    let link = (to, from, vlan).prop_map(|(to, from, vlan)| Link { to, from, vlan });
    let changes = vec((0..80_usize, any::<u8>()), 0..3);
    let is_changed = prop::bool::weighted(0.2);
    let of_ip =
        (link, packet(), is_changed, changes).prop_map(|(link, packet, is_changed, changes)| {
            let mut frame = ip_frame(link, &packet);
            for (at, byte) in changes.into_iter().filter(|_| is_changed) {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame
        });
    let question = any::<u8>()
        .prop_map(|n| arp_request(Ipv4Addr::new(10, 64, 0, n % 7), VIP4, MacAddr::BROADCAST));
    prop_oneof![9 => of_ip, 1 => question, 1 => vec(any::<u8>(), 0..80)]
}

/// Frames of all kinds, or datagrams of one family, of which a burst is decided on together where the one before was
/// like it: all of them plain, or a few not quite.
fn frames_of_a_burst() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let clients = vec((1..250_u8, any::<u16>()), 0..=BURST);
    let alike = (clients, any::<bool>(), select(vec![53, 53, 443]), 0..3_u32);
    let alike = alike.prop_flat_map(|(clients, is_v4, port, unlike)| {
        let datagram = move |client: u8, from: u16, is_vip: bool| {
            let (client, stranger): (IpAddr, IpAddr) = match is_v4 {
                true => {
                    (Ipv4Addr::new(10, 64, 0, client).into(), Ipv4Addr::new(192, 0, 2, 70).into())
                }
                false => (
                    Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, client.into()).into(),
                    Ipv6Addr::new(0x2001, 0xdb8, 0x55, 0, 0, 0, 0, 1).into(),
                ),
            };
            let link = Link { to: SHARED, from: ROUTER, vlan: None };
            let to = if is_vip { vip(client) } else { stranger };
            ip_frame(link, &ip(client, to, 17, &udp(from, port, 16)))
        };
        let frame = move |(client, from): (u8, u16)| {
            let changed = (0..62_usize, any::<u8>()).prop_map(move |(at, byte)| {
                let mut frame = datagram(client, from, true);
                frame[at.min(57)] = byte;
                frame
            });
            prop_oneof![
                100 => Just(datagram(client, from, true)),
                unlike => Just(datagram(client, from, false)),
                unlike => changed,
                unlike => any_frame(),
            ]
        };
        clients.into_iter().map(frame).collect::<Vec<_>>()
    });
    prop_oneof![vec(any_frame(), 0..=BURST), alike]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_burst_is_decided_as_its_packets_one_by_one(
        snapshot in snapshot(),
        bursts in vec((frames_of_a_burst(), 0..3_u64), 1..4),
    ) {
        let (together, alone) = (FlowTable::new(FLOWS, SECRET), FlowTable::new(FLOWS, SECRET));
        let mut burst = Burst::new();
        let mut seconds = 1;
        for (frames, passing) in &bursts {
            seconds += passing;
            let now = Now::of_ns(seconds * 1_000_000_000);
            burst.judge::<Portable>(&snapshot, &together, now, frames.len(), 16, |at| &frames[at]);
            prop_assert_eq!(burst.decisions(), one_by_one(&snapshot, &alone, now, frames));
            for (at, frame) in frames.iter().enumerate() {
                prop_assert_eq!(burst.parsed(at, frame), parse(frame));
            }
            prop_assert_eq!(together.census(now.seconds), alone.census(now.seconds));
        }
    }
}

/// A burst that is decided on together where there are several VIPs, so that vectors alone do not tell one.
#[test]
fn among_datagrams_to_several_vips_one_to_another_address_is_not_served() {
    let vips = ["192.0.2.50", "192.0.2.53", "2001:db8:53::53", "2001:db8:54::/64"];
    let service = Service::new(
        Vips::new(vips.map(|vip| vip.parse::<Prefix>().unwrap())),
        ClientHash::new([7; 16], HashInput::Address),
        Ingress::SharedMac(SharedMac::unicast(SHARED)),
        OWN,
        HOST,
    );
    let snapshot = Snapshot::serving(service, Holdings::owning(&Bucket::all().collect()));
    let flows = FlowTable::new(FLOWS, SECRET);
    let families: [([&str; 2], &str); 2] = [
        (["192.0.2.50", "192.0.2.53"], "192.0.2.51"),
        (["2001:db8:53::53", "2001:db8:54::1"], "2001:db8:53::54"),
    ];
    for (ours, other) in families.map(|(ours, other)| (ours.map(address), address(other))) {
        let client = if other.is_ipv4() { address("10.64.0.1") } else { address("fd64::1") };
        let datagram =
            |to: IpAddr| ip_frame(SHARED_LINK, &ip(client, to, 17, &udp(40_000, 53, 16)));
        let mut frames: Vec<_> = ours.into_iter().cycle().take(40).map(datagram).collect();
        let (mut burst, now) = (Burst::new(), Now::of_ns(1));
        let mut verdicts = |frames: &[Vec<u8>]| {
            burst.judge::<Portable>(&snapshot, &flows, now, frames.len(), 0, |at| &frames[at]);
            burst.decisions().iter().map(|decision| decision.verdict).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(&frames), [Verdict::Pass; 40]);
        frames[17] = datagram(other);
        let mut expected = [Verdict::Pass; 40];
        expected[17] = Verdict::Drop(DropReason::NotVip);
        assert_eq!(verdicts(&frames), expected);
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
