//! What is seen of the nodes: waiting for something, asking, comparing what they have.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::FutureExt as _;
use symbolon_node::store::{Column, Store as _};
use symbolon_protocol::history;
use symbolon_protocol::id::{Digest, NodeId};
use symbolon_protocol::state::records;
use tokio::time::{Instant, sleep, timeout};

use super::{Cluster, PATIENCE};
use crate::level_b::types::SimCore;

/// Between two looks at what is waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// What the keys of Raft's entries begin with, in the column of Raft; the index follows.
const RAFT_ENTRIES: &[u8] = b"l";

impl Cluster {
    /// Waits until something is so.
    ///
    /// # Errors
    /// What was waited for in vain, or which node stopped meanwhile.
    pub async fn until(&self, what: &str, so: impl Fn(&Self) -> Result<bool, String>) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            self.check_running()?;
            if so(self)? {
                self.trace.note(what, b"");
                return Ok(());
            }
            if begun.elapsed() >= PATIENCE {
                return Err(format!("waited {PATIENCE:?} for {what} ({})", self.describe()));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// What was waited for in vain, or which node stopped meanwhile.
    pub async fn within<F: Future>(&self, what: &str, answer: F) -> Result<F::Output, String> {
        let answered = timeout(PATIENCE, answer).await;
        self.check_running()?;
        answered.map_err(|_| format!("waited {PATIENCE:?} for {what} ({})", self.describe()))
    }

    /// Asks a node as a client does that loses its connection when the node crashes: none when it does not run, or crashed
    /// before it answered.
    ///
    /// # Errors
    /// When it never answers, or which node stopped meanwhile.
    pub async fn ask<F: Future>(
        &self,
        on: NodeId,
        question: impl FnOnce(SimCore) -> F,
    ) -> Result<Option<F::Output>, String> {
        let Ok(node) = self.node(on) else { return Ok(None) };
        let answer = self.within("an answer", node.gate.within(question(node.core))).await?;
        Ok(node.life.lasts().then_some(answer))
    }

    /// What a node that runs works out. It stands still with the node.
    ///
    /// # Errors
    /// When the node does not run or never answers, or which node stopped meanwhile.
    pub async fn served<F: Future>(
        &self,
        on: NodeId,
        what: &str,
        question: impl FnOnce(SimCore) -> F,
    ) -> Result<F::Output, String> {
        let node = self.node(on)?;
        self.within(what, node.gate.within(question(node.core))).await
    }

    /// Waits until a node stops by itself, and gives the reason.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn reason_to_stop(&self, me: NodeId) -> Result<String, String> {
        let core = self.core(me)?;
        timeout(PATIENCE, core.failed()).await.map_err(|_| format!("node {me} goes on where it must stop"))
    }

    /// No node that runs may stop by itself.
    fn check_running(&self) -> Result<(), String> {
        let stopped = self.cores().into_iter().find_map(|(id, core)| Some((id, core.failed().now_or_never()?)));
        match stopped {
            Some((id, why)) => Err(format!("node {id} stopped by itself: {why}")),
            None => Ok(()),
        }
    }

    fn describe(&self) -> String {
        let number = |n: Option<u64>| n.map_or_else(|| "nothing".to_owned(), |n| n.to_string());
        let describe = |(id, core): (NodeId, SimCore)| {
            let leader = core.leader().map(|leader| u64::from(leader.get()));
            format!("node {id}: applied {}, leader {}", number(core.applied_index()), number(leader))
        };
        self.cores().into_iter().map(describe).collect::<Vec<_>>().join("; ")
    }

    /// Whom most of the nodes that run follow, the lowest number among equals; none where nobody leads.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let mut followers: BTreeMap<NodeId, usize> = BTreeMap::new();
        for leader in self.cores().iter().filter_map(|(_, core)| core.leader()) {
            *followers.entry(leader).or_insert(0) += 1;
        }
        followers.into_iter().rev().max_by_key(|(_, count)| *count).map(|(leader, _)| leader)
    }

    /// Whether the cluster has started, and all nodes that run follow one leader and hear each other.
    ///
    /// # Errors
    /// When a store fails.
    pub fn is_well(&self) -> Result<bool, String> {
        let cores = self.cores();
        let leader = cores.iter().find_map(|(_, core)| core.leader());
        let leads = leader.is_some_and(|leader| cores.iter().any(|(id, _)| *id == leader));
        for (_, core) in &cores {
            let started = records::cluster(&core.state_tables()).map_err(|e| e.to_string())?.started;
            let hears_all = cores.iter().all(|(other, _)| core.is_reachable(*other));
            if !leads || !started || !hears_all || core.leader() != leader {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The highest index that a running node applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.cores().iter().filter_map(|(_, core)| core.applied_index()).max().unwrap_or(0)
    }

    /// Waits until all nodes that run have applied what one of them has.
    ///
    /// # Errors
    /// What was waited for in vain.
    pub async fn settle(&self) -> Result<(), String> {
        let index = self.applied();
        let reached = |core: &SimCore| core.applied_index().is_some_and(|at| at >= index);
        self.until("all nodes to have applied the same", |cluster| {
            Ok(cluster.cores().iter().all(|(_, core)| reached(core)))
        })
        .await
    }

    /// The applied entries that lie in the log of a node after an index, as they are stored, by index; all of them without one.
    /// Those before a checkpoint may be gone.
    ///
    /// # Errors
    /// When the node does not run, or its store fails.
    pub fn log_after(&self, on: NodeId, index: Option<u64>) -> Result<BTreeMap<u64, Vec<u8>>, String> {
        let node = self.node(on)?;
        let Some(applied) = node.core.applied_index() else { return Ok(BTreeMap::new()) };
        let mut entries = BTreeMap::new();
        let mut after = index.map_or_else(Vec::new, |index| [RAFT_ENTRIES, &index.to_be_bytes()].concat());
        loop {
            let page = node.store.scan(Column::Raft, RAFT_ENTRIES, &after, 256).map_err(|e| e.to_string())?;
            let Some((last, _)) = page.last() else { return Ok(entries) };
            after.clone_from(last);
            for (key, entry) in page {
                let index = key.get(RAFT_ENTRIES.len()..).and_then(|index| index.try_into().ok());
                let index = index.map(u64::from_be_bytes).ok_or("an entry of Raft's log has no index")?;
                if index <= applied {
                    entries.insert(index, entry);
                }
            }
        }
    }

    /// Compares the roots of the one history at every index that all nodes that run have applied.
    ///
    /// # Errors
    /// The first index at which two nodes differ, or at which one has no root.
    pub fn compare_histories(&self) -> Result<(), String> {
        let cores = self.cores();
        let lowest = cores.iter().map(|(_, core)| core.applied_index()).min().flatten();
        let lowest = lowest.ok_or("a node has applied nothing")?;
        let mut root: Option<Digest> = None;
        for index in 0..=lowest {
            root = None;
            for (id, core) in &cores {
                let own = history::root_at(&core.state_tables(), index).map_err(|e| e.to_string())?;
                let own = own.ok_or_else(|| format!("node {id} has no root at index {index}"))?;
                if root.is_some_and(|other| other != own) {
                    return Err(format!("node {id} has another history than others at index {index}"));
                }
                root = Some(own);
            }
        }
        let root = root.ok_or("no node runs")?;
        self.trace.note("histories are equal", root.as_bytes());
        Ok(())
    }
}
