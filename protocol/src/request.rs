//! Client requests: a canonical body and the signatures beside it.
//!
//! Every call of a client is one of these, reads too. A body says everything that the signature covers; what is not in it
//! cannot change what is done. Messages travel beside the body and are bound by length and digest.

mod action;
mod check;
mod grant;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest as _, Sha256};

pub use self::action::{Action, Path};
pub use self::grant::{Grant, Role};
use crate::error::{ErrorCode, Refusal};
use crate::id::{ClusterId, Digest, KeyId, KeyVersion, NodeId, RequestId, Threshold};
use crate::identity::{Domain, PublicKey, Signature, tagged_hash};
use crate::limits;
use crate::wire::{Bytes, decode, encode};

/// Which version of a key a request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionSelector {
    /// The active one.
    Active,
    /// All of them.
    All,
    /// This one.
    Number(KeyVersion),
}
crate::wire_enum!(VersionSelector { 1 => Active, 2 => All, 3 => Number(number) });

/// What a key is for. A scalar is never shared between purposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Signatures.
    Sign,
}
crate::wire_enum!(Purpose { 1 => Sign });

/// The algorithm of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// FROST(Ed25519, SHA-512), RFC 9591 section 6.1: signatures are ordinary Ed25519 signatures (RFC 8032).
    Ed25519,
}
crate::wire_enum!(Suite { 1 => Ed25519 });

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519 => f.write_str("ed25519"),
        }
    }
}

/// Who holds shares: the ordered roster, its spares in the order in which they step in, and the threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterPlan {
    /// Holders, in order.
    pub roster: Vec<NodeId>,
    /// Who replaces a holder that fails during generation; empty for a roster that must not change.
    pub spares: Vec<NodeId>,
    /// Holders needed for a signature.
    pub threshold: Threshold,
}
crate::wire_struct!(RosterPlan { roster, spares, threshold });

impl RosterPlan {
    /// Checks sizes and that nobody is named twice.
    ///
    /// # Errors
    /// [`Refusal`] with the rule that is broken.
    pub fn check(&self) -> Result<(), Refusal> {
        let refuse = |what: String| Err(Refusal::new(ErrorCode::InvalidArgument, what));
        let all: BTreeSet<_> = self.roster.iter().chain(&self.spares).collect();
        if all.len() != self.roster.len() + self.spares.len() {
            return refuse("the roster names a node twice".to_owned());
        }
        if self.roster.len() > limits::ROSTER_NODES || self.spares.len() > limits::SPARES {
            return refuse(format!("a roster has at most {} nodes", limits::ROSTER_NODES));
        }
        if Threshold::new(self.threshold.get(), self.roster.len()).is_none() {
            return refuse(format!(
                "threshold {} does not fit a roster of {}: it must be between 2 and the size of the roster",
                self.threshold,
                self.roster.len()
            ));
        }
        Ok(())
    }
}

/// How a key is kept, beside who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPolicy {
    /// How long a holder that hears of no majority of the voters goes on signing, milliseconds. Longer buys availability
    /// without a majority; shorter takes a right away sooner.
    pub max_staleness_ms: u32,
    /// How often its shares are renewed by schedule, milliseconds; none for never.
    pub refresh_every_ms: Option<u64>,
}
crate::wire_struct!(KeyPolicy { max_staleness_ms, refresh_every_ms });

impl Default for KeyPolicy {
    fn default() -> Self {
        Self { max_staleness_ms: limits::STALENESS_MS, refresh_every_ms: None }
    }
}

impl KeyPolicy {
    /// Checks the limits.
    ///
    /// # Errors
    /// `invalid_argument` naming the limit.
    pub fn check(&self) -> Result<(), Refusal> {
        let staleness = limits::STALENESS_MIN_MS..=limits::STALENESS_MAX_MS;
        if !staleness.contains(&self.max_staleness_ms) {
            let (low, high) = (limits::STALENESS_MIN_MS, limits::STALENESS_MAX_MS / 1000);
            let message = format!("the longest staleness is between {low} ms and {high} s");
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        if self.refresh_every_ms.is_some_and(|every| every < limits::REFRESH_EVERY_MS) {
            let message = format!("shares are refreshed at most every {} s", limits::REFRESH_EVERY_MS / 1000);
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        Ok(())
    }
}

/// A message as the body names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageDigest {
    /// Its length, bytes.
    pub length: u32,
    /// `SHA-256(length("symbolon/message/v1") || "symbolon/message/v1" || message)`.
    pub digest: Digest,
}
crate::wire_struct!(MessageDigest { length, digest });

impl MessageDigest {
    /// Of a message.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        Self {
            length: u32::try_from(message.len()).unwrap_or(u32::MAX),
            digest: tagged_hash("symbolon/message/v1", message),
        }
    }
}

/// Everything that a client's signature covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestBody {
    /// The cluster that is asked.
    pub cluster: ClusterId,
    /// The client's identity.
    pub client: PublicKey,
    /// Random, once per request.
    pub request_id: RequestId,
    /// Not valid before, milliseconds since 1970.
    pub not_before_ms: u64,
    /// Not valid from here on; at most five minutes after `not_before_ms`.
    pub expires_ms: u64,
    /// What is asked.
    pub action: Action,
    /// The key that is meant, where the action is about a key that exists.
    pub key: Option<KeyId>,
    /// The version that is meant.
    pub version: VersionSelector,
    /// What the key is to be used for.
    pub purpose: Purpose,
    /// How holders are to read the messages; `raw` in this version.
    pub payload_type: String,
    /// Attributes of the request, sorted; empty in this version.
    pub context: BTreeMap<String, String>,
    /// The messages.
    pub messages: Vec<MessageDigest>,
}
crate::wire_struct!(RequestBody {
    cluster,
    client,
    request_id,
    not_before_ms,
    expires_ms,
    action,
    key,
    version,
    purpose,
    payload_type,
    context,
    messages,
});

/// In what role somebody signed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureRole {
    /// The client that asks.
    Requester,
    /// Somebody who approves it; refused in this version.
    Approver,
    /// A second credential of the client; refused in this version.
    SecondFactor,
}
crate::wire_enum!(SignatureRole { 1 => Requester, 2 => Approver, 3 => SecondFactor });

/// A signature over a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSignature {
    /// In what role.
    pub role: SignatureRole,
    /// By whom.
    pub signer: PublicKey,
    /// Over the body, for [`Domain::Request`].
    pub signature: Signature,
}
crate::wire_struct!(RequestSignature { role, signer, signature });

/// A request as it travels: nothing about it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRequest {
    /// The canonical body.
    pub body: Bytes,
    /// Signatures over it.
    pub signatures: Vec<RequestSignature>,
}
crate::wire_struct!(SignedRequest { body, signatures });

/// A request whose encoding, cluster and signature were checked; time, replay and rights were not.
#[derive(Debug, Clone)]
pub struct VerifiedRequest {
    body: RequestBody,
    digest: Digest,
}

impl VerifiedRequest {
    /// The body.
    #[must_use]
    pub fn body(&self) -> &RequestBody {
        &self.body
    }
    /// SHA-256 over the canonical body, with its tag; for a create request this is the key id.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
    /// The key id that a create request gives its key.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId::from_bytes(*self.digest.as_bytes())
    }
    /// Checks the validity time against a clock.
    ///
    /// # Errors
    /// `request_expired` or `request_not_yet_valid`; the message says by how many seconds the clocks differ at least.
    pub fn check_time(&self, now_ms: u64) -> Result<(), Refusal> {
        let seconds = |ms: u64| ms.div_ceil(1000);
        if now_ms >= self.body.expires_ms {
            let late = seconds(now_ms - self.body.expires_ms);
            let message = format!("the request expired {late} s ago by the clock of this node");
            return Err(
                Refusal::new(ErrorCode::RequestExpired, message).with("seconds", crate::error::Detail::Number(late))
            );
        }
        if now_ms < self.body.not_before_ms {
            let early = seconds(self.body.not_before_ms - now_ms);
            let message = format!("the request becomes valid in {early} s by the clock of this node");
            return Err(Refusal::new(ErrorCode::RequestNotYetValid, message)
                .with("seconds", crate::error::Detail::Number(early)));
        }
        Ok(())
    }
    /// Checks that the messages are the ones that the body names.
    ///
    /// # Errors
    /// `bad_signature` or `too_large`.
    pub fn check_messages(&self, messages: &[Bytes]) -> Result<(), Refusal> {
        let total: usize = messages.iter().map(|m| m.0.len()).sum();
        if total > limits::MESSAGES_BYTES || messages.iter().any(|m| m.0.len() > limits::MESSAGE_BYTES) {
            let message = format!("messages of one request have at most {} bytes together", limits::MESSAGES_BYTES);
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        let same = messages.len() == self.body.messages.len()
            && messages.iter().zip(&self.body.messages).all(|(m, named)| MessageDigest::of(&m.0) == *named);
        if same {
            Ok(())
        } else {
            Err(Refusal::new(ErrorCode::BadSignature, "the messages are not the ones that the client signed for"))
        }
    }
}

impl SignedRequest {
    /// Signs a body as its requester.
    #[must_use]
    pub fn sign(body: &RequestBody, identity: &crate::identity::Identity) -> Self {
        let bytes = encode(body);
        let signature = identity.sign(Domain::Request, &body.cluster, &bytes);
        Self {
            body: Bytes(bytes),
            signatures: vec![RequestSignature { role: SignatureRole::Requester, signer: identity.public(), signature }],
        }
    }

    /// The tag of the action in the body, whether or not this release knows it.
    pub(crate) fn action_tag(&self) -> Option<u8> {
        // Format version, cluster, client, request id, not before, expiry.
        self.body.0.get(1 + 32 + 32 + 16 + 8 + 8).copied()
    }

    /// The one door: encoding, limits, cluster, what this version supports, signature.
    ///
    /// # Errors
    /// [`Refusal`] with the first rule that is broken.
    pub fn verify(&self, cluster: &ClusterId) -> Result<VerifiedRequest, Refusal> {
        if self.body.0.len() > limits::REQUEST_BODY_BYTES {
            let message = format!("a request body has at most {} bytes", limits::REQUEST_BODY_BYTES);
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        let body: RequestBody = decode(&self.body.0)?;
        if body.cluster != *cluster {
            let message = format!("the request is for cluster {}, this is {cluster}", body.cluster);
            return Err(Refusal::new(ErrorCode::WrongCluster, message));
        }
        self.check_signatures(&body)?;
        check::check_body(&body)?;
        let digest = Digest::from_bytes(
            Sha256::new().chain_update(b"symbolon/request-digest/v1").chain_update(&self.body.0).finalize().into(),
        );
        Ok(VerifiedRequest { body, digest })
    }

    fn check_signatures(&self, body: &RequestBody) -> Result<(), Refusal> {
        let bad = |message: &str| Err(Refusal::new(ErrorCode::BadSignature, message));
        let [signature] = self.signatures.as_slice() else {
            return match self.signatures.iter().find(|s| s.role != SignatureRole::Requester) {
                Some(other) => Err(unsupported_role(other.role)),
                None => bad("a request carries exactly one signature of its requester"),
            };
        };
        if signature.role != SignatureRole::Requester {
            return Err(unsupported_role(signature.role));
        }
        if signature.signer != body.client {
            return bad("the request was not signed by the client that it names");
        }
        if !body.client.verifies(Domain::Request, &body.cluster, &self.body.0, &signature.signature) {
            return bad("the signature over the request does not verify");
        }
        Ok(())
    }
}

fn unsupported_role(role: SignatureRole) -> Refusal {
    Refusal::new(ErrorCode::Unsupported, format!("signatures in the role {role:?} are not supported by this version"))
}
