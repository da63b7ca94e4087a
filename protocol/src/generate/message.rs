//! What the nodes of an attempt say: three kinds of signed messages to each other, two kinds of votes to the log.
//!
//! Sizes are those of the stand-alone encoding, with `t` the threshold and `n` the size of the roster.

use std::collections::BTreeMap;
use std::fmt;

use frost_ed25519::keys::SigningShare;
use frost_ed25519::keys::dkg::{round1, round2};
use zeroize::Zeroizing;

use super::Ceremony;
use crate::certificate::{CertificateCore, Ready};
use crate::error::{ErrorCode, Refusal};
use crate::id::{ClusterId, Digest, Epoch, NodeId, OperationId, Threshold};
use crate::identity::{Domain, Identity, PublicKey, Signature, tagged_hash};
use crate::limits;
use crate::wire::{Bytes, Reader, Wire, WireError, Writer, decode, encode};

/// The largest message: an echo of the largest roster, bytes.
pub const MESSAGE_BYTES: usize = 105 + 98 * limits::ROSTER_NODES;

/// FROST's header: format 0, then the CRC-32 of `FROST-ED25519-SHA512-v1`.
const FROST_HEADER: [u8; 5] = [0, 0xb1, 0x69, 0xf0, 0xda];

/// Secret bytes on their way to one node. Wiped when dropped, never shown, cloned or compared.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secret bytes", self.0.len())
    }
}

impl Wire for SecretBytes {
    fn put(&self, w: &mut Writer) {
        w.bytes(&self.0);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self(Zeroizing::new(r.bytes("secret bytes")?.to_vec())))
    }
}

/// The kinds of messages, in the order in which they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Commitment and proof of knowledge.
    Round1,
    /// What was heard in round 1.
    Echo,
    /// A subshare.
    Round2,
}
crate::wire_enum!(Kind { 1 => Round1, 2 => Echo, 3 => Round2 });

/// A message as others can speak of it without its content: digest of the body, and its sender's signature. 96 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// [`Body::digest`].
    pub body: Digest,
    /// By the sender.
    pub signature: Signature,
}
crate::wire_struct!(Seen { body, signature });

/// What a message says.
#[derive(Debug)]
pub enum Body {
    /// The same for everybody. Commitment to the sender's polynomial and proof that it knows the constant term.
    Round1 {
        /// FROST's round-1 package, 71 + 32·t bytes.
        package: Bytes,
    },
    /// The same for everybody. What the sender heard in round 1, its own message included: exactly the roster.
    Echo {
        /// By sender.
        seen: BTreeMap<NodeId, Seen>,
    },
    /// For one node. The sender's polynomial at the receiver's number.
    Round2 {
        /// FROST's round-2 package, 37 bytes.
        package: SecretBytes,
    },
}
crate::wire_enum!(Body { 1 => Round1 { package }, 2 => Echo { seen }, 3 => Round2 { package } });

impl Body {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Round1 { .. } => Kind::Round1,
            Self::Echo { .. } => Kind::Echo,
            Self::Round2 { .. } => Kind::Round2,
        }
    }

    /// What is signed in its place, so that a signature can be shown to others without a secret body.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut w = Writer::default();
        self.put(&mut w);
        tagged_hash("symbolon/generate/body/v1", &Zeroizing::new(w.finish()))
    }
}

/// A message from node to node, over their authenticated and confidential channel. 100 bytes and the body; 102 for one node.
///
/// The body stands last: an encoder's growing buffer then never leaves a copy of a secret body behind.
#[derive(Debug)]
pub struct SignedMessage {
    /// [`Ceremony::digest`] of the attempt.
    pub ceremony: Digest,
    /// The sender.
    pub from: NodeId,
    /// The receiver; none when everybody gets the same.
    pub to: Option<NodeId>,
    /// By the sender, over ceremony, sender, receiver, kind and digest of the body.
    pub signature: Signature,
    /// What it says.
    pub body: Body,
}
crate::wire_struct!(SignedMessage { ceremony, from, to, signature, body });

/// What the signature covers, 68 or 70 bytes. The preimage names cluster and domain.
fn payload(ceremony: &Digest, from: NodeId, to: Option<NodeId>, kind: Kind, body: &Digest) -> Vec<u8> {
    let mut w = Writer::default();
    ceremony.put(&mut w);
    from.put(&mut w);
    to.put(&mut w);
    kind.put(&mut w);
    body.put(&mut w);
    w.finish()
}

impl SignedMessage {
    /// Signs a message.
    #[must_use]
    pub fn sign(
        cluster: &ClusterId,
        ceremony: Digest,
        from: NodeId,
        to: Option<NodeId>,
        body: Body,
        identity: &Identity,
    ) -> Self {
        let payload = payload(&ceremony, from, to, body.kind(), &body.digest());
        let signature = identity.sign(Domain::Generate, cluster, &payload);
        Self { ceremony, from, to, signature, body }
    }

    /// Digest of the body, and the signature.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen { body: self.body.digest(), signature: self.signature }
    }

    /// Checks the signature.
    #[must_use]
    pub fn verifies(&self, cluster: &ClusterId, key: &PublicKey) -> bool {
        let payload = payload(&self.ceremony, self.from, self.to, self.body.kind(), &self.body.digest());
        key.verifies(Domain::Generate, cluster, &payload, &self.signature)
    }

    /// The stand-alone encoding; secret when the body is.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(encode(self))
    }

    /// Reads the stand-alone encoding.
    ///
    /// # Errors
    /// [`WireError`] when it is larger than [`MESSAGE_BYTES`] or was not made by [`SignedMessage::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MESSAGE_BYTES {
            return Err(WireError::Invalid("the size of a Generate message"));
        }
        decode(bytes)
    }
}

/// Reads FROST's round-1 package: `header(5) || t || t points(32) || 64 || R(32) || z(32)`.
///
/// None when it has another length (a commitment for another threshold), holds a point that is the identity or not of prime
/// order, or is not the one encoding of its content: postcard ignores what follows and accepts longer forms of numbers.
#[must_use]
pub fn parse_round1(bytes: &[u8], threshold: Threshold) -> Option<round1::Package> {
    if bytes.len() != 71 + 32 * threshold.get() {
        return None;
    }
    let package = round1::Package::deserialize(bytes).ok()?;
    let points = package.commitment().serialize().ok()?.len();
    (points == threshold.get() && package.serialize().ok()? == bytes).then_some(package)
}

/// Reads FROST's round-2 package: `header(5) || f(j)(32)`, a canonical scalar; none when it is anything else.
///
/// Read and written here and not by FROST, whose growing buffers would leave parts of the subshare in freed memory.
#[must_use]
pub fn parse_round2(package: &SecretBytes) -> Option<round2::Package> {
    let share = package.expose().strip_prefix(&FROST_HEADER)?;
    Some(round2::Package::new(SigningShare::deserialize(share).ok()?))
}

/// The bytes of FROST's round-2 package, 37.
#[must_use]
pub fn put_round2(package: &round2::Package) -> SecretBytes {
    let share = Zeroizing::new(package.signing_share().serialize());
    let mut bytes = Zeroizing::new(Vec::with_capacity(FROST_HEADER.len() + share.len()));
    bytes.extend_from_slice(&FROST_HEADER);
    bytes.extend_from_slice(&share);
    SecretBytes(bytes)
}

/// Proof that a node said two different things where it may say one: two of its signatures over different bodies of one
/// kind, for one receiver, in one attempt. It needs nobody's word and holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Who signed both.
    pub node: NodeId,
    /// The receiver of both.
    pub to: Option<NodeId>,
    /// The kind of both.
    pub kind: Kind,
    /// One of them.
    pub first: Seen,
    /// The other.
    pub second: Seen,
}
crate::wire_struct!(Evidence { node, to, kind, first, second });

impl Evidence {
    /// Whether the node with this key signed both, and they differ.
    #[must_use]
    pub fn verifies(&self, cluster: &ClusterId, ceremony: &Digest, key: &PublicKey) -> bool {
        let signed = |seen: &Seen| {
            let payload = payload(ceremony, self.node, self.to, self.kind, &seen.body);
            key.verifies(Domain::Generate, cluster, &payload, &seen.signature)
        };
        self.first.body != self.second.body && signed(&self.first) && signed(&self.second)
    }
}

/// Why an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A message that is malformed, or not signed by the peer whose channel it came through.
    BadMessage,
    /// A proof of knowledge that does not verify.
    BadProof,
    /// A subshare that does not lie on the polynomial that its dealer committed to.
    BadShare,
    /// A node said different things to different nodes, or twice; always with evidence.
    SplitView,
    /// Nothing was heard of a node until the deadline.
    Unresponsive,
    /// The result is not what it must be: a bug, or a node's own disk. Names at most the reporter.
    WrongResult,
    /// The reporter restarted during the attempt. Names nobody.
    Restarted,
}
crate::wire_enum!(FaultKind {
    1 => BadMessage, 2 => BadProof, 3 => BadShare, 4 => SplitView, 5 => Unresponsive, 6 => WrongResult, 7 => Restarted,
});

impl FaultKind {
    /// Its name in outcomes and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadMessage => "bad_message",
            Self::BadProof => "bad_proof",
            Self::BadShare => "bad_share",
            Self::SplitView => "split_view",
            Self::Unresponsive => "unresponsive",
            Self::WrongResult => "wrong_result",
            Self::Restarted => "restarted",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a node says of a fault. Without evidence it is the reporter's word and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultReport {
    /// What happened.
    pub kind: FaultKind,
    /// Whose doing it is, ascending; empty when nobody can be named.
    pub culprits: Vec<NodeId>,
    /// Proof; exactly for [`FaultKind::SplitView`].
    pub evidence: Option<Evidence>,
}
crate::wire_struct!(FaultReport { kind, culprits, evidence });

impl FaultReport {
    /// A report without evidence.
    #[must_use]
    pub fn new(kind: FaultKind, culprits: impl IntoIterator<Item = NodeId>) -> Self {
        let mut culprits: Vec<NodeId> = culprits.into_iter().collect();
        culprits.sort_unstable();
        culprits.dedup();
        Self { kind, culprits, evidence: None }
    }

    /// A report of a split view.
    #[must_use]
    pub fn split(evidence: Evidence) -> Self {
        Self { kind: FaultKind::SplitView, culprits: vec![evidence.node], evidence: Some(evidence) }
    }

    /// What the reporter signs.
    fn payload(&self, ceremony: &Digest, reporter: NodeId) -> Vec<u8> {
        let mut w = Writer::default();
        ceremony.put(&mut w);
        reporter.put(&mut w);
        self.put(&mut w);
        w.finish()
    }

    /// Culprits are in the roster, in order; a split view has evidence that proves it, nothing else has any. The only report in a
    /// redistribution is that a holder restarted: what else goes wrong there shows in its other votes, and in their absence.
    fn is_sound(&self, ceremony: &Ceremony, key_of: impl Fn(NodeId) -> Option<PublicKey>) -> bool {
        let ascending = self.culprits.is_sorted_by(|a, b| a < b);
        let known = self.culprits.iter().all(|node| ceremony.roster.contains(node));
        let proved = match &self.evidence {
            None => self.kind != FaultKind::SplitView,
            Some(evidence) => {
                self.kind == FaultKind::SplitView
                    && self.culprits == [evidence.node]
                    && key_of(evidence.node)
                        .is_some_and(|key| evidence.verifies(&ceremony.cluster, &ceremony.digest(), &key))
            }
        };
        let restarted = self.kind == FaultKind::Restarted && self.culprits.is_empty();
        (ceremony.base.is_none() || restarted) && ascending && known && proved
    }
}

/// What a holder has ordered through the log; at most 931 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vote {
    /// Its share is durable.
    Ready {
        /// Who votes.
        node: NodeId,
        /// For what.
        core: CertificateCore,
        /// Proof and signature.
        ready: Ready,
    },
    /// The attempt must end.
    Fault {
        /// Who says so.
        node: NodeId,
        /// The operation.
        operation: OperationId,
        /// The attempt.
        epoch: Epoch,
        /// Why.
        report: FaultReport,
        /// By the reporter, over ceremony, reporter and report.
        signature: Signature,
    },
}
crate::wire_enum!(Vote { 1 => Ready { node, core, ready }, 2 => Fault { node, operation, epoch, report, signature } });

impl Vote {
    /// Signs a report.
    #[must_use]
    pub fn fault(ceremony: &Ceremony, node: NodeId, report: FaultReport, identity: &Identity) -> Self {
        let payload = report.payload(&ceremony.digest(), node);
        let signature = identity.sign(Domain::Fault, &ceremony.cluster, &payload);
        Self::Fault { node, operation: ceremony.operation, epoch: ceremony.epoch, report, signature }
    }

    /// Who votes.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        match self {
            Self::Ready { node, .. } | Self::Fault { node, .. } => *node,
        }
    }

    /// Checks a vote against the attempt that runs.
    ///
    /// # Errors
    /// `permission_denied` when the voter is no holder of the attempt, `wrong_state` when the vote is for another attempt,
    /// `invalid_argument` when a report is not sound, `bad_signature` when signature or proof do not verify.
    pub fn verify(&self, ceremony: &Ceremony, key_of: impl Fn(NodeId) -> Option<PublicKey>) -> Result<(), Refusal> {
        let node = self.node();
        let key = key_of(node).filter(|_| ceremony.holders.contains(&node));
        let Some(key) = key else {
            let message = format!("node {node} is no holder in this attempt");
            return Err(Refusal::new(ErrorCode::PermissionDenied, message));
        };
        let (same_attempt, sound, signed) = match self {
            Self::Ready { core, ready, .. } => (ceremony.fits(core), true, ready.verifies(core, node, &key)),
            Self::Fault { operation, epoch, report, signature, .. } => (
                *operation == ceremony.operation && *epoch == ceremony.epoch,
                report.is_sound(ceremony, &key_of),
                key.verifies(Domain::Fault, &ceremony.cluster, &report.payload(&ceremony.digest(), node), signature),
            ),
        };
        let refuse = |code, what| Err(Refusal::new(code, format!("the vote of node {node} {what}")));
        if !same_attempt {
            return refuse(ErrorCode::WrongState, "is for another attempt");
        }
        if !sound {
            return refuse(
                ErrorCode::InvalidArgument,
                "reports a fault that it does not prove, or strangers as culprits",
            );
        }
        if !signed {
            return refuse(ErrorCode::BadSignature, "does not verify");
        }
        Ok(())
    }
}
