//! Packets of every kind that rules tell apart, all of one client's flow, and where they go.

use std::net::IpAddr;

use vipdp_core::tiered::Mark;

use crate::frames::*;
use crate::tiered_member::*;
use tcp_flags::{ACK, SYN};

/// The port of the service.
pub const HTTPS: u16 = 443;

/// Where a packet went.
#[derive(Debug, PartialEq, Eq)]
pub struct Journey {
    /// The marks that it was sent on with, in order.
    pub marks: Vec<Mark>,
    /// The member whose host got it; `None` if it was dropped.
    pub host: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Syn,
    Ack,
    Dns,
    Quic,
    Error,
    FirstFragment,
    LaterFragment,
}

pub const KINDS: [Kind; 7] = [
    Kind::Syn,
    Kind::Ack,
    Kind::Dns,
    Kind::Quic,
    Kind::Error,
    Kind::FirstFragment,
    Kind::LaterFragment,
];

/// An IP packet of this kind, from this port of the client where it has one. Fragments are of the
/// datagram with the port's number.
pub fn packet(kind: Kind, client: IpAddr, port: u16) -> Vec<u8> {
    let vip = vip(client);
    let segment = |flags| ip(client, vip, 6, &tcp(port, HTTPS, flags));
    let piece = |payload: &[u8], offset, more| {
        ip_piece(client, vip, 6, payload, Some((offset, more, port)))
    };
    match kind {
        Kind::Syn => segment(SYN),
        Kind::Ack => segment(ACK),
        Kind::Dns => ip(client, vip, 17, &udp(port, 53, 30)),
        Kind::Quic => ip(client, vip, 17, &udp(port, QUIC, 30)),
        Kind::Error => {
            let quoted = ip(vip, client, 6, &tcp(HTTPS, port, ACK)[..8]);
            let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
            too_big(router(family), &quoted)
        }
        Kind::FirstFragment => {
            let mut start = tcp(port, HTTPS, ACK);
            start.resize(64, 0);
            piece(&start, 0, true)
        }
        Kind::LaterFragment => piece(&[0; 32], 64, false),
    }
}
