//! The network: every call takes a seeded time each way, some are lost, links can be cut, in one direction or in both.
//!
//! A lost call or answer is never answered: the caller's deadline decides. A call to a node that does not run fails, as a
//! refused connection does; one to a machine without power is lost. An answer is worked out in a task of its own, so that a
//! caller that gives up stops nothing at the other side. What a node says can be bent on its way out: see [`Deceit`].

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use symbolon_node::core::boots::PeerBoots;
use symbolon_node::core::types::{Lane, LinkError, Transport};
use symbolon_protocol::error::Refusal;
use symbolon_protocol::id::{BootId, NodeId};
use tokio::sync::oneshot;

use super::pause::Gate;
use super::store::SimStore;
use super::surroundings::SharedRng;
use super::trace::{Kind, Trace};
use super::types::{Life, SimCore, lock, spawn};

/// How long one way takes, microseconds. Tokio's timers count whole milliseconds, rounded up.
const WAY_US: (u64, u64) = (200, 8_000);
/// Calls and answers that are lost, of a thousand each, unless a scenario wants something else.
pub const LOST_PER_MILLE: u64 = 10;

/// What the network needs of a node that runs. It hides the node's type, which names the network's.
pub trait Answering: Send + Sync {
    /// A peer says which boot it is, before its first call.
    fn greet(&self, from: NodeId, boot: BootId) -> BoxFuture<'static, Result<(), Refusal>>;
    /// Answers a call.
    fn answer(&self, from: NodeId, lane: Lane, call: Vec<u8>) -> BoxFuture<'static, Vec<u8>>;
}

impl Answering for SimCore {
    fn greet(&self, from: NodeId, boot: BootId) -> BoxFuture<'static, Result<(), Refusal>> {
        let core = self.clone();
        Box::pin(async move { core.greeted(from, boot).await })
    }

    fn answer(&self, from: NodeId, lane: Lane, call: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        let core = self.clone();
        Box::pin(async move { core.answer_peer(from, lane, call).await })
    }
}

/// What an evil node makes of what its program says and hears. It has the program, its store and its identity.
pub trait Deceit: Send + Sync {
    /// A call on its way to a peer; none when it is not sent.
    fn calls(&self, _to: NodeId, _lane: Lane, call: Vec<u8>) -> Option<Vec<u8>> {
        Some(call)
    }
    /// What a peer answered.
    fn hears(&self, _from: NodeId, _lane: Lane, answer: Vec<u8>) -> Vec<u8> {
        answer
    }
    /// The answer to a call of a peer.
    fn answers(&self, _to: NodeId, _lane: Lane, _call: &[u8], answer: Vec<u8>) -> Vec<u8> {
        answer
    }
}

/// A node that runs, as the network reaches it.
#[derive(Clone)]
pub struct Seat {
    /// What answers.
    pub node: Arc<dyn Answering>,
    /// Its boot, as it says in answer to a greeting.
    pub boot: BootId,
    /// How long.
    pub life: Life,
    /// Whether it stands still.
    pub gate: Gate,
}

struct Wires {
    seats: BTreeMap<NodeId, Seat>,
    /// Boots that greeted a node since it started: (node, peer).
    greeted: BTreeMap<(NodeId, NodeId), BootId>,
    /// Ways on which nothing arrives: (from, to).
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Machines without power: nothing leaves them, nothing reaches them.
    dark: BTreeSet<NodeId>,
    /// Calls and answers that are lost, of a thousand each.
    lost_per_mille: u64,
    /// Who is evil, and how.
    deceits: BTreeMap<NodeId, Arc<dyn Deceit>>,
}

/// The network; clones are handles to the same one.
#[derive(Clone)]
pub struct SimNetwork {
    wires: Arc<Mutex<Wires>>,
    rng: SharedRng,
    trace: Trace,
}

/// What will happen to one call, drawn when it leaves.
struct Fate {
    there: Duration,
    back: Duration,
    lost_there: bool,
    lost_back: bool,
}

impl SimNetwork {
    /// A network without nodes.
    #[must_use]
    pub fn new(rng: SharedRng, trace: Trace) -> Self {
        let wires = Wires {
            seats: BTreeMap::new(),
            greeted: BTreeMap::new(),
            cut: BTreeSet::new(),
            dark: BTreeSet::new(),
            lost_per_mille: LOST_PER_MILLE,
            deceits: BTreeMap::new(),
        };
        Self { wires: Arc::new(Mutex::new(wires)), rng, trace }
    }

    /// The way out for a boot of a node.
    #[must_use]
    pub fn attach(&self, me: NodeId, boot: BootId, life: Life, store: SimStore) -> SimTransport {
        SimTransport { network: self.clone(), me, boot, life, boots: PeerBoots::new(store) }
    }

    /// From now on calls reach a node.
    pub fn join(&self, me: NodeId, seat: Seat) {
        let mut wires = lock(&self.wires);
        wires.seats.insert(me, seat);
        // Whoever had a connection to an earlier boot opens a new one.
        wires.greeted.retain(|(to, _), _| *to != me);
    }

    /// Cuts a link in both directions.
    pub fn cut(&self, one: NodeId, other: NodeId) {
        self.cut_way(one, other);
        self.cut_way(other, one);
    }

    /// Cuts one direction of a link: what the one says does not reach the other any more.
    pub fn cut_way(&self, from: NodeId, to: NodeId) {
        lock(&self.wires).cut.insert((from, to));
    }

    /// Cuts every link between two groups.
    pub fn part(&self, some: &[NodeId], others: &[NodeId]) {
        for one in some {
            others.iter().for_each(|other| self.cut(*one, *other));
        }
    }

    /// Mends a link.
    pub fn mend(&self, one: NodeId, other: NodeId) {
        let mut wires = lock(&self.wires);
        wires.cut.remove(&(one, other));
        wires.cut.remove(&(other, one));
    }

    /// Mends every link.
    pub fn heal(&self) {
        lock(&self.wires).cut.clear();
    }

    /// Says how many calls and answers are lost from now on, of a thousand each.
    pub fn lose(&self, per_mille: u64) {
        lock(&self.wires).lost_per_mille = per_mille;
    }

    /// A node is evil from now on, in this way.
    pub fn deceive(&self, me: NodeId, deceit: Arc<dyn Deceit>) {
        lock(&self.wires).deceits.insert(me, deceit);
    }

    /// A node says what its program says.
    pub fn repent(&self, me: NodeId) {
        lock(&self.wires).deceits.remove(&me);
    }

    fn deceit(&self, me: NodeId) -> Option<Arc<dyn Deceit>> {
        lock(&self.wires).deceits.get(&me).cloned()
    }

    /// The power of a machine fails.
    pub fn darken(&self, me: NodeId) {
        lock(&self.wires).dark.insert(me);
    }

    /// A machine has power again.
    pub fn light(&self, me: NodeId) {
        lock(&self.wires).dark.remove(&me);
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        let wires = lock(&self.wires);
        wires.cut.contains(&(from, to)) || wires.dark.contains(&from) || wires.dark.contains(&to)
    }

    /// A node that runs.
    fn seat(&self, node: NodeId) -> Option<Seat> {
        lock(&self.wires).seats.get(&node).filter(|seat| seat.life.lasts()).cloned()
    }

    fn fate(&self) -> Fate {
        let ((low, high), lost_per_mille) = (WAY_US, lock(&self.wires).lost_per_mille);
        let way = || Duration::from_micros(self.rng.between(low, high));
        let lost = || self.rng.between(0, 999) < lost_per_mille;
        Fate { there: way(), back: way(), lost_there: lost(), lost_back: lost() }
    }
}

/// The way out for one boot of a node.
#[derive(Clone)]
pub struct SimTransport {
    network: SimNetwork,
    me: NodeId,
    boot: BootId,
    life: Life,
    boots: PeerBoots<SimStore>,
}

type Reply = oneshot::Sender<Result<Vec<u8>, LinkError>>;

impl SimTransport {
    fn hop(&self, kind: Kind, to: NodeId, lane: Lane, payload: &[u8]) {
        self.network.trace.hop(kind, (self.me, to), lane, payload);
    }

    /// Carries a call to a peer and its answer back. Where the reply is dropped, nobody ever answers.
    async fn carry(self, to: NodeId, lane: Lane, call: Vec<u8>, reply: Reply) {
        let fate = self.network.fate();
        let call = match self.network.deceit(self.me) {
            Some(deceit) => match deceit.calls(to, lane, call) {
                Some(bent) => bent,
                None => return,
            },
            None => call,
        };
        self.hop(Kind::Sent, to, lane, &call);
        tokio::time::sleep(fate.there).await;
        if fate.lost_there || self.network.is_cut(self.me, to) {
            return self.hop(Kind::Lost, to, lane, &call);
        }
        let seat = match self.knock(to).await {
            Ok(seat) => seat,
            Err(why) => {
                self.hop(Kind::Rejected, to, lane, &call);
                tokio::time::sleep(fate.back).await;
                let _ = reply.send(Err(LinkError(why)));
                return;
            }
        };
        self.hop(Kind::Arrived, to, lane, &call);
        let answered = seat.gate.within(seat.node.answer(self.me, lane, call.clone())).await;
        let answer = match self.network.deceit(to) {
            Some(deceit) => deceit.answers(self.me, lane, &call, answered),
            None => answered,
        };
        if !seat.life.lasts() {
            return self.hop(Kind::Lost, to, lane, &answer);
        }
        self.hop(Kind::Answered, to, lane, &answer);
        tokio::time::sleep(fate.back).await;
        if fate.lost_back || self.network.is_cut(to, self.me) || !self.life.lasts() {
            return self.hop(Kind::Lost, to, lane, &answer);
        }
        self.hop(Kind::Returned, to, lane, &answer);
        let answer = match self.network.deceit(self.me) {
            Some(deceit) => deceit.hears(to, lane, answer),
            None => answer,
        };
        // The caller may have given up.
        let _ = reply.send(Ok(answer));
    }

    /// Finds a node that runs, and greets it when this boot has not done so yet.
    async fn knock(&self, to: NodeId) -> Result<Seat, String> {
        let seat = self.network.seat(to).ok_or_else(|| format!("node {to} does not run"))?;
        let key = (to, self.me);
        let known = lock(&self.network.wires).greeted.get(&key) == Some(&self.boot);
        if known {
            return Ok(seat);
        }
        let before = self.boots.highest(to).map_err(|fault| fault.to_string())?;
        seat.gate.within(seat.node.greet(self.me, self.boot)).await.map_err(|refusal| refusal.to_string())?;
        if !seat.life.lasts() {
            return Err(format!("node {to} stopped"));
        }
        self.boots.was_dialled(to, seat.boot, before).await.map_err(|refused| refused.to_string())?;
        if self.life.lasts() {
            lock(&self.network.wires).greeted.insert(key, self.boot);
        }
        Ok(seat)
    }
}

impl Transport for SimTransport {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        call: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, LinkError>> + Send + 'static {
        let way = self.clone();
        async move {
            if way.life.lasts() {
                let (reply, answered) = oneshot::channel();
                Gate::outside(|| spawn(way.carry(to, lane, call, reply)));
                if let Ok(answer) = answered.await {
                    return answer;
                }
            }
            std::future::pending().await
        }
    }

    /// A connection that is dead in one direction only looks well for a while.
    fn reachable(&self, node: NodeId) -> bool {
        let dead = self.network.is_cut(self.me, node) && self.network.is_cut(node, self.me);
        !dead && self.network.seat(node).is_some()
    }
}
