//! A test in a process of its own.

use std::env;
use std::process::Command;

/// Set in that process.
const ALONE: &str = "VDIO_ALONE";

/// Runs `body` in a new process. `test` is the name of the test that calls it, with its modules.
pub fn alone(test: &str, body: impl FnOnce()) {
    if env::var_os(ALONE).is_some() {
        return body();
    }
    let program = env::current_exe().expect("this test");
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .expect("started");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(passed, "{test}, {}\n{stdout}{stderr}", output.status);
    // What DPDK says, it says on standard error: standard output may be a protocol.
    assert!(!stdout.contains("EAL:"), "{stdout}");
}
