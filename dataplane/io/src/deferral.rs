//! Interrupts of the NIC, put off for as long as workers run its receive side.
//!
//! A worker that runs the receive side by a system call ([busy polling](crate::af_xdp::BusyPoll)) has it to itself only
//! while the interface's `napi_defer_hard_irqs` and `gro_flush_timeout` keep the kernel from going on by
//! interrupts in between. The same settings would cost a worker that sleeps: after each frame the next one waits
//! for the timer, and a short receive queue can overflow until then. So they stand under load alone:
//!
//! ```text
//!   worker: ask() ------------> on ------------------ release() --- LINGER ---> as it was before
//!                    thread: writes both                              thread: writes both back
//! ```
//!
//! Writing them takes a lock of the kernel's that others hold for milliseconds, and so it is a thread of its own that does.
//! Whatever the settings are at a moment, no frame waits for ever: the kernel arms the timer whenever it leaves
//! interrupts off (`busy_poll_stop` and `napi_complete_done` in its net/core/dev.c), and the timer runs the receive side.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::host::setting::{Area, Setting};

/// Interrupts stay off for so many empty polls. One: what follows an empty one is the worker's sleep, which
/// is to end with an interrupt.
pub(crate) const DEFER_HARD_IRQS: (&str, &str) = ("napi_defer_hard_irqs", "1");

/// And the kernel polls after so many nanoseconds if the worker does not: 200 us, several times what a burst of 64 takes
/// that is handed to the host frame by frame.
pub(crate) const GRO_FLUSH_TIMEOUT: (&str, &str) = ("gro_flush_timeout", "200000");

/// How long the settings outlive the last release: load comes and goes, and each change costs some microseconds
/// of a lock that is the whole host's.
const LINGER: Duration = Duration::from_millis(50);

/// How a worker has the interrupts of its interface put off. Clones are of the same interface.
#[derive(Clone, Debug)]
pub struct Deferral(Arc<Shared>);

/// What workers and the thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Workers that have asked, less those that have released.
    asking: AtomicU32,
    /// How often any has asked.
    asked: AtomicU32,
    /// Whether the settings stand, or may stand.
    is_on: AtomicBool,
    stop: AtomicBool,
    thread: OnceLock<Thread>,
}

impl PartialEq for Deferral {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Deferral {}

impl Deferral {
    /// Asks that interrupts be put off; soon they are. Each `ask` is followed by one [`release`](Self::release).
    pub fn ask(&self) {
        self.0.asking.fetch_add(1, Ordering::SeqCst);
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Takes an `ask` back.
    pub fn release(&self) {
        self.0.asking.fetch_sub(1, Ordering::SeqCst);
        self.wake();
    }

    /// Whether interrupts are put off, or about to be. A worker that sleeps meanwhile has to have them back first.
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }
}

/// The thread that changes the settings of an interface. Dropped, it has put them back. A
/// [`HostGuard`](crate::host::HostGuard) has one, which keeps book of them too.
#[derive(Debug)]
pub struct Keeper {
    deferral: Deferral,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it. It changes nothing before a worker asks.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(interface: &str) -> io::Result<Self> {
        let deferral = Deferral(Arc::default());
        let shared = Arc::clone(&deferral.0);
        let settings = settings(interface);
        let thread = thread::Builder::new()
            .name("vipdp-interrupt".to_owned())
            .spawn(move || shared.keep(&settings))?;
        // Before anybody else has the handle: no wake-up can come earlier.
        let _ = deferral.0.thread.set(thread.thread().clone());
        Ok(Self { deferral, thread: Some(thread) })
    }

    /// What workers ask.
    pub fn deferral(&self) -> Deferral {
        self.deferral.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.deferral.0.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the thread that puts interrupts off ended in a panic");
            }
        }
    }
}

/// The settings of an interface under load, with their values.
pub(crate) fn settings(interface: &str) -> [(Setting, &'static str); 2] {
    [DEFER_HARD_IRQS, GRO_FLUSH_TIMEOUT]
        .map(|(key, value)| (Setting::new(Area::Device, interface, key), value))
}

impl Shared {
    /// The thread's loop.
    fn keep(&self, settings: &[(Setting, &'static str); 2]) {
        while !self.stop.load(Ordering::SeqCst) {
            if self.asking.load(Ordering::SeqCst) == 0 {
                thread::park();
                continue;
            }
            self.is_on.store(true, Ordering::SeqCst);
            let before = settings.each_ref().map(|(setting, ours)| {
                put_off(setting, ours)
                    .inspect_err(|error| tracing::warn!(%error, %setting, "not set under load"))
                    .ok()
            });
            self.linger();
            for ((setting, ours), before) in settings.iter().zip(before) {
                if let Some(Err(error)) = before.map(|before| put_back(setting, ours, &before)) {
                    tracing::warn!(%error, %setting, "not put back after load");
                }
            }
            self.is_on.store(false, Ordering::SeqCst);
        }
    }

    /// Waits until nobody has asked for a while, or the end.
    fn linger(&self) {
        let mut asked = self.asked.load(Ordering::SeqCst);
        let mut end = Instant::now() + LINGER;
        while !self.stop.load(Ordering::SeqCst) {
            let now_asked = self.asked.load(Ordering::SeqCst);
            if self.asking.load(Ordering::SeqCst) > 0 || now_asked != asked {
                asked = now_asked;
                end = Instant::now() + LINGER;
            }
            match end.checked_duration_since(Instant::now()) {
                Some(left) => thread::park_timeout(left),
                None => return,
            }
        }
    }
}

/// Makes a setting ours. Returns what it was.
fn put_off(setting: &Setting, ours: &str) -> io::Result<String> {
    let before = setting.read()?;
    setting.write(ours)?;
    Ok(before)
}

/// Makes it what it was, unless somebody else has changed it since.
fn put_back(setting: &Setting, ours: &str, before: &str) -> io::Result<()> {
    match setting.read() {
        Ok(now) if now == ours => setting.write(before),
        Ok(_) => Ok(()),
        // The interface is gone, and its settings with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
