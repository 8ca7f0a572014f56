//! A BGP speaker in the test's own process, in the node's namespace of a [`Path`].

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use vipdp::bgp::{Announcement, Attributes, LocalConfig, PeerConfig, RemoteAs};
use vipdp::speaker::{PORT, Speaker, SpeakerConfig, SpeakerPeer, SpeakerPeerView, Target};

use crate::path::{Path, ROUTER};

/// How long anything may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);
/// A lease that does not end.
pub const EVER: u64 = u64::MAX;

/// The service addresses that are announced.
pub const VIPS: [&str; 2] = ["172.20.0.1/32", "2001:db8:20::1/128"];

/// What the speaker is: of AS 65011.
pub fn local() -> LocalConfig {
    LocalConfig {
        asn: 65011,
        router_id: Ipv4Addr::new(10, 99, 0, 1),
        hold_s: 9,
        graceful_restart_s: 0,
        attributes: Attributes::default(),
        next_hop4: None,
        next_hop6: None,
        prefixes: VIPS.map(|vip| vip.parse().expect("a prefix")).into(),
    }
}

/// A peer of AS 65001.
pub fn peer(target: Target) -> SpeakerPeer {
    SpeakerPeer {
        name: "router".into(),
        target,
        port: PORT,
        ttl: 1,
        password: None,
        bfd: None,
        config: PeerConfig { remote_as: RemoteAs::Exactly(65001), passive: false },
    }
}

/// The router at its address of one family: 0 is IPv4.
pub fn router(family: usize) -> SpeakerPeer {
    peer(Target::Address(ROUTER[family], 0))
}

/// Starts a speaker that was not told yet what to announce.
#[track_caller]
pub fn start(path: &Path, local: LocalConfig, peers: Vec<SpeakerPeer>) -> Speaker {
    let config = SpeakerConfig { local, peers, listen_port: PORT };
    path.node().within(|| Speaker::start(config)).expect("it starts")
}

/// Starts a speaker that announces.
#[track_caller]
pub fn announce(path: &Path, local: LocalConfig, peers: Vec<SpeakerPeer>) -> Speaker {
    let speaker = start(path, local, peers);
    speaker.set(Announcement::Announced, EVER);
    speaker
}

/// Waits until the speaker's first peer is as it should be.
#[track_caller]
pub fn wait_peer(speaker: &Speaker, what: &str, condition: impl Fn(&SpeakerPeerView) -> bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let views = speaker.peers();
        if condition(&views[0]) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {:#?}", views[0]);
        std::thread::sleep(Duration::from_millis(5));
    }
}
