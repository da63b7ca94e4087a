//! Genesis: the canonical file that is identical on all nodes and whose hash names the cluster.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{ClusterId, Name, NodeId, StoreId};
use crate::identity::{Domain, PublicKey, Signature, tagged_hash};
use crate::limits;
use crate::wire::{Wire, WireError, Writer, decode, encode};

/// What a node is in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Votes and may lead.
    Voter,
    /// Follows the log.
    Learner,
}
crate::wire_enum!(MemberRole { 1 => Voter, 2 => Learner });

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique in the cluster.
    pub name: Name,
    /// Its identity key.
    pub key: PublicKey,
    /// Where peers reach it, `host:port`.
    pub peer_address: String,
    /// Where clients reach it, `host:port`.
    pub client_address: String,
    /// Failure domain such as a rack or site; spreads rosters.
    pub zone: String,
    /// Voter or learner.
    pub role: MemberRole,
}
crate::wire_struct!(Member { name, key, peer_address, client_address, zone, role });

/// What a node says of itself before there is a cluster; one line of hexadecimal made by `symbolond init`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The node as it wants to be a member; the role is decided by whoever makes genesis or adds it.
    pub member: Member,
    /// The id of its store, which is empty.
    pub store: StoreId,
    /// By the node's own key, over [`Enrolment::payload`].
    pub signature: Signature,
}
crate::wire_struct!(Enrolment { member, store, signature });

/// The cluster id that stands in an enrolment: there is no cluster yet.
pub const NO_CLUSTER: ClusterId = ClusterId::from_bytes([0; 32]);

impl Enrolment {
    /// What is signed.
    #[must_use]
    pub fn payload(member: &Member, store: StoreId) -> Vec<u8> {
        let mut w = Writer::default();
        w.raw(&encode(member));
        store.put(&mut w);
        w.finish()
    }
    /// Parses the line and checks the self-signature.
    ///
    /// # Errors
    /// [`WireError`] when the line is damaged or was not signed by the key in it.
    pub fn parse(line: &str) -> Result<Self, WireError> {
        let hex =
            line.trim().strip_prefix(ENROLMENT_PREFIX).ok_or(WireError::Invalid("the start of an enrolment line"))?;
        let enrolment: Self = decode(&hex::decode(hex).map_err(|_| WireError::Invalid("an enrolment line"))?)?;
        let payload = Self::payload(&enrolment.member, enrolment.store);
        if !enrolment.member.key.verifies(Domain::Enrolment, &NO_CLUSTER, &payload, &enrolment.signature) {
            return Err(WireError::Invalid("the self-signature of an enrolment line"));
        }
        Ok(enrolment)
    }
    /// The line.
    #[must_use]
    pub fn to_line(&self) -> String {
        format!("{ENROLMENT_PREFIX}{}", hex::encode(encode(self)))
    }
}

const ENROLMENT_PREFIX: &str = "symbolon-node:";

/// The founding document of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// Name of the cluster, for people.
    pub name: Name,
    /// First members.
    pub members: BTreeMap<NodeId, Member>,
    /// First administrators, by name.
    pub administrators: BTreeMap<Name, PublicKey>,
    /// Entries between two checkpoints.
    pub checkpoint_entries: u64,
    /// Random bytes: two clusters with equal members still differ.
    pub salt: [u8; 16],
}
crate::wire_struct!(Genesis { name, members, administrators, checkpoint_entries, salt });

const FILE_HEAD: &str = "symbolon-genesis-v1";

impl Genesis {
    /// Parses and checks a genesis file: a line with its kind, then hexadecimal in lines of at most 96 digits.
    ///
    /// # Errors
    /// [`WireError`] that says which rule is broken.
    pub fn parse_file(text: &str) -> Result<Self, WireError> {
        let mut lines = text.lines();
        if lines.next().map(str::trim) != Some(FILE_HEAD) || text.len() > limits::GENESIS_BYTES {
            return Err(WireError::Invalid("the first line of a genesis file"));
        }
        let digits: String = lines.map(str::trim).filter(|line| !line.starts_with('#')).collect();
        let genesis: Self =
            decode(&hex::decode(digits).map_err(|_| WireError::Invalid("the hexadecimal of genesis"))?)?;
        genesis.check()?;
        Ok(genesis)
    }

    /// The file, with a readable comment per member and administrator; comments are not part of the cluster id.
    #[must_use]
    pub fn to_file(&self) -> String {
        let mut text = format!("{FILE_HEAD}\n# cluster {} {}\n", self.name, self.cluster_id());
        for (id, member) in &self.members {
            text += &format!(
                "# node {id} {} {} {} {}\n",
                member.name, member.key, member.peer_address, member.client_address
            );
        }
        for (name, key) in &self.administrators {
            text += &format!("# administrator {name} {key}\n");
        }
        let digits = hex::encode(encode(self));
        let mut rest = digits.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(96));
            text += line;
            text.push('\n');
            rest = tail;
        }
        text
    }

    /// Checks what the codec cannot: counts, unique names, keys and addresses.
    ///
    /// # Errors
    /// [`WireError::Invalid`] that names the rule.
    pub fn check(&self) -> Result<(), WireError> {
        let rule = |holds: bool, what| if holds { Ok(()) } else { Err(WireError::Invalid(what)) };
        let voters = self.members.values().filter(|m| m.role == MemberRole::Voter).count();
        rule((1..=limits::MEMBERS).contains(&self.members.len()), "the number of members in genesis")?;
        rule((1..=limits::VOTERS).contains(&voters), "the number of voters in genesis (1 to 7)")?;
        let admins = self.administrators.len();
        rule(
            (1..=limits::GENESIS_ADMINISTRATORS).contains(&admins),
            "the number of administrators in genesis (1 to 16)",
        )?;
        rule(self.checkpoint_entries >= 16, "the checkpoint distance in genesis (at least 16)")?;
        let distinct = |values: BTreeSet<&str>| values.len() == self.members.len();
        rule(distinct(self.members.values().map(|m| m.name.as_str()).collect()), "genesis: two members share a name")?;
        rule(
            distinct(self.members.values().map(|m| m.peer_address.as_str()).collect()),
            "genesis: two members share a peer address",
        )?;
        let keys: BTreeSet<_> =
            self.members.values().map(|m| m.key).chain(self.administrators.values().copied()).collect();
        rule(keys.len() == self.members.len() + admins, "genesis: two members or administrators share a key")?;
        for member in self.members.values() {
            rule(valid_address(&member.peer_address), "a peer address in genesis (host:port)")?;
            rule(valid_address(&member.client_address), "a client address in genesis (host:port)")?;
            rule(member.zone.len() <= limits::NAME_BYTES, "a zone in genesis")?;
        }
        Ok(())
    }

    /// The cluster id: SHA-256 over the canonical encoding, with its tag.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        ClusterId::from_bytes(*tagged_hash("symbolon/genesis/v1", &encode(self)).as_bytes())
    }

    /// The voters.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.members.iter().filter(|(_, m)| m.role == MemberRole::Voter).map(|(id, _)| *id).collect()
    }
}

/// `host:port` with a port that is not zero and a host without spaces.
#[must_use]
pub fn valid_address(address: &str) -> bool {
    address.len() <= 255
        && address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port != 0)
        })
}

/// A voter's answer before Raft starts: my store is new and has this id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStore {
    /// The voter.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// By the voter's identity, over node and store.
    pub signature: Signature,
}
crate::wire_struct!(NewStore { node, store, signature });

impl NewStore {
    /// What is signed.
    #[must_use]
    pub fn payload(node: NodeId, store: StoreId) -> Vec<u8> {
        let mut w = Writer::default();
        node.put(&mut w);
        store.put(&mut w);
        w.finish()
    }
}

/// The first ordered entry: every voter of genesis said that its store is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartCertificate {
    /// One answer per voter of genesis.
    pub answers: Vec<NewStore>,
}
crate::wire_struct!(StartCertificate { answers });

impl StartCertificate {
    /// Checks that exactly the voters of genesis signed.
    ///
    /// # Errors
    /// [`WireError::Invalid`] otherwise.
    pub fn check(&self, genesis: &Genesis) -> Result<(), WireError> {
        let cluster = genesis.cluster_id();
        let signed: BTreeSet<NodeId> = self.answers.iter().map(|answer| answer.node).collect();
        if signed != genesis.voters() || self.answers.len() != signed.len() {
            return Err(WireError::Invalid("a start certificate: it must hold exactly the voters of genesis"));
        }
        for answer in &self.answers {
            let payload = NewStore::payload(answer.node, answer.store);
            let member = genesis.members.get(&answer.node).ok_or(WireError::Invalid("a start certificate"))?;
            if !member.key.verifies(Domain::Start, &cluster, &payload, &answer.signature) {
                return Err(WireError::Invalid("a signature in a start certificate"));
            }
        }
        Ok(())
    }
    /// The store id that was certified for a node.
    #[must_use]
    pub fn store_of(&self, node: NodeId) -> Option<StoreId> {
        self.answers.iter().find(|answer| answer.node == node).map(|answer| answer.store)
    }
}
