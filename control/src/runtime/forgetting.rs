//! Whether the driver still runs the XDP program that it was given.
//!
//! vmxnet3 forgets it whenever it starts its queues anew: set down and up, given another MTU or other rings, reset by its
//! watchdog (`vmxnet3_rq_cleanup_all` in the kernel's drivers/net/vmxnet3/vmxnet3_drv.c). The kernel says that the program
//! is attached all the same, and the packets to the VIPs reach nobody. Only counts tell: frames come, and the program
//! has run on none.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tracing::{debug, error, info};
use vipdp_io::link::Link;
use vipdp_io::xdp::{AttachMode, Program};

use super::reach::Intake;

/// The drivers that forget.
const DRIVERS: [&str; 1] = ["vmxnet3"];

const MS: u64 = 1_000_000;

/// How often the counts are compared.
const WATCH_NS: u64 = 200 * MS;

/// How many frames the program has not run on when it is forgotten: one may have come before it was attached.
const FRAMES: u64 = 3;

/// How long after a link came back frames are waited for that tell. The other nodes' heartbeats do.
const TELLING_NS: u64 = 3_000 * MS;

/// A program in a driver that may forget it.
#[derive(Debug)]
pub struct Forgetting {
    link: Link,
    intake: Arc<Mutex<Intake>>,
    counts: Counts,
    due_ns: u64,
    /// A link that came back is of use then, whatever the counts say.
    trusted_ns: u64,
}

impl Forgetting {
    /// Watches the program of `intake` on `link`, if it is in a driver that may forget it.
    pub fn watch(link: &Link, intake: &Arc<Mutex<Intake>>, now: u64) -> Option<Self> {
        let is_native = {
            let intake = intake.lock().unwrap_or_else(PoisonError::into_inner);
            intake.door.program().map(Program::attach_mode) == Some(AttachMode::Native)
        };
        (is_native && DRIVERS.contains(&link.driver()?.as_str())).then(|| Self {
            link: link.clone(),
            intake: Arc::clone(intake),
            counts: Counts::default(),
            due_ns: now,
            trusted_ns: now,
        })
    }

    /// When it wants its turn.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// The link came back: from now on the program is to prove itself.
    pub fn link_is_back(&mut self, now: u64) {
        self.counts.has_run = false;
        self.trusted_ns = now + TELLING_NS;
    }

    /// Whether frames of the link are vipdp's: the program runs, or nothing has come that would tell.
    pub fn is_trusted(&self, now: u64) -> bool {
        self.counts.has_run || now >= self.trusted_ns
    }

    /// Attaches the program anew if the driver has forgotten it. The link goes down and comes back then.
    ///
    /// # Errors
    /// When the kernel does not attach it.
    pub fn turn(&mut self, now: u64) -> Result<()> {
        if now < self.due_ns {
            return Ok(());
        }
        self.due_ns = now + WATCH_NS;
        let mut intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(program) = intake.door.program_mut() else { return Ok(()) };
        let received = match self.link.received() {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "counting frames");
                return Ok(());
            }
        };
        let ran = program.counters()?.all();
        if !self.counts.tell(received, ran) {
            return Ok(());
        }
        error!(
            interface = self.link.name.as_str(),
            "the driver has forgotten the XDP program, as it does when its queues start anew: attaching it again"
        );
        program.attach_again().context("the driver has forgotten the XDP program")?;
        info!("the XDP program is attached again");
        self.counts = Counts::default();
        Ok(())
    }
}

/// What was counted when the program last ran.
#[derive(Debug, Default)]
struct Counts {
    /// Frames received, and the program's runs. None before the first look.
    last: Option<(u64, u64)>,
    /// It may be that frames were counted that the program had not seen yet: two looks tell.
    suspected: bool,
    /// It has run since the link came back.
    has_run: bool,
}

impl Counts {
    /// Takes in newer counts: of frames received, then of the program's runs. Returns whether it is forgotten.
    fn tell(&mut self, received: u64, ran: u64) -> bool {
        let is_suspect = match self.last {
            Some((last, ran_then)) if ran == ran_then && received >= last => {
                received >= last + FRAMES
            }
            last => {
                self.has_run |= last.is_some_and(|(_, ran_then)| ran != ran_then);
                self.last = Some((received, ran));
                false
            }
        };
        std::mem::replace(&mut self.suspected, is_suspect) && is_suspect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_the_program_never_saw_tell() {
        let mut counts = Counts::default();
        assert!(!counts.tell(100, 90), "the first look");
        assert!(!counts.tell(100, 90), "nothing comes");
        assert!(!counts.tell(99 + FRAMES, 90), "too few");
        assert!(!counts.tell(100 + FRAMES, 90), "they may be under way");
        assert!(!counts.tell(103 + FRAMES, 91), "it runs");
        assert!(!counts.tell(103 + 2 * FRAMES, 91));
        assert!(counts.tell(103 + 2 * FRAMES, 91), "two looks, and it did not run");
    }

    #[test]
    fn a_driver_that_counts_anew_has_not_forgotten() {
        let mut counts = Counts::default();
        counts.tell(1000, 900);
        assert!(!counts.tell(2, 900));
        assert!(!counts.tell(2 + FRAMES, 900));
        assert!(!counts.tell(3 + FRAMES, 902));
    }

    #[test]
    fn a_link_that_is_back_has_to_prove_itself() {
        let mut counts = Counts::default();
        counts.tell(10, 9);
        counts.tell(12, 9);
        assert!(!counts.has_run);
        counts.tell(13, 10);
        assert!(counts.has_run);
    }
}
