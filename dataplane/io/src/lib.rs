//! The edge of the data plane: AF_XDP sockets, the XDP program, the TAP, host settings.
//!
//! This is the one crate with `unsafe`; each block names the invariant it rests on.

pub mod af_xdp;
pub mod affinity;
pub mod announce;
pub mod announced;
mod boot;
pub mod deferral;
#[cfg(feature = "dpdk")]
pub mod dpdk;
mod ending;
mod ethtool;
pub mod flow_file;
#[cfg(test)]
#[path = "../../core/tests/frames/mod.rs"]
mod frames;
pub mod host;
pub mod huge_pages;
pub mod icmpv6_filter;
pub mod link;
pub mod membership;
pub mod neighbor;
mod packet_socket;
pub mod peer_path;
pub mod probe;
pub mod processor;
pub mod realtime;
pub mod tap;
pub mod tcp_md5;
pub mod xdp;
