//! A cluster starts, a key comes about, it signs with a link cut, with a node down and after its restart.

use symbolon_protocol::request::KeyPolicy;

use super::shuffled;
use crate::level_b::client::Client;
use crate::level_b::cluster::{Cluster, Shape};
use crate::level_b::surroundings::SharedRng;
use crate::level_b::types::derive;

/// Holders that a signature needs, of the three nodes.
const THRESHOLD: usize = 2;

pub(super) async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), Shape::of(3))?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;

    // A key is made through one node and signs through another.
    let three = shuffled(&cluster.members(), &chance);
    let [first, second, third] = three.as_slice() else { return Err("the scenario is for three nodes".to_owned()) };
    let key = client.create_key(&cluster, *first, "release", THRESHOLD, KeyPolicy::default()).await?;
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
