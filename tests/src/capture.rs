//! What was on a wire: `tcpdump`, sure to see everything from its start to its end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::frame::Frame;
use crate::namespace::Namespace;
use crate::wait::wait_until;

/// How long `tcpdump` may take for what it is asked for.
const LIMIT: Duration = Duration::from_secs(20);
/// How often a new capture is looked at.
const LOOKS: u32 = 5;
/// How much of a frame is kept, bytes: all of it, on links with the usual MTU. In immediate mode
/// each frame takes a slot of this size in the kernel's buffer, so more would make the slots few.
const SNAPLEN: &str = "2048";
/// Size of that buffer, KiB: room for thousands of frames while `tcpdump` waits for a core.
const BUFFER_KIB: &str = "16384";
/// Lengths in a capture file (draft-ietf-opsawg-pcap, sections 4 and 5), bytes.
const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Child,
    lines: Receiver<String>,
    directory: TempDir,
    /// Frames that the kernel has counted and nobody will write.
    unwritten_at_start: u64,
}

impl Capture {
    /// Starts to capture what passes `interface` and the filter (pcap-filter(7)); returns when
    /// frames are being seen.
    ///
    /// Whose frames are of interest is said by Ethernet addresses: `inbound` makes `tcpdump`'s
    /// counts differ from what it writes.
    #[track_caller]
    pub fn start(namespace: &Namespace, interface: &str, filter: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut tcpdump = namespace
            .command("tcpdump")
            .args(["-Z", "root", "-n", "-U", "--immediate-mode"])
            .args(["-B", BUFFER_KIB, "-s", SNAPLEN, "-i", interface, "-w"])
            .arg(directory.path().join("pcap"))
            .arg(filter)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump runs");
        let stderr = BufReader::new(tcpdump.stderr.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        let mut capture = Self { tcpdump, lines, directory, unwritten_at_start: 0 };
        let first = capture.line();
        assert!(first.contains("listening on"), "tcpdump {filter}: {first}");
        // The kernel counts what came before the filter was in place, and was discarded. Of several
        // looks, the least is without what is just being written.
        let looks = (0..LOOKS).map(|_| capture.unwritten());
        capture.unwritten_at_start = looks.min().expect("there are some");
        capture
    }

    /// All frames so far: none that has passed already is missing.
    #[track_caller]
    pub fn frames(&self) -> Vec<Frame> {
        wait_until(LIMIT, "tcpdump has written what the kernel has", || {
            self.unwritten() <= self.unwritten_at_start
        });
        read(&self.directory.path().join("pcap"))
    }

    /// How many frames the kernel has counted that `tcpdump` has not written.
    #[track_caller]
    fn unwritten(&self) -> u64 {
        self.signal(Signal::SIGUSR1);
        // "tcpdump: 6 packets captured, 7 packets received by filter, 0 packets dropped by kernel"
        let line = self.line();
        let counts: Vec<u64> =
            line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match counts[..] {
            [captured, received, 0] => received - captured,
            _ => panic!("not all was captured: {line}"),
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.tcpdump.id() as i32), signal).expect("tcpdump runs");
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("tcpdump says something")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It is gone already where the lab is.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// The frames in a capture file of this machine.
fn read(path: &Path) -> Vec<Frame> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let mut rest = bytes.get(FILE_HEADER_LEN..).unwrap_or_default();
    let mut frames = Vec::new();
    while let Some((header, body)) = rest.split_at_checked(RECORD_HEADER_LEN) {
        let number = |at: usize| {
            let bytes = header[at..at + 4].try_into().expect("four bytes");
            u64::from(u32::from_ne_bytes(bytes))
        };
        let (seconds, micros, length) = (number(0), number(4), number(8) as usize);
        let Some((frame, next)) = body.split_at_checked(length) else { break };
        frames.push(Frame {
            at_wall_ns: seconds * 1_000_000_000 + micros * 1_000,
            bytes: frame.into(),
        });
        rest = next;
    }
    frames
}
