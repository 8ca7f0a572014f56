//! Whether the NIC has receive queues without a worker.
//!
//! There is a worker for each queue that the NIC had at the start. It may get more: by `ethtool -L`, or as a bond does when a
//! NIC with more queues is added to it. No socket takes packets to the VIPs that come by those. The XDP program drops and
//! counts them, where the driver runs it on such queues (veth does not), and their clients would go without an answer for as
//! long as this node has their buckets. So it gives them away, and ends: a start makes as many workers as there are queues.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{debug, error};
use vipdp_io::link::Link;

use super::reach::Intake;

/// How often the NIC is looked at: the control thread wakes as often.
const WATCH_NS: u64 = 500_000_000;

/// Watches the NIC's queues, and what the XDP program drops for want of a socket.
#[derive(Debug)]
pub struct Unserved {
    interface: String,
    intake: Arc<Mutex<Intake>>,
    growth: Growth,
    losses: Losses,
    due_ns: u64,
}

impl Unserved {
    /// Watches the program of `intake` on `link`, of which `queues` have a worker; `None` where there is none.
    pub fn watch(link: &Link, queues: u32, intake: &Arc<Mutex<Intake>>, now: u64) -> Option<Self> {
        intake.lock().unwrap_or_else(PoisonError::into_inner).door.program()?;
        Some(Self {
            interface: link.name.clone(),
            intake: Arc::clone(intake),
            growth: Growth { served: queues, suspected: false },
            losses: Losses::default(),
            due_ns: now,
        })
    }

    /// Looks whether all queues are served, and says so when packets begin to be lost that no start would save.
    ///
    /// # Errors
    /// When the NIC has more queues than there are workers.
    pub fn turn(&mut self, now: u64) -> Result<(), Outgrown> {
        if now < self.due_ns {
            return Ok(());
        }
        self.due_ns = now + WATCH_NS;
        let intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(program) = intake.door.program() else { return Ok(()) };
        // A NIC that is gone has none.
        let has = program.rx_queues().unwrap_or(0);
        let served = self.growth.served;
        if self.growth.tell(has) {
            return Err(Outgrown { interface: self.interface.clone(), has, served });
        }
        let dropped = match program.counters() {
            Ok(counted) => counted.dropped,
            Err(error) => {
                debug!(%error, "counting frames");
                return Ok(());
            }
        };
        if self.losses.tell(dropped) && has <= served {
            error!(
                interface = self.interface,
                has,
                served,
                dropped,
                "packets to the VIPs come by a receive queue that no worker serves, and are lost"
            );
        }
        Ok(())
    }
}

/// The NIC has got more receive queues than there are workers.
#[derive(Debug, thiserror::Error)]
#[error(
    "{interface} has {has} receive queues now, of which {served} have a worker: what comes by the others is lost; start anew"
)]
pub struct Outgrown {
    interface: String,
    has: u32,
    served: u32,
}

/// Whether there are more queues than workers.
#[derive(Debug)]
struct Growth {
    served: u32,
    /// The last look found more; a driver may show others for a moment while it sets them up.
    suspected: bool,
}

impl Growth {
    /// Takes in how many there are. Returns whether they are more, and were the last time.
    fn tell(&mut self, has: u32) -> bool {
        let more = has > self.served;
        std::mem::replace(&mut self.suspected, more) && more
    }
}

/// What was lost at the last look.
#[derive(Debug, Default)]
struct Losses {
    /// None before the first look: before there were sockets the program dropped all packets to the VIPs.
    last: Option<u64>,
    goes_on: bool,
}

impl Losses {
    /// Takes in the newer count. Returns whether losses begin.
    fn tell(&mut self, dropped: u64) -> bool {
        let any = self.last.replace(dropped).is_some_and(|last| dropped > last);
        let went_on = std::mem::replace(&mut self.goes_on, any);
        any && !went_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_tell_that_there_are_more_queues_than_workers() {
        let mut growth = Growth { served: 2, suspected: false };
        for has in [2, 4, 2, 0, 1, 4] {
            assert!(!growth.tell(has), "{has}");
        }
        assert!(growth.tell(3), "another number, and still more");
    }

    #[test]
    fn only_what_is_lost_beside_workers_counts() {
        let mut losses = Losses::default();
        assert!(!losses.tell(700), "lost before there were any");
        assert!(!losses.tell(700));
        assert!(losses.tell(701), "it begins");
        assert!(!losses.tell(900), "it goes on");
        assert!(!losses.tell(900));
        assert!(losses.tell(901), "and again");
    }
}
