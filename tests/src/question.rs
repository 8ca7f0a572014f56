//! Questions to the VIPs from many addresses, and the one answer that each of them is due.
//!
//! Put on the segment frame by frame, so that it is sure who asks, how, and how often.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::capture::Capture;
use crate::frame::{
    Frame, Mac, Packet, arp_request, echo_request, solicitation, solicited_node, udp,
};
use crate::inject::Injector;
use crate::lab::{VIP4, VIP6, VIPS};
use crate::namespace::Namespace;
use crate::status::Interface;

/// The query `id.server. CH TXT` (RFC 4892) with id 0x7664.
const DNS_QUERY: &[u8] =
    b"\x76\x64\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02id\x06server\x00\x00\x10\x00\x03";
/// All nodes of the link (RFC 4291, section 2.7.1): who asks without an address is answered there.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Answers, and how often each came.
pub type Answers = BTreeMap<Packet, u32>;

/// Questions and what is to be answered.
#[derive(Debug)]
pub struct Questions {
    frames: Vec<Vec<u8>>,
    expected: Answers,
}

impl Questions {
    /// `askers` addresses of each family ask everything: ARP and neighbour discovery, to all and to
    /// the shared address that they know already, ping, and DNS.
    pub fn new(from: &Injector, interface: &Interface, askers: u8) -> Self {
        let shared = interface.shared_macs().into();
        let mut questions = Self { frames: Vec::new(), expected: Answers::new() };
        questions.ask_probes(from.mac(), shared);
        for asker in 0..askers {
            questions.ask_for_macs(from.mac(), shared, asker);
            questions.ask_services(from.mac(), shared, asker);
        }
        questions
    }

    fn add(&mut self, frame: Vec<u8>, answer: Packet) {
        self.frames.push(frame);
        assert!(self.expected.insert(answer, 1).is_none(), "two questions with the same answer");
    }

    /// Those who ask before they take an address have none (RFC 5227, RFC 4862 section 5.4.2).
    fn ask_probes(&mut self, from: Mac, (shared4, shared6): (Mac, Mac)) {
        let nobody = Ipv4Addr::UNSPECIFIED;
        self.add(
            arp_request(from, Mac::BROADCAST, nobody, VIP4),
            Packet::ArpReply { sender: (shared4, VIP4), target: nobody },
        );
        let group = (Mac::solicited_node(VIP6), solicited_node(VIP6));
        self.add(
            solicitation(from, group, Ipv6Addr::UNSPECIFIED, VIP6),
            Packet::Advertisement { to: ALL_NODES, target: VIP6, mac: Some(shared6) },
        );
    }

    /// From neighbours that are not there: answers name them, and come to who asked for them.
    fn ask_for_macs(&mut self, from: Mac, (shared4, shared6): (Mac, Mac), asker: u8) {
        let group = (Mac::solicited_node(VIP6), solicited_node(VIP6));
        for (known, net4, net6) in [(false, 100, 0x100), (true, 150, 0x200)] {
            let v4 = Ipv4Addr::new(192, 0, 2, net4 + asker);
            let to = if known { shared4 } else { Mac::BROADCAST };
            self.add(
                arp_request(from, to, v4, VIP4),
                Packet::ArpReply { sender: (shared4, VIP4), target: v4 },
            );
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 1, net6 + u16::from(asker));
            let to = if known { (shared6, VIP6) } else { group };
            self.add(
                solicitation(from, to, v6, VIP6),
                Packet::Advertisement { to: v6, target: VIP6, mac: Some(shared6) },
            );
        }
    }

    /// From clients beyond the router.
    fn ask_services(&mut self, from: Mac, (shared4, shared6): (Mac, Mac), asker: u8) {
        let v4 = IpAddr::V4(Ipv4Addr::new(10, 64, 200, asker));
        let v6 = IpAddr::V6(Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 200, asker.into()));
        for (client, vip, shared) in [(v4, VIPS[0], shared4), (v6, VIPS[1], shared6)] {
            self.add(
                echo_request(from, shared, client, vip, asker.into()),
                Packet::EchoReply { from: vip, to: client, sequence: asker.into() },
            );
            let (client, server) = (SocketAddr::new(client, 5_353), SocketAddr::new(vip, 53));
            self.add(
                udp((from, client), (shared, server), 64, DNS_QUERY),
                Packet::Udp { from: server, to: client },
            );
        }
    }

    /// How many questions there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Captures answers where the questions are put on the wire.
    #[track_caller]
    pub fn capture(from: &Injector, namespace: &Namespace, interface: &str) -> Capture {
        let kinds = "(arp or icmp or icmp6 or udp src port 53)";
        Capture::start(namespace, interface, &format!("{kinds} and not ether src {}", from.mac()))
    }

    /// Puts them on the wire.
    #[track_caller]
    pub fn ask(&self, injector: &Injector) {
        for frame in &self.frames {
            injector.send(frame);
        }
    }

    /// Waits until as many answers are captured as there are questions, for `limit` at most; then
    /// asserts that each question has had its answer, once, and that there were no others.
    #[track_caller]
    pub fn assert_answered_once(&self, capture: &Capture, limit: Duration) {
        let deadline = Instant::now() + limit;
        let answers = loop {
            let answers = answers(&capture.frames());
            let count: u32 = answers.values().sum();
            if count as usize >= self.len() || Instant::now() > deadline {
                break answers;
            }
        };
        let times = |answers: &Answers, packet| answers.get(packet).copied().unwrap_or(0);
        let mut wrong: Vec<_> = self.expected.keys().chain(answers.keys()).collect();
        wrong.retain(|packet| times(&answers, packet) != times(&self.expected, packet));
        wrong.dedup();
        let wrong: Vec<_> = wrong
            .iter()
            .map(|packet| {
                let (due, came) = (times(&self.expected, packet), times(&answers, packet));
                format!("{due} due, {came} came: {packet:?}")
            })
            .collect();
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), self.len(), wrong.join("\n"));
    }
}

/// The answers for a VIP among captured frames, but for those to the router itself.
pub fn answers(frames: &[Frame]) -> Answers {
    let router4 = Ipv4Addr::new(192, 0, 2, 1);
    let is_router6 = |address: Ipv6Addr| {
        address == Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 1)
            || address.is_unicast_link_local()
    };
    let mut answers = Answers::new();
    for packet in frames.iter().map(Frame::packet) {
        let counts = match &packet {
            Packet::ArpReply { sender: (_, ip), target } => *ip == VIP4 && *target != router4,
            Packet::Advertisement { to, target, .. } => *target == VIP6 && !is_router6(*to),
            Packet::EchoReply { from, .. } => VIPS.contains(from),
            Packet::Udp { from, .. } => VIPS.contains(&from.ip()),
            Packet::Other => false,
        };
        if counts {
            *answers.entry(packet).or_default() += 1;
        }
    }
    answers
}
