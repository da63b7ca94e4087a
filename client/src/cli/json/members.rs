//! `member`.

use serde::Serialize;
use symbolon_protocol::state::view::{DepartedView, MemberView, MembersView};

use super::super::member::role_name;
use super::super::parse::rfc3339;
use super::Enforcement;

/// `member add`, `remove`, `replace` and `move`.
#[derive(Debug, Serialize)]
pub(crate) struct MemberChanged {
    pub(crate) node: String,
    pub(crate) membership: u64,
    pub(crate) request_id: String,
    /// With which a new node starts; null where none is needed.
    pub(crate) ticket: Option<String>,
    #[serde(flatten)]
    pub(crate) enforcement: Enforcement,
}

/// `member list`.
#[derive(Debug, Serialize)]
pub(crate) struct Members {
    membership: u64,
    /// The version that is proved to this client.
    proved: u64,
    /// Whether Raft has the voters that administrators want.
    settled: bool,
    members: Vec<MemberEntry>,
    departed: Vec<DepartedEntry>,
}

/// A member.
#[derive(Debug, Serialize)]
struct MemberEntry {
    id: u16,
    name: String,
    public_key: String,
    /// `voter` or `learner`.
    role: &'static str,
    reachable: bool,
    /// What it is in Raft.
    raft: String,
    version: String,
    applied_index: Option<u64>,
    peer_address: String,
    client_address: String,
    zone: String,
    /// Key versions that need its shares.
    needed: u64,
}

/// A node that left.
#[derive(Debug, Serialize)]
struct DepartedEntry {
    id: u16,
    name: String,
    membership: u64,
    when: String,
    /// Key versions that needed its shares when it left.
    leaked: u64,
    /// Those of them of which so many shares may be out that they are the key.
    open: u64,
}

impl Members {
    pub(crate) fn new(view: &MembersView, proved: u64) -> Self {
        Self {
            membership: view.version,
            proved,
            settled: view.settled,
            members: view.members.iter().map(Into::into).collect(),
            departed: view.departed.iter().map(Into::into).collect(),
        }
    }
}

impl From<&MemberView> for MemberEntry {
    fn from(view: &MemberView) -> Self {
        let member = &view.member;
        Self {
            id: view.id.get(),
            name: member.name.to_string(),
            public_key: member.key.to_string(),
            role: role_name(member.role),
            reachable: view.reachable,
            raft: view.raft.clone(),
            version: view.release.clone(),
            applied_index: view.applied,
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
            zone: member.zone.clone(),
            needed: view.needed,
        }
    }
}

impl From<&DepartedView> for DepartedEntry {
    fn from(view: &DepartedView) -> Self {
        Self {
            id: view.id.get(),
            name: view.name.to_string(),
            membership: view.version,
            when: rfc3339(view.time_ms),
            leaked: view.leaked,
            open: view.open,
        }
    }
}
