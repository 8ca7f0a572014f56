//! What is told of a session to operators.

use std::fmt;
use std::net::Ipv4Addr;

use crate::bgp::config::Announcement;
use crate::bgp::notification::Notification;

/// How far a session has come (RFC 4271 section 8.2.2): of two connections, the one that came
/// further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stopped, or waiting for BFD.
    Idle,
    /// Between attempts, or only waiting for the peer to connect.
    Active,
    /// Connecting.
    Connect,
    /// Connected; the peer's OPEN is awaited.
    OpenSent,
    /// The peer's OPEN is well; its first KEEPALIVE is awaited.
    OpenConfirm,
    /// Up.
    Established,
}

impl State {
    /// Its name in RFC 4271.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Active => "Active",
            Self::Connect => "Connect",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A session as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// How far it has come.
    pub state: State,
    /// Since when it is in that state, on the clock of [`step`](super::Session::step), in
    /// nanoseconds.
    pub since_ns: u64,
    /// It waits for BFD to find the peer up again.
    pub waits_for_bfd: bool,
    /// What the peer was told in this session; `None` unless established.
    pub announced: Option<Announcement>,
    /// How many IPv4 routes the peer has of this node.
    pub announced_v4: usize,
    /// How many IPv6 routes the peer has of this node.
    pub announced_v6: usize,
    /// The peer's AS, once it has said it in this session.
    pub remote_as: Option<u32>,
    /// The peer's BGP Identifier, once it has said it in this session.
    pub remote_id: Option<Ipv4Addr>,
    /// The negotiated hold time in seconds, 0 for none; `None` unless established.
    pub hold_s: Option<u16>,
    /// Why the last session, or attempt at one, was ended by a NOTIFICATION.
    pub last_error: Option<LastError>,
    /// What was counted since the process began.
    pub counters: Counters,
}

/// The last NOTIFICATION, ours or theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// The peer said it, not this node.
    pub theirs: bool,
    /// What was said.
    pub notification: Notification,
    /// When, in nanoseconds.
    pub at_ns: u64,
}

/// What is counted of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// How often the session came up.
    pub established: u64,
    /// How often it went down after that.
    pub dropped: u64,
    /// Connections that could not be made.
    pub connects_failed: u64,
    /// Messages of all types sent.
    pub messages_out: u64,
    /// Messages of all types received with a sound header.
    pub messages_in: u64,
    /// UPDATEs sent.
    pub updates_out: u64,
    /// UPDATEs received, whose routes were ignored.
    pub updates_in: u64,
    /// Of these, the ones whose path attributes do not add up: routers treat them as withdrawals
    /// (RFC 7606), here there is nothing to withdraw.
    pub updates_malformed: u64,
    /// ROUTE-REFRESH messages received.
    pub refreshes_in: u64,
    /// NOTIFICATIONs sent.
    pub notifications_out: u64,
    /// NOTIFICATIONs received.
    pub notifications_in: u64,
}
