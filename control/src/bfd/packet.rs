//! The BFD control packet (RFC 5880, section 4.1).
//!
//! ```text
//!    0                   1                   2                   3
//!    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!   |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//!   |                       My Discriminator                        |
//!   |                      Your Discriminator                       |
//!   |                 Desired Min TX Interval, in us                |
//!   |                 Required Min RX Interval, in us               |
//!   |               Required Min Echo RX Interval, in us            |
//! ```
//!
//! [`Packet::decode`] makes all the checks of section 6.8.6 that need no session. An authentication
//! section is never there: packets that have one are refused, as that section says where no
//! authentication is in use.

use std::fmt;
use std::num::{NonZeroU8, NonZeroU32};

/// Length of a control packet without authentication, in bytes.
pub const PACKET_LEN: usize = 24;
/// Length of the shortest control packet with authentication, in bytes.
const AUTHENTICATED_LEN_MIN: usize = 26;
/// The protocol's version.
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Held down by the operator.
    AdminDown,
    /// Nothing is heard from the peer, or not yet.
    Down,
    /// The peer is heard; whether it hears us is not known.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    /// All of them, by their number on the wire.
    pub const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];

    fn of(flags: u8) -> Self {
        Self::ALL[usize::from(flags >> 6)]
    }

    fn bits(self) -> u8 {
        (self as u8) << 6
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "admin-down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        })
    }
}

/// Why a session was last not up (RFC 5880, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// It never was up.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// The peer said that it is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// The operator holds it down.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);

    /// The diagnostic with the number `code`; `None` above 31, which the field cannot hold.
    pub const fn new(code: u8) -> Option<Self> {
        if code < 32 { Some(Self(code)) } else { None }
    }

    /// Its number.
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            _ => return write!(f, "diagnostic {}", self.0),
        })
    }
}

/// A control packet without authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session was last not up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// The sender wants an answer with [`is_final`](Self::is_final).
    pub is_poll: bool,
    /// The answer to a poll.
    pub is_final: bool,
    /// The sender's BFD does not share the fate of its control plane.
    pub is_control_plane_independent: bool,
    /// The sender wants to be sent nothing while both are up.
    pub is_demand: bool,
    /// After how many of its intervals in silence the sender is to be taken for dead.
    pub multiplier: NonZeroU8,
    /// The sender's number for the session.
    pub mine: NonZeroU32,
    /// The receiver's number for the session, if the sender knows it.
    pub yours: Option<NonZeroU32>,
    /// The shortest interval that the sender would send in, in microseconds.
    pub desired_min_tx_us: u32,
    /// The shortest interval that the sender can be sent to in, in microseconds; 0 asks to be sent
    /// nothing.
    pub required_min_rx_us: u32,
    /// The same for echo packets; 0 refuses them.
    pub required_min_echo_rx_us: u32,
}

/// Why bytes are no control packet to be heard. A counter can be indexed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PacketError {
    /// Shorter than a control packet.
    #[error("shorter than a BFD control packet")]
    Truncated,
    /// Another version of the protocol.
    #[error("not BFD version 1")]
    Version,
    /// The length field is less than a control packet, or more than there is.
    #[error("a length that a BFD control packet cannot have")]
    Length,
    /// The detection multiplier is 0.
    #[error("a detection multiplier of 0")]
    Multiplier,
    /// The multipoint bit is set.
    #[error("the multipoint bit")]
    Multipoint,
    /// The sender's discriminator is 0.
    #[error("a discriminator of 0")]
    Discriminator,
    /// The sender does not know the session, but says that it is on its way up.
    #[error("no session named by a peer that is not down")]
    NoSession,
    /// The authentication bit is set.
    #[error("authentication, which is not in use")]
    Authentication,
}

impl PacketError {
    /// How many there are.
    pub const COUNT: usize = 8;
}

impl Packet {
    /// Reads the UDP payload `bytes`.
    ///
    /// # Errors
    /// [`PacketError`]; the packet is to be discarded (RFC 5880, section 6.8.6).
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let Some(fixed) = bytes.first_chunk::<PACKET_LEN>() else {
            return Err(PacketError::Truncated);
        };
        let [first, flags, multiplier, length, ..] = *fixed;
        if first >> 5 != VERSION {
            return Err(PacketError::Version);
        }
        let length = usize::from(length);
        let is_authenticated = flags & AUTHENTICATION != 0;
        let length_min = if is_authenticated { AUTHENTICATED_LEN_MIN } else { PACKET_LEN };
        if !(length_min..=bytes.len()).contains(&length) {
            return Err(PacketError::Length);
        }
        let multiplier = NonZeroU8::new(multiplier).ok_or(PacketError::Multiplier)?;
        if flags & MULTIPOINT != 0 {
            return Err(PacketError::Multipoint);
        }
        let word = |at: usize| {
            u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let mine = NonZeroU32::new(word(4)).ok_or(PacketError::Discriminator)?;
        let yours = NonZeroU32::new(word(8));
        let state = State::of(flags);
        if yours.is_none() && !matches!(state, State::Down | State::AdminDown) {
            return Err(PacketError::NoSession);
        }
        if is_authenticated {
            return Err(PacketError::Authentication);
        }
        Ok(Self {
            diagnostic: Diagnostic(first & 0x1f),
            state,
            is_poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            is_control_plane_independent: flags & CONTROL_PLANE_INDEPENDENT != 0,
            is_demand: flags & DEMAND != 0,
            multiplier,
            mine,
            yours,
            desired_min_tx_us: word(12),
            required_min_rx_us: word(16),
            required_min_echo_rx_us: word(20),
        })
    }

    /// The UDP payload.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let flags = self.state.bits()
            | bit(self.is_poll, POLL)
            | bit(self.is_final, FINAL)
            | bit(self.is_control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | bit(self.is_demand, DEMAND);
        let mut bytes = [0; PACKET_LEN];
        bytes[..4].copy_from_slice(&[
            VERSION << 5 | self.diagnostic.0,
            flags,
            self.multiplier.get(),
            PACKET_LEN as u8,
        ]);
        let words = [
            self.mine.get(),
            self.yours.map_or(0, NonZeroU32::get),
            self.desired_min_tx_us,
            self.required_min_rx_us,
            self.required_min_echo_rx_us,
        ];
        for (to, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A packet with a value of its own in each field.
    const PACKET: Packet = Packet {
        diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN,
        state: State::Up,
        is_poll: true,
        is_final: false,
        is_control_plane_independent: true,
        is_demand: false,
        multiplier: NonZeroU8::new(5).unwrap(),
        mine: NonZeroU32::new(0x0102_0304).unwrap(),
        yours: NonZeroU32::new(0x0506_0708),
        desired_min_tx_us: 300_000,
        required_min_rx_us: 200_000,
        required_min_echo_rx_us: 50_000,
    };

    #[test]
    fn each_field_is_where_the_rfc_has_it() {
        let expected = [
            0x23, 0xe8, 5, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 4, 0x93, 0xe0, 0, 3, 0x0d, 0x40, 0, 0,
            0xc3, 0x50,
        ];
        assert_eq!(PACKET.encode(), expected);
        assert_eq!(Packet::decode(&expected), Ok(PACKET));
        for (bit, packet) in [
            (0x10, Packet { is_final: true, ..PACKET }),
            (0x02, Packet { is_demand: true, ..PACKET }),
        ] {
            let mut bytes = expected;
            bytes[1] |= bit;
            assert_eq!(Packet::decode(&bytes), Ok(packet));
        }
    }

    #[test]
    fn each_rule_of_section_6_8_6_has_its_error() {
        use PacketError::{
            Authentication, Discriminator, Length, Multiplier, Multipoint, NoSession, Version,
        };
        let down = Packet { state: State::Down, yours: None, ..PACKET };
        assert_eq!(Packet::decode(&down.encode()), Ok(down));
        let changed = |changes: &[(usize, u8)]| {
            let mut bytes = PACKET.encode();
            changes.iter().for_each(|&(at, to)| bytes[at] = to);
            Packet::decode(&bytes)
        };
        assert_eq!(changed(&[(0, 0x03)]), Err(Version));
        assert_eq!(changed(&[(0, 0x43)]), Err(Version));
        assert_eq!(changed(&[(3, 23)]), Err(Length));
        assert_eq!(changed(&[(3, 25)]), Err(Length));
        assert_eq!(changed(&[(1, 0xec)]), Err(Length));
        assert_eq!(changed(&[(2, 0)]), Err(Multiplier));
        assert_eq!(changed(&[(1, 0xe9)]), Err(Multipoint));
        assert_eq!(changed(&[(4, 0), (5, 0), (6, 0), (7, 0)]), Err(Discriminator));
        let nobodys = [(8, 0), (9, 0), (10, 0), (11, 0)];
        assert_eq!(changed(&nobodys), Err(NoSession));
        let init = [&nobodys[..], &[(1, 0x80)]].concat();
        assert_eq!(changed(&init), Err(NoSession));
        assert_eq!(Packet::decode(&PACKET.encode()[..23]), Err(PacketError::Truncated));

        let mut authenticated = PACKET.encode().to_vec();
        authenticated.extend([1, 5, 7, b'k', b'k']);
        authenticated[1] |= AUTHENTICATION;
        authenticated[3] = 29;
        assert_eq!(Packet::decode(&authenticated), Err(Authentication));
    }

    #[test]
    fn what_follows_the_packet_in_its_datagram_is_not_read() {
        let mut bytes = PACKET.encode().to_vec();
        bytes.extend([0xff; 9]);
        assert_eq!(Packet::decode(&bytes), Ok(PACKET));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn whatever_is_read_is_written_as_it_was(
            mut bytes in vec(any::<u8>(), 0..64),
            header in any::<[u8; 2]>(),
            is_likely in any::<bool>(),
        ) {
            // Of arbitrary bytes hardly any are a packet: most cases start like one.
            if let Some(first) = bytes.first_chunk_mut::<4>().filter(|_| is_likely) {
                let [diagnostic, flags] = header;
                *first = [VERSION << 5 | diagnostic >> 3, flags, first[2], PACKET_LEN as u8];
            }
            if let Ok(packet) = Packet::decode(&bytes) {
                let mut written = packet.encode();
                prop_assert_eq!(Packet::decode(&written), Ok(packet));
                // The length may say more than is needed.
                written[3] = bytes[3];
                prop_assert_eq!(&written[..], &bytes[..PACKET_LEN]);
            }
        }
    }
}
