//! The signing side of one holder: nonces, answers and counters. Nothing of it survives a restart, on purpose.
//!
//! The caller decides first whether a request may be signed (`contribute`) and shows the [`Permit`]. [`Holder::round1`] and
//! [`Holder::round2`] do everything in one call. A driver that does not want to hold a lock while points are decoded and
//! shares are computed takes the parts: [`Holder::lookup`], [`Pending::check`], [`Holder::take`], [`Taken::sign`],
//! [`Holder::keep`]; only the first, third and last need the holder, and none of them computes anything.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rand_core::{CryptoRng, RngCore};

use super::batch::{self, DecodedPairs};
use super::key::HolderShare;
use super::nonce::{NoncePool, OneShotNonces, Open, Slot};
use super::served::Served;
use super::{
    CheckedSigners, Commitments, Round1, Round2, Shares, UNSIGNED, contradict, misbehaved, misfit, sessions_allowed,
};
use crate::blame::Blame;
use crate::certificate::CertificateCore;
use crate::contribute::Permit;
use crate::error::{ErrorCode, Refusal};
use crate::id::{BootId, Digest, NodeId, SigningSession};
use crate::identity::{Identity, PublicKey};
use crate::limits;
use crate::request::{Action, VerifiedRequest};
use crate::wire::encode;

/// With what, when and for whom a holder acts.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The node's clock, milliseconds since 1970.
    pub now_ms: u64,
    /// The peer that asks, from the channel and never from the message.
    pub coordinator: NodeId,
    /// That the request may be signed.
    pub permit: &'a Permit,
    /// The share.
    pub share: &'a HolderShare,
    /// The node's identity.
    pub identity: &'a Identity,
}

impl Context<'_> {
    fn core(&self) -> &CertificateCore {
        self.share.group().core()
    }

    /// Checks that permit, share and message are about the same key, version and epoch, and the permit about the request.
    fn check(&self, round1: &Round1, request: &Digest) -> Result<(), Refusal> {
        let named = (round1.key, round1.version, round1.epoch);
        let permit = self.permit;
        if permit.request_digest() != *request {
            return Err(Refusal::new(ErrorCode::Internal, "the permit was given for another request"));
        }
        let core = self.core();
        let held = (core.key, core.version, core.epoch);
        let allowed = (permit.key(), permit.version(), permit.epoch());
        if allowed == named && held == named {
            return Ok(());
        }
        let message = format!(
            "the coordinator asks for version {} epoch {} of the key, this node holds version {} epoch {} of key `{}` and may \
             use version {} epoch {}",
            round1.version,
            round1.epoch,
            core.version,
            core.epoch,
            core.name,
            permit.version(),
            permit.epoch(),
        );
        // One of the two states is behind: that passes.
        let changed = held == allowed && core.key == round1.key;
        Err(Refusal::new(if changed { ErrorCode::EpochChanged } else { ErrorCode::NotFresh }, message))
    }
}

/// A refusal in round 2, and whether somebody must look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignRefusal {
    /// What the coordinator is told.
    pub refusal: Refusal,
    /// Whether a second use of nonces was attempted: no honest coordinator does that.
    pub alarm: bool,
    /// Signers that committed to different things in the two packages, if [`Blame::verifies`] says so.
    pub blames: Vec<Blame>,
}

impl From<Refusal> for SignRefusal {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, alarm: false, blames: Vec::new() }
    }
}

impl fmt::Display for SignRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.refusal)
    }
}

impl std::error::Error for SignRefusal {}

/// Commitments of this node, decoded by itself.
pub struct OwnPairs(pub(super) DecodedPairs);

/// What a Round2 meets.
#[derive(Debug)]
pub enum Lookup {
    /// An open session.
    Open(Pending),
    /// The answer that was given to the same package before.
    Answered(Shares),
}

/// The public side of an open session: what its package is checked against.
pub struct Pending {
    coordinator: NodeId,
    round1: Arc<Round1>,
    request: Digest,
    commitments: Arc<Commitments>,
    own: DecodedPairs,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending(session {})", self.round1.session)
    }
}

impl Pending {
    /// Checks a package: its signers, their statements and signatures, and every point.
    ///
    /// # Errors
    /// `peer_misbehaved`. The nonces stay open: the coordinator may still send the right package.
    pub fn check(
        &self,
        share: &HolderShare,
        members: &BTreeMap<NodeId, PublicKey>,
        message: &Arc<Round2>,
    ) -> Result<CheckedSigners, Refusal> {
        let refuse = |what: &str| Err(misbehaved(self.coordinator, what));
        let core = share.group().core();
        let signers = &message.signers;
        if message.session != self.round1.session {
            return refuse("mixed up two sessions");
        }
        if signers.len() < core.threshold.get() || signers.len() > core.holders.len() {
            return refuse(&format!("named {} signers; the key needs {}", signers.len(), core.threshold));
        }
        if !signers.iter().zip(signers.iter().skip(1)).all(|(a, b)| a.node < b.node) {
            return refuse("named signers out of order or twice");
        }
        match signers.iter().find(|signer| signer.node == share.node()) {
            None => return refuse("sent a package that this node is no signer of"),
            Some(own) if *own != *self.commitments => return refuse("changed the commitments of this node"),
            Some(_) => {}
        }
        let mut decoded = Vec::with_capacity(signers.len());
        for signer in signers {
            let pairs =
                if signer.node == share.node() { self.own.clone() } else { self.check_other(core, members, signer)? };
            decoded.push((signer.node, pairs));
        }
        let round1 = Arc::clone(&self.round1);
        CheckedSigners::assemble(share.group(), round1, Arc::clone(message), self.request, &decoded)
    }

    fn check_other(
        &self,
        core: &CertificateCore,
        members: &BTreeMap<NodeId, PublicKey>,
        signer: &Commitments,
    ) -> Result<DecodedPairs, Refusal> {
        let refuse = |what: &str| {
            let what = format!("passed on commitments of node {} that {what}", signer.node);
            Err(misbehaved(self.coordinator, &what))
        };
        let Some(key) = members.get(&signer.node).filter(|_| core.holders.contains(&signer.node)) else {
            return refuse("holds no share of the key");
        };
        if let Some(what) = misfit(signer, &self.round1, self.coordinator) {
            return refuse(what);
        }
        if !signer.verifies(key, &core.cluster, &self.request) {
            return refuse("are not signed by it for this request");
        }
        batch::decode_pairs(signer.node, &signer.pairs)
    }
}

/// Nonces on their way to their one use.
#[derive(Debug)]
pub struct Taken {
    nonces: OneShotNonces,
    signers: Arc<CheckedSigners>,
}

impl Taken {
    /// Computes the shares and signs them with the node's identity.
    ///
    /// # Errors
    /// `internal`. The nonces are lost with it.
    pub fn sign(self, share: &HolderShare, identity: &Identity) -> Result<Shares, Refusal> {
        let Self { nonces, signers } = self;
        let core = share.group().core();
        let round1 = &signers.round1;
        if (core.key, core.version, core.epoch) != (round1.key, round1.version, round1.epoch) {
            return Err(Refusal::new(ErrorCode::Internal, "the share is not the one that the nonces were made for"));
        }
        let shares = nonces.sign(share, &signers.packages)?;
        let shares = Shares { session: round1.session, package: signers.package, shares, signature: UNSIGNED };
        Ok(shares.signed(identity, &core.cluster, &signers.request))
    }
}

/// The signing side of one node in one start.
#[derive(Debug)]
pub struct Holder {
    boot: BootId,
    pool: NoncePool,
    served: Served,
}

impl Holder {
    /// Nothing is open yet.
    #[must_use]
    pub fn new(boot: BootId) -> Self {
        Self { boot, pool: NoncePool::default(), served: Served::default() }
    }

    /// The nonces and counters.
    #[must_use]
    pub fn pool(&self) -> &NoncePool {
        &self.pool
    }

    /// Wipes what outlived its time; called with every Round1, and by the driver when nothing comes.
    pub fn expire(&mut self, now_ms: u64) {
        self.pool.expire(now_ms);
        self.served.expire(now_ms);
    }

    /// What this node's own coordinator needs of its own commitments: they need no check.
    #[must_use]
    pub fn own_pairs(&self, coordinator: NodeId, session: SigningSession, now_ms: u64) -> Option<OwnPairs> {
        self.pool.get(&(coordinator, session), now_ms).map(|open| OwnPairs(open.nonces.commitments()))
    }

    /// The request of a session, for the decision that comes before round 2. None when the session is unknown.
    #[must_use]
    pub fn request_of(
        &self,
        coordinator: NodeId,
        session: SigningSession,
        now_ms: u64,
    ) -> Option<&Arc<VerifiedRequest>> {
        let slot = (coordinator, session);
        let open = self.pool.get(&slot, now_ms).map(|open| &open.request);
        open.or_else(|| self.pool.answer(&slot).map(|answer| &answer.request))
    }

    /// Answers a Round1 with fresh commitments; the same Round1 again with the same ones. `verified` is its request, and the
    /// messages are checked against it here.
    ///
    /// # Errors
    /// `epoch_changed` when node and coordinator mean different shares of the key, `overloaded`, `peer_misbehaved` when the
    /// coordinator uses a session twice or asks for a request too often, the refusals of [`VerifiedRequest::check_messages`].
    pub fn round1(
        &mut self,
        context: &Context<'_>,
        message: &Arc<Round1>,
        verified: &Arc<VerifiedRequest>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Commitments, Refusal> {
        let request = verified.digest();
        context.check(message, &request)?;
        self.expire(context.now_ms);
        let slot = (context.coordinator, message.session);
        if let Some(open) = self.pool.get(&slot, context.now_ms) {
            if *open.round1 == **message {
                return Ok((*open.commitments).clone());
            }
            return Err(misbehaved(context.coordinator, "used one session for two requests"));
        }
        if self.pool.answer(&slot).is_some() {
            return Err(misbehaved(context.coordinator, "used a session again"));
        }
        let core = context.core();
        check_request(message, verified, core)?;
        self.served.check(&slot, message.epoch, verified, sessions_allowed(core))?;
        self.pool.check_room(message)?;

        let (nonces, pairs) = OneShotNonces::generate(context.share, message.messages.len(), rng)?;
        let commitments = Commitments {
            session: message.session,
            coordinator: context.coordinator,
            node: context.share.node(),
            boot: self.boot,
            key: message.key,
            version: message.version,
            epoch: message.epoch,
            first_sequence: self.pool.reserve(pairs.len())?,
            pairs,
            signature: UNSIGNED,
        };
        let commitments = commitments.signed(context.identity, &core.cluster, &request);
        self.served.note(&slot, message.epoch, verified);
        let open = Open {
            created_ms: context.now_ms,
            round1: Arc::clone(message),
            request: Arc::clone(verified),
            commitments: Arc::new(commitments.clone()),
            nonces,
        };
        self.pool.insert(slot, open);
        Ok(commitments)
    }

    /// Answers a Round2 of another node. `members` are the identity keys of the roster. The same package again gets the same
    /// bytes.
    ///
    /// # Errors
    /// [`SignRefusal`]: as [`Holder::lookup`], [`Pending::check`], [`Holder::take`] and [`Taken::sign`].
    pub fn round2(
        &mut self,
        context: &Context<'_>,
        message: &Arc<Round2>,
        members: &BTreeMap<NodeId, PublicKey>,
    ) -> Result<Shares, SignRefusal> {
        match self.lookup(context, message)? {
            Lookup::Answered(shares) => Ok(shares),
            Lookup::Open(pending) => {
                let signers = Arc::new(pending.check(context.share, members, message)?);
                self.use_nonces(context, &signers)
            }
        }
    }

    /// Answers the Round2 of this node's own coordinator, which checked everything already.
    ///
    /// # Errors
    /// [`SignRefusal`]: as [`Holder::lookup`], [`Holder::take`] and [`Taken::sign`].
    pub fn round2_checked(
        &mut self,
        context: &Context<'_>,
        signers: &Arc<CheckedSigners>,
    ) -> Result<Shares, SignRefusal> {
        match self.lookup(context, &signers.round2)? {
            Lookup::Answered(shares) => Ok(shares),
            Lookup::Open(_) => self.use_nonces(context, signers),
        }
    }

    fn use_nonces(&mut self, context: &Context<'_>, signers: &Arc<CheckedSigners>) -> Result<Shares, SignRefusal> {
        let shares = self.take(context, signers)?.sign(context.share, context.identity)?;
        self.keep(context.coordinator, &shares);
        Ok(shares)
    }

    /// Finds the session of a package, or the answer that the same package got before.
    ///
    /// # Errors
    /// `deadline_exceeded` when its nonces are gone, `peer_misbehaved` with an alarm when they were used for another package.
    pub fn lookup(&self, context: &Context<'_>, message: &Round2) -> Result<Lookup, SignRefusal> {
        let slot = (context.coordinator, message.session);
        let Some(open) = self.pool.get(&slot, context.now_ms) else { return self.repeat(context, &slot, message) };
        let request = open.request.digest();
        context.check(&open.round1, &request)?;
        Ok(Lookup::Open(Pending {
            coordinator: context.coordinator,
            round1: Arc::clone(&open.round1),
            request,
            commitments: Arc::clone(&open.commitments),
            own: open.nonces.commitments(),
        }))
    }

    fn repeat(&self, context: &Context<'_>, slot: &Slot, message: &Round2) -> Result<Lookup, SignRefusal> {
        let Some(answer) = self.pool.answer(slot) else {
            let message = format!("the nonces of this session are gone: they live {} ms", limits::NONCE_MS);
            return Err(Refusal::new(ErrorCode::DeadlineExceeded, message).into());
        };
        let request = answer.request.digest();
        if context.permit.request_digest() != request {
            return Err(Refusal::new(ErrorCode::Internal, "the permit was given for another request").into());
        }
        if message.digest(&request) != answer.package {
            let what = "attempted nonce reuse: it sent a second package for a session that was answered";
            let refusal = misbehaved(context.coordinator, what);
            return Err(SignRefusal { refusal, alarm: true, blames: split_views(request, &answer.signers, message) });
        }
        match &answer.shares {
            Some(shares) => Ok(Lookup::Answered(shares.clone())),
            None => Err(Refusal::new(ErrorCode::Overloaded, "the answer to this package is not there yet").into()),
        }
    }

    /// Takes the nonces of a session out for a package that was checked, before anything is computed. From here on no other
    /// package is answered in this session, whatever happens.
    ///
    /// # Errors
    /// As [`Holder::lookup`]; `peer_misbehaved` when the coordinator got shares for the request as often as can be needed,
    /// `internal` when the package was checked against another session.
    pub fn take(&mut self, context: &Context<'_>, signers: &Arc<CheckedSigners>) -> Result<Taken, SignRefusal> {
        let slot = (context.coordinator, signers.round1.session);
        let Some(open) = self.pool.get(&slot, context.now_ms) else {
            self.repeat(context, &slot, &signers.round2)?;
            return Err(Refusal::new(ErrorCode::Overloaded, "the answer to this package was given meanwhile").into());
        };
        context.check(&open.round1, &open.request.digest())?;
        let same_question = Arc::ptr_eq(&open.round1, &signers.round1) || *open.round1 == *signers.round1;
        if !same_question || open.request.digest() != signers.request {
            return Err(Refusal::new(ErrorCode::Internal, "the package was checked for another request").into());
        }
        let own = signers.round2.signers.iter().find(|signer| signer.node == context.share.node());
        if own != Some(&*open.commitments) {
            return Err(misbehaved(context.coordinator, "left out or changed the commitments of this node").into());
        }
        self.served.grant(context.coordinator, signers.request, sessions_allowed(context.core()))?;
        match self.pool.take(&slot, signers, context.now_ms) {
            Some(nonces) => Ok(Taken { nonces, signers: Arc::clone(signers) }),
            None => Err(Refusal::new(ErrorCode::Internal, "an open session has no nonces").into()),
        }
    }

    /// Keeps an answer for identical repeats of its package.
    pub fn keep(&mut self, coordinator: NodeId, shares: &Shares) {
        self.pool.keep(&(coordinator, shares.session), shares.clone());
    }
}

/// Signers that are in both packages of a session with different commitments.
fn split_views(request: Digest, first: &Round2, second: &Round2) -> Vec<Blame> {
    let mut blames = Vec::new();
    for one in &first.signers {
        let other = second.signers.iter().find(|other| other.node == one.node);
        if let Some(other) = other.filter(|other| contradict(one, other)) {
            blames.push(Blame::split_view(request, one.clone(), other.clone()));
        }
    }
    blames
}

/// Checks that the request of a Round1 is the one that was verified, and that the messages are the ones it names.
fn check_request(message: &Round1, verified: &VerifiedRequest, core: &CertificateCore) -> Result<(), Refusal> {
    let body = verified.body();
    if message.request.body.0 != encode(body) || body.cluster != core.cluster {
        return Err(Refusal::new(ErrorCode::Internal, "another request was verified than the one that came"));
    }
    if body.key != Some(message.key) || !matches!(body.action, Action::Sign) {
        return Err(Refusal::new(ErrorCode::BadSignature, "the client asked for something else than this signature"));
    }
    verified.check_messages(&message.messages)
}
