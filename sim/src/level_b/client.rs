//! Who asks: a client that signs its requests, asks again where that may help, and believes nothing that it has not checked.

use std::collections::BTreeMap;
use std::time::Duration;

use symbolon_node::core::request::Ordered;
use symbolon_node::core::signing::Signed;
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{KeyVersion, Name, NodeId, RequestId, Threshold};
use symbolon_protocol::identity::{Identity, PublicKey, Signature};
use symbolon_protocol::request::{
    Action, Grant, MessageDigest, Purpose, RequestBody, Role, RosterPlan, SignedRequest, Suite, VersionSelector,
};
use symbolon_protocol::wire::Bytes;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, PATIENCE};
use super::surroundings::SharedRng;
use super::types::derive;

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(250);
/// How long a request is valid.
const LIFETIME_MS: u64 = 180_000;
/// How often a key is asked for anew when its generation failed.
const GENERATIONS: u32 = 3;

/// The administrator of the simulated cluster.
pub struct Client {
    identity: Identity,
    rng: SharedRng,
}

impl Client {
    /// The one of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let identity = Identity::from_seed(&derive(seed, "administrator", &[]));
        Self { identity, rng: SharedRng::new(derive(seed, "client", &[])) }
    }

    /// Its identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn request(
        &self,
        cluster: &Cluster,
        action: Action,
        key: Option<&KeyCertificate>,
        messages: &[&[u8]],
    ) -> SignedRequest {
        let version = match action {
            Action::Sign | Action::CreateKey { .. } => VersionSelector::Active,
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
            key: key.map(|certificate| certificate.core.key),
            version,
            purpose: Purpose::Sign,
            payload_type: "raw".to_owned(),
            context: BTreeMap::new(),
            messages: messages.iter().map(|message| MessageDigest::of(message)).collect(),
        };
        SignedRequest::sign(&body, &self.identity)
    }

    /// Has a request ordered through a node. A repeated request is idempotent.
    async fn order(
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

    /// Creates a key whose shares all members hold, and checks its certificate against genesis.
    ///
    /// # Errors
    /// Why there is no key, or what is wrong with its certificate.
    pub async fn create_key(
        &self,
        cluster: &Cluster,
        on: NodeId,
        name: &str,
        threshold: usize,
    ) -> Result<KeyCertificate, String> {
        let roster = cluster.members();
        let threshold = Threshold::new(threshold, roster.len()).ok_or("the threshold does not fit the roster")?;
        let action = Action::CreateKey {
            name: Name::new(name).map_err(|e| e.to_string())?,
            suite: Suite::Ed25519,
            plan: RosterPlan { roster, spares: Vec::new(), threshold },
            tags: BTreeMap::new(),
            expires_ms: None,
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
                Err(refusal) => return Err(format!("key `{name}` was not made through node {on}: {refusal}")),
            }
        };
        let view = ordered.key.ok_or("a create request was answered without a key")?;
        let version = view.version(KeyVersion::FIRST).ok_or("a new key has no version")?;
        let certificate = version.certificate.clone().ok_or("a new key has no certificate")?;
        certificate
            .verify(&cluster.genesis().cluster_id(), 0, &cluster.genesis().members)
            .map_err(|error| format!("the certificate of key `{name}`: {error}"))?;
        if certificate.core.key != view.id
            || certificate.core.name.as_str() != name
            || certificate.core.threshold != threshold
        {
            return Err(format!("the certificate of key `{name}` is for something else"));
        }
        cluster.trace().note("key created", &certificate.core.public_key);
        Ok(certificate)
    }

    /// Registers another client that may do nothing but read: one more entry in the log.
    ///
    /// # Errors
    /// Why it was not registered.
    pub async fn register(&self, cluster: &Cluster, on: NodeId, name: &str) -> Result<(), String> {
        let action = Action::AddClient {
            name: Name::new(name).map_err(|e| e.to_string())?,
            key: Identity::from_seed(&self.rng.bytes()).public(),
            grant: Grant { role: Role::Auditor, keys: "*".to_owned() },
        };
        let request = self.request(cluster, action, None, &[]);
        match self.order(cluster, on, &request).await? {
            Ok(ordered) => {
                cluster.trace().note("client registered", &ordered.index.to_be_bytes());
                Ok(())
            }
            Err(refusal) => Err(format!("client `{name}` was not registered through node {on}: {refusal}")),
        }
    }

    /// Has a message signed through a node, and checks the signature under the certified key.
    ///
    /// # Errors
    /// Why there is no signature, or that it does not verify.
    pub async fn sign(
        &self,
        cluster: &Cluster,
        on: NodeId,
        key: &KeyCertificate,
        message: &[u8],
    ) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let request = self.request(cluster, Action::Sign, Some(key), &[message]);
            let core = cluster.core(on)?;
            let asked = core.coordinate(request, vec![Bytes(message.to_vec())]);
            match cluster.within("a signature", asked).await? {
                Ok(signed) => {
                    check_signature(&signed, key, message).map_err(|why| format!("through node {on}: {why}"))?;
                    let made = signed.signatures.concat();
                    cluster.trace().note("signed", &made);
                    return Ok(());
                }
                Err(refusal) if refusal.code.row().retryable && begun.elapsed() < PATIENCE => {
                    cluster.trace().note("asked again", refusal.message.as_bytes());
                    sleep(AGAIN).await;
                }
                Err(refusal) => return Err(format!("nothing was signed through node {on}: {refusal}")),
            }
        }
    }
}

fn check_signature(signed: &Signed, key: &KeyCertificate, message: &[u8]) -> Result<(), String> {
    if signed.core != key.core {
        return Err("the answer names another certificate".to_owned());
    }
    let [signature] = signed.signatures.as_slice() else {
        return Err(format!("{} signatures for one message", signed.signatures.len()));
    };
    let public = PublicKey::from_bytes(&key.core.public_key).map_err(|e| e.to_string())?;
    if !public.verifies_raw(message, &Signature::from_bytes(*signature)) {
        return Err("the signature does not verify under the certified key".to_owned());
    }
    if signed.holders.len() != key.core.threshold.get() || signed.holders.iter().any(|id| !key.core.roster.contains(id))
    {
        return Err(format!("signed by {:?}, which is no quorum of the roster", signed.holders));
    }
    Ok(())
}
