//! The documents that `-o json` prints: one per command, complete, and the same in every release of the same major number.
//!
//! Rules: times are RFC 3339 in UTC; ids and public keys are hexadecimal; nodes are named as in genesis; what is unknown or
//! does not apply is `null`; fields may be added, never renamed or removed. Errors stand alone on standard error
//! ([`ErrorDocument`]); a warning beside a good result is a line `{"warning": text}` there.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use symbolon_client::{Client, Error, VerifiedKey};
use symbolon_protocol::error::Detail;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::state::records::ClientRecord;
use symbolon_protocol::state::view::{ExplainView, StatusView, VersionView};

use super::context::node_names;
use super::parse::rfc3339;

/// Every error: `{"error": {...}}`.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorDocument {
    error: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    /// One of `symbolon help errors`.
    code: &'static str,
    message: String,
    /// What to do next.
    hint: String,
    /// The request, where one was sent.
    request_id: Option<String>,
    /// Whether the same command may succeed later.
    retryable: bool,
    /// For scripts, by code; `below_threshold` has `reachable`, `needed` and `unreachable`. `warnings` where there were any.
    details: BTreeMap<String, Value>,
}

impl ErrorDocument {
    pub(crate) fn new(error: &Error, warnings: Vec<String>) -> Self {
        let value = |detail: &Detail| match detail {
            Detail::Text(text) => Value::from(text.as_str()),
            Detail::Number(number) => Value::from(*number),
            Detail::List(list) => Value::from(list.clone()),
        };
        let mut details: BTreeMap<_, _> = error.details().iter().map(|(k, v)| (k.clone(), value(v))).collect();
        if !warnings.is_empty() {
            details.insert("warnings".to_owned(), Value::from(warnings));
        }
        Self {
            error: ErrorBody {
                code: error.code().row().name,
                message: error.message().to_owned(),
                hint: error.hint().to_owned(),
                request_id: error.request_id().map(|id| id.to_string()),
                retryable: error.is_retryable(),
                details,
            },
        }
    }
}

/// `sign`.
#[derive(Debug, Serialize)]
pub(crate) struct Signed {
    pub(crate) key: String,
    pub(crate) key_id: String,
    pub(crate) version: u32,
    /// `ed25519`.
    pub(crate) algorithm: String,
    /// `base64`, `raw` or `sshsig`.
    pub(crate) format: String,
    /// The armored file for `sshsig`, else the 64 bytes in base64.
    pub(crate) signature: String,
    pub(crate) request_id: String,
    pub(crate) epoch: u32,
    pub(crate) coordinator: Option<String>,
    pub(crate) holders: Vec<String>,
    /// Sets of holders that were tried.
    pub(crate) attempts: u32,
}

/// `verify`, when the signature is good.
#[derive(Debug, Serialize)]
pub(crate) struct Verified {
    /// Always true: everything else is an error.
    pub(crate) valid: bool,
    pub(crate) key: String,
    /// Null with `--public-key`, as is all that only the cluster knows.
    pub(crate) key_id: Option<String>,
    pub(crate) version: Option<u32>,
    pub(crate) state: Option<String>,
    /// Why the version was revoked.
    pub(crate) reason: Option<String>,
    pub(crate) public_key: String,
    /// `plain` or `sshsig`.
    pub(crate) format: &'static str,
    /// What an SSHSIG is for.
    pub(crate) namespace: Option<String>,
}

/// `key show`, and each item of `key list`.
#[derive(Debug, Serialize)]
pub(crate) struct Key {
    name: String,
    id: String,
    /// `sign`.
    purpose: &'static str,
    /// `ed25519`.
    algorithm: String,
    tags: BTreeMap<String, String>,
    created: String,
    created_by: String,
    /// The version that signs, or would if it were not suspended or expired.
    current: Option<u32>,
    /// Ascending.
    versions: Vec<Version>,
    /// Index of the state that this was read from.
    index: u64,
}

/// A version of a key.
#[derive(Debug, Serialize)]
struct Version {
    version: u32,
    /// `pending`, `active`, `suspended`, `rotated`, `expired`, `revoked`, `destroying`, `destroyed` or `failed`.
    state: &'static str,
    /// Why it was revoked.
    reason: Option<String>,
    created: String,
    expires: Option<String>,
    threshold: usize,
    holders: Vec<String>,
    /// Whether its certificate is complete and was checked; only then there is a public key.
    certified: bool,
    public_key: Option<String>,
    epoch: Option<u32>,
    /// Attempts of its generation that ended without a key.
    failed_attempts: Vec<Attempt>,
    /// The attempt that runs.
    running: Option<Running>,
    /// When erasing its shares begins or began.
    destroy_at: Option<String>,
    /// Holders that proved erasure.
    erased: Vec<String>,
}

/// An attempt that ended without a key.
#[derive(Debug, Serialize)]
struct Attempt {
    epoch: u32,
    /// `bad_message`, `bad_proof`, `bad_share`, `split_view`, `unresponsive`, `wrong_result` or `restarted`.
    fault: &'static str,
    /// Who said so; null when its time ran out.
    reporter: Option<String>,
    /// Whom the reporter blames.
    culprits: Vec<String>,
}

/// An attempt that runs.
#[derive(Debug, Serialize)]
struct Running {
    epoch: u32,
    /// Holders whose share is durable.
    ready: Vec<String>,
    /// Holders that are waited for.
    waiting: Vec<String>,
}

impl Key {
    pub(crate) fn new(client: &Client, key: &VerifiedKey) -> Self {
        let view = &key.view;
        Self {
            name: view.name.to_string(),
            id: view.id.to_string(),
            purpose: "sign",
            algorithm: view.suite.to_string(),
            tags: view.tags.clone(),
            created: rfc3339(view.created_ms),
            created_by: view.created_by.to_string(),
            current: view.current.map(|version| version.get()),
            versions: view.versions.iter().map(|version| Version::new(client, key, version)).collect(),
            index: key.index,
        }
    }
}

impl Version {
    fn new(client: &Client, key: &VerifiedKey, version: &VersionView) -> Self {
        let certified = key.certified(version.number);
        let failed_attempts = version.attempts.iter().map(|attempt| Attempt {
            epoch: attempt.epoch.get(),
            fault: attempt.fault.name(),
            reporter: attempt.reporter.map(|node| client.node_name(node)),
            culprits: node_names(client, &attempt.culprits),
        });
        let running = version.running.as_ref().map(|(epoch, ready)| {
            let (done, open): (Vec<_>, Vec<_>) = version.roster.iter().copied().partition(|node| ready.contains(node));
            Running { epoch: epoch.get(), ready: node_names(client, &done), waiting: node_names(client, &open) }
        });
        Self {
            version: version.number.get(),
            state: version.state.name(),
            reason: version.reason.clone(),
            created: rfc3339(version.created_ms),
            expires: version.expires_ms.map(rfc3339),
            threshold: version.threshold.get(),
            holders: node_names(client, &version.roster),
            certified: certified.is_some(),
            public_key: certified.map(|certified| certified.public_key.to_string()),
            epoch: certified.map(|certified| certified.core.epoch.get()),
            failed_attempts: failed_attempts.collect(),
            running,
            destroy_at: version.destroy_ms.map(rfc3339),
            erased: version.erased.iter().map(|node| client.node_name(*node)).collect(),
        }
    }
}

/// `key list`.
#[derive(Debug, Serialize)]
pub(crate) struct Keys {
    pub(crate) keys: Vec<Key>,
}

/// `key create` and `key rotate`.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    pub(crate) key: String,
    pub(crate) key_id: String,
    pub(crate) version: u32,
    pub(crate) state: &'static str,
    pub(crate) algorithm: String,
    pub(crate) public_key: String,
    pub(crate) threshold: usize,
    pub(crate) holders: Vec<String>,
    pub(crate) epoch: u32,
    pub(crate) request_id: String,
    /// From the request to the checked certificate.
    pub(crate) milliseconds: f64,
}

/// `key suspend`, `resume`, `revoke` and `destroy`.
#[derive(Debug, Serialize)]
pub(crate) struct Changed {
    pub(crate) key: String,
    pub(crate) key_id: String,
    /// Each version that changed, with its state now.
    pub(crate) versions: Vec<VersionState>,
    pub(crate) request_id: String,
    /// Index of the entry in the log.
    pub(crate) index: u64,
}

/// A version with its state.
#[derive(Debug, Serialize)]
pub(crate) struct VersionState {
    pub(crate) version: u32,
    pub(crate) state: &'static str,
}

/// `key export-public`.
#[derive(Debug, Serialize)]
pub(crate) struct Exported {
    pub(crate) key: String,
    pub(crate) key_id: String,
    pub(crate) version: u32,
    pub(crate) state: &'static str,
    pub(crate) algorithm: String,
    /// `pem`, `der`, `ssh`, `jwk` or `raw`.
    pub(crate) format: String,
    /// Text for `pem`, `ssh` and `jwk`; base64 for `der` and `raw`.
    pub(crate) public_key: String,
    /// The 32 bytes in hexadecimal, whatever the format.
    pub(crate) hex: String,
}

/// `identity new` and `identity show`.
#[derive(Debug, Serialize)]
pub(crate) struct Identity {
    pub(crate) file: String,
    pub(crate) public_key: String,
}

/// `client add` and `client remove`.
#[derive(Debug, Serialize)]
pub(crate) struct ClientChanged {
    pub(crate) client: String,
    pub(crate) request_id: String,
}

/// `client list`.
#[derive(Debug, Serialize)]
pub(crate) struct Clients {
    pub(crate) clients: Vec<ClientEntry>,
}

/// A client.
#[derive(Debug, Serialize)]
pub(crate) struct ClientEntry {
    name: String,
    public_key: String,
    /// Null for the administrators of genesis.
    added: Option<String>,
    grants: Vec<GrantEntry>,
}

/// A role on the keys that match a pattern.
#[derive(Debug, Serialize)]
struct GrantEntry {
    role: &'static str,
    keys: String,
}

impl From<&ClientRecord> for ClientEntry {
    fn from(client: &ClientRecord) -> Self {
        let grants = client.grants.iter().map(|grant| GrantEntry { role: grant.role.name(), keys: grant.keys.clone() });
        Self {
            name: client.name.to_string(),
            public_key: client.key.to_string(),
            added: (client.added_ms > 0).then(|| rfc3339(client.added_ms)),
            grants: grants.collect(),
        }
    }
}

/// `status`.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    cluster_id: String,
    /// Name of the cluster.
    cluster: String,
    leader: Option<String>,
    state_version: u32,
    membership: u64,
    /// The node that answered; everything here is its word.
    asked: String,
    applied_index: u64,
    /// State time.
    time: String,
    nodes: Vec<NodeStatus>,
    /// At most a page; `key list` shows them all.
    keys: Vec<KeyStatus>,
    warnings: Vec<String>,
}

/// A node in the status.
#[derive(Debug, Serialize)]
pub(crate) struct NodeStatus {
    pub(crate) name: String,
    pub(crate) reachable: bool,
    /// `leader`, `follower`, `candidate`, `learner` or `unknown`.
    pub(crate) role: String,
    pub(crate) applied_index: Option<u64>,
    /// Its release.
    pub(crate) version: String,
}

/// A key in the status.
#[derive(Debug, Serialize)]
pub(crate) struct KeyStatus {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) state: &'static str,
    pub(crate) threshold: usize,
    /// Holders.
    pub(crate) holders: usize,
    /// Holders that can be reached.
    pub(crate) usable: usize,
    /// How many more of them may be lost before the key does not sign; negative when it does not.
    pub(crate) margin: i64,
    pub(crate) holder_names: Vec<String>,
    pub(crate) usable_names: Vec<String>,
}

impl Status {
    pub(crate) fn new(client: &Client, status: &StatusView) -> Self {
        Self {
            cluster_id: status.cluster.to_string(),
            cluster: status.name.to_string(),
            leader: status.leader.map(|node| client.node_name(node)),
            state_version: status.state_version,
            membership: status.membership,
            asked: client.node_name(status.asked),
            applied_index: status.applied_index,
            time: rfc3339(status.time_ms),
            nodes: status.nodes.iter().map(NodeStatus::from).collect(),
            keys: status.keys.iter().map(|key| KeyStatus::new(client, key)).collect(),
            warnings: status.warnings.clone(),
        }
    }
    pub(crate) fn nodes(&self) -> &[NodeStatus] {
        &self.nodes
    }
    pub(crate) fn keys(&self) -> &[KeyStatus] {
        &self.keys
    }
}

impl From<&symbolon_protocol::state::view::NodeView> for NodeStatus {
    fn from(node: &symbolon_protocol::state::view::NodeView) -> Self {
        Self {
            name: node.name.to_string(),
            reachable: node.reachable,
            role: node.role.clone(),
            applied_index: node.applied_index,
            version: node.release.clone(),
        }
    }
}

impl KeyStatus {
    fn new(client: &Client, key: &symbolon_protocol::state::view::KeyStatus) -> Self {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        Self {
            name: key.name.to_string(),
            version: key.version.get(),
            state: KeyState::name(key.state),
            threshold: key.threshold.get(),
            holders: key.holders.len(),
            usable: key.usable.len(),
            margin: count(key.usable.len()) - count(key.threshold.get()),
            holder_names: node_names(client, &key.holders),
            usable_names: node_names(client, &key.usable),
        }
    }
}

/// `request explain`.
#[derive(Debug, Serialize)]
pub(crate) struct Explained {
    pub(crate) request_id: String,
    /// Every endpoint, also those that did not answer.
    pub(crate) nodes: Vec<NodeExplained>,
}

/// What one node says.
#[derive(Debug, Serialize)]
pub(crate) struct NodeExplained {
    pub(crate) node: String,
    /// Why it does not say anything.
    pub(crate) error: Option<NodeError>,
    pub(crate) records: Vec<Decision>,
}

/// Why a node does not answer.
#[derive(Debug, Serialize)]
pub(crate) struct NodeError {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// A decision of a holder.
#[derive(Debug, Serialize)]
pub(crate) struct Decision {
    /// By name where the client is registered.
    pub(crate) client: String,
    pub(crate) action: String,
    /// By the node's clock.
    pub(crate) time: String,
    /// Whether a share left.
    pub(crate) granted: bool,
    /// Why, or why not.
    pub(crate) reason: String,
    pub(crate) key_id: Option<String>,
    pub(crate) version: Option<u32>,
    pub(crate) epoch: Option<u32>,
    pub(crate) coordinator: String,
}

impl Decision {
    pub(crate) fn new(client: &Client, record: &ExplainView) -> Self {
        Self {
            client: record.client.clone(),
            action: record.action.clone(),
            time: rfc3339(record.time_ms),
            granted: record.granted,
            reason: record.reason.clone(),
            key_id: record.key.map(|(key, _)| key.to_string()),
            version: record.key.map(|(_, (version, _))| version.get()),
            epoch: record.key.map(|(_, (_, epoch))| epoch.get()),
            coordinator: client.node_name(record.coordinator),
        }
    }
}

/// Each row of `help errors`.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorRow {
    pub(crate) code: &'static str,
    pub(crate) exit: u8,
    /// Number of google.rpc.Code.
    pub(crate) grpc: i32,
    /// `caller`, `peer`, `environment` or `bug`.
    pub(crate) fault: &'static str,
    pub(crate) retryable: bool,
    pub(crate) hint: &'static str,
}

#[cfg(test)]
mod tests {
    use symbolon_protocol::error::{ErrorCode, Refusal};

    use super::*;

    #[test]
    fn errors_have_the_shape_that_scripts_rely_on() {
        let refusal = Refusal::new(ErrorCode::BelowThreshold, "2 of 3 needed signers can be reached")
            .with("reachable", Detail::Number(2))
            .with("needed", Detail::Number(3))
            .with("unreachable", Detail::List(vec!["node4".to_owned()]));
        let document = serde_json::to_value(ErrorDocument::new(&Error::from(refusal), Vec::new()));
        let expected = serde_json::json!({"error": {
            "code": "below_threshold",
            "message": "2 of 3 needed signers can be reached",
            "hint": "bring back enough of the unreachable holders",
            "request_id": null,
            "retryable": true,
            "details": {"reachable": 2, "needed": 3, "unreachable": ["node4"]},
        }});
        assert_eq!(document.ok(), Some(expected));
    }
}
