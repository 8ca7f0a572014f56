//! Facts about a network interface.
//!
//! Everything is read when it is asked for and nothing is cached: a link flaps, is renamed, gets
//! another MTU or more queues while vipdp runs.

pub(crate) mod netlink;
mod watch;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, State as LinkState,
};
use vipdp_core::wire::ethernet::MacAddr;

use crate::ethtool;
use netlink::Netlink;
pub use netlink::NetlinkError;
pub use watch::{LinkNow, LinkWatch};

/// Why an interface's facts cannot be had, or make it useless.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is none of that name.
    #[error("interface {name}: there is none of that name; this host has {existing}")]
    Missing {
        /// The name that was asked for.
        name: String,
        /// The names that are there.
        existing: String,
    },
    /// It does not carry Ethernet frames.
    #[error("interface {name}: it is not an Ethernet interface; name the one of the VIPs' segment")]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// It is administratively down.
    #[error("interface {name}: it is down; `ip link set {name} up` starts it")]
    Down {
        /// The interface.
        name: String,
    },
    /// It is up and has no carrier.
    #[error("interface {name}: it has no carrier; check the cable and the switch port")]
    NoCarrier {
        /// The interface.
        name: String,
    },
    /// Its directory in sysfs cannot be read.
    #[error("interface {name}: {path}: {source}; /sys must be mounted in this network namespace")]
    Sysfs {
        /// The interface.
        name: String,
        /// The file or directory.
        path: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel did not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What the kernel says of an Ethernet interface at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index, unique within the network namespace.
    pub index: u32,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The largest IP packet that it carries, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it can carry frames now: operational state up, or unknown (drivers that do not say).
    pub running: bool,
    /// How many users want it promiscuous.
    pub promiscuity: u32,
    /// Its addresses and their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Link {
    /// Reads the facts of the interface called `name`.
    ///
    /// # Errors
    /// When there is none of that name, or it is not Ethernet.
    pub fn read(name: &str) -> Result<Self, LinkError> {
        let mut netlink = Netlink::open()?;
        let mut link = Self::find(&mut netlink, name)?;
        link.addresses = addresses(&mut netlink, link.index)?;
        Ok(link)
    }

    /// The facts but the addresses.
    pub(crate) fn find(netlink: &mut Netlink, name: &str) -> Result<Self, LinkError> {
        Self::message(netlink, name)?
            .and_then(|message| Self::from_message(&message))
            .ok_or_else(|| LinkError::NotEthernet { name: name.into() })
    }

    /// All that the kernel says of the interface called `name`.
    pub(crate) fn message(
        netlink: &mut Netlink,
        name: &str,
    ) -> Result<Option<LinkMessage>, LinkError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.into()));
        let answer = netlink
            .get(&format!("interface {name}"), RouteNetlinkMessage::GetLink(request))
            .map_err(|error| match error.errno() {
                Some(libc::ENODEV | libc::EINVAL | libc::ERANGE) => {
                    LinkError::Missing { name: name.into(), existing: interfaces().join(", ") }
                }
                _ => LinkError::Netlink(error),
            })?;
        Ok(answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => Some(message),
            _ => None,
        }))
    }

    fn from_message(message: &LinkMessage) -> Option<Self> {
        if message.header.link_layer_type != LinkLayerType::Ether {
            return None;
        }
        let up = message.header.flags.contains(LinkFlags::Up);
        let mut link = Self {
            name: String::new(),
            index: message.header.index,
            mac: MacAddr::default(),
            mtu: 0,
            up,
            running: false,
            promiscuity: 0,
            addresses: Vec::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => {
                    link.mac = MacAddr(mac.as_slice().try_into().ok()?);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Promiscuity(promiscuity) => link.promiscuity = *promiscuity,
                LinkAttribute::OperState(state) => {
                    link.running = up && matches!(state, LinkState::Up | LinkState::Unknown);
                }
                _ => {}
            }
        }
        Some(link)
    }

    /// Whether it carries frames now, and each of its addresses can be used: IPv6's cannot be until the kernel has
    /// asked whether anybody else has them, which begins with the carrier (RFC 4862, section 5.4).
    ///
    /// # Errors
    /// When the kernel does not answer, or the interface is gone.
    pub fn is_settled(name: &str) -> Result<bool, LinkError> {
        let mut netlink = Netlink::open()?;
        let link = Self::find(&mut netlink, name)?;
        let mut is_settled = link.running;
        each_address(&mut netlink, link.index, |message| {
            let flags = message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Flags(flags) => Some(*flags),
                _ => None,
            });
            is_settled &= !flags.into_iter().any(|flags| flags.contains(AddressFlags::Tentative));
        })?;
        Ok(is_settled)
    }

    /// Whether it has this address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|&(own, _)| own == address)
    }

    /// Says what keeps the interface from carrying frames.
    ///
    /// # Errors
    /// When it is down or has no carrier.
    pub fn require_running(&self) -> Result<(), LinkError> {
        match (self.up, self.running) {
            (true, true) => Ok(()),
            (true, false) => Err(LinkError::NoCarrier { name: self.name.clone() }),
            (false, _) => Err(LinkError::Down { name: self.name.clone() }),
        }
    }

    /// How many frames it has received, as its driver counts.
    ///
    /// # Errors
    /// [`LinkError::Sysfs`]: above all when it is gone.
    pub fn received(&self) -> Result<u64, LinkError> {
        let path = format!("/sys/class/net/{}/statistics/rx_packets", self.name);
        fs::read_to_string(&path)
            .and_then(|text| text.trim().parse().map_err(io::Error::other))
            .map_err(|source| LinkError::Sysfs { name: self.name.clone(), path, source })
    }

    /// The name of its driver; `None` where there is no device behind it, as with a veth.
    pub fn driver(&self) -> Option<String> {
        let target = fs::read_link(format!("/sys/class/net/{}/device/driver", self.name)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether the kernel receives by threads of its own (`threaded` in sysfs, from Linux 5.12 on). Such a thread and a
    /// worker that both run the receive side take turns at it, and it can come to rest between them.
    pub fn has_threads(&self) -> bool {
        let path = Path::new("/sys/class/net").join(&self.name).join("threaded");
        fs::read_to_string(path).is_ok_and(|value| value.trim_end() != "0")
    }

    /// Whether its driver takes tags of VLANs off received frames, before an XDP program sees them (`rx-vlan-offload` of
    /// `ethtool -k`). Where there is no driver, as with a veth, it is the sender that leaves them out.
    pub fn strips_tags(&self) -> bool {
        self.driver().is_some() && ethtool::strips_tags(&self.name).unwrap_or(false)
    }

    /// Whether it is the interface of a VLAN, above another one.
    pub fn is_vlan(&self) -> bool {
        Path::new("/proc/net/vlan").join(&self.name).is_file()
    }

    /// Whether it is several NICs as one, by the kernel's bonding driver.
    pub fn is_bond(&self) -> bool {
        Path::new("/sys/class/net").join(&self.name).join("bonding").is_dir()
    }
}

/// The names of the interfaces of this network namespace, sorted.
fn interfaces() -> Vec<String> {
    let mut names: Vec<String> = nix::net::if_::if_nameindex()
        .map(|list| list.iter().map(|one| one.name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// The addresses of the interface with this index.
fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<(IpAddr, u8)>, NetlinkError> {
    let mut addresses = Vec::new();
    each_address(netlink, index, |message| {
        // IPv4 has the interface's own address in LOCAL, where ADDRESS may be the other end of a
        // point-to-point link; IPv6 has it in ADDRESS alone.
        let mut own = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => own = Some(*address),
                AddressAttribute::Address(address) => own = own.or(Some(*address)),
                _ => {}
            }
        }
        addresses.extend(own.map(|address| (address, message.header.prefix_len)));
    })?;
    addresses.sort_unstable();
    Ok(addresses)
}

/// Calls `found` with what the kernel says of each address of the interface with this index.
fn each_address(
    netlink: &mut Netlink,
    index: u32,
    mut found: impl FnMut(&AddressMessage),
) -> Result<(), NetlinkError> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    let answer = netlink.dump("list addresses", &RouteNetlinkMessage::GetAddress(request))?;
    for message in &answer {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && message.header.index == index
        {
            found(message);
        }
    }
    Ok(())
}
