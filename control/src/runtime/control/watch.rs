//! What the control thread keeps an eye on beside the protocol, turn by turn: the NIC and its queues, the router, the
//! workers, the service's health, the ways out and to the other members, claims by others.

use anyhow::{Result, bail};
use tracing::{error, info, warn};
use vipdp_core::anycast::PeerPath;
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::Ingress;
use vipdp_core::worker::HeardClaim;
#[cfg(feature = "dpdk")]
use vipdp_io::dpdk::Loss;
use vipdp_io::link::LinkNow;

use super::{Control, MS, STANDSTILL_NS, Turn};
use crate::cluster::node::Input;
use crate::runtime::protocol::Event;

/// How many claims are taken before the timers get their turn.
const CLAIMS_MAX: usize = 4096;

/// How often the ways to the other members are asked for, where packets go to them in tunnels.
const PATHS_NS: u64 = 1_000 * MS;

/// How soon they are asked for again while the next hop towards a member that is alive is not known.
const PATHS_MISSING_NS: u64 = 100 * MS;

impl Control {
    /// Gives everything its look.
    ///
    /// # Errors
    /// When the NIC is another one, or its driver does not take the XDP program again.
    pub(super) fn watch(&mut self, turn: &mut Turn, now: u64) -> Result<()> {
        let news = self.link.news();
        self.follow_link(turn, now, news)?;
        if let Some(forgetting) = &mut self.forgetting {
            forgetting.turn(now)?;
        }
        self.watch_queues(turn, now);
        self.watch_gateway(turn, now);
        self.watch_workers(turn, now);
        self.watch_health(turn, now);
        self.watch_egress(turn, now);
        self.use_link(turn, now);
        self.watch_paths(turn, now);
        self.hear_claims(turn, now);
        self.watch_offload(now);
        Ok(())
    }

    /// Without a link nobody can be served, and who serves instead is not heard.
    pub(super) fn follow_link(
        &mut self,
        turn: &mut Turn,
        now: u64,
        found: Option<LinkNow>,
    ) -> Result<()> {
        let Some(found) = found else { return Ok(()) };
        match found {
            LinkNow::Up => info!("the NIC has a link again"),
            LinkNow::Down => warn!("the NIC has no link: this node serves nobody until it has one"),
            LinkNow::Gone => error!("the NIC is gone: this node serves nobody"),
            LinkNow::Another => {
                bail!(
                    "there is another NIC of the same name, on which nothing is set up: start anew"
                )
            }
        }
        turn.link_is_back = found == LinkNow::Up;
        if let Some(egress) = &mut self.egress {
            egress.link(turn.link_is_back, now);
        }
        if let Some(forgetting) = &mut self.forgetting {
            forgetting.link_is_back(now);
        }
        if !turn.link_is_back {
            self.step(turn, now, Input::Link(false));
        }
        Ok(())
    }

    /// A NIC that DPDK has lost is of no use any more: the next start may find it.
    #[cfg(feature = "dpdk")]
    pub(super) fn follow_loss(&mut self, turn: &mut Turn, now: u64, loss: Loss) {
        turn.failure = Some(anyhow::anyhow!("{loss}"));
        match loss {
            Loss::Wanted => error!("{loss}: handing over, then ending"),
            Loss::Gone => {
                error!("{loss}: ending");
                // Nobody hears it any more.
                turn.leave_by_ns = Some(now);
            }
        }
        self.leave(turn, now);
    }

    /// Serves again with a link that is back, once queries can come in and answers can leave.
    fn use_link(&mut self, turn: &mut Turn, now: u64) {
        let enter = self.forgetting.as_ref().is_none_or(|program| program.is_trusted(now));
        if turn.link_is_back
            && enter
            && self.egress.as_mut().is_none_or(|egress| egress.are_back(now))
        {
            turn.link_is_back = false;
            self.step(turn, now, Input::Link(true));
        }
    }

    /// Packets by a queue without a worker are another node's to serve, until this one has started anew.
    fn watch_queues(&mut self, turn: &mut Turn, now: u64) {
        // A bond without a NIC has no link, and nothing tells then how many queues it will get frames by.
        if turn.failure.is_none()
            && self.link.is_up()
            && let Some(unserved) = &mut self.unserved
            && let Err(outgrown) = unserved.turn(now)
        {
            error!(%outgrown, "handing over, then ending");
            turn.failure = Some(outgrown.into());
            self.leave(turn, now);
        }
    }

    /// Whether the router is reached decides who serves where the nodes lose each other.
    fn watch_gateway(&mut self, turn: &mut Turn, now: u64) {
        if let Some(gateway) = &mut self.gateway
            && let Some(reached) = gateway.turn(now)
        {
            self.step(turn, now, Input::Gateway(reached));
        }
    }

    /// Hears what others claim: strangers, or everybody where nothing else tells who has what.
    fn hear_claims(&mut self, turn: &mut Turn, now: u64) {
        let members = self.protocol.peer_macs();
        for _ in 0..CLAIMS_MAX {
            let heard = if self.protocol.is_by_wire() {
                self.announcements.next_heard()
            } else {
                self.announcements.next_stranger(now, &self.service, &members)
            };
            let Some(HeardClaim { address, mac, .. }) = heard else { return };
            let number = match self.service.ingress {
                Ingress::Tiered(tiered) => tiered.number(address),
                Ingress::SharedMac(_) | Ingress::Anycast(_) => None,
            };
            self.take_in(turn, now, Event::Claim { number, address, mac });
        }
    }

    /// A data plane that stands still must not keep its buckets.
    fn watch_workers(&mut self, turn: &mut Turn, now: u64) {
        if now < turn.progress_ns + STANDSTILL_NS {
            return;
        }
        if let Some(file) = self.flow_file {
            file.stamp(now);
        }
        let progress = self.workers.progress();
        let moves = progress.since(&turn.progress);
        turn.progress = progress;
        turn.progress_ns = now;
        if moves != turn.moves {
            turn.moves = moves;
            if moves {
                info!("the workers make progress again");
            } else {
                error!("a worker stands still: others are to take this node's buckets");
            }
        }
    }

    /// Neither a data plane that stands still nor a service that is ill may keep its buckets.
    pub(super) fn watch_health(&mut self, turn: &mut Turn, now: u64) {
        let willing = turn.moves && self.checks.healthy();
        if willing != turn.willing {
            turn.willing = willing;
            info!(willing, "the node's health has changed");
            self.step(turn, now, Input::Health { willing });
        }
    }

    /// Keeps the next hops of frames from the host up to date.
    fn watch_egress(&mut self, turn: &mut Turn, now: u64) {
        let Some(egress) = &mut self.egress else { return };
        if egress.turn(now, &self.unresolved) {
            self.publish(turn);
        }
    }

    /// Goes on telling the XDP program what is not this node's any more.
    fn watch_offload(&mut self, now: u64) {
        if let Some(offload) = &mut self.offload {
            offload.turn(now, || self.workers.progress());
        }
    }

    /// Keeps the ways to the other members up to date.
    fn watch_paths(&mut self, turn: &mut Turn, now: u64) {
        let Some(paths) = &mut self.paths else { return };
        if now < turn.paths_ns {
            return;
        }
        let refreshed = paths.refresh();
        let alive = self.protocol.alive();
        let is_missing = |(at, path): (usize, &Option<PeerPath>)| {
            let slot = Slot::new(at as u8);
            path.is_some_and(|path| path.next_hop.is_none())
                && slot.is_some_and(|slot| alive.contains(slot))
        };
        let any_missing = paths.paths().iter().enumerate().any(is_missing);
        turn.paths_ns = now + if any_missing { PATHS_MISSING_NS } else { PATHS_NS };
        match refreshed {
            Ok(true) => self.publish(turn),
            Ok(false) => {}
            Err(error) => warn!(%error, "the ways to the other members cannot be told"),
        }
    }
}
