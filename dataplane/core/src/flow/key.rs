//! What the table knows a flow by.

use std::net::IpAddr;

use super::entry::FINGERPRINT_SHIFT;

/// A flow's place and name in the table: 31 bits choose the cache line, the 33 above are the
/// fingerprint that tells it from other flows of that line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey(u64);

/// Marks a key of fragments, so that none is ever computed from a flow's input.
const FRAGMENT: u64 = 1 << 63;

/// Odd constants with no structure, the fraction of pi (the digits that Blowfish starts from): they
/// keep a weak secret, such as a test's zero, from making a factor zero.
const PI: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

/// Turns packets into keys, under a secret that is drawn for each table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyer {
    /// Hides the client hash, which all nodes of the cluster compute alike.
    client: u64,
    /// Hides the ports, the protocol and the fragment identification.
    ports: u64,
    /// Hides the VIP.
    vip: u64,
}

impl Keyer {
    pub(super) fn new(secret: [u64; 2]) -> Self {
        let [first, second] = secret;
        Self {
            client: first ^ PI[0],
            ports: second ^ PI[1],
            vip: fold(first ^ PI[2], second ^ PI[0]) | 1,
        }
    }

    /// The key of what `client_hash`, `vip` and `discriminator` describe.
    ///
    /// Two multiplications. Each 64 x 64 -> 128 bit product is folded onto itself, so that every bit
    /// of the input reaches every bit of the key: the construction of wyhash. That the client
    /// cannot be guessed from the key or the other way round rests on the SipHash that made
    /// `client_hash`; here the secret keeps flows of one client from being aimed at one line.
    #[inline(always)]
    fn key(&self, client_hash: u64, vip: IpAddr, discriminator: u64) -> FlowKey {
        let vip = match vip {
            // As ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2), which no VIP is.
            IpAddr::V4(vip) => 0xffff << 32 | u128::from(vip.to_bits()),
            IpAddr::V6(vip) => vip.to_bits(),
        };
        let flow = fold(client_hash ^ self.client, discriminator ^ self.ports);
        FlowKey::of_hash(fold(flow ^ (vip >> 64) as u64, vip as u64 ^ self.vip))
    }

    #[inline(always)]
    pub(super) fn flow(
        &self,
        client_hash: u64,
        client_port: u16,
        vip: IpAddr,
        vip_port: u16,
        protocol: u8,
    ) -> FlowKey {
        let discriminator =
            u64::from(protocol) << 32 | u64::from(client_port) << 16 | u64::from(vip_port);
        self.key(client_hash, vip, discriminator)
    }

    #[inline]
    pub(super) fn fragments(
        &self,
        client_hash: u64,
        vip: IpAddr,
        protocol: u8,
        id: u32,
    ) -> FlowKey {
        self.key(client_hash, vip, FRAGMENT | u64::from(protocol) << 32 | u64::from(id))
    }
}

impl FlowKey {
    /// No flow's key: its fingerprint is that of no entry.
    pub(crate) const NONE: Self = Self(0);

    /// The key that a uniformly distributed `hash` stands for. A fingerprint of zero becomes one, so
    /// that a key never looks like a free word.
    #[inline]
    pub(super) const fn of_hash(hash: u64) -> Self {
        let unnamed = hash >> FINGERPRINT_SHIFT == 0;
        Self(hash | (unnamed as u64) << FINGERPRINT_SHIFT)
    }

    /// All of it.
    #[inline]
    pub(super) const fn word(self) -> u64 {
        self.0
    }

    /// The fingerprint, in the place where an entry has it; the bits below are zero.
    #[inline]
    pub(super) const fn fingerprint(self) -> u64 {
        self.0 >> FINGERPRINT_SHIFT << FINGERPRINT_SHIFT
    }

    /// The line, of `lines` many, a power of two and at most 2^31.
    #[inline]
    pub(super) const fn line(self, lines: usize) -> usize {
        self.0 as usize & (lines - 1)
    }

    /// Where in the line an insert starts to look for a place, of `ways` many, a power of two.
    /// Without it the flows of a flood that are equally old would all displace the same entry.
    #[inline]
    pub(super) const fn first_way(self, ways: usize) -> usize {
        (self.0 >> FINGERPRINT_SHIFT) as usize & (ways - 1)
    }
}

/// The two halves of the product, one on the other.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53));

    fn keyer() -> Keyer {
        Keyer::new([7, 11])
    }

    #[test]
    fn everything_that_tells_flows_apart_tells_keys_apart() {
        let next = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 54));
        // 192.0.2.53 in the low 32 bits, and otherwise zero.
        let compatible = IpAddr::V6(Ipv6Addr::from_bits(0xc000_0235));
        let high = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb9, 0x53, 0, 0, 0, 0, 0x53));
        let keyer = keyer();
        let keys = [
            keyer.flow(1, 2, V4, 3, 6),
            keyer.flow(2, 2, V4, 3, 6),
            keyer.flow(1, 3, V4, 3, 6),
            keyer.flow(1, 2, next, 3, 6),
            keyer.flow(1, 2, V6, 3, 6),
            keyer.flow(1, 2, high, 3, 6),
            keyer.flow(1, 2, compatible, 3, 6),
            keyer.flow(1, 2, V4, 4, 6),
            keyer.flow(1, 2, V4, 3, 17),
            keyer.flow(1, 3, V4, 2, 6),
            keyer.fragments(1, V4, 6, 2 << 16 | 3),
            keyer.fragments(1, V4, 17, 2 << 16 | 3),
            keyer.fragments(1, V6, 17, 2 << 16 | 3),
            keyer.fragments(1, V4, 17, u32::MAX),
            Keyer::new([8, 11]).flow(1, 2, V4, 3, 6),
            Keyer::new([7, 12]).flow(1, 2, V4, 3, 6),
            Keyer::new([0, 0]).flow(1, 2, V4, 3, 6),
        ];
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        assert_eq!(keyer.flow(1, 2, V4, 3, 6), keys[0]);
    }

    /// Fills `cells` with counts and returns how far they are from even, in standard deviations of
    /// the chi-square distribution.
    fn unevenness(cells: usize, falls: impl Iterator<Item = usize>) -> f64 {
        let mut counts = vec![0_u32; cells];
        let mut all = 0.0;
        for cell in falls {
            counts[cell] += 1;
            all += 1.0;
        }
        let expected = all / cells as f64;
        let chi: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        let freedom = (cells - 1) as f64;
        (chi - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn ports_alone_spread_one_client_over_lines_and_fingerprints() {
        for vip in [V4, V6] {
            let keys = || (0..=u16::MAX).map(|port| keyer().flow(0x1234, port, vip, 443, 6));
            let by_line = unevenness(1 << 12, keys().map(|key| key.line(1 << 12)));
            assert!(by_line.abs() < 5.0, "lines: {by_line}");
            let by_way = unevenness(8, keys().map(|key| key.first_way(8)));
            assert!(by_way.abs() < 5.0, "ways: {by_way}");
            let top = |key: FlowKey| (key.fingerprint() >> 52) as usize;
            let by_fingerprint = unevenness(1 << 12, keys().map(top));
            assert!(by_fingerprint.abs() < 5.0, "fingerprints: {by_fingerprint}");
            assert_eq!(keys().collect::<HashSet<_>>().len(), 1 << 16);
        }
    }

    #[test]
    fn no_key_looks_like_a_free_word() {
        assert_ne!(FlowKey::of_hash(0).fingerprint(), 0);
        assert_eq!(FlowKey::of_hash(5).line(8), 5);
        assert_eq!(FlowKey::of_hash(1 << 31 | 5).fingerprint(), 1 << 31);
    }
}
