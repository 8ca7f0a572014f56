//! How packets to the VIPs reach this node: what the NIC and the XDP program are to let in, and
//! what the workers then make of it.

use std::net::IpAddr;

use anyhow::{Context, Result};
use vipdp_core::anycast::Anycast;
use vipdp_core::bucket::Bucket;
use vipdp_core::prefix::Prefix;
use vipdp_core::slot::Slot;
use vipdp_core::snapshot::{Ingress, SharedMac};
use vipdp_core::tiered::{Tiered, TieredMac, VirtualMac};
use vipdp_core::wire::ethernet::MacAddr;
#[cfg(feature = "dpdk")]
use vipdp_io::dpdk::Nic;
use vipdp_io::link::Link;
use vipdp_io::membership::{Membership, MembershipError};
use vipdp_io::xdp::{NextHops, Program, XdpError};

#[cfg(feature = "dpdk")]
use super::mailbox::Mailbox;
use crate::config::{
    AnycastConfig, Config, IngressMode, MemberConfig, SharedMacConfig, TieredConfig,
};

/// How packets to the VIPs reach a node of a given configuration.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The ingress mode, as workers know it.
    pub ingress: Ingress,
    /// The addresses that a router sends packets to VIPs by: none in the shared-mac mode.
    pub next_hops: NextHops,
    /// The numbers of those that this node may come to own, in ascending order.
    pub numbers: Vec<Bucket>,
    /// The MAC addresses besides its own that frames to this node carry.
    macs: Vec<MacAddr>,
    /// The groups whose members get frames to the VIPs.
    groups: Vec<IpAddr>,
    /// The addresses for which this node may have to answer.
    asked_for: Vec<IpAddr>,
}

impl Reach {
    /// What `config` says.
    ///
    /// # Errors
    /// When there are no next-hop addresses for so many members, which its checks ruled out.
    pub fn new(config: &Config) -> Result<Self> {
        match config.cluster.mode {
            IngressMode::SharedMac(shared_mac) => Ok(Self::shared_mac(config, shared_mac)),
            IngressMode::Tiered(tiered) => Self::tiered(config, &tiered),
            IngressMode::Anycast(anycast) => Ok(Self::anycast(config, &anycast)),
        }
    }

    fn shared_mac(config: &Config, shared_mac: SharedMacConfig) -> Self {
        let SharedMac { v4, v6 } = shared_mac.macs();
        Self {
            ingress: Ingress::SharedMac(shared_mac.macs()),
            next_hops: NextHops::default(),
            numbers: Vec::new(),
            macs: vec![v4, v6],
            groups: match shared_mac {
                SharedMacConfig::Unicast(_) => Vec::new(),
                SharedMacConfig::Multicast { group4, group6 } => {
                    vec![group4.into(), group6.into()]
                }
            },
            asked_for: config.cluster.vips.iter().copied().map(Prefix::network).collect(),
        }
    }

    fn tiered(config: &Config, tiered: &TieredConfig) -> Result<Self> {
        let members = &config.cluster.members;
        let addresses = tiered.addresses(members.len()).context("no next-hop addresses")?;
        let own = members.iter().position(|member| member.slot == config.node.slot);
        let own = own.context("this node is no member")? as u8;
        let ingress = Tiered {
            slot: config.node.slot,
            cluster: config.cluster.id,
            first4: tiered.first4,
            first6: tiered.first6,
            count: addresses.len() as u16,
            mac: tiered.mac,
            search: tiered.search,
        };
        let numbers = addresses.lists().enumerate().filter(|(_, list)| list.contains(&own));
        let numbers: Vec<_> = numbers.filter_map(|(at, _)| Bucket::new(at as u16)).collect();
        Ok(Self {
            ingress: Ingress::Tiered(ingress),
            next_hops: NextHops::from(&ingress),
            macs: match tiered.mac {
                TieredMac::Virtual => {
                    let mac = |&number| VirtualMac::Address(number).mac(config.cluster.id);
                    numbers.iter().map(mac).collect()
                }
                TieredMac::Node => Vec::new(),
            },
            groups: Vec::new(),
            asked_for: numbers
                .iter()
                .flat_map(|&number| {
                    let v4 = ingress.address_v4(number).map(IpAddr::V4);
                    v4.into_iter().chain(ingress.address_v6(number).map(IpAddr::V6))
                })
                .collect(),
            numbers,
        })
    }

    /// Routers send to the node's own addresses, and nobody asks who has a VIP.
    fn anycast(config: &Config, anycast: &AnycastConfig) -> Self {
        Self {
            ingress: Ingress::Anycast(Anycast {
                slot: config.node.slot,
                cluster: config.cluster.id,
                steering: anycast.steering,
            }),
            next_hops: NextHops::default(),
            numbers: Vec::new(),
            macs: Vec::new(),
            groups: Vec::new(),
            asked_for: Vec::new(),
        }
    }

    /// What lets in the frames of either: `other` is of a configuration that may be activated, or of
    /// one that still runs. They differ by members alone.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        if let (Ingress::Tiered(ours), Ingress::Tiered(theirs)) =
            (&mut self.ingress, &other.ingress)
        {
            ours.count = ours.count.max(theirs.count);
            self.next_hops = NextHops::from(&*ours);
        }
        self.numbers.extend(other.numbers);
        self.numbers.sort_unstable();
        self.numbers.dedup();
        self.macs.extend(other.macs);
        self.asked_for.extend(other.asked_for);
        self
    }

    /// The MAC addresses besides its own that frames to this node carry.
    #[cfg(feature = "dpdk")]
    pub fn macs(&self) -> &[MacAddr] {
        &self.macs
    }

    /// Whether frames to the VIPs may be addressed to the node itself: members send them on so, also
    /// where the router does not.
    pub fn is_by_own_mac(&self) -> bool {
        matches!(self.ingress, Ingress::Tiered(_) | Ingress::Anycast(_))
    }

    /// Whether frames to the VIPs are addressed to a group.
    pub fn is_by_group(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Has the NIC let in what is to reach this node, for as long as the membership lives.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&self, link: &Link) -> Result<Membership, MembershipError> {
        Membership::join(link, &self.macs, &self.groups, self.asked_for.iter().copied())
    }
}

/// The first member that does not keep its place from `running` to `new`, in the tiered mode: next
/// hops are numbered by places, and nearly all behind it would change hands at once.
pub fn displaced(running: &Config, new: &Config) -> Option<Slot> {
    let IngressMode::Tiered(_) = running.cluster.mode else { return None };
    let (before, after) = (&running.cluster.members, &new.cluster.members);
    let kept = |(at, member): &(usize, &MemberConfig)| {
        after.get(*at).is_some_and(|now| now.slot == member.slot)
    };
    before.iter().enumerate().find(|member| !kept(member)).map(|(_, member)| member.slot)
}

/// What lets frames in: held until the host has the VIPs no more.
#[derive(Debug)]
pub struct Intake {
    /// What tells which frames are vipdp's.
    pub door: Door,
    /// What the NIC accepts beside its own address.
    pub membership: Membership,
}

/// What tells which frames are vipdp's.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a process has one")]
pub enum Door {
    /// The XDP program, on a NIC of the kernel's.
    Xdp(Program),
    /// The workers, to which all frames come.
    #[cfg(feature = "dpdk")]
    Dpdk(Nic),
}

impl Door {
    /// What it is, for the log.
    pub fn describe(&self) -> String {
        match self {
            Self::Xdp(program) => format!("AF_XDP, program {:?}", program.attach_mode()),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(nic) => format!("DPDK, driver {}", nic.driver()),
        }
    }

    /// Has `mailbox` told when the NIC is lost, where nothing else tells it: of one that the kernel has, its news of links
    /// do.
    #[cfg(feature = "dpdk")]
    pub fn watch_loss(&self, mailbox: &Mailbox) {
        if let Self::Dpdk(nic) = self {
            let mailbox = mailbox.clone();
            nic.watch_loss(move |loss| {
                // A control thread that has ended already need not be told.
                let _ = mailbox.lose(loss);
            });
        }
    }

    /// The XDP program, if there is one, to change it.
    pub fn program_mut(&mut self) -> Option<&mut Program> {
        match self {
            Self::Xdp(program) => Some(program),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(_) => None,
        }
    }

    /// The XDP program, if there is one.
    pub fn program(&self) -> Option<&Program> {
        match self {
            Self::Xdp(program) => Some(program),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(_) => None,
        }
    }
}

/// The intake cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The NIC does not accept what it should.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The NIC that DPDK has does not accept what it should.
    #[cfg(feature = "dpdk")]
    #[error("the NIC does not receive frames to further MAC addresses: {0}")]
    Nic(std::io::Error),
    /// The XDP program does not take the next hops.
    #[error(transparent)]
    Xdp(#[from] XdpError),
}

impl Intake {
    /// Lets in what `reach` says. What it let in before and still should, it does all the time.
    ///
    /// # Errors
    /// When the kernel refuses; then more is let in than before, or the same.
    pub fn change(&mut self, link: &Link, reach: &Reach) -> Result<(), IntakeError> {
        self.membership = reach.join(link)?;
        match &mut self.door {
            Door::Xdp(program) => program.set_next_hops(&reach.next_hops)?,
            // Workers know the next hops by their snapshot.
            #[cfg(feature = "dpdk")]
            Door::Dpdk(nic) => nic.receive_from(reach.macs()).map_err(IntakeError::Nic)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;
    use std::collections::BTreeSet;
    use std::path::Path;

    const KEY: &str = "hash 00112233445566778899aabbccddeeff\n\
        1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

    /// What the node in `slot` reads, of members in `slots`.
    fn config(slot: u8, slots: &[u8], tiered: &str) -> Config {
        let member = |slot| format!("[[member]]\nslot = {slot}\nname = \"n{slot}\"\n");
        let members: String = slots.iter().map(member).collect();
        let config = Config::from_sources(Path::new("node.toml"), |path| {
            let text = match path.to_str() {
                Some("node.toml") => {
                    format!("slot = {slot}\ninterface = \"eth0\"\ncluster = \"cluster.toml\"\n")
                }
                Some("cluster.toml") => format!(
                    "id = 53\ngeneration = 1\nmode = \"tiered\"\nvips = [\"198.51.100.0/24\"]\n\
                     key_file = \"cluster.key\"\n[tiered]\nnext_hops4 = \"10.0.0.64\"\n\
                     next_hops6 = \"fd00::1:0\"\n{tiered}\n{members}"
                ),
                _ => KEY.to_owned(),
            };
            Ok(Source { text, mode: 0o600 })
        });
        config.unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// What reaches the node in `slot`, of `members`.
    fn reach(slot: u8, members: u8, tiered: &str) -> Reach {
        let slots: Vec<_> = (0..members).collect();
        Reach::new(&config(slot, &slots, tiered)).unwrap()
    }

    #[test]
    fn members_keep_their_places() {
        let displaced = |after: &[u8]| {
            let [running, new] = [&[1, 3, 5], after].map(|slots| config(1, slots, ""));
            displaced(&running, &new).map(Slot::get)
        };
        assert_eq!(displaced(&[1, 3, 5]), None);
        assert_eq!(displaced(&[1, 3, 5, 9]), None);
        assert_eq!(displaced(&[1, 2, 3, 5]), Some(3));
        assert_eq!(displaced(&[1, 5, 6]), Some(3));
        assert_eq!(displaced(&[1, 3]), Some(5));
    }

    #[test]
    fn a_node_lets_in_what_its_tiers_may_bring() {
        for (slot, members, tiers) in [(0, 6, 2), (5, 6, 2), (1, 3, 3)] {
            let reach = reach(slot, members, &format!("tiers = {tiers}"));
            // In each tier it has as many addresses, and no address twice.
            let all = usize::from(reach.next_hops.count);
            assert_eq!(reach.numbers.len(), all / usize::from(members) * tiers);
            let macs: BTreeSet<_> = reach.macs.iter().collect();
            assert_eq!(macs.len(), reach.numbers.len());
            assert_eq!(reach.asked_for.len(), 2 * reach.numbers.len());
            assert!(reach.asked_for.iter().all(|&address| reach.next_hops.contains(address)));
        }
        let plain = reach(0, 6, "mac = \"node\"");
        assert!(plain.macs.is_empty() && plain.numbers.len() == 10);
    }

    #[test]
    fn a_cluster_that_grows_is_reached_as_before_and_by_what_is_new() {
        let (before, after) = (reach(1, 3, ""), reach(1, 4, ""));
        for both in [before.clone().and(after.clone()), after.clone().and(before.clone())] {
            assert_eq!(both.next_hops, after.next_hops);
            assert_eq!(both.numbers, after.numbers);
            let macs = |reach: &Reach| reach.macs.iter().copied().collect::<BTreeSet<_>>();
            assert!(macs(&both).is_superset(&macs(&before)) && macs(&both) == macs(&after));
        }
    }
}
