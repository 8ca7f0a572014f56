//! Messages as bytes.
//!
//! netgauze-bgp-pkt writes OPENs and UPDATEs: of the crates that know BGP it is the one that writes
//! all that is needed here (IPv4 routes with IPv6 next hops, large communities, link bandwidth,
//! graceful restart), keeps no state of its own, and is maintained. Its types stay in this file.
//! Not NOTIFICATIONs: those it carries only with the codes that it knows.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::capabilities::{
    BgpCapability, ExtendedNextHopEncoding, ExtendedNextHopEncodingCapability,
    FourOctetAsCapability, GracefulRestartAddressFamily, GracefulRestartCapability,
    MultiProtocolExtensionsCapability,
};
use netgauze_bgp_pkt::community::{
    Community, ExtendedCommunity, LargeCommunity, NonTransitiveTwoOctetExtendedCommunity,
};
use netgauze_bgp_pkt::nlri::{Ipv4Unicast, Ipv4UnicastAddress, Ipv6Unicast, Ipv6UnicastAddress};
use netgauze_bgp_pkt::open::{BgpOpenMessage, BgpOpenMessageParameter};
use netgauze_bgp_pkt::path_attribute::{
    As2PathSegment, As4Path, As4PathSegment, AsPath, AsPathSegmentType, Communities,
    ExtendedCommunities, LargeCommunities, MpReach, MpUnreach, MultiExitDiscriminator, NextHop,
    Origin, PathAttribute, PathAttributeValue,
};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_iana::address_family::{AddressFamily, AddressType};
use netgauze_parse_utils::WritablePdu;
use vipdp_core::prefix::Prefix;

use super::config::{AS_TRANS, Attributes};
use super::frame::{self, Kind, MESSAGE_MAX};
use super::notification::Notification;
use super::open::Open;
use super::{community, prefixes};

/// The family of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Of which family routes are, what their next hop is, and so how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// IPv4 routes with an IPv4 next hop: in the fields of their own that UPDATEs have for them
    /// (RFC 4271 section 4.3).
    V4(Ipv4Addr),
    /// IPv4 routes with an IPv6 next hop: in MP_REACH_NLRI (RFC 8950).
    V4ByV6(NextHop6),
    /// IPv6 routes: in MP_REACH_NLRI (RFC 2545).
    V6(NextHop6),
}

/// An IPv6 next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NextHop6 {
    /// The global address; the link-local one where that is the only one.
    pub address: Ipv6Addr,
    /// The link-local address beside the global one (RFC 2545 section 3).
    pub link_local: Option<Ipv6Addr>,
}

impl Way {
    pub const fn family(self) -> Family {
        match self {
            Self::V4(_) | Self::V4ByV6(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }
}

/// What routes bear, beside next hop and prefixes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path<'a> {
    /// The AS that they are of.
    pub asn: u32,
    /// AS numbers have four bytes (RFC 6793).
    pub four_octet_as: bool,
    /// What they bear by configuration.
    pub attributes: &'a Attributes,
    /// They bear GRACEFUL_SHUTDOWN too (RFC 8326).
    pub marked: bool,
}

/// An OPEN.
pub(super) fn open(open: &Open) -> Vec<u8> {
    let Open { asn, hold_s, id, capabilities } = *open;
    let families: Vec<_> =
        [(capabilities.v4, AddressType::Ipv4Unicast), (capabilities.v6, AddressType::Ipv6Unicast)]
            .into_iter()
            .filter_map(|(has, family)| has.then_some(family))
            .collect();

    let mut written: Vec<_> = families
        .iter()
        .map(|family| MultiProtocolExtensionsCapability::new(*family))
        .map(BgpCapability::MultiProtocolExtensions)
        .collect();
    if capabilities.refresh {
        written.push(BgpCapability::RouteRefresh);
    }
    if capabilities.v4_by_v6 {
        let encoding = ExtendedNextHopEncoding::new(AddressType::Ipv4Unicast, AddressFamily::IPv6);
        written.push(BgpCapability::ExtendedNextHopEncoding(
            ExtendedNextHopEncodingCapability::new([encoding]),
        ));
    }
    if let Some(graceful) = capabilities.graceful {
        let families: Vec<_> = families
            .iter()
            .map(|family| GracefulRestartAddressFamily::new(graceful.forwards, *family))
            .collect();
        written.push(BgpCapability::GracefulRestartCapability(GracefulRestartCapability::new(
            graceful.restarting,
            false,
            graceful.time_s,
            families,
        )));
    }
    if capabilities.four_octet_as {
        written.push(BgpCapability::FourOctetAs(FourOctetAsCapability::new(asn)));
    }
    let parameters = [BgpOpenMessageParameter::new_capabilities(written)];
    let as_field = u16::try_from(asn).unwrap_or(AS_TRANS);
    write(&BgpMessage::Open(BgpOpenMessage::new(as_field, hold_s, id, parameters)))
}

/// A KEEPALIVE.
pub(super) fn keepalive() -> Vec<u8> {
    frame::message(Kind::Keepalive, &[])
}

/// A NOTIFICATION.
pub(super) fn notification(notification: &Notification) -> Vec<u8> {
    let Notification { code, subcode, data } = notification;
    frame::message(Kind::Notification, &[&[*code, *subcode], data.as_slice()].concat())
}

/// The UPDATEs that announce those of `prefixes` that are of the way's family: as few as can be.
pub(super) fn announce(path: &Path<'_>, way: Way, prefixes: &[Prefix]) -> Vec<Vec<u8>> {
    let written = |prefixes: &[Prefix]| {
        let mut attributes = path_attributes(path, way, prefixes);
        attributes.sort_by_key(|attribute| position(attribute.value()));
        let plain = match way {
            Way::V4(_) => v4_routes(prefixes),
            Way::V4ByV6(_) | Way::V6(_) => Vec::new(),
        };
        write(&BgpMessage::Update(BgpUpdateMessage::new([], attributes, plain)))
    };
    pack(way.family(), prefixes, written)
}

/// The UPDATEs that withdraw those of `prefixes` that are of the way's family.
pub(super) fn withdraw(way: Way, prefixes: &[Prefix]) -> Vec<Vec<u8>> {
    let written = |prefixes: &[Prefix]| {
        let update = match way {
            Way::V4(_) => BgpUpdateMessage::new(v4_routes(prefixes), [], []),
            Way::V4ByV6(_) => {
                let unreach = MpUnreach::Ipv4Unicast { nlri: v4_routes(prefixes).into() };
                BgpUpdateMessage::new([], [unreachable(unreach)], [])
            }
            Way::V6(_) => {
                let unreach = MpUnreach::Ipv6Unicast { nlri: v6_routes(prefixes).into() };
                BgpUpdateMessage::new([], [unreachable(unreach)], [])
            }
        };
        write(&BgpMessage::Update(update))
    };
    pack(way.family(), prefixes, written)
}

/// The UPDATE that says that all routes of a family were sent (RFC 4724 section 2).
pub(super) fn end_of_rib(family: Family) -> Vec<u8> {
    let attributes = match family {
        Family::V4 => Vec::new(),
        Family::V6 => vec![unreachable(MpUnreach::Ipv6Unicast { nlri: [].into() })],
    };
    write(&BgpMessage::Update(BgpUpdateMessage::new([], attributes, [])))
}

/// Writes the prefixes of `family` into as few messages as can be.
fn pack(
    family: Family,
    prefixes: &[Prefix],
    written: impl Fn(&[Prefix]) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let prefixes: Vec<_> = prefixes::of(prefixes, family).collect();
    // The attribute that holds the prefixes may need another byte for its length.
    let room = MESSAGE_MAX - 1 - written(&[]).len();
    let mut messages = Vec::new();
    let mut rest = prefixes.as_slice();
    while !rest.is_empty() {
        let mut used = 0;
        let fits = rest.iter().take_while(|prefix| {
            used += prefixes::written_len(**prefix);
            used <= room
        });
        let (part, left) = rest.split_at(fits.count());
        assert!(!part.is_empty(), "path attributes leave no room for a prefix");
        messages.push(written(part));
        rest = left;
    }
    messages
}

fn path_attributes(path: &Path<'_>, way: Way, prefixes: &[Prefix]) -> Vec<PathAttribute> {
    use PathAttributeValue as Value;
    let Attributes { communities, large_communities, med, link_bandwidth } = path.attributes;

    let mut written = vec![well_known(Value::Origin(Origin::IGP))];
    written.extend(as_path(path));
    written.push(match way {
        Way::V4(next_hop) => well_known(Value::NextHop(NextHop::new(next_hop))),
        Way::V4ByV6(next_hop) => reachable(MpReach::Ipv4Unicast {
            next_hop: next_hop.address.into(),
            next_hop_local: next_hop.link_local,
            nlri: v4_routes(prefixes).into(),
        }),
        Way::V6(next_hop) => reachable(MpReach::Ipv6Unicast {
            next_hop_global: next_hop.address,
            next_hop_local: next_hop.link_local,
            nlri: v6_routes(prefixes).into(),
        }),
    });
    written.extend(med.map(|med| {
        attribute(true, false, Value::MultiExitDiscriminator(MultiExitDiscriminator::new(med)))
    }));

    let mark = path.marked.then_some(community::Community::GRACEFUL_SHUTDOWN);
    let communities: Vec<_> =
        mark.iter().chain(communities).map(|community| Community::new(community.0)).collect();
    if !communities.is_empty() {
        written.push(optional(Value::Communities(Communities::new(communities))));
    }
    written.extend(link_bandwidth.map(|bandwidth| {
        let bandwidth = NonTransitiveTwoOctetExtendedCommunity::LinkBandwidth {
            global_admin: u16::try_from(path.asn).unwrap_or(AS_TRANS),
            local_admin: bandwidth.to_bits(),
        };
        let bandwidth = [ExtendedCommunity::NonTransitiveTwoOctet(bandwidth)];
        optional(Value::ExtendedCommunities(ExtendedCommunities::new(bandwidth)))
    }));
    let large: Vec<_> = large_communities
        .iter()
        .map(|large| LargeCommunity::new(large.asn, large.function, large.parameter))
        .collect();
    if !large.is_empty() {
        written.push(optional(Value::LargeCommunities(LargeCommunities::new(large))));
    }
    written
}

/// A path of one AS: to a peer whose AS numbers have two bytes, as RFC 6793 section 4.2.2 says.
fn as_path(path: &Path<'_>) -> Vec<PathAttribute> {
    use AsPathSegmentType::AsSequence;
    use PathAttributeValue as Value;
    let four = || As4PathSegment::new(AsSequence, [path.asn]);
    if path.four_octet_as {
        return vec![well_known(Value::AsPath(AsPath::As4PathSegments([four()].into())))];
    }
    let two = |asn| {
        let segment = As2PathSegment::new(AsSequence, [asn]);
        well_known(Value::AsPath(AsPath::As2PathSegments([segment].into())))
    };
    match u16::try_from(path.asn) {
        Ok(asn) => vec![two(asn)],
        Err(_) => vec![two(AS_TRANS), optional(Value::As4Path(As4Path::new([four()])))],
    }
}

/// Where an attribute stands in an UPDATE: in the order of the types, but for MP_REACH_NLRI, which
/// is the first (RFC 7606 section 5.1).
fn position(value: &PathAttributeValue) -> u8 {
    match value {
        PathAttributeValue::MpReach(_) => 0,
        other => other.path_attribute_type().map_or_else(|code| code, u8::from),
    }
}

fn well_known(value: PathAttributeValue) -> PathAttribute {
    attribute(false, true, value)
}

fn optional(value: PathAttributeValue) -> PathAttribute {
    attribute(true, true, value)
}

fn reachable(reach: MpReach) -> PathAttribute {
    attribute(true, false, PathAttributeValue::MpReach(reach))
}

fn unreachable(unreach: MpUnreach) -> PathAttribute {
    attribute(true, false, PathAttributeValue::MpUnreach(unreach))
}

fn attribute(optional: bool, transitive: bool, value: PathAttributeValue) -> PathAttribute {
    let of = |value, long| {
        PathAttribute::from(optional, transitive, false, long, value)
            .unwrap_or_else(|(value, error)| panic!("{error} of {value:?}"))
    };
    let short = of(value, false);
    // Flags, type, length of one byte, and a value that such a length can tell: only a longer one
    // may have a length of two (RFC 4271 section 4.3).
    if short.len() <= 3 + 255 { short } else { of(short.value().clone(), true) }
}

fn v4_routes(prefixes: &[Prefix]) -> Vec<Ipv4UnicastAddress> {
    prefixes
        .iter()
        .filter_map(|prefix| prefixes::v4(*prefix))
        .map(|(network, len)| {
            let network =
                Ipv4Net::new(network, len).expect("a prefix has a length that it can have");
            let network =
                Ipv4Unicast::from_net(network).expect("prefixes were checked to be unicast");
            Ipv4UnicastAddress::new_no_path_id(network)
        })
        .collect()
}

fn v6_routes(prefixes: &[Prefix]) -> Vec<Ipv6UnicastAddress> {
    prefixes
        .iter()
        .filter_map(|prefix| prefixes::v6(*prefix))
        .map(|(network, len)| {
            let network =
                Ipv6Net::new(network, len).expect("a prefix has a length that it can have");
            let network =
                Ipv6Unicast::from_net(network).expect("prefixes were checked to be unicast");
            Ipv6UnicastAddress::new(None, network)
        })
        .collect()
}

/// # Panics
/// If it is longer than a message may be.
fn write(message: &BgpMessage) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len());
    message.write(&mut bytes).expect("memory takes all that is written");
    assert!(bytes.len() <= MESSAGE_MAX, "a message of {} bytes", bytes.len());
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::bgp::config::{COMMUNITIES_MAX, PREFIXES_MAX};
    use crate::bgp::open::{Capabilities, Graceful};
    use crate::bgp::update;
    use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
    use netgauze_parse_utils::reader::SliceReader;
    use netgauze_parse_utils::traits::ParseFromWithOneInput;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes[16..].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Written out by hand from RFC 4271 section 4.2 and the capabilities' own texts.
    #[test]
    fn an_open_byte_by_byte() {
        let capabilities = Capabilities {
            v4: true,
            v6: true,
            v4_by_v6: true,
            refresh: true,
            four_octet_as: true,
            graceful: Some(Graceful { restarting: true, time_s: 120, forwards: true }),
        };
        let id = Ipv4Addr::new(10, 0, 0, 11);
        let written = open(&Open { asn: 4_200_000_011, hold_s: 9, id, capabilities });
        let expected = [
            "004701 04 5ba0 0009 0a00000b 2a",
            "02 28",
            "01 04 0001 00 01  01 04 0002 00 01  02 00  05 06 0001 0001 0002",
            "40 0a 8078 0001 01 80 0002 01 80  41 04 fa56ea0b",
        ];
        assert_eq!(hex(&written), expected.concat().replace(' ', ""));
    }

    /// Written out by hand from RFC 4271 section 4.3 and the attributes' own texts.
    #[test]
    fn an_update_byte_by_byte() {
        let attributes = Attributes {
            communities: vec!["65011:100".parse().unwrap()],
            large_communities: vec!["65011:1:2".parse().unwrap()],
            med: Some(50),
            link_bandwidth: Some(1e6),
        };
        let path = Path { asn: 65011, four_octet_as: true, attributes: &attributes, marked: true };
        let prefixes = ["172.20.0.0/15".parse().unwrap(), "2001:db8:20::1".parse().unwrap()];
        let [v4] =
            announce(&path, Way::V4(Ipv4Addr::new(10, 1, 1, 2)), &prefixes).try_into().unwrap();
        let common = [
            "80 04 04 00000032",
            "c0 08 08 ffff0000 fdf30064",
            "c0 10 08 4004 fdf3 49742400",
            "c0 20 0c 0000fdf3 00000001 00000002",
        ];
        let v4_only = ["005a02 0000 0040 40 01 01 00 40 02 06 0201 0000fdf3 40 03 04 0a010102"];
        let route = ["0f ac14"];
        let expected = [v4_only.concat(), common.concat(), route.concat()];
        assert_eq!(hex(&v4), expected.concat().replace(' ', ""));

        let next_hop = NextHop6 {
            address: "2001:db8::b".parse().unwrap(),
            link_local: Some("fe80::b".parse().unwrap()),
        };
        let [v6] = announce(&path, Way::V6(next_hop), &prefixes).try_into().unwrap();
        let v6_only = [
            "008902 0000 0072 80 0e 36 0002 01 20",
            "20010db800000000000000000000000b fe80000000000000000000000000000b",
            "00 80 20010db8002000000000000000000001",
            "40 01 01 00 40 02 06 0201 0000fdf3",
        ];
        assert_eq!(hex(&v6), [v6_only.concat(), common.concat()].concat().replace(' ', ""));

        let [by_v6] = announce(&path, Way::V4ByV6(next_hop), &prefixes).try_into().unwrap();
        assert!(hex(&by_v6).contains("800e280001012020010db8"), "{}", hex(&by_v6));
        let [gone] = withdraw(Way::V4ByV6(next_hop), &prefixes).try_into().unwrap();
        assert_eq!(hex(&gone), "002002 0000 0009 80 0f 06 0001 01 0f ac14".replace(' ', ""));
        let [gone] = withdraw(Way::V4(Ipv4Addr::LOCALHOST), &prefixes).try_into().unwrap();
        assert_eq!(hex(&gone), "001a0200030fac140000");
        assert_eq!(hex(&end_of_rib(Family::V4)), "00170200000000");
        assert_eq!(hex(&end_of_rib(Family::V6)), "001d0200000006800f03000201");
    }

    /// The routes that an UPDATE announces and those that it withdraws, read by the codec crate.
    fn read(bytes: &[u8]) -> [Vec<Prefix>; 2] {
        let body = &bytes[frame::HEADER_LEN..];
        assert_eq!(update::attributes_are_sound(body), Ok(true));
        let mut context = BgpParsingContext::default();
        let message = BgpMessage::parse(&mut SliceReader::new(bytes), &mut context).unwrap();
        let BgpMessage::Update(update) = message else { panic!("{message:?}") };
        let v4 = |routes: &[Ipv4UnicastAddress]| -> Vec<Prefix> {
            routes.iter().map(|route| route.network().to_string().parse().unwrap()).collect()
        };
        let v6 = |routes: &[Ipv6UnicastAddress]| -> Vec<Prefix> {
            routes.iter().map(|route| route.network().to_string().parse().unwrap()).collect()
        };
        let [mut announced, mut withdrawn] = [v4(update.nlri()), v4(update.withdraw_routes())];
        for attribute in update.path_attributes() {
            match attribute.value() {
                PathAttributeValue::MpReach(MpReach::Ipv4Unicast { nlri, .. }) => {
                    announced.extend(v4(nlri));
                }
                PathAttributeValue::MpReach(MpReach::Ipv6Unicast { nlri, .. }) => {
                    announced.extend(v6(nlri));
                }
                PathAttributeValue::MpUnreach(MpUnreach::Ipv4Unicast { nlri }) => {
                    withdrawn.extend(v4(nlri));
                }
                PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) => {
                    withdrawn.extend(v6(nlri));
                }
                _ => {}
            }
        }
        [announced, withdrawn]
    }

    proptest! {
        /// Whatever is announced or withdrawn is read back by another reader, each route once, in
        /// messages that are as long as they may be but for the last.
        #[test]
        fn routes_are_packed(
            v4 in prop::collection::btree_set((0_u32..0xe000_0000, 8_u8..=32), 0..PREFIXES_MAX),
            v6 in prop::collection::btree_set((0_u128..0xfe << 120, 16_u8..=128), 0..PREFIXES_MAX),
            communities in 0..=COMMUNITIES_MAX,
            way in 0_usize..3,
        ) {
            let v4 = v4.into_iter().map(|(bits, len)| Prefix::of(Ipv4Addr::from_bits(bits).into(), len));
            let v6 = v6.into_iter().map(|(bits, len)| Prefix::of(Ipv6Addr::from_bits(bits).into(), len));
            let prefixes: BTreeSet<_> =
                v4.chain(v6).map(Result::unwrap).filter(|prefix| prefixes::is_unicast(*prefix)).collect();
            let prefixes: Vec<_> = prefixes.into_iter().collect();
            let next_hop = NextHop6 {
                address: "2001:db8::b".parse().unwrap(),
                link_local: Some("fe80::b".parse().unwrap()),
            };
            let way = [Way::V4(Ipv4Addr::LOCALHOST), Way::V4ByV6(next_hop), Way::V6(next_hop)][way];
            let attributes = Attributes {
                communities: vec![community::Community(1); communities],
                large_communities: vec!["1:2:3".parse().unwrap(); communities],
                med: Some(1),
                link_bandwidth: Some(1.0),
            };
            let path = Path { asn: 1, four_octet_as: true, attributes: &attributes, marked: true };
            let expected: Vec<_> = prefixes::of(&prefixes, way.family()).collect();
            for (index, messages) in
                [announce(&path, way, &prefixes), withdraw(way, &prefixes)].iter().enumerate()
            {
                let read: Vec<_> = messages.iter().map(|message| read(message)).collect();
                let told: Vec<_> = read.iter().flat_map(|routes| routes[index].clone()).collect();
                prop_assert_eq!(&told, &expected);
                prop_assert!(read.iter().all(|routes| routes[1 - index].is_empty()));
                for full in messages.iter().rev().skip(1) {
                    prop_assert!(full.len() > MESSAGE_MAX - 20, "{} bytes", full.len());
                }
            }
        }
    }
}
