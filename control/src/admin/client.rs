//! The command line's end of the admin socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Request, Response};

/// Why a node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no vipdp answers on {}: {source} (is it running, and may you use its socket?)", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The connection broke, or nothing came in time.
    #[error("the connection to {} failed: {source}", .path.display())]
    Connection {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// What came is no answer.
    #[error("the answer from {} cannot be understood: {source} (is it of another version?)", .path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// How long a node has for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes: some ten times the status of 64 members and 128 workers.
const ANSWER_LEN_MAX: usize = 4 << 20;

/// Asks the node whose admin socket is at `path`.
///
/// # Errors
/// If no answer came; an answer that says "error" is an `Ok`.
pub fn request(path: &Path, request: Request) -> Result<Response, ClientError> {
    let stream = UnixStream::connect(path)
        .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
    let answer = exchange(stream, request)
        .map_err(|source| ClientError::Connection { path: path.to_owned(), source })?;
    serde_json::from_slice(&answer)
        .map_err(|source| ClientError::Answer { path: path.to_owned(), source })
}

fn exchange(mut stream: UnixStream, request: Request) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let len = match stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        };
        if let Some(end) = chunk[..len].iter().position(|&byte| byte == b'\n') {
            answer.extend_from_slice(&chunk[..end]);
            return Ok(answer);
        }
        answer.extend_from_slice(&chunk[..len]);
        if answer.len() > ANSWER_LEN_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
    }
}
