//! The nodes of the simulation: founded once, started, crashed, and started again from bytes.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use symbolon_node::core::Parts;
use symbolon_node::core::start::open_store;
use symbolon_node::core::types::Timing;
use symbolon_protocol::genesis::{Genesis, Member, MemberRole};
use symbolon_protocol::history;
use symbolon_protocol::id::{Digest, Name, NodeId};
use symbolon_protocol::identity::Identity;
use symbolon_protocol::state::records;
use tokio::time::{Instant, sleep, timeout};

use super::network::SimNetwork;
use super::store::{Image, SimStore};
use super::surroundings::{SharedRng, SimSurroundings, clock_ms};
use super::trace::Trace;
use super::types::{Life, SimCore, SimRuntime, derive, derive_number};
use super::vault::SimVault;

/// Voters of the cluster.
const VOTERS: u16 = 3;
/// Entries between two checkpoints: as few as genesis allows, so that a short run makes some.
const CHECKPOINT_ENTRIES: u64 = 16;
/// Longest wait for one thing, virtual time.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// Largest usage log, bytes.
const USAGE_BYTES: u64 = 64 << 20;

/// What a boot of a node leaves behind; nothing for a new node.
#[derive(Default)]
pub struct Remains {
    disk: Image,
    slots: Vec<u8>,
}

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
    /// Boots of each node so far.
    boots: BTreeMap<NodeId, u64>,
    /// Those that run.
    nodes: BTreeMap<NodeId, Node>,
    /// Decides what a crash leaves behind.
    chance: SharedRng,
}

fn member(id: NodeId, identity: &Identity) -> Result<Member, String> {
    Ok(Member {
        name: Name::new(&format!("node{id}")).map_err(|e| e.to_string())?,
        key: identity.public(),
        peer_address: format!("node{id}:7000"),
        client_address: format!("node{id}:7001"),
        zone: String::new(),
        role: MemberRole::Voter,
    })
}

impl Cluster {
    /// Writes genesis: all nodes are voters, and there is one administrator. Nothing runs yet.
    ///
    /// # Errors
    /// When genesis would not be valid.
    pub fn found(seed: u64, administrator: &Identity) -> Result<Self, String> {
        let trace = Trace::begin();
        let mut members = BTreeMap::new();
        let mut identities = BTreeMap::new();
        for id in (1..=VOTERS).filter_map(NodeId::new) {
            let secret = derive(seed, "node identity", &[u64::from(id.get())]);
            members.insert(id, member(id, &Identity::from_seed(&secret))?);
            identities.insert(id, secret);
        }
        let name = |text: &str| Name::new(text).map_err(|e| e.to_string());
        let genesis = Genesis {
            name: name("simulated")?,
            members,
            administrators: BTreeMap::from([(name("administrator")?, administrator.public())]),
            checkpoint_entries: CHECKPOINT_ENTRIES,
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
            boots: BTreeMap::new(),
            nodes: BTreeMap::new(),
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
    pub fn cores(&self) -> impl Iterator<Item = (NodeId, &SimCore)> {
        self.nodes.iter().map(|(id, node)| (*id, &node.core))
    }

    /// A node that runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn core(&self, id: NodeId) -> Result<&SimCore, String> {
        self.nodes.get(&id).map(|node| &node.core).ok_or_else(|| format!("node {id} does not run"))
    }

    /// Starts a node from what an earlier boot left behind, and from nothing else.
    ///
    /// # Errors
    /// Why it does not start.
    pub async fn boot(&mut self, me: NodeId, remains: Remains) -> Result<(), String> {
        let boots = self.boots.entry(me).or_insert(0);
        *boots += 1;
        let number = *boots;
        self.trace.note("boot", &me.get().to_be_bytes());
        let seed = derive_number(self.seed, "node runtime", &[u64::from(me.get()), number]);
        let opened = SimRuntime::scope(seed, self.open(me, number, remains)).await;
        let node = opened.map_err(|why| format!("node {me}, boot {number}: {why}"))?;
        self.network.join(me, Arc::new(node.core.clone()), node.life.clone());
        self.nodes.insert(me, node);
        Ok(())
    }

    async fn open(&self, me: NodeId, boots: u64, remains: Remains) -> Result<Node, String> {
        let rng = |label: &str| SharedRng::new(derive(self.seed, label, &[u64::from(me.get()), boots]));
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
            surroundings: SimSurroundings::new(self.trace.origin(), rng("node")),
            vault: Box::new(vault.clone()),
            timing: Timing::default(),
            usage_bytes: USAGE_BYTES,
        };
        let core = SimCore::start(parts).await?;
        Ok(Node { core, store, vault, life })
    }

    /// Ends a boot at one instant: nothing that still runs for it can write, send or be asked any more.
    ///
    /// # Errors
    /// When the node did not run, or its Raft does not end.
    pub async fn crash(&mut self, me: NodeId) -> Result<Remains, String> {
        let node = self.nodes.remove(&me).ok_or_else(|| format!("node {me} does not run"))?;
        node.life.end();
        let remains = Remains { disk: node.store.crash(&self.chance), slots: node.vault.to_bytes() };
        self.trace.note("crash", &[&me.get().to_be_bytes()[..], &remains.disk.digest()].concat());
        for other in self.members().into_iter().filter(|other| *other != me) {
            self.network.cut(me, other);
        }
        self.within("the end of a crashed node's Raft", node.core.shutdown()).await?;
        Ok(remains)
    }

    /// Starts a crashed node again.
    ///
    /// # Errors
    /// Why it does not start.
    pub async fn restart(&mut self, me: NodeId, remains: Remains) -> Result<(), String> {
        for other in self.members().into_iter().filter(|other| *other != me) {
            self.network.mend(me, other);
        }
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

    /// No node that runs may stop by itself.
    fn check_running(&self) -> Result<(), String> {
        let stopped = self.cores().find_map(|(id, core)| Some((id, core.failed().now_or_never()?)));
        match stopped {
            Some((id, why)) => Err(format!("node {id} stopped by itself: {why}")),
            None => Ok(()),
        }
    }

    fn describe(&self) -> String {
        let number = |n: Option<u64>| n.map_or_else(|| "nothing".to_owned(), |n| n.to_string());
        let nodes: Vec<String> = self
            .cores()
            .map(|(id, core)| {
                let leader = core.leader().map(|leader| u64::from(leader.get()));
                format!("node {id}: applied {}, leader {}", number(core.applied_index()), number(leader))
            })
            .collect();
        nodes.join("; ")
    }

    /// Whether the cluster has started, and all nodes that run follow one leader and hear each other.
    ///
    /// # Errors
    /// When a store fails.
    pub fn is_well(&self) -> Result<bool, String> {
        let leader = self.cores().find_map(|(_, core)| core.leader());
        let leads = leader.is_some_and(|leader| self.nodes.contains_key(&leader));
        for (_, core) in self.cores() {
            let started = records::cluster(&core.state_tables()).map_err(|e| e.to_string())?.started;
            let hears_all = self.cores().all(|(other, _)| core.is_reachable(other));
            if !leads || !started || !hears_all || core.leader() != leader {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The highest index that a running node applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.cores().filter_map(|(_, core)| core.applied_index()).max().unwrap_or(0)
    }

    /// Waits until all nodes that run have applied what one of them has.
    ///
    /// # Errors
    /// What was waited for in vain.
    pub async fn settle(&self) -> Result<(), String> {
        let index = self.applied();
        let reached = |core: &SimCore| core.applied_index().is_some_and(|at| at >= index);
        self.until("all nodes to have applied the same", |cluster| Ok(cluster.cores().all(|(_, core)| reached(core))))
            .await
    }

    /// Compares the roots of the one history at every index that all nodes that run have applied.
    ///
    /// # Errors
    /// The first index at which two nodes differ, or at which one has no root.
    pub fn compare_histories(&self) -> Result<(), String> {
        let lowest = self.cores().map(|(_, core)| core.applied_index()).min().flatten();
        let lowest = lowest.ok_or("a node has applied nothing")?;
        let mut root: Option<Digest> = None;
        for index in 0..=lowest {
            root = None;
            for (id, core) in self.cores() {
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
