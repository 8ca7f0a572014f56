//! A running node whose NIC gets more receive queues than it has workers.

mod alone;

use alone::{Node, ip, run};

/// The ends of a cable, a namespace each; removed when dropped.
struct Cable {
    node: String,
    peer: String,
}

impl Cable {
    fn new() -> Self {
        let name = |end: &str| format!("vdrx-{}-{end}", std::process::id());
        let cable = Self { node: name("node"), peer: name("peer") };
        let Self { node, peer } = &cable;
        ip(&format!("netns add {node}"));
        ip(&format!("netns add {peer}"));
        ip(&format!(
            "link add eth0 netns {node} numrxqueues 2 numtxqueues 1 type veth peer name eth0 netns {peer}"
        ));
        cable.in_node("ethtool -L eth0 rx 1");
        for (namespace, address) in [(node, "192.0.2.11/24"), (peer, "192.0.2.1/24")] {
            ip(&format!("-n {namespace} address add {address} dev eth0"));
            ip(&format!("-n {namespace} link set eth0 up"));
        }
        cable
    }

    fn in_node(&self, line: &str) {
        ip(&format!("netns exec {} {line}", self.node));
    }

    fn node_has(&self, interface: &str) -> bool {
        run(&format!("-n {} link show {interface}", self.node)).status.success()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.peer] {
            // One that was never made cannot be removed, which is as good.
            let _ = run(&format!("netns del {namespace}"));
        }
    }
}

#[test]
fn a_node_with_too_few_workers_ends_in_order_with_an_error() {
    let cable = Cable::new();
    let (node, before) = Node::start(&cable.node, 78, "");
    assert_eq!((before.interface.queues, before.interface.dropped_without_worker), (1, 0));

    cable.in_node("ethtool -L eth0 rx 2");
    let (ended, said) = node.end();
    assert_eq!(ended.code(), Some(1), "{said}");
    for part in ["eth0 has 2 receive queues now, of which 1 have a worker", "handing over"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!cable.node_has("vipdp0"), "the host is put back: {said}");
}
