//! The service: the owner of the socket that accepted packets come to, and of that for packets which say when they
//! were sent: probes.
//!
//! It takes datagrams by the batch and rests for half a millisecond when there are none: nobody waits in a
//! system call, so that a packet wakes nobody, as with a server under load.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use vipdp_io::affinity;

use super::part;
use super::statistics::percentile;

/// The port that the load goes to.
pub const PORT: u16 = 53;
/// The port that probes go to: pktgen sends them to the next one.
const PROBE_PORT: u16 = PORT + 1;

/// Datagrams taken by one call.
const BATCH: usize = 64;
/// Bytes of a datagram of the load: what a frame of [`FRAME_LEN`] leaves beside the headers of Ethernet, IPv4 and UDP.
const DATAGRAM: usize = FRAME_LEN - 14 - 20 - 8;
/// Bytes of the load's frames.
pub const FRAME_LEN: usize = 100;
/// Datagrams that the kernel takes for one at most (`UDP_MAX_SEGMENTS`, Linux, include/linux/udp.h).
const RUN_MAX: usize = 128;
/// Bytes that may wait: at a million a second, some tens of milliseconds' worth.
const BUFFER: usize = 64 << 20;
/// How long it rests when there is nothing.
const REST: Duration = Duration::from_micros(500);

/// The hidden subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The core to run on.
    #[arg(long)]
    core: usize,
    /// Take runs of a flow as one (UDP_GRO).
    #[arg(long)]
    gro: bool,
}

/// What it has taken in.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Datagrams of the load.
    pub read: u64,
    /// Probes since the report before.
    pub probes: u64,
    /// How long half of these took at most, nanoseconds.
    pub p50_ns: Option<u64>,
    /// How long all but one in a hundred of them took at most, nanoseconds.
    pub p99_ns: Option<u64>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    affinity::pin(options.core)?;
    let load = bound(PORT)?;
    let probes = bound(PROBE_PORT)?;
    setsockopt(&load, sockopt::UdpGroSegment, &options.gro).context("no UDP_GRO")?;
    let room = if options.gro { RUN_MAX * DATAGRAM } else { DATAGRAM };
    let read = Arc::<AtomicU64>::default();
    let latencies = Arc::<Mutex<Vec<u64>>>::default();
    let (counter, list) = (Arc::clone(&read), Arc::clone(&latencies));
    thread::spawn(move || {
        // The process ends with its socket, if ever.
        if let Err(error) = take_load(&load, room, &counter) {
            eprintln!("the service's socket: {error}");
            std::process::exit(1);
        }
    });
    thread::spawn(move || take_probes(&probes, &list));
    part::serve(|_| {
        let mut latencies =
            std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
        latencies.sort_unstable();
        Ok(Report {
            read: read.load(Relaxed),
            probes: latencies.len() as u64,
            p50_ns: percentile(&latencies, 0.5),
            p99_ns: percentile(&latencies, 0.99),
        })
    })
}

fn bound(port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
        .with_context(|| format!("cannot bind port {port}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("no receive buffer")?;
    Ok(socket)
}

/// Takes the load's datagrams for ever, `room` bytes of them at once.
fn take_load(socket: &UdpSocket, room: usize, read: &AtomicU64) -> Result<()> {
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let mut buffer = vec![0; BATCH * room];
    let flags = MsgFlags::MSG_DONTWAIT;
    loop {
        let mut slices: Vec<_> =
            buffer.chunks_mut(room).map(|part| [IoSliceMut::new(part)]).collect();
        match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
            Ok(received) => {
                // All of one length, so that a run's says how many it is of.
                let datagrams = received.map(|it| it.bytes.div_ceil(DATAGRAM) as u64);
                read.fetch_add(datagrams.sum(), Relaxed);
            }
            Err(Errno::EAGAIN) => thread::sleep(REST),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes probes for ever, and notes how long each took.
fn take_probes(socket: &UdpSocket, latencies: &Mutex<Vec<u64>>) {
    let mut sent_ns = [0; 8];
    // What is beyond the stamp is cut off.
    while socket.recv(&mut sent_ns).is_ok() {
        let latency = now_ns().saturating_sub(u64::from_be_bytes(sent_ns));
        latencies.lock().unwrap_or_else(PoisonError::into_inner).push(latency);
    }
}

/// The monotonic clock, which the stamps are of, nanoseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
