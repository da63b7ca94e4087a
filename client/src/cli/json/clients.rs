//! `identity`, `client` and `cluster`.

use serde::Serialize;
use symbolon_client::Upgrade;
use symbolon_protocol::state::records::ClientRecord;

use super::super::parse::rfc3339;
use super::Enforcement;

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
    /// Null and empty for `add`.
    #[serde(flatten)]
    pub(crate) enforcement: Enforcement,
}

/// `client list`.
#[derive(Debug, Serialize)]
pub(crate) struct Clients {
    pub(crate) clients: Vec<ClientEntry>,
}

/// `cluster upgrade`.
#[derive(Debug, Serialize)]
pub(crate) struct Upgraded {
    state_version: u32,
    /// Whether it was another one before.
    changed: bool,
    request_id: String,
}

impl From<&Upgrade> for Upgraded {
    fn from(upgrade: &Upgrade) -> Self {
        let (state_version, changed) = (upgrade.state_version, upgrade.changed);
        Self { state_version, changed, request_id: upgrade.request_id.to_string() }
    }
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
