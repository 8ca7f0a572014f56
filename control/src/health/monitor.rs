//! The checks' threads, and what they have found.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::judge::{Judge, Judgement, Outcome, State};
use super::patience::{Patience, StopOrder};
use super::probe::{Probe, UnfitProbe};
use super::{Change, CheckConfig, ProbeError};
use crate::damping::Damping;

/// How long after its time a turn may end, before the check counts as ill: its thread hangs in the
/// kernel, or got no processor.
const LATE_MAX: Duration = Duration::from_secs(10);

/// Within what time of their start checks have their first turn: nobody serves before.
const SPREAD_MAX: Duration = Duration::from_millis(100);

/// The stack of a check's thread, bytes: memory may be locked, and there may be many checks.
const STACK_LEN: usize = 512 * 1024;

/// How long a message may get in the log and in the status, characters.
const ERROR_LEN_MAX: usize = 300;

/// The checks cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("check \"{check}\" cannot be started")]
pub struct StartError {
    check: String,
    #[source]
    source: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Probe(#[from] UnfitProbe),
    #[error("there is no thread for it")]
    Thread(#[source] io::Error),
}

/// Runs checks until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    checks: Vec<Arc<Check>>,
    threads: Vec<JoinHandle<()>>,
    stop: StopOrder,
    start: Instant,
}

/// A check, and what it has found.
#[derive(Debug)]
struct Check {
    config: CheckConfig,
    /// Whether the judge takes the service for well, and the thread is still at work. Beside the
    /// rest, so that whoever only wants to know this waits for nobody.
    up: AtomicBool,
    /// When the newest turn ended, nanoseconds since the start.
    last_ns: AtomicU64,
    found: Mutex<Found>,
}

/// What a check has found so far.
#[derive(Debug)]
struct Found {
    judge: Judge,
    took: Duration,
    error: Option<(Instant, String)>,
}

/// How a check stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckView {
    /// Its name.
    pub name: String,
    /// Its kind: `tcp`, `http`, `dns` or `command`.
    pub kind: &'static str,
    /// What is thought of the service, and why. Times count from the start of the checks.
    pub judgement: Judgement,
    /// How long the state has lasted.
    pub since: Duration,
    /// How long the newest turn took.
    pub took: Duration,
    /// The newest reason to find the service ill, and how long ago that was.
    pub last_error: Option<(Duration, String)>,
}

/// What the threads share.
#[derive(Clone)]
struct Surroundings {
    stop: StopOrder,
    start: Instant,
    ring: Arc<dyn Fn() + Send + Sync>,
}

impl Monitor {
    /// Starts the checks. `ring` is called, from their threads, whenever the state of one changes.
    ///
    /// # Errors
    /// When a check cannot be started; then none runs.
    pub fn start(
        checks: &[CheckConfig],
        damping: Damping,
        ring: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let failed = |check: &CheckConfig, source| StartError { check: check.name.clone(), source };
        let start = Instant::now();
        let stop = match (StopOrder::new(), checks.first()) {
            (Ok(stop), _) => stop,
            (Err(error), first) => {
                let check = first.map_or_else(String::new, |check| check.name.clone());
                return Err(StartError { check, source: Cause::Thread(error.into()) });
            }
        };
        let surroundings = Surroundings { stop: stop.clone(), start, ring: Arc::new(ring) };
        let mut monitor = Self { checks: Vec::new(), threads: Vec::new(), stop, start };
        for (number, config) in checks.iter().enumerate() {
            let probe = Probe::new(&config.probe).map_err(|error| failed(config, error.into()))?;
            let found = Found {
                judge: Judge::new(config.thresholds, damping, 0),
                took: Duration::ZERO,
                error: None,
            };
            let check = Arc::new(Check {
                config: config.clone(),
                up: AtomicBool::new(false),
                last_ns: AtomicU64::new(0),
                found: Mutex::new(found),
            });
            let (its, around) = (Arc::clone(&check), surroundings.clone());
            let thread = std::thread::Builder::new()
                .name(format!("vipdp-check-{number}"))
                .stack_size(STACK_LEN)
                .spawn(move || its.run(probe, &around))
                .map_err(|error| failed(config, Cause::Thread(error)))?;
            monitor.checks.push(check);
            monitor.threads.push(thread);
        }
        Ok(monitor)
    }

    /// Whether every check is up, and its thread still at work. Without checks it always is.
    pub fn healthy(&self) -> bool {
        let now_ns = ns(self.start.elapsed());
        self.checks.iter().all(|check| {
            let CheckConfig { interval, timeout, .. } = &check.config;
            let due_ns = check.last_ns.load(Relaxed) + ns(*interval + *timeout + LATE_MAX);
            check.up.load(Relaxed) && now_ns <= due_ns
        })
    }

    /// How the checks stand, in the order of the configuration.
    pub fn view(&self) -> Vec<CheckView> {
        let now = Instant::now();
        let now_ns = ns(now - self.start);
        let view = |check: &Arc<Check>| {
            let found = check.found();
            let judgement = found.judge.view(now_ns);
            CheckView {
                name: check.config.name.clone(),
                kind: check.config.probe.kind(),
                since: Duration::from_nanos(now_ns.saturating_sub(judgement.since_ns)),
                judgement,
                took: found.took,
                last_error: found.error.as_ref().map(|(at, text)| (now - *at, text.clone())),
            }
        };
        self.checks.iter().map(view).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.give();
        for thread in self.threads.drain(..) {
            // All waiting ends by the order. A panic was told when it came.
            let _ = thread.join();
        }
    }
}

impl Check {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Probes until the order to stop is given.
    fn run(&self, mut probe: Probe, around: &Surroundings) {
        let _guard = TellWhenBroken { check: self, around };
        let interval = self.config.interval;
        // Not all checks at once.
        let mut due = Instant::now() + interval.min(SPREAD_MAX).mul_f64(fraction());
        while !around.stop.wait(due) {
            let begin = Instant::now();
            let result = probe.run(&Patience::new(self.config.timeout, &around.stop));
            let end = Instant::now();
            if around.stop.wait(end) {
                return;
            }
            self.take_in(result, begin, end, around);
            due = (due + interval).max(end);
        }
    }

    fn take_in(
        &self,
        result: Result<(), ProbeError>,
        begin: Instant,
        end: Instant,
        around: &Surroundings,
    ) {
        let outcome = if result.is_ok() { Outcome::Well } else { Outcome::Ill };
        let mut found = self.found();
        found.took = end - begin;
        if let Err(error) = result {
            let text: String = error.to_string().chars().take(ERROR_LEN_MAX).collect();
            found.error = Some((end, text));
        }
        let end_ns = ns(end - around.start);
        let change = found.judge.step(end_ns, outcome);
        let view = found.judge.view(end_ns);
        self.last_ns.store(end_ns, Relaxed);
        self.up.store(found.judge.is_up(), Relaxed);
        let error = found.error.as_ref().map(|(_, error)| error.clone()).unwrap_or_default();
        drop(found);
        if let Some(change) = change {
            self.tell(change, &view, &error);
            (around.ring)();
        }
    }

    fn tell(&self, change: Change, view: &Judgement, error: &str) {
        let check = self.config.name.as_str();
        match change.to {
            State::Up => info!(check, from = %change.from, "the check is up"),
            State::Down | State::Unknown => warn!(check, error, "the check is down"),
            State::Suppressed => {
                let seconds = view.suppressed_for_ns.div_ceil(1_000_000_000);
                warn!(check, error, seconds, "the check has flapped, and is suppressed");
            }
        }
    }
}

/// Says so when a check's thread ends in a panic: its last verdict must not stand for ever.
struct TellWhenBroken<'a> {
    check: &'a Check,
    around: &'a Surroundings,
}

impl Drop for TellWhenBroken<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.check.up.store(false, Relaxed);
            let error = "the check ended in a panic".to_owned();
            self.check.found().error = Some((Instant::now(), error));
            (self.around.ring)();
        }
    }
}

/// A random part of 1; 0 if the kernel gives no random number.
fn fraction() -> f64 {
    let word = crate::runtime::random::word().unwrap_or(0);
    f64::from(word as u32) / f64::from(u32::MAX)
}

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("stop", &self.stop).finish_non_exhaustive()
    }
}
