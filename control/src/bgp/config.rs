//! What a speaker is told: who it is, what it announces, and whom it talks to.

use std::net::{Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use vipdp_core::prefix::Prefix;

use super::community::{Community, LargeCommunity};
use super::prefixes;

/// The AS number that stands for one that does not fit 16 bits (RFC 6793 section 9).
pub(crate) const AS_TRANS: u16 = 23456;

/// The most communities, and the most large communities, that routes may bear: what an UPDATE
/// carries beside them then still leaves three quarters of it to prefixes.
pub const COMMUNITIES_MAX: usize = 32;

/// The most prefixes a speaker announces: as many as a cluster may have VIPs.
pub const PREFIXES_MAX: usize = crate::config::VIPS_MAX;

/// The longest time a peer is asked to keep routes of a speaker that restarts: the field has 12
/// bits (RFC 4724 section 3).
pub const GRACEFUL_RESTART_MAX_S: u16 = 4095;

/// What this node is to all its peers.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalConfig {
    /// This node's AS number: not 0, nor 23456, which stands for others (RFC 7607, RFC 6793).
    pub asn: u32,
    /// The BGP Identifier: not 0.0.0.0 (RFC 6286).
    pub router_id: Ipv4Addr,
    /// The hold time that is offered, in seconds: 0 (no keepalives) or at least 3. The smaller of
    /// the two sides' holds.
    pub hold_s: u16,
    /// How long peers are to keep the routes of a process that is gone without saying so, in
    /// seconds (RFC 4724); 0: not at all.
    pub graceful_restart_s: u16,
    /// What the routes bear.
    pub attributes: Attributes,
    /// The next hop of IPv4 routes; `None`: this node's own address of each session.
    pub next_hop4: Option<Ipv4Addr>,
    /// The next hop of IPv6 routes; `None`: this node's own address of each session. Without it a
    /// session over IPv4 announces no IPv6 routes.
    pub next_hop6: Option<Ipv6Addr>,
    /// What is announced: at most [`PREFIXES_MAX`].
    pub prefixes: Vec<Prefix>,
}

/// What all routes of a speaker bear, beside what they must.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    /// At most [`COMMUNITIES_MAX`].
    pub communities: Vec<Community>,
    /// At most [`COMMUNITIES_MAX`].
    pub large_communities: Vec<LargeCommunity>,
    /// MULTI_EXIT_DISC (RFC 4271 section 5.1.4).
    pub med: Option<u32>,
    /// The link bandwidth extended community, in bytes per second
    /// (draft-ietf-idr-link-bandwidth).
    pub link_bandwidth: Option<f32>,
}

/// What one peer is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Which AS it must say it is of.
    pub remote_as: RemoteAs,
    /// This node never connects, and only waits for the peer to.
    pub passive: bool,
}

/// Which AS a peer must be of. Never this node's own: this speaker speaks eBGP alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteAs {
    /// This one.
    Exactly(u32),
    /// Any but this node's own.
    External,
}

impl RemoteAs {
    /// Whether a peer of AS `remote` will do for a node of AS `local`.
    pub(super) fn accepts(self, local: u32, remote: u32) -> bool {
        let named = match self {
            Self::Exactly(asn) => asn == remote,
            Self::External => true,
        };
        named && remote != local && is_assignable(remote)
    }
}

/// What cannot be in a [`LocalConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// AS 0 or 23456.
    #[error("AS {0} is nobody's: 0 and 23456 have meanings of their own")]
    Asn(u32),
    /// 0.0.0.0.
    #[error("a router ID of 0.0.0.0")]
    RouterId,
    /// 1 or 2 seconds.
    #[error("a hold time of {0} s: it is 0, or at least 3 s")]
    Hold(u16),
    /// More than the field has bits.
    #[error("a restart time of {0} s: at most {GRACEFUL_RESTART_MAX_S} s")]
    GracefulRestart(u16),
    /// More than an UPDATE is to carry.
    #[error("{0} communities or large communities: at most {COMMUNITIES_MAX} of each")]
    Communities(usize),
    /// Not a bandwidth.
    #[error("a link bandwidth that is not a positive number")]
    LinkBandwidth,
    /// None, or too many.
    #[error("{0} prefixes: 1 to {PREFIXES_MAX}")]
    Prefixes(usize),
    /// Groups, or everything.
    #[error("{0}, which has addresses that are no single node's")]
    Unicast(Prefix),
}

impl LocalConfig {
    /// Whether a speaker can be this.
    ///
    /// # Errors
    /// The first thing that it cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !is_assignable(self.asn) {
            return Err(ConfigError::Asn(self.asn));
        }
        if self.router_id.is_unspecified() {
            return Err(ConfigError::RouterId);
        }
        if matches!(self.hold_s, 1 | 2) {
            return Err(ConfigError::Hold(self.hold_s));
        }
        if self.graceful_restart_s > GRACEFUL_RESTART_MAX_S {
            return Err(ConfigError::GracefulRestart(self.graceful_restart_s));
        }
        let Attributes { communities, large_communities, link_bandwidth, .. } = &self.attributes;
        let most = communities.len().max(large_communities.len());
        if most > COMMUNITIES_MAX {
            return Err(ConfigError::Communities(most));
        }
        if link_bandwidth.is_some_and(|bandwidth| !bandwidth.is_finite() || bandwidth <= 0.0) {
            return Err(ConfigError::LinkBandwidth);
        }
        if self.prefixes.is_empty() || self.prefixes.len() > PREFIXES_MAX {
            return Err(ConfigError::Prefixes(self.prefixes.len()));
        }
        match self.prefixes.iter().find(|prefix| !prefixes::is_unicast(**prefix)) {
            Some(prefix) => Err(ConfigError::Unicast(*prefix)),
            None => Ok(()),
        }
    }
}

/// Whether an AS can have this number (RFC 7607; RFC 6793 section 9).
fn is_assignable(asn: u32) -> bool {
    asn != 0 && asn != u32::from(AS_TRANS)
}

/// What is told to all peers about the prefixes: all of them, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// No routes: what was announced is withdrawn.
    Nothing,
    /// Routes with the GRACEFUL_SHUTDOWN community (RFC 8326): peers prefer any other.
    Marked,
    /// Routes.
    Announced,
}

/// Why a speaker leaves its peers for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Told in a NOTIFICATION: Cease, Administrative Shutdown, with a word to the peer's operator
    /// of up to 255 bytes (RFC 9003); what is longer is cut.
    Administrative(Option<String>),
    /// The peer is not configured any more: Cease, Peer De-configured (RFC 4486).
    Deconfigured,
    /// This process is about to start anew: connections are closed without a word, so that peers
    /// that agreed to graceful restart keep the routes (RFC 4724 section 4).
    Restart,
}
