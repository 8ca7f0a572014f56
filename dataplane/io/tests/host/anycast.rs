//! The anycast mode: VIPs that are announced from the loopback, and a whole worker that steers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vipdp_core::anycast::{Anycast, Steering};
use vipdp_core::bucket::Bucket;
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::{Holding, Holdings, Ingress, Service, Snapshot, Vips};
use vipdp_core::tiered::{Owners, PreviousOwners};
use vipdp_core::worker::{Shared, Worker};
use vipdp_io::af_xdp::{AfXdpPort, Options};
use vipdp_io::peer_path::PeerPaths;
use vipdp_io::xdp::{AttachMode, Program, TunnelEnd};

use super::*;

/// The port that tunnels lead to.
const GUE: u16 = 6080;
/// The other member, behind the router.
const MEMBER: [&str; 2] = ["203.0.113.12", "2001:db8:2::12"];
/// Clients whose buckets are this node's and the other member's.
const OURS: [&str; 2] = ["203.0.113.7", "2001:db8:ffff::7"];
const THEIRS: [&str; 2] = ["203.0.113.8", "2001:db8:ffff::8"];

/// Put on the loopback and taken off it again, as daemons that announce it like: it is served all the
/// while, and the kernel answers for it on no wire.
#[test]
fn a_vip_that_comes_and_goes_on_the_loopback_is_served_by_the_tap() {
    let lab = Lab::new("loopback");
    let state = tempfile::tempdir().unwrap();
    let wire = lab.wire();
    let on_loopback = |what: &str| {
        run(&format!("ip -n {} addr {what} {}/32 dev lo", lab.host, VIPS[0]));
        run(&format!("ip -n {} addr {what} {}/128 dev lo nodad", lab.host, VIPS[1]));
    };
    run(&format!("ip -n {} link set lo up", lab.host));
    on_loopback("add");
    lab.in_host(|| {
        let (mut queue, guard) = apply(&HostPlan { own_mac: true, ..plan(state.path()) });
        let sockets = VIPS.map(|vip| udp_socket(ip(vip)));
        let mut serve = |what: &str| {
            for ((vip, client), socket) in
                VIPS.map(ip).into_iter().zip(CLIENTS.map(ip)).zip(&sockets)
            {
                let query = udp(guard.tap().mac, (client, 40_000), (vip, 53), b"query");
                queue.deliver_frame(&query).unwrap();
                let mut buffer = [0; 64];
                let (_, from) = socket.recv_from(&mut buffer).unwrap_or_else(|error| {
                    panic!("{what}, {vip}: {error}");
                });
                socket.send_to(b"response", from).unwrap();
                let is_reply = |frame: &[u8]| {
                    packet(frame).is_some_and(|one| one.source == vip && one.destination == client)
                };
                wire.frames_until("reply", is_reply);
            }
            for (own, vip) in OWN.map(ip).into_iter().zip(VIPS.map(ip)) {
                wire.assert_answers_for_own_alone(own, vip, what);
            }
        };
        serve("on the loopback before the TAP was");
        on_loopback("del");
        serve("taken off");
        on_loopback("add");
        serve("put on again");
    });
}

/// A worker of this node, in slot 0, over the real NIC and TAP; the other member is in slot 1.
struct Steerer {
    worker: Worker<AfXdpPort, TapQueue>,
    counters: Arc<WorkerCounters>,
    _guard: HostGuard,
    _program: Program,
}

impl Steerer {
    /// To be called in the host's namespace. Tunnels are of the family of the addresses numbered `outer`.
    fn new(state: &Path, outer: usize) -> Self {
        let plan = HostPlan { own_mac: true, ..plan(state) };
        let (queue, guard) = apply(&plan);
        let mut program =
            Program::attach(NIC, AttachMode::Auto, &plan.vips, &NextHops::default()).unwrap();
        program.set_tunnel_end(&TunnelEnd::new(ip(OWN[outer]), GUE)).unwrap();
        let port = AfXdpPort::open(&Options::new(NIC, 0)).unwrap();
        program.bind(0, &port).unwrap();
        let [own, member] = [0, 1].map(|slot| Slot::new(slot).unwrap());
        let mut paths = PeerPaths::new(NIC, ip(OWN[outer]), [(member, ip(MEMBER[outer]))]).unwrap();
        until("the router's MAC address", || {
            paths.refresh().unwrap();
            paths.paths()[1].is_some_and(|path| path.next_hop.is_some())
        });
        let steering = Some(Steering::Gue { port: GUE });
        let client_hash = ClientHash::new([7; 16], HashInput::Address);
        let service = Service {
            peers: *paths.paths(),
            ..Service::new(
                Vips::new(plan.vips.iter().copied()),
                client_hash,
                Ingress::Anycast(Anycast { slot: own, cluster: 7, steering }),
                NIC_MAC,
                guard.tap().mac,
            )
        };
        let bucket = |client| Bucket::of_hash(client_hash.hash(ip(client), 0));
        let mut holdings = Holdings::none();
        for client in OURS {
            holdings.set(bucket(client), Holding::Owned);
        }
        let theirs = Owners { now: Some(member), before: [None; 2] };
        let owners = PreviousOwners::new([own, member], THEIRS.map(|one| (bucket(one), theirs)));
        let snapshot =
            Snapshot { previous: Arc::new(owners), ..Snapshot::serving(service, holdings) };
        let shared = Shared::new(snapshot, FlowTable::new(1024, [1, 2]));
        let counters = Arc::<WorkerCounters>::default();
        let worker = Worker::new(port, queue, shared, Arc::clone(&counters));
        Self { worker, counters, _guard: guard, _program: program }
    }
}

/// Sets the flag when dropped, so that a worker's thread ends with a test that fails too.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client's query becomes a tunnel to the member who has its bucket; as a member's tunnel, it reaches
/// the service, whose answer goes straight back.
#[test]
fn a_query_leaves_by_a_tunnel_and_one_from_a_tunnel_is_answered() {
    for outer in [0, 1] {
        let lab = Lab::new(["steer4", "steer6"][outer]);
        let state = tempfile::tempdir().unwrap();
        let wire = lab.wire();
        lab.in_host(|| {
            let Steerer { mut worker, counters, _guard, _program } =
                Steerer::new(state.path(), outer);
            let end = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !end.load(Ordering::Relaxed) {
                        worker.poll_once(1_000_000_000);
                        std::thread::yield_now();
                    }
                });
                let _end = Ends(&end);
                for inner in [0, 1] {
                    let vip = ip(VIPS[inner]);
                    let service = udp_socket(vip);
                    let query = |client| udp(NIC_MAC, (ip(client), 40_000), (vip, 53), b"query");
                    wire.send(&query(THEIRS[inner]));
                    let of_tunnel = |frame: &[u8]| {
                        packet(frame).is_some_and(|one| one.destination == ip(MEMBER[outer]))
                    };
                    let frames = wire.frames_until("tunnel", of_tunnel);
                    let mut tunnel = frames.last().unwrap().clone();
                    let one = packet(&tunnel).unwrap();
                    assert_eq!((one.source, one.source_mac), (ip(OWN[outer]), NIC_MAC));
                    assert_eq!(one.ports.unwrap().1, GUE);
                    let carried = query(THEIRS[inner])[14..].to_vec();
                    assert!(tunnel.ends_with(&carried), "{tunnel:02x?}");

                    // The same as the other member would send it, with a client of ours.
                    let gue = tunnel.len() - carried.len() - 8;
                    tunnel[gue + 5] = 1;
                    let header: [u8; 8] = tunnel[gue..gue + 8].try_into().unwrap();
                    let packet_of_ours = query(OURS[inner])[14..].to_vec();
                    let payload = [&header[..], &packet_of_ours].concat();
                    let ends = ((ip(MEMBER[outer]), 50_000), (ip(OWN[outer]), GUE));
                    let mut tunnel = udp(NIC_MAC, ends.0, ends.1, &payload);
                    // Members send no checksum.
                    let checksum = tunnel.len() - payload.len() - 2;
                    tunnel[checksum..checksum + 2].fill(0);
                    wire.send(&tunnel);
                    let mut buffer = [0; 64];
                    let (len, from) = service.recv_from(&mut buffer).unwrap();
                    assert_eq!((&buffer[..len], from.ip()), (&b"query"[..], ip(OURS[inner])));
                    service.send_to(b"response", from).unwrap();
                    wire.frames_until("answer", |frame| {
                        packet(frame).is_some_and(|one| {
                            (one.source, one.destination) == (vip, ip(OURS[inner]))
                        })
                    });
                }
                let counts = [Count::ForwardedSteered, Count::Decapsulated, Count::Passed];
                // A frame is counted a moment after it is the host's.
                until("the counts", || counts.iter().all(|&count| counters.get(count) == 2));
            });
        });
    }
}
