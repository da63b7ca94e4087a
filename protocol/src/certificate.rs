//! Key certificates: why a client may believe that a public key belongs to a key of the cluster.
//!
//! A certificate is the READY votes of all holders of one attempt, ACTIVATED votes of at least t of them, and the activation's
//! place in the one history under a head that a majority of the voters signed. READY alone proves nothing to a client (an aborted
//! attempt may have all of them), and READY with ACTIVATED alone would let t lying nodes certify a roster of themselves.

use std::collections::{BTreeMap, BTreeSet};

use crate::genesis::{Member, MemberRole};
use crate::history::{self, Head, Leaf};
use crate::id::{ClusterId, Digest, Epoch, KeyId, KeyVersion, Name, NodeId, Threshold};
use crate::identity::{Domain, PublicKey, Signature, tagged_hash};
use crate::pop::Pop;
use crate::request::Suite;
use crate::wire::{Wire, Writer, encode};

/// What every holder votes for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateCore {
    /// The cluster.
    pub cluster: ClusterId,
    /// The key.
    pub key: KeyId,
    /// Its name.
    pub name: Name,
    /// The version.
    pub version: KeyVersion,
    /// The algorithm.
    pub suite: Suite,
    /// The public key, 32 bytes (RFC 8032 encoding).
    pub public_key: [u8; 32],
    /// The nodes that are to hold shares, in the order that was signed for.
    pub roster: Vec<NodeId>,
    /// Those of them that do, in the order of the roster: at least `min(n, t+1)`. The others missed the epoch.
    pub holders: Vec<NodeId>,
    /// Holders needed for a signature.
    pub threshold: Threshold,
    /// Version of the membership under which the holders are known.
    pub membership: u64,
    /// Epoch of the shares.
    pub epoch: Epoch,
    /// Verifying share of each node of the roster, 32 bytes each, in its order; also of those that hold no share.
    pub verifying_shares: Vec<[u8; 32]>,
    /// Hash of everything that was said in the operation.
    pub transcript: Digest,
    /// Hash of the certificate core of the epoch before; none for the first.
    pub previous: Option<Digest>,
}
crate::wire_struct!(CertificateCore {
    cluster,
    key,
    name,
    version,
    suite,
    public_key,
    roster,
    holders,
    threshold,
    membership,
    epoch,
    verifying_shares,
    transcript,
    previous,
});

impl CertificateCore {
    /// What votes sign.
    #[must_use]
    pub fn digest(&self) -> Digest {
        tagged_hash("symbolon/certificate/v1", &encode(self))
    }
    /// The verifying share of a node of the roster.
    #[must_use]
    pub fn verifying_share(&self, node: NodeId) -> Option<&[u8; 32]> {
        self.roster.iter().position(|n| *n == node).and_then(|at| self.verifying_shares.get(at))
    }
}

/// Whether holders are a part of the roster, in its order, and enough of it: so many that one disk may be lost, or all.
#[must_use]
pub fn enough_holders(roster: &[NodeId], holders: &[NodeId], threshold: Threshold) -> bool {
    let mut rest = roster.iter();
    let in_order = holders.iter().all(|holder| rest.any(|node| node == holder));
    in_order && holders.len() >= roster.len().min(threshold.get() + 1)
}

/// A holder's word that its share is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Proof that the share, re-read from disk, belongs to the verifying share.
    pub possession: Pop,
    /// By the holder's identity, over the core's digest and the proof.
    pub signature: Signature,
}
crate::wire_struct!(Ready { possession, signature });

impl Ready {
    /// What is signed.
    #[must_use]
    pub fn payload(core: &Digest, possession: &Pop) -> Vec<u8> {
        let mut w = Writer::default();
        core.put(&mut w);
        possession.put(&mut w);
        w.finish()
    }
    /// Checks signature and proof of possession.
    #[must_use]
    pub fn verifies(&self, core: &CertificateCore, node: NodeId, key: &PublicKey) -> bool {
        let digest = core.digest();
        let signed =
            key.verifies(Domain::Ready, &core.cluster, &Self::payload(&digest, &self.possession), &self.signature);
        signed && core.verifying_share(node).is_some_and(|share| self.possession.verifies(share, digest.as_bytes()))
    }
}

/// Where in the history the version became active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// Hash of the entry.
    pub entry: Digest,
    /// Hash of the ordered writes of the entry.
    pub writes: Digest,
    /// Path from the leaf to the head's root (RFC 6962 section 2.1.1), 32 bytes each.
    pub path: Vec<Digest>,
    /// The head right after the entry.
    pub head: Head,
}
crate::wire_struct!(Activation { entry, writes, path, head });

/// A certificate as it is stored and shown; it may not have all of its votes yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCertificate {
    /// What was voted for.
    pub core: CertificateCore,
    /// READY of each holder.
    pub ready: BTreeMap<NodeId, Ready>,
    /// ACTIVATED of holders: by the holder's identity, over the core's digest.
    pub activated: BTreeMap<NodeId, Signature>,
    /// The place in the history.
    pub activation: Activation,
    /// The head's signatures by voters.
    pub heads: BTreeMap<NodeId, Signature>,
}
crate::wire_struct!(KeyCertificate { core, ready, activated, activation, heads });

/// Why a certificate is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateError {
    /// It was made for another cluster or under another membership.
    Foreign,
    /// It names a version of the membership that is not known here.
    Membership(u64),
    /// Roster, holders, threshold and verifying shares do not fit together.
    Shape,
    /// A READY vote is missing, does not verify, or is of a node that is no holder.
    Ready(Option<NodeId>),
    /// Fewer than t ACTIVATED votes verify.
    Activated,
    /// The activation is not in the history of the head.
    History,
    /// Fewer than a majority of the voters signed the head.
    Heads,
}

impl std::fmt::Display for CertificateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign => f.write_str("the certificate was made for another cluster or membership"),
            Self::Membership(version) => {
                write!(f, "the certificate names membership {version}, which is not known here")
            }
            Self::Shape => {
                f.write_str("roster, holders, threshold and verifying shares of the certificate do not fit together")
            }
            Self::Ready(None) => f.write_str("a READY vote of the certificate is missing"),
            Self::Ready(Some(node)) => write!(f, "the READY vote of node {node} in the certificate does not verify"),
            Self::Activated => f.write_str("fewer holders than the threshold activated this key version"),
            Self::History => f.write_str("the activation is not in the history under the head of the certificate"),
            Self::Heads => f.write_str("fewer than a majority of the voters signed the head of the certificate"),
        }
    }
}

impl std::error::Error for CertificateError {}

impl KeyCertificate {
    /// Whether all votes are there; [`KeyCertificate::verify`] says whether they are good.
    #[must_use]
    pub fn is_complete(&self, voters: usize) -> bool {
        self.activated.len() >= self.core.threshold.get() && self.heads.len() > voters / 2
    }

    /// Checks everything against a cluster with one membership.
    ///
    /// # Errors
    /// [`CertificateError`] with the first rule that is broken.
    pub fn verify(
        &self,
        cluster: &ClusterId,
        membership: u64,
        members: &BTreeMap<NodeId, Member>,
    ) -> Result<(), CertificateError> {
        self.verify_under(cluster, |version| (version == membership).then_some(members))
    }

    /// Checks everything against a cluster and its members at each version, who are known from genesis and signed changes, never
    /// from the node that shows the certificate. The members may have changed between the beginning of the ceremony, which the
    /// core names, and the activation, which the head names.
    ///
    /// # Errors
    /// [`CertificateError`] with the first rule that is broken.
    pub fn verify_under<'a>(
        &self,
        cluster: &ClusterId,
        members: impl Fn(u64) -> Option<&'a BTreeMap<NodeId, Member>>,
    ) -> Result<(), CertificateError> {
        let core = &self.core;
        let activated = self.activation.head.membership;
        if core.cluster != *cluster || core.membership > activated {
            return Err(CertificateError::Foreign);
        }
        let at = |version: u64| members(version).ok_or(CertificateError::Membership(version));
        let (begun, activated) = (at(core.membership)?, at(activated)?);
        let roster: BTreeSet<NodeId> = core.roster.iter().copied().collect();
        let shape = roster.len() == core.roster.len()
            && core.verifying_shares.len() == core.roster.len()
            && Threshold::new(core.threshold.get(), core.roster.len()) == Some(core.threshold)
            && enough_holders(&core.roster, &core.holders, core.threshold);
        if !shape {
            return Err(CertificateError::Shape);
        }
        self.verify_votes(begun)?;
        self.verify_place()?;
        self.verify_heads(cluster, activated)
    }

    fn verify_votes(&self, members: &BTreeMap<NodeId, Member>) -> Result<(), CertificateError> {
        if let Some(stranger) = self.ready.keys().find(|node| !self.core.holders.contains(node)) {
            return Err(CertificateError::Ready(Some(*stranger)));
        }
        for node in &self.core.holders {
            let vote = self.ready.get(node).ok_or(CertificateError::Ready(None))?;
            let member = members.get(node).ok_or(CertificateError::Ready(Some(*node)))?;
            if !vote.verifies(&self.core, *node, &member.key) {
                return Err(CertificateError::Ready(Some(*node)));
            }
        }
        let digest = self.core.digest();
        let good = self.activated.iter().filter(|(node, signature)| {
            self.core.holders.contains(node)
                && members.get(node).is_some_and(|m| verifies_activated(&m.key, &self.core.cluster, &digest, signature))
        });
        if good.count() < self.core.threshold.get() {
            return Err(CertificateError::Activated);
        }
        Ok(())
    }

    fn verify_place(&self) -> Result<(), CertificateError> {
        let head = &self.activation.head;
        let outcome = crate::outcome::Outcome::activated(&self.core);
        let leaf = Leaf {
            index: head.index,
            entry: self.activation.entry,
            outcome: outcome.digest(),
            writes: self.activation.writes,
        };
        // The activation is the last leaf of the head's tree, so its place needs no trust in a number.
        if history::includes_last(&leaf.hash(), head.index, &self.activation.path, &head.root) {
            Ok(())
        } else {
            Err(CertificateError::History)
        }
    }

    fn verify_heads(&self, cluster: &ClusterId, members: &BTreeMap<NodeId, Member>) -> Result<(), CertificateError> {
        let voters: BTreeMap<_, _> = members.iter().filter(|(_, m)| m.role == MemberRole::Voter).collect();
        let payload = encode(&self.activation.head);
        let good = self.heads.iter().filter(|(node, signature)| {
            voters.get(node).is_some_and(|m| m.key.verifies(Domain::Head, cluster, &payload, signature))
        });
        if good.count() > voters.len() / 2 { Ok(()) } else { Err(CertificateError::Heads) }
    }
}

/// Checks an ACTIVATED vote.
#[must_use]
pub fn verifies_activated(key: &PublicKey, cluster: &ClusterId, core: &Digest, signature: &Signature) -> bool {
    key.verifies(Domain::Activated, cluster, core.as_bytes(), signature)
}
