//! The core of a node: what it does, over whatever runtime, transport, store and clock it is given.
//!
//! symbolond runs it on tokio, gRPC over TLS and RocksDB; the simulator on a deterministic runtime, an in-memory network and a
//! store that loses what was not synced. Everything that is decided is decided in `symbolon-protocol`.
//!
//! - [`raft_log`], [`raft_state`], [`checkpoint`], [`raft_net`], [`door`], `incoming`: Raft and what is checked before it.
//! - [`propose`]: getting entries ordered, and reading what is certainly current.
//! - [`members`]: who belongs to the cluster, and how Raft follows.
//! - [`answer`]: what this node answers its peers; [`start`]: the start rule; [`boots`]: who came back from the past.
//! - [`reconcile`]: making this node's own part of the replicated state true; [`ceremony`]: one attempt of a generation.
//! - [`signing`], [`usage`], [`blames`]: how a signature comes about, the log of it, and what is proved against others.
//! - [`lease`], [`barrier`]: knowing that one's state is current, and taking rights away.
//! - [`request`]: what clients are answered.
//! - [`vitals`]: how the node is; [`doctor`] judges it, [`series`] shows it to Prometheus.

pub mod answer;
pub mod barrier;
pub mod blames;
pub mod boots;
pub mod ceremony;
pub mod checkpoint;
pub mod doctor;
pub mod door;
pub(crate) mod incoming;
pub mod lease;
pub mod members;
pub mod operations;
pub mod propose;
pub mod raft_log;
pub mod raft_net;
pub mod raft_state;
pub mod reconcile;
pub mod redistribution;
pub mod request;
pub mod series;
pub mod shares;
pub mod signing;
pub mod start;
pub mod types;
pub mod usage;
pub mod vitals;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::type_config::TypeConfigExt as _;
use openraft::{Config, Raft, SnapshotPolicy};
use symbolon_protocol::contribute::Standing;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::genesis::{Genesis, MemberRole};
use symbolon_protocol::id::{BootId, ClusterId, Digest, KeyId, KeyVersion, NodeId, OperationId};
use symbolon_protocol::identity::{Identity, PublicKey};
use symbolon_protocol::membership::Followed;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::sign::arithmetic::Backend;
use symbolon_protocol::sign::holder::Holder;
use symbolon_protocol::state::view::OperationPhase;
use symbolon_protocol::table::StoreFault;
use tokio::sync::{mpsc, watch};

use crate::metrics::Counters;
use crate::store::{StateTables, Store};
use blames::Blames;
use ceremony::Said;
use members::Membership;
use raft_log::RaftLog;
use raft_net::RaftNetwork;
use raft_state::{Event, StateMachine};
use signing::LoadedKey;
use types::{NodeTypes, Surroundings, Timing, Transport, Vault};
use usage::UsageLog;
use vitals::{Heard, KeptKeys};

/// What a node is made of.
pub struct Parts<T, S, E> {
    /// Its number.
    pub me: NodeId,
    /// Its identity.
    pub identity: Identity,
    /// The founding document.
    pub genesis: Arc<Genesis>,
    /// This start.
    pub boot: BootId,
    /// Where it keeps things.
    pub store: S,
    /// The way to its peers.
    pub transport: T,
    /// Clock, entropy, and the machine.
    pub surroundings: E,
    /// Where its shares rest.
    pub vault: Box<dyn Vault>,
    /// Time limits.
    pub timing: Timing,
    /// Largest usage log, bytes.
    pub usage_bytes: u64,
    /// What computes signature shares and signatures.
    pub backend: Backend,
    /// The highest state version by whose rules this program can apply.
    pub state_version: u32,
}

/// A node.
pub struct Core<C: NodeTypes, T: Transport, S: Store, E: Surroundings>(Arc<Inner<C, T, S, E>>);

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Clone for Core<C, T, S, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// By client and key: the generation of the state in which it was looked up, and what was found.
type Standings = BTreeMap<([u8; 32], Option<KeyId>), (u64, Arc<Standing>)>;

pub(crate) struct Inner<C: NodeTypes, T, S: Store, E> {
    pub(crate) me: NodeId,
    pub(crate) identity: Arc<Identity>,
    pub(crate) genesis: Arc<Genesis>,
    /// Who is a member, as far as this node knows.
    pub(crate) membership: Mutex<Arc<Membership>>,
    /// Changes of the membership that lead, or led, further than the replicated state.
    pub(crate) chain: Mutex<Option<Followed>>,
    /// Peers that are asked how they are.
    pub(crate) watched: Mutex<BTreeSet<NodeId>>,
    /// When a node without a leader last asked who the members are, milliseconds since 1970.
    pub(crate) asked_for_members: AtomicU64,
    pub(crate) cluster: ClusterId,
    pub(crate) boot: BootId,
    /// The highest state version by whose rules this program can apply.
    pub(crate) state_version: u32,
    pub(crate) store: S,
    pub(crate) transport: T,
    pub(crate) surroundings: E,
    pub(crate) vault: Box<dyn Vault>,
    pub(crate) timing: Timing,
    pub(crate) raft: Raft<C, StateMachine<S>>,
    pub(crate) log: RaftLog<S>,
    /// What was applied so far; none before the first entry.
    pub(crate) applied: watch::Sender<Option<u64>>,
    /// Wakes the reconciler.
    pub(crate) wake: tokio::sync::Notify,
    /// Attempts begin or end.
    pub(crate) began: tokio::sync::Notify,
    /// What peers said of themselves, and when.
    pub(crate) heard: Mutex<BTreeMap<NodeId, Heard<C>>>,
    /// Attempts that run here, by ceremony digest.
    pub(crate) ceremonies: Mutex<BTreeMap<Digest, (OperationId, mpsc::Sender<Said>)>>,
    /// Messages of attempts that this node has not heard of yet.
    pub(crate) early: Mutex<VecDeque<Said>>,
    /// Redistributions that run here.
    pub(crate) moves: Mutex<redistribution::Moves>,
    /// Subshares of redistributions that this node has not heard of yet.
    pub(crate) early_subshares: Mutex<VecDeque<redistribution::Early>>,
    /// Versions of which this node may lack a usable share, and when it may next ask for one, milliseconds since 1970.
    pub(crate) needs: Mutex<BTreeMap<(KeyId, KeyVersion), u64>>,
    /// How far generations are in which this node takes part, by ceremony digest.
    pub(crate) progress: Mutex<BTreeMap<Digest, (OperationPhase, BTreeSet<NodeId>)>>,
    /// Votes of this node that are being ordered or were taken, and when it began to ask, boot time in milliseconds.
    pub(crate) votes: Mutex<BTreeMap<Digest, u64>>,
    /// When shares of attempts that failed were last looked for, boot time in milliseconds; 0 before the first time.
    pub(crate) orphans_ms: AtomicU64,
    /// Versions whose activation this node has yet to witness.
    pub(crate) owed: Mutex<BTreeSet<(KeyId, KeyVersion)>>,
    /// What computes signature shares and signatures.
    pub(crate) backend: Backend,
    /// The signing side of a holder.
    pub(crate) holder: Mutex<Holder>,
    /// Keys as the signing path needs them; emptied whenever the state changes.
    pub(crate) keys: Mutex<BTreeMap<KeyId, Arc<LoadedKey>>>,
    /// What the state said of clients and keys, each under the generation in which it was looked up.
    pub(crate) standings: Mutex<Standings>,
    /// Generation of the state.
    pub(crate) generation: Arc<AtomicU64>,
    /// The operation that was looked at last, to take part in it, and by the leader, to end it: the next ones come next.
    pub(crate) joined: Mutex<Option<OperationId>>,
    pub(crate) expired: Mutex<Option<OperationId>>,
    /// What refused requests are told.
    pub(crate) words: Mutex<words::Words>,
    pub(crate) usage: UsageLog<S>,
    /// The freshness lease.
    pub(crate) keeper: lease::Keeper,
    /// What takes rights away, and how far that is.
    pub(crate) barriers: barrier::Barriers,
    pub(crate) blames: Blames<S>,
    /// What is counted.
    pub(crate) counters: Counters,
    /// Keys as their margins need them; looked up again when the state has changed and somebody asks.
    pub(crate) kept: Mutex<Arc<KeptKeys>>,
    /// When the leader was last asked on behalf of a client that this node does not know.
    pub(crate) asked_for_stranger: AtomicU64,
    /// Whether Raft messages are accepted: the store is the certified one.
    pub(crate) admitted: AtomicBool,
    /// The version of the membership to which this node moves Raft as the leader, and since when, milliseconds.
    pub(crate) moving: Mutex<(u64, u64)>,
    /// Whether too few voters answer this node or share its time: then it does not lead.
    pub(crate) unfollowed: AtomicBool,
    /// An incoming checkpoint.
    pub(crate) incoming: Mutex<Option<incoming::Incoming>>,
    /// Why the node must stop.
    pub(crate) fatal: watch::Sender<Option<String>>,
}

/// A lock whose holder failed protects nothing that a later reader could not use.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// Starts a node: Raft on its store, then its own tasks. It answers peers once [`answer`] is served.
    ///
    /// # Errors
    /// What the operator should know: the store fails, or its content is not this node's.
    pub async fn start(parts: Parts<T, S, E>) -> Result<Self, String> {
        let (events, happened) = mpsc::unbounded_channel();
        let store = parts.store.clone();
        let generation = Arc::new(AtomicU64::new(0));
        let genesis = Arc::clone(&parts.genesis);
        let machine = StateMachine::open(store.clone(), genesis, events, Arc::clone(&generation), parts.state_version);
        let machine = machine.map_err(|e| e.to_string())?;
        let applied = machine.applied_index();
        let membership = Membership::read(&StateTables(store.clone())).map_err(|e| e.to_string())?;
        let log = RaftLog::new(store.clone());
        let cluster = parts.genesis.cluster_id();
        let keeper = lease::Keeper::open::<C, S>(parts.me, cluster, &store, log.clone()).await?;
        // Before anything runs here: no share is staged meanwhile, and no erasure is vouched for.
        shares::erase_lone_slots(&store, parts.vault.as_ref()).await?;
        let voters = parts.genesis.voters().len();
        let append = parts.timing.heartbeat * 4;
        let network = RaftNetwork::new(parts.me, parts.transport.clone(), store.clone(), voters, append);
        let id = u64::from(parts.me.get());
        let config = Arc::new(raft_config(&parts)?);
        let raft = Raft::<C, _>::new(id, config, network, log.clone(), machine).await.map_err(|e| e.to_string())?;
        let usage = UsageLog::open(store.clone(), parts.usage_bytes).map_err(|e| e.to_string())?;
        let blames = Blames::new(store.clone());
        let counters = Counters::new(parts.surroundings.now_ms());
        let inner = Inner {
            me: parts.me,
            identity: Arc::new(parts.identity),
            cluster,
            backend: parts.backend,
            holder: Mutex::new(Holder::new(parts.boot)),
            membership: Mutex::new(Arc::new(membership)),
            chain: Mutex::default(),
            watched: Mutex::default(),
            asked_for_members: AtomicU64::new(0),
            genesis: parts.genesis,
            boot: parts.boot,
            state_version: parts.state_version,
            store,
            transport: parts.transport,
            surroundings: parts.surroundings,
            vault: parts.vault,
            timing: parts.timing,
            raft,
            log,
            applied: watch::Sender::new(applied),
            wake: tokio::sync::Notify::new(),
            began: tokio::sync::Notify::new(),
            heard: Mutex::new(BTreeMap::new()),
            ceremonies: Mutex::new(BTreeMap::new()),
            early: Mutex::new(VecDeque::new()),
            moves: Mutex::new(BTreeMap::new()),
            early_subshares: Mutex::new(VecDeque::new()),
            needs: Mutex::new(BTreeMap::new()),
            progress: Mutex::new(BTreeMap::new()),
            votes: Mutex::default(),
            orphans_ms: AtomicU64::new(0),
            owed: Mutex::new(BTreeSet::new()),
            keys: Mutex::new(BTreeMap::new()),
            standings: Mutex::new(BTreeMap::new()),
            generation,
            joined: Mutex::default(),
            expired: Mutex::default(),
            words: Mutex::default(),
            usage,
            keeper,
            barriers: barrier::Barriers::default(),
            blames,
            counters,
            kept: Mutex::default(),
            asked_for_stranger: AtomicU64::new(0),
            admitted: AtomicBool::new(false),
            moving: Mutex::default(),
            unfollowed: AtomicBool::new(false),
            incoming: Mutex::new(None),
            fatal: watch::Sender::new(None),
        };
        let core = Self(Arc::new(inner));
        core.follow_membership().map_err(|e| e.to_string())?;
        core.find_owed().map_err(|e| e.to_string())?;
        core.measure_keys().map_err(|e| e.to_string())?;
        let _task = C::spawn(core.clone().follow_events(happened));
        let _task = C::spawn(core.clone().keep_fresh());
        let _task = C::spawn(core.clone().join_for_ever());
        let _task = C::spawn(core.clone().reconcile_for_ever());
        let _task = C::spawn(core.clone().found_cluster());
        let _task = C::spawn(core.clone().sweep_nonces());
        Ok(core)
    }

    /// The node's number.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.0.me
    }

    /// Completes when the node must stop, with the reason.
    pub async fn failed(&self) -> String {
        let mut fatal = self.0.fatal.subscribe();
        let mut running = self.0.raft.metrics();
        loop {
            let reason = fatal.borrow_and_update().clone();
            if let Some(reason) = reason {
                return reason;
            }
            if let Err(stopped) = raft_running(&self.0.raft) {
                return stopped;
            }
            use openraft::async_runtime::WatchReceiver as _;
            let changed = std::pin::pin!(fatal.changed());
            let metrics = std::pin::pin!(running.changed());
            futures::future::select(changed, metrics).await;
        }
    }

    /// Stops Raft. The tasks end with the runtime.
    pub async fn shutdown(&self) {
        let _ = self.0.raft.shutdown().await;
    }

    /// What was applied so far.
    #[must_use]
    pub fn applied_index(&self) -> Option<u64> {
        *self.0.applied.borrow()
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// What this node counts.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// The node's clock, milliseconds since 1970.
    #[must_use]
    pub fn clock_ms(&self) -> u64 {
        self.now_ms()
    }

    /// The replicated tables, to read.
    #[must_use]
    pub fn state_tables(&self) -> StateTables<S> {
        self.tables()
    }

    pub(crate) fn tables(&self) -> StateTables<S> {
        StateTables(self.0.store.clone())
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.0.surroundings.now_ms()
    }

    /// The store failed: nothing that this node would say from now on can be trusted, so it stops.
    pub(crate) fn fail(&self, fault: &StoreFault) -> Refusal {
        self.stop(format!("node {} stops: {fault}", self.0.me));
        Refusal::new(ErrorCode::StorageFailed, format!("node {} cannot use its store and stops", self.0.me))
    }

    pub(crate) fn stop(&self, reason: String) {
        tracing::error!(%reason, "the node stops on purpose");
        self.0.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                *fatal = Some(reason);
            }
            first
        });
    }

    /// Who is a member, by what was applied here.
    pub(crate) fn membership(&self) -> Arc<Membership> {
        Arc::clone(&lock(&self.0.membership))
    }

    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        self.membership().voters()
    }

    pub(crate) fn member_key(&self, node: NodeId) -> Option<PublicKey> {
        self.membership().members.get(&node).map(|member| member.key)
    }

    pub(crate) fn others(&self) -> Vec<NodeId> {
        self.membership().members.keys().copied().filter(|id| *id != self.0.me).collect()
    }

    /// Name of a node, for messages to people.
    pub(crate) fn name_of(&self, node: NodeId) -> String {
        self.membership().members.get(&node).map_or_else(|| format!("node {node}"), |member| member.name.to_string())
    }

    pub(crate) fn is_voter(&self, node: NodeId) -> bool {
        self.membership().members.get(&node).is_some_and(|member| member.role == MemberRole::Voter)
    }

    /// Takes what the state machine tells, in order.
    async fn follow_events(self, mut happened: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = happened.recv().await {
            match event {
                Event::Applied { index, outcome, placed, recorded, .. } => {
                    // Before anybody hears of the index.
                    placed.into_iter().for_each(|placed| self.remember_placed(placed));
                    if let (Outcome::Refused(refusal), Some(request)) = (&outcome, recorded) {
                        lock(&self.0.words).note(request, refusal);
                    }
                    self.note_applied(index, &outcome);
                    self.lease_applied(index, Some((&outcome, recorded)));
                }
                Event::Installed { index } => {
                    tracing::info!(index, "a checkpoint was taken in place of a log that is gone");
                    lock(&self.0.keys).clear();
                    self.0.applied.send_replace(Some(index));
                    self.lease_applied(index, None);
                    if let Err(fault) = self.follow_membership().and_then(|()| self.find_owed()) {
                        self.fail(&fault);
                    }
                    self.0.wake.notify_one();
                }
                Event::CheckpointDue => {
                    // A refusal means that Raft stops; then somebody else says so.
                    let _ = self.0.raft.trigger().snapshot().await;
                }
                Event::CheckpointMade(head) => {
                    if let Err(fault) = self.sign_checkpoint(&head) {
                        self.fail(&fault);
                    }
                }
            }
        }
    }
}

fn raft_config<T, S, E>(parts: &Parts<T, S, E>) -> Result<Config, String> {
    let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: parts.genesis.name.to_string(),
        heartbeat_interval: ms(parts.timing.heartbeat),
        election_timeout_min: ms(parts.timing.election),
        election_timeout_max: ms(parts.timing.election) * 2,
        install_snapshot_timeout: 10_000,
        // Checkpoints lie at fixed indices, so that all nodes sign the same ones.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: parts.genesis.checkpoint_entries,
        enable_pre_vote: Some(true),
        ..Config::default()
    };
    config.validate().map_err(|e| e.to_string())
}

fn raft_running<C: NodeTypes, S: Store>(raft: &Raft<C, StateMachine<S>>) -> Result<(), String> {
    use openraft::async_runtime::WatchReceiver as _;
    raft.metrics().borrow_watched().running_state.clone().map_err(|e| format!("Raft stopped: {e}"))
}
