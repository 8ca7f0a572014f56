//! DNS probes, against knot and against servers that go wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use vipdp::health::{DnsProbe, DnsTransport, ProbeConfig};

use crate::lab::{Program, VIP, ask, assert_gives_up, in_a_namespace, port};

const CONFIG: &str = r#"
server:
    rundir: "DIRECTORY"
    listen: [ "0.0.0.0@53", "::@53" ]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "DIRECTORY"
    journal-db-max-size: 1M
    kasp-db-max-size: 5M
    timer-db-max-size: 1M
template:
  - id: default
    storage: "DIRECTORY"
    journal-content: none
    zonefile-sync: -1
zone:
  - domain: example.
    file: example.zone
"#;

/// The zone; `big` fits no message over UDP.
fn zone() -> String {
    let chunk = "x".repeat(200);
    let big: String = std::iter::repeat_n(format!("\"{chunk}\" "), 10).collect();
    format!(
        "$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 3600\n NS ns\nns A 192.0.2.53\n\
         www A 198.51.100.80\n A 198.51.100.81\nbig TXT ( {big} )\n"
    )
}

fn knot() -> Program {
    let address = SocketAddr::new(VIP.parse().unwrap(), 53);
    Program::start(
        "knotd -c DIRECTORY/knot.conf",
        &[("knot.conf", CONFIG), ("example.zone", &zone())],
    )
    .listening(address)
}

fn asks(name: &str) -> DnsProbe {
    DnsProbe {
        server: SocketAddr::new(VIP.parse().unwrap(), 53),
        transport: DnsTransport::Udp,
        name: name.parse().unwrap(),
        record_type: RecordType::A,
        rcode: ResponseCode::NoError,
        answer: None,
    }
}

/// What a check by the probe finds, over UDP and over TCP alike.
#[track_caller]
fn found(probe: &DnsProbe) -> Result<(), String> {
    let [udp, tcp] = [DnsTransport::Udp, DnsTransport::Tcp]
        .map(|transport| ask(&ProbeConfig::Dns(DnsProbe { transport, ..probe.clone() })));
    assert_eq!(udp, tcp);
    udp
}

fn error(text: &str) -> Result<(), String> {
    Err(text.to_owned())
}

#[test]
fn a_server_is_judged_by_its_response_code_and_its_answers() {
    in_a_namespace(|| {
        let _knot = knot();
        let www = asks("www.example.");
        let soa = DnsProbe { record_type: RecordType::SOA, ..asks("example.") };
        assert_eq!(found(&www), Ok(()));
        assert_eq!(found(&soa), Ok(()));
        let over_v6 = DnsProbe { server: "[::1]:53".parse().unwrap(), ..www.clone() };
        assert_eq!(found(&over_v6), Ok(()));

        let nothing = asks("nothing.example.");
        assert_eq!(found(&nothing), error("response code NXDOMAIN"));
        let nothing = DnsProbe { rcode: ResponseCode::NXDomain, ..nothing };
        assert_eq!(found(&nothing), Ok(()));
        assert_eq!(found(&asks("www.example.net.")), error("response code REFUSED"));

        let answer = |text: &str, probe: &DnsProbe| DnsProbe {
            answer: Some(text.to_owned()),
            ..probe.clone()
        };
        assert_eq!(found(&answer("198.51.100.81", &www)), Ok(()));
        assert_eq!(found(&answer("hostmaster", &soa)), Ok(()));
        let wrong = found(&answer("192.0.2.1", &www)).unwrap_err();
        assert!(
            wrong.starts_with("the answers do not hold \"192.0.2.1\": 198.51.100.8"),
            "{wrong}"
        );
        let none = DnsProbe { record_type: RecordType::AAAA, ..answer("2001:db8::1", &www) };
        let none = found(&none);
        assert_eq!(none, error("the answers do not hold \"2001:db8::1\": there are none"));
    });
}

#[test]
fn what_is_truncated_over_udp_is_asked_for_over_tcp() {
    in_a_namespace(|| {
        let _knot = knot();
        let answer = Some("x".repeat(200));
        let big = DnsProbe { record_type: RecordType::TXT, answer, ..asks("big.example.") };
        assert_eq!(found(&big), Ok(()));
    });
}

#[test]
fn a_port_that_nobody_has_is_told_at_once() {
    in_a_namespace(|| {
        let [udp, tcp] = [DnsTransport::Udp, DnsTransport::Tcp].map(|transport| {
            ask(&ProbeConfig::Dns(DnsProbe { transport, ..asks("www.example.") })).unwrap_err()
        });
        assert!(udp.ends_with("Connection refused (os error 111)"), "{udp}");
        assert!(tcp.ends_with("Connection refused (os error 111)"), "{tcp}");
    });
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    in_a_namespace(|| {
        let server = SocketAddr::new(VIP.parse().unwrap(), port());
        let silent = UdpSocket::bind(server).unwrap();
        assert_gives_up(&ProbeConfig::Dns(DnsProbe { server, ..asks("www.example.") }));
        drop(silent);
        let silent = TcpListener::bind(server).unwrap();
        let transport = DnsTransport::Tcp;
        assert_gives_up(&ProbeConfig::Dns(DnsProbe { server, transport, ..asks("example.") }));
        drop(silent);
    });
}

#[test]
fn datagrams_that_answer_something_else_are_not_taken_for_the_answer() {
    in_a_namespace(|| {
        let server = SocketAddr::new(VIP.parse().unwrap(), port());
        let socket = UdpSocket::bind(server).unwrap();
        let liar = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (len, client) = socket.recv_from(&mut buffer).unwrap();
            let query = Message::from_vec(&buffer[..len]).unwrap();
            let mut wrong = query.clone().into_response();
            wrong.metadata.response_code = ResponseCode::ServFail;
            wrong.metadata.id = query.metadata.id.wrapping_add(1);
            let other_question = {
                let mut message = query.clone().into_response();
                message.metadata.response_code = ResponseCode::ServFail;
                message.queries[0].set_query_type(RecordType::MX);
                message
            };
            socket.send_to(&wrong.to_vec().unwrap(), client).unwrap();
            socket.send_to(&other_question.to_vec().unwrap(), client).unwrap();
            socket.send_to(b"no DNS", client).unwrap();
            socket.send_to(&buffer[..len], client).unwrap();
            let mut right = query.into_response();
            right.metadata.response_code = ResponseCode::NXDomain;
            socket.send_to(&right.to_vec().unwrap(), client).unwrap();
        });
        let rcode = ResponseCode::NXDomain;
        let probe = DnsProbe { server, rcode, ..asks("www.example.") };
        assert_eq!(ask(&ProbeConfig::Dns(probe)), Ok(()));
        liar.join().unwrap();
    });
}

#[test]
fn what_is_no_dns_over_tcp_is_an_error() {
    in_a_namespace(|| {
        let server = SocketAddr::new(VIP.parse().unwrap(), port());
        let listener = TcpListener::bind(server).unwrap();
        let liar = std::thread::spawn(move || {
            for answer in [&b"\0\x05hello"[..], b"\0\x20short"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut query = [0; 31];
                stream.read_exact(&mut query).unwrap();
                stream.write_all(answer).unwrap();
            }
        });
        let transport = DnsTransport::Tcp;
        let probe = ProbeConfig::Dns(DnsProbe { server, transport, ..asks("www.example.") });
        let no_message = ask(&probe).unwrap_err();
        assert!(no_message.starts_with("no DNS response: "), "{no_message}");
        let cut_off = ask(&probe).unwrap_err();
        assert!(cut_off.starts_with("receiving the response: "), "{cut_off}");
        liar.join().unwrap();
    });
}
