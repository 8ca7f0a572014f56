//! `vipdp status`, as people and as programs read it.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;
use vipdp::status::{
    AddressStatus, BfdStatus, BgpPeerStatus, DpdkQueueCounts, DpdkStatus, GatewayState,
    KernelCounts, NodeState, RoutesState, RoutesStatus, Status,
};

mod status_example;

/// Snapshots stand below `snapshots/status`, away from those of the configuration's errors.
macro_rules! assert_status_snapshot {
    ($name:literal, $text:expr) => {
        insta::with_settings!({
            snapshot_path => "snapshots/status",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!($name, $text);
        });
    };
}

#[test]
fn people_see_tables_without_what_is_zero() {
    assert_status_snapshot!("human", status_example::status().to_string());
}

#[test]
fn trouble_is_seen() {
    let mut status = status_example::status();
    status.node.state = NodeState::Fenced;
    status.node.willing = false;
    status.node.lease_ms_left = 0;
    status.node.gateway = Some(GatewayState::Unreached);
    status.node.uptime_ms = 42_000;
    status.interface.shared_mac_v4 = Some("01:00:5e:7f:00:35".into());
    status.interface.shared_mac_v6 = Some("33:33:76:64:00:35".into());
    status.interface.queues = 1;
    status.interface.dropped_without_worker = 12;
    status.workers.truncate(1);
    status.workers[0].drops.clear();
    status.workers[0].kernel.rx_ring_full = 0;
    status.heartbeats.send_failed = 9;
    status.heartbeats.rejected.clear();
    status.snapshots.retired = 5;
    assert_status_snapshot!("trouble", status.to_string());
}

#[test]
fn a_node_over_dpdk_shows_what_becomes_of_its_nic() {
    let mut status = status_example::status();
    status.interface.backend = "dpdk".into();
    status.interface.xdp_mode = "none".into();
    status.interface.driver = "net_ice".into();
    status.interface.queues = 1;
    status.interface.dpdk = Some(DpdkStatus {
        devargs: "0000:03:00.0".into(),
        link_up: true,
        speed_mbps: Some(25_000),
        promiscuous: true,
        received: 5_000,
        transmitted: 40,
        imissed: 7,
        ierrors: 0,
        rx_nombuf: 1,
        oerrors: 0,
    });
    status.offload = None;
    status.workers.truncate(1);
    status.workers[0].kernel = KernelCounts::default();
    (status.workers[0].to_nic_host, status.workers[0].from_nic_host) = (988, 28);
    status.workers[0].dpdk = Some(DpdkQueueCounts { unusable: 0, bad_checksum: 3, tx_refused: 2 });
    assert_status_snapshot!("dpdk", status.to_string());
    status.interface.dpdk.as_mut().unwrap().link_up = false;
    assert!(status.to_string().contains("\nlink down, promiscuous\n"));
}

#[test]
fn a_node_of_the_tiered_mode_shows_its_next_hops() {
    let mut status = status_example::status();
    status.node.mode = "tiered".into();
    status.vips = vec!["198.51.100.0/24".into(), "2001:db8:80::/64".into()];
    (status.interface.shared_mac_v4, status.interface.shared_mac_v6) = (None, None);
    status.offload = None;
    let owner = |number: u16| (!number.is_multiple_of(7)).then_some((number % 2) as u8);
    status.addresses = (0..60)
        .map(|number| AddressStatus {
            index: number,
            ip4: Some(Ipv4Addr::new(10, 0, 0, 64 + number as u8)),
            ip6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, number)),
            mac: Some(format!("02:76:00:35:00:{number:02x}")),
            owner: owner(number),
        })
        .collect();
    status.buckets.owners = (0..60).map(owner).collect();
    let count = |of| status.buckets.owners.iter().filter(|&&owner| owner == of).count() as u32;
    (status.buckets.owned, status.buckets.unowned) = (count(Some(0)), count(None));
    for member in &mut status.members {
        member.buckets = count(Some(member.slot));
    }
    assert_status_snapshot!("tiered", status.to_string());
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["addresses"][7]["owner"], Value::Null);
    let last = serde_json::json!({
        "index": 59, "ip4": "10.0.0.123", "ip6": "fd00::1:3b", "mac": "02:76:00:35:00:3b", "owner": 1,
    });
    assert_eq!(json["addresses"][59], last);
}

fn peer(name: &str, state: &str, error: Option<&str>) -> BgpPeerStatus {
    let up = state == "Established";
    BgpPeerStatus {
        name: name.into(),
        remote: up.then(|| "[fe80::1]:179".into()),
        remote_as: up.then_some(65001),
        state: state.into(),
        since_ms: 93_000_000,
        announced_v4: u64::from(up),
        announced_v6: u64::from(up),
        hold_s: up.then_some(9),
        established: 2,
        dropped: if up { 1 } else { 2 },
        updates_in: 7,
        last_error: error.map(str::to_owned),
        last_error_ms: up.then_some(93_000_000),
        bfd: up.then(|| BfdStatus {
            state: "up".into(),
            since_ms: 93_000_000,
            diagnostic: "no diagnostic".into(),
            detection_ms: 900,
            rejected: 0,
        }),
    }
}

/// Routes that a drained node is about to withdraw.
fn routes() -> RoutesStatus {
    RoutesStatus {
        by: "bgp".into(),
        state: RoutesState::Marked,
        reason: Some("the node is drained".into()),
        peers: vec![
            peer("eth0", "Established", Some("received Cease, Administrative Shutdown")),
            peer("10.1.2.1", "Active", Some("connection refused")),
        ],
    }
}

#[test]
fn a_node_of_the_anycast_mode_shows_its_routes_and_peers() {
    let mut status = status_example::status();
    status.node.mode = "anycast".into();
    (status.interface.shared_mac_v4, status.interface.shared_mac_v6) = (None, None);
    status.offload = None;
    (status.node.willing, status.node.all_down) = (false, true);
    status.routes = Some(routes());
    assert_status_snapshot!("anycast", status.to_string());
    let json = serde_json::to_string_pretty(&status.routes).unwrap();
    assert_status_snapshot!("anycast_json", json);
}

/// Programs rely on every name and type in this snapshot: see the rules in `vipdp::status`.
#[test]
fn programs_see_stable_names() {
    let status = status_example::status();
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["buckets"]["owners"].as_array().unwrap().len(), 4096);
    assert_eq!(json["buckets"]["owners"][2000], Value::Null);
    assert_eq!(serde_json::from_value::<Status>(json.clone()).unwrap(), status);

    let mut shown = json;
    shown["buckets"]["owners"].as_array_mut().unwrap().truncate(1);
    shown["workers"].as_array_mut().unwrap().truncate(1);
    shown["members"].as_array_mut().unwrap().truncate(2);
    assert_status_snapshot!("json", serde_json::to_string_pretty(&shown).unwrap());
}
