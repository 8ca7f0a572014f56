//! `cluster.toml`: what all nodes must agree on.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use vipdp_core::hash::HashInput;
use vipdp_core::prefix::Prefix;
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::wire::ethernet::MacAddr;

use super::address;
use super::error::ConfigError;
use super::ingress::{self, IngressMode, IngressRead, Kind};
use super::node;
use super::partition::{self, PartitionGuard};
use super::reader::{Document, Errors, Field, Located, Place, Section};
use super::timing::{self, TimingConfig};
use super::vips;

/// What all nodes must agree on: the contents of `cluster.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFile {
    /// Tells clusters on one segment apart. Never 0.
    pub id: u16,
    /// Counts changes of this file. Never 0.
    pub generation: u32,
    /// How packets reach the nodes.
    pub mode: IngressMode,
    /// The service addresses, at least one, none in two of them, in the order of the file. In the
    /// shared-mac mode each is a single address.
    pub vips: Vec<Prefix>,
    /// The key file, relative paths already resolved.
    pub key_path: PathBuf,
    /// What of a client goes into its hash.
    pub hash: HashInput,
    /// UDP ports whose flows are tracked. Ascending, without duplicates.
    pub sticky_udp_ports: Vec<u16>,
    /// The 802.1Q VLAN identifier of the VIPs' segment, 1..=4094; `None` where it is untagged.
    pub vlan: Option<u16>,
    /// When a node counts as down, and how long things linger.
    pub timing: TimingConfig,
    /// What a node does when it may be cut off from the others.
    pub partition: PartitionGuard,
    /// Who serves when no member that is alive is well.
    pub all_down: AllDown,
    /// How heartbeats travel.
    pub heartbeat: HeartbeatConfig,
    /// The members, at least one, in ascending order of their slots.
    pub members: Vec<MemberConfig>,
}

/// Who serves when the checks of every member that is alive have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllDown {
    /// All, as if no check had: what fails at all nodes at once is rarely the nodes.
    Serve,
    /// Nobody.
    Withdraw,
}

impl AllDown {
    /// Its name in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Withdraw => "withdraw",
        }
    }
}

/// How heartbeats travel: UDP on the VIPs' segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// To whom.
    pub transport: HeartbeatTransport,
    /// The UDP port, source and destination.
    pub port: u16,
}

/// To whom heartbeats are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatTransport {
    /// To a link-local group.
    Multicast(IpAddr),
    /// To each member's address; all of one family.
    Unicast,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// Its number, which never changes while it is a member.
    pub slot: Slot,
    /// Its name in logs and in the status: 1 to 32 letters, digits, '.', '-', '_'.
    pub name: String,
    /// Its own address on the segment; given if heartbeats go to members one by one.
    pub address: Option<IpAddr>,
    /// The MAC address of its interface; given, of members that are not removed, where there are no
    /// heartbeats to tell it.
    pub mac: Option<MacAddr>,
    /// Its share of the buckets in relation to the others', 1..=[`WEIGHT_MAX`].
    pub weight: u8,
    /// Whether it was taken out of service for good. Its place is kept, so that no bucket moves
    /// between the others.
    pub removed: bool,
}

/// The largest weight. Of 4096 buckets each member then gets at least one, also the one member of
/// weight 1 among 63 of the largest.
pub const WEIGHT_MAX: u8 = 64;
const WEIGHT_DEFAULT: u8 = 1;
const _: () = assert!((SLOTS - 1) * (WEIGHT_MAX as usize) < vipdp_core::bucket::BUCKETS);
/// The largest number of sticky ports: workers search them one by one.
pub const STICKY_UDP_PORTS_MAX: usize = 64;
const NAME_LEN_MAX: usize = 32;

/// The group for experiments in the local network control block (RFC 4727, section 2.4.2):
/// switches flood 224.0.0.0/24 whatever they snoop (RFC 4541, section 2.1.2).
const GROUP_DEFAULT: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 254));
const PORT_DEFAULT: u16 = 5360;

/// What of the cluster's file other files are checked against.
pub(super) struct ClusterRead<'s> {
    /// The contents; `None` if they are wrong.
    pub(super) config: Option<ClusterFile>,
    /// The mode's name; `None` if it is wrong.
    pub(super) kind: Option<Kind>,
    /// The service addresses that could be read.
    pub(super) vips: Vec<Prefix>,
    /// The slots of the members that could be read, without removed ones.
    pub(super) slots: Vec<Slot>,
    /// The slots of removed members.
    pub(super) removed: Vec<Slot>,
    /// Whether members are missing from `slots`.
    pub(super) slots_incomplete: bool,
    /// The key file, if it is named.
    pub(super) key: Option<Located<'s, PathBuf>>,
}

/// Reads the cluster's file.
pub(super) fn read<'s>(document: Document<'s>, errors: &mut Errors) -> ClusterRead<'s> {
    let Some(mut section) = document.parse(errors) else {
        return ClusterRead {
            config: None,
            kind: None,
            vips: Vec::new(),
            slots: Vec::new(),
            removed: Vec::new(),
            slots_incomplete: true,
            key: None,
        };
    };
    let directory = document.path.parent().unwrap_or(Path::new(""));
    let key = section
        .required("key_file", "key_file = \"cluster.key\"", errors, |f| node::path(f, directory));
    let before = errors.len();
    let members = members(&mut section, errors);
    let slots_incomplete = errors.len() > before;
    let id = section.required("id", "id = 53", errors, |f| f.integer(1..=65_535, "a number"));
    let id = id.map(|id| id.value as u16);
    let ingress = ingress::read(&mut section, id, members.len(), errors);
    let vips = vips::read(&mut section, ingress.kind, errors);
    let rest = read_rest(&mut section, id, &members, &ingress, &vips, errors);
    section.finish(errors);
    let (removed, present): (Vec<_>, Vec<_>) =
        members.iter().map(|member| (member.removed, member.slot.value)).partition(|each| each.0);
    let slots = |members: Vec<(bool, Slot)>| members.into_iter().map(|each| each.1).collect();
    let (removed, slots) = (slots(removed), slots(present));
    let config = rest.and_then(|rest| {
        let mut members: Vec<_> = members.into_iter().map(Member::config).collect();
        members.sort_by_key(|member| member.slot);
        Some(ClusterFile { key_path: key.as_ref()?.value.clone(), members, ..rest })
    });
    let (kind, vips) = (ingress.kind, vips.iter().map(|vip| vip.value).collect());
    ClusterRead { config, kind, vips, slots, removed, slots_incomplete, key }
}

/// Everything but the members and the key file's path.
fn read_rest(
    section: &mut Section<'_>,
    id: Option<u16>,
    members: &[Member<'_>],
    ingress: &IngressRead<'_>,
    vips: &[Located<'_, Prefix>],
    errors: &mut Errors,
) -> Option<ClusterFile> {
    let generation = section.required("generation", "generation = 1", errors, |f| {
        f.integer(1..=u64::from(u32::MAX), "a number that rises with each change,")
    });
    let addresses = || members.iter().filter_map(|member| member.address.as_ref());
    vips::check_members(addresses(), vips, errors);
    if let (Some(Kind::Tiered), Some(tiered)) = (ingress.kind, &ingress.tiered) {
        tiered.check(addresses(), vips, errors);
        check_weights(members, errors);
    }
    let wire = ingress.tiered.as_ref().and_then(|tiered| tiered.wire.as_ref());
    check_macs(members, wire.is_some(), errors);
    let hash = hash(section, ingress.kind, errors);
    let vlan =
        section.optional("vlan", errors, |f| f.integer(1..=4094, "an 802.1Q VLAN identifier"));
    let partition = partition(section, members, vips, ingress, errors);
    if let Some(place) = wire.filter(|_| partition == PartitionGuard::Majority) {
        let why = " beside partition = \"majority\", which nobody can count without heartbeats";
        errors.push(place.error(why, "give partition = \"gateway\" or \"none\""));
    }
    let sticky_udp_ports = sticky_udp_ports(section, errors);
    let timing =
        timing::read(section, members.iter().filter(|member| !member.removed).count(), errors);
    let all_down = all_down(section, wire.is_some(), errors);
    let heartbeat = heartbeat(section, members, ingress, errors);
    check_tunnel(members, ingress, heartbeat, errors);
    Some(ClusterFile {
        id: id?,
        generation: generation?.value as u32,
        mode: ingress.mode?,
        vips: vips.iter().map(|vip| vip.value).collect(),
        key_path: PathBuf::new(),
        hash,
        sticky_udp_ports,
        vlan: vlan.map(|vlan| vlan.value as u16),
        timing,
        partition,
        all_down,
        heartbeat: heartbeat?,
        members: Vec::new(),
    })
}

/// Who serves when nobody is well. Without heartbeats, none knows of the others.
fn all_down(section: &mut Section<'_>, is_by_wire: bool, errors: &mut Errors) -> AllDown {
    let all_down = section.optional("all_down", errors, |f| {
        f.choice(&[("serve", AllDown::Serve), ("withdraw", AllDown::Withdraw)])
    });
    let default = if is_by_wire { AllDown::Withdraw } else { AllDown::Serve };
    let Some(Located { value, place }) = all_down else { return default };
    if is_by_wire && value == AllDown::Serve {
        let why = " beside claims = \"wire\", by which no node knows that all are down";
        errors.push(place.error(why, "remove it, or give claims = \"heartbeat\""));
    }
    value
}

/// What of a client decides who serves it, where the router does not.
fn hash(section: &mut Section<'_>, kind: Option<Kind>, errors: &mut Errors) -> HashInput {
    let hash = section.optional("hash", errors, |f| {
        f.choice(&[
            ("address", HashInput::Address),
            ("address-and-port", HashInput::AddressAndPort),
        ])
    });
    match hash {
        Some(hash) if kind == Some(Kind::Tiered) => {
            let found = "this key beside mode = \"tiered\"".to_owned();
            errors.push(hash.place.error_found(found, "remove it: the router spreads the clients"));
            HashInput::Address
        }
        Some(hash) => hash.value,
        None => HashInput::Address,
    }
}

/// The router spreads evenly over next hops, of which each member has as many.
fn check_weights(members: &[Member<'_>], errors: &mut Errors) {
    for weight in members.iter().filter_map(|member| member.weight.as_ref()) {
        if weight.value != WEIGHT_DEFAULT {
            let remedy = "remove it: the router gives every next hop the same load";
            errors.push(weight.place.error(" beside mode = \"tiered\"", remedy));
        }
    }
}

/// Members are known by their MAC addresses where there are no heartbeats, and only there.
fn check_macs(members: &[Member<'_>], wire: bool, errors: &mut Errors) {
    for member in members {
        match &member.mac_place {
            None if wire && !member.removed => {
                let found = format!("no `mac` of member \"{}\"", member.name.value);
                let remedy = "add it: with claims = \"wire\" a member is known by the MAC address \
                              of its interface";
                errors.push(member.place.error_found(found, remedy));
            }
            Some(place) if !wire => {
                let found = "this key without claims = \"wire\"".to_owned();
                errors.push(place.error_found(found, "remove it: heartbeats tell MAC addresses"));
            }
            _ => {}
        }
    }
}

/// Reads what a node does when it may be cut off. The router's addresses are nobody else's.
fn partition(
    section: &mut Section<'_>,
    members: &[Member<'_>],
    vips: &[Located<'_, Prefix>],
    ingress: &IngressRead<'_>,
    errors: &mut Errors,
) -> PartitionGuard {
    let taken = |address: IpAddr| {
        let is =
            |member: &Member<'_>| member.address.as_ref().is_some_and(|it| it.value == address);
        if members.iter().any(is) {
            Some("a member's own address")
        } else if vips.iter().any(|vip| vip.value.contains(address)) {
            Some("a VIP")
        } else {
            let hops = ingress.tiered.as_ref().is_some_and(|tiered| tiered.has(address));
            hops.then_some("a next hop of the VIPs")
        }
    };
    let present = members.iter().filter(|member| !member.removed).count();
    partition::read(section, ingress.kind, present, taken, errors)
}

fn sticky_udp_ports(section: &mut Section<'_>, errors: &mut Errors) -> Vec<u16> {
    const EXPECTED: &str = "a list of UDP ports, for example [443]";
    let ports = section.list("sticky_udp_ports", EXPECTED, errors, |f| {
        f.integer(1..=65_535, "a port").map(|port| port as u16)
    });
    if let Some(one_too_many) = ports.get(STICKY_UDP_PORTS_MAX) {
        let remedy = format!("list at most {STICKY_UDP_PORTS_MAX} ports");
        errors.push(one_too_many.place.error(", one too many", remedy));
    }
    let mut sorted = Vec::new();
    for port in ports {
        match sorted.binary_search(&port.value) {
            Ok(_) => {
                errors.push(port.place.error(", for the second time", "list each port once"));
            }
            Err(at) => sorted.insert(at, port.value),
        }
    }
    sorted
}

fn heartbeat(
    section: &mut Section<'_>,
    members: &[Member<'_>],
    ingress: &IngressRead<'_>,
    errors: &mut Errors,
) -> Option<HeartbeatConfig> {
    // Where the network spreads over routes, the members are rarely on one segment.
    let is_unicast = ingress.kind == Some(Kind::Anycast);
    let Some(mut section) = section.table("heartbeat", errors) else {
        if is_unicast {
            check_addresses(members, NEEDED_BY_DEFAULT, errors);
        }
        let transport = if is_unicast {
            HeartbeatTransport::Unicast
        } else {
            HeartbeatTransport::Multicast(GROUP_DEFAULT)
        };
        return Some(HeartbeatConfig { transport, port: PORT_DEFAULT });
    };
    if ingress.tiered.as_ref().is_some_and(|tiered| tiered.wire.is_some()) {
        let found = "this table beside claims = \"wire\"".to_owned();
        errors.push(section.place.error_found(found, "remove it: there are no heartbeats"));
    }
    let unicast = section.or_default("transport", is_unicast, errors, |f| {
        f.choice(&[("multicast", false), ("unicast", true)])
    });
    let group = section.optional("group", errors, heartbeat_group);
    let port = section.or_default("port", PORT_DEFAULT, errors, |f| {
        f.integer(1..=65_535, "a UDP port").map(|port| port as u16)
    });
    section.finish(errors);
    if unicast {
        if let Some(group) = group {
            let remedy = "remove it, or give transport = \"multicast\"";
            let found = "this key beside transport = \"unicast\"".into();
            errors.push(group.place.error_found(found, remedy));
        }
        check_addresses(members, NEEDED_BY_UNICAST, errors);
        return Some(HeartbeatConfig { transport: HeartbeatTransport::Unicast, port });
    }
    if let (Some(group), Some(IngressMode::SharedMac(macs))) = (&group, ingress.mode)
        && [macs.macs().v4, macs.macs().v6].contains(&address::group_mac(group.value))
    {
        let remedy = "give another group: heartbeats must not reach the shared MAC address";
        errors.push(group.place.error(", which has the shared MAC address", remedy));
    }
    let group = group.map_or(GROUP_DEFAULT, |group| group.value);
    Some(HeartbeatConfig { transport: HeartbeatTransport::Multicast(group), port })
}

/// A group that routers never forward: heartbeats share the fate of the VIPs' frames.
fn heartbeat_group(field: &Field<'_>) -> Result<IpAddr, ConfigError> {
    const EXPECTED: &str =
        "a link-local group: one of 224.0.0.0/24 or ff02::/16, for example \"224.0.0.254\"";
    let group: IpAddr = field.parsed(EXPECTED)?;
    let unfit = match group {
        IpAddr::V4(group) if !group.is_multicast() => ", no group",
        IpAddr::V6(group) if !group.is_multicast() => ", no group",
        IpAddr::V4(group) if group.octets()[..3] != [224, 0, 0] => ", a group beyond the link",
        IpAddr::V6(group) if group.segments()[0] & 0xf != 2 => ", a group of another scope",
        // All systems and all routers: every host would be woken.
        IpAddr::V4(group) if group.octets()[3] <= 2 => ", a group of every host or router",
        IpAddr::V6(group)
            if (1..=2).contains(&group.segments()[7]) && group.segments()[1..7] == [0; 6] =>
        {
            ", a group of every host or router"
        }
        _ => return Ok(group),
    };
    Err(field.place.error(unfit, format!("give {EXPECTED}")))
}

const NEEDED_BY_UNICAST: &str =
    "heartbeats with transport = \"unicast\" go to each member's address";
const NEEDED_BY_DEFAULT: &str =
    "with mode = \"anycast\" and without [heartbeat], heartbeats go to each member's address";
const NEEDED_BY_TUNNEL: &str = "with forward = \"gue\" packets are sent on to it";

/// What goes to the members' addresses needs one of every member, and all of one family. `why`
/// says what needs them.
fn check_addresses(members: &[Member<'_>], why: &str, errors: &mut Errors) {
    let needed = |member: &&Member<'_>| !member.removed && member.address_place.is_none();
    for member in members.iter().filter(needed) {
        let found = format!("no `address` of member \"{}\"", member.name.value);
        errors.push(member.place.error_found(found, format!("add it: {why}")));
    }
    let addresses: Vec<_> = members.iter().filter_map(|member| member.address.as_ref()).collect();
    let Some(first) = addresses.first() else { return };
    for address in &addresses {
        if address.value.is_ipv4() != first.value.is_ipv4() {
            let why = format!(", of another family than line {}", first.place.line());
            let remedy = "give all members addresses of one family";
            errors.push(address.place.error(&why, remedy));
        }
    }
}

/// Packets in a tunnel go to the members' addresses, and to a port that heartbeats do not have.
fn check_tunnel(
    members: &[Member<'_>],
    ingress: &IngressRead<'_>,
    heartbeat: Option<HeartbeatConfig>,
    errors: &mut Errors,
) {
    let Some((place, port)) = &ingress.anycast.tunnel else { return };
    let Some(heartbeat) = heartbeat.filter(|_| ingress.kind == Some(Kind::Anycast)) else { return };
    if heartbeat.port == *port {
        let found = format!("port {port}, which heartbeats have");
        errors.push(place.error_found(found, "give another, or another port in [heartbeat]"));
    }
    // Those of unicast heartbeats were checked.
    if heartbeat.transport != HeartbeatTransport::Unicast {
        check_addresses(members, NEEDED_BY_TUNNEL, errors);
    }
}

/// A member as it was read.
struct Member<'s> {
    place: Place<'s>,
    slot: Located<'s, Slot>,
    name: Located<'s, String>,
    address: Option<Located<'s, IpAddr>>,
    /// Where an address stands, also a wrong one.
    address_place: Option<Place<'s>>,
    mac: Option<Located<'s, MacAddr>>,
    /// Where a MAC address stands, also a wrong one.
    mac_place: Option<Place<'s>>,
    /// Its weight, if one is given.
    weight: Option<Located<'s, u8>>,
    removed: bool,
}

impl Member<'_> {
    fn config(self) -> MemberConfig {
        MemberConfig {
            slot: self.slot.value,
            name: self.name.value,
            address: self.address.map(|address| address.value),
            mac: self.mac.map(|mac| mac.value),
            weight: self.weight.map_or(WEIGHT_DEFAULT, |weight| weight.value),
            removed: self.removed,
        }
    }
}

fn members<'s>(section: &mut Section<'s>, errors: &mut Errors) -> Vec<Member<'s>> {
    let example = "[[member]] with slot = 0, name = \"n1\"";
    let expected = "one table per member, each with its own header [[member]]";
    let list = section.required("member", example, errors, |f| f.elements(expected));
    let Some(Located { value: fields, place }) = list else { return Vec::new() };
    if fields.is_empty() || fields.len() > SLOTS {
        let found = format!("{} members", fields.len());
        errors.push(place.error_found(found, format!("give 1 to {SLOTS}")));
    }
    let mut members = Vec::new();
    let before = errors.len();
    for field in fields {
        match field.section() {
            Ok(section) => members.extend(member(section, errors)),
            Err(error) => errors.push(error),
        }
    }
    if errors.len() == before && !members.is_empty() && members.iter().all(|member| member.removed)
    {
        let remedy = "keep at least one member without removed = true";
        errors.push(place.error_found("only removed members".into(), remedy));
    }
    check_unique("slot", &members, |member| Some((&member.slot.place, member.slot.value)), errors);
    check_unique(
        "name",
        &members,
        |member| Some((&member.name.place, member.name.value.clone())),
        errors,
    );
    check_unique(
        "address",
        &members,
        |member| member.address.as_ref().map(|address| (&address.place, address.value)),
        errors,
    );
    check_unique(
        "mac",
        &members,
        |member| member.mac.as_ref().map(|mac| (&mac.place, mac.value)),
        errors,
    );
    members
}

fn member<'s>(mut section: Section<'s>, errors: &mut Errors) -> Option<Member<'s>> {
    let place = section.place.clone();
    let slot = section.required("slot", "slot = 0", errors, node::slot);
    let name = section.required("name", "name = \"n1\"", errors, |f| {
        let expected = "1 to 32 letters, digits, '.', '-', '_'";
        let name = f.text(expected)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !(1..=NAME_LEN_MAX).contains(&name.len()) || !name.bytes().all(allowed) {
            return Err(f.place.error("", format!("give {expected}")));
        }
        Ok(name.to_owned())
    });
    let mut address_place = None;
    let address = section.optional("address", errors, |f| {
        address_place = Some(f.place.clone());
        address::unicast(f, "the member's own unicast address")
    });
    let mut mac_place = None;
    let mac = section.optional("mac", errors, |f| {
        mac_place = Some(f.place.clone());
        address::own_mac(f)
    });
    let weight = section.optional("weight", errors, |f| {
        f.integer(1..=u64::from(WEIGHT_MAX), "a weight").map(|weight| weight as u8)
    });
    let removed = section.or_default("removed", false, errors, Field::boolean);
    section.finish(errors);
    let (slot, name) = (slot?, name?);
    Some(Member { place, slot, name, address, address_place, mac, mac_place, weight, removed })
}

/// Reports members that have something in common which they must not have.
fn check_unique<'a, 's: 'a, T: std::hash::Hash + Eq>(
    what: &str,
    members: &'a [Member<'s>],
    of: impl Fn(&'a Member<'s>) -> Option<(&'a Place<'s>, T)>,
    errors: &mut Errors,
) {
    let mut seen: HashMap<T, &Place<'_>> = HashMap::new();
    for (place, value) in members.iter().filter_map(of) {
        if let Some(first) = seen.get(&value) {
            let why = format!(", which is {} in line {}", first.key(), first.line());
            errors.push(place.error(&why, format!("give each member its own {what}")));
        } else {
            seen.insert(value, place);
        }
    }
}
