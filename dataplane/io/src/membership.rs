//! What the NIC accepts besides its own address: the shared MAC and the groups.
//!
//! Everything is held by sockets, so the kernel undoes it when the process ends, however it ends:
//!
//! | held by | effect |
//! |---|---|
//! | `AF_PACKET`, `PACKET_MR_UNICAST` | the shared unicast MAC is in the NIC's filter, or the NIC is promiscuous where it has none |
//! | `AF_PACKET`, `PACKET_MR_MULTICAST` | the shared group MAC, and the solicited-node MACs of the VIPs |
//! | UDP, `IP_ADD_MEMBERSHIP`, `IPV6_ADD_MEMBERSHIP` | IGMP and MLD reports, so that switches that snoop deliver the groups |
//!
//! None of the sockets receives anything: the packet socket has protocol 0, the others no port.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};
use vipdp_core::snapshot::SharedMac;
use vipdp_core::wire::ethernet::MacAddr;

use crate::link::Link;

/// Why the NIC does not accept a MAC address or a group.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// A socket cannot be opened.
    #[error("interface {interface}: a socket to hold memberships: {source}; it takes CAP_NET_RAW")]
    Socket {
        /// The interface.
        interface: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The NIC's filter does not take the MAC address.
    #[error("interface {interface}: it does not accept frames to {mac}: {source}")]
    Mac {
        /// The interface.
        interface: String,
        /// The MAC address.
        mac: MacAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// The group cannot be joined.
    #[error(
        "interface {interface}: it does not join {group}: {source}; an IPv6 group takes IPv6 on \
         the interface, an IPv4 group an IPv4 address"
    )]
    Group {
        /// The interface.
        interface: String,
        /// The group.
        group: IpAddr,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The memberships of one NIC. They end when this is dropped.
#[derive(Debug)]
pub struct Membership {
    _packet: OwnedFd,
    _groups: Vec<Socket>,
}

impl Membership {
    /// Makes `link` accept frames to `shared_mac`, and to the solicited-node groups of those of
    /// `vips` that are IPv6; joins these groups and `groups`.
    ///
    /// `groups` are the multicast addresses that a shared group MAC belongs to, one of each family;
    /// empty when the shared MAC is unicast.
    ///
    /// # Errors
    /// When one of them is refused; then none is held.
    pub fn join(
        link: &Link,
        shared_mac: SharedMac,
        groups: &[IpAddr],
        vips: &[IpAddr],
    ) -> Result<Self, MembershipError> {
        let mut groups = groups.to_vec();
        groups.extend(vips.iter().filter_map(|vip| match vip {
            IpAddr::V4(_) => None,
            IpAddr::V6(vip) => Some(IpAddr::V6(solicited_node(*vip))),
        }));
        groups.sort_unstable();
        groups.dedup();

        let mut macs = vec![shared_mac.v4, shared_mac.v6];
        macs.extend(groups.iter().filter_map(|&group| group_mac(group)));
        macs.sort_unstable();
        macs.dedup();

        Ok(Self { _packet: accept(link, &macs)?, _groups: join_groups(link, &groups)? })
    }
}

/// The solicited-node group of an IPv6 address: ff02::1:ff and its last 24 bits (RFC 4291,
/// section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// The MAC address that frames to a multicast address carry (RFC 1112, section 6.4; RFC 2464,
/// section 7); `None` when the address is not a group's.
pub fn group_mac(group: IpAddr) -> Option<MacAddr> {
    match group {
        IpAddr::V4(group) => MacAddr::of_ipv4_group(group),
        IpAddr::V6(group) => MacAddr::of_ipv6_group(group),
    }
}

/// Opens a packet socket that receives nothing and holds `macs` in the NIC's filter.
fn accept(link: &Link, macs: &[MacAddr]) -> Result<OwnedFd, MembershipError> {
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        let source = io::Error::last_os_error();
        return Err(MembershipError::Socket { interface: link.name.clone(), source });
    }
    // SAFETY: the kernel just made this descriptor and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for &mac in macs {
        add_mac(&socket, link.index, mac).map_err(|source| MembershipError::Mac {
            interface: link.name.clone(),
            mac,
            source,
        })?;
    }
    Ok(socket)
}

fn add_mac(socket: &OwnedFd, index: u32, mac: MacAddr) -> io::Result<()> {
    let mut mr_address = [0; 8];
    mr_address[..6].copy_from_slice(&mac.0);
    let kind = if mac.is_group() { libc::PACKET_MR_MULTICAST } else { libc::PACKET_MR_UNICAST };
    let request = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: kind as libc::c_ushort,
        mr_alen: 6,
        mr_address,
    };
    // SAFETY: the pointer and the length are those of `request`, whose layout is the kernel's; the
    // kernel copies it before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Joins `groups` on the NIC. A group a socket: the kernel bounds the memberships of one socket
/// (`net.ipv4.igmp_max_memberships`, `net.core.optmem_max`).
fn join_groups(link: &Link, groups: &[IpAddr]) -> Result<Vec<Socket>, MembershipError> {
    let join = |group: &IpAddr| -> io::Result<Socket> {
        match group {
            IpAddr::V4(group) => {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
                let interface = InterfaceIndexOrAddress::Index(link.index);
                socket.join_multicast_v4_n(group, &interface)?;
                Ok(socket)
            }
            IpAddr::V6(group) => {
                let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
                socket.join_multicast_v6(group, link.index)?;
                Ok(socket)
            }
        }
    };
    let refused = |group: &IpAddr, source| MembershipError::Group {
        interface: link.name.clone(),
        group: *group,
        source,
    };
    groups.iter().map(|group| join(group).map_err(|source| refused(group, source))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_map_to_macs_as_the_rfcs_say() {
        let mac = |group: &str| group_mac(group.parse().unwrap()).map(|mac| mac.to_string());
        assert_eq!(mac("239.129.2.53").as_deref(), Some("01:00:5e:01:02:35"));
        assert_eq!(mac("ff02::1:ff00:53").as_deref(), Some("33:33:ff:00:00:53"));
        assert_eq!(mac("192.0.2.53"), None);
        assert_eq!(mac("2001:db8::53"), None);
    }

    #[test]
    fn the_solicited_node_group_has_the_last_24_bits() {
        let group = solicited_node("2001:db8:53::12:3456".parse().unwrap());
        assert_eq!(group.to_string(), "ff02::1:ff12:3456");
    }
}
