//! The command line.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use vipdp_core::wire::ethernet::MacAddr;

use super::template::{FRAME_LEN_MAX, FRAME_LEN_MIN, Traffic};

/// What makes and sends the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// An XDP program that the kernel runs on frames of its own (BPF_PROG_TEST_RUN, live frames): the
    /// fastest. Wants Linux 5.18, and a driver that takes frames from XDP.
    Live,
    /// An AF_XDP socket's transmit ring. Replays captures too.
    AfXdp,
    /// The kernel's own packet generator, module pktgen: UDP only.
    Kernel,
}

/// Sends packets of many flows out of an interface, and counts what comes back.
///
/// Ends after --count or --duration, whichever comes first, or at SIGINT or SIGTERM, and prints what
/// it sent and what came back to it.
#[derive(Clone, Debug, Parser)]
#[command(name = "pktgen", version)]
pub struct Options {
    /// The interface. Nothing else is to use it: what comes back is counted and dropped.
    #[arg(long)]
    pub interface: String,

    /// What makes and sends the packets.
    #[arg(long, value_enum, default_value = "live")]
    pub engine: Engine,

    /// What packets are.
    #[arg(long, value_enum, default_value = "udp")]
    pub traffic: Traffic,

    /// Destination address; one of each family sends both in turn.
    #[arg(long = "to", value_name = "ADDRESS", required_unless_present = "replay")]
    pub to: Vec<IpAddr>,

    /// The first source address of each family: as many as --to has.
    #[arg(long = "from", value_name = "ADDRESS", required_unless_present = "replay")]
    pub from: Vec<IpAddr>,

    /// How many source addresses, from the first on.
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub addresses: u32,

    /// The first source port.
    #[arg(long, value_name = "PORT", default_value_t = 1024)]
    pub port_first: u16,

    /// How many source ports, from the first on. There are so many flows for each address.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub ports: u32,

    /// Destination port.
    #[arg(long, default_value_t = 53)]
    pub port: u16,

    /// Destination MAC address. Questions go to their groups whatever this says.
    #[arg(long, value_name = "MAC", required_unless_present = "replay", value_parser = parse_mac)]
    pub to_mac: Option<MacAddr>,

    /// Flows by rank: the packets of the n-th one are in proportion to n to the power of minus this (Zipf).
    /// Without it, flows take turns.
    #[arg(long, value_name = "EXPONENT")]
    pub zipf: Option<f64>,

    /// Packets of a flow that follow each other before the next flow has its turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub run_len: u32,

    /// Do not count what comes back: another run on the same interface does.
    #[arg(long)]
    pub uncounted: bool,

    /// Bytes of a frame, without its check sequence.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = parse_len)]
    pub frame_len: usize,

    /// Packets a second; without it, as many as there can be.
    #[arg(long, value_name = "N")]
    pub rate: Option<NonZeroU64>,

    /// How many packets.
    #[arg(long, value_name = "N")]
    pub count: Option<NonZeroU64>,

    /// How long, seconds.
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<f64>,

    /// Of so many packets, one says when it was sent, and goes to the next port: nanoseconds of the monotonic
    /// clock in the first eight bytes of its data, the highest first. UDP over IPv4, --engine live.
    #[arg(long, value_name = "N")]
    pub stamp_every: Option<NonZeroU32>,

    /// The frames of this capture (pcap), again and again, in place of made ones: --engine af-xdp.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "from", "zipf"])]
    pub replay: Option<PathBuf>,

    /// The core to send from.
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,

    /// How often the kernel calls the program between two looks at whether to end: between two, it
    /// takes some 20 ms in which nothing is sent. --engine live.
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub repeat: u32,

    /// How long to go on counting what comes back, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub linger_ms: u64,

    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_mac(text: &str) -> Result<MacAddr, String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2))
        .collect();
    let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    bytes.map(MacAddr).ok_or_else(|| "give six bytes, as in 02:00:00:00:00:01".to_owned())
}

fn parse_len(text: &str) -> Result<usize, String> {
    let len = text.parse().map_err(|_| format!("{text} is no number of bytes"))?;
    if !(FRAME_LEN_MIN..=FRAME_LEN_MAX).contains(&len) {
        return Err(format!("give {FRAME_LEN_MIN} to {FRAME_LEN_MAX}"));
    }
    Ok(len)
}
