//! What is done: a cluster starts, a key comes about, it signs with a link cut, with a node down and after its restart.

use symbolon_protocol::id::NodeId;

use super::client::Client;
use super::cluster::{Cluster, Remains};
use super::surroundings::SharedRng;
use super::types::derive;

/// Holders that a signature needs, of the three nodes.
const THRESHOLD: usize = 2;

/// The members in an order that the seed decides.
fn shuffled(members: &[NodeId], chance: &SharedRng) -> Vec<NodeId> {
    let mut rest = members.to_vec();
    let mut order = Vec::new();
    while !rest.is_empty() {
        let last = rest.len() as u64 - 1;
        let at = usize::try_from(chance.between(0, last)).unwrap_or(0);
        order.push(rest.swap_remove(at));
    }
    order
}

/// Plays the scenario and gives the hash of its trace.
///
/// # Errors
/// What went wrong, or what was waited for in vain.
pub async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let mut cluster = Cluster::found(seed, client.identity())?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));

    for me in shuffled(&cluster.members(), &chance) {
        cluster.boot(me, Remains::default()).await?;
    }
    cluster.until("the cluster to start", Cluster::is_well).await?;

    // A key is made through one node and signs through another.
    let three = shuffled(&cluster.members(), &chance);
    let [first, second, third] = three.as_slice() else { return Err("the scenario is for three nodes".to_owned()) };
    let key = client.create_key(&cluster, *first, "release", THRESHOLD).await?;
    cluster.settle().await?;
    client.sign(&cluster, *second, &key, b"signed by a whole cluster").await?;

    // Two nodes do not hear each other; the third one hears both.
    cluster.network().cut(*first, *second);
    client.sign(&cluster, *third, &key, b"signed with a cut link").await?;
    cluster.network().mend(*first, *second);

    // One node crashes, whichever it is; the others order and sign.
    let three = shuffled(&cluster.members(), &chance);
    let [victim, second, third] = three.as_slice() else { return Err("the scenario is for three nodes".to_owned()) };
    let remains = cluster.crash(*victim).await?;
    cluster.until("the others to agree on a leader", Cluster::is_well).await?;
    client.register(&cluster, *second, "auditor").await?;
    cluster.settle().await?;
    client.sign(&cluster, *third, &key, b"signed while a node is down").await?;

    // It comes back with what its disk and its vault kept, catches up, and signs with the share that it had.
    cluster.restart(*victim, remains).await?;
    cluster.until("the crashed node to be back", Cluster::is_well).await?;
    cluster.settle().await?;
    client.sign(&cluster, *victim, &key, b"signed after a restart").await?;

    cluster.settle().await?;
    cluster.compare_histories()?;
    Ok(cluster.trace().hash())
}
