//! `vipdp status`, as people and as programs read it.

use serde_json::Value;
use vipdp::status::{GatewayState, NodeState, Status};

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
    status.workers.truncate(1);
    status.workers[0].drops.clear();
    status.workers[0].kernel.rx_ring_full = 0;
    status.heartbeats.send_failed = 9;
    status.heartbeats.rejected.clear();
    status.snapshots.retired = 5;
    assert_status_snapshot!("trouble", status.to_string());
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
