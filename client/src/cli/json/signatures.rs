//! `sign`, `verify` and `request explain`.

use serde::Serialize;
use symbolon_client::Client;
use symbolon_protocol::state::view::ExplainView;

use super::super::parse::rfc3339;

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
