//! What a speaker is told when it starts.

use std::net::IpAddr;

use vipdp_io::tcp_md5;

use crate::bfd;
use crate::bgp::{self, LocalConfig, PeerConfig};

/// The port that BGP speakers listen on (RFC 4271, section 2).
pub const PORT: u16 = 179;
/// How many peers a speaker may have.
pub const PEERS_MAX: usize = 16;

/// A speaker and its peers.
#[derive(Clone, Debug)]
pub struct SpeakerConfig {
    /// What it is to all of them, and announces to them.
    pub local: LocalConfig,
    /// The peers: at most [`PEERS_MAX`].
    pub peers: Vec<SpeakerPeer>,
    /// The port it listens on: [`PORT`], if not for tests.
    pub listen_port: u16,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct SpeakerPeer {
    /// What the operator calls it: its address or interface as configured.
    pub name: String,
    /// Where it is.
    pub target: Target,
    /// The port it listens on.
    pub port: u16,
    /// The TTL, or hop limit, of what is sent to it by TCP: 1 for a neighbour.
    pub ttl: u8,
    /// The key that TCP segments are signed with (RFC 2385): 1 to 80 bytes.
    pub password: Option<Vec<u8>>,
    /// Whether, and how fast, BFD watches the path. It takes a neighbour.
    pub bfd: Option<bfd::Timers>,
    /// What BGP is to know of it.
    pub config: PeerConfig,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At an address; with the index of the interface, if it is link-local, else 0.
    Address(IpAddr, u32),
    /// The only router on an interface, at a link-local address that it tells itself by router
    /// advertisements (RFC 4861).
    Interface(String),
}

/// What no speaker can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// What is announced, or by whom.
    #[error(transparent)]
    Local(#[from] bgp::ConfigError),
    /// Too many peers.
    #[error("{0} BGP peers; at most {PEERS_MAX} are possible")]
    Peers(usize),
    /// Two peers at one place.
    #[error("BGP peer {0}: it is there twice")]
    Duplicate(String),
    /// A TTL of 0.
    #[error("BGP peer {0}: a TTL of 0 reaches nobody")]
    Ttl(String),
    /// A key that the kernel does not take.
    #[error("BGP peer {0}: a password has 1 to {max} bytes", max = tcp_md5::KEY_LEN_MAX)]
    Password(String),
    /// BFD of a peer that is no neighbour.
    #[error("BGP peer {0}: BFD is for neighbours, and a TTL above 1 says that it may be none")]
    BfdBeyondTheLink(String),
    /// A link-local address without an interface.
    #[error("BGP peer {0}: a link-local address takes an interface")]
    Scope(String),
}

impl SpeakerConfig {
    /// Whether there can be such a speaker.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.local.check()?;
        if self.peers.len() > PEERS_MAX {
            return Err(ConfigError::Peers(self.peers.len()));
        }
        for (index, peer) in self.peers.iter().enumerate() {
            peer.check()?;
            if self.peers[..index].iter().any(|other| other.target == peer.target) {
                return Err(ConfigError::Duplicate(peer.name.clone()));
            }
        }
        Ok(())
    }
}

impl SpeakerPeer {
    fn check(&self) -> Result<(), ConfigError> {
        let name = || self.name.clone();
        if self.ttl == 0 {
            return Err(ConfigError::Ttl(name()));
        }
        let key_len = self.password.as_ref().map_or(1, Vec::len);
        if !(1..=tcp_md5::KEY_LEN_MAX).contains(&key_len) {
            return Err(ConfigError::Password(name()));
        }
        if self.bfd.is_some() && self.ttl > 1 {
            return Err(ConfigError::BfdBeyondTheLink(name()));
        }
        match self.target {
            Target::Address(IpAddr::V6(address), 0) if address.is_unicast_link_local() => {
                Err(ConfigError::Scope(name()))
            }
            _ => Ok(()),
        }
    }
}
