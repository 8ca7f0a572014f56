//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//! at  len  field
//!  0    2  hardware type, 1: Ethernet
//!  2    2  protocol type, 0x0800: IPv4
//!  4    1  hardware address length, 6
//!  5    1  protocol address length, 4
//!  6    2  operation, 1: request, 2: reply
//!  8    6  sender hardware address
//! 14    4  sender protocol address
//! 18    6  target hardware address, of no meaning in a request
//! 24    4  target protocol address
//! ```

use std::net::Ipv4Addr;

use super::ParseError;
use super::ethernet::{self, MacAddr};

/// Length of a packet, in bytes.
pub const LEN: usize = 28;

const ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

mod field {
    use crate::wire::field::Field;

    pub const HARDWARE_TYPE: Field<0, 2> = Field;
    pub const PROTOCOL_TYPE: Field<2, 2> = Field;
    pub const LENGTHS: Field<4, 2> = Field;
    pub const OPERATION: Field<6, 2> = Field;
    pub const SENDER_MAC: Field<8, 6> = Field;
    pub const SENDER_IP: Field<14, 4> = Field;
    pub const TARGET_MAC: Field<18, 6> = Field;
    pub const TARGET_IP: Field<24, 4> = Field;
}

/// A request or a reply.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a>(&'a [u8; LEN]);

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`; padding may follow.
    ///
    /// # Errors
    /// [`ParseError::ArpTruncated`] below 28 bytes; [`ParseError::ArpInvalid`] unless it is of
    /// IPv4 over Ethernet, a request or a reply, and its sender hardware address not broadcast.
    ///
    /// A sender hardware address that is multicast is taken, although nobody should believe it
    /// (RFC 1812, section 3.3.2): a cluster whose shared MAC is one sends it, and hears it.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let packet = bytes.first_chunk().ok_or(ParseError::ArpTruncated)?;
        let is_valid = field::HARDWARE_TYPE.u16(packet) == ETHERNET
            && field::PROTOCOL_TYPE.u16(packet) == ethernet::IPV4
            && field::LENGTHS.read(packet) == [6, 4]
            && matches!(field::OPERATION.u16(packet), REQUEST | REPLY)
            && field::SENDER_MAC.read(packet) != MacAddr::BROADCAST.0;
        if is_valid { Ok(Self(packet)) } else { Err(ParseError::ArpInvalid) }
    }

    /// Whether it is a request, else a reply.
    pub fn is_request(&self) -> bool {
        field::OPERATION.u16(self.0) == REQUEST
    }

    /// Sender hardware address, never broadcast.
    pub fn sender_mac(&self) -> MacAddr {
        MacAddr(field::SENDER_MAC.read(self.0))
    }

    /// Sender protocol address.
    pub fn sender_ip(&self) -> Ipv4Addr {
        field::SENDER_IP.read(self.0).into()
    }

    /// Target hardware address.
    pub fn target_mac(&self) -> MacAddr {
        MacAddr(field::TARGET_MAC.read(self.0))
    }

    /// Target protocol address.
    pub fn target_ip(&self) -> Ipv4Addr {
        field::TARGET_IP.read(self.0).into()
    }
}

/// Writes a request: `sender_ip`, at `sender_mac`, wants to know where `target_ip` is. With the
/// unspecified address for a sender it is a probe, which enters no cache (RFC 5227, section 2.1.1).
pub fn emit_request(
    packet: &mut [u8; LEN],
    sender_mac: MacAddr,
    sender_ip: Ipv4Addr,
    target_ip: Ipv4Addr,
) {
    emit(packet, REQUEST, (sender_mac, sender_ip), (MacAddr::default(), target_ip));
}

/// Writes a reply: `sender_ip` is at `sender_mac`, told to the target.
pub fn emit_reply(
    packet: &mut [u8; LEN],
    sender_mac: MacAddr,
    sender_ip: Ipv4Addr,
    target_mac: MacAddr,
    target_ip: Ipv4Addr,
) {
    emit(packet, REPLY, (sender_mac, sender_ip), (target_mac, target_ip));
}

fn emit(
    packet: &mut [u8; LEN],
    operation: u16,
    (sender_mac, sender_ip): (MacAddr, Ipv4Addr),
    (target_mac, target_ip): (MacAddr, Ipv4Addr),
) {
    field::HARDWARE_TYPE.write(packet, ETHERNET.to_be_bytes());
    field::PROTOCOL_TYPE.write(packet, ethernet::IPV4.to_be_bytes());
    field::LENGTHS.write(packet, [6, 4]);
    field::OPERATION.write(packet, operation.to_be_bytes());
    field::SENDER_MAC.write(packet, sender_mac.0);
    field::SENDER_IP.write(packet, sender_ip.octets());
    field::TARGET_MAC.write(packet, target_mac.0);
    field::TARGET_IP.write(packet, target_ip.octets());
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY_BYTES: [u8; LEN] = [
        0, 1, 8, 0, // IPv4 over Ethernet
        6, 4, // address lengths
        0, 2, // reply
        2, 0, 0, 0, 0, 0x53, 192, 0, 2, 53, // sender
        2, 0, 0, 0, 0, 0x01, 192, 0, 2, 1, // target
    ];

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        let mut bytes = [0xff; LEN];
        emit_reply(
            &mut bytes,
            MacAddr([2, 0, 0, 0, 0, 0x53]),
            Ipv4Addr::new(192, 0, 2, 53),
            MacAddr([2, 0, 0, 0, 0, 0x01]),
            Ipv4Addr::new(192, 0, 2, 1),
        );
        assert_eq!(bytes, REPLY_BYTES);
        let packet = Packet::new(&bytes).unwrap();
        assert!(!packet.is_request());
        assert_eq!(packet.sender_mac(), MacAddr([2, 0, 0, 0, 0, 0x53]));
        assert_eq!(packet.sender_ip(), Ipv4Addr::new(192, 0, 2, 53));
        assert_eq!(packet.target_mac(), MacAddr([2, 0, 0, 0, 0, 0x01]));
        assert_eq!(packet.target_ip(), Ipv4Addr::new(192, 0, 2, 1));
    }

    #[test]
    fn a_request_asks_for_the_target_and_names_no_mac_for_it() {
        let mut bytes = [0xff; LEN];
        let asker = (MacAddr([2, 0, 0, 0, 0, 0x01]), Ipv4Addr::new(192, 0, 2, 1));
        emit_request(&mut bytes, asker.0, asker.1, Ipv4Addr::new(192, 0, 2, 53));
        let packet = Packet::new(&bytes).unwrap();
        assert!(packet.is_request());
        assert_eq!((packet.sender_mac(), packet.sender_ip()), asker);
        assert_eq!(packet.target_mac(), MacAddr::default());
        assert_eq!(packet.target_ip(), Ipv4Addr::new(192, 0, 2, 53));
    }

    #[test]
    fn each_fixed_field_is_checked() {
        assert_eq!(Packet::new(&REPLY_BYTES[..27]).unwrap_err(), ParseError::ArpTruncated);
        for (at, wrong) in [(1, 6), (2, 9), (4, 8), (5, 16), (7, 3), (7, 0), (6, 1)] {
            let mut bytes = REPLY_BYTES;
            bytes[at] = wrong;
            let error = Packet::new(&bytes).unwrap_err();
            assert_eq!(error, ParseError::ArpInvalid, "byte {at} = {wrong}");
        }
    }

    #[test]
    fn the_sender_may_be_multicast_but_not_broadcast() {
        let mut bytes = REPLY_BYTES;
        let multicast = MacAddr([0x03, 0xbf, 192, 0, 2, 53]);
        bytes[8..14].copy_from_slice(&multicast.0);
        assert_eq!(Packet::new(&bytes).unwrap().sender_mac(), multicast);
        bytes[8..14].fill(0xff);
        assert_eq!(Packet::new(&bytes).unwrap_err(), ParseError::ArpInvalid);
    }
}
