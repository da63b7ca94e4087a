//! Times of day are wrong, that of the leader by decades, and a node that was away for long takes a checkpoint. State time stays
//! what the others can believe, a leader that lives in the past gives way, and what is right again goes on.

use std::time::Duration;

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::request::KeyPolicy;
use symbolon_protocol::state::records;
use tokio::time::sleep;

use super::{one_of, shuffled, without};
use crate::level_b::client::Client;
use crate::level_b::cluster::{Cluster, Shape};
use crate::level_b::crowd::Crowd;
use crate::level_b::surroundings::SharedRng;
use crate::level_b::types::derive;

/// Holders that a signature needs, of the five nodes.
const THRESHOLD: usize = 3;
/// Between two changes of one client beside all this, milliseconds.
const PAUSE_MS: (u64, u64) = (300, 2_000);
/// As far as a clock of a follower is set forward and back, milliseconds: a year.
const YEAR_MS: i64 = 365 * 24 * 3_600_000;
/// As far as a leader's is set: to 2100 and beyond.
const DECADES_MS: i64 = 74 * YEAR_MS;
/// How long a clock is wrong.
const WRONG: Duration = Duration::from_secs(5);
/// Entries that are more than a node may be behind without a checkpoint.
const FAR: u64 = 64;

struct Run<'a> {
    client: &'a Client,
    cluster: &'a Cluster,
    chance: &'a SharedRng,
    key: KeyCertificate,
}

pub(super) async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), Shape::of(5))?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;
    let on = one_of(&cluster.members(), &chance)?;
    let key = client.create_key(&cluster, on, "release", THRESHOLD, KeyPolicy::default()).await?;
    cluster.settle().await?;
    cluster.network().lose(0);
    let run = Run { client: &client, cluster: &cluster, chance: &chance, key };
    let crowd = Crowd::new(seed, &client, &cluster, PAUSE_MS, None);
    crowd.during(run.wrong_clocks()).await?;
    // The clients of the crowd would wait for a leader that orders nothing of the present.
    run.frozen().await?;
    run.until_right().await?;
    cluster.compare_histories()?;
    Ok(cluster.trace().hash())
}

impl Run<'_> {
    fn leader(&self) -> Result<NodeId, String> {
        self.cluster.leader().ok_or_else(|| "nobody leads".to_owned())
    }

    async fn wrong_clocks(&self) -> Result<(), String> {
        for off_ms in shuffled(&[YEAR_MS, -YEAR_MS], self.chance) {
            let victim = one_of(&without(&self.cluster.members(), &[self.leader()?]), self.chance)?;
            self.wrong(victim, off_ms).await?;
        }
        self.wrong(self.leader()?, DECADES_MS).await?;
        self.fall_behind().await
    }

    /// A machine has a wrong time of day for a while.
    async fn wrong(&self, victim: NodeId, off_ms: i64) -> Result<(), String> {
        self.cluster.set_day(victim, off_ms);
        let on = one_of(&without(&self.cluster.members(), &[victim]), self.chance)?;
        sleep(WRONG).await;
        self.state_time_is_right()?;
        if self.leader()? != victim {
            self.client.sign(self.cluster, on, &self.key, b"beside a wrong clock").await?;
        }
        self.cluster.set_day(victim, 0);
        self.until_right().await
    }

    /// No node believes in more than the entries that it may take lie ahead.
    fn state_time_is_right(&self) -> Result<(), String> {
        let now = self.cluster.now_ms();
        for (on, core) in self.cluster.cores() {
            let time_ms = records::cluster(&core.state_tables()).map_err(|e| e.to_string())?.time_ms;
            if time_ms > now + limits::ENTRY_AHEAD_MS {
                return Err(format!("the state time of node {on} is {} ms ahead", time_ms - now));
            }
        }
        Ok(())
    }

    /// A leader that lives far in the past would hold state time back: another one leads, and all sign by the time of now.
    async fn frozen(&self) -> Result<(), String> {
        let leader = self.leader()?;
        self.cluster.set_day(leader, -YEAR_MS);
        sleep(Duration::from_millis(limits::STATE_BEHIND_MS + limits::TICK_MS)).await;
        if self.leader()? == leader {
            return Err(format!("node {leader} leads from the past"));
        }
        for on in without(&self.cluster.members(), &[leader]) {
            self.client.sign(self.cluster, on, &self.key, b"without the past").await?;
            let core = self.cluster.core(on)?;
            let time_ms = records::cluster(&core.state_tables()).map_err(|e| e.to_string())?.time_ms;
            let behind_ms = self.cluster.now_ms().saturating_sub(time_ms);
            if behind_ms > limits::STATE_BEHIND_MS {
                return Err(format!("the state time of node {on} is {behind_ms} ms behind"));
            }
        }
        self.cluster.set_day(leader, 0);
        Ok(())
    }

    /// A node that was away takes a checkpoint in the place of a log that is gone, and signs.
    async fn fall_behind(&self) -> Result<(), String> {
        let cluster = self.cluster;
        let victim = one_of(&cluster.members(), self.chance)?;
        let remains = cluster.crash(victim).await?;
        cluster.until("the others to agree on a leader", Cluster::is_well).await?;
        let before = cluster.applied();
        while cluster.applied() < before + FAR {
            let on = one_of(&without(&cluster.members(), &[victim]), self.chance)?;
            self.client.register(cluster, on, &format!("far-{}", cluster.applied())).await?;
        }
        cluster.restart(victim, remains).await?;
        self.until_right().await?;
        let first = cluster.log_after(victim, None)?.first_key_value().map(|(index, _)| *index);
        if first.is_none_or(|first| first <= before) {
            return Err(format!("node {victim} took no checkpoint: its log begins at {first:?}, it left at {before}"));
        }
        Ok(())
    }

    async fn until_right(&self) -> Result<(), String> {
        self.cluster.until("the cluster to be well", Cluster::is_well).await?;
        self.cluster.settle().await?;
        for on in shuffled(&self.cluster.members(), self.chance) {
            self.client.sign(self.cluster, on, &self.key, b"with right clocks").await?;
        }
        self.state_time_is_right()
    }
}
