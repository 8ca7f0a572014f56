//! How many receive queues an interface has.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `linux/ethtool.h`: the command that reads the channel counts.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels` of `linux/ethtool.h`.
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

/// The number of receive queues in use: combined and receive-only channels as `ethtool -l` shows
/// them, or, where the driver does not tell, the queues in `/sys/class/net`.
///
/// Ask **after** [`Program::attach`](super::Program::attach): some drivers (virtio-net) change the
/// number when an XDP program comes.
///
/// # Errors
/// No such interface, or no socket to ask by.
pub fn rx_queues(interface: &str) -> io::Result<u32> {
    match channels(interface) {
        Ok(channels) => Ok(channels.combined + channels.rx),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => queues_in_sysfs(interface),
        Err(error) => Err(error),
    }
}

fn channels(interface: &str) -> io::Result<Channels> {
    let name = interface.as_bytes();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut channels).cast() },
    };
    for (to, &from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    // SAFETY: the kernel reads the ifreq, whose name ends in a NUL since it is shorter than
    // IFNAMSIZ, and writes one ethtool_channels where ifru_data points; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(channels) } else { Err(io::Error::last_os_error()) }
}

/// Counts `rx-*`. It shows the network namespace that sysfs was mounted in, thus is only asked
/// when the driver is silent.
fn queues_in_sysfs(interface: &str) -> io::Result<u32> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/sys/class/net/{interface}/queues"))? {
        count += u32::from(entry?.file_name().as_encoded_bytes().starts_with(b"rx-"));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_one_queue() {
        // It has no ethtool channels, so the count is that of sysfs.
        assert_eq!(rx_queues("lo").expect("lo is everywhere"), 1);
    }

    #[test]
    fn a_missing_interface_and_a_name_too_long_are_errors() {
        for name in ["", "vdio-none", "a-name-of-sixteen"] {
            let error = rx_queues(name).expect_err(name);
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name}");
        }
    }
}
