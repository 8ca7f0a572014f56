//! Probes: datagrams that say when they were sent, among the load and on the same way.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use vipdp_io::affinity;

use super::lab::{CLIENT_FIRST, VIP};
use super::part;
use super::rows::CLIENTS;
use super::socket::PROBE_PORT;

/// Clients that probe, spread over all of them: some are this node's, whoever divides them.
const PROBERS: u32 = 64;
/// From one client to the next: no power of two, so that the last bits of the addresses differ.
const STEP: u32 = CLIENTS / PROBERS - 1;
/// Time between two probes.
const INTERVAL: Duration = Duration::from_micros(250);

/// The hidden subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The core to run on.
    #[arg(long)]
    core: usize,
    /// How many probes to send.
    #[arg(long)]
    count: u32,
}

/// The monotonic clock, nanoseconds.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// How many probes there are in so many seconds, at most.
pub(super) fn probes_in(seconds: f64) -> u32 {
    (seconds / INTERVAL.as_secs_f64()) as u32
}

pub(super) fn run(options: &Options) -> Result<()> {
    affinity::pin(options.core)?;
    let vip: Ipv4Addr = VIP.parse()?;
    let sockets = (0..PROBERS)
        .map(|number| {
            let client = Ipv4Addr::from_bits(CLIENT_FIRST.to_bits() + number * STEP);
            let socket = UdpSocket::bind(SocketAddrV4::new(client, 0))
                .with_context(|| format!("no socket of {client}"))?;
            socket.connect(SocketAddrV4::new(vip, PROBE_PORT))?;
            Ok(socket)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut sent = 0u32;
    for socket in sockets.iter().cycle().take(options.count as usize) {
        // What is not sent does not arrive, and is no latency.
        sent += u32::from(socket.send(&now_ns().to_be_bytes()).is_ok());
        thread::sleep(INTERVAL);
    }
    part::say(&sent)
}
