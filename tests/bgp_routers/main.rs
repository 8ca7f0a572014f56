//! The BGP speaker against BIRD, against GoBGP, and against peers that speak no BGP.
//!
//! ```text
//!   a test's thread                                 BIRD, GoBGP or a bare socket
//!   Speaker, AS 65011  eth0 ---- switch ---- eth0   AS 65001
//! ```
//!
//! The speaker runs in the test's own process, on a thread in the node's namespace. `bgp_frr` tests
//! it against FRR.

mod bird;
mod gobgp;

use std::io::{Read, Write};
use std::net::TcpStream;

use bird::Bird;
use gobgp::{GoBgp, neighbor};
use serde_json::Value;
use vipdp::bgp::{Announcement, Attributes, LocalConfig, PeerConfig, RemoteAs, Shutdown, State};
use vipdp::speaker::{ConnectFailure, SpeakerPeer, Target};
use vipdp_tests::path::{NODE, Path};
use vipdp_tests::speaker::{EVER, SOON, VIPS, announce, local, peer, router, start, wait_peer};
use vipdp_tests::wait::{wait_for, wait_until};

const VIP4: &str = VIPS[0];
const VIP6: &str = VIPS[1];

fn attributes() -> Attributes {
    Attributes {
        communities: vec!["65011:100".parse().unwrap(), "no-export".parse().unwrap()],
        large_communities: vec!["65011:1:2".parse().unwrap()],
        med: Some(77),
        link_bandwidth: Some(3e6),
    }
}

/// BIRD's sessions with the node over each family.
const BOTH: &str = "protocol bgp node4 from node { neighbor 10.99.0.1 as 65011; }
protocol bgp node6 from node {
 neighbor 2001:db8:99::1 as 65011;
 ipv4 { import all; export none; extended next hop on; };
}";

/// One session of BIRD's with the node, over IPv4.
const ONE: &str = "protocol bgp node4 from node { neighbor 10.99.0.1 as 65011; }";

#[test]
fn bird_gets_what_is_configured_and_follows_what_is_announced() {
    let path = Path::up();
    let bird = Bird::start(path.router(), BOTH);
    let local = LocalConfig { attributes: attributes(), ..local() };
    let speaker = start(&path, local, vec![router(0), router(1)]);
    for index in 0..2 {
        wait_until(SOON, "established", || speaker.peers()[index].bgp.state == State::Established);
    }
    assert_eq!(bird.routes(VIP4), "", "nothing before the first order");

    // IPv4 routes by both sessions, IPv6 routes by the one over IPv6: the other has no next hop.
    speaker.set(Announcement::Announced, EVER);
    let v4 = bird.wait_routes(VIP4, &["node4", "node6"]);
    let v6 = bird.wait_routes(VIP6, &["node6"]);
    for line in [
        "BGP.origin: IGP",
        "BGP.as_path: 65011",
        "BGP.med: 77",
        "BGP.community: (65011,100) (65535,65281)",
        // Link bandwidth, of AS 65011, 3e6 as a float.
        "BGP.ext_community: (unknown 0x4004, 65011, 1245125376)",
        "BGP.large_community: (65011, 1, 2)",
    ] {
        assert_eq!(v4.matches(line).count(), 2, "{line} in {v4}");
        assert_eq!(v6.matches(line).count(), 1, "{line} in {v6}");
    }
    assert!(v4.contains("BGP.next_hop: 10.99.0.1"), "{v4}");
    assert!(v4.contains("BGP.next_hop: 2001:db8:99::1"), "{v4}");
    assert!(v6.contains("BGP.next_hop: 2001:db8:99::1"), "{v6}");

    speaker.set(Announcement::Marked, EVER);
    wait_until(SOON, "marked", || {
        let (v4, v6) = (bird.routes(VIP4), bird.routes(VIP6));
        v4.matches("(65535,0)").count() == 2 && v6.contains("(65535,0)")
    });
    speaker.set(Announcement::Nothing, EVER);
    bird.wait_routes(VIP4, &[]);
    bird.wait_routes(VIP6, &[]);
    speaker.set(Announcement::Announced, EVER);
    bird.wait_routes(VIP4, &["node4", "node6"]);
    assert!(speaker.peers().iter().all(|peer| peer.bgp.counters.dropped == 0));

    // BIRD asks for all routes again.
    let updates = speaker.peers()[0].bgp.counters.updates_out;
    bird.ask("reload in node4");
    wait_peer(&speaker, "asked again", |peer| {
        peer.bgp.counters.refreshes_in > 0 && peer.bgp.counters.updates_out > updates
    });
    bird.wait_routes(VIP4, &["node4", "node6"]);

    speaker.stop(Shutdown::Administrative(Some("back at five".into())));
    bird.wait_routes(VIP4, &[]);
    let told = bird.ask("show protocols all node4");
    assert!(told.contains("Message:        back at five"), "{told}");
}

#[test]
fn bird_is_found_on_an_unnumbered_link() {
    let path = Path::up();
    let bird = Bird::start(
        path.router(),
        "protocol radv { interface \"eth0\" { max ra interval 4; min ra interval 3; }; }
        protocol bgp node6 from node {
         neighbor range fe80::/64 as 65011;
         interface \"eth0\";
         dynamic name \"node\";
         ipv4 { import all; export none; extended next hop on; };
        }",
    );
    let speaker = announce(&path, local(), vec![peer(Target::Interface("eth0".into()))]);
    for vip in [VIP4, VIP6] {
        let known = bird.wait_routes(vip, &["node1"]);
        assert!(known.contains("BGP.next_hop: :: fe80::"), "{known}");
    }
    speaker.set(Announcement::Nothing, EVER);
    bird.wait_routes(VIP4, &[]);
    bird.wait_routes(VIP6, &[]);
}

#[test]
fn bird_refuses_a_wrong_as_and_a_wrong_password() {
    let path = Path::up();
    let wrong = "protocol bgp node4 from node { neighbor 10.99.0.1 as 65012; }";
    let bird = Bird::start(path.router(), wrong);
    let mut here = router(0);
    here.password = Some(b"secret".to_vec());
    let speaker = announce(&path, local(), vec![router(0)]);
    wait_peer(&speaker, "refused", |peer| {
        let error = peer.bgp.last_error.as_ref();
        error.is_some_and(|error| {
            error.theirs && error.notification.to_string().contains("Bad Peer AS")
        })
    });
    bird.configure(ONE);
    bird.wait_routes(VIP4, &["node4"]);
    drop(speaker);

    let with = |password: &str| {
        format!(
            "protocol bgp node4 from node {{ neighbor 10.99.0.1 as 65011; password \"{password}\"; }}"
        )
    };
    bird.configure(&with("other"));
    let speaker = announce(&path, local(), vec![here]);
    wait_peer(&speaker, "no answer", |peer| {
        peer.connect_failure == Some(ConnectFailure::Signature)
    });
    assert_eq!(speaker.peers()[0].bgp.counters.established, 0);
    bird.configure(&with("secret"));
    bird.wait_routes(VIP4, &["node4"]);
}

#[test]
fn bird_and_the_speaker_may_start_anew() {
    let path = Path::up();
    let mut bird = Bird::start(path.router(), ONE);
    let speaker = announce(&path, local(), vec![router(0)]);
    bird.wait_routes(VIP4, &["node4"]);
    bird.kill();
    wait_peer(&speaker, "down", |peer| peer.bgp.state != State::Established);
    bird.spawn();
    bird.wait_routes(VIP4, &["node4"]);
    wait_peer(&speaker, "up twice", |peer| {
        (peer.bgp.counters.established, peer.bgp.counters.dropped) == (2, 1)
    });
    drop(speaker);
    bird.wait_routes(VIP4, &[]);
    let _speaker = announce(&path, local(), vec![router(0)]);
    bird.wait_routes(VIP4, &["node4"]);
}

/// A speaker that starts anew by agreement: the router keeps its routes until it says what it has.
#[test]
fn bird_keeps_routes_over_a_graceful_restart() {
    let path = Path::up();
    let bird = Bird::start(path.router(), ONE);
    let graceful = LocalConfig { graceful_restart_s: 60, ..local() };
    let speaker = announce(&path, graceful.clone(), vec![router(0)]);
    bird.wait_routes(VIP4, &["node4"]);
    let is_up =
        |speaker: &vipdp::speaker::Speaker| speaker.peers()[0].bgp.state == State::Established;

    speaker.stop(Shutdown::Restart);
    wait_until(SOON, "gone without a word", || {
        bird.ask("show protocols all node4").contains("graceful restart active")
    });
    assert_ne!(bird.routes(VIP4), "", "kept while nobody is there");
    let speaker = start(&path, graceful.clone(), vec![router(0)]);
    wait_until(SOON, "established", || {
        assert_ne!(bird.routes(VIP4), "", "kept until it is known what is announced");
        is_up(&speaker)
    });
    assert_ne!(bird.routes(VIP4), "", "kept until it is known what is announced");
    speaker.set(Announcement::Announced, EVER);
    wait_until(SOON, "the routes of the new start", || {
        assert_ne!(bird.routes(VIP4), "", "kept over the restart");
        let told = bird.ask("show protocols all node4");
        told.contains("Established") && !told.contains("graceful restart active")
    });

    // A node that comes back and has nothing to announce says so.
    speaker.stop(Shutdown::Restart);
    let speaker = start(&path, graceful, vec![router(0)]);
    wait_until(SOON, "established", || is_up(&speaker));
    speaker.set(Announcement::Nothing, EVER);
    bird.wait_routes(VIP4, &[]);
}

#[test]
fn gobgp_gets_what_is_configured_and_follows_what_is_announced() {
    let path = Path::up();
    let mut gobgp = GoBgp::start(
        path.router(),
        &[neighbor("10.99.0.1", ""), neighbor("2001:db8:99::1", "")].concat(),
    );
    let local = LocalConfig { attributes: attributes(), ..local() };
    let speaker = start(&path, local, vec![router(0), router(1)]);
    for index in 0..2 {
        wait_until(SOON, "established", || speaker.peers()[index].bgp.state == State::Established);
    }
    assert_eq!(gobgp.routes(VIP4).len(), 0, "nothing before the first order");
    speaker.set(Announcement::Announced, EVER);
    let (v4, v6) = (gobgp.wait_routes(VIP4, 2), gobgp.wait_routes(VIP6, 1));
    for route in v4.iter().chain(&v6) {
        let attributes = route["attrs"].to_string();
        for expected in [
            r#""asns":[65011]"#,
            r#""metric":77"#,
            // 65011:100 and no-export.
            r#""communities":[4260560996,4294967041]"#,
            r#"{"asn":65011,"bandwidth":3000000,"#,
            r#"{"ASN":65011,"LocalData1":1,"LocalData2":2}"#,
        ] {
            assert!(attributes.contains(expected), "{expected} in {attributes}");
        }
    }
    let next_hop = |route: &Value| {
        let attributes = route["attrs"].as_array().expect("attributes");
        let next_hop = attributes.iter().find_map(|attribute| attribute["nexthop"].as_str());
        next_hop.expect("a next hop").to_owned()
    };
    let mut next_hops: Vec<_> = v4.iter().map(next_hop).collect();
    next_hops.sort();
    assert_eq!(next_hops, ["10.99.0.1", "2001:db8:99::1"]);
    assert_eq!(next_hop(&v6[0]), "2001:db8:99::1");

    speaker.set(Announcement::Marked, EVER);
    wait_until(SOON, "marked", || {
        let known = [gobgp.routes(VIP4), gobgp.routes(VIP6)].concat();
        let marked =
            |route: &Value| route["attrs"].to_string().contains(r#""communities":[4294901760,"#);
        known.len() == 3 && known.iter().all(marked)
    });
    speaker.set(Announcement::Nothing, EVER);
    gobgp.wait_routes(VIP4, 0);
    gobgp.wait_routes(VIP6, 0);
    speaker.set(Announcement::Announced, EVER);
    gobgp.wait_routes(VIP4, 2);

    gobgp.kill();
    wait_peer(&speaker, "down", |peer| peer.bgp.state != State::Established);
    gobgp.spawn();
    gobgp.wait_routes(VIP4, 2);
    drop(speaker);
    gobgp.wait_routes(VIP4, 0);
    let _speaker = announce(&path, self::local(), vec![router(0)]);
    gobgp.wait_routes(VIP4, 1);
}

#[test]
fn gobgp_of_a_wrong_as_is_refused() {
    let path = Path::up();
    let wrong = SpeakerPeer {
        config: PeerConfig { remote_as: RemoteAs::Exactly(65002), passive: false },
        ..router(0)
    };
    let _gobgp = GoBgp::start(path.router(), &neighbor("10.99.0.1", ""));
    let speaker = announce(&path, local(), vec![wrong]);
    wait_peer(&speaker, "refused", |peer| {
        let error = peer.bgp.last_error.as_ref();
        error.is_some_and(|error| {
            !error.theirs && error.notification.to_string().contains("Bad Peer AS")
        })
    });
    assert_eq!(speaker.peers()[0].bgp.counters.established, 0);
}

#[test]
fn gobgp_and_the_speaker_must_have_one_password() {
    let path = Path::up();
    let [wrong, right] = ["other", "secret"]
        .map(|password| SpeakerPeer { password: Some(password.into()), ..router(0) });
    let password = "auth-password = \"secret\"";
    let gobgp = GoBgp::start(path.router(), &neighbor("10.99.0.1", password));
    let speaker = announce(&path, local(), vec![wrong]);
    wait_peer(&speaker, "no answer", |peer| {
        peer.connect_failure == Some(ConnectFailure::Signature)
    });
    assert_eq!(speaker.peers()[0].bgp.counters.established, 0);
    drop(speaker);
    let _speaker = announce(&path, local(), vec![right]);
    gobgp.wait_routes(VIP4, 1);
}

/// Connects to the speaker, once it listens.
#[track_caller]
fn connect() -> TcpStream {
    wait_for(SOON, "the speaker listens", || TcpStream::connect((NODE[0], 179)).ok())
}

/// Reads from a connection to its end.
fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the speaker closes it");
    bytes
}

/// The messages in `bytes`: type and body.
fn messages(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut messages = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<19>() {
        assert_eq!(header[..16], [0xff; 16]);
        let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let (body, rest) = rest.split_at(len - 19);
        messages.push((header[18], body.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a message: {bytes:?}");
    messages
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (19 + body.len()) as u16;
    [&[0xff; 16], len.to_be_bytes().as_slice(), &[kind], body].concat()
}

/// Whoever connects from the peer's address and speaks no BGP, or bad BGP, is told so and gets no
/// further; and when the peer itself connects, it is served.
#[test]
fn malformed_messages_are_answered_as_the_standard_says() {
    let path = Path::up();
    let passive = SpeakerPeer {
        config: PeerConfig { remote_as: RemoteAs::Exactly(65001), passive: true },
        ..router(0)
    };
    let speaker = announce(&path, local(), vec![passive]);
    // AS 65001, hold time 9 s, 10.99.0.2, no parameters; and what differs.
    let open = |version: u8, asn: u16, hold: u8, id: u8, parameters: &[u8]| {
        let [high, low] = asn.to_be_bytes();
        message(1, &[&[version, high, low, 0, hold, 10, 99, 0, id], parameters].concat())
    };
    let good = open(4, 65001, 9, 2, &[0]);
    let keepalive = message(4, &[]);
    let cases: [(&str, Vec<u8>, &[u8]); 10] = [
        ("no BGP", b"GET / HTTP/1.1\r\nHost: 10.99.0.1\r\n\r\n".to_vec(), &[1, 1]),
        ("a length of 18", [[0xff; 16].as_slice(), &[0, 18, 4]].concat(), &[1, 2, 0, 18]),
        ("type 9", message(9, &[]), &[1, 3, 9]),
        ("BGP-3", open(3, 65001, 9, 2, &[0]), &[2, 1, 0, 4]),
        ("another AS", open(4, 65002, 9, 2, &[0]), &[2, 2]),
        ("a hold time of 2 s", open(4, 65001, 2, 2, &[0]), &[2, 6]),
        ("authentication", open(4, 65001, 9, 2, &[2, 1, 0]), &[2, 4]),
        ("parameters beyond the end", open(4, 65001, 9, 2, &[9]), &[2, 0]),
        ("a KEEPALIVE first", keepalive.clone(), &[5, 1, 4]),
        ("a bad UPDATE", [good.as_slice(), &keepalive, &message(2, &[0xff; 4])].concat(), &[3, 1]),
    ];
    for (name, bytes, notification) in &cases {
        let answer = path.router().within(|| {
            let mut stream = connect();
            stream.write_all(bytes).expect("the speaker reads");
            read_all(&mut stream)
        });
        let answer = messages(&answer);
        assert_eq!(answer.first().map(|(kind, _)| *kind), Some(1), "{name}: an OPEN first");
        assert_eq!(answer.last(), Some(&(3, notification.to_vec())), "{name}");
        let notifications = answer.iter().filter(|(kind, _)| *kind == 3).count();
        assert_eq!(notifications, 1, "{name}");
    }
    // Half a message, and then nothing.
    path.router().within(|| {
        let mut stream = connect();
        stream.write_all(&good[..25]).expect("the speaker reads");
    });
    // Only the bad UPDATE came in a session that was up.
    wait_peer(&speaker, "all counted", |peer| {
        let counters = peer.bgp.counters;
        (counters.established, counters.dropped) == (1, 1)
            && counters.notifications_out == cases.len() as u64
    });

    let bird = Bird::start(path.router(), ONE);
    bird.wait_routes(VIP4, &["node4"]);
}
