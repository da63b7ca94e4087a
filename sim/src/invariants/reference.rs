//! The state that every honest node must have after an entry: the same `apply`, run at once and never interrupted.

use std::collections::BTreeSet;
use std::rc::Rc;

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::entry::LogEntry;
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::{Digest, KeyId, KeyVersion};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::schema::replicated;
use symbolon_protocol::state::records::{self, KeyRecord, OperationRecord, VersionRecord};
use symbolon_protocol::state::{self, Applied, running_operations};
use symbolon_protocol::table::{OrderedWrites, Overlay, StoreFault, Tables as _, read, write_to};
use symbolon_protocol::wire::decode;

use super::{NODE_RUNS, Violation, safety};
use crate::disk::Map;

/// The state and what it was made by.
pub(crate) struct Reference {
    genesis: Genesis,
    tables: Map,
    begun: BTreeSet<(KeyId, KeyVersion)>,
    known: Vec<Rc<Known>>,
}

/// What an entry did to the one state that everybody has.
pub(crate) struct Known {
    /// Root of the history before it.
    pub(crate) before: Option<Digest>,
    pub(crate) applied: Applied,
    pub(crate) writes: OrderedWrites,
}

fn failed(fault: &StoreFault) -> Violation {
    safety(NODE_RUNS, format!("the reference state: {fault}"))
}

impl Reference {
    pub(super) fn new(genesis: Genesis) -> Self {
        Self { tables: records::initial(&genesis), genesis, begun: BTreeSet::new(), known: Vec::new() }
    }

    pub(super) fn apply(&mut self, index: u64, entry: LogEntry<'_>) -> Result<Applied, Violation> {
        let mut overlay = Overlay::new(&self.tables);
        let applied = state::apply(&mut overlay, &self.genesis, index, entry).map_err(|fault| failed(&fault))?;
        let writes = overlay.into_writes();
        write_to(&mut self.tables, writes.clone());
        let before = self.known.last().map(|known| known.applied.root);
        self.known.push(Rc::new(Known { before, applied: applied.clone(), writes }));
        Ok(applied)
    }

    /// What an entry did, so that not every node has to verify the same signatures again.
    pub(crate) fn known(&self, index: u64) -> Option<Rc<Known>> {
        self.known.get(usize::try_from(index).ok()?).cloned()
    }

    /// Whether the generation of a version was reported as begun before; remembers that it was now.
    pub(super) fn was_seen(&mut self, key: &KeyId, version: KeyVersion) -> bool {
        !self.begun.insert((*key, version))
    }

    /// A version.
    pub(crate) fn version(&self, key: &KeyId, version: KeyVersion) -> Result<Option<VersionRecord>, Violation> {
        read(&self.tables, &replicated::version(key, version)).map_err(|fault| failed(&fault))
    }

    pub(super) fn core(&self, key: &KeyId, version: KeyVersion) -> Result<CertificateCore, Violation> {
        let record = self.version(key, version)?;
        let certificate = record.and_then(|record| record.certificate);
        certificate.map(|c| c.core).ok_or_else(|| safety(NODE_RUNS, "an active version has no certificate"))
    }

    /// Whether the attempt that runs has another roster than the one that ended last.
    pub(super) fn has_new_roster(&self, key: &KeyId, version: KeyVersion) -> Result<bool, Violation> {
        let record = self.version(key, version)?;
        Ok(record.is_some_and(|record| record.attempts.last().is_some_and(|last| last.roster != record.roster)))
    }

    /// State time, milliseconds since 1970.
    pub(crate) fn time_ms(&self) -> Result<u64, Violation> {
        records::cluster(&self.tables).map(|cluster| cluster.time_ms).map_err(|fault| failed(&fault))
    }

    /// Whether shares of a version may be gone: its destruction is due or done.
    pub(super) fn may_be_erased(&self, key: &KeyId, version: KeyVersion) -> Result<bool, Violation> {
        let Some(record) = self.version(key, version)? else { return Ok(false) };
        let now_ms = self.time_ms()?;
        let due = record.destruction.as_ref().is_some_and(|destruction| destruction.at_ms <= now_ms);
        Ok(record.state == KeyState::Destroyed || (record.state == KeyState::Destroying && due))
    }

    /// Whether a version has a certificate: what ends then was a redistribution.
    pub(super) fn is_active(&self, key: &KeyId, version: KeyVersion) -> Result<bool, Violation> {
        Ok(self.version(key, version)?.is_some_and(|record| record.certificate.is_some()))
    }

    /// Whether a version is not being destroyed.
    pub(super) fn still_signs(&self, key: &KeyId, version: KeyVersion) -> Result<bool, Violation> {
        Ok(self.version(key, version)?.is_some_and(|record| record.destruction.is_none()))
    }

    /// Whether every holder of the epoch that signs activated it, so that nobody needs earlier shares.
    pub(super) fn is_final(&self, key: &KeyId, version: KeyVersion) -> Result<bool, Violation> {
        Ok(self.version(key, version)?.is_some_and(|record| record.is_final()))
    }

    /// Share operations that are not finished.
    pub(crate) fn operations(&self) -> Result<Vec<OperationRecord>, Violation> {
        running_operations(&self.tables, 64).map_err(|fault| failed(&fault))
    }

    /// How many they are.
    pub(crate) fn running(&self) -> Result<usize, Violation> {
        self.operations().map(|list| list.len())
    }

    /// Whether the certificate of a version has all of its votes.
    pub(super) fn is_certified(&self, core: &CertificateCore) -> Result<bool, Violation> {
        let Some(record) = self.version(&core.key, core.version)? else { return Ok(false) };
        let certificate = records::certificate(&self.tables, &core.key, &record).map_err(|fault| failed(&fault))?;
        Ok(certificate.is_some_and(|certificate| certificate.is_complete(self.genesis.voters().len())))
    }

    /// All keys, each with its current version.
    pub(crate) fn keys(&self) -> Result<Vec<(KeyRecord, Option<VersionRecord>)>, Violation> {
        let mut keys = Vec::new();
        for (_, value) in self.tables.scan(replicated::KEYS, b"", usize::MAX).map_err(|fault| failed(&fault))? {
            let key: KeyRecord = decode(&value).map_err(|error| failed(&error.into()))?;
            let current = match key.current {
                Some(number) => self.version(&key.id, number)?,
                None => None,
            };
            keys.push((key, current));
        }
        Ok(keys)
    }
}
