//! One peer's session, as a pure state machine (RFC 4271 section 8).

mod event;
mod view;

pub use event::{ConnId, DownReason, Event, Input, NotAnnounced, Output};
pub use view::{Counters, LastError, PeerView, State};
