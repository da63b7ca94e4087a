//! Prefixes and key encodings of everything that is stored, in one file.
//!
//! The replicated tables and the node's private store are two key spaces. Numbers are big-endian, so that keys sort as they count.

use crate::id::{Digest, Epoch, KeyId, KeyVersion, Name, NodeId, OperationId, RequestId};
use crate::identity::PublicKey;

/// Starts a key.
fn key(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![prefix];
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

macro_rules! schema {
    ($($(#[$doc:meta])* $prefix_name:ident = $prefix:literal, $function:ident($($argument:ident: $type:ty => $bytes:expr),*);)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $function($($argument: $type),*) -> Vec<u8> {
                key($prefix, &[$(&$bytes[..]),*])
            }
            #[doc = concat!("Prefix of [`", stringify!($function), "()`].")]
            pub const $prefix_name: &[u8] = &[$prefix];
        )*
    };
}

/// Keys of the replicated tables.
pub mod replicated {
    use super::*;
    schema! {
        /// The cluster's record: one.
        CLUSTER = b'A', cluster();
        /// A member, by id.
        MEMBERS = b'M', member(node: NodeId => node.get().to_be_bytes());
        /// Store id of a member.
        STORES = b'S', store(node: NodeId => node.get().to_be_bytes());
        /// Identity of an administrator, by name.
        ADMINISTRATORS = b'a', administrator(name: &Name => name.as_str().as_bytes());
        /// The change that made a version of the membership.
        LINKS = b'm', link(version: u64 => version.to_be_bytes());
        /// The versions of the membership whose link has fewer heads than a barrier needs: one.
        OPEN_LINKS = b'o', open_links();
        /// The voters at a version of the membership.
        VOTERS = b'v', voters(version: u64 => version.to_be_bytes());
        /// The sets of voters that Raft may have: one.
        VOTER_SETS = b'W', voter_sets();
        /// A node that left, by number.
        DEPARTED = b'X', departed(node: NodeId => node.get().to_be_bytes());
        /// A key version that needs a share of a node, by node.
        HOLDINGS = b'H', holding(node: NodeId => node.get().to_be_bytes(), id: &KeyId => id.as_bytes(), number: KeyVersion => number.get().to_be_bytes());
        /// The nodes whose shares a version needs.
        HOLDERS = b'h', holders(id: &KeyId => id.as_bytes(), number: KeyVersion => number.get().to_be_bytes());
        /// How many key versions need a share of a node.
        HOLDING_COUNTS = b'n', holding_count(node: NodeId => node.get().to_be_bytes());
        /// A client, by name.
        CLIENTS = b'C', client(name: &Name => name.as_str().as_bytes());
        /// Name of a client, by its identity.
        CLIENT_NAMES = b'c', client_name(identity: &PublicKey => identity.as_bytes());
        /// A key, by id.
        KEYS = b'K', key_record(id: &KeyId => id.as_bytes());
        /// Id of a key, by name.
        KEY_NAMES = b'k', key_name(name: &Name => name.as_str().as_bytes());
        /// A version of a key.
        VERSIONS = b'V', version(id: &KeyId => id.as_bytes(), number: KeyVersion => number.get().to_be_bytes());
        /// A share operation that is not finished.
        OPERATIONS = b'O', operation(id: &OperationId => id.as_bytes());
        /// What became of an ordered request, by its client and id, until it expires.
        REQUESTS = b'R', request(client: &PublicKey => client.as_bytes(), id: &RequestId => id.as_bytes());
        /// When a request may be forgotten.
        REQUEST_EXPIRIES = b'r', request_expiry(expires_ms: u64 => expires_ms.to_be_bytes(), client: &PublicKey => client.as_bytes(), id: &RequestId => id.as_bytes());
        /// Where in the history an epoch of a version became active.
        PLACES = b'P', place(id: &KeyId => id.as_bytes(), number: KeyVersion => number.get().to_be_bytes(), epoch: Epoch => epoch.get().to_be_bytes());
        /// Shares of earlier epochs that a node has to erase, by node.
        ERASURES = b'E', erasure(node: NodeId => node.get().to_be_bytes(), id: &KeyId => id.as_bytes(), number: KeyVersion => number.get().to_be_bytes());
        /// A version whose shares are refreshed by schedule, by the time at which that is due.
        REFRESHES = b'F', refresh(at_ms: u64 => at_ms.to_be_bytes(), id: &KeyId => id.as_bytes(), number: KeyVersion => number.get().to_be_bytes());
        /// A version whose shares are to be erased, by the time at which that begins.
        DESTRUCTIONS = b'D', destruction(at_ms: u64 => at_ms.to_be_bytes(), id: &KeyId => id.as_bytes(), number: KeyVersion => number.get().to_be_bytes());
        /// Which rules a member knows.
        SUPPORTS = b's', support(node: NodeId => node.get().to_be_bytes());
        /// Node of the history tree, by level and position.
        TREE = b'T', tree(level: u8 => [level], position: u64 => position.to_be_bytes());
        /// Root of the history right after an index.
        ROOTS = b't', root(index: u64 => index.to_be_bytes());
    }
    /// Erasures of one node.
    #[must_use]
    pub fn erasures_of(node: NodeId) -> Vec<u8> {
        key(b'E', &[&node.get().to_be_bytes()])
    }
    /// Key versions that need a share of one node.
    #[must_use]
    pub fn holdings_of(node: NodeId) -> Vec<u8> {
        key(b'H', &[&node.get().to_be_bytes()])
    }
    /// Versions of one key.
    #[must_use]
    pub fn versions_of(id: &KeyId) -> Vec<u8> {
        key(b'V', &[id.as_bytes()])
    }
}

/// Keys of a node's private store.
pub mod private {
    use super::*;
    schema! {
        /// Format of the store, cluster, node and store id: one.
        FORMAT = b'f', format();
        /// Counter of boots: one.
        BOOT = b'b', boot();
        /// Highest boot id seen of a peer.
        PEER_BOOTS = b'p', peer_boot(node: NodeId => node.get().to_be_bytes());
        /// A sealed share record.
        SHARES = b's', share(key_id: &KeyId => key_id.as_bytes(), version: KeyVersion => version.get().to_be_bytes(), epoch: Epoch => epoch.get().to_be_bytes());
        /// This node's part in the attempt of an epoch: begun, or READY for a core.
        READY_VOTES = b'v', ready_vote(key_id: &KeyId => key_id.as_bytes(), version: KeyVersion => version.get().to_be_bytes(), epoch: Epoch => epoch.get().to_be_bytes());
        /// Core digest of this node's ACTIVATED vote for an epoch.
        ACTIVATED_VOTES = b'a', activated_vote(key_id: &KeyId => key_id.as_bytes(), version: KeyVersion => version.get().to_be_bytes(), epoch: Epoch => epoch.get().to_be_bytes());
        /// Intent to erase a share record.
        ERASE_INTENTS = b'e', erase_intent(record: &Digest => record.as_bytes());
        /// The start certificate.
        START = b'S', start();
        /// Proof that a voter signed two histories, by voter.
        EQUIVOCATIONS = b'q', equivocation(node: NodeId => node.get().to_be_bytes());
        /// What another node is blamed for, numbered from 1 for each node.
        BLAMES = b'B', blame(accused: NodeId => accused.get().to_be_bytes(), number: u64 => number.to_be_bytes());
        /// What `doctor` writes to time the disk; it means nothing: one.
        PROBE = b'z', probe();
    }
    /// Blames of one node.
    #[must_use]
    pub fn blames_of(accused: NodeId) -> Vec<u8> {
        key(b'B', &[&accused.get().to_be_bytes()])
    }
    /// Share records of one key version.
    #[must_use]
    pub fn shares_of(id: &KeyId, version: KeyVersion) -> Vec<u8> {
        key(b's', &[id.as_bytes(), &version.get().to_be_bytes()])
    }
}
