//! Two network namespaces and the wire between them.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, LinkSlice, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_io::link::Link;

/// How long anything may take that must happen.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub const NIC: &str = "nic0";
const PEER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 1]);
pub const NIC_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 2]);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The namespaces of one test; they go with it.
pub struct Lab {
    pub host: String,
    pub peer: String,
}

impl Lab {
    /// Makes the namespaces of the test called `test` and the wire.
    pub fn new(test: &str) -> Self {
        let name = |end: &str| format!("vdho-{test}-{}-{end}", std::process::id());
        let lab = Self { host: name("h"), peer: name("p") };
        for namespace in [&lab.host, &lab.peer] {
            run(&format!("ip netns add {namespace}"));
            within(namespace, || {
                // Addresses and link-local ones are usable at once.
                write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
                write("/proc/sys/net/ipv6/conf/default/router_solicitations", "0");
            });
            run(&format!("ip -n {namespace} link set lo up"));
        }
        let Self { host, peer } = &lab;
        run(&format!(
            "ip link add {NIC} address {NIC_MAC} netns {host} type veth \
             peer name p0 address {PEER_MAC} netns {peer}"
        ));
        for (namespace, interface, last) in [(host, NIC, 2), (peer, "p0", 1)] {
            run(&format!("ip -n {namespace} addr add 198.51.100.{last}/24 dev {interface}"));
            run(&format!("ip -n {namespace} addr add 2001:db8:1::{last}/64 dev {interface} nodad"));
            run(&format!("ip -n {namespace} link set {interface} up"));
        }
        run(&format!("ip -n {host} route add default via 198.51.100.1"));
        run(&format!("ip -n {host} -6 route add default via 2001:db8:1::1"));
        // The kernel sees the carrier a moment later, and tells of it in every list.
        until("the wire to carry frames", || {
            let link = run(&format!("ip -n {host} -o link show dev {NIC}"));
            let routes = run(&format!("ip -n {host} route show dev {NIC}"));
            link.contains("state UP") && !routes.contains("linkdown")
        });
        lab
    }

    /// Runs `work` in a thread of its own in the host's namespace.
    pub fn in_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.host, work)
    }

    /// Runs `work` in a thread of its own in the peer's namespace.
    pub fn in_peer<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.peer, work)
    }

    /// The wire, seen from the peer's end.
    pub fn wire(&self) -> Wire {
        within(&self.peer, || Wire::open("p0"))
    }

    /// A second wire, with an address of the host's at its end: `nic1`, as good as any other
    /// interface that vipdp has nothing to do with.
    pub fn second_wire(&self) -> Wire {
        let Self { host, peer } = self;
        run(&format!("ip link add nic1 netns {host} type veth peer name p1 netns {peer}"));
        run(&format!("ip -n {host} addr add 198.18.7.2/24 dev nic1"));
        run(&format!("ip -n {host} addr add 2001:db8:7::2/64 dev nic1 nodad"));
        run(&format!("ip -n {host} link set nic1 up"));
        run(&format!("ip -n {peer} link set p1 up"));
        within(peer, || Wire::open("p1"))
    }

    /// Everything on the host that vipdp must leave as it was: settings, addresses, routes,
    /// rules, promiscuity and multicast memberships. A line for each.
    pub fn snapshot(&self) -> Vec<String> {
        self.in_host(|| {
            let mut lines = Vec::new();
            for directory in ["ipv4", "ipv6"] {
                read_all(&Path::new("/proc/sys/net").join(directory), &mut lines);
            }
            for key in ["napi_defer_hard_irqs", "gro_flush_timeout", "flags"] {
                let value = fs::read_to_string(format!("/sys/class/net/{NIC}/{key}")).unwrap();
                lines.push(format!("{key} = {value}"));
            }
            for what in [
                "ip -o addr",
                "ip -d -o link",
                "ip -4 route show table all",
                "ip -6 route show table all",
                "ip -4 rule",
                "ip -6 rule",
                "ip maddr",
            ] {
                lines.extend(run(what).lines().map(|line| format!("{what}: {line}")));
            }
            lines
        })
    }

    /// Waits until everything is as it was; fails with the lines that differ.
    #[track_caller]
    pub fn assert_same(&self, before: &[String]) {
        let end = Instant::now() + DEADLINE;
        loop {
            let after = self.snapshot();
            let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
            let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
            if gone.is_empty() && new.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "was: {gone:#?}\nis: {new:#?}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.host, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Waits until `condition` holds. What ends with a descriptor does so only when nobody has it, and
/// a program that another test of this process is about to start has it until it is executed.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "waited {DEADLINE:?} for {what}");
        std::thread::yield_now();
    }
}

fn read_all(directory: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, lines);
        } else if let Ok(value) = fs::read_to_string(&path) {
            lines.push(format!("{} = {}", path.display(), value.trim_end()));
        }
    }
}

pub fn write(path: &str, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Runs a command, its words separated by blanks, and returns what it printed.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `work` in a thread of its own in a namespace, with the sysfs that belongs to it.
fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let enter = || -> io::Result<()> {
        let namespace = File::open(format!("/run/netns/{namespace}"))?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
        Ok(())
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter().expect("these tests take root, to enter a network namespace");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The peer's end of the wire, frame by frame.
pub struct Wire {
    socket: Socket,
    to: SockAddr,
}

impl Wire {
    fn open(interface: &str) -> Self {
        let link = Link::read(interface).unwrap();
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol))));
        let socket = socket.unwrap();
        // SAFETY: the storage is larger than a sockaddr_ll and zeroed, the closure sets the
        // family's fields and the length of exactly that type.
        let ((), to) = unsafe {
            SockAddr::try_init(|storage, length| {
                let address = storage.cast::<libc::sockaddr_ll>();
                (*address).sll_family = libc::AF_PACKET as libc::sa_family_t;
                (*address).sll_protocol = protocol;
                (*address).sll_ifindex = link.index.cast_signed();
                *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                Ok(())
            })
        }
        .unwrap();
        socket.bind(&to).unwrap();
        Self { socket, to }
    }

    pub fn send(&self, frame: &[u8]) {
        assert_eq!(self.socket.send_to(frame, &self.to).unwrap(), frame.len());
    }

    /// Sends a frame of many, some of which the host may be too slow for.
    pub fn send_one_of_many(&self, frame: &[u8]) {
        if let Err(error) = self.socket.send_to(frame, &self.to) {
            assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{error}");
        }
    }

    /// The frames that the host has sent, as far as they wait here.
    pub fn waiting(&self) -> Vec<Vec<u8>> {
        self.socket.set_nonblocking(true).unwrap();
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            if from.is_some_and(|from| from.pkttype() != libc::PACKET_OUTGOING) {
                frames.push(buffer[..length].to_vec());
            }
        }
        self.socket.set_nonblocking(false).unwrap();
        frames
    }

    /// The frames that the host sent, up to the first one that is `wanted`, which is the last.
    pub fn frames_until(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let end = Instant::now() + DEADLINE;
        let mut frames = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} among {} frames", frames.len());
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 2048];
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.pkttype() == libc::PACKET_OUTGOING => {}
                Ok((length, _)) => {
                    frames.push(buffer[..length].to_vec());
                    if wanted(&buffer[..length]) {
                        return frames;
                    }
                }
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }

    /// Asserts that the host says what its `own` address resolves to, and not what `vip` does.
    #[track_caller]
    pub fn assert_answers_for_own_alone(&self, own: IpAddr, vip: IpAddr, what: &str) {
        // The kernel takes the two in this order: when the second is answered, the first will never
        // be.
        self.send(&question(vip));
        self.send(&question(own));
        let frames = self.frames_until("answer for its own", |frame| answers_for(frame, own));
        assert!(!frames.iter().any(|frame| answers_for(frame, vip)), "{what}: {frames:02x?}");
    }
}

/// Who sent an IP packet to whom, and the ports and the payload where it is UDP or TCP.
#[derive(Debug)]
pub struct Packet {
    pub source_mac: MacAddr,
    pub destination_mac: MacAddr,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ports: Option<(u16, u16)>,
    /// Of a TCP segment: the sequence number of a SYN that is acknowledged as well.
    pub syn_ack: Option<u32>,
    /// Whether it is a TCP segment that resets a connection.
    pub reset: bool,
}

/// The IP packet in a frame.
pub fn packet(frame: &[u8]) -> Option<Packet> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(ethernet)) = &sliced.link else { return None };
    let (source, destination) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(packet) => {
            (packet.header().source_addr().into(), packet.header().destination_addr().into())
        }
        NetSlice::Ipv6(packet) => {
            (packet.header().source_addr().into(), packet.header().destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    let (ports, syn_ack) = match &sliced.transport {
        Some(TransportSlice::Udp(udp)) => (Some((udp.source_port(), udp.destination_port())), None),
        Some(TransportSlice::Tcp(tcp)) => {
            let syn_ack = (tcp.syn() && tcp.ack()).then(|| tcp.sequence_number());
            (Some((tcp.source_port(), tcp.destination_port())), syn_ack)
        }
        _ => (None, None),
    };
    let reset = matches!(&sliced.transport, Some(TransportSlice::Tcp(tcp)) if tcp.rst());
    Some(Packet {
        source_mac: MacAddr(ethernet.source()),
        destination_mac: MacAddr(ethernet.destination()),
        source,
        destination,
        ports,
        syn_ack,
        reset,
    })
}

/// An ARP message in a frame: whether it is a reply, the sender, the target.
pub fn arp(frame: &[u8]) -> Option<(bool, IpAddr, IpAddr)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(NetSlice::Arp(arp)) = &sliced.net else { return None };
    let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    let reply = arp.operation() == ArpOperation::REPLY;
    Some((reply, address(arp.sender_protocol_addr())?, address(arp.target_protocol_addr())?))
}

/// A neighbour solicitation or advertisement in a frame: its ICMPv6 type, the source address, the
/// target.
pub fn neighbor_discovery(frame: &[u8]) -> Option<(u8, IpAddr, IpAddr)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { return None };
    let kind = icmp.type_u8();
    let target = <[u8; 16]>::try_from(icmp.slice().get(8..24)?).ok()?;
    matches!(kind, 135 | 136).then(|| (kind, packet(frame).unwrap().source, target.into()))
}

/// Whether a frame says what `address` resolves to.
pub fn answers_for(frame: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => arp(frame).is_some_and(|(reply, from, _)| reply && from == address),
        IpAddr::V6(_) => neighbor_discovery(frame)
            .is_some_and(|(kind, _, target)| kind == 136 && target == address),
    }
}

/// The peer's question for the MAC address of `target`.
pub fn question(target: IpAddr) -> Vec<u8> {
    match target {
        IpAddr::V4(_) => arp_request(target),
        IpAddr::V6(_) => neighbor_solicitation(target),
    }
}

/// A broadcast ARP request of the peer for `target`.
pub fn arp_request(target: IpAddr) -> Vec<u8> {
    let (IpAddr::V4(sender), IpAddr::V4(target)) = (ip("198.51.100.1"), target) else { panic!() };
    let request = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &PEER_MAC.0,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    );
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC.0, MacAddr::BROADCAST.0);
    builder.arp(request.unwrap()).write(&mut frame).unwrap();
    frame
}

/// A solicitation of the peer for `target`, to the group that `target` has.
pub fn neighbor_solicitation(target: IpAddr) -> Vec<u8> {
    let (IpAddr::V6(sender), IpAddr::V6(target)) = (ip("2001:db8:1::1"), target) else { panic!() };
    let group = vipdp_io::membership::solicited_node(target);
    let mac = vipdp_io::membership::group_mac(group.into()).unwrap();
    let mut body = target.octets().to_vec();
    // Option 1, source link-layer address, of one unit of 8 bytes.
    body.extend([1, 1]);
    body.extend(PEER_MAC.0);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, mac.0)
        .ipv6(sender.octets(), group.octets(), 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut frame, &body)
        .unwrap();
    frame
}

/// A UDP datagram from `client` to `service`, from the peer's MAC address to `mac`.
pub fn udp(mac: MacAddr, client: (IpAddr, u16), service: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    network(mac, client.0, service.0).udp(client.1, service.1).write(&mut frame, payload).unwrap();
    frame
}

/// A TCP segment: a SYN, or with `acknowledged` an ACK of that sequence number.
pub fn tcp(
    mac: MacAddr,
    client: (IpAddr, u16),
    service: (IpAddr, u16),
    sequence: u32,
    acknowledged: Option<u32>,
) -> Vec<u8> {
    let mut frame = Vec::new();
    let segment = network(mac, client.0, service.0).tcp(client.1, service.1, sequence, 65_000);
    let segment = match acknowledged {
        None => segment.syn(),
        Some(number) => segment.ack(number),
    };
    segment.write(&mut frame, &[]).unwrap();
    frame
}

/// An echo request from `source` to `destination`.
pub fn echo_request(mac: MacAddr, source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = network(mac, source, destination);
    match source {
        IpAddr::V4(_) => step.icmpv4_echo_request(1, 1).write(&mut frame, b"ping").unwrap(),
        IpAddr::V6(_) => step.icmpv6_echo_request(1, 1).write(&mut frame, b"ping").unwrap(),
    }
    frame
}

fn network(
    mac: MacAddr,
    source: IpAddr,
    destination: IpAddr,
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let step = PacketBuilder::ethernet2(PEER_MAC.0, mac.0);
    match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => step.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => step.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{source} and {destination} are of different families"),
    }
}
