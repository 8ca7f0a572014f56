//! Messages as a case writes them.

use std::fmt::Write;

use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::capabilities::BgpCapability;
use netgauze_bgp_pkt::open::BgpOpenMessage;
use netgauze_bgp_pkt::path_attribute::{
    AsPath, MpReach, MpUnreach, PathAttribute, PathAttributeValue as Value,
};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

/// The bytes of a message of a peer: in hexadecimal, or by its name and what is special about it.
pub fn read(words: &[&str]) -> Vec<u8> {
    match words {
        ["hex", bytes @ ..] => hex(&bytes.concat()),
        ["open", settings @ ..] => framed(1, &open(settings)),
        ["update"] => framed(2, &[0, 0, 0, 0]),
        ["update", body @ ..] => framed(2, &hex(&body.concat())),
        ["notification", code, subcode, data @ ..] => {
            let codes = [code.parse().unwrap(), subcode.parse().unwrap()];
            framed(3, &[&codes, hex(&data.concat()).as_slice()].concat())
        }
        ["keepalive"] => framed(4, &[]),
        ["refresh", afi, safi] => framed(5, &[0, afi.parse().unwrap(), 0, safi.parse().unwrap()]),
        ["refresh", afi, safi, subtype] => {
            framed(5, &[0, afi.parse().unwrap(), subtype.parse().unwrap(), safi.parse().unwrap()])
        }
        _ => panic!("unknown message {words:?}"),
    }
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (19 + body.len()) as u16;
    [&[0xff; 16], length.to_be_bytes().as_slice(), &[kind], body].concat()
}

fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "half a byte in {text}");
    (0..text.len() / 2)
        .map(|index| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap())
        .collect()
}

/// The body of an OPEN: of AS 65001, ID 10.0.0.1, hold time 9 s, and the capabilities that a router
/// of today has, unless told otherwise.
fn open(settings: &[&str]) -> Vec<u8> {
    let (mut version, mut asn, mut hold, mut id) = (4_u8, 65001_u32, 9_u16, [10, 0, 0, 1]);
    let mut capabilities = "v4,v6,refresh,as4".to_owned();
    let mut parameters = None;
    for setting in settings {
        let (key, value) = setting.split_once('=').unwrap_or_else(|| panic!("{setting}"));
        match key {
            "version" => version = value.parse().unwrap(),
            "as" => asn = value.parse().unwrap(),
            "hold" => hold = value.parse().unwrap(),
            "id" => id = value.parse::<std::net::Ipv4Addr>().unwrap().octets(),
            "caps" => capabilities = value.to_owned(),
            "parameters" => parameters = Some(hex(value)),
            _ => panic!("unknown setting {setting}"),
        }
    }
    let parameters = parameters.unwrap_or_else(|| {
        let written: Vec<_> =
            capabilities.split(',').flat_map(|name| capability(name, asn)).collect();
        match written.len() {
            0 => vec![0],
            len => [&[len as u8 + 2, 2, len as u8], written.as_slice()].concat(),
        }
    });
    let as_field = u16::try_from(asn).unwrap_or(23456).to_be_bytes();
    [&[version], as_field.as_slice(), &hold.to_be_bytes(), &id, &parameters].concat()
}

fn capability(name: &str, asn: u32) -> Vec<u8> {
    match name {
        "none" => Vec::new(),
        "v4" => vec![1, 4, 0, 1, 0, 1],
        "v6" => vec![1, 4, 0, 2, 0, 1],
        "refresh" => vec![2, 0],
        "by-v6" => vec![5, 6, 0, 1, 0, 1, 0, 2],
        "graceful" => vec![64, 6, 0, 120, 0, 1, 1, 0x80],
        "helper" => vec![64, 2, 0, 0],
        "as4" => [[65, 4].as_slice(), &asn.to_be_bytes()].concat(),
        bytes => hex(bytes),
    }
}

/// A message that the session wrote, in words.
pub fn written(bytes: &[u8], four_octet_as: bool) -> String {
    let kind = bytes[18];
    if kind == 3 {
        let data: String = bytes[21..].iter().map(|byte| format!("{byte:02x}")).collect();
        return format!("notification {} {} {data}", bytes[19], bytes[20]).trim_end().to_owned();
    }
    let mut context = BgpParsingContext::default();
    context.set_asn4(four_octet_as);
    let message = BgpMessage::parse(&mut SliceReader::new(bytes), &mut context)
        .unwrap_or_else(|error| panic!("{error} in {bytes:02x?}"));
    match message {
        BgpMessage::Open(open) => offered(&open),
        BgpMessage::Update(update) => routes(&update),
        BgpMessage::KeepAlive => "keepalive".to_owned(),
        other => panic!("unexpected {other:?}"),
    }
}

fn offered(open: &BgpOpenMessage) -> String {
    let (asn, hold, id) = (open.my_as(), open.hold_time(), open.bgp_id());
    let mut line = format!("open as={asn} hold={hold} id={id}");
    for capability in open.capabilities() {
        line += &match capability {
            BgpCapability::MultiProtocolExtensions(family) => {
                format!(" {:?}", family.address_type())
            }
            BgpCapability::RouteRefresh => " refresh".to_owned(),
            BgpCapability::ExtendedNextHopEncoding(encoding) => {
                let encodings = encoding.encodings().iter().map(|encoding| {
                    format!(" {:?}-by-{:?}", encoding.address_type(), encoding.next_hop_afi())
                });
                encodings.collect()
            }
            BgpCapability::GracefulRestartCapability(graceful) => {
                let restart = if graceful.restart() { "restarting " } else { "" };
                let families = graceful.address_families().iter().map(|family| {
                    let keeps = if family.forwarding_state() { "-kept" } else { "" };
                    format!(" {:?}{keeps}", family.address_type())
                });
                format!(" graceful({restart}{} s{})", graceful.time(), families.collect::<String>())
            }
            BgpCapability::FourOctetAs(asn) => format!(" as4={}", asn.asn4()),
            other => panic!("unexpected {other:?}"),
        };
    }
    line
}

fn routes(update: &BgpUpdateMessage) -> String {
    if let Some(family) = update.end_of_rib() {
        return format!("end-of-rib {family:?}");
    }
    let mut line = "update".to_owned();
    for route in update.withdraw_routes() {
        write!(line, " withdraw {}", route.network()).unwrap();
    }
    for attribute in update.path_attributes() {
        line.push(' ');
        line += &attribute_in_words(attribute);
    }
    for route in update.nlri() {
        write!(line, " route {}", route.network()).unwrap();
    }
    line
}

fn attribute_in_words(attribute: &PathAttribute) -> String {
    match attribute.value() {
        Value::Origin(origin) => format!("origin={origin:?}"),
        Value::AsPath(AsPath::As2PathSegments(path)) => {
            let path = path.iter().map(|segment| format!("{:?}", segment.as_numbers()));
            format!("as2-path={}", path.collect::<String>())
        }
        Value::AsPath(AsPath::As4PathSegments(path)) => {
            let path = path.iter().map(|segment| format!("{:?}", segment.as_numbers()));
            format!("as-path={}", path.collect::<String>())
        }
        Value::As4Path(path) => {
            let path = path.segments().iter().map(|segment| format!("{:?}", segment.as_numbers()));
            format!("as4-path={}", path.collect::<String>())
        }
        Value::NextHop(next_hop) => format!("next-hop={}", next_hop.next_hop()),
        Value::MultiExitDiscriminator(med) => format!("med={}", med.metric()),
        Value::Communities(communities) => {
            let communities = communities.communities().iter();
            let words =
                communities.map(|one| format!("{}:{}", one.value() >> 16, one.value() & 0xffff));
            format!("communities={}", words.collect::<Vec<_>>().join(","))
        }
        Value::ExtendedCommunities(communities) => {
            format!("extended={:?}", communities.communities())
        }
        Value::LargeCommunities(communities) => {
            let words = communities.communities().iter().map(|one| {
                format!("{}:{}:{}", one.global_admin(), one.local_data1(), one.local_data2())
            });
            format!("large={}", words.collect::<Vec<_>>().join(","))
        }
        Value::MpReach(MpReach::Ipv4Unicast { next_hop, next_hop_local, nlri }) => {
            let local = next_hop_local.map(|local| format!("+{local}")).unwrap_or_default();
            let routes = nlri.iter().map(|route| format!(" route {}", route.network()));
            format!("next-hop={next_hop}{local}{}", routes.collect::<String>())
        }
        Value::MpReach(MpReach::Ipv6Unicast { next_hop_global, next_hop_local, nlri }) => {
            let local = next_hop_local.map(|local| format!("+{local}")).unwrap_or_default();
            let routes = nlri.iter().map(|route| format!(" route {}", route.network()));
            format!("next-hop={next_hop_global}{local}{}", routes.collect::<String>())
        }
        Value::MpUnreach(MpUnreach::Ipv4Unicast { nlri }) => {
            let routes = nlri.iter().map(|route| format!(" {}", route.network()));
            format!("mp-withdraw{}", routes.collect::<String>())
        }
        Value::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) => {
            let routes = nlri.iter().map(|route| format!(" {}", route.network()));
            format!("mp-withdraw{}", routes.collect::<String>())
        }
        other => panic!("unexpected {other:?}"),
    }
}
