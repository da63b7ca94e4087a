//! The nodes of the simulation: founded, enrolled, started, crashed, and started again from bytes. `watch`: what is seen of them.

mod watch;

pub(crate) use watch::LOOK;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use symbolon_node::core::Parts;
use symbolon_node::core::start::{name_store, open_store};
use symbolon_node::core::types::Timing;
use symbolon_protocol::genesis::{Genesis, Member, MemberRole};
use symbolon_protocol::id::{Name, NodeId, StoreId};
use symbolon_protocol::identity::Identity;
use symbolon_protocol::membership::Followed;
use symbolon_protocol::sign::arithmetic::Backend;
use symbolon_protocol::state::records;

use super::network::{Seat, SimNetwork, SimTransport};
use super::pause::Gate;
use super::store::{Image, SimStore};
use super::surroundings::{Clock, Day, SharedRng, SimSurroundings, clock_ms};
use super::trace::Trace;
use super::types::{Life, SimCore, SimRuntime, derive, derive_number, lock};
use super::vault::SimVault;

/// Longest wait for one thing, virtual time.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Largest usage log, bytes.
const USAGE_BYTES: u64 = 64 << 20;

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
#[derive(Clone, Default)]
pub struct Remains {
    disk: Image,
    slots: Vec<u8>,
}

/// With what a node is started.
#[derive(Clone)]
struct Machine {
    /// Seed of the node's identity.
    secret: [u8; 32],
    /// The highest state version that the program on it knows.
    state_version: u32,
    clock: Clock,
    day: Day,
    /// The id of its store as it was enrolled, until the store is made.
    store: Option<StoreId>,
    /// How the membership came to have it in it.
    ticket: Option<Followed>,
    /// Whether it belongs to the cluster, by what the scenario did.
    is_member: bool,
}

/// A node that runs; clones are handles to the same one.
#[derive(Clone)]
struct Node {
    core: SimCore,
    store: SimStore,
    vault: SimVault,
    life: Life,
    gate: Gate,
    transport: SimTransport,
}

/// The cluster.
pub struct Cluster {
    seed: u64,
    trace: Trace,
    network: SimNetwork,
    genesis: Arc<Genesis>,
    machines: Mutex<BTreeMap<NodeId, Machine>>,
    /// Boots of each node so far.
    boots: Mutex<BTreeMap<NodeId, u64>>,
    /// Those that run.
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    /// Decides what a crash leaves behind.
    chance: SharedRng,
}

impl Machine {
    fn new(seed: u64, id: NodeId) -> Self {
        Self {
            secret: derive(seed, "node identity", &[u64::from(id.get())]),
            state_version: records::STATE_VERSION,
            clock: Clock::TRUE,
            day: Day::default(),
            store: None,
            ticket: None,
            is_member: false,
        }
    }
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
        let (mut members, mut machines) = (BTreeMap::new(), BTreeMap::new());
        for number in 1..=shape.voters.saturating_add(shape.learners) {
            let Some(id) = NodeId::new(number) else { continue };
            let machine = Machine::new(seed, id);
            let role = if number <= shape.voters { MemberRole::Voter } else { MemberRole::Learner };
            members.insert(id, member(id, &Identity::from_seed(&machine.secret), role)?);
            machines.insert(id, Machine { is_member: true, ..machine });
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
        lock(&self.machines).iter().filter(|(_, machine)| machine.is_member).map(|(id, _)| *id).collect()
    }

    /// The members that run.
    #[must_use]
    pub fn cores(&self) -> Vec<(NodeId, SimCore)> {
        let members = self.members();
        let nodes = lock(&self.nodes);
        nodes.iter().filter(|(id, _)| members.contains(id)).map(|(id, node)| (*id, node.core.clone())).collect()
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

    /// Sets up a machine for a new member: its number, what it says of itself, and the id of its store.
    ///
    /// # Errors
    /// When there are no more numbers.
    pub fn enrol(&self, role: MemberRole) -> Result<(NodeId, Member, StoreId), String> {
        let mut machines = lock(&self.machines);
        let number = machines.last_key_value().map_or(1, |(last, _)| last.get().saturating_add(1));
        let id = NodeId::new(number).ok_or("there are no more numbers")?;
        let machine = Machine::new(self.seed, id);
        let member = member(id, &Identity::from_seed(&machine.secret), role)?;
        let store = StoreId::from_bytes(SharedRng::new(derive(self.seed, "store", &[u64::from(number)])).bytes());
        machines.insert(id, Machine { store: Some(store), ..machine });
        Ok((id, member, store))
    }

    /// A node belongs to the cluster; it is started with the links that say so.
    pub fn admit(&self, me: NodeId, ticket: Followed) {
        lock(&self.machines).entry(me).and_modify(|machine| {
            machine.is_member = true;
            machine.ticket = Some(ticket);
        });
    }

    /// A node does not belong to the cluster any more. It may run on.
    pub fn dismiss(&self, me: NodeId) {
        lock(&self.machines).entry(me).and_modify(|machine| machine.is_member = false);
    }

    /// The identity of a node: also who is evil has it.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn identity(&self, me: NodeId) -> Result<Identity, String> {
        let machine = lock(&self.machines).get(&me).cloned().ok_or_else(|| format!("there is no machine {me}"))?;
        Ok(Identity::from_seed(&machine.secret))
    }

    /// The way out of a node that runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn transport(&self, me: NodeId) -> Result<SimTransport, String> {
        Ok(self.node(me)?.transport)
    }

    /// Sets the time of day of a machine, so many milliseconds off.
    pub fn set_day(&self, me: NodeId, off_ms: i64) {
        self.trace.note("the time of day is set", &[&me.get().to_be_bytes()[..], &off_ms.to_be_bytes()].concat());
        if let Some(machine) = lock(&self.machines).get(&me) {
            machine.day.set(off_ms);
        }
    }

    /// A node stands still.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, me: NodeId) -> Result<(), String> {
        self.trace.note("a node stands still", &me.get().to_be_bytes());
        self.node(me)?.gate.close();
        Ok(())
    }

    /// It goes on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, me: NodeId) -> Result<(), String> {
        self.trace.note("a node goes on", &me.get().to_be_bytes());
        self.node(me)?.gate.open();
        Ok(())
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
        let gate = Gate::default();
        let opened = gate.within(SimRuntime::scope(seed, self.open(me, number, remains, gate.clone()))).await;
        let node = opened.map_err(|why| format!("node {me}, boot {number}: {why}"))?;
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

    async fn open(&self, me: NodeId, boots: u64, remains: Remains, gate: Gate) -> Result<Node, String> {
        let rng = |label: &str| SharedRng::new(derive(self.seed, label, &[u64::from(me.get()), boots]));
        let machine = lock(&self.machines).get(&me).cloned().ok_or("there is no such machine")?;
        let life = Life::begin();
        let store = SimStore::open(me, remains.disk, life.clone(), rng("disk"), self.trace.clone());
        let vault = SimVault::from_bytes(&remains.slots, life.clone(), rng("vault"))?;
        // Only one store ever gets the id that was enrolled.
        let enrolled = lock(&self.machines).get_mut(&me).and_then(|machine| machine.store.take());
        if let Some(id) = enrolled {
            name_store(&store, self.genesis.cluster_id(), me, id).await?;
        }
        let boot = open_store(&store, self.genesis.cluster_id(), me, rng("boot").bytes()).await?;
        let transport = self.network.attach(me, boot, life.clone(), store.clone());
        let parts = Parts {
            me,
            identity: Identity::from_seed(&machine.secret),
            genesis: Arc::clone(&self.genesis),
            boot,
            store: store.clone(),
            transport: transport.clone(),
            surroundings: SimSurroundings::new(self.trace.origin(), machine.clock, machine.day, rng("node")),
            vault: Box::new(vault.clone()),
            timing: Timing::default(),
            usage_bytes: USAGE_BYTES,
            backend: Backend::default(),
            state_version: machine.state_version,
        };
        let core = SimCore::start(parts).await?;
        if let Some(ticket) = machine.ticket {
            core.join(ticket).map_err(|e| e.to_string())?;
        }
        let seat = Seat { node: Arc::new(core.clone()), boot, life: life.clone(), gate: gate.clone() };
        self.network.join(me, seat);
        Ok(Node { core, store, vault, life, gate, transport })
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
            node.gate.open();
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
}
