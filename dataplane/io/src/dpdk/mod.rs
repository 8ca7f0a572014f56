//! A NIC by DPDK: its queue pairs as [`Port`](vipdp_core::port::Port)s.
//!
//! ```text
//!   thread vipdp-dpdk                 workers' threads, one port each
//!  +----------------------+          +---------------------------------+
//!  | EAL, device,         |          |  DpdkPort      DpdkPort         |
//!  | link, statistics     |          |   | queue 0     | queue 1       |
//!  +----------|-----------+          +---|-------------|---------------+
//!             |  control                 |  frames     |
//!  +----------v--------------------------v-------------v---------------+
//!  |  dpdk/shim.c                                                      |
//!  +-------------------------------------------------------------------+
//!  |  DPDK's libraries, and the NIC's driver, loaded when it starts     |
//!  +-------------------------------------------------------------------+
//! ```
//!
//! DPDK's structures and inline functions stay in the shim; what Rust shares with it is a handful of
//! structures of our own. DPDK starts once in a process, and a process has one [`Nic`].
//!
//! **Frames** have 2,048 bytes and are one mbuf each. One that comes in several is dropped and counted,
//! as is one that the NIC found a wrong checksum in; a checksum that it calls right is not believed for
//! that. A tag that it took off is put back.
//!
//! **MAC addresses** beside the NIC's own are added to its filter; one that has no room for them, or no
//! filter, is made promiscuous. Frames to groups all come.
//!
//! **The link** is looked at every 20 ms. A virtual device over an interface of the kernel's is up while
//! that has a carrier. So is whether the NIC is there still, by what the kernel says of it ([`Loss`]): DPDK's drivers do
//! not say it of a NIC that is pulled out or unbound. Registers that are gone are no harm.

mod device;
mod kernel;
mod left;
mod left_program;
mod options;
mod port;
mod presence;
mod registers;
mod shim;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vipdp_core::wire::ethernet::MacAddr;

pub use left::remove_left;
pub use left_program::detach_left;
pub use options::{MTU_MAX, OpenError, Options};
pub use port::{Accounting, DpdkPort, Frame, QueueStatistics};
pub use presence::Loss;

use device::{Handle, Opened};

/// Whether the NIC has a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Whether it has.
    pub is_up: bool,
    /// Its speed in megabits per second, where the driver knows it.
    pub speed_mbps: Option<u32>,
}

/// What the NIC counts, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames received.
    pub received: u64,
    /// Frames transmitted.
    pub transmitted: u64,
    /// Frames dropped since the receive ring was full: the worker is too slow.
    pub missed: u64,
    /// Frames received that were damaged, or too long.
    pub errors: u64,
    /// Frames dropped since there was no free one to receive into.
    pub no_frame: u64,
    /// Frames that could not be transmitted.
    pub tx_errors: u64,
}

/// The NIC. There is one in a process.
///
/// The device is closed, and DPDK ended, when the last of it and its ports is dropped.
pub struct Nic {
    handle: Arc<Handle>,
    mac: MacAddr,
    driver: String,
    queues: u32,
    is_promiscuous: AtomicBool,
}

impl Nic {
    /// Starts DPDK, opens the device and waits up to five seconds for its link. Virtual devices are made
    /// in the network namespace of the calling thread. The ports are as many as the device has queues, of
    /// those that were asked for.
    ///
    /// # Errors
    /// See [`OpenError`]. DPDK cannot be started again then.
    pub fn open(options: &Options) -> Result<(Self, Vec<DpdkPort>), OpenError> {
        let Opened { handle, number, info, is_promiscuous, pools } = device::start(options)?;
        let frames = options.frames_per_queue as usize;
        let ports = (0..)
            .zip(&pools)
            .map(|(queue, pool)| DpdkPort::new(number, queue, pool.0, frames, Arc::clone(&handle)))
            .collect();
        let nic = Self {
            handle,
            mac: MacAddr(info.mac),
            driver: device::driver(&info),
            queues: pools.len() as u32,
            is_promiscuous: is_promiscuous.into(),
        };
        Ok((nic, ports))
    }

    /// The NIC's own MAC address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The name of its driver, as DPDK calls it.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Queue pairs in use: as many as there are ports.
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// Whether it receives all frames, since it cannot tell those apart that are to come.
    pub fn is_promiscuous(&self) -> bool {
        self.is_promiscuous.load(Ordering::Relaxed)
    }

    /// Has the NIC receive frames to these MAC addresses too, by its filter or by receiving all frames.
    ///
    /// # Errors
    /// When it can do neither.
    pub fn receive_from(&self, macs: &[MacAddr]) -> io::Result<()> {
        let is_promiscuous = self.handle.receive_from(macs)?;
        self.is_promiscuous.store(is_promiscuous, Ordering::Relaxed);
        Ok(())
    }

    /// The link's state, at most 20 ms old.
    pub fn link(&self) -> LinkState {
        self.handle.link()
    }

    /// Has `on_change` called with every change of the link from now on, up (true) or down, in place of
    /// whatever was called before. It is called by the thread of DPDK, and must not wait long.
    pub fn watch_link(&self, on_change: impl FnMut(bool) + Send + 'static) {
        self.handle.watch(Box::new(on_change));
    }

    /// Has `on_loss` called once, when the NIC is unplugged or its driver unbound, or at once if that was so before;
    /// in place of what was to be called before. It is called by the thread of DPDK, and must not wait long.
    pub fn watch_loss(&self, on_loss: impl FnOnce(Loss) + Send + 'static) {
        self.handle.watch_loss(Box::new(on_loss));
    }

    /// What the NIC counts.
    pub fn statistics(&self) -> Statistics {
        self.handle.statistics()
    }
}

impl std::fmt::Debug for Nic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nic")
            .field("driver", &self.driver)
            .field("mac", &self.mac)
            .field("queues", &self.queues)
            .field("is_promiscuous", &self.is_promiscuous())
            .field("link", &self.link())
            .finish()
    }
}
