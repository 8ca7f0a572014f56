//! Why bytes are not what they should be.

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
    /// The Ethernet source is a group address, or the VLAN identifier is the reserved 4095.
    EthernetInvalid = "ethernet_invalid",
    /// More than one 802.1Q tag, or an 802.1ad tag.
    VlanStacked = "vlan_stacked",
    /// Neither ARP nor IPv4 nor IPv6.
    EtherTypeUnknown = "ethertype_unknown",
    /// The frame is shorter than its ARP packet.
    ArpTruncated = "arp_truncated",
    /// An ARP packet not of IPv4 over Ethernet, of an unknown operation, or with the broadcast
    /// address as sender hardware address.
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
    /// A fragment that reaches beyond 65,535 bytes, that is empty, or, with more to come, is not a
    /// multiple of 8 long.
    FragmentInvalid = "fragment_invalid",
    /// The packet is shorter than its UDP header, or the UDP length contradicts the IP length.
    UdpInvalid = "udp_invalid",
    /// The packet is shorter than its TCP header, or the data offset is below 5.
    TcpInvalid = "tcp_invalid",
    /// A TCP segment with flags that no stack sends: SYN with FIN, SYN with RST, or none of SYN,
    /// ACK, RST.
    TcpFlagsInvalid = "tcp_flags_invalid",
    /// The packet is shorter than its ICMP header: 8 bytes.
    IcmpTruncated = "icmp_truncated",
    /// An ICMP error that does not tell whom it concerns: the quoted packet is shorter than its IP
    /// header without options, or is no packet of the error's own IP version.
    IcmpQuoteInvalid = "icmp_quote_invalid",
    /// A member's tunnel that is not as members send it: in fragments, with a UDP checksum, with
    /// another header than theirs, or without a packet in it.
    GueInvalid = "gue_invalid",
    /// A neighbour discovery message that RFC 4861, section 7.1, or RFC 6980, section 5, demands
    /// to discard.
    NeighborInvalid = "neighbor_invalid",
    /// A neighbour discovery message with a wrong ICMPv6 checksum.
    NeighborChecksum = "neighbor_checksum",
    /// The IP source cannot be a sender's: multicast, broadcast, loopback, unspecified (unless it
    /// is a solicitation's in duplicate address detection), or IPv4-mapped in IPv6.
    SourceInvalid = "source_invalid",
}
