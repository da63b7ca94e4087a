//! The reference: the crate frost-core, and the one file of signing that touches its types.
//!
//! It takes everything from encodings and checks it again, as somebody would who has only what was sent. That costs time, and
//! shares nothing with the fast implementation but what is computed.

use std::collections::BTreeMap;
use std::sync::Arc;

use curve25519_dalek::Scalar;
use frost_core::keys::{KeyPackage, PublicKeyPackage, SigningShare, VerifyingShare};
use frost_core::round1::{Nonce, NonceCommitment, SigningCommitments, SigningNonces};
use frost_core::{CheaterDetection, Error, Identifier, SigningPackage, VerifyingKey, round1, round2};
use frost_ed25519::Ed25519Sha512;
use rand_core::{CryptoRng, RngCore};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Nonces, Package, SignatureShare, internal};
use crate::error::Refusal;
use crate::id::NodeId;
use crate::identity::Signature;
use crate::sign::CommitmentPair;
use crate::sign::key::{HolderShare, KeyGroup};

type C = Ed25519Sha512;

fn identifier(node: NodeId) -> Option<Identifier<C>> {
    Identifier::try_from(node.get()).ok()
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn signers_needed(group: &KeyGroup) -> u16 {
    // A threshold is one byte; the other value would only make signing impossible.
    u16::try_from(group.core().threshold.get()).unwrap_or(u16::MAX)
}

fn decode(pair: &CommitmentPair) -> Option<SigningCommitments<C>> {
    let decode = |bytes| NonceCommitment::<C>::deserialize(bytes).ok();
    Some(SigningCommitments::new(decode(&pair.hiding)?, decode(&pair.binding)?))
}

/// Whether frost-core takes both points.
pub(super) fn is_good_pair(pair: &CommitmentPair) -> bool {
    decode(pair).is_some()
}

fn signing_share(share: &HolderShare) -> Option<SigningShare<C>> {
    SigningShare::deserialize(share.secret().as_bytes()).ok()
}

/// Nonces as frost-core makes them.
pub(super) fn commit(share: &HolderShare, rng: &mut (impl RngCore + CryptoRng)) -> Option<Nonces> {
    let mut signing_share = signing_share(share)?;
    let (nonces, _) = round1::commit(&signing_share, rng);
    signing_share.zeroize();
    let mut secret = Box::new(Zeroizing::new([Scalar::ZERO; 2]));
    for (scalar, nonce) in secret.iter_mut().zip([nonces.hiding(), nonces.binding()]) {
        let bytes = Zeroizing::new(nonce.serialize());
        *scalar = Option::from(Scalar::from_canonical_bytes(array(&bytes)?))?;
    }
    Nonces::of(secret)
}

fn signing_nonces(nonces: &Nonces) -> Option<SigningNonces<C>> {
    let [hiding, binding] = nonces.secret();
    let nonce = |scalar: &Scalar| Nonce::<C>::deserialize(scalar.as_bytes()).ok();
    Some(SigningNonces::from_nonces(nonce(hiding)?, nonce(binding)?))
}

/// A package of frost-core.
pub(super) struct ReferencePackage {
    group: Arc<KeyGroup>,
    key: VerifyingKey<C>,
    package: SigningPackage<C>,
}

impl ReferencePackage {
    /// None when a commitment or the public key is no point of prime order.
    pub(super) fn new(
        group: &Arc<KeyGroup>,
        signers: &BTreeMap<NodeId, CommitmentPair>,
        message: &[u8],
    ) -> Option<Self> {
        let key = VerifyingKey::<C>::deserialize(group.public_key().as_bytes()).ok()?;
        let signers = signers.iter().map(|(node, pair)| Some((identifier(*node)?, decode(pair)?)));
        let package = SigningPackage::new(signers.collect::<Option<_>>()?, message);
        Some(Self { group: Arc::clone(group), key, package })
    }

    fn key_package(&self, share: &HolderShare) -> Option<KeyPackage<C>> {
        let mut secret = signing_share(share)?;
        let package = KeyPackage::new(
            identifier(share.node())?,
            secret,
            VerifyingShare::from(secret),
            self.key,
            signers_needed(share.group()),
        );
        secret.zeroize();
        Some(package)
    }
}

fn of_frost(share: &SignatureShare) -> Option<round2::SignatureShare<C>> {
    round2::SignatureShare::deserialize(share.0.as_bytes()).ok()
}

impl Package for ReferencePackage {
    fn sign(&self, share: &HolderShare, nonces: Nonces) -> Result<[u8; 32], Refusal> {
        if share.group().public_key() != self.group.public_key() {
            return Err(internal("the share is one of another key"));
        }
        let taken = || Some((self.key_package(share)?, signing_nonces(&nonces)?));
        let (key, nonces) = taken().ok_or_else(|| internal("frost-core does not take the share"))?;
        let signed = round2::sign(&self.package, &nonces, &key)
            .map_err(|error| internal(&format!("no signature share could be computed: {error}")))?;
        array(&signed.serialize()).ok_or_else(|| internal("a signature share has not 32 bytes"))
    }

    fn verifies(&self, node: NodeId, share: &SignatureShare) -> Option<bool> {
        let verifying = VerifyingShare::<C>::deserialize(self.group.core().verifying_share(node)?).ok()?;
        let share = of_frost(share)?;
        match frost_core::verify_signature_share(identifier(node)?, &verifying, &share, &self.package, &self.key) {
            Ok(()) => Some(true),
            Err(Error::InvalidSignatureShare { .. }) => Some(false),
            Err(_) => None,
        }
    }

    fn signature(&self, shares: &BTreeMap<NodeId, SignatureShare>) -> Option<[u8; 64]> {
        let shares = shares.iter().map(|(node, share)| Some((identifier(*node)?, of_frost(share)?)));
        let shares = shares.collect::<Option<BTreeMap<_, _>>>()?;
        let public = PublicKeyPackage::new(BTreeMap::new(), self.key, Some(signers_needed(&self.group)));
        let signature =
            frost_core::aggregate_custom(&self.package, &shares, &public, CheaterDetection::Disabled).ok()?;
        let bytes = array(&signature.serialize().ok()?)?;
        // Once more, by the rule of everybody who will verify it.
        let public_key = self.group.public_key();
        public_key.verifies_raw(self.package.message(), &Signature::from_bytes(bytes)).then_some(bytes)
    }
}
