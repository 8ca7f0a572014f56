//! How many receive queues an interface has, and by how many of them frames can come.
//!
//! An interface above others, such as a bond, gets frames that a NIC below has received. Where it has the XDP
//! program in the stack, a frame's queue there is the number of the one that it came by on the NIC
//! (`skb_record_rx_queue` in the NIC's driver, which `bond_handle_frame` in the kernel's
//! drivers/net/bonding/bond_main.c and the like in team and 8021q leave as it is), or 0 where the interface has no queue of
//! that number (`netif_get_rxqueue` in net/core/dev.c). A socket of the interface gets the frames of its own queue
//! alone (`xsk_rcv_check` in net/xdp/xsk.c). So a bond has 16 queues, whatever is below it, and two of them get
//! frames where the NICs have two.

use std::fs;
use std::io;
use std::path::Path;

use crate::ethtool::receive_channels;

/// How deep the kernel lets interfaces lie above each other (`MAX_NEST_DEV` of `linux/netdevice.h`).
const NESTED_MAX: u32 = 8;

/// The number of receive queues in use: combined and receive-only channels as `ethtool -l` shows
/// them, or, where the driver does not tell, the queues in `/sys/class/net`.
///
/// Ask **after** [`Program::attach`](super::Program::attach): some drivers (virtio-net) change the
/// number when an XDP program comes.
///
/// # Errors
/// No such interface, or no socket to ask by.
pub fn rx_queues(interface: &str) -> io::Result<u32> {
    match receive_channels(interface) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => queues_in_sysfs(interface),
        channels => channels,
    }
}

/// The number of receive queues by which frames can come to an XDP program in the stack: those of
/// [`rx_queues`], but no more than the NICs below have, if the interface is above others.
///
/// # Errors
/// As there.
pub(super) fn rx_queues_in_use(interface: &str) -> io::Result<u32> {
    let own = rx_queues(interface)?;
    let below = queues_below(&Path::new("/sys/class/net").join(interface), NESTED_MAX);
    Ok(below.map_or(own, |below| below.max(1).min(own)))
}

/// By how many queues frames come to the interface whose directory this is, from its own driver and from those of the
/// interfaces below it. `None` where nothing tells: a virtual interface with none below it, such as a veth, hands on the
/// number that its other end sent by.
fn queues_below(interface: &Path, nested_max: u32) -> Option<u32> {
    let mut most = None;
    if interface.join("device").exists() {
        most = Some(count_queues(interface).ok()?);
    }
    for entry in fs::read_dir(interface).ok()? {
        let entry = entry.ok()?;
        if entry.file_name().as_encoded_bytes().starts_with(b"lower_") {
            most = most.max(Some(queues_below(&entry.path(), nested_max.checked_sub(1)?)?));
        }
    }
    most
}

/// The count of sysfs. It shows the network namespace that it was mounted in, thus is only asked
/// when the driver is silent.
fn queues_in_sysfs(interface: &str) -> io::Result<u32> {
    count_queues(&Path::new("/sys/class/net").join(interface))
}

/// Counts `rx-*` of the interface whose directory this is.
fn count_queues(interface: &Path) -> io::Result<u32> {
    let mut count = 0;
    for entry in fs::read_dir(interface.join("queues"))? {
        count += u32::from(entry?.file_name().as_encoded_bytes().starts_with(b"rx-"));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory as `/sys/class/net` is.
    struct Interfaces(tempfile::TempDir);

    impl Interfaces {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join(name)
        }

        /// A virtual one, above others.
        fn add(&self, name: &str, queues: u32, below: &[&str]) {
            for queue in 0..queues {
                for kind in ["rx", "tx"] {
                    let queue = self.path(name).join(format!("queues/{kind}-{queue}"));
                    fs::create_dir_all(queue).expect("made");
                }
            }
            for lower in below {
                let link = self.path(name).join(format!("lower_{lower}"));
                std::os::unix::fs::symlink(self.path(lower), link).expect("linked");
            }
        }

        /// One with a device, that a driver serves.
        fn add_nic(&self, name: &str, queues: u32) {
            self.add(name, queues, &[]);
            fs::create_dir(self.path(name).join("device")).expect("made");
        }

        fn below(&self, name: &str) -> Option<u32> {
            queues_below(&self.path(name), NESTED_MAX)
        }
    }

    #[test]
    fn frames_of_a_bond_come_by_the_queues_of_the_nics_below() {
        let net = Interfaces::new();
        net.add_nic("eth0", 2);
        net.add_nic("eth1", 4);
        net.add("bond0", 16, &["eth0", "eth1"]);
        assert_eq!(net.below("bond0"), Some(4), "either of them receives");
        assert_eq!(net.below("eth0"), Some(2), "a NIC by itself");
        net.add("bond1", 16, &[]);
        assert_eq!(net.below("bond1"), None, "nothing is below it yet");
    }

    #[test]
    fn what_lies_between_changes_nothing() {
        let net = Interfaces::new();
        net.add_nic("eth0", 8);
        net.add_nic("eth1", 2);
        net.add("eth0.7", 1, &["eth0"]);
        net.add("team0", 16, &["eth0.7", "eth1"]);
        net.add("br0", 1, &["team0"]);
        // The VLAN's interface has one queue, and a frame that passes it keeps the number of the NIC's.
        assert_eq!(net.below("team0"), Some(8));
        assert_eq!(net.below("br0"), Some(8));
        // A NIC above another one, as in a virtual machine of Hyper-V's.
        net.add("eth2", 3, &["eth1"]);
        fs::create_dir(net.path("eth2").join("device")).expect("made");
        assert_eq!(net.below("eth2"), Some(3), "frames of its own driver come, too");
    }

    #[test]
    fn nothing_is_taken_for_granted_of_virtual_interfaces() {
        let net = Interfaces::new();
        net.add_nic("eth0", 2);
        net.add("veth0", 1, &[]);
        net.add("bond0", 16, &["eth0", "veth0"]);
        assert_eq!(net.below("bond0"), None);
        assert_eq!(net.below("none"), None);
        net.add("a", 1, &["b"]);
        net.add("b", 1, &["a"]);
        assert_eq!(net.below("a"), None, "no end");
    }

    #[test]
    fn the_loopback_has_one_queue() {
        assert_eq!(rx_queues_in_use("lo").expect("lo is everywhere"), 1);
        // It has no ethtool channels, so the count is that of sysfs.
        assert_eq!(rx_queues("lo").expect("lo is everywhere"), 1);
    }
}
