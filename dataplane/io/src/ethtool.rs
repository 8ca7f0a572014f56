//! What the ethtool interface of the kernel tells of a network interface (`linux/ethtool.h`).

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The command that reads the flags of an interface, a `struct ethtool_value`.
const ETHTOOL_GFLAGS: u32 = 0x25;
/// The command that reads the channel counts, a `struct ethtool_channels`.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// Among the flags: tags of VLANs are taken off received frames (`ETH_FLAG_RXVLAN`).
const RXVLAN: u32 = 1 << 8;

/// What `SIOCETHTOOL` reads and writes.
///
/// # Safety
/// It is, to the last byte, the structure that the kernel has for the command in its first field, and any
/// bytes are a value of it.
unsafe trait Request {}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

// SAFETY: `command` says ETHTOOL_GFLAGS wherever one is made, whose structure this is; it is of numbers alone.
unsafe impl Request for Value {}

/// `struct ethtool_channels`: how many of a kind there are, and can be.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

// SAFETY: `command` says ETHTOOL_GCHANNELS wherever one is made, whose structure this is; it is of numbers alone.
unsafe impl Request for Channels {}

/// The number of channels by which frames come: combined and receive-only ones, as `ethtool -l` shows them.
///
/// # Errors
/// No such interface, no socket to ask by, or `EOPNOTSUPP` from drivers that do not tell.
pub(crate) fn receive_channels(interface: &str) -> io::Result<u32> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    ask(interface, &mut channels)?;
    Ok(channels.combined + channels.rx)
}

/// Whether tags of VLANs are taken off received frames, as `ethtool -k` shows it of `rx-vlan-offload`.
///
/// # Errors
/// No such interface, no socket to ask by, or `EOPNOTSUPP`.
pub(crate) fn strips_tags(interface: &str) -> io::Result<bool> {
    let mut flags = Value { command: ETHTOOL_GFLAGS, data: 0 };
    ask(interface, &mut flags)?;
    Ok(flags.data & RXVLAN != 0)
}

fn ask(interface: &str, request: &mut impl Request) -> io::Result<()> {
    let name = interface.as_bytes();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut ifreq = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut *request).cast() },
    };
    for (to, &from) in ifreq.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    // SAFETY: the kernel reads the ifreq, whose name ends in a NUL since it is shorter than IFNAMSIZ, and reads and
    // writes one structure of the request's command where ifru_data points, which this is; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut ifreq) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_and_a_name_too_long_are_errors() {
        for name in ["", "vdio-none", "a-name-of-sixteen"] {
            for error in [receive_channels(name).unwrap_err(), strips_tags(name).unwrap_err()] {
                assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name}");
            }
        }
    }

    #[test]
    fn the_loopback_strips_nothing_and_has_no_channels() {
        assert!(!strips_tags("lo").expect("lo is everywhere"));
        assert_eq!(receive_channels("lo").unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
