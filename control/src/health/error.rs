//! Why a service is taken for ill.

use std::io;
use std::net::SocketAddr;

/// Why a probe found the service ill.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no connection.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The exchange broke off.
    #[error("{doing}: {source}")]
    Exchange {
        /// What was under way.
        doing: &'static str,
        /// What the kernel, or TLS, says.
        source: io::Error,
    },
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// No request can be made of the configuration.
    #[error("no HTTP request: {0}")]
    Request(String),
    /// What came is no HTTP.
    #[error("no HTTP response: {0}")]
    Http(ureq_proto::Error),
    /// The response ended before it was whole, or its head is longer than any.
    #[error("the response {0}")]
    Incomplete(&'static str),
    /// Another status than expected.
    #[error("status {found}")]
    Status {
        /// The status.
        found: u16,
    },
    /// The body does not hold what it should.
    #[error("the body does not hold \"{0}\"")]
    Body(String),
    /// What came is no answer to the query.
    #[error("no DNS response: {0}")]
    Dns(String),
    /// Another response code than expected.
    #[error("response code {0}")]
    Rcode(String),
    /// None of the answers is the one expected.
    #[error("the answers do not hold \"{expected}\": {found}")]
    Answer {
        /// What they should hold.
        expected: String,
        /// The answers, cut to a short line.
        found: String,
    },
    /// The command could not be run.
    #[error("the command cannot be run: {0}")]
    Spawn(nix::Error),
    /// The command ended otherwise than well.
    #[error("{how}{}{said}", if said.is_empty() { "" } else { ": " })]
    Command {
        /// How it ended.
        how: String,
        /// The end of what it said.
        said: String,
    },
}
