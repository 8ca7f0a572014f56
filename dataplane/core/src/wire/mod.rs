//! The formats on the wire, one module a protocol.
//!
//! Each module starts with the format's field table, then offers a checked view over bytes whose
//! accessors cannot panic, and, where the data plane also writes the format, functions that do.
//!
//! A view is made from bytes of any length and content. It keeps the fixed part of the header as
//! a reference to an array, and a `Field` names its place in that array by type:
//! that a field lies within its header is decided when compiling, and nothing is left to check
//! when it is read.

pub mod arp;
pub mod checksum;
mod error;
pub mod ethernet;
mod field;
pub mod gue;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod protocol;
pub mod tcp;
pub mod udp;
pub mod vnet;

pub use error::ParseError;
