//! What the kernel has counted of the node, and whether all packets are accounted for.
//!
//! | what | counted by |
//! |---|---|
//! | sent | the generator |
//! | lost | the interface: `rx_dropped`, its ring was full, or that of an AF_XDP socket |
//! | handled | the interface: `rx_packets`, those included that found the socket's ring full |
//! | delivered | `IpInDelivers`: what no rule dropped |
//! | read | the socket's owner |
//! | refused | `UdpRcvbufErrors`: the owner did not keep up |
//!
//! Where frames go by AF_XDP, the receiver says what came to it, and what became of that.

use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::receive;
use super::rows::Sink;

/// Counters of the node, all since its namespace was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) handled: u64,
    pub(super) lost: u64,
    pub(super) delivered: u64,
    pub(super) read: u64,
    pub(super) refused: u64,
    /// What the receiver counts, where there is an AF_XDP socket.
    pub(super) receiver: Option<receive::Report>,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Given to the interface by the generator.
    pub sent: u64,
    /// Dropped on purpose.
    pub dropped: u64,
    /// Brought to the socket: read by its owner, or refused since the owner did not keep up.
    pub accepted: u64,
    /// Of these, read.
    pub read: u64,
    /// Of these, refused: a run of a flow counts once where the socket takes runs.
    pub refused: u64,
    /// Lost for want of time or room.
    pub lost: u64,
}

impl Tally {
    /// Whether each packet that was sent has been dropped, accepted or lost, and each that was accepted read or refused.
    pub fn adds_up(&self, sink: Sink) -> bool {
        let is_read = match sink {
            Sink::Socket => self.accepted == self.read + self.refused,
            // What a run that was refused held, nobody counts.
            Sink::GroSocket => self.accepted == self.read || self.refused > 0,
            Sink::Nobody => self.read == 0,
        };
        is_read && self.sent == self.dropped + self.accepted + self.lost
    }

    /// How many packets were dealt with.
    pub fn handled(&self) -> u64 {
        self.dropped + self.accepted
    }
}

impl Counters {
    /// Those of the namespace of a process, apart from what the socket's owner and a receiver count.
    pub(super) fn of(pid: u32, interface: &str) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/net/{name}");
            fs::read_to_string(&path).with_context(|| path)
        };
        let (devices, protocols) = (read("dev")?, read("snmp")?);
        let column = |column| {
            of_interface(&devices, interface, column)
                .with_context(|| format!("/proc/net/dev says nothing of {interface}"))
        };
        let protocol = |protocol, name| {
            of_protocol(&protocols, protocol, name)
                .with_context(|| format!("/proc/net/snmp has no {protocol} {name}"))
        };
        Ok(Self {
            handled: column(1)?,
            lost: column(3)?,
            delivered: protocol("Ip", "InDelivers")?,
            refused: protocol("Udp", "RcvbufErrors")?,
            ..Self::default()
        })
    }

    /// How many packets vipdp's program has dealt with since `before`, without a worker.
    pub(super) fn by_program_since(&self, before: &Self) -> u64 {
        let by_program = |it: &Self| it.receiver.map_or(0, |receiver| receiver.by_program);
        by_program(self) - by_program(before)
    }

    /// What became of `sent` packets between `before` and now.
    pub(super) fn since(&self, before: &Self, sent: u64, sink: Sink) -> Tally {
        let handled = self.handled - before.handled;
        let lost = self.lost - before.lost;
        let delivered = self.delivered - before.delivered;
        let read = self.read - before.read;
        let refused = self.refused - before.refused;
        let [dropped, by_host, passed] = match (&self.receiver, &before.receiver) {
            (Some(now), Some(then)) => {
                [now.dropped - then.dropped, now.refused - then.refused, now.passed - then.passed]
            }
            // No rules stand before a socket that takes runs, of which `delivered` counts each once.
            _ if sink == Sink::GroSocket => [0, 0, handled],
            _ => [handled.saturating_sub(delivered), 0, delivered],
        };
        let accepted = if sink == Sink::Socket { read + refused } else { passed };
        Tally { sent, dropped, accepted, read, refused, lost: lost + by_host }
    }
}

/// A column of the interface's line in `/proc/net/dev`, counted from the first number.
fn of_interface(text: &str, interface: &str, column: usize) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        (name.trim() == interface).then_some(rest)
    })?;
    line.split_whitespace().nth(column)?.parse().ok()
}

/// A number of `/proc/net/snmp`, in which a line of names goes before each line of numbers.
fn of_protocol(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| {
        let (found, rest) = line.split_once(':')?;
        (found == protocol).then_some(rest)
    });
    let at = lines.next()?.split_whitespace().position(|found| found == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// How many connections the namespace of a process tracks: the first column of the kernel's table is, in each line,
/// the number of all. 0 where it tracks none.
pub(super) fn tracked(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/net/stat/nf_conntrack"));
    let text = text.unwrap_or_default();
    let first = text.lines().nth(1).and_then(|line| line.split_whitespace().next());
    first.and_then(|number| u64::from_str_radix(number, 16).ok()).unwrap_or_default()
}

/// Bytes that the kernel has allocated in pieces and cannot give back (`SUnreclaim`).
pub(super) fn kernel_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("SUnreclaim:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("/proc/meminfo has no SUnreclaim")? * 1024)
}

/// Time for which the threads of these processes have run, nanoseconds, as the scheduler counts it.
pub(super) fn run_ns(pids: impl IntoIterator<Item = u32>) -> Result<u64> {
    let mut total = 0;
    for pid in pids {
        let directory = format!("/proc/{pid}/task");
        for thread in fs::read_dir(&directory).with_context(|| directory.clone())? {
            let path = thread?.path().join("schedstat");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let first =
                text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            total += first.with_context(|| format!("{}: {text:?}", path.display()))?;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:       1       2    3    4    0     0          0         0        5       6    7    8    0
 node0: 64201300  642013    0 5913558    0     0          0         0    13356     477    0    0    0
";
    const PROTOCOLS: &str = "\
Ip: Forwarding DefaultTTL InReceives InDelivers
Ip: 2 64 484080 484079
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors
Udp: 1 2 3 4 5
UdpLite: InDatagrams RcvbufErrors
UdpLite: 8 9
";

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(of_interface(DEVICES, "node0", 1), Some(642_013));
        assert_eq!(of_interface(DEVICES, "node0", 3), Some(5_913_558));
        assert_eq!(of_interface(DEVICES, "node", 3), None);
        assert_eq!(of_protocol(PROTOCOLS, "Ip", "InDelivers"), Some(484_079));
        assert_eq!(of_protocol(PROTOCOLS, "Udp", "RcvbufErrors"), Some(5));
        assert_eq!(of_protocol(PROTOCOLS, "Udp", "Nothing"), None);
        assert!(kernel_bytes().expect("it is there") > 0);
        assert!(run_ns([std::process::id()]).expect("this process") > 0);
    }

    #[test]
    fn what_the_kernels_rules_drop_is_what_they_do_not_deliver() {
        let before = Counters { handled: 10, delivered: 10, read: 10, ..Counters::default() };
        let after = Counters {
            handled: 110,
            lost: 50,
            delivered: 35,
            read: 30,
            refused: 5,
            receiver: None,
        };
        let tally = after.since(&before, 150, Sink::Socket);
        let expected =
            Tally { sent: 150, dropped: 75, accepted: 25, read: 20, refused: 5, lost: 50 };
        assert_eq!(tally, expected);
        assert!(tally.adds_up(Sink::Socket));
        // A datagram that was delivered and is not at the socket.
        let missing = Counters { read: 29, ..after };
        assert!(!missing.since(&before, 150, Sink::Socket).adds_up(Sink::Socket));
    }

    #[test]
    fn what_a_receiver_does_not_get_or_cannot_hand_on_is_lost() {
        let receiver = |received, dropped, passed, refused| {
            Some(receive::Report { received, dropped, passed, refused, by_program: 0 })
        };
        let before = Counters { receiver: receiver(0, 0, 0, 0), ..Counters::default() };
        let after = Counters {
            // Ten of them found the socket's ring full.
            handled: 100,
            lost: 17,
            delivered: 20,
            read: 20,
            refused: 0,
            receiver: receiver(90, 69, 20, 1),
        };
        let tally = after.since(&before, 107, Sink::Socket);
        let expected =
            Tally { sent: 107, dropped: 69, accepted: 20, read: 20, refused: 0, lost: 18 };
        assert_eq!(tally, expected);
        assert!(tally.adds_up(Sink::Socket));
        assert_eq!(tally.handled(), 89);
        // A frame that the receiver has and that it forgets.
        let forgotten = Counters { receiver: receiver(90, 68, 20, 1), ..after };
        assert!(!forgotten.since(&before, 107, Sink::Socket).adds_up(Sink::Socket));
    }

    #[test]
    fn of_runs_that_are_refused_the_host_knows_no_number() {
        let receiver = |passed| {
            Some(receive::Report { received: passed, passed, ..receive::Report::default() })
        };
        let before = Counters { receiver: receiver(0), ..Counters::default() };
        let after = Counters {
            handled: 80,
            lost: 0,
            delivered: 10,
            read: 64,
            refused: 2,
            receiver: receiver(80),
        };
        let tally = after.since(&before, 80, Sink::GroSocket);
        assert_eq!((tally.accepted, tally.read, tally.refused), (80, 64, 2));
        assert!(tally.adds_up(Sink::GroSocket));
        let missing = Counters { refused: 0, ..after };
        assert!(!missing.since(&before, 80, Sink::GroSocket).adds_up(Sink::GroSocket));
    }
}
