//! This node's shares at rest: a sealed record in the private store, its key slot in the vault.
//!
//! Written in this order: key slot, synced; record, synced. Erased in this order: intent, synced; slot overwritten, synced;
//! record removed. So after any crash it is clear what was meant.

use std::collections::BTreeSet;

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::generate::ShareSecret;
use symbolon_protocol::id::{Digest, Epoch, KeyId, KeyVersion};
use symbolon_protocol::identity::tagged_hash;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::schema::{private, replicated};
use symbolon_protocol::state::records::{AttemptRecord, Trigger, VersionRecord};
use symbolon_protocol::table::{StoreFault, read};
use symbolon_protocol::wire::{Bytes, Reader, Wire, decode, encode};
use zeroize::Zeroizing;

use super::types::{NodeTypes, Surroundings, Transport, Vault};
use super::{Core, lock};
use crate::store::{Batch, Column, Store};

/// A share record as it is stored.
#[derive(Debug)]
struct ShareRecord {
    /// Digest of the certificate core that it belongs to.
    core: Digest,
    /// Sealed under the key of its slot.
    sealed: Bytes,
}
symbolon_protocol::wire_struct!(ShareRecord { core, sealed });

/// A staged share of a version that failed is kept for so long after the version was asked for, milliseconds.
const ORPHAN_MS: u64 = 24 * 3600 * 1000;

const RECORD_ID: &str = "symbolon/share-record/v1";

/// Name of a record and of its slot.
fn record_id(key: &KeyId, version: KeyVersion, epoch: Epoch) -> [u8; 32] {
    *tagged_hash(RECORD_ID, &private::share(key, version, epoch)).as_bytes()
}

/// Unseals every share of a node that does not run: how many open, and which key versions and epochs do not.
///
/// # Errors
/// [`StoreFault`].
pub fn check_shares<S: Store>(store: &S, vault: &impl Vault) -> Result<(usize, Vec<String>), StoreFault> {
    let (mut opened, mut shut, mut after) = (0, Vec::new(), Vec::new());
    loop {
        let page = store.scan(Column::Private, private::SHARES, &after, 256)?;
        let Some((last, _)) = page.last() else { return Ok((opened, shut)) };
        after.clone_from(last);
        for (key, bytes) in page {
            let id = *tagged_hash(RECORD_ID, &key).as_bytes();
            if store.get(Column::Private, &private::erase_intent(&Digest::from_bytes(id)))?.is_some() {
                continue;
            }
            let record: ShareRecord = decode(&bytes)?;
            match vault.open(id, &record.sealed.0) {
                Ok(_) => opened += 1,
                Err(why) => {
                    let (key, (version, epoch)): (KeyId, (KeyVersion, Epoch)) =
                        Wire::take(&mut Reader::new(key.get(1..).unwrap_or_default()))?;
                    shut.push(format!("key {key} version {version} epoch {epoch}: {why}"));
                }
            }
        }
    }
}

/// Erases every key slot whose record is not in the store, on disk before it returns: a crash came between slot and record, or
/// an older slot file was put back and brought the keys of erased shares with it. Only while nothing is staged, since a slot
/// comes before its record.
///
/// # Errors
/// What the operator should know: the store cannot be read, or a slot cannot be overwritten.
pub(crate) async fn erase_lone_slots<S: Store>(store: &S, vault: &dyn Vault) -> Result<(), String> {
    let mut lone: BTreeSet<[u8; 32]> = vault.records().into_iter().collect();
    let mut after = Vec::new();
    loop {
        let page = store.scan(Column::Private, private::SHARES, &after, 256).map_err(|e| e.to_string())?;
        let Some((last, _)) = page.last() else { break };
        after.clone_from(last);
        for (key, _) in &page {
            lone.remove(tagged_hash(RECORD_ID, key).as_bytes());
        }
    }
    if lone.is_empty() {
        return Ok(());
    }
    tracing::warn!(slots = lone.len(), "key slots without a share are erased");
    for record in lone {
        vault.erase(record)?;
    }
    vault.synced().await
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// Seals a share and stores it, durable before this returns; gives it back as re-read from the store and unsealed.
    pub(crate) async fn stage_share(
        &self,
        core: &CertificateCore,
        secret: &ShareSecret,
    ) -> Result<ShareSecret, Refusal> {
        let failed = |what: String| {
            tracing::error!(%what, "a share cannot be stored");
            Refusal::new(ErrorCode::StorageFailed, "a share cannot be stored")
        };
        let id = record_id(&core.key, core.version, core.epoch);
        // After a failed write nothing is known of the slots: the node stops.
        let broken = |what: String| {
            self.stop(format!("the key slots cannot be written: {what}"));
            failed(what)
        };
        // An earlier try may have left a slot. It is gone from the disk before another one may name this record.
        self.0.vault.erase(id).map_err(failed)?;
        self.0.vault.synced().await.map_err(broken)?;
        let sealed = self.0.vault.seal(id, secret.expose()).map_err(failed)?;
        self.0.vault.synced().await.map_err(broken)?;
        let record = ShareRecord { core: core.digest(), sealed: Bytes(sealed) };
        let mut batch = Batch::default();
        batch.put(Column::Private, private::share(&core.key, core.version, core.epoch), encode(&record));
        self.0.store.write(batch).map_err(|e| self.fail(&e))?;
        self.0.store.sync().await.map_err(|e| self.fail(&e))?;
        let read_back = self.read_share(core)?;
        Ok(ShareSecret::new(&read_back))
    }

    /// The share for a certificate, unsealed.
    ///
    /// # Errors
    /// `storage_failed` when it is not there or cannot be opened.
    pub(crate) fn read_share(&self, core: &CertificateCore) -> Result<Zeroizing<[u8; 32]>, Refusal> {
        let lost = |what: String| {
            let message = format!("{} has no usable share of key `{}`: {what}", self.name_of(self.0.me), core.name);
            Refusal::new(ErrorCode::StorageFailed, message)
        };
        let key = private::share(&core.key, core.version, core.epoch);
        let bytes = self.0.store.get(Column::Private, &key).map_err(|e| self.fail(&e))?;
        let bytes = bytes.ok_or_else(|| lost("there is no record".to_owned()))?;
        let record: ShareRecord = decode(&bytes).map_err(|e| lost(e.to_string()))?;
        if record.core != core.digest() {
            return Err(lost("the record belongs to another result of the generation".to_owned()));
        }
        self.0.vault.open(record_id(&core.key, core.version, core.epoch), &record.sealed.0).map_err(lost)
    }

    /// Erases all shares of a version below an epoch for good.
    pub(crate) async fn erase_shares_below(
        &self,
        key: &KeyId,
        version: KeyVersion,
        below: Epoch,
    ) -> Result<(), Refusal> {
        let own = private::shares_of(key, version);
        let mut after = Vec::new();
        loop {
            let page = self.0.store.scan(Column::Private, &own, &after, 256).map_err(|e| self.fail(&e))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            for (record, _) in page {
                let epoch: Epoch = Wire::take(&mut Reader::new(record.get(own.len()..).unwrap_or_default()))?;
                if epoch < below {
                    self.erase_share(key, version, epoch).await?;
                }
            }
        }
    }

    /// Erases a share for good.
    pub(crate) async fn erase_share(&self, key: &KeyId, version: KeyVersion, epoch: Epoch) -> Result<(), Refusal> {
        let id = record_id(key, version, epoch);
        let intent = private::erase_intent(&Digest::from_bytes(id));
        let mut batch = Batch::default();
        batch.put(Column::Private, intent.clone(), private::share(key, version, epoch));
        self.0.store.write(batch).map_err(|e| self.fail(&e))?;
        self.0.store.sync().await.map_err(|e| self.fail(&e))?;
        self.finish_erasure(&intent, &private::share(key, version, epoch), id).await
    }

    async fn finish_erasure(&self, intent: &[u8], record: &[u8], id: [u8; 32]) -> Result<(), Refusal> {
        let key: KeyId = Wire::take(&mut Reader::new(record.get(1..).unwrap_or_default()))?;
        lock(&self.0.keys).remove(&key);
        let erased = match self.0.vault.erase(id) {
            Ok(()) => self.0.vault.synced().await,
            Err(what) => Err(what),
        };
        erased.map_err(|what| {
            self.stop(format!("a key slot cannot be overwritten: {what}"));
            Refusal::new(ErrorCode::StorageFailed, what)
        })?;
        let mut batch = Batch::default();
        batch.remove(Column::Private, record.to_vec());
        batch.remove(Column::Private, intent.to_vec());
        self.0.store.write(batch).map_err(|e| self.fail(&e))?;
        self.0.store.sync().await.map_err(|e| self.fail(&e))
    }

    /// Finishes erasures that a crash interrupted.
    pub(crate) async fn finish_erasures(&self) -> Result<(), Refusal> {
        let intents =
            self.0.store.scan(Column::Private, private::ERASE_INTENTS, b"", 1024).map_err(|e| self.fail(&e))?;
        for (intent, record) in intents {
            if let Some(id) = intent.get(1..).and_then(|id| id.try_into().ok()) {
                self.finish_erasure(&intent, &record, id).await?;
            }
        }
        Ok(())
    }

    /// Share records of attempts that are over without a key, and of versions that failed.
    pub(crate) fn orphaned_shares(&self, limit: usize) -> Result<Vec<(KeyId, KeyVersion, Epoch)>, StoreFault> {
        let mut orphans = Vec::new();
        let mut after = Vec::new();
        loop {
            let page = self.0.store.scan(Column::Private, private::SHARES, &after, 256)?;
            let Some((last, _)) = page.last() else { return Ok(orphans) };
            after.clone_from(last);
            for (key, _) in page {
                let mut reader = Reader::new(key.get(1..).unwrap_or_default());
                let (id, (number, epoch)): (KeyId, (KeyVersion, Epoch)) = Wire::take(&mut reader)?;
                if self.is_orphan(&id, number, epoch)? {
                    orphans.push((id, number, epoch));
                }
                if orphans.len() >= limit {
                    return Ok(orphans);
                }
            }
        }
    }

    fn is_orphan(&self, key: &KeyId, version: KeyVersion, epoch: Epoch) -> Result<bool, StoreFault> {
        let record: Option<VersionRecord> = read(&self.tables(), &replicated::version(key, version))?;
        let Some(record) = record else {
            // A node that lags keeps what it does not understand yet.
            return Ok(false);
        };
        // Not at once: were this node shown another history than its peers, its share might still be needed.
        let committed = record.certificate.as_ref().filter(|c| c.heads.len() > self.voters().len() / 2);
        let replaced = committed.is_some_and(|c| c.core.epoch != epoch);
        let old = self.now_ms() >= record.created_ms.saturating_add(ORPHAN_MS);
        // Of a generation only: what a redistribution left are shares of the key, and are erased when a later epoch is final.
        let of_generation = |attempt: &AttemptRecord| attempt.trigger == Trigger::Generate && attempt.fault.is_some();
        let ended = record.attempts.iter().any(|attempt| attempt.epoch == epoch && of_generation(attempt));
        Ok((ended && replaced) || (record.state == KeyState::Failed && old))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rand_core::OsRng;

    use super::*;
    use crate::core::door::bench::{MemoryStore, voter_with};
    use crate::seal::{FileVault, KeyFile, SlotFile};

    const CLUSTER: [u8; 32] = [0xc1; 32];
    const NODE: u16 = 2;

    /// More shares than one page of the store.
    const SHARES: u32 = 300;

    /// Stages a share, as far as its slot and, if told, its record. Returns the slot's name.
    fn stage(vault: &FileVault, store: &MemoryStore, epoch: u32, recorded: bool) -> [u8; 32] {
        let (key, version, epoch) = (KeyId::from_bytes([3; 32]), KeyVersion::FIRST, Epoch::new(epoch).unwrap());
        let id = record_id(&key, version, epoch);
        let sealed = vault.seal(id, &[5; 32]).unwrap();
        if recorded {
            let record = ShareRecord { core: Digest::from_bytes([4; 32]), sealed: Bytes(sealed) };
            let mut batch = Batch::default();
            batch.put(Column::Private, private::share(&key, version, epoch), encode(&record));
            store.write(batch).unwrap();
        }
        id
    }

    #[tokio::test]
    async fn a_start_erases_the_slots_without_a_record_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let seal = KeyFile::at(directory.path().join("seal.key")).create(&mut OsRng).unwrap();
        let path = directory.path().join("slots");
        let vault = FileVault::new(SlotFile::create(&path, &seal, CLUSTER, NODE).unwrap()).unwrap();
        let store = MemoryStore::default();
        let recorded: BTreeSet<_> = (1..=SHARES).map(|epoch| stage(&vault, &store, epoch, true)).collect();
        let lone = [SHARES + 1, SHARES + 2].map(|epoch| stage(&vault, &store, epoch, false));
        vault.synced().await.unwrap();
        assert!(lone.iter().all(|id| vault.records().contains(id)), "the slots without a record are there");

        let _voter = voter_with(NODE, store, Box::new(vault)).await;
        // A copy says what is on disk; the file itself is locked.
        let copy = directory.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        let left: BTreeSet<_> = SlotFile::open(&copy, &seal, CLUSTER, NODE).unwrap().records().collect();
        assert!(left == recorded, "{} slots are left of {SHARES} with a record", left.len());
    }
}
