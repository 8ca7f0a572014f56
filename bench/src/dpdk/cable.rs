//! What each port receives from a veth pair under more than it can take.
//!
//! A turn is a process of its own, since DPDK starts once in one. Where a port can drive the kernel's receive
//! side itself, it does; for the packet socket a thread of the kernel's does, on the same core.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser as _, ValueEnum};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::time::ClockId;
use nix::unistd::Pid;
use vipdp_core::counters::{Count, WorkerCounters};
use vipdp_core::port::Port;
use vipdp_core::worker::Worker;
use vipdp_io::af_xdp::{self, AfXdpPort, BusyPoll};
use vipdp_io::affinity;
use vipdp_io::dpdk::{self, Nic};
use vipdp_io::xdp::{AttachMode, NextHops, Program};

use super::report::{Report, Unit};
use super::{CLIENT_FIRST, Counting, Held, PORT, SHARED_MAC, VIP, now_ns, shared};
use crate::pktgen;

/// Both ends' name.
const INTERFACE: &str = "eth0";

/// How long the first packet may take: the generator has its programs to load.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// How long packets come before they count.
const WARM_UP: Duration = Duration::from_millis(100);
/// How long the generator goes on after the receiver should have ended.
const MARGIN: Duration = Duration::from_millis(500);

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// Turns of each port.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of a turn.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// The generator's core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    generator_core: usize,
    /// The receiver's core.
    #[arg(long, value_name = "N", default_value_t = 1)]
    receiver_core: usize,
}

/// One turn.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Turn {
    /// Which port.
    #[arg(long, value_enum)]
    way: Way,
    /// Its length.
    #[arg(long)]
    seconds: f64,
    /// The core to receive on.
    #[arg(long)]
    core: usize,
}

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    AfXdp,
    NetAfXdp,
    NetAfPacket,
}

impl Way {
    const ALL: [Self; 3] = [Self::AfXdp, Self::NetAfXdp, Self::NetAfPacket];

    fn name(self) -> &'static str {
        match self {
            Self::AfXdp => "af-xdp",
            Self::NetAfXdp => "net-af-xdp",
            Self::NetAfPacket => "net-af-packet",
        }
    }
}

pub(super) fn run(options: &Options) -> Result<Report> {
    ensure!(options.generator_core != options.receiver_core, "give two cores");
    let mut report = Report::new(Unit::PacketsPerS);
    for _ in 0..options.rounds {
        for way in Way::ALL {
            let rate = turn(options, way).with_context(|| way.name())?;
            report.sample(way.name(), rate);
        }
    }
    Ok(report)
}

/// One turn over a cable of its own. Returns packets per second.
fn turn(options: &Options, way: Way) -> Result<f64> {
    let cable = Cable::new(way, options.receiver_core)?;
    let program = std::env::current_exe().context("which program is this?")?;
    let mut child = cable
        .command(&cable.node, &program)
        .args(["turn", "--way", way.name()])
        .args(["--seconds", &options.seconds.to_string()])
        .args(["--core", &options.receiver_core.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the receiver")?;
    let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let rate = measure(options, &cable, &mut lines);
    let status = child.wait()?;
    ensure!(status.success(), "the receiver: {status}");
    rate
}

fn measure(
    options: &Options,
    cable: &Cable,
    lines: &mut impl Iterator<Item = std::io::Result<String>>,
) -> Result<f64> {
    let mut line = || lines.next().context("the receiver ended early")?.context("it says nothing");
    ensure!(line()? == "ready", "the receiver is not ready");
    let seconds = Duration::from_secs_f64(options.seconds) + WARM_UP + MARGIN;
    let generator = [
        "pktgen",
        "--interface",
        INTERFACE,
        "--to",
        &VIP.to_string(),
        "--from",
        &CLIENT_FIRST.to_string(),
        "--to-mac",
        &SHARED_MAC.to_string(),
        "--port",
        &PORT.to_string(),
        "--core",
        &options.generator_core.to_string(),
        "--duration",
        &seconds.as_secs_f64().to_string(),
        "--repeat",
        "65536",
        "--uncounted",
        "--linger-ms",
        "0",
    ];
    let generator = pktgen::Options::try_parse_from(generator)?;
    thread::scope(|scope| {
        let sent = scope.spawn(|| -> Result<pktgen::Report> {
            enter(&cable.generator)?;
            pktgen::run(&generator, None)
        });
        let rate = line()?.parse().context("a rate")?;
        sent.join().map_err(|_| anyhow!("the generator ended in a panic"))??;
        Ok(rate)
    })
}

/// The receiver's process.
pub(super) fn take_turn(turn: &Turn) -> Result<()> {
    let (mut program, port);
    match turn.way {
        Way::AfXdp => {
            let vips = [std::net::IpAddr::from(VIP).into()];
            program = Program::attach(INTERFACE, AttachMode::Native, &vips, &NextHops::default())?;
            let options = af_xdp::Options {
                busy_poll: BusyPoll::Always,
                ..af_xdp::Options::new(INTERFACE, 0)
            };
            port = AfXdpPort::open(&options)?;
            program.bind(0, &port)?;
            affinity::pin(turn.core)?;
            serve(port, turn)
        }
        Way::NetAfXdp | Way::NetAfPacket => {
            let driver = turn.way.name().replace('-', "_");
            let device = format!("{driver}0,iface={INTERFACE}");
            let options = dpdk::Options {
                hugepages: false,
                macs: vec![SHARED_MAC],
                ..dpdk::Options::new(device)
            };
            let (_nic, mut ports) = Nic::open(&options)?;
            affinity::pin(turn.core)?;
            let mut port = ports.pop().context("the device has a queue")?;
            port.enter_thread()?;
            serve(port, turn)
        }
    }
}

/// Waits for packets, counts them, and says how many there were a second.
fn serve<P: Port>(port: P, turn: &Turn) -> Result<()> {
    let counters = Arc::<WorkerCounters>::default();
    let mut worker =
        Worker::new(port, Counting::default(), shared(Held::OneIn(4)), Arc::clone(&counters));
    println(&"ready")?;
    let start = Instant::now();
    while worker.poll_once(now_ns(ClockId::CLOCK_MONOTONIC)) == 0 {
        ensure!(start.elapsed() < STARTS_WITHIN, "no packets came");
    }
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        worker.poll_once(now_ns(ClockId::CLOCK_MONOTONIC));
    }
    let (start, before) = (Instant::now(), counters.get(Count::Received));
    while start.elapsed().as_secs_f64() < turn.seconds {
        for _ in 0..64 {
            worker.poll_once(now_ns(ClockId::CLOCK_MONOTONIC));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let received = counters.get(Count::Received) - before;
    let share = worker.host().delivered as f64 / counters.get(Count::Received) as f64;
    ensure!((share - 0.25).abs() < 0.05, "{share} of the packets were delivered");
    println(&(received as f64 / seconds))
}

fn println(line: &impl std::fmt::Display) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

/// Two namespaces and a veth pair of one queue.
struct Cable {
    generator: String,
    node: String,
}

impl Cable {
    fn new(way: Way, receiver_core: usize) -> Result<Self> {
        let name = |end| format!("vdd-{}-{end}", std::process::id());
        let cable = Self { generator: name("gen"), node: name("node") };
        let Self { generator, node } = &cable;
        for line in [
            format!("ip netns add {generator}"),
            format!("ip netns add {node}"),
            format!(
                "ip -n {generator} link add {INTERFACE} type veth peer name {INTERFACE} netns {node}"
            ),
        ] {
            run_line(&line)?;
        }
        for namespace in [generator, node] {
            inside(namespace, || Ok(fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?))?;
        }
        for line in [
            // By NAPI it receives only with an XDP program, or so.
            format!("ip netns exec {node} ethtool -K {INTERFACE} gro on"),
            format!("ip -n {node} link set {INTERFACE} arp off up"),
            format!("ip -n {generator} link set {INTERFACE} up"),
        ] {
            run_line(&line)?;
        }
        if way == Way::NetAfPacket {
            cable.receive_on(receiver_core)?;
        } else {
            // The worker drives the receive side; timers of the kernel's only if it does not.
            for (setting, value) in [("napi_defer_hard_irqs", "2"), ("gro_flush_timeout", "200000")]
            {
                cable.set(setting, value)?;
            }
        }
        Ok(cable)
    }

    /// Has a thread of the kernel's receive, on this core.
    fn receive_on(&self, core: usize) -> Result<()> {
        let threads = || -> Result<Vec<i32>> {
            let mut found = Vec::new();
            for entry in fs::read_dir("/proc")? {
                let entry = entry?;
                let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                else {
                    continue;
                };
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                if name.starts_with(&format!("napi/{INTERFACE}-")) {
                    found.push(pid);
                }
            }
            Ok(found)
        };
        let before = threads()?;
        self.set("threaded", "1")?;
        let mut set = CpuSet::new();
        set.set(core)?;
        let new: Vec<_> = threads()?.into_iter().filter(|pid| !before.contains(pid)).collect();
        ensure!(!new.is_empty(), "the kernel started no thread to receive");
        for thread in new {
            sched_setaffinity(Pid::from_raw(thread), &set).context("cannot move the thread")?;
        }
        Ok(())
    }

    fn set(&self, setting: &str, value: &str) -> Result<()> {
        let path = format!("/sys/class/net/{INTERFACE}/{setting}");
        let shell = format!("echo {value} > {path}");
        let output = self.command(&self.node, "sh").args(["-c", &shell]).output()?;
        ensure!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn command(&self, namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // At once: a namespace is taken down some time after it is deleted.
        let _ = run_line(&format!("ip -n {} link delete {INTERFACE}", self.node));
        for namespace in [&self.generator, &self.node] {
            // Nobody is left to tell if it cannot be done.
            let _ = run_line(&format!("ip netns delete {namespace}"));
        }
    }
}

fn enter(namespace: &str) -> Result<()> {
    let file = File::open(format!("/run/netns/{namespace}")).context("the namespace")?;
    setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")
}

fn inside<T: Send>(namespace: &str, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(namespace)?;
            body()
        });
        thread.join().map_err(|_| anyhow!("a panic in a namespace"))?
    })
}

fn run_line(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("a command")?;
    let output = Command::new(program).args(words).output().with_context(|| line.to_owned())?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
