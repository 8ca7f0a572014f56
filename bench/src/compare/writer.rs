//! What a TAP takes at most: a loop that writes frames from memory, one by one, with nothing before it.
//!
//! The writer and the socket's owner are on one core, as the receiving side of every row.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_core::wire::vnet;
use vipdp_io::affinity;

use super::lab::{CLIENT_FIRST, VIP};
use super::part;
use super::receive::TapHost;
use super::socket::{FRAME_LEN, PORT};
use crate::pktgen::{Common, Template, Traffic};

/// How many frames are made beforehand: of as many flows as this has runs, and few enough to stay in the second cache.
const FRAMES: usize = 1024;

/// What was written.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Written {
    /// Frames that the TAP took.
    pub sent: u64,
    /// In so many seconds.
    pub seconds: f64,
}

/// Answers each line, which is a number of seconds, with what was written in that time.
pub(super) fn run(mut host: TapHost, run_len: u32, core: usize) -> Result<()> {
    affinity::pin(core)?;
    let frames = frames(host.settings.tap().mac, run_len as usize)?;
    let queue = host.queues.pop().context("a queue")?;
    part::serve(|line| {
        let time = Duration::from_secs_f64(line.trim().parse().context("a number of seconds")?);
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < time {
            for frame in &frames {
                sent += u64::from(nix::unistd::write(&queue, frame).is_ok());
            }
        }
        Ok(Written { sent, seconds: start.elapsed().as_secs_f64() })
    })
}

/// Frames of the same datagrams that the generator makes, each behind a header that asks for nothing.
fn frames(to_mac: MacAddr, run_len: usize) -> Result<Vec<Vec<u8>>> {
    let common = Common {
        source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        destination_mac: to_mac,
        port_first: 1024,
        port: PORT,
        frame_len: FRAME_LEN,
    };
    let vip: IpAddr = VIP.parse().context("an address")?;
    let templates = Template::of(Traffic::Udp, &common, CLIENT_FIRST.into(), vip)?;
    let template = templates.first().context("a template")?;
    let made = (0..FRAMES).map(|number| {
        let mut frame = template.bytes.clone();
        template.fill((number / run_len) as u32, common.port_first, &mut frame);
        [&[0; vnet::HEADER_LEN], &*frame].concat()
    });
    Ok(made.collect())
}
