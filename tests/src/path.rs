//! A node and its router, each in a namespace of its own, and a switch between them.
//!
//! ```text
//!   node (eth0) --- (node) switch (router) --- (eth0) router
//!   10.99.0.1/30                               10.99.0.2/30
//!   2001:db8:99::1/64                          2001:db8:99::2/64
//! ```
//!
//! The switch is what makes a path fail without a word: neither end loses its carrier.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::namespace::Namespace;

/// The node's addresses.
pub const NODE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1)),
];
/// The router's addresses.
pub const ROUTER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 2)),
];

/// The path. It is taken down when this is dropped.
#[derive(Debug)]
pub struct Path {
    node: Namespace,
    switch: Namespace,
    router: Namespace,
}

impl Path {
    /// Makes a path that is ready for packets: no address is still being checked for duplicates.
    /// Any number of them stand side by side.
    #[track_caller]
    pub fn up() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        remove_leftovers();
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let namespace = |end: &str| Namespace::new(format!("{name}-{end}"));
        let path = Self {
            node: namespace("node"),
            switch: namespace("switch"),
            router: namespace("router"),
        };
        for namespace in [&path.node, &path.switch, &path.router] {
            run(&format!("ip netns add {}", namespace.name()));
            namespace.run("ip link set lo up");
            // Addresses are unique here, and to wait for the proof would take a second each time.
            namespace.run("sysctl -q -w net.ipv6.conf.default.accept_dad=0");
        }
        path.switch.run("ip link add br0 type bridge forward_delay 0 mcast_snooping 0");
        path.switch.run("ip link set br0 up");
        let ends = [(&path.node, "node", NODE), (&path.router, "router", ROUTER)];
        for (end, port, [v4, v6]) in ends {
            let peer = end.name();
            path.switch.run(&format!("ip link add {port} type veth peer name eth0 netns {peer}"));
            path.switch.run(&format!("ip link set {port} master br0 up"));
            end.run(&format!("ip address add {v4}/30 dev eth0"));
            end.run(&format!("ip address add {v6}/64 dev eth0"));
            end.run("ip link set eth0 up");
        }
        path
    }

    /// Where the node is.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// Where the router is.
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// From now on nothing gets through, and both ends still have a carrier.
    #[track_caller]
    pub fn cut(&self) {
        self.switch.run("ip link set node nomaster");
    }

    /// Undoes [`cut`](Self::cut).
    #[track_caller]
    pub fn mend(&self) {
        self.switch.run("ip link set node master br0");
    }

    /// The node's link goes down: it has no carrier, and the router does not see it.
    #[track_caller]
    pub fn unplug(&self) {
        self.switch.run("ip link set node down");
    }

    /// Undoes [`unplug`](Self::unplug).
    #[track_caller]
    pub fn plug(&self) {
        self.switch.run("ip link set node up");
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.switch, &self.router] {
            remove(namespace.name());
        }
    }
}

/// Starts all names of such namespaces; then comes the process that made them.
const PREFIX: &str = "vdpath";

/// Removes what killed tests left.
fn remove_leftovers() {
    let list = Command::new("ip").args(["netns", "list"]).output().expect("`ip` runs");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    for name in names {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            remove(name);
        }
    }
}

fn remove(name: &str) {
    for process in Namespace::new(name).processes() {
        // It may end by itself meanwhile.
        let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
    }
    // Another test may have removed the same leftover.
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
}

#[track_caller]
fn run(line: &str) {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a command"));
    let output = command.args(words).output().expect("it runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
