//! What becomes of one packet.

use crate::parse::ParseError;
use crate::slot::Slot;
use crate::tiered::Mark;

/// What the data plane does with one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand it to the host's own stack.
    Pass,
    /// Forget it, and count why.
    Drop(DropReason),
    /// Answer it from the data plane, in the frame it came in.
    Reply(ReplyKind),
    /// Send it on to the member in this slot, by its MAC address.
    Forward(Slot),
    /// Send it on to the member in this slot, and say why: by its MAC address in the tiered mode, in the
    /// anycast mode also by a tunnel.
    SendOn(Slot, Mark),
}

/// What the data plane answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// An ARP reply (RFC 826) to a request for a VIP or a next-hop address.
    Arp,
    /// A neighbour advertisement (RFC 4861, section 4.4) to a solicitation for a VIP or a
    /// next-hop address.
    NeighborAdvertisement,
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a packet was dropped. Each reason has a counter of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
            /// The frame could not be parsed.
            Malformed(ParseError),
        }

        impl DropReason {
            const OWN: &[Self] = &[$(Self::$name,)*];

            /// How many reasons there are, those of [`ParseError`] included.
            pub const COUNT: usize = Self::OWN.len() + ParseError::ALL.len();

            /// The reason's place in an array of counters, below [`COUNT`](Self::COUNT).
            pub const fn index(self) -> usize {
                let mut at = 0;
                $(if matches!(self, Self::$name) { return at; } at += 1;)*
                match self {
                    Self::Malformed(error) => at + error as usize,
                    _ => unreachable!(),
                }
            }

            /// The reason's name in `vipdp status` and in the metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                    Self::Malformed(error) => error.label(),
                }
            }
        }
    };
}

drop_reasons! {
    /// Another node owns the bucket or address.
    NotOwner = "not_owner",
    /// The bucket or address is ours, but the lease has run out: the control thread stands still.
    LeaseExpired = "lease_expired",
    /// A TCP segment of a connection that is not tracked here: some other node has it. In the tiered mode,
    /// a packet of a flow that no member knows.
    NoFlow = "no_flow",
    /// The flow's cache line is full of flows that must not be evicted.
    FlowTableFull = "flow_table_full",
    /// No VIP of ours is the destination or target; in the tiered mode, no next-hop address the target.
    NotVip = "not_vip",
    /// The frame is addressed to a MAC address that is neither shared nor ours, nor
    /// a next-hop address's.
    WrongMac = "wrong_mac",
    /// The frame carries another 802.1Q tag than the VIPs' segment has.
    WrongVlan = "wrong_vlan",
    /// A fragment whose first fragment was not accepted here.
    FragmentOrphan = "fragment_orphan",
    /// An ARP packet or neighbour advertisement that needs no answer from us.
    NotARequest = "not_a_request",
    /// A tunnel, or a frame with a mark where tunnels are used, that is not from a member to this node.
    ForeignTunnel = "foreign_tunnel",
    /// The packet does not fit into the tunnel to its member, and its sender was told, or has been often
    /// enough, or must not be.
    TooBig = "too_big",
    /// A stranger claims one of our VIPs or next-hop addresses by ARP or NDP.
    ForeignClaim = "foreign_claim",
    /// A member claims a next-hop address.
    MemberClaim = "member_claim",
    /// The packet has come before, by the wire or by the member that hands its bucket over.
    CameTwice = "came_twice",
    /// The member to forward to has not told its MAC address.
    PeerUnknown = "peer_unknown",
    /// The packet was to be sent on to another member, but too many were already.
    ForwardLimited = "forward_limited",
    /// The host did not take the frame: its queue is full.
    HostFull = "host_full",
    /// The frame is longer than the host's MTU allows.
    HostTooLong = "host_too_long",
    /// The host did not take a frame of its own traffic, of no service: its queue is full, or it is too long.
    NicHostFull = "nic_host_full",
    /// The transmit ring is full.
    TxFull = "tx_full",
    /// A frame from the host, or a packet cut from one, is longer than the MTU or than a frame of the NIC's.
    TxTooLong = "tx_too_long",
    /// A frame from the host whose checksum to complete lies outside it, or that cannot be cut as it is to be.
    HostOffload = "host_offload",
    /// A frame from the host whose next hop's MAC address is not known.
    NoNeighbor = "no_neighbor",
    /// A frame from the host that is not to leave: not from a VIP, or not IP.
    NotFromVip = "not_from_vip",
}

impl DropReason {
    /// Every reason, in the order of [`index`](Self::index).
    pub fn all() -> impl Iterator<Item = Self> {
        let own = Self::OWN.iter().copied();
        own.chain(ParseError::ALL.iter().map(|&error| Self::Malformed(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_counter_and_label() {
        let all: Vec<_> = DropReason::all().collect();
        assert_eq!(all.len(), DropReason::COUNT);
        for (at, reason) in all.iter().enumerate() {
            assert_eq!(reason.index(), at, "{reason:?}");
        }
        let labels: HashSet<_> = all.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), all.len());
    }
}
