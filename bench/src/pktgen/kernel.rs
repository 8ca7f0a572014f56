//! Sending by the kernel's own packet generator, which is driven by files (Linux,
//! `Documentation/networking/pktgen.rst`).

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::options::Options;
use super::template::{Template, Traffic};
use super::{End, Sent};

const FILES: &str = "/proc/net/pktgen";

/// Takes the interface off the generator when dropped.
struct Thread(PathBuf);

impl Drop for Thread {
    fn drop(&mut self) {
        // Nobody is left to tell if it cannot be done.
        let _ = fs::write(&self.0, "rem_device_all\n");
    }
}

pub(super) fn run(options: &Options, templates: &[Template], end: &End<'_>) -> Result<Sent> {
    ensure!(options.traffic == Traffic::Udp, "the kernel's generator sends UDP only");
    ensure!(options.zipf.is_none(), "the kernel's generator does not draw flows");
    ensure!(options.run_len == 1, "the kernel's generator gives no flow two turns in a row");
    let [template] = templates else { bail!("the kernel's generator sends one family at a time") };
    ensure!(end.packets != u64::MAX, "the kernel's generator wants --count");
    ensure!(
        Path::new(FILES).is_dir(),
        "this kernel has no packet generator, or it is not loaded: modprobe pktgen"
    );
    let core = options.core.unwrap_or_default();
    let thread = Thread(Path::new(FILES).join(format!("kpktgend_{core}")));
    let write = |path: &Path, line: &str| {
        fs::write(path, format!("{line}\n")).with_context(|| format!("{}: {line}", path.display()))
    };
    write(&thread.0, "rem_device_all")?;
    write(&thread.0, &format!("add_device {}", options.interface))?;
    let device = Path::new(FILES).join(&options.interface);
    for line in lines(options, template, end.packets) {
        write(&device, &line)?;
    }
    write(&Path::new(FILES).join("pgctrl"), "start")?;
    let result = fs::read_to_string(&device)?;
    let seconds = microseconds(&result).context("the kernel's generator reports no time")? / 1e6;
    Ok(Sent {
        packets: counted(&result, "pkts-sofar:").unwrap_or(0),
        refused: 0,
        seconds,
        active_seconds: seconds,
    })
}

fn lines(options: &Options, template: &Template, packets: u64) -> Vec<String> {
    let to = options.to[0];
    let (family, last) = match template.source {
        IpAddr::V4(first) => {
            let last = first.to_bits().wrapping_add(options.addresses - 1);
            ("", IpAddr::from(std::net::Ipv4Addr::from_bits(last)))
        }
        IpAddr::V6(first) => ("6", IpAddr::V6(first)),
    };
    let mut lines = vec![
        format!("count {packets}"),
        format!("pkt_size {}", template.bytes.len()),
        format!("dst_mac {}", options.to_mac.expect("asked for where nothing is replayed")),
        format!("udp_dst_min {}", options.port),
        format!("udp_dst_max {}", options.port),
        format!("udp_src_min {}", options.port_first),
        format!("udp_src_max {}", u32::from(options.port_first) + options.ports - 1),
        "flag UDPSRC_RND".into(),
        match options.rate {
            Some(rate) => format!("ratep {rate}"),
            None => "delay 0".into(),
        },
    ];
    match family {
        "" => lines.extend([
            format!("dst_min {to}"),
            format!("dst_max {to}"),
            format!("src_min {}", template.source),
            format!("src_max {last}"),
            "flag IPSRC_RND".into(),
        ]),
        _ => lines.extend([format!("dst6 {to}"), format!("src6 {}", template.source)]),
    }
    lines
}

/// The number behind `name`.
fn counted(result: &str, name: &str) -> Option<u64> {
    let (_, behind) = result.split_once(name)?;
    behind.split_whitespace().next()?.parse().ok()
}

/// The time of a run, from a line such as `Result: OK: 1002(c984+d17) usec, ...`.
fn microseconds(result: &str) -> Option<f64> {
    let (_, behind) = result.split_once("Result: OK:")?;
    behind.trim_start().split('(').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_account_is_read() {
        let result = "Params: count 1000000\n     pkts-sofar: 1000000  errors: 0\n\
            Result: OK: 1250000(c1249000+d1000) usec, 1000000 (100byte,0frags)\n";
        assert_eq!(counted(result, "pkts-sofar:"), Some(1_000_000));
        assert_eq!(microseconds(result), Some(1_250_000.0));
        assert_eq!(microseconds("Result: Idle"), None);
    }
}
