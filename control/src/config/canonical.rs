//! The hash of what all nodes must agree on.

use std::fmt::Write;

use sha2::{Digest, Sha256};
use vipdp_core::anycast::Steering;
use vipdp_core::hash::HashInput;

use super::cluster::{AllDown, ClusterFile, HeartbeatTransport};
use super::ingress::IngressMode;
use super::keys::Keys;
use super::tiered::ClaimsBy;

/// The first 8 bytes, big-endian, of the SHA-256 of the canonical text.
///
/// Heartbeat keys are not part of it, for they change one node at a time. The hash key is, by a
/// fingerprint: nodes that hash clients differently must not serve together.
pub(super) fn hash(cluster: &ClusterFile, keys: &Keys) -> u64 {
    let digest = Sha256::new()
        .chain_update(text(cluster))
        .chain_update(keys.hash_key_fingerprint())
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// One line per value, always in this order, defaults filled in.
fn text(cluster: &ClusterFile) -> String {
    let mut vips = cluster.vips.clone();
    vips.sort_unstable();
    let mut text = String::from("vipdp cluster 1\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{name} {value}").expect("a string takes everything");
    };
    line("id", &cluster.id);
    line("generation", &cluster.generation);
    line("mode", &cluster.mode.label());
    match cluster.mode {
        IngressMode::SharedMac(macs) => {
            line("mac4", &macs.macs().v4);
            line("mac6", &macs.macs().v6);
        }
        IngressMode::Tiered(tiered) => {
            line("tiers", &tiered.tiers);
            line("compact", &tiered.compact);
            if let Some(first) = tiered.first4 {
                line("next_hops4", &first);
            }
            if let Some(first) = tiered.first6 {
                line("next_hops6", &first);
            }
            line("mac", &tiered.mac_label());
            line("claims", &tiered.claims.label());
            line("search", &tiered.search_label());
            line("claims_per_s", &tiered.claims_per_s);
        }
        IngressMode::Anycast(anycast) => {
            line("forward", &anycast.forward_label());
            if let Some(Steering::Gue { port }) = anycast.steering {
                line("gue_port", &port);
            }
        }
    }
    for vip in vips {
        line("vip", &vip);
    }
    line(
        "hash",
        &match cluster.hash {
            HashInput::Address => "address",
            HashInput::AddressAndPort => "address-and-port",
        },
    );
    for port in &cluster.sticky_udp_ports {
        line("sticky", port);
    }
    line("vlan", &cluster.vlan.unwrap_or(0));
    line("heartbeat_ms", &cluster.timing.heartbeat.as_millis());
    line("multiplier", &cluster.timing.multiplier);
    line("hold_s", &cluster.timing.hold.as_secs());
    line("ramp_s", &cluster.timing.ramp.as_secs());
    line("linger_s", &cluster.timing.linger.as_secs());
    line("partition", &cluster.partition.label());
    // The default is not written: so nodes of versions that do not know it agree with those that do.
    if cluster.all_down != AllDown::Serve && !is_by_wire(cluster) {
        line("all_down", &cluster.all_down.label());
    }
    let mut gateway = cluster.partition.gateway().to_vec();
    gateway.sort_unstable();
    for address in gateway {
        line("gateway", &address);
    }
    match cluster.heartbeat.transport {
        HeartbeatTransport::Multicast(group) => line("group", &group),
        HeartbeatTransport::Unicast => line("group", &"unicast"),
    }
    line("port", &cluster.heartbeat.port);
    for member in &cluster.members {
        line("member", &member.slot);
        line("name", &member.name);
        line("weight", &member.weight);
        line("removed", &member.removed);
        if let Some(address) = member.address {
            line("address", &address);
        }
        if let Some(mac) = member.mac {
            line("mac", &mac);
        }
    }
    text
}

/// Whether nobody can know that all are down: then there is nothing to agree on.
fn is_by_wire(cluster: &ClusterFile) -> bool {
    matches!(cluster.mode, IngressMode::Tiered(tiered) if tiered.claims == ClaimsBy::Wire)
}
