//! What this node answers its peers.

use std::sync::atomic::Ordering;

use openraft::alias::{SnapshotOf, VoteOf};
use openraft::raft::{AppendEntriesRequest, SnapshotResponse, VoteRequest};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::history::Head;
use symbolon_protocol::id::{BootId, NodeId};
use symbolon_protocol::identity::{Domain, Signature};
use symbolon_protocol::limits;
use symbolon_protocol::peer::{PeerStatus, RaftAnswer, RaftCall, WorkAnswer, WorkCall};
use symbolon_protocol::wire::{Bytes, decode, encode};

use super::boots::{BootRefused, PeerBoots};
use super::checkpoint::{Checkpoint, Checkpoints, Shelf};
use super::door::{Barred, DoorState};
use super::raft_log::{pack, unpack};
use super::raft_state::SnapshotHandle;
use super::types::{Lane, NodeTypes, RaftVote, Surroundings, Transport};
use super::{Core, lock};
use crate::store::Store;

/// A checkpoint that is coming in.
pub(crate) struct Incoming {
    from: NodeId,
    vote: RaftVote,
    checkpoint: Checkpoint,
    head: Head,
    next: u64,
    bytes: u64,
}

fn refusal(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Refusal::new(code, message)
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// A peer opened a stream and says which boot it is.
    ///
    /// # Errors
    /// `quarantined` when its store went back in time.
    pub async fn greeted(&self, from: NodeId, boot: BootId) -> Result<(), Refusal> {
        match PeerBoots::new(self.0.store.clone()).meet(from, boot).await {
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
                let (index, outcome) = self.order(&payload).await?;
                Ok(WorkAnswer::Proposed { index, outcome })
            }
            WorkCall::ReadIndex => Ok(WorkAnswer::ReadIndex(self.read_index_here().await?)),
            WorkCall::Generate(message) => {
                self.hear_ceremony(from, message).await;
                Ok(WorkAnswer::Taken)
            }
            WorkCall::SignRound1(round1) => Ok(WorkAnswer::Commitments(self.sign_round1(from, round1)?)),
            WorkCall::SignRound2(round2) => Ok(WorkAnswer::Shares(self.sign_round2(from, round2).await?)),
            WorkCall::Checkpoint { head, signature } => {
                Ok(WorkAnswer::Checkpoint(self.take_checkpoint_signature(from, &head, signature)?))
            }
        }
    }

    pub(crate) fn own_status(&self) -> PeerStatus {
        PeerStatus {
            role: self.own_role(),
            applied_index: self.applied_index().unwrap_or(0),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.0.boot,
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
        DoorState {
            voters: self.0.genesis.voters().iter().map(id).collect(),
            members: self.0.genesis.members.keys().map(id).collect(),
            term: self.metrics(|m| m.current_term),
            now_ms: self.now_ms(),
            applied: self.applied_index(),
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
                self.pass(from, self.door().check_append(from, &mut rpc, local))?;
                let answer = self.0.raft.append_entries(rpc).await.map_err(|e| stopped(&e))?;
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
            RaftCall::SnapshotBegin { meta, head, signatures } => self.snapshot_begin(from, &meta.0, head, &signatures),
            RaftCall::SnapshotChunk { index, number, pairs } => self.snapshot_chunk(from, index, number, &pairs),
            RaftCall::SnapshotEnd { index, chunks } => self.snapshot_end(from, index, chunks).await,
        }
    }

    fn pass(&self, from: NodeId, checked: Result<(), Barred>) -> Result<(), Refusal> {
        match checked {
            Ok(()) => Ok(()),
            Err(Barred::Refused(refusal)) => {
                tracing::warn!(peer = %from, %refusal, "a Raft message did not pass the door");
                Err(refusal)
            }
            Err(Barred::Rewrites { index }) => {
                // Nothing of it reaches Raft. Stopping would let any one member stop every node.
                tracing::error!(peer = %from, index, "a peer sends another entry for an index that was applied here");
                Err(refusal(ErrorCode::PeerMisbehaved, "what was applied is not rewritten"))
            }
        }
    }

    /// A leader offers a checkpoint: only under heads that a majority of the voters signed.
    fn snapshot_begin(
        &self,
        from: NodeId,
        meta: &[u8],
        head: Head,
        signatures: &[(NodeId, Signature)],
    ) -> Result<RaftAnswer, Refusal> {
        let (vote, checkpoint): (RaftVote, Checkpoint) =
            unpack(meta).map_err(|e| refusal(ErrorCode::InvalidArgument, e.to_string()))?;
        let probe = VoteRequest::<C>::new(vote, Some(checkpoint.last_log_id));
        self.pass(from, self.door().check_vote(from, &probe))?;
        let voters = self.0.genesis.voters();
        let payload = encode(&head);
        let signers: std::collections::BTreeSet<NodeId> = signatures
            .iter()
            .filter(|(node, signature)| {
                voters.contains(node)
                    && self
                        .member_key(*node)
                        .is_some_and(|k| k.verifies(Domain::Head, &self.0.cluster, &payload, signature))
            })
            .map(|(node, _)| *node)
            .collect();
        let same = checkpoint.last_log_id.index == head.index && checkpoint.head().is_ok_and(|h| h == head);
        if signers.len() <= voters.len() / 2 || head.state.is_none() || !same {
            return Err(refusal(
                ErrorCode::PeerMisbehaved,
                "a checkpoint without the heads of a majority is not taken",
            ));
        }
        // What Raft itself would answer with a panic: a leader of a later term than the vote, or an index behind ours.
        let later = checkpoint.last_log_id.leader_id.term > vote.leader_id.term;
        let behind = self.applied_index().is_some_and(|applied| applied >= head.index);
        let voters_in: std::collections::BTreeSet<u64> = checkpoint.membership.voter_ids().collect();
        let members_differ = voters_in != voters.iter().map(|v| u64::from(v.get())).collect();
        if later || behind || members_differ {
            return Err(refusal(ErrorCode::PeerMisbehaved, "this checkpoint does not fit this node's log"));
        }
        let checkpoints = Checkpoints::new(self.0.store.clone());
        checkpoints.clear_incoming().map_err(|e| self.fail(&e))?;
        *lock(&self.0.incoming) = Some(Incoming { from, vote, checkpoint, head, next: 0, bytes: 0 });
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
        let expected = incoming.as_mut().filter(|i| i.from == from && i.head.index == index && i.next == number);
        let Some(expected) = expected else {
            return Err(refusal(ErrorCode::PeerMisbehaved, "a chunk that does not come next"));
        };
        expected.bytes += pairs.iter().map(|(k, v)| (k.0.len() + v.0.len()) as u64).sum::<u64>();
        if expected.bytes > limits::SNAPSHOT_BYTES {
            return Err(refusal(ErrorCode::TooLarge, "the checkpoint is too large"));
        }
        expected.next += 1;
        let checkpoints = Checkpoints::new(self.0.store.clone());
        checkpoints.put_chunk(Shelf::Incoming, index, number, pairs).map_err(|e| self.fail(&e))?;
        Ok(RaftAnswer::Taken)
    }

    async fn snapshot_end(&self, from: NodeId, index: u64, chunks: u64) -> Result<RaftAnswer, Refusal> {
        let incoming = lock(&self.0.incoming).take();
        let incoming = incoming.filter(|i| i.from == from && i.head.index == index && i.next == chunks);
        let Some(incoming) = incoming.filter(|i| i.checkpoint.chunks == chunks) else {
            return Err(refusal(ErrorCode::PeerMisbehaved, "the checkpoint is not complete"));
        };
        let checkpoints = Checkpoints::new(self.0.store.clone());
        if !checkpoints.check_incoming(&incoming.head, chunks).map_err(|e| self.fail(&e))? {
            tracing::error!(peer = %from, index, "a peer sent a checkpoint that is not the one the voters signed");
            return Err(refusal(ErrorCode::PeerMisbehaved, "the checkpoint is not the one that the voters signed"));
        }
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

    /// Signs the head of a checkpoint that this node made, and tells it to everybody.
    pub(crate) fn sign_checkpoint(&self, head: &Head) -> Result<(), symbolon_protocol::table::StoreFault> {
        if self.is_voter(self.0.me) {
            let signature = self.0.identity.sign(Domain::Head, &self.0.cluster, &encode(head));
            Checkpoints::new(self.0.store.clone()).add_signature(head.index, self.0.me, signature)?;
            self.0.wake.notify_one();
        }
        Ok(())
    }

    /// Takes a peer's signature over a checkpoint that this node made too; gives this node's own.
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
        let verifies = self.is_voter(from)
            && self
                .member_key(from)
                .is_some_and(|k| k.verifies(Domain::Head, &self.0.cluster, &encode(head), &signature));
        if !verifies {
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

fn stopped(error: &impl std::fmt::Display) -> Refusal {
    refusal(ErrorCode::StorageFailed, format!("Raft stopped on this node: {error}"))
}
