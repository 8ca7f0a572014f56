//! TCP behind each way to receive: how many connections a second a server takes, and how fast one connection is.
//!
//! ```text
//!   clients, on the generator's core                     server, on the receiver's core
//!   32 threads: connect, read a byte, close with RST     accept, write a byte, close
//!   one thread: connect, write for ever                  read for ever
//! ```
//!
//! Clients close with RST, so that no connection lingers on either side.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signalfd::SignalFd;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use vipdp_io::affinity;

use super::group::Group;
use super::lab::{CLIENT_FIRST, VIP};
use super::node::Node;
use super::options::Options;
use super::part::{self, Part};
use super::rows::{CLIENTS, Row};
use super::visit::Visit;

/// A TCP server behind one way to receive.
#[derive(Debug)]
pub struct TcpCase {
    /// Its name in all tables.
    pub name: &'static str,
    /// The row whose way to receive it is.
    row: &'static str,
}

/// All of them.
pub const CASES: &[TcpCase] = &[
    TcpCase { name: "tcp-kernel", row: "kernel-plain" },
    TcpCase { name: "tcp-vipdp", row: "vipdp-accept-all" },
    TcpCase { name: "tcp-vipdp-uncoalesced", row: "vipdp-accept-all-runs-uncoalesced" },
    TcpCase { name: "tcp-vipdp-busy", row: "vipdp-busy-accept-all" },
    TcpCase { name: "tcp-vipdp-offload-full", row: "vipdp-offload-full-accept-all" },
    TcpCase { name: "tcp-xt-cluster", row: "xt-cluster-accept-all" },
];

/// The port that connections are accepted on, and closed.
const PORT: u16 = 8053;
/// The port that takes whatever comes.
const SINK_PORT: u16 = PORT + 1;
/// How many clients connect at the same time.
const AT_ONCE: usize = 32;
/// How long a connection may take to be accepted, or to give its byte: a repeated SYN and more.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much is written, or read, at once.
const CHUNK: usize = 64 << 10;
/// How much longer than asked clients may take.
const CLIENTS_PATIENCE: Duration = Duration::from_secs(30);

/// The hidden subcommand: the server.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerOptions {
    /// The core to run on.
    #[arg(long)]
    core: usize,
}

/// The hidden subcommand: clients.
#[derive(Clone, Debug, clap::Args)]
pub struct ClientOptions {
    /// The core to run on.
    #[arg(long)]
    core: usize,
    /// How long.
    #[arg(long)]
    seconds: f64,
    /// One connection that never ends, in place of new ones.
    #[arg(long)]
    stream: bool,
}

/// What the server has done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Served {
    connections: u64,
    bytes: u64,
}

/// What clients have done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Connected {
    connections: u64,
    failed: u64,
    seconds: f64,
}

/// Measures one.
pub(super) fn visit(
    case: &'static TcpCase,
    round: u32,
    options: &Options,
    end: &SignalFd,
) -> Result<Visit> {
    let row = Row::named(case.row).with_context(|| format!("no row is called {}", case.row))?;
    let node = Node::with_clients(row, options, end)?;
    let core = options.receive_core.to_string();
    let words = ["accept", "--core", &core].map(str::to_owned);
    let mut server = Part::start(node.lab.node(), &words, end)?.ready()?;
    let mut visit =
        Visit { case: case.name.to_owned(), group: Group::Tcp, round, ..Visit::default() };
    let mut put = |metric: &str, value: f64| visit.figures.insert(metric.to_owned(), value);

    let run_before = node.run_ns(&[server.pid()])?;
    let connected = clients_run(&node, options, end, false)?;
    let run_ns = node.run_ns(&[server.pid()])? - run_before;
    let served: Served = server.ask("report")?;
    let Connected { connections, failed, seconds } = connected;
    ensure!(connections > 0 && failed == 0, "{connections} connections, {failed} failed");
    ensure!(served.connections >= connections, "{} accepted of {connections}", served.connections);
    put("connections_per_s", connections as f64 / seconds);
    put("cpu_us_per_connection", run_ns as f64 / 1e3 / connections as f64);

    let before: Served = server.ask("report")?;
    let streamed = clients_run(&node, options, end, true)?;
    let after: Served = server.ask("report")?;
    put("stream_bits_per_s", 8.0 * (after.bytes - before.bytes) as f64 / streamed.seconds);
    Ok(visit)
}

fn clients_run(
    node: &Node<'_>,
    options: &Options,
    end: &SignalFd,
    is_stream: bool,
) -> Result<Connected> {
    let (core, seconds) = (options.generator_core.to_string(), options.seconds().to_string());
    let mut words = vec!["connect", "--core", &core, "--seconds", &seconds];
    if is_stream {
        words.push("--stream");
    }
    let words: Vec<_> = words.into_iter().map(str::to_owned).collect();
    let patience = CLIENTS_PATIENCE + Duration::from_secs_f64(options.seconds());
    Part::start(node.lab.generator(), &words, end)?.finish(patience)
}

/// The server.
pub(super) fn serve(options: &ServerOptions) -> Result<()> {
    affinity::pin(options.core)?;
    let listener = |port| {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .with_context(|| format!("cannot listen on port {port}"))
    };
    let (short, endless) = (listener(PORT)?, listener(SINK_PORT)?);
    let connections = Arc::<AtomicU64>::default();
    let bytes = Arc::<AtomicU64>::default();
    let (accepted, taken) = (Arc::clone(&connections), Arc::clone(&bytes));
    thread::spawn(move || {
        for mut client in short.incoming().flatten() {
            // One that has gone already is counted by nobody.
            if client.write_all(b"!").is_ok() {
                accepted.fetch_add(1, Relaxed);
            }
        }
    });
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        for mut client in endless.incoming().flatten() {
            while let Ok(len @ 1..) = client.read(&mut buffer) {
                taken.fetch_add(len as u64, Relaxed);
            }
        }
    });
    part::serve(|_| {
        Ok(Served { connections: connections.load(Relaxed), bytes: bytes.load(Relaxed) })
    })
}

/// The clients.
pub(super) fn connect(options: &ClientOptions) -> Result<()> {
    affinity::pin(options.core)?;
    let time = Duration::from_secs_f64(options.seconds);
    let connected = if options.stream { stream(time)? } else { many(time)? };
    part::say(&connected)
}

/// New connections from many addresses, for so long.
fn many(time: Duration) -> Result<Connected> {
    let (next, made, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let client = next.fetch_add(1, Relaxed) as u32 % CLIENTS;
                    let done = if one(client).is_ok() { &made } else { &failed };
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        thread::sleep(time);
        is_over.store(true, Relaxed);
    });
    Ok(Connected {
        connections: made.into_inner(),
        failed: failed.into_inner(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// One connection, to its end.
fn one(client: u32) -> Result<()> {
    let mut stream = connected(client, PORT)?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

/// One connection that sends for so long.
fn stream(time: Duration) -> Result<Connected> {
    let mut stream = connected(1, SINK_PORT)?;
    let chunk = vec![0; CHUNK];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&chunk).context("the stream broke")?;
    }
    Ok(Connected { connections: 1, failed: 0, seconds: start.elapsed().as_secs_f64() })
}

/// A connection from the client's address, closed with RST.
fn connected(client: u32, port: u16) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let from = Ipv4Addr::from_bits(CLIENT_FIRST.to_bits() + client);
    let vip: IpAddr = VIP.parse()?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&SocketAddr::from((vip, port)).into(), PATIENCE)?;
    Ok(socket.into())
}
