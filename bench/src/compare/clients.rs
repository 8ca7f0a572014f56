//! Clients that are answered: a node whose answers find their way back, and the addresses that they come from.
//!
//! ```text
//!   vdb-PID-gen                                    vdb-PID-node
//!   198.18.0.1, all of 10.64.0.0/16 its own        192.0.2.53: on the interface, or on vipdp's TAP
//!   the service's address by the MAC address       10.64.0.0/16 by way of 198.18.0.1
//!   that the row takes frames for
//! ```
//!
//! No ARP: who has which MAC address is written down on both sides. Frames of kernel sockets leave complete with
//! their checksums, as they would a machine of their own.

use anyhow::Result;

use super::lab::{CLIENTS_NETWORK, VIP};
use super::node::Node;
use super::options::Options;

/// The clients' router, as the node sees it.
const GATEWAY: &str = "198.18.0.1";

/// Lets clients ask the node, and be answered.
pub(super) fn connect(node: &Node<'_>, options: &Options) -> Result<()> {
    let lab = &node.lab;
    let (inner, outer) = (lab.node_interface(), lab.generator_interface());
    let own_mac = lab.generator().run(&format!("cat /sys/class/net/{outer}/address"))?;
    for line in [
        format!("ethtool -K {outer} tx off"),
        format!("ethtool -K {outer} gro on"),
        format!("ip address add {GATEWAY}/30 dev {outer}"),
        format!("ip route add local {CLIENTS_NETWORK} dev lo"),
        format!("ip route add {VIP}/32 dev {outer}"),
        format!("ip neighbor replace {VIP} lladdr {} dev {outer} nud permanent", node.to_mac),
    ] {
        lab.generator().run(&line)?;
    }
    for line in [
        format!(
            "ip neighbor replace {GATEWAY} lladdr {} dev {inner} nud permanent",
            own_mac.trim()
        ),
        format!("ip route replace {CLIENTS_NETWORK} via {GATEWAY} dev {inner} onlink"),
        "sysctl -qw net.core.somaxconn=8192 net.ipv4.tcp_max_syn_backlog=8192".to_owned(),
    ] {
        lab.node().run(&line)?;
    }
    // Else what comes back to the clients would be received in the time of the core that answers.
    lab.receive_answers_on(options.generator_core)
}
