//! Questions to a neighbour whose answers are those of a real kernel. Needs root.
//!
//! ```text
//!   asker, own0 --------------- neighbour, peer0
//!   198.51.100.2                198.51.100.1, .9
//!   2001:db8:1::2, fe80::2      2001:db8:1::1, ::9, fe80::1
//! ```

use std::fs::{self, File};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_io::link::Link;
use vipdp_io::probe::{Answer, NEIGHBORS_MAX, Probe, ProbeError};

const NEIGHBOUR_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 1]);
/// Nobody's.
const ANOTHER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 7]);
/// How long an answer may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);

/// Two namespaces and the wire between them; they go with it.
struct Wire {
    asker: String,
    neighbour: String,
}

impl Wire {
    fn new(test: &str) -> Self {
        let name = |end: &str| format!("vdpr-{test}-{}-{end}", std::process::id());
        let wire = Self { asker: name("a"), neighbour: name("n") };
        let Self { asker, neighbour } = &wire;
        for namespace in [asker, neighbour] {
            run(&format!("ip netns add {namespace}"));
            // Link-local addresses are those that the test gives, and usable at once.
            within(namespace, || {
                fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
                fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
            });
        }
        run(&format!(
            "ip link add own0 netns {asker} type veth peer name peer0 address {NEIGHBOUR_MAC} \
             netns {neighbour}"
        ));
        for address in ["198.51.100.1/24", "198.51.100.9/24"] {
            run(&format!("ip -n {neighbour} addr add {address} dev peer0"));
        }
        for address in ["2001:db8:1::1/64", "2001:db8:1::9/64", "fe80::1/64"] {
            run(&format!("ip -n {neighbour} addr add {address} dev peer0 nodad"));
        }
        run(&format!("ip -n {neighbour} link set peer0 up"));
        wire.raise();
        wire
    }

    /// Takes the link up, and waits until it carries frames.
    fn raise(&self) {
        run(&format!("ip -n {} link set own0 up", self.asker));
        let deadline = Instant::now() + DEADLINE;
        for (namespace, end) in [(&self.asker, "own0"), (&self.neighbour, "peer0")] {
            while !within(namespace, || Link::read(end)).unwrap().running {
                assert!(Instant::now() < deadline, "{end} is not up within {DEADLINE:?}");
            }
        }
    }

    /// Gives the asker an address.
    fn give(&self, address: &str) {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        run(&format!("ip -n {} addr add {address} dev own0 {nodad}", self.asker));
    }

    fn probe(&self, neighbours: &[&str]) -> Probe {
        let neighbours: Vec<_> = neighbours.iter().map(|address| ip(address)).collect();
        within(&self.asker, || Probe::open("own0", &neighbours)).unwrap()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.asker, &self.neighbour] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `work` in a thread of its own in a namespace.
fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = File::open(format!("/run/netns/{namespace}")).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).expect("these tests take root");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The next answer. The sockets tell of it.
fn answer(probe: &Probe) -> Answer {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = probe.answer().unwrap() {
            return answer;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut sockets: Vec<_> =
            probe.descriptors().map(|socket| PollFd::new(socket, PollFlags::POLLIN)).collect();
        let ready = poll(&mut sockets, PollTimeout::try_from(left).unwrap()).unwrap();
        assert!(ready > 0, "no answer within {DEADLINE:?}");
    }
}

#[test]
fn a_neighbour_answers_whatever_address_it_is_asked_from() {
    let wire = Wire::new("from");
    for (own, neighbour) in [
        // An ARP probe.
        (None, "198.51.100.1"),
        (Some("198.51.100.2/24"), "198.51.100.1"),
        (Some("fe80::2/64"), "fe80::1"),
        (Some("fe80::2/64"), "2001:db8:1::1"),
        (Some("2001:db8:1::2/64"), "2001:db8:1::1"),
    ] {
        if let Some(own) = own
            && !within(&wire.asker, || Link::read("own0"))
                .unwrap()
                .has(ip(own.split('/').next().unwrap()))
        {
            wire.give(own);
        }
        let probe = wire.probe(&[neighbour]);
        let expected = Answer { neighbor: ip(neighbour), mac: Some(NEIGHBOUR_MAC) };
        probe.ask(ip(neighbour), None).unwrap();
        assert_eq!(answer(&probe), expected, "{neighbour} asked by all, from {own:?}");
        probe.ask(ip(neighbour), Some(NEIGHBOUR_MAC)).unwrap();
        let at_its_mac = answer(&probe);
        assert_eq!(at_its_mac.neighbor, ip(neighbour), "from {own:?}");
        assert_eq!(probe.answer().unwrap(), None, "one answer to each question");
    }
}

#[test]
fn only_the_neighbours_asked_for_are_heard() {
    let wire = Wire::new("heard");
    for own in ["198.51.100.2/24", "fe80::2/64", "2001:db8:1::2/64"] {
        wire.give(own);
    }
    let asked = ["198.51.100.1", "2001:db8:1::1"];
    let probe = wire.probe(&asked);
    for (neighbour, other) in asked.into_iter().zip(["198.51.100.9", "2001:db8:1::9"]) {
        // The kernel asks for another address of the neighbour, and is answered.
        run(&format!("ip netns exec {} ping -q -c 1 -W 10 {other}", wire.asker));
        probe.ask(ip(other), None).unwrap();
        // Nobody is there.
        probe.ask(ip(neighbour), Some(ANOTHER_MAC)).unwrap();
        probe.ask(ip(neighbour), None).unwrap();
        assert_eq!(answer(&probe).neighbor, ip(neighbour));
        assert_eq!(probe.answer().unwrap(), None);
    }
}

#[test]
fn the_filter_takes_as_many_neighbours_as_there_may_be() {
    let wire = Wire::new("many");
    wire.give("fe80::2/64");
    for (last, others) in [("198.51.100.1", "198.51.100.10"), ("2001:db8:1::1", "2001:db8:1::10")] {
        let mut neighbours: Vec<_> = (1..NEIGHBORS_MAX).map(|n| format!("{others}{n}")).collect();
        neighbours.push(last.into());
        let probe = wire.probe(&neighbours.iter().map(String::as_str).collect::<Vec<_>>());
        for neighbour in &neighbours {
            probe.ask(ip(neighbour), None).unwrap();
        }
        assert_eq!(answer(&probe).neighbor, ip(last));
    }
}

#[test]
fn what_cannot_be_asked_is_told() {
    let wire = Wire::new("told");
    let probe = wire.probe(&["2001:db8:1::1"]);
    let refused = probe.ask(ip("2001:db8:1::1"), None).unwrap_err();
    assert!(matches!(refused, ProbeError::NoAddress { .. }), "{refused}");

    let probe = wire.probe(&["198.51.100.1"]);
    run(&format!("ip -n {} link set own0 down", wire.asker));
    let refused = probe.ask(ip("198.51.100.1"), None).unwrap_err();
    assert!(matches!(refused, ProbeError::Send { .. }), "{refused}");
    // The kernel tells the socket, once, that the link went down; then all is as before.
    wire.raise();
    assert!(probe.answer().is_err());
    probe.ask(ip("198.51.100.1"), None).unwrap();
    assert_eq!(answer(&probe).neighbor, ip("198.51.100.1"));

    let missing = within(&wire.asker, || Probe::open("own1", &[ip("198.51.100.1")])).unwrap_err();
    assert!(missing.to_string().contains("own1"), "{missing}");
}
