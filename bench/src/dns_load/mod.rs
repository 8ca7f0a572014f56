//! DNS load from many distinct client addresses, every response accounted for.
//!
//! What a cluster behind one VIP promises (each client's query is answered, once, by the node that owns
//! the client's bucket) can be seen only by a client that is many clients. Here every query has a socket of its
//! own, bound to a source address of its own, and the socket outlives the answer so that a second answer is
//! seen too.
//!
//! ```text
//!  plan: query n -> server, source        schedule: query n -> due time
//!        \                                   /
//!         engine: one thread, one epoll, one socket per open query
//!                    |  sent  answered  duplicate  lost  stray
//!                    v
//!                  tally  -> report (JSON or a table)
//! ```
//!
//! Always true: a query that left is counted exactly once as answered or as lost; the times in a report are
//! CLOCK_MONOTONIC of this machine, which all its network namespaces share.

mod clock;
mod engine;
mod limits;
mod message;
mod options;
mod plan;
mod report;
mod schedule;

pub use engine::{EngineError, run};
pub use message::Question;
pub use options::Options;
pub use plan::{Family, Plan, PlanError, Prefix, PrefixError, Target};
pub use report::{FamilyCount, LostQuery, NodeCount, Percentiles, Report};
