//! `[[check]]` and `[check_damping]`: how the local service is checked.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use ureq_proto::http::Uri;
use ureq_proto::http::uri::{Authority, Scheme};

use super::error::ConfigError;
use super::reader::{Errors, Field, Located, Section};
use crate::damping::Damping;
use crate::health::{
    CHECKS_MAX, CheckConfig, CommandProbe, DnsProbe, DnsTransport, HttpProbe, ProbeConfig, RCODES,
    Thresholds,
};

/// Bounds of `interval_ms`: below, checks would be a load of their own; above, an hour.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=3_600_000;
const INTERVAL_MS_DEFAULT: u64 = 1000;
const TIMEOUT_MS_DEFAULT: u64 = 500;
const COUNT: std::ops::RangeInclusive<u64> = 1..=100;
const RISE_DEFAULT: u64 = 2;
const FALL_DEFAULT: u64 = 3;
const NAME_MAX: usize = 32;
/// Room for texts that are sent or looked for, bytes.
const TEXT_MAX: usize = 1024;
/// How many arguments a command has at the most.
const ARGUMENTS_MAX: usize = 64;
const DNS_PORT: u64 = 53;

/// Nanoseconds of a second.
const S: u64 = 1_000_000_000;

/// What was read of the checks, to be completed by what the cluster's file says.
pub(super) struct ChecksRead {
    drafts: Vec<Draft>,
    /// `[check_damping]`.
    pub(super) damping: Damping,
}

/// A check whose host may be left to the cluster's file.
struct Draft {
    config: CheckConfig,
    /// The port at the first VIP, unless the check names another address.
    port_at_vip: Option<u16>,
}

impl ChecksRead {
    /// The checks, those that name no address at `vip`.
    pub(super) fn at(self, vip: IpAddr) -> Box<[CheckConfig]> {
        let complete = |Draft { mut config, port_at_vip }| {
            if let Some(port) = port_at_vip {
                let address = SocketAddr::new(vip, port);
                match &mut config.probe {
                    ProbeConfig::Tcp(at) => *at = address,
                    ProbeConfig::Dns(dns) => dns.server = address,
                    ProbeConfig::Http(_) | ProbeConfig::Command(_) => {}
                }
            }
            config
        };
        self.drafts.into_iter().map(complete).collect()
    }
}

/// Reads both tables.
pub(super) fn read(section: &mut Section<'_>, errors: &mut Errors) -> ChecksRead {
    let expected = "one table per check, each with its own header [[check]]";
    let list = section.optional("check", errors, |f| f.elements(expected));
    let mut checks: Vec<(Option<Located<'_, String>>, Option<Draft>)> = Vec::new();
    if let Some(Located { value: fields, place }) = list {
        if fields.len() > CHECKS_MAX {
            let found = format!("{} checks", fields.len());
            errors.push(place.error_found(found, format!("give at most {CHECKS_MAX}")));
        }
        for field in fields {
            match field.section() {
                Ok(section) => checks.push(check(section, errors)),
                Err(error) => errors.push(error),
            }
        }
    }
    let names: Vec<_> = checks.iter().filter_map(|(name, _)| name.as_ref()).collect();
    for (at, name) in names.iter().enumerate() {
        if names[..at].iter().any(|before| before.value == name.value) {
            let remedy = "call each check by a name of its own";
            errors.push(name.place.error(", for the second time", remedy));
        }
    }
    let drafts = checks.into_iter().filter_map(|(_, draft)| draft).collect();
    ChecksRead { drafts, damping: damping(section, errors) }
}

#[derive(Clone, Copy)]
enum Kind {
    Tcp,
    Http,
    Dns,
    Command,
}

fn check<'s>(
    mut section: Section<'s>,
    errors: &mut Errors,
) -> (Option<Located<'s, String>>, Option<Draft>) {
    let name = section.required("name", "name = \"dns\"", errors, name);
    let kinds =
        [("tcp", Kind::Tcp), ("http", Kind::Http), ("dns", Kind::Dns), ("command", Kind::Command)];
    let kind = section.required("type", "type = \"tcp\"", errors, |f| f.choice(&kinds));
    let (interval, timeout) = times(&mut section, errors);
    let mut count = |key, default| {
        section.or_default(key, default, errors, |f| f.integer(COUNT, "a number of turns")) as u32
    };
    let thresholds =
        Thresholds { rise: count("rise", RISE_DEFAULT), fall: count("fall", FALL_DEFAULT) };
    let Some(kind) = kind else {
        // Which keys there may be depends on it.
        return (name, None);
    };
    let probe = match kind.value {
        Kind::Tcp => tcp(&mut section, errors),
        Kind::Http => http(&mut section, errors).map(|probe| (ProbeConfig::Http(probe), None)),
        Kind::Dns => dns(&mut section, errors),
        Kind::Command => {
            command(&mut section, errors).map(|probe| (ProbeConfig::Command(probe), None))
        }
    };
    section.finish(errors);
    let draft = name.as_ref().zip(probe).map(|(name, (probe, port_at_vip))| Draft {
        config: CheckConfig { name: name.value.clone(), probe, interval, timeout, thresholds },
        port_at_vip,
    });
    (name, draft)
}

fn name(field: &Field<'_>) -> Result<String, ConfigError> {
    let expected = format!("a name of 1 to {NAME_MAX} letters, digits, '-', '_' and '.'");
    let text = field.text(&expected)?;
    let fits = (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits { Ok(text.to_owned()) } else { Err(field.place.error("", format!("give {expected}"))) }
}

/// `interval_ms` and `timeout_ms`.
fn times(section: &mut Section<'_>, errors: &mut Errors) -> (Duration, Duration) {
    let interval_ms = section.or_default("interval_ms", INTERVAL_MS_DEFAULT, errors, |f| {
        f.integer(INTERVAL_MS, "milliseconds")
    });
    let timeout = section
        .optional("timeout_ms", errors, |f| f.integer(1..=*INTERVAL_MS.end(), "milliseconds"));
    let timeout_ms = match timeout {
        None => TIMEOUT_MS_DEFAULT.min(interval_ms),
        Some(timeout) => {
            if timeout.value > interval_ms {
                let why = format!(", longer than the interval of {interval_ms} ms");
                let remedy = "give a time that is over before the next turn";
                errors.push(timeout.place.error(&why, remedy));
            }
            timeout.value
        }
    };
    (Duration::from_millis(interval_ms), Duration::from_millis(timeout_ms))
}

/// A probe, and the port if it is to be at the first VIP.
type Drafted = (ProbeConfig, Option<u16>);

/// What stands for the address of the first VIP until that is known.
const AT_VIP: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

fn tcp(section: &mut Section<'_>, errors: &mut Errors) -> Option<Drafted> {
    if !section.has("address") {
        let port = section.required("port", "port = 53", errors, port)?.value;
        return Some((ProbeConfig::Tcp(AT_VIP), Some(port)));
    }
    let address = section.optional("address", errors, socket_address);
    if let Some(port) = section.take("port") {
        let remedy = "give the port in `address`, or without one, for the first VIP";
        errors.push(port.place.error(", beside an address", remedy));
    }
    Some((ProbeConfig::Tcp(address?.value), None))
}

fn dns(section: &mut Section<'_>, errors: &mut Errors) -> Option<Drafted> {
    let example = "query_name = \"www.example.\"";
    let name = section.required("query_name", example, errors, query_name);
    let record_type = section.or_default("query_type", RecordType::A, errors, query_type);
    let transports = [("udp", DnsTransport::Udp), ("tcp", DnsTransport::Tcp)];
    let transport =
        section.or_default("transport", DnsTransport::Udp, errors, |f| f.choice(&transports));
    let rcode = section.or_default("rcode", RCODES[0].1, errors, |f| f.choice(&RCODES));
    let answer = section.optional("answer", errors, text);
    let port = section.or_default("port", DNS_PORT as u16, errors, port);
    let server = section.optional("server", errors, host);
    let (server, port_at_vip) = match server {
        Some(server) => (SocketAddr::new(server.value, port), None),
        None => (AT_VIP, Some(port)),
    };
    let probe = DnsProbe {
        server,
        transport,
        name: name?.value,
        record_type,
        rcode,
        answer: answer.map(|answer| answer.value),
    };
    Some((ProbeConfig::Dns(probe), port_at_vip))
}

fn http(section: &mut Section<'_>, errors: &mut Errors) -> Option<HttpProbe> {
    let example = "url = \"http://192.0.2.53/healthz\"";
    let url = section.required("url", example, errors, url);
    let statuses = section.or_default("status", vec![200], errors, statuses);
    let body = section.optional("body", errors, text);
    let host = section.optional("host", errors, authority);
    let verify = section.optional("verify", errors, Field::boolean);
    let url = url?.value;
    if let Some(verify) = &verify
        && !url.secure
    {
        errors.push(verify.place.error(", without TLS", "remove it, or give a url with https"));
    }
    Some(HttpProbe {
        secure: url.secure,
        address: url.address,
        host: host.map_or(url.host, |host| host.value),
        path: url.path,
        statuses: statuses.into(),
        body: body.map(|body| body.value),
        verify: verify.is_none_or(|verify| verify.value),
    })
}

fn command(section: &mut Section<'_>, errors: &mut Errors) -> Option<CommandProbe> {
    const EXPECTED: &str =
        "a list of the program's absolute path and its arguments, for example [\"/usr/bin/true\"]";
    let list = section.required("command", "command = [\"/usr/bin/true\"]", errors, |f| {
        let elements = f.elements(EXPECTED)?;
        if elements.is_empty() || elements.len() > ARGUMENTS_MAX {
            let found = format!("{} words", elements.len());
            return Err(f.place.error_found(found, format!("give {EXPECTED}")));
        }
        Ok(elements)
    });
    let mut words = Vec::new();
    for (at, field) in list?.value.iter().enumerate() {
        let text = match field.text("a string") {
            Ok(text) => text,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        if text.contains('\0') || at == 0 && !text.starts_with('/') {
            errors.push(field.place.error("", format!("give {EXPECTED}")));
        } else {
            words.push(text.to_owned());
        }
    }
    let mut words = words.into_iter();
    Some(CommandProbe { program: words.next()?, arguments: words.collect() })
}

fn port(field: &Field<'_>) -> Result<u16, ConfigError> {
    field.integer(1..=65_535, "a port").map(|port| port as u16)
}

/// An address that a host can have, loopback addresses too.
fn host(field: &Field<'_>) -> Result<IpAddr, ConfigError> {
    const EXPECTED: &str = "an address of the service, for example \"192.0.2.53\"";
    let address: IpAddr = field.parsed(EXPECTED)?;
    check_host(field, address, EXPECTED)?;
    Ok(address)
}

fn check_host(field: &Field<'_>, address: IpAddr, expected: &str) -> Result<(), ConfigError> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let why = match address {
        _ if address.is_unspecified() => ", the unspecified address",
        _ if address.is_multicast() || broadcast => ", an address of many hosts",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => ", a link-local address",
        _ => return Ok(()),
    };
    Err(field.place.error(why, format!("give {expected}")))
}

fn socket_address(field: &Field<'_>) -> Result<SocketAddr, ConfigError> {
    const EXPECTED: &str =
        "an address and a port, for example \"192.0.2.53:80\" or \"[2001:db8:53::53]:80\"";
    let address: SocketAddr = field.parsed(EXPECTED)?;
    check_host(field, address.ip(), EXPECTED)?;
    if address.port() == 0 {
        return Err(field.place.error(", port 0", format!("give {EXPECTED}")));
    }
    Ok(address)
}

fn query_name(field: &Field<'_>) -> Result<Name, ConfigError> {
    let mut name: Name =
        field.parsed("a domain name of labels of up to 63 bytes, for example \"www.example.\"")?;
    name.set_fqdn(true);
    Ok(name)
}

fn query_type(field: &Field<'_>) -> Result<RecordType, ConfigError> {
    const EXPECTED: &str = "a record type, for example \"A\" or \"SOA\"";
    match field.parsed(EXPECTED)? {
        // They ask for something else than an answer.
        RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::ZERO => {
            Err(field.place.error("", format!("give {EXPECTED}")))
        }
        record_type => Ok(record_type),
    }
}

/// What an answer is to hold.
fn text(field: &Field<'_>) -> Result<String, ConfigError> {
    let expected = format!("a text of 1 to {TEXT_MAX} bytes");
    let text = field.text(&expected)?;
    if !(1..=TEXT_MAX).contains(&text.len()) {
        return Err(field.place.error("", format!("give {expected}")));
    }
    Ok(text.to_owned())
}

/// `status`: one, or a list.
fn statuses(field: &Field<'_>) -> Result<Vec<u16>, ConfigError> {
    let status =
        |field: &Field<'_>| field.integer(200..=599, "a status").map(|status| status as u16);
    let Ok(elements) = field.elements("") else { return Ok(vec![status(field)?]) };
    if elements.is_empty() {
        return Err(field.place.error("", "name at least one status"));
    }
    elements.iter().map(status).collect()
}

/// `host`: a name or an address, with or without a port.
fn authority(field: &Field<'_>) -> Result<String, ConfigError> {
    const EXPECTED: &str = "a host's name, with or without a port, for example \"www.example\"";
    let authority: Authority = field.parsed(EXPECTED)?;
    let text = authority.as_str();
    if text.contains('@') || authority.host().is_empty() || text.len() > TEXT_MAX {
        return Err(field.place.error("", format!("give {EXPECTED}")));
    }
    Ok(text.to_owned())
}

/// What a URL says.
struct Url {
    secure: bool,
    address: SocketAddr,
    host: String,
    path: String,
}

fn url(field: &Field<'_>) -> Result<Url, ConfigError> {
    const EXPECTED: &str = "a URL with an address in it, for example \"http://192.0.2.53/healthz\"";
    let wrong = |why: &str| field.place.error(why, format!("give {EXPECTED}"));
    let uri: Uri = field.parsed(EXPECTED)?;
    let secure = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => false,
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        _ => return Err(wrong(", neither http nor https")),
    };
    let authority = uri.authority().ok_or_else(|| wrong(""))?;
    let literal = authority.host().trim_start_matches('[').trim_end_matches(']');
    let Ok(address) = literal.parse::<IpAddr>() else {
        let remedy = "give the service's address here, and its name as `host`: a check asks no DNS";
        return Err(field.place.error(", without an address", remedy));
    };
    check_host(field, address, EXPECTED)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if authority.as_str().contains('@') || path.len() > TEXT_MAX {
        return Err(wrong(""));
    }
    let port = match authority.port() {
        None => Some(if secure { 443 } else { 80 }),
        Some(port) => Some(port.as_u16()).filter(|&port| port != 0),
    };
    let port = port.ok_or_else(|| wrong(", with port 0"))?;
    let address = SocketAddr::new(address, port);
    Ok(Url { secure, address, host: authority.as_str().to_owned(), path: path.to_owned() })
}

/// `[check_damping]`.
fn damping(section: &mut Section<'_>, errors: &mut Errors) -> Damping {
    const PENALTIES: std::ops::RangeInclusive<u64> = 1..=1_000_000;
    let defaults = Damping::DEFAULT;
    let Some(mut table) = section.table("check_damping", errors) else { return defaults };
    let before = errors.len();
    let mut integer = |key, default: u64, range, what: &str| {
        table.or_default(key, default, errors, |f| f.integer(range, what))
    };
    let damping = Damping {
        penalty: integer("penalty", defaults.penalty.into(), 0..=1_000_000, "a penalty") as u32,
        half_life_ns: S * integer("half_life_s", defaults.half_life_ns / S, 1..=3600, "seconds"),
        suppress: integer("suppress", defaults.suppress.into(), PENALTIES, "a penalty") as u32,
        reuse: integer("reuse", defaults.reuse.into(), PENALTIES, "a penalty") as u32,
        max_ns: S * integer("max_s", defaults.max_ns / S, 1..=72_000, "seconds"),
    };
    let place = table.place.clone();
    table.finish(errors);
    if errors.len() > before {
        return defaults;
    }
    if damping.reuse >= damping.suppress {
        let found = format!("reuse {} and suppress {}", damping.reuse, damping.suppress);
        let remedy = "give a `reuse` below `suppress`: what is kept out is taken back there";
        errors.push(place.error_found(found, remedy));
    } else if damping.ceiling() < u64::from(damping.suppress) + u64::from(damping.penalty) {
        // A penalty that is cut off when it is given would let flapping through.
        let found = format!("a max_s of {} s", damping.max_ns / S);
        let remedy = "give a longer one, or a shorter `half_life_s`: `suppress` and `penalty` \
                      together must decay to `reuse` in that time";
        errors.push(place.error_found(found, remedy));
    } else {
        return damping;
    }
    defaults
}
