//! A running node that loses the NIC which DPDK has. Needs root, and no huge pages.
#![cfg(feature = "dpdk")]

mod alone;

use std::process::Output;

use alone::{Node, ip, run};

/// What has DPDK have the NIC.
const IO: &str = "[io]\nbackend = \"dpdk\"\ndevargs = \"net_af_packet0,iface=phy0\"\nqueues = 1\nhugepages = false\n";

/// A namespace with `phy0`, one end of a cable, which DPDK is to have, and the TAP `eth0` in its place; removed when
/// dropped.
struct Host(String);

impl Host {
    fn new() -> Self {
        let host = Self(format!("vdl-{}", std::process::id()));
        ip(&format!("netns add {}", host.0));
        for line in [
            "link add phy0 type veth peer name peer0",
            "link set peer0 up",
            "link set phy0 up",
            "tuntap add dev eth0 mode tap multi_queue vnet_hdr",
            "address add 192.0.2.11/24 dev eth0",
            "link set eth0 up",
        ] {
            ip(&format!("-n {} {line}", host.0));
        }
        host
    }

    fn ip(&self, line: &str) -> Output {
        run(&format!("-n {} {line}", self.0))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // One that was never made cannot be removed, which is as good.
        let _ = run(&format!("netns del {}", self.0));
    }
}

#[test]
fn a_node_that_loses_its_nic_ends_in_order_with_an_error() {
    let host = Host::new();
    let (node, _) = Node::start(&host.0, 79, IO);

    assert!(host.ip("link delete phy0").status.success());
    let (ended, said) = node.end();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.ends_with("vipdp: the NIC is gone, or another driver has it\n"), "{said}");
    assert!(!host.ip("link show vipdp0").status.success(), "the host is put back: {said}");
    let tap = String::from_utf8(host.ip("link show eth0").stdout).expect("names");
    assert!(!tap.is_empty() && !tap.contains("LOWER_UP"), "its TAP has no carrier: {tap}");
}
