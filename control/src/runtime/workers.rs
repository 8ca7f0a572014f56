//! The threads that workers run on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

#[cfg(feature = "dpdk")]
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
};
use tracing::{debug, error, warn};
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::port::Port;
use vipdp_core::worker::Worker;
use vipdp_io::af_xdp::{AfXdpPort, Statistics};
use vipdp_io::affinity;
#[cfg(feature = "dpdk")]
use vipdp_io::dpdk::{DpdkPort, QueueStatistics};
use vipdp_io::tap::TapQueue;

use super::clock::monotonic_ns;
use super::load::Load;
use super::patience::Patience;
use crate::config::PollMode;

/// Longest sleep of an idle worker: it bounds how stale its turns are, which the control thread
/// watches, and how long it takes to stop.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// Longest sleep of an idle worker over DPDK, where nothing wakes it for a frame. 50 us: what waking one takes with
/// AF_XDP too. A core is idle for most of the time then.
#[cfg(feature = "dpdk")]
const DPDK_SLEEP_MAX: Duration = Duration::from_micros(50);

/// How often a worker copies the counts of its port, for `vipdp status`: a system call and a lock that
/// is free, ten times a second.
const STATISTICS_NS: u64 = 100_000_000;

/// What a worker's thread needs of its port, beside frames.
pub trait WorkerPort: Port<Frame: Send> + Send + 'static {
    /// Makes the calling thread the one that uses the port from now on.
    ///
    /// # Errors
    /// When the thread cannot be one that does: the port is of no use then.
    fn enter_thread(&mut self) -> io::Result<()>;

    /// Has the port run the NIC's receive side itself, or the kernel, where there is a choice. To be called each turn.
    /// Returns whether the port does.
    fn drive(&mut self, _by_port: bool) -> bool {
        false
    }

    /// Whether the port can run the NIC's receive side itself. Before the first frame it may not be known.
    fn can_busy_poll(&self) -> bool {
        true
    }

    /// Whether so many frames wait for the worker that it does not keep up.
    fn is_behind(&self) -> bool {
        false
    }

    /// To be called before [`wait`](Self::wait): has frames that come from now on end the sleep.
    fn rest(&mut self) {}

    /// Sleeps until a frame may have come, one of `hosts` can be read, or `timeout` is over.
    ///
    /// # Errors
    /// When it cannot sleep: no memory.
    fn wait(&self, timeout: Duration, hosts: [Option<BorrowedFd<'_>>; 2]) -> io::Result<()>;

    /// Whether frames wait to be transmitted that the NIC's driver has not taken yet.
    fn is_sending(&self) -> bool;

    /// Whether the NIC moves frames to and from the port's memory by itself.
    fn is_zero_copy(&self) -> bool;

    /// What is counted below the worker. At most a system call.
    ///
    /// # Errors
    /// When it is not told, which it is for an open port.
    fn counts(&self) -> io::Result<PortCounts>;
}

#[cfg(feature = "dpdk")]
impl WorkerPort for DpdkPort {
    fn enter_thread(&mut self) -> io::Result<()> {
        self.enter_thread()
    }

    /// Nothing tells that a frame has come to the NIC: it never sleeps long.
    fn wait(&self, timeout: Duration, hosts: [Option<BorrowedFd<'_>>; 2]) -> io::Result<()> {
        let timeout = timeout.min(DPDK_SLEEP_MAX);
        let (Some(first), Some(last)) = (hosts[0].or(hosts[1]), hosts[1].or(hosts[0])) else {
            std::thread::sleep(timeout);
            return Ok(());
        };
        let mut fds = [first, last].map(|host| PollFd::new(host, PollFlags::POLLIN));
        match ppoll(&mut fds, Some(timeout.into()), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn is_sending(&self) -> bool {
        self.is_sending()
    }

    /// The NIC, or what stands for it, writes into the port's memory.
    fn is_zero_copy(&self) -> bool {
        true
    }

    fn counts(&self) -> io::Result<PortCounts> {
        Ok(PortCounts::Dpdk(self.statistics()))
    }
}

/// What is counted below a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortCounts {
    /// By the kernel, for an AF_XDP socket.
    AfXdp(Statistics),
    /// By a port of DPDK's, of frames that no worker sees.
    #[cfg(feature = "dpdk")]
    Dpdk(QueueStatistics),
}

impl WorkerPort for AfXdpPort {
    fn enter_thread(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn drive(&mut self, by_port: bool) -> bool {
        self.drive(by_port)
    }

    fn can_busy_poll(&self) -> bool {
        self.can_busy_poll()
    }

    fn is_behind(&self) -> bool {
        self.is_behind()
    }

    fn rest(&mut self) {
        self.rest();
    }

    /// The kernel has the NIC: one of the hosts at most is beside it.
    fn wait(&self, timeout: Duration, hosts: [Option<BorrowedFd<'_>>; 2]) -> io::Result<()> {
        self.wait(timeout, hosts[0].or(hosts[1])).map(drop)
    }

    fn is_sending(&self) -> bool {
        self.is_sending()
    }

    fn is_zero_copy(&self) -> bool {
        self.is_zero_copy()
    }

    fn counts(&self) -> io::Result<PortCounts> {
        self.statistics().map(PortCounts::AfXdp)
    }
}

/// One worker's thread and what can be seen of it from outside.
#[derive(Debug)]
pub struct WorkerThread {
    /// The queue it serves.
    pub queue: u32,
    /// The core it is pinned to.
    pub core: usize,
    /// Whether the driver hands frames over without a copy.
    pub zero_copy: bool,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    /// What is counted below it, as of the last tenth of a second.
    pub below: Arc<Mutex<PortCounts>>,
    thread: JoinHandle<()>,
}

/// All workers of a node.
#[derive(Debug)]
pub struct WorkerThreads {
    threads: Vec<WorkerThread>,
    stop: Arc<AtomicBool>,
}

/// What a worker needs to start.
pub struct Start<P: WorkerPort> {
    /// The worker, not yet running.
    pub worker: Worker<P, TapQueue>,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    /// The queue it serves.
    pub queue: u32,
    /// The core to pin it to.
    pub core: usize,
    /// Whether frames come from the host too.
    pub wake_for_host: bool,
}

impl WorkerThreads {
    /// Starts one thread per worker.
    ///
    /// # Errors
    /// When a thread cannot be started; those that run are stopped again.
    pub fn start<P: WorkerPort>(starts: Vec<Start<P>>, poll: PollMode) -> io::Result<Self> {
        let mut threads = Self { threads: Vec::new(), stop: Arc::default() };
        for start in starts {
            let Start { worker, counters, queue, core, wake_for_host } = start;
            let zero_copy = worker.port().is_zero_copy();
            let stop = Arc::clone(&threads.stop);
            let below = Arc::new(Mutex::new(worker.port().counts()?));
            let running = Running { worker, poll, wake_for_host, below: Arc::clone(&below) };
            let thread = std::thread::Builder::new()
                .name(format!("vipdp-worker{queue}"))
                .spawn(move || running.run(core, &stop))?;
            threads.threads.push(WorkerThread { queue, core, zero_copy, counters, below, thread });
        }
        Ok(threads)
    }

    /// The workers, by queue.
    pub fn iter(&self) -> impl Iterator<Item = &WorkerThread> {
        self.threads.iter()
    }

    /// The sum of all workers' turns, and whether all their threads still run.
    pub fn progress(&self) -> Progress {
        Progress {
            turns: self.threads.iter().map(|thread| thread.counters.get(Count::Turns)).collect(),
            running: self.threads.iter().all(|thread| !thread.thread.is_finished()),
        }
    }
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.thread.join().is_err() {
                error!(queue = thread.queue, "a worker ended in a panic");
            }
        }
    }
}

/// How far the workers have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Turns of each worker's loop.
    pub turns: Vec<u64>,
    /// Whether every worker's thread still runs.
    pub running: bool,
}

impl Progress {
    /// Whether every worker has ended two turns since `earlier`, so that one of them began after it.
    pub fn is_round_after(&self, earlier: &Self) -> bool {
        self.turns.iter().zip(&earlier.turns).all(|(now, then)| now.wrapping_sub(*then) >= 2)
    }

    /// Whether every worker has made a turn since `earlier`.
    pub fn since(&self, earlier: &Self) -> bool {
        self.running && self.turns.iter().zip(&earlier.turns).all(|(now, then)| now != then)
    }
}

/// A worker on its thread.
struct Running<P: WorkerPort> {
    worker: Worker<P, TapQueue>,
    poll: PollMode,
    wake_for_host: bool,
    below: Arc<Mutex<PortCounts>>,
}

impl<P: WorkerPort> Running<P> {
    fn run(mut self, core: usize, stop: &AtomicBool) {
        if let Err(error) = affinity::pin(core) {
            // It serves on any core, only less evenly.
            warn!(core, %error, "a worker is not pinned");
        }
        if let Err(error) = self.worker.port_mut().enter_thread() {
            // The control thread sees that a worker has ended, and this node serves nobody.
            return error!(core, %error, "a worker cannot use its port");
        }
        let mut patience = Patience::new();
        let mut load = Load::new();
        let mut is_poll_checked = self.poll != PollMode::Busy;
        let mut statistics_ns = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = monotonic_ns();
            let handled = self.worker.poll_once(now);
            load.turn(now, handled, self.worker.port().is_behind());
            let drives = self.worker.port_mut().drive(load.is_on());
            if now >= statistics_ns {
                statistics_ns = now + STATISTICS_NS;
                self.copy_statistics();
            }
            if handled > 0 {
                if !is_poll_checked {
                    is_poll_checked = true;
                    self.check_busy_poll();
                }
                patience.found(now);
                continue;
            }
            // What this turn's call to the driver has brought is seen by the next turn.
            let tries_again = self.worker.port().is_sending() || drives;
            if self.poll == PollMode::Adaptive && patience.is_over(now, tries_again) {
                self.sleep();
                load.slept();
                self.worker.port_mut().drive(load.is_on());
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Sleeps until a frame comes, from the NIC or, where they leave by us, from the host.
    fn sleep(&mut self) {
        self.worker.port_mut().rest();
        let host = self.wake_for_host.then(|| self.worker.host().as_fd());
        let nic_host = self.worker.nic_host().map(AsFd::as_fd);
        if let Err(error) = self.worker.port().wait(SLEEP_MAX, [host, nic_host]) {
            // Without memory for poll(2) it spins, which costs a core and loses nothing.
            debug!(%error, "a worker cannot sleep");
        }
    }

    /// Tells the operator once where a core is spent for nothing.
    fn check_busy_poll(&self) {
        if !self.worker.port().can_busy_poll() {
            warn!(
                "poll = \"busy\": this NIC's driver does not tell the kernel which receive side a queue's is, so that \
                 interrupts go on receiving and the worker only looks; poll = \"adaptive\" costs less"
            );
        }
    }

    fn copy_statistics(&self) {
        match self.worker.port().counts() {
            Ok(counts) => *self.below.lock().unwrap_or_else(PoisonError::into_inner) = counts,
            Err(error) => debug!(%error, "the port does not tell its counts"),
        }
    }
}
