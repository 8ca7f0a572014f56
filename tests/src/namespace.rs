//! Network namespaces, by name.

use std::fs::File;
use std::process::{Command, Output};

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

/// A network namespace of `ip netns`.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside. Its process is the program itself, no shell around it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command line, split at white space, inside; panics unless it succeeds.
    ///
    /// Returns what it printed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.output(line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {line}: {}: {error}", self.name, output.status);
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command line, split at white space, inside.
    #[track_caller]
    pub fn output(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a command"));
        command.args(words).output().expect("`ip` runs")
    }

    /// The processes inside.
    #[track_caller]
    pub fn processes(&self) -> Vec<Pid> {
        let output = Command::new("ip").args(["netns", "pids", &self.name]).output();
        let text = String::from_utf8(output.expect("`ip` runs").stdout).expect("text");
        let numbers = text.split_whitespace().map(|pid| pid.parse().expect("a number"));
        numbers.map(Pid::from_raw).collect()
    }

    /// Runs `job` on a thread inside: sockets that it opens belong there for good.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                job()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread inside.
    pub fn enter(&self) {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
    }
}
