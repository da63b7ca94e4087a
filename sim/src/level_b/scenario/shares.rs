//! Shares are renewed and moved while messages are lost, while the leader is cut off, while a node crashes, and while one is
//! away. The public key stays, the key signs, an operation moves the epoch or ends with a reason, and who missed one is healed
//! without anybody's help.

use std::time::Duration;

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::id::{KeyId, NodeId, Threshold};
use symbolon_protocol::request::{Action, KeyPolicy, RosterPlan};
use symbolon_protocol::state::records::VersionRecord;
use tokio::time::sleep;

use super::{below, is_moving, one_of, shuffled, version_on, without};
use crate::level_b::client::Client;
use crate::level_b::cluster::{Cluster, Shape};
use crate::level_b::surroundings::SharedRng;
use crate::level_b::types::derive;

/// Holders that a signature needs, of the five nodes.
const THRESHOLD: usize = 3;
/// Where shares are moved to: so many nodes, of which so many sign.
const MOVED: (usize, usize) = (4, 2);
/// Calls and answers that are lost, of a thousand each, and while many are.
const LOST: (u64, u64) = (2, 60);
/// How far an operation may be when something happens, milliseconds.
const MIDDLE_MS: u64 = 400;
/// How long a leader that was cut off stays so at least: the others have another one by then.
const CUT_OFF: Duration = Duration::from_secs(2);
/// How long a node that crashed in the middle may be down, milliseconds.
const DOWN_MS: u64 = 4_000;

/// What happens in the middle of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Many messages are lost, from before it begins.
    Loss,
    /// The leader is cut off.
    Isolation,
    /// A node crashes, and comes back a little later.
    Crash,
    /// A node is down before it begins and until it is over.
    Absence,
}

struct Run<'a> {
    client: &'a Client,
    cluster: &'a Cluster,
    chance: &'a SharedRng,
}

pub(super) async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), Shape::of(5))?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;
    cluster.network().lose(LOST.0);
    let run = Run { client: &client, cluster: &cluster, chance: &chance };
    let troubles = [Trouble::Loss, Trouble::Isolation, Trouble::Crash, Trouble::Absence];
    for trouble in shuffled(&troubles, &chance) {
        run.meet(trouble).await.map_err(|why| format!("{trouble:?}: {why}"))?;
    }
    cluster.settle().await?;
    cluster.compare_histories()?;
    Ok(cluster.trace().hash())
}

impl Run<'_> {
    /// Each trouble has a key of its own: a node is healed once in an hour and key.
    async fn meet(&self, trouble: Trouble) -> Result<(), String> {
        let (cluster, chance) = (self.cluster, self.chance);
        cluster.trace().note("trouble", format!("{trouble:?}").as_bytes());
        let on = one_of(&cluster.members(), chance)?;
        let name = format!("{trouble:?}");
        let key = self.client.create_key(cluster, on, &name, THRESHOLD, KeyPolicy::default()).await?;
        cluster.settle().await?;
        let id = key.core.key;
        let before = version_on(cluster, on, &id)?;
        let victim = match trouble {
            Trouble::Loss => None,
            // Where all hear each other all follow one leader.
            Trouble::Isolation => Some(cluster.leader().ok_or("nobody leads")?),
            Trouble::Crash | Trouble::Absence => Some(one_of(&cluster.members(), chance)?),
        };
        let others = without(&cluster.members(), victim.as_slice());
        let witness = one_of(&others, chance)?;
        match (trouble, victim) {
            (Trouble::Isolation, Some(leader)) => {
                self.begin(witness, &id, &[]).await?;
                self.wait_up_to(MIDDLE_MS).await;
                cluster.network().part(&[leader], &others);
                sleep(CUT_OFF).await;
                self.until_over(witness, &id).await?;
                cluster.network().heal();
            }
            (Trouble::Crash, Some(victim)) => {
                self.begin(witness, &id, &[]).await?;
                self.wait_up_to(MIDDLE_MS).await;
                let remains = cluster.crash(victim).await?;
                self.wait_up_to(DOWN_MS).await;
                cluster.restart(victim, remains).await?;
                self.until_over(witness, &id).await?;
            }
            (Trouble::Absence, Some(victim)) => {
                let remains = cluster.crash(victim).await?;
                cluster.until("the others to agree on a leader", Cluster::is_well).await?;
                self.begin(witness, &id, &[victim]).await?;
                self.until_over(witness, &id).await?;
                must_have_moved(&before, &version_on(cluster, witness, &id)?)?;
                self.client.sign(cluster, witness, &key, b"while a node is away").await?;
                cluster.restart(victim, remains).await?;
            }
            _ => {
                cluster.network().lose(LOST.1);
                self.begin(witness, &id, &[]).await?;
                self.until_over(witness, &id).await?;
                cluster.network().lose(LOST.0);
            }
        }
        moved_or_ended(&before, &version_on(cluster, witness, &id)?)?;
        cluster.until("the cluster to be well again", Cluster::is_well).await?;
        if let Some(victim) = victim {
            self.until_healed(&id).await?;
            self.sign_with(victim, &key).await?;
        }
        self.renew_in_peace(&key).await
    }

    /// Begins a refresh, or where everybody is there perhaps a move to other holders.
    async fn begin(&self, on: NodeId, key: &KeyId, absent: &[NodeId]) -> Result<(), String> {
        let absent = absent.to_vec();
        let action = if absent.is_empty() && self.chance.between(0, 1) == 1 {
            let (nodes, threshold) = MOVED;
            let mut roster = shuffled(&self.cluster.members(), self.chance);
            roster.truncate(nodes);
            let threshold = Threshold::new(threshold, roster.len()).ok_or("the threshold does not fit the roster")?;
            Action::ReshareKey { plan: RosterPlan { roster, spares: Vec::new(), threshold }, absent }
        } else {
            Action::RefreshKey { absent }
        };
        self.client.change(self.cluster, on, action, Some(*key)).await.map(drop)
    }

    async fn wait_up_to(&self, most_ms: u64) {
        sleep(Duration::from_millis(self.chance.between(0, most_ms))).await;
    }

    async fn until_over(&self, witness: NodeId, key: &KeyId) -> Result<(), String> {
        self.cluster.until("the operation to be over", |cluster| Ok(!is_moving(cluster, witness, key)?)).await
    }

    async fn until_healed(&self, key: &KeyId) -> Result<(), String> {
        self.cluster.until("everybody to have a share again", |cluster| is_healed(cluster, key)).await
    }

    /// Cuts off so many others that the key signs with this node's share or not at all. One that holds none coordinates.
    async fn sign_with(&self, node: NodeId, key: &KeyCertificate) -> Result<(), String> {
        let version = version_on(self.cluster, node, &key.core.key)?;
        let core = version.core().ok_or("the key has no certificate")?.clone();
        let holders = without(&core.holders, &[node]);
        let spared = core.holders.len().saturating_sub(core.threshold.get());
        // A majority of the voters must go on hearing this node.
        let mut cut_off = shuffled(&holders, self.chance);
        cut_off.truncate(spared.min(self.cluster.members().len() / 2));
        let rest = without(&self.cluster.members(), &cut_off);
        self.cluster.network().part(&cut_off, &rest);
        let signed = self.client.sign(self.cluster, node, key, b"with the share of one who was away").await;
        self.cluster.network().heal();
        let (signed, holds) = (signed?, core.holders.contains(&node));
        if holds && cut_off.len() == spared && !signed.contains(&node) {
            return Err(format!("{signed:?} signed where node {node} was needed"));
        }
        self.cluster.until("all to hear each other", Cluster::is_well).await
    }

    /// Without trouble a refresh always succeeds, and every node signs afterwards.
    async fn renew_in_peace(&self, key: &KeyCertificate) -> Result<(), String> {
        let id = key.core.key;
        let on = one_of(&self.cluster.members(), self.chance)?;
        let before = version_on(self.cluster, on, &id)?;
        self.cluster.network().lose(0);
        self.client.change(self.cluster, on, Action::RefreshKey { absent: Vec::new() }, Some(id)).await?;
        self.until_healed(&id).await?;
        self.cluster.network().lose(LOST.0);
        must_have_moved(&before, &version_on(self.cluster, on, &id)?)?;
        self.client.show_key(self.cluster, on, key).await?;
        let nodes = shuffled(&self.cluster.members(), self.chance);
        for node in nodes.iter().take(1 + below(self.chance, nodes.len())) {
            self.client.sign(self.cluster, *node, key, b"with shares that were renewed").await?;
        }
        Ok(())
    }
}

/// Whether everybody of the roster has a share that signs, by the state of every node.
pub(super) fn is_healed(cluster: &Cluster, key: &KeyId) -> Result<bool, String> {
    for (on, _) in cluster.cores() {
        let version = version_on(cluster, on, key)?;
        let all_hold = version.core().is_some_and(|core| core.holders == core.roster);
        if is_moving(cluster, on, key)? || !all_hold || !version.stale.is_empty() || !version.is_final() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn must_have_moved(before: &VersionRecord, after: &VersionRecord) -> Result<(), String> {
    let epoch = |version: &VersionRecord| version.core().map(|core| core.epoch);
    if epoch(after) > epoch(before) {
        return Ok(());
    }
    Err(format!("the epoch did not move; attempts: {:?}", after.attempts))
}

/// The public key stays, and the epoch moved or every attempt has a reason why it did not.
fn moved_or_ended(before: &VersionRecord, after: &VersionRecord) -> Result<(), String> {
    let (Some(then), Some(now)) = (before.core(), after.core()) else {
        return Err("the key lost its certificate".to_owned());
    };
    if then.public_key != now.public_key {
        return Err("the public key changed".to_owned());
    }
    let mut later = after.attempts.iter().filter(|attempt| attempt.epoch > then.epoch);
    let ended = later.clone().count() > 0 && later.all(|attempt| attempt.fault.is_some());
    if now.epoch > then.epoch || ended {
        return Ok(());
    }
    Err(format!("the epoch is still {}, and nothing says why; attempts: {:?}", now.epoch, after.attempts))
}
