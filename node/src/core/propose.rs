//! Getting entries ordered, and knowing which state is certainly current.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::type_config::TypeConfigExt as _;
use openraft::{RaftMetrics, ReadPolicy};
use symbolon_protocol::entry::{Entry, Payload};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::wire::{decode, encode};

use super::Core;
use super::types::{EntryBytes, Lane, NodeTypes, Surroundings, Transport};
use crate::store::Store;

/// How long a leader may take to order one entry.
const ORDER: Duration = Duration::from_secs(3);
/// Between two tries to find a leader.
const AGAIN: Duration = Duration::from_millis(50);

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// Something of Raft's metrics; never held across an await.
    pub(crate) fn metrics<R>(&self, read: impl FnOnce(&RaftMetrics<C>) -> R) -> R {
        read(&self.0.raft.metrics().borrow_watched())
    }

    /// The leader, where one is known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let leader = self.metrics(|m| m.current_leader);
        leader.and_then(|id| u16::try_from(id).ok()).and_then(NodeId::new)
    }

    /// The leader, as long as it can be one: it is reachable, and so is a majority of the voters.
    #[must_use]
    pub fn believable_leader(&self) -> Option<NodeId> {
        let voters = self.voters();
        let reachable = voters.iter().filter(|node| self.is_reachable(**node)).count();
        self.leader().filter(|leader| reachable > voters.len() / 2 && self.is_reachable(*leader))
    }

    /// Whether this node leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leader() == Some(self.0.me)
    }

    /// Has a payload ordered, by whoever leads, and waits until this node has applied it too.
    ///
    /// A payload may be ordered more than once when a leader is lost: requests and votes are idempotent.
    ///
    /// # Errors
    /// `no_quorum` when no leader orders it in time; a refusal in the outcome is not an error here.
    pub async fn propose(&self, payload: &Payload, patience: Duration) -> Result<(u64, Outcome), Refusal> {
        let proposed = C::timeout(patience, self.propose_until_done(payload)).await;
        let (index, outcome) = proposed.map_err(|_| self.no_quorum())??;
        // A node that lags answers all the same; the outcome is certain.
        let _ = self.applied_at_least(index, Duration::from_secs(2)).await;
        Ok((index, outcome))
    }

    async fn propose_until_done(&self, payload: &Payload) -> Result<(u64, Outcome), Refusal> {
        let call = encode(&WorkCall::Propose(payload.clone()));
        loop {
            let result = match self.leader() {
                Some(leader) if leader == self.0.me => self.order(payload).await,
                Some(leader) => self.ask_leader(leader, &call).await,
                None => Err(self.no_quorum()),
            };
            match result {
                Err(refusal) if refusal.code == ErrorCode::NoQuorum => C::sleep(AGAIN).await,
                Err(refusal) => return Err(refusal),
                Ok(done) => return Ok(done),
            }
        }
    }

    async fn ask_leader(&self, leader: NodeId, call: &[u8]) -> Result<(u64, Outcome), Refusal> {
        match self.call_raw(leader, call.to_vec(), ORDER).await {
            Ok(WorkAnswer::Proposed { index, outcome }) => Ok((index, outcome)),
            Ok(WorkAnswer::Refused(refusal)) => Err(refusal),
            Ok(_) | Err(_) => Err(self.no_quorum()),
        }
    }

    /// Orders a payload as the leader.
    ///
    /// # Errors
    /// `no_quorum` when this node does not lead or no majority answers; `too_large`.
    pub(crate) async fn order(&self, payload: &Payload) -> Result<(u64, Outcome), Refusal> {
        let entry = encode(&Entry { time_ms: self.now_ms(), payload: payload.clone() });
        if entry.len() > limits::ENTRY_BYTES {
            return Err(Refusal::new(
                ErrorCode::TooLarge,
                format!("an entry has at most {} bytes", limits::ENTRY_BYTES),
            ));
        }
        let written = C::timeout(ORDER, self.0.raft.client_write(EntryBytes(entry))).await;
        let written = written.map_err(|_| self.no_quorum())?;
        match written {
            Ok(response) => {
                let outcome = decode(&response.data.0).map_err(|e| Refusal::new(ErrorCode::Internal, e.to_string()))?;
                Ok((response.log_id.index, outcome))
            }
            Err(RaftError::Fatal(fatal)) => {
                Err(Refusal::new(ErrorCode::StorageFailed, format!("{} stopped: {fatal}", self.name_of(self.0.me))))
            }
            // Not ordered, or not known whether: whoever asked tries again, which is safe.
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_)
                | ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_),
            )) => Err(self.no_quorum()),
        }
    }

    /// Why nothing can be ordered, with who is missing.
    pub(crate) fn no_quorum(&self) -> Refusal {
        let voters = self.voters();
        let down: Vec<String> =
            voters.iter().filter(|id| !self.is_reachable(**id)).map(|id| self.name_of(*id)).collect();
        let needed = voters.len() / 2 + 1;
        let reachable = voters.len() - down.len();
        let message = format!("no majority of the voters answers: {reachable} reachable of {needed} needed");
        use symbolon_protocol::error::Detail;
        Refusal::new(ErrorCode::NoQuorum, message)
            .with("reachable", Detail::Number(reachable as u64))
            .with("needed", Detail::Number(needed as u64))
            .with("unreachable", Detail::List(down))
    }

    /// Waits until an index is applied here. False when it takes too long.
    pub(crate) async fn applied_at_least(&self, index: u64, patience: Duration) -> bool {
        let mut applied = self.0.applied.subscribe();
        let wait = async move { applied.wait_for(|at| at.is_some_and(|at| at >= index)).await.is_ok() };
        C::timeout(patience, wait).await.unwrap_or(false)
    }

    /// An index that was certainly committed when this was called, as the leader.
    ///
    /// # Errors
    /// `no_quorum` when this node does not lead or no majority confirms it.
    pub(crate) async fn read_index_here(&self) -> Result<u64, Refusal> {
        match self.0.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(read) => Ok(read.log_id().index),
            Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
            ))
            | Err(RaftError::Fatal(_)) => Err(self.no_quorum()),
        }
    }

    /// Brings this node's state to what was committed when this was called. False when that cannot be told in time.
    pub(crate) async fn catch_up(&self, patience: Duration) -> bool {
        let reached = async {
            let index = match self.leader() {
                Some(leader) if leader == self.0.me => self.read_index_here().await.ok(),
                Some(leader) => match self.call_work(leader, &WorkCall::ReadIndex, patience).await {
                    Ok(WorkAnswer::ReadIndex(index)) => Some(index),
                    _ => None,
                },
                None => None,
            };
            match index {
                Some(index) => self.applied_at_least(index, patience).await,
                None => false,
            }
        };
        C::timeout(patience, reached).await.unwrap_or(false)
    }

    /// A refusal by a state that may be behind is no refusal by the cluster's.
    pub(crate) fn may_lag(&self, refusal: &Refusal) -> Refusal {
        let message =
            format!("{} is catching up; by what it knows so far: {}", self.name_of(self.0.me), refusal.message);
        Refusal::new(ErrorCode::NotFresh, message)
    }

    /// Calls a peer on the work stream.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub(crate) async fn call_work(
        &self,
        to: NodeId,
        call: &WorkCall,
        patience: Duration,
    ) -> Result<WorkAnswer, String> {
        self.call_raw(to, encode(call), patience).await
    }

    pub(crate) async fn call_raw(&self, to: NodeId, call: Vec<u8>, patience: Duration) -> Result<WorkAnswer, String> {
        let _open = self.0.counters.calls_open.enter();
        let called = C::timeout(patience, self.0.transport.call(to, Lane::Work, call)).await;
        let bytes = match called {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("{} did not answer within {patience:?}", self.name_of(to))),
        };
        decode(&bytes).map_err(|error| format!("{} answered nonsense: {error}", self.name_of(to)))
    }
}
