//! Client requests: a canonical body and the signatures beside it.
//!
//! Every call of a client is one of these, reads too. A body says everything that the signature covers; what is not in it
//! cannot change what is done. Messages travel beside the body and are bound by length and digest.

mod check;
mod grant;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest as _, Sha256};

pub use self::grant::{Grant, Role};
use crate::error::{ErrorCode, Refusal};
use crate::genesis::Member;
use crate::id::{ClusterId, Digest, KeyId, KeyVersion, Name, NodeId, RequestId, StoreId, Threshold};
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

/// Which way a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Inside a Raft entry, decided in `apply` on every node.
    Ordered,
    /// Forwarded verbatim to the holders; each decides by its own state before a share leaves.
    Direct,
    /// Answered by the asked node from its own state.
    Read,
}

/// What is asked, with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Makes a key with its first version.
    CreateKey {
        /// Its name.
        name: Name,
        /// Its algorithm.
        suite: Suite,
        /// Who holds shares of the first version.
        plan: RosterPlan,
        /// Tags, sorted.
        tags: BTreeMap<String, String>,
        /// When versions expire, milliseconds since 1970.
        expires_ms: Option<u64>,
        /// How it is kept.
        policy: KeyPolicy,
    },
    /// Makes a new version; when it is active the old one verifies and no longer signs.
    RotateKey {
        /// Who holds shares of the new version.
        plan: RosterPlan,
        /// When it expires, milliseconds since 1970.
        expires_ms: Option<u64>,
    },
    /// Stops signing until resumed.
    SuspendKey,
    /// Signs again.
    ResumeKey,
    /// Withdraws for good.
    RevokeKey {
        /// Why.
        reason: String,
    },
    /// Erases every share.
    DestroyKey {
        /// The key's name once more, typed by a person.
        confirm: Name,
        /// How long to wait before anything is erased, milliseconds.
        wait_ms: u64,
    },
    /// Calls a destruction off while it waits.
    CancelDestroyKey,
    /// Threshold signatures over the messages.
    Sign,
    /// Reads one key, by name.
    ShowKey {
        /// Its name.
        name: Name,
    },
    /// Reads a page of keys.
    ListKeys {
        /// Names after this one.
        after: String,
        /// At most this many.
        limit: u32,
        /// Only keys with all of these tags.
        tags: BTreeMap<String, String>,
    },
    /// Reads the cluster's state.
    Status,
    /// Reads the usage log of the asked node for a request.
    Explain {
        /// The request.
        request: RequestId,
    },
    /// Registers a client under a name, or adds a grant to it.
    AddClient {
        /// Its name.
        name: Name,
        /// Its identity.
        key: PublicKey,
        /// What it may do.
        grant: Grant,
    },
    /// Removes a client.
    RemoveClient {
        /// Its name.
        name: Name,
    },
    /// Reads a page of clients.
    ListClients {
        /// Names after this one.
        after: String,
        /// At most this many.
        limit: u32,
    },
    /// Raises the state version.
    UpgradeCluster {
        /// To this one.
        to: u32,
    },
    /// Gives the same roster new shares of the same key.
    RefreshKey {
        /// Members of the roster that take no part, because they cannot be reached; ascending.
        absent: Vec<NodeId>,
    },
    /// Moves the shares of a version to another roster or threshold; the public key stays.
    ReshareKey {
        /// Who is to hold shares; without spares.
        plan: RosterPlan,
        /// Nodes of the old and the new roster that take no part, because they cannot be reached; ascending.
        absent: Vec<NodeId>,
    },
    /// Changes how a key is kept.
    SetKeyPolicy {
        /// From now on.
        policy: KeyPolicy,
    },
    /// Reads a page of the share operations that run.
    ListOperations {
        /// Operations after this one: its id, or nothing for the first.
        after: Vec<u8>,
        /// At most this many.
        limit: u32,
    },
    /// Adds a member to the cluster.
    AddMember {
        /// Its number: one that nobody ever had.
        id: NodeId,
        /// The member; its role says whether it votes.
        member: Member,
        /// The store under which it takes part.
        store: StoreId,
    },
    /// Removes a member.
    RemoveMember {
        /// Its number.
        id: NodeId,
        /// Whether it leaves although keys need its shares: it will not come back to erase them.
        lost: bool,
    },
    /// Puts a new member in the place of another.
    ReplaceMember {
        /// Who leaves.
        old: NodeId,
        /// The number of the new one.
        id: NodeId,
        /// The new member.
        member: Member,
        /// The store under which it takes part.
        store: StoreId,
        /// Whether the old one leaves although keys need its shares.
        lost: bool,
    },
    /// Gives a member other addresses.
    MoveMember {
        /// Its number.
        id: NodeId,
        /// Where peers reach it from now on.
        peer_address: String,
        /// Where clients reach it from now on.
        client_address: String,
    },
    /// Reads the members, and the changes after a version of the membership.
    ListMembers {
        /// The version.
        after_version: u64,
    },
    /// Reads what the asked node finds when it examines itself.
    Doctor,
}
crate::wire_enum!(Action {
    1 => CreateKey { name, suite, plan, tags, expires_ms, policy },
    2 => RotateKey { plan, expires_ms },
    3 => SuspendKey,
    4 => ResumeKey,
    5 => RevokeKey { reason },
    6 => DestroyKey { confirm, wait_ms },
    7 => CancelDestroyKey,
    8 => Sign,
    9 => ShowKey { name },
    10 => ListKeys { after, limit, tags },
    11 => Status,
    12 => Explain { request },
    13 => AddClient { name, key, grant },
    14 => RemoveClient { name },
    15 => ListClients { after, limit },
    16 => UpgradeCluster { to },
    17 => RefreshKey { absent },
    18 => ReshareKey { plan, absent },
    19 => SetKeyPolicy { policy },
    20 => ListOperations { after, limit },
    21 => AddMember { id, member, store },
    22 => RemoveMember { id, lost },
    23 => ReplaceMember { old, id, member, store, lost },
    24 => MoveMember { id, peer_address, client_address },
    25 => ListMembers { after_version },
    30 => Doctor,
});

impl Action {
    /// Its name in logs and errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CreateKey { .. } => "create key",
            Self::RotateKey { .. } => "rotate key",
            Self::SuspendKey => "suspend key",
            Self::ResumeKey => "resume key",
            Self::RevokeKey { .. } => "revoke key",
            Self::DestroyKey { .. } => "destroy key",
            Self::CancelDestroyKey => "cancel destruction",
            Self::Sign => "sign",
            Self::ShowKey { .. } => "show key",
            Self::ListKeys { .. } => "list keys",
            Self::Status => "status",
            Self::Explain { .. } => "explain request",
            Self::AddClient { .. } => "add client",
            Self::RemoveClient { .. } => "remove client",
            Self::ListClients { .. } => "list clients",
            Self::UpgradeCluster { .. } => "upgrade cluster",
            Self::RefreshKey { .. } => "refresh key",
            Self::ReshareKey { .. } => "reshare key",
            Self::SetKeyPolicy { .. } => "set key policy",
            Self::ListOperations { .. } => "list operations",
            Self::AddMember { .. } => "add member",
            Self::RemoveMember { .. } => "remove member",
            Self::ReplaceMember { .. } => "replace member",
            Self::MoveMember { .. } => "move member",
            Self::ListMembers { .. } => "list members",
            Self::Doctor => "examine nodes",
        }
    }

    /// Which way it goes.
    #[must_use]
    pub const fn path(&self) -> Path {
        match self {
            Self::Sign => Path::Direct,
            Self::ShowKey { .. }
            | Self::ListKeys { .. }
            | Self::Status
            | Self::Explain { .. }
            | Self::ListClients { .. }
            | Self::ListOperations { .. }
            | Self::ListMembers { .. }
            | Self::Doctor => Path::Read,
            Self::CreateKey { .. }
            | Self::RotateKey { .. }
            | Self::SuspendKey
            | Self::ResumeKey
            | Self::RevokeKey { .. }
            | Self::DestroyKey { .. }
            | Self::CancelDestroyKey
            | Self::AddClient { .. }
            | Self::RemoveClient { .. }
            | Self::AddMember { .. }
            | Self::RemoveMember { .. }
            | Self::ReplaceMember { .. }
            | Self::MoveMember { .. }
            | Self::UpgradeCluster { .. }
            | Self::RefreshKey { .. }
            | Self::ReshareKey { .. }
            | Self::SetKeyPolicy { .. } => Path::Ordered,
        }
    }

    /// Whether it takes a right away: such a request is answered after a barrier (`docs/spec/fresh.md`).
    #[must_use]
    pub const fn takes_away(&self) -> bool {
        matches!(
            self,
            Self::RotateKey { .. }
                | Self::SuspendKey
                | Self::RevokeKey { .. }
                | Self::DestroyKey { .. }
                | Self::RemoveClient { .. }
        )
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
