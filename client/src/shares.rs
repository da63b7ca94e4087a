//! Shares: renewed, moved to other holders, watched while they are; and how keys are kept.
//!
//! A change of shares is ordered like everything that changes state, and then done by the nodes among themselves. For this
//! client it is over when the certificate of the new shares is there: their holders have them on disk, the threshold of them
//! said so once more after the commit, and a majority of the voters signed the history that it stands in.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::id::{Epoch, KeyId, KeyVersion, Name, NodeId, RequestId};
use symbolon_protocol::lifecycle::{Event, Verdict, decide};
use symbolon_protocol::limits;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{Action, KeyPolicy, RosterPlan, VersionSelector};
use symbolon_protocol::state::ACTIVATED;
use symbolon_protocol::state::records::AttemptRecord;
use symbolon_protocol::state::view::{OperationView, VersionView};
use symbolon_rpc::{convert, v1};

use crate::call::{ListOperations, read};
use crate::client::Client;
use crate::error::Error;
use crate::keys::selector;
use crate::roster::{self, Holders, PlanOptions};
use crate::trust::{Certified, Trust, VerifiedKey, bad};

/// Pause between two looks at shares that are being moved; it doubles up to the longest.
const LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(200);
/// Bytes of an operation's id, after which a page goes on.
const OPERATION_ID: usize = 32;

/// A change of shares that was begun.
#[derive(Debug, Clone)]
pub struct ShareMove {
    /// Name of the key.
    pub key: Name,
    /// The key.
    pub key_id: KeyId,
    /// The version.
    pub version: KeyVersion,
    /// Epoch of the first attempt.
    pub epoch: Epoch,
    /// Members that were told to take no part.
    pub absent: Vec<NodeId>,
    /// Index of the entry in the log.
    pub index: u64,
    /// The request.
    pub request_id: RequestId,
}

/// New shares of a version, certified by their holders.
#[derive(Debug, Clone)]
pub struct NewShares {
    /// Their certificate: epoch, roster, holders, threshold, and the public key, which stays.
    pub certified: Certified,
    /// Members of the roster without a share, by the asked node's word.
    pub stale: Vec<NodeId>,
}

/// A page of share operations that run.
#[derive(Debug, Clone)]
pub struct OperationPage {
    /// The operations, by id.
    pub operations: Vec<OperationView>,
    /// Where the next page begins.
    pub next: Option<Vec<u8>>,
    /// Index of the state that they were read from.
    pub index: u64,
}

/// What is seen of a change of shares.
#[derive(Debug)]
enum Look {
    Done(NewShares),
    Runs(OperationView),
    /// Votes are collected, or the asked node is behind.
    Nothing,
}

impl Client {
    /// Gives the roster of a version new shares; without a version of the active one. Waits until the last change of its shares
    /// is activated. Members that are `absent` take no part;
    /// without a list these are the members of the roster that the cluster's status says cannot be reached.
    ///
    /// # Errors
    /// `operation_running`, `below_threshold` and `roster_unreachable` when too few can take part, `wrong_state`, `not_found`,
    /// and what the table has for ordered requests.
    pub async fn refresh_key(
        &self,
        name: &Name,
        version: Option<KeyVersion>,
        absent: Option<&[NodeId]>,
    ) -> Result<ShareMove, Error> {
        let (key, number) = self.target(name, version).await?;
        let shown = key.view.version(number).ok_or_else(|| no_version(name, number))?;
        let holders = self.holders_now(&key, shown).await?;
        let absent = self.absent(absent, &holders.roster).await?;
        let plan = RosterPlan { roster: holders.roster, spares: Vec::new(), threshold: holders.threshold };
        self.check_parties(&key, number, &plan, &absent)?;
        self.begin(&key, version, Action::RefreshKey { absent: absent.clone() }, absent).await
    }

    /// Moves the shares of a version to another roster or threshold ([`Client::plan_reshare`]); the public key stays. `absent`
    /// as in [`Client::refresh_key`], of the old and the new roster.
    ///
    /// # Errors
    /// As [`Client::refresh_key`], and `invalid_argument`.
    pub async fn reshare_key(
        &self,
        name: &Name,
        version: Option<KeyVersion>,
        plan: RosterPlan,
        absent: Option<&[NodeId]>,
    ) -> Result<ShareMove, Error> {
        let (key, number) = self.target(name, version).await?;
        let shown = key.view.version(number).ok_or_else(|| no_version(name, number))?;
        let holders = self.holders_now(&key, shown).await?;
        let concerned: Vec<NodeId> = plan.roster.iter().chain(&holders.roster).copied().collect();
        let absent = self.absent(absent, &concerned).await?;
        self.check_parties(&key, number, &plan, &absent)?;
        self.begin(&key, version, Action::ReshareKey { plan, absent: absent.clone() }, absent).await
    }

    /// Where the shares of a version would go: to the roster and threshold of the options, as before where they say nothing.
    ///
    /// # Errors
    /// `invalid_argument` when the options do not fit the cluster, and what the table has for reads.
    pub async fn plan_reshare(
        &self,
        name: &Name,
        version: Option<KeyVersion>,
        options: &PlanOptions,
    ) -> Result<RosterPlan, Error> {
        let (key, number) = self.target(name, version).await?;
        let shown = key.view.version(number).ok_or_else(|| no_version(name, number))?;
        let holders = self.holders_now(&key, shown).await?;
        Ok(roster::plan_move(&holders, &self.trust().membership().members, options)?)
    }

    /// Waits until new shares are certified. `told` hears of the operation again and again; of none while votes for the
    /// certificate are collected.
    ///
    /// # Errors
    /// `roster_unreachable` naming who was at fault when every attempt failed, `wrong_state` when the version was withdrawn,
    /// `deadline_exceeded` when it is not over within the deadline of a call; it then still goes on.
    pub async fn await_shares(
        &self,
        begun: &ShareMove,
        mut told: impl FnMut(Option<&OperationView>),
    ) -> Result<NewShares, Error> {
        let (started, mut pause) = (Instant::now(), LOOK);
        loop {
            let left = self.deadline().saturating_sub(started.elapsed());
            if left.is_zero() {
                let message =
                    format!("the shares of version {} of key `{}` are still being moved", begun.version, begun.key);
                let hint = "it goes on without you: `symbolon operation show KEY` tells how far it is";
                let error = Error::new(ErrorCode::DeadlineExceeded, message).with_hint(hint);
                return Err(error.of_request(begun.request_id));
            }
            let shown = self.with_deadline(left).peek_key(&begun.key).await;
            match shown.and_then(|key| look(&key, begun, self.trust())) {
                Ok(Look::Done(shares)) => {
                    self.forget(&begun.key);
                    return Ok(shares);
                }
                Ok(Look::Runs(operation)) => told(Some(&operation)),
                Ok(Look::Nothing) => told(None),
                Err(error) if error.code() != ErrorCode::RosterUnreachable && error.is_retryable() => {}
                Err(error) => return Err(error.of_request(begun.request_id)),
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = LONGEST_LOOK.min(pause * 2);
        }
    }

    /// Changes how a key is kept.
    ///
    /// # Errors
    /// `invalid_argument` naming the limit, `not_found`, and what the table has for ordered requests.
    pub async fn set_key_policy(&self, name: &Name, policy: KeyPolicy) -> Result<RequestId, Error> {
        policy.check()?;
        let key = Trust::certified_id(&self.show_key(name).await?)?;
        let prepared = self.prepare(Action::SetKeyPolicy { policy }, Some(key), VersionSelector::All, Vec::new())?;
        let id = prepared.id;
        self.order(prepared, Some(key), None).await?;
        self.forget(name);
        Ok(id)
    }

    /// A page of the share operations that run, of keys that this client may see, after the operation with an id; an empty one
    /// for the first page.
    ///
    /// # Errors
    /// What the table has for reads.
    pub async fn list_operations(&self, after: &[u8], limit: u32) -> Result<OperationPage, Error> {
        let action = Action::ListOperations { after: after.to_vec(), limit };
        let prepared = self.prepare(action, None, VersionSelector::All, Vec::new())?;
        let check = |reply: v1::ListOperationsReply| {
            let operations: Result<Vec<OperationView>, Refusal> =
                reply.operations.iter().map(|bytes| read("operation", bytes)).collect();
            Ok(OperationPage { operations: operations?, next: page_end(after, &reply.next)?, index: reply.index })
        };
        let page = self.ask(ListOperations(prepared.call), check).await;
        page.map_err(|refusal| Error::from(refusal).of_request(prepared.id))
    }

    /// The key with the version that is meant.
    async fn target(&self, name: &Name, version: Option<KeyVersion>) -> Result<(VerifiedKey, KeyVersion), Error> {
        let key = match version {
            Some(version) => self.show_version(name, version).await?,
            None => self.show_key(name).await?,
        };
        Trust::certified_id(&key)?;
        match version.or(key.view.current) {
            Some(number) => Ok((key, number)),
            None => Err(Error::new(ErrorCode::WrongState, format!("key `{name}` has no active version"))),
        }
    }

    /// Who holds the shares of a version, as they certified; the node's word where they did not.
    pub(crate) async fn holders_now(&self, key: &VerifiedKey, version: &VersionView) -> Result<Holders, Error> {
        let (name, number) = (&key.view.name, version.number);
        let Some(certified) = key.certified(number) else {
            return Ok(Holders { roster: version.roster.clone(), threshold: version.threshold });
        };
        if key.is_settled(number) {
            return Ok(Holders::from(&certified.core));
        }
        // Shares that changed a moment ago are certified in the next.
        let settled = self.show(name, |key| key.demand_settled(number)).await?;
        let certified = settled.certified(number).ok_or_else(|| no_version(name, number))?;
        Ok(Holders::from(&certified.core))
    }

    /// Who takes no part: who is named, else those of `concerned` that the cluster's status says cannot be reached. Ascending.
    async fn absent(&self, named: Option<&[NodeId]>, concerned: &[NodeId]) -> Result<Vec<NodeId>, Error> {
        let absent: BTreeSet<NodeId> = match named {
            Some(named) => named.iter().copied().collect(),
            None => {
                let status = self.status().await?;
                let silent = status.nodes.iter().filter(|node| !node.reachable).map(|node| node.id);
                silent.filter(|node| concerned.contains(node)).collect()
            }
        };
        Ok(absent.into_iter().collect())
    }

    /// Refuses here, by name, what every node would refuse: too few that deal their share, or too few that take a new one.
    fn check_parties(
        &self,
        key: &VerifiedKey,
        version: KeyVersion,
        plan: &RosterPlan,
        absent: &[NodeId],
    ) -> Result<(), Refusal> {
        let present = |nodes: &[NodeId]| nodes.iter().filter(|node| !absent.contains(node)).count();
        let dealers = key.certified(version).filter(|_| key.is_settled(version));
        if let Some(CertificateCore { holders, threshold, .. }) = dealers.map(|certified| &certified.core)
            && present(holders) < threshold.get()
        {
            let message = format!("{threshold} holders have to deal their shares and {} can", present(holders));
            return Err(self.too_few(ErrorCode::BelowThreshold, &message, (present(holders), threshold.get()), absent));
        }
        let (n, needed) = (plan.roster.len(), plan.roster.len().min(plan.threshold.get() + 1));
        let reached = present(&plan.roster);
        if reached < needed {
            let message = format!("{needed} of the {n} nodes of the roster have to take new shares and {reached} can");
            return Err(self.too_few(ErrorCode::RosterUnreachable, &message, (reached, needed), absent));
        }
        Ok(())
    }

    fn too_few(&self, code: ErrorCode, what: &str, (reached, needed): (usize, usize), absent: &[NodeId]) -> Refusal {
        let number = |count: usize| Detail::Number(u64::try_from(count).unwrap_or(u64::MAX));
        let names: Vec<String> = absent.iter().map(|node| self.node_name(*node)).collect();
        Refusal::new(code, format!("{what}; absent: {}", names.join(", ")))
            .with("reachable", number(reached))
            .with("needed", number(needed))
            .with("unreachable", Detail::List(names))
    }

    async fn begin(
        &self,
        key: &VerifiedKey,
        version: Option<KeyVersion>,
        action: Action,
        absent: Vec<NodeId>,
    ) -> Result<ShareMove, Error> {
        let (key_id, name) = (Trust::certified_id(key)?, key.view.name.clone());
        let meant = selector(version, VersionSelector::Active);
        let started = Instant::now();
        let (request_id, ordered) = loop {
            let left = self.deadline().saturating_sub(started.elapsed());
            let prepared = self.prepare(action.clone(), Some(key_id), meant, Vec::new())?;
            let request_id = prepared.id;
            match self.with_deadline(left).order(prepared, Some(key_id), None).await {
                Ok(ordered) => break (request_id, ordered),
                Err(error) if is_not_activated(&error) && left > LONGEST_LOOK => tokio::time::sleep(LONGEST_LOOK).await,
                Err(error) => return Err(self.with_names(error)),
            }
        };
        let Outcome::Redistributing { version: number, epoch, .. } = ordered.outcome else {
            let message = format!("new shares were asked for, the outcome is {:?}", ordered.outcome);
            return Err(Error::new(ErrorCode::Internal, message).of_request(request_id));
        };
        Ok(ShareMove { key: name, key_id, version: number, epoch, absent, index: ordered.index, request_id })
    }

    /// Puts names where the cluster's log knows only numbers.
    fn with_names(&self, mut error: Error) -> Error {
        if let Some(Detail::List(nodes)) = error.details_mut().get_mut("unreachable") {
            for node in nodes {
                if let Some(id) = node.parse().ok().and_then(NodeId::new) {
                    *node = self.node_name(id);
                }
            }
        }
        error
    }
}

/// Whether the holders of the last change have yet to say ACTIVATED, which they do within moments: refused for nothing else.
fn is_not_activated(error: &Error) -> bool {
    error.code() == ErrorCode::OperationRunning && error.details().contains_key(ACTIVATED)
}

fn no_version(name: &Name, version: KeyVersion) -> Error {
    Error::new(ErrorCode::NotFound, format!("key `{name}` has no version {version}"))
}

/// How far a change of shares is, by what one node shows; an error when it will never be done.
fn look(key: &VerifiedKey, begun: &ShareMove, trust: &Trust) -> Result<Look, Error> {
    let Some(version) = key.view.version(begun.version).filter(|_| key.view.id == begun.key_id) else {
        return Ok(Look::Nothing);
    };
    if let Some(certified) = key.certified(begun.version).filter(|certified| certified.core.epoch >= begun.epoch) {
        let stale = version.shares.as_ref().map(|shares| shares.stale.clone()).unwrap_or_default();
        return Ok(Look::Done(NewShares { certified: certified.clone(), stale }));
    }
    if let Some(running) = version.running.as_ref().filter(|running| running.epoch >= begun.epoch) {
        return Ok(Look::Runs(running.clone()));
    }
    let committed = version.shares.as_ref().is_some_and(|shares| shares.epoch >= begun.epoch);
    if committed || key.index < begun.index {
        return Ok(Look::Nothing);
    }
    let what = format!("version {} of key `{}`", begun.version, begun.key);
    if decide(version.state, Event::Redistribute) == Verdict::No {
        let message = format!("{what} is {}: its shares are no longer moved", version.state);
        return Err(Error::new(ErrorCode::WrongState, message));
    }
    // The attempts of one operation follow each other, and it gives up only after the last of them.
    let last = begun.epoch.get().saturating_add(limits::REDISTRIBUTE_ATTEMPTS - 1);
    let own = || version.attempts.iter().filter(|ended| (begun.epoch.get()..=last).contains(&ended.epoch.get()));
    if own().all(|ended| ended.epoch.get() < last) {
        return Ok(Look::Nothing);
    }
    let names = |nodes: &[NodeId]| nodes.iter().map(|node| trust.node_name(*node)).collect::<Vec<_>>();
    let (attempts, culprits) = faults(own(), names);
    let refusal =
        Refusal::new(ErrorCode::RosterUnreachable, format!("the shares of {what} stay as they were ({attempts})"))
            .with("culprits", Detail::List(culprits));
    Err(Error::from(convert::bounded(refusal)).with_hint("look at the nodes that the message names, then try again"))
}

/// What went wrong in attempts, in words, and everybody who is blamed for it.
pub(crate) fn faults<'a>(
    attempts: impl IntoIterator<Item = &'a AttemptRecord>,
    names: impl Fn(&[NodeId]) -> Vec<String>,
) -> (String, Vec<String>) {
    let (mut said, mut culprits) = (Vec::new(), BTreeSet::new());
    for attempt in attempts {
        let Some(fault) = attempt.fault else { continue };
        said.push(match attempt.culprits.as_slice() {
            [] => format!("epoch {}: {fault}", attempt.epoch),
            blamed => format!("epoch {}: {fault} of {}", attempt.epoch, names(blamed).join(", ")),
        });
        culprits.extend(attempt.culprits.iter().copied());
    }
    let culprits: Vec<NodeId> = culprits.into_iter().collect();
    (said.join("; "), names(&culprits))
}

/// Where the next page begins. A list that does not move forward would never end.
fn page_end(after: &[u8], next: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    match next {
        [] => Ok(None),
        next if next.len() == OPERATION_ID && next > after => Ok(Some(next.to_vec())),
        _ => Err(bad("shows a list of operations that does not move forward")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
