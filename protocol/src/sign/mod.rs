//! Threshold signing in two rounds: FROST(Ed25519, SHA-512), RFC 9591.
//!
//! ```text
//! coordinator                               holder
//!   Round1 to t+1 (request, messages) ---->    decides alone whether it may sign; makes nonces
//!                                     <----  Commitments, signed by its node identity
//!   Round2 to the first t (their      ---->    checks them; takes its nonces out; computes its shares
//!     Commitments)                    <----  Shares, signed together with the digest of Round2
//!   adds up, verifies
//! ```
//!
//! Both rounds together are a session. One that stalls is followed by another without the signers that it waits for, and the
//! first that is complete wins (ROAST): [`coordinator`]. Any node coordinates and none is trusted with it: messages are bound by
//! the client's signature, commitments and packages by the holders' signatures, and these prove who lied ([`crate::blame`]).
//! Nonces live in memory only, for seconds ([`nonce`]). [`holder`] and [`coordinator`] are the two machines;
//! [`arithmetic`] is what they compute. Layouts and sizes: the message types here; `docs/spec`.

pub mod arithmetic;
mod batch;
pub mod coordinator;
pub mod holder;
mod key;
pub mod nonce;
mod served;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use self::key::{HolderShare, KeyGroup};
use crate::certificate::CertificateCore;
use crate::error::{Detail, ErrorCode, Refusal};
use crate::id::{BootId, ClusterId, Digest, Epoch, KeyId, KeyVersion, NodeId, SigningSession};
use crate::identity::{Domain, Identity, PublicKey, Signature, tagged_hash};
use crate::request::SignedRequest;
use crate::wire::{Bytes, Wire, Writer};

/// The coordinator asks a holder for nonce commitments, one pair for each message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round1 {
    /// The session.
    pub session: SigningSession,
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: KeyVersion,
    /// The epoch of the shares.
    pub epoch: Epoch,
    /// The client's request, verbatim.
    pub request: SignedRequest,
    /// The messages that the request names by digest.
    pub messages: Vec<Bytes>,
}
crate::wire_struct!(Round1 { session, key, version, epoch, request, messages });

/// Commitments to one hiding and one binding nonce, two compressed points (RFC 9591 section 5.1), 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitmentPair {
    /// To the hiding nonce.
    pub hiding: [u8; 32],
    /// To the binding nonce.
    pub binding: [u8; 32],
}
crate::wire_struct!(CommitmentPair { hiding, binding });

/// A holder's commitments for one session; 160 bytes and 64 for each message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commitments {
    /// The session.
    pub session: SigningSession,
    /// The coordinator that they were made for: nobody else can use them to frame the holder.
    pub coordinator: NodeId,
    /// The holder.
    pub node: NodeId,
    /// The start of the holder in which the nonces live.
    pub boot: BootId,
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: KeyVersion,
    /// The epoch of the share.
    pub epoch: Epoch,
    /// Number of the first nonce pair in this start of the holder; the others follow.
    pub first_sequence: u64,
    /// One pair for each message.
    pub pairs: Vec<CommitmentPair>,
    /// By the holder's identity, over [`Commitments::payload`].
    pub signature: Signature,
}
crate::wire_struct!(Commitments {
    session,
    coordinator,
    node,
    boot,
    key,
    version,
    epoch,
    first_sequence,
    pairs,
    signature,
});

impl Commitments {
    /// What is signed: every field but the signature, then the digest of the request.
    #[must_use]
    pub fn payload(&self, request: &Digest) -> Vec<u8> {
        let Self { session, coordinator, node, boot, key, version, epoch, first_sequence, pairs, signature: _ } = self;
        let mut w = Writer::default();
        session.put(&mut w);
        coordinator.put(&mut w);
        node.put(&mut w);
        boot.put(&mut w);
        key.put(&mut w);
        version.put(&mut w);
        epoch.put(&mut w);
        first_sequence.put(&mut w);
        pairs.put(&mut w);
        request.put(&mut w);
        w.finish()
    }
    /// Whether every pair is two canonical points of prime order, neither the identity, as the reference judges it.
    pub(crate) fn has_good_points(&self) -> bool {
        self.pairs.iter().all(arithmetic::is_good_pair)
    }
    /// Puts the holder's signature on.
    #[must_use]
    pub fn signed(mut self, identity: &Identity, cluster: &ClusterId, request: &Digest) -> Self {
        self.signature = identity.sign(Domain::Commitment, cluster, &self.payload(request));
        self
    }
    /// Whether the holder with this identity signed them for this request.
    #[must_use]
    pub fn verifies(&self, key: &PublicKey, cluster: &ClusterId, request: &Digest) -> bool {
        key.verifies(Domain::Commitment, cluster, &self.payload(request), &self.signature)
    }
}

/// Whether two signed commitments prove that their holder showed different things to different nodes. An honest holder signs
/// at most one for each start, coordinator, session and request, however often it is asked.
#[must_use]
pub fn proves_split_view(
    a: &Commitments,
    b: &Commitments,
    key: &PublicKey,
    cluster: &ClusterId,
    request: &Digest,
) -> bool {
    let same_place = (a.session, a.coordinator, a.node, a.boot) == (b.session, b.coordinator, b.node, b.boot);
    let differ = contradict(a, b);
    same_place && differ && a.verifies(key, cluster, request) && b.verifies(key, cluster, request)
}

/// Whether two statements say different things; another signature over the same content is no other statement.
fn contradict(a: &Commitments, b: &Commitments) -> bool {
    let nothing = Digest::from_bytes([0; 32]);
    a.payload(&nothing) != b.payload(&nothing)
}

/// The coordinator shows every signer who signs with which commitments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round2 {
    /// The session.
    pub session: SigningSession,
    /// The signed commitments of the signers, strictly ascending by node.
    pub signers: Vec<Commitments>,
}
crate::wire_struct!(Round2 { session, signers });

impl Round2 {
    /// The package digest: fixes signers, commitments and, through the request, the messages.
    #[must_use]
    pub fn digest(&self, request: &Digest) -> Digest {
        let mut w = Writer::default();
        self.put(&mut w);
        request.put(&mut w);
        tagged_hash("symbolon/signing-package/v1", &w.finish())
    }
}

impl Round2 {
    /// Whether the share of a signer for a message does not satisfy its equation (RFC 9591 section 5.4), as the reference
    /// judges it. `at` is the number of the message; what cannot be calculated is nobody's fault.
    pub(crate) fn is_wrong_share(
        &self,
        core: &CertificateCore,
        node: NodeId,
        at: usize,
        message: &Bytes,
        share: &[u8; 32],
    ) -> bool {
        let pairs: Option<BTreeMap<_, _>> =
            self.signers.iter().map(|signer| Some((signer.node, *signer.pairs.get(at)?))).collect();
        pairs.is_some_and(|pairs| arithmetic::is_wrong_share(core, node, &pairs, &message.0, share))
    }
}

/// A holder's signature shares; 116 bytes and 32 for each message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// The session.
    pub session: SigningSession,
    /// Digest of the package that they were computed for.
    pub package: Digest,
    /// One canonical scalar for each message (RFC 9591 section 5.2).
    pub shares: Vec<[u8; 32]>,
    /// By the holder's identity, over [`Shares::payload`].
    pub signature: Signature,
}
crate::wire_struct!(Shares { session, package, shares, signature });

impl Shares {
    /// What is signed: session, package digest, digest of the request, shares.
    #[must_use]
    pub fn payload(&self, request: &Digest) -> Vec<u8> {
        let Self { session, package, shares, signature: _ } = self;
        let mut w = Writer::default();
        session.put(&mut w);
        package.put(&mut w);
        request.put(&mut w);
        shares.put(&mut w);
        w.finish()
    }
    /// Puts the holder's signature on.
    #[must_use]
    pub fn signed(mut self, identity: &Identity, cluster: &ClusterId, request: &Digest) -> Self {
        self.signature = identity.sign(Domain::Package, cluster, &self.payload(request));
        self
    }
    /// Whether the holder with this identity signed them for this request.
    #[must_use]
    pub fn verifies(&self, key: &PublicKey, cluster: &ClusterId, request: &Digest) -> bool {
        key.verifies(Domain::Package, cluster, &self.payload(request), &self.signature)
    }
}

/// Stands in a message until it is signed.
const UNSIGNED: Signature = Signature::from_bytes([0; 64]);

/// A Round2 whose statements were checked and whose points were decoded, by the coordinator or by a holder of the same node.
pub struct CheckedSigners {
    round1: Arc<Round1>,
    round2: Arc<Round2>,
    request: Digest,
    package: Digest,
    packages: batch::Packages,
}

impl CheckedSigners {
    /// Only for statements that were checked: `decoded` holds the points of `round2.signers`.
    fn assemble(
        group: &Arc<KeyGroup>,
        round1: Arc<Round1>,
        round2: Arc<Round2>,
        request: Digest,
        decoded: &[(NodeId, batch::DecodedPairs)],
    ) -> Result<Self, Refusal> {
        let packages = batch::packages(group, decoded, &round1.messages)?;
        let package = round2.digest(&request);
        Ok(Self { round1, round2, request, package, packages })
    }
    /// The client's request.
    #[must_use]
    pub fn request(&self) -> &SignedRequest {
        &self.round1.request
    }
    /// What is sent to the signers.
    #[must_use]
    pub fn round2(&self) -> &Arc<Round2> {
        &self.round2
    }
}

impl fmt::Debug for CheckedSigners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedSigners(session {}, package {})", self.round1.session, self.package)
    }
}

/// n - t + 1, with n holders: so many sessions can be needed for one request and no more, since each one that does not end well
/// is held up by a holder that is in no later one.
#[must_use]
pub fn sessions_allowed(core: &CertificateCore) -> usize {
    core.holders.len().saturating_sub(core.threshold.get()).saturating_add(1)
}

/// What is wrong with commitments as an answer to a Round1 of a coordinator, signature and points apart.
fn misfit(commitments: &Commitments, round1: &Round1, coordinator: NodeId) -> Option<&'static str> {
    let Commitments { session, coordinator: made_for, key, version, epoch, pairs, .. } = commitments;
    if *session != round1.session || *made_for != coordinator {
        Some("are for another session")
    } else if (*key, *version) != (round1.key, round1.version) {
        Some("are for another key")
    } else if *epoch != round1.epoch {
        Some("are for another epoch")
    } else if pairs.len() != round1.messages.len() {
        Some("are not one for each message")
    } else {
        None
    }
}

/// A refusal that names a node which broke the protocol.
fn misbehaved(node: NodeId, what: &str) -> Refusal {
    Refusal::new(ErrorCode::PeerMisbehaved, format!("node {node} {what}")).with("node", Detail::Text(node.to_string()))
}
