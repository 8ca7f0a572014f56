//! A status with something in every field.

use vipdp::status::*;
use vipdp_core::bucket::BUCKETS;

fn counts(named: &[(&str, u64)]) -> Counts {
    named.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

fn member(slot: u8, state: MemberState, buckets: u32, last_heard_ms: Option<u64>) -> MemberStatus {
    let seen = state != MemberState::Unseen;
    MemberStatus {
        slot,
        name: format!("n{}", slot + 1),
        state,
        share: if seen { 255 } else { 0 },
        buckets,
        address: Some([192, 0, 2, 11 + slot].into()),
        mac: seen.then(|| format!("02:00:00:00:00:{:02x}", slot + 1)),
        last_heard_ms,
    }
}

fn worker(queue: u32, rx: u64, core: Option<u32>) -> WorkerStatus {
    WorkerStatus {
        queue,
        core,
        zero_copy: queue == 0,
        turns: 10 * rx,
        rx,
        tx: 12,
        from_host: rx / 2,
        from_host_cut: rx / 1000,
        from_host_whole: rx / 4,
        to_nic_host: 0,
        from_nic_host: 0,
        pass_coalesced: rx / 8,
        super_packets: rx / 32,
        flows_inserted: 21,
        flows_evicted: 1,
        verdicts: VerdictCounts { pass: rx / 4, reply_arp: 7, reply_na: 5, forward: 0, drop: 3002 },
        drops: counts(&[
            ("not_owner", 3000),
            ("no_flow", 2),
            ("host_full", 0),
            ("ipv4_checksum", 0),
        ]),
        kernel: KernelCounts {
            rx_ring_full: 3,
            tx_ring_empty_descs: 1000,
            ..KernelCounts::default()
        },
        dpdk: None,
    }
}

fn check(name: &str, kind: &str, state: CheckState, error: Option<&str>) -> CheckStatus {
    let (well, ill) = if error.is_some() { (900, 34) } else { (93_780, 0) };
    CheckStatus {
        name: name.into(),
        kind: kind.into(),
        state,
        since_ms: if error.is_some() { 12_000 } else { 93_782_000 },
        suppressed_ms_left: if error.is_some() { 83_000 } else { 0 },
        penalty: if error.is_some() { 2612 } else { 0 },
        well,
        ill,
        falls: if error.is_some() { 3 } else { 0 },
        took_us: 1204,
        last_error: error.map(str::to_owned),
        last_error_ms: error.map(|_| 9_000),
    }
}

/// Node n1 of four: n3 is gone, n4 was never there, and 100 buckets are still nobody's.
pub fn status() -> Status {
    let owner = |bucket: usize| match bucket {
        0..2000 => Some(0),
        2000..2100 => None,
        _ => Some(1),
    };
    Status {
        format: FORMAT,
        node: NodeStatus {
            name: "n1".into(),
            slot: 0,
            version: "0.1.0".into(),
            uptime_ms: 93_784_000,
            state: NodeState::Active,
            willing: true,
            all_down: false,
            lease_ms_left: 187,
            gateway: Some(GatewayState::Reached),
            mode: "shared-mac".into(),
            cluster_id: 53,
            generation: 1,
            staged_generation: Some(2),
            config_hash: "00112233".into(),
        },
        members: vec![
            member(0, MemberState::Own, 2000, None),
            member(1, MemberState::Alive, 1996, Some(12)),
            member(2, MemberState::Dead, 0, Some(63_000)),
            member(3, MemberState::Unseen, 0, None),
        ],
        buckets: BucketStatus {
            owned: 2000,
            unowned: 100,
            owners: (0..BUCKETS).map(owner).collect(),
        },
        addresses: Vec::new(),
        routes: None,
        vips: vec!["192.0.2.53".into(), "2001:db8:53::53".into()],
        checks: vec![
            check("dns", "dns", CheckState::Up, None),
            check("web", "http", CheckState::Suppressed, Some("status 503")),
        ],
        interface: InterfaceStatus {
            name: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
            shared_mac_v4: Some("02:00:5e:00:00:35".into()),
            shared_mac_v6: Some("02:00:5e:00:00:35".into()),
            driver: "ice".into(),
            backend: "af_xdp".into(),
            xdp_mode: "native".into(),
            queues: 2,
            dropped_without_worker: 0,
            tap: "vipdp0".into(),
            dpdk: None,
        },
        offload: Some(OffloadStatus {
            mode: "full".into(),
            dropped_by_offload: 3_000_000_007,
            passed_by_offload: 1_000_000_003,
        }),
        workers: vec![worker(0, 4012, Some(2)), worker(1, 1_000_004_012, None)],
        flows: FlowStatus {
            capacity: 1 << 20,
            states: counts(&[("established", 30), ("new", 10), ("closing", 0)]),
        },
        heartbeats: HeartbeatStatus {
            sent: 1_875_680,
            send_failed: 0,
            received: 1_875_600,
            rejected: counts(&[("mac", 17), ("replay", 3), ("truncated", 0)]),
        },
        snapshots: SnapshotStatus { generation: 42, retired: 1 },
        admin: AdminStatus::default(),
    }
}
