//! Frames built by etherparse, an implementation that is not ours, together with what `parse`
//! must find in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpAuthHeader,
    IpFragOffset, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header,
    Ipv6RawExtHeader, Ipv6RoutingExtensions, SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
    VlanPcp,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use vipdp_core::parse::{Fragment, IpPacket, Parsed, Payload, Ports, Quoted, TcpFlags, Transport};
use vipdp_core::wire::ethernet::MacAddr;

/// A frame and what is in it.
#[derive(Clone, Debug)]
pub struct Built {
    pub frame: Vec<u8>,
    pub expected: Parsed,
}

/// Any frame with an IP packet in it.
pub fn built() -> impl Strategy<Value = Built> {
    (link(), network(), upper(), piece()).prop_map(|(link, network, upper, piece)| {
        let payload = upper.bytes(&network);
        let (piece, data, transport) = piece.cut(&payload, upper.transport(&network));
        let packet = network.packet(upper.protocol(&network), piece, data);
        let (src, dst) = network.addresses();
        let fragment = piece.map_or(Fragment::Whole, Piece::fragment);
        let protocol = match (&network, fragment) {
            (Network::V6 { extensions, .. }, Fragment::Later { .. }) => {
                extensions.behind_fragment(upper.protocol(&network))
            }
            _ => upper.protocol(&network),
        };
        let ip = IpPacket { src, dst, fragment, protocol, transport };
        link.frame(&packet, Payload::Ip(ip))
    })
}

#[derive(Clone, Debug)]
struct Link {
    dst: [u8; 6],
    src: [u8; 6],
    /// Priority and VLAN identifier.
    tag: Option<(u8, u16)>,
}

fn link() -> impl Strategy<Value = Link> {
    let source = any::<[u8; 6]>().prop_map(|[first, rest @ ..]| {
        let [b, c, d, e, f] = rest;
        [first & 0xfe, b, c, d, e, f]
    });
    (any::<[u8; 6]>(), source, option::of((0..8u8, 0..4095u16))).prop_map(|(dst, src, tag)| Link {
        dst,
        src,
        tag,
    })
}

impl Link {
    fn frame(&self, packet: &[u8], payload: Payload) -> Built {
        let ether_type = if packet[0] >> 4 == 4 { EtherType::IPV4 } else { EtherType::IPV6 };
        let mut ethernet = Ethernet2Header { source: self.src, destination: self.dst, ether_type };
        let mut frame = Vec::new();
        if let Some((priority, vlan)) = self.tag {
            ethernet.ether_type = EtherType::VLAN_TAGGED_FRAME;
            let tag = SingleVlanHeader {
                pcp: VlanPcp::try_new(priority).unwrap(),
                drop_eligible_indicator: false,
                vlan_id: VlanId::try_new(vlan).unwrap(),
                ether_type,
            };
            frame.extend(tag.to_bytes());
        }
        let mut frame = [&ethernet.to_bytes()[..], &frame, packet].concat();
        frame.resize(frame.len().max(60), 0);
        let expected = Parsed {
            dst: MacAddr(self.dst),
            src: MacAddr(self.src),
            vlan: self.tag.map(|(_, vlan)| vlan).filter(|&vlan| vlan != 0),
            network_offset: if self.tag.is_some() { 18 } else { 14 },
            payload,
        };
        Built { frame, expected }
    }
}

#[derive(Clone, Debug)]
enum Network {
    V4 { src: Ipv4Addr, dst: Ipv4Addr, options: Vec<u8> },
    V6 { src: Ipv6Addr, dst: Ipv6Addr, extensions: Extensions },
}

/// Contents of the extension headers that are there.
#[derive(Clone, Debug)]
struct Extensions {
    hop_by_hop: Option<Vec<u8>>,
    destination: Option<Vec<u8>>,
    /// Routing, and destination options behind that.
    routing: Option<(Vec<u8>, Option<Vec<u8>>)>,
    authentication: Option<Vec<u8>>,
}

impl Extensions {
    /// What the fragment header names: the first header behind it.
    fn behind_fragment(&self, protocol: u8) -> u8 {
        match (&self.authentication, &self.routing) {
            (Some(_), _) => 51,
            (None, Some((_, Some(_)))) => 60,
            _ => protocol,
        }
    }
}

fn network() -> impl Strategy<Value = Network> {
    let is_sender_v4 = |src: &Ipv4Addr| {
        !(src.is_multicast() || src.is_broadcast() || src.is_loopback() || src.is_unspecified())
    };
    let is_sender_v6 = |src: &Ipv6Addr| {
        let is_mapped = src.to_ipv4_mapped().is_some();
        !(src.is_multicast() || src.is_loopback() || src.is_unspecified() || is_mapped)
    };
    let options = (0..=10usize).prop_flat_map(|words| vec(any::<u8>(), words * 4));
    let v4 = (any::<Ipv4Addr>().prop_filter("a sender", is_sender_v4), any::<Ipv4Addr>(), options)
        .prop_map(|(src, dst, options)| Network::V4 { src, dst, options });
    let contents = || (0..4usize).prop_flat_map(|units| vec(any::<u8>(), 6 + units * 8));
    // The whole header fills units of 8 bytes (RFC 4302, section 2.2).
    let check = (0..4usize).prop_flat_map(|units| vec(any::<u8>(), 4 + units * 8));
    let extensions = (
        option::weighted(0.2, contents()),
        option::weighted(0.2, contents()),
        option::weighted(0.2, (contents(), option::of(contents()))),
        option::weighted(0.2, check),
    )
        .prop_map(|(hop_by_hop, destination, routing, authentication)| Extensions {
            hop_by_hop,
            destination,
            routing,
            authentication,
        });
    let v6 =
        (any::<Ipv6Addr>().prop_filter("a sender", is_sender_v6), any::<Ipv6Addr>(), extensions)
            .prop_map(|(src, dst, extensions)| Network::V6 { src, dst, extensions });
    prop_oneof![v4, v6]
}

impl Network {
    fn addresses(&self) -> (IpAddr, IpAddr) {
        match self {
            Self::V4 { src, dst, .. } => ((*src).into(), (*dst).into()),
            Self::V6 { src, dst, .. } => ((*src).into(), (*dst).into()),
        }
    }

    /// The way back, on which an ICMP error's quoted packet went.
    fn reversed(&self) -> Self {
        match self.clone() {
            Self::V4 { src, dst, options } => Self::V4 { src: dst, dst: src, options },
            Self::V6 { src, dst, extensions } => Self::V6 { src: dst, dst: src, extensions },
        }
    }

    fn packet(&self, protocol: u8, piece: Option<Piece>, data: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let protocol = IpNumber(protocol);
        match self {
            Self::V4 { src, dst, options } => {
                let len = data.len() as u16;
                let mut header =
                    Ipv4Header::new(len, 64, protocol, src.octets(), dst.octets()).unwrap();
                header.options = options.as_slice().try_into().unwrap();
                header.set_payload_len(data.len()).unwrap();
                if let Some(Piece { id, offset, more }) = piece {
                    header.dont_fragment = false;
                    header.identification = id;
                    header.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
                    header.more_fragments = more;
                }
                header.write(&mut packet).unwrap();
            }
            Self::V6 { src, dst, extensions } => {
                let mut extensions = extensions.headers(piece);
                let next_header = extensions.set_next_headers(protocol);
                let header = Ipv6Header {
                    payload_length: (extensions.header_len() + data.len()) as u16,
                    next_header,
                    hop_limit: 64,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                header.write(&mut packet).unwrap();
                extensions.write(&mut packet, next_header).unwrap();
            }
        }
        packet.extend(data);
        packet
    }
}

impl Extensions {
    fn headers(&self, piece: Option<Piece>) -> Ipv6Extensions {
        let raw = |contents: &Vec<u8>| Ipv6RawExtHeader::new_raw(IpNumber(0), contents).unwrap();
        Ipv6Extensions {
            hop_by_hop_options: self.hop_by_hop.as_ref().map(raw),
            destination_options: self.destination.as_ref().map(raw),
            routing: self.routing.as_ref().map(|(routing, options)| Ipv6RoutingExtensions {
                routing: raw(routing),
                final_destination_options: options.as_ref().map(raw),
            }),
            fragment: piece.map(|Piece { id, offset, more }| {
                let offset = IpFragOffset::try_new(offset / 8).unwrap();
                Ipv6FragmentHeader::new(IpNumber(0), offset, more, id.into())
            }),
            auth: self
                .authentication
                .as_ref()
                .map(|check| IpAuthHeader::new(IpNumber(0), 1, 2, check).unwrap()),
        }
    }
}

/// A fragment; `offset` is in bytes. One that is its whole datagram is left to the other tests.
#[derive(Clone, Copy, Debug)]
struct Piece {
    id: u16,
    offset: u16,
    more: bool,
}

#[derive(Clone, Debug)]
enum Cut {
    Whole,
    First { id: u16 },
    Later { id: u16, offset: u16, more: bool },
}

fn piece() -> impl Strategy<Value = Cut> {
    prop_oneof![
        4 => Just(Cut::Whole),
        1 => any::<u16>().prop_map(|id| Cut::First { id }),
        1 => (any::<u16>(), 1..8000u16, any::<bool>())
            .prop_map(|(id, units, more)| Cut::Later { id, offset: units * 8, more }),
    ]
}

impl Cut {
    /// The piece of `payload` that a packet carries, and what can be told of its transport. A
    /// payload that is too short for it is not cut.
    fn cut<'a>(
        &self,
        payload: &'a [u8],
        transport: Transport,
    ) -> (Option<Piece>, &'a [u8], Transport) {
        let multiple = &payload[..payload.len() / 8 * 8];
        match *self {
            // At least a TCP header; an ICMP error quotes more than the first 48 bytes.
            Cut::First { id } if multiple.len() >= 48 && !is_error(transport) => {
                (Some(Piece { id, offset: 0, more: true }), &payload[..48], transport)
            }
            Cut::Later { id, offset, more } if !multiple.is_empty() => {
                let data = if more { multiple } else { payload };
                (Some(Piece { id, offset, more }), data, Transport::LaterFragment)
            }
            _ => (None, payload, transport),
        }
    }
}

fn is_error(transport: Transport) -> bool {
    matches!(transport, Transport::IcmpError(_))
}

impl Piece {
    fn fragment(self) -> Fragment {
        let id = self.id.into();
        if self.offset == 0 { Fragment::First { id } } else { Fragment::Later { id } }
    }
}

#[derive(Clone, Debug)]
enum Upper {
    Udp { ports: (u16, u16), data: Vec<u8> },
    Tcp { ports: (u16, u16), flags: TcpFlags, options: Vec<u8>, data: Vec<u8> },
    Echo { is_request: bool, data: Vec<u8> },
    Error { which: usize, ports: (u16, u16), is_tcp: bool, len: usize },
    Other { protocol: u8, data: Vec<u8> },
}

fn upper() -> impl Strategy<Value = Upper> {
    let ports = any::<(u16, u16)>;
    let data = || vec(any::<u8>(), 0..120);
    let is_sane = |flags: &TcpFlags| {
        !(flags.syn && (flags.fin || flags.rst)) && (flags.syn || flags.ack || flags.rst)
    };
    let flags = any::<[bool; 4]>()
        .prop_map(|[syn, ack, fin, rst]| TcpFlags { syn, ack, fin, rst })
        .prop_filter("flags of a real stack", is_sane);
    let options = (0..=10usize).prop_map(|words| vec![1; words * 4]);
    prop_oneof![
        3 => (ports(), data()).prop_map(|(ports, data)| Upper::Udp { ports, data }),
        3 => (ports(), flags, options, data())
            .prop_map(|(ports, flags, options, data)| Upper::Tcp { ports, flags, options, data }),
        1 => (any::<bool>(), data()).prop_map(|(is_request, data)| Upper::Echo { is_request, data }),
        2 => (0..6usize, ports(), any::<bool>(), 0..40usize)
            .prop_map(|(which, ports, is_tcp, len)| Upper::Error { which, ports, is_tcp, len }),
        1 => (select(vec![47u8, 50, 59, 89, 132, 253]), data())
            .prop_map(|(protocol, data)| Upper::Other { protocol, data }),
    ]
}

impl Upper {
    fn protocol(&self, network: &Network) -> u8 {
        match (self, network) {
            (Self::Udp { .. }, _) => 17,
            (Self::Tcp { .. }, _) => 6,
            (Self::Other { protocol, .. }, _) => *protocol,
            (_, Network::V4 { .. }) => 1,
            (_, Network::V6 { .. }) => 58,
        }
    }

    fn transport(&self, network: &Network) -> Transport {
        match self {
            Self::Udp { ports, .. } => Transport::Udp(as_ports(*ports)),
            Self::Tcp { ports, flags, .. } => Transport::Tcp(as_ports(*ports), *flags),
            Self::Echo { is_request: true, .. } => Transport::EchoRequest,
            Self::Error { ports, is_tcp, len, .. } => {
                let (dst, src) = network.addresses();
                let ports = (*len >= 4).then_some(as_ports(*ports));
                let protocol = if *is_tcp { 6 } else { 17 };
                Transport::IcmpError(Quoted { src, dst, protocol, ports })
            }
            Self::Echo { is_request: false, .. } | Self::Other { .. } => Transport::Other,
        }
    }

    fn bytes(&self, network: &Network) -> Vec<u8> {
        match self {
            Self::Udp { ports: (src, dst), data } => {
                let header = UdpHeader::without_ipv4_checksum(*src, *dst, data.len()).unwrap();
                [&header.to_bytes()[..], data].concat()
            }
            Self::Tcp { ports: (src, dst), flags, options, data } => {
                let mut header = TcpHeader::new(*src, *dst, 1, 1000);
                (header.syn, header.ack) = (flags.syn, flags.ack);
                (header.fin, header.rst) = (flags.fin, flags.rst);
                header.set_options_raw(options).unwrap();
                [&header.to_bytes()[..], data].concat()
            }
            Self::Echo { is_request, data } => {
                let types = if *is_request { (8, 128) } else { (0, 129) };
                icmp(network, types, data)
            }
            Self::Error { which, ports, is_tcp, len } => {
                let types = ([3, 11, 12, 3, 11, 12][*which], [1, 2, 3, 4, 100, 127][*which]);
                icmp(network, types, &quote(&network.reversed(), *ports, *is_tcp, *len))
            }
            Self::Other { data, .. } => data.clone(),
        }
    }
}

fn as_ports((src, dst): (u16, u16)) -> Ports {
    Ports { src, dst }
}

/// An ICMP message of either version: `types` are those of IPv4 and IPv6.
fn icmp(network: &Network, types: (u8, u8), body: &[u8]) -> Vec<u8> {
    let (code_u8, bytes5to8) = (0, [1, 2, 3, 4]);
    let header = match network {
        Network::V4 { .. } => {
            let kind = Icmpv4Type::Unknown { type_u8: types.0, code_u8, bytes5to8 };
            Icmpv4Header::with_checksum(kind, body).to_bytes().to_vec()
        }
        Network::V6 { src, dst, .. } => {
            let kind = Icmpv6Type::Unknown { type_u8: types.1, code_u8, bytes5to8 };
            let header = Icmpv6Header::with_checksum(kind, src.octets(), dst.octets(), body);
            header.unwrap().to_bytes().to_vec()
        }
    };
    [&header[..], body].concat()
}

/// A packet's headers and the first `len` bytes of its transport.
fn quote(network: &Network, ports: (u16, u16), is_tcp: bool, len: usize) -> Vec<u8> {
    let upper = if is_tcp {
        let flags = TcpFlags { syn: false, ack: true, fin: false, rst: false };
        Upper::Tcp { ports, flags, options: vec![], data: vec![0; 40] }
    } else {
        Upper::Udp { ports, data: vec![0; 40] }
    };
    let data = upper.bytes(network);
    let mut packet = network.packet(upper.protocol(network), None, &data);
    packet.truncate(packet.len() - data.len() + len);
    packet
}
