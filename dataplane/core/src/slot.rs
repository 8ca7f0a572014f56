//! The number of a node in its cluster.

use std::fmt;

/// How many slots a cluster has, and so the largest number of nodes.
pub const SLOTS: usize = 64;

/// The number of a node, `0..64`, fixed in the cluster's configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The slot numbered `number`, or `None` from [`SLOTS`] upwards.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < SLOTS { Some(Self(number)) } else { None }
    }

    /// The slot's number, always below [`SLOTS`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The slot's number as it stands on the wire.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Every slot, in ascending order.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..SLOTS as u8).map(Self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.0)
    }
}
