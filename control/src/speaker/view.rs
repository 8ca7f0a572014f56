//! What is told of a speaker's peers to operators.

use std::net::{IpAddr, SocketAddr};

use crate::{bfd, bgp};

/// One peer as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerPeerView {
    /// What the operator calls it.
    pub name: String,
    /// Where it is; `None` while a peer on an interface has not told its address.
    pub remote: Option<SocketAddr>,
    /// This node's own address of the connection to it, while there is one.
    pub local: Option<IpAddr>,
    /// Its BGP session.
    pub bgp: bgp::PeerView,
    /// Why it could last not be connected to; `None` since it could.
    pub connect_failure: Option<ConnectFailure>,
    /// Its BFD session, where it has one; `None` too while its address is not known.
    pub bfd: Option<BfdView>,
}

/// A BFD session as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdView {
    /// The session.
    pub session: bfd::View,
    /// Packets from the peer that were not heard: malformed, from beyond the link, or of another
    /// session.
    pub rejected: u64,
}

/// Why a peer could not be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFailure {
    /// The interface that it is to be found on cannot be used.
    #[error("{0}")]
    NoLink(String),
    /// No router has said yet that it is on the interface.
    #[error("no router advertisement was heard on the interface")]
    NoRouter,
    /// The kernel's word: refused, unreachable and the like.
    #[error("{0}")]
    Refused(String),
    /// Nobody answered.
    #[error("no answer")]
    NoAnswer,
    /// Nobody answered, and the kernel drops segments for their signature: what one sees of wrong
    /// passwords, on either side.
    #[error(
        "no answer, and the kernel dropped segments for their MD5 signature: is the password the \
         same on both sides?"
    )]
    Signature,
}
