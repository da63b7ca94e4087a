//! What is done. The seed decides that too: each scenario has a thousand seeds of its own.

mod barrier;
mod mixed;
mod partitions;
mod shares;
mod story;
mod upgrade;

use std::fmt;

use symbolon_protocol::id::{KeyId, KeyVersion, NodeId};
use symbolon_protocol::schema::replicated;
use symbolon_protocol::state::operation_id;
use symbolon_protocol::state::records::VersionRecord;
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
}

/// Every scenario.
pub const SCENARIOS: [Scenario; 6] = [
    Scenario::Story,
    Scenario::Upgrade,
    Scenario::Shares,
    Scenario::Barrier,
    Scenario::Partitions,
    Scenario::SlowClocks,
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
            Self::SlowClocks => "slow clocks",
        }
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
        Scenario::Barrier => barrier::play(seed, barrier::Clocks::WithinBounds).await,
        Scenario::Partitions => partitions::play(seed).await,
        Scenario::SlowClocks => barrier::play(seed, barrier::Clocks::HalfSpeed).await,
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

/// Whether shares of its first version are being moved, as a node has it.
fn is_moving(cluster: &Cluster, on: NodeId, key: &KeyId) -> Result<bool, String> {
    let operation = replicated::operation(&operation_id(key, KeyVersion::FIRST));
    let running = cluster.core(on)?.state_tables().get(&operation).map_err(|e| e.to_string())?;
    Ok(running.is_some())
}
