//! Sending by an AF_XDP socket: packets of templates, or of a capture.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use pcap_file::pcap::PcapReader;
use vipdp_core::port::{BURST, Port};
use vipdp_io::af_xdp::{AfXdpPort, FRAME_LEN_MAX, Options as PortOptions};

use super::flows::Flows;
use super::options::Options;
use super::template::Template;
use super::{End, Sent};

/// What is sent: the frame of each turn.
enum Source {
    Made { templates: Vec<Template>, flows: Flows },
    Capture(Vec<Vec<u8>>),
}

impl Source {
    /// Writes the frame of this turn, and returns its length.
    fn write(&self, turn: u64, buffer: &mut [u8]) -> usize {
        match self {
            Self::Made { templates, flows } => {
                let number = templates.len() as u64;
                let template = &templates[(turn % number) as usize];
                let (address, port) = flows.at(turn / number);
                let len = template.bytes.len();
                buffer[..len].copy_from_slice(&template.bytes);
                let port = template.port_first.wrapping_add(port as u16);
                template.fill(address, port, &mut buffer[..len]);
                len
            }
            Self::Capture(frames) => {
                let frame = &frames[turn as usize % frames.len()];
                buffer[..frame.len()].copy_from_slice(frame);
                frame.len()
            }
        }
    }
}

pub(super) fn run<'a>(
    options: &Options,
    interval_ns: u64,
    end: impl FnOnce() -> End<'a>,
) -> Result<Sent> {
    let source = match &options.replay {
        Some(path) => Source::Capture(
            capture(path).with_context(|| format!("cannot replay {}", path.display()))?,
        ),
        None => {
            Source::Made { templates: super::templates(options)?, flows: super::flows(options)? }
        }
    };
    let mut port = AfXdpPort::open(&PortOptions::new(&options.interface, 0))?;
    Ok(send(&mut port, &source, interval_ns, &end()))
}

fn send(port: &mut AfXdpPort, source: &Source, interval_ns: u64, end: &End<'_>) -> Sent {
    let mut sent = Sent::default();
    let mut burst = Vec::with_capacity(BURST);
    let mut turn = 0;
    let start = Instant::now();
    while turn < end.packets && !end.has_come() {
        let due = match interval_ns {
            0 => u64::MAX,
            _ => start.elapsed().as_nanos() as u64 / interval_ns + 1,
        };
        while turn < due.min(end.packets) && burst.len() < BURST {
            let Some(mut frame) = port.alloc() else { break };
            let len = source.write(turn, port.buffer_mut(&mut frame));
            port.set_len(&mut frame, len);
            burst.push(frame);
            turn += 1;
        }
        let offered = burst.len() as u64;
        let refused = port.tx_burst(&mut burst) as u64;
        sent.packets += offered - refused;
        sent.refused += refused;
        port.housekeeping();
    }
    sent.seconds = start.elapsed().as_secs_f64();
    sent.active_seconds = sent.seconds;
    sent
}

/// The frames of a capture.
fn capture(path: &Path) -> Result<Vec<Vec<u8>>> {
    let mut reader = PcapReader::new(File::open(path)?)?;
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let frame = packet?.data.into_owned();
        let number = frames.len() + 1;
        ensure!(
            frame.len() <= FRAME_LEN_MAX,
            "frame {number} has {} bytes: AF_XDP takes {FRAME_LEN_MAX}",
            frame.len(),
        );
        frames.push(frame);
    }
    ensure!(!frames.is_empty(), "there is no frame in it");
    Ok(frames)
}
