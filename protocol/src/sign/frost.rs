//! The one place that touches FROST types (RFC 9591, FROST(Ed25519, SHA-512), section 6.1).
//!
//! Decoding a point checks that it has prime order, which costs a third of a signature share: every commitment is decoded
//! once per session and node, and a verifying share only when somebody is to be blamed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use frost_core::keys::{KeyPackage, PublicKeyPackage, SigningShare, VerifyingShare};
use frost_core::round1::{NonceCommitment, SigningCommitments, SigningNonces};
use frost_core::round2::SignatureShare;
use frost_core::{CheaterDetection, Error, Identifier, SigningPackage, VerifyingKey};
use frost_ed25519::Ed25519Sha512;
use rand_core::{CryptoRng, RngCore};
use zeroize::{Zeroize as _, Zeroizing};

use super::{CommitmentPair, misbehaved};
use crate::certificate::CertificateCore;
use crate::error::{ErrorCode, Refusal};
use crate::id::{NodeId, Threshold};
use crate::identity::{PublicKey, Signature};
use crate::request::Suite;
use crate::wire::Bytes;

type C = Ed25519Sha512;

fn internal(what: &str, error: &Error<C>) -> Refusal {
    Refusal::new(ErrorCode::Internal, format!("{what}: {error}"))
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Refusal> {
    bytes.try_into().map_err(|_| Refusal::new(ErrorCode::Internal, format!("an encoding has no {N} bytes")))
}

/// The FROST identifier of a node: its number as a scalar.
fn identifier(node: NodeId) -> Result<Identifier<C>, Refusal> {
    Identifier::<C>::try_from(node.get()).map_err(|error| internal("a node id is no identifier", &error))
}

/// A certificate core, ready to sign under. Made once per key version and epoch and kept: it decodes points.
pub struct KeyGroup {
    core: CertificateCore,
    public_key: PublicKey,
    /// Without verifying shares: they are decoded from the core when a share has to be checked.
    public: PublicKeyPackage<C>,
}

impl KeyGroup {
    /// From the core of a certificate that was verified.
    ///
    /// # Errors
    /// `bad_certificate` when its parts do not fit together or the public key is no point of prime order.
    pub fn new(core: &CertificateCore) -> Result<Self, Refusal> {
        let refuse = |what: &str| Refusal::new(ErrorCode::BadCertificate, format!("key `{}`: {what}", core.name));
        match core.suite {
            Suite::Ed25519 => {}
        }
        let nodes = core.roster.len();
        if core.verifying_shares.len() != nodes || Threshold::new(core.threshold.get(), nodes).is_none() {
            return Err(refuse("roster, threshold and verifying shares do not fit together"));
        }
        let no_key = "its public key is no point of prime order";
        let public_key = PublicKey::from_bytes(&core.public_key).map_err(|_| refuse(no_key))?;
        let verifying_key = VerifyingKey::<C>::deserialize(&core.public_key).map_err(|_| refuse(no_key))?;
        let public = PublicKeyPackage::new(BTreeMap::new(), verifying_key, Some(signers_needed(core)));
        Ok(Self { core: core.clone(), public_key, public })
    }
    /// The core.
    #[must_use]
    pub fn core(&self) -> &CertificateCore {
        &self.core
    }
    /// The public key, for checking signatures.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

impl fmt::Debug for KeyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyGroup({:?} version {} epoch {})", self.core.name, self.core.version, self.core.epoch)
    }
}

fn signers_needed(core: &CertificateCore) -> u16 {
    // A threshold is one byte; the other value would only make signing impossible.
    u16::try_from(core.threshold.get()).unwrap_or(u16::MAX)
}

/// A holder's secret share in usable form. Wiped when dropped; never shown, cloned or compared.
pub struct HolderShare {
    node: NodeId,
    group: Arc<KeyGroup>,
    package: KeyPackage<C>,
}

impl HolderShare {
    /// From a secret share (a canonical scalar, 32 bytes, little-endian) as it was unsealed.
    ///
    /// # Errors
    /// `storage_failed` when the share does not belong to the node's verifying share, `internal` when the node is not in the
    /// roster, `bad_certificate` as [`KeyGroup::new`].
    pub fn new(node: NodeId, secret: Zeroizing<[u8; 32]>, core: &CertificateCore) -> Result<Self, Refusal> {
        let group = KeyGroup::new(core)?;
        let place = || format!("key `{}` version {} epoch {}", core.name, core.version, core.epoch);
        let Some(expected) = core.verifying_share(node) else {
            return Err(Refusal::new(ErrorCode::Internal, format!("node {node} is no holder of {}", place())));
        };
        let broken = || {
            let message = format!("the stored share of node {node} for {} is not the one that was certified", place());
            Refusal::new(ErrorCode::StorageFailed, message)
        };
        let number = identifier(node)?;
        let mut share = SigningShare::<C>::deserialize(secret.as_slice()).map_err(|_| broken())?;
        let verifying = VerifyingShare::from(share);
        let same = verifying.serialize().is_ok_and(|bytes| bytes == expected);
        let key = *group.public.verifying_key();
        let package = same.then(|| KeyPackage::new(number, share, verifying, key, signers_needed(core)));
        share.zeroize();
        Ok(Self { node, group: Arc::new(group), package: package.ok_or_else(broken)? })
    }
    /// The holder.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }
    /// What the share is a share of.
    #[must_use]
    pub fn group(&self) -> &Arc<KeyGroup> {
        &self.group
    }
}

impl fmt::Debug for HolderShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HolderShare(node {}, {:?}, secret not shown)", self.node, self.group)
    }
}

/// The secret half of one commitment pair. No `Clone`, no encoding; wiped when dropped.
pub(super) struct NoncePair(SigningNonces<C>);

/// Makes nonces and their commitments (RFC 9591 section 5.1). Hedged with the share (section 4.1): a weak generator alone
/// gives nothing away.
pub(super) fn commit(
    share: &HolderShare,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<(NoncePair, CommitmentPair), Refusal> {
    let (nonces, commitments) = frost_core::round1::commit(share.package.signing_share(), rng);
    let encode = |commitment: &NonceCommitment<C>| {
        array(&commitment.serialize().map_err(|error| internal("a nonce commitment cannot be encoded", &error))?)
    };
    let pair = CommitmentPair { hiding: encode(commitments.hiding())?, binding: encode(commitments.binding())? };
    Ok((NoncePair(nonces), pair))
}

/// Commitments of one node, one for each message, as checked points.
#[derive(Clone)]
pub(super) struct DecodedPairs(Vec<SigningCommitments<C>>);

/// Decodes commitments: each point must be canonical, of prime order and not the identity.
///
/// # Errors
/// `peer_misbehaved`, naming the node.
pub(super) fn decode_pairs(node: NodeId, pairs: &[CommitmentPair]) -> Result<DecodedPairs, Refusal> {
    let decode = |bytes: &[u8; 32]| {
        NonceCommitment::<C>::deserialize(bytes)
            .map_err(|_| misbehaved(node, "committed to a nonce with something that is no point of prime order"))
    };
    let mut decoded = Vec::with_capacity(pairs.len());
    for pair in pairs {
        decoded.push(SigningCommitments::new(decode(&pair.hiding)?, decode(&pair.binding)?));
    }
    Ok(DecodedPairs(decoded))
}

/// The commitments to a node's own nonces: known points, nothing to check.
pub(super) fn own_pairs(nonces: &[NoncePair]) -> DecodedPairs {
    DecodedPairs(nonces.iter().map(|pair| *pair.0.commitments()).collect())
}

/// Signing packages, one for each message (RFC 9591 section 5.2): who signs with which commitments.
pub(super) struct Packages(Vec<SigningPackage<C>>);

/// Puts packages together. Every signer has a commitment for every message.
///
/// # Errors
/// `peer_misbehaved`, naming a node with too few commitments.
pub(super) fn packages(signers: &[(NodeId, DecodedPairs)], messages: &[Bytes]) -> Result<Packages, Refusal> {
    let mut packages = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        let mut list = BTreeMap::new();
        for (node, pairs) in signers {
            let pair = pairs.0.get(at).ok_or_else(|| misbehaved(*node, "sent too few nonce commitments"))?;
            list.insert(identifier(*node)?, *pair);
        }
        packages.push(SigningPackage::new(list, &message.0));
    }
    Ok(Packages(packages))
}

/// Computes a holder's signature share for each message (RFC 9591 section 5.2). The nonces are used up, whatever comes of it.
///
/// # Errors
/// `internal`: the packages were checked before.
pub(super) fn sign(share: &HolderShare, nonces: Vec<NoncePair>, packages: &Packages) -> Result<Vec<[u8; 32]>, Refusal> {
    if nonces.len() != packages.0.len() {
        return Err(Refusal::new(ErrorCode::Internal, "nonces and messages differ in number"));
    }
    let mut shares = Vec::with_capacity(nonces.len());
    for (nonces, package) in nonces.into_iter().zip(&packages.0) {
        let signed = frost_core::round2::sign(package, &nonces.0, &share.package)
            .map_err(|error| internal("no signature share could be computed", &error))?;
        shares.push(array(&signed.serialize())?);
    }
    Ok(shares)
}

/// Signature shares of one node, one for each message, as canonical scalars.
pub(super) struct DecodedShares(Vec<SignatureShare<C>>);

/// Decodes signature shares.
///
/// # Errors
/// The number of the first one that is no canonical scalar.
pub(super) fn decode_shares(shares: &[[u8; 32]]) -> Result<DecodedShares, usize> {
    let mut decoded = Vec::with_capacity(shares.len());
    for (at, share) in shares.iter().enumerate() {
        decoded.push(SignatureShare::<C>::deserialize(share).map_err(|_| at)?);
    }
    Ok(DecodedShares(decoded))
}

/// Adds the shares up to one signature for each message and verifies each strictly (RFC 9591 section 5.3, RFC 8032).
///
/// # Errors
/// The nodes with a share that does not verify, and the first message where that is so; nobody, when signatures are bad and
/// all shares are good, which cannot be.
pub(super) fn aggregate(
    group: &KeyGroup,
    packages: &Packages,
    shares: &BTreeMap<NodeId, DecodedShares>,
) -> Result<Vec<[u8; 64]>, BTreeMap<NodeId, usize>> {
    let mut signatures = Vec::with_capacity(packages.0.len());
    let mut culprits = BTreeMap::new();
    for (at, package) in packages.0.iter().enumerate() {
        let of_message: BTreeMap<NodeId, SignatureShare<C>> =
            shares.iter().filter_map(|(node, list)| Some((*node, *list.0.get(at)?))).collect();
        match aggregate_one(group, package, &of_message) {
            Some(signature) => signatures.push(signature),
            None => {
                for (node, share) in of_message {
                    if is_bad(group, package, node, &share) {
                        culprits.entry(node).or_insert(at);
                    }
                }
            }
        }
    }
    if signatures.len() == packages.0.len() { Ok(signatures) } else { Err(culprits) }
}

fn aggregate_one(
    group: &KeyGroup,
    package: &SigningPackage<C>,
    shares: &BTreeMap<NodeId, SignatureShare<C>>,
) -> Option<[u8; 64]> {
    let by_identifier: BTreeMap<_, _> =
        shares.iter().map(|(node, share)| Some((identifier(*node).ok()?, *share))).collect::<Option<_>>()?;
    let signature =
        frost_core::aggregate_custom(package, &by_identifier, &group.public, CheaterDetection::Disabled).ok()?;
    let bytes: [u8; 64] = array(&signature.serialize().ok()?).ok()?;
    // Once more, by the rule of everybody who will verify it.
    group.public_key.verifies_raw(package.message(), &Signature::from_bytes(bytes)).then_some(bytes)
}

/// The first message for which a node's share does not verify.
pub(super) fn first_bad(group: &KeyGroup, packages: &Packages, node: NodeId, shares: &DecodedShares) -> Option<usize> {
    packages.0.iter().zip(&shares.0).position(|(package, share)| is_bad(group, package, node, share))
}

/// Whether a share does not satisfy its equation (RFC 9591 section 5.4). What cannot be calculated is nobody's fault.
fn is_bad(group: &KeyGroup, package: &SigningPackage<C>, node: NodeId, share: &SignatureShare<C>) -> bool {
    let verified = || {
        let number = identifier(node).ok()?;
        let verifying = VerifyingShare::<C>::deserialize(group.core.verifying_share(node)?).ok()?;
        let key = group.public.verifying_key();
        Some(frost_core::verify_signature_share(number, &verifying, share, package, key))
    };
    matches!(verified(), Some(Err(Error::InvalidSignatureShare { .. })))
}

/// The same from what was said: whether the share of a node for a message, in a package of these commitments, is wrong.
pub(super) fn is_wrong(
    core: &CertificateCore,
    node: NodeId,
    signers: &[(NodeId, CommitmentPair)],
    message: &Bytes,
    share: &[u8; 32],
) -> bool {
    let Ok(group) = KeyGroup::new(core) else { return false };
    let decoded: Result<Vec<_>, _> =
        signers.iter().map(|(node, pair)| Ok((*node, decode_pairs(*node, &[*pair])?))).collect();
    let packages =
        decoded.and_then(|signers: Vec<(NodeId, DecodedPairs)>| packages(&signers, std::slice::from_ref(message)));
    let Ok(packages) = packages else { return false };
    match decode_shares(&[*share]) {
        Ok(shares) => first_bad(&group, &packages, node, &shares).is_some(),
        // No scalar at all.
        Err(_) => true,
    }
}

/// Keys from a dealer, for tests of the machines around this file.
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod testing {
    use frost_core::keys::{IdentifierList, generate_with_dealer};

    use super::*;

    /// What a dealer hands out: the public key, and for each node its secret and its verifying share.
    pub(crate) struct Dealt {
        pub(crate) public_key: [u8; 32],
        pub(crate) shares: Vec<(NodeId, Zeroizing<[u8; 32]>, [u8; 32])>,
    }

    pub(crate) fn deal(nodes: &[NodeId], threshold: u16, rng: &mut (impl RngCore + CryptoRng)) -> Dealt {
        let numbers: Vec<_> = nodes.iter().map(|node| identifier(*node).unwrap()).collect();
        let size = u16::try_from(nodes.len()).unwrap();
        let (secrets, public) =
            generate_with_dealer::<C, _>(size, threshold, IdentifierList::Custom(&numbers), rng).unwrap();
        let share = |node: &NodeId| {
            let number = identifier(*node).unwrap();
            let secret = array(&secrets.get(&number).unwrap().signing_share().serialize()).unwrap();
            let verifying = public.verifying_shares().get(&number).unwrap().serialize().unwrap();
            (*node, Zeroizing::new(secret), array(&verifying).unwrap())
        };
        Dealt {
            public_key: array(&public.verifying_key().serialize().unwrap()).unwrap(),
            shares: nodes.iter().map(share).collect(),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use curve25519_dalek::{EdwardsPoint, Scalar};
    use frost_core::round1::Nonce;
    use serde_json::Value;

    use super::*;
    use crate::id::{ClusterId, Digest, Epoch, KeyId, KeyVersion, Name};

    fn field<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
        path.iter().fold(value, |at, name| at.get(name).unwrap())
    }

    fn bytes<const N: usize>(value: &Value, name: &str) -> [u8; N] {
        hex::decode(field(value, &[name]).as_str().unwrap()).unwrap().try_into().unwrap()
    }

    fn node_of(value: &Value) -> NodeId {
        NodeId::new(u16::try_from(field(value, &["identifier"]).as_u64().unwrap()).unwrap()).unwrap()
    }

    fn verifying(secret: &[u8; 32]) -> [u8; 32] {
        EdwardsPoint::mul_base(&Scalar::from_canonical_bytes(*secret).unwrap()).compress().to_bytes()
    }

    fn core(public_key: [u8; 32], threshold: usize, shares: &[(NodeId, [u8; 32])]) -> CertificateCore {
        CertificateCore {
            cluster: ClusterId::from_bytes([7; 32]),
            key: KeyId::from_bytes([1; 32]),
            name: Name::new("rfc9591").unwrap(),
            version: KeyVersion::FIRST,
            suite: Suite::Ed25519,
            public_key,
            roster: shares.iter().map(|(node, _)| *node).collect(),
            holders: shares.iter().map(|(node, _)| *node).collect(),
            threshold: Threshold::new(threshold, shares.len()).unwrap(),
            membership: 1,
            epoch: Epoch::FIRST,
            verifying_shares: shares.iter().map(|(_, share)| *share).collect(),
            transcript: Digest::from_bytes([2; 32]),
            previous: None,
        }
    }

    fn nonces(value: &Value) -> NoncePair {
        let nonce = |name| Nonce::<C>::deserialize(&bytes::<32>(value, name)).unwrap();
        NoncePair(SigningNonces::from_nonces(nonce("hiding_nonce"), nonce("binding_nonce")))
    }

    #[test]
    fn the_vector_of_rfc_9591() {
        let text = include_str!("../../tests/vectors/rfc9591-ed25519.json");
        let vector: Value = serde_json::from_str(text).unwrap();
        let inputs = field(&vector, &["inputs"]);
        let dealt = field(inputs, &["participant_shares"]).as_array().unwrap();
        let secrets: BTreeMap<NodeId, [u8; 32]> =
            dealt.iter().map(|share| (node_of(share), bytes(share, "participant_share"))).collect();
        let verifying: Vec<_> = secrets.iter().map(|(node, secret)| (*node, verifying(secret))).collect();
        let core = core(bytes(inputs, "verifying_key_key"), 2, &verifying);
        let message = Bytes(hex::decode(field(inputs, &["message"]).as_str().unwrap()).unwrap());

        let first = field(&vector, &["round_one_outputs", "outputs"]).as_array().unwrap();
        let mut signers = Vec::new();
        for output in first {
            let pair = CommitmentPair {
                hiding: bytes(output, "hiding_nonce_commitment"),
                binding: bytes(output, "binding_nonce_commitment"),
            };
            let decoded = decode_pairs(node_of(output), &[pair]).unwrap();
            assert!(decoded.0 == own_pairs(&[nonces(output)]).0);
            signers.push((node_of(output), decoded));
        }
        let packages = packages(&signers, &[message]).unwrap();

        let second = field(&vector, &["round_two_outputs", "outputs"]).as_array().unwrap();
        let mut shares = BTreeMap::new();
        for (output, expected) in first.iter().zip(second) {
            let node = node_of(output);
            let secret = Zeroizing::new(*secrets.get(&node).unwrap());
            let share = HolderShare::new(node, secret, &core).unwrap();
            let signed = sign(&share, vec![nonces(output)], &packages).unwrap();
            assert_eq!((node, signed.clone()), (node_of(expected), vec![bytes(expected, "sig_share")]));
            shares.insert(node, decode_shares(&signed).ok().unwrap());
        }
        let group = KeyGroup::new(&core).unwrap();
        let signature: [u8; 64] = bytes(field(&vector, &["final_output"]), "sig");
        assert_eq!(aggregate(&group, &packages, &shares), Ok(vec![signature]));
    }

    #[test]
    fn a_share_must_belong_to_its_holder() {
        let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
        let secret = |number: u64| Scalar::from(number).to_bytes();
        let shares = [(one, verifying(&secret(5))), (two, verifying(&secret(6)))];
        let core = core(verifying(&secret(4)), 2, &shares);
        let new = |node, secret| HolderShare::new(node, Zeroizing::new(secret), &core);
        assert!(new(one, secret(5)).is_ok());
        assert_eq!(new(one, secret(6)).unwrap_err().code, ErrorCode::StorageFailed);
        assert_eq!(new(one, [0xff; 32]).unwrap_err().code, ErrorCode::StorageFailed);
        assert_eq!(new(one, [0; 32]).unwrap_err().code, ErrorCode::StorageFailed);
        assert_eq!(new(NodeId::new(3).unwrap(), secret(5)).unwrap_err().code, ErrorCode::Internal);
        assert!(!format!("{:?}", new(one, secret(5)).unwrap()).contains(&hex::encode(secret(5))));
    }

    #[test]
    fn points_of_small_or_mixed_order_are_refused() {
        let node = NodeId::new(9).unwrap();
        let good = EdwardsPoint::mul_base(&Scalar::from(3u64));
        let identity = curve25519_dalek::edwards::CompressedEdwardsY::default().to_bytes();
        let mixed = (good + curve25519_dalek::constants::EIGHT_TORSION[1]).compress().to_bytes();
        let small = curve25519_dalek::constants::EIGHT_TORSION[1].compress().to_bytes();
        let good = good.compress().to_bytes();
        assert!(decode_pairs(node, &[CommitmentPair { hiding: good, binding: good }]).is_ok());
        for bad in [identity, mixed, small, [0xff; 32]] {
            let pairs = [CommitmentPair { hiding: good, binding: bad }];
            let refusal = decode_pairs(node, &pairs).err().unwrap();
            assert_eq!(refusal.code, ErrorCode::PeerMisbehaved);
            assert!(refusal.message.contains("node 9"));
        }
    }
}
