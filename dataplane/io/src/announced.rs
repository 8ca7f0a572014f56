//! VIPs on an interface for a routing daemon to announce: what is there, it redistributes as a
//! connected route, and what is not, it does not.
//!
//! A VIP that is a network is put there as its first address with the network's length, which makes
//! the network a connected route. The host takes packets to the VIPs all the time, by the TAP
//! (see [`host`](crate::host)): these addresses are for the daemon alone. Of IPv6 they are deprecated,
//! so that the host does not pick one as source by itself; of IPv4 it picks them only where the NIC
//! has no address and this interface had none before.
//!
//! [`HostPlan::announced_on`](crate::host::HostPlan::announced_on) keeps book of them, for a process
//! that is killed.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use vipdp_core::prefix::Prefix;

use crate::link::NetlinkError;
use crate::link::netlink::Netlink;
use crate::neighbor::family_of;

/// Why VIPs are not on the interface, or still are.
#[derive(Debug, thiserror::Error)]
pub enum AnnouncedError {
    /// There is no such interface.
    #[error("interface {0}: there is none of that name, to have the VIPs that are announced")]
    Missing(String),
    /// The kernel refused a change.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// The VIPs on an interface, all or none. They are taken off it when this is dropped.
pub struct AnnouncedVips {
    netlink: Netlink,
    interface: String,
    vips: Vec<Prefix>,
}

impl std::fmt::Debug for AnnouncedVips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnnouncedVips")
            .field("interface", &self.interface)
            .field("vips", &self.vips)
            .finish_non_exhaustive()
    }
}

impl AnnouncedVips {
    /// The `vips`, none of which is on `interface` after this.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn new(interface: &str, vips: &[Prefix]) -> Result<Self, AnnouncedError> {
        let netlink = Netlink::open()?;
        let mut vips = Self { netlink, interface: interface.to_owned(), vips: vips.to_vec() };
        vips.set(false)?;
        Ok(vips)
    }

    /// Puts all VIPs on the interface, or takes them off it. What is so already stays so.
    ///
    /// # Errors
    /// The first error; the other VIPs are put there, or taken off, all the same.
    pub fn set(&mut self, are_there: bool) -> Result<(), AnnouncedError> {
        let index = index_of(&self.interface)?;
        let mut first = Ok(());
        for &vip in &self.vips {
            let changed = if are_there {
                add(&mut self.netlink, index, vip)
            } else {
                remove(&mut self.netlink, index, vip).map(drop)
            };
            first = first.and(changed);
        }
        Ok(first?)
    }
}

impl Drop for AnnouncedVips {
    fn drop(&mut self) {
        if let Err(error) = self.set(false) {
            tracing::warn!(%error, "VIPs stay announced");
        }
    }
}

fn index_of(interface: &str) -> Result<u32, AnnouncedError> {
    nix::net::if_::if_nametoindex(interface)
        .map_err(|_| AnnouncedError::Missing(interface.to_owned()))
}

/// Takes `vip` off `interface`, for a process that could not. False when it was not there, or there
/// is no such interface.
pub(crate) fn take_off(
    netlink: &mut Netlink,
    interface: &str,
    vip: Prefix,
) -> Result<bool, NetlinkError> {
    match index_of(interface) {
        Ok(index) => remove(netlink, index, vip),
        Err(_) => Ok(false),
    }
}

fn add(netlink: &mut Netlink, index: u32, vip: Prefix) -> Result<(), NetlinkError> {
    let mut request = request(index, vip);
    if vip.network().is_ipv6() {
        let flags = AddressFlags::Nodad;
        request.attributes.push(AddressAttribute::Flags(flags));
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = u32::MAX;
        request.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    let what = format!("add the address {vip}");
    let message = RouteNetlinkMessage::NewAddress(request);
    match netlink.change(&what, message, NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

fn remove(netlink: &mut Netlink, index: u32, vip: Prefix) -> Result<bool, NetlinkError> {
    let what = format!("remove the address {vip}");
    match netlink.change(&what, RouteNetlinkMessage::DelAddress(request(index, vip)), 0) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(false),
        Err(error) => Err(error),
    }
}

fn request(index: u32, vip: Prefix) -> AddressMessage {
    let address: IpAddr = vip.network();
    let mut request = AddressMessage::default();
    request.header.family = family_of(address);
    request.header.index = index;
    request.header.prefix_len = vip.prefix_len();
    request.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    request
}
