//! `status`.

use serde::Serialize;
use symbolon_client::{Client, now_ms};
use symbolon_protocol::fresh::LeaseView;
use symbolon_protocol::state::view::{self, NodeView, StatusView};
use symbolon_protocol::wire::encode;

use super::super::context::node_names;
use super::super::parse::rfc3339;
use super::shares::Operation;

/// `status`.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    cluster_id: String,
    /// Name of the cluster.
    cluster: String,
    leader: Option<String>,
    state_version: u32,
    membership: u64,
    /// The node that answered; everything here is its word.
    asked: String,
    applied_index: u64,
    /// State time.
    time: String,
    nodes: Vec<NodeStatus>,
    /// At most a page; `key list` shows them all.
    keys: Vec<KeyStatus>,
    lease: Lease,
    warnings: Vec<String>,
}

/// Whether the asked node knows its state to be current, by its word.
#[derive(Debug, Serialize)]
struct Lease {
    /// Whether it gives shares; null for a node that holds none.
    fresh: Option<bool>,
    /// Age of its evidence.
    age_milliseconds: Option<u64>,
    /// Voters whose answers it counts.
    counted: Vec<String>,
    /// How many are needed.
    needed: u32,
    /// Voters that signed two histories.
    equivocations: Vec<Equivocation>,
}

/// A voter that signed two histories.
#[derive(Debug, Serialize)]
struct Equivocation {
    node: String,
    /// Index for which it signed two heads.
    index: u64,
    /// The two signed positions, hexadecimal; anybody can check them.
    proof: String,
}

impl Lease {
    fn new(client: &Client, lease: &LeaseView) -> Self {
        let equivocations = lease.equivocations.iter().map(|proof| Equivocation {
            node: client.node_name(proof.node()),
            index: proof.index(),
            proof: hex::encode(encode(proof)),
        });
        Self {
            fresh: lease.staleness_ms.map(|_| lease.fresh),
            age_milliseconds: lease.age_ms,
            counted: lease.counted.iter().map(|node| client.node_name(*node)).collect(),
            needed: lease.needed,
            equivocations: equivocations.collect(),
        }
    }
}

/// A node in the status.
#[derive(Debug, Serialize)]
pub(crate) struct NodeStatus {
    pub(crate) name: String,
    pub(crate) reachable: bool,
    /// `leader`, `follower`, `candidate`, `learner` or `unknown`.
    pub(crate) role: String,
    pub(crate) applied_index: Option<u64>,
    /// Its release.
    pub(crate) version: String,
    /// What the asked node can prove against it.
    pub(crate) blamed: Option<Blamed>,
}

/// What one node can prove against another.
#[derive(Debug, Serialize)]
pub(crate) struct Blamed {
    /// How often it broke the signing protocol.
    pub(crate) count: u64,
    /// How, the last time: `bad_share`, `split_view` or `bad_commitment`.
    pub(crate) kind: &'static str,
    /// When that was found.
    pub(crate) time: String,
}

/// A key in the status.
#[derive(Debug, Serialize)]
pub(crate) struct KeyStatus {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) state: &'static str,
    pub(crate) threshold: usize,
    /// How many hold a share; elsewhere `holders` are names.
    pub(crate) holders: usize,
    /// How many of them can be reached.
    pub(crate) usable: usize,
    /// How many more of them may be lost before the key does not sign; negative when it does not.
    pub(crate) margin: i64,
    /// Who they are.
    pub(crate) holder_names: Vec<String>,
    /// Who of them can be reached.
    pub(crate) usable_names: Vec<String>,
    /// Of the shares; null before there are any, as is what follows from it.
    pub(crate) epoch: Option<u32>,
    /// When they were made.
    pub(crate) shares_made: Option<String>,
    /// How old they are, by the later of state time and this machine's clock.
    pub(crate) shares_age_seconds: Option<u64>,
    /// Members of the roster that have none.
    pub(crate) stale_names: Vec<String>,
    /// Earlier epochs of which so many shares may be left that they are the key.
    pub(crate) open_epochs: Vec<u32>,
    /// The share operation that runs.
    pub(crate) running: Option<Operation>,
}

impl Status {
    pub(crate) fn new(client: &Client, status: &StatusView, lease: &LeaseView) -> Self {
        let now = status.time_ms.max(now_ms());
        Self {
            cluster_id: status.cluster.to_string(),
            cluster: status.name.to_string(),
            leader: status.leader.map(|node| client.node_name(node)),
            state_version: status.state_version,
            membership: status.membership,
            asked: client.node_name(status.asked),
            applied_index: status.applied_index,
            time: rfc3339(status.time_ms),
            nodes: status.nodes.iter().map(NodeStatus::from).collect(),
            keys: status.keys.iter().map(|key| KeyStatus::new(client, key, now)).collect(),
            lease: Lease::new(client, lease),
            warnings: status.warnings.clone(),
        }
    }
    pub(crate) fn nodes(&self) -> &[NodeStatus] {
        &self.nodes
    }
    pub(crate) fn keys(&self) -> &[KeyStatus] {
        &self.keys
    }
}

impl From<&NodeView> for NodeStatus {
    fn from(node: &NodeView) -> Self {
        Self {
            name: node.name.to_string(),
            reachable: node.reachable,
            role: node.role.clone(),
            applied_index: node.applied_index,
            version: node.release.clone(),
            blamed: node.blamed.map(|blamed| Blamed {
                count: blamed.count,
                kind: blamed.kind.name(),
                time: rfc3339(blamed.time_ms),
            }),
        }
    }
}

impl KeyStatus {
    fn new(client: &Client, key: &view::KeyStatus, now_ms: u64) -> Self {
        let made_ms = key.epoch.map(|(_, made_ms)| made_ms);
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        Self {
            name: key.name.to_string(),
            version: key.version.get(),
            state: key.state.name(),
            threshold: key.threshold.get(),
            holders: key.holders.len(),
            usable: key.usable.len(),
            margin: count(key.usable.len()) - count(key.threshold.get()),
            holder_names: node_names(client, &key.holders),
            usable_names: node_names(client, &key.usable),
            epoch: key.epoch.map(|(epoch, _)| epoch.get()),
            shares_made: made_ms.map(rfc3339),
            shares_age_seconds: made_ms.map(|made_ms| now_ms.saturating_sub(made_ms) / 1000),
            stale_names: node_names(client, &key.stale),
            open_epochs: key.open.iter().map(|epoch| epoch.get()).collect(),
            running: key.running.as_ref().map(|running| Operation::new(client, running)),
        }
    }
}
