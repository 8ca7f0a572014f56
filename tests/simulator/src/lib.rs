//! Clusters of real protocol nodes in virtual time, under faults, under one seed.
//!
//! What runs here is the shipped state machine ([`vipdp::cluster::node::Node`]), its wire format
//! and its message authentication. What is simulated is all around it: the network, the clocks,
//! the crashes, the operators. One seed decides everything, so a failure is repeated by its seed.
//!
//! ```text
//!  scenario: who, what happens when, what must hold         data
//!      |
//!      v
//!  run: plays the script on a network of nodes              one seed
//!      |            Node::step(now, input) -> outputs
//!      v
//!  coverage: who serves which bucket when                   gaps, duals, moves
//!      |
//!      v
//!  check: S1..S5, L1..L4, F1, B1 as formulas                violations
//!      |
//!      v
//!  report: the table over many seeds                        text, JSON
//! ```

pub mod check;
pub mod clock;
pub mod coverage;
pub mod event;
pub mod link;
pub mod network;
pub mod news;
pub mod random;
pub mod report;
pub mod run;
pub mod scenario;
pub mod scenarios;

/// A millisecond, in nanoseconds.
pub const MS: u64 = 1_000_000;
/// A second, in nanoseconds.
pub const SECOND: u64 = 1000 * MS;
