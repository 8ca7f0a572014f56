//! Load and measurement for vipdp.

pub mod command;
pub mod compare;
pub mod dns_load;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod handoff;
pub mod pktgen;
pub mod stream;
pub mod wake;
