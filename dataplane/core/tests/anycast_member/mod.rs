//! A member of a cluster in the anycast mode, and what it sends to others, read by a library that is
//! not the one under test.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use vipdp_core::anycast::{Anycast, PeerPath, Steering};
use vipdp_core::bucket::Bucket;
use vipdp_core::hash::{ClientHash, HashInput};
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::Ingress;
use vipdp_core::tiered::{Mark, VirtualMac};
use vipdp_core::wire::ethernet::MacAddr;

use crate::frames::{Link, ROUTER, ip_frame, ip_piece};
use crate::tiered_member::*;

/// The port that tunnels lead to.
pub const GUE: u16 = 6080;
/// The largest packet on the paths between members.
pub const PATH_MTU: u16 = 1500;

/// How members reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Segment,
    Tunnel(Family),
}

pub const WAYS: [Way; 3] = [Way::Segment, Way::Tunnel(Family::V4), Way::Tunnel(Family::V6)];

impl Way {
    /// Bytes that it adds to a packet.
    pub fn overhead(self) -> usize {
        match self {
            Self::Segment => 0,
            Self::Tunnel(Family::V4) => 20 + 8 + 8,
            Self::Tunnel(Family::V6) => 40 + 8 + 8,
        }
    }
}

/// A member's own address.
pub fn address_of(slot: Slot, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 1, 0, slot.get() + 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, u16::from(slot.get()) + 1).into(),
    }
}

/// The member in slot `own` of `members` many, all alive. It holds nothing and knows of no owners.
pub fn member(own: u8, members: u8, way: Way) -> Member {
    let steering = match way {
        Way::Segment => Steering::Mac,
        Way::Tunnel(_) => Steering::Gue { port: GUE },
    };
    let anycast = Anycast { slot: slot(own), cluster: CLUSTER, steering: Some(steering) };
    let mut member = Member::in_mode(own, members, Ingress::Anycast(anycast));
    if let Way::Tunnel(family) = way {
        for peer in (0..members).map(slot).filter(|&peer| peer != slot(own)) {
            member.service.peers[peer.index()] = Some(PeerPath {
                source: address_of(slot(own), family),
                destination: address_of(peer, family),
                next_hop: Some(ROUTER),
                mtu: PATH_MTU,
            });
        }
    }
    member.publish();
    member
}

/// The bucket of a client whose address alone is hashed.
pub fn bucket_of(client: IpAddr) -> Bucket {
    Bucket::of_hash(ClientHash::new([7; 16], HashInput::Address).hash(client, 0))
}

/// From the router to a member.
pub fn from_router(member: &Member) -> Link {
    Link { from: ROUTER, to: member.service.own_mac, vlan: member.service.vlan }
}

/// A frame from one member to another.
#[derive(Debug, PartialEq, Eq)]
pub struct SentOn {
    pub from: Slot,
    pub to: Slot,
    pub mark: Mark,
    /// The IP packet that it carries.
    pub packet: Vec<u8>,
}

/// The bytes behind a frame's Ethernet header, less padding.
pub fn packet_in(frame: &[u8]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let at = if sliced.vlan().is_some() { 18 } else { 14 };
    let len = match sliced.net.unwrap() {
        NetSlice::Ipv4(packet) => usize::from(packet.header().total_len()),
        NetSlice::Ipv6(packet) => 40 + usize::from(packet.header().payload_length()),
        NetSlice::Arp(_) => panic!("no IP packet"),
    };
    frame[at..at + len].to_vec()
}

fn mac(frame: &[u8], at: usize) -> MacAddr {
    MacAddr(frame[at..at + 6].try_into().unwrap())
}

/// Reads what a member has sent on.
#[track_caller]
pub fn sent_on(way: Way, frame: &[u8]) -> SentOn {
    let Way::Tunnel(family) = way else {
        let Some(VirtualMac::Mark(from, mark)) = VirtualMac::of(mac(frame, 6), CLUSTER) else {
            panic!("sent on without a mark, from {}", mac(frame, 6));
        };
        let to = Slot::new(frame[5] - 1).unwrap();
        assert_eq!(mac(frame, 0), mac_of(to));
        return SentOn { from, to, mark, packet: packet_in(frame) };
    };
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (source, destination): (IpAddr, IpAddr) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(packet) => {
            let header = packet.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(header.dont_fragment && !header.is_fragmenting_payload());
            assert_eq!(header.time_to_live, 64);
            (header.source.into(), header.destination.into())
        }
        NetSlice::Ipv6(packet) => {
            assert_eq!(packet.header().hop_limit(), 64);
            (packet.header().source_addr().into(), packet.header().destination_addr().into())
        }
        NetSlice::Arp(_) => panic!("no tunnel"),
    };
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no tunnel") };
    assert_eq!((udp.destination_port(), udp.checksum()), (GUE, 0));
    assert!(udp.source_port() >= 49_152, "{}", udp.source_port());
    let (header, packet) = udp.payload().split_at(8);
    let protocol = if packet[0] >> 4 == 4 { 4 } else { 41 };
    assert_eq!(header[..5], [1, protocol, 0, 0, 1]);
    let mark = Mark::from_wire(u16::from_be_bytes([header[6], header[7]])).unwrap();
    let slot_at = |address| {
        let all = (0..64).map(slot);
        all.into_iter().find(|&slot| address_of(slot, family) == address).unwrap()
    };
    let (from, to) = (slot_at(source), slot_at(destination));
    assert_eq!(header[5], from.get());
    assert_eq!(mac(frame, 0), ROUTER, "to the next hop");
    assert_eq!(mac(frame, 6), mac_of(from));
    SentOn { from, to, mark, packet: packet.to_vec() }
}

/// What another member, with this mark, makes a packet into: the frame as it arrives.
pub fn arriving(way: Way, from: Slot, to: Slot, mark: Mark, packet: &[u8]) -> Vec<u8> {
    match way {
        Way::Segment => {
            ip_frame(Link { from: mark_mac(from, mark), to: mac_of(to), vlan: None }, packet)
        }
        Way::Tunnel(family) => {
            let protocol = if packet[0] >> 4 == 4 { 4 } else { 41 };
            let [high, low] = mark.to_wire().to_be_bytes();
            let header = [1, protocol, 0, 0, 1, from.get(), high, low];
            let tunnel = Tunnel { from, to, family, header, ..Tunnel::default() };
            tunnel.frame(packet)
        }
    }
}

/// A tunnel with whatever a test wants to be different in it.
#[derive(Clone, Debug)]
pub struct Tunnel {
    pub from: Slot,
    pub to: Slot,
    pub family: Family,
    pub header: [u8; 8],
    pub port: u16,
    pub checksum: u16,
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    /// As of [`ip_piece`].
    pub piece: Option<(u16, bool, u16)>,
    pub vlan: Option<u16>,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            from: slot(1),
            to: slot(0),
            family: Family::V4,
            // Kind 5, bucket 0.
            header: [1, 4, 0, 0, 1, 1, 0x50, 0],
            port: GUE,
            checksum: 0,
            source: None,
            destination: None,
            piece: None,
            vlan: None,
        }
    }
}

impl Tunnel {
    pub fn frame(&self, packet: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        datagram.extend(50_000_u16.to_be_bytes());
        datagram.extend(self.port.to_be_bytes());
        datagram.extend((16 + packet.len() as u16).to_be_bytes());
        datagram.extend(self.checksum.to_be_bytes());
        datagram.extend(self.header);
        datagram.extend(packet);
        let source = self.source.unwrap_or(address_of(self.from, self.family));
        let destination = self.destination.unwrap_or(address_of(self.to, self.family));
        let outer = ip_piece(source, destination, 17, &datagram, self.piece);
        ip_frame(Link { from: ROUTER, to: mac_of(self.to), vlan: self.vlan }, &outer)
    }
}
