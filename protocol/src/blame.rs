//! Blame: that a node broke the signing protocol, proved by its own signed statements and by nothing else.
//!
//! Nobody's word counts. A statement is judged by the package that its author named beside it, so what a coordinator changes on
//! the way, or shows to others, proves nothing against whoever did not sign it. An honest node signs commitments to good points
//! only, one set for each session, and shares only for a package that it checked, over the messages that the client signed for:
//! there is nothing that it signed, or that can be made of what it signed, from which a blame against it follows.

use std::collections::BTreeMap;
use std::fmt;

use crate::certificate::CertificateCore;
use crate::id::{Digest, NodeId};
use crate::identity::PublicKey;
use crate::request::{MessageDigest, SignedRequest};
use crate::sign::{Commitments, Round2, Shares, proves_split_view};
use crate::wire::Bytes;

/// What a node did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlameKind {
    /// Signed a signature share that is wrong, or not one for each message.
    BadShare,
    /// Signed two different commitments for one session.
    SplitView,
    /// Signed a commitment that is no point of prime order.
    BadCommitment,
}
crate::wire_enum!(BlameKind { 1 => BadShare, 2 => SplitView, 3 => BadCommitment });

impl BlameKind {
    /// Its name in the status and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadShare => "bad_share",
            Self::SplitView => "split_view",
            Self::BadCommitment => "bad_commitment",
        }
    }
}

impl fmt::Display for BlameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a node signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// Shares for a package, and the message for which one is wrong.
    BadShare {
        /// The client's request.
        request: SignedRequest,
        /// Number of the message, from 0.
        at: u32,
        /// The message, at most [`crate::limits::MESSAGE_BYTES`].
        message: Bytes,
        /// Who signs with which commitments.
        package: Round2,
        /// The shares; they name the package.
        shares: Shares,
    },
    /// Two statements for one start, coordinator, session and request.
    SplitView {
        /// Digest of the request.
        request: Digest,
        /// One of them.
        first: Commitments,
        /// The other.
        second: Commitments,
    },
    /// A statement with a bad point.
    BadCommitment {
        /// Digest of the request.
        request: Digest,
        /// The statement.
        commitments: Commitments,
    },
}
crate::wire_enum!(Evidence {
    1 => BadShare { request, at, message, package, shares },
    2 => SplitView { request, first, second },
    3 => BadCommitment { request, commitments },
});

/// A node, and what proves that it broke the protocol. At most 1 MiB and 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    /// Who.
    pub accused: NodeId,
    /// What proves it.
    pub evidence: Evidence,
}
crate::wire_struct!(Blame { accused, evidence });

impl Blame {
    /// What the node did, if the evidence is good.
    #[must_use]
    pub fn kind(&self) -> BlameKind {
        match self.evidence {
            Evidence::BadShare { .. } => BlameKind::BadShare,
            Evidence::SplitView { .. } => BlameKind::SplitView,
            Evidence::BadCommitment { .. } => BlameKind::BadCommitment,
        }
    }

    /// Two statements of one node that differ.
    #[must_use]
    pub fn split_view(request: Digest, first: Commitments, second: Commitments) -> Self {
        Self { accused: first.node, evidence: Evidence::SplitView { request, first, second } }
    }

    /// Whether the evidence proves it. `core` is the certified one of the key version and epoch in question, and `keys` are the
    /// identity keys of the members: everything else is in the evidence, and anybody comes to the same result.
    #[must_use]
    pub fn verifies(&self, core: &CertificateCore, keys: &BTreeMap<NodeId, PublicKey>) -> bool {
        let accused = self.accused;
        let Some(key) = keys.get(&accused) else { return false };
        match &self.evidence {
            Evidence::BadShare { request, at, message, package, shares } => {
                is_bad_share(core, keys, accused, (request, *at, message), package, shares)
            }
            Evidence::SplitView { request, first, second } => {
                first.node == accused && proves_split_view(first, second, key, &core.cluster, request)
            }
            Evidence::BadCommitment { request, commitments } => {
                commitments.node == accused
                    && commitments.verifies(key, &core.cluster, request)
                    && !commitments.has_good_points()
            }
        }
    }
}

fn is_bad_share(
    core: &CertificateCore,
    keys: &BTreeMap<NodeId, PublicKey>,
    accused: NodeId,
    (request, at, message): (&SignedRequest, u32, &Bytes),
    package: &Round2,
    shares: &Shares,
) -> bool {
    let Ok(request) = request.verify(&core.cluster) else { return false };
    let digest = request.digest();
    let named = &request.body().messages;
    let Ok(at) = usize::try_from(at) else { return false };
    // The accused says that these are its shares for this package; the package says for which commitments, and through the
    // digest of the request for which messages.
    let is_said = keys.get(&accused).is_some_and(|key| shares.verifies(key, &core.cluster, &digest))
        && shares.session == package.session
        && shares.package == package.digest(&digest)
        && named.get(at) == Some(&MessageDigest::of(&message.0));
    let is_signer = package.signers.iter().any(|signer| signer.node == accused);
    // Every commitment is its signer's own word, for this session and these shares of the key.
    let is_theirs = |signer: &Commitments| {
        let Commitments { session, key, version, epoch, node, .. } = signer;
        *session == package.session
            && (*key, *version, *epoch) == (core.key, core.version, core.epoch)
            && core.holders.contains(node)
            && keys.get(node).is_some_and(|key| signer.verifies(key, &core.cluster, &digest))
    };
    let in_order = package.signers.iter().zip(package.signers.iter().skip(1)).all(|(a, b)| a.node < b.node);
    if !is_said || !is_signer || !in_order || !package.signers.iter().all(is_theirs) {
        return false;
    }
    match shares.shares.get(at) {
        Some(share) if shares.shares.len() == named.len() => package.is_wrong_share(core, accused, at, message, share),
        // An honest holder signs one for each message.
        Some(_) | None => true,
    }
}

/// A blame as the node that found it keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlameRecord {
    /// When it was found, by the node's clock, milliseconds since 1970.
    pub time_ms: u64,
    /// The certified core that it verifies with; later epochs have other verifying shares.
    pub core: CertificateCore,
    /// The blame.
    pub blame: Blame,
}
crate::wire_struct!(BlameRecord { time_ms, core, blame });
