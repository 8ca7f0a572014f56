//! The cluster's hash of client addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use siphasher::sip::SipHasher13;

use crate::processor::Lanewise;

/// What of a client goes into its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashInput {
    /// The address: all flows of a client, and all fragments of a datagram, share a bucket.
    Address,
    /// The address and the client's port: spreads clients behind one address.
    AddressAndPort,
}

/// The hash of client addresses: SipHash-1-3 under the cluster's key, so that nobody outside can
/// choose addresses that all fall to one node.
///
/// Hashed are the address in network byte order, 4 or 16 bytes, and with
/// [`HashInput::AddressAndPort`] the port behind it, 2 bytes in network byte order. The four
/// lengths that there are go into SipHash's last block, so the families never meet.
///
/// The rounds are written out for these four lengths: what they are is known when compiling, and there
/// is nothing to count and no buffer to fill. A test holds them against the `siphasher` crate.
#[derive(Clone, Copy)]
pub struct ClientHash {
    /// The state after the key and before the first word.
    keyed: State,
    /// The same, for input of any length.
    any_len: SipHasher13,
    /// What goes into the hash.
    input: HashInput,
    /// All ones where the port does, else zero.
    port_mask: u64,
    /// The length of all that is hashed of a client of either family, where the last word has it.
    len4: u64,
    len6: u64,
}

impl ClientHash {
    /// The hash under `key`, the same on all nodes.
    pub fn new(key: [u8; 16], input: HashInput) -> Self {
        let (port_mask, port_len) = match input {
            HashInput::Address => (0, 0),
            HashInput::AddressAndPort => (u64::MAX, 2),
        };
        let (len4, len6) = ((4 + port_len) << 56, (16 + port_len) << 56);
        let any_len = SipHasher13::new_with_key(&key);
        Self { keyed: State::new(&key), any_len, input, port_mask, len4, len6 }
    }

    /// What goes into the hash.
    pub fn input(&self) -> HashInput {
        self.input
    }

    /// A digest of a whole packet, by which a second copy of it is known. Not for every packet: it
    /// reads all of it.
    pub fn digest(&self, packet: &[u8]) -> u64 {
        self.any_len.hash(packet)
    }

    /// The hash of a client. `port` is taken into account only with
    /// [`HashInput::AddressAndPort`]; a packet without ports passes 0.
    #[inline(always)]
    pub fn hash(&self, client: IpAddr, port: u16) -> u64 {
        match client {
            IpAddr::V4(client) => self.hash_words(self.words_v4(client, port)),
            IpAddr::V6(client) => self.hash_words(self.words_v6(client, port)),
        }
    }

    /// The words that SipHash reads of an IPv4 client. They are little-endian, and the last one has the
    /// length in its highest byte.
    #[inline(always)]
    pub fn words_v4(&self, client: Ipv4Addr, port: u16) -> [u64; 1] {
        let address = u32::from_le_bytes(client.octets());
        self.words_v4_le(address.into(), port.swap_bytes().into())
    }

    /// The same of address and port as their bytes lie in a packet, read as little-endian numbers.
    #[inline(always)]
    pub(crate) fn words_v4_le(&self, address: u64, port: u64) -> [u64; 1] {
        [self.len4 | (port & self.port_mask) << 32 | address]
    }

    /// The same of an IPv6 client.
    #[inline(always)]
    pub fn words_v6(&self, client: Ipv6Addr, port: u16) -> [u64; 3] {
        let address = u128::from_le_bytes(client.octets());
        self.words_v6_le([address as u64, (address >> 64) as u64], port.swap_bytes().into())
    }

    /// The same of address and port as their bytes lie in a packet, read as little-endian numbers.
    #[inline(always)]
    pub(crate) fn words_v6_le(&self, [first, second]: [u64; 2], port: u64) -> [u64; 3] {
        [first, second, self.len6 | (port & self.port_mask)]
    }

    /// The hash of a client of these words.
    #[inline(always)]
    pub(crate) fn hash_words<const WORDS: usize>(&self, words: [u64; WORDS]) -> u64 {
        words.into_iter().fold(self.keyed, State::with).finish()
    }
}

/// Clients whose hashes are computed side by side: the words of each in a column.
///
/// One hash is a chain of additions, rotations and exclusive ors, each of which waits for the one before.
/// Vectors of the processor's have room for four or eight chains, which take as long as one.
#[derive(Clone, Copy, Debug)]
pub struct Lanes<const WORDS: usize> {
    words: [[u64; LANES]; WORDS],
    hashes: [u64; LANES],
    len: usize,
}

/// How many clients there are room for, and what of the room is worked on at once: twice the longest
/// vectors, of 512 bits.
pub const LANES: usize = 16;
const STEP: usize = 8;

impl<const WORDS: usize> Lanes<WORDS> {
    /// No client yet.
    pub const NONE: Self = Self { words: [[0; LANES]; WORDS], hashes: [0; LANES], len: 0 };

    /// Forgets all clients.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes the next client's words. Returns its place.
    ///
    /// # Panics
    /// If there are [`LANES`] already.
    #[inline(always)]
    pub fn push(&mut self, words: [u64; WORDS]) -> usize {
        let at = self.len;
        for (lane, word) in self.words.iter_mut().zip(words) {
            lane[at] = word;
        }
        self.len = at + 1;
        at
    }

    /// How many clients there are.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The clients' hashes, once they have been computed.
    #[inline(always)]
    pub fn hashes(&self) -> &[u64] {
        &self.hashes[..self.len]
    }

    /// Computes the hashes, several at once.
    #[inline(always)]
    fn hash_together(&mut self, hash: &ClientHash) {
        // What is beyond the last client is hashed for nothing, which is quicker than not to.
        for start in (0..self.len).step_by(STEP) {
            let step = |lane: &[u64; LANES]| -> [u64; STEP] {
                *lane[start..].first_chunk().expect("whole steps")
            };
            let words: [[u64; STEP]; WORDS] = std::array::from_fn(|n| step(&self.words[n]));
            let hashes: &mut [u64; STEP] =
                self.hashes[start..].first_chunk_mut().expect("whole steps");
            for (lane, into) in hashes.iter_mut().enumerate() {
                *into = hash.hash_words::<WORDS>(std::array::from_fn(|n| words[n][lane]));
            }
        }
    }

    /// Computes the hashes, one after the other.
    #[inline]
    fn hash_each(&mut self, hash: &ClientHash) {
        for lane in 0..self.len {
            self.hashes[lane] =
                hash.hash_words::<WORDS>(std::array::from_fn(|n| self.words[n][lane]));
        }
    }
}

const _: () = assert!(LANES.is_multiple_of(STEP));

/// Has the hashes of clients computed.
#[derive(Debug)]
pub struct Hashing<'a, const WORDS: usize> {
    /// The clients, and where their hashes go.
    pub clients: &'a mut Lanes<WORDS>,
    /// The hash.
    pub hash: &'a ClientHash,
}

impl<const WORDS: usize> Lanewise for Hashing<'_, WORDS> {
    #[inline(always)]
    fn work(self) {
        self.clients.hash_together(self.hash);
    }

    #[inline(always)]
    fn work_each(self) {
        self.clients.hash_each(self.hash);
    }
}

/// The state of SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012, section 2):
/// one round for a word, three at the end.
#[derive(Clone, Copy)]
struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    fn new(key: &[u8; 16]) -> Self {
        let key = u128::from_le_bytes(*key);
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        // "somepseudorandomlygeneratedbytes", as the paper has it.
        Self {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    fn with(mut self, word: u64) -> Self {
        self.v3 ^= word;
        self = self.round();
        self.v0 ^= word;
        self
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        let Self { v0, v1, v2, v3 } = self.round().round().round();
        v0 ^ v1 ^ v2 ^ v3
    }

    #[inline(always)]
    fn round(self) -> Self {
        let Self { mut v0, mut v1, mut v2, mut v3 } = self;
        v0 = v0.wrapping_add(v1);
        v2 = v2.wrapping_add(v3);
        v1 = v1.rotate_left(13) ^ v0;
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v1);
        v0 = v0.wrapping_add(v3);
        v1 = v1.rotate_left(17) ^ v2;
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.rotate_left(32);
        Self { v0, v1, v2, v3 }
    }
}

impl fmt::Debug for ClientHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the state, which is as good as the cluster's key.
        f.debug_struct("ClientHash").field("input", &self.input).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    use crate::bucket::{BUCKETS, Bucket};

    const KEY: [u8; 16] = *b"a cluster's key!";

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    fn v6(n: u128) -> IpAddr {
        Ipv6Addr::from_bits(n).into()
    }

    /// The values that every node of every version must agree on, or two of them serve one client.
    /// They were computed by another implementation of SipHash-1-3.
    #[test]
    fn the_hash_of_a_client_never_changes() {
        let address = ClientHash::new(KEY, HashInput::Address);
        let with_port = ClientHash::new(KEY, HashInput::AddressAndPort);
        let v4 = "198.51.100.7".parse().unwrap();
        let v6 = "2001:db8::7".parse().unwrap();
        assert_eq!(address.hash(v4, 5353), 0x85b3_2080_6e26_99ff);
        assert_eq!(address.hash(v6, 5353), 0xad84_351a_e639_134b);
        assert_eq!(with_port.hash(v4, 5353), 0xb3e1_8551_6c49_b33b);
        assert_eq!(with_port.hash(v6, 5353), 0xdabe_43be_9af2_3741);
    }

    #[test]
    fn all_that_goes_in_matters_and_nothing_else() {
        let address = ClientHash::new(KEY, HashInput::Address);
        let with_port = ClientHash::new(KEY, HashInput::AddressAndPort);
        let other_key = ClientHash::new([0; 16], HashInput::Address);
        let hashes = [
            address.hash(v4(0x0a00_0001), 1),
            address.hash(v4(0x0a00_0002), 1),
            // The same bytes as the IPv4 address, and zeros.
            address.hash(v6(0x0a00_0001), 1),
            address.hash(v6(0x0a00_0001 << 96), 1),
            with_port.hash(v4(0x0a00_0001), 1),
            with_port.hash(v4(0x0a00_0001), 2),
            with_port.hash(v6(0x0a00_0001), 1),
            with_port.hash(v6(0x0a00_0001), 2),
            other_key.hash(v4(0x0a00_0001), 1),
        ];
        assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), hashes.len());
        assert_eq!(address.hash(v4(0x0a00_0001), 2), hashes[0]);
    }

    proptest! {
        /// Against the crate, which is tested with the vectors of the paper's authors.
        #[test]
        fn the_rounds_written_out_are_siphash(
            key: [u8; 16],
            address4: [u8; 4],
            address6: [u8; 16],
            port: u16,
        ) {
            let reference = SipHasher13::new_with_key(&key);
            let address = ClientHash::new(key, HashInput::Address);
            let with_port = ClientHash::new(key, HashInput::AddressAndPort);
            let behind = |address: &[u8]| [address, &port.to_be_bytes()].concat();
            for (client, bytes) in
                [(IpAddr::from(address4), &address4[..]), (IpAddr::from(address6), &address6[..])]
            {
                prop_assert_eq!(address.hash(client, port), reference.hash(bytes));
                prop_assert_eq!(with_port.hash(client, port), reference.hash(&behind(bytes)));
            }
        }
    }

    proptest! {
        #[test]
        fn clients_side_by_side_have_the_hashes_that_they_have_alone(
            key: [u8; 16],
            with_port: bool,
            clients in prop::collection::vec((any::<u32>(), any::<u128>(), any::<u16>()), 0..=LANES),
        ) {
            let input = if with_port { HashInput::AddressAndPort } else { HashInput::Address };
            let hash = ClientHash::new(key, input);
            let (mut lanes4, mut lanes6) = (Lanes::NONE, Lanes::NONE);
            for &(a, b, port) in &clients {
                lanes4.push(hash.words_v4(a.into(), port));
                lanes6.push(hash.words_v6(b.into(), port));
            }
            let of = |client: fn(&(u32, u128, u16)) -> IpAddr| -> Vec<u64> {
                clients.iter().map(|all| hash.hash(client(all), all.2)).collect()
            };
            let (v4, v6) = (of(|all| v4(all.0)), of(|all| v6(all.1)));
            for together in [true, false] {
                if together {
                    lanes4.hash_together(&hash);
                    lanes6.hash_together(&hash);
                } else {
                    lanes4.hash_each(&hash);
                    lanes6.hash_each(&hash);
                }
                prop_assert_eq!(lanes4.hashes(), &v4);
                prop_assert_eq!(lanes6.hashes(), &v6);
            }
        }
    }

    /// How far the buckets of `clients` are from even, in standard deviations of the chi-square
    /// distribution.
    fn unevenness(hash: &ClientHash, clients: impl Iterator<Item = (IpAddr, u16)>) -> f64 {
        let mut counts = vec![0_u32; BUCKETS];
        let mut all = 0.0;
        for (client, port) in clients {
            counts[Bucket::of_hash(hash.hash(client, port)).index()] += 1;
            all += 1.0;
        }
        let expected = all / BUCKETS as f64;
        let chi: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        let freedom = (BUCKETS - 1) as f64;
        (chi - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn neighbouring_clients_spread_evenly_over_the_buckets() {
        let address = ClientHash::new(KEY, HashInput::Address);
        let with_port = ClientHash::new(KEY, HashInput::AddressAndPort);
        let range = 0..1_u32 << 18;
        let by_v4 = unevenness(&address, range.clone().map(|n| (v4(0x0a40_0000 + n), 0)));
        let by_v6 =
            unevenness(&address, range.clone().map(|n| (v6(0xfd64 << 112 | u128::from(n)), 0)));
        let by_net =
            unevenness(&address, range.map(|n| (v6(0xfd64 << 112 | u128::from(n) << 64), 0)));
        let by_port = unevenness(&with_port, (0..=u16::MAX).map(|port| (v4(0x0a40_0001), port)));
        for unevenness in [by_v4, by_v6, by_net, by_port] {
            assert!(unevenness.abs() < 5.0, "{by_v4}, {by_v6}, {by_net}, {by_port}");
        }
    }
}
