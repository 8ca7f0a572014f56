//! Questions to neighbours on the segment, whether they are there: ARP requests and neighbour
//! solicitations, and the answers to them.
//!
//! The kernel resolves neighbours, too, but says of one that it is gone only after seconds, and
//! asks only where it has something to send. Here a question leaves when it is asked.
//!
//! ```text
//!   ask ------> packet socket --> ARP request, or neighbour solicitation
//!   answer <--- packet socket <-- filter: ARP replies, or advertisements, of the neighbours asked
//! ```
//!
//! A socket per family, bound to its EtherType: other traffic costs nothing, and a flood of ARP
//! wakes nobody. Whatever passes the filter is parsed whole. An answer counts only if it is one to
//! this host: it proves that frames pass both ways. It proves nothing about who sent it, since
//! neither ARP nor NDP does.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use vipdp_core::wire::ethernet::{self, MacAddr};
use vipdp_core::wire::{arp, ipv6, ndp, protocol};

use crate::link::{Link, LinkError};
use crate::membership::solicited_node;

/// The most neighbours that one probe asks: its filters stay short.
pub const NEIGHBORS_MAX: usize = 8;

/// Proves to the receiver that no router has forwarded it (RFC 4861, section 7.1).
const HOP_LIMIT: u8 = 255;
/// Longer than any answer with the options that there are.
const PACKET_MAX: usize = 512;
/// Length of a solicitation with its IPv6 header, in bytes.
const SOLICITATION_PACKET_LEN: usize = ipv6::HEADER_LEN + ndp::SOLICITATION_LEN;

/// Why neighbours cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The interface's facts cannot be had.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A socket cannot be opened.
    #[error("interface {interface}: a socket to ask neighbours: {source}; it takes CAP_NET_RAW")]
    Socket {
        /// The interface.
        interface: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// There is no address to ask from.
    #[error("interface {interface}: it has no IPv6 address of its own, to ask {neighbor} from")]
    NoAddress {
        /// The interface.
        interface: String,
        /// The neighbour.
        neighbor: Ipv6Addr,
    },
    /// The kernel does not send the question, for example since the link is down.
    #[error("interface {interface}: a question to {neighbor} is not sent: {source}")]
    Send {
        /// The interface.
        interface: String,
        /// The neighbour.
        neighbor: IpAddr,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Asks neighbours on one interface. It never waits.
#[derive(Debug)]
pub struct Probe {
    link: Link,
    /// The socket for ARP, if there are IPv4 neighbours.
    arp: Option<Socket>,
    /// The socket for NDP, if there are IPv6 neighbours.
    ndp: Option<Socket>,
}

/// A neighbour's answer to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub neighbor: IpAddr,
    /// Its MAC address, if it tells one that a frame can be sent to.
    pub mac: Option<MacAddr>,
}

impl Probe {
    /// Opens sockets on the interface called `interface` for questions to `neighbors`, of which at
    /// most [`NEIGHBORS_MAX`] are heard. The interface's addresses are those that it has now.
    ///
    /// # Errors
    /// [`ProbeError`]
    pub fn open(interface: &str, neighbors: &[IpAddr]) -> Result<Self, ProbeError> {
        let link = Link::read(interface)?;
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for neighbor in neighbors.iter().take(NEIGHBORS_MAX) {
            match neighbor {
                IpAddr::V4(neighbor) => v4.push(*neighbor),
                IpAddr::V6(neighbor) => v6.push(*neighbor),
            }
        }
        let socket = |ether_type, filter: Vec<SockFilter>| {
            open_socket(&link, ether_type, &filter)
                .map_err(|source| ProbeError::Socket { interface: link.name.clone(), source })
        };
        let arp = if v4.is_empty() { None } else { Some(socket(ethernet::ARP, arp_filter(&v4))?) };
        let ndp = if v6.is_empty() { None } else { Some(socket(ethernet::IPV6, ndp_filter(&v6))?) };
        Ok(Self { link, arp, ndp })
    }

    /// The sockets: readable when there may be an answer.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.arp.iter().chain(&self.ndp).map(Socket::as_fd)
    }

    /// Asks `neighbor`: at `mac`, or where that is unknown all of the segment (ARP), or all whose
    /// address ends alike (NDP). Returns at once.
    ///
    /// # Errors
    /// [`ProbeError::Send`], [`ProbeError::NoAddress`]
    pub fn ask(&self, neighbor: IpAddr, mac: Option<MacAddr>) -> Result<(), ProbeError> {
        let not_sent =
            |source| ProbeError::Send { interface: self.link.name.clone(), neighbor, source };
        let sent = match neighbor {
            IpAddr::V4(target) => {
                let packet = request(&self.link, target);
                self.send(self.arp.as_ref(), &packet, ethernet::ARP, mac)
            }
            IpAddr::V6(target) => {
                let no_address = || ProbeError::NoAddress {
                    interface: self.link.name.clone(),
                    neighbor: target,
                };
                let src = source_v6(&self.link, target).ok_or_else(no_address)?;
                let dst = if mac.is_some() { target } else { solicited_node(target) };
                let packet = solicitation(self.link.mac, src, dst, target);
                let to = mac.or_else(|| MacAddr::of_ipv6_group(dst));
                self.send(self.ndp.as_ref(), &packet, ethernet::IPV6, to)
            }
        };
        sent.map_err(not_sent)
    }

    fn send(
        &self,
        socket: Option<&Socket>,
        packet: &[u8],
        ether_type: u16,
        to: Option<MacAddr>,
    ) -> io::Result<()> {
        let socket = socket.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let to = link_address(self.link.index, ether_type, to.unwrap_or(MacAddr::BROADCAST));
        // A datagram is sent whole or not at all.
        socket.send_to(packet, &to).map(drop)
    }

    /// The next answer that has arrived; `None` when there is none. Packets that pass the filter
    /// and are no answers are skipped.
    ///
    /// # Errors
    /// What the kernel reports of a socket, once: that the link went down, for one.
    pub fn answer(&self) -> io::Result<Option<Answer>> {
        if let Some(socket) = &self.arp
            && let Some(answer) = next_answer(socket, |packet| arp_answer(packet, &self.link))?
        {
            return Ok(Some(answer));
        }
        match &self.ndp {
            Some(socket) => next_answer(socket, |packet| ndp_answer(packet, &self.link)),
            None => Ok(None),
        }
    }
}

/// How many packets are looked at for one answer: more can only be a flood, and wait.
const PACKETS_MAX: usize = 64;

fn next_answer(
    mut socket: &Socket,
    parse: impl Fn(&[u8]) -> Option<Answer>,
) -> io::Result<Option<Answer>> {
    let mut packet = [0; PACKET_MAX];
    for _ in 0..PACKETS_MAX {
        match socket.read(&mut packet) {
            Ok(len) => match parse(&packet[..len]) {
                Some(answer) => return Ok(Some(answer)),
                None => continue,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A socket that receives what passes `filter` of the packets of `ether_type`, without their
/// Ethernet headers; those of the packets that it sends the kernel writes, with the NIC's own MAC
/// address for a source.
fn open_socket(link: &Link, ether_type: u16, filter: &[SockFilter]) -> io::Result<Socket> {
    // Without a protocol, nothing is received until the filter stands.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
    socket.attach_filter(filter)?;
    socket.bind(&link_address(link.index, ether_type, MacAddr::default()))?;
    Ok(socket)
}

/// The address of a packet socket, or of a packet's receiver (packet(7)).
fn link_address(index: u32, ether_type: u16, mac: MacAddr) -> SockAddr {
    let mut sll_addr = [0; 8];
    sll_addr[..6].copy_from_slice(&mac.0);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: ether_type.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr,
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a `sockaddr_ll` is plain numbers, and the storage is large and aligned enough for
    // any kind of socket address.
    *unsafe { storage.view_as::<libc::sockaddr_ll>() } = address;
    // SAFETY: the storage holds the address written above, which is of the length given.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// An ARP request for `target`, from the address that this host has on its subnet. Without one it
/// is a probe, which a router answers, too (RFC 5227, section 2.1.1).
fn request(link: &Link, target: Ipv4Addr) -> [u8; arp::LEN] {
    let own = link.addresses.iter().find_map(|&(own, len)| match own {
        IpAddr::V4(own) if shares_prefix(own.to_bits(), target.to_bits(), len) => Some(own),
        _ => None,
    });
    let mut packet = [0; arp::LEN];
    arp::emit_request(&mut packet, link.mac, own.unwrap_or(Ipv4Addr::UNSPECIFIED), target);
    packet
}

const fn shares_prefix(a: u32, b: u32, len: u8) -> bool {
    // A shift by the whole width, that of prefix length 0, would overflow.
    match (a ^ b).checked_shr(32_u32.saturating_sub(len as u32)) {
        Some(differences) => differences == 0,
        None => true,
    }
}

/// The address to solicit `target` from: one on its subnet, else the link-local one.
fn source_v6(link: &Link, target: Ipv6Addr) -> Option<Ipv6Addr> {
    let own = |wanted: &dyn Fn(Ipv6Addr, u8) -> bool| {
        link.addresses.iter().find_map(|&(own, len)| match own {
            IpAddr::V6(own) if wanted(own, len) => Some(own),
            _ => None,
        })
    };
    let on_subnet = |own: Ipv6Addr, len: u8| {
        let differences = own.to_bits() ^ target.to_bits();
        differences.checked_shr(128_u32.saturating_sub(len.into())).is_none_or(|bits| bits == 0)
    };
    own(&on_subnet).or_else(|| own(&|own, _| own.is_unicast_link_local()))
}

fn solicitation(
    mac: MacAddr,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    target: Ipv6Addr,
) -> [u8; SOLICITATION_PACKET_LEN] {
    let mut packet = [0; SOLICITATION_PACKET_LEN];
    let (header, message) = packet.split_first_chunk_mut().expect("a packet has a header");
    let len = ndp::SOLICITATION_LEN as u16;
    ipv6::emit_header(header, len, protocol::ICMPV6, HOP_LIMIT, src, dst);
    let message = message.first_chunk_mut().expect("the rest is the message");
    ndp::emit_solicitation(message, target, mac, src, dst);
    packet
}

/// The answer in an ARP packet, if it is a reply to this host.
fn arp_answer(packet: &[u8], link: &Link) -> Option<Answer> {
    let packet = arp::Packet::new(packet).ok()?;
    if packet.is_request() || packet.target_mac() != link.mac {
        return None;
    }
    let mac = Some(packet.sender_mac()).filter(|mac| !mac.is_group());
    Some(Answer { neighbor: packet.sender_ip().into(), mac })
}

/// The answer in an IPv6 packet, if it is a solicited advertisement to this host that is valid
/// (RFC 4861, section 7.1.2).
fn ndp_answer(packet: &[u8], link: &Link) -> Option<Answer> {
    let header = ipv6::Header::new(packet).ok()?;
    let payload = packet.get(ipv6::HEADER_LEN..)?.get(..usize::from(header.payload_len()))?;
    if header.next_header() != protocol::ICMPV6
        || header.hop_limit() != HOP_LIMIT
        || payload.first() != Some(&ndp::ADVERTISEMENT)
        || !link.has(header.dst().into())
    {
        return None;
    }
    let message = ndp::Message::new(payload).ok()?;
    if message.code() != 0
        || !message.is_solicited()
        || !message.is_intact(header.src(), header.dst())
    {
        return None;
    }
    let mut mac = None;
    for option in message.options() {
        let option = option.ok()?;
        if option.kind == ndp::TARGET_LINK_ADDRESS {
            mac = option.mac().filter(|mac| !mac.is_group());
        }
    }
    Some(Answer { neighbor: message.target().into(), mac })
}

/// Lets ARP replies of `neighbors` pass. Offsets are those of the packet.
fn arp_filter(neighbors: &[Ipv4Addr]) -> Vec<SockFilter> {
    const OPERATION: u32 = 6;
    const SENDER_IP: u32 = 14;
    const REPLY: u32 = 2;
    let mut filter = Vec::new();
    expect(&mut filter, libc::BPF_H, OPERATION, REPLY);
    filter.push(load(libc::BPF_W, SENDER_IP));
    for neighbor in neighbors {
        filter.extend([equal(neighbor.to_bits(), 0, 1), pass()]);
    }
    filter.push(drop_packet());
    filter
}

/// Lets advertisements of `neighbors` pass. Those behind extension headers are not among them: no
/// host sends such. Offsets are those of the packet.
fn ndp_filter(neighbors: &[Ipv6Addr]) -> Vec<SockFilter> {
    const NEXT_HEADER: u32 = 6;
    const HOPS: u32 = 7;
    const TYPE: u32 = ipv6::HEADER_LEN as u32;
    const TARGET: u32 = TYPE + 8;
    let mut filter = Vec::new();
    expect(&mut filter, libc::BPF_B, NEXT_HEADER, protocol::ICMPV6.into());
    expect(&mut filter, libc::BPF_B, HOPS, HOP_LIMIT.into());
    expect(&mut filter, libc::BPF_B, TYPE, ndp::ADVERTISEMENT.into());
    for neighbor in neighbors {
        let bits = neighbor.to_bits();
        // Four words; past the first that differs lies the next neighbour.
        for (word, to_next) in (0..4).zip([7, 5, 3, 1]) {
            filter.push(load(libc::BPF_W, TARGET + 4 * word));
            filter.push(equal((bits >> (96 - 32 * word)) as u32, 0, to_next));
        }
        filter.push(pass());
    }
    filter.push(drop_packet());
    filter
}

/// Drops the packet unless the number at `at` is `value`.
fn expect(filter: &mut Vec<SockFilter>, size: u32, at: u32, value: u32) {
    filter.extend([load(size, at), equal(value, 1, 0), drop_packet()]);
}

/// Loads a number of the packet (linux/bpf_common.h).
fn load(size: u32, at: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | size | libc::BPF_ABS) as u16, 0, 0, at)
}

/// Skips so many instructions if the number loaded is `value`, so many others if it is not.
fn equal(value: u32, skip_if: u8, skip_unless: u8) -> SockFilter {
    SockFilter::new(
        (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        skip_if,
        skip_unless,
        value,
    )
}

/// Ends with so many bytes of the packet: all.
fn pass() -> SockFilter {
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX)
}

/// Ends with no byte of the packet.
fn drop_packet() -> SockFilter {
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn link(addresses: &[(&str, u8)]) -> Link {
        Link {
            name: "eth0".into(),
            index: 1,
            mac: OWN,
            mtu: 1500,
            up: true,
            running: true,
            promiscuity: 0,
            addresses: addresses.iter().map(|&(own, len)| (own.parse().unwrap(), len)).collect(),
        }
    }

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn a_request_comes_from_the_address_on_the_subnet_or_is_a_probe() {
        let target = Ipv4Addr::new(192, 0, 2, 1);
        for (addresses, sender) in [
            (&[("198.51.100.7", 24), ("192.0.2.11", 24)][..], "192.0.2.11"),
            (&[("198.51.100.7", 24), ("192.0.2.11", 32)], "0.0.0.0"),
            (&[("10.0.0.1", 0)], "10.0.0.1"),
            (&[], "0.0.0.0"),
        ] {
            let packet = request(&link(addresses), target);
            let packet = arp::Packet::new(&packet).unwrap();
            assert!(packet.is_request());
            assert_eq!((packet.sender_mac(), packet.target_ip()), (OWN, target));
            assert_eq!(packet.sender_ip().to_string(), sender, "{addresses:?}");
        }
    }

    #[test]
    fn a_solicitation_comes_from_the_subnet_or_the_link() {
        let all = [("fe80::2", 64), ("2001:db8:1::2", 64), ("2001:db8:53::11", 64)];
        let target = v6("2001:db8:53::1");
        assert_eq!(source_v6(&link(&all), target), Some(v6("2001:db8:53::11")));
        assert_eq!(source_v6(&link(&all[..2]), target), Some(v6("fe80::2")));
        assert_eq!(source_v6(&link(&all[1..2]), target), None);
        assert_eq!(source_v6(&link(&all), v6("fe80::1")), Some(v6("fe80::2")));
    }

    #[test]
    fn only_replies_to_this_host_are_answers() {
        let link = link(&[("192.0.2.11", 24)]);
        let (gateway, own) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 11));
        let reply = |sender, target| {
            let mut packet = [0; arp::LEN];
            arp::emit_reply(&mut packet, sender, gateway, target, own);
            packet
        };
        let answer = |mac| Some(Answer { neighbor: gateway.into(), mac });
        assert_eq!(arp_answer(&reply(ROUTER, OWN), &link), answer(Some(ROUTER)));
        let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        assert_eq!(arp_answer(&reply(group, OWN), &link), answer(None));
        assert_eq!(arp_answer(&reply(ROUTER, MacAddr::BROADCAST), &link), None);
        assert_eq!(arp_answer(&reply(ROUTER, OWN)[..27], &link), None);
        let mut request = [0; arp::LEN];
        arp::emit_request(&mut request, ROUTER, gateway, own);
        assert_eq!(arp_answer(&request, &link), None);
    }

    /// An advertisement of the router's, as it stands in a packet.
    fn advertisement(dst: &str, is_solicited: bool) -> Vec<u8> {
        let (target, dst) = (v6("2001:db8:53::1"), v6(dst));
        let mut header = [0; ipv6::HEADER_LEN];
        let len = ndp::ADVERTISEMENT_LEN as u16;
        ipv6::emit_header(&mut header, len, protocol::ICMPV6, HOP_LIMIT, target, dst);
        let mut message = [0; ndp::ADVERTISEMENT_LEN];
        ndp::emit_advertisement(&mut message, target, ROUTER, dst, is_solicited);
        [&header[..], &message].concat()
    }

    #[test]
    fn only_valid_advertisements_to_this_host_are_answers() {
        let link = link(&[("2001:db8:53::11", 64)]);
        let own = "2001:db8:53::11";
        let answer = Answer { neighbor: v6("2001:db8:53::1").into(), mac: Some(ROUTER) };
        assert_eq!(ndp_answer(&advertisement(own, true), &link), Some(answer));
        // A link may pad.
        let padded = [advertisement(own, true), vec![0; 6]].concat();
        assert_eq!(ndp_answer(&padded, &link), Some(answer));
        assert_eq!(ndp_answer(&advertisement(own, false), &link), None);
        assert_eq!(ndp_answer(&advertisement("2001:db8:53::12", true), &link), None);
        assert_eq!(ndp_answer(&advertisement("ff02::1", true), &link), None);
        // Next header, hop limit, type, code, checksum, target, the option's length.
        for at in [6, 7, 40, 41, 42, 60, 65] {
            let mut packet = advertisement(own, true);
            packet[at] ^= 1;
            assert_eq!(ndp_answer(&packet, &link), None, "byte {at}");
        }
        for len in 0..advertisement(own, true).len() {
            assert_eq!(ndp_answer(&advertisement(own, true)[..len], &link), None, "{len} bytes");
        }
    }
}
