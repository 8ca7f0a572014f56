//! The node's end of the admin socket.
//!
//! ```text
//!            accept            line complete          flushed
//!  listener ------> Reading ----------------> Writing ------> Reading ...
//!                      | too long, too late      |
//!                      +-----------------------> Writing, last ------> Discarding --> closed
//! ```
//!
//! One thread, one `poll(2)` over all sockets, none of them blocking. Each client has one deadline,
//! which starts anew with each answer that it took.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{AdminHandler, ErrorKind, Request, Response};
use crate::status::AdminStatus;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another process listens there.
    #[error(
        "another vipdp answers on {}; stop it, or give this one another `admin` or `state_dir`",
        .0.display()
    )]
    InUse(PathBuf),
    /// Something stands there that is no socket.
    #[error("{} is no socket; remove it, or give another `admin` path", .0.display())]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error("the admin socket {} cannot be made: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

/// What clients may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients connected at the same time. An operator and a few collectors need less.
    pub clients_max: usize,
    /// Length of a request, without the line's end, in bytes. The longest known one has 21.
    pub request_len_max: usize,
    /// How long a client has to send a request, or to take its answer.
    pub client_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { clients_max: 16, request_len_max: 4096, client_timeout: Duration::from_secs(5) }
    }
}

/// Counts of what the admin socket did.
#[derive(Debug, Default)]
pub struct AdminCounters {
    connections: AtomicU64,
    turned_away: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    malformed: AtomicU64,
    oversized: AtomicU64,
    timed_out: AtomicU64,
}

impl AdminCounters {
    /// The counts now.
    pub fn read(&self) -> AdminStatus {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AdminStatus {
            connections: read(&self.connections),
            turned_away: read(&self.turned_away),
            answered: read(&self.answered),
            refused: read(&self.refused),
            malformed: read(&self.malformed),
            oversized: read(&self.oversized),
            timed_out: read(&self.timed_out),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A running admin socket. Dropping it ends its thread and removes the socket.
#[derive(Debug)]
pub struct AdminServer {
    path: PathBuf,
    /// The socket's inode, so that a successor's socket is not removed.
    inode: u64,
    counters: Arc<AdminCounters>,
    /// Closed to end the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Listens at `path` and answers by `handler`. A socket that a dead process left is replaced.
    ///
    /// # Errors
    /// If the socket cannot be made, for one since another process listens there.
    pub fn start(
        path: &Path,
        limits: Limits,
        handler: Arc<dyn AdminHandler>,
    ) -> Result<Self, AdminError> {
        let io_error = |source| AdminError::Io { path: path.to_owned(), source };
        let (listener, inode) = listen(path)?;
        let counters = Arc::new(AdminCounters::default());
        let (stop, stopped) = UnixStream::pair().map_err(io_error)?;
        let server = Server {
            listener,
            stopped,
            limits,
            handler,
            counters: Arc::clone(&counters),
            clients: Vec::new(),
            accept_again: None,
        };
        let thread = thread::Builder::new().name("vipdp-admin".into()).spawn(|| server.run());
        let thread = Some(thread.map_err(io_error)?);
        Ok(Self { path: path.to_owned(), inode, counters, stop: Some(stop), thread })
    }

    /// Counts of what was done.
    pub fn counters(&self) -> &Arc<AdminCounters> {
        &self.counters
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread panicked");
        }
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the socket under another name and moves it into place, so that nobody ever finds it with
/// looser permissions. Returns its inode, too.
fn listen(path: &Path) -> Result<(UnixListener, u64), AdminError> {
    let io_error = |source| AdminError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(AdminError::NotASocket(path.to_owned()));
        }
        // Anything but a refusal means that somebody is there, if only too busy to answer.
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return Err(AdminError::InUse(path.to_owned())),
        },
    }
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(io_error)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(NEW_SUFFIX);
    let new = PathBuf::from(new);
    let _ = fs::remove_file(&new);
    let made = UnixListener::bind(&new).and_then(|listener| {
        listener.set_nonblocking(true)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&new)?.ino();
        fs::rename(&new, path)?;
        Ok((listener, inode))
    });
    made.map_err(|error| {
        let _ = fs::remove_file(&new);
        io_error(error)
    })
}

/// What the socket's name has behind it until it is in place. Four bytes: the configuration leaves
/// room for them.
const NEW_SUFFIX: &str = ".new";
/// How long no client is accepted after the kernel could not do so: it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

struct Server {
    listener: UnixListener,
    stopped: UnixStream,
    limits: Limits,
    handler: Arc<dyn AdminHandler>,
    counters: Arc<AdminCounters>,
    clients: Vec<Client>,
    /// Set while no clients are accepted.
    accept_again: Option<Instant>,
}

struct Client {
    stream: UnixStream,
    /// What was read and not yet answered.
    input: Vec<u8>,
    /// What is still to be written.
    output: Vec<u8>,
    deadline: Instant,
    /// Whether it got an answer, and so may leave without a word.
    answered: bool,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Requests are read, or an answer is written.
    Open,
    /// The client is done writing: what it has sent is answered, then it is over.
    Last,
    /// All is written. The rest of what the client sends is read and forgotten, for closing before
    /// that would break its writes and hide the answer from it.
    Discarding,
    /// To be forgotten.
    Closed,
}

impl Server {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            self.accept_again = self.accept_again.filter(|&again| again > now);
            match self.wait(now) {
                Ok(Ready { stopped: true, .. }) => return,
                Ok(ready) => {
                    let now = Instant::now();
                    for (at, &ready) in ready.clients.iter().enumerate() {
                        self.serve(at, ready, now);
                    }
                    self.clients.retain(|client| client.phase != Phase::Closed);
                    if ready.listener {
                        self.accept(now);
                    }
                }
                Err(errno) => {
                    tracing::error!(%errno, "the admin socket cannot be waited for; it ends");
                    return;
                }
            }
        }
    }

    /// Waits until something can be done, or a deadline is reached.
    fn wait(&self, now: Instant) -> Result<Ready, Errno> {
        let listener_events =
            if self.accept_again.is_none() { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut sockets = vec![
            PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), listener_events),
        ];
        let client = |client: &'_ Client| {
            let reads = client.output.is_empty();
            if reads { PollFlags::POLLIN } else { PollFlags::POLLOUT }
        };
        sockets
            .extend(self.clients.iter().map(|each| PollFd::new(each.stream.as_fd(), client(each))));
        let deadlines = self.clients.iter().map(|client| client.deadline);
        let timeout = deadlines.chain(self.accept_again).min().map_or(PollTimeout::NONE, |next| {
            // Rounded up, so that the deadline has passed when the wait is over.
            let ms = next.saturating_duration_since(now).as_micros().div_ceil(1000);
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut sockets, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut ready = sockets.iter().map(|socket| socket.any().unwrap_or(false));
        Ok(Ready {
            stopped: ready.next().unwrap_or(false),
            listener: ready.next().unwrap_or(false),
            clients: ready.collect(),
        })
    }

    fn accept(&mut self, now: Instant) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(%error, "the admin socket accepts nobody for a second");
                    self.accept_again = Some(now + ACCEPT_PAUSE);
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let mut client = Client {
                stream,
                input: Vec::new(),
                output: Vec::new(),
                deadline: now + self.limits.client_timeout,
                answered: false,
                phase: Phase::Open,
            };
            if self.clients.len() < self.limits.clients_max {
                count(&self.counters.connections);
                self.clients.push(client);
            } else {
                count(&self.counters.turned_away);
                let message = format!(
                    "{} clients are connected, which is all that may; try again later",
                    self.limits.clients_max
                );
                client.last_word(ErrorKind::Busy, message);
                client.flush();
            }
        }
    }

    /// Does what can be done for a client without waiting.
    fn serve(&mut self, at: usize, ready: bool, now: Instant) {
        if ready {
            self.serve_ready(at, now);
        }
        let client = &mut self.clients[at];
        if client.phase == Phase::Closed || now < client.deadline {
            return;
        }
        if client.phase == Phase::Open && client.output.is_empty() && !client.idle() {
            count(&self.counters.timed_out);
            let message = format!(
                "no request within {:?}; send one line, then read one",
                self.limits.client_timeout
            );
            client.last_word(ErrorKind::TimedOut, message);
            client.flush();
        } else if !client.output.is_empty() {
            count(&self.counters.timed_out);
        }
        client.phase = Phase::Closed;
    }

    fn serve_ready(&mut self, at: usize, now: Instant) {
        let client = &mut self.clients[at];
        if !client.output.is_empty() {
            client.flush();
        } else if client.phase == Phase::Discarding {
            client.discard();
            return;
        } else {
            client.fill(self.limits.request_len_max);
        }
        self.answer_lines(at, now);
    }

    /// Answers the requests that are there, one after the other, as long as the client takes the
    /// answers.
    fn answer_lines(&mut self, at: usize, now: Instant) {
        loop {
            let client = &mut self.clients[at];
            if !client.output.is_empty() || client.phase == Phase::Closed {
                return;
            }
            let end = client.input.iter().position(|&byte| byte == b'\n');
            match end {
                Some(end) if end <= self.limits.request_len_max => {
                    let line: Vec<_> = client.input.drain(..=end).collect();
                    let response = self.response(&line[..end]);
                    self.clients[at].answer(&response);
                }
                None if client.phase == Phase::Last && !client.input.is_empty() => {
                    // The client is done writing, and left the line's end out.
                    let line = std::mem::take(&mut client.input);
                    let response = self.response(&line);
                    self.clients[at].answer(&response);
                }
                _ if client.input.len() > self.limits.request_len_max => {
                    count(&self.counters.oversized);
                    let message = format!(
                        "a request of more than {} bytes; {EXPECTED}",
                        self.limits.request_len_max
                    );
                    client.last_word(ErrorKind::Oversized, message);
                }
                _ if client.phase == Phase::Last => {
                    client.phase = Phase::Closed;
                    return;
                }
                _ => return,
            }
            let client = &mut self.clients[at];
            client.deadline = now + self.limits.client_timeout;
            client.flush();
        }
    }

    fn response(&self, line: &[u8]) -> Response {
        let request = match serde_json::from_slice::<Request>(line) {
            Ok(request) => request,
            Err(error) => {
                count(&self.counters.malformed);
                let message = format!("this is no request: {error}; {EXPECTED}");
                return Response::Error { kind: ErrorKind::Malformed, message };
            }
        };
        let done = |()| Response::Done;
        let result = match request {
            Request::Status {} => self.handler.status().map(|mut status| {
                status.admin = self.counters.read();
                Response::Status { status: Box::new(status) }
            }),
            Request::Drain {} => self.handler.drain(true).map(done),
            Request::Undrain {} => self.handler.drain(false).map(done),
            Request::Reload {} => self.handler.reload().map(done),
        };
        count(if result.is_ok() { &self.counters.answered } else { &self.counters.refused });
        result.unwrap_or_else(|refusal| Response::Error {
            kind: ErrorKind::Refused,
            message: refusal.to_string(),
        })
    }
}

const EXPECTED: &str = "send one line {\"command\":\"status\"}; \
                        the commands are status, drain, undrain";

/// What can be read, written or accepted.
struct Ready {
    stopped: bool,
    listener: bool,
    clients: Vec<bool>,
}

impl Client {
    /// Whether it has had its answer and asks for nothing more.
    fn idle(&self) -> bool {
        self.answered && self.input.is_empty()
    }

    /// Reads what is there, up to one byte more than a request may have with its line's end.
    fn fill(&mut self, request_len_max: usize) {
        let mut chunk = [0; 1024];
        while self.input.len() < request_len_max + 2 {
            let room = chunk.len().min(request_len_max + 2 - self.input.len());
            match self.stream.read(&mut chunk[..room]) {
                Ok(0) => {
                    self.phase = Phase::Last;
                    return;
                }
                Ok(len) => self.input.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.phase = Phase::Closed;
                    return;
                }
            }
        }
    }

    fn answer(&mut self, response: &Response) {
        self.answered = true;
        serde_json::to_writer(&mut self.output, response).expect("a status is JSON");
        self.output.push(b'\n');
    }

    /// Says what is wrong, as the last thing.
    fn last_word(&mut self, kind: ErrorKind, message: String) {
        self.answer(&Response::Error { kind, message });
        self.input.clear();
        self.phase = Phase::Discarding;
    }

    /// Writes as much as the client takes.
    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(len) => {
                    self.output.drain(..len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.output.clear();
                    self.phase = Phase::Closed;
                }
            }
        }
        if self.phase == Phase::Discarding {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// Reads and forgets, a bounded amount at a time.
    fn discard(&mut self) {
        const CHUNKS_MAX: usize = 16;
        let mut chunk = [0; 4096];
        for _ in 0..CHUNKS_MAX {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.phase = Phase::Closed,
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.phase = Phase::Closed,
            }
            return;
        }
    }
}
