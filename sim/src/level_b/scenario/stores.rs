//! Stores that are empty, old or there twice. Their nodes take no part: no vote, no signature with an old share, and no leader
//! fails over them; the others go on, and a new node takes the place of each.

use std::time::Duration;

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::genesis::MemberRole;
use symbolon_protocol::id::{NodeId, Threshold};
use symbolon_protocol::request::{Action, KeyPolicy, RosterPlan};
use tokio::time::sleep;

use super::shares::is_healed;
use super::{is_moving, one_of, shuffled, without};
use crate::level_b::client::Client;
use crate::level_b::cluster::{Cluster, Remains, Shape};
use crate::level_b::crowd::Crowd;
use crate::level_b::surroundings::SharedRng;
use crate::level_b::types::derive;

/// Members.
const VOTERS: u16 = 5;
/// Holders that a signature needs.
const THRESHOLD: usize = 2;
/// Between two changes of one client beside all this, milliseconds.
const PAUSE_MS: (u64, u64) = (300, 2_000);
/// How long a bad store is there.
const LONG: Duration = Duration::from_secs(4);
/// Signatures that are asked for meanwhile.
const SIGNATURES: usize = 10;

/// What is wrong with the store of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    /// Its disk was lost, and it starts with nothing.
    Empty,
    /// It was restored from before a refresh.
    RolledBack,
    /// A copy of it runs in another place.
    Cloned,
}

struct Run<'a> {
    client: &'a Client,
    cluster: &'a Cluster,
    chance: &'a SharedRng,
    key: KeyCertificate,
}

pub(super) async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), Shape::of(VOTERS))?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;
    let on = one_of(&cluster.members(), &chance)?;
    let key = client.create_key(&cluster, on, "release", THRESHOLD, KeyPolicy::default()).await?;
    cluster.settle().await?;
    cluster.network().lose(0);
    let run = Run { client: &client, cluster: &cluster, chance: &chance, key };
    let crowd = Crowd::new(seed, &client, &cluster, PAUSE_MS, None);
    crowd.during(run.stores()).await?;
    run.no_vote_of_an_empty_store().await?;
    Ok(cluster.trace().hash())
}

impl Run<'_> {
    async fn stores(&self) -> Result<(), String> {
        for store in shuffled(&[Store::Empty, Store::RolledBack, Store::Cloned], self.chance) {
            self.cluster.trace().note("store", format!("{store:?}").as_bytes());
            self.meet(store).await.map_err(|why| format!("{store:?}: {why}"))?;
        }
        Ok(())
    }

    async fn meet(&self, store: Store) -> Result<(), String> {
        let (cluster, key) = (self.cluster, self.key.core.key);
        let victim = one_of(&cluster.members(), self.chance)?;
        let others = without(&cluster.members(), &[victim]);
        let on = one_of(&others, self.chance)?;
        let remains = cluster.crash(victim).await?;
        let old = match store {
            Store::Empty => Remains::default(),
            Store::RolledBack | Store::Cloned => remains.clone(),
        };
        if store == Store::Empty {
            cluster.until("the others to agree on a leader", Cluster::is_well).await?;
        } else {
            cluster.restart(victim, remains).await?;
            cluster.until("the cluster to be well", Cluster::is_well).await?;
            self.client.change(cluster, on, Action::RefreshKey { absent: Vec::new() }, Some(key)).await?;
            cluster.until("all to have the next share", |cluster| is_healed(cluster, &key)).await?;
            if store == Store::RolledBack {
                drop(cluster.crash(victim).await?);
            }
        }
        // It is one of those that run no more, whatever it says.
        cluster.dismiss(victim);
        if store == Store::Cloned {
            cluster.boot(victim, old).await?;
        } else {
            cluster.restart(victim, old).await?;
        }
        sleep(LONG).await;
        cluster.until("the others to be well", Cluster::is_well).await?;
        for number in 0..SIGNATURES {
            let signed = self.client.sign(cluster, on, &self.key, format!("message {number}").as_bytes()).await?;
            if signed.contains(&victim) {
                return Err(format!("node {victim} signed with a store that is not its own: {signed:?}"));
            }
        }
        // What it believes of itself, all alone, does not matter.
        for on in &others {
            if cluster.core(*on)?.leader() == Some(victim) {
                return Err(format!("node {victim} leads node {on} with a store that is not its own"));
            }
        }
        self.replace(victim, on).await
    }

    async fn replace(&self, old: NodeId, on: NodeId) -> Result<(), String> {
        let (cluster, key) = (self.cluster, self.key.core.key);
        let (id, member, store) = cluster.enrol(MemberRole::Voter)?;
        let action = Action::ReplaceMember { old, id, member, store, lost: true };
        let followed = self.client.change_members(cluster, on, action).await?;
        drop(cluster.crash(old).await?);
        cluster.admit(id, followed);
        cluster.boot(id, Remains::default()).await?;
        cluster.until("the new node to be there", Cluster::is_well).await?;
        let roster = cluster.members();
        let threshold = Threshold::new(THRESHOLD, roster.len()).ok_or("the threshold does not fit the roster")?;
        let plan = RosterPlan { roster, spares: Vec::new(), threshold };
        self.client.change(cluster, on, Action::ReshareKey { plan, absent: Vec::new() }, Some(key)).await?;
        cluster.until("the shares to be moved", |cluster| Ok(!is_moving(cluster, on, &key)?)).await?;
        cluster.until("all to have a share", |cluster| is_healed(cluster, &key)).await?;
        for on in cluster.members() {
            self.client.sign(cluster, on, &self.key, b"with a new node").await?;
        }
        Ok(())
    }

    /// Of five voters two are there, and one whose store is empty: with its vote they would be a majority.
    async fn no_vote_of_an_empty_store(&self) -> Result<(), String> {
        let cluster = self.cluster;
        let victims = shuffled(&cluster.members(), self.chance);
        let (away, here) = victims.split_at(victims.len() / 2 + 1);
        let mut left = cluster.crash_all(away).await?;
        let Some((empty, rest)) = away.split_first() else { return Err("nobody is away".to_owned()) };
        left.remove(empty);
        cluster.dismiss(*empty);
        cluster.restart(*empty, Remains::default()).await?;
        sleep(LONG).await;
        let on = one_of(here, self.chance)?;
        let action = Action::RevokeKey { reason: "nobody may order this".to_owned() };
        let request = self.client.request(cluster, action, Some(self.key.core.key), &[]);
        match cluster.served(on, "an answer", |core| async move { core.order_request(request).await }).await? {
            Err(refusal) if refusal.code == ErrorCode::NoQuorum => {}
            answer => return Err(format!("with the vote of an empty store a request was answered {answer:?}")),
        }
        for me in rest {
            cluster.restart(*me, left.remove(me).ok_or("a node left nothing behind")?).await?;
        }
        cluster.until("a majority to be well", Cluster::is_well).await?;
        self.client.register(cluster, on, "late").await?;
        cluster.settle().await?;
        cluster.compare_histories()
    }
}
