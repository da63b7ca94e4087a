//! Clients change things through all nodes at once, while the leader is cut off, links work in one direction only, a minority is
//! apart, two halves hear each other through one node only, and all nodes lose power together.

use std::time::Duration;

use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::request::KeyPolicy;
use tokio::time::sleep;

use super::{one_of, shuffled, without};
use crate::level_b::client::Client;
use crate::level_b::cluster::{Cluster, Shape};
use crate::level_b::crowd::{CLIENTS, Crowd};
use crate::level_b::surroundings::SharedRng;
use crate::level_b::types::derive;

/// Five voters. There is no checkpoint within a run, so that the log is whole at its end.
const SHAPE: Shape = Shape { voters: 5, learners: 0, checkpoint_entries: limits::CHECKPOINT_ENTRIES };
/// Holders that a signature needs.
const THRESHOLD: usize = 3;
/// Between two changes of one client, milliseconds.
const PAUSE_MS: (u64, u64) = (20, 250);
/// How long a fault lasts, and how long it is quiet before and after it, milliseconds.
const FAULT_MS: (u64, u64) = (1_000, 3_500);
/// How long it is quiet, milliseconds.
const QUIET_MS: (u64, u64) = (300, 1_500);
/// How long the power is off, milliseconds.
const OFF_MS: (u64, u64) = (0, 2_000);

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The leader hears nobody, and nobody hears it.
    LeaderAlone,
    /// Nobody hears the leader; it hears everybody.
    LeaderMute,
    /// The leader hears nobody; everybody hears it.
    LeaderDeaf,
    /// Some links work in one direction only.
    OneWay,
    /// Two nodes are apart from the others.
    Minority,
    /// Two and two are apart, and one hears all.
    Bridge,
    /// All nodes lose power at once.
    NoPower,
}

const FAULTS: [Fault; 7] = [
    Fault::LeaderAlone,
    Fault::LeaderMute,
    Fault::LeaderDeaf,
    Fault::OneWay,
    Fault::Minority,
    Fault::Bridge,
    Fault::NoPower,
];

struct Run<'a> {
    cluster: &'a Cluster,
    chance: &'a SharedRng,
}

pub(super) async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), SHAPE)?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;
    let on = one_of(&cluster.members(), &chance)?;
    let key = client.create_key(&cluster, on, "release", THRESHOLD, KeyPolicy::default()).await?;
    cluster.settle().await?;

    let crowd = Crowd::new(seed, &client, &cluster, PAUSE_MS, Some(key));
    let ((), answered) = crowd.during(Run { cluster: &cluster, chance: &chance }.trouble()).await?;
    let refused = crowd.refused();
    if answered < CLIENTS * FAULTS.len() || refused == 0 {
        return Err(format!("{answered} changes, {refused} refused: too few for a test"));
    }
    Ok(cluster.trace().hash())
}

impl Run<'_> {
    async fn pause(&self, (low, high): (u64, u64)) {
        sleep(Duration::from_millis(self.chance.between(low, high))).await;
    }

    /// One fault after the other, each once, in an order that the seed decides.
    async fn trouble(&self) -> Result<(), String> {
        for fault in shuffled(&FAULTS, self.chance) {
            self.pause(QUIET_MS).await;
            self.cluster.trace().note("fault", format!("{fault:?}").as_bytes());
            self.cause(fault).await?;
            self.cluster.network().heal();
        }
        self.pause(QUIET_MS).await;
        Ok(())
    }

    async fn cause(&self, fault: Fault) -> Result<(), String> {
        let (cluster, members) = (self.cluster, self.cluster.members());
        let network = cluster.network();
        // While nobody leads it is somebody.
        let leader = cluster.leader().map_or_else(|| one_of(&members, self.chance), Ok)?;
        let others = without(&members, &[leader]);
        match fault {
            Fault::LeaderAlone => network.part(&[leader], &others),
            Fault::LeaderMute => others.iter().for_each(|other| network.cut_way(leader, *other)),
            Fault::LeaderDeaf => others.iter().for_each(|other| network.cut_way(*other, leader)),
            Fault::OneWay => {
                for _ in 0..members.len() {
                    network.cut_way(one_of(&members, self.chance)?, one_of(&members, self.chance)?);
                }
            }
            Fault::Minority => {
                let mut apart = shuffled(&members, self.chance);
                let rest = apart.split_off(members.len() / 2);
                network.part(&apart, &rest);
            }
            Fault::Bridge => {
                let nodes = shuffled(&members, self.chance);
                let (some, others) = nodes.split_at(members.len() / 2);
                let (_bridge, others): (&[NodeId], _) = others.split_at(1);
                network.part(some, others);
            }
            Fault::NoPower => {
                let mut left = cluster.crash_all(&members).await?;
                self.pause(OFF_MS).await;
                for me in shuffled(&members, self.chance) {
                    let remains = left.remove(&me).ok_or_else(|| format!("node {me} left nothing behind"))?;
                    cluster.restart(me, remains).await?;
                }
            }
        }
        self.pause(FAULT_MS).await;
        Ok(())
    }
}
