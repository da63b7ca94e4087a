//! Clients that change things and look at them through all nodes at once, whatever else happens. What they were answered must
//! follow from the log: see [`LogOrder`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::future::{try_join_all, try_join3};
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{KeyVersion, NodeId};
use symbolon_protocol::identity::Identity;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::limits;
use symbolon_protocol::request::{Action, Grant, Role};
use tokio::time::{Instant, sleep};

use super::client::{AGAIN, Client, name};
use super::cluster::{Cluster, LOOK, PATIENCE};
use super::log_order::{Glimpse, LogOrder, Step};
use super::surroundings::SharedRng;
use super::types::derive;

/// Clients that ask at the same time.
pub const CLIENTS: usize = 3;
/// Changes that each of them asks for at most.
const CHANGES: usize = 60;
/// Guests that they register and remove: so few that they meet.
const GUESTS: u64 = 3;
/// What their names begin with.
const GUEST: &str = "guest-of-many-";

/// The clients.
pub struct Crowd<'a> {
    seed: u64,
    client: &'a Client,
    cluster: &'a Cluster,
    chance: SharedRng,
    /// A key that they suspend and resume; without one they register and remove guests.
    key: Option<KeyCertificate>,
    /// Between two changes of one client, milliseconds.
    pause_ms: (u64, u64),
    order: LogOrder,
    /// The log, as far as it was seen: nodes forget its beginning.
    log: RefCell<BTreeMap<u64, Vec<u8>>>,
    /// Whether they go home.
    over: Cell<bool>,
}

impl<'a> Crowd<'a> {
    /// Clients with a pause between two changes of each, milliseconds, and a key to suspend and resume, if any.
    #[must_use]
    pub fn new(
        seed: u64,
        client: &'a Client,
        cluster: &'a Cluster,
        pause_ms: (u64, u64),
        key: Option<KeyCertificate>,
    ) -> Self {
        let chance = SharedRng::new(derive(seed, "crowd", &[]));
        let (order, log, over) = (LogOrder::default(), RefCell::default(), Cell::new(false));
        Self { seed, client, cluster, chance, key, pause_ms, order, log, over }
    }

    /// The clients ask while something happens; then everything must be well again, and their answers follow from the log. Gives
    /// what the happening gave, and how many changes were answered.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn during<T>(&self, happening: impl Future<Output = Result<T, String>>) -> Result<(T, usize), String> {
        let happening = async {
            let done = happening.await?;
            self.over.set(true);
            Ok(done)
        };
        let clients = try_join_all((0..CLIENTS).map(|_| self.change_things()));
        let (done, _, ()) = try_join3(happening, clients, self.keep_log()).await?;
        let cluster = self.cluster;
        cluster.until("the cluster to be well again", Cluster::is_well).await?;
        cluster.settle().await?;
        for (on, _) in cluster.cores() {
            self.look(on, true).await?;
        }
        cluster.settle().await?;
        cluster.compare_histories()?;
        self.gather()?;
        self.order.check(&self.log.borrow())?;
        let (answered, refused, reads) = self.order.count();
        cluster.trace().note("changes and reads", format!("{answered} {refused} {reads}").as_bytes());
        Ok((done, answered))
    }

    /// Refusals that clients were given by the cluster.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.order.count().1
    }

    async fn keep_log(&self) -> Result<(), String> {
        while !self.over.get() {
            self.gather()?;
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn gather(&self) -> Result<(), String> {
        let mut log = self.log.borrow_mut();
        for (on, _) in self.cluster.cores() {
            let last = log.last_key_value().map(|(index, _)| *index);
            for (index, entry) in self.cluster.log_after(on, last)? {
                // One that took a checkpoint lacks what others have.
                if log.last_key_value().is_some_and(|(last, _)| index != last + 1) {
                    break;
                }
                log.insert(index, entry);
            }
        }
        Ok(())
    }

    fn below(&self, count: usize) -> usize {
        usize::try_from(self.chance.between(0, count.saturating_sub(1) as u64)).unwrap_or(0)
    }

    fn member(&self) -> Result<NodeId, String> {
        let nodes = self.cluster.members();
        nodes.get(self.below(nodes.len())).copied().ok_or_else(|| "there is no node".to_owned())
    }

    /// One client: changes something and looks at something, again and again.
    async fn change_things(&self) -> Result<(), String> {
        for _ in 0..CHANGES {
            if self.over.get() {
                break;
            }
            self.change().await?;
            self.look(self.member()?, false).await?;
            let (low, high) = self.pause_ms;
            sleep(Duration::from_millis(self.chance.between(low, high))).await;
        }
        Ok(())
    }

    fn draw(&self) -> Result<(Step, Action, Option<&KeyCertificate>), String> {
        let guest = self.chance.between(0, GUESTS - 1);
        let (called, key) = (format!("{GUEST}{guest}"), Identity::from_seed(&derive(self.seed, "guest", &[guest])));
        let grant = Grant { role: Role::Auditor, keys: "*".to_owned() };
        Ok(match (self.chance.between(0, 5), &self.key) {
            (4, Some(key)) => (Step::Suspend, Action::SuspendKey, Some(key)),
            (5, Some(key)) => (Step::Resume, Action::ResumeKey, Some(key)),
            (drawn, _) if drawn % 2 == 0 => {
                let action = Action::AddClient { name: name(&called)?, key: key.public(), grant };
                (Step::Admit(called), action, None)
            }
            _ => {
                let action = Action::RemoveClient { name: name(&called)? };
                (Step::Dismiss(called), action, None)
            }
        })
    }

    /// Asks for one change through one node after the other, with the same request, until the cluster has answered.
    async fn change(&self) -> Result<(), String> {
        let (step, action, of_key) = self.draw()?;
        let request = self.client.request(self.cluster, action, of_key.map(|key| key.core.key), &[]);
        let change = self.order.asks(step, &request);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let (on, copy) = (self.member()?, request.clone());
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
        let seen = match &self.key {
            Some(key) if self.chance.between(0, 1) == 1 => self.state(on, key).await?,
            _ => self.guests(on).await?,
        };
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
        Ok(Some((index, Glimpse::Guests(names.filter(|name| name.starts_with(GUEST)).collect()))))
    }

    async fn state(&self, on: NodeId, key: &KeyCertificate) -> Result<Option<(u64, Glimpse)>, String> {
        let action = Action::ShowKey { name: key.core.name.clone() };
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
