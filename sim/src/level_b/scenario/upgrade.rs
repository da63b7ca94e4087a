//! Nodes of two releases: the same log gives the same state on all of them, the cluster goes over to higher rules when all know
//! them, and a node that does not know them does not start.

use symbolon_protocol::error::{Detail, ErrorCode};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::Action;
use symbolon_protocol::state::records::{self, FIRST_STATE_VERSION};
use symbolon_protocol::state::{LACKING, support_of};

use super::mixed::Mixed;
use super::{one_of, shuffled};
use crate::level_b::client::Client;
use crate::level_b::cluster::{Cluster, Shape};
use crate::level_b::surroundings::SharedRng;
use crate::level_b::types::derive;

/// State version that the release of before knows.
const OLD: u32 = FIRST_STATE_VERSION;
/// The one that the next release knows too.
const NEW: u32 = OLD + 1;
/// Nodes that have the next release from the beginning.
const EARLY: usize = 2;
/// Holders that a signature needs, of the five nodes.
const THRESHOLD: usize = 3;
/// Requests before the upgrade.
const BEFORE: u32 = 200;
/// Requests after it.
const AFTER: u32 = 60;
/// Requests with one node gone.
const LAST: u32 = 10;

pub(super) async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), Shape::of(5))?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    let mut late = shuffled(&cluster.members(), &chance);
    let early = late.split_off(late.len().saturating_sub(EARLY));
    late.iter().for_each(|me| cluster.install(*me, OLD));
    early.iter().for_each(|me| cluster.install(*me, NEW));
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;

    let mut mixed = Mixed::begin(&client, &cluster, &chance, THRESHOLD).await?;
    mixed.ask(BEFORE).await?;
    cluster.settle().await?;
    cluster.compare_histories()?;

    cluster.until("all members to say what they know", |cluster| all_said(cluster, &early)).await?;
    refused(&client, &cluster, one_of(&cluster.members(), &chance)?, &late).await?;

    // One after the other all get the next release.
    for me in shuffled(&cluster.members(), &chance) {
        let remains = cluster.crash(me).await?;
        cluster.install(me, NEW);
        cluster.restart(me, remains).await?;
        cluster.until("the node with the next release to be back", Cluster::is_well).await?;
        cluster.settle().await?;
    }
    cluster.until("all members to know the next rules", |cluster| all_said(cluster, &cluster.members())).await?;
    let on = one_of(&cluster.members(), &chance)?;
    let ordered = client.change(&cluster, on, Action::UpgradeCluster { to: NEW }, None).await?;
    if ordered.outcome != (Outcome::Upgraded { to: NEW }) {
        return Err(format!("an upgrade came out as {:?}", ordered.outcome));
    }
    cluster.until("all nodes to go by the next rules", all_upgraded).await?;
    mixed.ask(AFTER).await?;
    cluster.settle().await?;
    cluster.compare_histories()?;

    // Somebody puts the old release back on one node: it does not start, and says what to do.
    let victim = one_of(&cluster.members(), &chance)?;
    let remains = cluster.crash(victim).await?;
    cluster.install(victim, OLD);
    let Err(why) = cluster.restart(victim, remains).await else {
        return Err(format!("node {victim} starts with a store whose rules it does not know"));
    };
    if !why.contains(&format!("state version {NEW}")) || !why.contains("install a newer release") {
        return Err(format!("node {victim} stopped, and does not say what to install: {why}"));
    }
    cluster.trace().note("stopped on purpose", why.as_bytes());
    cluster.until("the others to agree on a leader", Cluster::is_well).await?;
    mixed.ask(LAST).await?;
    cluster.settle().await?;
    cluster.compare_histories()?;
    Ok(cluster.trace().hash())
}

/// Whether all nodes have heard from everybody what it knows, and exactly these know the next rules.
fn all_said(cluster: &Cluster, know: &[NodeId]) -> Result<bool, String> {
    for (_, core) in cluster.cores() {
        for me in cluster.members() {
            let said = support_of(&core.state_tables(), me).map_err(|e| e.to_string())?;
            let highest = if know.contains(&me) { NEW } else { OLD };
            if said.map(|said| said.highest) != Some(highest) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn all_upgraded(cluster: &Cluster) -> Result<bool, String> {
    for (_, core) in cluster.cores() {
        if records::cluster(&core.state_tables()).map_err(|e| e.to_string())?.state_version != NEW {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An upgrade must be refused, and name exactly these.
async fn refused(client: &Client, cluster: &Cluster, on: NodeId, lacking: &[NodeId]) -> Result<(), String> {
    let request = client.request(cluster, Action::UpgradeCluster { to: NEW }, None, &[]);
    let refusal = match client.order(cluster, on, &request).await? {
        Err(refusal) if refusal.code == ErrorCode::VersionUnknown => refusal,
        answer => return Err(format!("an upgrade that some do not know was answered with {answer:?}")),
    };
    let mut lacking = lacking.to_vec();
    lacking.sort_unstable();
    let names = lacking.iter().map(|me| format!("node{me}")).collect();
    if refusal.details.get(LACKING) != Some(&Detail::List(names)) {
        return Err(format!("an upgrade is refused for others than {lacking:?}: {refusal}"));
    }
    cluster.trace().note("refused", refusal.message.as_bytes());
    Ok(())
}
