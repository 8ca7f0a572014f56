//! Command probes.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::SigSet;
use vipdp::health::{CommandProbe, Monitor, ProbeConfig};

use crate::lab::{AMPLE, NO_DAMPING, ask, assert_gives_up, check, wait_for};

fn shell(script: &str) -> ProbeConfig {
    let arguments = ["-c".to_owned(), script.to_owned()].into();
    ProbeConfig::Command(CommandProbe { program: "/bin/sh".into(), arguments })
}

/// Whether the process whose number is in the file is over.
fn is_over(file: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    let Ok(pid) = text.trim().parse::<i32>() else { return false };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // One whose parent does not ask for it stays a zombie.
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

#[test]
fn the_exit_status_decides_and_the_last_words_are_told() {
    assert_eq!(ask(&shell("exit 0")), Ok(()));
    assert_eq!(ask(&shell("echo all is well; echo really >&2")), Ok(()));
    assert_eq!(ask(&shell("exit 3")), Err("exit status 3".into()));
    let said = ask(&shell("echo the zone; echo '  is\told' >&2; exit 1"));
    assert_eq!(said, Err("exit status 1: the zone is old".into()));
    assert_eq!(ask(&shell("kill -USR1 $$")), Err("ended by SIGUSR1".into()));
    let program = "/nowhere/check".into();
    let none = ask(&ProbeConfig::Command(CommandProbe { program, arguments: Box::default() }));
    assert_eq!(none, Err("the command cannot be run: ENOENT: No such file or directory".into()));
}

#[test]
fn a_command_gets_its_arguments_the_environment_and_nothing_to_read() {
    let arguments = ["-c", "cat && test \"$1\" = 'a b' && test -n \"$PATH\"", "sh", "a b"];
    let arguments = arguments.map(str::to_owned).into();
    let program = "/bin/sh".into();
    assert_eq!(ask(&ProbeConfig::Command(CommandProbe { program, arguments })), Ok(()));
}

/// vipdp blocks the signals that it waits for; a command must not inherit that.
#[test]
fn signals_end_a_command_whatever_vipdp_blocks() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            SigSet::all().thread_block().unwrap();
            assert_eq!(ask(&shell("kill -TERM $$; exit 0")), Err("ended by SIGTERM".into()));
        });
    });
}

#[test]
fn one_that_takes_too_long_is_killed_with_all_that_it_has_started() {
    let directory = tempfile::tempdir().unwrap();
    let (child, own) = (directory.path().join("child"), directory.path().join("own"));
    let script = format!(
        "echo $$ > {}; sleep 1000 & echo $! > {}; trap '' TERM; wait",
        own.display(),
        child.display()
    );
    assert_gives_up(&shell(&script));
    wait_for("the command is over", || is_over(&own).then_some(()));
    wait_for("what it has started is over", || is_over(&child).then_some(()));
}

#[test]
fn one_that_ends_leaves_nothing_running() {
    let directory = tempfile::tempdir().unwrap();
    let child = directory.path().join("child");
    assert_eq!(ask(&shell(&format!("sleep 1000 & echo $! > {}", child.display()))), Ok(()));
    wait_for("what it has started is over", || is_over(&child).then_some(()));
}

#[test]
fn one_that_says_more_than_anybody_reads_is_not_held_up() {
    let error = ask(&shell("head -c 4000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 7"));
    let error = error.unwrap_err();
    assert!(error.starts_with("exit status 7: x") && error.ends_with("x the end"), "{error}");
    assert!(error.len() <= 300, "{} bytes", error.len());
}

#[test]
fn a_stop_ends_a_command_that_runs() {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("own");
    let probe = shell(&format!("echo $$ > {}; exec sleep 1000", own.display()));
    let config = [check(probe, 100 * AMPLE)];
    let monitor = Monitor::start(&config, NO_DAMPING, || {}).unwrap();
    wait_for("the command runs", || {
        std::fs::read_to_string(&own).ok().filter(|pid| !pid.is_empty())
    });
    assert!(!is_over(&own));
    let begin = std::time::Instant::now();
    drop(monitor);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(is_over(&own));
}
