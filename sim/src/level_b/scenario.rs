//! What is done. The seed decides that too: each scenario has a thousand seeds of its own.

mod barrier;
mod churn;
mod clocks;
mod liars;
mod mixed;
mod partitions;
mod shares;
mod stores;
mod story;
mod upgrade;

use std::collections::BTreeSet;
use std::fmt;

use symbolon_protocol::id::{Epoch, KeyId, KeyVersion, NodeId};
use symbolon_protocol::schema::replicated;
use symbolon_protocol::state::operation_id;
use symbolon_protocol::state::records::{self, VersionRecord};
use symbolon_protocol::table::{Tables as _, read};

use super::cluster::Cluster;
use super::surroundings::SharedRng;

/// Seeds of each scenario.
pub const SEEDS: u64 = 1_000;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// A key comes about and signs with a link cut, with a node down, and after its restart.
    Story = 0,
    /// Nodes of two releases, and the cluster goes over to higher rules.
    Upgrade = 1,
    /// Shares are renewed and moved while messages are lost, a leader is cut off, nodes crash or are away.
    Shares = 2,
    /// A key is revoked while a minority is cut off that could sign with it.
    Barrier = 3,
    /// Clients change things while links are cut in one direction or both, and while all nodes lose power.
    Partitions = 4,
    /// The planted bug: as [`Scenario::Barrier`], but the clocks of the minority run at half speed, which no barrier allows for.
    /// It must fail.
    SlowClocks = 5,
    /// Members come, go and are replaced while keys are made, renewed and used.
    Churn = 6,
    /// A key is revoked while a minority stands still, and goes on after the answer.
    Standstill = 7,
    /// Times of day are wrong, also that of the leader, and a node that fell behind takes a checkpoint.
    Clocks = 8,
    /// A leader and voters that lie.
    Liars = 9,
    /// Stores that are empty, old or there twice.
    Stores = 10,
}

/// Every scenario.
pub const SCENARIOS: [Scenario; 11] = [
    Scenario::Story,
    Scenario::Upgrade,
    Scenario::Shares,
    Scenario::Barrier,
    Scenario::Partitions,
    Scenario::SlowClocks,
    Scenario::Churn,
    Scenario::Standstill,
    Scenario::Clocks,
    Scenario::Liars,
    Scenario::Stores,
];

impl Scenario {
    /// The one of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let number = usize::try_from(seed / SEEDS).unwrap_or(usize::MAX);
        SCENARIOS.get(number).copied().unwrap_or(Self::Story)
    }

    /// One of its seeds, by number; they begin anew after [`SEEDS`].
    #[must_use]
    pub const fn seed(self, number: u64) -> u64 {
        self as u64 * SEEDS + number % SEEDS
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Story => "story",
            Self::Upgrade => "upgrade",
            Self::Shares => "shares",
            Self::Barrier => "barrier",
            Self::Partitions => "partitions",
            Self::SlowClocks => "slow-clocks",
            Self::Churn => "churn",
            Self::Standstill => "standstill",
            Self::Clocks => "clocks",
            Self::Liars => "liars",
            Self::Stores => "stores",
        }
    }

    /// The one with a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name() == name)
    }

    /// Whether a bug is planted: then it must fail.
    #[must_use]
    pub const fn is_planted(self) -> bool {
        matches!(self, Self::SlowClocks)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Plays the scenario of a seed and gives the hash of its trace.
///
/// # Errors
/// What went wrong, or what was waited for in vain.
pub async fn play(seed: u64) -> Result<String, String> {
    match Scenario::of(seed) {
        Scenario::Story => story::play(seed).await,
        Scenario::Upgrade => upgrade::play(seed).await,
        Scenario::Shares => shares::play(seed).await,
        Scenario::Barrier => barrier::play(seed, barrier::Clocks::WithinBounds, barrier::Apart::CutOff).await,
        Scenario::Partitions => partitions::play(seed).await,
        Scenario::SlowClocks => barrier::play(seed, barrier::Clocks::HalfSpeed, barrier::Apart::CutOff).await,
        Scenario::Churn => churn::play(seed).await,
        Scenario::Standstill => barrier::play(seed, barrier::Clocks::WithinBounds, barrier::Apart::StandingStill).await,
        Scenario::Clocks => clocks::play(seed).await,
        Scenario::Liars => liars::play(seed).await,
        Scenario::Stores => stores::play(seed).await,
    }
}

/// Things in an order that the seed decides.
fn shuffled<T: Clone>(things: &[T], chance: &SharedRng) -> Vec<T> {
    let mut rest = things.to_vec();
    let mut order = Vec::new();
    while !rest.is_empty() {
        order.push(rest.swap_remove(below(chance, rest.len())));
    }
    order
}

/// A number below another one; 0 below 0.
fn below(chance: &SharedRng, count: usize) -> usize {
    let last = count.saturating_sub(1) as u64;
    usize::try_from(chance.between(0, last)).unwrap_or(0)
}

/// One of some nodes.
fn one_of(nodes: &[NodeId], chance: &SharedRng) -> Result<NodeId, String> {
    nodes.get(below(chance, nodes.len())).copied().ok_or_else(|| "there is no node to choose from".to_owned())
}

/// Nodes without some of them.
fn without(nodes: &[NodeId], some: &[NodeId]) -> Vec<NodeId> {
    nodes.iter().copied().filter(|node| !some.contains(node)).collect()
}

/// The first version of a key as a node has it.
fn version_on(cluster: &Cluster, on: NodeId, key: &KeyId) -> Result<VersionRecord, String> {
    let tables = cluster.core(on)?.state_tables();
    let record = read(&tables, &replicated::version(key, KeyVersion::FIRST)).map_err(|e| e.to_string())?;
    record.ok_or_else(|| format!("node {on} does not know the key"))
}

/// Epochs before the one that signs of which enough shares may still be there, as a node has it.
fn open_epochs(cluster: &Cluster, on: NodeId, key: &KeyId) -> Result<BTreeSet<Epoch>, String> {
    let version = version_on(cluster, on, key)?;
    let left = records::left(&cluster.core(on)?.state_tables(), &version).map_err(|e| e.to_string())?;
    let signs = version.core().map(|core| core.epoch);
    let open =
        version.shares.iter().filter(|set| Some(set.epoch) != signs && !set.is_closed(|node| left.contains(&node)));
    Ok(open.map(|set| set.epoch).collect())
}

/// Whether shares of its first version are being moved, as a node has it.
fn is_moving(cluster: &Cluster, on: NodeId, key: &KeyId) -> Result<bool, String> {
    let operation = replicated::operation(&operation_id(key, KeyVersion::FIRST));
    let running = cluster.core(on)?.state_tables().get(&operation).map_err(|e| e.to_string())?;
    Ok(running.is_some())
}
