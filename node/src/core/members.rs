//! The membership as this node follows it: by its own tables, or further by a chain of links that it walked. Signing links as a
//! voter, moving Raft as the leader, and telling the transport whom there is to speak with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::type_config::TypeConfigExt as _;
use openraft::{ChangeMembers, EmptyNode};
use symbolon_protocol::entry::Payload;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::fresh::Enforced;
use symbolon_protocol::genesis::{Member, MemberRole};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::identity::{Domain, PublicKey};
use symbolon_protocol::limits;
use symbolon_protocol::membership::{Endorsement, Followed, Link, is_majority};
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{Action, SignedRequest};
use symbolon_protocol::state::members::{self, VoterSets};
use symbolon_protocol::state::view::{MembersView, members_view};
use symbolon_protocol::state::{links, records};
use symbolon_protocol::table::{StoreFault, Tables};
use symbolon_protocol::wire::encode;

use super::types::{NodeTypes, Surroundings, Transport};
use super::{Core, lock};
use crate::store::Store;

/// How long one step of Raft towards another membership may take before it is looked at again.
const STEP: Duration = Duration::from_secs(3);
/// How long a request waits for the proof of the change that it made.
const PROOF: Duration = Duration::from_secs(10);
/// Between two questions of a node without a leader whether the members changed, milliseconds.
const ASK_MS: u64 = 5_000;

/// The members as this node knows them, and what Raft may have as voters.
#[derive(Debug)]
pub(crate) struct Membership {
    /// Counts changes; genesis is 0.
    pub(crate) version: u64,
    /// By number.
    pub(crate) members: BTreeMap<NodeId, Member>,
    /// Who is a member by what was applied here; a join ticket leads further than that at first.
    pub(crate) applied: BTreeSet<NodeId>,
    /// The sets of voters that Raft may have, by what was applied here.
    pub(crate) sets: VoterSets,
}

impl Membership {
    /// As the tables have it.
    pub(crate) fn read(tables: &impl Tables) -> Result<Self, StoreFault> {
        let members = records::members(tables)?;
        Ok(Self {
            version: records::cluster(tables)?.membership,
            applied: members.keys().copied().collect(),
            members,
            sets: members::voter_sets(tables)?,
        })
    }

    /// By a chain that leads further, otherwise by the tables.
    fn newest(tables: &impl Tables, chain: Option<&Followed>) -> Result<Self, StoreFault> {
        let applied = Self::read(tables)?;
        let further = chain.map(Followed::newest).filter(|chain| chain.version > applied.version);
        Ok(match further {
            Some(chain) => Self { version: chain.version, members: chain.members.clone(), ..applied },
            None => applied,
        })
    }

    /// Who votes.
    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        self.members.iter().filter(|(_, member)| member.role == MemberRole::Voter).map(|(id, _)| *id).collect()
    }

    /// Whom there is to speak with: members and, until Raft has moved, voters that leave. Their votes may be needed for that.
    pub(crate) fn peers(&self) -> BTreeMap<NodeId, Member> {
        let leaving = self.sets.sets.iter().filter(|_| !self.sets.is_settled()).flatten();
        let mut peers: BTreeMap<NodeId, Member> = leaving.map(|(id, member)| (*id, member.clone())).collect();
        peers.extend(self.members.iter().map(|(id, member)| (*id, member.clone())));
        peers
    }

    /// Who may lead or ask for a vote.
    pub(crate) fn candidates(&self) -> BTreeSet<NodeId> {
        self.sets.sets.iter().flat_map(BTreeMap::keys).copied().chain(self.voters()).collect()
    }
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// Takes a chain that was walked, such as that of a join ticket. One that leads no further than what is known changes nothing.
    ///
    /// # Errors
    /// [`StoreFault`] when the store fails.
    pub fn join(&self, followed: Followed) -> Result<(), StoreFault> {
        {
            let mut chain = lock(&self.0.chain);
            if chain.as_ref().is_none_or(|known| known.version() < followed.version()) {
                *chain = Some(followed);
            }
        }
        self.follow_membership()
    }

    /// Looks at the membership again: after it changed, and at start.
    pub(crate) fn follow_membership(&self) -> Result<(), StoreFault> {
        let next = Arc::new(Membership::newest(&self.tables(), lock(&self.0.chain).as_ref())?);
        *lock(&self.0.membership) = Arc::clone(&next);
        self.recall_admission()?;
        let mut peers = next.peers();
        peers.remove(&self.0.me);
        self.0.transport.follow(&peers);
        lock(&self.0.heard).retain(|node, _| peers.contains_key(node));
        let mut watched = lock(&self.0.watched);
        watched.retain(|node| peers.contains_key(node));
        let news: Vec<NodeId> = peers.into_keys().filter(|node| watched.insert(*node)).collect();
        drop(watched);
        for node in news {
            let _task = C::spawn(self.clone().watch_peer(node));
        }
        self.0.wake.notify_one();
        Ok(())
    }

    /// Whether a peer is still to be asked how it is.
    pub(crate) fn is_watched(&self, node: NodeId) -> bool {
        lock(&self.0.watched).contains(&node)
    }

    /// Whether this store is the one under which this node is a member.
    pub(crate) fn recall_admission(&self) -> Result<(), StoreFault> {
        let me = self.0.me;
        let membership = self.membership();
        let Some(member) = membership.members.get(&me) else {
            // Who leaves has to sign that, and Raft may need it for the last time.
            if !membership.peers().contains_key(&me) && self.0.admitted.swap(false, Ordering::Relaxed) {
                tracing::error!(node = %me, "this node is no member of the cluster any more: it takes no part");
            }
            return Ok(());
        };
        let by_chain = lock(&self.0.chain).as_ref().and_then(|chain| chain.store_of(me));
        let by_start = self.start_certificate()?.and_then(|certificate| certificate.store_of(me));
        let certified = members::store_of(&self.tables(), me)?.or(by_chain).or(by_start);
        let admitted = match certified {
            Some(store) => store == self.store_id()?,
            // A learner of genesis does not vote: a lost disk costs it nothing but time.
            None => member.role == MemberRole::Learner,
        };
        if certified.is_some() && !admitted {
            tracing::error!(
                node = %me,
                "the cluster knows another store of this node: it lost its disk. It takes no part; replace it by a node with a \
                 new identity"
            );
        }
        self.0.admitted.store(admitted, Ordering::Relaxed);
        Ok(())
    }

    /// The voters at a version of the membership, as far as it is known.
    pub(crate) fn voters_of(&self, version: u64) -> Result<Option<BTreeMap<NodeId, PublicKey>>, StoreFault> {
        let applied = members::voters_at(&self.tables(), version)?;
        Ok(applied.or_else(|| Some(lock(&self.0.chain).as_ref()?.at(version)?.voters())))
    }

    /// Whose heads make a checkpoint good: the voters of the newest membership that this node knows, so that whoever left vouches
    /// for nothing. Where a new voter would be needed for its own majority, those from before it came.
    pub(crate) fn checkpoint_voters(&self) -> Result<BTreeMap<NodeId, PublicKey>, StoreFault> {
        let (voters, mut version) = (self.voter_keys(), self.membership().version);
        let others = voters.len().saturating_sub(usize::from(voters.contains_key(&self.0.me)));
        if is_majority(others, voters.len()) {
            return Ok(voters);
        }
        while let Some(before) = version.checked_sub(1) {
            let earlier = self.voters_of(before)?.unwrap_or_default();
            if !earlier.contains_key(&self.0.me) {
                return Ok(earlier);
            }
            version = before;
        }
        Ok(voters)
    }

    /// Signs changes of the membership, as a voter from before them or as a member. From then on it must know of them: they are
    /// durable first.
    pub(crate) async fn endorse(&self) -> Result<(), Refusal> {
        let owed = links::owed_endorsements(&self.tables(), self.0.me).map_err(|e| self.fail(&e))?;
        if owed.is_empty() {
            return Ok(());
        }
        self.0.store.sync().await.map_err(|e| self.fail(&e))?;
        for (version, head) in owed {
            let signature = self.0.identity.sign(Domain::Head, &self.0.cluster, &encode(&head));
            let endorsement = Endorsement { version, node: self.0.me, signature };
            // Not ordered now means ordered in a later round.
            let _ = self.propose(&Payload::Endorse(endorsement), STEP).await;
        }
        Ok(())
    }

    /// Whether an endorsement is one that a node owes, before it fills the log.
    pub(crate) fn check_endorsement(&self, endorsement: &Endorsement) -> Result<(), Refusal> {
        let owed = links::owed_endorsements(&self.tables(), endorsement.node).map_err(|e| self.fail(&e))?;
        if owed.iter().any(|(version, _)| *version == endorsement.version) {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::WrongState, "an endorsement that nobody waits for"))
    }

    /// Brings Raft, as the leader, to the members that administrators want. The door of every node allows exactly these steps.
    pub(crate) async fn move_raft(&self) -> Result<(), Refusal> {
        let tables = self.tables();
        let wanted = Membership::read(&tables).map_err(|e| self.fail(&e))?;
        let known: BTreeSet<u64> = self.metrics(|m| m.membership_config.nodes().map(|(id, _)| *id).collect());
        for id in wanted.members.keys().map(|id| u64::from(id.get())).filter(|id| !known.contains(id)) {
            let added = C::timeout(STEP, self.0.raft.add_learner(id, EmptyNode {}, false)).await;
            tracing::info!(node = id, done = matches!(added, Ok(Ok(_))), "a member follows the log");
        }
        if !self.is_barrier_passed(wanted.version).map_err(|e| self.fail(&e))? {
            return Ok(());
        }
        if !wanted.sets.is_settled() {
            return self.move_voters(&wanted).await;
        }
        let gone: BTreeSet<u64> = known
            .into_iter()
            .filter(|id| !wanted.members.keys().any(|member| u64::from(member.get()) == *id))
            .collect();
        if !gone.is_empty() {
            let removed = self.0.raft.change_membership(ChangeMembers::RemoveNodes(gone.clone()), false);
            let removed = C::timeout(STEP, removed).await;
            tracing::info!(nodes = ?gone, done = matches!(removed, Ok(Ok(_))), "nodes that left follow the log no more");
        }
        Ok(())
    }

    /// The barrier before Raft moves: a majority of the voters from before has signed the change, and as many as end every lease
    /// that rests on them, if these can be had in time. Who leaves cannot be asked any more once Raft has moved.
    fn is_barrier_passed(&self, version: u64) -> Result<bool, StoreFault> {
        let tables = self.tables();
        if !links::is_proved(&tables, version)? {
            return Ok(false);
        }
        let now = self.boot_ms();
        let begun = {
            let mut moving = lock(&self.0.moving);
            match *moving {
                (of, at) if of == version => at,
                _ => {
                    *moving = (version, now);
                    now
                }
            }
        };
        let may_come = |node| node == self.0.me || self.is_reachable(node);
        let all = links::electorates(&tables, u64::MAX)?;
        let former = all.split_last().map_or(&[][..], |(_, former)| former);
        let waits = former.iter().any(|electorate| electorate.level(may_come) == Enforced::Byzantine);
        Ok(!waits || now.saturating_sub(begun) >= limits::BARRIER_MS)
    }

    /// Changes the voters of Raft through a joint configuration, once the new ones are close to the end of the log. Goes on where an
    /// earlier step ended; also when nothing is left to change, since the entry that says so is what everybody waits for.
    async fn move_voters(&self, wanted: &Membership) -> Result<(), Refusal> {
        let Some(target) = wanted.sets.sets.last() else { return Ok(()) };
        let target: BTreeSet<u64> = target.keys().map(|id| u64::from(id.get())).collect();
        let votes: BTreeSet<u64> = self.metrics(|m| m.membership_config.membership().voter_ids().collect());
        let behind: Vec<u64> = target.difference(&votes).copied().filter(|id| !self.has_caught_up(*id)).collect();
        if !behind.is_empty() {
            tracing::debug!(nodes = ?behind, "new voters are not close to the end of the log yet");
            return Ok(());
        }
        let changed = C::timeout(STEP, self.0.raft.change_membership(target.clone(), false)).await;
        tracing::info!(voters = ?target, done = matches!(changed, Ok(Ok(_))), "Raft changes its voters");
        Ok(())
    }

    fn has_caught_up(&self, id: u64) -> bool {
        self.metrics(|m| {
            let matched = m.replication.as_ref().and_then(|all| all.get(&id)).and_then(|id| id.as_ref());
            let last = m.last_log_index.unwrap_or(0);
            matched.is_some_and(|id| id.index.saturating_add(limits::VOTER_LAG_ENTRIES) >= last)
        })
    }

    /// Links after a version, for a peer.
    pub(crate) fn links_after(&self, version: u64) -> Result<Vec<Link>, Refusal> {
        links::links_after(&self.tables(), version, limits::LINKS).map_err(|e| self.fail(&e))
    }

    /// Learns from a peer how the membership came to a version. Nothing that it says counts but links that hold.
    pub(crate) async fn learn_membership(&self, from: NodeId, version: u64) -> Result<(), Refusal> {
        while self.membership().version < version {
            let mut followed = self.walked().map_err(|e| self.fail(&e))?;
            let call = WorkCall::Chain { after: followed.version() };
            let answer = self.call_work(from, &call, self.0.timing.call).await;
            let Ok(WorkAnswer::Chain(links)) = answer else { break };
            let taken = followed.take_all(links).map_err(|error| {
                tracing::error!(peer = %from, %error, "a peer shows a change of the membership that does not hold");
                Refusal::new(ErrorCode::PeerMisbehaved, format!("the links of node {from} do not hold: {error}"))
            })?;
            if taken == 0 {
                break;
            }
            tracing::info!(peer = %from, version = followed.version(), "members that this node did not know were learned");
            self.join(followed).map_err(|e| self.fail(&e))?;
        }
        Ok(())
    }

    /// As far as this node can walk by itself.
    fn walked(&self) -> Result<Followed, StoreFault> {
        let known = lock(&self.0.chain).clone();
        let mut followed = known.unwrap_or_else(|| Followed::genesis(&self.0.genesis));
        loop {
            let links = links::links_after(&self.tables(), followed.version(), limits::LINKS)?;
            match followed.take_all(links) {
                Ok(0) => return Ok(followed),
                Ok(_) => {}
                Err(error) => return Err(StoreFault(format!("a stored link does not hold: {error}"))),
            }
        }
    }

    /// A node that nobody leads may have been away for so long that it does not know who is left: it asks those whom it knows.
    pub(crate) async fn ask_for_members(&self) -> Result<(), Refusal> {
        let now = self.now_ms();
        let last = self.0.asked_for_members.load(Ordering::Relaxed);
        if self.leader().is_some() || now.abs_diff(last) < ASK_MS {
            return Ok(());
        }
        self.0.asked_for_members.store(now, Ordering::Relaxed);
        for node in self.others().into_iter().filter(|node| self.0.transport.reachable(*node)) {
            // What one peer says wrong does not keep the others from being asked.
            if let Err(refusal) = self.learn_membership(node, u64::MAX).await {
                tracing::warn!(peer = %node, %refusal, "a peer's word on the members is not taken");
            }
        }
        Ok(())
    }

    /// Waits until a change of the membership is proved to everybody: only then may the next one come.
    pub(crate) async fn proved(&self, outcome: &Outcome) -> Result<(), Refusal> {
        let Outcome::MembershipChanged { version, .. } = outcome else { return Ok(()) };
        let wait = async {
            let mut applied = self.0.applied.subscribe();
            while !links::is_proved(&self.tables(), *version).map_err(|e| self.fail(&e))? {
                if applied.changed().await.is_err() {
                    return Err(Refusal::new(ErrorCode::Unreachable, "the node stops"));
                }
            }
            Ok(())
        };
        C::timeout(PROOF, wait).await.unwrap_or_else(|_| {
            let message = "the membership is changed, but a majority of the voters has not signed that yet";
            Err(Refusal::new(ErrorCode::DeadlineExceeded, message))
        })
    }

    /// The members, and complete links after a version.
    ///
    /// # Errors
    /// What the door says.
    pub async fn list_members(&self, request: &SignedRequest) -> Result<MembersView, Refusal> {
        let (verified, _) = self.admit_read(request).await?;
        let Action::ListMembers { after_version } = &verified.body().action else {
            return Err(Refusal::new(ErrorCode::InvalidArgument, "the request asks for something else than the call"));
        };
        let mut view = members_view(&self.tables(), *after_version).map_err(|e| self.fail(&e))?;
        for member in &mut view.members {
            member.reachable = self.is_reachable(member.id);
            let heard = lock(&self.0.heard).get(&member.id).map(|heard| heard.status.clone());
            let status = if member.id == self.0.me { Some(self.own_status()) } else { heard };
            if let Some(status) = status.filter(|_| member.reachable) {
                (member.raft, member.release, member.applied) =
                    (status.role, status.release, Some(status.applied_index));
            }
        }
        Ok(view)
    }

    /// What an operator should know of nodes that left.
    pub(crate) fn membership_warnings(&self) -> Result<Vec<String>, StoreFault> {
        let tables = self.tables();
        let mut warnings = Vec::new();
        for (id, gone) in members::departed(&tables)?.into_iter().filter(|(_, gone)| gone.leaked > 0) {
            let open = members::needed_shares(&tables, id)?;
            if open > 0 {
                warnings.push(format!(
                    "{} left with shares of {} key versions, of which {open} still count: move the shares of these keys",
                    gone.name, gone.leaked
                ));
            }
        }
        if !members::voter_sets(&tables)?.is_settled() {
            warnings.push("a change of the voters is not through: look at `symbolon member list`".to_owned());
        }
        Ok(warnings)
    }
}
