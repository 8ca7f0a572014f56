//! TCP connections to the VIPs that take their time and carry data both ways, every byte checked.
//!
//! The other end is `scripts/lab/stream`: numbered lines, each with the name of the node that
//! serves the connection, each sent back before the next one comes; and a last line with their
//! count.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::lab::{Lab, VIP4, VIP6};
use crate::namespace::Namespace;

const PORT: u16 = 8080;
/// Length of a line with its end, bytes, unless it is said.
const LINE_LEN: u32 = 100;
/// How long a transfer takes that the test is to stop, seconds: longer than any test.
pub const UNTIL_STOPPED_S: u32 = 1_000;
/// A connection that is silent for so long is broken: many times what a takeover takes, and enough
/// for TCP to send a lost segment a few times.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A connection from the client.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The client's address.
    pub source: IpAddr,
    /// Where to.
    pub server: IpAddr,
    /// How long the transfer takes.
    pub seconds: u32,
    /// Lines a second, each way.
    pub rate: u32,
    /// Length of a line, bytes.
    pub line_len: u32,
}

/// A connection under way.
#[derive(Debug)]
pub struct Transfer {
    /// The client's address.
    pub source: IpAddr,
    /// The node that serves it.
    pub node: String,
    course: Arc<Course>,
    reader: JoinHandle<Result<(), String>>,
}

/// How far it is.
#[derive(Debug, Default)]
struct Course {
    /// Lines that have come.
    lines: AtomicU32,
    /// Whether it is to end.
    enough: AtomicBool,
}

/// `count` connections to the VIPs by turns, from addresses of their own, number `first` and up.
pub fn plans(first: u16, count: u16, seconds: u32, rate: u32) -> Vec<Plan> {
    let plan = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let (source, server) = if number.is_multiple_of(2) {
            (Ipv4Addr::new(10, 64, high, low).into(), VIP4.into())
        } else {
            (Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0xbeef, number).into(), VIP6.into())
        };
        Plan { source, server, seconds, rate, line_len: LINE_LEN }
    };
    (first..first + count).map(plan).collect()
}

impl Transfer {
    /// Opens all connections; returns when each has had its first line.
    #[track_caller]
    pub fn start_all(lab: &Lab, plans: &[Plan]) -> Vec<Self> {
        let client = lab.namespace("client");
        let started: Vec<_> =
            plans.iter().map(|&plan| Started::new(client.clone(), plan)).collect();
        started.into_iter().map(Started::wait).collect()
    }

    /// Whether it has come to an end, be it a good one or not.
    pub fn is_over(&self) -> bool {
        self.reader.is_finished()
    }

    /// How many lines have come.
    pub fn lines(&self) -> u32 {
        self.course.lines.load(Ordering::Relaxed)
    }

    /// Asks for its end, which comes with the next line.
    pub fn stop(&self) {
        self.course.enough.store(true, Ordering::Relaxed);
    }

    /// Asks all for their end, and asserts that none has broken, now or before.
    #[track_caller]
    pub fn assert_all_end_well(transfers: Vec<Self>) {
        transfers.iter().for_each(Self::stop);
        let broken: Vec<_> = transfers.into_iter().filter_map(|one| one.finish().err()).collect();
        assert!(broken.is_empty(), "{} broke: {broken:#?}", broken.len());
    }

    /// Waits for the end; what went wrong, if anything did.
    ///
    /// # Errors
    /// What is wrong with the line, or with the connection.
    pub fn finish(self) -> Result<(), String> {
        self.reader.join().expect("the reader does not panic")
    }
}

struct Started {
    plan: Plan,
    node: Receiver<String>,
    course: Arc<Course>,
    reader: JoinHandle<Result<(), String>>,
}

impl Started {
    fn new(client: Namespace, plan: Plan) -> Self {
        let (sender, node) = channel();
        let course = Arc::new(Course::default());
        let seen = Arc::clone(&course);
        let reader = std::thread::spawn(move || {
            client.enter();
            connect(plan)
                .map_err(|error| format!("{} to {}: {error}", plan.source, plan.server))
                .and_then(|stream| converse(plan, &stream, &seen, &sender))
        });
        Self { plan, node, course, reader }
    }

    #[track_caller]
    fn wait(self) -> Transfer {
        match self.node.recv() {
            Ok(node) => {
                let Self { plan, course, reader, .. } = self;
                Transfer { source: plan.source, node, course, reader }
            }
            Err(_) => {
                let end = self.reader.join().expect("the reader does not panic");
                panic!("a transfer does not start: {end:?}")
            }
        }
    }
}

fn connect(plan: Plan) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address((plan.server, PORT).into()), Type::STREAM, None)?;
    match plan.source {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&SocketAddr::new(plan.source, 0).into())?;
    socket.connect_timeout(&SocketAddr::new(plan.server, PORT).into(), SILENCE_MAX)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_nodelay(true)?;
    let Plan { seconds, rate, line_len, .. } = plan;
    stream.write_all(format!("{seconds} {rate} {line_len}\n").as_bytes())?;
    Ok(stream)
}

/// Sends back every line, until they are over or enough.
fn converse(
    plan: Plan,
    mut stream: &TcpStream,
    course: &Course,
    first: &Sender<String>,
) -> Result<(), String> {
    let mut lines = BufReader::new(stream);
    let line_len = plan.line_len as usize;
    let mut count = plan.seconds * plan.rate;
    let mut node = String::new();
    let mut number = 0;
    let wrong = |number: u32, found: &str| {
        Err(format!("{} to {}: line {number}: {found}", plan.source, plan.server))
    };
    while number < count {
        number += 1;
        let mut line = String::new();
        if let Err(error) = lines.read_line(&mut line) {
            return wrong(number, &error.to_string());
        }
        if number == 1 {
            node = line.split(' ').next().unwrap_or_default().to_owned();
            // Nobody listens any more where the test has failed.
            let _ = first.send(node.clone());
        }
        let start = format!("{node} {number} ");
        let padding = line.strip_prefix(&start).and_then(|rest| rest.strip_suffix('\n'));
        if line.len() != line_len || !padding.is_some_and(|text| text.bytes().all(|b| b == b'x')) {
            return wrong(number, &format!("{line:?}"));
        }
        course.lines.store(number, Ordering::Relaxed);
        if course.enough.load(Ordering::Relaxed) {
            count = number;
            line = format!("{:line_len$}", "enough");
        }
        if let Err(error) = stream.write_all(line.as_bytes()) {
            return wrong(number, &error.to_string());
        }
    }
    let mut end = String::new();
    match lines.read_to_string(&mut end) {
        Ok(_) if end == format!("{node} end {count}\n") => Ok(()),
        Ok(_) => wrong(count + 1, &format!("{end:?}")),
        Err(error) => wrong(count + 1, &error.to_string()),
    }
}
