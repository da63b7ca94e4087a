//! Keys: made, shown, changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::id::{KeyId, KeyVersion, Name, NodeId, RequestId};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{Action, KeyPolicy, RosterPlan, Suite, VersionSelector};
use symbolon_protocol::state::view::{KeyView, VersionView};
use symbolon_rpc::{convert, v1};

use crate::barrier::{Enforcement, Withdrawal};
use crate::call::{ListKeys, Order, Prepared, ShowKey, read};
use crate::client::Client;
use crate::error::Error;
use crate::roster::{self, PlanOptions};
use crate::shares::faults;
use crate::trust::{Trust, VerifiedKey, bad};

/// Pause between two looks at a key that is being made.
const LOOK: Duration = Duration::from_millis(50);
/// Pause before a request is sent again because a right is not gone yet.
const ENFORCE_AGAIN: Duration = Duration::from_secs(2);

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Who holds its shares ([`Client::plan`]).
    pub plan: RosterPlan,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// When it expires, milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// How it is kept.
    pub policy: KeyPolicy,
}

impl NewKey {
    /// Without tags and expiry, kept as keys are by default.
    #[must_use]
    pub fn new(plan: RosterPlan) -> Self {
        Self { plan, tags: BTreeMap::new(), expires_ms: None, policy: KeyPolicy::default() }
    }
}

/// A key version that was made.
#[derive(Debug, Clone)]
pub struct Created {
    /// The key; the version is certified.
    pub key: VerifiedKey,
    /// The version that was made.
    pub version: KeyVersion,
    /// The request.
    pub request_id: RequestId,
    /// For a rotation: how far the version before is kept from signing.
    pub enforcement: Option<Enforcement>,
}

/// What a change of state did.
#[derive(Debug, Clone)]
pub struct KeyChange {
    /// The key.
    pub key_id: KeyId,
    /// Each version that changed, with its state now.
    pub versions: Vec<(KeyVersion, KeyState)>,
    /// Index of the entry in the log.
    pub index: u64,
    /// The request.
    pub request_id: RequestId,
    /// For what takes a right away: how far that is gone.
    pub enforcement: Option<Enforcement>,
}

/// A page of keys.
#[derive(Debug, Clone)]
pub struct KeyPage {
    /// The keys, by name.
    pub keys: Vec<VerifiedKey>,
    /// The name to go on after.
    pub next: Option<String>,
    /// Index of the state that they were read from.
    pub index: u64,
}

/// What became of an ordered request.
pub(crate) struct Ordered {
    pub(crate) index: u64,
    pub(crate) outcome: Outcome,
    pub(crate) key: Option<VerifiedKey>,
    /// For a request that takes a right away.
    pub(crate) enforcement: Option<Enforcement>,
}

impl Client {
    /// One key, its certificates checked. The current version is certified; a key without one (it is being made, or was
    /// never made) has nothing to certify.
    ///
    /// # Errors
    /// `not_found`, `bad_certificate` when every node shows something false, and what else the table has for reads.
    pub async fn show_key(&self, name: &Name) -> Result<VerifiedKey, Error> {
        self.show(name, |key| key.view.current.map_or(Ok(()), |version| key.demand(version))).await
    }

    /// One key, with the certificate of one version.
    ///
    /// # Errors
    /// `not_found` without such a key or version, otherwise as [`Client::show_key`].
    pub async fn show_version(&self, name: &Name, version: KeyVersion) -> Result<VerifiedKey, Error> {
        self.show(name, |key| match key.view.version(version).map(|found| found.state) {
            None => Err(Refusal::new(ErrorCode::NotFound, format!("key `{name}` has no version {version}"))),
            Some(KeyState::Pending | KeyState::Failed) => Ok(()),
            Some(_) => key.demand(version),
        })
        .await
    }

    /// One key as a node shows it now, even when certificates are not complete yet.
    ///
    /// # Errors
    /// As [`Client::show_key`].
    pub async fn peek_key(&self, name: &Name) -> Result<VerifiedKey, Error> {
        self.show(name, |_| Ok(())).await
    }

    pub(crate) async fn show(
        &self,
        name: &Name,
        demand: impl Fn(&VerifiedKey) -> Result<(), Refusal> + Send + Sync,
    ) -> Result<VerifiedKey, Error> {
        let action = Action::ShowKey { name: name.clone() };
        let prepared = self.prepare(action, None, VersionSelector::All, Vec::new())?;
        let check = |reply| {
            let key = check_reply(self.trust(), name, reply)?;
            demand(&key).map(|()| key)
        };
        self.ask(ShowKey(prepared.call), check).await.map_err(|refusal| Error::from(refusal).of_request(prepared.id))
    }

    /// A page of the keys that this client may see and that have all of these tags.
    ///
    /// # Errors
    /// What the table has for reads.
    pub async fn list_keys(&self, after: &str, limit: u32, tags: &BTreeMap<String, String>) -> Result<KeyPage, Error> {
        let action = Action::ListKeys { after: after.to_owned(), limit, tags: tags.clone() };
        let prepared = self.prepare(action, None, VersionSelector::All, Vec::new())?;
        let check = |reply: v1::ListKeysReply| {
            let mut keys = Vec::new();
            for bytes in &reply.keys {
                let view: KeyView = read("key", bytes)?;
                keys.push(self.trust().check_key(view, reply.index, reply.time_ms)?);
            }
            let next = page_end(after, reply.next)?;
            Ok(KeyPage { keys, next, index: reply.index })
        };
        self.ask(ListKeys(prepared.call), check).await.map_err(|refusal| Error::from(refusal).of_request(prepared.id))
    }

    /// Who would hold the shares of a new key: what the options say, else the default by what the cluster's status says of
    /// reachable members.
    ///
    /// # Errors
    /// `invalid_argument` when the options do not fit the cluster, and what the table has for reads.
    pub async fn plan(&self, name: &Name, options: &PlanOptions) -> Result<RosterPlan, Error> {
        let reachable = self.reachable(options).await?;
        Ok(roster::plan(name, &self.trust().membership().members, options, &reachable)?)
    }

    /// Who would hold the shares of a new version: those of the version before, unless the options say otherwise.
    ///
    /// # Errors
    /// As [`Client::plan`].
    pub async fn plan_rotation(&self, key: &VerifiedKey, options: &PlanOptions) -> Result<RosterPlan, Error> {
        let view = &key.view;
        let Some(before) = view.current.and_then(|current| view.version(current)).or(view.latest()) else {
            return Err(Error::new(ErrorCode::WrongState, format!("key `{}` has no version", view.name)));
        };
        // Roster and threshold are copied only from what the holders certified.
        if key.certified(before.number).is_none() && options.roster.is_empty() {
            Trust::certified_id(key)?;
            let message = format!("version {} of key `{}` is not certified: name the roster", before.number, view.name);
            return Err(Error::new(ErrorCode::WrongState, message));
        }
        let before = self.holders_now(key, before).await?;
        let reachable = self.reachable(options).await?;
        Ok(roster::plan_like(&before, &view.name, &self.trust().membership().members, options, &reachable)?)
    }

    async fn reachable(&self, options: &PlanOptions) -> Result<BTreeSet<NodeId>, Error> {
        if !options.roster.is_empty() {
            return Ok(BTreeSet::new());
        }
        let status = self.status().await?;
        Ok(status.nodes.iter().filter(|node| node.reachable).map(|node| node.id).collect())
    }

    /// Makes a key: no machine ever holds it. Returns once the cluster has certified its first version.
    ///
    /// # Errors
    /// `already_exists`, `roster_unreachable`, `generation_failed` naming who was at fault, and what the table has for
    /// ordered requests.
    pub async fn create_key(&self, name: &Name, key: NewKey) -> Result<Created, Error> {
        let started = Instant::now();
        let NewKey { plan, tags, expires_ms, policy } = key;
        let action = Action::CreateKey { name: name.clone(), suite: Suite::Ed25519, plan, tags, expires_ms, policy };
        let prepared = self.prepare(action, None, VersionSelector::Active, Vec::new())?;
        let (id, new_key) = (prepared.id, prepared.new_key);
        let ordered = self.order(prepared, new_key, Some(name)).await?;
        self.forget(name);
        let created = self.generated(name, ordered, started).await.map_err(|error| error.of_request(id));
        created.map(|(key, version)| Created { key, version, request_id: id, enforcement: None })
    }

    /// Makes a new version of a key; once it is certified the one before verifies and no longer signs.
    ///
    /// # Errors
    /// As [`Client::create_key`], and `wrong_state`.
    pub async fn rotate_key(&self, name: &Name, plan: RosterPlan, expires_ms: Option<u64>) -> Result<Created, Error> {
        let started = Instant::now();
        let key = Trust::certified_id(&self.show_key(name).await?)?;
        let action = Action::RotateKey { plan, expires_ms };
        let prepared = self.prepare(action, Some(key), VersionSelector::Active, Vec::new())?;
        let id = prepared.id;
        let mut ordered = self.order(prepared, Some(key), Some(name)).await?;
        self.forget(name);
        let enforcement = ordered.enforcement.take();
        let created = self.generated(name, ordered, started).await.map_err(|error| error.of_request(id));
        created.map(|(key, version)| Created { key, version, request_id: id, enforcement })
    }

    /// Stops signing until resumed; without a version the active one.
    ///
    /// # Errors
    /// `not_found`, `wrong_state`, and what the table has for ordered requests.
    pub async fn suspend_key(&self, name: &Name, version: Option<KeyVersion>) -> Result<KeyChange, Error> {
        self.change(name, Action::SuspendKey, selector(version, VersionSelector::Active)).await
    }

    /// Signs again; without a version the active one.
    ///
    /// # Errors
    /// As [`Client::suspend_key`].
    pub async fn resume_key(&self, name: &Name, version: Option<KeyVersion>) -> Result<KeyChange, Error> {
        self.change(name, Action::ResumeKey, selector(version, VersionSelector::Active)).await
    }

    /// Withdraws for good; without a version all of them.
    ///
    /// # Errors
    /// As [`Client::suspend_key`].
    pub async fn revoke_key(&self, name: &Name, version: Option<KeyVersion>, reason: &str) -> Result<KeyChange, Error> {
        let action = Action::RevokeKey { reason: reason.to_owned() };
        self.change(name, action, selector(version, VersionSelector::All)).await
    }

    /// Has every share erased after a waiting time; without a version all of them. `confirm` is the key's name once more, as
    /// a person typed it.
    ///
    /// # Errors
    /// As [`Client::suspend_key`]; `invalid_argument` when the confirmation is another name.
    pub async fn destroy_key(
        &self,
        name: &Name,
        version: Option<KeyVersion>,
        confirm: &Name,
        wait: Duration,
    ) -> Result<KeyChange, Error> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let action = Action::DestroyKey { confirm: confirm.clone(), wait_ms };
        self.change(name, action, selector(version, VersionSelector::All)).await
    }

    /// Calls a destruction off while it waits; without a version all of them.
    ///
    /// # Errors
    /// As [`Client::suspend_key`].
    pub async fn cancel_destroy_key(&self, name: &Name, version: Option<KeyVersion>) -> Result<KeyChange, Error> {
        self.change(name, Action::CancelDestroyKey, selector(version, VersionSelector::All)).await
    }

    async fn change(&self, name: &Name, action: Action, version: VersionSelector) -> Result<KeyChange, Error> {
        let key_id = Trust::certified_id(&self.show_key(name).await?)?;
        let prepared = self.prepare(action, Some(key_id), version, Vec::new())?;
        let request_id = prepared.id;
        let ordered = self.order(prepared, Some(key_id), None).await?;
        self.forget(name);
        let versions = match ordered.outcome {
            Outcome::KeyChanged { versions, .. } => versions,
            _ => Vec::new(),
        };
        Ok(KeyChange { key_id, versions, index: ordered.index, request_id, enforcement: ordered.enforcement })
    }

    /// Sends an ordered request. `key` is the one that it is about; `name` is given when it makes a version.
    ///
    /// What the cluster refused is asked for again at another node, which finds the same outcome in the log: one node alone
    /// cannot refuse. What takes a right away is sent again, as long as there is time, while the right is not gone yet.
    pub(crate) async fn order(
        &self,
        prepared: Prepared,
        key: Option<KeyId>,
        name: Option<&Name>,
    ) -> Result<Ordered, Error> {
        let started = Instant::now();
        let check = |reply: v1::OrderReply| {
            let outcome = check_outcome(read("outcome", &reply.outcome)?, key)?;
            let key = match (name, reply.key) {
                (Some(name), Some(key)) => Some(check_reply(self.trust(), name, key)?),
                _ => None,
            };
            let report: (u64, &[u8]) = (reply.index, &reply.barrier);
            let check = |withdrawal: &Withdrawal| withdrawal.check(self.trust(), report, &outcome, key.as_ref());
            let enforcement = prepared.withdrawal.as_ref().map(check).transpose()?;
            Ok(Ordered { index: reply.index, outcome, key, enforcement })
        };
        let first = self.ask(Order(prepared.call.clone()), check).await;
        let mut ordered = first.map_err(|refusal| uncertain(refusal, prepared.id))?;
        while ordered.enforcement.as_ref().is_some_and(Enforcement::is_open) {
            let left = self.deadline().saturating_sub(started.elapsed() + ENFORCE_AGAIN);
            if left < ENFORCE_AGAIN {
                break;
            }
            tokio::time::sleep(ENFORCE_AGAIN).await;
            match self.with_deadline(left).ask(Order(prepared.call.clone()), check).await {
                Ok(again) => ordered = again,
                // That it is ordered is not hidden by what goes wrong afterwards.
                Err(_) => break,
            }
        }
        Ok(ordered)
    }

    /// Waits until the version that an ordered request asked for is certified.
    async fn generated(
        &self,
        name: &Name,
        ordered: Ordered,
        started: Instant,
    ) -> Result<(VerifiedKey, KeyVersion), Error> {
        let (Outcome::Generating { key, version } | Outcome::Activated { key, version, .. }) = ordered.outcome else {
            let message = format!("a new version was asked for, the outcome is {:?}", ordered.outcome);
            return Err(Error::new(ErrorCode::Internal, message));
        };
        let mut seen = ordered.key;
        loop {
            if let Some(found) = seen.filter(|found| found.view.id == key)
                && is_certified(&found, version, self.trust())?
            {
                return Ok((found, version));
            }
            let left = self.deadline().saturating_sub(started.elapsed());
            if left.is_zero() {
                let message = format!("version {version} of key `{name}` is not certified yet");
                let hint = "it may still come about: `symbolon key show` says so";
                return Err(Error::new(ErrorCode::DeadlineExceeded, message).with_hint(hint));
            }
            tokio::time::sleep(LOOK.min(left)).await;
            seen = match self.with_deadline(left).peek_key(name).await {
                Ok(found) => Some(found),
                // The node that is asked may not have applied the request yet.
                Err(error) if error.code() == ErrorCode::NotFound || error.is_retryable() => None,
                Err(error) => return Err(error),
            };
        }
    }
}

/// An ordered request whose answer did not come may be in the log all the same.
fn uncertain(refusal: Refusal, request: RequestId) -> Error {
    let late = refusal.code == ErrorCode::DeadlineExceeded;
    let error = Error::from(refusal).of_request(request);
    let hint = "the request may still take effect: look before you repeat it (`symbolon key show`, `client list`)";
    if late { error.with_hint(hint) } else { error }
}

pub(crate) fn selector(version: Option<KeyVersion>, default: VersionSelector) -> VersionSelector {
    version.map_or(default, VersionSelector::Number)
}

/// An outcome of the request that was sent, and not a refusal.
fn check_outcome(outcome: Outcome, key: Option<KeyId>) -> Result<Outcome, Refusal> {
    let found = match &outcome {
        Outcome::Refused(refusal) => return Err(refusal.clone()),
        Outcome::Generating { key, .. }
        | Outcome::Activated { key, .. }
        | Outcome::KeyChanged { key, .. }
        | Outcome::Redistributing { key, .. }
        | Outcome::PolicyChanged { key } => Some(*key),
        _ => None,
    };
    if found == key { Ok(outcome) } else { Err(bad("answers with the outcome of another request")) }
}

/// A key in a reply, under the name that was asked for.
fn check_reply(trust: &Trust, name: &Name, reply: v1::KeyReply) -> Result<VerifiedKey, Refusal> {
    let view: KeyView = read("key", &reply.key)?;
    if view.name != *name {
        return Err(bad(format!("shows key `{}`; `{name}` was asked for", view.name)));
    }
    trust.check_key(view, reply.index, reply.time_ms)
}

/// Where the next page begins. A list that does not move forward would never end.
pub(crate) fn page_end(after: &str, next: String) -> Result<Option<String>, Refusal> {
    match next {
        next if next.is_empty() => Ok(None),
        next if next.as_str() > after => Ok(Some(next)),
        next => Err(bad(format!("shows a list that goes from `{after}` back to `{next}`"))),
    }
}

/// Whether a version that was asked for is there; an error when it will never be.
fn is_certified(key: &VerifiedKey, version: KeyVersion, trust: &Trust) -> Result<bool, Error> {
    let name = &key.view.name;
    let Some(view) = key.view.version(version) else { return Ok(false) };
    match view.state {
        KeyState::Failed => Err(generation_failed(name, view, trust).into()),
        KeyState::Pending => Ok(false),
        KeyState::Revoked if view.certificate.is_none() => {
            Err(Error::new(ErrorCode::WrongState, format!("version {version} of key `{name}` was revoked meanwhile")))
        }
        _ => Ok(key.certified(version).is_some()),
    }
}

/// Why no key came about, attempt by attempt.
fn generation_failed(name: &Name, version: &VersionView, trust: &Trust) -> Refusal {
    let names = |nodes: &[NodeId]| nodes.iter().map(|node| trust.node_name(*node)).collect::<Vec<_>>();
    let (attempts, culprits) = faults(version.attempts.iter(), names);
    let message = format!("no version {} of key `{name}` came about ({attempts})", version.number);
    convert::bounded(Refusal::new(ErrorCode::GenerationFailed, message).with("culprits", Detail::List(culprits)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
