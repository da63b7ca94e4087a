//! Who belongs to the cluster, and the chain of signed changes by which anybody with genesis can follow it (`docs/spec/membership.md`).
//!
//! - [`Membership`]: members and administrators at one version, and the rules by which a request changes them. `apply` and
//!   whoever walks the chain decide by the same function.
//! - [`Link`]: a change with its proof: the administrator's request, its place in the history, and heads signed by a majority of
//!   the voters from before it.
//! - [`Followed`]: every membership from genesis on, as far as links led. [`JoinTicket`]: links in a file, for a new node.

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::certificate::Activation;
use crate::error::{ErrorCode, Refusal};
use crate::genesis::{Genesis, Member, MemberRole};
use crate::history::{Head, Leaf, includes_last};
use crate::id::{ClusterId, Digest, Name, NodeId, StoreId};
use crate::identity::{Domain, PublicKey, Signature, tagged_hash};
use crate::limits;
use crate::outcome::Outcome;
use crate::request::{Action, Grant, Role, SignedRequest, VerifiedRequest};
use crate::wire::{WireError, decode, encode};

/// Members and administrators at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Counts changes; genesis is 0.
    pub version: u64,
    /// The members.
    pub members: BTreeMap<NodeId, Member>,
    /// Administrators by name: their requests change the membership.
    pub administrators: BTreeMap<Name, PublicKey>,
    /// Everybody who left, with the identity: neither number nor identity is used again.
    pub departed: BTreeMap<NodeId, PublicKey>,
}
crate::wire_struct!(Membership { version, members, administrators, departed });

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(code, message))
}

impl Membership {
    /// That of genesis.
    #[must_use]
    pub fn genesis(genesis: &Genesis) -> Self {
        Self {
            version: 0,
            members: genesis.members.clone(),
            administrators: genesis.administrators.clone(),
            departed: BTreeMap::new(),
        }
    }

    /// Its hash, as outcomes name it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        tagged_hash("symbolon/membership/v1", &encode(self))
    }

    /// Who votes, with their identities.
    #[must_use]
    pub fn voters(&self) -> BTreeMap<NodeId, PublicKey> {
        self.voting().map(|(id, member)| (*id, member.key)).collect()
    }

    fn voting(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.members.iter().filter(|(_, member)| member.role == MemberRole::Voter)
    }

    /// The membership after an action; none when it is not an action that changes the membership.
    ///
    /// # Errors
    /// The rule that is broken: `already_exists`, `not_found`, `invalid_argument`, `wrong_state`, `last_administrator`.
    pub fn after(&self, action: &Action) -> Result<Option<Self>, Refusal> {
        let mut next = self.clone();
        next.version = self.version.saturating_add(1);
        match action {
            Action::AddMember { id, member, .. } => next.add(*id, member)?,
            Action::RemoveMember { id, .. } => next.remove(*id)?,
            Action::ReplaceMember { old, id, member, .. } => {
                next.remove(*old)?;
                next.add(*id, member)?;
            }
            Action::MoveMember { id, peer_address, client_address } => {
                next.relocate(*id, peer_address, client_address)?
            }
            Action::AddClient { name, key, grant: Grant { role: Role::Admin, .. } } => next.appoint(name, *key)?,
            Action::RemoveClient { name } if self.administrators.contains_key(name) => next.dismiss(name)?,
            _ => return Ok(None),
        }
        if next.voting().next().is_none() {
            return refuse(ErrorCode::WrongState, "the last voter cannot leave");
        }
        Ok(Some(next))
    }

    fn add(&mut self, id: NodeId, member: &Member) -> Result<(), Refusal> {
        if self.members.contains_key(&id) || self.departed.contains_key(&id) {
            let message = format!("number {id} belongs or belonged to a node; no number is used twice");
            return refuse(ErrorCode::AlreadyExists, message);
        }
        let known = self.members.values().map(|other| other.key);
        let mut known = known.chain(self.departed.values().copied()).chain(self.administrators.values().copied());
        if known.any(|key| key == member.key) {
            let message =
                format!("identity {} belongs or belonged to somebody; a new node makes a new one", member.key);
            return refuse(ErrorCode::AlreadyExists, message);
        }
        if self.members.values().any(|other| other.name == member.name) {
            return refuse(ErrorCode::AlreadyExists, format!("there is a node named `{}`", member.name));
        }
        self.check_addresses(id, &member.peer_address, &member.client_address)?;
        if self.members.len() >= limits::MEMBERS {
            return refuse(ErrorCode::InvalidArgument, format!("a cluster has at most {} members", limits::MEMBERS));
        }
        if member.role == MemberRole::Voter && self.voting().count() >= limits::VOTERS {
            let message =
                format!("a cluster has at most {} voters: add it as a learner, or replace a voter", limits::VOTERS);
            return refuse(ErrorCode::InvalidArgument, message);
        }
        self.members.insert(id, member.clone());
        Ok(())
    }

    fn remove(&mut self, id: NodeId) -> Result<(), Refusal> {
        let Some(member) = self.members.remove(&id) else {
            return refuse(ErrorCode::NotFound, format!("node {id} is no member"));
        };
        self.departed.insert(id, member.key);
        Ok(())
    }

    fn relocate(&mut self, id: NodeId, peer_address: &str, client_address: &str) -> Result<(), Refusal> {
        self.check_addresses(id, peer_address, client_address)?;
        let Some(member) = self.members.get_mut(&id) else {
            return refuse(ErrorCode::NotFound, format!("node {id} is no member"));
        };
        if member.peer_address == peer_address && member.client_address == client_address {
            return refuse(ErrorCode::InvalidArgument, format!("`{}` has these addresses already", member.name));
        }
        peer_address.clone_into(&mut member.peer_address);
        client_address.clone_into(&mut member.client_address);
        Ok(())
    }

    fn check_addresses(&self, id: NodeId, peer_address: &str, client_address: &str) -> Result<(), Refusal> {
        let mut others = self.members.iter().filter(|(other, _)| **other != id).map(|(_, member)| member);
        match others.find(|other| other.peer_address == peer_address || other.client_address == client_address) {
            Some(other) => refuse(ErrorCode::AlreadyExists, format!("`{}` has one of these addresses", other.name)),
            None => Ok(()),
        }
    }

    fn appoint(&mut self, name: &Name, key: PublicKey) -> Result<(), Refusal> {
        if self.administrators.contains_key(name) || self.administrators.values().any(|other| *other == key) {
            return refuse(ErrorCode::AlreadyExists, format!("`{name}` is an administrator already"));
        }
        let nodes = self.members.iter().map(|(id, member)| (id, &member.key)).chain(&self.departed);
        if let Some((id, _)) = nodes.into_iter().find(|(_, other)| **other == key) {
            let message = format!("identity {key} is or was that of node {id}; an administrator makes a new one");
            return refuse(ErrorCode::AlreadyExists, message);
        }
        if self.administrators.len() >= limits::ADMINISTRATORS {
            let message = format!("a cluster has at most {} administrators", limits::ADMINISTRATORS);
            return refuse(ErrorCode::InvalidArgument, message);
        }
        self.administrators.insert(name.clone(), key);
        Ok(())
    }

    fn dismiss(&mut self, name: &Name) -> Result<(), Refusal> {
        if self.administrators.len() < 2 {
            return refuse(ErrorCode::LastAdministrator, format!("`{name}` is the last administrator"));
        }
        self.administrators.remove(name);
        Ok(())
    }

    /// What is ordered of a request that makes this membership.
    #[must_use]
    pub fn outcome(&self, request: &VerifiedRequest) -> Outcome {
        Outcome::MembershipChanged { version: self.version, request: request.digest(), membership: self.digest() }
    }
}

/// A change of the membership with its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What an administrator signed.
    pub request: SignedRequest,
    /// Where in the history it was decided.
    pub place: Activation,
    /// Signatures over the head of the place, by voters from before the change; in what was followed only good ones.
    pub heads: BTreeMap<NodeId, Signature>,
}
crate::wire_struct!(Link { request, place, heads });

/// Whether so many of so many voters are more than half.
#[must_use]
pub const fn is_majority(some: usize, voters: usize) -> bool {
    some > voters / 2
}

/// A signature over the head of a link; ordered, so that every node has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    /// The version that the link made.
    pub version: u64,
    /// A voter of the version before, or a member.
    pub node: NodeId,
    /// Over the head of the link's place.
    pub signature: Signature,
}
crate::wire_struct!(Endorsement { version, node, signature });

/// Who of these nodes, such as the voters from before a change, has a signature over the head of its link that verifies.
#[must_use]
pub fn endorsers(
    cluster: &ClusterId,
    nodes: &BTreeMap<NodeId, PublicKey>,
    head: &Head,
    heads: &BTreeMap<NodeId, Signature>,
) -> BTreeSet<NodeId> {
    let payload = encode(head);
    let good = heads.iter().filter(|(node, signature)| {
        nodes.get(node).is_some_and(|key| key.verifies(Domain::Head, cluster, &payload, signature))
    });
    good.map(|(node, _)| *node).collect()
}

/// Why a link is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainError {
    /// It makes another version than the next one, or lies before the link before it.
    Version {
        /// The version that comes next.
        expected: u64,
        /// What its head names.
        found: u64,
    },
    /// The request is not one of this cluster, or was not signed by whom it names.
    Request(Refusal),
    /// Whoever signed the request was no administrator.
    Signer(Box<PublicKey>),
    /// The rules do not allow the change.
    Rule(Refusal),
    /// The request changes no membership.
    NoChange,
    /// The change is not in the history under the head.
    History,
    /// No majority of the voters from before it signed the head.
    Heads,
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { expected, found } => write!(f, "a link makes version {found} where {expected} comes next"),
            Self::Request(refusal) => write!(f, "the request of a link does not verify: {}", refusal.message),
            Self::Signer(key) => write!(f, "a link was signed by {key}, who was no administrator then"),
            Self::Rule(refusal) => write!(f, "a link makes a change that is not allowed: {}", refusal.message),
            Self::NoChange => f.write_str("the request of a link changes no membership"),
            Self::History => f.write_str("the change is not in the history under the head of its link"),
            Self::Heads => f.write_str("no majority of the voters from before a link signed its head"),
        }
    }
}

impl std::error::Error for ChainError {}

/// Every membership from genesis on, as far as links led. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Followed {
    cluster: ClusterId,
    newest: Arc<Membership>,
    /// Those before the newest, from genesis on.
    before: Vec<Arc<Membership>>,
    links: Vec<Arc<Link>>,
}

impl Followed {
    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Nothing but genesis.
    #[must_use]
    pub fn genesis(genesis: &Genesis) -> Self {
        let newest = Arc::new(Membership::genesis(genesis));
        Self { cluster: genesis.cluster_id(), newest, before: Vec::new(), links: Vec::new() }
    }

    /// The highest version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.links.len() as u64
    }

    /// The membership at the highest version.
    #[must_use]
    pub fn newest(&self) -> &Arc<Membership> {
        &self.newest
    }

    /// The membership at a version.
    #[must_use]
    pub fn at(&self, version: u64) -> Option<&Arc<Membership>> {
        if version == self.newest.version {
            Some(&self.newest)
        } else {
            self.before.get(usize::try_from(version).ok()?)
        }
    }

    /// The links, from the first one on.
    #[must_use]
    pub fn links(&self) -> &[Arc<Link>] {
        &self.links
    }

    /// Whether a head can be one of the version that it names: between the link that began it and the one that ended it.
    #[must_use]
    pub fn spans(&self, head: &Head) -> bool {
        let link = |version: u64| self.links.get(usize::try_from(version).ok()?).map(|link| link.place.head.index);
        let begun = head.membership.checked_sub(1).is_none_or(|before| link(before).is_some_and(|at| at <= head.index));
        begun && head.membership <= self.version() && link(head.membership).is_none_or(|end| head.index < end)
    }

    /// Takes the next link.
    ///
    /// # Errors
    /// [`ChainError`] with the first rule that is broken; then nothing changed.
    pub fn take(&mut self, mut link: Link) -> Result<(), ChainError> {
        let expected = self.version().saturating_add(1);
        let head = &link.place.head;
        let after_last = self.links.last().is_none_or(|last| last.place.head.index < head.index);
        if head.membership != expected || !after_last {
            return Err(ChainError::Version { expected, found: head.membership });
        }
        let before = &self.newest;
        let request = link.request.verify(&self.cluster).map_err(ChainError::Request)?;
        let signer = request.body().client;
        if !before.administrators.values().any(|key| *key == signer) {
            return Err(ChainError::Signer(Box::new(signer)));
        }
        let next = before.after(&request.body().action).map_err(ChainError::Rule)?.ok_or(ChainError::NoChange)?;
        let leaf = Leaf {
            index: head.index,
            entry: link.place.entry,
            outcome: next.outcome(&request).digest(),
            writes: link.place.writes,
        };
        if !includes_last(&leaf.hash(), head.index, &link.place.path, &head.root) {
            return Err(ChainError::History);
        }
        let voters = before.voters();
        let endorsers = endorsers(&self.cluster, &voters, head, &link.heads);
        if !is_majority(endorsers.len(), voters.len()) {
            return Err(ChainError::Heads);
        }
        link.heads.retain(|node, _| endorsers.contains(node));
        self.before.push(std::mem::replace(&mut self.newest, Arc::new(next)));
        self.links.push(Arc::new(link));
        Ok(())
    }

    /// Takes links that may begin with ones that are known already. Gives how many were new.
    ///
    /// # Errors
    /// [`ChainError`] of the first link that does not hold; those before it stay.
    pub fn take_all(&mut self, links: impl IntoIterator<Item = Link>) -> Result<usize, ChainError> {
        let mut taken = 0;
        for link in links {
            if link.place.head.membership > self.version() {
                self.take(link)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// A node that is a member, or was one the last time that it was.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let all = std::iter::once(&self.newest).chain(self.before.iter().rev());
        all.filter_map(|membership| membership.members.get(&node)).next()
    }

    /// The store under which a node takes part, where a link named it.
    #[must_use]
    pub fn store_of(&self, node: NodeId) -> Option<StoreId> {
        self.links.iter().rev().find_map(|link| {
            let body = decode::<crate::request::RequestBody>(&link.request.body.0).ok()?;
            match body.action {
                Action::AddMember { id, store, .. } | Action::ReplaceMember { id, store, .. } if id == node => {
                    Some(store)
                }
                _ => None,
            }
        })
    }
}

/// What a new node is started with: links that lead from genesis to the version in which it is a member. Not secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTicket {
    /// The cluster.
    pub cluster: ClusterId,
    /// The version to which the links lead.
    pub version: u64,
    /// The links, from the first one on.
    pub links: Vec<Link>,
}
crate::wire_struct!(JoinTicket { cluster, version, links });

const TICKET_HEAD: &str = "symbolon-ticket-v1";
/// Hexadecimal digits on one line of a file.
const LINE: usize = 96;

impl JoinTicket {
    /// Of what was followed.
    #[must_use]
    pub fn of(followed: &Followed) -> Self {
        let links = followed.links.iter().map(|link| Link::clone(link)).collect();
        Self { cluster: followed.cluster, version: followed.version(), links }
    }

    /// Parses the file; whether the links hold is asked of [`JoinTicket::follow`].
    ///
    /// # Errors
    /// [`WireError`] when it is no ticket.
    pub fn parse_file(text: &str) -> Result<Self, WireError> {
        let mut lines = text.lines();
        if text.len() > limits::TICKET_BYTES || lines.next().map(str::trim) != Some(TICKET_HEAD) {
            return Err(WireError::Invalid("the first line of a join ticket"));
        }
        let digits: String = lines.map(str::trim).filter(|line| !line.starts_with('#')).collect();
        decode(&hex::decode(digits).map_err(|_| WireError::Invalid("the hexadecimal of a join ticket"))?)
    }

    /// The file.
    #[must_use]
    pub fn to_file(&self) -> String {
        let mut text = format!("{TICKET_HEAD}\n# cluster {} membership {}\n", self.cluster, self.version);
        let digits = hex::encode(encode(self));
        let mut rest = digits.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(LINE));
            text += line;
            text.push('\n');
            rest = tail;
        }
        text
    }

    /// Walks its links from genesis.
    ///
    /// # Errors
    /// In words, when it is of another cluster or a link does not hold.
    pub fn follow(self, genesis: &Genesis) -> Result<Followed, String> {
        if self.cluster != genesis.cluster_id() {
            return Err(format!("the join ticket is for cluster {}, this is {}", self.cluster, genesis.cluster_id()));
        }
        let mut followed = Followed::genesis(genesis);
        followed.take_all(self.links).map_err(|error| format!("the join ticket does not hold: {error}"))?;
        if followed.version() != self.version {
            return Err("the join ticket does not lead to the version that it names".to_owned());
        }
        Ok(followed)
    }
}
