//! The command probe: a program of the operator's, whose exit status is the outcome.
//!
//! The program has a process group of its own, no standard input, and no signal blocked or ignored.
//! When it ends, or when its time is over, all that is left of the group is killed: a check leaves
//! nothing running.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, read};
use rustix::process::{PidfdFlags, pidfd_open};
use tracing::warn;

use super::CommandProbe;
use super::error::ProbeError;
use super::patience::Patience;

/// How much of what a command says is kept, bytes: the end of it.
const SAID_MAX: usize = 256;
/// How much is read at once, bytes.
const CHUNK: usize = 4096;
/// How much a pipe holds unless root makes it larger, bytes (pipe(7): /proc/sys/fs/pipe-max-size).
const PIPE_MAX: usize = 1024 * 1024;
/// How long a killed process may take to be gone. One that waits for a dead disk takes longer.
const GONE_MAX: Duration = Duration::from_millis(500);
/// The standard descriptors.
const STDIN: i32 = 0;
const STDOUT: i32 = 1;
const STDERR: i32 = 2;

/// Runs the command of a check, once at a time.
#[derive(Debug)]
pub(super) struct Runner {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// What it reads.
    nothing: File,
    /// One that was killed, and is not gone yet.
    stuck: Option<Pid>,
}

/// A command that runs.
#[derive(Debug)]
struct Running {
    pid: Pid,
    /// Readable when it has ended.
    process: OwnedFd,
    /// What it says.
    output: OwnedFd,
}

impl Runner {
    /// A runner of the command.
    ///
    /// # Errors
    /// When a text has a zero byte in it, or there is no /dev/null.
    pub(super) fn new(config: &CommandProbe) -> io::Result<Self> {
        let nothing = File::open("/dev/null")?;
        let program = CString::new(config.program.as_str())?;
        let mut arguments = vec![program.clone()];
        for argument in &config.arguments {
            arguments.push(CString::new(argument.as_str())?);
        }
        let environment = std::env::vars_os().filter_map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).ok()
        });
        let environment = environment.collect();
        Ok(Self { program, arguments, environment, nothing, stuck: None })
    }

    /// Runs the command, and judges how it ends.
    pub(super) fn run(&mut self, patience: &Patience<'_>) -> Result<(), ProbeError> {
        if let Some(pid) = self.stuck {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {
                    return Err(ended("the one before was killed, and is not gone yet", &[]));
                }
                Ok(_) | Err(_) => self.stuck = None,
            }
        }
        let running = self.spawn().map_err(ProbeError::Spawn)?;
        let mut said = Vec::new();
        let in_time = running.listen(patience, &mut said);
        // Before its number is free for others.
        running.kill_group();
        if in_time.is_err() && !running.is_gone_within(GONE_MAX) {
            self.stuck = Some(running.pid);
        } else {
            let status = waitpid(running.pid, None).map_err(ProbeError::Spawn)?;
            if in_time.is_ok() {
                running.drain(&mut said);
                return judge(status, &said);
            }
        }
        Err(ended("it takes too long", &said))
    }

    fn spawn(&self) -> nix::Result<Running> {
        let (output, its_output) = pipe2(OFlag::O_CLOEXEC)?;
        // Our end alone: programs do not expect it of theirs.
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut files = PosixSpawnFileActions::init()?;
        files.add_dup2(self.nothing.as_raw_fd(), STDIN)?;
        files.add_dup2(its_output.as_raw_fd(), STDOUT)?;
        files.add_dup2(its_output.as_raw_fd(), STDERR)?;
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(&SigSet::all())?;
        let (arguments, environment) = (&self.arguments, &self.environment);
        let pid = posix_spawn(&*self.program, &files, &attributes, arguments, environment)?;
        let process = rustix::process::Pid::from_raw(pid.as_raw())
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match process {
            Ok(process) => Ok(Running { pid, process, output }),
            Err(error) => {
                let _ = killpg(pid, Signal::SIGKILL);
                waitpid(pid, None)?;
                Err(Errno::from_raw(error.raw_os_error()))
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(pid) = self.stuck {
            warn!(%pid, "a killed command of a check is not gone yet");
        }
    }
}

impl Running {
    /// Takes in what the command says until it has ended.
    fn listen(&self, patience: &Patience<'_>, said: &mut Vec<u8>) -> io::Result<()> {
        let mut says_more = true;
        loop {
            let mut descriptors = vec![PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
            if says_more {
                descriptors.push(PollFd::new(self.output.as_fd(), PollFlags::POLLIN));
            }
            let ready = patience.wait_for_any(descriptors)?;
            if ready[0].any().unwrap_or(true) {
                return Ok(());
            }
            says_more = self.read(said);
        }
    }

    /// Takes in what the command has said; returns whether it may say more.
    fn read(&self, said: &mut Vec<u8>) -> bool {
        let mut chunk = [0; CHUNK];
        match read(&self.output, &mut chunk) {
            Ok(0) => false,
            Ok(len) => {
                said.extend_from_slice(&chunk[..len]);
                said.drain(..said.len().saturating_sub(SAID_MAX));
                true
            }
            Err(error) => matches!(error, Errno::EAGAIN | Errno::EINTR),
        }
    }

    /// Takes in what the command had said when it ended: what is in the pipe, and no more, since
    /// something that left the group may go on.
    fn drain(&self, said: &mut Vec<u8>) {
        for _ in 0..PIPE_MAX.div_ceil(CHUNK) {
            let ready =
                poll(&mut [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
            if ready != Ok(1) || !self.read(said) {
                return;
            }
        }
    }

    /// Kills what is left of the command and of all that it has started.
    fn kill_group(&self) {
        // There may be nothing left.
        let _ = killpg(self.pid, Signal::SIGKILL);
    }

    fn is_gone_within(&self, limit: Duration) -> bool {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        poll(&mut [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)], timeout) == Ok(1)
    }
}

fn judge(status: WaitStatus, said: &[u8]) -> Result<(), ProbeError> {
    match status {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, code) => Err(ended(&format!("exit status {code}"), said)),
        WaitStatus::Signaled(_, signal, _) => Err(ended(&format!("ended by {signal}"), said)),
        status => Err(ended(&format!("ended as {status:?}"), said)),
    }
}

/// How the command ended, and on one line what it said last.
fn ended(how: &str, said: &[u8]) -> ProbeError {
    let text = String::from_utf8_lossy(said);
    let words: Vec<_> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let said = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    ProbeError::Command { how: how.to_owned(), said }
}
