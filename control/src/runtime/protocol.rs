//! The protocol that a node runs: with heartbeats, or with claims on the wire alone.

use std::net::IpAddr;
use std::sync::Arc;

use vipdp_core::bucket::{Bucket, BucketSet};
use vipdp_core::wire::ethernet::MacAddr;

use crate::cluster::config::{ClusterConfig, SlotSet};
use crate::cluster::node::{Input, Node, Output, View};
use crate::cluster::wire_node::{MemberMacs, WireInput, WireNode, WireOutput};
use crate::routes::Wish;

/// A state machine of either kind.
#[derive(Debug)]
pub enum Protocol {
    /// Members tell each other what they have, and that they are there.
    Heartbeats(Box<Node>),
    /// Members hear each other's claims, and that is all.
    Wire(Box<WireNode>),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Something that either kind may be told. What has to do with messages alone, only a node with
    /// heartbeats is.
    Input(Input),
    /// Somebody was heard to claim an address.
    Claim {
        /// Its number, where it is a next-hop address.
        number: Option<Bucket>,
        /// The address.
        address: IpAddr,
        /// The MAC address that it is said to have. A node with heartbeats is told of strangers'
        /// only.
        mac: MacAddr,
    },
    /// A configuration was read, with the members' MAC addresses, as far as it says them.
    Config(Arc<ClusterConfig>, Box<MemberMacs>),
}

/// What to do now.
#[derive(Debug, Default)]
pub struct Actions {
    /// In this order.
    pub outputs: Vec<Output>,
    /// And then to say on the wire, once, that these are this node's.
    pub repeats: Option<BucketSet>,
}

impl Protocol {
    /// Whether there are no heartbeats.
    pub const fn is_by_wire(&self) -> bool {
        matches!(self, Self::Wire(_))
    }

    /// Takes `event` in at the time `now_ns` and appends what to do to `actions`.
    pub fn step(&mut self, now_ns: u64, event: Event, actions: &mut Actions) {
        match self {
            Self::Heartbeats(node) => {
                node.step(now_ns, with_heartbeats(event), &mut actions.outputs);
            }
            Self::Wire(node) => {
                let Some(input) = by_wire(event) else { return };
                let mut outputs = Vec::new();
                node.step(now_ns, input, &mut outputs);
                for output in outputs {
                    match output {
                        WireOutput::Node(output) => actions.outputs.push(output),
                        WireOutput::Repeat(numbers) => {
                            actions.repeats.get_or_insert_default().insert_all(&numbers);
                        }
                    }
                }
            }
        }
    }

    /// What is told to operators.
    pub fn view(&self) -> View {
        match self {
            Self::Heartbeats(node) => node.view(),
            Self::Wire(node) => node.view(),
        }
    }

    /// What this node wants announced of it, where it announces routes to the VIPs. There are
    /// heartbeats then.
    pub fn wish(&self) -> Wish {
        match self {
            Self::Heartbeats(node) if node.announces() => Wish::Routes,
            Self::Heartbeats(node) if node.leaves() => Wish::Leave,
            Self::Heartbeats(node) if node.listens() => Wish::Undecided,
            Self::Heartbeats(_) | Self::Wire(_) => Wish::Nothing,
        }
    }

    /// The members that are alive, this node among them.
    pub fn alive(&self) -> SlotSet {
        match self {
            Self::Heartbeats(node) => node.alive(),
            Self::Wire(node) => node.alive(),
        }
    }

    /// The other members' own MAC addresses, by slot, as far as they are known.
    pub fn peer_macs(&self) -> MemberMacs {
        match self {
            Self::Heartbeats(node) => node.peer_macs(),
            Self::Wire(node) => node.peer_macs(),
        }
    }
}

fn with_heartbeats(event: Event) -> Input {
    match event {
        Event::Input(input) => input,
        Event::Claim { address, mac, .. } => Input::WireClaim { address, mac },
        Event::Config(config, _) => Input::Config(config),
    }
}

fn by_wire(event: Event) -> Option<WireInput> {
    match event {
        Event::Input(Input::Health { willing }) => Some(WireInput::Health { willing }),
        Event::Input(Input::Drain(on)) => Some(WireInput::Drain(on)),
        Event::Input(Input::Gateway(reached)) => Some(WireInput::Gateway(reached)),
        Event::Input(Input::Link(up)) => Some(WireInput::Link(up)),
        Event::Input(Input::Tick) => Some(WireInput::Tick),
        Event::Input(
            Input::Message(_) | Input::Config(_) | Input::OwnMac(_) | Input::WireClaim { .. },
        ) => None,
        Event::Claim { number, address, mac, .. } => {
            number.map(|number| WireInput::Claim { number, address, mac })
        }
        Event::Config(config, macs) => Some(WireInput::Config(config, macs)),
    }
}
