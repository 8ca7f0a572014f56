//! The rules of ownership of one bucket, as a model that a checker explores to the end.
//!
//! The shipped `Node` cannot be explored: its state holds times and ever growing sequence numbers,
//! so that no two states are equal. This is a model of its rules for ONE bucket instead, whose
//! functions mirror those of `vipdp::cluster::node` guard by guard, and name them. All settling
//! happens within the step of a message or of a timer, as it does there.
//!
//! ```text
//! node i -- message() --> Link i->j --> receive() -- settle() --> role: Idle, Candidate,
//!   ^                     loses, repeats,                         Owner, Yielding
//!   '-- timers, crash,    delays
//!       restart, drain
//! ```
//!
//! # What is modelled
//! Sessions and the join that proves them; listening; the hold; drain and its end; mutual hearing
//! and the clique; targets; candidates, their barrier and their rank; claims; batches, their
//! numbers, echoes and repetition; crash and restart; a node whose place another start of it has;
//! loss and delay without bound, reordering, repetition (a bounded number of times).
//!
//! # What is not, and what that means
//! - Time. A timer may fire in any state in which the faults assumed allow it: a node is buried
//!   once its session has ended, a candidate goes without an answer only from such a node,
//!   listening ends without an answer only from such a node, and only what nobody has is taken
//!   for an orphan. That is S1's "connected,
//!   acknowledgements complete", for which it promises that there never are two owners. What
//!   happens beyond that, with leases and lateness, and how long it lasts, is the simulator's.
//! - Sequence numbers. Of those that a node was told to have been heard only two comparisons
//!   matter: with that of its latest *mark*, the first message after it became candidate or owner,
//!   and with that of its *challenge*, the first message after it heard a session that has to prove
//!   itself. Each message says whether it was sent since them, and whether its sender has heard
//!   one that was; setting a mark clears both in all that is under way. Overtaken messages are
//!   refused, so that a link loses them instead.
//! - Relayed liveness and cuts (all hear each other), fencing, configurations, weights, local health.

mod message;
mod model;
mod node;

pub use message::{Body, Link, Message};
pub use model::{Action, Cluster, Faults, State};
pub use node::{Node, Peer, Role};

/// How many nodes there may be.
pub const MAX: usize = 3;

/// A set of nodes or of sessions: one bit each.
pub type Set = u8;

/// Whether `member` is in `set`.
pub const fn contains(set: Set, member: usize) -> bool {
    set >> member & 1 == 1
}

/// A rule that is broken, for the checker to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The giver takes the bucket back while the taker may have it already.
    Revocable,
    /// A candidate does not wait for answers.
    NoBarrier,
    /// A candidate claims though one that comes before it is candidate too.
    RankIgnored,
    /// A candidate counts answers that were given to its former rank.
    RankNotTold,
    /// A candidate counts as one no more once any message of it says so, though only heartbeats
    /// tell whether it is owner instead.
    CandidacyForgotten,
    /// A bucket that comes round to its giver, before that has heard the echo, is not taken.
    RoundLost,
    /// The giver does not wait for the echo.
    EchoIgnored,
    /// Repeated messages are taken for new ones.
    RepeatedAccepted,
}
