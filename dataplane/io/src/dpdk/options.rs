//! How the NIC is opened, and why that may fail.

use std::io;

use thiserror::Error;
use vipdp_core::port::BURST;
use vipdp_core::wire::ethernet::MacAddr;

use super::device::{RX_RING, TX_RING};
use super::port::OWN_MAX;
use super::shim::DATA_ROOM;

/// The MTU that fits into a frame's buffer, with an Ethernet header, two tags and a frame check sequence.
pub const MTU_MAX: u32 = DATA_ROOM as u32 - 14 - 8 - 4;

/// Frames that a port has at least: its rings full, a burst on the way between any two places.
const FRAMES_MIN: u32 = RX_RING as u32 + TX_RING as u32 + OWN_MAX as u32 + BURST as u32;

/// How to open a [`Nic`](super::Nic).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The device, as DPDK knows it: a PCI address or another that its bus understands
    /// (`0000:00:03.0`, with arguments behind a comma), or a virtual device with its arguments
    /// (`net_af_packet0,iface=phy0`).
    pub devargs: String,
    /// Queue pairs that are wanted. There are fewer where the device has fewer.
    pub queues: u32,
    /// Whether frames are in huge pages, which real NICs need: DPDK knows their physical addresses.
    pub hugepages: bool,
    /// Frames of each queue, of 2,048 bytes and some 320 to manage them.
    pub frames_per_queue: u32,
    /// MAC addresses beside the NIC's own that frames come to. All groups' frames come in any case.
    pub macs: Vec<MacAddr>,
    /// The longest packet that comes or goes, in bytes: the MTU of the network. At most [`MTU_MAX`].
    pub mtu: u32,
}

impl Options {
    /// Default options for a device: one queue, huge pages.
    ///
    /// 8,192 frames a queue (20 MiB): twice what the rings and the port hold. The virtual device over
    /// AF_XDP keeps 4,096 of them.
    pub fn new(devargs: impl Into<String>) -> Self {
        Self {
            devargs: devargs.into(),
            queues: 1,
            hugepages: true,
            frames_per_queue: 8192,
            macs: Vec::new(),
            mtu: 1500,
        }
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let is_strange = |c: char| c.is_whitespace() || c.is_control();
        if self.devargs.is_empty() || self.devargs.contains(is_strange) {
            return Err(OpenError::Devargs(self.devargs.clone()));
        }
        if self.queues == 0 || self.queues > QUEUES_MAX {
            return Err(OpenError::Queues(self.queues));
        }
        if self.frames_per_queue < FRAMES_MIN || self.frames_per_queue > FRAMES_MAX {
            return Err(OpenError::Frames(self.frames_per_queue));
        }
        if self.mtu > MTU_MAX {
            return Err(OpenError::Mtu(self.mtu));
        }
        Ok(())
    }

    /// The arguments of `rte_eal_init`, for a process that may run on `cores` and calls itself `prefix`
    /// beside others that use DPDK.
    ///
    /// One lcore, the caller's, on any of the cores: by itself it would be pinned to one. No second
    /// process ever attaches, so that nothing is shared by files.
    pub(super) fn eal_arguments(&self, cores: &[usize], prefix: &str, log: &str) -> Vec<String> {
        let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
        let mut arguments = vec!["vipdp".to_owned()];
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        add(&["--lcores", &format!("0@({})", cores.join(","))]);
        add(&["--file-prefix", prefix, "--log-level", log, "--no-telemetry"]);
        if self.hugepages {
            add(&["--in-memory"]);
        } else {
            // It may not stand beside --in-memory before 23.11 at least, and is most of it.
            add(&["--no-huge", "--no-shconf", "-m", &self.memory_mib().to_string()]);
        }
        if self.is_virtual() {
            add(&["--no-pci", "--vdev", &self.devargs]);
        } else {
            add(&["--allow", &self.devargs]);
        }
        arguments
    }

    /// Addresses on a bus have a colon; names of virtual devices have none.
    pub(super) fn is_virtual(&self) -> bool {
        !self.devargs.split(',').next().is_some_and(|device| device.contains(':'))
    }

    /// Without huge pages a frame that a device reads by itself has a page of its own, since it may not
    /// cross from one to another. Beside frames: the rings, and what
    /// DPDK keeps its books in.
    fn memory_mib(&self) -> u32 {
        64 + (self.queues * self.frames_per_queue * 4).div_ceil(1024)
    }
}

/// Queues at most: DPDK's own limit is 1,024, and registers 128 threads.
const QUEUES_MAX: u32 = 64;

/// Frames of a queue at most: 2.5 GiB.
const FRAMES_MAX: u32 = 1 << 20;

/// Why the NIC could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The device cannot be named so.
    #[error("devargs = {0:?} names no device: a PCI address or a virtual device, without spaces")]
    Devargs(String),
    /// No queues, or too many.
    #[error("{0} queues: 1 to {QUEUES_MAX} would do")]
    Queues(u32),
    /// Too few frames, or too many.
    #[error("{0} frames a queue: {FRAMES_MIN} to {FRAMES_MAX} would do")]
    Frames(u32),
    /// Packets would not fit into a frame.
    #[error("an MTU of {0}: with DPDK it may be {MTU_MAX}")]
    Mtu(u32),
    /// DPDK runs, or ran, in this process: it can be started once only.
    #[error("DPDK was started in this process before, which it can be only once")]
    Again,
    /// The thread for DPDK did not start, or ended early.
    #[error("there is no thread for DPDK")]
    Thread(#[source] io::Error),
    /// DPDK did not start.
    #[error(
        "DPDK does not start with {arguments}; what it says itself is on standard error. It needs root, \
         and, with hugepages = true, free huge pages (`dpdk-hugepages.py --show`)"
    )]
    Eal {
        /// What it was started with.
        arguments: String,
        /// What it said.
        source: io::Error,
    },
    /// It started, but does not know the device.
    #[error(
        "DPDK finds no device {0}: a PCI device must be bound to a driver for user space \
         (`dpdk-devbind.py --status`)"
    )]
    NoDevice(String),
    /// The device is several.
    #[error("{devargs} is {count} devices: name one of them")]
    SeveralDevices {
        /// What was asked for.
        devargs: String,
        /// How many there are.
        count: u32,
    },
    /// The device cannot be set up.
    #[error("the device {devargs} ({driver}) cannot be used: {step}")]
    Device {
        /// What was asked for.
        devargs: String,
        /// Its driver.
        driver: String,
        /// What was being done.
        step: &'static str,
        /// What the driver said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(options: &Options) -> String {
        options.eal_arguments(&[0, 1], "vipdp-7", "warning").join(" ")
    }

    #[test]
    fn a_virtual_device_needs_no_bus() {
        let options =
            Options { hugepages: false, ..Options::new("net_af_packet0,iface=phy0,qpairs=2") };
        let expected = "vipdp --lcores 0@(0,1) --file-prefix vipdp-7 --log-level warning \
             --no-telemetry --no-huge --no-shconf -m 96 --no-pci --vdev \
             net_af_packet0,iface=phy0,qpairs=2";
        assert_eq!(arguments(&options), expected);
    }

    #[test]
    fn an_address_is_the_only_one_that_is_allowed() {
        for address in ["0000:00:03.0", "00:03.0,arg=1", "auxiliary:mlx5_core.sf.8"] {
            let expected = format!(
                "vipdp --lcores 0@(0,1) --file-prefix vipdp-7 --log-level warning --no-telemetry \
                 --in-memory --allow {address}"
            );
            assert_eq!(arguments(&Options::new(address)), expected);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = || Options::new("net_null0");
        good().check().expect("the defaults");
        for devargs in ["", "net_null0 --huge-dir=/", "net_null0\n", "net_null0\0"] {
            let error = Options::new(devargs).check().expect_err("a device");
            assert!(matches!(error, OpenError::Devargs(_)), "{error}");
        }
        for queues in [0, 65] {
            let error = Options { queues, ..good() }.check().expect_err("queues");
            assert!(matches!(error, OpenError::Queues(_)), "{error}");
        }
        for frames_per_queue in [0, FRAMES_MIN - 1, FRAMES_MAX + 1] {
            let error = Options { frames_per_queue, ..good() }.check().expect_err("frames");
            assert!(matches!(error, OpenError::Frames(_)), "{error}");
        }
        let error = Options { mtu: 9000, ..good() }.check().expect_err("MTU");
        assert!(error.to_string().contains("2022"), "{error}");
    }
}
