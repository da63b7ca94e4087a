//! Members come and go while keys are made, renewed and used. Raft follows, clients follow, the key signs all the time, a new
//! node gets its share without being told, and shares that nobody will erase are counted.

use std::cell::Cell;
use std::time::Duration;

use futures::future::try_join;
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::genesis::MemberRole;
use symbolon_protocol::id::{NodeId, Threshold};
use symbolon_protocol::limits;
use symbolon_protocol::request::{Action, KeyPolicy, RosterPlan};
use symbolon_protocol::state::members;
use symbolon_protocol::state::records;
use symbolon_protocol::state::view::{DepartedView, members_view};
use tokio::time::{Instant, sleep};

use super::shares::is_healed;
use super::{is_moving, one_of, open_epochs, shuffled, version_on, without};
use crate::level_b::client::{AGAIN, Client};
use crate::level_b::cluster::{Cluster, PATIENCE, Remains, Shape};
use crate::level_b::crowd::Crowd;
use crate::level_b::surroundings::SharedRng;
use crate::level_b::types::derive;

/// Holders that a signature needs; two lost nodes have as many.
const THRESHOLD: usize = 2;
/// Members in the beginning.
const VOTERS: u16 = 6;
/// Between two changes of one client beside all this, milliseconds.
const PAUSE_MS: (u64, u64) = (200, 2_000);
/// Between two signatures.
const SIGN: Duration = Duration::from_millis(300);
/// Between two looks at what lasts a moment only.
const CLOSE_LOOK: Duration = Duration::from_millis(1);

/// What happens to the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A new one comes: a voter while there is room for one.
    Grow,
    /// One loses its disk, and a new one with a new identity takes its place.
    Replace,
    /// One dies between the commit of an epoch and its word that it activated it, and is replaced.
    Die,
    /// One gives its shares to the others and leaves.
    Drain,
    /// One is reached elsewhere.
    Move,
    /// So many miss a refresh that the epoch before stays open, and come back.
    Miss,
}

const STEPS: [Step; 8] =
    [Step::Grow, Step::Replace, Step::Die, Step::Grow, Step::Drain, Step::Move, Step::Miss, Step::Grow];

/// What else goes on meanwhile.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    Refresh,
    Generation,
}

struct Run<'a> {
    client: &'a Client,
    cluster: &'a Cluster,
    chance: &'a SharedRng,
    key: KeyCertificate,
    /// Signatures so far.
    signed: Cell<usize>,
    over: Cell<bool>,
}

pub(super) async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), Shape::of(VOTERS))?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;
    let on = one_of(&cluster.members(), &chance)?;
    let key = client.create_key(&cluster, on, "release", THRESHOLD, KeyPolicy::default()).await?;
    cluster.settle().await?;
    cluster.network().lose(1);
    let run =
        Run { client: &client, cluster: &cluster, chance: &chance, key, signed: Cell::new(0), over: Cell::new(false) };
    let crowd = Crowd::new(seed, &client, &cluster, PAUSE_MS, None);
    let happening = async { try_join(run.steps(), run.keep_signing()).await.map(drop) };
    crowd.during(happening).await?;
    Ok(cluster.trace().hash())
}

impl Run<'_> {
    async fn steps(&self) -> Result<(), String> {
        for step in shuffled(&STEPS, self.chance) {
            self.cluster.trace().note("step", format!("{step:?}").as_bytes());
            let before = self.signed.get();
            self.step(step).await.map_err(|why| format!("{step:?}: {why}"))?;
            self.peace().await.map_err(|why| format!("after {step:?}: {why}"))?;
            if self.signed.get() == before {
                return Err(format!("nothing was signed during {step:?}"));
            }
        }
        self.over.set(true);
        Ok(())
    }

    /// Signs through members that run, all the time; a refusal is no failure, silence is.
    async fn keep_signing(&self) -> Result<(), String> {
        let mut last = Instant::now();
        while !self.over.get() {
            let running: Vec<NodeId> = self.cluster.cores().into_iter().map(|(id, _)| id).collect();
            let on = one_of(&running, self.chance)?;
            if self.client.try_sign(self.cluster, on, &self.key, b"all the time").await.is_ok_and(|said| said.is_ok()) {
                self.signed.set(self.signed.get() + 1);
                last = Instant::now();
            }
            if last.elapsed() >= PATIENCE {
                return Err(format!("nothing was signed for {PATIENCE:?}"));
            }
            sleep(SIGN).await;
        }
        Ok(())
    }

    async fn step(&self, step: Step) -> Result<(), String> {
        let members = self.cluster.members();
        match step {
            Step::Grow => self.beside(self.grow(), &[]).await,
            Step::Replace => {
                let victim = one_of(&members, self.chance)?;
                drop(self.cluster.crash(victim).await?);
                self.until_led().await?;
                self.beside(self.replace(victim), &[victim]).await?;
                self.count_leaks(&[victim], 0).await
            }
            Step::Die => {
                let victim = one_of(&members, self.chance)?;
                self.die_in_between(victim).await?;
                self.until_led().await?;
                self.replace(victim).await
            }
            Step::Drain => {
                let victim = one_of(&members, self.chance)?;
                self.drain(victim).await
            }
            Step::Move => {
                let moved = one_of(&members, self.chance)?;
                self.beside(self.relocate(moved), &[]).await
            }
            Step::Miss => self.miss().await,
        }
    }

    /// A change, and perhaps something else at the same time, without these nodes.
    async fn beside(
        &self,
        change: impl Future<Output = Result<(), String>>,
        without_these: &[NodeId],
    ) -> Result<(), String> {
        let kinds = [Beside::Nothing, Beside::Refresh, Beside::Generation];
        let kind = shuffled(&kinds, self.chance).pop().unwrap_or(Beside::Nothing);
        let here = without(&self.cluster.members(), without_these);
        let on = one_of(&here, self.chance)?;
        let other = async {
            match kind {
                Beside::Nothing => Ok(()),
                Beside::Refresh => self.begin(on, Action::RefreshKey { absent: without_these.to_vec() }).await,
                Beside::Generation => {
                    let name = format!("key-{}", self.cluster.now_ms());
                    let roster = here.iter().copied().take(3).collect();
                    let made = self.client.create_key_on(self.cluster, on, &name, (roster, 2), KeyPolicy::default());
                    let made = made.await?;
                    self.client.sign(self.cluster, on, &made, b"made meanwhile").await?;
                    self.destroy(on, &made).await
                }
            }
        };
        try_join(change, other).await?;
        self.until_over(on).await
    }

    /// A key of a moment goes again: a member that leaves must not have to wait for it.
    async fn destroy(&self, on: NodeId, made: &KeyCertificate) -> Result<(), String> {
        let reason = Action::RevokeKey { reason: "it was made to be made".to_owned() };
        self.client.withdraw(self.cluster, on, reason, Some(made.core.key)).await?;
        let gone = Action::DestroyKey { confirm: made.core.name.clone(), wait_ms: 0 };
        self.client.withdraw(self.cluster, on, gone, Some(made.core.key)).await.map(drop)
    }

    async fn begin(&self, on: NodeId, action: Action) -> Result<(), String> {
        self.client.change(self.cluster, on, action, Some(self.key.core.key)).await.map(drop)
    }

    async fn until_over(&self, on: NodeId) -> Result<(), String> {
        let key = self.key.core.key;
        self.cluster.until("the operation to be over", |cluster| Ok(!is_moving(cluster, on, &key)?)).await
    }

    /// Moves the shares to some members.
    async fn reshare(&self, on: NodeId, roster: Vec<NodeId>, absent: &[NodeId]) -> Result<(), String> {
        let threshold = Threshold::new(THRESHOLD, roster.len()).ok_or("the threshold does not fit the roster")?;
        let plan = RosterPlan { roster, spares: Vec::new(), threshold };
        self.until_over(on).await?;
        self.begin(on, Action::ReshareKey { plan, absent: absent.to_vec() }).await?;
        self.until_over(on).await
    }

    async fn until_led(&self) -> Result<(), String> {
        self.cluster.until("the others to agree on a leader", Cluster::is_well).await
    }

    fn role(&self, voters: usize) -> MemberRole {
        if voters < limits::VOTERS { MemberRole::Voter } else { MemberRole::Learner }
    }

    fn roster(&self, on: NodeId) -> Result<Vec<NodeId>, String> {
        Ok(version_on(self.cluster, on, &self.key.core.key)?.roster)
    }

    async fn grow(&self) -> Result<(), String> {
        let on = one_of(&self.cluster.members(), self.chance)?;
        let voters = self.client.followed(self.cluster).newest().voters().len();
        let (id, mut member, store) = self.cluster.enrol(MemberRole::Voter)?;
        member.role = self.role(voters);
        let followed = self.client.change_members(self.cluster, on, Action::AddMember { id, member, store }).await?;
        // Its shares may be there before it is.
        let late = self.chance.between(0, 1) == 1;
        let mut roster = self.roster(on)?;
        roster.push(id);
        if late {
            self.reshare(on, roster, &[id]).await?;
            self.cluster.admit(id, followed);
            self.cluster.boot(id, Remains::default()).await?;
        } else {
            self.cluster.admit(id, followed);
            self.cluster.boot(id, Remains::default()).await?;
            self.until_followed().await?;
            self.reshare(on, roster, &[]).await?;
        }
        let key = self.key.core.key;
        self.cluster.until("the new node to have its share", |cluster| is_healed(cluster, &key)).await
    }

    /// Puts a new node in the place of one that is gone for good, in the membership and in the roster.
    async fn replace(&self, old: NodeId) -> Result<(), String> {
        let on = one_of(&without(&self.cluster.members(), &[old]), self.chance)?;
        let (id, mut member, store) = self.cluster.enrol(MemberRole::Voter)?;
        let known = self.client.followed(self.cluster);
        member.role = known.newest().members.get(&old).ok_or("who is replaced is no member")?.role;
        let action = Action::ReplaceMember { old, id, member, store, lost: true };
        let followed = self.client.change_members(self.cluster, on, action).await?;
        self.cluster.dismiss(old);
        self.cluster.admit(id, followed);
        self.cluster.boot(id, Remains::default()).await?;
        self.until_followed().await?;
        let mut roster = without(&self.roster(on)?, &[old]);
        roster.push(id);
        self.reshare(on, roster, &[]).await
    }

    /// A refresh is committed, and one node dies before it said that it activated its share.
    async fn die_in_between(&self, victim: NodeId) -> Result<(), String> {
        let (cluster, key) = (self.cluster, self.key.core.key);
        let others = without(&cluster.members(), &[victim]);
        let on = one_of(&others, self.chance)?;
        let before = version_on(cluster, on, &key)?.core().map(|core| core.epoch);
        self.begin(on, Action::RefreshKey { absent: Vec::new() }).await?;
        let begun = Instant::now();
        loop {
            let version = version_on(cluster, on, &key)?;
            let activated = version.certificate.as_ref().is_some_and(|votes| votes.activated.contains_key(&victim));
            if version.core().map(|core| core.epoch) > before {
                cluster.trace().note("it dies", &[u8::from(activated)]);
                drop(cluster.crash(victim).await?);
                return Ok(());
            }
            if begun.elapsed() >= PATIENCE {
                return Err("the refresh was never committed".to_owned());
            }
            sleep(CLOSE_LOOK).await;
        }
    }

    async fn drain(&self, victim: NodeId) -> Result<(), String> {
        let others = without(&self.cluster.members(), &[victim]);
        let on = one_of(&others, self.chance)?;
        let leave = Action::RemoveMember { id: victim, lost: false };
        let early = self.client.request(self.cluster, leave.clone(), None, &[]);
        match self.client.order(self.cluster, on, &early).await? {
            Err(refusal) if refusal.code == ErrorCode::StillNeeded => {}
            answer => return Err(format!("a node whose shares are needed may leave: {answer:?}")),
        }
        self.reshare(on, without(&self.roster(on)?, &[victim]), &[]).await?;
        let needs_none = |cluster: &Cluster| {
            let tables = cluster.core(on)?.state_tables();
            Ok(members::needed_shares(&tables, victim).map_err(|e| e.to_string())? == 0)
        };
        self.cluster.until("nobody to need the shares of the node", needs_none).await?;
        self.client.change_members(self.cluster, on, leave).await?;
        // It may not hear any more that it left.
        self.cluster.dismiss(victim);
        self.until_settled().await?;
        self.cluster.crash(victim).await.map(drop)
    }

    async fn relocate(&self, moved: NodeId) -> Result<(), String> {
        let on = one_of(&self.cluster.members(), self.chance)?;
        let address = |port| format!("elsewhere{moved}-{}:{port}", self.cluster.now_ms());
        let (peer_address, client_address) = (address(7000), address(7001));
        let action = Action::MoveMember { id: moved, peer_address: peer_address.clone(), client_address };
        let followed = self.client.change_members(self.cluster, on, action).await?;
        let known = followed.newest().members.get(&moved).map(|member| member.peer_address.clone());
        if known != Some(peer_address) {
            return Err(format!("clients are led to {known:?}"));
        }
        Ok(())
    }

    /// As many as can sign miss a refresh: the epoch before is open until they are back, or for ever where they are lost.
    async fn miss(&self) -> Result<(), String> {
        let (cluster, key) = (self.cluster, self.key.core.key);
        let mut away = shuffled(&self.roster(one_of(&cluster.members(), self.chance)?)?, self.chance);
        away.truncate(THRESHOLD);
        away.sort_unstable();
        let mut left = cluster.crash_all(&away).await?;
        self.until_led().await?;
        let on = one_of(&without(&cluster.members(), &away), self.chance)?;
        let old = version_on(cluster, on, &key)?.core().map(|core| core.epoch);
        self.begin(on, Action::RefreshKey { absent: away.clone() }).await?;
        self.until_over(on).await?;
        cluster.until("the others to have activated", |cluster| Ok(version_on(cluster, on, &key)?.is_final())).await?;
        // Long enough for everybody who is there to erase.
        sleep(4 * AGAIN).await;
        let open = open_epochs(cluster, on, &key)?;
        if !old.is_some_and(|old| open.contains(&old)) {
            return Err(format!("{away:?} have enough shares of epoch {old:?}, and open are {open:?}"));
        }
        if self.chance.between(0, 1) == 0 {
            for me in &away {
                let remains = left.remove(me).ok_or("a node left nothing behind")?;
                cluster.restart(*me, remains).await?;
            }
            cluster.until("everybody to have a share again", |cluster| is_healed(cluster, &key)).await?;
            return cluster
                .until("no epoch to be open", |cluster| Ok(open_epochs(cluster, on, &key)?.is_empty()))
                .await;
        }
        for me in &away {
            self.replace(*me).await?;
            self.until_led().await?;
        }
        self.count_leaks(&away, 1).await
    }

    /// What the members say of shares that nobody will erase: of the key of this scenario, so many count for good.
    async fn count_leaks(&self, lost: &[NodeId], open: u64) -> Result<(), String> {
        let on = one_of(&self.cluster.members(), self.chance)?;
        let departed = |cluster: &Cluster| -> Result<Vec<DepartedView>, String> {
            let view = members_view(&cluster.core(on)?.state_tables(), 0).map_err(|e| e.to_string())?;
            Ok(view.departed.into_iter().filter(|gone| lost.contains(&gone.id)).collect())
        };
        let counted =
            |cluster: &Cluster| Ok(departed(cluster)?.iter().all(|gone| gone.leaked > 0 && gone.open == open));
        let waited = self.cluster.until("the shares of lost nodes to be counted", counted).await;
        waited.map_err(|why| format!("{why}; counted are {:?}", departed(self.cluster)))
    }

    /// Waits until Raft has the voters that administrators want.
    async fn until_settled(&self) -> Result<(), String> {
        let settled = |cluster: &Cluster| {
            for (_, core) in cluster.cores() {
                let sets = members::voter_sets(&core.state_tables()).map_err(|e| e.to_string())?;
                if !sets.is_settled() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        self.cluster.until("Raft to have moved", settled).await
    }

    /// Waits until everybody is there, and all know the same members.
    async fn until_followed(&self) -> Result<(), String> {
        self.until_settled().await?;
        self.cluster.until("the cluster to be well", Cluster::is_well).await?;
        let version = self.client.followed(self.cluster).version();
        let known = |cluster: &Cluster| {
            for (_, core) in cluster.cores() {
                if records::cluster(&core.state_tables()).map_err(|e| e.to_string())?.membership < version {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        self.cluster.until("all nodes to know the members", known).await
    }

    /// Everybody there, everybody with a share, voters vote and learners do not, each node serves.
    async fn peace(&self) -> Result<(), String> {
        self.until_followed().await?;
        let (cluster, key) = (self.cluster, self.key.core.key);
        let on = one_of(&cluster.members(), self.chance)?;
        self.until_over(on).await?;
        self.begin(on, Action::RefreshKey { absent: Vec::new() }).await?;
        cluster.until("everybody to have a share", |cluster| is_healed(cluster, &key)).await?;
        self.until_roles(on).await?;
        for on in shuffled(&cluster.members(), self.chance) {
            self.client.sign(cluster, on, &self.key, b"in peace").await?;
        }
        Ok(())
    }

    /// Waits until voters vote in Raft and learners do not, by what they say of themselves.
    async fn until_roles(&self, on: NodeId) -> Result<(), String> {
        let (begun, version) = (Instant::now(), self.client.followed(self.cluster).version());
        loop {
            let view = self.client.follow(self.cluster, on, version).await?;
            let votes = |raft: &str| matches!(raft, "leader" | "follower");
            let odd = view.members.iter().find(|one| votes(&one.raft) != (one.member.role == MemberRole::Voter));
            let Some(odd) = odd else { return Ok(()) };
            if begun.elapsed() >= PATIENCE {
                return Err(format!("`{}` is {} in Raft", odd.member.name, odd.raft));
            }
            sleep(AGAIN).await;
        }
    }
}
