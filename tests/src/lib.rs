//! Clusters in network namespaces: what the tests beside this crate need to look at vipdp as its
//! users do.
//!
//! ```text
//!   Lab          scripts/topology as a value: up when made, down when dropped
//!    +- Namespace   commands and sockets inside one of its namespaces
//!    +- Load        dns-load: DNS queries from many addresses, each accounted for
//!    +- Requests    HTTP requests, likewise
//!    +- Transfers   TCP connections that take their time, every byte checked
//!    +- Capture     tcpdump: what really was on a wire
//!    +- Injector    frames made by hand: garbage, and Questions, each due one answer
//!   Vipdp        a vipdp that a test starts by itself on a node of a lab without one
//!   HostState    everything on a host that vipdp might change
//! ```
//!
//! Nothing here knows the insides of vipdp: the JSON that it prints, the signals that it takes and
//! the frames on the wire are all that is looked at. All of it needs root, and panics where
//! something is not as it should be: a test fails with the reason.

pub mod capture;
pub mod clock;
pub mod fabric;
pub mod frame;
pub mod host;
pub mod inject;
pub mod lab;
pub mod load;
pub mod namespace;
pub mod path;
pub mod programs;
pub mod question;
pub mod request;
pub mod speaker;
pub mod stall;
pub mod status;
pub mod transfer;
pub mod vipdp;
pub mod wait;
