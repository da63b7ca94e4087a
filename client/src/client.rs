//! The client: what it knows, the requests it signs, the nodes it may ask.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand_core::{OsRng, RngCore as _};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::{KeyId, Name, NodeId, RequestId};
use symbolon_protocol::identity::{Identity, PublicKey};
use symbolon_protocol::limits;
use symbolon_protocol::request::{Action, MessageDigest, Purpose, RequestBody, SignedRequest, VersionSelector};

use crate::barrier::Withdrawal;
use crate::call::{Prepared, to_call};
use crate::error::Error;
use crate::link::{Link, default_endpoints};
use crate::trust::{Trust, VerifiedKey};
use crate::{keyfile, lock, now_ms};

/// Called for each node that answered with something that does not verify, when the client goes on elsewhere.
pub type Report = Arc<dyn Fn(&Refusal) + Send + Sync>;

/// Deadline of a call, unless another is set.
const DEADLINE: Duration = Duration::from_secs(10);
/// A request is valid this long before it is made: the node's clock may be behind.
const BACKDATE_MS: u64 = 30_000;
/// A request is valid at least this long; the node's clock may be ahead.
const VALID_MS: u64 = 60_000;
/// A request is valid this much longer than it is tried.
const AFTER_DEADLINE_MS: u64 = 30_000;
/// How long a key that was looked up by name is not looked up again.
const VIEW_TTL: Duration = Duration::from_secs(10);
/// Keys that are remembered by name; then the memory starts anew.
const VIEWS: usize = 1024;

/// What a client is made from.
pub struct Config {
    /// The founding document of the cluster: who its members are.
    pub genesis: Genesis,
    /// Who asks.
    pub identity: Identity,
    /// Endpoints (`host:port`) in the order in which they are asked; empty for those in genesis, from a random one on.
    pub endpoints: Vec<String>,
    /// Deadline of one call.
    pub deadline: Duration,
    /// Directory for what outlives the process: how the members changed, and the highest version of that which was seen.
    pub state: Option<PathBuf>,
    /// Who is told of nodes whose answers do not verify.
    pub report: Option<Report>,
}

impl Config {
    /// A configuration with defaults for the rest.
    #[must_use]
    pub fn new(genesis: Genesis, identity: Identity) -> Self {
        Self { genesis, identity, endpoints: Vec::new(), deadline: DEADLINE, state: None, report: None }
    }

    /// Reads genesis and identity from files.
    ///
    /// # Errors
    /// `local_file` when one of them cannot be read or holds something else.
    pub fn load(genesis: &Path, identity: &Path) -> Result<Self, Error> {
        Ok(Self::new(load_genesis(genesis)?, keyfile::load(identity)?))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// Reads a genesis file.
///
/// # Errors
/// `local_file` when it cannot be read or holds something else.
fn load_genesis(path: &Path) -> Result<Genesis, Error> {
    let hint = "name the genesis file of the cluster with --genesis or SYMBOLON_GENESIS";
    let size = std::fs::metadata(path).map_err(|error| Error::file("read", path, &error).with_hint(hint))?.len();
    if size > limits::GENESIS_BYTES as u64 {
        let message = format!("{} is no genesis file: it has {size} bytes", path.display());
        return Err(Error::new(ErrorCode::LocalFile, message).with_hint(hint));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::file("read", path, &error).with_hint(hint))?;
    Genesis::parse_file(&text).map_err(|error| {
        let message = format!("{} is no genesis file: {error}", path.display());
        Error::new(ErrorCode::LocalFile, message).with_hint(hint)
    })
}

/// What all handles of one client share.
struct Shared {
    trust: Trust,
    identity: Identity,
    /// Endpoints that were given, then those of members that came later.
    links: Mutex<Arc<Vec<Arc<Link>>>>,
    report: Option<Report>,
    /// Keys by name, with the time of the reading.
    views: Mutex<HashMap<Name, (Instant, Arc<VerifiedKey>)>>,
}

/// A client of one cluster. Calls may run at the same time, also on handles that share its connections
/// ([`Client::starting_at`], [`Client::with_deadline`]).
pub struct Client {
    shared: Arc<Shared>,
    /// The node that answered well last, by its place in the list of endpoints.
    preferred: AtomicUsize,
    deadline: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("links", &self.shared.links).finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a client. Connections are opened when they are first used, and again after they broke.
    ///
    /// Asynchronous because it needs a tokio runtime around it.
    ///
    /// # Errors
    /// `invalid_argument` for an endpoint that is none.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let trust = Trust::new(config.genesis, config.state.as_deref());
        let (endpoints, first) = if config.endpoints.is_empty() {
            let endpoints = default_endpoints(&trust.membership().members);
            // Without a preference of the caller, callers spread by chance.
            let first = usize::try_from(OsRng.next_u32()).unwrap_or(0) % endpoints.len().max(1);
            (endpoints, first)
        } else {
            (config.endpoints, 0)
        };
        let links = endpoints.into_iter().map(|address| Link::new(address, &trust).map(Arc::new));
        let links = Mutex::new(Arc::new(links.collect::<Result<Vec<_>, Error>>()?));
        let (identity, report) = (config.identity, config.report);
        let shared = Shared { trust, identity, links, report, views: Mutex::default() };
        let client = Self { shared: Arc::new(shared), preferred: AtomicUsize::new(first), deadline: config.deadline };
        client.add_links();
        Ok(client)
    }

    /// Where members changed, those of today are asked as well, after the endpoints that were given.
    pub(crate) fn add_links(&self) {
        let membership = self.trust().membership();
        if membership.version == 0 {
            return;
        }
        let mut links = lock(&self.shared.links);
        let known = |address: &String| links.iter().any(|link| link.address() == address);
        let addresses: Vec<String> =
            default_endpoints(&membership.members).into_iter().filter(|address| !known(address)).collect();
        let more = addresses.into_iter().filter_map(|address| Link::new(address, self.trust()).ok());
        let all = links.iter().cloned().chain(more.map(Arc::new)).collect();
        *links = Arc::new(all);
    }

    /// A handle on the same connections that asks another node first; for callers that spread their load.
    #[must_use]
    pub fn starting_at(&self, node: usize) -> Self {
        let first = node % self.links().len().max(1);
        Self { shared: Arc::clone(&self.shared), preferred: AtomicUsize::new(first), deadline: self.deadline }
    }

    /// A handle on the same connections with another deadline for its calls.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        let first = self.preferred.load(Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared), preferred: AtomicUsize::new(first), deadline }
    }

    /// What certificates are checked against.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.shared.trust
    }
    /// The identity that asks.
    #[must_use]
    pub fn identity(&self) -> PublicKey {
        self.shared.identity.public()
    }
    /// Deadline of one call.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }
    /// The name of a node.
    #[must_use]
    pub fn node_name(&self, node: NodeId) -> String {
        self.trust().node_name(node)
    }
    pub(crate) fn links(&self) -> Arc<Vec<Arc<Link>>> {
        Arc::clone(&lock(&self.shared.links))
    }
    pub(crate) fn report(&self, refusal: &Refusal) {
        if let Some(report) = &self.shared.report {
            report(refusal);
        }
    }

    /// The places of all nodes, the preferred one first.
    pub(crate) fn turns(&self) -> Vec<usize> {
        let (count, first) = (self.links().len(), self.preferred.load(Ordering::Relaxed));
        (first..count).chain(0..first.min(count)).collect()
    }
    pub(crate) fn prefer(&self, node: usize) {
        self.preferred.store(node, Ordering::Relaxed);
    }

    /// Signs a request.
    pub(crate) fn prepare(
        &self,
        action: Action,
        key: Option<KeyId>,
        version: VersionSelector,
        messages: Vec<MessageDigest>,
    ) -> Result<Prepared, Error> {
        let mut id = [0; 16];
        OsRng.fill_bytes(&mut id);
        let id = RequestId::from_bytes(id);
        let is_sign = matches!(action, Action::Sign);
        let now = now_ms();
        let deadline_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        let valid_ms = deadline_ms.saturating_add(AFTER_DEADLINE_MS).max(VALID_MS);
        let body = RequestBody {
            cluster: self.trust().cluster(),
            client: self.identity(),
            request_id: id,
            not_before_ms: now.saturating_sub(BACKDATE_MS),
            expires_ms: now.saturating_add(valid_ms.min(limits::REQUEST_LIFETIME_MS - BACKDATE_MS)),
            action,
            key,
            version,
            purpose: Purpose::Sign,
            payload_type: "raw".to_owned(),
            context: std::collections::BTreeMap::new(),
            messages,
        };
        let signed = SignedRequest::sign(&body, &self.shared.identity);
        if is_sign {
            return Ok(Prepared { call: to_call(signed), id, new_key: None, withdrawal: None });
        }
        // What every node would refuse is refused here. Signing is spared the work: its caller has checked the sizes.
        let verified = signed.verify(&body.cluster)?;
        let new_key = matches!(body.action, Action::CreateKey { .. }).then(|| verified.key_id());
        let withdrawal = Withdrawal::of(&body.action, &signed);
        Ok(Prepared { call: to_call(signed), id, new_key, withdrawal })
    }

    /// A key that was looked up a moment ago.
    pub(crate) fn remembered(&self, name: &Name) -> Option<Arc<VerifiedKey>> {
        let views = lock(&self.shared.views);
        views.get(name).filter(|(at, _)| at.elapsed() < VIEW_TTL).map(|(_, key)| Arc::clone(key))
    }
    pub(crate) fn remember(&self, name: &Name, key: &Arc<VerifiedKey>) {
        let mut views = lock(&self.shared.views);
        if views.len() >= VIEWS {
            views.clear();
        }
        views.insert(name.clone(), (Instant::now(), Arc::clone(key)));
    }
    pub(crate) fn forget(&self, name: &Name) {
        lock(&self.shared.views).remove(name);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::trust::tests::genesis;

    async fn client(endpoints: &[&str]) -> Result<Client, Error> {
        let mut config = Config::new(genesis(), Identity::from_seed(&[99; 32]));
        config.endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        Client::connect(config).await
    }

    #[tokio::test]
    async fn nodes_are_asked_in_turn_from_the_preferred_one_on() {
        let client = client(&["a:1", "b:2", "c:3"]).await.unwrap();
        assert_eq!(client.turns(), [0, 1, 2]);
        client.prefer(2);
        assert_eq!(client.turns(), [2, 0, 1]);
        assert_eq!(client.with_deadline(Duration::from_secs(1)).turns(), [2, 0, 1]);
        assert_eq!(client.starting_at(4).turns(), [1, 2, 0]);
        let names: Vec<String> = client.links().iter().map(|link| link.label(client.trust())).collect();
        assert_eq!(names, ["a:1", "b:2", "c:3"]);
    }

    #[tokio::test]
    async fn endpoints_of_genesis_are_the_default() {
        let client = client(&[]).await.unwrap();
        let mut order = client.turns();
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2]);
        let first = client.links().first().cloned().unwrap();
        assert_eq!(first.label(client.trust()), "node1 (127.0.0.1:7201)");
    }

    #[tokio::test]
    async fn an_endpoint_without_a_port_is_refused() {
        assert_eq!(client(&["localhost"]).await.unwrap_err().code(), ErrorCode::InvalidArgument);
    }

    #[tokio::test]
    async fn a_request_is_valid_for_at_most_five_minutes() {
        let client = client(&["a:1"]).await.unwrap();
        for seconds in [1, 10, 60, 3600] {
            let client = client.with_deadline(Duration::from_secs(seconds));
            let prepared = client.prepare(Action::Status, None, VersionSelector::All, Vec::new());
            assert!(prepared.is_ok(), "{seconds}");
        }
    }

    #[tokio::test]
    async fn dead_endpoints_are_told_by_name() {
        // Port 1 of the loopback address: nothing listens there.
        let client = client(&["127.0.0.1:1"]).await.unwrap().with_deadline(Duration::from_millis(300));
        let error = client.status().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unreachable, "{error}");
        assert!(error.message().contains("127.0.0.1:1"), "{error}");
        assert!(error.request_id().is_some());
    }
}
