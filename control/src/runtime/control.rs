//! The control thread: the only sockets and timers of the protocol.
//!
//! ```text
//!   poll(2) --> Transport::receive --> auth::open --> Node::step --> outputs
//!     ^                                                  ^              |
//!     | deadline, datagram, letter       workers' progress, drain       v
//!     +---------------------------------------------- publish, send, log
//! ```
//!
//! It drains the socket before it lets time pass in the state machine, so that a thread that was
//! late hears what the others said before it takes them for dead.

mod watch;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, info, warn};
use vipdp_core::bucket::BucketSet;
use vipdp_core::slot::SLOTS;
use vipdp_core::snapshot::{Holdings, Ingress, Publisher, Service, Snapshot};
use vipdp_core::tiered::PreviousOwners;
use vipdp_io::flow_file::FlowFile;
use vipdp_io::link::LinkWatch;
use vipdp_io::peer_path::PeerPaths;

use super::acquired::Acquired;
use super::announce::{Announcements, Table};
use super::clock::monotonic_ns;
use super::egress::Ways;
use super::forgetting::Forgetting;
use super::gateway::Gateway;
use super::mailbox::{Letter, Letters};
use super::offload::Offloading;
use super::overlap::Overlap;
use super::protocol::{Actions, Event, Protocol};
use super::reload::{GatewayChange, Reload};
use super::transport::{Received, Transport};
use super::unserved::Unserved;
use super::workers::{Progress, WorkerThreads};
use crate::cluster::auth::{self, Keyring, OpenError};
use crate::cluster::config::Timing;
use crate::cluster::node::{Alarm, Destination, Input, Life, Output, View};
use crate::cluster::wire::{MESSAGE_LEN_MAX, Message};
use crate::health::Monitor;
use crate::routes::{Routes, RoutesView};

/// How many datagrams are taken before the timers get their turn: more than all 64 members send
/// in one heartbeat interval, so that a flood delays the timers, but cannot stop them.
const DATAGRAMS_MAX: usize = 256;

/// How often in a heartbeat interval claims are listened for, where there are no heartbeats.
const HEARINGS: u64 = 8;

/// How long a worker may stand still before the node counts as unwilling. An idle worker makes a
/// turn every 20 ms, and a core that serves two nodes' workers may keep one waiting.
const STANDSTILL_NS: u64 = 500 * MS;

/// How soon it is seen that a worker missed a next hop.
const RESOLVING_NS: u64 = 10 * MS;

/// How long handing over may take at the end, in detection times: then the node leaves as it is,
/// and the others take its buckets as after a crash.
const LEAVE_DETECTIONS: u64 = 8;

const MS: u64 = 1_000_000;

/// What is counted of heartbeats.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatCounts {
    /// Messages sent.
    pub sent: u64,
    /// Messages that the kernel did not send.
    pub send_failed: u64,
    /// Messages received whose sender proved to be a member.
    pub received: u64,
    /// Datagrams from beyond the segment.
    pub not_of_the_segment: u64,
    /// Datagrams longer than any message.
    pub too_long: u64,
    /// Datagrams that are no message of a member, by [`OpenError::index`].
    pub rejected: [u64; OpenError::COUNT],
}

/// How the control thread sees the cluster.
#[derive(Clone, Debug)]
pub struct ControlView {
    /// The state machine's own view.
    pub view: View,
    /// What is counted of heartbeats.
    pub heartbeats: HeartbeatCounts,
    /// The number of the newest snapshot.
    pub generation: u64,
    /// How many retired snapshots are still read.
    pub retired: usize,
    /// Whether the router is reached, if it is asked.
    pub gateway: Option<bool>,
    /// How packets reach the nodes.
    pub ingress: Ingress,
    /// The routes to the VIPs, in the anycast mode.
    pub routes: Option<RoutesView>,
}

/// What the control thread works with.
pub struct Control {
    /// The state machine.
    pub protocol: Protocol,
    /// The cluster's keys.
    pub keyring: Keyring,
    /// The cluster's number.
    pub cluster: u16,
    /// The heartbeats' socket, if there are any.
    pub transport: Option<Transport>,
    /// Where snapshots go.
    pub publisher: Publisher,
    /// What of them does not change.
    pub service: Service,
    /// Next hops that workers missed.
    pub unresolved: Arc<crossbeam::queue::ArrayQueue<IpAddr>>,
    /// The kernel's routes and neighbours, with `egress = "tap"`.
    pub egress: Option<Ways>,
    /// What becomes of the NIC.
    pub link: LinkWatch,
    /// The XDP program, where the NIC's driver may forget it.
    pub forgetting: Option<Forgetting>,
    /// What the XDP program drops for want of a worker, if there is one.
    pub unserved: Option<Unserved>,
    /// The router, with `partition = "gateway"`.
    pub gateway: Option<Gateway>,
    /// The routes to the VIPs, in the anycast mode.
    pub routes: Option<Routes>,
    /// The ways to the other members, where packets go to them in tunnels.
    pub paths: Option<PeerPaths>,
    /// What the XDP program decides by itself, if anything.
    pub offload: Option<Offloading>,
    /// The workers, to see whether they make progress.
    pub workers: Arc<WorkerThreads>,
    /// The checks of the service.
    pub checks: Arc<Monitor>,
    /// Where the flows outlive the process, if they do.
    pub flow_file: Option<&'static FlowFile>,
    /// What is said to the segment and heard there.
    pub announcements: Announcements,
    /// What other threads ask for.
    pub letters: Letters,
    /// h and D of the configuration.
    pub timing: Timing,
}

/// The parts of the loop that change from turn to turn.
struct Turn {
    counts: HeartbeatCounts,
    actions: Actions,
    datagram: Vec<u8>,
    /// When the state machine wants to be called next.
    deadline_ns: u64,
    generation: u64,
    overlap: Overlap,
    /// How far the workers were when something was handed over last.
    handed_over: Progress,
    acquired: Acquired,
    /// What was released since the last table.
    released: BucketSet,
    lease_until_ns: u64,
    /// Who has and had each next-hop address.
    owners: Arc<PreviousOwners>,
    progress: Progress,
    progress_ns: u64,
    /// Whether the workers make progress.
    moves: bool,
    /// Whether they do, and the checks find the service well.
    willing: bool,
    /// The NIC has a link again, and the protocol has not been told.
    link_is_back: bool,
    paths_ns: u64,
    /// The configuration that is staged has no gateway.
    forgets_gateway: bool,
    leave_by_ns: Option<u64>,
    /// Why the node leaves unasked.
    failure: Option<anyhow::Error>,
}

impl Control {
    /// Runs until a letter says to stop and everything is handed over.
    ///
    /// # Errors
    /// When the kernel does not let the thread wait, or the heartbeats' socket is gone; after everything is handed
    /// over, when there are too few workers for the NIC, or DPDK has lost it.
    pub fn run(mut self) -> Result<()> {
        let now = monotonic_ns();
        let mut turn = Turn {
            counts: HeartbeatCounts::default(),
            actions: Actions::default(),
            datagram: Vec::with_capacity(MESSAGE_LEN_MAX),
            deadline_ns: now,
            generation: 0,
            overlap: Overlap::new(self.timing.heartbeat_ns, self.has_copies()),
            handed_over: self.workers.progress(),
            acquired: Acquired::default(),
            released: BucketSet::EMPTY,
            lease_until_ns: 0,
            owners: Arc::new(PreviousOwners::none()),
            progress: self.workers.progress(),
            progress_ns: now,
            moves: true,
            willing: true,
            link_is_back: false,
            paths_ns: now,
            forgets_gateway: false,
            leave_by_ns: None,
            failure: None,
        };
        self.step(&mut turn, now, Input::OwnMac(self.service.own_mac));
        self.watch_health(&mut turn, now);
        // It may have gone down since it was looked at: drivers reset themselves for an XDP program.
        let found = self.link.look();
        self.follow_link(&mut turn, now, found)?;
        while !self.has_left(&turn) {
            self.sleep(&turn)?;
            self.receive(&mut turn)?;
            self.read_letters(&mut turn);
            let now = monotonic_ns();
            self.watch(&mut turn, now)?;
            if now >= turn.deadline_ns {
                self.step(&mut turn, now, Input::Tick);
            }
            self.announcements.turn(now, &self.service);
            if let Some(routes) = &mut self.routes {
                routes.turn(now, self.protocol.wish(), turn.lease_until_ns);
            }
        }
        if let Some(routes) = self.routes.take() {
            routes.stop();
        }
        self.forward_the_last(&mut turn);
        turn.failure.map_or(Ok(()), Err)
    }

    /// Whether a packet comes to all nodes.
    fn has_copies(&self) -> bool {
        matches!(self.service.ingress, Ingress::SharedMac(_))
    }

    /// Forwards what is under way to those who have the buckets now, for as long as a giver does,
    /// then serves nothing.
    fn forward_the_last(&mut self, turn: &mut Turn) {
        if turn.overlap.is_over() {
            self.publish(turn);
            std::thread::sleep(Duration::from_nanos(self.timing.heartbeat_ns));
        }
        let _ = turn.overlap.change(monotonic_ns(), Holdings::none(), &BucketSet::FULL);
        self.publish(turn);
    }

    /// Whether the node was told to stop, nobody is sent to it by its routes any more, and it has
    /// nothing left to hand over, or took too long.
    fn has_left(&self, turn: &Turn) -> bool {
        let Some(leave_by_ns) = turn.leave_by_ns else { return false };
        if !self.routes.as_ref().is_none_or(Routes::are_gone) {
            return false;
        }
        if turn.overlap.is_over() || self.is_alone() {
            return true;
        }
        let late = monotonic_ns() >= leave_by_ns;
        if late {
            warn!("not everything could be handed over; the others take the rest as after a crash");
        }
        late
    }

    /// Whether there is nobody to hand anything to.
    fn is_alone(&self) -> bool {
        let members = self.protocol.view().members;
        !members.iter().any(|member| matches!(member.life, Life::Heard | Life::Relayed))
    }

    /// Sleeps until the next deadline, a datagram or a letter.
    fn sleep(&self, turn: &Turn) -> Result<()> {
        let now = monotonic_ns();
        let mut until = turn.deadline_ns.min(turn.progress_ns + STANDSTILL_NS);
        if self.egress.is_some() {
            // No descriptor tells of a missed next hop.
            until = until.min(now + RESOLVING_NS);
        }
        if self.protocol.is_by_wire() {
            // Nor of a claim that was heard.
            until = until.min(now + self.timing.heartbeat_ns / HEARINGS);
        }
        until = until.min(self.announcements.deadline_ns());
        if let Some(forgetting) = &self.forgetting {
            until = until.min(forgetting.due_ns());
        }
        if let Some(gateway) = &self.gateway {
            until = until.min(gateway.deadline_ns());
        }
        if let Some(offload) = &self.offload {
            until = until.min(offload.due_ns());
        }
        if let Some(leave_by_ns) = turn.leave_by_ns.filter(|&leave_by_ns| leave_by_ns > now) {
            until = until.min(leave_by_ns);
        }
        if let Some(deadline_ns) = self.routes.as_ref().and_then(Routes::deadline_ns) {
            until = until.min(deadline_ns);
        }
        // Rounded up: waking a fraction of a millisecond early would only spin.
        let wait = Duration::from_millis(until.saturating_sub(now).div_ceil(MS));
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        let gateway = self.gateway.iter().flat_map(Gateway::descriptors);
        let transport = self.transport.iter().map(Transport::as_fd);
        let mut descriptors: Vec<_> = [self.letters.as_fd(), self.link.as_fd()]
            .into_iter()
            .chain(transport)
            .chain(gateway)
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("the control thread cannot wait"),
        }
    }

    fn receive(&mut self, turn: &mut Turn) -> Result<()> {
        // One more than any message, so that a longer one shows.
        let mut buffer = [0; MESSAGE_LEN_MAX + 1];
        for _ in 0..DATAGRAMS_MAX {
            let Some(transport) = &self.transport else { return Ok(()) };
            let received = match transport.receive(&mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                // The kernel reports a peer's ICMP error, or that the interface went down, once.
                Err(error) => {
                    debug!(%error, "receiving a heartbeat");
                    return Ok(());
                }
            };
            match received {
                Received::Datagram(len) => self.open(turn, &buffer[..len]),
                Received::NotOfTheSegment => turn.counts.not_of_the_segment += 1,
                Received::TooLong => turn.counts.too_long += 1,
            }
        }
        Ok(())
    }

    fn open(&mut self, turn: &mut Turn, datagram: &[u8]) {
        match auth::open(&self.keyring, self.cluster, datagram) {
            Ok(message) => {
                turn.counts.received += 1;
                self.step(turn, monotonic_ns(), Input::Message(message));
            }
            Err(error) => {
                turn.counts.rejected[error.index()] += 1;
                debug!(%error, "a datagram that is no message of a member");
            }
        }
    }

    fn read_letters(&mut self, turn: &mut Turn) {
        self.letters.silence();
        while let Some(letter) = self.letters.take() {
            match letter {
                Letter::View(answer) => {
                    let view = ControlView {
                        view: self.protocol.view(),
                        heartbeats: turn.counts.clone(),
                        generation: turn.generation,
                        retired: self.publisher.retired(),
                        gateway: self.gateway.as_ref().map(Gateway::is_reached),
                        ingress: self.service.ingress,
                        routes: self.routes.as_ref().map(Routes::view),
                    };
                    // Whoever asked may have given up waiting.
                    let _ = answer.send(view);
                }
                Letter::Drain(on, answer) => {
                    info!(on, "drain");
                    self.step(turn, monotonic_ns(), Input::Drain(on));
                    let _ = answer.send(());
                }
                Letter::Reload(reload, answer) => {
                    let Reload { cluster, macs, keyring, route, gateway, reach, addresses } =
                        *reload;
                    info!(generation = cluster.id().generation, "staging a configuration");
                    self.keyring = keyring;
                    if let Some(transport) = &mut self.transport {
                        transport.set_route(route);
                    }
                    if let Some(paths) = &mut self.paths {
                        paths.set_members(addresses);
                        turn.paths_ns = 0;
                    }
                    self.service.ingress = reach.ingress;
                    self.announcements.ask(reach.numbers);
                    self.set_gateway(turn, gateway);
                    self.take_in(turn, monotonic_ns(), Event::Config(cluster, macs));
                    let _ = answer.send(());
                }
                Letter::Stop => self.leave(turn, monotonic_ns()),
                #[cfg(feature = "dpdk")]
                Letter::Lost(loss) => self.follow_loss(turn, monotonic_ns(), loss),
            }
        }
    }

    /// Begins to hand everything over, and then to end.
    fn leave(&mut self, turn: &mut Turn, now: u64) {
        turn.leave_by_ns.get_or_insert(now + LEAVE_DETECTIONS * self.timing.detection_ns());
        self.step(turn, now, Input::Drain(true));
    }

    /// Asks for the router that the configuration names that is about to be staged. Where that
    /// names none, the one before is asked until it is activated.
    fn set_gateway(&mut self, turn: &mut Turn, change: GatewayChange) {
        match change {
            GatewayChange::Same => {}
            GatewayChange::Forget => turn.forgets_gateway = true,
            GatewayChange::Ask(gateway) => {
                turn.forgets_gateway = false;
                let reached = gateway.is_reached();
                self.gateway = Some(*gateway);
                self.step(turn, monotonic_ns(), Input::Gateway(reached));
            }
        }
    }

    fn step(&mut self, turn: &mut Turn, now: u64, input: Input) {
        self.take_in(turn, now, Event::Input(input));
    }

    fn take_in(&mut self, turn: &mut Turn, now: u64, event: Event) {
        let mut actions = std::mem::take(&mut turn.actions);
        self.protocol.step(now, event, &mut actions);
        for output in actions.outputs.drain(..) {
            self.execute(turn, output);
        }
        if let Some(numbers) = actions.repeats.take() {
            self.announcements.repeat(&self.service, &numbers);
        }
        turn.actions = actions;
    }

    fn execute(&mut self, turn: &mut Turn, output: Output) {
        match output {
            Output::PublishTable { holdings, lease_until_ns, owners } => {
                let now = monotonic_ns();
                let table =
                    Table { holdings: &holdings, lease_until_ns, alive: self.protocol.alive() };
                self.announcements.table(now, &self.service, &table);
                turn.acquired.change(&holdings);
                if turn.overlap.change(now, holdings, &turn.released) {
                    turn.handed_over = self.workers.progress();
                }
                turn.released = BucketSet::EMPTY;
                turn.lease_until_ns = lease_until_ns;
                turn.owners = owners;
                self.publish(turn);
            }
            Output::Send { to, message } => self.send(turn, to, &message),
            Output::NextDeadline(deadline_ns) => turn.deadline_ns = deadline_ns,
            Output::Claim(buckets) => info!(buckets = buckets.len(), "claimed"),
            Output::Release(buckets) => {
                info!(buckets = buckets.len(), "released");
                turn.released.insert_all(&buckets);
            }
            Output::LingerStart(buckets) => debug!(buckets = buckets.len(), "lingering"),
            Output::LingerEnd(buckets) => debug!(buckets = buckets.len(), "lingered"),
            Output::Refused(slot, error) => {
                turn.counts.rejected[error.index()] += 1;
                debug!(%slot, %error, "a message of a member that was not taken");
            }
            Output::Defend(address) => {
                self.announcements.defend(monotonic_ns(), &self.service, address);
            }
            Output::Alarm(alarm) => {
                warn!(?alarm, "alarm");
                if matches!(alarm, Alarm::Activated { .. }) && turn.forgets_gateway {
                    self.gateway = None;
                }
            }
        }
    }

    fn send(&self, turn: &mut Turn, to: Destination, message: &Message) {
        let Some(transport) = &self.transport else { return };
        auth::seal(&self.keyring, message, &mut turn.datagram);
        let sent = match to {
            Destination::Multicast => transport.send_to_all(&turn.datagram),
            Destination::Slot(slot) => transport.send_to(&turn.datagram, slot),
        };
        match sent {
            Ok(()) => turn.counts.sent += 1,
            Err(error) => {
                turn.counts.send_failed += 1;
                debug!(%error, "a heartbeat was not sent");
            }
        }
    }

    fn publish(&mut self, turn: &mut Turn) {
        turn.generation += 1;
        let service = Service {
            peer_macs: self.protocol.peer_macs(),
            egress: self.egress.as_ref().map(|ways| ways.egress().clone()),
            peers: self.paths.as_ref().map_or([None; SLOTS], |paths| *paths.paths()),
            ..self.service.clone()
        };
        let is_late = !self.workers.progress().is_round_after(&turn.handed_over);
        let holdings = turn.overlap.holdings(monotonic_ns(), is_late);
        if let Some(offload) = &mut self.offload {
            offload.before_publication(&holdings, turn.lease_until_ns);
        }
        let offloaded = self.offload.as_mut().map(|offload| (offload, holdings.clone()));
        self.publisher.publish(Snapshot {
            generation: turn.generation,
            lease_until_ns: turn.lease_until_ns,
            holdings,
            previous: Arc::clone(&turn.owners),
            latest: turn.acquired.latest(),
            service: Arc::new(service),
        });
        if let Some((offload, holdings)) = offloaded {
            offload.after_publication(holdings);
        }
    }
}
