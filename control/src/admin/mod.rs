//! The admin socket: how the command line talks to a running node.
//!
//! A stream socket in the file system, mode 0600. A request is one line of JSON, an answer too; a
//! connection may carry several, one after the other.
//!
//! ```text
//! {"command":"status"}     -> {"result":"status","status":{...}}       crate::status::Status
//! {"command":"drain"}      -> {"result":"done"}
//! {"command":"undrain"}    -> {"result":"done"}
//! {"command":"reload"}     -> {"result":"done"}
//! anything else            -> {"result":"error","kind":"malformed","message":"..."}
//! ```
//!
//! One thread serves all clients and never waits for one: everything is bounded, the number of
//! clients, the length of a request, the time that a client has. It reaches the control thread
//! only through an [`AdminHandler`].

mod client;
mod server;

use serde::{Deserialize, Serialize};

use crate::status::Status;

pub use client::{ClientError, request};
pub use server::{AdminCounters, AdminError, AdminServer, Limits};

/// What the admin socket needs of the running node.
///
/// Called on the admin thread. An implementation may wait for the control thread, but not for
/// long: other clients wait too.
pub trait AdminHandler: Send + Sync {
    /// What the node tells about itself. Its `admin` counters are filled in by the admin socket.
    ///
    /// # Errors
    /// If the node cannot tell, since its control thread stands still for one.
    fn status(&self) -> Result<Status, Refusal>;

    /// Starts (`on`) or ends the drain.
    ///
    /// # Errors
    /// If the node does not take the order.
    fn drain(&self, on: bool) -> Result<(), Refusal>;

    /// Reads the configuration anew and stages it.
    ///
    /// # Errors
    /// If it is wrong, or changes what takes a restart; the one that runs stays.
    fn reload(&self) -> Result<(), Refusal>;
}

/// Why a node did not do what was asked of it. Shown to the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What an operator asks of a node.
// The braces make serde reject unknown fields, which it does not do for plain variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// What it tells about itself.
    Status {},
    /// Give away what it owns, and take nothing.
    Drain {},
    /// Take part again.
    Undrain {},
    /// Read the configuration anew.
    Reload {},
}

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Response {
    /// What was asked for.
    Status {
        /// The status.
        status: Box<Status>,
    },
    /// It is done, or under way.
    Done,
    /// It is not.
    Error {
        /// What kind of error.
        kind: ErrorKind,
        /// What is wrong, and what would be right.
        message: String,
    },
}

/// Why a request was not answered with what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// It is not of the protocol.
    Malformed,
    /// It is too long. The connection is closed.
    Oversized,
    /// It did not arrive in time. The connection is closed.
    TimedOut,
    /// Too many clients are connected. The connection is closed.
    Busy,
    /// The node does not do it.
    Refused,
}
