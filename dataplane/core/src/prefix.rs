//! Address prefixes: what a VIP is written as, a single address included.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// A network: an address whose bits beyond the first `len` are zero. A single address is a prefix
/// of full length, 32 or 128.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    network: IpAddr,
    len: u8,
}

/// Why something is no [`Prefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// The address cannot be read.
    #[error("not an IPv4 or IPv6 address")]
    Address,
    /// The length is not a number, or above what the family has.
    #[error("not a prefix length, which is 0 to 32 for IPv4 and 0 to 128 for IPv6")]
    Len,
    /// The address has bits beyond the length: it is an address in a network, not a network.
    #[error("an address within the network {0}, not the network itself")]
    HostBits(Prefix),
}

impl Prefix {
    /// The network `network`/`len`.
    ///
    /// # Errors
    /// [`PrefixError::Len`] above 32 or 128; [`PrefixError::HostBits`] if `network` has a bit set
    /// beyond the first `len`.
    pub fn new(network: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let prefix = Self::of(network, len)?;
        if prefix.network == network { Ok(prefix) } else { Err(PrefixError::HostBits(prefix)) }
    }

    /// The network of length `len` that `address` lies in.
    ///
    /// # Errors
    /// [`PrefixError::Len`] above 32 or 128.
    pub fn of(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        if len > max_len(address) {
            return Err(PrefixError::Len);
        }
        let network = match address {
            IpAddr::V4(address) => {
                Ipv4Addr::from_bits(address.to_bits() & !host_bits_v4(len)).into()
            }
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & !host_bits_v6(len)).into()
            }
        };
        Ok(Self { network, len })
    }

    /// The network's address: its first.
    pub const fn network(self) -> IpAddr {
        self.network
    }

    /// The prefix length, in bits.
    pub const fn prefix_len(self) -> u8 {
        self.len
    }

    /// Whether this is a single address.
    pub const fn is_address(self) -> bool {
        self.len == max_len(self.network)
    }

    /// The network's last address: of a single address, itself.
    pub const fn last(self) -> IpAddr {
        match self.network {
            IpAddr::V4(first) => {
                IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | host_bits_v4(self.len)))
            }
            IpAddr::V6(first) => {
                IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | host_bits_v6(self.len)))
            }
        }
    }

    /// Whether `address` lies in the network. The families never mix.
    pub fn contains(self, address: IpAddr) -> bool {
        // In their order, all IPv4 addresses are before all IPv6 addresses.
        self.network <= address && address <= self.last()
    }

    /// Whether the two networks have an address in common: then one lies in the other.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

const fn max_len(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The bits beyond the first `len`, which is at most 32.
const fn host_bits_v4(len: u8) -> u32 {
    match u32::MAX.checked_shr(len as u32) {
        Some(bits) => bits,
        None => 0,
    }
}

/// The bits beyond the first `len`, which is at most 128.
const fn host_bits_v6(len: u8) -> u128 {
    match u128::MAX.checked_shr(len as u32) {
        Some(bits) => bits,
        None => 0,
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self { network: address, len: max_len(address) }
    }
}

impl From<Ipv4Addr> for Prefix {
    fn from(address: Ipv4Addr) -> Self {
        IpAddr::V4(address).into()
    }
}

impl From<Ipv6Addr> for Prefix {
    fn from(address: Ipv6Addr) -> Self {
        IpAddr::V6(address).into()
    }
}

/// Reads `ADDRESS` or `NETWORK/LEN`.
impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (network, len) = match text.split_once('/') {
            Some((network, len)) => (network, Some(len)),
            None => (text, None),
        };
        let network: IpAddr = network.parse().map_err(|_| PrefixError::Address)?;
        match len {
            Some(len) => Self::new(network, len.parse().map_err(|_| PrefixError::Len)?),
            None => Ok(network.into()),
        }
    }
}

/// Writes a single address without its length.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_address() {
            true => self.network.fmt(f),
            false => write!(f, "{}/{}", self.network, self.len),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_is_written_as_it_was_read() {
        for text in
            ["0.0.0.0/0", "198.51.100.0/24", "192.0.2.53", "::/0", "2001:db8:53::/64", "::1"]
        {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("192.0.2.53/32"), prefix("192.0.2.53"));
        assert_eq!(prefix("::1/128"), Prefix::from(Ipv6Addr::LOCALHOST));
    }

    #[test]
    fn what_is_no_network_is_refused_with_its_reason() {
        let error = |text: &str| text.parse::<Prefix>().unwrap_err();
        assert_eq!(error("198.51.100/24"), PrefixError::Address);
        assert_eq!(error("198.51.100.0/33"), PrefixError::Len);
        assert_eq!(error("2001:db8::/129"), PrefixError::Len);
        assert_eq!(error("198.51.100.0/"), PrefixError::Len);
        assert_eq!(error("198.51.100.7/24"), PrefixError::HostBits(prefix("198.51.100.0/24")));
        assert_eq!(error("2001:db8::1/64"), PrefixError::HostBits(prefix("2001:db8::/64")));
    }

    #[test]
    fn a_prefix_holds_its_first_to_its_last_address() {
        let contains =
            |network: &str, address: &str| prefix(network).contains(address.parse().unwrap());
        for (network, first, last, before, behind) in [
            ("198.51.100.0/24", "198.51.100.0", "198.51.100.255", "198.51.99.255", "198.51.101.0"),
            ("192.0.2.53", "192.0.2.53", "192.0.2.53", "192.0.2.52", "192.0.2.54"),
            ("2001:db8::/127", "2001:db8::", "2001:db8::1", "2001:db7::", "2001:db8::2"),
        ] {
            assert!(contains(network, first) && contains(network, last), "{network}");
            assert!(!contains(network, before) && !contains(network, behind), "{network}");
        }
        assert!(contains("0.0.0.0/0", "255.255.255.255") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::ffff:1.2.3.4") && !contains("::/0", "1.2.3.4"));
    }

    #[test]
    fn networks_overlap_when_one_lies_in_the_other() {
        assert!(prefix("10.0.0.0/8").overlaps(prefix("10.1.2.3")));
        assert!(prefix("10.1.2.3").overlaps(prefix("10.0.0.0/8")));
        assert!(!prefix("10.0.0.0/9").overlaps(prefix("10.128.0.0/9")));
        assert!(!prefix("0.0.0.0/0").overlaps(prefix("::/0")));
    }
}
