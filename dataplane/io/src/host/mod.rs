//! What vipdp does to the host, and how it is undone.
//!
//! | change | why | undone by |
//! |---|---|---|
//! | the TAP, its settings, the VIPs on it, routes through it and to it | the hand-off | the kernel, when the process ends |
//! | `conf/NIC/arp_ignore` 1, 3 on other interfaces | the kernel must not answer ARP for a VIP | us |
//! | `conf/NIC/arp_announce` 2, 1 on other interfaces | the kernel must not ask with a VIP as sender | us |
//! | `blackhole VIP` in table `main`, where VIP packets come to the NIC's own MAC | the host must not route them while vipdp is down | us |
//! | `conf/NIC/drop_unicast_in_l2_multicast` 1, with a group MAC | a frame that the XDP program lets through must not reach the stack of every node | us |
//! | `conf/NIC/rp_filter` 2 where it is strict, with packets to the VIPs by the NIC | a client is served whatever the route back to it | us |
//! | `NIC/napi_defer_hard_irqs`, `gro_flush_timeout`, with busy polling: always, or [under load](crate::deferral) | the worker's poll takes the place of interrupts | us |
//! | the MAC address of the TAP in the NIC's place, where the kernel has no NIC | it is the NIC's | us |
//! | VIPs on another interface, as [`announced`](crate::announced) puts them there | a routing daemon announces them | us |
//! | `ip rule from VIP lookup TABLE`, with `egress = "tap"` | replies go to the TAP | us |
//!
//! "us" is [`HostGuard`], and after a SIGKILL the next start or [`cleanup`]: each such change is
//! in the state file before it is made. A setting that somebody else changed since is theirs and
//! stays. IPv6 needs no setting of the NIC: the kernel answers solicitations and picks their
//! sender by the interface's own addresses (RFC 4861, section 7.2).
//!
//! **Addresses.** VIPs that are single addresses are on the TAP as IPv4 addresses of scope host and
//! as deprecated IPv6 addresses (RFC 6724, section 5, rule 3): a service can bind them and replies
//! carry them, and the host does not pick one by itself as the source of its own traffic, unless it
//! is IPv6 and the host has no other global address at all. Nothing is changed that a packet to or
//! from one of the host's other addresses would meet: the other interfaces go on answering for
//! them, each for those of all (`arp_ignore` 3 leaves out addresses of scope host only). Interfaces
//! that are made while vipdp runs are as the host makes them.
//!
//! **Networks.** A VIP that is a network is a route, `local NETWORK dev TAP`: the host takes
//! packets to every address in it, answers from the address that was asked, and never picks one as
//! source. IPv4 sockets bind to each like to an address of an interface. IPv6 sockets bind to the
//! wildcard address, or to one of the network with `IPV6_FREEBIND`, which a UDP service needs also
//! to choose its source by `IPV6_PKTINFO` (or the host allows it to all: `net.ipv6.ip_nonlocal_bind`).
//! The kernel answers no solicitation for them, since they are no interface's addresses.
//!
//! **While vipdp is down** the host has no VIP: its sockets on them, and their connections, stay
//! without being reached. A packet to a VIP that comes in then must not be answered by a reset:
//!
//! | the packet comes to | what becomes of it |
//! |---|---|
//! | the shared MAC, a virtual MAC | dropped: the frame is to another host |
//! | a group MAC | likewise, since `drop_unicast_in_l2_multicast` stays after a SIGKILL |
//! | the NIC's own MAC | dropped: to no address of the host, and the host forwards nothing |
//! | ... of a host that forwards | dropped by the blackhole routes, which stay after a SIGKILL |
//!
//! From its start to the end of the TAP the XDP program keeps such packets from the host; see
//! [`xdp`](crate::xdp).

mod changes;
mod lent_mac;
pub(crate) mod setting;
mod state;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use vipdp_core::prefix::Prefix;

use crate::deferral::{self, Deferral, Keeper};
use crate::link::{Link, LinkError, NetlinkError};
use crate::xdp::NextHops;
use changes::Changes;
use setting::{Area, Setting};
use state::{Announced, Change, Left, Network, Rule, StateFile};

/// Why the host cannot be set up, or put back.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Another process serves the interface.
    #[error("interface {interface}: another vipdp, process {pid}, serves it; stop that one first")]
    Running {
        /// The interface.
        interface: String,
        /// The process, as far as the lock file tells.
        pid: String,
    },
    /// The state file, or its lock, cannot be read or written.
    #[error("{path}: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The state file was not written by us.
    #[error(
        "{path}: not a state file of vipdp: {reason}; compare the settings of {interface} with \
         what they should be, then remove the file"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The interface whose settings it should tell of.
        interface: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The changes were made in another network namespace.
    #[error(
        "{path}: the changes were made in network namespace {namespace}; clean up there, or remove \
         the file if that namespace is gone"
    )]
    Elsewhere {
        /// The state file.
        path: PathBuf,
        /// The namespace, as the kernel names it: `net:[4026531840]`.
        namespace: String,
    },
    /// A setting cannot be read or written.
    #[error("{setting}: {source}")]
    Setting {
        /// Its path.
        setting: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// IPv6 is switched off in the kernel.
    #[error("{vip} is a VIP, and IPv6 is switched off in this kernel (ipv6.disable=1)")]
    NoIpv6 {
        /// The first IPv6 VIP.
        vip: Prefix,
    },
    /// A VIP is an address of the NIC.
    #[error(
        "{vip} is a VIP and an address of {interface}: the kernel would answer for it; remove it \
         from the interface"
    )]
    VipOnNic {
        /// The VIP.
        vip: IpAddr,
        /// The NIC.
        interface: String,
    },
    /// A next hop is an address of the NIC.
    #[error(
        "{next_hop} is a next hop and an address of {interface}: the kernel would answer for it; \
         next hops are addresses that no host of the segment has"
    )]
    NextHopOnNic {
        /// The next hop.
        next_hop: IpAddr,
        /// The NIC.
        interface: String,
    },
    /// The host takes packets to the network already.
    #[error(
        "{network} is a VIP, and the host takes packets to it already, past vipdp (`ip route show \
         table local`); remove that route"
    )]
    NetworkTaken {
        /// The VIP.
        network: Prefix,
    },
    /// The routing table for egress is in use.
    #[error("routing table {table} has a default route already; choose another for egress")]
    TableTaken {
        /// The table.
        table: u32,
    },
    /// There is such a policy rule, not of ours.
    #[error("{rule}: there is such a policy rule already; remove it, or choose another priority")]
    RuleTaken {
        /// The rule.
        rule: String,
    },
    /// No thread that puts interrupts off.
    #[error("cannot start the thread that puts interrupts off under load: {source}")]
    Thread {
        /// The kernel's error.
        source: io::Error,
    },
    /// What a killed process left cannot be undone.
    #[error("interface {interface}: what a killed vipdp left cannot be undone: {failed}")]
    Left {
        /// The interface.
        interface: String,
        /// What could not be put back.
        failed: String,
    },
    /// An interface is missing or unfit.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refused a change.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What vipdp wants of the host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// The NIC on the VIPs' segment.
    pub interface: String,
    /// The TAP, already [made](crate::tap::Tap::create).
    pub tap: String,
    /// The service addresses.
    pub vips: Vec<Prefix>,
    /// The addresses that the VIPs are reached by, in tiered mode: the host must have none.
    pub next_hops: NextHops,
    /// Whether the VIPs resolve to a group MAC.
    pub group_mac: bool,
    /// Whether packets to the VIPs come to the NIC's own MAC address.
    pub own_mac: bool,
    /// Whether packets to the VIPs come out of the NIC too, past the TAP.
    pub by_nic: bool,
    /// When workers poll the NIC's queues in place of its interrupts.
    pub polling: Polling,
    /// Replies leave by the TAP and the data plane; `None`: by the NIC, past the data plane.
    pub egress_tap: Option<EgressTap>,
    /// The interface that VIPs may come to be on as [`announced`](crate::announced) puts them there:
    /// none of them is at the start and in the end.
    pub announced_on: Option<String>,
    /// Directory of the state file and its lock; one of the network namespace's own. Made if
    /// missing.
    pub state_dir: PathBuf,
}

/// When workers run the receive side of the NIC's queues themselves, in place of its interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Polling {
    /// They do not.
    #[default]
    Never,
    /// While they are under load: see [`deferral`].
    UnderLoad,
    /// Always: they never sleep.
    Always,
}

/// How the host's replies find the TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressTap {
    /// The routing table that holds the default routes through the TAP, and nothing else.
    pub table: u32,
    /// The priority of the policy rules `from VIP lookup TABLE`: after `local`, before `main`.
    pub priority: u32,
}

impl Default for EgressTap {
    fn default() -> Self {
        Self { table: 7_653, priority: 7_653 }
    }
}

/// What undoing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was put back.
    pub restored: Vec<String>,
    /// What was left as it is, because somebody else changed it since.
    pub left_alone: Vec<String>,
    /// What could not be put back; the state file stays.
    pub failed: Vec<String>,
}

/// The host, set up. Put back by [`restore`](Self::restore), or when this is dropped.
pub struct HostGuard {
    changes: Changes,
    /// Puts interrupts off under load, if that is to be.
    keeper: Option<Keeper>,
    /// None once restored.
    file: Option<StateFile>,
    tap: Link,
}

impl std::fmt::Debug for HostGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostGuard").field("file", &self.file).field("tap", &self.tap).finish()
    }
}

impl HostPlan {
    /// Makes the plan true, after undoing what a killed process left.
    ///
    /// # Errors
    /// When something is refused; then everything that was done is undone, and the TAP is gone.
    pub fn apply(&self) -> Result<HostGuard, HostError> {
        let mut changes = Changes::new()?;
        let nic = Link::read(&self.interface)?;
        let tap = changes.find(&self.tap)?;
        for &(own, _) in &nic.addresses {
            if self.vips.iter().any(|vip| vip.contains(own)) {
                return Err(HostError::VipOnNic { vip: own, interface: nic.name });
            }
            if self.next_hops.contains(own) {
                return Err(HostError::NextHopOnNic { next_hop: own, interface: nic.name });
            }
        }
        let (mut file, left) = StateFile::open(&self.state_dir, &self.interface)?;
        match left {
            Left::Nothing => {}
            Left::Here => {
                let mut report = Report::default();
                changes.undo(&file.state, &mut report);
                report.log();
                if !report.failed.is_empty() {
                    let (interface, failed) = (nic.name, report.failed.join("; "));
                    return Err(HostError::Left { interface, failed });
                }
            }
            // A container that was killed comes back in a new namespace: the old one went with it.
            Left::Elsewhere => tracing::warn!(
                "{} told of changes in network namespace {}, taken to be gone: it is written anew",
                file.path().display(),
                file.namespace()
            ),
        }
        file.begin()?;
        let mut guard = HostGuard { changes, keeper: None, file: Some(file), tap };
        guard.expect_announced(self)?;
        guard.set_nic(self, &nic.name)?;
        guard.silence_others(self)?;
        if self.own_mac {
            guard.add_blackholes(self)?;
        }
        guard.set_tap(self, nic.mtu)?;
        if let Some(egress) = self.egress_tap {
            guard.add_egress(self, egress)?;
        }
        Ok(guard)
    }

    fn has_ipv6(&self) -> bool {
        self.vips.iter().any(|vip| vip.network().is_ipv6())
    }

    /// The TAP's own settings, in the order in which they are made. They go with it.
    fn tap_settings(&self) -> Result<Vec<(Setting, &'static str)>, HostError> {
        let v4 = |key: &str| Setting::new(Area::Ipv4, &self.tap, key);
        let v6 = |key: &str| Setting::new(Area::Ipv6, &self.tap, key);
        // Clients' routes lead to the NIC, not to the TAP: with 1, the kernel would drop all their
        // packets. The larger one of `all` and the TAP counts, so where `all` is not 0 the loose
        // check, 2, is the weakest there is; it takes a route to the client, which replies need
        // as well.
        let filter = Setting::new(Area::Ipv4, "all", "rp_filter");
        let all = filter.read().map_err(|source| failed(&filter, source))?;
        let mut settings =
            vec![(v4("rp_filter"), if all == "0" { "0" } else { "2" }), (v4("forwarding"), "0")];
        if self.has_ipv6() {
            settings.extend([
                (v6("disable_ipv6"), "0"),
                // No link-local address.
                (v6("addr_gen_mode"), "1"),
                (v6("accept_ra"), "0"),
                (v6("autoconf"), "0"),
                (v6("accept_dad"), "0"),
                (v6("dad_transmits"), "0"),
                (v6("forwarding"), "0"),
            ]);
        } else if v6("disable_ipv6").read().is_ok() {
            settings.push((v6("disable_ipv6"), "1"));
        }
        Ok(settings)
    }
}

impl HostGuard {
    /// The TAP, with the MAC address and the MTU that it was given.
    pub fn tap(&self) -> &Link {
        &self.tap
    }

    /// What workers put the NIC's interrupts off by, with [`Polling::UnderLoad`].
    pub fn deferral(&self) -> Option<Deferral> {
        self.keeper.as_ref().map(Keeper::deferral)
    }

    /// Puts the host back: removes the TAP, then everything in the state file, then the file.
    ///
    /// # Errors
    /// When the state file cannot be removed. What could not be put back is in the report.
    pub fn restore(mut self) -> Result<Report, HostError> {
        self.undo()
    }

    fn undo(&mut self) -> Result<Report, HostError> {
        let Some(file) = self.file.take() else { return Ok(Report::default()) };
        // It could change a setting after that was put back.
        self.keeper = None;
        let mut report = Report::default();
        // First the addresses, while the kernel is still told not to answer for them.
        self.changes.remove_tap(&self.tap, &mut report);
        self.changes.undo(&file.state, &mut report);
        report.log();
        if report.failed.is_empty() {
            file.remove()?;
        }
        Ok(report)
    }

    fn file(&mut self) -> &mut StateFile {
        self.file.as_mut().expect("a guard has its state file until it restores")
    }

    /// Keeps book of the VIPs on the interface of a routing daemon, before any is there.
    fn expect_announced(&mut self, plan: &HostPlan) -> Result<(), HostError> {
        let Some(interface) = plan.announced_on.clone() else { return Ok(()) };
        let vips = plan.vips.iter().copied().map(Network).collect();
        let file = self.file();
        file.state.announced = Some(Announced { interface, vips });
        file.save()
    }

    fn set_nic(&mut self, plan: &HostPlan, nic: &str) -> Result<(), HostError> {
        if let Some(&vip) = plan.vips.iter().find(|vip| vip.network().is_ipv6())
            && Setting::new(Area::Ipv6, nic, "disable_ipv6").read().is_err()
        {
            return Err(HostError::NoIpv6 { vip });
        }
        // Any value but 0 keeps the kernel from answering for an address of scope host on another
        // interface, and the larger one of `all` and the NIC counts. A 3 may be that of a vipdp on
        // another interface, and go with it.
        let arp_ignore = Setting::new(Area::Ipv4, nic, "arp_ignore");
        match arp_ignore.read().map_err(|source| failed(&arp_ignore, source))?.as_str() {
            "3" => self.set(&arp_ignore, "1")?,
            _ => self.raise(&arp_ignore, 1)?,
        }
        self.raise(&Setting::new(Area::Ipv4, nic, "arp_announce"), 2)?;
        if plan.group_mac {
            for area in [Area::Ipv4, Area::Ipv6] {
                if area == Area::Ipv4 || plan.has_ipv6() {
                    self.raise(&Setting::new(area, nic, "drop_unicast_in_l2_multicast"), 1)?;
                }
            }
        }
        if plan.by_nic {
            self.loosen_reverse_path(nic)?;
        }
        match plan.polling {
            Polling::Never => {}
            Polling::UnderLoad => self.put_off_under_load(nic)?,
            Polling::Always => {
                for (setting, value) in deferral::settings(nic) {
                    self.set(&setting, value)?;
                }
            }
        }
        Ok(())
    }

    /// Keeps book of what will change under load, before anything does, and starts the thread that changes it.
    fn put_off_under_load(&mut self, nic: &str) -> Result<(), HostError> {
        for (setting, value) in deferral::settings(nic) {
            let original = setting.read().map_err(|source| failed(&setting, source))?;
            if original != value {
                let change = Change { setting, original, ours: value.to_owned() };
                self.file().state.settings.push(change);
            }
        }
        self.file().save()?;
        self.keeper = Some(Keeper::start(nic).map_err(|source| HostError::Thread { source })?);
        Ok(())
    }

    /// Has the host take packets on the NIC from whomever it has any route to, as it does on the TAP: where
    /// it takes all, that stays.
    fn loosen_reverse_path(&mut self, nic: &str) -> Result<(), HostError> {
        const STRICT: u32 = 1;
        let filter = Setting::new(Area::Ipv4, nic, "rp_filter");
        match filter.read_effective().map_err(|source| failed(&filter, source))? {
            STRICT => self.set(&filter, "2"),
            _ => Ok(()),
        }
    }

    /// Keeps the kernel from answering for a VIP, and from asking as one, on the other interfaces.
    fn silence_others(&mut self, plan: &HostPlan) -> Result<(), HostError> {
        let spared = ["all", "default", "lo", &plan.interface, &plan.tap];
        for interface in setting::interfaces()? {
            if spared.contains(&interface.as_str()) {
                continue;
            }
            for (key, value) in [("arp_ignore", 3), ("arp_announce", 1)] {
                match self.raise(&Setting::new(Area::Ipv4, &interface, key), value) {
                    // The interface has gone since.
                    Err(HostError::Setting { source, .. })
                        if source.kind() == io::ErrorKind::NotFound => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }

    /// Keeps the host from routing packets to a VIP when it has no VIP itself.
    fn add_blackholes(&mut self, plan: &HostPlan) -> Result<(), HostError> {
        for network in plan.vips.iter().copied().map(Network) {
            let file = self.file();
            file.state.blackholes.push(network);
            file.save()?;
            if !self.changes.add_blackhole(network)? {
                // It is not ours to remove.
                self.file().state.blackholes.pop();
                self.file().save()?;
                tracing::warn!(
                    vip = %network.0,
                    "the host has a route to this VIP, by which it forwards packets while vipdp \
                     is down"
                );
            }
        }
        Ok(())
    }

    /// Sets a setting unless its effective value is as high already.
    fn raise(&mut self, setting: &Setting, value: u32) -> Result<(), HostError> {
        let effective = setting.read_effective().map_err(|source| failed(setting, source))?;
        if effective >= value { Ok(()) } else { self.set(setting, &value.to_string()) }
    }

    /// Sets a setting that outlives us: first in the state file, then on the host.
    fn set(&mut self, setting: &Setting, value: &str) -> Result<(), HostError> {
        let original = setting.read().map_err(|source| failed(setting, source))?;
        if original == value {
            return Ok(());
        }
        let file = self.file();
        file.state.settings.push(Change {
            setting: setting.clone(),
            original,
            ours: value.to_owned(),
        });
        file.save()?;
        setting.write(value).map_err(|source| failed(setting, source))
    }

    /// Gives the TAP its settings, the state up and the VIPs, in this order.
    fn set_tap(&mut self, plan: &HostPlan, mtu: u32) -> Result<(), HostError> {
        for (setting, value) in plan.tap_settings()? {
            setting.write(value).map_err(|source| failed(&setting, source))?;
        }
        self.changes.set_up_tap(&self.tap, mtu)?;
        let mut on_tap = Vec::new();
        for &vip in &plan.vips {
            on_tap.extend(self.changes.add_vip(self.tap.index, vip)?);
        }
        for address in on_tap {
            self.changes.await_vip(address)?;
        }
        self.tap = Link::read(&plan.tap)?;
        Ok(())
    }

    /// Leads packets from the VIPs to the TAP.
    fn add_egress(&mut self, plan: &HostPlan, egress: EgressTap) -> Result<(), HostError> {
        let mut families: Vec<IpAddr> = Vec::new();
        for vip in plan.vips.iter().map(|vip| vip.network()) {
            if !families.iter().any(|one| one.is_ipv4() == vip.is_ipv4()) {
                families.push(vip);
            }
        }
        for family in families {
            self.changes.add_default_route(family, self.tap.index, egress.table)?;
        }
        for source in plan.vips.iter().copied().map(Network) {
            let rule = Rule { source, table: egress.table, priority: egress.priority };
            let file = self.file();
            file.state.rules.push(rule);
            file.save()?;
            let added = self.changes.add_rule(&rule);
            if let Err(HostError::RuleTaken { .. }) = added {
                // It is not ours to remove.
                self.file().state.rules.pop();
                self.file().save()?;
            }
            added?;
        }
        Ok(())
    }
}

impl Drop for HostGuard {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(%error, "the host is not put back");
        }
    }
}

/// Undoes what a killed vipdp left on the host.
///
/// # Errors
/// When a vipdp serves the interface now, the changes were made in another network namespace, or the state
/// file cannot be read or removed.
pub fn cleanup(state_dir: &Path, interface: &str) -> Result<Report, HostError> {
    let mut report = Report::default();
    if !state_dir.exists() {
        return Ok(report);
    }
    let (file, left) = StateFile::open(state_dir, interface)?;
    match left {
        Left::Nothing => {}
        Left::Here => {
            Changes::new()?.undo(&file.state, &mut report);
            report.log();
        }
        Left::Elsewhere => {
            let (path, namespace) = (file.path().to_owned(), file.namespace().to_owned());
            return Err(HostError::Elsewhere { path, namespace });
        }
    }
    if report.failed.is_empty() {
        file.remove()?;
    }
    Ok(report)
}

fn failed(setting: &Setting, source: io::Error) -> HostError {
    HostError::Setting { setting: setting.to_string(), source }
}

impl Report {
    fn log(&self) {
        for what in &self.restored {
            tracing::info!("put back: {what}");
        }
        for what in &self.left_alone {
            tracing::warn!("left alone: {what}");
        }
        for what in &self.failed {
            tracing::warn!("not put back: {what}");
        }
    }
}
