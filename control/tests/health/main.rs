//! The checks against real services, each test in a network namespace of its own.
//!
//! ```text
//!   a thread of the test, unshared from the host's network
//!     lo  127.0.0.1, ::1, the VIP 192.0.2.53
//!      |
//!      +-- knotd, nginx, sockets of the test, programs that a check runs
//!      `-- vipdp-check-0: the check
//! ```
//!
//! The namespace has no name, and goes with the last of its processes.

mod command;
mod dns;
mod http;
mod lab;
mod monitor;
