//! The offload: what the XDP program decides by itself, in its maps.

use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use vipdp_core::bucket::BUCKETS;
use vipdp_core::hash::HashInput;
use vipdp_core::offload::OffloadTable;
use vipdp_core::snapshot::SharedMac;
use vipdp_core::wire::ethernet::{HEADER_LEN, MacAddr};

use super::{XdpError, in_map};

/// UDP ports in a word of the map `sticky`.
const PORTS_IN_WORD: u16 = 64;

/// What the program has to know to decide by itself, besides the table of buckets and the lease.
#[derive(Clone, Copy)]
pub struct OffloadFacts<'a> {
    /// The key of the client hash.
    pub hash_key: [u8; 16],
    /// What goes into the client hash.
    pub hash_input: HashInput,
    /// What the VIPs resolve to.
    pub shared: SharedMac,
    /// The NIC's own address.
    pub own_mac: MacAddr,
    /// UDP ports whose flows are tracked.
    pub sticky_udp_ports: &'a [u16],
    /// Largest IP packet that the host takes, in bytes.
    pub host_mtu: u16,
}

impl std::fmt::Debug for OffloadFacts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the key.
        f.debug_struct("OffloadFacts").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// `struct offload` of `bpf/offload.bpf.h`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct FactsValue {
    key: [u64; 2],
    frame_len_max: u32,
    shared_v4: [u8; 6],
    shared_v6: [u8; 6],
    own: [u8; 6],
    is_on: u8,
    hashes_port: u8,
}

const _: () = assert!(size_of::<FactsValue>() == 40, "the size of the C structure");

// SAFETY: integers and bytes without padding between or behind them: 16, 4 and 20 bytes are the 40
// that the structure is long.
unsafe impl aya::Pod for FactsValue {}

/// `struct ways` of `bpf/offload.bpf.h`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct WaysValue([u8; BUCKETS]);

// SAFETY: bytes.
unsafe impl aya::Pod for WaysValue {}

impl From<&OffloadFacts<'_>> for FactsValue {
    fn from(facts: &OffloadFacts<'_>) -> Self {
        let [low, high] = [0, 8].map(|at| facts.hash_key[at..].first_chunk().expect("16 bytes"));
        Self {
            key: [low, high].map(|word| u64::from_le_bytes(*word)),
            frame_len_max: u32::from(facts.host_mtu) + HEADER_LEN as u32,
            shared_v4: facts.shared.v4.0,
            shared_v6: facts.shared.v6.0,
            own: facts.own_mac.0,
            is_on: 1,
            hashes_port: (facts.hash_input == HashInput::AddressAndPort).into(),
        }
    }
}

/// The maps of the program that are the offload's. It is off until it is
/// [switched on](Self::switch_on), and does nothing until it has a lease.
pub struct Offload {
    pub(super) facts: Array<MapData, FactsValue>,
    pub(super) lease: PerCpuArray<MapData, u64>,
    pub(super) ways: Array<MapData, WaysValue>,
    pub(super) sticky: Array<MapData, u64>,
}

impl std::fmt::Debug for Offload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offload").finish_non_exhaustive()
    }
}

impl Offload {
    /// Tells the program what it has to know. Every bucket goes to user space at first. To be called once.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn switch_on(&mut self, facts: &OffloadFacts<'_>) -> Result<(), XdpError> {
        let mut words = vec![0_u64; self.sticky.len() as usize];
        for &port in facts.sticky_udp_ports {
            words[usize::from(port / PORTS_IN_WORD)] |= 1 << (port % PORTS_IN_WORD);
        }
        for (index, word) in (0..).zip(words).filter(|&(_, word)| word != 0) {
            in_map("sticky", self.sticky.set(index, word, 0))?;
        }
        in_map("offload", self.facts.set(0, FactsValue::from(facts), 0))
    }

    /// Lets the program decide by itself until `until_ns` (monotonic clock, nanoseconds).
    ///
    /// # Errors
    /// [`XdpError::Map`]; the lease before stands then.
    pub fn set_lease(&mut self, until_ns: u64) -> Result<(), XdpError> {
        let cpus = nr_cpus().map_err(|(_, error)| XdpError::Cpus(error))?;
        let values = PerCpuValues::try_from(vec![until_ns; cpus]).map_err(XdpError::Cpus)?;
        in_map("lease", self.lease.set(0, values, 0))
    }

    /// What the program does with each bucket now: what it was [told](Self::set_table), and what it
    /// reopened by itself since.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn table(&self) -> Result<OffloadTable, XdpError> {
        Ok(OffloadTable::from_bytes(in_map("ways", self.ways.get(&0, 0))?.0))
    }

    /// Tells the program what to do with each bucket. A packet of the moment finds its bucket's old way
    /// or the new one.
    ///
    /// # Errors
    /// [`XdpError::Map`]; the table before stands then.
    pub fn set_table(&mut self, table: &OffloadTable) -> Result<(), XdpError> {
        in_map("ways", self.ways.set(0, WaysValue(*table.as_bytes()), 0))
    }
}
