//! The formats on the wire, one module a protocol.
//!
//! Each module starts with the format's field table, then offers a checked view over bytes whose
//! accessors cannot panic, and, where the data plane also writes the format, functions that do.

pub mod ethernet;
