//! A leader and voters that lie, over the real codec: see [`evil`](crate::level_b::evil). Nothing that they say counts where it
//! must not, and whatever they do the others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openraft::Vote;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use symbolon_node::core::raft_log::pack;
use symbolon_node::core::types::{Lane, Transport as _};
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::fresh::Enforced;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::peer::{RaftAnswer, RaftCall};
use symbolon_protocol::request::{Action, KeyPolicy};
use symbolon_protocol::schema::replicated;
use symbolon_protocol::wire::{Bytes, decode, encode};
use tokio::time::sleep;

use super::{one_of, shuffled, without};
use crate::level_b::client::Client;
use crate::level_b::cluster::{Cluster, Shape};
use crate::level_b::crowd::Crowd;
use crate::level_b::evil::{Corrupts, TwoHistories, Usurps, Withholds};
use crate::level_b::surroundings::SharedRng;
use crate::level_b::types::{SimTypes, derive};

/// Five voters, and a member that only follows and holds shares.
const SHAPE: Shape = Shape { voters: 5, learners: 1, checkpoint_entries: 16 };
/// Holders that a signature needs.
const THRESHOLD: usize = 2;
/// Between two changes of one client beside all this, milliseconds.
const PAUSE_MS: (u64, u64) = (300, 2_000);
/// Staleness of the key that is revoked, milliseconds.
const STALENESS_MS: (u64, u64) = (300, 3_000);
/// Requests to each node that was kept from hearing of it.
const BURST: usize = 30;
/// How long a lie goes on at least.
const LONG: Duration = Duration::from_secs(4);
/// Entries that are more than a node may be behind without a checkpoint.
const FAR: u64 = 64;
/// Calls of random bytes.
const NOISE: usize = 40;

/// Who lies how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// The leader withholds a revocation.
    Withholds,
    /// The leader makes itself the only voter.
    Usurps,
    /// A voter speaks in the name of others, names absurd terms, and sends noise.
    Impersonates,
    /// The leader hands out forged checkpoints.
    Corrupts,
    /// A voter signs two histories. Nothing that it says counts from then on, so this comes last.
    TwoHistories,
}

struct Run<'a> {
    client: &'a Client,
    cluster: &'a Cluster,
    chance: &'a SharedRng,
    key: KeyCertificate,
}

pub(super) async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), SHAPE)?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;
    let on = one_of(&cluster.members(), &chance)?;
    let key = client.create_key(&cluster, on, "release", THRESHOLD, KeyPolicy::default()).await?;
    cluster.settle().await?;
    // What a lost message would delay is another matter.
    cluster.network().lose(0);
    let crowd = Crowd::new(seed, &client, &cluster, PAUSE_MS, None);
    let run = Run { client: &client, cluster: &cluster, chance: &chance, key };
    crowd.during(run.lies()).await?;
    Ok(cluster.trace().hash())
}

impl Run<'_> {
    async fn lies(&self) -> Result<(), String> {
        let lies = [Lie::Withholds, Lie::Usurps, Lie::Impersonates, Lie::Corrupts];
        for lie in shuffled(&lies, self.chance).into_iter().chain([Lie::TwoHistories]) {
            self.cluster.trace().note("lie", format!("{lie:?}").as_bytes());
            let told = async {
                self.cluster.until("the cluster to be well", Cluster::is_well).await?;
                match lie {
                    Lie::Withholds => self.withhold().await,
                    Lie::Usurps => self.usurp().await,
                    Lie::Impersonates => self.impersonate().await,
                    Lie::Corrupts => self.corrupt().await,
                    Lie::TwoHistories => self.tell_two_histories().await,
                }
            };
            told.await.map_err(|why| format!("{lie:?}: {why}"))?;
            self.cluster.until("the cluster to be well again", Cluster::is_well).await?;
            self.cluster.settle().await?;
            for on in self.cluster.members() {
                self.client.sign(self.cluster, on, &self.key, b"after a lie").await?;
            }
        }
        Ok(())
    }

    fn leader(&self) -> Result<NodeId, String> {
        self.cluster.leader().ok_or_else(|| "nobody leads".to_owned())
    }

    fn voters(&self) -> Vec<NodeId> {
        self.cluster.members().into_iter().take(usize::from(SHAPE.voters)).collect()
    }

    /// Of a voter and a learner nobody signs after the answer, which says byzantine. With two voters the leader makes a majority
    /// that is stale, and the answer must not say that this is impossible.
    async fn withhold(&self) -> Result<(), String> {
        let (cluster, client) = (self.cluster, self.client);
        let drawn = self.chance.between(STALENESS_MS.0, STALENESS_MS.1);
        let max_staleness_ms = u32::try_from(drawn).map_err(|e| e.to_string())?;
        let policy = KeyPolicy { max_staleness_ms, refresh_every_ms: None };
        let on = one_of(&cluster.members(), self.chance)?;
        let key = client.create_key(cluster, on, "withdrawn", THRESHOLD, policy).await?;
        cluster.settle().await?;
        let leader = self.leader()?;
        let mut victims = shuffled(&without(&self.voters(), &[leader]), self.chance);
        victims.truncate(2);
        let byzantine = self.chance.between(0, 1) == 1;
        if byzantine {
            victims.pop();
            victims.extend(without(&cluster.members(), &self.voters()));
        }
        let revoke = Action::RevokeKey { reason: "the simulation says so".to_owned() };
        let request = client.request(cluster, revoke, Some(key.core.key), &[]);
        let deceit = Withholds {
            core: cluster.core(leader)?,
            identity: cluster.identity(leader)?,
            from: victims.clone(),
            body: request.body.0.clone(),
            last: std::sync::Mutex::default(),
        };
        cluster.network().deceive(leader, Arc::new(deceit));
        let checked = client.withdraw_by(cluster, leader, &request).await?;
        let expected = if byzantine { Enforced::Byzantine } else { Enforced::Crash };
        if checked.enforced != expected || !victims.iter().all(|victim| checked.missing.contains(victim)) {
            return Err(format!("{victims:?} did not hear of it, and the report is {checked:?}"));
        }
        for on in victims.iter().cycle().take(BURST * victims.len()).filter(|_| byzantine) {
            if client.try_sign(cluster, *on, &key, b"by nobody's leave").await?.is_ok() {
                return Err(format!("{victims:?} signed with a revoked key, asked at node {on}"));
            }
        }
        // Its own program believes by now what it told the others.
        let remains = cluster.crash(leader).await?;
        cluster.network().repent(leader);
        cluster.until("the others to agree on a leader", Cluster::is_well).await?;
        cluster.restart(leader, remains).await
    }

    async fn usurp(&self) -> Result<(), String> {
        let (cluster, leader) = (self.cluster, self.leader()?);
        let deceit = Arc::new(Usurps { only: [u64::from(leader.get())].into(), ..Usurps::default() });
        cluster.network().deceive(leader, Arc::<Usurps>::clone(&deceit));
        let other = one_of(&without(&self.voters(), &[leader]), self.chance)?;
        let deposed = |cluster: &Cluster| {
            let follows = cluster.core(other)?.leader();
            Ok(follows.is_some_and(|other| other != leader))
        };
        cluster.until("the others to have another leader", deposed).await?;
        cluster.network().repent(leader);
        if deceit.refused.load(Ordering::Relaxed) == 0 {
            return Err("voters that no administrator signed for were not refused".to_owned());
        }
        Ok(())
    }

    async fn raft_call(&self, from: NodeId, to: NodeId, call: &RaftCall) -> Result<RaftAnswer, String> {
        let asked = self.cluster.transport(from)?.call(to, Lane::Raft, encode(call));
        let answer = self.cluster.within("an answer", asked).await?.map_err(|e| e.to_string())?;
        decode(&answer).map_err(|e| e.to_string())
    }

    async fn impersonate(&self) -> Result<(), String> {
        let (cluster, leader) = (self.cluster, self.leader()?);
        let others = without(&self.voters(), &[leader]);
        let evil = one_of(&others, self.chance)?;
        let number = |node: NodeId| u64::from(node.get());
        let vote = |term, node| VoteRequest::<SimTypes>::new(Vote::new(term, node), None);
        let append = |term, node| AppendEntriesRequest::<SimTypes> {
            vote: Vote::new_committed(term, node),
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        let bytes = |packed: std::io::Result<Vec<u8>>| packed.map(Bytes).map_err(|e| e.to_string());
        for to in without(&cluster.members(), &[evil]) {
            let name = number(one_of(&without(&self.voters(), &[evil]), self.chance)?);
            let (own, far) = (number(evil), u64::MAX);
            let calls = [
                RaftCall::Vote(bytes(pack(&vote(500, name)))?),
                RaftCall::PreVote(bytes(pack(&vote(500, name)))?),
                RaftCall::Append(bytes(pack(&append(500, name)))?),
                RaftCall::Vote(bytes(pack(&vote(far, own)))?),
                RaftCall::PreVote(bytes(pack(&vote(far, own)))?),
                RaftCall::Append(bytes(pack(&append(far, own)))?),
            ];
            for call in shuffled(&calls, self.chance) {
                match self.raft_call(evil, to, &call).await? {
                    RaftAnswer::Refused(_) => {}
                    answer => return Err(format!("node {to} answered {answer:?} to {call:?}")),
                }
            }
        }
        if self.leader()? != leader {
            return Err("one who spoke in the name of others brought the leader down".to_owned());
        }
        for _ in 0..NOISE {
            let lane = if self.chance.between(0, 1) == 1 { Lane::Raft } else { Lane::Work };
            let mut noise = self.chance.bytes::<64>().to_vec();
            noise.truncate(super::below(self.chance, 64));
            // The first byte says what it is: more of it is read where it says something.
            if let Some(first) = noise.first_mut() {
                *first %= 24;
            }
            let to = one_of(&without(&cluster.members(), &[evil]), self.chance)?;
            let asked = cluster.transport(evil)?.call(to, lane, noise);
            cluster.within("an answer to noise", asked).await?.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    async fn corrupt(&self) -> Result<(), String> {
        let (cluster, leader) = (self.cluster, self.leader()?);
        let victim = one_of(&without(&cluster.members(), &[leader]), self.chance)?;
        let remains = cluster.crash(victim).await?;
        cluster.until("the others to agree on a leader", Cluster::is_well).await?;
        let before = cluster.applied();
        while cluster.applied() < before + FAR {
            let guest = format!("far-{}", cluster.applied());
            self.client.register(cluster, self.leader()?, &guest).await?;
        }
        let rows: [Option<&[u8]>; 4] =
            [None, Some(replicated::CLIENTS), Some(replicated::VERSIONS), Some(replicated::MEMBERS)];
        let rows = shuffled(&rows, self.chance).pop().flatten();
        let leader = self.leader()?;
        let deceit = Arc::new(Corrupts { me: leader, rows, done: AtomicUsize::new(0), refused: AtomicUsize::new(0) });
        cluster.network().deceive(leader, Arc::<Corrupts>::clone(&deceit));
        cluster.restart(victim, remains).await?;
        let refused =
            |_: &Cluster| Ok(deceit.done.load(Ordering::Relaxed) > 0 && deceit.refused.load(Ordering::Relaxed) > 0);
        cluster.until("a forged checkpoint to be refused", refused).await?;
        sleep(LONG).await;
        if self.leader()? == leader && cluster.core(victim)?.applied_index().unwrap_or(0) >= before + FAR {
            return Err("a node took a forged checkpoint".to_owned());
        }
        cluster.network().repent(leader);
        Ok(())
    }

    async fn tell_two_histories(&self) -> Result<(), String> {
        let cluster = self.cluster;
        let evil = one_of(&self.voters(), self.chance)?;
        let others = without(&cluster.members(), &[evil]);
        let mut told = shuffled(&others, self.chance);
        told.truncate(1 + super::below(self.chance, others.len() - 1));
        let identity = cluster.identity(evil)?;
        let deceit = TwoHistories { identity, cluster: cluster.genesis().cluster_id(), told };
        cluster.network().deceive(evil, Arc::new(deceit));
        let key = evil_key(cluster, evil)?;
        // Voters hear from each other what a voter signed. Whoever only asks has what it was told itself.
        let voters = self.voters();
        let proved = |cluster: &Cluster| {
            for on in others.iter().filter(|on| voters.contains(on)) {
                let proofs = cluster.core(*on)?.lease_view().equivocations;
                let id = cluster.genesis().cluster_id();
                if !proofs.iter().any(|proof| proof.node() == evil && proof.proves(&key, &id)) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        cluster.until("all voters to have the proof", proved).await?;
        for on in &others {
            self.client.sign(cluster, *on, &self.key, b"beside one who signed two histories").await?;
            if voters.contains(on) && cluster.core(*on)?.lease_view().counted.contains(&evil) {
                return Err(format!("node {on} counts one who signed two histories"));
            }
        }
        cluster.network().repent(evil);
        Ok(())
    }
}

fn evil_key(cluster: &Cluster, evil: NodeId) -> Result<symbolon_protocol::identity::PublicKey, String> {
    let member = cluster.genesis().members.get(&evil).ok_or("it is no member")?;
    Ok(member.key)
}
