//! Bidirectional Forwarding Detection: whether the next router still hears us, and we it.
//!
//! Asynchronous mode (RFC 5880) over a single hop (RFC 5881), without authentication and without
//! the echo function. Everything here is pure: time and packets are arguments, what is to be sent
//! is a result. Sockets and the TTL of 255 that RFC 5881, section 5, asks for are the speaker's.
//!
//! ```text
//!   bytes -> Packet::decode -> which session (discriminator, else address) -> Session::step
//!                                                                                 |
//!                                     Up, Down(reason) <--+--> Send(Packet) -> Packet::encode
//! ```

pub mod packet;
pub mod session;
#[cfg(test)]
mod session_tests;

pub use packet::{Diagnostic, Packet, PacketError, State};
pub use session::{Counters, DownReason, Input, Output, Session, Timers, View};

/// The UDP port that control packets are sent to (RFC 5881, section 4).
pub const PORT: u16 = 3784;
/// The first of the UDP ports that they may be sent from; the last is 65535 (RFC 5881, section 4).
pub const SOURCE_PORT_MIN: u16 = 49152;
/// The TTL, or hop limit, that they are sent with, and must arrive with (RFC 5881, section 5).
pub const TTL: u8 = 255;
