use proptest::array::uniform32;
use proptest::collection::vec;
use proptest::prelude::*;
use vipdp_core::bucket::Bucket;

use super::*;
use crate::cluster::auth::{Keyring, open, seal};

const CLUSTER: u16 = 53;

fn keyring(send: u8) -> Keyring {
    Keyring::new(KeyId(send), [(KeyId(1), [1; 32]), (KeyId(2), [2; 32])]).unwrap()
}

fn slots() -> impl Strategy<Value = Slot> {
    (0..SLOTS as u8).prop_map(|slot| Slot::new(slot).unwrap())
}

fn sets() -> impl Strategy<Value = BucketSet> {
    vec(0..4096u16, 0..64)
        .prop_map(|buckets| buckets.into_iter().map(|b| Bucket::new(b).unwrap()).collect())
}

fn headers() -> impl Strategy<Value = Header> {
    let numbers = (any::<u16>(), any::<u8>(), any::<u16>(), any::<u16>(), any::<u32>());
    let ids = (1..=u64::MAX, any::<u64>(), 1..=u32::MAX, any::<u32>(), any::<u32>());
    (slots(), numbers, ids).prop_map(|(slot, numbers, ids)| {
        let (flags, share, heartbeat_ms, detection_ms, sent_us) = numbers;
        let (session, seq, generation, hash, staged) = ids;
        Header {
            cluster: CLUSTER,
            slot,
            flags: NodeFlags(flags),
            share,
            heartbeat_ms,
            detection_ms,
            session,
            seq,
            sent_us,
            config: ConfigId { generation, hash },
            staged,
        }
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    let numbers = (any::<u16>(), any::<u16>(), any::<u16>());
    (numbers, any::<[u8; 4]>()).prop_map(|((tag, ack, known), [out, accepted, flags, share])| {
        Entry {
            tag,
            ack,
            known,
            transfer_out: out,
            transfer_accepted: accepted,
            flags: EntryFlags(flags),
            share,
        }
    })
}

fn bodies() -> impl Strategy<Value = Body> {
    let proofs = (uniform32(any::<u64>()), uniform32(any::<u64>()));
    prop_oneof![
        sets().prop_map(|claims| Body::Heartbeat { claims }),
        (slots(), sets()).prop_map(|(to, buckets)| Body::Transfer { to, buckets }),
        sets().prop_map(|buckets| Body::Candidate { buckets }),
        proofs.prop_map(|(low, high)| {
            let mut heard = [0; SLOTS];
            heard[..32].copy_from_slice(&low);
            heard[32..].copy_from_slice(&high);
            Body::Join { heard }
        }),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    let macs = prop::option::of(any::<[u8; 6]>().prop_map(|[a, rest @ ..]| {
        let [b, c, d, e, f] = rest;
        MacAddr([a & 0xfe, b, c, d, e, f])
    }));
    (headers(), vec(entries(), SLOTS), bodies(), macs).prop_map(|(header, entries, body, mac)| {
        let mut entries: [Entry; SLOTS] = entries.try_into().unwrap();
        if let Body::Transfer { to, .. } = body {
            for (slot, entry) in Slot::all().zip(&mut entries) {
                entry.transfer_out = u8::from(slot == to) * entry.transfer_out.max(1);
            }
        }
        Message { header, entries, body, mac }
    })
}

/// What a fuzzer would call: nothing here may panic, and what is read must be written the same.
fn parse_anything(datagram: &[u8]) {
    let Ok(message) = parse(datagram, CLUSTER) else { return };
    let mut again = Vec::new();
    emit(&message, KeyId(datagram[KEY_ID_AT]), &mut again);
    again.extend_from_slice(&[0; TAG_LEN]);
    assert_eq!(parse(&again, CLUSTER).unwrap(), message);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_message_comes_back_as_it_was(message in messages()) {
        let mut datagram = vec![0xaa; 3];
        seal(&keyring(2), &message, &mut datagram);
        let expected = MESSAGE_LEN + if message.mac.is_some() { 8 } else { 0 };
        prop_assert_eq!(datagram.len(), expected);
        prop_assert_eq!(*open(&keyring(1), CLUSTER, &datagram).unwrap(), message);
    }

    #[test]
    fn one_changed_bit_is_refused(message in messages(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut datagram = Vec::new();
        seal(&keyring(1), &message, &mut datagram);
        datagram[at.index(MESSAGE_LEN)] ^= 1 << bit;
        prop_assert!(open(&keyring(1), CLUSTER, &datagram).is_err());
    }

    #[test]
    fn damaged_messages_never_panic(
        message in messages(),
        tlvs in vec(any::<u8>(), 0..40),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in 0..3usize,
    ) {
        let mut datagram = Vec::new();
        emit(&message, KeyId(1), &mut datagram);
        datagram.extend_from_slice(&tlvs);
        for (at, byte) in damage {
            let at = at.index(datagram.len());
            datagram[at] = byte;
        }
        datagram.extend_from_slice(&[0; TAG_LEN][cut..]);
        parse_anything(&datagram);
    }

    #[test]
    fn random_bytes_never_panic(mut datagram in vec(any::<u8>(), 0..1500), dressed in any::<bool>()) {
        if dressed && datagram.len() > 12 {
            datagram[..6].copy_from_slice(&[0x56, 0x44, VERSION, 1, 0, CLUSTER as u8]);
            datagram[11] = BUCKETS_LOG2;
        }
        parse_anything(&datagram);
        prop_assert!(open(&keyring(1), CLUSTER, &datagram).is_err());
    }
}

fn message() -> Message {
    Message {
        header: Header {
            cluster: CLUSTER,
            slot: Slot::new(3).unwrap(),
            flags: NodeFlags::LISTEN.with(NodeFlags::POLL, true),
            share: 0x77,
            heartbeat_ms: 50,
            detection_ms: 250,
            session: 0x1122_3344_5566_7788,
            seq: 9,
            sent_us: 0xaabb_ccdd,
            config: ConfigId { generation: 4, hash: 0xcafe_f00d },
            staged: 5,
        },
        entries: [Entry::default(); SLOTS],
        body: Body::Heartbeat { claims: BucketSet::FULL },
        mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
    }
}

fn sealed(message: &Message) -> Vec<u8> {
    let mut datagram = Vec::new();
    seal(&keyring(1), message, &mut datagram);
    datagram
}

/// Puts `bytes` at `at` and makes the MAC right again.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    let mut datagram = sealed(&message());
    datagram[at..at + bytes.len()].copy_from_slice(bytes);
    let contents = datagram.len() - TAG_LEN;
    let mac = Hmac::<sha2::Sha256>::new_from_slice(&[1; 32]).unwrap();
    let tag = mac.chain_update(&datagram[..contents]).finalize().into_bytes();
    datagram[contents..].copy_from_slice(&tag[..TAG_LEN]);
    datagram
}

#[test]
fn fields_are_where_the_table_says() {
    let mut message = message();
    message.entries[2] = Entry {
        tag: 0x0102,
        ack: 0x0304,
        known: 0x0506,
        transfer_out: 7,
        transfer_accepted: 8,
        flags: EntryFlags::HEARS.relaying(NodeFlags::DRAINING),
        share: 9,
    };
    let datagram = sealed(&message);
    let header = [
        0x56, 0x44, 1, 1, 0, 53, 1, 3, 0, 0x21, 0x77, 12, 0, 50, 0, 250, // to D
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0, 0, 0, 0, 9, // to seq
        0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0, 4, 0xca, 0xfe, 0xf0, 0x0d, 0, 0, 0, 5,
    ];
    assert_eq!(datagram[..48], header);
    assert_eq!(datagram[68..78], [1, 2, 3, 4, 5, 6, 7, 8, 0x14, 9]);
    assert!(datagram[688..1200].iter().all(|&byte| byte == 0xff));
    assert_eq!(datagram[1200..1208], [1, 6, 2, 0, 0, 0, 0, 9]);
    assert_eq!(datagram.len(), 1224);
}

#[test]
fn each_reason_to_refuse_is_told() {
    let refused = |datagram: &[u8]| open(&keyring(1), CLUSTER, datagram).unwrap_err();
    let right = sealed(&message());
    assert!(open(&keyring(2), CLUSTER, &right).is_ok());
    assert_eq!(refused(&right[..1215]), OpenError::BadLength);
    assert_eq!(refused(&[0x56; MESSAGE_LEN_MAX + 1]), OpenError::BadLength);
    assert_eq!(refused(&[0; MESSAGE_LEN]), OpenError::BadMagic);
    assert_eq!(refused(&patched(6, &[3])), OpenError::UnknownKey);
    assert_eq!(refused(&patched(6, &[2])), OpenError::BadMac);
    assert_eq!(refused(&patched(2, &[2])), OpenError::OtherVersion);
    assert_eq!(refused(&patched(4, &[9, 9])), OpenError::OtherCluster);
    assert_eq!(refused(&patched(3, &[9])), OpenError::OtherType);
    assert_eq!(refused(&patched(3, &[2])), OpenError::BadField, "a transfer to nobody");
    assert_eq!(refused(&patched(7, &[64])), OpenError::BadField, "slot 64");
    assert_eq!(refused(&patched(11, &[13])), OpenError::BadField, "8192 buckets");
    assert_eq!(refused(&patched(16, &[0; 8])), OpenError::BadField, "session 0");
    assert_eq!(refused(&patched(36, &[0; 4])), OpenError::BadField, "generation 0");
    assert_eq!(refused(&patched(1200, &[1, 7])), OpenError::BadField, "a TLV beyond the end");
    for (at, why) in OpenError::ALL.into_iter().enumerate() {
        assert_eq!(why.index(), at);
    }
}

#[test]
fn unknown_tlvs_and_padding_are_skipped() {
    let mac = |datagram: &[u8]| open(&keyring(1), CLUSTER, datagram).unwrap().mac;
    assert_eq!(mac(&patched(1200, &[9, 6])), None);
    assert_eq!(mac(&patched(1200, &[0, 0, 0, 0, 0, 0, 0, 0])), None);
    assert_eq!(mac(&patched(1202, &[3])), None, "a group address is nobody's own");
}

#[test]
fn a_key_is_changed_without_a_pause() {
    let key = |id| (KeyId(id), [id; 32]);
    let steps = [
        Keyring::new(KeyId(1), [key(1)]),
        Keyring::new(KeyId(1), [key(1), key(2)]),
        Keyring::new(KeyId(2), [key(1), key(2)]),
        Keyring::new(KeyId(2), [key(2)]),
    ]
    .map(Result::unwrap);
    let mut datagram = Vec::new();
    for (from, to) in steps.iter().zip(&steps[1..]) {
        for (sender, receiver) in [(from, to), (to, from)] {
            seal(sender, &message(), &mut datagram);
            assert!(open(receiver, CLUSTER, &datagram).is_ok());
        }
    }
    seal(&steps[0], &message(), &mut datagram);
    assert_eq!(open(&steps[3], CLUSTER, &datagram).unwrap_err(), OpenError::UnknownKey);
}
