//! Health checks: whether the local service does what it should.
//!
//! ```text
//!   vipdp-check-0   probe, wait, probe, ...  -- outcome -->  Judge  -.
//!   vipdp-check-1   ...                                              |--> Monitor::healthy
//!   vipdp-check-N   ...                                             -'    and a ring at each change
//! ```
//!
//! A check asks the service as a client would, at the VIP, from the node itself. The kernel delivers
//! that on the host: it shows that the VIP is on the host, that the service is bound to it, and that it
//! answers well; not the wire, the NIC or the workers, which have watchers of their own. The VIP stays
//! on the host while the node serves nothing, so that checks go on and find the service well again.
//!
//! A node is healthy when every check is up (see [`Judge`]): not before each has risen once.

mod command;
mod dns;
mod error;
mod http;
mod judge;
mod monitor;
mod patience;
mod probe;
mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};

pub(crate) use dns::RCODES;
pub use error::ProbeError;
pub use judge::{Change, Counts, Judge, Judgement, Outcome, State, Thresholds};
pub use monitor::{CheckView, Monitor, StartError};

/// The largest number of checks.
pub const CHECKS_MAX: usize = 32;

/// A check of the local service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckConfig {
    /// Its name, by which the log and the status call it.
    pub name: String,
    /// What is asked.
    pub probe: ProbeConfig,
    /// From one turn to the next; not 0.
    pub interval: Duration,
    /// What a turn may take; not longer than the interval.
    pub timeout: Duration,
    /// How many outcomes make a verdict.
    pub thresholds: Thresholds,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeConfig {
    /// Whether a TCP connection opens.
    Tcp(SocketAddr),
    /// What a web server answers to a GET.
    Http(HttpProbe),
    /// What a DNS server answers to a query.
    Dns(DnsProbe),
    /// Whether a command ends well.
    Command(CommandProbe),
}

/// A GET, over HTTP/1.1, and what it is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Whether TLS is spoken.
    pub secure: bool,
    /// Where the server is.
    pub address: SocketAddr,
    /// What the server is called: the Host header, and without the port the name in TLS.
    pub host: String,
    /// The path and the query, from the slash on.
    pub path: String,
    /// The statuses that are well.
    pub statuses: Box<[u16]>,
    /// What the body must hold.
    pub body: Option<String>,
    /// Whether the server's certificate must be one that this host trusts, and for `host`.
    pub verify: bool,
}

/// A DNS query, and what it is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsProbe {
    /// Where the server is.
    pub server: SocketAddr,
    /// What carries the query.
    pub transport: DnsTransport,
    /// The name asked for.
    pub name: Name,
    /// The type asked for.
    pub record_type: RecordType,
    /// The response code that is well.
    pub rcode: ResponseCode,
    /// What the data of one of the answers must hold, in presentation form.
    pub answer: Option<String>,
}

/// What carries a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsTransport {
    /// UDP; TCP if the response was truncated (RFC 7766, section 5).
    Udp,
    /// TCP.
    Tcp,
}

/// A command, and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandProbe {
    /// The program's path, absolute.
    pub program: String,
    /// What follows it.
    pub arguments: Box<[String]>,
}

impl ProbeConfig {
    /// The kind's name, as the configuration calls it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Http(_) => "http",
            Self::Dns(_) => "dns",
            Self::Command(_) => "command",
        }
    }
}
