//! The host that vipdp runs on: its own traffic while vipdp runs, and what is left afterwards.
//!
//! ```text
//!   vd-client --- vd-router --(lan)-- br0 -+- vd-n1   a kernel without VIPs
//!    ping, Transfers  Injector,            +- vd-n2   the host: vipdp comes and goes
//!    dns-load         Capture
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::sys::signal::Signal;
use vipdp_tests::host::HostState;
use vipdp_tests::inject::Injector;
use vipdp_tests::lab::{Lab, Options, VIPS};
use vipdp_tests::load::{Load, Report};
use vipdp_tests::namespace::Namespace;
use vipdp_tests::question::{Answers, Questions, answers};
use vipdp_tests::transfer::{Plan, Transfer, plans};
use vipdp_tests::vipdp::{self, Config, Vipdp};

/// The host's own addresses.
const OWN: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 12)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x12)),
];
/// How long answers may take.
const SOON: Duration = Duration::from_secs(5);

/// A lab without vipdp, and its host on which vipdp has never run.
fn pristine_host() -> (Lab, Namespace) {
    let lab = Lab::up(&Options { nodes: 2, has_vipdp: false, ..Options::default() });
    // Without vipdp the lab gives the VIPs to the kernel of its first node.
    for vip in VIPS {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        lab.namespace("n1").run(&format!("ip address delete {vip}/{bits} dev eth0"));
    }
    let host = lab.namespace("n2");
    (lab, host)
}

/// Connections from the client to the host's own addresses, as ssh would be.
fn own_connections(lab: &Lab, seconds: u32) -> Vec<Transfer> {
    let to_own =
        |plan: Plan| Plan { server: if plan.source.is_ipv4() { OWN[0] } else { OWN[1] }, ..plan };
    let plans: Vec<_> = plans(1, 6, seconds, 50).into_iter().map(to_own).collect();
    Transfer::start_all(lab, &plans)
}

#[track_caller]
fn assert_all_finish(transfers: Vec<Transfer>) {
    let broken: Vec<_> = transfers.into_iter().filter_map(|one| one.finish().err()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Every one of 100 pings to each own address is answered once.
#[track_caller]
fn assert_own_pings(lab: &Lab) {
    for own in OWN {
        let line = format!("ping -q -c 100 -i 0.01 -W 1 {own}");
        let said = lab.namespace("client").run(&line);
        assert!(said.contains("100 received, 0% packet loss"), "{said}");
        assert!(!said.contains("duplicates"), "{said}");
    }
}

#[track_caller]
fn assert_unchanged(host: &Namespace, before: &HostState) {
    let changes = HostState::read(host).changes_since(before);
    assert!(changes.is_empty(), "the host is not as it was:\n{}", changes.join("\n"));
}

/// Runs vipdp under load, with traffic to the host's own addresses, and stops it. Returns what
/// became of the load.
fn run_and_stop(lab: &Lab, host: &Namespace, config: &Config) -> Report {
    // Whoever had the VIPs before had another MAC address.
    lab.namespace("router").run("ip neighbour flush all");
    let before = HostState::read(host);
    // Opened before vipdp comes, and open when it has gone.
    let connections = own_connections(lab, 8);
    let vipdp = Vipdp::start(host, config);
    lab.say("vipdp runs");
    let load = Load::start(lab, "--rate 500");
    assert_own_pings(lab);
    let more = own_connections(lab, 1);
    assert_all_finish(more);
    let changes = HostState::read(host).changes_since(&before);
    assert!(!changes.is_empty(), "vipdp runs, and nothing of it is seen on the host");
    let report = load.stop();

    let status = vipdp.end(Signal::SIGTERM);
    assert!(status.success(), "vipdp ended: {status}");
    lab.say("vipdp has stopped");
    assert_unchanged(host, &before);
    assert_own_pings(lab);
    assert_all_finish(connections);
    report
}

#[test]
fn own_traffic_is_untouched_and_a_stop_leaves_the_host_as_it_was() {
    let (lab, host) = pristine_host();
    lab.say("unicast, direct, adaptive");
    let report = run_and_stop(&lab, &host, &Config::write("unicast", "direct", "adaptive"));
    report.assert_all_answered_once();

    lab.say("multicast, tap, busy");
    let report = run_and_stop(&lab, &host, &Config::write("multicast", "tap", "busy"));
    // A worker that spins takes a core from whoever else wants it. On a machine with two of them
    // the DNS server's socket may overflow, which is no fault of the worker's.
    report.assert_no_duplicates();
    assert!(report.families.values().all(|family| family.answered > 0), "{report:?}");
}

#[test]
fn a_killed_vipdp_answers_for_nothing_and_what_it_left_is_restored() {
    let (lab, host) = pristine_host();
    // The one that leaves the most behind.
    let config = Config::write("multicast", "tap", "busy");
    let before = HostState::read(&host);
    let router = lab.namespace("router");
    let injector = Injector::open(&router, "lan");

    let vipdp = Vipdp::start(&host, &config);
    let interface = vipdp.status().expect("vipdp answers").interface;
    let questions = Questions::new(&injector, &interface, 10);
    let capture = Questions::capture(&injector, &router, "lan");
    questions.ask(&injector);
    questions.assert_answered_once(&capture, SOON);
    lab.say("a running vipdp answers");

    let connections = own_connections(&lab, 4);
    vipdp.end(Signal::SIGKILL);
    let capture = Questions::capture(&injector, &router, "lan");
    questions.ask(&injector);
    // These come after the questions, and are answered by the same kernel.
    assert_own_pings(&lab);
    assert_eq!(answers(&capture.frames()), Answers::new());
    lab.say("a killed one does not");
    assert_all_finish(connections);
    let left = HostState::read(&host).changes_since(&before);
    assert!(!left.is_empty(), "a killed vipdp leaves nothing: this test tests nothing");

    let cleanup = vipdp::run(&host, &["cleanup"], &config.path());
    assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
    assert_unchanged(&host, &before);
    assert_own_pings(&lab);
    lab.say("cleaned up");

    Vipdp::start(&host, &config).end(Signal::SIGKILL);
    let vipdp = Vipdp::start(&host, &config);
    let capture = Questions::capture(&injector, &router, "lan");
    questions.ask(&injector);
    questions.assert_answered_once(&capture, SOON);
    assert!(vipdp.end(Signal::SIGTERM).success());
    assert_unchanged(&host, &before);
    lab.say("restored by the next one");
}
