//! A session that is played a case.

mod message;

use std::collections::BTreeSet;
use std::sync::Arc;

use vipdp::bgp::{
    Announcement, Attributes, ConnId, Input, LocalConfig, Output, PeerConfig, RemoteAs, Session,
    Shutdown,
};

/// What happens, and after each of it what the session does, as a case is written.
pub fn play<'a>(config: &[String], inputs: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut stage = Stage::new(config);
    for input in inputs {
        stage.lines.push(format!("> {input}"));
        stage.happens(input);
    }
    stage.lines
}

struct Stage {
    session: Session,
    /// AS numbers have four bytes in what the session writes.
    four_octet_as: bool,
    now: u64,
    deadline: u64,
    open: BTreeSet<ConnId>,
    lines: Vec<String>,
}

const SECOND_NS: f64 = 1e9;

impl Stage {
    fn new(config: &[String]) -> Self {
        let mut local = LocalConfig {
            asn: 65011,
            router_id: "10.0.0.11".parse().unwrap(),
            hold_s: 9,
            graceful_restart_s: 0,
            attributes: Attributes::default(),
            next_hop4: None,
            next_hop6: None,
            prefixes: Vec::new(),
        };
        let mut peer = PeerConfig { remote_as: RemoteAs::Exactly(65001), passive: false };
        let mut four_octet_as = true;
        for setting in config {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            match key {
                "as" => local.asn = value.parse().unwrap(),
                "id" => local.router_id = value.parse().unwrap(),
                "hold" => local.hold_s = value.parse().unwrap(),
                "graceful" => local.graceful_restart_s = value.parse().unwrap(),
                "community" => local.attributes.communities.push(value.parse().unwrap()),
                "large" => local.attributes.large_communities.push(value.parse().unwrap()),
                "med" => local.attributes.med = Some(value.parse().unwrap()),
                "bandwidth" => local.attributes.link_bandwidth = Some(value.parse().unwrap()),
                "next-hop4" => local.next_hop4 = Some(value.parse().unwrap()),
                "next-hop6" => local.next_hop6 = Some(value.parse().unwrap()),
                "prefix" => local.prefixes.push(value.parse().unwrap()),
                "remote" if value == "external" => peer.remote_as = RemoteAs::External,
                "remote" => peer.remote_as = RemoteAs::Exactly(value.parse().unwrap()),
                "passive" => peer.passive = true,
                "two-octet" => four_octet_as = false,
                _ => panic!("unknown setting {setting}"),
            }
        }
        if local.prefixes.is_empty() {
            local.prefixes.push("172.20.0.1".parse().unwrap());
        }
        let session = Session::new(Arc::new(local), peer, 1).unwrap();
        let (open, lines) = (BTreeSet::new(), Vec::new());
        Self { session, four_octet_as, now: 0, deadline: u64::MAX, open, lines }
    }

    fn happens(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let conn = |word: &str| ConnId(word.parse().unwrap());
        match words.as_slice() {
            ["start"] => self.step(Input::Start),
            ["stop"] => self.step(Input::Stop(Shutdown::Administrative(None))),
            ["stop", "deconfigured"] => self.step(Input::Stop(Shutdown::Deconfigured)),
            ["stop", "restart"] => self.step(Input::Stop(Shutdown::Restart)),
            ["stop", text @ ..] => {
                self.step(Input::Stop(Shutdown::Administrative(Some(text.join(" ")))));
            }
            ["connected", id, local] => {
                let [local, remote] = [local, local].map(|address| address.parse().unwrap());
                self.open.insert(conn(id));
                self.step(Input::Connected { conn: conn(id), local, remote });
            }
            ["accepted", id, local] => {
                let [local, remote] = [local, local].map(|address| address.parse().unwrap());
                self.open.insert(conn(id));
                self.step(Input::Accepted { conn: conn(id), local, remote });
            }
            ["connect-failed"] => self.step(Input::ConnectFailed),
            ["closed", id] => {
                self.open.remove(&conn(id));
                self.step(Input::Closed { conn: conn(id) });
            }
            ["announce", "nothing"] => self.step(Input::Announce(Announcement::Nothing)),
            ["announce", "marked"] => self.step(Input::Announce(Announcement::Marked)),
            ["announce", "announced"] => self.step(Input::Announce(Announcement::Announced)),
            ["bfd-down"] => self.step(Input::BfdDown),
            ["bfd-up"] => self.step(Input::BfdUp),
            ["wait", seconds] => self.wait(seconds.parse().unwrap()),
            ["view"] => self.view(),
            [id, message @ ..] => {
                let bytes = message::read(message);
                self.step(Input::Received { conn: conn(id), bytes: &bytes });
            }
            [] => panic!("an empty line"),
        }
    }

    fn wait(&mut self, seconds: f64) {
        let until = self.now + (seconds * SECOND_NS) as u64;
        while self.deadline <= until {
            self.now = self.deadline;
            self.step(Input::Tick);
        }
        self.now = until;
        self.step(Input::Tick);
    }

    fn step(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.session.step(self.now, input, &mut out);
        let Some(Output::NextDeadline(deadline)) = out.pop() else { panic!("no deadline") };
        assert!(deadline > self.now, "due at {deadline}, at {}", self.now);
        self.deadline = deadline;
        for output in out {
            let line = match output {
                Output::Connect => "connect".to_owned(),
                Output::CancelConnect => "cancel-connect".to_owned(),
                Output::Send(conn, bytes) => {
                    assert!(self.open.contains(&conn), "sent on {conn:?}, which is closed");
                    format!("{} {}", conn.0, message::written(&bytes, self.four_octet_as))
                }
                Output::Close(conn) => {
                    assert!(self.open.remove(&conn), "closed {conn:?} twice");
                    format!("close {}", conn.0)
                }
                Output::Log(event) => format!("log {event}"),
                Output::NextDeadline(_) => panic!("two deadlines in one step"),
            };
            self.lines.push(format!("< {line}"));
        }
    }

    fn view(&mut self) {
        let view = self.session.view();
        let mut line = format!("< {} since {} s", view.state, view.since_ns as f64 / SECOND_NS);
        if view.waits_for_bfd {
            line += ", waits for BFD";
        }
        if let (Some(asn), Some(id)) = (view.remote_as, view.remote_id) {
            line += &format!(", AS {asn}, ID {id}");
        }
        if let (Some(announced), Some(hold_s)) = (view.announced, view.hold_s) {
            let (v4, v6) = (view.announced_v4, view.announced_v6);
            line += &format!(", hold {hold_s} s, {announced:?}: {v4} IPv4, {v6} IPv6");
        }
        if let Some(error) = view.last_error {
            let who = if error.theirs { "theirs" } else { "ours" };
            line += &format!("; last error ({who}): {}", error.notification);
        }
        self.lines.push(line);
        let counted = format!("{:?}", view.counters);
        let counted = counted.trim_start_matches("Counters { ").trim_end_matches(" }");
        let counted: Vec<_> = counted.split(", ").filter(|count| !count.ends_with(" 0")).collect();
        self.lines.push(format!("< {}", counted.join(", ")));
    }
}
