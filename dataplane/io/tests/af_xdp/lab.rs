//! The two namespaces, and a raw socket on the peer's end.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::frames::{EXPERIMENTAL, MAC_NODE, MAC_PEER};

/// How long a test waits for anything before it fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

static LABS: AtomicU32 = AtomicU32::new(0);

/// Two namespaces with a veth pair; removed when dropped.
pub struct Lab {
    pub node: String,
    pub peer: String,
}

impl Lab {
    /// With two queues.
    pub fn new() -> Self {
        Self::with_queues(2)
    }

    pub fn with_queues(queues: u32) -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("vdio-{}-{number}-{end}", std::process::id());
        let lab = Self { node: name("node"), peer: name("peer") };
        let Self { node, peer } = &lab;
        for namespace in [node, peer] {
            succeed(Command::new("ip").args(["netns", "add", namespace]));
        }
        let queues = format!("numtxqueues {queues} numrxqueues {queues}");
        let setup = format!(
            "link add peer0 netns {peer} {queues} address {} type veth \
             peer name node0 netns {node} {queues} address {}",
            mac(MAC_PEER),
            mac(MAC_NODE),
        );
        succeed(Command::new("ip").args(setup.split_whitespace()));
        for (namespace, interface, host) in [(peer, "peer0", 1), (node, "node0", 2)] {
            for command in [
                format!("link set {interface} addrgenmode none"),
                format!("address add 198.18.0.{host}/24 dev {interface}"),
                format!("address add fd00:18::{host}/64 dev {interface} nodad"),
                format!("link set {interface} up"),
            ] {
                let words = command.split_whitespace();
                succeed(Command::new("ip").args(["-n", namespace]).args(words));
            }
        }
        // Frames from the peer's own sockets would otherwise come with unfinished checksums.
        run(peer, &["ethtool", "-K", "peer0", "tx", "off"]);
        lab
    }

    /// A raw socket on the peer's end.
    pub fn wire(&self) -> Wire {
        inside(&self.peer, || Wire::open("peer0")).expect("a packet socket")
    }

    /// Whether an XDP program is attached to the node's interface.
    pub fn has_xdp(&self) -> bool {
        run(&self.node, &["ip", "link", "show", "dev", "node0"]).contains("prog/xdp")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.peer] {
            // One that was never made cannot be removed, which is as good.
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

/// Runs `body` on a thread of its own in the network namespace.
pub fn inside<T: Send>(namespace: &str, body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace");
            setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a command in the namespace and returns what it printed.
pub fn run(namespace: &str, command: &[&str]) -> String {
    inside(namespace, || succeed(Command::new(command[0]).args(&command[1..])))
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (is this root?): {text}{errors}");
    text
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        thread::yield_now();
    }
}

/// The unspecified address of the same family.
pub fn any(address: &str) -> IpAddr {
    match address.parse().expect("an address") {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The peer's end of the cable, by raw sockets.
pub struct Wire {
    /// Without a protocol of its own: the kernel reads each frame's, and spreads flows over queues.
    sender: OwnedFd,
    /// Of the experimental EtherType.
    receiver: OwnedFd,
}

impl Wire {
    pub fn open(interface: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?.cast_signed();
        Ok(Self { sender: packet_socket(index, 0)?, receiver: packet_socket(index, EXPERIMENTAL)? })
    }

    /// Sends one frame; the kernel may drop it when the other end is slow.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the kernel reads the frame's bytes during the call.
        let sent =
            unsafe { libc::send(self.sender.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{error}");
        }
    }

    /// The next frame of the experimental EtherType, if one is there.
    pub fn receive_experimental(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 4096];
        // SAFETY: the kernel writes at most as many bytes as the vector has.
        let len = unsafe {
            libc::recv(
                self.receiver.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
            )
        };
        frame.truncate(usize::try_from(len).ok()?);
        Some(frame)
    }
}

fn packet_socket(index: i32, ethertype: u16) -> io::Result<OwnedFd> {
    let protocol = ethertype.to_be();
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened just now and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all of it are integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of the address during the call.
    let result = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
