//! The nodes of the simulation: founded once, started, crashed, and started again from bytes.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use symbolon_node::core::Parts;
use symbolon_node::core::start::open_store;
use symbolon_node::core::types::Timing;
use symbolon_node::store::{Column, Store as _};
use symbolon_protocol::genesis::{Genesis, Member, MemberRole};
use symbolon_protocol::history;
use symbolon_protocol::id::{Digest, Name, NodeId};
use symbolon_protocol::identity::Identity;
use symbolon_protocol::sign::arithmetic::Backend;
use symbolon_protocol::state::records;
use tokio::time::{Instant, sleep, timeout};

use super::network::SimNetwork;
use super::store::{Image, SimStore};
use super::surroundings::{Clock, SharedRng, SimSurroundings, clock_ms};
use super::trace::Trace;
use super::types::{Life, SimCore, SimRuntime, derive, derive_number, lock};
use super::vault::SimVault;

/// Longest wait for one thing, virtual time.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// Largest usage log, bytes.
const USAGE_BYTES: u64 = 64 << 20;
/// What the keys of Raft's entries begin with, in the column of Raft; the index follows.
const RAFT_ENTRIES: &[u8] = b"l";

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Members that vote; they have the lowest numbers.
    pub voters: u16,
    /// Members that follow the log.
    pub learners: u16,
    /// Entries between two checkpoints.
    pub checkpoint_entries: u64,
}

impl Shape {
    /// So many voters, and as few entries between two checkpoints as genesis allows: then a short run makes some.
    #[must_use]
    pub const fn of(voters: u16) -> Self {
        Self { voters, learners: 0, checkpoint_entries: 16 }
    }
}

/// What a boot of a node leaves behind; nothing for a new node.
#[derive(Default)]
pub struct Remains {
    disk: Image,
    slots: Vec<u8>,
}

/// With what a node is started.
#[derive(Clone, Copy)]
struct Machine {
    /// The highest state version that the program on it knows.
    state_version: u32,
    clock: Clock,
}

/// A node that runs; clones are handles to the same one.
#[derive(Clone)]
struct Node {
    core: SimCore,
    store: SimStore,
    vault: SimVault,
    life: Life,
}

/// The cluster.
pub struct Cluster {
    seed: u64,
    trace: Trace,
    network: SimNetwork,
    genesis: Arc<Genesis>,
    /// Seeds of the node identities.
    identities: BTreeMap<NodeId, [u8; 32]>,
    machines: Mutex<BTreeMap<NodeId, Machine>>,
    /// Boots of each node so far.
    boots: Mutex<BTreeMap<NodeId, u64>>,
    /// Those that run.
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    /// Decides what a crash leaves behind.
    chance: SharedRng,
}

fn member(id: NodeId, identity: &Identity, role: MemberRole) -> Result<Member, String> {
    Ok(Member {
        name: Name::new(&format!("node{id}")).map_err(|e| e.to_string())?,
        key: identity.public(),
        peer_address: format!("node{id}:7000"),
        client_address: format!("node{id}:7001"),
        zone: String::new(),
        role,
    })
}

impl Cluster {
    /// Writes genesis, with one administrator. Nothing runs yet.
    ///
    /// # Errors
    /// When genesis would not be valid.
    pub fn found(seed: u64, administrator: &Identity, shape: Shape) -> Result<Self, String> {
        let trace = Trace::begin();
        let (mut members, mut identities, mut machines) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for number in 1..=shape.voters.saturating_add(shape.learners) {
            let Some(id) = NodeId::new(number) else { continue };
            let secret = derive(seed, "node identity", &[u64::from(number)]);
            let role = if number <= shape.voters { MemberRole::Voter } else { MemberRole::Learner };
            members.insert(id, member(id, &Identity::from_seed(&secret), role)?);
            identities.insert(id, secret);
            machines.insert(id, Machine { state_version: records::STATE_VERSION, clock: Clock::TRUE });
        }
        let name = |text: &str| Name::new(text).map_err(|e| e.to_string());
        let genesis = Genesis {
            name: name("simulated")?,
            members,
            administrators: BTreeMap::from([(name("administrator")?, administrator.public())]),
            checkpoint_entries: shape.checkpoint_entries,
            salt: SharedRng::new(derive(seed, "salt", &[])).bytes(),
        };
        genesis.check().map_err(|e| e.to_string())?;
        Ok(Self {
            seed,
            network: SimNetwork::new(SharedRng::new(derive(seed, "network", &[])), trace.clone()),
            chance: SharedRng::new(derive(seed, "crash", &[])),
            trace,
            genesis: Arc::new(genesis),
            identities,
            machines: Mutex::new(machines),
            boots: Mutex::default(),
            nodes: Mutex::default(),
        })
    }

    /// The founding document.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The trace.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &SimNetwork {
        &self.network
    }

    /// Virtual time, milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        clock_ms(self.trace.origin())
    }

    /// All members, running or not.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        self.identities.keys().copied().collect()
    }

    /// The nodes that run.
    #[must_use]
    pub fn cores(&self) -> Vec<(NodeId, SimCore)> {
        lock(&self.nodes).iter().map(|(id, node)| (*id, node.core.clone())).collect()
    }

    fn node(&self, id: NodeId) -> Result<Node, String> {
        lock(&self.nodes).get(&id).cloned().ok_or_else(|| format!("node {id} does not run"))
    }

    /// A node that runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn core(&self, id: NodeId) -> Result<SimCore, String> {
        Ok(self.node(id)?.core)
    }

    /// Puts a program on a machine that knows a state version; it runs from the next boot on.
    pub fn install(&self, me: NodeId, state_version: u32) {
        lock(&self.machines).entry(me).and_modify(|machine| machine.state_version = state_version);
    }

    /// Gives a machine a clock, from the next boot on.
    pub fn set_clock(&self, me: NodeId, clock: Clock) {
        lock(&self.machines).entry(me).and_modify(|machine| machine.clock = clock);
    }

    /// Starts a node from what an earlier boot left behind, and from nothing else.
    ///
    /// # Errors
    /// Why it does not start.
    pub async fn boot(&self, me: NodeId, remains: Remains) -> Result<(), String> {
        let number = {
            let mut boots = lock(&self.boots);
            let boots = boots.entry(me).or_insert(0);
            *boots += 1;
            *boots
        };
        self.trace.note("boot", &me.get().to_be_bytes());
        let seed = derive_number(self.seed, "node runtime", &[u64::from(me.get()), number]);
        let opened = SimRuntime::scope(seed, self.open(me, number, remains)).await;
        let node = opened.map_err(|why| format!("node {me}, boot {number}: {why}"))?;
        self.network.join(me, Arc::new(node.core.clone()), node.life.clone());
        lock(&self.nodes).insert(me, node);
        Ok(())
    }

    /// Starts all members as new nodes, in this order, and waits until they are a cluster.
    ///
    /// # Errors
    /// Why one does not start, or what was waited for in vain.
    pub async fn start(&self, order: &[NodeId]) -> Result<(), String> {
        for me in order {
            self.boot(*me, Remains::default()).await?;
        }
        self.until("the cluster to start", Self::is_well).await
    }

    async fn open(&self, me: NodeId, boots: u64, remains: Remains) -> Result<Node, String> {
        let rng = |label: &str| SharedRng::new(derive(self.seed, label, &[u64::from(me.get()), boots]));
        let machine = lock(&self.machines).get(&me).copied().ok_or("it is no member")?;
        let life = Life::begin();
        let store = SimStore::open(me, remains.disk, life.clone(), rng("disk"), self.trace.clone());
        let vault = SimVault::from_bytes(&remains.slots, life.clone(), rng("vault"))?;
        let boot = open_store(&store, self.genesis.cluster_id(), me, rng("boot").bytes()).await?;
        let secret = self.identities.get(&me).ok_or("it is no member")?;
        let parts = Parts {
            me,
            identity: Identity::from_seed(secret),
            genesis: Arc::clone(&self.genesis),
            boot,
            store: store.clone(),
            transport: self.network.attach(me, boot, life.clone()),
            surroundings: SimSurroundings::new(self.trace.origin(), machine.clock, rng("node")),
            vault: Box::new(vault.clone()),
            timing: Timing::default(),
            usage_bytes: USAGE_BYTES,
            backend: Backend::default(),
            state_version: machine.state_version,
        };
        let core = SimCore::start(parts).await?;
        Ok(Node { core, store, vault, life })
    }

    /// Ends boots at one instant: nothing that still runs for them can write, send or be asked any more.
    ///
    /// # Errors
    /// When a node did not run, or its Raft does not end.
    pub async fn crash_all(&self, victims: &[NodeId]) -> Result<BTreeMap<NodeId, Remains>, String> {
        let (mut left, mut ended) = (BTreeMap::new(), Vec::new());
        for me in victims {
            let node = self.node(*me)?;
            lock(&self.nodes).remove(me);
            node.life.end();
            let remains = Remains { disk: node.store.crash(&self.chance), slots: node.vault.to_bytes() };
            self.trace.note("crash", &[&me.get().to_be_bytes()[..], &remains.disk.digest()].concat());
            self.network.darken(*me);
            left.insert(*me, remains);
            ended.push(node.core);
        }
        for core in ended {
            self.within("the end of a crashed node's Raft", core.shutdown()).await?;
        }
        Ok(left)
    }

    /// Ends one boot.
    ///
    /// # Errors
    /// As [`Cluster::crash_all`].
    pub async fn crash(&self, me: NodeId) -> Result<Remains, String> {
        let left = self.crash_all(&[me]).await?.remove(&me);
        left.ok_or_else(|| format!("node {me} left nothing behind"))
    }

    /// Starts a crashed node again.
    ///
    /// # Errors
    /// Why it does not start.
    pub async fn restart(&self, me: NodeId, remains: Remains) -> Result<(), String> {
        self.network.light(me);
        self.boot(me, remains).await
    }

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
        let answer = self.within("an answer", question(node.core)).await?;
        Ok(node.life.lasts().then_some(answer))
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

    /// The applied entries that lie in the log of a node, as they are stored, by index. Those before a checkpoint may be gone.
    ///
    /// # Errors
    /// When the node does not run, its store fails, or it has applied nothing.
    pub fn log(&self, on: NodeId) -> Result<BTreeMap<u64, Vec<u8>>, String> {
        let node = self.node(on)?;
        let applied = node.core.applied_index().ok_or_else(|| format!("node {on} has applied nothing"))?;
        let (mut entries, mut after) = (BTreeMap::new(), Vec::new());
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
