//! The pure part of the vipdp data plane.
//!
//! Nothing here opens a socket, reads a clock or starts a thread: a verdict is a function of the
//! [`snapshot`], the [`flow`] table, the time that is passed in and the packet. The edges are the
//! two traits in [`port`], which `vipdp-io` implements for AF_XDP and the TAP, and which
//! [`port::memory`] implements for tests and benchmarks.
//!
//! One packet, from the ring to the host:
//!
//! ```text
//! Worker::poll_once            worker.rs    one burst
//!   port.rx_burst              port/        frames come in
//!   Burst::judge               decide/      plain datagrams side by side, in vectors; of any other:
//!   parse                      parse.rs     bytes -> Parsed, or a ParseError that a counter counts
//!   lookup                     decide/      Parsed -> bucket and flow key: the hashes
//!   flows.prefetch             flow/        bring the flow's cache line near
//!   decide                     decide/      -> Verdict
//!   Worker::apply              worker.rs    Pass | Drop | Reply | Forward
//!   Worker::hand_over          worker/      what passed goes to the host, runs of a flow as one
//!   port.housekeeping          port/        frames go back
//! ```
#![forbid(unsafe_code)]

pub mod anycast;
pub mod bucket;
pub mod claim;
pub mod classify;
pub mod coalesce;
pub mod counters;
pub mod decide;
pub mod flow;
pub mod hash;
pub mod limit;
pub mod offload;
pub mod parse;
pub mod port;
pub mod prefix;
pub mod processor;
pub mod reply;
pub mod rewrite;
pub mod segment;
pub mod slot;
pub mod snapshot;
pub mod tiered;
pub mod tunnel;
pub mod verdict;
pub mod wire;
pub mod worker;
