//! The lab of `scripts/topology`, up as long as the value lives.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock::Moment;
use crate::frame::Mac;
use crate::namespace::Namespace;
use crate::programs::{programs, root, with_dpdk};
use crate::status::Status;
use crate::wait::wait_until;

/// The IPv4 VIP.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
/// The IPv6 VIP.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);
/// The VIPs.
pub const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];

/// Some of the addresses in the prefixes that are the VIPs of the tiered mode, the families by turns.
pub const TIERED_VIPS: [IpAddr; 8] = [
    tiered_vip4(0),
    tiered_vip6(0),
    tiered_vip4(53),
    tiered_vip6(0x53),
    tiered_vip4(128),
    tiered_vip6(0x8000),
    tiered_vip4(255),
    tiered_vip6(0xffff),
];

/// The VIPs of the anycast mode.
pub const ANYCAST_VIPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(172, 20, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x20, 0, 0, 0, 0, 1)),
];

const fn tiered_vip4(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, host))
}

const fn tiered_vip6(host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x80, 0, 0, 0, 0, host))
}

/// Name of the tests' lab, which stands beside one that somebody has up for himself.
const NAME: &str = "vdtest";
/// How many buckets there are.
pub const BUCKETS: u32 = 4096;

/// What kind of lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// `shared-mac`, `tiered` or `anycast`.
    pub mode: &'static str,
    /// How many nodes each next hop of the tiered mode has: 2 or 3.
    pub tiers: u8,
    /// What tells which node has which next hop of the tiered mode: `heartbeat` or `wire`.
    pub claims: &'static str,
    /// How many nodes.
    pub nodes: u8,
    /// How many hosts more, named and numbered on, that are no members and run no vipdp.
    pub spares: u8,
    /// `unicast` or `multicast`; in the tiered mode `virtual` or `node`.
    pub mac: &'static str,
    /// `af_xdp`, `dpdk` or `dpdk-af-xdp`: what has the NIC. Where it is `af_xdp` and need not be, it
    /// is what the environment names in `VIPDP_IO`: so all tests run with it.
    pub io: &'static str,
    /// Whether it has to be the kernel's, with AF_XDP, whatever the environment names.
    pub wants_kernel_nic: bool,
    /// `direct` or `tap`; with DPDK it is `tap` whatever this says.
    pub egress: &'static str,
    /// `off`, `drop` or `full`: what the XDP program decides by itself. Where it is `off` and need not be,
    /// it is what the environment names in `VIPDP_OFFLOAD`: so all tests run with it.
    pub offload: &'static str,
    /// `none`, `majority` or `gateway`: the router then has an address of each family.
    pub partition: &'static str,
    /// How long a returning node waits for its buckets, seconds.
    pub hold_s: u32,
    /// Whether vipdp runs on the nodes.
    pub has_vipdp: bool,
    /// What there is of the anycast mode alone.
    pub anycast: Anycast,
}

/// What a lab of the anycast mode is like.
#[derive(Clone, Debug)]
pub struct Anycast {
    /// `bgp` or `interface`: who announces the VIPs, vipdp or a daemon that looks at `lo`.
    pub announce: &'static str,
    /// That daemon: `frr`, `bird` or `gobgp`.
    pub daemon: &'static str,
    /// `unnumbered` or `numbered`: how a node and its leaf find each other.
    pub peers: &'static str,
    /// Whether each flow has an owner to whom the other nodes forward.
    pub steers: bool,
    /// `gue` or `mac`: how.
    pub forward: &'static str,
    /// Interval of BFD, milliseconds; a neighbour is down after three.
    pub bfd_ms: u32,
}

impl Default for Anycast {
    fn default() -> Self {
        Self {
            announce: "bgp",
            daemon: "frr",
            peers: "unnumbered",
            steers: false,
            forward: "gue",
            bfd_ms: 300,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: "shared-mac",
            tiers: 2,
            claims: "heartbeat",
            nodes: 4,
            spares: 0,
            mac: "unicast",
            io: "af_xdp",
            wants_kernel_nic: false,
            egress: "direct",
            offload: "off",
            partition: "none",
            hold_s: 1,
            has_vipdp: true,
            anycast: Anycast::default(),
        }
    }
}

impl Options {
    /// What has the NIC, as `scripts/topology` names it.
    fn io(&self) -> String {
        let is_kernels = self.wants_kernel_nic || !self.has_vipdp || self.offload != "off";
        let is_free = self.io == "af_xdp" && !is_kernels;
        let wanted = if is_free { std::env::var("VIPDP_IO").ok() } else { None };
        wanted.unwrap_or_else(|| self.io.to_owned())
    }

    /// The arguments of `scripts/topology up`.
    fn arguments(&self) -> String {
        let Self { mode, nodes, spares, offload, partition, hold_s, .. } = self;
        let io = self.io();
        let egress = if io == "af_xdp" { self.egress } else { "tap" };
        let offload = match (*mode, egress, *offload) {
            ("shared-mac", "direct", "off") => std::env::var("VIPDP_OFFLOAD").ok(),
            _ => None,
        }
        .unwrap_or_else(|| (*offload).to_owned());
        let mut all = format!(
            "up --mode {mode} --nodes {nodes} --spares {spares} --io {io} --egress {egress} --offload {offload} --partition {partition} --hold {hold_s}"
        );
        all += &if *mode == "anycast" {
            let Anycast { announce, daemon, peers, steers, forward, bfd_ms } = &self.anycast;
            let steer = if *steers { "yes" } else { "no" };
            format!(
                " --announce {announce} --daemon {daemon} --peers {peers} --steer {steer} --forward {forward} --bfd {bfd_ms}"
            )
        } else {
            let Self { tiers, claims, mac, .. } = self;
            format!(" --tiers {tiers} --claims {claims} --mac {mac}")
        };
        if !self.has_vipdp {
            all += " --no-vipdp";
        }
        all
    }
}

/// A lab that is up. There is one at a time on a machine: another waits.
#[derive(Debug)]
pub struct Lab {
    mode: &'static str,
    vipdp: &'static Path,
    nodes: u8,
    spares: u8,
    since: Instant,
    // Last, so that the next lab comes when this one is down.
    _turn: Flock<File>,
}

impl Lab {
    /// Makes a lab, and waits until its nodes share all buckets evenly.
    #[track_caller]
    pub fn up(options: &Options) -> Self {
        let programs = programs();
        let vipdp = if options.io() == "af_xdp" { &programs.vipdp } else { with_dpdk() };
        let file = File::create("/run/vipdp-tests.lock").expect("root may write to /run");
        let turn = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error);
        let since = Instant::now();
        let lab = Self {
            mode: options.mode,
            vipdp,
            nodes: options.nodes,
            spares: options.spares,
            since,
            _turn: turn.expect("flock"),
        };
        // What a killed test left.
        lab.topology("down");
        lab.topology(&options.arguments());
        lab.say("up");
        lab
    }

    /// The hosts' names, nodes and then spares: `n1`, `n2` and so on; the slot of `n1` is 0.
    pub fn nodes(&self) -> impl Iterator<Item = String> {
        (1..=self.nodes + self.spares).map(|number| format!("n{number}"))
    }

    /// Addresses of the service, the families by turns.
    pub fn servers(&self) -> &'static [IpAddr] {
        match self.mode {
            "tiered" => &TIERED_VIPS,
            "anycast" => &ANYCAST_VIPS,
            _ => &VIPS,
        }
    }

    /// One of the namespaces: `client`, `router`, `sw`, a spine, a leaf, or a node.
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(format!("{NAME}-{name}"))
    }

    /// Where files of the node are.
    pub fn directory(&self, node: &str) -> PathBuf {
        Path::new("/run").join(format!("vipdp-lab-{NAME}")).join(node)
    }

    /// A file that all nodes share: `cluster.toml`, `cluster.key`.
    pub fn shared_file(&self, name: &str) -> PathBuf {
        self.directory(name)
    }

    /// The node's configuration.
    pub fn config(&self, node: &str) -> PathBuf {
        self.directory(node).join("node.toml")
    }

    /// Runs `scripts/topology` with arguments split at white space; panics unless it succeeds.
    #[track_caller]
    pub fn topology(&self, arguments: &str) -> String {
        let output = Command::new(root().join("scripts/topology"))
            .args(arguments.split_whitespace())
            .env("VIPDP_LAB", NAME)
            .env("VIPDP", self.vipdp)
            .output()
            .expect("scripts/topology runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "topology {arguments}: {error}{out}");
        out
    }

    /// The MAC address of an interface.
    #[track_caller]
    pub fn mac(&self, namespace: &str, interface: &str) -> Mac {
        let said = self.namespace(namespace).run(&format!("ip -o link show {interface}"));
        let mac = said.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
        mac.and_then(|mac| mac.parse().ok()).unwrap_or_else(|| panic!("no MAC address: {said}"))
    }

    /// Sends SIGKILL to the node's vipdp; returns when that was.
    #[track_caller]
    pub fn kill(&self, node: &str) -> Moment {
        let pid = self.pid(node);
        let moment = Moment::now();
        kill(pid, Signal::SIGKILL).expect("it runs");
        moment
    }

    /// The node's vipdp.
    #[track_caller]
    pub fn pid(&self, node: &str) -> Pid {
        let record = self.directory(node).join("vipdp.pid");
        let text = std::fs::read_to_string(&record).expect("vipdp runs on the node");
        let pid = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
        Pid::from_raw(pid.unwrap_or_else(|| panic!("{}: {text:?}", record.display())))
    }

    /// What the node's vipdp says of itself; `None` if it does not answer.
    pub fn try_status(&self, node: &str) -> Option<Status> {
        crate::vipdp::status(&self.config(node))
    }

    /// What the node's vipdp says of itself.
    #[track_caller]
    pub fn status(&self, node: &str) -> Status {
        self.try_status(node).unwrap_or_else(|| panic!("vipdp on {node} tells no status"))
    }

    /// Whether the named nodes, and no others, own all buckets, evenly, and agree about it.
    ///
    /// In the tiered mode buckets are next-hop addresses. With two tiers each node's absence adds
    /// one to what every other owns, and those of two absent nodes are nobody's.
    pub fn is_shared_by(&self, nodes: &[&str]) -> bool {
        let statuses: Vec<_> = nodes.iter().filter_map(|node| self.try_status(node)).collect();
        if statuses.len() != nodes.len() {
            return false;
        }
        let part = BUCKETS / nodes.len() as u32;
        let (part, spread, unowned) = match self.mode {
            "tiered" => {
                let members = statuses[0].members.len() as u32;
                let absent = members - nodes.len() as u32;
                (members - 1 + absent, 0, absent * absent.saturating_sub(1))
            }
            _ => (part, part / 25, 0),
        };
        let count = statuses[0].buckets.owners.len() as u32;
        statuses.iter().map(|status| status.buckets.owned).sum::<u32>() == count - unowned
            && statuses.iter().all(|Status { buckets, .. }| {
                buckets.unowned == unowned
                    && buckets.owned.abs_diff(part) <= spread
                    && buckets.owners == statuses[0].buckets.owners
            })
    }

    /// Waits until the named nodes share all buckets evenly; see [`is_shared_by`](Self::is_shared_by).
    #[track_caller]
    pub fn wait_shared_by(&self, nodes: &[&str], limit: Duration) {
        wait_until(limit, &format!("{nodes:?} share all buckets"), || self.is_shared_by(nodes));
    }

    /// Prints a line with the time since the lab was asked for.
    pub fn say(&self, line: &str) {
        eprintln!("[{:6.2} s] {line}", self.since.elapsed().as_secs_f64());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.nodes() {
                let log = self.directory(&node).join("vipdp.log");
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(25)..];
                eprintln!("--- vipdp on {node}\n{}", last.join("\n"));
            }
        }
        self.say("going down");
        let down = Command::new(root().join("scripts/topology"))
            .arg("down")
            .env("VIPDP_LAB", NAME)
            .output();
        // A second panic would abort the tests; the next lab goes down first, too.
        if !down.is_ok_and(|down| down.status.success()) {
            eprintln!("the lab does not go down");
        }
    }
}
