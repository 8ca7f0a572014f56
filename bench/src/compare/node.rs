//! A node that is set up: the lab, what receives in it, and the kernel's threads that do.

use anyhow::{Context as _, Result};
use nix::sys::signalfd::SignalFd;
use tempfile::TempDir;
use vipdp_core::offload::OffloadMode;

use super::clients;
use super::counters;
use super::lab::Lab;
use super::options::Options;
use super::part::Part;
use super::receive;
use super::rows::{Row, Work};

/// A node. What runs inside its lab ends before it.
pub(super) struct Node<'a> {
    pub(super) receiver: Option<Part<'a>>,
    /// The kernel's threads, unless a worker takes their place.
    receive_threads: Vec<u32>,
    /// What frames to the service are addressed to.
    pub(super) to_mac: String,
    pub(super) lab: Lab,
    _state: TempDir,
}

impl<'a> Node<'a> {
    /// Makes a lab, and has `row` receive in it what the generator sends.
    pub(super) fn new(row: &'static Row, options: &Options, end: &'a SignalFd) -> Result<Self> {
        Self::set_up(row, options, end, false)
    }

    /// The same for what sockets send, which are answered.
    pub(super) fn with_clients(
        row: &'static Row,
        options: &Options,
        end: &'a SignalFd,
    ) -> Result<Self> {
        // A veth tells the program no more what it has told the stack of a socket's packet: see vipdp's own choice.
        let is_generic = matches!(row.work, Work::Vipdp(_, Some(OffloadMode::Full)));
        let node = Self::set_up(row, options, end, is_generic)?;
        clients::connect(&node, options)?;
        Ok(node)
    }

    fn set_up(
        row: &'static Row,
        options: &Options,
        end: &'a SignalFd,
        is_generic: bool,
    ) -> Result<Self> {
        let cores = Self::cores(row, options);
        let lab = Lab::new(row.queues)?;
        let state = tempfile::tempdir().context("no directory for what is to be undone")?;
        let to_mac = if row.is_af_xdp() {
            receive::SHARED_MAC.to_string()
        } else {
            lab.node_mac().to_owned()
        };
        if !row.is_af_xdp() && row.work != Work::TapWriter {
            lab.add_vip()?;
        }
        let receiver = if row.has_receiver() {
            let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
            let words = [
                "receive",
                "--row",
                row.name,
                "--interface",
                lab.node_interface(),
                "--cores",
                &cores.join(","),
                "--state-dir",
                &state.path().display().to_string(),
            ];
            let mut words = words.map(str::to_owned).to_vec();
            if is_generic {
                words.push("--generic".to_owned());
            }
            Some(Part::start(lab.node(), &words, end)?.ready()?)
        } else {
            None
        };
        if let Work::Kernel(rules) = row.work {
            rules.apply(&lab, row.owned)?;
        }
        let receive_threads = match row.polls() {
            true => Vec::new(),
            false => lab.receive_on(&cores)?,
        };
        Ok(Self { receiver, receive_threads, to_mac, lab, _state: state })
    }

    /// The core of each queue. Packets that core `n` makes come to queue `n`, or to the only one: so that with two
    /// queues each is received on the other core.
    fn cores(row: &Row, options: &Options) -> Vec<usize> {
        let both = [options.receive_core, options.generator_core];
        (0..row.queues as usize).map(|queue| both[queue % both.len()]).collect()
    }

    /// How long the threads that receive have run, and those of the processes `also`, nanoseconds.
    pub(super) fn run_ns(&self, also: &[u32]) -> Result<u64> {
        let receiver = self.receiver.iter().map(Part::pid);
        let threads = self.receive_threads.iter().copied().chain(receiver);
        counters::run_ns(threads.chain(also.iter().copied()))
    }

    /// Its receiver.
    pub(super) fn ask_receiver<T: serde::de::DeserializeOwned>(&mut self, line: &str) -> Result<T> {
        self.receiver.as_mut().context("the kernel receives by itself")?.ask(line)
    }
}
