//! The XDP program that DPDK's driver for AF_XDP leaves on an interface when its process is killed.
//!
//! The driver has libxdp put it there, by a netlink request: so it stays when nobody is there any more to
//! whose sockets it redirects. It passes what it finds no socket for, and the next start takes it over.

use aya::programs::loaded_programs;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};

use crate::link::netlink::Netlink;
use crate::link::{Link, LinkError};

/// What the driver's name begins with, in device arguments.
const DRIVER: &str = "net_af_xdp";
/// Where they name the interface.
const INTERFACE: &str = "iface=";
/// libxdp's program for AF_XDP sockets where the user has none of his own (its lib/libxdp/xsk_def_xdp_prog.c).
const PROGRAM: &str = "xsk_def_prog";

/// Flags of a request that say in which mode the program is (linux/if_link.h).
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Takes that program off the interface below a device with these arguments, if it is there. No process may
/// use the device: the program is any process's that uses AF_XDP by libxdp. Returns the interface's name.
///
/// # Errors
/// When the kernel refuses it. An interface that is gone has no program.
pub fn detach_left(devargs: &str) -> Result<Option<String>, LinkError> {
    let Some(interface) = interface_of(devargs) else { return Ok(None) };
    let mut netlink = Netlink::open()?;
    let link = match Link::message(&mut netlink, interface) {
        Err(LinkError::Missing { .. }) => None,
        found => found?,
    };
    let Some(link) = link else { return Ok(None) };
    let Some((id, mode)) = attached(&link) else { return Ok(None) };
    let mut programs = loaded_programs().flatten();
    if !programs.any(|program| program.id() == id && program.name_as_str() == Some(PROGRAM)) {
        return Ok(None);
    }
    let mut request = LinkMessage::default();
    request.header.index = link.header.index;
    request.attributes = vec![LinkAttribute::Xdp(vec![LinkXdp::Fd(-1), LinkXdp::Flags(mode)])];
    let what = format!("take the XDP program off {interface}");
    netlink.change(&what, RouteNetlinkMessage::SetLink(request), 0)?;
    Ok(Some(interface.to_owned()))
}

/// The kernel's interface that these arguments name, of this driver's.
fn interface_of(devargs: &str) -> Option<&str> {
    let mut arguments = devargs.split(',');
    arguments.next().filter(|device| device.starts_with(DRIVER))?;
    arguments.find_map(|argument| argument.strip_prefix(INTERFACE))
}

/// The number of the interface's program, if it has one, and the flag that stands for its mode.
fn attached(link: &LinkMessage) -> Option<(u32, u32)> {
    let facts = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(facts) => Some(facts),
        _ => None,
    })?;
    let mode = facts.iter().find_map(|fact| match fact {
        LinkXdp::Attached(XdpAttached::Driver) => Some(XDP_FLAGS_DRV_MODE),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XDP_FLAGS_SKB_MODE),
        _ => None,
    });
    let id = facts.iter().find_map(|fact| match fact {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    id.zip(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_driver_for_af_xdp_has_a_program_on_an_interface() {
        for (devargs, interface) in [
            ("net_af_xdp0,iface=phy0", Some("phy0")),
            ("net_af_xdp_lan,queue_count=2,iface=ens1f0", Some("ens1f0")),
            ("net_af_xdp0,queue_count=2", None),
            ("net_af_packet0,iface=phy0", None),
            ("0000:00:03.0,iface=phy0", None),
            ("", None),
        ] {
            assert_eq!(interface_of(devargs), interface, "{devargs}");
        }
    }

    #[test]
    fn an_interface_that_is_gone_has_nothing_left() {
        assert_eq!(detach_left("net_af_xdp0,iface=gone-for-good").unwrap(), None);
    }
}
