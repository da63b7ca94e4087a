//! What is ordered through the log.

use crate::generate::Vote;
use crate::genesis::StartCertificate;
use crate::id::{Digest, Epoch, KeyId, KeyVersion, NodeId, OperationId};
use crate::identity::{Signature, tagged_hash};
use crate::request::SignedRequest;
use crate::wire::{Wire, Writer};

/// A log entry of ours: when its proposer ordered it, and what.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The proposer's clock, milliseconds since 1970. State time is the highest of all entries so far.
    pub time_ms: u64,
    /// What is ordered.
    pub payload: Payload,
}
crate::wire_struct!(Entry { time_ms, payload });

/// What can be ordered.
#[derive(Debug, Clone)]
pub enum Payload {
    /// The first entry: all stores were new.
    Start(StartCertificate),
    /// Lets the replicated clock go on.
    Tick,
    /// A client's request.
    Request(SignedRequest),
    /// A vote in a Generate operation.
    Generate(Vote),
    /// A node's word that a version became active.
    Witness(Witness),
    /// The deadline of an attempt passed; valid only then.
    Expire {
        /// The operation.
        operation: OperationId,
        /// The attempt.
        epoch: Epoch,
    },
    /// A holder erased its share of a version that is being destroyed.
    Erased(Erasure),
}
crate::wire_enum!(Payload {
    1 => Start(certificate),
    2 => Tick,
    3 => Request(request),
    4 => Generate(vote),
    5 => Witness(witness),
    6 => Expire { operation, epoch },
    7 => Erased(erasure),
});

/// ACTIVATED by a holder, the signed head of the activation by a voter, or both.
#[derive(Debug, Clone)]
pub struct Witness {
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: KeyVersion,
    /// Who says it.
    pub node: NodeId,
    /// By a holder, over the certificate core's digest.
    pub activated: Option<Signature>,
    /// By a voter, over the head of the activation.
    pub head: Option<Signature>,
}
crate::wire_struct!(Witness { key, version, node, activated, head });

/// A holder's word that the key slot of its share is overwritten.
#[derive(Debug, Clone)]
pub struct Erasure {
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: KeyVersion,
    /// Who says it.
    pub node: NodeId,
    /// By the holder, over [`Erasure::payload`].
    pub signature: Signature,
}
crate::wire_struct!(Erasure { key, version, node, signature });

impl Erasure {
    /// What is signed.
    #[must_use]
    pub fn payload(key: &KeyId, version: KeyVersion, node: NodeId) -> Vec<u8> {
        let mut w = Writer::default();
        key.put(&mut w);
        version.put(&mut w);
        node.put(&mut w);
        w.finish()
    }
}

/// A log entry as the state machine gets it; every kind has its leaf in the history.
#[derive(Debug, Clone, Copy)]
pub enum LogEntry<'a> {
    /// A new leader's empty entry.
    Blank,
    /// A membership entry of Raft, in its stored form.
    Membership(&'a [u8]),
    /// One of ours, canonical.
    Normal(&'a [u8]),
}

impl LogEntry<'_> {
    /// Hash of kind and content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Blank => tagged_hash("symbolon/entry/blank/v1", b""),
            Self::Membership(bytes) => tagged_hash("symbolon/entry/membership/v1", bytes),
            Self::Normal(bytes) => tagged_hash("symbolon/entry/normal/v1", bytes),
        }
    }
}
