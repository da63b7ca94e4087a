//! Share operations in the replicated state: votes come in, an attempt commits or ends, the next one begins.

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::certificate::{CertificateCore, Ready};
use crate::error::{ErrorCode, Refusal};
use crate::generate::{Ceremony, FaultKind, FaultReport, Vote};
use crate::genesis::Member;
use crate::id::{Epoch, NodeId, OperationId};
use crate::identity::PublicKey;
use crate::lifecycle::{Event, KeyState, Verdict, decide};
use crate::limits;
use crate::outcome::Outcome;
use crate::request::RosterPlan;
use crate::schema::replicated as schema;
use crate::table::{Overlay, Tables, read};

use super::records::{
    AttemptRecord, ClusterRecord, KeyRecord, OperationRecord, ReadyRecord, ShareSet, StoredCertificate, Trigger,
    VersionRecord,
};
use super::{Stop, keys, operation_id, redistributions, refuse, shares};

/// The first attempt at a key's latest version.
pub(crate) fn first(cluster: &ClusterRecord, key: &KeyRecord, plan: &RosterPlan) -> OperationRecord {
    let ceremony = Ceremony {
        cluster: cluster.cluster,
        operation: operation_id(&key.id, key.latest),
        key: key.id,
        name: key.name.clone(),
        version: key.latest,
        suite: key.suite,
        roster: plan.roster.clone(),
        threshold: plan.threshold,
        holders: plan.roster.clone(),
        membership: cluster.membership,
        epoch: Epoch::FIRST,
        base: None,
    };
    OperationRecord {
        trigger: Trigger::Generate,
        ceremony,
        spares: plan.spares.clone(),
        attempt: 1,
        begun_ms: cluster.time_ms,
        deadline_ms: cluster.time_ms.saturating_add(limits::GENERATE_ATTEMPT_MS),
        ready: BTreeMap::new(),
        moved: None,
    }
}

/// Takes a vote of a holder.
pub(crate) fn vote<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    vote: Vote,
) -> Result<Outcome, Stop> {
    let (operation, epoch) = match &vote {
        Vote::Ready { core, .. } => (operation_id(&core.key, core.version), core.epoch),
        Vote::Fault { operation, epoch, .. } => (*operation, *epoch),
    };
    let running = running(tables, &operation, epoch)?;
    let keys = identities(tables, &running.ceremony.roster)?;
    vote.verify(&running.ceremony, |node| keys.get(&node).copied())?;
    match vote {
        Vote::Ready { node, core, ready } if running.moved.is_some() => {
            redistributions::take_ready(tables, cluster, running, node, core, ready)
        }
        Vote::Ready { node, core, ready } => take_ready(tables, cluster, running, node, core, ready),
        Vote::Fault { node, report, .. } if running.moved.is_some() => {
            redistributions::restarted(tables, cluster, running, node, &report)
        }
        Vote::Fault { node, report, .. } => end_attempt(tables, cluster, running, Some(node), report),
    }
}

/// Identities of members; who is no member is left out.
pub(crate) fn identities(tables: &impl Tables, nodes: &[NodeId]) -> Result<BTreeMap<NodeId, PublicKey>, Stop> {
    let mut keys = BTreeMap::new();
    for node in nodes {
        if let Some(member) = read::<Member>(tables, &schema::member(*node))? {
            keys.insert(*node, member.key);
        }
    }
    Ok(keys)
}

pub(crate) fn running(tables: &impl Tables, operation: &OperationId, epoch: Epoch) -> Result<OperationRecord, Stop> {
    let record = read::<OperationRecord>(tables, &schema::operation(operation))?;
    record
        .filter(|running| running.ceremony.epoch == epoch)
        .ok_or_else(|| Refusal::new(ErrorCode::WrongState, "a vote for an attempt that does not run").into())
}

fn take_ready<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    mut running: OperationRecord,
    node: NodeId,
    core: CertificateCore,
    ready: Ready,
) -> Result<Outcome, Stop> {
    running.ready.insert(node, ReadyRecord { core: core.clone(), ready });
    let n = running.ceremony.roster.len();
    let votes_for = |core: &CertificateCore| running.ready.values().filter(|vote| vote.core == *core).count();
    if votes_for(&core) == n {
        return commit(tables, cluster, running, core);
    }
    // Holders that computed different results can never agree. With fewer than t evil ones, a result that t vote for has an
    // honest voter, and one that n-t+1 vote for is the only such; whoever votes for another is then known. Until there is one,
    // more votes are waited for.
    let t = running.ceremony.threshold.get();
    let sure = t.max((n + 1).saturating_sub(t));
    let honest = running.ready.values().find(|vote| votes_for(&vote.core) >= sure);
    let odd = |honest: &ReadyRecord| {
        let others = running.ready.iter().filter(|(_, vote)| vote.core != honest.core);
        others.map(|(node, _)| *node).collect::<Vec<NodeId>>()
    };
    let culprits = honest.map(odd).unwrap_or_default();
    if !culprits.is_empty() || running.ready.len() == n {
        return end_attempt(tables, cluster, running, None, FaultReport::new(FaultKind::WrongResult, culprits));
    }
    tables.put(schema::operation(&running.ceremony.operation), &running);
    Ok(Outcome::Noted)
}

/// Every holder is ready: the epoch of the attempt signs from here on.
pub(crate) fn commit<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    running: OperationRecord,
    core: CertificateCore,
) -> Result<Outcome, Stop> {
    let ceremony = &running.ceremony;
    let mut version = version_of(tables, ceremony)?;
    let event = if running.moved.is_some() { Event::Redistribute } else { Event::Generated };
    let Verdict::To(state) = decide(version.state, event) else {
        return refuse(ErrorCode::Internal, "an operation runs for a version whose state does not allow it");
    };
    version.state = state;
    version.roster.clone_from(&ceremony.roster);
    version.threshold = ceremony.threshold;
    version.committed_ms = cluster.time_ms;
    version.stale.clear();
    version.remember(ended(cluster, &running, None, None, Vec::new()));
    version.shares.push(share_set(ceremony));
    let outcome = Outcome::activated(&core);
    let ready = running.ready.into_iter().map(|(node, vote)| (node, vote.ready)).collect();
    let before = version.certificate.replace(StoredCertificate {
        core,
        ready,
        activated: BTreeMap::new(),
        heads: BTreeMap::new(),
    });
    shares::retire(tables, &ceremony.key, &mut version, before)?;
    tables.remove(schema::operation(&ceremony.operation));
    if event == Event::Generated {
        keys::activate(tables, cluster, &ceremony.key, ceremony.version)?;
    }
    let signs = matches!(version.state_at(cluster.time_ms), KeyState::Active | KeyState::Suspended);
    let every = keys::key_of_id(tables, &ceremony.key)?.policy.refresh_every_ms.filter(|_| signs);
    let due = every.map(|every| cluster.time_ms.saturating_add(every));
    shares::schedule(tables, &ceremony.key, &mut version, due);
    tables.put(schema::version(&ceremony.key, ceremony.version), &version);
    Ok(outcome)
}

/// Shares that an attempt handed out, or may have handed out.
pub(crate) fn share_set(ceremony: &Ceremony) -> ShareSet {
    ShareSet {
        epoch: ceremony.epoch,
        holders: ceremony.holders.clone(),
        threshold: ceremony.threshold,
        erased: BTreeSet::new(),
    }
}

/// What is remembered of an attempt.
pub(crate) fn ended(
    cluster: &ClusterRecord,
    running: &OperationRecord,
    fault: Option<FaultKind>,
    reporter: Option<NodeId>,
    culprits: Vec<NodeId>,
) -> AttemptRecord {
    AttemptRecord {
        trigger: running.trigger,
        epoch: running.ceremony.epoch,
        roster: running.ceremony.roster.clone(),
        threshold: running.ceremony.threshold,
        ended_ms: cluster.time_ms,
        fault,
        reporter,
        culprits,
    }
}

pub(crate) fn version_of(tables: &impl Tables, ceremony: &Ceremony) -> Result<VersionRecord, Stop> {
    read::<VersionRecord>(tables, &schema::version(&ceremony.key, ceremony.version))?
        .ok_or_else(|| Refusal::new(ErrorCode::Internal, "an operation runs for a version that does not exist").into())
}

/// The time of an attempt is over: anybody may say so, once it is true.
pub(crate) fn expire<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    operation: &OperationId,
    epoch: Epoch,
) -> Result<Outcome, Stop> {
    let running = running(tables, operation, epoch)?;
    if cluster.time_ms < running.deadline_ms {
        return refuse(ErrorCode::WrongState, "the time of this attempt is not over");
    }
    if running.moved.is_some() {
        return redistributions::end_attempt(tables, cluster, running, None);
    }
    // Who is silent can only be told when somebody got as far as a vote.
    let silent = running.ceremony.roster.iter().filter(|node| !running.ready.contains_key(node));
    let culprits = if running.ready.is_empty() { Vec::new() } else { silent.copied().collect() };
    end_attempt(tables, cluster, running, None, FaultReport::new(FaultKind::Unresponsive, culprits))
}

/// Ends an attempt. The next one begins with spares for whom the report blames; without spares for them the version failed.
fn end_attempt<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    mut running: OperationRecord,
    reporter: Option<NodeId>,
    report: FaultReport,
) -> Result<Outcome, Stop> {
    let over = running.ceremony.clone();
    let mut version = version_of(tables, &over)?;
    version.remember(ended(cluster, &running, Some(report.kind), reporter, report.culprits.clone()));
    let replaced = replace(&mut running, &report.culprits);
    let next = over.epoch.next().filter(|_| replaced && running.attempt < limits::GENERATE_ATTEMPTS);
    match next {
        Some(epoch) => {
            version.epoch = epoch;
            running.ceremony.epoch = epoch;
            running.ceremony.holders.clone_from(&running.ceremony.roster);
            running.attempt += 1;
            running.begun_ms = cluster.time_ms;
            running.deadline_ms = cluster.time_ms.saturating_add(limits::GENERATE_ATTEMPT_MS);
            running.ready.clear();
            version.roster.clone_from(&running.ceremony.roster);
            tables.put(schema::operation(&over.operation), &running);
        }
        None => {
            version.state = KeyState::Failed;
            tables.remove(schema::operation(&over.operation));
        }
    }
    tables.put(schema::version(&over.key, over.version), &version);
    Ok(Outcome::AttemptEnded { key: over.key, version: over.version, epoch: over.epoch, next })
}

/// Puts spares in the place of culprits, in the order that the create request signed. False when there are not enough.
fn replace(running: &mut OperationRecord, culprits: &[NodeId]) -> bool {
    running.spares.retain(|spare| !culprits.contains(spare));
    for culprit in culprits {
        let Some(place) = running.ceremony.roster.iter_mut().find(|node| *node == culprit) else { continue };
        if running.spares.is_empty() {
            return false;
        }
        *place = running.spares.remove(0);
    }
    true
}

/// Operations that run, in a circle: those behind the one that was looked at last, then from the beginning. Each gets its turn
/// however many there are.
///
/// # Errors
/// [`crate::table::StoreFault`] when the store cannot be read.
pub fn next_operations(
    tables: &impl Tables,
    after: Option<&OperationId>,
    limit: usize,
) -> Result<Vec<OperationRecord>, crate::table::StoreFault> {
    let after = after.map(schema::operation).unwrap_or_default();
    let mut page = tables.scan(schema::OPERATIONS, &after, limit)?;
    if page.len() < limit && !after.is_empty() {
        let first = tables.scan(schema::OPERATIONS, b"", limit - page.len())?;
        page.extend(first.into_iter().take_while(|(key, _)| *key <= after));
    }
    page.iter().map(|(_, value)| Ok(crate::wire::decode(value)?)).collect()
}

/// Operations that run, by id.
///
/// # Errors
/// [`crate::table::StoreFault`] when the store cannot be read.
pub fn running_operations(
    tables: &impl Tables,
    limit: usize,
) -> Result<Vec<OperationRecord>, crate::table::StoreFault> {
    let page = tables.scan(schema::OPERATIONS, b"", limit)?;
    page.iter().map(|(_, value)| Ok(crate::wire::decode(value)?)).collect()
}
