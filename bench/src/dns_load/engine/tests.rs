//! The engine against servers on the loopback interface whose every response is chosen by the test.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Parser as _;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{DNSClass, RData, Record};

use super::*;
use crate::dns_load::Family;

/// What a server does with the `n`-th query: the responses it sends.
type Behaviour = fn(n: u64, query: &Message) -> Vec<Vec<u8>>;

/// A server on a loopback address; it ends with the value.
struct Server {
    port: u16,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(address: IpAddr, port: u16, behaviour: Behaviour) -> Self {
        let socket = UdpSocket::bind(SocketAddr::new(address, port)).unwrap();
        let port = socket.local_addr().unwrap().port();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || serve(&socket, behaviour, &over));
        Self { port, is_over, thread: Some(thread) }
    }

    /// An IPv4 and an IPv6 server at one port.
    fn pair(behaviour: Behaviour) -> [Self; 2] {
        let v4 = Self::start(Ipv4Addr::LOCALHOST.into(), 0, behaviour);
        let v6 = Self::start(Ipv6Addr::LOCALHOST.into(), v4.port, behaviour);
        [v4, v6]
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn serve(socket: &UdpSocket, behaviour: Behaviour, is_over: &AtomicBool) {
    let mut datagram = [0; 512];
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut datagram) else { continue };
        let query = Message::from_vec(&datagram[..length]).unwrap();
        for response in behaviour(number, &query) {
            socket.send_to(&response, client).unwrap();
        }
        number += 1;
    }
}

fn respond(query: &Message, identity: &str) -> Message {
    let mut message = query.clone().into_response();
    let data = RData::TXT(TXT::new(vec![identity.to_owned()]));
    let mut record = Record::from_rdata(query.queries[0].name.clone(), 0, data);
    record.dns_class = DNSClass::CH;
    message.add_answer(record);
    message
}

fn answer(query: &Message, identity: &str) -> Vec<u8> {
    respond(query, identity).to_vec().unwrap()
}

fn load(port: u16, arguments: &str) -> Report {
    let arguments = format!("dns-load --port {port} --linger-ms 50 {arguments}");
    let options = Options::try_parse_from(arguments.split_whitespace()).unwrap();
    run(&options, None).unwrap()
}

const V4: &str = "--server 127.0.0.1 --sources 127.64.0.0/16";

#[test]
fn every_query_is_answered_once_from_a_source_of_its_own() {
    let servers = Server::pair(|number, query| {
        vec![answer(query, if number % 4 == 0 { "n1" } else { "n2" })]
    });
    let both = "--server ::1 --sources ::1/128 --queries 800 --rate 4000";
    let report = load(servers[0].port, &format!("{V4} {both}"));
    assert_eq!(report.totals.sent, 800);
    assert_eq!(report.totals.answered, 800, "{report}");
    assert_eq!(report.totals.duplicates, 0);
    assert_eq!(report.families[&Family::Ipv4].sent, 400);
    assert_eq!(report.families[&Family::Ipv6].answered, 400);
    assert_eq!(report.nodes["n1"].answers, 200);
    assert_eq!(report.nodes["n2"].ipv6, 300);
    assert!((report.nodes["n2"].share - 0.75).abs() < 1e-9);
    assert_eq!(report.unexpected, Default::default());
    assert!(report.latency_us.max > 0 && report.latency_us.min <= report.latency_us.p50);
}

#[test]
fn the_schedule_is_kept() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into(), 0, |_, query| vec![answer(query, "n1")]);
    let report = load(server.port, &format!("{V4} --queries 501 --rate 1000"));
    assert_eq!(report.totals.sent, 501);
    assert!(report.sending_ns >= 499_000_000, "{} ns", report.sending_ns);
    let ideal_ns = 500_000_000;
    assert!(report.sending_ns - ideal_ns <= report.behind_max_ns, "a late query delayed others");
}

#[test]
fn unanswered_queries_are_lost_with_the_time_they_were_sent() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into(), 0, |number, query| {
        if (20..30).contains(&number) { vec![] } else { vec![answer(query, "n1")] }
    });
    let report = load(server.port, &format!("{V4} --queries 100 --rate 1000 --timeout-ms 400"));
    assert_eq!(report.totals.lost, 10, "{report}");
    assert_eq!(report.totals.answered, 90);
    let sent: Vec<u64> =
        report.lost.iter().map(|lost| lost.sent_at_ns - report.started_at_ns).collect();
    assert!(sent.is_sorted());
    assert!(sent[0] >= 20_000_000, "{sent:?}");
    let last = 29_000_000 + report.behind_max_ns + 1_000_000;
    assert!(sent[9] <= last, "{sent:?}");
    for lost in &report.lost {
        let wall = lost.sent_at_wall_ns - report.started_at_wall_ns;
        let monotonic = lost.sent_at_ns - report.started_at_ns;
        assert!(wall.abs_diff(monotonic) < 20_000_000, "{wall} against {monotonic}");
    }
}

#[test]
fn a_second_response_is_a_duplicate_and_no_answer() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into(), 0, |number, query| {
        let mut responses = vec![answer(query, "n1")];
        if number % 10 == 0 {
            responses.push(answer(query, "n2"));
        }
        responses
    });
    let report = load(server.port, &format!("{V4} --queries 200 --rate 2000"));
    assert_eq!(report.totals.answered, 200, "{report}");
    assert_eq!(report.totals.duplicates, 20);
    assert_eq!(report.nodes.len(), 1);
}

#[test]
fn responses_to_other_queries_do_not_settle_one() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into(), 0, |_, query| {
        let mut foreign = respond(query, "n1");
        foreign.metadata.id ^= 1;
        vec![foreign.to_vec().unwrap(), b"not DNS".to_vec()]
    });
    let report = load(server.port, &format!("{V4} --queries 20 --timeout-ms 300"));
    assert_eq!(report.totals.lost, 20, "{report}");
    assert_eq!((report.unexpected.foreign, report.unexpected.malformed), (20, 20));
    assert_eq!(report.unexpected.wrong_source, 0);
}

#[test]
fn responses_from_elsewhere_do_not_settle_a_query() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into(), 0, |_, _| vec![]);
    let options = format!("dns-load --port {} {V4} --queries 1 --timeout-ms 500", server.port);
    let options = Options::try_parse_from(options.split_whitespace()).unwrap();
    let mut engine = Engine::new(&options, None).unwrap();
    engine.send(0, 0).unwrap();
    let client = engine.open[&0].socket.local_addr().unwrap();
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    elsewhere.send_to(b"spoofed", client).unwrap();
    engine.receive(0).unwrap();
    assert_eq!(engine.tally.unexpected.wrong_source, 1);
    assert!(!engine.open[&0].settled);
}

#[test]
fn errors_settle_a_query_and_are_no_answers() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into(), 0, |_, query| {
        let mut refused = query.clone().into_response();
        refused.metadata.response_code = ResponseCode::Refused;
        vec![refused.to_vec().unwrap()]
    });
    let report = load(server.port, &format!("{V4} --queries 20"));
    assert_eq!((report.totals.failures, report.totals.answered, report.totals.lost), (20, 0, 0));
}

#[test]
fn sockets_close_early_before_the_rate_suffers() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into(), 0, |_, query| vec![answer(query, "n1")]);
    let options =
        format!("dns-load --port {} {V4} --queries 400 --rate 2000 --linger-ms 5000", server.port);
    let options = Options::try_parse_from(options.split_whitespace()).unwrap();
    let mut engine = Engine::new(&options, None).unwrap();
    engine.sockets_max = 100;
    engine.linger_ns = 300_000_000;
    let report = engine.run().unwrap();
    assert_eq!(report.totals.answered, 400, "{report}");
    assert!(report.closed_early > 0, "{report}");
    assert!(report.behind_max_ns < 200_000_000, "waited for lingering sockets: {report}");
}

#[test]
fn a_stop_ends_sending_and_waits_for_what_is_under_way() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into(), 0, |_, _| vec![]);
    let options = format!("dns-load --port {} {V4} --rate 1000 --timeout-ms 200", server.port);
    let options = Options::try_parse_from(options.split_whitespace()).unwrap();
    let (stop, stopper) = UnixStream::pair().unwrap();
    let load = std::thread::spawn(move || run(&options, Some(stop.as_fd())).unwrap());
    drop(stopper);
    let report = load.join().unwrap();
    assert_eq!(report.totals.lost, report.totals.sent, "{report}");
}

#[test]
fn distinct_sources_are_promised_or_refused() {
    let run_with = |arguments: &str| {
        let arguments = format!("dns-load --distinct --server 127.0.0.1 {arguments}");
        let options = Options::try_parse_from(arguments.split_whitespace()).unwrap();
        run(&options, None)
    };
    let short = run_with("--sources 127.64.0.0/28 --queries 16").unwrap_err();
    assert!(matches!(short, EngineError::Plan(PlanError::TooFewSources { .. })), "{short}");
    let endless = run_with("--sources 127.64.0.0/16").unwrap_err();
    assert!(matches!(endless, EngineError::DistinctWithoutEnd), "{endless}");
}
