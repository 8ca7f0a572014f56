//! HTTP requests to the VIPs at a steady rate, each on a connection of its own, each accounted for.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::clock::Moment;
use crate::lab::Lab;

/// Requests a second.
const RATE: u32 = 200;
/// How long a request may take: less than TCP waits before it repeats its first segment (RFC 6298,
/// section 2.1), so that a lost one is a lost request.
const PATIENCE: Duration = Duration::from_millis(900);
/// Who ask, by turns: as many as are under way when every request takes all of its time.
const ASKERS: u32 = 200;

/// Requests that are being made.
#[derive(Debug)]
pub struct Requests {
    stop: Arc<AtomicBool>,
    askers: Vec<JoinHandle<Vec<Request>>>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it was begun, nanoseconds of CLOCK_MONOTONIC.
    pub begun_at_ns: u64,
    /// Who answered, or why nobody did.
    pub end: Result<String, String>,
}

/// The account of them.
#[derive(Clone, Debug)]
pub struct Account {
    /// All requests, in the order of their begin.
    pub requests: Vec<Request>,
}

impl Requests {
    /// Begins to ask for the page of the web server, from an address and port of its own each time.
    #[track_caller]
    pub fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = Instant::now();
        let asker = |number: u32| {
            let (client, stop) = (lab.namespace("client"), Arc::clone(&stop));
            let servers = lab.servers();
            std::thread::spawn(move || {
                client.enter();
                let mut requests = Vec::new();
                for turn in (number..).step_by(ASKERS as usize) {
                    let due = begin + Duration::from_secs(1) * turn / RATE;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let server = servers[turn as usize % servers.len()];
                    let begun_at_ns = Moment::now().monotonic_ns;
                    let end = ask(server, turn).map_err(|error| error.to_string());
                    requests.push(Request { begun_at_ns, end });
                }
                requests
            })
        };
        let askers = (0..ASKERS).map(asker).collect();
        Self { stop, askers }
    }

    /// Ends them.
    #[track_caller]
    pub fn stop(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let all =
            self.askers.into_iter().flat_map(|asker| asker.join().expect("it does not panic"));
        let mut requests: Vec<_> = all.collect();
        requests.sort_by_key(|request| request.begun_at_ns);
        Account { requests }
    }
}

impl Account {
    /// How many requests each node answered.
    pub fn nodes(&self) -> BTreeMap<&str, usize> {
        let mut nodes = BTreeMap::new();
        for node in self.requests.iter().filter_map(|request| request.end.as_ref().ok()) {
            *nodes.entry(node.as_str()).or_default() += 1;
        }
        nodes
    }

    /// When those were begun that nobody answered, nanoseconds of CLOCK_MONOTONIC.
    pub fn lost(&self) -> Vec<u64> {
        let lost = self.requests.iter().filter(|request| request.end.is_err());
        lost.map(|request| request.begun_at_ns).collect()
    }
}

/// Asks once; who answered.
fn ask(server: IpAddr, turn: u32) -> std::io::Result<String> {
    let [.., high, low] = turn.to_be_bytes();
    let source: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::new(10, 64, high, low).into(),
        IpAddr::V6(_) => {
            Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0x80, u16::from_be_bytes([high, low])).into()
        }
    };
    let socket = Socket::new(Domain::for_address(SocketAddr::new(server, 80)), Type::STREAM, None)?;
    match source {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&SocketAddr::new(server, 80).into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let node = page.split_once("<h1>It works!</h1> ").and_then(|(_, rest)| rest.split(' ').next());
    node.map(str::to_owned).ok_or_else(|| std::io::Error::other(page.clone()))
}
