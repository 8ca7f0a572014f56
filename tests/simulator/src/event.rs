//! What is under way: datagrams, ticks, ends of leases, in the order of their times.

use std::cmp::Ordering;
use std::sync::Arc;

use vipdp::cluster::wire::Message;

use crate::news::News;

/// A datagram.
#[derive(Debug)]
pub struct Packet {
    /// The place that it was sent from.
    pub from: usize,
    /// What it says.
    pub message: Message,
    /// Its bytes, in a network that seals.
    pub(crate) datagram: Vec<u8>,
    /// What its sender knew of the others.
    pub(crate) news: News,
}

/// Something that happens at a time.
pub(crate) enum Event {
    Deliver { to: usize, packet: Arc<Packet>, damaged: bool },
    Tick { node: usize, deadline: u64 },
    LeaseEnd { node: usize, until: u64 },
    Resume { node: usize },
}

/// An event in the order of its time, and of its making among those of one time.
pub(crate) struct Queued {
    pub(crate) key: (u64, u64),
    pub(crate) event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}
