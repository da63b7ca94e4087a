//! Ordered requests about keys.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{ErrorCode, Refusal};
use crate::genesis::Member;
use crate::id::{Epoch, KeyId, KeyVersion, Name, NodeId};
use crate::lifecycle::{Event, KeyState, Verdict, decide};
use crate::outcome::Outcome;
use crate::request::{Action, KeyPolicy, RequestBody, RosterPlan, VerifiedRequest, VersionSelector};
use crate::schema::replicated as schema;
use crate::table::{Overlay, StoreFault, Tables, read};

use super::records::{self, ClientRecord, ClusterRecord, DestructionRecord, KeyRecord, VersionRecord};
use super::shares::OwedErasure;
use super::{Stop, key_of, operation_id, operations, redistributions, refuse, shares};

/// Makes a key and begins the generation of its first version.
pub(crate) fn create<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    client: &ClientRecord,
    request: &VerifiedRequest,
) -> Result<Outcome, Stop> {
    let body = request.body();
    let Action::CreateKey { name, suite, plan, tags, expires_ms, policy } = &body.action else {
        return refuse(ErrorCode::Internal, "not a create request");
    };
    if let Some(other) = records::key_named(tables, name)? {
        let blocked = records::versions(tables, &other.id)?.iter().any(|v| v.state != KeyState::Failed);
        if blocked {
            return refuse(ErrorCode::AlreadyExists, format!("a key named `{name}` exists or existed"));
        }
    }
    check_expiry(cluster, *expires_ms)?;
    check_members(tables, plan)?;
    let id = request.key_id();
    let key = KeyRecord {
        id,
        name: name.clone(),
        purpose: body.purpose,
        suite: *suite,
        tags: tags.clone(),
        parent: None,
        created_by: client.name.clone(),
        created_ms: cluster.time_ms,
        current: None,
        latest: KeyVersion::FIRST,
        policy: *policy,
        lowered: None,
    };
    tables.put(schema::key_name(name), &id);
    begin(tables, cluster, &key, plan, *expires_ms)
}

/// Begins the generation of a new version; the current one signs until the new one is active.
pub(crate) fn rotate<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    request: &VerifiedRequest,
    plan: &RosterPlan,
    expires_ms: Option<u64>,
) -> Result<Outcome, Stop> {
    let mut key = key_of(tables, request.body().key)?;
    check_expiry(cluster, expires_ms)?;
    check_members(tables, plan)?;
    if pending(tables, &key)? {
        return refuse(
            ErrorCode::OperationRunning,
            format!("version {} of key `{}` is being made", key.latest, key.name),
        );
    }
    let current = current(tables, &key)?;
    match current.as_ref().map(|v| v.state_at(cluster.time_ms)) {
        Some(KeyState::Active | KeyState::Suspended | KeyState::Expired) => {}
        Some(state) => {
            return refuse(ErrorCode::WrongState, format!("key `{}` is {state}: it is not rotated", key.name));
        }
        None => return refuse(ErrorCode::WrongState, format!("key `{}` never had an active version", key.name)),
    }
    let Some(latest) = key.latest.next() else {
        return refuse(ErrorCode::WrongState, "the version numbers of this key are used up");
    };
    key.latest = latest;
    begin(tables, cluster, &key, plan, expires_ms)
}

fn check_expiry(cluster: &ClusterRecord, expires_ms: Option<u64>) -> Result<(), Stop> {
    match expires_ms {
        Some(at) if at <= cluster.time_ms => refuse(ErrorCode::InvalidArgument, "the expiry date is in the past"),
        _ => Ok(()),
    }
}

pub(crate) fn check_members(tables: &impl Tables, plan: &RosterPlan) -> Result<(), Stop> {
    for node in plan.roster.iter().chain(&plan.spares) {
        if read::<Member>(tables, &schema::member(*node))?.is_none() {
            return refuse(
                ErrorCode::InvalidArgument,
                format!("node {node} of the roster is no member of the cluster"),
            );
        }
    }
    Ok(())
}

fn pending(tables: &impl Tables, key: &KeyRecord) -> Result<bool, StoreFault> {
    Ok(tables.get(&schema::operation(&operation_id(&key.id, key.latest)))?.is_some())
}

fn current(tables: &impl Tables, key: &KeyRecord) -> Result<Option<VersionRecord>, StoreFault> {
    key.current.map_or(Ok(None), |number| read(tables, &schema::version(&key.id, number)))
}

fn begin<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    key: &KeyRecord,
    plan: &RosterPlan,
    expires_ms: Option<u64>,
) -> Result<Outcome, Stop> {
    let version = VersionRecord {
        number: key.latest,
        state: KeyState::Pending,
        created_ms: cluster.time_ms,
        expires_ms,
        reason: None,
        roster: plan.roster.clone(),
        threshold: plan.threshold,
        attempts: Vec::new(),
        epoch: Epoch::FIRST,
        certificate: None,
        retiring: None,
        shares: Vec::new(),
        stale: BTreeSet::new(),
        committed_ms: cluster.time_ms,
        refresh_ms: None,
        healed: BTreeMap::new(),
        destruction: None,
    };
    tables.put(schema::key_record(&key.id), key);
    tables.put(schema::version(&key.id, key.latest), &version);
    tables.put(schema::operation(&operation_id(&key.id, key.latest)), &operations::first(cluster, key, plan));
    Ok(Outcome::Generating { key: key.id, version: key.latest })
}

/// Suspend, resume, revoke, destroy and its cancellation.
pub(crate) fn change<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    body: &RequestBody,
) -> Result<Outcome, Stop> {
    let key = key_of(tables, body.key)?;
    let event = match &body.action {
        Action::SuspendKey => Event::Suspend,
        Action::ResumeKey => Event::Resume,
        Action::RevokeKey { .. } => Event::Revoke,
        Action::DestroyKey { .. } => Event::Destroy,
        Action::CancelDestroyKey => Event::CancelDestroy,
        _ => return refuse(ErrorCode::Internal, "not a change of state"),
    };
    if let Action::DestroyKey { confirm, .. } = &body.action {
        check_confirmation(&key.name, confirm)?;
    }
    let selected = select(tables, &key, body.version)?;
    let mut changed = Vec::new();
    let mut refused = None;
    for mut version in selected {
        match change_version(tables, cluster, &key, &mut version, event, &body.action)? {
            Ok(()) => changed.push((version.number, version.state)),
            Err(refusal) => refused = Some(refusal),
        }
    }
    match (changed.is_empty(), refused) {
        (true, Some(refusal)) => Err(Stop::Refused(refusal)),
        (true, None) => refuse(ErrorCode::NotFound, format!("key `{}` has no such version", key.name)),
        // Destroying all of a key while one version still lives would surprise: it is all or nothing.
        (false, Some(refusal)) if event == Event::Destroy => Err(Stop::Refused(refusal)),
        (false, _) => Ok(Outcome::KeyChanged { key: key.id, versions: changed }),
    }
}

fn check_confirmation(name: &Name, confirm: &Name) -> Result<(), Stop> {
    if name == confirm {
        return Ok(());
    }
    let message = format!("the confirmation `{confirm}` is not the name of the key, `{name}`: type it with --confirm");
    refuse(ErrorCode::InvalidArgument, message)
}

pub(crate) fn select(
    tables: &impl Tables,
    key: &KeyRecord,
    selector: VersionSelector,
) -> Result<Vec<VersionRecord>, Stop> {
    match selector {
        VersionSelector::Active => match current(tables, key)? {
            Some(version) => Ok(vec![version]),
            None => refuse(ErrorCode::WrongState, format!("key `{}` has no active version", key.name)),
        },
        // Failed and destroyed versions are history; "all" means what is left.
        VersionSelector::All => {
            let mut all = records::versions(tables, &key.id)?;
            all.retain(|v| !matches!(v.state, KeyState::Failed | KeyState::Destroyed));
            if all.is_empty() {
                return refuse(ErrorCode::WrongState, format!("no version of key `{}` is left", key.name));
            }
            Ok(all)
        }
        VersionSelector::Number(number) => match read(tables, &schema::version(&key.id, number))? {
            Some(version) => Ok(vec![version]),
            None => refuse(ErrorCode::NotFound, format!("key `{}` has no version {number}", key.name)),
        },
    }
}

fn change_version<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    key: &KeyRecord,
    version: &mut VersionRecord,
    event: Event,
    action: &Action,
) -> Result<Result<(), Refusal>, StoreFault> {
    let state = version.state_at(cluster.time_ms);
    let wrong = |what: &str| {
        let message = format!("version {} of key `{}` is {state}: `{what}` is refused", version.number, key.name);
        Ok(Err(Refusal::new(ErrorCode::WrongState, message)))
    };
    let to = match (decide(state, event), &version.destruction) {
        (Verdict::No, _) => return wrong(action.name()),
        (Verdict::To(to), _) => to,
        (Verdict::Back, Some(destruction)) if destruction.at_ms > cluster.time_ms => destruction.before,
        (Verdict::Back, _) => return wrong("cancel destruction"),
    };
    match action {
        Action::RevokeKey { reason } => {
            // The first reason stands.
            version.reason.get_or_insert_with(|| reason.clone());
            // What runs for a version is withdrawn together with it.
            redistributions::withdraw(tables, &key.id, version)?;
        }
        Action::DestroyKey { wait_ms, .. } => {
            let at_ms = cluster.time_ms.saturating_add(*wait_ms);
            redistributions::withdraw(tables, &key.id, version)?;
            version.destruction = Some(DestructionRecord { at_ms, before: state });
            tables.put(schema::destruction(at_ms, &key.id, version.number), &true);
        }
        Action::CancelDestroyKey => {
            if let Some(destruction) = version.destruction.take() {
                tables.remove(schema::destruction(destruction.at_ms, &key.id, version.number));
            }
        }
        _ => {}
    }
    version.state = to;
    tables.put(schema::version(&key.id, version.number), version);
    Ok(Ok(()))
}

/// A version became active: the one before verifies and no longer signs.
pub(crate) fn activate<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    id: &KeyId,
    number: KeyVersion,
) -> Result<(), Stop> {
    let mut key = key_of(tables, Some(*id))?;
    if let Some(mut before) = current(tables, &key)?
        && let Verdict::To(state) = decide(before.state_at(cluster.time_ms), Event::Superseded)
    {
        before.state = state;
        redistributions::withdraw(tables, id, &mut before)?;
        tables.put(schema::version(id, before.number), &before);
    }
    key.current = Some(number);
    tables.put(schema::key_record(id), &key);
    Ok(())
}

/// Changes how a key is kept. `index` is that of the entry.
pub(crate) fn set_policy<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    index: u64,
    id: Option<KeyId>,
    policy: KeyPolicy,
) -> Result<Outcome, Stop> {
    let mut key = key_of(tables, id)?;
    let longest = key.staleness_of(0);
    key.lowered = (policy.max_staleness_ms < longest).then_some((longest, index));
    key.policy = policy;
    if let Some(mut version) = current(tables, &key)? {
        let due = policy.refresh_every_ms.map(|every| version.committed_ms.max(cluster.time_ms).saturating_add(every));
        shares::schedule(tables, &key.id, &mut version, due);
        tables.put(schema::version(&key.id, version.number), &version);
    }
    tables.put(schema::key_record(&key.id), &key);
    Ok(Outcome::PolicyChanged { key: key.id })
}

/// The record of a key that is known to exist.
pub(crate) fn key_of_id(tables: &impl Tables, id: &KeyId) -> Result<KeyRecord, Stop> {
    key_of(tables, Some(*id))
}

/// Versions that are being destroyed and of which a node has to erase shares now.
pub(crate) fn owed_destructions(
    tables: &impl Tables,
    node: NodeId,
    now_ms: u64,
    limit: usize,
) -> Result<Vec<OwedErasure>, StoreFault> {
    let mut owed = Vec::new();
    let mut after = Vec::new();
    loop {
        let page = tables.scan(schema::DESTRUCTIONS, &after, 256)?;
        let Some((last, _)) = page.last() else { return Ok(owed) };
        after.clone_from(last);
        for (row, _) in page {
            let (at_ms, key, version) = timed(&row)?;
            if at_ms > now_ms || owed.len() >= limit {
                return Ok(owed);
            }
            let Some(record) = read::<VersionRecord>(tables, &schema::version(&key, version))? else { continue };
            let Some(below) = record.epoch.next() else { continue };
            // Who proved it says so again when somebody left since and nobody else is owing.
            let proved = || record.shares.iter().any(|set| set.erased.contains(&node));
            if record.owes_erasure(node, below) || (proved() && shares::is_erased(tables, &record)?) {
                owed.push(OwedErasure { key, version, below });
            }
        }
    }
}

/// When the next destruction begins that state time has not reached yet.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn next_destruction(tables: &impl Tables, state_ms: u64) -> Result<Option<u64>, StoreFault> {
    let after = schema::destruction(state_ms, &KeyId::from_bytes([0xff; 32]), KeyVersion::FIRST);
    match tables.scan(schema::DESTRUCTIONS, &after, 1)?.first() {
        Some((row, _)) => Ok(Some(timed(row)?.0)),
        None => Ok(None),
    }
}

/// A row that is sorted by time: when, and of which version.
pub(crate) fn timed(row: &[u8]) -> Result<(u64, KeyId, KeyVersion), StoreFault> {
    let mut reader = crate::wire::Reader::new(row.get(1..).unwrap_or_default());
    let (at_ms, (id, number)): (u64, (KeyId, KeyVersion)) = crate::wire::Wire::take(&mut reader)?;
    Ok((at_ms, id, number))
}
