//! The BPF programs: sending by live frames, and counting what comes back.
//!
//! Maps and structures are those of `bpf/pktgen.bpf.c`, written here as bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};
use nix::net::if_::if_nametoindex;

use super::flows::{DRAWS, Flows};
use super::report::Tally;
use super::template::Template;
use super::{End, Sent};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pktgen.bpf.o"));

/// Bytes of a template that the program writes anew: all headers.
const HEADERS_MAX: usize = 96;
/// `sizeof(struct settings)`.
const SETTINGS_LEN: usize = 48;
/// `sizeof(struct template)`.
const TEMPLATE_LEN: usize = HEADERS_MAX + 48;
/// `sizeof(struct progress)`, in words.
const PROGRESS_WORDS: usize = 5;
/// `sizeof(struct tally)`, in words.
const TALLY_WORDS: usize = 2;
/// `enum kind`.
const KINDS: [&str; 8] =
    ["udp", "tcp-syn-ack", "tcp-reset", "tcp-other", "icmp", "arp", "neighbor", "other"];

/// Frames that the kernel hands to the program at once, at most. What is sent leaves when all have been.
const BATCH: u32 = 64;
/// How long the first of a batch waits for the last at most, nanoseconds.
const BATCH_NS: u64 = 10_000;
/// `WAIT_NS` of the program: how long a call waits until its packet is due.
const WAIT_NS: u64 = 2_000;
/// How long paced packets go on between two looks at whether to end, nanoseconds.
const RUN_NS: u64 = 100_000_000;

/// How fast packets follow each other.
pub(super) struct Pace {
    /// Nanoseconds between them; 0: none.
    pub(super) interval_ns: u64,
    /// Calls of the program in one run of the kernel's loop, at most.
    pub(super) repeat: u32,
}

impl Pace {
    /// Frames to hand over at once.
    fn batch(&self) -> u32 {
        BATCH_NS
            .checked_div(self.interval_ns)
            .map_or(BATCH, |frames| frames.clamp(1, BATCH.into()) as u32)
    }

    /// Calls in a run with so many packets left, of which more than they take would only give frames back; and in one
    /// without an end, for [`RUN_NS`].
    fn calls(&self, left: u64) -> u32 {
        let each = 1 + self.interval_ns / WAIT_NS;
        let endless = RUN_NS.checked_div(self.interval_ns.min(WAIT_NS)).unwrap_or(u64::MAX);
        let calls = if left == u64::MAX { endless } else { left.saturating_mul(each) };
        u32::try_from(calls).unwrap_or(u32::MAX).min(self.repeat)
    }
}

/// Which packets say when they were sent. None by default.
#[derive(Default)]
pub(super) struct Stamps {
    /// Of so many, one.
    pub(super) every: u32,
    /// Offset of the UDP header.
    pub(super) udp_at: u32,
    /// The destination port of the others.
    pub(super) port: u32,
}

/// The loaded programs. Dropping them takes them off the interface.
pub(super) struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    pub(super) fn load() -> Result<Self> {
        Ok(Self { ebpf: Ebpf::load(OBJECT).context("the kernel refuses pktgen's programs")? })
    }

    fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name).context("no such program")?;
        Ok(program.try_into()?)
    }

    fn array<const N: usize>(&mut self, name: &str) -> Result<Array<&mut MapData, [u8; N]>> {
        Ok(Array::try_from(self.ebpf.map_mut(name).context("no such map")?)?)
    }

    /// From now on counts what arrives on `interface`, and drops what is for the flows.
    pub(super) fn count_received(&mut self, interface: &str) -> Result<()> {
        let receive = self.program("receive")?;
        receive.load()?;
        receive
            .attach(interface, XdpMode::Driver)
            .or_else(|_| receive.attach(interface, XdpMode::Skb))
            .with_context(|| format!("cannot count what comes back on {interface}"))?;
        Ok(())
    }

    /// What came back, by kind.
    pub(super) fn received(&self) -> Result<BTreeMap<String, Tally>> {
        let map = self.ebpf.map("received").context("no such map")?;
        let map: PerCpuArray<_, [u64; TALLY_WORDS]> = PerCpuArray::try_from(map)?;
        let mut received = BTreeMap::new();
        for (kind, name) in KINDS.into_iter().enumerate() {
            let [frames, bytes] = summed(&map.get(&(kind as u32), 0)?);
            if frames > 0 {
                received.insert(name.to_owned(), Tally { frames, bytes });
            }
        }
        Ok(received)
    }

    /// Sends out of `interface`.
    pub(super) fn transmit(
        &mut self,
        interface: &str,
        templates: &[Template],
        flows: &Flows,
        pace: &Pace,
        stamps: &Stamps,
        end: &End<'_>,
    ) -> Result<Sent> {
        let index = if_nametoindex(interface)
            .with_context(|| format!("no interface is called {interface}"))?;
        let settings = settings(templates, flows, pace, stamps, end.packets);
        self.array("settings")?.set(0, settings, 0)?;
        let mut map = self.array("templates")?;
        for (number, template) in (0..).zip(templates) {
            map.set(number, encoded(template), 0)?;
        }
        if let Some(draws) = flows.draws() {
            let mut map = self.array("draws")?;
            for (turn, flow) in (0..DRAWS as u32).zip(draws) {
                map.set(turn, flow.to_ne_bytes(), 0)?;
            }
        }
        self.program("transmit")?.load()?;
        // struct xdp_md: a frame as long as the data, as if it had come in on the interface.
        let len = templates[0].bytes.len() as u32;
        let context: Vec<u8> =
            [0, len, 0, index, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut sent = Sent::default();
        let mut first_ns = None;
        loop {
            if sent.packets >= end.packets || end.has_come() {
                return Ok(sent);
            }
            let options = TestRunOptions {
                data_in: Some(&templates[0].bytes),
                ctx_in: Some(&context),
                repeat: pace.calls(end.packets - sent.packets),
                attrs: TestRunAttrs::new().xdp_live_frames(pace.batch()),
                ..TestRunOptions::new()
            };
            // Each run has times of its own: the kernel takes a while to set one up.
            self.array("progress")?.set(0, progress(sent.packets), 0)?;
            self.program("transmit")?
                .test_run(options)
                .context("the kernel does not run programs on live frames: Linux 5.18 does")?;
            let run = self.progress()?;
            if run.packets > sent.packets {
                let first_ns = *first_ns.get_or_insert(run.first_ns);
                sent.packets = run.packets;
                sent.seconds = run.last_ns.saturating_sub(first_ns) as f64 / 1e9;
                sent.active_seconds += run.last_ns.saturating_sub(run.first_ns) as f64 / 1e9;
            }
        }
    }

    fn progress(&self) -> Result<Run> {
        let map = self.ebpf.map("progress").context("no such map")?;
        let map: Array<_, [u64; PROGRESS_WORDS]> = Array::try_from(map)?;
        let [packets, _, first_ns, last_ns, given_up] = map.get(&0, 0)?;
        ensure!(given_up == 0, "the program could make no packet {given_up} times");
        Ok(Run { packets, first_ns, last_ns })
    }
}

/// What the program says after a run of the kernel's loop.
struct Run {
    /// Sent since the start, in all runs.
    packets: u64,
    /// When the first and the last packet of this run was sent.
    first_ns: u64,
    last_ns: u64,
}

fn summed<const N: usize>(values: &PerCpuValues<[u64; N]>) -> [u64; N] {
    let mut sum = [0; N];
    for value in values.iter() {
        for (sum, value) in sum.iter_mut().zip(value) {
            *sum += value;
        }
    }
    sum
}

/// `struct progress` at the start of a run, after so many packets.
fn progress(packets: u64) -> [u8; 8 * PROGRESS_WORDS] {
    let mut bytes = [0; 8 * PROGRESS_WORDS];
    bytes[..8].copy_from_slice(&packets.to_ne_bytes());
    bytes
}

/// `struct settings`.
fn settings(
    templates: &[Template],
    flows: &Flows,
    pace: &Pace,
    stamps: &Stamps,
    packets: u64,
) -> [u8; SETTINGS_LEN] {
    let words = [
        templates.len() as u32,
        flows.addresses(),
        flows.ports(),
        u32::from(flows.draws().is_some()),
        stamps.every,
        stamps.udp_at,
        stamps.port,
        flows.run_len(),
    ];
    let mut bytes = pace.interval_ns.to_ne_bytes().to_vec();
    bytes.extend(packets.to_ne_bytes());
    bytes.extend(words.into_iter().flat_map(u32::to_ne_bytes));
    bytes.try_into().expect("all of its members")
}

/// `struct template`.
fn encoded(template: &Template) -> [u8; TEMPLATE_LEN] {
    let mut bytes = template.bytes.clone();
    bytes.resize(HEADERS_MAX, 0);
    bytes.extend((template.bytes.len() as u32).to_ne_bytes());
    let (v4, v6) = match template.source {
        IpAddr::V4(first) => (first.to_bits(), 0),
        IpAddr::V6(first) => (0, first.to_bits()),
    };
    bytes.extend(v4.to_ne_bytes());
    bytes.extend(((v6 >> 64) as u64).to_ne_bytes());
    bytes.extend((v6 as u64).to_ne_bytes());
    let at = |offset: Option<usize>| offset.unwrap_or_default() as u16;
    let offsets = [
        template.source_at as u16,
        template.source.is_ipv6().into(),
        at(template.port_at),
        template.port_first,
        at(template.ip_checksum.map(|checksum| checksum.at)),
        at(template.checksum.map(|checksum| checksum.at)),
    ];
    bytes.extend(offsets.into_iter().flat_map(u16::to_ne_bytes));
    for checksum in [template.ip_checksum, template.checksum] {
        let constant = checksum.map_or(0, |checksum| checksum.constant);
        bytes.extend(constant.to_ne_bytes());
    }
    // The structure is aligned to eight bytes.
    bytes.resize(TEMPLATE_LEN, 0);
    bytes.try_into().expect("all of its members")
}
