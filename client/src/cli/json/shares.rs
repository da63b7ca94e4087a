//! Shares and share operations: `key refresh`, `key reshare`, `key policy`, `operation`, and parts of `key show` and `status`.

use serde::Serialize;
use symbolon_client::{Client, KeyPolicy};
use symbolon_protocol::id::KeyVersion;
use symbolon_protocol::state::records::{self, AttemptRecord, Trigger};
use symbolon_protocol::state::view::{OperationView, SharesView, VersionView};

use super::super::context::node_names;
use super::super::parse::rfc3339;

/// `key refresh` and `key reshare`.
#[derive(Debug, Serialize)]
pub(crate) struct SharesMoved {
    pub(crate) key: String,
    pub(crate) key_id: String,
    pub(crate) version: u32,
    /// Of the new shares; with `--no-wait` of the first attempt at them.
    pub(crate) epoch: u32,
    /// Members that were told to take no part.
    pub(crate) absent: Vec<String>,
    pub(crate) request_id: String,
    /// Null with `--no-wait`.
    pub(crate) shares: Option<NewShares>,
}

/// Shares that were certified.
#[derive(Debug, Serialize)]
pub(crate) struct NewShares {
    /// The same as before.
    pub(crate) public_key: String,
    pub(crate) threshold: usize,
    pub(crate) roster: Vec<String>,
    /// Members of the roster that have one.
    pub(crate) holders: Vec<String>,
    /// Members of the roster that have none.
    pub(crate) stale: Vec<String>,
    /// From the request to the checked certificate.
    pub(crate) milliseconds: f64,
}

/// How a key is kept: in `key show`, and inside of `key policy`.
#[derive(Debug, Serialize)]
pub(crate) struct Policy {
    /// How long a holder that hears of no majority goes on signing.
    pub(crate) max_staleness_ms: u32,
    /// How often the shares are renewed by schedule; null for never.
    pub(crate) refresh_every_ms: Option<u64>,
}

impl From<KeyPolicy> for Policy {
    fn from(policy: KeyPolicy) -> Self {
        Self { max_staleness_ms: policy.max_staleness_ms, refresh_every_ms: policy.refresh_every_ms }
    }
}

/// `key policy`.
#[derive(Debug, Serialize)]
pub(crate) struct KeptBy {
    pub(crate) key: String,
    pub(crate) key_id: String,
    pub(crate) policy: Policy,
    /// Null when nothing was changed.
    pub(crate) request_id: Option<String>,
}

/// The shares of a version.
#[derive(Debug, Serialize)]
pub(crate) struct Shares {
    epoch: u32,
    made: String,
    /// Members of the roster that have one.
    holders: Vec<String>,
    /// Members of the roster that have none.
    stale: Vec<String>,
    /// Holders that confirmed them after they were committed.
    activated: Vec<String>,
    /// When they are to be renewed by schedule.
    refresh_due: Option<String>,
    /// Earlier epochs of which so many shares may be left that they are the key.
    open_epochs: Vec<u32>,
    /// Every epoch of which a share may be left, this one too.
    epochs: Vec<ShareSet>,
}

/// The shares of one epoch.
#[derive(Debug, Serialize)]
struct ShareSet {
    epoch: u32,
    threshold: usize,
    /// Who had one, or may have had.
    holders: Vec<String>,
    /// Who of them proved erasure.
    erased: Vec<String>,
    /// Who has not.
    owing: Vec<String>,
    /// Whether fewer than the threshold can be left.
    closed: bool,
}

impl Shares {
    pub(crate) fn new(client: &Client, shares: &SharesView) -> Self {
        let set = |set: &records::ShareSet| ShareSet {
            epoch: set.epoch.get(),
            threshold: set.threshold.get(),
            holders: node_names(client, &set.holders),
            erased: set.erased.iter().map(|node| client.node_name(*node)).collect(),
            owing: node_names(client, &set.owing()),
            closed: shares.is_closed(set),
        };
        Self {
            epoch: shares.epoch.get(),
            made: rfc3339(shares.committed_ms),
            holders: node_names(client, &shares.holders),
            stale: node_names(client, &shares.stale),
            activated: node_names(client, &shares.activated),
            refresh_due: shares.refresh_ms.map(rfc3339),
            open_epochs: shares.open().iter().map(|open| open.epoch.get()).collect(),
            epochs: shares.out.iter().map(set).collect(),
        }
    }
}

/// A share operation that runs.
#[derive(Debug, Serialize)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) cause: Cause,
    pub(crate) epoch: u32,
    /// Counts from 1.
    pub(crate) attempt: u32,
    /// `committing`, `echoing`, `sharing`, `dealing`, `acknowledging` or `staging`.
    pub(crate) phase: &'static str,
    /// Who is waited for.
    pub(crate) waiting: Vec<String>,
    /// When the attempt began.
    pub(crate) begun: String,
    /// When it ends for lack of progress.
    pub(crate) deadline: String,
}

impl Operation {
    pub(crate) fn new(client: &Client, operation: &OperationView) -> Self {
        Self {
            id: operation.id.to_string(),
            key: operation.key.to_string(),
            version: operation.version.get(),
            cause: Cause::new(client, operation.trigger),
            epoch: operation.epoch.get(),
            attempt: operation.attempt,
            phase: operation.phase.name(),
            waiting: node_names(client, &operation.waiting),
            begun: rfc3339(operation.begun_ms),
            deadline: rfc3339(operation.deadline_ms),
        }
    }
}

/// What a share operation does, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Cause {
    /// `generate` or `redistribute`.
    pub(crate) kind: &'static str,
    /// `generate`, `refresh` or `reshare` by a client's request, `schedule`, or the `need` of a node.
    pub(crate) trigger: &'static str,
    /// The node that needs a share.
    pub(crate) needed_by: Option<String>,
}

impl Cause {
    pub(crate) fn new(client: &Client, trigger: Trigger) -> Self {
        let (kind, trigger, needed_by) = match trigger {
            Trigger::Generate => ("generate", "generate", None),
            Trigger::Refresh => ("redistribute", "refresh", None),
            Trigger::Reshare => ("redistribute", "reshare", None),
            Trigger::Schedule => ("redistribute", "schedule", None),
            Trigger::Need(node) => ("redistribute", "need", Some(client.node_name(node))),
        };
        Self { kind, trigger, needed_by }
    }
    /// In a word or three, for people.
    pub(crate) fn words(&self) -> String {
        match &self.needed_by {
            Some(node) => format!("{} of {node}", self.trigger),
            None => self.trigger.to_owned(),
        }
    }
}

/// `operation list`.
#[derive(Debug, Serialize)]
pub(crate) struct Operations {
    pub(crate) operations: Vec<Operation>,
}

/// `operation show`.
#[derive(Debug, Serialize)]
pub(crate) struct KeyOperations {
    pub(crate) key: String,
    pub(crate) key_id: String,
    pub(crate) running: Vec<Operation>,
    /// By version and epoch, the oldest first; as many as the cluster remembers.
    pub(crate) ended: Vec<Ended>,
}

/// An attempt of a share operation that is over.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    pub(crate) version: u32,
    pub(crate) epoch: u32,
    #[serde(flatten)]
    pub(crate) cause: Cause,
    pub(crate) threshold: usize,
    pub(crate) roster: Vec<String>,
    pub(crate) ended: String,
    /// Whether its shares took the place of those before.
    pub(crate) committed: bool,
    /// `bad_message`, `bad_proof`, `bad_share`, `split_view`, `unresponsive`, `wrong_result` or `restarted`.
    pub(crate) fault: Option<&'static str>,
    /// Who said so; null when its time ran out.
    pub(crate) reporter: Option<String>,
    /// Who is blamed.
    pub(crate) culprits: Vec<String>,
}

impl Ended {
    pub(crate) fn new(client: &Client, version: KeyVersion, attempt: &AttemptRecord) -> Self {
        Self {
            version: version.get(),
            epoch: attempt.epoch.get(),
            cause: Cause::new(client, attempt.trigger),
            threshold: attempt.threshold.get(),
            roster: node_names(client, &attempt.roster),
            ended: rfc3339(attempt.ended_ms),
            committed: attempt.fault.is_none(),
            fault: attempt.fault.map(symbolon_protocol::generate::FaultKind::name),
            reporter: attempt.reporter.map(|node| client.node_name(node)),
            culprits: node_names(client, &attempt.culprits),
        }
    }
    /// Every attempt of a version that is over.
    pub(crate) fn all(client: &Client, version: &VersionView) -> Vec<Self> {
        version.attempts.iter().map(|attempt| Self::new(client, version.number, attempt)).collect()
    }
    /// How it ended, for people.
    pub(crate) fn words(&self) -> String {
        let Some(fault) = self.fault else { return "committed".to_owned() };
        let blamed = if self.culprits.is_empty() { String::new() } else { format!(" of {}", self.culprits.join(", ")) };
        let said = self.reporter.as_ref().map(|node| format!(", {node} says")).unwrap_or_default();
        format!("{fault}{blamed}{said}")
    }
}
