//! The edge of BGP and BFD: one thread with all their sockets and timers.
//!
//! ```text
//!   control thread            thread "vipdp-bgp"
//!   --------------            ------------------------------------------------------------
//!   Speaker::set --(lease)--> Orders --> Peer --> bgp::Session --> Connection   TCP, port 179
//!   Speaker::peers <-(view)-------'       |  `--> bfd::Session --> UDP, port 3784
//!                                         `--- Discovery --> ICMPv6 on a peer's interface
//! ```
//!
//! What is announced, is so under a lease: once it has run out, routes are withdrawn without
//! anybody's word, so that a control thread that stands still does not keep clients coming. They
//! are withdrawn also when the [`Speaker`] is dropped, be it because its owner panicked; and when
//! the thread itself ends, however it does, its connections end with it.
//!
//! The state machines are pure and know neither sockets nor each other; here is what joins them:
//! the failure that BFD finds ends the BGP session.

mod bfd_port;
mod config;
mod connection;
mod discovery;
mod listener;
mod orders;
mod peer;
mod port;
mod signature;
mod thread;
mod view;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use config::{ConfigError, PEERS_MAX, PORT, SpeakerConfig, SpeakerPeer, Target};
pub use view::{BfdView, ConnectFailure, SpeakerPeerView};

use crate::bgp::{Announcement, Shutdown};
use orders::Orders;
use thread::Thread;

/// Why there is no speaker.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The configuration cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A descriptor, a thread or random numbers cannot be had.
    #[error("starting the BGP speaker: {0}")]
    Resource(#[from] io::Error),
}

/// A running speaker.
#[derive(Debug)]
pub struct Speaker {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    /// Starts a speaker in the calling thread's network namespace. It connects, and announces
    /// nothing before the first [`set`](Self::set).
    ///
    /// # Errors
    /// [`SpeakerError`]. That a port is taken is none: it is logged and tried again.
    pub fn start(config: SpeakerConfig) -> Result<Self, SpeakerError> {
        config.check()?;
        let orders = Arc::new(Orders::new()?);
        let thread = Thread::new(config, Arc::clone(&orders))?;
        let thread =
            std::thread::Builder::new().name("vipdp-bgp".into()).spawn(move || thread.run())?;
        Ok(Self { orders, thread: Some(thread) })
    }

    /// Has all peers told `announcement`, until the monotonic clock shows `lease_until_ns`; then
    /// they are told [`Announcement::Nothing`]. Cheap where nothing but the lease changes.
    ///
    /// # Panics
    /// When the thread has: whoever cannot tell the network any more must not go on as if it knew.
    pub fn set(&self, announcement: Announcement, lease_until_ns: u64) {
        assert!(self.is_running(), "the thread of the BGP speaker has ended");
        self.orders.set(announcement, lease_until_ns);
    }

    /// How all peers stand, in the configuration's order. Of a thread that has ended, how they
    /// stood then.
    pub fn peers(&self) -> Vec<SpeakerPeerView> {
        self.orders.views()
    }

    /// Whether the thread runs. It ends by itself only when it panics.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends all sessions as `shutdown` says, and waits until the peers were told, a second or two
    /// at most.
    pub fn stop(mut self, shutdown: Shutdown) {
        self.end(shutdown);
    }

    fn end(&mut self, shutdown: Shutdown) {
        if let Some(thread) = self.thread.take() {
            self.orders.stop(shutdown);
            if thread.join().is_err() {
                tracing::error!("the thread of the BGP speaker panicked");
            }
        }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.end(Shutdown::Administrative(None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the thread of the BGP speaker has ended")]
    fn an_order_to_a_thread_that_has_ended_is_not_taken() {
        let thread = std::thread::spawn(|| {});
        while !thread.is_finished() {
            std::thread::yield_now();
        }
        let orders = Arc::new(Orders::new().expect("a descriptor"));
        Speaker { orders, thread: Some(thread) }.set(Announcement::Announced, u64::MAX);
    }
}
