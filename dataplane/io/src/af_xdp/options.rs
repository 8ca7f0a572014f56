//! How an AF_XDP port is opened, and why that may fail.

use std::io;

use nix::errno::Errno;
use thiserror::Error;
use vipdp_core::port::BURST;

use super::umem::FRAMES_MAX;
use crate::deferral::Deferral;

/// Whether the NIC may move frames to and from the umem by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// If the driver can, else the kernel copies.
    #[default]
    Auto,
    /// The kernel copies.
    Off,
}

/// When system calls on the socket run the driver's receive side, in place of interrupts on whichever core they
/// arrive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BusyPoll {
    /// Never.
    #[default]
    Never,
    /// While the port is [told to](super::AfXdpPort::drive); and interrupts are put off meanwhile by that.
    UnderLoad(Deferral),
    /// Each turn. For workers that never sleep. It takes effect once the interface's `napi_defer_hard_irqs` and
    /// `gro_flush_timeout` keep the interrupts off (see [`deferral`](crate::deferral)).
    Always,
}

/// How to open an [`AfXdpPort`](super::AfXdpPort).
///
/// Ring sizes are powers of two. `frames` must exceed `tx_ring` by two bursts at least: that many
/// are never lent to the receive side, so that a full one cannot keep us from transmitting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Interface, in the network namespace of the thread that opens the port.
    pub interface: String,
    /// Receive queue, and transmit queue of the same number.
    pub queue: u32,
    /// Frames of 2,048 bytes each, in one umem of the port's own.
    pub frames: u32,
    /// Descriptors of the receive ring: how many frames may wait for the worker.
    pub rx_ring: u32,
    /// Descriptors of the transmit ring, and of the completion ring.
    pub tx_ring: u32,
    /// Descriptors of the fill ring: how many frames may wait for the driver.
    pub fill_ring: u32,
    /// Whether the NIC may use the umem by itself. `Off` where the XDP program runs in
    /// [`Generic`](crate::xdp::AttachMode::Generic) mode.
    pub zero_copy: ZeroCopy,
    /// When the worker runs the driver's receive side itself.
    pub busy_poll: BusyPoll,
    /// Whether super-packets can be transmitted whole: by a packet socket, and the kernel's own queue of
    /// the NIC.
    pub whole: bool,
}

impl Options {
    /// Default options for one queue.
    ///
    /// Rings of 2,048, fill ring of 4,096: a stall of the worker of 200 us at 10 Mpps overflows
    /// nothing, and the fill ring holds a refill while the receive ring is full. 8,192 frames
    /// (16 MiB): fill ring, receive ring and transmit ring all full at once.
    pub fn new(interface: impl Into<String>, queue: u32) -> Self {
        Self {
            interface: interface.into(),
            queue,
            frames: 8192,
            rx_ring: 2048,
            tx_ring: 2048,
            fill_ring: 4096,
            zero_copy: ZeroCopy::Auto,
            busy_poll: BusyPoll::Never,
            whole: false,
        }
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let rings =
            [("rx_ring", self.rx_ring), ("tx_ring", self.tx_ring), ("fill_ring", self.fill_ring)];
        for (ring, size) in rings {
            if !size.is_power_of_two() || !(BURST as u32..=RING_MAX).contains(&size) {
                return Err(OpenError::Ring { ring, size });
            }
        }
        let least = self.tx_ring + 2 * BURST as u32;
        if self.frames < least || self.frames > FRAMES_MAX {
            return Err(OpenError::Frames { frames: self.frames, least });
        }
        Ok(())
    }
}

/// Descriptors of a ring at most. 32,768: what drivers offer for their own rings ends at 16,384.
const RING_MAX: u32 = 32_768;

/// Why a port could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A ring's size will not do.
    #[error("{ring} = {size}: a power of two from {BURST} to {RING_MAX} would do")]
    Ring {
        /// The option.
        ring: &'static str,
        /// Its value.
        size: u32,
    },
    /// Too few frames, or too many.
    #[error(
        "frames = {frames}: at least {least} are needed (tx_ring and two bursts), and at most {FRAMES_MAX}"
    )]
    Frames {
        /// The option's value.
        frames: u32,
        /// What is needed with these rings.
        least: u32,
    },
    /// No interface has this name in the network namespace of the thread.
    #[error("no interface is called {0}")]
    NoSuchInterface(String),
    /// No memory for the frames.
    #[error("no memory for {frames} frames")]
    Memory {
        /// How many were to be had.
        frames: u32,
        /// What the kernel said.
        source: Errno,
    },
    /// The socket, its umem or its rings could not be made.
    #[error(
        "cannot make an AF_XDP socket: {step}; it needs CAP_NET_RAW and a kernel with CONFIG_XDP_SOCKETS"
    )]
    Socket {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another socket is bound to the queue.
    #[error(
        "queue {queue} of {interface} has an AF_XDP socket already: is vipdp, or another program, running on it?"
    )]
    QueueTaken {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The socket could not be bound to the queue.
    #[error(
        "cannot bind an AF_XDP socket to queue {queue} of {interface}: the queue must exist (see `ethtool -l {interface}`) and the interface be up"
    )]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_options_fit_together() {
        let options = Options::new("eth0", 0);
        options.check().expect("the defaults");
        assert_eq!(options.frames, options.rx_ring + options.tx_ring + options.fill_ring);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let good = || Options::new("eth0", 0);
        for size in [0, 32, 100, 65_536] {
            for options in [
                Options { rx_ring: size, ..good() },
                Options { tx_ring: size, ..good() },
                Options { fill_ring: size, ..good() },
            ] {
                let error = options.check().expect_err("a ring's size");
                assert!(matches!(error, OpenError::Ring { .. }), "{error}");
            }
        }
        for frames in [0, 2048 + 2 * 64 - 1, u32::MAX] {
            let error = Options { frames, ..good() }.check().expect_err("frames");
            assert!(matches!(error, OpenError::Frames { least: 2176, .. }), "{error}");
        }
    }
}
