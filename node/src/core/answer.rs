//! What this node answers its peers.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use openraft::alias::{SnapshotOf, VoteOf};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest};
use symbolon_protocol::entry::{Entry, LogEntry, Payload};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::generate::{Vote, message};
use symbolon_protocol::history::Head;
use symbolon_protocol::id::{BootId, NodeId};
use symbolon_protocol::identity::{Domain, Signature};
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::peer::{PeerStatus, RaftAnswer, RaftCall, WorkAnswer, WorkCall};
use symbolon_protocol::redistribute::vote;
use symbolon_protocol::schema::replicated;
use symbolon_protocol::state::members::VoterSets;
use symbolon_protocol::state::records::{self, OperationRecord};
use symbolon_protocol::state::{self, Applied, operation_id, unknown_client};
use symbolon_protocol::table::{Overlay, Tables, read};
use symbolon_protocol::wire::{Bytes, decode, encode};

use super::boots::{BootRefused, PeerBoots};
use super::checkpoint::{Checkpoint, Checkpoints, Shelf};
use super::door::{Barred, DoorState, may_stand};
use super::incoming::Incoming;
use super::members::Membership;
use super::raft_log::{pack, unpack};
use super::raft_state::SnapshotHandle;
use super::types::{Lane, NodeTypes, RaftVote, Surroundings, Transport};
use super::{Core, lock};
use crate::store::Store;

/// A checkpoint that is coming in and has not gone on for so long gives way to another node's, milliseconds.
const INCOMING_MS: u64 = 10_000;

/// The largest call that carries a message of a generation, bytes.
const GENERATE_BYTES: usize = message::MESSAGE_BYTES + 8;

/// The largest call that carries a subshare of a redistribution, bytes.
const SUBSHARE_BYTES: usize = vote::MESSAGE_BYTES + 8;

fn refusal(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Refusal::new(code, message)
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// A peer opened a stream and says which boot it is.
    ///
    /// # Errors
    /// `quarantined` when its store went back in time.
    pub async fn greeted(&self, from: NodeId, boot: BootId) -> Result<(), Refusal> {
        match PeerBoots::new(self.0.store.clone()).dialled_us(from, boot).await {
            Ok(()) => Ok(()),
            Err(BootRefused::Refused(refusal)) => Err(refusal),
            Err(BootRefused::Fault(fault)) => Err(self.fail(&fault)),
        }
    }

    /// Answers a call of a peer; `from` is who the channel says.
    pub async fn answer_peer(&self, from: NodeId, lane: Lane, call: Vec<u8>) -> Vec<u8> {
        match lane {
            Lane::Raft => encode(&self.answer_raft(from, &call).await.unwrap_or_else(RaftAnswer::Refused)),
            Lane::Work => encode(&self.answer_work(from, &call).await.unwrap_or_else(WorkAnswer::Refused)),
        }
    }

    async fn answer_work(&self, from: NodeId, call: &[u8]) -> Result<WorkAnswer, Refusal> {
        let _open = self.0.counters.answers_open.enter();
        match decode::<WorkCall>(call)? {
            WorkCall::Status => Ok(WorkAnswer::Status(self.own_status())),
            WorkCall::NewStore => Ok(WorkAnswer::NewStore(self.new_store()?)),
            WorkCall::Start(certificate) => {
                self.take_certificate(&certificate).await?;
                Ok(WorkAnswer::Taken)
            }
            WorkCall::StartCertificate => match self.start_certificate().map_err(|e| self.fail(&e))? {
                Some(certificate) => Ok(WorkAnswer::Start(certificate)),
                None => Err(refusal(ErrorCode::NotFound, "no certificate is known here")),
            },
            WorkCall::Propose(payload) => {
                self.may_propose(&payload)?;
                let (index, outcome) = self.order(&payload).await?;
                Ok(WorkAnswer::Proposed { index, outcome })
            }
            WorkCall::ReadIndex => Ok(WorkAnswer::ReadIndex(self.read_index_here().await?)),
            WorkCall::Generate(_) if call.len() > GENERATE_BYTES => {
                Err(refusal(ErrorCode::TooLarge, "a message of a generation is larger than any can be"))
            }
            WorkCall::Generate(message) => {
                self.hear_ceremony(from, message).await;
                Ok(WorkAnswer::Taken)
            }
            WorkCall::Subshare(_) if call.len() > SUBSHARE_BYTES => {
                Err(refusal(ErrorCode::TooLarge, "a subshare is larger than any can be"))
            }
            WorkCall::Subshare(message) => {
                self.hear_subshare(from, message);
                Ok(WorkAnswer::Taken)
            }
            WorkCall::SignRound1(round1) => Ok(WorkAnswer::Commitments(self.sign_round1(from, round1).await?)),
            WorkCall::SignRound2(round2) => Ok(WorkAnswer::Shares(self.sign_round2(from, round2).await?)),
            WorkCall::Checkpoint { head, signature } => {
                Ok(WorkAnswer::Checkpoint(self.take_checkpoint_signature(from, &head, signature)?))
            }
            WorkCall::Chain { after } => Ok(WorkAnswer::Chain(self.links_after(after)?)),
            // Whoever left, or lost its store, counts for nobody's lease.
            WorkCall::Position(_) if !self.admitted() => {
                Err(refusal(ErrorCode::Quarantined, "this node takes no part in the cluster"))
            }
            WorkCall::Position(question) => Ok(WorkAnswer::Position(self.answer_position(question).await?)),
            WorkCall::Withdrawn(request) => {
                self.withhold(&request)?;
                Ok(WorkAnswer::Taken)
            }
        }
    }

    /// What a peer may have ordered through this leader: nothing that `apply` would refuse at first sight, so that nobody fills
    /// the log for ever.
    fn may_propose(&self, payload: &Payload) -> Result<(), Refusal> {
        let tables = self.tables();
        match payload {
            Payload::Request(request) => {
                let verified = request.verify(&self.0.cluster)?;
                verified.check_time(self.now_ms())?;
                let client = records::client_of(&tables, &verified.body().client).map_err(|e| self.fail(&e))?;
                client.map(drop).ok_or_else(|| unknown_client(&verified))
            }
            Payload::Start(certificate) => Ok(certificate.check(&self.0.genesis)?),
            Payload::Tick => Err(refusal(ErrorCode::PermissionDenied, "only a leader orders a tick")),
            Payload::Generate(vote) => self.check_vote(vote),
            Payload::Endorse(endorsement) => self.check_endorsement(endorsement),
            Payload::Deal(_)
            | Payload::Refresh { .. }
            | Payload::Witness(_)
            | Payload::Expire { .. }
            | Payload::Erased(_)
            | Payload::Need(_)
            | Payload::Supports(_) => self.rehearse(payload),
        }
    }

    /// Applies a payload to nothing: what would be refused does not get a place in the log, where it would stay for ever.
    fn rehearse(&self, payload: &Payload) -> Result<(), Refusal> {
        let tables = self.tables();
        let mut overlay = Overlay::new(&tables);
        let entry = encode(&Entry { time_ms: self.now_ms(), payload: payload.clone() });
        let index = self.applied_index().map_or(0, |index| index.saturating_add(1));
        match state::apply(&mut overlay, &self.0.genesis, index, LogEntry::Normal(&entry)) {
            Ok(Applied { outcome: Outcome::Refused(refusal), .. }) => Err(refusal),
            // While this node applies an entry, a rehearsal may see half of it: the log decides.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn check_vote(&self, vote: &Vote) -> Result<(), Refusal> {
        let operation = match vote {
            Vote::Ready { core, .. } => operation_id(&core.key, core.version),
            Vote::Fault { operation, .. } => *operation,
        };
        let running: Option<OperationRecord> =
            read(&self.tables(), &replicated::operation(&operation)).map_err(|e| self.fail(&e))?;
        match running {
            Some(running) => vote.verify(&running.ceremony, |node| self.member_key(node)),
            None => Err(refusal(ErrorCode::WrongState, "a vote for an attempt that does not run")),
        }
    }

    pub(crate) fn own_status(&self) -> PeerStatus {
        PeerStatus {
            role: self.own_role(),
            applied_index: self.applied_index().unwrap_or(0),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.0.boot,
            state_version: self.0.state_version,
            time_ms: self.now_ms(),
        }
    }

    pub(crate) fn own_role(&self) -> String {
        use openraft::ServerState;
        let state = self.metrics(|m| m.state);
        match state {
            ServerState::Leader => "leader",
            ServerState::Follower => "follower",
            ServerState::Candidate => "candidate",
            ServerState::Learner if self.is_voter(self.0.me) => "waiting",
            ServerState::Learner => "learner",
            ServerState::Shutdown => "stopped",
        }
        .to_owned()
    }

    fn door(&self) -> DoorState {
        let id = |node: &NodeId| u64::from(node.get());
        let membership = self.membership();
        DoorState {
            voters: membership.candidates().iter().map(id).collect(),
            // Also those who left since: the log that a new node is given begins before that.
            members: membership.peers().keys().chain(&membership.applied).map(id).collect(),
            sets: numbers(&membership.sets),
            term: self.metrics(|m| m.current_term),
            now_ms: self.now_ms(),
            // Raft's own word, not the core's, which may lag behind it.
            applied: self.metrics(|m| m.last_applied),
        }
    }

    async fn answer_raft(&self, from: NodeId, call: &[u8]) -> Result<RaftAnswer, Refusal> {
        if !self.0.admitted.load(Ordering::Relaxed) {
            return Err(refusal(ErrorCode::Quarantined, "this store has no start certificate: it takes no part"));
        }
        let internal = |error: std::io::Error| refusal(ErrorCode::InvalidArgument, format!("malformed: {error}"));
        match decode::<RaftCall>(call)? {
            RaftCall::Append(Bytes(bytes)) => {
                let mut rpc: AppendEntriesRequest<C> = unpack(&bytes).map_err(internal)?;
                let local = |index| self.0.log.log_id_at(index);
                let cut = self.pass(from, self.door().check_append(from, &mut rpc, local))?;
                let mut answer = self.0.raft.append_entries(rpc).await.map_err(|e| stopped(&e))?;
                if let (Some(last), AppendEntriesResponse::Success) = (cut, &answer) {
                    // The leader counts what it sent unless it is told what was taken.
                    answer = AppendEntriesResponse::PartialSuccess(Some(last));
                }
                Ok(RaftAnswer::Raft(Bytes(pack(&answer).map_err(internal)?)))
            }
            RaftCall::Vote(Bytes(bytes)) => {
                let rpc: VoteRequest<C> = unpack(&bytes).map_err(internal)?;
                self.pass(from, self.door().check_vote(from, &rpc))?;
                let answer = self.0.raft.vote(rpc).await.map_err(|e| stopped(&e))?;
                Ok(RaftAnswer::Raft(Bytes(pack(&answer).map_err(internal)?)))
            }
            RaftCall::PreVote(Bytes(bytes)) => {
                let rpc: VoteRequest<C> = unpack(&bytes).map_err(internal)?;
                self.pass(from, self.door().check_vote(from, &rpc))?;
                let answer = self.0.raft.pre_vote(rpc).await.map_err(|e| stopped(&e))?;
                Ok(RaftAnswer::Raft(Bytes(pack(&answer).map_err(internal)?)))
            }
            RaftCall::SnapshotBegin { meta, head, signatures } => {
                // Whose signatures count is the membership's word, and this node may be further behind than its last change.
                self.learn_membership(from, head.membership).await?;
                self.snapshot_begin(from, &meta.0, head, &signatures)
            }
            RaftCall::SnapshotChunk { index, number, pairs } => self.snapshot_chunk(from, index, number, &pairs),
            RaftCall::SnapshotEnd { index, chunks } => self.snapshot_end(from, index, chunks).await,
        }
    }

    fn pass<R>(&self, from: NodeId, checked: Result<R, Barred>) -> Result<R, Refusal> {
        match checked {
            Ok(passed) => Ok(passed),
            Err(Barred::Refused(refusal)) => {
                tracing::warn!(peer = %from, %refusal, "a Raft message did not pass the door");
                Err(refusal)
            }
            Err(Barred::Rewrites { index }) => {
                // Nothing of it reaches Raft. Stopping would let any one member stop every node.
                self.0.counters.blame.count(from);
                tracing::error!(peer = %from, index, "a peer sends another entry for an index that was applied here");
                Err(refusal(ErrorCode::PeerMisbehaved, "what was applied is not rewritten"))
            }
        }
    }

    /// A leader offers a checkpoint: only under heads that a majority of the voters of today signed, whatever its own age.
    fn snapshot_begin(
        &self,
        from: NodeId,
        meta: &[u8],
        head: Head,
        signatures: &[(NodeId, Signature)],
    ) -> Result<RaftAnswer, Refusal> {
        let (vote, checkpoint): (RaftVote, Checkpoint) =
            unpack(meta).map_err(|e| refusal(ErrorCode::InvalidArgument, e.to_string()))?;
        self.pass(from, self.door().check_checkpoint(from, &vote, &checkpoint))?;
        if head.membership > self.membership().version {
            return Err(refusal(ErrorCode::NotFresh, "a checkpoint under a membership that this node does not know"));
        }
        let voters = self.checkpoint_voters().map_err(|e| self.fail(&e))?;
        let (offer, now_ms) = ((from, vote, checkpoint), self.now_ms());
        let incoming = Incoming::begin((&self.0.cluster, &voters), offer, head, signatures, now_ms)?;
        let other = lock(&self.0.incoming).as_ref().filter(|other| other.from != from).map(|other| other.touched_ms);
        if other.is_some_and(|at| now_ms.saturating_sub(at) < INCOMING_MS) {
            return Err(refusal(ErrorCode::Overloaded, "a checkpoint of another node is coming in"));
        }
        let checkpoints = Checkpoints::new(self.0.store.clone());
        checkpoints.clear_incoming().map_err(|e| self.fail(&e))?;
        *lock(&self.0.incoming) = Some(incoming);
        Ok(RaftAnswer::Taken)
    }

    fn snapshot_chunk(
        &self,
        from: NodeId,
        index: u64,
        number: u64,
        pairs: &Vec<(Bytes, Bytes)>,
    ) -> Result<RaftAnswer, Refusal> {
        let mut incoming = lock(&self.0.incoming);
        let expected = incoming.as_mut();
        let expected = expected.ok_or_else(|| refusal(ErrorCode::PeerMisbehaved, "a chunk of no checkpoint"))?;
        expected.chunk(from, (index, number), pairs, self.now_ms())?;
        let checkpoints = Checkpoints::new(self.0.store.clone());
        checkpoints.put_chunk(Shelf::Incoming, index, number, pairs).map_err(|e| self.fail(&e))?;
        Ok(RaftAnswer::Taken)
    }

    async fn snapshot_end(&self, from: NodeId, index: u64, chunks: u64) -> Result<RaftAnswer, Refusal> {
        let incoming = lock(&self.0.incoming).take();
        let Some(incoming) = incoming.filter(|incoming| incoming.is_whole(from, index, chunks)) else {
            return Err(refusal(ErrorCode::PeerMisbehaved, "the checkpoint is not complete"));
        };
        let checkpoints = Checkpoints::new(self.0.store.clone());
        let Some(rows) = checkpoints.check_incoming(&incoming.head, chunks).map_err(|e| self.fail(&e))? else {
            tracing::error!(peer = %from, index, "a peer sent a checkpoint that is not the one the voters signed");
            return Err(refusal(ErrorCode::PeerMisbehaved, "the checkpoint is not the one that the voters signed"));
        };
        self.pass(from, check_checkpoint_membership(&rows, &incoming.checkpoint))?;
        let snapshot = SnapshotOf::<C, SnapshotHandle> {
            meta: incoming.checkpoint.meta::<C>(),
            snapshot: SnapshotHandle { shelf: Shelf::Incoming, checkpoint: incoming.checkpoint },
        };
        let vote: VoteOf<C> = incoming.vote;
        let answer: SnapshotResponse<C> = self
            .0
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|e| refusal(ErrorCode::StorageFailed, e.to_string()))?;
        let bytes = pack(&answer).map_err(|e| refusal(ErrorCode::Internal, e.to_string()))?;
        Ok(RaftAnswer::Raft(Bytes(bytes)))
    }

    /// Signs the head of a checkpoint that this node made or took over, and tells it to everybody.
    pub(crate) fn sign_checkpoint(&self, head: &Head) -> Result<(), symbolon_protocol::table::StoreFault> {
        if self.is_voter(self.0.me) {
            let signature = self.0.identity.sign(Domain::Head, &self.0.cluster, &encode(head));
            Checkpoints::new(self.0.store.clone()).add_signature(head.index, self.0.me, signature)?;
            self.0.wake.notify_one();
        }
        Ok(())
    }

    /// Takes a peer's signature over a checkpoint that this node has too; gives this node's own.
    pub(crate) fn take_checkpoint_signature(
        &self,
        from: NodeId,
        head: &Head,
        signature: Signature,
    ) -> Result<Option<Signature>, Refusal> {
        let checkpoints = Checkpoints::new(self.0.store.clone());
        let current = checkpoints.current().map_err(|e| refusal(ErrorCode::StorageFailed, e.to_string()))?;
        let own = current.and_then(|c| c.head().ok()).filter(|own| own.index == head.index);
        let Some(own) = own else { return Ok(None) };
        let key = self.member_key(from).filter(|_| self.is_voter(from));
        if !key.is_some_and(|key| key.verifies(Domain::Head, &self.0.cluster, &encode(head), &signature)) {
            return Err(refusal(ErrorCode::PeerMisbehaved, "a head that its sender did not sign"));
        }
        if own != *head {
            tracing::error!(peer = %from, index = head.index, "a peer has another history at the same index");
            return Ok(None);
        }
        checkpoints.add_signature(head.index, from, signature).map_err(|e| self.fail(&e))?;
        let all = checkpoints.signatures(head.index).map_err(|e| self.fail(&e))?;
        Ok(all.get(&self.0.me).copied())
    }
}

/// Sets of voters as Raft numbers nodes.
fn numbers(sets: &VoterSets) -> Vec<BTreeSet<u64>> {
    sets.numbers().iter().map(|set| set.iter().map(|id| u64::from(id.get())).collect()).collect()
}

/// Whether Raft's membership in a checkpoint is one that the state in it allows. The state was checked, what comes beside it not.
fn check_checkpoint_membership(rows: &impl Tables, checkpoint: &Checkpoint) -> Result<(), Barred> {
    let refused = |what: String| Barred::Refused(refusal(ErrorCode::PeerMisbehaved, what));
    let membership =
        Membership::read(rows).map_err(|fault| refused(format!("a checkpoint without members: {fault}")))?;
    let members: BTreeSet<u64> = membership.peers().keys().map(|id| u64::from(id.get())).collect();
    if may_stand(checkpoint.membership.membership(), &numbers(&membership.sets), &members) {
        Ok(())
    } else {
        Err(refused("a checkpoint with voters for whom no administrator signed".to_owned()))
    }
}

fn stopped(error: &impl std::fmt::Display) -> Refusal {
    refusal(ErrorCode::StorageFailed, format!("Raft stopped on this node: {error}"))
}
