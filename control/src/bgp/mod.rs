//! BGP-4, as much of it as a node needs that announces its service addresses and takes no routes.
//!
//! Pure: time and what happened go in, what is to be done comes out. `speaker` owns the sockets.

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
pub use config::{
    Announcement, Attributes, COMMUNITIES_MAX, ConfigError, GRACEFUL_RESTART_MAX_S, LocalConfig,
    PREFIXES_MAX, PeerConfig, RemoteAs, Shutdown,
};
pub use notification::Notification;
pub use session::{
    ConnId, Counters, DownReason, Event, Input, LastError, NotAnnounced, Output, PeerView, Session,
    State,
};
