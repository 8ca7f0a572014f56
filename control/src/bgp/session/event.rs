//! What goes into a session and what comes out.

use std::fmt;
use std::net::IpAddr;

use super::view::State;
use crate::bgp::config::{Announcement, Shutdown};
use crate::bgp::notification::Notification;

/// One TCP connection of a session, numbered by whoever owns the sockets: never reused within a
/// session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The session may begin, or begin anew after [`Input::Stop`].
    Start,
    /// What [`Output::Connect`] asked for: a connection from `local` to `remote`.
    Connected {
        /// The new connection.
        conn: ConnId,
        /// This node's address of it.
        local: IpAddr,
        /// The peer's address of it.
        remote: IpAddr,
    },
    /// What [`Output::Connect`] asked for cannot be had: refused, timed out, no route.
    ConnectFailed,
    /// The peer connected.
    Accepted {
        /// The new connection.
        conn: ConnId,
        /// This node's address of it.
        local: IpAddr,
        /// The peer's address of it.
        remote: IpAddr,
    },
    /// Bytes came, however many and however cut.
    Received {
        /// The connection they came by.
        conn: ConnId,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A connection is gone, for whatever reason but [`Output::Close`].
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// What the peer is to be told from now on. Until the first of them nothing is announced, and
    /// a peer that keeps routes of an earlier start of this process keeps them (RFC 4724).
    Announce(Announcement),
    /// BFD found the peer down that it had found up: the session ends and waits for
    /// [`Input::BfdUp`]. Not for a session that was taken down by either side's administrator
    /// (RFC 5882 section 3.2).
    BfdDown,
    /// BFD found the peer up.
    BfdUp,
    /// The session is to end.
    Stop(Shutdown),
    /// Time passed; at the latest what [`Output::NextDeadline`] said.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to the peer, and tell by [`Input::Connected`] or [`Input::ConnectFailed`]. There is
    /// never more than one such attempt.
    Connect,
    /// Give up the attempt of the last [`Output::Connect`]: nothing more is to be told of it.
    CancelConnect,
    /// Write bytes to a connection: whole messages.
    Send(ConnId, Vec<u8>),
    /// Close a connection when what was sent before is written, without waiting long for that: the
    /// session knows it no more, and nothing more is to be told of it.
    Close(ConnId),
    /// Tell an operator.
    Log(Event),
    /// When to tell [`Input::Tick`] at the latest, in nanoseconds: the last output of every step.
    /// `u64::MAX` for never.
    NextDeadline(u64),
}

/// What an operator may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The session is up.
    Established {
        /// The peer's AS.
        asn: u32,
        /// The negotiated hold time, in seconds; 0 for none.
        hold_s: u16,
    },
    /// The session, or an attempt at one, came to an end.
    Down {
        /// How far it had come.
        from: State,
        /// Why.
        reason: DownReason,
    },
    /// The peer could not be connected to.
    ConnectFailed,
    /// Routes of a family cannot be announced to the peer as the session is.
    NotAnnounced {
        /// IPv6, not IPv4.
        v6: bool,
        /// Why not.
        reason: NotAnnounced,
    },
    /// Routes were announced or withdrawn.
    Announced {
        /// What the peer was told.
        announcement: Announcement,
        /// How many IPv4 routes it has now.
        v4: usize,
        /// How many IPv6 routes it has now.
        v6: usize,
    },
}

/// Why a session, or an attempt at one, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// This side ended it and said why.
    Sent(Notification),
    /// The peer ended it and said why.
    Received(Notification),
    /// The connection was closed or lost.
    ConnectionLost,
    /// This process starts anew, and closed the connection without a word.
    Restart,
}

/// Why routes of a family are not announced in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnnounced {
    /// The peer did not say that it takes them (RFC 4760 section 8).
    NotNegotiated,
    /// There is no next hop of the family: neither configured nor the session's own address, nor
    /// may the next hop be of the other family (RFC 8950).
    NoNextHop,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |v6| if v6 { "IPv6" } else { "IPv4" };
        match self {
            Self::Established { asn, hold_s } => {
                write!(f, "established with AS {asn}, hold time {hold_s} s")
            }
            Self::Down { from, reason } => write!(f, "down from {from}: {reason}"),
            Self::ConnectFailed => f.write_str("cannot connect"),
            Self::NotAnnounced { v6, reason } => {
                write!(f, "{} routes are not announced: {reason}", family(*v6))
            }
            Self::Announced { announcement: Announcement::Nothing, .. } => {
                f.write_str("withdrew all routes")
            }
            Self::Announced { announcement, v4, v6 } => {
                let mark = match announcement {
                    Announcement::Marked => ", marked for graceful shutdown",
                    Announcement::Nothing | Announcement::Announced => "",
                };
                write!(f, "announced {v4} IPv4 and {v6} IPv6 routes{mark}")
            }
        }
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(notification) => write!(f, "we said {notification}"),
            Self::Received(notification) => write!(f, "the peer said {notification}"),
            Self::ConnectionLost => f.write_str("connection lost"),
            Self::Restart => f.write_str("restart"),
        }
    }
}

impl fmt::Display for NotAnnounced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNegotiated => f.write_str("the peer does not take them"),
            Self::NoNextHop => f.write_str("no next hop: neither configured nor of the session"),
        }
    }
}
