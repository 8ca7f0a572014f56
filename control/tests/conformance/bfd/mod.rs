//! A session that is played a case.
//!
//! Its discriminator is 1, the peer's 7. Times are in milliseconds. What happens:
//!
//! | | |
//! |---|---|
//! | `after N` | time passes |
//! | `receive STATE [poll] [final] [demand] [KEY=VALUE]..` | a packet, of multiplier 3 and 300 ms if not said otherwise |
//! | `bytes HEX` | a datagram |
//! | `admin-down`, `admin-up` | the operator's word |
//! | `view` | how it stands |

use std::num::{NonZeroU8, NonZeroU32};

use vipdp::bfd::{Diagnostic, Input, Output, Packet, Session, State, Timers};

const MS_NS: u64 = 1_000_000;
const OURS: NonZeroU32 = NonZeroU32::new(1).unwrap();

/// What happens, and after each of it what the session does, as a case is written.
pub fn play<'a>(config: &[String], inputs: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut timers = Timers {
        interval_us: NonZeroU32::new(300_000).unwrap(),
        multiplier: NonZeroU8::new(3).unwrap(),
    };
    for setting in config {
        match setting.split_once('=').unwrap() {
            ("interval", ms) => {
                timers.interval_us = NonZeroU32::new(ms.parse::<u32>().unwrap() * 1000).unwrap();
            }
            ("multiplier", multiplier) => timers.multiplier = multiplier.parse().unwrap(),
            _ => panic!("config {setting}"),
        }
    }
    let mut stage = Stage { session: Session::new(0, OURS, timers, 1), now: 0, lines: Vec::new() };
    for input in inputs {
        stage.lines.push(format!("> {input}"));
        stage.happens(input);
    }
    stage.lines
}

struct Stage {
    session: Session,
    now: u64,
    lines: Vec<String>,
}

impl Stage {
    fn happens(&mut self, input: &str) {
        let (verb, rest) = input.split_once(' ').unwrap_or((input, ""));
        match verb {
            "after" => {
                self.now += rest.parse::<u64>().unwrap() * MS_NS;
                self.step(Input::Tick);
            }
            "receive" => self.step(Input::Received(&packet(rest))),
            "bytes" => match Packet::decode(&hex(rest)) {
                Ok(packet) => self.step(Input::Received(&packet)),
                Err(error) => self.lines.push(format!("< refused: {error}")),
            },
            "admin-down" => self.step(Input::AdminDown),
            "admin-up" => self.step(Input::AdminUp),
            "view" => self.view(),
            _ => panic!("what is {input:?}?"),
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let mut outputs = Vec::new();
        self.session.step(self.now, input, &mut outputs);
        for output in outputs {
            let line = match output {
                Output::Send(packet) => format!("send {}", sent(&packet)),
                Output::Up => "up".to_owned(),
                Output::Down(reason) => format!("down: {reason}"),
            };
            self.lines.push(format!("< {line}"));
        }
    }

    fn view(&mut self) {
        let view = self.session.view();
        self.lines.push(format!(
            "< {}, {}; peer {}, {}; sends every {} ms, detects after {} ms",
            view.state,
            view.diagnostic,
            view.remote_state,
            view.remote_diagnostic,
            view.tx_interval_ns / MS_NS,
            view.detection_ns / MS_NS,
        ));
    }
}

/// The packet that the peer sends.
fn packet(text: &str) -> Packet {
    let mut words = text.split(' ');
    let state = words.next().unwrap();
    let mut packet = Packet {
        diagnostic: Diagnostic::NONE,
        state: *State::ALL.iter().find(|one| one.to_string() == state).unwrap(),
        is_poll: false,
        is_final: false,
        is_control_plane_independent: false,
        is_demand: false,
        multiplier: NonZeroU8::new(3).unwrap(),
        mine: NonZeroU32::new(7).unwrap(),
        yours: Some(OURS),
        desired_min_tx_us: 300_000,
        required_min_rx_us: 300_000,
        required_min_echo_rx_us: 0,
    };
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, "0"));
        let number: u32 = value.parse().unwrap();
        match key {
            "poll" => packet.is_poll = true,
            "final" => packet.is_final = true,
            "demand" => packet.is_demand = true,
            "diag" => packet.diagnostic = Diagnostic::new(number as u8).unwrap(),
            "mine" => packet.mine = NonZeroU32::new(number).unwrap(),
            "yours" => packet.yours = NonZeroU32::new(number),
            "tx" => packet.desired_min_tx_us = number * 1000,
            "rx" => packet.required_min_rx_us = number * 1000,
            "echo" => packet.required_min_echo_rx_us = number * 1000,
            "multiplier" => packet.multiplier = NonZeroU8::new(number as u8).unwrap(),
            _ => panic!("what is {word:?}?"),
        }
    }
    // As it would come.
    Packet::decode(&packet.encode()).unwrap()
}

/// What the session sends, read back from its bytes.
fn sent(packet: &Packet) -> String {
    let packet = Packet::decode(&packet.encode()).unwrap();
    let flag = |is_set: bool, name: &'static str| if is_set { name } else { "" };
    assert!(!packet.is_demand && !packet.is_control_plane_independent);
    format!(
        "{}{}{} diag={} mine={} yours={} tx={} rx={} echo={} multiplier={}",
        packet.state,
        flag(packet.is_poll, " poll"),
        flag(packet.is_final, " final"),
        packet.diagnostic.code(),
        packet.mine,
        packet.yours.map_or(0, NonZeroU32::get),
        packet.desired_min_tx_us / 1000,
        packet.required_min_rx_us / 1000,
        packet.required_min_echo_rx_us / 1000,
        packet.multiplier,
    )
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| *c != ' ').map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
