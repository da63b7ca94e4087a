//! `key`: one, many, made, changed, exported.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use symbolon_client::{Client, VerifiedKey};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::state::records::{ShareSet, Trigger};
use symbolon_protocol::state::view::{OperationPhase, VersionView};

use super::super::context::node_names;
use super::super::parse::rfc3339;
use super::shares::{Ended, Operation, Policy, Shares};

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
    policy: Policy,
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
    /// The share operation that runs.
    running: Option<Running>,
    /// Its shares; null before there are any.
    shares: Option<Shares>,
    /// How its share operations ended, the oldest first.
    operations: Vec<Ended>,
    /// When erasing its shares begins or began.
    destroy_at: Option<String>,
    /// Holders that proved erasure of every share they had; `shares` says it by epoch.
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

/// A share operation that runs.
#[derive(Debug, Serialize)]
struct Running {
    #[serde(flatten)]
    operation: Operation,
    /// Holders of a key that is being made whose share is durable.
    ready: Vec<String>,
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
            policy: view.policy.into(),
            versions: view.versions.iter().map(|version| Version::new(client, key, version)).collect(),
            index: key.index,
        }
    }
}

impl Version {
    fn new(client: &Client, key: &VerifiedKey, version: &VersionView) -> Self {
        let certified = key.certified(version.number);
        let generated = version.attempts.iter().filter(|attempt| attempt.trigger == Trigger::Generate);
        let failed_attempts = generated.filter_map(|attempt| {
            Some(Attempt {
                epoch: attempt.epoch.get(),
                fault: attempt.fault?.name(),
                reporter: attempt.reporter.map(|node| client.node_name(node)),
                culprits: node_names(client, &attempt.culprits),
            })
        });
        let running = version.running.as_ref().map(|running| {
            let staging = running.trigger == Trigger::Generate && running.phase == OperationPhase::Staging;
            let ready = version.roster.iter().copied().filter(|node| staging && !running.waiting.contains(node));
            Running {
                operation: Operation::new(client, running),
                ready: node_names(client, &ready.collect::<Vec<_>>()),
            }
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
            shares: version.shares.as_ref().map(|shares| Shares::new(client, shares)),
            operations: Ended::all(client, version),
            destroy_at: version.destroy_ms.map(rfc3339),
            erased: node_names(client, &erased(version)),
        }
    }
}

/// Who proved erasure, and owes none.
fn erased(version: &VersionView) -> Vec<NodeId> {
    let sets = || version.shares.iter().flat_map(|shares| &shares.out);
    let owing: BTreeSet<NodeId> = sets().flat_map(ShareSet::owing).collect();
    let proved: BTreeSet<NodeId> = sets().flat_map(|set| set.erased.iter().copied()).collect();
    proved.difference(&owing).copied().collect()
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
    #[serde(flatten)]
    pub(crate) enforcement: Enforcement,
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
    #[serde(flatten)]
    pub(crate) enforcement: Enforcement,
}

/// How far a right is gone that was taken away.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Enforcement {
    /// `byzantine`: gone, though one voter may lie; `crash`: gone, as long as none does; `no`: ordered, and nodes that have not
    /// heard of it may still act. Null for what takes nothing away.
    enforced: Option<&'static str>,
    /// Voters and holders that did not confirm.
    missing: Vec<String>,
}

impl Enforcement {
    pub(crate) fn new(client: &Client, enforcement: Option<&symbolon_client::Enforcement>) -> Self {
        enforcement.map_or_else(Self::default, |found| Self {
            enforced: Some(found.enforced.name()),
            missing: node_names(client, &found.missing),
        })
    }
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
