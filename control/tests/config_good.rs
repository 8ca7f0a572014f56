//! Configurations that are right: what is read from them, and that the shipped examples are.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use vipdp::bgp::{Community, RemoteAs};
use vipdp::cli;
use vipdp::config::*;
use vipdp_core::anycast::Steering;
use vipdp_core::hash::HashInput;
use vipdp_core::offload::OffloadMode;
use vipdp_core::tiered::{Search, TieredMac};
use vipdp_core::wire::ethernet::MacAddr;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

fn source(path: &Path) -> io::Result<Source> {
    Ok(Source { text: fs::read_to_string(path)?, mode: 0o600 })
}

/// The base with the files of `case` in place of its own, after `edit`.
fn config_with(case: &str, edit: impl Fn(&Path, String) -> String) -> Config {
    let config = Config::from_sources(Path::new("node.toml"), |path| {
        let name = path.file_name().unwrap();
        let own = fixtures().join(case).join(name);
        let file = if own.exists() { own } else { fixtures().join("base").join(name) };
        let source = source(&file)?;
        Ok(Source { text: edit(path, source.text), ..source })
    });
    config.unwrap_or_else(|errors| panic!("{case}:\n{errors}"))
}

fn config(case: &str) -> Config {
    config_with(case, |_, text| text)
}

#[test]
fn what_is_left_out_has_its_default() {
    let Config { node, cluster, keys, .. } = config("good/smallest");
    assert_eq!(node.heartbeat_interface, node.interface);
    assert_eq!(node.tap.as_str(), "vipdp0");
    assert_eq!(node.cores, None);
    assert_eq!(node.poll, PollMode::Adaptive);
    assert_eq!((node.egress, node.offload), (EgressMode::Direct, None));
    assert_eq!(node.io, IoConfig::AfXdp);
    assert!(node.coalesce);
    assert_eq!(node.flows_max, 1 << 20);
    assert_eq!(node.flows_file.as_deref(), Some(Path::new("/run/vipdp/eth0.flows")));
    assert_eq!((node.xdp, node.zero_copy), (XdpMode::Auto, ZeroCopy::Auto));
    assert_eq!(node.admin, Path::new("/run/vipdp/eth0.sock"));
    assert_eq!(node.log, LogLevel::Info);

    let IngressMode::SharedMac(mac) = cluster.mode else { panic!("{:?}", cluster.mode) };
    assert!(matches!(mac, SharedMacConfig::Unicast(_)));
    assert_eq!(mac.macs().v4.to_string(), "02:00:5e:00:00:35");
    assert_eq!(mac.macs().v6, mac.macs().v4);
    assert_eq!(cluster.hash, HashInput::Address);
    assert_eq!((cluster.vlan, cluster.partition), (None, PartitionGuard::None));
    assert_eq!(cluster.timing.detection(), Duration::from_millis(250));
    assert_eq!(cluster.timing.hold, Duration::from_secs(10));
    assert_eq!(cluster.timing.ramp, Duration::ZERO);
    assert_eq!(cluster.timing.linger, Duration::from_secs(3600));
    let group = HeartbeatTransport::Multicast(Ipv4Addr::new(224, 0, 0, 254).into());
    assert_eq!(cluster.heartbeat, HeartbeatConfig { transport: group, port: 5360 });
    assert_eq!((cluster.members[0].weight, cluster.members[0].removed), (1, false));
    assert_eq!(keys.sending().id, 1);
}

#[test]
fn with_dpdk_the_host_answers_by_the_workers() {
    let node = config("good/dpdk").node;
    let dpdk = DpdkConfig {
        devargs: "net_af_packet0,iface=phy0".into(),
        queues: Some(2),
        hugepages: false,
    };
    assert_eq!(node.io, IoConfig::Dpdk(dpdk));
    assert_eq!((node.egress, node.offload), (EgressMode::Tap, None));
}

#[test]
fn a_program_without_dpdk_says_so_when_it_is_asked_for() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, case) in
        [("node.toml", "good/dpdk"), ("cluster.toml", "base"), ("cluster.key", "base")]
    {
        let path = scratch.path().join(name);
        fs::copy(fixtures().join(case).join(name), &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let loaded = Config::load(&scratch.path().join("node.toml"));
    if cfg!(feature = "dpdk") {
        return assert!(loaded.is_ok(), "{loaded:?}");
    }
    let said = loaded.unwrap_err().to_string();
    assert!(said.contains("io.backend") && said.contains("cargo build --release --features dpdk"));
}

#[test]
fn the_offload_is_what_is_given() {
    assert_eq!(config("good/offload").node.offload, Some(OffloadMode::Full));
}

#[test]
fn what_is_given_is_taken() {
    let config = config("good/everything");
    assert_eq!(config.own_member().name, "n64");
    let Config { node, cluster, keys, .. } = config;
    assert_eq!(node.slot.get(), 63);
    assert_eq!(node.heartbeat_interface.as_str(), "eth0.100");
    assert_eq!(node.cores.as_deref(), Some(&[3, 1][..]));
    assert_eq!(node.poll, PollMode::Busy);
    assert_eq!(node.tap.as_str(), "a-name-of-15-by");
    assert_eq!(node.egress, EgressMode::Tap);
    assert!(!node.coalesce);
    assert_eq!(node.flows_max, 1 << 21, "rounded up to a power of two");
    assert_eq!(node.flows_file, None);
    assert_eq!((node.xdp, node.zero_copy), (XdpMode::Generic, ZeroCopy::Off));
    assert_eq!(node.state_dir, Path::new("state"));
    assert_eq!(node.admin, Path::new("/run/vipdp/admin.sock"));
    assert_eq!(node.log, LogLevel::Trace);

    assert_eq!((cluster.id, cluster.generation), (65_535, u32::MAX));
    let IngressMode::SharedMac(mac) = cluster.mode else { panic!("{:?}", cluster.mode) };
    let group6 = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 1, 2);
    assert_eq!(mac, SharedMacConfig::Multicast { group4: Ipv4Addr::new(239, 1, 2, 3), group6 });
    assert_eq!(mac.macs().v4.to_string(), "01:00:5e:01:02:03");
    assert_eq!(mac.macs().v6.to_string(), "33:33:00:01:00:02");
    assert_eq!(cluster.hash, HashInput::AddressAndPort);
    assert_eq!(cluster.sticky_udp_ports, [123, 443, 8443], "sorted");
    assert_eq!((cluster.vlan, cluster.partition), (Some(4094), PartitionGuard::Majority));
    assert_eq!(cluster.key_path, Path::new("/etc/vipdp/cluster.key"));
    assert_eq!(
        cluster.timing,
        TimingConfig {
            heartbeat: Duration::from_millis(200),
            multiplier: 3,
            hold: Duration::from_secs(20),
            ramp: Duration::from_secs(30),
            linger: Duration::from_secs(60),
        }
    );
    let unicast = HeartbeatConfig { transport: HeartbeatTransport::Unicast, port: 6000 };
    assert_eq!(cluster.heartbeat, unicast);
    let members: Vec<_> = cluster
        .members
        .iter()
        .map(|member| (member.slot.get(), member.name.as_str(), member.weight, member.removed))
        .collect();
    assert_eq!(
        members,
        [(0, "n1", 1, false), (5, "gone", 1, true), (9, "n10", 1, false), (63, "n64", 64, false)]
    );
    assert_eq!((keys.accepted().len(), keys.sending().id), (2, 7));
}

#[test]
fn next_hops_are_as_many_as_members_and_tiers_make() {
    let Config { cluster, .. } = config("good/tiered");
    let IngressMode::Tiered(tiered) = cluster.mode else { panic!("{:?}", cluster.mode) };
    assert_eq!((tiered.tiers, tiered.compact, tiered.claims_per_s), (2, false, 200));
    assert_eq!(tiered.first4, Some(Ipv4Addr::new(10, 0, 0, 64)));
    assert_eq!(tiered.first6, Some("fd00::1:0".parse().unwrap()));
    assert_eq!((tiered.mac, tiered.search), (TieredMac::Virtual, Search::PreviousOwners));
    assert_eq!(tiered.addresses(cluster.members.len()).unwrap().len(), 30);
    let vips: Vec<_> = cluster.vips.iter().map(ToString::to_string).collect();
    assert_eq!(vips, ["198.51.100.0/24", "2001:db8:80::/64"]);

    let Config { cluster, .. } = config("good/tiered_everything");
    let IngressMode::Tiered(tiered) = cluster.mode else { panic!("{:?}", cluster.mode) };
    assert_eq!((tiered.tiers, tiered.compact, tiered.claims_per_s), (3, true, 50));
    assert_eq!((tiered.first4.is_some(), tiered.first6), (true, None));
    assert_eq!((tiered.mac, tiered.search), (TieredMac::Node, Search::Members));
    // The removed member keeps its place, and so the addresses of the others stay theirs.
    assert_eq!(tiered.addresses(cluster.members.len()).unwrap().len(), 6);
    assert_eq!(tiered.claims, ClaimsBy::Heartbeat);

    let Config { cluster, .. } = config("good/tiered_wire");
    let IngressMode::Tiered(tiered) = cluster.mode else { panic!("{:?}", cluster.mode) };
    assert_eq!((tiered.claims, tiered.search), (ClaimsBy::Wire, Search::Members));
    let macs: Vec<_> = cluster.members.iter().map(|member| member.mac).collect();
    let mac = |last| Some(MacAddr([0, 0, 0x5e, 0, 0x53, last]));
    assert_eq!(macs, [mac(1), mac(2), None, mac(3)]);
}

#[test]
fn what_a_plan_writes_is_right() {
    for arguments in [
        &["--nodes", "a,b"][..],
        &[
            "--nodes",
            "n1,n2,n3",
            "--tiers",
            "3",
            "--vips",
            "192.0.2.53",
            "--next-hops4",
            "10.0.0.9",
        ],
        &["--nodes", "n1,n2,n3,n4,n5", "--compact", "--add", "n6", "--id", "9"],
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("files");
        let command = ["vipdp", "plan", "--out", out.to_str().unwrap()];
        let line = command.iter().chain(arguments);
        let Some(cli::Command::Plan(plan)) = cli::Cli::parse_from(line).command else { panic!() };
        vipdp::plan::run(&plan, &mut Vec::new()).unwrap();
        cli::keygen(&out.join("cluster.key"), 1).unwrap();
        for name in plan.nodes.iter().chain(&plan.add) {
            let mut said = Vec::new();
            cli::check(&out.join(format!("node-{name}.toml")), &mut said).unwrap();
            let said = String::from_utf8(said).unwrap();
            assert!(said.starts_with(&format!("right: node {name} (slot ")), "{said}");
        }
    }
}

#[test]
fn a_router_that_is_named_guards_a_pair_and_others_where_it_is_said() {
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let partition = config("good/gateway").cluster.partition;
    let all = addresses(&["192.0.2.1", "2001:db8:53::1", "fe80::1"]);
    assert_eq!(partition, PartitionGuard::Gateway(all));
    let pair = config("good/gateway_of_a_pair");
    assert_eq!(pair.cluster.partition, PartitionGuard::Gateway(addresses(&["192.0.2.1"])));
    assert!(pair.notes().is_empty());
}

#[test]
fn a_pair_without_a_router_is_told_what_that_means() {
    let pair = config("base");
    assert_eq!(pair.cluster.partition, PartitionGuard::None);
    let notes = pair.notes();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].starts_with("cluster.toml: gateway: "), "{notes:?}");
    let third = "[[member]]\nslot = 2\nname = \"n3\"\n";
    let three = config_with("base", |path, text| match path.to_str() {
        Some("cluster.toml") => text + third,
        _ => text,
    });
    assert!(three.notes().is_empty());
}

#[test]
fn groups_of_a_multicast_mac_are_made_from_the_id() {
    let cluster = config("good/multicast_defaults").cluster;
    let IngressMode::SharedMac(mac) = cluster.mode else { panic!("{:?}", cluster.mode) };
    assert_eq!(mac.macs().v4.to_string(), "01:00:5e:7f:00:35");
    assert_eq!(mac.macs().v6.to_string(), "33:33:76:64:00:35");
    let group = HeartbeatTransport::Multicast("ff02::114".parse().unwrap());
    assert_eq!(cluster.heartbeat.transport, group);
}

#[test]
fn the_cluster_hash_is_of_the_meaning() {
    let base = config("base").cluster_hash;
    let hash = |file: &'static str, from: &'static str, to: &'static str| {
        let edit = move |path: &Path, text: String| {
            if path != Path::new(file) {
                return text;
            }
            assert!(text.contains(from), "{file} has no {from}");
            text.replace(from, to)
        };
        config_with("base", edit).cluster_hash
    };
    let cluster = "cluster.toml";
    let same = [
        (cluster, "id = 53", "# a comment\n\n id=53 # another"),
        (cluster, "id = 53", "id = 0x35\nprofile = \"default\"\nhash = \"address\""),
        (cluster, "id = 53", "id = 53\nall_down = \"serve\""),
        (cluster, "\"192.0.2.53\", \"2001:db8:53::53\"", "\"2001:DB8:53:0::53\", \"192.0.2.53\""),
        ("cluster.key", "1 0001", "2 0001"),
        ("node.toml", "slot = 0", "slot = 1\npoll = \"busy\""),
    ];
    for (file, from, to) in same {
        assert_eq!(hash(file, from, to), base, "{to}");
    }
    let different = [
        (cluster, "id = 53", "id = 54"),
        (cluster, "generation = 1", "generation = 2"),
        (cluster, "192.0.2.53", "192.0.2.54"),
        (cluster, "id = 53", "id = 53\nhash = \"address-and-port\""),
        (cluster, "id = 53", "id = 53\nsticky_udp_ports = [443]"),
        (cluster, "id = 53", "id = 53\nvlan = 1"),
        (cluster, "id = 53", "id = 53\nall_down = \"withdraw\""),
        (cluster, "id = 53", "id = 53\nprofile = \"fast\""),
        (
            cluster,
            "[[member]]\nslot = 1",
            "[[member]]\nslot = 2\nname = \"n3\"\n[[member]]\nslot = 1",
        ),
        (cluster, "[[member]]\nslot = 1", "[heartbeat]\nport = 1\n[[member]]\nslot = 1"),
        (cluster, "[[member]]\nslot = 1", "[timing]\nramp_s = 1\n[[member]]\nslot = 1"),
        (
            cluster,
            "[[member]]\nslot = 1",
            "[shared_mac]\nmac = \"multicast\"\n[[member]]\nslot = 1",
        ),
        (cluster, "slot = 1", "slot = 2"),
        (cluster, "slot = 1", "slot = 1\nweight = 2"),
        (cluster, "slot = 1", "slot = 1\nremoved = true"),
        (
            cluster,
            "[[member]]\nslot = 0",
            "partition = \"majority\"\n[[member]]\nslot = 2\nname = \"n3\"\n[[member]]\nslot = 0",
        ),
        (cluster, "id = 53", "id = 53\ngateway = [\"192.0.2.1\"]"),
        (cluster, "id = 53", "id = 53\ngateway = [\"192.0.2.2\"]"),
        ("cluster.key", "hash 00", "hash 01"),
    ];
    let mut hashes = std::collections::HashSet::from([base]);
    for (file, from, to) in different {
        assert!(hashes.insert(hash(file, from, to)), "{to}");
    }
}

#[test]
fn the_cluster_hash_covers_the_next_hops() {
    let hash = |from: &'static str, to: &'static str| {
        let edit = move |path: &Path, text: String| match path == Path::new("cluster.toml") {
            true => text.replace(from, to),
            false => text,
        };
        config_with("good/tiered", edit).cluster_hash
    };
    let base = hash("", "");
    assert_eq!(hash("[tiered]", "[tiered]\ntiers = 2\nclaims = \"heartbeat\""), base);
    let mut hashes = std::collections::HashSet::from([base]);
    for (from, to) in [
        ("10.0.0.64", "10.0.0.65"),
        ("fd00::1:0", "fd00::1:1"),
        ("198.51.100.0/24", "198.51.100.0/25"),
        ("[tiered]", "[tiered]\ntiers = 3"),
        ("[tiered]", "[tiered]\ntiers = 3\ncompact = true"),
        ("[tiered]", "[tiered]\nmac = \"node\""),
        ("[tiered]", "[tiered]\nsearch = \"members\""),
        ("[tiered]", "[tiered]\nclaims_per_s = 201"),
    ] {
        assert!(hashes.insert(hash(from, to)), "{to}");
    }
    let hash = |mac: &str| {
        let edit = |_: &Path, text: String| text.replace("00:00:5E:00:53:02", mac);
        config_with("good/tiered_wire", edit).cluster_hash
    };
    assert_eq!(hash("00:00:5e:00:53:02"), hash("00:00:5E:00:53:02"));
    assert_ne!(hash("00:00:5e:00:53:02"), hash("00:00:5e:00:53:05"));
}

#[test]
fn the_cluster_hash_covers_the_steering() {
    let hash = |table: &'static str| {
        let edit = move |path: &Path, text: String| match path == Path::new("cluster.toml") {
            true => text.replace("[[member]]\nslot = 0", &format!("{table}[[member]]\nslot = 0")),
            false => text,
        };
        config_with("good/anycast_interface", edit).cluster_hash
    };
    let base = hash("");
    assert_eq!(hash("[anycast]\nsteer = false\nforward = \"mac\"\ngue_port = 1\n"), base);
    assert_eq!(hash("[heartbeat]\ntransport = \"unicast\"\n"), base);
    let mut hashes = std::collections::HashSet::from([base]);
    for table in [
        "[anycast]\nsteer = true\n",
        "[anycast]\nsteer = true\nforward = \"mac\"\n",
        "[anycast]\nsteer = true\ngue_port = 6081\n",
    ] {
        assert!(hashes.insert(hash(table)), "{table}");
    }
}

#[test]
fn routes_are_announced_by_an_interface_or_by_bgp() {
    let Config { node, cluster, .. } = config("good/anycast_interface");
    let announce = node.announce.unwrap();
    assert_eq!(announce.by, AnnounceBy::Interface("lo".parse().unwrap()));
    assert_eq!(announce.withdraw, Duration::from_secs(2));
    assert_eq!(cluster.mode, IngressMode::Anycast(AnycastConfig { steering: None }));
    assert_eq!(cluster.all_down, AllDown::Serve);
    assert_eq!(cluster.heartbeat.transport, HeartbeatTransport::Unicast);
    assert!(config("good/anycast_interface").notes().is_empty(), "two may both serve");

    let config = config("good/anycast_everything");
    assert!(config.notes().is_empty());
    let Config { node, cluster, .. } = config;
    let steering = Some(Steering::Gue { port: 6081 });
    assert_eq!(cluster.mode, IngressMode::Anycast(AnycastConfig { steering }));
    assert_eq!(
        (cluster.all_down, cluster.partition),
        (AllDown::Withdraw, PartitionGuard::Majority)
    );
    let announce = node.announce.unwrap();
    assert_eq!(announce.withdraw, Duration::from_millis(500));
    let AnnounceBy::Bgp(bgp) = announce.by else { panic!("{:?}", announce.by) };
    let peer = |target, remote_as| BgpPeerConfig {
        target,
        remote_as,
        password: None,
        port: 179,
        multihop: 1,
        passive: false,
        bfd: true,
    };
    let address = |address: &str| BgpTarget::Address(address.parse().unwrap());
    let [first, second, third] = &bgp.peers[..] else { panic!("{:?}", bgp.peers) };
    assert_eq!(first.password.as_ref().unwrap().as_bytes(), b"not a word");
    let far = peer(address("10.1.1.1"), RemoteAs::Exactly(65_001));
    let far = BgpPeerConfig { port: 1179, multihop: 3, passive: true, bfd: false, ..far };
    assert_eq!(*first, BgpPeerConfig { password: first.password.clone(), ..far });
    let interface = BgpTarget::Interface("eth1".parse().unwrap());
    assert_eq!(*second, peer(interface, RemoteAs::External));
    let last = peer(address("2001:db8::1"), RemoteAs::Exactly(u32::MAX));
    assert_eq!(*third, BgpPeerConfig { bfd: false, ..last });
    let rest = BgpConfig {
        asn: 4_200_000_011,
        router_id: Ipv4Addr::new(10, 0, 0, 11),
        hold_s: 0,
        communities: vec![Community(0xfdf3_0064), Community(0xffff_ff01)],
        large_communities: vec!["4200000011:1:2".parse().unwrap()],
        med: Some(0),
        graceful_restart_s: 120,
        link_bandwidth: true,
        next_hop4: Some(Ipv4Addr::new(10, 0, 0, 11)),
        next_hop6: Some("2001:db8::11".parse().unwrap()),
        bfd: BfdConfig { interval: Duration::from_millis(10), multiplier: 50 },
        peers: bgp.peers.clone(),
    };
    assert_eq!(*bgp, rest);
}

#[test]
fn routes_that_no_session_can_carry_are_pointed_out() {
    let without = |path: &Path, text: String| match path == Path::new("node.toml") {
        true => text.replace("next_hop6 = \"2001:db8::11\"\n", ""),
        false => text,
    };
    let notes = config_with("good/anycast_everything", without).notes();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].starts_with("node.toml: bgp.next_hop6: "), "{notes:?}");
}

#[test]
fn a_password_that_others_can_read_is_refused() {
    let node = fixtures().join("good/anycast_everything/node.toml");
    let read = |mode| {
        Config::from_sources(&node, |path| {
            let is_node = path == node;
            let file =
                if path.exists() { path.into() } else { fixtures().join("base/cluster.key") };
            Ok(Source { mode: if is_node { mode } else { 0o600 }, ..source(&file)? })
        })
    };
    read(0o600).unwrap();
    let error = read(0o644).unwrap_err().to_string();
    assert!(
        error.contains("bgp.peer[0].password: found a secret in a file of mode 0644"),
        "{error}"
    );
    assert!(!error.contains("not a word"), "{error}");
}

/// The examples name no key, for one must not be shared: each is read with a new one.
#[test]
fn every_shipped_example_is_right() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut files = 0;
    for entry in fs::read_dir(&examples).unwrap() {
        let directory = entry.unwrap().path();
        if !directory.is_dir() {
            continue;
        }
        let scratch = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&directory).unwrap() {
            let file = entry.unwrap().path();
            fs::copy(&file, scratch.path().join(file.file_name().unwrap())).unwrap();
            files += usize::from(file.extension().is_some_and(|extension| extension == "toml"));
        }
        let cluster = scratch.path().join("cluster.toml");
        if !cluster.exists() {
            // A node of any mode.
            fs::copy(examples.join("shared-mac/cluster.toml"), cluster).unwrap();
        }
        cli::keygen(&scratch.path().join("cluster.key"), 1).unwrap();
        // Also with a program that was built without what one of them wants.
        let config = Config::from_sources(&scratch.path().join("node.toml"), source);
        config.unwrap_or_else(|errors| panic!("{}:\n{errors}", directory.display()));
    }
    assert!(files >= 2, "no examples in {}", examples.display());
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    for file in ["node.toml", "cluster.toml"] {
        fs::copy(fixtures().join("base").join(file), scratch.path().join(file)).unwrap();
    }
    let (node, key) = (scratch.path().join("node.toml"), scratch.path().join("cluster.key"));
    cli::keygen(&key, 9).unwrap();
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Config::load(&node).unwrap().keys.sending().id, 9);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let errors = Config::load(&node).unwrap_err();
    let error = errors.iter().next().unwrap();
    assert_eq!(error.file, key);
    assert_eq!(error.found, "mode 0640, which lets others than its owner at the secrets");
    assert_eq!(errors.iter().count(), 1);
}

#[test]
fn a_new_key_file_overwrites_nothing_and_no_two_are_alike() {
    let scratch = tempfile::tempdir().unwrap();
    let [one, two] = ["one.key", "two.key"].map(|name| scratch.path().join(name));
    cli::keygen(&one, 1).unwrap();
    cli::keygen(&two, 1).unwrap();
    let before = fs::read(&one).unwrap();
    assert_ne!(before, fs::read(&two).unwrap());
    assert!(cli::keygen(&one, 1).unwrap_err().to_string().contains("exists"));
    assert_eq!(fs::read(&one).unwrap(), before);
}

#[test]
fn files_that_are_not_there_or_too_long_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let node = scratch.path().join("node.toml");
    let errors = Config::load(&node).unwrap_err();
    assert_eq!(errors.iter().next().unwrap().file, node);
    fs::write(&node, "#".repeat(300_000)).unwrap();
    assert!(Config::load(&node).unwrap_err().to_string().contains("longer than 262144 bytes"));
}

#[test]
fn check_says_which_node_of_which_cluster_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    for file in ["node.toml", "cluster.toml", "cluster.key"] {
        fs::copy(fixtures().join("base").join(file), scratch.path().join(file)).unwrap();
    }
    let key = scratch.path().join("cluster.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut out = Vec::new();
    cli::check(&scratch.path().join("node.toml"), &mut out).unwrap();
    let said = String::from_utf8(out).unwrap();
    assert!(said.starts_with("right: node n1 (slot 0) of 2 in cluster 53"), "{said}");
    assert!(said.lines().nth(1).is_some_and(|line| line.starts_with("note: ")), "{said}");
}

#[test]
fn check_says_what_this_host_makes_of_it() {
    let scratch = tempfile::tempdir().unwrap();
    for file in ["node.toml", "cluster.toml", "cluster.key"] {
        fs::copy(fixtures().join("base").join(file), scratch.path().join(file)).unwrap();
    }
    let (node, key) = (scratch.path().join("node.toml"), scratch.path().join("cluster.key"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = fs::read_to_string(&node).unwrap().replace("eth0", "lo");
    fs::write(&node, text + "flows_file = \"/proc/lo.flows\"\n").unwrap();
    let mut out = Vec::new();
    cli::check(&node, &mut out).unwrap();
    let said = String::from_utf8(out).unwrap();
    for note in ["interface lo: it is not an Ethernet interface", "/proc/lo.flows"] {
        let is_noted = |line: &str| line.starts_with("note: ") && line.contains(note);
        assert!(said.lines().any(is_noted), "{note} is not noted: {said}");
    }
}
