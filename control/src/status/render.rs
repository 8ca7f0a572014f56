//! The status as an operator reads it: one screen, widths that fit, no line for what is zero.

use std::fmt::{self, Display, Write};

use super::{
    AddressStatus, BgpPeerStatus, CheckState, CheckStatus, Counts, DpdkQueueCounts, DpdkStatus,
    GatewayState, KernelCounts, MemberState, MemberStatus, NodeState, RoutesState, Status,
    WorkerStatus,
};

/// How many of its own next-hop addresses a node shows to people.
const ADDRESSES_SHOWN: usize = 20;

/// How much of a check's last error is shown to people, characters.
const ERROR_SHOWN: usize = 80;

impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.render_node(f)?;
        self.render_members(f)?;
        self.render_addresses(f)?;
        self.render_routes(f)?;
        self.render_checks(f)?;
        self.render_interface(f)?;
        self.render_workers(f)?;
        self.render_totals(f)
    }
}

impl Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Listen => "listen",
            Self::Active => "active",
            Self::Fenced => "fenced",
            Self::Draining => "draining",
        })
    }
}

impl Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Own => "self",
            Self::Alive => "alive",
            Self::Relayed => "relayed",
            Self::Dead => "dead",
            Self::Unseen => "unseen",
        })
    }
}

impl Display for CheckState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
            Self::Suppressed => "suppressed",
        })
    }
}

impl Display for RoutesState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Announced => "announced",
            Self::Marked => "marked",
            Self::Withdrawn => "withdrawn",
        })
    }
}

impl Status {
    fn render_node(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = &self.node;
        let willing = match (node.willing, node.all_down) {
            (true, _) => "willing",
            (false, true) => "not willing, as nobody is",
            (false, false) => "not willing",
        };
        let lease = match node.lease_ms_left {
            0 => "no lease".to_owned(),
            ms => format!("lease {ms} ms"),
        };
        let (name, slot, state) = (&node.name, node.slot, node.state);
        let gateway = match node.gateway {
            None => "",
            Some(GatewayState::Reached) => ", gateway reached",
            Some(GatewayState::Unreached) => ", gateway unreached",
        };
        writeln!(f, "{name} (slot {slot}): {state}, {willing}, {lease}{gateway}")?;
        let uptime = duration(node.uptime_ms);
        writeln!(f, "vipdp {}, up {uptime}", node.version)?;
        let staged = match node.staged_generation {
            Some(staged) => format!(" ({staged} staged)"),
            None => String::new(),
        };
        writeln!(
            f,
            "cluster {}, mode {}, generation {}{staged}, hash {}",
            node.cluster_id, node.mode, node.generation, node.config_hash
        )?;
        writeln!(f, "VIPs {}", self.vips.join(", "))
    }

    fn render_members(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.buckets.owners.len();
        let mut table = Table::new(&[
            ("SLOT", Align::Right),
            ("MEMBER", Align::Left),
            ("STATE", Align::Left),
            ("SHARE", Align::Right),
            (if self.is_tiered() { "ADDRESSES" } else { "BUCKETS" }, Align::Right),
            ("OF ALL", Align::Right),
            ("HEARD", Align::Right),
            ("ADDRESS", Align::Left),
            ("MAC", Align::Left),
        ]);
        for member in &self.members {
            table.row(member_cells(member, all));
        }
        write!(f, "\n{table}")?;
        let (owned, unowned) = (self.buckets.owned, self.buckets.unowned);
        let what = if self.is_tiered() { "addresses" } else { "buckets" };
        writeln!(f, "{owned} of {all} {what} are this node's, {unowned} nobody's")
    }

    /// Whether buckets are next-hop addresses.
    fn is_tiered(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// This node's next-hop addresses, as many as fit a screen.
    fn render_addresses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = |address: &&AddressStatus| address.owner == Some(self.node.slot);
        let own: Vec<_> = self.addresses.iter().filter(own).collect();
        if own.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&[
            ("NUMBER", Align::Right),
            ("NEXT HOP", Align::Left),
            ("", Align::Left),
            ("MAC", Align::Left),
        ]);
        for address in own.iter().take(ADDRESSES_SHOWN) {
            table.row(vec![
                address.index.to_string(),
                address.ip4.map_or_else(String::new, |ip| ip.to_string()),
                address.ip6.map_or_else(String::new, |ip| ip.to_string()),
                address.mac.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        write!(f, "\n{table}")?;
        match own.len().saturating_sub(ADDRESSES_SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "and {more} more: --json lists all"),
        }
    }

    fn render_checks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.checks.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&[
            ("CHECK", Align::Left),
            ("KIND", Align::Left),
            ("STATE", Align::Left),
            ("SINCE", Align::Right),
            ("WELL", Align::Right),
            ("ILL", Align::Right),
            ("FALLS", Align::Right),
            ("TOOK", Align::Right),
            ("LAST ERROR", Align::Left),
        ]);
        for check in &self.checks {
            table.row(check_cells(check));
        }
        write!(f, "\n{table}")
    }

    fn render_routes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(routes) = &self.routes else { return Ok(()) };
        let reason = routes.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        writeln!(f, "\nroutes by {}: {}{reason}", routes.by, routes.state)?;
        if routes.peers.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&[
            ("PEER", Align::Left),
            ("AS", Align::Right),
            ("BGP", Align::Left),
            ("FOR", Align::Left),
            ("IPV4", Align::Right),
            ("IPV6", Align::Right),
            ("DROPPED", Align::Right),
            ("BFD", Align::Left),
            ("LAST ERROR", Align::Left),
        ]);
        for peer in &routes.peers {
            table.row(peer_cells(peer));
        }
        write!(f, "{table}")
    }

    fn render_interface(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interface = &self.interface;
        writeln!(
            f,
            "\ninterface {} ({}, driver {}, {}, {}), host side {}",
            interface.name,
            interface.mac,
            interface.driver,
            match &interface.dpdk {
                None => format!("XDP {}", interface.xdp_mode),
                Some(dpdk) => format!("DPDK {}", dpdk.devargs),
            },
            plural(u64::from(interface.queues), "queue"),
            interface.tap
        )?;
        if let Some(dpdk) = &interface.dpdk {
            let link = match (dpdk.link_up, dpdk.speed_mbps) {
                (false, _) => "down".to_owned(),
                (true, None) => "up".to_owned(),
                (true, Some(mbps)) => format!("up, {mbps} Mb/s"),
            };
            let filter = if dpdk.promiscuous { ", promiscuous" } else { "" };
            writeln!(f, "link {link}{filter}")?;
        }
        if interface.dropped_without_worker > 0 {
            let packets = plural(interface.dropped_without_worker, "packet");
            writeln!(f, "{packets} to the VIPs dropped by queues without a worker")?;
        }
        let (v4, v6) = (&interface.shared_mac_v4, &interface.shared_mac_v6);
        match (v4, v6) {
            (Some(v4), Some(v6)) if v4 == v6 => writeln!(f, "shared MAC {v4}")?,
            (Some(v4), Some(v6)) => writeln!(f, "shared MAC {v4} (IPv4), {v6} (IPv6)")?,
            _ => {}
        }
        let Some(offload) = &self.offload else { return Ok(()) };
        let (dropped, passed) = (offload.dropped_by_offload, offload.passed_by_offload);
        writeln!(f, "offload {}: {dropped} dropped, {passed} passed", offload.mode)
    }

    fn render_workers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            ("QUEUE", Align::Right),
            ("CORE", Align::Right),
            ("MEMORY", Align::Left),
            ("RX", Align::Right),
            ("TX", Align::Right),
            ("PASS", Align::Right),
            ("FORWARD", Align::Right),
            ("ARP", Align::Right),
            ("NA", Align::Right),
            ("DROP", Align::Right),
            ("FROM HOST", Align::Right),
        ]);
        for worker in &self.workers {
            table.row(worker_cells(worker));
        }
        write!(f, "\n{table}")
    }

    fn render_totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = |of: fn(&WorkerStatus) -> u64| self.workers.iter().map(of).sum::<u64>();
        let coalesced = total(|worker| worker.pass_coalesced);
        let super_packets = total(|worker| worker.super_packets);
        if super_packets > 0 {
            let super_packets = plural(super_packets, "super-packet");
            writeln!(f, "of PASS, {coalesced} frames in {super_packets}")?;
        }
        let (to, from) = (total(|worker| worker.to_nic_host), total(|worker| worker.from_nic_host));
        if self.interface.dpdk.is_some() {
            writeln!(f, "beside the service, {to} frames to the host and {from} from it")?;
        }
        let (cut, whole) =
            (total(|worker| worker.from_host_cut), total(|worker| worker.from_host_whole));
        if cut + whole > 0 {
            let super_packets = plural(cut + whole, "super-packet");
            writeln!(f, "of FROM HOST, {super_packets}, of which the worker cut {cut}")?;
        }
        let drops = sum(self.workers.iter().map(|worker| &worker.drops));
        render_counts(f, "dropped", &drops)?;
        let kernel: Vec<_> = self.workers.iter().map(|worker| kernel(&worker.kernel)).collect();
        render_counts(f, "the kernel at the sockets", &sum(kernel.iter()))?;
        let ports: Vec<_> =
            self.workers.iter().filter_map(|worker| worker.dpdk).map(at_port).collect();
        render_counts(f, "DPDK at the ports", &sum(ports.iter()))?;
        let nic = self.interface.dpdk.as_ref().map(at_nic).unwrap_or_default();
        render_counts(f, "the NIC", &nic)?;

        let used: u64 = self.flows.states.values().sum();
        writeln!(
            f,
            "\nflows {used} of {}{}",
            self.flows.capacity,
            in_brackets(&self.flows.states)
        )?;
        let heartbeats = &self.heartbeats;
        let failed = match heartbeats.send_failed {
            0 => String::new(),
            failed => format!(", {failed} not sent"),
        };
        let (sent, received) = (heartbeats.sent, heartbeats.received);
        writeln!(f, "heartbeats {sent} sent{failed}, {received} received")?;
        render_counts(f, "heartbeats rejected", &heartbeats.rejected)?;
        if self.snapshots.retired > 1 {
            let retired = self.snapshots.retired;
            writeln!(f, "{retired} retired snapshots are still read: a worker stands still")?;
        }
        Ok(())
    }
}

fn member_cells(member: &MemberStatus, buckets: usize) -> Vec<String> {
    let dash = || "-".to_owned();
    let thousandths = u64::from(member.buckets) * 1000 / (buckets.max(1) as u64);
    vec![
        member.slot.to_string(),
        member.name.clone(),
        member.state.to_string(),
        format!("{}%", u32::from(member.share) * 100 / 255),
        member.buckets.to_string(),
        format!("{}.{}%", thousandths / 10, thousandths % 10),
        member.last_heard_ms.map_or_else(dash, |ms| match ms {
            0..10_000 => format!("{ms} ms"),
            _ => duration(ms),
        }),
        member.address.map_or_else(dash, |address| address.to_string()),
        member.mac.clone().unwrap_or_else(dash),
    ]
}

fn peer_cells(peer: &BgpPeerStatus) -> Vec<String> {
    let dash = || "-".to_owned();
    let bfd = peer.bfd.as_ref().map_or_else(dash, |bfd| match bfd.state.as_str() {
        "up" => format!("up, {} ms", bfd.detection_ms),
        state => state.to_owned(),
    });
    vec![
        peer.name.clone(),
        peer.remote_as.map_or_else(dash, |number| number.to_string()),
        peer.state.clone(),
        duration(peer.since_ms),
        peer.announced_v4.to_string(),
        peer.announced_v6.to_string(),
        peer.dropped.to_string(),
        bfd,
        last_error(peer.last_error.as_deref(), peer.last_error_ms),
    ]
}

/// An error as it is shown to people, with its age.
fn last_error(error: Option<&str>, age_ms: Option<u64>) -> String {
    let Some(error) = error else { return "-".to_owned() };
    let age = age_ms.map_or_else(String::new, |ms| format!("{} ago: ", duration(ms)));
    let shown: String = error.chars().take(ERROR_SHOWN).collect();
    let more = if shown.len() < error.len() { "..." } else { "" };
    format!("{age}{shown}{more}")
}

fn check_cells(check: &CheckStatus) -> Vec<String> {
    let state = match check.suppressed_ms_left {
        0 => check.state.to_string(),
        ms => format!("{}, {} left", check.state, duration(ms)),
    };
    vec![
        check.name.clone(),
        check.kind.clone(),
        state,
        duration(check.since_ms),
        check.well.to_string(),
        check.ill.to_string(),
        check.falls.to_string(),
        format!("{} ms", check.took_us.div_ceil(1000)),
        last_error(check.last_error.as_deref(), check.last_error_ms),
    ]
}

fn worker_cells(worker: &WorkerStatus) -> Vec<String> {
    let verdicts = &worker.verdicts;
    let counts = [
        worker.rx,
        worker.tx,
        verdicts.pass,
        verdicts.forward,
        verdicts.reply_arp,
        verdicts.reply_na,
        verdicts.drop,
        worker.from_host,
    ];
    let mut cells = vec![
        worker.queue.to_string(),
        worker.core.map_or_else(|| "-".into(), |core| core.to_string()),
        if worker.zero_copy { "shared" } else { "copied" }.to_owned(),
    ];
    cells.extend(counts.map(|count| count.to_string()));
    cells
}

fn kernel(counts: &KernelCounts) -> Counts {
    // The kernel counts an empty transmit ring each time it looks: no sign of trouble.
    named([
        ("rx_dropped", counts.rx_dropped),
        ("rx_fill_ring_empty_descs", counts.rx_fill_ring_empty_descs),
        ("rx_invalid_descs", counts.rx_invalid_descs),
        ("rx_ring_full", counts.rx_ring_full),
        ("tx_invalid_descs", counts.tx_invalid_descs),
    ])
}

fn named<const N: usize>(counts: [(&str, u64); N]) -> Counts {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

fn at_port(counts: DpdkQueueCounts) -> Counts {
    let DpdkQueueCounts { unusable, bad_checksum, tx_refused } = counts;
    named([("unusable", unusable), ("bad_checksum", bad_checksum), ("tx_refused", tx_refused)])
}

fn at_nic(nic: &DpdkStatus) -> Counts {
    named([
        ("imissed", nic.imissed),
        ("ierrors", nic.ierrors),
        ("rx_nombuf", nic.rx_nombuf),
        ("oerrors", nic.oerrors),
    ])
}

fn sum<'a>(maps: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut total = Counts::new();
    for (name, count) in maps.flatten() {
        *total.entry(name.clone()).or_default() += count;
    }
    total
}

/// The counts that are not zero, largest first, one per line.
fn render_counts(f: &mut fmt::Formatter<'_>, title: &str, counts: &Counts) -> fmt::Result {
    let mut shown: Vec<_> = counts.iter().filter(|(_, count)| **count != 0).collect();
    if shown.is_empty() {
        return Ok(());
    }
    shown.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    writeln!(f, "\n{title}")?;
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let digits = shown[0].1.to_string().len();
    for (name, count) in shown {
        writeln!(f, "  {name:width$}  {count:digits$}")?;
    }
    Ok(())
}

/// The counts that are not zero, as in ` (open 1, closing 2)`.
fn in_brackets(counts: &Counts) -> String {
    let shown: Vec<_> = counts
        .iter()
        .filter(|(_, count)| **count != 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if shown.is_empty() { String::new() } else { format!(" ({})", shown.join(", ")) }
}

fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The two largest units that are not zero.
fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let units = [
        ("d", seconds / 86_400),
        ("h", seconds / 3600 % 24),
        ("min", seconds / 60 % 60),
        ("s", seconds % 60),
    ];
    let start = units.iter().position(|(_, count)| *count != 0).unwrap_or(3);
    let shown: Vec<_> =
        units[start..].iter().take(2).map(|(unit, count)| format!("{count} {unit}")).collect();
    shown.join(" ")
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

/// Columns as wide as their widest cell, two spaces apart.
struct Table {
    columns: Vec<(Align, usize)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(headers: &[(&str, Align)]) -> Self {
        let columns = headers.iter().map(|&(_, align)| (align, 0)).collect();
        let mut table = Self { columns, rows: Vec::new() };
        table.row(headers.iter().map(|(header, _)| (*header).to_owned()).collect());
        table
    }

    fn row(&mut self, cells: Vec<String>) {
        for ((_, width), cell) in self.columns.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(cells);
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let mut line = String::new();
            for (&(align, width), cell) in self.columns.iter().zip(row) {
                match align {
                    Align::Left => write!(line, "{cell:<width$}  ")?,
                    Align::Right => write!(line, "{cell:>width$}  ")?,
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
