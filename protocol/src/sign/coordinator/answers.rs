//! What is checked of the answers of holders, and what is held against them.

use super::Plan;
use crate::blame::{Blame, Evidence};
use crate::error::Refusal;
use crate::id::NodeId;
use crate::sign::batch::{self, DecodedPairs, DecodedShares};
use crate::sign::{CheckedSigners, Commitments, Round1, Shares, misbehaved, misfit};
use crate::wire::Bytes;

const NO_SCALAR: &str = "sent a signature share that is no canonical scalar";
const NOT_SIGNED: &str = "did not sign the signature shares that it sent";
const NOT_ONE_EACH: &str = "did not send one signature share for each message";
const WRONG: &str = "sent a signature share that does not verify";

/// What a holder did, and what proves it.
pub(super) struct Misdeed {
    pub(super) refusal: Refusal,
    pub(super) blame: Option<Box<Blame>>,
}

impl From<Refusal> for Misdeed {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, blame: None }
    }
}

impl Plan {
    /// Checks a holder's commitments and decodes them.
    pub(super) fn admit(
        &self,
        from: NodeId,
        round1: &Round1,
        commitments: &Commitments,
    ) -> Result<DecodedPairs, Misdeed> {
        if commitments.node != from {
            return Err(misbehaved(from, "sent commitments of another node").into());
        }
        if let Some(what) = misfit(commitments, round1, self.coordinator) {
            return Err(misbehaved(from, &format!("sent commitments that {what}")).into());
        }
        let cluster = &self.group.core().cluster;
        if !self.members.get(&from).is_some_and(|key| commitments.verifies(key, cluster, &self.digest)) {
            return Err(misbehaved(from, "did not sign the commitments that it sent").into());
        }
        batch::decode_pairs(from, &commitments.pairs).map_err(|refusal| {
            let evidence = Evidence::BadCommitment { request: self.digest, commitments: commitments.clone() };
            Misdeed { refusal, blame: Some(Box::new(Blame { accused: from, evidence })) }
        })
    }

    /// Reads a holder's signature shares. Their signature is checked when one of them is wrong: it says who is to blame, and
    /// nothing about a share that is right.
    pub(super) fn read(
        &self,
        from: NodeId,
        signers: &CheckedSigners,
        shares: &Shares,
    ) -> Result<DecodedShares, Misdeed> {
        if shares.session != signers.round1.session || shares.package != signers.package {
            return Err(misbehaved(from, "signed another package than it was sent").into());
        }
        if shares.shares.len() != signers.round1.messages.len() {
            return Err(self.accuse(from, signers, shares, 0, NOT_ONE_EACH));
        }
        let decoded = batch::decode_shares(&shares.shares);
        decoded.map_err(|at| self.accuse(from, signers, shares, at, NO_SCALAR))
    }

    /// Checks the signature shares of one holder by themselves.
    pub(super) fn check(
        &self,
        from: NodeId,
        signers: &CheckedSigners,
        shares: &Shares,
        decoded: DecodedShares,
    ) -> Result<DecodedShares, Misdeed> {
        match batch::first_bad(&signers.packages, from, &decoded) {
            None => Ok(decoded),
            Some(at) => Err(self.wrong(from, signers, shares, at)),
        }
    }

    /// The share for message `at` does not verify.
    pub(super) fn wrong(&self, from: NodeId, signers: &CheckedSigners, shares: &Shares, at: usize) -> Misdeed {
        self.accuse(from, signers, shares, at, WRONG)
    }

    /// Shares that their sender did not sign; none when it did.
    pub(super) fn unsigned(&self, from: NodeId, shares: &Shares) -> Option<Misdeed> {
        (!self.is_signed(from, shares)).then(|| misbehaved(from, NOT_SIGNED).into())
    }

    fn is_signed(&self, from: NodeId, shares: &Shares) -> bool {
        let cluster = &self.group.core().cluster;
        self.members.get(&from).is_some_and(|key| shares.verifies(key, cluster, &self.digest))
    }

    /// What is held against a holder for its shares: with proof, where it signed them.
    fn accuse(&self, from: NodeId, signers: &CheckedSigners, shares: &Shares, at: usize, what: &str) -> Misdeed {
        if let Some(unsigned) = self.unsigned(from, shares) {
            return unsigned;
        }
        let round1 = &signers.round1;
        let evidence = Evidence::BadShare {
            request: round1.request.clone(),
            at: u32::try_from(at).unwrap_or(u32::MAX),
            message: round1.messages.get(at).cloned().unwrap_or_else(|| Bytes(Vec::new())),
            package: (*signers.round2).clone(),
            shares: shares.clone(),
        };
        Misdeed { refusal: misbehaved(from, what), blame: Some(Box::new(Blame { accused: from, evidence })) }
    }
}
