//! The service: a socket, and a thread that reads it.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};
use vipdp_io::affinity;

use super::ways::PAYLOAD;

/// Datagrams, or runs of them, taken by one call.
const BATCH: usize = 64;
/// Datagrams of a run at most.
const RUN_MAX: usize = 128;
/// Bytes that may wait: some tens of milliseconds' worth.
const BUFFER: usize = 64 << 20;
/// How long it rests when there is nothing: nobody waits in a system call, so that a packet wakes nobody.
const REST: Duration = Duration::from_micros(100);

/// The thread; it ends when this is dropped.
pub(super) struct Reader {
    read: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    pub(super) fn start(core: usize, gro: bool) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).context("cannot bind port 53")?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("no receive buffer")?;
        setsockopt(&socket, sockopt::UdpGroSegment, &gro).context("no UDP_GRO")?;
        let (read, end) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let room = if gro { RUN_MAX * PAYLOAD } else { PAYLOAD };
        let (counter, flag) = (Arc::clone(&read), Arc::clone(&end));
        let thread = thread::spawn(move || {
            // On another core the figure would mean something else.
            affinity::pin(core).expect("the reading core");
            take(&socket, room, &counter, &flag);
        });
        Ok(Self { read, end, thread: Some(thread) })
    }

    /// How many datagrams have been read.
    pub(super) fn read(&mut self) -> u64 {
        self.read.load(Relaxed)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has said why it panicked.
            let _ = thread.join();
        }
    }
}

fn take(socket: &UdpSocket, room: usize, read: &AtomicU64, end: &AtomicBool) {
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let mut buffer = vec![0; BATCH * room];
    while !end.load(Relaxed) {
        let mut slices: Vec<_> =
            buffer.chunks_mut(room).map(|part| [IoSliceMut::new(part)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
            // All of one length, so that a run's says how many it is of.
            Ok(received) => {
                let datagrams = received.map(|one| one.bytes.div_ceil(PAYLOAD) as u64);
                read.fetch_add(datagrams.sum(), Relaxed);
            }
            Err(_) => thread::sleep(REST),
        }
    }
}
