//! What was said and heard in an attempt, what is hashed of it, and what is checked of the result before it is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::Identity as _;
use curve25519_dalek::{EdwardsPoint, Scalar};
use frost_ed25519::keys::{KeyPackage, PublicKeyPackage};
use frost_ed25519::{Error as FrostError, Identifier};
use zeroize::Zeroizing;

use super::machine::Ignored;
use super::message::{Body, Evidence, FaultKind, FaultReport, Kind, Seen, SignedMessage, parse_round1, parse_round2};
use super::{Ceremony, ShareSecret};
use crate::certificate::CertificateCore;
use crate::id::{Digest, NodeId, Threshold};
use crate::identity::{Identity, PublicKey, tagged_hash};
use crate::wire::{Wire as _, Writer};

/// A message that was heard: signature and shape were good.
pub(super) struct Received {
    pub(super) seen: Seen,
    /// None once it was used.
    pub(super) body: Option<Body>,
}

/// Why a message was not taken.
pub(super) enum Refused {
    Ignored(Ignored),
    Fault(Box<FaultReport>),
}

/// What was said and heard, and between whom: the part of a machine that all rounds share.
pub(super) struct Session {
    pub(super) ceremony: Ceremony,
    pub(super) digest: Digest,
    pub(super) me: NodeId,
    /// Of exactly the roster.
    keys: BTreeMap<NodeId, PublicKey>,
    /// At most one per kind and sender; those of later rounds wait here for their turn.
    inbox: BTreeMap<(Kind, NodeId), Received>,
    /// Everything said so far.
    pub(super) sent: Vec<Arc<SignedMessage>>,
}

impl Session {
    /// Nothing said yet. `keys` are those of exactly the roster, `me` among them.
    pub(super) fn new(ceremony: Ceremony, me: NodeId, keys: BTreeMap<NodeId, PublicKey>) -> Self {
        Self { digest: ceremony.digest(), ceremony, me, keys, inbox: BTreeMap::new(), sent: Vec::new() }
    }

    /// The roster without this node, ascending.
    pub(super) fn others(&self) -> Vec<NodeId> {
        self.keys.keys().copied().filter(|node| *node != self.me).collect()
    }

    /// Signs and keeps a message.
    pub(super) fn say(&mut self, to: Option<NodeId>, body: Body, identity: &Identity) -> Arc<SignedMessage> {
        let cluster = &self.ceremony.cluster;
        let message = Arc::new(SignedMessage::sign(cluster, self.digest, self.me, to, body, identity));
        self.sent.push(Arc::clone(&message));
        message
    }

    /// Messages of a kind, ascending by sender.
    pub(super) fn heard(&self, kind: Kind) -> impl Iterator<Item = (NodeId, &Received)> {
        self.inbox.iter().filter(move |((k, _), _)| *k == kind).map(|((_, node), received)| (*node, received))
    }

    /// Who has not said this yet.
    pub(super) fn missing(&self, kind: Kind) -> BTreeSet<NodeId> {
        self.others().into_iter().filter(|node| !self.inbox.contains_key(&(kind, *node))).collect()
    }

    /// Takes a body out; the message stays known as heard.
    pub(super) fn take_body(&mut self, kind: Kind, from: NodeId) -> Option<Body> {
        self.inbox.get_mut(&(kind, from)).and_then(|received| received.body.take())
    }

    /// Forgets everything said and heard.
    pub(super) fn wipe(&mut self) {
        self.inbox.clear();
        self.sent.clear();
    }

    /// Takes a message of any round, early ones too, after checking everything that can be checked of it alone.
    pub(super) fn accept(&mut self, from: NodeId, message: SignedMessage) -> Result<(), Refused> {
        let Some(key) = self.keys.get(&from).filter(|_| from != self.me) else {
            return Err(Refused::Ignored(Ignored::UnknownSender));
        };
        // Not a fault: it may be an honest peer's late message of the attempt before.
        if message.ceremony != self.digest {
            return Err(Refused::Ignored(Ignored::OtherCeremony));
        }
        let kind = message.body.kind();
        let to = match kind {
            Kind::Round1 | Kind::Echo => None,
            Kind::Round2 => Some(self.me),
        };
        let addressed = message.from == from && message.to == to;
        if !addressed || !message.verifies(&self.ceremony.cluster, key) || !self.is_well_formed(&message.body) {
            return Err(Refused::Fault(Box::new(FaultReport::new(FaultKind::BadMessage, [from]))));
        }
        let seen = message.seen();
        match self.inbox.get(&(kind, from)).map(|first| first.seen) {
            Some(first) if first.body == seen.body => Err(Refused::Ignored(Ignored::Repeat)),
            Some(first) => {
                let evidence = Evidence { node: from, to, kind, first, second: seen };
                Err(Refused::Fault(Box::new(FaultReport::split(evidence))))
            }
            None => {
                self.inbox.insert((kind, from), Received { seen, body: Some(message.body) });
                Ok(())
            }
        }
    }

    fn is_well_formed(&self, body: &Body) -> bool {
        match body {
            Body::Round1 { package } => parse_round1(&package.0, self.ceremony.threshold).is_some(),
            Body::Echo { seen } => seen.keys().eq(self.keys.keys()),
            Body::Round2 { package } => parse_round2(package).is_some(),
        }
    }

    /// Compares what others heard in round 1 with what this node heard. Where they differ, either the sender signed both,
    /// which proves that it told different things; or the echo claims what was never signed.
    pub(super) fn compare_echoes(&self, ours: &BTreeMap<NodeId, Seen>) -> Option<FaultReport> {
        for (teller, received) in self.heard(Kind::Echo) {
            let Some(Body::Echo { seen: theirs }) = &received.body else { continue };
            let differs = ours.iter().zip(theirs).find(|((_, our), (_, their))| our.body != their.body);
            let Some(((node, our), (_, their))) = differs else { continue };
            let evidence = Evidence { node: *node, to: None, kind: Kind::Round1, first: *our, second: *their };
            let proves = |key| evidence.verifies(&self.ceremony.cluster, &self.digest, key);
            return Some(if self.keys.get(node).is_some_and(proves) {
                FaultReport::split(evidence)
            } else {
                FaultReport::new(FaultKind::BadMessage, [teller])
            });
        }
        None
    }

    /// A fault from what FROST refused.
    pub(super) fn blame(&self, error: &FrostError) -> FaultReport {
        let kind = match error {
            FrostError::InvalidProofOfKnowledge { .. } => FaultKind::BadProof,
            FrostError::InvalidSecretShare { .. } => FaultKind::BadShare,
            _ => FaultKind::WrongResult,
        };
        let culprits = error.culprits();
        let named = |node: &NodeId| identifier(*node).is_some_and(|id| culprits.contains(&id));
        FaultReport::new(kind, self.others().into_iter().filter(named))
    }
}

/// h1, what everybody must have heard in round 1: `H(ceremony || n || n times (node || digest of its body))`, ascending.
///
/// Without the signatures: a node can sign one body in many ways, and that harms nobody.
#[must_use]
pub fn round1_digest(ceremony: &Digest, seen: &BTreeMap<NodeId, Seen>) -> Digest {
    let bodies: BTreeMap<NodeId, Digest> = seen.iter().map(|(node, seen)| (*node, seen.body)).collect();
    let mut w = Writer::default();
    ceremony.put(&mut w);
    bodies.put(&mut w);
    tagged_hash("symbolon/generate/round1/v1", &w.finish())
}

/// The transcript: `H(ceremony || h1 || n || n verifying shares in the order of the roster || public key)`.
///
/// It holds everything public that was said; subshares enter through the verifying shares that they add up to.
fn transcript_digest(ceremony: &Digest, round1: &Digest, shares: &Vec<[u8; 32]>, public_key: &[u8; 32]) -> Digest {
    let mut w = Writer::default();
    ceremony.put(&mut w);
    round1.put(&mut w);
    shares.put(&mut w);
    public_key.put(&mut w);
    tagged_hash("symbolon/generate/transcript/v1", &w.finish())
}

/// A point as it may stand in a certificate: canonical, of prime order, not the identity.
pub(crate) fn point(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    let point = CompressedEdwardsY(*bytes).decompress()?;
    let good = point.is_torsion_free() && point != EdwardsPoint::identity() && point.compress().as_bytes() == bytes;
    good.then_some(point)
}

/// The value at `at` of the polynomial of degree below `base.len()` through `base` (Lagrange, in the exponent).
///
/// `P(at) = sum over i of y_i · prod over k != i of (at - x_k) / (x_i - x_k)`; the x are distinct.
pub(crate) fn interpolate(base: &[(Scalar, EdwardsPoint)], at: &Scalar) -> EdwardsPoint {
    let weight = |i: usize, x_i: &Scalar| -> Scalar {
        let others = base.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, (x_k, _))| x_k);
        others.map(|x_k| (at - x_k) * (x_i - x_k).invert()).product()
    };
    base.iter().enumerate().map(|(i, (x_i, y_i))| y_i * weight(i, x_i)).sum()
}

/// Whether all verifying shares lie on one polynomial of degree t-1 whose constant term is the public key.
///
/// Exact: t of the points fix the only polynomial that can be meant; every other share and the key are compared with it. Then
/// any t of the holders sign under the same key, and fewer know nothing about it.
#[must_use]
pub fn on_one_polynomial(shares: &BTreeMap<NodeId, [u8; 32]>, threshold: Threshold, public_key: &[u8; 32]) -> bool {
    let points: Option<Vec<_>> =
        shares.iter().map(|(node, share)| Some((Scalar::from(node.get()), point(share)?))).collect();
    let (Some(points), Some(constant)) = (points, point(public_key)) else { return false };
    let Some((base, rest)) = points.split_at_checked(threshold.get()) else { return false };
    rest.iter().chain([&(Scalar::ZERO, constant)]).all(|(x, y)| interpolate(base, x) == *y)
}

/// The FROST identifier of a node: its number.
#[must_use]
pub fn identifier(node: NodeId) -> Option<Identifier> {
    Identifier::try_from(node.get()).ok()
}

fn bytes32(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}

/// What this node votes for and what it stores, from what FROST made; none when a check fails:
/// every identifier of the roster is there and no other, `s·B` is this node's verifying share, and all of them lie
/// [`on_one_polynomial`] with the public key.
pub(super) fn result(
    ceremony: &Ceremony,
    me: NodeId,
    round1: &Digest,
    key: &KeyPackage,
    public: &PublicKeyPackage,
) -> Option<(CertificateCore, ShareSecret)> {
    let mut shares = BTreeMap::new();
    for node in &ceremony.roster {
        let share = public.verifying_shares().get(&identifier(*node)?)?;
        shares.insert(*node, bytes32(&share.serialize().ok()?)?);
    }
    let public_key = bytes32(&public.verifying_key().serialize().ok()?)?;
    let bytes = Zeroizing::new(key.signing_share().serialize());
    let secret = ShareSecret::new(bytes.as_slice().try_into().ok()?);

    let complete = shares.len() == ceremony.roster.len() && public.verifying_shares().len() == shares.len();
    let own = secret.verifying_share()?;
    let sound = complete
        && *key.identifier() == identifier(me)?
        && shares.get(&me) == Some(&own)
        && key.verifying_key() == public.verifying_key()
        && on_one_polynomial(&shares, ceremony.threshold, &public_key);
    if !sound {
        return None;
    }
    let verifying_shares: Vec<[u8; 32]> = ceremony.roster.iter().filter_map(|node| shares.get(node).copied()).collect();
    let transcript = transcript_digest(&ceremony.digest(), round1, &verifying_shares, &public_key);
    let core = ceremony.core(public_key, verifying_shares, transcript);
    Some((core, secret))
}
