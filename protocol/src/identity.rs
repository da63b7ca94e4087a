//! Identities of nodes and clients: Ed25519 keys, `verify_strict` everywhere, every signature bound to a domain and a cluster.

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest as _, Sha256};

use crate::id::{ClusterId, Digest};
use crate::wire::{Reader, Wire, WireError, Writer};

/// What a signature or hash is for; two domains never share a preimage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// A client's request body.
    Request,
    /// A node's line for the genesis file (no cluster id exists yet: 32 zero bytes stand in its place).
    Enrolment,
    /// "My store is new", the building block of the start certificate.
    Start,
    /// A message of a Generate operation.
    Generate,
    /// A READY vote.
    Ready,
    /// An ACTIVATED vote.
    Activated,
    /// A report of a fault that ends an attempt.
    Fault,
    /// A signed head of the one history.
    Head,
    /// Nonce commitments of a signing round.
    Commitment,
    /// The digest of a signing package, beside a signature share.
    Package,
    /// A proof of erasure.
    Erased,
    /// A dealer's commitments in a redistribution.
    Dealing,
    /// A subshare on its way to one holder.
    Subshare,
    /// A holder's word which dealings it took and which it did not.
    Acknowledged,
    /// A holder's word that it has no share of the current epoch.
    Need,
    /// A member's word on which rules it knows.
    Supports,
    /// An answer to the question how far a voter is.
    Position,
}

impl Domain {
    /// The text that starts the preimage.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Request => "symbolon/request/v1",
            Self::Enrolment => "symbolon/enrolment/v1",
            Self::Start => "symbolon/start/v1",
            Self::Generate => "symbolon/generate/v1",
            Self::Ready => "symbolon/ready/v1",
            Self::Activated => "symbolon/activated/v1",
            Self::Fault => "symbolon/fault/v1",
            Self::Head => "symbolon/head/v1",
            Self::Commitment => "symbolon/commitment/v1",
            Self::Package => "symbolon/package/v1",
            Self::Erased => "symbolon/erased/v1",
            Self::Dealing => "symbolon/dealing/v1",
            Self::Subshare => "symbolon/subshare/v1",
            Self::Acknowledged => "symbolon/acknowledged/v1",
            Self::Need => "symbolon/need/v1",
            Self::Supports => "symbolon/supports/v1",
            Self::Position => "symbolon/position/v1",
        }
    }
}

/// `length(tag) || tag || cluster id || length(payload) || payload`, the preimage of every identity signature.
fn preimage(domain: Domain, cluster: &ClusterId, payload: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(domain.tag().as_bytes());
    cluster.put(&mut w);
    w.bytes(payload);
    w.finish()
}

/// SHA-256 over a tag and a payload: `SHA-256(length(tag) || tag || payload)`.
#[must_use]
pub fn tagged_hash(tag: &str, payload: &[u8]) -> Digest {
    let mut w = Writer::default();
    w.bytes(tag.as_bytes());
    Digest::from_bytes(Sha256::new().chain_update(w.finish()).chain_update(payload).finalize().into())
}

/// An Ed25519 signature of an identity, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature([u8; 64]);

impl Signature {
    /// From its bytes; whether it verifies is asked later.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }
    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}…)", hex::encode(self.0.get(..4).unwrap_or_default()))
    }
}

impl Wire for Signature {
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self(Wire::take(r)?))
    }
}

/// The public half of an identity: a canonical Ed25519 point of prime order, 32 bytes.
#[derive(Clone, Copy)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Checks and takes a public key.
    ///
    /// # Errors
    /// [`WireError::Invalid`] when the bytes are no canonical point, or a point of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, WireError> {
        let invalid = WireError::Invalid("an Ed25519 public key");
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| invalid)?;
        // Decompression accepts y >= p and "negative zero"; one key must have one encoding.
        if key.is_weak() || key.to_edwards().compress().as_bytes() != bytes {
            return Err(invalid);
        }
        Ok(Self(key))
    }
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
    /// Verifies a signature strictly (RFC 8032, cofactorless, canonical, no small order).
    #[must_use]
    pub fn verifies(&self, domain: Domain, cluster: &ClusterId, payload: &[u8], signature: &Signature) -> bool {
        self.verifies_raw(&preimage(domain, cluster, payload), signature)
    }
    /// Verifies a signature over bytes as they are: for the signatures that the cluster makes for its clients.
    #[must_use]
    pub fn verifies_raw(&self, message: &[u8], signature: &Signature) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature.as_bytes())).is_ok()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}
impl Eq for PublicKey {}
impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}
impl std::str::FromStr for PublicKey {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, WireError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| WireError::Invalid("a public key (64 hexadecimal digits)"))?;
        Self::from_bytes(&bytes)
    }
}
impl Wire for PublicKey {
    fn put(&self, w: &mut Writer) {
        self.as_bytes().put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Self::from_bytes(&Wire::take(r)?)
    }
}

/// The secret half of an identity of a node or a client. Wiped when dropped; never shown, cloned or compared.
pub struct Identity(SigningKey);

impl Identity {
    /// Makes a new identity.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        Self(SigningKey::generate(rng))
    }
    /// From the 32-byte seed of RFC 8032.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }
    /// The seed, for the one file that stores identities and the TLS certificate made from it.
    #[must_use]
    pub fn expose_seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
    /// Signs a payload for a domain of a cluster.
    #[must_use]
    pub fn sign(&self, domain: Domain, cluster: &ClusterId, payload: &[u8]) -> Signature {
        Signature(self.0.sign(&preimage(domain, cluster, payload)).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, secret not shown)", self.public())
    }
}
