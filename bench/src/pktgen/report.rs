//! What a run did.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::options::Engine;

/// Frames of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub frames: u64,
    /// Their bytes, without check sequences.
    pub bytes: u64,
}

/// The account of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What sent.
    pub engine: Engine,
    /// Packets that were given to the interface.
    pub sent: u64,
    /// Packets that the interface did not take.
    pub refused: u64,
    /// From the first to the last, seconds.
    pub seconds: f64,
    /// Of these, without the pauses in which the engine sends nothing.
    pub active_seconds: f64,
    /// Packets a second between them.
    pub packets_per_s: f64,
    /// What came back, by kind; kinds of which none did are left out.
    pub received: BTreeMap<String, Tally>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "sent      {} in {:.3} s: {:.0} a second",
            self.sent, self.seconds, self.packets_per_s
        )?;
        if self.refused > 0 {
            writeln!(f, "refused   {}", self.refused)?;
        }
        for (kind, tally) in &self.received {
            writeln!(f, "received  {kind}: {} frames, {} bytes", tally.frames, tally.bytes)?;
        }
        Ok(())
    }
}
