//! One thread of another process made to stand still, while the others run on (ptrace(2)).

use std::fs;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A thread that stands still. It must be made and dropped on the same thread of ours, which is its
/// tracer; dropped, it runs on.
#[derive(Debug)]
pub struct Stalled {
    thread: Pid,
}

impl Stalled {
    /// Stops the thread called `name` of process `process`.
    #[track_caller]
    pub fn stop(process: Pid, name: &str) -> Self {
        let thread = thread_of(process, name);
        ptrace::seize(thread, ptrace::Options::empty()).expect("root may trace");
        let stalled = Self { thread };
        ptrace::interrupt(thread).expect("it is traced");
        let status = waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it is traced");
        assert!(matches!(status, WaitStatus::PtraceEvent(..)), "{status:?}");
        stalled
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        // Where the process is gone, so is the thread.
        let _ = ptrace::detach(self.thread, None);
    }
}

#[track_caller]
fn thread_of(process: Pid, name: &str) -> Pid {
    let tasks = format!("/proc/{process}/task");
    for entry in fs::read_dir(&tasks).expect("the process runs") {
        let entry = entry.expect("the process runs");
        let is_it =
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        if is_it {
            let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
            return Pid::from_raw(id.expect("a directory per thread, named by its number"));
        }
    }
    panic!("process {process} has no thread {name}")
}
