//! A NIC's queue pair as a [`Port`], by an AF_XDP socket.
//!
//! One socket has one umem and four rings. Frames travel by descriptors only:
//!
//! ```text
//!                 +------------------------- worker -------------------------+
//!                 |  rx_burst       tx_burst      housekeeping   housekeeping|
//!                 +-----^--------------|---------------^--------------|------+
//!                       |              v               |              v
//!                   rx ring         tx ring     completion ring   fill ring
//!                       |              |               ^              |
//!                 +-----|--------------v---------------|--------------v------+
//!                 |                  kernel, driver of the queue             |
//!                 +----------------------------------------------------------+
//! ```
//!
//! What the kernel takes from the fill ring it gives back on the receive ring, and from the
//! transmit ring on the completion ring; the two circles meet only in our free list. Who owns a
//! frame when, and how that is enforced, stands in `umem.rs`.
//!
//! The rings are those of the crate `xdpilone`. It maps the fill ring before the socket is bound,
//! so that the driver finds frames in it from its first look on: a zero-copy driver that finds
//! none when the socket is bound may never look again (igb does not).
//!
//! **Waking.** The socket is bound with `XDP_USE_NEED_WAKEUP`. The kernel raises a flag in the fill
//! or transmit ring when it has to be called to go on: one call per burst then. In copy mode the
//! transmit ring's flag is always up, since the call itself does the transmitting.
//!
//! **Busy polling.** With [`Options::busy_poll`] a call of each turn runs the driver's receive side, as soon as less
//! than a burst waits on the receive ring: what it brings beyond what the worker takes would be brought in
//! vain. With [`BusyPoll::UnderLoad`] it does so while it is [told to](AfXdpPort::drive). Before its worker
//! sleeps it [hands the receive side back](AfXdpPort::rest) to the kernel:
//!
//! ```text
//!   worker                              kernel (net/core/dev.c)
//!   recvfrom, preferring to poll        polls; interrupts stay off, the timer is armed: 200 us
//!   ... nothing more ...
//!   recvfrom, not preferring to poll    polls; nothing there: interrupts on. Or frames: they are on the ring, or
//!                                       more than a budget: the kernel goes on by itself
//!   poll()                              sleeps, unless there are frames on the ring
//! ```
//!
//! So whatever comes after the last look finds interrupts on, or a timer that is armed while nobody holds the receive
//! side: no frame waits for a worker that sleeps.
//!
//! Where the kernel does not know which receive side is the socket's, none of this has an effect, and the port
//! leaves it ([`AfXdpPort::can_busy_poll`]).

mod options;
mod socket;
mod umem;
mod whole;

use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno as NixErrno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vipdp_core::port::{BURST, Port, TxWhole};
use vipdp_core::wire::vnet::Offload;
use xdpilone::xdp::XdpDesc;
use xdpilone::{DeviceQueue, Errno, IfInfo, RingRx, RingTx, SocketConfig, UmemConfig, User};

pub use options::{BusyPoll, OpenError, Options, ZeroCopy};
pub use umem::{Accounting, FRAME_LEN_MAX, Frame, Owner, Violation};

use crate::deferral::Deferral;
use socket::Drive;
use umem::{CHUNK, Umem};
use whole::WholeSender;

/// Longest sleep while frames wait on the transmit ring: they leave only when we call the kernel
/// again. 1 ms, the least that poll(2) can wait.
const TX_PENDING_WAIT: Duration = Duration::from_millis(1);

/// Calls that hand the receive side back. One leaves interrupts on if it finds no frame, or one more than the kernel was told
/// to wait for; with the second it does not matter what the first has found.
const HAND_BACK_CALLS: usize = 2;

/// One queue pair of a NIC, by AF_XDP.
pub struct AfXdpPort {
    rx: RingRx,
    tx: RingTx,
    /// Fill ring and completion ring.
    queue: DeviceQueue,
    /// The bound socket, for its statistics.
    user: User,
    /// After the rings, so that it outlives them.
    umem: Umem,
    zero_copy: bool,
    polling: Polling,
    /// Frames on the receive ring that are half of it.
    behind_at: u32,
    /// Frames that are with the receive side at most.
    receiving_max: usize,
    /// What super-packets go by, if they may.
    whole: Option<WholeSender>,
    wakeups: Wakeups,
}

/// When the port runs the driver's receive side.
#[derive(Debug)]
enum Polling {
    Never,
    UnderLoad(UnderLoad),
    Always,
}

/// A port that is told when to run it.
#[derive(Debug)]
struct UnderLoad {
    /// Whether it has asked that interrupts be put off.
    has_asked: bool,
    /// Whether its calls run the receive side.
    is_on: bool,
    deferral: Deferral,
}

/// What an [`AfXdpPort`] lost, and how often it called the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames dropped for another reason than a full receive ring: longer than [`FRAME_LEN_MAX`], or,
    /// in copy mode, no frame on the fill ring to copy them to.
    pub rx_dropped: u64,
    /// Descriptors of the fill ring that the kernel could not use: a fault of ours.
    pub rx_invalid_descs: u64,
    /// Descriptors of the transmit ring that the kernel could not use: a fault of ours.
    pub tx_invalid_descs: u64,
    /// Frames dropped since the receive ring was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// How often the kernel found the fill ring empty. In copy mode that loses a frame, which
    /// `rx_dropped` counts too.
    pub fill_ring_empty: u64,
    /// How often the kernel found the transmit ring empty: no loss.
    pub tx_ring_empty: u64,
    /// The calls that woke the kernel.
    pub wakeups: Wakeups,
}

/// How often the kernel was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakeups {
    /// For the receive side.
    pub rx: u64,
    /// For the transmit side.
    pub tx: u64,
    /// Calls of either kind that failed: the interface is down or gone.
    pub failed: u64,
}

/// What [`AfXdpPort::wait`] woke up for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Frames are on the receive ring.
    pub port: bool,
    /// The other descriptor can be read.
    pub also: bool,
}

impl AfXdpPort {
    /// Opens a socket on one queue of an interface. Frames arrive once it is
    /// [bound](crate::xdp::Program::bind) in the XDP program; transmitting works without one.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is left behind.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        options.check()?;
        let interface = interface(options)?;
        let mut umem = Umem::new(options.frames)
            .map_err(|source| OpenError::Memory { frames: options.frames, source })?;
        let config = UmemConfig {
            fill_size: options.fill_ring,
            complete_size: options.tx_ring,
            frame_size: CHUNK as u32,
            headroom: 0,
            flags: 0,
        };
        // SAFETY: the memory is a page-aligned mapping of whole chunks. `umem` goes into the port
        // beside the rings and is declared, thus dropped, after them.
        let registered = unsafe { xdpilone::Umem::new(config, umem.memory()) }
            .map_err(at("registering the umem"))?;
        let shared = xdpilone::Socket::with_shared(&interface, &registered)
            .map_err(at("asking for the network namespace"))?;
        socket::close_on_exec(&shared)
            .map_err(|source| OpenError::Socket { step: "closing it on exec", source })?;
        let mut queue =
            registered.fq_cq(&shared).map_err(at("making the fill and completion rings"))?;
        let receiving_max = (options.frames - options.tx_ring) as usize;
        refill(&mut umem, &mut queue, receiving_max);

        let mode = match options.zero_copy {
            // With neither mode demanded the kernel tries zero-copy, then copies.
            ZeroCopy::Auto => 0,
            ZeroCopy::Off => SocketConfig::XDP_BIND_COPY,
        };
        let config = SocketConfig {
            rx_size: NonZeroU32::new(options.rx_ring),
            tx_size: NonZeroU32::new(options.tx_ring),
            bind_flags: SocketConfig::XDP_BIND_NEED_WAKEUP | mode,
        };
        let user = registered
            .rx_tx(&shared, &config)
            .map_err(at("making the receive and transmit rings"))?;
        let rx = user.map_rx().map_err(at("mapping the receive ring"))?;
        let tx = user.map_tx().map_err(at("mapping the transmit ring"))?;
        registered.bind(&user).map_err(|error| bind_error(options, &error))?;

        let step = "making a packet socket for super-packets";
        let whole = options.whole.then(|| WholeSender::open(interface.ifindex())).transpose();
        let mut port = Self {
            rx,
            tx,
            queue,
            user,
            umem,
            zero_copy: false,
            polling: Polling::Never,
            behind_at: options.rx_ring / 2,
            receiving_max,
            whole: whole.map_err(|source| OpenError::Socket { step, source })?,
            wakeups: Wakeups::default(),
        };
        let step = "asking for its mode";
        port.zero_copy = socket::is_zero_copy(port.as_fd())
            .map_err(|source| OpenError::Socket { step, source })?;
        port.set_up_polling(options).map_err(|source| OpenError::Socket {
            step: "preferring busy polling, which needs CAP_NET_ADMIN and Linux 5.11",
            source,
        })?;
        Ok(port)
    }

    fn set_up_polling(&mut self, options: &Options) -> io::Result<()> {
        if options.busy_poll == BusyPoll::Never {
            return Ok(());
        }
        // Refused here rather than under load.
        socket::set_drive(self.as_fd(), Drive::On)?;
        socket::set_budget(self.as_fd())?;
        self.polling = match &options.busy_poll {
            BusyPoll::UnderLoad(deferral) => {
                socket::set_drive(self.as_fd(), Drive::Off)?;
                let deferral = deferral.clone();
                Polling::UnderLoad(UnderLoad { is_on: false, has_asked: false, deferral })
            }
            BusyPoll::Never | BusyPoll::Always => Polling::Always,
        };
        Ok(())
    }

    /// Whether busy polling has an effect: the kernel knows which receive side the frames come from. Before the first
    /// frame it may not know yet.
    pub fn can_busy_poll(&self) -> bool {
        socket::knows_driver(self.as_fd())
    }

    /// Whether the NIC moves frames to and from the umem by itself.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Where the port's frames are: free, receiving, transmitting and held are always the total.
    pub fn accounting(&self) -> Accounting {
        self.umem.accounting()
    }

    /// The kernel's counters of the socket, and our own of the calls. One system call.
    ///
    /// # Errors
    /// The kernel refuses, which it does not do for an open socket.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let kernel = self.user.statistics_v2().map_err(|error| from_errno(&error))?;
        Ok(Statistics {
            rx_dropped: kernel.rx_dropped,
            rx_invalid_descs: kernel.rx_invalid_descs,
            tx_invalid_descs: kernel.tx_invalid_descs,
            rx_ring_full: kernel.rx_ring_full,
            fill_ring_empty: kernel.rx_fill_ring_empty_descs,
            tx_ring_empty: kernel.tx_ring_empty_descs,
            wakeups: self.wakeups,
        })
    }

    /// Sleeps until frames have come, `also` can be read, `timeout` is over (rounded up to whole
    /// milliseconds) or a signal came. While frames wait on the transmit ring it sleeps 1 ms at
    /// most; turn by turn [`housekeeping`](Port::housekeeping) gets them out.
    ///
    /// # Errors
    /// poll(2) failed: no memory.
    pub fn wait(&self, timeout: Duration, also: Option<BorrowedFd<'_>>) -> io::Result<Ready> {
        let timeout = if self.is_sending() { timeout.min(TX_PENDING_WAIT) } else { timeout };
        let timeout = Duration::from_millis(timeout.as_micros().div_ceil(1000) as u64);
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let count = if also.is_some() { 2 } else { 1 };
        let also = also.unwrap_or(self.as_fd());
        let mut both = [self.as_fd(), also].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut both[..count], timeout) {
            Ok(_) => {}
            Err(NixErrno::EINTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        Ok(Ready { port: ready(&both[0]), also: count == 2 && ready(&both[1]) })
    }

    /// Has the port run the driver's receive side from now on, or the kernel: with [`BusyPoll::UnderLoad`]. Nothing but
    /// a comparison where it is so already. Returns whether the port does: where it
    /// [cannot](Self::can_busy_poll), once there is load, the kernel goes on for good.
    pub fn drive(&mut self, by_port: bool) -> bool {
        let Polling::UnderLoad(UnderLoad { is_on, has_asked, .. }) = self.polling else {
            return self.drives();
        };
        if is_on == by_port && has_asked == by_port {
            return by_port;
        }
        if by_port && !has_asked && !self.can_busy_poll() {
            self.polling = Polling::Never;
            return false;
        }
        let Polling::UnderLoad(UnderLoad { is_on, has_asked, deferral }) = &mut self.polling else {
            return false;
        };
        if *has_asked != by_port {
            *has_asked = by_port;
            if by_port { deferral.ask() } else { deferral.release() }
        }
        if std::mem::replace(is_on, by_port) != by_port {
            if by_port {
                let on = socket::set_drive(self.as_fd(), Drive::On);
                self.wakeups.failed += u64::from(on.is_err());
            } else {
                self.hand_back();
            }
        }
        by_port
    }

    /// Whether half of the receive ring, or more, waits to be taken.
    pub fn is_behind(&self) -> bool {
        self.rx.available() >= self.behind_at
    }

    /// To be called before [`wait`](Self::wait): hands the receive side back to the kernel until the next
    /// [`drive`](Self::drive), if the port has run it or interrupts are put off on behalf of another queue's. Frames that it
    /// meets come onto the receive ring.
    pub fn rest(&mut self) {
        let Polling::UnderLoad(state) = &mut self.polling else { return };
        if std::mem::take(&mut state.is_on) || state.deferral.is_on() {
            self.hand_back();
        }
    }

    fn hand_back(&mut self) {
        let back = socket::set_drive(self.as_fd(), Drive::HandBack);
        for _ in 0..HAND_BACK_CALLS {
            self.wake_rx();
        }
        let off = socket::set_drive(self.as_fd(), Drive::Off);
        self.wakeups.failed += u64::from(back.is_err()) + u64::from(off.is_err());
    }

    /// Whether the port runs the driver's receive side.
    fn drives(&self) -> bool {
        match &self.polling {
            Polling::Never => false,
            Polling::UnderLoad(state) => state.is_on,
            Polling::Always => true,
        }
    }

    /// Whether frames wait on the transmit ring: the kernel has not taken them yet.
    pub fn is_sending(&self) -> bool {
        self.tx.pending() > 0
    }

    /// Takes back what was transmitted.
    fn reap(&mut self) {
        // Never more than the whole ring, which bounds the loop.
        let mut done = self.queue.complete(u32::MAX);
        while let Some(start) = done.read() {
            if let Err(violation) = self.umem.completed(start) {
                stop(&violation);
            }
        }
        done.release();
    }

    /// Has the kernel take what is on the transmit ring, which one call does for 32 frames in copy mode.
    fn flush(&mut self) {
        let mut pending = self.tx.pending();
        while pending > 0 && self.tx.needs_wakeup() {
            self.wake_tx();
            let left = self.tx.pending();
            if left >= pending {
                break;
            }
            pending = left;
        }
    }

    fn wake_rx(&mut self) {
        self.wakeups.rx += 1;
        self.wakeups.failed += u64::from(socket::wake_rx(self.as_fd()).is_err());
    }

    fn wake_tx(&mut self) {
        self.wakeups.tx += 1;
        self.wakeups.failed += u64::from(socket::wake_tx(self.as_fd()).is_err());
    }
}

impl Drop for AfXdpPort {
    /// Interrupts are not put off for a port that is gone.
    fn drop(&mut self) {
        if let Polling::UnderLoad(UnderLoad { has_asked: true, deferral, .. }) = &self.polling {
            deferral.release();
        }
    }
}

impl AsFd for AfXdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the receive ring keeps the socket open for as long as the port lives.
        unsafe { BorrowedFd::borrow_raw(self.rx.as_raw_fd()) }
    }
}

impl std::fmt::Debug for AfXdpPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfXdpPort")
            .field("zero_copy", &self.zero_copy)
            .field("polling", &self.polling)
            .field("accounting", &self.accounting())
            .finish_non_exhaustive()
    }
}

impl Port for AfXdpPort {
    type Frame = Frame;
    type Processor = crate::processor::Native;

    fn rx_burst(&mut self, into: &mut Vec<Frame>) -> usize {
        let mut ring = self.rx.receive(BURST as u32);
        let count = ring.capacity();
        while let Some(desc) = ring.read() {
            match self.umem.received(desc.addr, desc.len, desc.options) {
                Ok(frame) => {
                    self.umem.prefetch(&frame);
                    into.push(frame);
                }
                Err(violation) => stop(&violation),
            }
        }
        ring.release();
        count as usize
    }

    fn tx_burst(&mut self, frames: &mut Vec<Frame>) -> usize {
        let mut rest = frames.drain(..);
        let given = rest.len();
        // Twice: the first look may be at an old count of free descriptors.
        for _ in 0..2 {
            let wanted = rest.len() as u32;
            if wanted == 0 {
                break;
            }
            let mut ring = self.tx.transmit(wanted);
            for frame in rest.by_ref().take(ring.capacity() as usize) {
                let (addr, len) = self.umem.transmitted(frame);
                let inserted = ring.insert_once(XdpDesc { addr, len, options: 0 });
                assert!(inserted, "the transmit ring takes what it has room for");
            }
            ring.commit();
        }
        let refused = rest.len();
        for frame in rest {
            self.umem.recycle(frame);
        }
        if refused < given && self.tx.needs_wakeup() {
            self.wake_tx();
        }
        refused
    }

    fn tx_room(&self) -> usize {
        let Accounting { free, transmitting, total, .. } = self.umem.accounting();
        // Frames that are not lent to the receive side: as many as the transmit ring holds.
        let tx_ring = total - self.receiving_max;
        free.min(tx_ring.saturating_sub(transmitting))
    }

    fn tx_whole(&mut self, offload: Offload, frame: &[u8]) -> TxWhole {
        if self.whole.is_none() {
            return TxWhole::Unable;
        }
        self.flush();
        match &self.whole {
            Some(whole) if !self.is_sending() => whole.send(offload, frame),
            _ => TxWhole::Unable,
        }
    }

    fn alloc(&mut self) -> Option<Frame> {
        self.umem.alloc()
    }

    fn recycle(&mut self, frame: Frame) {
        self.umem.recycle(frame);
    }

    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.umem.bytes(frame)
    }

    fn buffer_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.umem.buffer_mut(frame)
    }

    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        self.umem.set_len(frame, len);
    }

    fn pull(&mut self, frame: &mut Frame, len: usize) {
        self.umem.pull(frame, len);
    }

    fn push(&mut self, frame: &mut Frame, len: usize) {
        self.umem.push(frame, len);
    }

    fn housekeeping(&mut self) {
        self.reap();
        refill(&mut self.umem, &mut self.queue, self.receiving_max);
        let drives = self.drives() && self.rx.available() < BURST as u32;
        if drives || self.queue.needs_wakeup() {
            self.wake_rx();
        }
        // What one call did not take (see `socket.rs`).
        if self.is_sending() && self.tx.needs_wakeup() {
            self.wake_tx();
        }
    }
}

/// Lends free frames to the receive side, as far as the fill ring and `receiving_max` allow.
fn refill(umem: &mut Umem, queue: &mut DeviceQueue, receiving_max: usize) {
    let wanted = receiving_max.saturating_sub(umem.receiving()).min(umem.accounting().free);
    if wanted == 0 {
        return;
    }
    let mut ring = queue.fill(wanted as u32);
    for _ in 0..ring.capacity() {
        let start = umem.lend().expect("no more were reserved than are free");
        let inserted = ring.insert_once(start);
        assert!(inserted, "the fill ring takes what it has room for");
    }
    ring.commit();
}

fn interface(options: &Options) -> Result<IfInfo, OpenError> {
    let unknown = || OpenError::NoSuchInterface(options.interface.clone());
    let name = CString::new(options.interface.as_str()).map_err(|_| unknown())?;
    let mut info = IfInfo::invalid();
    info.from_name(&name).map_err(|_| unknown())?;
    info.set_queue(options.queue);
    Ok(info)
}

fn bind_error(options: &Options, error: &Errno) -> OpenError {
    let (interface, queue) = (options.interface.clone(), options.queue);
    let source = from_errno(error);
    if source.raw_os_error() == Some(libc::EBUSY) {
        OpenError::QueueTaken { interface, queue }
    } else {
        OpenError::Bind { interface, queue, source }
    }
}

fn at(step: &'static str) -> impl Fn(Errno) -> OpenError {
    move |error| OpenError::Socket { step, source: from_errno(&error) }
}

fn from_errno(error: &Errno) -> io::Error {
    io::Error::from_raw_os_error(error.get_raw())
}

/// Ends the process: the umem has two owners somewhere, and any byte in it may be wrong.
#[cold]
#[inline(never)]
fn stop(violation: &Violation) -> ! {
    tracing::error!(%violation, "the AF_XDP rings are broken, stopping");
    eprintln!("vipdp: the AF_XDP rings are broken, stopping: {violation}");
    std::process::abort();
}

const _: () = {
    const fn is_send<T: Send>() {}
    // A port is opened by the control thread and moves to its worker.
    is_send::<AfXdpPort>();
};
