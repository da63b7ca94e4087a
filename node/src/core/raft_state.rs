//! Raft's state machine: the replicated tables in the store, changed only by `protocol::state::apply`.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::{Stream, TryStreamExt as _};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, StoredMembership};
use symbolon_protocol::entry::LogEntry;
use symbolon_protocol::fresh::Placed;
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::history::Head;
use symbolon_protocol::id::{ClusterId, Digest, NodeId, RequestId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::schema::replicated as schema;
use symbolon_protocol::state::{self, records};
use symbolon_protocol::table::{OrderedWrites, Overlay, StoreFault, Tables};
use symbolon_protocol::wire::{Reader, Wire as _, encode};
use tokio::sync::mpsc::UnboundedSender;

use super::checkpoint::{Checkpoint, Checkpoints, Shelf};
use super::raft_log::{io_fault, pack, unpack};
use super::types::{NodeTypes, OutcomeBytes, RaftEntry, RaftLogId, RaftMembership};
use crate::store::{Batch, Change, Column, StateTables, Store};

const APPLIED: &[u8] = b"a";

/// A request, by its client and its id.
pub type RequestName = (PublicKey, RequestId);

/// What the core is told after an entry.
#[derive(Debug, Clone)]
pub enum Event {
    /// An entry was applied.
    Applied {
        /// Its index.
        index: u64,
        /// What became of it.
        outcome: Outcome,
        /// Root of the history after it.
        root: Digest,
        /// For a request that takes a right away: what its place in the history is shown with.
        placed: Option<Placed>,
        /// The request whose outcome was recorded.
        recorded: Option<RequestName>,
    },
    /// A checkpoint is due: Raft is to be asked for a snapshot.
    CheckpointDue,
    /// A checkpoint was made; its head is to be signed.
    CheckpointMade(Head),
    /// The tables were replaced by a checkpoint.
    Installed {
        /// Its index.
        index: u64,
    },
}

/// A checkpoint on its way through Raft.
#[derive(Clone, Debug)]
pub struct SnapshotHandle {
    pub(crate) shelf: Shelf,
    pub(crate) checkpoint: Checkpoint,
}

struct Due<S: Store> {
    view: S::View,
    last_log_id: RaftLogId,
    membership: RaftMembership,
    root: Digest,
}

/// The state machine.
pub struct StateMachine<S: Store> {
    store: S,
    genesis: Arc<Genesis>,
    cluster: ClusterId,
    events: UnboundedSender<Event>,
    applied: Option<RaftLogId>,
    membership: RaftMembership,
    due: Arc<Mutex<Option<Due<S>>>>,
    /// Raised before and after every change of the tables: what was looked up under another number is not current.
    generation: Arc<AtomicU64>,
    /// The highest state version by whose rules this program can apply.
    known: u32,
}

impl<S: Store> StateMachine<S> {
    /// Opens the tables; writes those of genesis into a new store.
    ///
    /// # Errors
    /// When the store fails or holds damaged records, and when its rules are not known here: the message says what to install.
    pub fn open(
        store: S,
        genesis: Arc<Genesis>,
        events: UnboundedSender<Event>,
        generation: Arc<AtomicU64>,
        known: u32,
    ) -> io::Result<Self> {
        let (applied, membership) = match store.get(Column::Raft, APPLIED).map_err(io_fault)? {
            Some(bytes) => unpack(&bytes)?,
            None => {
                let mut batch = Batch::default();
                for (key, value) in records::initial(&genesis) {
                    batch.put(Column::State, key, value);
                }
                let position: (Option<RaftLogId>, RaftMembership) = (None, StoredMembership::default());
                batch.put(Column::Raft, APPLIED.to_vec(), pack(&position)?);
                store.write(batch).map_err(io_fault)?;
                position
            }
        };
        let (cluster, due) = (genesis.cluster_id(), Arc::new(Mutex::new(None)));
        check_rules(&StateTables(store.clone()), known)?;
        Ok(Self { store, genesis, cluster, events, applied, membership, due, generation, known })
    }

    /// What the tables hold so far.
    pub(crate) fn applied_index(&self) -> Option<u64> {
        self.applied.map(|id| id.index)
    }

    fn position(&self) -> io::Result<Change> {
        Ok(Change::Put(Column::Raft, APPLIED.to_vec(), pack(&(self.applied, self.membership.clone()))?))
    }

    /// Applies one entry: tables and position in one batch.
    fn apply_entry(&mut self, entry: &RaftEntry) -> io::Result<Outcome> {
        let index = entry.log_id.index;
        let (stored, voters);
        let log_entry = match &entry.payload {
            EntryPayload::Blank => LogEntry::Blank,
            EntryPayload::Normal(bytes) => LogEntry::Normal(&bytes.0),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                stored = pack(membership)?;
                voters = uniform(membership);
                LogEntry::Membership { stored: &stored, voters: voters.as_ref() }
            }
        };
        let tables = StateTables(self.store.clone());
        check_rules(&tables, self.known)?;
        let mut overlay = Overlay::new(&tables);
        let applied = state::apply(&mut overlay, &self.genesis, index, log_entry).map_err(io_fault)?;
        self.applied = Some(entry.log_id);
        let mut batch = Batch::default();
        let writes = overlay.into_writes();
        let placed = match &entry.payload {
            EntryPayload::Normal(bytes) => Placed::of(&self.cluster, index, &bytes.0, &applied.outcome, &writes),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };
        let recorded = recorded(&writes);
        batch.state(writes);
        batch.0.push(self.position()?);
        self.generation.fetch_add(1, Ordering::AcqRel);
        let written = self.store.write(batch).map_err(io_fault);
        self.generation.fetch_add(1, Ordering::AcqRel);
        written?;
        self.tell(Event::Applied { index, outcome: applied.outcome.clone(), root: applied.root, placed, recorded });
        if index > 0 && index.is_multiple_of(self.genesis.checkpoint_entries) {
            let due = Due {
                view: self.store.view(),
                last_log_id: entry.log_id,
                membership: self.membership.clone(),
                root: applied.root,
            };
            *self.due.lock().map_err(|_| io::Error::other("a thread failed while it held a lock"))? = Some(due);
            self.tell(Event::CheckpointDue);
        }
        Ok(applied.outcome)
    }

    fn tell(&self, event: Event) {
        // Nobody listens while the node stops.
        let _ = self.events.send(event);
    }
}

/// By rules that this program does not know nothing is applied: it would have another state than its peers.
fn check_rules(tables: &impl Tables, known: u32) -> io::Result<()> {
    let version = records::cluster(tables).map_err(io_fault)?.state_version;
    if version <= known {
        return Ok(());
    }
    let message = format!(
        "the cluster is at state version {version}, and this release knows {known} at most: install a newer release"
    );
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// The request whose outcome is among the writes of an entry: one at most.
fn recorded(writes: &OrderedWrites) -> Option<RequestName> {
    let (key, _) = writes.iter().find(|(key, value)| value.is_some() && key.starts_with(schema::REQUESTS))?;
    let mut fields = Reader::new(key.get(schema::REQUESTS.len()..)?);
    Some((PublicKey::take(&mut fields).ok()?, RequestId::take(&mut fields).ok()?))
}

/// Who votes by a membership of Raft that is no joint configuration.
fn uniform(membership: &openraft::Membership<u64, openraft::EmptyNode>) -> Option<BTreeSet<NodeId>> {
    match membership.get_joint_config().as_slice() {
        [one] => one.iter().map(|id| u16::try_from(*id).ok().and_then(NodeId::new)).collect(),
        _ => None,
    }
}

impl<C: NodeTypes, S: Store> RaftStateMachine<C> for StateMachine<S> {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Builder<S>;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembershipOf<C>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Entries>(&mut self, mut entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<C>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.apply_entry(&entry)?;
            if let Some(responder) = responder {
                responder.send(OutcomeBytes(encode(&outcome)));
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder<S>> {
        let waiting = self.due.lock().is_ok_and(|due| due.is_some());
        (waiting || force).then(|| self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<S> {
        self.builder()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<C>, snapshot: SnapshotHandle) -> io::Result<()> {
        let SnapshotHandle { shelf, checkpoint } = snapshot;
        let index = checkpoint.last_log_id.index;
        let checkpoints = Checkpoints::new(self.store.clone());
        check_rules(&checkpoints.cluster_row(shelf, index, checkpoint.chunks).map_err(io_fault)?, self.known)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        if shelf == Shelf::Incoming {
            for number in 0..checkpoint.chunks {
                let chunk = checkpoints.chunk(shelf, index, number).map_err(io_fault)?;
                checkpoints.put_chunk(Shelf::Current, index, number, &chunk).map_err(io_fault)?;
            }
        }
        let position = self.position()?;
        self.generation.fetch_add(1, Ordering::AcqRel);
        let installed = checkpoints.install(Shelf::Current, index, checkpoint.chunks, vec![position]);
        self.generation.fetch_add(1, Ordering::AcqRel);
        installed.map_err(io_fault)?;
        checkpoints.set_current(&checkpoint)?;
        checkpoints.clear_incoming().map_err(io_fault)?;
        self.store.sync().await.map_err(io_fault)?;
        self.tell(Event::Installed { index });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<C, SnapshotHandle>>> {
        let current = Checkpoints::new(self.store.clone()).current()?;
        Ok(current.map(|checkpoint| SnapshotOf::<C, SnapshotHandle> {
            meta: checkpoint.meta::<C>(),
            snapshot: SnapshotHandle { shelf: Shelf::Current, checkpoint },
        }))
    }
}

impl<S: Store> StateMachine<S> {
    fn builder(&self) -> Builder<S> {
        Builder { store: self.store.clone(), due: Arc::clone(&self.due), events: self.events.clone() }
    }
}

/// Makes the checkpoint that is due.
pub struct Builder<S: Store> {
    store: S,
    due: Arc<Mutex<Option<Due<S>>>>,
    events: UnboundedSender<Event>,
}

impl<S: Store> Builder<S> {
    fn build(&self, due: &Due<S>) -> Result<(Checkpoint, Head), StoreFault> {
        let index = due.last_log_id.index;
        let (digest, chunks) = Checkpoints::new(self.store.clone()).write(&due.view, index)?;
        let membership = records::cluster(&due.view)?.membership;
        let head = Head { index, root: due.root, membership, state: Some(digest) };
        Ok((Checkpoint::new(due.last_log_id, due.membership.clone(), &head, chunks), head))
    }
}

impl<C: NodeTypes, S: Store> RaftSnapshotBuilder<C> for Builder<S> {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<C, SnapshotHandle>> {
        let due = self.due.lock().map_err(|_| io::Error::other("a thread failed while it held a lock"))?.take();
        let checkpoints = Checkpoints::new(self.store.clone());
        let checkpoint = match due {
            Some(due) => {
                let (checkpoint, head) = self.build(&due).map_err(io_fault)?;
                checkpoints.set_current(&checkpoint)?;
                self.store.sync().await.map_err(io_fault)?;
                let _ = self.events.send(Event::CheckpointMade(head));
                checkpoint
            }
            // Asked although none is due: the last one is still the newest that can be.
            None => checkpoints.current()?.ok_or_else(|| io::Error::other("no checkpoint has been made yet"))?,
        };
        Ok(SnapshotOf::<C, SnapshotHandle> {
            meta: checkpoint.meta::<C>(),
            snapshot: SnapshotHandle { shelf: Shelf::Current, checkpoint },
        })
    }
}
