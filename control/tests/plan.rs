//! `vipdp plan`, the command itself: what it prints, and the files that it writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output};

use clap::Parser;
use serde_json::Value;
use vipdp::cli::Cli;

fn plan(arguments: &[&str]) -> Output {
    let vipdp = Command::new(env!("CARGO_BIN_EXE_vipdp")).arg("plan").args(arguments).output();
    vipdp.expect("vipdp runs")
}

/// What a plan that is right prints.
fn printed(arguments: &[&str]) -> String {
    let output = plan(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    assert!(errors.is_empty(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What is said of a plan that is wrong.
fn refused(arguments: &[&str]) -> String {
    let output = plan(arguments);
    assert!(!output.status.success(), "{arguments:?} is taken");
    String::from_utf8(output.stderr).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(&[arguments, &["--json"]].concat())).unwrap()
}

/// The tiers of all addresses, in their order.
fn lists(addresses: &Value) -> Vec<Vec<String>> {
    let text = |name: &Value| name.as_str().unwrap().to_owned();
    let tiers = |address: &Value| address["tiers"].as_array().unwrap().iter().map(text).collect();
    addresses.as_array().unwrap().iter().map(tiers).collect()
}

/// Each address has one node per tier and no node twice; each node has `per_tier` addresses in
/// each tier; no two addresses have the same list.
fn assert_even(lists: &[Vec<String>], nodes: usize, tiers: usize, per_tier: usize) {
    let mut often: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for list in lists {
        assert_eq!(list.len(), tiers);
        assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), tiers, "{list:?} has a node twice");
        for (tier, node) in list.iter().enumerate() {
            *often.entry((tier, node)).or_default() += 1;
        }
    }
    assert_eq!(often.len(), nodes * tiers);
    assert!(often.values().all(|&often| often == per_tier), "{often:?}");
    assert_eq!(lists.iter().collect::<BTreeSet<_>>().len(), lists.len());
}

/// Who serves how many addresses when `down` are.
fn loads(lists: &[Vec<String>], down: &[&str]) -> BTreeMap<String, usize> {
    let mut loads = BTreeMap::new();
    for list in lists {
        if let Some(node) = list.iter().find(|node| !down.contains(&node.as_str())) {
            *loads.entry(node.clone()).or_default() += 1;
        }
    }
    loads
}

const SIX: &str = "n1,n2,n3,n4,n5,n6";

#[test]
fn six_nodes_and_two_tiers_have_the_seeds_properties() {
    let lists = lists(&json(&["--nodes", SIX, "--tiers", "2"])["addresses"]);
    assert_eq!(lists.len(), 30);
    assert_even(&lists, 6, 2, 5);
    for failed in SIX.split(',') {
        let loads = loads(&lists, &[failed]);
        assert_eq!(loads.len(), 5);
        assert!(loads.values().all(|&load| load == 6), "{failed} down: {loads:?}");
    }
}

#[test]
fn three_nodes_and_three_tiers_have_the_seeds_properties() {
    let lists = lists(&json(&["--nodes", "A,B,C", "--tiers", "3"])["addresses"]);
    assert_eq!(lists.len(), 6);
    assert_even(&lists, 3, 3, 2);
    for down in [["A", "B"], ["A", "C"], ["B", "C"]] {
        assert!(loads(&lists, &down[..1]).values().all(|&load| load == 3));
        assert!(loads(&lists, &down).values().eq([&6]));
    }
}

#[test]
fn an_address_has_its_index_and_its_tiers_and_nothing_else() {
    let report = json(&["--nodes", SIX, "--tiers", "2"]);
    for (index, address) in report["addresses"].as_array().unwrap().iter().enumerate() {
        assert_eq!(address["index"], index);
        assert_eq!(address.as_object().unwrap().len(), 2);
    }
    assert_eq!(report["addresses"][0], serde_json::json!({ "index": 0, "tiers": ["n2", "n1"] }));
    // 6 sets of one and 15 of two.
    let failures = report["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 21);
    assert_eq!(
        failures[0],
        serde_json::json!({ "failed": ["n1"], "least": 6, "most": 6, "mean": 6.0, "lost": [] })
    );
    assert_eq!(failures[6]["failed"], serde_json::json!(["n1", "n2"]));
    assert_eq!(failures[6]["lost"], serde_json::json!([0, 1]));
    assert!(report.get("added").is_none() && report.get("files").is_none());
}

#[test]
fn the_compact_form_is_even_and_small() {
    let lists = lists(&json(&["--nodes", SIX, "--compact"])["addresses"]);
    assert_eq!(lists.len(), 30);
    assert_even(&lists, 6, 3, 5);
    assert!(loads(&lists, &["n3"]).values().all(|&load| load == 6));
    let error = refused(&["--nodes", "a,b,c,d", "--compact"]);
    assert!(error.contains("no compact form for 4 nodes"), "{error}");
}

#[test]
fn people_get_tables() {
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(
            "plan_three_nodes_two_tiers",
            printed(&["--nodes", "n1,n2,n3", "--next-hops4", "10.0.0.64", "--add", "n4"])
        );
        insta::assert_snapshot!(
            "plan_five_nodes_compact",
            printed(&["--nodes", "a,b,c,d,e", "--compact", "--ecmp-width", "64"])
        );
    });
}

#[test]
fn the_readme_shows_what_is_printed() {
    let readme = include_str!("../../README.md");
    let command = "plan --nodes n1,n2,n3 --tiers 2 --ecmp-width 64";
    let arguments: Vec<_> = command.split(' ').skip(1).collect();
    let shown = format!("$ vipdp {command}\n{}```", printed(&arguments));
    assert!(readme.contains(&shown), "the README does not show\n{shown}");
}

#[test]
fn adding_a_node_only_appends() {
    for tiers in ["2", "3"] {
        let before = json(&["--nodes", SIX, "--tiers", tiers]);
        let adding = json(&["--nodes", SIX, "--tiers", tiers, "--add", "n7"]);
        let after = json(&["--nodes", &format!("{SIX},n7"), "--tiers", tiers]);
        assert_eq!(adding["addresses"], before["addresses"]);
        assert_eq!(adding["added"]["changed"], 0);
        let grown = [&before["addresses"], &adding["added"]["addresses"]]
            .map(|addresses| addresses.as_array().unwrap().clone())
            .concat();
        assert_eq!(Value::Array(grown), after["addresses"]);
        let appended = lists(&adding["added"]["addresses"]);
        assert!(appended.iter().all(|list| list.contains(&"n7".to_owned())));
    }
    let compact = printed(&["--nodes", SIX, "--compact", "--add", "n7"]);
    assert!(compact.contains("does not only append"), "{compact}");
}

#[test]
fn the_ecmp_width_decides() {
    let fits = printed(&["--nodes", SIX, "--ecmp-width", "32"]);
    assert!(fits.contains("They fit a width of 32, which has room for 6 nodes"), "{fits}");
    let output = plan(&["--nodes", SIX, "--ecmp-width", "16"]);
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("30 next hops do not fit an ECMP width of 16"), "{error}");
    assert!(error.contains("give at most 4 nodes (12 next hops)"), "{error}");
    assert!(!output.stdout.is_empty(), "the plan is printed all the same");
    let json_too = plan(&["--nodes", SIX, "--ecmp-width", "16", "--json"]);
    assert!(!json_too.status.success());
    let report: Value = serde_json::from_slice(&json_too.stdout).unwrap();
    assert_eq!(report["ecmp"]["widths"], serde_json::json!([{ "width": 16, "fits": false }]));
    let error = refused(&["--nodes", SIX, "--ecmp-width", "1"]);
    assert!(error.contains("of 1: give a router with more room"), "{error}");
    // What a node more would need counts.
    let error = refused(&["--nodes", SIX, "--ecmp-width", "32", "--add", "n7"]);
    assert!(error.contains("42 next hops"), "{error}");
}

#[test]
fn what_is_wrong_is_told_with_its_remedy() {
    let many = |count: usize| (1..=count).map(|n| format!("n{n}")).collect::<Vec<_>>().join(",");
    let (eighteen, sixty_five) = (many(18), many(65));
    let cases: &[(&[&str], &str)] = &[
        (&["--nodes", "n1"], "1 node for 2 tiers: give at least 2 nodes"),
        (&["--nodes", "n1,n2", "--tiers", "3"], "give at least 3 nodes, or fewer tiers"),
        (&["--nodes", "n1,n2,n1"], "\"n1\" is named twice"),
        (&["--nodes", "n1,n2", "--add", "n2"], "\"n2\" is named twice"),
        (&["--nodes", "n1,,n2"], "\"\" is no node's name: give 1 to 32 letters"),
        (&["--nodes", "n1,n 2"], "\"n 2\" is no node's name"),
        (&["--nodes", "n1,../n2"], "is no node's name"),
        (&["--nodes", "n1,n2", "--tiers", "1"], "1 tiers: give 2 or 3"),
        (&["--nodes", "n1,n2,n3,n4,n5", "--tiers", "2", "--compact"], "has three tiers, not 2"),
        (&["--nodes", &sixty_five], "65 nodes: give at most 64"),
        (&["--nodes", &eighteen, "--tiers", "3"], "4896 addresses"),
        (&["--nodes", &eighteen, "--tiers", "3"], "give at most 17 nodes"),
        (&["--nodes", &many(17), "--tiers", "3", "--add", "n18"], "with the added nodes: 18 nodes"),
        (&["--nodes", "a,b", "--ecmp-width", "0"], "--ecmp-width"),
        (&["--nodes", "a,b", "--vips", "198.51.100.7/24"], "198.51.100.0/24"),
        (&["--nodes", "a,b", "--vips", "192.0.2.53"], "give the first of them with --next-hops4"),
        (
            &["--nodes", "a,b", "--vips", "2001:db8::/64", "--next-hops4", "10.0.0.1"],
            "give the first of them with --next-hops6",
        ),
        (
            &["--nodes", "a,b", "--vips", "10.0.0.0/24", "--next-hops4", "10.0.0.64"],
            "holds next-hop addresses, which are 10.0.0.64 to 10.0.0.65",
        ),
        (
            &["--nodes", "a,b", "--vips", "192.0.2.0/24,192.0.2.5", "--next-hops4", "10.0.0.1"],
            "VIPs 192.0.2.0/24 and 192.0.2.5 share addresses",
        ),
        (&["--nodes", "a,b", "--vips", "224.0.0.0/24", "--next-hops4", "10.0.0.1"], "is no VIP"),
        (&["--nodes", "a,b", "--next-hops4", "223.255.255.255"], "from 223.255.255.255 on"),
        (&["--nodes", "a,b", "--next-hops4", "255.255.255.255"], "from 255.255.255.255 on"),
        (&["--nodes", "a,b", "--next-hops6", "fe80::1"], "from fe80::1 on"),
        (&["--nodes", "a,b", "--interface", "a b"], "\"a b\" is no interface"),
        (&["--nodes", "a,b", "--router", "linux", "--json"], "--router prints no JSON"),
    ];
    for (arguments, expected) in cases {
        let error = refused(arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn who_has_read_enough_may_close_the_pipe() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let run = |arguments: &[&str]| {
        let cli = Cli::parse_from([&["vipdp", "plan"], arguments].concat());
        let Some(vipdp::cli::Command::Plan(arguments)) = cli.command else { panic!("no plan") };
        vipdp::plan::run(&arguments, &mut Closed)
    };
    run(&["--nodes", SIX]).unwrap();
    // The verdict counts all the same.
    assert!(run(&["--nodes", SIX, "--ecmp-width", "16"]).is_err());
}

fn read(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_files_are_those_of_the_plan() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("new");
    let arguments = [
        &["--nodes", "n1,n2,n3", "--vips", "198.51.100.0/24,192.0.2.53,2001:db8:53::/64"][..],
        &["--next-hops4", "10.0.0.64", "--next-hops6", "fd00::1:0", "--id", "53"],
        &["--interface", "eno1", "--out", out.to_str().unwrap()],
    ]
    .concat();
    let report = printed(&arguments);
    assert!(report.contains("cluster.toml") && !report.contains("made up"), "{report}");

    let cluster: toml::Table = read(&out, "cluster.toml").parse().unwrap();
    assert_eq!(cluster["id"].as_integer(), Some(53));
    assert_eq!(cluster["mode"].as_str(), Some("tiered"));
    assert_eq!(cluster["vips"].as_array().unwrap().len(), 3);
    assert_eq!(cluster["tiered"]["tiers"].as_integer(), Some(2));
    assert_eq!(cluster["tiered"]["next_hops4"].as_str(), Some("10.0.0.64"));
    assert_eq!(cluster["tiered"]["next_hops6"].as_str(), Some("fd00::1:0"));
    let members = cluster["member"].as_array().unwrap();
    for (slot, member) in members.iter().enumerate() {
        let name = format!("n{}", slot + 1);
        assert_eq!(member["slot"].as_integer(), Some(slot as i64));
        assert_eq!(member["name"].as_str(), Some(name.as_str()));
        let node: toml::Table = read(&out, &format!("node-{name}.toml")).parse().unwrap();
        assert_eq!(node["slot"].as_integer(), Some(slot as i64));
        assert_eq!(node["interface"].as_str(), Some("eno1"));
        assert_eq!(node["cluster"].as_str(), Some("cluster.toml"));
    }
    assert_eq!(members.len(), 3);

    // Every next hop of each VIP's family, in the words of each router.
    let hops = |first: &str, last: u32| (0..6).map(|r| format!("{first}{:x}", last + r)).collect();
    let hops4: Vec<String> = (64..70).map(|last| format!("10.0.0.{last}")).collect();
    let hops6: Vec<String> = hops("fd00::1:", 0);
    for (file, line4, line6) in [
        ("router-frr.conf", "ip route 192.0.2.53/32 HOP", "ipv6 route 2001:db8:53::/64 HOP"),
        (
            "router-ios.txt",
            "ip route 198.51.100.0 255.255.255.0 HOP",
            "ipv6 route 2001:db8:53::/64 HOP",
        ),
        ("router-eos.txt", "ip route 198.51.100.0/24 HOP", "ipv6 route 2001:db8:53::/64 HOP"),
        (
            "router-junos.txt",
            "set routing-options static route 192.0.2.53/32 next-hop HOP",
            "set routing-options rib inet6.0 static route 2001:db8:53::/64 next-hop HOP",
        ),
        ("router-bird.conf", "        via HOP", "        via HOP"),
    ] {
        let text = read(&out, file);
        let lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches(';')).collect();
        for (line, hops) in [(line4, &hops4), (line6, &hops6)] {
            for hop in hops {
                let line = line.replace("HOP", hop);
                assert!(lines.contains(&line.as_str()), "{file} has no {line:?}:\n{text}");
            }
        }
        assert!(!text.contains("examples"), "{file}");
    }
    let linux = read(&out, "router-linux.sh");
    for hop in hops4.iter().chain(&hops6) {
        assert!(linux.contains(&format!(" via {hop} dev $dev\n")), "{linux}");
    }
    assert_eq!(linux.matches("route replace").count(), 3);

    // Nothing is overwritten, and nothing of another plan is mixed in.
    let error = refused(&arguments);
    assert!(error.contains("exists: move it away"), "{error}");
}

#[test]
fn what_was_not_given_is_an_example_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let arguments = ["--nodes", "a,b,c,d,e", "--compact", "--router", "junos", "--out", out];
    assert!(printed(&arguments).contains("made up as examples"));
    let cluster: toml::Table = read(directory.path(), "cluster.toml").parse().unwrap();
    assert_eq!(cluster["tiered"]["tiers"].as_integer(), Some(3));
    assert_eq!(cluster["tiered"]["compact"].as_bool(), Some(true));
    assert!(read(directory.path(), "router-junos.txt").contains("are examples"));
    assert!(!directory.path().join("router-frr.conf").exists());
    // One file of each node, the cluster's, the router's.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 7);
}

#[test]
fn one_router_is_printed_alone() {
    let junos = printed(&["--nodes", SIX, "--router", "junos"]);
    assert!(junos.contains("set chassis maximum-ecmp 32"), "{junos}");
    assert!(junos.lines().all(|line| line.starts_with("set ") || line.starts_with("# ")));
    let linux = printed(&["--nodes", SIX, "--router", "linux"]);
    assert!(linux.starts_with("#!/bin/sh\n") && linux.contains("fib_multipath_hash_policy=1"));
    // Beyond what a next-hop group takes, and beyond what ip(8) takes at all.
    let many = |count: usize| (1..=count).map(|n| format!("n{n}")).collect::<Vec<_>>().join(",");
    let routes = printed(&["--nodes", &many(12), "--router", "linux"]);
    assert!(routes.contains("nexthop via 10.0.0.195\n") && !routes.contains("nhid"), "{routes}");
    let none = printed(&["--nodes", &many(17), "--router", "linux"]);
    assert!(!none.contains("ip route replace"), "{none}");
}
