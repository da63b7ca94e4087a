//! Share operations in the replicated state: votes come in, an attempt commits or ends, the next one begins.

use std::collections::BTreeMap;

use crate::certificate::{CertificateCore, Ready, verifies_activated};
use crate::entry::Witness;
use crate::error::{ErrorCode, Refusal};
use crate::generate::{Ceremony, FaultKind, FaultReport, Vote};
use crate::genesis::{Member, MemberRole};
use crate::id::{Epoch, NodeId, OperationId};
use crate::identity::Domain;
use crate::lifecycle::{Event, KeyState, Verdict, decide};
use crate::limits;
use crate::outcome::Outcome;
use crate::request::RosterPlan;
use crate::schema::replicated as schema;
use crate::table::{Overlay, Tables, read};
use crate::wire::encode;

use super::records::{
    AttemptRecord, ClusterRecord, KeyRecord, OperationRecord, ReadyRecord, StoredCertificate, VersionRecord,
};
use super::{Stop, keys, operation_id, records, refuse};

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
        membership: cluster.membership,
        epoch: Epoch::FIRST,
    };
    OperationRecord {
        ceremony,
        spares: plan.spares.clone(),
        attempt: 1,
        deadline_ms: cluster.time_ms.saturating_add(limits::GENERATE_ATTEMPT_MS),
        ready: BTreeMap::new(),
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
    let mut keys = BTreeMap::new();
    for node in &running.ceremony.roster {
        if let Some(member) = read::<Member>(tables, &schema::member(*node))? {
            keys.insert(*node, member.key);
        }
    }
    vote.verify(&running.ceremony, |node| keys.get(&node).copied())?;
    match vote {
        Vote::Ready { node, core, ready } => take_ready(tables, cluster, running, node, core, ready),
        Vote::Fault { node, report, .. } => end_attempt(tables, cluster, running, Some(node), report),
    }
}

fn running(tables: &impl Tables, operation: &OperationId, epoch: Epoch) -> Result<OperationRecord, Stop> {
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
    // Holders that computed different results can never agree. With fewer than t evil ones, a result that n-t+1 vote for is the
    // honest one, and whoever votes for another is known; until there is one, more votes are waited for.
    let honest = running.ready.values().find(|vote| votes_for(&vote.core) > n - running.ceremony.threshold.get());
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

fn commit<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    running: OperationRecord,
    core: CertificateCore,
) -> Result<Outcome, Stop> {
    let ceremony = &running.ceremony;
    let mut version = version_of(tables, ceremony)?;
    let Verdict::To(state) = decide(version.state, Event::Generated) else {
        return refuse(ErrorCode::Internal, "an operation runs for a version that is not pending");
    };
    version.state = state;
    version.roster.clone_from(&ceremony.roster);
    let outcome = Outcome::activated(&core);
    let ready = running.ready.into_iter().map(|(node, vote)| (node, vote.ready)).collect();
    version.certificate = Some(StoredCertificate { core, ready, activated: BTreeMap::new(), heads: BTreeMap::new() });
    tables.remove(schema::operation(&ceremony.operation));
    tables.put(schema::version(&ceremony.key, ceremony.version), &version);
    keys::activate(tables, cluster, &ceremony.key, ceremony.version)?;
    Ok(outcome)
}

fn version_of(tables: &impl Tables, ceremony: &Ceremony) -> Result<VersionRecord, Stop> {
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
    let ended = running.ceremony.clone();
    let mut version = version_of(tables, &ended)?;
    version.attempts.push(AttemptRecord {
        epoch: ended.epoch,
        roster: ended.roster.clone(),
        fault: report.kind,
        reporter,
        culprits: report.culprits.clone(),
    });
    let replaced = replace(&mut running, &report.culprits);
    let next = ended.epoch.next().filter(|_| replaced && running.attempt < limits::GENERATE_ATTEMPTS);
    match next {
        Some(epoch) => {
            running.ceremony.epoch = epoch;
            running.attempt += 1;
            running.deadline_ms = cluster.time_ms.saturating_add(limits::GENERATE_ATTEMPT_MS);
            running.ready.clear();
            version.roster.clone_from(&running.ceremony.roster);
            tables.put(schema::operation(&ended.operation), &running);
        }
        None => {
            version.state = KeyState::Failed;
            tables.remove(schema::operation(&ended.operation));
        }
    }
    tables.put(schema::version(&ended.key, ended.version), &version);
    Ok(Outcome::AttemptEnded { key: ended.key, version: ended.version, epoch: ended.epoch, next })
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

/// Takes ACTIVATED of a holder and the signed head of a voter.
pub(crate) fn witness<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    witness: &Witness,
) -> Result<Outcome, Stop> {
    let key = schema::version(&witness.key, witness.version);
    let record = read::<VersionRecord>(tables, &key)?;
    let member = read::<Member>(tables, &schema::member(witness.node))?;
    let place = read::<crate::certificate::Activation>(tables, &schema::place(&witness.key, witness.version))?;
    let (Some(mut version), Some(member), Some(place)) = (record, member, place) else {
        return refuse(ErrorCode::NotFound, "a witness of something that did not happen");
    };
    let Some(certificate) = &mut version.certificate else {
        return refuse(ErrorCode::NotFound, "a witness of something that did not happen");
    };
    let bad = || refuse(ErrorCode::BadSignature, format!("a witness of node {} that does not verify", witness.node));
    if let Some(signature) = witness.activated {
        let digest = certificate.core.digest();
        let on_roster = certificate.core.roster.contains(&witness.node);
        if !on_roster || !verifies_activated(&member.key, &cluster.cluster, &digest, &signature) {
            return bad();
        }
        certificate.activated.insert(witness.node, signature);
    }
    if let Some(signature) = witness.head {
        let votes = member.role == MemberRole::Voter;
        if !votes || !member.key.verifies(Domain::Head, &cluster.cluster, &encode(&place.head), &signature) {
            return bad();
        }
        certificate.heads.insert(witness.node, signature);
    }
    tables.put(key, &version);
    Ok(Outcome::Noted)
}

/// Operations that run, for the reconciler.
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

/// Whether a version still waits for votes that only this node can give; for its reconciler.
///
/// # Errors
/// [`crate::table::StoreFault`] when the store cannot be read.
pub fn owes_witness(
    tables: &impl Tables,
    key: &crate::id::KeyId,
    version: crate::id::KeyVersion,
    node: NodeId,
) -> Result<bool, crate::table::StoreFault> {
    let Some(record) = read::<VersionRecord>(tables, &schema::version(key, version))? else { return Ok(false) };
    let Some(certificate) = records::certificate(tables, key, &record)? else { return Ok(false) };
    let holds = certificate.core.roster.contains(&node);
    let votes = read::<Member>(tables, &schema::member(node))?.is_some_and(|m| m.role == MemberRole::Voter);
    Ok((holds && !certificate.activated.contains_key(&node)) || (votes && !certificate.heads.contains_key(&node)))
}
