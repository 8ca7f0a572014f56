//! vipdp's worker by itself: with its XDP program and its AF_XDP socket, and with a host that throws away what it is
//! handed. So what the worker does for a connection is not hidden behind what the host does.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::port::memory::MemoryPort;
use vipdp_core::port::{BURST, Host, Refused, SuperPackets, Taken};
use vipdp_core::wire::vnet;
use vipdp_core::worker::{Shared, Worker};
use vipdp_io::affinity;
use vipdp_io::link::Link;

use super::lab::{CLIENT_FIRST, VIP};
use super::part;
use super::receive::{self, Options, SHARED_MAC, TapHost};
use super::rows::{Poll, Row};
use super::socket::{FRAME_LEN, PORT};
use crate::pktgen::{Common, Template, Traffic};

/// The first source port of the generator's.
const PORT_FIRST: u16 = 1024;

/// vipdp's worker, whose host throws away what it is handed.
pub(super) fn run(options: &Options) -> Result<()> {
    let link = Link::read(&options.interface)?;
    let mut program = receive::attach(options)?;
    let host = TapHost::make(options, Poll::Busy, None)?;
    let service = receive::service(&link, host.settings.tap(), options.row.owned.nodes());
    let shared = receive::shared(options.row, &service, &receive::holdings(options.row.owned, 0));
    let port = receive::open(options, Poll::Busy, &host.settings, 0)?;
    program.bind(0, &port)?;
    open_flows(options.row, &shared, &link)?;
    let counters = Arc::<WorkerCounters>::default();
    let mut worker = Worker::new(port, Nobody, shared, Arc::clone(&counters));
    let (core, stop) = (options.core(), Arc::<AtomicBool>::default());
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || -> Result<()> {
        affinity::pin(core)?;
        while !stopped.load(Relaxed) {
            worker.poll_once(monotonic_ns());
        }
        Ok(())
    });
    let served = part::serve(|_| receive::report(std::slice::from_ref(&counters), &program));
    stop.store(true, Relaxed);
    thread.join().map_err(|_| anyhow::anyhow!("the worker ended in a panic"))??;
    drop(host);
    served
}

/// A host that has room for everything, and forgets it.
struct Nobody;

impl Host for Nobody {
    fn deliver(
        &mut self,
        _offload: vnet::Offload,
        _pieces: &[&[u8]],
    ) -> std::result::Result<(), Refused> {
        Ok(())
    }

    fn take(&mut self, _buffer: &mut [u8]) -> Option<Taken> {
        None
    }

    fn super_packets(&self) -> SuperPackets {
        SuperPackets::NONE
    }
}

/// Has a worker see the request of every connection of the row, so that the table holds them all.
fn open_flows(row: &Row, shared: &Shared, link: &Link) -> Result<()> {
    let common = Common {
        source_mac: link.mac,
        destination_mac: SHARED_MAC,
        port_first: PORT_FIRST,
        port: PORT,
        frame_len: FRAME_LEN,
    };
    let vip: IpAddr = VIP.parse().context("an address")?;
    let templates = Template::of(Traffic::Syn, &common, CLIENT_FIRST.into(), vip)?;
    let template = templates.first().context("a template")?;
    let mut frame = template.bytes.clone();
    let counters = Arc::<WorkerCounters>::default();
    let port = MemoryPort::new(BURST);
    let mut worker = Worker::new(port, Nobody, shared.clone(), Arc::clone(&counters));
    let requests =
        (0..row.ports).flat_map(|port| (0..row.clients).map(move |client| (client, port)));
    for (number, (client, port)) in requests.enumerate() {
        template.fill(client, PORT_FIRST + port as u16, &mut frame);
        worker.port_mut().arrive(&frame);
        if number % BURST == BURST - 1 {
            worker.poll_once(monotonic_ns());
        }
    }
    worker.poll_once(monotonic_ns());
    let opened = counters.get(Count::FlowsInserted);
    let flows = row.flow_count();
    ensure!(opened == flows, "{opened} connections are open, not {flows}");
    Ok(())
}

/// The monotonic clock, nanoseconds.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
