//! Raft's calls to peers, over the Raft stream.

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::future::Future;
use std::time::Duration;

use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::type_config::TypeConfigExt as _;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::peer::{RaftAnswer, RaftCall};
use symbolon_protocol::wire::{Bytes, decode, encode};

use super::checkpoint::Checkpoints;
use super::raft_log::{pack, unpack};
use super::raft_state::SnapshotHandle;
use super::types::{Lane, NodeTypes, RaftLogId, RaftVote, Transport};
use crate::store::Store;

/// Makes the way to each peer.
#[derive(Clone)]
pub struct RaftNetwork<T, S> {
    transport: T,
    me: u64,
    checkpoints: Checkpoints<S>,
    /// Voters of genesis.
    voters: usize,
    /// Deadline of an append: Raft's own is one heartbeat, too short for a batch on a busy machine.
    append: Duration,
}

impl<T: Transport, S: Store> RaftNetwork<T, S> {
    /// Over a transport; checkpoints are read from the store.
    pub fn new(me: NodeId, transport: T, store: S, voters: usize, append: Duration) -> Self {
        Self { me: u64::from(me.get()), transport, checkpoints: Checkpoints::new(store), voters, append }
    }
}

impl<T, S> RaftNetwork<T, S> {
    /// Whether a vote in an answer can be one: not far ahead, and none of this node's own that is newer than the one that it
    /// asks with, whether said to be won or only given. Older ones do come: whoever followed this node last holds such a vote.
    fn believes(&self, vote: &RaftVote, asked: &RaftVote) -> bool {
        let ahead = asked.leader_id.term.saturating_add(limits::TERM_AHEAD);
        let mine = vote.leader_id.voted_for == self.me;
        vote.leader_id.term <= ahead && (!mine || vote <= asked)
    }
}

/// The way to one peer.
pub struct RaftPeer<T, S> {
    network: RaftNetwork<T, S>,
    target: Option<NodeId>,
}

impl<C: NodeTypes, T: Transport, S: Store> RaftNetworkFactory<C> for RaftNetwork<T, S> {
    type Network = RaftPeer<T, S>;

    async fn new_client(&mut self, target: u64, _node: &C::Node) -> RaftPeer<T, S> {
        let target = u16::try_from(target).ok().and_then(NodeId::new);
        RaftPeer { network: self.clone(), target }
    }
}

impl<T: Transport, S: Store> RaftPeer<T, S> {
    /// Any failure is "unreachable": Raft waits a little before the next try.
    async fn exchange<C: NodeTypes>(&self, call: RaftCall, deadline: Duration) -> Result<RaftAnswer, Unreachable<C>> {
        let unreachable = |what: String| Unreachable::<C>::from_string(what);
        let target = self.target.ok_or_else(|| unreachable("no such node".to_owned()))?;
        let called = self.network.transport.call(target, Lane::Raft, encode(&call));
        let bytes = match C::timeout(deadline, called).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("node {target} did not answer within {deadline:?}"))),
        };
        match decode::<RaftAnswer>(&bytes) {
            Ok(RaftAnswer::Refused(refusal)) => Err(unreachable(refusal.to_string())),
            Ok(answer) => Ok(answer),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }

    async fn ask<C: NodeTypes, Q: Serialize, A: DeserializeOwned>(
        &self,
        wrap: fn(Bytes) -> RaftCall,
        question: &Q,
        deadline: Duration,
    ) -> Result<A, RPCError<C>> {
        let unreachable = |what: String| RPCError::Unreachable(Unreachable::<C>::from_string(what));
        let bytes = pack(question).map_err(|e| unreachable(e.to_string()))?;
        match self.exchange::<C>(wrap(Bytes(bytes)), deadline).await {
            Ok(RaftAnswer::Raft(Bytes(bytes))) => unpack(&bytes).map_err(|e| unreachable(e.to_string())),
            Ok(_) => Err(unreachable("an answer to another question".to_owned())),
            Err(error) => Err(RPCError::Unreachable(error)),
        }
    }

    async fn send_snapshot<C: NodeTypes>(
        &self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotHandle>,
    ) -> Result<SnapshotResponse<C>, Unreachable<C>> {
        let failed = |what: String| Unreachable::<C>::from_string(what);
        let deadline = Duration::from_secs(10);
        let SnapshotHandle { shelf, checkpoint } = snapshot.snapshot;
        let index = checkpoint.last_log_id.index;
        let head = checkpoint.head().map_err(|e| failed(e.to_string()))?;
        let signatures = self.network.checkpoints.signatures(index).map_err(|e| failed(e.to_string()))?;
        let voters = self.network.checkpoints.voters_at(head.membership).map_err(|e| failed(e.to_string()))?;
        if signatures.len() <= voters.unwrap_or(self.network.voters) / 2 {
            return Err(failed(format!("checkpoint {index} is not signed by a majority yet")));
        }
        let asked = vote;
        let meta = pack(&(vote, checkpoint.clone())).map_err(|e| failed(e.to_string()))?;
        let begin = RaftCall::SnapshotBegin { meta: Bytes(meta), head, signatures: signatures.into_iter().collect() };
        self.exchange::<C>(begin, deadline).await?;
        for number in 0..checkpoint.chunks {
            let chunk = self.network.checkpoints.chunk(shelf, index, number).map_err(|e| failed(e.to_string()))?;
            self.exchange::<C>(RaftCall::SnapshotChunk { index, number, pairs: chunk }, deadline).await?;
        }
        // Installing is one large batch.
        let end = RaftCall::SnapshotEnd { index, chunks: checkpoint.chunks };
        match self.exchange::<C>(end, Duration::from_secs(120)).await? {
            RaftAnswer::Raft(Bytes(bytes)) => {
                let answer: SnapshotResponse<C> = unpack(&bytes).map_err(|e| failed(e.to_string()))?;
                if self.network.believes(&answer.vote, &asked) { Ok(answer) } else { Err(absurd::<C>()) }
            }
            _ => Err(failed("an answer to another question".to_owned())),
        }
    }
}

/// Raft adopts and stores what an answer claims, and computes with it: what no honest node can say is no answer.
fn absurd<C: NodeTypes>() -> Unreachable<C> {
    Unreachable::<C>::from_string("the answer claims what cannot be")
}

impl<C: NodeTypes, T: Transport, S: Store> RaftNetworkV2<C> for RaftPeer<T, S> {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        let answer = self.ask(RaftCall::Append, &rpc, self.network.append.max(option.hard_ttl())).await?;
        let sent = |id: &RaftLogId| rpc.prev_log_id == Some(*id) || rpc.entries.iter().any(|entry| entry.log_id == *id);
        let sane = match &answer {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::PartialSuccess(matched) => matched.as_ref().is_some_and(sent),
            AppendEntriesResponse::Conflict => rpc.prev_log_id.is_some(),
            AppendEntriesResponse::HigherVote(vote) => self.network.believes(vote, &rpc.vote),
        };
        if sane { Ok(answer) } else { Err(RPCError::Unreachable(absurd::<C>())) }
    }

    async fn vote(&mut self, rpc: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        let answer: VoteResponse<C> = self.ask(RaftCall::Vote, &rpc, option.hard_ttl()).await?;
        let sane = self.network.believes(&answer.vote, &rpc.vote);
        if sane { Ok(answer) } else { Err(RPCError::Unreachable(absurd::<C>())) }
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        let answer: VoteResponse<C> = self.ask(RaftCall::PreVote, &rpc, option.hard_ttl()).await?;
        let sane = self.network.believes(&answer.vote, &rpc.vote);
        if sane { Ok(answer) } else { Err(RPCError::Unreachable(absurd::<C>())) }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotHandle>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let send = std::pin::pin!(self.send_snapshot::<C>(vote, snapshot));
        let cancel = std::pin::pin!(cancel);
        match futures::future::select(send, cancel).await {
            futures::future::Either::Left((result, _)) => result.map_err(StreamingError::Unreachable),
            futures::future::Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }
}
