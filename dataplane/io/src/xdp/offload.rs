//! The offload: what the XDP program decides by itself, in its maps.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use aya::maps::{Array, MapData};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use vipdp_core::bucket::{BUCKETS, Bucket};
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
    start: SipStart,
    last_v4: u64,
    last_v6: u64,
    shared_v4: u64,
    shared_v6: u64,
    own: u64,
    frame_len_max: u32,
    port_mask: u16,
    is_on: u16,
}

/// `struct sip_start` there.
#[derive(Clone, Copy)]
#[repr(C)]
struct SipStart {
    v0: u64,
    v1: u64,
    v1_rotated: u64,
    v2: u64,
    v3: u64,
}

const _: () = assert!(size_of::<FactsValue>() == 88, "the size of the C structure");

// SAFETY: integers without padding between or behind them: ten words, and 8 bytes of smaller ones, are
// the 88 that the structure is long.
unsafe impl aya::Pod for FactsValue {}

impl SipStart {
    /// SipHash's initial state under `key`, and what of the first round is the same for every message:
    /// the state words 0 and 1 do not meet the first word before the round's second half (Aumasson,
    /// Bernstein: SipHash, 2012, sections 2.1, 2.2).
    fn new(key: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| key[at..].first_chunk().expect("16 bytes"));
        let [k0, k1] = [low, high].map(|word| u64::from_le_bytes(*word));
        let (mut v0, mut v1) = (k0 ^ 0x736f_6d65_7073_6575, k1 ^ 0x646f_7261_6e64_6f6d);
        let (v2, v3) = (k0 ^ 0x6c79_6765_6e65_7261, k1 ^ 0x7465_6462_7974_6573);
        v0 = v0.wrapping_add(v1);
        v1 = v1.rotate_left(13) ^ v0;
        Self { v0: v0.rotate_left(32), v1, v1_rotated: v1.rotate_left(17), v2, v3 }
    }
}

/// A MAC address as the program compares it: its first byte is the lowest.
fn mac_number(mac: MacAddr) -> u64 {
    mac.0.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

impl From<&OffloadFacts<'_>> for FactsValue {
    fn from(facts: &OffloadFacts<'_>) -> Self {
        let hashes_port = facts.hash_input == HashInput::AddressAndPort;
        let last = |address_len: u64| (address_len + if hashes_port { 2 } else { 0 }) << 56;
        Self {
            start: SipStart::new(facts.hash_key),
            last_v4: last(4),
            last_v6: last(16),
            shared_v4: mac_number(facts.shared.v4),
            shared_v6: mac_number(facts.shared.v6),
            own: mac_number(facts.own_mac),
            frame_len_max: u32::from(facts.host_mtu) + HEADER_LEN as u32,
            port_mask: if hashes_port { u16::MAX } else { 0 },
            is_on: 1,
        }
    }
}

/// `struct table` of `bpf/offload.bpf.h`: memory that the program reads, and writes to.
#[repr(C)]
struct TableValue {
    lease_until_ns: AtomicU64,
    leased_tick: AtomicU64,
    ways: [AtomicU8; BUCKETS],
}

const _: () = assert!(size_of::<TableValue>() == 16 + BUCKETS, "the size of the C structure");

/// The program's table, in the memory of this process.
pub(super) struct Table {
    memory: NonNull<TableValue>,
    /// The program is not loaded yet, and refers to it by its descriptor.
    _map: MapData,
}

// SAFETY: the mapping belongs to no thread, and is accessed through atomics alone; so is a descriptor.
unsafe impl Send for Table {}
// SAFETY: likewise.
unsafe impl Sync for Table {}

const TABLE_LEN: NonZeroUsize =
    NonZeroUsize::new(size_of::<TableValue>()).expect("the table is not empty");

impl Table {
    /// Maps the value of the map `table`.
    pub(super) fn map(map: MapData) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so no memory that is in use is mapped over.
        let memory = unsafe {
            mmap(None, TABLE_LEN, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0)
        }?;
        Ok(Self { memory: memory.cast(), _map: map })
    }

    fn value(&self) -> &TableValue {
        // SAFETY: the mapping is as long as the value, aligned to a page, and lives as long as `self`
        // does, whatever becomes of the map's descriptor. It holds atomic integers without padding
        // (`repr(C)`), and any bytes are such; the program and we access them as single words and bytes.
        unsafe { self.memory.as_ref() }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and nothing borrows from it any more.
        let undone = unsafe { munmap(self.memory.cast(), TABLE_LEN.get()) };
        undone.expect("a mapping that was made can be undone");
    }
}

/// The maps of the program that are the offload's. It is off until it is
/// [switched on](Self::switch_on), and does nothing until it has a lease.
pub struct Offload {
    pub(super) facts: Array<MapData, FactsValue>,
    pub(super) table: Table,
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
    pub fn set_lease(&self, until_ns: u64) {
        let table = self.table.value();
        table.lease_until_ns.store(until_ns, Ordering::Relaxed);
        // It looks at the new lease at once.
        table.leased_tick.store(0, Ordering::Relaxed);
    }

    /// What the program does with each bucket now: what it was told, and what it reopened by itself
    /// since.
    pub fn table(&self) -> OffloadTable {
        let ways = &self.table.value().ways;
        OffloadTable::from_bytes(std::array::from_fn(|index| ways[index].load(Ordering::Acquire)))
    }

    /// Changes what the program does with each bucket. A packet of the moment finds its bucket's old way
    /// or the new one; nothing that the program reopens meanwhile is lost.
    ///
    /// `change` is asked again where the program has.
    pub fn change(&self, change: impl Fn(&OffloadTable) -> OffloadTable) {
        loop {
            let before = self.table();
            let after = change(&before);
            if self.replace(&before, &after) {
                return;
            }
        }
    }

    /// Makes `before` into `after`, where it is still as it was; returns whether it was everywhere.
    fn replace(&self, before: &OffloadTable, after: &OffloadTable) -> bool {
        let mut is_done = true;
        for index in Bucket::all().map(Bucket::index) {
            let (old, new) = (before.as_bytes()[index], after.as_bytes()[index]);
            let way = &self.table.value().ways[index];
            let replaced = old == new
                || way.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            is_done &= replaced;
        }
        is_done
    }
}
