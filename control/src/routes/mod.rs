//! How the network learns that this node serves the VIPs, in the anycast mode.
//!
//! ```text
//!   Node: announces, drains          Withdrawal           Announcer
//!   ------------------------------> pure, with time ----> BGP: all, marked, nothing
//!                                                         interface: VIPs on it, off it
//! ```
//!
//! Routes are taken back in an order that breaks no connection: they are marked, so that routers
//! prefer others; withdrawn; and the node serves on until no router sends to it any more. One whose
//! service is ill, or that may be cut off, has nothing to serve with: it withdraws at once.
//!
//! What is announced, is so under a lease: BGP's speaker withdraws when it runs out. The VIPs on an
//! interface go when the control thread ends, also in a panic; of one that stands still they stay.

mod bgp;
mod withdrawal;

use std::time::Duration;

use tracing::{info, warn};
use vipdp_io::announced::{AnnouncedError, AnnouncedVips};

use crate::bgp::{Announcement, Shutdown};
use crate::config::{AnnounceBy, AnnounceConfig, Config};
use crate::speaker::{Speaker, SpeakerError, SpeakerPeerView};
pub use withdrawal::{Stage, Wish, Withdrawal};

/// How long an announcement outlives the control thread's last word at least. The data plane's
/// lease is shorter; routes are put up with for a little longer, since to take them back and announce
/// them again costs the network more than a pause.
const LEASE_MIN: Duration = Duration::from_secs(1);

/// How soon what the kernel refused is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Why nothing can be announced.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// There is no speaker.
    #[error(transparent)]
    Speaker(#[from] SpeakerError),
    /// The interface does not take the VIPs.
    #[error(transparent)]
    Interface(#[from] AnnouncedError),
}

/// The routes to the VIPs that lead to this node. They are taken back when this is dropped.
#[derive(Debug)]
pub struct Routes {
    withdrawal: Withdrawal,
    announcer: Announcer,
    /// When to try anew what failed.
    again_ns: Option<u64>,
}

#[derive(Debug)]
enum Announcer {
    Interface(AnnouncedVips),
    Bgp(Speaker),
}

/// How the routes stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutesView {
    /// By what means they are announced.
    pub by: &'static str,
    /// What is announced.
    pub stage: Stage,
    /// The BGP peers, with vipdp's own speaker.
    pub peers: Vec<SpeakerPeerView>,
}

impl Routes {
    /// Nothing is announced yet. What a process before left on the interface is gone.
    ///
    /// # Errors
    /// When there can be no speaker, or no such interface.
    pub fn start(config: &Config, announce: &AnnounceConfig) -> Result<Self, RoutesError> {
        let wait = announce.withdraw;
        let (announcer, mark) = match &announce.by {
            AnnounceBy::Interface(interface) => {
                let vips = AnnouncedVips::new(interface.as_str(), &config.cluster.vips)?;
                // Connected routes bear no communities.
                (Announcer::Interface(vips), Duration::ZERO)
            }
            AnnounceBy::Bgp(bgp) => {
                (Announcer::Bgp(Speaker::start(bgp::speaker(config, bgp))?), wait / 2)
            }
        };
        Ok(Self { withdrawal: Withdrawal::new(mark, wait), announcer, again_ns: None })
    }

    /// Brings what is announced in line with what the node wishes. `lease_until_ns` is until when the
    /// data plane serves, unless it is told anew.
    pub fn turn(&mut self, now_ns: u64, wish: Wish, lease_until_ns: u64) {
        let before = self.withdrawal.stage();
        let stage = self.withdrawal.step(now_ns, wish);
        let changed = stage.announcement() != before.announcement();
        if changed {
            info!(before = before.label(), now = stage.label(), "routes");
        }
        let lease_until_ns = lease_until_ns.max(now_ns + LEASE_MIN.as_nanos() as u64);
        match &mut self.announcer {
            Announcer::Bgp(speaker) => speaker.set(stage.announcement(), lease_until_ns),
            Announcer::Interface(vips) => {
                let due = self.again_ns.is_some_and(|again_ns| now_ns >= again_ns);
                if !changed && !due {
                    return;
                }
                let is_there = stage.announcement() != Announcement::Nothing;
                self.again_ns = vips.set(is_there).err().map(|error| {
                    warn!(%error, "routes cannot be changed");
                    now_ns + AGAIN.as_nanos() as u64
                });
            }
        }
    }

    /// When [`turn`](Self::turn) is due, if nothing happens before.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.withdrawal.deadline_ns().into_iter().chain(self.again_ns).min()
    }

    /// Whether nothing is announced, and that for so long that no packet comes by it any more.
    pub fn are_gone(&self) -> bool {
        self.withdrawal.stage() == Stage::Nothing && self.again_ns.is_none()
    }

    /// How they stand.
    pub fn view(&self) -> RoutesView {
        let (by, peers) = match &self.announcer {
            Announcer::Interface(_) => ("interface", Vec::new()),
            Announcer::Bgp(speaker) => ("bgp", speaker.peers()),
        };
        RoutesView { by, stage: self.withdrawal.stage(), peers }
    }

    /// Takes leave of the peers.
    pub fn stop(self) {
        if let Announcer::Bgp(speaker) = self.announcer {
            speaker.stop(Shutdown::Administrative(None));
        }
    }
}
