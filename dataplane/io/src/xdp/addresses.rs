//! The addresses that the XDP program knows, in its maps.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData};
use vipdp_core::prefix::Prefix;
use vipdp_core::tiered::Tiered;

use super::{XdpError, in_map};

/// How many prefixes of one family the program takes as VIPs, a single address being one: the size
/// of its maps `vips_v4`, `vips_v6`.
pub const VIPS_MAX: usize = 256;

/// The addresses that a router sends VIP packets by in tiered mode: `count` of each family that
/// has any, each above the one before it. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// The first IPv4 one.
    pub first4: Option<Ipv4Addr>,
    /// The first IPv6 one.
    pub first6: Option<Ipv6Addr>,
    /// How many there are of each family.
    pub count: u16,
}

impl From<&Tiered> for NextHops {
    fn from(tiered: &Tiered) -> Self {
        Self { first4: tiered.first4, first6: tiered.first6, count: tiered.count }
    }
}

impl NextHops {
    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let number = match address {
            IpAddr::V4(address) => self.first4.map(|first| {
                u128::from(address.to_bits()).wrapping_sub(u128::from(first.to_bits()))
            }),
            IpAddr::V6(address) => {
                self.first6.map(|first| address.to_bits().wrapping_sub(first.to_bits()))
            }
        };
        number.is_some_and(|number| number < u128::from(self.count))
    }

    /// The value of the program's map.
    ///
    /// # Errors
    /// [`XdpError::NextHops`] when the last one is not of the family, or an IPv6 one has other
    /// upper 64 bits than the first, which the program compares as a whole.
    fn value(&self) -> Result<Value, XdpError> {
        let refused = |first: IpAddr| XdpError::NextHops { first, count: self.count };
        let above = self.count.saturating_sub(1);
        let mut value = Value::default();
        if let Some(first) = self.first4 {
            let number = first.to_bits();
            number.checked_add(above.into()).ok_or_else(|| refused(first.into()))?;
            (value.first_v4, value.count_v4) = (number, self.count.into());
        }
        if let Some(first) = self.first6 {
            let number = first.to_bits();
            let lower = number as u64;
            lower.checked_add(above.into()).ok_or_else(|| refused(first.into()))?;
            (value.first_v6_upper, value.first_v6_lower) = ((number >> 64) as u64, lower);
            value.count_v6 = self.count.into();
        }
        Ok(value)
    }
}

/// `struct next_hops` of `bpf/vipdp.bpf.c`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Value {
    first_v6_upper: u64,
    first_v6_lower: u64,
    first_v4: u32,
    count_v4: u32,
    count_v6: u32,
    unused: u32,
}

// SAFETY: integers without padding between or behind them, laid out as in C.
unsafe impl aya::Pod for Value {}

/// Where other members' tunnels come to: this node's own addresses, and a UDP port. The default is
/// nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelEnd {
    /// The IPv4 address.
    pub address4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// The UDP port.
    pub port: u16,
}

impl TunnelEnd {
    /// The end at one address.
    pub const fn new(address: IpAddr, port: u16) -> Self {
        match address {
            IpAddr::V4(address) => Self { address4: Some(address), address6: None, port },
            IpAddr::V6(address) => Self { address4: None, address6: Some(address), port },
        }
    }

    const fn value(&self) -> TunnelValue {
        let none = TunnelValue { v6: [0; 16], v4: [0; 4], port: [0; 2], has_v4: 0, has_v6: 0 };
        let mut value = TunnelValue { port: self.port.to_be_bytes(), ..none };
        if let Some(address) = self.address4 {
            (value.v4, value.has_v4) = (address.octets(), 1);
        }
        if let Some(address) = self.address6 {
            (value.v6, value.has_v6) = (address.octets(), 1);
        }
        value
    }
}

/// `struct tunnel_end` of `bpf/vipdp.bpf.c`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct TunnelValue {
    v6: [u8; 16],
    v4: [u8; 4],
    port: [u8; 2],
    has_v4: u8,
    has_v6: u8,
}

// SAFETY: bytes without padding between or behind them, laid out as in C, whose length is a multiple
// of its alignment there.
unsafe impl aya::Pod for TunnelValue {}

const _: () = assert!(size_of::<TunnelValue>() == 24, "the size of the C structure");

/// The map `tunnels`.
pub(super) struct TunnelsMap(pub(super) Array<MapData, TunnelValue>);

impl TunnelsMap {
    pub(super) fn set(&mut self, end: &TunnelEnd) -> Result<(), XdpError> {
        in_map("tunnels", self.0.set(0, end.value(), 0))
    }
}

/// The map `next_hops`.
pub(super) struct NextHopsMap(pub(super) Array<MapData, Value>);

impl NextHopsMap {
    pub(super) fn set(&mut self, next_hops: &NextHops) -> Result<(), XdpError> {
        in_map("next_hops", self.0.set(0, next_hops.value()?, 0))
    }
}

/// How many single addresses of one family the program compares before it looks into its tries.
const HOSTS_MAX: usize = 4;

/// `struct hosts` of `bpf/vipdp.bpf.c`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct HostsValue {
    v6: [[u8; 16]; HOSTS_MAX],
    v4: [[u8; 4]; HOSTS_MAX],
    count_v6: u16,
    count_v4: u16,
    has_more_v6: u16,
    has_more_v4: u16,
}

// SAFETY: bytes and integers without padding between or behind them, laid out as in C.
unsafe impl aya::Pod for HostsValue {}

const _: () = assert!(size_of::<HostsValue>() == 88, "the size of the C structure");

impl HostsValue {
    /// The first single addresses of each family, and whether there is anything else.
    fn new(vips: &HashSet<Prefix>) -> Self {
        let mut value = Self::default();
        for prefix in vips {
            match prefix.network() {
                IpAddr::V4(address)
                    if prefix.prefix_len() == 32 && value.count_v4() < HOSTS_MAX =>
                {
                    value.v4[value.count_v4()] = address.octets();
                    value.count_v4 += 1;
                }
                IpAddr::V6(address)
                    if prefix.prefix_len() == 128 && value.count_v6() < HOSTS_MAX =>
                {
                    value.v6[value.count_v6()] = address.octets();
                    value.count_v6 += 1;
                }
                IpAddr::V4(_) => value.has_more_v4 = 1,
                IpAddr::V6(_) => value.has_more_v6 = 1,
            }
        }
        value
    }

    fn count_v4(&self) -> usize {
        self.count_v4.into()
    }

    fn count_v6(&self) -> usize {
        self.count_v6.into()
    }

    /// All to be looked for in the tries.
    const fn none(self) -> Self {
        Self { count_v6: 0, count_v4: 0, has_more_v6: 1, has_more_v4: 1, ..self }
    }
}

/// The maps `vips_v4` and `vips_v6`, and the variable `hosts`.
pub(super) struct Vips {
    v4: LpmTrie<MapData, [u8; 4], u8>,
    v6: LpmTrie<MapData, [u8; 16], u8>,
    hosts: Array<MapData, HostsValue>,
    /// What is in the two now.
    now: HashSet<Prefix>,
}

impl Vips {
    /// Empty maps.
    pub(super) fn new(
        v4: LpmTrie<MapData, [u8; 4], u8>,
        v6: LpmTrie<MapData, [u8; 16], u8>,
        hosts: Array<MapData, HostsValue>,
    ) -> Self {
        Self { v4, v6, hosts, now: HashSet::new() }
    }

    /// What is in the maps.
    pub(super) fn now(&self) -> &HashSet<Prefix> {
        &self.now
    }

    pub(super) fn set(&mut self, vips: &[Prefix]) -> Result<(), XdpError> {
        let wanted: HashSet<Prefix> = vips.iter().copied().collect();
        for of_family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            let count = wanted.iter().filter(|prefix| of_family(&prefix.network())).count();
            if count > VIPS_MAX {
                return Err(XdpError::TooManyVips { count });
            }
        }
        // Until the tries are as they are to be, they alone are asked; and nobody compares an address
        // that is being written.
        let before = HostsValue::new(&self.now);
        let after = HostsValue::new(&wanted);
        self.set_hosts(before.none())?;
        // First out, then in: together they might not fit.
        let gone: Vec<Prefix> = self.now.difference(&wanted).copied().collect();
        for prefix in gone {
            self.remove(prefix)?;
        }
        let new: Vec<Prefix> = wanted.difference(&self.now).copied().collect();
        for prefix in new {
            self.insert(prefix)?;
        }
        self.set_hosts(after.none())?;
        self.set_hosts(after)
    }

    fn set_hosts(&mut self, hosts: HostsValue) -> Result<(), XdpError> {
        in_map("hosts", self.hosts.set(0, hosts, 0))
    }

    fn insert(&mut self, prefix: Prefix) -> Result<(), XdpError> {
        let length = prefix.prefix_len().into();
        match prefix.network() {
            IpAddr::V4(v4) => {
                in_map("vips_v4", self.v4.insert(&Key::new(length, v4.octets()), 0, 0))?;
            }
            IpAddr::V6(v6) => {
                in_map("vips_v6", self.v6.insert(&Key::new(length, v6.octets()), 0, 0))?;
            }
        }
        self.now.insert(prefix);
        Ok(())
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), XdpError> {
        let length = prefix.prefix_len().into();
        match prefix.network() {
            IpAddr::V4(v4) => in_map("vips_v4", self.v4.remove(&Key::new(length, v4.octets())))?,
            IpAddr::V6(v6) => in_map("vips_v6", self.v6.remove(&Key::new(length, v6.octets())))?,
        }
        self.now.remove(&prefix);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_hops(first4: &str, first6: &str, count: u16) -> NextHops {
        let (first4, first6) = (first4.parse().unwrap(), first6.parse().unwrap());
        NextHops { first4: Some(first4), first6: Some(first6), count }
    }

    #[test]
    fn next_hops_follow_the_first() {
        let hops = next_hops("10.0.0.250", "fd00::1:fffe", 30);
        let contains = |address: &str| hops.contains(address.parse().unwrap());
        for inside in ["10.0.0.250", "10.0.1.23", "fd00::1:fffe", "fd00::2:1b"] {
            assert!(contains(inside), "{inside}");
        }
        for outside in ["10.0.0.249", "10.0.1.24", "fd00::1:fffd", "fd00::2:1c", "::10.0.0.250"] {
            assert!(!contains(outside), "{outside}");
        }
        assert!(!NextHops { count: 0, ..hops }.contains("10.0.0.250".parse().unwrap()));
        assert!(!NextHops::default().contains("0.0.0.0".parse().unwrap()));
    }

    #[test]
    fn next_hops_that_the_program_cannot_compare_are_refused() {
        for (first4, first6, count, refused) in [
            ("255.255.255.254", "fd00::", 3, "255.255.255.254"),
            ("10.0.0.1", "fd00::ffff:ffff:ffff:fffe", 3, "fd00::ffff:ffff:ffff:fffe"),
        ] {
            let error = next_hops(first4, first6, count).value().unwrap_err();
            let refused: IpAddr = refused.parse().unwrap();
            assert!(matches!(error, XdpError::NextHops { first, .. } if first == refused));
            assert!(next_hops(first4, first6, 2).value().is_ok(), "{refused}");
        }
    }

    #[test]
    fn a_few_single_addresses_are_compared_and_the_rest_is_looked_up() {
        let hosts = |prefixes: &[&str]| {
            HostsValue::new(&prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect())
        };
        assert_eq!(hosts(&[]), HostsValue::default());
        let one = hosts(&["192.0.2.53", "2001:db8::53"]);
        assert_eq!((one.v4[0], one.count_v4, one.has_more_v4), ([192, 0, 2, 53], 1, 0));
        assert_eq!((one.v6[0][15], one.count_v6, one.has_more_v6), (0x53, 1, 0));
        let prefixes = hosts(&["192.0.2.0/31", "2001:db8::/127"]);
        assert_eq!(
            prefixes,
            HostsValue { has_more_v4: 1, has_more_v6: 1, ..HostsValue::default() }
        );
        let many = hosts(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "fd00::1"]);
        assert_eq!((many.count_v4, many.has_more_v4), (4, 1));
        assert_eq!((many.count_v6, many.has_more_v6), (1, 0));
    }
}
