//! Services that answer through the data plane, `egress = "tap"`: what the host's stack leaves to vipdp,
//! super-packets above all, comes to the client as if the stack had done it.
//!
//! ```text
//!   vdeg-PID-client                                vdeg-PID-host
//!   192.0.2.1, 2001:db8:53::1                      the VIPs on vipdp0
//!     |                                              |
//!     +-- eth0 --------- veth --------- eth0 -- vipdp
//! ```

use std::io::{IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use vipdp_tests::lab::VIPS;
use vipdp_tests::namespace::Namespace;
use vipdp_tests::vipdp::{Config, Vipdp};
use vipdp_tests::wait::wait_for;

const CLIENTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 1)),
];
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes of a stream, each way: many times what fits into the sockets' buffers.
const STREAM_LEN: usize = 24 << 20;

/// Both hosts, gone when dropped.
struct Pair {
    client: Namespace,
    host: Namespace,
}

impl Pair {
    #[track_caller]
    fn up(name: &str) -> Self {
        let namespace = |end: &str| {
            let namespace = Namespace::new(format!("vdeg-{}-{name}-{end}", std::process::id()));
            let added = Command::new("ip").args(["netns", "add", namespace.name()]).status();
            assert!(added.expect("`ip` runs").success(), "{}", namespace.name());
            namespace
        };
        let pair = Self { client: namespace("client"), host: namespace("host") };
        let Self { client, host } = &pair;
        let peer = format!("peer name eth0 netns {}", host.name());
        client.run(&format!("ip link add eth0 type veth {peer}"));
        for (namespace, last) in [(client, 1), (host, 11)] {
            namespace.run("sysctl -qw net.ipv6.conf.eth0.accept_dad=0");
            namespace.run("ip link set lo up");
            namespace.run("ip link set eth0 up");
            namespace.run(&format!("ip address add 192.0.2.{last}/24 dev eth0"));
            namespace.run(&format!("ip address add 2001:db8:53::{last}/64 dev eth0 nodad"));
        }
        // What the XDP program gets has no checksums to be completed.
        client.run("ethtool -K eth0 tx off");
        pair
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.host] {
            // Nobody is left to tell if it cannot be done.
            let _ = Command::new("ip").args(["netns", "delete", namespace.name()]).status();
        }
    }
}

/// Byte `at` of the stream: of a period that is no multiple of any packet's length.
fn byte(at: usize) -> u8 {
    ((at % 65_521 * 31) >> 3) as u8
}

fn stream() -> Vec<u8> {
    (0..STREAM_LEN).map(byte).collect()
}

/// Reads a whole stream, and finds each byte as it was sent.
fn read_all(mut from: &TcpStream) {
    let mut read = vec![0; 1 << 16];
    let mut at = 0;
    while at < STREAM_LEN {
        let len = from.read(&mut read).expect("the stream goes on");
        assert_ne!(len, 0, "the stream ends after {at} bytes");
        let wrong = read[..len].iter().zip(at..).find(|&(&found, at)| found != byte(at));
        assert_eq!(wrong, None, "of {STREAM_LEN} bytes");
        at += len;
    }
    assert_eq!(at, STREAM_LEN);
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream.set_write_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

/// Carries a stream from the server behind the VIP to a client, and another one back.
fn carries_streams(pair: &Pair, vip: IpAddr) {
    let listener = pair.host.within(|| TcpListener::bind((vip, 8080)).expect("the VIP is here"));
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (stream, _) = listener.accept().expect("a client comes");
            let stream = patient(stream);
            (&stream).write_all(&self::stream()).expect("the client reads");
            read_all(&stream);
        });
        let address = SocketAddr::new(vip, 8080);
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok();
        let stream = wait_for(LIMIT, "a connection", || pair.client.within(connect));
        let stream = patient(stream);
        read_all(&stream);
        (&stream).write_all(&self::stream()).expect("the server reads");
        server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Sends datagrams of 1,200 bytes and a shorter one with one system call, from the VIP.
fn carries_datagrams(pair: &Pair, vip: IpAddr, client: IpAddr) {
    const SIZE: u16 = 1_200;
    const LEN: usize = 40 * SIZE as usize + 77;
    let bind = |address| UdpSocket::bind((address, 0)).expect("an address of its own");
    let receiver = pair.client.within(|| bind(client));
    let sender = pair.host.within(|| bind(vip));
    receiver.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let payload: Vec<u8> = (0..LEN).map(byte).collect();
    let to = SockaddrStorage::from(receiver.local_addr().expect("bound"));
    let sizes = [ControlMessage::UdpGsoSegments(&SIZE)];
    let pieces = [IoSlice::new(&payload)];
    let sent = sendmsg(sender.as_raw_fd(), &pieces, &sizes, MsgFlags::empty(), Some(&to));
    assert_eq!(sent, Ok(LEN));
    for expected in payload.chunks(usize::from(SIZE)) {
        let mut datagram = [0; 2_000];
        let (len, from) = receiver.recv_from(&mut datagram).expect("every datagram comes");
        assert_eq!(from, sender.local_addr().expect("bound"));
        assert!(datagram[..len] == *expected, "{len} bytes in place of {}", expected.len());
    }
}

#[test]
fn streams_and_runs_of_datagrams_come_as_they_were_sent() {
    let pair = Pair::up("all");
    let config = Config::write("unicast", "tap", "adaptive");
    let vipdp = Vipdp::start(&pair.host, &config);
    for (vip, client) in VIPS.into_iter().zip(CLIENTS) {
        carries_streams(&pair, vip);
        carries_datagrams(&pair, vip, client);
    }
    let status = vipdp.status().expect("it runs");
    let (taken, sent) = (status.workers[0].from_host, status.workers[0].tx);
    // Else the stack has cut all by itself, and nothing here was tested.
    assert!(sent > 8 * taken, "{taken} frames from the host left as {sent}");
    assert_eq!(status.workers[0].drops["host_offload"], 0);
    assert_eq!(status.workers[0].drops["tx_too_long"], 0);
}
