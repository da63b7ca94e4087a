//! The start rule: Raft begins only when every voter of genesis has said, signed, that its store is new.
//!
//! These answers are the start certificate. A store takes Raft messages only under a certificate that names it, so a node that
//! lost its disk, and with it its votes, can never vote again under its old name.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::EmptyNode;
use openraft::type_config::TypeConfigExt as _;
use symbolon_protocol::entry::Payload;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::genesis::{NewStore, StartCertificate};
use symbolon_protocol::id::{BootId, NodeId, StoreId};
use symbolon_protocol::identity::Domain;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::schema::private as schema;
use symbolon_protocol::state::records;
use symbolon_protocol::table::StoreFault;
use symbolon_protocol::wire::{decode, encode};

use super::Core;
use super::types::{NodeTypes, Surroundings, Transport};
use crate::store::{Batch, Column, Store};

/// Identity of a store, its first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatRecord {
    /// Layout of the store; a later release migrates older ones and refuses newer ones.
    pub format: u32,
    /// The cluster.
    pub cluster: symbolon_protocol::id::ClusterId,
    /// The node.
    pub node: NodeId,
    /// The store.
    pub store: StoreId,
}
symbolon_protocol::wire_struct!(FormatRecord { format, cluster, node, store });

/// Layout of stores that this release writes.
pub const STORE_FORMAT: u32 = 2;

/// Opens a store for a node: makes its identity when it is new, else checks it, and counts the boot, durable before it returns.
///
/// # Errors
/// What the operator should know: another node's or cluster's store, or a layout that is too new.
pub async fn open_store<S: Store>(
    store: &S,
    cluster: symbolon_protocol::id::ClusterId,
    node: NodeId,
    random: [u8; 16],
) -> Result<BootId, String> {
    let read = |key: Vec<u8>| store.get(Column::Private, &key).map_err(|e| e.to_string());
    let mut batch = Batch::default();
    match read(schema::format())? {
        Some(bytes) => check_format(&bytes, cluster, node)?,
        None => {
            let record = FormatRecord { format: STORE_FORMAT, cluster, node, store: StoreId::from_bytes(random) };
            batch.put(Column::Private, schema::format(), encode(&record));
        }
    }
    let before: Option<BootId> =
        read(schema::boot())?.map(|bytes| decode(&bytes)).transpose().map_err(|e| e.to_string())?;
    let boot = BootId { counter: before.map_or(1, |b| b.counter.saturating_add(1)), random };
    batch.put(Column::Private, schema::boot(), encode(&boot));
    store.write(batch).map_err(|e| e.to_string())?;
    store.sync().await.map_err(|e| e.to_string())?;
    Ok(boot)
}

/// Gives a new store the id that was enrolled for it, durable before it returns. A store that has one keeps it.
///
/// # Errors
/// What the operator should know: the store fails.
pub async fn name_store<S: Store>(
    store: &S,
    cluster: symbolon_protocol::id::ClusterId,
    node: NodeId,
    id: StoreId,
) -> Result<(), String> {
    if store.get(Column::Private, &schema::format()).map_err(|e| e.to_string())?.is_some() {
        return Ok(());
    }
    let mut batch = Batch::default();
    let record = FormatRecord { format: STORE_FORMAT, cluster, node, store: id };
    batch.put(Column::Private, schema::format(), encode(&record));
    store.write(batch).map_err(|e| e.to_string())?;
    store.sync().await.map_err(|e| e.to_string())
}

/// Counter of the last boot of a store; 0 for a new one.
///
/// # Errors
/// What the operator should know: the store cannot be read, or its boot record is damaged.
pub fn last_boot<S: Store>(store: &S) -> Result<u64, String> {
    match store.get(Column::Private, &schema::boot()).map_err(|e| e.to_string())? {
        Some(bytes) => Ok(decode::<BootId>(&bytes).map_err(|e| e.to_string())?.counter),
        None => Ok(0),
    }
}

fn check_format(bytes: &[u8], cluster: symbolon_protocol::id::ClusterId, node: NodeId) -> Result<(), String> {
    let record: FormatRecord = decode(bytes).map_err(|e| format!("the store's first record is damaged: {e}"))?;
    if record.format < STORE_FORMAT {
        return Err(format!(
            "the store has format {}, written before the first release; this release reads format {STORE_FORMAT} only: it is left \
             untouched, set the node up anew",
            record.format
        ));
    }
    if record.format > STORE_FORMAT {
        return Err(format!(
            "the store has format {}, this release knows {STORE_FORMAT}: install the release that wrote it",
            record.format
        ));
    }
    if record.cluster != cluster {
        return Err(format!(
            "the store belongs to cluster {}, this is {cluster}: check the genesis file",
            record.cluster
        ));
    }
    if record.node != node {
        return Err(format!("the store belongs to node {}, this is node {node}: check the identity file", record.node));
    }
    Ok(())
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    pub(crate) fn store_id(&self) -> Result<StoreId, StoreFault> {
        let bytes = self.0.store.get(Column::Private, &schema::format())?;
        let bytes = bytes.ok_or_else(|| StoreFault("the store's first record is missing".to_owned()))?;
        Ok(decode::<FormatRecord>(&bytes)?.store)
    }

    pub(crate) fn start_certificate(&self) -> Result<Option<StartCertificate>, StoreFault> {
        Ok(self.0.store.get(Column::Private, &schema::start())?.map(|bytes| decode(&bytes)).transpose()?)
    }

    pub(crate) fn admitted(&self) -> bool {
        self.0.admitted.load(Ordering::Relaxed)
    }

    /// This node's word that its store is new.
    ///
    /// # Errors
    /// `wrong_state` when the store already has a certificate.
    pub(crate) fn new_store(&self) -> Result<NewStore, Refusal> {
        let known = self.start_certificate().map_err(|e| self.fail(&e))?;
        if known.is_some() {
            return Err(Refusal::new(ErrorCode::WrongState, "this store is not new"));
        }
        let store = self.store_id().map_err(|e| self.fail(&e))?;
        let signature = self.0.identity.sign(Domain::Start, &self.0.cluster, &NewStore::payload(self.0.me, store));
        Ok(NewStore { node: self.0.me, store, signature })
    }

    /// Takes a start certificate, durable before it counts. The first one that names this store is for ever.
    ///
    /// # Errors
    /// When it is not signed by the voters of genesis, or names another store of this node.
    pub(crate) async fn take_certificate(&self, certificate: &StartCertificate) -> Result<(), Refusal> {
        certificate.check(&self.0.genesis)?;
        if let Some(known) = self.start_certificate().map_err(|e| self.fail(&e))? {
            let same = known == *certificate;
            let other = Refusal::new(ErrorCode::WrongState, "this store started under another certificate");
            return if same { Ok(()) } else { Err(other) };
        }
        let store = self.store_id().map_err(|e| self.fail(&e))?;
        if self.is_voter(self.0.me) && certificate.store_of(self.0.me) != Some(store) {
            tracing::error!(
                node = %self.0.me,
                "this store is empty, but the cluster knows another store of this node: it lost its disk. It takes no part; \
                 replace it by a node with a new identity"
            );
            return Err(Refusal::new(ErrorCode::Quarantined, "the cluster knows another store of this node"));
        }
        let mut batch = Batch::default();
        batch.put(Column::Private, schema::start(), encode(certificate));
        self.0.store.write(batch).map_err(|e| self.fail(&e))?;
        self.0.store.sync().await.map_err(|e| self.fail(&e))?;
        self.0.admitted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Founds the cluster, once, or finds out that it was founded. The voter with the lowest number does it.
    pub(crate) async fn found_cluster(self) {
        let voters = self.0.genesis.voters();
        let founder = voters.first() == Some(&self.0.me);
        // Who joins later learns of the start from the log.
        while self.0.genesis.members.contains_key(&self.0.me) && !self.started() {
            let certified = self.start_certificate().ok().flatten();
            let step = match (founder, certified) {
                (true, None) => self.gather_answers().await,
                (true, Some(certificate)) => self.spread_and_begin(certificate).await,
                (false, None) => self.look_for_certificate().await,
                (false, Some(_)) => Ok(()),
            };
            if let Err(refusal) = step {
                tracing::debug!(%refusal, "the cluster has not started yet");
            }
            C::sleep(Duration::from_millis(100)).await;
        }
    }

    fn started(&self) -> bool {
        records::cluster(&self.tables()).is_ok_and(|cluster| cluster.started)
    }

    async fn gather_answers(&self) -> Result<(), Refusal> {
        let mut answers = BTreeMap::from([(self.0.me, self.new_store()?)]);
        for node in self.0.genesis.voters() {
            if node == self.0.me {
                continue;
            }
            match self.call_work(node, &WorkCall::NewStore, self.0.timing.call).await {
                Ok(WorkAnswer::NewStore(answer)) if answer.node == node => {
                    answers.insert(node, answer);
                }
                Ok(WorkAnswer::Refused(refusal)) if refusal.code == ErrorCode::WrongState => {
                    return self.look_for_certificate().await;
                }
                Ok(_) => return Err(Refusal::new(ErrorCode::PeerMisbehaved, format!("node {node} answered nonsense"))),
                Err(why) => return Err(Refusal::new(ErrorCode::NoQuorum, why)),
            }
        }
        let certificate = StartCertificate { answers: answers.into_values().collect() };
        self.take_certificate(&certificate).await
    }

    /// Somebody else knows how the cluster started.
    async fn look_for_certificate(&self) -> Result<(), Refusal> {
        for node in self.others() {
            if let Ok(WorkAnswer::Start(certificate)) =
                self.call_work(node, &WorkCall::StartCertificate, self.0.timing.call).await
            {
                return self.take_certificate(&certificate).await;
            }
        }
        Ok(())
    }

    /// Gives the certificate to every voter, then begins Raft, then orders the certificate as the first entry.
    async fn spread_and_begin(&self, certificate: StartCertificate) -> Result<(), Refusal> {
        let begun = self.0.raft.is_initialized().await.unwrap_or(false);
        if !begun {
            for node in self.0.genesis.voters().into_iter().filter(|node| *node != self.0.me) {
                match self.call_work(node, &WorkCall::Start(certificate.clone()), self.0.timing.call).await {
                    Ok(WorkAnswer::Taken) => {}
                    Ok(WorkAnswer::Refused(refusal)) => return Err(refusal),
                    Ok(_) => return Err(Refusal::new(ErrorCode::PeerMisbehaved, "nonsense")),
                    Err(why) => return Err(Refusal::new(ErrorCode::NoQuorum, why)),
                }
            }
            let members: BTreeMap<u64, EmptyNode> =
                self.0.genesis.voters().iter().map(|id| (u64::from(id.get()), EmptyNode {})).collect();
            // Already begun by an earlier try is fine.
            let _ = self.0.raft.initialize(members).await;
        }
        let (_, outcome) = self.propose(&Payload::Start(certificate), Duration::from_secs(5)).await?;
        tracing::info!(?outcome, "the start certificate was ordered");
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "tests")]
mod tests {
    use super::*;
    use symbolon_protocol::id::ClusterId;

    #[test]
    fn a_store_of_another_format_is_not_read() {
        let (cluster, Some(node)) = (ClusterId::from_bytes([1; 32]), NodeId::new(1)) else { return };
        let record = |format| encode(&FormatRecord { format, cluster, node, store: StoreId::from_bytes([2; 16]) });
        assert_eq!(check_format(&record(STORE_FORMAT), cluster, node), Ok(()));
        for other in [STORE_FORMAT - 1, STORE_FORMAT + 1] {
            let refused = check_format(&record(other), cluster, node).expect_err("another format");
            assert!(refused.contains(&format!("format {other}")), "{refused}");
        }
    }
}
