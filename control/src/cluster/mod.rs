//! The cluster protocol: who serves which bucket, agreed on without a leader.
//!
//! All of it is pure: no clock, no socket, no thread, no randomness but for seeds that are passed
//! in. Times are monotonic nanoseconds. The runtime opens datagrams with [`auth::open`], feeds the
//! messages to [`node::Node::step`], and does what that says.
//!
//! ```text
//! datagram -> auth::open -> wire::parse -> Message -> Node::step -> Message -> auth::seal
//!                                                         |
//!                                        PublishTable, Claim, Release, ...
//! ```

#![forbid(unsafe_code)]

pub mod addresses;
pub mod assignment;
pub mod auth;
pub mod claims;
pub mod config;
pub mod node;
pub mod wire;
pub mod wire_node;
