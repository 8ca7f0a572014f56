//! A DNS server behind each way to receive: knot, asked by kxdpgun and by dnsperf.
//!
//! kxdpgun sends from 65,536 addresses, by an AF_XDP socket, more than can be answered, and counts the answers. dnsperf
//! is a client of one address that has a hundred queries outstanding: it asks as fast as it is answered. Knot runs on
//! the receiver's core with all that receives for it, and who asks on the generator's.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use tempfile::TempDir;

use super::group::Group;
use super::lab::{CLIENTS_NETWORK, VIP, output};
use super::node::Node;
use super::options::Options;
use super::part;
use super::rows::Row;
use super::visit::Visit;

/// A DNS server behind one way to receive.
#[derive(Debug)]
pub struct DnsCase {
    /// Its name in all tables.
    pub name: &'static str,
    /// The row whose way to receive it is.
    row: &'static str,
}

/// All of them.
pub const CASES: &[DnsCase] = &[
    DnsCase { name: "dns-kernel", row: "kernel-plain" },
    DnsCase { name: "dns-vipdp", row: "vipdp-accept-all" },
    DnsCase { name: "dns-vipdp-busy", row: "vipdp-busy-accept-all" },
    DnsCase { name: "dns-vipdp-offload-drop", row: "vipdp-offload-drop-accept-all" },
    DnsCase { name: "dns-vipdp-offload-full", row: "vipdp-offload-full-accept-all" },
    DnsCase { name: "dns-xt-cluster", row: "xt-cluster-accept-all" },
];

/// Queries a second that kxdpgun is told to send: more than any server answers on a core.
const QPS: u32 = 2_000_000;
/// How many queries dnsperf has outstanding.
const OUTSTANDING: u32 = 100;
/// The address that dnsperf asks from.
const CLIENT: &str = "10.64.1.1";
/// How long knot may take to come up, and to end.
const COMES_UP_WITHIN: Duration = Duration::from_secs(20);
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How long knot is given to say something.
const PAUSE: Duration = Duration::from_millis(20);

/// A server, ended when dropped.
struct Knot {
    child: Child,
    directory: TempDir,
}

/// Measures one.
pub(super) fn visit(
    case: &'static DnsCase,
    round: u32,
    options: &Options,
    end: &SignalFd,
) -> Result<Visit> {
    let row = Row::named(case.row).with_context(|| format!("no row is called {}", case.row))?;
    let node = Node::with_clients(row, options, end)?;
    let knot = Knot::start(&node, options)?;
    knot.answers(&node)?;
    let mut visit =
        Visit { case: case.name.to_owned(), group: Group::Dns, round, ..Visit::default() };
    let mut put = |metric: &str, value: f64| visit.figures.insert(metric.to_owned(), value);
    put("answers_kxdpgun_per_s", knot.asked_by_kxdpgun(&node, options)?);
    let run_before = node.run_ns(&[knot.child.id()])?;
    let (answers, per_s) = knot.asked_by_dnsperf(&node, options)?;
    let run_ns = node.run_ns(&[knot.child.id()])? - run_before;
    put("answers_dnsperf_per_s", per_s);
    put("cpu_ns_per_answer", run_ns as f64 / answers);
    Ok(visit)
}

impl Knot {
    fn start(node: &Node<'_>, options: &Options) -> Result<Self> {
        let directory = tempfile::tempdir().context("no directory for knot")?;
        let path = directory.path().display();
        let configuration = format!(
            "server:\n  rundir: {path}\n  listen: 0.0.0.0@53\n  udp-workers: 1\n  tcp-workers: 1\n  \
             background-workers: 1\nlog:\n  - target: stderr\n    any: warning\ndatabase:\n  storage: {path}\n  \
             journal-db-max-size: 1M\n  kasp-db-max-size: 5M\n  timer-db-max-size: 1M\ntemplate:\n  - id: default\n    \
             storage: {path}\n    journal-content: none\n    zonefile-sync: -1\nzone:\n  - domain: example.\n    \
             file: example.zone\n"
        );
        let zone = "$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 3600\n  NS ns\nns A 192.0.2.53\nwww A 198.51.100.80\n";
        for (name, text) in [
            ("knot.conf", configuration.as_str()),
            ("example.zone", zone),
            ("queries", "www.example. A\n"),
        ] {
            fs::write(directory.path().join(name), text).with_context(|| name.to_owned())?;
        }
        let mut command = node.lab.node().command("taskset");
        command
            .args(["--cpu-list", &options.receive_core.to_string(), "knotd", "--config"])
            .arg(directory.path().join("knot.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = part::spawn_unblocked(&mut command)
            .context("cannot run knotd: scripts/setup installs it")?;
        Ok(Self { child, directory })
    }

    /// Waits until a client is answered, all the way.
    fn answers(&self, node: &Node<'_>) -> Result<()> {
        let deadline = Instant::now() + COMES_UP_WITHIN;
        let line = format!("kdig -b {CLIENT} +short +timeout=1 +retry=0 @{VIP} www.example. A");
        loop {
            let said = node.lab.generator().run(&line);
            if said.as_ref().is_ok_and(|said| said.trim() == "198.51.100.80") {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "knot does not answer: {said:?}");
            thread::sleep(PAUSE);
        }
    }

    /// Answers a second when more is asked than can be answered.
    fn asked_by_kxdpgun(&self, node: &Node<'_>, options: &Options) -> Result<f64> {
        let (seconds, core) = (options.seconds(), options.generator_core);
        let interface = node.lab.generator_interface();
        let mut command = node.lab.generator().command("kxdpgun");
        command
            .args(["--duration", &seconds.to_string(), "--qps", &QPS.to_string()])
            .args(["--affinity", &core.to_string(), "--local", CLIENTS_NETWORK])
            .args(["--interface", interface, "--remote-mac", &node.to_mac, "--infile"])
            .arg(self.directory.path().join("queries"))
            .arg(VIP);
        let text = output(&mut command, "")?;
        let number = |name: &str| of_kxdpgun(&text, name);
        let replies = number("total replies:").with_context(|| format!("kxdpgun says {text:?}"))?;
        let right = number("responded NOERROR:").unwrap_or_default();
        ensure!(replies > 0.0 && right == replies, "{right} right answers of {replies}: {text}");
        Ok(replies / seconds)
    }

    /// Answers when nobody asks more than is answered, and how many there are a second.
    fn asked_by_dnsperf(&self, node: &Node<'_>, options: &Options) -> Result<(f64, f64)> {
        let (seconds, core) = (options.seconds(), options.generator_core.to_string());
        let mut command = node.lab.generator().command("taskset");
        command
            .args(["--cpu-list", &core, "dnsperf", "-s", VIP, "-a", CLIENT, "-T", "1", "-c", "8"])
            .args(["-q", &OUTSTANDING.to_string(), "-l", &seconds.to_string(), "-d"])
            .arg(self.directory.path().join("queries"));
        let text = output(&mut command, "")?;
        let number = |name: &str| of_dnsperf(&text, name);
        let answers = number("Queries completed:");
        let (Some(answers), Some(per_s)) = (answers, number("Queries per second:")) else {
            bail!("dnsperf says {text:?}");
        };
        ensure!(answers > 0.0, "dnsperf has no answer: {text}");
        Ok((answers, per_s))
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        // It is our child and not reaped yet, so that the number is still its own.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + ENDS_WITHIN;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number behind `name`, in a line such as `total replies:     123 (45 pps) (67%)`.
fn of_kxdpgun(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| first_number(line.trim().strip_prefix(name)?))
}

/// The number behind `name`, in a line such as `  Queries completed:    123 (100.00%)`.
fn of_dnsperf(text: &str, name: &str) -> Option<f64> {
    of_kxdpgun(text, name)
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}
