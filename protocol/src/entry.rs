//! What is ordered through the log.

use std::collections::BTreeSet;

use crate::generate::Vote;
use crate::genesis::StartCertificate;
use crate::id::{BootId, Digest, Epoch, KeyId, KeyVersion, NodeId, OperationId};
use crate::identity::{Signature, tagged_hash};
use crate::membership::Endorsement;
use crate::redistribute::DealingVote;
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
    /// A holder erased shares that are no longer needed.
    Erased(Erasure),
    /// A vote in a Redistribute operation.
    Deal(DealingVote),
    /// A refresh by schedule; valid only when it is due.
    Refresh {
        /// The key.
        key: KeyId,
        /// The version.
        version: KeyVersion,
    },
    /// A node of a roster asks for a share that it does not have.
    Need(Need),
    /// A member says which rules it knows.
    Supports(Support),
    /// A voter's signature over the head of a change of the membership.
    Endorse(Endorsement),
}
crate::wire_enum!(Payload {
    1 => Start(certificate),
    2 => Tick,
    3 => Request(request),
    4 => Generate(vote),
    5 => Witness(witness),
    6 => Expire { operation, epoch },
    7 => Erased(erasure),
    8 => Deal(vote),
    9 => Refresh { key, version },
    10 => Need(need),
    11 => Supports(support),
    20 => Endorse(endorsement),
});

/// ACTIVATED by a holder, the signed head of the activation by a voter, or both.
#[derive(Debug, Clone)]
pub struct Witness {
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: KeyVersion,
    /// The epoch that became active.
    pub epoch: Epoch,
    /// Who says it.
    pub node: NodeId,
    /// By a holder, over the certificate core's digest.
    pub activated: Option<Signature>,
    /// By a voter, over the head of the activation.
    pub head: Option<Signature>,
}
crate::wire_struct!(Witness { key, version, epoch, node, activated, head });

/// A holder's word that the key slots of all its shares of a version below an epoch are overwritten.
#[derive(Debug, Clone)]
pub struct Erasure {
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: KeyVersion,
    /// Shares of this epoch and of later ones are not meant.
    pub below: Epoch,
    /// Who says it.
    pub node: NodeId,
    /// By the holder, over [`Erasure::payload`].
    pub signature: Signature,
}
crate::wire_struct!(Erasure { key, version, below, node, signature });

impl Erasure {
    /// What is signed.
    #[must_use]
    pub fn payload(key: &KeyId, version: KeyVersion, below: Epoch, node: NodeId) -> Vec<u8> {
        let mut w = Writer::default();
        key.put(&mut w);
        version.put(&mut w);
        below.put(&mut w);
        node.put(&mut w);
        w.finish()
    }
}

/// A roster node's word that it has no usable share of the current epoch: it was away, or its disk failed.
#[derive(Debug, Clone)]
pub struct Need {
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: KeyVersion,
    /// The epoch of which it has no share.
    pub epoch: Epoch,
    /// Who says it.
    pub node: NodeId,
    /// By the node, over [`Need::payload`].
    pub signature: Signature,
}
crate::wire_struct!(Need { key, version, epoch, node, signature });

impl Need {
    /// What is signed.
    #[must_use]
    pub fn payload(key: &KeyId, version: KeyVersion, epoch: Epoch, node: NodeId) -> Vec<u8> {
        let mut w = Writer::default();
        key.put(&mut w);
        version.put(&mut w);
        epoch.put(&mut w);
        node.put(&mut w);
        w.finish()
    }
}

/// A member's word on the rules that it knows.
#[derive(Debug, Clone)]
pub struct Support {
    /// Who says it.
    pub node: NodeId,
    /// In which of its boots: another program may run in the next.
    pub boot: BootId,
    /// The highest state version by whose rules it can apply.
    pub highest: u32,
    /// By the node, over [`Support::payload`].
    pub signature: Signature,
}
crate::wire_struct!(Support { node, boot, highest, signature });

impl Support {
    /// What is signed.
    #[must_use]
    pub fn payload(node: NodeId, boot: BootId, highest: u32) -> Vec<u8> {
        let mut w = Writer::default();
        node.put(&mut w);
        boot.put(&mut w);
        highest.put(&mut w);
        w.finish()
    }
}

/// A log entry as the state machine gets it; every kind has its leaf in the history.
#[derive(Debug, Clone, Copy)]
pub enum LogEntry<'a> {
    /// A new leader's empty entry.
    Blank,
    /// A membership entry of Raft.
    Membership {
        /// In its stored form.
        stored: &'a [u8],
        /// Who votes by it; none when it is a joint configuration.
        voters: Option<&'a BTreeSet<NodeId>>,
    },
    /// One of ours, canonical.
    Normal(&'a [u8]),
}

impl LogEntry<'_> {
    /// Hash of kind and content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Blank => tagged_hash("symbolon/entry/blank/v1", b""),
            Self::Membership { stored, .. } => tagged_hash("symbolon/entry/membership/v1", stored),
            Self::Normal(bytes) => tagged_hash("symbolon/entry/normal/v1", bytes),
        }
    }
}
