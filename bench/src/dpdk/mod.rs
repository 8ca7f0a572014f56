//! The worker over DPDK: what it adds to what the driver takes, and what a cable gives it beside AF_XDP.
//!
//! ```text
//!   null    net_null0 --> DpdkPort --> worker --> nowhere, net_null0, or a host that counts
//!                                                                         beside: receive, transmit
//!
//!   cable   vdd-PID-gen                     vdd-PID-node
//!           pktgen      eth0 ------ eth0    af-xdp         AfXdpPort --> worker --> a host that counts
//!                                           net-af-xdp     DpdkPort  --> ...
//!           generator's core                net-af-packet  DpdkPort  --> ...       receiver's core
//! ```

mod cable;
mod null;
mod report;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::time::{ClockId, clock_gettime};
use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::flow::FlowTable;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::port::{Host, Refused, SuperPackets, Taken};
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::snapshot::{Holding, Holdings, Ingress, Service, SharedMac, Snapshot, Vips};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::wire::vnet::Offload;
use vipdp_core::worker::Shared;

pub use report::Report;

/// The service address.
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
/// Where it is served.
const PORT: u16 = 53;
/// The first client.
const CLIENT_FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// What the service address resolves to.
const SHARED_MAC: MacAddr = MacAddr([0x02, 0x00, 0x5e, 0, 0, 0x4d]);
/// The node's own.
const OWN_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 2]);

/// Measures the worker over DPDK's virtual devices: what it takes beside bare forwarding, and what it
/// receives from a cable beside AF_XDP.
#[derive(Clone, Debug, Parser)]
#[command(name = "dpdk", version)]
pub struct Options {
    #[command(subcommand)]
    what: What,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Frames from nowhere to nowhere: bare forwarding and the worker, in turns.
    Null(null::Options),
    /// Frames of a generator over a veth pair, by each port in turn. Needs two cores.
    Cable(cable::Options),
    /// One turn of `cable`, which starts it in the node's namespace.
    #[command(hide = true)]
    Turn(cable::Turn),
}

/// Measures. Ends early when DPDK, the kernel or the machine lacks something.
///
/// # Errors
/// Whatever is lacking.
pub fn run(options: &Options) -> Result<Option<Report>> {
    match &options.what {
        What::Null(options) => null::run(options).map(Some),
        What::Cable(options) => cable::run(options).map(Some),
        What::Turn(turn) => cable::take_turn(turn).map(|()| None),
    }
}

/// Counts what it is handed, and has nothing to send.
#[derive(Debug, Default)]
struct Counting {
    delivered: u64,
}

impl Host for Counting {
    fn deliver(&mut self, _offload: Offload, _pieces: &[&[u8]]) -> Result<(), Refused> {
        self.delivered += 1;
        Ok(())
    }

    fn take(&mut self, _buffer: &mut [u8]) -> Option<Taken> {
        None
    }

    fn super_packets(&self) -> SuperPackets {
        SuperPackets::NONE
    }
}

/// The buckets that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// None.
    Nothing,
    /// It owns one in so many.
    OneIn(usize),
    /// It hands all of them over to a member.
    Granted,
}

/// What a worker knows of a node that holds these.
fn snapshot(held: Held) -> Snapshot {
    let owned: BucketSet = match held {
        Held::OneIn(every) => Bucket::all().step_by(every).collect(),
        Held::Nothing | Held::Granted => BucketSet::default(),
    };
    let mut holdings = Holdings::owning(&owned);
    let member = Slot::all().next().expect("there are some");
    if held == Held::Granted {
        Bucket::all().for_each(|bucket| holdings.set(bucket, Holding::Granted(member)));
    }
    let mut peer_macs = [None; SLOTS];
    // As it came: what `null` transmits comes again from the same buffer.
    peer_macs[member.index()] = Some(SHARED_MAC);
    let service = Service {
        sticky_udp_ports: [443].into(),
        peer_macs,
        ..Service::new(
            Vips::new([IpAddr::from(VIP).into()]),
            ClientHash::new([0x5a; 16], HashInput::Address),
            Ingress::SharedMac(SharedMac::unicast(SHARED_MAC)),
            OWN_MAC,
            // For the same reason.
            SHARED_MAC,
        )
    };
    Snapshot::serving(service, holdings)
}

fn shared(held: Held) -> Shared {
    Shared::new(snapshot(held), FlowTable::new(1 << 16, [1, 2]))
}

fn now_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).expect("every Linux has it");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
