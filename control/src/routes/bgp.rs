//! What the configuration says to BGP's speaker.

use std::num::{NonZeroU8, NonZeroU32};

use crate::bfd;
use crate::bgp::{Attributes, LocalConfig, PeerConfig};
use crate::config::{BfdConfig, BgpConfig, BgpPeerConfig, BgpTarget, Config};
use crate::speaker::{PORT, SpeakerConfig, SpeakerPeer, Target};

/// The bandwidth that a weight of 1 stands for, in bytes per second: only the relation to the other
/// nodes' counts (draft-ietf-idr-link-bandwidth, section 3).
const BANDWIDTH_OF_A_WEIGHT: f32 = 1e6;

/// What the speaker of this node is told.
pub(super) fn speaker(config: &Config, bgp: &BgpConfig) -> SpeakerConfig {
    let weight = f32::from(config.own_member().weight);
    let local = LocalConfig {
        asn: bgp.asn,
        router_id: bgp.router_id,
        hold_s: bgp.hold_s,
        graceful_restart_s: bgp.graceful_restart_s,
        attributes: Attributes {
            communities: bgp.communities.clone(),
            large_communities: bgp.large_communities.clone(),
            med: bgp.med,
            link_bandwidth: bgp.link_bandwidth.then_some(weight * BANDWIDTH_OF_A_WEIGHT),
        },
        next_hop4: bgp.next_hop4,
        next_hop6: bgp.next_hop6,
        prefixes: config.cluster.vips.clone(),
    };
    let peers = bgp.peers.iter().map(|peer| self::peer(peer, bgp.bfd)).collect();
    SpeakerConfig { local, peers, listen_port: PORT }
}

fn peer(peer: &BgpPeerConfig, bfd: BfdConfig) -> SpeakerPeer {
    SpeakerPeer {
        name: peer.target.to_string(),
        target: match &peer.target {
            // Link-local ones are found by their interface.
            BgpTarget::Address(address) => Target::Address(*address, 0),
            BgpTarget::Interface(interface) => Target::Interface(interface.as_str().to_owned()),
        },
        port: peer.port,
        ttl: peer.multihop,
        password: peer.password.as_ref().map(|password| password.as_bytes().to_vec()),
        bfd: peer.bfd.then(|| timers(bfd)),
        config: PeerConfig { remote_as: peer.remote_as, passive: peer.passive },
    }
}

fn timers(bfd: BfdConfig) -> bfd::Timers {
    let interval_us = u32::try_from(bfd.interval.as_micros()).unwrap_or(u32::MAX);
    bfd::Timers {
        interval_us: NonZeroU32::new(interval_us).expect("the interval was checked"),
        multiplier: NonZeroU8::new(bfd.multiplier).expect("the multiplier was checked"),
    }
}
