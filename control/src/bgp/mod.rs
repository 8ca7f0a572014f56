//! BGP-4, as much of it as a node needs that announces its service addresses and takes no routes.
//!
//! Pure: time and what happened go in, what is to be done comes out. `speaker` owns the sockets.
//!
//! # Parts
//! ```text
//! config        who this node is, what it announces, to whom
//! community     marks on routes
//! frame         messages out of a stream, judged by their headers
//! open          what the peer is and can do, judged
//! update        UPDATEs of the peer, judged and thrown away
//! notification  why one side ends a session
//! encode        messages as bytes, through the codec crate
//! session       the state machine: RFC 4271 section 8
//! ```
//!
//! # Always
//! - A connection keeps less than one message, 4096 bytes, of what the peer sent; nothing is kept of
//!   the peer's routes.
//! - What cannot be understood ends the connection, with the one NOTIFICATION that RFC 4271
//!   section 6 names for it.
//! - Sessions are eBGP: a peer of this node's own AS is refused.
//!
//! # Codec
//! netgauze-bgp-pkt writes what is sent, and is what tests read it with. What is received is read
//! here: it is little (headers, OPENs, the frame of UPDATEs), the error codes must be exact, and
//! the crate's reader loses its place in an OPEN behind an address family that it does not know.

mod community;
mod config;
mod encode;
mod frame;
mod notification;
mod open;
mod prefixes;
mod session;
mod update;

pub use community::{Community, CommunityError, LargeCommunity};
pub(crate) use config::AS_TRANS;
pub use config::{
    Announcement, Attributes, COMMUNITIES_MAX, ConfigError, GRACEFUL_RESTART_MAX_S, LocalConfig,
    PREFIXES_MAX, PeerConfig, RemoteAs, Shutdown,
};
pub use notification::Notification;
pub use session::{
    ConnId, Counters, DownReason, Event, Input, LastError, NotAnnounced, Output, PeerView, Session,
    State,
};
