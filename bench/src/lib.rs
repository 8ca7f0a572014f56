//! Load and measurement for vipdp.

pub mod dns_load;
pub mod pktgen;
