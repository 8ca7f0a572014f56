//! The admin socket, over a real Unix socket: what it answers, and whom it does not wait for.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use vipdp::admin::{
    AdminError, AdminHandler, AdminServer, ClientError, Limits, Refusal, Request, Response, request,
};
use vipdp::cli::{self, NodeArgs};
use vipdp::status::{AdminStatus, Status};

mod status_example;

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// A node that has a status, and refuses to drain twice.
#[derive(Default)]
struct Node {
    drained: Mutex<bool>,
    asked: AtomicU32,
}

impl AdminHandler for Node {
    fn status(&self) -> Result<Status, Refusal> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(status_example::status())
    }

    fn drain(&self, on: bool) -> Result<(), Refusal> {
        let mut drained = self.drained.lock().unwrap();
        if *drained == on {
            return Err(Refusal(format!("the drain is already {}", if on { "on" } else { "off" })));
        }
        *drained = on;
        Ok(())
    }

    fn reload(&self) -> Result<(), Refusal> {
        Err(Refusal("cluster.toml:2: generation: found 1".into()))
    }
}

struct Socket {
    server: AdminServer,
    path: PathBuf,
    node: Arc<Node>,
    _directory: TempDir,
}

fn serve(limits: Limits) -> Socket {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/vipdp/eth0.sock");
    let node = Arc::new(Node::default());
    let server = AdminServer::start(&path, limits, node.clone()).unwrap();
    Socket { server, path, node, _directory: directory }
}

impl Socket {
    fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Client(BufReader::new(stream))
    }

    fn counts(&self) -> AdminStatus {
        self.server.counters().read()
    }

    /// Waits until the counts are as `reached` wants them.
    fn wait(&self, what: &str, reached: impl Fn(AdminStatus) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !reached(self.counts()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.counts());
            thread::yield_now();
        }
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "no whole line: {line:?}");
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, line: &str) -> Value {
        self.send(line.as_bytes());
        self.send(b"\n");
        self.answer()
    }

    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).is_ok() && rest.is_empty()
    }
}

#[test]
fn the_command_line_gets_what_it_asks_for() {
    let socket = serve(Limits::default());
    let config = Path::new("/nonexistent/node.toml");
    let node = NodeArgs { socket: Some(socket.path.clone()) };
    let mut out = Vec::new();
    cli::status(config, &node, true, &mut out).unwrap();
    let told: Status = serde_json::from_slice(&out).unwrap();
    let admin = AdminStatus { connections: 1, ..AdminStatus::default() };
    assert_eq!(told, Status { admin, ..status_example::status() });

    out.clear();
    cli::status(config, &node, false, &mut out).unwrap();
    assert!(String::from_utf8(out).unwrap().starts_with("n1 (slot 0): active"));

    cli::drain(config, &node, true).unwrap();
    assert!(*socket.node.drained.lock().unwrap());
    let refused = cli::drain(config, &node, true).unwrap_err().to_string();
    assert_eq!(refused, "the node refuses: the drain is already on");
    cli::drain(config, &node, false).unwrap();
    assert!(!*socket.node.drained.lock().unwrap());
    let refused = cli::reload(config, &node).unwrap_err().to_string();
    assert_eq!(refused, "the node refuses: cluster.toml:2: generation: found 1");
    let counts = socket.counts();
    assert_eq!((counts.connections, counts.answered, counts.refused), (6, 4, 2));
}

#[test]
fn one_connection_carries_many_requests_also_at_once() {
    let socket = serve(Limits::default());
    let mut client = socket.connect();
    assert_eq!(client.ask(r#"{"command":"drain"}"#), json!({"result": "done"}));
    client.send(b"{\"command\":\"undrain\"}\n{\"command\":\"status\"}\n{\"comm");
    assert_eq!(client.answer(), json!({"result": "done"}));
    assert_eq!(client.answer()["status"]["node"]["name"], "n1");
    client.send(b"and\":\"drain\"}");
    // The last line may end with the stream.
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer(), json!({"result": "done"}));
    assert!(client.is_closed());
}

#[test]
fn a_malformed_request_is_told_what_would_be_right() {
    let socket = serve(Limits::default());
    let mut client = socket.connect();
    let malformed = [
        "",
        "status",
        "{",
        "[]",
        "null",
        r#"{"command":"reboot"}"#,
        r#"{"command":"status","verbose":true}"#,
        r#"{"command":"status"} {"command":"status"}"#,
        "\u{0}\u{1}",
        &"[".repeat(1000),
    ];
    for line in malformed {
        let answer = client.ask(line);
        assert_eq!(answer["result"], "error", "{line}");
        assert_eq!(answer["kind"], "malformed", "{line}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("the commands are status, drain, undrain"), "{line}: {message}");
    }
    assert_eq!(client.ask("\u{fffd}")["kind"], "malformed");
    client.send(b"\xff\xfe\n");
    assert_eq!(client.answer()["kind"], "malformed");
    assert_eq!(client.ask(r#"{"command":"status"}"#)["result"], "status", "and may go on");
    assert_eq!(socket.counts().malformed, malformed.len() as u64 + 2);
    assert_eq!(socket.counts().answered, 1);
}

#[test]
fn an_oversized_request_is_refused_whether_it_ends_or_not() {
    let limits = Limits::default();
    let socket = serve(limits);
    let fits = format!("{:<width$}", r#"{"command":"drain"}"#, width = limits.request_len_max);
    let too_long = format!("{fits} ");
    assert_eq!(socket.connect().ask(&fits)["result"], "done");

    let mut client = socket.connect();
    assert_eq!(client.ask(&too_long)["kind"], "oversized");
    assert!(client.is_closed());

    // Ten megabytes without a line's end: the client is not kept from writing, and gets its answer.
    let mut client = socket.connect();
    client.send(&vec![b'x'; 10 << 20]);
    let answer = client.answer();
    assert_eq!(answer["kind"], "oversized");
    assert!(answer["message"].as_str().unwrap().contains("more than 4096 bytes"), "{answer}");
    drop(client);
    assert_eq!(socket.counts().oversized, 2);
    assert!(*socket.node.drained.lock().unwrap());
    assert_eq!(socket.counts().answered, 1);
}

#[test]
fn a_slow_client_is_sent_away_and_holds_up_nobody() {
    let limits = Limits { client_timeout: Duration::from_secs(1), ..Limits::default() };
    let socket = serve(limits);
    let mut silent = socket.connect();
    let mut halting = socket.connect();
    halting.send(br#"{"command":"#);
    // Asks and asks, and never takes an answer: the kernel's buffers fill up.
    let greedy = socket.connect();
    greedy.0.get_ref().set_nonblocking(true).unwrap();
    while greedy.0.get_ref().write(b"{\"command\":\"status\"}\n").is_ok() {}

    assert_eq!(socket.connect().ask(r#"{"command":"status"}"#)["result"], "status");
    for client in [&mut silent, &mut halting] {
        let answer = client.answer();
        assert_eq!(answer["kind"], "timed_out", "{answer}");
        assert!(client.is_closed());
    }
    socket.wait("three clients too slow", |counts| counts.timed_out == 3);
    assert_eq!(socket.connect().ask(r#"{"command":"status"}"#)["result"], "status");
}

#[test]
fn a_client_that_had_its_answer_may_leave_late_without_blame() {
    let limits = Limits { client_timeout: Duration::from_secs(1), ..Limits::default() };
    let socket = serve(limits);
    let mut client = socket.connect();
    assert_eq!(client.ask(r#"{"command":"drain"}"#)["result"], "done");
    assert!(client.is_closed());
    assert_eq!(socket.counts().timed_out, 0);
}

#[test]
fn many_clients_at_once_each_get_their_own_answers() {
    const CLIENTS: usize = 12;
    const REQUESTS: usize = 20;
    let socket = serve(Limits::default());
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let socket = &socket;
            scope.spawn(move || {
                let mut connection = socket.connect();
                for _ in 0..REQUESTS {
                    if client % 2 == 0 {
                        let answer = connection.ask(r#"{"command":"status"}"#);
                        assert_eq!(answer["status"]["format"], 1);
                    } else {
                        assert_eq!(connection.ask("?")["kind"], "malformed");
                    }
                }
            });
        }
    });
    let half = (CLIENTS * REQUESTS / 2) as u64;
    let counts = socket.counts();
    assert_eq!((counts.connections, counts.answered, counts.malformed), (12, half, half));
    assert_eq!(u64::from(socket.node.asked.load(Ordering::Relaxed)), half);
}

#[test]
fn one_client_too_many_is_turned_away_and_may_come_back() {
    let socket = serve(Limits { clients_max: 2, ..Limits::default() });
    let mut clients = [socket.connect(), socket.connect()];
    for client in &mut clients {
        assert_eq!(client.ask(r#"{"command":"status"}"#)["result"], "status");
    }
    let mut third = socket.connect();
    assert_eq!(third.answer()["kind"], "busy");
    assert!(third.is_closed());
    assert_eq!(socket.counts().turned_away, 1);

    drop(clients);
    let deadline = Instant::now() + DEADLINE;
    let status = Request::Status {};
    while !matches!(request(&socket.path, status), Ok(Response::Status { .. })) {
        assert!(Instant::now() < deadline, "still turned away");
    }
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_server() {
    let socket = serve(Limits::default());
    let mode = fs::metadata(&socket.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let path = socket.path.clone();
    drop(socket.server);
    assert!(!path.exists());
    let gone = request(&path, Request::Status {}).unwrap_err();
    assert!(matches!(gone, ClientError::Connect { .. }));
    assert!(gone.to_string().contains("is it running"), "{gone}");
}

#[test]
fn a_dead_processs_socket_is_replaced_a_living_ones_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("eth0.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket");
    let start = || AdminServer::start(&path, Limits::default(), Arc::new(Node::default()));
    let first = start().unwrap();
    let second = start().unwrap_err();
    assert!(matches!(second, AdminError::InUse(_)), "{second}");
    assert!(matches!(request(&path, Request::Status {}), Ok(Response::Status { .. })));

    // A successor's socket is not the first one's to remove.
    fs::remove_file(&path).unwrap();
    let successor = start().unwrap();
    drop(first);
    assert!(matches!(request(&path, Request::Status {}), Ok(Response::Status { .. })));
    drop(successor);
    assert!(!path.exists());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("eth0.sock");
    fs::write(&path, "precious").unwrap();
    let error = AdminServer::start(&path, Limits::default(), Arc::new(Node::default()));
    assert!(matches!(error.unwrap_err(), AdminError::NotASocket(_)));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn an_answer_that_is_none_is_an_error_of_the_client() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for answer in ["hello\n", ""] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let no_json = request(&path, Request::Status {}).unwrap_err();
        assert!(matches!(no_json, ClientError::Answer { .. }), "{no_json}");
        let cut = request(&path, Request::Status {}).unwrap_err();
        assert!(matches!(cut, ClientError::Connection { .. }), "{cut}");
    });
}
