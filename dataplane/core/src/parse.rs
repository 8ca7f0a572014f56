//! One pass over a frame: from bytes to what a verdict needs to know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ethernet::MacAddr;

/// What [`parse`] found in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Ethernet destination.
    pub dst: MacAddr,
    /// Ethernet source.
    pub src: MacAddr,
    /// VLAN identifier, 1..=4094, if the frame has an 802.1Q tag with one. A priority tag
    /// (identifier 0) counts as untagged.
    pub vlan: Option<u16>,
    /// Where the network header starts: 14, or 18 behind a tag.
    pub network_offset: u16,
    /// What the frame carries.
    pub payload: Payload,
}

/// What a frame carries, as far as the data plane cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// An ARP packet for IPv4 over Ethernet.
    Arp(Arp),
    /// An ICMPv6 neighbour solicitation, checked as RFC 4861, section 7.1.1 demands.
    NeighborSolicitation(NeighborSolicitation),
    /// An ICMPv6 neighbour advertisement, checked as RFC 4861, section 7.1.2 demands.
    NeighborAdvertisement(NeighborAdvertisement),
    /// Any other IPv4 or IPv6 packet.
    Ip(IpPacket),
}

/// An ARP packet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whether the operation is request (1), else reply (2).
    pub is_request: bool,
    /// Sender hardware address.
    pub sender_mac: MacAddr,
    /// Sender protocol address; unspecified in a probe (RFC 5227, section 2.1.1).
    pub sender_ip: Ipv4Addr,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

/// A neighbour solicitation (RFC 4861, section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborSolicitation {
    /// IPv6 source; unspecified in duplicate address detection.
    pub src: Ipv6Addr,
    /// IPv6 destination: the target itself, or its solicited-node group.
    pub dst: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
}

/// A neighbour advertisement (RFC 4861, section 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborAdvertisement {
    /// The address advertised.
    pub target: Ipv6Addr,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// IP source. Both addresses are of one family.
    pub src: IpAddr,
    /// IP destination.
    pub dst: IpAddr,
    /// Which part of a datagram the packet holds.
    pub fragment: Fragment,
    /// Protocol number of [`transport`](Self::transport), behind all extension headers. The
    /// first fragment names it in IPv6; later ones carry the same number.
    pub protocol: u8,
    /// What the packet carries.
    pub transport: Transport,
}

/// Which part of a datagram a packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// Its start, with more to come. Has the transport header.
    First {
        /// Identification: 16 bits in IPv4, 32 in IPv6.
        id: u32,
    },
    /// A later piece, without a transport header.
    Later {
        /// Identification: 16 bits in IPv4, 32 in IPv6.
        id: u32,
    },
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A UDP datagram (RFC 768).
    Udp(Ports),
    /// A TCP segment (RFC 9293).
    Tcp(Ports, TcpFlags),
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// An ICMP or ICMPv6 error about a packet that the VIP sent.
    IcmpError(Quoted),
    /// A later fragment: what it carries is in its first fragment only.
    LaterFragment,
    /// Anything else: other ICMP, other protocols, no payload at all.
    Other,
}

/// A pair of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
}

/// The flags of a TCP header that matter to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags {
    /// Synchronise.
    pub syn: bool,
    /// Acknowledge.
    pub ack: bool,
    /// Finish.
    pub fin: bool,
    /// Reset.
    pub rst: bool,
}

/// The start of the packet that an ICMP error quotes (RFC 792, RFC 4443): a packet from the VIP
/// to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// IP source of the quoted packet: the VIP.
    pub src: IpAddr,
    /// IP destination of the quoted packet: the client.
    pub dst: IpAddr,
    /// Its protocol number, behind all extension headers that are quoted.
    pub protocol: u8,
    /// Its ports, if it is UDP or TCP, not a later fragment, and at least 4 bytes of its transport
    /// header are quoted.
    pub ports: Option<Ports>,
}

macro_rules! parse_errors {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a frame could not be parsed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ParseError { $($(#[$doc])* $name,)* }

        impl ParseError {
            /// Every error, in the order of `error as usize`.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The error's name in `vipdp status` and in the metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

parse_errors! {
    /// The frame is shorter than an Ethernet header and its tag.
    EthernetTruncated = "ethernet_truncated",
    /// More than one 802.1Q or 802.1ad tag.
    VlanStacked = "vlan_stacked",
    /// Neither ARP nor IPv4 nor IPv6.
    EtherTypeUnknown = "ethertype_unknown",
    /// The frame is shorter than its ARP packet.
    ArpTruncated = "arp_truncated",
    /// An ARP packet not of IPv4 over Ethernet, of an unknown operation, or with a sender hardware
    /// address that is a group.
    ArpInvalid = "arp_invalid",
    /// The frame is shorter than its IPv4 header or than the total length says.
    Ipv4Truncated = "ipv4_truncated",
    /// An IPv4 header with another version, a header length below 20, or a total length below it.
    Ipv4Invalid = "ipv4_invalid",
    /// The IPv4 header checksum is wrong.
    Ipv4Checksum = "ipv4_checksum",
    /// The frame is shorter than its IPv6 header or than the payload length says.
    Ipv6Truncated = "ipv6_truncated",
    /// An IPv6 header with another version.
    Ipv6Invalid = "ipv6_invalid",
    /// An IPv6 extension header that is cut short, out of its place, or one too many.
    Ipv6Extension = "ipv6_extension",
    /// A fragment that reaches beyond 65,535 bytes, or, with more to come, is not a multiple of 8 long.
    FragmentInvalid = "fragment_invalid",
    /// The packet is shorter than its UDP header, or the UDP length contradicts the IP length.
    UdpInvalid = "udp_invalid",
    /// The packet is shorter than its TCP header, or the data offset is below 5.
    TcpInvalid = "tcp_invalid",
    /// A TCP segment with flags that no stack sends: SYN with FIN, SYN with RST, or none of SYN,
    /// ACK, RST.
    TcpFlagsInvalid = "tcp_flags_invalid",
    /// The packet is shorter than its ICMP header.
    IcmpTruncated = "icmp_truncated",
    /// An ICMP error whose quoted packet is too short to tell whom it concerns.
    IcmpQuoteTruncated = "icmp_quote_truncated",
    /// A neighbour discovery message that RFC 4861, section 7.1 demands to discard.
    NeighborInvalid = "neighbor_invalid",
    /// A neighbour discovery message with a wrong ICMPv6 checksum.
    NeighborChecksum = "neighbor_checksum",
    /// The IP source cannot be a sender's: multicast, broadcast, loopback, or unspecified.
    SourceInvalid = "source_invalid",
}
