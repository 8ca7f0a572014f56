//! The threads that workers run on.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{debug, warn};
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::worker::Worker;
use vipdp_io::af_xdp::{AfXdpPort, Statistics};
use vipdp_io::affinity;
use vipdp_io::tap::TapQueue;

use super::clock::monotonic_ns;
use super::patience::Patience;
use crate::config::PollMode;

/// Longest sleep of an idle worker: it bounds how stale its turns are, which the control thread
/// watches, and how long it takes to stop.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// How often a worker copies the kernel's counts, for `vipdp status`: a system call and a lock that
/// is free, ten times a second.
const STATISTICS_NS: u64 = 100_000_000;

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
    /// What the kernel counts for its socket, as of the last tenth of a second.
    pub kernel: Arc<Mutex<Statistics>>,
    thread: JoinHandle<()>,
}

/// All workers of a node.
#[derive(Debug)]
pub struct WorkerThreads {
    threads: Vec<WorkerThread>,
    stop: Arc<AtomicBool>,
}

/// What a worker needs to start.
pub struct Start {
    /// The worker, not yet running.
    pub worker: Worker<AfXdpPort, TapQueue>,
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
    pub fn start(starts: Vec<Start>, poll: PollMode) -> std::io::Result<Self> {
        let mut threads = Self { threads: Vec::new(), stop: Arc::default() };
        for start in starts {
            let Start { worker, counters, queue, core, wake_for_host } = start;
            let zero_copy = worker.port().is_zero_copy();
            let stop = Arc::clone(&threads.stop);
            let kernel = Arc::<Mutex<Statistics>>::default();
            let running = Running { worker, poll, wake_for_host, kernel: Arc::clone(&kernel) };
            let thread = std::thread::Builder::new()
                .name(format!("vipdp-worker{queue}"))
                .spawn(move || running.run(core, &stop))?;
            threads.threads.push(WorkerThread { queue, core, zero_copy, counters, kernel, thread });
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
                tracing::error!(queue = thread.queue, "a worker ended in a panic");
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
struct Running {
    worker: Worker<AfXdpPort, TapQueue>,
    poll: PollMode,
    wake_for_host: bool,
    kernel: Arc<Mutex<Statistics>>,
}

impl Running {
    fn run(mut self, core: usize, stop: &AtomicBool) {
        if let Err(error) = affinity::pin(core) {
            // It serves on any core, only less evenly.
            warn!(core, %error, "a worker is not pinned");
        }
        let mut patience = Patience::new();
        let mut statistics_ns = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = monotonic_ns();
            let handled = self.worker.poll_once(now);
            if now >= statistics_ns {
                statistics_ns = now + STATISTICS_NS;
                self.copy_statistics();
            }
            if handled > 0 {
                patience.found(now);
                continue;
            }
            let sending = self.worker.port().is_sending();
            if self.poll == PollMode::Adaptive && patience.is_over(now, sending) {
                self.sleep();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Sleeps until a frame comes, from the NIC or, where they leave by us, from the host.
    fn sleep(&self) {
        let host = self.wake_for_host.then(|| self.worker.host().as_fd());
        if let Err(error) = self.worker.port().wait(SLEEP_MAX, host) {
            // Without memory for poll(2) it spins, which costs a core and loses nothing.
            debug!(%error, "a worker cannot sleep");
        }
    }

    fn copy_statistics(&self) {
        match self.worker.port().statistics() {
            Ok(statistics) => {
                *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
            }
            Err(error) => debug!(%error, "the kernel does not tell its counts"),
        }
    }
}
