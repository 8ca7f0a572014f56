//! `[anycast]`: what nodes do with packets that the network sends to the wrong one of them.

use vipdp_core::anycast::Steering;

use super::reader::{Errors, Field, Place, Section};

/// What the anycast mode needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnycastConfig {
    /// How packets reach the node that has the client's bucket; `None` where whichever node the
    /// network has chosen serves them.
    pub steering: Option<Steering>,
}

impl AnycastConfig {
    /// The name of how packets get to the node that has the client's bucket.
    pub const fn forward_label(&self) -> &'static str {
        match self.steering {
            None => "off",
            Some(Steering::Mac) => "mac",
            Some(Steering::Gue { .. }) => "gue",
        }
    }
}

/// What was read of the table.
pub(super) struct AnycastRead<'s> {
    /// The contents.
    pub(super) config: AnycastConfig,
    /// Where the tunnel's port stands, or the table, if there is a tunnel.
    pub(super) tunnel: Option<(Place<'s>, u16)>,
}

/// The port that IANA has assigned to GUE.
const GUE_PORT_DEFAULT: u64 = 6080;

/// Reads the table, or what holds without it.
pub(super) fn read<'s>(section: Option<Section<'s>>, errors: &mut Errors) -> AnycastRead<'s> {
    let none = AnycastRead { config: AnycastConfig { steering: None }, tunnel: None };
    let Some(mut section) = section else { return none };
    let table = section.place.clone();
    let steer = section.or_default("steer", false, errors, Field::boolean);
    let by_tunnel =
        section.or_default("forward", true, errors, |f| f.choice(&[("gue", true), ("mac", false)]));
    let port =
        section.optional("gue_port", errors, |f| f.integer(1..=65_535, "a UDP port of its own"));
    section.finish(errors);
    if !steer {
        return none;
    }
    if !by_tunnel {
        return AnycastRead {
            config: AnycastConfig { steering: Some(Steering::Mac) },
            tunnel: None,
        };
    }
    let (place, port) =
        port.map_or((table, GUE_PORT_DEFAULT), |located| (located.place, located.value));
    let port = port as u16;
    AnycastRead {
        config: AnycastConfig { steering: Some(Steering::Gue { port }) },
        tunnel: Some((place, port)),
    }
}
