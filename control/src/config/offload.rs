//! `offload`: how much the XDP program decides by itself.

use vipdp_core::offload::OffloadMode;

use super::cluster::ClusterRead;
use super::ingress::Kind;
use super::node::EgressMode;
use super::reader::{Errors, Located, Section};

/// What was read, for what other keys say of it: `None` if it is off, or cannot be read.
pub(super) type OffloadRead<'s> = Option<Located<'s, OffloadMode>>;

/// The names of the modes, in the configuration and in the status.
const OFF: &str = "off";
const DROP: &str = "drop";
const FULL: &str = "full";

/// The mode's name in the configuration and in the status.
pub const fn offload_label(offload: Option<OffloadMode>) -> &'static str {
    match offload {
        None => OFF,
        Some(OffloadMode::Drop) => DROP,
        Some(OffloadMode::Full) => FULL,
    }
}

/// Reads `offload`.
pub(super) fn read<'s>(section: &mut Section<'s>, errors: &mut Errors) -> OffloadRead<'s> {
    let read = section.optional("offload", errors, |f| {
        let (drop, full) = (Some(OffloadMode::Drop), Some(OffloadMode::Full));
        f.choice(&[(OFF, None), (DROP, drop), (FULL, full)])
    })?;
    Some(Located { value: read.value?, place: read.place })
}

/// What the host sends through the TAP are flows of buckets that may be anybody's: the program would
/// drop the answers to them.
pub(super) fn check_egress(read: &OffloadRead<'_>, egress: EgressMode, errors: &mut Errors) {
    if let (Some(offload), EgressMode::Tap) = (read, egress) {
        let why =
            " beside egress = \"tap\", with which answers to the host come in by buckets of others";
        errors.push(offload.place.error(why, "give egress = \"direct\", or offload = \"off\""));
    }
}

/// The program drops by buckets, which in other modes may be anybody's to serve or to forward; and it
/// hands frames over as they are, with their tag.
pub(super) fn check(read: &OffloadRead<'_>, cluster: &ClusterRead<'_>, errors: &mut Errors) {
    let Some(offload) = read else { return };
    let place = &offload.place;
    if matches!(cluster.kind, Some(Kind::Tiered | Kind::Anycast)) {
        let why = " without mode = \"shared-mac\" in the cluster's file: no other mode has packets that \
                   are dropped by their bucket";
        return errors.push(place.error(why, "remove it"));
    }
    let vlan = cluster.config.as_ref().and_then(|config| config.vlan);
    if let (OffloadMode::Full, Some(vlan)) = (offload.value, vlan) {
        let why = format!(
            " with vlan = {vlan} in the cluster's file: the kernel would take the frames for its VLAN \
             interface's"
        );
        errors.push(place.error(&why, "give offload = \"drop\""));
    }
}
