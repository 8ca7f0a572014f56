//! `announce`: how a node tells the network that it serves the VIPs, in the anycast mode.

use std::time::Duration;

use super::bgp::{self, BgpConfig};
use super::cluster::ClusterRead;
use super::ingress::Kind;
use super::node::{self, InterfaceName};
use super::reader::{Errors, Located, Place, Section};

/// How a node tells the network that it serves the VIPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceConfig {
    /// By what means.
    pub by: AnnounceBy,
    /// How long it serves on after a withdrawal, until no router sends to it any more.
    pub withdraw: Duration,
}

/// By what means the network is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnnounceBy {
    /// The VIPs are on this interface while they are to be announced: a routing daemon beside
    /// vipdp redistributes connected routes.
    Interface(InterfaceName),
    /// By vipdp's own BGP speaker.
    Bgp(Box<BgpConfig>),
}

impl AnnounceBy {
    /// Its name in the configuration and in the status.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Interface(_) => "interface",
            Self::Bgp(_) => "bgp",
        }
    }
}

/// What was read, for what the cluster's file says of it.
pub(super) struct AnnounceRead<'s> {
    /// The contents; `None` if they are wrong or not there.
    pub(super) config: Option<AnnounceConfig>,
    /// Where `announce` stands; `None` if it is not there or cannot be read.
    place: Option<Place<'s>>,
    /// Whether it is there and cannot be read.
    unreadable: bool,
    /// The keys that are there and mean nothing without it.
    beside: Vec<Place<'s>>,
    /// The node's file, for what is missing in it.
    file: Place<'s>,
    /// Where a password stands, if there is one.
    pub(super) secret: Option<Place<'s>>,
    /// The interface to put VIPs on, if it is given.
    interface: Option<Located<'s, InterfaceName>>,
    /// The addresses that are not this cluster's: of peers and next hops.
    others: Vec<Located<'s, std::net::IpAddr>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    Interface,
    Bgp,
}

const INTERFACE_DEFAULT: &str = "lo";
const WITHDRAW_MS_DEFAULT: u64 = 2000;
const WITHDRAW_MS: std::ops::RangeInclusive<u64> = 0..=30_000;

/// Reads `announce` and what belongs to it.
pub(super) fn read<'s>(section: &mut Section<'s>, errors: &mut Errors) -> AnnounceRead<'s> {
    let before = errors.len();
    let means = section.optional("announce", errors, |f| {
        f.choice(&[("bgp", Means::Bgp), ("interface", Means::Interface)])
    });
    let unreadable = errors.len() > before;
    let interface = section.optional("announce_interface", errors, node::interface);
    let withdraw = section
        .optional("withdraw_ms", errors, |f| f.integer(WITHDRAW_MS, "a number of milliseconds"));
    let has_table = section.has("bgp");
    let table = section.table("bgp", errors);
    let table_place = table.as_ref().map(|table| table.place.clone());
    let bgp = table.map(|table| bgp::read(table, errors));
    let beside = [
        interface.as_ref().map(|it| it.place.clone()),
        withdraw.as_ref().map(|it| it.place.clone()),
        table_place.clone(),
    ];
    let withdraw = Duration::from_millis(withdraw.map_or(WITHDRAW_MS_DEFAULT, |it| it.value));
    let unfit = |place: &Place<'_>, beside: &str, belongs: &str| {
        let found = format!("this beside announce = \"{beside}\"");
        place.error_found(found, format!("remove it, or give announce = \"{belongs}\""))
    };
    let (secret, others, bgp) =
        bgp.map_or((None, Vec::new(), None), |bgp| (bgp.secret, bgp.addresses, bgp.config));
    let by = match &means {
        Some(Located { value: Means::Interface, .. }) => {
            if let Some(place) = &table_place {
                errors.push(unfit(place, "interface", "bgp"));
            }
            let default = || INTERFACE_DEFAULT.parse().expect("a name that the kernel gives");
            let name = interface.as_ref().map(|interface| interface.value.clone());
            Some(AnnounceBy::Interface(name.unwrap_or_else(default)))
        }
        Some(Located { value: Means::Bgp, place }) => {
            if let Some(interface) = &interface {
                errors.push(unfit(&interface.place, "bgp", "interface"));
            }
            if !has_table {
                let remedy = "add the table [bgp] with as = 65011, router_id = \"10.0.0.11\", and a \
                              [[bgp.peer]]";
                errors.push(place.error(" without [bgp]", remedy));
            }
            bgp.map(|bgp| AnnounceBy::Bgp(Box::new(bgp)))
        }
        None => None,
    };
    AnnounceRead {
        config: by.map(|by| AnnounceConfig { by, withdraw }),
        place: means.map(|it| it.place),
        // What is said of keys beside one that cannot be read would mislead.
        beside: if unreadable { Vec::new() } else { beside.into_iter().flatten().collect() },
        unreadable,
        file: section.place.clone(),
        secret,
        interface,
        others,
    }
}

/// The host has the VIPs on the TAP all the time, announced or not.
pub(super) fn check_tap(read: &AnnounceRead<'_>, tap: &InterfaceName, errors: &mut Errors) {
    if let Some(interface) = read.interface.as_ref().filter(|it| it.value == *tap) {
        let remedy = "give an interface whose addresses the routing daemon announces, such as \
                      \"lo\"";
        errors.push(interface.place.error(", which is `tap`", remedy));
    }
}

/// The mode says whether a node announces anything; and nobody else has a VIP's address.
pub(super) fn check(node: &AnnounceRead<'_>, cluster: &ClusterRead<'_>, errors: &mut Errors) {
    for other in &node.others {
        if cluster.vips.iter().any(|vip| vip.contains(other.value)) {
            errors.push(other.place.error(", a VIP", "give an address that is no VIP"));
        }
    }
    match (cluster.kind, &node.place) {
        (Some(Kind::Anycast), None) => {
            for place in &node.beside {
                let found = "this without `announce`".to_owned();
                errors.push(place.error_found(found, "add announce = \"bgp\" or \"interface\""));
            }
            if node.beside.is_empty() && !node.unreadable {
                let found = "nothing, with mode = \"anycast\" in the cluster's file".to_owned();
                let remedy = "add announce = \"bgp\" or \"interface\"";
                errors.push(node.file.key_below("announce").error_found(found, remedy));
            }
        }
        (Some(Kind::SharedMac | Kind::Tiered), place) => {
            for place in place.iter().chain(&node.beside) {
                let found = "this without mode = \"anycast\" in the cluster's file".to_owned();
                errors.push(place.error_found(found, "remove it: no routes are announced"));
            }
        }
        (Some(Kind::Anycast), Some(_)) | (None, _) => {}
    }
}
