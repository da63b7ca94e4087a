//! What clients are answered: ordered requests and reads. (Signing: [`super::signing`].)

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::type_config::TypeConfigExt as _;
use symbolon_protocol::entry::Payload;
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::fresh::Report;
use symbolon_protocol::generate::FaultKind;
use symbolon_protocol::id::{KeyId, KeyVersion, NodeId};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{Action, Path, RequestBody, SignedRequest, VerifiedRequest};
use symbolon_protocol::schema::replicated as schema;
use symbolon_protocol::state::records::{self, ClientRecord, RequestRecord};
use symbolon_protocol::state::view::{self, ExplainView, KeyStatus, KeyView, NodeView, StatusView};
use symbolon_protocol::state::{decide_right, may_read_usage, unknown_client};
use symbolon_protocol::table::read;
use symbolon_protocol::usage::UsageRecord;
use symbolon_protocol::wire::decode;

use super::boots::PeerBoots;
use super::raft_state::RequestName;
use super::types::{NodeTypes, Surroundings, Transport};
use super::{Core, lock};
use crate::store::Store;

/// How long an ordered request may take to be ordered.
const ORDER: Duration = Duration::from_secs(4);
/// How long a generation may take, all attempts together, before the client is told that it still runs.
const GENERATION: Duration = Duration::from_secs(50);
/// How long a read waits for a state that is certainly current.
const CURRENT: Duration = Duration::from_millis(500);

/// Between two questions to the leader on behalf of clients that this node does not know, milliseconds.
const STRANGER_MS: u64 = 100;

fn name_of(request: &VerifiedRequest) -> RequestName {
    (request.body().client, request.body().request_id)
}

/// An answer to an ordered request.
#[derive(Debug)]
pub struct Ordered {
    /// Index of the entry.
    pub index: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// For a new key version: the key as it is now.
    pub key: Option<KeyView>,
    /// For a request that takes a right away: how far the right is gone.
    pub barrier: Option<Report>,
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// The door for clients: encoding, signature, time, path, registered identity.
    async fn admit(&self, request: &SignedRequest, path: Path) -> Result<(VerifiedRequest, ClientRecord), Refusal> {
        let verified = request.verify(&self.0.cluster)?;
        if verified.body().action.path() != path {
            let message = format!("`{}` does not go this way", verified.body().action.name());
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        verified.check_time(self.now_ms())?;
        // A stranger was registered a moment ago, perhaps, and this node lags. But strangers make the leader work only seldom.
        let known = self.client(&verified)?.is_some();
        let behind = if known { path == Path::Read } else { self.may_ask_for_stranger() };
        let lags = behind && !self.catch_up(CURRENT).await;
        match self.client(&verified)? {
            Some(client) => Ok((verified, client)),
            None if lags => Err(self.may_lag(&unknown_client(&verified))),
            None => Err(unknown_client(&verified)),
        }
    }

    /// The same for reads.
    pub(crate) async fn admit_read(&self, request: &SignedRequest) -> Result<(VerifiedRequest, ClientRecord), Refusal> {
        self.admit(request, Path::Read).await
    }

    fn client(&self, request: &VerifiedRequest) -> Result<Option<ClientRecord>, Refusal> {
        records::client_of(&self.tables(), &request.body().client).map_err(|e| self.fail(&e))
    }

    fn check_right(&self, client: &ClientRecord, body: &RequestBody) -> Result<(), Refusal> {
        decide_right(&self.tables(), client, body).map_err(|e| self.fail(&e))?
    }

    /// Has a request ordered; for a new key version waits until it is certified or failed.
    ///
    /// # Errors
    /// The refusal of this node or, in the outcome, of the cluster.
    pub async fn order_request(&self, request: SignedRequest) -> Result<Ordered, Refusal> {
        let (verified, client) = self.admit(&request, Path::Ordered).await?;
        let takes_away = verified.body().action.takes_away();
        if self.check_right(&client, verified.body()).is_ok() {
            // Who may not do it is told so by the cluster, not what else is wrong.
            self.check_roster_reachable(&verified.body().action)?;
            if takes_away {
                self.spread_withdrawal(&request);
            }
        }
        let payload = Payload::Request(request);
        let (index, told) = self.propose(&payload, ORDER).await?;
        let outcome = self.own_outcome(&verified, told).await?;
        let key = match &outcome {
            Outcome::Refused(refusal) => return Err(lock(&self.0.words).of(&name_of(&verified), refusal)),
            Outcome::Generating { key, version } => Some(self.generated(*key, *version).await?),
            _ => None,
        };
        self.proved(&outcome).await?;
        let ordered = Ordered { index, outcome, key, barrier: None };
        if takes_away { self.enforced(&verified, ordered).await } else { Ok(ordered) }
    }

    /// What became of a request by this node's own state: a leader's word is not passed on as its own. A refusal that was not
    /// recorded withholds, and that a leader can do anyway.
    async fn own_outcome(&self, request: &VerifiedRequest, told: Outcome) -> Result<Outcome, Refusal> {
        let key = schema::request(&request.body().client, &request.body().request_id);
        let recorded = || -> Result<Option<Outcome>, Refusal> {
            let record: Option<RequestRecord> = read(&self.tables(), &key).map_err(|e| self.fail(&e))?;
            Ok(record.filter(|record| record.digest == request.digest()).map(|record| record.outcome))
        };
        let wait = async {
            let mut applied = self.0.applied.subscribe();
            loop {
                if let Some(outcome) = recorded()? {
                    return Ok(outcome);
                }
                if matches!(told, Outcome::Refused(_)) {
                    return Ok(told.clone());
                }
                if applied.changed().await.is_err() {
                    return Err(self.no_quorum());
                }
            }
        };
        C::timeout(ORDER, wait).await.unwrap_or_else(|_| Err(self.no_quorum()))
    }

    /// Whether a stranger may make this node ask the leader: seldom.
    fn may_ask_for_stranger(&self) -> bool {
        let now = self.now_ms();
        let last = self.0.asked_for_stranger.load(Ordering::Relaxed);
        if now.abs_diff(last) < STRANGER_MS {
            return false;
        }
        self.0.asked_for_stranger.store(now, Ordering::Relaxed);
        true
    }

    /// A generation needs all of its roster: better refused now than failed in a minute.
    fn check_roster_reachable(&self, action: &Action) -> Result<(), Refusal> {
        let (Action::CreateKey { plan, .. } | Action::RotateKey { plan, .. }) = action else { return Ok(()) };
        let down: BTreeSet<NodeId> = plan
            .roster
            .iter()
            .copied()
            .filter(|node| self.member_key(*node).is_some() && !self.is_reachable(*node))
            .collect();
        if down.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = down.into_iter().map(|node| self.name_of(node)).collect();
        let message = format!("nodes of the roster cannot be reached: {}", names.join(", "));
        Err(Refusal::new(ErrorCode::RosterUnreachable, message).with("unreachable", Detail::List(names)))
    }

    /// Waits for a version to be certified.
    async fn generated(&self, key: KeyId, version: KeyVersion) -> Result<KeyView, Refusal> {
        let wait = async {
            let mut applied = self.0.applied.subscribe();
            loop {
                if let Some(done) = self.certified(key, version)? {
                    return Ok(done);
                }
                if applied.changed().await.is_err() {
                    return Err(Refusal::new(ErrorCode::Unreachable, "the node stops"));
                }
            }
        };
        match C::timeout(GENERATION, wait).await {
            Ok(result) => result,
            Err(_) => {
                let message = "the generation still runs; `symbolon key show KEY` tells how far it is";
                Err(Refusal::new(ErrorCode::DeadlineExceeded, message))
            }
        }
    }

    fn certified(&self, key: KeyId, version: KeyVersion) -> Result<Option<KeyView>, Refusal> {
        let tables = self.tables();
        let record = self.key_record(&key).map_err(|e| self.fail(&e))?;
        let Some(record) = record else { return Ok(None) };
        let view = view::key_view(&tables, record, self.now_ms()).map_err(|e| self.fail(&e))?;
        let Some(made) = view.version(version) else { return Ok(None) };
        if made.state == KeyState::Failed {
            return Err(self.generation_failed(&view, made));
        }
        let complete = match &made.certificate {
            Some(certificate) => {
                let voters = self.voters_of(certificate.activation.head.membership).map_err(|e| self.fail(&e))?;
                voters.is_some_and(|voters| certificate.is_complete(voters.len()))
            }
            None => false,
        };
        Ok(complete.then_some(view))
    }

    fn generation_failed(&self, key: &KeyView, version: &view::VersionView) -> Refusal {
        let attempts: Vec<String> = version
            .attempts
            .iter()
            .map(|attempt| {
                let who: Vec<String> = attempt.culprits.iter().map(|node| self.name_of(*node)).collect();
                let who = if who.is_empty() { "nobody named".to_owned() } else { who.join(", ") };
                format!("{} ({who})", attempt.fault.map_or("committed", FaultKind::name))
            })
            .collect();
        let message = format!(
            "generation of key `{}` failed after {} attempts: {}",
            key.name,
            attempts.len(),
            attempts.join("; ")
        );
        let culprits: BTreeSet<String> =
            version.attempts.iter().flat_map(|a| &a.culprits).map(|node| self.name_of(*node)).collect();
        Refusal::new(ErrorCode::GenerationFailed, message)
            .with("culprits", Detail::List(culprits.into_iter().collect()))
    }

    /// A key with its certificates.
    ///
    /// # Errors
    /// `not_found`, `permission_denied`, or what the door says.
    pub async fn show_key(&self, request: &SignedRequest) -> Result<(u64, KeyView), Refusal> {
        let (verified, client) = self.admit(request, Path::Read).await?;
        self.check_right(&client, verified.body())?;
        let Action::ShowKey { name } = &verified.body().action else { return Err(wrong_call()) };
        let record = records::key_named(&self.tables(), name).map_err(|e| self.fail(&e))?;
        let record =
            record.ok_or_else(|| Refusal::new(ErrorCode::NotFound, format!("there is no key named `{name}`")))?;
        let view = view::key_view(&self.tables(), record, self.now_ms()).map_err(|e| self.fail(&e))?;
        Ok((self.applied_index().unwrap_or(0), self.refine_key(view)?))
    }

    /// A page of keys, and the name to go on after.
    ///
    /// # Errors
    /// What the door says.
    pub async fn list_keys(&self, request: &SignedRequest) -> Result<(u64, Vec<KeyView>, Option<String>), Refusal> {
        let (verified, client) = self.admit(request, Path::Read).await?;
        let Action::ListKeys { after, limit, tags } = &verified.body().action else { return Err(wrong_call()) };
        let limit = usize::try_from(*limit).unwrap_or(1);
        let page = view::key_page(&self.tables(), &client, after, limit, tags, self.now_ms());
        let (keys, next) = page.map_err(|e| self.fail(&e))?;
        let keys = keys.into_iter().map(|key| self.refine_key(key)).collect::<Result<_, _>>()?;
        Ok((self.applied_index().unwrap_or(0), keys, next))
    }

    /// A page of clients, and the name to go on after.
    ///
    /// # Errors
    /// `permission_denied`, or what the door says.
    pub async fn list_clients(
        &self,
        request: &SignedRequest,
    ) -> Result<(u64, Vec<ClientRecord>, Option<String>), Refusal> {
        let (verified, client) = self.admit(request, Path::Read).await?;
        self.check_right(&client, verified.body())?;
        let Action::ListClients { after, limit } = &verified.body().action else { return Err(wrong_call()) };
        let limit = usize::try_from(*limit).unwrap_or(1);
        let (clients, next) = view::client_page(&self.tables(), after, limit).map_err(|e| self.fail(&e))?;
        Ok((self.applied_index().unwrap_or(0), clients, next))
    }

    /// What this node did for a request. Auditors see everybody's requests, others their own.
    ///
    /// # Errors
    /// What the door says.
    pub async fn explain(&self, request: &SignedRequest) -> Result<Vec<ExplainView>, Refusal> {
        let (verified, client) = self.admit(request, Path::Read).await?;
        let Action::Explain { request: asked } = &verified.body().action else { return Err(wrong_call()) };
        let own = self.0.usage.explain(asked).map_err(|e| self.fail(&e))?;
        let mut views = self.explain_views(own)?;
        if !may_read_usage(&client) {
            views.retain(|view| view.client == client.name.as_str());
        }
        views.sort_by_key(|view| (view.time_ms, view.node));
        Ok(views)
    }

    /// Usage records as they are shown.
    pub(crate) fn explain_views(&self, records: Vec<UsageRecord>) -> Result<Vec<ExplainView>, Refusal> {
        let mut views = Vec::new();
        for record in records {
            let body: RequestBody = decode(&record.request.body.0)?;
            let client = records::client_of(&self.tables(), &body.client).map_err(|e| self.fail(&e))?;
            let reason = match record.refused {
                Some(code) => format!("{code}: {}", record.reason),
                None => "granted by its own state; a signature share was made".to_owned(),
            };
            views.push(ExplainView {
                node: self.0.me,
                request: body.request_id,
                client: client.map_or_else(|| body.client.to_string(), |c| c.name.to_string()),
                action: body.action.name().to_owned(),
                time_ms: record.time_ms,
                granted: record.refused.is_none(),
                reason,
                key: record.used,
                coordinator: record.coordinator,
            });
        }
        Ok(views)
    }

    /// The cluster as this node sees it. Answered without a majority too: that is when it is needed most.
    ///
    /// # Errors
    /// What the door says.
    pub async fn status(&self, request: &SignedRequest) -> Result<StatusView, Refusal> {
        let (_, client) = self.admit(request, Path::Read).await?;
        let cluster = records::cluster(&self.tables()).map_err(|e| self.fail(&e))?;
        let now = self.now_ms();
        let page = view::key_page(&self.tables(), &client, "", 200, &std::collections::BTreeMap::new(), now);
        let (keys, _) = page.map_err(|e| self.fail(&e))?;
        let mut warnings = self.lease_warnings();
        let boots = PeerBoots::new(self.0.store.clone());
        for node in boots.quarantined(&self.others()).map_err(|e| self.fail(&e))? {
            warnings
                .push(format!("{} is quarantined: its store went back in time, or it runs twice", self.name_of(node)));
        }
        warnings.extend(self.membership_warnings().map_err(|e| self.fail(&e))?);
        if !cluster.started {
            warnings.push("the cluster has not started: every voter of genesis must be up once".to_owned());
        }
        Ok(StatusView {
            cluster: cluster.cluster,
            name: cluster.name,
            asked: self.0.me,
            leader: self.believable_leader(),
            state_version: cluster.state_version,
            membership: cluster.membership,
            time_ms: cluster.time_ms,
            applied_index: self.applied_index().unwrap_or(0),
            nodes: self.membership().members.keys().map(|id| self.node_view(*id)).collect::<Result<_, _>>()?,
            keys: keys.iter().filter_map(|key| self.key_status(key)).collect(),
            warnings,
        })
    }

    fn node_view(&self, id: NodeId) -> Result<NodeView, Refusal> {
        let heard = lock(&self.0.heard).get(&id).map(|heard| heard.status.clone());
        let status = if id == self.0.me { Some(self.own_status()) } else { heard };
        let reachable = self.is_reachable(id);
        let role = match (&status, reachable) {
            (Some(status), true) => status.role.clone(),
            _ => "unknown".to_owned(),
        };
        let name = self.membership().members.get(&id).map(|member| member.name.clone());
        Ok(NodeView {
            id,
            name: name.unwrap_or_else(|| self.0.genesis.name.clone()),
            reachable,
            role,
            applied_index: status.as_ref().map(|s| s.applied_index),
            release: status.as_ref().map(|s| s.release.clone()).unwrap_or_default(),
            boot: status.map(|s| s.boot),
            blamed: self.0.blames.of(id).map_err(|e| self.fail(&e))?,
        })
    }

    fn key_status(&self, key: &KeyView) -> Option<KeyStatus> {
        let version = key.current.and_then(|number| key.version(number)).or_else(|| key.latest())?;
        // What has no shares has no margin to watch; `key list` still shows it.
        if matches!(version.state, KeyState::Destroyed | KeyState::Failed) {
            return None;
        }
        let shares = version.shares.as_ref();
        let holds = |node: &NodeId| shares.is_some_and(|shares| !shares.stale.contains(node));
        let usable = |node: &NodeId| has_shares(version.state) && holds(node) && self.is_reachable(*node);
        Some(KeyStatus {
            name: key.name.clone(),
            version: version.number,
            state: version.state,
            threshold: version.threshold,
            holders: version.roster.clone(),
            usable: version.roster.iter().copied().filter(usable).collect(),
            stale: shares.map(|shares| shares.stale.clone()).unwrap_or_default(),
            epoch: shares.map(|shares| (shares.epoch, shares.committed_ms)),
            open: shares.map(|shares| shares.open().iter().map(|set| set.epoch).collect()).unwrap_or_default(),
            running: version.running.clone(),
        })
    }
}

/// Whether holders have shares of a version in this state.
const fn has_shares(state: KeyState) -> bool {
    !matches!(state, KeyState::Pending | KeyState::Destroying | KeyState::Destroyed | KeyState::Failed)
}

fn wrong_call() -> Refusal {
    Refusal::new(ErrorCode::InvalidArgument, "the request asks for something else than the call")
}
