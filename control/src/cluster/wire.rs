//! The wire format of the messages that nodes exchange.
//!
//! One datagram is one message. All numbers are big-endian, all reserved bits zero when sent and
//! ignored when received. The fixed part is 1216 bytes, which is within the minimum MTU of IPv6
//! for 64 nodes and 4096 buckets.
//!
//! ```text
//!   at  len  field
//!    0    2  magic, 0x5644
//!    2    1  major version, 1: with another one the receiver only observes
//!    3    1  type: 1 heartbeat, 2 transfer, 3 candidate, 4 join
//!    4    2  cluster
//!    6    1  id of the key that the MAC is made with
//!    7    1  slot of the sender
//!    8    2  flags of the sender, see `NodeFlags`
//!   10    1  share of its buckets that the sender takes: 0 none, 255 all
//!   11    1  base-2 logarithm of the number of buckets, 12
//!   12    2  h: the sender's heartbeat interval, milliseconds
//!   14    2  D: after what silence it takes others for dead, milliseconds (saturating)
//!   16    8  session: random, one per start of the sender, never 0
//!   24    8  sequence number, strictly increasing within the session over all types
//!   32    4  time of sending on the sender's own clock, microseconds, wrapping
//!   36    4  generation of the configuration that the sender runs
//!   40    4  hash of that configuration
//!   44    4  generation of the configuration that it has staged; 0 for none
//!   48  640  64 entries of 10 bytes, one per slot, see below
//!  688  512  a heartbeat: the buckets that the sender answers for
//!            a transfer: the buckets that are handed over
//!            a candidate: the buckets that the sender would claim
//!            a join: 64 numbers of 8 bytes, one per slot: the session and the sequence number of
//!            the last message that the sender heard from there, added, see `proof`; 0 for none
//! 1200    n  TLVs
//! 1200+n 16  HMAC-SHA-256 of all before it, its first 128 bits
//!
//! An entry says what the sender knows of the node in that slot:
//!   at  len  field
//!    0    2  tag of the node's session; 0 for none
//!    2    2  highest sequence number heard from it directly, low 16 bits: an acknowledgement
//!    4    2  highest sequence number known of it, heard or relayed, low 16 bits
//!    6    1  number of the batch that is being handed to it; 0 for none. In a transfer it is the
//!            addressee's alone
//!    7    1  number of the last batch that was accepted from it; 0 for none
//!    8    1  flags, see `EntryFlags`
//!    9    1  its share, relayed
//!
//! A TLV is a type (1 byte), the length of its value (1 byte) and the value:
//! type len  value
//!    0   0  padding: a single byte without a length
//!    1   6  the sender's own MAC address on the segment, where peers forward frames to
//! ```
//!
//! TLVs of other types are skipped, and so is what a known type carries beyond its length. Up to
//! 16 bytes of TLVs fit an IPv6 minimum MTU beside the fixed part.
//!
//! Magic, type, cluster, key id and the place of the MAC are the same in all versions.

use vipdp_core::bucket::{BUCKETS_LOG2, BucketSet};
use vipdp_core::slot::{SLOTS, Slot};
use vipdp_core::wire::ethernet::MacAddr;

use super::auth::{KeyId, OpenError};
use super::config::{ConfigId, SlotSet};

/// Length of a message without TLVs, in bytes.
pub const MESSAGE_LEN: usize = TLVS_AT + TAG_LEN;
/// The longest message that is accepted, in bytes: what an Ethernet frame holds.
pub const MESSAGE_LEN_MAX: usize = 1452;
/// Length of the message authentication code, in bytes.
pub(super) const TAG_LEN: usize = 16;
/// The major version that this is.
pub const VERSION: u8 = 1;

const MAGIC: u16 = 0x5644;
const HEADER_LEN: usize = 48;
const ENTRY_LEN: usize = 10;
const BODY_AT: usize = HEADER_LEN + SLOTS * ENTRY_LEN;
const TLVS_AT: usize = BODY_AT + BucketSet::WIRE_LEN;
const KEY_ID_AT: usize = 6;
const SESSION_LEN: usize = 8;

const _: () = assert!(MESSAGE_LEN == 1216);
const _: () = assert!(SLOTS * SESSION_LEN == BucketSet::WIRE_LEN);

const TLV_PADDING: u8 = 0;
const TLV_MAC: u8 = 1;

/// What one node tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks, and what of itself it tells in every message.
    pub header: Header,
    /// What it knows of the others, by slot.
    pub entries: [Entry; SLOTS],
    /// What the message is for.
    pub body: Body,
    /// The sender's own MAC address on the segment, where peers forward frames to.
    pub mac: Option<MacAddr>,
}

/// What a node tells of itself in every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tells clusters on one segment apart.
    pub cluster: u16,
    /// The sender.
    pub slot: Slot,
    /// Its state.
    pub flags: NodeFlags,
    /// What part of its buckets the sender takes: 0 none, 255 all.
    pub share: u8,
    /// h: its heartbeat interval, in milliseconds.
    pub heartbeat_ms: u16,
    /// D: after what silence it takes others for dead, in milliseconds.
    pub detection_ms: u16,
    /// Random, one per start of the sender. Never 0.
    pub session: u64,
    /// Strictly increasing within the session over all messages.
    pub seq: u64,
    /// When it was sent by the sender's own clock, in microseconds, wrapping.
    pub sent_us: u32,
    /// The configuration that the sender runs.
    pub config: ConfigId,
    /// The generation that it has staged; 0 for none.
    pub staged: u32,
}

/// What the sender knows of the node in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Entry {
    /// Tag of the node's session, see [`session_tag`]; 0 for none.
    pub tag: u16,
    /// The highest sequence number heard from it directly, low 16 bits.
    pub ack: u16,
    /// The highest sequence number known of it, heard or relayed, low 16 bits.
    pub known: u16,
    /// Number of the batch that is being handed to it; 0 for none.
    pub transfer_out: u8,
    /// Number of the last batch that was accepted from it; 0 for none.
    pub transfer_accepted: u8,
    /// What the sender thinks of it.
    pub flags: EntryFlags,
    /// Its share, relayed.
    pub share: u8,
}

/// What a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// I am here.
    Heartbeat {
        /// The buckets that the sender answers for: owned, or being handed over.
        claims: BucketSet,
    },
    /// I hand these buckets to you.
    Transfer {
        /// To whom. Its entry has the number of the batch, and no other entry has one.
        to: Slot,
        /// The buckets.
        buckets: BucketSet,
    },
    /// I would claim these buckets.
    Candidate {
        /// The buckets.
        buckets: BucketSet,
    },
    /// I am new, or think that you are: this proves that I heard you lately.
    Join {
        /// The [`proof`] of the last message heard from each slot; 0 for none.
        heard: [u64; SLOTS],
    },
}

impl Body {
    const fn kind(&self) -> u8 {
        match self {
            Self::Heartbeat { .. } => 1,
            Self::Transfer { .. } => 2,
            Self::Candidate { .. } => 3,
            Self::Join { .. } => 4,
        }
    }
}

/// The state of a node, as it tells it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NodeFlags(u16);

impl NodeFlags {
    /// It has just started and only listens: it is no owner.
    pub const LISTEN: Self = Self(1);
    /// It may be cut off, and serves nothing.
    pub const FENCED: Self = Self(1 << 1);
    /// Its operator wants it to hand over all it has.
    pub const DRAINING: Self = Self(1 << 2);
    /// Its service is not healthy.
    pub const UNWILLING: Self = Self(1 << 3);
    /// It reaches the router.
    pub const GATEWAY: Self = Self(1 << 4);
    /// Peers answer with a heartbeat at once.
    pub const POLL: Self = Self(1 << 5);
    /// It is candidate for buckets.
    pub const CANDIDATE: Self = Self(1 << 6);
    /// Its service is well again, and it waits with telling, since nobody's was: it tells
    /// [`UNWILLING`](Self::UNWILLING) as well.
    pub const RECOVERED: Self = Self(1 << 7);

    /// Those that are relayed, and that decide about eligibility.
    pub(super) const RELAYED: Self = Self(0b1111);

    /// Those that decide about it too, and are not relayed: what was heard last counts.
    pub(super) const HEARD: Self = Self(Self::GATEWAY.0 | Self::RECOVERED.0);

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These and `flags`, if `condition` holds.
    #[must_use]
    pub const fn with(self, flags: Self, condition: bool) -> Self {
        if condition { Self(self.0 | flags.0) } else { self }
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, flags: Self) -> Self {
        Self(self.0 & flags.0)
    }

    /// These without `flags`.
    #[must_use]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }

    /// Whether a node in this state may own anything: it neither listens nor is fenced.
    pub const fn may_own(self) -> bool {
        self.0 & (Self::LISTEN.0 | Self::FENCED.0) == 0
    }
}

/// What a node thinks of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EntryFlags(u8);

impl EntryFlags {
    /// Heard directly.
    pub const HEARS: Self = Self(1 << 4);
    /// Alive.
    pub const ALIVE: Self = Self(1 << 5);
    /// Went down too often of late: it shall keep its share at 0.
    pub const SUPPRESSED: Self = Self(1 << 6);
    /// Where only a majority serves: the sender votes for it, and for nobody else who has what it
    /// has.
    pub const SUPPORTS: Self = Self(1 << 7);

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These and `flags`, if `condition` holds.
    #[must_use]
    pub const fn with(self, flags: Self, condition: bool) -> Self {
        if condition { Self(self.0 | flags.0) } else { self }
    }

    /// These and the state of the node, relayed: LISTEN, FENCED, DRAINING, UNWILLING in the lowest
    /// four bits.
    #[must_use]
    pub const fn relaying(self, flags: NodeFlags) -> Self {
        Self(self.0 | flags.and(NodeFlags::RELAYED).0 as u8)
    }

    /// The state of the node as it was relayed.
    pub const fn relayed(self) -> NodeFlags {
        NodeFlags(self.0 as u16).and(NodeFlags::RELAYED)
    }
}

/// The tag of a session: what entries name it by. 0 stands for no session, and never for one.
pub const fn session_tag(session: u64) -> u16 {
    match (session ^ session >> 16 ^ session >> 32 ^ session >> 48) as u16 {
        0 => 1,
        tag => tag,
    }
}

/// What proves that a message was heard: its session and its sequence number, added. Nobody can
/// tell it who has not heard that message or a later one of the session, which is random.
pub const fn proof(session: u64, seq: u64) -> u64 {
    session.wrapping_add(seq)
}

/// Appends numbers to a datagram.
struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Takes numbers from a datagram, front to back.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

/// The id of the key that a datagram names.
///
/// # Errors
/// [`OpenError::BadLength`], [`OpenError::BadMagic`]
pub(super) fn key_id(datagram: &[u8]) -> Result<KeyId, OpenError> {
    if !(MESSAGE_LEN..=MESSAGE_LEN_MAX).contains(&datagram.len()) {
        return Err(OpenError::BadLength);
    }
    if !datagram.starts_with(&MAGIC.to_be_bytes()) {
        return Err(OpenError::BadMagic);
    }
    Ok(KeyId(datagram[KEY_ID_AT]))
}

/// Appends `message` to `datagram`, all but the MAC.
pub(super) fn emit(message: &Message, key: KeyId, datagram: &mut Vec<u8>) {
    let Header { cluster, slot, flags, share, heartbeat_ms, detection_ms, .. } = message.header;
    let Header { session, seq, sent_us, config, staged, .. } = message.header;
    let mut writer = Writer(datagram);
    writer.u16(MAGIC).u8(VERSION).u8(message.body.kind()).u16(cluster).u8(key.0).u8(slot.get());
    writer.u16(flags.0).u8(share).u8(BUCKETS_LOG2).u16(heartbeat_ms).u16(detection_ms);
    writer.u64(session).u64(seq).u32(sent_us).u32(config.generation).u32(config.hash).u32(staged);
    for entry in &message.entries {
        writer.u16(entry.tag).u16(entry.ack).u16(entry.known);
        writer.u8(entry.transfer_out).u8(entry.transfer_accepted).u8(entry.flags.0).u8(entry.share);
    }
    match &message.body {
        Body::Heartbeat { claims: buckets }
        | Body::Transfer { buckets, .. }
        | Body::Candidate { buckets } => {
            writer.bytes(&buckets.to_wire());
        }
        Body::Join { heard } => {
            for &proof in heard {
                writer.u64(proof);
            }
        }
    }
    if let Some(mac) = message.mac {
        writer.u8(TLV_MAC).u8(mac.0.len() as u8).bytes(&mac.0);
    }
}

/// Reads a datagram whose MAC was found right.
///
/// # Errors
/// [`OpenError`]: a version, cluster, or contents that are not for us.
pub(super) fn parse(datagram: &[u8], cluster: u16) -> Result<Box<Message>, OpenError> {
    key_id(datagram)?;
    let (contents, _tag) = datagram.split_at(datagram.len() - TAG_LEN);
    let (fixed, tlvs) = contents.split_at(TLVS_AT);
    let (head, body) = fixed.split_at(BODY_AT);
    let mut reader = Reader(head);
    // The slices are as long as their fields, so nothing ever runs short.
    let (kind, header) = parse_header(&mut reader, cluster)?;
    let (entries, addressee) = parse_entries(&mut reader).ok_or(OpenError::BadLength)?;
    let body = parse_body(kind, body, addressee)?;
    let mac = parse_tlvs(tlvs)?;
    Ok(Box::new(Message { header, entries, body, mac }))
}

fn parse_header(reader: &mut Reader<'_>, cluster: u16) -> Result<(u8, Header), OpenError> {
    const SHORT: OpenError = OpenError::BadLength;
    let _magic = reader.u16().ok_or(SHORT)?;
    if reader.u8().ok_or(SHORT)? != VERSION {
        return Err(OpenError::OtherVersion);
    }
    let kind = reader.u8().ok_or(SHORT)?;
    if reader.u16().ok_or(SHORT)? != cluster {
        return Err(OpenError::OtherCluster);
    }
    let _key = reader.u8().ok_or(SHORT)?;
    let slot = Slot::new(reader.u8().ok_or(SHORT)?).ok_or(OpenError::BadField)?;
    let flags = NodeFlags(reader.u16().ok_or(SHORT)?);
    let share = reader.u8().ok_or(SHORT)?;
    if reader.u8().ok_or(SHORT)? != BUCKETS_LOG2 {
        return Err(OpenError::BadField);
    }
    let header = Header {
        cluster,
        slot,
        flags,
        share,
        heartbeat_ms: reader.u16().ok_or(SHORT)?,
        detection_ms: reader.u16().ok_or(SHORT)?,
        session: reader.u64().ok_or(SHORT)?,
        seq: reader.u64().ok_or(SHORT)?,
        sent_us: reader.u32().ok_or(SHORT)?,
        config: ConfigId {
            generation: reader.u32().ok_or(SHORT)?,
            hash: reader.u32().ok_or(SHORT)?,
        },
        staged: reader.u32().ok_or(SHORT)?,
    };
    if header.session == 0 || header.config.generation == 0 {
        return Err(OpenError::BadField);
    }
    Ok((kind, header))
}

/// All entries, and the slots that something is being handed to.
fn parse_entries(reader: &mut Reader<'_>) -> Option<([Entry; SLOTS], SlotSet)> {
    let mut entries = [Entry::default(); SLOTS];
    let mut addressees = SlotSet::EMPTY;
    for (slot, entry) in Slot::all().zip(&mut entries) {
        *entry = Entry {
            tag: reader.u16()?,
            ack: reader.u16()?,
            known: reader.u16()?,
            transfer_out: reader.u8()?,
            transfer_accepted: reader.u8()?,
            flags: EntryFlags(reader.u8()?),
            share: reader.u8()?,
        };
        if entry.transfer_out != 0 {
            addressees.insert(slot);
        }
    }
    Some((entries, addressees))
}

fn parse_body(kind: u8, body: &[u8], addressees: SlotSet) -> Result<Body, OpenError> {
    let mut reader = Reader(body);
    if kind == 4 {
        let mut heard = [0; SLOTS];
        for proof in &mut heard {
            *proof = reader.u64().ok_or(OpenError::BadLength)?;
        }
        return Ok(Body::Join { heard });
    }
    let buckets = BucketSet::from_wire(&reader.array().ok_or(OpenError::BadLength)?);
    match kind {
        1 => Ok(Body::Heartbeat { claims: buckets }),
        2 => match (addressees.len(), addressees.iter().next()) {
            (1, Some(to)) => Ok(Body::Transfer { to, buckets }),
            _ => Err(OpenError::BadField),
        },
        3 => Ok(Body::Candidate { buckets }),
        _ => Err(OpenError::OtherType),
    }
}

/// The sender's own MAC address, if it is told.
fn parse_tlvs(mut tlvs: &[u8]) -> Result<Option<MacAddr>, OpenError> {
    let mut mac = None;
    while let Some((&kind, rest)) = tlvs.split_first() {
        if kind == TLV_PADDING {
            tlvs = rest;
            continue;
        }
        let (&len, rest) = rest.split_first().ok_or(OpenError::BadField)?;
        let (value, rest) = rest.split_at_checked(len.into()).ok_or(OpenError::BadField)?;
        tlvs = rest;
        if kind == TLV_MAC {
            let (&address, _) = value.split_first_chunk().ok_or(OpenError::BadField)?;
            mac = Some(MacAddr(address)).filter(|mac| !mac.is_group());
        }
    }
    Ok(mac)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
