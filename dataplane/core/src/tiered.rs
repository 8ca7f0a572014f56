//! The tiered mode's own terms: next-hop addresses, the virtual MAC addresses that go with them,
//! and who held them before.
//!
//! The router spreads packets over next-hop addresses. Address number `r` is a resource like a
//! bucket of the shared-mac mode and is numbered as one: a [`Bucket`] below [`Tiered::count`]. What
//! tells a member by which address a frame came is the frame's destination, where each address has
//! a MAC address of its own; what tells it that another member has sent the frame on is the source:
//!
//! ```text
//!    0      8       16            32   36          48 bits
//!    +------+-------+-------------+----+------------+
//!    | 0x02 | which |   cluster   |kind|   number   |
//!    +------+-------+-------------+----+------------+
//!
//!  which        kind  number   is                        the frame
//!  0x76            0  address  the address's own MAC     came by that address; an ARP reply's and a claim's source
//!  0x80 + slot     1  address  a mark, only ever source  is for the address's previous owner: does it know the flow?
//!  0x80 + slot     2  address  a mark                    is for the owner before that one
//!  0x80 + slot     3  address  a mark                    comes back to the address's owner: neither knew it
//!  0x80 + slot     4  slot     a mark                    goes round the members, from that one on: who knows it?
//!  0x80 + slot     5  bucket   a mark, anycast alone     is for the owner of its client's bucket
//!  0x80 + slot     6  bucket   a mark, anycast alone     starts a flow, and is for who is being handed the bucket
//! ```
//!
//! The slot in a mark's second byte is its sender's. So each address that switches learn is only ever
//! seen where one member is, with one exception that they shall notice: an address's own, when a
//! claim says that it has moved.
//!
//! A frame with a mark goes to a member's own MAC address. Each sending-on raises the kind, or, with
//! kind 4, the distance from the slot where the round began; so none goes on for ever, whatever the
//! members believe of each other. Kind 5 is the one that a packet begins with in the anycast mode, and
//! kind 6 its last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bucket::{BUCKETS, Bucket};
use crate::slot::{SLOTS, Slot};
use crate::wire::ethernet::MacAddr;

/// What the tiered mode adds to a [`Service`](crate::snapshot::Service).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiered {
    /// This node's slot.
    pub slot: Slot,
    /// The cluster's number: part of every virtual MAC address and every mark.
    pub cluster: u16,
    /// Next-hop address number 0 of IPv4; number `r` is the one `r` above it.
    pub first4: Option<Ipv4Addr>,
    /// Next-hop address number 0 of IPv6.
    pub first6: Option<Ipv6Addr>,
    /// How many next-hop addresses there are, of each family that has any: at most
    /// [`BUCKETS`].
    pub count: u16,
    /// What the next-hop addresses resolve to.
    pub mac: TieredMac,
    /// Who is asked for a flow that is not tracked here.
    pub search: Search,
}

/// Who is asked for a flow that is not tracked here, for instance for a TCP segment in the middle
/// of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Those who had the address before. Finds every flow as long as the router sends it by the same
    /// address all its life.
    PreviousOwners,
    /// All members that are alive. Finds flows also after the router's choice has changed, because its
    /// set of next hops has: a node was added, say. What nobody knows then costs each member a
    /// frame.
    Members,
}

/// What a next-hop address resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TieredMac {
    /// One MAC address per next-hop address, which goes with it from owner to owner: what the router
    /// knows stays true, and a frame says by which address it came.
    Virtual,
    /// Its owner's own: plain ARP. The router must hear of every change, and a frame does not say by
    /// which address it came.
    Node,
}

impl Tiered {
    /// The number of a next-hop address; `None` for any other address.
    pub fn number(&self, address: IpAddr) -> Option<Bucket> {
        match address {
            IpAddr::V4(address) => self.number_v4(address),
            IpAddr::V6(address) => self.number_v6(address),
        }
    }

    /// The number of a next-hop address; `None` for any other address.
    pub fn number_v4(&self, address: Ipv4Addr) -> Option<Bucket> {
        let number = address.to_bits().checked_sub(self.first4?.to_bits())?;
        self.counted(u16::try_from(number).ok()?)
    }

    /// The number of a next-hop address; `None` for any other address.
    pub fn number_v6(&self, address: Ipv6Addr) -> Option<Bucket> {
        let number = address.to_bits().checked_sub(self.first6?.to_bits())?;
        self.counted(u16::try_from(number).ok()?)
    }

    fn counted(&self, number: u16) -> Option<Bucket> {
        if number < self.count { Bucket::new(number) } else { None }
    }

    /// The IPv4 address numbered `number`; `None` if there is none.
    pub fn address_v4(&self, number: Bucket) -> Option<Ipv4Addr> {
        let number = self.counted(number.get())?;
        Some(Ipv4Addr::from_bits(self.first4?.to_bits().checked_add(number.get().into())?))
    }

    /// The IPv6 address numbered `number`; `None` if there is none.
    pub fn address_v6(&self, number: Bucket) -> Option<Ipv6Addr> {
        let number = self.counted(number.get())?;
        Some(Ipv6Addr::from_bits(self.first6?.to_bits().checked_add(number.get().into())?))
    }

    /// What the owner of `number` says that the address resolves to: also the Ethernet source of
    /// its saying so.
    pub fn mac_of(&self, number: Bucket, own_mac: MacAddr) -> MacAddr {
        match self.mac {
            TieredMac::Virtual => VirtualMac::Address(number).mac(self.cluster),
            TieredMac::Node => own_mac,
        }
    }
}

/// A MAC address of the form above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualMac {
    /// The MAC address of the next-hop address with this number.
    Address(Bucket),
    /// Source of a frame that the member in this slot sends on.
    Mark(Slot, Mark),
}

/// Why a member has sent a frame on: its source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// To the previous owner of the address that it came by.
    Previous(Bucket),
    /// To the owner before that one.
    BeforePrevious(Bucket),
    /// Back to the address's owner.
    Back(Bucket),
    /// Round the members, from the one in this slot on.
    Round(Slot),
    /// To the owner of the client's bucket.
    Steer(Bucket),
    /// To the member that the bucket is being handed to, a new flow: it is its own from now on.
    Granted(Bucket),
}

/// The first byte of every virtual MAC address: locally administered.
const LOCAL: u8 = 0x02;
/// The second byte of an address's own: a "v".
const ADDRESS: u8 = 0x76;
/// The second byte of a mark, plus the slot.
const MARK: u8 = 0x80;
/// Bits of the number below the kind.
const NUMBER_BITS: u32 = 12;
const NUMBER_MASK: u16 = (1 << NUMBER_BITS) - 1;

const _: () = assert!(BUCKETS == 1 << NUMBER_BITS, "a bucket's number fills the number field");
const _: () = assert!(ADDRESS < MARK, "an address is no mark");

impl Mark {
    /// The kind (4 bits) and the number (12 bits).
    #[inline]
    pub const fn to_wire(self) -> u16 {
        let (kind, number) = match self {
            Self::Previous(number) => (1, number.get()),
            Self::BeforePrevious(number) => (2, number.get()),
            Self::Back(number) => (3, number.get()),
            Self::Round(first) => (4, first.get() as u16),
            Self::Steer(number) => (5, number.get()),
            Self::Granted(number) => (6, number.get()),
        };
        kind << NUMBER_BITS | number
    }

    /// Reads [`to_wire`](Self::to_wire)'s form; `None` if there is no such kind, or no such slot.
    #[inline]
    pub const fn from_wire(value: u16) -> Option<Self> {
        let (kind, number) = (value >> NUMBER_BITS, value & NUMBER_MASK);
        let Some(bucket) = Bucket::new(number) else { return None };
        Some(match kind {
            1 => Self::Previous(bucket),
            2 => Self::BeforePrevious(bucket),
            3 => Self::Back(bucket),
            4 if number < SLOTS as u16 => match Slot::new(number as u8) {
                Some(first) => Self::Round(first),
                None => return None,
            },
            5 => Self::Steer(bucket),
            6 => Self::Granted(bucket),
            _ => return None,
        })
    }
}

impl VirtualMac {
    /// The MAC address, in the cluster numbered `cluster`.
    #[inline]
    pub const fn mac(self, cluster: u16) -> MacAddr {
        let (which, value) = match self {
            Self::Address(number) => (ADDRESS, number.get()),
            Self::Mark(from, mark) => (MARK | from.get(), mark.to_wire()),
        };
        let [cluster_high, cluster_low] = cluster.to_be_bytes();
        let [high, low] = value.to_be_bytes();
        MacAddr([LOCAL, which, cluster_high, cluster_low, high, low])
    }

    /// Reads `mac`; `None` if it is not of this form, or of another cluster.
    #[inline]
    pub const fn of(mac: MacAddr, cluster: u16) -> Option<Self> {
        let [local, which, cluster_high, cluster_low, high, low] = mac.0;
        if local != LOCAL || u16::from_be_bytes([cluster_high, cluster_low]) != cluster {
            return None;
        }
        let value = u16::from_be_bytes([high, low]);
        match Slot::new(which.wrapping_sub(MARK)) {
            Some(from) => match Mark::from_wire(value) {
                Some(mark) => Some(Self::Mark(from, mark)),
                None => None,
            },
            // Kind 0.
            None if which == ADDRESS => match Bucket::new(value) {
                Some(address) => Some(Self::Address(address)),
                None => None,
            },
            None => None,
        }
    }
}

/// Who has one address, and who had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Who claims the address now, this node included; `None` if unknown.
    pub now: Option<Slot>,
    /// Who claimed it before and is alive, the last one first: never this node itself, nor `now`.
    pub before: [Option<Slot>; 2],
}

/// Who has and had each address, as far as this node knows, and who is alive. Three bytes an
/// address.
#[derive(Clone, PartialEq, Eq)]
pub struct PreviousOwners {
    owners: Box<[[u8; 3]; BUCKETS]>,
    /// Members that are alive and know each other, this node included, so that a round gets on by
    /// them: bit `slot`.
    alive: u64,
    /// Of each member: who had an address before that is its now. Bit `slot`.
    before: Box<[u64; SLOTS]>,
    /// Whether a member may return with its flows.
    is_incomplete: bool,
}

/// No slot.
const NOBODY: u8 = 0xff;

impl PreviousOwners {
    /// Nobody known, nobody alive.
    pub fn none() -> Self {
        Self::new([], [])
    }

    /// What is known: the members that are `alive`, whose MAC addresses are known and who know each
    /// other, and the `owners` of addresses; of the others, nobody.
    pub fn new(
        alive: impl IntoIterator<Item = Slot>,
        owners: impl IntoIterator<Item = (Bucket, Owners)>,
    ) -> Self {
        let mut known = Self {
            owners: Box::new([[NOBODY; 3]; BUCKETS]),
            alive: alive.into_iter().fold(0, |alive, slot| alive | bit(slot)),
            before: Box::new([0; SLOTS]),
            is_incomplete: false,
        };
        for (number, Owners { now, before: [last, second] }) in owners {
            known.owners[number.index()] =
                [now, last, second].map(|slot| slot.map_or(NOBODY, Slot::get));
            if let Some(now) = now {
                let had = [last, second].into_iter().flatten().fold(0, |had, slot| had | bit(slot));
                known.before[now.index()] |= had & !bit(now);
            }
        }
        known
    }

    /// The same, while a member is away (`is_away`) that may be back in a moment with the flows that
    /// it had: its vipdp is restarted, say.
    #[must_use]
    pub fn while_away(self, is_away: bool) -> Self {
        Self { is_incomplete: is_away, ..self }
    }

    /// Whether a flow that nobody knows may be that of a member who is back in a moment.
    pub fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Who has and had the address numbered `number`.
    pub fn get(&self, number: Bucket) -> Owners {
        let [now, last, second] = self.owners[number.index()].map(Slot::new);
        Owners { now, before: [last, second] }
    }

    /// Who comes after this node, in slot `own`, in a round of all live members that began at
    /// `first`; `None` after the last one.
    pub fn next_alive(&self, first: Slot, own: Slot) -> Option<Slot> {
        next_in_round(self.alive, first, own)
    }

    /// Who comes after this node, in slot `own`, in a round of those that had addresses which are
    /// `first`'s now, beginning at `first`; `None` after the last one.
    pub fn next_before(&self, first: Slot, own: Slot) -> Option<Slot> {
        next_in_round(self.before[first.index()], first, own)
    }
}

const fn bit(slot: Slot) -> u64 {
    1 << slot.get()
}

/// The next after `own` in `members`, in ascending order from `first` on and over the end, less
/// `first` itself. Always further from `first` than `own` is: so every round ends.
const fn next_in_round(members: u64, first: Slot, own: Slot) -> Option<Slot> {
    let distance = (own.get().wrapping_sub(first.get())) % SLOTS as u8;
    // Bit `d`: the member at distance `d` from the first. Those up to `own`'s are taken out.
    let from_first = members.rotate_right(first.get() as u32);
    let further = from_first & (u64::MAX << distance) & !(1 << distance);
    if further == 0 {
        return None;
    }
    Slot::new((further.trailing_zeros() as u8).wrapping_add(first.get()) % SLOTS as u8)
}

impl std::fmt::Debug for PreviousOwners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.owners.iter().filter(|owners| **owners != [NOBODY; 3]).count();
        write!(f, "owners of {known} addresses, {} members alive", self.alive.count_ones())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(number: u8) -> Slot {
        Slot::new(number).unwrap()
    }

    fn number(number: u16) -> Bucket {
        Bucket::new(number).unwrap()
    }

    fn tiered() -> Tiered {
        Tiered {
            slot: slot(0),
            cluster: 0x1234,
            first4: Some(Ipv4Addr::new(10, 0, 0, 64)),
            first6: Some("fd00::1:0".parse().unwrap()),
            count: 30,
            mac: TieredMac::Virtual,
            search: Search::PreviousOwners,
        }
    }

    #[test]
    fn a_virtual_mac_address_has_its_parts_where_they_are_drawn() {
        let of = |mac: VirtualMac| mac.mac(0x1234).to_string();
        assert_eq!(of(VirtualMac::Address(number(0xabc))), "02:76:12:34:0a:bc");
        let of = |from, mark| of(VirtualMac::Mark(slot(from), mark));
        assert_eq!(of(0, Mark::Previous(number(1))), "02:80:12:34:10:01");
        assert_eq!(of(1, Mark::BeforePrevious(number(0))), "02:81:12:34:20:00");
        assert_eq!(of(63, Mark::Back(number(4095))), "02:bf:12:34:3f:ff");
        assert_eq!(of(5, Mark::Round(slot(63))), "02:85:12:34:40:3f");
    }

    proptest! {
        #[test]
        fn a_virtual_mac_address_is_read_as_it_was_written(
            cluster: u16,
            other: u16,
            from in (0..64_u8).prop_map(slot),
            kind in 0..7,
            value in 0..4096_u16,
        ) {
            let virtual_mac = match kind {
                0 => VirtualMac::Address(number(value)),
                1 => VirtualMac::Mark(from, Mark::Previous(number(value))),
                2 => VirtualMac::Mark(from, Mark::BeforePrevious(number(value))),
                3 => VirtualMac::Mark(from, Mark::Back(number(value))),
                _ => VirtualMac::Mark(from, Mark::Round(slot(value as u8 % 64))),
            };
            let mac = virtual_mac.mac(cluster);
            prop_assert!(!mac.is_group());
            prop_assert_eq!(VirtualMac::of(mac, cluster), Some(virtual_mac));
            prop_assert_eq!(VirtualMac::of(mac, other).is_some(), cluster == other);
        }

        #[test]
        fn whatever_is_read_is_written_the_same(bytes: [u8; 6], ours: bool, cluster: u16) {
            let mut mac = MacAddr(bytes);
            if ours {
                mac.0[0] = LOCAL;
                mac.0[2..4].copy_from_slice(&cluster.to_be_bytes());
            }
            if let Some(read) = VirtualMac::of(mac, cluster) {
                prop_assert_eq!(read.mac(cluster), mac);
            }
        }

        /// A round asks every member once, in any set and from any member of it, and ends.
        #[test]
        fn a_round_meets_everyone_else_once(members: u64, first in 0..64u8) {
            let first = slot(first);
            let (mut own, mut met) = (first, 0);
            while let Some(next) = next_in_round(members, first, own) {
                prop_assert_eq!(met & bit(next), 0);
                met |= bit(next);
                own = next;
            }
            prop_assert_eq!(met, members & !bit(first));
        }
    }

    #[test]
    fn addresses_are_numbered_from_the_first_on() {
        let tiered = tiered();
        let number_of = |address: &str| tiered.number(address.parse().unwrap()).map(Bucket::get);
        assert_eq!(number_of("10.0.0.64"), Some(0));
        assert_eq!(number_of("10.0.0.93"), Some(29));
        assert_eq!(number_of("10.0.0.94"), None);
        assert_eq!(number_of("10.0.0.63"), None);
        assert_eq!(number_of("11.0.0.64"), None);
        assert_eq!(number_of("fd00::1:1d"), Some(29));
        assert_eq!(number_of("fd00::1:1e"), None);
        assert_eq!(number_of("fd00::2:0"), None);
        assert_eq!(tiered.address_v4(number(29)), Some(Ipv4Addr::new(10, 0, 0, 93)));
        assert_eq!(tiered.address_v6(number(29)), Some("fd00::1:1d".parse().unwrap()));
        assert_eq!(tiered.address_v4(number(30)), None);
        let without = Tiered { first4: None, ..tiered };
        assert_eq!(without.number_v4(Ipv4Addr::new(10, 0, 0, 64)), None);
        assert_eq!(without.address_v4(number(0)), None);
    }

    #[test]
    fn an_address_resolves_to_its_own_mac_or_to_its_owners() {
        let own = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(tiered().mac_of(number(7), own), VirtualMac::Address(number(7)).mac(0x1234));
        assert_eq!(Tiered { mac: TieredMac::Node, ..tiered() }.mac_of(number(7), own), own);
    }

    #[test]
    fn owners_are_what_was_given_and_of_the_rest_nobody() {
        let owners = Owners { now: Some(slot(1)), before: [Some(slot(63)), None] };
        let again = Owners { now: Some(slot(1)), before: [Some(slot(1)), Some(slot(5))] };
        let alive = [slot(1), slot(5), slot(63)];
        let known = PreviousOwners::new(alive, [(number(0), owners), (number(4095), again)]);
        assert_eq!(known.get(number(0)), owners);
        assert_eq!(known.get(number(1)), Owners::default());
        assert_eq!(PreviousOwners::none().get(number(0)), Owners::default());
        assert_eq!(known.next_before(slot(1), slot(1)), Some(slot(5)));
        assert_eq!(known.next_before(slot(1), slot(5)), Some(slot(63)));
        assert_eq!(known.next_before(slot(1), slot(63)), None);
        assert_eq!(known.next_before(slot(5), slot(5)), None);
        assert_eq!(known.next_alive(slot(5), slot(5)), Some(slot(63)));
        assert_eq!(known.next_alive(slot(5), slot(63)), Some(slot(1)));
        assert_eq!(known.next_alive(slot(5), slot(1)), None);
    }
}
