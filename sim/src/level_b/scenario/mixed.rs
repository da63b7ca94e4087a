//! Requests of all kinds, one after the other, each through a node that the seed chooses.

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::request::{Action, KeyPolicy};

use super::{below, is_moving, one_of};
use crate::level_b::client::{Client, name};
use crate::level_b::cluster::Cluster;
use crate::level_b::surroundings::SharedRng;

/// The longest staleness of the key, milliseconds: something between these.
const STALENESS_MS: (u64, u64) = (1_000, 5_000);

/// Somebody who asks for all kinds of things.
pub(super) struct Mixed<'a> {
    client: &'a Client,
    cluster: &'a Cluster,
    chance: &'a SharedRng,
    key: KeyCertificate,
    suspended: bool,
    /// Clients that were registered and not removed.
    guests: Vec<String>,
    /// Requests so far.
    asked: u64,
}

impl<'a> Mixed<'a> {
    /// Makes the key that most of it is about.
    pub(super) async fn begin(
        client: &'a Client,
        cluster: &'a Cluster,
        chance: &'a SharedRng,
        threshold: usize,
    ) -> Result<Self, String> {
        let on = one_of(&cluster.members(), chance)?;
        let key = client.create_key(cluster, on, "release", threshold, KeyPolicy::default()).await?;
        cluster.settle().await?;
        Ok(Self { client, cluster, chance, key, suspended: false, guests: Vec::new(), asked: 0 })
    }

    /// Makes so many requests. Those that need everybody are made while all members run.
    pub(super) async fn ask(&mut self, requests: u32) -> Result<(), String> {
        for _ in 0..requests {
            let running: Vec<NodeId> = self.cluster.cores().into_iter().map(|(id, _)| id).collect();
            let all_run = running.len() == self.cluster.members().len();
            let on = one_of(&running, self.chance)?;
            self.asked += 1;
            match self.chance.between(0, 19) {
                0..=4 => self.register(on).await?,
                5..=7 => self.remove(on).await?,
                8..=10 => self.suspend_or_resume(on).await?,
                11..=12 => self.set_policy(on).await?,
                13 if all_run => self.refresh(on).await?,
                14 if all_run => self.create(on).await?,
                15..=17 => self.sign(on).await?,
                _ => drop(self.client.show_key(self.cluster, on, &self.key).await?),
            }
        }
        Ok(())
    }

    async fn register(&mut self, on: NodeId) -> Result<(), String> {
        let guest = format!("guest-{}", self.asked);
        self.client.register(self.cluster, on, &guest).await?;
        self.guests.push(guest);
        Ok(())
    }

    async fn remove(&mut self, on: NodeId) -> Result<(), String> {
        if self.guests.is_empty() {
            return self.register(on).await;
        }
        let guest = self.guests.swap_remove(below(self.chance, self.guests.len()));
        let action = Action::RemoveClient { name: name(&guest)? };
        self.client.withdraw(self.cluster, on, action, None).await.map(drop)
    }

    async fn suspend_or_resume(&mut self, on: NodeId) -> Result<(), String> {
        let key = Some(self.key.core.key);
        if self.suspended {
            self.client.change(self.cluster, on, Action::ResumeKey, key).await?;
            // A holder that has not heard of it refuses for good.
            self.cluster.settle().await?;
        } else {
            self.client.withdraw(self.cluster, on, Action::SuspendKey, key).await?;
        }
        self.suspended = !self.suspended;
        Ok(())
    }

    async fn set_policy(&self, on: NodeId) -> Result<(), String> {
        let drawn = self.chance.between(STALENESS_MS.0, STALENESS_MS.1);
        let policy = KeyPolicy { max_staleness_ms: u32::try_from(drawn).unwrap_or(1_000), refresh_every_ms: None };
        self.client.change(self.cluster, on, Action::SetKeyPolicy { policy }, Some(self.key.core.key)).await.map(drop)
    }

    async fn refresh(&self, on: NodeId) -> Result<(), String> {
        let key = self.key.core.key;
        self.client.change(self.cluster, on, Action::RefreshKey { absent: Vec::new() }, Some(key)).await?;
        self.cluster.until("the refresh to be over", |cluster| Ok(!is_moving(cluster, on, &key)?)).await
    }

    async fn create(&self, on: NodeId) -> Result<(), String> {
        let (key, threshold) = (format!("key-{}", self.asked), self.key.core.threshold.get());
        self.client.create_key(self.cluster, on, &key, threshold, KeyPolicy::default()).await.map(drop)
    }

    async fn sign(&mut self, on: NodeId) -> Result<(), String> {
        if self.suspended {
            return self.suspend_or_resume(on).await;
        }
        let message = format!("message {}", self.asked);
        self.client.sign(self.cluster, on, &self.key, message.as_bytes()).await.map(drop)
    }
}
