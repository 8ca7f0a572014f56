//! The command `vipdp` as an operator meets it.

use std::net::IpAddr;

use vipdp_tests::lab::{BUCKETS, Lab, Options, VIPS};
use vipdp_tests::load::Load;
use vipdp_tests::vipdp::{self, Config};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn check_says_what_is_right_and_what_is_wrong() {
    let config = Config::write("unicast", "direct", "adaptive");
    let check = || {
        let path = config.path();
        let output = vipdp::command().arg("check").arg("--config").arg(path).output();
        output.expect("vipdp runs")
    };
    let good = check();
    assert!(good.status.success(), "{}", text(&good.stderr));
    assert!(text(&good.stdout).contains("alone"), "{}", text(&good.stdout));

    config.replace("node.toml", "slot = 0\ninterface = \"eth0\"\npoll = \"never\"\n");
    let bad = check();
    assert_eq!((bad.status.code(), text(&bad.stdout).as_str()), (Some(1), ""));
    let said = text(&bad.stderr);
    for part in ["node.toml:3", "poll", "\"never\"", "\"adaptive\"", "cluster"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

#[test]
fn a_node_that_does_not_run_is_named() {
    let config = Config::write("unicast", "direct", "adaptive");
    let output =
        vipdp::command().arg("status").arg("--config").arg(config.path()).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("eth0.sock"), "{}", text(&output.stderr));
}

#[test]
fn a_running_node_tells_its_status_and_lets_no_second_one_in() {
    let lab = Lab::up(&Options { nodes: 2, ..Options::default() });
    let node = lab.namespace("n1");

    let output = vipdp::run(&node, &["status"], &lab.config("n1"));
    let screen = text(&output.stdout);
    let vips = VIPS.map(|vip: IpAddr| vip.to_string());
    let members = ["n1 (slot 0): active", "n2", "self", "alive", "192.0.2.12"];
    for part in members.into_iter().chain(vips.iter().map(String::as_str)) {
        assert!(screen.contains(part), "{part:?} is not in:\n{screen}");
    }

    let status = lab.status("n1");
    assert_eq!((status.node.name.as_str(), status.node.slot), ("n1", 0));
    assert_eq!(status.node.state, "active");
    assert!(status.node.willing && (1..=250).contains(&status.node.lease_ms_left), "{status:?}");
    assert_eq!(status.vips, vips);
    let states: Vec<_> = status.members.iter().map(|member| member.state.as_str()).collect();
    assert_eq!(states, ["self", "alive"]);
    assert_eq!(status.members.iter().map(|member| member.buckets).sum::<u32>(), BUCKETS);
    let owned = status.buckets.owners.iter().filter(|owner| **owner == Some(0)).count();
    assert_eq!((owned as u32, status.buckets.unowned), (status.buckets.owned, 0));

    // Once by its own state directory, once with another one.
    let other = Config::write("unicast", "direct", "adaptive");
    for config in [lab.config("n1"), other.path()] {
        let second = vipdp::run(&node, &[], &config);
        let said = text(&second.stderr);
        assert_eq!(second.status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains("eth0") && last.contains("another"), "not clear: {said}");
    }
    assert!(lab.is_shared_by(&["n1", "n2"]), "the first one has suffered");
    Load::start(&lab, "--rate 500 --duration 1").finish().assert_all_answered_once();
}
