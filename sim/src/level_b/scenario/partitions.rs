//! Clients change things through all nodes at once, while the leader is cut off, links work in one direction only, a minority is
//! apart, and all nodes lose power together. What they were answered must follow from the log: see [`LogOrder`].

use std::cell::Cell;
use std::time::Duration;

use futures::future::{try_join, try_join_all};
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{KeyVersion, NodeId};
use symbolon_protocol::identity::Identity;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::limits;
use symbolon_protocol::request::{Action, Grant, KeyPolicy, Role};
use tokio::time::{Instant, sleep};

use super::{below, one_of, shuffled, without};
use crate::level_b::client::{AGAIN, Client, name};
use crate::level_b::cluster::{Cluster, PATIENCE, Shape};
use crate::level_b::log_order::{Glimpse, LogOrder, Step};
use crate::level_b::surroundings::SharedRng;
use crate::level_b::types::derive;

/// Five voters. There is no checkpoint within a run, so that the log is whole at its end.
const SHAPE: Shape = Shape { voters: 5, learners: 0, checkpoint_entries: limits::CHECKPOINT_ENTRIES };
/// Holders that a signature needs.
const THRESHOLD: usize = 3;
/// Clients that ask at the same time.
const CLIENTS: usize = 3;
/// Changes that each of them asks for at most.
const CHANGES: usize = 60;
/// Guests that they register and remove: so few that they meet.
const GUESTS: u64 = 3;
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
    /// All nodes lose power at once.
    NoPower,
}

const FAULTS: [Fault; 6] =
    [Fault::LeaderAlone, Fault::LeaderMute, Fault::LeaderDeaf, Fault::OneWay, Fault::Minority, Fault::NoPower];

struct Run<'a> {
    seed: u64,
    client: &'a Client,
    cluster: &'a Cluster,
    chance: &'a SharedRng,
    key: KeyCertificate,
    order: LogOrder,
    /// Whether the faults are over.
    calm: Cell<bool>,
}

pub(super) async fn play(seed: u64) -> Result<String, String> {
    let client = Client::new(seed);
    let cluster = Cluster::found(seed, client.identity(), SHAPE)?;
    let chance = SharedRng::new(derive(seed, "scenario", &[]));
    cluster.start(&shuffled(&cluster.members(), &chance)).await?;
    let on = one_of(&cluster.members(), &chance)?;
    let key = client.create_key(&cluster, on, "release", THRESHOLD, KeyPolicy::default()).await?;
    cluster.settle().await?;

    let (order, calm) = (LogOrder::default(), Cell::new(false));
    let run = Run { seed, client: &client, cluster: &cluster, chance: &chance, key, order, calm };
    try_join(run.trouble(), try_join_all((0..CLIENTS).map(|_| run.change_things()))).await?;

    cluster.until("the cluster to be well again", Cluster::is_well).await?;
    cluster.settle().await?;
    for on in cluster.members() {
        run.look(on, true).await?;
    }
    cluster.settle().await?;
    cluster.compare_histories()?;
    run.order.check(&cluster.log(one_of(&cluster.members(), &chance)?)?)?;
    let (answered, refused, reads) = run.order.count();
    cluster.trace().note("changes and reads", format!("{answered} {refused} {reads}").as_bytes());
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
        self.calm.set(true);
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

    /// One client: changes something and looks at something, again and again, until the faults are over.
    async fn change_things(&self) -> Result<(), String> {
        for _ in 0..CHANGES {
            if self.calm.get() {
                break;
            }
            self.change().await?;
            self.look(one_of(&self.cluster.members(), self.chance)?, false).await?;
            self.pause(PAUSE_MS).await;
        }
        Ok(())
    }

    fn draw(&self) -> Result<(Step, Action, bool), String> {
        let guest = self.chance.between(0, GUESTS - 1);
        let (called, key) = (format!("guest-{guest}"), Identity::from_seed(&derive(self.seed, "guest", &[guest])));
        let grant = Grant { role: Role::Auditor, keys: "*".to_owned() };
        Ok(match self.chance.between(0, 5) {
            0 | 1 => {
                let action = Action::AddClient { name: name(&called)?, key: key.public(), grant };
                (Step::Admit(called), action, false)
            }
            2 | 3 => {
                let action = Action::RemoveClient { name: name(&called)? };
                (Step::Dismiss(called), action, false)
            }
            4 => (Step::Suspend, Action::SuspendKey, true),
            _ => (Step::Resume, Action::ResumeKey, true),
        })
    }

    /// Asks for one change through one node after the other, with the same request, until the cluster has answered.
    async fn change(&self) -> Result<(), String> {
        let (step, action, of_key) = self.draw()?;
        let request = self.client.request(self.cluster, action, of_key.then_some(self.key.core.key), &[]);
        let change = self.order.asks(step, &request);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let nodes = self.cluster.members();
            let on = nodes.get(below(self.chance, nodes.len())).copied().ok_or("there is no node")?;
            let copy = request.clone();
            match self.cluster.ask(on, |core| async move { core.order_request(copy).await }).await? {
                Some(Ok(ordered)) => {
                    self.order.answered(change, Some(ordered.index), Ok(()));
                    return Ok(());
                }
                Some(Err(refusal)) if is_of_cluster(&refusal) => {
                    self.order.answered(change, None, Err(refusal.code));
                    return Ok(());
                }
                // Nobody knows what became of it.
                Some(Err(_)) | None => sleep(AGAIN).await,
            }
        }
        Err(format!("a change was not answered within {PATIENCE:?}"))
    }

    /// Reads something from a node, where it answers.
    async fn look(&self, on: NodeId, current: bool) -> Result<(), String> {
        let asked = self.order.looks();
        let seen = if self.chance.between(0, 1) == 0 { self.guests(on).await? } else { self.state(on).await? };
        match seen {
            Some((index, glimpse)) => self.order.saw(asked, index, glimpse, current),
            None if current => return Err(format!("node {on} answers no read while all is well")),
            None => {}
        }
        Ok(())
    }

    async fn guests(&self, on: NodeId) -> Result<Option<(u64, Glimpse)>, String> {
        let action = Action::ListClients { after: String::new(), limit: limits::PAGE_ITEMS };
        let request = self.client.request(self.cluster, action, None, &[]);
        let shown = self.cluster.ask(on, |core| async move { core.list_clients(&request).await }).await?;
        let Some(Ok((index, clients, _))) = shown else { return Ok(None) };
        let names = clients.iter().map(|client| client.name.as_str().to_owned());
        Ok(Some((index, Glimpse::Guests(names.filter(|name| name.starts_with("guest-")).collect()))))
    }

    async fn state(&self, on: NodeId) -> Result<Option<(u64, Glimpse)>, String> {
        let action = Action::ShowKey { name: self.key.core.name.clone() };
        let request = self.client.request(self.cluster, action, None, &[]);
        let shown = self.cluster.ask(on, |core| async move { core.show_key(&request).await }).await?;
        let Some(Ok((index, view))) = shown else { return Ok(None) };
        let version =
            view.version(KeyVersion::FIRST).ok_or_else(|| format!("node {on} shows a key without versions"))?;
        Ok(Some((index, Glimpse::Suspended(version.state == KeyState::Suspended))))
    }
}

/// Whether a refusal is what became of the change, and not that one node cannot say.
fn is_of_cluster(refusal: &Refusal) -> bool {
    matches!(refusal.code, ErrorCode::AlreadyExists | ErrorCode::NotFound | ErrorCode::WrongState)
}
