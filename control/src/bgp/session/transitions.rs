//! The whole transition table of a session with one connection.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::*;
use crate::bgp::config::{Attributes, RemoteAs};
use crate::bgp::frame::{HEADER_LEN, message};
use crate::bgp::open::Capabilities;

const CONN: ConnId = ConnId(1);
pub(super) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 2));

fn local(asn: u32, id: u8) -> LocalConfig {
    LocalConfig {
        asn,
        router_id: Ipv4Addr::new(10, 0, 0, id),
        hold_s: 9,
        graceful_restart_s: 0,
        attributes: Attributes::default(),
        next_hop4: None,
        next_hop6: None,
        prefixes: vec!["172.20.0.1".parse().unwrap()],
    }
}

pub(super) fn session(asn: u32, id: u8, passive: bool, seed: u64) -> Session {
    let peer = PeerConfig { remote_as: RemoteAs::External, passive };
    Session::new(Arc::new(local(asn, id)), peer, seed).unwrap()
}

pub(super) fn open_of_peer() -> Vec<u8> {
    let capabilities = Capabilities { v4: true, four_octet_as: true, ..Default::default() };
    let id = Ipv4Addr::new(10, 0, 0, 1);
    encode::open(&Open { asn: 65001, hold_s: 9, id, capabilities })
}

/// A session that was led to a state, its time, and what it did at last.
struct Led {
    session: Session,
    now: u64,
    out: Vec<Output>,
}

impl Led {
    /// To a row of the table. Every one announces.
    fn to(row: &str) -> Self {
        let session = session(65011, 11, false, 1);
        let mut led = Self { session, now: 0, out: Vec::new() };
        led.step(Input::Announce(Announcement::Announced));
        let steps = ["Connect", "OpenSent", "OpenConfirm", "Established"];
        let count = match row {
            "Idle" => 0,
            "Active" | "Held" => 1,
            _ => 1 + steps.iter().position(|step| *step == row).unwrap(),
        };
        for step in &steps[..count] {
            match *step {
                "Connect" => led.step(Input::Start),
                "OpenSent" => {
                    led.step(Input::Connected { conn: CONN, local: ADDRESS, remote: ADDRESS });
                }
                "OpenConfirm" => led.receive(&open_of_peer()),
                _ => led.receive(&encode::keepalive()),
            }
        }
        match row {
            "Active" => led.step(Input::ConnectFailed),
            "Held" => led.step(Input::BfdDown),
            _ => {}
        }
        led
    }

    fn step(&mut self, input: Input<'_>) {
        self.out.clear();
        self.session.step(self.now, input, &mut self.out);
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.step(Input::Received { conn: CONN, bytes });
    }

    fn happens(&mut self, column: &str) {
        match column {
            "Start" => self.step(Input::Start),
            "Stop" => self.step(Input::Stop(Shutdown::Deconfigured)),
            "Connected" => {
                let conn = ConnId(2);
                self.step(Input::Connected { conn, local: ADDRESS, remote: ADDRESS });
            }
            "ConnectFailed" => self.step(Input::ConnectFailed),
            "Accepted" => {
                let conn = ConnId(2);
                self.step(Input::Accepted { conn, local: ADDRESS, remote: ADDRESS });
            }
            "Closed" => self.step(Input::Closed { conn: CONN }),
            "Open" => self.receive(&open_of_peer()),
            "BadOpen" => self.receive(&message(Kind::Open, &[3; 10])),
            "Update" => self.receive(&message(Kind::Update, &[0; 4])),
            "BadUpdate" => self.receive(&message(Kind::Update, &[1; 4])),
            "Keepalive" => self.receive(&encode::keepalive()),
            "Notification" => self.receive(&message(Kind::Notification, &[6, 4])),
            "Refresh" => self.receive(&message(Kind::RouteRefresh, &[0, 1, 0, 1])),
            "BadHeader" => self.receive(&[0; HEADER_LEN]),
            "Deadline" => {
                let Some(Output::NextDeadline(at)) = self.out.last() else { panic!() };
                self.now = (*at).min(u64::MAX / 2);
                self.step(Input::Tick);
            }
            "Silence" => {
                self.now += 240 * SECOND_NS;
                self.step(Input::Tick);
            }
            "BfdDown" => self.step(Input::BfdDown),
            "BfdUp" => self.step(Input::BfdUp),
            "Withdraw" => self.step(Input::Announce(Announcement::Nothing)),
            _ => panic!("{column}"),
        }
    }

    /// The state, and the outputs but for what is logged and due.
    fn did(&self) -> String {
        let mut line = match self.session.view() {
            view if view.waits_for_bfd => "Held".to_owned(),
            view => view.state.to_string(),
        };
        for output in &self.out {
            let word = match output {
                Output::Connect => "connect".to_owned(),
                Output::CancelConnect => "cancel".to_owned(),
                Output::Send(conn, bytes) if bytes[18] == 3 => {
                    format!("{}:notification({},{})", conn.0, bytes[19], bytes[20])
                }
                Output::Send(conn, bytes) => {
                    let name = ["open", "update", "", "keepalive"][usize::from(bytes[18]) - 1];
                    format!("{}:{name}", conn.0)
                }
                Output::Close(conn) => format!("{}:close", conn.0),
                Output::Log(_) | Output::NextDeadline(_) => continue,
            };
            line = line + " " + &word;
        }
        line
    }
}

/// In a state (Held waits for BFD): what happens, the state after that, and what is done. Nothing
/// comes of whatever is not named here.
const TABLE: &str = "\
Idle        Start         Connect connect
Idle        Connected     Idle 2:close
Idle        Accepted      Idle 2:notification(6,5) 2:close
Active      Stop          Idle
Active      Connected     Active 2:close
Active      Accepted      OpenSent 2:open
Active      Deadline      Connect connect
Active      Silence       Connect connect
Active      BfdDown       Held
Connect     Stop          Idle cancel
Connect     Connected     OpenSent 2:open
Connect     ConnectFailed Active
Connect     Accepted      OpenSent 2:open
Connect     Deadline      Active cancel
Connect     Silence       Active cancel
Connect     BfdDown       Held cancel
OpenSent    Stop          Idle 1:notification(6,3) 1:close
OpenSent    Connected     OpenSent 2:close
OpenSent    Accepted      OpenSent 2:open
OpenSent    Closed        Active
OpenSent    Open          OpenConfirm 1:keepalive
OpenSent    BadOpen       Active 1:notification(2,1) 1:close
OpenSent    Update        Active 1:notification(5,1) 1:close
OpenSent    BadUpdate     Active 1:notification(5,1) 1:close
OpenSent    Keepalive     Active 1:notification(5,1) 1:close
OpenSent    Notification  Active 1:close
OpenSent    Refresh       Active 1:notification(5,1) 1:close
OpenSent    BadHeader     Active 1:notification(1,1) 1:close
OpenSent    Deadline      Active 1:notification(4,0) 1:close
OpenSent    Silence       Active 1:notification(4,0) 1:close
OpenSent    BfdDown       Held 1:notification(6,10) 1:close
OpenConfirm Stop          Idle 1:notification(6,3) 1:close
OpenConfirm Connected     OpenConfirm 2:close
OpenConfirm Accepted      OpenConfirm 2:open
OpenConfirm Closed        Active
OpenConfirm Open          Active 1:notification(5,2) 1:close
OpenConfirm BadOpen       Active 1:notification(5,2) 1:close
OpenConfirm Update        Active 1:notification(5,2) 1:close
OpenConfirm BadUpdate     Active 1:notification(5,2) 1:close
OpenConfirm Keepalive     Established 1:update
OpenConfirm Notification  Active 1:close
OpenConfirm Refresh       Active 1:notification(5,2) 1:close
OpenConfirm BadHeader     Active 1:notification(1,1) 1:close
OpenConfirm Deadline      OpenConfirm 1:keepalive
OpenConfirm Silence       Active 1:notification(4,0) 1:close
OpenConfirm BfdDown       Held 1:notification(6,10) 1:close
Established Stop          Idle 1:notification(6,3) 1:close
Established Connected     Established 2:close
Established Accepted      Established 2:open
Established Closed        Active
Established Open          Active 1:notification(5,3) 1:close
Established BadOpen       Active 1:notification(5,3) 1:close
Established BadUpdate     Active 1:notification(3,1) 1:close
Established Notification  Active 1:close
Established Refresh       Established 1:update
Established BadHeader     Active 1:notification(1,1) 1:close
Established Deadline      Established 1:keepalive
Established Silence       Active 1:notification(4,0) 1:close
Established BfdDown       Held 1:notification(6,10) 1:close
Established Withdraw      Established 1:update
Held        Stop          Idle
Held        Connected     Held 2:close
Held        Accepted      Held 2:notification(6,5) 2:close
Held        BfdUp         Connect connect
";

#[test]
fn the_whole_table() {
    let rows = ["Idle", "Active", "Connect", "OpenSent", "OpenConfirm", "Established", "Held"];
    let columns = [
        "Start",
        "Stop",
        "Connected",
        "ConnectFailed",
        "Accepted",
        "Closed",
        "Open",
        "BadOpen",
        "Update",
        "BadUpdate",
        "Keepalive",
        "Notification",
        "Refresh",
        "BadHeader",
        "Deadline",
        "Silence",
        "BfdDown",
        "BfdUp",
        "Withdraw",
    ];
    let mut table = String::new();
    for row in rows {
        for column in columns {
            let mut led = Led::to(row);
            led.happens(column);
            let did = led.did();
            if did != row {
                table += &format!("{row:<11} {column:<13} {did}\n");
            }
        }
    }
    assert_eq!(table, TABLE, "\n{table}");
}
