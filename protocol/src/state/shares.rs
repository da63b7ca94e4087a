//! Which shares are out: what holders witnessed, what is no longer needed, who proved its erasure.

use crate::certificate::{Activation, verifies_activated};
use crate::entry::{Erasure, Witness};
use crate::error::ErrorCode;
use crate::genesis::Member;
use crate::id::{Epoch, KeyId, KeyVersion, NodeId};
use crate::identity::{Domain, PublicKey};
use crate::lifecycle::KeyState;
use crate::membership::is_majority;
use crate::outcome::Outcome;
use crate::schema::replicated as schema;
use crate::table::{Overlay, StoreFault, Tables, read};
use crate::wire::{Reader, Wire, encode};

use super::records::{self, ClusterRecord, StoredCertificate, VersionRecord};
use super::{Stop, keys, members, refuse};

/// Takes ACTIVATED of a holder and the signed head of a voter.
pub(crate) fn witness<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    witness: &Witness,
) -> Result<Outcome, Stop> {
    let key = schema::version(&witness.key, witness.version);
    let record = read::<VersionRecord>(tables, &key)?;
    let member = read::<Member>(tables, &schema::member(witness.node))?;
    let place = read::<Activation>(tables, &schema::place(&witness.key, witness.version, witness.epoch))?;
    let nothing = || refuse(ErrorCode::NotFound, "a witness of something that did not happen, or is over");
    let (Some(mut version), Some(member), Some(place)) = (record, member, place) else { return nothing() };
    let Some(certificate) = version.certificate.as_mut().filter(|c| c.core.epoch == witness.epoch) else {
        return nothing();
    };
    let bad = || refuse(ErrorCode::BadSignature, format!("a witness of node {} that does not verify", witness.node));
    if let Some(signature) = witness.activated {
        let digest = certificate.core.digest();
        let holds = certificate.core.holders.contains(&witness.node);
        if !holds || !verifies_activated(&member.key, &cluster.cluster, &digest, &signature) {
            return bad();
        }
        certificate.activated.insert(witness.node, signature);
    }
    if let Some(signature) = witness.head {
        let voters = members::voters_at(tables, place.head.membership)?.unwrap_or_default();
        let payload = encode(&place.head);
        let signed = |key: &PublicKey| key.verifies(Domain::Head, &cluster.cluster, &payload, &signature);
        if !voters.get(&witness.node).is_some_and(signed) {
            return bad();
        }
        certificate.heads.insert(witness.node, signature);
    }
    settle(tables, &witness.key, &mut version)?;
    tables.put(key, &version);
    Ok(Outcome::Noted)
}

/// What follows from the votes that are there now: the certificate before is no longer shown, earlier shares are erased.
fn settle<T: Tables>(tables: &mut Overlay<'_, T>, key: &KeyId, version: &mut VersionRecord) -> Result<(), Stop> {
    let Some(certificate) = &version.certificate else { return Ok(()) };
    let signs = certificate.core.epoch;
    if is_complete(tables, key, version.number, certificate)?
        && let Some(retired) = version.retiring.take()
    {
        tables.remove(schema::place(key, version.number, retired.core.epoch));
    }
    if version.is_final() {
        let earlier = version.shares.iter().filter(|set| set.epoch < signs);
        for node in earlier.flat_map(super::records::ShareSet::owing) {
            tables.put(schema::erasure(node, key, version.number), &signs);
        }
    }
    Ok(())
}

/// Whether a certificate has all of its votes: the heads of voters at the time of its activation.
fn is_complete(
    tables: &impl Tables,
    key: &KeyId,
    version: KeyVersion,
    certificate: &StoredCertificate,
) -> Result<bool, StoreFault> {
    let place = read::<Activation>(tables, &schema::place(key, version, certificate.core.epoch))?;
    let Some(place) = place else { return Ok(false) };
    let voters = members::voters_at(tables, place.head.membership)?.unwrap_or_default().len();
    let activated = certificate.activated.len() >= certificate.core.threshold.get();
    Ok(activated && is_majority(certificate.heads.len(), voters))
}

/// A new epoch signs. Clients are shown the certificate before it until the new one is complete.
pub(crate) fn retire<T: Tables>(
    tables: &mut Overlay<'_, T>,
    key: &KeyId,
    version: &mut VersionRecord,
    before: Option<StoredCertificate>,
) -> Result<(), Stop> {
    let Some(before) = before else { return Ok(()) };
    // One that never became complete is of no use; then the one before it stays.
    let complete = is_complete(tables, key, version.number, &before)?;
    let dropped = if version.retiring.is_none() || complete { version.retiring.replace(before) } else { Some(before) };
    if let Some(dropped) = dropped {
        tables.remove(schema::place(key, version.number, dropped.core.epoch));
    }
    Ok(())
}

/// Sets when the next refresh by schedule is due.
pub(crate) fn schedule<T: Tables>(
    tables: &mut Overlay<'_, T>,
    key: &KeyId,
    version: &mut VersionRecord,
    due_ms: Option<u64>,
) {
    if let Some(at) = version.refresh_ms {
        tables.remove(schema::refresh(at, key, version.number));
    }
    if let Some(at) = due_ms {
        tables.put(schema::refresh(at, key, version.number), &true);
    }
    version.refresh_ms = due_ms;
}

/// Takes a proof of erasure: for earlier epochs once the one that signs is final, for all of them when the version is being
/// destroyed. A version is destroyed once fewer shares than the threshold can remain of every epoch.
pub(crate) fn erased<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    erasure: &Erasure,
) -> Result<Outcome, Stop> {
    let Erasure { key, version: number, below, node, signature } = erasure;
    let record = read::<VersionRecord>(tables, &schema::version(key, *number))?;
    let member = read::<Member>(tables, &schema::member(*node))?;
    let (Some(mut version), Some(member)) = (record, member) else {
        return refuse(ErrorCode::NotFound, "a proof of erasure for something that does not exist");
    };
    if !may_erase(&version, *below, cluster.time_ms) {
        return refuse(ErrorCode::WrongState, "a proof of erasure of shares that are still needed");
    }
    let payload = Erasure::payload(key, *number, *below, *node);
    if !member.key.verifies(Domain::Erased, &cluster.cluster, &payload, signature) {
        return refuse(ErrorCode::BadSignature, "a proof of erasure that its holder did not sign");
    }
    let owed = version.shares.iter_mut().filter(|set| set.epoch < *below && set.holders.contains(node));
    let news = owed.map(|set| set.erased.insert(*node)).fold(false, |any, new| any | new);
    // What was said before may be enough since somebody left.
    if !news && !is_erased(tables, &version)? {
        return Ok(Outcome::Noted);
    }
    let signs = version.core().map(|core| core.epoch);
    version.shares.retain(|set| Some(set.epoch) == signs || !set.owing().is_empty());
    if signs.is_none_or(|signs| !version.owes_erasure(*node, signs)) {
        tables.remove(schema::erasure(*node, key, *number));
    }
    let destroyed = finish_destruction(tables, key, &mut version)?;
    tables.put(schema::version(key, *number), &version);
    if destroyed {
        return Ok(Outcome::KeyChanged { key: *key, versions: vec![(*number, KeyState::Destroyed)] });
    }
    Ok(Outcome::Noted)
}

/// Whether shares below an epoch are no longer needed.
fn may_erase(version: &VersionRecord, below: Epoch, now_ms: u64) -> bool {
    let destroying = version.destruction.as_ref().is_some_and(|destruction| destruction.at_ms <= now_ms);
    let superseded = version.is_final() && version.core().is_some_and(|core| below <= core.epoch);
    superseded || (destroying && version.epoch.next() == Some(below))
}

/// True when the version is destroyed from now on.
fn finish_destruction<T: Tables>(
    tables: &mut Overlay<'_, T>,
    key: &KeyId,
    version: &mut VersionRecord,
) -> Result<bool, StoreFault> {
    let Some(destruction) = &version.destruction else { return Ok(false) };
    let left = records::left(tables, version)?;
    if version.shares.iter().flat_map(super::records::ShareSet::owing).all(|node| left.contains(&node)) {
        tables.remove(schema::destruction(destruction.at_ms, key, version.number));
    }
    let destroyed = is_erased(tables, version)?;
    if destroyed {
        version.state = KeyState::Destroyed;
    }
    Ok(destroyed)
}

/// Whether a version that is being destroyed is so from the next proof on, be it a repeated one.
pub(crate) fn is_erased(tables: &impl Tables, version: &VersionRecord) -> Result<bool, StoreFault> {
    let left = records::left(tables, version)?;
    let closed = version.shares.iter().all(|set| set.is_closed(|node| left.contains(&node)));
    Ok(version.state == KeyState::Destroying && closed)
}

/// Shares that a node has to erase now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwedErasure {
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: KeyVersion,
    /// All epochs below this one.
    pub below: Epoch,
}

/// Shares that a node has to erase now: of versions that are being destroyed, and of epochs that nobody needs any more.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn owed_erasures(
    tables: &impl Tables,
    node: NodeId,
    now_ms: u64,
    limit: usize,
) -> Result<Vec<OwedErasure>, StoreFault> {
    let mut owed = keys::owed_destructions(tables, node, now_ms, limit)?;
    for (row, below) in tables.scan(&schema::erasures_of(node), b"", limit.saturating_sub(owed.len()))? {
        let mut reader = Reader::new(row.get(3..).unwrap_or_default());
        let (key, version): (KeyId, KeyVersion) = Wire::take(&mut reader)?;
        owed.push(OwedErasure { key, version, below: crate::wire::decode(&below)? });
    }
    Ok(owed)
}

/// Whether a version still waits for votes that only this node can give; for its reconciler.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn owes_witness(tables: &impl Tables, key: &KeyId, version: KeyVersion, node: NodeId) -> Result<bool, StoreFault> {
    let Some(record) = read::<VersionRecord>(tables, &schema::version(key, version))? else { return Ok(false) };
    let Some(certificate) = records::certificate(tables, key, &record)? else { return Ok(false) };
    let holds = certificate.core.holders.contains(&node);
    let voters = members::voters_at(tables, certificate.activation.head.membership)?;
    let votes = voters.is_some_and(|voters| voters.contains_key(&node));
    Ok((holds && !certificate.activated.contains_key(&node)) || (votes && !certificate.heads.contains_key(&node)))
}
