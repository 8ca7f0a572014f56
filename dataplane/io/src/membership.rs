//! What the NIC accepts besides its own address: the shared MAC or virtual ones, and the groups.
//!
//! Everything is held by sockets, so the kernel undoes it when the process ends, however it ends:
//!
//! | held by | effect |
//! |---|---|
//! | `AF_PACKET`, `PACKET_MR_UNICAST` | the shared unicast MAC, or the virtual ones, are in the NIC's filter |
//! | `AF_PACKET`, `PACKET_MR_MULTICAST` | the shared group MAC, and the solicited-node MACs of the VIPs or next hops |
//! | UDP, `IP_ADD_MEMBERSHIP`, `IPV6_ADD_MEMBERSHIP` | IGMP and MLD reports, so that switches that snoop deliver the groups |
//!
//! None of the sockets receives anything: the packet socket has protocol 0, the others no port.
//!
//! A NIC's filter holds some number of unicast addresses, 16 to 128 as a rule. What happens beyond
//! it is not ours to choose: the driver makes the NIC receive everything by itself, and for a
//! driver that has no filter at all (veth, many virtual ones) the kernel makes it promiscuous
//! (`__dev_set_rx_mode` in the kernel's net/core/dev.c). It then receives what the switch floods
//! besides, and the XDP program sorts that out. A virtual function of an SR-IOV NIC may be denied
//! more than its own address without anybody saying so: it must be trusted
//! (`ip link set PF vf N trust on spoofchk off`).

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};
use vipdp_core::bucket::BUCKETS;
use vipdp_core::wire::ethernet::MacAddr;

use crate::link::Link;

/// How many MAC addresses a NIC can be made to accept: one for each next hop, in tiered mode. Each
/// one makes the driver write its filter anew.
pub const MACS_MAX: usize = BUCKETS;

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
    /// More MAC addresses than would be any node's.
    #[error("interface {interface}: {count} MAC addresses to accept; {MACS_MAX} are possible")]
    TooMany {
        /// The interface.
        interface: String,
        /// How many there are.
        count: usize,
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

/// The memberships of one NIC. They end when this is dropped. What two of them have in common lasts
/// until both are dropped, so one can be replaced by another without a gap.
#[derive(Debug)]
pub struct Membership {
    _packet: OwnedFd,
    _groups: Vec<Socket>,
}

impl Membership {
    /// Makes `link` accept frames to `macs`, joins `groups`, and the solicited-node groups of
    /// those of `asked_for` that are IPv6.
    ///
    /// | | shared-mac | tiered |
    /// |---|---|---|
    /// | `macs` | the shared ones | the virtual ones of the next hops that this node may come to own |
    /// | `groups` | those that a shared group MAC belongs to, one of each family | none |
    /// | `asked_for` | the VIPs | those next hops |
    ///
    /// # Errors
    /// When one of them is refused, or there are too many; then none is held.
    pub fn join(
        link: &Link,
        macs: &[MacAddr],
        groups: &[IpAddr],
        asked_for: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, MembershipError> {
        let mut groups = groups.to_vec();
        groups.extend(asked_for.into_iter().filter_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(IpAddr::V6(solicited_node(address))),
        }));
        groups.sort_unstable();
        groups.dedup();

        let mut macs = macs.to_vec();
        macs.sort_unstable();
        macs.dedup();
        let count = macs.len().max(groups.len());
        if count > MACS_MAX {
            return Err(MembershipError::TooMany { interface: link.name.clone(), count });
        }
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

/// Opens a packet socket that receives nothing.
pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a packet socket that receives nothing and holds `macs` in the NIC's filter.
fn accept(link: &Link, macs: &[MacAddr]) -> Result<OwnedFd, MembershipError> {
    let socket = packet_socket()
        .map_err(|source| MembershipError::Socket { interface: link.name.clone(), source })?;
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
    add_membership(
        socket,
        libc::packet_mreq {
            mr_ifindex: index.cast_signed(),
            mr_type: kind as libc::c_ushort,
            mr_alen: 6,
            mr_address,
        },
    )
}

/// Has an interface receive all frames, for as long as this packet socket is there.
#[cfg(feature = "dpdk")]
pub(crate) fn add_all(socket: &OwnedFd, index: u32) -> io::Result<()> {
    add_membership(
        socket,
        libc::packet_mreq {
            mr_ifindex: index.cast_signed(),
            mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        },
    )
}

fn add_membership(socket: &OwnedFd, request: libc::packet_mreq) -> io::Result<()> {
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

/// Joins `groups` on the NIC, on as few sockets as the kernel lets hold them: it bounds the
/// memberships of one (`net.ipv4.igmp_max_memberships`, `net.core.optmem_max`), and the process has
/// but so many descriptors.
fn join_groups(link: &Link, groups: &[IpAddr]) -> Result<Vec<Socket>, MembershipError> {
    let mut sockets = Vec::new();
    for is_family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        // Each family's last socket is the one with room.
        let mut open: Option<Socket> = None;
        for &group in groups.iter().filter(|group| is_family(group)) {
            let refused =
                |source| MembershipError::Group { interface: link.name.clone(), group, source };
            if let Some(socket) = &open {
                match join(socket, link.index, group) {
                    Ok(()) => continue,
                    Err(error) if is_full(&error) => {}
                    Err(error) => return Err(refused(error)),
                }
            }
            let socket = Socket::new(Domain::for_address((group, 0).into()), Type::DGRAM, None)
                .map_err(refused)?;
            join(&socket, link.index, group).map_err(refused)?;
            sockets.extend(open.replace(socket));
        }
        sockets.extend(open);
    }
    Ok(sockets)
}

fn join(socket: &Socket, index: u32, group: IpAddr) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => {
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))
        }
        IpAddr::V6(group) => socket.join_multicast_v6(&group, index),
    }
}

/// Whether the socket holds as many memberships as the kernel allows it.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
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
