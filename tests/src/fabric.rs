//! What the routers of the anycast mode's fabric know of the VIPs.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::lab::{ANYCAST_VIPS, Lab};

/// The spines.
pub const SPINES: [&str; 2] = ["spine1", "spine2"];

/// The interfaces by which a router sends to the VIPs: to the IPv4 one, and to the IPv6 one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways([BTreeSet<String>; 2]);

#[derive(Deserialize)]
struct Route {
    #[serde(flatten)]
    one: Hop,
    #[serde(default)]
    nexthops: Vec<Hop>,
}

#[derive(Deserialize)]
struct Hop {
    dev: Option<String>,
}

impl Ways {
    /// What the router's kernel has, from BGP.
    #[track_caller]
    pub fn of(lab: &Lab, router: &str) -> Self {
        Self(ANYCAST_VIPS.map(|vip| {
            let family = if vip.is_ipv4() { "-4" } else { "-6" };
            let line = format!("ip {family} -j route show {vip} proto bgp");
            let said = lab.namespace(router).run(&line);
            let routes: Vec<Route> = serde_json::from_str(&said).expect("ip prints JSON");
            let hops = routes.into_iter().flat_map(|route| [vec![route.one], route.nexthops]);
            hops.flatten().filter_map(|hop| hop.dev).collect()
        }))
    }

    /// Whether these are all the ways, for both families.
    pub fn are(&self, interfaces: &[&str]) -> bool {
        self.0.iter().all(|ways| ways.iter().eq(interfaces.iter().copied()))
    }
}

impl Lab {
    /// Whether the kernel of every spine sends to the VIPs by just these leaves, named in order.
    #[track_caller]
    pub fn spines_use(&self, leaves: &[&str]) -> bool {
        SPINES.iter().all(|spine| Ways::of(self, spine).are(leaves))
    }
}
