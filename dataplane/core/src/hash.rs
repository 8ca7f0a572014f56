//! The cluster's hash of client addresses.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

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
#[derive(Clone, Copy, Debug)]
pub struct ClientHash {
    hasher: SipHasher13,
    input: HashInput,
}

impl ClientHash {
    /// The hash under `key`, the same on all nodes.
    pub fn new(key: [u8; 16], input: HashInput) -> Self {
        Self { hasher: SipHasher13::new_with_key(&key), input }
    }

    /// What goes into the hash.
    pub fn input(&self) -> HashInput {
        self.input
    }

    /// The hash of a client. `port` is taken into account only with
    /// [`HashInput::AddressAndPort`]; a packet without ports passes 0.
    pub fn hash(&self, client: IpAddr, port: u16) -> u64 {
        let mut hasher = self.hasher;
        match client {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        if self.input == HashInput::AddressAndPort {
            hasher.write(&port.to_be_bytes());
        }
        hasher.finish()
    }
}
