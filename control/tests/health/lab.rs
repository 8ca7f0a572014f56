//! A network namespace, programs in it, and what a check says of them.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use vipdp::damping::Damping;
use vipdp::health::{CheckConfig, CheckView, Monitor, ProbeConfig, Thresholds};

/// The VIP, as on a node: an address of the host.
pub const VIP: &str = "192.0.2.53";

/// How long a condition may take to come true on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// What a probe has to answer that is not about time.
pub const AMPLE: Duration = Duration::from_secs(10);

/// Damping that nothing in these tests comes near.
pub const NO_DAMPING: Damping = Damping {
    penalty: 0,
    half_life_ns: 60_000_000_000,
    suppress: 2500,
    reuse: 1000,
    max_ns: 300_000_000_000,
};

/// Runs a test on a thread in a namespace of its own, whose loopback has the VIP.
pub fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let inside = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
        for line in ["link set lo up", &format!("address add {VIP}/32 dev lo")] {
            let status = Command::new("ip").args(line.split(' ')).status().expect("ip runs");
            assert!(status.success(), "ip {line}");
        }
        test();
    });
    if let Err(panic) = inside.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Waits until there is a value.
#[track_caller]
pub fn wait_for<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A check whose every outcome is a verdict.
pub fn check(probe: ProbeConfig, timeout: Duration) -> CheckConfig {
    CheckConfig {
        name: "check".into(),
        probe,
        interval: Duration::from_millis(20),
        timeout,
        thresholds: Thresholds { rise: 1, fall: 1 },
    }
}

/// What the first turn of a check finds.
#[track_caller]
pub fn view(probe: &ProbeConfig, timeout: Duration) -> CheckView {
    let interval = Duration::from_secs(3600);
    let config = [CheckConfig { interval, ..check(probe.clone(), timeout) }];
    let monitor = Monitor::start(&config, NO_DAMPING, || {}).expect("a thread");
    wait_for("the check has an outcome", || {
        let view = monitor.view().remove(0);
        (view.judgement.counts.well + view.judgement.counts.ill > 0).then_some(view)
    })
}

/// What the first turn of a check finds: nothing, or why the service is ill.
#[track_caller]
pub fn ask(probe: &ProbeConfig) -> Result<(), String> {
    let view = view(probe, AMPLE);
    match view.last_error {
        None => Ok(()),
        Some((_, error)) => Err(error),
    }
}

/// Asserts that a check of 200 ms gives up when its time is over.
#[track_caller]
pub fn assert_gives_up(probe: &ProbeConfig) {
    let view = view(probe, Duration::from_millis(200));
    let error = view.last_error.as_ref().map(|(_, error)| error.as_str()).unwrap_or_default();
    assert!(error.ends_with("it takes too long"), "{error}");
    assert!(view.took >= Duration::from_millis(200), "{view:?}");
    // Far more than a thread waits for a busy processor, far less than what is asked takes.
    assert!(view.took < Duration::from_secs(8), "{view:?}");
}

/// A directory with files, and a program that runs on them.
pub struct Program {
    child: Child,
    // Goes when the program is over.
    _directory: TempDir,
}

impl Program {
    /// Writes the files into a new directory, and starts the program there. In its arguments and
    /// in the files `DIRECTORY` stands for it.
    #[track_caller]
    pub fn start(command: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("a plain path").to_owned();
        for (name, contents) in files {
            write(&directory.path().join(name), &contents.replace("DIRECTORY", &path));
        }
        let command = command.replace("DIRECTORY", &path);
        let mut words = command.split(' ');
        let child = Command::new(words.next().expect("a program"))
            .args(words)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command}: {error}"));
        Self { child, _directory: directory }
    }

    /// Waits until something listens on the address.
    #[track_caller]
    pub fn listening(self, address: SocketAddr) -> Self {
        wait_for("the program listens", || std::net::TcpStream::connect(address).ok());
        self
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(path: &Path, contents: &str) {
    let mut file = std::fs::File::create(path).expect("a file");
    file.write_all(contents.as_bytes()).expect("room for it");
}

/// Another port each time; the namespaces are the tests' own, so that none is taken.
pub fn port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed) as u16
}
