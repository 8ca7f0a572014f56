//! Whether the NIC is there still, and is this process's.
//!
//! Of DPDK's drivers few say it. The kernel says it of every PCI device: it takes the link to the driver away before
//! the driver lets go of the device, be it unbound or pulled out, and vfio lets go only when its user has (`__device_release_driver`
//! in the kernel's drivers/base/dd.c, `vfio_unregister_group_dev` in drivers/vfio/vfio_main.c).

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel shows the devices of its PCI bus.
const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// How the NIC was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is to go, and works until it is closed, for which the kernel waits.
    Wanted,
    /// It is there no more, or is another driver's.
    Gone,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Wanted => "the NIC is to go, and the kernel waits until it is closed",
            Self::Gone => "the NIC is gone, or another driver has it",
        })
    }
}

/// A device on the kernel's PCI bus, and the driver that it had.
#[derive(Debug)]
pub(super) struct Presence {
    device: PathBuf,
    driver: PathBuf,
}

impl Presence {
    /// The device that DPDK knows by `devargs`; `None` where the kernel has no such one: a virtual device, or one
    /// on another bus.
    pub(super) fn of(devargs: &str) -> Option<Self> {
        Self::below(Path::new(PCI_DEVICES), devargs)
    }

    fn below(devices: &Path, devargs: &str) -> Option<Self> {
        let device = devices.join(pci_name(devargs)?);
        let driver = fs::read_link(device.join("driver")).ok()?;
        Some(Self { device, driver })
    }

    /// What has become of it, if it is not as it was.
    pub(super) fn loss(&self) -> Option<Loss> {
        if fs::read_link(self.device.join("driver")).is_ok_and(|driver| driver == self.driver) {
            return None;
        }
        let waits =
            self.driver.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vfio"));
        Some(if waits && self.device.exists() { Loss::Wanted } else { Loss::Gone })
    }
}

/// The kernel's name of a PCI device that DPDK knows by `devargs`: with its domain, in lower case.
fn pci_name(devargs: &str) -> Option<String> {
    let address = devargs.split(',').next()?;
    let address = address.strip_prefix("pci:").unwrap_or(address).to_lowercase();
    let is_address = |part: &str| part.chars().all(|c| c.is_ascii_hexdigit() || c == '.');
    match address.split(':').collect::<Vec<_>>()[..] {
        [bus, function] if is_address(bus) && is_address(function) => {
            Some(format!("0000:{address}"))
        }
        [domain, bus, function] if [domain, bus, function].into_iter().all(is_address) => {
            Some(address)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_device_is_known_by_its_address() {
        for devargs in ["0000:00:03.0", "00:03.0", "0000:00:03.0,arg=1", "pci:0000:00:03.0"] {
            assert_eq!(pci_name(devargs).as_deref(), Some("0000:00:03.0"), "{devargs}");
        }
        assert_eq!(pci_name("0000:0A:1f.7").as_deref(), Some("0000:0a:1f.7"));
        for devargs in
            ["net_af_packet0,iface=phy0", "auxiliary:mlx5_core.sf.8", "", "net_tap0,iface=a:b"]
        {
            assert_eq!(pci_name(devargs), None, "{devargs}");
        }
    }

    /// A device with a driver, as the kernel shows it.
    fn device(driver: &str) -> (tempfile::TempDir, Presence) {
        let devices = tempfile::tempdir().expect("a directory");
        let device = devices.path().join("0000:00:03.0");
        fs::create_dir(&device).expect("made");
        symlink(format!("../../bus/pci/drivers/{driver}"), device.join("driver")).expect("made");
        let presence = Presence::below(devices.path(), "00:03.0,arg=1").expect("it is there");
        assert_eq!(presence.loss(), None);
        (devices, presence)
    }

    #[test]
    fn a_device_without_its_driver_is_lost() {
        for (driver, loss) in [("vfio-pci", Loss::Wanted), ("uio_pci_generic", Loss::Gone)] {
            let (_devices, presence) = device(driver);
            fs::remove_file(presence.device.join("driver")).expect("unbound");
            assert_eq!(presence.loss(), Some(loss));
            // And where another has it.
            symlink("../../bus/pci/drivers/e1000e", presence.device.join("driver")).expect("bound");
            assert_eq!(presence.loss(), Some(loss));
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_gone() {
        for driver in ["vfio-pci", "uio_pci_generic"] {
            let (devices, presence) = device(driver);
            fs::remove_dir_all(&presence.device).expect("pulled out");
            assert_eq!(presence.loss(), Some(Loss::Gone));
            assert!(Presence::below(devices.path(), "00:03.0").is_none());
        }
    }
}
