//! One TCP connection through vipdp, with super-packets and without.
//!
//! ```text
//!   vds-PID-client                                   vds-PID-node
//!   192.0.2.1, 2001:db8:53::1                        192.0.2.53, 2001:db8:53::53 on vipdp's TAP
//!     |                                                 |
//!     +-- eth0 ------------- veth ------------- eth0 -- vipdp, egress = "tap", on core 0
//! ```
//!
//! Both ends of the connection run on core 1. The receiver copies no byte, it has the kernel throw them
//! away (`MSG_TRUNC` in tcp(7)): two ends on one core are slow enough.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nix::errno::Errno;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::Pid;
use tempfile::TempDir;

const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53));
const PORT: u16 = 8080;
/// How long vipdp may take to own all buckets, or a connection to be made.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Bytes that an end sends, or asks for, at once.
const CHUNK: usize = 1 << 17;

/// Measures one TCP connection through vipdp with `coalesce` on and off, by turns: the service sends,
/// then the client does. Makes its own network namespaces and needs root and two cores.
#[derive(Debug, Parser)]
#[command(name = "stream", version)]
pub struct Cli {
    /// How often each case is measured.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How long each time, in seconds.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// The program `vipdp`, if it is not beside this one.
    #[arg(long)]
    pub vipdp: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Service,
    Client,
}

/// Runs all rounds and prints medians and their ratio.
///
/// # Errors
/// When a namespace cannot be made, vipdp does not start, or a connection breaks.
pub fn run(cli: &Cli) -> Result<()> {
    ensure!(cli.rounds > 0 && cli.seconds > 0.0, "nothing is to be measured");
    let beside = || Ok::<_, io::Error>(std::env::current_exe()?.with_file_name("vipdp"));
    let vipdp = cli.vipdp.clone().map_or_else(beside, Ok)?;
    let cases = [Sender::Service, Sender::Client]
        .into_iter()
        .flat_map(|sender| [VIP4, VIP6].map(|vip| (sender, vip)));
    let cases: Vec<_> = cases.collect();
    let mut rates = vec![[Vec::new(), Vec::new()]; cases.len()];
    for _ in 0..cli.rounds {
        for (at, coalesce) in [true, false].into_iter().enumerate() {
            let pair = Pair::up(&vipdp, coalesce)?;
            for ((sender, vip), rates) in cases.iter().zip(&mut rates) {
                rates[at].push(pair.rate(*sender, *vip, Duration::from_secs_f64(cli.seconds))?);
            }
        }
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{:8} {:4} {:>24} {:>24} {:>6}", "sender", "", "coalesce", "without", "ratio")?;
    for ((sender, vip), [with, without]) in cases.iter().zip(&mut rates) {
        let sender = if *sender == Sender::Service { "service" } else { "client" };
        let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
        let ratio = median(with) / median(without);
        let (with, without) = (spread(with), spread(without));
        writeln!(out, "{sender:8} {family:4} {with:>24} {without:>24} {ratio:6.2}")?;
    }
    Ok(())
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Median, least and most, in Gbit/s, of sorted rates.
fn spread(rates: &[f64]) -> String {
    let all = [rates[rates.len() / 2], rates[0], rates[rates.len() - 1]].map(|rate| rate / 1e9);
    format!("{:.2} [{:.2}..{:.2}] Gb/s", all[0], all[1], all[2])
}

/// A network namespace, gone when dropped.
struct Namespace(String);

impl Namespace {
    fn new(end: &str) -> Result<Self> {
        let namespace = Self(format!("vds-{}-{end}", std::process::id()));
        let mut command = Command::new("ip");
        succeed(command.args(["netns", "add", &namespace.0]))?;
        Ok(namespace)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    fn run(&self, line: &str) -> Result<()> {
        let mut words = line.split_whitespace();
        let program = words.next().context("no command")?;
        succeed(self.command(Path::new(program)).args(words).stdout(Stdio::null()))
    }

    /// Runs `job` on a thread inside, on core 1.
    fn within<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            let path = format!("/run/netns/{}", self.0);
            setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            let mut cores = CpuSet::new();
            cores.set(1)?;
            sched_setaffinity(Pid::from_raw(0), &cores)?;
            job()
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(inside);
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody is left to tell if it cannot be done.
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// vipdp, and what it runs on. The process goes first.
struct Pair {
    _vipdp: Running,
    client: Namespace,
    node: Namespace,
    _directory: TempDir,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Pair {
    fn up(vipdp: &Path, coalesce: bool) -> Result<Self> {
        let (client, node) = (Namespace::new("client")?, Namespace::new("node")?);
        client.run(&format!("ip link add eth0 type veth peer name eth0 netns {}", node.0))?;
        for (namespace, last) in [(&client, 1), (&node, 11)] {
            namespace.run("ip link set eth0 up")?;
            namespace.run(&format!("ip address add 192.0.2.{last}/24 dev eth0"))?;
            namespace.run(&format!("ip address add 2001:db8:53::{last}/64 dev eth0 nodad"))?;
        }
        // What the XDP program gets has no checksums to be completed; and the client's NIC receives as
        // a real one does.
        client.run("ethtool -K eth0 tx off gro on")?;
        let directory = tempfile::tempdir()?;
        let config = write_config(directory.path(), vipdp, coalesce)?;
        let log = File::create(directory.path().join("log"))?;
        let child = node.command(vipdp).arg("--config").arg(&config).stderr(log).spawn()?;
        let vipdp_runs = Running(child);
        let deadline = Instant::now() + START_LIMIT;
        while !owns_all(vipdp, &config)? {
            let log = || fs::read_to_string(directory.path().join("log")).unwrap_or_default();
            ensure!(Instant::now() < deadline, "vipdp does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { _vipdp: vipdp_runs, client, node, _directory: directory })
    }

    /// Bits a second that arrive.
    fn rate(&self, sender: Sender, vip: IpAddr, duration: Duration) -> Result<f64> {
        let listener = self.node.within(|| Ok(TcpListener::bind((vip, PORT))?))?;
        let address = SocketAddr::new(vip, PORT);
        let connected = self.client.within(|| {
            let deadline = Instant::now() + START_LIMIT;
            loop {
                // The first segments are lost while the neighbours find each other.
                match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
                    Err(_) if Instant::now() < deadline => {}
                    done => return Ok(done?),
                }
            }
        })?;
        let (accepted, _) = listener.accept()?;
        let (from, to, from_end, to_end) = match sender {
            Sender::Service => (accepted, connected, &self.node, &self.client),
            Sender::Client => (connected, accepted, &self.client, &self.node),
        };
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| from_end.within(|| send(from)));
            let received = to_end.within(|| Ok(receive(&to, duration)));
            // The sender ends when the receiver has gone.
            drop(to);
            let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sent.and(received)?
        })
    }
}

fn write_config(directory: &Path, vipdp: &Path, coalesce: bool) -> Result<PathBuf> {
    let cluster = format!(
        "id = 77\ngeneration = 1\nmode = \"shared-mac\"\nvips = [\"{VIP4}\", \"{VIP6}\"]\n\
         key_file = \"cluster.key\"\npartition = \"none\"\n\
         [shared_mac]\nmac = \"unicast\"\n[[member]]\nslot = 0\nname = \"alone\"\n"
    );
    let node = format!(
        "slot = 0\ninterface = \"eth0\"\ncluster = \"cluster.toml\"\ncores = [0]\n\
         egress = \"tap\"\ncoalesce = {coalesce}\ntap = \"vipdp0\"\nflows_max = 65536\n\
         state_dir = \"state\"\n"
    );
    fs::write(directory.join("cluster.toml"), cluster)?;
    fs::write(directory.join("node.toml"), node)?;
    let mut keygen = Command::new(vipdp);
    succeed(keygen.arg("keygen").arg(directory.join("cluster.key")).stdout(Stdio::null()))?;
    Ok(directory.join("node.toml"))
}

/// Whether vipdp answers and has all buckets.
fn owns_all(vipdp: &Path, config: &Path) -> Result<bool> {
    let output = Command::new(vipdp).args(["status", "--json", "--config"]).arg(config).output()?;
    if !output.status.success() {
        return Ok(false);
    }
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(status["buckets"]["unowned"] == 0 && status["buckets"]["owned"] != 0)
}

/// Sends until nobody receives any more.
fn send(mut to: TcpStream) -> Result<()> {
    let chunk = vec![0x5a; CHUNK];
    loop {
        match to.write_all(&chunk) {
            Ok(()) => {}
            Err(error) => match error.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => return Ok(()),
                _ => return Err(error.into()),
            },
        }
    }
}

/// Bits a second, after a fifth of the time for the connection to come to speed.
fn receive(from: &TcpStream, duration: Duration) -> Result<f64> {
    let mut nothing = vec![0; CHUNK];
    let start = Instant::now();
    let (mut since, mut bytes) = (start, 0);
    loop {
        let len = match recv(from.as_raw_fd(), &mut nothing, MsgFlags::MSG_TRUNC) {
            Ok(0) => anyhow::bail!("the sender has gone"),
            Err(Errno::EINTR) => continue,
            len => len?,
        };
        bytes += len;
        let now = Instant::now();
        if since == start && now - start >= duration / 5 {
            (since, bytes) = (now, 0);
        }
        if now - start >= duration {
            return Ok(bytes as f64 * 8.0 / (now - since).as_secs_f64());
        }
    }
}
