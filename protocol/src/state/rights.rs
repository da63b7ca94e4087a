//! Who may do what: deny by default.

use crate::error::{ErrorCode, Refusal};
use crate::id::{KeyId, Name};
use crate::request::{Action, RequestBody, Role};
use crate::schema::replicated as schema;
use crate::table::{StoreFault, Tables, read};

use super::Stop;
use super::records::{ClientRecord, KeyRecord};

impl ClientRecord {
    /// Whether it is an administrator.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.grants.iter().any(|grant| grant.role == Role::Admin)
    }
    /// Whether it has one of the roles on a key. Administrators have every role: they could grant it to themselves.
    #[must_use]
    pub fn has(&self, roles: &[Role], key: &Name) -> bool {
        self.is_admin() || self.grants.iter().any(|grant| roles.contains(&grant.role) && grant.covers(key))
    }
}

const READERS: &[Role] = &[Role::KeyAdmin, Role::Signer, Role::Auditor];

/// Whether a client may see a key.
#[must_use]
pub fn may_read_key(client: &ClientRecord, key: &Name) -> bool {
    client.has(READERS, key)
}

/// Whether a client may read a usage record of somebody else's request.
#[must_use]
pub fn may_read_usage(client: &ClientRecord) -> bool {
    client.is_admin() || client.grants.iter().any(|grant| grant.role == Role::Auditor && grant.keys == "*")
}

fn denied(client: &ClientRecord, action: &Action, role: Role, key: Option<&Name>) -> Stop {
    let on = key.map(|name| format!(" on key `{name}`")).unwrap_or_default();
    let message = format!("client `{}` may not {}: it has no role `{role}`{on}", client.name, action.name());
    Stop::Refused(Refusal::new(ErrorCode::PermissionDenied, message))
}

fn require(client: &ClientRecord, action: &Action, role: Role, key: &Name) -> Result<(), Stop> {
    if client.has(&[role], key) { Ok(()) } else { Err(denied(client, action, role, Some(key))) }
}

fn require_admin(client: &ClientRecord, action: &Action) -> Result<(), Stop> {
    if client.is_admin() { Ok(()) } else { Err(denied(client, action, Role::Admin, None)) }
}

/// The key that a request names.
pub(crate) fn key_of(tables: &impl Tables, id: Option<KeyId>) -> Result<KeyRecord, Stop> {
    let id = id.ok_or_else(|| Refusal::new(ErrorCode::InvalidArgument, "the request names no key"))?;
    let record = read::<KeyRecord>(tables, &schema::key_record(&id))?;
    record.ok_or_else(|| Refusal::new(ErrorCode::NotFound, format!("there is no key with id {id}")).into())
}

/// Checks that a client may do what a request asks.
///
/// # Errors
/// `permission_denied` naming the missing role, or `not_found`; [`StoreFault`] when the store fails.
pub(crate) fn check_right(tables: &impl Tables, client: &ClientRecord, body: &RequestBody) -> Result<(), Stop> {
    let action = &body.action;
    match action {
        Action::CreateKey { name, .. } => require(client, action, Role::KeyAdmin, name),
        Action::RotateKey { .. }
        | Action::SuspendKey
        | Action::ResumeKey
        | Action::RevokeKey { .. }
        | Action::DestroyKey { .. }
        | Action::RefreshKey { .. }
        | Action::ReshareKey { .. }
        | Action::SetKeyPolicy { .. }
        | Action::CancelDestroyKey => require(client, action, Role::KeyAdmin, &key_of(tables, body.key)?.name),
        Action::Sign => require(client, action, Role::Signer, &key_of(tables, body.key)?.name),
        Action::ShowKey { name } if may_read_key(client, name) => Ok(()),
        Action::ShowKey { name } => {
            let message = format!(
                "client `{}` has no role on key `{name}`: `signer` signs with it, `auditor` reads it, `key-admin` manages it",
                client.name
            );
            Err(Refusal::new(ErrorCode::PermissionDenied, message).into())
        }
        // Lists and the status show only what the client may see; usage records are filtered where they are read.
        // The members are known to everybody who is to believe their signatures.
        Action::ListKeys { .. }
        | Action::ListOperations { .. }
        | Action::ListMembers { .. }
        | Action::Status
        | Action::Explain { .. } => Ok(()),
        Action::ListClients { .. } | Action::Doctor if may_read_usage(client) => Ok(()),
        Action::ListClients { .. }
        | Action::Doctor
        | Action::AddClient { .. }
        | Action::RemoveClient { .. }
        | Action::AddMember { .. }
        | Action::RemoveMember { .. }
        | Action::ReplaceMember { .. }
        | Action::MoveMember { .. }
        | Action::UpgradeCluster { .. } => require_admin(client, action),
    }
}

/// The same for callers outside `apply`.
///
/// # Errors
/// The refusal inside, or [`StoreFault`] when the store fails.
pub fn decide_right(
    tables: &impl Tables,
    client: &ClientRecord,
    body: &RequestBody,
) -> Result<Result<(), Refusal>, StoreFault> {
    match check_right(tables, client, body) {
        Ok(()) => Ok(Ok(())),
        Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}
