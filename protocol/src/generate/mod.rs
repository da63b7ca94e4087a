//! Generate: every node of a roster ends up with one share of a new key, and the whole key exists nowhere.
//!
//! FROST key generation (`frost_core::keys::dkg`: Pedersen with proofs of knowledge) among all n of the roster, with an echo
//! round against split views and an n-of-n vote at the end. Any fault ends the attempt; nobody is thrown out and nothing is
//! repaired while it runs. `docs/spec/generate.md` has layouts, rounds, checks and blame.
//!
//! Read [`message`] (what can be said), then [`machine`] (who says it when), then [`transcript`] (what was said, and what is
//! checked of it). Here stand what an attempt is, and the votes with the rules that bind them across attempts and restarts.
//!
//! Never here: sockets, files, clocks, the log. Who drives a machine moves its messages, seals its share, proposes its votes.

pub mod machine;
pub mod message;
pub mod transcript;

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests;

use std::fmt;

use curve25519_dalek::{EdwardsPoint, Scalar};
use rand_core::{CryptoRng, RngCore};
use zeroize::{Zeroize as _, Zeroizing};

use crate::certificate::{CertificateCore, Ready, enough_holders};
use crate::error::{ErrorCode, Refusal};
use crate::id::{ClusterId, Digest, Epoch, KeyId, KeyVersion, Name, NodeId, OperationId, Threshold};
use crate::identity::{Domain, Identity, Signature, tagged_hash};
use crate::pop::Pop;
use crate::request::{RosterPlan, Suite};
use crate::schema::private as schema;
use crate::step::Step;
use crate::wire::encode;

pub use machine::{Advance, Effect, Generate, Ignored, Input, Phase, Start, StartRefused};
pub use message::{FaultKind, FaultReport, SignedMessage, Vote};

/// One attempt of a share operation, as the replicated state records it. Every attempt takes the next epoch.
///
/// Without a base it makes a new key (Generate); with one it gives a key new shares ([`crate::redistribute`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceremony {
    /// The cluster.
    pub cluster: ClusterId,
    /// The operation: the same for all of its attempts.
    pub operation: OperationId,
    /// The key.
    pub key: KeyId,
    /// Its name.
    pub name: Name,
    /// The version that gets shares.
    pub version: KeyVersion,
    /// The algorithm.
    pub suite: Suite,
    /// Future holders, in the order that was signed for.
    pub roster: Vec<NodeId>,
    /// Who must store a share before the result counts, in the order of the roster: all of it for a new key, else at least
    /// `min(n, t+1)` of it. The others have a verifying share and no share until the next redistribution.
    pub holders: Vec<NodeId>,
    /// Holders needed for a signature.
    pub threshold: Threshold,
    /// Version of the membership under which the holders are known.
    pub membership: u64,
    /// Epoch of the attempt.
    pub epoch: Epoch,
    /// Where the shares come from; none for a new key.
    pub base: Option<Base>,
}
crate::wire_struct!(Ceremony {
    cluster,
    operation,
    key,
    name,
    version,
    suite,
    roster,
    holders,
    threshold,
    membership,
    epoch,
    base,
});

/// The epoch whose shares are dealt out anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Digest of its certificate core.
    pub core: Digest,
    /// Holders of that epoch who may deal, ascending; at least its threshold.
    pub dealers: Vec<NodeId>,
}
crate::wire_struct!(Base { core, dealers });

impl Ceremony {
    /// Binds every message and vote to this attempt: FROST's proofs of knowledge have no context of their own.
    #[must_use]
    pub fn digest(&self) -> Digest {
        tagged_hash("symbolon/ceremony/v1", &encode(self))
    }

    /// Checks roster, holders and threshold. What of a base can be checked only beside it, [`Ceremony::follows`] checks.
    ///
    /// # Errors
    /// `invalid_argument` when a node is named twice, there are too many, the threshold does not fit, or the holders are not the
    /// part of the roster that they must be.
    pub fn check(&self) -> Result<(), Refusal> {
        RosterPlan { roster: self.roster.clone(), spares: Vec::new(), threshold: self.threshold }.check()?;
        let complete = self.base.is_some() || self.holders == self.roster;
        if complete && enough_holders(&self.roster, &self.holders, self.threshold) {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::InvalidArgument, "the holders are not enough of the roster, or not in its order"))
    }

    /// Whether this attempt gives new shares to the key of a certificate core: its digest is the base, it is of the same
    /// version and of an earlier epoch, and those who may deal are holders of it, ascending, and at least its threshold.
    #[must_use]
    pub fn follows(&self, core: &CertificateCore) -> bool {
        let Some(base) = &self.base else { return false };
        base.core == core.digest()
            && core.cluster == self.cluster
            && core.key == self.key
            && core.name == self.name
            && core.version == self.version
            && core.suite == self.suite
            && core.epoch < self.epoch
            && base.dealers.is_sorted_by(|a, b| a < b)
            && base.dealers.len() >= core.threshold.get()
            && base.dealers.iter().all(|dealer| core.holders.contains(dealer))
    }

    /// The certificate core that this attempt ends with.
    pub(crate) fn core(
        &self,
        public_key: [u8; 32],
        verifying_shares: Vec<[u8; 32]>,
        transcript: Digest,
    ) -> CertificateCore {
        CertificateCore {
            cluster: self.cluster,
            key: self.key,
            name: self.name.clone(),
            version: self.version,
            suite: self.suite,
            public_key,
            roster: self.roster.clone(),
            holders: self.holders.clone(),
            threshold: self.threshold,
            membership: self.membership,
            epoch: self.epoch,
            verifying_shares,
            transcript,
            previous: self.base.as_ref().map(|base| base.core),
        }
    }

    /// Whether a certificate core can be the result of this attempt.
    #[must_use]
    pub fn fits(&self, core: &CertificateCore) -> bool {
        core.cluster == self.cluster
            && core.key == self.key
            && core.name == self.name
            && core.version == self.version
            && core.suite == self.suite
            && core.roster == self.roster
            && core.holders == self.holders
            && core.threshold == self.threshold
            && core.membership == self.membership
            && core.epoch == self.epoch
            && core.verifying_shares.len() == self.roster.len()
            && core.previous == self.base.as_ref().map(|base| base.core)
    }

    /// Where this node keeps its [`Participation`].
    #[must_use]
    pub fn record_key(&self) -> Vec<u8> {
        schema::ready_vote(&self.key, self.version, self.epoch)
    }
}

/// A signing share: a canonical scalar, 32 bytes. Wiped when dropped, never shown, cloned or compared.
///
/// Boxed, because a move copies a value and leaves the old bytes behind; of a box only the address moves.
pub struct ShareSecret(Box<Zeroizing<[u8; 32]>>);

impl ShareSecret {
    /// A copy of bytes that the caller wipes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        let mut secret = Box::new(Zeroizing::new([0; 32]));
        secret.copy_from_slice(bytes);
        Self(secret)
    }
    /// The bytes, for the one place that seals them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
    /// The verifying share `s·B` that belongs to it; none when the bytes are no canonical scalar.
    #[must_use]
    pub fn verifying_share(&self) -> Option<[u8; 32]> {
        let mut s = Option::<Scalar>::from(Scalar::from_canonical_bytes(*self.expose()))?;
        let point = EdwardsPoint::mul_base(&s).compress().to_bytes();
        s.zeroize();
        Some(point)
    }
}

impl fmt::Debug for ShareSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShareSecret(not shown)")
    }
}

/// This node's part in one attempt, durable under [`Ceremony::record_key`].
///
/// Polynomials live in RAM only, so a node that lost its RAM must not begin again: a second, different round-1 message in one
/// attempt is what a cheat sends, and peers would rightly say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Participation {
    /// It said something. Durable before the first message leaves.
    Begun,
    /// It voted READY for this certificate core. Durable before the vote leaves.
    Ready(Digest),
}
crate::wire_enum!(Participation { 1 => Begun, 2 => Ready(core) });

/// What this node's private store says of a key version before an attempt begins or a vote is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnVotes {
    /// Its part in this attempt so far.
    pub participation: Option<Participation>,
    /// Whether it voted ACTIVATED for this version: in any epoch, before a Generate; in the attempt's epoch or a later one,
    /// before a Redistribute, which begins from an epoch that was activated.
    pub activated: bool,
}

impl OwnVotes {
    /// Whether [`Generate`] may be started.
    ///
    /// # Errors
    /// [`VoteRefused::Begun`] after a restart within the attempt, [`VoteRefused::Activated`] when the version has a key.
    pub const fn may_begin(&self) -> Result<(), VoteRefused> {
        match (self.activated, self.participation) {
            (true, _) => Err(VoteRefused::Activated),
            (false, Some(_)) => Err(VoteRefused::Begun),
            (false, None) => Ok(()),
        }
    }

    /// Whether READY may be voted for a core of this attempt: at most one core per epoch, and none once the version has a key
    /// (for a redistribution: shares of this epoch or a later one).
    ///
    /// That every lower epoch was committed or aborted before needs no check: an attempt begins with the entry that ends the
    /// one before it.
    ///
    /// # Errors
    /// [`VoteRefused::OtherCore`] or [`VoteRefused::Activated`].
    pub fn may_vote_ready(&self, core: &Digest) -> Result<(), VoteRefused> {
        if self.activated {
            return Err(VoteRefused::Activated);
        }
        match &self.participation {
            Some(Participation::Ready(voted)) if voted != core => Err(VoteRefused::OtherCore),
            Some(Participation::Ready(_) | Participation::Begun) | None => Ok(()),
        }
    }
}

/// Why a vote is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteRefused {
    /// This node took part in the attempt before it restarted; what it knew then is gone.
    Begun,
    /// This node voted for another core in this epoch.
    OtherCore,
    /// This node activated a key for this version.
    Activated,
    /// The share does not belong to this node's verifying share in the core.
    WrongShare,
}

impl fmt::Display for VoteRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begun => "this node took part in the attempt before it restarted",
            Self::OtherCore => "this node voted for another result in this epoch",
            Self::Activated => "this node activated a key for this version already",
            Self::WrongShare => "the stored share does not belong to this node's verifying share",
        })
    }
}

impl std::error::Error for VoteRefused {}

/// READY for a core whose share is staged on this node's disk; for a node that restarted between staging and voting. (The
/// machine votes by itself.) Writes [`Participation::Ready`]; the vote comes out only against the receipt.
///
/// # Errors
/// [`VoteRefused::OtherCore`], [`VoteRefused::Activated`] or [`VoteRefused::WrongShare`].
pub fn ready_vote(
    me: NodeId,
    core: &CertificateCore,
    secret: &ShareSecret,
    own: OwnVotes,
    identity: &Identity,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Step<Effect>, VoteRefused> {
    let digest = core.digest();
    own.may_vote_ready(&digest)?;
    let vote = sign_ready(me, core, secret, identity, rng).ok_or(VoteRefused::WrongShare)?;
    let key = schema::ready_vote(&core.key, core.version, core.epoch);
    Ok(Step::default().write(key, Some(encode(&Participation::Ready(digest)))).effect(Effect::Propose(vote)))
}

/// The vote itself; none when the share is not the one of `me` in the core.
pub(crate) fn sign_ready(
    me: NodeId,
    core: &CertificateCore,
    secret: &ShareSecret,
    identity: &Identity,
    rng: &mut (impl RngCore + CryptoRng),
) -> Option<Vote> {
    if core.verifying_share(me) != Some(&secret.verifying_share()?) {
        return None;
    }
    let digest = core.digest();
    let possession = Pop::prove(secret.expose(), digest.as_bytes(), rng)?;
    let signature = identity.sign(Domain::Ready, &core.cluster, &Ready::payload(&digest, &possession));
    Some(Vote::Ready { node: me, core: core.clone(), ready: Ready { possession, signature } })
}

/// ACTIVATED for a core whose commit this node has applied, once per version and epoch. `existing` is this node's durable
/// ACTIVATED record of the epoch. The signature is the step's only effect; the record is durable before it comes out.
///
/// It is called for a committed core only, never for one of an attempt whose abort was applied.
///
/// # Errors
/// [`VoteRefused::OtherCore`] when the record names another core.
pub fn activated_vote(
    core: &CertificateCore,
    identity: &Identity,
    existing: Option<Digest>,
) -> Result<Step<Signature>, VoteRefused> {
    let digest = core.digest();
    let step = match existing {
        Some(voted) if voted != digest => return Err(VoteRefused::OtherCore),
        Some(_) => Step::default(),
        None => {
            let key = schema::activated_vote(&core.key, core.version, core.epoch);
            Step::default().write(key, Some(encode(&digest)))
        }
    };
    Ok(step.effect(identity.sign(Domain::Activated, &core.cluster, digest.as_bytes())))
}
