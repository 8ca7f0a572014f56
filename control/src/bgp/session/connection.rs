//! One TCP connection of a session, and how far it has come.

use std::net::IpAddr;

use crate::bgp::config::Announcement;
use crate::bgp::encode::Family;
use crate::bgp::frame::{Framer, Kind};
use crate::bgp::notification::{Notification, fsm};
use crate::bgp::open::Open;

use super::event::ConnId;
use super::terms::Terms;
use super::view::State;

const SECOND_NS: u64 = 1_000_000_000;

/// How long the peer's OPEN is waited for (RFC 4271 section 8.2.2: a large value, 4 minutes), and
/// its KEEPALIVE after that where no hold time was agreed on.
const OPEN_HOLD_NS: u64 = 240 * SECOND_NS;

/// Keepalives to a hold time (RFC 4271 section 10).
const KEEPALIVES_PER_HOLD: u64 = 3;

/// A connection, from its first OPEN on.
#[derive(Debug)]
pub(super) struct Connection {
    pub id: ConnId,
    /// This node's address of it.
    pub local: IpAddr,
    /// This node made it, not the peer.
    pub own: bool,
    /// The session was up when the peer made it.
    pub succeeds: bool,
    /// What this node said of itself by it.
    pub offer: Open,
    pub framer: Framer,
    pub stage: Stage,
    /// When the peer has been silent for too long; `u64::MAX`: never.
    pub hold_at: u64,
    /// When a KEEPALIVE is due; `u64::MAX`: never.
    pub keepalive_at: u64,
}

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Stage {
    OpenSent,
    OpenConfirm(Terms),
    Established(Established),
}

/// A session that is up.
#[derive(Debug)]
pub(super) struct Established {
    pub terms: Terms,
    /// What the peer was told of the routes.
    pub told: Announcement,
    /// Until when the peer may wait to hear that all routes were sent; `None`: it does not wait.
    pub end_of_rib_at: Option<u64>,
    /// The families whose routes the peer asked for again.
    pub asked: Vec<Family>,
    /// When they may be sent.
    pub answer_at: u64,
}

impl Connection {
    pub fn new(
        id: ConnId,
        local: IpAddr,
        own: bool,
        succeeds: bool,
        offer: Open,
        now: u64,
    ) -> Self {
        Self {
            id,
            local,
            own,
            succeeds,
            offer,
            framer: Framer::default(),
            stage: Stage::OpenSent,
            hold_at: now + OPEN_HOLD_NS,
            keepalive_at: u64::MAX,
        }
    }

    pub const fn state(&self) -> State {
        match self.stage {
            Stage::OpenSent => State::OpenSent,
            Stage::OpenConfirm(_) => State::OpenConfirm,
            Stage::Established(_) => State::Established,
        }
    }

    pub const fn terms(&self) -> Option<&Terms> {
        match &self.stage {
            Stage::OpenSent => None,
            Stage::OpenConfirm(terms) | Stage::Established(Established { terms, .. }) => {
                Some(terms)
            }
        }
    }

    pub const fn established(&self) -> Option<&Established> {
        match &self.stage {
            Stage::Established(established) => Some(established),
            Stage::OpenSent | Stage::OpenConfirm(_) => None,
        }
    }

    pub const fn established_mut(&mut self) -> Option<&mut Established> {
        match &mut self.stage {
            Stage::Established(established) => Some(established),
            Stage::OpenSent | Stage::OpenConfirm(_) => None,
        }
    }

    /// Whether messages of `kind` may come now (RFC 4271 section 8.2.2).
    ///
    /// # Errors
    /// The NOTIFICATION of a message that may not, with its type (RFC 6608 section 4).
    pub fn expects(&self, kind: Kind) -> Result<(), Notification> {
        let (expected, subcode): (&[Kind], u8) = match self.stage {
            Stage::OpenSent => (&[Kind::Open], fsm::IN_OPEN_SENT),
            Stage::OpenConfirm(_) => (&[Kind::Keepalive], fsm::IN_OPEN_CONFIRM),
            Stage::Established(_) => {
                (&[Kind::Update, Kind::Keepalive, Kind::RouteRefresh], fsm::IN_ESTABLISHED)
            }
        };
        if kind == Kind::Notification || expected.contains(&kind) {
            Ok(())
        } else {
            Err(Notification::new(fsm::CODE, subcode, [kind as u8]))
        }
    }

    /// How long the peer may be silent, in nanoseconds; `None`: for ever.
    pub fn hold_ns(&self) -> Option<u64> {
        match &self.stage {
            Stage::OpenSent => Some(OPEN_HOLD_NS),
            // Without a hold time a peer could stay here for ever.
            Stage::OpenConfirm(terms) if terms.hold_s == 0 => Some(OPEN_HOLD_NS),
            Stage::OpenConfirm(terms) | Stage::Established(Established { terms, .. }) => {
                (terms.hold_s > 0).then_some(u64::from(terms.hold_s) * SECOND_NS)
            }
        }
    }

    /// The time between KEEPALIVEs, in nanoseconds; `None`: there are none.
    pub fn keepalive_ns(&self) -> Option<u64> {
        let hold_s = self.terms()?.hold_s;
        (hold_s > 0).then_some(u64::from(hold_s) * SECOND_NS / KEEPALIVES_PER_HOLD)
    }

    /// The peer was heard of.
    pub fn heard(&mut self, now: u64) {
        self.hold_at = self.hold_ns().map_or(u64::MAX, |hold| now + hold);
    }

    /// When something is due that nothing that comes in makes due.
    pub fn deadline(&self) -> u64 {
        let established = self.established().map_or(u64::MAX, |established| {
            let answer =
                if established.asked.is_empty() { u64::MAX } else { established.answer_at };
            answer.min(established.end_of_rib_at.unwrap_or(u64::MAX))
        });
        self.hold_at.min(self.keepalive_at).min(established)
    }
}
