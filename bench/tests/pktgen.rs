//! `pktgen` on a veth pair: what it sends arrives, and what comes back is counted.
//!
//! ```text
//!   vdpg-PID-a                      vdpg-PID-b: the kernel, with nothing that listens
//!   pktgen eth0 ------------------- eth0 192.0.2.53, 2001:db8::53
//!                                   10.64.0.0/16 and fd64::/64 by way of pktgen's MAC address
//! ```

use std::process::Command;

use serde_json::Value;

/// Two namespaces and the pair between them; dropping it takes them down.
struct Pair {
    a: String,
    b: String,
    to_mac: String,
}

impl Drop for Pair {
    fn drop(&mut self) {
        for namespace in [&self.a, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Runs a command line, split at white space, and returns what it printed.
#[track_caller]
fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a command")).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {}: {error}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

impl Pair {
    fn new(name: &str) -> Self {
        let name = format!("vdpg-{}-{name}", std::process::id());
        let (a, b) = (format!("{name}-a"), format!("{name}-b"));
        let mut pair = Self { a, b, to_mac: String::new() };
        let (a, b) = (&pair.a, &pair.b);
        for line in [
            format!("ip netns add {a}"),
            format!("ip netns add {b}"),
            format!("ip link add eth0 netns {a} type veth peer name eth0 netns {b}"),
        ] {
            run(&line);
        }
        let mac = |namespace: &str| {
            let links = run(&format!("ip -n {namespace} -json link show eth0"));
            let links: Value = serde_json::from_str(&links).expect("JSON");
            links[0]["address"].as_str().expect("a MAC address").to_owned()
        };
        let (own, peer) = (mac(a), mac(b));
        for line in [
            format!("ip netns exec {b} sysctl -qw net.ipv6.conf.eth0.accept_dad=0"),
            // A veth end takes frames from XDP when its peer receives by NAPI.
            format!("ip netns exec {b} ethtool -K eth0 gro on"),
            format!("ip -n {a} link set eth0 up"),
            format!("ip -n {b} link set eth0 up"),
            format!("ip -n {b} address add 192.0.2.53/24 dev eth0"),
            format!("ip -n {b} address add 2001:db8::53/64 dev eth0"),
            format!("ip -n {b} neighbor add 192.0.2.1 lladdr {own} dev eth0 nud permanent"),
            format!("ip -n {b} neighbor add 2001:db8::1 lladdr {own} dev eth0 nud permanent"),
            format!("ip -n {b} route add 10.64.0.0/16 via 192.0.2.1"),
            format!("ip -n {b} route add fd64::/64 via 2001:db8::1"),
        ] {
            run(&line);
        }
        pair.to_mac = peer;
        pair
    }

    /// Runs pktgen, and returns its report.
    #[track_caller]
    fn pktgen(&self, options: &str) -> Value {
        let program = env!("CARGO_BIN_EXE_pktgen");
        let Self { a, to_mac, .. } = self;
        let ends = "--linger-ms 500 --json";
        let line = format!(
            "ip netns exec {a} {program} --interface eth0 --to-mac {to_mac} {ends} {options}"
        );
        serde_json::from_str(&run(&line)).expect("a report")
    }

    /// A counter of the receiver's, of `/proc/net/snmp` and `snmp6`.
    fn counter(&self, name: &str) -> u64 {
        let text = run(&format!("ip netns exec {} nstat -asz {name}", self.b));
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
    }
}

const BOTH: &str = "--to 192.0.2.53 --to 2001:db8::53 --from 10.64.0.1 --from fd64::1";

fn frames(report: &Value, kind: &str) -> u64 {
    report["received"][kind]["frames"].as_u64().unwrap_or_default()
}

#[test]
fn every_connection_request_is_reset_by_the_kernel_behind() {
    let pair = Pair::new("syn");
    for engine in ["live", "af-xdp"] {
        let options = format!(
            "--engine {engine} {BOTH} --traffic syn --addresses 5000 --ports 3 --count 20000 --rate 40000"
        );
        let report = pair.pktgen(&options);
        assert_eq!(report["sent"], 20_000, "{report}");
        assert_eq!(report["refused"], 0, "{report}");
        assert_eq!(frames(&report, "tcp-reset"), 20_000, "{report}");
    }
    // Wrong checksums are not answered, but they are counted.
    assert_eq!(pair.counter("TcpInErrs") + pair.counter("TcpInCsumErrors"), 0);
}

#[test]
fn fragments_are_joined_and_datagrams_arrive() {
    let pair = Pair::new("udp");
    for engine in ["live", "af-xdp"] {
        let (v4, v6) = (pair.counter("IpReasmOKs"), pair.counter("Ip6ReasmOKs"));
        let udp = pair.counter("UdpNoPorts");
        let fragments =
            format!("--engine {engine} {BOTH} --traffic fragments --count 4000 --rate 40000");
        assert_eq!(pair.pktgen(&fragments)["sent"], 4000);
        // Two templates of each family: a flow's fragments follow each other.
        assert_eq!(pair.counter("IpReasmOKs") - v4, 1000, "{engine}");
        assert_eq!(pair.counter("Ip6ReasmOKs") - v6, 1000, "{engine}");
        let drawn = format!("--engine {engine} {BOTH} --zipf 1.1 --count 4000 --rate 40000");
        assert_eq!(pair.pktgen(&drawn)["sent"], 4000);
        assert_eq!(pair.counter("UdpNoPorts") - udp, 3000, "{engine}");
    }
}

#[test]
fn questions_are_answered_and_captures_replayed() {
    let pair = Pair::new("ask");
    let answered = pair.pktgen(&format!("{BOTH} --traffic neighbor --count 1000 --rate 20000"));
    assert_eq!(frames(&answered, "arp"), 500, "{answered}");
    assert!(frames(&answered, "neighbor") >= 500, "{answered}");

    let capture = tempfile::NamedTempFile::new().expect("a file");
    write_capture(&pair, capture.path());
    let path = capture.path().display();
    let replayed =
        pair.pktgen(&format!("--engine af-xdp --replay {path} --count 1000 --rate 20000"));
    assert_eq!(replayed["sent"], 1000, "{replayed}");
    assert_eq!(frames(&replayed, "tcp-reset"), 1000, "{replayed}");
}

/// A capture of two requests for a connection.
fn write_capture(pair: &Pair, path: &std::path::Path) {
    use pcap_file::pcap::{PcapPacket, PcapWriter};
    let mut mac = [0; 6];
    for (byte, text) in mac.iter_mut().zip(pair.to_mac.split(':')) {
        *byte = u8::from_str_radix(text, 16).expect("a byte");
    }
    let file = std::fs::File::create(path).expect("a file");
    let mut writer = PcapWriter::new(file).expect("a header");
    for client in [7, 8] {
        let packet = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], mac)
            .ipv4([10, 64, 0, client], [192, 0, 2, 53], 64)
            .tcp(1024, 53, 1, 1024)
            .syn();
        let mut frame = Vec::new();
        packet.write(&mut frame, &[]).expect("a frame");
        let time = std::time::Duration::from_secs(1);
        writer.write_packet(&PcapPacket::new(time, frame.len() as u32, &frame)).expect("written");
    }
}
