//! Communities: marks on a route that routers act on by their own policy.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A community: an AS number and a number that AS gives meaning to (RFC 1997), or one of the
/// well-known ones. Written `65011:100`, or by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// The names that IANA's registry "BGP Well-known Communities" gives, in its order.
const NAMES: [(&str, Community); 6] = [
    ("graceful-shutdown", Community::GRACEFUL_SHUTDOWN),
    ("blackhole", Community(0xffff_029a)),
    ("no-export", Community(0xffff_ff01)),
    ("no-advertise", Community(0xffff_ff02)),
    ("no-export-subconfed", Community(0xffff_ff03)),
    ("no-peer", Community(0xffff_ff04)),
];

impl Community {
    /// What marks a route that is about to go: receivers prefer any other (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
}

/// Why something is no community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommunityError {
    /// Neither two numbers nor a known name.
    #[error(
        "not a community: two numbers up to 65535 as in \"65011:100\", or one of no-export, \
         no-advertise, no-export-subconfed, no-peer, blackhole, graceful-shutdown"
    )]
    Community,
    /// Not three numbers.
    #[error("not a large community: three numbers up to 4294967295 as in \"65011:1:2\"")]
    Large,
}

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((_, community)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*community);
        }
        let (asn, value) = text.split_once(':').ok_or(CommunityError::Community)?;
        let [asn, value] =
            [asn, value].map(|number| digits(number).and_then(|number| u16::try_from(number).ok()));
        match (asn, value) {
            (Some(asn), Some(value)) => Ok(Self(u32::from(asn) << 16 | u32::from(value))),
            _ => Err(CommunityError::Community),
        }
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, community)| community == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

/// A large community: the number of an AS, of any length, and two that it gives meaning to
/// (RFC 8092). Written `65011:1:2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// The AS whose meaning it has: the global administrator.
    pub asn: u32,
    /// Local data part 1.
    pub function: u32,
    /// Local data part 2.
    pub parameter: u32,
}

impl FromStr for LargeCommunity {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.split(':').map(digits);
        match [numbers.next(), numbers.next(), numbers.next(), numbers.next()] {
            [Some(Some(asn)), Some(Some(function)), Some(Some(parameter)), None] => {
                Ok(Self { asn, function, parameter })
            }
            _ => Err(CommunityError::Large),
        }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.asn, self.function, self.parameter)
    }
}

/// A number in decimal digits alone, without the sign that `str::parse` admits.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_as_they_are_written() {
        for text in ["65011:100", "0:0", "65535:65535", "no-export", "no-peer", "blackhole"] {
            let community: Community = text.parse().unwrap();
            assert_eq!(community.to_string(), text);
        }
        assert_eq!("65535:0".parse(), Ok(Community::GRACEFUL_SHUTDOWN));
        for text in ["", "65011", "65536:1", "1:65536", "1:2:3", "+1:2", "1:-2", " 1:2", "export"] {
            assert_eq!(text.parse::<Community>(), Err(CommunityError::Community), "{text:?}");
        }
    }

    #[test]
    fn large_communities_are_read_as_they_are_written() {
        for text in ["65011:1:2", "4294967295:0:4294967295"] {
            let community: LargeCommunity = text.parse().unwrap();
            assert_eq!(community.to_string(), text);
        }
        for text in ["", "1:2", "1:2:3:4", "4294967296:1:1", "1::2", "+1:1:1", "no-export"] {
            assert_eq!(text.parse::<LargeCommunity>(), Err(CommunityError::Large), "{text:?}");
        }
    }
}
