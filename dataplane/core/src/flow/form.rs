//! What a table's words look like, so that a process knows whether it can read another's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bucket::Bucket;
use crate::hash::ClientHash;
use crate::wire::protocol::{TCP, UDP};

use super::entry::{Entry, FlowState, Seconds};
use super::key::{FlowKey, Keyer};

/// How a table names flows and keeps them, as far as samples show: the keys and the words of a few
/// flows. It is different as soon as anything differs that they are made of: the table's secret,
/// the cluster's hash key and what it hashes, the functions, the layout of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form(pub [u64; Form::WORDS]);

impl Form {
    /// Words of a form: a key and an entry of each sample.
    pub const WORDS: usize = 8;

    /// The form of a table with `secret` whose flows are hashed by `client_hash`.
    pub fn new(secret: [u64; 2], client_hash: &ClientHash) -> Self {
        let keyer = Keyer::new(secret);
        let client4 = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
        let client6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7));
        let vip4 = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
        let vip6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53));
        let hash = |client, port| client_hash.hash(client, port);
        let (hash4, hash6) = (hash(client4, 49_152), hash(client6, 65_535));
        let samples = [
            (hash4, keyer.flow(hash4, 49_152, vip4, 443, TCP), FlowState::Established),
            (hash6, keyer.flow(hash6, 65_535, vip6, 53, TCP), FlowState::Closing),
            (hash4, keyer.flow(hash4, 49_152, vip4, 443, UDP), FlowState::Datagram),
            (hash6, keyer.fragments(hash6, vip6, 0, 0x1234_5678), FlowState::Fragment),
        ];
        let seen = Seconds::of_ns(0x9abc * 1_000_000_000);
        let words = |(hash, key, state): (u64, FlowKey, FlowState)| {
            [key.word(), Entry::new(key, Bucket::of_hash(hash), seen, state).word()]
        };
        let mut form = [0; Self::WORDS];
        for (to, word) in form.iter_mut().zip(samples.into_iter().flat_map(words)) {
            *to = word;
        }
        Self(form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::HashInput;

    const KEY: [u8; 16] = *b"a cluster's key!";
    const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    #[test]
    fn whatever_names_flows_shows_in_the_form() {
        let address = ClientHash::new(KEY, HashInput::Address);
        let form = Form::new(SECRET, &address);
        assert_eq!(form, Form::new(SECRET, &address));
        let other_key = [&KEY[..15], b"?"].concat().try_into().unwrap();
        let others = [
            Form::new([SECRET[0] ^ 1, SECRET[1]], &address),
            Form::new([SECRET[0], SECRET[1] ^ 1], &address),
            Form::new(SECRET, &ClientHash::new(KEY, HashInput::AddressAndPort)),
            Form::new(SECRET, &ClientHash::new(other_key, HashInput::Address)),
        ];
        for other in others {
            for (ours, theirs) in form.0.iter().zip(other.0) {
                assert_ne!(*ours, theirs);
            }
        }
    }

    /// Who changes these makes every node lose its flows when it is upgraded: the changelog must say
    /// so.
    #[test]
    fn the_form_stays_from_release_to_release() {
        let form = Form::new(SECRET, &ClientHash::new(KEY, HashInput::Address));
        let words = [
            0xc261_1524_3c6f_f56d,
            0xc261_1524_4ffc_d5e2,
            0xf085_930d_7cad_bdb2,
            0xf085_930d_01fc_d5e3,
            0xcc77_a821_3f10_3f94,
            0xcc77_a821_4ffc_d5e4,
            0xc159_6d89_bbc7_a5d0,
            0xc159_6d89_81fc_d5e5,
        ];
        assert_eq!(form.0, words, "{:x?}", form.0);
    }
}
