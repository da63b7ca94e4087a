//! What can be asked, and which way it goes.

use std::collections::BTreeMap;

use super::{Grant, KeyPolicy, RosterPlan, Suite};
use crate::genesis::Member;
use crate::id::{Name, NodeId, RequestId, StoreId};
use crate::identity::PublicKey;

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
                | Self::RemoveMember { .. }
                | Self::ReplaceMember { .. }
        )
    }
}
