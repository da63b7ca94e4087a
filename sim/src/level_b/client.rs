//! Who asks: a client that signs its requests, asks again where that may help, and believes nothing that it has not checked.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use symbolon_node::core::request::Ordered;
use symbolon_node::core::signing::Signed;
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::fresh::{Checked, Claim, Enforced, Expected};
use symbolon_protocol::id::{KeyId, KeyVersion, Name, NodeId, RequestId, Threshold};
use symbolon_protocol::identity::{Identity, PublicKey, Signature};
use symbolon_protocol::membership::Followed;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{
    Action, Grant, KeyPolicy, MessageDigest, Purpose, RequestBody, Role, RosterPlan, SignedRequest, Suite,
    VersionSelector,
};
use symbolon_protocol::state::view::{KeyView, MembersView};
use symbolon_protocol::wire::Bytes;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, PATIENCE};
use super::surroundings::SharedRng;
use super::types::{SimCore, derive, lock};

/// Between two tries.
pub const AGAIN: Duration = Duration::from_millis(250);
/// How long a request is valid.
const LIFETIME_MS: u64 = 180_000;
/// How often a key is asked for anew when its generation failed.
const GENERATIONS: u32 = 3;
/// How often a change is asked for while another one of the same key is not finished.
const BUSY_TRIES: u32 = 40;

/// The administrator of the simulated cluster.
pub struct Client {
    identity: Identity,
    rng: SharedRng,
    /// Who belongs to the cluster, as far as links led; none before the first question.
    followed: Mutex<Option<Followed>>,
}

/// A name.
///
/// # Errors
/// When it is none.
pub fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|e| e.to_string())
}

impl Client {
    /// The one of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let identity = Identity::from_seed(&derive(seed, "administrator", &[]));
        Self { identity, rng: SharedRng::new(derive(seed, "client", &[])), followed: Mutex::default() }
    }

    /// Its identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A signed request that is valid from now on.
    #[must_use]
    pub fn request(&self, cluster: &Cluster, action: Action, key: Option<KeyId>, messages: &[&[u8]]) -> SignedRequest {
        let version = match action {
            Action::Sign | Action::CreateKey { .. } | Action::RefreshKey { .. } | Action::ReshareKey { .. } => {
                VersionSelector::Active
            }
            _ => VersionSelector::All,
        };
        let now = cluster.now_ms();
        let body = RequestBody {
            cluster: cluster.genesis().cluster_id(),
            client: self.identity.public(),
            request_id: RequestId::from_bytes(self.rng.bytes()),
            not_before_ms: now,
            expires_ms: now + LIFETIME_MS,
            action,
            key,
            version,
            purpose: Purpose::Sign,
            payload_type: "raw".to_owned(),
            context: BTreeMap::new(),
            messages: messages.iter().map(|message| MessageDigest::of(message)).collect(),
        };
        SignedRequest::sign(&body, &self.identity)
    }

    /// Has a request ordered through a node. A repeated request is idempotent. The refusal inside is the cluster's.
    ///
    /// # Errors
    /// What was waited for in vain.
    pub async fn order(
        &self,
        cluster: &Cluster,
        on: NodeId,
        request: &SignedRequest,
    ) -> Result<Result<Ordered, Refusal>, String> {
        let begun = Instant::now();
        loop {
            let core = cluster.core(on)?;
            match cluster.within("an ordered request", core.order_request(request.clone())).await? {
                Err(refusal) if refusal.code.row().retryable && begun.elapsed() < PATIENCE => {
                    cluster.trace().note("asked again", refusal.message.as_bytes());
                    sleep(AGAIN).await;
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Has something ordered that must not be refused.
    ///
    /// # Errors
    /// Why it was refused, or what was waited for in vain.
    pub async fn change(
        &self,
        cluster: &Cluster,
        on: NodeId,
        action: Action,
        key: Option<KeyId>,
    ) -> Result<Ordered, String> {
        let what = action.name();
        for _ in 0..BUSY_TRIES {
            let request = self.request(cluster, action.clone(), key, &[]);
            match self.order(cluster, on, &request).await? {
                Ok(ordered) => {
                    cluster.trace().note(what, &ordered.index.to_be_bytes());
                    return Ok(ordered);
                }
                // The change before it is not finished everywhere; a client waits for that.
                Err(refusal) if refusal.code == ErrorCode::OperationRunning => {
                    sleep(AGAIN).await;
                }
                Err(refusal) => return Err(format!("`{what}` was refused through node {on}: {refusal}")),
            }
        }
        Err(format!("`{what}` was told to wait {BUSY_TRIES} times"))
    }

    /// Creates a key whose shares all members hold, and checks its certificate against genesis.
    ///
    /// # Errors
    /// Why there is no key, or what is wrong with its certificate.
    pub async fn create_key(
        &self,
        cluster: &Cluster,
        on: NodeId,
        key: &str,
        threshold: usize,
        policy: KeyPolicy,
    ) -> Result<KeyCertificate, String> {
        self.create_key_on(cluster, on, key, (cluster.members(), threshold), policy).await
    }

    /// Creates a key whose shares these members hold, so many of whom sign, and checks its certificate.
    ///
    /// # Errors
    /// Why there is no key, or what is wrong with its certificate.
    pub async fn create_key_on(
        &self,
        cluster: &Cluster,
        on: NodeId,
        key: &str,
        (roster, threshold): (Vec<NodeId>, usize),
        policy: KeyPolicy,
    ) -> Result<KeyCertificate, String> {
        let threshold = Threshold::new(threshold, roster.len()).ok_or("the threshold does not fit the roster")?;
        let action = Action::CreateKey {
            name: name(key)?,
            suite: Suite::Ed25519,
            plan: RosterPlan { roster, spares: Vec::new(), threshold },
            tags: BTreeMap::new(),
            expires_ms: None,
            policy,
        };
        let mut tried = 0;
        let ordered = loop {
            tried += 1;
            let request = self.request(cluster, action.clone(), None, &[]);
            match self.order(cluster, on, &request).await? {
                Ok(ordered) => break ordered,
                // Lost calls may be too many for one generation; the name is free again.
                Err(refusal) if refusal.code == ErrorCode::GenerationFailed && tried < GENERATIONS => {
                    cluster.trace().note("generation failed", refusal.message.as_bytes());
                }
                Err(refusal) => return Err(format!("key `{key}` was not made through node {on}: {refusal}")),
            }
        };
        let view = ordered.key.ok_or("a create request was answered without a key")?;
        let certificate = self.certified(cluster, on, &view).await?;
        if certificate.core.name.as_str() != key || certificate.core.threshold != threshold {
            return Err(format!("the certificate of key `{key}` is for something else"));
        }
        cluster.trace().note("key created", &certificate.core.public_key);
        Ok(certificate)
    }

    /// Who belongs to the cluster, as far as this client was led.
    #[must_use]
    pub fn followed(&self, cluster: &Cluster) -> Followed {
        lock(&self.followed).get_or_insert_with(|| Followed::genesis(cluster.genesis())).clone()
    }

    /// Follows the members through a node until they are known at a version, and gives how the node shows them.
    ///
    /// # Errors
    /// That the node's links do not hold, or do not lead there.
    pub async fn follow(&self, cluster: &Cluster, on: NodeId, version: u64) -> Result<MembersView, String> {
        let begun = Instant::now();
        loop {
            let mut followed = self.followed(cluster);
            let action = Action::ListMembers { after_version: followed.version() };
            let request = self.request(cluster, action, None, &[]);
            let shown = cluster.served(on, "the members", |core| async move { core.list_members(&request).await });
            if let Ok(view) = shown.await? {
                let links = view.links.clone();
                followed.take_all(links).map_err(|why| format!("node {on} shows links that do not hold: {why}"))?;
                let led = followed.version();
                let mut known = lock(&self.followed);
                if known.as_ref().is_none_or(|known| known.version() < led) {
                    *known = Some(followed);
                }
                drop(known);
                if led >= version {
                    return Ok(view);
                }
            }
            if begun.elapsed() >= PATIENCE {
                return Err(format!("node {on} does not lead to membership {version}"));
            }
            sleep(AGAIN).await;
        }
    }

    /// Changes the members, and follows that.
    ///
    /// # Errors
    /// Why it was refused, or what was waited for in vain.
    pub async fn change_members(&self, cluster: &Cluster, on: NodeId, action: Action) -> Result<Followed, String> {
        let ordered = self.change(cluster, on, action, None).await?;
        let Outcome::MembershipChanged { version, .. } = ordered.outcome else {
            return Err(format!("a change of the members came out as {:?}", ordered.outcome));
        };
        self.follow(cluster, on, version).await?;
        Ok(self.followed(cluster))
    }

    /// The certificate of the first version of a key, checked against the members at its versions.
    async fn certified(&self, cluster: &Cluster, on: NodeId, view: &KeyView) -> Result<KeyCertificate, String> {
        let key = &view.name;
        let version = view.version(KeyVersion::FIRST).ok_or_else(|| format!("key `{key}` has no first version"))?;
        let certificate = version.certificate.clone().ok_or_else(|| format!("key `{key}` has no certificate"))?;
        let newest = certificate.activation.head.membership;
        if newest > self.followed(cluster).version() {
            self.follow(cluster, on, newest).await?;
        }
        let followed = self.followed(cluster);
        let members = |version| followed.at(version).map(|membership| &membership.members);
        let checked = certificate.verify_under(&cluster.genesis().cluster_id(), members);
        checked.map_err(|error| format!("the certificate of key `{key}`: {error}"))?;
        if certificate.core.key != view.id || certificate.core.name != *key {
            return Err(format!("the certificate of key `{key}` is for something else"));
        }
        Ok(certificate)
    }

    /// Reads a key through a node, and checks that its public key is the one that was certified before.
    ///
    /// # Errors
    /// Why it was not shown, or what is wrong with what was shown.
    pub async fn show_key(&self, cluster: &Cluster, on: NodeId, key: &KeyCertificate) -> Result<KeyView, String> {
        let request = self.request(cluster, Action::ShowKey { name: key.core.name.clone() }, None, &[]);
        let core = cluster.core(on)?;
        let shown = cluster.within("a key to be shown", core.show_key(&request)).await?;
        let (_, view) = shown.map_err(|refusal| format!("node {on} does not show a key: {refusal}"))?;
        let now = self.certified(cluster, on, &view).await?.core;
        if now.key != key.core.key || now.public_key != key.core.public_key {
            return Err(format!("node {on} shows another public key than before for `{}`", key.core.name));
        }
        Ok(view)
    }

    /// Registers another client that may do nothing but read: one more entry in the log.
    ///
    /// # Errors
    /// Why it was not registered.
    pub async fn register(&self, cluster: &Cluster, on: NodeId, client: &str) -> Result<(), String> {
        let action = Action::AddClient {
            name: name(client)?,
            key: Identity::from_seed(&self.rng.bytes()).public(),
            grant: Grant { role: Role::Auditor, keys: "*".to_owned() },
        };
        self.change(cluster, on, action, None).await.map(drop)
    }

    /// Takes a right away through a node, until that is enforced as far as it can be, and checks the report: nothing in it but
    /// the wait is the node's word.
    ///
    /// # Errors
    /// Why it was refused, what is wrong with the report, or that nothing was enforced.
    pub async fn withdraw(
        &self,
        cluster: &Cluster,
        on: NodeId,
        action: Action,
        key: Option<KeyId>,
    ) -> Result<Checked, String> {
        let request = self.request(cluster, action, key, &[]);
        self.withdraw_by(cluster, on, &request).await
    }

    /// The same with a request that is there already.
    ///
    /// # Errors
    /// As [`Client::withdraw`].
    pub async fn withdraw_by(&self, cluster: &Cluster, on: NodeId, request: &SignedRequest) -> Result<Checked, String> {
        let what = "taking a right away";
        let followed = self.followed(cluster);
        let begun = Instant::now();
        loop {
            let answer = self.order(cluster, on, request).await?;
            let ordered = answer.map_err(|refusal| format!("`{what}` was refused through node {on}: {refusal}"))?;
            let report = ordered.barrier.ok_or_else(|| format!("`{what}` was answered without a report"))?;
            let expected = Expected {
                cluster: cluster.genesis().cluster_id(),
                followed: &followed,
                claim: Claim::Request(request, &ordered.outcome, ordered.index),
            };
            let checked =
                report.check(&expected).map_err(|why| format!("node {on} gave a report of a barrier {why}"))?;
            cluster.trace().note(what, checked.enforced.name().as_bytes());
            if checked.enforced != Enforced::No {
                return Ok(checked);
            }
            if begun.elapsed() >= PATIENCE {
                return Err(format!("`{what}` is not enforced; missing: {:?}", checked.missing));
            }
            sleep(AGAIN).await;
        }
    }

    /// Asks for a signature through a node, once, and checks it under the certified key. Gives the holders that made it; the
    /// refusal inside is the node's.
    ///
    /// # Errors
    /// That the signature does not verify, or what was waited for in vain.
    pub async fn try_sign(
        &self,
        cluster: &Cluster,
        on: NodeId,
        key: &KeyCertificate,
        message: &[u8],
    ) -> Result<Result<Vec<NodeId>, Refusal>, String> {
        let request = self.request(cluster, Action::Sign, Some(key.core.key), &[message]);
        let message_bytes = vec![Bytes(message.to_vec())];
        let asked = |core: SimCore| async move { core.coordinate(request, message_bytes).await };
        match cluster.served(on, "a signature", asked).await? {
            Ok(signed) => {
                check_signature(&signed, key, message).map_err(|why| format!("through node {on}: {why}"))?;
                cluster.trace().note("signed", &signed.signatures.concat());
                Ok(Ok(signed.holders))
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Has a message signed through a node, and gives the holders that signed it.
    ///
    /// # Errors
    /// Why there is no signature, or that it does not verify.
    pub async fn sign(
        &self,
        cluster: &Cluster,
        on: NodeId,
        key: &KeyCertificate,
        message: &[u8],
    ) -> Result<Vec<NodeId>, String> {
        let begun = Instant::now();
        loop {
            match self.try_sign(cluster, on, key, message).await? {
                Ok(holders) => return Ok(holders),
                Err(refusal) if refusal.code.row().retryable && begun.elapsed() < PATIENCE => {
                    cluster.trace().note("asked again", refusal.message.as_bytes());
                    sleep(AGAIN).await;
                }
                Err(refusal) => return Err(format!("nothing was signed through node {on}: {refusal}")),
            }
        }
    }
}

/// Shares may have changed since the key was certified; the public key must not.
fn check_signature(signed: &Signed, key: &KeyCertificate, message: &[u8]) -> Result<(), String> {
    let (now, then) = (&signed.core, &key.core);
    if (now.key, now.version, now.public_key) != (then.key, then.version, then.public_key) {
        return Err("the answer names another key".to_owned());
    }
    let [signature] = signed.signatures.as_slice() else {
        return Err(format!("{} signatures for one message", signed.signatures.len()));
    };
    let public = PublicKey::from_bytes(&then.public_key).map_err(|e| e.to_string())?;
    if !public.verifies_raw(message, &Signature::from_bytes(*signature)) {
        return Err("the signature does not verify under the certified key".to_owned());
    }
    if signed.holders.len() != now.threshold.get() || signed.holders.iter().any(|id| !now.holders.contains(id)) {
        return Err(format!("signed by {:?}, which is no quorum of the holders", signed.holders));
    }
    Ok(())
}
