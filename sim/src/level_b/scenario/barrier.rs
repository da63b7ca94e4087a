//! A right that was taken away is gone, also where nobody heard of it: keys are revoked while a minority is cut off that holds
//! enough shares to sign and reaches nobody but the client that asks it, again and again.
//!
//! Whatever is asked for after the revocation was answered must come to nothing; what was asked for before may be signed. The
//! clocks of the nodes differ as much as the barrier allows for. Where the minority's run at half speed, which it does not
//! allow for, the same run must fail: so it can.
//!
//! The same with a minority that stands still while the key is revoked, and goes on when that was answered.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::{try_join, try_join_all};
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::fresh::Enforced;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::request::{Action, KeyPolicy};
use tokio::time::{Instant, sleep};

use super::{one_of, shuffled, version_on, without};
use crate::level_b::client::Client;
use crate::level_b::cluster::{Cluster, Shape};
use crate::level_b::surroundings::{Clock, SharedRng};
use crate::level_b::types::derive;

/// Five voters, and a member that only follows and holds shares.
const SHAPE: Shape = Shape { voters: 5, learners: 1, checkpoint_entries: 16 };
/// Holders that a signature needs: the minority is enough.
const THRESHOLD: usize = 2;
/// How long holders of the two keys go on without hearing of a majority, milliseconds.
const STALENESS_MS: [u32; 2] = [300, 10_000];
/// Within what the rates of clocks differ, per mille: by less than a twentieth of each other.
const RATES: (u64, u64) = (976, 1_024);
/// A clock at half speed, per mille.
const HALF: u64 = 500;
/// Where clocks begin, milliseconds.
const BEGINNINGS_MS: (u64, u64) = (0, 1_000_000);
/// Requests to each node of the minority at once, right after the answer.
const BURST: usize = 20;
/// Between two requests to the same node otherwise.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the minority is asked after the answer.
const AFTER: Duration = Duration::from_secs(3);

/// What keeps the minority from hearing of the revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Apart {
    /// Its links are cut.
    CutOff,
    /// It stands still, and goes on after the answer, perhaps with its links cut.
    StandingStill,
}

/// How right the clocks of nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clocks {
    /// As right as the barrier needs.
    WithinBounds,
    /// Those of the minority run at half speed: the planted bug.
    HalfSpeed,
}

struct Siege<'a> {
    client: &'a Client,
    cluster: &'a Cluster,
    minority: Vec<NodeId>,
    majority: Vec<NodeId>,
    apart: Apart,
    chance: &'a SharedRng,
}

pub(super) async fn play(seed: u64, clocks: Clocks, apart: Apart) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), SHAPE)?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    let (minority, expected) = draw_minority(&cluster, &chance, clocks)?;
    set_clocks(&cluster, &minority, &chance, clocks);
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;

    let mut keys = Vec::new();
    for max_staleness_ms in STALENESS_MS {
        let policy = KeyPolicy { max_staleness_ms, refresh_every_ms: None };
        let on = one_of(&cluster.members(), &chance)?;
        keys.push(client.create_key(&cluster, on, &format!("stale-{max_staleness_ms}"), THRESHOLD, policy).await?);
    }
    cluster.settle().await?;
    let [short, long] = keys.as_slice() else { return Err("the scenario is for two keys".to_owned()) };
    for on in cluster.members() {
        client.sign(&cluster, on, long, b"while all is well").await?;
    }

    // What a lost message would delay is another matter.
    cluster.network().lose(0);
    sleep(Duration::from_millis(chance.between(0, 1_000))).await;
    let majority = without(&cluster.members(), &minority);
    let siege = Siege { client: &client, cluster: &cluster, minority, majority, apart, chance: &chance };
    let signed = match apart {
        Apart::CutOff => {
            cluster.network().part(&siege.minority, &siege.majority);
            let (one, other) = try_join(siege.revoke(short, expected), siege.revoke(long, expected)).await?;
            one + other
        }
        Apart::StandingStill => siege.stand_still(short, expected).await? + siege.stand_still(long, expected).await?,
    };
    if signed == 0 {
        return Err("the minority signed nothing before the answer: nothing was put to the test".to_owned());
    }

    cluster.network().heal();
    cluster.until("all nodes to know of the revocations", |cluster| all_revoked(cluster, &keys)).await?;
    cluster.until("the cluster to be well again", Cluster::is_well).await?;
    cluster.settle().await?;
    cluster.compare_histories()?;
    Ok(cluster.trace().hash())
}

/// Who is cut off, and what can be enforced then: against one voter that is missing everything, against two what crashes allow.
fn draw_minority(cluster: &Cluster, chance: &SharedRng, clocks: Clocks) -> Result<(Vec<NodeId>, Enforced), String> {
    let members = cluster.members();
    let (voters, learners) = members.split_at(usize::from(SHAPE.voters));
    let voters = shuffled(voters, chance);
    let [first, second, ..] = voters.as_slice() else { return Err("there are too few voters".to_owned()) };
    let byzantine = clocks == Clocks::WithinBounds && chance.between(0, 1) == 1;
    match learners {
        [learner, ..] if byzantine => Ok((vec![*first, *learner], Enforced::Byzantine)),
        _ => Ok((vec![*first, *second], Enforced::Crash)),
    }
}

fn set_clocks(cluster: &Cluster, minority: &[NodeId], chance: &SharedRng, clocks: Clocks) {
    for me in cluster.members() {
        let (drawn, begins_ms) = (chance.between(RATES.0, RATES.1), chance.between(BEGINNINGS_MS.0, BEGINNINGS_MS.1));
        let slow = clocks == Clocks::HalfSpeed && minority.contains(&me);
        cluster.set_clock(me, Clock { per_mille: if slow { HALF } else { drawn }, begins_ms });
    }
}

fn all_revoked(cluster: &Cluster, keys: &[KeyCertificate]) -> Result<bool, String> {
    for (on, _) in cluster.cores() {
        for key in keys {
            if version_on(cluster, on, &key.core.key)?.state != KeyState::Revoked {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

impl Siege<'_> {
    /// Revokes a key while the minority, which has just signed with it, stands still.
    async fn stand_still(&self, key: &KeyCertificate, expected: Enforced) -> Result<usize, String> {
        let mut before = 0;
        for on in &self.minority {
            self.client.sign(self.cluster, *on, key, b"before it stands still").await?;
            before += 1;
        }
        self.minority.iter().try_for_each(|me| self.cluster.pause(*me))?;
        if self.chance.between(0, 1) == 1 {
            self.cluster.network().part(&self.minority, &self.majority);
        }
        let meanwhile = self.revoke(key, expected).await?;
        self.cluster.network().heal();
        self.cluster.until("the cluster to be well again", Cluster::is_well).await?;
        self.cluster.settle().await?;
        Ok(before + meanwhile)
    }

    /// Revokes a key through the majority while the minority is asked to sign with it. Gives how many signatures it made, all of
    /// them asked for before the answer.
    async fn revoke(&self, key: &KeyCertificate, expected: Enforced) -> Result<usize, String> {
        let answered: Cell<Option<Instant>> = Cell::new(None);
        let revoke = async {
            let on = one_of(&self.majority, self.chance)?;
            let action = Action::RevokeKey { reason: "the simulation says so".to_owned() };
            let checked = self.client.withdraw(self.cluster, on, action, Some(key.core.key)).await?;
            answered.set(Some(Instant::now()));
            if self.apart == Apart::StandingStill {
                self.minority.iter().try_for_each(|me| self.cluster.resume(*me))?;
            }
            let missing: BTreeSet<NodeId> = self.minority.iter().copied().collect();
            if (checked.enforced, &checked.missing) != (expected, &missing) {
                let (name, expected) = (checked.enforced.name(), expected.name());
                return Err(format!("`{name}` without {:?}, not `{expected}` without {missing:?}", checked.missing));
            }
            self.burst(key, &answered).await?;
            self.majority_refuses(on, key).await
        };
        let asking = try_join_all(self.minority.iter().map(|on| self.ask_on(*on, key, &answered)));
        let ((), signed) = try_join(revoke, asking).await?;
        Ok(signed.into_iter().sum())
    }

    /// Asks one node of the minority once. Whether it signed.
    async fn ask(&self, on: NodeId, key: &KeyCertificate, answered: &Cell<Option<Instant>>) -> Result<bool, String> {
        let before = answered.get();
        let signed = self.client.try_sign(self.cluster, on, key, b"by nobody's leave").await?.is_ok();
        match before {
            Some(at) if signed => Err(format!(
                "the minority {:?} signed with key `{}`, asked at node {on} after the revocation was answered, {} ms ago",
                self.minority,
                key.core.name,
                at.elapsed().as_millis()
            )),
            _ => Ok(signed),
        }
    }

    /// Asks one node of the minority until some time after the answer. Gives how often it signed.
    async fn ask_on(
        &self,
        on: NodeId,
        key: &KeyCertificate,
        answered: &Cell<Option<Instant>>,
    ) -> Result<usize, String> {
        let mut signed = 0;
        while answered.get().is_none_or(|at| at.elapsed() < AFTER) {
            signed += usize::from(self.ask(on, key, answered).await?);
            sleep(PAUSE).await;
        }
        Ok(signed)
    }

    async fn burst(&self, key: &KeyCertificate, answered: &Cell<Option<Instant>>) -> Result<(), String> {
        let nodes = self.minority.iter().cycle().take(BURST * self.minority.len());
        try_join_all(nodes.map(|on| self.ask(*on, key, answered))).await.map(drop)
    }

    /// Who knows of the revocation says so.
    async fn majority_refuses(&self, on: NodeId, key: &KeyCertificate) -> Result<(), String> {
        match self.client.try_sign(self.cluster, on, key, b"revoked").await? {
            Err(refusal) if refusal.code == ErrorCode::WrongState => Ok(()),
            answer => Err(format!("node {on} answered {answer:?} for a key that it knows to be revoked")),
        }
    }
}
