//! `mode`: how packets reach the nodes, and the table that belongs to it.

use super::anycast::{self, AnycastConfig, AnycastRead};
use super::reader::{Errors, Section};
use super::shared_mac::{self, SharedMacConfig};
use super::tiered::{self, TieredConfig, TieredRead};

/// How packets reach the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngressMode {
    /// Every node receives every frame.
    SharedMac(SharedMacConfig),
    /// A router spreads over next-hop addresses, each of which one node owns.
    Tiered(TieredConfig),
    /// The network spreads over the routes to the VIPs that the nodes announce.
    Anycast(AnycastConfig),
}

impl IngressMode {
    /// The mode's name in the configuration and in the status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::SharedMac(_) => Kind::SharedMac.label(),
            Self::Tiered(_) => Kind::Tiered.label(),
            Self::Anycast(_) => Kind::Anycast.label(),
        }
    }
}

/// A mode without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    SharedMac,
    Tiered,
    Anycast,
}

impl Kind {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::SharedMac => "shared-mac",
            Self::Tiered => "tiered",
            Self::Anycast => "anycast",
        }
    }

    /// The table that belongs to it.
    const fn table(self) -> &'static str {
        match self {
            Self::SharedMac => "shared_mac",
            Self::Tiered => "tiered",
            Self::Anycast => "anycast",
        }
    }
}

/// What of the mode other keys are checked against.
pub(super) struct IngressRead<'s> {
    /// The mode's name; `None` if it is wrong.
    pub(super) kind: Option<Kind>,
    /// The mode; `None` if something about it is wrong.
    pub(super) mode: Option<IngressMode>,
    /// What was read of `[tiered]`.
    pub(super) tiered: Option<TieredRead<'s>>,
    /// What was read of `[anycast]`.
    pub(super) anycast: AnycastRead<'s>,
}

/// Reads `mode`, `[shared_mac]`, `[tiered]` and `[anycast]`, for a cluster numbered `id` of `members` members,
/// removed ones included.
pub(super) fn read<'s>(
    section: &mut Section<'s>,
    id: Option<u16>,
    members: usize,
    errors: &mut Errors,
) -> IngressRead<'s> {
    let kinds = [Kind::SharedMac, Kind::Tiered, Kind::Anycast].map(|kind| (kind.label(), kind));
    let kind = section.required("mode", "mode = \"shared-mac\"", errors, |f| f.choice(&kinds));
    let kind = kind.map(|kind| kind.value);
    let shared_mac = table_of(section, Kind::SharedMac, kind, errors);
    let tiered = table_of(section, Kind::Tiered, kind, errors);
    let anycast = table_of(section, Kind::Anycast, kind, errors);
    // Whichever table is there is read, also where the mode is wrong or another one.
    let macs = shared_mac::read(shared_mac, id, errors);
    let tiered = tiered.map(|table| tiered::read(table, members, errors));
    let anycast = anycast::read(anycast, errors);
    let mode = match kind {
        Some(Kind::SharedMac) => macs.map(IngressMode::SharedMac),
        Some(Kind::Tiered) => tiered.as_ref().and_then(|read| read.config).map(IngressMode::Tiered),
        Some(Kind::Anycast) => Some(IngressMode::Anycast(anycast.config)),
        None => None,
    };
    IngressRead { kind, mode, tiered, anycast }
}

/// The table that belongs to the mode `of`. Where the mode is `kind`, another one's is an error, and
/// so is to leave out that of the tiered mode, which has no next hops by default.
fn table_of<'s>(
    section: &mut Section<'s>,
    of: Kind,
    kind: Option<Kind>,
    errors: &mut Errors,
) -> Option<Section<'s>> {
    if of == Kind::Tiered && kind == Some(of) && !section.has(of.table()) {
        let example = "[tiered] with next_hops4 = \"10.0.0.64\"";
        return section.required(of.table(), example, errors, |f| f.section()).map(|it| it.value);
    }
    let table = section.table(of.table(), errors)?;
    if let Some(kind) = kind.filter(|&kind| kind != of) {
        let found = format!("this table beside mode = \"{}\"", kind.label());
        let remedy = format!("remove it, or give mode = \"{}\"", of.label());
        errors.push(table.place.error_found(found, remedy));
    }
    Some(table)
}
