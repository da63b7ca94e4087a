//! Redistributions in the replicated state: how one begins, what its votes do, what becomes of an attempt that ends.

use std::collections::BTreeMap;

use crate::certificate::{CertificateCore, Ready};
use crate::entry::Need;
use crate::error::{Detail, ErrorCode, Refusal};
use crate::generate::{Base, Ceremony, FaultKind, FaultReport};
use crate::genesis::Member;
use crate::id::{KeyId, KeyVersion, NodeId, Threshold};
use crate::identity::Domain;
use crate::lifecycle::{Event, KeyState, Verdict, decide};
use crate::limits;
use crate::outcome::Outcome;
use crate::redistribute::{DealingVote, Dealings};
use crate::request::{Action, RequestBody};
use crate::schema::replicated as schema;
use crate::table::{Overlay, StoreFault, Tables, read};

use super::records::{self, ClusterRecord, KeyRecord, Moved, OperationRecord, ReadyRecord, Trigger, VersionRecord};
use super::{Stop, key_of, keys, operation_id, operations, refuse, shares};

/// The detail of a refusal that passes by itself: how many holders have activated the epoch that signs, too few as yet.
pub const ACTIVATED: &str = "activated";

/// Who is to hold shares, and why. Only a client that may manage the key says who is absent: a node could push others out by it.
struct Wish<'a> {
    trigger: Trigger,
    roster: Vec<NodeId>,
    threshold: Threshold,
    absent: &'a [NodeId],
}

/// A client wants new shares, or shares elsewhere.
pub(crate) fn requested<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    body: &RequestBody,
) -> Result<Outcome, Stop> {
    let key = key_of(tables, body.key)?;
    let selected = keys::select(tables, &key, body.version)?;
    let [version] = <[VersionRecord; 1]>::try_from(selected)
        .map_err(|_| Refusal::new(ErrorCode::InvalidArgument, format!("name one version of key `{}`", key.name)))?;
    let wish = match &body.action {
        Action::RefreshKey { absent } => {
            Wish { trigger: Trigger::Refresh, roster: version.roster.clone(), threshold: version.threshold, absent }
        }
        Action::ReshareKey { plan, absent } => {
            keys::check_members(tables, plan)?;
            Wish { trigger: Trigger::Reshare, roster: plan.roster.clone(), threshold: plan.threshold, absent }
        }
        _ => return refuse(ErrorCode::Internal, "not a request to move shares"),
    };
    begin(tables, cluster, &key, version, wish)
}

/// The schedule of a key says that its shares are to be renewed; valid only when that is true.
pub(crate) fn scheduled<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    id: &KeyId,
    number: KeyVersion,
) -> Result<Outcome, Stop> {
    let key = key_of(tables, Some(*id))?;
    let mut version = version(tables, id, number)?;
    if version.refresh_ms.is_none_or(|due| due > cluster.time_ms) {
        return refuse(ErrorCode::WrongState, "this refresh is not due");
    }
    if !matches!(version.state_at(cluster.time_ms), KeyState::Active | KeyState::Suspended) {
        shares::schedule(tables, id, &mut version, None);
        tables.put(schema::version(id, number), &version);
        return Ok(Outcome::Noted);
    }
    let retry = cluster.time_ms.saturating_add(limits::REFRESH_RETRY_MS);
    shares::schedule(tables, id, &mut version, Some(retry));
    let (roster, threshold) = (version.roster.clone(), version.threshold);
    let wish = Wish { trigger: Trigger::Schedule, roster, threshold, absent: &[] };
    match begin(tables, cluster, &key, version.clone(), wish) {
        // It cannot begin now; it is due again after a while.
        Err(Stop::Refused(_)) => {
            tables.put(schema::version(id, number), &version);
            Ok(Outcome::Noted)
        }
        begun => begun,
    }
}

/// A node of the roster has no usable share: the others give the whole roster new ones.
pub(crate) fn needed<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    need: &Need,
) -> Result<Outcome, Stop> {
    let key = key_of(tables, Some(need.key))?;
    let mut version = version(tables, &need.key, need.version)?;
    let member = read::<Member>(tables, &schema::member(need.node))?;
    let payload = Need::payload(&need.key, need.version, need.epoch, need.node);
    let signed = member.is_some_and(|m| m.key.verifies(Domain::Need, &cluster.cluster, &payload, &need.signature));
    if !signed {
        return refuse(ErrorCode::BadSignature, "a need that its node did not sign as it should");
    }
    let signs = version.core().map(|core| core.epoch);
    if signs != Some(need.epoch) || !version.roster.contains(&need.node) {
        return refuse(ErrorCode::WrongState, "a need for a share of an epoch that does not sign");
    }
    let healed = version.healed.get(&need.node);
    if healed.is_some_and(|at| cluster.time_ms < at.saturating_add(limits::HEAL_MS)) {
        let message = format!("node {} was given a share of key `{}` less than an hour ago", need.node, key.name);
        return refuse(ErrorCode::WrongState, message);
    }
    version.healed.insert(need.node, cluster.time_ms);
    version.stale.insert(need.node);
    let (roster, threshold) = (version.roster.clone(), version.threshold);
    let wish = Wish { trigger: Trigger::Need(need.node), roster, threshold, absent: &[] };
    begin(tables, cluster, &key, version, wish)
}

fn version(tables: &impl Tables, key: &KeyId, number: KeyVersion) -> Result<VersionRecord, Stop> {
    let record = read::<VersionRecord>(tables, &schema::version(key, number))?;
    record.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "there is no such version").into())
}

fn begin<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    key: &KeyRecord,
    mut version: VersionRecord,
    wish: Wish<'_>,
) -> Result<Outcome, Stop> {
    let (name, state) = (&key.name, version.state_at(cluster.time_ms));
    if decide(state, Event::Redistribute) == Verdict::No {
        return refuse(ErrorCode::WrongState, format!("key `{name}` is {state}: its shares are not moved"));
    }
    let operation = operation_id(&key.id, version.number);
    if tables.get(&schema::operation(&operation))?.is_some() {
        return refuse(ErrorCode::OperationRunning, format!("the shares of key `{name}` are being moved already"));
    }
    let Some(certificate) = &version.certificate else {
        return refuse(ErrorCode::Internal, format!("key `{name}` is {state} without a certificate"));
    };
    let base = certificate.core.clone();
    // From an epoch that too few have activated nothing may begin: it may be all that is left.
    if certificate.activated.len() < base.threshold.get() {
        let message = format!("the last change of key `{name}` is not activated yet");
        let activated = u64::try_from(certificate.activated.len()).unwrap_or(u64::MAX);
        return Err(Refusal::new(ErrorCode::OperationRunning, message)
            .with(ACTIVATED, Detail::Number(activated))
            .into());
    }
    let Some(epoch) = version.epoch.next() else {
        return refuse(ErrorCode::WrongState, "the epochs of this version are used up");
    };
    let members = records::members(tables)?;
    let (dealers, holders) = parties(cluster, &base, &version, &wish, |node: &NodeId| members.contains_key(node))?;
    version.epoch = epoch;
    let ceremony = Ceremony {
        cluster: cluster.cluster,
        operation,
        key: key.id,
        name: name.clone(),
        version: version.number,
        suite: key.suite,
        roster: wish.roster,
        threshold: wish.threshold,
        holders,
        membership: cluster.membership,
        epoch,
        base: Some(Base { core: base.digest(), dealers }),
    };
    let record = OperationRecord {
        trigger: wish.trigger,
        ceremony,
        spares: Vec::new(),
        attempt: 1,
        begun_ms: cluster.time_ms,
        deadline_ms: cluster.time_ms.saturating_add(limits::REDISTRIBUTE_ATTEMPT_MS),
        ready: BTreeMap::new(),
        moved: Some(Moved { base, dealings: Dealings::default() }),
    };
    tables.put(schema::operation(&operation), &record);
    tables.put(schema::version(&key.id, version.number), &version);
    Ok(Outcome::Redistributing { key: key.id, version: version.number, epoch })
}

/// Who deals and who is to hold, without those who cannot be reached or are no members any more.
fn parties(
    cluster: &ClusterRecord,
    base: &CertificateCore,
    version: &VersionRecord,
    wish: &Wish<'_>,
    is_member: impl Fn(&NodeId) -> bool + Copy,
) -> Result<(Vec<NodeId>, Vec<NodeId>), Stop> {
    let present = |node: &NodeId| is_member(node) && !wish.absent.contains(node);
    let mut dealers: Vec<NodeId> = base.holders.iter().copied().filter(present).collect();
    dealers.retain(|node| !version.stale.contains(node));
    dealers.sort_unstable();
    let mut holders: Vec<NodeId> = wish.roster.iter().copied().filter(present).collect();
    let listed = |nodes: &[NodeId]| Detail::List(nodes.iter().map(ToString::to_string).collect());
    if dealers.len() < base.threshold.get() {
        let message = format!("{} holders must deal their shares and {} can", base.threshold, dealers.len());
        return Err(Refusal::new(ErrorCode::BelowThreshold, message).with("unreachable", listed(wish.absent)).into());
    }
    let least = least_holders(wish.roster.len(), wish.threshold);
    if holders.len() < least {
        let message = format!(
            "{least} of the {} nodes of the roster must take new shares and {} can",
            wish.roster.len(),
            holders.len()
        );
        return Err(Refusal::new(ErrorCode::RosterUnreachable, message)
            .with("unreachable", listed(wish.absent))
            .into());
    }
    let mut withholding = withholding(cluster, version);
    withholding.retain(|node| wish.trigger != Trigger::Need(*node));
    spare(&mut holders, &withholding, least);
    Ok((dealers, holders))
}

/// Holders that took the shares that sign and have not activated them in the time of an attempt. With one of them among the
/// holders every time, no epoch would ever be final, and no earlier share ever erased.
fn withholding(cluster: &ClusterRecord, version: &VersionRecord) -> Vec<NodeId> {
    let late = cluster.time_ms >= version.committed_ms.saturating_add(limits::REDISTRIBUTE_ATTEMPT_MS);
    let Some(certificate) = version.certificate.as_ref().filter(|_| late) else { return Vec::new() };
    let core = &certificate.core;
    core.holders.iter().copied().filter(|node| !certificate.activated.contains_key(node)).collect()
}

/// So many must take new shares: one disk may then be lost, unless all are needed anyway.
fn least_holders(roster: usize, threshold: Threshold) -> usize {
    let enough = threshold.get() + 1;
    if roster < enough { roster } else { enough }
}

/// Takes a dealer's commitments or a holder's acknowledgement.
pub(crate) fn deal<T: Tables>(tables: &mut Overlay<'_, T>, vote: &DealingVote) -> Result<Outcome, Stop> {
    let mut running = operations::running(tables, &vote.operation(), vote.epoch())?;
    let ceremony = &running.ceremony;
    let Some(moved) = &mut running.moved else {
        return refuse(ErrorCode::WrongState, "nothing is dealt in a generation");
    };
    let mut nodes = ceremony.roster.clone();
    nodes.extend(&moved.base.roster);
    let keys = operations::identities(tables, &nodes)?;
    moved.dealings.take(ceremony, &moved.base, vote, |node| keys.get(&node).copied())?;
    tables.put(schema::operation(&ceremony.operation), &running);
    Ok(Outcome::Advanced { operation: ceremony.operation })
}

/// Takes READY of a holder, for the one result that the log fixed.
pub(crate) fn take_ready<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    mut running: OperationRecord,
    node: NodeId,
    core: CertificateCore,
    ready: Ready,
) -> Result<Outcome, Stop> {
    let chosen = running.moved.as_ref().and_then(|moved| moved.dealings.result.as_ref());
    if chosen.is_none_or(|chosen| chosen.core != core) {
        return refuse(ErrorCode::WrongState, "a vote for shares that are not the ones that were dealt");
    }
    running.ready.insert(node, ReadyRecord { core: core.clone(), ready });
    if running.ceremony.holders.iter().all(|holder| running.ready.contains_key(holder)) {
        return operations::commit(tables, cluster, running, core);
    }
    tables.put(schema::operation(&running.ceremony.operation), &running);
    Ok(Outcome::Advanced { operation: running.ceremony.operation })
}

/// Takes a holder's word that it restarted: only of one that acknowledged what it dealt itself, which was chosen. It cannot vote
/// READY, and nobody else can help it. The next attempt leaves it out as a dealer, if it can be spared: so it can say so once.
pub(crate) fn restarted<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    running: OperationRecord,
    node: NodeId,
    report: &FaultReport,
) -> Result<Outcome, Stop> {
    let chosen = running.moved.as_ref().and_then(|moved| moved.dealings.result.as_ref());
    let deals = chosen.is_some_and(|chosen| chosen.dealers.contains(&node));
    let said = report.kind == FaultKind::Restarted && report.culprits.is_empty();
    if !said || !deals || running.ready.contains_key(&node) {
        let message = "a redistribution ends by its votes, its time, or a holder that lost what it dealt to itself";
        return refuse(ErrorCode::WrongState, message);
    }
    end_attempt(tables, cluster, running, Some(node))
}

/// The time of an attempt is over, or a holder restarted in it. The next one leaves out who kept the others waiting, as far as
/// enough remain.
pub(crate) fn end_attempt<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    mut running: OperationRecord,
    restarted: Option<NodeId>,
) -> Result<Outcome, Stop> {
    let over = running.ceremony.clone();
    let mut version = operations::version_of(tables, &over)?;
    let (fault, culprits) = match restarted {
        None => (FaultKind::Unresponsive, leave_out(&mut running)),
        Some(node) => {
            let least = running.moved.as_ref().map_or(0, |moved| moved.base.threshold.get());
            running.ceremony.base.iter_mut().for_each(|base| spare(&mut base.dealers, &[node], least));
            (FaultKind::Restarted, Vec::new())
        }
    };
    version.remember(operations::ended(
        cluster,
        &OperationRecord { ceremony: over.clone(), ..running.clone() },
        Some(fault),
        restarted,
        culprits,
    ));
    if was_dealt(&running) {
        version.shares.push(operations::share_set(&over));
    }
    let next = version.epoch.next().filter(|_| running.attempt < limits::REDISTRIBUTE_ATTEMPTS);
    match next {
        Some(epoch) => {
            version.epoch = epoch;
            running.ceremony.epoch = epoch;
            running.attempt += 1;
            running.begun_ms = cluster.time_ms;
            running.deadline_ms = cluster.time_ms.saturating_add(limits::REDISTRIBUTE_ATTEMPT_MS);
            running.ready.clear();
            if let Some(moved) = &mut running.moved {
                moved.dealings = moved.dealings.for_next_attempt(&over);
            }
            tables.put(schema::operation(&over.operation), &running);
        }
        None => tables.remove(schema::operation(&over.operation)),
    }
    tables.put(schema::version(&over.key, over.version), &version);
    Ok(Outcome::AttemptEnded { key: over.key, version: over.version, epoch: over.epoch, next })
}

/// Whether shares of the attempt may lie on disks.
fn was_dealt(running: &OperationRecord) -> bool {
    running.moved.as_ref().is_some_and(|moved| moved.dealings.result.is_some())
}

/// Takes suspects out of an attempt, the worst first, as many as can be spared. Gives back all that are suspect.
fn leave_out(running: &mut OperationRecord) -> Vec<NodeId> {
    let Some(moved) = &running.moved else { return Vec::new() };
    let ceremony = &mut running.ceremony;
    let suspects = moved.dealings.suspects(ceremony, &moved.base);
    let mut holders = suspects.without_holders;
    if moved.dealings.result.is_some() {
        holders.extend(ceremony.holders.iter().filter(|node| !running.ready.contains_key(node)));
    }
    let least = least_holders(ceremony.roster.len(), ceremony.threshold);
    spare(&mut ceremony.holders, &holders, least);
    if let Some(base) = &mut ceremony.base {
        spare(&mut base.dealers, &suspects.without_dealers, moved.base.threshold.get());
    }
    let mut culprits = [suspects.without_dealers, holders].concat();
    culprits.sort_unstable();
    culprits.dedup();
    culprits
}

/// Takes nodes off a list, from the front of `without`, as long as more than `least` are left.
fn spare(list: &mut Vec<NodeId>, without: &[NodeId], least: usize) {
    for node in without {
        if list.len() > least {
            list.retain(|other| other != node);
        }
    }
}

/// Ends what runs for a version that is withdrawn or superseded. Shares that were dealt count until they are erased.
pub(crate) fn withdraw<T: Tables>(
    tables: &mut Overlay<'_, T>,
    key: &KeyId,
    version: &mut VersionRecord,
) -> Result<(), StoreFault> {
    let place = schema::operation(&operation_id(key, version.number));
    let running = read::<OperationRecord>(tables, &place)?;
    if let Some(running) = running.filter(was_dealt) {
        version.shares.push(operations::share_set(&running.ceremony));
    }
    tables.remove(place);
    shares::schedule(tables, key, version, None);
    Ok(())
}

/// Refreshes by schedule that are due, for the reconciler.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn due_refreshes(tables: &impl Tables, now_ms: u64, limit: usize) -> Result<Vec<(KeyId, KeyVersion)>, StoreFault> {
    let mut due = Vec::new();
    for (row, _) in tables.scan(schema::REFRESHES, b"", limit)? {
        let (at_ms, key, version) = keys::timed(&row)?;
        if at_ms > now_ms {
            break;
        }
        due.push((key, version));
    }
    Ok(due)
}
