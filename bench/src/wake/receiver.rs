//! Who is woken.

use std::fs;
use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver as Queue, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::cmsg_space;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use vipdp_core::port::{BURST, Port as _};
use vipdp_core::prefix::Prefix;
use vipdp_io::af_xdp::{AfXdpPort, Options};
use vipdp_io::affinity;
use vipdp_io::xdp::{AttachMode, NextHops, Program};

use super::lab::{INTERFACE, Lab, PORT, VIP};

/// What a probe begins with.
const MAGIC: [u8; 4] = *b"wake";
/// Bytes of a probe: what it begins with, its number, and when it was sent.
const PROBE_LEN: usize = 16;
/// How often a receiver that nothing comes to looks whether it is to end.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// Who is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// A thread in recvmsg(2).
    Udp,
    /// A thread in poll(2) on an AF_XDP socket.
    AfXdp,
    /// vipdp's worker.
    Vipdp,
}

/// A probe that has arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Its number.
    pub(super) number: u32,
    /// From its way out until it was delivered, nanoseconds.
    pub(super) delivered_ns: u64,
    /// Until the service had read it.
    pub(super) read_ns: u64,
}

/// A receiver, ended when dropped.
#[derive(Debug)]
pub(super) struct Receiver {
    samples: Queue<Sample>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    vipdp: Option<(Child, PathBuf)>,
}

impl Receiver {
    /// Starts it in the node's namespace, on `core`.
    pub(super) fn start(case: Case, lab: &Lab, program: &Path, core: usize) -> Result<Self> {
        let (to, samples) = channel();
        let stop = Arc::<AtomicBool>::default();
        let mut receiver = Self { samples, stop: Arc::clone(&stop), thread: None, vipdp: None };
        if case == Case::Vipdp {
            let process = lab.vipdp(program, core)?.spawn().context("cannot start vipdp")?;
            receiver.vipdp = Some((process, lab.log()));
        }
        let thread = if case == Case::AfXdp {
            let (program, port) = lab.in_node(open_port)?;
            thread::spawn(move || by_af_xdp(program, port, core, &to, &stop))
        } else {
            let socket = lab.in_node(open_socket)?;
            let by_tap = case == Case::Vipdp;
            thread::spawn(move || by_socket(&socket, by_tap, core, &to, &stop))
        };
        receiver.thread = Some(thread);
        Ok(receiver)
    }

    /// vipdp's process, where it is one. `ip netns exec` has become it by the time the first probe arrives.
    pub(super) fn pid(&self) -> Option<u32> {
        self.vipdp.as_ref().map(|(process, _)| process.id())
    }

    /// The next probe that arrives.
    pub(super) fn next(&self, patience: Duration) -> Result<Sample, RecvTimeoutError> {
        self.samples.recv_timeout(patience)
    }

    /// What it has to say about itself.
    pub(super) fn complaint(&self) -> String {
        let log = self.vipdp.as_ref().and_then(|(_, path)| fs::read_to_string(path).ok());
        log.unwrap_or_default()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => eprintln!("the receiver: {error:#}"),
            Some(Err(_)) => eprintln!("the receiver ended in a panic"),
        }
        if let Some((process, _)) = &mut self.vipdp {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM);
            let _ = process.wait();
        }
    }
}

fn open_socket() -> Result<UdpSocket> {
    // Any address: the service address may not be there yet.
    let socket = UdpSocket::bind(("0.0.0.0", PORT)).context("no socket for the service")?;
    socket.set_read_timeout(Some(LOOKS_EVERY)).context("no time limit")?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context("no time stamps")?;
    Ok(socket)
}

fn by_socket(
    socket: &UdpSocket,
    by_tap: bool,
    core: usize,
    to: &Sender<Sample>,
    stop: &AtomicBool,
) -> Result<()> {
    affinity::pin(core)?;
    let mut bytes = [0; 64];
    let mut space = cmsg_space!(TimeSpec);
    while !stop.load(Relaxed) {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::empty();
        let received =
            recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags);
        let read_ns = realtime_ns();
        let Ok(received) = received else { continue };
        let stamp = received.cmsgs().context("no time stamp")?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(ns(at)),
            _ => None,
        });
        let len = received.bytes;
        let at_ns = if by_tap { stamp.context("no time stamp")? } else { read_ns };
        tell(&bytes[..len], at_ns, read_ns, to);
    }
    Ok(())
}

fn open_port() -> Result<(Program, AfXdpPort)> {
    let vips: [Prefix; 1] = [std::net::IpAddr::V4(VIP).into()];
    let mut program = Program::attach(INTERFACE, AttachMode::Native, &vips, &NextHops::default())?;
    let port = AfXdpPort::open(&Options::new(INTERFACE, 0))?;
    program.bind(0, &port)?;
    Ok((program, port))
}

fn by_af_xdp(
    program: Program,
    mut port: AfXdpPort,
    core: usize,
    to: &Sender<Sample>,
    stop: &AtomicBool,
) -> Result<()> {
    affinity::pin(core)?;
    let mut burst = Vec::with_capacity(BURST);
    while !stop.load(Relaxed) {
        port.wait(LOOKS_EVERY, None).context("cannot wait")?;
        port.rx_burst(&mut burst);
        let at_ns = realtime_ns();
        for frame in burst.drain(..) {
            tell(port.bytes(&frame), at_ns, at_ns, to);
            port.recycle(frame);
        }
        port.housekeeping();
    }
    drop(program);
    Ok(())
}

/// Sends a probe.
pub(super) fn send(socket: &UdpSocket, number: u32) -> Result<()> {
    let mut bytes = [0; PROBE_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..].copy_from_slice(&realtime_ns().to_be_bytes());
    let sent = socket.send(&bytes).context("cannot send a probe")?;
    ensure!(sent == PROBE_LEN, "{sent} bytes of a probe were sent");
    Ok(())
}

/// Tells of a probe that has arrived at the end of `bytes`, if one has.
fn tell(bytes: &[u8], at_ns: u64, read_ns: u64, to: &Sender<Sample>) {
    let Some((_, probe)) = bytes.split_last_chunk::<PROBE_LEN>() else { return };
    let [m0, m1, m2, m3, n0, n1, n2, n3, sent @ ..] = *probe;
    if [m0, m1, m2, m3] != MAGIC {
        return;
    }
    let sent_ns = u64::from_be_bytes(sent);
    let since = |at_ns: u64| at_ns.saturating_sub(sent_ns);
    let number = u32::from_be_bytes([n0, n1, n2, n3]);
    // Nobody listens at the very end.
    let _ = to.send(Sample { number, delivered_ns: since(at_ns), read_ns: since(read_ns) });
}

/// The clock of the kernel's time stamps.
fn realtime_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, ns)
}

fn ns(at: TimeSpec) -> u64 {
    at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64
}
