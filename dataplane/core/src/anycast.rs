//! The anycast mode's own terms: how nodes steer packets to each other, and by which way.
//!
//! Every node announces the VIPs, and the network spreads packets over the nodes by a rule of its own,
//! which changes whenever its set of routes does. With steering each client's bucket has an owner
//! among the nodes all the same, as in the shared-mac mode, and whoever else gets a packet sends it
//! on to that one. The way there is the members' segment, or a tunnel between their own addresses:
//!
//! ```text
//!  Steering::Mac   the frame itself, to the member's MAC address, its source a mark
//!  Steering::Gue   IP, UDP, GUE with a mark in its private data, the packet
//! ```
//!
//! What a mark says is the tiered mode's, and the same by both ways: [`Mark`](crate::tiered::Mark).

use std::net::IpAddr;

use crate::slot::Slot;
use crate::wire::ethernet::MacAddr;

/// What the anycast mode adds to a [`Service`](crate::snapshot::Service).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anycast {
    /// This node's slot.
    pub slot: Slot,
    /// The cluster's number: part of every mark.
    pub cluster: u16,
    /// How packets reach the owner of their client's bucket; `None` where whoever the network has
    /// chosen serves them.
    pub steering: Option<Steering>,
}

/// How packets get from the node that the network chose to the one that serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// As frames to the member's own MAC address: all members are on one segment.
    Mac,
    /// In a UDP tunnel to the member's own address (draft-ietf-intarea-gue).
    Gue {
        /// The UDP port at either end that tunnels lead to.
        port: u16,
    },
}

/// The tunnel between this node and one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPath {
    /// This node's own address: source of what is sent to the member, and where the member sends to.
    pub source: IpAddr,
    /// The member's own address, of the same family: tunnels from it are taken from no other.
    pub destination: IpAddr,
    /// The MAC address of the next hop towards the member; `None` while it is unknown, and nothing can
    /// be sent.
    pub next_hop: Option<MacAddr>,
    /// The largest IP packet that reaches the member in one piece, outer headers included, in bytes.
    pub mtu: u16,
}
