//! `[[check]]` and `[check_damping]`: what is read from them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use vipdp::config::{Config, Source};
use vipdp::damping::Damping;
use vipdp::health::{
    CheckConfig, CommandProbe, DnsProbe, DnsTransport, HttpProbe, ProbeConfig, Thresholds,
};

const S: u64 = 1_000_000_000;

fn config(case: &str) -> Config {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config");
    let config = Config::from_sources(Path::new("node.toml"), |path| {
        let own = fixtures.join(case).join(path);
        let file = if own.exists() { own } else { fixtures.join("base").join(path) };
        Ok(Source { text: fs::read_to_string(file)?, mode: 0o600 })
    });
    config.unwrap_or_else(|errors| panic!("{case}:\n{errors}"))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn without_the_tables_nothing_is_checked_and_damping_is_that_of_failback() {
    let node = config("base").node;
    assert!(node.checks.is_empty());
    let damping = Damping {
        penalty: 1000,
        half_life_ns: 60 * S,
        suppress: 2500,
        reuse: 1000,
        max_ns: 300 * S,
    };
    assert_eq!(node.check_damping, damping);
}

#[test]
fn checks_are_at_the_first_vip_unless_they_say_where() {
    let node = config("good/checks").node;
    let thresholds = Thresholds { rise: 2, fall: 3 };
    let (interval, timeout) = (Duration::from_secs(1), Duration::from_millis(500));
    let dns = DnsProbe {
        server: address("192.0.2.53:53"),
        transport: DnsTransport::Udp,
        name: "www.example.".parse().unwrap(),
        record_type: RecordType::A,
        rcode: ResponseCode::NoError,
        answer: None,
    };
    let nxdomain = DnsProbe {
        server: address("[2001:db8:53::53]:5353"),
        transport: DnsTransport::Tcp,
        name: "nothing.example.".parse().unwrap(),
        record_type: RecordType::AAAA,
        rcode: ResponseCode::NXDomain,
        answer: None,
    };
    let web = HttpProbe {
        secure: false,
        address: address("192.0.2.53:80"),
        host: "192.0.2.53".into(),
        path: "/".into(),
        statuses: [200].into(),
        body: None,
        verify: true,
    };
    let tls = HttpProbe {
        secure: true,
        address: address("[2001:db8:53::53]:8443"),
        host: "www.example:8443".into(),
        path: "/healthz?deep=1".into(),
        statuses: [200, 204].into(),
        body: Some("\"status\":\"ok\"".into()),
        verify: false,
    };
    let script = CommandProbe {
        program: "/usr/local/bin/check".into(),
        arguments: ["--all".to_owned()].into(),
    };
    let check =
        |name: &str, probe| CheckConfig { name: name.into(), probe, interval, timeout, thresholds };
    let expected = [
        check("port", ProbeConfig::Tcp(address("192.0.2.53:53"))),
        CheckConfig {
            interval: Duration::from_millis(100),
            // As long as there is, below the half second that others have.
            timeout: Duration::from_millis(100),
            thresholds: Thresholds { rise: 1, fall: 1 },
            ..check("backend", ProbeConfig::Tcp(address("[::1]:8080")))
        },
        check("dns", ProbeConfig::Dns(dns.clone())),
        CheckConfig {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            ..check("resolver", ProbeConfig::Dns(nxdomain))
        },
        check("answer", ProbeConfig::Dns(DnsProbe { answer: Some("192.0.2.80".into()), ..dns })),
        check("web", ProbeConfig::Http(web)),
        check("tls", ProbeConfig::Http(tls)),
        check("script", ProbeConfig::Command(script)),
    ];
    assert_eq!(*node.checks, expected);
}

#[test]
fn damping_is_what_the_table_says() {
    let damping =
        Damping { penalty: 500, half_life_ns: 30 * S, suppress: 2000, reuse: 750, max_ns: 120 * S };
    assert_eq!(config("good/checks").node.check_damping, damping);
}

#[test]
fn checks_are_each_nodes_own() {
    assert_eq!(config("good/checks").cluster_hash, config("base").cluster_hash);
}
